# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation fragment: what every module of this collection declares about its behaviour."""

from __future__ import annotations


class ModuleDocFragment:
    """Describes the attributes; each module states its own support."""

    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in C(check_mode) and return a prediction of changes without making any.
  diff_mode:
    description: Returns details on what has changed, or would change in C(check_mode), when run with C(--diff).
  idempotent:
    description: When run twice in a row with the same arguments, the second call reports no change.
"""
