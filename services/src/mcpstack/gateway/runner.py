# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The model server: one HTTP client, its list of models, and what its errors mean to our clients."""

from __future__ import annotations

import asyncio
import difflib
import json
import logging
import re
import time
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from mcpstack.common.errors import ApiError
from mcpstack.common.secretfile import SecretError
from mcpstack.gateway.settings import Secrets, Settings

log = logging.getLogger(__name__)

_MAX_ANSWER = 64 * 1024 * 1024
_MAX_ERROR = 64 * 1024
# llama.cpp's HTTP server drops an idle connection after 5 s; using one that is just being dropped would fail.
_KEEP_ALIVE = 4.0
_RETRY_WITHIN = 0.25
_ADDRESS = re.compile(r"\w+://\S+|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b", re.ASCII)


class Runner:
    def __init__(self, settings: Settings, secrets: Secrets) -> None:
        self._settings = settings
        self._secrets = secrets
        self._session: aiohttp.ClientSession | None = None
        self._models: list[dict[str, Any]] = []
        self._names: frozenset[str] = frozenset()
        self._listed_at = float("-inf")
        self._listing: asyncio.Task[None] | None = None
        host = urlsplit(settings.model_url).hostname or ""
        self._own_names = re.compile(rf"(?i)\b{re.escape(host)}\b(?::\d+)?")
        self.reason: str | None = "not asked yet"

    async def open(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=10, keepalive_timeout=_KEEP_ALIVE),
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

    async def request(self, method: str, path: str, body: bytes | None, request_id: str) -> aiohttp.ClientResponse:
        """Send one request and return the answer with its body still to come; raises ApiError when there is none."""
        if self._session is None:
            raise self._unavailable("the gateway is starting")
        try:
            headers = {
                "Authorization": f"Bearer {self._secrets.model_api_key.read()}",
                "Accept-Encoding": "identity",
                "X-Request-ID": request_id,
            }
        except SecretError as error:
            log.error("the model server's key cannot be read", extra={"reason": str(error)})  # noqa: TRY400
            raise self._unavailable("its key is missing") from None
        if body is not None:
            headers["Content-Type"] = "application/json"
        url = self._settings.model_url + path
        for attempt in (1, 2):
            started = time.monotonic()
            try:
                return await self._session.request(method, url, data=body, headers=headers, allow_redirects=False)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                if isinstance(error, aiohttp.ClientConnectorError):
                    raise self._unavailable(_no_connection(error)) from None
                # A kept connection that was dropped meanwhile fails at once and without an answer: try a new one.
                if attempt == 2 or time.monotonic() - started > _RETRY_WITHIN:
                    raise ApiError("model_runner_error", "The model server broke off before answering.") from None
            except aiohttp.ConnectionTimeoutError:
                raise self._unavailable("it does not accept a connection in time") from None
            except aiohttp.ClientError:
                raise ApiError("model_runner_error", "The model server's answer is not valid HTTP.") from None
        raise AssertionError  # pragma: no cover

    def _unavailable(self, reason: str) -> ApiError:
        return ApiError("model_runner_unavailable", f"The model server cannot be used: {reason}.", reason=reason)

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
            raise ApiError("model_runner_error", "The model server broke off inside its answer.") from None
        return b"".join(pieces)

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
            reason = "it is loading the model" if "loading" in message.lower() else "it is busy"
            return self._unavailable(reason)
        if status == 429:
            return self._unavailable("it is busy")
        if status == 501:
            return ApiError("unsupported_by_model", text or "The model server does not support this request.")
        if status in (401, 403) or 300 <= status < 400:
            log.error("the model server refuses the gateway", extra={"upstream_status": status})
            return ApiError("model_runner_error", "The model server does not accept the gateway's requests.")
        if 400 <= status < 500:
            if kind == "exceed_context_size_error" or "context size" in message or "context length" in message:
                return ApiError("context_length_exceeded", text, param="messages")
            return ApiError("model_rejected_request", text or "The model server rejected the request.")
        log.error("the model server failed", extra={"upstream_status": status})
        return ApiError("model_runner_error", text or "The model server failed.")

    def clean(self, message: str) -> str:
        """A message of the model server without addresses and names of the inside, and short."""
        text = self._own_names.sub("the model server", _ADDRESS.sub("[address]", message))
        text = "".join(char if char.isprintable() else " " for char in text).strip()
        return text if len(text) <= 400 else text[:397] + "..."

    # Models

    async def models(self) -> list[dict[str, Any]]:
        """The list, at most model_list_seconds old; an older one is used while a new one is fetched."""
        age = time.monotonic() - self._listed_at
        if age > self._settings.model_list_seconds:
            task = self._refresh()
            if not self._models or age > 10 * self._settings.model_list_seconds + 60:
                await asyncio.shield(task)
        return self._models

    async def require_model(self, name: str) -> None:
        await self.models()
        if name in self._names:
            return
        if time.monotonic() - self._listed_at > 1:  # it may be new: look again, at most once a second
            await asyncio.shield(self._refresh())
        if name not in self._names:
            raise self.unknown_model(name)

    def unknown_model(self, name: str) -> ApiError:
        near = difflib.get_close_matches(name[:200], sorted(self._names), n=3, cutoff=0.4)
        suggestions = [f"Did you mean {other!r}?" for other in near]
        shown = name if len(name) <= 100 else name[:97] + "..."
        return ApiError(
            "model_not_found",
            f"The model {shown!r} does not exist here.",
            param="model",
            suggestions=(*suggestions, "GET /v1/models lists the models."),
        )

    def _refresh(self) -> asyncio.Task[None]:
        if self._listing is None or self._listing.done():
            self._listing = asyncio.create_task(self._list())
            # The one who waits gets the error; when nobody waits it must not be reported as lost.
            self._listing.add_done_callback(lambda task: task.cancelled() or task.exception())
        return self._listing

    async def _list(self) -> None:
        try:
            async with asyncio.timeout(5):
                response = await self.request("GET", "/v1/models", None, "models")
                if response.status != 200:
                    raise await self.refusal(response)
                try:
                    answer = json.loads(await self.read(response))
                    found = [_model(entry) for entry in answer["data"]]
                except (ValueError, TypeError, KeyError, RecursionError):
                    raise ApiError("model_runner_error", "The model server's list of models is not readable.") from None
                finally:
                    response.release()
        except TimeoutError:
            raise ApiError("model_runner_timeout", "The model server does not list its models in time.") from None
        self._models = found
        self._names = frozenset(model["id"] for model in found)
        self._listed_at = time.monotonic()

    async def check(self) -> None:
        """Ask its health endpoint; raises ApiError when it cannot be used."""
        try:
            async with asyncio.timeout(2):
                response = await self.request("GET", "/health", None, "health")
                if response.status != 200:
                    raise await self.refusal(response)
                await self.read(response, _MAX_ERROR)
                response.release()
        except TimeoutError:
            self.reason = "it does not answer in time"
            raise self._unavailable(self.reason) from None
        except ApiError as error:
            self.reason = error.reason or "it fails"
            raise
        self.reason = None


def _model(entry: dict[str, Any]) -> dict[str, Any]:
    created = entry.get("created")
    return {
        "id": str(entry["id"]),
        "object": "model",
        "created": created if isinstance(created, int) else 0,
        "owned_by": str(entry.get("owned_by") or "mcpstack"),
    }


def _error_fields(raw: bytes) -> tuple[str, str]:
    try:
        error = json.loads(raw)["error"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return "", ""
    if isinstance(error, dict):
        return str(error.get("message") or ""), str(error.get("type") or "")
    return str(error), ""


def _no_connection(error: aiohttp.ClientConnectorError) -> str:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name is not known"
    return "it refuses connections" if isinstance(error.os_error, ConnectionRefusedError) else "no connection"
