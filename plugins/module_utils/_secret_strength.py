# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many guesses a secret takes. PRIVATE: internal to the collection, may change in any release. Standard library only.

``guesses_log10`` follows zxcvbn (D. L. Wheeler, USENIX Security 2016): find all patterns in the value, estimate the guesses
of each, and take the cheapest way to cover the value. Characters that no pattern covers count ten guesses each, so that
the figure is far below the entropy of a random value, and a value that reaches the limit is beyond doubt.

The limit ``STRONG`` is 10^14. zxcvbn calls 10^10 very strong, for a person's password behind a slow hash. A secret of a
machine often stands behind a fast one (SCRAM with 4096 rounds, one round of SHA-256 in an ACL file), it is never locked
out after some attempts, and nobody has to remember it, so that four powers of ten more cost nothing: at a million guesses
in a second 10^14 are three years. Fourteen random characters reach it, and so do five random words. NIST SP 800-63B
(3.1.1.2) asks for the same: length, comparison with known passwords and context words, and no rules of composition.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable

from ansible_collections.mcpstack.platform.plugins.module_utils import _secret_placeholder, _secret_words

#: log10 of the guesses from which on a secret counts as strong.
STRONG = 14.0

#: Characters in which patterns are looked for; what follows them only counts by its different characters.
HORIZON = 100
#: Longest sequence of patterns. Each further one adds a factor of 10^4, so that longer ones are beyond any limit.
_DEPTH = 8
_GROWTH = 4.0
#: Repeated blocks that are estimated on their own, for each value.
_BLOCKS = 12

_YEAR = re.compile(r"(?=(19\d\d|20[0-4]\d))")
_REFERENCE_YEAR = 2025
_MIN_YEARS = 20
_DATE = re.compile(r"(?=(\d{1,4})([\s/\\_.-])(\d{1,2})\2(\d{1,4}))")
_SPLITS = {
    4: ((1, 2), (2, 3)),
    5: ((1, 3), (2, 3)),
    6: ((1, 2), (2, 4), (4, 5)),
    7: ((1, 3), (2, 3), (4, 5), (4, 6)),
    8: ((2, 4), (4, 6)),
}
_SEPARATORS = re.compile(r"[-_.:/,;|+=~ ]")

_LETTER_RUN = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_DICTIONARY_SIZE = 1_000_000

_LEET = str.maketrans("4@83(<{[690$5+%2!", "aabeccccggosstxzi")
_AMBIGUOUS = {"1": "il", "|": "il", "7": "tl"}
_LEET_MARKS = frozenset("4@83(<{[690$5+%2!1|7")

_ROWS = ("`1234567890-=", " qwertyuiop[]\\", " asdfghjkl;'", " zxcvbnm,./")
_SHIFTED_ROWS = ("~!@#$%^&*()_+", " QWERTYUIOP{}|", ' ASDFGHJKL:"', " ZXCVBNM<>?")
_KEYPAD = ("789", "456", "123", " 0.")
_UNSHIFT = str.maketrans("".join(_SHIFTED_ROWS), "".join(_ROWS))
_COLUMNS = ("1qaz", "2wsx", "3edc", "4rfv", "5tgb", "6yhn", "7ujm", "8ik,", "9ol.", "0p;/")
_LETTERS, _DIGITS = "abcdefghijklmnopqrstuvwxyz", "0123456789"
#: Long runs that people and documentations write down: rows, columns, alphabets, each character once or twice.
_WALKS = tuple(
    run[::step]
    for run in (
        "`1234567890-=qwertyuiop[]\\asdfghjkl;'zxcvbnm,./",
        "qwertyuiopasdfghjklzxcvbnm1234567890",
        "qwertzuiopasdfghjklyxcvbnm",
        "azertyuiopqsdfghjklmwxcvbn",
        "".join(_COLUMNS),
        "".join(column[::-1] for column in _COLUMNS),
        _DIGITS + _LETTERS,
        "1234567890" + _LETTERS,
        _LETTERS + _DIGITS,
        "1234567890" * 3,
        "".join(letter * 2 for letter in _DIGITS + _LETTERS),
    )
    for step in (1, -1)
)

#: How long a piece of one has to be, and all such pieces.
_STEPS = 6
_WALKED = frozenset(walk[first : first + _STEPS] for walk in _WALKS for first in range(len(walk) - _STEPS + 1))

placeholder = _secret_placeholder.placeholder


def guesses_log10(value: str, context: Iterable[str] = ()) -> float:
    """log10 of the guesses after which ``value`` is found. ``context``: names that an attacker tries first."""
    words = {}
    for name in context:
        parts = [part for part in re.split(r"[^0-9a-z]+", str(name).lower()) if len(part) > 2]
        for word in (*parts, "".join(parts)):
            if 2 < len(word) <= 40:
                words[word] = 4
    best = _bounded(value, words)
    signs = _SEPARATORS.findall(value)
    if signs and len(set(signs)) == 1 and len(signs) < len(value):
        # An attacker who tries a value also tries it with one of the usual separators between its parts.
        best = min(best, _bounded(value.replace(signs[0], ""), words) + min(len(signs), 2))
    return best


def weak(value: str, context: Iterable[str] = ()) -> bool:
    """Whether the value takes fewer guesses than a secret should."""
    return guesses_log10(value, context) < STRONG


def _bounded(value: str, words: dict[str, int]) -> float:
    """The estimate with bounded work: long values are cut at the horizon, or to their repeated block."""
    if len(value) <= HORIZON:
        return _estimate(value, words, [_BLOCKS])
    period = _period(value[:4096])
    if period <= HORIZON and value == (value[:period] * (len(value) // period + 1))[: len(value)]:
        return _estimate(value[:period], words, [_BLOCKS]) + math.log10(len(value) / period)
    rest = value[HORIZON:]
    return _estimate(value[:HORIZON], words, [_BLOCKS]) + min(len(rest), len(set(rest[:4096])))


def _period(text: str) -> int:
    """Length of the shortest block whose repetition begins with ``text`` (Knuth, Morris, Pratt)."""
    border = [0] * len(text)
    length = 0
    for index in range(1, len(text)):
        while length and text[index] != text[length]:
            length = border[length - 1]
        length += text[index] == text[length]
        border[index] = length
    return len(text) - border[-1]


class _Matches(dict):
    """(first, last) -> log10 of the guesses of the cheapest pattern there."""

    def __init__(self, length: int):
        super().__init__()
        self.length = length

    def put(self, first: int, last: int, guesses: float) -> None:
        size = last - first + 1
        if size < self.length:  # a part of a value also has to be found as such
            guesses = max(guesses, 10 if size == 1 else 50)
        score = math.log10(max(guesses, 1))
        if score < self.get((first, last), math.inf):
            self[first, last] = score


def _estimate(value: str, words: dict[str, int], blocks: list[int]) -> float:
    if not value:
        return 0.0
    found = _Matches(len(value))
    _dictionary(value, words, found)
    _unlisted(value, found)
    _spatial(value, found)
    _walks(value, found)
    _sequences(value, found)
    _dates(value, found)
    _repeats(value, words, found, blocks)
    return _cheapest(len(value), found)


_FACTORIAL = [math.log10(math.factorial(count)) for count in range(_DEPTH + 1)]
_ONE_CHARACTER, _TWO_CHARACTERS = math.log10(11), 2.0


def _cheapest(length: int, found: _Matches) -> float:
    """Minimum over all ways to cover the value: count! * product of the guesses + 10000^(count - 1)."""
    ends: list[list[tuple[int, float]]] = [[] for _unused in range(length)]
    for (first, last), score in found.items():
        ends[last].append((first, score))
    endless = [math.inf] * (_DEPTH + 1)
    # product[k][count]: cheapest way to cover k characters with so many patterns; a run of characters without any
    # pattern is one pattern that takes ten guesses for each of them.
    product = [[0.0, *endless[1:]]]
    run = endless
    short = endless  # runs of exactly one character, which take eleven
    for last in range(length):
        before = product[last]
        run = [min(old + 1, new - _ONE_CHARACTER + _TWO_CHARACTERS) for old, new in zip(run, short)]
        short = [math.inf, *(cost + _ONE_CHARACTER for cost in before[:-1])]
        row = [min(pair) for pair in zip(run, short)]
        for first, score in ends[last]:
            start = product[first]
            for count in range(_DEPTH):
                cost = start[count] + score
                if cost < row[count + 1]:
                    row[count + 1] = cost
        product.append(row)
    totals = []
    for count in range(1, _DEPTH + 1):
        if product[-1][count] < math.inf:
            one, other = product[-1][count] + _FACTORIAL[count], _GROWTH * (count - 1)
            totals.append(max(one, other) + math.log10(1 + 10 ** -min(abs(one - other), 300)))
    return max(min(totals), 0.0)


# -- patterns ---------------------------------------------------------------------------------------------------------


def _choose(total: int, most: int) -> int:
    return sum(math.comb(total, count) for count in range(1, most + 1))


def _case_variations(token: str) -> int:
    upper = sum(letter.isupper() for letter in token)
    if not upper:
        return 1
    lower = sum(letter.islower() for letter in token)
    if not lower or (upper == 1 and (token[0].isupper() or token[-1].isupper())):
        return 2
    return _choose(upper + lower, min(upper, lower))


def _leet_variations(token: str, plain: str) -> int:
    variations = 1
    for mark in {old for old, new in zip(token, plain) if old != new}:
        letter = plain[token.index(mark)]
        marks, letters = token.count(mark), token.count(letter)
        variations *= 2 if not letters else _choose(marks + letters, min(marks, letters))
    return variations


def _leet_readings(lower: str) -> list[str]:
    if not any(mark in _LEET_MARKS for mark in lower):
        return []
    readings = [lower.translate(_LEET)]
    for mark, letters in _AMBIGUOUS.items():
        if mark in lower:
            readings = [reading.replace(mark, letter) for reading in readings for letter in letters]
    return readings


@functools.lru_cache(maxsize=1)
def _lengths() -> dict[str, tuple[int, ...]]:
    """The first three letters of words -> how long such words are."""
    table: dict[str, set[int]] = {}
    for word in _secret_words.ranks():
        table.setdefault(word[:3], set()).add(len(word))
    return {start: tuple(sorted(sizes)) for start, sizes in table.items()}


def _dictionary(value: str, words: dict[str, int], found: _Matches) -> None:
    ranks, lengths = _secret_words.ranks(), _lengths()
    lower = value.lower()
    if len(lower) != len(value):  # a few letters have no lower case of one character
        lower = "".join(low if len(low := letter.lower()) == 1 else letter for letter in value)

    def search(text: str):
        for first in range(len(text) - 1):
            part = text[first : first + 2]
            if part in ranks:
                yield first, first + 2, part, ranks[part]
            for size in lengths.get(text[first : first + 3], ()):
                part = text[first : first + size]
                if part in ranks and len(part) == size > 2:
                    yield first, first + size, part, ranks[part]
        for part, rank in words.items():
            first = text.find(part)
            while first >= 0:
                yield first, first + len(part), part, rank
                first = text.find(part, first + 1)

    for first, end, _part, rank in search(lower):
        found.put(first, end - 1, rank * _case_variations(value[first:end]))
    for first, end, _part, rank in search(lower[::-1]):
        start, stop = len(value) - end, len(value) - first
        found.put(start, stop - 1, 2 * rank * _case_variations(value[start:stop]))
    for reading in _leet_readings(lower):
        for first, end, part, rank in search(reading):
            token = lower[first:end]
            if token != part:
                found.put(
                    first, end - 1, rank * _leet_variations(token, part) * _case_variations(value[first:end])
                )  # fmt: skip


@functools.lru_cache(maxsize=1)
def _syllables() -> frozenset[str]:
    """Three letters in a row that several words have."""
    count: dict[str, int] = {}
    for word in _secret_words.ranks():
        for first in range(len(word) - 2):
            part = word[first : first + 3]
            count[part] = count.get(part, 0) + 1
    return frozenset(part for part, times in count.items() if times > 2)


def _unlisted(value: str, found: _Matches) -> None:
    """Letters between others that read like a word and are in no list: a rare word, a name, or another language."""
    for match in _LETTER_RUN.finditer(value):
        word = match[0].lower()
        if not 6 < len(word) < 15:
            continue
        strange = sum(word[first : first + 3] not in _syllables() for first in range(len(word) - 2))
        if strange <= (len(word) > 8):
            found.put(match.start(), match.end() - 1, _DICTIONARY_SIZE * _case_variations(match[0]))


def _neighbours() -> dict[str, dict[str, int]]:
    """key -> neighbour -> direction, on a slanted keyboard, shifted or not."""
    place = {
        (column, line): pair
        for line, (low, high) in enumerate(zip(_ROWS, _SHIFTED_ROWS))
        for column, pair in enumerate(zip(low, high))
        if pair[0] != " "
    }
    around = ((-1, 0), (0, -1), (1, -1), (1, 0), (0, 1), (-1, 1))
    graph: dict[str, dict[str, int]] = {}
    for (column, line), pair in place.items():
        near = {
            key: direction
            for direction, (right, down) in enumerate(around)
            for key in place.get((column + right, line + down), ())
        }
        for key in pair:
            graph[key] = near
    return graph


def _keypad() -> dict[str, dict[str, int]]:
    place = {(x, y): key for y, row in enumerate(_KEYPAD) for x, key in enumerate(row) if key != " "}
    around = [(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1) if x or y]
    return {
        key: {place[x + a, y + b]: number for number, (a, b) in enumerate(around) if (x + a, y + b) in place}
        for (x, y), key in place.items()
    }


_GRAPHS = tuple((graph, sum(map(len, graph.values())) / len(graph) / each, len(graph)) for graph, each in (
    (_neighbours(), 2), (_keypad(), 1),
))  # fmt: skip


@functools.lru_cache(maxsize=1024)
def _paths(length: int, turns: int, degree: float, keys: int) -> float:
    return sum(
        math.comb(size - 1, turn - 1) * keys * degree**turn
        for size in range(2, length + 1)
        for turn in range(1, min(turns, size - 1) + 1)
    )


def _spatial(value: str, found: _Matches) -> None:
    for graph, degree, keys in _GRAPHS:
        first = 0
        while first < len(value) - 2:
            last, turns, heading = first, 0, None
            while last + 1 < len(value):
                direction = graph.get(value[last], {}).get(value[last + 1])
                if direction is None:
                    break
                turns += direction != heading
                heading = direction
                last += 1
            if last - first > 1:
                token = value[first : last + 1]
                shifted = sum(key != low for key, low in zip(token, token.translate(_UNSHIFT)))
                plain = len(token) - shifted
                factor = 1 if not shifted else 2 if not plain else _choose(len(token), min(shifted, plain))
                found.put(first, last, _paths(len(token), min(turns, 12), degree, keys) * factor)
            first = max(last, first + 1)


def _walks(value: str, found: _Matches) -> None:
    text = value.translate(_UNSHIFT).lower()
    starts = [first for first in range(len(text) - _STEPS + 1) if text[first : first + _STEPS] in _WALKED]
    for walk in _WALKS if starts else ():
        for first in starts:
            end = first + _STEPS
            if text[first:end] not in walk:
                continue
            while end < len(text) and text[first : end + 1] in walk:
                end += 1
            found.put(first, end - 1, 40 * (end - first) * _case_variations(value[first:end]))


def _sequences(value: str, found: _Matches) -> None:
    first, step = 0, None
    for index in range(1, len(value) + 1):
        delta = ord(value[index]) - ord(value[index - 1]) if index < len(value) else None
        if step is None:
            step = delta
        if delta == step and index < len(value):
            continue
        last = index - 1
        if step and 0 < abs(step) <= 5 and (last - first > 1 or abs(step) == 1):
            start = value[first]
            base = 4 if start in "aAzZ019" else 10 if start.isdigit() else 26
            found.put(first, last, base * (1 if step > 0 else 2) * (last - first + 1))
        first, step = last, delta


def _year(numbers: tuple[int, int, int]) -> int | None:
    """The year, when three numbers can be a date."""
    if not 1 <= numbers[1] <= 31 or any(99 < number < 1000 or number > 2050 for number in numbers):
        return None
    if (
        sum(number > 31 for number in numbers) >= 2
        or all(number > 12 for number in numbers)
        or sum(number <= 0 for number in numbers) >= 2
    ):
        return None
    ways = ((numbers[2], numbers[:2]), (numbers[0], numbers[1:]))
    for year, rest in ways:
        if year >= 1000:
            return year if _day_and_month(rest) else None
    for year, rest in ways:
        if _day_and_month(rest):
            return year + (1900 if 50 < year < 100 else 2000 if year < 100 else 0)
    return None


def _day_and_month(pair: tuple[int, ...]) -> bool:
    return any(1 <= day <= 31 and 1 <= month <= 12 for day, month in (pair, pair[::-1]))


def _years(year: int) -> int:
    return max(abs(year - _REFERENCE_YEAR), _MIN_YEARS)


def _dates(value: str, found: _Matches) -> None:
    if not value.isascii():  # \d and int() also know other digits
        value = "".join(letter if letter.isascii() else "?" for letter in value)
    for match in _YEAR.finditer(value):
        found.put(match.start(), match.start() + 3, _years(int(match[1])))
    for run in re.finditer(r"\d{4,}", value):
        for first in range(run.start(), run.end() - 3):
            for size in range(4, min(8, run.end() - first) + 1):
                token = value[first : first + size]
                years = [
                    year
                    for one, two in _SPLITS[size]
                    if (year := _year((int(token[:one]), int(token[one:two]), int(token[two:])))) is not None
                ]
                if years:
                    found.put(first, first + size - 1, min(map(_years, years)) * 365)
    for match in _DATE.finditer(value):
        for cut in range(len(match[4])):
            tail = match[4][: len(match[4]) - cut]
            year = _year((int(match[1]), int(match[3]), int(tail)))
            if year is not None:
                found.put(match.start(), match.end(4) - cut - 1, _years(year) * 365 * 4)


def _repeats(value: str, words: dict[str, int], found: _Matches, blocks: list[int]) -> None:
    """Blocks that come at least twice in a row."""
    length = len(value)
    runs: list[tuple[int, int, int]] = []
    for period in range(1, length // 2 + 1):
        first = 0
        while first + 2 * period <= length:
            end = first
            while end + period < length and value[end] == value[end + period]:
                end += 1
            if end - first >= period:
                region = (first, end + period)
                if not any(period % small == 0 and start <= first and region[1] <= stop for start, stop, small in runs):
                    runs.append((*region, period))
            first = end + 1
    for first, end, period in sorted(runs, key=lambda run: (run[0] - run[1], run)):
        if not blocks[0]:
            break
        blocks[0] -= 1
        base = 10 ** min(_estimate(value[first : first + period], words, blocks), 300)
        count = (end - first) // period
        found.put(first, first + count * period - 1, base * count)
        if (end - first) % period:
            found.put(first, end - 1, base * (count + 1))
