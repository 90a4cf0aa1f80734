# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one exception of the image builder. PRIVATE, may change at any time."""

from __future__ import annotations


class ImageError(Exception):
    """One sentence: where, what is wrong, what to do about it."""
