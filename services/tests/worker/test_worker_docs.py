# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The README's section on the worker says what the code says; settings are refused all at once."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

import support
from mcpstack.common.settings import SettingsError
from mcpstack.worker import settings
from mcpstack.worker.metrics import Metrics
from mcpstack.worker.payloads import BY_USERS
from mcpstack.worker.settings import PREFIX, Settings
from mcpstack.worker.tasks import KINDS


def table(title: str) -> list[list[str]]:
    section = (support.ROOT / "README.md").read_text().split(f"{title}\n", 1)[1].split("\n#", 1)[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in row.strip("|").split("|")] for row in rows[2:]]


def test_settings_table() -> None:
    assert table("### The worker's settings") == [
        [PREFIX + field.name.upper(), field.metadata["default"], field.metadata["about"]]
        for field in dataclasses.fields(Settings)
    ]


def test_metrics_table() -> None:
    families = [family for family in Metrics([]).registry.collect() if family.name.startswith("worker_")]
    suffix = {"counter": "_total"}
    assert table("### The worker's metrics") == [
        [family.name + suffix.get(family.type, ""), family.type, family.documentation] for family in families
    ]


def test_tasks_table() -> None:
    every = {60: "1 min", 300: "5 min", 3600: "hourly"}
    found = {row[0]: row[1:3] for row in table("## What the worker does")}
    assert found == {
        kind.name: [
            every.get(int(kind.every or 0))
            or f"daily {int(kind.offset // 3600):02d}:{int(kind.offset % 3600 // 60):02d}",
            "yes" if kind.name in BY_USERS else "no",
        ]
        for kind in KINDS
    }


@pytest.fixture
def good(tmp_path: Path) -> dict[str, str]:
    authority = tmp_path / "ca.crt"
    authority.write_text("-----BEGIN CERTIFICATE-----\n")
    key = support.write_secrets(tmp_path, {"model-api-key": support.MODEL_KEY})["model-api-key"]
    tls = support.Tls(authority, authority, authority)
    return support.service_environment("worker", tmp_path, tls, "mcpstack", 5432, model_api_key_file=key)


BAD = [
    ("PORT", "0", "WORKER_PORT: '0' is not usable. Set it to a whole number from 1 to 65535."),
    ("CONCURENCY", "1", "WORKER_CONCURENCY: is not a setting. Did you mean WORKER_CONCURRENCY?"),
    ("HEARTBEAT", "8", "WORKER_STALLED_AFTER: is too short. Set it to at least four times WORKER_HEARTBEAT."),
    ("BLOCK_LIMIT", "30", "WORKER_BLOCK_LIMIT: is too long. Set it to less than WORKER_STALLED_AFTER."),
    ("MODELS_MANIFEST", "x.json", "WORKER_MODELS_MANIFEST: 'x.json' is not usable. Set it to an absolute path."),
    ("KEEP_USAGE_DAYS", "30", "WORKER_KEEP_USAGE_DAYS: '30' is not usable. Set it to a whole number from 62 to 3650."),
    ("VALKEY_HOST", "a b", "WORKER_VALKEY_HOST: 'a b' is not usable. Set it to a host name or an address."),
    ("EMBEDDING_MODEL", "a\nb", "is not usable. Set it to the id of a model, at most 256 characters."),
    (
        "DB_LOGIN_FILE",
        "/nowhere",
        "WORKER_DB_LOGIN_FILE: /nowhere cannot be read (No such file or directory). "
        "Mount the secret there, readable by the user this service runs as.",
    ),
]


def test_settings_that_cannot_be_used(good: dict[str, str]) -> None:
    settings.load(good)
    for name, value, words in BAD:
        with pytest.raises(SettingsError) as caught:
            settings.load(good | {PREFIX + name: value})
        assert words in str(caught.value)
    with pytest.raises(SettingsError) as caught:
        settings.load(good | {"WORKER_PORT": "x", "WORKER_DB_HOST": "a b", "WORKER_CONCURRENCY": "0"})
    assert len(caught.value.problems) == 3


def test_exit_status(good: dict[str, str]) -> None:
    def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mcpstack.worker", *arguments]
        return subprocess.run(command, env=good | env, capture_output=True, text=True, timeout=30, check=False)

    assert run("--check-settings").returncode == 0
    done = run(WORKER_PORT="x")
    assert (done.returncode, done.stderr) == (
        2,
        "mcpstack-worker: WORKER_PORT: 'x' is not usable. Set it to a whole number from 1 to 65535.\n",
    )
    assert run("--health").returncode == 1
