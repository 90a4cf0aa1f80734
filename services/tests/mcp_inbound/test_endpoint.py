# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The endpoint as its callers meet it: both protocol eras, and everything that is refused."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import mcp_types as types
import pytest
from inbound import Served, fixture_server, message, meta, serve, settings
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from test_tokens import call, post

from mcpstack.common import logs
from mcpstack.common.errors import ApiError
from mcpstack.common.settings import SettingsError
from mcpstack.registry.catalogue import Members, Tool
from mcpstack.registry.client import Server
from mcpstack.registry.mcp_sets import PAGE
from support import Loop, Reply, wait_for

ERAS = ["auto", "legacy"]
VERSION = {"auto": "2026-07-28", "legacy": "2025-11-25"}


class Talk:
    """A client of the SDK, with everything it is told."""

    def __init__(self, served: Served, path: str, era: str, key: str | None = None, **options: Any) -> None:
        key = key or served.keys.new("tools:read", "tools:call")
        self.http = httpx2.AsyncClient(headers={"Authorization": f"Bearer {key}"}, timeout=20)
        self.logged: list[Any] = []
        transport = streamable_http_client(f"http://127.0.0.1:{served.port}{path}", http_client=self.http)
        self.client = Client(transport, mode=era, logging_callback=self._log, **options)

    async def _log(self, params: types.LoggingMessageNotificationParams) -> None:
        self.logged.append((params.level, params.data))

    async def __aenter__(self) -> Client:
        return await self.client.__aenter__()

    async def __aexit__(self, *error: Any) -> None:
        await self.client.__aexit__(*error)
        await self.http.aclose()


def words(result: types.CallToolResult) -> str:
    return "".join(block.text for block in result.content if isinstance(block, types.TextContent))


# The four tools


@pytest.mark.parametrize("era", ERAS)
def test_the_front(served: Served, era: str) -> None:
    async def talk() -> None:
        async with Talk(served, "/mcp", era) as client:
            assert client.protocol_version == VERSION[era]
            assert client.server_info is not None
            assert client.server_info.name == "mcpstack-registry"
            assert client.server_capabilities.prompts is None
            assert client.server_capabilities.resources is None
            listed = await client.list_tools()
            assert [tool.name for tool in listed.tools] == [
                "call_tool", "call_tool_summarized", "find_tools", "list_servers",
            ]  # fmt: skip
            servers = await client.call_tool("list_servers", {})
            assert servers.structured_content == {"servers": [{"name": "fixture", "status": "ok"}]}
            found = await client.call_tool("find_tools", {"query": "simple", "limit": 3})
            assert found.structured_content is not None
            assert found.structured_content["mode"] == "keyword"
            assert json.loads(words(found)) == found.structured_content
            called = await client.call_tool("call_tool", {"name": "fixture__test_echo", "arguments": {"text": "hi"}})
            assert words(called) == "hi"
            short = await client.call_tool(
                "call_tool_summarized", {"name": "fixture__test_echo", "arguments": {"text": "hi"}, "max_tokens": 50}
            )
            assert words(short) == "hi"

    async def elicit(_: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
        return types.ElicitResult(action="decline")

    async def ask() -> None:
        async with Talk(
            served, "/mcp/fixture" if era == "legacy" else "/mcp", era, elicitation_callback=elicit
        ) as client:
            arguments = {"name": "fixture__test_elicitation", "arguments": {"message": "who"}}
            if era == "legacy":
                asked = await client.call_tool("test_elicitation", {"message": "who"})
            else:
                asked = await client.call_tool("call_tool_summarized", arguments)
            assert words(asked) == "User response: action=decline, content={}"

    asyncio.run(talk())
    asyncio.run(ask())


@pytest.mark.parametrize(
    ("tool", "arguments", "problem"),
    [
        ("find_tools", {}, "query: Field required"),
        ("find_tools", {"query": ""}, "query: String should have at least 1 character"),
        ("find_tools", {"query": "x" * 1001}, "query: String should have at most 1000 characters"),
        ("find_tools", {"query": "x", "limit": 51}, "limit: Input should be less than or equal to 50"),
        ("find_tools", {"query": "x", "limit": "5"}, "limit: Input should be a valid integer"),
        ("find_tools", {"query": "x", "other": 1}, "other: Extra inputs are not permitted"),
        ("call_tool", {"name": "no-separator"}, "has the form server__tool"),
        ("call_tool", {"name": "__x"}, "has the form server__tool"),
        ("call_tool", {"name": "a__b", "arguments": [1]}, "arguments: Input should be a valid dictionary"),
        ("call_tool", {"name": "fixture__nothing"}, "There is no tool fixture__nothing."),
        ("call_tool_summarized", {"name": "a__b", "max_tokens": 1}, "max_tokens: Input should be greater than"),
        ("list_servers", {"x": 1}, "x: Extra inputs are not permitted"),
    ],
)
def test_wrong_arguments_are_told_to_the_model(
    served: Served, tool: str, arguments: dict[str, Any], problem: str
) -> None:
    reply = post(
        served.port, "/mcp", message("tools/call", name=tool, arguments=arguments, _meta=meta()),
        token=served.keys.new("tools:read", "tools:call"),
    )  # fmt: skip
    assert reply.status == 200
    result = reply.json["result"]
    assert result["isError"] is True
    assert problem in result["content"][0]["text"]


def test_schemas_say_what_is_checked(served: Served) -> None:
    body = message("tools/list", _meta=meta())
    tools = post(served.port, "/mcp", body, token=served.keys.new("tools:read")).json["result"]["tools"]
    by_name = {tool["name"]: tool for tool in tools}
    assert by_name["find_tools"]["inputSchema"] == {
        "type": "object",
        "additionalProperties": False,
        "required": ["query"],
        "properties": {
            "query": {
                "type": "string",
                "minLength": 1,
                "maxLength": 1000,
                "description": "What is to be done, in a few words",
            },
            "limit": {
                "type": "integer",
                "minimum": 1,
                "maximum": 50,
                "default": 10,
                "description": "How many tools to return",
            },
            "server": {"type": "string", "maxLength": 128, "description": "Only tools of this server"},
        },
    }  # fmt: skip
    assert by_name["call_tool"]["inputSchema"]["properties"]["arguments"]["type"] == "object"
    assert by_name["list_servers"]["inputSchema"]["properties"] == {}
    assert by_name["find_tools"]["annotations"]["readOnlyHint"] is True
    assert by_name["call_tool"]["annotations"]["destructiveHint"] is True


# A mirror of an outside server


@pytest.mark.parametrize("era", ERAS)
def test_a_mirror(served: Served, era: str) -> None:
    progress: list[Any] = []

    async def on_progress(done: float, total: float | None, note: str | None) -> None:
        progress.append((done, total, note))

    async def elicit(_: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
        return types.ElicitResult(action="accept", content={"username": "u", "email": "u@example.org"})

    async def sample(_: Any, params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
        text = types.TextContent(type="text", text="sampled")
        return types.CreateMessageResult(role="assistant", content=text, model="m")

    async def roots(_: Any) -> types.ListRootsResult:
        return types.ListRootsResult(roots=[types.Root(uri="file:///r")])

    async def run() -> None:
        options = {"elicitation_callback": elicit, "sampling_callback": sample, "list_roots_callback": roots}
        if era == "auto":
            options["log_level"] = "info"  # type: ignore[assignment]
        talk = Talk(served, "/mcp/fixture", era, **options)
        async with talk as client:
            assert client.instructions == "For tests only."
            capabilities = client.server_capabilities
            assert capabilities.prompts is not None
            assert capabilities.resources is not None
            assert not capabilities.resources.subscribe
            assert capabilities.completions is not None
            assert (capabilities.logging is not None) is (era == "legacy")
            names = [tool.name for tool in (await client.list_tools()).tools]
            assert "test_echo" in names
            assert names == sorted(names)
            assert words(await client.call_tool("test_echo", {"text": "hi"})) == "hi"
            await client.call_tool("test_tool_with_progress", {}, progress_callback=on_progress)
            assert progress == [(0, 100, "0 of 100"), (50, 100, "50 of 100"), (100, 100, "100 of 100")]
            if era == "legacy":
                await client.session.send_request(
                    types.SetLevelRequest(params=types.SetLevelRequestParams(level="warning")), types.EmptyResult
                )
            await client.call_tool("test_logging_tool", {})
            levels = [level for level, _ in talk.logged]
            assert levels == (["info", "warning", "error"] if era == "auto" else ["warning", "error"])
            asked = await client.call_tool("test_elicitation", {"message": "who"})
            assert words(asked) == ('User response: action=accept, content={"username": "u", "email": "u@example.org"}')
            assert words(await client.call_tool("test_sampling", {"prompt": "p"})) == "LLM response: sampled"
            assert words(await client.call_tool("test_input_required_result_list_roots", {})) == "file:///r"
            twice = await client.call_tool("test_x_mcp_header", {"region": "eu \u00e4"})
            assert words(twice).startswith("eu \u00e4 =?base64?")
            prompts = await client.list_prompts()
            assert prompts.prompts[0].name == "test_input_required_result_prompt"
            prompt = await client.get_prompt("test_prompt_with_arguments", {"arg1": "a", "arg2": "b"})
            assert prompt.messages[0].content.text == "Prompt with arguments: arg1='a', arg2='b'"  # type: ignore[union-attr]
            read = await client.read_resource("test://template/7/data")
            assert json.loads(read.contents[0].text)["id"] == "7"  # type: ignore[union-attr]
            assert [str(entry.uri) for entry in (await client.list_resources()).resources] == [
                "test://static-binary", "test://static-text", "test://watched-resource",
            ]  # fmt: skip
            with pytest.raises(MCPError, match="Resource not found") as caught:
                await client.read_resource("test://nothing")
            assert caught.value.data == {"uri": "test://nothing"}

    asyncio.run(run())


@pytest.mark.parametrize("era", ERAS)
def test_who_cannot_be_asked_is_not(served: Served, era: str) -> None:
    """A client that declared no elicitation gets an error in words, in both eras."""

    async def run() -> None:
        async with Talk(served, "/mcp/fixture", era) as client:
            with pytest.raises(MCPError, match="elicitation"):
                await client.call_tool("test_elicitation", {"message": "who"})

    asyncio.run(run())


def test_a_result_is_not_changed(served: Served, outside: int) -> None:
    """Content, structure, annotations, _meta: what an outside server says is what the caller gets."""

    def ask(port: int, path: str, name: str, token: str | None) -> dict[str, Any]:
        body = message("tools/call", name=name, arguments={}, _meta=meta())
        result: dict[str, Any] = post(port, path, body, token=token).json["result"]
        result["_meta"].pop("io.modelcontextprotocol/serverInfo")
        return result

    key = served.keys.new("tools:read", "tools:call")
    for name in ("test_structured", "test_multiple_content_types", "test_error_handling"):
        direct = ask(outside, "/mcp", name, None)
        assert ask(served.port, "/mcp/fixture", name, key) == direct
        front = message("tools/call", name="call_tool", arguments={"name": f"fixture__{name}"}, _meta=meta())
        passed = post(served.port, "/mcp", front, token=key).json["result"]
        passed["_meta"].pop("io.modelcontextprotocol/serverInfo")
        assert passed == direct


def test_what_an_outside_server_gives_to_everybody_is_private_here(served: Served) -> None:
    key = served.keys.new("tools:read", "tools:call")
    for method, more in (
        ("resources/list", {}), ("prompts/list", {}), ("resources/templates/list", {}), ("tools/list", {}),
        ("resources/read", {"uri": "test://static-text"}),
    ):  # fmt: skip
        headers = {"Mcp-Name": more["uri"]} if more else {}
        body = message(method, _meta=meta(), **more)
        result = post(served.port, "/mcp/fixture", body, token=key, **headers).json["result"]
        assert result["cacheScope"] == "private", method
        assert result["ttlMs"] == (30000 if method == "tools/list" else 5000)


# Sets


@pytest.fixture
def pair(served: Served) -> Iterator[Served]:
    definition = {"description": "d", "inputSchema": {"type": "object"}}
    tools = [Tool("zeta", f"t{number:04d}", definition) for number in range(PAGE)]
    tools += [Tool("fixture", "test_echo", definition), Tool("alpha", "z", definition)]
    served.catalogue.shown["pair"] = Members("pair", tuple(tools))
    yield served
    del served.catalogue.shown["pair"]


def test_a_set_of_tools_of_several_servers(pair: Served) -> None:
    key = pair.keys.new("tools:read", "tools:call")

    def page(**more: Any) -> dict[str, Any]:
        body = message("tools/list", _meta=meta(), **more)
        found: dict[str, Any] = post(pair.port, "/mcp/pair", body, token=key).json["result"]
        return found

    first = page()
    names = [tool["name"] for tool in first["tools"]]
    assert names[:3] == ["alpha__z", "fixture__test_echo", "zeta__t0000"]
    assert len(names) == PAGE
    second = page(cursor=first["nextCursor"])
    names += [tool["name"] for tool in second["tools"]]
    assert "nextCursor" not in second
    assert names == sorted(names)
    assert len(set(names)) == PAGE + 2
    body = message("tools/call", name="fixture__test_echo", arguments={"text": "hi"}, _meta=meta())
    assert post(pair.port, "/mcp/pair", body, token=key).json["result"]["content"][0]["text"] == "hi"
    assert pair.catalogue.calls[-1][1:] == ("fixture", "test_echo")
    for name in ("test_echo", "fixture__test_simple_text", "zeta__nothing"):
        body = message("tools/call", name=name, arguments={}, _meta=meta())
        reply = post(pair.port, "/mcp/pair", body, token=key)
        assert (reply.status, reply.json["error"]["code"]) == (400, -32602), name
    discovered = post(pair.port, "/mcp/pair", message("server/discover", _meta=meta()), token=key).json["result"]
    assert discovered["capabilities"] == {"tools": {}}
    for method in ("prompts/list", "resources/list", "resources/templates/list", "logging/setLevel", "nothing/at/all"):
        reply = post(pair.port, "/mcp/pair", message(method, _meta=meta()), token=key)
        assert (reply.status, reply.json["error"]["code"]) == (404, -32601), method
    for cursor in ("!!", "4AAA", "\u00e4"):
        reply = post(pair.port, "/mcp/pair", message("tools/list", _meta=meta(), cursor=cursor), token=key)
        assert (reply.status, reply.json["error"]["code"]) == (400, -32602), cursor


def test_declared_sets(loop: Loop) -> None:
    definition = {"description": "d", "inputSchema": {"type": "object"}}

    def shown(server: str, *names: str) -> Members:
        capabilities = {"tools": {}, "prompts": {}}
        return Members(server, tuple(Tool(server, name, definition) for name in names), server, capabilities)

    declared = "dev=git+time__now, one=git__log+git__log,lost=nothing,gone=git__gone,all=git+git__log,git=time"
    with serve(loop, mcp_sets=declared) as served:
        served.catalogue.shown = {"git": shown("git", "log", "add"), "time": shown("time", "now", "later")}
        key = served.keys.new("tools:read", "tools:call")

        def names(path: str) -> Any:
            reply = post(served.port, path, message("tools/list", _meta=meta()), token=key)
            return [tool["name"] for tool in reply.json["result"]["tools"]] if reply.status == 200 else reply.status

        assert names("/mcp/dev") == ["git__add", "git__log", "time__now"]
        assert names("/mcp/one") == ["git__log"]
        assert names("/mcp/all") == ["git__add", "git__log"]
        assert names("/mcp/time") == ["later", "now"]
        assert names("/mcp/git") == ["time__later", "time__now"]  # what was declared goes before a server's name
        assert names("/mcp/lost") == 404
        assert post(served.port, "/mcp/dev", message("prompts/list", _meta=meta()), token=key).status == 404
        body = message("tools/call", name="time__later", arguments={}, _meta=meta())
        assert post(served.port, "/mcp/dev", body, token=key).json["error"]["code"] == -32602


def test_no_tools_is_an_error_with_a_reason(loop: Loop) -> None:
    """All of them quarantined: a client that is shown nothing would take it for the truth."""
    with serve(loop) as served:
        key = served.keys.new("tools:read")
        served.catalogue.shown = {
            "held": Members("held", (), mirror="held", capabilities={"tools": {}}),
            "none": Members("none", (), mirror="none", capabilities={"prompts": {}}),
        }
        listing = message("tools/list", _meta=meta())
        reply = post(served.port, "/mcp/held", listing, token=key)
        assert reply.json["error"]["data"] == {"code": "no_tools"}
        assert "approval of an administrator" in reply.json["error"]["message"]
        discover = message("server/discover", _meta=meta())
        found = post(served.port, "/mcp/held", discover, token=key).json["result"]["capabilities"]
        assert found == {"tools": {}}
        reply = post(served.port, "/mcp/none", listing, token=key)
        assert (reply.status, reply.json["error"]["code"]) == (404, -32601)
        found = post(served.port, "/mcp/none", discover, token=key).json["result"]["capabilities"]
        assert found == {"prompts": {}}


def test_who_only_listens_does_not_hold_up_the_end(loop: Loop, outside: int) -> None:
    with serve(loop) as served:
        served.catalogue.servers["fixture"] = Server("fixture", "fixture", f"http://127.0.0.1:{outside}/mcp")
        key = served.keys.new("tools:read")
        session = legacy(served, "/mcp/fixture", HELLO, key).headers["mcp-session-id"]
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=15)
        headers = {"Authorization": f"Bearer {key}", "Accept": "text/event-stream", "Mcp-Session-Id": session}
        connection.request("GET", "/mcp/fixture", headers=headers)
        answer = connection.getresponse()
        assert answer.status == 200

        async def drain() -> None:
            served.endpoint.drain()

        loop.run(drain())
        try:
            rest = answer.read()
        except http.client.IncompleteRead as error:
            rest = error.partial
        assert b"data:" not in rest
        connection.close()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("server_names", ""),
        ("server_names", "a b"),
        ("server_names", "https://a.example"),
        ("server_names", "a.example:443"),
        ("public_url", "https://a.example/mcp"),
        ("public_url", "ftp://a.example"),
        ("oidc_issuers", "https://user:password@a.example"),
        ("oidc_issuers", "https://a.example?x=1"),
        ("oidc_issuers", "a.example"),
        ("oidc_plain_jwt", "yes"),
        ("mcp_origins", "a.example"),
        ("mcp_sets", "dev"),
        ("mcp_sets", "dev="),
        ("mcp_sets", "Dev=git"),
        ("mcp_sets", "dev=git__"),
        ("mcp_sets", "dev=git+"),
        ("mcp_sets", "dev=__log"),
        ("mcp_sets", "dev=git,dev=time"),
        ("mcp_sets", "a/b=git"),
    ],
)
def test_settings_that_are_not_usable(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"REGISTRY_{name.upper()}"):
        settings(**{name: value})


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({}, []),
        ({"oidc_issuers": "https://a.example", "oidc_introspection_url": "https://a.example/introspect"}, []),
        ({"public_url": "http://localhost"}, ["REGISTRY_PUBLIC_URL"]),
        ({"public_url": "https://other.example"}, ["REGISTRY_PUBLIC_URL"]),
        ({"oidc_issuers": "http://a.example"}, ["REGISTRY_OIDC_ISSUERS"]),
        ({"oidc_introspection_url": "https://b.example/introspect"}, ["REGISTRY_OIDC_INTROSPECTION_URL"]),
        ({"mcp_origins": "*"}, ["REGISTRY_MCP_ORIGINS"]),
        ({"oidc_ca_file": "/nowhere/ca.crt"}, ["REGISTRY_OIDC_CA_FILE"]),
        ({"oidc_ca_file": "/etc/hostname"}, ["REGISTRY_OIDC_CA_FILE"]),
    ],
)
def test_settings_that_do_not_belong_together(given: dict[str, str], names: list[str]) -> None:
    assert [problem.where for problem in settings(**given).problems("production")] == names


def test_a_name_nobody_has(served: Served) -> None:
    key = served.keys.new("tools:read")
    for path in ("/mcp/nothing", "/mcp/UPPER", "/mcp/..", "/mcp/a%20b", "/mcp/" + "x" * 200):
        reply = post(served.port, path, message("tools/list", _meta=meta()), token=key)
        assert (reply.status, reply.code) == (404, "not_found"), path


# What is refused


ECHO = {"name": "test_echo", "arguments": {"text": "hi"}}


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        pytest.param(message("tools/call", _meta=meta(), **ECHO), {}, 200, None, id="agreement"),
        pytest.param(
            message("tools/call", _meta=meta(), **ECHO), {"Mcp-Name": "  test_echo\t"}, 200, None, id="blanks around"
        ),
        pytest.param(
            message("tools/call", _meta=meta(), **ECHO), {"Mcp-Name": "test_simple_text"}, 400, -32020, id="other name"
        ),
        pytest.param(
            message("tools/call", _meta=meta(), **ECHO), {"Mcp-Name": "TEST_ECHO"}, 400, -32020, id="other case"
        ),
        pytest.param(
            message("tools/call", _meta=meta(), **ECHO), {"Mcp-Method": "tools/list"}, 400, -32020, id="other method"
        ),
        pytest.param(message("tools/list", _meta=meta()), {"Mcp-Method": "Tools/List"}, 400, -32020, id="case"),
        pytest.param(
            message("tools/list", _meta=meta(**{"io.modelcontextprotocol/protocolVersion": "2025-11-25"})),
            {}, 400, -32020, id="older version in the body",
        ),
        pytest.param(
            message("tools/list", _meta=meta(**{"io.modelcontextprotocol/protocolVersion": "2099-01-01"})),
            {"MCP-Protocol-Version": "2099-01-01"}, 400, -32022, id="unknown version",
        ),
        pytest.param(message("tools/list"), {}, 400, -32602, id="no envelope"),
        pytest.param(message("nothing/here", _meta=meta()), {}, 404, -32601, id="unknown method"),
        pytest.param(message("initialize", _meta=meta()), {}, 404, -32601, id="handshake in the newer era"),
        pytest.param(
            message("tools/call", _meta=meta(), name="test_x_mcp_header", arguments={"region": "eu"}),
            {"Mcp-Param-Region": "us"}, 400, -32020, id="parameter header differs",
        ),
        pytest.param(
            message("tools/call", _meta=meta(), name="test_x_mcp_header", arguments={"region": "eu"}),
            {}, 400, -32020, id="parameter header missing",
        ),
        pytest.param(
            message("tools/call", _meta=meta(), name="test_x_mcp_header", arguments={"region": "eu"}),
            {"Mcp-Param-Region": "eu"}, 200, None, id="parameter header agrees",
        ),
    ],
)  # fmt: skip
def test_headers_agree_with_the_body(
    served: Served, body: bytes, headers: dict[str, str], status: int, code: int | None
) -> None:
    reply = post(served.port, "/mcp/fixture", body, token=served.keys.new("tools:read", "tools:call"), **headers)
    assert reply.status == status
    assert reply.json.get("error", {}).get("code") == code


@pytest.mark.parametrize("name", ["Mcp-Method", "Mcp-Name", "MCP-Protocol-Version"])
def test_a_header_that_says_two_things(served: Served, name: str) -> None:
    key = served.keys.new("tools:read", "tools:call")
    body = message("tools/call", _meta=meta(), **ECHO)
    first = {"Mcp-Method": "tools/call", "Mcp-Name": "test_echo", "MCP-Protocol-Version": "2026-07-28"}
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=15)
    connection.putrequest("POST", "/mcp/fixture")
    for header, value in (*first.items(), (name, "other")):
        connection.putheader(header, value)
    connection.putheader("Authorization", f"Bearer {key}")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Accept", "application/json, text/event-stream")
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    answer = connection.getresponse()
    assert answer.status == 400
    assert json.loads(answer.read())["error"]["code"] in (-32020, -32022)
    connection.close()


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Host": "mcp.example.org"}, 200, None),
        ({"Host": "MCP.Example.org:8443"}, 200, None),
        ({"Host": "evil.example"}, 421, "misdirected_request"),
        ({"Host": "mcp.example.org.evil.example"}, 421, "misdirected_request"),
        ({"Host": "mcp.example.org@evil.example"}, 421, "misdirected_request"),
        ({"Host": "evil.example#mcp.example.org"}, 421, "misdirected_request"),
        ({"Host": ""}, 421, "misdirected_request"),
        ({"Host": "127.0.0.2"}, 421, "misdirected_request"),
        ({"X-Forwarded-Host": "evil.example"}, 200, None),
        ({"Origin": "https://mcp.example.org"}, 200, None),
        ({"Origin": "https://mcp.example.org:8443"}, 200, None),
        ({"Origin": "http://localhost:6274"}, 200, None),
        ({"Origin": "http://mcp.example.org"}, 403, "origin_not_allowed"),
        ({"Origin": "https://evil.example"}, 403, "origin_not_allowed"),
        ({"Origin": "https://mcp.example.org.evil.example"}, 403, "origin_not_allowed"),
        ({"Origin": "https://mcp.example.org@evil.example"}, 403, "origin_not_allowed"),
        ({"Origin": "null"}, 403, "origin_not_allowed"),
        ({"Origin": "https://[::1"}, 403, "origin_not_allowed"),
        ({"Origin": "file://"}, 403, "origin_not_allowed"),
    ],
)
def test_names_and_origins(served: Served, headers: dict[str, str], status: int, code: str | None) -> None:
    body = message("tools/list", _meta=meta())
    reply = post(served.port, "/mcp", body, token=served.keys.new("tools:read"), **headers)
    assert reply.status == status
    assert code is None or reply.code == code


def test_a_rebound_name_learns_nothing(served: Served) -> None:
    """The name is refused before the credential is looked at."""
    reply = post(served.port, "/mcp", message("tools/list", _meta=meta()), token="x", Host="evil.example")
    assert (reply.status, reply.code) == (421, "misdirected_request")
    assert "www-authenticate" not in reply.headers


def legacy(served: Served, path: str, body: bytes | Iterator[bytes], key: str, **headers: str) -> Reply:
    sent = {
        "Accept": "application/json, text/event-stream",
        "Content-Type": "application/json",
        "Authorization": f"Bearer {key}",
    } | {name.replace("_", "-"): value for name, value in headers.items()}
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=15)
    try:
        connection.request("POST", path, body=body, headers=sent, encode_chunked=not isinstance(body, bytes))
        answer = connection.getresponse()
        return Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
    finally:
        connection.close()


@pytest.mark.parametrize("path", ["/mcp", "/mcp/fixture"])
@pytest.mark.parametrize("version", [None, "2025-11-25", "2026-07-28"])
@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        pytest.param(b"{", {}, 400, id="bad JSON"),
        pytest.param(b"", {}, 400, id="nothing"),
        pytest.param(b"[1]", {}, 400, id="a list"),
        pytest.param(b"[" + message("tools/list") + b"]", {}, 400, id="a batch"),
        pytest.param(b"null", {}, 400, id="null"),
        pytest.param(b"7", {}, 400, id="a number"),
        pytest.param(b"[" * 30000, {}, 400, id="deep"),
        pytest.param(b'{"a":' * 9000 + b"1" + b"}" * 9000, {}, 400, id="deep object"),
        pytest.param(b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":[1]}', {}, 400, id="params a list"),
        pytest.param(b'{"jsonrpc":"2.0","id":{},"method":"tools/list"}', {}, 400, id="id an object"),
        pytest.param(b'{"jsonrpc":"2.0","id":1,"method":7}', {}, 400, id="method a number"),
        pytest.param(b'{"jsonrpc":"2.0","id":' + b"9" * 5000 + b',"method":"ping"}', {}, 400, id="huge number"),
        pytest.param(b"\xff\xfe", {}, 400, id="not UTF-8"),
        pytest.param(message("tools/list"), {"Content-Type": "text/plain"}, 400, id="another type"),
        pytest.param(message("tools/list"), {"Content-Encoding": "gzip"}, 400, id="compressed"),
        pytest.param(b" " * 70000, {}, 413, id="too large"),
    ],
)
def test_broken_bodies(
    served: Served, path: str, version: str | None, body: bytes, headers: dict[str, str], status: int
) -> None:
    versions = {} if version is None else {"MCP-Protocol-Version": version}
    reply = legacy(served, path, body, served.keys.new("tools:read", "tools:call"), **headers, **versions)
    assert reply.status == status
    assert "error" in reply.json
    assert len(reply.body) < 5000


def test_a_body_without_length_is_counted(served: Served) -> None:
    sent = 0

    def pieces() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 1
            yield b" " * 4096

    try:
        reply = legacy(served, "/mcp", pieces(), served.keys.new("tools:read"))
        assert (reply.status, reply.code) == (413, "request_too_large")
    except (BrokenPipeError, ConnectionResetError):
        assert sent < 1000  # the answer was given, and the rest not waited for


@pytest.mark.parametrize(
    ("method", "path", "version", "allow"),
    [
        ("GET", "/mcp", None, "POST"),
        ("DELETE", "/mcp", None, "POST"),
        ("PUT", "/mcp", None, "POST"),
        ("GET", "/mcp/fixture", "2026-07-28", "POST"),
        ("PUT", "/mcp/fixture", None, "POST, GET, DELETE"),
    ],
)
def test_other_methods(served: Served, method: str, path: str, version: str | None, allow: str) -> None:
    headers = {"Authorization": f"Bearer {served.keys.new('tools:read')}", "Accept": "text/event-stream"}
    if version:
        headers["MCP-Protocol-Version"] = version
    reply = call(served.port, method, path, None, headers)
    assert (reply.status, reply.code, reply.headers["allow"]) == (405, "method_not_allowed", allow)


# The older era


HELLO = message(
    "initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo={"name": "test", "version": "1"}
)


def events(reply: Reply) -> list[Any]:
    lines = reply.body.decode().splitlines()
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]


def test_the_front_keeps_no_session(served: Served) -> None:
    """Each request is whole, so that any replica can answer it."""
    key = served.keys.new("tools:read")
    reply = legacy(served, "/mcp", HELLO, key)
    assert reply.status == 200
    assert "mcp-session-id" not in reply.headers
    assert events(reply)[0]["result"]["protocolVersion"] == "2025-11-25"
    reply = legacy(served, "/mcp", message("tools/list"), key, MCP_Protocol_Version="2025-11-25")
    assert len(events(reply)[0]["result"]["tools"]) == 4


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])
def test_versions_of_the_older_era(served: Served, version: str) -> None:
    hello = json.loads(HELLO)
    hello["params"]["protocolVersion"] = version
    reply = legacy(served, "/mcp/fixture", json.dumps(hello).encode(), served.keys.new("tools:read"))
    result = events(reply)[0]["result"]
    assert result["protocolVersion"] == version
    assert result["instructions"] == "For tests only."
    assert result["capabilities"] == {"tools": {}, "prompts": {}, "resources": {}, "completions": {}, "logging": {}}


def test_a_session_belongs_to_who_opened_it(served: Served) -> None:
    owner, other = served.keys.new("tools:read"), served.keys.new("tools:read")
    reply = legacy(served, "/mcp/fixture", HELLO, owner)
    session = reply.headers["mcp-session-id"]
    told = {"Mcp_Session_Id": session, "MCP_Protocol_Version": "2025-11-25"}
    ready = json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}).encode()
    assert legacy(served, "/mcp/fixture", ready, owner, **told).status == 202
    assert legacy(served, "/mcp/fixture", message("tools/list"), owner, **told).status == 200
    for path, key in (("/mcp/fixture", other),):
        assert legacy(served, path, message("tools/list"), key, **told).status == 404
    headers = {"Mcp-Session-Id": session, "Authorization": f"Bearer {other}"}
    assert call(served.port, "DELETE", "/mcp/fixture", None, headers).status == 404
    assert legacy(served, "/mcp/fixture", message("tools/list"), owner, **told).status == 200
    headers["Authorization"] = f"Bearer {owner}"
    assert call(served.port, "DELETE", "/mcp/fixture", None, headers).status == 200
    assert legacy(served, "/mcp/fixture", message("tools/list"), owner, **told).status == 404


def test_each_request_of_a_session_is_its_own(served: Served) -> None:
    """Its number, in records and errors, is that of the HTTP request, and not of the one that opened the session."""
    key = served.keys.new("tools:read", "tools:call")
    session = legacy(served, "/mcp/fixture", HELLO, key).headers["mcp-session-id"]
    told = {"Mcp_Session_Id": session, "MCP_Protocol_Version": "2025-11-25"}
    served.catalogue.asked_as.clear()
    for number in (1, 2):
        legacy(served, "/mcp/fixture", message("tools/call", number, **ECHO), key, **told)
    legacy(served, "/mcp", message("tools/call", name="call_tool", arguments={"name": "fixture__test_echo"}), key)
    assert len(set(served.catalogue.asked_as)) == 3
    assert all(name and int(name.removeprefix("req_")) > len(served.lines) - 3 for name in served.catalogue.asked_as)


def test_sessions_have_a_limit_for_each(loop: Loop, outside: int) -> None:
    with serve(loop, mcp_max_sessions="5", mcp_max_sessions_each="3") as served:
        served.catalogue.servers["fixture"] = Server("fixture", "fixture", f"http://127.0.0.1:{outside}/mcp")
        greedy, modest = served.keys.new("tools:read"), served.keys.new("tools:read")
        statuses = [legacy(served, "/mcp/fixture", HELLO, greedy).status for _ in range(5)]
        assert statuses == [200, 200, 200, 503, 503]
        assert legacy(served, "/mcp/fixture", HELLO, modest).status == 200
        assert post(
            served.port, "/mcp/fixture", message("tools/list", _meta=meta()), token=greedy
        ).status == 200  # fmt: skip


@pytest.mark.parametrize("version", [None, "2025-11-25"])
def test_scopes_in_the_older_era(served: Served, version: str | None) -> None:
    key = served.keys.new("tools:read")
    versions = {} if version is None else {"MCP_Protocol_Version": version}
    for path, name in (("/mcp", "call_tool"), ("/mcp", "call_tool_summarized"), ("/mcp/fixture", "test_echo")):
        reply = legacy(served, path, message("tools/call", name=name, arguments={}), key, **versions)
        assert (reply.status, reply.code) == (403, "insufficient_scope")
    for method in ("prompts/get", "resources/read", "completion/complete"):
        reply = legacy(served, "/mcp/fixture", message(method, name="x"), key, **versions)
        assert (reply.status, reply.code) == (403, "insufficient_scope")


def test_two_methods_in_one_body(served: Served) -> None:
    """Whichever of the two a parser takes, nothing is carried out that the scope does not allow."""
    key = served.keys.new("tools:read")
    call_it = '"params":{"name":"call_tool","arguments":{"name":"fixture__test_echo","arguments":{"text":"x"}}}'
    count = len(served.catalogue.calls)
    for first, second in (("tools/list", "tools/call"), ("tools/call", "tools/list")):
        body = f'{{"jsonrpc":"2.0","id":1,"method":"{first}","method":"{second}",{call_it}}}'.encode()
        legacy(served, "/mcp", body, key)
    names = '"params":{"name":"find_tools","name":"call_tool","arguments":{"name":"fixture__test_echo"}}'
    legacy(served, "/mcp", f'{{"jsonrpc":"2.0","id":1,"method":"tools/call",{names}}}'.encode(), key)
    assert len(served.catalogue.calls) == count


# What goes wrong behind it


@pytest.mark.parametrize(
    ("code", "seen"),
    [
        ("tool_server_unavailable", "result"),
        ("tool_not_found", "result"),
        ("rate_limit_exceeded", "result"),
        ("internal_error", "error"),
    ],
)
def test_failures_are_told_to_the_model(loop: Loop, code: str, seen: str) -> None:
    with serve(loop) as served:
        served.catalogue.shown["s"] = Members("s", (Tool("s", "t", {"inputSchema": {"type": "object"}}),), mirror="s")
        key = served.keys.new("tools:read", "tools:call")
        bodies = {
            "/mcp": message("tools/call", name="call_tool", arguments={"name": "s__t"}, _meta=meta()),
            "/mcp/s": message("tools/call", name="t", arguments={}, _meta=meta()),
        }
        served.catalogue.says = {}

        async def fail(*_: Any) -> dict[str, Any]:
            raise ApiError(code, "It does not work.")

        served.catalogue.call_tool = fail  # type: ignore[method-assign,assignment]
        for path, body in bodies.items():
            reply = post(served.port, path, body, token=key)
            assert reply.status == 200
            if seen == "result":
                result = reply.json["result"]
                assert result["isError"] is True
                assert result["content"][0]["text"].startswith("It does not work. ")
                assert f"({code}, request req_" in result["content"][0]["text"]
            else:
                assert reply.json["error"]["code"] == -32603
                assert reply.json["error"]["data"]["code"] == code


def test_the_registry_itself_cannot_answer(loop: Loop) -> None:
    """Not knowing what a set holds is no empty list."""
    with serve(loop) as served:
        served.catalogue.fail = ApiError("auth_unavailable", "Not now.")
        reply = post(served.port, "/mcp/x", message("tools/list", _meta=meta()), token=served.keys.new("tools:read"))
        assert (reply.status, reply.code) == (503, "auth_unavailable")


@pytest.mark.parametrize("path", ["/mcp", "/mcp/s"])
@pytest.mark.parametrize("era", ["2026-07-28", "2025-11-25"])
def test_what_nobody_expected_stays_inside(loop: Loop, path: str, era: str, caplog: pytest.LogCaptureFixture) -> None:
    with serve(loop) as served:
        tool = Tool("s", "t", {"inputSchema": {"type": "object"}})
        served.catalogue.shown["s"] = Members("s", (tool,), "s", {"tools": {}, "prompts": {}})

        async def fail(*_: Any) -> dict[str, Any]:
            raise RuntimeError("postgres at 10.0.0.7 says no")

        served.catalogue.call_tool = served.catalogue.request = fail  # type: ignore[method-assign]
        key = served.keys.new("tools:read", "tools:call")
        name, arguments = ("call_tool", {"name": "s__t"}) if path == "/mcp" else ("t", {})
        asked = [("tools/call", {"name": name, "arguments": arguments})]
        if path != "/mcp":
            asked.append(("prompts/list", {}))
        for method, params in asked:
            if era == "2026-07-28":
                reply = post(served.port, path, message(method, _meta=meta(), **params), token=key)
                error = reply.json["error"]
            else:
                headers = {"MCP_Protocol_Version": era}
                if path != "/mcp":
                    headers["Mcp_Session_Id"] = legacy(served, path, HELLO, key).headers["mcp-session-id"]
                error = events(legacy(served, path, message(method, **params), key, **headers))[0]["error"]
            assert error["code"] == -32603
            assert error["message"] == "Something went wrong inside the registry."
            assert error["data"]["code"] == "internal_error"
            assert error["data"]["request_id"].startswith("req_")
            assert error["data"]["request_id"] in "".join(str(vars(record)) for record in caplog.records)


@pytest.mark.parametrize(
    ("said", "told"),
    [(-32602, -32602), (-32021, -32021), (-32042, -32042), (-32020, -32050), (-32022, -32050), (-32600, -32050)],
)
def test_errors_of_outside_servers(served: Served, said: int, told: int) -> None:
    """As they come, but for those that are about another connection than the caller's."""
    kept = served.catalogue.call_tool

    async def fail(*_: Any) -> dict[str, Any]:
        raise MCPError(said, "x" * 5000, {"some": "data"})

    served.catalogue.call_tool = fail  # type: ignore[method-assign]
    key = served.keys.new("tools:read", "tools:call")
    error = post(served.port, "/mcp/fixture", message("tools/call", _meta=meta(), **ECHO), token=key).json["error"]
    served.catalogue.call_tool = kept  # type: ignore[method-assign]
    assert error == {"code": told, "message": "x" * 2000, "data": {"some": "data"}}


def test_a_client_in_a_browser(loop: Loop) -> None:
    with serve(loop, mcp_origins="https://chat.example.org") as served:
        origin = {"Origin": "https://chat.example.org"}
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        reply = call(served.port, "OPTIONS", "/mcp", None, origin | asked)
        assert reply.status == 204
        assert reply.headers["access-control-allow-origin"] == "https://chat.example.org"
        assert reply.headers["access-control-allow-headers"] == "Authorization, *"
        assert reply.headers["vary"] == "Origin"
        assert "access-control-allow-credentials" not in reply.headers
        listing = message("tools/list", _meta=meta())
        for key, status in ((served.keys.new("tools:read"), 200), ("a.b.c", 401)):
            reply = post(served.port, "/mcp", listing, token=key, **origin)
            assert reply.status == status
            assert reply.headers["access-control-allow-origin"] == "https://chat.example.org"
            assert "WWW-Authenticate" in reply.headers["access-control-expose-headers"]
        evil = {"Origin": "https://evil.example"}
        for headers in (evil | asked, evil):
            reply = call(served.port, "OPTIONS", "/mcp", None, headers)
            assert (reply.status, reply.code) == (403, "origin_not_allowed")
            assert "access-control-allow-origin" not in reply.headers
        plain = post(served.port, "/mcp", listing, token=served.keys.new("tools:read"))
        assert "access-control-allow-origin" not in plain.headers


def test_a_body_that_does_not_come(loop: Loop) -> None:
    with serve(loop, mcp_body_timeout="0.3") as served:
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=15)
        connection.putrequest("POST", "/mcp")
        connection.putheader("Authorization", f"Bearer {served.keys.new('tools:read')}")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", "100")
        connection.endheaders(b"{")
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["error"]["code"]) == (408, "request_timeout")
        connection.close()


SECRET = "the content of somebody's mail"


@pytest.mark.parametrize("era", ["2026-07-28", "2025-11-25"])
@pytest.mark.parametrize(
    "result",
    [
        {},
        {"content": SECRET},
        {"content": [{"type": "text", "text": [SECRET]}]},
        {"content": [{"type": "secret", "text": SECRET}]},
        {"content": [], "structuredContent": SECRET, "isError": SECRET},
    ],
)
def test_an_answer_outside_the_protocol(
    served: Served, era: str, result: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Refused, and not written into the log either."""
    served.catalogue.says["test_echo"] = result
    key = served.keys.new("tools:read", "tools:call")
    with caplog.at_level(logging.DEBUG):
        if era == "2026-07-28":
            reply = post(served.port, "/mcp/fixture", message("tools/call", _meta=meta(), **ECHO), token=key)
            error = reply.json["error"]
        else:
            body = message("tools/call", name="call_tool", arguments={"name": "fixture__test_echo"})
            error = events(legacy(served, "/mcp", body, key))[0]["error"]
    del served.catalogue.says["test_echo"]
    assert error["code"] == -32050
    assert error["message"] == "The outside server's answer does not follow the protocol."
    assert SECRET not in "\n".join(logs.JsonFormatter().format(record) for record in caplog.records)


def test_an_outside_server_that_never_stops_asking(served: Served) -> None:
    question = {"method": "roots/list", "params": {}}
    served.catalogue.says["test_echo"] = {"resultType": "input_required", "inputRequests": {"q": question}}
    asked = 0

    async def roots(_: Any) -> types.ListRootsResult:
        nonlocal asked
        asked += 1
        return types.ListRootsResult(roots=[])

    async def run() -> None:
        async with Talk(served, "/mcp/fixture", "legacy", list_roots_callback=roots) as client:
            with pytest.raises(MCPError, match="keeps asking"):
                await client.call_tool("test_echo", {"text": "x"})

    asyncio.run(run())
    del served.catalogue.says["test_echo"]
    assert asked == 10


def test_nothing_of_the_caller_reaches_the_outside_server(loop: Loop, tmp_path: Path) -> None:
    """No credential, no cookie, no session, no name, no address: the registry asks in its own name."""
    record = tmp_path / "record"
    with fixture_server(record) as outside, serve(loop) as served:
        served.catalogue.servers["fixture"] = Server("fixture", "fixture", f"http://127.0.0.1:{outside}/mcp")
        key = served.keys.new("tools:read", "tools:call")
        secret = {"Cookie": "session=cookie-secret", "X-Forwarded-For": "203.0.113.9", "X-Api-Key": "header-secret"}
        extra = meta(**{"io.modelcontextprotocol/clientInfo": {"name": "client-secret", "version": "1"}})
        body = message("tools/call", _meta=extra, **ECHO)
        assert post(served.port, "/mcp/fixture", body, token=key, **secret).status == 200
        front = message("tools/call", name="call_tool", arguments={"name": "fixture__test_simple_text"}, _meta=extra)
        assert post(served.port, "/mcp", front, token=key, **secret).status == 200
    seen = record.read_text()
    assert seen.count('"tools/call"') == 2
    for word in (key, "cookie-secret", "203.0.113.9", "header-secret", "client-secret", "authorization"):
        assert word not in seen.lower()


def test_admission_is_asked_and_heard(loop: Loop) -> None:
    asked: list[str] = []

    async def admit(who: Any) -> list[tuple[bytes, bytes]]:
        asked.append(who.id)
        if len(asked) > 2:
            raise ApiError("rate_limit_exceeded", "Too many.", retry_after=7)
        return [(b"x-ratelimit-remaining-requests", b"%d" % (2 - len(asked)))]

    with serve(loop, admit=admit) as served:
        key = served.keys.new("tools:read")
        replies = [post(served.port, "/mcp", message("tools/list", _meta=meta()), token=key) for _ in range(3)]
    assert [reply.status for reply in replies] == [200, 200, 429]
    assert [reply.headers.get("x-ratelimit-remaining-requests") for reply in replies] == ["1", "0", None]
    assert replies[2].headers["retry-after"] == "7"
    assert asked == [next(iter(served.keys.known.values())).kid] * 3


def test_a_caller_who_leaves_ends_what_he_asked_for(loop: Loop) -> None:
    cancelled = asyncio.Event()
    started = asyncio.Event()
    with serve(loop) as served:
        served.catalogue.shown["s"] = Members("s", (Tool("s", "t", {"inputSchema": {"type": "object"}}),), mirror="s")

        async def hang(*_: Any) -> dict[str, Any]:
            started.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.set()
                raise
            return {}

        served.catalogue.call_tool = hang  # type: ignore[method-assign]
        key = served.keys.new("tools:read", "tools:call")
        body = message("tools/call", name="t", arguments={}, _meta=meta())
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=15)
        connection.request(
            "POST", "/mcp/s", body,
            {
                "Authorization": f"Bearer {key}", "Content-Type": "application/json", "Mcp-Name": "t",
                "Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2026-07-28",
                "Mcp-Method": "tools/call",
            },
        )  # fmt: skip
        loop.run(asyncio.wait_for(started.wait(), 10))
        assert connection.sock is not None
        connection.sock.close()
        loop.run(asyncio.wait_for(cancelled.wait(), 10))


def test_what_is_gone_is_not_shown_for_long(served: Served) -> None:
    members = loop_members(served)
    key = served.keys.new("tools:read", "tools:call")
    served.catalogue.shown["fixture"] = replace(
        members, tools=tuple(tool for tool in members.tools if tool.name != "test_echo")
    )
    count = len(served.catalogue.calls)

    def gone() -> bool:
        reply = post(served.port, "/mcp/fixture", message("tools/call", _meta=meta(), **ECHO), token=key)
        # Until then the call is refused by who carries it out, who is always asked.
        assert reply.status == 400 or reply.json["result"]["isError"] is True
        return reply.status == 400

    wait_for("the list to be asked for again", gone, 5)
    served.catalogue.shown["fixture"] = members
    assert all(call[2] == "test_echo" for call in served.catalogue.calls[count:])


def loop_members(served: Served) -> Members:
    post(served.port, "/mcp/fixture", message("tools/list", _meta=meta()), token=served.keys.new("tools:read"))
    return served.catalogue.shown["fixture"]
