# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is in an image: read once, as a stream, from ``docker save``, an OCI layout or an engine.

PRIVATE: internal to the collection, may change in any release. Standard library only.

Nothing is unpacked to disk. Of every layer all names are kept as hashes, and only what an audit asks about as itself, so
that the layers can be put on top of each other whatever order they came in.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import posixpath
import re
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ansible_collections.mcpstack.platform.plugins.module_utils._tar_stream import (
    BLOCK,
    CHUNK,
    Budget,
    Inflated,
    Member,
    TarError,
    TarStream,
    is_header,
)

#: Largest JSON document, all of them together, and their number.
JSON_LIMIT, JSON_TOTAL, JSON_COUNT = 16 << 20, 64 << 20, 5000
#: All that is kept of the content of files.
CONTENT_TOTAL = 128 << 20
#: Files of one layer that an audit asks about.
NODES = 50_000

SHELLS = frozenset("sh bash dash ash zsh ksh mksh csh tcsh fish busybox toybox".split())
MANAGERS = frozenset("apt apt-get dpkg apk dnf microdnf yum zypper rpm pacman".split())
_BIN = re.compile(r"(?:usr/)?(?:local/)?s?bin/([^/]+)")
_METADATA = re.compile(r"(?!usr/lib/python3/dist-packages/)(?:.*/)?[^/]+\.dist-info/METADATA")
_SBOM = re.compile(r"(?:.*/)?(?:[^/]*\.(?:cdx|spdx|cyclonedx)\.json|bom\.json|sbom\.json|[^/]+\.spdx)", re.IGNORECASE)
_KEY_FILE = re.compile(
    r"(?:.*/)?(?:id_(?:rsa|dsa|ecdsa|ed25519)|\.env(?:\.[^/]*)?|\.netrc|\.pypirc|\.npmrc|\.git-credentials|\.pgpass"
    r"|\.docker/config\.json|\.aws/credentials|[^/]+\.(?:pem|key|p12|pfx|jks))"
)
_EXAMPLES = re.compile(r"(?:^|/)(?:tests?|testing|testdata|examples?|docs?|fixtures)(?:/|$)")


@dataclass
class Node:
    """One path of a layer that an audit asks about."""

    kind: str
    mode: int
    uid: int
    gid: int
    capable: bool = False
    link: str = ""
    content: bytes | None = None


def interest(path: str, member: Member) -> int | None:
    """How much of a file's content is kept; 0 for none of it, None for what nobody asks about."""
    if member.kind in ("file", "hardlink") and (member.mode & 0o6000 or member.capable):
        return 0
    if member.kind == "directory":
        return None
    if path in ("etc/passwd", "etc/os-release", "usr/lib/os-release"):
        return 1 << 20
    if path == "var/lib/dpkg/status":
        return 64 << 20
    if path.startswith("var/lib/dpkg/status.d/"):
        return 1 << 18
    if path.startswith("var/lib/apt/lists/"):
        return 0 if member.size and not path.endswith("/lock") else None
    binary = _BIN.fullmatch(path)
    if binary:
        return 0 if binary[1] in SHELLS or binary[1] in MANAGERS or binary[1] == "sudo" else None
    if path in ("lib/apk/db/installed", "usr/lib/apk/db/installed") or path.startswith(
        ("var/lib/rpm/", "usr/lib/sysimage/rpm/")
    ):
        return 0
    if _METADATA.fullmatch(path):
        return 1 << 14
    if _SBOM.fullmatch(path):
        return 0
    if _KEY_FILE.fullmatch(path) and not _EXAMPLES.search(path):
        return 1 << 16
    return None


def _hash(path: str) -> int:
    return int.from_bytes(hashlib.blake2b(path.encode("utf-8", "replace"), digest_size=8).digest(), "big")


def clean_path(name: str) -> str:
    """A path of an archive without what may stand before it; TarError for one that leaves the archive."""
    path = posixpath.normpath(name.lstrip("/") or ".")
    if path == ".." or path.startswith("../") or "\0" in path:
        raise TarError("holds a path that leaves the image")
    return "" if path == "." else path


class Layer:
    """One layer. ``problem`` says why it could not be read to the end."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.gone: set[str] = set()
        self.opaque: set[str] = set()
        self.digest = ""
        self.problem = ""
        self._files, self._directories = array("Q"), array("Q")

    def add(self, member: Member, tar: TarStream, room: Callable[[int], None]) -> None:
        """Take note of one entry."""
        path = clean_path(member.name)
        if not path:
            return
        folder, name = posixpath.split(path)
        if name == ".wh..wh..opq":
            self.opaque.add(folder)
            return
        if name.startswith(".wh."):
            if not name.startswith(".wh..wh."):
                self.gone.add(posixpath.join(folder, name[4:]))
            return
        self.nodes.pop(path, None)  # a later entry of the same name is what counts
        (self._directories if member.kind == "directory" else self._files).append(_hash(path))
        kept = interest(path, member)
        if kept is None:
            return
        if len(self.nodes) >= NODES:
            raise TarError("holds more files of interest than the limit")
        node = Node(member.kind, member.mode, member.uid, member.gid, member.capable, member.link)
        if kept and member.kind == "file":
            room(min(kept, member.size))
            node.content = tar.content(kept)
        self.nodes[path] = node

    def finish(self) -> None:
        """Sort what was collected, for look-ups."""
        self._files = array("Q", sorted(self._files))
        self._directories = array("Q", sorted(self._directories))

    @staticmethod
    def _in(numbers: array, number: int) -> bool:
        at = bisect.bisect_left(numbers, number)
        return at < len(numbers) and numbers[at] == number

    def hides(self, path: str) -> bool:
        """Whether a file of a layer below cannot be seen any more."""
        number = _hash(path)
        if path in self.gone or self._in(self._files, number) or self._in(self._directories, number):
            return True
        while path:
            path = posixpath.dirname(path)
            if path in self.opaque or (path and (path in self.gone or self._in(self._files, _hash(path)))):
                return True
        return False


@dataclass
class Image:
    """An image of an archive. ``attested``: predicate types; ``signed``: a signature lies beside it."""

    names: list[str]
    id: str
    config: dict
    layers: list[Layer]
    media_types: list[str] = field(default_factory=list)
    attested: list[str] = field(default_factory=list)
    signed: bool = False
    layout: str = "docker"
    problems: list[str] = field(default_factory=list)

    def files(self) -> Iterator[tuple[str, Node]]:
        """What is seen of the layers on top of each other, by path."""
        seen: dict[str, Node] = {}
        for number, layer in enumerate(self.layers):
            above = self.layers[number + 1 :]
            for path, node in layer.nodes.items():
                if not any(upper.hides(path) for upper in above):
                    seen[path] = node
        return iter(sorted(seen.items()))

    def unread(self) -> str:
        """Why not all files are known; empty when they are."""
        return "; ".join(dict.fromkeys([*self.problems, *(layer.problem for layer in self.layers if layer.problem)]))


class Archive:
    """Reads an archive once; ``images`` then says what is in it."""

    def __init__(self, read: Callable[[int], bytes], budget: Budget | None = None):
        self._budget = budget or Budget()
        self._room, self._json = CONTENT_TOTAL, JSON_TOTAL
        self._layers: dict[str, Layer] = {}
        self._documents: dict[str, tuple[object, str]] = {}
        self._links: dict[str, str] = {}
        self._other: dict[str, bytes] = {}
        tar = TarStream(read, self._budget)
        for member in tar:
            name = clean_path(member.name)
            if member.kind in ("symlink", "hardlink"):
                base = posixpath.dirname(name) if member.kind == "symlink" else ""
                self._links[name] = clean_path(posixpath.join(base, member.link))
            elif member.kind == "file":
                self._file(name, member, tar)

    def _take(self, size: int) -> None:
        self._room -= size
        if self._room < 0:
            raise TarError("holds more text than the limit")

    def _file(self, name: str, member: Member, tar: TarStream) -> None:
        head = tar.content(BLOCK)

        def whole(size: int) -> bytes:
            nonlocal head
            if head:
                data, head = head[:size], head[size:]
                return data
            return tar.read(size)

        if head[:2] == b"\x1f\x8b":
            self._layer(name, Inflated(whole, self._budget).read)
        elif is_header(head) or (len(head) == BLOCK and not any(head)):
            self._layer(name, self._counted(whole))
        elif head[:4] == b"\x28\xb5\x2f\xfd":
            self._layers[name] = layer = Layer()
            layer.problem = "a layer is packed with zstd, which this module does not unpack"
        elif head.lstrip()[:1] in (b"{", b"[") and member.size <= JSON_LIMIT:
            self._json -= member.size
            if self._json < 0 or len(self._documents) >= JSON_COUNT:
                raise TarError("holds more documents than the limit")
            raw = head + b"".join(tar.chunks())
            try:
                self._documents[name] = json.loads(raw), "sha256:" + hashlib.sha256(raw).hexdigest()
            except (ValueError, RecursionError):
                self._other[name] = head[:16]
        else:
            self._other[name] = head[:16]

    def _counted(self, read: Callable[[int], bytes]) -> Callable[[int], bytes]:
        def counted(size: int) -> bytes:
            data = read(size)
            self._budget.unpack(len(data))
            return data

        return counted

    def _layer(self, name: str, read: Callable[[int], bytes]) -> None:
        self._layers[name] = layer = Layer()
        digest = hashlib.sha256()

        def hashed(size: int) -> bytes:
            data = read(size)
            digest.update(data)
            return data

        try:
            tar = TarStream(hashed, self._budget)
            for member in tar:
                layer.add(member, tar, self._take)
            while hashed(CHUNK):
                pass
            layer.digest = "sha256:" + digest.hexdigest()
        except TarError as error:
            if self._budget.size < 0 or self._budget.entries < 0 or self._room < 0:
                raise  # no other layer could be read either
            layer.problem = f"a layer {error}"
        layer.finish()

    # -- what is in it ------------------------------------------------------------------------------------------------

    def _real(self, name: str) -> str:
        for _step in range(8):
            if name not in self._links:
                break
            name = self._links[name]
        return name

    def _document(self, name: object) -> tuple[dict, str]:
        found, digest = self._documents.get(self._real(name) if isinstance(name, str) else "", ({}, ""))
        return (found, digest) if isinstance(found, dict) else ({}, "")

    def _blob(self, descriptor: object) -> str:
        digest = descriptor.get("digest") if isinstance(descriptor, dict) else None
        return f"blobs/{digest.replace(':', '/', 1)}" if isinstance(digest, str) else ""

    def _image(self, names: list, config_name: object, layer_names: object, **more) -> Image:
        config, image_id = self._document(config_name)
        layers, problems = [], []
        for name in layer_names if isinstance(layer_names, list) else []:
            real = self._real(name) if isinstance(name, str) else ""
            if real in self._layers:
                layers.append(self._layers[real])
            else:
                problems.append("a layer is not in the archive")
        image = Image([str(name) for name in names if name], image_id, config, layers, problems=problems, **more)
        diffs = config.get("rootfs", {}).get("diff_ids") if isinstance(config.get("rootfs"), dict) else None
        for layer, wanted in zip(layers, diffs if isinstance(diffs, list) else []):
            if layer.digest and layer.digest != wanted:
                image.problems.append("a layer is not the one that the image's configuration names")
        return image

    def images(self) -> list[Image]:
        """Every image of the archive. Raises TarError when it holds none."""
        attested, signed, by_index = [], False, []
        index, _digest = self._document("index.json")
        for manifest, descriptor in self._manifests(index, set()):
            note = descriptor.get("annotations") if isinstance(descriptor.get("annotations"), dict) else {}
            layers = [item for item in manifest.get("layers") or [] if isinstance(item, dict)]
            types = [str(item.get("mediaType", "")) for item in layers]
            about = f"{manifest.get('artifactType', '')} {' '.join(types)} {note.get('org.opencontainers.image.ref.name', '')}"
            if note.get("vnd.docker.reference.type") == "attestation-manifest" or any(
                "in-toto" in kind for kind in types
            ):
                for item in layers:
                    notes = item.get("annotations")
                    attested.append(str(notes.get("in-toto.io/predicate-type", "")) if isinstance(notes, dict) else "")
            elif re.search(r"cosign|sigstore|cncf\.notary|sha256-[0-9a-f]{64}\.sig", about):
                signed = True
            else:
                name = note.get("io.containerd.image.name") or note.get("org.opencontainers.image.ref.name")
                by_index.append(([name], self._blob(manifest.get("config")), list(map(self._blob, layers)), types))
        listed, _digest = self._documents.get("manifest.json", ([], ""))
        found = []
        for entry in listed if isinstance(listed, list) else []:
            if isinstance(entry, dict):
                names = entry.get("RepoTags") if isinstance(entry.get("RepoTags"), list) else []
                found.append(self._image(names, entry.get("Config"), entry.get("Layers")))
        if not found:
            found = [self._image(names, config, layers, media_types=types) for names, config, layers, types in by_index]
        if not found:
            raise TarError("holds no image: neither manifest.json nor index.json names one")
        for image in found:
            image.attested, image.signed = sorted(set(filter(None, attested))), signed
            image.layout = "oci" if index else "docker"
        return found

    def _manifests(self, index: dict, seen: set[str]) -> Iterator[tuple[dict, dict]]:
        listed = index.get("manifests")
        for descriptor in listed if isinstance(listed, list) else []:
            name = self._blob(descriptor)
            manifest, _digest = self._document(name)
            if not manifest or name in seen:
                continue
            seen.add(name)
            if "manifests" not in manifest:
                yield manifest, descriptor
            elif len(seen) < 200:
                yield from self._manifests(manifest, seen)
