# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""image_build and image_load as Ansible runs them: a process that reads arguments and prints JSON."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ansible_collections.mcpstack.platform.plugins.module_utils import _image_inputs as inputs

ROOT = Path(__file__).resolve().parents[4]
MODULE = "ansible_collections.mcpstack.platform.plugins.modules."


def run(module, check_mode=False, **arguments):
    """Run a module; returns its result."""
    arguments["_ansible_check_mode"] = check_mode
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", MODULE + module],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def bundle():
    specs, locks = inputs.read_specs(str(ROOT / "roles/images/specs"), yaml.safe_load)
    return {"specs": specs, "locks": locks, "sources": {}, "keyring": base64.b64encode(b"key").decode()}


@pytest.fixture
def arguments(tmp_path, bundle):
    return {"specs": "/s", "keyring": "/k.pgp", "cache_dir": str(tmp_path / "cache"), "bundle": bundle}


def test_check_mode_on_a_fresh_build_host_promises_and_writes_nothing(arguments, tmp_path, bundle):
    result = run("image_build", check_mode=True, wanted=["nginx", "valkey"], **arguments)
    promised = bundle["locks"]["nginx"]["image"]
    assert result["changed"] is True
    assert result["refs"]["nginx"] == promised["ref"]
    assert result["images"][0] == {
        "name": "nginx", "ref": promised["ref"], "id": promised["id"], "layers": [], "archive": "", "built": True,
    }  # fmt: skip
    assert not (tmp_path / "cache").exists()


def test_check_mode_without_a_promise_gives_a_placeholder(arguments, bundle):
    bundle["specs"]["nginx"]["description"] = "changed"
    result = run("image_build", check_mode=True, wanted=["nginx"], **arguments)
    assert result["refs"] == {"nginx": "mcpstack/nginx:unbuilt"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"wanted": ["nope"]}, "nope: there is no image of this name; known are llama-server, nginx, "),
        (
            {"bundle": None},
            "image_build runs through its action plugin only: call it as mcpstack.platform.image_build.",
        ),
        (
            {"wanted": ["services"]},
            "services: the services directory has no requirements.lock; check the services option.",
        ),
    ],
)
def test_problems_are_one_clear_sentence(arguments, change, message):
    result = run("image_build", **{**arguments, **change})
    assert result["failed"] is True
    assert result["msg"].startswith(message)


IMAGE = {"ref": "mcpstack/nginx:1", "id": "sha256:1"}


def test_check_mode_on_a_bare_host_reports_everything(tmp_path):
    result = run("image_load", check_mode=True, images=[IMAGE], prune=True, socket=str(tmp_path / "none"))
    assert (result["changed"], result["loaded"], result["removed"]) == (True, ["mcpstack/nginx:1"], [])
    assert result["diff"] == {"before": "", "after": "mcpstack/nginx:1\n"}


def test_without_an_engine_loading_fails_before_anything(tmp_path):
    result = run("image_load", images=[IMAGE], socket=str(tmp_path / "none"))
    assert result["msg"] == f"{tmp_path}/none: no Docker engine listens here; install and start docker."


def test_a_moving_tag_is_not_pulled(tmp_path):
    result = run("image_load", images=[{"ref": "nginx:latest", "pull": True}], socket=str(tmp_path / "none"))
    assert result["msg"] == "nginx:latest: an image is only pulled by digest; write it as NAME@sha256:DIGEST."
