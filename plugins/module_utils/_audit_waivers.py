# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Waivers: findings that an operator accepts, with a reason and until a day. PRIVATE: may change in any release.

A waiver is ``{id, where, subject, reason, expires}``: the id of a check, globs for the place and the subject, why, and
the last day on which it counts (YYYY-MM-DD). A waiver that has expired, that matches nothing, or that is no waiver at
all is itself a finding, so that the list stays as short as the truth allows.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Container, Mapping

from ansible_collections.mcpstack.platform.plugins.module_utils._audit import (
    FAIL,
    PASS,
    Check,
    Finding,
    build_result,
    clean,
    matches,
)

CHECKS = (
    Check(
        "WVR-01", "Waiver has expired", "medium", "S", ("NIST SP 800-190 4.4.3",),
        "A waiver counts to the end of the day that it names. After that day the finding it covered is open again.",
        "Fix what the waiver covered and delete it, or decide again and give a new date with the reason.",
        "- {id: CMP-08, where: '*', reason: writes its cache, expires: '2020-01-31'}",
        "- {id: CMP-08, where: '*', reason: writes its cache, expires: '2099-01-31'}",
    ),
    Check(
        "WVR-02", "Waiver matches nothing", "low", "S", (),
        "Each waiver covers at least one finding of the run. Only waivers of checks that this run decided are judged.",
        "Delete the waiver: what it covered is fixed, or its id or place is misspelt.",
        "- {id: CMP-08, where: 'compose.yml:7', reason: gone since, expires: '2099-01-31'}",
        "- {id: CMP-08, where: 'compose.yml:12', reason: writes its cache, expires: '2099-01-31'}",
    ),
    Check(
        "WVR-03", "Waiver is malformed", "medium", "S", (),
        "A waiver names one check, a reason of at least eight characters and a day written YYYY-MM-DD. A malformed one"
        " waives nothing.",
        "Write the waiver with id, where, reason and expires.",
        "- {id: CMP-08, where: '*', reason: ok, expires: never}",
        "- {id: CMP-08, where: '*', reason: writes its cache, expires: '2099-01-31'}",
    ),
)  # fmt: skip
TABLE = {check.id: check for check in CHECKS}
REASON_MIN = 8
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def _finding(check_id: str, waiver: Mapping, evidence: str) -> dict:
    check = TABLE[check_id]
    where = f"waiver {waiver.get('id')} {waiver.get('where') or '*'}"
    return Finding(
        check.id, check.title, check.severity, "waivers", clean(where), clean(evidence), check.fix, check.references
    ).as_dict()


def _day(text: object) -> datetime.date | None:
    try:
        return datetime.date.fromisoformat(str(text)) if _DAY.fullmatch(str(text)) else None
    except ValueError:
        return None


def _place(pattern: str | None) -> str:
    """The glob of a waiver; one that is empty, as a variable may be, covers nothing instead of everything."""
    return "*" if pattern is None else str(pattern)


def apply_waivers(
    result: Mapping,
    waivers: list[dict],
    today: datetime.date | None = None,
    known: Container[str] | None = None,
    whole: bool = True,
) -> dict:
    """Mark what is waived and add the findings about the waivers themselves.

    today: the day that decides about expiry; the current day in UTC without it.
    known: ids of all checks that there are; a waiver of any other is told, although no run decides it.
    whole: whether this run sees all that the waivers may speak of. Half a look cannot say that one covers nothing.
    """
    if not waivers:
        return {key: result[key] for key in ("findings", "checks_run", "summary")}
    today = today or datetime.datetime.now(datetime.timezone.utc).date()
    findings = [dict(item) for item in result["findings"]]
    decided = {state["id"]: state["status"] for state in result["checks_run"]}
    complaints = []
    for waiver in waivers:
        expires = _day(waiver.get("expires"))
        reason = " ".join(str(waiver.get("reason") or "").split())
        named = isinstance(waiver.get("id"), str) and waiver["id"]
        if not named or expires is None or len(reason) < REASON_MIN:
            what = "no id" if not named else "no day written YYYY-MM-DD" if expires is None else "no reason"
            complaints.append(_finding("WVR-03", waiver, f"{what}: waives nothing"))
            continue
        covered = [
            item
            for item in findings
            if item["id"] == waiver["id"]
            and matches(_place(waiver.get("where")), item["where"])
            and matches(_place(waiver.get("subject")), item["subject"])
        ]
        if expires < today:
            complaints.append(_finding("WVR-01", waiver, f"expired on {expires}; covered {len(covered)} findings"))
            continue
        if waiver["id"] in TABLE:
            complaints.append(_finding("WVR-02", waiver, "what is found about waivers cannot be waived"))
        elif known is not None and waiver["id"] not in known and waiver["id"] not in decided:
            complaints.append(_finding("WVR-02", waiver, "there is no check of this id"))
        elif whole and not covered and decided.get(waiver["id"]) in (PASS, FAIL):
            complaints.append(_finding("WVR-02", waiver, "no finding of this run matches id, where and subject"))
        for item in covered:
            item["waived"] = {"reason": clean(reason), "expires": str(expires)}
    failed = {item["id"] for item in complaints}
    states = [dict(state) for state in result["checks_run"] if state["id"] not in TABLE] + [
        {
            "id": check.id,
            "title": check.title,
            "severity": check.severity,
            "status": FAIL if check.id in failed else PASS,
            "reason": "",
        }
        for check in CHECKS
    ]
    return build_result([item for item in findings if item["id"] not in TABLE] + complaints, states)
