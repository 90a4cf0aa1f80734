# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds shared libraries that an image lacks, by reading what each of its programs and libraries asks for.

PRIVATE, may change at any time. Standard library only.
"""

from __future__ import annotations

import posixpath
import struct
from dataclasses import dataclass, field

from ._image_deb import Tree, merged

_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NEEDED, _DT_STRTAB, _DT_RPATH, _DT_RUNPATH = 1, 5, 15, 29


@dataclass
class Needs:
    """What one ELF file asks of the dynamic loader."""

    interpreter: str | None = None
    libraries: list[str] = field(default_factory=list)
    runpath: list[str] = field(default_factory=list)


def read_needs(data: bytes) -> Needs | None:
    """Parse a 64-bit little-endian ELF file; None for anything else."""
    if data[:6] != b"\x7fELF\x02\x01":
        return None
    needs = Needs()
    try:
        offset = struct.unpack_from("<Q", data, 32)[0]
        size, count = struct.unpack_from("<HH", data, 54)
        headers = [struct.unpack_from("<IIQQQQQQ", data, offset + size * i) for i in range(count)]
        loads = [(h[3], h[2], h[5]) for h in headers if h[0] == _PT_LOAD]
        dynamic: list[tuple[int, int]] = []
        for kind, _flags, where, _address, _physical, length, *_rest in headers:
            if kind == _PT_INTERP:
                needs.interpreter = data[where : where + length].rstrip(b"\0").decode()
            elif kind == _PT_DYNAMIC:
                dynamic = list(struct.iter_unpack("<QQ", data[where : where + length - length % 16]))
        table = next((value for tag, value in dynamic if tag == _DT_STRTAB), None)
        if table is None:
            return needs
        strings = next(table - address + file for address, file, length in loads if address <= table < address + length)

        def text(position: int) -> str:
            return data[strings + position : data.index(b"\0", strings + position)].decode()

        for tag, value in dynamic:
            if tag == _DT_NEEDED:
                needs.libraries.append(text(value))
            elif tag in (_DT_RPATH, _DT_RUNPATH):
                needs.runpath += text(value).split(":")
    except (struct.error, ValueError, StopIteration):
        return None  # a debug file or a test's broken sample: nothing the loader would accept
    return needs


def without_symbols(data: bytes) -> bytes:
    """A shared library without what only debuggers and linkers read.

    The loader uses program headers alone. Sections that no segment holds (symbol tables, debug information, names of
    sections) stand behind the last segment: they go, and the header no longer points at them.
    """
    if data[:6] != b"\x7fELF\x02\x01" or len(data) < 64:
        return data
    offset = struct.unpack_from("<Q", data, 32)[0]
    size, count = struct.unpack_from("<HH", data, 54)
    if size < 56 or offset + size * count > len(data) or not count:
        return data
    end = max(64, offset + size * count)
    for index in range(count):
        _kind, _flags, where, _address, _physical, length = struct.unpack_from("<IIQQQQ", data, offset + size * index)
        end = max(end, where + length)
    if end >= len(data):
        return data
    header = bytearray(data[:64])
    struct.pack_into("<Q", header, 40, 0)  # where section headers are
    struct.pack_into("<HH", header, 60, 0, 0)  # how many, and which holds their names
    return bytes(header) + data[64:end]


def resolve_path(tree: Tree, path: str, depth: int = 0) -> str | None:
    """Follow links inside the image; the path of the file or None."""
    path = merged(posixpath.normpath(path).lstrip("/"))
    if depth > 20:
        return None
    entry = tree.get(path)
    if entry is not None:
        if entry.link is not None:
            return resolve_path(tree, posixpath.join("/" + posixpath.dirname(path), entry.link), depth + 1)
        return path if entry.data is not None else None
    parent = posixpath.dirname(path)
    while parent:  # a directory on the way may be a link
        above = tree.get(parent)
        if above is not None and above.link is not None:
            base = posixpath.join("/" + posixpath.dirname(parent), above.link)
            return resolve_path(tree, posixpath.join(base, posixpath.relpath(path, parent)), depth + 1)
        parent = posixpath.dirname(parent)
    return None


def missing_libraries(tree: Tree, triplet: str = "x86_64-linux-gnu", ignore=lambda name: False) -> list[str]:
    """Every library or interpreter that a file of the image needs and the image does not have."""
    default = [f"/usr/lib/{triplet}", "/usr/lib", "/usr/lib64"]
    known: dict[str, bool] = {}
    problems = []
    for path in sorted(tree):
        data = tree[path].data
        if data is None or data[:4] != b"\x7fELF":
            continue
        needs = read_needs(data)
        if needs is None:
            continue
        if needs.interpreter and resolve_path(tree, needs.interpreter) is None:
            problems.append(f"/{path} needs {needs.interpreter}")
        here = "/" + posixpath.dirname(path)
        own = [p.replace("${ORIGIN}", here).replace("$ORIGIN", here) for p in needs.runpath if p]
        for library in needs.libraries:
            if ignore(library):
                continue
            if library not in known:
                known[library] = any(resolve_path(tree, posixpath.join(d, library)) for d in default)
            if not known[library] and not any(resolve_path(tree, posixpath.join(d, library)) for d in own):
                problems.append(f"/{path} needs {library}")
    return problems
