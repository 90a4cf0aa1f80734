# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How strong a secret is, and what is none: what has to pass, what must not, and how much work an answer may take."""

from __future__ import annotations

import random
import string
import uuid

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _secret_strength as core
from ansible_collections.mcpstack.platform.plugins.module_utils import _secret_words

WEAK = """
P@ssw0rd2024!|Summer2026!|Winter-2025|password|Passw0rd123|drowssap|qwertyuiop|QWERTYUIOPasdfghjkl|1qaz2wsx3edc4rfv5tgb6yhn
zaq1xsw2cde3vfr4bgt5|asdfghjkl;'|poiuytrewq|147258369|aaaaaaaaaaaaaaaaaaaaaaaa|Abc123!Abc123!Abc123!Abc123!|abcabcabcabcabcabc
deadbeefdeadbeefdeadbeefdeadbeef|0123456789abcdef0123456789abcdef|00112233445566778899aabbccddeeff|12345678901234567890
12345678-1234-1234-1234-123456789012|abcdefghijklmnopqrstuvwxyz|2026-01-31|31.12.1999|Acme2026!|Acme-Corp-2026|acme_admin
AcmeCorporation2026!|letmein!!|monkey12|correcthorse|iloveyou2|Kaffeemaschine2024|x|ab|12|!|trustno1trustno1trustno1
""".replace("\n", "|").strip("|").split("|")  # fmt: skip
STRONG = """
f04a792b68a7a87e82dc0aff890d0394|3f2b8c1e-9d47-4a6b-8e05-7c1d92f4ab36|7Q8cOshlG56UrlMKzUkqd0aXdgzE96ibXJs8Cuc7Yo4=
unpaved cosmic lisp tundra oboe|unpaved-cosmic-lisp-tundra-oboe-quarry|UnpavedCosmicLispTundraOboe|k7#mQ2!vXp9@Lr4$Tz
kQ7vTzL2mXw9RbN4cHf6YdJp3sGa8uEt5xVnZr1K|mk_prod_abcdefgh2345_kQ7vTzL2mXw9RbN4cHf6YdJp3sGa8uEt5xVnZr1Kabc_9d41f6b2
zufällig-geräte-öffnung-übermaß-löffel|правильная-лошадь-батарея-скрепка-окно
""".replace("\n", "|").strip("|").split("|")  # fmt: skip


@pytest.mark.parametrize("value", WEAK)
def test_what_people_choose_is_weak(value):
    assert core.weak(value, ["acme"])


@pytest.mark.parametrize("value", STRONG)
def test_what_is_drawn_at_random_is_strong(value):
    assert not core.weak(value, ["acme"])
    assert core.placeholder(value) is None


def draw(alphabet, length):
    return lambda numbers: "".join(numbers.choice(alphabet) for _unused in range(length))


def words(numbers, joint):
    choice = [word for word in _secret_words.ranks() if word.isalpha() and 4 <= len(word) <= 8]
    return joint.join(numbers.choice(choice) for _unused in range(5))


KINDS = {
    "hex-32": draw("0123456789abcdef", 32),
    "hex-64": draw("0123456789abcdef", 64),
    "base62-20": draw(string.ascii_letters + string.digits, 20),
    "base62-40": draw(string.ascii_letters + string.digits, 40),
    "base64-44": draw(string.ascii_letters + string.digits + "+/", 44),
    "base32-26": draw(string.ascii_lowercase + "234567", 26),
    "printable-20": draw(string.printable[:94], 20),
    "uuid": lambda numbers: str(uuid.UUID(int=numbers.getrandbits(128), version=4)),
    "passphrase": lambda numbers: words(numbers, "-"),
    "passphrase without separators": lambda numbers: words(numbers, ""),
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_of_generated_secret_is_refused(kind):
    numbers = random.Random(kind)
    values = [KINDS[kind](numbers) for _unused in range(150)]
    assert [value for value in values if core.weak(value) or core.placeholder(value)] == []


def test_the_estimate_is_that_of_zxcvbn():
    """Figures of zxcvbn 4.5 for patterns that both know; the words' ranks are powers of two here."""
    known = {
        "password": 0.48, "123456": 0.30, "dragon": 1.04, "drowssap": 0.70, "p4ssw0rd": 0.95, "abcdefghijk": 1.65, "aaaaaaaa": 1.99,
        "qwerty": 0.70, "zxcvbnm": 1.60, "kQ7vTzL2mXw9": 12.0, "9d41f6b28c3e75a0": 16.0, "13.05.1987": 4.64, "monkeymonkey": 1.52,
        "Summer2016!": 7.44,
    }  # fmt: skip
    for value, figure in known.items():
        assert core.guesses_log10(value) == pytest.approx(figure, abs=0.2), value


def test_context_makes_a_word_easy():
    assert core.guesses_log10("zyxoprax", ["zyxoprax"]) < 2 < core.guesses_log10("zyxoprax")
    assert core.guesses_log10("my-gateway-x7", ["my-gateway"]) < core.guesses_log10("my-gateway-x7")


@pytest.mark.parametrize(
    "value", ["", " ", "ß", "İİİİ", "ﬃ" * 20, "\ud800", "٠١٢٣٤٥٦٧", "2024", "٢٠٢٤٢٠٢٤", "\x00\x01", "a" * 99, "é" * 101]
)
def test_any_text_has_a_figure(value):
    assert 0 <= core.guesses_log10(value, [value]) < 400


@pytest.mark.parametrize("seed", range(20))
def test_random_mixtures_have_a_figure_that_is_never_more_than_ten_for_each_character(seed):
    numbers = random.Random(seed)
    pieces = ["password", "aaa", "1!|7", "2024-01-31", "qwerty", "É", "abcabc", "x", "$%&", "\n", "0101"]
    value = "".join(numbers.choice(pieces) for _unused in range(numbers.randrange(1, 30)))
    assert 0 <= core.guesses_log10(value) <= max(len(value), 2) + 0.1


def test_long_values_take_bounded_work(monkeypatch):
    """A value of a megabyte is looked at in its first characters only, whatever it is made of."""
    lengths = []
    estimate = core._estimate
    monkeypatch.setattr(core, "_estimate", lambda value, *rest: lengths.append(len(value)) or estimate(value, *rest))
    for piece in ("a", "ab", "password", "1!|7$@", "aab" * 40, "xy" * 60 + "z", "fibonacci"):
        lengths.clear()
        core.guesses_log10((piece * (1_000_000 // len(piece) + 1))[:1_000_000])
        assert max(lengths) <= core.HORIZON
        assert len(lengths) <= 2 * (1 + core._BLOCKS)


@pytest.mark.parametrize("value", ["a" * 10_000, "password" * 1000, "Abc1!" * 500 + "Ab", "qwerty" * 30 + "x"])
def test_length_alone_is_no_strength(value):
    assert core.weak(value)


def test_a_long_random_value_stays_strong():
    assert not core.weak(draw(string.ascii_letters, 5000)(random.Random(2)))


# -- placeholders -----------------------------------------------------------------------------------------------------

PLACEHOLDERS = """
CHANGE_ME changeme ChangeMe123! Ch4ng3M3! ch@ngeme CHANGE_ME_IN_PRODUCTION_32_CHARS change_this_secret changeit please-change-me
must-be-changed your-api-key your_password_here yourpassword YOUR_OPENAI_KEY your-super-secret-jwt-token example-secret example
sk-xxxxxxxxxxxx sk-your-key-here xxxxxxxx xxxx-xxxx XXXXX <password> <your-token> [token] ${DB_PASSWORD} $DB_PASSWORD %TOKEN%
{{vault_pw}} {%raw%} %(db)s {password} __TOKEN__ @TOKEN@ ******** ... ___ postgres minioadmin admin root guest insert-token-here
INSERT_KEY put_your_key_here dummy dummy-token fake_key supersecret super-secret-key mysecretpassword my-secret-pw secret password
replace-me REPLACE_WITH_RANDOM todo TODO_set_this none null test-secret not-a-real-secret do-not-use foobared changeme-changeme
AKIAIOSFODNN7EXAMPLE wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY SW2YcwTIb9zpOOhoPsMm 00112233445566778899aabbccddeeff
django-insecure-8f3k2l9x7v 00000000-0000-0000-0000-000000000000 11111111-1111-1111-1111-111111111111 00000000 generate-with-openssl-rand
openssl_rand_base64_32 a-very-long-random-string keyboard-cat fill_me_in prod-secret-change-me sk-ant-api03-your-key
ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx hf_your_token admin-password rootpassword this-is-a-secret yourStrong(!)Password
DefaultPassword "changeme" 'secret'
""".split()


@pytest.mark.parametrize("value", PLACEHOLDERS)
def test_placeholders_are_told_with_a_reason_that_does_not_repeat_them(value):
    reason = core.placeholder(value)
    assert reason
    assert value.lower() not in reason


@pytest.mark.parametrize(
    "value",
    [
        "sample insert example dummy tundra oboe lisp", "exampled-forest-quarry-oboe-lisp-nine", "hereafter-lisp-oboe-quarry-tundra",
        "<Zu^DkY?JvCKfD>", "rd2QFUUzfuIVzTBD", "my_smf83lPSAWYG845z5", "xK9xxQ2vTz7mLp4wRb", "$2b$12$R9h/cIPz0gi.URNNX3kh2OPST9",
        "Tr0ub4dor&3", "yourself-lisp-oboe-quarry-tundra-nine", "admin-lisp-oboe-quarry-tundra-cosmic", "P@ssw0rd2024!",
    ],
)  # fmt: skip
def test_near_misses_are_no_placeholders(value):
    assert core.placeholder(value) is None


def test_a_value_that_repeats_its_name():
    assert core.placeholder("keycloak-db", "KEYCLOAK_DB") == "repeats its own name"
    assert core.placeholder("Billing", "BILLING_PASSWORD") == "repeats its own name"
    assert core.placeholder("billings", "BILLING_PASSWORD") is None


def test_nothing_at_all():
    assert core.placeholder("") == core.placeholder(" \n") == core.placeholder('""') == "is empty"


def test_random_values_are_no_placeholders():
    numbers = random.Random(7)
    for alphabet in (string.ascii_letters + string.digits, string.ascii_letters + string.digits + "+/-_"):
        for _unused in range(3000):
            value = "".join(numbers.choice(alphabet) for _more in range(numbers.choice((20, 32, 44))))
            assert core.placeholder(value, "DB_PASSWORD") is None


def test_the_words_are_there():
    ranks = _secret_words.ranks()
    assert len(ranks) > 40_000
    assert all(word == word.lower() and word.isascii() and rank < 2 * 10 ** len(word) for word, rank in ranks.items())
    assert ranks["password"] == 2
