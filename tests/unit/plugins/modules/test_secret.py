# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The doors to the secret store and to the first API key: arguments, check mode, results without values."""

from __future__ import annotations

import json
import os

import pytest
from ansible.module_utils import basic
from ansible.module_utils.testing import patch_module_args

from ansible_collections.mcpstack.platform.plugins.module_utils import _secret_store as core
from ansible_collections.mcpstack.platform.plugins.modules import api_key, secret, secret_info

ME = os.geteuid() or 64102
LIST = [
    {"name": "login", "kind": "postgres_login", "role": "app", "consumers": [{"service": "gateway", "uid": ME}]},
    {"name": "pw", "kind": "password", "consumers": [{"service": "gateway", "uid": ME}]},
]


class PlainTool:
    """Encrypts nothing; the store's own tests have a stricter one."""

    def missing(self):
        return []

    def encrypt(self, name, value):
        return name.encode() + b"\0" + value

    def decrypt(self, name, sealed):
        return sealed.split(b"\0", 1)[1]


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """call(module, arguments) -> its result, as Ansible would read it; the store lies in tmp_path."""
    real = core.Store

    def store():
        found = real(str(tmp_path), PlainTool(), 0o500 if os.geteuid() == 0 else 0o700)
        found.tmpfs = lambda: {"noswap": True}
        return found

    def run(module, arguments, check=False):
        given = {**arguments, "_ansible_check_mode": check, "_ansible_diff": True}
        with patch_module_args(given), pytest.raises(SystemExit):
            module.main()
        return json.loads(capsys.readouterr().out)

    (tmp_path / "run/mcpstack/secrets").mkdir(parents=True)
    monkeypatch.setattr(core, "Store", store)
    monkeypatch.setattr(basic, "_ANSIBLE_PROFILE", "legacy", raising=False)
    return run


def published(tmp_path):
    return {path: path.read_text() for path in (tmp_path / "run/mcpstack/secrets").glob("*/*/v*")}


def test_check_then_run_then_again(call, tmp_path):
    predicted = call(secret, {"secrets": LIST}, check=True)
    assert predicted["changed"] is True
    assert published(tmp_path) == {}
    done = call(secret, {"secrets": LIST})
    assert done["actions"] == predicted["actions"]
    assert [(item["name"], item["version"], item["state"]) for item in done["secrets"]] == [
        ("login", 1, "active"),
        ("pw", 1, "active"),
    ]
    again = call(secret, {"secrets": LIST})
    assert (again["changed"], again["actions"], again["secrets"]) == (False, [], done["secrets"])


def test_no_value_in_result_difference_or_invocation(call, tmp_path):
    told = json.dumps([call(secret, {"secrets": LIST}), call(secret, {"secrets": LIST}), call(secret_info, {})])
    values = published(tmp_path).values()
    assert len(values) == 2
    for value in values:
        for part in value.split(":"):
            if len(part) > 8:
                assert part not in told


def test_info_says_where_secrets_are_published(call):
    call(secret, {"secrets": LIST})
    found = call(secret_info, {})
    assert found["changed"] is False
    assert [(item["name"], item["stored"], item["consumers"]) for item in found["secrets"]] == [
        ("login", True, [{"service": "gateway", "uid": ME, "published": True}]),
        ("pw", True, [{"service": "gateway", "uid": ME, "published": True}]),
    ]


def test_info_on_a_bare_host(call):
    assert call(secret_info, {})["secrets"] == []


def test_refusal_is_one_message(call, tmp_path):
    call(secret, {"secrets": LIST})
    path = tmp_path / "etc/credstore.encrypted/mcpstack.pw.v1"
    path.unlink()
    result = call(secret, {"secrets": LIST})
    assert result["failed"] is True
    assert result["msg"] == (
        "The secrets of this host were left as they are.\n"
        f"{path}: the encrypted value of the secret pw is missing; restore the file from the backup of this host, "
        "together with /var/lib/systemd/credential.secret and /etc/machine-id; no new value is made, because what uses "
        "the old one would refuse it."
    )


def test_unknown_option_of_a_secret_is_refused(call):
    result = call(secret, {"secrets": [{"name": "a", "kind": "password", "value": "hunter2"}]})
    assert result["failed"] is True
    assert "value" in result["msg"]


def test_absent_wipes_everything(call, tmp_path):
    call(secret, {"secrets": LIST})
    assert call(secret, {"state": "absent"}, check=True)["changed"] is True
    assert len(published(tmp_path)) == 2
    assert call(secret, {"state": "absent"})["secrets"] == []
    assert published(tmp_path) == {}
    assert call(secret, {"state": "absent"})["changed"] is False


def test_api_key_that_is_not_there_yet(call):
    arguments = {"name": "operator", "scopes": ["chat"], "key_file": "/absent/key"}
    assert call(api_key, arguments, check=True)["changed"] is True
    result = call(api_key, arguments)
    assert result["failed"] is True
    assert result["msg"] == "/absent/key: the key is not on this host; run the role secrets first."
