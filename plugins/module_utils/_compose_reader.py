# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the Compose loader reads: files within limits, variables, env files; and what it reports.

PRIVATE: internal to the collection, may change in any release. Needs PyYAML: it runs on the controller.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ansible_collections.mcpstack.platform.plugins.module_utils import _compose_values as values
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import Files, Unreadable
from ansible_collections.mcpstack.platform.plugins.module_utils._compose_env import BadVariable, parse_env, substitute
from ansible_collections.mcpstack.platform.plugins.module_utils._compose_project import (
    EnvEntry,
    Problem,
    Project,
    Variable,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._compose_schema import Node, cast, shown
from ansible_collections.mcpstack.platform.plugins.module_utils._compose_yaml import Map, Seq, documents

#: Most problems that are kept.
MAX_PROBLEMS = 1000
#: Most files one project is made of.
MAX_FILES = 500
#: Most values of a project, once everything that is extended or included is counted.
MAX_TOTAL = 1_000_000

GONE = object()


@dataclass
class Scope:
    """What a file is read with: its own for the project and for every include."""

    directory: str
    env: dict[str, str]
    included: tuple[str, ...] = ()


class Reader:
    """Reads files, replaces variables, and keeps what is reported. One per project."""

    def __init__(self, files: Files, env: dict[str, str], directory: str | None, paths: list[str]):
        self.files, self.env = files, env
        first = paths[0] if paths else "/"
        self.project = Project(directory=posixpath.normpath(directory or posixpath.dirname(first) or "/"))
        self.home = env.get("HOME", "")
        self.seen: set[tuple] = set()
        self.used: set[tuple] = set()
        self.total = 0
        self.stopped = False
        self.raw: dict[str, tuple[int, list | None]] = {}
        self.missing_dotenv = ""

    # What is reported.

    def report(self, place: int, what: str, fix: str | Callable[[], str], kind: str) -> None:
        self.problem(self.project._shown(place), what, fix, kind)

    def problem(self, where: str, what: str, fix: str | Callable[[], str], kind: str) -> None:
        if (where, what) in self.seen or len(self.seen) > MAX_PROBLEMS:
            return
        self.seen.add((where, what))
        if len(self.seen) > MAX_PROBLEMS:
            what, fix, kind = f"there are more than {MAX_PROBLEMS} problems", "correct those above first", "limit"
        self.project.problems.append(Problem(where, what, fix if isinstance(fix, str) else fix(), kind))

    # Reading.

    def number(self, path: str) -> int:
        self.project.files.append(path)
        return len(self.project.files) - 1

    def read(self, path: str, where: str, what: str) -> str | None:
        """The text of a file; None when there is none, which is reported."""
        if not self.files.knows(path):
            self.problem(
                where, f"{what} {path} is not among the files at hand", "hand it over with the others", "unknown"
            )
            return None
        if self.files.stat(path) is None:
            self.problem(where, f"{what} {path} does not exist", "create it, or name the right file", "file")
            return None
        try:
            return self.files.text(path)
        except Unreadable as error:
            self.problem(where, f"{what} {path} {error.what}", error.fix, "file")
            return None

    def parse(self, path: str, where: str, what: str) -> list | None:
        """All documents of one file."""
        if path not in self.raw:
            if len(self.project.files) >= MAX_FILES:
                self.problem(where, f"the project is made of more than {MAX_FILES} files", "use fewer files", "limit")
                return None
            text = self.read(path, where, what)
            number = self.number(path)
            self.raw[path] = (number, None if text is None else documents(text, number, self.report))
        return self.raw[path][1]

    def grow(self, node: object, place: int) -> bool:
        self.total += node.count if node.__class__ in (Map, Seq) else 1
        if self.total > MAX_TOTAL:
            if not self.stopped:
                what = f"the project holds more than {MAX_TOTAL} values once all files are merged"
                self.report(place, what, "use fewer aliases, extends and includes", "limit")
            self.stopped = True
        return not self.stopped

    # Variables.

    def expand(self, text: str, path: tuple, place: int, scope: Scope) -> str:
        where = self.project._shown(place)
        service, keypath = (path[1], path[2:]) if path[0] == "services" and len(path) > 1 else ("", path)

        def use(name: str, kind: str, rest: str | None, is_set: bool) -> None:
            self.variable(Variable(name, where, kind, rest, is_set, service, keypath))

        try:
            return substitute(text, scope.env.get, use)
        except BadVariable as error:
            if error.kind == "required":
                what = f"{shown(path)} needs the variable {error.name}, which has no value"
                what += f": {error.what[:120]}" if error.what else ""
                self.report(place, what, f"give {error.name} a value in .env or in the environment", "variable")
            elif error.kind == "limit":
                self.report(place, f"{shown(path)}: {error.what}", "write it with fewer variables", "limit")
            else:
                what = f"{shown(path)}: {error.what}"
                self.report(place, what, "correct the variable, or write $$ for a dollar sign", "variable")
            return text

    def variable(self, variable: Variable) -> None:
        key = (variable.name, variable.where, variable.kind, variable.default, variable.service, variable.keypath)
        if key not in self.used:
            self.used.add(key)
            self.project.variables.append(variable)

    def interpolate(self, value: object, node: Node | None, path: tuple, place: int, scope: Scope) -> object:
        """A copy without aliases, variables replaced, numbers and booleans made of text. GONE: cannot be kept."""
        kind = value.__class__
        if kind is str:
            if "$" in value:
                value = self.expand(value, path, place, scope)
            if node is not None and node.cast is not None:
                try:
                    return cast(value, node.cast)
                except ValueError as error:
                    self.report(place, f"{shown(path)}: {error}", f"write {node.wanted()}", "type")
                    return GONE
            return value
        if kind is Map:
            made = Map(value.place)
            made.marks = value.marks
            lines = made.lines
            for key, item in value.items():
                line = value.lines[key]
                child = node.child(key) if node is not None else None
                if item.__class__ is str:
                    if "$" in item or (child is not None and child.cast is not None):
                        item = self.interpolate(item, child, (*path, key), line, scope)
                        if item is GONE:
                            continue
                elif item.__class__ is Map or item.__class__ is Seq:
                    item = self.interpolate(item, child, (*path, key), line, scope)
                made[key] = item
                lines[key] = line
            return made
        if kind is Seq:
            made = Seq(value.place)
            child = node.items if node is not None else None
            for index, (item, line) in enumerate(zip(value, value.lines)):
                if item.__class__ is str and "$" not in item and (child is None or child.cast is None):
                    made.append(item)
                else:
                    item = self.interpolate(item, child, (*path, index), line, scope)
                    if item is GONE:
                        continue
                    made.append(item)
                made.lines.append(line)
            return made
        return value

    # Env files.

    def default_env(self, directory: str, env: Mapping[str, str], where: str) -> list[EnvEntry]:
        path = posixpath.join(directory, ".env")
        if not self.files.knows(path):
            self.missing_dotenv = path
            return []
        info = self.files.stat(path)
        return self.env_files([path], env, where) if info is not None and info.kind != "directory" else []

    def env_files(self, paths: list[str], env: Mapping[str, str], where: str) -> list[EnvEntry]:
        found: list[EnvEntry] = []
        known: dict[str, str] = {}
        for path in paths:
            entries = self.env_file(path, where, lambda name: env[name] if name in env else known.get(name))
            known.update((entry.name, entry.value) for entry in entries if entry.value is not None)
            found.extend(entries)
        return found

    def env_file(self, path: str, where: str, lookup, what: str = "the env file") -> list[EnvEntry]:
        text = self.read(path, where, what)
        if text is None:
            return []

        def use(line: int, name: str, kind: str, rest: str | None, is_set: bool) -> None:
            self.variable(Variable(name, f"{path}:{line}", kind, rest, is_set, "", ()))

        assignments, trouble = parse_env(text, lookup, use)
        if trouble is not None:
            self.problem(f"{path}:{trouble.line}", f"{what}: {trouble.what}", "correct the line", "value")
        last = {item.name: number for number, item in enumerate(assignments)}
        return [
            EnvEntry(item.name, item.value, f"{path}:{item.line}", item.quote, item.raw, last[item.name] != number)
            for number, item in enumerate(assignments)
        ]

    def service_labels(self, name: str, service: Map) -> None:
        """Labels from files; those in the compose file win."""
        found: dict[str, tuple[str, int]] = {}
        items = service.get("label_file")
        for path, line in zip(items, items.lines) if items.__class__ is Seq else ():
            if path.__class__ is not str:
                continue
            where = self.project._shown(line)

            def lookup(label: str, found: Mapping = MappingProxyType(found)) -> str | None:
                return found[label][0] if label in found else None

            for entry in self.env_file(path, where, lookup, f"the label file of {name}"):
                if entry.value is not None:
                    found[entry.name] = (entry.value, line)
        if found:
            if "labels" not in service:
                service.put("labels", Map(service.lines["label_file"]), service.lines["label_file"])
            for label, (value, line) in found.items():
                if label not in service["labels"]:
                    service["labels"].put(label, value, line)

    def service_env(self, name: str, service: Map) -> None:
        """The env files of one service."""
        items = service.get("env_file")
        if items.__class__ is not Seq:
            return
        found: list[EnvEntry] = []
        known: dict[str, str] = {}
        for item, line in zip(items, items.lines):
            path = item.get("path") if item.__class__ is Map else None
            if path.__class__ is not str:
                continue
            where = self.project._shown(line)
            written = item.get("format")
            if written is not None:
                what = f"services.{name}.env_file: Compose 2.26 knows no format {str(written)[:40]!r}"
                self.problem(where, what, "remove format, or run Compose 2.30 or later", "newer")
            if self.files.knows(path) and self.files.stat(path) is None and values.flag(item.get("required")) is False:
                continue

            def lookup(variable: str, known: Mapping = MappingProxyType(known)) -> str | None:
                return known[variable] if variable in known else self.env.get(variable)

            entries = self.env_file(path, where, lookup, f"the env file of {name}")
            known.update((entry.name, entry.value) for entry in entries if entry.value is not None)
            found.extend(entries)
        self.project._env_entries[name] = found
