# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The door through which a host hands over files."""

from __future__ import annotations

import pytest

from ansible_collections.mcpstack.platform.plugins.modules import audit_files


@pytest.mark.parametrize("check", [False, True])
def test_files_are_read_in_check_mode_too(call, tmp_path, check):
    (tmp_path / "x.yml").write_text("x")
    answer = call(audit_files, {"paths": [f"{tmp_path}/*.yml"], "stats": [f"{tmp_path}/no"]}, check)
    assert answer["changed"] is False
    assert answer["files"][f"{tmp_path}/x.yml"]["content"] == "eA=="
    assert answer["missing"] == [f"{tmp_path}/no"]


@pytest.mark.parametrize("path", ["relative", "/nul\0"])
def test_only_absolute_paths(call, path):
    answer = call(audit_files, {"paths": [path]})
    assert answer["failed"] is True
    assert "is not an absolute path" in answer["msg"]
