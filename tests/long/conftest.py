# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A throwaway host for a proof, and the playbooks run on it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RECAP = re.compile(r"^\S+ +: ok=(\d+) +changed=(\d+) +unreachable=(\d+) +failed=(\d+)", re.M)


class Host:
    """One test host, bare when handed out."""

    def __init__(self, name: str, https_port: int, http_port: int):
        self.name, self.https_port = name, https_port
        self.tool("up", name, "--publish", f"{https_port}:443", "--publish", f"{http_port}:80")

    @staticmethod
    def tool(*argv: str) -> str:
        done = subprocess.run(
            [sys.executable, "tools/testhost.py", *argv], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def ssh(self, command: str) -> str:
        return self.tool("ssh", self.name, command)

    def start(self, playbook: str = "site", **variables: object) -> subprocess.Popen:
        """ansible-playbook in a process group of its own, so that all of it can be killed at once."""
        argv = [
            str(ROOT / ".venv" / "bin" / "ansible-playbook"), f"playbooks/{playbook}.yml",
            "-i", f".cache/hosts/{self.name}/hosts.yml", "-e", json.dumps({**self.options(), **variables}),
        ]  # fmt: skip
        env = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
        return subprocess.Popen(
            argv, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, start_new_session=True,
        )  # fmt: skip

    @staticmethod
    def options() -> dict:
        return {"mcpstack_images_cache_dir": str(ROOT / ".cache" / "images")}

    @staticmethod
    def kill(process: subprocess.Popen) -> None:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()

    def run(self, playbook: str = "site", **variables: object) -> tuple[int, int, str]:
        """(exit status, changed, output) of a whole run."""
        process = self.start(playbook, **variables)
        output = process.communicate(timeout=900)[0]
        found = RECAP.findall(output)
        return process.returncode, int(found[-1][1]) if found else -1, output

    def down(self) -> None:
        self.tool("down", self.name)


@pytest.fixture
def bare_host(request) -> Iterator[Host]:
    """A bare host of its own for one proof."""
    host = Host(f"long-{request.node.name.removeprefix('test_').replace('_', '-')}"[:40].rstrip("-"), 19443, 19080)
    yield host
    host.down()
