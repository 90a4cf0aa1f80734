# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""CMP-29 and CMP-30: a project that loads, and the variables it is made with.

PRIVATE: internal to the collection, may change in any release. Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit
from ansible_collections.mcpstack.platform.plugins.module_utils._compose_load import Project, Variable

#: Set by the shell or the system of whoever runs Compose: not given here is not unset there.
FROM_THE_SHELL = frozenset(
    "HOME USER LOGNAME UID GID EUID PUID PGID HOSTNAME SHELL TMPDIR PATH LANG TZ TERM DISPLAY XDG_RUNTIME_DIR XAUTHORITY".split()
)
#: Longest name that is compared with others for spelling.
_LONGEST_NAME = 64
#: Most names that are compared with each other for spelling.
_MOST_NAMES = 1000
#: A line with more keys than this says nothing about which of them a variable belongs to.
_MOST_KEYS_OF_A_LINE = 20


def near(name: str, known: Iterable[str]) -> str:
    """A known name that is one change away: a letter added, left out, replaced, or two exchanged. "" without one."""
    if len(name) > _LONGEST_NAME or len(name) < 4:
        return ""
    return next((other for other in sorted(known) if _one_change(name, other)), "")


def _one_change(one: str, other: str) -> bool:
    if one == other or abs(len(one) - len(other)) > 1 or len(other) > _LONGEST_NAME:
        return False
    start = 0
    while start < min(len(one), len(other)) and one[start] == other[start]:
        start += 1
    if len(one) == len(other):
        if one[start + 1 :] == other[start + 1 :]:
            # DB1_HOST and DB2_HOST are two names, not one misspelt
            return not (one[start].isdigit() or other[start].isdigit())
        return (
            one[start + 2 :] == other[start + 2 :] and one[start] == other[start + 1] and one[start + 1] == other[start]
        )
    longer, shorter = (one, other) if len(one) > len(other) else (other, one)
    return longer[start + 1 :] == shorter[start:] and not longer[start].isdigit()


def judge_problems(audit: Audit, project: Project) -> None:
    """CMP-29, and what of CMP-30 the loader found."""
    audit.decide("CMP-29", "CMP-30")
    required = unknown_values(project)
    for problem in project.problems:
        if problem.kind == "unknown":
            audit.unknown("CMP-29", f"{problem.where}: {problem.what}")
        elif problem.kind == "variable":
            if problem.where not in required:
                audit.find("CMP-30", _subject(project), problem.where, problem.what, fix=problem.fix)
        else:
            # a key that only a later Compose knows is no fault where that one runs
            severity = "low" if problem.kind == "newer" else None
            audit.find("CMP-29", _subject(project), problem.where, problem.what, fix=problem.fix, severity=severity)


def unknown_values(project: Project) -> dict[str, tuple[str, str, str]]:
    """(variable, service, key of the service) by place, where what a file says is not known because a value is not given."""
    return {
        use.where: (use.name, use.service, str(use.keypath[0]) if use.keypath else "")
        for use in project.variables
        if not use.set and (use.kind == "required" or (use.kind == "plain" and use.name in FROM_THE_SHELL))
    }


def _subject(project: Project) -> str:
    return f"project {project.name}" if project.name else "project"


def judge_variables(
    audit: Audit, project: Project, env: Mapping[str, str], services: Iterable[str], credential: Callable[[str], bool]
) -> set[tuple[str, str]]:
    """CMP-30 for every use of a variable.

    credential: whether the name of a variable or of a key says that it holds one.
    Returns (service, key of the environment) of the values that are reported here because they are a default or empty:
    what they are is not judged once more as a secret.
    """
    wanted = set(services) | {""}
    defined = set(env) | {entry.name for entry in project.dotenv}
    reported: set[tuple[str, str]] = set()
    seen: set[tuple] = set()
    index = EnvironmentKeys(project)
    guesses: dict[str, str] = {}
    for use in project.variables:
        if use.service not in wanted or (use.name, use.where, use.kind) in seen:
            continue
        seen.add((use.name, use.where, use.kind))
        keys = index.of(use)
        if not use.set and use.name not in guesses:
            guesses[use.name] = near(use.name, defined) if len(guesses) < _MOST_NAMES >= len(defined) else ""
        secret = credential(use.name) or any(credential(key) for key in keys)
        found = _judge(use, secret, "" if use.set else guesses[use.name])
        if found is None:
            continue
        severity, text, covers = found
        subject = f"service {use.service}" if use.service else _subject(project)
        audit.find("CMP-30", subject, use.where, text, severity=severity)
        if covers:
            reported |= {(use.service, key) for key in keys}
    return reported


class EnvironmentKeys:
    """Which keys of a service's environment a use of a variable gives a value; a list has no keys, only lines."""

    def __init__(self, project: Project):
        self.project = project
        self.lines: dict[str, dict[str, list[str]]] = {}

    def of(self, use: Variable) -> list[str]:
        if not use.service or use.keypath[:1] != ("environment",):
            return []
        if len(use.keypath) > 1 and isinstance(use.keypath[1], str):
            return [use.keypath[1]]
        if use.service not in self.lines:
            lines: dict[str, list[str]] = {}
            for name in self.project.services.get(use.service, {}).get("environment") or {}:
                lines.setdefault(self.project.where(use.service, "environment", name), []).append(str(name))
            self.lines[use.service] = lines
        keys = self.lines[use.service].get(use.where, [])
        return keys if len(keys) <= _MOST_KEYS_OF_A_LINE else []


def _judge(use: Variable, secret: bool, guess: str) -> tuple[str, str, bool] | None:
    """(severity, what was seen, whether it covers the value) of one use."""
    if use.kind in ("inherited", "alternative"):
        return None
    if guess:
        return "medium", f"{use.name} is not set, {guess} is", not use.set
    if use.kind == "required":
        return None if use.set else ("info", f"{use.name} is required and not set here: Compose stops", True)
    if use.kind == "default":
        if secret and (use.default or "").strip() and not _harmless(use.default or ""):
            return "high", f"{use.name} is a credential with a default in the file", not use.set
        return None
    if not use.set and use.name in FROM_THE_SHELL:
        return "info", f"{use.name} is that of whoever runs Compose", True
    if not use.set:
        why = "a credential that is empty" if secret else "Compose puts nothing in its place"
        return ("high" if secret else "medium"), f"{use.name} is not set: {why}", True
    return ("low", f"{use.name} is a credential and not required: unset it would be empty", False) if secret else None


def _harmless(default: str) -> bool:
    """Whether the default of a credential is none itself: another variable, a path, a switch."""
    text = default.strip().strip("'\"")
    return text.startswith(("$", "/")) or text.lower() in ("true", "false", "null", "none", "0", "1")
