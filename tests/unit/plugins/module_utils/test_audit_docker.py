# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Engine, host and containers in one call: what is asked, what happens without an engine, and answers of any shape."""

from __future__ import annotations

import json
import random
import socketserver
import threading
from http.server import BaseHTTPRequestHandler

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _audit_docker as core
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import MemoryFiles
from ansible_collections.mcpstack.platform.plugins.module_utils._engine import EngineError, EngineUnavailable
from ansible_collections.mcpstack.platform.plugins.module_utils._engine_snapshot import KeptEngine, collect
from ansible_collections.mcpstack.platform.plugins.module_utils._host_probe import HostFacts
from ansible_collections.mcpstack.platform.plugins.module_utils._proc_table import (
    ProcFiles,
    UidMap,
    capability_names,
    parse_status,
    read_uid_map,
)
from ansible_collections.mcpstack.platform.tests.unit.plugins.module_utils import docker_host_fixture as fixture


@pytest.fixture
def host():
    return fixture.Host()


class Silent:
    """An engine that does not answer."""

    def get(self, path, params=None, timeout=None):
        raise EngineUnavailable("/var/run/docker.sock: no Docker engine listens here; install and start docker.")


def run(host, **options):
    """One audit of the recorded host, without the machine that runs the tests."""
    files = fixture.MemoryProc(host.data["proc"])
    files.stat = lambda path, follow=True: None
    options = {"edge_services": ["edge"], "container_ports": fixture.DECLARED, **options}
    return core.audit_docker(options, fixture.FakeEngine(host), files, HostFacts())


class TestSubjects:
    @pytest.mark.parametrize(
        ("subject", "prefixes"),
        [
            ("engine", {"DMN"}),
            ("host", {"HST"}),
            ("containers", {"CMP", "NET", "RUN", "SEC"}),
        ],
    )
    def test_only_what_is_asked_for(self, host, subject, prefixes):
        result = run(host, subjects=[subject])
        assert {item["id"][:3] for item in result["checks_run"]} == prefixes

    def test_every_check_of_the_catalogue_that_it_decides(self, host):
        ids = [item["id"] for item in run(host)["checks_run"]]
        assert len(ids) == len(set(ids))
        assert [sum(number.startswith(prefix) for number in ids) for prefix in ("DMN", "HST", "CMP", "NET", "RUN")] == [
            17, 13, 28, 8, 8,
        ]  # fmt: skip
        assert {number for number in ids if number.startswith("SEC")} == {"SEC-11", "SEC-12"}

    def test_the_recorded_containers(self, host):
        result = run(host, subjects=["containers"])
        assert result["findings"] == []
        assert result["containers"] == [f"mcpstack-{name}-1" for name in
                                        ("edge", "gateway", "model-runner", "postgres", "valkey")]  # fmt: skip

    def test_the_engine_is_asked_for_each_thing_once(self, host):
        engine = fixture.FakeEngine(host)
        core.audit_docker({}, engine, fixture.MemoryProc(host.data["proc"]), HostFacts())
        assert sorted(engine.asked) == sorted(set(engine.asked))


class TestWithoutEngine:
    def test_containers_are_unknown_with_the_reason(self):
        result = core.audit_docker({"subjects": ["containers"]}, Silent(), MemoryFiles({}), HostFacts())
        assert result["findings"] == []
        assert result["summary"]["checks_pass"] == 0
        assert {(item["status"], item["reason"]) for item in result["checks_run"]} == {(
            "unknown", "/var/run/docker.sock: no Docker engine listens here; install and start docker.",
        )}  # fmt: skip

    def test_the_host_half_still_runs(self):
        files = MemoryFiles(
            {"/etc/group": "root:x:0:\ndocker:x:999:mallory\n", "/etc/passwd": "root:x:0:0::/:/bin/sh\n"}
        )
        result = core.audit_docker({}, Silent(), files, HostFacts())
        assert {("HST-02",)} <= {(item["id"],) for item in result["findings"]}

    def test_a_list_that_is_none(self, host):
        host.data["listing"] = {"message": "x"}
        result = run(host, subjects=["containers"])
        assert fixture.reason(result, "CMP-01") == (
            "The Docker engine answered /containers/json with something else than a list of containers."
        )


class TestOptions:
    @pytest.mark.parametrize("text", ["unix:///run/x.sock", "/run/x.sock"])
    def test_socket(self, text):
        assert core.socket_of(text) == "/run/x.sock"

    def test_another_host_is_refused(self):
        with pytest.raises(core.OptionError, match="is no unix socket"):
            core.socket_of("tcp://192.0.2.1:2376")

    def test_policy(self):
        policy = core.container_policy({"edge_services": ["edge"], "network_members": {"data": ["db", 1]}})
        assert policy.edge_services == {"edge"}
        assert policy.network_members == {"data": {"db", "1"}}
        assert policy.gpu_services is None
        assert core.container_policy({}).edge_services is None

    def test_host_policy(self):
        policy = core.host_policy({"declared_ports": [{"port": 443, "address": None}, {"port": 53, "protocol": "udp", "address": "::1"}],
             "docker_group_members": ["a"]}, False)  # fmt: skip
        assert policy.declared_ports == [
            {"port": 443}, {"port": 53, "protocol": "udp", "address": "::1"},
        ]  # fmt: skip
        assert policy.docker_group_members == ("a",)
        assert policy.root_containers is False
        assert core.host_policy({}).declared_ports is None

    def test_members_that_are_no_list(self):
        with pytest.raises(core.OptionError, match="network_members.data: is no list"):
            core.container_policy({"network_members": {"data": "db"}})


class TestModels:
    def test_a_model_is_read_from_the_host(self, host):
        text = json.dumps(fixture.expected_model()["mcpstack"])
        models, problems = core.read_models(MemoryFiles({"/etc/m.json": text}), ["/etc/m.json"])
        assert (set(models), problems) == ({"mcpstack"}, [])

    @pytest.mark.parametrize(
        ("files", "reason"),
        [
            ({}, "/m.json: is not among the files at hand (hand it over together with the others)"),
            ({"/m.json": "{"}, "/m.json: is not JSON"),
            ({"/m.json": '{"project": "p"}'}, '/m.json: needs "services"'),
            ({"/m.json": b"\xff"}, "/m.json: is not UTF-8"),
        ],
    )
    def test_a_model_that_cannot_be_used_is_unknown(self, host, files, reason):
        memory = fixture.MemoryProc(host.data["proc"])
        memory.text = MemoryFiles(files).text
        result = core.audit_docker(
            {"subjects": ["containers"], "expected": ["/m.json"]}, fixture.FakeEngine(host), memory, HostFacts()
        )
        assert fixture.states(result)["RUN-01"] == "unknown"
        assert fixture.reason(result, "RUN-01").startswith(reason)


class TestAnyAnswer:
    VALUES = (None, "", "x", -7, 2**70, [], {}, True, ["x"], {"a": 1}, 0.5, [None], "\x00\u202e")

    @classmethod
    def _paths(cls, node, path=()):
        steps = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, value in steps:
            yield (*path, key)
            yield from cls._paths(value, (*path, key))

    @pytest.mark.parametrize("seed", range(8))
    def test_a_value_of_another_kind_anywhere(self, seed):
        """A result, or the one error that the engine is to blame for."""
        rng = random.Random(seed)
        kinds = ("listing", "containers", "networks", "volumes", "images", "info", "image_details")
        paths = [path for kind in kinds for path in self._paths(fixture.RECORD[kind], (kind,))]
        for _round in range(60):
            host = fixture.Host()
            for path in rng.sample(paths, rng.choice((1, 1, 4))):
                node = host.data
                try:
                    for key in path[:-1]:
                        node = node[key]
                    node[path[-1]] = rng.choice(self.VALUES)
                except (KeyError, IndexError, TypeError):
                    continue
            try:
                result = host.robust()
            except EngineError:
                continue
            assert {item["status"] for item in result["checks_run"]} <= {"pass", "fail", "unknown", "not_applicable"}

    @pytest.mark.parametrize("seed", range(4))
    def test_status_of_any_bytes(self, seed):
        rng = random.Random(seed)
        text = fixture.RECORD["proc"]["1"]["status"]
        for _round in range(200):
            letters = list(text)
            for _change in range(rng.randrange(1, 30)):
                letters[rng.randrange(len(letters))] = chr(rng.choice((0, 9, 10, 32, 48, 65, 255, 0x202E)))
            process = parse_status(1, "".join(letters))
            assert process is None or len(process.uids) == 4

    def test_status_that_is_empty(self):
        assert parse_status(1, "") is None
        assert parse_status(1, "Uid:\t1\t2\n") is None

    def test_uid_map_of_any_text(self):
        rows = {"7": {"uid_map": "x\n1 2\n0 100000 65536\n"}}
        assert read_uid_map(fixture.MemoryProc(rows), 7) == UidMap(((0, 100000, 65536),))

    def test_a_capability_that_is_newer_than_the_table(self):
        assert capability_names(1 << 41 | 1) == ["CHOWN", "CAP_41"]


class TestProcFiles:
    def test_reads_in_pieces_up_to_a_limit(self, tmp_path):
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc" / "big").write_bytes(b"x" * 200_000)
        files = ProcFiles(str(tmp_path))
        assert len(files.read("/proc/big")) == 200_000
        with pytest.raises(core.Unreadable, match="larger than 1000 bytes"):
            files.read("/proc/big", 1000)

    def test_what_is_no_file(self, tmp_path):
        files = ProcFiles(str(tmp_path))
        for path in ("/missing", "/", "/a\0b"):
            with pytest.raises(core.Unreadable):
                files.read(path)
        assert files.link("/missing") == ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self):
        super().setup()
        self.server.connections += 1

    def address_string(self):
        return "unix"

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        answer = {"/_ping": "OK"}.get(self.path, [])
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Api-Version", "1.45")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.server.asked += 1
        if self.server.asked in self.server.hang_up_after:
            self.close_connection = True


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    connections = asked = 0
    hang_up_after = ()


@pytest.fixture
def served(tmp_path):
    with _Server(str(tmp_path / "s"), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server, KeptEngine(str(tmp_path / "s"))
        server.shutdown()
        thread.join()


class TestKeptEngine:
    def test_one_connection_for_all_questions(self, served):
        server, engine = served
        for _question in range(5):
            assert engine.get("/networks") == []
        engine.close()
        assert (server.connections, server.asked) == (1, 6)

    def test_an_idle_connection_that_the_engine_closed_is_opened_again(self, served):
        server, engine = served
        server.hang_up_after = (3, 4)
        for _question in range(5):
            assert engine.get("/networks") == []
        engine.close()
        assert server.connections == 3

    def test_nobody_there(self, tmp_path):
        with pytest.raises(EngineUnavailable, match="no Docker engine listens here"):
            collect(KeptEngine(str(tmp_path / "none")))
