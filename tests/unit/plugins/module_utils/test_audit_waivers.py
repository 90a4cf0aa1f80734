# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A waiver covers what it names, until its day, and says so when it covers nothing."""

from __future__ import annotations

import datetime

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _checks_host
from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_catalogue import ALL
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_waivers import apply_waivers

TODAY = datetime.date(2026, 11, 21)
GOOD = {"id": "HST-08", "reason": "containerd is alone here", "expires": "2026-11-21"}


def judged(**waiver):
    """(evidence of what is found about the waiver, whether the finding is waived) with HST-07 passed and HST-08 failed."""
    audit = Audit(check for check in _checks_host.CHECKS if check.id in ("HST-07", "HST-08"))
    audit.decide("HST-07")
    audit.find("HST-08", "host", "/run/containerd.sock", "mode 0666")
    result = apply_waivers(audit.result(), [{**GOOD, **waiver}], TODAY, ALL)
    found = next(item for item in result["findings"] if item["id"] == "HST-08")
    return [(item["id"], item["evidence"]) for item in result["findings"] if item["id"] != "HST-08"], bool(
        found["waived"]
    )


NOTHING = ("WVR-02", "no finding of this run matches id, where and subject")
NO_DAY = ("WVR-03", "no day written YYYY-MM-DD: waives nothing")


@pytest.mark.parametrize(
    ("waiver", "said", "waived"),
    [
        ({}, [], True),
        ({"where": None, "subject": None}, [], True),
        ({"where": "/run/*", "subject": "h?st"}, [], True),
        ({"expires": datetime.date(2026, 11, 21)}, [], True),
        ({"where": ""}, [NOTHING], False),
        ({"subject": ""}, [NOTHING], False),
        ({"where": "/run"}, [NOTHING], False),
        ({"id": "HST-07"}, [NOTHING], False),
        ({"id": "CMP-08"}, [], False),  # another audit decides it
        ({"id": "HST-*"}, [("WVR-02", "there is no check of this id")], False),
        ({"id": "hst-08"}, [("WVR-02", "there is no check of this id")], False),
        ({"id": "HST-8"}, [("WVR-02", "there is no check of this id")], False),
        ({"id": "WVR-02"}, [("WVR-02", "what is found about waivers cannot be waived")], False),
        ({"expires": "2026-11-20"}, [("WVR-01", "expired on 2026-11-20; covered 1 findings")], False),
        ({"expires": "2026-W48-6"}, [NO_DAY], False),
        ({"expires": "2027-02-30"}, [NO_DAY], False),
        ({"expires": "20270101"}, [NO_DAY], False),
        ({"expires": "2027-01-01T00:00:00"}, [NO_DAY], False),
        ({"expires": "never"}, [NO_DAY], False),
        ({"reason": "  ok     ok "}, [("WVR-03", "no reason: waives nothing")], False),
        ({"id": ""}, [("WVR-03", "no id: waives nothing")], False),
        ({"id": ["HST-08"]}, [("WVR-03", "no id: waives nothing")], False),
    ],
)
def test_what_a_waiver_covers(waiver, said, waived):
    assert judged(**waiver) == (said, waived)
