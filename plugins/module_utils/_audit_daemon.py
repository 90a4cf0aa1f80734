# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judges the Docker engine: DMN-01 to DMN-17.

PRIVATE: internal to the collection, may change in any release. Standard library only.

What the engine answers and what it would use at its next start are both judged, and each weakness is reported once, at
the place where it is corrected.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable

from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_daemon_versions import audit_versions
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import Files, Unreadable
from ansible_collections.mcpstack.platform.plugins.module_utils._daemon_settings import ABSENT, Settings, load
from ansible_collections.mcpstack.platform.plugins.module_utils._host_policy import HostPolicy
from ansible_collections.mcpstack.platform.plugins.module_utils._host_probe import Answers, HostFacts, as_list

SUBJECT = "docker engine"
INFO = "engine /info"
#: Ports on which dockerd listens for a Swarm, not for its API.
_SWARM_PORTS = (2377, 7946)
_LEVELS = ("", "info", "warn", "warning")
_LOUD = ("debug", "trace")
_DEAD_DRIVERS = ("aufs", "devicemapper", "overlay", "vfs")
#: Log drivers without a bound of their own.
_UNBOUNDED = ("json-file",)
_NO_LIMIT = 1 << 30
#: Most entries of one list that are judged; nobody has that many, and a report is to be read.
_SHOWN = 200


class _Context:
    """What every check needs."""

    def __init__(self, audit: Audit, files: Files, answers: Answers, facts: HostFacts, policy: HostPolicy):
        self.audit, self.files, self.answers, self.facts, self.policy = audit, files, answers, facts, policy
        self.settings: Settings = load(files, facts.daemon)
        self.info: dict | None = answers.get("/info", dict)
        options = (self.info or {}).get("SecurityOptions")
        self.options = [str(item) for item in options] if isinstance(options, list) else []

    def find(self, check_id: str, where: str, evidence: str, **more) -> None:
        self.audit.find(check_id, SUBJECT, where, evidence, **more)

    def weak(self, check_id: str, key: str, bad: Callable[[object], str]) -> bool:
        """Report each value in effect of which ``bad`` says something; whether there was one."""
        found = False
        for seen in self.settings.seen(key):
            what = bad(seen.value)
            if what:
                self.find(check_id, seen.where, what)
                found = True
        return found

    def some(self, check_id: str, entries: object) -> list:
        """The entries of a list, cut where nobody would read on; then the check is not decided to the end."""
        entries = as_list(entries)
        if len(entries) > _SHOWN:
            self.audit.unknown(check_id, f"only the first {_SHOWN} of {len(entries)} entries were judged")
        return entries[:_SHOWN]

    def close(self, check_id: str, *keys: str, asked: str = "") -> None:
        """The check is decided when its settings are known and the engine answered what it was asked."""
        decided = True
        for key in keys:
            if not self.settings.known(key):
                self.audit.unknown(check_id, self.settings.reason(key))
                decided = False
        if asked and self.answers.get(asked, list if asked == "/networks" else dict) is None:
            self.audit.unknown(check_id, self.answers.reason(asked))
            decided = False
        if decided:
            self.audit.decide(check_id)


def _shown(key: str, value: object) -> str:
    if value is ABSENT:
        return f"{key} is not set"
    return f"{key}: {str(value).lower() if isinstance(value, bool) else value}"


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _must_be(key: str, wanted: bool, default: bool) -> Callable[[object], str]:
    def bad(value: object) -> str:
        effective = default if value is ABSENT else value
        return "" if effective is wanted else _shown(key, value)

    return bad


# -- the API ----------------------------------------------------------------------------------------------------------


def _tcp(host: str) -> tuple[str, int] | None:
    """Address and port of an entry of hosts; None when it is a socket in the file system or handed over by systemd."""
    scheme, separator, rest = host.strip().partition("://")
    if not separator:
        scheme, rest = "tcp", host.strip()
    if scheme.lower() != "tcp":
        return None
    address, _colon, port = rest.partition("/")[0].rpartition(":")
    if not _colon:
        address, port = rest.partition("/")[0], ""
    return address.strip("[]"), int(port) if port.isdecimal() and port.isascii() and len(port) < 6 else 0


def _loopback(address: str) -> bool:
    """dockerd takes an empty address for 127.0.0.1."""
    if address.lower() in ("", "localhost"):
        return True
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return (getattr(parsed, "ipv4_mapped", None) or parsed).is_loopback


def _verified(settings: Settings, flag_view: bool) -> bool:
    """Whether the engine demands certificates, at its next start or as it runs."""
    views = [settings.running if flag_view else settings.unit]
    flags = views[0] or settings.unit or settings.running
    if flags is not None and "tlsverify" in flags.values:
        return flags.values["tlsverify"][0] is True
    return settings.file.values.get("tlsverify") is True


def _api(ctx: _Context) -> None:
    """DMN-01."""
    settings, daemon = ctx.settings, ctx.facts.daemon
    running_known = settings.running is not None
    verified = _verified(settings, False) and _verified(settings, True)
    told: set[tuple[str, int]] = set()
    uses_fd = False
    for seen in settings.seen("hosts"):
        for host in ctx.some("DMN-01", seen.value):
            uses_fd = uses_fd or host.strip().lower().startswith("fd://")
            target = _tcp(host)
            if target is None:
                continue
            told.add(target)
            if not verified:
                _open_api(ctx, seen.where, f"{host} without tlsverify", target[0])
    for item in settings.sockets:
        if uses_fd and item.name == "ListenStream" and not item.value.startswith(("/", "@", "vsock:", "%t")):
            target = _tcp(item.value) or ("", 0)
            address = target[0] or "0.0.0.0"  # noqa: S104 - systemd takes a bare port for every address
            told.add((address, target[1] or (int(item.value) if item.value.isdecimal() and len(item.value) < 6 else 0)))
            if not verified:
                _open_api(ctx, item.where, f"ListenStream={item.value} without tlsverify", address)
    if daemon is not None and daemon.listening:
        others = [item for item in _unexplained(ctx, daemon.listening) if all(item[1] != port for _a, port in told)]
        if others and not verified and ctx.answers.get("/containers/json", list) is None:
            # a listener may be a published port
            ctx.audit.unknown("DMN-01", ctx.answers.reason("/containers/json"))
            others = []
        for address, port in others if not verified else ():
            shown = f"[{address}]" if ":" in address else address
            _open_api(ctx, f"{shown}:{port}/tcp", "dockerd listens here, no published port and no tlsverify", address)
    if not running_known and ctx.answers.engine is not None:
        ctx.audit.unknown("DMN-01", ctx.facts.daemon_problem)
    elif daemon is not None and daemon.listening is None:
        ctx.audit.unknown("DMN-01", "the sockets of dockerd cannot be read; run this as root")
    ctx.close("DMN-01", "hosts", "tlsverify")


def _open_api(ctx: _Context, where: str, evidence: str, address: str) -> None:
    local = _loopback(address)
    ctx.find("DMN-01", where, f"{evidence}{' (loopback)' if local else ''}", severity="high" if local else "critical")


def _unexplained(ctx: _Context, listening) -> list[tuple[str, int]]:
    """Listeners of dockerd that are no published port, no Swarm port and not the metrics."""
    ports = set()
    for container in ctx.answers.containers() or ():
        ports.update(port["PublicPort"] for port in container["Ports"] if isinstance(port.get("PublicPort"), int))
    if _swarm_state(ctx) not in ("", "inactive"):
        ports.update(_SWARM_PORTS)
    for seen in ctx.settings.seen("metrics-addr"):
        target = _tcp(_text(seen.value)) if _text(seen.value) else None
        if target:
            ports.add(target[1])
    return [(address, port) for address, port in listening if port not in ports]


# -- settings that files decide ------------------------------------------------------------------------------------------


def _logging_level(ctx: _Context) -> None:
    """DMN-03."""

    def level(value: object) -> str:
        if value is ABSENT or _text(value).lower() in _LEVELS:
            return ""
        loud = _text(value).lower() in _LOUD
        return f"log-level: {value}" + ("" if loud else ", which leaves out what an investigation needs")

    found = ctx.weak("DMN-03", "log-level", level)
    found |= ctx.weak("DMN-03", "debug", lambda value: "debug: true" if value is True else "")
    if not found and (ctx.info or {}).get("Debug") is True:
        ctx.find("DMN-03", INFO, "Debug: true, switched on while running")
    ctx.close("DMN-03", "log-level", "debug")


def _packet_filter(ctx: _Context) -> None:
    """DMN-04."""
    ctx.weak("DMN-04", "iptables", lambda value: "iptables: false" if value is False else "")
    ctx.weak("DMN-04", "ip6tables", lambda value: "ip6tables: false" if value is False else "")
    ctx.close("DMN-04", "iptables", "ip6tables")


def _limit(value: object, name: str) -> int:
    """A bound of a ulimit; Go finds the names in any case."""
    if not isinstance(value, dict):
        return -1
    for key, number in value.items():
        if str(key).lower() == name and isinstance(number, int) and not isinstance(number, bool):
            return number
    return -1


def _ulimits(ctx: _Context) -> None:
    """DMN-07."""

    def bad(value: object) -> str:
        limits = value if isinstance(value, dict) else {}
        if "nofile" not in limits:
            return "default-ulimits has no nofile" if limits else "default-ulimits is not set"
        hard = _limit(limits["nofile"], "hard")
        return "" if 0 < hard < _NO_LIMIT else f"nofile has no finite hard limit ({hard})"

    ctx.weak("DMN-07", "default-ulimits", bad)
    ctx.close("DMN-07", "default-ulimits")


def _cgroup_parent(ctx: _Context) -> None:
    """DMN-09."""
    usual = ("", "/docker", "docker", "system.slice")
    ctx.weak(
        "DMN-09", "cgroup-parent",
        lambda value: "" if value is ABSENT or _text(value) in usual else f"cgroup-parent: {value}",
    )  # fmt: skip
    ctx.close("DMN-09", "cgroup-parent")


def _userland_proxy(ctx: _Context) -> None:
    """DMN-14."""
    ctx.weak("DMN-14", "userland-proxy", _must_be("userland-proxy", False, True))
    ctx.close("DMN-14", "userland-proxy")


# -- what the engine answers and files confirm -----------------------------------------------------------------------------


def _bridge(ctx: _Context) -> None:
    """DMN-02: the network's own option, and what the next start would make of it."""
    networks = ctx.answers.get("/networks", list)
    bridges = [_text(seen.value) for seen in ctx.settings.seen("bridge")]
    none = bool(bridges) and all(name == "none" for name in bridges)
    found = not none and ctx.weak("DMN-02", "icc", _must_be("icc", False, True))
    for network in networks or ():
        options = network.get("Options") if isinstance(network, dict) else None
        options = options if isinstance(options, dict) else {}
        if not isinstance(network, dict) or network.get("Driver") != "bridge":
            continue
        if options.get("com.docker.network.bridge.default_bridge") != "true" and network.get("Name") != "bridge":
            continue
        if options.get("com.docker.network.bridge.enable_icc") != "false" and not found:
            ctx.find(
                "DMN-02", "network bridge", "enable_icc is not false although icc is: the bridge keeps what it had"
            )
    ctx.close("DMN-02", "icc", asked="/networks")


def _registry_host(name: str) -> bool:
    """Whether a registry, a network or a mirror is beyond loopback."""
    name = re.sub(r"^[a-z]+://", "", name.strip().lower()).partition("/")[0] if "://" in name else name.strip().lower()
    try:
        network = ipaddress.ip_network(name, strict=False)
    except ValueError:
        host = name
        if host.startswith("["):
            host = host[1:].partition("]")[0]
        elif host.count(":") == 1:
            host = host.partition(":")[0]
        return not (host != "" and _loopback(host))
    return not network.is_loopback


def _registries(ctx: _Context) -> None:
    """DMN-05."""
    reported = set()
    for key in ("insecure-registries", "registry-mirrors"):
        for seen in ctx.settings.seen(key):
            for entry in ctx.some("DMN-05", seen.value):
                mirror = key == "registry-mirrors"
                if (not mirror or entry.strip().lower().startswith("http://")) and _registry_host(entry):
                    ctx.find("DMN-05", seen.where, f"{key}: {entry}")
                    reported.add(entry)
    config = (ctx.info or {}).get("RegistryConfig")
    config = config if isinstance(config, dict) else {}
    entries = [item for item in as_list(config.get("InsecureRegistryCIDRs")) if isinstance(item, str)]
    indexes = config.get("IndexConfigs")
    for name, index in (indexes if isinstance(indexes, dict) else {}).items():
        if isinstance(index, dict) and index.get("Secure") is False:
            entries.append(str(name))
    for entry in ctx.some("DMN-05", entries):
        if entry not in reported and _registry_host(entry):
            ctx.find("DMN-05", INFO, f"insecure registry {entry}")
    for mirror in as_list(config.get("Mirrors")):
        if isinstance(mirror, str) and mirror.rstrip("/") not in {item.rstrip("/") for item in reported}:
            if mirror.lower().startswith("http://") and _registry_host(mirror):
                ctx.find("DMN-05", INFO, f"registry mirror {mirror}")
    ctx.close("DMN-05", "insecure-registries", "registry-mirrors", asked="/info")


def _storage(ctx: _Context) -> None:
    """DMN-06."""

    def driver(value: object) -> str:
        return f"storage-driver: {value}" if _text(value).lower() in _DEAD_DRIVERS else ""

    def options(value: object) -> str:
        entries = value if isinstance(value, list) else []
        return next((f"storage-opts: {item}" for item in entries if item.strip().startswith("dm.basesize")), "")

    found = ctx.weak("DMN-06", "storage-driver", driver)
    ctx.weak("DMN-06", "storage-opts", options)
    if not found and _text((ctx.info or {}).get("Driver")) in _DEAD_DRIVERS:
        ctx.find("DMN-06", INFO, f"Driver: {(ctx.info or {}).get('Driver')}")
    ctx.close("DMN-06", "storage-driver", "storage-opts", asked="/info")


def _user_namespaces(ctx: _Context) -> None:
    """DMN-08."""
    names = [item.partition(",")[0] for item in ctx.options]
    mild = {"severity": "info"} if ctx.policy.root_containers is False else {}
    note = "; every running container has a user other than root" if mild else ""
    if "name=rootless" in names:
        ctx.close("DMN-08", asked="/info")
        return
    found = ctx.settings.seen("userns-remap")
    unset = [seen for seen in found if seen.value is ABSENT or not _text(seen.value)]
    if unset:
        ctx.find("DMN-08", unset[0].where, f"userns-remap is not set{note}", **mild)
    elif ctx.info is not None and "name=userns" not in names:
        ctx.find("DMN-08", INFO, f"no user namespace is in use, whatever userns-remap says{note}", **mild)
    ctx.close("DMN-08", "userns-remap", asked="/info")


def _authorization(ctx: _Context) -> None:
    """DMN-10: advice, and only where several people share the engine."""
    plugins = (ctx.info or {}).get("Plugins")
    loaded = plugins.get("Authorization") if isinstance(plugins, dict) else None
    named = any(isinstance(seen.value, list) and seen.value for seen in ctx.settings.seen("authorization-plugins"))
    if loaded or named:
        ctx.audit.decide("DMN-10")
    elif len(set(ctx.policy.docker_group_members)) > 1:
        people = ", ".join(sorted(ctx.policy.docker_group_members))
        ctx.find("DMN-10", ctx.settings.file.path, f"no authorization plugin; {people} may all do everything",
                 severity="info")  # fmt: skip
    else:
        ctx.audit.not_applicable("DMN-10", "one administrator: there is nobody to tell apart")


def _logs(ctx: _Context) -> None:
    """DMN-11."""
    options = ctx.settings.seen("log-opts")
    found = False
    for seen in ctx.settings.seen("log-driver"):
        driver = "json-file" if seen.value is ABSENT else _text(seen.value) or "json-file"
        if driver == "none":
            ctx.find("DMN-11", seen.where, "log-driver: none")
            found = True
        elif driver in _UNBOUNDED:
            for option in options:
                size = option.value.get("max-size") if isinstance(option.value, dict) else None
                match = re.fullmatch(r"(?i)([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*[kmgtp]?i?b?", _text(size).strip())
                if match is None or float(match.group(1)) == 0:
                    where = option.where if option.value is not ABSENT else seen.where
                    ctx.find("DMN-11", where, f"log-driver {driver} with max-size {size if size else 'not set'}")
                    found = True
    running = _text((ctx.info or {}).get("LoggingDriver"))
    if running == "none" and not found:
        ctx.find("DMN-11", INFO, "LoggingDriver: none")
    ctx.close("DMN-11", "log-driver", "log-opts", asked="/info")


def _new_privileges(ctx: _Context) -> None:
    """DMN-12."""
    found = ctx.weak("DMN-12", "no-new-privileges", _must_be("no-new-privileges", True, False))
    if not found and ctx.info is not None and "name=no-new-privileges" not in ctx.options:
        ctx.find("DMN-12", INFO, "SecurityOptions lack no-new-privileges: the engine was not restarted since")
    ctx.close("DMN-12", "no-new-privileges", asked="/info")


def _swarm_state(ctx: _Context) -> str:
    swarm = (ctx.info or {}).get("Swarm")
    return _text(swarm.get("LocalNodeState")) if isinstance(swarm, dict) else ""


def _live_restore(ctx: _Context) -> None:
    """DMN-13."""
    if _swarm_state(ctx) not in ("", "inactive"):
        ctx.audit.not_applicable("DMN-13", "a member of a Swarm cannot have live-restore")
        return
    found = ctx.weak("DMN-13", "live-restore", _must_be("live-restore", True, False))
    if not found and ctx.info is not None and ctx.info.get("LiveRestoreEnabled") is not True:
        ctx.find("DMN-13", INFO, "LiveRestoreEnabled: false; the engine was not reloaded since")
    ctx.close("DMN-13", "live-restore", asked="/info")


def _confinement(ctx: _Context) -> None:
    """DMN-15."""
    found = ctx.weak(
        "DMN-15", "seccomp-profile",
        lambda value: "seccomp-profile: unconfined" if _text(value).strip().lower() == "unconfined" else "",
    )  # fmt: skip
    if ctx.info is not None:
        seccomp = next((item for item in ctx.options if item.partition(",")[0] == "name=seccomp"), "")
        if not seccomp:
            ctx.find("DMN-15", INFO, "SecurityOptions lack seccomp: containers run without a filter")
        elif "unconfined" in seccomp and not found:
            ctx.find("DMN-15", INFO, f"SecurityOptions: {seccomp}")
        names = [item.partition(",")[0] for item in ctx.options]
        for name, path, wanted in (
            ("apparmor", "/sys/module/apparmor/parameters/enabled", "Y"),
            ("selinux", "/sys/fs/selinux/enforce", ""),
        ):
            state = _kernel(ctx.files, path, wanted)
            if state is None:
                ctx.audit.unknown("DMN-15", f"whether the kernel has {name} switched on is not known")
            elif state and f"name={name}" not in names:
                ctx.find("DMN-15", INFO, f"the kernel has {name} switched on, SecurityOptions lack it")
    ctx.close("DMN-15", "seccomp-profile", asked="/info")


def _kernel(files: Files, path: str, wanted: str) -> bool | None:
    """Whether a security module is on; None when it cannot be told."""
    if files.stat(path) is None:
        return False if files.knows(path) else None
    try:
        text = files.read(path, 64).decode("ascii", "replace").strip()
    except Unreadable:
        return None
    return text == wanted if wanted else True


# -- the whole configuration ---------------------------------------------------------------------------------------------


def _versions(ctx: _Context) -> None:
    """DMN-16."""
    replaced = ctx.facts.daemon is not None and ctx.facts.daemon.replaced
    audit_versions(ctx.audit, ctx.files, ctx.answers.get("/version", dict), replaced)
    ctx.close("DMN-16", asked="/version")


def _configuration(ctx: _Context) -> None:
    """DMN-17."""
    settings = ctx.settings
    for where, evidence in settings.file.problems:
        ctx.find("DMN-17", where, evidence)
    for flags in (settings.unit, settings.running):
        for where, evidence in flags.problems if flags is not None else ():
            ctx.find("DMN-17", where, evidence)
    for where, evidence in settings.conflicts():
        ctx.find("DMN-17", where, evidence)
    found = ctx.weak("DMN-17", "experimental", lambda value: "experimental: true" if value is True else "")
    info = ctx.info or {}
    if info.get("ExperimentalBuild") is True and not found:
        ctx.find("DMN-17", INFO, "ExperimentalBuild: true")
    state = _swarm_state(ctx)
    if state not in ("", "inactive") and not ctx.policy.swarm:
        ctx.find("DMN-17", INFO, f"Swarm: {state}, and no Swarm is declared")
    if not settings.file.known:
        ctx.audit.unknown("DMN-17", settings.reason(""))
    if settings.unit is None:
        ctx.audit.unknown("DMN-17", settings.unit_problem)
    ctx.close("DMN-17", asked="/info")


_CHECKS = (
    _api, _bridge, _logging_level, _packet_filter, _registries, _storage, _ulimits, _user_namespaces, _cgroup_parent,
    _authorization, _logs, _new_privileges, _live_restore, _userland_proxy, _confinement, _versions, _configuration,
)  # fmt: skip
IDS = tuple(f"DMN-{number:02}" for number in range(1, 18))


def _nothing_here(files: Files, settings: Settings, facts: HostFacts, answers: Answers) -> bool:
    programs = [f"{folder}/dockerd" for folder in ("/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin")]
    return (
        facts.daemon is None
        and answers.get("/info", dict) is None
        and settings.unit is None
        and settings.file.known
        and not settings.file.text
        and all(files.knows(path) and files.stat(path) is None for path in programs)
    )


def audit_daemon(audit: Audit, files: Files, engine, facts: HostFacts | None, policy: HostPolicy) -> None:
    """Decide DMN-01 to DMN-17.

    engine: anything with ``get(path)`` that raises EngineError, an ``Answers`` that already holds answers, or None.
    facts: what ``_host_probe.probe`` found; None when only files are at hand.
    """
    answers = engine if isinstance(engine, Answers) else Answers(engine)
    ctx = _Context(audit, files, answers, facts or HostFacts(), policy)
    if _nothing_here(files, ctx.settings, ctx.facts, answers):
        for check_id in IDS:
            audit.not_applicable(check_id, "there is no Docker engine on this host")
        return
    for check in _CHECKS:
        check(ctx)
