# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What people and models say, in a log line of its own; only where GATEWAY_LOG_CONTENT asks for it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from pydantic_core import from_json

from mcpstack.common import redact
from mcpstack.gateway.settings import Settings

log = logging.getLogger(__name__)

_MOST = 512 * 1024  # bytes of a stream that are kept for it
_PIECES = ("content", "reasoning_content", "refusal", "text", "thinking", "partial_json")


def conversation(settings: Settings, payload: dict[str, Any]) -> Conversation | None:
    """None: nothing of it is kept anywhere."""
    if settings.log_content == "off":
        return None
    return Conversation(redact.strings(payload), full=settings.log_content == "full")


class Conversation:
    """One request and its answer."""

    def __init__(self, prompt: str, *, full: bool) -> None:
        self._prompt = prompt
        self._full = full
        self._answer = b""
        self._events: list[bytes] = []
        self._size = 0

    def answered(self, body: bytes) -> None:
        self._answer = body[:_MOST]

    def streamed(self, events: bytes) -> None:
        if self._size < _MOST:
            self._events.append(events)
            self._size += len(events)

    def write(self, request_id: str, kid: str, model: str) -> None:
        answer = _whole(self._answer) if self._answer else _said(b"".join(self._events))
        log.info(
            "content",
            extra={
                "request_id": request_id,
                "kid": kid,
                "model": model,
                "prompt": redact.logged(self._prompt, full=self._full),
                "answer": redact.logged(answer, full=self._full),
            },
        )


def _whole(body: bytes) -> str:
    try:
        return redact.strings(from_json(body))
    except ValueError:
        return body.decode("utf-8", "replace")


def _said(events: bytes) -> str:
    """The pieces put together, because a secret may come in many: each choice for itself."""
    voices: dict[object, list[str]] = {}
    for data in _datas(events):
        for choice in data.get("choices") or ():
            if isinstance(choice, dict):
                pieces = voices.setdefault(choice.get("index"), [])
                pieces += _pieces(choice.get("delta")), _pieces(choice)
        delta = data.get("delta")
        piece = delta if isinstance(delta, str) else _pieces(delta)
        if piece:
            voices.setdefault(None, []).append(piece)
    return "\n".join(filter(None, ("".join(pieces) for pieces in voices.values())))


def _pieces(part: object) -> str:
    if not isinstance(part, dict):
        return ""
    found = [part[name] for name in _PIECES if isinstance(part.get(name), str)]
    for call in part.get("tool_calls") or ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict) and isinstance(function.get("arguments"), str):
            found.append(function["arguments"])
    return "".join(found)


def _datas(events: bytes) -> Iterator[dict[str, Any]]:
    for line in events.splitlines():
        if line.startswith(b"data:") and line[5:].lstrip().startswith(b"{"):
            try:
                data = from_json(line[5:])
            except ValueError:
                continue
            if isinstance(data, dict):
                yield data
