# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation fragment: the options that every audit module has."""

from __future__ import annotations


class ModuleDocFragment:
    """What is accepted, and what stops."""

    DOCUMENTATION = r"""
options:
  waivers:
    description:
      - Findings that are accepted. They are returned with RV(ignore:findings[].waived) set and no longer stop anything.
      - A waiver that has expired (C(WVR-01)), that matches nothing (C(WVR-02)) or that is malformed (C(WVR-03)) is a
        finding of its own.
    type: list
    elements: dict
    default: []
    suboptions:
      id:
        description: Id of the check.
        type: str
        required: true
      where:
        description: Glob for the place, the whole of it.
        type: str
        default: "*"
      subject:
        description: Glob for the subject, the whole of it.
        type: str
        default: "*"
      reason:
        description: Why this is accepted, at least eight characters.
        type: str
        required: true
      expires:
        description: Last day on which the waiver counts, in UTC, written C(YYYY-MM-DD).
        type: str
        required: true
  fail_at:
    description: Fail when a finding that is not waived is of this severity or worse. V(none) only reports.
    type: str
    choices: [critical, high, medium, low, info, none]
    default: none
"""
