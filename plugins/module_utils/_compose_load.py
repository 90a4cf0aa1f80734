# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One or more Compose files as Docker Compose merges them, with the place of every value.

PRIVATE: internal to the collection, may change in any release. Needs PyYAML: it runs on the controller.

The parser of record is Compose 2.26 of Debian trixie; tests hold this loader against its recorded answers. Unlike it,
nothing stops at the first error: everything that Compose would refuse is in ``Project.problems``, and what remains is
loaded all the same. A value of a type that Compose refuses is reported and left out, so that what is in
``Project.services`` always has the type the Compose specification gives it.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from ansible_collections.mcpstack.platform.plugins.module_utils import _compose_values as values
from ansible_collections.mcpstack.platform.plugins.module_utils._audit import natural
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import Files, Unreadable
from ansible_collections.mcpstack.platform.plugins.module_utils._compose_check import check_project
from ansible_collections.mcpstack.platform.plugins.module_utils._compose_env import BadVariable, parse_env, substitute
from ansible_collections.mcpstack.platform.plugins.module_utils._compose_merge import (
    Canonical,
    Paths,
    apply_marks,
    has_marks,
    merge_maps,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._compose_schema import ROOT, Node, cast, shown, validate
from ansible_collections.mcpstack.platform.plugins.module_utils._compose_yaml import (
    LINE_BITS,
    LINE_MASK,
    Map,
    Seq,
    clone,
    documents,
    mapping,
)

#: Kinds of problems. All but the last three are what Compose refuses.
KINDS = (
    "yaml",  # not YAML, duplicate keys, keys that are no text, tags nobody may use
    "file",  # a compose file, include, extends or env_file that is missing or cannot be read
    "key",  # a key or name Compose does not know
    "type",  # a value of a wrong type
    "value",  # a value of the right type that cannot be: a port, a mount, a number, a name
    "variable",  # a required variable without a value, or a ${…} that cannot be read
    "reference",  # a service, network, volume, secret or config that is not defined
    "cycle",  # include, extends, depends_on or an anchor that ends in itself
    "conflict",  # settings that exclude each other, include against include, container_name with replicas
    "profile",  # depends_on a service that is not enabled by the same profile
    "newer",  # a key that only a later Compose than the reference knows
    "limit",  # more than this loader reads: alias bombs, deep nesting, too many files
    "unknown",  # a file that is not among the files at hand; it may well be there
)


@dataclass(frozen=True)
class Problem:
    """What Compose refuses (or this loader cannot know): where ("file:line"), what is wrong, what to do, and its kind."""

    where: str
    what: str
    fix: str
    kind: str


@dataclass(frozen=True)
class Variable:
    """One use of a variable in a compose file.

    kind: plain ($A, ${A}), default (${A:-d}, ${A-d}), required (${A:?e}, ${A?e}), alternative (${A:+a}, ${A+a}), or
        inherited (an ``environment`` entry without a value).
    default: the text after the operator, as written; None for plain and inherited. set: it has a value, in ``env`` or .env.
    service is "" outside of services; keypath is what comes below the service, or the whole path outside of services.
    """

    name: str
    where: str
    kind: str
    default: str | None
    set: bool
    service: str
    keypath: tuple


@dataclass(frozen=True)
class EnvEntry:
    """One assignment of an env file, as Compose reads it.

    value: None for a bare name that nothing gives a value. quote is "'", '"' or "". raw: the value as written.
    shadowed: a later line of the same file gives the same name.
    """

    name: str
    value: str | None
    where: str
    quote: str = ""
    raw: str = ""
    shadowed: bool = False


@dataclass
class Project:
    """The project as Compose sees it, for all profiles at once.

    services, networks, volumes, secrets, configs: by name, merged, interpolated and in Compose's long form (ports, volumes,
    depends_on, networks, env_file, secrets, configs, devices, build are always mappings or lists of mappings; environment,
    labels, sysctls, annotations are mappings; host paths are absolute). Numbers with units, durations, commands and
    booleans stay as written: read them through ``_compose_values``. Do not change them.
    files: every compose file that was read, in order. dotenv: the entries of .env or of ``env_files``.
    profiles: every profile that a service names, sorted.
    """

    name: str = ""
    directory: str = ""
    files: list[str] = field(default_factory=list)
    services: dict[str, dict] = field(default_factory=dict)
    networks: dict[str, dict] = field(default_factory=dict)
    volumes: dict[str, dict] = field(default_factory=dict)
    secrets: dict[str, dict] = field(default_factory=dict)
    configs: dict[str, dict] = field(default_factory=dict)
    extensions: dict[str, object] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    variables: list[Variable] = field(default_factory=list)
    dotenv: list[EnvEntry] = field(default_factory=list)
    profiles: tuple[str, ...] = ()

    _selected: tuple[str, ...] = ()
    _sections: dict[str, Map] = field(default_factory=dict)
    _env_entries: dict[str, list[EnvEntry]] = field(default_factory=dict)
    _env: dict[str, str] = field(default_factory=dict)

    def where(self, service: str, *keypath: str | int) -> str:
        """'file:line' of what decided this value after the merge; of its nearest parent where it has no place."""
        return self.place("services", service, *keypath)

    def place(self, section: str, *keypath: str | int) -> str:
        """The same for any section: place("networks", "data", "internal")."""
        node: object = self._sections.get(section)
        found = node.place if isinstance(node, Map) else 0
        for key in keypath:
            if isinstance(node, Map) and key in node.lines:
                found = node.lines[key]
                node = node.get(key)
            elif isinstance(node, Seq) and isinstance(key, int) and -len(node.lines) <= key < len(node.lines):
                found = node.lines[key]
                node = node[key] if key < len(node) else None
            else:
                break
        return self._shown(found)

    def _shown(self, place: int) -> str:
        number = place >> LINE_BITS
        name = self.files[number] if number < len(self.files) else ""
        return f"{name}:{max(place & LINE_MASK, 1)}"

    def active(self, profiles: Iterable[str] | None = None) -> set[str]:
        """Names of the services these profiles start ("*" is all); None: those of ``load`` or COMPOSE_PROFILES."""
        chosen = set(self._selected if profiles is None else profiles)
        if "*" in chosen:
            return set(self.services)
        return {
            name
            for name, service in self.services.items()
            if not service.get("profiles") or not chosen.isdisjoint(service["profiles"])
        }

    def env_file_entries(self, service: str) -> list[EnvEntry]:
        """Every assignment of the service's env files, in order; a missing file is a problem already."""
        return self._env_entries.get(service, [])

    def environment(self, service: str) -> dict[str, str | None]:
        """What the container gets: env files, then ``environment``. None: not known here."""
        found: dict[str, str | None] = {}
        for entry in self.env_file_entries(service):
            if entry.value is not None:
                found[entry.name] = entry.value
        found.update(values.environment(self.services.get(service, {})))
        return found


def load(
    files: Files,
    paths: list[str],
    *,
    env: Mapping[str, str] = MappingProxyType({}),
    env_files: list[str] | None = None,
    profiles: Iterable[str] | None = None,
    project_directory: str | None = None,
) -> Project:
    """Load and merge ``paths`` (absolute, in the order of ``-f``). Never raises for what a file holds.

    env: the environment Compose would be run with. env_files: as ``--env-file``; None: .env in the project directory.
    profiles: judge exactly this selection; None: no profile, every single one, and all together.
    project_directory: None: where the first file is.
    """
    return _Loader(files, dict(env), project_directory, paths).run(paths, env_files, profiles)


#: Most problems that are kept.
MAX_PROBLEMS = 1000
#: Most services, and most profiles that are judged one by one.
MAX_SERVICES = 5000
MAX_PROFILES = 100
#: Most files one project is made of.
MAX_FILES = 500
#: Longest chain of ``extends``, and deepest ``include``.
MAX_CHAIN = 50
#: Most values of a project, once everything that is extended or included is counted.
MAX_TOTAL = 1_000_000

_SECTIONS = ("services", "networks", "volumes", "secrets", "configs")
_GONE = object()


@dataclass
class _Scope:
    """What a file is read with: its own for the project and for every include."""

    directory: str
    env: dict[str, str]
    included: tuple[str, ...] = ()


class _Loader:
    """One run. Work is done in Compose's order, so that problems and results are those of Compose."""

    def __init__(self, files: Files, env: dict[str, str], directory: str | None, paths: list[str]):
        self.files, self.env = files, env
        first = paths[0] if paths else "/"
        self.project = Project(directory=posixpath.normpath(directory or posixpath.dirname(first) or "/"))
        self.home = env.get("HOME", "")
        self.canonical = Canonical(self.report)
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

    def expand(self, text: str, path: tuple, place: int, scope: _Scope) -> str:
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

    def interpolate(self, value: object, node: Node | None, path: tuple, place: int, scope: _Scope) -> object:
        """A copy without aliases, variables replaced, numbers and booleans made of text. _GONE: cannot be kept."""
        kind = value.__class__
        if kind is str:
            if "$" in value:
                value = self.expand(value, path, place, scope)
            if node is not None and node.cast is not None:
                try:
                    return cast(value, node.cast)
                except ValueError as error:
                    self.report(place, f"{shown(path)}: {error}", f"write {node.wanted()}", "type")
                    return _GONE
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
                        if item is _GONE:
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
                    if item is _GONE:
                        continue
                    made.append(item)
                made.lines.append(line)
            return made
        return value

    # Files, in Compose's order: variables, extends, marks, include, merge, types, long form.

    def model(self, paths: list[str], scope: _Scope, where: str, what: str) -> Map:
        """The files of the project, or of one include, merged and finished."""
        root = Map()
        for path in paths:
            parsed = self.parse(path, where, what)
            if parsed is None:
                continue
            number = self.raw[path][0]
            for document in parsed:
                if document.__class__ is not Map:
                    place = (document.place if document.__class__ is Seq else number << LINE_BITS | 1) or 1
                    self.report(place, "the file holds no mapping", "write services: and what belongs below it", "type")
                    continue
                if not self.grow(document, document.place):
                    return root
                self.document(root, document, path, scope)
        self.finish(root, scope)
        return root

    def document(self, root: Map, document: Map, path: str, scope: _Scope) -> None:
        layer = self.interpolate(document, ROOT, (), document.place, scope)
        marked = layer if has_marks(layer) else None
        self.extend_all(layer, path, scope, marked)
        if marked is not None:
            apply_marks(marked, root)
        imported = self.include_all(layer, path, scope)
        touched = {section: set(_map(layer.get(section))) for section in _SECTIONS}
        for section, names in imported.items():
            touched[section] -= names
        merge_maps(root, layer, (), self.report)
        self.check_types(root, touched)
        root.drop("version")
        for name, service in _map(root.get("services")).items():
            if name in touched["services"] and service.__class__ is Map:
                self.canonical.service(service, name)
        self.externals(root, touched)

    def check_types(self, root: Map, touched: dict[str, set]) -> None:
        """Types of what this file brought; what earlier files brought was looked at before."""
        bad = []
        for key, value in root.items():
            child = ROOT.props.get(key)
            if key in touched and value.__class__ is Map:
                part = Map(value.place)
                for name in value:
                    if name in touched[key]:
                        part.put(name, value[name], value.lines[name])
                validate(part, child, (key,), value.place, self.report)
                for name in touched[key]:
                    if name in value and name not in part:
                        value.drop(name)
            elif child is None:
                validate(mapping(root.lines[key], **{key: value}), ROOT, (), root.lines[key], self.report)
            elif not validate(value, child, (key,), root.lines[key], self.report):
                bad.append(key)
        for key in bad:
            root.drop(key)

    def externals(self, root: Map, touched: dict[str, set]) -> None:
        """external: {name: …} of old files."""
        for section in ("networks", "volumes", "secrets", "configs"):
            for name, item in _map(root.get(section)).items():
                if name not in touched[section] or item.__class__ is not Map:
                    continue
                if "labels" in item:
                    made = values.pairs(item["labels"], "")
                    place = item.lines["labels"]
                    item["labels"] = _placed(made, item["labels"], place)
                external = item.get("external")
                if external.__class__ is not Map:
                    continue
                place = item.lines["external"]
                item["external"] = True
                if external.get("name").__class__ is str:
                    if "name" in item and item["name"] != external["name"]:
                        what = f"{section}.{name}: name and external.name differ"
                        self.report(place, what, "use name only", "conflict")
                    elif "name" not in item:
                        item.put("name", external["name"], external.lines["name"])

    # extends

    def extend_all(self, layer: Map, path: str, scope: _Scope, marked: Map | None) -> None:
        services = layer.get("services")
        if services.__class__ is not Map:
            return
        marks = [dict(_map(marked.get("services")))] if marked is not None else []
        for name in list(services):
            self.extend(name, services, path, scope, marks, ())

    def extend(self, name: str, services: Map, path: str, scope: _Scope, marks: list, chain: tuple) -> Map | None:
        """The service with what it extends below it, put in place."""
        service = services.get(name)
        if service.__class__ is not Map or "extends" not in service:
            return service if service.__class__ is Map else None
        place = service.lines["extends"]
        wanted = service["extends"]
        service.drop("extends")
        file = None
        reference = wanted
        if wanted.__class__ is Map:
            validate(wanted, _EXTENDS, ("services", name, "extends"), place, self.report)
            reference, file = wanted.get("service"), wanted.get("file")
        if reference.__class__ is not str:
            if wanted.__class__ is not Map:
                what = f"services.{name}.extends names no service"
                self.report(place, what, "name the service, or a mapping with service and file", "type")
            return service
        chain = (*chain, (path, name))
        source, source_path = services, path
        if file.__class__ is str:
            source_path = Paths(scope.directory, self.home).path(file)
        if (source_path, reference) in chain:
            loop = " → ".join(f"{item[1]}" for item in (*chain, (source_path, reference)))
            self.report(place, f"services.{name}.extends runs in a circle: {loop}", "remove one extends", "cycle")
            return service
        if len(chain) > MAX_CHAIN:
            self.report(place, f"extends is nested deeper than {MAX_CHAIN} levels", "extend fewer levels", "limit")
            return service
        if file.__class__ is str:
            found = self.base_services(source_path, scope, place)
            if found is None:
                return service
            source, source_marks = found
            marks = [*marks, source_marks] if source_marks is not None else marks
        if reference not in source:
            what = f"services.{name} extends {reference[:80]!r}, which {source_path} does not define"
            self.report(place, what, "name a service of that file", "reference")
            return service
        base = self.extend(reference, source, source_path, scope, marks, chain)
        if base is None:
            return service
        base = clone(base)
        if not self.grow(_counted(base), place):
            return service
        for marked in marks:
            if marked.get(name).__class__ is Map:
                apply_marks(marked[name], base)
        whole = mapping(place, x=base)
        merge_maps(base, service, ("services", name), self.report)
        merged = whole["x"]
        merged.place = service.place
        services[name] = merged
        return merged

    def base_services(self, path: str, scope: _Scope, place: int) -> tuple[Map, dict | None] | None:
        """The services of a file that is extended, in the long form, with paths of their own directory."""
        parsed = self.parse(path, self.project._shown(place), "the extended file")
        if parsed is None:
            return None
        root = Map()
        marks = None
        for document in parsed:
            if document.__class__ is not Map or not self.grow(document, place):
                continue
            layer = self.interpolate(document, ROOT, (), document.place, scope)
            if has_marks(layer):
                marks = dict(_map(layer.get("services")))
                apply_marks(layer, root)
            merge_maps(root, layer, (), self.report)
        services = root.get("services")
        if services.__class__ is not Map:
            what = f"the extended file {path} has no services"
            self.report(place, what, "name a compose file with services", "reference")
            return None
        paths = Paths(posixpath.dirname(path), self.home)
        for name, service in services.items():
            if service.__class__ is not Map:
                continue
            # Compose looks at types only after the merge; what has a wrong type here would be wrong there, too.
            validate(service, _LOOSE_SERVICE, ("services", name), services.lines[name], self.quiet)
            self.canonical.service(service, name)
            paths.service(service, self.quiet, name)
        return services, marks

    def quiet(self, place: int, what: str, fix: str, kind: str) -> None:
        if kind == "type":
            self.report(place, what, fix, kind)

    # include

    def include_all(self, layer: Map, path: str, scope: _Scope) -> dict[str, set]:
        imported: dict[str, set] = {section: set() for section in _SECTIONS}
        includes = layer.get("include")
        if includes is None:
            layer.drop("include")
            return imported
        place = layer.lines["include"]
        layer.drop("include")
        if not validate(includes, ROOT.props["include"], ("include",), place, self.report):
            return imported
        included = (*scope.included, path)
        if len(included) > MAX_CHAIN:
            self.report(place, f"include is nested deeper than {MAX_CHAIN} levels", "include fewer levels", "limit")
            return imported
        for item, line in zip(includes, includes.lines):
            wanted = item if item.__class__ is Map else mapping(line, path=item)
            self.include(wanted, line, layer, imported, included, scope)
        return imported

    def include(self, wanted: Map, place: int, layer: Map, imported: dict, included: tuple, scope: _Scope) -> None:
        where = self.project._shown(place)
        own = Paths(scope.directory)
        paths = [own.path(item) for item in _texts(wanted.get("path"))]
        if not paths:
            self.report(place, "an include names no file", "add path", "type")
            return
        if paths[0] in included:
            loop = " → ".join((*included[included.index(paths[0]) :], paths[0]))
            self.report(place, f"include runs in a circle: {loop}", "remove one include", "cycle")
            return
        if self.stopped:
            return
        directory = posixpath.dirname(paths[0])
        if wanted.get("project_directory"):
            directory = own.path(wanted["project_directory"])
        env_files = [own.path(item) for item in _texts(wanted.get("env_file"))]
        env = dict(scope.env)
        if env_files:
            found = self.env_files(env_files, scope.env, where)
        else:
            found = self.default_env(directory, scope.env, where)
        for entry in found:
            if entry.value is not None and entry.name not in scope.env:
                env[entry.name] = entry.value
        part = self.model(paths, _Scope(directory, env, included), where, "the included file")
        for section in _SECTIONS:
            source = part.get(section)
            if source.__class__ is not Map or not source:
                continue
            target = layer.get(section)
            if target.__class__ is not Map:
                if section in layer:
                    continue
                target = Map(source.place)
                layer.put(section, target, place)
            for name, item in source.items():
                if name not in target:
                    target.put(name, item, source.lines[name])
                    imported[section].add(name)
                elif target[name] != item:
                    what = f"{section}.{name} is defined here and in an include"
                    fix = "rename one, or change it in a file that is given after this one"
                    first = self.project._shown(source.lines[name])
                    self.report(target.lines[name], f"{what} ({first})", fix, "conflict")

    # The end of a project or an include: paths, and what only the whole can tell.

    def finish(self, root: Map, scope: _Scope) -> None:
        paths = Paths(scope.directory, self.home)
        for name, service in _map(root.get("services")).items():
            if service.__class__ is not Map:
                continue
            for item in service.get("ports") or ():
                if item.__class__ is Map:
                    for key, value in (("protocol", "tcp"), ("mode", "ingress")):
                        if key not in item:
                            item.put(key, value, item.place)
            build = service.get("build")
            if build.__class__ is Map and "context" not in build:
                build.put("context", ".", build.place)
            paths.service(service, self.report, name)
            for mount in service.get("volumes") or ():
                if mount.__class__ is Map and mount.get("target").__class__ is str:
                    mount["target"] = values.clean_path(mount["target"])
            self.inherit(service, name, ("environment",), scope)
            self.inherit(build, name, ("build", "args"), scope)
        paths.resources(root)

    def inherit(self, holder: object, service: str, path: tuple, scope: _Scope) -> None:
        """Entries without a value take the one of the environment."""
        variables = holder.get(path[-1]) if holder.__class__ is Map else None
        if variables.__class__ is not Map:
            return
        for key, value in variables.items():
            if value is None:
                where = self.project._shown(variables.lines[key])
                known = scope.env.get(key)
                self.variable(Variable(key, where, "inherited", None, known is not None, service, (*path, key)))
                if known is not None:
                    variables[key] = known

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

            def lookup(variable: str, known: dict = known) -> str | None:
                return known[variable] if variable in known else self.env.get(variable)

            entries = self.env_file(path, where, lookup, f"the env file of {name}")
            known.update((entry.name, entry.value) for entry in entries if entry.value is not None)
            found.extend(entries)
        self.project._env_entries[name] = found

    # The project.

    def run(self, paths: list[str], env_files: list[str] | None, profiles: Iterable[str] | None) -> Project:
        project = self.project
        directory = project.directory
        paths = [posixpath.normpath(posixpath.join(directory, path)) for path in paths]
        if not paths:
            self.problem(f"{directory}:1", "there is no compose file", "name at least one", "file")
            return project
        where = f"{paths[0]}:1"
        for path in paths:
            self.parse(path, f"{path}:1", "the compose file")
        outside = dict(self.env)
        if env_files is None:
            project.dotenv = self.default_env(directory, outside, where)
        else:
            given = [posixpath.normpath(posixpath.join(directory, path)) for path in env_files]
            project.dotenv = self.env_files(given, outside, where)
        for entry in project.dotenv:
            if entry.value is not None and entry.name not in outside:
                self.env[entry.name] = entry.value
        self.name(paths, where)
        self.env["COMPOSE_PROJECT_NAME"] = project.name
        project._env = self.env
        root = self.model(paths, _Scope(directory, self.env), where, "the compose file")
        self.result(root)
        chosen = self.profiles(profiles)
        for name, service in project.services.items():
            self.service_env(name, service)
        if not root and not project.problems:
            self.problem(where, "the compose file is empty", "write services: and what belongs below it", "type")
        check_project(project, self.problem, chosen)
        if self.missing_dotenv and any(not use.set and use.kind != "alternative" for use in project.variables):
            what = f"variables have no value here, and {self.missing_dotenv} is not among the files at hand"
            self.problem(where, what, "hand the env file over with the others", "unknown")
        project.problems.sort(key=lambda problem: (problem.kind == "limit", natural(problem.where)))
        return project

    def name(self, paths: list[str], where: str) -> None:
        """The project's name, as Compose finds it before it reads anything else."""
        given = self.env.get("COMPOSE_PROJECT_NAME", "")
        if given:
            self.project.name = given
            if normal_name(given) != given:
                what = f"the project name {given[:60]!r} of COMPOSE_PROJECT_NAME cannot be used"
                self.problem(where, what, "use lower case letters, digits, hyphens and underscores", "value")
            return
        written, place = "", 0
        for path in paths:
            for document in self.parse(path, where, "the compose file") or ():
                if document.__class__ is Map and document.get("name") not in (None, ""):
                    value = document["name"]
                    if value.__class__ not in (Map, Seq):
                        written, place = values.text(value), document.lines["name"]
        if not written:
            self.project.name = normal_name(posixpath.basename(self.project.directory))
            place = 1
        else:
            scope = _Scope(self.project.directory, self.env)
            self.project.name = normal_name(self.expand(written, ("name",), place, scope))
        if not self.project.name:
            self.report(place, "the project has no name", "add name: with letters or digits", "value")

    def result(self, root: Map) -> None:
        project = self.project
        for section in _SECTIONS:
            found = root.get(section)
            made = found if found.__class__ is Map else Map()
            for key in [key for key, value in made.items() if value.__class__ is not Map]:
                if section == "services" or made[key] is not None:
                    what = f"{section}.{key} is empty"
                    if section == "services":
                        self.report(made.lines[key], what, "describe the service, or remove it", "type")
                    made.drop(key)
                else:
                    made[key] = Map(made.lines[key])
            if section == "services" and len(made) > MAX_SERVICES:
                what = f"the project has more than {MAX_SERVICES} services; the rest was not looked at"
                self.report(made.place, what, "split the project", "limit")
                for key in list(made)[MAX_SERVICES:]:
                    made.drop(key)
            project._sections[section] = made
            setattr(project, section, made)
        if any("default" in values.networks(service) for service in project.services.values()):
            networks = project._sections["networks"]
            if "default" not in networks:
                networks["default"] = Map()
        for section in _SECTIONS[1:]:
            for key, item in project._sections[section].items():
                if not item.get("name"):
                    item["name"] = key if values.flag(item.get("external")) else f"{project.name}_{key}"
        project.extensions = {key: value for key, value in root.items() if key.startswith("x-")}
        names = {name for service in project.services.values() for name in service.get("profiles") or ()}
        project.profiles = tuple(sorted(names))

    def profiles(self, profiles: Iterable[str] | None) -> list[tuple[str, ...]]:
        """The selections to judge."""
        project = self.project
        if profiles is not None:
            project._selected = tuple(dict.fromkeys(profiles))
            return [project._selected]
        named = [name.strip() for name in self.env.get("COMPOSE_PROFILES", "").split(",")]
        project._selected = tuple(name for name in dict.fromkeys(named) if name)
        if len(project.profiles) > MAX_PROFILES:
            what = f"the project has more than {MAX_PROFILES} profiles; the rest was not judged one by one"
            self.report(project._sections["services"].place, what, "use fewer profiles", "limit")
        found = [(), project._selected, *((name,) for name in project.profiles[:MAX_PROFILES]), ("*",)]
        return list(dict.fromkeys(found))


_EXTENDS = ROOT.props["services"].rest.props["extends"]
_SERVICE = ROOT.props["services"].rest
_LOOSE_SERVICE = Node(Map, props=_SERVICE.props, closed=False)

_NAME_CHARACTERS = re.compile(r"[a-z0-9_-]+")


def normal_name(text: str) -> str:
    """A project name as Compose makes it of any text."""
    return "".join(_NAME_CHARACTERS.findall(text.lower())).lstrip("_-")


def _map(value: object) -> Mapping:
    return value if value.__class__ is Map else {}


def _texts(value: object) -> list[str]:
    if value.__class__ is str:
        return [value]
    return [item for item in value if item.__class__ is str] if value.__class__ is Seq else []


def _placed(found: dict, written: object, place: int) -> Map:
    made = Map(place)
    for key, value in found.items():
        made.put(key, value, written.lines.get(key, place) if written.__class__ is Map else place)
    return made


def _counted(node: object) -> object:
    """The node with its number of values counted again."""

    def count(item: object) -> int:
        if item.__class__ is Map:
            return 1 + sum(count(value) for value in item.values())
        return 1 + sum(count(value) for value in item) if item.__class__ is Seq else 1

    node.count = count(node)
    return node
