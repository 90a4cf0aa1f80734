#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Manage all secrets of a host in one call."""

from __future__ import annotations

DOCUMENTATION = r"""
module: secret
short_description: Make, encrypt and publish the secrets of a host
version_added: 0.1.0
author:
  - mcpstack.platform maintainers (@mcpstack)
description:
  - Manages the whole list of secrets of a host in one call.
  - Values are made on the host, encrypted with C(systemd-creds) below C(/etc/credstore.encrypted) and published,
    readable by the one uid that needs them, below C(/run/mcpstack/secrets), which must be a tmpfs.
  - A value never leaves the host. No parameter, result, difference, warning or error message holds one.
  - A value that exists never changes. If its encrypted file is missing or cannot be decrypted, the module stops and
    changes nothing, because what uses the old value would refuse a new one.
  - A secret that is taken off the list is no longer published, and its encrypted value is kept. When it comes back on
    the list, it has the same value.
  - Every change reaches the disk before it is published, so a run that was killed is finished by the next one.
requirements:
  - systemd 250 or newer on the host (Debian 12, Ubuntu 24.04)
extends_documentation_fragment:
  - mcpstack.platform.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details:
      - The difference names secrets, versions and fingerprints.
  idempotent:
    support: full
options:
  state:
    description:
      - With V(present), the host is brought to the list.
      - With V(absent), every secret of the host is wiped, with its encrypted value and the manifest;
        O(secrets) is ignored.
    type: str
    choices: [present, absent]
    default: present
  units:
    description: Units of systemd that publish the secrets at boot; started and enabled once everything is published.
    type: list
    elements: str
    default: []
  secrets:
    description: All secrets of the host.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name, of lower-case letters, digits and dashes.
        type: str
        required: true
      kind:
        description:
          - V(password) and V(token) are random letters and digits.
          - V(hex32) is a version number, a colon and 32 random bytes in hexadecimal.
          - V(postgres_login) is a database role, a colon and a password.
          - V(api_key) is a key for the gateway.
          - V(valkey_acl) is derived from other secrets and made anew when one of them changes.
          - V(file) is a value that the operator puts on the host. It is stored anew when the file changes, and the file
            may be removed once it is stored.
        type: str
        required: true
        choices: [password, token, hex32, postgres_login, api_key, valkey_acl, file]
      consumers:
        description: Who may read it. The consumer V(operator), with uid 0, stands for root on the host.
        type: list
        elements: dict
        default: []
        suboptions:
          service:
            description: Name of the service.
            type: str
            required: true
          uid:
            description: Numeric uid, and gid, that the service runs with.
            type: int
            required: true
      length:
        description:
          - Number of random characters of a V(password), V(token) or V(postgres_login), from 32 to 512.
          - Without it, a token has 64 and the others have 40.
        type: int
      role:
        description: The database role of a V(postgres_login).
        type: str
      env:
        description: The environment that an V(api_key) names.
        type: str
        choices: [dev, stg, prod]
      template:
        description:
          - The text of a V(valkey_acl). C({sha256:NAME}) is replaced by the SHA-256 of the secret of that name.
        type: str
      source:
        description: The file on the host that holds the value of kind V(file). One newline at its end is left out.
        type: path
"""

EXAMPLES = r"""
- name: Make, encrypt and publish the secrets
  mcpstack.platform.secret:
    secrets:
      - name: gateway-db
        kind: postgres_login
        role: gateway_a
        consumers:
          - {service: gateway, uid: 64102}
          - {service: operator, uid: 0}
      - name: valkey-gateway
        kind: password
        consumers:
          - {service: gateway, uid: 64102}
      - name: valkey-acl
        kind: valkey_acl
        template: |
          user default off
          user gateway on #{sha256:valkey-gateway} ~gateway:* +@read +@write
        consumers:
          - {service: valkey, uid: 64105}
      - name: hub-token
        kind: file
        source: /root/hub-token
        consumers:
          - {service: operator, uid: 0}

- name: Wipe every secret of the host
  mcpstack.platform.secret:
    state: absent
"""

RETURN = r"""
secrets:
  description: Every secret of the host. There is no value in it.
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
      description:
        - Tells two values apart and gives nothing away to whoever cannot decrypt the secrets of the host.
        - Empty in check mode for a value that is not made yet.
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
  sample:
    - name: gateway-db
      kind: postgres_login
      version: 1
      fingerprint: 8b1a9953c4611296
      created: "2026-11-20T08:00:00Z"
      state: active
actions:
  description: What was done, or would be done in check mode.
  returned: success
  type: list
  elements: str
  sample: [created gateway-db v1, published gateway-db v1 for gateway]
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mcpstack.platform.plugins.module_utils import _secret_store as core
from ansible_collections.mcpstack.platform.plugins.module_utils import _systemd_units


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "units": {"type": "list", "elements": "str", "default": []},
            "secrets": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "no_log": False,
                "options": {
                    "name": {"type": "str", "required": True},
                    "kind": {"type": "str", "required": True, "choices": list(core.SHAPES)},
                    "consumers": {
                        "type": "list",
                        "elements": "dict",
                        "default": [],
                        "options": {
                            "service": {"type": "str", "required": True},
                            "uid": {"type": "int", "required": True},
                        },
                    },
                    "length": {"type": "int"},
                    "role": {"type": "str"},
                    "env": {"type": "str", "choices": list(core.ENVIRONMENTS)},
                    "template": {"type": "str"},
                    "source": {"type": "path"},
                },
            },
        },
        supports_check_mode=True,
    )
    store = core.Store()
    try:
        before = store.describe(store.load())
        if module.params["state"] == "absent":
            after = []
            store.remove(module.check_mode)
        else:
            after = store.apply(module.params["secrets"], module.check_mode)
            if module.params["units"]:
                started = _systemd_units.bring_up(module.params["units"], [], module.run_command, module.check_mode)
                store.actions += [f"started {unit}" for unit in started]
    except _systemd_units.UnitError as error:
        module.fail_json(msg=f"The secrets are published, but not at the next boot: {error}")
    except core.SecretError as error:
        module.fail_json(msg=f"The secrets of this host were left as they are.\n{error}")
    except OSError as error:
        where = error.filename or store.credstore
        module.fail_json(
            msg=f"{where}: {error.strerror or error}. Mend this and run again; the run goes on where it stopped."
        )
    for warning in store.warnings:
        module.warn(warning)
    module.exit_json(
        changed=bool(store.actions),
        secrets=after,
        actions=store.actions,
        diff={"before": {"secrets": before}, "after": {"secrets": after, "actions": store.actions}},
    )


if __name__ == "__main__":
    main()
