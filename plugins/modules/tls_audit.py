#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judge a live TLS endpoint."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tls_audit
author:
  - mcpstack.platform maintainers (@mcpstack)
version_added: 0.1.0
short_description: Judge a live TLS endpoint, its certificates and its answers
description:
  - Finds out by elimination which protocol versions, cipher suites and groups an endpoint accepts, reads every certificate
    chain that it serves, and looks at what it answers over HTTP. Decides C(TLS-01) to C(TLS-10) and C(TLS-12), and of an
    HTTP server C(NGX-02), C(NGX-05), C(NGX-11), C(NGX-13), C(NGX-16) and C(NGX-17) as far as the wire shows them.
  - The hellos are built by the module itself, so what it finds does not depend on what the OpenSSL of the machine it runs
    on still speaks. It is enough to have Python and its standard library.
  - An ordinary endpoint is asked about forty questions, each over a connection of its own and at most four at a time.
    Nothing is posted, and no vulnerability is exploited.
  - What a server did not answer is C(unknown), never a pass. How often the key of session tickets changes cannot be seen.
    Whether an old client may renegotiate a running connection is not tried, only whether renegotiation would be safe.
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
  host:
    description: Name or address to connect to.
    type: str
    required: true
  port:
    description: Port to connect to.
    type: int
    default: 443
  server_names:
    description: Names to ask for, all of which the certificate must cover. Without them O(host) is the name.
    type: list
    elements: str
    default: []
  ca_file:
    description:
      - File on the machine the module runs on with the certificates of a private authority that clients of this endpoint
        trust. Without it the authorities of that machine count, and a private authority is a finding (C(TLS-12)).
      - A certificate of a private authority may be valid for 825 days.
    type: path
  http_port:
    description: Port where the same host speaks HTTP without TLS. V(0) when this is not to be looked at.
    type: int
    default: 80
  http:
    description: Whether HTTP is spoken over TLS. Set V(false) for other protocols, of which TLS and certificates are judged.
    type: bool
    default: true
  starttls:
    description: Protocol that has to be spoken before TLS begins.
    type: str
    choices: [none, postgres]
    default: none
  requests:
    description:
      - Requests whose answers are looked at besides C(GET /), a path that does not exist, C(TRACE), a request without a
        host and one that announces a huge body. Name one for each class of answer, such as a path that needs credentials.
    type: list
    elements: dict
    default: []
    suboptions:
      method:
        description: Method; only ones that change nothing are allowed.
        type: str
        choices: [GET, HEAD, OPTIONS]
        default: GET
      path:
        description: Path and query.
        type: str
        required: true
  protected_paths:
    description: Paths that nobody may read without credentials.
    type: list
    elements: str
    default: []
  profile:
    description: Profile of Mozilla's server-side TLS 5.7.
    type: str
    choices: [intermediate, modern]
    default: intermediate
  production:
    description: Whether clients that are not ours use the endpoint. A certificate they do not trust is then C(medium).
    type: bool
    default: false
  timeout:
    description: Seconds that one question may take.
    type: float
    default: 5
  total_timeout:
    description: Seconds that all questions together may take. What has not been asked by then is unknown.
    type: float
    default: 120
"""

EXAMPLES = r"""
- name: Judge the edge as its users see it
  mcpstack.platform.tls_audit:
    host: llm.example.org
    requests:
      - path: /v1/models
    fail_at: medium
  delegate_to: localhost

- name: Judge the database from inside
  mcpstack.platform.tls_audit:
    host: 172.20.0.5
    port: 5432
    server_names: [postgres]
    starttls: postgres
    ca_file: /var/lib/mcpstack/pki/ca/ca.crt
"""

RETURN = r"""
findings:
  description: Every weakness, worst first.
  returned: always
  type: list
  elements: dict
  sample:
    - id: TLS-02
      title: Old protocol versions are accepted
      severity: high
      subject: llm.example.org
      where: llm.example.org:443
      evidence: accepts TLS 1.1, TLS 1.0
      fix: Set ssl_protocols TLSv1.2 TLSv1.3 in http, so that every server has it.
      references: [CIS NGINX 4.1.4, Mozilla TLS 5.7]
      waived:
checks_run:
  description: Every check with its status, and why when it could not be decided.
  returned: always
  type: list
  elements: dict
  sample:
    - {id: TLS-02, title: Old protocol versions are accepted, severity: high, status: fail, reason: ""}
summary:
  description: Numbers of open findings by severity and of checks by status.
  returned: always
  type: dict
  sample: {critical: 0, high: 1, medium: 0, low: 0, info: 0, open: 1, waived: 0, highest: high, checks_pass: 16,
           checks_fail: 1, checks_not_applicable: 1, checks_unknown: 0}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mcpstack.platform.plugins.module_utils import _audit_result as doors
from ansible_collections.mcpstack.platform.plugins.module_utils import _door_tls as core


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec={**core.ARGUMENTS, **doors.ARGUMENTS}, supports_check_mode=True)
    try:
        result = core.run(module.params)
    except core.Wrong as error:
        module.fail_json(msg=str(error))
    doors.finish(module, result)


if __name__ == "__main__":
    main()
