# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Request bodies: read within a size and a time, parsed once, checked against a model."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.requests import Request

from mcpstack.common.errors import ApiError

M = TypeVar("M", bound=BaseModel)

_MEMBER = re.compile(r"(str|int|list\[.*\]|dict\[.*\]|literal\[.*\]|constrained-\w+)\Z", re.DOTALL)


async def read(request: Request, limit: int, seconds: float) -> bytes:
    """A JSON body as it came."""
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


def parse(raw: bytes, model: type[M]) -> M:
    try:
        payload = from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        raise ApiError("invalid_json", f"The body is not valid JSON: {error}.") from None
    if not isinstance(payload, dict):
        raise ApiError("invalid_json", "The body must be a JSON object.")
    try:
        return model.model_validate(payload)
    except ValidationError as error:
        raise invalid(error.errors(include_url=False, include_context=False, include_input=False)) from None


def invalid(problems: Sequence[Any]) -> ApiError:
    """What pydantic found, all of it up to five, the first one in full."""
    found = [(param(problem["loc"]), problem["msg"]) for problem in problems]
    name, message = found[0]
    more = f" ({len(found) - 1} more)" if len(found) > 1 else ""
    return ApiError(
        "invalid_request",
        f"{name}: {message}{more}.",
        param=name,
        suggestions=tuple(f"{name}: {message}" for name, message in found[:5]),
    )


def param(location: tuple[int | str, ...]) -> str:
    """The path of a field, without the names pydantic gives to the members of a union."""
    return ".".join(str(part) for part in location if not _MEMBER.match(str(part)))[:200]
