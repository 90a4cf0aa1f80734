# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""MCP to a server somebody registered: streamable HTTP in both protocol eras, and nothing of it is trusted.

The era is found out once for each server: `server/discover` (2026-07-28, no session) and, unless the server proves
to speak that, `initialize` (2025-11-25 and before), whose one session is shared by all calls and made anew when the
server has lost it. Every byte of an answer is counted as it arrives, events and comments included; answers are asked
for uncompressed and compressed ones are refused; redirects are refused; addresses are the SSRF guard's matter.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn, TypedDict, Unpack

import aiohttp

from mcpstack import __version__
from mcpstack.common import logs, ssrf, tracing
from mcpstack.common.secretfile import SecretError, SecretFile
from mcpstack.registry.sse import Events

log = logging.getLogger(__name__)

MODERN = "2026-07-28"
LEGACY = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
CLIENT_INFO = {"name": "mcpstack-registry", "version": __version__}

# What may come inside an answer of a server with a session; whether it can be done depends on who called.
SESSION_CAPABILITIES: dict[str, Any] = {"sampling": {}, "elicitation": {}}

_NAMED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
_META = "io.modelcontextprotocol/"
_UNSUPPORTED_VERSION = -32022
_OTHER_ERA = (-32000, -32600, -32020, _UNSUPPORTED_VERSION)
_METHOD_NOT_FOUND = -32601
_MAX_ERROR = 64 * 1024
_MAX_RESUMES = 5
_MAX_SERVER_REQUESTS = 32
_MAX_SAID = 2000
# Servers drop idle connections after 5 s (uvicorn, node): using one that is just being dropped would fail.
_KEEP_ALIVE = 4.0
_PLAIN_VALUE = re.compile(r"[\x20-\x7e]*\Z")
_SESSION_ID = re.compile(r"[\x21-\x7e]{1,1024}\Z")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")

Kind = Literal["unavailable", "timeout", "too_large", "protocol", "refused", "blocked", "busy"]
# What the server says while it works: a notification, or a request whose result is returned (None: not possible here).
OnMessage = Callable[[dict[str, Any]], Awaitable[dict[str, Any] | None]]


class Options(TypedDict, total=False):
    """What a request may be sent with.

    timeout: seconds, instead of the server's own. meta: more of `_meta`. capabilities: what the caller can be asked
    for (2026-07-28). headers: Mcp-Param-* and the like. on_message: hears the server while it works.
    max_answer: bytes. retry: a second try is harmless when the connection broke before an answer.
    """

    timeout: float | None
    meta: Mapping[str, Any]
    capabilities: Mapping[str, Any]
    headers: Mapping[str, str]
    on_message: OnMessage | None
    max_answer: int
    retry: bool


class UpstreamError(Exception):
    """No answer that can be used. `reason` is for clients: it names no address and nothing the server wrote."""

    def __init__(self, kind: Kind, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
        self.status = status

    @property
    def server_failed(self) -> bool:
        """Whether this says something about the server, and not about one tool or about us."""
        return self.kind not in ("too_large", "busy")


class RpcError(Exception):
    """The server answered with a JSON-RPC error: it works, and does not want this request."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


class _SessionLostError(Exception):
    """The server no longer knows our session or our protocol version; the request was not carried out."""

    def __init__(self, answer: Exception) -> None:
        super().__init__(str(answer))
        self.answer = answer


class _ConnectionBrokenError(Exception):
    """The connection ended where an answer, or the rest of it, should have come."""


@dataclass(frozen=True)
class Server:
    """Where a server is and how it is spoken to."""

    id: str
    name: str
    url: str
    auth_ref: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    timeout: float = 30.0


class Auth(NamedTuple):
    origin: str
    header: str
    value: str


class Answer(NamedTuple):
    result: dict[str, Any]
    size: int
    etag: str | None = None


class Info(NamedTuple):
    """What a server said about itself when it was met."""

    version: str
    capabilities: dict[str, Any]
    server_info: dict[str, Any] | None
    instructions: str | None


NOT_MODIFIED = Answer({}, 0)


@dataclass
class _Peer:
    server: Server
    target: ssrf.Target
    auth: SecretFile[Auth] | None
    era: Literal["modern", "legacy"] | None = None
    version: str = MODERN
    session: str | None = None
    info: Info | None = None
    generation: int = 0
    in_flight: int = 0
    negotiating: asyncio.Lock = field(default_factory=asyncio.Lock)
    ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def met(self) -> bool:
        return self.era is not None


@dataclass
class _Budget:
    """Bytes one answer may still have, over all responses it arrives in."""

    limit: int
    used: int = 0

    def take(self, size: int) -> None:
        self.used += size
        if self.used > self.limit:
            raise UpstreamError("too_large", "its answer is too large")


class Upstream:
    """The one HTTP client for all servers. Open it inside the running loop."""

    def __init__(
        self,
        policy: ssrf.Policy,
        *,
        auth_dir: Path = Path("/run/secrets"),
        connect_timeout: float = 2.0,
        max_answer: int = 1 << 20,
        max_in_flight: int = 64,
        max_in_flight_of_all: int = 256,
        lookup: ssrf.Lookup | None = None,
        ssl: Any = True,
    ) -> None:
        self._policy = policy
        self._auth_dir = auth_dir
        self._connect_timeout = connect_timeout
        self._max_answer = max_answer
        self._max_in_flight = max_in_flight
        self._max_in_flight_of_all = max_in_flight_of_all
        self._in_flight = 0
        self._lookup = lookup
        self._ssl = ssl
        self._http: aiohttp.ClientSession | None = None
        self._peers: dict[str, _Peer] = {}
        self._chores: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        self._http = aiohttp.ClientSession(
            connector=ssrf.guarded_connector(
                self._policy, self._lookup, limit=0, keepalive_timeout=_KEEP_ALIVE, ssl=self._ssl
            ),
            timeout=aiohttp.ClientTimeout(total=None, connect=self._connect_timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept-Encoding"),
            trust_env=False,
        )

    async def close(self) -> None:
        """End our sessions politely, for a second at most, and close."""
        peers, self._peers = list(self._peers.values()), {}
        for peer in peers:
            self._end_session(peer)
        if self._chores:
            await asyncio.wait(set(self._chores), timeout=1)
        for chore in set(self._chores):
            chore.cancel()
        http, self._http = self._http, None
        if http is not None:
            await http.close()

    def forget(self, server_id: str) -> None:
        """The server was removed or changed: nothing of what was agreed with it holds any longer."""
        peer = self._peers.pop(server_id, None)
        if peer is not None:
            self._end_session(peer)

    async def describe(self, server: Server, *, timeout: float | None = None) -> Info:
        """What the server says about itself; asks only a server that was not yet met."""
        peer = self._peer(server)
        try:
            async with asyncio.timeout(server.timeout if timeout is None else timeout):
                await self._negotiate(peer)
        except TimeoutError:
            raise UpstreamError("timeout", "it does not answer in time") from None
        assert peer.info is not None  # noqa: S101 - negotiated
        return peer.info

    # Requests

    async def call_tool(
        self,
        server: Server,
        name: str,
        arguments: Mapping[str, Any],
        *,
        params: Mapping[str, Any] | None = None,
        **options: Unpack[Options],
    ) -> Answer:
        """tools/call. The result is the server's own, checked for its form. `params` adds to the request
        (inputResponses and requestState of a call that goes on).
        """
        body = {**(params or {}), "name": name, "arguments": dict(arguments)}
        answer = await self._ask(server, "tools/call", body, **options)
        if not _is_tool_result(answer.result):
            raise UpstreamError("protocol", "its answer is not the result of a tool call")
        return answer

    async def request(
        self, server: Server, method: str, params: Mapping[str, Any], **options: Unpack[Options]
    ) -> Answer:
        """Any other request; the result is whatever object the server answered."""
        return await self._ask(server, method, dict(params), **options)

    async def list_tools(
        self,
        server: Server,
        cursor: str | None = None,
        *,
        timeout: float | None = None,
        max_answer: int | None = None,
        etag: str | None = None,
    ) -> Answer:
        """One page of tools/list; NOT_MODIFIED when the server says that `etag` still holds."""
        return await self._ask(
            server,
            "tools/list",
            {} if cursor is None else {"cursor": cursor},
            timeout=timeout,
            headers={"if-none-match": etag} if etag else {},
            max_answer=max_answer or self._max_answer,
            retry=True,
        )

    async def _ask(self, server: Server, method: str, params: dict[str, Any], **options: Unpack[Options]) -> Answer:
        peer = self._peer(server)
        if peer.in_flight >= self._max_in_flight:
            raise UpstreamError("busy", "too many calls of it are under way")
        # An answer may be held whole: this bounds the memory that all servers together can take.
        if self._in_flight >= self._max_in_flight_of_all:
            raise UpstreamError("busy", "too many calls of other servers are under way")
        peer.in_flight += 1
        self._in_flight += 1
        timeout = options.get("timeout")
        try:
            async with asyncio.timeout(server.timeout if timeout is None else timeout) as clock:
                options["on_message"] = _patient(clock, options.get("on_message"))
                for attempt in (1, 2):
                    await self._negotiate(peer)
                    generation = peer.generation
                    try:
                        return await self._request(peer, method, params, options)
                    except _SessionLostError as lost:
                        self._reset(peer, generation)
                        if attempt == 2:
                            raise lost.answer from None
                    except _ConnectionBrokenError:
                        if attempt == 2 or not options.get("retry"):
                            raise UpstreamError("unavailable", "it broke off without an answer") from None
        except TimeoutError:
            raise UpstreamError("timeout", "it does not answer in time") from None
        finally:
            peer.in_flight -= 1
            self._in_flight -= 1
        raise AssertionError  # pragma: no cover

    def _peer(self, server: Server) -> _Peer:
        peer = self._peers.get(server.id)
        if peer is None or _where(peer.server) != _where(server):
            try:
                target = self._policy.check_url(server.url)
            except ssrf.Blocked as error:
                raise UpstreamError("blocked", f"its URL is not allowed: {error.why}") from None
            self.forget(server.id)
            auth = None
            if server.auth_ref is not None:
                auth = SecretFile(f"auth_ref {server.auth_ref}", auth_file(self._auth_dir, server.auth_ref), auth_value)
            peer = self._peers[server.id] = _Peer(server, target, auth)
        peer.server = server
        return peer

    def _reset(self, peer: _Peer, generation: int) -> None:
        if peer.generation == generation:  # not yet made anew by another call that met the same
            peer.era, peer.session, peer.version = None, None, MODERN
            peer.generation += 1

    # Which era

    async def _negotiate(self, peer: _Peer) -> None:
        if peer.met():
            return
        async with peer.negotiating:
            if peer.met():
                return
            try:
                if await self._discover(peer):
                    peer.era, peer.version = "modern", MODERN
                else:
                    await self._initialize(peer)
                    peer.era = "legacy"
            except _ConnectionBrokenError:
                raise UpstreamError("unavailable", "it broke off without an answer") from None
            except _SessionLostError as lost:
                raise lost.answer from None

    async def _discover(self, peer: _Peer) -> bool:
        """Whether the server speaks the stateless protocol. Whatever is no proof of it counts as no."""
        try:
            answer = await self._request(peer, "server/discover", {}, {}, era="modern")
        except RpcError as error:
            supported = error.data.get("supported") if isinstance(error.data, dict) else None
            if (
                error.code == _UNSUPPORTED_VERSION
                and isinstance(supported, list)
                and not set(LEGACY) & _texts(supported)
            ):
                raise UpstreamError("protocol", "it speaks no protocol version that is spoken here") from None
            return False
        except UpstreamError as error:
            # Servers of the older era answer an unknown method and a missing session with what they please.
            if error.kind == "protocol" or (error.status is not None and error.kind == "unavailable"):
                return False
            raise
        except _SessionLostError:
            return False
        if MODERN not in _texts(answer.result.get("supportedVersions")):
            return False
        meta = answer.result.get("_meta")
        peer.info = _info(MODERN, answer.result, meta.get(_META + "serverInfo") if isinstance(meta, dict) else None)
        return True

    async def _initialize(self, peer: _Peer) -> None:
        params = {"protocolVersion": LEGACY[0], "capabilities": SESSION_CAPABILITIES, "clientInfo": CLIENT_INFO}
        found: dict[str, str] = {}
        try:
            answer = await self._request(peer, "initialize", params, {}, era="legacy", found=found)
        except RpcError:
            raise UpstreamError("protocol", "it refuses to begin a session") from None
        version = answer.result.get("protocolVersion")
        if version not in LEGACY:
            raise UpstreamError("protocol", "it speaks no protocol version that is spoken here")
        session = found.get("session")
        if session is not None and not _SESSION_ID.match(session):
            raise UpstreamError("protocol", "its session id is not usable")
        peer.version, peer.session = version, session
        peer.info = _info(version, answer.result, answer.result.get("serverInfo"))
        await self._tell(peer, {"jsonrpc": "2.0", "method": "notifications/initialized"})

    # The wire

    async def _request(
        self,
        peer: _Peer,
        method: str,
        params: dict[str, Any],
        options: Options,
        *,
        era: Literal["modern", "legacy"] | None = None,
        found: dict[str, str] | None = None,
    ) -> Answer:
        named = params.get(_NAMED.get(method, ""))
        name = f"{method} {named}" if isinstance(named, str) else method
        with tracing.span(name, "client", mcp__method__name=method, mcpstack__server=peer.server.name):
            return await self._exchange(peer, method, params, options, era, found)

    async def _exchange(
        self,
        peer: _Peer,
        method: str,
        params: dict[str, Any],
        options: Options,
        era: Literal["modern", "legacy"] | None,
        found: dict[str, str] | None,
    ) -> Answer:
        modern = (era or peer.era) == "modern"
        number = next(peer.ids)
        given = params.get("_meta")
        meta = {**(given if isinstance(given, dict) else {}), **options.get("meta", {})}
        # Calls of many share a session here, and each caller counts his own tokens from 1.
        token = meta.get("progressToken")
        if token is not None:
            meta["progressToken"] = number
        tracing.inject(meta)
        headers: Mapping[str, str] = options.get("headers", {})
        if modern:
            meta[_META + "protocolVersion"] = MODERN
            meta[_META + "clientInfo"] = CLIENT_INFO
            meta[_META + "clientCapabilities"] = dict(options.get("capabilities", {}))
            headers = {**headers, "mcp-protocol-version": MODERN, "mcp-method": method}
            if isinstance(name := params.get(_NAMED.get(method, "")), str):
                headers["mcp-name"] = _header_value(name)
        elif method != "initialize":
            headers = self._session_headers(peer, headers)
        if meta:
            params = {**params, "_meta": meta}
        body = json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}).encode()
        budget = _Budget(options.get("max_answer") or self._max_answer)
        on_message = _restoring(token, options.get("on_message"))
        try:
            response = await self._send(peer, "POST", body, headers)
            with self._using(response):
                if found is not None and (session := response.headers.get("mcp-session-id")) is not None:
                    found["session"] = session
                return await self._answer(peer, response, number, modern, budget, on_message)
        except (asyncio.CancelledError, TimeoutError):
            # In the stateless protocol the closed connection says it; with a session it has to be said.
            if not modern and method != "initialize":
                note = {
                    "method": "notifications/cancelled",
                    "params": {"requestId": number, "reason": "no longer needed"},
                }
                self._later(self._tell(peer, {"jsonrpc": "2.0", **note}))
            raise

    def _session_headers(self, peer: _Peer, headers: Mapping[str, str]) -> dict[str, str]:
        # Mcp-Name and the parameter headers belong to the newer protocol.
        kept = {name: value for name, value in headers.items() if not name.startswith("mcp-")}
        kept["mcp-protocol-version"] = peer.version
        if peer.session is not None:
            kept["mcp-session-id"] = peer.session
        return kept

    async def _send(
        self, peer: _Peer, verb: str, body: bytes | None, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        if self._http is None:
            raise UpstreamError("unavailable", "the registry is starting or stopping")
        full = {
            "Accept": "application/json, text/event-stream",
            "Accept-Encoding": "identity",
            "User-Agent": f"mcpstack-registry/{__version__}",
            **dict(peer.server.headers),
            **headers,
        }
        if body is not None:
            full["Content-Type"] = "application/json"
        if peer.auth is not None:
            full.update(self._auth_header(peer, peer.auth))
        try:
            return await self._http.request(verb, peer.server.url, data=body, headers=full, allow_redirects=False)
        except aiohttp.ClientConnectorCertificateError:
            raise UpstreamError("unavailable", "its certificate is not trusted") from None
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, ssrf.Blocked):
                log.warning("an address is refused", extra={"server": peer.server.name, "reason": error.os_error.why})
                raise UpstreamError("blocked", f"its address is not allowed: {error.os_error.why}") from None
            raise UpstreamError("unavailable", _no_connection(error)) from None
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            raise _ConnectionBrokenError from None
        except aiohttp.ConnectionTimeoutError:
            raise UpstreamError("unavailable", "it does not accept a connection in time") from None
        except (aiohttp.ClientError, ValueError):
            raise UpstreamError("protocol", "its answer is not valid HTTP") from None

    def _auth_header(self, peer: _Peer, secret: SecretFile[Auth]) -> dict[str, str]:
        try:
            auth = secret.read()
        except SecretError as error:
            log.error("the secret for a server cannot be read", extra={"reason": str(error)})  # noqa: TRY400
            raise UpstreamError("unavailable", "its secret is missing") from None
        if auth.origin != peer.target.origin:
            log.error("a secret is for another server", extra={"server": peer.server.name, "auth_ref": secret.setting})
            raise UpstreamError("blocked", "the secret named by auth_ref is for another server")
        return {auth.header: auth.value}

    async def _answer(
        self,
        peer: _Peer,
        response: aiohttp.ClientResponse,
        number: int,
        modern: bool,
        budget: _Budget,
        on_message: OnMessage | None,
    ) -> Answer:
        if response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            raise UpstreamError("protocol", "it compresses its answer although it was asked not to")
        if response.status == 304:
            return NOT_MODIFIED
        kind = response.content_type
        if response.status != 200:
            await self._refusal(peer, response, number, modern)
        etag = response.headers.get("etag")
        if kind == "application/json":
            if (response.content_length or 0) > budget.limit:
                raise UpstreamError("too_large", "its answer is too large")
            raw = b"".join([piece async for piece in _pieces(response, budget)])
            return Answer(_result(_parse(raw), number), budget.used, etag)
        if kind == "text/event-stream":
            return Answer(await self._events(peer, response, number, modern, budget, on_message), budget.used, etag)
        raise UpstreamError("protocol", "its answer is neither JSON nor an event stream")

    async def _refusal(self, peer: _Peer, response: aiohttp.ClientResponse, number: int, modern: bool) -> NoReturn:
        status = response.status
        if 300 <= status < 400:
            raise UpstreamError("refused", "it redirects, which is not followed")
        if status in (401, 403):
            raise UpstreamError("refused", "it does not accept the registry's credentials")
        message: dict[str, Any] = {}
        with contextlib.suppress(UpstreamError):
            if response.content_type == "application/json" and 400 <= status < 500:
                raw = b"".join([piece async for piece in _pieces(response, _Budget(_MAX_ERROR))])
                message = _parse(raw)
        error = message.get("error") if message.get("id", number) in (number, None) else None
        code = error.get("code") if isinstance(error, dict) else None
        kind: Kind = "unavailable" if status == 429 or status >= 500 else "protocol"
        failure: Exception = UpstreamError(kind, f"it answers with status {status}", status)
        if code is not None:
            try:
                _result(message, number)
            except (RpcError, UpstreamError) as answer:
                failure = answer
        # What servers say to a request that does not fit their era or has a session they lost. 404 is the
        # protocol's word for it, the rest is what is said in the field.
        if modern:
            lost = peer.era == "modern" and status == 400 and code in _OTHER_ERA
        else:
            lost = peer.session is not None and (status == 404 or (status == 400 and code in (None, *_OTHER_ERA)))
        raise _SessionLostError(failure) if lost else failure

    async def _events(
        self,
        peer: _Peer,
        response: aiohttp.ClientResponse,
        number: int,
        modern: bool,
        budget: _Budget,
        on_message: OnMessage | None,
    ) -> dict[str, Any]:
        last: str | None = None
        pause = 1000
        asked = said = 0
        with contextlib.ExitStack() as streams:
            for resume in range(_MAX_RESUMES + 1):
                events = Events()
                broken = False
                try:
                    async for piece in _pieces(response, budget):
                        for event in events.feed(piece):
                            last = event.id or last
                            pause = pause if event.retry is None else event.retry
                            if not event.data:
                                continue
                            message = _parse(event.data)
                            if "method" not in message:
                                if message.get("id") == number:
                                    return _result(message, number)
                                continue
                            asked += "id" in message
                            said += 1
                            if asked > _MAX_SERVER_REQUESTS or said > _MAX_SAID:
                                raise UpstreamError("protocol", "it says too much while it works")
                            await self._heard(peer, message, modern, on_message)
                except _ConnectionBrokenError:
                    broken = True
                # A server with sessions may end a stream and send the rest on another one (resumption).
                if modern or last is None or resume == _MAX_RESUMES:
                    raise UpstreamError("unavailable" if broken else "protocol", "it broke off inside its answer")
                response.close()
                await asyncio.sleep(min(pause, 10_000) / 1000)
                response = streams.enter_context(self._using(await self._resume(peer, last)))
        raise AssertionError  # pragma: no cover

    async def _resume(self, peer: _Peer, last: str) -> aiohttp.ClientResponse:
        headers = self._session_headers(peer, {"Last-Event-ID": last})
        try:
            response = await self._send(peer, "GET", None, headers)
        except _ConnectionBrokenError:
            raise UpstreamError("unavailable", "it broke off inside its answer") from None
        if response.status != 200 or response.content_type != "text/event-stream":
            response.close()
            raise UpstreamError("protocol", "it broke off inside its answer")
        return response

    async def _heard(self, peer: _Peer, message: dict[str, Any], modern: bool, on_message: OnMessage | None) -> None:
        """A notification or a request of the server inside its answer."""
        result = await on_message(message) if on_message is not None else None
        if "id" not in message or modern:  # the stateless protocol has no requests of servers
            return
        reply: dict[str, Any] = {"jsonrpc": "2.0", "id": message["id"]}
        if message.get("method") == "ping":
            reply["result"] = {}
        elif result is not None:
            reply["result"] = result
        else:
            reply["error"] = {"code": _METHOD_NOT_FOUND, "message": "Not possible through this registry"}
        await self._tell(peer, reply)

    async def _tell(self, peer: _Peer, message: dict[str, Any]) -> None:
        """Send something that has no answer. What comes back is not read."""
        try:
            response = await self._send(peer, "POST", json.dumps(message).encode(), self._session_headers(peer, {}))
        except _ConnectionBrokenError:
            raise UpstreamError("unavailable", "it broke off without an answer") from None
        self._drain(response)

    def _end_session(self, peer: _Peer) -> None:
        if peer.session is not None:
            headers = self._session_headers(peer, {})

            async def end() -> None:
                (await self._send(peer, "DELETE", None, headers)).close()

            self._later(end())

    @contextlib.contextmanager
    def _using(self, response: aiohttp.ClientResponse) -> Iterator[aiohttp.ClientResponse]:
        try:
            yield response
        except BaseException:
            response.close()
            raise
        self._drain(response)

    def _drain(self, response: aiohttp.ClientResponse) -> None:
        """Read what is left, a little and for a moment, so that the connection can be used again."""
        if response.content.at_eof():
            response.release()
            return

        async def read() -> None:
            try:
                async for _ in _pieces(response, _Budget(16 * 1024)):
                    pass
            finally:
                response.close()

        self._later(read())

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        async def bounded() -> None:
            try:
                async with asyncio.timeout(1):
                    await work
            except (UpstreamError, _ConnectionBrokenError, TimeoutError) as error:
                log.debug("a courtesy to a server failed", extra={"reason": str(error)})

        chore = asyncio.create_task(bounded())
        self._chores.add(chore)
        chore.add_done_callback(self._chores.discard)


async def _pieces(response: aiohttp.ClientResponse, budget: _Budget) -> AsyncIterator[bytes]:
    try:
        async for piece in response.content.iter_any():
            budget.take(len(piece))
            yield piece
    except (aiohttp.ClientError, OSError):
        raise _ConnectionBrokenError from None


def check_characters(raw: bytes, value: Any) -> None:
    """ValueError for half a character in a JSON text: it would fail later, in whoever writes it out as UTF-8."""
    if _SURROGATE.search(raw):
        json.dumps(value, ensure_ascii=False).encode()


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        message = json.loads(raw, parse_constant=_no_constant)
        check_characters(raw, message)
    except (ValueError, RecursionError):
        raise UpstreamError("protocol", "its answer is not valid JSON") from None
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
        raise UpstreamError("protocol", "its answer is not JSON-RPC")
    return message


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _result(message: dict[str, Any], number: int) -> dict[str, Any]:
    """The result of our request, or its error raised."""
    error = message.get("error")
    if isinstance(error, dict) and message.get("id", number) in (number, None):
        code, text = error.get("code"), error.get("message")
        if isinstance(code, int) and not isinstance(code, bool) and isinstance(text, str):
            raise RpcError(code, text, error.get("data"))
    result = message.get("result")
    if message.get("id") != number or isinstance(message.get("id"), bool) or not isinstance(result, dict):
        raise UpstreamError("protocol", "its answer is not an answer to the request")
    return result


def _is_tool_result(result: dict[str, Any]) -> bool:
    if result.get("resultType", "complete") == "input_required":
        return True
    content = result.get("content")
    return (
        isinstance(content, list)
        and all(isinstance(block, dict) and isinstance(block.get("type"), str) for block in content)
        and isinstance(result.get("isError", False), bool)
    )


def _where(server: Server) -> tuple[object, ...]:
    """What makes it another server to us."""
    return server.url, server.auth_ref, server.headers


def _info(version: str, result: dict[str, Any], server_info: Any) -> Info:
    capabilities, instructions = result.get("capabilities"), result.get("instructions")
    return Info(
        version,
        capabilities if isinstance(capabilities, dict) else {},
        server_info if isinstance(server_info, dict) else None,
        instructions if isinstance(instructions, str) else None,
    )


def _restoring(token: Any, on_message: OnMessage | None) -> OnMessage | None:
    """Progress is reported to the caller under the token he gave."""
    if token is None or on_message is None:
        return on_message

    async def restored(message: dict[str, Any]) -> dict[str, Any] | None:
        params = message.get("params")
        if message.get("method") == "notifications/progress" and isinstance(params, dict):
            message = {**message, "params": {**params, "progressToken": token}}
        return await on_message(message)

    return restored


def _patient(clock: asyncio.Timeout, on_message: OnMessage | None) -> OnMessage | None:
    """The server's time does not run while it waits for an answer of the caller, who may be a person."""
    if on_message is None:
        return None

    async def heard(message: dict[str, Any]) -> dict[str, Any] | None:
        if "id" not in message:
            return await on_message(message)
        left = (clock.when() or 0.0) - asyncio.get_running_loop().time()
        clock.reschedule(None)
        try:
            return await on_message(message)
        finally:
            clock.reschedule(asyncio.get_running_loop().time() + max(left, 0.0))

    return heard


def _header_value(value: str) -> str:
    """As the protocol wants a name in a header: as it is, or wrapped where it would not survive."""
    if _PLAIN_VALUE.match(value) and value == value.strip() and not value.startswith("=?base64?"):
        return value
    return f"=?base64?{base64.b64encode(value.encode()).decode()}?="


def _texts(value: Any) -> set[str]:
    return {entry for entry in value if isinstance(entry, str)} if isinstance(value, list) else set()


def _no_connection(error: aiohttp.ClientConnectorError) -> str:
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return "TLS fails"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name is not known"
    return "it refuses connections" if isinstance(error.os_error, ConnectionRefusedError) else "no connection"


# Secrets of servers


def auth_file(directory: Path, auth_ref: str) -> Path:
    """Where the secret named by auth_ref lies. The name cannot leave the files that are meant for servers."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,62}", auth_ref, re.ASCII):
        raise UpstreamError("blocked", "its auth_ref is not a name")
    return directory / f"mcp-server-{auth_ref}" / "current"


_AUTH = re.compile(
    r"(https?://[a-z0-9.:\[\]_-]+)\n(Authorization|X-[A-Za-z0-9-]{1,60}): ([\x21-\x7e]+(?: [\x21-\x7e]+)*)", re.ASCII
)


def auth_value(raw: str) -> Auth:
    """Two lines: the origin the secret may be sent to, and the header. The origin keeps a secret from being sent to
    a server that somebody registers under a URL of his own.
    """
    match = _AUTH.fullmatch(raw)
    if match is None:
        raise ValueError(
            "two lines: the origin it is for (https://api.example.org), and the header (Authorization: Bearer ...)"
        )
    logs.hide(match[3])
    logs.hide(match[3].rpartition(" ")[2])
    return Auth(match[1], match[2], match[3])
