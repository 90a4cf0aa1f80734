# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Killing ansible-playbook at any moment and running it again converges: a first deploy, and a change to a running one."""

from __future__ import annotations

import random
import subprocess
import time

import pytest

pytestmark = pytest.mark.long

CHANGED = {
    "mcpstack_edge_hsts": {"max_age": 3600, "include_subdomains": False, "preload": False},
    "mcpstack_postgres_memory": "640m",
    "mcpstack_valkey_max_clients": 300,
    "mcpstack_gateway_requests_per_minute": 500,
}


def killed_after(host, seconds: float, **variables) -> None:
    """Start a run and kill all of it after some seconds, if it is not done by then."""
    process = host.start(**variables)
    try:
        process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        host.kill(process)


def converges(host, **variables) -> None:
    status, _changed, output = host.run(**variables)
    assert status == 0, output[-4000:]
    status, changed, output = host.run(**variables)
    assert (status, changed) == (0, 0), output[-4000:]
    assert host.ssh("find /etc/mcpstack -name '.stage-*' -o -name '.new-*'").strip() == ""
    assert host.ssh("docker ps -aq --filter label=mcpstack.throwaway").strip() == ""


def test_a_first_deploy_survives_being_killed(bare_host):
    moments = random.Random(20)  # noqa: S311 - moments, not secrets
    for number in range(10):
        killed_after(bare_host, moments.uniform(2, 14 + number))
    converges(bare_host)


def test_a_change_survives_being_killed(bare_host):
    converges(bare_host)
    moments = random.Random(21)  # noqa: S311 - moments, not secrets
    for _number in range(6):
        killed_after(bare_host, moments.uniform(4, 24), **CHANGED)
    converges(bare_host, **CHANGED)


def test_the_engine_survives_being_killed_in_the_middle(bare_host):
    process = bare_host.start()
    deadline = time.monotonic() + 300
    while "postgres" not in bare_host.ssh("docker ps --format '{{.Names}}' 2>/dev/null || true"):
        assert time.monotonic() < deadline, "the data layer never came up"
        assert process.poll() is None, process.communicate()[0][-4000:]
    bare_host.ssh("kill -9 $(cat /var/run/docker.pid)")
    process.communicate(timeout=900)  # it may fail or go on; what counts is the next run
    converges(bare_host)
