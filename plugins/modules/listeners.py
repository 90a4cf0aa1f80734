#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: listeners
author:
  - mcpstack.platform maintainers (@mcpstack)
version_added: 0.1.0
short_description: Check that the platform listens where it declared, and nowhere else
description:
  - Reads the kernel's tables of listening TCP and UDP sockets of the host, finds the process of each, and asks the
    Docker engine which ports containers publish, because a forwarded port needs no socket.
  - Loopback is not looked at. Everything of the platform that listens elsewhere must be declared, and everything
    declared must listen. The engine must not serve its own API to the network.
  - Programs that are not the platform's are reported with owner C(foreign) and are no reason to fail, except on a port
    that the platform declares. A listener whose process cannot be found fails, because it may be the platform's.
  - In check mode the problems are returned, but the module does not fail, because a deploy that has not happened
    cannot listen.
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
  declared:
    description: Where the platform is meant to listen.
    type: list
    elements: dict
    required: true
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
  project:
    description: Compose project of the platform.
    type: str
    default: mcpstack
"""

EXAMPLES = r"""
- name: Make sure that only the edge listens
  mcpstack.platform.listeners:
    declared:
      - port: 80
      - port: 443
"""

RETURN = r"""
listeners:
  description: Every listening socket that is not on loopback.
  returned: always
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
  description: Everything that is not as declared.
  returned: always
  type: list
  elements: dict
  sample:
    - where: 0.0.0.0:5432/tcp
      what: mcpstack-postgres-1 of the platform listens beyond loopback and was not declared
      fix: remove the publish from the service, bind it to 127.0.0.1, or declare the port
"""

import ipaddress

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mcpstack.platform.plugins.module_utils import _listeners as core
from ansible_collections.mcpstack.platform.plugins.module_utils._engine import Engine, EngineError


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "declared": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "port": {"type": "int", "required": True},
                    "protocol": {"type": "str", "choices": ["tcp", "udp"], "default": "tcp"},
                    "address": {"type": "str"},
                },
            },
            "project": {"type": "str", "default": "mcpstack"},
        },
        supports_check_mode=True,
    )
    declared = module.params["declared"]
    for index, entry in enumerate(declared):
        try:
            ipaddress.ip_address(entry["address"] or "::")
        except ValueError:
            module.fail_json(
                msg=f"declared[{index}].address: {entry['address']!r} is not an IP address.", listeners=[], problems=[]
            )
    try:
        containers = Engine().get("/containers/json")
    except EngineError as error:
        if not module.check_mode:
            module.fail_json(msg=f"Cannot say what containers publish: {error}", listeners=[], problems=[])
        containers = None
    try:
        found = core.sockets()
    except core.ListenersError as error:
        module.fail_json(msg=str(error), listeners=[], problems=[])
    listeners, problems = core.check(found, containers, declared, module.params["project"])
    if problems and not module.check_mode:
        module.fail_json(
            msg="The platform does not listen as declared:\n" + core.describe(problems),
            listeners=listeners,
            problems=problems,
        )
    module.exit_json(changed=False, listeners=listeners, problems=problems)


if __name__ == "__main__":
    main()
