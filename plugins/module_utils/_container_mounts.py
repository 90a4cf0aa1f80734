# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules about what a container mounts: engine sockets, the host's own directories, propagation, configuration, tmpfs.

PRIVATE: internal to the collection, may change in any release. Standard library only.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator

from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit
from ansible_collections.mcpstack.platform.plugins.module_utils._container_model import (
    ContainerView,
    Mount,
    Policy,
    Tmpfs,
)

#: Links that every host has. The engine cleans a path by its text before it follows a link, so this comes after normpath.
LINKS = (
    ("/proc/self/root", "/"),
    ("/proc/thread-self/root", "/"),
    ("/proc/1/root", "/"),
    ("/var/run", "/run"),
    ("/var/lock", "/run/lock"),
    ("/bin", "/usr/bin"),
    ("/sbin", "/usr/sbin"),
    ("/lib", "/usr/lib"),
    ("/lib64", "/usr/lib64"),
)
#: A socket of an engine under any of these names is one wherever it lies.
SOCKET_NAMES = frozenset(
    {"docker.sock", "podman.sock", "containerd.sock", "crio.sock", "cri-dockerd.sock", "buildkitd.sock"}
)
#: Directories that hold an engine's socket, and what is above them.
ENGINE_TREES = (
    "/run/docker",
    "/run/containerd",
    "/run/podman",
    "/run/crio",
    "/run/k3s",
    "/run/buildkit",
    "/run/libpod",
)
ENGINE_SELF = frozenset(
    {"/", "/run", "/var", "/var/lib", "/var/lib/docker", "/var/lib/containerd", "/var/lib/containers", "/run/user"}
)
_USER_RUN = re.compile(r"^/run/user/[0-9]+(/(podman|docker|containerd|docker\.pid)(/.*)?)?$")
#: The host's own directories that are meant as a whole, but in which a project may have a directory of its own.
HOST_SELF = frozenset({"/etc", "/usr", "/usr/local", "/home", "/root", "~"})
#: Sockets that obey whoever reaches them: systemd, the system bus and libvirt run commands on the host. Read-only is no help.
CONTROL_TREES = ("/run/dbus", "/run/libvirt", "/run/systemd")
#: The host's own directories with everything in them.
HOST_TREES = (
    "/boot",
    "/dev",
    "/proc",
    "/sys",
    "/usr/bin",
    "/usr/sbin",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/libexec",
    "/usr/local/bin",
    "/usr/local/sbin",
    "/usr/local/lib",
    "/etc/audit",
    "/etc/containerd",
    "/etc/containers",
    "/etc/credstore",
    "/etc/credstore.encrypted",
    "/etc/cron.d",
    "/etc/cron.daily",
    "/etc/cron.hourly",
    "/etc/cron.monthly",
    "/etc/cron.weekly",
    "/etc/crontab",
    "/etc/docker",
    "/etc/gshadow",
    "/etc/init.d",
    "/etc/kubernetes",
    "/etc/ld.so.conf.d",
    "/etc/ld.so.preload",
    "/etc/modprobe.d",
    "/etc/pam.d",
    "/etc/profile.d",
    "/etc/security",
    "/etc/shadow",
    "/etc/ssh",
    "/etc/ssl/private",
    "/etc/sudoers",
    "/etc/sudoers.d",
    "/etc/sysctl.d",
    "/etc/systemd",
    "/etc/udev",
    "/run/credentials",
    *CONTROL_TREES,
    "/run/udev",
    "/run/user",
    "/var/lib/containerd",
    "/var/lib/containers",
    "/var/lib/docker",
    "/var/lib/dpkg",
    "/var/lib/kubelet",
    "/var/lib/rancher",
    "/var/lib/systemd",
    "/var/spool/cron",
)
#: Read by programs everywhere; only writing to them matters.
HARMLESS_TO_READ = frozenset(
    {"/etc/group", "/etc/passwd", "/etc/profile", "/etc/ld.so.conf", "/etc/fstab", "/etc/bash.bashrc"}
)
#: Where this platform keeps what each service alone may read, and what is above the directories of the services there.
PRIVATE_TREES = {"/var/lib/mcpstack/pki": ("/leaves",), "/run/mcpstack/secrets": ("",)}
INERT_DEVICES = frozenset({"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"})
CREDENTIAL_DIRECTORIES = frozenset({".ssh", ".aws", ".azure", ".docker", ".gnupg", ".kube", ".config/gcloud", ".netrc"})
#: File systems that the volume driver mounts in the host's own namespaces: where their content is found on the host.
KERNEL_FILE_SYSTEMS = {
    "proc": "/proc",
    "sysfs": "/sys",
    "debugfs": "/sys/kernel/debug",
    "tracefs": "/sys/kernel/tracing",
    "securityfs": "/sys/kernel/security",
    "bpf": "/sys/fs/bpf",
    "cgroup": "/sys/fs/cgroup",
    "cgroup2": "/sys/fs/cgroup",
    "devtmpfs": "/dev",
}
#: The host's trees in which a directory that a container writes is worth a word.
HOST_WRITABLE = ("/boot", "/etc", "/opt", "/run", "/usr", "/var")
_CONFIG_TARGET = re.compile(
    r"^/(etc|run/secrets|run/tls|run/certs|config\.d)(/|$)"
    r"|\.(conf|cnf|cfg|ini|toml|ya?ml|json|properties|crt|cer|pem|key|htpasswd)$"
    r"|/(conf\.d|certs|ssl|tls|secrets|provisioning)/?$"
)
_PROPAGATES = frozenset({"shared", "rshared", "slave", "rslave"})


def _below(path: str, root: str) -> bool:
    return path == root or path.startswith(root + "/")


def host_path(path: str) -> str:
    """The path as the engine reaches it: normalised by its text, then through the links that every host has."""
    path = posixpath.normpath(path)
    if path.startswith("//"):
        path = path[1:]
    for _round in range(8):
        for link, target in LINKS:
            if _below(path, link):
                path = posixpath.normpath(target + "/" + path[len(link) :]).replace("//", "/")
                break
        else:
            return path
    return path


def sources(mount: Mount) -> Iterator[tuple[str, bool]]:
    """(path on the host, writable) of everything that a mount brings in from the host, also through a volume's options."""
    if mount.type in ("bind", "npipe"):
        if mount.source:
            yield mount.source, not mount.read_only
        return
    if mount.type != "volume" or (mount.driver or "local") != "local":
        return
    kind = str(mount.driver_opts.get("type") or "").strip().lower()
    device = str(mount.driver_opts.get("device") or "").strip()
    options = [word.strip() for word in str(mount.driver_opts.get("o") or "").split(",")]
    writable = not mount.read_only and "ro" not in options
    if kind in KERNEL_FILE_SYSTEMS:
        yield KERNEL_FILE_SYSTEMS[kind], writable
    elif "bind" in options or "rbind" in options or kind in ("bind", "rbind"):
        if device:
            yield device, writable
    elif device.startswith("/dev/"):
        yield device, writable
    for option in options:
        name, _rest, value = option.partition("=")
        if name in ("lowerdir", "upperdir"):
            for path in value.split(":"):
                if path.startswith("/"):
                    yield path, writable and name == "upperdir"


def reaches_engine(path: str) -> bool:
    """Whether a path on the host is an engine's socket, or a directory in which one is found."""
    if posixpath.basename(path) in SOCKET_NAMES or path.lower().replace("\\", "/").endswith("/pipe/docker_engine"):
        return True
    path = host_path(path)
    return (
        path in ENGINE_SELF
        or posixpath.basename(path) in SOCKET_NAMES
        or any(_below(path, tree) for tree in ENGINE_TREES)
        or bool(_USER_RUN.match(path))
    )


def _credentials(path: str) -> bool:
    """Whether a path is a whole home directory, or where one keeps credentials."""
    for home in ("/root", "~"):
        if _below(path, home):
            rest = path[len(home) + 1 :]
            break
    else:
        if not path.startswith("/home/"):
            return False
        _user, _rest, rest = path[len("/home/") :].partition("/")
        if not rest:
            return True
    return any(_below(rest, name) for name in CREDENTIAL_DIRECTORIES)


def sensitive(path: str, writable: bool) -> bool:
    """Whether a path belongs to the host itself and not to a project."""
    path = host_path(path)
    if path in INERT_DEVICES:
        return False
    if path in HARMLESS_TO_READ:
        return writable
    return path in HOST_SELF or _credentials(path) or any(_below(path, tree) for tree in HOST_TREES)


def of_another(path: str, service: str) -> bool:
    """Whether a path of the platform holds what only another service may read: its secrets, its key, or the authority's key."""
    mounted = host_path(path)
    return any(
        _below(tree, mounted)
        or (_below(mounted, tree) and not any(_below(mounted, f"{tree}{own}/{service}") for own in owned))
        for tree, owned in PRIVATE_TREES.items()
    )


def _spell(mount: Mount, source: str) -> str:
    text = f"{source}:{mount.target}"
    if mount.type == "volume" and source != mount.source:
        text = f"volume {mount.source} of {text}"
    return text + (":ro" if mount.read_only else "")


def _judge_sources(audit: Audit, view: ContainerView, policy: Policy, mount: Mount, place: str) -> bool:
    """CMP-21 and CMP-22: of one mount the worst, once. Whether something was found."""
    found = list(sources(mount))
    if any(reaches_engine(source) for source, _writable in found) or (
        mount.type == "bind" and posixpath.basename(mount.target) in SOCKET_NAMES
    ):
        source = next((source for source, _writable in found if reaches_engine(source)), mount.source or "")
        proxy = view.name in policy.socket_proxies and not view.ports
        if not (proxy and posixpath.basename(source) in SOCKET_NAMES):
            audit.find("CMP-21", view.subject, place, _spell(mount, source))
        return True
    for source, writable in found:
        if sensitive(source, writable):
            control = any(_below(host_path(source), tree) for tree in CONTROL_TREES)
            severity = "critical" if writable or control else "high"
            audit.find("CMP-22", view.subject, place, _spell(mount, source), severity=severity)
            return True
        if of_another(source, view.name):
            audit.find(
                "CMP-22", view.subject, place, f"{_spell(mount, source)} holds keys or secrets that are not {view.name}'s",
                severity="high", fix="Mount the service's own directory below it, read-only.",
            )  # fmt: skip
            return True
    return False


def _judge_use(audit: Audit, view: ContainerView, mount: Mount, place: str) -> None:
    """CMP-27: writable configuration, shared volumes, missing sources. Of one mount the first that holds."""
    if mount.exists is False:
        what = "the engine makes it as a directory of root" if mount.creates else "the container does not start"
        audit.find("CMP-27", view.subject, place, f"{mount.source} does not exist: {what}")
    elif mount.read_only or mount.source is None or mount.type not in ("bind", "volume"):
        return
    elif mount.shared_with:
        if view.name < min(mount.shared_with):  # one finding for a volume, not one for each of its users
            others = ", ".join(sorted(mount.shared_with))
            audit.find("CMP-27", view.subject, place, f"{mount.source} is written by {view.name} and {others}")
    elif mount.type == "bind" and _CONFIG_TARGET.search(mount.target):
        audit.find("CMP-27", view.subject, place, f"{_spell(mount, mount.source)} is writable")
    elif mount.type == "bind" and any(_below(host_path(mount.source), tree) for tree in HOST_WRITABLE):
        audit.find(
            "CMP-27", view.subject, place, f"{_spell(mount, mount.source)} is writable", severity="low",
            fix="Mount it read-only, or keep what the container writes in a named volume.",
        )  # fmt: skip


def judge_mounts(audit: Audit, view: ContainerView, policy: Policy) -> None:
    """CMP-21, CMP-22, CMP-23 and CMP-27."""
    audit.decide("CMP-21", "CMP-22", "CMP-23", "CMP-27")
    for index, mount in enumerate(view.mounts):
        place = view.where("mounts", index)
        reported = _judge_sources(audit, view, policy, mount, place)
        if mount.propagation in _PROPAGATES:
            audit.find("CMP-23", view.subject, place, f"{_spell(mount, mount.source or '')} with {mount.propagation}")
        if not reported:
            _judge_use(audit, view, mount, place)


def tmpfs_faults(mount: Tmpfs) -> list[str]:
    """What is open about a tmpfs, in the engine's terms: its defaults first, then the options, the last one counts."""
    safe = {"exec": True, "suid": True, "dev": True}
    size = ""
    for option in mount.options:
        name, _rest, value = option.strip().partition("=")
        if name in safe:
            safe[name] = False
        elif name.startswith("no") and name[2:] in safe:
            safe[name[2:]] = True
        elif name == "defaults":
            safe = dict.fromkeys(safe, False)
        elif name in ("size", "nr_blocks"):
            size = value.strip()
    faults = [name for name, closed in safe.items() if not closed]
    if not size or re.fullmatch(r"0+[a-z%]*", size.lower()):
        faults.append("no size")
    return faults


def judge_tmpfs(audit: Audit, view: ContainerView) -> None:
    """CMP-09."""
    audit.decide("CMP-09")
    for index, mount in enumerate(view.tmpfs):
        faults = tmpfs_faults(mount)
        if faults:
            audit.find("CMP-09", view.subject, view.where("tmpfs", index), f"{mount.target}: {', '.join(faults)}")
