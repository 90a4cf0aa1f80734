# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Declared MCP servers against what the registry says there is."""

from __future__ import annotations

import json

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _mcp_servers as core
from ansible_collections.mcpstack.platform.plugins.module_utils._endpoint_probe import Answer, ProbeError
from ansible_collections.mcpstack.platform.plugins.modules import mcp_servers

DOCS = {"id": "docs", "url": "https://mcp.example.org/mcp"}
SAID = {
    "id": "docs", "url": "https://mcp.example.org/mcp", "description": "", "trust": "untrusted", "enabled": True, "call_timeout": 30.0,
    "sync_interval": 900, "auth_ref": None, "status": "ok", "tools": {"active": 3},
}  # fmt: skip


class Api:
    """The registry behind the edge: a table of servers, or what it answers instead."""

    def __init__(self, *servers, page=100, refuse=None, error=None):
        self.table, self.page, self.refuse, self.error = {item["id"]: item for item in servers}, page, refuse, error
        self.calls, self.key, self.where = [], "the-key", "127.0.0.1:443 (ai.example.org)"

    def __call__(self, url, key, connect_to, ca_file):
        self.asked = (url, key, connect_to, ca_file)
        return self

    def _request(self, method, path, body, key):
        assert key == self.key
        if self.error:
            raise self.error
        if method != "GET":
            self.calls.append((method, path, body))
            if self.refuse:
                status, said = self.refuse
                return Answer(status, [], json.dumps(said).encode())
            return Answer(204 if method == "DELETE" else 201, [], b"" if method == "DELETE" else b"{}")
        after = path.partition("after=")[2]
        names = sorted(name for name in self.table if name > after)
        data = [self.table[name] for name in names[: self.page]]
        more = data[-1]["id"] if len(names) > self.page else None
        return Answer(200, [], json.dumps({"data": data, "next": more}).encode())


@pytest.fixture
def key_file(tmp_path):
    (tmp_path / "key").write_text("the-key")
    return str(tmp_path / "key")


def reconcile(key_file, api, *servers, check=False):
    return core.reconcile(
        list(servers), "https://ai.example.org/registry", key_file, "127.0.0.1:443", "/ca", check=check, probe=api
    )


def test_a_new_server_is_registered_with_all_that_is_declared(key_file):
    api = Api()
    server = {
        **DOCS,
        "description": "Docs",
        "key_file": "/root/docs",
        "trust": "trusted",
        "timeout": 5,
        "sync_interval": 60,
    }
    assert reconcile(key_file, api, server) == {"changed": True, "actions": ["register docs"]}
    body = {
        "id": "docs", "url": DOCS["url"], "description": "Docs", "trust": "trusted", "enabled": True, "call_timeout": 5,
        "sync_interval": 60, "auth_ref": "docs",
    }  # fmt: skip
    assert api.calls == [("POST", "/v1/servers", body)]
    assert api.asked == ("https://ai.example.org/registry", "the-key", "127.0.0.1:443", "/ca")


def test_what_is_as_declared_is_left_alone(key_file):
    api = Api(SAID, {**SAID, "id": "other"})
    assert reconcile(key_file, api, DOCS) == {"changed": False, "actions": []}
    assert api.calls == []


@pytest.mark.parametrize(
    "change",
    [
        {"url": "https://other.example.org/mcp"},
        {"description": "x"},
        {"trust": "trusted"},
        {"enabled": False},
        {"timeout": 31},
        {"sync_interval": 60},
        {"key_file": "/root/docs"},
    ],
)
def test_one_difference_changes_the_server(key_file, change):
    api = Api(SAID)
    assert reconcile(key_file, api, {**DOCS, **change})["actions"] == ["change docs"]
    assert reconcile(key_file, api, {**DOCS, **change}, check=True)["actions"] == ["change docs"]
    assert [call[0] for call in api.calls] == ["POST"]


@pytest.mark.parametrize(("there", "actions"), [(True, ["remove docs"]), (False, [])])
def test_an_absent_server_is_removed(key_file, there, actions):
    api = Api(*([SAID] if there else []))
    assert reconcile(key_file, api, {"id": "docs", "state": "absent"})["actions"] == actions
    assert [call[:2] for call in api.calls] == ([("DELETE", "/v1/servers/docs")] if there else [])


def test_all_pages_are_read(key_file):
    many = [{**SAID, "id": f"s{number}"} for number in range(5)]
    assert (
        reconcile(key_file, Api(*many, page=2), *({**DOCS, "id": f"s{number}"} for number in range(5)))["actions"] == []
    )


@pytest.mark.parametrize(
    ("api", "kind", "message"),
    [
        (
            Api(error=ConnectionRefusedError("refused")), core.NotYet,
            "127.0.0.1:443 (ai.example.org): the registry cannot be asked (refused); run site.yml first.",
        ),
        (
            Api(refuse=(400, {"error": {"message": "The URL cannot be used: it is private.", "suggestions": ["Allow it."]}})),
            core.ServersError,
            "server docs: The URL cannot be used: it is private. Allow it.",
        ),
        (Api(refuse=(503, {})), core.NotYet, "server docs: it answered 503"),
        (Api(refuse=(403, [])), core.ServersError, "server docs: it answered 403"),
    ],
)  # fmt: skip
def test_trouble(key_file, api, kind, message):
    with pytest.raises(core.ServersError) as error:
        reconcile(key_file, api, DOCS)
    assert (type(error.value), str(error.value)) == (kind, message)


def test_without_a_key_nothing_is_asked():
    with pytest.raises(core.NotYet, match="The API key file /absent cannot be read"):
        reconcile("/absent", Api(), DOCS)


@pytest.mark.parametrize("check", [True, False])
def test_the_module_predicts_where_nothing_can_be_asked(monkeypatch, capsys, key_file, check):
    from ansible.module_utils.testing import patch_module_args

    def fail(**_options):
        raise core.NotYet("not yet")

    monkeypatch.setattr(mcp_servers.core, "reconcile", fail)
    arguments = {"servers": [DOCS], "url": "https://x/registry", "api_key_file": key_file, "_ansible_check_mode": check}
    with patch_module_args(arguments), pytest.raises(SystemExit):
        mcp_servers.main()
    result = json.loads(capsys.readouterr().out)
    assert (result.get("failed", False), result.get("changed")) == ((False, True) if check else (True, None))


def test_a_refused_url_is_told(key_file):
    def refuse(*_arguments, **_options):
        raise ProbeError("url 'x' is not an HTTPS base URL.")

    with pytest.raises(core.NotYet, match="is not an HTTPS base URL"):
        core.reconcile([DOCS], "x", key_file, probe=refuse)
