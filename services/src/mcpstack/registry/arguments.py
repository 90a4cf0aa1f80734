# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Arguments of tools against their schemas (JSON Schema 2020-12), where neither can be trusted.

jsonschema does the judging, with what could be turned against us replaced: patterns run in Rust's regular expressions,
whose time grows with the text and never with what is tried (no look-around, no back-references: a schema that needs
them is refused); references stay inside the schema; every keyword takes a step from a budget, which ends what refers
to itself or multiplies; names, uniqueness and `enum` are checked without comparing everything with everything.
"""

from __future__ import annotations

import contextvars
import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jsonschema import Draft202012Validator, validators  # type: ignore[import-untyped]
from jsonschema.exceptions import ValidationError  # type: ignore[import-untyped]
from pydantic_core import SchemaError, SchemaValidator, core_schema
from referencing import Registry
from referencing.exceptions import Unresolvable

MAX_DEPTH = 64
MAX_SCHEMA_DEPTH = 64
MAX_SCHEMA_BYTES = 128 * 1024
MAX_PATTERN = 1000
MAX_PATTERNS = 100
STEPS = 30_000
# Characters that may be matched against patterns for one check: the other half of what a pattern costs.
MATCHED = 2_000_000


class SchemaUnusableError(ValueError):
    """Nothing can be checked with this schema; the message says why."""


class TooComplexError(ValueError):
    """The check would take too long."""


class ArgumentsError(ValueError):
    """The arguments do not fit. `path` says where (a JSON pointer), the message what is expected there."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.path = path


class _Budget:
    def __init__(self) -> None:
        self.steps = STEPS
        self.characters = MATCHED

    def step(self, number: int = 1) -> None:
        self.steps -= number
        if self.steps < 0:
            raise TooComplexError("there is too much to check")

    def match(self, pattern: str, text: str) -> bool:
        self.step()
        self.characters -= len(text)
        if self.characters < 0:
            raise TooComplexError("there is too much to match")
        return _pattern(pattern).isinstance_python(text)


_budget: contextvars.ContextVar[_Budget] = contextvars.ContextVar("budget")


class _Patterns(OrderedDict[str, SchemaValidator]):
    """Compiled patterns; the oldest go when there are too many."""


_patterns = _Patterns()


def _pattern(text: str) -> SchemaValidator:
    found = _patterns.get(text)
    if found is None:
        if len(text) > MAX_PATTERN:
            raise SchemaUnusableError(f"a pattern is longer than {MAX_PATTERN} characters")
        try:
            found = SchemaValidator(core_schema.str_schema(pattern=text, regex_engine="rust-regex", strict=True))
        except SchemaError:
            raise SchemaUnusableError("a pattern needs what cannot be matched in bounded time, or is none") from None
        _patterns[text] = found
        while len(_patterns) > 512:
            _patterns.popitem(last=False)
    else:
        _patterns.move_to_end(text)
    return found


# Keywords of our own


def _key(value: Any) -> Any:
    """Equal for values that JSON Schema calls equal: 1 and 1.0 are, 1 and true are not.

    Numbers become texts, because numbers that hash alike can be chosen and texts that do cannot.
    """
    if isinstance(value, str):
        return "s" + value
    if value is None or isinstance(value, bool):
        return f"c{value}"
    if isinstance(value, float):
        return f"n{int(value)}" if value.is_integer() else f"n{value!r}"
    if isinstance(value, int):
        return f"n{value}"
    _budget.get().step()
    if isinstance(value, list):
        return ("list", *(_key(member) for member in value))
    return ("object", frozenset((name, _key(member)) for name, member in value.items()))


def _unique_items(_: Any, unique: Any, instance: Any, __: Any) -> Iterator[ValidationError]:
    if unique and isinstance(instance, list):
        _budget.get().step(len(instance))
        if len({_key(member) for member in instance}) != len(instance):
            yield ValidationError("the members must differ from each other")


def _enum(_: Any, allowed: Any, instance: Any, __: Any) -> Iterator[ValidationError]:
    _budget.get().step(len(allowed))
    wanted = _key(instance)
    if not any(_key(value) == wanted for value in allowed):
        yield ValidationError("it must be one of the allowed values")


def _const(_: Any, value: Any, instance: Any, __: Any) -> Iterator[ValidationError]:
    if _key(value) != _key(instance):
        yield ValidationError("it must be the one allowed value")


def _pattern_keyword(_: Any, pattern: Any, instance: Any, __: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not _budget.get().match(pattern, instance):
        yield ValidationError("it must match the pattern")


def _pattern_properties(validator: Any, patterns: Any, instance: Any, _: Any) -> Iterator[ValidationError]:
    if isinstance(instance, dict):
        for pattern, schema in patterns.items():
            for name, value in instance.items():
                if _budget.get().match(pattern, name):
                    yield from validator.descend(value, schema, path=name, schema_path=pattern)


def _additional_properties(validator: Any, additional: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if not isinstance(instance, dict):
        return
    known = schema.get("properties", {})
    patterns = schema.get("patternProperties", {})
    budget = _budget.get()
    for name, value in instance.items():
        budget.step()
        if name in known or any(budget.match(pattern, name) for pattern in patterns):
            continue
        if additional is False:
            yield ValidationError("this argument is not known", path=[name])
        else:
            yield from validator.descend(value, additional, path=name)


def _evaluated(validator: Any, instance: Any, schema: Any) -> set[str]:
    """Names of the members that some keyword of this schema has judged (for unevaluatedProperties)."""
    budget = _budget.get()
    budget.step()
    if not isinstance(schema, dict):
        return set()
    found = set(instance) & set(schema.get("properties", {}))
    if "additionalProperties" in schema or "unevaluatedProperties" in schema:
        return set(instance)
    for pattern in schema.get("patternProperties", {}):
        found |= {name for name in instance if budget.match(pattern, name)}
    for reference in ("$ref", "$dynamicRef"):
        if reference in schema:
            resolved = validator._resolver.lookup(schema[reference])
            inner = validator.evolve(schema=resolved.contents, _resolver=resolved.resolver)
            found |= _evaluated(inner, instance, resolved.contents)
    for keyword in ("allOf", "anyOf", "oneOf"):
        for member in schema.get(keyword, []):
            if _fits(validator, instance, member):
                found |= _evaluated(validator, instance, member)
    if "if" in schema:
        if _fits(validator, instance, schema["if"]):
            found |= _evaluated(validator, instance, schema["if"])
            found |= _evaluated(validator, instance, schema.get("then"))
        else:
            found |= _evaluated(validator, instance, schema.get("else"))
    for name, member in schema.get("dependentSchemas", {}).items():
        if name in instance:
            found |= _evaluated(validator, instance, member)
    return found


def _fits(validator: Any, instance: Any, schema: Any) -> bool:
    return next(iter(validator.descend(instance, schema)), None) is None


def _unevaluated_properties(validator: Any, unevaluated: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if not isinstance(instance, dict):
        return
    rest = {key: value for key, value in schema.items() if key != "unevaluatedProperties"}
    known = _evaluated(validator, instance, rest)
    for name, value in instance.items():
        if name in known:
            continue
        if unevaluated is False:
            yield ValidationError("this argument is not known", path=[name])
        else:
            yield from validator.descend(value, unevaluated, path=name)


def _items(validator: Any, items: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if not isinstance(items, list):
        yield from Draft202012Validator.VALIDATORS["items"](validator, items, instance, schema) or ()
    elif isinstance(instance, list):  # one schema for each place: how draft-07 says prefixItems
        for index, (member, inner) in enumerate(zip(instance, items, strict=False)):
            yield from validator.descend(member, inner, path=index, schema_path=index)


def _counted(keyword: Callable[..., Any]) -> Callable[..., Any]:
    def counted(validator: Any, value: Any, instance: Any, schema: Any) -> Any:
        _budget.get().step()
        return keyword(validator, value, instance, schema)

    return counted


_OURS: dict[str, Callable[..., Any]] = {
    "additionalProperties": _additional_properties,
    "const": _const,
    "enum": _enum,
    "items": _items,
    "pattern": _pattern_keyword,
    "patternProperties": _pattern_properties,
    "unevaluatedProperties": _unevaluated_properties,
    "uniqueItems": _unique_items,
}
_Validator: Any = validators.extend(
    Draft202012Validator,
    validators={name: _counted(_OURS.get(name, keyword)) for name, keyword in Draft202012Validator.VALIDATORS.items()},
)


# Schemas


class Checker:
    """One schema, ready to check with."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        _check_size(schema)
        references, patterns = _read(schema)
        if len(patterns) > MAX_PATTERNS:
            raise SchemaUnusableError(f"it has more than {MAX_PATTERNS} patterns")
        for pattern in patterns:
            _pattern(pattern)
        self._validator = _Validator(schema, registry=Registry())
        for reference in references:
            try:
                self._validator._resolver.lookup(reference)
            except (Unresolvable, ValueError, TypeError, LookupError):
                raise SchemaUnusableError("a reference leads nowhere inside the schema") from None

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Raise ArgumentsError with the first thing that does not fit, or TooComplexError."""
        _check_depth(arguments)
        token = _budget.set(_Budget())
        try:
            error = next(self._validator.iter_errors(arguments), None)
        except RecursionError:
            raise TooComplexError("the schema refers to itself without an end") from None
        except Unresolvable:
            raise SchemaUnusableError("a reference leads nowhere inside the schema") from None
        finally:
            _budget.reset(token)
        if error is not None:
            raise ArgumentsError(_pointer(error), _words(error))


def _check_size(schema: Any) -> None:
    try:
        size = len(json.dumps(schema, allow_nan=False))
    except (ValueError, TypeError, RecursionError):
        raise SchemaUnusableError("it is not JSON") from None
    if size > MAX_SCHEMA_BYTES:
        raise SchemaUnusableError(f"it is larger than {MAX_SCHEMA_BYTES} bytes")


_ONE = frozenset(
    [
        "additionalItems",
        "additionalProperties",
        "contains",
        "contentSchema",
        "else",
        "if",
        "items",
        "not",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
    ]
)
_MANY = frozenset(("allOf", "anyOf", "oneOf", "prefixItems"))
_NAMED = frozenset(("$defs", "definitions", "dependentSchemas", "patternProperties", "properties"))
_TEXTS = frozenset(["$anchor", "$dynamicAnchor", "$dynamicRef", "$id", "$ref", "$schema", "pattern"])
_NUMBERS = frozenset(["exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum", "multipleOf"])
_COUNTS = frozenset(
    ["maxContains", "maxItems", "maxLength", "maxProperties", "minContains", "minItems", "minLength", "minProperties"]
)
_TYPES = frozenset(("array", "boolean", "integer", "null", "number", "object", "string"))


def _read(root: Any) -> tuple[set[str], set[str]]:
    """Walk every schema in it, once: each keyword must have the form it has. References and patterns are returned."""
    references: set[str] = set()
    patterns: set[str] = set()
    waiting: list[tuple[Any, int]] = [(root, 1)]
    while waiting:
        node, depth = waiting.pop()
        if isinstance(node, bool) and depth > 1:
            continue
        if not isinstance(node, dict) or depth > MAX_SCHEMA_DEPTH:
            raise SchemaUnusableError(
                "there is something else where a schema belongs"
                if not isinstance(node, dict)
                else f"it is nested deeper than {MAX_SCHEMA_DEPTH} levels"
            )
        for keyword, value in node.items():
            if keyword in _ONE and not (keyword == "items" and isinstance(value, list)):
                waiting.append((value, depth + 1))
            elif keyword in _MANY or keyword == "items":
                _require(isinstance(value, list) and value, keyword)
                waiting.extend((member, depth + 1) for member in value)
            elif keyword in _NAMED:
                _require(isinstance(value, dict), keyword)
                waiting.extend((member, depth + 1) for member in value.values())
                if keyword == "patternProperties":
                    patterns.update(value)
            else:
                _require(_well_formed(keyword, value), keyword)
                if keyword in ("$ref", "$dynamicRef"):
                    references.add(value)
                elif keyword == "pattern":
                    patterns.add(value)
    return references, patterns


def _well_formed(keyword: str, value: Any) -> bool:
    if keyword in _TEXTS:
        return isinstance(value, str)
    if keyword in _NUMBERS:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and (keyword != "multipleOf" or value > 0)
    if keyword in _COUNTS:
        return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 and value == int(value)
    if keyword == "type":
        kinds = value if isinstance(value, list) else [value]
        return bool(kinds) and all(isinstance(kind, str) and kind in _TYPES for kind in kinds)
    if keyword == "required":
        return _names(value)
    if keyword == "dependentRequired":
        return isinstance(value, dict) and all(_names(names) for names in value.values())
    if keyword == "enum":
        return isinstance(value, list)
    return keyword != "uniqueItems" or isinstance(value, bool)


def _names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _require(fine: Any, keyword: str) -> None:
    if not fine:
        raise SchemaUnusableError(f"{keyword} has not the form it must have")


def _check_depth(arguments: Any) -> None:
    waiting: list[tuple[Any, int]] = [(arguments, 1)]
    while waiting:
        node, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise ArgumentsError("", f"the arguments are nested deeper than {MAX_DEPTH} levels")
        if isinstance(node, dict):
            waiting.extend((member, depth + 1) for member in node.values())
        elif isinstance(node, list):
            waiting.extend((member, depth + 1) for member in node)


def _pointer(error: ValidationError) -> str:
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in error.absolute_path)[:200]


_WORDS = {
    "required": "an argument that is required is missing",
    "anyOf": "it fits none of the alternatives",
    "oneOf": "it must fit exactly one of the alternatives",
    "not": "it must not be like this",
    "contains": "a member that is required is missing",
    "dependentRequired": "an argument that is required with another one is missing",
}
_LIMITS = {
    "minimum": "at least",
    "maximum": "at most",
    "exclusiveMinimum": "more than",
    "exclusiveMaximum": "less than",
    "multipleOf": "a multiple of",
    "minLength": "in length at least",
    "maxLength": "in length at most",
    "minItems": "in number of members at least",
    "maxItems": "in number of members at most",
    "minProperties": "in number of members at least",
    "maxProperties": "in number of members at most",
}


def _words(error: ValidationError) -> str:
    """What is expected, in words of our own: jsonschema's repeat the values, which may be secret and large."""
    keyword, value = error.validator, error.validator_value
    if keyword == "type":
        kinds = value if isinstance(value, list) else [value]
        return f"it must be of type {' or '.join(str(kind)[:20] for kind in kinds[:8])}"
    if keyword == "required" and isinstance(value, list) and isinstance(error.instance, dict):
        missing = [str(name)[:64] for name in value if name not in error.instance][:5]
        return f"required and missing: {', '.join(missing)}"
    if keyword == "enum" and isinstance(value, list) and len(text := json.dumps(value)) <= 200:
        return f"it must be one of {text[1:-1]}"
    if keyword in _LIMITS and isinstance(value, int | float):
        return f"it must be {_LIMITS[str(keyword)]} {value}"
    if str(keyword) in _WORDS:
        return _WORDS[str(keyword)]
    return error.message if str(keyword) in _OURS else "it does not fit the schema"


class Checkers:
    """Schemas by the hash of their definition: compiled once."""

    def __init__(self, size: int = 1024) -> None:
        self._size = size
        self._found: OrderedDict[str, Checker] = OrderedDict()

    def get(self, key: str, schema: Mapping[str, Any]) -> Checker:
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = Checker(schema)
            while len(self._found) > self._size:
                self._found.popitem(last=False)
        else:
            self._found.move_to_end(key)
        return found
