# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Brings images to the audit: archives from files, images out of an engine, with what lies beside them.

PRIVATE: internal to the collection, may change in any release. Standard library only.
"""

from __future__ import annotations

import http.client
import json
import os
import posixpath
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit, clean
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import Files, Unreadable
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_image import TABLE, Wanted, audit_image
from ansible_collections.mcpstack.platform.plugins.module_utils._engine import Engine, EngineError, _UnixConnection
from ansible_collections.mcpstack.platform.plugins.module_utils._image_contents import Archive, Image
from ansible_collections.mcpstack.platform.plugins.module_utils._tar_stream import Budget, TarError

#: Largest lock file or bill of materials that is read.
LIMIT = 64 << 20


class DoorError(Exception):
    """One sentence: where, what is wrong, what to do about it."""


@dataclass
class Settings:
    """What holds for all images of one call. ``lock`` is a file, or a directory of NAME.lock.json."""

    lock: str = ""
    sbom: str = ""
    wanted: Wanted | None = None
    budget: int = 32 << 30


def _document(path: str, files: Files) -> Mapping:
    try:
        data = json.loads(files.text(path, LIMIT))
    except Unreadable as error:
        raise DoorError(str(error)) from error
    except (ValueError, RecursionError) as error:
        raise DoorError(f"{path}: is not JSON ({clean(error, 100)}); name the right file") from error
    if not isinstance(data, dict):
        raise DoorError(f"{path}: holds no mapping; name the right file")
    return data


def short_name(reference: str) -> str:
    """postgres of registry.example.org:5000/mcpstack/postgres:17@sha256:..."""
    return posixpath.basename(reference.split("@", 1)[0]).split(":", 1)[0]


def _beside(settings: Settings, name: str, archive: str, files: Files) -> Wanted:
    """What is known of one image from files."""
    wanted = settings.wanted or Wanted()
    lock, sboms = None, []
    if settings.lock:
        path = settings.lock
        found = files.stat(path)
        if found is not None and found.kind == "directory":
            path = os.path.join(path, f"{short_name(name)}.lock.json")
            found = files.stat(path)
            lock = _document(path, files) if found is not None else None
        else:
            lock = _document(path, files)
    if settings.sbom:
        sboms.append((settings.sbom, _document(settings.sbom, files)))
    elif archive:
        path = os.path.splitext(archive)[0] + ".cdx.json"
        if files.stat(path) is not None:
            sboms.append((path, _document(path, files)))
    return replace(wanted, lock=lock, sboms=sboms)


def _judge(audit: Audit, images: list[Image], label: str, archive: str, settings: Settings, files: Files) -> list[dict]:
    told = []
    for image in images:
        subject = image.names[0] if image.names else label
        sources = audit_image(audit, image, subject, _beside(settings, subject, archive, files))
        told.append(
            {
                "subject": clean(subject, 200),
                "id": image.id,
                "layers": len(image.layers),
                "sources": [source.as_dict() for source in sources],
            }
        )
    return told


def _unreadable(audit: Audit, subject: str, error: TarError) -> None:
    for check_id in TABLE:
        audit.unknown(check_id, f"{subject}: cannot be read: it {error}")


def from_file(audit: Audit, path: str, settings: Settings, files: Files) -> list[dict]:
    """Judge every image of an archive. Raises DoorError when there is none to read."""
    try:
        handle = open(path, "rb")
    except OSError as error:
        raise DoorError(f"{path}: cannot be opened ({error.strerror}); name an archive of docker save") from error
    with handle:
        try:
            images = Archive(handle.read, Budget(settings.budget)).images()
        except TarError as error:
            _unreadable(audit, path, error)
            return []
        except OSError as error:
            raise DoorError(f"{path}: cannot be read ({error.strerror}); name an archive of docker save") from error
    return _judge(audit, images, os.path.basename(path), path, settings, files)


def _export(engine: Engine, name: str) -> tuple[_UnixConnection, Callable[[int], bytes]]:
    connection = _UnixConnection(engine.socket_path, 900)
    try:
        connection.request("GET", engine._versioned(f"/images/{urllib.parse.quote(name, safe='/:@')}/get"))
        response = connection.getresponse()
        if response.status != 200:
            raise DoorError(f"{name}: the engine does not export the image ({response.status})")
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        raise DoorError(f"{name}: the engine broke off while it exported the image ({error!r})") from error
    except DoorError:
        connection.close()
        raise
    return connection, response.read


def from_engine(
    audit: Audit, engine: Engine, name: str, settings: Settings, files: Files, subject: str = ""
) -> list[dict]:
    """Judge an image of an engine, as the engine exports it; ``subject`` is what it is called. Raises DoorError."""
    try:
        if engine.image(name) is None:
            raise DoorError(f"{name}: the engine has no such image; name one of docker image ls")
        options = engine.info().get("SecurityOptions") or []
        version = engine.version()
    except EngineError as error:
        raise DoorError(f"{name}: {error}") from error
    wanted = settings.wanted or Wanted()
    wanted = replace(
        wanted,
        kept_by_engine=True,
        platform=wanted.platform or f"{version.get('Os', 'linux')}/{version.get('Arch', '')}",
        no_new_privileges=wanted.no_new_privileges or any("no-new-privileges" in str(option) for option in options),
    )
    connection, read = _export(engine, name)
    try:
        images = Archive(read, Budget(settings.budget)).images()
    except TarError as error:
        _unreadable(audit, subject or name, error)
        return []
    except (OSError, http.client.HTTPException) as error:
        raise DoorError(f"{name}: the engine broke off while it exported the image ({error!r})") from error
    finally:
        connection.close()
    for image in images:
        image.names = [subject or name]
    return _judge(audit, images, subject or name, "", replace(settings, wanted=wanted), files)
