# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The service spec: what a service role hands to the engine role ``_stack``.

PRIVATE: internal to the collection, may change in any release.

``normalise`` takes one spec (a dict), fills every default and returns it, or raises ``SpecError`` with all
problems at once. The result is what ``roles/_stack/templates/service.compose.yml.j2`` renders: it holds no
Compose-only idea, so that other targets can be rendered from the same spec.
"""

from __future__ import annotations

import re

from ansible_collections.mcpstack.platform.plugins.module_utils._secret_names import credential_name

PROJECT = "mcpstack"
SECRETS_ROOT = "/run/mcpstack/secrets"
LEAVES_ROOT = "/var/lib/mcpstack/pki/leaves"
CONFIG_ROOT = "/etc/mcpstack"

# Checks of the catalogue that a spec may relax, and what the relaxation does. Anything else has no exception.
EXCEPTIONS = {"CMP-08": "the root file system becomes writable"}

NAME = re.compile(r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$")
ENV_NAME = re.compile(r"^[A-Z][A-Z0-9_]*$")
SIZE = re.compile(r"^[1-9][0-9]*[kmg]$")
DURATION = re.compile(r"^[1-9][0-9]*(ms|s|m)$")
MODE = re.compile(r"^0[0-7]{3}$")
CPUS = re.compile(r"^(?![0.]+$)[0-9]+(\.[0-9]+)?$")  # nought would mean no limit
SIGNAL = re.compile(r"^SIG[A-Z0-9]+$")

UID_MIN, UID_MAX = 64101, 64999
# A service runs and answers its health check; a oneshot is started for one command and ends with it.
KINDS = ("service", "oneshot")

REQUIRED = object()

TOP = {
    "name": REQUIRED,
    "image": REQUIRED,
    "uid": REQUIRED,
    "kind": "service",
    "health": None,
    "limits": REQUIRED,
    "networks": REQUIRED,
    "entrypoint": None,
    "command": None,
    "environment": {},
    "secrets": [],
    "tls": False,
    "config": None,
    "volumes": [],
    "tmpfs": [],
    "publish": [],
    "depends_on": [],
    "stop": {},
    "exceptions": [],
}
HEALTH = {"command": REQUIRED, "interval": "5s", "timeout": "3s", "retries": 10, "start_period": "30s"}
LIMITS = {"memory": REQUIRED, "cpus": REQUIRED, "pids": REQUIRED, "shm": "64m", "nofile": None}
STOP = {"signal": "SIGTERM", "grace": "10s"}
TMPFS = {"target": REQUIRED, "size": REQUIRED, "mode": "0700"}
PUBLISH = {"host_ip": REQUIRED, "host_port": REQUIRED, "port": REQUIRED}
VOLUME = {"name": None, "path": None, "target": REQUIRED, "read_only": False, "mode": None}
EXCEPTION = {"check": REQUIRED, "reason": REQUIRED}


class SpecError(Exception):
    """A service spec that cannot be rendered; ``problems`` is a list of ``{where, what, fix}``."""

    def __init__(self, problems: list[dict]):
        self.problems = problems
        super().__init__("; ".join(f"{p['where']}: {p['what']} ({p['fix']})" for p in problems))


class _Checker:
    """Collects problems while it fills defaults; every method names the path of what it looks at."""

    def __init__(self, root: str):
        self.root = root
        self.problems: list[dict] = []

    def add(self, where: str, what: str, fix: str) -> None:
        self.problems.append({"where": f"{self.root}.{where}" if where else self.root, "what": what, "fix": fix})

    def table(self, where: str, value, table: dict) -> dict:
        """A dict with exactly the keys of ``table``: unknown ones are named, missing ones filled or named."""
        if not isinstance(value, dict):
            self.add(where, f"is {type(value).__name__}, not a mapping", f"give a mapping with {', '.join(table)}")
            return {}
        prefix = f"{where}." if where else ""
        for key in value:
            if key not in table:
                self.add(f"{prefix}{key}", "is not part of the service spec", f"use one of {', '.join(table)}")
        out = {}
        for key, default in table.items():
            if value.get(key) is not None:
                out[key] = value[key]
            elif default is REQUIRED:
                self.add(f"{prefix}{key}", "is missing", "every service must state it")
            else:
                out[key] = default.copy() if isinstance(default, (dict, list)) else default
        return out

    def match(self, where: str, value, pattern: re.Pattern, example: str) -> None:
        if value is not None and not pattern.fullmatch(str(value)):
            self.add(where, f"is {value!r}", f"write it like {example}")

    def argv(self, where: str, value) -> None:
        if value is None:
            return
        if not isinstance(value, list) or not value or not all(isinstance(item, str) and item for item in value):
            self.add(where, "is not a list of non-empty strings", "give the command as a list, one argument an item")

    def number(self, where: str, value, low: int, high: int) -> None:
        if value is None:
            return
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.add(where, f"is {value!r}", f"give a whole number from {low} to {high}")

    def path(self, where: str, value) -> None:
        if value is None:
            return
        if not isinstance(value, str) or not value.startswith("/") or "/../" in f"{value}/" or ":" in value:
            self.add(where, f"is {value!r}", "give an absolute path without .. and without a colon")

    def items(self, where: str, value, table: dict) -> list[dict]:
        if not isinstance(value, list):
            self.add(where, f"is {type(value).__name__}, not a list", "give a list")
            return []
        return [self.table(f"{where}[{index}]", item, table) for index, item in enumerate(value)]


def _check_mounts(spec: dict, check: _Checker) -> None:
    targets: dict[str, str] = {}
    claimed = [("config", spec.get("config"))]
    claimed += [(f"volumes[{i}].target", v.get("target")) for i, v in enumerate(spec["volumes"])]
    claimed += [(f"tmpfs[{i}].target", t.get("target")) for i, t in enumerate(spec["tmpfs"])]
    if spec["secrets"]:
        claimed.append(("secrets", "/run/secrets"))
    if spec["tls"]:
        claimed.append(("tls", "/run/tls"))
    for where, target in claimed:
        check.path(where, target)
        if target is None:
            continue
        if target in targets:
            check.add(
                where,
                f"mounts at {target}, where {targets[target]} mounts already",
                "mount each thing at its own place",
            )
        targets[target] = where
    for index, volume in enumerate(spec["volumes"]):
        where = f"volumes[{index}]"
        if (volume.get("name") is None) == (volume.get("path") is None):
            check.add(where, "must be either a named volume or a host path", "give exactly one of name and path")
        check.match(f"{where}.name", volume.get("name"), NAME, "postgres-data")
        check.path(f"{where}.path", volume.get("path"))
        check.match(f"{where}.mode", volume.get("mode"), MODE, '"0755"')
        path = volume.get("path")
        if volume.get("mode") and path is None:
            check.add(f"{where}.mode", "is given for a named volume", "give it only with path: that directory is made")
        if isinstance(path, str) and path.startswith("/") and not path.startswith("/var/lib/mcpstack/"):
            check.add(
                f"{where}.path",
                f"is {path}, outside the platform's own tree",
                "mount only what lies under /var/lib/mcpstack",
            )
        if not isinstance(volume.get("read_only", False), bool):
            check.add(f"{where}.read_only", f"is {volume['read_only']!r}", "give true or false")


def _check_limits(limits: dict, check: _Checker) -> dict:
    out = check.table("limits", limits, LIMITS)
    for key in ("memory", "shm"):
        check.match(f"limits.{key}", out.get(key), SIZE, "512m")
    check.match("limits.cpus", out.get("cpus"), CPUS, '"1.5"')
    check.number("limits.pids", out.get("pids"), 1, 65536)
    check.number("limits.nofile", out.get("nofile"), 256, 1048576)
    return out


def limit_problems(limits: dict, where: str) -> list[dict]:
    """What is wrong with a spec's limits, for whoever asks before there is a whole spec."""
    check = _Checker(where)
    _check_limits(limits, check)
    return check.problems


def _check_oneshot(spec: dict, check: _Checker) -> None:
    """What has no meaning for a container that is there only while its command runs."""
    for key, what in (
        ("health", "is given for a oneshot, which nobody asks how it is"),
        ("publish", "is given for a oneshot, which serves nobody"),
        ("depends_on", "is given for a oneshot, which never starts anything else"),
        ("command", "is given for a oneshot, whose command is what it is called with"),
    ):
        if spec[key]:
            check.add(key, what, "remove it")
    if not spec["entrypoint"]:
        check.add("entrypoint", "is missing", "name the program that takes the command of each call")


def normalise(spec: dict, where: str = "service") -> dict:
    """Return ``spec`` with every default filled in, or raise ``SpecError`` naming all problems at once."""
    check = _Checker(where)
    out = check.table("", spec, TOP)
    if check.problems and not isinstance(spec, dict):
        raise SpecError(check.problems)
    for key, default in TOP.items():
        out.setdefault(key, None if default is REQUIRED else default)
    if out["name"]:
        check.root = f"{where} {out['name']}"
    check.match("name", out["name"], NAME, "model-runner")
    if out["image"] is not None and (
        not isinstance(out["image"], str) or ":" not in out["image"] or out["image"].endswith(":latest")
    ):
        check.add("image", f"is {out['image']!r}", "name an image by content tag or digest, never latest")
    check.number("uid", out["uid"], UID_MIN, UID_MAX)
    check.argv("entrypoint", out["entrypoint"])
    check.argv("command", out["command"])

    if out["kind"] not in KINDS:
        check.add("kind", f"is {out['kind']!r}", f"give one of {', '.join(KINDS)}")
    if out["kind"] == "oneshot":
        _check_oneshot(out, check)
    elif out["health"] is None:
        check.add("health", "is missing", "every service must state it")
    out["health"] = check.table("health", out["health"], HEALTH) if out["health"] is not None else {}
    check.argv("health.command", out["health"].get("command"))
    for key in ("interval", "timeout", "start_period"):
        check.match(f"health.{key}", out["health"].get(key), DURATION, "5s")
    check.number("health.retries", out["health"].get("retries"), 1, 100)

    out["limits"] = _check_limits(out["limits"], check) if out["limits"] is not None else {}

    if not isinstance(out["environment"], dict):
        check.add("environment", f"is {type(out['environment']).__name__}, not a mapping", "give names and strings")
        out["environment"] = {}
    for name, value in out["environment"].items():
        check.match(f"environment.{name}", name, ENV_NAME, "GATEWAY_LOG_LEVEL")
        if not isinstance(value, str):
            check.add(f"environment.{name}", f"is {type(value).__name__}, not a string", "quote the value")
        elif credential_name(str(name)) and value:
            check.add(f"environment.{name}", "holds a credential in the environment", f"use a secret and {name}_FILE")

    for key, pattern, example in (
        ("secrets", NAME, "gateway-db"),
        ("networks", NAME, "data"),
        ("depends_on", NAME, "postgres"),
    ):
        if out[key] is None:
            continue
        if not isinstance(out[key], list):
            check.add(key, f"is {type(out[key]).__name__}, not a list", "give a list of names")
            out[key] = []
        for index, name in enumerate(out[key]):
            check.match(f"{key}[{index}]", name, pattern, example)
    if out["networks"] == []:
        check.add("networks", "is empty", "put the service on at least one network")

    out["volumes"] = check.items("volumes", out["volumes"], VOLUME)
    out["tmpfs"] = check.items("tmpfs", out["tmpfs"], TMPFS)
    for index, item in enumerate(out["tmpfs"]):
        check.match(f"tmpfs[{index}].size", item.get("size"), SIZE, "64m")
        check.match(f"tmpfs[{index}].mode", item.get("mode"), MODE, '"0700"')
    _check_mounts(out, check)

    out["publish"] = check.items("publish", out["publish"], PUBLISH)
    for index, item in enumerate(out["publish"]):
        check.number(f"publish[{index}].host_port", item.get("host_port"), 1, 65535)
        check.number(f"publish[{index}].port", item.get("port"), 1024, 65535)
        if item.get("host_ip") is not None and not re.match(r"^[0-9a-fA-F:.]+$", str(item["host_ip"])):
            check.add(f"publish[{index}].host_ip", f"is {item['host_ip']!r}", "give the IP address to listen on")

    out["stop"] = check.table("stop", out["stop"], STOP)
    check.match("stop.signal", out["stop"].get("signal"), SIGNAL, "SIGINT")
    check.match("stop.grace", out["stop"].get("grace"), DURATION, "30s")

    out["exceptions"] = check.items("exceptions", out["exceptions"], EXCEPTION)
    for index, item in enumerate(out["exceptions"]):
        if "check" in item and item["check"] not in EXCEPTIONS:
            check.add(
                f"exceptions[{index}].check", f"is {item['check']!r}", f"only {', '.join(EXCEPTIONS)} can be relaxed"
            )
        if "reason" in item and len(str(item["reason"])) < 15:
            check.add(
                f"exceptions[{index}].reason", "explains nothing", "say why, in a sentence, for whoever reads the audit"
            )

    if check.problems:
        raise SpecError(check.problems)
    out["read_only"] = not any(item["check"] == "CMP-08" for item in out["exceptions"])
    out["secrets_source"] = f"{SECRETS_ROOT}/{out['name']}"
    out["tls_source"] = f"{LEAVES_ROOT}/{out['name']}"
    out["config_source"] = f"{CONFIG_ROOT}/{out['name']}"
    return out
