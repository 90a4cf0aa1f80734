# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: edge_plan
author:
  - mcpstack.platform maintainers (@mcpstack)
version_added: 0.1.0
short_description: Check the options of the edge role and complete them
description:
  - Checks every value that reaches the web server's configuration and adds the defaults of each route.
  - Fails with all problems at once, each with its path and its fix, before anything is rendered.
options:
  _input:
    description: The options of the edge role without their C(mcpstack_edge_) prefix.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: See what the edge would serve
  ansible.builtin.debug:
    msg: "{{ options | mcpstack.platform.edge_plan }}"
  vars:
    options:
      server_names: [llm.example.org]
      bind: [0.0.0.0]
      http_port: 80
      https_port: 443
      per_client: {rate: 20, burst: 40, connections: 64}
      max_body: 4m
      stream_timeout: 300s
      hsts: {max_age: 63072000, include_subdomains: false, preload: false}
      trusted_proxies: []
      tls_profile: intermediate
      expose_docs: false
      routes:
        - {path: /v1/models, match: prefix}
      limits: {memory: 256m}
"""

RETURN = r"""
_value:
  description: The plan the templates print.
  type: dict
"""

from ansible.errors import AnsibleFilterError

from ansible_collections.mcpstack.platform.plugins.module_utils import _edge


def edge_plan(options):
    """Door to the core for templates."""
    if not isinstance(options, dict):
        raise AnsibleFilterError("edge_plan needs a dictionary of the edge role's options.")
    try:
        return _edge.plan(options, prefix="mcpstack_edge_")
    except _edge.EdgeConfigError as error:
        raise AnsibleFilterError(f"The edge cannot be configured:\n{error}") from error


class FilterModule:
    """The filter of this file."""

    def filters(self):
        return {"edge_plan": edge_plan}
