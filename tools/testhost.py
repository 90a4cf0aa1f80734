# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Throwaway test hosts: systemd containers with ssh on loopback, able to run a Docker engine of their own.

    tools/testhost up NAME...            start (or reuse) hosts; prints the inventory file of each
    tools/testhost ssh NAME [COMMAND]    a root shell on a host, or one command
    tools/testhost restart NAME          what a reboot does
    tools/testhost list                  the hosts of this machine
    tools/testhost down NAME...          remove hosts with all they own
    tools/testhost purge                 remove every test-host image no host uses

A host keeps its state over `restart`; `down` leaves no container, volume, key or file. Playbooks take the inventory:
ansible-playbook -i .cache/hosts/NAME/hosts.yml ...
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOSTS = ROOT / ".cache" / "hosts"
LABEL = "mcpstack.testhost"
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,40}")
PUBLISH = re.compile(r"(?:(?P<address>127\.\d+\.\d+\.\d+):)?(?P<outside>\d{1,5}):(?P<inside>\d{1,5})")


class HostError(Exception):
    """A sentence for a person: what is wrong and what to do."""


def publish_spec(text: str) -> str:
    """ "8443:443" as "127.0.0.1:8443:443"; nothing but loopback is ever published."""
    match = PUBLISH.fullmatch(text)
    if not match or not all(0 < int(match[key]) < 65536 for key in ("outside", "inside")):
        raise HostError(f"--publish {text} is not OUTSIDE:INSIDE with ports from 1 to 65535 (loopback addresses only).")
    return f"{match['address'] or '127.0.0.1'}:{int(match['outside'])}:{int(match['inside'])}"


def check_names(names: list[str]) -> list[str]:
    """Refuse names that could not be a host name or would leave the cache directory."""
    for name in names:
        if not NAME.fullmatch(name):
            raise HostError(f"'{name}' is no host name: use lower-case letters, digits and dashes, at most 41.")
    if len(set(names)) != len(names):
        raise HostError("A host is named twice.")
    return names


def docker(*argv: str) -> str:
    """Output of a docker command; a failure is an error for the person."""
    done = subprocess.run(["docker", *argv], check=False, capture_output=True, text=True)
    if done.returncode:
        raise HostError(f"docker {argv[0]} failed: {done.stderr.strip()}")
    return done.stdout


def playbook(name: str, variables: dict[str, object], verbose: bool) -> None:
    """Run one of the host playbooks; quiet unless it fails or is asked to speak."""
    argv = [
        str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,",
        str(ROOT / "molecule" / "_testhost" / name), "-e", json.dumps(variables),
    ]  # fmt: skip
    env = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_FORCE_COLOR": "0"}
    done = subprocess.run(argv, check=False, env=env, cwd=ROOT, text=True, capture_output=not verbose)
    if done.returncode:
        shown = "" if verbose else (done.stdout + done.stderr)
        raise HostError(failure(shown) or f"molecule/_testhost/{name} failed, see above.")


def failure(output: str) -> str:
    """The part of a playbook's output a person needs when it failed."""
    found = re.findall(r"^\[ERROR\]: (?:Task failed: )?(?:Action failed: )?(.*)$", output, re.M)
    if found:
        return found[-1]
    return "\n".join(output.strip().splitlines()[-15:])


def up(args: argparse.Namespace, quiet: bool = False) -> None:
    """Start hosts."""
    names = check_names(args.names)
    if args.publish and len(names) > 1:
        raise HostError("--publish works for one host at a time: two hosts cannot publish the same port.")
    root = Path(docker("info", "--format", "{{.DockerRootDir}}").strip())
    if root.exists() and (free := shutil.disk_usage(root).free) < 6 * 1024**3 * len(names):
        raise HostError(
            f"{free / 1024**3:.1f} GiB are free below {root}; {len(names)} test host(s) need {6 * len(names)} GiB. Make room first."
        )
    begin = time.monotonic()
    playbook(
        "up.yml",
        {
            "testhost_names": names,
            "testhost_suite": args.suite,
            "testhost_publish": [publish_spec(text) for text in args.publish],
            "testhost_memory": args.memory,
        },
        args.verbose,
    )
    print(f"    {', '.join(names)} up in {time.monotonic() - begin:.0f} s", file=sys.stderr)
    for name in names:
        if not quiet:
            print(HOSTS / name / "hosts.yml")


def down(args: argparse.Namespace) -> None:
    """Remove hosts."""
    playbook("down.yml", {"testhost_names": check_names(args.names)}, args.verbose)


def listed() -> list[tuple[str, str]]:
    """(name, status) of every test host on this engine."""
    lines = docker("ps", "-a", "--filter", f"label={LABEL}", "--format", "{{.Names}}\t{{.Status}}").splitlines()
    return [(name, status) for name, _, status in (line.partition("\t") for line in lines)]


def show(_args: argparse.Namespace) -> None:
    """Print the hosts."""
    for name, status in listed():
        owned = "" if (HOSTS / name).is_dir() else "  (of another checkout)"
        print(f"{name:40} {status}{owned}")


def ssh_argv(name: str) -> list[str]:
    """The ssh command line for a host, from its inventory."""
    inventory = HOSTS / name / "hosts.yml"
    if not inventory.exists():
        raise HostError(f"There is no test host {name} in this checkout: `tools/testhost up {name}` starts one.")
    port = re.search(r"ansible_port: (\d+)", inventory.read_text())
    if not port:
        raise HostError(f"{inventory} names no port: remove the host and start it again.")
    return [
        "ssh", "-q", "-i", str(HOSTS / name / "id_ed25519"), "-o", f"UserKnownHostsFile={HOSTS / name / 'known_hosts'}",
        "-o", "StrictHostKeyChecking=yes", "-o", "IdentitiesOnly=yes", "-p", port[1], "root@127.0.0.1",
    ]  # fmt: skip


def ssh(args: argparse.Namespace) -> None:
    """Replace this process by ssh."""
    argv = ssh_argv(check_names([args.name])[0])
    os.execvp(argv[0], argv + args.command)  # noqa: S606


def restart(args: argparse.Namespace) -> None:
    """Restart the container and wait until ssh and the services are back."""
    (name,) = check_names([args.name])
    begin = time.monotonic()
    docker("restart", "--time", "60", name)
    limit = begin + 180
    while time.monotonic() < limit:
        state = subprocess.run(
            ["docker", "exec", name, "systemctl", "is-system-running"], check=False, capture_output=True, text=True
        ).stdout.strip()
        if state in ("running", "degraded") and subprocess.run([*ssh_argv(name), "true"], check=False).returncode == 0:
            print(f"    {name} is {state} again after {time.monotonic() - begin:.0f} s", file=sys.stderr)
            return
        time.sleep(0.3)
    raise HostError(
        f"{name} is not up 180 s after its restart: `docker exec {name} systemctl list-jobs` shows what hangs."
    )


def purge(_args: argparse.Namespace | None) -> None:
    """Remove the images of the test hosts, except those in use."""
    used = set(docker("ps", "-a", "--filter", f"label={LABEL}", "--format", "{{.Image}}").split())
    for image in docker("image", "ls", "mcpstack-testhost", "--format", "{{.Repository}}:{{.Tag}}").split():
        if image not in used:
            docker("image", "rm", image)
            print(f"removed {image}")


def parser() -> argparse.ArgumentParser:
    """Command line."""
    whole = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = whole.add_subparsers(dest="action", required=True)
    start = commands.add_parser("up")
    start.add_argument("names", nargs="+", metavar="NAME")
    start.add_argument("--suite", default="trixie", choices=["bookworm", "trixie"])
    start.add_argument(
        "--publish", action="append", default=[], metavar="OUTSIDE:INSIDE", help="on 127.0.0.1; repeatable"
    )
    start.add_argument("--memory", default="6g", help="limit of the host and all in it (default: 6g)")
    start.add_argument("-v", "--verbose", action="store_true")
    start.set_defaults(run=up)
    stop = commands.add_parser("down")
    stop.add_argument("names", nargs="+", metavar="NAME")
    stop.add_argument("-v", "--verbose", action="store_true")
    stop.set_defaults(run=down)
    commands.add_parser("list").set_defaults(run=show)
    commands.add_parser("purge").set_defaults(run=purge)
    again = commands.add_parser("restart")
    again.add_argument("name", metavar="NAME")
    again.set_defaults(run=restart)
    shell = commands.add_parser("ssh")
    shell.add_argument("name", metavar="NAME")
    shell.add_argument("command", nargs=argparse.REMAINDER)
    shell.set_defaults(run=ssh)
    return whole


def main() -> int:
    """Entry point."""
    args = parser().parse_args()
    try:
        args.run(args)
    except HostError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
