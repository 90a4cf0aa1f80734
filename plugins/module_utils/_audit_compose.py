# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Audit of a Compose project: loads the files as Compose merges them and judges every service.

PRIVATE: internal to the collection, may change in any release. Needs PyYAML, so it runs on the controller.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from ansible_collections.mcpstack.platform.plugins.module_utils import (
    _checks_container,
    _checks_image,
    _checks_secret,
)
from ansible_collections.mcpstack.platform.plugins.module_utils import _compose_values as values
from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import Files
from ansible_collections.mcpstack.platform.plugins.module_utils._compose_images import judge_image
from ansible_collections.mcpstack.platform.plugins.module_utils._compose_load import Project, load
from ansible_collections.mcpstack.platform.plugins.module_utils._compose_secrets import judge_secrets
from ansible_collections.mcpstack.platform.plugins.module_utils._compose_variables import (
    judge_problems,
    judge_variables,
    unknown_values,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._compose_view import context, privileged_steps, view
from ansible_collections.mcpstack.platform.plugins.module_utils._container_model import Policy
from ansible_collections.mcpstack.platform.plugins.module_utils._container_ports import judge_networks
from ansible_collections.mcpstack.platform.plugins.module_utils._container_rules import judge
from ansible_collections.mcpstack.platform.plugins.module_utils._secret_names import credential_name

#: Checks of other tables that a compose file decides.
SECRETS = ("SEC-01", "SEC-02", "SEC-03", "SEC-04", "SEC-05", "SEC-06", "SEC-10", "SEC-11")
IMAGES = ("IMG-01", "IMG-02", "IMG-03")
TABLE = {
    **_checks_container.TABLE,
    **{name: _checks_secret.TABLE[name] for name in SECRETS},
    **{name: _checks_image.TABLE[name] for name in IMAGES},
}
NO_POLICY = Policy()
#: Most services, variables, ports and mounts of a project that are judged.
MOST_ENTRIES = 6000
#: Checks that cannot be decided for a service while a value in this part of it is not known.
PARTS = {
    "cap_add": ("CMP-03", "CMP-04"),
    "cap_drop": ("CMP-02",),
    "command": ("NET-06", "SEC-11"),
    "deploy": ("CMP-10", "CMP-11", "CMP-12", "CMP-14", "CMP-24"),
    "devices": ("CMP-24",),
    "entrypoint": ("NET-06", "SEC-11"),
    "environment": ("NET-06", "SEC-01", "SEC-02", "SEC-04", "SEC-05", "SEC-06"),
    "healthcheck": ("CMP-15", "CMP-16"),
    "image": ("IMG-01", "IMG-02", "IMG-03"),
    "ipc": ("CMP-18", "CMP-20"),
    "logging": ("CMP-28",),
    "mem_limit": ("CMP-10",),
    "network_mode": ("CMP-17", "CMP-20", "NET-04"),
    "networks": ("NET-05",),
    "pid": ("CMP-18", "CMP-20"),
    "pids_limit": ("CMP-12",),
    "ports": ("NET-01", "NET-02", "NET-03", "NET-06", "NET-07"),
    "privileged": ("CMP-01",),
    "read_only": ("CMP-08",),
    "restart": ("CMP-14",),
    "security_opt": ("CMP-05", "CMP-25", "CMP-26"),
    "tmpfs": ("CMP-09",),
    "user": ("CMP-06", "CMP-07"),
    "volumes": ("CMP-21", "CMP-22", "CMP-23", "CMP-27"),
}


class _Guarded(Audit):
    """An audit that does not judge a line on which a value is missing: what stands there is unknown.

    missing: names of the variables without a value, by place.
    """

    def __init__(self, table: Mapping, missing: Mapping[str, str]):
        super().__init__(table)
        self.missing = missing

    def find(self, check_id: str, subject: str, where: str, evidence: str, **options) -> None:
        """Add a finding, or say that it cannot be known."""
        if where in self.missing and check_id != "CMP-30":
            self.unknown(check_id, f"{where}: {self.missing[where]} has no value here")
        else:
            super().find(check_id, subject, where, evidence, **options)


def audit(
    files: Files,
    paths: Sequence[str],
    *,
    env: Mapping[str, str] = MappingProxyType({}),
    env_files: Sequence[str] | None = None,
    profiles: Iterable[str] | None = None,
    project_directory: str | None = None,
    policy: Policy = NO_POLICY,
    allowed_registries: Sequence[str] = (),
    host_files: Files | None = None,
) -> dict:
    """Judge one project: ``findings``, ``checks_run`` and ``summary``.

    paths: absolute, in the order in which Compose is given them. env, env_files, profiles, project_directory: as of
    ``_compose_load.load``. host_files: files of the host on which the project runs; without them nothing is said about
    what is bound from it.
    """
    chosen = None if profiles is None else tuple(profiles)
    # a shell sets PWD for Compose; every other variable is the caller's to give
    env = {"PWD": project_directory or posixpath.dirname(paths[0]) or "/", **env} if paths else env
    project = load(
        files, list(paths), env=env, env_files=None if env_files is None else list(env_files), profiles=chosen,
        project_directory=project_directory,
    )  # fmt: skip
    return audit_project(
        project,
        env=env,
        active=project.active(chosen) if chosen is not None else None,
        policy=policy,
        allowed_registries=allowed_registries,
        host_files=host_files,
    )


def audit_project(
    project: Project,
    *,
    env: Mapping[str, str] = MappingProxyType({}),
    active: set[str] | None = None,
    policy: Policy = NO_POLICY,
    allowed_registries: Sequence[str] = (),
    host_files: Files | None = None,
) -> dict:
    """The same for a project that is loaded already. active: the only services to judge; None: all."""
    missing = unknown_values(project)
    answer = _Guarded(TABLE, {where: name for where, (name, _service, _part) in missing.items()})
    judge_problems(answer, project)
    names = [name for name in sorted(project.services) if active is None or name in active]
    if not names:
        for check in TABLE:
            if check not in ("CMP-29", "CMP-30"):
                answer.not_applicable(check, "no service is to be judged")
        return answer.result()
    entries = size_of(project, names)
    if entries > MOST_ENTRIES:
        text = (
            f"the project has {entries} services, variables, ports and mounts: more than {MOST_ENTRIES} are not judged"
        )
        answer.find("CMP-29", f"project {project.name}", project.where(names[0]), text, fix="Divide the project.")
        for check in TABLE:
            answer.unknown(check, text)
        return answer.result()
    reported = judge_variables(answer, project, env, names, credential_name)
    judge_secrets(answer, project, env, names, reported)
    shared = context(project, names, host_files)
    for name in names:
        judge(answer, view(shared, name), policy)
        for what, keypath in privileged_steps(project.services[name]):
            answer.find("CMP-01", f"service {name}", project.where(name, *keypath), what)
    used = {net for name in names for net in values.networks(project.services[name]) if net in shared.networks}
    judge_networks(answer, [shared.networks[net] for net in sorted(used)], policy)
    _judge_images(answer, project, names, allowed_registries)
    for where, (name, service, part) in sorted(missing.items()):
        for check in PARTS.get(part, ()) if service in names else ():
            if check == "IMG-03" and not allowed_registries:
                continue
            answer.unknown(check, f"{where}: {name} has no value here")
    return answer.result()


def size_of(project: Project, names: Sequence[str]) -> int:
    """How much there is to be judged."""
    parts = ("environment", "volumes", "tmpfs", "networks", "cap_add", "security_opt", "devices", "secrets", "ulimits")
    entries = len(names) + len(project.variables) + len(project.networks) + len(project.secrets)
    for name in names:
        service = project.services[name]
        entries += len(project.env_file_entries(name))
        targets = sorted(port.target for port in values.ports(service))
        # a range is many ports and one entry
        entries += sum(second != first + 1 for first, second in zip([-1, *targets], targets))
        entries += sum(len(service[part]) for part in parts if isinstance(service.get(part), (list, dict)))
    return entries


def _judge_images(answer: Audit, project: Project, names: Sequence[str], allowed: Sequence[str]) -> None:
    answer.decide("IMG-01", "IMG-02")
    if allowed:
        answer.decide("IMG-03")
    else:
        answer.not_applicable("IMG-03", "no list of allowed registries is given")
    for name in names:
        service = project.services[name]
        image = service.get("image")
        if isinstance(image, str) and image:
            place = project.where(name, "image")
            pulled = service.get("pull_policy") != "never"
            judge_image(answer, f"service {name}", place, image, bool(service.get("build")), allowed, pulled)
