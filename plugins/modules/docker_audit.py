#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: docker_audit
author:
  - mcpstack.platform maintainers (@mcpstack)
version_added: 0.1.0
short_description: Judge the Docker engine, the host it runs on and every running container
description:
  - Asks the engine's API once and reads C(/proc) once, in one process. No C(docker) command is run and nothing is run
    inside a container.
  - Running containers are judged by the same rules as M(mcpstack.platform.compose_audit) judges compose files (C(CMP),
    C(NET)), with what only a running host tells, such as the users of the processes, default confinement that the engine
    adds, published addresses and the state of networks.
  - C(RUN) holds containers against what was meant to run. That is the model of O(expected), the image of the lock, the
    confinement that the kernel enforces on each process, listeners in each network namespace, changed files, health,
    exec sessions and what is left behind.
  - C(SEC-11) and C(SEC-12) find credentials on command lines and in the environment. No value is ever returned.
  - C(DMN) and C(HST) judge the engine's configuration, its files, sockets and units, and the host's kernel settings.
  - What cannot be decided is C(unknown) with the reason, never a pass. When the engine does not answer, every check that
    needs it is unknown and the host is judged all the same.
  - Needs root, because the kernel tells others little about processes.
extends_documentation_fragment:
  - mcpstack.platform.attributes
  - mcpstack.platform.audit
  - mcpstack.platform.container_policy
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  docker_host:
    description: Unix socket of the engine, as a path or with C(unix://).
    type: str
    default: unix:///var/run/docker.sock
  subjects:
    description: What is judged. V(engine) is C(DMN), V(host) is C(HST), V(containers) everything else.
    type: list
    elements: str
    choices: [engine, host, containers]
    default: [engine, host, containers]
  projects:
    description: Compose projects whose containers are judged. Without it every container of the host is.
    type: list
    elements: str
    default: []
  expected:
    description:
      - Files on the host, each with the model of one project as JSON. Without one C(RUN-01) is unknown.
      - >-
        A model is C({"project": name, "services": {name: service}}). Every key of a service may be missing, and is then not
        compared.
      - Texts are C(image), C(image_id) (C(sha256:...)), C(user), C(pid), C(ipc), C(uts), C(userns_mode), C(network_mode)
        and C(config_hash) (of the label C(com.docker.compose.config-hash)); C(privileged) and C(read_only) are true or
        false.
      - Lists of texts are C(cap_add) and C(cap_drop) (without C(CAP_)), C(security_opt) (C(name:value)), C(devices)
        (C(host:container:permissions)), C(mounts) (C(bind:SOURCE:TARGET:ro), C(volume:NAME:TARGET:rw),
        C(tmpfs:TARGET:OPTIONS)), C(ports) (C(ADDRESS:PORT:TARGET/tcp)), C(expose) (C(8000/tcp)), C(environment_keys),
        C(environment_optional) and C(networks) (as the engine names them).
      - C(limits) holds numbers, C(memory) and C(memswap) in bytes, C(cpus) and C(pids), 0 for none.
    type: list
    elements: path
    default: []
  container_ports:
    description:
      - Ports on which containers listen in their own network, beside those that the image exposes, the container
        publishes and the model names. By name of the service, of the container, or C(project/service).
    type: dict
    default: {}
  docker_group_members:
    description: Who may be in the group C(docker), which is as good as root.
    type: list
    elements: str
    default: []
  stack_roots:
    description: Directories of the stack that must belong to root. Without it those of this collection.
    type: list
    elements: path
  secret_roots:
    description: Directories of secrets. Without it those of this collection.
    type: list
    elements: path
  service_uids:
    description: Users that may own data of the stack and secrets. Without it those of this collection.
    type: list
    elements: int
  swarm:
    description: Whether the host is meant to be in a Swarm.
    type: bool
    default: false
  sysctls:
    description: Accepted values of kernel settings by name, each a list; an empty list passes a setting over.
    type: dict
    default: {}
  updates:
    description: Whether to look for pending security updates in the package index that the host has.
    type: bool
    default: true
seealso:
  - module: mcpstack.platform.compose_audit
  - module: mcpstack.platform.audit_report
"""

EXAMPLES = r"""
- name: What is weak on this host
  mcpstack.platform.docker_audit:
  register: audit

- name: Stop when what runs is not what was deployed, or is not safe
  mcpstack.platform.docker_audit:
    projects: [shop]
    expected: [/etc/shop/model.json]
    edge_services: [proxy]
    declared_ports: [{port: 80}, {port: 443}]
    internal_networks: [data]
    container_ports:
      worker: ["9000"]
    docker_group_members: [deploy]
    fail_at: high

- name: Only the engine, which listens elsewhere
  mcpstack.platform.docker_audit:
    docker_host: unix:///run/user/1000/docker.sock
    subjects: [engine]
"""

RETURN = r"""
findings:
  description: Every weakness, worst first.
  returned: always
  type: list
  elements: dict
  sample:
    - id: RUN-03
      title: Kernel does not enforce what the container's configuration says
      severity: high
      subject: shop-api-1
      where: "container shop-api-1: process python3"
      evidence: "NoNewPrivs 0"
      fix: Stop the process, find out how it got in, make the container anew and keep the engine and runc current.
      references: []
      waived:
checks_run:
  description: Every check with its status, and why when it could not be decided.
  returned: always
  type: list
  elements: dict
  sample:
    - {id: RUN-01, title: Running container differs from what was rendered, severity: high, status: unknown,
       reason: no expected model was given}
summary:
  description: Numbers of open findings by severity, of waived ones, and of checks by status.
  returned: always
  type: dict
  sample: {critical: 0, high: 1, medium: 0, low: 0, info: 0, open: 1, waived: 0, highest: high, checks_pass: 60,
           checks_fail: 1, checks_not_applicable: 2, checks_unknown: 1}
containers:
  description: Names of the containers that were judged.
  returned: always
  type: list
  elements: str
  sample: [shop-api-1, shop-db-1]
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mcpstack.platform.plugins.module_utils import _audit_docker as core
from ansible_collections.mcpstack.platform.plugins.module_utils import _container_policy
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_result import ARGUMENTS, finish


def _names(**extra) -> dict:
    return {"type": "list", "elements": "str", **extra}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "docker_host": {"type": "str", "default": "unix:///var/run/docker.sock"},
            "subjects": _names(choices=list(core.SUBJECTS), default=list(core.SUBJECTS)),
            "projects": _names(default=[]),
            "expected": {"type": "list", "elements": "path", "default": []},
            "container_ports": {"type": "dict", "default": {}},
            "docker_group_members": _names(default=[]),
            "stack_roots": {"type": "list", "elements": "path"},
            "secret_roots": {"type": "list", "elements": "path", "no_log": False},
            "service_uids": {"type": "list", "elements": "int"},
            "swarm": {"type": "bool", "default": False},
            "sysctls": {"type": "dict", "default": {}},
            "updates": {"type": "bool", "default": True},
            **_container_policy.ARGUMENTS,
            **ARGUMENTS,
        },
        supports_check_mode=True,
    )
    try:
        result = core.audit_docker(module.params)
    except core.OptionError as error:
        module.fail_json(msg=str(error))
    finish(module, result, containers=result["containers"])


if __name__ == "__main__":
    main()
