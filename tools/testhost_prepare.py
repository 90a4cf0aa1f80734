# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prepare a test host: its image (a minimal Debian with systemd and sshd, from this machine's own package mirror), a
free port for ssh, and how systemd must be started on this machine.

usage: testhost_prepare.py [SUITE]     prints one JSON object, see `prepare`

The tag is a hash of everything that goes in (recipe, suite, mirror, trust anchors, ISO week), so an unchanged recipe
is never built twice in a week, and a new week brings the week's security updates. The tar is kept in the cache
directory: removing the image from the engine costs two seconds, not a minute.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "molecule" / "_testhost"
CACHE = ROOT / ".cache" / "testhost"
REPOSITORY = "mcpstack-testhost"
SUITES = ("bookworm", "trixie")
ANCHORS = Path("/usr/local/share/ca-certificates")
CAPABILITY_NUMBERS = {"SYS_RESOURCE": 24}
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# A test host reaches the package mirror the way this machine does; nothing else of the machine's apt settings is taken.
APT_OPTIONS = re.compile(
    r'^Acquire::(?:https?::(?:Proxy|Timeout)|Check-Valid-Until|Check-Date|Retries|ForceIPv4)\s+"(.*)";$', re.I
)
MASKED_UNITS = [
    "systemd-modules-load.service",
    "systemd-udevd.service",
    "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket",
    "systemd-logind.service",
    "getty.target",
    "console-getty.service",
    "systemd-firstboot.service",
    "systemd-networkd-wait-online.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "fstrim.timer",
    "e2scrub_all.timer",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "dev-mqueue.mount",
    "dev-hugepages.mount",
    "proc-sys-fs-binfmt_misc.automount",
    "systemd-binfmt.service",
]


class ImageError(Exception):
    """A sentence for a person: what is wrong and what to do."""


def parse_mirrors(indextargets: str) -> tuple[str, str]:
    """(archive, security archive) out of `apt-get indextargets` lines "URI RELEASE COMPONENT"."""
    main = security = ""
    for line in indextargets.splitlines():
        fields = line.split()
        if len(fields) < 3 or fields[2] != "main":
            continue
        uri, release = fields[0].rstrip("/"), fields[1]
        if release.endswith("-security"):
            security = security or uri
        elif re.fullmatch(r"[a-z]+", release) and re.search(r"(^|[/.])debian(\b|$)", uri):
            main = main or uri
    if not main:
        raise ImageError(
            "This machine's apt sources name no Debian archive (a line with component 'main'): "
            "the test host is installed from the same mirror, so configure one in /etc/apt/sources.list.d."
        )
    if not security:
        security = re.sub(r"debian$", "debian-security", main)
    return main, security


def parse_apt_options(dump: str) -> list[str]:
    """The settings a test host shares with this machine, out of `apt-config dump`."""
    return [line for line in dump.splitlines() if (match := APT_OPTIONS.match(line)) and match.group(1)]


def sources(suite: str, main: str, security: str) -> list[str]:
    """The apt lines of a test host."""
    return [
        f"deb {main} {suite} main",
        f"deb {main} {suite}-updates main",
        f"deb {security} {suite}-security main",
    ]


def anchors(directory: Path = ANCHORS) -> list[Path]:
    """Locally added certification authorities: a mirror behind a corporate proxy needs them inside, too."""
    return sorted(directory.rglob("*.crt")) if directory.is_dir() else []


def tag(parts: list[bytes]) -> str:
    """Content tag of the image."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:12]


def _output(*argv: str) -> str:
    try:
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    except FileNotFoundError as exc:
        raise ImageError(f"{argv[0]} is not installed; run `make bootstrap`.") from exc
    except subprocess.CalledProcessError as exc:
        raise ImageError(f"`{' '.join(argv)}` failed: {exc.stderr.strip()}") from exc


def _docker(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *argv], capture_output=True, text=True, check=False)


def recipe(suite: str, lines: list[str], options: list[str], work: str, target: str) -> list[str]:
    """The mmdebstrap command line; `work` holds sources.list and 90build-machine."""
    packages = [
        line.strip()
        for line in (RECIPE / "packages.txt").read_text().splitlines()
        if line.strip() and not line.startswith("#")
    ]
    hooks = [
        'mkdir -p "$1/usr/local/share/ca-certificates"',
        f'install -m 0755 {RECIPE}/init.sh "$1/usr/local/sbin/testhost-init"',
        f'install -m 0644 {work}/sources.list "$1/etc/apt/sources.list"',
        'rm -f "$1/etc/apt/sources.list.d/0000sources.list"',
        f'install -m 0644 {work}/90build-machine "$1/etc/apt/apt.conf.d/90build-machine"',
        *(f'install -m 0644 {path} "$1/usr/local/share/ca-certificates/"' for path in anchors()),
        'chroot "$1" update-ca-certificates --fresh >/dev/null',
        *(f'ln -sf /dev/null "$1/etc/systemd/system/{unit}"' for unit in MASKED_UNITS),
        'printf "PermitRootLogin prohibit-password\\nPasswordAuthentication no\\nUseDNS no\\nMaxStartups 100\\n"'
        ' > "$1/etc/ssh/sshd_config.d/testhost.conf"',
        # Every host makes its own identity at its first start.
        'rm -f "$1"/etc/ssh/ssh_host_* "$1/etc/hostname" "$1/etc/resolv.conf"; : > "$1/etc/machine-id"',
        'rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*.bin "$1"/var/log/*.log "$1"/var/log/apt',
    ]
    return [
        "mmdebstrap", *([f"--keyring={KEYRING}"] if KEYRING.exists() else []),
        "--quiet", "--mode=root", "--format=tar", "--variant=minbase", "--include=" + ",".join(packages),
        "--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
        "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        *(f"--aptopt={option}" for option in options),
        *(f"--customize-hook={hook}" for hook in hooks),
        suite, target, f"{work}/sources.list",
    ]  # fmt: skip


def _mmdebstrap(suite: str, target: Path, lines: list[str], options: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="mcpstack-testhost-") as tmp:
        (Path(tmp) / "sources.list").write_text("".join(f"{line}\n" for line in lines))
        (Path(tmp) / "90build-machine").write_text("".join(f"{option}\n" for option in options))
        argv = recipe(suite, lines, options, tmp, str(target))
        done = subprocess.run(argv, check=False, capture_output=True, text=True)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-12:])
        raise ImageError(
            f"mmdebstrap could not install Debian {suite} for the test host (package mirror of this machine: "
            f"{lines[0]}):\n{tail}\nCheck that `apt-get update` works on this machine, then run the command again."
        )


def build(suite: str, say=lambda text: None) -> tuple[str, str]:
    """Make sure the engine has the image; returns (reference, built|cached|present)."""
    if suite not in SUITES:
        raise ImageError(f"There is no test host of suite '{suite}': choose one of {', '.join(SUITES)}.")
    main, security = parse_mirrors(
        _output("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages")
    )
    options = parse_apt_options(_output("apt-config", "dump", "Acquire"))
    lines = sources(suite, main, security)
    year, week, _ = datetime.datetime.now(tz=datetime.timezone.utc).isocalendar()
    steps = "\n".join(recipe(suite, lines, options, "", "")).replace(str(ROOT), "")
    content = [f"{year}-{week}".encode(), "\n".join([steps, *lines, *options]).encode()]
    content += [path.read_bytes() for path in (RECIPE / "init.sh", *anchors())]
    name = f"{suite}-{tag(content)}"
    reference = f"{REPOSITORY}:{name}"
    inspected = _docker("image", "inspect", "--format", "{{.Id}}", reference)
    if inspected.returncode == 0:
        return reference, "present"
    if "No such" not in inspected.stderr:
        raise ImageError(f"The Docker engine does not answer: {inspected.stderr.strip()}. Run `make bootstrap`.")
    CACHE.mkdir(parents=True, exist_ok=True)
    archive = CACHE / f"{name}.tar"
    state = "cached"
    if not archive.exists():
        state = "built"
        if os.geteuid() != 0:
            raise ImageError("Installing the test host's Debian needs root: run the command as root.")
        if shutil.disk_usage(CACHE).free < 2 * 1024**3:
            raise ImageError(f"Less than 2 GiB are free below {CACHE}: the test host's image needs room to be built.")
        say(f"installing Debian {suite} for the test hosts (about a minute, once a week)")
        begin = time.monotonic()
        partial = archive.with_suffix(".part")
        partial.unlink(missing_ok=True)
        _mmdebstrap(suite, partial, lines, options)
        partial.rename(archive)
        say(f"Debian {suite} installed in {time.monotonic() - begin:.0f} s ({archive.stat().st_size // 2**20} MiB)")
        for old in CACHE.glob(f"{suite}-*.tar"):
            if old != archive:
                old.unlink()
    imported = _docker("import", str(archive), reference)
    if imported.returncode:
        raise ImageError(f"The engine could not import the test host's image: {imported.stderr.strip()}")
    return reference, state


def missing_capabilities(status: str, names: tuple[str, ...] = ("SYS_RESOURCE",)) -> list[str]:
    """Capabilities this machine cannot give to a container, out of /proc/self/status; asking for them would fail."""
    match = re.search(r"^CapBnd:\s*([0-9a-f]+)$", status, re.M)
    if not match:
        return []
    bounding = int(match.group(1), 16)
    return [name for name in names if not bounding >> CAPABILITY_NUMBERS[name] & 1]


def free_port(lowest: int = 20000, highest: int = 32000) -> int:
    """A loopback port nobody listens on, below the range outgoing connections use (it must be free after a restart)."""
    span = highest - lowest
    start = secrets.randbelow(span)
    for step in range(span):
        port = lowest + (start + step) % span
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise ImageError(f"No port from {lowest} to {highest} is free on 127.0.0.1: stop what holds them.")


def start_options(cgroup_version: str) -> dict[str, object]:
    """What differs between machines with the old and the new control groups."""
    if cgroup_version == "2":
        return {"arguments": [], "cgroupns": "private", "volumes": []}
    return {
        # systemd refuses the old hierarchy unless it is asked for twice
        "arguments": ["systemd.unified_cgroup_hierarchy=0", "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"],
        "cgroupns": "host",
        "volumes": ["/sys:/sys:rw", "/sys/fs/cgroup:/sys/fs/cgroup:rw"],
    }


def prepare(suite: str, say=lambda text: None) -> dict[str, object]:
    """Image reference, its state (built, cached or present), ssh port and start options."""
    reference, state = build(suite, say)
    asked = _docker("info", "--format", "{{.CgroupVersion}}")
    return {
        "image": reference,
        "state": state,
        "ssh_port": free_port(),
        "cap_drop": missing_capabilities(Path("/proc/self/status").read_text()),
        **start_options(asked.stdout.strip()),
    }


def main(argv: list[str]) -> int:
    """Command line."""
    try:
        suite = argv[1] if len(argv) > 1 else "trixie"
        answer = prepare(suite, lambda text: print(f"    {text}", file=sys.stderr, flush=True))
    except ImageError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv))
