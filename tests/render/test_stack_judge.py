# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gate over the whole stack: nothing to find as it is, and each kind of weakness stops it."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

from ansible_collections.mcpstack.platform.plugins.action import stack_audit as action
from ansible_collections.mcpstack.platform.tests.render.test_stack import SERVICES

POLICY = {
    "edge_services": ["edge"],
    "declared_ports": [{"port": 80}, {"port": 443}],
    "internal_networks": ["app", "data", "model"],
    "network_members": {
        "edge": ["edge"], "app": ["edge", "gateway", "registry"],
        "data": ["admin", "gateway", "postgres", "registry", "valkey", "worker"],
        "model": ["gateway", "model-runner", "registry", "worker"], "egress": ["registry"],
    },
    "oneshot_services": ["admin"],
    "networks_without_egress": ["edge"],
    "networks_without_host": ["app", "model"],
    "gpu_services": ["model-runner"],
}  # fmt: skip
#: What the files alone do not tell; the audit of the host does.
UNDECIDED = {
    "NGX-01", "NGX-04", "TLS-08", "TLS-09", "TLS-10", "TLS-11", "VLK-01", "VLK-05", "VLK-08", "PGS-01", "PGS-03", "PGS-06",
    "PGS-07", "PGS-09", "PGS-10", "PGS-11", "PGS-12",
}  # fmt: skip


@pytest.fixture
def gate(role):
    """gate(change, **options) -> the action's result over all services."""

    def run(change=lambda parts: None, **options):
        variables = dict(role("_stack").variables)
        parts = {}
        for name in SERVICES:
            one = role(name, **SERVICES[name])
            parts[name] = json.loads(json.dumps(one.value(f"_mcpstack_{name}_part")))
            variables.update(one.variables)
        change(parts)
        loader = DataLoader()
        templar = Templar(loader=loader, variables=variables)
        args = {"services": list(parts.values()), "fail_at": "high", **POLICY, **options}
        task = SimpleNamespace(args=args, async_val=0, check_mode=False, diff=False, action="stack_audit")
        plugin = action.ActionModule(
            task=task, connection=SimpleNamespace(_shell=SimpleNamespace(tmpdir=None)), play_context=None, loader=loader,
            templar=templar, shared_loader_obj=None,
        )  # fmt: skip
        return plugin.run(task_vars=variables)

    return run


def test_nothing_to_find_as_it_is(gate):
    result = gate(image_ids={"mcpstack/x:0123456789ab": "sha256:abc"})
    assert result["findings"] == [] and "failed" not in result
    assert {state["id"] for state in result["checks_run"] if state["status"] == "unknown"} == UNDECIDED
    assert [entry["subject"] for entry in result["results"]] == [
        "compose project", "postgres configuration", "valkey configuration", "edge configuration",
    ]  # fmt: skip
    model = result["model"]["services"]
    assert sorted(model) == ["admin", "edge", "gateway", "model-runner", "postgres", "registry", "valkey", "worker"]
    assert [name for name, service in model.items() if service.get("on_demand")] == ["admin"]
    assert {service["image_id"] for service in model.values()} == {"sha256:abc"}
    assert json.loads(json.dumps(result["results"])) == result["results"]  # it is written as JSON


def publish_the_database(parts):
    parts["postgres"]["service"]["publish"] = [{"host_ip": "0.0.0.0", "host_port": 5432, "port": 5432}]


def secret_in_the_environment(parts):
    parts["gateway"]["service"]["environment"]["GATEWAY_DB"] = "postgres://app:Tr0ub4dor-and-3@postgres/app"


def database_on_the_edges_network(parts):
    parts["postgres"]["service"]["networks"] = ["data", "edge"]


def writable_root(parts):
    parts["valkey"]["service"]["exceptions"] = [{"check": "CMP-08", "reason": "writes its cache beside the program"}]


@pytest.mark.parametrize(
    ("change", "ids"),
    [
        (publish_the_database, {"NET-03", "PGS-04"}),
        (secret_in_the_environment, {"SEC-02"}),
        (database_on_the_edges_network, {"NET-05"}),
    ],
)
def test_what_is_unsafe_is_refused_with_where_and_how_to_fix_it(gate, change, ids):
    result = gate(change)
    assert result["failed"] is True
    stopping = {item["id"] for item in result["findings"] if item["severity"] in ("critical", "high")}
    assert stopping == ids
    assert result["msg"].startswith("The deploy is refused, nothing was changed: it would be unsafe.")
    for check_id in ids:
        assert f" {check_id} " in result["msg"]
    assert "/etc/mcpstack/compose/" in result["msg"] and "fix: " in result["msg"]
    assert "Tr0ub4dor" not in json.dumps(result)


def test_what_is_milder_only_shows(gate):
    result = gate(writable_root)
    assert "failed" not in result
    assert [(item["id"], item["severity"], item["subject"]) for item in result["findings"]] == [
        ("CMP-08", "medium", "service valkey")
    ]
    assert gate(writable_root, fail_at="medium")["failed"] is True


def test_a_waiver_lets_it_through_until_its_day(gate):
    waiver = {"id": "NET-05", "where": "*", "subject": "*", "reason": "moves house this week", "expires": "2999-01-01"}
    assert "failed" not in gate(database_on_the_edges_network, waivers=[waiver])
    late = gate(database_on_the_edges_network, waivers=[{**waiver, "expires": "2020-01-01"}])
    assert late["failed"] is True and "WVR-01" in {item["id"] for item in late["findings"]}


def test_a_waiver_for_the_running_host_does_not_stop_a_deploy_and_a_misspelt_one_does(gate):
    waiver = {
        "id": "CMP-08",
        "where": "container backup*",
        "reason": "runs beside the platform",
        "expires": "2999-01-01",
    }
    assert "failed" not in gate(waivers=[{**waiver, "subject": "*"}], fail_at="low")
    assert (
        "there is no check of this id"
        in gate(waivers=[{**waiver, "id": "CMP-8", "subject": "*"}], fail_at="low")["msg"]
    )


def test_none_never_stops(gate):
    assert "failed" not in gate(publish_the_database, fail_at="none")


def test_an_audit_that_there_is_not_is_named(gate):
    def change(parts):
        parts["valkey"]["audit"]["kind"] = "tea"

    with pytest.raises(action.AnsibleActionFail, match="There is no audit called 'tea'"):
        gate(change)
