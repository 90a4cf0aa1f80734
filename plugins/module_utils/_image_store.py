# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Brings an engine's images to a wanted state. PRIVATE, may change at any time."""

from __future__ import annotations

import hashlib
import re

from ._engine import Engine, EngineError, EngineUnavailable
from ._image_errors import ImageError

_DIGEST_REF = re.compile(r".+@sha256:[0-9a-f]{64}$")


def check_wanted(images: list[dict]) -> None:
    """Refuse what cannot be verified, before anything is changed."""
    for image in images:
        ref = image["ref"]
        if image.get("pull"):
            if not _DIGEST_REF.match(ref):
                raise ImageError(f"{ref}: an image is only pulled by digest; write it as NAME@sha256:DIGEST.")
        elif not image.get("id") and not image.get("layers"):
            raise ImageError(f"{ref}: neither id nor layers are given, so the image could not be verified; give them.")


def is_same(found: dict | None, image: dict) -> bool:
    """Whether an inspected image is the wanted one.

    Under a graph driver the id is the digest of the configuration. Under the containerd store it is the digest of the
    manifest, and only the layers tell.
    """
    if found is None:
        return False
    if image.get("pull"):
        return True  # the reference is a digest
    if image.get("id") and found["Id"] == image["id"]:
        return True
    layers = (found.get("RootFS") or {}).get("Layers") or []
    return bool(image.get("layers")) and layers == image["layers"]


def absent(engine: Engine, images: list[dict]) -> list[dict]:
    """The images the engine does not have under their reference; all of them where there is no engine."""
    try:
        return [image for image in images if not is_same(engine.image(image["ref"]), image)]
    except EngineUnavailable:
        return list(images)


def _checked(path: str, sha256: str | None) -> None:
    try:
        with open(path, "rb") as handle:
            digest = hashlib.sha256()
            while chunk := handle.read(1 << 20):
                digest.update(chunk)
    except OSError as exc:
        raise ImageError(f"{path}: the image archive cannot be read ({exc.strerror}); build the image again.") from exc
    if sha256 and digest.hexdigest() != sha256:
        raise ImageError(f"{path}: the image archive is damaged (sha256 differs); run again, nothing was loaded.")


def bring(engine: Engine, image: dict) -> None:
    """Load or pull one image and verify that the engine now has what was wanted."""
    ref = image["ref"]
    if image.get("pull"):
        engine.pull_image(ref)
    elif image.get("id") and is_same(engine.image(image["id"]), image):
        repository, _colon, tag = ref.rpartition(":")
        engine.post(f"/images/{image['id']}/tag", {"repo": repository, "tag": tag})
    else:
        if not image.get("archive"):
            raise ImageError(f"{ref}: is absent and no archive of it is given; build the image first.")
        _checked(image["archive"], image.get("archive_sha256"))
        engine.load_image(image["archive"])
    found = engine.image(ref)
    if not is_same(found, image):
        raise ImageError(
            f"{ref}: the engine holds {found['Id'] if found else 'nothing'} after loading, not {image.get('id') or ref}; "
            "remove that image and build it again."
        )


def ids(engine: Engine, images: list[dict]) -> dict[str, str]:
    """Id of each wanted image, as the engine gives it; those it has not are left out."""
    try:
        found = {image["ref"]: engine.image(image["ref"]) for image in images}
    except EngineUnavailable:
        return {}
    return {ref: inspected["Id"] for ref, inspected in found.items() if inspected}


def others(engine: Engine, images: list[dict]) -> list[str]:
    """Other tags of the same repositories, whether a container uses them or not; none where there is no engine."""
    kept = {image["ref"] for image in images}
    repositories = {ref.rpartition(":")[0] for ref in kept if "@" not in ref}
    try:
        tags = [tag for item in engine.get("/images/json") for tag in item.get("RepoTags") or []]
    except EngineUnavailable:
        return []
    return sorted(tag for tag in tags if tag.rpartition(":")[0] in repositories and tag not in kept)


def outdated(engine: Engine, images: list[dict]) -> list[str]:
    """Other tags of the same repositories that no container uses."""
    candidates = set(others(engine, images))
    if not candidates:
        return []
    used = {container["ImageID"] for container in engine.get("/containers/json", {"all": True})}
    found = []
    for item in engine.get("/images/json"):
        if item["Id"] in used:
            continue
        found += [tag for tag in item.get("RepoTags") or [] if tag in candidates]
    return sorted(found)


def prune(engine: Engine, tags: list[str]) -> list[str]:
    """Remove tags; one that came into use meanwhile stays."""
    removed = []
    for tag in tags:
        try:
            engine.delete(f"/images/{tag}")
            removed.append(tag)
        except EngineError as exc:
            if exc.status not in (404, 409):
                raise
    return removed
