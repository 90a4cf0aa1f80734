# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The door to the probe."""

from __future__ import annotations

import json

import pytest

from ansible_collections.mcpstack.platform.plugins.modules import endpoint_probe

KEY = "mk_dev_abcdefghijkl_" + "S" * 43 + "_00000000"


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "key"
    path.write_text(KEY)
    return str(path)


class TestEndpointProbe:
    def test_check_mode_touches_nothing(self, call):
        result = call(endpoint_probe, {"url": "https://absent.invalid/v1", "api_key_file": "/absent"}, check=True)
        assert result["changed"] is False
        assert {step["result"] for step in result["steps"]} == {"unknown"}

    def test_missing_key_file(self, call):
        result = call(endpoint_probe, {"url": "https://absent.invalid/v1", "api_key_file": "/absent"})
        assert result["failed"] is True
        assert result["msg"] == (
            "The API key file /absent cannot be read: No such file or directory. Give the file the deploy wrote."
        )

    def test_everything_is_named_and_the_key_is_not(self, call, key_file):
        result = call(
            endpoint_probe,
            {
                "url": "https://llm.test/v1",
                "connect_to": "127.0.0.1:1",
                "api_key_file": key_file,
                "expect": {"http_port": 0},
            },
        )
        assert result["failed"] is True
        lines = result["msg"].splitlines()
        assert lines[:2] == [
            "The endpoint does not work as expected:",
            "tcp (fail): 127.0.0.1:1 (llm.test): the connection is refused. "
            "Fix: check that the edge is running and publishes this port.",
        ]
        assert len(lines) == 1 + len(result["steps"])
        assert KEY not in json.dumps(result)

    def test_success_returns_figures_without_the_key(self, call, key_file, monkeypatch):
        step = {"step": "tcp", "result": "pass", "where": "x", "what": f"echo {KEY}", "fix": ""}
        monkeypatch.setattr(
            endpoint_probe.core.Probe,
            "run",
            lambda self: {"passed": True, "steps": [step], "figures": {"text": KEY, "ttft_ms": 1}},
        )
        result = call(endpoint_probe, {"url": "https://llm.test/v1", "api_key_file": key_file})
        assert result["changed"] is False
        assert result["figures"]["ttft_ms"] == 1
        assert KEY not in json.dumps(result)
