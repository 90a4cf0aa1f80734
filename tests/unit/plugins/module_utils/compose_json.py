# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A loaded project in the form that `docker compose config --format json` prints, to hold one against the other."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from ansible_collections.mcpstack.platform.plugins.module_utils import _compose_values as values

#: Problems that are no refusal of Compose.
NOT_REFUSED = ("unknown",)

_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}


def refused(project) -> list:
    """What Compose would have stopped at."""
    return [problem for problem in project.problems if problem.kind not in NOT_REFUSED]


def _compact(item):
    """Without what Go leaves out of JSON as empty."""
    return {key: value for key, value in item.items() if value not in (None, "", [], {}, 0, False) or value is ...}


def go_duration(text: str) -> str:
    """ "90s" as Go prints it: "1m30s"."""
    import re

    sign = "-" if text.startswith("-") else ""
    total = Fraction(0)
    for number, unit in re.findall(r"([0-9.]+)([a-zµμ]+)", text):
        total += Fraction(number if number[0] != "." else "0" + number) * _UNITS[unit]
    total = int(total)
    if total == 0:
        return "0s"
    if total < 10**9:
        for unit, size in (("ms", 10**6), ("µs", 10**3), ("ns", 1)):
            if total >= size:
                return sign + _decimal(total, size) + unit
    hours, rest = divmod(total, _UNITS["h"])
    minutes, rest = divmod(rest, _UNITS["m"])
    shown = f"{hours}h" if hours else ""
    shown += f"{minutes}m" if hours or minutes else ""
    return sign + shown + _decimal(rest, 10**9) + "s"


def _decimal(number: int, size: int) -> str:
    whole, rest = divmod(number, size)
    fraction = str(rest).zfill(len(str(size)) - 1).rstrip("0") if rest else ""
    return f"{whole}.{fraction}" if fraction else str(whole)


def _size(value):
    found = values.size(value)
    return str(found) if found else None


def _number(value):
    found = values.number(value)
    return found


def _flag(value):
    return values.flag(value) is True


def _extensions(item):
    return {key: plain(value) for key, value in item.items() if key.startswith("x-")}


def plain(value):
    """Without the subclasses that carry places."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def _strings(value):
    return [values.text(item) for item in value or ()]


def _texts(value):
    return {key: values.text(item) if item is not None else "" for key, item in (value or {}).items()}


def _request(item):
    count = item.get("count")
    if "count" not in item and "device_ids" not in item:
        count = "all"
    number = None if count is None else -1 if str(count).lower() == "all" else int(count)
    return _compact({
        "capabilities": item.get("capabilities"), "driver": item.get("driver"), "count": number,
        "device_ids": item.get("device_ids"), "options": values.pairs(item.get("options"), ""),
    })  # fmt: skip


def _deploy(item):
    if item is None:
        return None

    def resource(part):
        if part is None:
            return None
        return _compact({
            "cpus": _number(part.get("cpus")), "memory": _size(part.get("memory")), "pids": part.get("pids"),
            "devices": [_request(one) for one in part.get("devices") or ()],
            "generic_resources": plain(part.get("generic_resources")),
        }) or ...  # fmt: skip

    def update(part):
        if part is None:
            return None
        found = _compact({
            **{key: part.get(key) for key in ("failure_action", "order", "max_failure_ratio")},
            **{key: go_duration(part[key]) if key in part else None for key in ("delay", "monitor")},
        })  # fmt: skip
        # Pointers in Go: there when they are 0.
        return {**found, **{key: part[key] for key in ("parallelism",) if key in part}}

    resources = item.get("resources") or {}
    policy = item.get("restart_policy")
    placement = item.get("placement") or {}
    found = {
        **{key: item.get(key) for key in ("mode", "endpoint_mode")},
        "labels": values.pairs(item.get("labels"), ""),
        "update_config": update(item.get("update_config")),
        "rollback_config": update(item.get("rollback_config")),
        "restart_policy": None if policy is None else _compact({
            "condition": policy.get("condition"),
            **{key: go_duration(policy[key]) if key in policy else None for key in ("delay", "window")}}),
    }  # fmt: skip
    found = _compact(found)
    if policy is not None and "max_attempts" in policy:
        found.setdefault("restart_policy", {})["max_attempts"] = policy["max_attempts"]
    if item.get("replicas") is not None:
        found["replicas"] = item["replicas"]
    found["resources"] = {
        key: value if value is not ... else {}
        for key, value in (
            ("limits", resource(resources.get("limits"))),
            ("reservations", resource(resources.get("reservations"))),
        )
        if value is not None
    }
    found["placement"] = _compact({
        "constraints": placement.get("constraints"), "preferences": plain(placement.get("preferences")),
        "max_replicas_per_node": placement.get("max_replicas_per_node"),
    })  # fmt: skip
    return found


def _hosts(service):
    found = values.extra_hosts(service)
    return sorted(f"{name}={address}" for name, addresses in found.items() for address in addresses)


def _ulimits(service):
    found = {}
    for name, item in (service.get("ulimits") or {}).items():
        limit = values.ulimits({"ulimits": {name: item}})[name]
        if isinstance(item, Mapping):
            found[name] = _compact({"soft": limit.soft, "hard": limit.hard})
        else:
            found[name] = limit.soft if limit.soft else {}
    return found


def _grants(items):
    return [
        {**_compact({key: item.get(key) for key in ("source", "target", "uid", "gid")}),
         **({"mode": item["mode"]} if "mode" in item else {})}
        for item in items or ()
    ]  # fmt: skip


def _build(item):
    if item is None:
        return None
    found = _compact({
        **{key: item.get(key) for key in (
            "context", "dockerfile", "dockerfile_inline", "network", "target", "isolation")},
        **{key: _strings(item.get(key)) for key in ("cache_from", "cache_to", "tags", "platforms", "entitlements")},
        **{key: _flag(item.get(key)) for key in ("no_cache", "pull", "privileged")},
        "args": {key: value for key, value in (item.get("args") or {}).items() if value is not None}, "labels": plain(item.get("labels")),
        "additional_contexts": plain(item.get("additional_contexts")), "secrets": _grants(item.get("secrets")),
        "shm_size": _size(item.get("shm_size")), "extra_hosts": _hosts(item), "ulimits": _ulimits(item),
    })  # fmt: skip
    found.setdefault("context", ".")
    if "dockerfile" not in item and "dockerfile_inline" not in item:
        found["dockerfile"] = "Dockerfile"
    return found


def _health(service):
    item = service.get("healthcheck")
    if item is None:
        return None
    check = values.healthcheck(service)
    found = {
        "test": list(check.test), "disable": _flag(item.get("disable")),
        **{key: go_duration(item[key]) if key in item else None for key in (
            "interval", "timeout", "start_period", "start_interval")},
    }  # fmt: skip
    found = _compact(found)
    if item.get("retries") is not None:
        found["retries"] = item["retries"]
    return found


def _port(item):
    found = {key: item.get(key) for key in ("name", "mode", "host_ip", "protocol", "app_protocol")}
    published = item.get("published")
    return _compact(
        {**found, "target": int(item["target"]), "published": None if published is None else str(published)}
    )


def _mount(item):
    found = _compact({**{key: item.get(key) for key in ("type", "source", "target", "consistency")},
                      "read_only": _flag(item.get("read_only"))})  # fmt: skip
    if item.get("bind") is not None:
        bind = item["bind"]
        found["bind"] = _compact({
            **{key: bind.get(key) for key in ("propagation", "selinux", "recursive")},
            "create_host_path": _flag(bind.get("create_host_path")),
        })  # fmt: skip
    if item.get("volume") is not None:
        found["volume"] = _compact(
            {"nocopy": _flag(item["volume"].get("nocopy")), "subpath": item["volume"].get("subpath")}
        )
    if item.get("tmpfs") is not None:
        found["tmpfs"] = _compact({"size": _size(item["tmpfs"].get("size")), "mode": item["tmpfs"].get("mode")})
    return found


_SAME = (
    "cgroup", "cgroup_parent", "container_name", "cpu_count", "cpu_percent", "cpu_period", "cpu_quota", "cpu_rt_period",
    "cpu_rt_runtime", "cpus", "cpuset", "cpu_shares", "domainname", "hostname", "image", "ipc", "isolation", "mac_address",
    "network_mode", "oom_score_adj", "pid", "pids_limit", "platform", "restart", "runtime", "stop_signal", "user",
    "userns_mode", "uts", "working_dir",
)  # fmt: skip
_LISTS = (
    "cap_add", "cap_drop", "device_cgroup_rules", "dns", "dns_opt", "dns_search", "expose", "external_links", "group_add",
    "links", "profiles", "security_opt", "tmpfs", "volumes_from",
)  # fmt: skip


def service_json(project, name):
    """One service."""
    item = project.services[name]
    found = {key: item.get(key) for key in _SAME}
    found.update({key: _strings(item.get(key)) for key in _LISTS})
    found.update(
        {key: _flag(item.get(key)) for key in ("oom_kill_disable", "privileged", "read_only", "stdin_open", "tty")}
    )
    found.update({key: _size(item.get(key)) for key in (
        "mem_limit", "mem_reservation", "memswap_limit", "mem_swappiness", "shm_size")})  # fmt: skip
    found.update({key: values.pairs(item.get(key), "") for key in ("annotations", "labels", "sysctls")})
    policy = item.get("pull_policy")
    found["pull_policy"] = "missing" if policy == "if_not_present" else policy
    found["build"] = _build(item.get("build"))
    found["environment"] = project.environment(name)
    found["extra_hosts"] = _hosts(item)
    found["healthcheck"] = _health(item)
    found["deploy"] = _deploy(item.get("deploy"))
    found["stop_grace_period"] = go_duration(item["stop_grace_period"]) if "stop_grace_period" in item else None
    found["storage_opt"] = plain(item.get("storage_opt"))
    found["ulimits"] = _ulimits(item)
    found["ports"] = [_port(one) for one in item.get("ports") or ()]
    found["volumes"] = [_mount(one) for one in item.get("volumes") or ()]
    found["devices"] = plain(item.get("devices"))
    found["gpus"] = [_request(one) for one in item.get("gpus") or ()]
    found["blkio_config"] = plain(item.get("blkio_config"))
    found["credential_spec"] = plain(item.get("credential_spec"))
    found["configs"] = _grants(item.get("configs"))
    found["secrets"] = _grants(item.get("secrets"))
    for one in found["secrets"]:
        one.setdefault("target", "/run/secrets/" + one["source"])
    found["depends_on"] = {
        one.service: {
            "condition": one.condition,
            "required": one.required,
            **({"restart": True} if one.restart else {}),
        }
        for one in values.depends_on(item, implied=True)
    }
    if "logging" in item:
        logging = values.logging(item)
        found["logging"] = _compact({"driver": logging.driver, "options": dict(logging.options)}) or ...
    if not item.get("network_mode"):
        found["networks"] = {
            key: _compact({
                **{part: value.get(part) for part in (
                    "aliases", "ipv4_address", "ipv6_address", "link_local_ips", "mac_address", "priority", "gw_priority")},
                "driver_opts": _texts(value.get("driver_opts")),
            }) if key in (item.get("networks") or {}) and item["networks"][key] is not None else None
            for key, value in values.networks(item).items()
        }  # fmt: skip
    found = _compact(found)
    found = {key: {} if value is ... else value for key, value in found.items()}
    for key in ("attach", "init"):
        if item.get(key) is not None:
            found[key] = values.flag(item[key])
    if item.get("scale") is not None:
        found["scale"] = item["scale"]
        if "deploy" in found:
            found["deploy"]["replicas"] = item["scale"]
    found["command"] = values.command(item)
    found["entrypoint"] = values.command(item, "entrypoint")
    return found


def _resource(section, item):
    found = {"name": item.get("name"), "external": _flag(item.get("external")), "driver": item.get("driver"),
             "driver_opts": _texts(item.get("driver_opts")), "labels": values.pairs(item.get("labels"), "")}  # fmt: skip
    if section == "networks":
        ipam = item.get("ipam") or {}
        found.update({key: _flag(item.get(key)) for key in ("internal", "attachable")})
        found = _compact(found)
        for key in ("enable_ipv4", "enable_ipv6"):
            if item.get(key) is not None:
                found[key] = values.flag(item[key])
        found["ipam"] = _compact({"driver": ipam.get("driver"), "config": plain(ipam.get("config"))})
        return found
    if section in ("secrets", "configs"):
        found.update({key: item.get(key) for key in ("file", "environment", "template_driver", "content")})
    return _compact(found)


def as_compose(project) -> dict:
    """The whole project, as far as Compose prints it: services that run, and what they use."""
    active = project.active()
    found: dict = {"name": project.name, "services": {name: service_json(project, name) for name in sorted(active)}}
    used: dict[str, set] = {section: set() for section in ("networks", "volumes", "secrets", "configs")}
    for name in active:
        item = project.services[name]
        if not item.get("network_mode"):
            used["networks"] |= set(values.networks(item))
        used["volumes"] |= {mount.source for mount in values.volumes(item) if mount.type == "volume"}
        for section in ("secrets", "configs"):
            used[section] |= {one["source"] for one in item.get(section) or ()}
        build = item.get("build")
        if build:
            used["secrets"] |= {one["source"] for one in build.get("secrets") or ()}
    for section, names in used.items():
        items = getattr(project, section)
        found[section] = {name: _resource(section, items[name]) for name in sorted(names) if name in items}
    found = {key: value for key, value in found.items() if value or key in ("name", "services")}
    found.update({key: plain(value) for key, value in project.extensions.items()})
    return found
