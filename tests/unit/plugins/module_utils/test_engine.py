# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Engine API client against a scripted engine: what it makes of refusals, broken answers and streams."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _engine

PING = b"HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Length: 2\r\n\r\nOK"


def http(body, status="200 OK", kind="application/json"):
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def frame(stream, data):
    return bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


class FakeEngine:
    """Answers one scripted reply per connection and remembers the requests."""

    def __init__(self, path):
        self.path = str(path)
        self.requests = []
        self.replies = []
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(self.path)
        self.server.listen(8)
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        while True:
            try:
                connection, _peer = self.server.accept()
            except OSError:
                return
            with connection:
                request = b""
                while b"\r\n\r\n" not in request:
                    request += connection.recv(65536)
                head, body = request.split(b"\r\n\r\n", 1)
                length = re.search(rb"(?i)content-length: (\d+)", head)
                while length and len(body) < int(length.group(1)):
                    body += connection.recv(65536)
                reply = self.replies.pop(0)
                stdin = b""
                if callable(reply):
                    reply, stdin = reply(connection)
                self.requests.append((head.split(b"\r\n")[0].decode(), body, stdin))
                with contextlib.suppress(BrokenPipeError):  # the client may have given up
                    connection.sendall(reply)

    def close(self):
        self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()
        self.thread.join(5)


@pytest.fixture
def fake(tmp_path):
    server = FakeEngine(tmp_path / "s")
    yield server
    server.close()


@pytest.fixture
def engine(fake):
    return _engine.Engine(fake.path, timeout=5)


@pytest.mark.parametrize(
    ("offered", "used"), [("1.41", "/v1.41"), ("1.44", "/v1.44"), ("1.47", "/v1.47"), ("1.52", "/v1.47")]
)
def test_speaks_a_version_both_sides_know(fake, engine, offered, used):
    fake.replies = [PING.replace(b"1.41", offered.encode()), http({"Version": "x"})]
    assert engine.version() == {"Version": "x"}
    assert [line for line, _body, _stdin in fake.requests] == ["GET /_ping HTTP/1.1", f"GET {used}/version HTTP/1.1"]


@pytest.mark.parametrize(
    ("reply", "kind", "message"),
    [
        (
            PING.replace(b"1.41", b"1.40"),
            _engine.EngineError,
            "{path}: the Docker engine speaks API 1.40; 1.41 (Docker 20.10) or newer is needed.",
        ),
        (http(b"hello"), _engine.EngineUnavailable, "{path}: what listens here is not a Docker engine."),
        (
            http({"message": "starting"}, "503 Unavailable"),
            _engine.EngineUnavailable,
            "{path}: the Docker engine is not ready: starting",
        ),
    ],
)
def test_refuses_what_it_cannot_talk_to(fake, engine, reply, kind, message):
    fake.replies = [reply]
    with pytest.raises(kind) as caught:
        engine.info()
    assert caught.value.message == message.format(path=fake.path)


def test_a_missing_socket_says_what_to_do(tmp_path):
    with pytest.raises(_engine.EngineUnavailable) as caught:
        _engine.Engine(str(tmp_path / "none")).info()
    assert str(caught.value) == f"{tmp_path}/none: no Docker engine listens here; install and start docker."


def test_a_dead_socket_says_what_to_do(tmp_path):
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(tmp_path / "dead"))
    dead.close()
    with pytest.raises(_engine.EngineUnavailable, match="does not answer .*; is the docker service running\\?$"):
        _engine.Engine(str(tmp_path / "dead")).info()


def test_a_silent_engine_is_unavailable(tmp_path):
    silent = socket.socket(socket.AF_UNIX)
    silent.bind(str(tmp_path / "silent"))
    silent.listen(1)
    with silent, pytest.raises(_engine.EngineUnavailable, match=r"did not answer GET /_ping within 0\.05 s\.$"):
        _engine.Engine(str(tmp_path / "silent"), timeout=0.05).info()


def test_an_error_carries_status_and_the_engines_words(fake, engine):
    fake.replies = [PING, http({"message": "out of disk"}, "500 Internal Server Error")]
    with pytest.raises(_engine.EngineError) as caught:
        engine.post("/containers/create", body={})
    assert caught.value.status == 500
    assert str(caught.value) == "The Docker engine refused POST /containers/create: out of disk"


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nab",
        b"HTTP/1.1 2",
        b"",
    ],
)
def test_a_truncated_answer_is_an_error_never_half_an_answer(fake, engine, reply):
    fake.replies = [PING, reply]
    with pytest.raises(_engine.EngineError, match="broke off while answering GET /v1.41/info"):
        engine.info()


def test_chunked_answers_are_joined(fake, engine):
    fake.replies = [
        PING,
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        b'4\r\n{"a"\r\n4\r\n: 1}\r\n0\r\n\r\n',
    ]
    assert engine.info() == {"a": 1}


def test_an_absent_image_is_none_but_a_failing_engine_is_not(fake, engine):
    fake.replies = [PING, http({"message": "No such image"}, "404 Not Found"), http({"message": "x"}, "500 Error")]
    assert engine.image("mcpstack/nginx:1") is None
    with pytest.raises(_engine.EngineError):
        engine.image("mcpstack/nginx:1")


def test_parameters_are_encoded_the_way_the_engine_reads_them(fake, engine):
    fake.replies = [PING, http([])]
    engine.get("/containers/json", {"all": True, "limit": None, "filters": {"status": ["running"]}})
    assert fake.requests[1][
        0
    ] == "GET /v1.41/containers/json?all=1&filters=%7B%22status%22%3A+%5B%22running%22%5D%7D " + ("HTTP/1.1")


def test_load_streams_the_file_and_returns_the_references(fake, engine, tmp_path):
    archive = tmp_path / "a.tar"
    archive.write_bytes(b"x" * 200000)
    lines = b'{"stream":"Loaded image: mcpstack/nginx:1\\n"}\r\n{"stream":"Loaded image ID: sha256:ab\\n"}\r\n'
    fake.replies = [PING, http(lines)]
    assert engine.load_image(str(archive)) == ["mcpstack/nginx:1", "sha256:ab"]
    assert fake.requests[1][1] == b"x" * 200000


def test_an_error_inside_a_successful_load_counts(fake, engine, tmp_path):
    archive = tmp_path / "a.tar"
    archive.write_bytes(b"x")
    fake.replies = [PING, http(b'{"stream":"x"}\n{"errorDetail":{"message":"no space"},"error":"no space"}\n')]
    with pytest.raises(_engine.EngineError, match="^The Docker engine reported: no space$"):
        engine.load_image(str(archive))


def test_a_load_that_breaks_off_counts(fake, engine, tmp_path):
    archive = tmp_path / "a.tar"
    archive.write_bytes(b"x")
    fake.replies = [PING, http(b'{"stream":"x"}\n{"stre')]
    with pytest.raises(_engine.EngineError, match="broke off in the middle of an answer"):
        engine.load_image(str(archive))


def test_the_newest_container_of_a_service_is_found(fake, engine):
    fake.replies = [
        PING,
        http([{"Id": "old", "Created": 1}, {"Id": "new", "Created": 2}]),
        http({"message": "gone"}, "404 Not Found"),
        http({"Id": "old"}),
    ]
    assert engine.find_service_container("mcpstack", "edge") == {"Id": "old"}
    assert [line.split()[1] for line, _body, _stdin in fake.requests[2:]] == [
        "/v1.41/containers/new/json",
        "/v1.41/containers/old/json",
    ]


def _reads_stdin(reply):
    def answer(connection):
        stdin = b""
        while chunk := connection.recv(65536):
            stdin += chunk
        return reply, stdin

    return answer


UPGRADED = b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\n"


def test_exec_feeds_stdin_and_separates_the_streams(fake, engine):
    stream = frame(1, b"out") + frame(2, b"err") + frame(1, b"put")

    def answer(connection):
        connection.sendall(UPGRADED)
        return _reads_stdin(stream)(connection)

    fake.replies = [PING, http({"Id": "e1"}), answer, http({"Running": False, "ExitCode": 3})]
    result = engine.exec("c1", ["cat"], stdin=b"secret" * 50000, user=64104, env={"A": "b"})
    assert result == _engine.ExecResult(3, b"output", b"err")
    created = json.loads(fake.requests[1][1])
    assert (created["User"], created["Env"], created["AttachStdin"]) == ("64104", ["A=b"], True)
    assert fake.requests[2][2] == b"secret" * 50000


def test_exec_with_an_early_end_of_the_stream_is_an_error(fake, engine):
    fake.replies = [PING, http({"Id": "e1"}), UPGRADED + frame(1, b"output")[:-2]]
    with pytest.raises(_engine.EngineError, match="broke off in the middle of an output stream"):
        engine.exec("c1", ["cat"])


def test_exec_that_does_not_end_is_given_up(fake, engine):
    release = threading.Event()

    def answer(connection):
        connection.sendall(UPGRADED)
        release.wait(5)
        return b"", b""

    fake.replies = [PING, http({"Id": "e1"}), answer]
    with pytest.raises(_engine.EngineError, match="^sleep in container c1 did not finish in time.$"):
        engine.exec("c1", ["sleep"], timeout=0.05)
    release.set()


def test_exec_in_a_stopped_container_says_why(fake, engine):
    fake.replies = [PING, http({"Id": "e1"}), http({"message": "Container c1 is not running"}, "409 Conflict")]
    with pytest.raises(_engine.EngineError) as caught:
        engine.exec("c1", ["cat"])
    assert str(caught.value) == "The Docker engine refused POST /exec/e1/start: Container c1 is not running"
    assert caught.value.status == 409


@pytest.mark.parametrize(
    ("data", "streams"),
    [(b"", (b"", b"")), (frame(1, b""), (b"", b"")), (frame(2, b"a") + frame(1, b"b") + frame(2, b"c"), (b"b", b"ac"))],
)
def test_demultiplex(data, streams):
    assert _engine.demultiplex(data) == streams


@pytest.mark.parametrize("data", [b"abc", b"plain text, not a frame", frame(1, b"abc")[:-1]])
def test_demultiplex_refuses_what_is_not_a_stream(data):
    with pytest.raises(_engine.EngineError):
        _engine.demultiplex(data)
