# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""image_audit as Ansible calls it: archives, an engine that answers on a socket of our own, and refusals."""

from __future__ import annotations

import http.server
import json
import os
import socketserver
import threading

import pytest

from ansible_collections.mcpstack.platform.plugins.modules import image_audit
from ansible_collections.mcpstack.platform.tests.unit.plugins.module_utils.test_image_contents import docker_save, tar

SETTINGS = {"User": "1000", "Cmd": ["x"], "Healthcheck": {"Test": ["CMD", "x"]}}
STATUS = b"Package: zlib1g\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1:1.3-1\n"
LAYER = tar([("etc/passwd", b"root:x:0:0::/:/x\n"), ("var/lib/dpkg/status", STATUS), ("usr/bin/su", b"x", 0o4755)])
LOCK = {"packages": [{"name": "zlib1g", "version": "1:1.3-1"}]}


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "app.tar"
    path.write_bytes(docker_save([LAYER], SETTINGS, ("example/app:1",)))
    return path


def states(answer):
    return {state["id"]: state["status"] for state in answer["checks_run"]}


def test_an_archive_is_judged(call, archive):
    answer = call(image_audit, {"archives": [str(archive)], "sources": [], "no_new_privileges": True})
    assert answer["changed"] is False
    assert [(item["id"], item["severity"], item["subject"]) for item in answer["findings"]] == [
        ("IMG-06", "low", "example/app:1"),
        ("IMG-09", "low", "example/app:1"),
        ("IMG-10", "low", "example/app:1"),
    ]
    assert answer["images"][0]["layers"] == 1
    assert states(answer)["IMG-01"] == "not_applicable"


def test_it_stops_at_what_is_asked_for(call, archive):
    answer = call(image_audit, {"archives": [str(archive)], "sources": [], "fail_at": "medium"})
    assert answer["failed"] is True
    assert answer["msg"].startswith("1 finding at or above medium:\n- MEDIUM IMG-06 ")


@pytest.mark.parametrize("whole", [False, True])
def test_locks_and_bills_lie_beside_the_image(call, archive, tmp_path, whole):
    (tmp_path / "app.lock.json").write_text(json.dumps(LOCK))
    (tmp_path / "app.cdx.json").write_text(json.dumps({"components": [{"name": "zlib1g", "version": "1:1.3-1"}]}))
    lock = tmp_path if whole else tmp_path / "app.lock.json"
    answer = call(image_audit, {"archives": [str(archive)], "sources": [], "lock": str(lock)})
    assert [item["id"] for item in answer["findings"]] == ["IMG-06"]
    assert (states(answer)["IMG-01"], states(answer)["IMG-09"]) == ("pass", "unknown")


def test_a_directory_without_a_lock_for_the_image(call, archive, tmp_path):
    (tmp_path / "other.lock.json").write_text("{}")
    answer = call(image_audit, {"archives": [str(archive)], "sources": [], "lock": str(tmp_path)})
    assert states(answer)["IMG-01"] == "not_applicable"


def test_an_archive_that_cannot_be_read_leaves_everything_unknown(call, tmp_path):
    (tmp_path / "x.tar").write_bytes(b"x" * 5000)
    answer = call(image_audit, {"archives": [str(tmp_path / "x.tar")], "fail_at": "info"})
    assert set(states(answer).values()) == {"unknown"}
    assert answer["checks_run"][0]["reason"].endswith(
        "cannot be read: it is no tar archive, or a header in it is damaged"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"archives": ["/nowhere/app.tar"]}, "/nowhere/app.tar: cannot be opened (No such file or directory)"),
        ({"images": ["app"], "socket": "/nowhere/docker.sock"}, "no Docker engine listens here"),
        ({}, "one of the following is required: archives, images, dockerfiles"),
    ],
)
def test_what_is_not_there_is_a_sentence(call, arguments, message):
    answer = call(image_audit, arguments)
    assert answer["failed"] is True
    assert message in answer["msg"]


def test_a_lock_that_is_none_is_a_sentence(call, archive, tmp_path):
    (tmp_path / "x.lock.json").write_text("{")
    answer = call(image_audit, {"archives": [str(archive)], "lock": str(tmp_path / "x.lock.json")})
    assert "x.lock.json: is not JSON" in answer["msg"]


def test_a_dockerfile_alone_is_asked_only_what_it_can_answer(call, tmp_path):
    (tmp_path / "Dockerfile").write_text("FROM debian:13.1-slim\nHEALTHCHECK CMD app\nCMD app\n")
    answer = call(image_audit, {"dockerfiles": [str(tmp_path / "Dockerfile")]})
    assert [(i["id"], i["where"]) for i in answer["findings"]] == [
        (i, f"{tmp_path}/Dockerfile:1") for i in ("IMG-04", "IMG-01")
    ]
    assert states(answer) == {
        "IMG-01": "fail",
        "IMG-02": "pass",
        "IMG-04": "fail",
        "IMG-05": "pass",
        "IMG-07": "pass",
        "SEC-15": "pass",
    }


# -- an engine --------------------------------------------------------------------------------------------------------


@pytest.fixture
def engine(tmp_path):
    """Answers as an engine does; hands out the archive in chunks."""
    path = str(tmp_path / "docker.sock")
    data = {"image": docker_save([LAYER], SETTINGS, ("example/app:1",)), "options": []}

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def address_string(self):
            return "local"

        def log_message(self, *_args):
            pass

        def do_GET(self):
            where = self.path.split("?")[0]
            answers = {
                "/_ping": b"OK", "/v1.44/images/app/json": b'{"Id": "sha256:x"}', "/v1.44/images/app/get": data["image"],
                "/v1.44/info": json.dumps({"SecurityOptions": data["options"]}).encode(),
                "/v1.44/version": b'{"Os": "linux", "Arch": "amd64"}',
            }  # fmt: skip
            body = answers.get(where, b'{"message": "no such image"}')
            self.send_response(200 if where in answers else 404)
            self.send_header("Api-Version", "1.44")
            self.send_header("Content-Type", "application/x-tar" if where.endswith("/get") else "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    class Server(socketserver.ThreadingUnixStreamServer):
        daemon_threads = True

        def handle_error(self, request, client_address):
            """A client that has seen enough hangs up."""

    server = Server(path, Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield path, data
    server.shutdown()
    thread.join()
    server.server_close()
    os.unlink(path)


def test_an_image_of_an_engine_is_judged(call, engine):
    answer = call(image_audit, {"images": ["app"], "socket": engine[0], "sources": []})
    assert [(item["id"], item["severity"], item["subject"]) for item in answer["findings"]] == [
        ("IMG-06", "medium", "app"),
        ("IMG-09", "low", "app"),
    ]
    assert states(answer)["IMG-10"] == "unknown"


def test_an_engine_that_gives_no_new_privileges_neutralises_bits(call, engine):
    engine[1]["options"] = ["name=seccomp,profile=builtin", "name=no-new-privileges"]
    answer = call(image_audit, {"images": ["app"], "socket": engine[0], "sources": []})
    assert [item["severity"] for item in answer["findings"] if item["id"] == "IMG-06"] == ["low"]


def test_an_image_that_the_engine_lacks_is_a_sentence(call, engine):
    answer = call(image_audit, {"images": ["absent"], "socket": engine[0]})
    assert answer["msg"] == (
        "The image cannot be judged: absent: the engine has no such image; name one of docker image ls"
    )


def test_an_export_that_breaks_off_leaves_everything_unknown(call, engine):
    engine[1]["image"] = engine[1]["image"][:3000]
    answer = call(image_audit, {"images": ["app"], "socket": engine[0]})
    assert set(states(answer).values()) == {"unknown"}
