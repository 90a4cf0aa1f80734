# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter door to the service spec core."""

from __future__ import annotations

from ansible.errors import AnsibleFilterError

from ansible_collections.mcpstack.platform.plugins.module_utils._service_spec import SpecError, normalise

DOCUMENTATION = r"""
name: service_spec
short_description: Check a service spec and fill in its defaults
version_added: 0.1.0
author:
  - mcpstack.platform maintainers (@mcpstack)
description:
  - Takes what a service role says of its service and returns it complete, ready for the templates of the role C(_stack).
  - Fails with every problem of the spec at once; each names its path, what is wrong and the fix.
options:
  _input:
    description: The service spec.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the complete spec
  ansible.builtin.debug:
    msg: "{{ _mcpstack_postgres_service | mcpstack.platform.service_spec }}"
"""

RETURN = r"""
_value:
  description: The spec with every default filled in.
  type: dict
"""


def service_spec(spec: dict) -> dict:
    """Return the normalised spec, or fail with all problems."""
    try:
        return normalise(spec)
    except SpecError as error:
        lines = [f"  {n}. {p['where']}: {p['what']}. Fix: {p['fix']}." for n, p in enumerate(error.problems, 1)]
        raise AnsibleFilterError("The service spec has problems:\n" + "\n".join(lines)) from error


class FilterModule:
    """Names the filter."""

    def filters(self) -> dict:
        return {"service_spec": service_spec}
