# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Limiters on the tests' Valkey, in this process or as processes of their own.

python limits_support.py PORT CA PASSWORD_FILE KID COUNT LEASE WANT LIMIT... connects, says ready, waits for a line,
asks COUNT times at once, prints what came out, and holds what it got until it is stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

from valkey import Valkey as Client

from mcpstack.common.limits import Lease, Limiter, Limits, Period, Totals
from mcpstack.common.secretfile import SecretFile, password
from mcpstack.common.valkey import Link
from support import ROOT


@dataclass(frozen=True)
class Settings:
    valkey_port: int
    tls_ca_file: Path
    valkey_host: str = "localhost"
    valkey_user: str = "gateway"
    valkey_prefix: str = "gw:"
    valkey_timeout: float = 1.0  # a machine that is busy with other tests is not a broken Valkey
    replicas: int = 1


def kid() -> str:
    return "t" + secrets.token_hex(6)


async def nothing(_: str, __: Period) -> Totals | None:
    return Totals(0, 0)


@contextlib.asynccontextmanager
async def limiter(
    settings: Settings, file: Path, totals: object = nothing, lease: float = 30.0
) -> AsyncIterator[Limiter]:
    link = Link(settings, SecretFile("TEST", file, password))
    made = Limiter(settings, link, totals, lease)  # type: ignore[arg-type]
    try:
        await made.check()
        yield made
    finally:
        await made.close()


async def take(made: Limiter, name: str, limits: Limits, want: int = 0) -> tuple[int, Lease | None]:
    verdict, lease = await made.take(name, limits, want, want)
    assert not verdict.degraded
    return verdict.code, lease


async def storm(made: Limiter, name: str, limits: Limits, want: int, count: int) -> tuple[Counter[int], list[Lease]]:
    """All at once; how many of each code, and what was got."""
    answers = await asyncio.gather(*(take(made, name, limits, want) for _ in range(count)))
    return Counter(code for code, _ in answers), [lease for _, lease in answers if lease is not None]


def record(client: Client, name: str) -> dict[str, float]:
    found = client.hgetall(f"gw:k:{{{name}}}")
    return {field.decode(): float(value) for field, value in found.items()}


def places(client: Client, name: str) -> int:
    return int(client.zcard(f"gw:l:{{{name}}}"))


@dataclass
class Replica:
    process: subprocess.Popen[str]

    def go(self) -> dict[int, int]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return {int(code): count for code, count in json.loads(self.process.stdout.readline()).items()}


@contextlib.contextmanager
def replicas(
    number: int, port: int, ca: Path, file: Path, name: str, count: int, *limits: int, lease: float = 30
) -> Iterator[list[Replica]]:
    words = [sys.executable, __file__, str(port), str(ca), str(file), name, str(count), str(lease), *map(str, limits)]
    env = {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}"}
    started = [
        subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        for _ in range(number)
    ]
    try:
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        yield [Replica(process) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()


async def _replica(port: str, ca: str, file: str, name: str, count: str, lease: str, want: str, *limits: str) -> None:
    settings = Settings(int(port), Path(ca))
    loop = asyncio.get_running_loop()
    async with limiter(settings, Path(file), lease=float(lease)) as made:
        print("ready", flush=True)
        await loop.run_in_executor(None, sys.stdin.readline)
        keeping = asyncio.create_task(made.keep())
        found, held = await storm(made, name, Limits(*map(int, limits)), int(want), int(count))
        print(json.dumps(found), flush=True)
        await loop.run_in_executor(None, sys.stdin.readline)
        keeping.cancel()
        assert len(held) == found[0]


if __name__ == "__main__":
    asyncio.run(_replica(*sys.argv[1:]))
