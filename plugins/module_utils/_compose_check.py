# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Compose refuses in a project whose every key and type is right: values, references, exclusions, circles.

PRIVATE: internal to the collection, may change in any release. Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from ansible_collections.mcpstack.platform.plugins.module_utils import _compose_values as values

Problem = Callable[[str, str, str, str], None]  # where, what, fix, kind

_DURATIONS = (
    ("stop_grace_period",), ("healthcheck", "interval"), ("healthcheck", "timeout"), ("healthcheck", "start_period"),
    ("healthcheck", "start_interval"), ("deploy", "update_config", "delay"), ("deploy", "update_config", "monitor"),
    ("deploy", "rollback_config", "delay"), ("deploy", "rollback_config", "monitor"),
    ("deploy", "restart_policy", "delay"), ("deploy", "restart_policy", "window"),
)  # fmt: skip
_SIZES = (
    ("mem_limit",), ("mem_reservation",), ("memswap_limit",), ("mem_swappiness",), ("shm_size",), ("build", "shm_size"),
    ("deploy", "resources", "limits", "memory"), ("deploy", "resources", "reservations", "memory"),
)  # fmt: skip
_CPUS = (("deploy", "resources", "limits", "cpus"), ("deploy", "resources", "reservations", "cpus"))


def _map(value: object) -> Mapping:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list:
    return value if isinstance(value, list) else []


def _at(service: Mapping, path: tuple) -> object:
    node: object = service
    for key in path:
        node = _map(node).get(key)
    return node


class _Checker:
    """One project. ``project`` is that of _compose_load."""

    def __init__(self, project, problem: Problem):
        self.project, self.problem = project, problem

    def say(self, service: str, path: tuple, what: str, fix: str, kind: str) -> None:
        dotted = ".".join(str(part) for part in path if not isinstance(part, int))
        name = f"services.{service}.{dotted}" if dotted else f"services.{service}"
        self.problem(self.project.where(service, *path), f"{name}: {what}", fix, kind)

    # Values: Compose reads them for all services, whatever the profile.

    def written(self, name: str, service: Mapping) -> None:
        for path in _DURATIONS:
            value = _at(service, path)
            if value is not None and values.duration(value) is None:
                self.say(name, path, f"{str(value)[:40]!r} is no duration", "write it like 30s or 1m30s", "value")
        for path in _SIZES:
            value = _at(service, path)
            if isinstance(value, str) and values.size(value) is None:
                self.say(name, path, f"{value[:40]!r} is no size", "write it like 512m", "value")
        for path in _CPUS:
            value = _at(service, path)
            if value is not None and values.number(value) is None:
                self.say(name, path, f"{str(value)[:40]!r} is no number", "write it like '0.5'", "value")
        if "pid" in service and service["pid"] is None:
            self.say(name, ("pid",), "it is null, at which Compose 2.26 crashes", "remove it, or write host", "type")
        for path in (("command",), ("entrypoint",)):
            self.words(name, path, _at(service, path))
        for key in ("post_start", "pre_stop"):
            for index, hook in enumerate(_list(service.get(key))):
                self.words(name, (key, index, "command"), _map(hook).get("command"))
        for path in (("extra_hosts",), ("build", "extra_hosts")):
            self.hosts(name, path, _at(service, path))
        for index, mount in enumerate(_list(service.get("volumes"))):
            self.mount(name, index, _map(mount))
        for index, port in enumerate(_list(service.get("ports"))):
            port = _map(port)
            if not port.get("target"):
                self.say(name, ("ports", index), "it has no target, or 0", "add the port of the container", "value")
            elif isinstance(port["target"], int) and not 0 <= port["target"] < 1 << 32:
                self.say(name, ("ports", index), "its target is no port", "write a port up to 65535", "value")
        for index, device in enumerate(_list(service.get("devices"))):
            if not isinstance(_map(device).get("target"), str):
                self.say(name, ("devices", index), "it has no target", "add the path in the container", "value")
        for path in (("gpus",), ("deploy", "resources", "reservations", "devices")):
            for index, request in enumerate(_list(_at(service, path))):
                request = _map(request)
                if "count" in request and "device_ids" in request:
                    self.say(name, (*path, index), "count and device_ids exclude each other", "keep one", "conflict")
                count = request.get("count")
                if isinstance(count, str) and count.lower() != "all" and values.number(count) is None:
                    self.say(
                        name, (*path, index), f"the count {count[:40]!r} is no number", "write a number or all", "value"
                    )

    def words(self, name: str, path: tuple, value: object) -> None:
        if isinstance(value, str):
            try:
                values.split_words(value)
            except ValueError as error:
                self.say(name, path, str(error), "write the command as a list", "value")

    def hosts(self, name: str, path: tuple, value: object) -> None:
        for item in _list(value):
            if isinstance(item, str) and "=" not in item and ":" not in item:
                self.say(name, path, f"{item[:60]!r} has no address", "write it like name=192.0.2.1", "value")
            elif isinstance(item, str):
                host = item.partition("=" if "=" in item else ":")[0]
                if not host or ":" in host:
                    self.say(name, path, f"{host[:60]!r} is no host name", "write it like name=192.0.2.1", "value")
        for host in _map(value):
            if not host or ":" in host or "=" in host:
                self.say(name, path, f"{host[:60]!r} is no host name", "write the name alone as the key", "value")

    def mount(self, name: str, index: int, mount: Mapping) -> None:
        if not isinstance(mount.get("target"), str):
            self.say(name, ("volumes", index), "it has no target", "add the path in the container", "value")
        amount = _map(mount.get("tmpfs")).get("size")
        if isinstance(amount, str) and values.size(amount) is None:
            self.say(
                name, ("volumes", index, "tmpfs", "size"), f"{amount[:40]!r} is no size", "write it like 64m", "value"
            )

    # What must not be together, and what must exist: for services that some selection starts.

    def consistent(self, name: str, service: Mapping) -> None:
        build = service.get("build")
        if build is None and not service.get("image"):
            self.say(name, (), "it has neither an image nor a build", "add image or build", "conflict")
        if isinstance(build, dict):
            self.build(name, service, build)
        if service.get("network_mode") and service.get("networks"):
            self.say(name, ("network_mode",), "it excludes networks", "keep one of the two", "conflict")
        for network in values.networks(service):
            self.defined(name, "networks", network, ("networks", network), "network")
        words = values.healthcheck(service)
        if words is not None and words.test and words.test[0] not in ("CMD", "CMD-SHELL", "NONE"):
            what = "a list must begin with CMD, CMD-SHELL or NONE"
            self.say(name, ("healthcheck", "test"), what, "put CMD first, or write it as text", "value")
        for mount in values.volumes(service):
            if mount.type == "volume" and mount.source and mount.key == "volumes":
                self.defined(name, "volumes", mount.source, ("volumes", mount.index), "volume")
        for section, grants in (("secrets", values.secrets(service)), ("configs", values.configs(service))):
            if len(grants) < len(_list(service.get(section))):
                self.say(name, (section,), "an entry has no source", "add source", "value")
            for grant in grants:
                self.defined(name, section, grant.source, (section, grant.index), section[:-1])
        self.twice_said(name, service)
        copies = values.replicas(service)
        if copies > 1 and service.get("container_name"):
            what = f"it is one name for {copies} containers"
            self.say(name, ("container_name",), what, "remove container_name, or run one container", "conflict")
        for index, watch in enumerate(_list(_map(service.get("develop")).get("watch"))):
            watch = _map(watch)
            if not watch.get("target") and watch.get("action") not in ("rebuild", "restart"):
                self.say(name, ("develop", "watch", index), "it has no target", "add target", "value")

    def defined(self, name: str, section: str, wanted: str, path: tuple, word: str) -> None:
        if wanted not in getattr(self.project, section):
            what = f"the {word} {wanted[:80]!r} is not defined"
            self.say(name, path, what, f"define it below {section}, or correct the name", "reference")

    def build(self, name: str, service: Mapping, build: Mapping) -> None:
        if build.get("dockerfile") and build.get("dockerfile_inline"):
            self.say(name, ("build",), "dockerfile and dockerfile_inline exclude each other", "keep one", "conflict")
        platforms = _list(build.get("platforms"))
        if platforms and service.get("platform") and service["platform"] not in platforms:
            what = "platforms does not hold the platform of the service"
            self.say(name, ("build", "platforms"), what, "add it", "conflict")
        for index, grant in enumerate(_list(build.get("secrets"))):
            source = _map(grant).get("source")
            if isinstance(source, str):
                self.defined(name, "secrets", source, ("build", "secrets", index), "build secret")
        for key, context in _map(build.get("additional_contexts")).items():
            if isinstance(context, str) and context.startswith("service:"):
                other = self.project.services.get(context[8:])
                path = ("build", "additional_contexts", key)
                if other is None:
                    self.say(
                        name, path, f"the service {context[8:88]!r} is not defined", "correct the name", "reference"
                    )
                elif "build" not in other:
                    self.say(
                        name, path, f"the service {context[8:88]!r} is not built", "name one with build", "reference"
                    )

    def twice_said(self, name: str, service: Mapping) -> None:
        """The old key and the one below deploy must agree."""
        deploy = service.get("deploy")
        if not isinstance(deploy, dict):
            return
        scale, copies = service.get("scale"), deploy.get("replicas")
        if scale is not None and copies is not None and scale != copies:
            self.differ(name, "scale", "deploy.replicas")
        resources = _map(deploy.get("resources"))
        limits, reservations = resources.get("limits"), resources.get("reservations")
        for key, holder, new, read in (
            ("cpus", limits, "cpus", values.number), ("mem_limit", limits, "memory", values.size),
            ("mem_reservation", reservations, "memory", values.size), ("pids_limit", limits, "pids", values.number),
        ):  # fmt: skip
            value = read(service.get(key))
            if value and isinstance(holder, dict) and (read(holder.get(new)) or 0) != value:
                part = "reservations" if holder is reservations and key == "mem_reservation" else "limits"
                self.differ(name, key, f"deploy.resources.{part}.{new}")

    def differ(self, name: str, old: str, new: str) -> None:
        self.say(name, (old,), f"it differs from {new}", f"keep {new} only", "conflict")

    # Dependencies, for every selection.

    def dependencies(self, selections: Iterable[tuple[str, ...]]) -> None:
        services = self.project.services
        needs = {name: values.depends_on(service, implied=True) for name, service in services.items()}
        needs = {name: wanted for name, wanted in needs.items() if wanted}
        missing: dict[tuple, list] = {}
        for selection in selections:
            active = self.project.active(selection)
            for name in sorted(needs.keys() & active):
                for wanted in needs[name]:
                    if wanted.service in active:
                        continue
                    if wanted.service in services and not wanted.required:
                        continue
                    missing.setdefault((name, wanted), []).append(selection)
        for (name, wanted), where in missing.items():
            path = (wanted.key, wanted.service) if wanted.key == "depends_on" else (wanted.key,)
            if wanted.service not in services:
                what = f"the service {wanted.service[:80]!r} is not defined"
                self.say(name, path, what, "define it, or correct the name", "reference")
                continue
            profiles = sorted(services[wanted.service].get("profiles") or ())
            shown = ", ".join(" and ".join(selection) or "no profile" for selection in where)
            what = f"{wanted.service!r} is not started with {shown}; it belongs to {', '.join(profiles)}"
            self.say(name, path, what, "give both the same profile, or add required: false", "profile")

    def circles(self) -> None:
        services = self.project.services
        edges = {
            name: [item.service for item in values.depends_on(service, implied=True) if item.service in services]
            for name, service in services.items()
        }
        done: set[str] = set()
        for start in sorted(edges):
            trail: list[str] = []
            on_trail: set[str] = set()
            stack = [(start, iter(edges[start]))] if start not in done else []
            if stack:
                trail.append(start)
                on_trail.add(start)
            while stack:
                name, rest = stack[-1]
                following = next(rest, None)
                if following is None:
                    stack.pop()
                    done.add(name)
                    on_trail.discard(trail.pop())
                elif following in on_trail:
                    loop = " → ".join((*trail[trail.index(following) :], following))
                    self.say(name, ("depends_on", following), f"it runs in a circle: {loop}", "remove one", "cycle")
                elif following not in done:
                    trail.append(following)
                    on_trail.add(following)
                    stack.append((following, iter(edges[following])))

    # Networks, volumes, secrets, configs.

    def resources(self) -> None:
        project = self.project
        for name, volume in project.volumes.items():
            if values.flag(volume.get("external")):
                extra = [key for key in volume if key not in ("name", "external") and not key.startswith("x-")]
                for key in extra:
                    what = f"volumes.{name}: external excludes {key}"
                    self.problem(project.place("volumes", name, key), what, f"remove {key}", "conflict")
        for section, keys in (("secrets", ("file", "environment")), ("configs", ("file", "environment", "content"))):
            for name, item in getattr(project, section).items():
                given = [key for key in keys if key in item]
                if section == "secrets" and not any(item[key] for key in given) and not item.get("external"):
                    given = []
                place = project.place(section, name)
                if len(given) > 1:
                    what = f"{section}.{name}: {' and '.join(given)} exclude each other"
                    self.problem(place, what, "keep one of them", "conflict")
                elif not given and not item.get("external") and (section == "secrets" or "driver" not in item):
                    what = f"{section}.{name} says nothing of where it comes from"
                    self.problem(place, what, f"add one of {', '.join(keys)}, or external: true", "value")

    def container_names(self) -> None:
        seen: dict[str, str] = {}
        for name, service in self.project.services.items():
            container = service.get("container_name")
            if isinstance(container, str) and container:
                if container in seen:
                    what = f"{container[:60]!r} is the name of {seen[container]}, too"
                    self.say(name, ("container_name",), what, "give every service its own", "conflict")
                seen.setdefault(container, name)


def check_project(project, problem: Problem, selections: list[tuple[str, ...]]) -> None:
    """Everything Compose checks of the whole, for every selection of profiles."""
    checker = _Checker(project, problem)
    judged = set().union(*(project.active(selection) for selection in selections)) if selections else set()
    for name, service in project.services.items():
        checker.written(name, service)
        if name in judged:
            checker.consistent(name, service)
    checker.dependencies(selections)
    checker.circles()
    checker.resources()
    checker.container_names()
