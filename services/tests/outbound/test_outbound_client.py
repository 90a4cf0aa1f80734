# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The client of outside servers: the SDK's server in both eras, and servers that do what no server should."""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from outbound_servers import (
    DISCOVERED,
    TEXT,
    Farm,
    Request,
    answer,
    at,
    error,
    event,
    legacy,
    modern,
    result,
    says,
    sdk_server,
    stream,
    until,
)

import support
from mcpstack.common import ssrf
from mcpstack.registry.client import NOT_MODIFIED, RpcError, UpstreamError, auth_value

pytestmark = pytest.mark.anyio

SERVERS = {
    "both eras": {},
    "json": {"json_response": True},
    "stateless": {"stateless_http": True},
    "old": {"old": True},
    "old, json": {"old": True, "json_response": True},
    "old, stateless": {"old": True, "stateless_http": True},
    "old, stateless, json": {"old": True, "stateless_http": True, "json_response": True},
}


@pytest.mark.parametrize("kind", SERVERS)
async def test_tools_of_the_sdk_s_server(farm: Farm, kind: str) -> None:
    server = at(await farm.sdk(**SERVERS[kind]))
    upstream = await farm.upstream()
    listed = (await upstream.list_tools(server)).result["tools"]
    assert {tool["name"] for tool in listed} == {"add", "say", "big", "fail", "slow", "progress"}
    for number in range(3):
        got = await upstream.call_tool(server, "add", {"a": number, "b": 2})
        assert got.result["content"] == [{"type": "text", "text": str(number + 2)}]
        assert got.result["structuredContent"] == {"result": number + 2}
        assert got.size > 50
    assert (await upstream.call_tool(server, "say", {"text": "h\u00e9 \U0001f600\n\u2028"})).result["content"][0][
        "text"
    ] == "h\u00e9 \U0001f600\n\u2028"
    failed = (await upstream.call_tool(server, "fail", {})).result
    assert failed["isError"] is True
    info = await upstream.describe(server)
    assert info.version == ("2025-11-25" if kind.startswith("old") else "2026-07-28")
    assert info.instructions == "A server for tests."
    assert "tools" in info.capabilities
    assert info.server_info is not None
    assert info.server_info["name"] == "fixture"


@pytest.mark.parametrize("old", [False, True])
async def test_progress_comes_through_under_the_token_of_the_caller(farm: Farm, old: bool) -> None:
    server = at(await farm.sdk(old=old))
    upstream = await farm.upstream()
    heard: list[dict[str, Any]] = []

    async def hear(message: dict[str, Any]) -> None:
        heard.append(message)

    await upstream.call_tool(server, "progress", {}, meta={"progressToken": "mine"}, on_message=hear)
    assert [message["params"] for message in heard if message["method"] == "notifications/progress"] == [
        {"progressToken": "mine", "progress": 1, "total": 2, "message": "half"}
    ]


@pytest.mark.parametrize("old", [False, True])
async def test_a_slow_tool_is_given_up_and_hears_of_it(farm: Farm, old: bool) -> None:
    gone = asyncio.Event()
    fixture = sdk_server()

    @fixture.tool()
    async def hang() -> str:
        """Never ends."""
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            gone.set()
            raise
        return ""

    server = at(await farm.sdk(fixture, old=old))
    upstream = await farm.upstream()
    await upstream.list_tools(server)
    with pytest.raises(UpstreamError) as caught:
        await upstream.call_tool(server, "hang", {}, timeout=0.2)
    assert caught.value.kind == "timeout"
    async with asyncio.timeout(5):
        await gone.wait()
    assert (await upstream.call_tool(server, "add", {"a": 1, "b": 1})).result["structuredContent"] == {"result": 2}


async def test_a_cancelled_call_closes_its_connection(farm: Farm) -> None:
    started = asyncio.Event()

    async def hang(request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        started.set()
        assert await reader.read() == b""

    raw = await farm.raw(modern(hang))
    upstream = await farm.upstream()
    task = asyncio.create_task(upstream.call_tool(at(raw.url), "t", {}))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: not raw.open)


async def test_what_is_sent_in_the_newer_era(farm: Farm) -> None:
    raw = await farm.raw(modern(says(lambda request: result(request, TEXT))))
    upstream = await farm.upstream()
    options = {"meta": {"traceparent": "00-1"}, "capabilities": {"sampling": {}}, "headers": {"mcp-param-region": "eu"}}
    server = at(raw.url, headers=(("X-Tenant", "7"),))
    await upstream.call_tool(server, "t\u00e9st", {"a": 1}, params={"requestState": "x"}, **options)
    discover, call = raw.requests
    assert discover.rpc["method"] == "server/discover"
    assert (call.method, call.path, call.rpc["method"]) == ("POST", "/mcp", "tools/call")
    assert {name: call.headers.get(name) for name in ("mcp-protocol-version", "mcp-method", "mcp-name")} == {
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": "tools/call",
        "mcp-name": "=?base64?dMOpc3Q=?=",
    }
    assert (call.headers["mcp-param-region"], call.headers["x-tenant"]) == ("eu", "7")
    assert (call.headers["accept"], call.headers["accept-encoding"]) == (
        "application/json, text/event-stream",
        "identity",
    )
    assert "mcp-session-id" not in call.headers
    assert "cookie" not in call.headers
    params = call.rpc["params"]
    assert (params["name"], params["arguments"], params["requestState"]) == ("t\u00e9st", {"a": 1}, "x")
    assert params["_meta"]["traceparent"] == "00-1"
    assert params["_meta"]["io.modelcontextprotocol/protocolVersion"] == "2026-07-28"
    assert params["_meta"]["io.modelcontextprotocol/clientCapabilities"] == {"sampling": {}}


async def test_one_session_for_all_calls_and_its_end(farm: Farm) -> None:
    raw = await farm.raw(legacy(says(lambda request: result(request, TEXT))))
    upstream = await farm.upstream()
    server = at(raw.url)
    await asyncio.gather(*(upstream.call_tool(server, "t", {}) for _ in range(20)))
    assert [len(raw.called(name)) for name in ("initialize", "notifications/initialized", "tools/call")] == [1, 1, 20]
    for request in raw.called("tools/call"):
        assert request.headers["mcp-session-id"] == "s1"
        assert request.headers["mcp-protocol-version"] == "2025-11-25"
        assert "mcp-name" not in request.headers
        assert "_meta" not in request.rpc["params"]
    await upstream.close()
    assert [request.headers["mcp-session-id"] for request in raw.requests if request.method == "DELETE"] == ["s1"]


@pytest.mark.parametrize(
    "lost",
    [
        lambda request: answer(404),
        lambda request: error(request, -32600, "Session not found", 404),
        lambda request: error(request, -32000, "Bad Request: no valid session", 400),
        lambda request: answer(400, b"no session", "text/plain"),
    ],
)
async def test_a_lost_session_is_made_anew(farm: Farm, lost: Callable[[Request], bytes]) -> None:
    seen: list[str] = []

    async def script(request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(request.headers["mcp-session-id"])
        writer.write(lost(request) if len(seen) == 2 else result(request, TEXT))

    raw = await farm.raw(legacy(script))
    upstream = await farm.upstream()
    for _ in range(3):
        await upstream.call_tool(at(raw.url), "t", {})
    assert (len(seen), len(raw.called("initialize"))) == (4, 2)


async def test_a_session_that_is_always_lost_is_an_error(farm: Farm) -> None:
    raw = await farm.raw(legacy(says(lambda request: answer(404))))
    upstream = await farm.upstream()
    with pytest.raises(UpstreamError, match="it answers with status 404"):
        await upstream.call_tool(at(raw.url), "t", {})
    assert len(raw.called("tools/call")) == 2


async def test_a_server_that_changes_its_era_is_met_again(farm: Farm) -> None:
    new = modern(says(lambda request: result(request, TEXT)))
    old = legacy(says(lambda request: result(request, TEXT)))

    def strict(request: Request) -> bool:
        return "mcp-session-id" not in request.headers and request.rpc.get("method") == "tools/call"

    async def old_now(request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if strict(request):
            writer.write(error(request, -32600, "Bad Request: Missing session ID", 400))
        else:
            await old(request, reader, writer)

    raw = await farm.raw(new)
    upstream = await farm.upstream()
    server = at(raw.url)
    await upstream.call_tool(server, "t", {})
    raw.script = old_now
    await upstream.call_tool(server, "t", {})
    assert (await upstream.describe(server)).version == "2025-11-25"

    async def new_now(request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if "mcp-session-id" in request.headers:
            writer.write(error(request, -32022, "Unsupported", 400, {"supported": ["2026-07-28"]}))
        else:
            await new(request, reader, writer)

    raw.script = new_now
    await upstream.call_tool(server, "t", {})
    assert (await upstream.describe(server)).version == "2026-07-28"


@pytest.mark.parametrize(
    "said",
    [
        lambda request: answer(404, b"nothing here", "text/plain"),
        lambda request: answer(405),
        lambda request: answer(500, b"oops", "text/html"),
        lambda request: error(request, -32601, "Method not found"),
        lambda request: error(request, -32601, "Method not found", 404),
        lambda request: error(request, -32022, "no", 400, {"supported": ["2025-06-18"]}),
        lambda request: result(request, {"supportedVersions": ["2025-11-25"]}),
        lambda request: result(request, {}),
        lambda request: answer(200, b"hello", "text/plain"),
        lambda request: answer(202),
    ],
)
async def test_whatever_is_no_proof_of_the_newer_era_leads_to_the_older(
    farm: Farm, said: Callable[[Request], bytes]
) -> None:
    old = legacy(says(lambda request: result(request, TEXT)))

    async def script(request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if request.rpc.get("method") == "server/discover":
            writer.write(said(request))
        else:
            await old(request, reader, writer)

    raw = await farm.raw(script)
    upstream = await farm.upstream()
    assert (await upstream.call_tool(at(raw.url), "t", {})).result == TEXT


async def test_a_server_of_a_later_era_only(farm: Farm) -> None:
    raw = await farm.raw(says(lambda request: error(request, -32022, "no", 400, {"supported": ["2031-01-01"]})))
    upstream = await farm.upstream()
    with pytest.raises(UpstreamError, match="no protocol version that is spoken here"):
        await upstream.call_tool(at(raw.url), "t", {})
    assert [request.rpc["method"] for request in raw.requests] == ["server/discover"]


MEBI = 1 << 20


def padded(request: Request, size: int) -> bytes:
    """A correct answer whose body has exactly `size` bytes."""
    empty = json.dumps(
        {"jsonrpc": "2.0", "id": request.rpc["id"], "result": {"content": [{"type": "text", "text": ""}]}}
    )
    return empty.replace('"text": ""', '"text": "' + "x" * (size - len(empty)) + '"').encode()


async def test_the_limit_is_exact(farm: Farm) -> None:
    sizes = iter([MEBI, MEBI + 1])
    raw = await farm.raw(modern(says(lambda request: answer(200, padded(request, next(sizes))))))
    upstream = await farm.upstream()
    assert (await upstream.call_tool(at(raw.url), "t", {})).size == MEBI
    with pytest.raises(UpstreamError) as caught:
        await upstream.call_tool(at(raw.url), "t", {})
    assert caught.value.kind == "too_large"
    assert not caught.value.server_failed


def chunked(kind: str, *pieces: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    return head + b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces)


async def flood(writer: asyncio.StreamWriter, head: bytes, piece: bytes) -> int:
    """Write without an end, until the other side has had enough; how much was written."""
    writer.write(head)
    sent = 0
    try:
        while sent < 256 * MEBI:
            writer.write(piece)
            await writer.drain()
            sent += len(piece)
    except ConnectionError:
        pass
    return sent


ENDLESS = {
    "JSON": (chunked("application/json"), b"10000\r\n" + b" " * 65536 + b"\r\n"),
    "event data": (stream(), b"data: " + b"x" * 60_000 + b"\n"),
    "comments": (stream(), b": still here\n\n" * 5000),
    "events": (stream(), event({"method": "notifications/message", "params": {"data": "x" * 2000}}) * 40),
    "empty lines": (stream(), b"\n" * 65536),
    "a line without an end": (stream(), b"x" * 65536),
}


@pytest.mark.parametrize("kind", ENDLESS)
async def test_an_answer_without_an_end(farm: Farm, kind: str) -> None:
    sent: list[int] = []
    head, piece = ENDLESS[kind]

    async def script(request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sent.append(await flood(writer, head, piece))

    raw = await farm.raw(modern(script))
    upstream = await farm.upstream()
    with pytest.raises(UpstreamError) as caught:
        await upstream.call_tool(at(raw.url), "t", {})
    assert caught.value.kind == "too_large"
    await until(lambda: sent)
    assert sent[0] < 16 * MEBI  # what the kernel's buffers took, and not more


async def test_a_length_that_is_too_large_is_believed(farm: Farm) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1048577\r\n\r\n"
    raw = await farm.raw(modern(says(lambda request: head)))
    upstream = await farm.upstream()
    with pytest.raises(UpstreamError) as caught:
        await upstream.call_tool(at(raw.url), "t", {}, timeout=60)
    assert caught.value.kind == "too_large"


async def test_compressed_answers_are_refused(farm: Farm) -> None:
    def bomb(request: Request) -> bytes:
        return answer(200, gzip.compress(padded(request, 64 * MEBI)), Content_Encoding="gzip")

    raw = await farm.raw(modern(says(bomb)))
    upstream = await farm.upstream()
    with pytest.raises(UpstreamError, match="it compresses its answer although it was asked not to"):
        await upstream.call_tool(at(raw.url), "t", {})


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_refused(farm: Farm, status: int) -> None:
    target = await farm.raw(says(lambda request: result(request, TEXT)))
    raw = await farm.raw(modern(says(lambda request: answer(status, Location=target.url))))
    upstream = await farm.upstream()
    with pytest.raises(UpstreamError) as caught:
        await upstream.call_tool(at(raw.url), "t", {})
    assert (caught.value.kind, caught.value.reason) == ("refused", "it redirects, which is not followed")
    assert target.connections == 0
    with pytest.raises(UpstreamError, match="it redirects"):  # already when it is met
        await upstream.call_tool(
            at((await farm.raw(says(lambda request: answer(status, Location=target.url)))).url), "t", {}
        )
    assert target.connections == 0


def body(value: Any) -> Callable[[Request], bytes]:
    return lambda request: answer(200, value if isinstance(value, bytes) else json.dumps(value).encode())


BAD = {
    "text": lambda request: answer(200, b"hello", "text/plain"),
    "html": lambda request: answer(200, b"<html>", "text/html"),
    "no content type": lambda request: b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    "not JSON": body(b"{"),
    "not UTF-8": body(b'{"jsonrpc":"2.0","id":1,"result":{"content":"\xff"}}'),
    "NaN": lambda request: result(request, {"content": [], "x": float("nan")}),
    "half a character": lambda request: answer(
        200, b'{"jsonrpc":"2.0","id":%d,"result":{"content":[{"type":"text","text":"\\ud800"}]}}' % request.rpc["id"]
    ),
    "deep": lambda request: answer(200, b'{"jsonrpc":"2.0","result":' + b"[" * 200_000),
    "a number of 100,000 digits": lambda request: answer(200, b'{"jsonrpc":"2.0","id":' + b"9" * 100_000 + b"}"),
    "a list": body([]),
    "a string": body("x"),
    "no jsonrpc": lambda request: answer(200, json.dumps({"id": request.rpc["id"], "result": TEXT}).encode()),
    "jsonrpc 1": lambda request: answer(200, json.dumps({"jsonrpc": "1.0", "id": 1, "result": TEXT}).encode()),
    "another id": body({"jsonrpc": "2.0", "id": 99_999, "result": TEXT}),
    "the id as text": lambda request: body({"jsonrpc": "2.0", "id": str(request.rpc["id"]), "result": TEXT})(request),
    "true as id": body({"jsonrpc": "2.0", "id": True, "result": TEXT}),
    "no result": lambda request: body({"jsonrpc": "2.0", "id": request.rpc["id"]})(request),
    "a result that is none": lambda request: result(request, None),
    "a result that is a list": lambda request: result(request, []),
    "an error that is none": lambda request: body({"jsonrpc": "2.0", "id": request.rpc["id"], "error": "x"})(request),
    "a code that is a text": lambda request: error(request, "1"),  # type: ignore[arg-type]
    "no content": lambda request: result(request, {}),
    "content that is no list": lambda request: result(request, {"content": "x"}),
    "content without a type": lambda request: result(request, {"content": [{"text": "x"}]}),
    "isError that is no yes or no": lambda request: result(request, {"content": [], "isError": "no"}),
    "a notification": lambda request: answer(202),
    "nothing": lambda request: answer(204),
    "a bad request": lambda request: answer(400),
    "half an answer as events": lambda request: stream(b"data: {}\n\n"),
    "events that end": lambda request: stream(b": hello\n\n"),
    "no HTTP": lambda request: b"hello\r\n\r\n",
    "a long header": lambda request: answer(200, b"{}", X_Long="x" * 100_000),
    "many headers": lambda request: answer(200, b"{}", **{f"X-{number}": "x" for number in range(1000)}),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
async def test_answers_that_are_none(farm: Farm, kind: str) -> None:
    raw = await farm.raw(modern(says(BAD[kind], close="events" in kind)))
    upstream = await farm.upstream()
    with pytest.raises(UpstreamError) as caught:
        await upstream.call_tool(at(raw.url), "t", {})
    assert caught.value.kind == "protocol"
    assert str(raw.port) not in caught.value.reason
    raw.script = modern(says(lambda request: result(request, TEXT)))
    assert (await upstream.call_tool(at(raw.url), "t", {})).result == TEXT


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        (401, "refused", "it does not accept the registry's credentials"),
        (403, "refused", "it does not accept the registry's credentials"),
        (429, "unavailable", "it answers with status 429"),
        (500, "unavailable", "it answers with status 500"),
        (503, "unavailable", "it answers with status 503"),
        (418, "protocol", "it answers with status 418"),
    ],
)
async def test_statuses(farm: Farm, status: int, kind: str, reason: str) -> None:
    raw = await farm.raw(modern(says(lambda request: answer(status, b"secret: http://10.0.0.1", "text/plain"))))
    upstream = await farm.upstream()
    with pytest.raises(UpstreamError) as caught:
        await upstream.call_tool(at(raw.url), "t", {})
    assert (caught.value.kind, caught.value.reason) == (kind, reason)


@pytest.mark.parametrize(("code", "status"), [(-32602, 200), (-32602, 400), (-32601, 404), (-32000, 200), (7, 422)])
async def test_errors_of_the_server(farm: Farm, code: int, status: int) -> None:
    raw = await farm.raw(modern(says(lambda request: error(request, code, "no such thing", status, {"x": 1}))))
    upstream = await farm.upstream()
    with pytest.raises(RpcError) as caught:
        await upstream.call_tool(at(raw.url), "t", {})
    assert (caught.value.code, caught.value.message, caught.value.data) == (code, "no such thing", {"x": 1})


async def test_a_server_that_is_not_there(farm: Farm) -> None:
    upstream = await farm.upstream()
    with pytest.raises(UpstreamError) as caught:
        await upstream.call_tool(at(f"http://127.0.0.1:{support.free_port()}/mcp"), "t", {})
    assert (caught.value.kind, caught.value.reason) == ("unavailable", "it refuses connections")


async def test_a_name_that_is_not_known(farm: Farm) -> None:
    async def lookup(host: str, port: int, family: int) -> list[tuple[int, str]]:
        raise OSError(-2, "Name or service not known")

    upstream = await farm.upstream(ssrf.parse("mcp-x"), lookup=lookup)
    with pytest.raises(UpstreamError, match="its name is not known"):
        await upstream.call_tool(at("http://mcp-x:8000/mcp"), "t", {})


async def test_a_name_server_that_hangs(farm: Farm) -> None:
    async def lookup(host: str, port: int, family: int) -> list[tuple[int, str]]:
        await asyncio.sleep(60)
        return []

    upstream = await farm.upstream(ssrf.parse("mcp-x"), lookup=lookup, connect_timeout=0.1)
    with pytest.raises(UpstreamError) as caught:
        await upstream.call_tool(at("http://mcp-x:8000/mcp"), "t", {})
    assert (caught.value.kind, caught.value.reason) == ("unavailable", "it does not accept a connection in time")


@pytest.mark.parametrize(
    "url",
    ["http://169.254.169.254/mcp", "http://127.0.0.2/mcp", "https://u:p@example.org/mcp", "http://2130706433/mcp"],
)
async def test_urls_that_are_not_allowed(farm: Farm, url: str) -> None:
    upstream = await farm.upstream()
    with pytest.raises(UpstreamError) as caught:
        await upstream.call_tool(at(url), "t", {})
    assert caught.value.kind == "blocked"


async def test_a_name_that_becomes_an_inner_address(farm: Farm) -> None:
    alone = {"Connection": "close"}

    async def script(request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(result(request, DISCOVERED if request.rpc["method"] == "server/discover" else TEXT, **alone))
        await writer.drain()
        writer.close()

    raw = await farm.raw(script)
    answers = iter(["127.0.0.1", "169.254.169.254"])

    async def lookup(host: str, port: int, family: int) -> list[tuple[int, str]]:
        return [(2, next(answers))]

    upstream = await farm.upstream(ssrf.parse(f"127.0.0.1, mcp-x:{raw.port}"), lookup=lookup)
    server = at(f"http://mcp-x:{raw.port}/mcp")
    await upstream.call_tool(server, "t", {})
    assert raw.connections == 2
    upstream._http.connector.clear_dns_cache()  # type: ignore[union-attr]
    with pytest.raises(UpstreamError) as caught:
        await upstream.call_tool(server, "t", {})
    assert (caught.value.kind, caught.value.reason) == (
        "blocked",
        "its address is not allowed: this address is never asked",
    )


@pytest.mark.parametrize(
    ("host", "trusted", "reason"),
    [
        ("localhost", True, None),
        ("localhost", False, "its certificate is not trusted"),
        ("mcp-x", True, "its certificate is not trusted"),
    ],
)
async def test_the_name_is_verified_at_the_pinned_address(
    farm: Farm, tmp_path: Path, host: str, trusted: bool, reason: str | None
) -> None:
    """The connection goes to a number; the certificate must still be the one of the name."""
    files = support.make_tls(tmp_path, None)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(files.cert, files.key)
    raw = await farm.raw(modern(says(lambda request: result(request, TEXT))), tls)

    async def lookup(name: str, port: int, family: int) -> list[tuple[int, str]]:
        return [(2, "127.0.0.1")]

    context = ssl.create_default_context(cafile=str(files.ca) if trusted else None)
    upstream = await farm.upstream(ssrf.parse(f"127.0.0.1, {host}"), lookup=lookup, ssl=context)
    server = at(f"https://{host}:{raw.port}/mcp")
    if reason is None:
        assert (await upstream.call_tool(server, "t", {})).result == TEXT
    else:
        with pytest.raises(UpstreamError, match=reason):
            await upstream.call_tool(server, "t", {})
        assert raw.requests == []


async def broken(request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def test_a_call_is_not_tried_twice_unless_it_may_be(farm: Farm) -> None:
    raw = await farm.raw(modern(broken))
    upstream = await farm.upstream()
    for retry, tries in ((False, 1), (True, 2)):
        raw.requests.clear()
        with pytest.raises(UpstreamError) as caught:
            await upstream.call_tool(at(raw.url), "t", {}, retry=retry)
        assert (caught.value.kind, caught.value.reason) == ("unavailable", "it broke off without an answer")
        assert len(raw.called("tools/call")) == tries


@pytest.mark.parametrize("old", [False, True])
async def test_closing_in_the_middle_of_an_answer(farm: Farm, old: bool) -> None:
    def half(request: Request) -> bytes:
        whole = result(request, TEXT)
        return whole[: len(whole) // 2 + 40]

    for script in (half, lambda request: stream(event({"id": request.rpc["id"], "result": TEXT})[:-10])):
        raw = await farm.raw((legacy if old else modern)(says(script, close=True)))
        upstream = await farm.upstream()
        with pytest.raises(UpstreamError):
            await upstream.call_tool(at(raw.url), "t", {})
        assert len(raw.called("tools/call")) == 1


async def test_too_many_at_once(farm: Farm) -> None:
    go = asyncio.Event()

    async def wait(request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go.wait()
        writer.write(result(request, TEXT))

    raw = await farm.raw(modern(wait))
    upstream = await farm.upstream(max_in_flight=2)
    tasks = [asyncio.create_task(upstream.call_tool(at(raw.url), "t", {})) for _ in range(2)]
    await until(lambda: len(raw.called("tools/call")) == 2)
    with pytest.raises(UpstreamError) as caught:
        await upstream.call_tool(at(raw.url), "t", {})
    assert caught.value.kind == "busy"
    upstream._max_in_flight_of_all = 2
    with pytest.raises(UpstreamError, match="too many calls of other servers are under way"):
        await upstream.call_tool(at(raw.url, id="other"), "t", {})
    go.set()
    assert [got.result for got in await asyncio.gather(*tasks)] == [TEXT, TEXT]
    assert (await upstream.call_tool(at(raw.url), "t", {})).result == TEXT


# Event streams


async def test_events_cut_anywhere(farm: Farm) -> None:
    """Line ends of every kind, a byte order mark, several data lines, pieces of one byte."""

    async def script(request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said = json.dumps({"jsonrpc": "2.0", "id": request.rpc["id"], "result": TEXT})
        first, rest = said.split(",", 1)
        note = json.dumps({"jsonrpc": "2.0", "method": "notifications/message", "params": {"n": 1}})
        text = f"\ufeff: hi\r\nretry: 5\r\nevent: other\r\ndata: x\r\n\r\ndata: {note}\r\r"
        text += f"event: message\ndata: {first},\ndata: {rest}\n\n"
        writer.write(stream())
        for number in range(len(raw_text := text.encode())):
            writer.write(raw_text[number : number + 1])
            await writer.drain()
        writer.close()

    raw = await farm.raw(modern(script))
    upstream = await farm.upstream()
    heard: list[Any] = []

    async def hear(message: dict[str, Any]) -> None:
        heard.append(message["params"])

    assert (await upstream.call_tool(at(raw.url), "t", {}, on_message=hear)).result == TEXT
    assert heard == [{"n": 1}]


async def test_questions_of_a_server_with_a_session(farm: Farm) -> None:
    replies: dict[str, Any] = {}
    done = asyncio.Event()

    async def script(request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        rpc = request.rpc
        if rpc.get("method") == "tools/call":
            asked = [
                {"id": name, "method": name, "params": {}} for name in ("ping", "elicitation/create", "roots/list")
            ]
            writer.write(stream(*(event(message) for message in asked)))
            await writer.drain()
            await done.wait()
            writer.write(event({"id": rpc["id"], "result": TEXT}))
            writer.close()
        else:
            replies[rpc["id"]] = rpc.get("result", rpc.get("error", {}).get("code"))
            writer.write(answer(202))
            if len(replies) == 3:
                done.set()

    raw = await farm.raw(legacy(script))
    upstream = await farm.upstream()

    async def hear(message: dict[str, Any]) -> dict[str, Any] | None:
        if message["method"] != "elicitation/create":
            return None
        await asyncio.sleep(0.8)  # longer than the server's time, which does not run meanwhile
        return {"action": "accept"}

    got = await upstream.call_tool(at(raw.url, timeout=0.6), "t", {}, on_message=hear)
    assert got.result == TEXT
    assert replies == {"ping": {}, "elicitation/create": {"action": "accept"}, "roots/list": -32601}


async def test_a_server_that_asks_without_an_end(farm: Farm) -> None:
    async def script(request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if request.rpc.get("method") == "tools/call":
            writer.write(stream(*(event({"id": n, "method": "ping"}) for n in range(100))))
        else:
            writer.write(answer(202))

    raw = await farm.raw(legacy(script))
    upstream = await farm.upstream()
    with pytest.raises(UpstreamError, match="it says too much while it works"):
        await upstream.call_tool(at(raw.url), "t", {})


async def test_a_server_that_talks_without_an_end(farm: Farm) -> None:
    raw = await farm.raw(modern(says(lambda request: stream(event({"method": "n"}) * 2001), close=True)))
    upstream = await farm.upstream()
    with pytest.raises(UpstreamError, match="it says too much while it works"):
        await upstream.call_tool(at(raw.url), "t", {})


async def test_a_stream_that_goes_on_elsewhere(farm: Farm) -> None:
    number = 0

    async def script(request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal number
        if request.method == "POST":
            number = request.rpc["id"]
            writer.write(stream(b"id: a1\nretry: 10\ndata:\n\n"))
        elif request.headers["last-event-id"] == "a1":
            writer.write(stream(event({"method": "notifications/message", "params": {}}, "a2")))
        else:
            assert request.headers["last-event-id"] == "a2"
            writer.write(stream(event({"id": number, "result": TEXT})))
        await writer.drain()
        writer.close()

    raw = await farm.raw(legacy(script))
    upstream = await farm.upstream()
    assert (await upstream.call_tool(at(raw.url), "t", {})).result == TEXT
    assert [request.method for request in raw.requests if request.method == "GET"] == ["GET", "GET"]


async def test_a_stream_that_goes_on_elsewhere_for_ever(farm: Farm) -> None:
    async def script(request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(stream(b"id: a1\nretry: 1\ndata:\n\n"))
        await writer.drain()
        writer.close()

    raw = await farm.raw(legacy(script))
    upstream = await farm.upstream()
    with pytest.raises(UpstreamError, match="it broke off inside its answer"):
        await upstream.call_tool(at(raw.url), "t", {})
    assert len([request for request in raw.requests if request.method == "GET"]) == 5


async def test_connections_are_used_again(farm: Farm) -> None:
    """JSON, and event streams of a known length: one connection each for calls one after the other."""
    for make in (
        lambda request: result(request, TEXT),
        lambda request: chunked("text/event-stream", event({"id": request.rpc["id"], "result": TEXT}), b""),
    ):
        raw = await farm.raw(modern(says(make)))
        upstream = await farm.upstream()
        for _ in range(5):
            await upstream.call_tool(at(raw.url), "t", {})
            await asyncio.gather(*upstream._chores)
        assert raw.connections == 1


async def test_meta_that_is_none_and_a_client_that_is_closed(farm: Farm) -> None:
    raw = await farm.raw(modern(says(lambda request: result(request, TEXT))))
    upstream = await farm.upstream()
    await upstream.call_tool(at(raw.url), "t", {}, params={"_meta": "x"})
    assert "io.modelcontextprotocol/protocolVersion" in raw.called("tools/call")[0].rpc["params"]["_meta"]
    await upstream.close()
    with pytest.raises(UpstreamError, match="the registry is starting or stopping"):
        await upstream.call_tool(at(raw.url), "t", {})


# Lists


async def test_pages_and_tags(farm: Farm) -> None:
    def pages(request: Request) -> bytes:
        if request.headers.get("if-none-match") == '"v1"':
            return answer(304)
        cursor = request.rpc["params"].get("cursor")
        return result(request, {"tools": [], "nextCursor": f"after {cursor}"}, ETag='"v1"')

    raw = await farm.raw(modern(says(pages)))
    upstream = await farm.upstream()
    first = await upstream.list_tools(at(raw.url))
    assert (first.result["nextCursor"], first.etag) == ("after None", '"v1"')
    assert (await upstream.list_tools(at(raw.url), "x")).result["nextCursor"] == "after x"
    assert await upstream.list_tools(at(raw.url), etag='"v1"') is NOT_MODIFIED


async def test_304_is_no_answer_to_a_call(farm: Farm) -> None:
    raw = await farm.raw(modern(says(lambda request: answer(304))))
    upstream = await farm.upstream()
    with pytest.raises(UpstreamError) as caught:
        await upstream.call_tool(at(raw.url), "t", {})
    assert caught.value.kind == "protocol"


# Secrets


def secret(folder: Path, name: str, text: str) -> None:
    (folder / f"mcp-server-{name}").mkdir()
    (folder / f"mcp-server-{name}" / "current").write_text(text)


async def test_a_secret_goes_to_its_own_server_only(farm: Farm, tmp_path: Path) -> None:
    raw = await farm.raw(modern(says(lambda request: result(request, TEXT))))
    other = await farm.raw(modern(says(lambda request: result(request, TEXT))))
    secret(tmp_path, "hub", f"http://127.0.0.1:{raw.port}\nAuthorization: Bearer t0p-s3cret-value\n")
    upstream = await farm.upstream(auth_dir=tmp_path)
    await upstream.call_tool(at(raw.url, auth_ref="hub"), "t", {})
    assert {request.headers["authorization"] for request in raw.requests} == {"Bearer t0p-s3cret-value"}
    with pytest.raises(UpstreamError, match="the secret named by auth_ref is for another server"):
        await upstream.call_tool(at(other.url, auth_ref="hub"), "t", {})
    with pytest.raises(UpstreamError, match="its secret is missing"):
        await upstream.call_tool(at(raw.url, auth_ref="nothing"), "t", {})
    for bad in ("../registry-db", "a/b", "", "A", "registry db"):
        with pytest.raises(UpstreamError, match="its auth_ref is not a name"):
            await upstream.call_tool(at(raw.url, auth_ref=bad), "t", {})
    assert other.requests == []


async def test_a_new_secret_is_used_at_once(farm: Farm, tmp_path: Path) -> None:
    raw = await farm.raw(modern(says(lambda request: result(request, TEXT))))
    secret(tmp_path, "hub", f"http://127.0.0.1:{raw.port}\nX-Api-Key: first-value\n")
    upstream = await farm.upstream(auth_dir=tmp_path)
    server = at(raw.url, auth_ref="hub")
    await upstream.call_tool(server, "t", {})
    support.swap_secret(
        tmp_path / "mcp-server-hub" / "current", f"http://127.0.0.1:{raw.port}\nX-Api-Key: second-value\n"
    )
    await upstream.call_tool(server, "t", {})
    assert [request.headers["x-api-key"] for request in raw.called("tools/call")] == ["first-value", "second-value"]


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer x",
        "https://a.example\nHost: b.example",
        "https://a.example\nContent-Length: 5",
        "https://a.example\nMcp-Name: x",
        "https://a.example\nAuthorization: ",
        "https://a.example\nAuthorization: Bearer x\nX-More: y",
        "https://a.example/path\nAuthorization: Bearer x",
        "https://u@a.example\nAuthorization: Bearer x",
        "a.example\nAuthorization: Bearer x",
    ],
)
async def test_secrets_that_are_not_written_as_they_should(text: str) -> None:
    with pytest.raises(ValueError, match="two lines"):
        auth_value(text)


async def test_another_url_is_another_server(farm: Farm) -> None:
    """What was agreed with the server at one URL is forgotten with it; its session is ended."""
    raw = await farm.raw(legacy(says(lambda request: result(request, TEXT))))
    other = await farm.raw(modern(says(lambda request: result(request, TEXT))))
    upstream = await farm.upstream()
    await upstream.call_tool(at(raw.url), "t", {})
    await upstream.call_tool(at(other.url), "t", {})
    assert (await upstream.describe(at(other.url))).version == "2026-07-28"
    await until(lambda: any(request.method == "DELETE" for request in raw.requests))
    assert all("mcp-session-id" not in request.headers for request in other.requests)
