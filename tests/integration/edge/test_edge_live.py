# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the edge does on the wire, against the real nginx image."""

from __future__ import annotations

import contextlib
import copy
import json
import re
import socket
import ssl
import subprocess
import time

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _endpoint_probe

pytestmark = pytest.mark.engine

CHAT = "/v1/chat/completions"
EXACTLY_ONCE = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-site",
}
HSTS = "max-age=63072000"


def assert_headers(response, tls=True):
    for name, value in EXACTLY_ONCE.items():
        assert response.all(name) == [value], f"{name} on {response.status}"
    assert len(response.all("permissions-policy")) == 1
    assert len(response.all("x-request-id")) == 1
    assert response.all("strict-transport-security") == ([HSTS] if tls else [])
    assert response.headers["server"] == "nginx"
    for name in ("x-powered-by", "x-xss-protection", "via"):
        assert name not in response.headers


def assert_error(response, status, code):
    assert response.status == status, response.body
    assert response.headers["content-type"] == "application/json"
    error = response.error
    assert error["code"] == code
    assert error["param"] is None
    assert error["message"] and error["type"]
    assert error["request_id"] == response.headers["x-request-id"]
    assert error["suggestions"] and all(error["suggestions"])


def chat(edge, do="echo", **kwargs):
    kwargs.setdefault("body", b"{}")
    return edge.request(f"{CHAT}?do={do}", "POST", **kwargs)


def curl(lab, edge, url, *argv):
    return subprocess.run(
        ["curl", "-sS", "--max-time", "20", "--cacert", str(lab.dir / "ca.crt"), "--connect-to", f"::{edge.address}:8443", *argv, url],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


class TestResponseClasses:
    def test_success_carries_every_header_once(self, edge):
        response = chat(edge)
        assert response.status == 200
        assert_headers(response)

    @pytest.mark.parametrize("status", [301, 400, 401, 404, 422, 429, 500, 503])
    def test_answers_of_the_service_pass_with_headers_added(self, edge, status):
        response = edge.request(f"{CHAT}?do=status&code={status}", "POST", b"{}")
        assert response.status == status
        assert response.json == {"error": {"code": "from_service"}}
        assert_headers(response)
        assert response.all("retry-after") == (["7"] if status in (429, 503) else [])

    @pytest.mark.parametrize(
        ("request_args", "status", "code"),
        [
            ({"path": "/nowhere"}, 404, "not_found"),
            ({"path": CHAT, "method": "GET"}, 405, "method_not_allowed"),
            ({"path": "/v1/models", "method": "DELETE"}, 405, "method_not_allowed"),
            ({"path": "/v1/models", "method": "TRACE"}, 405, "method_not_allowed"),
            ({"path": "/v1/models", "host": "evil.example"}, 421, "misdirected_request"),
            ({"path": "/v1/models", "headers": {"X-Big": "a" * 9000}}, 431, "headers_too_large"),
            ({"path": "/v1/models?" + "a" * 9000}, 414, "uri_too_long"),
            ({"path": CHAT, "method": "POST", "body": b"x" * (4 * 1024**2 + 1)}, 413, "request_too_large"),
        ],
        ids=["404", "405-get", "405-delete", "405-trace", "421", "431", "414", "413"],
    )
    def test_own_errors_are_openai_shaped(self, edge, request_args, status, code):
        response = edge.request(**request_args)
        assert_error(response, status, code)
        assert_headers(response)
        assert ("allow" in response.headers) == (code == "method_not_allowed" and request_args["method"] != "TRACE")

    def test_many_headers_are_refused(self, edge):
        response = edge.request(headers={f"X-{n}": "a" * 4000 for n in range(12)})
        assert_error(response, 431, "headers_too_large")

    def test_chunked_body_above_the_limit_is_refused(self, edge):
        chunk = b"%x\r\n" % 65536 + b"x" * 65536 + b"\r\n"
        head = f"POST {CHAT} HTTP/1.1\r\nHost: edge.test\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        response = edge.raw(head + chunk * 80 + b"0\r\n\r\n")
        assert_error(response, 413, "request_too_large")
        assert_headers(response)

    def test_malformed_request_line_is_400(self, edge):
        response = edge.raw(b"GET /\x01 HTTP/1.1\r\nHost: edge.test\r\n\r\n")
        assert_error(response, 400, "bad_request")
        assert_headers(response)

    def test_missing_host_is_400(self, edge):
        assert_error(edge.raw(b"GET /v1/models HTTP/1.1\r\n\r\n"), 400, "bad_request")

    def test_smuggling_is_refused(self, edge):
        head = f"POST {CHAT} HTTP/1.1\r\nHost: edge.test\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".encode()
        assert_error(edge.raw(head), 400, "bad_request")

    def test_plain_http_on_the_tls_port_is_400(self, edge):
        with socket.create_connection((edge.address, 8443), 5) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: edge.test\r\n\r\n")
            data = edge.read_all(connection)
        assert data.startswith(b"HTTP/1.1 400 ")
        assert b'"code":"bad_request"' in data
        assert b"X-Content-Type-Options: nosniff" in data

    def test_allow_names_the_methods(self, edge):
        assert edge.request(CHAT, "GET").headers["allow"] == "POST, OPTIONS"

    def test_http2_has_the_same_answers(self, lab, edge):
        for path, status in ((f"{CHAT}?do=echo", 405), ("/v1/models", 200), ("/nowhere", 404)):
            done = curl(
                lab,
                edge,
                f"https://edge.test{path}",
                "--http2",
                "-D",
                "-",
                "-o",
                "/dev/null",
                "-H",
                f"X-Forwarded-For: 198.19.0.{status % 250}",
            )
            assert done.returncode == 0, done.stderr
            assert done.stdout.startswith(f"HTTP/2 {status}")
            assert f"strict-transport-security: {HSTS}" in done.stdout
            assert done.stdout.count("x-content-type-options: nosniff") == 1


class TestNames:
    def test_unknown_sni_gets_no_handshake(self, edge):
        with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
            edge.connect(sni="evil.example", context=edge.lab.context(check_hostname=False, verify_mode=ssl.CERT_NONE))

    def test_no_sni_gets_no_handshake(self, edge):
        with pytest.raises(ssl.SSLError):
            edge.connect(sni=None, context=edge.lab.context(check_hostname=False, verify_mode=ssl.CERT_NONE))

    def test_unknown_name_on_http_gets_nothing(self, edge):
        with edge.connect(tls=False) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n")
            assert edge.read_all(connection) == b""

    def test_second_name_is_served(self, edge):
        assert (
            edge.request("/v1/models", sni="llm.edge.test", host="llm.edge.test").json["headers"]["host"]
            == "llm.edge.test"
        )

    def test_redirect_keeps_path_and_method(self, edge):
        response = edge.request("/v1/models?x=1", "POST", tls=False)
        assert response.status == 308
        assert response.headers["location"] == "https://edge.test/v1/models?x=1"
        assert_headers(response, tls=False)

    def test_acme_challenge_is_served_on_http_only(self, edge):
        path = "/.well-known/acme-challenge/token_1-A"
        response = edge.request(path, tls=False)
        assert (response.status, response.body) == (200, b"answer")
        assert_headers(response, tls=False)
        assert edge.request(path).status == 404
        assert edge.request("/.well-known/acme-challenge/absent", tls=False).status == 404
        assert edge.request("/.well-known/acme-challenge/../../etc/passwd", tls=False).status == 308


class TestTls:
    def offer(self, edge, *argv):
        return subprocess.run(
            ["openssl", "s_client", "-connect", f"{edge.address}:8443", "-servername", "edge.test", *argv],
            input="", capture_output=True, text=True, timeout=20, check=False,
        ).stdout  # fmt: skip

    @pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
    def test_old_versions_are_refused(self, edge, version):
        assert "Cipher is (NONE)" in self.offer(edge, version, "-cipher", "ALL:@SECLEVEL=0")

    @pytest.mark.parametrize(("version", "name"), [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")])
    def test_current_versions_are_accepted(self, edge, version, name):
        assert f"New, {name}, Cipher is " in self.offer(edge, version).replace("New, TLSv1.2, ", "New, TLSv1.2, ")

    def test_every_suite_openssl_knows(self, edge):
        listed = subprocess.run(
            ["openssl", "ciphers", "-tls1_2", "ALL:COMPLEMENTOFALL:@SECLEVEL=0"],
            capture_output=True,
            text=True,
            check=True,
        )
        suites = [suite for suite in listed.stdout.strip().split(":") if not suite.startswith("TLS_")]
        assert len(suites) > 50
        accepted = {
            s for s in suites if "Cipher is (NONE)" not in self.offer(edge, "-tls1_2", "-cipher", f"{s}:@SECLEVEL=0")
        }
        assert accepted == {
            "ECDHE-ECDSA-AES128-GCM-SHA256",
            "ECDHE-ECDSA-AES256-GCM-SHA384",
            "ECDHE-ECDSA-CHACHA20-POLY1305",
        }

    @pytest.mark.parametrize(
        ("group", "works"), [("X25519", True), ("P-256", True), ("P-384", True), ("P-521", False), ("X448", False)]
    )
    def test_groups(self, edge, group, works):
        assert ("Cipher is (NONE)" not in self.offer(edge, "-groups", group)) is works

    def test_no_ticket_no_early_data_no_renegotiation(self, edge):
        said = self.offer(edge, "-tls1_2")
        assert "TLS session ticket:" not in said
        assert "Compression: NONE" in said
        assert "Secure Renegotiation IS supported" in said
        assert "Max Early Data: 0" in self.offer(edge, "-tls1_3") or "Early data was not sent" in self.offer(
            edge, "-tls1_3"
        )

    def test_modern_profile_is_tls13_only(self, make_edge):
        modern = make_edge(mcpstack_edge_tls_profile="modern")
        assert "Cipher is (NONE)" in self.offer(modern, "-tls1_2")
        assert "TLSv1.3" in self.offer(modern, "-tls1_3")

    def test_renewed_certificate_is_served_without_a_reload(self, lab, edge):
        def subject():
            with edge.connect() as connection:
                return dict(pair[0] for pair in connection.getpeercert()["subject"])["commonName"]

        before = subject()
        lab.leaf("v2")
        lab.publish("v2")
        try:
            assert (before, subject()) == ("v1", "v2")
        finally:
            lab.publish("v1")


class TestLimits:
    def test_burst_gets_429_with_retry_after(self, edge):
        responses = [edge.request("/v1/models", client="203.0.113.1") for _ in range(15)]
        statuses = [response.status for response in responses]
        assert statuses[:6] == [200] * 6
        assert 429 in statuses
        refused = responses[statuses.index(429)]
        assert_error(refused, 429, "rate_limit_exceeded")
        assert_headers(refused)
        assert refused.headers["retry-after"] == "1"
        assert edge.request("/v1/models", client="203.0.113.2").status == 200

    def test_one_ipv6_network_is_one_client(self, edge):
        statuses = [edge.request("/v1/models", client=f"2001:db8:0:a::{n:x}").status for n in range(1, 16)]
        assert 429 in statuses
        assert edge.request("/v1/models", client="2001:db8:0:b::1").status == 200

    def test_client_cannot_choose_its_address_from_outside_the_declared_proxies(self, make_edge):
        alone = make_edge(mcpstack_edge_trusted_proxies=[])
        statuses = [alone.request("/v1/models", client=f"203.0.113.{n}").status for n in range(1, 16)]
        assert 429 in statuses

    def test_connections_at_once_are_bounded(self, edge):
        held = []
        try:
            for _ in range(5):
                connection = edge.connect()
                connection.sendall(
                    f"POST {CHAT}?do=endless HTTP/1.1\r\nHost: edge.test\r\n"
                    "X-Forwarded-For: 203.0.113.9\r\nContent-Length: 0\r\n\r\n".encode()
                )
                held.append(connection)
                first = connection.recv(4096)
            assert first.startswith(b"HTTP/1.1 429 ")
            assert b"Retry-After: 1\r\n" in first
        finally:
            for connection in held:
                connection.close()

    def test_route_has_its_own_limit(self, make_edge):
        routes = [{"path": "/v1/models", "limit": {"rate": 1, "burst": 0}}, {"path": "/other"}]
        made = make_edge(
            mcpstack_edge_routes=routes, mcpstack_edge_per_client={"rate": 1000, "burst": 1000, "connections": 50}
        )
        assert [made.request("/v1/models", client="203.0.113.3").status for _ in range(2)] == [200, 429]
        assert [made.request("/other", client="203.0.113.3").status for _ in range(5)] == [200] * 5

    def test_slow_headers_are_cut(self, edge):
        with edge.connect(timeout=20) as connection:
            connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: edge.test\r\n")
            started = time.monotonic()
            connection.settimeout(1)
            alive = True
            while alive and time.monotonic() - started < 15:
                try:
                    connection.sendall(b"X-Slow: 1\r\n")
                    alive = connection.recv(1) != b""
                except TimeoutError:
                    continue
                except OSError:
                    alive = False
            assert not alive
            assert 8 < time.monotonic() - started < 13

    def test_slow_body_is_cut_before_the_service_sees_it(self, edge):
        with edge.connect(timeout=20) as connection:
            connection.sendall(
                f"POST {CHAT} HTTP/1.1\r\nHost: edge.test\r\nX-Request-ID: slow-body-1\r\nContent-Length: 100\r\n\r\nx".encode()
            )
            started = time.monotonic()
            assert edge.read_all(connection) == b""
            assert 8 < time.monotonic() - started < 13
        entry = next(e for e in edge.entries() if e["request_id"] == "slow-body-1")
        assert (entry["status"], entry["upstream"]) == (408, "")

    def test_large_bodies_of_one_client_leave_room_for_others(self, gateway, make_edge):
        edge = make_edge(mcpstack_edge_per_client={"rate": 1000, "burst": 1000, "connections": 64})
        large = edge.role.value("_mcpstack_edge_plan")["large_bodies"]
        with contextlib.ExitStack() as open_connections:
            held = []
            for _number in range(large + 3):
                connection = open_connections.enter_context(edge.connect(timeout=20))
                head = f"POST {CHAT} HTTP/1.1\r\nHost: edge.test\r\nContent-Length: 3900000\r\n\r\n"
                connection.sendall(head.encode() + b"x" * 1000)
                held.append(connection)
            refused = 0
            for connection in held:
                connection.settimeout(0.5)
                with contextlib.suppress(TimeoutError):
                    refused += b" 429 " in connection.recv(100)
            assert refused == 3
            assert edge.request("/v1/models").status == 200


class TestProxying:
    def test_what_the_client_says_about_itself_is_replaced(self, edge):
        headers = {
            "X-Real-IP": "6.6.6.6", "X-Forwarded-Host": "evil", "X-Forwarded-Proto": "http", "X-Forwarded-Port": "1",
            "Forwarded": "for=6.6.6.6",
            "X-Original-URL": "/metrics", "Proxy": "evil", "Upgrade": "h2c", "Accept-Encoding": "gzip", "Authorization": "Bearer k",
        }  # fmt: skip
        seen = edge.request("/v1/models", headers=headers, client="198.51.100.7").json["headers"]
        assert seen["host"] == seen["x-forwarded-host"] == "edge.test"
        assert seen["x-forwarded-for"] == seen["x-real-ip"] == "198.51.100.7"
        assert (seen["x-forwarded-proto"], seen["x-forwarded-port"]) == ("https", "443")
        assert seen["authorization"] == "Bearer k"
        assert not {"forwarded", "x-original-url", "proxy", "upgrade", "accept-encoding", "connection"} & set(seen)

    @pytest.mark.parametrize(
        ("given", "kept"),
        [
            ("abc-DEF_1234.5", True),
            ("short", False),
            ("x" * 65, False),
            ("a b c d e f g h", False),
            ('"},{"x":"yyyy', False),
        ],
    )
    def test_request_id(self, edge, given, kept):
        response = edge.request("/v1/models", headers={"X-Request-ID": given})
        answered = response.headers["x-request-id"]
        assert response.json["headers"]["x-request-id"] == answered
        assert (answered == given) is kept
        assert kept or re.fullmatch(r"[0-9a-f]{32}", answered)

    @pytest.mark.parametrize(
        "path",
        ["/metrics", "/ready", "/live", "/docs", "/redoc", "/openapi.json", "/v1/../metrics", "/v1/models/../../metrics", "//metrics",
         "/v1/models/%2e%2e/%2e%2e/metrics", "/metrics/", "/METRICS", "/.git/config", "/v1/models/.env",
         "/v1/models/a%00b", "/v1/models/a%0d%0ab",
         "/status", "/healthz", "/.edge/error", "/.edge/upstream-error", "/v1/chat/completions/", "/v1/modelsx", "/",
         "/health", "/registry", "/registry/", "/registry/metrics", "/registry/health", "/registry/openapi.json", "/registry/docs",
         "/registry/v1/../metrics", "/registry/v1x", "/registry/v0/servers", "/registry/v1/.env", "/mcpx", "/mcp/.git",
         "/.well-known/oauth-protected-resource/other", "/.well-known/oauth-protected-resource/", "/.well-known/openid-configuration"],
    )  # fmt: skip
    def test_hidden_paths(self, edge, path):
        response = edge.request(path)
        assert response.status in (400, 404)
        assert "raw_path" not in response.json
        assert_headers(response)

    @pytest.mark.parametrize(
        ("path", "seen"),
        [("/v1/models", "/v1/models"), ("/v1/models/org/name-7B.q4:x", "/v1/models/org/name-7B.q4:x"),
         ("/metrics/../v1/models", "/v1/models"), ("/v1//models?a=%0d%0a", "/v1/models?a=%0d%0a"), ("/v1/models/a%2Db", "/v1/models/a-b")],
    )  # fmt: skip
    def test_service_sees_the_path_that_was_checked(self, edge, path, seen):
        assert edge.request(path).json["raw_path"] == seen

    @pytest.mark.parametrize(
        ("method", "path", "seen"),
        [("POST", "/mcp", "/mcp"), ("GET", "/mcp", "/mcp"), ("DELETE", "/mcp/a", "/mcp/a"),
         ("GET", "/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource"),
         ("GET", "/.well-known/oauth-protected-resource/mcp", "/.well-known/oauth-protected-resource/mcp"),
         ("POST", "/registry/v1/tools/find", "/v1/tools/find"), ("PATCH", "/registry/v1/servers/a?b=c", "/v1/servers/a?b=c"),
         ("GET", "/registry/v0.1/servers/io.example%2Fone/versions/1.0", "/v0.1/servers/io.example/one/versions/1.0"),
         ("POST", "/v1/tasks", "/v1/tasks"), ("DELETE", "/v1/tasks/7", "/v1/tasks/7"), ("GET", "/v1/usage?days=2", "/v1/usage?days=2"),
         ("POST", "/v1/completions", "/v1/completions"), ("POST", "/v1/responses", "/v1/responses"), ("POST", "/v1/messages", "/v1/messages"),
         ("POST", "/v1/messages/count_tokens", "/v1/messages/count_tokens")],
    )  # fmt: skip
    def test_every_public_path_reaches_its_service(self, edge, registry, method, path, seen):
        answer = edge.request(path, method).json
        assert (answer["raw_path"], answer["method"]) == (seen, method)

    @pytest.mark.parametrize(
        ("method", "path"),
        [("PUT", "/mcp"), ("POST", "/.well-known/oauth-protected-resource"), ("POST", "/registry/v0.1/servers"),
         ("POST", "/v1/usage"), ("PUT", "/v1/tasks/7"), ("GET", "/v1/responses")],
    )  # fmt: skip
    def test_methods_of_the_new_paths(self, edge, registry, method, path):
        response = edge.request(path, method)
        assert (response.status, response.json["error"]["code"]) == (405, "method_not_allowed")

    def test_headers_of_mcp_pass(self, edge, registry):
        sent = {"Mcp-Session-Id": "s1", "MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": "git__log",
                "Last-Event-ID": "7", "Authorization": "Bearer x", "Accept": "application/json, text/event-stream",
                "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}  # fmt: skip
        seen = edge.request("/mcp", "POST", headers=sent).json["headers"]
        assert {name: seen.get(name.lower()) for name in sent} == sent

    def test_docs_can_be_opened(self, make_edge):
        made = make_edge(mcpstack_edge_expose_docs=True)
        assert made.request("/openapi.json").json["raw_path"] == "/openapi.json"
        assert made.request("/docs", "POST").status == 405
        assert made.request("/metrics").status == 404

    def test_first_part_of_a_stream_is_not_held_back(self, edge):
        with edge.connect() as connection:
            connection.sendall(
                f"POST {CHAT}?do=stream HTTP/1.1\r\nHost: edge.test\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode()
            )
            data = b""
            while b'"n":0' not in data:
                part = connection.recv(4096)
                assert part, data
                data += part
            assert b"[DONE]" not in data
            assert chat(edge, "open-gate").status == 200
            assert b"[DONE]" in edge.read_all(connection)

    def test_stream_over_http2_is_complete(self, lab, edge):
        done = curl(lab, edge, f"https://edge.test{CHAT}?do=quick", "--http2", "-N", "-X", "POST")
        assert done.stdout == 'data: {"n":0}\n\ndata: [DONE]\n\n'

    def test_service_dying_mid_stream_is_visible_to_the_client(self, lab, edge):
        one = curl(lab, edge, f"https://edge.test{CHAT}?do=die-mid", "--http1.1", "-X", "POST")
        two = curl(lab, edge, f"https://edge.test{CHAT}?do=die-mid", "--http2", "-X", "POST")
        assert (one.returncode, two.returncode) == (18, 92), (one.stderr, two.stderr)

    def test_client_gone_frees_the_service(self, edge):
        connection = edge.connect()
        connection.sendall(f"POST {CHAT}?do=endless HTTP/1.1\r\nHost: edge.test\r\nContent-Length: 0\r\n\r\n".encode())
        assert connection.recv(4096)
        connection.close()
        deadline = time.monotonic() + 5
        while not edge.request("/v1/models").json["gone"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def test_service_that_breaks_off_is_502(self, edge):
        response = chat(edge, "die")
        assert_error(response, 502, "service_error")
        assert_headers(response)

    def test_silent_service_is_504(self, edge):
        started = time.monotonic()
        response = chat(edge, "silent")
        assert_error(response, 504, "service_timeout")
        assert_headers(response)
        assert 2.5 < time.monotonic() - started < 6


class TestServiceComesAndGoes:
    def down(self, edge):
        started = time.monotonic()
        response = chat(edge)
        took = time.monotonic() - started
        assert_error(response, 503, "service_unavailable")
        assert_headers(response)
        assert response.headers["retry-after"] == "5"
        assert took < 2
        return response

    def test_whole_life(self, lab, make_edge, make_gateway, sh, wait_for):
        network, lab.network = lab.network, f"{lab.prefix}-life"
        lab.networks.append(lab.network)
        sh("docker", "network", "create", lab.network)
        try:
            ip = sh("docker", "network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", lab.network).strip()
            # Never there: nginx starts all the same.
            edge = make_edge(mcpstack_edge_trusted_proxies=[f"{ip}/32"])
            self.down(edge)
            # There, but nothing listens: refused.
            first = make_gateway().start(listening=False)
            wait_for(lambda: edge.request("/v1/models").headers.get("retry-after") == "5", "the name resolving")
            self.down(edge)
            first.listen()
            wait_for(lambda: chat(edge).status == 200, "the service answering")
            # Gone at once, its address a dead end.
            old = first.address
            first.remove()
            self.down(edge)
            # Somebody else takes the old address; the service comes back at a new one.
            squatter = make_gateway(alias="somebody").start(listening=False)
            assert squatter.address == old
            second = make_gateway().start()
            started = time.monotonic()
            wait_for(lambda: chat(edge).status == 200, "the edge finding the new address")
            assert time.monotonic() - started < 5
            assert second.address != old
            second.remove()
            squatter.remove()
            sh("docker", "rm", "-f", edge.container, check=False)
        finally:
            sh("docker", "network", "rm", lab.network, check=False)
            lab.network = network


class TestUserJourney:
    @pytest.fixture
    def journey(self, lab, make_edge, make_gateway):
        """journey(**options) -> what the probe says of an edge with these options and a service named openai behind it."""
        service = make_gateway(alias="openai", manner="openai").start()
        routes = [
            {"path": "/v1/chat/completions", "methods": ["POST"], "streaming": True, "service": "openai"},
            {"path": "/v1/embeddings", "methods": ["POST"], "service": "openai"},
            {"path": "/v1/models", "match": "prefix", "service": "openai"},
            {"path": "/mcp", "match": "prefix", "methods": ["POST"], "streaming": True, "service": "openai"},
        ]
        plenty = {"rate": 100, "burst": 100, "connections": 50}

        def run(change=lambda routes: None, **options):
            mine = copy.deepcopy(routes)
            change(mine)
            edge = make_edge(**{"mcpstack_edge_routes": mine, "mcpstack_edge_per_client": plenty, **options})
            wait_until_up = time.monotonic() + 5
            while edge.request("/v1/models").status == 503 and time.monotonic() < wait_until_up:
                pass
            probe = _endpoint_probe.Probe(
                "https://edge.test/v1",
                "test-key",
                f"{edge.address}:8443",
                None,
                str(lab.dir / "ca.crt"),
                expect={"http_port": 8080},
            )
            return probe.run()

        yield run
        service.remove()

    def test_probe_passes(self, journey):
        outcome = journey()
        assert _endpoint_probe.failures(outcome["steps"]) == []
        assert [step["step"] for step in outcome["steps"]] == list(_endpoint_probe.STEPS)
        assert outcome["figures"]["text"] == "w0 w1 w2 w3 w4 w5 w6 w7 "

    def test_probe_sees_a_buffering_edge(self, journey):
        def buffer(routes):
            routes[0]["streaming"] = False

        outcome = journey(buffer)
        (failed,) = [step for step in outcome["steps"] if step["result"] != "pass"]
        assert (failed["step"], failed["result"]) == ("chat_stream", "fail")
        assert "arrive all at once" in failed["what"]

    def test_probe_sees_missing_hsts(self, journey):
        outcome = journey(mcpstack_edge_hsts={"max_age": 0})
        assert [step["step"] for step in outcome["steps"] if step["result"] != "pass"] == ["security_headers"]


class TestContainer:
    def test_validator_needs_neither_names_nor_certificates(self, make_edge):
        done = make_edge(start=False).validate()
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    def test_validator_refuses_a_broken_tree(self, make_edge):
        broken = make_edge(start=False)
        (broken.config / "nginx.conf").write_text("http { nonsense; }\n")
        assert broken.validate().returncode != 0

    def test_health_check_is_green_and_can_be_red(self, lab, edge, make_edge):
        assert edge.healthy().returncode == 0, edge.healthy().stdout
        without = make_edge(tls=False)
        assert without.healthy().returncode != 0

    def test_counters_are_served_inside_only(self, edge):
        with socket.create_connection((edge.address, 8082), 5) as connection:
            connection.sendall(b"GET /status HTTP/1.0\r\nHost: edge\r\n\r\n")
            assert b"Active connections:" in edge.read_all(connection)
        with socket.create_connection((edge.address, 8082), 5) as connection:
            connection.sendall(b"GET /status HTTP/1.0\r\nHost: evil.example\r\n\r\n")
            assert edge.read_all(connection) == b""
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((edge.address, 8081), 5)
        assert {p["port"] for p in edge.spec["publish"]} == {8080, 8443}

    def test_nothing_private_is_logged(self, edge):
        edge.request(
            f"{CHAT}?do=die&api_key=QUERYSECRET", "POST", b'{"messages":"BODYSECRET"}',
            headers={"Authorization": "Bearer KEYSECRET", "Cookie": "COOKIESECRET", "User-Agent": "AGENTSECRET",
                     "X-Request-ID": "log-test-1"},
        )  # fmt: skip
        edge.request("/nowhere?QUERYSECRET", headers={"X-Bad": "KEYSECRET" * 2000})
        out, err = edge.log()
        assert "SECRET" not in out + err
        entry = next(e for e in map(json.loads, out.splitlines()) if e["request_id"] == "log-test-1")
        assert (entry["path"], entry["status"], entry["upstream_status"]) == (CHAT, 502, "502")
        assert entry["tls"].startswith("TLSv1.")

    def test_every_log_line_is_json(self, edge):
        edge.request('/v1/models/"\\%ff\xe9')
        edge.raw(b"\x16\x03junk\r\n\r\n")
        assert all("request_id" in entry for entry in edge.entries())
