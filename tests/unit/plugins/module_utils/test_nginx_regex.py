# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Patterns, cipher lists and variables: what is said of them without running anything."""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_ciphers import BY_NAME, expand
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_regex import (
    Budget,
    Regex,
    RegexError,
    TooHard,
    mask_of,
)


@pytest.mark.parametrize(
    ("pattern", "risk"),
    [
        ("^/(a+)+$", "exponential"),
        ("^/(a*)*$", "exponential"),
        ("^(a|a)*$", "exponential"),
        ("^(a|ab|b)*$", "exponential"),
        ("^(([a-z])+.)+[A-Z]([a-z])+$", "exponential"),
        (r"^(\w+\s?)*$", "exponential"),
        ("([^/]+/?)*$", "exponential"),
        ("(x+x+)+y", "exponential"),
        ("(a{1,100})*b", "exponential"),
        ("^(?:(?:ab)*(?:ab)*)*c$", "exponential"),
        ("(?i)^(a|A)*$", "exponential"),
        ("^(.*)/(.*)/(.*)$", "cubic"),
        (".*.*.*x", "cubic"),
        (r"^\s*\w*\s*[a-z_]*\s*[a-z]*x$", "cubic"),
        ("^/.*.*x$", "quadratic"),
        ("^[a-z]*[a-z]*x", "quadratic"),
        # Near misses.
        ("^/(a+)+", ""),  # nothing behind that can fail
        ("^(a|ab)*$", ""),  # only one way to read each text
        ("^/(.*)/(.*)$", ""),  # a square, as people write it
        ("^([a-z]+\\.)*example\\.org$", ""),
        ("^/(?:[^/]+/)*[^/]+$", ""),
        ("^(/[a-z]+)+$", ""),
        ("(?>a+)+$", ""),
        ("^(?:a++)+$", ""),
        ("a{1,100}b", ""),
        ("^(?=.*a)(.*)$", ""),
        ("^.*$", ""),
        ("\\.php$", ""),
        ("^/mcp(?<rest>/[A-Za-z0-9._~:@+/-]{0,512})?$", ""),
    ],
)
def test_risk(pattern, risk):
    assert Regex(pattern).risk() == risk


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        ("(a", "missing closing parenthesis"), ("a)", "unmatched )"), ("[a", "missing terminating ]"), ("*a", "quantifier does not follow"), ("a\\", "\\ at end of pattern"),
        ("[z-a]", "range out of order"), ("a{3,2}", "numbers out of order"), ("(?<1>a)", "subpattern name expected"), ("\\2(a)", "group that does not exist"),
        ("\\k<x>", "group that does not exist"), ("(?q)", "unrecognized character after (?"), ("[[:foo:]]", "unknown POSIX class"), ("\\j", "unrecognized character follows \\"),
    ],
)  # fmt: skip
def test_patterns_that_do_not_compile(pattern, what):
    with pytest.raises(RegexError, match=re.escape(what)):
        Regex(pattern)


@pytest.mark.parametrize("pattern", ["(?R)", "(a)(?1)", "(?(1)a|b)(c)", "(" * 100 + ")" * 100])
def test_patterns_that_are_not_modelled(pattern):
    with pytest.raises(TooHard):
        Regex(pattern)


def test_what_groups_can_hold():
    regex = Regex("^/(?<name>[a-z]+)/(?P<rest>.*)/(one|two)/([^/]*)(\\d{2})?$")
    assert regex.names == {"name": 1, "rest": 2} and regex.groups == 5
    assert regex.mask(1) == mask_of("abcdefghijklmnopqrstuvwxyz")
    assert not regex.mask(2) & mask_of("\n") and regex.mask(2) & mask_of("\r")
    assert regex.mask(4) & mask_of("\n")
    assert [regex.finite(number) for number in (1, 2, 3, 4)] == [False, False, True, False]
    assert [regex.optional(number) for number in (1, 2, 3, 5)] == [False, True, False, True]
    assert Regex("^/(/a)?$").first(1) == mask_of("/")
    assert Regex("(?s)(.*)").mask(1) & mask_of("\n")
    assert Regex("(?i)(a)").mask(1) == mask_of("aA")


@pytest.mark.parametrize(
    ("pattern", "start", "end"),
    [("^a$", True, True), ("^a|b$", False, False), ("(^a|^b)$", True, True), ("\\Aa\\z", True, True), ("a", False, False), ("(?i)^a", True, False), ("^(a|b$)", True, False), ("x*^a", False, False)],
)  # fmt: skip
def test_anchors(pattern, start, end):
    assert (Regex(pattern).anchored(), Regex(pattern).anchored(end=True)) == (start, end)


SAFE = st.recursive(
    st.sampled_from(["a", "b", "/", ".", "[ab]", "[^a/]", "\\.", "\\d", "\\w", "$", "^"]),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]}|{pair[1]})"),
        inner.map(lambda text: f"(?:{text})"),
        st.tuples(inner.filter(lambda text: text not in ("^", "$")), st.sampled_from(["*", "+", "?", "{2}", "{1,2}"])).map(lambda pair: f"(?:{pair[0]}){pair[1]}"),
    ),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(SAFE, st.text("ab/.1", max_size=6))
def test_matching_agrees_with_python(pattern, text):
    assert Regex(pattern).matches(text) == bool(re.search(pattern, text)), (pattern, text)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.text("ab(){}[]|*+?^$.\\-:<>=!,0129xdwsQE#\n", max_size=24), st.booleans())
def test_any_text_is_a_pattern_or_one_clear_answer(text, caseless):
    try:
        regex = Regex(text, caseless, Budget(50000))
        regex.matches("/a")
        regex.risk()
        regex.finite(), regex.first(), regex.nullable(), regex.anchored()
    except (RegexError, TooHard):
        pass


@pytest.mark.parametrize(
    "pattern",
    [
        "(" + "|".join(f"a{n}" for n in range(700)) + ")+$",
        "(((a{1,100}){1,100}){1,100}){1,100}$",
        "((a+)+)+" * 200 + "$",
        "a?" * 900 + "a" * 900,
        "[" + "a-z" * 1000 + "]",
    ],
)
def test_the_work_is_bounded(pattern):
    budget = Budget(100000)
    try:
        Regex(pattern, budget=budget).risk()
    except TooHard:
        return
    assert budget.steps >= 0


# -- cipher lists -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "has", "lacks"),
    [
        (
            "HIGH:!aNULL:!MD5",
            {"AES128-SHA", "ECDHE-RSA-AES128-SHA", "AES128-GCM-SHA256"},
            {"ADH-AES128-SHA", "RC4-MD5", "NULL-SHA"},
        ),
        (
            "EECDH+AESGCM:EECDH+CHACHA20",
            {"ECDHE-RSA-AES128-GCM-SHA256"},
            {"ECDHE-RSA-AES128-SHA", "AES128-GCM-SHA256", "DHE-RSA-AES128-GCM-SHA256"},
        ),
        (
            "ALL:!aNULL:!eNULL:!SHA1:!SHA256:!SHA384:!kRSA",
            {"ECDHE-ECDSA-CHACHA20-POLY1305"},
            {"AES128-GCM-SHA256", "ECDHE-RSA-AES128-SHA"},
        ),
        ("AES128-SHA:-AES128-SHA:AES256-SHA", {"AES256-SHA"}, {"AES128-SHA"}),
        ("!AES128-SHA:AES128-SHA", set(), {"AES128-SHA"}),
        ("nothing:at+all", set(), {"AES128-SHA"}),
        ("DEFAULT", {"AES128-SHA"}, {"ADH-AES128-SHA", "NULL-SHA"}),
        ("ECDHE-RSA-AES128-GCM-SHA256 AES128-SHA,AES256-SHA", {"AES128-SHA", "AES256-SHA"}, set()),
    ],
)
def test_expand(text, has, lacks):
    names = {suite.name for suite in expand(text)[0]}
    assert has <= names and not lacks & names


def test_the_order_of_a_list():
    names = [suite.name for suite in expand("AES128-SHA:AES256-SHA:+AES128-SHA")[0]]
    assert names == ["AES256-SHA", "AES128-SHA"]
    assert expand("ALL@SECLEVEL=0")[1] == expand("@SECLEVEL=0:ALL")[1] == 0 and expand("ALL")[1] is None


@pytest.mark.parametrize(
    ("name", "weakness"),
    [
        ("ECDHE-RSA-AES128-GCM-SHA256", ""), ("DHE-RSA-CHACHA20-POLY1305", ""), ("ECDHE-RSA-AES128-SHA256", "CBC with a separate MAC"), ("AES128-GCM-SHA256", "no forward secrecy"),
        ("DES-CBC3-SHA", "3DES is broken"), ("ADH-AES128-GCM-SHA256", "no authentication"), ("NULL-SHA256", "no encryption"), ("ECDHE-ECDSA-AES128-CCM8", "outside the Mozilla profile"),
    ],
)  # fmt: skip
def test_weakness(name, weakness):
    assert BY_NAME[name].weakness == weakness
