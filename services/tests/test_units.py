# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Small parts, by table."""

from __future__ import annotations

import json
import logging

import pytest

import support
from mcpstack.common import apikey, logs
from mcpstack.common.errors import CATALOGUE, ApiError
from mcpstack.gateway.observe import route_of
from mcpstack.gateway.proxy import _COMPLETION_TOKENS, _PROMPT_TOKENS, _whole_events

GOOD_KEY = "mk_dev_abcdefghij23_" + "A" * 43 + "_583f8d85"


def test_a_known_key_keeps_its_check_sum() -> None:
    """The format is a contract with what generates keys: the sum covers all before the last underscore."""
    import zlib

    assert f"{zlib.crc32(GOOD_KEY[:-9].encode()):08x}" == GOOD_KEY[-8:]
    assert apikey.parse(GOOD_KEY) == apikey.ApiKey(GOOD_KEY, "dev", "abcdefghij23")


@pytest.mark.parametrize(
    "text",
    ["", "mk_", GOOD_KEY + "0", GOOD_KEY[:-1], GOOD_KEY.replace("dev", "tst"), GOOD_KEY.replace("AAA", "AAB", 1),
     GOOD_KEY.upper(), GOOD_KEY + "\n", " " + GOOD_KEY, GOOD_KEY.replace("A" * 43, "A" * 42), "é" * 72],
)  # fmt: skip
def test_other_texts_are_not_keys(text: str) -> None:
    assert apikey.parse(text) is None


def test_the_digest_depends_on_pepper_and_key() -> None:
    one, two = bytes(32), bytes([1]) * 32
    assert apikey.digest(GOOD_KEY, one) != apikey.digest(GOOD_KEY, two)
    assert apikey.digest(GOOD_KEY, one).hex() == apikey.digest(GOOD_KEY, one).hex()
    assert len(apikey.digest(GOOD_KEY, one)) == 32


def test_logs_are_json_and_masked(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        logs.configure("info")
        logs.hide("very-secret-value")
        key = support.make_key()
        logging.getLogger("a").info("hello %s", "very-secret-value", extra={"header": f"Bearer {key}", "n": 1})
        try:
            int(f"postgresql://user:pass@host and {key}")
        except ValueError:
            logging.getLogger("a").exception("failed")
    finally:
        root.handlers[:], root.level = before, level
    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (first["event"], first["header"], first["n"]) == ("hello [redacted]", "[redacted]", 1)
    assert "ValueError" in second["error"]
    assert key not in second["error"]
    assert "user:pass" not in second["error"]


@pytest.mark.parametrize("code", sorted(CATALOGUE))
def test_every_error_says_what_to_do(code: str) -> None:
    error = ApiError(code, "What happened.")
    body = error.body("req_1")["error"]
    assert set(body) == {"message", "type", "param", "code", "request_id", "suggestions"}
    assert body["suggestions"]
    assert all(suggestion.endswith(".") for suggestion in body["suggestions"])
    assert ("WWW-Authenticate" in error.headers) is (error.status == 401)
    assert error.status != 503 or int(error.headers["Retry-After"]) > 0


@pytest.mark.parametrize(
    ("held", "whole"),
    [(b"", 0), (b"data: x", 0), (b"data: x\n", 0), (b"data: x\n\n", 9), (b"data: x\n\ndata: y", 9),
     (b"data: x\r\n\r\ndata", 11), (b":\n\n", 3), (b"\n\n", 2), (b"a\n\nb\n\n", 6)],
)  # fmt: skip
def test_whole_events(held: bytes, whole: int) -> None:
    assert _whole_events(held) == whole


def test_token_counts_are_not_taken_from_what_the_model_wrote() -> None:
    text = json.dumps(
        {"content": '{"completion_tokens": 999, "x": 1}', "usage": {"prompt_tokens": 7, "completion_tokens": 3}}
    )
    found = _COMPLETION_TOKENS.search(text.encode())
    assert found is not None
    assert found[1] == b"3"
    found = _PROMPT_TOKENS.search(text.encode())
    assert found is not None
    assert found[1] == b"7"


@pytest.mark.parametrize(
    ("path", "route"),
    [("/v1/models", "/v1/models"), ("/v1/models/a/b", "/v1/models/{model}"), ("/v1/modelsx", "other"), ("/x", "other")],
)
def test_routes_for_labels(path: str, route: str) -> None:
    assert route_of(path) == route
