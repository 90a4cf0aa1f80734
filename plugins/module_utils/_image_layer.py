# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes trees as reproducible layers and archives that `docker load` reads. PRIVATE, may change at any time.

Same tree, same bytes: sorted, one time stamp, numeric owners, no compression (whose output differs between hosts).
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import posixpath
import tarfile
import tempfile
import time

from ._image_archive import not_written
from ._image_deb import Entry, Tree
from ._image_errors import ImageError

_BLOCK = 512


class _Hashing:
    """A file that hashes what goes through it."""

    def __init__(self, handle) -> None:
        self.handle = handle
        self.sha256 = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.size += len(data)
        return self.handle.write(data)


def with_parents(tree: Tree) -> Tree:
    """Add the directories that paths imply; a file in the place of a directory is an error."""
    full: Tree = {}
    for path in sorted(tree):
        parent = posixpath.dirname(path)
        while parent and parent not in full:
            full[parent] = tree.get(parent, Entry(0o755))
            parent = posixpath.dirname(parent)
        full[path] = tree[path]
    for path in full:
        parent = full.get(posixpath.dirname(path))
        if parent is not None and not parent.is_dir:
            raise ImageError(f"/{path}: lies below something that is not a directory; correct the specification.")
    return full


def write_layer(out, tree: Tree, epoch: int) -> tuple[str, int]:
    """Write one layer; returns its digest (the diff id) and size."""
    hashing = _Hashing(out)
    for path in sorted(tree, key=lambda p: p.split("/")):
        entry = tree[path]
        item = tarfile.TarInfo(path)
        item.mtime, item.mode, item.uid, item.gid = epoch, entry.mode, entry.uid, entry.gid
        if entry.is_dir:
            item.type = tarfile.DIRTYPE
        elif entry.link is not None:
            item.type, item.linkname = tarfile.SYMTYPE, entry.link
        else:
            item.size = len(entry.data)
        hashing.write(item.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict"))
        if entry.data:
            hashing.write(entry.data)
            hashing.write(b"\0" * (-len(entry.data) % _BLOCK))
    hashing.write(b"\0" * (2 * _BLOCK))
    return "sha256:" + hashing.sha256.hexdigest(), hashing.size


def canonical(value) -> bytes:
    """JSON with one spelling."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def timestamp(epoch: int) -> str:
    """RFC 3339 in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch))


def _plain_header(name: str, size: int) -> bytes:
    item = tarfile.TarInfo(name)
    item.size, item.mode = size, 0o644
    return item.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict")


def write_archive(
    directory: str, name: str, repository: str, layers: list[tuple[Tree, int]], config: dict, architecture: str
) -> dict:
    """Write a `docker load` archive; whole or not at all. Returns what is known of the image."""
    temporary = None
    try:
        os.makedirs(directory, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=directory, prefix=".part-")
        with os.fdopen(handle, "w+b") as out:
            diff_ids, members, size = [], [], 0
            for tree, epoch in layers:
                start = out.tell()
                out.write(b"\0" * _BLOCK)  # the header follows once digest and size are known
                digest, length = write_layer(out, tree, epoch)
                end = out.tell()
                member = f"{digest[7:]}.tar"
                out.seek(start)
                out.write(_plain_header(member, length))
                out.seek(end)
                diff_ids.append(digest)
                members.append(member)
                size += length
            created = timestamp(max(epoch for _tree, epoch in layers))
            document = canonical(
                {
                    "architecture": architecture,
                    "config": config,
                    "created": created,
                    "history": [
                        {"created": created, "created_by": "mcpstack.platform image_build"} for _member in members
                    ],
                    "os": "linux",
                    "rootfs": {"diff_ids": diff_ids, "type": "layers"},
                }
            )
            digest = hashlib.sha256(document).hexdigest()
            ref = f"{repository}:{digest[:12]}"
            manifest = canonical([{"Config": f"{digest}.json", "Layers": members, "RepoTags": [ref]}])
            for member, data in ((f"{digest}.json", document), ("manifest.json", manifest)):
                out.write(_plain_header(member, len(data)) + data + b"\0" * (-len(data) % _BLOCK))
            out.write(b"\0" * (2 * _BLOCK))
            out.flush()
            os.fsync(out.fileno())
            out.seek(0)
            archive = hashlib.sha256()
            while chunk := out.read(1 << 20):
                archive.update(chunk)
            archive_size = out.tell()
        os.chmod(temporary, 0o644)
        final = os.path.join(directory, f"{name}-{digest[:12]}.tar")
        os.replace(temporary, final)
    except OSError as exc:
        raise not_written(directory, exc) from exc
    finally:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)
    return {
        "ref": ref,
        "id": "sha256:" + digest,
        "layers": diff_ids,
        "archive": final,
        "archive_sha256": archive.hexdigest(),
        "archive_size": archive_size,
        "size": size,
        "created": created,
    }


def read_archive_tree(path: str) -> dict[str, tarfile.TarInfo]:
    """The files of an image archive, later layers over earlier ones (for tests and checks)."""
    found: dict[str, tarfile.TarInfo] = {}
    with tarfile.open(path) as outer:
        manifest = json.load(outer.extractfile("manifest.json"))
        for name in manifest[0]["Layers"]:
            with tarfile.open(fileobj=io.BufferedReader(outer.extractfile(name))) as layer:
                found.update({item.name: item for item in layer})
    return found
