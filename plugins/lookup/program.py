# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One file that a host's own Python runs."""

from __future__ import annotations

DOCUMENTATION = r"""
name: program
short_description: Pack module utilities of this collection into one Python program
version_added: 0.1.0
author:
  - mcpstack.platform maintainers (@mcpstack)
description:
  - Returns, in Base64, a zip archive that a host's Python runs without Ansible, such as a timer's program.
  - The archive holds the named module utility and everything it imports. The same collection gives the same bytes.
options:
  _terms:
    description: Name of the module utility that has the function C(main).
    required: true
"""

EXAMPLES = r"""
- name: Install the program of the timer
  mcpstack.platform.config_tree:
    files:
      - dest: /usr/local/lib/mcpstack/audit.pyz
        content_base64: "{{ lookup('mcpstack.platform.program', '_audit_run') }}"
        mode: "0644"
"""

RETURN = r"""
_raw:
  description: The archive in Base64.
  type: list
  elements: str
"""

import base64

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

from ansible_collections.mcpstack.platform.plugins.plugin_utils._program import ProgramError, pack


class LookupModule(LookupBase):
    """Packs each term."""

    def run(self, terms, variables=None, **kwargs):
        """Base64 of each archive."""
        try:
            return [base64.b64encode(pack(term)).decode() for term in terms]
        except ProgramError as error:
            raise AnsibleLookupError(str(error)) from error
