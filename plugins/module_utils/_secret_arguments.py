# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets on a command line, in a compose file as in a running container.

PRIVATE: internal to the collection, may change in any release. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ansible_collections.mcpstack.platform.plugins.module_utils._secret_names import (
    credential_in_url,
    credential_name,
    literal_credential,
)

#: Words of a command, and characters of a word that a shell takes apart, that are looked at.
WORDS, CHARACTERS = 1000, 20000
#: Options that take a secret as the next word or behind "=".
_FLAG = re.compile(
    r"^(--?(?:require-?pass|master-?auth|pass|(?:[a-z0-9]+[-.]){0,8}"
    r"(?:(?!nopass)[a-z0-9]*(?:password|passwd|passphrase)|secret|token|api-?key|secret-?key|access-?key"
    r"|access-?token|auth-?token|client-?secret)))"
    r"(?:=(.*))?$",
    re.IGNORECASE | re.DOTALL,
)
_ASSIGNMENT = re.compile(r"^([A-Za-z_][A-Za-z0-9_]{0,80})=(.+)$", re.DOTALL)
_MYSQL = frozenset("mysql mysqladmin mysqldump mysqlcheck mariadb mariadb-admin mariadb-dump mysqlshow".split())
_REDIS = frozenset("redis-cli valkey-cli keydb-cli redis-benchmark valkey-benchmark".split())
_SHELLS = frozenset("sh bash ash dash zsh".split())


def pairs(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(option, what follows it) of everything on a command line that may be a secret; an option that follows is none."""
    program = ""
    for index, word in enumerate(words):
        short = word.rpartition("/")[2]
        if index == 0 or short in _MYSQL or short in _REDIS:
            program = short
        following = words[index + 1] if index + 1 < len(words) else ""
        following = "" if following.startswith("-") else following
        match = _FLAG.match(word)
        if match:
            yield match.group(1), following if match.group(2) is None else match.group(2)
        elif program in _MYSQL and re.match(r"^-p.", word):
            yield "-p", word[2:]
        elif program in _REDIS and word == "-a":
            yield "-a", following
        elif (match := _ASSIGNMENT.match(word)) and credential_name(match.group(1)):
            yield match.group(1), match.group(2)
        elif "://" in word and (url := credential_in_url(word)) is not None:
            yield f"the URL of {url.scheme}", url.password


def secret_arguments(words: Sequence[str]) -> dict[str, bool]:
    """Options of a command line that carry a secret; True where the shell puts a variable there."""
    shell = bool(words) and (len(words) == 1 or words[0].rpartition("/")[2] in _SHELLS)
    words = list(words[:WORDS])
    if shell:
        words = [part.strip("'\"") for word in words for part in word[:CHARACTERS].split()]
    found: dict[str, bool] = {}
    for option, value in pairs(words):
        text = value.strip("'\"")
        variable = text.startswith("$")
        # the option says what it is, the value decides whether it is one: a path, a switch or a reference is none
        if text not in ("", "-") and (shell if variable else literal_credential("PASSWORD", text)):
            found.setdefault(option, variable)
    return found
