# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads specifications, locks and first-party sources from their directories. PRIVATE, may change at any time.

The reader of YAML comes from the caller: a target has none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable

from ._files import write_atomic
from ._image_errors import ImageError


def read_specs(directory: str, parse: Callable[[str], object]) -> tuple[dict[str, dict], dict[str, dict]]:
    """All NAME.yml and NAME.lock.json of a directory."""
    specs: dict[str, dict] = {}
    locks: dict[str, dict] = {}
    try:
        names = sorted(os.listdir(directory))
    except OSError as exc:
        raise ImageError(f"{directory}: the specifications cannot be read ({exc.strerror}); correct the path.") from exc
    for file in names:
        path = os.path.join(directory, file)
        if file.endswith(".lock.json"):
            target, reader, name = locks, json.loads, file[: -len(".lock.json")]
        elif file.endswith((".yml", ".yaml")):
            target, reader, name = specs, parse, file.rsplit(".", 1)[0]
        else:
            continue
        with open(path, encoding="utf-8") as handle:
            try:
                target[name] = reader(handle.read())
            except Exception as exc:
                raise ImageError(f"{path}: cannot be read ({exc}); correct it.") from exc
    return specs, locks


def read_services(directory: str) -> dict[str, bytes]:
    """What the services image takes from the first-party sources: the requirements lock and the package itself."""
    found: dict[str, bytes] = {}
    lock = os.path.join(directory, "requirements.lock")
    try:
        with open(lock, "rb") as handle:
            found["requirements.lock"] = handle.read()
    except OSError as exc:
        raise ImageError(f"{lock}: cannot be read ({exc.strerror}); check the services option.") from exc
    source = os.path.join(directory, "src")
    for folder, folders, files in os.walk(source):
        folders[:] = sorted(f for f in folders if f != "__pycache__" and not f.endswith(".egg-info"))
        for file in sorted(files):
            if file.endswith((".pyc", ".pyo")) or file.startswith("."):
                continue
            path = os.path.join(folder, file)
            with open(path, "rb") as handle:
                found[os.path.relpath(path, directory).replace(os.sep, "/")] = handle.read()
    return found


def write_lock(directory: str, name: str, lock: dict) -> str:
    """Write a lock so that it can be reviewed line by line."""
    path = os.path.join(directory, f"{name}.lock.json")
    write_atomic(path, (json.dumps(lock, indent=1, sort_keys=True) + "\n").encode())
    return path
