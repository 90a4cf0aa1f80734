# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was last applied, and whether it still stands. PRIVATE: internal to the collection, may change in any release."""

from __future__ import annotations

import json

from ansible_collections.mcpstack.platform.plugins.module_utils._engine import Engine
from ansible_collections.mcpstack.platform.plugins.module_utils._files import save_state
from ansible_collections.mcpstack.platform.plugins.module_utils._stack_project import (
    PROJECT,
    PROJECT_LABEL,
    SERVICE_LABEL,
    lasting,
)

FORMAT = 2


def read(path: str) -> dict:
    """The record, or an empty one when there is none or it is damaged: then everything is asked about again."""
    try:
        with open(path, encoding="utf-8") as handle:
            record = json.load(handle)
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    services = record.get("services") if isinstance(record, dict) and record.get("format") == FORMAT else None
    good = isinstance(services, dict) and all(isinstance(entry, dict) for entry in services.values())
    return record if good else {}


def write(path: str, record: dict, check: bool) -> bool:
    """Keep the record; says whether it differs from what was there."""
    if read(path) == record:
        return False
    if not check:
        save_state(path, record)
    return True


def _filters(**wanted: list[str]) -> dict[str, str]:
    return {"filters": json.dumps(wanted)}


def _containers(engine: Engine) -> list[dict]:
    label = f"{PROJECT_LABEL}={PROJECT}"
    return lasting(engine.get("/containers/json", {"all": "1", **_filters(label=[label])}))


def _names(engine: Engine, kind: str) -> list[str]:
    found = engine.get(f"/{kind}", _filters(label=[f"{PROJECT_LABEL}={PROJECT}"]))
    entries = (found.get("Volumes") or []) if kind == "volumes" else found
    return sorted(item["Name"] for item in entries)


def _attached(item: dict) -> list[str]:
    """The networks that a container is on, by their ids: one that was made anew has another."""
    networks = (item.get("NetworkSettings") or {}).get("Networks") or {}
    return sorted(f"{name} {network['NetworkID']}" for name, network in networks.items())


def drop_unused(engine: Engine, check: bool) -> list[str]:
    """Remove networks of the project that none of its containers is on: Compose makes them and never takes one back."""
    used = {name for item in engine.get("/containers/json", {"all": "1"}) for name in _network_names(item)}
    unused = [name for name in _names(engine, "networks") if name not in used]
    for name in [] if check else unused:
        engine.delete(f"/networks/{name}")
    return unused


def _network_names(item: dict) -> list[str]:
    return list((item.get("NetworkSettings") or {}).get("Networks") or {})


def present(engine: Engine, digests: dict[str, str]) -> dict:
    """The record of what is there now."""
    services = {}
    for item in _containers(engine):
        name = item["Labels"].get(SERVICE_LABEL, "")
        if name in digests:
            services[name] = {"digest": digests[name], "container": item["Id"], "networks": _attached(item)}
    return {
        "format": FORMAT,
        "services": services,
        "networks": _names(engine, "networks"),
        "volumes": _names(engine, "volumes"),
    }


def pending(engine: Engine, digests: dict[str, str], record: dict) -> dict[str, str]:
    """Why Compose has to be asked about each service; empty when everything stands as it was applied."""
    if not record:
        return dict.fromkeys(digests, "nothing was recorded as applied")
    containers = _containers(engine)
    labels = [item["Labels"].get(SERVICE_LABEL, "") for item in containers]
    if set(labels) - set(digests):
        return dict.fromkeys(digests, "the project has a container that no service asks for")
    for kind in ("networks", "volumes"):
        if _names(engine, kind) != record.get(kind):
            return dict.fromkeys(digests, f"the {kind} of the project are not those that were recorded")
    by_service = dict(zip(labels, containers))
    ids: dict[str, str | None] = {}
    found = {}
    for name, digest in digests.items():
        applied, item = record["services"].get(name), by_service.get(name)
        if applied is None or item is None:
            found[name] = "it was never applied" if applied is None else "there is no container of it"
        elif applied.get("digest") != digest:
            found[name] = "its compose file differs from what was applied"
        elif applied.get("container") != item["Id"] or labels.count(name) > 1:
            found[name] = "its container is not the one that was applied"
        elif applied.get("networks") != _attached(item):
            found[name] = "its container is not on the networks on which it was applied"
        elif item["State"] != "running" or "(healthy)" not in item["Status"]:
            found[name] = f"its container is not healthy: {item['Status']}"
        else:
            reference = engine.get(f"/containers/{item['Id']}/json")["Config"]["Image"]
            if reference not in ids:
                ids[reference] = (engine.image(reference) or {}).get("Id")
            if ids[reference] != item["ImageID"]:
                found[name] = f"{reference} is another image now"
    return found
