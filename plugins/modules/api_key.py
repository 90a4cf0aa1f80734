#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""See that the platform knows an API key."""

from __future__ import annotations

DOCUMENTATION = r"""
module: api_key
short_description: See that the platform knows an API key that lies on the host
version_added: 0.1.0
author:
  - mcpstack.platform maintainers (@mcpstack)
description:
  - Hands a key from a file on the host to C(mcpstack-admin), which stores a keyed hash of it in Postgres.
  - The key goes through standard input. It is in no parameter, argument, environment, result or message.
extends_documentation_fragment:
  - mcpstack.platform.attributes
attributes:
  check_mode:
    support: full
    details:
      - Where the key, the engine, the rendered project or the database is not there yet, a change is predicted.
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  name:
    description: Whose key it is.
    type: str
    required: true
  scopes:
    description: What the key is good for.
    type: list
    elements: str
    required: true
  rpm:
    description: Requests a minute. Without it, the gateway's default.
    type: int
  key_file:
    description: The file on the host that holds the key.
    type: path
    default: /run/mcpstack/secrets/operator/operator-api-key/current
"""

EXAMPLES = r"""
- name: Have a first key
  mcpstack.platform.api_key:
    name: operator
    scopes: [models, chat, embeddings]
"""

RETURN = r"""
kid:
  description: The public part of the key. Not returned in check mode when the database is not there yet.
  returned: when mcpstack-admin answered
  type: str
  sample: a2b3c4d5e6f7
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mcpstack.platform.plugins.module_utils import _api_key as core


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "scopes": {"type": "list", "elements": "str", "required": True},
            "rpm": {"type": "int"},
            "key_file": {
                "type": "path",
                "default": "/run/mcpstack/secrets/operator/operator-api-key/current",
                "no_log": False,
            },
        },
        supports_check_mode=True,
    )
    try:
        result = core.put(check=module.check_mode, **module.params)
    except core.NotYet as error:
        if module.check_mode:
            module.exit_json(changed=True)
        module.fail_json(msg=str(error))
    except core.AdminError as error:
        module.fail_json(msg=str(error))
    for warning in result.pop("warnings"):
        module.warn(warning)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
