# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The door to the live TLS audit."""

from __future__ import annotations

import pytest

from ansible_collections.mcpstack.platform.plugins.modules import tls_audit
from ansible_collections.mcpstack.platform.tests.unit.plugins.module_utils import tls_fixture as tls


def arguments(listening, **changes):
    return {"host": "127.0.0.1", "port": listening, "http": False, "server_names": ["localhost"], **changes}


@pytest.fixture
def weak(tmp_path):
    """Self-signed, and nothing else."""
    context = tls.server_context(tmp_path, [tls.make()])
    with tls.Server(lambda sock: sock.recv(1), context) as server:
        yield server.port


@pytest.mark.parametrize("check", [False, True])
def test_reports(call, weak, check):
    result = call(tls_audit, arguments(weak), check=check)
    assert result["changed"] is False and "failed" not in result
    found = {(item["id"], item["severity"], item["subject"], item["where"]) for item in result["findings"]}
    assert ("TLS-12", "low", "localhost", f"127.0.0.1:{weak}") in found
    assert result["summary"]["open"] == len(result["findings"])
    assert {state["id"]: state["status"] for state in result["checks_run"]}["NGX-16"] == "not_applicable"


def test_fails_at_a_severity(call, weak):
    result = call(tls_audit, arguments(weak, production=True, fail_at="medium"))
    assert result["failed"] is True
    assert result["msg"].startswith("1 finding at or above medium:\n- MEDIUM TLS-12 ")


def test_waived(call, weak):
    waiver = {"id": "TLS-12", "reason": "a demo on one host", "expires": "2999-01-01"}
    result = call(tls_audit, arguments(weak, production=True, fail_at="medium", waivers=[waiver]))
    assert "failed" not in result and result["summary"]["waived"] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"port": 0}, "port: 0 is no port; give a number from 1 to 65535."),
        ({"http_port": 70000}, "http_port: 70000 is no port; give a number from 1 to 65535."),
        ({"timeout": 0}, "timeout: 0 is out of range; give seconds, more than 0 and at most 3600."),
        ({"host": "https://a"}, "'https://a' is no host name; give a name or an address without scheme, port or path."),
        (
            {"server_names": ["a\r\nb"]},
            "'a\\r\\nb' is no host name; give a name or an address without scheme, port or path.",
        ),
        (
            {"requests": [{"path": "/ HTTP/1.1"}]},
            "'/ HTTP/1.1' is no path; it begins with a slash and is percent-encoded.",
        ),
        ({"protected_paths": ["x"]}, "'x' is no path; it begins with a slash and is percent-encoded."),
        (
            {"ca_file": "/nowhere/ca.pem"},
            "ca_file: /nowhere/ca.pem is no file on this machine; name the PEM file of the authority.",
        ),
    ],
)
def test_options_that_cannot_be(call, changes, message):
    assert call(tls_audit, arguments(443, **changes))["msg"] == message
