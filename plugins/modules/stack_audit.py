#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: stack_audit
author:
  - mcpstack.platform maintainers (@mcpstack)
version_added: 0.1.0
short_description: Judge what a deploy would write, before it writes anything
description:
  - Renders all services on the controller, exactly as M(mcpstack.platform.stack_render) would, and runs the static audits
    over the result without writing or contacting anything. The compose project is judged by the core of
    M(mcpstack.platform.compose_audit), each configuration tree by the core that the service's part names.
  - Fails, with every finding at or above O(fail_at) and how to fix it, before any container changes.
  - Returns a model of what will be deployed, for M(mcpstack.platform.docker_audit) to hold the running containers against.
extends_documentation_fragment:
  - mcpstack.platform.attributes
  - mcpstack.platform.audit
  - mcpstack.platform.container_policy
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  services:
    description: As of M(mcpstack.platform.stack_render). A part may name an C(audit) for its configuration tree.
    type: list
    elements: dict
    required: true
  image_ids:
    description: Id of each image in the host's engine, by reference, for the model.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Refuse what would not be safe
  mcpstack.platform.stack_audit:
    services: "{{ _mcpstack_parts }}"
    edge_services: [edge]
    declared_ports: [{port: 80}, {port: 443}]
    internal_networks: [app, data, model]
    fail_at: high
"""

RETURN = r"""
findings:
  description: Every weakness, worst first.
  returned: always
  type: list
  elements: dict
  sample: []
checks_run:
  description: Every check with its status, and why when it could not be decided.
  returned: always
  type: list
  elements: dict
  sample:
    - {id: CMP-01, title: A container is privileged, severity: critical, status: pass, reason: ""}
summary:
  description: Numbers of findings by severity and of checks by status.
  returned: always
  type: dict
  sample: {critical: 0, high: 0, medium: 0, low: 0, info: 0, open: 0, waived: 0, highest: none}
results:
  description: The same for each thing that was audited, without waivers, for the report of the role C(audit).
  returned: always
  type: list
  elements: dict
  sample: []
model:
  description: What will be deployed.
  returned: always
  type: dict
  sample: {project: mcpstack, services: {}}
"""
