# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""daemon_config on a host without an engine, and its refusals; the engine itself is the core's test."""

from __future__ import annotations

import json

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.mcpstack.platform.plugins.module_utils import _daemon_config as core
from ansible_collections.mcpstack.platform.plugins.modules import daemon_config

NOT_INSTALLED = "LoadState=not-found\nActiveState=inactive\nMainPID=0\nUnitFileState=\n"


@pytest.fixture
def module(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        core.Service.__init__, "__defaults__", (lambda argv: (0, NOT_INSTALLED, ""), "/", core.UNIT, None)
    )
    monkeypatch.setattr(core, "unit_flags", lambda root="/": {})
    monkeypatch.setattr(core, "validate", lambda config, path: "none")
    monkeypatch.setattr(core.Service, "nofile_ceiling", None)
    path = tmp_path / "docker/daemon.json"

    def call(check=False, **args):
        given = {
            "path": str(path),
            "journal": str(tmp_path / "mcpstack/state/docker-daemon.json"),
            "socket": str(tmp_path / "docker.sock"),
            "_ansible_check_mode": check,
            "_ansible_diff": True,
            **args,
        }
        with patch_module_args(given):
            with pytest.raises(SystemExit):
                daemon_config.main()
        return json.loads(capsys.readouterr().out)

    call.path = path
    return call


def test_check_mode_on_a_bare_host_tells_and_touches_nothing(module, tmp_path):
    result = module(check=True, settings={"icc": False})
    assert (result["changed"], result["action"], result["config"]) == (True, "start", {"icc": False})
    assert result["diff"]["after"] == '{\n  "icc": false\n}\n'
    assert list(tmp_path.iterdir()) == []


def test_an_engine_that_is_not_installed_is_named(module):
    result = module(settings={"icc": False})
    assert result["failed"] is True
    assert result["msg"] == (
        "The Docker engine's configuration was refused: docker.service: is not installed. "
        "Fix: install the engine first (packages docker.io or docker-ce)."
    )


def test_the_file_alone_is_written_kept_and_given_back(module, tmp_path):
    module.path.parent.mkdir()
    module.path.write_text('{"dns": ["192.0.2.1"]}')
    result = module(settings={"icc": False}, apply=False)
    assert (result["changed"], result["action"]) == (True, "none")
    assert module(settings={"icc": False}, apply=False)["changed"] is False
    assert json.loads(module.path.read_text()) == {"dns": ["192.0.2.1"], "icc": False}
    assert module(state="absent", check=True)["changed"] is True
    assert module(state="absent")["changed"] is True
    assert module.path.read_text() == '{"dns": ["192.0.2.1"]}'
    assert module(state="absent")["changed"] is False
    assert not (tmp_path / "mcpstack").exists()


def test_all_conflicts_come_as_one_failure(module):
    module.path.parent.mkdir()
    module.path.write_text('{"icc": true, "userland-proxy": true}')
    result = module(settings={"icc": False, "userland-proxy": False}, apply=False)
    assert result["failed"] is True
    assert [item["where"] for item in result["problems"]] == [f"{module.path}: icc", f"{module.path}: userland-proxy"]
    result = module(settings={"icc": False, "userland-proxy": False}, apply=False, conflicts="override")
    assert result["overridden"] == {"icc": True, "userland-proxy": True}


def test_a_broken_file_is_refused_with_its_place(module):
    module.path.parent.mkdir()
    module.path.write_text('{\n  "icc": true,\n}')
    result = module(settings={"icc": False}, apply=False)
    assert result["problems"][0]["where"].startswith(f"{module.path}:")
    assert module.path.read_text() == '{\n  "icc": true,\n}'
