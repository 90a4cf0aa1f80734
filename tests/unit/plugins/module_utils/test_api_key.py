# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The first API key: how it reaches mcpstack-admin, and that no message holds it."""

from __future__ import annotations

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _api_key as core

SECRET = b"S" * 43
KEY = b"mk_dev_abcdefghijkl_" + SECRET + b"_0123abcd"
GOOD = {"changed": True, "kid": "abcdefghijkl", "created": True}


class Admin:
    """Records what is asked; answers as told. What the program said goes through the caller's cleaning, as in the real one."""

    def __init__(self, answer=None, said=b"") -> None:
        self.answer, self.said, self.calls = answer, said, []

    def __call__(self, arguments, stdin, *, clean):
        self.calls.append((arguments, stdin))
        if self.said:
            raise core.AdminError(clean(self.said), 2)
        return self.answer


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "key"
    path.write_bytes(KEY)
    return str(path)


def put(key_file, admin, **kwargs):
    return core.put(key_file, "operator", ["chat", "tools:read"], run=admin, **kwargs)


@pytest.mark.parametrize(
    ("kwargs", "more"),
    [({}, []), ({"rpm": 30}, ["--rpm", "30"]), ({"check": True}, ["--check"])],
)
def test_key_goes_through_standard_input_alone(key_file, kwargs, more):
    admin = Admin(GOOD)
    assert put(key_file, admin, **kwargs) == {"changed": True, "kid": "abcdefghijkl", "warnings": []}
    argv = ["keys", "put", "--name", "operator", "--scopes", "chat,tools:read"]
    assert admin.calls == [([*argv, *more], KEY)]


def test_warnings_are_passed_on(key_file):
    answer = {"changed": False, "kid": "abcdefghijkl", "warnings": ["The key was made for dev."]}
    assert put(key_file, Admin(answer)) == answer


@pytest.mark.parametrize(
    ("admin", "message"),
    [
        (Admin(said=b"Postgres says:\n" + KEY + b" " + SECRET), "Postgres says: (the key) (the key)"),
        (Admin({}), "mcpstack-admin keys put: the answer is not understood ({})."),
        (
            Admin({"changed": "yes", "kid": KEY.decode()}),
            "mcpstack-admin keys put: the answer is not understood ({'changed': 'yes', 'kid': '(the key)'}).",
        ),
        (
            Admin({"changed": True, "kid": "abcdefghijkl", "warnings": "x"}),
            "mcpstack-admin keys put: the answer is not understood "
            "({'changed': True, 'kid': 'abcdefghijkl', 'warnings': 'x'}).",
        ),
        (
            Admin({"changed": True, "kid": "zzzzzzzzzzzz"}),
            "mcpstack-admin keys put: another key was stored (zzzzzzzzzzzz) than the one in {key_file}.",
        ),
    ],
)
def test_trouble_is_told_without_the_key(key_file, admin, message):
    with pytest.raises(core.AdminError) as error:
        put(key_file, admin)
    assert str(error.value) == message.replace("{key_file}", key_file)
    assert SECRET.decode() not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"password", KEY[:-1], b"x" * 5000])
def test_file_that_holds_no_key_is_not_sent_anywhere(key_file, content):
    with open(key_file, "wb") as handle:
        handle.write(content)
    admin = Admin()
    with pytest.raises(core.AdminError) as error:
        put(key_file, admin)
    assert str(error.value) == (
        f"{key_file}: this is not an API key of the platform; name the file of a secret of kind api_key."
    )
    assert admin.calls == []


def test_missing_file():
    with pytest.raises(core.NotYet) as error:
        put("/absent/key", Admin())
    assert str(error.value) == "/absent/key: the key is not on this host; run the role secrets first."
