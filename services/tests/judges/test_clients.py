# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Clients of other people: the TypeScript SDK in both eras, and the inspector.

The Python SDK's client is used in both eras by mcp_inbound/test_endpoint.py.
"""

from __future__ import annotations

import json

import pytest
from judging import MODULES, Judged, node, script

pytestmark = pytest.mark.long

INSPECTOR = MODULES / "@modelcontextprotocol" / "inspector" / "clients" / "launcher" / "build" / "index.js"


@pytest.mark.parametrize(("mode", "version"), [("legacy", "2025-11-25"), ("auto", "2026-07-28")])
def test_typescript(judged: Judged, mode: str, version: str) -> None:
    key = judged.new_key("tools:read", "tools:call")
    done = node(script("client.mjs"), f"http://127.0.0.1:{judged.port}", mode, CREDENTIAL=key)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    servers = found.pop("servers")["servers"]
    assert [(server["name"], server["status"], server["tools"]) for server in servers] == [("fixture", "ok", 27)]
    assert found == {
        "version": version,
        "server": "mcpstack-registry",
        "front": ["call_tool", "call_tool_summarized", "find_tools", "list_servers"],
        "called": "hi",
        "found": True,
        "tools": 27,
        "prompts": 5,
        "resources": 3,
        "read": "This is the content of the static text resource.",
        "prompt": "This is a simple prompt for testing.",
        "echo": "hi",
        "header": "eu eu",
        "elicited": 'User response: action=accept, content={"username": "u", "email": "u@example.org"}',
        "sampled": "LLM response: sampled",
        "roots": "file:///r",
        "steps": [0, 50, 100],
        "failed": True,
        "unknown": -32602,
    }


@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_typescript_without_a_key(judged: Judged, mode: str) -> None:
    done = node(script("client.mjs"), f"http://127.0.0.1:{judged.port}", mode, CREDENTIAL="mk_dev_wrong")
    assert done.returncode != 0
    assert "401" in done.stderr or "Unauthorized" in done.stderr
    assert done.stdout == ""


def test_inspector(judged: Judged) -> None:
    key = judged.new_key("tools:read", "tools:call")

    def ask(path: str, *arguments: str, credential: str = key) -> tuple[int, str]:
        url = f"http://127.0.0.1:{judged.port}{path}"
        header = f"Authorization: Bearer {credential}"
        done = node(INSPECTOR, "--cli", url, "--transport", "http", "--header", header, *arguments)
        return done.returncode, done.stdout

    code, printed = ask("/mcp", "--method", "tools/list", "--strict")
    assert code == 0
    assert [tool["name"] for tool in json.loads(printed)["tools"]] == [
        "call_tool", "call_tool_summarized", "find_tools", "list_servers",
    ]  # fmt: skip
    code, printed = ask("/mcp/fixture", "--method", "tools/call", "--tool-name", "test_echo", "--tool-arg", "text=hi")
    assert (code, json.loads(printed)["content"][0]["text"]) == (0, "hi")
    code, printed = ask("/mcp/fixture", "--method", "prompts/list")
    assert (code, len(json.loads(printed)["prompts"])) == (0, 5)
    code, printed = ask("/mcp/fixture", "--method", "resources/read", "--uri", "test://static-text")
    assert (code, json.loads(printed)["contents"][0]["mimeType"]) == (0, "text/plain")
    code, _ = ask("/mcp", "--method", "tools/list", credential="mk_dev_wrong")
    assert code != 0
