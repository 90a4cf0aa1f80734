# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts of the limits that need no server: the local limiter, estimates, the protocol of Valkey."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpstack.common.limits import CONCURRENCY, DAY, MONTH, REQUESTS, TOKENS, Limits, Local, Period, Verdict, refusal
from mcpstack.common.valkey import AnswerError, ValkeyError, Wire
from mcpstack.gateway.admission import Doors, Estimate, estimate

NOW = 1_795_000_000
TODAY = Period.at(NOW)


def codes(local: Local, limits: Limits, count: int, now: float = 0.0, want: int = 0) -> list[int]:
    return [local.take("k", limits, want, want, now, NOW).code for _ in range(count)]


# The local limiter


def test_requests_come_back_and_never_pile_up() -> None:
    local, limits = Local(1), Limits(2, 0)
    assert codes(local, limits, 3, 0.0) == [0, 0, REQUESTS]
    assert codes(local, limits, 1, 29.0) == [REQUESTS]
    assert codes(local, limits, 1, 30.5) == [0]
    assert codes(local, limits, 3, 10_000.0) == [0, 0, REQUESTS]
    assert codes(local, limits, 1, 5.0) == [REQUESTS]  # a clock that goes back gives nothing away


@pytest.mark.parametrize(
    ("replicas", "limits", "want", "expected"),
    [
        (1, Limits(5, 0), 0, [0] * 5 + [REQUESTS]),
        (3, Limits(6, 0), 0, [0, 0, REQUESTS]),
        (10, Limits(6, 0), 0, [0, REQUESTS]),  # at least one: a key is not shut out
        (2, Limits(99, 5, tpm=1000), 100, [0, 0, 0, 0, 0, TOKENS]),
        (2, Limits(99, 5, tokens_day=1000), 100, [0, 0, 0, 0, 0, DAY]),
        (2, Limits(99, 5, tokens_day=1000, tokens_month=500), 100, [0, 0, MONTH]),
        (2, Limits(99, 5, tpm=1000), 0, [0] * 9),
    ],
)
def test_a_replica_has_its_share(replicas: int, limits: Limits, want: int, expected: list[int]) -> None:
    local = Local(replicas)
    local.learn("k", TODAY, 0, 0)
    assert codes(local, limits, len(expected), want=want) == expected


def test_places_are_counted_here() -> None:
    local, limits = Local(2), Limits(99, 4)
    for expected in (0, 0, CONCURRENCY):
        verdict = local.take("k", limits, 0, 0, 0.0, NOW)
        assert verdict.code == expected
        local.running["k"] += verdict.allowed
    local.leave("k")
    assert local.take("k", limits, 0, 0, 0.0, NOW).allowed
    local.leave("k")
    assert "k" not in local.running


def test_what_was_heard_of_a_budget_counts_here_too() -> None:
    local, limits = Local(2), Limits(99, 4, tokens_day=1000)
    assert not local.knows("k", TODAY)
    local.learn("k", TODAY, 800, 0)
    assert local.knows("k", TODAY)
    assert not local.knows("k", Period(TODAY.day + 1, TODAY.month))
    assert codes(local, limits, 3, want=40) == [0, 0, DAY]
    local.settle("k", TODAY, 10 - 40, False)
    assert codes(local, limits, 1, want=40) == [0]
    local.settle("k", Period(TODAY.day - 1, TODAY.month), -5000, False)  # of yesterday: gives nothing back today
    assert codes(local, limits, 1, want=40) == [DAY]


def test_what_is_remembered_is_bounded() -> None:
    local = Local(1, capacity=10)
    for number in range(100):
        local.take(str(number), Limits(1, 0), 0, 0, 0.0, NOW)
    assert len(local._books) == 10
    doors = Doors()
    verdict = local.take("99", Limits(1, 0), 0, 0, 0.0, NOW)
    for number in range(10_050):
        doors.remember(str(number), verdict)
    assert len(doors._refused) == 10_000


def test_a_refusal_is_remembered_for_as_long_as_it_holds() -> None:
    doors, limits = Doors(), Limits(60, 0)
    verdict = Verdict(REQUESTS, 0, 0, 60_000, 60_000, 0, 0, 0, NOW, 0, 0, 0, limits)
    doors.remember("k", verdict)
    found = doors.refused("k", limits, True)
    assert found is not None
    assert 59_000 < found.requests_wait <= 60_000
    assert doors.refused("other", limits, True) is None
    assert doors.refused("k", Limits(61, 0), True) is None  # the limit was changed
    doors.remember("k", verdict._replace(requests_wait=0))
    assert doors.refused("k", limits, True) is None
    doors.remember("k", verdict._replace(degraded=True))
    assert doors.refused("k", limits, False) is not None
    assert doors.refused("k", limits, True) is None  # Valkey decides again


@pytest.mark.parametrize(("wait_ms", "seconds"), [(0, 1), (1, 1), (1000, 1), (1001, 2), (59_999, 60)])
@pytest.mark.parametrize("code", [REQUESTS, TOKENS])
def test_retry_after_is_rounded_up(code: int, wait_ms: int, seconds: int) -> None:
    waits = (wait_ms, 7) if code == REQUESTS else (7, wait_ms)
    error = refusal(Verdict(code, 0, 0, waits[0], 0, 0, waits[1], 0, NOW, 0, 0, 0, Limits(60, 0, 100)))
    assert error.code == "rate_limit_exceeded"
    assert error.headers["Retry-After"] == str(seconds)


# Estimates


@pytest.mark.parametrize(
    ("path", "payload", "expected"),
    [
        ("/v1/chat/completions", {"max_tokens": 7}, (7, 1)),
        ("/v1/chat/completions", {"max_tokens": 7, "max_completion_tokens": 9}, (9, 1)),
        ("/v1/chat/completions", {"max_tokens": 7.0, "n": 3}, (21, 3)),
        ("/v1/chat/completions", {"max_tokens": None, "n": None}, (None, 1)),
        ("/v1/chat/completions", {"n": 4}, (None, 4)),
        ("/v1/completions", {"prompt": ["a", "b"], "max_tokens": 0}, (0, 2)),
        ("/v1/completions", {"prompt": [[1, 2], [3]], "max_tokens": 5, "best_of": 3, "n": 2}, (30, 6)),
        ("/v1/completions", {"prompt": [1, 2, 3], "max_tokens": 5}, (5, 1)),
        ("/v1/responses", {"max_output_tokens": 11, "input": "x"}, (11, 1)),
        ("/v1/embeddings", {"input": "x"}, (0, 1)),
    ],
)
def test_estimates(path: str, payload: dict[str, Any], expected: tuple[int | None, int]) -> None:
    assert estimate(path, payload, 100) == Estimate(25, *expected)


def test_counting_tokens_uses_none() -> None:
    assert estimate("/v1/messages/count_tokens", {"messages": [], "max_tokens": 9}, 10**6) == Estimate(0, 0)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 400_000}},
        {"type": "input_audio", "input_audio": {"data": "B" * 400_000, "format": "wav"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "C" * 400_000}},
        {"type": "file", "file": {"file_data": "D" * 400_000}},
    ],
)
def test_pictures_do_not_count_by_their_bytes(part: dict[str, Any]) -> None:
    payload = {"messages": [{"role": "user", "content": [{"type": "text", "text": "what is it?"}, part]}]}
    assert 1024 < estimate("/v1/chat/completions", payload, len(json.dumps(payload))).prompt < 1200


def test_long_text_counts_wherever_it_is() -> None:
    text = "twelve words " * 30_000
    for payload in (
        {"messages": [{"content": text}]},
        {"data": text},
        {"x": {"file_data": text}},
        {"x": "data: " + text},
    ):
        assert estimate("/v1/chat/completions", payload, len(json.dumps(payload))).prompt > 90_000


# The protocol

STREAM = b"+OK\r\n$5\r\nab\r\nc\r\n:42\r\n$-1\r\n-NOSCRIPT no\r\n$0\r\n\r\n"
FOUND = [b"OK", b"ab\r\nc", 42, None, "NOSCRIPT no", b""]


class _Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        self.sent += bytes(data)

    def abort(self) -> None:
        self.aborted = True


def wire() -> tuple[Wire, _Transport]:
    made, transport = Wire(), _Transport()
    made.connection_made(transport)
    return made, transport


@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_answers_in_pieces(cuts: list[int]) -> None:
    made, _ = wire()
    found: list[Any] = []
    for _ in FOUND:
        made.send(["PING"], found.append)
    edges = [0, *sorted(cuts), len(STREAM)]
    for low, high in itertools.pairwise(edges):
        made.data_received(STREAM[low:high])
    assert [str(one) if isinstance(one, AnswerError) else one for one in found] == FOUND


def test_words_are_sent_as_they_are() -> None:
    made, transport = wire()
    made.send([b"SET", "a\r\nb", 7, "\ud800é"], print)
    assert transport.sent == b"*4\r\n$3\r\nSET\r\n$4\r\na\r\nb\r\n$1\r\n7\r\n$8\r\n\\ud800\xc3\xa9\r\n"


@pytest.mark.parametrize("nonsense", [b"HTTP/1.1 400\r\n", b"$x\r\n", b"*2\r\n", b":\r\n", b"\r\n"])
def test_what_is_no_answer_ends_the_connection(nonsense: bytes) -> None:
    made, transport = wire()
    found: list[Any] = []
    lost: list[BaseException] = []
    made.on_lost = lost.append
    made.send(["PING"], found.append)
    made.send(["PING"], found.append)
    made.data_received(nonsense)
    assert [type(one) for one in found] == [ValkeyError, ValkeyError]
    assert (made.closed, transport.aborted, len(lost)) == (True, True, 1)
    made.send(["PING"], found.append)
    assert len(found) == 3
    assert isinstance(found[2], ValkeyError)
