# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The door to the audit of Valkey and Redis."""

from __future__ import annotations

import json

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _door_valkey
from ansible_collections.mcpstack.platform.plugins.modules import valkey_audit
from ansible_collections.mcpstack.platform.tests.unit.plugins.module_utils.tls_fixture import Server

PASSWORD = "k2Vq9xTr7LmZ4wNc8bYd"


class FakeEngine:
    def get(self, path):
        if "gone" in path:
            raise _door_valkey.EngineError("No such container")
        assert path == "/containers/mcpstack-valkey-1/json"
        return {
            "Config": {
                "Entrypoint": ["valkey-server"],
                "Cmd": ["--requirepass", PASSWORD],
                "Env": [],
                "Healthcheck": {"Test": ["CMD", "valkey-cli", "-e", "ping"]},
            },
            "HostConfig": {"Memory": 134217728, "PortBindings": {"6379/tcp": [{"HostIp": "", "HostPort": "6379"}]}},
        }


@pytest.fixture(autouse=True)
def _engine(monkeypatch):
    monkeypatch.setattr(_door_valkey, "Engine", FakeEngine)


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "valkey.conf"
    path.write_text(
        f"requirepass {PASSWORD}\nport 0\nmaxmemory 200mb\ntimeout 9\nclient-output-buffer-limit normal 1mb 1mb 1\n"
    )
    return str(path)


@pytest.mark.parametrize("check", [False, True])
def test_container(call, config, check):
    result = call(valkey_audit, {"config": config, "container": "mcpstack-valkey-1"}, check=check)
    assert result["changed"] is False and "failed" not in result
    assert [(item["id"], item["evidence"]) for item in result["findings"]] == [
        ("VLK-03", "publishes *:6379->6379/tcp"),
        ("VLK-02", "the command holds --requirepass"),
        ("VLK-05", "user default may run CONFIG SET, DEBUG, MODULE LOAD, FLUSHALL and 7 more"),
        ("VLK-06", "maxmemory 200mb is 156% of the container's memory limit"),
    ]
    assert PASSWORD not in json.dumps(result)


def test_options_instead_of_a_container(call, config):
    around = {
        "command": ["x"],
        "environment": ["A=b"],
        "healthcheck": ["CMD", "valkey-cli", "ping"],
        "memory_limit": "1g",
        "published": [],
    }
    result = call(valkey_audit, {"config": config, **around, "fail_at": "high"})
    assert result["failed"] is True
    assert [item["id"] for item in result["findings"]] == ["VLK-05", "VLK-07"]


def test_server(call, tmp_path):
    (tmp_path / "password").write_text(PASSWORD + "\n")

    def handle(sock):
        while data := sock.recv(4096):
            sock.sendall(b"+OK\r\n" if b"AUTH" in data and PASSWORD.encode() in data else b"-NOAUTH x\r\n")

    with Server(handle) as server:
        options = {
            "host": "127.0.0.1",
            "port": server.port,
            "tls": False,
            "password_file": str(tmp_path / "password"),
        }
        result = call(valkey_audit, options)
    assert result["findings"] == [] and result["summary"]["checks_pass"] == 0
    assert PASSWORD not in json.dumps(result)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "one of the following is required: config, container, host, unix_socket"),
        (
            {"config": "/x", "memory_limit": "lots"},
            "memory_limit: 'lots' is no size; write it like 128m or 2g.",
        ),
        ({"container": "gone"}, "container: gone cannot be looked at: No such container"),
        (
            {"host": "127.0.0.1", "password_file": "/nowhere"},
            "/nowhere cannot be read: No such file or directory.",
        ),
    ],
)
def test_options_that_cannot_be(call, options, message):
    assert call(valkey_audit, options)["msg"] == message
