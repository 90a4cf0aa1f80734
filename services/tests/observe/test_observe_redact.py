# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is taken out of a text before it is logged, and what is left alone."""

from __future__ import annotations

import json
import logging
import time

import pytest

import support
from mcpstack.common import logs, redact
from mcpstack.gateway import content

KEY = support.make_key()
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJlLWhlcmU"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nIBAAKCAQ\n-----END RSA PRIVATE KEY-----"

TAKEN_OUT = [
    ("mail me: jane.doe+tag@example.co.uk.", "mail me: [e-mail]."),
    ("jürgen@müller.de", "[e-mail]"),
    (f"key {KEY}!", "key [key]!"),
    ("sk-proj-abcDEF123456 and", "[key] and"),
    ("Authorization: Bearer abc.def-123456", "Authorization: [key]"),
    ("ghp_abcdefghijklmnop1234", "[key]"),
    ("postgres://joe:geheim@db/x", "postgres://[key]@db/x"),
    (f"token={JWT};", "token=[token];"),
    (f"a {PEM} b", "a [private key] b"),
    (PEM[:50], "[private key]"),
    ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3Blbn", "[private key]"),
    ("card 4111 1111 1111 1111, ok", "card [card], ok"),
    ("4111-1111-1111-1111", "[card]"),
    ("378282246310005", "[card]"),
    ("4111\u200b1111\u200b1111\u200b1111", "[card]"),
    ("\uff14\uff11\uff11\uff11\uff11\uff11\uff11\uff11\uff11\uff11\uff11\uff11\uff11\uff11\uff11\uff11", "[card]"),
    ("\u0664\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661", "[card]"),
    ("DE89 3704 0044 0532 0130 00 is mine", "[iban] is mine"),
    ("GB82WEST12345698765432", "[iban]"),
    ("de89370400440532013000", "[iban]"),
    ("call +49 30 1234567 now", "call [phone] now"),
    ("+1 (555) 123-4567", "[phone]"),
    ("0049 171 1234567", "[phone]"),
    ("(030) 123 45 67", "[phone]"),
    ("030/1234567", "[phone]"),
    ("555-123-4567", "[phone]"),
    ("a@b.de, +49 171 5550123; 4111111111111111", "[e-mail], [phone]; [card]"),
]
LEFT_ALONE = [
    "",
    "The quick brown fox jumps over the lazy dog.",
    "4111 1111 1111 1112",  # the check digit is wrong
    "DE89370400440532013001",
    "on 2026-11-21 at 16:39:00",
    "version 10.12.4 of 192.168.100.200",
    "π is 3.14159265358979",
    "user@localhost",
    "x = y @ z; skip-this sketch",
    "1234567890123456789012345678901234567890",
    "-----BEGIN CERTIFICATE-----",
    "a bearer of news",
]


@pytest.mark.parametrize(("text", "expected"), TAKEN_OUT)
def test_taken_out(text: str, expected: str) -> None:
    assert redact.redact(text) == expected


@pytest.mark.parametrize("text", LEFT_ALONE)
def test_left_alone(text: str) -> None:
    assert redact.redact(text) == text


@pytest.mark.parametrize(
    "text",
    ["a" * 8192, "1 " * 4096, "+1" * 4096, "a@" * 4096, "DE89" * 2048, "-----BEGIN PRIVATE KEY-----" * 300,
     "((1" * 2700, "a." * 4096 + "@", "x@" + "a." * 4000, "eyJ" * 2700, "eyJaaaaa." * 900,
     "00" * 4096, "0" * 8192, "+123 " * 1600],
)  # fmt: skip
def test_no_text_takes_long(text: str) -> None:
    began = time.process_time()
    redact.redact(text)
    assert time.process_time() - began < 1  # a pattern that explodes takes minutes


@pytest.mark.parametrize("secret", [KEY, "jane.doe@example.org", "4111111111111111", JWT, PEM, "+49 171 5550123"])
def test_nothing_is_cut_before_it_is_recognised(secret: str) -> None:
    for place in range(redact.LONGEST - len(secret) - 5, redact.LONGEST + 5):
        text = "x" * (place - 1) + " " + secret + " " + "y" * 9000
        shown = redact.logged(text, full=False)
        assert len(shown) <= redact.LONGEST
        assert secret[:12] not in shown
    assert redact.logged("z" * 5000, full=True) == "z" * 4093 + "..."
    assert redact.logged(secret, full=True) == secret


def test_texts_of_a_request() -> None:
    picture = "data:image/png;base64," + "A" * 5000
    parts = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": picture}}]
    payload = {"model": "m", "messages": [{"role": "user", "content": parts}], "n": 1, "stop": ["a", "b"]}
    assert redact.strings(payload).split("\n") == [
        "m", "user", "text", "look", "image_url", f"[{len(picture)} characters]", "a", "b",
    ]  # fmt: skip
    assert len(redact.strings(["w " * 3000] * 1000)) < 20_000


def chunk(text: str, index: int = 0) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": index, "delta": {"content": text}}]}).encode() + b"\n\n"


def test_a_secret_that_comes_in_pieces_is_found(caplog: pytest.LogCaptureFixture) -> None:
    talk = content.Conversation("write to jane@example.org", full=False)
    for place in range(0, 16, 2):
        talk.streamed(chunk("4111111111111111"[place : place + 2]) + chunk(f"{place} ", 1))
    talk.streamed(b'data: {"type":"response.output_text.delta","delta":" eve@exa"}\n\n')
    talk.streamed(
        b'data: {"type":"content_block_delta","delta":{"type":"text_delta","text":"mple.org"}}\n\ndata: [DONE]\n\n'
    )
    with caplog.at_level(logging.INFO):
        talk.write("req_1", "kid1", "m")
    fields = vars(caplog.records[0])
    assert fields["prompt"] == "write to [e-mail]"
    assert fields["answer"].split("\n") == ["[card]", "0 2 4 6 8 10 12 14 ", " [e-mail]"]


def test_an_error_is_logged_without_its_message() -> None:
    formatter = logs.JsonFormatter()
    try:
        try:
            int("canary-one")
        except ValueError:
            raise KeyError("canary-two") from None
    except KeyError as error:
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "it failed", (), (KeyError, error, error.__traceback__))
    line = json.loads(formatter.format(record))
    assert line["error"].endswith("builtins.KeyError")
    assert "test_an_error_is_logged" in line["error"]
    assert "canary" not in line["error"].replace('int("canary-one")', "").replace(
        'raise KeyError("canary-two") from None', ""
    )
