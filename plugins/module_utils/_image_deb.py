# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads Debian packages into a tree in memory, without dpkg, root or maintainer scripts.

PRIVATE, may change at any time. Standard library only.
"""

from __future__ import annotations

import fnmatch
import gzip
import io
import lzma
import posixpath
import re
import shutil
import subprocess
import tarfile
from dataclasses import dataclass

from ._image_errors import ImageError


@dataclass
class Entry:
    """One path of the image. Exactly one of data and link is set, or neither for a directory."""

    mode: int
    data: bytes | None = None
    link: str | None = None
    uid: int = 0
    gid: int = 0

    @property
    def is_dir(self) -> bool:
        """Whether this is a directory."""
        return self.data is None and self.link is None


Tree = dict[str, Entry]

#: Directories that are links into /usr since Debian merged them.
MERGED = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}


def merged(path: str) -> str:
    """The real place of a path on a merged-/usr system."""
    first, slash, rest = path.partition("/")
    return MERGED[first] + slash + rest if first in MERGED else path


def members(data: bytes, where: str) -> dict[str, bytes]:
    """Split a .deb (an ar archive) into its members."""
    if data[:8] != b"!<arch>\n":
        raise ImageError(f"{where}: not a Debian package; remove it from the cache and run again.")
    found: dict[str, bytes] = {}
    position = 8
    while position + 60 <= len(data):
        header = data[position : position + 60]
        try:
            size = int(header[48:58])
        except ValueError:
            size = -1
        if header[58:60] != b"`\n" or size < 0 or position + 60 + size > len(data):
            raise ImageError(f"{where}: the package is cut off or damaged; remove it from the cache and run again.")
        found[header[:16].decode("ascii", "replace").strip().rstrip("/")] = data[position + 60 : position + 60 + size]
        position += 60 + size + size % 2
    return found


def decompress(name: str, data: bytes, where: str) -> bytes:
    """Unpack a member by the ending of its name."""
    if name.endswith(".xz"):
        return lzma.decompress(data)
    if name.endswith(".gz"):
        return gzip.decompress(data)
    if name.endswith(".zst"):
        tool = shutil.which("zstd")
        if not tool:
            raise ImageError(f"{where}: the package is packed with zstd; install zstd on the build host.")
        return subprocess.run([tool, "-dc"], input=data, capture_output=True, check=True).stdout  # noqa: S603
    return data


def _member(found: dict[str, bytes], stem: str, where: str) -> bytes:
    for name, data in found.items():
        if name == stem or name.startswith(stem + "."):
            return decompress(name, data, where)
    raise ImageError(f"{where}: the package has no {stem}; remove it from the cache and run again.")


def matcher(patterns: list[str]):
    """One function that tells whether a path matches any of the globs (* also matches /)."""
    if not patterns:
        return lambda path: False
    return re.compile("|".join(fnmatch.translate(pattern) for pattern in patterns)).match


@dataclass
class Package:
    """An unpacked package."""

    control: str
    md5sums: str
    tree: Tree
    newest: int


def unpack(data: bytes, where: str, exclude, only=None) -> Package:
    """Unpack a .deb. exclude and only are functions on paths; ownership is root's, set-id bits are dropped."""
    found = members(data, where)
    control = md5sums = ""
    with tarfile.open(fileobj=io.BytesIO(_member(found, "control.tar", where))) as tar:
        for item in tar:
            if item.name in ("./control", "control"):
                control = tar.extractfile(item).read().decode()
            elif item.name in ("./md5sums", "md5sums"):
                md5sums = tar.extractfile(item).read().decode()
    tree: Tree = {}
    newest = 0
    contents: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(_member(found, "data.tar", where))) as tar:
        for item in tar:
            path = merged(posixpath.normpath(item.name).lstrip("/"))
            newest = max(newest, int(item.mtime))
            if path == ".":
                continue
            if path.startswith("../") or not (item.isdir() or item.isreg() or item.issym() or item.islnk()):
                raise ImageError(f"{where}: holds {item.name}, which no image may have; drop the package.")
            skipped = exclude(path) or (only and not item.isdir() and not only(path))
            if item.isreg():
                content = tar.extractfile(item).read() if not skipped or item.size < 1 << 16 else None
                contents[path] = content
            if skipped or (only and item.isdir()):
                continue
            mode = item.mode & 0o775  # no set-id bits, nothing for others to write
            if item.isdir():
                tree[path] = Entry(mode)
            elif item.issym():
                tree[path] = Entry(0o777, link=item.linkname)
            elif item.islnk():
                tree[path] = Entry(mode, data=contents[merged(posixpath.normpath(item.linkname).lstrip("/"))])
            else:
                tree[path] = Entry(mode, data=contents[path])
    return Package(control, md5sums, tree, newest)


def dpkg_database(packages: list[Package]) -> Tree:
    """A regular dpkg database of what is installed, so that scanners and dpkg-query can read the image."""
    tree: Tree = {
        "var/lib/dpkg/info/format": Entry(0o644, b"1\n"),
        "var/lib/dpkg/available": Entry(0o644, b""),
    }
    stanzas = []
    for package in packages:
        control = package.control.strip()
        fields = dict(re.findall(r"(?m)^(Package|Architecture|Multi-Arch): (\S+)$", control))
        name = fields["Package"]
        if fields.get("Multi-Arch") == "same":
            name += ":" + fields["Architecture"]
        stanzas.append(re.sub(r"\A(Package: \S+)\n", r"\1\nStatus: install ok installed\n", control) + "\n")
        kept = {path for path, entry in package.tree.items() if not entry.is_dir}
        paths = "".join(f"/{path}\n" for path in sorted(package.tree))
        tree[f"var/lib/dpkg/info/{name}.list"] = Entry(0o644, ("/.\n" + paths).encode())
        sums = [line for line in package.md5sums.splitlines() if merged(line[34:]) in kept]
        tree[f"var/lib/dpkg/info/{name}.md5sums"] = Entry(0o644, "".join(f"{line}\n" for line in sums).encode())
    tree["var/lib/dpkg/status"] = Entry(0o644, "\n".join(stanzas).encode())
    return tree
