# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The door to mcpstack-admin: check mode, changed, and that a failure is one sentence."""

from __future__ import annotations

import pytest

from ansible_collections.mcpstack.platform.plugins.modules import admin, api_key

KEY = "mk_dev_abcdefghijkl_" + "S" * 43 + "_0123abcd"


@pytest.fixture
def world(monkeypatch):
    """What is run, and what it answers."""

    class World:
        calls: list = []
        answer: dict = {"changed": True, "migrations": ["gateway/0001_api_keys"]}
        error = None

    def run(command, **options):
        World.calls.append((command, options))
        if World.error:
            raise World.error
        return World.answer

    World.calls = []
    monkeypatch.setattr(admin.core, "run", run)
    return World


@pytest.mark.parametrize(
    ("answer", "changed"),
    [({"changed": True}, True), ({"changed": False}, False), ({"keys": []}, False), ({"changed": 1}, False)],
)
def test_changed_is_what_it_answers(call, world, answer, changed):
    world.answer = answer
    result = call(admin, {"command": ["keys", "list"], "timeout": 9})
    assert (result["changed"], result["answer"]) == (changed, answer)
    assert world.calls == [(["keys", "list"], {"timeout": 9})]


def test_check_mode_predicts(call, world):
    result = call(admin, {"command": ["migrate"], "predict": True}, check=True)
    assert result["changed"] is True
    assert world.calls[0][0] == ["migrate", "--check"]


def test_check_mode_runs_nothing_that_cannot_predict(call, world):
    result = call(admin, {"command": ["keys", "create"]}, check=True)
    assert (result["changed"], result["skipped"], world.calls) == (False, True, [])


@pytest.mark.parametrize("check", [True, False])
def test_what_is_not_there_yet_is_a_prediction_in_check_mode_alone(call, world, check):
    world.error = admin.core.NotYet("run site.yml first.")
    result = call(admin, {"command": ["migrate"], "predict": True}, check=check)
    assert result.get("failed", False) is not check
    assert (result["changed"] is True) if check else (result["msg"] == "run site.yml first.")


def test_a_failure_is_one_sentence(call, world):
    world.error = admin.core.AdminError("It ended with status 4.", 4)
    for check in (True, False):
        result = call(admin, {"command": ["migrate"], "predict": True}, check=check)
        assert (result["failed"], result["msg"]) == (True, "It ended with status 4.")


def test_a_command_is_needed(call, world):
    assert call(admin, {"command": []})["failed"] is True
    assert world.calls == []


@pytest.fixture
def key_file(tmp_path):
    (tmp_path / "key").write_text(KEY)
    return str(tmp_path / "key")


@pytest.mark.parametrize(
    ("missing", "check", "failed"), [(True, True, False), (True, False, True), (False, False, False)]
)
def test_api_key(call, monkeypatch, key_file, missing, check, failed):
    def put(check, **params):
        if missing:
            raise api_key.core.NotYet("not yet")
        assert params == {"name": "a", "scopes": ["chat"], "rpm": None, "key_file": key_file}
        return {"changed": True, "kid": "abcdefghijkl", "warnings": ["Made for dev."]}

    monkeypatch.setattr(api_key.core, "put", put)
    result = call(api_key, {"name": "a", "scopes": ["chat"], "key_file": key_file}, check=check)
    assert result.get("failed", False) is failed
    if not failed:
        assert result["changed"] is True
