# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The first API key: how it reaches the gateway, and that no message holds it."""

from __future__ import annotations

import json

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _api_key as core
from ansible_collections.mcpstack.platform.plugins.module_utils._engine import (
    EngineError,
    EngineUnavailable,
    ExecResult,
)

SECRET = b"S" * 43
KEY = b"mk_dev_abcdefghijkl_" + SECRET + b"_0123abcd"
GOOD = json.dumps({"changed": True, "kid": "abcdefghijkl", "created": True}).encode()


class FakeEngine:
    """Records what is executed; answers as told."""

    def __init__(self, result=None, container="c1", error=None) -> None:
        self.result, self.container, self.error, self.calls = result, container, error, []

    def find_service_container(self, project, service):
        self.asked = (project, service)
        return {"Id": self.container} if self.container else None

    def exec(self, container, argv, stdin=None):
        self.calls.append((container, argv, stdin))
        if self.error:
            raise self.error
        return self.result


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "key"
    path.write_bytes(KEY)
    return str(path)


def put(key_file, engine, **kwargs):
    return core.put(key_file, "operator", ["chat", "models"], engine=engine, **kwargs)


@pytest.mark.parametrize(
    ("kwargs", "more"),
    [({}, []), ({"rpm": 30}, ["--rpm", "30"]), ({"check": True}, ["--check"])],
)
def test_key_goes_through_standard_input_alone(key_file, kwargs, more):
    engine = FakeEngine(ExecResult(0, GOOD, b""))
    assert put(key_file, engine, **kwargs) == {"changed": True, "kid": "abcdefghijkl", "warnings": []}
    argv = [
        "/usr/bin/python3.13",
        "-m",
        "mcpstack.admin",
        "keys",
        "put",
        "--name",
        "operator",
        "--scopes",
        "chat,models",
    ]
    assert engine.calls == [("c1", [*argv, *more], KEY)]
    assert engine.asked == ("mcpstack", "gateway")


def test_warnings_of_the_gateway_are_passed_on(key_file):
    answer = {"changed": False, "kid": "abcdefghijkl", "warnings": ["The key was made for dev."]}
    result = put(key_file, FakeEngine(ExecResult(0, json.dumps(answer).encode(), b"")))
    assert result == {"changed": False, "kid": "abcdefghijkl", "warnings": ["The key was made for dev."]}


@pytest.mark.parametrize(
    ("engine", "kind", "message"),
    [
        (FakeEngine(container=None), core.NotYet,
         "gateway: no container of it is running in the project mcpstack; start it (site.yml) first."),
        (FakeEngine(error=EngineUnavailable("/run/docker.sock: no Docker engine listens here.")), core.NotYet,
         "/run/docker.sock: no Docker engine listens here."),
        (FakeEngine(error=EngineError("python3.13 did not finish in time.")), core.ApiKeyError,
         "gateway: python3.13 did not finish in time."),
        (FakeEngine(ExecResult(3, b"", b"mcpstack-admin: Postgres cannot be used:\n" + KEY + b" " + SECRET)),
         core.ApiKeyError,
         "gateway: the key operator could not be stored, the gateway said (3): mcpstack-admin: Postgres cannot be used: "
         "(the key) (the key)"),
        (FakeEngine(ExecResult(1, b"", b"")), core.ApiKeyError,
         "gateway: the key operator could not be stored, the gateway said (1): nothing"),
        (FakeEngine(ExecResult(0, b"[]", b"")), core.ApiKeyError,
         "gateway: the gateway gave an answer that is not understood ('[]')."),
        (FakeEngine(ExecResult(0, KEY, b"")), core.ApiKeyError,
         "gateway: the gateway gave an answer that is not understood ('(the key)')."),
        (FakeEngine(ExecResult(0, b'{"changed": "yes", "kid": "x"}', b"")), core.ApiKeyError,
         """gateway: the gateway gave an answer that is not understood ('{"changed": "yes", "kid": "x"}')."""),
        (FakeEngine(ExecResult(0, b'{"changed": true, "kid": "zzzzzzzzzzzz"}', b"")), core.ApiKeyError,
         "gateway: the gateway stored another key (zzzzzzzzzzzz) than the one in {key_file}."),
    ],
)  # fmt: skip
def test_trouble_is_told_without_the_key(key_file, engine, kind, message):
    with pytest.raises(core.ApiKeyError) as error:
        put(key_file, engine)
    assert type(error.value) is kind
    assert str(error.value) == message.replace("{key_file}", key_file)
    assert SECRET.decode() not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"password", KEY[:-1], b"x" * 5000])
def test_file_that_holds_no_key_is_not_sent_anywhere(key_file, content):
    with open(key_file, "wb") as handle:
        handle.write(content)
    engine = FakeEngine()
    with pytest.raises(core.ApiKeyError) as error:
        put(key_file, engine)
    assert str(error.value) == (
        f"{key_file}: this is not an API key of the gateway; name the file of a secret of kind api_key."
    )
    assert engine.calls == []


def test_missing_file():
    with pytest.raises(core.NotYet) as error:
        put("/absent/key", FakeEngine())
    assert str(error.value) == "/absent/key: the key is not on this host; run the role secrets first."
