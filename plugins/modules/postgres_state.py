#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Roles, databases and extensions of the running PostgreSQL."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_state
short_description: Roles, databases and extensions of the platform's running PostgreSQL
version_added: 0.1.0
author:
  - mcpstack.platform maintainers (@mcpstack)
description:
  - Brings owners, login roles, databases, their rights and their extensions to the declared state, in one call.
  - It speaks through C(psql) in the server's own container as the superuser, who comes in by peer on the socket.
  - Every database has an owner role that cannot log in, and login roles that are members of it and act as it. The secret
    file says which login is the current one. The others are made without login and are then left alone, because switching
    them on and off is the rotation's work.
  - Roles beside the owner are made of the same parts. They may connect. They own nothing, are no members of the owner, and
    may make neither schemas nor anything in one; whatever of that they have is taken away. What they may read and write,
    the owner grants them.
  - The server is given a SCRAM verifier computed here. A password stands in no statement, argument, environment or result,
    and an unchanged one changes nothing.
  - After every run that is not in check mode, each current secret is proved by a real login over TCP, TLS with a verified
    certificate, and SCRAM.
  - Nothing is dropped unless O(databases[].state=absent) asks for it.
extends_documentation_fragment:
  - mcpstack.platform.attributes
attributes:
  check_mode:
    support: full
    details: On a host without a running server everything is reported as a change.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  databases:
    description: The databases, each with the roles that belong to it.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the database.
        type: str
        required: true
      owner:
        description: Role that owns the database and everything the application makes in it. It cannot log in.
        type: str
        required: true
      logins:
        description: Login roles that act as the owner; two of them, so that they can rotate.
        type: list
        elements: str
        default: []
      secret_file:
        description: File on the host with one line, login role and password separated by a colon.
        type: path
      roles:
        description: Roles of applications, which use the database and own nothing in it.
        type: list
        elements: dict
        default: []
        suboptions:
          name:
            description: The role that the owner grants rights to. It cannot log in.
            type: str
            required: true
          logins:
            description: Login roles that act as it; two of them, so that they can rotate.
            type: list
            elements: str
            default: []
          secret_file:
            description: File on the host with one line, login role and password separated by a colon.
            type: path
          connection_limit:
            description: Connections that each login role may hold.
            type: int
            default: 20
          statement_timeout:
            description: Longest time a statement of a login role may take; V(0) is no limit.
            type: str
            default: 30s
          lock_timeout:
            description: Longest time a statement of a login role may wait for a lock; V(0) is no limit.
            type: str
            default: 10s
      extensions:
        description: Extensions to install. Only a fixed list of harmless ones is allowed.
        type: list
        elements: str
        default: []
      search_path:
        description: Schemas of the search path; C(pg_temp) is always put last.
        type: list
        elements: str
        default: [public]
      connection_limit:
        description: Connections that each login role may hold.
        type: int
        default: 20
      statement_timeout:
        description: Longest time a statement of a login role may take; V(0) is no limit.
        type: str
        default: 30s
      lock_timeout:
        description: Longest time a statement of a login role may wait for a lock; V(0) is no limit.
        type: str
        default: 10s
      state:
        description: With V(absent) the database and its roles are dropped, with everything in them.
        type: str
        choices: [present, absent]
        default: present
  ca_file:
    description: CA certificate on the host that the server's certificate must chain to when the logins are proved.
    type: path
    default: /var/lib/mcpstack/pki/ca/ca.crt
  major:
    description: Major version of PostgreSQL in the container.
    type: int
    default: 17
  project:
    description: Name of the compose project.
    type: str
    default: mcpstack
  service:
    description: Name of the service in the project.
    type: str
    default: postgres
"""

EXAMPLES = r"""
- name: Roles and databases
  mcpstack.platform.postgres_state:
    databases:
      - name: mcpstack
        owner: mcpstack_owner
        logins: [admin_a, admin_b]
        secret_file: /run/mcpstack/secrets/operator/admin-db/current
        connection_limit: 4
        extensions: [vector]
        roles:
          - name: gateway
            logins: [gateway_a, gateway_b]
            secret_file: /run/mcpstack/secrets/operator/gateway-db/current
"""

RETURN = r"""
actions:
  description: What was done, or in check mode would be done, one entry for each statement, without any secret.
  returned: success
  type: list
  elements: str
  sample: ["role gateway_a: set the password"]
logins:
  description: The logins that were proved over the network. Empty in check mode.
  returned: success
  type: list
  elements: dict
  sample: [{"database": "mcpstack", "login": "gateway_a", "acts_as": "gateway"}]
notes:
  description: What is unusual and was left alone.
  returned: success
  type: list
  elements: str
  sample: []
server_version:
  description: Version of the running server; empty in check mode on a host without one.
  returned: success
  type: str
  sample: "17.11"
problems:
  description: Every reason for the failure, each with where, what and fix.
  returned: failure
  type: list
  elements: dict
  sample: []
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mcpstack.platform.plugins.module_utils import _postgres_state as core
from ansible_collections.mcpstack.platform.plugins.module_utils._engine import Engine, EngineError

#: What a role with its logins is made of.
GROUP = {
    "logins": {"type": "list", "elements": "str", "default": []},
    "secret_file": {"type": "path", "no_log": False},
    "connection_limit": {"type": "int", "default": 20},
    "statement_timeout": {"type": "str", "default": "30s"},
    "lock_timeout": {"type": "str", "default": "10s"},
}
DATABASE = {
    "name": {"type": "str", "required": True},
    "owner": {"type": "str", "required": True},
    **GROUP,
    "roles": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {"name": {"type": "str", "required": True}, **GROUP},
    },
    "extensions": {"type": "list", "elements": "str", "default": []},
    "search_path": {"type": "list", "elements": "str", "default": ["public"]},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "databases": {"type": "list", "elements": "dict", "required": True, "options": DATABASE},
            "ca_file": {"type": "path", "default": "/var/lib/mcpstack/pki/ca/ca.crt"},
            "major": {"type": "int", "default": 17},
            "project": {"type": "str", "default": "mcpstack"},
            "service": {"type": "str", "default": "postgres"},
        },
        supports_check_mode=True,
    )
    options = dict(module.params)
    try:
        databases = core.parse_databases(options.pop("databases"))
        result = core.reconcile(Engine(), databases, check=module.check_mode, **options)
    except core.StateError as error:
        module.fail_json(msg=str(error), problems=error.problems)
    except EngineError as error:
        problem = {
            "where": f"service {module.params['service']}",
            "what": str(error),
            "fix": "look at the Docker engine",
        }
        module.fail_json(msg=str(error), problems=[problem])
    header = f"PostgreSQL of service {module.params['service']}"
    after = "".join(f"{action}\n" for action in result["actions"])
    diff = {"before_header": header, "after_header": header, "before": "", "after": after}
    module.exit_json(diff=diff, **result)


if __name__ == "__main__":
    main()
