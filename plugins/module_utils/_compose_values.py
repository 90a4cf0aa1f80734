# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the values of a service mean, whatever spelling Compose allowed for them.

PRIVATE: internal to the collection, may change in any release. Standard library only.

Every function takes the mapping of one service, as ``Project.services`` holds it or as a file has it, and never fails:
what is not of the right form is left out (``_compose_load.load`` has reported it).
``index`` is the position in the list the entry came from, for ``Project.where(service, "ports", index)``.
"""

from __future__ import annotations

import ipaddress
import math
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal


@dataclass(frozen=True)
class Port:
    """One published or exposed port. ``published`` is "" (any free port), "8080" or a range "8080-8090".

    host_ip is as written without brackets: "" means every address of both families.
    """

    host_ip: str
    published: str
    target: int
    protocol: str = "tcp"
    mode: str = "ingress"
    index: int = 0


@dataclass(frozen=True)
class Mount:
    """One mount. type is bind, volume, tmpfs, npipe, cluster or image; source is "" for an anonymous volume or tmpfs.

    options holds what the long form adds: nocopy, subpath, size, mode, create_host_path, recursive, selinux, consistency.
    Entries of ``tmpfs:`` come last, with type tmpfs, their mount options as ``{"noexec": True, "size": "64m"}`` and
    key "tmpfs".
    """

    type: str
    source: str
    target: str
    read_only: bool = False
    propagation: str = ""
    options: Mapping = field(default_factory=dict)
    index: int = 0
    key: str = "volumes"


@dataclass(frozen=True)
class Grant:
    """A secret or config that a service gets, and the file it finds it in."""

    source: str
    target: str
    uid: str | None = None
    gid: str | None = None
    mode: int | None = None
    index: int = 0


@dataclass(frozen=True)
class Limits:
    """Limits as the engine gets them; None where nothing is set, -1 where it is set to unlimited.

    cpus is of the container, memory and swap in bytes (swap is memory plus swap, as memswap_limit), pids a number.
    The *_key say which key decided, for ``Project.where(service, *key)``.
    """

    cpus: float | None = None
    memory: int | None = None
    swap: int | None = None
    reservation: int | None = None
    pids: int | None = None
    cpu_quota: int | None = None
    cpu_period: int | None = None
    cpu_shares: int | None = None
    cpuset: str = ""
    cpus_key: tuple = ()
    memory_key: tuple = ()
    pids_key: tuple = ()


@dataclass(frozen=True)
class Dependency:
    """One entry of depends_on, or what links, volumes_from and shared namespaces imply."""

    service: str
    condition: str = "service_started"
    required: bool = True
    restart: bool = False
    key: str = "depends_on"


@dataclass(frozen=True)
class Ulimit:
    """Soft and hard value; equal when one number was given; -1 is unlimited."""

    soft: int
    hard: int


@dataclass(frozen=True)
class Logging:
    """driver is "" where the engine's default counts."""

    driver: str = ""
    options: Mapping = field(default_factory=dict)


@dataclass(frozen=True)
class Healthcheck:
    """test is () when the image's own counts; disabled also when test is NONE. Durations in seconds, None if unset."""

    test: tuple[str, ...] = ()
    disabled: bool = False
    interval: float | None = None
    timeout: float | None = None
    retries: int | None = None
    start_period: float | None = None
    start_interval: float | None = None
    shell: bool = False


#: Most ports that one entry may stand for.
PORT_RANGE_LIMIT = 20_000

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kKmMgGtTpP])?[iI]?[bB]?\Z")
_SIZE_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
_DURATION = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_DURATION_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PORT_NUMBER = re.compile(r"[0-9]{1,8}\Z")
_TRUE, _FALSE = ("true", "y", "yes", "on"), ("false", "n", "no", "off")


def size(value: object) -> int | None:
    """Bytes of "512m", "1.5gb", 1024; None if it is no size. A float is none: Compose ignores ``mem_limit: 1e9``."""
    if value.__class__ is int:
        return value
    if not isinstance(value, str) or len(value) > 40:
        return None
    found = _SIZE.match(value)
    return int(float(found[1]) * _SIZE_UNITS[(found[2] or "").lower()]) if found else None


def duration(value: object) -> float | None:
    """Seconds of "1m30s"; None if it is no duration. A number without a unit is none, except 0."""
    if not isinstance(value, str) or len(value) > 60:
        return None
    text = value.lstrip("+-") if value[:1] in ("+", "-") else value
    if text == "0":
        return 0.0
    total, at = 0.0, 0
    while at < len(text):
        found = _DURATION.match(text, at)
        if found is None:
            return None
        total += float(found[1]) * _DURATION_UNITS[found[2]]
        at = found.end()
    if not at:
        return None
    return -total if value[0] == "-" else total


def flag(value: object) -> bool | None:
    """true and false in the spellings Compose takes, None for anything else."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        lowered = value.lower()
        return True if lowered in _TRUE else False if lowered in _FALSE else None
    return None


def number(value: object) -> float | None:
    """A number, also one in text; None if it is none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return float(value) if abs(value) < 1e300 else None
    if isinstance(value, str) and len(value) < 60:
        try:
            found = float(value)
        except ValueError:
            return None
        return found if abs(found) < 1e300 else None
    return None


def text(value: object) -> str:
    """A scalar as Compose writes it where text is wanted: true, 1000 for 1e3, 1e+06, 1.5."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return _go_float(value) if isinstance(value, float) else str(value)


def _go_float(value: float) -> str:
    """As Go prints it: shortest digits, with an exponent from a million on and below a ten-thousandth."""
    if not math.isfinite(value):
        return str(value)
    sign, digits, exponent = Decimal(repr(value)).as_tuple()
    shown = "".join(map(str, digits)).rstrip("0") or "0"
    power = len(digits) + int(exponent) - 1 if value else 0
    if -4 <= power < 6:
        plain = f"{abs(value):.{max(len(shown) - power - 1, 0)}f}"
    else:
        fraction = f".{shown[1:]}" if len(shown) > 1 else ""
        plain = f"{shown[0]}{fraction}e{'-' if power < 0 else '+'}{abs(power):02d}"
    return ("-" if sign else "") + plain


def _whole(value: object) -> int | None:
    found = number(value)
    return int(found) if found is not None and found == int(found) else None


def split_words(line: str) -> list[str]:
    """A command line as Compose takes it apart; unlike a shell it stops at ; & | < >. Raises ValueError."""
    words: list[str] = []
    buffer: list[str] = []
    open_word = escaped = single = double = back = dollar = False
    for char in line:
        if escaped:
            buffer.append(char)
            escaped, open_word = False, True
            continue
        if char == "\\":
            if single:
                buffer.append(char)
            else:
                escaped = True
            continue
        if char in " \t\r\n":
            if single or double or back or dollar:
                buffer.append(char)
            elif open_word:
                words.append("".join(buffer))
                buffer, open_word = [], False
            continue
        if char == "`":
            if not (single or double or dollar):
                back = not back
        elif char == ")":
            if not (single or double or back):
                dollar = not dollar
        elif char == "(":
            if not (single or double or back):
                if dollar or not buffer or buffer[-1] != "$":
                    raise ValueError("a parenthesis is not in quotes")
                dollar = True
                buffer.append(char)
                continue
        elif char == '"':
            if not (single or dollar):
                open_word = open_word or double
                double = not double
                continue
        elif char == "'":
            if not (double or dollar):
                open_word = open_word or single
                single = not single
                continue
        elif char in ";&|<>" and not (single or double or back or dollar):
            if char == ">" and buffer and buffer[0] in "0123456789":
                open_word = False
            break
        open_word = True
        buffer.append(char)
    if open_word:
        words.append("".join(buffer))
    if escaped or single or double or back or dollar:
        raise ValueError("a quote, backtick or backslash is not closed")
    return words


def _port_range(value: str) -> tuple[int, int]:
    parts = value.split("-")
    if not all(_PORT_NUMBER.match(part) for part in parts[:2]):
        raise ValueError(f"{value[:40]!r} is no port")
    first, last = int(parts[0]), int(parts[1] if len(parts) > 1 else parts[0])
    if max(first, last) > 65535:
        raise ValueError(f"{value[:40]!r} is above 65535")
    if last < first:
        raise ValueError(f"the range {value[:40]!r} runs backwards")
    return first, last


def parse_port(spec: str) -> list[dict]:
    """The long form of a short entry, one mapping for every port of a range. Raises ValueError."""
    head, _rest, container = spec.rpartition(":")
    ip, _rest, published = head.rpartition(":")
    target, slash, protocol = container.partition("/")
    protocol = (protocol.split("/")[0] or "tcp") if slash else "tcp"
    if ip.startswith("[") and ip.endswith("]"):
        ip = ip[1:-1]
    elif ":" in ip:
        raise ValueError(f"the address {ip[:60]!r} is not in square brackets")
    if ip:
        try:
            if "%" in ip:
                raise ValueError
            ipaddress.ip_address(ip)
        except ValueError as error:
            raise ValueError(f"{ip[:60]!r} is no IP address") from error
    if not target:
        raise ValueError("there is no port of the container")
    first, last = _port_range(target)
    host_first, host_last = _port_range(published) if published else (0, 0)
    if published and last - first != host_last - host_first and last != first:
        raise ValueError("the two ranges are not of the same length")
    if protocol.lower() not in ("tcp", "udp", "sctp"):
        raise ValueError(f"{protocol[:20]!r} is no protocol")
    if last - first >= PORT_RANGE_LIMIT:
        raise OverflowError(f"{last - first + 1} ports in one entry")
    found = []
    for offset in range(last - first + 1):
        host = str(host_first + offset) if published else ""
        if first == last and host_first != host_last:
            host = f"{host_first}-{host_last}"
        entry = {"mode": "ingress", "target": first + offset, "protocol": protocol.lower()}
        if host:
            entry["published"] = host
        if ip:
            entry["host_ip"] = ip
        found.append(entry)
    found.sort(key=lambda entry: str(entry["target"]))
    return found


_PROPAGATION = ("rprivate", "private", "rshared", "shared", "rslave", "slave")


def is_host_path(source: str) -> bool:
    """Whether Compose takes the source of a short mount for a path of the host."""
    if source[:1] in (".", "/", "~") or source.startswith("\\\\"):
        return bool(source)
    return source[1:2] == ":" and source[0].isalpha()


def parse_mount(spec: str) -> dict:
    """The long form of a short entry of ``volumes``. Raises ValueError."""
    if not spec:
        raise ValueError("it is empty")
    if len(spec.encode("utf-8", "replace")) <= 2:
        return {"type": "volume", "target": spec}
    parts: list[str] = []
    buffer = ""
    for char in spec:
        if char != ":" or (len(buffer) == 1 and buffer.isalpha()):
            buffer += char
            continue
        parts.append(buffer)
        buffer = ""
    parts.append(buffer)
    if "" in parts:
        raise ValueError("a part between its colons is empty")
    if len(parts) > 3:
        raise ValueError("it has too many colons")
    mount: dict = {"target": parts[-1]} if len(parts) == 1 else {"source": parts[0], "target": parts[1]}
    bind: dict = {}
    volume: dict = {}
    for option in parts[2].split(",") if len(parts) == 3 else ():
        if option in ("ro", "rw"):
            mount["read_only"] = option == "ro"
        elif option == "nocopy":
            volume["nocopy"] = True
        elif option in _PROPAGATION:
            bind["propagation"] = option
        elif option in ("z", "Z"):
            bind["selinux"] = option
    if not mount.get("read_only"):
        mount.pop("read_only", None)
    if is_host_path(mount.get("source", "")):
        mount["type"] = "bind"
        bind["create_host_path"] = True
    else:
        mount["type"] = "volume"
    if bind:
        mount["bind"] = bind
    if volume or mount["type"] == "volume":
        mount["volume"] = volume
    mount["target"] = clean_path(mount["target"])
    return mount


def clean_path(path: str) -> str:
    """As Compose cleans the target of a mount."""
    cleaned = posixpath.normpath(path)
    return "/" + cleaned.lstrip("/") if cleaned.startswith("//") else cleaned


def parse_device(spec: str) -> dict:
    """The long form of a short entry of ``devices``. Raises ValueError."""
    parts = spec.split(":")
    if len(parts) > 3:
        raise ValueError("it has too many colons")
    source, target, permissions = (*parts, "", "")[:3]
    return {"source": source, "target": target or source, "permissions": permissions if len(parts) == 3 else "rwm"}


def _entries(service: Mapping, key: str) -> Iterator[tuple[int, object]]:
    value = service.get(key)
    if isinstance(value, list):
        yield from enumerate(value)


def _mapping(value: object) -> Mapping:
    return value if isinstance(value, Mapping) else {}


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""


def ports(service: Mapping) -> list[Port]:
    """All published ports; ranges of equal length are taken apart as Compose does."""
    found = []
    for index, entry in _entries(service, "ports"):
        if isinstance(entry, int) and not isinstance(entry, bool):
            entry = str(entry)
        if isinstance(entry, str):
            try:
                long_forms: list = parse_port(entry)
            except (ValueError, OverflowError):
                continue
        else:
            long_forms = [_mapping(entry)]
        for item in long_forms:
            target = _whole(item.get("target"))
            if target is None:
                continue
            published = item.get("published", "")
            found.append(
                Port(
                    _string(item.get("host_ip")),
                    published if isinstance(published, str) else text(published) if isinstance(published, int) else "",
                    target,
                    _string(item.get("protocol")).lower() or "tcp",
                    _string(item.get("mode")) or "ingress",
                    index,
                )
            )
    return found


def volumes(service: Mapping) -> list[Mount]:
    """All mounts: ``volumes``, then ``tmpfs``."""
    found = []
    for index, entry in _entries(service, "volumes"):
        if isinstance(entry, str):
            try:
                entry = parse_mount(entry)
            except ValueError:
                continue
        item = _mapping(entry)
        if not isinstance(item.get("target"), str):
            continue
        kind = _string(item.get("type"))
        options: dict = {}
        for part in ("bind", "volume", "tmpfs", "image"):
            options.update({key: value for key, value in _mapping(item.get(part)).items() if not key.startswith("x-")})
        if "consistency" in item:
            options["consistency"] = item["consistency"]
        propagation = _string(options.pop("propagation", ""))
        read_only = flag(item.get("read_only")) is True
        found.append(
            Mount(kind, _string(item.get("source")), clean_path(item["target"]), read_only, propagation, options, index)
        )
    tmpfs = service.get("tmpfs")
    for index, entry in enumerate([tmpfs] if isinstance(tmpfs, str) else tmpfs if isinstance(tmpfs, list) else []):
        if not isinstance(entry, str):
            continue
        target, _rest, written = entry.partition(":")
        options = {}
        for option in filter(None, written.split(",")):
            name, equals, value = option.partition("=")
            options[name] = value if equals else True
        found.append(Mount("tmpfs", "", clean_path(target), "ro" in options, "", options, index, "tmpfs"))
    return found


def pairs(value: object, empty: str | None) -> dict[str, str | None]:
    """A mapping or a list of "name=value" as one; ``empty`` stands for a name without a value."""
    if isinstance(value, Mapping):
        return {str(key): empty if item is None else text(item) for key, item in value.items() if not _nested(item)}
    found: dict[str, str | None] = {}
    for item in value if isinstance(value, list) else ():
        if isinstance(item, str):
            name, equals, rest = item.partition("=")
            found[name] = rest if equals else empty
    return found


def _nested(value: object) -> bool:
    return isinstance(value, (dict, list))


def environment(service: Mapping) -> dict[str, str | None]:
    """``environment`` without env_file; None: the value is taken from whoever runs Compose, and is not known."""
    return pairs(service.get("environment"), None)


def labels(service: Mapping) -> dict[str, str]:
    """``labels`` by name."""
    return {name: value or "" for name, value in pairs(service.get("labels"), "").items()}


def extra_hosts(service: Mapping) -> dict[str, list[str]]:
    """Addresses by host name."""
    value = service.get("extra_hosts")
    found: dict[str, list[str]] = {}
    if isinstance(value, Mapping):
        for name, item in value.items():
            found[name] = [text(one) for one in (item if isinstance(item, list) else [item]) if one is not None]
    for item in value if isinstance(value, list) else ():
        if isinstance(item, str):
            separator = "=" if "=" in item else ":"
            name, _rest, rest = item.partition(separator)
            found.setdefault(name, []).extend(filter(None, rest.split(",")))
    return {
        name: [one[1:-1] if len(one) > 2 and one[0] == "[" and one[-1] == "]" else one for one in addresses]
        for name, addresses in found.items()
    }


def limits(service: Mapping) -> Limits:
    """deploy.resources.limits and the older keys as one; deploy wins where both say something."""
    resources = _mapping(_mapping(service.get("deploy")).get("resources"))
    deploy = _mapping(resources.get("limits"))
    deploy_key = ("deploy", "resources", "limits")

    def chosen(new: str, old: str, read) -> tuple:
        for holder, key, where in ((deploy, new, (*deploy_key, new)), (service, old, (old,))):
            value = read(holder.get(key))
            if value and not (holder is deploy and value < 0):
                return value, where
        return None, ()

    cpus, cpus_key = chosen("cpus", "cpus", number)
    memory, memory_key = chosen("memory", "mem_limit", size)
    pids, pids_key = chosen("pids", "pids_limit", _whole)
    reservation = size(_mapping(resources.get("reservations")).get("memory")) or size(service.get("mem_reservation"))
    return Limits(
        cpus=cpus,
        memory=memory,
        swap=size(service.get("memswap_limit")) or None,
        reservation=reservation or None,
        pids=pids,
        cpu_quota=_whole(service.get("cpu_quota")) or None,
        cpu_period=_whole(service.get("cpu_period")) or None,
        cpu_shares=_whole(service.get("cpu_shares")) or None,
        cpuset=_string(service.get("cpuset")),
        cpus_key=cpus_key,
        memory_key=memory_key,
        pids_key=pids_key,
    )


def depends_on(service: Mapping, implied: bool = False) -> list[Dependency]:
    """Sorted by name. implied: also links, volumes_from, network_mode, ipc, pid, uts, cgroup of another service."""
    value = service.get("depends_on")
    found: dict[str, Dependency] = {}
    if isinstance(value, list):
        value = {name: None for name in value if isinstance(name, str)}
    for name, item in _mapping(value).items():
        item = _mapping(item)
        found[name] = Dependency(
            name,
            _string(item.get("condition")) or "service_started",
            flag(item.get("required")) is not False,
            flag(item.get("restart")) is True,
        )
    if implied:
        for _rest, link in _entries(service, "links"):
            parts = _string(link).split(":")
            name = parts[0] if len(parts) <= 2 else _string(link)
            if name:
                found.setdefault(name, Dependency(name, restart=True, key="links"))
        for key in ("network_mode", "ipc", "pid", "uts", "cgroup"):
            mode = _string(service.get(key))
            if mode.startswith("service:"):
                found.setdefault(mode[8:], Dependency(mode[8:], restart=True, key=key))
        for _rest, entry in _entries(service, "volumes_from"):
            name = _string(entry)
            if name and not name.startswith("container:"):
                name = name.partition(":")[0]
                found.setdefault(name, Dependency(name, key="volumes_from"))
    return [found[name] for name in sorted(found)]


def _grants(service: Mapping, key: str, root: str) -> list[Grant]:
    found = []
    for index, entry in _entries(service, key):
        item = {"source": entry} if isinstance(entry, str) else _mapping(entry)
        source = item.get("source")
        if not isinstance(source, str):
            continue
        target = _string(item.get("target")) or source
        if not target.startswith("/"):
            target = root + target
        uid, gid = (value if isinstance(value, str) else None for value in (item.get("uid"), item.get("gid")))
        found.append(Grant(source, target, uid, gid, _whole(item.get("mode")), index))
    return found


def secrets(service: Mapping) -> list[Grant]:
    """Secrets, with the path in the container."""
    return _grants(service, "secrets", "/run/secrets/")


def configs(service: Mapping) -> list[Grant]:
    """Configs, with the path in the container."""
    return _grants(service, "configs", "/")


def networks(service: Mapping) -> dict[str, Mapping]:
    """Networks by name with their settings; {"default": {}} where none is named; empty with network_mode."""
    value = service.get("networks")
    found: dict[str, Mapping]
    if isinstance(value, list):
        found = {name: {} for name in value if isinstance(name, str)}
    else:
        found = {name: _mapping(item) for name, item in _mapping(value).items()}
    return found if found or service.get("network_mode") else {"default": {}}


def command(service: Mapping, key: str = "command") -> list[str] | None:
    """``command`` or ``entrypoint`` as a list of words; None where the image's own counts, [] where it is emptied."""
    value = service.get(key)
    if isinstance(value, str):
        try:
            return split_words(value)
        except ValueError:
            return None
    return [text(word) for word in value] if isinstance(value, list) else None


def security_opt(service: Mapping) -> list[tuple[str, str, int]]:
    """(name, value, index), split at the first ``=``, else at the first ``:`` as the engine does; "" for a bare word."""
    found = []
    for index, entry in _entries(service, "security_opt"):
        if isinstance(entry, str):
            name, _rest, value = entry.partition("=" if "=" in entry else ":")
            found.append((name.strip().lower(), value.strip(), index))
    return found


def ulimits(service: Mapping) -> dict[str, Ulimit]:
    """By name."""
    found = {}
    for name, item in _mapping(service.get("ulimits")).items():
        if isinstance(item, Mapping):
            soft, hard = _whole(item.get("soft")), _whole(item.get("hard"))
        else:
            soft = hard = _whole(item)
        if soft is not None and hard is not None:
            found[name] = Ulimit(soft, hard)
    return found


def logging(service: Mapping) -> Logging:
    """Driver and options."""
    value = _mapping(service.get("logging"))
    return Logging(
        _string(value.get("driver")), {k: v or "" for k, v in pairs(_mapping(value.get("options")), "").items()}
    )


def healthcheck(service: Mapping) -> Healthcheck | None:
    """None where the service says nothing."""
    value = service.get("healthcheck")
    if not isinstance(value, Mapping):
        return None
    test = value.get("test")
    words: tuple[str, ...] = ()
    if isinstance(test, str):
        words = ("CMD-SHELL", test) if test else ()
    elif isinstance(test, list):
        words = tuple(text(word) for word in test)
    return Healthcheck(
        words,
        flag(value.get("disable")) is True or words[:1] == ("NONE",),
        duration(value.get("interval")),
        duration(value.get("timeout")),
        _whole(value.get("retries")),
        duration(value.get("start_period")),
        duration(value.get("start_interval")),
        words[:1] == ("CMD-SHELL",),
    )


def replicas(service: Mapping) -> int:
    """How many containers: scale, deploy.replicas, or 1."""
    for value in (service.get("scale"), _mapping(service.get("deploy")).get("replicas")):
        found = _whole(value)
        if found is not None:
            return found
    return 1


def devices(service: Mapping) -> list[tuple[str, str, str, int]]:
    """(source, target, permissions, index)."""
    found = []
    for index, entry in _entries(service, "devices"):
        if isinstance(entry, str):
            try:
                entry = parse_device(entry)
            except ValueError:
                continue
        item = _mapping(entry)
        source = _string(item.get("source"))
        if source:
            found.append(
                (source, _string(item.get("target")) or source, _string(item.get("permissions")) or "rwm", index)
            )
    return found
