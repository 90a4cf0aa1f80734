# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The door to the audit of engine, host and containers."""

from __future__ import annotations

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils._host_probe import HostFacts
from ansible_collections.mcpstack.platform.plugins.modules import docker_audit
from ansible_collections.mcpstack.platform.tests.unit.plugins.module_utils import docker_host_fixture as fixture


class TestDockerAudit:
    @pytest.fixture(autouse=True)
    def _world(self, monkeypatch):
        self.host = fixture.Host()
        core = docker_audit.core
        monkeypatch.setattr(core, "KeptEngine", lambda path: fixture.FakeEngine(self.host))
        monkeypatch.setattr(core, "ProcFiles", lambda: fixture.MemoryProc(self.host.data["proc"]))
        monkeypatch.setattr(core, "probe", lambda *_path, **_what: HostFacts())
        self.options = {"subjects": ["containers"], "edge_services": ["edge"], "container_ports": fixture.DECLARED}

    def test_nothing_to_find(self, call):
        result = call(docker_audit, self.options)
        assert (result["changed"], result["findings"], result.get("failed")) == (False, [], None)
        assert result["summary"]["checks_unknown"] == 1
        assert len(result["containers"]) == 5

    @pytest.mark.parametrize("check", [False, True])
    def test_it_stops_at_a_severity(self, call, check):
        self.host.container("valkey")["HostConfig"]["Privileged"] = True
        result = call(docker_audit, {**self.options, "fail_at": "critical"}, check=check)
        assert result["failed"] is True
        assert result["msg"].splitlines()[:4] == [
            "1 finding at or above critical:",
            "- CRITICAL CMP-01 Container is privileged",
            "  where: container mcpstack-valkey-1: HostConfig.Privileged (mcpstack-valkey-1)",
            "  seen:  privileged: true",
        ]

    def test_a_waiver(self, call):
        self.host.container("valkey")["HostConfig"]["Privileged"] = True
        waiver = {
            "id": "CMP-01",
            "subject": "mcpstack-valkey-1",
            "reason": "only for this test",
            "expires": "2999-12-31",
        }
        result = call(docker_audit, {**self.options, "fail_at": "low", "waivers": [waiver]})
        assert result.get("failed") is None
        assert result["findings"][0]["waived"] == {"reason": "only for this test", "expires": "2999-12-31"}

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"docker_host": "tcp://x:1"}, "docker_host: 'tcp://x:1' is no unix socket; the audit looks at the host it runs"
             " on, give its socket."),
            ({"network_members": {"data": "db"}}, "network_members.data: is no list; name the services that may be on the"
             " network"),
        ],
    )  # fmt: skip
    def test_options_that_cannot_be_used(self, call, options, message):
        assert call(docker_audit, {**self.options, **options})["msg"] == message
