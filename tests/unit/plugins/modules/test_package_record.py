# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""package_record: what it reports, and that check mode leaves no record."""

from __future__ import annotations

import json

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.mcpstack.platform.plugins.module_utils import _packages as core
from ansible_collections.mcpstack.platform.plugins.modules import package_record


def package(name):
    return core.Package(name, "1.0", False, (), ())


@pytest.fixture
def module(tmp_path, monkeypatch, capsys):
    there = {"python3"}
    monkeypatch.setattr(core, "installed", lambda: {name: package(name) for name in there})
    monkeypatch.setattr(core, "automatic", set)
    monkeypatch.setattr(core, "interrupted", lambda: False)

    def call(check=False, **args):
        with patch_module_args(
            {"owner": "docker", "directory": str(tmp_path / "state"), "_ansible_check_mode": check, **args}
        ):
            with pytest.raises(SystemExit):
                package_record.main()
        return json.loads(capsys.readouterr().out)

    call.there = there
    call.file = tmp_path / "state/packages-docker.json"
    return call


def test_an_installation_from_begin_to_end(module):
    names = ["docker.io | docker-ce", "python3"]
    result = module(names=names, check=True)
    assert (result["changed"], result["missing"]) == (True, ["docker.io"])
    assert not module.file.exists()
    result = module(names=names)
    assert (result["changed"], result["missing"], result["installed"]) == (True, ["docker.io"], {"python3": "1.0"})
    module.there |= {"docker.io"}
    assert module(names=names)["changed"] is True
    result = module(names=names)
    assert (result["changed"], result["missing"], result["removable"]) == (False, [], ["docker.io"])
    assert module(state="query")["changed"] is False
    assert module(state="absent", check=True)["changed"] is True
    assert module.file.exists()
    assert module(state="absent")["changed"] is True
    assert not module.file.parent.exists()
    assert module(state="absent")["changed"] is False


def test_a_broken_record_fails_with_the_fix(module):
    module.file.parent.mkdir()
    module.file.write_text("{")
    result = module(names=[])
    assert result["failed"] is True
    assert "Fix: restore it from a backup, or remove it" in result["msg"]
