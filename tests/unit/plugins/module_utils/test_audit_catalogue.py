# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one table of checks, and how an audit keeps what it could not decide."""

from __future__ import annotations

import re

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils._audit import SEVERITIES, Audit
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_catalogue import ALL


@pytest.mark.parametrize("check", ALL.values(), ids=lambda check: check.id)
def test_every_row_is_spelled_in_one_way(check):
    assert re.fullmatch(r"S?A?H?W?", check.decided_by) and check.decided_by
    assert re.fullmatch(r"[A-Z]{3}-[0-9]{2}", check.id) and check.severity in SEVERITIES


def test_each_reason_is_kept_once_in_the_order_it_came():
    audit = Audit(ALL)
    for number in [*range(20000), *range(20000)]:
        audit.unknown("IMG-01", f"reason {number}")
    reasons = next(state["reason"] for state in audit.result()["checks_run"] if state["id"] == "IMG-01").split("; ")
    assert reasons == [f"reason {number}" for number in range(20000)]
