# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads an nginx configuration into a tree, with the lexical rules of nginx itself and with everything that is included.

PRIVATE: internal to the collection, may change in any release. Standard library only.

Nothing is executed and nothing is guessed: what nginx would refuse to read is a ``Problem`` with file and line, and what
cannot be seen from here (an included file that was not handed over, code in Lua) is a ``Gap``. Messages never quote more
of a file than the name of a directive, because an include may lead to any file.
"""

from __future__ import annotations

import fnmatch
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import Files, Unreadable

#: Bounds. nginx has none, but no configuration that people write comes near them.
MAX_NESTING = 100
MAX_INCLUDES = 32
MAX_FILES = 2000
MAX_BYTES = 8 << 20
MAX_DIRECTIVES = 200_000
MAX_WORDS = 100_000
#: nginx reads through a buffer of this size; a longer word makes it refuse the file.
MAX_WORD = 4096

#: Blocks that hold data: what stands first in a line is a key and no directive.
DATA_BLOCKS = frozenset({"map", "geo", "types", "split_clients", "charset_map"})

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+)
      | (?P<comment>\#[^\n]*)
      | (?P<mark>[;{}])
      | (?P<quoted>"[^"\\]*(?:\\.[^"\\]*){0,4200}"|'[^'\\]*(?:\\.[^'\\]*){0,4200}')
      | (?P<open>["'])
      | (?P<word>(?:[^ \t\r\n;{\\$]+|\$\{|\$|\\.){1,4200})
      | (?P<stray>.)""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\([\"'\\trn])")
_ESCAPED = {"t": "\t", "r": "\r", "n": "\n"}
_NAME = re.compile(r"[A-Za-z0-9_]{1,60}\Z")
_LUA = re.compile(
    r"""--\[(?P<c>=*)\[.*?\](?P=c)\]|--[^\n]*|\[(?P<s>=*)\[.*?\](?P=s)\]|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|[{}]""",
    re.DOTALL,
)


class Directive:
    """One directive, or one line of a data block. ``block`` is None for a directive that ends with a semicolon."""

    __slots__ = ("name", "args", "file", "line", "parent", "block", "quoted", "cache")

    def __init__(self, name: str, args: tuple[str, ...], file: str, line: int, parent: Directive | None, quoted=False):
        self.name, self.args, self.file, self.line, self.parent = name, args, file, line, parent
        self.block: list[Directive] | None = None
        self.quoted = quoted
        self.cache: dict | None = None

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"

    def find(self, name: str) -> list[Directive]:
        """The directives of this name that stand in this block itself."""
        if self.cache is None:
            self.cache = {}
            for child in self.block or ():
                self.cache.setdefault(child.name, []).append(child)
        return self.cache.get(name, [])

    def one(self, name: str) -> Directive | None:
        """The last of them: nginx refuses most that stand twice."""
        found = self.find(name)
        return found[-1] if found else None

    def walk(self) -> Iterator[Directive]:
        """Every directive below, in the order of the file, without recursion."""
        stack = [iter(self.block or ())]
        while stack:
            for child in stack[-1]:
                yield child
                if child.block and child.name not in DATA_BLOCKS:
                    stack.append(iter(child.block))
                break
            else:
                stack.pop()

    def chain(self) -> Iterator[Directive]:
        """This block and the ones around it, from the inside out."""
        level: Directive | None = self
        while level is not None:
            yield level
            level = level.parent

    def __repr__(self) -> str:
        return f"<{self.name} {' '.join(self.args)} {self.where}>"


@dataclass(frozen=True)
class Problem:
    """What nginx would refuse, and where. ``fatal``: the rest could not be read."""

    where: str
    what: str
    fatal: bool = False


@dataclass(frozen=True)
class Gap:
    """What could not be seen. ``lua``: the name of a directive with code, else an include."""

    where: str
    what: str
    lua: bool = False


@dataclass
class Tree:
    """A whole configuration. ``files`` are the paths that were read, in the order of reading."""

    root: Directive
    path: str
    prefix: str
    files: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether the tree holds all that nginx would read."""
        return not any(problem.fatal for problem in self.problems) and not any(not gap.lua for gap in self.gaps)


class _Broken(Exception):
    """The file cannot be read any further."""

    def __init__(self, file: str, line: int, what: str):
        super().__init__(what)
        self.problem = Problem(f"{file}:{line}", what, True)


def unescape(text: str) -> str:
    """A word as nginx stores it: a few escapes are resolved, every other backslash stays for the pattern it is in."""
    return _ESCAPE.sub(lambda match: _ESCAPED.get(match[1], match[1]), text) if "\\" in text else text


def safe_name(name: str) -> str:
    """The name of a directive for a message, and no more than that."""
    return f'"{name}"' if _NAME.match(name) else "a word that cannot be a directive"


def _lua_end(text: str, start: int) -> int:
    """Position after the brace that closes the code, or -1."""
    depth = 1
    for match in _LUA.finditer(text, start):
        found = match[0]
        if found == "{":
            depth += 1
        elif found == "}":
            depth -= 1
            if not depth:
                return match.end()
    return -1


class _Parser:
    def __init__(self, files: Files, path: str, prefix: str, mounts: Mapping[str, str]):
        self.files = files
        self.mounts = sorted(
            ((posixpath.normpath(seen), posixpath.normpath(lies)) for seen, lies in mounts.items()),
            key=lambda pair: -len(pair[0]),
        )
        root = Directive("main", (), path, 0, None)
        root.block = []
        self.tree = Tree(root, path, prefix)
        self.bytes = self.count = 0
        self.open: list[str] = []

    def real(self, path: str) -> str:
        return translate(path, self.mounts)

    def load(self, path: str, into: Directive, depth: int, at: tuple[str, int] | None) -> None:
        """Read one file into a block. at: the include that leads here, for messages."""
        file, line = at or (path, 0)
        if path in self.open:
            raise _Broken(file, line, "include leads back to a file that is being read")
        if len(self.open) >= MAX_INCLUDES:
            raise _Broken(file, line, f"includes are nested more than {MAX_INCLUDES} deep")
        if len(self.tree.files) >= MAX_FILES:
            raise _Broken(file, line, f"includes more than {MAX_FILES} files")
        try:
            raw = self.files.read(path)
        except Unreadable as error:
            if at is None:
                raise
            if self.files.knows(path):
                what = error.what if self.files.stat(path) is not None else "does not exist"
                self.tree.problems.append(Problem(f"{file}:{line}", f"include: {path} {what}"))
            else:
                self.tree.gaps.append(Gap(f"{file}:{line}", f"include: {path} was not handed over"))
            return
        self.bytes += len(raw)
        if self.bytes > MAX_BYTES:
            raise _Broken(file, line, f"the configuration is larger than {MAX_BYTES} bytes")
        text = raw.decode("utf-8", "surrogateescape")
        if "\0" in text:
            raise _Broken(path, text.count("\n", 0, text.index("\0")) + 1, "holds a NUL byte")
        if path not in self.tree.files:
            self.tree.files.append(path)
        self.open.append(path)
        self.parse(text, path, into, depth)
        self.open.pop()

    def parse(self, text: str, file: str, into: Directive, depth: int) -> None:
        block, base = into, depth
        position, line, end = 0, 1, len(text)
        if text.startswith("\ufeff"):
            self.tree.problems.append(
                Problem(f"{file}:1", "begins with a byte order mark, which nginx takes for a directive")
            )
            position = 1
        words: list[str] = []
        first, quoted, spaced = 0, False, True
        match_at = _TOKEN.match
        while position < end:
            match = match_at(text, position)
            kind = match.lastgroup
            start, position = position, match.end()
            if kind == "space":
                line += text.count("\n", start, position)
                spaced = True
                continue
            if kind == "comment":
                if not spaced:
                    raise _Broken(file, line, "a word follows a closing quote without a space")
                continue
            if kind == "mark":
                mark = text[start]
                spaced = True
                if mark == ";":
                    if not words:
                        raise _Broken(file, line, 'unexpected ";"')
                    self.add(Directive(words[0], tuple(words[1:]), file, first, block, quoted), block, depth)
                    words, quoted = [], False
                elif mark == "{":
                    if not words or block.name in DATA_BLOCKS:
                        raise _Broken(file, line, 'unexpected "{"')
                    directive = Directive(words[0], tuple(words[1:]), file, first, block, quoted)
                    directive.block = []
                    self.count += 1
                    block.block.append(directive)
                    words, quoted = [], False
                    if directive.name.endswith("_by_lua_block"):
                        closed = _lua_end(text, position)
                        if closed < 0:
                            raise _Broken(file, first, f"{safe_name(directive.name)} is not closed")
                        self.tree.gaps.append(Gap(directive.where, directive.name, True))
                        line += text.count("\n", position, closed)
                        position = closed
                        continue
                    block, depth = directive, depth + 1
                    if depth > MAX_NESTING:
                        raise _Broken(file, line, f"blocks are nested more than {MAX_NESTING} deep")
                else:
                    if words or block is into and depth == base:
                        raise _Broken(file, line, 'unexpected "}"')
                    block, depth = block.parent, depth - 1
                continue
            if kind == "open":
                raise _Broken(file, line, f"a quote is not closed, or holds more than {MAX_WORD} bytes")
            if kind == "stray":
                raise _Broken(file, line, "ends with a backslash")
            if not spaced:
                raise _Broken(file, line, "a word follows a closing quote without a space")
            if position - start > MAX_WORD:
                raise _Broken(file, line, f"a word is longer than {MAX_WORD} bytes")
            word = text[start:position]
            if not words:
                first = line
            elif len(words) > MAX_WORDS:
                raise _Broken(file, line, f"a directive has more than {MAX_WORDS} words")
            if kind == "quoted":
                line += word.count("\n")
                word = word[1:-1]
                quoted = True
                # After a quote nginx wants a space, a semicolon, a brace or a closing parenthesis, which begins a word.
                spaced = text[position : position + 1] == ")"
            elif "\\\n" in word:
                line += word.count("\n")
            words.append(unescape(word))
        if words:
            raise _Broken(file, line, 'unexpected end of file, expecting ";" or "{"')
        if block is not into:
            raise _Broken(file, block.line, f"{safe_name(block.name)} is not closed")

    def add(self, directive: Directive, block: Directive, depth: int) -> None:
        self.count += 1
        if self.count > MAX_DIRECTIVES:
            raise _Broken(directive.file, directive.line, f"more than {MAX_DIRECTIVES} directives")
        if directive.name != "include":
            block.block.append(directive)
            return
        if len(directive.args) != 1:
            self.tree.problems.append(Problem(directive.where, "include takes one argument"))
            return
        at = (directive.file, directive.line)
        pattern = posixpath.normpath(posixpath.join(self.tree.prefix, directive.args[0]))
        path = self.real(pattern)
        if not re.search(r"[*?\[]", path):
            self.load(path, block, depth, at)
            return
        found, seen = expand(self.files, path)
        if not seen:
            self.tree.gaps.append(Gap(directive.where, f"include: {pattern} was not handed over"))
        for name in found:
            self.load(name, block, depth, at)


def translate(path: str, mounts: list[tuple[str, str]]) -> str:
    """Where a path that nginx sees lies for the one who reads: the longest mount that holds it decides."""
    path = posixpath.normpath(path)
    for seen, lies in mounts:
        if path == seen or path.startswith(seen.rstrip("/") + "/"):
            return (
                posixpath.normpath(lies + path[len(seen.rstrip("/")) :])
                if seen != "/"
                else posixpath.normpath(lies + path)
            )
    return path


def expand(files: Files, pattern: str) -> tuple[list[str], bool]:
    """The files a pattern leads to, sorted as glob(3) does, and whether the answer can be trusted.

    A leading dot is matched by a dot only. The work is bounded by the number of names that are looked at.
    """
    parts = pattern.strip("/").split("/")
    found, known, budget = ["/"], True, 20000
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        if not re.search(r"[*?\[]", part):
            found = [posixpath.join(base, part) for base in found]
            continue
        # [!a] and [^a] mean the same to glob(3); fnmatch knows the first.
        wanted = re.compile(fnmatch.translate(part.replace("[^", "[!")))
        level = []
        for base in found:
            known = known and files.knows(base)
            names = files.names(base)
            budget -= len(names)
            if budget < 0:
                return sorted(level), False
            for name in names:
                if wanted.match(name) and (not name.startswith(".") or part.startswith(".")):
                    path = posixpath.join(base, name)
                    if last or (info := files.stat(path)) is not None and info.kind == "directory":
                        level.append(path)
        found = level
    return sorted(path for path in found if files.stat(path) is not None), known


def parse(files: Files, path: str, *, prefix: str = "", mounts: Mapping[str, str] | None = None) -> Tree:
    """The tree of a configuration. Raises Unreadable when the main file itself cannot be read.

    prefix: directory to which relative paths belong; that of the main file without it.
    mounts: {directory as nginx sees it: directory where it lies}, for a configuration that a container sees elsewhere.
    """
    path = posixpath.normpath(path)
    parser = _Parser(files, path, posixpath.normpath(prefix or posixpath.dirname(path)), mounts or {})
    try:
        parser.load(path, parser.tree.root, 0, None)
    except _Broken as broken:
        parser.tree.problems.append(broken.problem)
    return parser.tree
