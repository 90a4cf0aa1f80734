# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The first versions of engine, containerd and runc that close known ways out of a container.

PRIVATE: internal to the collection, may change in any release. Standard library only.

The table is a floor, not a scanner: it holds what matters to an engine that Docker drives. Flaws of containerd's CRI
plugin, which Docker does not use, are not in it. What Debian fixed was read from the changelogs of its packages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ansible_collections.mcpstack.platform.plugins.module_utils._debian_version import compare, source_revision

#: The day on which the table was last held against the advisories and the package indices.
DATE = "2026-11-21"

FIXED, VULNERABLE, UNFIXED, UNSURE = "fixed", "vulnerable", "unfixed", "unsure"


@dataclass(frozen=True)
class Floor:
    """One group of flaws.

    upstream: the first fixed release of each series, oldest first; later series have the fix, others never got it.
    unsure: series of which it is not known. debian: by code name the first fixed version of the package, or with
    ``<=`` the last one that was seen without a fix when the table was written.
    """

    component: str
    flaws: str
    severity: str
    upstream: tuple[str, ...]
    debian: Mapping[str, str] = field(default_factory=dict)
    unsure: tuple[str, ...] = ()


FLOORS = (
    Floor("runc", "CVE-2024-21626", "high", ("1.1.12",), {"bookworm": "1.1.5+ds1-1+deb12u1", "trixie": "1.1.12+ds1-1"}),
    Floor(
        "runc", "CVE-2025-31133, CVE-2025-52565, CVE-2025-52881", "high", ("1.2.8", "1.3.3", "1.4.0-rc.3"),
        {"bookworm": "<=1.1.5+ds1-1+deb12u1", "trixie": "<=1.1.15+ds1-2"},
    ),
    Floor(
        "engine", "CVE-2026-41568, CVE-2026-42306", "high", ("29.5.1",), {"trixie": "26.1.5+dfsg1-9+deb13u1"},
        ("23.0", "25.0"),
    ),
    Floor(
        "containerd", "CVE-2024-40635", "medium", ("1.6.38", "1.7.27", "2.0.4"),
        {"bookworm": "1.6.20~ds1-1+deb12u2", "trixie": "1.7.24~ds1-6"},
    ),
    Floor(
        "containerd", "CVE-2024-25621", "high", ("1.7.29", "2.0.7", "2.1.5", "2.2.0"),
        {"bookworm": "1.6.20~ds1-1+deb12u2", "trixie": "1.7.24~ds1-6+deb13u1"},
    ),
)  # fmt: skip

_VERSION = re.compile(r"v?([0-9]{1,6})\.([0-9]{1,6})(?:\.([0-9]{1,6}))?(?:[-~.]?(alpha|beta|rc)\.?([0-9]{1,6})?)?")


def parse(version: str) -> tuple | None:
    """A release as something that sorts; a candidate sorts before its release. None when it is none."""
    match = _VERSION.match(version.strip())
    if not match:
        return None
    major, minor, patch, stage, number = match.groups()
    return (int(major), int(minor), int(patch or 0), 0 if stage else 1, stage or "", int(number or 0))


def upstream_state(floor: Floor, version: str) -> str:
    """By the number that the project gave it."""
    have = parse(version)
    if have is None:
        return UNSURE
    fixed = [key for key in map(parse, floor.upstream) if key is not None]
    if have >= max(fixed) or any(have[:2] == key[:2] and have >= key for key in fixed):
        return FIXED
    if f"{have[0]}.{have[1]}" in floor.unsure:
        return UNSURE
    return VULNERABLE


def debian_state(floor: Floor, package: str, codename: str) -> str:
    """By the version of Debian's package."""
    entry = floor.debian.get(codename, "")
    if not entry:
        return FIXED if upstream_state(floor, package.rpartition(":")[2]) == FIXED else UNSURE
    have = source_revision(package)
    if entry.startswith("<="):
        return UNFIXED if compare(have, entry[2:]) <= 0 else UNSURE
    return FIXED if compare(have, entry) >= 0 else VULNERABLE
