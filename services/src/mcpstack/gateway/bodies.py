# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bodies of requests: read within limits, checked strictly, and written again for the model server."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.requests import Request

from mcpstack.common.errors import ApiError

_UNION_MEMBER = re.compile(r"(str|int|list\[.*\]|dict\[.*\]|literal\[.*\]|constrained-\w+|part-\w+)\Z", re.DOTALL)
_MEMBERS = 1024


async def read(request: Request, limit: int, seconds: float) -> bytes:
    """The whole body, at most `limit` bytes, within `seconds`."""
    media, _, parameters = request.headers.get("content-type", "").partition(";")
    if media.strip().lower() != "application/json" or parameters.strip().lower() not in ("", "charset=utf-8"):
        raise ApiError("unsupported_content_type", "The body must be sent as application/json.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiError("unsupported_content_type", "The body must be sent without Content-Encoding.")
    too_large = ApiError("request_too_large", f"The body is larger than {limit} bytes.")
    length = request.headers.get("content-length", "0")
    if length.isascii() and length.isdigit() and (len(length) > 18 or int(length) > limit):
        raise too_large
    pieces, size = [], 0
    try:
        async with asyncio.timeout(seconds):
            async for piece in request.stream():
                size += len(piece)
                if size > limit:
                    raise too_large
                pieces.append(piece)
    except TimeoutError:
        raise ApiError(
            "request_timeout", f"The body did not arrive within {seconds:g} s.", headers={"Connection": "close"}
        ) from None
    return b"".join(pieces)


def parse(raw: bytes, model: type[BaseModel]) -> dict[str, Any]:
    """Read and check a body. What is returned is what was checked, and what will be sent on."""
    try:
        payload = from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        raise ApiError("invalid_json", f"The body is not valid JSON: {error}.") from None
    if not isinstance(payload, dict):
        raise ApiError("invalid_json", "The body must be a JSON object.")
    _check_members(payload)
    try:
        model.model_validate(payload)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        places = [_param(problem["loc"]) for problem in problems[:20]]
        # Of a value that may be a text or a list, the first problem says that the list is no text: look inside.
        inside = (number for number, place in enumerate(places) if place.startswith(places[0] + "."))
        chosen = next(inside, 0)
        param, first = places[chosen], problems[chosen]
        more = f" ({len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ApiError(
            "invalid_request",
            f"{param}: {first['msg']}{more}.",
            param=param,
            suggestions=tuple(
                f"{place}: {problem['msg']}" for place, problem in zip(places[:5], problems, strict=False)
            ),
        ) from None
    return payload


def _check_members(payload: dict[str, Any]) -> None:
    """The model server keeps an object as a list of pairs: reading one with many members takes minutes."""
    waiting: list[Any] = [payload]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if len(value) > _MEMBERS:
                raise ApiError("invalid_request", f"The body holds an object with more than {_MEMBERS} members.")
            value = value.values()
        waiting.extend(item for item in value if isinstance(item, dict | list))


def encode(payload: dict[str, Any]) -> bytes:
    """The body for the model server. Numbers that JSON cannot carry (1e999) are refused like any other bad JSON."""
    try:
        return json.dumps(payload, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except (ValueError, RecursionError) as error:
        raise ApiError("invalid_json", "The body holds a number that cannot be represented.") from error


def _param(location: tuple[int | str, ...]) -> str:
    """The path of a field, without the names pydantic gives to the members of a union."""
    return ".".join(str(part) for part in location if not _UNION_MEMBER.match(str(part)))[:200]
