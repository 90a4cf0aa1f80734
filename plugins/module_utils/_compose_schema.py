# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which keys and types the Compose specification allows, and which text Compose turns into numbers and booleans.

PRIVATE: internal to the collection, may change in any release.

Written from the specification as Compose 2.26 of Debian trixie checks it. Keys that only later releases know are listed
apart: for the reference they are unknown, and the problem says so.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable

from ansible_collections.mcpstack.platform.plugins.module_utils._compose_yaml import Map, Seq

NoneType = type(None)
_NAME = re.compile(r"[a-zA-Z0-9._-]+\Z")
_LOWER = re.compile(r"[a-z]+\Z")

_WORDS = {
    str: "text",
    int: "a number",
    float: "a number",
    bool: "true or false",
    NoneType: "null",
    Map: "a mapping",
    Seq: "a list",
}


class Node:
    """What one place of the model may hold."""

    __slots__ = (
        "kinds",
        "props",
        "rest",
        "names",
        "ext",
        "closed",
        "required",
        "items",
        "unique",
        "enum",
        "span",
        "cast",
    )

    def __init__(self, *kinds, props=None, rest=None, names=None, ext=True, closed=True, required=(), items=None,
                 unique=False, enum=None, span=None, cast=None):  # fmt: skip
        self.kinds = frozenset(kinds)
        self.props, self.rest, self.names, self.ext, self.closed = props, rest, names, ext, closed
        self.required, self.items, self.unique = required, items, unique
        self.enum, self.span, self.cast = enum, span, cast

    def child(self, key: str) -> Node | None:
        if self.props is not None:
            found = self.props.get(key)
            if found is not None:
                return found
            if self.ext and key.startswith("x-"):
                return None
        return self.rest

    def wanted(self) -> str:
        words = dict.fromkeys(
            _WORDS[kind] for kind in (str, int, float, bool, Map, Seq, NoneType) if kind in self.kinds
        )
        if len(words) > 1:
            words.pop("null", None)
        if self.cast is not None and len(words) > 1:
            words.pop("text", None)
        *first, last = words
        return f"{', '.join(first)} or {last}" if first else last


def _obj(props, **more):
    return Node(Map, props=props, **more)


def _null(node, **more):
    """The same mapping, or null."""
    made = Node(Map, NoneType, props=node.props, rest=node.rest, names=node.names, ext=node.ext, closed=node.closed,
                required=node.required, **more)  # fmt: skip
    return made


def _list(items, unique=False):
    return Node(Seq, items=items, unique=unique)


_S = Node(str)
_SN = Node(str, int, float)
_INT = Node(int, str, cast="int")
_INT_TEXT = Node(int, str)  # text stays: sizes, "all"
_NUM_INT = Node(int, float, str, cast="int")
_NUM_TEXT = Node(int, float, str)
_FLOAT = Node(int, float, str, cast="float")
_BOOL = Node(bool, str, cast="bool")
_SL = _list(_S)
_SU = _list(_S, unique=True)
_ANY = None

# "Unique" is only set where Compose does not drop duplicates by itself before it looks.
_STRING_OR_LIST = Node(str, Seq, items=_S)
_LIST_OR_DICT = Node(Map, Seq, rest=Node(str, int, float, bool, NoneType), props={}, ext=False, items=_S)
_HOSTS = Node(Map, Seq, rest=Node(str, Seq, items=_S), props={}, ext=False, items=_S)
_COMMAND = Node(str, Seq, NoneType, items=_S)
_OPTIONS = Node(Map, props={}, ext=False, rest=_SN, closed=False)
_EXTERNAL = Node(bool, str, Map, props={"name": _S}, cast="bool")
_EXTERNAL_LOOSE = Node(bool, str, Map, props={"name": _S}, closed=False, cast="bool")
_MODE = Node(int, float, str, cast="int")
_GRANT = Node(Seq, items=Node(str, Map, props={"source": _S, "target": _S, "uid": _S, "gid": _S, "mode": _MODE}))
_ULIMITS = Node(Map, props={}, ext=False, names=_LOWER, closed=False, rest=Node(
    int, str, Map, props={"hard": _INT, "soft": _INT}, required=("soft", "hard"), cast="int"))  # fmt: skip
_BLKIO_LIMIT = _list(_obj({"path": _S, "rate": _INT_TEXT}, ext=False))
_HOOK = _obj({"command": _COMMAND, "user": _S, "privileged": _BOOL, "working_dir": _S, "environment": _LIST_OR_DICT})
_REQUEST = {"capabilities": _SU, "count": _INT_TEXT, "device_ids": _SU, "driver": _S, "options": _LIST_OR_DICT}

_HEALTHCHECK = _obj({
    "disable": _BOOL, "interval": _S, "retries": _NUM_INT, "test": Node(str, Seq, items=_S), "timeout": _S,
    "start_period": _S, "start_interval": _S,
})  # fmt: skip

_BUILD = Node(str, Map, props={
    "context": _S, "dockerfile": _S, "dockerfile_inline": _S, "entitlements": _SL, "args": _LIST_OR_DICT, "ssh": _LIST_OR_DICT,
    "labels": _LIST_OR_DICT, "cache_from": _SL, "cache_to": _SL, "no_cache": _BOOL, "additional_contexts": _LIST_OR_DICT,
    "network": _S, "pull": _BOOL, "target": _S, "shm_size": _INT_TEXT, "extra_hosts": _HOSTS, "isolation": _S,
    "privileged": _BOOL, "secrets": _GRANT, "tags": _SL, "ulimits": _ULIMITS, "platforms": _SL,
})  # fmt: skip

_UPDATE = _obj({
    "parallelism": _INT, "delay": _S, "failure_action": _S, "monitor": _S, "max_failure_ratio": _FLOAT,
    "order": Node(str, enum=("start-first", "stop-first")),
})  # fmt: skip

_DEPLOY = Node(Map, NoneType, props={
    "mode": _S, "endpoint_mode": _S, "replicas": _INT, "labels": _LIST_OR_DICT, "rollback_config": _UPDATE,
    "update_config": _UPDATE,
    "resources": _obj({
        "limits": _obj({"cpus": _NUM_TEXT, "memory": _S, "pids": _INT}),
        "reservations": _obj({
            "cpus": _NUM_TEXT, "memory": _S,
            "generic_resources": _list(_obj({"discrete_resource_spec": _obj({"kind": _S, "value": _NUM_INT})})),
            "devices": _list(_obj(_REQUEST, required=("capabilities",))),
        }),
    }),
    "restart_policy": _obj({"condition": _S, "delay": _S, "max_attempts": _INT, "window": _S}),
    "placement": _obj({
        "constraints": _SL, "preferences": _list(_obj({"spread": _S})), "max_replicas_per_node": _INT,
    }),
})  # fmt: skip

_NETWORK_OF_SERVICE = Node(Map, NoneType, props={
    "aliases": _SL, "ipv4_address": _S, "ipv6_address": _S, "link_local_ips": _SL, "mac_address": _S,
    "driver_opts": _OPTIONS, "priority": Node(int, float), "gw_priority": Node(int, float),
})  # fmt: skip

_MOUNT = Node(str, Map, required=("type",), props={
    "type": _S, "source": _S, "target": _S, "read_only": _BOOL, "consistency": _S,
    "bind": _obj({
        "propagation": _S, "create_host_path": _BOOL,
        "recursive": Node(str, enum=("enabled", "disabled", "writable", "readonly")),
        "selinux": Node(str, enum=("z", "Z")),
    }),
    "volume": _obj({"nocopy": _BOOL, "subpath": _S}),
    "tmpfs": _obj({"size": Node(int, str, span=(0, None)), "mode": _NUM_TEXT}),
})  # fmt: skip

_DEPENDS_ON = Node(Seq, Map, items=_S, names=_NAME, props={}, ext=False, rest=_obj({
    "restart": _BOOL, "required": Node(bool),
    "condition": Node(str, enum=("service_started", "service_healthy", "service_completed_successfully")),
}, required=("condition",)))  # fmt: skip

SERVICE = _obj({
    "develop": Node(Map, NoneType, props={"watch": _list(_obj({
        "ignore": _SL, "path": _S, "target": _S, "exec": _HOOK,
        "action": Node(str, enum=("rebuild", "sync", "restart", "sync+restart", "sync+exec")),
    }, required=("path", "action")))}),
    "deploy": _DEPLOY, "annotations": _LIST_OR_DICT, "attach": _BOOL, "build": _BUILD,
    "blkio_config": _obj({
        "device_read_bps": _BLKIO_LIMIT, "device_read_iops": _BLKIO_LIMIT, "device_write_bps": _BLKIO_LIMIT,
        "device_write_iops": _BLKIO_LIMIT, "weight": _INT_TEXT,
        "weight_device": _list(_obj({"path": _S, "weight": _INT_TEXT}, ext=False)),
    }, ext=False),
    "cap_add": _SL, "cap_drop": _SL, "cgroup": Node(str, enum=("host", "private")), "cgroup_parent": _S,
    "command": _COMMAND, "configs": _GRANT, "container_name": _S,
    "cpu_count": Node(int, str, span=(0, None), cast="int"), "cpu_percent": Node(int, str, span=(0, 100), cast="float"),
    "cpu_shares": _NUM_INT, "cpu_quota": _NUM_INT, "cpu_period": _NUM_INT, "cpu_rt_period": _NUM_INT,
    "cpu_rt_runtime": _NUM_INT, "cpus": _FLOAT, "cpuset": _S,
    "credential_spec": _obj({"config": _S, "file": _S, "registry": _S}),
    "depends_on": _DEPENDS_ON, "device_cgroup_rules": _SU,
    "devices": _list(Node(str, Map, props={"source": _S, "target": _S, "permissions": _S}, required=("source",))),
    "dns": _STRING_OR_LIST, "dns_opt": _SL, "dns_search": _STRING_OR_LIST, "domainname": _S, "entrypoint": _COMMAND,
    "env_file": Node(str, Seq, items=Node(str, Map, ext=False, required=("path",), props={
        "path": _S, "format": _S, "required": _BOOL})),
    "label_file": Node(str, Seq, items=_S), "environment": _LIST_OR_DICT, "expose": _list(_SN),
    "extends": Node(str, Map, props={"service": _S, "file": _S}, ext=False, required=("service",)),
    "external_links": _SU, "extra_hosts": _HOSTS,
    "gpus": Node(str, Seq, enum=("all",), items=_obj(_REQUEST, closed=False)),
    "group_add": _list(_SN, unique=True), "healthcheck": _HEALTHCHECK, "hostname": _S, "image": _S, "init": _BOOL,
    "ipc": _S, "isolation": _S, "labels": _LIST_OR_DICT, "links": _SL,
    "logging": _obj({"driver": _S, "options": Node(
        Map, props={}, ext=False, closed=False, rest=Node(str, int, float, NoneType))}),
    "mac_address": _S, "mem_limit": _NUM_TEXT, "mem_reservation": _INT_TEXT, "mem_swappiness": _INT_TEXT,
    "memswap_limit": _NUM_TEXT, "network_mode": _S,
    "networks": Node(Seq, Map, items=_S, names=_NAME, props={}, ext=False, rest=_NETWORK_OF_SERVICE),
    "oom_kill_disable": _BOOL, "oom_score_adj": Node(int, str, span=(-1000, 1000), cast="int"),
    "pid": Node(str, NoneType), "pids_limit": _NUM_INT, "platform": _S,
    "ports": _list(Node(int, float, str, Map, props={
        "name": _S, "mode": _S, "host_ip": _S, "target": _INT, "published": _INT_TEXT, "protocol": _S, "app_protocol": _S})),
    "post_start": _list(_HOOK), "pre_stop": _list(_HOOK), "privileged": _BOOL, "profiles": _SL,
    "pull_policy": Node(str, enum=("always", "never", "if_not_present", "build", "missing")), "read_only": _BOOL,
    "restart": _S, "runtime": _S, "scale": _INT, "security_opt": _SU, "shm_size": _NUM_TEXT, "secrets": _GRANT,
    "sysctls": _LIST_OR_DICT, "stdin_open": _BOOL, "stop_grace_period": _S, "stop_signal": _S,
    "storage_opt": Node(Map), "tmpfs": _STRING_OR_LIST, "tty": _BOOL, "ulimits": _ULIMITS, "user": _S, "uts": _S,
    "userns_mode": _S, "volumes": _list(_MOUNT), "volumes_from": _SU, "working_dir": _S,
})  # fmt: skip

_DRIVER_OPTS = _OPTIONS
_TOP = {
    "networks": _obj({
        "name": _S, "driver": _S, "driver_opts": _DRIVER_OPTS,
        "ipam": _obj({
            "driver": _S, "options": Node(Map, props={}, ext=False, rest=_S),
            "config": _list(_obj({"subnet": _S, "ip_range": _S, "gateway": _S,
                                  "aux_addresses": Node(Map, props={}, ext=False, rest=_S)})),
        }),
        "external": _EXTERNAL, "internal": _BOOL, "enable_ipv4": _BOOL, "enable_ipv6": _BOOL, "attachable": _BOOL,
        "labels": _LIST_OR_DICT,
    }),
    "volumes": _obj({
        "name": _S, "driver": _S, "driver_opts": _DRIVER_OPTS, "external": _EXTERNAL, "labels": _LIST_OR_DICT,
    }),
    "secrets": _obj({
        "name": _S, "environment": _S, "file": _S, "external": _EXTERNAL_LOOSE, "labels": _LIST_OR_DICT, "driver": _S,
        "driver_opts": _DRIVER_OPTS, "template_driver": _S,
    }),
    "configs": _obj({
        "name": _S, "content": _S, "environment": _S, "file": _S, "external": _EXTERNAL_LOOSE, "labels": _LIST_OR_DICT,
        "template_driver": _S,
    }),
}  # fmt: skip

INCLUDE = Node(str, Map, ext=False, props={
    "path": _STRING_OR_LIST, "env_file": _STRING_OR_LIST, "project_directory": _S})  # fmt: skip

ROOT = _obj({
    "version": _S, "name": _S, "include": _list(INCLUDE),
    "services": Node(Map, props={}, ext=False, names=_NAME, rest=SERVICE),
    "networks": Node(Map, props={}, ext=False, names=_NAME, closed=False, rest=_null(_TOP["networks"])),
    "volumes": Node(Map, props={}, ext=False, names=_NAME, rest=_null(_TOP["volumes"])),
    "secrets": Node(Map, props={}, ext=False, names=_NAME, rest=_TOP["secrets"]),
    "configs": Node(Map, props={}, ext=False, names=_NAME, rest=_TOP["configs"]),
})  # fmt: skip

#: Keys that Compose learned after the reference: where, and from which release ("" where it is not certain).
LATER = {
    ("models",): "2.38", ("services", "*", "models"): "2.38", ("services", "*", "provider"): "2.36",
    ("services", "*", "use_api_socket"): "", ("services", "*", "networks", "*", "interface_name"): "2.36",
    ("services", "*", "build", "provenance"): "2.39", ("services", "*", "build", "sbom"): "2.39",
    ("services", "*", "build", "no_cache_filter"): "", ("services", "*", "volumes", "*", "image"): "",
    ("services", "*", "develop", "watch", "*", "include"): "", ("services", "*", "develop", "watch", "*", "initial_sync"): "",
    ("services", "*", "pull_refresh_after"): "",
}  # fmt: skip

Report = Callable[[int, str, "str | Callable[[], str]", str], None]  # place, what, fix (when it is kept), kind

_TRUE, _FALSE = ("true", "y", "yes", "on"), ("false", "n", "no", "off")
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}\Z")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?\Z")


def cast(text: str, how: str) -> object:
    """The number or boolean that Compose makes of a text. Raises ValueError."""
    if how == "bool":
        lowered = text.lower()
        if lowered in _TRUE:
            return True
        if lowered in _FALSE:
            return False
        raise ValueError(f"{text[:40]!r} is neither true nor false")
    if how == "int":
        if _INTEGER.match(text) and -(1 << 63) <= int(text) < 1 << 63:
            return int(text)
        raise ValueError(f"{text[:40]!r} is no whole number")
    if len(text) < 64 and _NUMBER.match(text):
        return float(text)
    raise ValueError(f"{text[:40]!r} is no number")


def shown(path: tuple) -> str:
    """services.web.ports[0] as people write it."""
    text = ""
    for part in path:
        text += f"[{part}]" if part.__class__ is int else f".{part}" if text else str(part)
    return text[:200]


def _later(path: tuple) -> str | None:
    for pattern, release in LATER.items():
        if len(pattern) == len(path) and all(part in ("*", given) for part, given in zip(pattern, path)):
            return release
    return None


def _unknown_key(path: tuple, node: Node, place: int, report: Report) -> None:
    release = _later(path)
    if release is not None:
        since = f"Compose {release}" if release else "a later Compose"
        report(place, f"{shown(path)} needs {since}; 2.26 refuses it", "remove it, or run the newer Compose", "newer")
        return
    if node.names is not None and node.rest is not None:
        report(place, f"{shown(path)} is no possible name", "use letters, digits, dots, hyphens and underscores", "key")
        return
    key, known = str(path[-1])[:40], list(node.props or ())

    def fix() -> str:
        near = difflib.get_close_matches(key, known, 1, 0.7)
        return f"did you mean {near[0]}?" if near else "remove it, or name it x-… if it is yours"

    report(place, f"{shown(path)} is no key that Compose knows", fix, "key")


def validate(value: object, node: Node, path: tuple, place: int, report: Report) -> bool:
    """Report what does not fit; ill-typed values are taken out of their container. False: this value itself must go."""
    kind = value.__class__
    if kind not in node.kinds and not (kind is float and int in node.kinds and value.is_integer()):
        given = _WORDS.get(kind, "something else")
        report(place, f"{shown(path)} is {given}, not {node.wanted()}", f"write {node.wanted()}", "type")
        return False
    if kind is Map:
        _validate_map(value, node, path, report)
    elif kind is Seq:
        items = node.items
        if items is not None:
            plain = items.kinds
            bad = []
            for index, item in enumerate(value):
                if item.__class__ is str and str in plain and items.enum is None:
                    continue
                if not validate(item, items, (*path, index), value.lines[index], report):
                    bad.append(index)
            for index in reversed(bad):
                del value[index], value.lines[index]
            if node.unique and len(value) > 1:
                _unique(value, path, report)
    elif node.enum is not None and value not in node.enum and kind is str:
        allowed = ", ".join(node.enum)
        report(place, f"{shown(path)} is {value[:40]!r}", f"use one of: {allowed}", "value")
    elif node.span is not None and kind is not str:
        low, high = node.span
        if value < low or (high is not None and value > high):
            bound = f"at least {low}" if high is None else f"between {low} and {high}"
            report(place, f"{shown(path)} is {value}, not {bound}", f"write a number {bound}", "value")
    elif kind is float and not -1e308 < value < 1e308:
        report(place, f"{shown(path)} is no finite number", "write a number", "type")
        return False
    return True


def _validate_map(value: Map, node: Node, path: tuple, report: Report) -> None:
    props, rest = node.props, node.rest
    if props is None:
        return
    bad = []
    for key, item in value.items():
        child = props.get(key)
        if child is None:
            if node.ext and key[:2] == "x-":
                continue
            if rest is not None and (node.names is None or node.names.match(key)) and key != "":
                child = rest
            else:
                if node.closed:
                    _unknown_key((*path, key), node, value.lines[key], report)
                continue
        if item.__class__ is str and str in child.kinds and child.enum is None:
            continue
        if not validate(item, child, (*path, key), value.lines[key], report):
            bad.append(key)
    for key in bad:
        value.drop(key)
    for key in node.required:
        if key not in value and key not in bad:
            report(value.place, f"{shown(path)} has no {key}", f"add {key}", "type")


def _unique(value: Seq, path: tuple, report: Report) -> None:
    seen: dict = {}
    again = []
    for index, item in enumerate(value):
        if item.__class__ in (Map, Seq):
            continue
        if item in seen:
            report(value.lines[index], f"{shown(path)} holds {str(item)[:60]!r} twice", "keep one of them", "value")
            again.append(index)
        seen[item] = index
    for index in reversed(again):
        del value[index], value.lines[index]
