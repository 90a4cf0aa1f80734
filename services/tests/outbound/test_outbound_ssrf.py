# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The guard of outgoing connections: every form of a forbidden place, and answers of name servers that change."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import Any

import aiohttp
import pytest
from outbound_servers import Farm, Raw, answer, says

from mcpstack.common import ssrf
from mcpstack.common.ssrf import Blocked, Policy, guarded_connector, parse

OPEN = Policy()
LISTED = parse("mcp-time:8000, mcp-git, 10.20.0.0/16, 127.0.0.1, fd12::/16")


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://mcp.example.org/mcp", "https://mcp.example.org"),
        ("https://mcp.example.org:443/mcp", "https://mcp.example.org"),
        ("https://MCP.Example.ORG:8443/mcp?x=1", "https://mcp.example.org:8443"),
        ("https://xn--mller-kva.example/mcp", "https://xn--mller-kva.example"),
        ("https://8.8.8.8/mcp", "https://8.8.8.8"),
        ("https://[2606:4700:0:0::1111]/mcp", "https://[2606:4700::1111]"),
    ],
)
def test_urls_anybody_may_use(url: str, origin: str) -> None:
    assert OPEN.check_url(url).origin == origin


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://mcp.example.org/", "http is for hosts on the operator's list; use https"),
        ("https://mcp.example.org:22/", "this port is for hosts on the operator's list"),
        ("https://mcp.example.org:0/", "port 0 does not exist"),
        ("https://mcp.example.org:99999/", "it is not a URL"),
        ("ftp://mcp.example.org/", "only http and https are possible"),
        ("file:///etc/passwd", "only http and https are possible"),
        ("gopher://mcp.example.org/", "only http and https are possible"),
        ("//mcp.example.org/", "only http and https are possible"),
        ("https://user:word@mcp.example.org/", "credentials do not belong in a URL"),
        ("https://mcp.example.org@169.254.169.254/", "credentials do not belong in a URL"),
        ("https://mcp.example.org#@evil.example/", "a fragment does not belong here"),
        ("https://mcp.example.org/#x", "a fragment does not belong here"),
        ("https://mcp.example.org\\@10.0.0.1/", None),
        ("https://mcp.example.org/ x", None),
        ("https://mcp.example.org/\r\nHost: x", None),
        ("https://mcp.example.org/\x00", None),
        ("https://" + "a" * 2050, None),
        ("https:///mcp", None),
        ("https://./", None),
        ("https://mcp..example/", None),
        ("https://-a.example/", None),
        ("https://a%2eb.example/", None),
        ("https://mcp.example.org./", "write the host name without the dot at its end"),
        ("https://127.0.0.1./", "write the host name without the dot at its end"),
        ("https://m\u00fcller.example/", None),
        ("https://\uff11\uff12\uff17.0.0.1/", None),  # digits of another width
        ("https://127\u30020.0.1/", None),  # another full stop
        ("https://2130706433/", "write an IPv4 address as four decimal numbers"),
        ("https://0x7f000001/", "write an IPv4 address as four decimal numbers"),
        ("https://0x7f.0.0.0x1/", "write an IPv4 address as four decimal numbers"),
        ("https://017700000001/", "write an IPv4 address as four decimal numbers"),
        ("https://0177.0.0.1/", "write an IPv4 address as four decimal numbers"),
        ("https://127.1/", "write an IPv4 address as four decimal numbers"),
        ("https://127.0.1/", "write an IPv4 address as four decimal numbers"),
        ("https://a.example.0x7f/", "write an IPv4 address as four decimal numbers"),
        ("https://256.1.1.1/", "write an IPv4 address as four decimal numbers"),
        ("https://[::1/", "it is not a URL"),
        ("https://[fe80::1%25eth0]/", None),
        ("https://[::1]:443/", "the address is not public and not on the operator's list"),
    ],
)
def test_urls_nobody_may_use(url: str, why: str | None) -> None:
    with pytest.raises(Blocked) as caught:
        OPEN.check_url(url)
    assert why is None or caught.value.why == why


NOT_PUBLIC = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254",
    "168.63.129.16", "169.254.0.1", "169.254.169.254", "169.254.170.2", "172.16.0.1", "172.31.255.255",
    "192.0.0.1", "192.0.0.192", "192.0.2.1", "192.31.196.1", "192.52.193.1", "192.88.99.1", "192.168.1.1",
    "192.175.48.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255",
    "240.0.0.1", "255.255.255.255",
    "::", "::1", "::127.0.0.1", "::ffff:10.0.0.1", "::ffff:8.8.8.8", "::ffff:0:127.0.0.1",
    "64:ff9b::8.8.8.8", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "100::1", "100:0:0:1::1", "2001::1", "2001:2::1",
    "2001:10::1", "2001:20::1", "2001:db8::1", "2002:7f00:1::", "2002:a00:1::1", "2620:4f:8000::1", "3fff::1",
    "4000::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fd20:ce::254", "fe80::1", "fe80::1%1", "fec0::1", "ff02::1",
]  # fmt: skip


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_addresses_that_are_not_public(address: str) -> None:
    with pytest.raises(Blocked):
        OPEN.check_address(address)
    host = f"[{address.partition('%')[0]}]" if ":" in address else address
    with pytest.raises(Blocked):
        OPEN.check_url(f"https://{host}/")


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.1", "100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1",
     "192.167.0.1", "223.255.255.255", "2606:4700::1111", "2a00:1450::1", "2001:4860::8888"],
)  # fmt: skip
def test_addresses_that_are_public(address: str) -> None:
    OPEN.check_address(address)


def test_what_python_calls_not_global_is_refused() -> None:
    """Another list of the same registries; ours may refuse more, not less."""
    samples: list[ipaddress.IPv4Address | ipaddress.IPv6Address] = []
    for first in range(256):
        for second in (0, 18, 64, 88, 168, 254):
            samples += [ipaddress.ip_address(f"{first}.{second}.{third}.9") for third in (0, 2, 99, 100, 113)]
    for first in range(0, 65536, 7):
        samples += [ipaddress.IPv6Address((first << 112) | (second << 96) | 9) for second in (0, 0xDB8, 0xFF9B)]
    for address in samples:
        try:
            OPEN.check_address(address)
        except Blocked:
            continue
        assert address.is_global, address


@pytest.mark.parametrize(
    ("url", "fine"),
    [
        ("http://mcp-time:8000/mcp", True),
        ("http://mcp-time:8001/mcp", False),
        ("http://mcp-time/mcp", False),
        ("http://mcp-git:1234/mcp", True),
        ("https://mcp-git/mcp", True),
        ("http://MCP-Git/mcp", True),
        ("http://mcp-git.evil.example/mcp", False),
        ("http://10.20.3.4:9999/mcp", True),
        ("http://10.21.0.1/mcp", False),
        ("http://127.0.0.1:8000/mcp", True),
        ("http://127.0.0.2:8000/mcp", False),
        ("http://[fd12::5]:8000/mcp", True),
        ("http://[::ffff:10.20.3.4]/mcp", False),
    ],
)
def test_what_the_operator_listed(url: str, fine: bool) -> None:
    if fine:
        LISTED.check_url(url)
    else:
        with pytest.raises(Blocked):
            LISTED.check_url(url)


@pytest.mark.parametrize(
    ("address", "host", "fine"),
    [
        ("172.18.0.5", "mcp-git", True),
        ("fd00::5", "mcp-git", True),
        ("8.8.8.8", "mcp-git", True),
        ("127.0.0.2", "mcp-git", False),  # a name that was declared is no way to loopback
        ("169.254.169.254", "mcp-git", False),
        ("fe80::1", "mcp-git", False),
        ("100.64.0.1", "mcp-git", False),
        ("::ffff:172.18.0.5", "mcp-git", False),
        ("172.18.0.5", "other", False),
        ("10.20.0.7", "other", True),
    ],
)
def test_addresses_of_a_listed_name(address: str, host: str, fine: bool) -> None:
    if fine:
        LISTED.check_address(address, host, 8000)
    else:
        with pytest.raises(Blocked):
            LISTED.check_address(address, host, 8000)


def test_a_network_that_is_too_wide_does_not_open_metadata() -> None:
    everything = parse("0.0.0.0/0,::/0")
    everything.check_address("10.0.0.1")
    for address in (
        "169.254.169.254",
        "100.100.100.200",
        "168.63.129.16",
        "0.0.0.0",
        "224.0.0.1",
        "fd00:ec2::254",
        "::",
    ):
        with pytest.raises(Blocked):
            everything.check_address(address)


@pytest.mark.parametrize(
    "raw", ["a b", "https://x", "mcp-time:0", "mcp-time:99999", "10.0.0.5:80", "10.0.0.0/33", "x/8", "a."]
)
def test_a_list_that_cannot_be_read(raw: str) -> None:
    with pytest.raises(ValueError, match="separated by commas"):
        parse(raw)


class Answers:
    """A name server that says something else each time."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def __call__(self, host: str, port: int, family: int) -> list[tuple[int, str]]:
        self.asked += 1
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [(socket.AF_INET6 if ":" in entry else socket.AF_INET, entry) for entry in found]


async def fetch(policy: Policy, lookup: Answers, url: str, times: int = 1, **options: Any) -> list[int]:
    seen = []
    connector = guarded_connector(policy, lookup, **options)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=3)) as http:
        for _ in range(times):
            async with http.get(url, allow_redirects=False) as got:
                await got.read()
                seen.append(got.status)
    return seen


async def web(farm: Farm) -> Raw:
    return await farm.raw(says(lambda request: answer(200, b"{}")))


@pytest.mark.anyio
async def test_the_judged_address_is_the_one_connected_to(farm: Farm) -> None:
    """The name means loopback when it is judged and the metadata service ever after: it is not asked again."""
    raw = await web(farm)
    lookup = Answers(["127.0.0.1"], ["169.254.169.254"])
    assert await fetch(parse("127.0.0.1"), lookup, f"http://mcp.test:{raw.port}/", 3) == [200, 200, 200]
    assert lookup.asked == 1
    assert [request.headers["host"] for request in raw.requests] == [f"mcp.test:{raw.port}"] * 3


@pytest.mark.anyio
async def test_each_new_look_up_is_judged(farm: Farm) -> None:
    raw = await web(farm)
    lookup = Answers(["127.0.0.1"], ["169.254.169.254"])
    with pytest.raises(aiohttp.ClientConnectorError) as caught:
        await fetch(
            parse("127.0.0.1"), lookup, f"http://mcp.test:{raw.port}/", 2, use_dns_cache=False, force_close=True
        )
    assert isinstance(caught.value.os_error, Blocked)
    assert (lookup.asked, len(raw.requests)) == (2, 1)


@pytest.mark.parametrize(
    "addresses",
    [["10.0.0.1"], ["127.0.0.1", "10.0.0.1"], ["8.8.8.8", "::1"], ["::ffff:127.0.0.1"], ["not an address"], []],
)
@pytest.mark.anyio
async def test_one_bad_address_refuses_the_name(farm: Farm, addresses: list[str]) -> None:
    raw = await web(farm)
    with pytest.raises(aiohttp.ClientConnectorError):
        await fetch(parse("127.0.0.1"), Answers(addresses), f"http://mcp.test:{raw.port}/")
    assert raw.connections == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1.", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0177.0.0.1"])
@pytest.mark.anyio
async def test_the_connector_alone_refuses_literals(farm: Farm, host: str) -> None:
    """Without check_url before it: the last gate sees the address itself."""
    raw = await web(farm)
    with pytest.raises((aiohttp.ClientConnectorError, aiohttp.InvalidURL)):
        await fetch(OPEN, Answers(["127.0.0.1"]), f"http://{host}:{raw.port}/")
    assert raw.connections == 0


@pytest.mark.anyio
async def test_a_redirect_that_is_followed_by_mistake_is_refused(farm: Farm) -> None:
    raw = await farm.raw(says(lambda request: answer(302, Location="http://127.0.0.2:1/")))
    connector = guarded_connector(parse("127.0.0.1"))
    async with aiohttp.ClientSession(connector=connector) as http:
        with pytest.raises(aiohttp.ClientConnectorError) as caught:
            await http.get(raw.url)
    assert isinstance(caught.value.os_error, Blocked)


@pytest.mark.anyio
async def test_the_system_s_resolver_is_judged_too(farm: Farm) -> None:
    raw = await web(farm)
    connector = guarded_connector(OPEN)
    async with aiohttp.ClientSession(connector=connector) as http:
        with pytest.raises(aiohttp.ClientConnectorError) as caught:
            await http.get(f"http://localhost:{raw.port}/")
    assert isinstance(caught.value.os_error, Blocked)
    assert raw.connections == 0


@pytest.mark.anyio
async def test_judged_addresses_do_not_pile_up() -> None:
    resolver = ssrf.Resolver(
        parse("10.0.0.0/8"), Answers(*([f"10.0.{n // 250}.{n % 250}"] for n in range(5000)), ["10.1.1.1"])
    )
    for number in range(5000):
        await resolver.resolve(f"h{number}", 80)
    assert len(resolver._judged) == 4096
    await asyncio.sleep(0)
