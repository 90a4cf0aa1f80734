# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The door to the check of the listeners."""

from __future__ import annotations

import pytest

from ansible_collections.mcpstack.platform.plugins.modules import listeners


class FakeEngine:
    answer: object = ()

    def get(self, path):
        assert path == "/containers/json"
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class TestListeners:
    @pytest.fixture(autouse=True)
    def _world(self, monkeypatch):
        self.engine = type("Engine", (FakeEngine,), {"answer": []})
        monkeypatch.setattr(listeners, "Engine", self.engine)
        monkeypatch.setattr(listeners.core, "sockets", list)

    def test_nothing_listens(self, call):
        result = call(listeners, {"declared": [{"port": 443}]})
        assert result["failed"] is True
        assert result["msg"] == (
            "The platform does not listen as declared:\n443/tcp: is declared, but nothing of the platform listens there. "
            "Fix: check that the edge is running and publishes the port."
        )

    def test_check_mode_on_a_bare_host_reports_and_passes(self, call):
        self.engine.answer = listeners.EngineError("no Docker engine listens here")
        result = call(listeners, {"declared": [{"port": 443}]}, check=True)
        assert "failed" not in result
        assert [problem["where"] for problem in result["problems"]] == ["443/tcp"]

    def test_without_the_engine_nothing_is_decided(self, call):
        self.engine.answer = listeners.EngineError("no Docker engine listens here")
        result = call(listeners, {"declared": []})
        assert result["failed"] is True
        assert result["msg"] == "Cannot say what containers publish: no Docker engine listens here"

    def test_wrong_address(self, call):
        result = call(listeners, {"declared": [{"port": 1, "address": "everywhere"}]})
        assert result["msg"] == "declared[0].address: 'everywhere' is not an IP address."

    def test_as_declared(self, call):
        result = call(listeners, {"declared": []})
        result.pop("invocation", None)  # not every core repeats it
        assert result == {"changed": False, "listeners": [], "problems": []}
