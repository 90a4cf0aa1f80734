# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which packages a host has, which of them we added, and which of those can go again without harming others.

PRIVATE: internal to the collection, may change in any release.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass

from ansible_collections.mcpstack.platform.plugins.module_utils._files import forget_state, save_state

STATUS = "var/lib/dpkg/status"
AUTOMATIC = "var/lib/apt/extended_states"
_FIELDS = ("Package", "Status", "Version", "Essential", "Depends", "Pre-Depends", "Recommends", "Provides")


class PackagesError(Exception):
    """The package database or the record cannot be read."""


@dataclass(frozen=True)
class Package:
    """One installed package: version, and the names it needs and stands for."""

    name: str
    version: str
    essential: bool
    needs: tuple[tuple[str, ...], ...]  # groups of alternatives
    provides: tuple[str, ...]


def _groups(text: str) -> list[tuple[str, ...]]:
    groups = []
    for group in text.split(","):
        alternatives = [re.split(r"[\s(:\[]", item.strip())[0] for item in group.split("|")]
        if any(alternatives):
            groups.append(tuple(filter(None, alternatives)))
    return groups


def installed(root: str = "/") -> dict[str, Package]:
    """Every installed package, from dpkg's own database."""
    path = os.path.join(root, STATUS)
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            text = handle.read()
    except OSError as exc:
        raise PackagesError(f"/{STATUS}: {exc.strerror}. Fix: this host must be Debian or Ubuntu with dpkg.") from exc
    found = {}
    for stanza in text.split("\n\n"):
        if "\nStatus: " not in f"\n{stanza}" or " installed" not in stanza:
            continue
        fields = {}
        for line in stanza.splitlines():
            name, colon, value = line.partition(":")
            if colon and name in _FIELDS:
                fields[name] = value.strip()
        if not fields.get("Status", "").endswith(" installed"):
            continue
        needs = [g for key in ("Pre-Depends", "Depends", "Recommends") for g in _groups(fields.get(key, ""))]
        provides = [name for group in _groups(fields.get("Provides", "")) for name in group]
        found[fields["Package"]] = Package(
            fields["Package"],
            fields.get("Version", ""),
            fields.get("Essential") == "yes",
            tuple(needs),
            tuple(provides),
        )
    return found


def interrupted(root: str = "/") -> bool:
    """Whether dpkg was killed in the middle and refuses to go on until it is told to finish."""
    try:
        return any(name.isdigit() for name in os.listdir(os.path.join(root, "var/lib/dpkg/updates")))
    except OSError:
        return False


def wanted(packages: dict[str, Package], names: list[str]) -> list[str]:
    """Of each "a | b" the first name, unless one of the alternatives is installed."""
    missing = []
    for group in names:
        alternatives = [name.strip() for name in group.split("|")]
        if not any(name in packages for name in alternatives) and alternatives[0] not in missing:
            missing.append(alternatives[0])
    return missing


def automatic(root: str = "/") -> set[str]:
    """Packages that apt installed only because others need them."""
    try:
        with open(os.path.join(root, AUTOMATIC), encoding="utf-8", errors="replace") as handle:
            text = handle.read()
    except FileNotFoundError:
        return set()
    return {
        re.search(r"^Package: (\S+)$", stanza, re.M).group(1)
        for stanza in text.split("\n\n")
        if re.search(r"^Auto-Installed: 1$", stanza, re.M) and re.search(r"^Package: (\S+)$", stanza, re.M)
    }


def removable(packages: dict[str, Package], asked: list[str], added: list[str], auto: set[str]) -> list[str]:
    """What we added and nothing that stays needs; what a person has installed by name since then stays too."""
    going = {name for name in added if name in packages and not packages[name].essential}
    going = {name for name in going if name in asked or name in auto}
    while True:
        staying = [package for name, package in packages.items() if name not in going]
        stood_for = {name for package in staying for name in (package.name, *package.provides)}
        blocked = set()
        for package in staying:
            for group in package.needs:
                if stood_for.intersection(group):
                    continue
                blocked |= {name for name in going if name in group or set(packages[name].provides).intersection(group)}
        if not blocked:
            return sorted(going)
        going -= blocked


class Record:
    """What we asked for, what came with it, and - while an installation is under way - what was there before."""

    def __init__(self, path: str):
        self.path = path
        try:
            with open(path, encoding="utf-8") as handle:
                self.data = json.load(handle)
            if self.data["version"] != 1:
                raise ValueError(f"version {self.data['version']}")
        except FileNotFoundError:
            self.data = None
        except (ValueError, KeyError, TypeError) as exc:
            raise PackagesError(
                f"{path}: cannot be read ({exc}). Fix: restore it from a backup, or remove it; "
                "the packages it names then stay installed at an uninstall."
            ) from exc

    def update(self, packages: dict[str, Package], missing: list[str]) -> bool:
        """Bring the record up to date; says whether it changed and must be saved."""
        data = self.data or {"version": 1, "asked": [], "added": [], "before": None}
        new = {**data, "asked": list(data["asked"]), "added": list(data["added"])}
        if new["before"] is not None:  # an installation was under way: what is new came with it
            came = sorted(set(packages) - set(new["before"]))
            new["added"] = sorted(set(new["added"]) | set(came))
        new["before"] = None
        if missing:
            new["asked"] = sorted(set(new["asked"]) | set(missing))
            new["before"] = sorted(packages)
        changed = new != self.data and (self.data is not None or bool(missing))
        if changed:
            self.data = new
        return changed

    def save(self) -> None:
        save_state(self.path, self.data)

    def forget(self) -> None:
        forget_state(self.path)
