# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write files so that a reader, and a run that comes after a killed one, finds the old file or the new one.

PRIVATE: internal to the collection, may change in any release. Standard library only.

``_secret_store`` has its own copy of the two functions it needs: it is installed on hosts alone, without this file.
"""

from __future__ import annotations

import json
import os


def sync_directory(path: str) -> None:
    """Make what was created, renamed or removed in a directory outlast a power failure."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(
    path: str,
    data: bytes,
    mode: int = 0o644,
    owner: tuple[int, int] | None = None,
    *,
    shared: bool = False,
    sync: bool = True,
) -> None:
    """Write beside the place, give owner and mode, flush, rename, flush the directory.

    Until the rename nobody but the owner of this process can read what is written. A symbolic link at ``path`` is
    replaced, not followed; the directory must exist. When anything fails the old file is as it was, and OSError says why.

    owner: numeric user and group; without it the file belongs to who writes it.
    shared: several processes may write this very path at once. The name beside it is then a fresh one (``.part-*``),
        and what a killed run leaves is for the owner of the directory to tidy up. Otherwise the name follows from
        ``path`` (``.new-NAME.part``: hidden, and not of the kind that programs include), so that what a killed run
        leaves is replaced by the next one.
    sync: without it the file is whole for every reader, but may be lost or empty after a power failure.
    """
    folder, name = os.path.split(path)
    staged = os.path.join(folder, f".part-{os.urandom(8).hex()}" if shared else f".new-{name}.part")
    if os.path.lexists(staged):
        os.unlink(staged)
    handle = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(handle, view) :]
            if owner is not None:
                os.fchown(handle, *owner)
            os.fchmod(handle, mode)
            if sync:
                os.fsync(handle)
        finally:
            os.close(handle)
        os.replace(staged, path)
    except BaseException:
        if os.path.lexists(staged):
            os.unlink(staged)
        raise
    if sync:
        sync_directory(folder or ".")


def save_state(path: str, state: dict) -> None:
    """Write one of our records as JSON that only root reads; makes its directory (0700) and the one above (0755)."""
    directory = os.path.dirname(path)
    os.makedirs(os.path.dirname(directory), mode=0o755, exist_ok=True)
    if not os.path.isdir(directory):
        os.mkdir(directory, mode=0o700)
    write_atomic(path, (json.dumps(state, indent=1, sort_keys=True) + "\n").encode(), 0o600)


def forget_state(path: str) -> None:
    """Remove a record, if it is there, and the two directories of ``save_state`` where nothing else lies in them."""
    directory = os.path.dirname(path)
    if os.path.exists(path):
        os.unlink(path)
        sync_directory(directory)
    for _level in range(2):
        try:
            os.rmdir(directory)
        except OSError:
            return
        directory = os.path.dirname(directory)
