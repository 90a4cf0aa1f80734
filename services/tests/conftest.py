# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import support
from support import Cable, Gateway, Launch, Loop, Runner, Stack, put_key


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """Real servers for the whole run. Postgres refuses to run as root, so root lends it the postgres account."""
    owner = "postgres" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="mcpstack-tests-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for part in ("tls", "pg", "vk"):
            (folder / part).mkdir()
        tls = support.make_tls(folder / "tls", owner)
        loop = Loop()
        runner = Runner(loop)
        runner.start()
        with support.postgres(folder / "pg", tls, owner) as pg, support.valkey(folder / "vk", tls, owner) as vk:
            yield Stack(loop, tls, pg, vk, runner)
        runner.stop()
        loop.close()


@pytest.fixture
def launch(stack: Stack, tmp_path: Path) -> Iterator[Launch]:
    """Start gateways with settings of the test's own; each has its own database unless told otherwise.

    An upper-case name is a variable as it stands, any other one of the gateway's settings.
    """
    started: list[Gateway] = []

    def start(
        *,
        until: tuple[str, ...] = ("ready",),
        pg_port: int | None = None,
        valkey_port: int | None = None,
        model_port: int | None = None,
        database: str | None = None,
        **settings: str,
    ) -> Gateway:
        number = len(started)
        env = support.environment(
            tmp_path / f"secrets{number}",
            stack.tls,
            pg_port or stack.postgres.port,
            database or stack.postgres.new_database(),
            valkey_port or stack.valkey.port,
            model_port or stack.runner.port,
        )
        env.update({name if name.isupper() else f"GATEWAY_{name.upper()}": value for name, value in settings.items()})
        gateway = support.start_gateway(env, tmp_path / f"gateway{number}.log", until)
        started.append(gateway)
        return gateway

    yield start
    for gateway in started:
        gateway.stop()


@pytest.fixture(scope="session")
def gateway(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One ordinary gateway for all tests that do not break anything."""
    folder = tmp_path_factory.mktemp("gateway")
    env = support.environment(
        folder / "secrets",
        stack.tls,
        stack.postgres.port,
        stack.postgres.new_database(),
        stack.valkey.port,
        stack.runner.port,
    )
    env |= {
        "GATEWAY_LOG_LEVEL": "debug",
        "GATEWAY_CORS_ORIGINS": "https://app.example.org",
        "GATEWAY_MAX_BODY_BYTES": "200000",
        "GATEWAY_MODEL_FIRST_BYTE_TIMEOUT": "2",
        "GATEWAY_PING_INTERVAL": "0.5",
        "GATEWAY_MODEL_IDLE_TIMEOUT": "1",
        "GATEWAY_DEFAULT_RPM": "100000",
        "GATEWAY_MODEL_LIST_SECONDS": "0.5",
    }
    running = support.start_gateway(env, folder / "gateway.log")
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="session")
def key(gateway: Gateway) -> str:
    return put_key(gateway)


@pytest.fixture
def new_key() -> Callable[..., str]:
    return put_key


@pytest.fixture
def cable(stack: Stack) -> Iterator[Callable[[int], Cable]]:
    cables: list[Cable] = []

    def lay(target: int) -> Cable:
        cables.append(Cable(stack.loop, target))
        return cables[-1]

    yield lay
    for laid in cables:
        laid.pull()
