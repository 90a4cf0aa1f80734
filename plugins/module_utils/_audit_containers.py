# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Running containers judged by the rules for containers (CMP, NET), with what only a running host tells.

PRIVATE: internal to the collection, may change in any release. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit
from ansible_collections.mcpstack.platform.plugins.module_utils._checks_container import TABLE as CONTAINER_TABLE
from ansible_collections.mcpstack.platform.plugins.module_utils._container_images import data_owner
from ansible_collections.mcpstack.platform.plugins.module_utils._container_inspect import (
    network_view,
    place_of,
    view_of,
    writers_of,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._container_model import (
    ContainerView,
    EngineDefaults,
    Policy,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._container_ports import judge_networks
from ansible_collections.mcpstack.platform.plugins.module_utils._container_rules import judge
from ansible_collections.mcpstack.platform.plugins.module_utils._engine_snapshot import (
    PROJECT_LABEL,
    Snapshot,
    name_of,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._proc_table import ProcessTable

#: Decided by the files of a project only.
NOT_RUNNING = ("CMP-29", "CMP-30")
TABLE = {number: check for number, check in CONTAINER_TABLE.items() if number not in NOT_RUNNING}
#: What the engine hides of /proc and /sys, as far as every engine does and it matters.
MASKED = ("/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware")
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def engine_defaults(info: Mapping) -> EngineDefaults:
    """What the engine does by default, by its own account."""
    if not info:
        return EngineDefaults()
    security = [str(item) for item in info.get("SecurityOptions") or ()]
    return EngineDefaults(
        # Engines before 24 do not list the option: then the first process says it, see _with_kernel.
        no_new_privileges=True if "name=no-new-privileges" in security else None,
        log_driver=info.get("LoggingDriver") or None,
        userns_remap=any(item.startswith("name=userns") for item in security),
    )


def _with_kernel(policy: Policy, table: ProcessTable, container: dict) -> Policy:
    """The policy with an engine default that shows only in the container's first process."""
    if policy.engine.no_new_privileges is None:
        first = next((item for item in table.of(container["Id"]) if item.inner_pid == 1), None)
        if first is not None and first.no_new_privs == 1:
            return replace(policy, engine=replace(policy.engine, no_new_privileges=True))
    return policy


def _judge_masks(audit: Audit, container: dict) -> None:
    """CMP-26: kernel paths that the engine hides. The client turns systempaths=unconfined into empty lists."""
    host = container.get("HostConfig") or {}
    if host.get("Privileged"):
        return
    seen = []
    for field, wanted in (("MaskedPaths", MASKED), ("ReadonlyPaths", READ_ONLY)):
        paths = host.get(field)
        if paths is None:  # engines fill the lists in; one that does not say has its defaults
            continue
        missing = [path for path in wanted if path not in paths]
        if missing:
            seen.append(f"{field} is empty" if not paths else f"{field} lacks {', '.join(missing)}")
    if seen:
        audit.find("CMP-26", name_of(container), f"{place_of(container)}: HostConfig.MaskedPaths", "; ".join(seen))


def _judge_label(audit: Audit, container: dict, security: Iterable[str]) -> None:
    """CMP-26: a container without the profile that the kernel could enforce."""
    host = container.get("HostConfig") or {}
    if host.get("Privileged") or not any(item.startswith("name=apparmor") for item in security):
        return
    stated = any(str(item).partition("=")[0].partition(":")[0] == "apparmor" for item in host.get("SecurityOpt") or ())
    profile = str(container.get("AppArmorProfile") or "")
    if profile in ("", "unconfined") and not stated:
        text = f"AppArmorProfile: {profile or 'none'}, and the kernel has AppArmor"
        audit.find("CMP-26", name_of(container), f"{place_of(container)}: AppArmorProfile", text)


def _judge_owner(audit: Audit, view: ContainerView) -> None:
    """CMP-07 where the processes decided about the user, which the rule for stated users does not look at."""
    owner = data_owner(view.image) if isinstance(view.image, str) else None
    uids = (view.process_uids or frozenset()) - {0}
    writes = any(mount.type == "volume" and not mount.read_only for mount in view.mounts)
    if owner is not None and uids and owner not in uids and writes:
        text = f"its processes run as {', '.join(str(uid) for uid in sorted(uids))}, the data of {view.image} belongs to {owner}"
        audit.find("CMP-07", view.subject, view.where("user"), text)


def _judge_all_networks(audit: Audit, snapshot: Snapshot, policy: Policy, projects: Iterable[str]) -> None:
    """NET-05 and NET-08 of the networks themselves, project by project because names are those of a project."""
    wanted = set(projects)
    groups: dict[str, list[dict]] = {}
    for network in snapshot.networks or ():
        owner = str((network.get("Labels") or {}).get(PROJECT_LABEL) or "")
        if not wanted or owner in wanted:
            groups.setdefault(owner, []).append(network)
    for owner, members in sorted(groups.items()):
        judge_networks(audit, [network_view(item, owner) for item in members], policy)


def audit_containers(
    audit: Audit,
    snapshot: Snapshot,
    table: ProcessTable,
    policy: Policy,
    sessions: Mapping[str, set[int]],
    projects: Iterable[str] = (),
) -> list[ContainerView]:
    """Judge every running container and the networks; ``audit`` has ``TABLE``. Returns the views."""
    active = snapshot.active()
    if not active:
        for number in TABLE:
            audit.not_applicable(number, "no container runs")
        return []
    if policy.engine == EngineDefaults():
        policy = replace(policy, engine=engine_defaults(snapshot.info))
    writers = writers_of(snapshot)
    views = []
    for container in active:
        view = view_of(container, snapshot, table, sessions.get(container["Id"], set()), writers)
        judge(audit, view, _with_kernel(policy, table, container))
        _judge_owner(audit, view)
        _judge_masks(audit, container)
        _judge_label(audit, container, snapshot.security)
        views.append(view)
    _judge_all_networks(audit, snapshot, policy, projects)
    for what, numbers in (
        ("containers", tuple(TABLE)),
        ("networks", ("NET-04", "NET-05", "NET-07", "NET-08")),
        ("volumes", ("CMP-21", "CMP-22")),
        ("info", ("CMP-05", "CMP-18", "CMP-19", "CMP-26")),
    ):
        if what in snapshot.problems:
            for number in numbers:
                audit.unknown(number, snapshot.problems[what])
    return views
