# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The door to the state of the services and of the listeners."""

from __future__ import annotations

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils._stack_project import Container
from ansible_collections.mcpstack.platform.plugins.modules import stack_info

GOOD = Container("edge", "running", "healthy", "mcpstack/nginx:1", "mcpstack-edge-1")
BAD = Container("edge", "running", "unhealthy", "mcpstack/nginx:1", "mcpstack-edge-1", last_check="no answer")


@pytest.fixture
def world(monkeypatch):
    """What the engine and the kernel say; nothing listens."""

    class World:
        containers = (GOOD,)
        error = None

    class Engine:
        def get(self, path):
            assert path == "/containers/json"
            return []

    def status(engine, services, log_lines):
        if World.error:
            raise World.error
        return list(World.containers)

    monkeypatch.setattr(stack_info, "Engine", Engine)
    monkeypatch.setattr(stack_info.core, "status", status)
    monkeypatch.setattr(stack_info._listeners, "sockets", list)
    return World


NOWHERE = (
    "443/tcp: is declared, but nothing of the platform listens there. Fix: check that the edge is running and publishes "
    "the port."
)


def test_all_is_well(call, world):
    result = call(stack_info, {"services": ["edge"], "declared": [], "strict": True})
    assert result["changed"] is False and "failed" not in result
    assert (result["problems"], result["listeners"]) == ([], [])
    assert [item["service"] for item in result["containers"]] == ["edge"]


def test_every_problem_of_services_and_listeners_at_once(call, world):
    world.containers = (BAD,)
    result = call(stack_info, {"services": ["edge"], "declared": [{"port": 443}], "strict": True})
    assert result["failed"] is True
    sick = "edge: running but unhealthy. The check says: no answer See: docker logs mcpstack-edge-1."
    assert result["problems"] == [sick, NOWHERE]
    assert result["msg"].startswith(f"The platform is not well.\n{sick}\n{NOWHERE}\nSERVICE")


def test_without_strict_it_only_reports(call, world):
    result = call(stack_info, {"services": ["edge"], "declared": [{"port": 443}]})
    assert "failed" not in result and result["problems"] == [NOWHERE]


def test_listeners_are_left_alone_when_nothing_is_declared(call, world, monkeypatch):
    monkeypatch.delattr(stack_info._listeners, "sockets")
    assert call(stack_info, {"services": ["edge"], "strict": True})["problems"] == []


def test_an_engine_that_does_not_answer_is_a_failure(call, world):
    world.error = stack_info.EngineError("no Docker engine listens here")
    result = call(stack_info, {"services": []})
    assert result["failed"] is True
    assert result["msg"] == "Cannot say how the services are: no Docker engine listens here"


def test_a_wrong_address_is_named(call, world):
    result = call(stack_info, {"services": [], "declared": [{"port": 1, "address": "everywhere"}]})
    assert result["msg"] == "declared[0].address: 'everywhere' is not an IP address."


def test_a_kernel_table_that_cannot_be_read_is_a_failure(call, world, monkeypatch):
    def unreadable():
        raise stack_info._listeners.ListenersError("/proc/net/tcp: Permission denied.")

    monkeypatch.setattr(stack_info._listeners, "sockets", unreadable)
    result = call(stack_info, {"services": [], "declared": []})
    assert result["failed"] is True and result["msg"] == "/proc/net/tcp: Permission denied."
