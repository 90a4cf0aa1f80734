# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The service spec core: what it fills in, and every sentence it refuses with."""

from __future__ import annotations

import copy

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils._service_spec import SpecError, normalise

GOOD = {
    "name": "postgres",
    "image": "mcpstack/postgres:0123456789ab",
    "uid": 64104,
    "networks": ["data"],
    "health": {"command": ["/bin/ready"]},
    "limits": {"memory": "512m", "cpus": "1.0", "pids": 128},
}


def changed(**changes):
    spec = copy.deepcopy(GOOD)
    for path, value in changes.items():
        target = spec
        *parents, last = path.split("__")
        for parent in parents:
            target = target[parent]
        if value is None:
            target.pop(last)
        else:
            target[last] = value
    return spec


def test_defaults_are_filled_in():
    spec = normalise(GOOD)
    assert spec["health"] == {
        "command": ["/bin/ready"],
        "interval": "5s",
        "timeout": "3s",
        "retries": 10,
        "start_period": "30s",
    }
    assert spec["limits"]["nofile"] is None  # the engine has a default that fits the host
    assert spec["stop"] == {"signal": "SIGTERM", "grace": "10s"}
    assert spec["read_only"] is True
    assert spec["secrets_source"] == "/run/mcpstack/secrets/postgres"
    assert spec["tls_source"] == "/var/lib/mcpstack/pki/leaves/postgres"
    assert spec["config_source"] == "/etc/mcpstack/postgres"


ONESHOT = {
    **{key: value for key, value in GOOD.items() if key != "health"},
    "kind": "oneshot",
    "entrypoint": ["/bin/admin"],
}


def test_a_oneshot_has_no_health():
    spec = normalise(ONESHOT)
    assert (spec["kind"], spec["health"]) == ("oneshot", {})
    assert normalise(GOOD)["kind"] == "service"


@pytest.mark.parametrize(
    ("changes", "where", "what"),
    [
        ({"kind": "job"}, "service postgres.kind", "is 'job'"),
        ({"kind": "service"}, "service postgres.health", "is missing"),
        (
            {"health": {"command": ["/bin/ready"]}},
            "service postgres.health",
            "is given for a oneshot, which nobody asks how it is",
        ),
        (
            {"publish": [{"host_ip": "127.0.0.1", "host_port": 1, "port": 8000}]},
            "service postgres.publish",
            "is given for a oneshot, which serves nobody",
        ),
        (
            {"depends_on": ["db"]},
            "service postgres.depends_on",
            "is given for a oneshot, which never starts anything else",
        ),
        (
            {"command": ["x"]},
            "service postgres.command",
            "is given for a oneshot, whose command is what it is called with",
        ),
        ({"entrypoint": None}, "service postgres.entrypoint", "is missing"),
    ],
)
def test_a_oneshot_is_held_to_what_it_is(changes, where, what):
    with pytest.raises(SpecError) as error:
        normalise({**ONESHOT, **changes})
    assert (where, what) in [(item["where"], item["what"]) for item in error.value.problems]


def test_the_input_is_not_changed():
    before = copy.deepcopy(GOOD)
    normalise(GOOD)["environment"]["X"] = "y"
    assert before == GOOD
    assert normalise(GOOD)["environment"] == {}


@pytest.mark.parametrize(
    ("spec", "where", "what"),
    [
        (changed(name="Postgres"), "service Postgres.name", "is 'Postgres'"),
        (changed(name=None), "service.name", "is missing"),
        (changed(image="mcpstack/postgres:latest"), "service postgres.image", "is 'mcpstack/postgres:latest'"),
        (changed(image="postgres"), "service postgres.image", "is 'postgres'"),
        (changed(uid=0), "service postgres.uid", "is 0"),
        (changed(uid="64104"), "service postgres.uid", "is '64104'"),
        (changed(networks=[]), "service postgres.networks", "is empty"),
        (changed(networks="data"), "service postgres.networks", "is str, not a list"),
        (changed(privileged=True), "service.privileged", "is not part of the service spec"),
        (changed(limits__memory=None), "service postgres.limits.memory", "is missing"),
        (changed(limits__memory="512"), "service postgres.limits.memory", "is '512'"),
        (changed(limits__pids=-1), "service postgres.limits.pids", "is -1"),
        (changed(limits__pids=True), "service postgres.limits.pids", "is True"),
        (changed(health__command=None), "service postgres.health.command", "is missing"),
        (
            changed(health__command="pg_isready"),
            "service postgres.health.command",
            "is not a list of non-empty strings",
        ),
        (changed(health__interval="5"), "service postgres.health.interval", "is '5'"),
        (
            changed(environment={"DB_PASSWORD": "x"}),
            "service postgres.environment.DB_PASSWORD",
            "holds a credential in the environment",
        ),
        (
            changed(environment={"GW_API_KEY": "x"}),
            "service postgres.environment.GW_API_KEY",
            "holds a credential in the environment",
        ),
        (changed(environment={"PORT": 5432}), "service postgres.environment.PORT", "is int, not a string"),
        (changed(environment={"a\nb": "x"}), "service postgres.environment.a\nb", "is 'a\\nb'"),
        (changed(tmpfs=[{"target": "/tmp", "size": "64"}]), "service postgres.tmpfs[0].size", "is '64'"),
        (changed(tmpfs=[{"target": "tmp", "size": "64m"}]), "service postgres.tmpfs[0].target", "is 'tmp'"),
        (
            changed(volumes=[{"path": "/etc", "target": "/x"}]),
            "service postgres.volumes[0].path",
            "is /etc, outside the platform's own tree",
        ),
        (
            changed(volumes=[{"path": "/var/lib/mcpstack/../x", "target": "/x"}]),
            "service postgres.volumes[0].path",
            "is '/var/lib/mcpstack/../x'",
        ),
        (
            changed(volumes=[{"target": "/x"}]),
            "service postgres.volumes[0]",
            "must be either a named volume or a host path",
        ),
        (
            changed(volumes=[{"name": "a", "target": "/x"}, {"name": "b", "target": "/x"}]),
            "service postgres.volumes[1].target",
            "mounts at /x, where volumes[0].target mounts already",
        ),
        (
            changed(secrets=["a"], tmpfs=[{"target": "/run/secrets", "size": "1m"}]),
            "service postgres.secrets",
            "mounts at /run/secrets, where tmpfs[0].target mounts already",
        ),
        (
            changed(publish=[{"host_ip": "0.0.0.0", "host_port": 443, "port": 443}]),
            "service postgres.publish[0].port",
            "is 443",
        ),
        (changed(publish=[{"host_port": 443, "port": 8443}]), "service postgres.publish[0].host_ip", "is missing"),
        (
            changed(publish=[{"host_ip": "any", "host_port": 443, "port": 8443}]),
            "service postgres.publish[0].host_ip",
            "is 'any'",
        ),
        (changed(stop={"signal": "INT"}), "service postgres.stop.signal", "is 'INT'"),
        (
            changed(exceptions=[{"check": "CMP-01", "reason": "because we want it so"}]),
            "service postgres.exceptions[0].check",
            "is 'CMP-01'",
        ),
        (
            changed(exceptions=[{"check": "CMP-08", "reason": "needed"}]),
            "service postgres.exceptions[0].reason",
            "explains nothing",
        ),
        (["not", "a", "dict"], "service", "is list, not a mapping"),
    ],
)
def test_each_problem_names_its_path(spec, where, what):
    with pytest.raises(SpecError) as caught:
        normalise(spec)
    assert (where, what) in [(p["where"], p["what"]) for p in caught.value.problems]
    assert all(p["fix"] for p in caught.value.problems)


def test_all_problems_at_once():
    with pytest.raises(SpecError) as caught:
        normalise(changed(uid=0, image="x:latest", networks=[], limits__cpus=None))
    assert {p["where"].rsplit(".", 1)[-1] for p in caught.value.problems} == {"uid", "image", "networks", "cpus"}


def test_a_file_reference_is_no_credential():
    assert normalise(changed(environment={"DB_PASSWORD_FILE": "/run/secrets/x/current"}))["environment"]


def test_only_an_exception_with_a_reason_opens_the_root_file_system():
    assert (
        normalise(changed(exceptions=[{"check": "CMP-08", "reason": "writes its own state beside the binary"}]))[
            "read_only"
        ]
        is False
    )


@pytest.mark.parametrize("limits", [{"cpus": "0"}, {"cpus": "0.0"}, {"memory": "512m\n"}])
def test_a_limit_that_would_be_none_or_breaks_a_line_is_refused(limits):
    with pytest.raises(SpecError) as caught:
        normalise({**GOOD, "limits": {**GOOD["limits"], **limits}})
    assert [p["where"].rsplit(".", 1)[-1] for p in caught.value.problems] == list(limits)
