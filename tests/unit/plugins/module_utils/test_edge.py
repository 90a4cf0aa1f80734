# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of the edge: what is refused, with which words, and what is completed."""

from __future__ import annotations

import re

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _edge as core

GOOD = {
    "server_names": ["llm.example.org"],
    "bind": ["0.0.0.0"],
    "http_port": 80,
    "https_port": 443,
    "per_client": {"rate": 20, "burst": 40, "connections": 64},
    "max_body": "4m",
    "stream_timeout": "300s",
    "hsts": {"max_age": 63072000, "include_subdomains": False, "preload": False},
    "trusted_proxies": [],
    "tls_profile": "intermediate",
    "expose_docs": False,
    "routes": [{"path": "/v1/models", "match": "prefix"}],
    "limits": {"memory": "256m"},
}


def problems(**changes):
    with pytest.raises(core.EdgeConfigError) as caught:
        core.plan({**GOOD, **changes}, prefix="mcpstack_edge_")
    assert str(caught.value) == core.describe(caught.value.problems)
    return caught.value.problems


EXACT = [
    ({"server_names": ["a b"]}, "mcpstack_edge_server_names[0]: 'a b' is not a host name. "
     "Fix: give a plain DNS name such as llm.example.org (no wildcard, port, path or space)."),
    ({"server_names": ["x.org", "X.org"]}, "mcpstack_edge_server_names[1]: x.org is listed twice. Fix: remove one."),
    ({"server_names": ["10.0.0.1"]}, "mcpstack_edge_server_names[0]: 10.0.0.1 is an address, and clients send no server name when "
     "they connect to one. Fix: give a DNS name."),
    ({"server_names": "x.org"}, "mcpstack_edge_server_names: 'x.org' is not a list. Fix: write a YAML list."),
    ({"bind": []}, "mcpstack_edge_bind: is empty, so nothing could connect. Fix: list the host addresses to publish on."),
    ({"bind": ["eth0"]}, "mcpstack_edge_bind[0]: 'eth0' is not an address. Fix: give one such as 0.0.0.0."),
    ({"http_port": 443}, "mcpstack_edge_http_port: 443 is also the HTTPS port. "
     "Fix: choose two ports, or 0 to publish no plain HTTP."),
    ({"https_port": 0}, "mcpstack_edge_https_port: 0 is not a whole number from 1 to 65535. Fix: give a number from 1 to 65535."),
    ({"https_port": True}, "mcpstack_edge_https_port: True is not a whole number from 1 to 65535. "
     "Fix: give a number from 1 to 65535."),
    ({"max_body": "4 MB"}, "mcpstack_edge_max_body: '4 MB' is not a size. "
     "Fix: write a whole number with k or m, for example 4m."),
    ({"max_body": "300m"}, "mcpstack_edge_max_body: 300m is above the 256m the edge accepts. Fix: choose a smaller size."),
    ({"stream_timeout": "forever"}, "mcpstack_edge_stream_timeout: 'forever' is not a time. "
     "Fix: write a whole number with s or m, for example 300s."),
    ({"stream_timeout": "99999m"}, "mcpstack_edge_stream_timeout: 99999m is above the 86400s the edge accepts. "
     "Fix: choose a shorter time."),
    ({"hsts": {"max_age": 60, "preload": True}}, "mcpstack_edge_hsts.preload: the preload list takes only names with "
     "include_subdomains and a max_age of a year or more. Fix: set include_subdomains to true and max_age to 63072000, or preload to false."),
    ({"trusted_proxies": ["10.0.0.0/7"]}, "mcpstack_edge_trusted_proxies[0]: 10.0.0.0/7 would let almost anybody choose the client "
     "address. Fix: list the addresses of your load balancers."),
    ({"trusted_proxies": ["10.0.0.1/24"]}, "mcpstack_edge_trusted_proxies[0]: '10.0.0.1/24' is not an address. "
     "Fix: give one such as 192.0.2.10/32."),
    ({"routes": [{"path": "/metrics/x"}]}, "mcpstack_edge_routes[0].path: /metrics/x is for the inside only. "
     "Fix: remove the route (expose_docs opens the API description in development)."),
    ({"routes": [{"path": "/a", "methods": []}]}, "mcpstack_edge_routes[0].methods: is empty, so the route would refuse everything. "
     "Fix: name at least one method."),
    ({"routes": [{"path": "/a", "limit": {"burst": 1}}]}, "mcpstack_edge_routes[0].limit.rate: None is not a whole number from 1 to "
     "100000. Fix: give a number from 1 to 100000."),
    ({"max_body": "32m"}, "mcpstack_edge_limits.memory: 256m is too little: bodies of 32768k need a 256m /tmp, at most half of "
     "it. Fix: set limits.memory to 512m or more, or lower max_body or per_client.connections."),
    ({"surprise": 1}, "mcpstack_edge_surprise: is not a known option. Fix: use one of: " + ", ".join(core._OPTION_KEYS) + "."),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), EXACT, ids=[str(n) for n in range(len(EXACT))])
def test_exact_messages(changes, message):
    assert core.describe(problems(**changes)) == message


def test_all_problems_at_once():
    found = problems(
        server_names=["a b"],
        bind=["x"],
        https_port=0,
        max_body="1",
        tls_profile="old",
        routes=[{"path": "x", "port": 0}],
    )
    assert [p["where"].removeprefix("mcpstack_edge_") for p in found] == [
        "server_names[0]", "bind[0]", "https_port", "tls_profile", "max_body", "routes[0].path", "routes[0].port",
    ]  # fmt: skip


def test_missing_options_are_named():
    with pytest.raises(core.EdgeConfigError, match="routes: is missing"):
        core.plan({key: value for key, value in GOOD.items() if key != "routes"})


def test_text_from_a_command_line_is_read_as_what_it_says():
    plan = core.plan(
        {
            **GOOD,
            "https_port": "8443",
            "expose_docs": "true",
            "per_client": {"rate": "5", "burst": "0", "connections": "1"},
        }
    )
    assert (plan["https_port"], plan["redirect_port"], plan["rate"], plan["docs_paths"]) == (
        8443,
        ":8443",
        5,
        ["/docs", "/openapi.json"],
    )


def test_defaults_of_a_route():
    (route,) = core.plan(GOOD)["routes"]
    assert route == {
        "path": "/v1/models", "match": "prefix", "location": '~ "^/v1/models(?<edge_rest>/[A-Za-z0-9._~:@+/-]{0,512})?$"',
        "uri": "/v1/models$edge_rest", "upstream": "gateway:8000", "methods": ["GET", "HEAD"], "streaming": False, "max_body": "4m",
        "read_timeout": "60s", "limit": None, "zone": "edge_route_0",
    }  # fmt: skip


@pytest.mark.parametrize(("match", "uri"), [("exact", "/v1/tools"), ("prefix", "/v1/tools$edge_rest")])
def test_stripped_route_hides_its_beginning_from_the_service(match, uri):
    given = {"path": "/registry/v1/tools", "match": match, "strip": "/registry"}
    (route,) = core.plan({**GOOD, "routes": [given]})["routes"]
    assert (route["uri"], route["path"]) == (uri, "/registry/v1/tools")
    assert "registry" in route["location"]


def test_streaming_route_takes_the_stream_timeout():
    (route,) = core.plan({**GOOD, "routes": [{"path": "/mcp", "streaming": True}]})["routes"]
    assert (route["read_timeout"], route["location"]) == ("300s", "= /mcp")


@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/models/", "/v1/models/a", "/v1/models/org/m-7.b:q4", "/v1/models/a@b+c~d_e"]
)
def test_prefix_pattern_takes(path):
    assert re.fullmatch(_pattern(), path)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/modelsx",
        "/xv1/models",
        "/v1.models",
        "/v1/models/a b",
        "/v1/models/a\r\nb",
        "/v1/models/a\n",
        "/v1/models/" + "a" * 513,
    ],
)
def test_prefix_pattern_leaves(path):
    assert not re.fullmatch(_pattern(), path)


def _pattern():
    location = core.plan(GOOD)["routes"][0]["location"]
    return location.removeprefix('~ "').removesuffix('"').replace("(?<", "(?P<").replace("$", r"\Z")


@pytest.mark.parametrize(
    ("text", "size"), [("512k", 524288), ("1m", 1048576), ("0m", None), ("1g", None), (4, None), ("4m\n", None)]
)
def test_sizes(text, size):
    assert core.size_bytes(text) == size


@pytest.mark.parametrize(("text", "value"), [("30s", 30), ("5m", 300), ("1h", None), ("s", None), (None, None)])
def test_times(text, value):
    assert core.seconds(text) == value


def test_hsts_forms():
    both = {"max_age": 63072000, "include_subdomains": True, "preload": True}
    assert core.plan({**GOOD, "hsts": both})["hsts"] == "max-age=63072000; includeSubDomains; preload"
    assert core.plan({**GOOD, "hsts": {"max_age": 0}})["hsts"] == ""
