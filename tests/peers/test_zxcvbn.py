# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hold the estimate of guesses against zxcvbn over 4160 made passwords; every difference has a reason in ledger/zxcvbn.yml."""

from __future__ import annotations

import base64
import json
import random
import string
import uuid
from pathlib import Path

import pytest
import yaml

from ansible_collections.mcpstack.platform.plugins.module_utils import _secret_strength as core
from ansible_collections.mcpstack.platform.tests.peers.conftest import call

LEDGER = Path(__file__).with_name("ledger") / "zxcvbn.yml"

EACH = 160
#: Powers of ten by which the figures may differ without a row in the ledger.
NEAR = 1.0
#: Below this zxcvbn itself calls a password weak (its scores 0 to 2).
WEAK = 8.0
PEER = """
import json, sys
from zxcvbn import zxcvbn
from zxcvbn.frequency_lists import FREQUENCY_LISTS
if sys.argv[1] == "words":
    print(json.dumps(FREQUENCY_LISTS))
else:
    values = json.load(sys.stdin)
    print(json.dumps([float(zxcvbn(v, user_inputs=["acme"], max_length=100)["guesses_log10"]) for v in values]))
"""
BASE62 = string.ascii_letters + string.digits
ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm", "1qaz2wsx3edc4rfv", "qazwsxedcrfv")


def peer(action, data=None):
    return json.loads(call("python", "-c", PEER, action, stdin=json.dumps(data)))


def makers(numbers, lists):
    """Kind -> how one password of it is made."""
    leaked = lists["passwords"]
    english = [word for word in lists["english_wikipedia"] if word.isalpha() and 4 <= len(word) <= 9]
    first_names, surnames = lists["female_names"] + lists["male_names"], lists["surnames"]
    pick, number = numbers.choice, numbers.randrange

    def drawn(alphabet, length):
        return "".join(pick(alphabet) for _unused in range(length))

    def run(row, length):
        start = number(6)
        return (row * 2)[start : start + length]

    def date():
        sign = pick("-/. ")
        return f"{number(1, 29):02}{sign}{number(1, 13):02}{sign}{number(1950, 2030)}"

    return {
        "leaked password, rank 1 to 1000": lambda: pick(leaked[:1000]),
        "leaked password, rank 1000 to 14000": lambda: pick(leaked[1000:14000]),
        "leaked password, rank over 14000": lambda: pick(leaked[14000:]),
        "leaked password with letters replaced": lambda: pick(leaked[:3000]).translate(str.maketrans("aeios", "@3105")),
        "leaked password backwards": lambda: pick(leaked[:3000])[::-1],
        "leaked password and year": lambda: pick(leaked[:3000]).title() + str(number(1990, 2020)) + pick("!?."),
        "word, year 2020 to 2029, mark": lambda: pick(english[:5000]).title() + str(number(2020, 2030)) + pick("!?."),
        "first name and date": lambda: f"{pick(first_names).title()}{number(1, 29):02}{number(1, 13):02}{number(1960, 2015)}",
        "surname and digits": lambda: pick(surnames) + drawn(string.digits, 3),
        "keyboard run": lambda: run(pick(ROWS), number(5, 14)),
        "repeated block": lambda: drawn(BASE62, number(1, 5)) * number(3, 9),
        "sequence": lambda: run(string.ascii_lowercase, number(5, 15)),
        "date": date,
        "two words": lambda: pick(english) + pick(["", "-", " "]) + pick(english),
        "four words": lambda: "-".join(pick(english) for _unused in range(4)),
        "five words": lambda: " ".join(pick(english) for _unused in range(5)),
        "random base62, 8": lambda: drawn(BASE62, 8),
        "random base62, 12": lambda: drawn(BASE62, 12),
        "random base62, 16": lambda: drawn(BASE62, 16),
        "random base62, 40": lambda: drawn(BASE62, 40),
        "hex, 16": lambda: drawn("0123456789abcdef", 16),
        "hex, 32": lambda: drawn("0123456789abcdef", 32),
        "UUID": lambda: str(uuid.UUID(int=numbers.getrandbits(128), version=4)),
        "base64 of 32 bytes": lambda: base64.b64encode(bytes(number(256) for _unused in range(32))).decode(),
        "printable, 20": lambda: drawn(string.printable[:94], 20),
        "company and year": lambda: "Acme" + pick(["", "Corp", "Inc"]) + str(number(2015, 2027)) + pick(["", "!"]),
    }  # fmt: skip


@pytest.fixture(scope="module")
def figures():
    """Kind -> [(theirs, ours)]."""
    numbers = random.Random(20260101)
    kinds = {kind: [make() for _unused in range(EACH)] for kind, make in makers(numbers, peer("words")).items()}
    theirs = iter(peer("guesses", [value for values in kinds.values() for value in values]))
    return {
        kind: [(next(theirs), core.guesses_log10(value, ["acme"])) for value in values]
        for kind, values in kinds.items()
    }


@pytest.fixture(scope="module")
def ledger():
    return {(row["case"], row["about"]): row for row in yaml.safe_load(LEDGER.read_text(encoding="utf-8"))}


def summary(pairs, about):
    """The difference as the ledger writes it, or None."""
    if about == "verdict":
        ours = sum(one < core.STRONG <= other for one, other in pairs)
        theirs = sum(other < core.STRONG <= one for one, other in pairs)
        return (f"strong: {theirs} of {len(pairs)}", f"strong: {ours} of {len(pairs)}") if ours or theirs else None
    higher = sum(other > one + NEAR for one, other in pairs)
    lower = sum(one > other + NEAR for one, other in pairs)
    return (f"more: {lower} of {len(pairs)}", f"more: {higher} of {len(pairs)}") if higher or lower else None


def test_every_difference_has_a_reason(figures, ledger):
    found = {
        (kind, about): dict(zip(("theirs", "ours"), difference))
        for kind, pairs in figures.items()
        for about in ("verdict", "figure")
        if (difference := summary(pairs, about))
    }
    written = {key: {name: row[name] for name in ("theirs", "ours")} for key, row in ledger.items()}
    assert found == written
    assert all(len(row["reason"]) > 30 for row in ledger.values())


def test_nothing_that_zxcvbn_calls_weak_is_strong(figures):
    assert not [kind for kind, pairs in figures.items() for one, other in pairs if one < WEAK and other >= core.STRONG]
