# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules of the Linux audit system: which paths they watch (HST-03, HST-04).

PRIVATE: internal to the collection, may change in any release. Standard library only.
"""

from __future__ import annotations

import posixpath
import shlex
from dataclasses import dataclass, field

from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import Files, Unreadable
from ansible_collections.mcpstack.platform.plugins.module_utils._unit_files import directories

RULES, COMPILED = "/etc/audit/rules.d", "/etc/audit/audit.rules"
SUBJECT = "host"
_LIMIT = 1 << 18
#: Most parts of a path that are gone up when looking for a rule on a directory above.
_DEPTH = 64

_PROGRAMS = ("dockerd", "containerd", "containerd-shim", "containerd-shim-runc-v1", "containerd-shim-runc-v2", "runc")
_PROGRAM_DIRECTORIES = ("/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin")
_PATHS = (
    "/etc/docker", "/etc/docker/daemon.json", "/etc/default/docker", "/etc/sysconfig/docker",
    "/etc/containerd/config.toml", "/run/containerd", "/run/containerd/containerd.sock", "/run/docker.sock",
)  # fmt: skip
_UNITS = ("docker.service", "docker.socket", "containerd.service")


@dataclass
class Rules:
    """Watched paths with the kinds of access (r, w, x, a) that are recorded. files: what was read."""

    watched: dict[str, str] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def covers(self, path: str, wanted: str) -> bool:
        """Whether all kinds of access to a path are recorded, by a rule on it or on a directory above it."""
        for _step in range(_DEPTH):
            if set(wanted) <= set(self.watched.get(path, "")):
                return True
            if path == "/":
                return False
            path = posixpath.dirname(path)
        return False


class Paths:
    """One spelling for each path: /bin is /usr/bin and /var/run is /run where they are links."""

    def __init__(self, files: Files):
        self._moved = {}
        for old, new in (("/bin", "/usr/bin"), ("/sbin", "/usr/sbin"), ("/lib", "/usr/lib"), ("/var/run", "/run")):
            info = files.stat(old, follow=False)
            if info is None or info.kind == "link":
                self._moved[old] = new

    def plain(self, path: str) -> str:
        path = posixpath.normpath(path)
        for old, new in self._moved.items():
            if path == old or path.startswith(old + "/"):
                return new + path[len(old) :]
        return path


def parse(text: str, paths: Paths, into: dict[str, str]) -> None:
    """Put the watches of a text into ``into``, in the order in which auditctl would load them."""
    for line in text.splitlines():
        line = line.strip()
        if not line.startswith("-"):
            continue
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            words = line.split()
        if words[:1] == ["-D"]:
            into.clear()
            continue
        target, kinds, action, deleted = "", "", "always", False
        for position, word in enumerate(words):
            value = words[position + 1] if position + 1 < len(words) else ""
            if word in ("-w", "-W"):
                target, deleted, kinds = value, word == "-W", kinds or "rwxa"
            elif word == "-p":
                kinds = value
            elif word in ("-a", "-A"):
                action = value
            elif word == "-d":
                deleted, action = True, value
            elif word == "-F" and value.startswith(("path=", "dir=")):
                target, kinds = value.partition("=")[2], kinds or "rwxa"
            elif word == "-F" and value.startswith("perm="):
                kinds = value[5:]
        if not target.startswith("/"):
            continue
        path = paths.plain(target)
        if deleted or "never" in action.split(","):
            into.pop(path, None)
        else:
            into[path] = into.get(path, "") + kinds


def load(files: Files, paths: Paths) -> Rules:
    """The rules as they are in files: those that augenrules puts together, and the file that is loaded."""
    rules = Rules()
    sources = [f"{RULES}/{name}" for name in files.names(RULES) if name.endswith(".rules")]
    for path in sources or [COMPILED]:
        if files.stat(path) is None:
            continue
        try:
            parse(files.read(path, _LIMIT).decode("utf-8", "replace"), paths, rules.watched)
            rules.files.append(path)
        except Unreadable as error:
            rules.problems.append(str(error))
    return rules


def _compiled(files: Files, paths: Paths) -> dict[str, str] | None:
    """What is loaded at boot; None when it cannot be told."""
    if files.stat(COMPILED) is None:
        return None
    found: dict[str, str] = {}
    try:
        parse(files.read(COMPILED, _LIMIT).decode("utf-8", "replace"), paths, found)
    except Unreadable:
        return None
    return found


def _programs(files: Files, paths: Paths) -> list[str]:
    found = []
    for folder in _PROGRAM_DIRECTORIES:
        found += [paths.plain(f"{folder}/{name}") for name in _PROGRAMS if files.stat(f"{folder}/{name}") is not None]
    return found


def _state_paths(files: Files, paths: Paths, data_root: str) -> list[str]:
    found = [path for path in (*_PATHS, data_root) if files.stat(path) is not None]
    for unit in _UNITS:
        found += [f"{folder}/{unit}" for folder in directories(files) if files.stat(f"{folder}/{unit}") is not None]
    return list(dict.fromkeys(paths.plain(path) for path in found))


def audit_rules(audit: Audit, files: Files, data_root: str, active: str | None) -> None:
    """HST-03 and HST-04. active: what ``auditctl -l`` printed, where somebody asked."""
    paths = Paths(files)
    if not files.knows(COMPILED) or not files.knows(RULES):
        for check_id in ("HST-03", "HST-04"):
            audit.unknown(check_id, "/etc/audit is not among the files at hand")
        return
    rules = load(files, paths)
    compiled = _compiled(files, paths)
    loaded: dict[str, str] | None = None
    if active is not None:
        loaded = {}
        parse(active, paths, loaded)
    for check_id, wanted, targets in (
        ("HST-03", "x", _programs(files, paths)),
        ("HST-04", "wa", _state_paths(files, paths, data_root)),
    ):
        if not targets:
            audit.not_applicable(check_id, "none of the paths that are to be watched exists")
            continue
        for problem in rules.problems:
            audit.unknown(check_id, problem)
        _judge(audit, check_id, wanted, targets, rules, compiled, loaded)
        audit.decide(check_id)


def _judge(audit, check_id, wanted, targets, rules, compiled, loaded) -> None:
    if not rules.files and not rules.problems:
        if loaded is None or not any(Rules(loaded).covers(path, wanted) for path in targets):
            audit.find(check_id, SUBJECT, RULES, f"no audit rules at all; not watched: {', '.join(targets)}")
            return
    for path in targets:
        if not rules.covers(path, wanted) and not (check_id == "HST-03" and rules.covers(path, "wa")):
            audit.find(check_id, SUBJECT, path, f"no rule records {wanted} on {path}")
        elif compiled is not None and path_missing(compiled, path, wanted):
            audit.find(check_id, SUBJECT, path, f"the rule in {RULES} is not in {COMPILED}", severity="low",
                       fix="Run augenrules --load.")  # fmt: skip
        elif loaded is not None and path_missing(loaded, path, wanted):
            audit.find(check_id, SUBJECT, path, "the rule is not loaded", severity="low", fix="Run augenrules --load.")


def path_missing(watched: dict[str, str], path: str, wanted: str) -> bool:
    """Whether a set of rules does not record what is wanted, nor writing, of a path."""
    rules = Rules(watched)
    return not (rules.covers(path, wanted) or rules.covers(path, "wa"))
