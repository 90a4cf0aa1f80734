# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The service around a Valkey or Redis: its command, environment, health check and version.

PRIVATE: internal to the collection, may change in any release. Standard library only.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: First version of each maintained series with the last critical fix (CVE-2025-49844 and what came with it).
FLOORS = {
    "valkey": {(7, 2): (7, 2, 11), (8, 0): (8, 0, 6), (8, 1): (8, 1, 4), (9, 0): (9, 0, 0)},
    "redis": {(6, 2): (6, 2, 20), (7, 2): (7, 2, 11), (7, 4): (7, 4, 6), (8, 0): (8, 0, 4), (8, 2): (8, 2, 2)},
}

_SECRET_ENV = re.compile(
    r"(?i)^((REDIS|VALKEY|KEYDB)(_[A-Z0-9]+)*_(PASSWORD|PASS|AUTH|SECRET)|REDISCLI_AUTH|VALKEYCLI_AUTH|REQUIREPASS)\Z"
)
_READING = frozenset(("ping", "info", "role", "dbsize", "lastsave", "time", "exists", "get", "echo", "hello"))


@dataclass
class Service:
    """What is known of the service around the server. None is not known, not "no"."""

    command: Sequence[str] | None = None
    environment: Sequence[str] | None = None
    healthcheck: Sequence[str] | str | None = None
    memory_limit: int | None = None
    published: Sequence[str] | None = None
    contained: bool = True


def service_of(inspect: Mapping) -> Service:
    """What the engine tells about a container."""
    settings, host = inspect.get("Config") or {}, inspect.get("HostConfig") or {}
    published = []
    for port, bindings in sorted((host.get("PortBindings") or {}).items()):
        published += [f"{item.get('HostIp') or '*'}:{item.get('HostPort')}->{port}" for item in bindings or []]
    command = [*(settings.get("Entrypoint") or []), *(settings.get("Cmd") or [])]
    health = (settings.get("Healthcheck") or {}).get("Test") or []
    return Service(command, settings.get("Env") or [], health, host.get("Memory") or None, published)


def exposed(command: Sequence[str], environment: Sequence[str], health: Sequence[str]) -> list[str]:
    """Where a password is readable in the definition of the service; never the password."""
    found = []
    words = [str(word) for word in command]
    # A shell hands its last word on; its words are as readable as those of the server.
    if len(words) >= 3 and words[-2] in ("-c", "-ec"):
        words = [*words[:-1], *_shell(words[-1])]
    for place, word in enumerate(words):
        name, _equals, value = word.partition("=")
        following = value or (words[place + 1] if place + 1 < len(words) else "")
        if name.lower() in ("--requirepass", "--masterauth", "--primaryauth", "--tls-key-file-pass") and following:
            found.append(f"the command holds {name}")
        elif name.lower() == "--user" and any(part[:1] in (">", "#") for part in " ".join(words[place + 1 :]).split()):
            found.append("the command holds a user with a password")
    for entry in environment:
        name, _equals, value = entry.partition("=")
        if name.upper() == "ALLOW_EMPTY_PASSWORD" and value.lower() in ("yes", "true", "1"):
            found.append("the environment holds ALLOW_EMPTY_PASSWORD")
        elif _SECRET_ENV.match(name) and value:
            found.append(f"the environment holds {name}")
    for place, word in enumerate(health):
        following = health[place + 1] if place + 1 < len(health) else ""
        if word in ("-a", "--pass") and following not in ("", "-"):
            found.append(f"the health check passes a password with {word}")
        elif re.match(r"(?i)(redis|valkey)s?://[^/@\s]*:[^/@\s]+@", word):
            found.append("the health check holds a URL with a password")
        elif re.match(r"(REDISCLI_AUTH|VALKEYCLI_AUTH)=.", word):
            found.append(f"the health check sets {word.partition('=')[0]}")
        elif (
            word.upper() == "AUTH"
            and following
            and any(re.search(r"(redis|valkey)-cli", part) for part in health[:place])
        ):
            found.append("the health check passes a password with AUTH")
    return list(dict.fromkeys(found))


def _shell(text: str) -> list[str]:
    try:
        lexer = shlex.shlex(text, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        return list(lexer)
    except ValueError:
        return text.split()


def health_words(healthcheck: Sequence[str] | str | None) -> list[str]:
    """The words of a health check, of a shell line too."""
    if not healthcheck:
        return []
    if isinstance(healthcheck, str):
        return _shell(healthcheck)
    words = [str(word) for word in healthcheck]
    if words[0] == "CMD-SHELL":
        return _shell(" ".join(words[1:]))
    if words[0] == "CMD":
        words = words[1:]
    if len(words) >= 3 and words[1] in ("-c", "-ec") and words[0].rpartition("/")[2] in ("sh", "bash", "ash", "dash"):
        return _shell(words[2])
    return words


def judge_health(words: Sequence[str]) -> tuple[bool | None, str]:
    """Whether a health check would notice, and why not; None when it cannot be told."""
    if not words or words[0] == "NONE":
        return False, "there is no health check"
    place = next((n for n, word in enumerate(words) if re.search(r"(^|/)(redis|valkey)-cli\Z", word)), None)
    if place is None:
        return None, f"what {words[0]} checks is not known"
    rest, takes, options = words[place + 1 :], ("-h", "-p", "-s", "-a", "-u", "-n", "-t", "--user", "--pass", "--cacert",
                                                "--cert", "--key", "--sni", "--tls-ciphers"), []  # fmt: skip
    asked, number = [], 0
    while number < len(rest):
        word = rest[number]
        if word in ("|", "||", "&&", ";", "|&", "<", ">", "<<<"):
            break
        if word.startswith("-") and not asked:
            options.append(word)
            if word in takes:
                if word == "-h" and number + 1 < len(rest) and not _own(rest[number + 1]):
                    return False, f"it asks another host, {rest[number + 1]}"
                number += 1
        else:
            asked.append(word)
        number += 1
    command = asked[0].lower() if asked else ""
    if command and command not in _READING:
        return False, f"it runs {command.upper()}, which is more than a look"
    if "-e" in options:
        return True, ""
    tail = " ".join(rest[number:])
    if re.search(r"\|\s*&?\s*(e|f)?grep\b.*", tail) or re.search(r"==?\s*\S*PONG", " ".join(words)):
        return True, ""
    return False, "it ends with 0 when the server answers with an error, such as NOAUTH (-e is missing)"


def _own(host: str) -> bool:
    return host in ("localhost", "::1", "$HOSTNAME", "${HOSTNAME}") or host.startswith("127.")


def judge_version(version: str) -> tuple[bool | None, str]:
    """Whether a version has the last critical fix; None when that cannot be told. "valkey 8.1.4", "redis 7.0.15-1"."""
    match = re.fullmatch(
        r"(?:(redis|valkey)[ =/]?)?v?(?:[0-9]+:)?([0-9]+)\.([0-9]+)(?:\.([0-9]+))?([-+~].*)?", version.strip()
    )
    if not match:
        return None, f"{version} is no version"
    product = match[1] or ("valkey" if int(match[2]) >= 9 else "")
    if not product:
        return None, f"whether {version} is Valkey or Redis is not known"
    number = (int(match[2]), int(match[3]), int(match[4] or 0))
    floors = FLOORS[product]
    floor = floors.get(number[:2])
    if floor and number >= floor or number[:2] > max(floors):
        return True, ""
    if match[5]:
        return (
            None,
            f"{product} {version.strip().removeprefix(product).strip()} is a distribution's package, whose fixes the version does not tell",
        )
    shown = ".".join(str(part) for part in number)
    if floor:
        return False, f"{product} {shown} is older than {'.'.join(str(part) for part in floor)}"
    return False, f"{product} {shown} is of a series without critical fixes"
