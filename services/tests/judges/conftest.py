# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "mcp_inbound"))

import judging
from inbound import Served, fixture_server, serve

from mcpstack.registry.client import Server
from support import Loop, free_port


@pytest.fixture(scope="session")
def loop() -> Iterator[Loop]:
    judging.install()
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture(scope="session")
def issuer_port() -> int:
    return free_port()


@pytest.fixture(scope="session")
def served(loop: Loop, issuer_port: int) -> Iterator[Served]:
    with fixture_server() as outside, serve(loop, oidc_issuers=f"http://127.0.0.1:{issuer_port}") as served:
        served.catalogue.servers["fixture"] = Server("fixture", "fixture", f"http://127.0.0.1:{outside}/mcp")
        yield served
