# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The MCP conformance suite through the registry to a server that has every tool it asks for.

Its ticks are not believed: a scenario of it may be green without a check, or because a tool does not exist. What is
asserted is how many checks of each scenario succeeded, and which ones did not, by name.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from judging import Judged, bearer, conformance

from support import Loop

pytestmark = pytest.mark.long

_MRTR = "input-required-result-"
SUCCEED: dict[str, dict[str, int]] = {
    "2026-07-28": {
        "server-stateless": 25,
        "completion-complete": 2,
        "tools-list": 4,
        "tools-call-simple-text": 2,
        "tools-call-image": 2,
        "tools-call-audio": 2,
        "tools-call-embedded-resource": 2,
        "tools-call-mixed-content": 2,
        "tools-call-error": 2,
        "tools-call-with-progress": 2,
        "server-sse-multiple-streams": 1,
        "resources-list": 2,
        "resources-read-text": 2,
        "resources-read-binary": 2,
        "resources-templates-read": 2,
        "sep-2164-resource-not-found": 4,
        "prompts-list": 2,
        "prompts-get-simple": 2,
        "prompts-get-with-args": 2,
        "prompts-get-embedded-resource": 2,
        "prompts-get-with-image": 2,
        "dns-rebinding-protection": 2,
        "caching": 8,
        f"{_MRTR}basic-elicitation": 3,
        f"{_MRTR}basic-sampling": 3,
        f"{_MRTR}basic-list-roots": 3,
        f"{_MRTR}request-state": 3,
        f"{_MRTR}multiple-input-requests": 3,
        f"{_MRTR}multi-round": 4,
        f"{_MRTR}missing-input-response": 2,
        f"{_MRTR}non-tool-request": 3,
        f"{_MRTR}result-type": 2,
        f"{_MRTR}unsupported-methods": 2,
        f"{_MRTR}tampered-state": 2,
        f"{_MRTR}capability-check": 2,
        f"{_MRTR}ignore-extra-params": 2,
        f"{_MRTR}validate-input": 3,
        # not scored by the suite
        "json-schema-2020-12": 8,
        "http-header-validation": 14,
        "http-custom-header-server-validation": 10,
    },
    "2025-11-25": {
        "server-initialize": 3,
        "logging-set-level": 2,
        "ping": 2,
        "completion-complete": 2,
        "tools-list": 3,
        "tools-call-simple-text": 2,
        "tools-call-image": 2,
        "tools-call-audio": 2,
        "tools-call-embedded-resource": 2,
        "tools-call-mixed-content": 2,
        "tools-call-with-logging": 2,
        "tools-call-error": 2,
        "tools-call-with-progress": 2,
        "tools-call-sampling": 2,
        "tools-call-elicitation": 2,
        "elicitation-sep1034-defaults": 6,
        "server-sse-multiple-streams": 2,
        "elicitation-sep1330-enums": 6,
        "resources-list": 2,
        "resources-read-text": 2,
        "resources-read-binary": 2,
        "resources-templates-read": 2,
        "resources-subscribe": 1,
        "resources-unsubscribe": 1,
        "prompts-list": 2,
        "prompts-get-simple": 2,
        "prompts-get-with-args": 2,
        "prompts-get-embedded-resource": 2,
        "prompts-get-with-image": 2,
        "dns-rebinding-protection": 2,
        # not scored by the suite
        "server-session-lifecycle": 3,
        "json-schema-2020-12": 8,
    },
}

# Required by the suite and not there.
_NO_SUBSCRIPTIONS = (
    "The registry declares no resources.subscribe: it keeps no stream open with each outside server for each caller, "
    "and would have nothing to say to a subscriber. The suite asks without looking at what is declared."
)
FAIL: dict[str, dict[tuple[str, str], str]] = {
    "2026-07-28": {},
    "2025-11-25": {
        ("resources-subscribe", "resources-subscribe"): _NO_SUBSCRIPTIONS,
        ("resources-unsubscribe", "resources-unsubscribe"): _NO_SUBSCRIPTIONS,
    },
}

# Optional by definition (the suite does not score them): the tasks extension is not declared.
OPTIONAL = "tasks-"

# Neither succeeded nor failed, each with its status.
OTHER: dict[str, set[tuple[str, str, str]]] = {
    "2026-07-28": {
        ("server-sse-multiple-streams", "server-sse-streams-functional", "INFO"),  # streams are not needed here
        # Lists are asked for again; nothing is declared to change by itself, so there is nothing to listen to.
        ("server-stateless", "sep-2575-server-sends-subscription-ack", "SKIPPED"),
        ("server-stateless", "sep-2575-server-tags-subscription-id", "SKIPPED"),
        ("server-stateless", "sep-2575-server-honors-notification-filter", "SKIPPED"),
        ("server-stateless", "sep-2575-server-sends-prompts-list-changed-on-subscription", "SKIPPED"),
        ("server-stateless", "sep-2575-server-sends-tools-list-changed-on-subscription", "SKIPPED"),
    },
    "2025-11-25": set(),
}
# Resuming a stream that was cut off is optional, needs memory shared by all replicas, and is not offered.
UNUSED = "server-sse-polling"


@pytest.mark.parametrize("revision", ["2026-07-28", "2025-11-25"])
def test_conformance(loop: Loop, judged: Judged, tmp_path: Path, revision: str) -> None:
    key = judged.new_key("tools:read", "tools:call")
    with bearer(loop, judged.port, key) as port:
        found, printed = conformance(f"http://127.0.0.1:{port}/mcp/fixture", revision, tmp_path)
    found = {name: checks for name, checks in found.items() if not name.startswith(OPTIONAL) and name != UNUSED}
    counted = {name: sum(check["status"] == "SUCCESS" for check in checks) for name, checks in found.items()}
    assert counted == SUCCEED[revision], printed[-4000:]
    rest = [(name, check) for name, checks in found.items() for check in checks if check["status"] != "SUCCESS"]
    assert {(name, check["id"]) for name, check in rest if check["status"] == "FAILURE"} == FAIL[revision].keys()
    others = {(name, check["id"], check["status"]) for name, check in rest if check["status"] != "FAILURE"}
    assert others == OTHER[revision]
    statuses: Counter[Any] = Counter(check["status"] for checks in found.values() for check in checks)
    print(f"conformance {revision}: {len(found)} scenarios, {dict(statuses)}")


def test_the_suite_can_fail(loop: Loop, judged: Judged, tmp_path: Path) -> None:
    """Against the registry's own four tools, which are none of those it asks for, almost nothing may succeed."""
    key = judged.new_key("tools:read", "tools:call")
    with bearer(loop, judged.port, key) as port:
        found, _ = conformance(f"http://127.0.0.1:{port}/mcp", "2026-07-28", tmp_path)
    counted = {name: sum(check["status"] == "SUCCESS" for check in checks) for name, checks in found.items()}
    differs = [name for name, count in SUCCEED["2026-07-28"].items() if counted.get(name) != count]
    assert len(differs) > 25
    assert "http-header-validation" not in differs
