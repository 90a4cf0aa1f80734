# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from collections.abc import Iterator

import pytest
from inbound import Issuer, Served, fixture_server, serve

from mcpstack.registry.client import Server
from support import Loop


@pytest.fixture(scope="session")
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture(scope="session")
def issuer(loop: Loop) -> Iterator[Issuer]:
    issuer = Issuer(loop).start()
    yield issuer
    issuer.stop()


@pytest.fixture(scope="session")
def outside() -> Iterator[int]:
    with fixture_server() as port:
        yield port


@pytest.fixture(scope="session")
def served(loop: Loop, issuer: Issuer, outside: int) -> Iterator[Served]:
    """The endpoint for all tests that break nothing, with one outside server behind it."""
    with serve(loop, oidc_issuers=issuer.name, mcp_max_body_bytes=65536) as served:
        served.catalogue.servers["fixture"] = Server("fixture", "fixture", f"http://127.0.0.1:{outside}/mcp")
        yield served
