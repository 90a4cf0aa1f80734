# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the tests here. A plugin and not a conftest: the tests above import names from theirs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from psycopg_pool import AsyncConnectionPool
from registry_support import Ask, Registry, environment, put_key, start

import support
from mcpstack.registry.store import Store
from support import Stack


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def database(stack: Stack) -> str:
    return stack.postgres.new_database()


@pytest.fixture
async def pool(stack: Stack, database: str, anyio_backend: str) -> AsyncIterator[AsyncConnectionPool[Any]]:
    """As the service's own login: what it may not do fails here as well."""
    pg = stack.postgres
    pool: AsyncConnectionPool[Any] = AsyncConnectionPool(
        kwargs={
            "host": str(pg.folder),
            "port": pg.port,
            "dbname": database,
            "user": "registry_a",
            "password": support.DB_PASSWORD,
            "autocommit": True,
        },
        min_size=1,
        max_size=8,
        open=False,
    )
    await pool.open()
    yield pool
    await asyncio.wait_for(pool.close(), 10)


@pytest.fixture
def store(pool: AsyncConnectionPool[Any]) -> Store:
    return Store(pool)


@pytest.fixture(scope="session")
def registry(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """One ordinary registry for all tests that do not break anything."""
    folder = tmp_path_factory.mktemp("registry")
    env = environment(stack, folder, log_level="debug", max_body_bytes="200000", default_rpm="100000")
    running = start(env, folder / "registry.log")
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="session")
def ask(registry: Registry) -> Ask:
    """Requests to it, with a key for each scope."""
    keys = {scope: put_key(registry, f"tools:{scope}") for scope in ("read", "call")}
    keys["admin"] = put_key(registry, "tools:read,tools:call,tools:admin")
    keys["chat"] = put_key(registry, "chat")
    return Ask(registry, keys)


@pytest.fixture
def launch_registry(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Registry]]:
    started: list[Registry] = []

    def launch(*, until: tuple[str, ...] = ("ready",), **settings: Any) -> Registry:
        folder = tmp_path_factory.mktemp("registry")
        started.append(start(environment(stack, folder, **settings), folder / "registry.log", until))
        return started[-1]

    yield launch
    for registry in started:
        registry.stop()
