# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A process that dies in the middle of its work, for tests of what it leaves behind."""

from __future__ import annotations

import os

CALLS = (
    "mkdir",
    "makedirs",
    "replace",
    "rename",
    "symlink",
    "unlink",
    "rmdir",
    "chmod",
    "chown",
    "fchmod",
    "fchown",
    "open",
    "write",
    "fsync",
)


class Killed(BaseException):
    """Not an Exception: nothing may catch it."""


class KilledAt:
    """Stands in for ``os``; from the n-th call that changes something on, every such call raises, as for a dead process."""

    def __init__(self, number: int) -> None:
        self.left = number

    def __getattr__(self, name):
        real = getattr(os, name)
        if name not in CALLS:
            return real

        def call(*args, **kwargs):
            if name == "open" and not args[1] & os.O_CREAT:
                return real(*args, **kwargs)
            self.left -= 1
            if self.left < 0:
                raise Killed(name)
            return real(*args, **kwargs)

        return call
