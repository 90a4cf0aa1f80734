# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where an audit reads files from: this machine, or a set of files that somebody else read or rendered.

PRIVATE: internal to the collection, may change in any release. Standard library only.

Every path is absolute. A file that is larger than the limit, not regular, or not text is refused with a sentence.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Mapping
from dataclasses import dataclass

#: Largest file that is read, in bytes.
LIMIT = 4 << 20


class Unreadable(Exception):
    """A file that cannot be read: where, what, and what to do."""

    def __init__(self, where: str, what: str, fix: str):
        super().__init__(f"{where}: {what} ({fix})")
        self.where, self.what, self.fix = where, what, fix


@dataclass(frozen=True)
class Stat:
    """What is known of a path. ``kind`` is file, directory, link or other; ``mode`` holds the permission bits."""

    kind: str
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    size: int = 0


class Files:
    """What an audit may ask of a file system."""

    def knows(self, path: str) -> bool:
        """Whether the answer for this path, also "it is not there", can be trusted."""
        raise NotImplementedError

    def read(self, path: str, limit: int = LIMIT) -> bytes:
        """The content. Raises Unreadable."""
        raise NotImplementedError

    def stat(self, path: str, follow: bool = True) -> Stat | None:
        """None when there is nothing, or when it cannot be reached."""
        raise NotImplementedError

    def names(self, path: str) -> list[str]:
        """Sorted names in a directory; empty when it is none."""
        raise NotImplementedError

    def text(self, path: str, limit: int = LIMIT) -> str:
        """UTF-8 text without its byte order mark. Raises Unreadable; line ends stay as they are."""
        raw = self.read(path, limit)
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise Unreadable(
                path, f"is not UTF-8 text (byte {error.start})", "write the file as UTF-8 without a binary part"
            ) from error
        if "\0" in text:
            raise Unreadable(path, "holds a NUL byte", "write the file as plain text")
        return text


class LocalFiles(Files):
    """This machine. ``root`` makes every path relative to a directory, for tests and for mounted file systems."""

    def __init__(self, root: str = ""):
        self.root = root.rstrip("/")

    def _real(self, path: str) -> str:
        return self.root + path if self.root else path

    def knows(self, path: str) -> bool:
        return True

    def read(self, path: str, limit: int = LIMIT) -> bytes:
        try:
            # Opening a pipe or a device for reading could wait for ever.
            handle = os.open(self._real(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise Unreadable(path, "does not exist", "create it, or name the right file") from error
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise Unreadable(path, f"cannot be opened: {why}", "make it a file that this user may read") from error
        with os.fdopen(handle, "rb") as source:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise Unreadable(path, "is not a regular file", "name a regular file")
            data = source.read(limit + 1)
        if len(data) > limit:
            raise Unreadable(path, f"is larger than {limit} bytes", "split it, or check that it is the right file")
        return data

    def stat(self, path: str, follow: bool = True) -> Stat | None:
        try:
            info = os.stat(self._real(path), follow_symlinks=follow)
        except (OSError, ValueError):
            return None
        kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link"}
        kind = kinds.get(stat.S_IFMT(info.st_mode), "other")
        return Stat(kind, stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, info.st_size)

    def names(self, path: str) -> list[str]:
        try:
            return sorted(os.listdir(self._real(path)))
        except (OSError, ValueError):
            return []


class MemoryFiles(Files):
    """Files that were read elsewhere or rendered: ``{absolute path: content}``.

    stats: what is known beyond content, by path; files without an entry are root's, mode 0644.
    roots: directories that are wholly known, so that what is missing below them is known to be missing. Of any other
        path nothing is known.
    """

    def __init__(self, files: Mapping[str, bytes | str], stats: Mapping[str, Stat] | None = None, roots: tuple = ()):
        self._files = {
            posixpath.normpath(path): data.encode() if isinstance(data, str) else data for path, data in files.items()
        }
        self._stats = {posixpath.normpath(path): info for path, info in (stats or {}).items()}
        self._roots = tuple(posixpath.normpath(root) for root in roots)
        self._names: dict[str, set[str]] = {}
        for path in (*self._files, *self._stats):
            while path not in ("/", ""):
                parent, name = posixpath.split(path)
                self._names.setdefault(parent, set()).add(name)
                path = parent

    def knows(self, path: str) -> bool:
        path = posixpath.normpath(path)
        if path in self._files or path in self._stats:
            return True
        return any(path == root or path.startswith(root.rstrip("/") + "/") for root in self._roots)

    def read(self, path: str, limit: int = LIMIT) -> bytes:
        data = self._files.get(posixpath.normpath(path))
        if data is None:
            raise Unreadable(path, "is not among the files at hand", "hand it over together with the others")
        if len(data) > limit:
            raise Unreadable(path, f"is larger than {limit} bytes", "split it, or check that it is the right file")
        return data

    def stat(self, path: str, follow: bool = True) -> Stat | None:
        path = posixpath.normpath(path)
        if path in self._stats:
            return self._stats[path]
        if path in self._files:
            return Stat("file", size=len(self._files[path]))
        return Stat("directory", 0o755) if path in self._names else None

    def names(self, path: str) -> list[str]:
        return sorted(self._names.get(posixpath.normpath(path), ()))
