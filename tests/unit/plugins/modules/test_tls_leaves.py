# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The door to the certificates: arguments, check mode, a host without the library."""

from __future__ import annotations

import json

import pytest
from ansible.module_utils import basic
from ansible.module_utils.testing import patch_module_args

from ansible_collections.mcpstack.platform.plugins.module_utils import _cert_check as check
from ansible_collections.mcpstack.platform.plugins.module_utils import _tls_leaves as core
from ansible_collections.mcpstack.platform.plugins.modules import tls_leaves

LEAVES = {"leaves": [{"service": "postgres", "uid": 64104}], "trust_only": [{"service": "gateway", "uid": 64102}]}


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    real = core.Leaves
    monkeypatch.setattr(core, "Leaves", lambda: real(str(tmp_path)))
    monkeypatch.setattr(basic, "_ANSIBLE_PROFILE", "legacy", raising=False)

    def run(arguments, check_mode=False):
        with patch_module_args({**arguments, "_ansible_check_mode": check_mode}), pytest.raises(SystemExit):
            tls_leaves.main()
        return json.loads(capsys.readouterr().out)

    return run


def test_bare_host_in_check_mode(call, tmp_path):
    result = call(LEAVES, check_mode=True)
    assert (result["changed"], result["authority"]) == (True, False)
    assert [item["service"] for item in result["issue"]] == ["postgres"]
    assert result["fingerprints"] == {"postgres": "pending", "gateway": "pending"}
    assert list(tmp_path.iterdir()) == []


def test_what_was_not_issued_is_an_error_when_all_should_be(call):
    result = call({**LEAVES, "complete": True})
    assert result["failed"] is True
    assert result["msg"] == (
        "These certificates were issued, and still are not right:\npostgres: there is no internal authority yet"
    )


def test_wrong_request(call):
    result = call({"leaves": [{"service": "postgres", "uid": 1, "names": ["a b"]}]})
    assert result["msg"] == (
        "The certificates in use were left as they are.\n"
        "leaves[0] (postgres): 'a b' is not a DNS name or an address; correct the name."
    )


@pytest.mark.parametrize("days", [0, 30, 31])
def test_renewal_must_come_within_the_lifetime(call, days):
    assert call({**LEAVES, "renew_days": days})["msg"] == (
        "The certificates in use were left as they are.\n"
        f"renew_days: certificates live 30 days and are issued again with {days} days left; "
        "choose a number between 0 and the lifetime."
    )


def test_host_without_the_library(call, monkeypatch):
    monkeypatch.setattr(check, "HAVE_CRYPTOGRAPHY", False)
    result = call(LEAVES)
    assert (result["library"], result["changed"], result["issue"]) == (False, True, [])
    result = call({**LEAVES, "complete": True})
    assert result["msg"] == "The Python library cryptography is not on this host; install python3-cryptography."


def test_absent(call, tmp_path):
    call(LEAVES)
    assert call({"state": "absent"}, check_mode=True)["changed"] is True
    assert call({"state": "absent"})["changed"] is True
    assert call({"state": "absent"})["changed"] is False
    assert not (tmp_path / "var/lib/mcpstack/pki").exists()
