# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a report says: scores, waivers over everything, what changed since the run before, what was not decided."""

from __future__ import annotations

import datetime
import importlib.util
import json
from pathlib import Path

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _audit_report as core
from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit, Check

_spec = importlib.util.spec_from_file_location("report_fixture", Path(__file__).with_name("report_fixture.py"))
sample = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sample)

TODAY = datetime.date(2026, 11, 21)
TABLE = {
    check.id: check
    for check in (
        Check("AAA-01", "First", "critical", "S", ("CIS Docker 5.4", "OWASP Docker 3"), "w", "f"),
        Check("AAA-02", "Second", "high", "S", ("CIS Docker 5.10",), "w", "f"),
        Check("AAA-03", "Third", "medium", "S", ("CIS Docker 5.4", "NIST SP 800-190 4.1"), "w", "f"),
        Check("AAA-04", "Fourth", "low", "S", ("hadolint DL3007",), "w", "f"),
        Check("AAA-05", "Fifth", "info", "S", (), "w", "f"),
        Check("AAA-06", "Sixth", "high", "S", ("Mozilla TLS 5.7",), "w", "f", undecided="no program can"),
    )
}


def result(*found, unknown=(), skip=(), table=TABLE):
    audit = Audit(table)
    audit.decide(*(set(audit.table) - set(unknown) - set(skip)))
    for check_id in unknown:
        audit.unknown(check_id, f"no source for {check_id}")
    for check_id in skip:
        audit.not_applicable(check_id, "nothing here")
    for check_id, subject, where, evidence in found:
        audit.find(check_id, subject, where, evidence)
    return audit.result()


def run(*parts, history=(), day=1, waivers=()):
    known = core.waive(core.read_results(list(parts)), list(waivers), TODAY)
    return core.build(known, list(history), title="T", generated=f"2026-11-{day:02}T00:00:00Z", catalogue=TABLE, keep=5)


def after(report, history=()):
    return core.remember(list(history), report, 5)


def one(*found, subject="host", **options):
    return {"subject": subject, "result": result(*found, **options)}


# -- places ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "place"),
    [
        ("compose.yml:12", ("compose.yml", 12, None)),
        ("compose/app.yml:12:3", ("compose/app.yml", 12, 3)),
        ("/etc/docker/daemon.json", ("/etc/docker/daemon.json", None, None)),
        ("/srv/run", ("/srv/run", None, None)),
        ("/srv/run:9", ("/srv/run", 9, None)),
        ("Dockerfile.web:7", ("Dockerfile.web", 7, None)),
        (".env:3", (".env", 3, None)),
        ("0.0.0.0:2375", None),  # a socket is no line 2375 of a file
        ("127.0.0.1:9000/tcp", None),
        ("example.org:443", None),
        ("[::]:443", None),
        ("tcp://host:2375", None),
        ("nginx:1", None),
        ("container shop-mail-1", None),
        ("services.edge.ports[0]", None),
        ("", None),
    ],
)
def test_a_place_is_a_file_only_where_it_names_one(where, place):
    found = core.place(where)
    assert (found and (found.file, found.line, found.column)) == place


# -- what comes in --------------------------------------------------------------------------------------------------

GOOD = {"id": "A", "title": "t", "severity": "high", "subject": "s", "where": "w", "evidence": "e", "fix": "f"}
STATE = {"id": "A", "title": "t", "severity": "high", "status": "fail", "reason": ""}


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ("x", "results: is no list"),
        ([3], "results[0]: names no subject"),
        ([{"subject": " ", "findings": [], "checks_run": []}], "results[0]: names no subject"),
        ([{"subject": "s", "findings": {}}], "results[0]: has no findings and checks_run"),
        ([{"subject": "s", "result": 4}], "results[0]: has no findings and checks_run"),
        ([{"subject": "s", "findings": [1], "checks_run": []}], "results[0].findings[0]: is int, not a finding"),
        (
            [{"subject": "s", "findings": [{**GOOD, "severity": "HIGH"}], "checks_run": []}],
            "results[0].findings[0].severity: is 'HIGH', not one of critical, high, medium, low, info",
        ),
        (
            [{"subject": "s", "findings": [{k: v for k, v in GOOD.items() if k != "fix"}], "checks_run": []}],
            "results[0].findings[0].fix: is missing",
        ),
        ([{"subject": "s", "findings": [{**GOOD, "where": 3}], "checks_run": []}], "findings[0].where: is no text"),
        ([{"subject": "s", "findings": [{**GOOD, "references": "x"}], "checks_run": []}], "references: is no list"),
        ([{"subject": "s", "findings": [{**GOOD, "waived": "yes"}], "checks_run": []}], "waived: is neither null nor"),
        ([{"subject": "s", "findings": [], "checks_run": [{}]}], "checks_run[0]: is no state of a check"),
        (
            [{"subject": "s", "findings": [], "checks_run": [{**STATE, "status": "ok"}]}],
            "checks_run[0].status: is 'ok', not pass, fail, not_applicable or unknown",
        ),
        ([{"subject": "s", "findings": [], "checks_run": [{**STATE, "severity": None}]}], "severity: is 'None'"),
        ([{"subject": "s", "findings": [], "checks_run": [{**STATE, "severity": ["high"]}]}], "severity: is "),
    ],
)
def test_what_is_no_result_is_refused_with_its_place(results, message):
    with pytest.raises(core.ReportError, match="hand over what audit modules returned") as caught:
        core.read_results(results)
    assert message in str(caught.value)


def test_all_problems_at_once_but_not_thousands():
    with pytest.raises(core.ReportError) as caught:
        core.read_results([{"subject": "s", "findings": [1] * 500, "checks_run": []}])
    assert len(caught.value.problems) == 20


def test_what_was_found_is_cleaned_and_cut():
    hostile = {**GOOD, "evidence": "\x1b[31m" + "x" * 10000 + "\u202e", "references": ["r\n1"] * 90}
    (found,) = core.read_results([{"subject": "s", "findings": [hostile], "checks_run": [STATE]}])[0]["result"][
        "findings"
    ]
    assert len(found["evidence"]) == 1000
    assert found["evidence"].startswith("[31m")
    assert found["references"] == ["r 1"] * 40


def test_results_of_one_subject_are_put_together():
    parts = [
        {"subject": "a", **result(("AAA-01", "s", "w", "e"))},
        {"subject": "b", **result()},
        {"subject": "a", **result(("AAA-02", "s", "w", "e"), ("AAA-01", "s", "w", "e"))},
    ]
    read = core.read_results(parts)
    assert [(entry["subject"], [i["id"] for i in entry["result"]["findings"]]) for entry in read] == [
        ("a", ["AAA-01", "AAA-02"]),
        ("b", []),
    ]


# -- scores ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "score"),
    [
        (one(), 100),
        (one(("AAA-04", "s", "w", "e")), 95),  # 19 of 20
        (one(("AAA-01", "s", "w", "e")), 50),  # 10 of 20
        (one(unknown=("AAA-01",)), 100),  # of the rest; that one is missing is said beside it
        (one(("AAA-02", "s", "w", "e"), unknown=("AAA-01",)), 40),  # 4 of 10, never 14 of 20
        (one(skip=("AAA-01",)), 100),
        (one(unknown=tuple(t for t in TABLE if t != "AAA-06")), None),
        (one(skip=("AAA-01", "AAA-02", "AAA-03", "AAA-04")), None),  # info weighs nothing
    ],
)
def test_the_score_is_the_weighted_share_of_decided_checks(part, score):
    report = run(part)
    assert (report.score, report.audited[0]["score"]) == (score, score)


def test_a_waived_check_counts_neither_way():
    waiver = {"id": "AAA-01", "reason": "accepted by us", "expires": "2027-01-01"}
    report = run(one(("AAA-01", "s", "w", "e"), ("AAA-02", "s", "w", "e")), waivers=[waiver])
    assert report.audited[0]["score"] == 40
    assert report.audited[0]["counts"]["waived"] == 1
    assert [item["id"] for item in report.waived()] == ["AAA-01"]
    assert [(entry["name"], entry["score"]) for entry in report.audited] == [("host", 40), ("waivers", None)]
    assert report.score == 40  # tidy waivers do not raise it


def test_one_open_place_keeps_a_check_from_being_waived():
    waiver = {"id": "AAA-01", "subject": "a", "reason": "accepted by us", "expires": "2027-01-01"}
    report = run(one(("AAA-01", "a", "w", "e"), ("AAA-01", "b", "w", "e")), waivers=[waiver])
    assert report.audited[0]["counts"]["fail"] == 1
    assert report.summary["waived"] == 1


def test_the_score_never_rounds_up_to_a_clean_sheet():
    table = {f"B-{n}": Check(f"B-{n}", "t", "critical", "S", (), "w", "f") for n in range(100)}
    table["B-low"] = Check("B-low", "t", "low", "S", (), "w", "f")
    assert run(one(("B-low", "s", "w", "e"), table=table)).score == 99


# -- waivers --------------------------------------------------------------------------------------------------------


def test_a_waiver_for_one_subject_is_not_superfluous_for_the_others():
    waiver = {"id": "AAA-01", "reason": "accepted by us", "expires": "2027-01-01"}
    report = run(one(("AAA-01", "s", "w", "e")), one(subject="other"), waivers=[waiver])
    assert [item["id"] for item in report.findings] == ["AAA-01"]
    assert [item["waived"]["expires"] for item in report.findings] == ["2027-01-01"]


def test_expired_and_idle_waivers_are_findings_of_their_own():
    waivers = [
        {"id": "AAA-01", "reason": "accepted by us", "expires": "2026-11-20"},
        {"id": "AAA-02", "reason": "accepted by us", "expires": "2027-01-01"},
    ]
    report = run(one(("AAA-01", "s", "w", "e")), waivers=waivers)
    assert [(item["id"], item["audited"]) for item in report.open()] == [
        ("AAA-01", "host"),
        ("WVR-01", "waivers"),
        ("WVR-02", "waivers"),
    ]


# -- the run before -------------------------------------------------------------------------------------------------


def states(report):
    return [(item["id"], item["where"], item["state"]) for item in report.findings]


def test_the_first_run_calls_nothing_new():
    report = run(one(("AAA-01", "s", "a.yml:1", "e")))
    assert states(report) == [("AAA-01", "a.yml:1", "")]
    assert (report.compared_with, report.summary["new"], report.summary["fixed"]) == (None, 0, 0)


def test_new_fixed_and_still_open():
    history = after(run(one(("AAA-01", "s", "a.yml:1", "e"), ("AAA-02", "s", "a.yml:2", "e"))))
    report = run(one(("AAA-01", "s", "a.yml:1", "e"), ("AAA-03", "s", "a.yml:3", "e")), history=history, day=2)
    assert states(report) == [("AAA-01", "a.yml:1", "open"), ("AAA-03", "a.yml:3", "new")]
    assert [item["id"] for item in report.fixed] == ["AAA-02"]
    assert report.compared_with == "2026-11-01T00:00:00Z"


def test_a_line_that_moved_makes_no_new_finding():
    history = after(run(one(("AAA-01", "s", "a.yml:1", "e"))))
    report = run(one(("AAA-01", "s", "a.yml:77", "other words")), history=history, day=2)
    assert states(report) == [("AAA-01", "a.yml:77", "open")]
    assert not report.fixed


def test_a_port_is_not_a_line():
    history = after(run(one(("AAA-01", "s", "0.0.0.0:80", "e"))))
    report = run(one(("AAA-01", "s", "0.0.0.0:81", "e")), history=history, day=2)
    assert states(report) == [("AAA-01", "0.0.0.0:81", "new")]
    assert [item["where"] for item in report.fixed] == ["0.0.0.0:80"]


def test_of_several_at_one_place_the_right_one_is_fixed():
    before = [("AAA-01", "s", "a.yml:4", "port 80"), ("AAA-01", "s", "a.yml:5", "port 81")]
    history = after(run(one(*before)))
    report = run(one(("AAA-01", "s", "a.yml:4", "port 81")), history=history, day=2)
    assert states(report) == [("AAA-01", "a.yml:4", "open")]
    assert [item["evidence"] for item in report.fixed] == ["port 80"]


def test_fingerprints_are_stable_and_unique():
    found = [("AAA-01", "s", "a.yml:4", "port 80"), ("AAA-01", "s", "a.yml:5", "port 81")]
    first = [item["fingerprint"] for item in run(one(*found)).findings]
    moved = [(check_id, subject, where + "0", seen) for check_id, subject, where, seen in found]
    assert first == [item["fingerprint"] for item in run(one(*moved)).findings]
    assert len(set(first)) == 2


def test_what_was_not_decided_is_not_fixed():
    history = after(run(one(("AAA-01", "s", "w", "e"))))
    report = run(one(unknown=("AAA-01",)), history=history, day=2)
    assert (report.fixed, [item["id"] for item in report.unverified]) == ([], ["AAA-01"])
    # it is remembered: found again it is no news, decided and gone it is fixed at last
    history = after(report, history)
    again = run(one(("AAA-01", "s", "w", "e")), history=history, day=3)
    assert states(again) == [("AAA-01", "w", "open")]
    gone = run(one(), history=history, day=3)
    assert ([item["id"] for item in gone.fixed], gone.unverified) == (["AAA-01"], [])


def test_what_was_decided_in_part_is_not_fixed():
    history = after(run(one(("AAA-01", "a", "w", "e"), ("AAA-01", "b", "w", "e"))))
    audit = Audit(TABLE)
    audit.find("AAA-01", "a", "w", "e")
    audit.unknown("AAA-01", "b did not answer")
    report = run({"subject": "host", "result": audit.result()}, history=history, day=2)
    assert (report.fixed, [item["subject"] for item in report.unverified]) == ([], ["b"])
    (group,) = [group for group in report.undecided if group["reason"] == "b did not answer"]
    assert group["checks"][0]["partly"] is True


def test_a_subject_that_was_not_audited_fixes_nothing():
    history = after(run(one(("AAA-01", "s", "w", "e")), one(("AAA-02", "s", "w", "e"), subject="other")))
    report = run(one(("AAA-01", "s", "w", "e")), history=history, day=2)
    assert (report.fixed, [item["audited"] for item in report.unverified]) == ([], ["other"])


def test_what_is_never_seen_again_is_forgotten_after_as_many_runs_as_are_kept():
    history = after(run(one(subject="host"), one(("AAA-02", "s", "w", "e"), subject="other")))
    for day in range(2, 9):
        report = run(one(), history=history, day=day)
        history = after(report, history)
    assert report.unverified == []


def test_a_subject_audited_for_the_first_time_has_nothing_new():
    history = after(run(one()))
    report = run(one(), one(("AAA-02", "s", "w", "e"), subject="other"), history=history, day=2)
    assert (states(report), report.first_audited) == ([("AAA-02", "w", "")], ["other"])


def test_a_waived_finding_stays_the_same_finding():
    history = after(run(one(("AAA-01", "s", "w", "e"))))
    waiver = {"id": "AAA-01", "reason": "accepted by us", "expires": "2027-01-01"}
    report = run(one(("AAA-01", "s", "w", "e")), history=history, day=2, waivers=[waiver])
    assert (report.fixed, report.new(), states(report)) == ([], [], [("AAA-01", "w", "open")])


# -- history --------------------------------------------------------------------------------------------------------


def test_the_history_is_bounded_and_only_its_end_holds_findings():
    history = []
    for day in range(1, 10):
        history = after(run(one(("AAA-01", f"s{day}", "w", "e")), history=history, day=day), history)
    assert [entry["generated"][8:10] for entry in history] == ["05", "06", "07", "08", "09"]
    assert ["findings" in entry for entry in history] == [False] * 4 + [True]
    assert all(core.usable(json.loads(json.dumps(entry))) for entry in history)


def test_runs_that_found_the_same_take_the_room_of_two():
    history = []
    for day in range(1, 10):
        history = after(run(one(("AAA-01", "s", "w", "e")), history=history, day=day), history)
    assert [entry["generated"][8:10] for entry in history] == ["01", "09"]


@pytest.mark.parametrize(
    "entry",
    [
        None, 3, {}, {"generated": "today"}, {"generated": "2026-13-01T00:00:00Z", "scores": {}, "open": {}},
        {"generated": "2026-11-01T00:00:00Z", "scores": {"a": 101}, "score": 1, "open": {}},
        {"generated": "2026-11-01T00:00:00Z", "scores": {"a": True}, "score": 1, "open": {}},
        {"generated": "2026-11-01T00:00:00Z", "scores": {}, "score": "1", "open": {}},
        {"generated": "2026-11-01T00:00:00Z", "scores": {}, "score": 1, "open": {"critical": "<b>"}},
        {"generated": "2026-11-01T00:00:00Z", "scores": {}, "score": 1, "findings": [{}],
         "open": dict.fromkeys(("critical", "high", "medium", "low", "info"), 0)},
    ],
)  # fmt: skip
def test_an_entry_that_is_no_run_is_not_usable(entry):
    assert not core.usable(entry)


def test_times_agree_with_the_calendar():
    for day in ("1970-01-01", "2000-02-29", "2026-11-21", "2100-03-01"):
        moment = datetime.datetime.fromisoformat(day + "T13:14:15+00:00")
        assert core.parse_time(f"{day}T13:14:15Z") == int(moment.timestamp())
    assert core.parse_time("2026-11-21 13:14:15") is None


# -- standards and what was not decided -----------------------------------------------------------------------------


def test_each_section_counts_the_checks_that_refer_to_it():
    report = run(one(("AAA-01", "s", "w", "e"), unknown=("AAA-02",), skip=("AAA-03",)))
    cis = report.standards[0]
    assert cis["name"] == "CIS Docker"
    assert [(row["section"], row["status"], [c["id"] for c in row["checks"]]) for row in cis["sections"]] == [
        ("5.4", "fail", ["AAA-01", "AAA-03"]),
        ("5.10", "unknown", ["AAA-02"]),
    ]
    assert cis["counts"] == {"fail": 1, "unknown": 1, "waived": 0, "pass": 0, "not_applicable": 1}
    assert [view["name"] for view in report.standards] == [
        "CIS Docker",
        "OWASP Docker",
        "NIST SP 800-190",
        "Mozilla TLS",
    ]


def test_a_check_that_nobody_ran_is_unknown_with_its_reason():
    report = run()
    assert {(item["id"], item["reason"]) for item in report.not_run} == {
        *((f"AAA-0{n}", "no audit of this run looks at it") for n in range(1, 6)),
        ("AAA-06", "no program can"),
    }
    assert all(check["status"] == "unknown" for check in report.checks)
    assert report.score is None


def test_what_was_not_decided_is_grouped_by_reason_worst_first():
    audit = Audit(TABLE)
    audit.decide("AAA-02", "AAA-05")
    audit.unknown("AAA-04", "the engine did not answer")
    audit.unknown("AAA-01", "the engine did not answer")
    audit.unknown("AAA-03", "no such file")
    report = run({"subject": "host", "result": audit.result()})
    assert [(group["reason"], [check["id"] for check in group["checks"]]) for group in report.undecided] == [
        ("the engine did not answer", ["AAA-01", "AAA-04"]),
        ("no such file", ["AAA-03"]),
    ]


def test_of_one_check_over_several_subjects_the_worst_status_stands():
    report = run(one(("AAA-01", "s", "w", "e")), one(subject="b", unknown=("AAA-01",)), one(subject="c"))
    (check,) = [check for check in report.checks if check["id"] == "AAA-01"]
    assert (check["status"], [seen["status"] for seen in check["seen"]]) == ("fail", ["fail", "unknown", "pass"])


def test_the_digest_knows_nothing_of_time_and_of_earlier_runs():
    first = run(one(("AAA-01", "s", "w", "e")))
    assert first.digest() == run(one(("AAA-01", "s", "w", "e")), history=after(first), day=9).digest()
    assert first.digest() != run(one(("AAA-01", "s", "w", "x"))).digest()


def test_the_sample_is_what_the_tests_of_the_page_think_it_is():
    report = sample.report()
    assert len(report.findings) > 50
    assert report.new() and report.fixed and report.waived() and report.undecided
    assert len(report.trend) > 8
