# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a report says: the results of several audits as one, held against the run before.

PRIVATE: internal to the collection, may change in any release. Standard library only.

*Audited* is what one result speaks of ("compose project", "host gpu1"); the *subject* of a finding is the service or
file in it. The score of something audited is the weighted share of its decided checks that pass, rounded down:

    100 * sum(weight of the checks that pass) / sum(weight of the checks that pass or fail)

with the weights of ``WEIGHTS`` by the severity of the check. A check that was not decided is no pass: it is left out of
both sums and counted beside the score, and so is a check of which every finding is waived. Without a decided check
there is no score.

A finding is the same one as in the run before when what was audited, its id, its subject and its place without the line
are the same; several of these are told apart by what was seen. One that is gone counts as fixed only when its check was
decided to the end in this run; otherwise it is carried along as not verified.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ansible_collections.mcpstack.platform.plugins.module_utils._audit import (
    FAIL,
    NOT_APPLICABLE,
    PASS,
    RANK,
    SEVERITIES,
    UNKNOWN,
    Check,
    clean,
    merge_results,
    natural,
    sort_findings,
    summarise,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_waivers import TABLE as WAIVER_CHECKS
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_waivers import apply_waivers

#: What a check of each severity weighs in the score.
WEIGHTS = {"critical": 10, "high": 6, "medium": 3, "low": 1, "info": 0}
#: A check that failed, and of which every finding is waived. Only the report tells it from a failure.
WAIVED = "waived"
STATUSES = (FAIL, UNKNOWN, WAIVED, PASS, NOT_APPLICABLE)
#: The standards that have a view of their own, in this order; "STANDARD SECTION" is a reference to one.
STANDARDS = ("CIS Docker", "OWASP Docker", "NIST SP 800-190", "CIS NGINX", "Mozilla TLS", "CIS PostgreSQL")
#: Longest texts that a report repeats.
LIMITS = {"title": 200, "subject": 200, "where": 500, "evidence": 1000, "fix": 1000}
#: Findings of the last run that the history keeps for the next comparison.
KEPT_FINDINGS = 5000

_NOT_RUN = "no audit of this run looks at it"
_LINE = re.compile(r"^(?P<file>.+?)(?::(?P<line>[1-9][0-9]{0,8}))?(?::(?P<column>[1-9][0-9]{0,8}))?$")
_FILE_NAME = re.compile(
    r"(?:^|/)(?:[^/]*\.(?:ya?ml|conf|env|json|toml|ini|cfg|cnf|j2|service|socket|timer|rules|sh|py|pem|crt|key|acl|list"
    r"|sources|tar|lock)|\.env[^/]*|[^/]*Dockerfile[^/]*|Containerfile[^/]*)$",
    re.IGNORECASE,
)


class ReportError(Exception):
    """Results that are none. ``problems`` says of each place what is wrong, what to do follows in the message."""

    def __init__(self, problems: list[str]):
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True)
class Place:
    """A file, and the line and column in it where they are known."""

    file: str
    line: int | None = None
    column: int | None = None


def place(where: str) -> Place | None:
    """The file that a finding names; None where it names something else, such as a socket or a container."""
    match = _LINE.match(where)
    if match is None or "://" in where or any(char in where for char in " \t,()[]{}<>"):
        return None
    name = match["file"]
    if not (_FILE_NAME.search(name) or (name.startswith("/") and not name.endswith("/") and ":" not in name)):
        return None
    return Place(name, int(match["line"]) if match["line"] else None, int(match["column"]) if match["column"] else None)


def without_line(where: str) -> str:
    """The place, as it stays when lines are added above it."""
    found = place(where)
    return found.file if found else where


# -- what comes in ------------------------------------------------------------------------------------------------


def _problem(problems: list[str], where: str, what: str) -> None:
    if len(problems) < 20:
        problems.append(f"{where}: {what}; hand over what audit modules returned")


def _finding(item: object, where: str, problems: list[str]) -> dict | None:
    if not isinstance(item, Mapping):
        _problem(problems, where, f"is {type(item).__name__}, not a finding")
        return None
    for key in ("id", "title", "severity", "subject", "where", "evidence", "fix"):
        if not isinstance(item.get(key), str):
            _problem(problems, f"{where}.{key}", "is no text" if key in item else "is missing")
            return None
    if item["severity"] not in RANK:
        _problem(
            problems, f"{where}.severity", f"is {clean(item['severity'], 40)!r}, not one of {', '.join(SEVERITIES)}"
        )
        return None
    found: dict = {"id": clean(item["id"], 40), "severity": item["severity"]}
    found.update({key: clean(item[key], limit) for key, limit in LIMITS.items()})
    references = item.get("references") or []
    if not isinstance(references, (list, tuple)):
        _problem(problems, f"{where}.references", "is no list")
        return None
    found["references"] = [clean(reference, 100) for reference in references[:40]]
    waived = item.get("waived")
    if waived is not None and not isinstance(waived, Mapping):
        _problem(problems, f"{where}.waived", "is neither null nor a reason with a day")
        return None
    found["waived"] = (
        {"reason": clean(waived.get("reason", "")), "expires": clean(waived.get("expires", ""), 20)} if waived else None
    )
    return found


def _state(item: object, where: str, problems: list[str]) -> dict | None:
    if not isinstance(item, Mapping) or not isinstance(item.get("id"), str):
        _problem(problems, where, "is no state of a check")
        return None
    if item.get("status") not in (PASS, FAIL, NOT_APPLICABLE, UNKNOWN):
        _problem(
            problems,
            f"{where}.status",
            f"is {clean(item.get('status'), 40)!r}, not pass, fail, not_applicable or unknown",
        )
        return None
    severity = item.get("severity", "info")
    if not isinstance(severity, str) or severity not in RANK:
        _problem(problems, f"{where}.severity", f"is {clean(severity, 40)!r}, not one of {', '.join(SEVERITIES)}")
        return None
    return {
        "id": clean(item["id"], 40),
        "title": clean(item.get("title", ""), LIMITS["title"]),
        "severity": severity,
        "status": item["status"],
        "reason": clean(item.get("reason") or "", 500),
    }


def read_results(results: object) -> list[dict]:
    """Results as they came from outside, as ``[{subject, result}]``: one per subject, in order. Raises ReportError.

    Accepted are ``{subject, findings, checks_run}`` and ``{subject, result: {findings, checks_run}}``.
    """
    problems: list[str] = []
    merged: dict[str, list[dict]] = {}
    if not isinstance(results, (list, tuple)):
        raise ReportError(["results: is no list; hand over what audit modules returned"])
    for number, entry in enumerate(results):
        where = f"results[{number}]"
        if not isinstance(entry, Mapping) or not isinstance(entry.get("subject"), str) or not entry["subject"].strip():
            _problem(problems, where, "names no subject")
            continue
        result = entry.get("result", entry)
        findings = result.get("findings") if isinstance(result, Mapping) else None
        states = result.get("checks_run") if isinstance(result, Mapping) else None
        if not isinstance(findings, (list, tuple)) or not isinstance(states, (list, tuple)):
            _problem(problems, where, "has no findings and checks_run")
            continue
        name = clean(entry["subject"], 100)
        read = [_finding(item, f"{where}.findings[{index}]", problems) for index, item in enumerate(findings)]
        seen = [_state(item, f"{where}.checks_run[{index}]", problems) for index, item in enumerate(states)]
        if not problems:
            merged.setdefault(name, []).append({"findings": read, "checks_run": seen})
    if problems:
        raise ReportError(problems)
    return [{"subject": name, "result": merge_results(parts)} for name, parts in merged.items()]


#: What the findings about waivers speak of.
WAIVERS = "waivers"


def waive(results: list[dict], waivers: list[dict], today=None, known=None) -> list[dict]:
    """Apply waivers over everything at once, so that one which only covers a single result is not called superfluous."""
    if not waivers:
        return results
    findings = [{**item, "_of": entry["subject"]} for entry in results for item in entry["result"]["findings"]]
    states = merge_results([entry["result"] for entry in results])["checks_run"]
    judged = apply_waivers({"findings": findings, "checks_run": states, "summary": {}}, waivers, today, known)
    complaints = [item for item in judged["findings"] if "_of" not in item]
    by_subject: dict[str, list[dict]] = {}
    for item in judged["findings"]:
        if "_of" in item:
            by_subject.setdefault(item.pop("_of"), []).append(item)
    waived = []
    for entry in results:
        states = [state for state in entry["result"]["checks_run"] if state["id"] not in WAIVER_CHECKS]
        found = by_subject.get(entry["subject"], [])
        if entry["subject"] != WAIVERS or states or found:  # of an earlier report only what it said of waivers goes
            waived.append({"subject": entry["subject"], "result": _result(found, states)})
    states = [state for state in judged["checks_run"] if state["id"] in WAIVER_CHECKS]
    return [*waived, {"subject": WAIVERS, "result": _result(complaints, states)}]


def _result(findings: list[dict], states: list[dict]) -> dict:
    return {"findings": findings, "checks_run": states, "summary": summarise(findings, states)}


# -- scores -------------------------------------------------------------------------------------------------------


def _effective(states: Iterable[Mapping], findings: Iterable[Mapping]) -> list[dict]:
    """States of checks in which a failure that is wholly waived is told from one that is not."""
    still_open, waived = set(), set()
    for item in findings:
        (waived if item["waived"] else still_open).add(item["id"])
    return [
        {**state, "status": WAIVED}
        if state["status"] == FAIL and state["id"] in waived and state["id"] not in still_open
        else dict(state)
        for state in states
    ]


def score(states: Iterable[Mapping]) -> int | None:
    """The formula of this module's description, over effective states."""
    passed = decided = 0
    for state in states:
        weight = WEIGHTS[state["severity"]]
        passed += weight if state["status"] == PASS else 0
        decided += weight if state["status"] in (PASS, FAIL) else 0
    return 100 * passed // decided if decided else None


def count(states: Iterable[Mapping]) -> dict[str, int]:
    """How many checks have each status."""
    counts = dict.fromkeys(STATUSES, 0)
    for state in states:
        counts[state["status"]] += 1
    return counts


# -- the run before -----------------------------------------------------------------------------------------------


def _identity(item: Mapping) -> tuple:
    return item["audited"], item["id"], item["subject"], without_line(item["where"])


def _grouped(items: Iterable[dict]) -> dict[tuple, list[dict]]:
    groups: dict[tuple, list[dict]] = {}
    for item in items:
        groups.setdefault(_identity(item), []).append(item)
    return groups


def _pair(now: list[dict], before: list[dict]) -> tuple[list[dict], list[dict]]:
    """What of the same identity has no partner on the other side; the most alike are partners."""
    for alike in (lambda x: (x["where"], x["evidence"]), lambda x: x["evidence"], lambda x: None):
        waiting: dict = {}
        for item in before:
            waiting.setdefault(alike(item), []).append(item)
        left = []
        for item in now:
            partners = waiting.get(alike(item))
            if partners:
                partners.pop(0)
                item["state"] = "open"
            else:
                left.append(item)
        now, before = left, [item for items in waiting.values() for item in items]
    return now, before


@dataclass
class Report:
    """Everything that the writers show. ``compared_with`` is the time of the run before, if there was one.

    findings: as in the finding contract, with ``audited``, ``fingerprint`` and ``state`` (new, open, or empty where
        there is nothing to compare with).
    fixed, unverified: findings of the run before that are gone, and those of which nobody can say.
    undecided: ``[{audited, reason, checks}]``; not_run: checks of the catalogue that no audit of this run covers.
    trend: ``[{generated, score, scores, open, ...}]`` of earlier runs and this one, oldest first.
    """

    title: str
    generated: str
    compared_with: str | None = None
    first_audited: list[str] = field(default_factory=list)
    audited: list[dict] = field(default_factory=list)
    findings: list[dict] = field(default_factory=list)
    fixed: list[dict] = field(default_factory=list)
    unverified: list[dict] = field(default_factory=list)
    checks: list[dict] = field(default_factory=list)
    standards: list[dict] = field(default_factory=list)
    undecided: list[dict] = field(default_factory=list)
    not_run: list[dict] = field(default_factory=list)
    trend: list[dict] = field(default_factory=list)
    summary: dict = field(default_factory=dict)
    score: int | None = None

    def open(self) -> list[dict]:
        """Findings that are not waived."""
        return [item for item in self.findings if not item["waived"]]

    def waived(self) -> list[dict]:
        """Findings that are accepted."""
        return [item for item in self.findings if item["waived"]]

    def new(self) -> list[dict]:
        """Findings that the run before did not have."""
        return [item for item in self.findings if item["state"] == "new" and not item["waived"]]

    def digest(self) -> str:
        """A hash of what was found, the same for two runs between which only time went by."""
        found = [
            [item[key] for key in ("audited", "id", "severity", "subject", "where", "evidence", "waived")]
            for item in self.findings
        ]
        states = [
            [entry["name"], [[s["id"], s["status"], s["reason"]] for s in entry["checks"]]] for entry in self.audited
        ]
        return hashlib.sha256(json.dumps([self.title, found, states], sort_keys=True).encode()).hexdigest()

    def entry(self) -> dict:
        """What the history keeps of this run."""
        kept = [
            {**{key: item[key] for key in _KEPT}, "waived": bool(item["waived"])} for item in self.findings
        ] + self.unverified
        return {**self.trend[-1], "digest": self.digest(), "findings": kept[:KEPT_FINDINGS]}


_KEPT = ("audited", "id", "title", "severity", "subject", "where", "evidence")


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def usable(entry: object) -> bool:
    """Whether an entry of a history is one."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("generated"), str):
        return False
    if parse_time(entry["generated"]) is None or not isinstance(entry.get("scores"), Mapping):
        return False
    values = [entry.get("score"), *entry["scores"].values()]
    if not all(value is None or (_whole(value) and 0 <= value <= 100) for value in values):
        return False
    numbers = entry.get("open")
    if not isinstance(numbers, Mapping) or not all(_whole(numbers.get(name)) for name in SEVERITIES):
        return False
    findings = entry.get("findings", [])
    return isinstance(findings, list) and all(
        isinstance(item, Mapping)
        and all(isinstance(item.get(key), str) for key in _KEPT)
        and item["severity"] in RANK
        and _whole(item.get("missed", 0))
        for item in findings
    )


_TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)Z")


def parse_time(text: str) -> int | None:
    """Seconds since the epoch of a time as reports write it; None for anything else."""
    match = _TIME.fullmatch(text)
    if not match:
        return None
    year, month, day, hour, minute, second = map(int, match.groups())
    if not (1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second < 61):
        return None
    year, month = (year, month) if month > 2 else (year - 1, month + 12)
    days = 365 * year + year // 4 - year // 100 + year // 400 + (153 * (month - 3) + 2) // 5 + day - 719469
    return days * 86400 + hour * 3600 + minute * 60 + second


def remember(history: list[dict], report: Report, keep: int) -> list[dict]:
    """The history with this run at its end. Only the last entry holds findings.

    Of several runs that found the same only the first and the last stay, so that the numbers kept reach further back.
    """
    entries = [{key: value for key, value in item.items() if key != "findings"} for item in history]
    latest = report.entry()
    if len(entries) >= 2 and all(item.get("digest") == latest["digest"] for item in entries[-2:]):
        entries.pop()
    return [*entries, latest][-keep:]


def build(
    results: list[dict],
    history: list[dict],
    *,
    title: str,
    generated: str,
    catalogue: Mapping[str, Check] | None = None,
    keep: int = 90,
) -> Report:
    """The report of results that ``read_results`` and ``waive`` gave; history is oldest first, all of it ``usable``."""
    catalogue = catalogue or {}
    report = Report(clean(title, 200), generated)
    found, all_states = [], []
    for entry in results:
        name, result = entry["subject"], entry["result"]
        findings = [{**item, "audited": name, "state": ""} for item in result["findings"]]
        states = sorted(_effective(result["checks_run"], findings), key=lambda state: natural(state["id"]))
        found += findings
        all_states.append((name, states))
        report.audited.append(
            {
                "name": name,
                "score": score(states) if name != WAIVERS else None,
                "checks": states,
                "counts": count(states),
                "summary": summarise(findings, result["checks_run"]),
            }
        )
    report.findings = sort_findings(found)
    everything = [state for _name, states in all_states for state in states]
    # how tidy the waivers are says nothing of the state of what was audited
    report.score = score(state for name, states in all_states for state in states if name != WAIVERS)
    _compare(report, history[-1] if history else None, keep)
    for items in _grouped(report.findings).values():
        for number, item in enumerate(items):
            item["fingerprint"] = hashlib.sha256("\0".join([*_identity(item), str(number)]).encode()).hexdigest()[:32]
    _checks(report, all_states, catalogue)
    report.standards = _standards(report.checks)
    _undecided(report)
    merged = merge_results([entry["result"] for entry in results])["checks_run"] if results else []
    report.summary = {
        **summarise(report.findings, merged),
        "score": report.score,
        "new": len(report.new()),
        "fixed": len(report.fixed),
        "unverified": len(report.unverified),
    }
    now = {
        "generated": generated,
        "score": report.score,
        "scores": {entry["name"]: entry["score"] for entry in report.audited},
        "open": {name: report.summary[name] for name in SEVERITIES},
        "waived": report.summary["waived"],
        "checks": count(everything),
    }
    report.trend = [
        {"waived": 0, "checks": {}, **{key: value for key, value in entry.items() if key in now}} for entry in history
    ] + [now]
    return report


def _compare(report: Report, before: Mapping | None, keep: int) -> None:
    if before is None:
        return
    report.compared_with = before["generated"]
    known = set(before["scores"])
    names = {entry["name"] for entry in report.audited}
    report.first_audited = sorted(names - known)
    # nothing is missing, and nothing is known, of what is audited for the first time
    now = _grouped(item for item in report.findings if item["audited"] in known)
    previously = _grouped(before.get("findings", []))
    settled = {
        (entry["name"], state["id"])
        for entry in report.audited
        for state in entry["checks"]
        if state["status"] != UNKNOWN and not (state["status"] in (FAIL, WAIVED) and state["reason"])
    }
    for identity in {**now, **previously}:
        appeared, gone = _pair(now.get(identity, []), previously.get(identity, []))
        for item in appeared:
            item["state"] = "new"
        for item in gone:
            item = {**{key: item[key] for key in _KEPT}, "waived": bool(item.get("waived")), "missed": item.get("missed", 0) + 1}  # fmt: skip
            if (item["audited"], item["id"]) in settled:
                report.fixed.append(item)
            elif item["missed"] <= keep:
                report.unverified.append(item)
    report.fixed = sort_findings(report.fixed)
    report.unverified = sort_findings(report.unverified)


_WORST = {status: number for number, status in enumerate(STATUSES)}


def _checks(report: Report, all_states: list[tuple[str, list[dict]]], catalogue: Mapping[str, Check]) -> None:
    """Every check once, with what each audit said of it; those of the catalogue that nobody ran stay unknown."""
    checks: dict[str, dict] = {}
    references: dict[str, list[str]] = {}
    for item in report.findings:
        references.setdefault(item["id"], item["references"])
    for name, states in all_states:
        for state in states:
            check = checks.setdefault(
                state["id"],
                {"id": state["id"], "title": state["title"], "severity": state["severity"], "status": state["status"],
                 "ran": True, "seen": []},
            )  # fmt: skip
            check["seen"].append({"audited": name, "status": state["status"], "reason": state["reason"]})
            if _WORST[state["status"]] < _WORST[check["status"]]:
                check["status"] = state["status"]
    for row in catalogue.values():
        if row.id not in checks:
            checks[row.id] = {"id": row.id, "title": row.title, "severity": row.severity, "status": UNKNOWN,
                              "ran": False, "seen": [], "reason": row.undecided or _NOT_RUN}  # fmt: skip
    for check in checks.values():
        row = catalogue.get(check["id"])
        check["references"] = list(row.references) if row else references.get(check["id"], [])
        for key in ("what", "fix", "failing", "fixed"):
            check[key] = getattr(row, key) if row else ""
    report.checks = sorted(checks.values(), key=lambda check: natural(check["id"]))


def _standards(checks: list[dict]) -> list[dict]:
    views = []
    for standard in STANDARDS:
        sections: dict[str, list[dict]] = {}
        for check in checks:
            for reference in check["references"]:
                if reference.startswith(standard + " "):
                    sections.setdefault(reference[len(standard) + 1 :], []).append(check)
        if not sections:
            continue
        rows = []
        for section in sorted(sections, key=natural):
            inside = list({check["id"]: check for check in sections[section]}.values())
            rows.append(
                {
                    "section": section,
                    "status": min((check["status"] for check in inside), key=_WORST.__getitem__),
                    "counts": count(inside),
                    "checks": [{key: check[key] for key in ("id", "title", "severity", "status")} for check in inside],
                }
            )
        whole = {check["id"]: check for inside in sections.values() for check in inside}
        views.append({"name": standard, "counts": count(whole.values()), "sections": rows})
    return views


def _undecided(report: Report) -> None:
    groups: dict[tuple[str, str], list[dict]] = {}
    for entry in report.audited:
        for state in entry["checks"]:
            partly = state["status"] in (FAIL, WAIVED) and bool(state["reason"])
            if state["status"] == UNKNOWN or partly:
                reason = state["reason"] or "no reason given"
                groups.setdefault((entry["name"], reason), []).append(
                    {"id": state["id"], "title": state["title"], "severity": state["severity"], "partly": partly}
                )
    report.undecided = sorted(
        ({"audited": name, "reason": reason, "checks": checks} for (name, reason), checks in groups.items()),
        key=lambda group: (
            min(RANK[check["severity"]] for check in group["checks"]),
            natural(group["audited"]),
            natural(group["checks"][0]["id"]),
        ),
    )
    report.not_run = [
        {key: check[key] for key in ("id", "title", "severity", "reason")}
        for check in report.checks
        if not check["ran"]
    ]
