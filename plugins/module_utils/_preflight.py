# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What must be true before anything is changed: the options on the controller, the host itself on the host.

PRIVATE: internal to the collection, may change in any release.

To add a check of option values, add a row to RULES (one option at a time) or CROSS_RULES (several together), and, when
it is a check of a new kind, a row to CHECKS; docs/preflight.md is made from CHECKS by ``table()``.
A check that cannot be decided is ``unknown``, which is never a pass.
"""

from __future__ import annotations

import difflib
import email.utils
import fnmatch
import json
import os
import re
import socket as socketlib
import sys
import tempfile
import time
from dataclasses import dataclass, field

from ansible_collections.mcpstack.platform.plugins.module_utils import _daemon_config, _packages
from ansible_collections.mcpstack.platform.plugins.module_utils._engine import EngineError, EngineUnavailable

PASS, FAIL, NOT_APPLICABLE, UNKNOWN = "pass", "fail", "not_applicable", "unknown"
STOPPING = ("critical", "high")
SEVERITIES = ("critical", "high", "medium", "low", "info")
ENVIRONMENTS = ("development", "staging", "production")
MB = 1 << 20


@dataclass(frozen=True)
class Check:
    """One row of the catalogue."""

    id: str
    title: str
    where: str  # controller or host
    severity: str
    refuses: str


CHECKS = (
    Check("PRE-01", "Options have the right type and value", "controller", "high", "a missing required option, a value "
          "of the wrong type, a value outside the choices, an unknown key in a nested option"),
    Check("PRE-02", "No unknown option", "controller", "high", "a variable `mcpstack_...` that no role has; the "
          "nearest name is suggested"),
    Check("PRE-03", "Every option can be evaluated", "controller", "high", "an option that refers to a variable that "
          "does not exist, or does not template"),
    Check("PRE-04", "No placeholder is left", "controller", "critical", "`CHANGE_ME`, `your-...`, `..._here`, "
          "`example`, `<...>`; outside development also names below example.com"),
    Check("PRE-05", "No wildcard origin in production", "controller", "high", "`*` among the allowed CORS origins"),
    Check("PRE-06", "No undeclared private certificate in production", "controller", "high", "an edge certificate of "
          "the internal CA that was not declared to be intended"),
    Check("PRE-07", "No undeclared public port in production", "controller", "high", "a published port that is neither "
          "on loopback nor among the declared public ports"),
    Check("PRE-08", "Published ports are unique", "controller", "high", "two services that publish the same port"),
    Check("PRE-09", "Names are valid DNS names", "controller", "high", "a public name that no client could resolve"),
    Check("PRE-10", "A model fits the memory of its service", "controller", "high", "a model file larger than the "
          "memory limit of the model runner"),
    Check("PRE-20", "The operating system is supported", "host", "high", "anything but Debian 12, 13 and "
          "Ubuntu 24.04"),
    Check("PRE-21", "The processor architecture is supported", "host", "high", "anything but amd64"),
    Check("PRE-22", "Python is recent enough", "host", "high", "Python before 3.10 on the host"),
    Check("PRE-23", "systemd is running", "host", "high", "a host whose first process is not systemd"),
    Check("PRE-24", "There is enough disk space", "host", "high", "less free space, or fewer free inodes, than what "
          "is still to be stored needs"),
    Check("PRE-25", "There is enough memory", "host", "high", "less memory than the sum of the limits of all services"),
    Check("PRE-26", "The clock is right", "host", "high", "more than 60 s apart from the controller; more than 5 s is "
          "a warning"),
    Check("PRE-27", "Wanted ports are free or already ours", "host", "high", "a port that another process or "
          "container holds; it is named with its pid"),
    Check("PRE-28", "The package index is valid", "host", "high", "sources that are missing, unreachable, expired or "
          "wrongly signed, while packages are still to be installed"),
    Check("PRE-29", "The engine is supported", "host", "high", "an engine before 20.10, or something else behind its "
          "socket"),
    Check("PRE-30", "Compose v2 is there or can be installed", "host", "high", "a release that has no Compose v2 of "
          "its own, with `mcpstack_docker_source: debian`"),
    Check("PRE-31", "Control groups can limit containers", "host", "high", "a kernel without the memory, cpu or pids "
          "controller"),
    Check("PRE-32", "The kernel has what containers need", "host", "high", "no overlay, no bridge, or neither iptables "
          "nor nftables"),
    Check("PRE-33", "daemon.json can be merged", "host", "high", "a broken file, a setting that contradicts a hardened "
          "one, a conflict with a flag of the engine's unit"),
    Check("PRE-34", "No container is stopped by the engine's restart", "host", "medium", "nothing; says which running "
          "containers the restart would stop"),
    Check("PRE-35", "The host has the processors that the services may use", "host", "high", "a service whose limit is "
          "higher than the number of processors, which the engine refuses to start"),
)  # fmt: skip
BY_ID = {check.id: check for check in CHECKS}

#: Variables of the collection that belong to no role.
COLLECTION_VARIABLES = frozenset(
    (
        "mcpstack_build_host",
        "mcpstack_environment",
        "mcpstack_images_refs",
        "mcpstack_internal_ca_intended",
        "mcpstack_public_ports",
        "mcpstack_server_names",
    )
)


def table() -> str:
    """The catalogue as a Markdown table, for the documentation."""
    lines = ["| check | decided on the | what it refuses | severity |", "|---|---|---|---|"]
    lines += [f"| {c.id} {c.title} | {c.where} | {c.refuses} | {c.severity} |" for c in CHECKS]
    return "\n".join(lines)


# -- results ----------------------------------------------------------------------------------------------------------


@dataclass
class Report:
    """Findings and the state of every check that was decided."""

    findings: list[dict] = field(default_factory=list)
    checks_run: dict[str, str] = field(default_factory=dict)

    def decided(self, check: str, status: str = PASS) -> None:
        """A fail stays a fail, an unknown stays unknown."""
        rank = (NOT_APPLICABLE, PASS, UNKNOWN, FAIL)
        if rank.index(status) >= rank.index(self.checks_run.get(check, NOT_APPLICABLE)):
            self.checks_run[check] = status

    def fail(self, check: str, where: str, what: str, fix: str, *, subject: str = "", severity: str = "") -> None:
        severity = severity or BY_ID[check].severity
        self._add(check, where, what, fix, subject, severity)
        self.decided(check, FAIL)

    def unknown(self, check: str, where: str, why: str, fix: str) -> None:
        self._add(check, where, f"could not be decided: {why.rstrip('.?')}", fix, "", "low")
        self.decided(check, UNKNOWN)

    def _add(self, check, where, what, fix, subject, severity) -> None:
        self.findings.append(
            {
                "id": check,
                "title": BY_ID[check].title,
                "severity": severity,
                "subject": subject or where,
                "where": where,
                "evidence": what,
                "fix": fix,
                "references": [],
                "waived": None,
            }
        )

    def merge(self, findings: list[dict], checks_run: dict[str, str]) -> None:
        self.findings += findings
        for check, status in checks_run.items():
            self.decided(check, status)

    @property
    def summary(self) -> dict[str, int]:
        return {severity: sum(item["severity"] == severity for item in self.findings) for severity in SEVERITIES}

    @property
    def stopping(self) -> list[dict]:
        return [item for item in self.findings if item["severity"] in STOPPING and not item["waived"]]

    @property
    def warnings(self) -> list[str]:
        return [sentence(item) for item in self.findings if item["severity"] not in STOPPING]

    def as_dict(self) -> dict:
        order = {severity: index for index, severity in enumerate(SEVERITIES)}
        findings = sorted(self.findings, key=lambda item: (order[item["severity"]], item["id"], item["where"]))
        return {"findings": findings, "checks_run": dict(sorted(self.checks_run.items())), "summary": self.summary}


def sentence(finding: dict) -> str:
    """One finding as one line: where, what, fix."""
    return f"{finding['where']}: {finding['evidence']}. Fix: {finding['fix']}."


def message(findings: list[dict], host: str = "this host") -> str:
    """Everything that stops the deployment, numbered."""
    count = "1 problem" if len(findings) == 1 else f"{len(findings)} problems"
    lines = [f"{count} on {host}; nothing was changed."]
    lines += [f"  {number}. [{item['id']}] {sentence(item)}" for number, item in enumerate(findings, 1)]
    return "\n".join(lines)


# -- options: one at a time -------------------------------------------------------------------------------------------

SECRET_NAME = re.compile(r"(password|passwd|secret|token|api_key|private_key|pepper|credentials?)$")


def shown(value, path: str = "") -> str:
    """A value for a message: short, and never one that could be a secret."""
    if SECRET_NAME.search(re.sub(r"[\[\]0-9.]+$", "", path)):
        return "a value that is not shown"
    text = json.dumps(value, default=str, sort_keys=True)
    return text if len(text) <= 80 else f"{text[:77]}..."


def nearest(name: str, names) -> str | None:
    found = difflib.get_close_matches(name, sorted(names), n=1, cutoff=0.6)
    return found[0] if found else None


def check_unknown(report: Report, given, known, origins: dict[str, str] | None = None) -> None:
    """PRE-02: a name nobody reads is a typo, and typos are silent."""
    known = set(known) | COLLECTION_VARIABLES
    report.decided("PRE-02")
    for name in sorted(set(given) - known):
        prefix = "mcpstack_"  # it alone makes no name similar
        guess = nearest(name.removeprefix(prefix), {item.removeprefix(prefix) for item in known})
        fix = f"write {prefix}{guess}" if guess else "remove it"
        where = f"{name} ({origins[name]})" if origins and name in origins else name
        report.fail("PRE-02", where, "is not an option of any role", fix, subject=name)


PLACEHOLDERS = (
    re.compile(r"change[-_ ]?me", re.I),
    re.compile(r"replace[-_ ]?(me|this)", re.I),
    re.compile(r"^your[-_ ]", re.I),
    re.compile(r"[-_ ]here$", re.I),
    re.compile(r"^(example|todo|fixme|tbd|x{3,})$", re.I),
    re.compile(r"^<[^<>]+>$"),
)
EXAMPLE_NAME = re.compile(r"(^|[.@/])example(\.(com|org|net))?$", re.I)


def strings(value, path: str):
    """Every string inside a value with its path."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from strings(item, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from strings(item, f"{path}[{index}]")


def is_placeholder(text: str, environment: str) -> bool:
    text = text.strip()
    if any(pattern.search(text) for pattern in PLACEHOLDERS):
        return True
    return environment != "development" and EXAMPLE_NAME.search(text) is not None


def check_placeholders(report: Report, values: dict, environment: str) -> None:
    """PRE-04."""
    report.decided("PRE-04")
    for name, value in sorted(values.items()):
        for path, text in strings(value, name):
            if is_placeholder(text, environment):
                report.fail("PRE-04", path, f"is still the placeholder {shown(text, path)}", "give the real value")


def no_wildcard(value, path: str):
    for where, text in strings(value, path):
        if text.strip() in ("*", "null") or text.strip().startswith("*."):
            yield where, f"allows the origin {text!r} in production", "name the origins, for example https://app.my.org"


_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)$", re.I)


def dns_name(value, path: str):
    for where, text in strings(value, path):
        name = text.rstrip(".")
        if name in ("", "localhost") and text:
            continue
        labels = name.split(".")
        if labels and labels[0] == "*":
            labels = labels[1:]
        if not name or len(name) > 253 or not all(_LABEL.match(label) for label in labels):
            yield where, f"is {text!r}, which is not a DNS name", "use letters, digits and hyphens between dots"


@dataclass(frozen=True)
class Rule:
    """One check of the value of every option whose name matches; ``test(value, path)`` yields (where, what, fix)."""

    check: str
    options: str
    test: object
    environments: tuple[str, ...] = ENVIRONMENTS


#: Add rows here for checks of single options.
RULES = (
    Rule("PRE-05", "mcpstack_*_cors_origins", no_wildcard, ("production",)),
    Rule("PRE-05", "mcpstack_*_allowed_origins", no_wildcard, ("production",)),
    Rule("PRE-09", "mcpstack_*_server_names", dns_name),
    Rule("PRE-09", "mcpstack_*_server_name", dns_name),
    Rule("PRE-09", "mcpstack_*_domains", dns_name),
    Rule("PRE-09", "mcpstack_*_domain", dns_name),
)


def check_rules(report: Report, values: dict, environment: str, rules=RULES) -> None:
    for rule in rules:
        matching = sorted(fnmatch.filter(values, rule.options))
        if environment not in rule.environments or not matching:
            report.decided(rule.check, NOT_APPLICABLE)
            continue
        report.decided(rule.check)
        for name in matching:
            if values[name] is not None:
                for where, what, fix in rule.test(values[name], name):
                    report.fail(rule.check, where, what, fix)


# -- options: several together ----------------------------------------------------------------------------------------


def size_bytes(text) -> int | None:
    """512m, 4g, 1073741824; None when it is none."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)(?:i?b)?", str(text).strip().lower())
    if not found:
        return None
    return int(float(found.group(1)) * {"": 1, "k": 1 << 10, "m": MB, "g": 1 << 30, "t": 1 << 40}[found.group(2)])


@dataclass
class Context:
    """What cross-field rules see: all effective options, the service specs in short, and how the host is used."""

    values: dict
    services: list[dict]
    environment: str
    public_ports: tuple[int, ...] = (80, 443)


LOOPBACK = re.compile(r"^(127\.|::1$|\[::1\]$|localhost$)")


def published(services: list[dict]) -> list[dict]:
    return [
        {
            "service": service["name"],
            "host_ip": str(entry.get("host_ip") or "0.0.0.0"),  # noqa: S104 - compared, not bound
            "port": int(entry["host_port"]),
            "where": f"{service['name']}.publish[{index}]",
        }
        for service in services
        for index, entry in enumerate(service.get("publish") or [])
        if str(entry.get("host_port", "")).isdigit()
    ]


def overlap(one: str, other: str) -> bool:
    """Whether two addresses cannot both be bound with one port."""
    one, other = one.strip("[]"), other.strip("[]")
    anywhere = ("", "0.0.0.0", "::", "*")  # noqa: S104 - compared, not bound
    return one == other or one in anywhere or other in anywhere


def unique_ports(context: Context):
    seen: list[dict] = []
    for entry in published(context.services):
        for other in seen:
            if other["port"] == entry["port"] and overlap(other["host_ip"], entry["host_ip"]):
                yield (
                    entry["where"],
                    f"publishes port {entry['port']}, which {other['where']} publishes already",
                    "give one of them another port",
                )
        seen.append(entry)


def declared_ports(context: Context):
    for entry in published(context.services):
        if not LOOPBACK.match(entry["host_ip"]) and entry["port"] not in context.public_ports:
            yield (
                entry["where"],
                f"publishes port {entry['port']} on {entry['host_ip']}, which is not declared as public",
                f"bind it to 127.0.0.1, or add {entry['port']} to mcpstack_public_ports",
            )


def declared_certificate(context: Context):
    for name, value in context.values.items():
        if fnmatch.fnmatch(name, "mcpstack_*_edge_source"):
            accepted = context.values.get("mcpstack_internal_ca_intended") is True
            if value in ("internal", "self-signed", "selfsigned") and not accepted:
                yield (
                    name,
                    f"is {value!r} in production: no browser and no client trusts that certificate",
                    "use 'acme' or 'files', or declare it with mcpstack_internal_ca_intended: true",
                )


def model_fits(context: Context):
    limit = next((s.get("memory") for s in context.services if s["name"] == "model-runner"), None)
    limit = size_bytes(limit) if limit else None
    for index, model in enumerate(context.values.get("mcpstack_model_runner_models") or []):
        size = size_bytes(model.get("size")) if isinstance(model, dict) and model.get("size") else None
        if size and limit and size > limit:
            yield (
                f"mcpstack_model_runner_models[{index}].size",
                f"is {size // MB} MB, but the model runner may use {limit // MB} MB",
                f"raise its memory limit above {size // MB} MB, or choose a smaller model",
            )


@dataclass(frozen=True)
class CrossRule:
    """One check of several options together; ``test(context)`` yields (where, what, fix)."""

    check: str
    test: object
    environments: tuple[str, ...] = ENVIRONMENTS


#: Add rows here for checks that need more than one option.
CROSS_RULES = (
    CrossRule("PRE-06", declared_certificate, ("production",)),
    CrossRule("PRE-07", declared_ports, ("production",)),
    CrossRule("PRE-08", unique_ports),
    CrossRule("PRE-10", model_fits),
)


def check_cross_rules(report: Report, context: Context, rules=CROSS_RULES) -> None:
    for rule in rules:
        if context.environment not in rule.environments:
            report.decided(rule.check, NOT_APPLICABLE)
            continue
        report.decided(rule.check)
        for where, what, fix in rule.test(context):
            report.fail(rule.check, where, what, fix)


# -- the host ---------------------------------------------------------------------------------------------------------

SUPPORTED = {"debian": {"12": "bookworm", "13": "trixie"}, "ubuntu": {"24.04": "noble"}}
SUPPORTED_TEXT = "Debian 12 or 13, or Ubuntu 24.04"
ENGINE_OLDEST = (20, 10)
ENGINE_NEWEST = 29
WITHOUT_COMPOSE = ("bookworm",)
COMPOSE_PLACES = (
    "usr/libexec/docker/cli-plugins/docker-compose",
    "usr/lib/docker/cli-plugins/docker-compose",
    "usr/local/libexec/docker/cli-plugins/docker-compose",
    "usr/local/lib/docker/cli-plugins/docker-compose",
    "root/.docker/cli-plugins/docker-compose",
)


def _read(root: str, path: str) -> str | None:
    try:
        with open(os.path.join(root, path), encoding="utf-8", errors="replace") as handle:
            return handle.read()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None


def os_release(root: str = "/") -> dict[str, str]:
    text = _read(root, "etc/os-release") or _read(root, "usr/lib/os-release") or ""
    pairs = re.findall(r'^([A-Z_]+)=["\']?(.*?)["\']?$', text, re.M)
    return dict(pairs)


def codename(root: str = "/") -> str | None:
    release = os_release(root)
    return SUPPORTED.get(release.get("ID", ""), {}).get(release.get("VERSION_ID", ""))


def facts(root: str = "/", kernel: str | None = None) -> dict[str, str]:
    """What the roles want to know of the host, under the names of Ansible's own facts."""
    release = os_release(root)
    return {
        "distribution": release.get("ID", "").capitalize(),
        "distribution_release": release.get("VERSION_CODENAME", ""),
        "kernel": kernel or os.uname().release,
    }


def check_platform(report: Report, root: str = "/", machine: str | None = None, python=None) -> None:
    """PRE-20 to PRE-23."""
    release = os_release(root)
    if not release:
        report.unknown("PRE-20", "/etc/os-release", "the file is missing", f"use {SUPPORTED_TEXT}")
    elif codename(root) is None:
        name = release.get("PRETTY_NAME") or release.get("ID") or "an unknown system"
        report.fail("PRE-20", "/etc/os-release", f"says {name}, which is not supported", f"use {SUPPORTED_TEXT}")
    else:
        report.decided("PRE-20")
    machine = machine or os.uname().machine
    if machine in ("x86_64", "amd64"):
        report.decided("PRE-21")
    else:
        report.fail("PRE-21", "uname -m", f"says {machine}", "use a host with an amd64 (x86-64) processor")
    python = python or sys.version_info
    if tuple(python[:2]) >= (3, 10):
        report.decided("PRE-22")
    else:
        report.fail(
            "PRE-22",
            sys.executable or "python3",
            f"is Python {python[0]}.{python[1]}",
            "set ansible_python_interpreter to a Python 3.10 or newer",
        )
    if os.path.isdir(os.path.join(root, "run/systemd/system")):
        report.decided("PRE-23")
    else:
        report.fail("PRE-23", "/run/systemd/system", "does not exist: systemd is not running", "boot with systemd")


def _existing(root: str, path: str) -> str:
    candidate = os.path.join(root, path.lstrip("/"))
    while not os.path.exists(candidate):
        candidate = os.path.dirname(candidate)
    return candidate


def check_disk(report: Report, demands_mb: dict[str, int], stored_mb: dict[str, int], root: str = "/") -> None:
    """PRE-24: what is stored already is not demanded again; demands on one file system add up."""
    if not demands_mb:
        report.decided("PRE-24", NOT_APPLICABLE)
        return
    report.decided("PRE-24")
    filesystems: dict[int, dict] = {}
    for path, demand in demands_mb.items():
        place = _existing(root, path)
        left = max(0, int(demand) - stored_mb.get(path, 0))
        entry = filesystems.setdefault(os.stat(place).st_dev, {"place": place, "paths": [], "demand": 0})
        entry["paths"].append(path)
        entry["demand"] += left
    for entry in filesystems.values():
        status = os.statvfs(entry["place"])
        free = status.f_bavail * status.f_frsize // MB
        paths = " and ".join(entry["paths"])
        if free < entry["demand"]:
            report.fail(
                "PRE-24",
                paths,
                f"{free} MB are free, but {entry['demand']} MB are still needed there",
                f"free or add {entry['demand'] - free} MB, or mount a larger file system at {entry['paths'][0]}",
            )
        elif status.f_files and status.f_favail < 10000:
            report.fail("PRE-24", paths, f"only {status.f_favail} inodes are free", "remove small files there")


def stored(engine, root: str = "/") -> dict[str, int]:
    """What of our own is there already, in MB: our images, and everything below our state directory."""
    found = {}
    try:
        images = engine.get("/images/json", {"filters": {"reference": ["mcpstack/*"]}})
        found["/var/lib/docker"] = sum(image.get("Size", 0) for image in images) // MB
    except EngineError:
        pass
    total = 0
    for directory, _folders, files in os.walk(os.path.join(root, "var/lib/mcpstack")):
        for name in files:
            try:
                total += os.lstat(os.path.join(directory, name)).st_blocks * 512
            except OSError:
                continue  # gone meanwhile
    found["/var/lib/mcpstack"] = total // MB
    return found


def total_memory(root: str = "/") -> int | None:
    """The memory of the host in bytes; that of its control group where it is itself confined."""
    found = re.search(r"^MemTotal:\s+(\d+) kB", _read(root, "proc/meminfo") or "", re.M)
    if not found:
        return None
    total = int(found.group(1)) * 1024
    limit = (_read(root, "sys/fs/cgroup/memory.max") or "").strip()
    return min(total, int(limit)) if limit.isdigit() else total


def check_memory(report: Report, services: list[dict], demand_mb: int | None, root: str = "/") -> None:
    """PRE-25."""
    limits = {service["name"]: size_bytes(service["memory"]) for service in services if service.get("memory")}
    limits = {name: limit for name, limit in limits.items() if limit}
    if not demand_mb and not limits:
        report.decided("PRE-25", NOT_APPLICABLE)
        return
    demand = (demand_mb or 0) * MB or sum(limits.values())
    total = total_memory(root)
    if total is None:
        report.unknown("PRE-25", "/proc/meminfo", "the file has no MemTotal", "mount /proc")
        return
    report.decided("PRE-25")
    if demand > total:
        shares = ", ".join(f"{name} {limit // MB}" for name, limit in sorted(limits.items(), key=lambda i: -i[1]))
        detail = f" ({shares})" if shares and not demand_mb else ""
        report.fail(
            "PRE-25",
            "/proc/meminfo",
            f"the host has {total // MB} MB of memory, but the services may use {demand // MB} MB{detail}",
            "lower the memory limits of the services, or give the host more memory",
        )


def check_processors(report: Report, services: list[dict], count: int | None) -> None:
    """PRE-35: the engine refuses a limit above the number of processors that are online."""
    limits = {}
    for service in services:
        try:
            limits[service["name"]] = float(service.get("cpus") or 0)
        except (TypeError, ValueError):  # refused as an option already
            limits[service["name"]] = 0.0
    limits = {name: limit for name, limit in limits.items() if limit}
    if not limits:
        report.decided("PRE-35", NOT_APPLICABLE)
        return
    if not count:
        report.unknown("PRE-35", "processors", "their number is not known", "mount /sys and /proc")
        return
    report.decided("PRE-35")
    for name, limit in sorted(limits.items()):
        if limit > count:
            plural = "processor" if count == 1 else "processors"
            report.fail("PRE-35", name, f"may use {limit:g} processors, but the host has {count} {plural}",
                        f"set mcpstack_{name.replace('-', '_')}_cpus to at most {count}")  # fmt: skip


def clock_offset(sent: float, received: float, started: float, finished: float) -> tuple[float, float]:
    """How far the host is ahead of the controller, and how exactly that is known.

    The host's stamps were taken somewhere between sending and receiving; what is not spent between them is travel.
    """
    travel = max(0.0, (received - sent) - (finished - started))
    return (started + finished) / 2 - (sent + received) / 2, travel / 2


def check_clock(report: Report, offset: float, uncertainty: float, warn: float = 5, fail: float = 60) -> None:
    """PRE-26; only what is certain counts."""
    least = abs(offset) - uncertainty
    direction = "ahead of" if offset > 0 else "behind"
    what = f"the host's clock is {abs(offset):.1f} s {direction} the controller's"
    fix = "let both follow a time server (timedatectl set-ntp true)"
    report.decided("PRE-26")
    if least > fail:
        report.fail("PRE-26", "clock", what, fix)
    elif least > warn:
        report.fail("PRE-26", "clock", what, fix, severity="medium")


# -- ports ------------------------------------------------------------------------------------------------------------


def _address(text: str) -> tuple[str, int]:
    host, _colon, port = text.partition(":")
    raw = bytes.fromhex(host)
    words = b"".join(raw[index : index + 4][::-1] for index in range(0, len(raw), 4))
    family = socketlib.AF_INET if len(raw) == 4 else socketlib.AF_INET6
    return socketlib.inet_ntop(family, words), int(port, 16)


def listeners(root: str = "/") -> list[dict]:
    """Every listening TCP socket: address, port, inode."""
    found = []
    for name in ("proc/net/tcp", "proc/net/tcp6"):
        for line in (_read(root, name) or "").splitlines()[1:]:
            fields = line.split()
            if len(fields) > 9 and fields[3] == "0A":
                address, port = _address(fields[1])
                found.append({"address": address, "port": port, "inode": fields[9]})
    return found


def holder(inode: str, root: str = "/") -> tuple[str, int] | None:
    """Name and pid of the process that has a socket open."""
    wanted = f"socket:[{inode}]"
    base = os.path.join(root, "proc")
    for pid in sorted((name for name in os.listdir(base) if name.isdigit()), key=int):
        folder = os.path.join(base, pid, "fd")
        try:
            if any(os.readlink(os.path.join(folder, name)) == wanted for name in os.listdir(folder)):
                return (_read(base, f"{pid}/comm") or "?").strip(), int(pid)
        except OSError:
            continue  # ended meanwhile, or not ours to see
    return None


def container_of(pid: int, root: str = "/") -> str | None:
    """The id of the container a process belongs to."""
    found = re.search(r"[0-9a-f]{64}", _read(root, f"proc/{pid}/cgroup") or "")
    return found.group(0) if found else None


def check_ports(report: Report, wanted: list[dict], containers: list[dict], project: str, root: str = "/") -> None:
    """PRE-27: a port is fine when nobody has it, or when our own container has it."""
    if not wanted:
        report.decided("PRE-27", NOT_APPLICABLE)
        return
    report.decided("PRE-27")

    def is_ours(container: dict) -> bool:
        return (container.get("Labels") or {}).get("com.docker.compose.project") == project

    def name(container: dict) -> str:
        return (container.get("Names") or [container["Id"][:12]])[0].lstrip("/")

    listening = listeners(root)
    for entry in wanted:
        port, address = entry["port"], entry["host_ip"]
        where = f"port {port}/tcp"
        fix = f"stop it, or publish another port ({entry.get('where') or 'publish'})"
        publishing = [
            container
            for container in containers
            for item in container.get("Ports") or []
            if item.get("PublicPort") == port
            and item.get("Type", "tcp") == "tcp"
            and overlap(item.get("IP") or "", address)
        ]
        foreign = sorted({name(container) for container in publishing if not is_ours(container)})
        if foreign:
            report.fail("PRE-27", where, f"is published by the container {foreign[0]}", fix)
            continue
        if publishing:
            continue
        holding = [item for item in listening if item["port"] == port and overlap(item["address"], address)]
        for item in holding:
            who = holder(item["inode"], root)
            if who is None:
                held = f"is held by a process that cannot be seen (socket {item['inode']})"
                report.fail("PRE-27", where, held, fix)
                break
            inside = container_of(who[1], root)
            owner = next((c for c in containers if inside and c["Id"] == inside), None)
            if owner and is_ours(owner):
                continue
            held = f"is held by {who[0]} (pid {who[1]}) on {item['address']}"
            report.fail("PRE-27", where, held + (f" in the container {name(owner)}" if owner else ""), fix)
            break


# -- packages ---------------------------------------------------------------------------------------------------------


def apt_sources(root: str = "/") -> list[str]:
    """Files with at least one enabled source of binary packages."""
    found = []
    base = os.path.join(root, "etc/apt")
    names = ["sources.list"]
    try:
        names += [f"sources.list.d/{name}" for name in sorted(os.listdir(os.path.join(base, "sources.list.d")))]
    except OSError:
        pass
    for name in names:
        text = _read(base, name) or ""
        if name.endswith(".sources"):
            disabled = re.compile(r"^Enabled:\s*(no|false|0)\b", re.M | re.I)
            stanzas = [stanza for stanza in re.split(r"\n\s*\n", text) if not disabled.search(stanza)]
            if any(re.search(r"^Types:.*\bdeb\b(?!-)", stanza, re.M) for stanza in stanzas):
                found.append(f"/etc/apt/{name}")
        elif name.endswith(".list") and re.search(r"^\s*deb\s", text, re.M):
            found.append(f"/etc/apt/{name}")
    return found


#: What apt says, what that means, what to do. The first that matches counts.
APT_SAYS = (
    (r"is expired \(invalid since|Release file .* expired", "the package index is expired",
     "point the source to a mirror that is kept up to date, and check the host's clock"),
    (r"is not valid yet", "the package index is from the future", "check the host's clock"),
    (r"NO_PUBKEY|signatures? (were|was|couldn't|could not)|is not signed|INVALIDSIG|BADSIG|EXPKEYSIG|Splitting up"
     r"|[Ss]ub-process .*(sqv|gpgv) returned", "the package index is not signed by a key that this host trusts",
     "check the source and its Signed-By key"),
    (r"Could not resolve|Temporary failure resolving", "the package mirror's name cannot be resolved",
     "check DNS and the address of the source"),
    (r"Could not connect|Connection refused|Unable to connect|timed out|Network is unreachable|Connection failed",
     "the package mirror cannot be reached", "check the network, the proxy settings and the address of the source"),
    (r"404|does not have a Release file|File not found", "the package mirror has no such release",
     "correct the suite or the address of the source"),
)  # fmt: skip


def explain_apt(said: str) -> tuple[str, str]:
    lines = [line.strip() for line in said.splitlines() if re.match(r"(E|W|Err):?", line.strip())]
    text = "\n".join(lines) or said
    for pattern, what, fix in APT_SAYS:
        found = next((line for line in lines if re.search(pattern, line)), None)
        if found or (not lines and re.search(pattern, text)):
            return f"{what} ({re.sub(r'^(E|W): ', '', found or text)[:300]})", fix
    reason = text[:300] or "no reason given"
    return f"apt cannot update its index ({reason})", "run apt-get update on the host and repair what it names"


def expired(directory: str, now: float) -> list[str]:
    """Fetched indices whose own end of validity has passed."""
    found = []
    for name in sorted(os.listdir(directory)):
        if name.endswith("Release"):
            text = (_read(directory, name) or "")[:4000]
            until = re.search(r"^Valid-Until: (.+)$", text, re.M)
            if until and email.utils.parsedate_to_datetime(until.group(1)).timestamp() < now:
                found.append(f"{name.replace('_', '/').replace('/InRelease', '')} (valid until {until.group(1)})")
    return found


def rehearse_update(run, now: float | None = None) -> tuple[int, str, list[str]]:
    """Let apt itself fetch and judge every source's signed index, in a directory of its own.

    Returns apt's status, what it said, and what is expired although apt took it.
    """
    with tempfile.TemporaryDirectory(prefix="mcpstack-apt-") as directory:
        os.makedirs(os.path.join(directory, "lists/partial"))
        options = (
            f"Dir::State::lists={directory}/lists",
            f"Dir::Cache={directory}/cache",
            "Acquire::IndexTargets::deb::Packages::DefaultEnabled=false",
            "Acquire::IndexTargets::deb::Translations::DefaultEnabled=false",
            "Acquire::IndexTargets::deb-src::Sources::DefaultEnabled=false",
            "Acquire::Retries=0",
            "Acquire::http::Timeout=10",
            "Acquire::https::Timeout=10",
            "APT::Sandbox::User=root",
            "APT::Update::Error-Mode=any",
            "APT::Update::Post-Invoke::=true",
        )
        rc, out, err = run(["apt-get", "update", "-q", *[word for option in options for word in ("-o", option)]])
        old = expired(os.path.join(directory, "lists"), now or time.time())
    return rc, f"{out}\n{err}", old


def check_index(report: Report, missing: list[str] | None, root: str = "/", run=_daemon_config.run_command) -> None:
    """PRE-28: only asked when something is to be installed; then apt's own verdict counts."""
    if missing is None:
        report.unknown("PRE-28", "/var/lib/dpkg/status", "the package database cannot be read", "repair dpkg")
        return
    if not missing:
        report.decided("PRE-28", NOT_APPLICABLE)
        return
    if not apt_sources(root):
        report.fail(
            "PRE-28",
            "/etc/apt/sources.list.d",
            f"no package source is configured, but {', '.join(missing)} must be installed",
            "add the distribution's package sources",
        )
        return
    rc, said, old = rehearse_update(run)
    if rc == 127:
        report.fail("PRE-28", "apt-get", "is not installed", f"use {SUPPORTED_TEXT}")
    elif rc != 0:
        what, fix = explain_apt(said)
        report.fail("PRE-28", "/etc/apt/sources.list.d", what, fix)
    elif old:
        report.fail(
            "PRE-28",
            "Acquire::Check-Valid-Until",
            f"apt on this host is told to accept an expired package index: {'; '.join(old)}",
            "remove the setting from /etc/apt/apt.conf.d, or point the source to a mirror that is kept up to date",
            severity="medium",
        )
    else:
        report.decided("PRE-28")


# -- the engine -------------------------------------------------------------------------------------------------------


def check_engine(report: Report, engine, packages: dict | None) -> bool:
    """PRE-29; says whether an engine answers."""
    there = packages is not None and any(name in packages for name in ("docker.io", "docker-ce"))
    try:
        version = engine.version()
    except EngineUnavailable as exc:
        if there:
            report.unknown("PRE-29", "docker.service", str(exc), "start it: systemctl start docker")
        else:
            report.decided("PRE-29", NOT_APPLICABLE)
        return False
    except EngineError as exc:
        report.fail("PRE-29", "docker.service", str(exc).rstrip("."), "install Docker 20.10 or newer")
        return False
    components = [str(item.get("Name")) for item in version.get("Components") or []]
    number = str(version.get("Version"))
    found = re.match(r"(\d+)\.(\d+)", number)
    if any("podman" in name.lower() for name in components):
        report.fail("PRE-29", engine.socket_path, "is Podman, not the Docker engine", "remove podman-docker")
        return False
    if not found:
        report.unknown("PRE-29", "docker.service", f"its version is {number!r}", "install Docker 20.10 or newer")
    elif (int(found.group(1)), int(found.group(2))) < ENGINE_OLDEST:
        report.fail("PRE-29", "docker.service", f"is Docker {number}", "install Docker 20.10 or newer")
    elif int(found.group(1)) > ENGINE_NEWEST:
        report.unknown("PRE-29", "docker.service", f"Docker {number} is newer than this collection", "update it")
    else:
        report.decided("PRE-29")
    return True


def check_compose(report: Report, source: str, root: str = "/") -> None:
    """PRE-30."""
    if any(os.path.exists(os.path.join(root, place)) for place in COMPOSE_PLACES):
        report.decided("PRE-30")
        return
    suite = codename(root)
    if suite is None:
        report.unknown("PRE-30", "docker compose", "the release is not known", f"use {SUPPORTED_TEXT}")
    elif suite in WITHOUT_COMPOSE and source == "debian":
        report.fail(
            "PRE-30",
            "docker compose",
            f"Compose v2 is not installed, and {suite} has no package of it",
            "set mcpstack_docker_source: docker, install the docker-compose plugin yourself, or upgrade to Debian 13",
        )
    else:
        report.decided("PRE-30")


def check_cgroup(report: Report, info: dict | None, root: str = "/") -> None:
    """PRE-31: the engine's own word where there is one."""
    base = os.path.join(root, "sys/fs/cgroup")
    if info is not None:
        wanted = {"memory": "MemoryLimit", "cpu": "CpuCfsQuota", "pids": "PidsLimit"}
        lacking = [name for name, key in wanted.items() if info.get(key) is False]
    else:
        controllers = _read(base, "cgroup.controllers")
        if controllers is not None:
            there = controllers.split()
        elif os.path.isdir(base):
            there = [name for part in os.listdir(base) for name in part.split(",")]
        else:
            report.unknown("PRE-31", "/sys/fs/cgroup", "it is not mounted", "boot with systemd, which mounts it")
            return
        lacking = [name for name in ("memory", "cpu", "pids") if name not in there]
    report.decided("PRE-31")
    if lacking:
        report.fail(
            "PRE-31",
            "/sys/fs/cgroup",
            f"the kernel offers no {' and no '.join(lacking)} controller",
            "enable it on the kernel's command line, for example cgroup_enable=memory",
        )


def kernel_has(names: tuple[str, ...], root: str = "/", release: str | None = None) -> bool | None:
    """Built in, loaded or loadable; None when the host does not tell."""
    if any(os.path.isdir(os.path.join(root, "sys/module", name)) for name in names):
        return True
    if any(re.search(rf"\b{name}$", _read(root, "proc/filesystems") or "", re.M) for name in names):
        return True
    folder = f"lib/modules/{release or os.uname().release}"
    indices = [_read(root, f"{folder}/{name}") for name in ("modules.builtin", "modules.dep")]
    if all(index is None for index in indices):
        return None
    return any(
        re.search(rf"/{name}\.ko(\.\w+)?(:|$)", index or "", re.M) for index in indices for name in names
    )  # fmt: skip


def check_kernel(report: Report, info: dict | None, root: str = "/") -> None:
    """PRE-32: an engine that runs with overlay2 on a bridge has proved it all."""
    if info is not None and str(info.get("Driver", "")).startswith("overlay") and info.get("BridgeNfIptables", True):
        report.decided("PRE-32")
        return
    features = {
        "overlay": (("overlay", "overlayfs"), ()),
        "bridge": (("bridge",), ("proc/sys/net/bridge",)),
        "iptables or nftables": (
            ("nf_tables", "ip_tables", "iptable_nat"),
            ("proc/net/ip_tables_names", "proc/sys/net/netfilter/nf_conntrack_max"),
        ),
    }
    report.decided("PRE-32")
    for name, (modules, traces) in features.items():
        has = any(os.path.exists(os.path.join(root, trace)) for trace in traces) or kernel_has(modules, root)
        if has is None:
            report.unknown("PRE-32", name, "the kernel's modules are not listed on this host", "see what dockerd says")
        elif not has:
            report.fail("PRE-32", name, "this kernel has no such module", "boot the distribution's own kernel")


def check_daemon(report: Report, wanted: dict, service, journal_path: str, root: str = "/") -> None:
    """PRE-33 and PRE-34: the same plan that daemon_config will carry out."""
    if not wanted:
        report.decided("PRE-33", NOT_APPLICABLE)
        report.decided("PRE-34", NOT_APPLICABLE)
        return
    path = os.path.join(root, _daemon_config.PATH.lstrip("/"))
    try:
        journal = _daemon_config.Journal(journal_path)
        plan = _daemon_config.plan(
            path,
            wanted.get("settings") or {},
            wanted.get("extra") or {},
            journal,
            service,
            override=wanted.get("conflicts") == "override",
            root=root,
        )
        if plan.writes:
            _daemon_config.validate(plan.config, path, root, service.run)
    except _daemon_config.DaemonConfigError as exc:
        for item in exc.problems:
            report.fail("PRE-33", item["where"], item["what"], item["fix"])
        report.decided("PRE-34", UNKNOWN)
        return
    report.decided("PRE-33")
    report.decided("PRE-34")
    if plan.interrupted:
        report.fail(
            "PRE-34",
            "docker.service",
            f"the restart of the engine ({plan.reason}) stops these containers: {', '.join(plan.interrupted)}",
            "set mcpstack_docker_live_restore: true, or choose the time for it",
        )


@dataclass
class HostDemands:
    """What the host must offer."""

    services: list[dict] = field(default_factory=list)
    ports: list[dict] = field(default_factory=list)
    disk_mb: dict[str, int] = field(default_factory=dict)
    memory_mb: int | None = None
    project: str = "mcpstack"
    packages: dict[str, list[str]] = field(default_factory=dict)
    source: str = "debian"
    daemon: dict = field(default_factory=dict)
    journal: str = _daemon_config.JOURNAL


def inspect_host(demands: HostDemands, engine, root: str = "/", run=_daemon_config.run_command) -> Report:
    """All checks of the host, in one go."""
    report = Report()
    check_platform(report, root)
    try:
        packages = _packages.installed(root)
    except _packages.PackagesError:
        packages = None
    suite = codename(root)
    missing = None
    if packages is not None:
        names = demands.packages.get("common", []) + demands.packages.get(suite or "", [])
        missing = _packages.wanted(packages, names)
    service = _daemon_config.Service(engine, run, root)
    answers = check_engine(report, engine, packages)
    info = service.info() if answers else None
    containers = service.containers() if answers else []
    check_disk(report, demands.disk_mb, stored(engine, root) if demands.disk_mb else {}, root)
    check_memory(report, demands.services, demands.memory_mb, root)
    check_processors(report, demands.services, os.cpu_count())
    check_ports(report, published(demands.services) + demands.ports, containers, demands.project, root)
    if demands.packages:
        check_compose(report, demands.source, root)
        check_index(report, missing, root, run)
    else:
        report.decided("PRE-28", NOT_APPLICABLE)
        report.decided("PRE-30", NOT_APPLICABLE)
    check_cgroup(report, info, root)
    check_kernel(report, info, root)
    check_daemon(report, demands.daemon, service, demands.journal, root)
    return report
