# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets live in files that are swapped while the process runs, so they are read when they are used.

A path such as /run/secrets/gateway-db/current is a link to the version in force. Reading again costs one stat:
the content is kept until the file behind the link is another one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from mcpstack.common import logs
from mcpstack.common.settings import Problem

T = TypeVar("T")

_LIMIT = 65536


class SecretError(Exception):
    """A secret cannot be read. The problem names the setting and the path, never the content."""

    def __init__(self, where: str, what: str, fix: str) -> None:
        self.problem = Problem(where, what, fix)
        super().__init__(str(self.problem))


class SecretFile(Generic[T]):
    def __init__(self, setting: str, path: Path, parse: Callable[[str], T]) -> None:
        self.setting = setting
        self.path = path
        self._parse = parse
        self._seen: tuple[int, int, int, int] | None = None
        self._value: T | None = None

    def read(self) -> T:
        try:
            stat = os.stat(self.path)
            seen = (stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if seen == self._seen and self._value is not None:
                return self._value
            with self.path.open("rb") as handle:
                raw = handle.read(_LIMIT)
        except OSError as error:
            raise SecretError(
                self.setting,
                f"{self.path} cannot be read ({error.strerror}).",
                "Mount the secret there, readable by the user this service runs as.",
            ) from None
        try:
            value = self._parse(raw.decode("ascii", "strict").removesuffix("\n"))
        except UnicodeDecodeError:
            raise SecretError(self.setting, f"{self.path} is not plain text.", "Write the secret again.") from None
        except ValueError as error:
            raise SecretError(
                self.setting, f"{self.path} does not hold what belongs there.", f"Write {error}."
            ) from None
        self._seen, self._value = seen, value
        return value


class Login(NamedTuple):
    user: str
    password: str


class Peppers(NamedTuple):
    """Peppers by version; the first line of the file is the one new keys are stored with."""

    current: int
    by_version: dict[int, bytes]


def password(raw: str) -> str:
    if not re.fullmatch(r"[\x21-\x7e]{16,4096}", raw):
        raise ValueError("one line of at least 16 printable characters without spaces")
    logs.hide(raw)
    return raw


def model_key(raw: str) -> str:
    """The model server reads a file of keys, one a line, # for comments; the first one is ours."""
    lines = [line.strip() for line in raw.splitlines() if line.strip() and not line.startswith("#")]
    return password(lines[0] if lines else "")


def login(raw: str) -> Login:
    user, colon, secret = raw.partition(":")
    if not colon or not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", user):
        raise ValueError("one line, user:password")
    return Login(user, password(secret))


def peppers(raw: str) -> Peppers:
    found: dict[int, bytes] = {}
    for line in raw.splitlines():
        match = re.fullmatch(r"([1-9][0-9]{0,8}):([0-9a-f]{64})", line)
        if match is None or int(match[1]) in found:
            raise ValueError("lines of version:64 hexadecimal digits, each version once, the current one first")
        logs.hide(match[2])
        found[int(match[1])] = bytes.fromhex(match[2])
    if not found:
        raise ValueError("at least one line of version:64 hexadecimal digits")
    return Peppers(next(iter(found)), found)
