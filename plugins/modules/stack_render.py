#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: stack_render
author:
  - mcpstack.platform maintainers (@mcpstack)
version_added: 0.1.0
short_description: Render all services of the platform and write what differs
description:
  - Takes the spec of every service, checks all of them, renders the compose project and every configuration tree on the
    controller, and writes them in one call of M(mcpstack.platform.config_tree), which validates each tree first.
  - Compose files and trees of services that are no longer listed are removed. Nothing is started.
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
  services:
    description: All services of the host, in the order in which they come up.
    type: list
    elements: dict
    required: true
    suboptions:
      service:
        description: The service spec. Checked in full, see P(mcpstack.platform.service_spec#filter).
        type: dict
        required: true
      role:
        description: Role whose C(templates/config) is the service's configuration tree.
        type: str
        required: true
      validate:
        description:
          - How the tree is validated, as of O(mcpstack.platform.config_tree#module:validate); tree, target, image and
            user follow from the spec.
        type: dict
"""

EXAMPLES = r"""
- name: Render the services, each validated before anything lands
  mcpstack.platform.stack_render:
    services:
      - service: "{{ _mcpstack_valkey_service }}"
        role: valkey
        validate: {command: [/usr/bin/valkey-server, /etc/valkey/valkey.conf, --daemonize, "yes"]}
"""

RETURN = r"""
changed_paths:
  description: Every path that was, or in check mode would be, created, updated or removed.
  returned: success
  type: list
  elements: str
  sample: [/etc/mcpstack/valkey/valkey.conf]
validation:
  description: By tree, as M(mcpstack.platform.config_tree) returns it.
  returned: success
  type: dict
  sample: {/etc/mcpstack/valkey: passed}
digests:
  description: By service, SHA-256 over its compose file and the project's. It differs whenever Compose has to be asked.
  returned: success
  type: dict
  sample: {valkey: 6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b}
compose_files:
  description: The compose files on the host, in the order in which Compose reads them.
  returned: success
  type: list
  elements: str
  sample: [/etc/mcpstack/compose/project.yml, /etc/mcpstack/compose/valkey.yml]
"""
