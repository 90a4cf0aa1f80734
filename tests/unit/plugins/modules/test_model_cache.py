# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module model_cache as a process: arguments in, one JSON object out."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _demo_model

MODULE = "ansible_collections.mcpstack.platform.plugins.modules.model_cache"
DEMO = [{"name": "mcpstack-demo", "demo": True}]


@pytest.fixture
def module(tmp_path):
    def call(**arguments):
        arguments = {"path": str(tmp_path / "models"), "headroom": "0", **arguments}
        source = tmp_path / "arguments.json"
        source.write_text(json.dumps({"ANSIBLE_MODULE_ARGS": arguments}))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-m", MODULE, str(source)], capture_output=True, text=True, env=environment, check=False
        )
        return json.loads(done.stdout)

    call.root = tmp_path / "models"
    return call


def test_the_demo_model(module):
    place = str(module.root / "mcpstack-demo" / _demo_model.SHA256[:12] / _demo_model.FILE_NAME)
    foretold = module(models=DEMO, _ansible_check_mode=True, _ansible_diff=True)
    assert (foretold["changed"], foretold["diff"]) == (True, {"before": "", "after": f"{place}\n"})
    assert foretold["models"]["mcpstack-demo"]["state"] == "would_generate"
    assert not module.root.exists()
    first, second = module(models=DEMO), module(models=DEMO)
    assert (first["changed"], second["changed"]) == (True, False)
    assert second["models"]["mcpstack-demo"] == {
        "bytes": _demo_model.SIZE,
        "file": _demo_model.FILE_NAME,
        "memory": first["models"]["mcpstack-demo"]["memory"],
        "path": place,
        "sha256": _demo_model.SHA256,
        "source": "the demo model",
        "state": "present",
    }


def test_problems_come_as_one_failure(module):
    failed = module(models=[{"name": "A", "url": "https://hub.test/m.gguf", "sha256": "x"}])
    assert failed["failed"]
    assert [problem["where"] for problem in failed["problems"]] == ["models[0].name", "models[0].sha256"]
    assert failed["msg"].startswith("The models are not ready. models[0].name: 'A' is not a usable name.")


@pytest.mark.parametrize("option", ["memory_limit", "prompt_cache", "headroom"])
def test_sizes_are_checked(module, option):
    failed = module(models=DEMO, **{option: "plenty"})
    assert failed["msg"] == f"The models are not ready. {option}: 'plenty' is not a size. Write it like 8g or 512m."


def test_a_directory_that_cannot_be_made(module):
    module.root.write_text("a file")
    failed = module(models=DEMO)
    assert failed["msg"] == f"{module.root}: File exists."
