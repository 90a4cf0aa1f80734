# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who uses an env file: the names that other files mention, and the programs that read it.

PRIVATE: internal to the collection, may change in any release. Standard library only.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import Files, Unreadable

#: How much is searched: files, bytes of one, bytes of all, depth of directories.
FILES, FILE_SIZE, TOTAL_SIZE, DEPTH = 4000, 1 << 20, 16 << 20, 12

_SKIPPED_DIRECTORIES = frozenset(
    ".git .hg .svn node_modules .venv venv __pycache__ .tox .cache dist site-packages".split()
)
#: Nothing is consumed by being described.
_PROSE = (".md", ".rst", ".adoc", ".txt", ".html", ".svg", ".lock", ".example", ".sample", ".template", ".dist")
_NAMES = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_COMMENT = re.compile(r"^\s*(?:#|//|--\s|;|<!--).*$", re.MULTILINE)


@dataclass
class Usage:
    """What the searched files say.

    names: identifiers outside comments and prose. programs: base name of an env file -> readers that are seen with it.
    whole: base names of env files that are handed to a container as they are. sourced: (path, line, base name) of scripts
    that run an env file. problems: why the search is not complete.
    """

    names: set[str] = field(default_factory=set)
    programs: dict[str, set[str]] = field(default_factory=dict)
    whole: set[str] = field(default_factory=set)
    sourced: list[tuple[str, int, str]] = field(default_factory=list)
    directories: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    searched: int = 0


def _walk(files: Files, paths: Iterable[str], usage: Usage) -> Iterable[str]:
    todo = [(posixpath.normpath(path), 0) for path in sorted(paths, reverse=True)]
    while todo:
        path, depth = todo.pop()
        info = files.stat(path, follow=depth == 0)
        if info is None:
            if depth == 0:
                usage.problems.append(f"{path} does not exist or cannot be reached")
            continue
        if info.kind == "file":
            yield path
        elif info.kind == "directory":
            usage.directories.append(path)
            if depth >= DEPTH:
                usage.problems.append(f"{path} lies too deep")
                continue
            names = files.names(path)
            todo += [
                (posixpath.join(path, name), depth + 1)
                for name in reversed(names)
                if name not in _SKIPPED_DIRECTORIES
            ]  # fmt: skip


def search(files: Files, paths: Iterable[str], env_files: Iterable[str]) -> Usage:
    """Go through files and directories. ``env_files`` themselves consume nothing."""
    usage = Usage()
    own = {posixpath.normpath(path) for path in env_files}
    bases = sorted({posixpath.basename(path) for path in own})
    total = 0
    for path in _walk(files, paths, usage):
        base = posixpath.basename(path)
        if path in own or base == ".env" or base.endswith(".env") or base.startswith(".env."):
            continue
        if path.lower().endswith(_PROSE) or base.upper().startswith(("LICENSE", "CHANGELOG", "README")):
            continue
        if usage.searched >= FILES or total >= TOTAL_SIZE:
            usage.problems.append(f"only the first {usage.searched} files were searched")
            break
        try:
            data = files.read(path, FILE_SIZE)
        except Unreadable as error:
            usage.problems.append(f"{path} {error.what}")
            continue
        if b"\0" in data[:4096]:
            continue
        usage.searched += 1
        total += len(data)
        text = data.decode("utf-8", "replace")
        usage.names.update(_NAMES.findall(_COMMENT.sub("", text)))
        for base in bases:
            if base in text:
                _programs(path, text, base, usage)
    return usage


def _programs(path: str, text: str, base: str, usage: Usage) -> None:
    name = rf"(?:[\w./${{}}~\"'-]*/)?{re.escape(base)}(?=[\s\"',;)\]|&>`]|$)"
    seen = usage.programs.setdefault(base, set())
    if re.search(rf"^[ \t]*EnvironmentFile\s*=\s*-?{name}", text, re.MULTILINE):
        seen.add("systemd")
        usage.whole.add(base)
    for number, line in enumerate(text.splitlines(), 1):
        if base not in line or line.lstrip().startswith(("#", "//")):
            continue
        if re.search(rf"--env-file[=\s]+[\"']?{name}", line):
            before = line.split("--env-file")[0]
            compose = re.search(r"compose\b", before) is not None
            seen.add("compose" if compose else "docker")
            if not compose:
                usage.whole.add(base)
        elif re.search(rf"(?:^|[\s;&|(`\"'])(?:source|\.)\s+[\"']?{name}", line) or re.search(
            rf"(?:\$\(|`|<\()[^)`]*\b(?:cat|grep|sed|awk|xargs|envsubst)\b[^)`]*{name}|xargs[^|]*<\s*{name}", line
        ):
            seen.add("shell")
            usage.sourced.append((path, number, base))
        elif re.search(rf"^\s*-?include\s+{name}", line):
            usage.sourced.append((path, number, base))
    if path.endswith((".yml", ".yaml", ".j2", ".json")):
        for match in re.finditer(r"\benv_file\s*:([^\n]*)((?:\n[ \t]+(?:- |path:|format:|required:)[^\n]*)*)", text):
            block = match[1] + match[2]
            if re.search(rf"(?:^|[\s\"'/\[:]){re.escape(base)}(?:[\s\"',\]}}]|$)", block):
                usage.whole.add(base)
                seen.add("docker" if re.search(r"format:\s*[\"']?raw", block) else "compose")
