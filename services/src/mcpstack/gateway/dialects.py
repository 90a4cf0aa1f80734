# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The three ways of speaking that model servers and clients share: how an error looks, and how a stream ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from mcpstack.common.errors import ApiError

_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class Dialect(NamedTuple):
    body: Callable[[ApiError, str], dict[str, Any]]  # an error as a whole answer
    event: Callable[[ApiError, str, int], bytes]  # an error as the last event of a stream; the number of events before
    ends: tuple[bytes, ...]  # the lines one of which is in the last event of a stream
    token: bytes  # what every event has that carries a piece of the model's words
    asks_for_usage: bool  # a stream tells its usage only when asked to


def _line(payload: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(payload, separators=(",", ":")).encode() + b"\n\n"


def _openai_body(error: ApiError, request_id: str) -> dict[str, Any]:
    return error.body(request_id)


def _openai_event(error: ApiError, request_id: str, _: int) -> bytes:
    return _line(error.body(request_id))


def _responses_event(error: ApiError, request_id: str, number: int) -> bytes:
    detail = error.body(request_id)["error"]
    event = {
        "type": "error",
        "code": error.code,
        "message": error.message,
        "param": error.param,
        "sequence_number": number,
        "error": detail,  # clients raise for it; a stream of typed events alone would just stop
    }
    return b"event: error\n" + _line(event)


def _anthropic_body(error: ApiError, request_id: str) -> dict[str, Any]:
    detail = error.body(request_id)["error"]
    kind = _ANTHROPIC_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    return {"type": "error", "error": {**detail, "type": kind}, "request_id": request_id}


def _anthropic_event(error: ApiError, request_id: str, _: int) -> bytes:
    return b"event: error\n" + _line(_anthropic_body(error, request_id))


OPENAI = Dialect(_openai_body, _openai_event, (b"data: [DONE]", b"data:[DONE]"), b"\n\n", True)
RESPONSES = Dialect(
    _openai_body,
    _responses_event,
    (b"event: response.completed", b"event: response.incomplete", b"event: response.failed"),
    b".delta\n",
    False,
)
ANTHROPIC = Dialect(
    _anthropic_body, _anthropic_event, (b"event: message_stop",), b"event: content_block_delta\n", False
)


def of(path: str) -> Dialect:
    """What a client that asks for this path expects to read."""
    return ANTHROPIC if path.startswith("/v1/messages") else OPENAI
