# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the roles hand to the services, read by the services' own code: every name is a setting, every value can be used."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from ansible_collections.mcpstack.platform.tests.render.test_stack import ALTERNATIVE, SERVICES

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".cache" / "venv-services" / "bin" / "python"
#: Reads {service: environment}; prints {service: {problem of each setting, and its value as read}}.
READER = """
import importlib, json, sys
from mcpstack.common import settings as common
found = {}
for service, environment in json.load(sys.stdin).items():
    module = importlib.import_module(f"mcpstack.{service}.settings")
    try:
        values = common.load(module.Settings, environment, module.PREFIX)
        found[service] = {"problems": [], "values": {name: str(value) for name, value in vars(values).items()}}
    except common.SettingsError as error:
        found[service] = {"problems": [str(problem) for problem in error.problems]}
print(json.dumps(found))
"""
FIRST_PARTY = ["gateway", "registry", "worker", "admin"]
#: As far from the defaults as an operator may go.
FAR = {
    "gateway": {
        **ALTERNATIVE["gateway"],
        "mcpstack_gateway_budgets": {"tokens_minute": 1, "tokens_month": 10**12},
        "mcpstack_gateway_queue": {"places": 0, "timeout": 600},
        "mcpstack_gateway_cache_seconds": 0,
        "mcpstack_gateway_log_content": "redacted",
        "mcpstack_gateway_traces": {"endpoint": "https://otel.example.org:4318/v1", "share": 0.25},
        "mcpstack_gateway_egress": True,
        "mcpstack_gateway_runners": [
            {"name": "own", "url": "http://model-runner:8080", "max_concurrency": 8},
            {
                "name": "far-1",
                "url": "https://gpu.example.org:8443/llm",
                "key_file": "/root/key",
                "max_concurrency": 100000,
                "models": ["org/big model"],
                "weight": 1000,
                "draining": True,
            },
        ],
    },
    "registry": {
        **ALTERNATIVE["registry"],
        "mcpstack_registry_embedding_model": "org/tiny embed",
        "mcpstack_registry_traces": {"endpoint": "http://otel:4318", "share": 0},
        "mcpstack_registry_summary_model": "org/big",
        "mcpstack_registry_origins": ["https://chat.example.org"],
        "mcpstack_registry_outbound_allow": [
            "mcp-time:8000",
            "10.20.0.0/16",
            "127.0.0.1",
            "fd00::/8",
            "intern.example",
        ],
        "mcpstack_registry_namespace": "org.example.ai",
        "mcpstack_registry_sets": {"dev": ["git", "time"], "docs": ["git__git_log", "far__Find.it"]},
        "mcpstack_registry_servers": [
            {"id": "time", "url": "http://mcp-time:8000/mcp"},
            {"id": "far", "url": "https://mcp.example.org/mcp", "key_file": "/root/far", "trust": "trusted"},
            {"id": "old", "state": "absent"},
        ],
    },
    "worker": {
        **ALTERNATIVE["worker"],
        "mcpstack_worker_keep": dict.fromkeys(("jobs_days", "dead_letters_days", "audit_months", "call_months"), 1),
        "mcpstack_worker_outbound_allow": ["mcp-time:8000"],
        "mcpstack_worker_server_keys": ["far"],
        "mcpstack_worker_egress": True,
        "mcpstack_worker_concurrency": 64,
        "mcpstack_worker_shutdown_grace": 0,
    },
    "admin": ALTERNATIVE["admin"],
}


def spec_of(role, name, options):
    made = role(name, **{**SERVICES[name], **options})
    assert made.value(f"_mcpstack_{name}_problems") == []
    return made.value(f"_mcpstack_{name}_service")


def read(environments: dict[str, dict[str, str]]) -> dict:
    assert PYTHON.exists(), "the services' requirements are not installed: run python3 tools/bootstrap.py services"
    done = subprocess.run(
        [str(PYTHON), "-c", READER], input=json.dumps(environments), capture_output=True, text=True, check=False, timeout=60,
        env={"PYTHONPATH": str(ROOT / "services" / "src")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("options", [{}, FAR], ids=["default", "far"])
def test_every_setting_is_known_and_usable(role, options):
    environments = {name: spec_of(role, name, options.get(name, {}))["environment"] for name in FIRST_PARTY}
    assert all(environments.values())
    assert {name: entry["problems"] for name, entry in read(environments).items()} == dict.fromkeys(FIRST_PARTY, [])


def test_the_reader_would_notice():
    found = read({"gateway": {"GATEWAY_LOG_LEVL": "info"}, "worker": {"WORKER_CONCURRENCY": "0"}})
    assert [problem.split(":")[0] for entry in found.values() for problem in entry["problems"]] == [
        "GATEWAY_LOG_LEVL", "WORKER_CONCURRENCY",
    ]  # fmt: skip


def test_what_is_left_to_the_service_finds_what_the_spec_mounts(role):
    """Paths of secrets are defaults of the services; the spec mounts a directory for each of its secrets."""
    specs = {name: spec_of(role, name, {}) for name in FIRST_PARTY}
    found = read({name: spec["environment"] for name, spec in specs.items()})
    for name, spec in specs.items():
        wanted = {
            value.split("/")[3]
            for value in found[name]["values"].values()
            if value.startswith("/run/secrets/") and not value.startswith("/run/secrets/registry-introspection")
        }
        assert wanted == set(spec["secrets"]), name


def test_model_servers_and_their_keys(role):
    spec = spec_of(role, "gateway", FAR["gateway"])
    runners = json.loads(spec["environment"]["GATEWAY_RUNNERS"])
    assert [entry["api_key_file"] for entry in runners] == [
        "/run/secrets/model-api-key/current", "/run/secrets/runner-far-1/current",
    ]  # fmt: skip
    assert spec["secrets"][-1] == "runner-far-1" and "GATEWAY_MODEL_CONCURRENCY" not in spec["environment"]
    assert spec["networks"] == ["app", "data", "model", "egress"]


@pytest.mark.parametrize("given", [False, "off"])
def test_content_is_not_logged_unless_asked_for(role, given):
    """Unquoted, YAML reads off as false."""
    made = spec_of(role, "gateway", {"mcpstack_gateway_log_content": given})
    assert made["environment"]["GATEWAY_LOG_CONTENT"] == "off"


@pytest.mark.parametrize("name", ["gateway", "registry"])
def test_a_collector_is_a_way_out(role, name):
    made = spec_of(role, name, {f"mcpstack_{name}_traces": {"endpoint": "https://otel.example.org"}})
    assert made["networks"][-1] == "egress"
    assert spec_of(role, name, {f"mcpstack_{name}_traces": {"share": 0.5}})["networks"][-1] == "model"


def test_servers_outside_bring_a_way_out_and_their_secrets(role):
    spec = spec_of(
        role, "registry", {**FAR["registry"], "mcpstack_registry_oidc_issuers": [], "mcpstack_registry_traces": {}}
    )
    assert spec["networks"][-1] == "egress" and spec["secrets"][-1] == "mcp-server-far"
    inside = {"mcpstack_registry_servers": FAR["registry"]["mcpstack_registry_servers"][:1]}
    assert spec_of(role, "registry", inside)["networks"] == ["app", "data", "model"]
    worker = spec_of(role, "worker", FAR["worker"])
    assert worker["networks"][-1] == "egress" and worker["secrets"][-1] == "mcp-server-far"


RUNNER = {"name": "a", "url": "http://model-runner:8080", "max_concurrency": 1}
SERVER = {"id": "a", "url": "https://mcp.example.org/mcp"}


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        (
            "gateway",
            {"cors_origins": ["*"], "environment": "production"},
            "mcpstack_gateway_cors_origins: * lets every web site call the API: name the origins in production.",
        ),
        (
            "gateway",
            {"log_content": "full", "environment": "production"},
            "mcpstack_gateway_log_content: full writes what people say into the log, with their keys and addresses: "
            "use redacted in production.",
        ),
        (
            "gateway",
            {"traces": {"endpoint": "otel:4318"}},
            'mcpstack_gateway_traces.endpoint is "otel:4318": write it like https://otel.example.org:4318.',
        ),
        ("registry", {"traces": {"share": 1.5}}, "mcpstack_registry_traces.share is 1.5: give a number from 0 to 1."),
        ("gateway", {"budgets": {"tokens_day": -1}}, "mcpstack_gateway_budgets.tokens_day is -1: give a number from 0 to 1000000000000."),
        ("gateway", {"queue": {"timeout": 0}}, "mcpstack_gateway_queue.timeout is 0: give a number from 1 to 600."),
        ("gateway", {"cache_seconds": -1}, "mcpstack_gateway_cache_seconds is -1: give a number from 0 to 604800."),
        (
            "gateway",
            {"runners": [RUNNER], "queue": {"concurrency": 3}},
            "mcpstack_gateway_queue.concurrency is for the platform's own model server: "
            "give max_concurrency to each of mcpstack_gateway_runners.",
        ),
        (
            "gateway",
            {"runners": [{**RUNNER, "name": "A b"}]},
            'mcpstack_gateway_runners[0].name is "A b": use 1 to 56 small letters, digits and dashes.',
        ),
        (
            "gateway",
            {"runners": [{**RUNNER, "url": "http://u:p@x", "key_file": "/root/key"}]},
            'mcpstack_gateway_runners[0].url is "http://u:p@x": write it like http://model-runner:8080, without credentials and without /v1.',
        ),
        (
            "gateway",
            {"runners": [{**RUNNER, "url": "https://gpu.example.org"}]},
            "mcpstack_gateway_runners[0].key_file is missing: the key of the platform's own model server is for "
            "http://model-runner:8080 alone.",
        ),
        ("gateway", {"runners": [{**RUNNER, "weight": 0}]}, "mcpstack_gateway_runners[0].weight is 0: give a number from 1 to 1000."),
        (
            "registry",
            {"oidc_issuers": ["http://login.example.org"], "environment": "production"},
            'mcpstack_registry_oidc_issuers: "http://login.example.org" is no issuer: give its address, beginning with https://, '
            "letter by letter as its tokens have it.",
        ),
        (
            "registry",
            {"oidc_issuers": ["https://a.example,https://b.example"]},
            'mcpstack_registry_oidc_issuers: "https://a.example,https://b.example" is no issuer: give its address, beginning with '
            "http:// or https://, letter by letter as its tokens have it.",
        ),
        (
            "registry",
            {"server_names": ["ai.example.org"], "public_url": "https://other.example.org"},
            "mcpstack_registry_public_url: its host is none of mcpstack_registry_server_names: add it there.",
        ),
        ("registry", {"server_names": []}, "mcpstack_registry_server_names is empty: every request would be refused."),
        (
            "registry",
            {"outbound_allow": ["http://x"]},
            'mcpstack_registry_outbound_allow: "http://x" is no host, address or network: write it like mcp-time:8000 or 10.20.0.0/16.',
        ),
        (
            "registry",
            {"servers": [{**SERVER, "id": "A"}]},
            'mcpstack_registry_servers[0].id is "A": use 1 to 32 small letters, digits and dashes.',
        ),
        (
            "registry",
            {"servers": [{"id": "a"}]},
            'mcpstack_registry_servers[0].url is "": give the address of its MCP endpoint, such as https://mcp.example.org/mcp.',
        ),
        (
            "registry",
            {"servers": [{**SERVER, "sync_interval": 1}]},
            "mcpstack_registry_servers[0].sync_interval is 1: give a number from 30 to 604800.",
        ),
        (
            "registry",
            {"namespace": "Example"},
            'mcpstack_registry_namespace is "Example": give a domain written backwards, such as org.example.ai.',
        ),
        (
            "registry",
            {"sets": {"Dev": ["time"]}},
            'mcpstack_registry_sets: "Dev" is no name: use 1 to 32 small letters, digits and dashes.',
        ),
        ("registry", {"sets": {"dev": []}}, "mcpstack_registry_sets.dev is empty: list servers (time) and tools (git__git_log)."),
        (
            "registry",
            {"sets": {"dev": ["a,b"]}},
            'mcpstack_registry_sets.dev: "a,b" is neither a server (time) nor a tool of one (git__git_log).',
        ),
        ("worker", {"keep": {"usage_days": 61}}, "mcpstack_worker_keep.usage_days is 61: give a number from 62 to 3650."),
        ("worker", {"keep": {"jobs_days": 0}}, "mcpstack_worker_keep.jobs_days is 0: give a number from 1 to 3650."),
        ("worker", {"concurrency": 65}, "mcpstack_worker_concurrency is 65: give a number from 1 to 64."),
        ("worker", {"embedding_model": "a\nb"}, 'mcpstack_worker_embedding_model is "a\\nb": give the id of a model, at most 256 characters.'),
        ("admin", {"first_key_scopes": []}, "mcpstack_admin_first_key_scopes is empty: the key would be good for nothing."),
        ("admin", {"first_key_name": "a'"}, 'mcpstack_admin_first_key_name is "a\'": use 1 to 100 letters, digits, spaces or any of . _ @ -.'),
    ],
)  # fmt: skip
def test_each_problem_is_named_with_what_to_do(role, name, options, problem):
    options = {f"mcpstack_{name}_{key}": value for key, value in options.items()}
    assert role(name, **{**SERVICES[name], **options}).value(f"_mcpstack_{name}_problems") == [problem]
