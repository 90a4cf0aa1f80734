# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judge Valkey or Redis by configuration and users, by its service, and by asking it (VLK).

PRIVATE: internal to the collection, may change in any release. Standard library only. No password is ever evidence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ansible_collections.mcpstack.platform.plugins.module_utils import _valkey_config as config
from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import Files, Unreadable
from ansible_collections.mcpstack.platform.plugins.module_utils._checks_valkey import CHECKS
from ansible_collections.mcpstack.platform.plugins.module_utils._valkey_client import Client, ClientError, Refused
from ansible_collections.mcpstack.platform.plugins.module_utils._valkey_service import (
    Service,
    exposed,
    health_words,
    judge_health,
    judge_version,
)

MEMORY_SHARE = 0.75
PASSWORD_LENGTH = 16

_PLACEHOLDER = re.compile(
    r"(?i)change.?me|replace.?me|your.?(pass|secret|key)|placeholder|example|foobared|^(admin|redis|valkey|default|secret|password|passwd|test|root)[0-9!]*$"
)
_EVERYWHERE = ("*", "::*", "0.0.0.0", "::")  # noqa: S104 -- what is looked for, not what is bound
_GOOD_SUITE = re.compile(r"^(TLS_.*|(ECDHE|DHE)-.*(GCM|CHACHA20).*)\Z")
_POLICIES = frozenset(
    ("noeviction", "volatile-ttl", *(f"{a}-{b}" for a in ("volatile", "allkeys") for b in ("lru", "lfu", "random")))
)


@dataclass
class Request:
    """What to judge. ``acl_file`` is where the file named by the configuration is here. use: cache, store or any."""

    files: Files
    config: str = ""
    acl_file: str = ""
    data_dir: str = ""
    service: Service = field(default_factory=Service)
    admin_users: Sequence[str] = ()
    internal_network: bool = False
    use: str = "any"
    version: str = ""
    subject: str = "valkey"
    open: Callable[[], Client] | None = None
    user: str = ""
    password: str = field(default="", repr=False)


def audit_valkey(request: Request) -> dict:
    """Findings, checks_run and summary. Never raises for what is read or answered."""
    audit = Audit(CHECKS)
    settings = None
    if request.config:
        settings = _from_files(audit, request)
    live = _Live(audit, request) if request.open else None
    if live:
        live.run()
    if settings is None and not (live and live.settings):
        for check in ("VLK-03", "VLK-04", "VLK-05", "VLK-06", "VLK-08"):
            audit.unknown(check, "no configuration was given, and none was told by the server")
    if settings is None and not (live and live.users is not None):
        audit.unknown("VLK-01", "the rules of the users are not known")
    _service(audit, request)
    _data_dir(audit, request, settings)
    _version(audit, request, live.version if live else "")
    return audit.result()


# -- configuration ----------------------------------------------------------------------------------------------------


def _from_files(audit: Audit, request: Request) -> config.Settings | None:
    settings, problems = config.read_config(request.files, request.config)
    for problem in problems:
        for check in ("VLK-01", "VLK-03", "VLK-04", "VLK-05", "VLK-06", "VLK-08"):
            audit.unknown(check, problem)
    if problems and not settings._found:
        return None
    users = _users(audit, request, settings)
    _judge_settings(audit, request, settings, users)
    if users is not None:
        _judge_users(audit, request, users, _removed(settings))
    return settings


def _removed(settings: config.Settings) -> set[str]:
    """Commands that rename-command takes away from everybody."""
    return {line.value.lower() for line in settings.all("rename-command") if line.words[1:] == ("",)}


def _users(audit: Audit, request: Request, settings: config.Settings) -> list[config.User] | None:
    """Every user as the server will have it after it has started; None when that is not known."""
    channels = settings.get("acl-pubsub-default", "resetchannels").value.lower() == "allchannels"
    named = settings.get("aclfile").value
    path = request.acl_file or named
    if path:
        if not request.files.knows(path):
            audit.unknown("VLK-01", f"the ACL file {path} is not at hand")
            audit.unknown("VLK-05", f"the ACL file {path} is not at hand")
            return None
        try:
            text = request.files.text(path)
        except Unreadable as error:
            audit.unknown("VLK-01", str(error))
            audit.unknown("VLK-05", str(error))
            return None
        info = request.files.stat(path)
        if info and info.mode & 0o077:
            audit.find("VLK-01", request.subject, path, f"the ACL file has mode {info.mode:04o}", severity="high")
        users, problems = config.parse_acl(text, path, channels)
        for problem in problems:
            audit.find("VLK-01", request.subject, path, problem, severity="medium")
        if not any(user.name == "default" for user in users):
            # Reading the file resets default, whatever requirepass had made of it.
            users.append(config.default_user(path))
        return users
    users = {
        line.value: config.parse_user(line.words, line.where, channels) for line in settings.all("user") if line.words
    }
    default = users.get("default") or config.default_user(settings.source)
    password = settings.get("requirepass")
    if password.value:
        default.plain, default.nopass, default.where = [password.value], False, password.where
    users["default"] = default
    return list(users.values())


def weak_password(password: str) -> str:
    """Why a password in clear is weak, in words that do not tell it; empty when it is not."""
    if not password:
        return "is empty"
    if _PLACEHOLDER.search(password):
        return "is a placeholder or a default"
    if len(password) < PASSWORD_LENGTH:
        return f"has {len(password)} characters, fewer than {PASSWORD_LENGTH}"
    if len(set(password)) < 6:
        return "repeats a few characters"
    return ""


def _judge_users(audit: Audit, request: Request, users: Sequence[config.User], removed: set[str]) -> None:
    audit.decide("VLK-01", "VLK-05")
    for user in users:
        if user.on:
            _judge_user(audit, request, user, removed)


def _judge_user(audit: Audit, request: Request, user: config.User, removed: set[str]) -> None:
    def find(check: str, evidence: str, **changes) -> None:
        audit.find(check, request.subject, user.where, f"user {user.name} {evidence}", **changes)

    if user.nopass:
        if not user.harmless:
            find("VLK-01", "needs no password")
    elif user.plain:
        problems = {weak_password(password) for password in user.plain} - {""}
        for problem in sorted(problems):
            find("VLK-01", f"has a password that {problem}")
        if request.files.knows(user.where.rpartition(":")[0]) and not user.where.startswith(request.config + ":"):
            find("VLK-01", "has its password in clear in the ACL file", severity="medium")
    elif not user.hashes:
        return  # on, but nobody can log in
    if user.name in request.admin_users or user.harmless:
        return
    gone = {command for command in config.DANGEROUS if command.partition("|")[0] in removed}
    danger = [name for name in config.DANGEROUS if name not in gone and user.allows(name)]
    if danger:
        find("VLK-05", f"may run {_commands(danger)}")
    if user.name == "default" and not user.nopass:
        return  # the one user of a server without ACLs: its rights are the business of VLK-05
    administers = [name for name in config.ADMINISTRATIVE if user.allows(name)]
    if administers:
        find("VLK-01", f"may run {_commands(administers)}", severity="high")
    if user.name != "default":
        if user.all_keys:
            find("VLK-01", "may use all keys", severity="medium")
        if user.all_channels:
            find("VLK-01", "may use all channels", severity="low")


def _commands(found: Sequence[str]) -> str:
    shown = [name.replace("|", " ").upper() for name in found]
    return ", ".join(shown[:4]) + (f" and {len(shown) - 4} more" if len(shown) > 4 else "")


def _judge_settings(
    audit: Audit, request: Request, settings: config.Settings, users: Sequence[config.User] | None
) -> None:
    audit.decide("VLK-03", "VLK-04", "VLK-06", "VLK-08")
    _reach(audit, request, settings, users)
    _encryption(audit, request, settings)
    for name in ("enable-protected-configs", "enable-debug-command", "enable-module-command"):
        line = settings.get(name, "no")
        if line.value.lower() != "no":
            severity = "medium" if line.value.lower() == "local" else None
            audit.find("VLK-05", request.subject, line.where, f"{name} {line.value}", severity=severity)
    line = settings.get("acl-pubsub-default", "resetchannels")
    if line.value.lower() == "allchannels":
        audit.find("VLK-01", request.subject, line.where, "acl-pubsub-default allchannels", severity="low")
    _memory(audit, request, settings)
    _clients(audit, request, settings)


def _reach(audit: Audit, request: Request, settings: config.Settings, users: Sequence[config.User] | None) -> None:
    line = settings.get("protected-mode", "yes")
    if line.value.lower() != "yes":
        default = next((user for user in users or () if user.name == "default"), None)
        unprotected = default is not None and default.on and default.nopass
        severity = None if unprotected else "medium"
        audit.find("VLK-03", request.subject, line.where, f"protected-mode {line.value}", severity=severity)
    if not request.service.contained:
        line = settings.get("bind", "127.0.0.1")
        wide = (
            [word for word in line.words if word.removeprefix("-") in _EVERYWHERE]
            if line.words
            else ["every interface"]
        )
        if wide and _ports(settings) != (0, 0):
            audit.find("VLK-03", request.subject, line.where, f"bind {' '.join(line.words)}", severity="high")
    line = settings.get("unixsocketperm", "0")
    if settings.get("unixsocket").value and re.fullmatch("[0-7]{1,4}", line.value) and int(line.value, 8) & 0o007:
        audit.find("VLK-03", request.subject, line.where, f"unixsocketperm {line.value}", severity="medium")


def _ports(settings: config.Settings) -> tuple[int, int]:
    numbers = []
    for name, default in (("port", "6379"), ("tls-port", "0")):
        value = settings.get(name, default).value
        numbers.append(int(value) if value.isascii() and value.isdigit() and len(value) < 6 else int(default))
    return numbers[0], numbers[1]


def _encryption(audit: Audit, request: Request, settings: config.Settings) -> None:
    plain, encrypted = _ports(settings)
    if plain and not request.internal_network:
        audit.find("VLK-04", request.subject, settings.get("port").where, f"port {plain} is open without TLS")
    if not encrypted:
        return
    missing = [name for name in ("tls-cert-file", "tls-key-file") if not settings.get(name).value]
    if missing:
        audit.find("VLK-04", request.subject, settings.get("tls-port").where, f"tls-port without {', '.join(missing)}")
    if settings.has("tls-protocols"):
        line = settings.get("tls-protocols")
        old = [word for word in " ".join(line.words).split() if word.lower() not in ("tlsv1.2", "tlsv1.3")]
        if old:
            audit.find("VLK-04", request.subject, line.where, f"tls-protocols holds {', '.join(old)}")
    for name in ("tls-ciphers", "tls-ciphersuites"):
        line = settings.get(name)
        weak = [suite for suite in line.value.split(":") if suite and not _GOOD_SUITE.match(suite)]
        if weak:
            audit.find("VLK-04", request.subject, line.where, f"{name} holds {', '.join(weak[:4])}")


def _memory(audit: Audit, request: Request, settings: config.Settings) -> None:
    line = settings.get("maxmemory", "0")
    size = config.memory(line.value)
    if not size:
        audit.find("VLK-06", request.subject, line.where, f"maxmemory {line.value}")
    elif request.service.memory_limit:
        share = size / request.service.memory_limit
        if share > MEMORY_SHARE:
            evidence = f"maxmemory {line.value} is {share:.0%} of the container's memory limit"
            audit.find("VLK-06", request.subject, line.where, evidence)
    elif request.service.contained:
        audit.unknown("VLK-06", "the memory limit of the container is not known")
    line = settings.get("maxmemory-policy", "noeviction")
    policy = line.value.lower()
    wrong = {
        "cache": policy == "noeviction", "store": policy != "noeviction", "any": policy not in _POLICIES,
    }[request.use]  # fmt: skip
    if wrong:
        evidence = f"maxmemory-policy {policy}" + (f" does not fit a {request.use}" if request.use != "any" else "")
        audit.find("VLK-06", request.subject, line.where, evidence, severity="low")


def _clients(audit: Audit, request: Request, settings: config.Settings) -> None:
    line = settings.get("timeout", "0")
    if line.value == "0":
        audit.find("VLK-08", request.subject, line.where, "timeout 0 never closes idle clients", severity="low")
    limits = {"normal": ("0", "0"), "pubsub": ("32mb", "8mb")}
    where = dict.fromkeys(limits, settings.source)
    for line in settings.all("client-output-buffer-limit"):
        for place in range(0, len(line.words) - 3, 4):
            kind = line.words[place].lower()
            limits[kind], where[kind] = (line.words[place + 1], line.words[place + 2]), line.where
    for kind in ("normal", "pubsub"):
        if all(config.memory(value) == 0 for value in limits[kind]):
            evidence = f"client-output-buffer-limit {kind} is unlimited"
            audit.find("VLK-08", request.subject, where[kind], evidence, severity="low")


# -- the service around it --------------------------------------------------------------------------------------------


def _service(audit: Audit, request: Request) -> None:
    service = request.service
    if service.published is None:
        audit.unknown("VLK-03", "whether a port is published is not known")
    elif service.published:
        audit.find("VLK-03", request.subject, request.subject, f"publishes {', '.join(service.published)}")
    health = health_words(service.healthcheck)
    known = (service.command, service.environment, service.healthcheck)
    if any(part is None for part in known):
        audit.unknown("VLK-02", "the command, the environment or the health check of the service is not known")
    else:
        audit.decide("VLK-02")
    for evidence in exposed(service.command or (), service.environment or (), health):
        audit.find("VLK-02", request.subject, request.subject, evidence)
    if service.healthcheck is None:
        audit.unknown("VLK-07", "the health check of the service is not known")
        return
    verdict, why = judge_health(health)
    if verdict is None:
        audit.unknown("VLK-07", why)
    elif verdict:
        audit.decide("VLK-07")
    else:
        audit.find("VLK-07", request.subject, request.subject, why)


def _data_dir(audit: Audit, request: Request, settings: config.Settings | None) -> None:
    path = request.data_dir or (settings.get("dir").value if settings else "")
    if not path.startswith("/") or not request.files.knows(path):
        audit.unknown("VLK-08", "the directory of the data is not at hand")
        return
    info = request.files.stat(path)
    if info is None:
        audit.unknown("VLK-08", f"{path} is not there")
    elif info.mode & 0o007:
        audit.find("VLK-08", request.subject, path, f"the data directory has mode {info.mode:04o}")


def _version(audit: Audit, request: Request, running: str) -> None:
    """The number that the server tells is the upstream's; the package's says whether fixes were ported back."""
    if not running and not request.version:
        audit.unknown("VLK-08", "the version of the server is not known")
        return
    good, why = judge_version(running or request.version)
    if running and good is False:
        if not request.version:
            good, why = None, f"{why}; name the package's version if a distribution ports fixes back"
        elif running.rpartition(" ")[2] in request.version:
            good, why = judge_version(request.version)
    if good is None:
        audit.unknown("VLK-08", why)
    elif not good:
        audit.find("VLK-08", request.subject, request.subject, why, severity="high")


# -- the running server -----------------------------------------------------------------------------------------------


class _Live:
    """Asks the server with what it was given, and takes a refusal for what it is: not known."""

    def __init__(self, audit: Audit, request: Request):
        self.audit, self.request = audit, request
        self.settings: config.Settings | None = None
        self.users: list[config.User] | None = None
        self.version = ""

    def run(self) -> None:
        """Every question."""
        self._stranger()
        try:
            with self.request.open() as client:
                if self.request.password:
                    client.ask("AUTH", *([self.request.user] if self.request.user else []), self.request.password)
                self._questions(client)
        except ClientError as error:
            self._silent(str(error))
        except Refused as error:
            self._silent(f"the login is refused ({error.code})")

    def _silent(self, reason: str) -> None:
        for check in ("VLK-01", "VLK-03", "VLK-04", "VLK-05", "VLK-06", "VLK-08"):
            self.audit.unknown(check, reason)

    def _stranger(self) -> None:
        """What somebody without a password gets."""
        try:
            with self.request.open() as client:
                client.ask("PING")
                # Whoever may only PING, which a health check needs, can do no harm.
                client.ask("EXISTS", "mcpstack-audit")
                self.audit.find("VLK-01", self.request.subject, self.request.subject, "reads data without a login")
        except Refused as error:
            if error.code not in ("NOAUTH", "NOPERM", "DENIED"):
                self.audit.unknown("VLK-01", f"a stranger is told {error.code}")
        except ClientError as error:
            self.audit.unknown("VLK-01", str(error))

    def _try(self, client: Client, *words: str) -> object:
        try:
            return client.ask(*words)
        except Refused:
            return None

    def _questions(self, client: Client) -> None:
        info = self._try(client, "INFO", "server")
        if isinstance(info, str):
            told = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
            if told.get("valkey_version"):
                self.version = f"valkey {told['valkey_version']}"
            elif told.get("redis_version"):
                self.version = f"redis {told['redis_version']}"
        listed = self._try(client, "ACL", "LIST")
        users = None
        if isinstance(listed, list):
            users, _problems = config.parse_acl("\n".join(str(line) for line in listed), "ACL LIST")
            self.users = users
        else:
            self.audit.unknown("VLK-01", "ACL LIST is refused to this user")
            self.audit.unknown("VLK-05", "ACL LIST is refused to this user")
        pairs = self._try(client, "CONFIG", "GET", "*")
        if isinstance(pairs, list) and len(pairs) > 20:
            texts = [str(item) for item in pairs]
            values = dict(zip(texts[::2], texts[1::2]))
            values.pop("requirepass", None)  # it is in the list of users, as a hash
            self.settings = config.from_pairs(values, "CONFIG GET")
            _judge_settings(self.audit, self.request, self.settings, users)
        else:
            for check in ("VLK-03", "VLK-04", "VLK-05", "VLK-06", "VLK-08"):
                if not self.request.config:
                    self.audit.unknown(check, "CONFIG GET is refused to this user")
        if users is not None:
            _judge_users(self.audit, self.request, users, set())
