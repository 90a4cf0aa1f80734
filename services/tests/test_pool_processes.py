# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Model servers as processes of their own: killed under load, frozen, behind a cable that swallows everything."""

from __future__ import annotations

import json
import signal
import socket
import threading
from collections.abc import Callable

import modelserver
import support
from modelserver import ModelServer
from support import Cable, Reply
from test_pool import Team, crowd, team

Lay = Callable[[int], Cable]

__all__ = ["team"]  # the fixture


def test_one_killed_under_load_fails_nothing_beyond_its_own_sockets(team: Team) -> None:
    with modelserver.process("a", "tiny") as (port_a, victim), modelserver.process("b", "tiny") as (port_b, _):
        team.add("a", port_a)
        team.add("b", port_b)
        gateway = team.open(default_concurrency="5000")
        answers: list[Reply] = []
        stop = threading.Event()

        def load() -> None:
            while not stop.is_set():
                answers.append(gateway.chat(team.key, stream=len(answers) % 2 == 0, limit=30))

        with crowd(12) as pool:
            jobs = [pool.submit(load) for _ in range(12)]
            support.wait_for("some load", lambda: len(answers) > 100, 20)
            before = gateway.metric("gateway_requests_in_flight")
            victim.kill()
            killed_at = len(answers)
            support.wait_for("more load", lambda: len(answers) > killed_at + 200, 20)
            stop.set()
            for job in jobs:
                job.result()
        assert before <= 13
        broken = [answer for answer in answers if answer.status != 200 or b'"error"' in answer.body]
        # Twelve clients: not more than twelve requests can have been on its sockets.
        assert len(broken) <= 12
        codes = {answer.code if answer.status != 200 else answer.events[-1]["error"]["code"] for answer in broken}
        assert codes <= {"model_runner_error", "model_runner_unavailable"}
        assert not [answer for answer in answers[killed_at + 50 :] if answer in broken]


def test_a_frozen_one_times_out_and_is_then_passed_over(team: Team) -> None:
    with modelserver.process("a", "tiny") as (port_a, victim), modelserver.process("b", "tiny") as (port_b, _):
        team.add("a", port_a)
        team.add("b", port_b)
        gateway = team.open(model_first_byte_timeout="0.5", model_list_seconds="0.5")
        victim.send_signal(signal.SIGSTOP)
        answers = [gateway.chat(team.key) for _ in range(4)]
        assert {answer.status for answer in answers} <= {200, 504}
        support.wait_for("degraded", lambda: gateway.ready() == "degraded", 10)
        assert {team.who() for _ in range(6)} == {"b"}
        reason = gateway.get("/ready").json["checks"]["model_runner"]["reason"]
        assert reason == "1 of 2 cannot be used (a: it does not answer in time)"
        victim.send_signal(signal.SIGCONT)
        support.wait_for("it is back", lambda: team.who() == "a", 15)


def test_the_only_one_frozen_is_given_up_at_once_after_a_while(team: Team) -> None:
    with modelserver.process("a", "tiny") as (port, victim):
        team.add("a", port)
        gateway = team.open(model_first_byte_timeout="0.5", model_list_seconds="0.2")
        victim.send_signal(signal.SIGSTOP)
        assert gateway.chat(team.key).code == "model_runner_timeout"

        def given_up() -> bool:
            return gateway.chat(team.key).status == 503

        support.wait_for("503 without a wait", given_up, 20)
        answer = gateway.chat(team.key)
        assert answer.json["error"]["reason"] == "it does not answer in time"
        victim.send_signal(signal.SIGCONT)
        support.wait_for("it is back", lambda: gateway.chat(team.key).status == 200, 15)


def test_a_swallowing_cable_is_a_timeout(team: Team, cable: Lay) -> None:
    server = ModelServer(team.stack.loop)
    server.start()
    team.servers.append(server)
    line = cable(server.port)
    team.add("far", line.port)
    gateway = team.open(model_first_byte_timeout="0.4", model_idle_timeout="0.4")
    line.freeze()
    assert gateway.chat(team.key).code == "model_runner_timeout"
    line.plug()
    support.wait_for("it is back", lambda: gateway.chat(team.key).status == 200, 15)
    with gateway.open_stream(team.key, "#slow") as sock:
        got = sock.recv(4096)
        line.freeze()
        while piece := sock.recv(65536):
            got += piece
            if b'"error"' in got:
                break
    assert b"model_runner_timeout" in got
    line.plug()


def test_a_client_that_reads_nothing_does_not_hold_its_place(team: Team) -> None:
    server = team.server("one", max_concurrency=1, queue=5)
    gateway = team.open(model_idle_timeout="0.5", queue_timeout="20")
    body = {"model": "tiny", "messages": [{"role": "user", "content": "#flood"}], "stream": True}
    raw = json.dumps(body).encode()
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", gateway.port))
        sock.sendall(
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {team.key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n".encode()
            + raw
        )
        support.wait_for("the flood", lambda: server.running == 1, 5)
        assert gateway.chat(team.key, limit=20).status == 200
    assert gateway.metric("gateway_client_disconnects_total") == 1
