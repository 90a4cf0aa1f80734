# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which model servers there are: read from GATEWAY_RUNNERS, or made of the settings for a single one."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcpstack.common import settings as s
from mcpstack.common.secretfile import SecretError, SecretFile, model_key
from mcpstack.common.settings import Problem, SettingsError

if TYPE_CHECKING:
    from mcpstack.gateway.settings import Settings

SETTING = "GATEWAY_RUNNERS"
_MAX_FILE = 1 << 20
_NEEDED = ("name", "url", "api_key_file", "max_concurrency")
_OPTIONAL = ("models", "weight", "queue", "draining")


@dataclass(frozen=True)
class RunnerSpec:
    name: str
    url: str
    api_key: SecretFile[str]
    max_concurrency: int
    models: tuple[str, ...] = ()  # empty: what it lists itself
    weight: int = 1
    queue: int = 0
    draining: bool = False

    def same_server(self, other: RunnerSpec) -> bool:
        """Nothing differs that a running client of this server would have to know."""
        mine, theirs = ((spec.url, spec.api_key.path, spec.max_concurrency) for spec in (self, other))
        return mine == theirs


def read(settings: Settings) -> tuple[RunnerSpec, ...]:
    """All model servers, their key files checked; raises SettingsError with every problem at once."""
    if not settings.runners:
        return (
            RunnerSpec(
                "model-runner",
                settings.model_url,
                _key("GATEWAY_MODEL_API_KEY_FILE", settings.model_api_key_file),
                settings.model_concurrency,
                queue=settings.model_queue,
            ),
        )
    return parse(_text(settings.runners), settings.model_queue)


def _key(setting: str, path: Path) -> SecretFile[str]:
    secret = SecretFile(setting, path, model_key)
    try:
        secret.read()
    except SecretError as error:
        raise SettingsError([error.problem]) from None
    return secret


def _text(source: str) -> str:
    if not source.startswith("/"):
        return source
    try:
        with Path(source).open("rb") as handle:
            raw = handle.read(_MAX_FILE + 1)
        if len(raw) > _MAX_FILE:
            raise SettingsError([Problem(SETTING, f"{source} is larger than 1 MiB.", "Write a list of model servers.")])
        return raw.decode()
    except OSError as error:
        what = f"{source} cannot be read ({error.strerror})."
        raise SettingsError([Problem(SETTING, what, "Mount the list of model servers there.")]) from None
    except UnicodeDecodeError:
        raise SettingsError([Problem(SETTING, f"{source} is not UTF-8.", "Write the file again.")]) from None


def parse(text: str, queue: int) -> tuple[RunnerSpec, ...]:
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SettingsError([Problem(SETTING, f"is not JSON ({error}).", "Write a list of objects.")]) from None
    if not isinstance(entries, list) or not entries:
        raise SettingsError([Problem(SETTING, "holds no list of model servers.", "Write a list of objects.")])
    problems: list[Problem] = []
    found: list[RunnerSpec] = []
    for number, entry in enumerate(entries):
        where = f"{SETTING}[{number}]"
        if not isinstance(entry, dict):
            problems.append(Problem(where, "is not an object.", f"Give it {', '.join(_NEEDED)}."))
            continue
        try:
            found.append(_spec(where, entry, queue))
        except SettingsError as error:
            problems += error.problems
    names = [spec.name for spec in found]
    problems += [
        Problem(SETTING, f"the name {name!r} is given twice.", "Give each model server a name of its own.")
        for name in sorted({name for name in names if names.count(name) > 1})
    ]
    if problems:
        raise SettingsError(problems)
    return tuple(found)


def _spec(where: str, entry: dict[str, Any], queue: int) -> RunnerSpec:
    problems = [
        Problem(f"{where}.{name}", "is not known.", f"The known ones are {', '.join((*_NEEDED, *_OPTIONAL))}.")
        for name in entry
        if name not in (*_NEEDED, *_OPTIONAL)
    ]
    problems += [Problem(f"{where}.{name}", "is missing.", "Set it.") for name in _NEEDED if name not in entry]

    def value(name: str, default: Any, kind: type, good: Any, words: str) -> Any:
        given = entry.get(name, default)
        if type(given) is kind and good(given):
            return given
        if name in entry:
            problems.append(Problem(f"{where}.{name}", f"{given!r} is not usable.", f"Set it to {words}."))
        return default

    def readable(reader: Any) -> Any:
        def check(given: str) -> bool:
            try:
                reader(given)
            except ValueError:
                return False
            return True

        return check

    word = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}\Z", re.ASCII)
    name = value("name", "", str, word.match, "1 to 63 small letters, digits or any of _ . -")
    url = value("url", "", str, readable(s.base_url), "a base URL such as http://model-runner:8080")
    path = value("api_key_file", "", str, readable(s.path), "an absolute path")
    concurrency = value("max_concurrency", 1, int, range(1, 100_001).__contains__, "a whole number from 1 to 100000")
    weight = value("weight", 1, int, range(1, 1001).__contains__, "a whole number from 1 to 1000")
    places = value("queue", queue, int, range(100_001).__contains__, "a whole number from 0 to 100000")
    draining = value("draining", False, bool, lambda _: True, "true or false")
    models = value("models", [], list, lambda given: all(_is_model(one) for one in given), "a list of names of models")
    if path:
        try:
            key = _key(f"{where}.api_key_file", Path(path))
        except SettingsError as error:
            problems += error.problems
    if problems:
        raise SettingsError(problems)
    return RunnerSpec(name, url.rstrip("/"), key, concurrency, tuple(dict.fromkeys(models)), weight, places, draining)


def _is_model(name: object) -> bool:
    return isinstance(name, str) and 0 < len(name) <= 256 and name.isprintable()
