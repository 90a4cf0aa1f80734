# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets in what the engine and the kernel show of a running container: environment (SEC-12), command lines (SEC-11).

PRIVATE: internal to the collection, may change in any release. Standard library only. No finding carries a value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit
from ansible_collections.mcpstack.platform.plugins.module_utils._checks_secret import TABLE as SECRET_TABLE
from ansible_collections.mcpstack.platform.plugins.module_utils._container_inspect import environment, place_of
from ansible_collections.mcpstack.platform.plugins.module_utils._engine_snapshot import Snapshot, name_of
from ansible_collections.mcpstack.platform.plugins.module_utils._proc_table import ProcessTable
from ansible_collections.mcpstack.platform.plugins.module_utils._secret_arguments import secret_arguments
from ansible_collections.mcpstack.platform.plugins.module_utils._secret_names import (
    credential_in_url,
    literal_credential,
)

TABLE = {number: SECRET_TABLE[number] for number in ("SEC-11", "SEC-12")}
#: Fingerprints of public keys, which official images keep in their environment.
_FINGERPRINTS = re.compile(r"[0-9A-Fa-f]{40}(?:\s+[0-9A-Fa-f]{40})*")


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
