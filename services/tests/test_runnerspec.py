# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The list of model servers: what is wrong with it is said all at once, with the place and the way out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import support
from mcpstack.common.settings import SettingsError
from mcpstack.gateway import runnerspec, settings


@pytest.fixture
def entry(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "key").write_text(support.MODEL_KEY)
    return {"name": "a", "url": "http://a:8080/", "api_key_file": str(tmp_path / "key"), "max_concurrency": 8}


def problems(text: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        runnerspec.parse(text, 5)
    return [str(problem) for problem in caught.value.problems]


def test_a_good_list(entry: dict[str, Any]) -> None:
    more = {"models": ["x", "y", "x"], "weight": 2, "queue": 0, "draining": True}
    plain, full = runnerspec.parse(json.dumps([entry, entry | {"name": "b"} | more]), 5)
    assert (plain.name, plain.url, plain.max_concurrency, plain.queue) == ("a", "http://a:8080", 8, 5)
    assert (plain.models, plain.weight, plain.draining) == ((), 1, False)
    assert (full.models, full.weight, full.queue, full.draining) == (("x", "y"), 2, 0, True)
    assert plain.api_key.read() == support.MODEL_KEY


P = "GATEWAY_RUNNERS"
KNOWN = "name, url, api_key_file, max_concurrency, models, weight, queue, draining"
BAD = [
    ({"name": "A b"}, f"{P}[0].name: 'A b' is not usable. Set it to 1 to 63 small letters, digits or any of _ . -."),
    ({"url": "a:8080"}, f"{P}[0].url: 'a:8080' is not usable. Set it to a base URL such as http://model-runner:8080."),
    ({"url": "http://u:p@a"}, f"{P}[0].url: 'http://u:p@a' is not usable. Set it to a base URL such as "
     "http://model-runner:8080."),
    ({"url": 1}, f"{P}[0].url: 1 is not usable. Set it to a base URL such as http://model-runner:8080."),
    ({"api_key_file": "key"}, f"{P}[0].api_key_file: 'key' is not usable. Set it to an absolute path."),
    ({"max_concurrency": 0}, f"{P}[0].max_concurrency: 0 is not usable. Set it to a whole number from 1 to 100000."),
    ({"queue": True}, f"{P}[0].queue: True is not usable. Set it to a whole number from 0 to 100000."),
    ({"weight": 1.5}, f"{P}[0].weight: 1.5 is not usable. Set it to a whole number from 1 to 1000."),
    ({"queue": -1}, f"{P}[0].queue: -1 is not usable. Set it to a whole number from 0 to 100000."),
    ({"draining": "yes"}, f"{P}[0].draining: 'yes' is not usable. Set it to true or false."),
    ({"models": "x"}, f"{P}[0].models: 'x' is not usable. Set it to a list of names of models."),
    ({"models": [""]}, f"{P}[0].models: [''] is not usable. Set it to a list of names of models."),
    ({"wieght": 1}, f"{P}[0].wieght: is not known. The known ones are {KNOWN}."),
]  # fmt: skip


@pytest.mark.parametrize(("change", "sentence"), BAD)
def test_bad_entries(entry: dict[str, Any], change: dict[str, Any], sentence: str) -> None:
    assert problems(json.dumps([entry | change])) == [sentence]


def test_bad_lists(entry: dict[str, Any], tmp_path: Path) -> None:
    assert problems("[")[0].startswith(f"{P}: is not JSON (")
    for text in ("{}", "[]", "1"):
        assert problems(text) == [f"{P}: holds no list of model servers. Write a list of objects."]
    assert problems("[1]") == [f"{P}[0]: is not an object. Give it name, url, api_key_file, max_concurrency."]
    assert problems(json.dumps([{}])) == [
        f"{P}[0].{name}: is missing. Set it." for name in ("name", "url", "api_key_file", "max_concurrency")
    ]
    assert problems(json.dumps([entry, entry])) == [
        f"{P}: the name 'a' is given twice. Give each model server a name of its own."
    ]
    gone = str(tmp_path / "gone")
    found = problems(json.dumps([entry, entry | {"name": "b", "api_key_file": gone, "weight": 0}]))
    assert len(found) == 2  # all at once
    assert f"{P}[1].api_key_file: {gone} cannot be read (No such file or directory)." in " ".join(found)


@pytest.fixture
def good(tmp_path: Path) -> dict[str, str]:
    authority = tmp_path / "ca.crt"
    authority.write_text("-----BEGIN CERTIFICATE-----\n")
    env = support.environment(tmp_path, support.Tls(authority, authority, authority), 5432, "gateway", 6379, 8080)
    return {name: value for name, value in env.items() if name.startswith("GATEWAY_")}


def said(env: dict[str, str]) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        settings.load(env)
    return [str(problem) for problem in caught.value.problems]


def test_one_way_or_the_other(good: dict[str, str], entry: dict[str, Any], tmp_path: Path) -> None:
    text = json.dumps([entry])
    values, _ = settings.load(good)
    assert [(spec.name, spec.url, spec.queue) for spec in runnerspec.read(values)] == [
        ("model-runner", "http://localhost:8080", 128)
    ]
    assert said(good | {P: text}) == [
        f"{name}: is for a single model server. Remove it, or remove GATEWAY_RUNNERS."
        for name in ("GATEWAY_MODEL_URL", "GATEWAY_MODEL_API_KEY_FILE")
    ]
    for name in ("GATEWAY_MODEL_URL", "GATEWAY_MODEL_API_KEY_FILE"):
        del good[name]
    values, _ = settings.load(good | {P: text})
    assert [spec.name for spec in runnerspec.read(values)] == ["a"]
    file = tmp_path / "runners.json"
    assert said(good | {P: str(file)}) == [
        f"{P}: {file} cannot be read (No such file or directory). Mount the list of model servers there."
    ]
    file.write_text(text)
    values, _ = settings.load(good | {P: str(file)})
    assert [spec.name for spec in runnerspec.read(values)] == ["a"]
    assert said(good | {P: "a.json"}) == [
        f"{P}: 'a.json' is not usable. Set it to a JSON list of model servers, or the path of a file with one."
    ]


CORS = [
    ("*", "production", ["'*' lets every web site call the API. Name the origins in production."]),
    ("app.example.org", "production", None),
    ("null", "development", None),
    ("https://*.example.org", "staging", None),
    ("https://app.example.org/", "production", None),
    ("*", "development", []),
    ("https://app.example.org,http://localhost:3000", "production", []),
    ("", "production", []),
]


@pytest.mark.parametrize(("origins", "environment", "expected"), CORS)
def test_origins(good: dict[str, str], origins: str, environment: str, expected: list[str] | None) -> None:
    env = good | {"GATEWAY_CORS_ORIGINS": origins, "GATEWAY_ENVIRONMENT": environment}
    if expected == []:
        settings.load(env)
        return
    words = "Set it to origins such as https://app.example.org, separated by commas."
    wanted = expected or [f"{origins!r} is not usable. {words}"]
    assert said(env) == [f"GATEWAY_CORS_ORIGINS: {sentence}" for sentence in wanted]
