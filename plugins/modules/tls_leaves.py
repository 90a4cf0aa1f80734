#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keep the certificates of all services in their places."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tls_leaves
short_description: Keep the certificates of all services in their places, and say which must be issued
version_added: 0.1.0
author:
  - mcpstack.platform maintainers (@mcpstack)
description:
  - Looks at every certificate below C(/var/lib/mcpstack/pki/leaves) in one call and returns those that must be issued,
    because they are missing, wrong or about to expire.
  - Puts freshly issued certificates from C(/var/lib/mcpstack/pki/staging) into their places, with owner and mode.
  - Makes no key and signs nothing; the role C(pki) does that with community.crypto, for what O(ignore:issue) names.
  - A certificate from outside is checked before it lands. All that is wrong with it is reported at once, and the
    certificate in use stays.
  - A renewal with the same key replaces one file by a rename. Everything else appears as a complete new directory,
    which one rename of C(current) makes the one in use.
requirements:
  - cryptography >= 3.3 (Debian package python3-cryptography)
extends_documentation_fragment:
  - mcpstack.platform.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details:
      - The difference names services and fingerprints, never a key.
  idempotent:
    support: full
options:
  state:
    description:
      - With V(absent), every key and certificate of the host is removed, the internal authority included.
    type: str
    choices: [present, absent]
    default: present
  leaves:
    description: Services that need a certificate.
    type: list
    elements: dict
    default: []
    suboptions:
      service:
        description: Name of the service.
        type: str
        required: true
      uid:
        description: Numeric uid, and gid, of the service, which owns the key.
        type: int
        required: true
      names:
        description:
          - DNS names and addresses that the certificate is for. The first one is also its subject.
          - Without it, the name of the service and V(localhost).
        type: list
        elements: str
      client:
        description: Whether the service also shows the certificate to others, as a client.
        type: bool
        default: false
      source:
        description:
          - V(internal) is the internal authority.
          - V(files) is a certificate that the operator has; O(leaves[].chain) and O(leaves[].key) say where.
          - V(acme) is an ACME authority. Until the first order is done, an internal certificate stands in.
        type: str
        choices: [internal, files, acme]
        default: internal
      chain:
        description: The certificate and its chain on the host, in PEM form, that of the service first.
        type: path
      key:
        description: The private key on the host, in PEM form, without a passphrase.
        type: path
  trust_only:
    description: Services that only verify others and get nothing but the certificate of the internal authority.
    type: list
    elements: dict
    default: []
    suboptions:
      service:
        description: Name of the service.
        type: str
        required: true
      uid:
        description: Numeric uid of the service.
        type: int
        required: true
  renew_days:
    description: Internal certificates with this many days left or fewer are issued again.
    type: int
    default: 10
  leaf_days:
    description: Lifetime of a new internal certificate. O(renew_days) must be less.
    type: int
    default: 30
  complete:
    description: Fail if something must still be issued.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Look at the certificates
  mcpstack.platform.tls_leaves:
    leaves:
      - {service: postgres, uid: 64104}
      - {service: edge, uid: 64101, names: [ai.example.org]}
    trust_only:
      - {service: gateway, uid: 64102}
  register: certificates

- name: Serve a certificate of our own
  mcpstack.platform.tls_leaves:
    leaves:
      - service: edge
        uid: 64101
        names: [ai.example.org]
        source: files
        chain: /root/ai.example.org.pem
        key: /root/ai.example.org.key
"""

RETURN = r"""
library:
  description: Whether the Python library cryptography is on the host. If not, nothing was looked at.
  returned: success
  type: bool
  sample: true
authority:
  description: Whether there is an internal authority.
  returned: success
  type: bool
  sample: true
issue:
  description: What must be issued, in the form that the role C(pki) hands to community.crypto.
  returned: success
  type: list
  elements: dict
  contains:
    service:
      description: Name of the service.
      type: str
      returned: always
    reason:
      description: Why.
      type: str
      returned: always
    common_name:
      description: Subject of the certificate.
      type: str
      returned: always
    names:
      description: Subject alternative names.
      type: list
      elements: str
      returned: always
    usage:
      description: Extended key usage.
      type: list
      elements: str
      returned: always
    key:
      description: Path of the key.
      type: str
      returned: always
    new_key:
      description: Whether the key must be made first.
      type: bool
      returned: always
    certificate:
      description: Path to write the certificate to.
      type: str
      returned: always
  sample: []
acme_due:
  description: Why a certificate should be ordered at the ACME authority; empty if none should.
  returned: success
  type: str
  sample: ""
fingerprints:
  description:
    - SHA-256 of the certificate of each service, and of the internal authority for those that only verify.
    - V(pending) for one that is not issued yet.
  returned: success
  type: dict
  sample:
    postgres: 5f16f6a5b4a6ed4d5a9a1bbf0f8a9f9a8c52c8f6b4b5e8c1c2d3f4a5b6c7d8e9
expires:
  description: When the certificate of each service expires.
  returned: success
  type: dict
  sample:
    postgres: "2026-12-20T08:00:00Z"
actions:
  description: What was done, or would be done in check mode.
  returned: success
  type: list
  elements: str
  sample: ["postgres: issue, because it is the first"]
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mcpstack.platform.plugins.module_utils import _cert_check as check
from ansible_collections.mcpstack.platform.plugins.module_utils import _tls_leaves as core


def main() -> None:
    """Run the module."""
    entry = {"service": {"type": "str", "required": True}, "uid": {"type": "int", "required": True}}
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "leaves": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    **entry,
                    "names": {"type": "list", "elements": "str"},
                    "client": {"type": "bool", "default": False},
                    "source": {"type": "str", "choices": ["internal", "files", "acme"], "default": "internal"},
                    "chain": {"type": "path"},
                    "key": {"type": "path", "no_log": False},
                },
            },
            "trust_only": {"type": "list", "elements": "dict", "default": [], "options": dict(entry)},
            "renew_days": {"type": "int", "default": 10},
            "leaf_days": {"type": "int", "default": 30},
            "complete": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    params = module.params
    store = core.Leaves()
    try:
        if params["state"] == "absent":
            store.remove(module.check_mode)
        elif check.available():
            store.apply(
                params["leaves"], params["trust_only"], params["renew_days"], module.check_mode, params["leaf_days"]
            )
        elif params["complete"]:
            module.fail_json(msg="The Python library cryptography is not on this host; install python3-cryptography.")
        else:
            store.without_library(params["leaves"], params["trust_only"])
    except core.TlsError as error:
        module.fail_json(msg=f"The certificates in use were left as they are.\n{error}")
    except OSError as error:
        where = error.filename or store.pki
        module.fail_json(
            msg=f"{where}: {error.strerror or error}. Mend this and run again; the run goes on where it stopped."
        )
    if params["complete"] and store.issue:
        lines = [f"{item['service']}: {item['reason']}" for item in store.issue]
        module.fail_json(msg="These certificates were issued, and still are not right:\n" + "\n".join(lines))
    for warning in store.warnings:
        module.warn(warning)
    module.exit_json(
        changed=bool(store.actions),
        library=check.available(),
        authority=store.authority is not None,
        issue=store.issue,
        acme_due=store.acme_due,
        fingerprints=store.fingerprints,
        expires=store.expires,
        actions=store.actions,
        diff={"before": "", "after": "".join(f"{line}\n" for line in store.actions)},
    )


if __name__ == "__main__":
    main()
