# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import support
from mcpstack.common.settings import SettingsError
from mcpstack.gateway import settings


@pytest.fixture
def good(tmp_path: Path) -> dict[str, str]:
    authority = tmp_path / "ca.crt"
    authority.write_text("-----BEGIN CERTIFICATE-----\n")
    env = support.environment(tmp_path, support.Tls(authority, authority, authority), 5432, "gateway", 6379, 8080)
    return {name: value for name, value in env.items() if name.startswith("GATEWAY_")}


def problems(env: dict[str, str]) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        settings.load(env)
    return [str(problem) for problem in caught.value.problems]


def test_good_settings(good: dict[str, str]) -> None:
    values, secrets = settings.load(good | {"GATEWAY_CORS_ORIGINS": "https://a.example, http://b.example:8080"})
    assert values.environment == "development"
    assert values.cors_origins == ("https://a.example", "http://b.example:8080")
    assert secrets.db_login.read().user == "gateway_a"
    assert secrets.pepper.read().current == 1


NUMBER = "Set it to a whole number from 1 to 65535."
URL = "Set it to a base URL such as http://model-runner:8080, without credentials, query or fragment."
BAD = [
    ("GATEWAY_PORT", "", f"GATEWAY_PORT: '' is not usable. {NUMBER}"),
    ("GATEWAY_PORT", "0", f"GATEWAY_PORT: '0' is not usable. {NUMBER}"),
    ("GATEWAY_PORT", "70000", f"GATEWAY_PORT: '70000' is not usable. {NUMBER}"),
    ("GATEWAY_PORT", "80 ", f"GATEWAY_PORT: '80 ' is not usable. {NUMBER}"),
    ("GATEWAY_PORT", "٨٠", f"GATEWAY_PORT: '٨٠' is not usable. {NUMBER}"),
    (
        "GATEWAY_ENVIRONMENT",
        "prod",
        "GATEWAY_ENVIRONMENT: 'prod' is not usable. Set it to one of development, staging, production.",
    ),
    (
        "GATEWAY_MODEL_IDLE_TIMEOUT",
        "nan",
        "GATEWAY_MODEL_IDLE_TIMEOUT: 'nan' is not usable. Set it to a number of seconds from 0.1 to 3600.",
    ),
    ("GATEWAY_MODEL_URL", "model-runner:8080", f"GATEWAY_MODEL_URL: 'model-runner:8080' is not usable. {URL}"),
    ("GATEWAY_MODEL_URL", "http://h:99999", f"GATEWAY_MODEL_URL: 'http://h:99999' is not usable. {URL}"),
    ("GATEWAY_MODEL_URL", "http://u:p@h", f"GATEWAY_MODEL_URL: 'http://u:p@h' is not usable. {URL}"),
    ("GATEWAY_DB_HOST", "a b", "GATEWAY_DB_HOST: 'a b' is not usable. Set it to a host name or an address."),
    (
        "GATEWAY_CORS_ORIGINS",
        "example.org",
        "GATEWAY_CORS_ORIGINS: 'example.org' is not usable. "
        "Set it to origins such as https://app.example.org, separated by commas.",
    ),
    ("GATEWAY_DEFAULT_RMP", "5", "GATEWAY_DEFAULT_RMP: is not a setting. Did you mean GATEWAY_DEFAULT_RPM?"),
    ("GATEWAY_PEPPER_FILE", "pepper", "GATEWAY_PEPPER_FILE: 'pepper' is not usable. Set it to an absolute path."),
]


@pytest.mark.parametrize(("name", "value", "sentence"), BAD)
def test_bad_settings(good: dict[str, str], name: str, value: str, sentence: str) -> None:
    assert problems(good | {name: value}) == [sentence]


def test_all_problems_at_once(good: dict[str, str]) -> None:
    bad = {name: value for name, value, _ in BAD}
    assert len(problems(good | bad)) == len(bad)


def test_a_wildcard_origin_is_for_development_only(good: dict[str, str]) -> None:
    settings.load(good | {"GATEWAY_CORS_ORIGINS": "*"})
    assert problems(good | {"GATEWAY_CORS_ORIGINS": "*", "GATEWAY_ENVIRONMENT": "production"}) == [
        "GATEWAY_CORS_ORIGINS: '*' lets every web site call the API. Name the origins in production."
    ]


FILES = [
    ("GATEWAY_DB_LOGIN_FILE", "gateway_a", "one line, user:password"),
    ("GATEWAY_DB_LOGIN_FILE", "Ga;b:" + "p" * 32, "one line, user:password"),
    ("GATEWAY_DB_LOGIN_FILE", "", "one line, user:password"),
    ("GATEWAY_VALKEY_PASSWORD_FILE", "short", "one line of at least 16 printable characters without spaces"),
    ("GATEWAY_VALKEY_PASSWORD_FILE", "with space" * 4, "one line of at least 16 printable characters without spaces"),
    ("GATEWAY_MODEL_API_KEY_FILE", "# nothing\n", "one line of at least 16 printable characters without spaces"),
    (
        "GATEWAY_PEPPER_FILE",
        "5a" * 32,
        "lines of version:64 hexadecimal digits, each version once, the current one first",
    ),
    (
        "GATEWAY_PEPPER_FILE",
        f"1:{'5a' * 32}\n1:{'6b' * 32}",
        "lines of version:64 hexadecimal digits, each version once, the current one first",
    ),
]


@pytest.mark.parametrize(("name", "content", "what"), FILES)
def test_bad_secret_files(good: dict[str, str], name: str, content: str, what: str) -> None:
    path = Path(good[name])
    path.write_text(content)
    assert problems(good) == [f"{name}: {path} does not hold what belongs there. Write {what}."]


def test_missing_files_are_all_named(good: dict[str, str]) -> None:
    names = [name for name in sorted(good) if name.endswith("_FILE")]
    for name in names:
        Path(good[name]).unlink()
    found = problems(good)
    assert sorted(problem.split(":")[0] for problem in found) == names
    assert all("cannot be read (No such file or directory)." in problem for problem in found)


def test_binary_secret_file(good: dict[str, str]) -> None:
    path = Path(good["GATEWAY_PEPPER_FILE"])
    path.write_bytes(b"\xff\x00")
    assert problems(good) == [f"GATEWAY_PEPPER_FILE: {path} is not plain text. Write the secret again."]


def test_a_swapped_secret_is_read_again(good: dict[str, str]) -> None:
    _, secrets = settings.load(good)
    folder = Path(good["GATEWAY_PEPPER_FILE"]).parent
    (folder / "v2").write_text(f"2:{'6b' * 32}\n1:{support.PEPPER}\n")
    (folder / "new").symlink_to("v2")
    (folder / "new").rename(folder / "current")
    peppers = secrets.pepper.read()
    assert (peppers.current, sorted(peppers.by_version)) == (2, [1, 2])


def test_the_command_says_it_and_stops(good: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mcpstack.gateway"],
        env=good | {"PYTHONPATH": str(support.ROOT / "src"), "GATEWAY_PORT": "x", "GATEWAY_DB_PRT": "1"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 2
    assert "Traceback" not in done.stderr
    assert "Did you mean GATEWAY_DB_PORT?" in done.stderr
