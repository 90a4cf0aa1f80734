# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Audit of a Compose project: loads the files as Compose merges them and judges every service.

PRIVATE: internal to the collection, may change in any release. Needs PyYAML, so it runs on the controller.
"""

from __future__ import annotations

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
)
from ansible_collections.mcpstack.platform.plugins.module_utils._compose_view import networks, view, writers
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
    answer = Audit(TABLE)
    judge_problems(answer, project)
    names = [name for name in sorted(project.services) if active is None or name in active]
    if not names:
        for check in TABLE:
            if check not in ("CMP-29", "CMP-30"):
                answer.not_applicable(check, "no service is to be judged")
        return answer.result()
    reported = judge_variables(answer, project, env, names, credential_name)
    judge_secrets(answer, project, env, names, reported)
    nets = networks(project)
    shared = writers(project, names)
    for name in names:
        judge(answer, view(project, name, shared, nets, host_files), policy)
    used = {net for name in names for net in values.networks(project.services[name]) if net in nets}
    judge_networks(answer, [nets[net] for net in sorted(used)], policy)
    _judge_images(answer, project, names, allowed_registries)
    return answer.result()


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
            judge_image(answer, f"service {name}", place, image, bool(service.get("build")), allowed)
