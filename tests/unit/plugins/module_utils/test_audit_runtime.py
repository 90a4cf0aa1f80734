# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs against what was meant to run, on the recorded host: drift, kernel truth, listeners, state, leftovers."""

from __future__ import annotations

import datetime

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _runtime_processes as processes
from ansible_collections.mcpstack.platform.plugins.module_utils import _runtime_state as state
from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit
from ansible_collections.mcpstack.platform.plugins.module_utils._engine_snapshot import collect
from ansible_collections.mcpstack.platform.plugins.module_utils._proc_table import UidMap
from ansible_collections.mcpstack.platform.plugins.module_utils._runtime_secrets import (
    TABLE,
    judge_secrets,
    secret_variables,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._secret_arguments import secret_arguments
from ansible_collections.mcpstack.platform.tests.unit.plugins.module_utils import docker_host_fixture as fixture

POSTGRES, GATEWAY, EDGE = "mcpstack-postgres-1", "mcpstack-gateway-1", "mcpstack-edge-1"


@pytest.fixture
def host():
    return fixture.Host()


def only(result):
    """The one finding of a run."""
    assert len(result["findings"]) == 1, result["findings"]
    return result["findings"][0]


class TestKernelTruth:
    @pytest.mark.parametrize(
        ("fields", "evidence"),
        [
            ({"NoNewPrivs": 0}, "NoNewPrivs 0"),
            ({"Seccomp": 0}, "Seccomp 0"),
            ({"Seccomp": 1}, "Seccomp 1"),
            ({"CapEff": "0000000000200000"}, "CapEff 0000000000200000: SYS_ADMIN"),
            ({"CapPrm": "0000000000000001"}, "CapPrm 0000000000000001: CHOWN"),
            (
                {"CapBnd": "00000000a80425fb"},
                "CapBnd 00000000a80425fb: CHOWN, DAC_OVERRIDE, FOWNER, FSETID and 10 more",
            ),
            ({"CapAmb": "0000000000000400"}, "CapAmb 0000000000000400: NET_BIND_SERVICE"),
            ({"CapInh": "0000000000002000"}, "CapInh 0000000000002000: NET_RAW"),
            ({"CapEff": "8000000000000000"}, "CapEff 8000000000000000: CAP_63"),
            ({"Uid": "0\t0\t0\t0"}, "Uid 0 0 0 0"),
            ({"Uid": "64104\t0\t64104\t64104"}, "Uid 64104 0 64104 64104"),
            ({"Uid": "64104\t64104\t0\t64104"}, "Uid 64104 64104 0 64104"),
        ],
    )
    def test_one_promise_broken(self, host, fields, evidence):
        host.status(host.container("postgres")["State"]["Pid"], **fields)
        finding = only(host.audit())
        assert (finding["id"], finding["subject"]) == ("RUN-03", POSTGRES)
        assert finding["where"] == f"container {POSTGRES}: process postgres"
        assert finding["evidence"] == evidence

    def test_every_process_counts_and_equal_ones_once(self, host):
        for pid in host.processes("postgres"):
            host.status(pid, NoNewPrivs=0)
        assert only(host.audit())["evidence"] == "NoNewPrivs 0"

    def test_found_by_its_pid_namespace_in_another_control_group(self, host):
        host.add_process("gateway", 5000, ["/usr/bin/nc"], NoNewPrivs=0)
        host.data["proc"]["5000"]["cgroup"] = "0::/user.slice\n"
        assert only(host.audit())["where"] == f"container {GATEWAY}: process nc"

    @pytest.mark.parametrize(
        "cgroup",
        [
            "0::/system.slice/docker-{id}.scope\n",
            "12:pids:/docker/{id}\n0::/docker/{id}\n",
            "0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{id}.scope/container\n",
            "0::/docker/{id}/docker/" + "b" * 64 + "\n",
        ],
    )
    def test_found_by_its_control_group_in_a_namespace_of_its_own(self, host, cgroup):
        host.add_process("gateway", 5000, ["/usr/bin/nc"], NoNewPrivs=0)
        host.data["proc"]["5000"].update({
            "cgroup": cgroup.format(id=host.container("gateway")["Id"]), "ns/pid": "pid:[4026539999]",
        })  # fmt: skip
        assert only(host.audit())["subject"] == GATEWAY

    def test_a_container_in_the_hosts_pid_namespace(self, host):
        host.container("gateway")["HostConfig"]["PidMode"] = "host"
        for pid in host.processes("gateway"):
            host.data["proc"][pid]["ns/pid"] = host.data["proc"]["1"]["ns/pid"]
            host.status(pid, Seccomp=0)
        assert fixture.found(host.audit()) == {("CMP-18", GATEWAY), ("RUN-03", GATEWAY)}

    def test_a_shared_pid_namespace_is_told_apart_by_control_group(self, host):
        space = host.data["proc"][str(host.container("postgres")["State"]["Pid"])]["ns/pid"]
        for pid in host.processes("gateway"):
            host.data["proc"][pid]["ns/pid"] = space
            host.status(pid, Seccomp=0)
        assert only(host.audit())["subject"] == GATEWAY

    def test_processes_of_the_host_are_nobodys(self, host):
        host.data["proc"]["77"] = {**host.data["proc"]["1"], "cmdline": ["/usr/sbin/sshd", "-D"]}
        assert host.audit()["findings"] == []

    def test_a_zombie_does_nothing(self, host):
        host.add_process("gateway", 5000, ["/usr/bin/nc"], State="Z (zombie)", NoNewPrivs=0)
        assert host.audit()["findings"] == []

    def test_what_the_runtime_is_still_setting_up_is_not_reported(self, host):
        """runc's last step before the program runs: every privilege, for a few milliseconds, at each health check."""
        host.add_process(
            "gateway", 5000, ["runc", "init"], Name="runc:[2:INIT]", NoNewPrivs=0, Seccomp=0, Uid="0\t0\t0\t0",
            CapEff="000001ffffffffff",
        )  # fmt: skip
        looks = []

        def pause():
            looks.append(1)
            host.status(5000, NoNewPrivs=1, Seccomp=2, Uid="64102\t64102\t64102\t64102", CapEff="0" * 16)

        assert host.audit(pause=pause)["findings"] == []
        assert looks == [1]

    def test_what_ended_meanwhile_is_not_reported(self, host):
        host.add_process("gateway", 5000, ["runc", "init"], NoNewPrivs=0)
        assert host.audit(pause=lambda: host.data["proc"].pop("5000", None))["findings"] == []

    def test_a_name_alone_hides_nothing(self, host):
        host.add_process("gateway", 5000, ["x"], Name="runc:[2:INIT]", Uid="0\t0\t0\t0")
        assert only(host.audit())["where"] == f"container {GATEWAY}: process runc:[2:INIT]"

    def test_a_number_that_was_given_to_another_process(self, host):
        host.add_process("gateway", 5000, ["/usr/bin/nc"], NoNewPrivs=0)
        assert host.audit(pause=lambda: host.status(5000, NSpid="5000\t123"))["findings"] == []

    def test_weak_configuration_is_not_reported_twice(self, host):
        """A default container: its own checks speak, the kernel does what it was told."""
        container = host.container("gateway")
        container["HostConfig"].update(CapDrop=None, SecurityOpt=None)
        container["Config"]["User"] = ""
        host.data["info"]["SecurityOptions"] = ["name=seccomp,profile=builtin"]
        host.kernel_follows("gateway")
        assert fixture.found(host.audit()) == {("CMP-02", GATEWAY), ("CMP-05", GATEWAY), ("CMP-06", GATEWAY)}

    def test_an_engine_without_seccomp_promises_none(self, host):
        host.data["info"]["SecurityOptions"] = ["name=no-new-privileges"]
        for service in ("edge", "gateway", "model-runner", "postgres", "valkey"):
            for pid in host.processes(service):
                host.status(pid, Seccomp=0)
        assert host.audit()["findings"] == []

    def test_a_sandboxed_runtime_is_unknown(self, host):
        host.container("gateway")["HostConfig"]["Runtime"] = "runsc"
        result = host.audit()
        assert result["findings"] == []
        assert fixture.reason(result, "RUN-03") == f"{GATEWAY}: runtime runsc has a kernel or sandbox of its own"

    def test_no_process_found_is_unknown(self, host):
        for pid in host.processes("gateway"):
            del host.data["proc"][pid]
        result = host.audit()
        states = fixture.states(result)
        assert (states["RUN-03"], states["RUN-04"], states["RUN-05"]) == ("unknown",) * 3
        assert fixture.reason(result, "RUN-03") == f"{GATEWAY}: none of its processes was found in /proc"

    def test_a_kernel_that_tells_less_is_unknown(self, host):
        pid = host.container("gateway")["State"]["Pid"]
        rows = host.data["proc"][str(pid)]["status"].splitlines()
        host.data["proc"][str(pid)]["status"] = "\n".join(row for row in rows if "NoNewPrivs" not in row)
        assert fixture.states(host.audit())["RUN-03"] == "unknown"

    @pytest.mark.parametrize(
        ("added", "dropped", "mask"),
        [
            (None, None, 0xA80425FB),
            (None, ["ALL"], 0),
            (["CAP_NET_RAW"], ["all"], 1 << 13),
            (["sys_admin"], None, 0xA80425FB | 1 << 21),
            (["ALL"], None, -1),
            (["ALL"], ["ALL"], -1),
            (["ALL"], ["SYS_ADMIN"], ~(1 << 21)),
            (None, ["NET_RAW", "CAP_MKNOD"], 0xA80425FB & ~(1 << 13) & ~(1 << 27)),
        ],
    )
    def test_what_a_configuration_promises(self, added, dropped, mask):
        """As the engine computes it (daemon/pkg/oci/caps): adding ALL is looked at before dropping ALL."""
        assert processes.promised_capabilities({"HostConfig": {"CapAdd": added, "CapDrop": dropped}}) == mask

    def test_uids_of_a_user_namespace(self):
        mapped = UidMap(((0, 100000, 65536),))
        assert [mapped.inside(uid) for uid in (100000, 164105, 0)] == [0, 64105, 65534]
        assert mapped.remapped
        assert not UidMap(((0, 0, 4294967295),)).remapped


class TestListeners:
    ROW = (
        "   9: {address}:{port:04X} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 64102 0 99999 1 0 0\n"
    )

    def listen(self, host, service, port, address="00000000", table="tcp", state="0A"):
        row = host.data["proc"][str(host.container(service)["State"]["Pid"])]
        row[f"net/{table}"] += self.ROW.format(address=address, port=port, state=state)

    def test_an_undeclared_port(self, host):
        self.listen(host, "gateway", 4444)
        finding = only(host.audit())
        assert (finding["id"], finding["where"]) == ("RUN-04", f"container {GATEWAY}: 4444/tcp")
        assert finding["evidence"] == "listens; declared: 8000/tcp"

    @pytest.mark.parametrize(
        ("table", "address", "port", "state"),
        [
            ("tcp6", "0" * 32, 4444, "0A"),
            ("tcp6", "0000000000000000FFFF0000040013AC", 4444, "0A"),
            ("udp", "00000000", 5353, "07"),
            ("tcp", "040013AC", 40000, "0A"),
        ],
    )
    def test_other_families_and_addresses(self, host, table, address, port, state):
        self.listen(host, "gateway", port, address, table, state)
        assert fixture.found(host.audit()) == {("RUN-04", GATEWAY)}

    @pytest.mark.parametrize(
        ("table", "address", "port", "state"),
        [
            ("tcp", "0100007F", 4444, "0A"),
            ("tcp6", "00000000000000000000000001000000", 4444, "0A"),
            ("tcp", "0B00007F", 41000, "0A"),  # the engine's own name server
            ("tcp", "00000000", 4444, "01"),  # a connection
            ("udp", "00000000", 45678, "07"),  # a client that waits for an answer
            ("tcp", "00000000", 8000, "0A"),
        ],
    )
    def test_near_misses(self, host, table, address, port, state):
        self.listen(host, "gateway", port, address, table, state)
        assert host.audit()["findings"] == []

    @pytest.mark.parametrize("name", ["gateway", GATEWAY, "mcpstack/gateway"])
    def test_declared_by_any_name(self, host, name):
        self.listen(host, "gateway", 9000)
        self.listen(host, "gateway", 53, table="udp", state="07")
        assert host.audit(declared={**fixture.DECLARED, name: ["9000", "53/udp"]})["findings"] == []

    def test_declared_by_the_model(self, host):
        self.listen(host, "gateway", 9000)
        models = fixture.expected_model()
        models["mcpstack"]["services"]["gateway"]["expose"] = ["9000/tcp"]
        assert host.audit(expected=models)["findings"] == []

    def test_a_published_port_without_listener(self, host):
        pid = str(host.container("edge")["State"]["Pid"])
        rows = host.data["proc"][pid]["net/tcp"].splitlines(keepends=True)
        host.data["proc"][pid]["net/tcp"] = "".join(row for row in rows if ":20FB " not in row)
        finding = only(host.audit())
        assert (finding["id"], finding["severity"], finding["evidence"]) == (
            "RUN-04", "low", "published, but nothing listens",
        )  # fmt: skip

    def test_declaring_nothing_at_all_is_unknown(self, host):
        host.container("gateway")["Config"]["ExposedPorts"] = None
        result = host.audit()
        assert result["findings"] == []
        assert fixture.states(result)["RUN-04"] == "unknown"
        assert fixture.reason(result, "RUN-04") == f"declares no port at all, and listens: {GATEWAY} (8000/tcp)"

    def test_a_shared_network_namespace_is_judged_once(self, host):
        """A container in another's network has the other's sockets in its own tables."""
        host.container("valkey")["HostConfig"]["NetworkMode"] = "container:" + host.container("gateway")["Id"]
        host.container("gateway")["Config"]["ExposedPorts"] = {"8000/tcp": {}}
        self.listen(host, "gateway", 6379)
        assert fixture.found(host.audit()) == {("CMP-20", "mcpstack-valkey-1")}

    def test_a_range_of_exposed_ports(self, host):
        host.container("gateway")["Config"]["ExposedPorts"] = {"8000-8010/tcp": {}}
        self.listen(host, "gateway", 8005)
        assert host.audit()["findings"] == []

    def test_empty_tables_are_not_read(self, host):
        row = host.data["proc"][str(host.container("gateway")["State"]["Pid"])]
        row["net/sockstat"] = "sockets: used 9\nTCP: inuse 2 orphan 0\nUDP: inuse 0 mem 0\n"
        row["net/sockstat6"] = "TCP6: inuse 0\nUDP6: inuse 1\n"
        self.listen(host, "gateway", 4444, "0" * 32, "tcp6")
        assert host.audit()["findings"] == []  # the kernel would not have counted none
        row["net/sockstat6"] = "TCP6: inuse 1\n"
        assert fixture.found(host.audit()) == {("RUN-04", GATEWAY)}

    def test_a_table_that_holds_sockets_and_cannot_be_read_is_unknown(self, host):
        row = host.data["proc"][str(host.container("gateway")["State"]["Pid"])]
        row["net/sockstat"] = "TCP: inuse 2\nUDP: inuse 0\n"
        del row["net/tcp"]
        assert fixture.states(host.audit())["RUN-04"] == "unknown"

    def test_tables_that_are_none_are_unknown(self, host):
        for table in ("tcp", "tcp6", "udp", "udp6"):
            pid = str(host.container("gateway")["State"]["Pid"])
            host.data["proc"][pid][f"net/{table}"] = "header\n 0: XYZ:1F90 00000000:0000 0A 0 0 0 0 0 12 1\n"
        assert fixture.states(host.audit())["RUN-04"] == "unknown"


class TestPrograms:
    @pytest.mark.parametrize(
        "argv",
        [
            ["/usr/sbin/sshd", "-D"],
            ["sshd: root@pts/0"],
            ["/usr/sbin/dropbear", "-R"],
            ["/bin/sh"],
            ["-bash"],
            ["bash", "-i"],
            ["/bin/busybox", "sh"],
            ["sh", "-s"],
            ["bash", "--norc"],
            ["zsh", "-o", "vi"],
        ],
    )
    def test_login_servers_and_shells(self, host, argv):
        host.add_process("gateway", 5000, argv)
        assert fixture.found(host.audit()) == {("RUN-05", GATEWAY)}

    @pytest.mark.parametrize(
        "argv",
        [
            ["sh", "-c", "exec app"],
            ["/bin/bash", "-ec", "app"],
            ["bash", "/docker-entrypoint.sh", "app"],
            ["/bin/sh", "-e", "run.sh"],
            ["busybox", "httpd", "-f"],
            ["/usr/bin/python3", "sh"],
            ["ssh", "-N", "host"],
            ["/usr/bin/sshguard"],
            [],
        ],
    )
    def test_programs_that_only_look_alike(self, host, argv):
        host.add_process("gateway", 5000, argv or ["x"])
        if not argv:
            host.data["proc"]["5000"]["cmdline"] = []
        assert host.audit()["findings"] == []


class TestChanges:
    def changed(self, host, *changes):
        container = host.container("gateway")
        container["HostConfig"]["ReadonlyRootfs"] = False
        host.data["changes"][container["Id"]] = [{"Path": path, "Kind": kind} for path, kind in changes]
        result = host.audit()
        return [
            (item["severity"], item["evidence"]) for item in result["findings"] if item["id"] == "RUN-05"
        ], fixture.found(result) - {("CMP-08", GATEWAY)}

    def test_a_program_was_added(self, host):
        evidence, found = self.changed(host, ("/usr", 0), ("/usr/bin", 0), ("/usr/bin/curl", 1))
        assert evidence == [("medium", "added /usr/bin/curl")]
        assert found == {("RUN-05", GATEWAY)}

    def test_configuration_and_the_rest_apart(self, host):
        evidence, _found = self.changed(host, ("/etc", 0), ("/etc/passwd", 0), ("/x", 1), ("/bin/ls", 2))
        assert evidence == [("medium", "deleted /bin/ls, changed /etc/passwd"), ("low", "added /x")]

    def test_long_lists_are_short(self, host):
        evidence, _found = self.changed(host, *((f"/usr/lib/{number}", 1) for number in range(5)))
        assert evidence == [("medium", "added /usr/lib/0, added /usr/lib/1, added /usr/lib/2 and 2 more")]

    def test_what_programs_write_while_they_run(self, host):
        evidence, _found = self.changed(
            host, ("/run", 0), ("/run/app.pid", 1), ("/tmp/x", 1), ("/var", 0), ("/var/log/app.log", 1), ("/etc", 0),
            ("/etc/hosts", 0), ("/app", 0), ("/app/__pycache__", 1), ("/app/__pycache__/a.pyc", 1), ("/home/app/x", 1),
        )  # fmt: skip
        assert evidence == []

    def test_places_of_mounts_are_made_by_the_engine(self, host):
        host.container("gateway")["Mounts"].append(
            {"Type": "bind", "Source": "/s", "Destination": "/opt/x/y/", "RW": False}
        )
        evidence, _found = self.changed(host, ("/opt", 0), ("/opt/x", 1), ("/opt/x/y", 1), ("/opt/z", 1))
        assert evidence == [("medium", "added /opt/z")]

    def test_nothing_changed_is_null(self, host):
        container = host.container("gateway")
        container["HostConfig"]["ReadonlyRootfs"] = False
        assert fixture.found(host.audit()) == {("CMP-08", GATEWAY)}

    def test_an_engine_that_cannot_say(self, host):
        container = host.container("gateway")
        container["HostConfig"]["ReadonlyRootfs"] = False
        host.refused[f"/containers/{container['Id']}/changes"] = 500
        result = host.audit()
        assert fixture.states(result)["RUN-05"] == "unknown"

    def test_a_read_only_root_is_not_asked_about(self, host):
        engine = fixture.FakeEngine(host)
        collect(engine)
        assert not [path for path in engine.asked if path.endswith("/changes")]


class TestState:
    @pytest.mark.parametrize(
        ("fields", "evidence"),
        [
            ({"Health": {"Status": "unhealthy", "FailingStreak": 9}}, "Health: unhealthy"),
            ({"OOMKilled": True}, "OOMKilled: it used more memory than its limit"),
            ({"Status": "paused", "Paused": True}, "Status: paused"),
            ({"Status": "dead", "Dead": True, "Pid": 0}, "Status: dead"),
            (
                {"Health": {"Status": "starting"}},
                "Health: still starting after its start period and all retries",
            ),
        ],
    )
    def test_one_fault(self, host, fields, evidence):
        host.container("postgres")["State"].update(fields)
        finding = only(host.audit())
        assert (finding["id"], finding["evidence"]) == ("RUN-06", evidence)
        assert finding["where"] == f"container {POSTGRES}: State"

    def test_restarting(self, host):
        host.container("postgres")["State"].update(Status="restarting", Pid=0)
        for pid in host.processes("postgres"):
            del host.data["proc"][pid]
        result = host.audit()
        assert only(result)["evidence"] == "Status: restarting"
        assert {fixture.states(result)[number] for number in ("RUN-03", "RUN-04", "RUN-05")} == {"pass"}

    def test_a_restart_loop_between_two_crashes(self, host):
        container = host.container("postgres")
        container["RestartCount"] = 3
        container["State"]["StartedAt"] = "2026-11-21T12:58:00.123456789Z"
        assert only(host.audit())["id"] == "RUN-06"

    @pytest.mark.parametrize(
        ("count", "started"), [(2, "2026-11-21T12:58:00Z"), (7, "2026-11-20T12:58:00Z"), (0, "2026-11-21T12:59:59Z")]
    )
    def test_restarts_long_ago_or_few(self, host, count, started):
        container = host.container("postgres")
        container["RestartCount"] = count
        container["State"]["StartedAt"] = started
        assert host.audit()["findings"] == []

    def test_starting_within_its_time(self, host):
        host.container("postgres")["State"].update(Health={"Status": "starting"}, StartedAt="2026-11-21T12:59:30Z")
        assert host.audit()["findings"] == []

    @pytest.mark.parametrize(
        ("code", "policy", "evidence", "severity"),
        [
            (1, "no", "Status: exited with code 1", "medium"),
            (137, "unless-stopped", "Status: exited with code 137", "medium"),
            (0, "unless-stopped", "Status: exited with code 0, though its restart policy is unless-stopped", "low"),
            (0, "no", None, None),
            (0, "on-failure", None, None),
        ],
    )
    def test_ended(self, code, policy, evidence, severity):
        container = {
            "Config": {"Labels": {"com.docker.compose.project": "p", "com.docker.compose.service": "job"}},
            "HostConfig": {"RestartPolicy": {"Name": policy}},
            "State": {"Status": "exited", "ExitCode": code},
        }
        expected = [] if evidence is None else [(evidence, None if severity == "medium" else severity)]
        assert state.state_faults(container, fixture.NOW) == expected

    @pytest.mark.parametrize("started", ["", "never", "0001-01-01T00:00:00Z", None])
    def test_times_that_are_none(self, started):
        container = {"RestartCount": 9, "State": {"Status": "running", "StartedAt": started}}
        now = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
        assert len(state.state_faults(container, now)) <= 1


class TestVisitors:
    def session(self, host, service="gateway", **config):
        container = host.container(service)
        container["ExecIDs"] = ["e1"]
        process = {"entrypoint": "/bin/sh", "privileged": False, "tty": False, "user": "", **config}
        host.data["execs"]["e1"] = {"ID": "e1", "Running": True, "Pid": 6000, "ProcessConfig": process}

    @pytest.mark.parametrize(
        ("config", "evidence"),
        [
            ({"privileged": True}, "a privileged exec session runs"),
            ({"user": "root"}, "an exec session runs as user root"),
            ({"user": "0"}, "an exec session runs as user 0"),
            ({"user": "0:0"}, "an exec session runs as user 0:0"),
            ({"user": "00"}, "an exec session runs as user 00"),
        ],
    )
    def test_root_sessions(self, host, config, evidence):
        self.session(host, **config)
        # its processes are root and unconfined: the same thing is not said twice
        host.add_process("gateway", 6000, ["/bin/app", "x"], Uid="0\t0\t0\t0", NoNewPrivs=0, CapEff="1ffffffffff")
        host.add_process("gateway", 6001, ["/bin/child"], parent=6000, Uid="0\t0\t0\t0", Seccomp=0)
        finding = only(host.audit())
        assert (finding["id"], finding["evidence"]) == ("RUN-07", evidence)
        assert finding["where"] == f"container {GATEWAY}: exec session sh"

    @pytest.mark.parametrize("config", [{}, {"user": "64102"}, {"user": "64102:0"}, {"tty": True}, {"user": "rooty"}])
    def test_other_sessions(self, host, config):
        self.session(host, **config)
        host.add_process("gateway", 6000, ["/usr/bin/python3.13", "-m", "mcpstack.health"])
        assert host.audit()["findings"] == []

    def test_a_terminal_in_a_container_of_root(self, host):
        host.container("gateway")["Config"]["User"] = ""
        self.session(host, tty=True)
        assert fixture.found(host.audit()) == {("RUN-07", GATEWAY)}

    def test_a_session_that_ended(self, host):
        self.session(host, privileged=True)
        host.data["execs"]["e1"]["Running"] = False
        assert host.audit()["findings"] == []

    def test_a_session_that_the_engine_no_longer_knows(self, host):
        self.session(host, privileged=True)
        host.refused["/exec/e1/json"] = 404
        result = host.audit()
        assert result["findings"] == []
        assert fixture.states(result)["RUN-07"] == "pass"

    def test_a_session_that_cannot_be_asked_about(self, host):
        self.session(host)
        host.refused["/exec/e1/json"] = 500
        assert fixture.states(host.audit())["RUN-07"] == "unknown"

    def foreigner(self, host, project):
        row = {**host.summary("valkey"), "Names": ["/stranger"], "Id": "c" * 64}
        row["Labels"] = {"com.docker.compose.project": project} if project else {}
        host.data["listing"].append(row)
        host.refused[f"/containers/{'c' * 64}/json"] = 404

    def test_a_foreign_container_on_the_network(self, host):
        self.foreigner(host, "other")
        finding = only(host.audit())
        assert (finding["id"], finding["subject"], finding["where"]) == ("RUN-07", "stranger", "network mcpstack_data")
        assert finding["evidence"] == "a container of project other on project mcpstack's network"

    def test_a_container_of_nobody_on_the_network(self, host):
        self.foreigner(host, "")
        assert only(host.audit(projects=("mcpstack",)))["evidence"] == (
            "a container of no project on project mcpstack's network"
        )

    def test_networks_of_projects_that_were_not_asked_for(self, host):
        self.foreigner(host, "other")
        assert host.audit(projects=("third",))["findings"] == []


class TestOrphans:
    def row(self, host, state, **labels):
        base = {"com.docker.compose.project": "mcpstack", "com.docker.compose.service": "job"}
        entry = {**host.summary("valkey"), "Names": ["/left"], "Id": "d" * 64, "State": state, "Mounts": []}
        entry["Labels"] = {**base, **labels}
        host.data["listing"].append(entry)
        host.refused[f"/containers/{'d' * 64}/json"] = 404

    @pytest.mark.parametrize(
        ("status", "labels", "evidence"),
        [
            ("exited", {"com.docker.compose.oneoff": "True"}, "a one-off container that is exited"),
            ("created", {}, "never started, or not removed: created"),
            ("dead", {}, "never started, or not removed: dead"),
        ],
    )
    def test_left_containers(self, host, status, labels, evidence):
        self.row(host, status, **labels)
        finding = only(host.audit())
        assert (finding["id"], finding["subject"], finding["evidence"]) == ("RUN-08", "left", evidence)

    @pytest.mark.parametrize(("status", "labels"), [("exited", {}), ("running", {"com.docker.compose.oneoff": "True"})])
    def test_jobs_are_no_orphans(self, host, status, labels):
        self.row(host, status, **labels)
        assert host.audit()["findings"] == []

    def test_a_service_that_is_not_expected_any_more(self, host):
        self.row(host, "running")
        assert only(host.audit(expected=fixture.expected_model()))["evidence"] == "service job is not expected"

    def test_unused_volume_and_network(self, host):
        labels = {"com.docker.compose.project": "mcpstack"}
        host.data["volumes"]["Volumes"].append({"Name": "mcpstack_old", "Labels": labels})
        host.data["networks"].append({"Name": "mcpstack_old", "Id": "x", "Labels": labels, "Internal": True})
        assert {(item["id"], item["where"]) for item in host.audit()["findings"]} == {
            ("RUN-08", "volume mcpstack_old"), ("RUN-08", "network mcpstack_old"),
        }  # fmt: skip

    def test_volumes_of_nobody_are_nobodys_orphans(self, host):
        host.data["volumes"]["Volumes"].append({"Name": "f" * 64, "Labels": None})
        assert host.audit()["findings"] == []

    def test_images(self, host):
        host.data["images"] += [
            {"Id": "sha256:1", "RepoTags": ["mcpstack/nginx:000000000000"], "RepoDigests": [], "Labels": None},
            {"Id": "sha256:2", "RepoTags": ["elsewhere/nginx:1"], "RepoDigests": [], "Labels": None},
            {"Id": "sha256:3" + "0" * 20, "RepoTags": [], "RepoDigests": ["mcpstack/valkey@sha256:9"], "Labels": {}},
            {"Id": "sha256:4", "RepoTags": None, "RepoDigests": None, "Labels": {}},
        ]
        assert {(item["where"], item["evidence"]) for item in host.audit()["findings"]} == {
            ("image mcpstack/nginx:000000000000", "no container uses this version"),
            ("image sha256:300000000000", "untagged, and no container uses it"),
        }


class TestImages:
    def test_the_lock(self, host):
        models = {"mcpstack": {"project": "mcpstack", "services": {"edge": {"image_id": "sha256:" + "1" * 64}}}}
        finding = next(item for item in host.audit(expected=models)["findings"] if item["id"] == "RUN-02")
        assert finding["evidence"] == "runs sha256:af3f5a46340d, expected sha256:111111111111"

    @pytest.mark.parametrize(
        ("reference", "status"),
        [
            ("mcpstack/nginx:af3f5a46340d", "pass"),
            ("sha256:af3f5a46340db341706c606d512d415c057294fd1cdf9391431bbba11cbd1db2", "pass"),
            ("af3f5a46340d", "pass"),
            ("nginx@sha256:" + "a" * 64, "pass"),
            ("nginx:1.29@sha256:" + "a" * 64, "pass"),
            ("nginx@sha256:" + "b" * 64, "fail"),
            ("nginx:1", "fail"),
            ("docker.io/library/nginx:1", "fail"),
            ("nginx", "unknown"),
            ("other:2", "unknown"),
            ("nginx:af3f5a463411", "unknown"),
        ],
    )
    def test_references(self, host, reference, status):
        container = host.container("edge")
        container["Config"]["Image"] = reference
        mine = next(item for item in host.data["images"] if item["Id"] == container["Image"])
        mine["RepoDigests"] = ["nginx@sha256:" + "a" * 64]
        mine["RepoTags"] += ["nginx:latest"]
        other = {"Id": "sha256:77", "RepoTags": ["nginx:1"], "RepoDigests": [], "Labels": None}
        host.data["images"].append(other)
        host.data["listing"].append({
            "Id": "e" * 64, "Names": ["/user"], "ImageID": "sha256:77", "State": "exited", "Labels": {},
        })  # fmt: skip
        host.refused[f"/containers/{'e' * 64}/json"] = 404
        assert fixture.states(host.audit())["RUN-02"] == status

    def test_a_digest_without_the_list_of_images_is_unknown(self, host):
        host.container("edge")["Config"]["Image"] = "nginx@sha256:" + "a" * 64
        host.refused["/images/json"] = 500
        assert fixture.states(host.audit())["RUN-02"] == "unknown"


class TestSecrets:
    def judge(self, host):
        snapshot = collect(fixture.FakeEngine(host))
        table = fixture.runtime.processes_of(snapshot, fixture.MemoryProc(host.data["proc"]))
        audit = Audit(TABLE)
        judge_secrets(audit, snapshot, table)
        return audit.result()

    def test_the_recorded_host(self, host):
        result = self.judge(host)
        assert result["findings"] == []
        assert fixture.states(result) == {"SEC-11": "pass", "SEC-12": "pass"}

    def test_environment(self, host):
        value = "Zk3-very-secret-9"
        host.container("gateway")["Config"]["Env"] += [f"DB_PASSWORD={value}", f"URL=postgres://u:{value}@db/x"]
        result = self.judge(host)
        assert [(item["id"], item["where"], item["evidence"]) for item in result["findings"]] == [
            ("SEC-12", f"container {GATEWAY}: Config.Env: DB_PASSWORD", "DB_PASSWORD holds a credential"),
            ("SEC-12", f"container {GATEWAY}: Config.Env: URL", "URL holds a credential"),
        ]
        assert value not in str(result)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("DB_PASSWORD_FILE", "/run/secrets/db"),
            ("DB_PASSWORD_FILE", "s3cr3t-looking"),
            ("DB_PASSWORD", ""),
            ("DB_PASSWORD", "/run/secrets/db"),
            ("MAX_TOKENS", "4096"),
            ("PUBLIC_KEY", "ssh-ed25519 AAAA"),
            ("GPG_KEY", "7169605F62C751356D054A26A821E680E5FA6305"),
            ("GPG_KEYS", "39B641343D8C104B2B146DC3F9C39DC0B9698544 E60913E4DF209907D8E30D96659A97C9CF2A795A"),
            ("URL", "postgres://db/x"),
            ("PWD", "/app"),
        ],
    )
    def test_no_secrets(self, name, value):
        assert secret_variables([(name, value)]) == []

    def test_a_process_that_the_configuration_does_not_show(self, host):
        host.add_process("gateway", 5000, ["/usr/bin/tool", "--password", "hunter2hunter2"])
        result = self.judge(host)
        assert [(item["id"], item["where"], item["evidence"]) for item in result["findings"]] == [
            ("SEC-11", f"container {GATEWAY}: process tool", "--password with a value")
        ]
        assert "hunter2" not in str(result)

    def test_a_command_and_its_process_are_one_finding(self, host):
        words = ["--requirepass", "correct-horse-battery"]
        host.container("valkey")["Config"]["Cmd"] = words
        pid = host.container("valkey")["State"]["Pid"]
        host.data["proc"][str(pid)]["cmdline"] = ["valkey-server", *words]
        result = self.judge(host)
        assert [item["where"] for item in result["findings"]] == ["container mcpstack-valkey-1: Config.Cmd"]

    @pytest.mark.parametrize(
        ("words", "found"),
        [
            (["valkey-server", "--requirepass", "correct-horse"], {"--requirepass": False}),
            (["x", "--admin-password=correct-horse"], {"--admin-password": False}),
            (["sh", "-c", "valkey-cli -a $PASS ping"], {"-a": True}),
            (["mysqladmin", "-pcorrect-horse", "ping"], {"-p": False}),
            (["env", "API_TOKEN=abcdefgh12345678", "x"], {"API_TOKEN": False}),
            (["curl", "https://user:correct-horse@example.org/"], {"the URL of https": False}),
            (["valkey-cli", "--pass", "-", "PING"], {}),
            (["x", "--password-file", "/run/secrets/x"], {}),
            (["x", "--password", "/run/secrets/x"], {}),
            (["x", "--api-key-file", "/run/secrets/model-api-key/current"], {}),
            (["x", "--token", "$TOKEN"], {}),
            (["x", "--token", "--verbose"], {}),
            (["mysql", "-p"], {}),
            (["bitcoind", "-rpcpassword=correct-horse"], {"-rpcpassword": False}),
            (["x", "--nopassword", "correct-horse"], {}),
            (["ls", "-a", "dir"], {}),
            ([], {}),
        ],
    )
    def test_command_lines(self, words, found):
        assert secret_arguments(words) == found
