# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The edge's configuration, parsed and held against the nginx and TLS checks of the catalogue."""

from __future__ import annotations

import json
import re

import crossplane
import pytest
from ansible.errors import AnsibleError

REQUIRED = {
    "mcpstack_edge_image": "mcpstack/nginx:0123456789ab",
    "mcpstack_edge_server_names": ["llm.example.org", "localhost"],
}
ALTERNATIVE = {
    **REQUIRED,
    "mcpstack_edge_server_names": ["A.Example.org"],
    "mcpstack_edge_bind": ["192.0.2.1", "2001:db8::1"],
    "mcpstack_edge_http_port": "8080",
    "mcpstack_edge_https_port": 8443,
    "mcpstack_edge_per_client": {"rate": 1, "burst": 0, "connections": 2},
    "mcpstack_edge_max_body": "16m",
    "mcpstack_edge_stream_timeout": "20m",
    "mcpstack_edge_hsts": {"max_age": 63072000, "include_subdomains": True, "preload": True},
    "mcpstack_edge_trusted_proxies": ["198.51.100.0/24", "2001:db8:1::/64"],
    "mcpstack_edge_tls_profile": "modern",
    "mcpstack_edge_expose_docs": True,
    "mcpstack_edge_routes": [
        {"path": "/v1/chat/completions", "methods": ["POST"], "streaming": True, "max_body": "1m", "read_timeout": "9s"},
        {"path": "/mcp", "match": "prefix", "service": "registry", "port": 9000, "methods": ["GET", "POST", "DELETE"], "streaming": True,
         "limit": {"rate": 3, "burst": 0}},
        {"path": "/v1/tools/find", "methods": ["POST"], "service": "registry", "limit": {"rate": 3, "burst": 9}},
    ],
    "mcpstack_edge_limits": {"memory": "512m", "cpus": "2.0", "pids": 32, "nofile": 4096},
}  # fmt: skip
SUITES = {
    "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-RSA-CHACHA20-POLY1305",
}  # fmt: skip


class Directive:
    def __init__(self, data, parent=None):
        self.name, self.args, self.parent = data["directive"], data["args"], parent
        self.children = [Directive(child, self) for child in data.get("block") or ()]

    def find(self, name):
        return [child for child in self.children if child.name == name]

    def one(self, name):
        found = self.find(name)
        assert len(found) == 1, f"{name}: {len(found)} times"
        return found[0].args

    def walk(self):
        for child in self.children:
            yield child
            yield from child.walk()


class Rendered:
    def __init__(self, role, options, directory):
        self.role = role("edge", **options)
        self.files = self.role.files()
        for name, text in self.files.items():
            target = directory / name
            target.parent.mkdir(parents=True, exist_ok=True)
            # The parser follows includes on this machine.
            target.write_text(text.replace("include /etc/nginx/", f"include {directory}/"))
        parsed = crossplane.parse(str(directory / "nginx.conf"), combine=True)
        assert parsed["status"] == "ok", parsed["errors"]
        self.main = Directive({"directive": "main", "args": [], "block": parsed["config"][0]["parsed"]})
        self.http = self.main.find("http")[0]
        self.servers = self.http.find("server")
        self.spec = self.role.value("_mcpstack_edge_service")
        self.plan = self.role.value("_mcpstack_edge_plan")

    def server(self, listen, default=False):
        found = [
            s
            for s in self.servers
            if s.find("listen")[0].args[0] == listen and ("default_server" in s.find("listen")[0].args) is default
        ]
        assert len(found) == 1
        return found[0]

    def location(self, path):
        found = [loc for loc in self.server("8443").find("location") if path in loc.args[-1].replace("\\", "")]
        assert len(found) == 1, path
        return found[0]


@pytest.fixture(params=[REQUIRED, ALTERNATIVE], ids=["default", "alternative"])
def edge(request, role, tmp_path):
    return Rendered(role, request.param, tmp_path)


def edge_size(text):
    return int(text[:-1]) * {"k": 1024, "m": 1024**2}[text[-1]]


class TestPolicy:
    def test_ngx_02_version_hidden(self, edge):
        assert edge.http.one("server_tokens") == ["off"]
        assert ["X-Powered-By"] in [d.args for d in edge.http.find("proxy_hide_header")]

    def test_ngx_03_no_root_and_every_path_writable(self, edge):
        assert edge.main.find("user") == []
        assert edge.main.one("pid") == ["/tmp/nginx.pid"]  # noqa: S108 - the container's own tmpfs
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"):
            assert edge.http.one(f"{kind}_temp_path")[0].startswith("/tmp/")  # noqa: S108
        assert edge.spec["uid"] == 64101

    def test_ngx_05_every_listen_has_a_default_that_refuses(self, edge):
        listens = {}
        for server in edge.servers:
            for listen in server.find("listen"):
                listens.setdefault(listen.args[0], []).append((server, "default_server" in listen.args))
        assert set(listens) == {"8080", "8443", "127.0.0.1:8081", "8082"}
        for servers in listens.values():
            (default,) = [server for server, is_default in servers if is_default]
            assert [loc.args for loc in default.find("location") if loc.args[0] == "/"] == [["/"]]
            (everything,) = [loc for loc in default.find("location") if loc.args == ["/"]]
            assert everything.one("return") in (["444"], ["421"])
        assert edge.server("8443", default=True).one("ssl_reject_handshake") == ["on"]

    def test_ngx_07_08_timeouts_and_sizes(self, edge):
        for name in (
            "client_header_timeout",
            "client_body_timeout",
            "send_timeout",
            "keepalive_timeout",
            "resolver_timeout",
        ):
            assert 0 < int(edge.http.one(name)[0].rstrip("s")) <= 75
        for name in (
            "client_max_body_size",
            "client_header_buffer_size",
            "large_client_header_buffers",
            "client_body_buffer_size",
        ):
            edge.http.one(name)

    def test_ngx_09_10_limits_are_applied_to_every_proxied_location(self, edge):
        zones = {re.search(r"zone=(\w+)", " ".join(d.args)).group(1) for d in edge.http.find("limit_req_zone")}
        base = edge.http.find("limit_req")
        assert [d.args[0] for d in base] == ["zone=edge_req"]
        assert [d.args[0] for d in edge.http.find("limit_conn")] == ["edge_conn", "edge_large"]
        used = {"edge_req"}
        for directive in edge.http.walk():
            if directive.name == "limit_req" and directive.parent.name == "location":
                used.add(directive.args[0].removeprefix("zone="))
                assert "zone=edge_req" in [d.args[0] for d in directive.parent.find("limit_req")], (
                    "inheritance would drop the common limit"
                )
            assert not (directive.name == "limit_conn" and directive.parent.name != "http")
        assert used == zones
        assert edge.http.one("limit_req_status") == edge.http.one("limit_conn_status") == ["429"]

    def test_ngx_10_one_client_cannot_fill_the_room_for_bodies(self, edge):
        room = int(edge.spec["tmpfs"][0]["size"].removesuffix("m")) * 1024**2
        largest = max(edge_size(route["max_body"]) for route in edge.plan["routes"])
        (connections,), (large,) = ([int(d.args[1])] for d in edge.http.find("limit_conn"))
        assert large >= 4
        assert large * largest + connections * 100_000 <= room

    def test_ngx_11_only_named_paths_and_methods(self, edge):
        server = edge.server("8443")
        proxied = [loc for loc in server.find("location") if loc.find("proxy_pass")]
        assert len(proxied) == len(edge.plan["routes"]) + len(edge.plan["docs_paths"])
        for location in proxied:
            condition = location.find("if")[0]
            assert condition.args[0] == "$request_method"
            assert condition.one("return") == ["405"]
        for path in edge.plan["private_paths"]:
            assert [loc.one("return") for loc in server.find("location") if loc.args == ["=", path]] == [["404"]]
        assert {"/metrics", "/health", "/ready", "/live", "/redoc"} <= set(edge.plan["private_paths"])
        hidden = next(loc for loc in server.find("location") if loc.args == ["~", "/\\."])
        assert hidden.one("return") == ["404"]
        first_regex = next(loc for loc in server.find("location") if loc.args[0] == "~")
        assert first_regex is hidden, "a regular expression before it would win"
        assert edge.http.one("autoindex") == ["off"]
        assert all(
            "stub_status" not in [d.name for d in s.walk()]
            for s in edge.servers
            if s.find("listen")[0].args[0] in ("8080", "8443")
        )

    def test_ngx_12_allow_ends_with_deny_all(self, edge):
        for directive in edge.http.walk():
            if directive.find("allow"):
                rules = [child for child in directive.children if child.name in ("allow", "deny")]
                assert rules[-1].name == "deny" and rules[-1].args == ["all"]

    def test_ngx_14_logs_are_on(self, edge):
        assert edge.http.one("access_log") == ["/dev/stdout", "edge"]
        assert edge.main.one("error_log") == ["/dev/stderr", "crit"]
        assert [
            d
            for s in edge.servers
            if s.find("listen")[0].args[0] in ("8080", "8443")
            for d in s.walk()
            if d.name == "access_log"
        ] == []

    def test_ngx_14_log_is_json_without_content(self, edge):
        text = "".join(edge.http.one("log_format")[2:])
        variables = set(re.findall(r"\$(\w+)", text))
        sample = re.sub(r"(?<!\")\$\w+(?!\")", "0", text)
        json.loads(sample)
        assert not {
            v for v in variables if v.startswith(("http_", "arg", "cookie", "request_body", "query", "is_args"))
        }
        assert not {"request", "request_uri", "uri"} & variables

    def test_ngx_15_client_address(self, edge):
        declared = [d.args[0] for d in edge.http.find("set_real_ip_from")]
        assert declared == edge.plan["trusted_proxies"]
        assert bool(edge.http.find("real_ip_header")) is bool(declared)
        assert ["X-Forwarded-For", "$remote_addr"] in [d.args for d in edge.http.find("proxy_set_header")]

    def test_ngx_16_17_18_headers_in_one_place(self, edge):
        headers = {d.args[0]: d.args for d in edge.http.find("add_header")}
        for name in ("X-Content-Type-Options", "X-Frame-Options", "Content-Security-Policy", "Referrer-Policy", "Permissions-Policy",
                     "Strict-Transport-Security", "Cache-Control", "X-Request-ID"):  # fmt: skip
            assert headers[name][-1] == "always"
        assert all("\n" not in " ".join(args) for args in headers.values())
        assert not {"Content-Type", "X-XSS-Protection"} & set(headers)
        for name in ("add_header", "proxy_set_header", "proxy_hide_header", "error_page"):
            assert all(d.parent.name == "http" for d in edge.http.walk() if d.name == name), (
                f"{name} below http silences the rest"
            )
        csp = edge.files["snippets/headers.conf"]
        assert "unsafe" not in csp and "default-src 'none'" in csp

    def test_ngx_19_20_no_alias_no_raw_host_no_decoded_uri(self, edge):
        text = "\n".join(edge.files.values())
        assert "alias " not in text
        assert "$http_host" not in text
        assert "$document_uri" not in text
        for directive in edge.http.walk():
            if directive.name in ("proxy_pass", "return") and directive.args:
                assert "$uri" not in directive.args[-1]
                assert not re.search(r"\$(http_|arg_|cookie_)", directive.args[-1])
            if directive.name == "root":
                assert directive.args == ["/var/lib/acme"]

    def test_ngx_21_names_are_resolved_while_serving(self, edge):
        assert edge.http.one("resolver")[0] == "127.0.0.11"
        assert edge.http.find("upstream") == []
        for directive in edge.http.walk():
            if directive.name == "proxy_pass":
                assert directive.args[0].startswith("http://$edge_upstream/")
        assert ["Upgrade", ""] in [d.args for d in edge.http.find("proxy_set_header")]
        assert edge.http.one("proxy_next_upstream") == ["off"]

    def test_ngx_22_if_only_returns_and_patterns_are_anchored(self, edge):
        for directive in edge.http.walk():
            if directive.name == "if":
                assert {child.name for child in directive.children} == {"return"}
            if directive.name == "location" and directive.args[0] == "~" and directive.args[1] != "/\\.":
                assert directive.args[1].startswith("^") and directive.args[1].endswith("$")

    def test_tls_01_http_only_redirects_and_answers_challenges(self, edge):
        server = edge.server("8080")
        assert not [d for d in server.walk() if d.name == "proxy_pass"]
        (everything,) = [loc for loc in server.find("location") if loc.args == ["/"]]
        port = {443: "", 8443: ":8443"}[edge.plan["https_port"]]
        assert everything.one("return") == ["308", f"https://$host{port}$request_uri"]

    def test_tls_02_to_06(self, edge):
        modern = edge.plan["tls_profile"] == "modern"
        assert edge.http.one("ssl_protocols") == (["TLSv1.3"] if modern else ["TLSv1.2", "TLSv1.3"])
        if not modern:
            assert set(edge.http.one("ssl_ciphers")[0].split(":")) == SUITES
        assert edge.http.one("ssl_ecdh_curve") == ["?X25519MLKEM768:X25519:prime256v1:secp384r1"]
        assert edge.http.one("ssl_prefer_server_ciphers") == ["off"]
        assert edge.http.one("ssl_session_tickets") == edge.http.one("ssl_early_data") == ["off"]
        assert edge.http.one("ssl_session_cache") == ["shared:edge_tls:10m"]
        assert all(
            d.parent.name == "http"
            for d in edge.http.walk()
            if d.name.startswith("ssl_") and d.name != "ssl_reject_handshake"
        )
        assert edge.http.find("ssl_dhparam") == []

    def test_tls_07_hsts_only_over_tls(self, edge):
        (https,) = [d for d in edge.http.find("map") if d.args == ["$https", "$edge_hsts"]]
        values = {child.name: child.args[0] for child in https.children}
        assert values["default"] == ""
        assert values["on"].startswith("max-age=63072000")

    def test_gzip_off_and_streams_unbuffered(self, edge):
        assert edge.http.one("gzip") == ["off"]
        location = edge.location("/v1/chat/completions")
        assert location.one("proxy_buffering") == ["off"]
        assert edge.http.one("proxy_http_version") == ["1.1"]

    def test_spec_is_accepted_by_the_engine_role(self, edge, monkeypatch):
        from ansible_collections.mcpstack.platform.plugins.module_utils import _service_spec

        spec = _service_spec.normalise(json.loads(json.dumps(edge.spec, default=str)))
        assert spec["networks"] == ["edge", "app"]

    def test_retry_after_and_error_pages_cover_every_message(self, edge):
        pages = {int(code) for d in edge.http.find("error_page") for code in d.args if code.isdigit()}
        described = {error["status"] for error in edge.role.value("_mcpstack_edge_errors")}
        assert described - {431, 502, 504} <= pages
        assert {494, 495, 496, 497, 502, 504} <= pages
        for error in edge.role.value("_mcpstack_edge_errors"):
            assert not set("\"'\\$\n") & set(error["message"] + error["suggestion"] + error["code"] + error["type"])


class TestAlternative:
    @pytest.fixture
    def edge(self, role, tmp_path):
        return Rendered(role, ALTERNATIVE, tmp_path)

    def test_routes_are_data(self, edge):
        mcp = edge.location("/mcp")
        assert mcp.args == ["~", "^/mcp(?<edge_rest>/[A-Za-z0-9._~:@+/-]{0,512})?$"]
        assert mcp.one("set") if len(mcp.find("set")) == 1 else [d.args for d in mcp.find("set")] == [
            ["$edge_allow", "GET, POST, DELETE, HEAD"], ["$edge_upstream", "registry:9000"],
        ]  # fmt: skip
        assert mcp.one("proxy_pass") == ["http://$edge_upstream/mcp$edge_rest$is_args$args"]
        assert [d.args for d in mcp.find("limit_req")] == [["zone=edge_req"], ["zone=edge_route_1"]]
        chat = edge.location("/v1/chat/completions")
        assert (chat.one("client_max_body_size"), chat.one("proxy_read_timeout")) == (["1m"], ["9s"])
        assert mcp.one("proxy_read_timeout") == ["20m"]

    def test_ports_and_addresses(self, edge):
        assert edge.spec["publish"] == [
            {"host_ip": "192.0.2.1", "host_port": 8080, "port": 8080}, {"host_ip": "192.0.2.1", "host_port": 8443, "port": 8443},
            {"host_ip": "2001:db8::1", "host_port": 8080, "port": 8080}, {"host_ip": "2001:db8::1", "host_port": 8443, "port": 8443},
        ]  # fmt: skip
        assert edge.spec["tmpfs"][0]["size"] == "128m"

    def test_names_are_lower_case(self, edge):
        assert edge.server("8443").one("server_name") == ["a.example.org"]


HOSTILE = [
    ("server_names", ["ok.example.org; return 200 owned"], "mcpstack_edge_server_names[0]"),
    ("server_names", ["ok.example.org\nserver_tokens on"], "mcpstack_edge_server_names[0]"),
    ("server_names", ["ok.example.org\n"], "mcpstack_edge_server_names[0]"),
    ("server_names", ['"'], "mcpstack_edge_server_names[0]"),
    ("server_names", ["*.example.org"], "mcpstack_edge_server_names[0]"),
    ("server_names", ["~^.*$"], "mcpstack_edge_server_names[0]"),
    ("server_names", ["192.0.2.1"], "mcpstack_edge_server_names[0]"),
    ("server_names", [""], "mcpstack_edge_server_names[0]"),
    ("server_names", [], "mcpstack_edge_server_names"),
    ("server_names", [{}], "mcpstack_edge_server_names[0]"),
    ("bind", ["0.0.0.0; evil"], "mcpstack_edge_bind[0]"),
    ("https_port", "443; ssl off", "mcpstack_edge_https_port"),
    ("https_port", 80, "mcpstack_edge_http_port"),
    ("max_body", "4m;}", "mcpstack_edge_max_body"),
    ("max_body", "0", "mcpstack_edge_max_body"),
    ("stream_timeout", "300s\n", "mcpstack_edge_stream_timeout"),
    ("hsts", {"max_age": 'x" always; add_header X y'}, "mcpstack_edge_hsts.max_age"),
    ("trusted_proxies", ["0.0.0.0/0"], "mcpstack_edge_trusted_proxies[0]"),
    ("trusted_proxies", ["unix:"], "mcpstack_edge_trusted_proxies[0]"),
    ("tls_profile", "old", "mcpstack_edge_tls_profile"),
    ("per_client", {"rate": 0, "burst": 1, "connections": 1}, "mcpstack_edge_per_client.rate"),
    ("routes", [{"path": "/a { return 200; } location /b"}], "mcpstack_edge_routes[0].path"),
    ("routes", [{"path": "/a/../metrics"}], "mcpstack_edge_routes[0].path"),
    ("routes", [{"path": "/"}], "mcpstack_edge_routes[0].path"),
    ("routes", [{"path": "/metrics"}], "mcpstack_edge_routes[0].path"),
    ("routes", [{"path": "/docs/oauth2-redirect"}], "mcpstack_edge_routes[0].path"),
    ("routes", [{"path": "/health"}], "mcpstack_edge_routes[0].path"),
    ("routes", [{"path": "/registry/metrics", "strip": "/registry"}], "mcpstack_edge_routes[0].path"),
    ("routes", [{"path": "/registry/a", "strip": "/other"}], "mcpstack_edge_routes[0].strip"),
    ("routes", [{"path": "/registry/a", "strip": "/registry/"}], "mcpstack_edge_routes[0].strip"),
    ("routes", [{"path": "/registry/a", "strip": "/regis"}], "mcpstack_edge_routes[0].strip"),
    ("routes", [{"path": "/registry", "strip": "/registry"}], "mcpstack_edge_routes[0].strip"),
    ("routes", [{"path": "/a", "service": "gateway:8000/$uri"}], "mcpstack_edge_routes[0].service"),
    ("routes", [{"path": "/a", "methods": ["GET|.*"]}], "mcpstack_edge_routes[0].methods"),
    ("routes", [{"path": "/a", "limit": {"rate": "1r/s; x"}}], "mcpstack_edge_routes[0].limit.rate"),
    ("routes", [{"path": "/a", "proxy_pass": "http://evil"}], "mcpstack_edge_routes[0].proxy_pass"),
    ("routes", [{"path": "/a"}, {"path": "/a"}], "mcpstack_edge_routes[1].path"),
    ("limits", {"memory": "32m"}, "mcpstack_edge_limits.memory"),
]


@pytest.mark.parametrize(("option", "value", "where"), HOSTILE, ids=[f"{o}-{n}" for n, (o, _, _) in enumerate(HOSTILE)])
def test_hostile_values_are_refused_before_anything_is_rendered(role, option, value, where):
    bad = role("edge", **{**REQUIRED, f"mcpstack_edge_{option}": value})
    with pytest.raises(AnsibleError, match=re.escape(where)):
        bad.files()
    with pytest.raises(AnsibleError, match=re.escape(where)):
        bad.value("_mcpstack_edge_service")


def test_template_text_in_a_value_is_not_evaluated(role):
    bad = role("edge", **{**REQUIRED, "mcpstack_edge_server_names": ["{{ 7 * 7 }}.example.org"]})
    with pytest.raises(AnsibleError, match=r"server_names\[0\]"):
        bad.files()
