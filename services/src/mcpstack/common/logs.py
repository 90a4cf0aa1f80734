# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""JSON log lines on stderr, with every secret this process has read, and everything shaped like a key, masked."""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

MASK = "[redacted]"

_SHAPES = re.compile(
    r"mk_[a-z]{2,8}_[A-Za-z0-9_]{6,}|(?i:bearer)\s+[A-Za-z0-9._~+/=-]{6,}|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)", re.ASCII
)
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
_ENCODER = json.JSONEncoder(default=str, ensure_ascii=False)
_hidden: set[str] = set()


def hide(value: str) -> None:
    """Never let this value appear in a log line of this process."""
    if len(value) >= 8:
        _hidden.add(value)


def redact(text: str) -> str:
    for value in _hidden:
        if value in text:
            text = text.replace(value, MASK)
    # Most lines have nothing of the kind, and looking for these words costs a tenth of looking for the shapes.
    if "mk_" in text or "://" in text or "bearer" in text.lower():
        return _SHAPES.sub(MASK, text)
    return text


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        line.update({key: value for key, value in vars(record).items() if key not in _PLAIN and value is not None})
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = _trace(record.exc_info[1])[-4000:]
        return redact(_ENCODER.encode(line))


def _trace(error: BaseException | None) -> str:
    """Where it happened and what kind of error it was. Not its message, which may quote what a client sent."""
    parts: list[str] = []
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        kind = f"{type(error).__module__}.{type(error).__qualname__}"
        code = getattr(error, "sqlstate", None) or (error.strerror if isinstance(error, OSError) else None)
        parts.append("".join(traceback.format_tb(error.__traceback__)) + kind + (f" ({code})" if code else ""))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\nwhile handling:\n".join(parts)


def configure(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Nothing of this is in a line, and finding it out costs as much as writing one.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root.setLevel(level.upper())
    # Libraries speak only when something is wrong; the pool repeats what the dependency monitor already says.
    for library in ("asyncio", "aiohttp", "uvicorn", "valkey"):
        logging.getLogger(library).setLevel(max(logging.WARNING, root.level))
    logging.getLogger("psycopg").setLevel(max(logging.ERROR, root.level))
