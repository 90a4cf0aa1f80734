# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""audit_report as Ansible calls it."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ansible_collections.mcpstack.platform.plugins.modules import audit_report

FINDING = {
    "id": "CMP-05", "title": "t", "severity": "high", "subject": "worker", "where": "app.yml:3", "evidence": "e",
    "fix": "f", "references": ["CIS Docker 5.26"], "waived": None,
}  # fmt: skip
STATE = {"id": "CMP-05", "title": "t", "severity": "high", "status": "fail", "reason": ""}
RESULT = {"subject": "shop", "findings": [FINDING], "checks_run": [STATE]}
WAIVER = {"id": "CMP-05", "reason": "accepted for the test", "expires": "2999-12-31"}


def arguments(tmp_path, **options):
    return {"directory": str(tmp_path / "audit"), "results": [RESULT], **options}


def test_a_report_is_written_and_returned(call, tmp_path):
    answer = call(audit_report, arguments(tmp_path))
    assert answer["changed"] is True
    assert [item["state"] for item in answer["findings"]] == [""]
    assert answer["scores"] == {"shop": 0}
    assert [state["status"] for state in answer["checks_run"]] == ["fail"]
    assert sorted(os.listdir(tmp_path / "audit"))[1:] == [
        "report.html",
        "report.json",
        "report.junit.xml",
        "report.sarif",
    ]
    assert "diff" not in answer
    again = call(audit_report, arguments(tmp_path))
    assert (again["changed"], again["findings"][0]["state"]) == (False, "open")


def test_check_mode_writes_nothing(call, tmp_path):
    answer = call(audit_report, arguments(tmp_path, metrics_file=str(tmp_path / "m.prom")), check=True)
    assert answer["changed"] is True
    assert os.listdir(tmp_path) == []


def test_it_stops_at_what_is_asked_for_after_writing_the_report(call, tmp_path):
    answer = call(audit_report, arguments(tmp_path, fail_at="high", metrics_file=str(tmp_path / "m.prom")))
    assert answer["failed"] is True
    assert answer["msg"].startswith("1 finding at or above high:\n- HIGH CMP-05 t\n  where: app.yml:3 (worker)")
    assert answer["findings"]
    assert (tmp_path / "audit" / "report.html").exists()
    assert "mcpstack_audit_success 1" in (tmp_path / "m.prom").read_text()
    assert "failed" not in call(audit_report, arguments(tmp_path, fail_at="critical"))


def test_what_is_waived_stops_nothing(call, tmp_path):
    answer = call(audit_report, arguments(tmp_path, fail_at="high", waivers=[WAIVER]))
    assert "failed" not in answer
    assert answer["findings"][0]["waived"] == {"reason": "accepted for the test", "expires": "2999-12-31"}
    assert (answer["summary"]["waived"], answer["summary"]["open"]) == (1, 0)


def test_results_also_come_from_files(call, tmp_path):
    (tmp_path / "other.json").write_text(json.dumps({"findings": [], "checks_run": [{**STATE, "status": "pass"}]}))
    answer = call(audit_report, arguments(tmp_path, results_files=[str(tmp_path / "other.json")]))
    assert answer["scores"] == {"shop": 0, "other": 100}


def test_results_that_are_none_fail_and_the_metrics_say_so(call, tmp_path):
    broken = {**RESULT, "findings": [{**FINDING, "severity": "HIGH"}]}
    answer = call(audit_report, arguments(tmp_path, results=[broken], metrics_file=str(tmp_path / "m.prom")))
    assert answer["failed"] is True
    assert "results[0].findings[0].severity: is 'HIGH'" in answer["msg"]
    assert "mcpstack_audit_success 0" in (tmp_path / "m.prom").read_text()
    assert not (tmp_path / "audit").exists()


def test_a_history_of_one_run_is_refused(call, tmp_path):
    assert call(audit_report, arguments(tmp_path, keep=1))["msg"] == "keep is 1: a comparison needs 2 runs at least."


def test_every_check_of_the_catalogue_stands_in_the_report(call, tmp_path):
    call(audit_report, arguments(tmp_path, results=[]))
    document = json.loads(Path(tmp_path, "audit", "report.json").read_text())
    assert {check["id"] for check in document["checks"]} == set(audit_report.ALL)
    assert {check["status"] for check in document["checks"]} == {"unknown"}
    assert [view["name"] for view in document["standards"]][:3] == ["CIS Docker", "OWASP Docker", "NIST SP 800-190"]
