#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: stack_pending
author:
  - mcpstack.platform maintainers (@mcpstack)
version_added: 0.1.0
short_description: Say which services Compose has to be asked about
description:
  - Compose takes seconds to find out that nothing has to be done. This module finds out in a fraction of that, from the
    record of what was last applied and from the engine.
  - A service is pending unless its compose file is the one that was last applied, its container is the one that was
    there then, runs, is healthy, and has the image that its reference names now. So is everything when a container,
    network or volume of the project is missing or nobody's. In doubt a service is pending.
  - With O(state=recorded) networks of the project that no container is on are removed, and the present containers are
    recorded as applied.
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
  state:
    description: Whether to ask, or to record after Compose has brought everything up.
    type: str
    choices: [asked, recorded]
    default: asked
  digests:
    description: What M(mcpstack.platform.stack_render) returned, for all services of the host.
    type: dict
    required: true
  record:
    description: Where the record is kept.
    type: path
    default: /var/lib/mcpstack/state/applied.json
"""

EXAMPLES = r"""
- name: See what Compose has to be asked about
  mcpstack.platform.stack_pending:
    digests: "{{ __stack_rendered.digests }}"
  register: __stack
"""

RETURN = r"""
pending:
  description: Services that Compose has to be asked about, with the reason.
  returned: success
  type: dict
  sample: {edge: its compose file differs from what was applied}
removed:
  description: With O(state=recorded), networks that were, or in check mode would be, removed.
  returned: when recorded
  type: list
  elements: str
  sample: [mcpstack_egress]
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mcpstack.platform.plugins.module_utils import _stack_applied as core
from ansible_collections.mcpstack.platform.plugins.module_utils._engine import Engine, EngineError, EngineUnavailable


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["asked", "recorded"], "default": "asked"},
            "digests": {"type": "dict", "required": True},
            "record": {"type": "path", "default": "/var/lib/mcpstack/state/applied.json"},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        if params["state"] == "recorded":
            engine = Engine()
            removed = core.drop_unused(engine, module.check_mode)
            changed = core.write(params["record"], core.present(engine, params["digests"]), module.check_mode)
            module.exit_json(changed=changed or bool(removed), pending={}, removed=removed)
        module.exit_json(changed=False, pending=core.pending(Engine(), params["digests"], core.read(params["record"])))
    except EngineUnavailable as error:
        if not module.check_mode:
            module.fail_json(msg=f"Cannot say what has to be applied: {error}")
        module.exit_json(changed=False, pending=dict.fromkeys(params["digests"], "there is no engine yet"))
    except EngineError as error:
        module.fail_json(msg=f"Cannot say what has to be applied: {error}")
    except OSError as error:
        module.fail_json(
            msg=f"{error.filename}: {error.strerror}. Fix: run as root (become: true), with room on the disk."
        )


if __name__ == "__main__":
    main()
