# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Root on the host: weaken one thing at a time, and hold that the audit names it and nothing else.

Every change is taken back, whatever happens. Reports go to a directory of their own.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile

PROGRAM = "/usr/local/lib/mcpstack/audit.pyz"
CONFIG = "/etc/mcpstack/audit/audit.json"
SECRETS = "/run/mcpstack/secrets/gateway/gateway-pepper"


def run(*argv: str) -> str:
    """Output of a command that must succeed."""
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def audit(directory: str) -> tuple[int, set[tuple[str, str]]]:
    """Exit status of the program, and (id, severity) of what is open."""
    with open(CONFIG) as source:
        config = json.load(source)
    config.update(directory=f"{directory}/reports", metrics_file=f"{directory}/audit.prom")
    path = f"{directory}/audit.json"
    with open(path, "w") as out:
        json.dump(config, out)
    done = subprocess.run([sys.executable, "-I", "-B", PROGRAM, path], capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(f"the audit ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    with open(f"{directory}/reports/report.json") as source:
        findings = json.load(source)["findings"]
    return done.returncode, {(item["id"], item["severity"]) for item in findings if not item["waived"]}


@contextlib.contextmanager
def mode(path: str, wanted: int):
    """Another mode for a while."""
    before = os.stat(path).st_mode & 0o7777
    os.chmod(path, wanted)
    try:
        yield
    finally:
        os.chmod(path, before)


@contextlib.contextmanager
def appended(path: str, old: str, new: str):
    """Another text in a file for a while; owner and mode stay."""
    with open(path) as source:
        before = source.read()
    if old not in before:
        raise SystemExit(f"{path} does not hold {old!r}")
    with open(path, "w") as out:
        out.write(before.replace(old, new))
    try:
        yield
    finally:
        with open(path, "w") as out:
            out.write(before)


@contextlib.contextmanager
def container(*options: str):
    """A container of a stranger for a while."""
    image = run("docker", "inspect", "mcpstack-valkey-1", "--format", "{{.Config.Image}}").strip()
    entry = ["--network", "none", "--entrypoint", "/usr/bin/valkey-server", image, "--save", ""]
    name = run("docker", "run", "--detach", *options, *entry).strip()
    try:
        yield
    finally:
        run("docker", "rm", "--force", name)


#: What is weakened, and the checks that must say so.
WEAKENED = {
    "the engine's socket is open to all": (lambda: mode("/run/docker.sock", 0o666), {"HST-07"}),
    "daemon.json can be written by all": (lambda: mode("/etc/docker/daemon.json", 0o666), {"HST-06"}),
    "a secret can be read by all": (lambda: mode(os.path.realpath(f"{SECRETS}/current"), 0o444), {"SEC-07", "SEC-09"}),
    "the edge speaks TLS 1.0, says its file": (
        lambda: appended("/etc/mcpstack/edge/snippets/tls.conf", "ssl_protocols ", "ssl_protocols TLSv1 "), {"TLS-02"},
    ),
    "anybody may log in to the database, says its file": (
        lambda: appended("/etc/mcpstack/postgres/pg_hba.conf", "scram-sha-256", "trust"), {"PGS-02"},
    ),
    "a privileged container runs": (lambda: container("--privileged"), {"CMP-01"}),
    "a container mounts the engine's socket": (
        lambda: container("--volume", "/var/run/docker.sock:/var/run/docker.sock:ro"), {"CMP-21"},
    ),
}  # fmt: skip


def main() -> int:
    """All of them, then once more as it was."""
    directory = tempfile.mkdtemp(prefix="audited-")
    wrong = []
    try:
        status, calm = audit(directory)
        if status:
            raise SystemExit(f"the host is not clean before anything was weakened: {sorted(calm)}")
        for what, (weaken, expected) in WEAKENED.items():
            with weaken():
                status, found = audit(directory)
            severe = any(severity in ("critical", "high") for _check, severity in found)
            named = {check for check, _severity in found - calm}
            good = named & expected and status == int(severe)  # the unit fails exactly for what is severe
            print(f"{'ok ' if good else 'NOT'} {what}: {', '.join(sorted(named)) or 'nothing'}")
            if not good:
                wrong.append(what)
        status, after = audit(directory)
        if (status, after) != (0, calm):
            wrong.append(f"afterwards the host is not what it was: {sorted(after ^ calm)}")
    finally:
        shutil.rmtree(directory)
    print(f"{len(WEAKENED) - len(wrong)} of {len(WEAKENED)} weaknesses found")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
