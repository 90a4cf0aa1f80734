# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules for one container: what it may do, what it may use up and whether it is watched.

PRIVATE: internal to the collection, may change in any release. Standard library only.

``judge`` is the one entry: it calls the rules here and those about mounts and about ports and networks.
"""

from __future__ import annotations

import posixpath
import re

from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit
from ansible_collections.mcpstack.platform.plugins.module_utils._container_health import judge_health
from ansible_collections.mcpstack.platform.plugins.module_utils._container_images import (
    NOT_ROOT,
    STEPS_DOWN,
    data_owner,
    split_image,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._container_model import (
    ContainerView,
    Logging,
    Policy,
    Unknown,
    known,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._container_mounts import judge_mounts, judge_tmpfs
from ansible_collections.mcpstack.platform.plugins.module_utils._container_ports import judge_reach

#: What the engine grants a container that says nothing.
DEFAULT_CAPABILITIES = frozenset(
    """AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP SETGID SETPCAP SETUID
    SYS_CHROOT""".split()
)
CAPABILITY_TIERS = {
    "critical": frozenset("ALL SYS_ADMIN SYS_MODULE SYS_RAWIO".split()),
    "high": frozenset(
        """AUDIT_CONTROL BPF DAC_READ_SEARCH MAC_ADMIN MAC_OVERRIDE NET_ADMIN PERFMON SYS_BOOT SYS_PTRACE""".split()
    ),
    "medium": frozenset(
        """AUDIT_READ CHECKPOINT_RESTORE DAC_OVERRIDE IPC_OWNER LINUX_IMMUTABLE MKNOD NET_RAW SETFCAP SYSLOG SYS_PACCT
        SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG""".split()
    ),
    "low": frozenset("IPC_LOCK LEASE SYS_NICE".split()),
}
#: Spellings of true that the engine takes (strconv.ParseBool).
TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
BUILT_IN_LOG_DRIVERS = frozenset(
    "awslogs etwlogs fluentd gcplogs gelf journald json-file local logentries none splunk syslog".split()
)
_NUMBER = re.compile(r"^[+-]?[0-9]+$")
_GPU_DEVICE = re.compile(r"^(/dev/(nvidia[^/]*|nvidia-caps|dri|kfd)(/.*)?|[a-z0-9.-]+/(gpu|mig)=.+)$")
_STORAGE_DEVICE = re.compile(
    r"^/dev/?$|^/dev/(mem|kmem|port|kvm|kmsg|disk|mapper|block|bsg|bus|sd|hd|vd|xvd|nvme|dm-|md|loop|sr|sg|mmcblk|mtd|nbd|rbd|zd|zfs|zvol|char"
    r"|fuse|vfio|vhost|uinput|input)"
)
_INERT_DEVICE = re.compile(r"^/dev/(null|zero|full|random|urandom)$")
#: A ulimit above this is as good as none.
NOFILE_CEILING = 1 << 20


def capability(name: str) -> str:
    """Upper case, without the prefix. CAP_ALL stays: the engine refuses it."""
    name = name.strip().upper()
    return name if name == "CAP_ALL" else name.removeprefix("CAP_")


def number(text: str) -> int | None:
    """A number as the engine reads one: a sign and leading zeros are allowed."""
    return int(text) if len(text) < 20 and _NUMBER.match(text) else None


def starts_as_root(view: ContainerView) -> bool | None:
    """Whether the first process is root's, from what is stated; None where that cannot be known."""
    user = view.user if view.user not in (None, "") else view.image_user
    if isinstance(user, Unknown):
        return None
    name = (user or "").partition(":")[0]
    return name in ("", "root") or number(name) == 0


def _judge_privileges(audit: Audit, view: ContainerView, policy: Policy) -> None:
    """CMP-01 to CMP-05, CMP-25, CMP-26."""
    ids = ("CMP-01", "CMP-02", "CMP-03", "CMP-04", "CMP-05", "CMP-25", "CMP-26")
    audit.decide(*ids)
    if isinstance(view.privileged, Unknown):
        audit.unknown("CMP-01", view.privileged.reason)
    _judge_new_privileges(audit, view, policy)
    if view.privileged is True:
        audit.find("CMP-01", view.subject, view.where("privileged"), "privileged: true")
        return
    dropped = {capability(name) for name in view.cap_drop}
    if "ALL" not in dropped and not dropped >= DEFAULT_CAPABILITIES:
        text = f"cap_drop: [{', '.join(view.cap_drop)}]" if view.cap_drop else "nothing is dropped"
        if "CAP_ALL" in dropped:
            text += ", and the engine knows no CAP_ALL"
        audit.find("CMP-02", view.subject, view.where("cap_drop"), text)
    root = starts_as_root(view)
    for index, name in enumerate(view.cap_add):
        plain = "ALL" if capability(name) == "CAP_ALL" else capability(name)
        severity = next((level for level, names in CAPABILITY_TIERS.items() if plain in names), None)
        if severity is not None:
            audit.find(
                "CMP-03", view.subject, view.where("cap_add", index), f"cap_add: [{name}]", severity=severity
            )  # fmt: skip
        elif root is False:
            audit.find(
                "CMP-04", view.subject, view.where("cap_add", index), f"cap_add: [{name}] for a user other than root"
            )
    _judge_profiles(audit, view)


def _option(entry: str) -> tuple[str, str]:
    """(name, value) of a security option, split as the engine does: at "=", or at ":" where there is none."""
    name, _rest, value = entry.strip().partition("=" if "=" in entry else ":")
    return name, value


def _judge_new_privileges(audit: Audit, view: ContainerView, policy: Policy) -> None:
    state, place, text = policy.engine.no_new_privileges, None, "no-new-privileges is not set"
    for index, entry in enumerate(view.security_opt):
        name, value = _option(entry)
        if name == "no-new-privileges":
            state = value in TRUE or entry.strip() == "no-new-privileges"
            place, text = view.where("security_opt", index), entry
    if not state:
        audit.find("CMP-05", view.subject, place or view.where("security_opt"), text)


def _judge_profiles(audit: Audit, view: ContainerView) -> None:
    for index, entry in enumerate(view.security_opt):
        name, value = _option(entry)
        value = value.lower()
        place = view.where("security_opt", index)
        if name == "seccomp" and value == "unconfined":
            audit.find("CMP-25", view.subject, place, entry)
        elif (name in ("apparmor", "systempaths") and value == "unconfined") or (
            name == "label" and value in ("disable", "type:spc_t")
        ):
            audit.find("CMP-26", view.subject, place, entry)


def _judge_user(audit: Audit, view: ContainerView) -> None:
    """CMP-06 and CMP-07."""
    audit.decide("CMP-06", "CMP-07")
    place = view.where("user")
    if view.process_uids is not None:
        if 0 in view.process_uids:
            audit.find("CMP-06", view.subject, place, "a process of it runs with uid 0 of the container")
        return
    stated, source = view.user, "user"
    if stated in (None, ""):
        stated, source = view.image_user, "the image's user"
    if isinstance(stated, Unknown):
        _judge_image_user(audit, view, place, stated)
        return
    name, _rest, group = (stated or "").partition(":")
    uid = number(name)
    if name in ("", "root") or uid == 0:
        text = f"{source} is {stated}" if stated else "neither the container nor its image states a user: root"
        audit.find("CMP-06", view.subject, place, text)
    elif group == "root" or number(group) == 0:
        audit.find("CMP-06", view.subject, place, f"{source} is {stated}: in the group of root", severity="low")
    elif uid is None:
        audit.find(
            "CMP-06", view.subject, place, f"{source} is {name}: a name, which the image resolves", severity="low"
        )
    elif not group and source == "user":
        audit.find(
            "CMP-06", view.subject, place, f"user is {name}: in group 0 unless the image knows the user",
            severity="info",
        )  # fmt: skip
    if uid and isinstance(view.image, str):
        owner = data_owner(view.image)
        if owner not in (None, uid) and any(mount.type == "volume" and not mount.read_only for mount in view.mounts):
            audit.find("CMP-07", view.subject, place, f"user is {uid}, the data of {view.image} belongs to {owner}")


def _judge_image_user(audit: Audit, view: ContainerView, place: str, why: Unknown) -> None:
    image = split_image(view.image)[0] if isinstance(view.image, str) else ""
    if image in NOT_ROOT:
        return
    if image in STEPS_DOWN:
        text = "user is not stated: the image begins as root and steps down itself"
    elif isinstance(view.user, Unknown):
        audit.unknown("CMP-06", f"{view.subject}: {why.reason}")
        return
    else:
        text = f"user is not stated, and {why.reason}"
    audit.find("CMP-06", view.subject, place, text, severity="medium", title="User is not stated")


def _limit(value: object) -> bool:
    return isinstance(value, (int, float)) and value > 0


def _judge_limits(audit: Audit, view: ContainerView) -> None:
    """CMP-10 to CMP-13."""
    audit.decide("CMP-10", "CMP-11", "CMP-12", "CMP-13")
    for check_id, field in (("CMP-10", "memory"), ("CMP-11", "cpus"), ("CMP-12", "pids")):
        value = getattr(view, field)
        if isinstance(value, Unknown):
            audit.unknown(check_id, f"{view.subject}: {value.reason}")
    memory, swap = known(view.memory), known(view.memswap)
    if not isinstance(view.memory, Unknown) and not _limit(memory):
        audit.find(
            "CMP-10", view.subject, view.where("memory"), "no memory limit" if memory is None else f"limit {memory}"
        )
    elif _limit(memory) and not isinstance(view.memswap, Unknown) and (swap is None or swap < 0 or swap > memory):
        text = (
            "swap is not limited: the engine allows as much again"
            if not swap
            else "swap is unlimited"
            if swap < 0
            else f"{swap - memory} bytes of swap beyond the memory limit"
        )
        audit.find(
            "CMP-10", view.subject, view.where("memswap"), text, severity="low", title="Swap is not limited"
        )  # fmt: skip
    if not isinstance(view.cpus, Unknown) and not (
        _limit(known(view.cpus)) or _limit(known(view.cpu_quota)) or known(view.cpuset)
    ):
        shares = known(view.cpu_shares)
        audit.find(
            "CMP-11", view.subject, view.where("cpu_shares" if shares else "cpus"),
            f"only a weight: {shares} shares" if shares else "no processor limit",
            severity="low" if shares else None,
        )  # fmt: skip
    if not isinstance(view.pids, Unknown) and not _limit(view.pids):
        text = "no limit of processes" if view.pids is None else f"limit {view.pids}: unlimited"
        audit.find("CMP-12", view.subject, view.where("pids"), text)
    for name, (soft, hard) in sorted(view.ulimits.items()):
        open_end = hard < 0 or soft < 0
        if open_end or (name == "core" and max(soft, hard) > 0) or (name == "nofile" and hard > NOFILE_CEILING):
            text = f"ulimit {name}: {'unlimited' if open_end else hard}"
            if name not in ("memlock", "rtprio", "stack") or not open_end:
                audit.find("CMP-13", view.subject, view.where("ulimits", name), text)
    if known(view.oom_kill_disable):
        audit.find("CMP-13", view.subject, view.where("oom_kill_disable"), "oom_kill_disable: true")
    score = known(view.oom_score_adj)
    if score is not None and score < 0:
        audit.find("CMP-13", view.subject, view.where("oom_score_adj"), f"oom_score_adj: {score}")


def _judge_namespaces(audit: Audit, view: ContainerView, policy: Policy) -> None:
    """CMP-17 to CMP-20."""
    audit.decide("CMP-17", "CMP-18", "CMP-19", "CMP-20")
    if known(view.network_mode) == "host":
        audit.find("CMP-17", view.subject, view.where("network_mode"), "network_mode: host")
    elif any(network.name == "host" for network in view.networks):
        audit.find("CMP-17", view.subject, view.where("networks"), "network host")
    for field, key in (("pid_mode", "pid"), ("ipc_mode", "ipc"), ("uts_mode", "uts"), ("cgroup_mode", "cgroup")):
        if known(getattr(view, field)) == "host":
            audit.find("CMP-18", view.subject, view.where(field), f"{key}: host")
    if known(view.userns_mode) == "host" and policy.engine.userns_remap is not False:
        audit.find("CMP-19", view.subject, view.where("userns_mode"), "userns_mode: host")
    for field, key in (("network_mode", "network_mode"), ("pid_mode", "pid"), ("ipc_mode", "ipc")):
        mode = known(getattr(view, field)) or ""
        if mode.startswith(("container:", "service:")):
            audit.find("CMP-20", view.subject, view.where(field), f"{key}: {mode}")
        elif mode == "shareable":
            audit.find("CMP-20", view.subject, view.where(field), f"{key}: {mode}", severity="low")


def _judge_file_system(audit: Audit, view: ContainerView) -> None:
    """CMP-08."""
    audit.decide("CMP-08")
    if isinstance(view.read_only, Unknown):
        audit.unknown("CMP-08", f"{view.subject}: {view.read_only.reason}")
    elif not view.read_only:
        text = "read_only is not set" if view.read_only is None else "read_only: false"
        audit.find("CMP-08", view.subject, view.where("read_only"), text)


def _judge_restart(audit: Audit, view: ContainerView, policy: Policy) -> None:
    """CMP-14."""
    audit.decide("CMP-14")
    if isinstance(view.restart, Unknown):
        audit.unknown("CMP-14", f"{view.subject}: {view.restart.reason}")
        return
    policy_name = (view.restart or "no").partition(":")[0]
    if view.name in policy.oneshots:
        if policy_name != "no":
            text = f"restart: {view.restart}, although it is started for one command"
            audit.find("CMP-14", view.subject, view.where("restart"), text)
        return
    if policy_name in policy.restart:
        return
    check = known(view.healthcheck)
    meant_to_run = bool(view.ports) or (check is not None and not check.disabled)
    if policy_name != "no" or meant_to_run:
        text = f"restart: {view.restart}" if view.restart else "no restart policy"
        audit.find("CMP-14", view.subject, view.where("restart"), text)


def _judge_devices(audit: Audit, view: ContainerView, policy: Policy) -> None:
    """CMP-24."""
    audit.decide("CMP-24")
    may_have_gpus = policy.gpu_services is None or view.name in policy.gpu_services
    for index, device in enumerate(view.devices):
        place = view.where("devices", index)
        path = posixpath.normpath(device.host).replace("//", "/") if device.host.startswith("/") else device.host
        gpu = bool(_GPU_DEVICE.match(path))
        if _INERT_DEVICE.match(path) or not set(device.permissions.lower()) & {"r", "w"}:
            continue
        if gpu and may_have_gpus:
            if device.host.endswith("=all"):
                audit.find("CMP-24", view.subject, place, device.host, severity="low", title="All GPUs are granted")
            continue
        severity = "high" if gpu or _STORAGE_DEVICE.match(path) else "medium"
        audit.find(
            "CMP-24", view.subject, place, f"{device.host}:{device.container or device.host}:{device.permissions}",
            severity=severity,
        )  # fmt: skip
    for index, rule in enumerate(view.device_cgroup_rules):
        severity = "high" if rule.strip()[:1] in ("a", "b") or re.match(r"^c\s+\*", rule.strip()) else "medium"
        audit.find(
            "CMP-24", view.subject, view.where("device_cgroup_rules", index), f"rule {rule}", severity=severity
        )  # fmt: skip
    for index, request in enumerate(view.device_requests):
        place = view.where("device_requests", index)
        what = request.driver or ", ".join(request.capabilities) or "devices"
        if not may_have_gpus:
            audit.find("CMP-24", view.subject, place, f"{what}: not one of the declared GPU services")
        elif not request.ids and request.count in (None, -1):
            audit.find("CMP-24", view.subject, place, f"{what}: all", severity="low", title="All GPUs are granted")


def _judge_logging(audit: Audit, view: ContainerView, policy: Policy) -> None:
    """CMP-28."""
    audit.decide("CMP-28")
    if isinstance(view.logging, Unknown):
        audit.unknown("CMP-28", f"{view.subject}: {view.logging.reason}")
        return
    stated = view.logging or Logging()
    place = view.where("logging")
    driver, options, severity = stated.driver, stated.options, None
    if not driver:
        driver = policy.engine.log_driver
        if driver in (None, "json-file") and options.get("max-size"):
            driver = "json-file"
        elif driver is None:
            audit.find(
                "CMP-28", view.subject, place, "no log driver is stated, and the engine's default is not known here",
                severity="low", title="Rotation of logs is left to the engine",
            )  # fmt: skip
            return
        else:
            # an engine's own options count only for its own driver, and only where the container names no driver
            options = {**policy.engine.log_options, **options}
    if driver == "none":
        if view.name not in policy.oneshots:
            audit.find("CMP-28", view.subject, place, "log driver none")
    elif driver == "json-file" and not re.match(
        r"^0*[1-9][0-9.]*\s*[kmgt]?i?b?$", str(options.get("max-size", "")).lower()
    ):
        size = options.get("max-size")
        audit.find(
            "CMP-28", view.subject, place, f"json-file with max-size {size}" if size else "json-file without max-size"
        )
    elif driver not in BUILT_IN_LOG_DRIVERS:
        severity = "low"
        audit.find("CMP-28", view.subject, place, f"log driver {driver} is a plugin", severity=severity)


def judge(audit: Audit, view: ContainerView, policy: Policy) -> None:
    """Decide every check that one container's view decides, and add what is found.

    NET-05 and NET-08 of the networks themselves are ``_container_ports.judge_networks``.
    """
    _judge_privileges(audit, view, policy)
    _judge_user(audit, view)
    _judge_file_system(audit, view)
    judge_tmpfs(audit, view)
    _judge_limits(audit, view)
    _judge_restart(audit, view, policy)
    judge_health(audit, view, policy)
    _judge_namespaces(audit, view, policy)
    judge_mounts(audit, view, policy)
    _judge_devices(audit, view, policy)
    _judge_logging(audit, view, policy)
    judge_reach(audit, view, policy)
