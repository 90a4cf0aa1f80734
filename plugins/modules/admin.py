#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run one command of mcpstack-admin."""

from __future__ import annotations

DOCUMENTATION = r"""
module: admin
short_description: Run one command of mcpstack-admin, such as migrate or keys list
version_added: 0.1.0
author:
  - mcpstack.platform maintainers (@mcpstack)
description:
  - Starts the service C(admin) of the rendered project for one command, reads its answer, and leaves nothing running. It is
    the only one that holds the login of the database's owner.
  - The command is not interpreted by a shell. Secrets have no place in it; keys that lie on the host are handed over by
    M(mcpstack.platform.api_key).
extends_documentation_fragment:
  - mcpstack.platform.attributes
attributes:
  check_mode:
    support: partial
    details:
      - With O(predict=true) the command is run with C(--check) and says what it would change. Without it nothing is run.
      - Where the project, the engine or the database is not there yet, a change is predicted.
  diff_mode:
    support: none
  idempotent:
    support: partial
    details: As far as the command itself is; what it answers as C(changed) is the result.
options:
  command:
    description: The command with its arguments.
    type: list
    elements: str
    required: true
  predict:
    description: Whether the command knows C(--check), as the ones that change something do.
    type: bool
    default: false
  timeout:
    description: Seconds after which it is stopped.
    type: int
    default: 600
"""

EXAMPLES = r"""
- name: Bring the schemas up to date
  mcpstack.platform.admin:
    command: [migrate]
    predict: true

- name: See which API keys there are
  mcpstack.platform.admin:
    command: [keys, list]
  register: __keys
"""

RETURN = r"""
answer:
  description: What it answered. Empty in check mode where nothing could be asked, and where it gave no answer.
  returned: always
  type: dict
  sample: {"changed": true, "migrations": ["gateway/0001_api_keys"]}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mcpstack.platform.plugins.module_utils import _admin_run as core


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "command": {"type": "list", "elements": "str", "required": True},
            "predict": {"type": "bool", "default": False},
            "timeout": {"type": "int", "default": 600},
        },
        supports_check_mode=True,
    )
    command, predict = module.params["command"], module.params["predict"]
    if not command:
        module.fail_json(msg="command: is empty. Fix: name the command, such as [keys, list].")
    if module.check_mode:
        if not predict:
            module.exit_json(skipped=True, changed=False, answer={}, msg="In check mode this command is not run.")
        command = [*command, "--check"]
    try:
        answer = core.run(command, timeout=module.params["timeout"])
    except core.NotYet as error:
        if module.check_mode:
            module.exit_json(changed=True, answer={})
        module.fail_json(msg=str(error))
    except core.AdminError as error:
        module.fail_json(msg=str(error), answer=error.answer)
    module.exit_json(changed=answer.get("changed") is True, answer=answer)


if __name__ == "__main__":
    main()
