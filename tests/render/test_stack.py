# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every service's compose fragment, as rendered, held against the hardening policy. No service is exempt by name."""

from __future__ import annotations

import copy
import re

import pytest
import yaml
from ansible.template import Templar, trust_as_template

from ansible_collections.mcpstack.platform.plugins.filter.service_spec import service_spec

IMAGE = "mcpstack/x:0123456789ab"
SERVICES = {
    "postgres": {"mcpstack_postgres_image": IMAGE, "mcpstack_postgres_init_image": IMAGE},
    "valkey": {"mcpstack_valkey_image": IMAGE},
    "model_runner": {"mcpstack_model_runner_image": IMAGE},
    "gateway": {"mcpstack_gateway_image": IMAGE},
    "registry": {"mcpstack_registry_image": IMAGE},
    "worker": {"mcpstack_worker_image": IMAGE},
    "admin": {"mcpstack_admin_image": IMAGE},
    "edge": {"mcpstack_edge_image": IMAGE, "mcpstack_edge_server_names": ["ai.example.org"]},
}
# What an operator may well set otherwise than the default.
ALTERNATIVE = {
    "postgres": {
        "mcpstack_postgres_memory": "2g",
        "mcpstack_postgres_cpus": "2",
        "mcpstack_postgres_max_connections": 200,
    },
    "valkey": {"mcpstack_valkey_memory": "1g", "mcpstack_valkey_persistence": False},
    "model_runner": {"mcpstack_model_runner_memory": "8g", "mcpstack_model_runner_cpus": "4"},
    "gateway": {
        "mcpstack_gateway_environment": "production",
        "mcpstack_gateway_cors_origins": ["https://a.example.org"],
    },
    "registry": {
        "mcpstack_registry_environment": "production",
        "mcpstack_registry_server_names": ["ai.example.org", "10.0.0.1"],
        "mcpstack_registry_public_url": "https://ai.example.org:8443",
        "mcpstack_registry_oidc_issuers": ["https://login.example.org/realms/a-b"],
        "mcpstack_registry_catalogue_public": True,
    },
    "worker": {"mcpstack_worker_keep": {"usage_days": 62}, "mcpstack_worker_embedding_model": "org/tiny embed"},
    "admin": {"mcpstack_admin_environment": "production", "mcpstack_admin_memory": "512m"},
    "edge": {"mcpstack_edge_bind": ["127.0.0.1"], "mcpstack_edge_https_port": 8443, "mcpstack_edge_http_port": 0},
}
UIDS = {
    "edge": 64101, "gateway": 64102, "model-runner": 64103, "postgres": 64104, "valkey": 64105, "registry": 64106,
    "worker": 64107, "admin": 64108,
}  # fmt: skip
ONESHOTS = {"admin"}
TMPFS = re.compile(r"^/[a-z/]+:rw,noexec,nosuid,nodev,size=\d+[kmg],mode=0\d{3},uid=(\d+),gid=\1$")
HOSTILE = ['"; privileged: true #', "a\n    privileged: true", "${HOME}", "$(id)", "{{ 7 * 7 }}", "'", "\\", "é"]


def render_template(role, name, variables):
    """One of the engine's own templates."""
    stack = role("_stack")
    templates = stack.path / "templates"
    variables = {**stack.variables, **variables}
    templar = Templar(loader=stack.loader, variables=variables)
    templar = templar.copy_with_new_env(searchpath=[str(templates)], available_variables=variables)
    return str(
        templar.template(
            trust_as_template((templates / name).read_text()),
            escape_backslashes=False,
            overrides={"trim_blocks": True, "lstrip_blocks": True},
        )
    )


def render(role, spec):
    """The fragment of a normalised spec."""
    variables = {"__stack_spec": spec, "config_tree_digest": "d" * 64, "_stack_certificates": {"edge": "f" * 64}}
    return yaml.safe_load(render_template(role, "service.compose.yml.j2", variables))


@pytest.fixture(
    params=[(name, kind) for name in SERVICES for kind in ("default", "alternative")], ids=lambda p: "-".join(p)
)
def fragment(request, role):
    name, kind = request.param
    options = {**SERVICES[name], **(ALTERNATIVE[name] if kind == "alternative" else {})}
    spec = service_spec(role(name, **options).value(f"_mcpstack_{name}_service"))
    rendered = render(role, spec)
    ((service, body),) = rendered["services"].items()
    return service, body, rendered


def test_identity_and_privileges(fragment):
    service, body, _rendered = fragment
    assert body["user"] == f"{UIDS[service]}:{UIDS[service]}"
    assert body["read_only"] is True
    assert body["cap_drop"] == ["ALL"]
    assert "cap_add" not in body
    assert body["security_opt"] == ["no-new-privileges:true"]
    assert body["privileged"] is False
    assert body["ipc"] == "private"
    for shared in (
        "network_mode",
        "pid",
        "uts",
        "cgroup",
        "userns_mode",
        "devices",
        "container_name",
        "build",
        "env_file",
    ):
        assert shared not in body


def test_limits_and_logs(fragment):
    _service, body, _rendered = fragment
    assert re.match(r"^\d+[mg]$", body["mem_limit"])
    assert body["memswap_limit"] == body["mem_limit"]  # no swap on top
    assert float(body["cpus"]) > 0
    assert 0 < body["pids_limit"] <= 1024
    assert body["ulimits"]["core"] == 0
    if _service in ONESHOTS:
        # Nothing starts it but a call, and what it says, such as a new key, is nowhere but with the caller.
        assert (body["logging"], body["restart"], body["profiles"]) == ({"driver": "none"}, "no", [_service])
    else:
        assert body["logging"] == {"driver": "json-file", "options": {"max-size": "10m", "max-file": "3"}}
        assert body["restart"] == "unless-stopped"
        assert "profiles" not in body


def test_writable_places_are_sized_and_inert(fragment):
    service, body, _rendered = fragment
    for entry in body.get("tmpfs", []):
        assert TMPFS.match(entry), entry
        assert f"uid={UIDS[service]}" in entry


def test_mounts_stay_in_the_platforms_tree_and_are_never_made_up(fragment):
    service, body, rendered = fragment
    allowed = ("/etc/mcpstack/", "/run/mcpstack/secrets/", "/var/lib/mcpstack/")
    for mount in body.get("volumes", []):
        if mount["type"] == "volume":
            assert mount["source"] in rendered["volumes"]
            continue
        assert mount["source"].startswith(allowed), mount
        assert mount["read_only"] is True
        assert mount["bind"] == {"create_host_path": False}
        if mount["source"].startswith("/run/mcpstack/secrets"):
            assert mount["source"] == f"/run/mcpstack/secrets/{service}"


def test_only_the_edge_publishes_and_only_it_has_a_way_out(fragment, role):
    service, body, _rendered = fragment
    networks = role("_stack").value("_mcpstack_stack_networks")
    outward = [name for name in body["networks"] if not networks[name]["internal"]]
    if service == "edge":
        assert {port["target"] for port in body["ports"]} <= {8080, 8443}
        assert all(port["host_ip"] for port in body["ports"])
        assert outward == ["edge"]
    else:
        assert "ports" not in body
        # with an issuer to ask for its keys
        assert outward == (["egress"] if service == "registry" and len(body["networks"]) > 3 else [])


@pytest.mark.parametrize(
    ("options", "out"),
    [
        ({}, False),
        ({"mcpstack_registry_egress": True}, True),
        ({"mcpstack_registry_oidc_issuers": ["https://a.example"]}, True),
    ],
)
def test_the_registry_has_a_way_out_only_when_it_was_asked_for(role, options, out):
    spec = role("registry", mcpstack_registry_image=IMAGE, **options).value("_mcpstack_registry_service")
    assert spec["networks"] == ["app", "data", "model", *(["egress"] if out else [])]


def test_the_health_check_asks_the_service_itself(fragment):
    service, body, _rendered = fragment
    if service in ONESHOTS:
        assert "healthcheck" not in body and body["entrypoint"][0].startswith("/")
        return
    kind, *argv = body["healthcheck"]["test"]
    assert kind == "CMD"
    assert argv[0].startswith("/")
    assert not re.search(r"https?://(?!127\.0\.0\.1|localhost)", " ".join(argv))


def test_no_secret_in_environment_labels_or_arguments(fragment):
    _service, body, _rendered = fragment
    for name, value in (body.get("environment") or {}).items():
        assert not re.search(r"(PASSWORD|SECRET|TOKEN|KEY|PEPPER)$", name), name
        assert "@" not in value or "://" not in value, "no credentials in addresses"
    assert body["labels"]["mcpstack.config-digest"] == "d" * 64


def test_a_new_certificate_recreates_the_service(fragment):
    service, body, _rendered = fragment
    assert body["labels"].get("mcpstack.certificate") == ("f" * 64 if service == "edge" else None)


def test_the_image_is_pinned_by_content(fragment):
    _service, body, _rendered = fragment
    assert body["image"] == IMAGE
    assert body["pull_policy"] == "never"


BASE = {
    "name": "probe",
    "image": IMAGE,
    "uid": 64199,
    "networks": ["data"],
    "health": {"command": ["/bin/check"]},
    "limits": {"memory": "64m", "cpus": "0.5", "pids": 16},
}


@pytest.mark.parametrize("value", HOSTILE)
def test_a_hostile_value_stays_a_value(role, value):
    spec = copy.deepcopy(BASE)
    spec.update(command=["/bin/run", value], environment={"TEXT": value})
    spec["health"]["command"] = ["/bin/check", value]
    body = render(role, service_spec(spec))["services"]["probe"]
    escaped = value.replace("$", "$$")  # compose reads one $ as the start of a variable
    assert body["command"] == ["/bin/run", escaped]
    assert body["environment"] == {"TEXT": escaped}
    assert body["healthcheck"]["test"] == ["CMD", "/bin/check", escaped]
    assert body["privileged"] is False


def test_an_exception_shows_on_the_container(role):
    spec = {**copy.deepcopy(BASE), "exceptions": [{"check": "CMP-08", "reason": "writes its state beside the binary"}]}
    body = render(role, service_spec(spec))["services"]["probe"]
    assert body["read_only"] is False
    assert body["labels"]["mcpstack.exception.CMP-08"] == "writes its state beside the binary"


def test_the_project_has_a_way_in_and_a_way_out_and_no_other(role):
    rendered = yaml.safe_load(render_template(role, "project.compose.yml.j2", {}))
    assert rendered["name"] == "mcpstack"
    assert {name for name, network in rendered["networks"].items() if not network["internal"]} == {"edge", "egress"}


def test_the_model_cannot_reach_the_host_and_the_edge_cannot_call_out(role):
    rendered = yaml.safe_load(render_template(role, "project.compose.yml.j2", {}))
    hidden = {"com.docker.network.bridge.inhibit_ipv4": "true"}
    assert {name: network["driver_opts"] for name, network in rendered["networks"].items()} == {
        "edge": {"com.docker.network.bridge.enable_ip_masquerade": "false"},
        "app": hidden,
        "model": hidden,
        "data": {},  # the host proves the logins of the databases through it
        "egress": {},  # on it is whoever asked for a way out
    }
