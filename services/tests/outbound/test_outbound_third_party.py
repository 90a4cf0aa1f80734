# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Servers of other people, from npm: their tools are taken over as they are and can be called."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.server.lowlevel import Server
from outbound_servers import Farm
from outbound_stage import WHO, Stage, staged

import support

pytestmark = [pytest.mark.anyio, pytest.mark.long]

SOURCE = Path(__file__).resolve().parent / "third_party"
TARGET = Path(__file__).resolve().parents[3] / ".cache" / "third_party"
FILES = ("package.json", "package-lock.json")


@pytest.fixture(scope="module")
def packages() -> Path:
    """Exactly what the lock names; no script of a package is run."""
    wanted = hashlib.sha256(b"".join((SOURCE / name).read_bytes() for name in FILES)).hexdigest()
    stamp = TARGET / "installed"
    if not stamp.is_file() or stamp.read_text() != wanted:
        shutil.rmtree(TARGET, ignore_errors=True)
        TARGET.mkdir(parents=True)
        for name in FILES:
            shutil.copy(SOURCE / name, TARGET)
        subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"], cwd=TARGET, check=True)
        stamp.write_text(wanted)
    return TARGET / "node_modules" / "@modelcontextprotocol"


@pytest.fixture
async def stage(stack: Any, farm: Farm) -> AsyncIterator[Stage]:
    async with staged(stack.postgres, farm) as found:
        yield found


@contextlib.asynccontextmanager
async def everything(packages: Path) -> AsyncIterator[str]:
    """server-everything over its own streamable HTTP."""
    port = support.free_port()
    script = packages / "server-everything" / "dist" / "index.js"
    env = {"PATH": os.environ["PATH"], "PORT": str(port)}
    process = await asyncio.create_subprocess_exec(
        "node",
        str(script),
        "streamableHttp",
        env=env,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(30):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    assert process.returncode is None
                    await asyncio.sleep(0.1)
                else:
                    writer.close()
                    break
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.kill()
        await process.wait()


async def test_everything(stage: Stage, packages: Path) -> None:
    async with everything(packages) as url:
        report = await stage.synced("everything", url)
        assert (report.result, report.changes.refused) == ("ok", ())
        assert len(report.changes.added) >= 10
        row = await stage.store.server("everything")
        assert row is not None
        assert row.protocol_version == "2025-11-25"
        for message in ("hello", "\u00e9\U0001f600\n"):
            outcome = await stage.executor.call(WHO, "everything", "echo", {"message": message}, request_id="r")
            assert outcome.result["content"] == [{"type": "text", "text": f"Echo: {message}"}]
        assert (await stage.syncer.sync_server("everything")).changes.unchanged == len(report.changes.added)
        process = len(report.changes.added)
    async with everything(packages) as url:  # another process: the session is gone
        await stage.put("everything", url)
        assert (await stage.syncer.sync_server("everything")).changes.unchanged == process


async def test_a_restart_in_between(stage: Stage, packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = support.free_port()
    monkeypatch.setattr(support, "free_port", lambda: port)
    for _ in range(2):
        async with everything(packages) as url:
            await stage.synced("everything", url)
            outcome = await stage.executor.call(WHO, "everything", "echo", {"message": "x"}, request_id="r")
            assert outcome.result["content"][0]["text"] == "Echo: x"


async def test_filesystem(stage: Stage, farm: Farm, packages: Path, tmp_path: Path) -> None:
    """server-filesystem speaks standard input and output only; the SDK's server stands before it, as in a container."""
    (tmp_path / "note.txt").write_text("what is written here")
    script = packages / "server-filesystem" / "dist" / "index.js"
    command = StdioServerParameters(command="node", args=[str(script), str(tmp_path)])
    with (tmp_path / "stderr").open("w") as sink:
        async with stdio_client(command, errlog=sink) as (read, write), ClientSession(read, write) as session:
            await session.initialize()

            async def list_tools(context: Any, params: Any) -> Any:
                return await session.list_tools()

            async def call_tool(context: Any, params: Any) -> Any:
                return await session.call_tool(params.name, params.arguments)

            bridge = Server("bridge", on_list_tools=list_tools, on_call_tool=call_tool)
            report = await stage.synced("files", await farm.asgi(bridge.streamable_http_app()))
            assert (report.result, report.changes.refused) == ("ok", ())
            assert {"read_text_file", "write_file", "list_directory"} <= set(report.changes.added)
            path = {"path": str(tmp_path / "note.txt")}
            outcome = await stage.executor.call(WHO, "files", "read_text_file", path, request_id="r")
            assert outcome.result["content"][0]["text"] == "what is written here"
            outcome = await stage.executor.call(WHO, "files", "read_text_file", {"path": "/etc/passwd"}, request_id="r")
            assert outcome.result["isError"] is True
