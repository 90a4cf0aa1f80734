# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report as SARIF 2.1.0, for code scanning and editors. PRIVATE: may change in any release.

One run for each thing audited. Findings are results; what is gone since the run before is a result that is ``absent``;
a check that could not be decided is a notification of the invocation, so that no reader takes it for a pass.
"""

from __future__ import annotations

import json
import urllib.parse
import uuid

from ansible_collections.mcpstack.platform.plugins.module_utils._audit import natural
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_report import Report, place

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
#: SARIF knows three levels; the severity itself is kept as a property, and as a number for readers that rank by it.
LEVELS = {"critical": "error", "high": "error", "medium": "warning", "low": "note", "info": "note"}
RANKS = {"critical": 9.5, "high": 8.0, "medium": 5.5, "low": 3.0, "info": 0.0}
_SPACE = uuid.UUID("5f0c3b0e-6d0c-5d55-9d0b-3a1f4a1b7c52")
TOOL = "mcpstack.platform audit"


def _guid(*parts: str) -> str:
    return str(uuid.uuid5(_SPACE, "\0".join(parts)))


def _fenced(code: str) -> str:
    """A code block that its content cannot close."""
    fence = "```"
    while fence in code:
        fence += "`"
    return f"{fence}\n{code}\n{fence}"


def _plain(text: str) -> str:
    """Text in Markdown that stays text."""
    return "".join("\\" + char if char in "\\`*_{}[]<>()#+!|~-" else char for char in text)


def _rule(check: dict, examples: bool) -> dict:
    text = [part for part in (check["what"], f"Fix: {check['fix']}" if check["fix"] else "") if part]
    shown = [_plain(part) for part in text]
    if examples and check["failing"]:
        shown += ["Fails:", _fenced(check["failing"]), "Passes:", _fenced(check["fixed"])]
    if check["references"]:
        line = "References: " + ", ".join(check["references"])
        text.append(line)
        shown.append(_plain(line))
    text = text or [check["title"]]
    return {
        "id": check["id"],
        "name": check["id"].replace("-", ""),
        "shortDescription": {"text": check["title"]},
        "fullDescription": {"text": check["what"] or check["title"]},
        "help": {"text": "\n\n".join(text), "markdown": "\n\n".join(shown or map(_plain, text))},
        "defaultConfiguration": {"level": LEVELS[check["severity"]]},
        "properties": {
            "tags": ["security", *check["references"]],
            "severity": check["severity"],
            "security-severity": str(RANKS[check["severity"]]),
        },
    }


def _location(item: dict) -> dict:
    logical = {"fullyQualifiedName": item["subject"], "kind": "resource"}
    found = place(item["where"])
    if found is None:
        return {"logicalLocations": [logical, {"fullyQualifiedName": item["where"], "kind": "resource"}]}
    # a relative name stays relative to whatever tree the report is read beside
    uri = urllib.parse.quote(found.file, safe="/~")
    where: dict = {"artifactLocation": {"uri": f"file://{uri}" if uri.startswith("/") else uri}}
    if found.line:
        where["region"] = {"startLine": found.line}
        if found.column:
            where["region"]["startColumn"] = found.column
    return {"physicalLocation": where, "logicalLocations": [logical]}


def _result(item: dict, rules: dict[str, int], baseline: str | None) -> dict:
    text = f"{item['title']} ({item['subject']}): {item['evidence']}"
    result = {
        "ruleId": item["id"],
        "ruleIndex": rules[item["id"]],
        "level": LEVELS[item["severity"]],
        "message": {"text": f"{text}. Fix: {item['fix']}" if item.get("fix") else text},
        "locations": [_location(item)],
        "properties": {"severity": item["severity"], "subject": item["subject"]},
    }
    if item.get("fingerprint"):
        result["partialFingerprints"] = {"mcpstackFinding/v1": item["fingerprint"]}
    if baseline:
        result["baselineState"] = baseline
    waived = item["waived"]
    if waived:
        justification = f"{waived['reason']} (until {waived['expires']})" if isinstance(waived, dict) else "waived"
        result["suppressions"] = [{"kind": "external", "status": "accepted", "justification": justification}]
    return result


def _run(report: Report, entry: dict, checks: dict[str, dict], version: str) -> dict:
    name = entry["name"]
    found = [item for item in report.findings if item["audited"] == name]
    fixed = [item for item in report.fixed if item["audited"] == name]
    states = {state["id"]: state for state in entry["checks"]}
    used = sorted({item["id"] for item in [*found, *fixed]} | set(states), key=natural)
    failing = {item["id"] for item in found}
    rules = {check_id: number for number, check_id in enumerate(used)}
    compared = report.compared_with is not None and name not in report.first_audited
    baseline = {"new": "new", "open": "unchanged"}
    run: dict = {
        "tool": {
            "driver": {
                "name": TOOL,
                "version": version,
                "rules": [_rule(checks[check_id], check_id in failing) for check_id in used],
            }
        },
        "automationDetails": {"id": f"mcpstack-audit/{name}/", "guid": _guid(name, report.generated)},
        "columnKind": "unicodeCodePoints",
        "invocations": [
            {
                "executionSuccessful": True,
                "endTimeUtc": report.generated,
                "toolExecutionNotifications": [
                    {
                        "level": "warning",
                        "message": {"text": f"{state['id']} was not decided: {state['reason'] or 'no reason given'}"},
                        "associatedRule": {"id": state["id"], "index": rules[state["id"]]},
                    }
                    for state in entry["checks"]
                    if state["status"] == "unknown" or (state["status"] in ("fail", "waived") and state["reason"])
                ],
            }
        ],
        "results": [_result(item, rules, baseline[item["state"]] if compared else None) for item in found]
        + [_result({**item, "waived": None}, rules, "absent") for item in fixed],
        "properties": {"score": entry["score"], "checks": entry["counts"]},
    }
    if compared:
        run["baselineGuid"] = _guid(name, report.compared_with)
    return run


def _unknown_check(item: dict) -> dict:
    empty = {"what": "", "fix": "", "failing": "", "fixed": "", "references": []}
    return {"id": item["id"], "title": item["title"], "severity": item["severity"], **empty}


def document(report: Report, version: str) -> dict:
    """The log as plain data."""
    checks = {check["id"]: check for check in report.checks}
    for item in [*report.findings, *report.fixed]:
        checks.setdefault(item["id"], _unknown_check(item))
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [_run(report, entry, checks, version) for entry in report.audited],
    }


def write(report: Report, version: str) -> bytes:
    """report.sarif."""
    return json.dumps(document(report, version), indent=1, sort_keys=True).encode() + b"\n"
