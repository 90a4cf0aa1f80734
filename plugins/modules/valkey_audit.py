#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judge a Valkey or Redis."""

from __future__ import annotations

DOCUMENTATION = r"""
module: valkey_audit
author:
  - mcpstack.platform maintainers (@mcpstack)
version_added: 0.1.0
short_description: Judge a Valkey or Redis by its configuration, its service and what it answers
description:
  - Decides C(VLK-01) to C(VLK-08). Reads the configuration with all it includes and the file of users as the server does,
    looks at command, environment, health check, memory limit and published ports of the container, and asks the running
    server. Each source may be left out; what then cannot be decided is C(unknown), never a pass.
  - Nothing is changed. The server is asked C(PING), C(EXISTS), C(INFO server), C(ACL LIST) and C(CONFIG GET); what the
    given user may not ask is unknown. No dangerous command is tried.
  - No password is part of a result.
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
  config:
    description: Configuration file, on the machine the module runs on.
    type: path
  acl_file:
    description: File with the users, where the path in the configuration is one inside a container.
    type: path
  data_dir:
    description: Directory of the data, where the path in the configuration is one inside a container.
    type: path
  container:
    description: Name or id of the container that the server runs in; its definition is read from the Docker engine.
    type: str
  command:
    description: Command of the service, where no container is named.
    type: list
    elements: str
  environment:
    description: Environment of the service as C(NAME=value), where no container is named. Values are only looked at for whether they are empty.
    type: list
    elements: str
  healthcheck:
    description: Health check of the service, as in a compose file, where no container is named.
    type: list
    elements: str
  memory_limit:
    description: Memory limit of the service, such as V(128m), where no container is named.
    type: str
  published:
    description: Ports that the service publishes, where no container is named.
    type: list
    elements: str
  contained:
    description: Whether the server runs in a container. Outside of one it must not bind to every interface.
    type: bool
    default: true
  internal_network:
    description: Whether nobody but the service's clients is on its network, so that it may speak without TLS.
    type: bool
    default: false
  admin_users:
    description: Users that administer the server. They may have dangerous commands and all keys.
    type: list
    elements: str
    default: []
  use:
    description: What the server is for. A V(cache) must evict, a V(store) must not.
    type: str
    choices: [any, cache, store]
    default: any
  version:
    description: Version of the installed package, such as V(valkey 8.1.1+dfsg1-3). Without it the server is asked.
    type: str
    default: ""
  host:
    description: Name or address of the running server. Without it and O(unix_socket) no server is asked.
    type: str
  port:
    description: Its port.
    type: int
    default: 6379
  unix_socket:
    description: Its socket.
    type: path
  tls:
    description: Whether to speak TLS to it.
    type: bool
    default: true
  ca_file:
    description: Certificates of the authority that its certificate must come from. Without it the certificate is not verified.
    type: path
  server_name:
    description: Name that its certificate must have, where that is not O(host).
    type: str
  user:
    description: User to log in as. V(default) without it.
    type: str
  password_file:
    description: File that holds the password of O(user). Without it nobody logs in.
    type: path
  timeout:
    description: Seconds that one question may take.
    type: float
    default: 5
  subject:
    description: Name of the service in findings.
    type: str
    default: valkey
"""

EXAMPLES = r"""
- name: Judge the service that runs
  mcpstack.platform.valkey_audit:
    config: /etc/mcpstack/valkey/valkey.conf
    acl_file: /run/mcpstack/secrets/valkey/valkey-acl/current
    container: mcpstack-valkey-1
    admin_users: [operator]
    fail_at: high

- name: Ask a server that somebody else runs
  mcpstack.platform.valkey_audit:
    host: cache.example.org
    port: 6380
    ca_file: /etc/ssl/certs/ca-certificates.crt
    user: auditor
    password_file: /run/secrets/auditor
"""

RETURN = r"""
findings:
  description: Every weakness, worst first.
  returned: always
  type: list
  elements: dict
  sample:
    - id: VLK-04
      title: Traffic is not encrypted
      severity: medium
      subject: valkey
      where: /etc/valkey/valkey.conf:12
      evidence: port 6379 is open without TLS
      fix: Set port 0, tls-port 6379, tls-cert-file, tls-key-file, tls-ca-cert-file and tls-protocols "TLSv1.2 TLSv1.3".
      references: [Valkey TLS, NIST SP 800-52r2 3.1]
      waived:
checks_run:
  description: Every check with its status, and why when it could not be decided.
  returned: always
  type: list
  elements: dict
  sample:
    - {id: VLK-04, title: Traffic is not encrypted, severity: medium, status: fail, reason: ""}
summary:
  description: Numbers of open findings by severity and of checks by status.
  returned: always
  type: dict
  sample: {critical: 0, high: 0, medium: 1, low: 0, info: 0, open: 1, waived: 0, highest: medium, checks_pass: 7,
           checks_fail: 1, checks_not_applicable: 0, checks_unknown: 0}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mcpstack.platform.plugins.module_utils import _audit_result as doors
from ansible_collections.mcpstack.platform.plugins.module_utils import _door_valkey as core


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={**core.ARGUMENTS, **doors.ARGUMENTS},
        mutually_exclusive=[("host", "unix_socket")],
        required_one_of=[("config", "container", "host", "unix_socket")],
        supports_check_mode=True,
    )
    try:
        result = core.run(module.params)
    except core.Wrong as error:
        module.fail_json(msg=str(error))
    doors.finish(module, result)


if __name__ == "__main__":
    main()
