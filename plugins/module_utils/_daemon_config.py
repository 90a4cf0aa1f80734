# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine's daemon.json: merge, never overwrite; know what the running engine really uses; give back what was there.

PRIVATE: internal to the collection, may change in any release.

Three things are kept apart: what the file says, what we wrote into it (the journal) and what the running engine has
loaded. A key a person set stays theirs unless it contradicts a hardened one. The journal is written before the file,
the file before the engine is touched, and the record of what is in effect last, so that a run killed anywhere in
between is finished by the next one.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, field

from ansible_collections.mcpstack.platform.plugins.module_utils import _files
from ansible_collections.mcpstack.platform.plugins.module_utils._engine import EngineError

PATH = "/etc/docker/daemon.json"
JOURNAL = "/var/lib/mcpstack/state/docker-daemon.json"
UNIT = "docker.service"

MISSING = object()

#: Keys that dockerd takes over on SIGHUP; everything else needs a restart.
RELOADABLE = frozenset(
    (
        "authorization-plugins",
        "debug",
        "default-runtime",
        "features",
        "insecure-registries",
        "labels",
        "live-restore",
        "max-concurrent-downloads",
        "max-concurrent-uploads",
        "max-download-attempts",
        "registry-mirrors",
        "runtimes",
        "shutdown-timeout",
    )
)

#: dockerd's flags whose configuration key has another name.
FLAG_KEYS = {
    "H": "hosts",
    "host": "hosts",
    "D": "debug",
    "l": "log-level",
    "G": "group",
    "b": "bridge",
    "s": "storage-driver",
    "p": "pidfile",
    "g": "data-root",
    "graph": "data-root",
    "log-opt": "log-opts",
    "default-ulimit": "default-ulimits",
    "insecure-registry": "insecure-registries",
    "registry-mirror": "registry-mirrors",
    "label": "labels",
    "storage-opt": "storage-opts",
    "exec-opt": "exec-opts",
    "add-runtime": "runtimes",
    "authorization-plugin": "authorization-plugins",
    "default-address-pool": "default-address-pools",
    "default-network-opt": "default-network-opts",
    "dns-opt": "dns-opts",
    "cluster-store-opt": "cluster-store-opts",
    "node-generic-resource": "node-generic-resources",
    "allow-nondistributable-artifacts": "allow-nondistributable-artifacts",
}

#: Flags that take no value unless it is joined with "=".
BOOLEAN_FLAGS = frozenset(
    (
        "D", "debug", "experimental", "icc", "init", "ip-forward", "ip-masq", "iptables", "ip6tables", "ipv6",
        "live-restore", "no-new-privileges", "raw-logs", "rootless", "selinux-enabled", "tls", "tlsverify",
        "userland-proxy", "validate", "bridge-accept-fwmark", "allow-direct-routing", "ip-forward-no-drop",
    )
)  # fmt: skip

#: Log drivers that understand max-size and max-file; to any other they are an unknown option that stops containers.
ROTATING_DRIVERS = ("json-file", "local")


def _is_size(value) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[1-9][0-9]*[kmgKMG]?", value) is not None


def _is_count(value) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[1-9][0-9]*", value) is not None


def _is_finite_ulimit(value) -> bool:
    return isinstance(value, dict) and all(
        isinstance(value.get(bound), int) and value[bound] > 0 for bound in ("Soft", "Hard")
    )


#: What a person may have set without contradicting the hardening; a key that is not here must be equal.
ACCEPTED = {
    "log-level": lambda value: value in ("info", "warn", "error", "fatal"),
    "log-driver": lambda value: isinstance(value, str) and value not in ("", "none"),
    "log-opts.max-size": _is_size,
    "log-opts.max-file": _is_count,
    "default-ulimits.nofile": _is_finite_ulimit,
}

#: Keys nobody asked us to set, but whose value would undo a hardened one.
CONTRADICTING = {"debug": (True, "log-level", "debug logging writes request bodies and environment to the journal")}


class DaemonConfigError(Exception):
    """daemon.json cannot be managed; ``problems`` is a list of ``{where, what, fix}``."""

    def __init__(self, problems: list[dict]):
        self.problems = problems
        super().__init__(" ".join(sentence(problem) for problem in problems))


def problem(where: str, what: str, fix: str) -> dict:
    return {"where": where, "what": what, "fix": fix}


def sentence(item: dict) -> str:
    """One problem as one sentence: where, what, fix."""
    return f"{item['where']}: {item['what']}. Fix: {item['fix']}."


# -- merging ----------------------------------------------------------------------------------------------------------


def leaves(config: dict) -> dict[str, object]:
    """One entry per setting; mappings (log-opts, default-ulimits) are taken apart one level deep."""
    found: dict[str, object] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            found.update({f"{key}.{sub}": subvalue for sub, subvalue in value.items()})
        else:
            found[key] = value
    return found


def _split(config: dict, path: str) -> tuple[str, str | None]:
    """A dot separates a mapping from its key, unless the key itself has the dot."""
    key, dot, sub = path.partition(".")
    return (key, sub) if dot and path not in config else (path, None)


def get(config: dict, path: str):
    key, sub = _split(config, path)
    value = config.get(key, MISSING)
    if sub is None or value is MISSING:
        return value
    return value.get(sub, MISSING) if isinstance(value, dict) else value


def put(config: dict, path: str, value) -> None:
    key, sub = _split(config, path)
    if sub is None:
        config[key] = copy.deepcopy(value)
        return
    if not isinstance(config.get(key), dict):
        config[key] = {}
    config[key][sub] = copy.deepcopy(value)


def drop(config: dict, path: str) -> None:
    key, sub = _split(config, path)
    if sub is None:
        config.pop(key, None)
    elif isinstance(config.get(key), dict):
        config[key].pop(sub, None)
        if not config[key]:
            del config[key]


@dataclass
class Merge:
    """The outcome of merge(): the new settings, what a person's settings we left alone, and what contradicts."""

    config: dict
    wanted: dict[str, object]
    kept: dict[str, object] = field(default_factory=dict)
    overridden: dict[str, object] = field(default_factory=dict)
    problems: list[dict] = field(default_factory=list)


def shown(value) -> str:
    return json.dumps(value, sort_keys=True)


def merge(
    current: dict,
    settings: dict,
    extra: dict | None = None,
    *,
    ours: dict[str, list] | None = None,
    original: dict | None = None,
    flags: dict[str, tuple] | None = None,
    override: bool = False,
    path: str = PATH,
    override_hint: str = "mcpstack_docker_conflicts: override",
) -> Merge:
    """Lay the wanted settings over the current file.

    ours: what we wrote earlier, per setting every value that may be ours; original: the file before us;
    flags: what dockerd's command line sets already, key -> (value, where).
    """
    extra, ours, original, flags = extra or {}, ours or {}, original or {}, flags or {}
    wanted = leaves(settings)
    declared = leaves(extra)
    for name in declared:  # an extra replaces a whole key when one of both is not a mapping
        key = name.partition(".")[0]
        wanted = {item: value for item, value in wanted.items() if item != key and (item != name)}
        if name == key:
            wanted = {item: value for item, value in wanted.items() if not item.startswith(f"{key}.")}
    wanted.update(declared)
    result = Merge(copy.deepcopy(current), wanted)

    def conflict(name: str, have, want, reason: str = "") -> None:
        if override:
            result.overridden[name] = have
            return
        result.problems.append(
            problem(
                f"{path}: {name}",
                f"is {shown(have)}, which contradicts the hardened value {shown(want)}{reason}",
                f"remove the key or set it to {shown(want)}, or set {override_hint} to replace it",
            )
        )

    driver = get(current, "log-driver")
    if "log-driver" in flags:
        driver = flags["log-driver"][0]
    if driver is MISSING or driver in ours.get("log-driver", []) or not ACCEPTED["log-driver"](driver):
        driver = wanted.get("log-driver", "json-file")
    if driver not in ROTATING_DRIVERS:
        for name in [item for item in wanted if item.startswith("log-opts.") and item not in declared]:
            del wanted[name]

    for name in [item for item in wanted if item.partition(".")[0] in flags]:
        key, _dot, sub = name.partition(".")
        value, where = flags[key]
        have = value.get(sub, MISSING) if sub and isinstance(value, dict) else value
        want = wanted.pop(name)
        accepted = ACCEPTED.get(name) if name not in declared else None
        if have != want and not (accepted and have is not MISSING and accepted(have)):
            stated = "does not set it" if have is MISSING else f"sets it to {shown(have)}"
            result.problems.append(
                problem(
                    where,
                    f"the engine is started with a flag for {key!r} that {stated} where {name} must be {shown(want)}; "
                    "with the key in the file as well the engine would not start",
                    "remove the flag there and run again",
                )
            )

    for name, want in wanted.items():
        have = get(current, name)
        accepted = ACCEPTED.get(name) if name not in declared else None
        if have is MISSING or have in ours.get(name, []):
            put(result.config, name, want)
        elif have == want:
            continue
        elif accepted and accepted(have):
            result.kept[name] = have
        else:
            conflict(name, have, want)
            put(result.config, name, want)

    for name, (bad, spoiled, reason) in CONTRADICTING.items():
        if get(current, name) == bad and spoiled in wanted and name not in wanted:
            conflict(name, bad, not bad, f" ({reason})")
            put(result.config, name, not bad)

    for name, values in ours.items():  # what we set earlier and nobody wants any more
        if name in wanted or get(current, name) not in values:
            continue
        before = get(original, name)
        if before is MISSING:
            drop(result.config, name)
        else:
            put(result.config, name, before)

    reported = {item["where"] for item in result.problems}
    for key in sorted(set(result.config) & set(flags)):
        where = flags[key][1]
        if where in reported:
            continue
        result.problems.append(
            problem(
                where,
                f"the engine is started with a flag for {key!r} while {path} has the same key; it would not start",
                f"remove either the flag there or the key in {path}",
            )
        )
    return result


def clamp_nofile(settings: dict, ceiling: int | None) -> tuple[dict, bool]:
    """Where hard limits cannot be raised, a default ulimit above them would stop every container from starting."""
    limit = settings.get("default-ulimits", {}).get("nofile")
    if ceiling is None or not isinstance(limit, dict) or limit.get("Hard", 0) <= ceiling:
        return settings, False
    settings = copy.deepcopy(settings)
    limit = settings["default-ulimits"]["nofile"]
    limit["Hard"] = ceiling
    limit["Soft"] = min(limit.get("Soft", ceiling), ceiling)
    return settings, True


# -- the unit's command line ------------------------------------------------------------------------------------------

_UNIT_DIRS = (
    "etc/systemd/system",
    "run/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
)


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            return handle.read()
    except (FileNotFoundError, NotADirectoryError):
        return None


def unit_files(root: str = "/", unit: str = UNIT) -> list[str]:
    """The unit file and its drop-ins in the order systemd reads them."""
    main: list[str] = []
    dropins: dict[str, str] = {}
    for directory in _UNIT_DIRS:
        candidate = os.path.join(root, directory, unit)
        if not main and os.path.isfile(candidate):
            main.append(candidate)
        folder = os.path.join(root, directory, f"{unit}.d")
        if os.path.isdir(folder):
            for name in os.listdir(folder):
                if name.endswith(".conf"):
                    dropins.setdefault(name, os.path.join(folder, name))
    return main + [dropins[name] for name in sorted(dropins)] if main else []


def _unit_settings(text: str) -> list[tuple[str, str]]:
    found, section = [], ""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        line = line.strip()
        if line.startswith("["):
            section = line
        elif section == "[Service]" and "=" in line and line[0] not in "#;":
            name, _equals, value = line.partition("=")
            found.append((name.strip(), value.strip()))
    return found


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text, comments=False)
    except ValueError:
        return text.split()


def _environment_file(path: str) -> dict[str, str]:
    found = {}
    for line in (_read(path) or "").splitlines():
        line = line.strip()
        if "=" in line and line[0] not in "#;":
            name, _equals, value = line.partition("=")
            found[name.strip()] = " ".join(_words(value))
    return found


def unit_arguments(root: str = "/", unit: str = UNIT) -> list[tuple[str, str]]:
    """dockerd's command line as (word, file it comes from), variables of the unit's environment expanded."""
    command: list[tuple[str, str]] = []
    environment: dict[str, tuple[str, str]] = {}
    files: list[str] = []
    for path in unit_files(root, unit):
        shown_path = "/" + os.path.relpath(path, root)
        for name, value in _unit_settings(_read(path) or ""):
            if name == "ExecStart":
                command = [(word, shown_path) for word in _words(value)] if value else []
            elif name == "Environment":
                if not value:
                    environment = {}
                for assignment in _words(value):
                    variable, _equals, content = assignment.partition("=")
                    environment[variable] = (content, shown_path)
            elif name == "EnvironmentFile":
                files = [*files, value.lstrip("-")] if value else []
    # systemd reads the files last, wherever they are named: what they set wins over every Environment=.
    for source in files:
        for variable, content in _environment_file(os.path.join(root, source.lstrip("/"))).items():
            environment[variable] = (content, f"{source} ({variable})")
    expanded: list[tuple[str, str]] = []
    for word, where in command:
        whole = re.fullmatch(r"\$([A-Za-z_][A-Za-z0-9_]*)", word)
        if whole:
            content, source = environment.get(whole.group(1), ("", where))
            expanded += [(part, source) for part in _words(content)]
            continue
        for variable, (content, source) in environment.items():
            if f"${{{variable}}}" in word:
                word, where = word.replace(f"${{{variable}}}", content), source
        expanded.append((word, where))
    return expanded


def unit_flags(root: str = "/", unit: str = UNIT) -> dict[str, tuple]:
    """What the command line sets, in terms of configuration keys: key -> (value, where)."""
    words = unit_arguments(root, unit)[1:]
    found: dict[str, tuple] = {}
    index = 0
    while index < len(words):
        word, where = words[index]
        index += 1
        if not word.startswith("-") or word == "-":
            continue
        flag, equals, value = word.lstrip("-").partition("=")
        if not word.startswith("--") and len(flag) > 1:  # -Hfd://
            flag, equals, value = flag[0], "=", flag[1:] + equals + value
        if not equals:
            if flag in BOOLEAN_FLAGS:
                value = "true"
            elif index < len(words):
                value = words[index][0]
                index += 1
        key = FLAG_KEYS.get(flag, flag)
        parsed: object = value
        if flag in BOOLEAN_FLAGS:
            parsed = value.lower() in ("1", "t", "true")
        if key == "log-opts":
            option, _equals, content = value.partition("=")
            parsed = {**(found[key][0] if key in found else {}), option: content}
        elif key == "default-ulimits":
            name, _equals, content = value.partition("=")
            soft, _colon, hard = content.partition(":")
            bounds = {"Name": name, "Soft": _int(soft), "Hard": _int(hard or soft)}
            parsed = {**(found[key][0] if key in found else {}), name: bounds}
        found[key] = (parsed, f"{where}: --{flag}" if len(flag) > 1 else f"{where}: -{flag}")
    return found


def _int(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        return -1


# -- files ------------------------------------------------------------------------------------------------------------


def digest(data: bytes | None) -> str | None:
    return None if data is None else hashlib.sha256(data).hexdigest()


def read_file(path: str) -> bytes | None:
    try:
        with open(path, "rb") as handle:
            return handle.read()
    except FileNotFoundError:
        return None


def write_atomic(path: str, data: bytes, mode: int = 0o644, owner: tuple[int, int] | None = None) -> None:
    """Replace a file whole; where a person has put a link, the file it leads to."""
    _files.write_atomic(os.path.realpath(path), data, mode, owner)


def parse(data: bytes | None, path: str = PATH) -> dict:
    """The settings in the file; an absent or empty file has none."""
    if data is None or not data.strip():
        return {}
    try:
        config = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as exc:
        raise DaemonConfigError(
            [problem(path, f"is not UTF-8 text (byte {exc.start})", "write the file again as plain JSON")]
        ) from exc
    except json.JSONDecodeError as exc:
        raise DaemonConfigError(
            [problem(f"{path}:{exc.lineno}:{exc.colno}", f"is not JSON ({exc.msg})", "correct or remove the file")]
        ) from exc
    if not isinstance(config, dict):
        raise DaemonConfigError(
            [problem(path, f"holds {type(config).__name__}, not an object", "correct or remove the file")]
        )
    return config


def render(config: dict) -> bytes:
    return (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()


class Journal:
    """What was there before us, what of the file is ours, and what the engine is known to have loaded."""

    def __init__(self, path: str):
        self.path = path
        data = read_file(path)
        try:
            self.data = json.loads(data) if data is not None else None
            if self.data is not None and self.data["version"] != 1:
                raise ValueError(f"version {self.data['version']}")
        except (ValueError, KeyError, TypeError) as exc:
            raise DaemonConfigError(
                [
                    problem(
                        path,
                        f"cannot be read ({exc}), so what daemon.json held before is not known",
                        "restore it from a backup, or remove it to take daemon.json as it is now for the original",
                    )
                ]
            ) from exc

    @property
    def exists(self) -> bool:
        return self.data is not None

    @property
    def ours(self) -> dict[str, list]:
        return dict(self.data["ours"]) if self.data else {}

    @property
    def applied(self) -> dict:
        return dict(self.data["applied"] or {}) if self.data else {}

    @property
    def original(self) -> bytes | None:
        stored = self.data["original"] if self.data else None
        return None if stored is None else base64.b64decode(stored["content"])

    def begin(self, path: str) -> None:
        """Remember the file as it is now, once."""
        if self.data is not None:
            return
        content = read_file(path)
        original = None
        if content is not None:
            status = os.stat(path)
            original = {
                "content": base64.b64encode(content).decode(),
                "mode": status.st_mode & 0o7777,
                "uid": status.st_uid,
                "gid": status.st_gid,
            }
        self.data = {"version": 1, "original": original, "ours": {}, "written": None, "applied": None}

    def save(self) -> None:
        _files.save_state(self.path, self.data)

    def forget(self) -> None:
        """Remove the journal and the directories that nothing else uses."""
        _files.forget_state(self.path)


# -- the running engine -----------------------------------------------------------------------------------------------


def run_command(argv: list[str], timeout: float = 120) -> tuple[int, str, str]:
    """The default way to run a program: (rc, stdout, stderr)."""
    try:
        done = subprocess.run(  # noqa: S603 - fixed argument lists, no shell
            argv, capture_output=True, text=True, errors="replace", timeout=timeout, check=False
        )
    except FileNotFoundError:
        return 127, "", f"{argv[0]}: not found"
    except subprocess.TimeoutExpired:
        return 124, "", f"{argv[0]}: no end after {timeout:g} s"
    return done.returncode, done.stdout, done.stderr


class Service:
    """docker.service as systemd and the kernel see it, and the engine behind its socket."""

    def __init__(self, engine, run=run_command, root: str = "/", unit: str = UNIT, sleep=time.sleep):
        self.engine = engine
        self.run = run
        self.root = root
        self.unit = unit
        self.sleep = sleep
        self.refresh()

    def refresh(self) -> None:
        _rc, out, _err = self.run(
            ["systemctl", "show", self.unit, "--property=LoadState,ActiveState,MainPID,UnitFileState"]
        )
        state = dict(line.partition("=")[::2] for line in out.splitlines())
        self.installed = state.get("LoadState") == "loaded"
        self.active = state.get("ActiveState") in ("active", "reloading")
        self.enabled = state.get("UnitFileState") == "enabled"
        self.pid = int(state.get("MainPID") or 0)

    def _proc(self, name: str) -> str | None:
        return _read(os.path.join(self.root, "proc", str(self.pid), name)) if self.pid else None

    @property
    def _start_ticks(self) -> int | None:
        text = self._proc("stat")
        return int(text.rpartition(")")[2].split()[19]) if text else None

    @property
    def identity(self) -> str | None:
        """Tells this process from every other one, before and after."""
        ticks = self._start_ticks
        if ticks is None:
            return None
        boot = (_read(os.path.join(self.root, "proc/sys/kernel/random/boot_id")) or "").strip()
        return f"{boot}:{self.pid}:{ticks}"

    @property
    def started(self) -> float | None:
        """When the process started, in seconds of the wall clock."""
        ticks = self._start_ticks
        if ticks is None:
            return None
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
        return time.time() - age

    @property
    def nofile_ceiling(self) -> int | None:
        """The hard limit of open files where it cannot be raised (no CAP_SYS_RESOURCE), else None."""
        pid = str(self.pid or 1)
        status = _read(os.path.join(self.root, "proc", pid, "status")) or ""
        limits = _read(os.path.join(self.root, "proc", pid, "limits")) or ""
        capabilities = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.M)
        limit = re.search(r"^Max open files\s+\S+\s+(\d+)", limits, re.M)
        if not capabilities or not limit or int(capabilities.group(1), 16) & (1 << 24):
            return None
        return int(limit.group(1))

    def info(self) -> dict | None:
        """What the engine says of itself; None when it does not answer."""
        try:
            return self.engine.info()
        except EngineError:
            return None

    def containers(self, running_only: bool = True) -> list[dict]:
        try:
            return self.engine.get("/containers/json", {"all": not running_only})
        except EngineError:
            return []

    def bridge_icc(self) -> bool | None:
        """Whether containers of the default bridge reach each other; None when the engine does not say."""
        try:
            options = self.engine.get("/networks/bridge").get("Options") or {}
        except EngineError:
            return None
        value = options.get("com.docker.network.bridge.enable_icc")
        return None if value is None else value == "true"

    def systemctl(self, verb: str) -> tuple[bool, str]:
        rc, out, err = self.run(["systemctl", verb, self.unit])
        return rc == 0, (err or out).strip()

    def last_words(self) -> str:
        """The engine's own reason for not starting, from the journal."""
        _rc, out, _err = self.run(["journalctl", "-u", self.unit, "-n", "40", "-o", "cat", "--no-pager"])
        telling = re.compile(r"level=(error|fatal)|failed to|unable to|invalid")
        said = [line for line in out.splitlines() if telling.search(line)]
        return " | ".join(said[-3:]) or "nothing in the journal"

    def wait(self, timeout: float, condition=lambda info: True) -> dict | None:
        """Ask until the engine answers (and the condition holds)."""
        deadline = time.monotonic() + timeout
        while True:
            info = self.info()
            if info is not None and condition(info):
                return info
            if time.monotonic() >= deadline:
                return None
            self.sleep(0.2)


def names(containers: list[dict]) -> list[str]:
    return sorted((item.get("Names") or [item.get("Id", "?")[:12]])[0].lstrip("/") for item in containers)


# -- planning ---------------------------------------------------------------------------------------------------------


@dataclass
class Plan:
    """What a run would do; computed without changing anything."""

    path: str
    before: bytes | None
    after: bytes | None
    config: dict
    merge: Merge | None
    action: str = "none"  # none, reload, restart, start
    reason: str = ""
    interrupted: list[str] = field(default_factory=list)
    reload_first: bool = False
    clamped: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def writes(self) -> bool:
        return self.before != self.after


def loaded_settings(before: bytes | None, current: dict, path: str, journal: Journal, service: Service):
    """The settings the running engine is known to have, or None; with the reason."""
    applied = journal.applied
    try:
        mtime = os.stat(path).st_mtime_ns
    except FileNotFoundError:
        mtime = None
    if applied and applied["sha256"] == digest(before) and applied["mtime_ns"] == mtime:
        return current, ""
    if before is None and not applied:
        return current, ""
    started = service.started
    if mtime is not None and started is not None and mtime / 1e9 < started:
        return current, ""
    if applied and applied["engine"] == service.identity:
        return applied["settings"], "the running engine was started before the file was changed"
    return None, "the running engine is older than the file"


def plan(
    path: str,
    settings: dict,
    extra: dict,
    journal: Journal,
    service: Service,
    *,
    override: bool = False,
    root: str = "/",
    apply: bool = True,
) -> Plan:
    """Decide everything; raises DaemonConfigError with all problems at once."""
    flags = unit_flags(root)
    if "config-file" in flags and flags["config-file"][0] != path:
        value, where = flags["config-file"]
        raise DaemonConfigError(
            [problem(where, f"the engine reads {value}, not {path}", "remove the flag, or name that file as the path")]
        )
    before = read_file(path)
    current = parse(before, path)
    original = parse(journal.original, f"{journal.path} (original)")
    settings, clamped = clamp_nofile(settings, service.nofile_ceiling)
    merged = merge(
        current, settings, extra, ours=journal.ours, original=original, flags=flags, override=override, path=path
    )
    problems = list(merged.problems)
    info = service.info() if service.active else None
    swarm = ((info or {}).get("Swarm") or {}).get("LocalNodeState", "inactive")
    if merged.config.get("live-restore") is True and swarm not in ("inactive", ""):
        problems.append(
            problem(
                f"{path}: live-restore",
                f"this engine is part of a Swarm ({swarm}), which refuses to start with live-restore",
                "set mcpstack_docker_live_restore: false, or leave the Swarm",
            )
        )
    if problems:
        raise DaemonConfigError(problems)
    after = before if merged.config == current and before is not None else render(merged.config)
    result = Plan(path, before, after, merged.config, merged, clamped=clamped)
    if clamped and result.writes:
        limit = merged.config["default-ulimits"]["nofile"]["Hard"]
        result.notes.append(f"This host cannot raise hard limits; the default for open files is its limit of {limit}.")
    if apply:
        decide(result, *loaded_settings(before, current, path, journal, service), info, service)
    return result


def decide(result: Plan, loaded: dict | None, reason: str, info: dict | None, service: Service) -> None:
    """none, reload, restart or start; and who would be interrupted."""
    if not service.active:
        result.action, result.reason = "start", "the engine is not running"
        return
    if info is None:
        result.action, result.reason = "restart", "the engine does not answer"
        return
    config = result.config
    for key, said in (("live-restore", "LiveRestoreEnabled"), ("log-driver", "LoggingDriver")):
        if loaded is not None and key in loaded and said in info and info[said] != loaded[key]:
            loaded, reason = None, f"the running engine has {key} {shown(info[said])}"
    if loaded is None:
        result.action, result.reason = "restart", reason
    else:
        keys = sorted(key for key in set(loaded) | set(config) if loaded.get(key, MISSING) != config.get(key, MISSING))
        if not keys:
            return
        result.action = "reload" if set(keys) <= RELOADABLE else "restart"
        result.reason = reason or f"settings to take over: {', '.join(keys)}"
    if result.action == "restart":
        running = service.containers()
        if running and not info.get("LiveRestoreEnabled"):
            # live-restore itself can be reloaded, and then the restart leaves the containers alone
            result.reload_first = config.get("live-restore") is True
            if not result.reload_first:
                result.interrupted = names(running)


def pending(config: dict, service: Service) -> list[str]:
    """Settings that wait for an engine start without running containers; said, never hidden."""
    waiting = []
    if config.get("icc") is False and service.bridge_icc() is True:
        waiting.append(
            "icc: the default bridge keeps its setting while containers run; "
            "it takes effect when the engine starts with none running"
        )
    return waiting


def validate(config: dict, path: str, root: str = "/", run=run_command) -> str:
    """Let the engine itself judge the settings together with its own flags; returns who judged."""
    dockerd = shutil.which("dockerd", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if dockerd is None or root != "/":
        return "none"
    with tempfile.TemporaryDirectory(prefix="mcpstack-daemon-") as directory:
        candidate = os.path.join(directory, "daemon.json")
        write_atomic(candidate, render(config), 0o600)
        flags = [word for word, _where in unit_arguments(root)[1:] if not word.startswith("--config-file")]
        rc, out, err = run([dockerd, "--validate", f"--config-file={candidate}", *flags])
    said = (err + out).strip()
    if rc == 0:
        return "dockerd"
    if "unknown flag: --validate" in said:  # before 23.0
        return "none"
    raise DaemonConfigError(
        [
            problem(
                path,
                f"the engine refuses the merged settings: {said.replace(candidate, path)}",
                "correct the setting it names (mcpstack_docker_daemon_extra, or the file itself); nothing was changed",
            )
        ]
    )


# -- doing ------------------------------------------------------------------------------------------------------------


def land(result: Plan, journal: Journal) -> None:
    """Journal first, then the file, then the journal again: each step can be the last one."""
    merged = result.merge
    journal.begin(result.path)
    earlier = journal.ours
    mine = {
        name: value
        for name, value in merged.wanted.items()
        if name not in merged.kept and get(result.config, name) == value
    }
    unwanted = {name: values for name, values in earlier.items() if name not in mine and name not in merged.wanted}
    journal.data["ours"] = {
        **unwanted,
        **{name: [value, *(old for old in earlier.get(name, []) if old != value)] for name, value in mine.items()},
    }
    if result.writes:
        journal.save()
        directory = os.path.dirname(result.path)
        os.makedirs(directory, mode=0o755, exist_ok=True)
        mode = 0o644
        if result.before is not None:
            mode = os.stat(result.path).st_mode & 0o644
        write_atomic(result.path, result.after, mode)
    settled = {name: [value] for name, value in mine.items()}
    if result.writes or journal.data["ours"] != settled or journal.data["written"] is None or earlier != settled:
        journal.data["ours"] = settled
        journal.data["written"] = digest(result.after)
        journal.save()


def record_applied(result: Plan, journal: Journal, service: Service) -> None:
    """Remember what the engine has loaded; the very last step."""
    service.refresh()
    record = {
        "sha256": digest(result.after),
        "mtime_ns": os.stat(result.path).st_mtime_ns if os.path.exists(result.path) else None,
        "engine": service.identity,
        "settings": result.config,
    }
    if journal.data["applied"] is None or {**journal.data["applied"], "engine": record["engine"]} != record:
        journal.data["applied"] = record
        journal.save()


def bring_up(result: Plan, service: Service, timeout: float = 60) -> None:
    """Make the running engine use the file; on failure put the former file back and start the engine with it."""
    if result.action == "none":
        return
    if not service.installed:
        raise DaemonConfigError(
            [problem(service.unit, "is not installed", "install the engine first (packages docker.io or docker-ce)")]
        )
    wants_live = result.config.get("live-restore") is True
    if result.action == "reload" or result.reload_first:
        done, said = service.systemctl("reload")
        if done and wants_live:
            done = service.wait(min(timeout, 15), lambda info: info.get("LiveRestoreEnabled") is True) is not None
            said = said or "live-restore did not come into effect"
        if not done:
            _fall_back(result, service, timeout, f"could not be reloaded ({said})", restart=False)
    if result.action in ("restart", "start"):
        service.systemctl("reset-failed")
        done, said = service.systemctl("restart" if result.action == "restart" else "start")
        if not done or service.wait(timeout) is None:
            reason = service.last_words() if not done else f"no answer within {timeout:g} s"
            what = f"did not start with the new settings ({reason or said})"
            _fall_back(result, service, timeout, what, restart=True)
    elif service.wait(timeout) is None:
        raise DaemonConfigError([problem(service.unit, f"does not answer within {timeout:g} s", "look at its journal")])


def _fall_back(result: Plan, service: Service, timeout: float, what: str, restart: bool) -> None:
    consequence = "the file was left as it is"
    if result.writes:
        if result.before is None:
            os.unlink(result.path)
        else:
            write_atomic(result.path, result.before, os.stat(result.path).st_mode & 0o7777)
        consequence = "the former file was put back"
    if restart:
        service.systemctl("reset-failed")
        done, _said = service.systemctl("restart")
        answered = done and service.wait(timeout) is not None
        consequence += " and the engine runs with it" if answered else ", but the engine does not start with it either"
    raise DaemonConfigError(
        [problem(service.unit, f"{what}; {consequence}", "see: journalctl -u docker, then correct the setting")]
    )


# -- giving back ------------------------------------------------------------------------------------------------------


def plan_restore(path: str, journal: Journal) -> Plan:
    """The file as it was before us; edits a person made since are kept."""
    before = read_file(path)
    if not journal.exists:
        return Plan(path, before, before, parse(before, path), None)
    original = journal.original
    if digest(before) == journal.data["written"] or before is None:
        after = original
        if before is None and original is not None:
            after = None  # removed by a person since: theirs to decide
        return Plan(path, before, after, parse(after, path), None)
    config = parse(before, path)
    first = parse(original, path)
    for name, values in journal.ours.items():
        if get(config, name) in values:
            value = get(first, name)
            if value is MISSING:
                drop(config, name)
            else:
                put(config, name, value)
    after = None if not config and original is None else render(config)
    note = f"{path} was edited since; only our settings were taken out of it."
    return Plan(path, before, after, config, None, notes=[note])


def restore(result: Plan, journal: Journal) -> None:
    """Land the former file with its owner and mode."""
    if not result.writes:
        return
    if result.after is None:
        os.unlink(result.path)
        try:
            os.rmdir(os.path.dirname(result.path))
        except OSError:
            pass  # other files live there
        return
    stored = journal.data["original"] or {"mode": 0o644, "uid": 0, "gid": 0}
    write_atomic(result.path, result.after, stored["mode"], (stored["uid"], stored["gid"]))
