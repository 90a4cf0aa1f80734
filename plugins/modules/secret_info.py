#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Say which secrets a host has."""

from __future__ import annotations

DOCUMENTATION = r"""
module: secret_info
short_description: Say which secrets a host has, and where they are published
version_added: 0.1.0
author:
  - mcpstack.platform maintainers (@mcpstack)
description:
  - Reads the manifest of the secret store and looks whether the files it names are there.
  - No value is decrypted, and none is returned.
extends_documentation_fragment:
  - mcpstack.platform.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
options: {}
seealso:
  - module: mcpstack.platform.secret
"""

EXAMPLES = r"""
- name: Look at the secrets of this host
  mcpstack.platform.secret_info:
  register: found

- name: Refuse to go on when an encrypted value is missing
  ansible.builtin.assert:
    that: found.secrets | rejectattr('stored') | length == 0
"""

RETURN = r"""
secrets:
  description: Every secret of the manifest.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name.
      type: str
      returned: always
    kind:
      description: Kind.
      type: str
      returned: always
    version:
      description: Number of the current version.
      type: int
      returned: always
    fingerprint:
      description: Tells two values apart.
      type: str
      returned: always
    created:
      description: When the current version was made.
      type: str
      returned: always
    state:
      description: V(active), or V(unused) when the secret is no longer on the list.
      type: str
      returned: always
    stored:
      description: Whether the encrypted file of every version is there.
      type: bool
      returned: always
    consumers:
      description: Who may read it, and whether it is published for them.
      type: list
      elements: dict
      returned: always
  sample:
    - name: gateway-db
      kind: postgres_login
      version: 1
      fingerprint: 8b1a9953c4611296
      created: "2026-11-20T08:00:00Z"
      state: active
      stored: true
      consumers:
        - {service: gateway, uid: 64102, published: true}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mcpstack.platform.plugins.module_utils import _secret_store as core


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    try:
        found = core.Store().inspect()
    except core.SecretError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: {error.strerror}; run as root (become: true).")
    module.exit_json(changed=False, secrets=found)


if __name__ == "__main__":
    main()
