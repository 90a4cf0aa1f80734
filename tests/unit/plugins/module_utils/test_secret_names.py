# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names and values that are credentials, and their near misses."""

from __future__ import annotations

import random

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _secret_names as core

CREDENTIALS = """
DB_PASSWORD POSTGRES_PASSWORD PGPASSWORD MYSQL_PWD SMTP_PASS dbPassword requirepass JWT_SECRET SECRET_KEY APP_KEY OPENAI_API_KEY
OPENAI_KEY AWS_SECRET_ACCESS_KEY GITHUB_TOKEN TOKEN_GITHUB API_TOKENS API_KEYS FERNET_KEY PASSWORD_HASH DB_PASSWORD_2 DB_PASSWORD2
NEXTAUTH_SECRET SESSION_SECRET_KEY AUTH_SALT SSH_PRIVATE_KEY gateway-pepper WEBUI_SECRET_KEY MINIO_ROOT_PASSWORD client_secret
REDIS_PASSWORD_PROD MASTER_KEY authToken apiKey SECRET_KEY_BASE PASSWORD_APP SERVICE_ROLE_KEY PASSWORD SECRET TOKEN PASS CREDENTIALS
N8N_ENCRYPTION_KEY MEILI_MASTER_KEY HTTP_PROXY_PASSWORD TLS_KEY GOOGLE_APPLICATION_CREDENTIALS db.password spring.datasource.password
""".split()
OTHERS = """
DB_PASSWORD_FILE PUBLIC_KEY KEY_ID PRIMARY_KEY AWS_ACCESS_KEY_ID MAX_TOKENS MAX_TOKEN TOKEN_TTL PASSWORD_MIN_LENGTH PWD OLDPWD
SECRET_NAME SECRETS_DIR TOKENIZER TOKENIZERS_PARALLELISM PASSWORD_ENCRYPTION PASSWORDLESS KEYBOARD MONKEY CACHE_KEY SITE_KEY
STRIPE_PUBLISHABLE_KEY BYPASS COMPASS PASS_THROUGH KEY SORT_KEY ENABLE_PASSWORD_AUTH REQUIRE_PASSWORD NUM_TOKENS TOKEN_LIMIT
PASSWORD_RESET_URL JWT_PUBLIC_KEY JWT_SECRET_PATH SECRETARY TOKEN_URL CSRF_COOKIE_NAME KEY_PREFIX VAPID_PUBLIC_KEY SSH_PUBLIC_KEY
AUTHORIZED_KEYS TLS_KEY_PATH TOKEN_ISSUER PASSWORD_HASHERS PARTITION_KEY SECRETS_PROVIDER ALLOW_EMPTY_PASSWORD API_URL PATH HOME
""".split()


@pytest.mark.parametrize("name", CREDENTIALS)
def test_names_of_credentials(name):
    assert core.credential_name(name)


@pytest.mark.parametrize("name", OTHERS)
def test_names_that_only_look_like_it(name):
    assert not core.credential_name(name)


@pytest.mark.parametrize("name", ["", "=", "_", "9", "é", "A" * 300 + "_PASSWORD", "\ud800"])
def test_no_name_at_all(name):
    assert not core.credential_name(name)


LITERALS = [
    ("DB_PASSWORD", "hunter2", True), ("DB_PASSWORD", "123456", True), ("DB_PASSWORD", '"quoted"', True),
    ("DB_PASSWORD", "/9jAbc+/xdef==", True), ("DB_PASSWORD", "vault-of-iron", True), ("DB_PASSWORD", "true-love", True),
    ("API_KEY", "30", False), ("DB_PASSWORD", "/run/secrets/db", False), ("DB_PASSWORD", "${X}", False),
    ("DB_PASSWORD", "${X:-foo}", False), ("DB_PASSWORD", "{{ x }}", False), ("JWT_SECRET", "vault:secret/data/x#y", False),
    ("JWT_SECRET", "op://vault/item/field", False), ("JWT_SECRET", "arn:aws:secretsmanager:eu-1:1:secret:x", False),
    ("DB_PASSWORD", "true", False), ("DB_PASSWORD", "", False), ("TLS_KEY", "./certs/key.pem", False),
    ("TLS_KEY", "tls.key", False), ("AUTH_TOKEN", "https://x", False), ("JWT_SECRET", "ENC[AES256_GCM,data:x]", False),
    ("GPG_KEY", "A035C8C19219BA821ECEA86B64E628F8D684696D", False), ("LOG_LEVEL", "hunter2", False),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "literal"), LITERALS)
def test_literal_credentials(name, value, literal):
    assert core.literal_credential(name, value) is literal


#: URL -> user and password, or None.
URLS = {
    "postgres://app:s3cr%40t!@db:5432/app": ("app", "s3cr%40t!"),
    "postgres://u:p@ss@db/app": ("u", "p@ss"),
    "postgres://u:pa/ss@db/app": ("u", "pa/ss"),
    "postgres://u:p@w/o@db/x": ("u", "p@w/o"),
    "postgresql+asyncpg://u:p#w?x@db/x": ("u", "p#w?x"),
    "redis://:pw!%x@cache:6379/0": ("", "pw!%x"),
    "mongodb://u:pw@h1:27017,h2:27017/x?replicaSet=r": ("u", "pw"),
    "smtp://user%40x.de:pw@mail:587": ("user%40x.de", "pw"),
    "amqp://guest:guest@rabbit": ("guest", "guest"),
    "http://u:pw@h:8080/a@b": ("u", "pw"),
    "see https://u:pw@h/ for more": ("u", "pw"),
    "https://ghp_abcdefghij0123456789@github.com/x.git": ("", "ghp_abcdefghij0123456789"),
    "jdbc:postgresql://h/db?user=x&password=yyy": ("", "yyy"),
    "host=db user=x password=yyy dbname=z": ("", "yyy"),
    "Server=db;User Id=sa;Password=Yx1!;": ("", "Yx1!"),
    "https://h/path?token=abc": ("", "abc"),
    "u:p@w:x@tcp(db:3306)/app": ("u", "p@w:x"),
    "u:pw@unix(/run/mysqld.sock)/app?parseTime=true": ("u", "pw"),
    "https://u:pw@[::1]:80/": ("u", "pw"),
    # near misses
    "u:${PW}@tcp(db:3306)/app": None,
    "u@tcp(db:3306)/app": None,
    "postgres://app@db:5432/app": None,
    "postgres://u:${PW}@db/x": None,
    "postgres://u:$PW@db/x": None,
    "postgres://u:{{ pw }}@db/x": None,
    "postgres://u:@db/x": None,
    "https://example.com/?email=a@b.com": None,
    "https://example.com:8080/u@x": None,
    "https://host/a:b@c": None,
    "https://0123456789abcdef0123456789abcdef@o0.ingest.sentry.io/1": None,
    "http://user:***@h/": None,
    "http://user:<password>@h/": None,
    "http://{user}:{password}@h": None,
    "mailto:a@b.c": None,
    "git@github.com:x/y.git": None,
    "http://[::1]:80/x@y": None,
    "http://localhost:3000": None,
    "a=b;password=c": ("", "c"),
    "password=c": None,
    "": None,
}


@pytest.mark.parametrize(("url", "found"), URLS.items())
def test_credentials_in_urls(url, found):
    answer = core.credential_in_url(url)
    assert (answer and (answer.user, answer.password)) == found


#: Beginnings are kept apart from the rest, so that this file holds no token that somebody would have to look after.
TOKENS = [
    "sk" + "_live_" + "a1B2" * 6,
    "SK" + "0123abcd" * 4,
    "SG." + "a1B2c3D4" * 2 + "a1B2c3." + "e5F6" * 10,
    "sq0" + "csp-" + "a1B2c3D4" * 5,
    "0123abcd" * 4 + "-us12",
    "110201543:" + "AAHdq" * 7,
    "M" + "a1B2c3D4" * 2 + "a1B2c3D." + "a1B2c3." + "a1B2c3D" * 4,
    "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxIn0." + "a1B2c3D4" * 4,
    "//packages.example.org/:_auth" + "Token=a1B2c3D4",
    "DefaultEndpointsProtocol=https;AccountName=x;Account" + "Key=" + "a1B2" * 20 + "==;EndpointSuffix=x",
    "https://hooks.slack.com/services/" + "T01/B02/a1B2c3",
    "https://discord.com/api/webhooks/" + "12345/a1B2c3",
]
NO_TOKENS = [
    "sk_test_" + "a1B2" * 6,
    "sha256:" + "0123abcd" * 8,
    "0123abcd" * 5,
    "SKU-0123",
    "12345678:30",
    "//packages.example.org/:_authToken=${NPM_TOKEN}",
    "https://hooks.slack.com/services/",
    "eyJhbGciOiJIUzI1NiJ9",
]


@pytest.mark.parametrize("text", TOKENS)
def test_a_token_is_told_by_its_form(text):
    assert core.known_token(text)


@pytest.mark.parametrize("text", NO_TOKENS)
def test_what_only_looks_like_a_token(text):
    assert not core.known_token(text)


def test_a_found_url_does_not_show_its_password():
    assert "pw" not in repr(core.credential_in_url("http://u:pw@h"))


@pytest.mark.parametrize("seed", range(30))
def test_any_text_has_an_answer(seed):
    numbers = random.Random(seed)
    pieces = [
        "://",
        "@",
        ":",
        "/",
        "a",
        "%",
        "?",
        "#",
        "password=",
        ";",
        "[",
        "]",
        "${",
        "}",
        "é",
        "\ud800",
        "\n",
        "1",
        "http",
        " ",
    ]
    text = "".join(numbers.choice(pieces) for _unused in range(200))
    core.credential_in_url(text)
    core.literal_credential("DB_PASSWORD", text)
    core.credential_name(text)


@pytest.mark.parametrize(
    "text", ["a://" * 20_000, "a://u:p@" * 10_000, "?token=" * 10_000, "/a" * 30_000, "A" * 60_000, "host=" * 10_000]
)
def test_long_texts_have_an_answer(text):
    core.credential_in_url(text)
    core.literal_credential("DB_PASSWORD", text)
    core.known_token(text)
