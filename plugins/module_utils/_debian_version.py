# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian version numbers and the packages of a host, from its own files.

PRIVATE: internal to the collection, may change in any release. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import Files, Unreadable

STATUS = "/var/lib/dpkg/status"
#: Enough for the largest index; the database of a full desktop has some six megabytes.
INDEX_LIMIT = 96 << 20

_PARTS = re.compile(r"([^0-9]*)([0-9]*)")


def _weight(character: str) -> int:
    """deb-version(7): a tilde before the end, letters before everything else."""
    if character == "~":
        return -1
    return ord(character) if character.isalpha() else ord(character) + 256


def _key(text: str) -> tuple:
    key: list = []
    for other, digits in _PARTS.findall(text):
        # the end of a part sorts after a tilde and before anything else
        key.append((*map(_weight, other), 0))
        key.append(int(digits[:4000] or "0"))
    # an empty part equals one that is absent: what follows the end is "" and 0
    while len(key) >= 2 and key[-2:] == [(0,), 0]:
        del key[-2:]
    return (*key, (0,), 0)


def version_key(version: str) -> tuple:
    """Sorts as dpkg does."""
    epoch, colon, rest = version.strip().partition(":")
    if not colon:
        epoch, rest = "0", version.strip()
    upstream, dash, revision = rest.rpartition("-")
    if not dash:
        upstream, revision = rest, ""
    return (int(epoch[:9]) if epoch.isdecimal() and epoch.isascii() else 0, _key(upstream), _key(revision))


def compare(one: str, other: str) -> int:
    """-1, 0 or 1: the first version is older, the same or newer."""
    first, second = version_key(one), version_key(other)
    return (first > second) - (first < second)


def source_revision(version: str) -> str:
    """The version without the mark of a rebuild that changed no source (+b4)."""
    return re.sub(r"\+b[0-9]+$", "", version)


def stanzas(data: bytes, names: Collection[str] | None = None) -> dict[str, list[bytes]]:
    """Paragraphs of a package list by package name; all, or those of the names."""
    wanted = None if names is None else {name.encode() for name in names}
    found: dict[str, list[bytes]] = {}
    for stanza in data.replace(b"\r\n", b"\n").split(b"\n\n"):
        start = 0 if stanza.startswith(b"Package: ") else stanza.find(b"\nPackage: ") + 1
        if start == 0 and not stanza.startswith(b"Package: "):
            continue
        end = stanza.find(b"\n", start)
        name = stanza[start + 9 : end if end >= 0 else None].strip()
        if wanted is None or name in wanted:
            found.setdefault(name.decode("ascii", "replace"), []).append(stanza)
    return found


def field(stanza: bytes, name: str) -> str:
    """A field of one paragraph; empty when it is absent."""
    label = b"\n" + name.encode() + b": "
    start = stanza.find(label)
    if start < 0:
        return ""
    start += len(label)
    end = stanza.find(b"\n", start)
    return stanza[start : end if end >= 0 else None].decode("utf-8", "replace").strip()


def installed(files: Files, names: Collection[str] | None = None) -> dict[str, str] | None:
    """Versions of the installed packages by name; None where there is no database of dpkg."""
    if files.stat(STATUS) is None:
        return None
    try:
        data = files.read(STATUS, INDEX_LIMIT)
    except Unreadable:
        return None
    found = {}
    for name, entries in stanzas(data, names).items():
        for entry in entries:  # one per architecture, always of the same version
            if b" ok installed" in entry:
                found[name] = field(entry, "Version")
    return {name: version for name, version in found.items() if version}
