# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judge the rendered project with the cores of the static audits.

PRIVATE: internal to the collection, may change in any release.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ansible_collections.mcpstack.platform.plugins.module_utils import (
    _audit_nginx,
    _audit_postgres,
    _audit_valkey,
    _expected_model,
    _nginx_run,
    _valkey_service,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_compose import audit_project
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import MemoryFiles, Stat
from ansible_collections.mcpstack.platform.plugins.module_utils._compose_load import load
from ansible_collections.mcpstack.platform.plugins.module_utils._container_policy import policy_of
from ansible_collections.mcpstack.platform.plugins.plugin_utils._stack_files import Stack

PROJECT_SUBJECT = "compose project"


def _tree(stack: Stack, spec: Mapping) -> MemoryFiles:
    """The configuration tree of one service, where the service itself sees it."""
    source, target = spec["config_source"], spec["config"]
    files, stats = {}, {}
    for item in stack.files:
        if item["dest"].startswith(source + "/"):
            path = target + item["dest"][len(source) :]
            files[path] = item["content"]
            stats[path] = Stat("file", int(item["mode"], 8), item["owner"], item["group"], len(item["content"]))
    return MemoryFiles(files, stats, roots=(target,))


def _argv(spec: Mapping) -> list[str]:
    return [*(spec["entrypoint"] or []), *(spec["command"] or [])]


def _variables(spec: Mapping) -> list[str]:
    return [f"{name}={value}" for name, value in spec["environment"].items()]


def _published(spec: Mapping) -> list[str]:
    return [f"{item['host_ip']}:{item['host_port']}" for item in spec["publish"]]


def _nginx(files: MemoryFiles, path: str, options: Mapping, spec: Mapping) -> dict:
    return _audit_nginx.audit(files, path, _nginx_run.policy_of({"modes": False, **options}))


def _valkey(files: MemoryFiles, path: str, options: Mapping, spec: Mapping) -> dict:
    service = _valkey_service.Service(
        _argv(spec),
        _variables(spec),
        spec["health"]["command"],
        _expected_model.to_bytes(spec["limits"]["memory"]),
        _published(spec),
    )
    return _audit_valkey.audit_valkey(
        _audit_valkey.Request(files, path, service=service, subject=spec["name"], **options)
    )


def _postgres(files: MemoryFiles, path: str, options: Mapping, spec: Mapping) -> dict:
    service = _audit_postgres.Service(
        _argv(spec),
        _variables(spec),
        [(volume["target"], volume["read_only"]) for volume in spec["volumes"]],
        _published(spec),
    )
    return _audit_postgres.audit_postgres(
        _audit_postgres.Request(files, path, uid=spec["uid"], service=service, subject=spec["name"], **options)
    )


#: Audits of a configuration tree: files, path of the main file, options of the part, the spec.
TREES: dict[str, Callable[[MemoryFiles, str, Mapping, Mapping], dict]] = {
    "nginx": _nginx,
    "postgres": _postgres,
    "valkey": _valkey,
}


def judge(stack: Stack, parts: list[dict], policy: Mapping, image_ids: Mapping[str, str]) -> tuple[list[dict], dict]:
    """(results, model): a result with its subject for the project and each tree, and the model of what will run.

    Raises KeyError for a part that names an audit that there is not.
    """
    texts = {item["dest"]: item["content"] for item in stack.files}
    project = load(MemoryFiles(texts), stack.compose_files)
    results = [{"subject": PROJECT_SUBJECT, **audit_project(project, policy=policy_of(policy))}]
    for part in parts:
        audit = part.get("audit")
        if audit:
            spec = stack.specs[part["service"]["name"]]
            files = _tree(stack, spec)
            found = TREES[audit["kind"]](files, audit["path"], audit.get("options") or {}, spec)
            results.append({"subject": f"{spec['name']} configuration", **found})
    model = _expected_model.model_from_services(
        project.services,
        project.name,
        volumes=project.volumes,
        networks=project.networks,
        image_ids={
            name: image_ids[service["image"]]
            for name, service in project.services.items()
            if service.get("image") in image_ids
        },
    )
    return results, model
