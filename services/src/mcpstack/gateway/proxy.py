# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One answer of the model server on its way to the client.

Streams are forwarded event by event as they arrive; an event that is not complete yet is held back, so that what
the client gets before an error is always whole. A stream ends with the model server's [DONE] or with an error event,
never silently. When the client goes away the connection to the model server is closed at once, which frees its slot.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import aiohttp
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from mcpstack.common.errors import ApiError

if TYPE_CHECKING:
    from mcpstack.gateway.service import Gateway

log = logging.getLogger(__name__)

_PING = b": ping\n\n"
_DONE = b"data: [DONE]"
_HELD_BACK = 1 << 20
_TAIL = 4096
# A quote inside a JSON string is always escaped, so these cannot match text that the model wrote.
_PROMPT_TOKENS = re.compile(rb'[{,]\s*"(?:prompt_tokens|prompt_n)"\s*:\s*(\d{1,9})')
_COMPLETION_TOKENS = re.compile(rb'[{,]\s*"(?:completion_tokens|predicted_n)"\s*:\s*(\d{1,9})')


class Answer(Response):
    """An ASGI response that asks the model server while it is being sent."""

    def __init__(
        self,
        gateway: Gateway,
        *,
        path: str,
        body: bytes,
        stream: bool,
        request_id: str,
        done: Callable[[], None],
    ) -> None:
        self._gateway = gateway
        self._path = path
        self._body = body
        self._stream = stream
        self._request_id = request_id
        self._done = done
        self._started = False
        self._first_at = 0.0
        self._upstream: aiohttp.ClientResponse | None = None
        self.status_code = 200
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        log_fields: dict[str, object] = scope["state"].setdefault("log", {})
        log_fields["stream"] = self._stream
        gone = asyncio.create_task(_client_gone(receive))
        work = asyncio.create_task(self._answer(scope, send))
        self._gateway.answers.add(work)
        try:
            await asyncio.wait((gone, work), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                work.cancel()
                log_fields["disconnected"] = True
                self._gateway.metrics.disconnects.labels(scope["state"]["route"]).inc()
            await asyncio.gather(work, return_exceptions=True)
            if work.done() and not work.cancelled() and (error := work.exception()) is not None:
                raise error
        finally:
            gone.cancel()
            work.cancel()
            if self._upstream is not None:
                self._upstream.close()
            self._gateway.answers.discard(work)
            self._done()

    async def _answer(self, scope: Scope, send: Send) -> None:
        try:
            if self._stream:
                await self._send_stream(scope, send)
            else:
                await self._send_whole(send)
        except ApiError as error:
            await self._send_error(scope, send, error)
        except asyncio.CancelledError:
            if not self._gateway.aborting:
                raise
            await self._send_error(scope, send, ApiError("shutting_down", "The gateway is being restarted."))

    async def _send_error(self, scope: Scope, send: Send, error: ApiError) -> None:
        self._gateway.metrics.errors.labels(error.code).inc()
        scope["state"]["log"]["code"] = error.code
        payload = json.dumps(error.body(self._request_id), separators=(",", ":")).encode()
        if self._started:
            await send({"type": "http.response.body", "body": b"data: " + payload + b"\n\n", "more_body": False})
            return
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(payload))]
        headers += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
        await send({"type": "http.response.start", "status": error.status, "headers": headers})
        await send({"type": "http.response.body", "body": payload})

    # A whole answer

    async def _send_whole(self, send: Send) -> None:
        runner, settings = self._gateway.runner, self._gateway.settings
        try:
            async with asyncio.timeout(settings.model_first_byte_timeout):
                self._upstream = upstream = await runner.request("POST", self._path, self._body, self._request_id)
                if upstream.status != 200:
                    raise await runner.refusal(upstream)
                body = await runner.read(upstream)
        except TimeoutError:
            raise _too_slow(settings.model_first_byte_timeout) from None
        if not body.lstrip().startswith(b"{"):
            raise ApiError("model_runner_error", "The model server's answer is not JSON.")
        self._count_tokens(body[:_TAIL] + body[-_TAIL:] if len(body) > 2 * _TAIL else body)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    # A stream

    async def _send_stream(self, scope: Scope, send: Send) -> None:
        gateway, settings = self._gateway, self._gateway.settings
        loop = asyncio.get_running_loop()
        began = scope["state"]["began"]
        pinger: list[asyncio.Task[None]] = []
        timer = loop.call_later(
            settings.ping_interval, lambda: pinger.append(loop.create_task(self._ping(send, settings.ping_interval)))
        )

        async def quiet() -> None:
            """From here on only one writer."""
            timer.cancel()
            while pinger:
                task = pinger.pop()
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

        try:
            async with asyncio.timeout(settings.model_first_byte_timeout) as limit:
                self._upstream = upstream = await gateway.runner.request(
                    "POST", self._path, self._body, self._request_id
                )
                if upstream.status != 200:
                    raise await gateway.runner.refusal(upstream)
                if not upstream.content_type.startswith("text/event-stream"):
                    raise ApiError("model_runner_error", "The model server did not answer with a stream.")
                content, held, tail = upstream.content, b"", b""
                events = 0
                while True:
                    piece = await content.readany()
                    if not piece:
                        break
                    limit.reschedule(loop.time() + settings.model_idle_timeout)
                    if not self._first_at:
                        self._first_at = time.monotonic()
                        gateway.metrics.first_token.observe(self._first_at - began)
                        scope["state"]["log"]["ttft_ms"] = round((self._first_at - began) * 1000, 2)
                        await quiet()
                        await self._start_stream(send)
                    held += piece
                    cut = _whole_events(held)
                    if not cut:
                        if len(held) > _HELD_BACK:
                            raise ApiError("model_runner_error", "The model server sent an event without end.")
                        continue
                    ready, held = held[:cut], held[cut:]
                    events += ready.count(b"data: ")
                    tail = (tail + ready)[-_TAIL:]
                    await send({"type": "http.response.body", "body": ready, "more_body": True})
        except TimeoutError:
            await quiet()
            if self._first_at:
                raise ApiError(
                    "model_runner_timeout", f"The model server paused for {settings.model_idle_timeout:g} s."
                ) from None
            raise _too_slow(settings.model_first_byte_timeout) from None
        except (aiohttp.ClientError, OSError):
            raise ApiError("model_runner_error", "The model server broke off inside its answer.") from None
        finally:
            await quiet()
        if _DONE not in tail:
            raise ApiError("model_runner_error", "The model server broke off inside its answer.")
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        elapsed = time.monotonic() - self._first_at
        if events > 3 and elapsed > 0:
            gateway.metrics.token_rate.observe((events - 2) / elapsed)
        self._count_tokens(tail)

    async def _start_stream(self, send: Send) -> None:
        if self._started:
            return
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        self._started = True

    async def _ping(self, send: Send, interval: float) -> None:
        """While the model thinks, tell everybody between here and the client that the connection is alive."""
        while True:
            await self._start_stream(send)
            await send({"type": "http.response.body", "body": _PING, "more_body": True})
            await asyncio.sleep(interval)

    def _count_tokens(self, text: bytes) -> None:
        for kind, pattern in (("prompt", _PROMPT_TOKENS), ("completion", _COMPLETION_TOKENS)):
            found = pattern.search(text)
            if found:
                self._gateway.metrics.tokens.labels(kind).inc(int(found[1]))


def _whole_events(held: bytes) -> int:
    """How many bytes belong to complete server-sent events; both line endings occur."""
    plain, dos = held.rfind(b"\n\n"), held.rfind(b"\r\n\r\n")
    return max(plain + 2 if plain >= 0 else 0, dos + 4 if dos >= 0 else 0)


def _too_slow(limit: float) -> ApiError:
    return ApiError("model_runner_timeout", f"The model server sent nothing within {limit:g} s.")


async def _client_gone(receive: Receive) -> None:
    while True:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            return
