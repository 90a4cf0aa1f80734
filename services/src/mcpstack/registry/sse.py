# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Server-sent events, parsed as they arrive. The work is linear however small the pieces are; the caller bounds it."""

from __future__ import annotations

from typing import NamedTuple


class Event(NamedTuple):
    data: bytes
    id: str | None
    retry: int | None


class Events:
    def __init__(self) -> None:
        self._buffer = bytearray()
        self._begun = False
        self._data: list[bytes] = []
        self._kind = b""
        self._id: str | None = None
        self._retry: int | None = None

    def feed(self, piece: bytes) -> list[Event]:
        """The events that are complete with this piece."""
        start = max(len(self._buffer) - 1, 0)
        self._buffer += piece
        if not self._begun and len(self._buffer) >= 3:
            self._begun = True
            if self._buffer.startswith(b"\xef\xbb\xbf"):
                del self._buffer[:3]
                start = 0
        # A carriage return at the very end may be half of a line's end: it waits for the next piece.
        last = len(self._buffer) - (1 if self._buffer.endswith(b"\r") else 0)
        end = max(self._buffer.rfind(b"\n", start, last), self._buffer.rfind(b"\r", start, last)) + 1
        if end == 0:
            return []
        lines = bytes(self._buffer[:end]).splitlines()
        del self._buffer[:end]
        found = (self._line(line) for line in lines)
        return [event for event in found if event is not None]

    def _line(self, line: bytes) -> Event | None:
        if not line:
            return self._dispatch()
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
        elif field == b"event":
            self._kind = value
        elif field == b"id" and b"\0" not in value:
            self._id = value.decode("ascii", "replace")
        elif field == b"retry" and value.isdigit() and len(value) < 10:
            self._retry = int(value)
        return None

    def _dispatch(self) -> Event | None:
        data, kind = b"\n".join(self._data), self._kind
        had_data = bool(self._data)
        self._data, self._kind = [], b""
        if kind not in (b"", b"message") or not (had_data or self._id):
            return None
        return Event(data, self._id, self._retry)
