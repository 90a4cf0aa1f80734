#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: preflight
short_description: Refuse a deployment that cannot work, naming every problem at once
version_added: 0.1.0
description:
  - Checks the options of the roles in use on the controller, and the host itself with one module call.
  - Changes nothing. Fails with one message that lists all problems, each with where, what and fix.
  - Findings of severity C(medium) and below are warnings. A check that cannot be decided is C(unknown), never a pass.
  - The catalogue of checks is in C(docs/preflight.md).
author:
  - mcpstack.platform maintainers (@mcpstack)
extends_documentation_fragment:
  - mcpstack.platform.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  environment:
    description: Decides which rules apply. V(production) is the strictest.
    type: str
    choices: [development, staging, production]
    default: development
  roles:
    description:
      - Roles of this collection that the play uses. Their options are checked.
      - The wanted ports and the demanded memory come from the service specs of these roles.
    type: list
    elements: str
    default: []
  known_variables:
    description: Variables called C(mcpstack_...) that are no options of a role but are meant to exist.
    type: list
    elements: str
    default: []
  late_variables:
    description:
      - Variables that come into being during the play. An option that refers to one, or is one, is left to the role's
        own validation.
    type: list
    elements: str
    default: []
  public_ports:
    description:
      - Ports that may be published to the outside in production.
      - Without them, the variable C(mcpstack_public_ports) counts, and without that 80 and 443.
    type: list
    elements: int
    default: []
  ports:
    description: Further ports that must be free or ours, besides those of the service specs.
    type: list
    elements: dict
    default: []
    suboptions:
      port:
        description: The TCP port.
        type: int
        required: true
      host_ip:
        description: The address it is bound to.
        type: str
        default: 0.0.0.0
  disk_demand_mb:
    description:
      - Free space needed for a first deployment, by path. What the platform has stored there already is taken off.
    type: dict
    default: {}
  memory_demand_mb:
    description: Memory needed. Without it, the sum of the memory limits of all services.
    type: int
  project:
    description: Name of the compose project whose containers are ours.
    type: str
    default: mcpstack
  controller_time:
    description: Time of the controller in seconds since 1970. Without it, the controller's clock is read.
    type: float
  clock_warning_s:
    description: Difference between the clocks that is worth a warning.
    type: float
    default: 5
  clock_limit_s:
    description: Difference between the clocks that stops the deployment.
    type: float
    default: 60
  socket:
    description: The engine's socket.
    type: path
    default: /var/run/docker.sock
  root:
    description: Directory below which the host's files are read; for tests.
    type: path
    default: /
  services:
    description: Name, memory limit and published ports of every service. Filled in from the service specs.
    type: list
    elements: dict
    default: []
  packages:
    description: Needed packages by release, and C(common). Filled in from the role docker.
    type: dict
    default: {}
  package_source:
    description: Where packages come from. Filled in from the role docker.
    type: str
    default: debian
  daemon:
    description: What daemon.json is going to be held to. Filled in from the role docker.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Check everything before anything is changed
  mcpstack.platform.preflight:
    environment: "{{ mcpstack_environment }}"
    roles: [docker, postgres, valkey, model_runner, gateway, edge]
    late_variables: [mcpstack_images_refs]
    disk_demand_mb:
      /var/lib/docker: 4096
      /var/lib/mcpstack: 1024
"""

RETURN = r"""
findings:
  description: Everything that was found, worst first.
  returned: always
  type: list
  elements: dict
  contains:
    id:
      description: The check.
      type: str
      sample: PRE-27
    title:
      description: What the check is about.
      type: str
    severity:
      description: C(critical) and C(high) stop the deployment.
      type: str
    subject:
      description: What it concerns.
      type: str
    where:
      description: The path of the variable, or the place on the host.
      type: str
    evidence:
      description: What is wrong.
      type: str
    fix:
      description: What to do.
      type: str
    references:
      description: Always empty.
      type: list
    waived:
      description: Always none; a preflight finding cannot be waived.
      type: dict
checks_run:
  description: State of every check that was decided, C(pass), C(fail), C(not_applicable) or C(unknown).
  returned: always
  type: dict
  sample: {"PRE-20": "pass"}
summary:
  description: Number of findings by severity.
  returned: always
  type: dict
  sample: {"critical": 0, "high": 1, "medium": 0, "low": 0, "info": 0}
ansible_facts:
  description: What the roles want to know of the host, under the names of Ansible's own facts.
  returned: always
  type: dict
  contains:
    distribution:
      description: The distribution, such as V(Debian).
      type: str
    distribution_release:
      description: Code name of the release, such as V(trixie).
      type: str
    kernel:
      description: Version of the running kernel.
      type: str
clock:
  description: When the module started and finished by the host's clock.
  returned: always
  type: dict
  contains:
    started:
      description: Seconds since 1970.
      type: float
    finished:
      description: Seconds since 1970.
      type: float
"""

import time

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mcpstack.platform.plugins.module_utils import _preflight as core
from ansible_collections.mcpstack.platform.plugins.module_utils._engine import Engine


def main():
    started = time.time()
    module = AnsibleModule(
        argument_spec={
            "environment": {"type": "str", "choices": list(core.ENVIRONMENTS), "default": "development"},
            "roles": {"type": "list", "elements": "str", "default": []},
            "known_variables": {"type": "list", "elements": "str", "default": []},
            "late_variables": {"type": "list", "elements": "str", "default": []},
            "public_ports": {"type": "list", "elements": "int", "default": []},
            "ports": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "port": {"type": "int", "required": True},
                    "host_ip": {"type": "str", "default": "0.0.0.0"},  # noqa: S104 - compared, not bound
                },
            },
            "disk_demand_mb": {"type": "dict", "default": {}},
            "memory_demand_mb": {"type": "int"},
            "project": {"type": "str", "default": "mcpstack"},
            "controller_time": {"type": "float"},
            "clock_warning_s": {"type": "float", "default": 5},
            "clock_limit_s": {"type": "float", "default": 60},
            "socket": {"type": "path", "default": "/var/run/docker.sock"},
            "root": {"type": "path", "default": "/"},
            "services": {"type": "list", "elements": "dict", "default": []},
            "packages": {"type": "dict", "default": {}},
            "package_source": {"type": "str", "default": "debian"},
            "daemon": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    params = module.params
    demands = core.HostDemands(
        services=params["services"],
        ports=params["ports"],
        disk_mb={path: int(demand) for path, demand in params["disk_demand_mb"].items()},
        memory_mb=params["memory_demand_mb"],
        project=params["project"],
        packages=params["packages"],
        source=params["package_source"],
        daemon=params["daemon"],
    )
    try:
        report = core.inspect_host(demands, Engine(params["socket"], timeout=10), params["root"])
    except OSError as exc:
        module.fail_json(msg=f"{exc.filename}: {exc.strerror}. Fix: run as root (become: true).")
    module.exit_json(
        changed=False,
        ansible_facts=core.facts(params["root"]),
        clock={"started": started, "finished": time.time()},
        **report.as_dict(),
    )


if __name__ == "__main__":
    main()
