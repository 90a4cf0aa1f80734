# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Root on the host: every container of the platform is healthy, confined as promised, and nothing else listens.

usage: inside.py [--wait SECONDS]     with --wait it only waits until all are healthy
"""

from __future__ import annotations

import glob
import json
import re
import subprocess
import sys
import time

EXPECTED = {"edge", "gateway", "model-runner", "postgres", "registry", "valkey", "worker"}


def run(*argv: str) -> str:
    """Output of a command."""
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def containers() -> dict[str, dict]:
    """Inspected containers of the project by service name."""
    try:
        ids = run("docker", "ps", "-aq", "--filter", "label=com.docker.compose.project=mcpstack").split()
        found = json.loads(run("docker", "inspect", *ids)) if ids else []
    except subprocess.CalledProcessError:
        return {}
    return {item["Config"]["Labels"]["com.docker.compose.service"]: item for item in found}


def sick(found: dict[str, dict]) -> list[str]:
    """Services that do not run healthily."""
    health = {
        name: item["State"].get("Health", {}).get("Status", item["State"]["Status"]) for name, item in found.items()
    }
    return [f"{name} is {health.get(name, 'absent')}" for name in sorted(EXPECTED) if health.get(name) != "healthy"]


def policy(name: str, item: dict, secrets: list[str]) -> list[str]:
    """What is wrong with one container."""
    host, config = item["HostConfig"], item["Config"]
    rules = {
        "its root file system is writable": host["ReadonlyRootfs"],
        "it keeps capabilities": host["CapDrop"] == ["ALL"] and not host["CapAdd"],
        "it may gain privileges": any(option.startswith("no-new-privileges") for option in host["SecurityOpt"] or []),
        "it runs as root": re.fullmatch(r"641\d\d(:641\d\d)?", config["User"]),
        "it has no memory limit": host["Memory"] > 0,
        "it has no limit of processes": (host["PidsLimit"] or 0) > 0,
        "it has no processor limit": host["NanoCpus"] > 0 or host["CpuQuota"] > 0,
        "it has no health check": config.get("Healthcheck"),
        "it is privileged": not host["Privileged"],
        "it mounts the engine's socket": not any("docker.sock" in mount.get("Source", "") for mount in item["Mounts"]),
        "it publishes ports": name == "edge" or not any((host["PortBindings"] or {}).values()),
        "its logs are not rotated": "max-size" in (host["LogConfig"]["Config"] or {}),
        "a secret shows in its definition": not any(secret in json.dumps(item) for secret in secrets),
    }
    return [f"{name}: {problem}" for problem, fine in rules.items() if not fine]


def main(argv: list[str]) -> int:
    """Command line."""
    wait = int(argv[2]) if argv[1:2] == ["--wait"] else 0
    begin = time.monotonic()
    while (problems := sick(containers())) and time.monotonic() - begin < wait:
        time.sleep(0.5)
    if wait and not problems:
        print(f"all healthy after {time.monotonic() - begin:.1f} s")
        return 0
    if not wait:
        secrets = []
        for path in glob.glob("/run/mcpstack/secrets/*/*/current"):
            with open(path) as secret:
                secrets += [line for line in secret.read().split() if len(line) > 15]
        if not secrets:
            problems.append("no secret is published in /run/mcpstack/secrets")
        for name, item in containers().items():
            problems += policy(name, item, secrets)
        published = {
            binding["HostPort"]
            for item in containers().values()
            for bindings in (item["HostConfig"]["PortBindings"] or {}).values()
            for binding in bindings
        }
        for line in run("ss", "-Hltn").splitlines():
            address, _, port = line.split()[3].rpartition(":")
            if not address.startswith(("127.", "[::1]")) and port not in published | {"22"}:
                problems.append(f"something listens on {address}:{port}")
    if problems:
        print(f"{len(problems)} problems:", *problems, sep="\n  ")
        return 1
    print("all containers are healthy and confined; nothing else listens")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
