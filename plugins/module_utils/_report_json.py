# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report for programs of our own: everything the page shows. PRIVATE: may change in any release."""

from __future__ import annotations

import json

from ansible_collections.mcpstack.platform.plugins.module_utils._audit_report import WEIGHTS, Report

#: Raised when a program that reads the report would have to change.
FORMAT = 1


def document(report: Report) -> dict:
    """The report as plain data."""
    return {
        "format": FORMAT,
        "title": report.title,
        "generated": report.generated,
        "digest": report.digest(),
        "compared_with": report.compared_with,
        "first_audited": report.first_audited,
        "score": report.score,
        "score_weights": WEIGHTS,
        "summary": report.summary,
        "audited": [
            {key: entry[key] for key in ("name", "score", "counts", "summary", "checks")} for entry in report.audited
        ],
        "findings": report.findings,
        "fixed": report.fixed,
        "unverified": report.unverified,
        "checks": [
            {key: check.get(key, "") for key in ("id", "title", "severity", "status", "ran", "references", "seen")}
            for check in report.checks
        ],
        "standards": report.standards,
        "undecided": report.undecided,
        "not_run": report.not_run,
        "trend": report.trend,
    }


def write(report: Report) -> bytes:
    """report.json."""
    return json.dumps(document(report), indent=1, sort_keys=True, ensure_ascii=True).encode() + b"\n"
