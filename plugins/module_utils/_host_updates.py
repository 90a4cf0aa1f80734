# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pending security updates, read from the package index that lies on the host (HST-10).

PRIVATE: internal to the collection, may change in any release. Standard library only.
"""

from __future__ import annotations

import datetime
import email.utils
import re
import zlib

from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import Files, Unreadable
from ansible_collections.mcpstack.platform.plugins.module_utils._debian_version import (
    INDEX_LIMIT,
    compare,
    field,
    installed,
    stanzas,
)

LISTS = "/var/lib/apt/lists"
REBOOT = ("/run/reboot-required", "/var/run/reboot-required")
SUBJECT = "host"
#: An index older than this says nothing about today.
MAX_AGE = 7
_SHOWN = 8
#: A host that watches a security suite has it in the name of the list.
_SECURITY = re.compile(r"_dists_[^_]*security[^_]*_")


def _reboot(audit: Audit, files: Files) -> None:
    path = next((path for path in REBOOT if files.stat(path) is not None), "")
    if not path:
        if not any(files.knows(path) for path in REBOOT):
            audit.unknown("HST-10", f"{REBOOT[0]} is not among the files at hand")
        return
    packages = ""
    if files.stat(f"{path}.pkgs") is not None:
        try:
            packages = ", ".join(sorted(set(files.read(f"{path}.pkgs", 1 << 16).decode("utf-8", "replace").split())))
        except Unreadable:
            packages = ""
    audit.find(
        "HST-10", SUBJECT, path, f"a reboot is required{f' by {packages}' if packages else ''}", fix="Reboot the host."
    )


def _published(files: Files, release: str) -> datetime.date | None:
    """The day on which an index was signed."""
    try:
        text = files.read(release, 1 << 20).decode("utf-8", "replace")
    except Unreadable:
        return None
    match = re.search(r"(?m)^Date: (.{10,60})$", text)
    if not match:
        return None
    try:
        return email.utils.parsedate_to_datetime(match.group(1).strip()).date()
    except (TypeError, ValueError, IndexError, OverflowError):
        return None


def _index(files: Files, path: str) -> bytes:
    data = files.read(path, INDEX_LIMIT)
    if path.endswith(".gz"):
        try:
            unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
            return unpacker.decompress(data, INDEX_LIMIT)
        except zlib.error as error:
            raise Unreadable(path, f"is damaged: {error}", "run apt-get update") from error
    if not path.endswith("_Packages"):
        raise Unreadable(path, "is packed in a way that Python cannot unpack", "run apt-get update without compression")
    return data


def audit_updates(audit: Audit, files: Files, today: datetime.date) -> None:
    """HST-10."""
    _reboot(audit, files)
    have = installed(files)
    if have is None:
        audit.unknown("HST-10", "no package database of dpkg: what is installed is not known")
        return
    names = files.names(LISTS)
    lists = [name for name in names if re.search(r"_Packages(\.[a-z0-9]+)?$", name) and _SECURITY.search(name)]
    if not lists:
        audit.unknown("HST-10", f"{LISTS} holds no index of a security suite: run apt-get update")
        return
    newest: datetime.date | None = None
    for name in sorted({re.sub(r"_dists_([^_]+)_.*$", r"_dists_\1", name) for name in lists}):
        release = next((f"{name}_{kind}" for kind in ("InRelease", "Release") if f"{name}_{kind}" in names), "")
        day = _published(files, f"{LISTS}/{release}") if release else None
        if day is None:
            audit.unknown("HST-10", f"{name}: the age of the index is not known")
        else:
            newest = day if newest is None else min(newest, day)
    age = None if newest is None else (today - newest).days
    pending: dict[str, str] = {}
    for name in lists:
        try:
            for package, entries in stanzas(_index(files, f"{LISTS}/{name}"), have).items():
                for entry in entries:
                    offered = field(entry, "Version")
                    if offered and offered != have[package] and compare(offered, have[package]) > 0:
                        if package not in pending or compare(offered, pending[package]) > 0:
                            pending[package] = offered
        except Unreadable as error:
            audit.unknown("HST-10", str(error))
    when = "of unknown age" if newest is None else f"of {newest}, {age} day{'' if age == 1 else 's'} old"
    if pending:
        shown = [f"{name} {have[name]} < {pending[name]}" for name in sorted(pending)[:_SHOWN]]
        more = f" and {len(pending) - _SHOWN} more" if len(pending) > _SHOWN else ""
        audit.find("HST-10", SUBJECT, LISTS, f"index {when}; {len(pending)} pending: {', '.join(shown)}{more}")
    if age is not None and age > MAX_AGE:
        audit.unknown("HST-10", f"the index of the security suite is {when}: run apt-get update")
    audit.decide("HST-10")
