# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asking an nginx program about a copy: what the copy leaves out, and what is made of the answer.

The program is a script here. With a real one (nginx in PATH, or named by NGINX_BINARY) a few tests more are run.
"""

from __future__ import annotations

import os
import shutil

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _nginx_test as core
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import MemoryFiles
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_parse import parse

MAIN = "/etc/nginx/nginx.conf"
REAL = os.environ.get("NGINX_BINARY") or shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")


def tree(text, files=None):
    return parse(MemoryFiles({MAIN: text, **(files or {})}, roots=("/etc",)), MAIN)


@pytest.fixture
def program(tmp_path):
    """program(script) -> path of a program that keeps the configuration it was given in ``seen``."""

    def make(body):
        path = tmp_path / "nginx"
        path.write_text(f'#!/bin/sh\nfor word; do last="$word"; done\ncp "$last" {tmp_path}/seen\n{body}\n')
        path.chmod(0o755)
        return str(path)

    return make


def copy(tmp_path):
    return [" ".join(line.replace('"', "").split()) for line in (tmp_path / "seen").read_text().splitlines()]


def test_the_copy_needs_nothing_of_this_machine(program, tmp_path):
    text = """
user nobody; pid /run/nginx.pid; error_log /var/log/nginx/error.log warn;
events { }
http {
    access_log /var/log/nginx/access.log main; client_body_temp_path /var/cache/x;
    resolver dns.local 10.0.0.2 valid=5s;
    upstream group { server backend:81 weight=2; server [::1]:82; server unix:/run/x.sock; }
    server { listen 80 default_server; listen [::]:80 ipv6only=on reuseport; listen 192.0.2.1:443 ssl; ssl_certificate /tls/a.crt; ssl_certificate_key /tls/a.key;
        ssl_verify_client on; ssl_client_certificate /tls/ca.crt; ssl_dhparam /tls/dh;
        location /a { proxy_pass http://app:8000/x; } location /b { proxy_pass http://group; } location /c { proxy_pass https://$host; } location /d { fastcgi_pass unix:/run/php.sock; } }
    server { listen 80; }
    proxy_cache_path /var/cache/p keys_zone=z:1m;
}
"""
    assert core.test(program("exit 0"), tree(text)) == core.Tested(True)
    lines = copy(tmp_path)
    joined = "\n".join(lines)
    for gone in (
        "nobody",
        "/run/nginx.pid",
        "/var/",
        "/tls/",
        "ssl_verify_client",
        "dns.local",
        "app:8000",
        "backend",
        "ipv6only",
        "reuseport",
        "192.0.2.1",
        "listen 80",
    ):
        assert gone not in joined, gone
    ports = [line.split()[1] for line in lines if line.startswith("listen ")]
    assert [port.partition(":")[0] for port in ports] == ["127.0.0.1"] * 4
    assert ports[0].rstrip(";") == ports[3].rstrip(";") and len({port.rstrip(";") for port in ports}) == 3
    for kept in (
        "proxy_pass http://127.0.0.1:8000/x;",
        "proxy_pass http://group;",
        "proxy_pass https://$host;",
        "fastcgi_pass unix:/run/php.sock;",
        "server 127.0.0.1:81 weight=2;",
        "server [::1]:82;",
        "resolver 127.0.0.1 10.0.0.2 valid=5s;",
    ):
        assert kept in lines, kept
    assert not (tmp_path / "nginx.conf").exists()


def test_words_reach_the_program_as_they_were(program, tmp_path):
    text = 'http { map $a $b { "~^x{2}\\\\.\\"" \'c"d;\'; default ""; } log_format f \'{"a":"$b"}\' "x\ny"; }'
    original = tree(text)
    assert core.test(program("exit 0"), original) == core.Tested(True)
    again = parse(MemoryFiles({"/n": (tmp_path / "seen").read_text()}), "/n")
    wanted = [(item.name, item.args) for item in original.root.walk() if item.name in ("map", "log_format")]
    assert [(item.name, item.args) for item in again.root.walk() if item.name in ("map", "log_format")] == wanted
    entries = [
        [(one.name, one.args) for one in block.block]
        for found in (original, again)
        for block in found.root.walk()
        if block.name == "map"
    ]
    assert entries[0] == entries[1] == [('~^x{2}\\."', ('c"d;',)), ("default", ("",))]


def test_the_line_leads_back_to_the_original(program):
    files = {"/etc/nginx/a.conf": "# one\nserver {\n    listen 80;\n    foo bar;\n}\n"}
    body = 'line=$(grep -n foo "$last" | cut -d: -f1)\necho "nginx: [emerg] unknown directive \\"foo\\" in $last:$line" >&2\nexit 1'
    answer = core.test(program(body), tree("http {\n    include a.conf;\n}\n", files))
    assert answer == core.Tested(False, 'unknown directive "foo"', "/etc/nginx/a.conf:4")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("echo 'nginx: [emerg] bind() to 127.0.0.1:39000 failed (13: Permission denied)' >&2; exit 1", "bind() to 127.0.0.1:39000 failed (13: Permission denied)"),
        ("echo 'nginx: [emerg] host not found in upstream \"x\"' >&2; exit 1", 'host not found in upstream "x"'),
        ("exit 1", "it failed without a word"),
        ("echo hello; exit 3", "hello"),
    ],
)  # fmt: skip
def test_what_the_place_refuses_is_no_verdict(program, body, message):
    assert core.test(program(body), tree("events { }")) == core.Tested(None, message)


def test_an_emergency_comes_before_an_alert(program):
    body = "echo 'nginx: [alert] could not open error log file: open() failed (13: Permission denied)' >&2; echo 'nginx: [emerg] it is wrong' >&2; exit 1"
    assert core.test(program(body), tree("events { }")) == core.Tested(False, "it is wrong")


def test_no_program(tmp_path):
    assert core.test(str(tmp_path / "none"), tree("events { }")).ok is None
    assert core.version(str(tmp_path / "none")) == (None, None)


def test_a_program_that_does_not_end(program, monkeypatch):
    monkeypatch.setattr(core, "TIMEOUT", 0.05)
    assert core.test(program("exec tail -f /dev/null"), tree("events { }")) == core.Tested(
        None, "it did not answer within 0.05 s"
    )


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("load_module /tmp/evil.so;", "load_module at /etc/nginx/nginx.conf:1 would run code of the configuration"),
        ("load_module ../x.so;", "load_module at /etc/nginx/nginx.conf:1 would run code of the configuration"),
        ("http { perl_set $a 'sub { }'; }", "perl_set at /etc/nginx/nginx.conf:1 would run code of the configuration"),
        ("http { js_import x.js; }", "js_import at /etc/nginx/nginx.conf:1 would run code of the configuration"),
        (
            "http { init_by_lua_block { x } }",
            "init_by_lua_block at /etc/nginx/nginx.conf:1 would run code of the configuration",
        ),
        ("http {", "the configuration is not complete here"),
    ],
)
def test_code_is_never_run(program, tmp_path, text, what):
    assert core.test(program("exit 0"), tree(text)) == core.Tested(None, what)
    assert not (tmp_path / "seen").exists()


def test_modules_of_the_system_are_loaded(program):
    assert core.test(program("exit 0"), tree("load_module modules/ngx_stream_module.so;")).ok is True
    assert core.test(program("exit 0"), tree("load_module /usr/lib/nginx/modules/ngx_stream_module.so;")).ok is True


def test_version(program):
    body = 'echo "nginx version: nginx/1.26.3 (Debian)" >&2; echo "built with OpenSSL 3.5.0 8 Apr 2025 (running with OpenSSL 3.5.4 30 Sep 2025)" >&2'
    assert core.version(program(body)) == ("1.26.3", "3.5.4")
    assert core.version(program("echo hello")) == (None, None)


@pytest.mark.skipif(not REAL, reason="there is no nginx on this machine")
@pytest.mark.parametrize(
    ("text", "message", "where"),
    [
        ("events { } http { server { listen 80; listen [::]:80; location / { proxy_pass http://no.such.name; } } }", "", ""),
        ("events { } http { server { listen 443 ssl; ssl_certificate /x; ssl_certificate_key /y; ssl_protocols TLSv1.2; } }", "", ""),
        ("user no-such-user; events { } http { upstream u { server no.such.name; } }", "", ""),
        ("events { }\nhttp {\n    gzip maybe;\n}", 'invalid value "maybe" in "gzip" directive, it must be "on" or "off"', "/etc/nginx/nginx.conf:3"),
        ("events { }\nhttp { server { location / {\n    return 301 $nothing; } } }", 'unknown "nothing" variable', ""),
    ],
)  # fmt: skip
def test_a_real_nginx(text, message, where):
    assert core.test(REAL, tree(text)) == core.Tested(not message, message, where)
