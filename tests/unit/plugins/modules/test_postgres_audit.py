# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The door to the audit of PostgreSQL."""

from __future__ import annotations

import json

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _door_postgres
from ansible_collections.mcpstack.platform.plugins.modules import postgres_audit

PASSWORD = "k2Vq9xTr7LmZ4wNc8bYd"


class FakeEngine:
    running = True

    def get(self, path):
        if "gone" in path:
            raise _door_postgres.EngineError("No such container")
        return {
            "Config": {
                "Entrypoint": ["postgres"],
                "Cmd": ["-c", "fsync=off"],
                "Env": [f"POSTGRES_PASSWORD={PASSWORD}"],
            },
            "HostConfig": {"PortBindings": {"5432/tcp": [{"HostIp": "0.0.0.0", "HostPort": "5432"}]}},
            "Mounts": [{"Destination": "/docker-entrypoint-initdb.d", "RW": True}],
        }

    def find_service_container(self, project, service):
        return {"Id": "abc"} if self.running else None


class FakeServer:
    said: dict = {}
    asked: list = []

    def __init__(self, engine, container, major, timeout):
        assert (container, major) == ({"Id": "abc"}, 17)

    def run(self, text):
        self.asked.append(text)
        for part, answer in self.said.items():
            if part in text:
                return answer
        raise _door_postgres.StateError(
            [{"where": "postgres", "what": "permission denied", "fix": "log in as somebody else"}]
        )


@pytest.fixture(autouse=True)
def _world(monkeypatch):
    monkeypatch.setattr(_door_postgres, "Engine", type("Engine", (FakeEngine,), {}))
    monkeypatch.setattr(_door_postgres, "Server", type("Server", (FakeServer,), {"said": {}, "asked": []}))


@pytest.fixture
def files(tmp_path):
    (tmp_path / "postgresql.conf").write_text("ssl = off\n")
    (tmp_path / "pg_hba.conf").write_text("local all all trust\n")
    return {"config_file": str(tmp_path / "postgresql.conf"), "hba_file": str(tmp_path / "pg_hba.conf")}


def ids(result):
    return {item["id"] for item in result["findings"]}


@pytest.mark.parametrize("check", [False, True])
def test_files_and_container(call, files, check):
    result = call(postgres_audit, {**files, "container": "db"}, check=check)
    assert result["changed"] is False and "failed" not in result
    assert {"PGS-02", "PGS-03", "PGS-04", "PGS-05", "PGS-11"} <= ids(result)
    assert ("PGS-11", "command of postgres") in {(item["id"], item["where"]) for item in result["findings"]}
    assert PASSWORD not in json.dumps(result)


def test_fails_at_a_severity(call, files):
    result = call(postgres_audit, {**files, "fail_at": "critical"})
    assert result["failed"] is True and "CRITICAL PGS-02" in result["msg"]


def test_asks_through_psql(call):
    _door_postgres.Server.said.update({
        "pg_settings": json.dumps({"server_version": "12.1", "data_checksums": "on"}) + "\n",
        "pg_database": '[{"name": "a\\"b", "public": []}]\n',
        'connect "a""b"': '{"create": true, "extensions": [], "languages": []}\n',
    })  # fmt: skip
    result = call(postgres_audit, {"service": "postgres"})
    assert {"PGS-07", "PGS-12"} <= ids(result)
    assert any(text.startswith('\\connect "a""b"\n') for text in _door_postgres.Server.asked)
    assert "permission denied" in json.dumps(result["checks_run"])


def test_asks_over_the_network(call, monkeypatch, tmp_path):
    (tmp_path / "password").write_text(PASSWORD + "\n")
    seen = []

    def login(address, **options):
        seen.append((address, options["user"], options["password"], options["database"], options["server_name"]))
        if "pg_authid" in options["sql"]:
            raise _door_postgres.LoginError("permission denied for table pg_authid")
        return ["{}"]

    monkeypatch.setattr(_door_postgres, "login", login)
    options = {
        "host": "db",
        "user": "auditor",
        "password_file": str(tmp_path / "password"),
        "ca_file": "/ca",
        "contained": False,
    }
    result = call(postgres_audit, options)
    assert set(seen) == {("db", "auditor", PASSWORD, "postgres", "db")}
    assert "permission denied for table pg_authid" in json.dumps(result["checks_run"])
    assert PASSWORD not in json.dumps(result)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "one of the following is required: config_file, hba_file, container, service, host"),
        ({"container": "gone"}, "container: gone cannot be looked at: No such container"),
        (
            {"host": "db", "user": "u", "ca_file": "/ca", "password_file": "/nowhere"},
            "password_file: /nowhere cannot be read: No such file or directory.",
        ),
    ],
)
def test_options_that_cannot_be(call, options, message):
    assert call(postgres_audit, options)["msg"] == message


def test_nothing_runs(call):
    _door_postgres.Engine.running = False
    assert (
        call(postgres_audit, {"service": "db"})["msg"]
        == "service: db does not run in project mcpstack; start it first."
    )
