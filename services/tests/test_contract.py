# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The documents say what the code does, and an outside judge agrees with the OpenAPI document."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import support
from mcpstack.common.errors import CATALOGUE
from mcpstack.gateway.endpoints import ENDPOINTS
from mcpstack.gateway.metrics import Metrics
from mcpstack.gateway.settings import PREFIX, Settings
from modelserver import ModelServer
from support import Gateway, Launch, Stack

README = (support.ROOT / "README.md").read_text()


def table(title: str) -> list[list[str]]:
    """The rows of the table under a heading, without the head."""
    section = README.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in row.strip("|").split("|")] for row in rows[2:]]


def test_settings_table() -> None:
    expected = [
        [PREFIX + field.name.upper(), field.metadata["default"], field.metadata["about"]]
        for field in dataclasses.fields(Settings)
    ]
    assert table("Settings") == expected


def test_error_table() -> None:
    expected = [[code, str(kind.status), " ".join(kind.suggestions)] for code, kind in CATALOGUE.items()]
    assert table("Errors") == expected


def test_metrics_table() -> None:
    families = [family for family in Metrics().registry.collect() if family.name.startswith("gateway_")]
    suffix = {"counter": "_total"}
    expected = [[family.name + suffix.get(family.type, ""), family.type, family.documentation] for family in families]
    assert table("Metrics") == expected


def test_the_lock_names_no_index_and_pins_everything() -> None:
    lock = (support.ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    assert "find-links" not in lock
    wanted = re.findall(r"^([a-z0-9-]+)", (support.ROOT / "requirements.in").read_text(), re.M)
    assert wanted
    assert all(re.search(rf"^{name}(\[.*\])?==", lock, re.M) for name in wanted)
    assert len(re.findall(r"^[a-z0-9-]+==", lock, re.M)) == len(re.findall(r"==\S+ \\\n    --hash=sha256:", lock))


def test_openapi_is_for_development_only(gateway: Gateway) -> None:
    document = gateway.get("/openapi.json").json
    assert set(document["paths"]) == {
        "/health", "/ready", "/v1/models", "/v1/models/{model}", "/v1/chat/completions", "/v1/completions",
        "/v1/embeddings", "/v1/responses", "/v1/messages", "/v1/messages/count_tokens", "/v1/usage", "/v1/tasks",
        "/v1/tasks/{task_id}",
    }  # fmt: skip
    assert "422" not in str(document["paths"])
    env = gateway.env | {"GATEWAY_ENVIRONMENT": "production", "GATEWAY_PORT": str(support.free_port())}
    production = support.start_gateway(env, gateway.log.with_name("production.log"))
    try:
        assert production.get("/openapi.json").status == 404
    finally:
        assert production.stop() == 0


SCHEMATHESIS = """
[[operations]]
# A task that was taken back can still be looked at: it says that it was cancelled.
include-path = "/v1/tasks/{task_id}"
checks.use_after_free.enabled = false
"""


def test_schemathesis(stack: Stack, launch: Launch, new_key: Callable[..., str], tmp_path: Path) -> None:
    """Against a model server that has every endpoint, and with a model that is there: right requests are answered."""
    command = shutil.which("schemathesis", path=str(Path(sys.executable).parent))
    assert command, "install requirements-test.in"
    server = ModelServer(stack.loop)
    server.start()
    try:
        gateway = launch(model_port=server.port, default_rpm="1000000", max_body_bytes="200000")
        key = new_key(gateway, scopes="chat,embeddings,models,tasks")
        document = gateway.get("/openapi.json").json
        for endpoint in ENDPOINTS:
            fields = document["components"]["schemas"][endpoint.request.__name__]["properties"]
            fields["model"] = {"type": "string", "const": "tiny"}
        (tmp_path / "openapi.json").write_text(json.dumps(document))
        (tmp_path / "schemathesis.toml").write_text(SCHEMATHESIS)
        done = subprocess.run(
            [
                command, "run", str(tmp_path / "openapi.json"), "--url", f"http://127.0.0.1:{gateway.port}",
                "-H", f"Authorization: Bearer {key}", "--checks", "all", "--max-examples", "8", "--workers", "1",
                "--seed", "1", "--no-color", "--generation-database", "none",
            ],
            cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
    finally:
        server.stop()
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-2000:]
    assert {path for path, _, _ in server.seen} == {endpoint.path for endpoint in ENDPOINTS}
