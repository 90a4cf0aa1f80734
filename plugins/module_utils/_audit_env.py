# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Env files and directories of secrets, judged. PRIVATE: may change in any release. Standard library only.

No value leaves this file: evidence is made of names, line numbers, modes and reasons. Values are compared by a keyed
digest whose key lives for one run.
"""

from __future__ import annotations

import datetime
import hmac
import json
import os
import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ansible_collections.mcpstack.platform.plugins.module_utils import _audit_env_places as places
from ansible_collections.mcpstack.platform.plugins.module_utils import _env_parse, _env_search
from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import Files, Unreadable
from ansible_collections.mcpstack.platform.plugins.module_utils._checks_secret import TABLE
from ansible_collections.mcpstack.platform.plugins.module_utils._secret_names import (
    UrlCredential,
    credential_in_url,
    credential_name,
    is_path,
    is_reference,
    known_token,
    literal_credential,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._secret_strength import (
    HORIZON,
    STRONG,
    guesses_log10,
    placeholder,
)

DECIDES = (
    "SEC-01", "SEC-02", "SEC-04", "SEC-05", "SEC-06", "SEC-07", "SEC-08", "SEC-09", "SEC-13", "SEC-14", "SEC-15",
)  # fmt: skip
#: What an env file, a secret and the list of secrets may hold.
ENV_LIMIT, SECRET_LIMIT, MANIFEST_LIMIT = 1 << 20, 1 << 20, 4 << 20
#: Credentials and switches of one env file that are judged, and scripts that are named.
CREDENTIALS, SWITCHES, SCRIPTS = 500, 500, 200
#: Characters of secrets whose strength is estimated in one run, files of one directory, and its depth.
ESTIMATED, ENTRIES, DEPTH = 20_000, 2000, 6

_VERSION = re.compile(r"current|v[1-9]\d{0,8}\Z")
_OPEN_CONTENT = re.compile(
    r"\s*(?:-----BEGIN (?:CERTIFICATE|(?:RSA )?PUBLIC KEY|TRUSTED CERTIFICATE|X509 CRL|DH PARAMETERS)-----|ssh-\w+ AAAA|ecdsa-sha2-\w+ AAAA)"
)
_PREFIXED = re.compile(r"([a-z_][a-z0-9_.-]{0,62}|[1-9][0-9]{0,8}):(.+)\Z")
_HASHED = re.compile(r"\$(?:apr1|2[abxy]|5|6|y|7|argon2\w*|scrypt|pbkdf2[\w-]*)\$|SCRAM-SHA-256\$|pbkdf2_sha256\$")
_SWITCH = frozenset(
    "AUTH AUTHENTICATION AUTHORIZATION AUTHN AUTHZ TLS SSL HTTPS MTLS ENCRYPT ENCRYPTION ENCRYPTED RATELIMIT THROTTLE CSRF"
    " XSRF CORS HSTS CSP FIREWALL MFA 2FA TOTP AUDIT SECURE SECURITY HARDEN HARDENING HARDENED SANDBOX SANITIZE ALLOWLIST"
    " WHITELIST BLOCKLIST DENYLIST BLACKLIST READONLY FAIL2BAN WAF LOCKOUT RBAC ACL SIGNED VERIFY VALIDATE RESTRICT PRIVILEGED".split()
)
_SWITCHED = re.compile(
    r"(?:true|false|yes|no|on|off|enabled?|disabled?|strict|required?|enforced?|always|never|full|verify-(?:ca|full)|0|1"
    r"|\d{1,9}(?:[smhd]|r/[smh]|/\w+)?)\Z",
    re.IGNORECASE,
)
_GENERIC = frozenset(
    "PASSWORD PASSWORDS PASSWD PASS PWD PW PASSPHRASE SECRET SECRETS TOKEN TOKENS KEY KEYS API APIKEY AUTH CREDENTIAL"
    " CREDENTIALS URL URI DSN CONNECTION STRING CONN VALUE FILE CURRENT TXT".split()
)
_SAME = {
    "POSTGRESQL": "POSTGRES", "PG": "POSTGRES", "PSQL": "POSTGRES", "VALKEY": "REDIS", "REDISS": "REDIS", "MARIADB": "MYSQL",
    "DATABASE": "DB", "SQL": "DB", "MONGODB": "MONGO", "AMQP": "RABBITMQ", "AMQPS": "RABBITMQ",
}  # fmt: skip
_DATABASES = frozenset("POSTGRES MYSQL MONGO MSSQL DB".split())


@dataclass(frozen=True)
class Secret:
    """One value at one place. ``repr`` leaves the value out."""

    name: str
    value: str
    path: str
    where: str
    family: frozenset
    shared: bool = False  # a URL, which carries the password of what it names

    def __repr__(self) -> str:
        return f"Secret({self.name!r}, {self.where!r})"


def _family(name: str) -> frozenset:
    """What a secret is for: DB_PASSWORD, DB_PASS and db-password are for the same."""
    words = []
    for part in re.split(r"[^0-9A-Za-z]+|(?<=[a-z])(?=[A-Z])", name):
        word = part.upper()
        for ending in ("PASSWORD", "PASSWD", "PASS", "SECRET", "TOKEN", "APIKEY"):
            if word.endswith(ending) and word != ending:
                word = word[: -len(ending)]
                break
        if word and word not in _GENERIC:
            words.append(_SAME.get(word, word))
    return frozenset(words)


def _same(one: Secret, other: Secret) -> bool:
    """Whether two places hold the same secret by intent."""
    if one.name == other.name or one.family == other.family:
        return True
    if (
        one.family
        and other.family
        and one.family <= _DATABASES
        and other.family <= _DATABASES
        and "DB" in one.family | other.family
    ):
        return True
    return (one.shared and one.family <= other.family) or (other.shared and other.family <= one.family)


class _Run:
    """One audit: what was found so far, and the limits of the work."""

    def __init__(self, files: Files, context: Iterable[str], readers: Iterable[str]):
        self.files = files
        self.audit = Audit({check_id: TABLE[check_id] for check_id in DECIDES})
        self.context = tuple(context)
        self.readers = tuple(readers)
        self.secrets: list[Secret] = []
        self.holders: dict[str, bool] = {}  # file -> holds a secret
        self.switches: dict[str, tuple[str, str]] = {}  # name -> (where, path)
        self.estimated = 0
        self.known: dict[str, float] = {}

    def read(self, path: str, limit: int, *ids: str) -> str | None:
        """Text with its byte order mark; None, and the checks unknown, when there is none."""
        try:
            if not self.files.knows(path):
                raise Unreadable(path, "is not known", "hand it over together with the others")
            data = self.files.read(path, limit)
            text = data.decode("utf-8")
            if "\0" in text:
                raise Unreadable(path, "holds a NUL byte", "write the file as plain text")
            return text
        except UnicodeDecodeError as error:
            reason = str(Unreadable(path, f"is not UTF-8 text (byte {error.start})", "write the file as UTF-8"))
        except Unreadable as error:
            reason = str(error)
        for check_id in ids:
            self.audit.unknown(check_id, reason)
        return None

    # values

    def judge(self, secret: Secret) -> None:
        """SEC-04, else SEC-05; and keep it for SEC-06 when it is a value of somebody's own."""
        label = secret.name or "a secret"
        reason = placeholder(secret.value, secret.name)
        if reason:
            self.audit.find("SEC-04", secret.path, secret.where, f"{label} {reason}")
            return
        self.secrets.append(secret)
        if "\n" in secret.value.strip() or secret.value.startswith(("{", "-----BEGIN")):
            return
        value = _bare(secret.value.strip(), self._guesses)
        if _HASHED.match(value.replace("$$", "$")):
            return
        guesses = self._guesses(value, secret)
        if guesses is None:
            self.audit.unknown(
                "SEC-05", f"more secrets than the strength is estimated of in one run ({ESTIMATED} characters)"
            )
        elif guesses < STRONG:
            self.audit.find(
                "SEC-05", secret.path, secret.where, f"{label} is found after about 10^{int(guesses)} guesses, 10^14 are wanted"
            )  # fmt: skip

    def _guesses(self, value: str, secret: Secret | None = None) -> float | None:
        if value not in self.known:
            cost = min(len(value), HORIZON)
            if self.estimated + cost > ESTIMATED:
                return None
            self.estimated += cost
            near = (posixpath.basename(posixpath.dirname(secret.path)), secret.name) if secret else ()
            self.known[value] = guesses_log10(value, (*self.context, *near))
        return self.known[value]

    # env files

    def env_file(self, path: str, usage: _env_search.Usage) -> None:
        """All that the content of one env file tells."""
        audit = self.audit
        text = self.read(
            path,
            ENV_LIMIT,
            "SEC-01",
            "SEC-02",
            "SEC-04",
            "SEC-05",
            "SEC-06",
            "SEC-07",
            "SEC-08",
            "SEC-13",
            "SEC-14",
            "SEC-15",
        )
        if text is None:
            return
        template = places.TEMPLATE.search(posixpath.basename(path)) is not None
        readers = {*self.readers, *usage.programs.get(posixpath.basename(path), ())}
        parsed = _env_parse.parse(
            text, readers, lambda name, value: credential_name(name) and not is_reference(_visible(value))
        )
        if not template:
            for trap in parsed.traps:
                where = f"{path}:{trap.line}"
                audit.find("SEC-13", path, where, f"{trap.name}: {trap.what}" if trap.name else trap.what)
        if not parsed.complete:
            for check_id in ("SEC-01", "SEC-02", "SEC-04", "SEC-05", "SEC-06", "SEC-13", "SEC-14"):
                audit.unknown(check_id, f"{path}: only the first {_env_parse.LINES} lines were read")
        holds = 0
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        for item in parsed.items:
            holds += self._item(path, item, lines, template)
            if holds >= CREDENTIALS:
                for check_id in ("SEC-01", "SEC-02", "SEC-04", "SEC-05", "SEC-06", "SEC-14"):
                    audit.unknown(check_id, f"{path}: only the first {CREDENTIALS} credentials were judged")
                break
        self.holders[path] = holds > 0

    def _item(self, path: str, item: _env_parse.Item, lines: list[str], template: bool) -> bool:
        if item.value is None or not item.name:
            return False
        value = item.value
        if item.error or _env_parse.MARK in value:
            # What Compose refuses, or fills in from elsewhere, is judged as it is written.
            value = lines[item.line - 1].lstrip("\ufeff").partition("=")[2].strip()
            value = value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value
        name = _env_parse.shown(item.name)
        where = f"{path}:{item.line}"
        url = credential_in_url(value)
        literal = not url and (literal_credential(item.name, value) or known_token(value))
        if not url and not literal:
            if name and len(self.switches) < SWITCHES and _is_switch(name, value):
                self.switches.setdefault(name, (where, path))
            return False
        if template:
            real = url.password if url else value
            if placeholder(real, item.name) is None and (self._guesses(real) or STRONG) >= STRONG:
                self.audit.find(
                    "SEC-01", path, where, f"{name or 'a variable'}: a template holds what looks like a real secret"
                )
                return True
            return False
        label = name or "a variable"
        if url:
            kind = "a connection string" if url.scheme == "parameter" else f"a URL of {url.scheme}"
            self.audit.find("SEC-02", path, where, f"{label}: {kind} with a password")
            self.judge(Secret(name, url.password, path, where, _url_family(item.name, url), True))
        else:
            self.audit.find("SEC-01", path, where, f"{label} has a literal value")
            self.judge(Secret(name, value, path, where, _family(item.name)))
        return True

    def leaks(self, path: str) -> bool:
        """Whether a file in the index of git, which nobody listed, is an env file with a secret."""
        text = self.files.text(path, ENV_LIMIT)
        for item in _env_parse.read_compose(text):
            value = _visible(item.value or "")
            real = url.password if (url := credential_in_url(value)) else value
            if (url or literal_credential(item.name, value)) and placeholder(real, item.name) is None:
                return True
        return False

    # directories

    def directory(self, root: str) -> list[str]:
        """Every file below a directory of secrets; its content is judged on the way."""
        found: list[str] = []
        if not self.files.knows(root) or self.files.stat(root) is None:
            reason = "is not known" if not self.files.knows(root) else "does not exist or cannot be reached"
            for check_id in ("SEC-04", "SEC-05", "SEC-06", "SEC-07", "SEC-08", "SEC-09", "SEC-15"):
                self.audit.unknown(check_id, f"{root} {reason}")
            return found
        todo = [(root, 0)]
        while todo:
            directory, depth = todo.pop()
            names = [name for name in self.files.names(directory) if name not in ("..data", ".git")]
            live = "current" in names
            for name in reversed(names):
                path = posixpath.join(directory, name)
                info = self.files.stat(path)
                if info is None:
                    self.audit.find("SEC-09", path, path, "leads nowhere: a link whose target is gone")
                elif info.kind == "directory" and depth < DEPTH and not name.startswith(".."):
                    link = self.files.stat(path, follow=False)
                    if link and link.kind != "link":
                        todo.append((path, depth + 1))
                elif info.kind == "file":
                    if len(found) >= ENTRIES:
                        self.audit.unknown("SEC-07", f"only the first {ENTRIES} files of {root} were looked at")
                        return sorted(found)
                    if self.secret_file(path, judged=name == "current" or not live):
                        found.append(path)
        return sorted(found)

    def secret_file(self, path: str, judged: bool) -> bool:
        """Judge one file; False when what it holds is public."""
        try:
            data = self.files.read(path, SECRET_LIMIT)
        except Unreadable as error:
            for check_id in ("SEC-04", "SEC-05", "SEC-06"):
                self.audit.unknown(check_id, str(error))
            return True
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            return True  # a key in binary form has no words to guess
        if _OPEN_CONTENT.match(text):
            return False
        if judged:
            base = posixpath.basename(path)
            name = (
                posixpath.basename(posixpath.dirname(path))
                if _VERSION.match(base)
                else re.sub(r"\.(?:txt|secret)\Z", "", base)
            )
            self.judge(Secret(name, text.rstrip("\r\n"), path, path, _family(name)))
        return True

    # across files

    def reuse(self) -> None:
        """SEC-06, by digest."""
        key = os.urandom(32)
        groups: dict[bytes, list[Secret]] = {}
        for secret in self.secrets:
            value = _bare(secret.value.strip(), None)
            if len(value) > 3:
                digest = hmac.digest(key, value.encode("utf-8", "surrogatepass"), "sha256")
                groups.setdefault(digest, []).append(secret)
        for group in groups.values():
            distinct: list[Secret] = []
            for secret in sorted(group, key=lambda item: (item.path, item.where)):
                if any(_same(secret, other) for other in distinct):
                    continue
                if distinct:
                    first = distinct[0]
                    self.audit.find(
                        "SEC-06", secret.path, secret.where,
                        f"{secret.name or 'a secret'} has the value of {first.name or 'a secret'} at {first.where}",
                    )  # fmt: skip
                distinct.append(secret)

    def dead_switches(self, usage: _env_search.Usage, searched: bool) -> None:
        """SEC-14."""
        if not searched:
            self.audit.unknown("SEC-14", "no files were named that could consume the variables")
            return
        if len(self.switches) >= SWITCHES:
            self.audit.unknown("SEC-14", f"only the first {SWITCHES} switches were looked for")
        if not usage.searched and not usage.problems:
            usage.problems.append("there was no file to search")
        for problem in usage.problems:
            self.audit.unknown("SEC-14", problem)
        for name, (where, path) in sorted(self.switches.items()):
            if name in usage.names or usage.problems:
                continue
            if posixpath.basename(path) in usage.whole:
                self.audit.unknown("SEC-14", f"{name}: the whole file is handed to a program, which may read it")
                continue
            self.audit.find("SEC-14", path, where, f"{name} is mentioned in none of {usage.searched} files")

    def ages(self, manifest: str | None, today: datetime.date, limit: int | None) -> None:
        """SEC-15: how old the current versions are, by the list of secrets."""
        if manifest is None or limit is None:
            return
        text = self.read(manifest, MANIFEST_LIMIT, "SEC-15")
        if text is None:
            return
        try:
            entries = json.loads(text)["secrets"]
            dates = [
                (str(name), str(entry["versions"][str(entry["current"])]["created"])[:10])
                for name, entry in sorted(entries.items())
                if entry.get("state", "active") == "active"
            ]
            born = [(name, datetime.date.fromisoformat(day)) for name, day in dates]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            self.audit.unknown("SEC-15", f"{manifest} is not a list of secrets that this module can read")
            return
        for name, day in born:
            age = (today - day).days
            if age > limit:
                self.audit.find(
                    "SEC-15", manifest, manifest, f"{name} is {age} days old, at most {limit} are wanted", severity="medium"
                )  # fmt: skip


def _visible(value: str) -> str:
    """A value with its marks written as the variables that they stand for."""
    return re.sub(f"{_env_parse.MARK}([^{_env_parse.MARK}]*){_env_parse.MARK}", r"${\1}", value)


def _bare(value: str, guesses) -> str:
    """The password of a login or the key behind its version: what stands before the colon is no secret."""
    match = _PREFIXED.match(value)
    if not match or match[2].startswith("//"):
        return value
    # A random value may hold a colon too, and then what stands before it is a part of it.
    if len(match[1]) > 20 or (guesses and len(match[2]) < 8 and (guesses(match[1]) or 0) >= STRONG):
        return value
    return match[2]


def _url_family(name: str, url: UrlCredential) -> frozenset:
    scheme = url.scheme.split("+")[0].upper()
    family = _SAME.get(scheme, scheme)
    return frozenset([family]) if family in (*_DATABASES, "REDIS", "RABBITMQ") else _family(name)


def _is_switch(name: str, value: str) -> bool:
    parts = set(re.split(r"[^0-9A-Za-z]+", name.upper()))
    promises = parts & _SWITCH or {"RATE", "LIMIT"} <= parts or {"RATE", "LIMITING"} <= parts
    return bool(promises) and bool(_SWITCHED.match(value.strip())) and not is_path(value)


def audit(
    files: Files,
    *,
    env_files: Iterable[str] = (),
    secret_directories: Iterable[str] = (),
    consumers: Mapping[str, int] | None = None,
    search: Iterable[str] = (),
    vcs_root: str | None = None,
    readers: Iterable[str] = ("compose",),
    context: Iterable[str] = (),
    logs: Iterable[str] = (),
    manifest: str | None = None,
    max_age_days: int | None = None,
    judge_modes: bool = True,
    today: datetime.date | None = None,
) -> dict:
    """Judge env files and directories of secrets.

    consumers: uid that reads a secret file, by the path of the file or of a directory above it.
    search: files and directories where variables are consumed and env files are used.
    readers: programs that read the env files, beside those that the search finds.
    context: names that an attacker tries first, such as the name of the company.
    logs: files and directories that are searched for the values of the secrets, beside those next to them.
    manifest, max_age_days: the list of secrets of mcpstack.platform.secret, and how old one may be.
    judge_modes: False when the files come from elsewhere and their modes and owners say nothing.
    """
    env_files = sorted({posixpath.normpath(path) for path in env_files})
    roots = sorted({posixpath.normpath(path) for path in secret_directories})
    meant = {posixpath.normpath(path): uid for path, uid in (consumers or {}).items()}
    search, logs = list(search), list(logs)
    run = _Run(files, context, readers)
    usage = _env_search.search(files, search, env_files) if search else _env_search.Usage()
    for path in env_files:
        run.env_file(path, usage)
    found = {root: run.directory(root) for root in roots}
    run.reuse()
    if env_files:
        run.dead_switches(usage, bool(search))
    for path, line, base in usage.sourced[:SCRIPTS]:
        run.audit.find("SEC-13", path, f"{path}:{line}", f"runs {base} as a program: a value can hold a command")

    secrets = sorted(
        {*(path for path, holds in run.holders.items() if holds), *(path for paths in found.values() for path in paths)}
    )
    if judge_modes:
        for path in sorted({*run.holders, *secrets}):
            if places.TEMPLATE.search(posixpath.basename(path)) and path in run.holders:
                continue
            uid = places.consumer_of(path, meant)
            places.modes(run.audit, files, path, () if uid is None else (uid,), run.holders.get(path, True))
        for root, paths in found.items():
            for path in paths:
                uid = places.consumer_of(path, meant)
                if uid is not None:
                    places.consumer(run.audit, files, path, uid, root)
        values = [_bare(secret.value.strip(), None).encode("utf-8", "surrogatepass") for secret in run.secrets]
        places.copies(run.audit, files, secrets, values, logs)
        run.ages(manifest, today or datetime.datetime.now(datetime.timezone.utc).date(), max_age_days)
    else:
        for check_id in ("SEC-07", "SEC-09", "SEC-15"):
            run.audit.unknown(check_id, "modes and owners of the files are not known here")
    places.version_control(run.audit, files, secrets, vcs_root, run.leaks)
    places.build_contexts(run.audit, files, secrets, [*usage.directories, *([vcs_root] if vcs_root else [])])
    _states(run.audit, env_files, roots, meant)
    return run.audit.result()


def _states(result: Audit, env_files: list[str], roots: list[str], consumers: Mapping[str, int]) -> None:
    """Everything was looked at; what could not be decided has said so."""
    nothing = "no env file and no directory of secrets was named"
    for check_id in DECIDES:
        if check_id in ("SEC-01", "SEC-02", "SEC-13", "SEC-14") and not env_files:
            result.not_applicable(check_id, "no env file was named")
        elif check_id == "SEC-09" and not (roots and consumers):
            result.not_applicable(check_id, "no directory of secrets with consumers was named")
        elif not env_files and not roots:
            result.not_applicable(check_id, nothing)
        else:
            result.decide(check_id)
