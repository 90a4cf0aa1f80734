# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The images of what runs, as the daily audit judges them: an engine on a socket of our own, the report that comes of it."""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import socketserver
import threading

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _audit_run, _door_image, _image_updates
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_image import TABLE
from ansible_collections.mcpstack.platform.tests.unit.plugins.module_utils.test_image_contents import docker_save, tar

STATUS = b"Package: zlib1g\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1:1.3-1\n"
RELEASE = b"ID=debian\nVERSION_CODENAME=trixie\n"
PLAIN = [("etc/passwd", b"root:x:0:0::/:/x\n"), ("etc/os-release", RELEASE), ("var/lib/dpkg/status", STATUS)]
LOCK = {"packages": [{"name": "zlib1g", "version": "1:1.3-1"}]}
CHECKED = {"Test": ["CMD", "x"]}


class Host:
    """Images by id and containers by name, as an engine tells of them; ``asked`` is what it was asked."""

    def __init__(self):
        self.images, self.containers, self.asked, self.answers = {}, {}, [], {}

    def image(self, name, files=PLAIN, **settings):
        archive = docker_save([tar(files)], {"User": "1000", "Cmd": ["x"], **settings}, (name,))
        number = "sha256:" + hashlib.sha256(archive).hexdigest()
        self.images[number] = archive
        return number

    def container(self, name, image, reference, options=("no-new-privileges:true",), check=None, project="shop"):
        number = hashlib.sha256(name.encode()).hexdigest()
        self.containers[number] = {
            "Id": number, "Image": image, "HostConfig": {"SecurityOpt": list(options)},
            "Config": {"Image": reference, "Healthcheck": check, "Labels": {"com.docker.compose.project": project}},
        }  # fmt: skip
        return number

    def answer(self, path):
        if path in self.answers:
            return self.answers[path]
        if path == "/_ping":
            return b"OK"
        path = re.sub(r"^/v1\.44", "", path)
        if path in self.answers:
            return self.answers[path]
        kind, _slash, rest = path[1:].partition("/")
        number, _slash, what = rest.partition("/")
        if path == "/containers/json":
            return [{"Id": n, "Labels": c["Config"]["Labels"]} for n, c in self.containers.items()]
        if kind == "containers":
            return self.containers.get(number)
        if kind == "images" and number in self.images:
            return self.images[number] if what == "get" else {"Id": number}
        return {"info": {"SecurityOptions": []}, "version": {"Os": "linux", "Arch": "amd64"}}.get(path[1:])


@pytest.fixture
def host(tmp_path):
    """An engine that answers at ``host.socket``."""
    found = Host()
    found.socket = str(tmp_path / "docker.sock")

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def address_string(self):
            return "local"

        def log_message(self, *_args):
            pass

        def do_GET(self):
            path = self.path.split("?")[0]
            found.asked.append(path.replace("/v1.44", ""))
            answer = found.answer(path)
            body = answer if isinstance(answer, bytes) else json.dumps(answer or {"message": "no such thing"}).encode()
            if answer == []:
                body = b"[]"
            self.send_response(404 if answer is None else 200)
            self.send_header("Api-Version", "1.44")
            self.send_header("Content-Type", "application/x-tar" if path.endswith("/get") else "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    class Server(socketserver.ThreadingUnixStreamServer):
        daemon_threads = True

        def handle_error(self, request, client_address):
            """A client that has seen enough hangs up."""

    server = Server(found.socket, Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


def judge(host, **options):
    defaults = {name: spec.get("default") for name, spec in _door_image.ARGUMENTS.items()}
    return _door_image.run({**defaults, "socket": host.socket, **options})


def states(result):
    return {state["id"]: state["status"] for state in result["checks_run"]}


def shown(result):
    return sorted((item["id"], item["severity"], item["subject"]) for item in result["findings"])


@pytest.fixture
def locks(tmp_path):
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks" / "app.lock.json").write_text(json.dumps(LOCK))
    return str(tmp_path / "locks")


def test_each_image_is_read_once_and_by_what_runs_not_by_its_name(host, locks):
    image = host.image("mcpstack/app:1")
    for name in ("a", "b", "c"):
        host.container(name, image, "mcpstack/app:1", check=CHECKED)
    result = judge(host, locks=locks)
    assert shown(result) == []
    assert host.asked.count(f"/images/{image}/get") == 1
    assert not [path for path in host.asked if "mcpstack/app" in path]
    assert {i for i, state in states(result).items() if state == "pass"} == set(TABLE) - {"IMG-05", "IMG-09"}
    assert [s["reason"] for s in result["checks_run"] if s["id"] == "IMG-09"] == [
        "mcpstack/app:1: 1 debian packages were not compared with anything"
    ]


def test_what_only_some_containers_have_does_not_excuse_the_image(host, locks):
    image = host.image("mcpstack/app:1", [*PLAIN, ("usr/bin/su", b"x", 0o4755)])
    host.container("a", image, "mcpstack/app:1", check=CHECKED)
    assert shown(judge(host, locks=locks)) == [("IMG-06", "low", "mcpstack/app:1")]
    host.container("b", image, "mcpstack/app:1", options=(), check={"Test": ["NONE"]})
    assert shown(judge(host, locks=locks)) == [
        ("IMG-05", "low", "mcpstack/app:1"), ("IMG-06", "medium", "mcpstack/app:1"),
    ]  # fmt: skip


def test_drift_from_the_lock_and_an_image_that_no_lock_is_of(host, locks):
    grown = [*PLAIN[:2], ("var/lib/dpkg/status", STATUS.replace(b"1:1.3-1", b"1:1.3-2"))]
    host.container("a", host.image("x/app:1", grown), "mcpstack/app:1", check=CHECKED)
    result = judge(host, locks=locks)
    assert shown(result) == [("IMG-01", "medium", "mcpstack/app:1")]
    assert result["findings"][0]["evidence"] == "1:1.3-2 where the lock has 1:1.3-1"
    host.containers.clear()
    host.container("b", host.image("x/app:1", grown), "elsewhere/app:1", check=CHECKED)
    assert states(judge(host, locks=locks))["IMG-01"] == "not_applicable"


def test_only_the_projects_that_are_asked_for(host):
    host.container("a", host.image("x/app:1", User=""), "x/app:1", check=CHECKED, project="other")
    assert [item["id"] for item in judge(host)["findings"]] == ["IMG-04", "IMG-09"]
    result = judge(host, projects=["shop"])
    assert result["findings"] == [] and set(states(result).values()) == {"not_applicable"}


def test_an_image_that_cannot_be_read_leaves_the_others_judged(host):
    broken = host.image("x/broken:1")
    host.images[broken] = host.images[broken][:3000]
    host.container("a", broken, "x/broken:1")
    host.container("b", "sha256:gone", "x/gone:1")
    host.container("c", host.image("x/root:1", User="0"), "x/root:1", check=CHECKED)
    result = judge(host)
    assert ("IMG-04", "high", "x/root:1") in shown(result)
    reason = next(state["reason"] for state in result["checks_run"] if state["id"] == "IMG-06")
    assert "x/broken:1: cannot be read" in reason
    assert "x/gone:1: sha256:gone: the engine has no such image" in reason
    assert "pass" not in states(result).values()


def test_a_container_that_ends_between_two_questions_is_no_error(host):
    gone = host.container("a", host.image("x/app:1"), "x/app:1")
    host.answers["/containers/json"] = [{"Id": gone}]
    host.containers.clear()
    assert set(states(judge(host)).values()) == {"not_applicable"}


@pytest.mark.parametrize("answer", [{}, {"a": 1}, [1], ["x"], b"\x00\xff", b"{", 3, "x" * 9])
def test_nonsense_of_an_engine_is_a_sentence(host, answer):
    host.answers["/containers/json"] = answer
    with pytest.raises(_door_image.Wrong):
        judge(host)


@pytest.mark.parametrize("answer", [{"x": 1}, {"Image": 3}, {"Image": ""}, [1], b"\xff"])
def test_nonsense_about_a_container_is_a_sentence(host, answer):
    number = host.container("a", host.image("x/app:1"), "x/app:1")
    host.answers[f"/containers/{number}/json"] = answer
    with pytest.raises(_door_image.Wrong, match="is no inspection|The Docker engine"):
        judge(host)


@pytest.mark.parametrize("config", [None, [], 3, {"Healthcheck": [1]}, {"Healthcheck": {"Test": {"a": 1}}}])
def test_half_an_inspection_excuses_nothing(host, config):
    number = host.container("a", host.image("x/app:1", [*PLAIN, ("bin/su", b"x", 0o4755)]), "x/app:1")
    host.containers[number].update(HostConfig=config)
    host.answers["/containers/json"] = [{"Id": number}]
    host.containers[number]["Config"] = config
    assert {("IMG-05", "low"), ("IMG-06", "medium")} <= {item[:2] for item in shown(judge(host))}


def test_a_source_that_does_not_answer_is_asked_once(host, monkeypatch):
    calls = []

    def silent(_self, suite, *_more):
        calls.append(suite)
        raise OSError("the wires are cut")

    monkeypatch.setattr(_image_updates.Debian, "_index", silent)
    for name in ("a", "b"):
        host.container(name, host.image(f"x/{name}:1"), f"x/{name}:1", check=CHECKED)
    result = judge(host, sources=["debian"], keyring="/dev/null", mirror="http://127.0.0.1:9/d")
    assert states(result)["IMG-09"] == "fail"  # no bill of materials; of updates nothing is known
    reason = next(state["reason"] for state in result["checks_run"] if state["id"] == "IMG-09")
    assert "x/a:1: Debian security archive: did not answer: the wires are cut" in reason
    assert "x/b:1: Debian security archive: did not answer: the wires are cut" in reason
    assert calls == ["trixie"]


def test_a_source_that_nobody_knows_is_refused(host):
    with pytest.raises(_door_image.Wrong, match="sources: rpm is none of debian and python"):
        judge(host, sources=["rpm"])


def test_the_daily_report_holds_the_images_and_waivers_cover_them(host, locks, tmp_path):
    image = host.image("mcpstack/app:1", [*PLAIN, ("usr/bin/su", b"x", 0o4755)], User="")
    host.container("a", image, "mcpstack/app:1", check=CHECKED)
    options = {"socket": host.socket, "locks": locks}
    config = {
        "title": "host a", "audits": [{"audit": "image", "subject": "images", "options": options}], "stored": [],
        "waivers": [{"id": "IMG-06", "where": "/usr/bin/su", "reason": "wanted by somebody", "expires": "2027-01-31"}],
        "fail_at": "high", "directory": str(tmp_path / "reports"), "keep": 2, "metrics_file": "",
    }  # fmt: skip
    (tmp_path / "audit.json").write_text(json.dumps(config))
    outcome = _audit_run.run(_audit_run.read_config(str(tmp_path / "audit.json")), now=1795266860)
    assert [(item["id"], bool(item["waived"])) for item in outcome.published["findings"]] == [
        ("IMG-04", False), ("IMG-06", True),
    ]  # fmt: skip
    assert [item["id"] for item in outcome.stopping(None)] == ["IMG-04"]
    report = json.loads((tmp_path / "reports" / "report.json").read_text())
    found = {state["id"]: state["status"] for state in report["checks"] if state["ran"]}
    assert (found["IMG-04"], found["IMG-06"], found["IMG-10"]) == ("fail", "waived", "pass")
    assert set(found) >= set(TABLE) and not {"IMG-04", "IMG-09"} & {item["id"] for item in report["not_run"]}
    host.containers.clear()
    assert _audit_run.run(_audit_run.read_config(str(tmp_path / "audit.json")), now=1795266999).silent


def test_without_an_engine_every_check_of_images_is_unknown():
    options = {"socket": "/nowhere/docker.sock"}
    entry = _audit_run._audited({"audit": "image", "subject": "images", "options": options})
    assert {state["id"]: state["status"] for state in entry["checks_run"]} == dict.fromkeys(TABLE, "unknown")
