# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A clean project and a clean store of secrets; each case weakens one thing, and exactly that is found."""

from __future__ import annotations

import base64
import copy
import datetime
import hashlib
import json
import random
import struct

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _audit_env as core
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import LocalFiles, MemoryFiles, Stat

STORE = "/run/mcpstack/secrets"
PASSWORD = "kQ7vTzL2mXw9RbN4cHf6YdJp3sGa8uEt5xVnZr1K"
TOKEN = "9d41f6b28c3e75a0d2b94e8f16c7a35be08d74f2c961a53b7fe40d8c2b965a13"
PEPPER = "1:5b8e02d7c4f91a63e8d07b2c5f94a61308de7c2b49f6a1508c3d7e92b4f6a051"
OTHER = "wM8nZq3LpX6vTb9KcR2yHs5JfD7gAu4EiN1oYtVx"

ENV = """# settings of the application
APP_NAME=demo
LOG_LEVEL=info
DB_PASSWORD_FILE=/run/secrets/db-password/current
DATABASE_URL=postgres://app@db:5432/app
PUBLIC_KEY=MFkwEwYHKoZIzj0CAQ
AWS_ACCESS_KEY_ID=AKIA2E0A8F3B244C9986
JWT_PUBLIC_KEY=abc
MAX_TOKENS=4096
TOKEN_TTL=3600
SMTP_PASSWORD=
REQUIRE_AUTH=true
SENTRY_DSN=https://0123456789abcdef0123456789abcdef@o1.ingest.sentry.io/42
"""
COMPOSE = """services:
  app:
    image: demo
    environment:
      APP_NAME: ${APP_NAME}
      REQUIRE_AUTH: ${REQUIRE_AUTH}
"""


def index(*names):
    """A git index of version 2."""
    out = b"DIRC" + struct.pack(">II", 2, len(names))
    for name in sorted(names):
        raw = name.encode()
        entry = bytes(60) + struct.pack(">H", min(len(raw), 0xFFF)) + raw
        out += entry + bytes(8 - len(entry) % 8)
    return out + bytes(20)


class Place:
    """Files with modes and owners; a clean one to begin with."""

    def __init__(self):
        self.files = {
            "/srv/app/.env": ENV,
            "/srv/app/compose.yml": COMPOSE,
            "/srv/app/Dockerfile": "FROM demo\nCOPY . /app\n",
            "/srv/app/.dockerignore": ".env*\n",
            "/srv/app/.gitignore": "*.log\n.env*\n!.env.example\n",
            "/srv/app/.git/index": index("compose.yml", ".gitignore"),
            "/etc/mcpstack/secrets.json": json.dumps(
                {"secrets": {"gateway-db": {"current": 2, "versions": {"2": {"created": "2026-01-01T00:00:00Z"}}}}}
            ),
        }
        self.stats = {
            "/srv/app/.env": Stat("file", 0o600, 1000, 1000, len(ENV)),
            "/srv/app": Stat("directory", 0o755, 1000, 1000),
            "/srv/app/.git": Stat("directory", 0o755, 1000, 1000),
            STORE: Stat("directory", 0o711),
        }
        self.secret("gateway", "gateway-db", f"gateway_a:{PASSWORD}", 64102)
        self.secret("gateway", "pepper", PEPPER, 64102)
        self.secret("gateway", "model-api-key", TOKEN, 64102)
        self.secret("runner", "model-api-key", TOKEN, 64103)
        self.arguments = {
            "env_files": ["/srv/app/.env"],
            "secret_directories": [STORE],
            "consumers": {f"{STORE}/gateway": 64102, f"{STORE}/runner": 64103},
            "search": ["/srv/app"],
            "vcs_root": "/srv/app",
            "manifest": "/etc/mcpstack/secrets.json",
            "max_age_days": 400,
            "today": datetime.date(2026, 6, 1),
            "context": ["acme"],
        }

    def secret(self, service, name, value, uid, mode=0o400):
        directory = f"{STORE}/{service}"
        self.stats[directory] = self.stats[f"{directory}/{name}"] = Stat("directory", 0o500, uid, uid)
        for version in ("v1", "current"):
            self.write(f"{directory}/{name}/{version}", value, mode, uid)

    def write(self, path, value, mode=0o644, uid=0):
        self.files[path] = value
        self.stats[path] = Stat("file", mode, uid, uid, len(value))

    def env(self, *lines):
        text = self.files["/srv/app/.env"]
        self.files["/srv/app/.env"] = text + "".join(f"{line}\n" for line in lines)

    def stat(self, path, **changes):
        before = self.stats.get(path) or Stat("directory", 0o755)
        self.stats[path] = Stat(
            **{name: changes.get(name, getattr(before, name)) for name in ("kind", "mode", "uid", "gid", "size")}
        )

    def run(self):
        return core.audit(MemoryFiles(self.files, self.stats, roots=("/",)), **self.arguments)


def ids(result):
    return {(item["id"], item["where"]) for item in result["findings"]}


def states(result):
    return {item["id"]: item["status"] for item in result["checks_run"]}


def test_the_clean_place_passes_every_check():
    result = Place().run()
    assert result["findings"] == []
    assert states(result) == dict.fromkeys(core.DECIDES, "pass")


LINE = len(ENV.splitlines()) + 1
HERE = f"/srv/app/.env:{LINE}"
DB = f"{STORE}/gateway/gateway-db"
KEY = f"{STORE}/runner/model-api-key"

#: One line more in the env file -> what is found. Every value is strong unless the case is about its strength.
LINES = [
    (f"DB_PASSWORD={OTHER}", {("SEC-01", HERE)}),
    (f"export DB_PASSWORD={OTHER}", {("SEC-01", HERE), ("SEC-13", HERE)}),
    (f'db_password="{OTHER}"', {("SEC-01", HERE)}),
    (f"GITHUB_TOKEN={OTHER}", {("SEC-01", HERE)}),
    (f"jwtSecret={OTHER}", {("SEC-01", HERE)}),
    (f"AWS_SECRET_ACCESS_KEY={OTHER}", {("SEC-01", HERE)}),
    (f"OPENAI_API_KEY=sk-proj-{OTHER}", {("SEC-01", HERE)}),
    (f"REGISTRY=ghp_{OTHER}", {("SEC-01", HERE)}),
    (f"DB_PASSWORD=/{OTHER}+/x==", {("SEC-01", HERE)}),
    (f"CACHE_URL=redis://:{OTHER}@cache:6379/0", {("SEC-02", HERE)}),
    (f"X=postgres://app:{OTHER}!@db/app", {("SEC-02", HERE)}),
    (f"X=postgres://app:{OTHER}%40@db/app", {("SEC-02", HERE)}),
    (f"X=postgres://app:{OTHER}@9@db/app", {("SEC-02", HERE)}),
    (f"X=postgres://app:{OTHER}/9@db/app", {("SEC-02", HERE)}),
    (f"X=host=db user=app password={OTHER}", {("SEC-02", HERE)}),
    (f"DB_PASSWORD_URL=amqp://app:{OTHER}@mq", {("SEC-02", HERE)}),
    ("DB_PASSWORD=CHANGE_ME", {("SEC-01", HERE), ("SEC-04", HERE)}),
    ("DB_PASSWORD=CHANGE_ME_IN_PRODUCTION_32_CHARS_LONG", {("SEC-01", HERE), ("SEC-04", HERE)}),
    ("DB_PASSWORD=ch4ng3m3", {("SEC-01", HERE), ("SEC-04", HERE)}),
    ("API_KEY=your-api-key-here", {("SEC-01", HERE), ("SEC-04", HERE)}),
    ("POSTGRES_PASSWORD=postgres", {("SEC-01", HERE), ("SEC-04", HERE)}),
    ("MINIO_SECRET_KEY=minioadmin", {("SEC-01", HERE), ("SEC-04", HERE)}),
    ("OPENAI_API_KEY=sk-xxxxxxxxxxxxxxxxxxxxxxxx", {("SEC-01", HERE), ("SEC-04", HERE)}),
    ("X=amqp://guest:guest@mq/", {("SEC-02", HERE), ("SEC-04", HERE)}),
    ("DB_PASSWORD=P@ssw0rd2024!", {("SEC-01", HERE), ("SEC-05", HERE)}),
    ("DB_PASSWORD=Summer2026!", {("SEC-01", HERE), ("SEC-05", HERE)}),
    ("DB_PASSWORD=Acme-Corporation-2026!", {("SEC-01", HERE), ("SEC-05", HERE)}),
    ("DB_PASSWORD=qwertyuiopasdfghjkl", {("SEC-01", HERE), ("SEC-05", HERE)}),
    ("DB_PASSWORD=1qaz2wsx3edc4rfv5tgb6yhn", {("SEC-01", HERE), ("SEC-05", HERE)}),
    ("DB_PASSWORD=Xk2Xk2Xk2Xk2Xk2Xk2Xk2Xk2", {("SEC-01", HERE), ("SEC-05", HERE)}),
    ("DB_PASSWORD=123456", {("SEC-01", HERE), ("SEC-05", HERE)}),
    ("X=redis://:hunter42@cache", {("SEC-02", HERE), ("SEC-05", HERE)}),
    (f"DB_PASSWORD=pa$word{OTHER}", {("SEC-01", HERE), ("SEC-13", HERE)}),
    (f"DB_PASSWORD={OTHER} # the database", {("SEC-01", HERE), ("SEC-13", HERE)}),
    (f"DB_PASSWORD={OTHER};rm", {("SEC-01", HERE), ("SEC-13", HERE)}),
    (f"DB_PASSWORD={OTHER}`id`", {("SEC-01", HERE), ("SEC-13", HERE)}),
    (f"DB_PASSWORD={OTHER}\\n", {("SEC-01", HERE), ("SEC-13", HERE)}),
    (f"DB_PASSWORD = {OTHER}", {("SEC-01", HERE), ("SEC-13", HERE)}),
    ("APP_NAME=other", {("SEC-13", HERE)}),
    ('GREETING="never closed', {("SEC-13", HERE)}),
    ("a line of nothing", {("SEC-13", HERE)}),
    ("WINDOWS=yes\r", {("SEC-13", HERE)}),
    ("RATE_LIMIT_ENABLED=true", {("SEC-14", HERE)}),
    ("ENABLE_RATE_LIMITING=1", {("SEC-14", HERE)}),
    ("FORCE_HTTPS=yes", {("SEC-14", HERE)}),
    ("TLS_VERIFY=strict", {("SEC-14", HERE)}),
    # near misses
    ("OTHER_PASSWORD=${DB_PASSWORD}", set()),
    ("OTHER_PASSWORD=$DB_PASSWORD", set()),
    ("VAULT_TOKEN=vault:secret/data/app#token", set()),
    ("OTHER_PASSWORD_FILE=/run/secrets/other", set()),
    ("TLS_KEY=/etc/ssl/private/key.pem", set()),
    ("SSH_PRIVATE_KEY=./keys/id_ed25519", set()),
    ("PASSWORD_MIN_LENGTH=15", set()),
    ("PASSWORD_ENCRYPTION=scram-sha-256", set()),
    ("ALLOW_EMPTY_PASSWORD=no", set()),
    ("PRIMARY_KEY=user_id", set()),
    ("KEY_ID=2026-01", set()),
    ("STRIPE_PUBLISHABLE_KEY=pk_live_abc", set()),
    ("GPG_KEY=A035C8C19219BA821ECEA86B64E628F8D684696D", set()),
    ("X=postgres://app:${DB_PASSWORD}@db/app", set()),
    ("X=postgres://app@db/app?sslmode=verify-full", set()),
    ("X=https://example.org/?mail=a@example.org", set()),
    ("X=http://[::1]:8080/a@b", set()),
    ("TITLE=change me if you like", set()),
    ('GREETING="don\'t worry"', set()),
    ("PRICE='$5'", set()),
    ("APP_NAME=demo", set()),  # twice the same
    ("BARE", set()),
    ("AUTH_URL=https://sso.example.org", set()),
]


@pytest.mark.parametrize(("line", "found"), LINES, ids=[line[:48] for line, _found in LINES])
def test_one_line_more_in_the_env_file(line, found):
    place = Place()
    place.env(line)
    assert ids(place.run()) == found


STORED = [
    ("CHANGE_ME", "SEC-04"),
    ("change-this-secret-before-going-live", "SEC-04"),
    ("insert-password-here", "SEC-04"),
    ("<generated by the installer>", "SEC-04"),
    ("${DB_PASSWORD}", "SEC-04"),
    ("{{ vault_db_password }}", "SEC-04"),
    ("dummy", "SEC-04"),
    ("dummy-secret-1", "SEC-04"),
    ("", "SEC-04"),
    ("\n", "SEC-04"),
    ("xxxxxxxxxxxxxxxx", "SEC-04"),
    ("admin", "SEC-04"),
    ("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "SEC-04"),
    ("00000000-0000-0000-0000-000000000000", "SEC-04"),
    ("gateway_a:CHANGE_ME_NOW_PLEASE_0123456789", "SEC-04"),
    ("P@ssw0rd2024!", "SEC-05"),
    ("acme2026!", "SEC-05"),
    ("gateway_a:Summer2026!", "SEC-05"),
    ("correcthorse", "SEC-05"),
    ("abcabcabcabcabcabcabcabcabcabcabc", "SEC-05"),
    ("12345678901234567890", "SEC-05"),
    ("0123456789abcdef0123456789abcdef", "SEC-05"),
    ("a" * 5000, "SEC-05"),
    ("9f2c", "SEC-05"),
    # near misses
    ("f04a792b68a7a87e82dc0aff890d0394", None),
    ("3f2b8c1e-9d47-4a6b-8e05-7c1d92f4ab36", None),
    ("7Q8cOshlG56UrlMKzUkqd0aXdgzE96ibXJs8Cuc7Yo4=", None),
    ("unpaved cosmic lisp tundra oboe", None),
    ("example-sample-insert-dummy-tundra-oboe-lisp-cosmic", None),
    ("$2b$12$R9h/cIPz0gi.URNNX3kh2OPST9/PgBkqquzi.Ss7KIUgO2t0jWMUW", None),
    ("-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA\n-----END PRIVATE KEY-----\n", None),
    ("admin:$apr1$x9Qz2k1L$0T5dYbqYw1", None),
    (b"\xff\xfe\x00\x80" * 8, None),
    (OTHER + "\n", None),
]


@pytest.mark.parametrize(("value", "found"), STORED, ids=[repr(value)[:40] for value, _found in STORED])
def test_one_secret_of_the_store_is_another(value, found):
    place = Place()
    place.secret("gateway", "gateway-db", value, 64102)
    assert ids(place.run()) == ({(found, f"{DB}/current")} if found else set())


def chmod(path, mode):
    return lambda place: place.stat(path, mode=mode)


def chown(path, uid):
    return lambda place: place.stat(path, uid=uid)


def both(*changes):
    def apply(place):
        for change in changes:
            change(place)

    return apply


def with_secret(*changes):
    """An env file with a credential, which SEC-01 reports, and then the changes."""
    return both(lambda place: place.env(f"DB_PASSWORD={OTHER}"), *changes)


def write(path, value, mode=0o644, uid=0):
    return lambda place: place.write(path, value, mode, uid)


def replace(path, old, new):
    def apply(place):
        text = place.files[path]
        place.files[path] = text.replace(old, new)

    return apply


def option(**changes):
    return lambda place: place.arguments.update(changes)


FIRST = ("SEC-01", HERE)
PLACES = {
    "everybody reads a secret": (chmod(f"{DB}/v1", 0o404), {("SEC-07", f"{DB}/v1")}),
    "the group reads a secret": (chmod(f"{DB}/v1", 0o440), {("SEC-07", f"{DB}/v1")}),
    "606, which a comparison of numbers lets pass": (chmod(f"{DB}/v1", 0o606), {("SEC-07", f"{DB}/v1")}),
    "execute only": (chmod(f"{DB}/v1", 0o411), {("SEC-07", f"{DB}/v1")}),
    "what current leads to": (chmod(f"{DB}/current", 0o444), {("SEC-07", f"{DB}/current")}),
    "another owner": (chown(f"{DB}/v1", 1234), {("SEC-07", f"{DB}/v1"), ("SEC-09", f"{DB}/v1")}),
    "root owns what the consumer reads": (chown(f"{DB}/v1", 0), {("SEC-09", f"{DB}/v1")}),
    "the consumer may not read": (chmod(f"{DB}/v1", 0o200), {("SEC-09", f"{DB}/v1")}),
    "the consumer cannot reach": (chmod(f"{STORE}/gateway", 0o400), {("SEC-09", f"{STORE}/gateway")}),
    "another uid consumes": (
        option(consumers={f"{STORE}/gateway": 64102, f"{STORE}/runner": 65534}),
        {("SEC-09", f"{KEY}/v1"), ("SEC-09", f"{KEY}/current"), ("SEC-09", KEY), ("SEC-09", f"{STORE}/runner")},
    ),
    "everybody replaces secrets": (chmod(STORE, 0o777), {("SEC-07", STORE)}),
    "a group replaces secrets": (lambda place: place.stat(STORE, mode=0o775, gid=50), {("SEC-07", STORE)}),
    "a foreign owner above": (chown("/run/mcpstack", 1234), {("SEC-07", "/run/mcpstack")}),
    "sticky": (chmod("/run", 0o1777), set()),
    "a group of one's own": (lambda place: place.stat("/srv/app", mode=0o775), set()),
    "the group of root": (chmod("/run", 0o775), set()),
    "an env file without a secret may be read": (chmod("/srv/app/.env", 0o644), set()),
    "and not be written": (chmod("/srv/app/.env", 0o666), {("SEC-07", "/srv/app/.env")}),
    "an env file with a secret": (with_secret(chmod("/srv/app/.env", 0o644)), {FIRST, ("SEC-07", "/srv/app/.env")}),
    "an env file of nobody we know": (
        with_secret(chown("/srv/app/.env", 77)),
        {FIRST, ("SEC-07", "/srv/app/.env"), ("SEC-07", "/srv/app")},
    ),
    "an env file of root": (with_secret(chown("/srv/app/.env", 0)), {FIRST, ("SEC-07", "/srv/app")}),
    "tracked": (
        with_secret(write("/srv/app/.git/index", index(".env", "compose.yml"))),
        {FIRST, ("SEC-08", "/srv/app/.env")},
    ),
    "tracked without a secret": (write("/srv/app/.git/index", index(".env", "compose.yml")), set()),
    "not ignored": (
        with_secret(replace("/srv/app/.gitignore", ".env*", "*.tmp")),
        {FIRST, ("SEC-08", "/srv/app/.env")},
    ),
    "ignored and taken in again": (
        with_secret(replace("/srv/app/.gitignore", "!.env.example", "!.env")),
        {FIRST, ("SEC-08", "/srv/app/.env")},
    ),
    "ignored by the other list": (
        with_secret(replace("/srv/app/.gitignore", ".env*\n", ""), write("/srv/app/.git/info/exclude", "/.env\n")),
        {FIRST},
    ),
    "another env file is tracked": (
        both(
            write("/srv/app/.git/index", index("deploy/prod.env")),
            write("/srv/app/deploy/prod.env", f"DB_PASSWORD={OTHER}\n"),
        ),
        {("SEC-08", "/srv/app/deploy/prod.env")},
    ),
    "a template is tracked": (
        both(
            write("/srv/app/.git/index", index(".env.example", "config/settings.env")),
            write("/srv/app/.env.example", "DB_PASSWORD=change-me\n"),
            write("/srv/app/config/settings.env", "DB_PASSWORD=\nLOG_LEVEL=debug\n"),
        ),
        set(),
    ),
    "a key is tracked": (
        both(
            write("/srv/app/.git/index", index("tls/server.key", "tls/server.pem")),
            write(
                "/srv/app/tls/server.key", "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----\n"
            ),
            write("/srv/app/tls/server.pem", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"),
        ),
        {("SEC-08", "/srv/app/tls/server.key")},
    ),
    "in the build context": (
        with_secret(replace("/srv/app/.dockerignore", ".env*", "*.md")),
        {FIRST, ("SEC-08", "/srv/app/.env")},
    ),
    "in the build context again": (
        with_secret(replace("/srv/app/.dockerignore", ".env*", ".env*\n!.env")),
        {FIRST, ("SEC-08", "/srv/app/.env")},
    ),
    "everything left out of the context": (with_secret(replace("/srv/app/.dockerignore", ".env*", "*")), {FIRST}),
    "a secret in the context of a directory above": (
        both(
            write("/srv/app/secrets/db-password", OTHER, 0o600, 1000),
            lambda place: place.stat("/srv/app/secrets", kind="directory", mode=0o700, uid=1000, gid=1000),
            option(secret_directories=["/srv/app/secrets"]),
            replace("/srv/app/.gitignore", "*.log", "*.log\nsecrets/"),
        ),
        {("SEC-08", "/srv/app/secrets/db-password")},
    ),
    "sourced": (
        write("/srv/app/deploy.sh", "#!/bin/sh\nset -a\n. ./.env\n"),
        {("SEC-13", "/srv/app/deploy.sh:3")},
    ),
    "sourced by its long name": (
        write("/srv/app/deploy.sh", 'source "$(dirname "$0")/.env"\nsource ${DIR}/.env\n'),
        {("SEC-13", "/srv/app/deploy.sh:2")},
    ),
    "exported through xargs": (
        write("/srv/app/deploy.sh", "export $(grep -v '^#' .env | xargs)\n"),
        {("SEC-13", "/srv/app/deploy.sh:1")},
    ),
    "only spoken of": (write("/srv/app/deploy.sh", "# never source .env\ncp .env.example .env\n"), set()),
    "handed to docker run, which keeps quotes": (
        both(
            lambda place: place.env('GREETING="hello you"'),
            write("/srv/app/run.sh", "docker run --env-file .env demo\n"),
        ),
        {("SEC-13", HERE)},
    ),
    "handed to docker compose": (
        both(
            lambda place: place.env('GREETING="hello you"'),
            write("/srv/app/run.sh", "docker compose --env-file .env up\n"),
        ),
        set(),
    ),
    "handed to a unit": (
        both(
            lambda place: place.env("GREETING=hello # you"),
            write("/srv/app/app.service", "[Service]\nEnvironmentFile=-/srv/app/.env\n"),
        ),
        {("SEC-13", HERE)},
    ),
    "a byte order mark": (
        lambda place: place.files.update({"/srv/app/.env": "\ufeff" + ENV}),
        {("SEC-13", "/srv/app/.env:1")},
    ),
    "a switch only in prose": (
        both(lambda place: place.env("MFA_REQUIRED=true"), write("/srv/app/README.md", "Set MFA_REQUIRED.\n")),
        {("SEC-14", HERE)},
    ),
    "a switch only in a comment": (
        both(lambda place: place.env("MFA_REQUIRED=true"), write("/srv/app/x.yml", "# MFA_REQUIRED\n")),
        {("SEC-14", HERE)},
    ),
    "a switch only in another env file": (
        both(lambda place: place.env("MFA_REQUIRED=true"), write("/srv/app/b.env", "MFA_REQUIRED=true\n")),
        {("SEC-14", HERE)},
    ),
    "a switch with a longer name": (
        both(lambda place: place.env("MFA_REQUIRED=true"), write("/srv/app/x.py", "MFA_REQUIRED_FOR\n")),
        {("SEC-14", HERE)},
    ),
    "a switch that a program reads": (
        both(lambda place: place.env("MFA_REQUIRED=true"), write("/srv/app/x.py", 'os.environ["MFA_REQUIRED"]\n')),
        set(),
    ),
    "reuse of a secret": (
        lambda place: place.secret("gateway", "other", TOKEN, 64102),
        {("SEC-06", f"{STORE}/gateway/other/current")},
    ),
    "reuse behind a login": (
        lambda place: place.secret("gateway", "reports-db", f"reports:{PASSWORD}", 64102),
        {("SEC-06", f"{STORE}/gateway/reports-db/current")},
    ),
    "reuse with a line end": (
        lambda place: place.secret("runner", "other", TOKEN + "\n", 64103),
        {("SEC-06", f"{STORE}/runner/other/current")},
    ),
    "reuse in an env file": (lambda place: place.env(f"JWT_SECRET={TOKEN}"), {FIRST, ("SEC-06", HERE)}),
    "one secret for its server and in its URL": (
        lambda place: place.env(f"POSTGRES_PASSWORD={OTHER}", f"DATABASE_URL2=postgresql://app:{OTHER}@db/app"),
        {FIRST, ("SEC-02", f"/srv/app/.env:{LINE + 1}")},
    ),
    "one secret under two spellings": (
        lambda place: place.env(f"REDIS_PASSWORD={OTHER}", f"VALKEY_PASS={OTHER}"),
        {FIRST, ("SEC-01", f"/srv/app/.env:{LINE + 1}")},
    ),
    "two secrets with one value": (
        lambda place: place.env(f"REDIS_PASSWORD={OTHER}", f"SESSION_SECRET={OTHER}"),
        {FIRST, ("SEC-01", f"/srv/app/.env:{LINE + 1}"), ("SEC-06", f"/srv/app/.env:{LINE + 1}")},
    ),
    "a backup that others read": (
        with_secret(write("/srv/app/.env.bak", "x", 0o644)),
        {FIRST, ("SEC-15", "/srv/app/.env.bak")},
    ),
    "a backup with a date": (
        with_secret(write("/srv/app/.env.20260101", "x", 0o640)),
        {FIRST, ("SEC-15", "/srv/app/.env.20260101")},
    ),
    "what an editor left": (with_secret(write("/srv/app/.env~", "x", 0o644)), {FIRST, ("SEC-15", "/srv/app/.env~")}),
    "a swap file": (with_secret(write("/srv/app/.env.swp", "x", 0o644)), {FIRST, ("SEC-15", "/srv/app/.env.swp")}),
    "a backup that nobody reads": (with_secret(write("/srv/app/.env.bak", "x", 0o600)), {FIRST}),
    "a template beside it": (with_secret(write("/srv/app/.env.example", "x", 0o644)), {FIRST}),
    "a backup of an env file without secrets": (write("/srv/app/.env.bak", "x", 0o644), set()),
    "a log with a value": (
        with_secret(write("/srv/app/app.log", f"connect {OTHER}\n")),
        {FIRST, ("SEC-15", "/srv/app/app.log")},
    ),
    "a log with a value elsewhere": (
        both(write("/var/log/app/x.log", f"connect {PASSWORD}\n"), option(logs=["/var/log/app"])),
        {("SEC-15", "/var/log/app/x.log")},
    ),
    "a log that nobody reads": (with_secret(write("/srv/app/app.log", f"connect {OTHER}\n", 0o600)), {FIRST}),
    "a log without a value": (with_secret(write("/srv/app/app.log", "connect ***\n")), {FIRST}),
    "an old secret": (option(max_age_days=100), {("SEC-15", "/etc/mcpstack/secrets.json")}),
    "a secret on its last day": (option(max_age_days=151), set()),
    "a certificate in the store": (
        write(f"{STORE}/gateway/tls.crt", "-----BEGIN CERTIFICATE-----\nMIIB\n", 0o644, 64102),
        set(),
    ),
}


@pytest.mark.parametrize(("change", "found"), PLACES.values(), ids=PLACES.keys())
def test_one_change_of_the_place(change, found):
    place = Place()
    change(place)
    assert ids(place.run()) == found


def test_evidence_is_what_a_person_needs():
    place = Place()
    place.env("DB_PASSWORD=CHANGE_ME", "API_TOKEN=Summer2026!", f"X=postgres://a:{OTHER}@db", "MFA_REQUIRED=true")
    place.stat(f"{DB}/v1", mode=0o646)
    place.secret("gateway", "other", TOKEN, 64102)
    found = {(item["id"], item["evidence"]) for item in place.run()["findings"]}
    assert found == {
        ("SEC-01", "DB_PASSWORD has a literal value"),
        ("SEC-01", "API_TOKEN has a literal value"),
        ("SEC-02", "X: a URL of postgres with a password"),
        ("SEC-04", "DB_PASSWORD is a placeholder"),
        ("SEC-05", "API_TOKEN is found after about 10^7 guesses, 10^14 are wanted"),
        ("SEC-06", f"other has the value of model-api-key at {STORE}/gateway/model-api-key/current"),
        ("SEC-07", "mode 0646, owner 64102:64102: the group may read, everybody may read, everybody may write"),
        ("SEC-14", "MFA_REQUIRED is mentioned in none of 4 files"),
    }


def test_severity_has_tiers_where_the_place_does():
    place = Place()
    with_secret(replace("/srv/app/.gitignore", ".env*", "*.tmp"))(place)
    assert [item["severity"] for item in place.run()["findings"] if item["id"] == "SEC-08"] == ["high"]
    with_secret(write("/srv/app/.git/index", index(".env")))(place := Place())
    assert [item["severity"] for item in place.run()["findings"] if item["id"] == "SEC-08"] == ["critical"]


def test_a_template_is_judged_the_other_way_round():
    place = Place()
    place.arguments["env_files"] = ["/srv/app/.env.example"]
    place.write("/srv/app/.env.example", "DB_PASSWORD=change-me\nAPI_KEY=\nX=amqp://guest:guest@mq\n")
    assert ids(place.run()) == set()
    place.write("/srv/app/.env.example", f"DB_PASSWORD=change-me\nAPI_KEY={OTHER}\n")
    place.write("/srv/app/.git/index", index(".env.example"))
    assert ids(place.run()) == {
        ("SEC-01", "/srv/app/.env.example:2"),
        ("SEC-08", "/srv/app/.env.example"),
    }


# -- what is not known ------------------------------------------------------------------------------------------------


def reasons(result, status="unknown"):
    return {item["id"]: item["reason"] for item in result["checks_run"] if item["status"] == status}


def test_nothing_named_is_nothing_decided():
    result = core.audit(MemoryFiles({}))
    assert set(reasons(result, "not_applicable")) == set(core.DECIDES)


def test_without_consumers_and_search_those_two_do_not_pass():
    place = Place()
    place.arguments |= {"consumers": None, "search": []}
    result = place.run()
    assert result["findings"] == []
    assert states(result) == dict.fromkeys(core.DECIDES, "pass") | {"SEC-09": "not_applicable", "SEC-14": "unknown"}


def test_files_in_memory_without_modes_leave_modes_open():
    files = MemoryFiles({"/app/.env": ENV})
    result = core.audit(files, env_files=["/app/.env"], judge_modes=False)
    assert result["findings"] == []
    # Nothing in this file is a secret, so that it does not matter where it lies.
    assert set(reasons(result)) == {"SEC-07", "SEC-09", "SEC-14", "SEC-15"}
    files = MemoryFiles({"/app/.env": f"DB_PASSWORD={OTHER}"})
    result = core.audit(files, env_files=["/app/.env"], judge_modes=False)
    assert ids(result) == {("SEC-01", "/app/.env:1")}
    assert reasons(result)["SEC-08"].startswith("/app/.git: is not known")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "does not exist"),
        (b"\xff\xfeA\x00=\x001\x00", "is not UTF-8 text (byte 0)"),
        (b"A=1\n\0", "holds a NUL byte"),
        (b"A=1\n" * 300_000, "is larger than 1048576 bytes"),
    ],
)
def test_an_env_file_that_cannot_be_read_is_unknown(tmp_path, content, why):
    path = tmp_path / ".env"
    if content is not None:
        path.write_bytes(content)
    result = core.audit(LocalFiles(), env_files=[str(path)], search=[str(tmp_path)])
    unknown = reasons(result)
    for check in ("SEC-01", "SEC-02", "SEC-04", "SEC-05", "SEC-06", "SEC-07", "SEC-13", "SEC-14"):
        assert why in unknown[check]
    assert result["findings"] == []


def test_a_switch_in_a_file_that_is_handed_over_whole_is_unknown():
    place = Place()
    place.env("MFA_REQUIRED=true")
    place.files["/srv/app/compose.yml"] = COMPOSE + "    env_file:\n      - .env\n"
    result = place.run()
    assert result["findings"] == []
    assert reasons(result) == {"SEC-14": "MFA_REQUIRED: the whole file is handed to a program, which may read it"}


def test_a_search_that_finds_no_file_decides_nothing():
    place = Place()
    place.stats["/srv/empty"] = Stat("directory", 0o755)
    place.arguments["search"] = ["/srv/empty"]
    result = place.run()
    assert result["findings"] == []
    assert reasons(result) == {"SEC-14": "there was no file to search"}


def test_a_file_without_end_is_judged_in_part():
    place = Place()
    place.env(*(f"X{number}_PASSWORD=hunter{number}" for number in range(core.CREDENTIALS + 5)))
    place.env(*("B=1" for _unused in range(core._env_parse.LINES)))
    result = place.run()
    assert sum(item["id"] == "SEC-01" for item in result["findings"]) == core.CREDENTIALS
    place.files["/srv/app/.env"] = "A=1\n" * (core._env_parse.LINES + 1)
    assert "only the first 20000 lines were read" in reasons(place.run())["SEC-01"]


def test_more_secrets_than_are_estimated_is_unknown():
    place = Place()
    numbers = random.Random(1)
    place.env(*(f"X{number}_PASSWORD={numbers.getrandbits(256):064x}" for number in range(400)))
    assert "more secrets than" in reasons(place.run())["SEC-05"]


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (write("/srv/app/.git/index", b"garbage"), "is not an index"),
        (write("/srv/app/.git/index", b"DIRC" + struct.pack(">II", 9, 0)), "is not an index"),
        (write("/srv/app/.git/index", b"DIRC" + struct.pack(">II", 2, 4_000_000_000)), "is not an index"),
    ],
)
def test_an_index_that_cannot_be_read_is_unknown(damage, why):
    place = Place()
    damage(place)
    result = place.run()
    assert result["findings"] == []
    assert why in reasons(result)["SEC-08"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"secrets": [1]}', '{"secrets": {"a": 1}}', "[" * 100_000])
def test_a_manifest_that_is_none_is_unknown(text):
    place = Place()
    place.files["/etc/mcpstack/secrets.json"] = text
    result = place.run()
    assert result["findings"] == []
    assert "is not a list of secrets" in reasons(result)["SEC-15"]


def test_a_link_that_leads_nowhere(tmp_path):
    secret = tmp_path / "store" / "db"
    secret.mkdir(parents=True)
    (secret / "current").symlink_to("v2")
    result = core.audit(LocalFiles(), secret_directories=[str(tmp_path / "store")], consumers={str(secret): 1})
    assert ("SEC-09", f"{secret}/current") in ids(result)


# -- values stay here -------------------------------------------------------------------------------------------------


def forms(value):
    """Everything that a value could be recognised by."""
    raw = value.encode()
    digests = [hashlib.new(name, raw).hexdigest() for name in ("md5", "sha1", "sha256", "sha512")]
    return [value, value[:9], base64.b64encode(raw).decode().rstrip("="), raw.hex(), *digests]


@pytest.mark.parametrize("seed", range(40))
def test_no_value_is_ever_told(seed):
    numbers = random.Random(seed)
    alphabet = "abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"
    values = [
        "".join(numbers.choice(alphabet) for _unused in range(numbers.choice((12, 20, 33)))) for _more in range(40)
    ]
    spare = iter(values)
    shapes = [
        "DB_PASSWORD={}", 'A_TOKEN="{}"', "B_SECRET='{}' # {}", "X=postgres://u:{}@h/{}", "{}", "{}=x", "{}==", "= {}",
        "export {}", "C_KEY = {}", 'D_SECRET="{}\n{}=1\nno"', "E_PASSWORD=${}", "F_PASSWORD=`{}`", "{}: {}", "#{}",
        'G_PASSWORD="{}', "host=db password={}", "H=redis://:{}", "I_PASSWORD={}\r", "-----BEGIN {}", "J_TOKEN=$({})",
    ]  # fmt: skip
    numbers.shuffle(shapes)
    lines = [shape.replace("{}", "%s") % tuple(next(spare) for _unused in range(shape.count("{}"))) for shape in shapes]
    place = Place()
    place.env(*lines)
    place.secret("gateway", "gateway-db", values[0], 64102)
    place.secret("gateway", "again", values[0], 64102)
    place.write("/srv/app/x.log", "\n".join(values))
    place.stat("/srv/app/.env", mode=0o666)
    place.arguments["readers"] = ["compose", "docker", "systemd", "shell"]
    told = json.dumps(place.run(), ensure_ascii=False)
    assert not [form for value in values for form in forms(value) if form in told]


def test_objects_that_hold_a_value_do_not_show_it():
    secret = core.Secret("DB_PASSWORD", OTHER, "/x", "/x:1", frozenset())
    url = core.credential_in_url(f"postgres://app:{OTHER}@db")
    item = core._env_parse.read_compose(f"DB_PASSWORD={OTHER}")[0]
    assert OTHER not in f"{secret!r} {url!r} {item!r} {[secret, url, item]} {secret} {url} {item}"


# -- any bytes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(60))
def test_any_bytes_give_an_answer(seed):
    numbers = random.Random(seed)
    place = Place()
    for path in (
        "/srv/app/.env",
        "/srv/app/.gitignore",
        "/srv/app/.dockerignore",
        "/srv/app/compose.yml",
        "/srv/app/Dockerfile",
        f"{DB}/current",
        "/srv/app/.git/index",
        "/etc/mcpstack/secrets.json",
    ):
        data = bytearray(
            copy.copy(place.files[path]) if isinstance(place.files[path], bytes) else place.files[path].encode()
        )
        for _unused in range(numbers.choice((0, 1, 3, 30))):
            at = numbers.randrange(len(data) + 1)
            piece = numbers.choice(
                [
                    b"\0",
                    b"\xff",
                    b"=",
                    b"'",
                    b'"',
                    b"${",
                    b"\\",
                    b"\n",
                    b"\r",
                    b"\xef\xbb\xbf",
                    b"[",
                    b"**/",
                    b"!",
                    b"#",
                    b"://u:p@",
                    b"{{",
                    b"\xe2\x80\xae",
                    b"\xd9\xa1",
                ]
            )
            data[at : at + numbers.choice((0, 1, 5))] = piece
        place.files[path] = bytes(data)
    result = place.run()
    assert {state["status"] for state in result["checks_run"]} <= {"pass", "fail", "unknown", "not_applicable"}
    assert result == place.run()  # and always the same
