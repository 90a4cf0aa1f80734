#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judge a PostgreSQL."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_audit
author:
  - mcpstack.platform maintainers (@mcpstack)
version_added: 0.1.0
short_description: Judge a PostgreSQL by its configuration, its service and what it answers
description:
  - Decides C(PGS-01) to C(PGS-12). Reads C(postgresql.conf), C(pg_hba.conf) and C(pg_ident.conf) with all they include as
    the server does, looks at the definition of the container, and asks the running server. Each source may be left out;
    what then cannot be decided is C(unknown), never a pass.
  - The server is asked through C(psql) in its own container as the superuser who comes in by peer, or over TLS and SCRAM as
    a role of its own. A member of C(pg_monitor) is enough for most questions; what the server refuses is unknown, above all
    stored MD5 hashes. Only C(SELECT) is used, and nothing is changed.
  - Whether backups can be restored is proved by the restore drill, not by this module.
extends_documentation_fragment:
  - mcpstack.platform.attributes
  - mcpstack.platform.audit
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  config_file:
    description: C(postgresql.conf), on the machine the module runs on.
    type: path
  hba_file:
    description: C(pg_hba.conf), where the path in the configuration is one inside a container or there is none.
    type: path
  ident_file:
    description: C(pg_ident.conf), where the path in the configuration is one inside a container or there is none.
    type: path
  data_dir:
    description: Data directory. Its C(postgresql.auto.conf) is read as well.
    type: path
  key_file:
    description: Key of the server's certificate, where the path in the configuration is one inside a container.
    type: path
  uid:
    description: User id that the data directory must belong to.
    type: int
  container:
    description: Name or id of the container that the server runs in; its definition is read from the Docker engine.
    type: str
  command:
    description: Command of the service, where no container is named. Settings in it win over those in files.
    type: list
    elements: str
  environment:
    description: Environment of the service as C(NAME=value), where no container is named.
    type: list
    elements: str
  published:
    description: Ports that the service publishes, where no container is named.
    type: list
    elements: str
  contained:
    description: Whether the server runs in a container.
    type: bool
    default: true
  project:
    description: Name of the compose project in which O(service) is asked.
    type: str
    default: mcpstack
  service:
    description: Service of the project whose server is asked through C(psql) in its container.
    type: str
  major:
    description: Major version of PostgreSQL in that container.
    type: int
    default: 17
  host:
    description: Name or address of a server that is asked over TLS.
    type: str
  port:
    description: Its port.
    type: int
    default: 5432
  server_name:
    description: Name that its certificate must have, where that is not O(host).
    type: str
  ca_file:
    description: Certificates of the authority that its certificate must come from.
    type: path
  user:
    description: Role to log in as.
    type: str
  password_file:
    description: File that holds the password of O(user).
    type: path
  database:
    description: Database to log in to.
    type: str
    default: postgres
  timeout:
    description: Seconds that one question may take.
    type: float
    default: 10
  admin_roles:
    description: Roles that administer the server.
    type: list
    elements: str
    default: [postgres]
  extensions:
    description: Extensions that may be installed. Without it a list of harmless ones counts.
    type: list
    elements: str
  subject:
    description: Name of the service in findings.
    type: str
    default: postgres
"""

EXAMPLES = r"""
- name: Judge the database of the platform
  mcpstack.platform.postgres_audit:
    config_file: /etc/mcpstack/postgres/postgresql.conf
    hba_file: /etc/mcpstack/postgres/pg_hba.conf
    ident_file: /etc/mcpstack/postgres/pg_ident.conf
    key_file: /var/lib/mcpstack/pki/leaves/postgres/current/tls.key
    container: mcpstack-postgres-1
    service: postgres
    fail_at: high

- name: Ask a server that somebody else runs
  mcpstack.platform.postgres_audit:
    host: db.example.org
    ca_file: /etc/ssl/certs/ca-certificates.crt
    user: auditor
    password_file: /run/secrets/auditor
    contained: false
"""

RETURN = r"""
findings:
  description: Every weakness, worst first.
  returned: always
  type: list
  elements: dict
  sample:
    - id: PGS-02
      title: pg_hba.conf lets clients in too easily
      severity: critical
      subject: postgres
      where: /etc/postgresql/pg_hba.conf:12
      evidence: "host all all 0.0.0.0/0 trust: nobody is asked for a password"
      fix: Write hostssl DATABASE USER NETWORK scram-sha-256 for each application, local all postgres peer for the administrator,
        and nothing else.
      references: [CIS PostgreSQL 5.3, CIS PostgreSQL 5.4]
      waived:
checks_run:
  description: Every check with its status, and why when it could not be decided.
  returned: always
  type: list
  elements: dict
  sample:
    - {id: PGS-02, title: pg_hba.conf lets clients in too easily, severity: critical, status: fail, reason: ""}
summary:
  description: Numbers of open findings by severity and of checks by status.
  returned: always
  type: dict
  sample: {critical: 1, high: 0, medium: 0, low: 0, info: 0, open: 1, waived: 0, highest: critical, checks_pass: 11,
           checks_fail: 1, checks_not_applicable: 0, checks_unknown: 0}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mcpstack.platform.plugins.module_utils import _audit_result as doors
from ansible_collections.mcpstack.platform.plugins.module_utils import _door_postgres as core


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={**core.ARGUMENTS, **doors.ARGUMENTS},
        mutually_exclusive=[("service", "host")],
        required_by={"host": ("ca_file", "user", "password_file")},
        required_one_of=[("config_file", "hba_file", "container", "service", "host")],
        supports_check_mode=True,
    )
    try:
        result = core.run(module.params)
    except core.Wrong as error:
        module.fail_json(msg=str(error))
    doors.finish(module, result)


if __name__ == "__main__":
    main()
