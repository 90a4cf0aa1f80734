#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Report the state of the platform's services."""

from __future__ import annotations

DOCUMENTATION = r"""
module: stack_info
short_description: State, health and last words of the platform's services
version_added: 0.1.0
author:
  - mcpstack.platform maintainers (@mcpstack)
description:
  - Asks the Docker engine for the containers of the platform and says how each service is.
  - Never changes anything. An engine that does not answer is a failure, not an empty list.
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
  services:
    description: The services that should be there.
    type: list
    elements: str
    required: true
  log_lines:
    description: How many of the last log lines to return for each service that is not healthy.
    type: int
    default: 0
  require_healthy:
    description: Fail, naming every problem, unless all services run and are healthy.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Make sure that the data layer is up
  mcpstack.platform.stack_info:
    services: [postgres, valkey]
    require_healthy: true
"""

RETURN = r"""
containers:
  description: One entry for each service, and for every other container of the project.
  returned: success
  type: list
  elements: dict
  sample:
    - service: postgres
      state: running
      health: healthy
      image: mcpstack/postgres:0123456789ab
      container: mcpstack-postgres-1
      restarts: 0
      exit_code: 0
      oom_killed: false
      ports: []
      last_check: ""
      log: []
problems:
  description: One sentence for each service that is not as it should be.
  returned: always
  type: list
  elements: str
  sample: []
report:
  description: The same as a table for people.
  returned: success
  type: str
  sample: "SERVICE   STATE    HEALTH   RESTARTS  IMAGE  PORTS"
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mcpstack.platform.plugins.module_utils import _stack_project as core
from ansible_collections.mcpstack.platform.plugins.module_utils._engine import Engine, EngineError


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "services": {"type": "list", "elements": "str", "required": True},
            "log_lines": {"type": "int", "default": 0},
            "require_healthy": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    services = module.params["services"]
    try:
        containers = core.status(Engine(), services, module.params["log_lines"])
    except EngineError as error:
        module.fail_json(msg=f"Cannot say how the services are: {error}", problems=[str(error)])
    found = core.problems(containers, services)
    if found and module.params["require_healthy"]:
        module.fail_json(
            msg="The platform is not well.\n" + "\n".join(found) + "\n" + core.report(containers), problems=found
        )
    module.exit_json(
        changed=False, containers=core.as_dicts(containers), problems=found, report=core.report(containers)
    )


if __name__ == "__main__":
    main()
