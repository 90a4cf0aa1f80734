#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: audit_run
author:
  - mcpstack.platform maintainers (@mcpstack)
version_added: 0.1.0
short_description: Run every audit of a host now and write the report
description:
  - Does what the daily timer of the role C(audit) does. Every audit that the configuration lists is run, together with what
    the deploy found in the files it rendered, held against the run before, and reported as JSON, SARIF, JUnit and HTML.
  - An audit that cannot be run is a check that is unknown, never one that passes. When nothing at all could be decided of
    something that is listed, the report is written and the module fails, whatever O(fail_at) is.
extends_documentation_fragment:
  - mcpstack.platform.attributes
attributes:
  check_mode:
    support: full
    details:
      - The audits run, no report is written.
  diff_mode:
    support: none
  idempotent:
    support: none
    details:
      - Each run adds an entry to the history.
options:
  config:
    description: The configuration that the role C(audit) writes.
    type: path
    default: /etc/mcpstack/audit/audit.json
  fail_at:
    description: >-
      Fail when a finding that is not waived is of this severity or worse. V(none) only reports. Without it the
      configuration decides.
    type: str
    choices: [critical, high, medium, low, info, none]
"""

EXAMPLES = r"""
- name: Audit the host
  mcpstack.platform.audit_run:
    fail_at: high
"""

RETURN = r"""
findings:
  description: Every weakness, worst first.
  returned: success
  type: list
  elements: dict
  sample:
    - id: HST-07
      title: The engine's socket is open to others
      severity: critical
      subject: host
      where: /var/run/docker.sock
      evidence: mode 0666
      fix: "chmod 0660 /var/run/docker.sock; chown root:docker /var/run/docker.sock"
      references: [CIS Docker 3.15]
      waived:
checks_run:
  description: Every check with its status, and why when it could not be decided.
  returned: success
  type: list
  elements: dict
  sample:
    - {id: HST-07, title: The engine's socket is open to others, severity: critical, status: fail, reason: ""}
summary:
  description: Numbers of findings by severity and of checks by status.
  returned: success
  type: dict
  sample: {critical: 1, high: 0, medium: 0, low: 0, info: 0, open: 1, waived: 0, highest: critical}
text:
  description: The same for a person at a terminal.
  returned: success
  type: str
  sample: "score 98; 1 open finding: 1 critical; 1 new, 0 fixed, 0 still open"
report:
  description: Path of the page for a browser; empty in check mode.
  returned: success
  type: str
  sample: /var/log/mcpstack/audit/report.html
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mcpstack.platform.plugins.module_utils import _audit_run as core
from ansible_collections.mcpstack.platform.plugins.module_utils._audit import SEVERITIES


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "config": {"type": "path", "default": "/etc/mcpstack/audit/audit.json"},
            "fail_at": {"type": "str", "choices": [*SEVERITIES, "none"]},
        },
        supports_check_mode=True,
    )
    try:
        outcome = core.run(core.read_config(module.params["config"]), write=not module.check_mode)
    except core.RunError as error:
        module.fail_json(msg=str(error))
    answer = outcome.answer(module.params["fail_at"])
    if answer.get("failed"):
        module.fail_json(**answer)
    module.exit_json(**answer)


if __name__ == "__main__":
    main()
