# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One model server: its HTTP client, its list of models, how it is, and what its errors mean to our clients."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from mcpstack.common import tracing
from mcpstack.common.errors import ApiError
from mcpstack.common.secretfile import SecretError
from mcpstack.gateway.runnerspec import RunnerSpec
from mcpstack.gateway.settings import Settings

log = logging.getLogger(__name__)

_MAX_ANSWER = 32 * 1024 * 1024
_MAX_ERROR = 64 * 1024
_MAX_LIST = 4 * 1024 * 1024
_MAX_MODELS = 10_000
# llama.cpp's HTTP server drops an idle connection after 5 s; using one that is just being dropped would fail.
_KEEP_ALIVE = 4.0
_RETRY_WITHIN = 0.25
_SPARE_CONNECTIONS = 4  # for health, lists and probes beside the requests
_FIRST_EJECTION, _LAST_EJECTION = 0.5, 30.0
_FROZEN_AFTER = 3  # health checks in a row that got no answer in time
_LACKS_FOR, _HAS_FOR = 60.0, 10.0
_KEY_EVERY = 1.0
_ADDRESS = re.compile(r"\w+://\S+|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b|\[[0-9A-Fa-f:]{3,}\](?::\d+)?", re.ASCII)


class NotReachedError(ApiError):
    """The request did not get as far as the model server, so another one may have it."""

    def __init__(self, reason: str) -> None:
        super().__init__("model_runner_unavailable", f"The model server cannot be used: {reason}.", reason=reason)


def unavailable(reason: str) -> ApiError:
    return ApiError("model_runner_unavailable", f"The model server cannot be used: {reason}.", reason=reason)


class Runner:
    def __init__(self, spec: RunnerSpec, settings: Settings) -> None:
        self.spec = spec
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None
        self._urls: dict[str, URL] = {}
        self._key, self._key_until = "", 0.0
        self.models: list[dict[str, Any]] = [_model({"id": name}) for name in spec.models]
        self.listed_at = math.inf if spec.models else -math.inf
        self._listing: asyncio.Task[None] | None = None
        self._health_path = "/health"
        # How it is
        self.up: bool | None = None  # None: not asked yet
        self.reason: str | None = "not asked yet"
        self._silent = 0
        self._failures = 0
        self._ejected_until = 0.0
        self._lacks: dict[str, float] = {}
        self._has: dict[str, float] = {}
        self.look = asyncio.Event()  # set: check its health now
        # What it does
        self.in_flight = 0
        self._named = {"mcpstack__runner": spec.name}
        self.reconnects = self.moved = 0  # requests sent again: to it, and to another one instead
        self.chosen_at = 0
        host = re.escape(urlsplit(spec.url).hostname or "")
        self._own_names = re.compile(rf"(?i)(?<![\w.-]){host}(?![\w-])(?::\d+)?")

    async def open(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self.spec.max_concurrency + _SPARE_CONNECTIONS, ttl_dns_cache=10, keepalive_timeout=_KEEP_ALIVE
            ),
            # `connect` covers the look-up of the name as well; what follows is timed by the callers.
            timeout=aiohttp.ClientTimeout(total=None, connect=self._settings.model_connect_timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept-Encoding"),
            trust_env=False,
        )

    async def close(self) -> None:
        if self._listing is not None:
            self._listing.cancel()
        if self._session is not None:
            await self._session.close()

    # What the pool asks

    def healthy(self, now: float) -> bool:
        return self.up is not False and now >= self._ejected_until

    @property
    def hopeless(self) -> bool:
        """It takes connections and answers nothing: asking it would only keep the client waiting."""
        return self._silent >= _FROZEN_AFTER

    @property
    def full(self) -> bool:
        return self.in_flight >= self.spec.max_concurrency

    def lacks(self, path: str, now: float) -> bool:
        return self._lacks.get(path, 0.0) > now

    @property
    def names(self) -> list[str]:
        return [model["id"] for model in self.models]

    # Requests

    async def request(
        self, method: str, path: str, body: bytes | None, request_id: str, more: Mapping[str, str] | None = None
    ) -> aiohttp.ClientResponse:
        """Send one request and return the answer with its body still to come; raises ApiError when there is none."""
        if self._session is None:
            raise NotReachedError("the gateway is starting")
        headers = {
            "Authorization": self._authorization(),
            "Accept-Encoding": "identity",
            "X-Request-ID": request_id,
        }
        if body is not None:
            headers["Content-Type"] = "application/json"
        if more:
            headers.update(more)
        url = self._urls.get(path)
        if url is None:
            url = self._urls[path] = URL(self.spec.url + path)
        for attempt in (1, 2):
            started = time.monotonic()
            try:
                with tracing.span(f"{method} {path}", "client", http__request__method=method, **self._named) as span:
                    tracing.inject(headers)
                    answer = await self._session.request(method, url, data=body, headers=headers, allow_redirects=False)
                    if span is not None:
                        span.set_attribute("http.response.status_code", answer.status)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                if isinstance(error, aiohttp.ClientConnectorError):
                    if attempt == 1:
                        raise self._eject(_no_connection(error)) from None
                    # The first attempt may have got there, so this request must not go to another model server.
                    self._eject(_no_connection(error))
                    raise unavailable(_no_connection(error)) from None
                # A kept connection that was dropped meanwhile fails at once and without an answer: try a new one.
                if attempt == 2 or time.monotonic() - started > _RETRY_WITHIN:
                    self.look.set()
                    raise ApiError("model_runner_error", "The model server broke off before answering.") from None
                self.reconnects += 1
            except aiohttp.ConnectionTimeoutError:
                failure = self._eject("it does not accept a connection in time")
                raise failure if attempt == 1 else unavailable(failure.reason or "") from None
            except aiohttp.ClientError:
                raise ApiError("model_runner_error", "The model server's answer is not valid HTTP.") from None
            else:
                self._failures, self._ejected_until = 0, 0.0
                if answer.status == 401:
                    self._key_until = 0.0  # the key may have been rotated
                return answer
        raise AssertionError  # pragma: no cover

    def _authorization(self) -> str:
        now = time.monotonic()
        if now >= self._key_until:
            try:
                self._key = f"Bearer {self.spec.api_key.read()}"
            except SecretError as error:
                log.error("a model server's key cannot be read", extra={"runner": self.spec.name, "reason": str(error)})  # noqa: TRY400
                raise NotReachedError("its key is missing") from None
            self._key_until = now + _KEY_EVERY
        return self._key

    def _eject(self, reason: str) -> NotReachedError:
        """No new work for a while, longer each time, unless nobody else can do it."""
        pause = min(_LAST_EJECTION, _FIRST_EJECTION * 2 ** min(self._failures, 10))
        self._failures += 1
        self._ejected_until = time.monotonic() + pause
        self.look.set()
        return NotReachedError(reason)

    async def read(self, response: aiohttp.ClientResponse, limit: int = _MAX_ANSWER) -> bytes:
        """The whole body, bounded; the caller holds the time limit."""
        pieces, size = [], 0
        try:
            async for piece in response.content.iter_any():
                pieces.append(piece)
                size += len(piece)
                if size > limit:
                    raise ApiError("model_runner_error", "The model server's answer is too large.")
        except (aiohttp.ClientError, OSError):
            self.look.set()
            raise ApiError("model_runner_error", "The model server broke off inside its answer.") from None
        return b"".join(pieces)

    # Its errors

    async def refusal(self, response: aiohttp.ClientResponse) -> ApiError:
        """Turn an error of the model server into ours."""
        try:
            async with asyncio.timeout(5):
                raw = await self.read(response, _MAX_ERROR)
        except (ApiError, TimeoutError):
            raw = b""
        finally:
            response.close()
        message, kind = _error_fields(raw)
        return self.map_error(response.status, message, kind)

    def map_error(self, status: int, message: str, kind: str) -> ApiError:
        text = self.clean(message)
        if status == 503:
            self.look.set()
            return unavailable("it is loading the model" if "loading" in message.lower() else "it is busy")
        if status == 429:
            return unavailable("it is busy")
        if status == 501:
            return ApiError("unsupported_by_model", text or "The model server does not support this request.")
        if status in (401, 403) or 300 <= status < 400:
            log.error("a model server refuses the gateway", extra={"runner": self.spec.name, "upstream_status": status})
            return ApiError("model_runner_error", "The model server does not accept the gateway's requests.")
        if 400 <= status < 500:
            if kind == "exceed_context_size_error" or "context size" in message or "context length" in message:
                return ApiError("context_length_exceeded", text, param="messages")
            return ApiError("model_rejected_request", text or "The model server rejected the request.")
        log.error("a model server failed", extra={"runner": self.spec.name, "upstream_status": status})
        return ApiError("model_runner_error", text or "The model server failed.")

    def clean(self, message: str) -> str:
        """A message of the model server without addresses and names of the inside, and short."""
        text = self._own_names.sub("the model server", _ADDRESS.sub("[address]", message[:4000]))
        text = "".join(char if char.isprintable() else " " for char in text).strip()
        return text if len(text) <= 400 else text[:397] + "..."

    async def lacks_endpoint(self, path: str) -> bool:
        """Ask with an empty object, which no client chose: a server that has the endpoint complains about the body."""
        now = time.monotonic()
        if now < self._has.get(path, 0.0):
            return False
        try:
            async with asyncio.timeout(5):
                response = await self.request("POST", path, b"{}", "probe")
                response.close()
        except (ApiError, TimeoutError):
            return False
        if response.status not in (404, 405, 501):
            self._has[path] = now + _HAS_FOR
            return False
        self._lacks[path] = now + _LACKS_FOR
        log.info("a model server lacks an endpoint", extra={"runner": self.spec.name, "path": path})
        return True

    # Models

    def refresh(self) -> asyncio.Task[None]:
        """Ask for its list; all who wait share one question."""
        if self._listing is None or self._listing.done():
            self._listing = asyncio.create_task(self._list())
            # The one who waits gets the error; when nobody waits it must not be reported as lost.
            self._listing.add_done_callback(lambda task: task.cancelled() or task.exception())
        return self._listing

    async def _list(self) -> None:
        if self.spec.models:
            return
        try:
            async with asyncio.timeout(5):
                response = await self.request("GET", "/v1/models", None, "models")
                if response.status != 200:
                    raise await self.refusal(response)
                try:
                    answer = json.loads(await self.read(response, _MAX_LIST))
                    found = [_model(entry) for entry in answer["data"][:_MAX_MODELS]]
                except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                    raise ApiError("model_runner_error", "The model server's list of models is not readable.") from None
                finally:
                    response.release()
        except TimeoutError:
            raise ApiError("model_runner_timeout", "The model server does not list its models in time.") from None
        self.models = found
        self.listed_at = time.monotonic()

    # Health

    async def check(self) -> None:
        """Ask how it is, and for its models when the list is old; raises ApiError when it cannot be used."""
        try:
            async with asyncio.timeout(2):
                response = await self.request("GET", self._health_path, None, "health")
                if response.status in (404, 405) and self._health_path == "/health":
                    response.close()
                    self._health_path = "/v1/models"  # not every server has an endpoint for this
                    response = await self.request("GET", self._health_path, None, "health")
                if response.status != 200:
                    raise await self.refusal(response)
                await self.read(response, _MAX_LIST)
                response.release()
            if time.monotonic() - self.listed_at > self._settings.model_list_seconds:
                await asyncio.shield(self.refresh())
        except TimeoutError:
            self._silent += 1
            self.reason = "it does not answer in time"
            raise unavailable(self.reason) from None
        except ApiError as error:
            self._silent = self._silent + 1 if error.code == "model_runner_timeout" else 0
            self.reason = error.reason or "it fails"
            raise
        self._silent, self._failures, self._ejected_until = 0, 0, 0.0
        self.reason = None


def _model(entry: dict[str, Any]) -> dict[str, Any]:
    created = entry.get("created")
    return {
        "id": str(entry["id"])[:256],
        "object": "model",
        "created": created if isinstance(created, int) else 0,
        "owned_by": str(entry.get("owned_by") or "mcpstack")[:256],
    }


def _error_fields(raw: bytes) -> tuple[str, str]:
    try:
        answer = json.loads(raw)
        error = answer.get("error", answer)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return "", ""
    if isinstance(error, dict):
        return str(error.get("message") or ""), str(error.get("type") or "")
    return str(error), ""


def _no_connection(error: aiohttp.ClientConnectorError) -> str:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name is not known"
    return "it refuses connections" if isinstance(error.os_error, ConnectionRefusedError) else "no connection"
