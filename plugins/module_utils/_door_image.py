# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The images of the containers that run on a host, for its daily audit: each is read once, as the engine exports it.

PRIVATE: internal to the collection, may change in any release. Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ansible_collections.mcpstack.platform.plugins.module_utils import _image_updates as updates
from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit, clean
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import Files, LocalFiles
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_image import TABLE, Wanted
from ansible_collections.mcpstack.platform.plugins.module_utils._engine import Engine, EngineError
from ansible_collections.mcpstack.platform.plugins.module_utils._engine_snapshot import KeptEngine, in_scope
from ansible_collections.mcpstack.platform.plugins.module_utils._image_door import DoorError, Settings, from_engine

#: locks: a directory of NAME.lock.json. locked: how the references begin that these locks are of. sources: debian,
#: python. max_size: GiB that one image may unpack to.
ARGUMENTS: dict[str, dict] = {
    "socket": {"type": "path", "default": "/var/run/docker.sock"},
    "projects": {"type": "list", "elements": "str", "default": []},
    "locks": {"type": "path"},
    "locked": {"type": "str", "default": "mcpstack/"},
    "sources": {"type": "list", "elements": "str", "default": []},
    "keyring": {"type": "path", "no_log": False},
    "mirror": {"type": "str"},
    "security_mirror": {"type": "str"},
    "package_index": {"type": "str"},
    "max_size": {"type": "int", "default": 8},
}


class Wrong(Exception):
    """An option that cannot be used, or an engine that does not answer: which, and what to do."""


@dataclass
class Used:
    """An image by what runs of it: a control that every container of it has need not be in the image."""

    id: str
    names: set[str] = field(default_factory=set)
    no_new_privileges: bool = True
    health_check: bool = True


class _Latest(updates.Debian):
    """The indices of one release at a time, for they are large; one that did not answer is not waited for again."""

    def __init__(self, *arguments: str | None):
        super().__init__(*arguments)
        self._release = ""
        self._answers: dict[str, updates.Source] = {}

    def judge(self, packages: list[updates.Package], release: dict[str, str]) -> updates.Source:
        """As its parent does."""
        codename = release.get("VERSION_CODENAME", "")
        if codename in self._answers:
            return self._answers[codename]
        if codename != self._release:
            self._indices.clear()
            self._release = codename
        answer = super().judge(packages, release)
        if answer.state != updates.CHECKED:
            self._indices.clear()
            self._answers[codename] = answer
        return answer


def _judges(params: Mapping) -> tuple[tuple[str, Callable], ...]:
    unknown = sorted(set(params["sources"]) - {"debian", "python"})
    if unknown:
        raise Wrong(f"sources: {clean(', '.join(map(str, unknown)))} is none of debian and python.")
    debian = _Latest(params["keyring"], params["mirror"], params["security_mirror"])
    python = updates.Python(params["package_index"])
    known = {"debian": debian.judge, "python": lambda packages, _release: python.judge(packages)}
    return tuple((name, known[name]) for name in params["sources"])


def _part(container: Mapping, name: str) -> Mapping:
    found = container.get(name)
    return found if isinstance(found, Mapping) else {}


def used(engine: Engine, projects: list[str]) -> list[Used]:
    """The images of all containers that run. Raises EngineError and Wrong."""
    listed = engine.get("/containers/json")
    if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
        raise Wrong("the Docker engine answered /containers/json with something else than documented")
    found: dict[str, Used] = {}
    for item in listed:
        if not in_scope(item, projects):
            continue
        try:
            container = engine.get(f"/containers/{item.get('Id')}/json")
        except EngineError as error:
            if error.status == 404:
                continue  # it ended between the two questions
            raise
        image = container.get("Image") if isinstance(container, dict) else None
        if not isinstance(image, str) or not image:
            raise Wrong(f"what the Docker engine says of the container {clean(item.get('Id'), 12)} is no inspection")
        entry = found.setdefault(image, Used(image))
        config = _part(container, "Config")
        entry.names.add(str(config.get("Image") or image))
        options = _part(container, "HostConfig").get("SecurityOpt")
        test = _part(config, "Healthcheck").get("Test")
        entry.no_new_privileges &= any(
            str(option) in ("no-new-privileges", "no-new-privileges:true", "no-new-privileges=true")
            for option in (options if isinstance(options, list) else [])
        )
        entry.health_check &= isinstance(test, list) and bool(test) and test[0] != "NONE"
    return sorted(found.values(), key=lambda entry: (min(entry.names), entry.id))


def run(params: Mapping, files: Files | None = None) -> dict:
    """Judge the images. Raises Wrong; an image that cannot be judged leaves the others judged."""
    audit, files, engine = Audit(TABLE), files or LocalFiles(), KeptEngine(params["socket"])
    judges = _judges(params)
    try:
        entries = used(engine, params["projects"])
        for check_id in TABLE if not entries else ():
            audit.not_applicable(check_id, "no container runs, so no image is in use")
        for entry in entries:
            name = min(entry.names)
            settings = Settings(
                lock=(params["locks"] or "") if name.startswith(params["locked"]) else "",
                wanted=Wanted(
                    allow=frozenset({"no_health_check"} if entry.health_check else ()),
                    no_new_privileges=entry.no_new_privileges,
                    sources=judges,
                ),
                budget=max(params["max_size"], 1) << 30,
            )
            try:
                from_engine(audit, engine, entry.id, settings, files, subject=name)
            except DoorError as error:
                for check_id in TABLE:
                    audit.unknown(check_id, f"{name}: {error}")
    except EngineError as error:
        raise Wrong(str(error)) from error
    finally:
        engine.close()
    return audit.result()
