# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An outside judge agrees with the OpenAPI document."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from registry_support import Ask, Registry

import support

pytest_plugins = ("registry_fixtures",)

PATHS = {
    "/health": {"get"},
    "/live": {"get"},
    "/ready": {"get"},
    "/v1/servers": {"get", "post"},
    "/v1/servers/{id}": {"get", "delete"},
    "/v1/servers/{id}/sync": {"post"},
    "/v1/servers/{id}/diff": {"get"},
    "/v1/servers/{id}/approve": {"post"},
    "/v1/tools": {"get", "post"},
    "/v1/tools/find": {"post"},
    "/v1/tools/{server}/{name}": {"get", "put", "delete"},
    "/v1/tools/{server}/{name}/call": {"post"},
    "/v0.1/servers": {"get"},
    "/v0.1/servers/{name}/versions": {"get"},
    "/v0.1/servers/{name}/versions/{version}": {"get"},
}


def test_the_document_says_what_there_is(ask: Ask) -> None:
    document = ask("GET", "/openapi.json").json
    assert {path: set(methods) for path, methods in document["paths"].items()} == PATHS
    for methods in document["paths"].values():
        for operation in methods.values():
            assert "422" not in operation["responses"]
            assert {"security", "tags"} <= set(operation) or operation["tags"] == ["operation"]


def test_it_is_for_development_only(registry: Registry) -> None:
    env = registry.env | {"REGISTRY_ENVIRONMENT": "production", "REGISTRY_PORT": str(support.free_port())}
    log = registry.log.with_name("production.log")
    production = support.start_service("mcpstack.registry", env, log, port="REGISTRY_PORT")
    try:
        assert production.get("/openapi.json").status == 404
    finally:
        assert production.stop() == 0


def test_schemathesis(registry: Registry, ask: Ask, tmp_path: Path) -> None:
    command = shutil.which("schemathesis", path=str(Path(sys.executable).parent))
    assert command, "install requirements-test.in"
    ask("POST", "/v1/servers", {"id": "judged"})
    ask("POST", "/v1/tools", {"server": "judged", "name": "one", "inputSchema": {}})
    done = subprocess.run(
        [
            command, "--config-file", str(Path(__file__).with_name("schemathesis.toml")),
            "run", f"http://127.0.0.1:{registry.port}/openapi.json",
            "-H", f"Authorization: Bearer {ask.keys['admin']}",
            "--checks", "all", "--max-examples", "8", "--workers", "1", "--seed", "1", "--no-color",
            "--generation-database", "none",
        ],
        cwd=tmp_path, capture_output=True, text=True, timeout=80, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-2000:]
    assert "unexpected error" not in registry.log.read_text()
