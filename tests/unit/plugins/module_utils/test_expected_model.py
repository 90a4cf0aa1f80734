# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The expected model, and every difference between it and the recorded containers (RUN-01, RUN-02)."""

from __future__ import annotations

import json

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _expected_model as core
from ansible_collections.mcpstack.platform.plugins.module_utils._runtime_drift import differences
from ansible_collections.mcpstack.platform.tests.unit.plugins.module_utils import docker_host_fixture as fixture

POSTGRES = "mcpstack-postgres-1"


@pytest.fixture
def host():
    return fixture.Host()


def drift(host, models=None):
    """(where, evidence, severity) of RUN-01."""
    result = host.audit(expected=models or fixture.expected_model())
    return [
        (item["where"], item["evidence"], item["severity"]) for item in result["findings"] if item["id"] == "RUN-01"
    ]


def test_the_deployed_project_is_as_expected(host):
    """The model of `docker compose config` of the recorded host, against its containers: nothing differs."""
    result = host.audit(expected=fixture.expected_model())
    assert result["findings"] == []
    assert {status for number, status in fixture.states(result).items() if number.startswith("RUN-")} == {"pass"}


def test_the_model_survives_json(host):
    model = fixture.expected_model()["mcpstack"]
    assert core.read_model(json.dumps(model)) == model


def test_a_model_of_one_service():
    services = {"db": {
        "image": "postgres:17", "user": "70:70", "cap_drop": ["CAP_ALL", "all"], "cap_add": ["cap_chown"],
        "security_opt": ["no-new-privileges", "seccomp=./p.json", "apparmor=unconfined"], "read_only": True,
        "volumes": [
            {"type": "volume", "source": "data", "target": "/d"},
            {"type": "volume", "target": "/anonymous"},
            {"type": "bind", "source": "/srv", "target": "/srv", "read_only": True},
            {"type": "tmpfs", "target": "/t", "tmpfs": {"size": "1048576", "mode": 448}},
        ],
        "tmpfs": ["/run:size=1m,mode=0700", "/plain"],
        "ports": [{"target": 5432, "published": "5432", "host_ip": "127.0.0.1", "protocol": "tcp"}, {"target": 80}],
        "expose": ["9000", "53/udp"],
        "environment": {"A": "1", "B": None},
        "deploy": {"resources": {"limits": {"memory": "1.5g", "cpus": "0.50", "pids": 64}}},
        "memswap_limit": "-1",
        "secrets": [{"source": "key", "target": "db_key"}, "other"],
        "configs": [{"source": "conf", "target": "/etc/db.conf"}],
        "networks": {"data": None, "outside": None},
        "devices": [{"source": "/dev/a", "target": "/dev/b", "permissions": "r"}, "/dev/null"],
        "labels": {"com.docker.compose.config-hash": "abc"},
        "pid": "host",
    }}  # fmt: skip
    model = core.model_from_services(
        services, "shop", networks={"outside": {"name": "lan", "external": True}},
        secrets={"key": {"file": "/srv/key"}, "other": {"environment": "X"}}, configs={"conf": {"file": "/srv/conf"}},
        image_ids={"db": "sha256:1"},
    )  # fmt: skip
    assert model == {"project": "shop", "services": {"db": {
        "image": "postgres:17", "image_id": "sha256:1", "user": "70:70", "privileged": False, "read_only": True,
        "cap_drop": ["ALL"], "cap_add": ["CHOWN"],
        "security_opt": ["apparmor:unconfined", "no-new-privileges:true", "seccomp:profile"],
        "pid": "host", "ipc": "", "uts": "", "userns_mode": "", "network_mode": "",
        "devices": ["/dev/a:/dev/b:r", "/dev/null:/dev/null:rwm"],
        "mounts": [
            "bind:/srv/conf:/etc/db.conf:ro", "bind:/srv/key:/run/secrets/db_key:ro", "bind:/srv:/srv:ro",
            "tmpfs:/plain:", "tmpfs:/run:mode=700,size=1048576", "tmpfs:/t:mode=700,size=1048576",
            "volume::/anonymous:rw", "volume:shop_data:/d:rw",
        ],
        "ports": ["127.0.0.1:5432:5432/tcp", "::80/tcp"],
        "expose": ["53/udp", "9000/tcp"],
        "environment_keys": ["A"], "environment_optional": ["B"],
        "limits": {"memory": 1610612736, "cpus": 0.5, "pids": 64, "memswap": -1},
        "networks": ["lan", "shop_data"], "config_hash": "abc",
    }}}  # fmt: skip
    assert core.read_model(json.dumps(model)) == model


def test_a_service_that_says_nothing():
    model = core.model_from_services({"x": {"build": "."}}, "p")["services"]["x"]
    assert "image" not in model
    assert model["networks"] == ["p_default"]
    assert model["limits"] == {"memory": 0, "cpus": 0.0, "pids": 0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ("[" * 100000, "is not JSON"),
        ("[]", 'needs "project"'),
        ('{"project": ""}', 'needs "project"'),
        ('{"project": "p"}', 'needs "services"'),
        ('{"project": "p", "services": {"a": []}}', 'needs "services"'),
        ('{"project": "p", "services": {"a": {"capadd": []}}}', "services.a: 'capadd' is none of cap_add"),
        ('{"project": "p", "services": {"a": {"cap_add": "ALL"}}}', "services.a.cap_add: is no list"),
        ('{"project": "p", "services": {"a": {"cap_add": [1]}}}', "services.a.cap_add: holds something else than text"),
        ('{"project": "p", "services": {"a": {"limits": {"ram": 1}}}}', "services.a.limits: 'ram' is no limit"),
        ('{"project": "p", "services": {"a": {"limits": {"pids": "1"}}}}', "services.a.limits.pids: is no number"),
    ],
)
def test_models_that_are_none(text, message):
    with pytest.raises(core.ModelError, match="^") as error:
        core.read_model(text)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("value", "size"),
    [("512m", 512 << 20), ("1gb", 1 << 30), ("268435456", 268435456), (5, 5), ("1.5kib", 1536), (None, 0), ("x", 0),
     (True, 0), ("-1", 0)],
)  # fmt: skip
def test_sizes(value, size):
    assert core.to_bytes(value) == size


#: (what was changed on the running container, field, evidence, severity)
CHANGES = [
    (("HostConfig", {"Privileged": True}), "privileged", "privileged: True, rendered: False", "high"),
    (("HostConfig", {"ReadonlyRootfs": False}), "read_only", "read_only: False, rendered: True", "high"),
    (("HostConfig", {"CapAdd": ["CAP_SYS_ADMIN"]}), "cap_add", "cap_add: not rendered: SYS_ADMIN", "high"),
    (("HostConfig", {"CapDrop": None}), "cap_drop", "cap_drop: missing: ALL", "high"),
    (
        ("HostConfig", {"SecurityOpt": ["seccomp=unconfined"]}),
        "security_opt",
        "security_opt: not rendered: seccomp:unconfined; missing: no-new-privileges:true",
        "high",
    ),
    (
        ("HostConfig", {"MaskedPaths": []}),
        "security_opt",
        "security_opt: not rendered: systempaths:unconfined",
        "high",
    ),
    (("Config", {"User": "0"}), "user", "user: 0, rendered: 64104:64104", "high"),
    (("HostConfig", {"PidMode": "host"}), "pid", "pid: host, rendered: not set", "high"),
    (("HostConfig", {"IpcMode": "host"}), "ipc", "ipc: host, rendered: private", "high"),
    (("HostConfig", {"UTSMode": "host"}), "uts", "uts: host, rendered: not set", "high"),
    (("HostConfig", {"UsernsMode": "host"}), "userns_mode", "userns_mode: host, rendered: not set", "high"),
    (("HostConfig", {"NetworkMode": "host"}), "network_mode", "network_mode: host, rendered: not set", "high"),
    (
        ("HostConfig", {"NetworkMode": "container:" + "a" * 64}),
        "network_mode",
        "network_mode: container:" + "a" * 64 + ", rendered: not set",
        "high",
    ),
    (
        ("HostConfig", {"Devices": [{"PathOnHost": "/dev/sda", "PathInContainer": "", "CgroupPermissions": "r"}]}),
        "devices",
        "devices: not rendered: /dev/sda:/dev/sda:r",
        "high",
    ),
    (
        ("HostConfig", {"PortBindings": {"5432/tcp": [{"HostIp": "", "HostPort": "5432"}]}}),
        "ports",
        "ports: not rendered: :5432:5432/tcp",
        "high",
    ),
    (("HostConfig", {"Memory": 0}), "limits", "limits: memory 0, rendered: 536870912", "medium"),
    (("HostConfig", {"NanoCpus": 0}), "limits", "limits: cpus 0, rendered: 1", "medium"),
    (("HostConfig", {"PidsLimit": -1}), "limits", "limits: pids 0, rendered: 114", "medium"),
    (("HostConfig", {"MemorySwap": -1}), "limits", "limits: memswap -1, rendered: 536870912", "medium"),
    (
        ("HostConfig", {"Tmpfs": {"/run/postgresql": "mode=0700,noexec,nosuid,nodev,size=1m,uid=64104,gid=64104"}}),
        "mounts",
        "mounts: missing: tmpfs:/tmp:gid=64104,mode=700,nodev,noexec,nosuid,size=67108864,uid=64104",
        "high",
    ),
    (("Config", {"Image": "mcpstack/postgres:other"}), "image",
     "image: mcpstack/postgres:other, rendered: mcpstack/postgres:aa8439ba2b2c", "medium"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "field", "evidence", "severity"), CHANGES, ids=[f"{row[1]}-{index}" for index, row in enumerate(CHANGES)]
)
def test_each_field_that_differs(host, change, field, evidence, severity):
    part, fields = change
    host.container("postgres")[part].update(fields)
    assert drift(host) == [(f"container {POSTGRES}: {field}", evidence, severity)]


class TestMounts:
    def test_a_mount_too_much_and_one_writable(self, host):
        container = host.container("postgres")
        next(item for item in container["Mounts"] if item["Destination"] == "/run/tls")["RW"] = True
        container["Mounts"].append({"Type": "bind", "Source": "/etc", "Destination": "/e", "RW": False})
        source = "/var/lib/mcpstack/pki/leaves/postgres"
        assert drift(host) == [(
            f"container {POSTGRES}: mounts",
            f"mounts: not rendered: bind:/etc:/e:ro, bind:{source}:/run/tls:rw; missing: bind:{source}:/run/tls:ro",
            "high",
        )]  # fmt: skip

    def test_a_volume_that_the_image_declares(self, host):
        container = host.container("postgres")
        container["Config"]["Volumes"] = {"/cache": {}}
        container["Mounts"].append({"Type": "volume", "Name": "a" * 64, "Destination": "/cache", "RW": True})
        assert drift(host) == []

    def test_an_anonymous_volume_that_nobody_declared(self, host):
        container = host.container("postgres")
        container["Mounts"].append({"Type": "volume", "Name": "a" * 64, "Destination": "/cache", "RW": True})
        assert drift(host)[0][1] == "mounts: not rendered: volume::/cache:rw"


class TestEnvironment:
    def test_a_variable_too_much_by_name_only(self, host):
        host.container("gateway")["Config"]["Env"].append("LD_PRELOAD=/tmp/secret-value.so")
        [(where, evidence, severity)] = drift(host)
        assert where == "container mcpstack-gateway-1: environment_keys"
        assert (evidence, severity) == ("environment: not rendered: LD_PRELOAD", "medium")

    def test_a_missing_one(self, host):
        entries = host.container("gateway")["Config"]["Env"]
        entries.remove("GATEWAY_LOG_LEVEL=info")
        assert drift(host)[0][1] == "environment: missing: GATEWAY_LOG_LEVEL"

    def test_what_the_image_and_the_engine_set(self, host):
        assert "PYTHONPATH=/app/site" in host.container("gateway")["Config"]["Env"]
        host.container("gateway")["Config"]["Env"].append("PATH=/usr/bin")
        assert drift(host) == []

    def test_a_variable_without_a_value_may_be_missing_or_set(self, host):
        models = fixture.expected_model()
        models["mcpstack"]["services"]["gateway"]["environment_optional"] = ["HTTP_PROXY"]
        assert drift(host, models) == []
        host.container("gateway")["Config"]["Env"].append("HTTP_PROXY=http://x")
        assert drift(host, models) == []

    def test_without_the_image_the_rest_is_unknown(self, host):
        number = host.container("gateway")["Image"]
        host.refused[f"/images/{number}/json"] = 500
        result = host.audit(expected=fixture.expected_model())
        assert fixture.states(result)["RUN-01"] == "unknown"


class TestProject:
    def test_config_hash(self, host):
        host.container("edge")["Config"]["Labels"]["com.docker.compose.config-hash"] = "0" * 64
        [(where, evidence, severity)] = drift(host)
        assert where == "container mcpstack-edge-1: config_hash"
        assert evidence.startswith(f"config_hash: {'0' * 64}, rendered: 78970c92")
        assert severity == "medium"

    def test_networks(self, host):
        host.container("edge")["NetworkSettings"]["Networks"]["mcpstack_data"] = {}
        assert drift(host)[0][1] == "networks: not rendered: mcpstack_data"

    def test_a_service_without_a_container(self, host):
        models = fixture.expected_model()
        models["mcpstack"]["services"]["worker"] = {"image": "x"}
        assert drift(host, models) == [
            ("project mcpstack: service worker", "there is no container of this service", "medium")
        ]

    def test_what_is_started_on_demand_need_not_be_there(self, host):
        models = fixture.expected_model()
        models["mcpstack"]["services"]["admin"] = {"image": "x", "on_demand": True}
        assert drift(host, models) == []

    def test_what_is_started_on_demand_is_compared_while_it_runs(self, host):
        models = fixture.expected_model()
        labels = host.container("gateway")["Config"]["Labels"]
        labels["com.docker.compose.oneoff"] = "True"
        models["mcpstack"]["services"]["gateway"]["on_demand"] = True
        assert drift(host, models) == []
        host.container("gateway")["HostConfig"]["CapAdd"] = ["SYS_ADMIN"]
        ((where, evidence, severity),) = drift(host, models)
        assert where.endswith(": cap_add") and "SYS_ADMIN" in evidence and severity == "high"

    def test_a_profile_makes_a_service_one_that_is_started_on_demand(self):
        services = {"a": {"image": "x", "profiles": ["a"]}, "b": {"image": "x", "profiles": []}}
        model = core.model_from_services(services, "p")["services"]
        assert [model[name].get("on_demand") for name in ("a", "b")] == [True, None]
        assert core.read_model(json.dumps({"project": "p", "services": model}))["services"] == model

    def test_a_job_that_ended_is_there(self, host):
        models = fixture.expected_model()
        models["mcpstack"]["services"]["init"] = {"image": "x"}
        row = {**host.summary("valkey"), "Id": "d" * 64, "Names": ["/init"], "State": "exited", "Mounts": []}
        row["Labels"] = {**row["Labels"], "com.docker.compose.service": "init"}
        host.data["listing"].append(row)
        host.refused[f"/containers/{'d' * 64}/json"] = 404
        assert drift(host, models) == []

    def test_a_project_without_a_model_is_unknown(self, host):
        for service in ("edge", "valkey"):
            host.container(service)["Config"]["Labels"]["com.docker.compose.project"] = "other"
        result = host.audit(expected={"third": {"project": "third", "services": {}}})
        assert fixture.reason(result, "RUN-01") == "no expected model of mcpstack, other"

    def test_what_the_model_does_not_say_is_not_compared(self, host):
        models = {"mcpstack": {"project": "mcpstack", "services": {
            name: {} for name in ("edge", "gateway", "model-runner", "postgres", "valkey")
        }}}  # fmt: skip
        host.container("edge")["HostConfig"]["Memory"] = 1
        assert drift(host, models) == []

    def test_the_user_of_the_image(self, host):
        container = host.container("edge")
        image = host.data["image_details"][container["Image"]]
        assert differences({"user": ""}, container, image) == []
        container["Config"]["User"] = "0"
        assert differences({"user": ""}, container, image) == [("user", "user: 0, that of the image is 64101:64101")]
        assert differences({"user": ""}, container, None) == []

    def test_a_service_of_another_is_a_container_of_the_engine(self, host):
        container = host.container("edge")
        container["HostConfig"]["NetworkMode"] = "container:abc"
        assert differences({"network_mode": "service:vpn"}, container, None) == []
        container["HostConfig"]["NetworkMode"] = "host"
        assert differences({"network_mode": "service:vpn"}, container, None) != []
