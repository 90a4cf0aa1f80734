# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The official registry API, v0.1: what a client that knows only that reads here."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any
from urllib.parse import quote

import pytest
from registry_support import Ask, Registry, put_key

from support import Reply

pytest_plugins = ("registry_fixtures",)

OFFICIAL = "io.modelcontextprotocol.registry/official"
PUBLISHER = "io.modelcontextprotocol.registry/publisher-provided"
SCHEMA = "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json"
DOCUMENT: dict[str, Any] = {
    "$schema": SCHEMA,
    "name": "io.github.example/weather",
    "title": "Weather",
    "description": "Forecasts for anywhere.",
    "version": "1.2.3",
    "websiteUrl": "https://weather.example.org",
    "repository": {"url": "https://github.com/example/weather", "source": "github"},
    "packages": [{"registryType": "npm", "identifier": "@example/weather", "transport": {"type": "stdio"}}],
    "remotes": [
        {"type": "sse", "url": "https://weather.example.org/sse"},
        {"type": "streamable-http", "url": "https://{tenant}.example.org/mcp"},
        {"type": "streamable-http", "url": "https://weather.example.org/mcp"},
    ],
    "_meta": {PUBLISHER: {"org.example/tool": {"built": "today"}}, "org.example/else": 1},
}  # fmt: skip


@pytest.fixture(scope="module")
def weather(ask: Ask) -> str:
    reply = ask("POST", "/v1/servers", {"id": "weather", "server": DOCUMENT})
    assert reply.status == 201, reply
    assert (reply.json["name"], reply.json["title"], reply.json["version"]) == (
        "io.github.example/weather", "Weather", "1.2.3",
    )  # fmt: skip
    assert reply.json["url"] == "https://weather.example.org/mcp"
    return "io.github.example/weather"


def versions(reply: Reply) -> list[tuple[str, str, bool]]:
    assert reply.status == 200, reply
    return [
        (entry["server"]["version"], entry["_meta"][OFFICIAL]["status"], entry["_meta"][OFFICIAL]["isLatest"])
        for entry in reply.json["servers"]
    ]


def test_a_document_comes_back_with_this_registry_in_front(ask: Ask, weather: str) -> None:
    reply = ask("GET", f"/v0.1/servers/{quote(weather, safe='')}/versions/1.2.3", scope="read")
    server, meta = reply.json["server"], reply.json["_meta"]
    for name in ("$schema", "name", "title", "description", "version", "websiteUrl", "repository"):
        assert server[name] == DOCUMENT[name]
    assert server["remotes"] == [{"type": "streamable-http", "url": "https://localhost/mcp/weather"}]
    assert "packages" not in server  # nobody is led around the keys and the approvals
    own = {"org.example/tool": {"built": "today"}, "local.mcpstack/registry": {"id": "weather"}}
    assert server["_meta"] == {PUBLISHER: own}
    assert set(meta) == {OFFICIAL}
    assert (meta[OFFICIAL]["status"], meta[OFFICIAL]["isLatest"]) == ("active", True)
    for name in ("publishedAt", "updatedAt"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", meta[OFFICIAL][name])
        datetime.fromisoformat(meta[OFFICIAL][name])
    for path in (
        f"/v0.1/servers/{weather}/versions/latest",
        f"/v0.1/servers/{quote(weather, safe='')}/versions/latest",
    ):
        assert ask("GET", path).json == reply.json


def test_a_server_without_a_document_has_one(ask: Ask) -> None:
    name = ask.server(title="Mine", description="Line one\nline two " + "x" * 200)
    reply = ask("GET", f"/v0.1/servers/local.mcpstack/{name}/versions/latest")
    server = reply.json["server"]
    assert (server["$schema"], server["name"], server["version"]) == (SCHEMA, f"local.mcpstack/{name}", "0.0.0")
    assert (server["title"], server["remotes"][0]["url"]) == ("Mine", f"https://localhost/mcp/{name}")
    assert server["description"].startswith("Line one line two xxx")
    assert len(server["description"]) == 100


def test_versions_and_deletion(ask: Ask) -> None:
    full = "org.example/many"
    document = {"name": full, "description": "Many.", "version": "1.0.0"}
    for version in ("1.0.0", "2.0.0", "1.5.0"):
        ask("POST", "/v1/servers", {"id": "many", "server": document | {"version": version}})
    listed = versions(ask("GET", f"/v0.1/servers/{full}/versions"))
    assert listed[0] == ("1.5.0", "active", True)  # what was registered last
    assert sorted(listed) == [("1.0.0", "active", False), ("1.5.0", "active", True), ("2.0.0", "active", False)]
    old = ask("GET", f"/v0.1/servers/{full}/versions/2.0.0").json["server"]
    assert "remotes" not in old
    assert versions(ask("GET", f"/v0.1/servers?search={full}&version=latest")) == [("1.5.0", "active", True)]
    assert versions(ask("GET", f"/v0.1/servers?search={full}&version=2.0.0")) == [("2.0.0", "active", False)]
    ask("POST", "/v1/servers", {"id": "many", "server": document | {"version": "2.0.0"}, "enabled": False})
    latest = ask("GET", f"/v0.1/servers/{full}/versions/latest").json
    assert (latest["server"]["version"], latest["_meta"][OFFICIAL]["status"]) == ("2.0.0", "deprecated")
    assert "remotes" not in latest["server"]
    before = latest["_meta"][OFFICIAL]["updatedAt"]
    ask("DELETE", "/v1/servers/many")
    assert versions(ask("GET", "/v0.1/servers?search=example/MANY")) == []
    gone = versions(ask("GET", "/v0.1/servers?search=example/MANY&include_deleted=true"))
    assert [entry[:2] for entry in gone] == [(version, "deleted") for version in ("1.0.0", "1.5.0", "2.0.0")]
    since = ask("GET", f"/v0.1/servers?search=example/many&updated_since={quote(before)}")
    assert [entry[1] for entry in versions(since)] == ["deleted"] * 3  # who follows changes hears of deletions
    assert versions(ask("GET", "/v0.1/servers?updated_since=8999-01-01T00:00:00Z")) == []
    assert versions(ask("GET", "/v0.1/servers?updated_since=9999-12-31T23:59:59%2B00:00")) == []
    ask("POST", "/v1/servers", {"id": "again", "server": document})
    assert ("1.0.0", "active", True) in versions(ask("GET", f"/v0.1/servers/{full}/versions"))


def test_a_server_that_changes_its_name_leaves_the_old_one(ask: Ask) -> None:
    name = ask.server()
    ask("POST", "/v1/servers", {"id": name, "name": f"org.example/{name}"})
    assert versions(ask("GET", f"/v0.1/servers/local.mcpstack/{name}/versions"))[0][1] == "deleted"
    assert versions(ask("GET", f"/v0.1/servers/org.example/{name}/versions"))[0][1] == "active"


def test_pages(ask: Ask) -> None:
    for number in range(5):
        ask("POST", "/v1/servers", {"id": f"page{number}", "name": f"org.pages/p{number}"})
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = ask("GET", f"/v0.1/servers?search=org.pages/&limit=2&cursor={quote(cursor)}").json
        assert page["metadata"]["count"] == len(page["servers"]) <= 2
        seen += [entry["server"]["name"] for entry in page["servers"]]
        cursor = page["metadata"].get("nextCursor")
    assert seen == [f"org.pages/p{number}" for number in range(5)]
    assert ask("GET", "/v0.1/servers?search=%25").json["servers"] == []  # a text, not a pattern


MISSING = ["/versions", "/versions/latest", "/versions/1.0.0"]


@pytest.mark.parametrize("path", MISSING)
def test_what_is_not_there(ask: Ask, path: str) -> None:
    reply = ask("GET", f"/v0.1/servers/org.example/none{path}")
    assert (reply.status, reply.code) == (404, "server_not_found")


DOCUMENTS = [
    ({}, "server.name"),
    (DOCUMENT | {"name": "weather"}, "server.name"),
    (DOCUMENT | {"name": "a/b/c"}, "server.name"),
    (DOCUMENT | {"version": "latest"}, "server.version"),
    (DOCUMENT | {"version": "^1.2"}, "server.version"),
    (DOCUMENT | {"description": ""}, "server.description"),
    (DOCUMENT | {"description": "x" * 101}, "server.description"),
    (DOCUMENT | {"remotes": {}}, "server.remotes"),
    (DOCUMENT | {"remotes": [{"type": "stdio", "url": "x"}]}, "server.remotes.0.type"),
    (DOCUMENT | {"packages": ["x"]}, "server.packages.0"),
    (DOCUMENT | {"icons": ["x" * 70_000]}, "server"),
    ([], "server"),
]


@pytest.mark.parametrize(("document", "param"), DOCUMENTS)
def test_documents_that_are_none(ask: Ask, document: Any, param: str) -> None:
    reply = ask("POST", "/v1/servers", {"id": "bad", "server": document})
    assert (reply.status, reply.code, reply.json["error"]["param"]) == (400, "invalid_request", param)
    assert ask("GET", "/v1/servers/bad").status == 404


def test_the_catalogue_may_be_public(launch_registry: Callable[..., Registry]) -> None:
    registry = launch_registry(catalogue_public="true", namespace="org.example.ai", public_url="https://localhost:8443")
    admin = put_key(registry, "tools:read,tools:admin")
    registry.post("/v1/servers", {"id": "one"}, admin)
    (entry,) = registry.get("/v0.1/servers").json["servers"]
    assert entry["server"]["name"] == "org.example.ai/one"
    assert entry["server"]["remotes"][0]["url"] == "https://localhost:8443/mcp/one"
    assert registry.get("/v0.1/servers", "mk_dev_wrong").status == 401  # a key that is wrong is not no key
    assert registry.get("/v1/servers").status == 401
    assert registry.get("/v1/tools").status == 401
