# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs against what was meant to run (RUN): the checks in one call.

PRIVATE: internal to the collection, may change in any release. Standard library only.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterable, Mapping

from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import Files
from ansible_collections.mcpstack.platform.plugins.module_utils._checks_runtime import TABLE
from ansible_collections.mcpstack.platform.plugins.module_utils._engine_snapshot import Snapshot
from ansible_collections.mcpstack.platform.plugins.module_utils._proc_table import ProcessTable, scan
from ansible_collections.mcpstack.platform.plugins.module_utils._runtime_drift import judge_drift, judge_images
from ansible_collections.mcpstack.platform.plugins.module_utils._runtime_processes import (
    judge_kernel,
    judge_listeners,
    judge_programs,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._runtime_state import (
    judge_changes,
    judge_orphans,
    judge_state,
    judge_visitors,
)


def processes_of(snapshot: Snapshot, files: Files) -> ProcessTable:
    """The processes of every container that runs."""
    active = snapshot.active()
    shared = [item["Id"] for item in active if (item.get("HostConfig") or {}).get("PidMode") == "host"]
    return scan(files, {item["Id"]: (item.get("State") or {}).get("Pid") or 0 for item in active}, shared)


def _moment() -> None:
    time.sleep(0.02)


def _ports(text: str) -> tuple[int, str] | None:
    number, _rest, protocol = text.partition("/")
    return (int(number), protocol or "tcp") if number.isdigit() else None


def declared_by_service(
    expected: Mapping[str, Mapping], declared: Mapping[str, Iterable[str]]
) -> dict[str, set[tuple[int, str]]]:
    """Ports by service, container, or "project/service", out of the models and of what the caller declares."""
    found: dict[str, set[tuple[int, str]]] = {}
    for name, texts in declared.items():
        found.setdefault(name, set()).update(port for port in map(_ports, texts) if port)
    for project, model in expected.items():
        for service, meant in (model.get("services") or {}).items():
            targets = [text.rpartition(":")[2] for text in meant.get("ports") or ()] + list(meant.get("expose") or ())
            ports = {port for port in map(_ports, targets) if port}
            if ports:
                found.setdefault(f"{project}/{service}", set()).update(ports)
    return found


def audit_runtime(
    audit: Audit,
    snapshot: Snapshot,
    table: ProcessTable,
    files: Files,
    sessions: Mapping[str, set[int]],
    *,
    projects: Iterable[str] = (),
    expected: Mapping[str, Mapping] | None = None,
    model_problems: Iterable[str] = (),
    declared: Mapping[str, Iterable[str]] | None = None,
    now: datetime.datetime | None = None,
    pause: Callable[[], None] = _moment,
) -> None:
    """Decide RUN-01 to RUN-08.

    sessions: numbers of the processes of running exec sessions, by container. expected: models by project.
    model_problems: why models that were named are not among them. declared: ports ("8000" or "53/udp")
    by service, container, or "project/service". pause: what passes before a process that looks wrong is looked at again.
    """
    expected, projects, model_problems = expected or {}, tuple(projects), tuple(model_problems)
    for problem in model_problems:
        audit.unknown("RUN-01", problem)
    if expected or not model_problems:
        judge_drift(audit, snapshot, expected, projects)
    judge_images(audit, snapshot, expected)
    judge_kernel(audit, snapshot, table, sessions, files, pause)
    judge_listeners(audit, snapshot, files, declared_by_service(expected, declared or {}))
    judge_changes(audit, snapshot)
    if snapshot.active():
        judge_programs(audit, snapshot, table)
    judge_state(audit, snapshot, now or datetime.datetime.now(datetime.timezone.utc))
    judge_visitors(audit, snapshot, projects)
    judge_orphans(audit, snapshot, projects, expected)
    if "containers" in snapshot.problems:
        for number in TABLE:
            audit.unknown(number, snapshot.problems["containers"])
