# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: E402 - the folders of other tests have to be known first
from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

for folder in ("mcp_inbound", "registry"):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / folder))

import judging
import registry_support
from inbound import fixture_server
from judging import Judged

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
def judged(stack: Any, loop: Loop, issuer_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judged]:
    folder = tmp_path_factory.mktemp("judged")
    settings = {
        "server_names": "127.0.0.1,localhost",
        "outbound_allow": "127.0.0.1",
        "oidc_issuers": f"http://127.0.0.1:{issuer_port}",
        "log_level": "debug",
    }
    env = registry_support.environment(stack, folder / "secrets", **settings)
    env["REGISTRY_PUBLIC_URL"] = f"http://127.0.0.1:{env['REGISTRY_PORT']}"
    with fixture_server() as outside:
        service = registry_support.start(env, folder / "registry.log")
        try:
            admin = registry_support.put_key(service, "tools:read,tools:call,tools:admin", rpm=1_000_000)
            body = {"id": "fixture", "url": f"http://127.0.0.1:{outside}/mcp", "trust": "trusted"}
            reply = service.post("/v1/servers", body, admin)
            assert reply.status == 201, reply
            reply = service.post("/v1/servers/fixture/sync", {}, admin)
            assert reply.status == 200, reply
            found = service.get("/v1/tools?server=fixture&limit=200", admin).json["data"]
            yield Judged(service, len(found))
        finally:
            code = service.stop()
        assert code == 0
        log = service.log.read_text()
        for word in ("Traceback", "mk_dev_", "eyJ"):
            assert word not in log, log[log.index(word) - 2000 :][:4000]
