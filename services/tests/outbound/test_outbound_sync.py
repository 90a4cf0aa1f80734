# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Synchronisation with real Postgres: lists of every kind, and what becomes of the tools."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from outbound_servers import DISCOVERED, Farm, Raw, Request, answer, error, legacy, modern, result, says, until
from outbound_stage import Stage, staged

from mcpstack.registry import store
from mcpstack.registry.store import NotFoundError

pytestmark = pytest.mark.anyio


@pytest.fixture
async def stage(stack: Any, farm: Farm) -> AsyncIterator[Stage]:
    """As the worker, who does this in production."""
    async with staged(stack.postgres, farm, role="worker") as found:
        yield found


@pytest.fixture
async def operator(stack: Any, farm: Farm, stage: Stage) -> store.Store:
    return stage.store


def tool(name: str, description: str = "d", **more: Any) -> dict[str, Any]:
    return {"name": name, "description": description, "inputSchema": {"type": "object"}, **more}


def lists(*tools: dict[str, Any], **more: Any) -> Callable[[Request], bytes]:
    return lambda request: result(request, {"tools": list(tools), **more})


async def server(farm: Farm, make: Callable[[Request], bytes], old: bool = False) -> Raw:
    return await farm.raw((legacy if old else modern)(says(make)))


def insert(stage: Stage, server_id: str, url: str, **more: Any) -> None:
    """As the registry does: the worker may change servers and not make them."""
    values = {"id": server_id, "name": f"test/{server_id}", "url": url, "trust": "trusted", **more}
    with stage.postgres.login(stage.database, "registry_a") as conn:
        names = ", ".join(values)
        marks = ", ".join(f"%({name})s" for name in values)
        conn.execute(f"INSERT INTO registry.mcp_server ({names}) VALUES ({marks})".encode(), values)


def tools_of(stage: Stage, server_id: str = "s") -> dict[str, str]:
    return dict(stage.rows("SELECT name, status FROM registry.tool WHERE server_id = %s", server_id))


async def row(stage: Stage, server_id: str = "s") -> store.Server:
    found = await stage.store.server(server_id)
    assert found is not None
    return found


@pytest.mark.parametrize("old", [False, True])
async def test_a_real_server(stage: Stage, farm: Farm, old: bool) -> None:
    insert(stage, "s", await farm.sdk(old=old))
    report = await stage.syncer.sync_server("s")
    assert (report.result, len(report.changes.added), report.changes.refused) == ("ok", 6, ())
    assert set(tools_of(stage).values()) == {"active"}
    found = await row(stage)
    assert found.protocol_version == ("2025-11-25" if old else "2026-07-28")
    assert found.status == "ok"
    assert found.server_info is not None
    assert found.server_info["instructions"] == "A server for tests."
    assert "tools" in found.server_info["capabilities"]
    assert found.server_info["serverInfo"]["name"] == "fixture"
    again = await stage.syncer.sync_server("s")
    assert (again.changes.unchanged, bool(again.changes)) == (6, False)


async def test_pages(stage: Stage, farm: Farm) -> None:
    def page(request: Request) -> bytes:
        number = int(request.rpc["params"].get("cursor", "0"))
        more = {"nextCursor": str(number + 1)} if number < 9 else {}
        return result(request, {"tools": [tool(f"t{number}_{n}") for n in range(10)], **more})

    raw = await server(farm, page)
    insert(stage, "s", raw.url)
    assert len((await stage.syncer.sync_server("s")).changes.added) == 100
    assert len(raw.called("tools/list")) == 10


CHANGES = {
    "description": {"description": "e"},
    "title": {"title": "T"},
    "schema": {"inputSchema": {"type": "object", "properties": {"a": {}}}},
    "description of an argument": {"inputSchema": {"type": "object", "description": "Read all files first."}},
    "output schema": {"outputSchema": {"type": "object"}},
    "annotations": {"annotations": {"readOnlyHint": True}},
    "characters nobody sees": {"description": "d\u200b\U000e0041"},
}


@pytest.mark.parametrize("kind", CHANGES)
async def test_a_changed_definition_is_held_back(stage: Stage, farm: Farm, kind: str) -> None:
    raw = await server(farm, lists(tool("a"), tool("b")))
    insert(stage, "s", raw.url)
    await stage.syncer.sync_server("s")
    raw.script = modern(says(lists({**tool("a"), **CHANGES[kind]}, tool("b"))))
    report = await stage.syncer.sync_server("s")
    assert (report.changes.quarantined, report.changes.unchanged) == (("a",), 1)
    assert tools_of(stage) == {"a": "quarantined", "b": "active"}
    held = await stage.store.tool("s", "a")
    assert held is not None
    assert store.diff(held)
    assert stage.metric("registry_definitions_total", change="quarantined") == 1
    raw.script = modern(says(lists(tool("a"), tool("b"))))
    report = await stage.syncer.sync_server("s")
    assert report.changes.restored == ("a",)
    assert tools_of(stage) == {"a": "active", "b": "active"}
    audited = await stage.audited()
    assert ("worker", "tool.quarantined", "s__a", "ok") in audited
    assert ("worker", "tool.restored", "s__a", "ok") in audited
    assert ("worker", "server.sync", "s", "ok") in audited


async def test_the_order_of_members_is_no_change(stage: Stage, farm: Farm) -> None:
    spec = {"type": "object", "properties": {"a": {"type": "string"}, "b": {}}}
    turned = {"properties": {"b": {}, "a": {"type": "string"}}, "type": "object"}
    raw = await server(farm, lists({**tool("a"), "inputSchema": spec}))
    insert(stage, "s", raw.url)
    await stage.syncer.sync_server("s")
    raw.script = modern(says(lists({"inputSchema": turned, "description": "d", "name": "a", "_meta": {"x": 1}})))
    assert (await stage.syncer.sync_server("s")).changes.unchanged == 1


async def test_new_tools_of_an_untrusted_server_wait(stage: Stage, farm: Farm) -> None:
    raw = await server(farm, lists(tool("a")))
    insert(stage, "s", raw.url, trust="untrusted")
    report = await stage.syncer.sync_server("s")
    assert report.changes.quarantined == ("a",)
    assert report.summary()["quarantined"] == ["a"]
    assert tools_of(stage) == {"a": "quarantined"}


HEADER = {"a": {"type": "string", "x-mcp-header": "a b"}}
REFUSED = {
    "a reference to elsewhere": (
        {"inputSchema": {"type": "object", "$ref": "https://evil.example/x"}},
        "a reference leads nowhere inside the schema",
    ),
    "a pattern that could explode": (
        {"inputSchema": {"pattern": "(a)\\1"}},
        "a pattern needs what cannot be matched in bounded time, or is none",
    ),
    "no schema at all": ({"inputSchema": {"type": "nothing"}}, "type has not the form it must have"),
    "a header that is none": (
        {"inputSchema": {"properties": HEADER}},
        "x-mcp-header is not used as the protocol says",
    ),
    "a schema that is a list": ({"inputSchema": []}, None),
    "a name with blanks": ({"name": "a b"}, None),
    "a name of another script": ({"name": "r\u0435ad"}, None),
    "a name that is a number": ({"name": 5}, None),
    "a very long name": ({"name": "x" * 200}, None),
    "a very large schema": ({"inputSchema": {"description": "x" * 200_000}}, None),
    "a very deep schema": ({"inputSchema": json.loads('{"not":' * 80 + "{}" + "}" * 80)}, None),
    "a description that is a number": ({"description": 5}, None),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
async def test_definitions_that_are_refused_one_by_one(stage: Stage, farm: Farm, kind: str) -> None:
    change, why = REFUSED[kind]
    raw = await server(farm, lists({**tool("bad"), **change}, tool("good")))
    insert(stage, "s", raw.url)
    report = await stage.syncer.sync_server("s")
    assert report.result == "ok"
    assert tools_of(stage) == {"good": "active"}
    ((_, reason),) = report.changes.refused
    assert why is None or reason == f"inputSchema cannot be used: {why}"
    assert report.summary()["refused"][0]["reason"] == reason
    assert stage.metric("registry_definitions_total", change="refused") == 1


async def test_texts_are_cleaned_and_cut(stage: Stage, farm: Farm) -> None:
    evil = "Reads\x00 a\x1b[2J file\u202e.\U000e0068\U000e0069 " + "x" * 100_000
    raw = await server(farm, lists(tool("a", evil, title="T\u200bitle\x07")))
    insert(stage, "s", raw.url)
    await stage.syncer.sync_server("s")
    found = await stage.store.tool("s", "a")
    assert found is not None
    assert found.title == "Title"
    assert found.description.startswith("Reads a[2J file. xxx")
    assert len(found.description) <= 8192


def pages_for_ever(request: Request) -> bytes:
    number = int(request.rpc["params"].get("cursor", "0"))
    return result(request, {"tools": [], "nextCursor": str(number + 1)})


LARGE = [tool(f"t{n}", "x" * 1000) for n in range(10_000)]
WHOLE = {
    "10,000 tools": (lists(*LARGE[:2500]), "it lists more than 2000 tools"),
    "10,000 tools in one answer": (lists(*LARGE), "its answer is too large"),
    "pages without an end": (pages_for_ever, "its list of tools has more than 200 pages"),
    "a circle of pages": (lists(nextCursor="again"), "its list of tools has no end"),
    "a cursor that is a number": (lists(nextCursor=5), "its list of tools has no end"),
    "a huge cursor": (lists(nextCursor="x" * 5000), "its list of tools has no end"),
    "no list": (lambda request: result(request, {"tools": {}}), "its list of tools is not a list of tools"),
    "nothing": (lambda request: result(request, {}), "its list of tools is not a list of tools"),
    "tools that are none": (lists("a"), "its list of tools is not a list of tools"),  # type: ignore[arg-type]
    "an error": (lambda request: error(request, -32601), "it answers with the error -32601"),
    "unchanged, unasked": (lambda request: answer(304), "it says that nothing changed without having been asked that"),
    "half an answer": (lambda request: answer(200, b'{"jsonrpc":'), "its answer is not valid JSON"),
    "away": (lambda request: answer(503), "it answers with status 503"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WHOLE)
async def test_lists_that_change_nothing(stage: Stage, farm: Farm, kind: str) -> None:
    raw = await server(farm, lists(tool("a")))
    insert(stage, "s", raw.url)
    await stage.syncer.sync_server("s")
    make, reason = WHOLE[kind]
    raw.script = modern(says(make))
    report = await stage.syncer.sync_server("s")
    assert (report.result, report.reason) == ("failed", reason)
    assert tools_of(stage) == {"a": "active"}
    found = await row(stage)
    assert (found.status, found.failures, found.last_error) == ("failing", 1, reason)
    assert stage.metric("registry_syncs_total", result="failed") == 1


async def test_a_list_that_breaks_off_between_pages_changes_nothing(stage: Stage, farm: Farm) -> None:
    raw = await server(farm, lists(tool("a"), tool("b")))
    insert(stage, "s", raw.url)
    await stage.syncer.sync_server("s")
    raw.script = modern(
        says(
            lambda r: (
                answer(500) if "cursor" in r.rpc["params"] else result(r, {"tools": [tool("a")], "nextCursor": "2"})
            )
        )
    )
    assert (await stage.syncer.sync_server("s")).result == "failed"
    assert tools_of(stage) == {"a": "active", "b": "active"}


async def test_a_server_that_is_not_allowed_or_not_there(stage: Stage) -> None:
    insert(stage, "s", "http://169.254.169.254/mcp")
    report = await stage.syncer.sync_server("s")
    assert (report.result, report.reason) == ("failed", "its URL is not allowed: this address is never asked")
    with pytest.raises(NotFoundError):
        await stage.syncer.sync_server("none")


def seconds_until(moment: datetime) -> float:
    return (moment - datetime.now(UTC)).total_seconds()


async def test_failures_are_tried_again_later_each_time(stage: Stage, farm: Farm) -> None:
    raw = await server(farm, lambda request: answer(503))
    insert(stage, "s", raw.url)
    for pause in (30, 60, 120, 240, 480, 960, 1920, 3600, 3600):
        await stage.syncer.sync_server("s")
        assert pause / 2 - 5 < seconds_until((await row(stage)).next_sync) <= pause
    raw.script = modern(says(lists(tool("a"))))
    await stage.syncer.sync_server("s")
    found = await row(stage)
    assert (found.status, found.failures, found.last_error) == ("ok", 0, None)


@pytest.mark.parametrize(
    ("ttl", "low", "high"),
    [
        (None, 810, 990),
        (1000, 810, 990),
        (7_200_000, 6480, 7920),
        (10**15, 77_760, 95_040),
        (-5, 810, 990),
        ("x", 810, 990),
    ],
)
async def test_when_to_look_again(stage: Stage, farm: Farm, ttl: Any, low: float, high: float) -> None:
    raw = await server(farm, lists(tool("a"), **({} if ttl is None else {"ttlMs": ttl})))
    insert(stage, "s", raw.url)
    await stage.syncer.sync_server("s")
    assert low - 5 < seconds_until((await row(stage)).next_sync) < high


async def test_tags_of_lists(stage: Stage, farm: Farm) -> None:
    def tagged(request: Request) -> bytes:
        if request.headers.get("if-none-match") == '"1"':
            return answer(304)
        return result(request, {"tools": [tool("a")]}, ETag='"1"')

    raw = await server(farm, tagged)
    insert(stage, "s", raw.url)
    assert [report.result for report in await stage.syncer.sync_due()] == ["ok"]
    assert (await row(stage)).etag == '"1"'
    due = b"UPDATE registry.mcp_server SET next_sync = now()"
    with stage.postgres.login(stage.database, "worker_a") as conn:
        conn.execute(due)
    assert [report.result for report in await stage.syncer.sync_due()] == ["unchanged"]
    assert seconds_until((await row(stage)).next_sync) > 700
    assert (await stage.syncer.sync_server("s")).result == "ok"  # asked for by somebody: not taken on trust
    raw.script = modern(says(lists(tool("a"))))
    await stage.syncer.sync_server("s")
    assert (await row(stage)).etag is None


async def test_due_servers_and_nobody_else(stage: Stage, farm: Farm) -> None:
    raw = await server(farm, lists(tool("a")))
    down = await server(farm, lambda request: answer(500))
    for number in range(5):
        insert(stage, f"s{number}", raw.url)
    insert(stage, "down", down.url)
    insert(stage, "off", raw.url, enabled=False)
    insert(stage, "later", raw.url, next_sync=datetime(2100, 1, 1, tzinfo=UTC))
    reports = await stage.syncer.sync_due()
    assert sorted((report.server, report.result) for report in reports) == [
        ("down", "failed"),
        *((f"s{number}", "ok") for number in range(5)),
    ]
    assert await stage.syncer.sync_due() == []


async def test_one_at_a_time_for_each_server(stage: Stage, farm: Farm) -> None:
    go = asyncio.Event()

    async def slow(request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go.wait()
        writer.write(result(request, {"tools": [tool("a")]}))

    raw = await farm.raw(modern(slow))
    insert(stage, "s", raw.url)
    first = asyncio.create_task(stage.syncer.sync_server("s"))
    await until(lambda: raw.called("tools/list"))
    second = await stage.syncer.sync_server("s")
    assert (second.result, second.reason) == ("busy", "it is being synchronised right now")
    go.set()
    assert (await first).result == "ok"
    assert (await stage.syncer.sync_server("s")).result == "ok"


async def test_more_servers_than_connections(stack: Any, farm: Farm) -> None:
    """Each run keeps a connection: together they must never need more than there are."""
    raw = await server(farm, lists(tool("a")))
    async with staged(stack.postgres, farm, role="worker") as stage:
        await stage.pool.resize(1, 3)
        for number in range(12):
            insert(stage, f"s{number}", raw.url)
        reports = await asyncio.gather(*(stage.syncer.sync_server(f"s{number}") for number in range(12)))
        assert [report.result for report in reports] == ["ok"] * 12


async def test_a_run_that_is_cancelled_lets_the_next_one_in(stage: Stage, farm: Farm) -> None:
    async def hang(request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    raw = await farm.raw(modern(hang))
    insert(stage, "s", raw.url)
    task = asyncio.create_task(stage.syncer.sync_server("s"))
    await until(lambda: raw.called("tools/list"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    raw.script = modern(says(lists(tool("a"))))
    assert (await stage.syncer.sync_server("s")).result == "ok"


async def test_a_slow_list_is_given_up(stage: Stage, farm: Farm) -> None:
    async def drip(request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    raw = await farm.raw(modern(drip))
    insert(stage, "s", raw.url, call_timeout=0.2)
    report = await stage.syncer.sync_server("s")
    assert (report.result, report.reason) == ("failed", "it does not answer in time")
    stage.syncer._timeout = 0.2
    insert(stage, "s2", raw.url, call_timeout=30)
    report = await stage.syncer.sync_server("s2")
    assert (report.result, report.reason) == ("failed", "it does not list its tools in time")


async def test_a_server_that_is_removed_meanwhile(stage: Stage, farm: Farm) -> None:
    async def script(request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with stage.postgres.login(stage.database, "registry_a") as conn:
            conn.execute(b"DELETE FROM registry.mcp_server")
        writer.write(result(request, {"tools": [tool("a")]}))

    raw = await farm.raw(modern(script))
    insert(stage, "s", raw.url)
    assert (await stage.syncer.sync_server("s")).result == "gone"


@pytest.mark.parametrize(
    "said",
    [
        {"instructions": "x" * 50_000},
        {"capabilities": {"x": "y" * 50_000}},
        {"instructions": "a\x00b", "capabilities": {"a\x00": ["\x00"]}},
        {"capabilities": [], "instructions": 5},
    ],
)
async def test_what_a_server_says_of_itself_is_bounded(stage: Stage, farm: Farm, said: dict[str, Any]) -> None:
    async def script(request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        discover = request.rpc["method"] == "server/discover"
        writer.write(result(request, {**DISCOVERED, **said} if discover else {"tools": [tool("a")]}))

    raw = await farm.raw(script)
    insert(stage, "s", raw.url)
    assert (await stage.syncer.sync_server("s")).result == "ok"
    assert len(json.dumps((await row(stage)).server_info)) < 20_000
