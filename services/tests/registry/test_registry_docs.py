# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The README says what the registry reads and counts; the command says what is wrong with its settings."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

from registry_support import Registry

import support
from mcpstack.registry.metrics import Metrics
from mcpstack.registry.settings import PREFIX, Settings

pytest_plugins = ("registry_fixtures",)


def table(title: str) -> list[list[str]]:
    section = (support.ROOT / "README.md").read_text().split(f"{title}\n", 1)[1].split("\n##", 1)[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in row.strip("|").split("|")] for row in rows[2:]]


def settings_rows() -> list[list[str]]:
    return [
        [PREFIX + field.name.upper(), field.metadata["default"], field.metadata["about"]]
        for field in dataclasses.fields(Settings)
    ]


def metrics_rows() -> list[list[str]]:
    suffix = {"counter": "_total"}
    families = [family for family in Metrics().registry.collect() if family.name.startswith("registry_")]
    return [[family.name + suffix.get(family.type, ""), family.type, family.documentation] for family in families]


def test_settings_table() -> None:
    assert table("### The registry's settings") == settings_rows()


def test_metrics_table() -> None:
    assert table("### The registry's metrics") == metrics_rows()


def test_settings_are_checked(registry: Registry) -> None:
    def run(*arguments: str, **wrong: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mcpstack.registry", *arguments]
        return subprocess.run(
            command, env=registry.env | wrong, capture_output=True, text=True, timeout=30, check=False
        )

    assert run("--check-settings").returncode == 0
    done = run(
        REGISTRY_PORT="x",
        REGISTRY_NAMESPACE="nodots",
        REGISTRY_EMBEDING_MODEL="a",
        REGISTRY_OUTBOUND_ALLOW="not a host",
    )
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    named = {line.split(": ")[1] for line in lines}
    assert named == {"REGISTRY_EMBEDING_MODEL", "REGISTRY_PORT", "REGISTRY_NAMESPACE", "REGISTRY_OUTBOUND_ALLOW"}
    assert "Did you mean REGISTRY_EMBEDDING_MODEL?" in done.stderr
    missing = run(REGISTRY_PEPPER_FILE="/nowhere/pepper", REGISTRY_TLS_CA_FILE="/nowhere/ca")
    assert missing.returncode == 2
    assert "REGISTRY_PEPPER_FILE" in missing.stderr
    assert "REGISTRY_TLS_CA_FILE" in missing.stderr
    assert run("--health").returncode == 0
    assert run("--health", REGISTRY_PORT=str(support.free_port())).returncode == 1
