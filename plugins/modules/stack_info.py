#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Report the state of the platform's services and where the host listens."""

from __future__ import annotations

DOCUMENTATION = r"""
module: stack_info
short_description: State and health of the platform's services, and where the host listens
version_added: 0.1.0
author:
  - mcpstack.platform maintainers (@mcpstack)
description:
  - Asks the Docker engine for the containers of the platform and says how each service is.
  - With O(declared) it also reads the kernel's tables of listening TCP and UDP sockets of the host, finds the process of
    each, and asks the engine which ports containers publish, because a forwarded port needs no socket. Loopback is not
    looked at. Everything of the platform that listens elsewhere must be declared, and everything declared must listen.
    The engine must not serve its own API to the network.
  - Programs that are not the platform's are reported with owner C(foreign) and are a problem only on a port that the
    platform declares. A listener whose process cannot be found is a problem, because it may be the platform's.
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
  declared:
    description: Where the platform is meant to listen. Without it listeners are not looked at.
    type: list
    elements: dict
    suboptions:
      port:
        description: Port on the host.
        type: int
        required: true
      protocol:
        description: Protocol.
        type: str
        choices: [tcp, udp]
        default: tcp
      address:
        description: The only address that is meant. Without it every address of the host is.
        type: str
  log_lines:
    description: How many of the last log lines to return for each service that is not healthy.
    type: int
    default: 0
  strict:
    description: Fail, naming every problem, unless all services are healthy and the host listens as declared.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Make sure that the data layer is up
  mcpstack.platform.stack_info:
    services: [postgres, valkey]
    strict: true

- name: Make sure that everything is up, and that only the edge listens
  mcpstack.platform.stack_info:
    services: [postgres, valkey, model-runner, gateway, edge]
    declared:
      - port: 80
      - port: 443
    strict: true
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
listeners:
  description: With O(declared), every listening socket that is not on loopback.
  returned: success
  type: list
  elements: dict
  sample:
    - protocol: tcp
      address: 0.0.0.0
      port: 443
      pid: 812
      process: dockerd
      uid: 0
      container_id:
      kernel: false
      container: mcpstack-edge-1
      owner: stack
      declared: true
problems:
  description: One sentence for each service that is not as it should be, and for each place that does not listen as declared.
  returned: always
  type: list
  elements: str
  sample:
    - >-
      0.0.0.0:5432/tcp: mcpstack-postgres-1 of the platform listens beyond loopback and was not declared. Fix: remove the
      publish from the service, bind it to 127.0.0.1, or declare the port.
report:
  description: The services as a table for people.
  returned: success
  type: str
  sample: "SERVICE   STATE    HEALTH   RESTARTS  IMAGE  PORTS"
"""

import ipaddress

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mcpstack.platform.plugins.module_utils import _listeners
from ansible_collections.mcpstack.platform.plugins.module_utils import _stack_project as core
from ansible_collections.mcpstack.platform.plugins.module_utils._engine import Engine, EngineError


def listening(module: AnsibleModule, engine: Engine) -> tuple[list[dict], list[str]]:
    """(listeners, problems) against what was declared."""
    declared = module.params["declared"]
    for index, entry in enumerate(declared):
        try:
            ipaddress.ip_address(entry["address"] or "::")
        except ValueError:
            module.fail_json(msg=f"declared[{index}].address: {entry['address']!r} is not an IP address.", problems=[])
    try:
        found = _listeners.sockets()
    except _listeners.ListenersError as error:
        module.fail_json(msg=str(error), problems=[str(error)])
    listeners, problems = _listeners.check(found, engine.get("/containers/json"), declared, core.PROJECT)
    return listeners, _listeners.describe(problems).splitlines()


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "services": {"type": "list", "elements": "str", "required": True},
            "declared": {
                "type": "list",
                "elements": "dict",
                "options": {
                    "port": {"type": "int", "required": True},
                    "protocol": {"type": "str", "choices": ["tcp", "udp"], "default": "tcp"},
                    "address": {"type": "str"},
                },
            },
            "log_lines": {"type": "int", "default": 0},
            "strict": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    services = module.params["services"]
    listeners: list[dict] = []
    try:
        engine = Engine()
        containers = core.status(engine, services, module.params["log_lines"])
        found = core.problems(containers, services)
        if module.params["declared"] is not None:
            listeners, more = listening(module, engine)
            found += more
    except EngineError as error:
        module.fail_json(msg=f"Cannot say how the services are: {error}", problems=[str(error)])
    if found and module.params["strict"]:
        module.fail_json(
            msg="The platform is not well.\n" + "\n".join(found) + "\n" + core.report(containers), problems=found
        )
    module.exit_json(
        changed=False,
        containers=core.as_dicts(containers),
        listeners=listeners,
        problems=found,
        report=core.report(containers),
    )


if __name__ == "__main__":
    main()
