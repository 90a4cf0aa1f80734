# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Running containers: the recorded hardened host is clean, and each control that is weakened shows as its own check."""

from __future__ import annotations

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _container_inspect as inspect
from ansible_collections.mcpstack.platform.plugins.module_utils._container_model import DeclaredPort, Policy, Port
from ansible_collections.mcpstack.platform.tests.unit.plugins.module_utils import docker_host_fixture as fixture

SUBJECT = "mcpstack-postgres-1"


@pytest.fixture
def host():
    return fixture.Host()


def setting(part, **changes):
    """A mutation that writes fields of HostConfig or Config."""

    def apply(container):
        container[part].update(changes)

    return apply


def configure(**changes):
    return setting("HostConfig", **changes)


def mount(**changes):
    """A mutation that adds a mount, as inspect shows it."""
    entry = {"Type": "bind", "Source": "/srv/x", "Destination": "/x", "Mode": "", "RW": True, "Propagation": "rprivate"}

    def apply(container):
        container["Mounts"].append({**entry, **changes})

    return apply


def published(*bindings, target="5432/tcp"):
    """A mutation that publishes a port; bindings are (address, port)."""

    def apply(container):
        entries = [{"HostIp": address, "HostPort": port} for address, port in bindings]
        container["HostConfig"]["PortBindings"] = {target: entries}
        container["NetworkSettings"]["Ports"] = {target: entries}

    return apply


def on_network(name, number):
    def apply(container):
        container["NetworkSettings"]["Networks"][name] = {"NetworkID": number}

    return apply


BRIDGE = next(item["Id"] for item in fixture.RECORD["networks"] if item["Name"] == "bridge")
TMPFS = {"/tmp": "rw,noexec,nosuid,nodev,size=64m"}
MASKED = fixture.RECORD["containers"][0]["HostConfig"]["MaskedPaths"]
SAFE = "no-new-privileges:true"

#: (what is weakened, mutation, the checks that must appear and no others)
MUTATIONS = [
    ("privileged", configure(Privileged=True, MaskedPaths=None, ReadonlyPaths=None), "CMP-01"),
    ("cap_drop null", configure(CapDrop=None), "CMP-02"),
    ("cap_drop empty", configure(CapDrop=[]), "CMP-02"),
    ("cap_drop some", configure(CapDrop=["NET_RAW"]), "CMP-02"),
    ("cap_drop CAP_ALL is no name", configure(CapDrop=["CAP_ALL"]), "CMP-02"),
    ("cap_add SYS_ADMIN", configure(CapAdd=["SYS_ADMIN"]), "CMP-03"),
    ("cap_add with prefix", configure(CapAdd=["CAP_SYS_ADMIN"]), "CMP-03"),
    ("cap_add lower case", configure(CapAdd=["sys_module"]), "CMP-03"),
    ("cap_add ALL", configure(CapAdd=["ALL"]), "CMP-03"),
    ("cap_add NET_RAW", configure(CapAdd=["CAP_NET_RAW"]), "CMP-03"),
    ("cap_add without effect", configure(CapAdd=["CAP_NET_BIND_SERVICE"]), "CMP-04"),
    ("no security options", configure(SecurityOpt=None), "CMP-05"),
    ("no-new-privileges:false", configure(SecurityOpt=["no-new-privileges:false"]), "CMP-05"),
    ("no-new-privileges=false", configure(SecurityOpt=["no-new-privileges=false"]), "CMP-05"),
    ("the last one counts", configure(SecurityOpt=[SAFE, "no-new-privileges=0"]), "CMP-05"),
    ("user empty", setting("Config", User=""), "CMP-06"),
    ("user 0", setting("Config", User="0"), "CMP-06"),
    ("user 0:0", setting("Config", User="0:0"), "CMP-06"),
    ("user 00", setting("Config", User="00"), "CMP-06"),
    ("user root", setting("Config", User="root"), "CMP-06"),
    ("user root with a group", setting("Config", User="root:64104"), "CMP-06"),
    ("group root", setting("Config", User="64104:0"), "CMP-06"),
    ("writable root", configure(ReadonlyRootfs=False), "CMP-08"),
    ("tmpfs exec", configure(Tmpfs={"/tmp": TMPFS["/tmp"].replace("noexec", "exec")}), "CMP-09"),
    ("tmpfs suid", configure(Tmpfs={"/tmp": TMPFS["/tmp"] + ",suid"}), "CMP-09"),
    ("tmpfs dev", configure(Tmpfs={"/tmp": TMPFS["/tmp"] + ",dev"}), "CMP-09"),
    ("tmpfs without size", configure(Tmpfs={"/tmp": "noexec,nosuid,nodev"}), "CMP-09"),
    (
        "tmpfs as a mount without size",
        configure(Mounts=[{"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"Mode": 448}}]),
        "CMP-09",
    ),
    ("memory 0", configure(Memory=0, MemorySwap=0), "CMP-10"),
    ("swap unlimited", configure(MemorySwap=-1), "CMP-10"),
    ("swap as much again", configure(MemorySwap=2 << 30), "CMP-10"),
    ("cpu", configure(NanoCpus=0), "CMP-11"),
    ("cpu shares only", configure(NanoCpus=0, CpuShares=512), "CMP-11"),
    ("pids null", configure(PidsLimit=None), "CMP-12"),
    ("pids 0", configure(PidsLimit=0), "CMP-12"),
    ("pids -1", configure(PidsLimit=-1), "CMP-12"),
    ("core dumps", configure(Ulimits=[{"Name": "core", "Soft": -1, "Hard": -1}]), "CMP-13"),
    ("nofile", configure(Ulimits=[{"Name": "nofile", "Soft": -1, "Hard": -1}]), "CMP-13"),
    ("oom kill", configure(OomKillDisable=True), "CMP-13"),
    ("oom score", configure(OomScoreAdj=-500), "CMP-13"),
    ("restart always", configure(RestartPolicy={"Name": "always", "MaximumRetryCount": 0}), "CMP-14"),
    ("restart no", configure(RestartPolicy={"Name": "no", "MaximumRetryCount": 0}), "CMP-14"),
    ("no health check", setting("Config", Healthcheck=None), "CMP-15"),
    ("health check empty", setting("Config", Healthcheck={}), "CMP-15"),
    ("health check NONE", setting("Config", Healthcheck={"Test": ["NONE"]}), "CMP-15"),
    ("health check true", setting("Config", Healthcheck={"Test": ["CMD-SHELL", "exit 0"]}), "CMP-16"),
    ("network host", configure(NetworkMode="host"), "CMP-17"),
    ("pid host", configure(PidMode="host"), "CMP-18"),
    ("ipc host", configure(IpcMode="host"), "CMP-18"),
    ("uts host", configure(UTSMode="host"), "CMP-18"),
    ("network of a container", configure(NetworkMode="container:" + "a" * 64), "CMP-20"),
    ("pid of a container", configure(PidMode="container:" + "a" * 64), "CMP-20"),
    ("ipc of a container", configure(IpcMode="container:" + "a" * 64), "CMP-20"),
    ("ipc shareable", configure(IpcMode="shareable"), "CMP-20"),
    ("socket", mount(Source="/var/run/docker.sock", Destination="/var/run/docker.sock"), "CMP-21"),
    ("socket read-only", mount(Source="/run/docker.sock", Destination="/s", RW=False), "CMP-21"),
    ("parent of the socket", mount(Source="/run", Destination="/host/run", RW=False), "CMP-21"),
    ("root", mount(Source="/", Destination="/host", RW=False), "CMP-21"),
    ("etc", mount(Source="/etc", Destination="/host/etc", RW=False), "CMP-22"),
    ("etc writable", mount(Source="/etc/cron.d", Destination="/host/cron"), "CMP-22"),
    ("propagation", mount(Propagation="rshared", RW=False), "CMP-23"),
    ("propagation slave", mount(Propagation="slave", RW=False), "CMP-23"),
    (
        "disk",
        configure(Devices=[{"PathOnHost": "/dev/sda", "PathInContainer": "/dev/sda", "CgroupPermissions": "rwm"}]),
        "CMP-24",
    ),
    ("device rule", configure(DeviceCgroupRules=["c *:* rwm"]), "CMP-24"),
    (
        "all GPUs",
        configure(DeviceRequests=[{"Driver": "nvidia", "Count": -1, "DeviceIDs": None, "Capabilities": [["gpu"]]}]),
        "CMP-24",
    ),
    ("seccomp:", configure(SecurityOpt=[SAFE, "seccomp:unconfined"]), "CMP-25"),
    ("seccomp=", configure(SecurityOpt=[SAFE, "seccomp=unconfined"]), "CMP-25"),
    ("apparmor", configure(SecurityOpt=[SAFE, "apparmor=unconfined"]), "CMP-26"),
    ("label", configure(SecurityOpt=[SAFE, "label=disable"]), "CMP-26"),
    ("systempaths, as the client sends it", configure(MaskedPaths=[], ReadonlyPaths=[]), "CMP-26"),
    ("nothing masked", configure(MaskedPaths=[]), "CMP-26"),
    ("kcore visible", configure(MaskedPaths=[path for path in MASKED if path != "/proc/kcore"]), "CMP-26"),
    ("sysctls writable", configure(ReadonlyPaths=["/proc/bus"]), "CMP-26"),
    ("configuration writable", mount(Source="/srv/app/app.conf", Destination="/etc/app/app.conf"), "CMP-27"),
    (
        "volume of another service",
        mount(Type="volume", Name="mcpstack_valkey-data", Source="/v", Destination="/x", Propagation=""),
        "CMP-27",
    ),
    ("no log", configure(LogConfig={"Type": "none", "Config": {}}), "CMP-28"),
    ("log without rotation", configure(LogConfig={"Type": "json-file", "Config": {}}), "CMP-28"),
    ("log with max-file only", configure(LogConfig={"Type": "json-file", "Config": {"max-file": "3"}}), "CMP-28"),
    ("published", published(("0.0.0.0", "5432")), "NET-03"),
    ("published on both families", published(("", "5432")), "NET-03"),
    ("published low on loopback", published(("127.0.0.1", "543")), "NET-02"),
    ("default bridge", on_network("bridge", BRIDGE), "NET-04"),
]


@pytest.mark.parametrize("on_disk", [False, True])
def test_the_recorded_host_is_clean(host, tmp_path, on_disk):
    result = host.audit(tmp_path if on_disk else None)
    assert result["findings"] == []
    undecided = {number: status for number, status in fixture.states(result).items() if status != "pass"}
    assert undecided == {"RUN-01": "unknown"}


@pytest.mark.parametrize(("mutation", "check"), [row[1:] for row in MUTATIONS], ids=[row[0] for row in MUTATIONS])
def test_one_control_weakened(host, mutation, check):
    # the engine would otherwise make up for a missing no-new-privileges
    host.data["info"]["SecurityOptions"] = ["name=seccomp,profile=builtin"]
    mutation(host.container("postgres"))
    host.kernel_follows("postgres")
    result = host.audit()
    assert fixture.found(result) == {(check, SUBJECT)}
    assert len(result["findings"]) == 1
    assert result["findings"][0]["where"].startswith(f"container {SUBJECT}: ")


ONE_BY_ONE = (
    "AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP SETGID SETPCAP SETUID"
    " SYS_CHROOT"
)
NEAR_MISSES = [
    ("capabilities dropped one by one", configure(CapDrop=ONE_BY_ONE.split())),
    ("cap_drop lower case", configure(CapDrop=["all"])),
    ("no-new-privileges alone", configure(SecurityOpt=["no-new-privileges"])),
    ("no-new-privileges=true", configure(SecurityOpt=["no-new-privileges=true"])),
    ("seccomp profile", configure(SecurityOpt=[SAFE, 'seccomp={"defaultAction":"SCMP_ACT_ERRNO"}'])),
    ("user without group", setting("Config", User="64104")),
    ("quota instead of NanoCpus", configure(NanoCpus=0, CpuQuota=50000, CpuPeriod=100000)),
    ("on-failure", configure(RestartPolicy={"Name": "on-failure", "MaximumRetryCount": 5})),
    ("local log driver", configure(LogConfig={"Type": "local", "Config": {}})),
    ("published on loopback", published(("127.0.0.1", "5432"))),
    ("published on IPv6 loopback", published(("::1", "15432"))),
    ("masked paths not stated", configure(MaskedPaths=None, ReadonlyPaths=None)),
    ("userns host without remapping", configure(UsernsMode="host")),
    ("null device", configure(Devices=[
        {"PathOnHost": "/dev/null", "PathInContainer": "/dev/null", "CgroupPermissions": "rwm"}
    ])),
    ("project directory read-only", mount(Source="/etc/mcpstack/extra", Destination="/etc/extra", RW=False)),
    ("own volume twice", mount(Type="volume", Name="mcpstack_postgres-data", Source="/v", Destination="/again")),
    ("a mount that is a tmpfs", mount(Type="tmpfs", Source="", Destination="/t", Propagation="")),
]  # fmt: skip


@pytest.mark.parametrize("mutation", [row[1] for row in NEAR_MISSES], ids=[row[0] for row in NEAR_MISSES])
def test_near_misses_stay_silent(host, mutation):
    host.data["info"]["SecurityOptions"] = ["name=seccomp,profile=builtin"]
    mutation(host.container("postgres"))
    host.kernel_follows("postgres")
    assert host.audit()["findings"] == []


class TestKernelDecides:
    def test_root_then_drop_passes_by_its_processes(self, host):
        """The official postgres image: no user is configured, and the first process is postgres by now."""
        host.container("postgres")["Config"]["User"] = ""
        assert fixture.found(host.audit()) == set()

    def test_a_root_master_with_other_workers_fails(self, host):
        """The official nginx image: the master stays root."""
        host.container("edge")["Config"]["User"] = ""
        host.status(host.container("edge")["State"]["Pid"], Uid="0\t0\t0\t0")
        assert fixture.found(host.audit()) == {("CMP-06", "mcpstack-edge-1")}

    def test_a_root_worker_counts_too(self, host):
        host.container("edge")["Config"]["User"] = ""
        worker = max(host.processes("edge"), key=int)
        host.status(worker, Uid="101\t0\t0\t0")
        assert fixture.found(host.audit()) == {("CMP-06", "mcpstack-edge-1")}

    def test_a_user_by_name_is_resolved(self, host):
        host.container("gateway")["Config"]["User"] = "gateway"
        assert fixture.found(host.audit()) == set()

    def test_a_number_without_group_has_the_group_of_the_kernel(self, host):
        host.container("gateway")["Config"]["User"] = "64102"
        host.status(host.container("gateway")["State"]["Pid"], Gid="0\t0\t0\t0")
        result = host.audit()
        assert fixture.found(result) == {("CMP-06", "mcpstack-gateway-1")}
        assert result["findings"][0]["severity"] == "low"
        assert result["findings"][0]["evidence"] == "user is 64102:0: in the group of root"

    def test_root_of_a_user_namespace_is_root_of_the_container(self, host):
        host.container("gateway")["Config"]["User"] = ""
        pid = host.container("gateway")["State"]["Pid"]
        host.status(pid, Uid="100000\t100000\t100000\t100000")
        host.data["proc"][str(pid)]["uid_map"] = "         0     100000      65536\n"
        assert fixture.found(host.audit()) == {("CMP-06", "mcpstack-gateway-1")}

    def test_without_proc_the_configuration_decides(self, host):
        host.data["proc"] = {}
        host.container("gateway")["Config"]["User"] = ""
        result = host.audit()
        assert fixture.found(result) == {("CMP-06", "mcpstack-gateway-1")}
        assert {fixture.states(result)[number] for number in ("RUN-03", "RUN-04", "RUN-05")} == {"unknown"}
        assert fixture.reason(result, "RUN-03") == "/proc cannot be listed"

    def test_the_engines_default_of_no_new_privileges_counts(self, host):
        assert "name=no-new-privileges" in host.data["info"]["SecurityOptions"]
        host.container("postgres")["HostConfig"]["SecurityOpt"] = None
        assert fixture.found(host.audit()) == set()

    def test_an_old_engine_shows_its_default_in_the_first_process_only(self, host):
        host.data["info"]["SecurityOptions"] = ["name=seccomp,profile=default"]
        host.container("postgres")["HostConfig"]["SecurityOpt"] = None
        assert fixture.found(host.audit()) == set()

    def test_an_explicit_false_beats_both(self, host):
        host.container("postgres")["HostConfig"]["SecurityOpt"] = ["no-new-privileges:false"]
        assert fixture.found(host.audit()) == {("CMP-05", SUBJECT)}

    def test_data_of_the_image_belongs_to_another(self, host):
        container = host.container("postgres")
        container["Config"].update(Image="postgres:17-alpine", User="postgres")
        result = host.audit()
        assert fixture.found(result) == {("CMP-07", SUBJECT)}
        assert result["findings"][0]["evidence"] == (
            "its processes run as 64104, the data of postgres:17-alpine belongs to 70"
        )


class TestEngineSays:
    def test_apparmor_of_the_kernel_is_not_used(self, host):
        host.data["info"]["SecurityOptions"].append("name=apparmor")
        for container in host.data["containers"]:
            container["AppArmorProfile"] = "docker-default"
        host.container("valkey")["AppArmorProfile"] = "unconfined"
        assert fixture.found(host.audit()) == {("CMP-26", "mcpstack-valkey-1")}

    def test_apparmor_is_reported_once(self, host):
        host.data["info"]["SecurityOptions"].append("name=apparmor")
        for container in host.data["containers"]:
            container["AppArmorProfile"] = "docker-default"
        host.container("valkey")["AppArmorProfile"] = "unconfined"
        host.container("valkey")["HostConfig"]["SecurityOpt"].append("apparmor=unconfined")
        result = host.audit()
        assert [item["id"] for item in result["findings"]] == ["CMP-26"]

    def test_cgroup_host_counts_only_where_private_is_the_default(self, host):
        assert host.container("edge")["HostConfig"]["CgroupnsMode"] == "host"  # the recorded host has version 1
        host.data["info"]["SecurityOptions"].append("name=cgroupns")
        for container in host.data["containers"]:
            container["HostConfig"]["CgroupnsMode"] = "private"
        host.container("edge")["HostConfig"]["CgroupnsMode"] = "host"
        assert fixture.found(host.audit()) == {("CMP-18", "mcpstack-edge-1")}

    def test_userns_host_counts_with_remapping(self, host):
        host.data["info"]["SecurityOptions"].append("name=userns")
        host.container("edge")["HostConfig"]["UsernsMode"] = "host"
        assert fixture.found(host.audit()) == {("CMP-19", "mcpstack-edge-1")}

    def test_bind_hidden_in_a_volume(self, host):
        volume = next(item for item in host.data["volumes"]["Volumes"] if item["Name"] == "mcpstack_valkey-data")
        volume["Options"] = {"type": "none", "o": "bind", "device": "/etc"}
        assert fixture.found(host.audit()) == {("CMP-22", "mcpstack-valkey-1")}

    def test_what_the_engine_refused_is_unknown_and_never_a_pass(self, host):
        host.refused = {"/networks": 500, "/volumes": 500, "/info": 500}
        states = fixture.states(host.audit())
        for number in ("NET-04", "NET-05", "NET-07", "CMP-05", "CMP-21", "CMP-22", "CMP-26", "RUN-07", "RUN-08"):
            assert states[number] == "unknown", number

    def test_a_container_that_went_away_is_nobodys_fault(self, host):
        number = host.container("valkey")["Id"]
        host.refused = {f"/containers/{number}/json": 404}
        result = host.audit()
        assert result["findings"] == []
        assert fixture.states(result)["CMP-01"] == "pass"

    def test_a_container_that_cannot_be_inspected_leaves_every_check_unknown(self, host):
        number = host.container("valkey")["Id"]
        host.refused = {f"/containers/{number}/json": 500}
        states = fixture.states(host.audit())
        assert states["CMP-01"] == states["RUN-03"] == "unknown"

    def test_nothing_runs(self, host):
        host.data.update(containers=[], listing=[], networks=[], volumes={"Volumes": None})
        states = fixture.states(host.audit())
        assert states["CMP-01"] == states["NET-01"] == states["RUN-03"] == "not_applicable"
        assert states["RUN-01"] == "unknown"

    def test_one_inspect_for_each_container(self, host):
        engine = fixture.FakeEngine(host)
        fixture.collect(engine)
        assert len(engine.asked) == len(set(engine.asked)) == 5 + 5


class TestNetworks:
    def test_the_edge_without_a_declaration_is_open(self, host):
        result = host.audit(policy=Policy())
        assert {(item["id"], item["evidence"]) for item in result["findings"]} == {
            ("NET-01", "0.0.0.0:80:8080/tcp"), ("NET-01", "0.0.0.0:443:8443/tcp"),
        }  # fmt: skip

    def test_declared_ports_alone_are_enough(self, host):
        policy = Policy(declared_ports=(DeclaredPort(80), DeclaredPort(443)))
        assert host.audit(policy=policy)["findings"] == []

    def test_a_network_that_should_be_internal(self, host):
        next(item for item in host.data["networks"] if item["Name"] == "mcpstack_data")["Internal"] = False
        policy = Policy(edge_services=frozenset({"edge"}), internal_networks=frozenset({"data"}))
        result = host.audit(policy=policy)
        assert fixture.found(result) == {("NET-05", "network data")}
        assert result["findings"][0]["where"] == "network mcpstack_data"

    def test_a_container_that_is_not_meant_to_be_there(self, host):
        members = {"data": frozenset({"gateway", "postgres"})}
        policy = Policy(edge_services=frozenset({"edge"}), network_members=members)
        assert fixture.found(host.audit(policy=policy)) == {("NET-05", "mcpstack-valkey-1")}

    def test_both_families_of_a_port_are_one(self):
        container = {"NetworkSettings": {"Ports": {"80/tcp": [
            {"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"},
        ]}}}  # fmt: skip
        assert inspect.ports_of(container) == (Port((80, 80), (8080, 8080), None, "tcp"),)

    def test_the_engines_default_address_counts(self):
        """The daemon's option ip binds what names no address: only the running container tells."""
        container = {
            "HostConfig": {"PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}},
            "NetworkSettings": {"Ports": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]}},
        }
        assert inspect.ports_of(container) == (Port((80, 80), (8080, 8080), "127.0.0.1", "tcp"),)

    def test_only_the_projects_that_are_asked_for(self, host):
        host.container("postgres")["HostConfig"]["Privileged"] = True
        host.kernel_follows("postgres")
        assert host.audit(projects=("other",))["findings"] == []


def test_result_is_the_same_twice():
    one, two = fixture.Host(), fixture.Host()
    for host in (one, two):
        host.container("edge")["HostConfig"]["Privileged"] = True
        host.container("valkey")["Config"]["User"] = ""
    two.data["containers"].reverse()
    two.data["listing"].reverse()
    assert one.audit() == two.audit()
