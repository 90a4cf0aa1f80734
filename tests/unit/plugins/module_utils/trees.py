# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Directories that stand for a host, for tests."""

from __future__ import annotations

import os
import stat


def lay(root, files: dict[str, str]) -> str:
    """Write files below a directory; returns the directory as the cores take it."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


def snapshot(root) -> dict:
    """Every path below a directory with its mode, owner and content."""
    found = {}
    for folder, folders, files in os.walk(root):
        for entry in folders + files:
            path = os.path.join(folder, entry)
            info = os.lstat(path)
            mark = (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid)
            if stat.S_ISLNK(info.st_mode):
                found[path] = ("link", os.readlink(path))
            elif stat.S_ISREG(info.st_mode):
                with open(path, "rb") as handle:
                    found[path] = (*mark, handle.read())
            else:
                found[path] = mark
    return found
