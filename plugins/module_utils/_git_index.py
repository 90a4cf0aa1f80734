# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What git tracks and what ignore files leave out, without git. PRIVATE: may change in any release. Standard library only."""

from __future__ import annotations

import fnmatch
import posixpath
import re
import struct
from collections.abc import Iterable
from typing import NamedTuple

from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import Files, Unreadable

#: Largest index that is read: about half a million files.
INDEX_LIMIT = 64 << 20
#: Rules of one ignore file, and characters of one rule, that are looked at.
RULES, RULE_LENGTH = 5000, 400


def work_tree(files: Files, path: str) -> tuple[str | None, str | None]:
    """(root of the work tree that holds ``path``, its git directory). Raises Unreadable when that cannot be told."""
    directory = posixpath.dirname(posixpath.normpath(path))
    while True:
        entry = posixpath.join(directory, ".git")
        if not files.knows(entry):
            raise Unreadable(entry, "is not known", "let the audit see the directories above the file")
        info = files.stat(entry)
        if info and info.kind == "directory":
            return directory, entry
        if info and info.kind == "file":  # a linked work tree or a submodule
            text = files.text(entry, 4096).strip()
            if text.startswith("gitdir:"):
                return directory, posixpath.normpath(posixpath.join(directory, text[7:].strip()))
        if directory in ("/", ""):
            return None, None
        directory = posixpath.dirname(directory)


def tracked(files: Files, git_directory: str) -> list[str]:
    """The paths in the index, relative to the work tree. Raises Unreadable."""
    path = posixpath.join(git_directory, "index")
    if files.stat(path) is None:
        return []  # nothing was ever added
    return parse_index(files.read(path, INDEX_LIMIT), path, _digest_size(files, git_directory))


def _digest_size(files: Files, git_directory: str) -> int:
    common = git_directory
    pointer = posixpath.join(git_directory, "commondir")
    if files.stat(pointer):
        common = posixpath.normpath(posixpath.join(git_directory, files.text(pointer, 4096).strip()))
    config = posixpath.join(common, "config")
    if files.stat(config) is None:
        return 20
    found = re.search(r"(?im)^\s*objectformat\s*=\s*(\w+)", files.text(config))
    return 32 if found and found[1].lower() == "sha256" else 20


def parse_index(data: bytes, path: str = "index", digest: int = 20) -> list[str]:
    """Paths of a git index of version 2, 3 or 4 (gitformat-index). Raises Unreadable."""
    damaged = Unreadable(path, "is not an index that this module can read", "run git status, then try again")
    if len(data) < 12 or data[:4] != b"DIRC":
        raise damaged
    version, count = struct.unpack(">II", data[4:12])
    if version not in (2, 3, 4):
        raise damaged
    fixed = 40 + digest + 2
    names: list[str] = []
    at, before = 12, b""
    for _unused in range(count):
        start = at
        if at + fixed > len(data):
            raise damaged
        flags = struct.unpack(">H", data[at + fixed - 2 : at + fixed])[0]
        at += fixed
        if flags & 0x4000 and version >= 3:
            at += 2
        if version == 4:
            strip, at = _varint(data, at)
            if strip is None or strip > len(before):
                raise damaged
            end = data.find(b"\0", at)
            if end < 0:
                raise damaged
            before = before[: len(before) - strip] + data[at:end]
            if len(before) > 65536:
                raise damaged
            name, at = before, end + 1
        else:
            end = data.find(b"\0", at)
            if end < 0:
                raise damaged
            name = data[at:end]
            at = start + ((end - start) // 8 + 1) * 8
        names.append(name.decode("utf-8", "surrogateescape"))
    # A split index keeps most of its entries in another file.
    while at + 8 <= len(data) - digest:
        kind, size = data[at : at + 4], struct.unpack(">I", data[at + 4 : at + 8])[0]
        if kind == b"link" and any(data[at + 8 : at + 8 + digest]):
            raise Unreadable(path, "is a split index", "run git update-index --no-split-index")
        at += 8 + size
    return names


def _varint(data: bytes, at: int) -> tuple[int | None, int]:
    """git's variable-width number: each further byte also counts the shorter encodings."""
    if at >= len(data):
        return None, at
    byte = data[at]
    at += 1
    value = byte & 127
    while byte & 128:
        if at >= len(data) or value > 1 << 32:
            return None, at
        byte = data[at]
        at += 1
        value = ((value + 1) << 7) | (byte & 127)
    return value, at


class _Rule(NamedTuple):
    """One line of an ignore file."""

    glob: list[str]
    keep: bool
    only_directories: bool


#: Parts of a glob beside single characters and classes, which are written as they are.
_STAR, _ANY, _SKIP, _DIRECTORIES = "*", "**", "*?", "**/"


def _glob(pattern: str) -> list[str]:
    """The parts of a glob of git or of Docker."""
    out, at = [], 0
    while at < len(pattern):
        char = pattern[at]
        if char == "*":
            end = at
            while end < len(pattern) and pattern[end] == "*":
                end += 1
            if end - at > 1 and pattern[end : end + 1] == "/":
                out += [_SKIP, _DIRECTORIES]
                end += 1
            else:
                out.append(_ANY if end - at > 1 else _STAR)
            at = end
        elif char == "[" and (end := pattern.find("]", at + 2)) > 0:
            out.append(pattern[at : end + 1])
            at = end + 1
        elif char == "\\" and at + 1 < len(pattern):
            out.append("\\" + pattern[at + 1])
            at += 2
        else:
            out.append(char)
            at += 1
    return out


def _fits(part: str, char: str) -> bool:
    if part == "?":
        return char != "/"
    if part[0] == "[" and len(part) > 2:
        return fnmatch.fnmatchcase(char, part.replace("[^", "[!", 1)) and char != "/"
    return char == part[-1]


def _match(glob: list[str], path: str) -> bool:
    """Go through the path once with the set of all places in the glob, so that no glob takes long."""

    def closed(states: set[int]) -> set[int]:
        todo = list(states)
        while todo:
            state = todo.pop()
            part = glob[state] if state < len(glob) else ""
            after = {state + 1} if part in (_STAR, _ANY) else {state + 1, state + 2} if part == _SKIP else set()
            todo += after - states
            states |= after
        return states

    states = closed({0})
    for char in path:
        following = set()
        for state in states:
            part = glob[state] if state < len(glob) else _SKIP
            if part == _SKIP:
                continue
            if part == _ANY or (part == _STAR and char != "/"):
                following.add(state)
            elif part == _DIRECTORIES:
                following |= {state, state + 1} if char == "/" else {state}
            elif part != _STAR and _fits(part, char):
                following.add(state + 1)
        if not following:
            return False
        states = closed(following)
    return len(glob) in states


def _rules(text: str, docker: bool) -> list[_Rule]:
    rules = []
    for line in text.splitlines()[:RULES]:
        line = line.strip() if docker else re.sub(r"(?<!\\)[ \t]+$", "", line)
        if not line or line.startswith("#") or len(line) > RULE_LENGTH:
            continue
        keep = line.startswith("!")
        line = line[1:] if keep else line
        only = line.endswith("/") and not docker
        line = line.rstrip("/")
        if not line:
            continue
        if docker:
            glob = _glob(posixpath.normpath(line).lstrip("/"))
        else:
            glob = ([] if "/" in line else [_SKIP, _DIRECTORIES]) + _glob(line.lstrip("/"))
        rules.append(_Rule(glob, keep, only))
    return rules


def _matches(rules: Iterable[_Rule], path: str, directory: bool) -> bool | None:
    answer = None
    for rule in rules:
        if (directory or not rule.only_directories) and _match(rule.glob, path):
            answer = not rule.keep
    return answer


def ignored_by_git(files: Files, root: str, git_directory: str, path: str) -> bool:
    """Whether .gitignore files from ``root`` down, or info/exclude, leave ``path`` out. A personal list is not known."""
    relative = posixpath.relpath(path, root)
    parts = relative.split("/")
    levels: list[tuple[str, list[_Rule]]] = []
    exclude = posixpath.join(git_directory, "info", "exclude")
    if files.stat(exclude):
        levels.append(("", _rules(files.text(exclude), docker=False)))
    for depth in range(len(parts)):
        folder = "/".join(parts[:depth])
        name = posixpath.join(root, folder, ".gitignore")
        if files.stat(name):
            levels.append((folder, _rules(files.text(name), docker=False)))
        # What lies in a directory that is ignored cannot be taken in again.
        current = "/".join(parts[: depth + 1])
        answer = None
        for base, rules in levels:
            below = current[len(base) + 1 :] if base else current
            found = _matches(rules, below, depth < len(parts) - 1)
            answer = found if found is not None else answer
        if answer:
            return True
    return False


def ignored_by_docker(text: str, relative: str) -> bool:
    """Whether a .dockerignore leaves ``relative`` out of the build context. The last line that matches decides."""
    answer = False
    parts = relative.split("/")
    candidates = ["/".join(parts[: depth + 1]) for depth in range(len(parts))]
    for rule in _rules(text, docker=True):
        if any(_match(rule.glob, candidate) for candidate in candidates):
            answer = not rule.keep
    return answer
