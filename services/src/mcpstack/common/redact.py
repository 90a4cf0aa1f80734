# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Take what identifies people and what opens doors out of a text, before it is logged.

It finds what has a form: keys and tokens, private keys, e-mail addresses, card and account numbers whose check digits
are right, telephone numbers. Names, addresses and passwords have none: a text that was redacted is still private.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any

_KEYS = re.compile(
    r"mk_[a-z]{2,8}_\w{6,}"
    r"|\bsk-[A-Za-z0-9_-]{8,}"
    r"|(?i:\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{6,}"
    r"|\b(?:gh[pousr]_|github_pat_|glpat-|hf_|xox[abpr]-|AKIA|ASIA|AIza)[A-Za-z0-9_-]{10,}"
    r"|(?<=://)[^/\s:@]{1,200}:[^/\s@]{1,200}(?=@)",
    re.ASCII,
)
# One whose end is missing goes on to the end of the text.
_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY[A-Z ]{0,10}-----.*?(?:-----END [A-Z0-9 ]{0,50}-----|\Z)", re.S
)
_JWT = re.compile(r"\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{5,}(?:\.[A-Za-z0-9_-]*)?", re.ASCII)
_EMAIL = re.compile(r"[\w.+%'-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}")
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]){11,30}(?![A-Za-z0-9])", re.ASCII)
_CARD = re.compile(r"(?<!\d)\d(?:[ .-]?\d){12,18}(?!\d)", re.ASCII)
# +49 30 1234567, 0049-30-1234567, (030) 123 45 67, 030/1234567, 555-123-4567. A date or a version has other groups.
_PHONE = re.compile(
    r"(?<![\w.+/-])(?:"
    r"(?:\+|00)\d{1,3}(?:[ ./-]?\(?\d{1,5}\)?){2,6}"
    r"|\(\d{2,5}\)[ ./-]?\d{2,5}(?:[ ./-]?\d{2,5}){1,3}"
    r"|0\d{1,5}[ /-]\d{2,5}(?:[ -]?\d{2,5}){1,3}"
    r"|\d{3}[ .-]\d{3}[ .-]\d{4}"
    r")(?![\w/-]|\.\d)",
    re.ASCII,
)


def _luhn(digits: str) -> bool:
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def _card(match: re.Match[str]) -> str:
    digits = re.sub(r"\D", "", match[0])
    return "[card]" if _luhn(digits) else match[0]


def _is_iban(text: str) -> bool:
    turned = text[4:] + text[:4]
    return 15 <= len(text) <= 34 and int("".join(str(int(char, 36)) for char in turned)) % 97 == 1


def _iban(match: re.Match[str]) -> str:
    """Words may follow after a blank: the longest beginning whose check digits are right is the number."""
    text = match[0]
    for end in range(len(text), 14, -1):
        if text[end - 1].isalnum() and _is_iban(re.sub(r"[ -]", "", text[:end]).upper()):
            return "[iban]" + text[end:]
    return text


_STEPS: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (_PRIVATE_KEY, "[private key]"),
    (_JWT, "[token]"),
    (_KEYS, "[key]"),
    (_EMAIL, "[e-mail]"),
    (_IBAN, _iban),
    (_CARD, _card),
    (_PHONE, "[phone]"),
)


def redact(text: str) -> str:
    """Digits and letters of other scripts are read as plain ones, and what nobody sees between them is left out."""
    plain = unicodedata.normalize("NFKC", text)
    if not plain.isascii():
        plain = "".join(_digit(char) for char in plain if unicodedata.category(char) != "Cf")
    for pattern, instead in _STEPS:
        plain = pattern.sub(instead, plain)
    return plain


def _digit(char: str) -> str:
    return str(unicodedata.digit(char)) if char.isdigit() and not char.isascii() else char


# Content of requests and answers, for the log

LONGEST = 4096  # characters of a request, and of an answer, that are logged
_AHEAD = 4096  # looked at beyond that, so that nothing is cut before it is recognised
_BLOB = 1024


def strings(value: Any, limit: int = LONGEST + _AHEAD) -> str:
    """All texts inside a JSON value, one a line, up to a limit; pictures and recordings only as their length."""
    found: list[str] = []
    for text in _walk(value):
        if len(text) > _BLOB and " " not in text[-_BLOB:]:
            text = f"[{len(text)} characters]"
        found.append(text[:limit])
        limit -= len(text)
        if limit <= 0:
            break
    return "\n".join(found)


def _walk(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            waiting.extend(reversed(item.values()))
        elif isinstance(item, list):
            waiting.extend(reversed(item))


def logged(text: str, *, full: bool) -> str:
    """A text as it goes into the log: redacted unless `full`, and never longer than LONGEST."""
    text = text[: LONGEST + _AHEAD]
    text = text if full else redact(text)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
