# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every audit shares: a check of the catalogue, a finding, and the result of one run.

PRIVATE: internal to the collection, may change in any release. Standard library only.

An audit goes through its checks, says of each whether it could be decided, and adds what it finds. ``Audit.result`` turns
that into the three parts that every module returns: ``findings``, ``checks_run`` and ``summary``. A check that nobody
decided is reported as unknown: silence is never a pass.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

#: From worst to mildest. ``info`` is worth knowing and never a reason to stop a deploy.
SEVERITIES = ("critical", "high", "medium", "low", "info")
RANK = {name: number for number, name in enumerate(SEVERITIES)}

PASS, FAIL, NOT_APPLICABLE, UNKNOWN = "pass", "fail", "not_applicable", "unknown"

#: Longest evidence that is kept; a finding shows a place, it does not carry a file.
EVIDENCE_LIMIT = 300

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True)
class Check:
    """One row of the catalogue.

    severity: of a plain failure; a finding may be milder or worse when the check has tiers.
    decided_by: letters in this order: S (a file), A (the engine's API), H (the host's files or /proc), W (the wire).
    references: "STANDARD SECTION", for example "CIS Docker 5.5", "OWASP Docker 3", "NIST SP 800-190 4.4.3",
        "CIS NGINX 2.5.1", "Mozilla TLS 5.7".
    what: what is decided, and what passes. fix: what to do. failing, fixed: an example of each.
    undecided: why no module decides this check; empty for all that are decided.
    """

    id: str
    title: str
    severity: str
    decided_by: str
    references: tuple[str, ...]
    what: str
    fix: str
    failing: str = ""
    fixed: str = ""
    undecided: str = ""


@dataclass(frozen=True)
class Finding:
    """One weakness at one place. ``where`` is a file and line, a container, a socket or a path."""

    id: str
    title: str
    severity: str
    subject: str
    where: str
    evidence: str
    fix: str
    references: tuple[str, ...]

    def as_dict(self) -> dict:
        """The shape of the finding contract."""
        return {**asdict(self), "references": list(self.references), "waived": None}


def clean(text: object, limit: int = EVIDENCE_LIMIT) -> str:
    """One printable line, whatever an audited file contained: no control characters, no bidirectional overrides."""
    line = _CONTROL.sub(" ", str(text))
    line = " ".join(line.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def natural(text: str) -> list:
    """Sort key that puts line 9 before line 10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"([0-9]+)", text)]


class Audit:
    """Collects what one run decides. ``table`` holds the checks this audit is responsible for, by id."""

    def __init__(self, table: Mapping[str, Check] | Iterable[Check]):
        checks = table.values() if isinstance(table, Mapping) else table
        self.table = {check.id: check for check in checks if not check.undecided}
        self._findings: dict[tuple, Finding] = {}
        self._decided: set[str] = set()
        self._not_applicable: dict[str, str] = {}
        self._unknown: dict[str, dict[str, None]] = {}  # reasons in the order they were given, each once

    def decide(self, *ids: str) -> None:
        """These checks were looked at to the end: without a finding they pass."""
        for check_id in ids:
            self._decided.add(self.table[check_id].id)

    def not_applicable(self, check_id: str, reason: str) -> None:
        """There is nothing here that the check speaks of."""
        self._not_applicable.setdefault(self.table[check_id].id, clean(reason))

    def unknown(self, check_id: str, reason: str) -> None:
        """The check could not be decided, here or in part. It cannot pass any more; findings still make it fail."""
        self._unknown.setdefault(self.table[check_id].id, {})[clean(reason)] = None

    def find(
        self,
        check_id: str,
        subject: str,
        where: str,
        evidence: str,
        *,
        severity: str | None = None,
        fix: str | None = None,
        title: str | None = None,
    ) -> None:
        """Add a finding; the same one twice counts once. Never pass the value of a secret as evidence."""
        check = self.table[check_id]
        if severity is not None and severity not in RANK:
            raise ValueError(f"{severity!r} is not one of {', '.join(SEVERITIES)}")
        finding = Finding(
            check.id, clean(title or check.title), severity or check.severity, clean(subject), clean(where, 500),
            clean(evidence), clean(fix or check.fix, 600), check.references,
        )  # fmt: skip
        self._findings[(finding.id, finding.subject, finding.where, finding.evidence)] = finding
        self._decided.add(check.id)

    def result(self) -> dict:
        """``findings``, ``checks_run`` and ``summary``, sorted so that two runs over the same thing are equal."""
        return build_result((finding.as_dict() for finding in self._findings.values()), self._states())

    def _states(self) -> list[dict]:
        failed = {finding.id for finding in self._findings.values()}
        states = []
        for check in self.table.values():
            reason = ""
            if check.id in failed:
                status = FAIL
                reason = "; ".join(self._unknown.get(check.id, ()))
            elif check.id in self._unknown:
                status, reason = UNKNOWN, "; ".join(self._unknown[check.id])
            elif check.id in self._decided:
                status = PASS
            elif check.id in self._not_applicable:
                status, reason = NOT_APPLICABLE, self._not_applicable[check.id]
            else:
                status, reason = UNKNOWN, "this run did not look at it"
            states.append(
                {"id": check.id, "title": check.title, "severity": check.severity, "status": status, "reason": reason}
            )
        return states


def sort_findings(findings: Iterable[dict]) -> list[dict]:
    """Worst first, then by id, subject and place."""
    return sorted(
        findings,
        key=lambda item: (
            RANK[item["severity"]],
            natural(item["id"]),
            natural(item["subject"]),
            natural(item["where"]),
            item["evidence"],
        ),
    )


def summarise(findings: Iterable[dict], checks_run: Iterable[dict]) -> dict:
    """Numbers of open findings by severity, of waived ones, and of checks by status; ``highest`` is the worst open one."""
    findings, checks_run = list(findings), list(checks_run)
    still_open = [item for item in findings if not item.get("waived")]
    summary: dict = {name: sum(item["severity"] == name for item in still_open) for name in SEVERITIES}
    summary["open"] = len(still_open)
    summary["waived"] = len(findings) - len(still_open)
    summary["highest"] = min((item["severity"] for item in still_open), key=RANK.__getitem__, default="none")
    for status in (PASS, FAIL, NOT_APPLICABLE, UNKNOWN):
        summary[f"checks_{status}"] = sum(state["status"] == status for state in checks_run)
    return summary


def build_result(findings: Iterable[dict], checks_run: Iterable[dict]) -> dict:
    """The three parts that every audit returns."""
    found = sort_findings(findings)
    states = sorted(checks_run, key=lambda state: natural(state["id"]))
    return {"findings": found, "checks_run": states, "summary": summarise(found, states)}


_PRECEDENCE = {FAIL: 0, UNKNOWN: 1, PASS: 2, NOT_APPLICABLE: 3}


def merge_results(results: Iterable[Mapping]) -> dict:
    """Several results as one. Of a check that several decided the worst answer stands: fail, unknown, pass, none."""
    findings: dict[tuple, dict] = {}
    states: dict[str, dict] = {}
    for result in results:
        for item in result["findings"]:
            findings[(item["id"], item["subject"], item["where"], item["evidence"])] = item
        for state in result["checks_run"]:
            known = states.get(state["id"])
            if known is None or _PRECEDENCE[state["status"]] < _PRECEDENCE[known["status"]]:
                states[state["id"]] = dict(state)
    return build_result(findings.values(), states.values())


def stops(result: Mapping, fail_at: str) -> list[dict]:
    """The open findings at or above ``fail_at`` (a severity, or ``none`` for never)."""
    if fail_at == "none":
        return []
    return [item for item in result["findings"] if not item["waived"] and RANK[item["severity"]] <= RANK[fail_at]]


def describe(findings: Iterable[Mapping]) -> str:
    """For a person at a terminal: a line for what and where, one for what was seen, one for what to do."""
    return "\n".join(
        f"- {item['severity'].upper()} {item['id']} {item['title']}\n"
        f"  where: {item['where']} ({item['subject']})\n"
        f"  seen:  {item['evidence']}\n"
        f"  fix:   {item['fix']}"
        for item in findings
    )


def matches(pattern: str, text: str) -> bool:
    """A waiver's glob against a place; without a wildcard it must be the whole text."""
    return fnmatch.fnmatchcase(text, pattern)
