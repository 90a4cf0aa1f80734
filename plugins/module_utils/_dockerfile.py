# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads Dockerfiles as BuildKit does: continued lines, here-documents, stages. PRIVATE: may change in any release."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

#: Most instructions of one file.
INSTRUCTIONS = 20_000
#: Longest text after its variables are replaced; one that grows by itself stays as it stands.
EXPANDED = 1 << 16

_DIRECTIVE = re.compile(r"#\s*([a-zA-Z]+)\s*=\s*(.+?)\s*$")
_HEREDOC = re.compile(r"<<-?\s*([\"']?)([A-Za-z_][A-Za-z0-9_.]*)\1")
_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)(?:(:?[-+])([^{}]*))?\}|([A-Za-z_][A-Za-z0-9_]*))")


class DockerfileError(Exception):
    """The file is no Dockerfile; the line and what is wrong."""


@dataclass(frozen=True)
class Instruction:
    """One instruction. ``flags`` are its --name=value words, ``heredocs`` the documents that follow it."""

    line: int
    word: str
    text: str
    flags: tuple[str, ...] = ()
    heredocs: tuple[str, ...] = ()

    def words(self) -> list[str]:
        """The arguments: of the JSON form, or separated by blanks."""
        if self.text.startswith("["):
            try:
                listed = json.loads(self.text)
            except (ValueError, RecursionError):
                listed = None
            if isinstance(listed, list) and all(isinstance(word, str) for word in listed):
                return listed
        return self.text.split()


@dataclass
class Stage:
    """From one FROM to the next. ``parent`` is the stage it builds on, if it is one of this file."""

    name: str
    base: str
    line: int
    parent: Stage | None = None
    instructions: list[Instruction] = field(default_factory=list)

    def chain(self) -> list[Stage]:
        """This stage and those it builds on, the last first."""
        found, stage = [], self
        while stage is not None:
            found.append(stage)
            stage = stage.parent
        return found

    def last(self, word: str) -> Instruction | None:
        """The instruction of this kind that counts, inherited ones included."""
        for stage in self.chain():
            for instruction in reversed(stage.instructions):
                if instruction.word == word:
                    return instruction
        return None


def expand(text: str, values: dict[str, str]) -> str:
    """Variables replaced by what is known of them; the others stay."""
    room = EXPANDED

    def value(match: re.Match) -> str:
        nonlocal room
        found = replaced(match)
        room -= len(found)
        return found if room >= 0 else match[0]

    def replaced(match: re.Match) -> str:
        name, operator, other = match[1] or match[4], match[2], match[3]
        known = values.get(name)
        if operator and operator.endswith("+"):
            return other if known else ""
        if known or (known is not None and operator != ":-"):
            return known
        return other if operator else match[0]

    return _VARIABLE.sub(value, text)


def _logical(text: str) -> list[tuple[int, str, tuple[str, ...]]]:
    """(line, instruction with its continuations as one line, here-documents)."""
    lines = text.replace("\r\n", "\n").split("\n")
    escape, found, at = "\\", [], 0
    while at < len(lines):
        directive = _DIRECTIVE.match(lines[at])
        if directive is None:
            break
        if directive[1].lower() == "escape" and directive[2] == "`":
            escape = "`"
        at += 1
    while at < len(lines):
        first, parts = at + 1, []
        line = lines[at].strip()
        at += 1
        if not line or line.startswith("#"):
            continue
        while True:
            if not line.endswith(escape):
                parts.append(line)
                break
            parts.append(line[:-1].rstrip())
            # comments and empty lines inside a continued instruction belong to nobody
            while at < len(lines) and (not lines[at].strip() or lines[at].lstrip().startswith("#")):
                at += 1
            if at >= len(lines):
                break
            line = lines[at].strip()
            at += 1
        whole = " ".join(parts)
        documents = []
        if re.match(r"(?:RUN|COPY|ADD)\b", whole, re.IGNORECASE):
            for mark in _HEREDOC.finditer(whole):
                body = []
                while at < len(lines) and lines[at].strip() != mark[2]:
                    body.append(lines[at])
                    at += 1
                if at >= len(lines):
                    raise DockerfileError(f"line {first}: the here-document {mark[2]} never ends")
                at += 1
                documents.append("\n".join(body))
        if len(found) >= INSTRUCTIONS:
            raise DockerfileError(f"line {first}: has more than {INSTRUCTIONS} instructions")
        found.append((first, whole, tuple(documents)))
    return found


_WORDS = frozenset(
    "ADD ARG CMD COPY ENTRYPOINT ENV EXPOSE FROM HEALTHCHECK LABEL MAINTAINER ONBUILD RUN SHELL STOPSIGNAL USER VOLUME"
    " WORKDIR".split()
)


def parse(text: str) -> list[Stage]:
    """The stages of a Dockerfile. Raises DockerfileError."""
    stages: list[Stage] = []
    arguments: dict[str, str] = {}
    for line, whole, documents in _logical(text.removeprefix("\ufeff")):
        word, _blank, rest = whole.partition(" ")
        word, rest = word.upper(), rest.strip()
        if word not in _WORDS:
            raise DockerfileError(f"line {line}: {word[:30]!r} is no instruction")
        flags = []
        while word in ("FROM", "RUN", "COPY", "ADD", "HEALTHCHECK"):
            match = re.match(r"(--[a-z][a-z-]*(?:=\S*)?)(?:\s+|$)", rest)
            if match is None:
                break
            flags.append(match[1])
            rest = rest[match.end() :]
        instruction = Instruction(line, word, rest, tuple(flags), documents)
        if word == "FROM":
            words = rest.split()
            if not words:
                raise DockerfileError(f"line {line}: FROM names no image")
            base = expand(words[0], arguments)
            name = words[2].lower() if len(words) >= 3 and words[1].upper() == "AS" else ""
            parent = next((stage for stage in reversed(stages) if stage.name and stage.name == base.lower()), None)
            stages.append(Stage(name, base, line, parent))
        elif stages:
            stages[-1].instructions.append(instruction)
        elif word == "ARG":
            name, equals, value = rest.partition("=")
            if equals:
                arguments[name.strip()] = value.strip().strip("\"'")
        else:
            raise DockerfileError(f"line {line}: {word} stands before the first FROM")
    if not stages:
        raise DockerfileError("line 1: there is no FROM")
    return stages


def values(stage: Stage) -> dict[str, str]:
    """What ARG and ENV of a stage give, defaults of arguments taken for what they are."""
    known: dict[str, str] = {}
    for part in reversed(stage.chain()):
        for instruction in part.instructions:
            if instruction.word not in ("ARG", "ENV"):
                continue
            text = expand(instruction.text, known)
            if instruction.word == "ENV" and "=" not in text.split(" ", 1)[0]:
                name, _blank, value = text.partition(" ")
                known[name] = value.strip()
                continue
            for match in re.finditer(r"([A-Za-z_][A-Za-z0-9_]*)=(\"[^\"]*\"|'[^']*'|\S*)", text):
                known[match[1]] = match[2].strip("\"'")
    return known
