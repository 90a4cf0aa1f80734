# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts of the limits that need no server: the local limiter, estimates, the protocol of Valkey."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from typing import Any

import pytest
from limits_support import Settings

import support
from mcpstack.common.limits import CONCURRENCY, DAY, MONTH, REQUESTS, TOKENS, Limits, Local, Period, Verdict, refusal
from mcpstack.common.secretfile import SecretFile, password
from mcpstack.common.valkey import AnswerError, DownError, Link, ValkeyError, Word, reason
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


# The connection

STREAM = b"+OK\r\n$5\r\nab\r\nc\r\n:42\r\n$-1\r\n-NOSCRIPT no\r\n-NOPERM no\r\n-OOM no\r\n-ERR no\r\n$0\r\n\r\n"
FOUND = [b"OK", b"ab\r\nc", 42, None, "NOSCRIPT no", "NOPERM no", "OOM no", "no", b""]


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> support.Tls:
    return support.make_tls(tmp_path_factory.mktemp("tls"), None)


def talk(
    tls: support.Tls, pieces: list[bytes], words: list[list[Word]]
) -> tuple[list[Any], list[BaseException], bytes]:
    """What comes of `words` sent at once to a server that says `pieces`: the answers, what was lost, what it got."""

    async def scenario() -> tuple[list[Any], list[BaseException], bytes]:
        over, ended, heard = asyncio.Event(), asyncio.Event(), bytearray()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for line in (b"*3", b"$4", b"AUTH", b"$7", b"gateway", b"$20", b"p" * 20):
                assert await reader.readline() == line + b"\r\n"
            writer.write(b"+OK\r\n")
            heard.extend(await reader.read(65536))
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            await over.wait()
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            ended.set()

        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(tls.cert, tls.key)
        server = await asyncio.start_server(serve, "localhost", 0, ssl=context)
        secret = tls.ca.with_name("valkey-password")
        secret.write_text("p" * 20)
        link = Link(Settings(server.sockets[0].getsockname()[1], tls.ca), SecretFile("TEST", secret, password))
        made = await link.connect()
        lost: list[BaseException] = []
        made.on_lost = lost.append
        async with asyncio.timeout(5):
            answers = await asyncio.gather(*(made.ask(*each) for each in words), return_exceptions=True)
        if lost:
            await made.gone()
            with pytest.raises(DownError):
                await made.ask("PING")
        over.set()
        found = list(lost)
        await link.close()
        await ended.wait()
        server.close()
        return answers, found, bytes(heard)

    return asyncio.run(scenario())


@pytest.mark.parametrize("size", [1, 2, 3, 7, 20, len(STREAM)])
def test_answers_in_pieces(tls: support.Tls, size: int) -> None:
    pieces = [STREAM[at : at + size] for at in range(0, len(STREAM), size)]
    answers, lost, _ = talk(tls, pieces, [["PING"] for _ in FOUND])
    assert [str(one) if isinstance(one, AnswerError) else one for one in answers] == FOUND
    assert not lost


def test_words_are_sent_as_they_are(tls: support.Tls) -> None:
    _, _, heard = talk(tls, [b"+OK\r\n+OK\r\n"], [["SET", "a\r\nb", 7, "\ud800é", b"\xff"], ["PING"]])
    assert heard == (
        b"*5\r\n$3\r\nSET\r\n$4\r\na\r\nb\r\n$1\r\n7\r\n$8\r\n\\ud800\xc3\xa9\r\n$1\r\n\xff\r\n*1\r\n$4\r\nPING\r\n"
    )


@pytest.mark.parametrize(
    "nonsense", [b"HTTP/1.1 400\r\n", b"$x\r\n", b"*x\r\n", b":\r\n", b"\r\n", b"x" * 70_000, b"-LOADING later\r\n"]
)
def test_what_is_no_answer_ends_the_connection(tls: support.Tls, nonsense: bytes) -> None:
    answers, lost, _ = talk(tls, [nonsense], [["PING"], ["PING"]])
    assert len(lost) == 1
    assert isinstance(lost[0], ValkeyError)
    assert answers == [lost[0], lost[0]]
    assert reason(lost[0]) == ("it is starting" if b"LOADING" in nonsense else "no connection")


def test_an_answer_to_nothing_ends_the_connection(tls: support.Tls) -> None:
    answers, lost, _ = talk(tls, [b"+OK\r\n+OK\r\n"], [["PING"]])
    assert answers == [b"OK"]
    assert [type(one) for one in lost] == [ValkeyError]
