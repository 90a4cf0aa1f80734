# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judges the versions of engine, containerd and runc: DMN-16.

PRIVATE: internal to the collection, may change in any release. Standard library only.
"""

from __future__ import annotations

import re

from ansible_collections.mcpstack.platform.plugins.module_utils import _engine_floors as floors
from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import Files, Unreadable
from ansible_collections.mcpstack.platform.plugins.module_utils._debian_version import installed
from ansible_collections.mcpstack.platform.plugins.module_utils._host_probe import as_list

SUBJECT = "docker engine"

_PACKAGES = {"engine": ("docker.io", "docker-ce"), "containerd": ("containerd", "containerd.io"), "runc": ("runc",)}
_COMMUNITY = ("docker-ce", "containerd.io")
#: A version that a distribution changed.
_DISTRIBUTION = re.compile(r"[+~](dfsg|ds)[0-9]*")


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _release(files: Files) -> tuple[str, str]:
    """Id and code name of the distribution."""
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        if files.stat(path) is None:
            continue
        try:
            text = files.read(path, 1 << 16).decode("utf-8", "replace")
        except Unreadable:
            continue
        fields = dict(re.findall(r"(?m)^(ID|VERSION_CODENAME)=[\"']?([A-Za-z0-9._-]*)", text))
        return fields.get("ID", ""), fields.get("VERSION_CODENAME", "")
    return "", ""


def _components(version: dict) -> dict[str, tuple[str, str]]:
    """Version and commit of each component, as /version has them."""
    found = {}
    for item in as_list(version.get("Components")):
        if isinstance(item, dict) and isinstance(item.get("Details") or {}, dict):
            name = _text(item.get("Name")).lower()
            commit = _text((item.get("Details") or {}).get("GitCommit"))
            found[name] = (_text(item.get("Version")), commit)
    return {name: found[name] for name in _PACKAGES if name in found}


class _Versions:
    """What decides about one host."""

    def __init__(self, audit: Audit, files: Files, version: dict | None):
        self.audit = audit
        self.system, self.codename = _release(files)
        platform = (version or {}).get("Platform")
        self.community = "Community" in _text(platform.get("Name") if isinstance(platform, dict) else "")

    def find(self, where: str, evidence: str, **more) -> None:
        self.audit.find("DMN-16", SUBJECT, where, evidence, **more)

    def judge(self, floor: floors.Floor, shown: str, built: str, package: str, have: str) -> None:
        """One row of the table. shown: the running version. built: the package version that runs, where it says so."""
        if shown and floors.upstream_state(floor, shown) == floors.FIXED:
            return
        own = self.community or package in _COMMUNITY
        number, state = shown or have.rpartition(":")[2], floors.UNSURE
        if own:
            state = floors.upstream_state(floor, number)
        elif package and self.system == "debian":
            number = built or have
            state = floors.debian_state(floor, number, self.codename)
        elif package:  # another distribution: a number above the floor is enough, one below proves nothing
            state = floors.upstream_state(floor, have.rpartition(":")[2])
            state = state if state == floors.FIXED else floors.UNSURE
        date = f"table of {floors.DATE}"
        if state == floors.UNSURE:
            self.audit.unknown(
                "DMN-16", f"{floor.component} {number}: whether {floor.flaws} is fixed there is not known ({date})"
            )
        elif state == floors.UNFIXED:
            self.find(
                f"{floor.component} {number}",
                f"{floor.flaws}: no fixed package in {self.codename} ({date})",
                severity="medium",
                fix=f"Debian {self.codename} had no fixed package when the table was written: look at"
                f" security-tracker.debian.org, or install Docker's own packages ({floor.component}"
                f" {' or '.join(floor.upstream)}).",
            )
        elif state == floors.VULNERABLE:
            fixed = " or ".join(floor.upstream) if own else floor.debian[self.codename]
            self.find(
                f"{floor.component} {number}", f"{floor.flaws}: fixed in {fixed} ({date})", severity=floor.severity
            )

    def stale(self, component: str, shown: str, built: str, package: str, have: str) -> None:
        """A package was updated and what it replaced still runs. runc is started anew for every container."""
        plain = have.rpartition(":")[2]
        if component == "runc" or self.community or package in _COMMUNITY or "-" not in plain:
            return
        if plain != built if built else not plain.startswith(shown + "-"):
            if built or _DISTRIBUTION.search(shown):
                self.find(
                    component, f"{built or shown} runs, {package} {have} is installed", severity="medium",
                    fix=f"Restart {component}.",
                )  # fmt: skip


def audit_versions(audit: Audit, files: Files, version: dict | None, replaced: bool) -> None:
    """Report what is too old. version: the engine's answer. replaced: dockerd's program on disk is a newer one."""
    host = _Versions(audit, files, version)
    running = _components(version or {})
    packages = installed(files, [name for names in _PACKAGES.values() for name in names]) or {}
    if replaced:
        host.find(
            "dockerd", "the program was replaced by an update, the old one still runs", severity="medium",
            fix="Restart the engine.",
        )  # fmt: skip
    for component, names in _PACKAGES.items():
        shown, commit = running.get(component, ("", ""))
        package = next((name for name in names if name in packages), "")
        if not shown and not package:
            audit.unknown("DMN-16", f"the version of {component} is not known")
            continue
        # distributions put the version of the package where the project puts its commit
        built = commit if shown and commit.startswith(shown + "-") else ""
        for floor in floors.FLOORS:
            if floor.component == component:
                host.judge(floor, shown, built, package, packages.get(package, ""))
        if shown and package and not replaced:
            host.stale(component, shown, built, package, packages[package])
