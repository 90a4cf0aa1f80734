#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""MCP servers of the registry."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mcp_servers
short_description: Bring the MCP servers of the platform's registry to what is declared
version_added: 0.1.0
author:
  - mcpstack.platform maintainers (@mcpstack)
description:
  - Registers, changes and removes servers over the REST API of the registry, through the edge, with an API key that has the
    scope C(tools:admin).
  - Servers that are not listed are left alone. The registry fetches the tools of a new server by itself, soon afterwards.
extends_documentation_fragment:
  - mcpstack.platform.attributes
attributes:
  check_mode:
    support: full
    details: Where the registry cannot be asked yet, a change is predicted.
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  servers:
    description: The servers.
    type: list
    elements: dict
    required: true
    suboptions:
      id:
        description: Name of the server in the registry.
        type: str
        required: true
      url:
        description: Where it speaks MCP over streamable HTTP.
        type: str
      description:
        description: What it is for.
        type: str
        default: ""
      key_file:
        description: File on the host with what it is reached with. Only whether there is one matters here.
        type: path
      trust:
        description: Whether its new tools may be used without approval.
        type: str
        choices: [trusted, untrusted]
        default: untrusted
      enabled:
        description: Whether its tools are offered and synced.
        type: bool
        default: true
      timeout:
        description: Seconds that a call may take.
        type: int
        default: 30
      sync_interval:
        description: Seconds between two looks at its tools.
        type: int
        default: 900
      state:
        description: With V(absent) the server and its tools are removed.
        type: str
        choices: [present, absent]
        default: present
  url:
    description: Base URL of the REST API, for example C(https://ai.example.org/registry).
    type: str
    required: true
  connect_to:
    description: Where to connect instead of the URL's host and port, as C(host:port).
    type: str
  ca_file:
    description: CA certificates to verify with. Without it the system's are used.
    type: path
  api_key_file:
    description: File with the API key. The key appears in no result.
    type: path
    required: true
"""

EXAMPLES = r"""
- name: Offer the tools of one server outside
  mcpstack.platform.mcp_servers:
    url: https://ai.example.org/registry
    api_key_file: /run/mcpstack/secrets/operator/operator-api-key/current
    servers:
      - id: docs
        url: https://mcp.example.org/mcp
        trust: untrusted
"""

RETURN = r"""
actions:
  description: What was done, or in check mode would be.
  returned: success
  type: list
  elements: str
  sample: [register docs]
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mcpstack.platform.plugins.module_utils import _mcp_servers as core


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "servers": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "id": {"type": "str", "required": True},
                    "url": {"type": "str"},
                    "description": {"type": "str", "default": ""},
                    "key_file": {"type": "path", "no_log": False},
                    "trust": {"type": "str", "choices": ["trusted", "untrusted"], "default": "untrusted"},
                    "enabled": {"type": "bool", "default": True},
                    "timeout": {"type": "int", "default": 30},
                    "sync_interval": {"type": "int", "default": 900},
                    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
                },
            },
            "url": {"type": "str", "required": True},
            "connect_to": {"type": "str"},
            "ca_file": {"type": "path"},
            "api_key_file": {"type": "path", "required": True, "no_log": False},
        },
        supports_check_mode=True,
    )
    try:
        result = core.reconcile(check=module.check_mode, **module.params)
    except core.NotYet as error:
        if module.check_mode:
            module.exit_json(changed=True, actions=[])
        module.fail_json(msg=str(error))
    except core.ServersError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
