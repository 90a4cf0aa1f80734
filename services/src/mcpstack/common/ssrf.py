# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the services may connect to when somebody else chose the URL.

`Policy.check_url` judges the text of a URL, `guarded_connector` every address its host name stands for, and the
connection goes to the address that was judged: there is no second look-up in between. A name is refused as a whole
when one of its addresses is refused. Redirects are for the caller to refuse (`allow_redirects=False`).

What is not on the operator's list must be https on an ordinary port and have public addresses only. The list names
hosts (`mcp-time`, `mcp-time:8000`), which may then have private addresses, and networks or addresses (`10.20.0.0/16`,
`127.0.0.1`), which may then be anything but the addresses nobody ever means: metadata services, multicast, 0.0.0.0.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_MAX_URL = 2048
_PORTS = frozenset({443, 8443})
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)\Z", re.ASCII)
_NUMBER = re.compile(r"[0-9]+\Z|0x[0-9a-f]*\Z", re.ASCII)
_ALLOWED_TEXT = re.compile(r"[\x21-\x5b\x5d-\x7e]+\Z", re.ASCII)  # printable ASCII without blanks and backslashes


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


# Refused whatever the operator's list says.
_NEVER = _networks(
    "0.0.0.0/8",
    "100.100.100.200/32",  # metadata (Alibaba)
    "168.63.129.16/32",  # platform service (Azure); a public address by its number
    "169.254.169.254/32",  # metadata (AWS, Azure, Google, OpenStack and others)
    "169.254.170.0/24",  # credentials of containers and pods (AWS)
    "169.254.0.23/32",  # metadata (Tencent)
    "192.0.0.192/32",  # metadata (Oracle)
    "224.0.0.0/4",
    "255.255.255.255/32",
    "::/128",
    "fd00:ec2::/32",  # metadata, name and time service (AWS)
    "fd20:ce::254/128",  # metadata (Google)
    "ff00::/8",
)
# A host the operator named may have one of these.
_PRIVATE = _networks("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
# Not public: the special-purpose registries of IANA. Of IPv6 only 2000::/3 can be public at all, which leaves out
# loopback, link-local, site-local, IPv4-mapped and -compatible addresses and both NAT64 prefixes.
_SPECIAL = _networks(
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.31.196.0/24",
    "192.52.193.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "192.175.48.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/3",
    "2001::/23",  # Teredo, ORCHID, benchmarking and the rest of the protocol assignments
    "2001:db8::/32",
    "2002::/16",  # 6to4: the IPv4 address inside can be anything
    "2620:4f:8000::/48",
    "3fff::/20",
)
_UNICAST6 = ipaddress.IPv6Network("2000::/3")


class Blocked(OSError):  # noqa: N818 - what happened, and read as such where it is caught
    """The guard refuses. An OSError, so that aiohttp carries it out of the connector as it is."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Target(NamedTuple):
    scheme: str
    host: str
    port: int

    @property
    def origin(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = self.port == (443 if self.scheme == "https" else 80)
        return f"{self.scheme}://{host}" if usual else f"{self.scheme}://{host}:{self.port}"


@dataclass(frozen=True)
class Policy:
    hosts: frozenset[tuple[str, int | None]] = frozenset()
    networks: tuple[Network, ...] = ()

    def check_url(self, url: str) -> Target:
        """The parts of a URL that may be asked, or Blocked. Says nothing yet about the addresses of a name."""
        if len(url) > _MAX_URL or not _ALLOWED_TEXT.match(url):
            raise Blocked(f"a URL has at most {_MAX_URL} printable ASCII characters without blanks")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise Blocked("it is not a URL") from None
        if parts.scheme not in ("http", "https"):
            raise Blocked("only http and https are possible")
        if "@" in parts.netloc:
            raise Blocked("credentials do not belong in a URL")
        if "#" in url:
            raise Blocked("a fragment does not belong here")
        if port == 0:
            raise Blocked("port 0 does not exist")
        host = _host(parts.netloc)
        target = Target(parts.scheme, host, port or (443 if parts.scheme == "https" else 80))
        address = _literal(host)
        if address is not None:
            self.check_address(address)
        if self._listed(target.host, target.port) or (address is not None and _inside(address, self.networks)):
            return target
        # A name may still stand for an address in a listed network: that is known when it is looked up, and
        # until then plain http and ports of its own are the privilege of what the list names.
        if target.scheme != "https":
            raise Blocked("http is for hosts on the operator's list; use https")
        if target.port not in _PORTS:
            raise Blocked("this port is for hosts on the operator's list")
        return target

    def check_address(self, address: Address | str, host: str = "", port: int | None = None) -> None:
        """Raise Blocked unless this address may be connected to as (one of) the addresses of `host`."""
        if isinstance(address, str):
            try:
                address = ipaddress.ip_address(address)
            except ValueError:
                raise Blocked("the name has an address that is none") from None
        if _inside(address, _NEVER):
            raise Blocked("this address is never asked")
        if _inside(address, self.networks) or not _special(address):
            return
        if host and self._listed(host, port) and _inside(address, _PRIVATE):
            return
        raise Blocked("the address is not public and not on the operator's list")

    def _listed(self, host: str, port: int | None) -> bool:
        return (host, None) in self.hosts or (host, port) in self.hosts


def parse(raw: str) -> Policy:
    """Read the setting: hosts, host:port, addresses and networks, separated by commas."""
    hosts: set[tuple[str, int | None]] = set()
    networks: list[Network] = []
    for entry in (part.strip().lower() for part in raw.split(",")):
        if not entry:
            continue
        problem = f"hosts (mcp-time, mcp-time:8000), addresses or networks, separated by commas; {entry!r} is none"
        try:
            networks.append(ipaddress.ip_network(entry.strip("[]")))
            continue
        except ValueError:
            pass
        name, colon, port = entry.partition(":")
        if colon and not (re.fullmatch(r"[0-9]{1,5}", port, re.ASCII) and 0 < int(port) < 65536):
            raise ValueError(problem)
        try:
            if _literal(_host(name)) is not None:
                raise ValueError(problem)  # 10.0.0.5:8000: an address is listed without a port
        except Blocked:
            raise ValueError(problem) from None
        hosts.add((name, int(port) if colon else None))
    return Policy(frozenset(hosts), tuple(networks))


def _host(netloc: str) -> str:
    """The host of a URL in the one form in which it is compared, looked up and shown."""
    host = re.sub(r":[0-9]*\Z", "", netloc).lower()
    if host.startswith("["):
        try:
            return str(ipaddress.IPv6Address(host.removeprefix("[").removesuffix("]")))
        except ValueError:
            raise Blocked("it is not an IPv6 address") from None
    if host.endswith("."):
        raise Blocked("write the host name without the dot at its end")
    labels = host.split(".")
    if len(host) > 253 or not all(_LABEL.match(label) for label in labels):
        raise Blocked("it is not a host name; names of other scripts are written with xn--")
    if _NUMBER.match(labels[-1]):
        # 2130706433, 0x7f.1, 0177.0.0.1: resolvers read them as addresses, each in its own way.
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise Blocked("write an IPv4 address as four decimal numbers") from None
    return host


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _inside(address: Address, networks: tuple[Network, ...]) -> bool:
    return any(address.version == network.version and address in network for network in networks)


def _special(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and (address.scope_id or address not in _UNICAST6):
        return True
    return _inside(address, _SPECIAL)


Lookup = Callable[[str, int, int], Awaitable[list[tuple[int, str]]]]


class SystemLookup:
    """getaddrinfo in threads of its own: a name server that does not answer must not stop other work."""

    def __init__(self, threads: int = 8) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="dns")

    async def __call__(self, host: str, port: int, family: int) -> list[tuple[int, str]]:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(
            self._pool, socket.getaddrinfo, host, port, family, socket.SOCK_STREAM, 0, socket.AI_ADDRCONFIG
        )
        return [(int(entry[0]), str(entry[4][0])) for entry in found]

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


class Resolver(AbstractResolver):
    """Looks a name up, judges every address, and hands out numbers only."""

    def __init__(self, policy: Policy, lookup: Lookup | None = None) -> None:
        self._policy = policy
        self._own = SystemLookup() if lookup is None else None
        self._lookup = self._own or lookup
        # Addresses that were fine for the name they came from; `socket_for` sees addresses without names.
        self._judged: OrderedDict[str, None] = OrderedDict()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        assert self._lookup is not None  # noqa: S101 - one of the two
        found = await self._lookup(host, port, int(family))
        if not found:
            raise OSError(None, "the name has no address")
        for _, address in found:
            self._policy.check_address(address, host, port)
        for _, address in found:
            self._judged[address] = None
            self._judged.move_to_end(address)
        while len(self._judged) > 4096:
            self._judged.popitem(last=False)
        return [
            ResolveResult(hostname=host, host=address, port=port, family=kind, proto=0, flags=_NUMERIC)
            for kind, address in dict.fromkeys(found)
        ]

    def socket_for(self, info: Any) -> socket.socket:
        """The last gate: called with the very address that is connected to next, a literal of the URL included."""
        family, kind, proto, _, sockaddr = info
        if sockaddr[0] not in self._judged:
            self._policy.check_address(str(sockaddr[0]))
        return socket.socket(family, kind, proto)

    async def close(self) -> None:
        if self._own is not None:
            self._own.close()


_NUMERIC = int(socket.AI_NUMERICHOST | socket.AI_NUMERICSERV)


class Connector(aiohttp.TCPConnector):
    """A connector that closes the resolver it was given."""

    def __init__(self, resolver: Resolver, **options: Any) -> None:
        super().__init__(resolver=resolver, socket_factory=resolver.socket_for, **options)
        self._guard = resolver

    async def close(self, *, abort_ssl: bool = False) -> None:
        await super().close(abort_ssl=abort_ssl)
        await self._guard.close()


def guarded_connector(policy: Policy, lookup: Lookup | None = None, **options: Any) -> aiohttp.TCPConnector:
    """A connector that connects to judged addresses only. Judged answers are kept for some seconds."""
    options.setdefault("ttl_dns_cache", 10)
    return Connector(Resolver(policy, lookup), **options)
