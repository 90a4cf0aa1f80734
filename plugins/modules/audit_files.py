#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module mcpstack.platform.audit_files."""

from __future__ import annotations

DOCUMENTATION = r"""
module: audit_files
author:
  - mcpstack.platform maintainers (@mcpstack)
version_added: 0.1.0
short_description: Hand files of a host to an audit that runs on the controller
description:
  - Internal. The audits that need a parser which is not in Python's standard library read the files of a host through it.
  - Reads only. What is handed over is limited in size and number; what was refused says why.
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
  paths:
    description: Absolute paths or globs of files whose content is wanted.
    type: list
    elements: str
    default: []
  stats:
    description: Absolute paths of which only kind, owner and mode are wanted.
    type: list
    elements: str
    default: []
  roots:
    description: Directories that are wanted whole.
    type: list
    elements: str
    default: []
seealso:
  - module: mcpstack.platform.compose_audit
"""

EXAMPLES = r"""
- name: Read the compose files of a project
  mcpstack.platform.audit_files:
    paths: [/srv/project/compose.yml, "/srv/project/*.env"]
    stats: [/srv/project/data]
  no_log: true
"""

RETURN = r"""
files:
  description:
    - What is there, by path. C(content) is base64 and only there for regular files that were asked for with content;
      C(refused) says why it is missing.
  returned: always
  type: dict
  sample:
    /srv/project/compose.yml: {kind: file, mode: 420, uid: 0, gid: 0, size: 13, content: c2VydmljZXM6IHt9Cg==}
missing:
  description: What was asked for and is not there.
  returned: always
  type: list
  elements: str
  sample: [/srv/project/.env]
roots:
  description: The directories that were taken whole.
  returned: always
  type: list
  elements: str
  sample: []
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mcpstack.platform.plugins.module_utils._remote_files import collect


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            name: {"type": "list", "elements": "str", "default": []} for name in ("paths", "stats", "roots")
        },
        supports_check_mode=True,
    )
    for name in ("paths", "stats", "roots"):
        for path in module.params[name]:
            if not path.startswith("/") or "\0" in path:
                module.fail_json(msg=f"{name}: {path!r} is not an absolute path", files={}, missing=[], roots=[])
    module.exit_json(changed=False, **collect(module.params["paths"], module.params["stats"], module.params["roots"]))


if __name__ == "__main__":
    main()
