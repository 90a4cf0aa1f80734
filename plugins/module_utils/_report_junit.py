# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report as JUnit XML, for pipelines. PRIVATE: may change in any release.

A suite for each thing audited, a case for each check. A failed check is a *failure*; one that was not decided is an
*error*, because a test that could not be carried out must not look like one that passed; one that does not apply, or
of which every finding is waived, is *skipped* with the reason.
"""

from __future__ import annotations

import re

from ansible_collections.mcpstack.platform.plugins.module_utils._audit_report import Report

#: All that XML 1.0 cannot carry, not even as a reference.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SPECIAL = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\t": "&#9;", "\n": "&#10;", "\r": "&#13;"}


def text(value: object) -> str:
    """Content or an attribute's value of any XML reader."""
    return re.sub('[&<>"\t\n\r]', lambda match: _SPECIAL[match[0]], _NO_XML.sub("\ufffd", str(value)))


def _lines(values: list[str]) -> str:
    return "\n".join(text(value) for value in values)


def _case(state: dict, findings: list[dict], audited: str) -> str:
    group = state["id"].partition("-")[0] or "check"
    head = f'  <testcase classname="{text(audited)}.{text(group)}" name="{text(state["id"])} {text(state["title"])}" time="0"'
    reason = text(state["reason"] or "no reason given")
    if state["status"] == "pass":
        return head + "/>\n"
    if state["status"] == "unknown":
        inside = f'<error type="undecided" message="not decided: {reason}"/>'
    elif state["status"] == "not_applicable":
        inside = f'<skipped message="not applicable: {reason}"/>'
    elif state["status"] == "waived":
        why = "; ".join(dict.fromkeys(f"{i['waived']['reason']} (until {i['waived']['expires']})" for i in findings))
        inside = f'<skipped message="waived: {text(why)}"/>'
    else:
        still_open = [item for item in findings if not item["waived"]]
        detail = []
        for item in still_open:
            detail += [
                f"{item['severity'].upper()} {item['where']} ({item['subject']})",
                f"  seen: {item['evidence']}",
                f"  fix:  {item['fix']}",
            ]
        if state["reason"]:
            detail.append(f"not decided to the end: {state['reason']}")
        message = f"{len(still_open)} finding{'s' if len(still_open) != 1 else ''}"
        inside = f'<failure type="{text(state["severity"])}" message="{message}">{_lines(detail)}</failure>'
    return f"{head}>\n   {inside}\n  </testcase>\n"


def write(report: Report) -> bytes:
    """report.junit.xml."""
    by_check: dict[tuple[str, str], list[dict]] = {}
    for item in report.findings:
        by_check.setdefault((item["audited"], item["id"]), []).append(item)
    moment = text(report.generated.rstrip("Z"))
    parts = ['<?xml version="1.0" encoding="UTF-8"?>\n<testsuites>\n']
    for number, entry in enumerate(report.audited):
        counts = entry["counts"]
        parts.append(
            f' <testsuite id="{number}" package="mcpstack.platform" name="{text(entry["name"])}" timestamp="{moment}"'
            f' hostname="localhost" tests="{len(entry["checks"])}" failures="{counts["fail"]}"'
            f' errors="{counts["unknown"]}" skipped="{counts["not_applicable"] + counts["waived"]}" time="0">\n'
            "  <properties>\n"
            f'   <property name="report" value="{text(report.title)}"/>\n'
            f'   <property name="score" value="{"none" if entry["score"] is None else entry["score"]}"/>\n'
            "  </properties>\n"
        )
        parts += [
            _case(state, by_check.get((entry["name"], state["id"]), []), entry["name"]) for state in entry["checks"]
        ]
        parts.append("  <system-out/>\n  <system-err/>\n </testsuite>\n")
    parts.append("</testsuites>\n")
    return "".join(parts).encode()
