# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Streams taken apart in every possible way: what the client gets and what is counted do not depend on the pieces."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcpstack.gateway import dialects
from mcpstack.gateway.endpoints import BY_PATH
from mcpstack.gateway.metrics import Metrics
from mcpstack.gateway.proxy import Answer, _whole_events


class Counted:
    def __init__(self) -> None:
        self.settled: list[tuple[int | None, int]] = []

    def settle(self, prompt: int | None, completion: int) -> bool:
        self.settled.append((prompt, completion))
        return True

    def refund(self) -> bool:
        raise AssertionError


def answer(path: str, show_usage: bool) -> tuple[Answer, Counted]:
    counted = Counted()
    gateway: Any = SimpleNamespace(metrics=Metrics(), settings=SimpleNamespace())
    made = Answer(
        gateway, BY_PATH[path], model="tiny", body=b"{}", stream=True, show_usage=show_usage, reservation=counted
    )
    return made, counted


def line(data: Any, name: str = "") -> bytes:
    text = data if isinstance(data, str) else json.dumps(data)
    return (f"event: {name}\n" if name else "").encode() + b"data: " + text.encode() + b"\n\n"


def chunk(text: str) -> bytes:
    return line({"id": "c1", "choices": [{"index": 0, "delta": {"content": text}}]})


USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
TRICKY = [chunk("a"), chunk('"usage": {} "error"\n\ndata: [DONE]'), chunk("data: x"), b": ping\n\n", chunk("")]
CHAT = [*TRICKY, line({"id": "c1", "choices": [], "usage": USAGE}), line("[DONE]")]
RESPONSES = [
    line({"type": "response.created", "response": {"usage": None, "error": None}}, "response.created"),
    line({"type": "response.output_text.delta", "delta": '"usage"'}, "response.output_text.delta"),
    line({"type": "response.completed", "response": {"usage": {"input_tokens": 3, "output_tokens": 4}, "error": None,
          "tools": [{"usage": {"output_tokens": 1}}]}}, "response.completed"),
]  # fmt: skip
MESSAGES = [
    line(
        {"type": "message_start", "message": {"usage": {"input_tokens": 1, "cache_read_input_tokens": 2}}},
        "message_start",
    ),
    line({"type": "content_block_delta", "delta": {"text": "x"}}, "content_block_delta"),
    line({"type": "message_delta", "delta": {}, "usage": {"output_tokens": 4}}, "message_delta"),
    line({"type": "message_stop"}, "message_stop"),
]
STREAMS = [
    ("/v1/chat/completions", CHAT, True, CHAT),
    ("/v1/chat/completions", CHAT, False, [*TRICKY, CHAT[-1]]),
    ("/v1/responses", RESPONSES, True, RESPONSES),
    ("/v1/messages", MESSAGES, True, MESSAGES),
]


@pytest.mark.parametrize(("path", "events", "show", "expected"), STREAMS)
@pytest.mark.parametrize("dos", [False, True])
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_pieces_do_not_matter(
    path: str, events: list[bytes], show: bool, expected: list[bytes], dos: bool, data: st.DataObject
) -> None:
    whole, want = b"".join(events), b"".join(expected)
    if dos:
        whole, want = whole.replace(b"\n", b"\r\n"), want.replace(b"\n", b"\r\n")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    made, counted = answer(path, show)
    got: list[bytes] = []

    async def send(message: Any) -> None:
        got.append(message["body"])

    async def play() -> bool:
        held, finished = b"", False
        for piece in pieces:
            held += piece
            if cut := _whole_events(held):
                ready, held = held[:cut], held[cut:]
                finished = finished or made._ends(ready)
                await made._forward(send, ready, finished)
        return finished

    assert asyncio.run(play())
    assert b"".join(got) == want
    assert counted.settled == [(3, 4)]


def test_every_end_is_at_the_beginning_of_a_line() -> None:
    for path, events, _, _ in STREAMS:
        made, _ = answer(path, True)
        assert [made._ends(event) for event in events] == [False] * (len(events) - 1) + [True]
    assert dialects.of("/v1/messages/count_tokens") is dialects.ANTHROPIC
