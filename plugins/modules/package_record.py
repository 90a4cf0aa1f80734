#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: package_record
short_description: Remember which packages are added, so that an uninstall removes those and no others
version_added: 0.1.0
description:
  - Says which of the named packages are missing, and remembers on the host that they are about to be added.
  - Run it before the installation and, when something was missing, once more after it, so that the packages that came
    along are remembered too. A run killed in between is completed by the next one.
  - It installs and removes nothing itself.
author:
  - mcpstack.platform maintainers (@mcpstack)
extends_documentation_fragment:
  - mcpstack.platform.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
    details: The record is bookkeeping; the installation shows the difference.
  idempotent:
    support: full
options:
  owner:
    description: Whose packages these are, for example the role. Each owner has a record of its own.
    type: str
    required: true
  names:
    description:
      - Names of packages. C(a | b) is satisfied by any of the alternatives; when all are missing, the first is wanted.
    type: list
    elements: str
    default: []
  state:
    description:
      - V(present) reports what is missing and keeps the record.
      - V(query) reports what an uninstall may remove and changes nothing.
      - V(absent) removes the record.
    type: str
    choices: [present, query, absent]
    default: present
  directory:
    description: Where the records are.
    type: path
    default: /var/lib/mcpstack/state
"""

EXAMPLES = r"""
- name: See what is missing
  mcpstack.platform.package_record:
    owner: docker
    names:
      - docker.io | docker-ce
      - python3-requests
  register: __packages

- name: Install it
  ansible.builtin.apt:
    name: "{{ __packages.missing }}"
    update_cache: true
  when: __packages.missing | length > 0
"""

RETURN = r"""
missing:
  description: Packages to install.
  returned: success
  type: list
  elements: str
  sample: [docker.io]
interrupted:
  description: Whether an earlier installation was killed, so that C(dpkg --configure -a) must finish it first.
  returned: success
  type: bool
  sample: false
removable:
  description: >-
    Packages that were added for this owner, are still installed, are needed by nothing else, and were not installed by
    name by a person since.
  returned: success
  type: list
  elements: str
  sample: [docker.io, containerd]
installed:
  description: Version of each named package, or alternative, that is installed.
  returned: success
  type: dict
  sample: {"docker.io": "26.1.5+dfsg1-9"}
"""

import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mcpstack.platform.plugins.module_utils import _packages as core


def main():
    module = AnsibleModule(
        argument_spec={
            "owner": {"type": "str", "required": True},
            "names": {"type": "list", "elements": "str", "default": []},
            "state": {"type": "str", "choices": ["present", "query", "absent"], "default": "present"},
            "directory": {"type": "path", "default": "/var/lib/mcpstack/state"},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        record = core.Record(os.path.join(params["directory"], f"packages-{params['owner']}.json"))
        packages = core.installed()
        missing = core.wanted(packages, params["names"])
        named = [name.strip() for group in params["names"] for name in group.split("|")]
        result = {
            "changed": False,
            "missing": missing,
            "interrupted": core.interrupted(),
            "removable": [],
            "installed": {name: packages[name].version for name in named if name in packages},
        }
        if record.data is not None:
            added = sorted({*record.data["added"], *record.data["asked"]})
            result["removable"] = core.removable(packages, record.data["asked"], added, core.automatic())
        if params["state"] == "present":
            result["changed"] = record.update(packages, missing)
            if result["changed"] and not module.check_mode:
                record.save()
        elif params["state"] == "absent":
            result["changed"] = record.data is not None
            if not module.check_mode:
                record.forget()
    except core.PackagesError as exc:
        module.fail_json(msg=str(exc))
    except OSError as exc:
        module.fail_json(msg=f"{exc.filename}: {exc.strerror}. Fix: run as root (become: true).")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
