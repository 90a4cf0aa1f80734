# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Arguments against schemas: what fits, where it does not, and schemas that are meant to do harm."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcpstack.registry.arguments import (
    ArgumentsError,
    Checker,
    Checkers,
    SchemaUnusableError,
    TooComplexError,
)


def schema(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


@pytest.mark.parametrize(
    ("spec", "arguments", "path", "words"),
    [
        (schema(a={"type": "string"}), {"a": 1}, "/a", "it must be of type string"),
        (schema(a={"type": ["string", "null"]}), {"a": 1}, "/a", "it must be of type string or null"),
        (schema(a={"type": "integer"}), {"a": True}, "/a", "it must be of type integer"),
        ({"type": "object", "required": ["a", "b"]}, {"a": 1}, "", "required and missing: b"),
        ({"additionalProperties": False, **schema(a={})}, {"a": 1, "b": 2}, "/b", "this argument is not known"),
        (
            {"unevaluatedProperties": False, "allOf": [schema(a={})]},
            {"a": 1, "b": 2},
            "/b",
            "this argument is not known",
        ),
        (schema(a={"enum": ["x", "y"]}), {"a": "z"}, "/a", 'it must be one of "x", "y"'),
        (schema(a={"const": 1}), {"a": True}, "/a", "it must be the one allowed value"),
        (schema(a={"minimum": 3}), {"a": 2}, "/a", "it must be at least 3"),
        (schema(a={"exclusiveMaximum": 3}), {"a": 3}, "/a", "it must be less than 3"),
        (schema(a={"multipleOf": 2}), {"a": 3}, "/a", "it must be a multiple of 2"),
        (schema(a={"maxLength": 2}), {"a": "abc"}, "/a", "it must be in length at most 2"),
        (schema(a={"minItems": 1}), {"a": []}, "/a", "it must be in number of members at least 1"),
        (schema(a={"uniqueItems": True}), {"a": [1, 1.0]}, "/a", "the members must differ from each other"),
        (schema(a={"pattern": "^[a-z]+$"}), {"a": "A"}, "/a", "it must match the pattern"),
        (schema(a={"anyOf": [{"type": "string"}]}), {"a": 1}, "/a", "it fits none of the alternatives"),
        (schema(a={"items": {"type": "integer"}}), {"a": [1, "x"]}, "/a/1", "it must be of type integer"),
        (schema(a={"items": [{"type": "integer"}]}), {"a": ["x"]}, "/a/0", "it must be of type integer"),
        (schema(a={"prefixItems": [{}, {"type": "null"}]}), {"a": [1, 2]}, "/a/1", "it must be of type null"),
        ({"patternProperties": {"^x": {"type": "null"}}}, {"xa": 1}, "/xa", "it must be of type null"),
        ({"propertyNames": {"maxLength": 1}}, {"ab": 1}, "", "it must be in length at most 1"),
        ({"$ref": "#/$defs/a", "$defs": {"a": schema(b={"type": "null"})}}, {"b": 1}, "/b", "it must be of type null"),
        (schema(**{"a/b~c": {"type": "null"}}), {"a/b~c": 1}, "/a~1b~0c", "it must be of type null"),
        ({"if": schema(a={"const": 1}), "then": {"required": ["b"]}}, {"a": 1}, "", "required and missing: b"),
        ({"dependentRequired": {"a": ["b"]}}, {"a": 1}, "", "an argument that is required with another one is missing"),
        ({"not": {"required": ["a"]}}, {"a": 1}, "", "it must not be like this"),
    ],
)
def test_what_does_not_fit_and_where(spec: dict[str, Any], arguments: dict[str, Any], path: str, words: str) -> None:
    with pytest.raises(ArgumentsError) as caught:
        Checker(spec).check(arguments)
    assert (caught.value.path, str(caught.value)) == (path, words)


@pytest.mark.parametrize(
    ("spec", "arguments"),
    [
        ({}, {"whatever": [1, None]}),
        (schema(a={"type": "integer"}), {"a": 1.0}),
        (schema(a={"enum": [1, None, [1]]}), {"a": [1.0]}),
        (schema(a={"uniqueItems": True}), {"a": [1, True, "1", [1], {"a": 1}, {"a": True}]}),
        (schema(a={"pattern": "b"}), {"a": "abc"}),
        (schema(a={"pattern": "^\\p{L}+$"}), {"a": "\u00e9t\u00e9"}),
        (schema(a={"format": "date-time"}), {"a": "no date"}),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "definitions": {"x": {}}, **schema()}, {}),
        ({"$id": "https://example.org/x", "$ref": "#/$defs/a", "$defs": {"a": {}}}, {"a": 1}),
        ({"additionalProperties": False, "patternProperties": {"^x-": {}}, **schema(a={})}, {"a": 1, "x-b": 2}),
        ({"unevaluatedProperties": False, "$ref": "#/$defs/a", "$defs": {"a": schema(a={})}}, {"a": 1}),
        ({"unevaluatedProperties": False, "anyOf": [schema(a={"const": 1}), schema(b={})]}, {"a": 1, "b": 2}),
        ({"x-unknown": {"type": 5}}, {}),
        (schema(a={"$ref": "https://json-schema.org/draft/2020-12/schema"}), {"a": {"type": "string"}}),
    ],
)
def test_what_fits(spec: dict[str, Any], arguments: dict[str, Any]) -> None:
    Checker(spec).check(arguments)


def test_values_are_not_repeated() -> None:
    secret = "s3cret-" * 100
    for spec in (
        {"type": "integer"}, {"pattern": "^a$"}, {"maxLength": 1}, {"enum": ["x" * 500]}, {"const": 1}, {"not": {}},
        {"anyOf": [{"const": 1}, {"maxLength": 2}]}, {"oneOf": [{}, {}]},
    ):  # fmt: skip
        with pytest.raises(ArgumentsError) as caught:
            Checker(schema(a=spec)).check({"a": secret})
        assert "s3cret" not in str(caught.value)
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (schema(a={"$ref": "https://example.org/schema.json"}), "a reference leads nowhere inside the schema"),
        (schema(a={"$ref": "file:///etc/passwd"}), "a reference leads nowhere inside the schema"),
        (schema(a={"$ref": "#/$defs/none"}), "a reference leads nowhere inside the schema"),
        (schema(a={"$dynamicRef": "https://example.org/x"}), "a reference leads nowhere inside the schema"),
        (schema(a={"pattern": "(?=x)"}), "a pattern needs what cannot be matched in bounded time, or is none"),
        (schema(a={"pattern": "(a)\\1"}), "a pattern needs what cannot be matched in bounded time, or is none"),
        (schema(a={"pattern": "("}), "a pattern needs what cannot be matched in bounded time, or is none"),
        (schema(a={"pattern": "((a{1000}){1000}){1000}"}), "a pattern needs what cannot be matched in bounded time"),
        (schema(a={"pattern": "a" * 1001}), "a pattern is longer than 1000 characters"),
        ({"patternProperties": {f"^{n}": {} for n in range(101)}}, "it has more than 100 patterns"),
        (schema(a={"type": "strnig"}), "type has not the form it must have"),
        (schema(a={"type": {}}), "type has not the form it must have"),
        (schema(a={"minimum": "1"}), "minimum has not the form it must have"),
        (schema(a={"exclusiveMinimum": True}), "exclusiveMinimum has not the form it must have"),
        (schema(a={"multipleOf": 0}), "multipleOf has not the form it must have"),
        (schema(a={"maxLength": -1}), "maxLength has not the form it must have"),
        (schema(a={"enum": "x"}), "enum has not the form it must have"),
        (schema(a={"uniqueItems": 1}), "uniqueItems has not the form it must have"),
        ({"required": "a"}, "required has not the form it must have"),
        ({"required": [{}]}, "required has not the form it must have"),
        ({"properties": []}, "properties has not the form it must have"),
        ({"allOf": []}, "allOf has not the form it must have"),
        ({"allOf": {}}, "allOf has not the form it must have"),
        ({"not": 5}, "there is something else where a schema belongs"),
        ({"properties": {"a": "x"}}, "there is something else where a schema belongs"),
        ({"$ref": 5}, "$ref has not the form it must have"),
        ({"pattern": 5}, "pattern has not the form it must have"),
        ({"dependentRequired": {"a": 1}}, "dependentRequired has not the form it must have"),
        ({"description": "x" * 140_000}, "it is larger than 131072 bytes"),
        ({"minimum": float("inf")}, "it is not JSON"),
    ],
)
def test_schemas_that_are_refused(spec: dict[str, Any], why: str) -> None:
    with pytest.raises(SchemaUnusableError) as caught:
        Checker(spec)
    assert str(caught.value).startswith(why)


def nested(depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(depth):
        found = {"properties": {"a": found}}
    return found


def test_depth() -> None:
    Checker(nested(60))
    for depth in (100, 5000):
        with pytest.raises(SchemaUnusableError):
            Checker(nested(depth))
    value: Any = {}
    for _ in range(63):
        value = {"a": value}
    Checker({}).check(value)
    with pytest.raises(ArgumentsError, match="nested deeper than 64 levels"):
        Checker({}).check({"a": value})


def laughs(levels: int, width: int) -> dict[str, Any]:
    """Each level refers to the next one several times: small to write, large to check."""
    defs: dict[str, Any] = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * width} for n in range(levels)}
    return {"$ref": "#/$defs/d0", "$defs": {**defs, f"d{levels}": {"type": "object"}}}


def alike(number: int) -> list[int]:
    """Numbers that Python hashes to the same value."""
    return [n * ((1 << 61) - 1) for n in range(number)]


CIRCLE = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}
PATTERNS = {"patternProperties": {f"(x|y)*{n}$": {} for n in range(100)}}
ITEMS = schema(a={"unevaluatedItems": False, "allOf": [{"$ref": "#/x"}] * 9})
EITHER = schema(a={"items": {"oneOf": [{"required": [f"r{n}"]} for n in range(500)]}})
LONG = schema(a={"allOf": [{"pattern": f"a{n}|a"} for n in range(90)]})
WIDE = schema(a={"items": schema(**{f"p{n}": {} for n in range(1000)})})
BOMBS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nested repetition": (schema(a={"pattern": "^(a+)+$"}), {"a": "a" * 500_000 + "b"}),
    "alternatives": (schema(a={"pattern": "^(a|a)*$"}), {"a": "a" * 500_000 + "b"}),
    "counted": (schema(a={"pattern": "(.*a){50}"}), {"a": "a" * 200_000}),
    "many patterns": (PATTERNS, {"x" * 9 + str(n): n for n in range(5000)}),
    "many patterns for a long text": (LONG, {"a": "a" * 90_000}),
    "refers to itself": ({"$ref": "#"}, {}),
    "refers to itself in a circle": (CIRCLE, {}),
    "itself in allOf": ({"allOf": [{"$ref": "#"}, {"$ref": "#"}]}, {}),
    "a billion laughs": (laughs(30, 2), {}),
    "a wide billion": (laughs(5, 50), {}),
    "laughs that are not evaluated": ({"unevaluatedProperties": False, **laughs(30, 2)}, {"a": 1}),
    "items": (ITEMS | {"x": {"allOf": [{"prefixItems": [{}] * 9}] * 50}}, {"a": list(range(2000))}),
    "unique": (schema(a={"uniqueItems": True}), {"a": [{"x": n} for n in range(60_000)]}),
    "unique numbers that hash alike": (schema(a={"uniqueItems": True}), {"a": alike(29_000)}),
    "enum times items": (schema(a={"items": {"enum": [{"x": n} for n in range(4000)]}}), {"a": [{"x": -1}] * 5000}),
    "contains": (schema(a={"contains": {"contains": {"const": 1}}}), {"a": [[0] * 300] * 300}),
    "oneOf of many": (EITHER, {"a": [{}] * 1000}),
    "properties times items": (WIDE, {"a": [{}] * 5000}),
}


@pytest.fixture
def fuse() -> Iterator[None]:
    """A bomb that goes off takes minutes or for ever: ended after so much processor time that nothing else takes."""

    def burnt(*_: object) -> None:
        raise AssertionError("the bomb went off")

    before = signal.signal(signal.SIGVTALRM, burnt)
    signal.setitimer(signal.ITIMER_VIRTUAL, 20)
    yield
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.signal(signal.SIGVTALRM, before)


@pytest.mark.parametrize("kind", BOMBS)
def test_bombs_go_out(kind: str, fuse: None) -> None:
    spec, arguments = BOMBS[kind]
    assert len(json.dumps(spec)) < 131_072
    with contextlib.suppress(ArgumentsError, TooComplexError, SchemaUnusableError):
        Checker(spec).check(arguments)


@pytest.mark.parametrize(
    "kind",
    ["refers to itself", "itself in allOf", "a billion laughs", "a wide billion", "many patterns for a long text"],
)
def test_what_has_no_end_is_said_to_be_too_complex(kind: str, fuse: None) -> None:
    spec, arguments = BOMBS[kind]
    with pytest.raises(TooComplexError):
        Checker(spec).check(arguments)


def test_large_but_honest_arguments_pass() -> None:
    rows = [{"id": n, "name": f"n{n}", "tags": ["a", "b"]} for n in range(2000)]
    row = schema(id={"type": "integer"}, name={"type": "string"}, tags={"type": "array", "items": {"type": "string"}})
    Checker(schema(rows={"type": "array", "items": {**row, "required": ["id"]}})).check({"rows": rows})


def test_checkers_are_kept_by_hash_and_bounded() -> None:
    checkers = Checkers(size=3)
    first = checkers.get("0", {})
    assert checkers.get("0", {"type": "null"}) is first
    for number in range(1, 4):
        checkers.get(str(number), {})
    assert checkers.get("0", {}) is not first


# The same judgement as jsonschema's own, for schemas without patterns (whose dialect differs).
_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([0.0, 1.0, 1.5])
    | st.sampled_from(["", "a", "ab"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2),
    max_leaves=6,
)
_leaf = st.one_of(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["string", "integer", "number", "object", "array", "null", "boolean"])}
    ),
    st.fixed_dictionaries({"enum": st.lists(_values, max_size=3)}),
    st.fixed_dictionaries({"const": _values}),
    st.fixed_dictionaries({"uniqueItems": st.booleans()}),
    st.fixed_dictionaries({"required": st.lists(st.sampled_from(["a", "b"]), unique=True)}),
    st.fixed_dictionaries({"minimum": st.integers(-1, 2)}),
    st.booleans(),
)
_schemas = st.recursive(
    _leaf,
    lambda inner: (
        st.dictionaries(
            st.sampled_from(
                ["not", "items", "additionalProperties", "unevaluatedProperties", "contains", "if", "then", "else"]
            ),
            inner,
            max_size=3,
        )
        | st.fixed_dictionaries(
            {},
            optional={
                "properties": st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2),
                "allOf": st.lists(inner, min_size=1, max_size=2),
                "anyOf": st.lists(inner, min_size=1, max_size=2),
                "additionalProperties": inner,
                "unevaluatedProperties": inner,
                "dependentSchemas": st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=1),
            },
        )
    ),
    max_leaves=6,
)


@settings(max_examples=1500, deadline=None)
@given(_schemas.filter(lambda spec: isinstance(spec, dict)), st.dictionaries(st.sampled_from(["a", "b"]), _values))
def test_the_same_judgement_as_jsonschema(spec: dict[str, Any], arguments: dict[str, Any]) -> None:
    fits = jsonschema.Draft202012Validator(spec).is_valid(arguments)
    try:
        Checker(spec).check(arguments)
    except ArgumentsError:
        assert not fits
    else:
        assert fits
