# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One answer of a model server on its way to the client.

Streams are forwarded event by event as they arrive; an event that is not complete yet is held back, so that what
the client gets before an error is always whole. A stream ends as its protocol wants it to end or with an error event
of that protocol, never silently. When the client goes away the connection to the model server is closed at once,
which frees its slot. What the request used is settled from the model server's own figures.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import aiohttp
from pydantic_core import from_json, to_json
from starlette.types import Message, Receive, Scope, Send

from mcpstack.common import tracing
from mcpstack.common.errors import ApiError
from mcpstack.gateway.content import Conversation
from mcpstack.gateway.dialects import Dialect
from mcpstack.gateway.endpoints import Endpoint
from mcpstack.gateway.pool import Lease
from mcpstack.gateway.runner import NotReachedError, Runner

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from mcpstack.gateway.service import Gateway

log = logging.getLogger(__name__)

_PING = b": ping\n\n"
_HELD_BACK = 4 << 20
_READ_WHOLE = 1 << 18  # answers up to this size are parsed; of longer ones the ends are looked at
_TAIL = 4096
_AFTER_THE_END = 0.5  # a stream that is over should close; the connection is only kept when it does
# A quote inside a JSON string is always escaped, so these cannot match text that the model wrote.
_PROMPT_TOKENS = re.compile(rb'[{,]\s*"(?:prompt_tokens|input_tokens)"\s*:\s*(\d{1,9})')
_COMPLETION_TOKENS = re.compile(rb'[{,]\s*"(?:completion_tokens|output_tokens)"\s*:\s*(\d{1,9})')
_MODEL_MISSING = re.compile(r"(?i)\bmodel\b.*(?:not (?:exist|found)|unknown)|(?:unknown|no such) model")


class Reservation(Protocol):
    """What was set aside for a request. Neither call waits; what comes after the first one does nothing."""

    def settle(self, prompt: int | None, completion: int) -> bool:
        """So many tokens were used. None: the model server does not say, and what was estimated counts."""

    def refund(self) -> bool:
        """Nothing was used."""


class Usage:
    """The model server's figures, wherever its protocol puts them; the last ones count."""

    def __init__(self) -> None:
        self.prompt: int | None = None
        self.completion: int | None = None

    def take(self, answer: dict[str, Any]) -> None:
        for place in (answer, answer.get("response"), answer.get("message")):
            usage = place.get("usage") if isinstance(place, dict) else None
            if isinstance(usage, dict):
                cached = _count(usage, "cache_read_input_tokens") or 0
                cached += _count(usage, "cache_creation_input_tokens") or 0
                prompt = _count(usage, "prompt_tokens", "input_tokens")
                completion = _count(usage, "completion_tokens", "output_tokens")
                self.prompt = self.prompt if prompt is None else prompt + cached
                self.completion = self.completion if completion is None else completion

    def scan(self, body: bytes) -> None:
        for name, pattern in (("prompt", _PROMPT_TOKENS), ("completion", _COMPLETION_TOKENS)):
            found = pattern.search(body[-_TAIL:]) or pattern.search(body[:_TAIL])
            if found:
                setattr(self, name, int(found[1]))


def _count(usage: dict[str, Any], *names: str) -> int | None:
    for name in names:
        value = usage.get(name)
        if type(value) is int and 0 <= value < 1 << 31:
            return value
    return None


class Answer:
    """An ASGI application for one request: asks a model server, and sends what it says."""

    def __init__(
        self,
        gateway: Gateway,
        endpoint: Endpoint,
        *,
        model: str,
        body: bytes,
        stream: bool,
        show_usage: bool,
        reservation: Reservation,
        keep: Callable[[bytes], None] | None = None,
        content: Conversation | None = None,
    ) -> None:
        """`keep` gets a whole answer that may be given again, `content` what is said, where that is to be logged."""
        self._gateway = gateway
        self._endpoint = endpoint
        self._dialect: Dialect = endpoint.dialect
        self._model = model
        self._body = body
        self._stream = stream
        self._show_usage = show_usage
        self._reservation = reservation
        self._keep = keep
        self._content = content
        self._request_id = self._kid = ""
        self._route = ""
        self._began = 0.0
        self._log: dict[str, object] = {}
        self._lease: Lease | None = None
        self._upstream: aiohttp.ClientResponse | None = None
        self._usage = Usage()
        self._started = False  # the client has a status
        self._sending = False
        self._over = self._accounted = False
        self._gone = False
        self._reached = False  # a model server has the request
        self._first_at = 0.0
        self._events = self._pieces = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = scope["state"]
        self._request_id, self._route, self._began = state["request_id"], state["route"], state["began"]
        self._log = state["log"]
        self._kid = str(self._log["kid"])
        self._log["stream"] = self._stream
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine of asyncio runs in a task
        watcher = asyncio.create_task(self._watch(receive, task))
        self._gateway.answers.add(task)
        try:
            with tracing.span(f"{self._endpoint.path[4:]} {self._model}", gen_ai__request__model=self._model) as span:
                try:
                    await self._answer(send)
                finally:
                    if span is not None:
                        self._describe(span)
        except asyncio.CancelledError:
            if self._gone:
                task.uncancel()
                self._log["disconnected"] = True
                self._gateway.metrics.disconnects.labels(self._route).inc()
            elif self._gateway.aborting:
                task.uncancel()
                await self._fail(send, ApiError("shutting_down", "The gateway is being restarted."))
            else:
                raise
        finally:
            watcher.cancel()
            self._gateway.answers.discard(task)
            self._let_go()
            self._account()
            if self._content is not None:
                self._content.write(self._request_id, self._kid, self._model)

    def _describe(self, span: Span) -> None:
        """As OpenTelemetry's conventions for generative AI call it."""
        usage = self._usage
        found = {
            "gen_ai.usage.input_tokens": usage.prompt,
            "gen_ai.usage.output_tokens": usage.completion,
            "gen_ai.server.time_to_first_token": self._first_at - self._began if self._first_at else None,
            "mcpstack.queue_ms": self._log.get("queue_ms"),
        }
        span.set_attributes({name: value for name, value in found.items() if value is not None})  # type: ignore[misc]

    async def _watch(self, receive: Receive, task: asyncio.Task[Any]) -> None:
        while True:
            message: Message = await receive()
            if message["type"] == "http.disconnect":
                if not self._over:
                    self._gone = True
                    task.cancel()
                return

    async def _answer(self, send: Send) -> None:
        try:
            if self._stream:
                await self._send_stream(send)
            else:
                await self._send_whole(send)
        except ApiError as error:
            await self._fail(send, error)

    async def _fail(self, send: Send, error: ApiError) -> None:
        self._let_go()
        self._gateway.metrics.errors.labels(error.code).inc()
        self._log["code"] = error.code
        if self._started:
            event = self._dialect.event(error, self._request_id, self._events)
            await send({"type": "http.response.body", "body": event, "more_body": False})
        else:
            await send_error(send, error, self._dialect, self._request_id)
        self._over = True

    def _let_go(self) -> None:
        """The model server is free for the next one; a connection that was not read to its end is closed."""
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.close()
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.release()

    def _account(self) -> None:
        """Settle what was used, once: the model server's figures, else what of its answer came through."""
        if self._accounted:
            return
        self._accounted = True
        usage, metrics = self._usage, self._gateway.metrics
        if usage.prompt is None and usage.completion is None and not self._reached:
            self._reservation.refund()
            return
        completion = self._pieces if usage.completion is None else usage.completion
        self._reservation.settle(usage.prompt, completion)
        if usage.prompt is not None:
            self._log["tokens_in"] = usage.prompt
        metrics.used(self._model, self._kid, usage.prompt, completion)
        self._log["tokens_out"] = completion

    # Asking

    async def _open(self, limit: asyncio.Timeout) -> aiohttp.ClientResponse:
        """The answer of a model server that accepts the request; its body is still to come."""
        pool, path = self._gateway.pool, self._endpoint.path
        loop = asyncio.get_running_loop()
        tried: tuple[Runner, ...] = ()
        problem: ApiError | None = None
        while True:
            try:
                lease = pool.take(self._model, path, tried)
                if lease is None:
                    lease = await pool.wait(self._model, path, len(self._body), tried)
            except ApiError as error:
                if error.code == "unsupported_endpoint":
                    problem = problem or ApiError(error.code, error.message, suggestions=(self._endpoint.instead,))
                # What the last one said is more to the point than that there is no other.
                raise (problem if problem and error.status in (404, 503) else error) from None
            self._lease, runner = lease, lease.runner
            self._log["runner"] = runner.spec.name
            self._gateway.metrics.queued(self._model, self._kid, lease.queued)
            if lease.queued:
                self._log["queue_ms"] = round(lease.queued * 1000, 2)
            limit.reschedule(loop.time() + self._gateway.settings.model_first_byte_timeout)
            try:
                self._reached = True
                self._upstream = upstream = await runner.request("POST", path, self._body, self._request_id)
            except NotReachedError as error:
                problem = error
            except ApiError:
                self._reached = False
                raise
            else:
                if upstream.status == 200:
                    return upstream
                problem, missing = await self._refusal(runner, upstream)
                if not missing:
                    self._reached = False
                    raise problem
            self._reached = False
            self._let_go()
            runner.moved += 1
            tried += (runner,)
            limit.reschedule(None)

    async def _refusal(self, runner: Runner, upstream: aiohttp.ClientResponse) -> tuple[ApiError, bool]:
        """Our error for the model server's, and whether it does not have this endpoint at all."""
        status = upstream.status
        error = await runner.refusal(upstream)
        if status in (404, 405) or (status == 501 and not self._endpoint.common):
            if await runner.lacks_endpoint(self._endpoint.path):
                message = f"No model server that has this model offers {self._endpoint.path}."
                return ApiError("unsupported_endpoint", message, suggestions=(self._endpoint.instead,)), True
            if status == 404 and _MODEL_MISSING.search(error.message):
                runner.look.set()
                return self._gateway.pool.unknown_model(self._model), False
        return error, False

    # A whole answer

    async def _send_whole(self, send: Send) -> None:
        try:
            async with asyncio.timeout(None) as limit:
                upstream = await self._open(limit)
                assert self._lease is not None  # noqa: S101 - _open has taken it
                body = await self._lease.runner.read(upstream)
        except TimeoutError:
            self._reached = False
            raise self._too_slow() from None
        self._let_go()
        if len(body) <= _READ_WHOLE:
            try:
                answer = from_json(body)
            except ValueError:
                answer = None
            if not isinstance(answer, dict):
                raise ApiError("model_runner_error", "The model server's answer is not JSON.")
            self._usage.take(answer)
        else:
            if not (body.lstrip().startswith(b"{") and body.rstrip().endswith(b"}")):
                raise ApiError("model_runner_error", "The model server's answer is not JSON.")
            self._usage.scan(body)
        self._account()
        if self._keep is not None:
            self._keep(body)
        if self._content is not None:
            self._content.answered(body)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        self._started = True
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        self._over = True

    # A stream

    async def _send_stream(self, send: Send) -> None:
        settings = self._gateway.settings
        loop = asyncio.get_running_loop()
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

        finished = False
        try:
            async with asyncio.timeout(None) as limit:
                upstream = await self._open(limit)
                if not upstream.content_type.startswith("text/event-stream"):
                    self._reached = False
                    raise ApiError("model_runner_error", "The model server did not answer with a stream.")
                content, held = upstream.content, b""
                while piece := await content.readany():
                    if finished:
                        continue
                    limit.reschedule(loop.time() + settings.model_idle_timeout)
                    if not self._first_at:
                        await quiet()
                        await self._first_byte(send)
                    held = held + piece if held else piece
                    cut = _whole_events(held)
                    if not cut:
                        if len(held) > _HELD_BACK:
                            raise ApiError("model_runner_error", "The model server sent an event without end.")
                        continue
                    ready, held = held[:cut], held[cut:]
                    finished = self._ends(ready)
                    await self._forward(send, ready, finished)
                    if finished:
                        limit.reschedule(loop.time() + _AFTER_THE_END)
            self._upstream = None  # read to its end, so the connection can be used again
        except TimeoutError:
            await quiet()
            if finished:
                return
            if self._sending:
                # Nobody reads: an error would not be read either. Leaving without an end closes the connection.
                self._log["disconnected"] = True
                self._gateway.metrics.disconnects.labels(self._route).inc()
                return
            if self._first_at:
                raise ApiError(
                    "model_runner_timeout", f"The model server paused for {settings.model_idle_timeout:g} s."
                ) from None
            self._reached = False
            raise self._too_slow() from None
        except (aiohttp.ClientError, OSError):
            if not finished:
                if self._lease is not None:
                    self._lease.runner.look.set()
                raise ApiError("model_runner_error", "The model server broke off inside its answer.") from None
        finally:
            await quiet()
        if not finished:
            raise ApiError("model_runner_error", "The model server broke off inside its answer.")
        elapsed = time.monotonic() - self._first_at
        self._gateway.metrics.streamed(self._model, self._kid, self._usage.completion or self._pieces, elapsed)

    async def _first_byte(self, send: Send) -> None:
        self._first_at = time.monotonic()
        self._gateway.metrics.first(self._model, self._kid, self._first_at - self._began)
        self._log["ttft_ms"] = round((self._first_at - self._began) * 1000, 2)
        await self._start_stream(send)

    async def _forward(self, send: Send, ready: bytes, last: bool) -> None:
        problem = None
        if b'"usage"' in ready or b'"error"' in ready:
            ready, problem = self._look_into(ready)
        self._events += ready.count(b"\n\n") or ready.count(b"\r\n\r\n")
        self._pieces += ready.count(self._dialect.token)
        ends = last and problem is None
        if ends:
            self._account()
        if self._content is not None:
            self._content.streamed(ready)
        if ready or ends:
            self._sending = True
            await send({"type": "http.response.body", "body": ready, "more_body": not ends})
            self._sending, self._over = False, ends
        if problem is not None:
            raise problem

    def _look_into(self, ready: bytes) -> tuple[bytes, ApiError | None]:
        """Take the usage out of the few events that have it, and stop at an error of the model server."""
        kept: list[bytes] = []
        done = 0  # everything before is in `kept`, or is not for the client
        for begin, end in _telling(ready):
            event = ready[begin:end]
            data = _data(event)
            problem = self._problem(event, data)
            if problem is not None:
                return b"".join((*kept, ready[done:begin])), problem
            self._usage.take(data)
            # What was only asked for by the gateway is not for the client.
            if not self._show_usage and data.get("choices") == [] and data.get("usage"):
                kept.append(ready[done:begin])
                done = end
        return (b"".join((*kept, ready[done:])) if done else ready), None

    def _problem(self, event: bytes, data: dict[str, Any]) -> ApiError | None:
        named = event.startswith(b"event: error") or "error" in (data.get("type"), data.get("object"))
        if not named and (not data.get("error") or "choices" in data or "type" in data):
            return None
        detail = data.get("error") or data
        if not isinstance(detail, dict):
            detail = {"message": str(detail)}
        code = detail.get("code")
        status = code if type(code) is int and 400 <= code < 600 else 500
        assert self._lease is not None  # noqa: S101 - its stream is being read
        return self._lease.runner.map_error(status, str(detail.get("message") or ""), str(detail.get("type") or ""))

    def _ends(self, ready: bytes) -> bool:
        """Events begin at the beginning of a line, where nothing that a model wrote can stand."""
        return any(ready.startswith(end) or b"\n" + end in ready for end in self._dialect.ends)

    async def _start_stream(self, send: Send) -> None:
        if self._started:
            return
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
        ]
        self._started = True
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _ping(self, send: Send, interval: float) -> None:
        """While the model thinks, tell everybody between here and the client that the connection is alive."""
        while True:
            await self._start_stream(send)
            await send({"type": "http.response.body", "body": _PING, "more_body": True})
            await asyncio.sleep(interval)

    def _too_slow(self) -> ApiError:
        limit = self._gateway.settings.model_first_byte_timeout
        return ApiError("model_runner_timeout", f"The model server sent nothing within {limit:g} s.")


async def send_error(send: Send, error: ApiError, dialect: Dialect, request_id: str) -> None:
    """An error as a whole answer."""
    payload = to_json(dialect.body(error, request_id))
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(payload))]
    headers += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": payload})


def _telling(ready: bytes) -> Iterator[tuple[int, int]]:
    """Where the events are that have a usage or an error in them."""
    gap = b"\n\n" if b"\n\n" in ready else b"\r\n\r\n"
    end = 0
    while True:
        found = [at for word in (b'"usage"', b'"error"') if (at := ready.find(word, end)) >= 0]
        if not found:
            return
        before = ready.rfind(gap, end, min(found))
        begin = end if before < 0 else before + len(gap)
        after = ready.find(gap, begin)
        end = len(ready) if after < 0 else after + len(gap)
        yield begin, end


def _data(event: bytes) -> dict[str, Any]:
    lines = [line[5:] for line in event.splitlines() if line.startswith(b"data:")]
    try:
        data = from_json(b"\n".join(lines))
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def _whole_events(held: bytes) -> int:
    """How many bytes belong to complete server-sent events; both line endings occur."""
    plain, dos = held.rfind(b"\n\n"), held.rfind(b"\r\n\r\n")
    return max(plain + 2 if plain >= 0 else 0, dos + 4 if dos >= 0 else 0)
