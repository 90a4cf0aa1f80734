# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which names and values are credentials. PRIVATE: internal to the collection, may change in any release.

``credential_name`` judges the name of a variable, ``literal_credential`` a name with its value, and ``credential_in_url``
finds the password inside a URL or a connection string.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

#: Longest name and longest value that are looked at.
NAME_LIMIT, VALUE_LIMIT = 256, 65536
#: Longest authority of a URL, and URLs in one value, that are looked at.
URL_LIMIT, URLS = 2048, 200

#: The last part of a name that is a credential whatever stands before it; also as the end of a word written together.
_ENDINGS = (
    "PASSWORD", "PASSWORDS", "PASSWD", "PASSPHRASE", "PASSWORT", "SECRET", "SECRETS", "APIKEY", "APIKEYS", "AUTHTOKEN",
    "CREDENTIAL", "CREDENTIALS", "TOKEN", "PRIVATEKEY", "SECRETKEY", "ACCESSKEY", "REQUIREPASS", "MASTERAUTH",
    "MASTERPASS", "ROOTPASS", "USERPASS", "DBPASS", "PEPPER",
)  # fmt: skip
#: Words that are a credential only as a part of their own: BYPASS is none, and PWD alone is the working directory.
_WORDS = frozenset("PASS PWD PW PSWD PIN SALT DSN_PASSWORD".split())
_WORDS_ALONE = frozenset("PASS".split())
#: What makes a KEY secret when it stands right before it.
_SECRET_KEYS = frozenset(
    "API PRIVATE SECRET ACCESS ENCRYPTION ENCRYPT ENC CRYPT CRYPTO SIGNING SIGN SIGNATURE MASTER APP JWT SESSION COOKIE"
    " FERNET HMAC AUTH SHARED PRESHARED PRE PSK DEPLOY ADMIN SERVICE ROLE AES DES DEK KEK WEBHOOK STORAGE ACCOUNT UNSEAL"
    " RECOVERY SEAL BEARER CSRF TOTP OTP MFA VAULT HOOK WIREGUARD WG SSH GPG PGP RSA ECDSA ED25519 HOST TLS SSL"
    " INTEGRATION SERVER CLIENT OPENAI ANTHROPIC CLAUDE GEMINI MISTRAL COHERE GROQ TOGETHER REPLICATE HF HUGGINGFACE"
    " DEEPSEEK OPENROUTER PERPLEXITY TAVILY SERPAPI PINECONE QDRANT WEAVIATE STRIPE SENDGRID MAILGUN TWILIO LICENSE NOTARY"
    " DATADOG DD NEWRELIC AZURE RAILS LARAVEL DJANGO FLASK N8N LITELLM LANGFUSE MEILI TYPESENSE ELEVENLABS SALTED".split()
)
#: Kinds of KEY that are no secret: a place in a table, a name, the public half.
_OPEN_KEYS = frozenset(
    "PUBLIC PUB PRIMARY FOREIGN SORT PARTITION CACHE ROUTING IDEMPOTENCY SITE PUBLISHABLE GROUP SHORTCUT HOT REGISTRY"
    " TRANSLATION INDEX OBJECT SORTING UNIQUE COMPOSITE CANDIDATE HASH SHARD DEDUP DEDUPLICATION FEATURE CONFIG LOOKUP"
    " DOCUMENT METRIC LABEL MAP JSON DICT ROW VERIFY VERIFICATION ANON ANONYMOUS TRUSTED AUTHORIZED KNOWN".split()
)
#: A last part that says that the variable speaks about a credential and does not hold it.
_ABOUT = frozenset(
    "FILE FILES PATH PATHS DIR DIRECTORY FOLDER LOCATION ID IDS NAME NAMES KEYID TTL EXPIRY EXPIRES EXPIRE EXPIRATION LIFETIME"
    " LENGTH LEN MIN MAX LIMIT LIMITS COUNT ENABLED DISABLED ENABLE DISABLE REQUIRED REQUIRE OPTIONAL ALGORITHM ALGO ALG TYPE"
    " KIND URL URI URLS ENDPOINT HOST PORT HEADER HEADERS FIELD COLUMN PREFIX SUFFIX POLICY ROTATION ROTATE ROTATED TIMEOUT"
    " INTERVAL AGE DAYS HOURS MINUTES SECONDS SECS VERSION SOURCE STORE PROVIDER MANAGER BACKEND ENGINE COMMAND CMD SCRIPT"
    " ENCRYPTION ENCRYPTED METHOD MODE RESET HINT STRENGTH SCOPE SCOPES ISSUER AUDIENCE AUD USER USERNAME USERS LOGIN EMAIL"
    " REGION FORMAT SIZE BITS ROUNDS ITERATIONS ITERATION COST DB DATABASE TABLE PLACEHOLDER EXAMPLE SAMPLE REGEX PATTERN CHARSET"
    " ENV VAR VARIABLE REF REFERENCE ARN MOUNT MOUNTPOINT CLASS HASHER HASHERS ENCODER VALIDATOR VALIDATORS VALIDATION"
    " CHECK CHECKS CHECKER COMPLEXITY HISTORY REUSE REMINDER CHANGE CHANGED CREATED UPDATED USAGE BUCKET BUDGET RATE WINDOW"
    " THROUGH THRU COOKIE ONLY LESS SERVICE SERVER GENERATOR PARAM PARAMETER QUERY CLAIM CLAIMS SUBJECT OWNER GROUP"
    " DOMAIN PUBLIC FINGERPRINT THUMBPRINT CHECKSUM MODEL TOKENIZER PROMPT CONTEXT STREAM LOG LOGGING DEBUG CACHE CACHING".split()
)
#: A first part that asks or forbids: REQUIRE_PASSWORD, MAX_TOKEN.
_ASKING = frozenset(
    "MAX MIN NUM NO DISABLE ENABLE REQUIRE REQUIRES FORCE ALLOW SKIP USE HAS IS WITH SHOW HIDE MASK LOG COUNT TOTAL ROTATE"
    " VALIDATE CHECK GENERATE".split()
)
_PLURAL = re.compile(r"(?:TOKENS|KEYS)\Z")
_SPLIT = re.compile(r"[^0-9A-Za-z]+|(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")

_BOOLEAN = re.compile(
    r"(?:true|false|yes|no|on|off|enabled?|disabled?|none|null|nil|auto|optional|required|always|never)\Z",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"[+-]?\d+(?:[.,]\d+)?(?:ms|s|m|h|d|w|[kmgt]i?b?)?\Z", re.IGNORECASE)
#: Fingerprints of public keys, which many images have in their environment.
_FINGERPRINT = re.compile(r"(?:0x)?[0-9A-Fa-f]{8,40}(?:\s+(?:0x)?[0-9A-Fa-f]{8,40})*\Z")
_PATH = re.compile(
    r"(?:file://|unix://)?(?:/(?:run|etc|var|secrets?|home|opt|srv|usr|tmp|mnt|media|data|app|apps|root|dev|proc|sys|vault|certs?|keys?|config"
    r"|conf|credentials?|workspace|code|work|private|ssl|tls|pki|docker|nix|Users|Library|bin|lib)(?:/[^\s]*)?"
    r"|~/[^\s]*|\.{1,2}/[^\s]*|[A-Za-z]:\\[^\s]*|/?(?:[\w.-]+/)*[\w.-]+\.(?"
    r":pem|key|crt|cer|txt|json|ya?ml|toml|env|pub|p12|pfx|jks|secret|asc|gpg|conf|ini|sock))\Z"
)
_REFERENCE = re.compile(
    r"\$\{[^{}]*\}\Z|\$\([^()]*\)\Z|\$[A-Za-z_][A-Za-z0-9_]*\Z|\{\{.*\}\}\Z|%\([A-Za-z_]+\)s\Z|<%.*%>\Z"
    r"|(?:vault|secret|secrets|op|doppler|infisical|bws|keyring|keychain|file|env|awssm|gcpsm|azurekv|ref\+[a-z]+|sops|conjur|k8s)"
    r":(?://)?[\w./#?&=@+-]+\Z"
    r"|arn:aws[\w-]*:(?:secretsmanager|ssm|kms):|projects/[\w-]+/secrets/|@Microsoft\.KeyVault\(|\$ANSIBLE_VAULT;|ENC\["
    r"|(?:env|file|secret)\(|!vault\b",
    re.DOTALL,
)


def _parts(name: str) -> list[str]:
    return [part.upper() for part in _SPLIT.split(name) if part]


def _kernel(parts: list[str]) -> int | None:
    """Where the last word stands that makes the name a credential."""
    for index in range(len(parts) - 1, -1, -1):
        part = parts[index].rstrip("0123456789") or parts[index]
        before = parts[index - 1] if index else ""
        if part.endswith(_ENDINGS) and not part.endswith("NOTOKEN"):
            return index
        if part in _WORDS and (index or part in _WORDS_ALONE) and before != "OLD":
            return index
        if part == "KEY" and before and before not in _OPEN_KEYS and before in _SECRET_KEYS:
            return index
        if part == "KEY" and "SECRET" in parts[:index]:
            return index
        if _PLURAL.search(part) and before in (
            "API",
            "AUTH",
            "ACCESS",
            "BEARER",
            "ADMIN",
            "SECRET",
            "PRIVATE",
            "SIGNING",
            "ENCRYPTION",
        ):
            return index
    return None


def credential_name(key: str) -> bool:
    """Whether a variable of this name holds a credential: DB_PASSWORD does, DB_PASSWORD_FILE and PUBLIC_KEY do not."""
    if not key or len(key) > NAME_LIMIT:
        return False
    parts = _parts(key)
    index = _kernel(parts)
    if index is None:
        return False
    behind = parts[index + 1 :]
    if behind and behind[-1] in _ABOUT:
        return False
    if parts[0] in _ASKING and index and len(parts) <= 4:
        return False
    return not ({"PUBLIC", "PUBLISHABLE"} & set(parts) and parts[index].rstrip("0123456789") in ("KEY", "TOKEN"))


def is_reference(value: str) -> bool:
    """Whether a value only says where the secret is: a variable, a template, the address in a store of secrets."""
    return _REFERENCE.match(value.strip()) is not None


def is_path(value: str) -> bool:
    """Whether a value is the path of a file. Base64 may begin with a slash too and is none."""
    return _PATH.match(value.strip()) is not None


def literal_credential(key: str, value: str) -> bool:
    """Whether ``key=value`` writes a credential down: the name says so, and the value is no switch, path or reference."""
    text = value.strip().strip("\"'")
    if not text or not credential_name(key) or is_reference(text) or is_path(text) or _BOOLEAN.match(text):
        return False
    if _FINGERPRINT.match(text) and {"GPG", "PGP"} & set(_parts(key)):
        return False
    if _NUMBER.match(text):
        # 123456 is a password, in the variable of a password; for keys and tokens it is a limit or a period.
        return _parts(key)[-1].endswith(
            ("PASSWORD", "PASSWD", "PASSPHRASE", "PASS", "PWD", "PIN", "SECRET", "PASSWORT")
        )
    return not re.match(r"[a-z][a-z0-9+.-]*://", text, re.IGNORECASE)  # a URL is judged by what it carries


def known_token(value: str) -> bool:
    """Whether a value is a token by its own form, whatever the variable is called."""
    text = value.strip().strip("\"'")
    return (
        (_TOKEN_USER.match(text) is not None and len(text) >= 20)
        or _PRIVATE_KEY.match(text) is not None
        or (len(text) <= VALUE_LIMIT and _TOKEN_FORM.match(text) is not None)
    )


@dataclass(frozen=True)
class UrlCredential:
    """The password in a URL or a connection string. Never print it: ``repr`` leaves out what is secret."""

    scheme: str
    user: str
    password: str
    host: str

    def __repr__(self) -> str:
        return f"UrlCredential({self.scheme!r})"


_END = re.compile(r"[\s\"'<>]")
#: The form of Go's driver for MySQL: user:password@tcp(host:port)/name.
_DRIVER_ADDRESS = re.compile(r"[^\s:@/]{0,100}:(.{1,200})@(?:tcp6?|udp|unix)\([^()]*\)", re.DOTALL)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,40})://")
_HOST_PORT = re.compile(r"(?:\[[0-9A-Fa-f:.%]+\]|[\w.$\{\}-]+)(?::[\w$\{\}-]+)?(?:,[\w.:\[\]-]+)*(?=[/?#]|$)")
_PORT = re.compile(r"(?:\d{1,5}|\$\{[^{}]*\}|\$\w+)?\Z")
_PARAMETER = re.compile(
    r"(?:^|[?&;\s])((?:ssl|db|user|proxy|key)?(?:password|passwd|pwd|passphrase)|(?:access_?|auth_?)?token|api_?key"
    r"|secret(?:_?(?:access_?)?key)?|client_secret|accountkey|sharedaccesskey|sig)\s*=\s*([^&;\s]+)",
    re.IGNORECASE,
)
_TOKEN_USER = re.compile(r"(?:gh[pousr]_|github_pat_|glpat-|xox[abprs]-|sk-|hf_|npm_|pypi-|dop_v1_|shpat_)\w")
#: Tokens that are told by their form: Stripe, Twilio, SendGrid, Square, Mailchimp, Telegram, Discord, a signed JWT, what npm
#: writes into its configuration, a key of Azure Storage, a web hook of Slack or Discord.
_TOKEN_FORM = re.compile(
    r"""(?:[rs]k_live_\w{16,}
      |SK[0-9a-f]{32}
      |SG\.[\w-]{16,32}\.[\w-]{16,64}
      |sq0[a-z]{3}-[\w-]{22,60}
      |[0-9a-f]{32}-us\d{1,2}
      |\d{8,10}:[\w-]{35}
      |[MNO][A-Za-z0-9]{23,25}\.[\w-]{6}\.[\w-]{27,40}
      |eyJ[\w-]{10,}\.eyJ[\w-]{4,}\.[\w-]{20,}
      |//[\w./:-]{1,200}:_(?:authToken|password)=[^$\s]{8,}
      |(?:[A-Za-z]+=[^;]{0,200};){0,6}AccountKey=[A-Za-z0-9+/]{40,}={0,2}(?:;.{0,300})?
      |https://hooks\.slack\.com/services/T\w+/B\w+/\w+
      |https://(?:\w+\.)?discord(?:app)?\.com/api/webhooks/\d+/[\w-]+
    )\Z""",
    re.VERBOSE | re.ASCII,
)
_PRIVATE_KEY = re.compile(r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----")
_HIDDEN = re.compile(r"(?:[*x.]+|<[^<>]*>|%[sdv]|\{[A-Za-z_][A-Za-z0-9_.]*\}|redacted|\[[^\[\]]*\])\Z", re.IGNORECASE)


def credential_in_url(value: str) -> UrlCredential | None:
    """The first password that stands in a URL or a connection string, with whatever characters; else None."""
    text = value[:VALUE_LIMIT].strip().strip("\"'")
    for number, match in enumerate(_SCHEME.finditer(text)):
        if number >= URLS:
            break
        rest = _END.split(text[match.end() : match.end() + URL_LIMIT], maxsplit=1)[0]
        found = _userinfo(match[1].lower(), rest)
        if found:
            return found
    address = _DRIVER_ADDRESS.match(text)
    if address and _secret(address[1]):
        return UrlCredential("parameter", text.partition(":")[0], address[1], "")
    if "=" in text and (
        "://" in text or ";" in text or re.search(r"\b(?:host|dbname|server|data source)\s*=", text, re.IGNORECASE)
    ):
        for match in _PARAMETER.finditer(text):
            if _secret(match[2]) and not is_path(match[2]):
                return UrlCredential("parameter", "", match[2], "")
    return None


def _secret(password: str) -> bool:
    return bool(password) and not is_reference(password) and not _HIDDEN.match(password)


def _userinfo(scheme: str, rest: str) -> UrlCredential | None:
    strict = re.split(r"[/?#]", rest, maxsplit=1)[0]
    at = -1
    if "@" in strict:
        at = strict.rindex("@")
        tail = rest[at + 1 :]
        # In user:p@ss/word@host the strict rule ends too early.
        later = rest.rfind("@")
        if (
            later > at
            and ":" in strict[:at]
            and not re.match(r"(?:[\w-]+(?:\.[\w-]+)+(?::\d{1,5})?|[\w-]+:\d{1,5})[/?#]", tail)
            and _HOST_PORT.match(rest, later + 1)
        ):
            at = later
    elif ":" in strict and "@" in rest and not _PORT.match(strict.rpartition(":")[2]) and not strict.startswith("["):
        at = rest.rfind("@")  # user:pa/ss@host: what stands before the slash is no port
    if at < 0:
        return None
    user, colon, password = rest[:at].partition(":")
    host = re.split(r"[/?#]", rest[at + 1 :], maxsplit=1)[0]
    if not _HOST_PORT.match(rest, at + 1):
        return None
    if colon:
        return UrlCredential(scheme, user, password, host) if _secret(password) else None
    return UrlCredential(scheme, "", user, host) if _TOKEN_USER.match(user) else None
