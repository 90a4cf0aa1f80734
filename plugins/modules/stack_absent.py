#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Remove everything the platform owns in the Docker engine."""

from __future__ import annotations

DOCUMENTATION = r"""
module: stack_absent
short_description: Remove the platform's containers, networks, images and data volumes
version_added: 0.1.0
author:
  - mcpstack.platform maintainers (@mcpstack)
description:
  - Stops the containers of the platform, each with its own signal and grace, and removes them with their networks and images.
  - Finds them by label and name, so it works when the rendered files are gone or half written.
  - A host without an engine has nothing to remove.
extends_documentation_fragment:
  - mcpstack.platform.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  data:
    description:
      - Whether the data volumes are removed as well. What is in them is lost.
    type: bool
    required: true
"""

EXAMPLES = r"""
- name: Take the platform down, keep the data
  mcpstack.platform.stack_absent:
    data: false
"""

RETURN = r"""
removed:
  description: Names of what was, or in check mode would be, removed.
  returned: success
  type: dict
  sample:
    containers: [mcpstack-edge-1]
    networks: [mcpstack_edge]
    volumes: []
    images: ["mcpstack/nginx:0123456789ab"]
"""

import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mcpstack.platform.plugins.module_utils import _stack_project as core
from ansible_collections.mcpstack.platform.plugins.module_utils._engine import Engine, EngineError, EngineUnavailable


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec={"data": {"type": "bool", "required": True}}, supports_check_mode=True)
    engine = Engine()
    try:
        found = core.leftovers(engine, module.params["data"])
        if not module.check_mode:
            core.remove(engine, found)
    except EngineUnavailable as error:
        if os.path.exists("/usr/bin/dockerd"):
            module.fail_json(
                msg=f"The engine is installed but does not answer, so nothing can be removed: {error} Start it: systemctl start docker"
            )
        found = core.Leftovers([], [], [], [])
    except EngineError as error:
        module.fail_json(msg=f"The platform could not be removed completely: {error}")
    removed = {
        "containers": found.containers,
        "networks": found.networks,
        "volumes": found.volumes,
        "images": found.images,
    }
    before = "".join(f"{kind[:-1]} {name}\n" for kind, names in removed.items() for name in names)
    module.exit_json(changed=bool(found), removed=removed, diff={"before": before, "after": ""})


if __name__ == "__main__":
    main()
