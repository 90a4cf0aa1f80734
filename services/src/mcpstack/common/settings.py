# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings from the environment: every problem found at once, each with where, what and what to do.

A settings class is a frozen dataclass whose fields are made with `setting()`. `load()` reads PREFIX + FIELD from
the environment, refuses names it does not know and values it cannot read, and never shows a value of a secret
(secrets are files: only their paths are settings).
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

T = TypeVar("T")

_HOST = re.compile(r"(?!-)[A-Za-z0-9.-]{1,253}(?<!-)\Z|[0-9A-Fa-f:.]{2,45}\Z")


@dataclass(frozen=True, order=True)
class Problem:
    """One thing that is wrong, in a form a person can act on."""

    where: str
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what} {self.fix}"


class SettingsError(Exception):
    """The settings cannot be used; `problems` holds all the reasons."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


def setting(default: str, parse: Callable[[str], Any], about: str) -> Any:
    """Declare a field: its default as it would be written in the environment, its reader, one line of help."""
    return dataclasses.field(metadata={"default": default, "parse": parse, "about": about})


def load(cls: type[T], environ: Mapping[str, str], prefix: str) -> T:
    """Build `cls` from the environment or raise SettingsError with everything that is wrong."""
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    names = {prefix + field.name.upper(): field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name in sorted(environ):
        if name.startswith(prefix) and name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
            fix = f"Did you mean {near[0]}?" if near else f"Remove it; the known names are {', '.join(sorted(names))}."
            problems.append(Problem(name, "is not a setting.", fix))
    for name, field in names.items():
        raw = environ.get(name, field.metadata["default"])
        try:
            values[field.name] = field.metadata["parse"](raw)
        except ValueError as error:
            problems.append(Problem(name, f"{raw!r} is not usable.", f"Set it to {error}."))
    if problems:
        raise SettingsError(problems)
    return cls(**values)


# Readers. Each returns the value or raises ValueError with the words that complete "Set it to ...".


def choice(*allowed: str) -> Callable[[str], str]:
    def parse(raw: str) -> str:
        if raw not in allowed:
            raise ValueError(f"one of {', '.join(allowed)}")
        return raw

    return parse


def whole(low: int, high: int) -> Callable[[str], int]:
    def parse(raw: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", raw, re.ASCII) or not low <= int(raw) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(raw)

    return parse


def seconds(low: float, high: float) -> Callable[[str], float]:
    def parse(raw: str) -> float:
        try:
            value = float(raw) if raw.isascii() else math.nan
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise ValueError(f"a number of seconds from {low:g} to {high:g}")
        return value

    return parse


def host(raw: str) -> str:
    if not _HOST.match(raw):
        raise ValueError("a host name or an address")
    return raw


def name(raw: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.:-]{1,63}", raw, re.ASCII):
        raise ValueError("1 to 63 letters, digits or any of _ . : -")
    return raw


def path(raw: str) -> Path:
    if not raw.startswith("/"):
        raise ValueError("an absolute path")
    return Path(raw)


def base_url(raw: str) -> str:
    problem = "a base URL such as http://model-runner:8080, without credentials, query or fragment"
    try:
        parts = urlsplit(raw)
        port = parts.port
    except ValueError as error:
        raise ValueError(problem) from error
    usable = parts.scheme in ("http", "https") and parts.hostname and _HOST.match(parts.hostname) and port != 0
    if not usable or parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(problem)
    return raw.rstrip("/")


def optional_url(raw: str) -> str:
    return base_url(raw) if raw else ""


def share(raw: str) -> float:
    try:
        value = float(raw) if raw.isascii() else math.nan
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise ValueError("a number from 0 to 1")
    return value


def origins(raw: str) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(part.strip() for part in raw.split(",") if part.strip()))
    for origin in found:
        if origin != "*" and not re.fullmatch(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?", origin, re.ASCII):
            raise ValueError("origins such as https://app.example.org, separated by commas")
    return found
