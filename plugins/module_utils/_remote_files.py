# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of a host for an audit that runs on the controller: what the host hands over, and what is made of it.

PRIVATE: internal to the collection, may change in any release. Standard library only.

``collect`` runs on the host (module ``audit_files``); ``AskingFiles`` on the controller takes its answers and remembers
what else an audit wanted to see, so that a few rounds bring everything that the files refer to.
"""

from __future__ import annotations

import base64
import binascii
import glob
import os
import posixpath
from collections.abc import Callable, Iterable, Mapping

from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import (
    LIMIT,
    LocalFiles,
    MemoryFiles,
    Stat,
    Unreadable,
)

#: Everything that one answer may hold.
MOST_BYTES = 24 << 20
MOST_FILES = 4000
#: Rounds in which an audit may ask for more: a compose file that includes one that includes one …
ROUNDS = 8


class _Bag:
    """What is handed over, until a limit is reached."""

    def __init__(self, most_bytes: int, most_files: int):
        self.entries: dict[str, dict] = {}
        self.bytes = 0
        self.most_bytes, self.most_files = most_bytes, most_files
        self.files = LocalFiles()

    def add(self, path: str, content: bool) -> bool:
        """Take a path that is there; whether it was taken whole."""
        known = self.entries.get(path)
        if known is not None and ("content" in known or not content or known["kind"] != "file"):
            return True
        info = self.files.stat(path)
        if info is None:  # a link that leads nowhere
            info = self.files.stat(path, follow=False)
            if info is None:
                return True
        if known is None and len(self.entries) >= self.most_files:
            return False
        entry: dict = {"kind": info.kind, "mode": info.mode, "uid": info.uid, "gid": info.gid, "size": info.size}
        self.entries[path] = entry
        if not content or info.kind != "file":
            return True
        if self.bytes + info.size > self.most_bytes:
            entry["refused"] = f"more than {self.most_bytes} bytes in all"
            return False
        try:
            data = self.files.read(path, LIMIT)
        except Unreadable as error:
            entry["refused"] = error.what
            return True
        self.bytes += len(data)
        entry["content"] = base64.b64encode(data).decode("ascii")
        return True


def collect(
    paths: Iterable[str],
    stats: Iterable[str] = (),
    roots: Iterable[str] = (),
    most_bytes: int = MOST_BYTES,
    most_files: int = MOST_FILES,
) -> dict:
    """Read files of this host.

    paths: absolute paths or globs; files with content, directories with their names. stats: paths of which only owner,
    mode and kind are wanted. roots: directories that are wanted whole; links in them are not followed into directories.
    Returns ``files`` by path, ``missing`` (asked for and not there) and ``roots`` (those that were taken whole).
    """
    bag = _Bag(most_bytes, most_files)
    missing: set[str] = set()
    whole: list[str] = []
    for pattern in dict.fromkeys(paths):
        pattern = posixpath.normpath(pattern)
        found = [pattern] if os.path.lexists(pattern) else sorted(glob.glob(pattern, recursive=False))
        if not found:
            missing.add(pattern)
        for path in found:
            bag.add(path, content=True)
    for path in dict.fromkeys(stats):
        path = posixpath.normpath(path)
        if os.path.lexists(path):
            bag.add(path, content=False)
        else:
            missing.add(path)
    for root in dict.fromkeys(roots):
        root = posixpath.normpath(root)
        if not os.path.lexists(root):
            missing.add(root)
        elif _walk(bag, root):
            whole.append(root)
    return {"files": bag.entries, "missing": sorted(missing), "roots": whole}


def _walk(bag: _Bag, root: str) -> bool:
    complete = bag.add(root, content=True)
    unreadable: list[OSError] = []
    for directory, directories, names in os.walk(root, onerror=unreadable.append):
        directories.sort()
        for name in sorted(directories + names):
            complete = bag.add(os.path.join(directory, name), content=True) and complete
            if len(bag.entries) >= bag.most_files:
                return False
    return complete and not unreadable


class AskingFiles(MemoryFiles):
    """What a host handed over; paths that an audit asks for beyond it are remembered."""

    def __init__(self, answers: Iterable[Mapping] = ()):
        content: dict[str, bytes] = {}
        stats: dict[str, Stat] = {}
        roots: list[str] = []
        self._refused: dict[str, str] = {}
        for answer in answers:
            for path, entry in answer["files"].items():
                stats[path] = Stat(entry["kind"], entry["mode"], entry["uid"], entry["gid"], entry["size"])
                if "refused" in entry:
                    self._refused[path] = entry["refused"]
                if "content" in entry:
                    try:
                        content[path] = base64.b64decode(entry["content"], validate=True)
                    except (binascii.Error, ValueError):
                        self._refused[path] = "was not handed over whole"
            roots += [*answer["missing"], *answer["roots"]]
        super().__init__(content, stats, tuple(roots))
        self.wanted_content: set[str] = set()
        self.wanted_stats: set[str] = set()

    def knows(self, path: str) -> bool:
        known = super().knows(path)
        if not known:
            self.wanted_stats.add(posixpath.normpath(path))
        return known

    def stat(self, path: str, follow: bool = True) -> Stat | None:
        if not super().knows(path):
            self.wanted_stats.add(posixpath.normpath(path))
        return super().stat(path, follow)

    def read(self, path: str, limit: int = LIMIT) -> bytes:
        path = posixpath.normpath(path)
        if path in self._refused:
            raise Unreadable(path, self._refused[path], "make it a file that can be read, and smaller than the limit")
        info = super().stat(path)
        if path not in self._files and super().knows(path):
            if info is None:
                raise Unreadable(path, "does not exist", "create it, or name the right file")
            if info.kind != "file":
                raise Unreadable(path, "is not a regular file", "name a regular file")
        if path not in self._files:
            self.wanted_content.add(path)
        return super().read(path, limit)


def ask_until_known(audit: Callable[[AskingFiles], dict], fetch: Callable[[dict], dict], paths: Iterable[str]) -> dict:
    """Run ``audit`` over files of a host, fetching what it asks for, until it asks for nothing new.

    fetch: takes the arguments of ``collect`` and returns its answer.
    """
    answers = [fetch({"paths": sorted(set(paths))})]
    seen: set[tuple[str, str]] = set()
    for _round in range(ROUNDS):
        files = AskingFiles(answers)
        result = audit(files)
        fresh = {("content", path) for path in files.wanted_content} | {("stat", path) for path in files.wanted_stats}
        fresh -= seen
        if not fresh:
            return result
        seen |= fresh
        content = sorted(path for kind, path in fresh if kind == "content")
        only_stats = sorted({path for kind, path in fresh if kind == "stat"} - set(content))
        answers.append(fetch({"paths": [glob.escape(path) for path in content], "stats": only_stats}))
    return audit(AskingFiles(answers))
