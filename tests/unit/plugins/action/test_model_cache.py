# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What people see while a model is downloaded."""

from __future__ import annotations

import pytest

from ansible_collections.mcpstack.platform.plugins.action.model_cache import progress_line

SOME = {"name": "chat", "state": "fetching", "done": 2**30, "total": 2**32, "rate": 2**26}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({}, "model_cache: [web1] fetching chat: 25 % of 4.0 GiB, 64.0 MiB/s, 48 s left"),
        ({"rate": 0}, "model_cache: [web1] fetching chat: 25 % of 4.0 GiB"),
        ({"state": "checking", "done": 2**32}, "model_cache: [web1] checking chat: 100 % of 4.0 GiB"),
        ({"total": 0, "done": 0}, "model_cache: [web1] fetching chat: 0 % of 0.0 MiB"),
        ({"rate": None}, ""),
    ],
)
def test_progress(change, line):
    assert progress_line("web1", {**SOME, **change}) == line


def test_no_progress_yet():
    assert progress_line("web1", {}) == ""
