# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read pg_hba.conf and pg_ident.conf as the server does, and judge who gets in. PRIVATE: may change at any time."""

from __future__ import annotations

import ipaddress
import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import Files, Unreadable

MOST_FILES, DEEPEST, MOST_LINES, MOST_PROBLEMS = 200, 10, 3000, 20
#: Words of a line, and the longest one: the server's own limit.
MOST_WORDS, LONGEST = 10_000, 10_240
#: Lines further apart than this are not compared with each other.
MOST_COMPARED = 200

_TOKEN = re.compile(r'"((?:[^"]|"")*)"|([^\s,"#]+)|(,)|(#.*)|(")', re.DOTALL)
_KINDS = ("local", "host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc")
#: Kinds of lines that a connection without TLS and without GSS encryption fits.
_PLAIN = ("host", "hostnossl", "hostnogssenc")
_EVERYWHERE = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))


@dataclass(frozen=True)
class Word:
    """A word of a line; a quoted one is never a keyword."""

    text: str
    quoted: bool = False

    def means(self, keyword: str) -> bool:
        """Whether it is this keyword."""
        return not self.quoted and self.text == keyword


@dataclass(frozen=True)
class Rule:
    """One line of pg_hba.conf."""

    kind: str
    databases: tuple[Word, ...]
    users: tuple[Word, ...]
    address: str
    method: str
    options: tuple[str, ...]
    where: str
    network: ipaddress.IPv4Network | ipaddress.IPv6Network | None = None

    def __str__(self) -> str:
        lists = [",".join(word.text for word in words) for words in (self.databases, self.users)]
        return " ".join(part for part in (self.kind, *lists, self.address, self.method) if part)

    @property
    def near(self) -> bool:
        """Whether only this machine fits."""
        if self.kind == "local" or self.address in ("samehost", "localhost"):
            return True
        return self.network is not None and self.network.is_loopback

    def everybody(self) -> bool:
        """Whether every address fits."""
        return self.address == "all" or self.network in _EVERYWHERE

    def covers(self, other: Rule) -> bool:
        """Whether every connection that fits the other line fits this one."""
        return (
            _kind_covers(self.kind, other.kind)
            and _words_cover(self.databases, other.databases, ("replication",))
            and _words_cover(self.users, other.users, ())
            and (self.kind == "local" or self._address_covers(other))
        )

    def _address_covers(self, other: Rule) -> bool:
        if self.address == "all" or self.address == other.address:
            return True
        if self.network is None or other.network is None:
            return False
        if self.network.version != other.network.version:
            return False
        return other.network.subnet_of(self.network)


def _kind_covers(one: str, other: str) -> bool:
    if one == other:
        return True
    return one == "host" and other != "local" or one == "hostnossl" and other == "hostgssenc"


def _words_cover(one: Sequence[Word], other: Sequence[Word], apart: tuple[str, ...]) -> bool:
    """``all`` covers everything but the words that it does not stand for."""
    everything = any(word.means("all") for word in one)
    return all(word in one or (everything and not any(word.means(special) for special in apart)) for word in other)


@dataclass
class Table:
    """The lines that were read, and a sentence for each part that could not be."""

    rows: list[tuple[list[list[Word]], str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def note(self, problem: str) -> None:
        """Keep a problem, but not every one of a file that is no table."""
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(problem)


def split(line: str) -> list[list[Word]] | None:
    """The fields of a line, each a list of words; None where the server refuses it."""
    fields: list[list[Word]] = []
    join, end = False, -1
    for number, match in enumerate(_TOKEN.finditer(line)):
        if number > MOST_WORDS:
            return None
        quoted, plain, comma, comment, stray = match.groups()
        if stray:
            return None
        if comment:
            break
        if comma:
            join = True
            continue
        word = Word(quoted.replace('""', '"'), True) if quoted is not None else Word(plain)
        if fields and not join and match.start() == end:
            # mixed"quotes" are one word, and a quoted one
            last = fields[-1].pop()
            if len(last.text) > LONGEST:
                return None
            fields[-1].append(Word(last.text + word.text, True))
        elif fields and join:
            fields[-1].append(word)
        else:
            fields.append([word])
        join, end = False, match.end()
    return fields


def read_table(files: Files, path: str) -> Table:
    """A file of fields with everything it includes."""
    table = Table()
    _read(files, path, table, (), [0])
    return table


def _read(files: Files, path: str, table: Table, above: tuple[str, ...], count: list[int]) -> None:
    if path in above or len(above) >= DEEPEST or count[0] >= MOST_FILES:
        table.note(f"{path} includes itself, or too many files are included")
        return
    count[0] += 1
    try:
        text = files.text(path)
    except Unreadable as error:
        table.note(str(error))
        return
    lines = text.split("\n")
    number = 0
    while number < len(lines):
        where, line = f"{path}:{number + 1}", lines[number].rstrip("\r")
        number += 1
        parts = []
        while line.endswith("\\") and number < len(lines):
            parts.append(line[:-1])
            line = lines[number].rstrip("\r")
            number += 1
        line = "".join((*parts, line))
        fields = split(line)
        if fields is None:
            table.note(f"{where}: is no line of fields (quotes, or size); the server refuses the file")
        elif fields:
            first = fields[0][0]
            if not first.quoted and first.text in ("include", "include_if_exists", "include_dir") and len(fields) == 2:
                _include(files, path, first.text, fields[1][0].text, table, (*above, path), count)
            elif len(table.rows) < MOST_LINES:
                table.rows.append((fields, where))
            else:
                table.note(f"{path} has more than {MOST_LINES} lines")
                return


def _include(
    files: Files, path: str, how: str, value: str, table: Table, above: tuple[str, ...], count: list[int]
) -> None:
    target = posixpath.normpath(posixpath.join(posixpath.dirname(path), value))
    if how == "include_dir":
        if not files.knows(target):
            table.note(f"the directory {target} is not at hand")
        for name in files.names(target):
            if name.endswith(".conf") and not name.startswith("."):
                _read(files, posixpath.join(target, name), table, above, count)
    elif how == "include" or not files.knows(target) or files.stat(target):
        _read(files, target, table, above, count)


def _network(address: str, mask: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        if ":" in mask:
            bits = f"{int(ipaddress.IPv6Address(mask)):0128b}"
            if "01" in bits:
                return None
            mask = str(bits.count("1"))
        return ipaddress.ip_network(f"{address}/{mask}" if mask else address, strict=False)
    except ValueError:
        return None


def parse_rules(table: Table) -> tuple[list[Rule], list[str]]:
    """The rules of a table, and a sentence for each line that is none."""
    rules, problems = [], list(table.problems)
    for fields, where in table.rows:
        kind = fields[0][0].text
        need = 4 if kind == "local" else 5
        if kind not in _KINDS or len(fields) < need:
            problems.append(f"{where}: is no rule; the server refuses the file")
            continue
        rest, address, network = fields[3:], "", None
        if kind != "local":
            address, rest = rest[0][0].text, rest[1:]
            mask = ""
            # An address without a length is followed by its mask.
            if "/" not in address and _is_address(address):
                mask, rest = rest[0][0].text, rest[1:]
                if not rest or not _is_address(mask):
                    problems.append(f"{where}: the address has no mask; the server refuses the file")
                    continue
            network = _network(address, mask)
            address = f"{address}/{mask}" if mask else address
        options = tuple(word.text for part in rest[1:] for word in part)
        rules.append(Rule(kind, tuple(fields[1]), tuple(fields[2]), address, rest[0][0].text, options, where, network))
    return rules, problems[:MOST_PROBLEMS]


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def from_view(rows: Sequence[Mapping]) -> tuple[list[Rule], list[str]]:
    """The rules as the view pg_hba_file_rules tells them. It does not tell which names were quoted."""
    rules, problems = [], []
    for row in rows:
        where = f"{row.get('file_name') or 'pg_hba.conf'}:{row.get('line_number')}"
        if row.get("error"):
            problems.append(f"{where}: {row['error']}")
            continue
        address, mask = row.get("address") or "", row.get("netmask") or ""
        network = _network(address, mask) if _is_address(address) else None
        rules.append(
            Rule(
                str(row.get("type")), tuple(Word(str(name)) for name in row.get("database") or ()),
                tuple(Word(str(name)) for name in row.get("user_name") or ()), f"{address}/{mask}" if mask else address,
                str(row.get("auth_method")), tuple(str(option) for option in row.get("options") or ()), where, network,
            )
        )  # fmt: skip
    return rules, problems[:MOST_PROBLEMS]


def judge(rules: Sequence[Rule], find: Callable) -> None:
    """Say what is wrong: ``find(where, evidence, severity)``; None stands for the check's own severity."""
    for place, rule in enumerate(rules):
        shadow = next(
            (earlier for earlier in rules[max(0, place - MOST_COMPARED) : place] if earlier.covers(rule)), None
        )
        if shadow is not None:
            stricter = rule.method == "reject" and shadow.method != "reject"
            if shadow.method != rule.method or stricter:
                evidence = f"{rule}: never reached, {shadow.where} ({shadow}) decides before"
                find(rule.where, evidence, "high" if stricter else "low")
            continue
        if rule.method != "reject":
            _judge_rule(rule, find)


def _judge_rule(rule: Rule, find: Callable) -> None:
    plain = rule.kind in _PLAIN and not rule.near
    if rule.method == "trust":
        find(rule.where, f"{rule}: nobody is asked for a password", None)
    elif rule.method == "password":
        severity = None if plain else "medium" if rule.near else "high"
        find(rule.where, f"{rule}: the password is sent in clear", severity)
    elif rule.method == "md5":
        find(rule.where, f"{rule}: MD5 can be broken", "high")
    elif rule.method == "ident" and rule.kind != "local":
        find(rule.where, f"{rule}: the client's own machine is asked who it is", "high")
    if plain and rule.method not in ("trust", "password"):
        severity = None if rule.everybody() else "high"
        find(rule.where, f"{rule}: clients are let in without TLS", severity)


def judge_maps(table: Table, superusers: Sequence[str], find: Callable) -> None:
    """A map that makes every system user a superuser."""
    for fields, where in table.rows:
        if len(fields) < 3:
            continue
        system, role = fields[1][0], fields[2][0]
        if not system.text.startswith("/"):
            continue
        pattern = system.text[1:].strip("^$")
        anybody = pattern in (".*", "(.*)", ".+", "(.+)", "")
        if anybody and (role.means("all") or role.text in superusers):
            evidence = f"map {fields[0][0].text}: every system user may become {role.text}"
            find(where, evidence, "high")
