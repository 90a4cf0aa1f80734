# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads tar archives of strangers as a stream, in bounded memory. PRIVATE: may change in any release.

The standard library reads the extended headers of an archive whole, however large they claim to be. Here every header
has a limit, nothing is ever written, and all readers of one image share a ``Budget`` for what they may unpack.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

BLOCK = 512
CHUNK = 1 << 18
#: Longest extended header, and longest name, that is taken for real.
HEADER_LIMIT = 1 << 20
NAME_LIMIT = 4096
#: From this size on, data that unpacks to more than so many times its packed size is a bomb.
RATIO_FROM, RATIO = 256 << 20, 200


class TarError(Exception):
    """The archive is damaged, or made to do harm."""


@dataclass
class Budget:
    """What may be unpacked altogether."""

    size: int = 32 << 30
    entries: int = 2_000_000

    def unpack(self, size: int) -> None:
        """Account for unpacked bytes."""
        self.size -= size
        if self.size < 0:
            raise TarError("unpacks to more than the limit")

    def entry(self) -> None:
        """Account for a file."""
        self.entries -= 1
        if self.entries < 0:
            raise TarError("holds more files than the limit")


@dataclass
class Member:
    """One entry. ``kind`` is file, hardlink, symlink, directory or other; ``capable``: it has file capabilities."""

    name: str
    kind: str
    mode: int
    uid: int
    gid: int
    size: int
    link: str = ""
    capable: bool = False


_KINDS = {b"0": "file", b"\0": "file", b"7": "file", b"S": "file", b"1": "hardlink", b"2": "symlink", b"5": "directory"}


def _number(field: bytes, what: str) -> int:
    """An octal number, or one in base 256 as GNU tar writes large ones."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ~(0x80 << 8 * (len(field) - 1))
        if field[0] == 0xFF or value >= 1 << 50:
            raise TarError(f"a header holds no {what}")
        return value
    text = field.split(b"\0", 1)[0].strip()
    try:
        return int(text or b"0", 8)
    except ValueError as error:
        raise TarError(f"a header holds no {what}") from error


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "replace")


def is_header(block: bytes) -> bool:
    """Whether a block is the head of a tar entry: its checksum says so."""
    if len(block) < BLOCK or not any(block):
        return False
    field = block[148:156].split(b"\0", 1)[0].strip()
    try:
        stated = int(field or b"-1", 8)
    except ValueError:
        return False
    body = block[:148] + b" " * 8 + block[156:BLOCK]
    return stated in (sum(body), sum(byte - 256 if byte > 127 else byte for byte in body))


def _records(data: bytes) -> dict[str, bytes]:
    """The records of an extended header: "LENGTH KEY=VALUE\\n"."""
    found: dict[str, bytes] = {}
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 10)
        if space < 0 or not data[at:space].isdigit():
            break
        length = int(data[at:space])
        record = data[space + 1 : at + length]
        key, equals, value = record.partition(b"=")
        if length < space - at + 3 or not equals or not value.endswith(b"\n"):
            raise TarError("an extended header is damaged")
        found[key.decode("utf-8", "replace")] = value[:-1]
        at += length
    return found


class TarStream:
    """The entries of an archive in order; between two the content of the first may be read."""

    def __init__(self, read: Callable[[int], bytes], budget: Budget):
        self._read, self._budget = read, budget
        self._left = self._padding = 0

    def _exactly(self, size: int) -> bytes:
        parts = []
        while size:
            data = self._read(min(size, CHUNK))
            if not data:
                raise TarError("ends in the middle of a file")
            parts.append(data)
            size -= len(data)
        return b"".join(parts)

    def chunks(self, at_most: int = CHUNK) -> Iterator[bytes]:
        """What is left of the content of the present entry."""
        while self._left:
            data = self._read(min(self._left, at_most))
            if not data:
                raise TarError("ends in the middle of a file")
            self._left -= len(data)
            yield data

    def content(self, limit: int) -> bytes:
        """The beginning of the content, at most so much of it."""
        data = self._exactly(min(self._left, limit))
        self._left -= len(data)
        return data

    def read(self, size: int) -> bytes:
        """Some of the content, as a file would give it."""
        data = self._read(min(size, self._left, CHUNK)) if self._left else b""
        if self._left and not data:
            raise TarError("ends in the middle of a file")
        self._left -= len(data)
        return data

    def _skip(self) -> None:
        for _chunk in self.chunks():
            pass
        self._exactly(self._padding)
        self._padding = 0

    def _begin(self, size: int) -> None:
        self._left, self._padding = size, -size % BLOCK

    def __iter__(self) -> Iterator[Member]:
        extended: dict[str, bytes] = {}
        name = link = ""
        while True:
            self._skip()
            block = self._read(BLOCK)
            if block and len(block) < BLOCK:
                block += self._exactly(BLOCK - len(block))
            if not block or not any(block):  # the end of the stream, or the mark of the end
                return
            if not is_header(block):
                raise TarError("is no tar archive, or a header in it is damaged")
            self._budget.entry()
            kind = block[156:157]
            size = _number(block[124:136], "size")
            if kind in (b"x", b"g", b"L", b"K"):
                if size > HEADER_LIMIT:
                    raise TarError("an extended header is larger than the limit")
                self._begin(size)
                data = self.content(size)
                if kind == b"x":
                    extended = _records(data)
                elif kind == b"L":
                    name = _text(data)
                elif kind == b"K":
                    link = _text(data)
                continue
            member = self._member(block, kind, size, extended, name, link)
            if kind == b"S":
                more = block[482]
                while more:
                    more = self._exactly(BLOCK)[504]
                    self._budget.entry()
            extended, name, link = {}, "", ""
            yield member

    def _member(self, block: bytes, kind: bytes, size: int, extended: dict, name: str, link: str) -> Member:
        if not name:
            name = _text(block[:100])
            prefix = _text(block[345:500]) if block[257:263] == b"ustar\0" else ""
            name = f"{prefix}/{name}" if prefix else name
        if "path" in extended:
            name = extended["path"].decode("utf-8", "replace")
        if "GNU.sparse.name" in extended:
            name = extended["GNU.sparse.name"].decode("utf-8", "replace")
        link = link or _text(block[157:257])
        if "linkpath" in extended:
            link = extended["linkpath"].decode("utf-8", "replace")
        if len(name) > NAME_LIMIT or len(link) > NAME_LIMIT:
            raise TarError("a name is longer than the limit")
        numbers = {"uid": _number(block[108:116], "owner"), "gid": _number(block[116:124], "group"), "size": size}
        for key in numbers:
            if key in extended:
                text = extended[key]
                if not text.isdigit() or len(text) > 15:
                    raise TarError(f"an extended header holds no {key}")
                numbers[key] = int(text)
        what = _KINDS.get(kind, "other")
        if what == "file" and name.endswith("/"):
            what = "directory"
        # of links and directories nothing follows, whatever size they claim
        self._begin(numbers["size"] if what in ("file", "other") and kind not in (b"3", b"4", b"6") else 0)
        return Member(
            name, what, _number(block[100:108], "mode") & 0o7777, numbers["uid"], numbers["gid"], self._left, link,
            "SCHILY.xattr.security.capability" in extended,
        )  # fmt: skip


class Inflated:
    """A gzip stream, unpacked as it is read, one part after the other where it has several."""

    def __init__(self, read: Callable[[int], bytes], budget: Budget):
        self._source, self._budget = read, budget
        self._inflate = zlib.decompressobj(31)
        self._packed = b""
        self._in = self._out = 0
        self._begun = False

    def read(self, size: int) -> bytes:
        """Some unpacked bytes; none at the end."""
        while True:
            if self._inflate.eof:
                self._packed = self._inflate.unused_data or self._source(CHUNK)
                if not self._packed.startswith(b"\x1f"):  # nothing, or padding
                    return b""
                self._inflate = zlib.decompressobj(31)
            if not self._packed:
                self._packed = self._source(CHUNK)
                self._in += len(self._packed)
                if not self._packed:
                    if self._begun:
                        raise TarError("ends in the middle of a compressed layer")
                    return b""
            self._begun = True
            try:
                data = self._inflate.decompress(self._packed, min(size, CHUNK))
            except zlib.error as error:
                raise TarError("a compressed layer is damaged") from error
            self._packed = self._inflate.unconsumed_tail
            if data:
                self._out += len(data)
                self._budget.unpack(len(data))
                if self._out > RATIO_FROM and self._out > RATIO * max(self._in, 1):
                    raise TarError("a compressed layer unpacks to many times its size")
                return data
