# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules about health checks: that there is one, and that it can tell.

PRIVATE: internal to the collection, may change in any release. Standard library only.
"""

from __future__ import annotations

import re
import shlex

from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit
from ansible_collections.mcpstack.platform.plugins.module_utils._container_model import (
    ContainerView,
    Healthcheck,
    Policy,
    Unknown,
)

#: Longest text of a check that is looked into.
_LONGEST = 4000
_NEVER_FAILS = re.compile(r"(\|\||;)\s*(true|:|exit\s+0|/bin/true)\s*['\"]?\s*$")
_DOES_NOTHING = frozenset({"true", "/bin/true", "/usr/bin/true", ":", "exit 0"})
_URL = re.compile(r"https?://(?:[^/@\s'\"]{0,200}@)?(\[[0-9a-fA-F:.]{2,45}\]|[^/:\s'\"?#\\]{1,255})")
_SELF = re.compile(
    r"^(127\.[0-9.]+|localhost|\[::1\]|0\.0\.0\.0|\[::\]|\$\{?HOSTNAME\}?|\$\(hostname( -i)?\)?|ip6-localhost)$"
)
#: Client programs whose -h or --host names who is asked.
_CLIENTS = frozenset(
    "pg_isready psql mysqladmin mysql mariadb-admin mariadb redis-cli valkey-cli mongosh rabbitmq-diagnostics".split()
)
_WRITES = (
    re.compile(r"\b(?:redis|valkey)-cli\b.*\s(?:set|del|flushall|flushdb|incr|expire|config\s+set)\b", re.I),
    re.compile(r"\bcurl\b.*\s(?:-X\s*|--request[= ])(?:PUT|DELETE|PATCH)\b", re.I),
    re.compile(
        r"\b(?:psql|mysql|mariadb)\b.*\b(?:insert\s+into|update\s+\w+\s+set|delete\s+from|create\s|drop\s|truncate\s)",
        re.I,
    ),
)
#: A reader that judges the answer itself.
_READS_ANSWER = re.compile(r"\||http_code|\$\(|`")
_FAILS_ON_ERROR = re.compile(r"\s(-[A-Za-z]*f[A-Za-z]*|--fail|--fail-with-body|--fail-early)(\s|$)")


def _words(check: Healthcheck) -> tuple[str, list[str]]:
    """The command as one text and as words."""
    kind, *rest = check.test
    if kind == "CMD":
        if (
            len(rest) >= 3
            and rest[0].rpartition("/")[2] in ("sh", "bash", "ash", "dash")
            and rest[1] in ("-c", "-ec", "-lc")
        ):
            rest = [rest[2]]
        else:
            return " ".join(rest)[:_LONGEST], [word[:_LONGEST] for word in rest[:100]]
    text = " ".join(rest if kind in ("CMD", "CMD-SHELL") else check.test)[:_LONGEST]
    try:
        return text, shlex.split(text)
    except ValueError:
        return text, text.split()


def faults(check: Healthcheck, own_names: frozenset[str], peers: frozenset[str]) -> list[tuple[str, str]]:
    """(what is wrong, severity) of a check that is switched on."""
    text, words = _words(check)
    found = []
    stripped = text.strip()
    program = words[0].rpartition("/")[2] if words else ""
    if stripped in _DOES_NOTHING or program == "echo":
        return [(f"{stripped[:60]}: tests nothing", "medium")]
    if _NEVER_FAILS.search(stripped):
        found.append(("cannot fail", "medium"))
    for host in dict.fromkeys(match.group(1).lower() for match in _URL.finditer(text)):
        if host == "localhost":
            found.append(("asks localhost, which may be ::1 while the service listens on 127.0.0.1", "info"))
        elif not _SELF.match(host) and not host.startswith("$") and host not in own_names:
            found.append((f"asks {host}, not itself", "low"))
    for index, word in enumerate(words):
        client = word.rpartition("/")[2]
        if client in _CLIENTS:
            for flag, value in zip(words[index + 1 :], [*words[index + 2 :], ""]):
                host = value if flag in ("-h", "--host") else flag.removeprefix("--host=") if "--host=" in flag else ""
                if host in peers and host not in own_names:
                    found.append((f"{client} asks {host}, not itself", "low"))
            break
    if "curl" in (word.rpartition("/")[2] for word in words) and not (
        _FAILS_ON_ERROR.search(f" {text} ") or _READS_ANSWER.search(text.replace("||", ""))
    ):
        found.append(("curl without --fail takes an error for an answer", "low"))
    if any(pattern.search(text) for pattern in _WRITES):
        found.append(("changes data", "low"))
    return found


def switched_off(check: Healthcheck) -> bool:
    """Whether a check is stated and means that there is none."""
    return check.disabled or check.test[:1] == ("NONE",)


def judge_health(audit: Audit, view: ContainerView, policy: Policy) -> None:
    """CMP-15 and CMP-16."""
    audit.decide("CMP-15", "CMP-16")
    if view.name in policy.oneshots and view.healthcheck is None:
        return
    place = view.where("healthcheck")
    check, stated = view.healthcheck, True
    if isinstance(check, Unknown):
        audit.unknown("CMP-15", f"{view.subject}: {check.reason}")
        return
    if check is None or not (check.test or check.disabled):
        check, stated = view.image_healthcheck, False
    if isinstance(check, Unknown):
        audit.find("CMP-15", view.subject, place, f"none is stated, and {check.reason}")
    elif check is None or not (check.test or check.disabled):
        audit.find("CMP-15", view.subject, place, "neither the container nor its image has one")
    elif switched_off(check):
        audit.find("CMP-15", view.subject, place, "it is switched off" if stated else "the image switches it off")
    else:
        own = frozenset({view.name.lower()})
        for text, severity in faults(check, own, view.peers):
            audit.find("CMP-16", view.subject, place, text, severity=severity)
