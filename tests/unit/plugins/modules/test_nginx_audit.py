# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""nginx_audit: options reach the core, and findings stop where they are asked to."""

from __future__ import annotations

import pytest

from ansible_collections.mcpstack.platform.plugins.modules import nginx_audit

CONFIG = """events { }
http {
    server_tokens off;
    include sites/*.conf;
}
"""
SITE = """server {
    listen 127.0.0.1:9000;
    autoindex on;
    return 404;
}
"""


@pytest.fixture
def config(tmp_path):
    (tmp_path / "sites").mkdir()
    (tmp_path / "sites" / "a.conf").write_text(SITE)
    (tmp_path / "nginx.conf").write_text(CONFIG)
    return tmp_path / "nginx.conf"


def options(config, **more):
    # Where the test lies belongs to whoever runs it.
    return {"path": str(config), "owners": [config.stat().st_uid, 0], **more}


def named(result, check):
    return [item for item in result["findings"] if item["id"] == check]


@pytest.mark.parametrize("check", [False, True])
def test_findings_with_file_and_line(call, config, check):
    result = call(nginx_audit, options(config), check=check)
    assert not result.get("failed") and result["changed"] is False
    (item,) = named(result, "NGX-11")
    assert item["where"] == f"{config.parent}/sites/a.conf:3"
    assert item["evidence"] == "autoindex on"
    assert result["files"] == [str(config), f"{config.parent}/sites/a.conf"]
    assert len({state["id"] for state in result["checks_run"]}) == 35


def test_it_stops_at_a_severity(call, config):
    result = call(nginx_audit, options(config, fail_at="medium"))
    assert result["failed"] is True
    assert "NGX-11" in result["msg"] and "autoindex on" in result["msg"]


def test_a_waiver_opens_the_way(call, config):
    accepted = [
        {"id": item, "reason": "an example that is accepted", "expires": "2099-12-31"} for item in ("NGX-04", "NGX-11")
    ]
    result = call(nginx_audit, options(config, fail_at="medium", waivers=accepted))
    assert not result.get("failed"), result.get("msg")
    assert named(result, "NGX-11")[0]["waived"] == {"reason": "an example that is accepted", "expires": "2099-12-31"}


def test_mounts_and_declared_ports(call, config):
    config.write_text(CONFIG.replace("sites/", "/etc/nginx/sites/"))
    (config.parent / "sites" / "a.conf").write_text(SITE.replace("127.0.0.1:", ""))
    result = call(nginx_audit, options(config, mounts={"/etc/nginx": str(config.parent)}, ports=[80]))
    assert [item["evidence"] for item in named(result, "NGX-06")] == ["listen *:9000; declared: 80"]


def test_the_program_is_asked_and_its_version_taken(call, config, tmp_path):
    program = tmp_path / "nginx"
    program.write_text(
        '#!/bin/sh\n[ "$1" = -V ] && { echo "nginx version: nginx/1.22.1" >&2; exit 0; }\necho "nginx: [emerg] no" >&2\nexit 1\n'
    )
    program.chmod(0o755)
    result = call(nginx_audit, options(config, nginx=str(program)))
    assert [item["evidence"] for item in named(result, "NGX-01")] == ["nginx -t: no"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": "/nonexistent/nginx.conf"}, "/nonexistent/nginx.conf: does not exist (create it, or name the right file)"),
        ({"path": "nginx.conf"}, "path: 'nginx.conf' is not an absolute path."),
        ({"prefix": "here"}, "prefix: 'here' is not an absolute path."),
        ({"tls_profile": "old"}, "value of tls_profile must be one of: intermediate, modern, got: old"),
    ],
)  # fmt: skip
def test_options_that_are_refused(call, config, change, message):
    result = call(nginx_audit, options(config, **change))
    assert result["failed"] is True and result["msg"] == message
