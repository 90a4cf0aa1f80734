# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Search: what is found by which way, what is never found, and how well (on tools of real servers)."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg_pool import AsyncConnectionPool
from registry_support import golden_queries, load_golden, score, tool

from mcpstack.registry import definitions
from mcpstack.registry.search import Searcher
from mcpstack.registry.store import ServerSpec, Store

pytest_plugins = ("registry_fixtures",)

pytestmark = pytest.mark.anyio


@pytest.fixture
def searcher(pool: AsyncConnectionPool[Any]) -> Searcher:
    return Searcher(pool, None)


async def fill(store: Store, *listed: dict[str, Any], server: str = "one", trust: str = "trusted") -> None:
    await store.put_server(ServerSpec(id=server, name=f"org.example/{server}", trust=trust))
    await store.apply_sync(server, listed)


async def names(searcher: Searcher, query: str, **more: Any) -> list[str]:
    return [hit.public_name for hit in (await searcher.find(query, **more)).hits]


async def test_the_ways_of_searching(store: Store, searcher: Searcher) -> None:
    await fill(
        store,
        tool("createPullRequest", "Opens a request to merge a branch."),
        tool("list_repositories", "Lists what a user owns."),
        tool("send", "Delivers a message.", inputSchema={"properties": {"recipient_address": {}}}),
        tool("noise", "Something else altogether."),
    )
    for query, best in (
        ("createPullRequest", "one__createPullRequest"),  # its exact name
        ("CREATE pull-request", "one__createPullRequest"),  # or written another way
        ("merging branches", "one__createPullRequest"),  # other forms of its words
        ("repositry of my users", "one__list_repositories"),  # misspelt
        ("give me the recipient", "one__send"),  # the name of an argument
        ("what message can I deliver to whom, and please be quick about it", "one__send"),  # most words are noise
    ):
        assert (await names(searcher, query))[:1] == [best], query
    assert await names(searcher, "zzzz qqqq") == []
    assert await names(searcher, "the of and") == []
    assert await names(searcher, "message", limit=1) == ["one__send"]


async def test_an_exact_name_goes_before_everything(store: Store, searcher: Searcher) -> None:
    better = [tool(f"search_files_{n}", "Search files. Search files. Search files.") for n in range(60)]
    await fill(store, *better, tool("search_files", "Nothing of it said here."))
    assert (await names(searcher, "search files"))[0] == "one__search_files"


async def test_what_may_not_be_used_is_not_found(store: Store, searcher: Searcher) -> None:
    await fill(
        store, tool("weather_one", "Weather."), tool("weather_changed", "Weather."), tool("weather_off", "Weather.")
    )
    await fill(store, tool("weather_new", "Weather."), server="untrusted", trust="untrusted")
    await fill(store, tool("weather_there", "Weather."), server="two")
    await store.apply_sync(
        "one",
        [tool("weather_one", "Weather."), tool("weather_changed", "Poison weather."), tool("weather_off", "Weather.")],
    )
    await store.delete_tool("one", "weather_off")
    assert sorted(await names(searcher, "weather")) == ["one__weather_one", "two__weather_there"]
    assert await names(searcher, "weather", server="two") == ["two__weather_there"]
    assert await names(searcher, "weather", server="untrusted") == []
    assert await names(searcher, "poison") == []
    await store.put_server(ServerSpec(id="two", name="org.example/two", trust="trusted", enabled=False))
    assert await names(searcher, "weather") == ["one__weather_one"]


HOSTILE = [
    "'; DROP TABLE registry.tool; --",
    "' OR '1'='1",
    "weather' | 'x",
    "weather & ! | <-> :* ( ) \\",
    "\\' \\\\ \" $1 %s %(query)s {}",
    "weather\x00\x1f\x7f\u202e\u200b\ud800",
    "http://a.b/c?x=1&y='2'",
    "😀 天气 погода ⓦ",
    "a" * 5000,
    "weather " * 500,
    " ",
    "",
    "-", "%", "_", "()",
]  # fmt: skip


@pytest.mark.parametrize("query", HOSTILE)
async def test_no_query_breaks_it(store: Store, searcher: Searcher, query: str) -> None:
    await fill(store, tool("weather", "Tells the weather."))
    result = await searcher.find(query, server=None)
    assert result.mode == "keyword"
    assert bool(result.hits) == ("weather" in query)
    assert (
        await searcher.find(query, server=query[:32].replace("\x00", "").encode("utf-8", "ignore").decode())
    ).hits == []
    assert await names(searcher, "weather") == ["one__weather"]


async def test_hits_carry_the_definition_as_it_is_written(store: Store, searcher: Searcher) -> None:
    full = tool(
        "weather", title="Weather", outputSchema={"type": "object"}, annotations={"readOnlyHint": True}, icons=[]
    )
    full |= {"execution": {"taskSupport": "optional"}, "_meta": {"left": "out"}}
    await fill(store, full)
    (hit,) = (await searcher.find("weather")).hits
    del full["_meta"]
    assert hit.wire == full | {"name": "one__weather"}


def test_trigrams() -> None:
    assert definitions.trigrams("The Ab of x") == {"  a", " ab", "ab ", "  x", " x "}
    bits = definitions.bits(definitions.trigrams("read the logs"))
    assert (len(bits), set(bits)) == (definitions.BITS, {"0", "1"})


async def test_golden_set_by_words(store: Store, searcher: Searcher, capsys: pytest.CaptureFixture[str]) -> None:
    assert await load_golden(store) >= 130
    assert len(golden_queries()) >= 60
    found = await score(searcher)
    with capsys.disabled():
        print(f"\n{found}")
    assert found.mode == "keyword"
    assert found.hit5 >= 0.88
