#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: audit_report
author:
  - mcpstack.platform maintainers (@mcpstack)
version_added: 0.1.0
short_description: Report what audits found, for people and for programs, and what changed since the last run
description:
  - Puts the results of several audits together, applies waivers over all of them at once, and holds the whole against
    the run before. Says what is new, what is fixed, what is still open, and what could not be decided and why.
  - Writes the report as JSON, as SARIF 2.1.0, as JUnit XML and as one HTML page that needs no other file and no network,
    and a file for the textfile collector of node-exporter. Every file is replaced whole.
  - "The score of something audited is the weighted share of its decided checks that pass, rounded down: a critical check
    weighs 10, a high one 6, a medium one 3, a low one 1. A check that was not decided is never a pass: it is left out,
    and counted beside the score. So is a check of which every finding is waived."
  - A finding is the same as one of the run before when check, subject, place without the line, and what was audited are
    the same. It counts as fixed only when its check was decided to the end in this run, otherwise as not verified.
  - In JUnit a check that was not decided is an error, because a test that could not be carried out must not look like
    one that passed. A check that does not apply, or of which every finding is waived, is skipped.
  - The files are written anew by every run, so that they carry its time. Changed is reported only when something else
    than the time differs, or a file was missing.
extends_documentation_fragment:
  - mcpstack.platform.attributes
  - mcpstack.platform.audit
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  results:
    description:
      - What audit modules returned, each with the name of what it audited in C(subject). Results of the same subject
        are put together.
    type: list
    elements: dict
    default: []
    suboptions:
      subject:
        description: What was audited, for example the compose project, or the host.
        type: str
        required: true
      findings:
        description: As an audit module returned them.
        type: list
        elements: dict
        required: true
      checks_run:
        description: As an audit module returned them.
        type: list
        elements: dict
        required: true
  results_files:
    description:
      - Files on the host with results as JSON. A file holds one result, a list of results, or a mapping with a list
        named C(results). A result without C(subject) is named after its file.
    type: list
    elements: path
    default: []
  directory:
    description: Where the report and the history of the runs are. Made with mode 0750 when it is missing.
    type: path
    default: /var/log/mcpstack/audit
  formats:
    description: What to write. The report of a format that is not listed is removed, because it would be out of date.
    type: list
    elements: str
    choices: [json, sarif, junit, html]
    default: [json, sarif, junit, html]
  keep:
    description: How many runs the history holds. Of several in a row that found the same, the first and the last count.
    type: int
    default: 90
  title:
    description: Title of the report.
    type: str
    default: Security audit
  metrics_file:
    description:
      - File for the textfile collector, ending in C(.prom). It tells that the audit came to its end, when, how long it
        took, and what it found; a run that fails for another reason than its findings says that it did not succeed.
    type: path
  duration:
    description: How many seconds the audits took, for O(metrics_file). Without it, the time that this module took.
    type: float
"""

EXAMPLES = r"""
- name: Judge the compose files
  mcpstack.platform.compose_audit:
    files: [/srv/shop/compose.yml]
  register: __compose

- name: Judge the engine, the host and what runs
  mcpstack.platform.docker_audit:
  register: __docker

- name: Report, and stop at what is high or worse
  mcpstack.platform.audit_report:
    title: Security audit of shop
    results:
      - subject: compose project shop
        findings: "{{ __compose.findings }}"
        checks_run: "{{ __compose.checks_run }}"
      - subject: host {{ inventory_hostname }}
        findings: "{{ __docker.findings }}"
        checks_run: "{{ __docker.checks_run }}"
    waivers:
      - id: CMP-18
        subject: node-exporter
        reason: counts the processes of the host
        expires: "2027-03-31"
    metrics_file: /var/lib/node-exporter/mcpstack_audit.prom
    fail_at: high
"""

RETURN = r"""
findings:
  description: All findings, worst first, each with what was audited and whether it is new.
  returned: success
  type: list
  elements: dict
  sample:
    - id: CMP-05
      title: New privileges can be gained
      severity: high
      subject: worker
      where: compose/app.yml:30
      evidence: security_opt has no no-new-privileges
      fix: Add no-new-privileges:true to security_opt.
      references: [CIS Docker 5.26, OWASP Docker 4]
      waived:
      audited: compose project shop
      state: new
      fingerprint: 6c1e04c9f4a54c3f0f3d8e0d5b1a9b7e
checks_run:
  description: Every check that was run, with the worst status that anything audited has.
  returned: success
  type: list
  elements: dict
  sample:
    - id: CMP-05
      title: New privileges can be gained
      severity: high
      status: fail
summary:
  description: Numbers of findings and checks, the score of everything together, and what changed.
  returned: success
  type: dict
  sample: {"critical": 0, "high": 1, "open": 1, "waived": 0, "highest": high, "score": 96, "new": 1, "fixed": 0}
scores:
  description: The score of each thing audited; none where nothing was decided.
  returned: success
  type: dict
  sample: {"compose project shop": 96}
compared_with:
  description: Time of the run before; none when this is the first.
  returned: success
  type: str
  sample: "2026-11-20T05:15:04Z"
new:
  description: Open findings that the run before did not have.
  returned: success
  type: list
  elements: dict
  sample: []
fixed:
  description: Findings of the run before that are gone.
  returned: success
  type: list
  elements: dict
  sample: []
unverified:
  description: Findings of earlier runs that were not seen, although nobody can say that they are gone.
  returned: success
  type: list
  elements: dict
  sample: []
undecided:
  description: What could not be decided, by reason.
  returned: success
  type: list
  elements: dict
  sample:
    - audited: host db1
      reason: apt lists are 41 days old
      checks:
        - {id: HST-10, title: Security updates or a reboot are pending, severity: medium, partly: false}
files:
  description: Path of the report in each format.
  returned: success
  type: dict
  sample: {"html": /var/log/mcpstack/audit/report.html}
"""

import time

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mcpstack.platform.plugins.module_utils import _report_files as core
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_catalogue import ALL
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import LocalFiles
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_report import ReportError
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_result import ARGUMENTS, conclude


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "results": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "subject": {"type": "str", "required": True},
                    "findings": {"type": "list", "elements": "dict", "required": True},
                    "checks_run": {"type": "list", "elements": "dict", "required": True},
                },
            },
            "results_files": {"type": "list", "elements": "path", "default": []},
            "directory": {"type": "path", "default": "/var/log/mcpstack/audit"},
            "formats": {"type": "list", "elements": "str", "choices": list(core.NAMES), "default": list(core.NAMES)},
            "keep": {"type": "int", "default": 90},
            "title": {"type": "str", "default": "Security audit"},
            "metrics_file": {"type": "path"},
            "duration": {"type": "float"},
            **ARGUMENTS,
        },
        supports_check_mode=True,
    )
    params = module.params
    if params["keep"] < 2:
        module.fail_json(msg=f"keep is {params['keep']}: a comparison needs 2 runs at least.")
    begin = time.monotonic()
    settings = core.Settings(
        params["directory"], tuple(params["formats"]), params["keep"], params["title"], params["metrics_file"]
    )
    try:
        answer = core.publish(
            params["results"] + core.load_results(params["results_files"], LocalFiles()),
            params["waivers"],
            settings,
            catalogue=ALL,
            duration=params["duration"],
            write=not module.check_mode,
        )
    except (ReportError, core.PublishError) as error:
        message = f"The report cannot be made:\n{error}"
        if params["metrics_file"] and not module.check_mode:
            try:
                core.write_metrics(params["metrics_file"], None, time.time(), time.monotonic() - begin)
            except core.PublishError as second:
                message += f"\n{second}"
        module.fail_json(msg=message)
    for warning in answer.pop("warnings"):
        module.warn(warning)
    concluded = conclude(answer, [], params["fail_at"])
    result = {**answer, **{key: concluded[key] for key in ("failed", "msg") if key in concluded}}
    if not module._diff:
        del result["diff"]
    module.exit_json(**result) if not result.get("failed") else module.fail_json(**result)


if __name__ == "__main__":
    main()
