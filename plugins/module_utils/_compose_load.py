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
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from ansible_collections.mcpstack.platform.plugins.module_utils import _compose_values as values
from ansible_collections.mcpstack.platform.plugins.module_utils._audit import natural
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import Files
from ansible_collections.mcpstack.platform.plugins.module_utils._compose_check import check_project
from ansible_collections.mcpstack.platform.plugins.module_utils._compose_merge import (
    Canonical,
    Paths,
    apply_marks,
    has_marks,
    merge_maps,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._compose_project import (
    KINDS,
    EnvEntry,
    Problem,
    Project,
    Variable,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._compose_reader import Reader, Scope
from ansible_collections.mcpstack.platform.plugins.module_utils._compose_schema import ROOT, Node, validate
from ansible_collections.mcpstack.platform.plugins.module_utils._compose_yaml import (
    LINE_BITS,
    Map,
    Seq,
    clone,
    mapping,
)

__all__ = ["KINDS", "EnvEntry", "Problem", "Project", "Variable", "load"]


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


#: Most services, and most profiles that are judged one by one.
MAX_SERVICES = 5000
MAX_PROFILES = 100
#: Longest chain of ``extends``, and deepest ``include``.
MAX_CHAIN = 50

_SECTIONS = ("services", "networks", "volumes", "secrets", "configs")


class _Loader(Reader):
    """One run. Work is done in Compose's order, so that problems and results are those of Compose."""

    def __init__(self, files: Files, env: dict[str, str], directory: str | None, paths: list[str]):
        super().__init__(files, env, directory, paths)
        self.canonical = Canonical(self.report)
        self.bases: dict[int, tuple[Map, Paths, set]] = {}

    # Files, in Compose's order: variables, extends, marks, include, merge, types, long form.

    def model(self, paths: list[str], scope: Scope, where: str, what: str) -> Map:
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

    def document(self, root: Map, document: Map, path: str, scope: Scope) -> None:
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

    def extend_all(self, layer: Map, path: str, scope: Scope, marked: Map | None) -> None:
        services = layer.get("services")
        if services.__class__ is not Map:
            if "services" in layer and services is None:
                self.report(
                    layer.lines["services"], "services is empty", "describe a service, or remove the key", "type"
                )
            return
        marks = [dict(_map(marked.get("services")))] if marked is not None else []
        for name in list(services):
            self.extend(name, services, path, scope, marks, ())

    def extend(self, name: str, services: Map, path: str, scope: Scope, marks: list, chain: tuple) -> Map | None:
        """The service with what it extends below it, put in place."""
        service = services.get(name)
        if service.__class__ is not Map:
            return None
        self.prepare(name, service, services)
        if "extends" not in service:
            return service
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

    def base_services(self, path: str, scope: Scope, place: int) -> tuple[Map, dict | None] | None:
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
        self.bases[id(services)] = (services, Paths(posixpath.dirname(path), self.home), set())
        return services, marks

    def prepare(self, name: str, service: Map, services: Map) -> None:
        """One service of an extended file in the long form, once, with paths of that file's directory."""
        _rest, paths, done = self.bases.get(id(services), (None, None, None))
        if done is None or name in done:
            return
        done.add(name)
        # Compose looks at types only after the merge, where a null may be replaced; what else is wrong stays wrong.
        empty = [(key, service.lines[key]) for key, value in service.items() if value is None]
        for key, _rest in empty:
            service.drop(key)
        validate(service, _LOOSE_SERVICE, ("services", name), service.place, self.only_types)
        self.canonical.service(service, name)
        paths.service(service, self.only_types, name)
        for key, place in empty:
            service.put(key, None, place)

    def only_types(self, place: int, what: str, fix: str, kind: str) -> None:
        if kind == "type":
            self.report(place, what, fix, kind)

    # include

    def include_all(self, layer: Map, path: str, scope: Scope) -> dict[str, set]:
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

    def include(self, wanted: Map, place: int, layer: Map, imported: dict, included: tuple, scope: Scope) -> None:
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
        part = self.model(paths, Scope(directory, env, included), where, "the included file")
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

    def finish(self, root: Map, scope: Scope) -> None:
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

    def inherit(self, holder: object, service: str, path: tuple, scope: Scope) -> None:
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
            if not entry.name:
                self.problem(entry.where, "the env file gives a value without a name", "write NAME=value", "value")
            if entry.value is not None and entry.name not in outside:
                self.env[entry.name] = entry.value
        self.name(paths, where)
        self.env["COMPOSE_PROJECT_NAME"] = project.name
        project._env = self.env
        root = self.model(paths, Scope(directory, self.env), where, "the compose file")
        self.result(root)
        chosen = self.profiles(profiles)
        for name, service in project.services.items():
            self.service_env(name, service)
            self.service_labels(name, service)
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
            scope = Scope(self.project.directory, self.env)
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
            made.place = root.lines.get(section, made.place)
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
