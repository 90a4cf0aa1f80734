# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How Compose lays one file over another, and the long form it brings every service into.

PRIVATE: internal to the collection, may change in any release.

``merge`` works in place on trees without aliases. What cannot be merged is reported, and the later value stands.
"""

from __future__ import annotations

import ipaddress
import posixpath
from collections.abc import Callable

from ansible_collections.mcpstack.platform.plugins.module_utils import _compose_values as values
from ansible_collections.mcpstack.platform.plugins.module_utils._compose_schema import shown
from ansible_collections.mcpstack.platform.plugins.module_utils._compose_yaml import Map, Seq, clone, mapping

Report = Callable[[int, str, str, str], None]  # place, what, fix, kind

#: Most ports of one project once ranges are taken apart.
MAX_PORTS = 100_000

_EVERY_ADDRESS = str(ipaddress.IPv4Address(0))


def _as_pairs(value: object, empty: object, place: int) -> Map:
    """``environment`` and its like as a mapping of texts."""
    if value.__class__ is Map:
        for key, item in value.items():
            if item is None:
                value[key] = empty
            elif item.__class__ is not str and item.__class__ not in (Map, Seq):
                value[key] = values.text(item)
        return value
    items = _as_list(value, place)
    made = Map(items.place)
    for item, line in zip(items, items.lines):
        if item.__class__ is str and item:
            name, equals, rest = item.partition("=")
            made.put(name, rest if equals else empty, line)
    return made


def _as_list(value: object, place: int) -> Seq:
    if value.__class__ is Seq:
        return value
    made = Seq(place)
    if value.__class__ is str:
        made.put(value, place)
    return made


def _as_names(value: object, default: Callable[[int], object]) -> object:
    """A list of names as a mapping."""
    if value.__class__ is not Seq:
        return value
    made = Map(value.place)
    for item, place in zip(value, value.lines):
        if item.__class__ is str:
            made.put(item, default(place), place)
    return made


def _dependency(place: int) -> Map:
    return mapping(place, condition="service_started", required=True)


def _nothing(place: int) -> None:
    return None


def _hosts(value: object, place: int) -> Seq:
    if value.__class__ is not Map:
        return _as_list(value, place)
    made = Seq(value.place)
    for key in sorted(value):
        item = value[key]
        for one in item if item.__class__ is Seq else (item,):
            made.put(f"{key}={'' if one is None else values.text(one)}", value.lines[key])
    return made


# Merging. Each merger gets base, other, the path, the place of the other value, and report.


def _only_text(value: object, path: tuple, report: Report) -> None:
    """Take out of a list what is no text, before it becomes a mapping."""
    if value.__class__ is not Seq:
        return
    for index in reversed(range(len(value))):
        if value[index].__class__ is not str:
            report(value.lines[index], f"{shown((*path, index))} is not text", "write text", "type")
            del value[index], value.lines[index]


def _pairs_merger(empty):
    def merger(base, other, path, place, report):
        if other is None:
            return base
        _only_text(base, path, report)
        _only_text(other, path, report)
        base, other = _as_pairs(base, empty, place), _as_pairs(other, empty, place)
        base.update(other)
        base.lines.update(other.lines)
        return base

    return merger


def _concat(base, other, path, place, report):
    if other is None:
        return base
    base, other = _as_list(base, place), _as_list(other, place)
    base.extend(other)
    base.lines.extend(other.lines)
    return base


def _concat_hosts(base, other, path, place, report):
    if other is None:
        return base
    base, other = _hosts(base, place), _hosts(other, place)
    for item, line in zip(other, other.lines):
        if item not in base:
            base.put(item, line)
    return base


def _replace(base, other, path, place, report):
    return other


def _names_merger(default):
    def merger(base, other, path, place, report):
        _only_text(base, path, report)
        _only_text(other, path, report)
        return _plain(_as_names(base, default), _as_names(other, default), path, place, report)

    return merger


def _build(base, other, path, place, report):
    if other is None:
        return base
    long_forms = [mapping(place, context=item) if item.__class__ is str else item for item in (base, other)]
    return _plain(*long_forms, path, place, report)


def _logging(base, other, path, place, report):
    if base.__class__ is Map and other.__class__ is Map and "driver" in base and "driver" in other:
        if base["driver"] != other["driver"]:
            return other
    return _plain(base, other, path, place, report)


def _ipam(base, other, path, place, report):
    """Pools are told apart by their subnet."""
    if base.__class__ is not Seq or other.__class__ is not Seq:
        return _plain(base, other, path, place, report)
    merged = Seq(base.place)

    def find(subnet):
        return next((i for i, pool in enumerate(merged) if pool.get("subnet") == subnet), -1)

    for original, line in zip(base, base.lines):
        if original.__class__ is not Map:
            continue
        for pool, other_line in zip(other, other.lines):
            if pool.__class__ is not Map:
                continue
            if pool.get("subnet") != original.get("subnet") and find(pool.get("subnet")) < 0:
                merged.put(pool, other_line)
                continue
            _plain(original, clone(pool), path, place, report)
            at = find(original.get("subnet"))
            if at >= 0:
                merged[at] = original
            else:
                merged.put(original, line)
    return merged


def _plain(base, other, path, place, report):
    if other is None:
        return base
    if base.__class__ is Map:
        if other.__class__ is Map:
            merge_maps(base, other, path, report)
            return base
    elif base.__class__ is Seq:
        if other.__class__ is Seq:
            base.extend(other)
            base.lines.extend(other.lines)
            return base
    else:
        return other
    what = f"{shown(path)} cannot be merged: one file has a mapping or list there, the other something else"
    report(place, what, "write it in the same form in both files", "type")
    return other


_ENVIRONMENT = _pairs_merger(None)
_LABELS = _pairs_merger("")

#: By path below a service; "*" is any key.
_SERVICE_RULES = {
    ("annotations",): _LABELS, ("build",): _build, ("build", "args"): _ENVIRONMENT,
    ("build", "additional_contexts"): _LABELS, ("build", "extra_hosts"): _concat_hosts, ("build", "labels"): _LABELS,
    ("command",): _replace, ("depends_on",): _names_merger(_dependency), ("deploy", "labels"): _LABELS, ("dns",): _concat,
    ("dns_opt",): _concat, ("dns_search",): _concat, ("entrypoint",): _replace, ("env_file",): _concat,
    ("label_file",): _concat, ("environment",): _ENVIRONMENT, ("extra_hosts",): _concat_hosts,
    ("healthcheck", "test"): _replace, ("labels",): _LABELS, ("logging",): _logging, ("networks",): _names_merger(_nothing),
    ("sysctls",): _LABELS, ("tmpfs",): _concat,
}  # fmt: skip


def _rule(path: tuple):
    section = path[0] if path else ""
    if section == "services" and len(path) > 2:
        if len(path) == 4 and path[2] == "ulimits":
            return _replace
        return _SERVICE_RULES.get(path[2:])
    if len(path) == 3 and path[2] == "labels" and section in ("networks", "volumes"):
        return _LABELS
    if section == "networks" and path[2:] == ("ipam", "config"):
        return _ipam
    return None


def merge_maps(base: Map, other: Map, path: tuple, report: Report) -> None:
    """Lay ``other`` over ``base``, in place."""
    for key, value in other.items():
        place = other.lines[key]
        if key not in base or key.startswith("x-"):
            base[key] = value
            base.lines[key] = place
            continue
        below = (*path, key)
        rule = _rule(below)
        before = base[key]
        merged = (rule or _plain)(before, value, below, place, report)
        base[key] = merged
        # A mapping or list that was added to stays where it began; what was replaced is where the later value is.
        if merged is not before or (value is not None and before.__class__ not in (Map, Seq)):
            base.lines[key] = place


def apply_marks(marked: Map, base: Map) -> None:
    """Take out of ``base`` what ``!reset`` and ``!override`` in the later file say."""
    for key in marked.marks or ():
        base.drop(key)
    for key, value in marked.items():
        if value.__class__ is Map and base.get(key).__class__ is Map:
            apply_marks(value, base[key])


def has_marks(node: object) -> bool:
    """Whether anything in the tree is marked."""
    if node.__class__ is Map:
        return bool(node.marks) or any(has_marks(value) for value in node.values() if value.__class__ is Map)
    return False


# The long form.


def _path_key(item):
    return item.get("path") if item.__class__ is Map else item


def _name_of_pair(item):
    return item.partition("=")[0] if item.__class__ is str else item


def _target_key(item):
    return item.get("target") if item.__class__ is Map else item


def _grant_key(root):
    def key(item):
        if item.__class__ is not Map:
            return item
        return item["target"] if "target" in item else f"{root}/{item.get('source')}"

    return key


def _port_key(item):
    if item.__class__ is not Map:
        return item
    published = item.get("published")
    return (
        item.get("host_ip", _EVERY_ADDRESS), published.__class__, published, values.text(item.get("target")),
        item.get("protocol", "tcp"),
    )  # fmt: skip


_UNIQUE = {
    "cap_add": _name_of_pair, "cap_drop": _name_of_pair, "devices": _target_key, "configs": _grant_key(""),
    "dns": _name_of_pair, "dns_opt": _name_of_pair, "dns_search": _name_of_pair, "env_file": _path_key,
    "expose": values.text, "links": _name_of_pair, "ports": _port_key, "profiles": _name_of_pair,
    "secrets": _grant_key("/run/secrets"), "tmpfs": _name_of_pair, "volumes": _target_key,
}  # fmt: skip


def unique(items: Seq, key: Callable[[object], object]) -> None:
    """Drop what a later item replaces; the later one takes the place of the first."""
    if len(items) < 2:
        return
    seen: dict[object, int] = {}
    kept, lines = [], []
    for item, line in zip(items, items.lines):
        name = key(item)
        if name is None or name.__class__ in (Map, Seq):
            kept.append(item)
            lines.append(line)
        elif name in seen:
            kept[seen[name]], lines[seen[name]] = item, line
        else:
            seen[name] = len(kept)
            kept.append(item)
            lines.append(line)
    items[:], items.lines[:] = kept, lines


class Canonical:
    """Brings services into the long form. One per project: it counts ports."""

    def __init__(self, report: Report):
        self.report = report
        self.ports = 0

    def each(self, service: Map, key: str, name: str, parse: Callable[[str], dict | list]) -> None:
        """Texts of a list as mappings; what cannot be read is reported and left out."""
        items = service.get(key)
        if items.__class__ is not Seq:
            return
        made = Seq(items.place)
        for index, (item, line) in enumerate(zip(items, items.lines)):
            if item.__class__ is Map:
                made.put(item, line)
                continue
            written = values.text(item)
            try:
                parsed = parse(written)
            except ValueError as error:
                where = shown(("services", name, key, index))
                self.report(line, f"{where}: {written[:80]!r}: {error}", "correct it, or use the long form", "value")
                continue
            except OverflowError as error:
                self.report(line, f"{shown(('services', name, key))}: {error}", "publish fewer ports", "limit")
                continue
            for one in parsed if isinstance(parsed, list) else [parsed]:
                made.put(deep_map(one, line), line)
        service[key] = made

    def port(self, written: str) -> list[dict]:
        found = values.parse_port(written) if self.ports <= MAX_PORTS else []
        self.ports += len(found)
        if self.ports > MAX_PORTS:
            raise OverflowError(f"more than {MAX_PORTS} ports in the project")
        return found

    def service(self, service: Map, name: str) -> None:
        """One service, in place; what it holds has the right types already."""
        get = service.get
        for key, empty in (("environment", None), ("labels", ""), ("annotations", ""), ("sysctls", "")):
            if key in service:
                service[key] = _as_pairs(service[key], empty, service.lines[key])
        for key in ("dns", "dns_search", "tmpfs", "label_file", "env_file"):
            if key in service:
                service[key] = _as_list(service[key], service.lines[key])
        if "dns" in service and "" in service["dns"]:
            self.drop_empty(service["dns"])
        if get("depends_on").__class__ is Seq:
            service["depends_on"] = _as_names(service["depends_on"], _dependency)
        elif get("depends_on").__class__ is Map:
            for item in service["depends_on"].values():
                if item.__class__ is Map:
                    for key, value in (("condition", "service_started"), ("required", True)):
                        if key not in item:
                            item.put(key, value, item.place)
        if get("networks").__class__ is Seq:
            service["networks"] = _as_names(service["networks"], _nothing)
        if "ports" in service:
            self.each(service, "ports", name, self.port)
        if "volumes" in service:
            self.each(service, "volumes", name, values.parse_mount)
        for key in ("secrets", "configs"):
            if key in service:
                self.each(service, key, name, lambda written: {"source": written})
        if "devices" in service:
            self.each(service, "devices", name, values.parse_device)
        if "env_file" in service:
            self.each(service, "env_file", name, lambda written: {"path": written, "required": True})
            for item in service["env_file"]:
                if item.__class__ is Map and "required" not in item:
                    item.put("required", True, item.place)
        if get("gpus").__class__ is str:
            place = service.lines["gpus"]
            made = Seq(place)
            made.put(mapping(place, count="all"), place)
            service["gpus"] = made
        build = get("build")
        if build is not None:
            self.build(service, name, build)
        deploy = get("deploy")
        if deploy.__class__ is Map and "labels" in deploy:
            deploy["labels"] = _as_pairs(deploy["labels"], "", deploy.lines["labels"])
        for key, index in _UNIQUE.items():
            if key in service and service[key].__class__ is Seq:
                unique(service[key], index)
        for network in (get("networks") or {}).values():
            for key in ("aliases", "link_local_ips"):
                if network.__class__ is Map and network.get(key).__class__ is Seq:
                    unique(network[key], _name_of_pair)

    def drop_empty(self, items: Seq) -> None:
        kept = [(item, line) for item, line in zip(items, items.lines) if item not in ("", None)]
        items[:] = [item for item, _rest in kept]
        items.lines[:] = [line for _rest, line in kept]

    def build(self, service: Map, name: str, build: object) -> None:
        place = service.lines["build"]
        if build.__class__ is str:
            service["build"] = mapping(place, context=build)
            return
        contexts = build.get("additional_contexts")
        for item, line in zip(contexts, contexts.lines) if contexts.__class__ is Seq else ():
            if "=" not in item:
                where = shown(("services", name, "build", "additional_contexts"))
                self.report(line, f"{where}: {item[:60]!r} has no name", "write it like name=path", "value")
        for key, empty in (("args", None), ("labels", ""), ("additional_contexts", "")):
            if key in build:
                build[key] = _as_pairs(build[key], empty, build.lines[key])
        if "secrets" in build:
            self.each(build, "secrets", name, lambda written: {"source": written})
        if build.get("tags").__class__ is Seq:
            unique(build["tags"], _name_of_pair)


def deep_map(item: dict, place: int) -> Map:
    made = mapping(place, **item)
    for key, value in item.items():
        if isinstance(value, dict):
            made[key] = mapping(place, **value)
    return made


# Paths of the host.


class Paths:
    """Makes paths absolute. ``home`` is "" where it is not known: then ~ stays."""

    def __init__(self, base: str, home: str = ""):
        self.base, self.home = base, home

    def path(self, written: str) -> str:
        if written.startswith("~"):
            return posixpath.normpath(posixpath.join(self.home, written[1:].lstrip("/"))) if self.home else written
        if written.startswith("/") or not written or "\0" in written:
            return written
        return posixpath.normpath(posixpath.join(self.base, written))

    def host(self, written: str) -> str:
        """A path that may also be one of Windows."""
        windows = len(written) > 2 and written[1] == ":" and written[0].isalpha() and written[2] in "\\/"
        return written if windows or written.startswith("\\\\") else self.path(written) or self.base

    def context(self, written: str) -> str:
        remote = ("https://", "http://", "git://", "ssh://", "github.com/", "git@", "service:")
        return written if "://" in written or written.startswith(remote) else self.path(written)

    def service(self, service: Map, report: Report, name: str) -> None:
        """Every path of one service, which is in the long form."""
        for mount, line in _maps(service.get("volumes")):
            if mount.get("type") != "bind":
                continue
            if mount.get("source").__class__ is str:
                mount["source"] = self.host(mount["source"])
            else:
                report(line, f"services.{name}: a bind mount has no source", "add the path on the host", "value")
        for item, _rest in _maps(service.get("env_file")):
            if item.get("path").__class__ is str:
                item["path"] = self.path(item["path"])
        files = service.get("label_file")
        if files.__class__ is Seq:
            files[:] = [self.path(item) if item.__class__ is str else item for item in files]
        build = service.get("build")
        if build.__class__ is Map:
            if build.get("context").__class__ is str:
                build["context"] = self.context(build["context"])
            contexts = build.get("additional_contexts")
            if contexts.__class__ is Map:
                for key, value in contexts.items():
                    if value.__class__ is str:
                        contexts[key] = self.context(value)
        extends = service.get("extends")
        if extends.__class__ is Map and extends.get("file").__class__ is str:
            extends["file"] = self.path(extends["file"])
        develop = service.get("develop")
        for item, _rest in _maps(develop.get("watch") if develop.__class__ is Map else None):
            if item.get("path").__class__ is str:
                item["path"] = self.path(item["path"])

    def resources(self, root: Map) -> None:
        """secrets, configs and volumes."""
        for section in ("secrets", "configs"):
            for item in _values(root.get(section)):
                if item.get("file").__class__ is str:
                    item["file"] = self.host(item["file"])
        for item in _values(root.get("volumes")):
            options = item.get("driver_opts")
            if item.get("driver") == "local" and options.__class__ is Map and options.get("o") == "bind":
                if options.get("device").__class__ is str:
                    options["device"] = self.host(options["device"])


def _maps(items: object):
    if items.__class__ is Seq:
        for item, line in zip(items, items.lines):
            if item.__class__ is Map:
                yield item, line


def _values(section: object):
    if section.__class__ is Map:
        for item in section.values():
            if item.__class__ is Map:
                yield item
