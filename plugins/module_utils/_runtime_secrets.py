# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets in what the engine and the kernel show of a running container: environment (SEC-12), command lines (SEC-11).

PRIVATE: internal to the collection, may change in any release. Standard library only. No finding carries a value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit
from ansible_collections.mcpstack.platform.plugins.module_utils._checks_secret import TABLE as SECRET_TABLE
from ansible_collections.mcpstack.platform.plugins.module_utils._container_inspect import environment, place_of
from ansible_collections.mcpstack.platform.plugins.module_utils._engine_snapshot import Snapshot, name_of
from ansible_collections.mcpstack.platform.plugins.module_utils._proc_table import ProcessTable
from ansible_collections.mcpstack.platform.plugins.module_utils._secret_names import (
    credential_in_url,
    credential_name,
    literal_credential,
)

TABLE = {number: SECRET_TABLE[number] for number in ("SEC-11", "SEC-12")}
#: Options that take a secret as the next word or behind "=".
_FLAG = re.compile(
    r"^(--?(?:require-?pass|master-?auth|passwd|passphrase|pass|(?:[a-z0-9]+[-.]){0,8}"
    r"(?:password|secret|token|api-?key|secret-?key|access-?key)))(?:=(.*))?$",
    re.IGNORECASE | re.DOTALL,
)
_ASSIGNMENT = re.compile(r"^([A-Za-z_][A-Za-z0-9_]{0,80})=(.+)$", re.DOTALL)
_MYSQL = frozenset("mysql mysqladmin mysqldump mysqlcheck mariadb mariadb-admin mariadb-dump mysqlshow".split())
_REDIS = frozenset("redis-cli valkey-cli keydb-cli redis-benchmark valkey-benchmark".split())
_SHELLS = frozenset("sh bash ash dash zsh".split())
#: Fingerprints of public keys, which official images keep in their environment.
_FINGERPRINTS = re.compile(r"[0-9A-Fa-f]{40}(?:\s+[0-9A-Fa-f]{40})*")
_WORDS = 1000


def _pairs(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(option, what follows it) of everything on a command line that may be a secret."""
    program = ""
    for index, word in enumerate(words):
        short = word.rpartition("/")[2]
        if index == 0 or short in _MYSQL or short in _REDIS:
            program = short
        following = words[index + 1] if index + 1 < len(words) else ""
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
    words = list(words[:_WORDS])
    if shell:
        words = [part.strip("'\"") for word in words for part in word[:20000].split()]
    found: dict[str, bool] = {}
    for option, value in _pairs(words):
        text = value.strip("'\"")
        variable = text.startswith("$")
        if text in ("", "-") or (variable and not shell) or (not variable and text.startswith("-")):
            continue
        # the option says what it is, the value decides whether it is one: a path, a switch or a reference is none
        if variable or literal_credential("PASSWORD", text):
            found.setdefault(option, variable)
    return found


def secret_variables(values: Iterable[tuple[str, str]]) -> list[str]:
    """Names of variables that hold a credential."""
    found = []
    for name, value in values:
        if name.upper().endswith("_FILE") or (name.startswith("GPG_KEY") and _FINGERPRINTS.fullmatch(value.strip())):
            continue
        if literal_credential(name, value) or credential_in_url(value) is not None:
            found.append(name)
    return sorted(found)


def judge_secrets(audit: Audit, snapshot: Snapshot, table: ProcessTable) -> None:
    """SEC-11 and SEC-12 of every running container; ``audit`` has ``TABLE``."""
    active = snapshot.active()
    if not active:
        for number in TABLE:
            audit.not_applicable(number, "no container runs")
        return
    audit.decide("SEC-11", "SEC-12")
    if "containers" in snapshot.problems:
        for number in TABLE:
            audit.unknown(number, snapshot.problems["containers"])
    for container in active:
        name, config = name_of(container), container.get("Config") or {}
        for key in secret_variables(environment(container).items()):
            audit.find("SEC-12", name, f"{place_of(container, 'environment')}: {key}", f"{key} holds a credential")
        lines = [
            ("Config.Cmd", [*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ())]),
            ("Config.Healthcheck", list((config.get("Healthcheck") or {}).get("Test") or ())[1:]),
        ]
        lines += [(f"process {item.name}", list(item.argv)) for item in table.of(container["Id"])]
        seen: set[str] = set()
        for where, words in lines:
            for option, variable in secret_arguments([str(word) for word in words]).items():
                if option in seen:
                    continue
                seen.add(option)
                text = f"{option} with {'a variable that the shell puts there' if variable else 'a value'}"
                severity = "medium" if variable else None
                audit.find("SEC-11", name, f"{place_of(container)}: {where}", text, severity=severity)
