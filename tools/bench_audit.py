# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure what the audits cost, in seconds of processor time (user and system), each against a peer.

usage: bench_audit.py [runtime]     (default: all)

runtime   docker_audit of 16 containers on a test host against the processes that docker-bench-security 1.6 starts for the
          same containers, in turns in one session. The host is the demo's, or BENCH_AUDIT_HOST; it must be idle. Small
          containers that fill up to 16 are made from an image that is there and removed at the end.

The peer is re-created from its published shell scripts: for each check and container one `docker inspect` or `docker port`,
with the filters behind it. Its two `docker exec` run in the containers made here only, which favours the peer. What the
engine itself spends is printed and not counted, on neither side.

A benchmark, not a test: a figure over its limit is marked, and the exit status says so.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import demo
import testhost
from bench import BenchError, Figure, machine, say, table

ROOT = Path(__file__).resolve().parent.parent
CONTAINERS = 16
ROUNDS = 3
LABEL = "mcpstack.bench=audit"

#: Runs on the test host. Reads the collection from the archive, measures in turns, prints JSON.
DRIVER = r'''
import json, os, shutil, statistics, subprocess, sys, tarfile, tempfile

want, rounds, label, options = json.loads(sys.argv[1])
root = tempfile.mkdtemp(prefix="bench-audit-")
tarfile.open(fileobj=sys.stdin.buffer, mode="r|").extractall(root)
env = {**os.environ, "PYTHONPATH": root, "PYTHONDONTWRITEBYTECODE": "1"}
# Ansible sends modules as source: nothing is compiled beforehand.
AUDIT = """
import json, resource, sys
def used():
    own, others = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime
begin = used()
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_docker import audit_docker
ready = used()
result = audit_docker(json.loads(sys.argv[1]))
print(json.dumps({"imports": ready - begin, "run": used() - ready, "containers": len(result["containers"]),
                  "checks": len(result["checks_run"]), "unknown": result["summary"]["checks_unknown"]}))
"""
inspect = [
    "AppArmorProfile={{ .AppArmorProfile }}", "SecurityOpt={{ .HostConfig.SecurityOpt }}", "{{ .HostConfig.Privileged }}",
    "NetworkMode={{ .HostConfig.NetworkMode }}", "{{ .HostConfig.ReadonlyRootfs }}",
    "MaximumRetryCount={{ .HostConfig.RestartPolicy.MaximumRetryCount }}", "PidMode={{ .HostConfig.PidMode }}",
    "IpcMode={{ .HostConfig.IpcMode }}", "Devices={{ .HostConfig.Devices }}", "Ulimits={{ .HostConfig.Ulimits }}",
    "UTSMode={{ .HostConfig.UTSMode }}", "CgroupParent={{ .HostConfig.CgroupParent }}x",
    "{{ .Id }}: Health={{ .State.Health.Status }}", "UsernsMode={{ .HostConfig.UsernsMode }}",
    "PidsLimit={{ .HostConfig.PidsLimit }}", "User={{ .Config.User }}",
]
# tried first, because old engines had it elsewhere
older = ["{{ .VolumesRW }}|{{ .Mounts }}", "{{ .Config.Memory }}|{{ .HostConfig.Memory }}",
         "{{ .Config.CpuShares }}|{{ .HostConfig.CpuShares }}"]
filtered = [
    ("CapAdd={{ .HostConfig.CapAdd }}", "tr a-z A-Z | sed s/CAPADD/CapAdd/ | sed -r 's/CHOWN|SETUID|NET_RAW//g'"),
    ("{{range $mnt := .Mounts}} {{json $mnt.Propagation}} {{end}}", "grep shared"),
    ("{{ .HostConfig.SecurityOpt }}", "grep -E 'seccomp:unconfined|seccomp=unconfined'"),
    ("{{ .HostConfig.SecurityOpt }}", "grep no-new-privileges"),
    ("{{ .Mounts }}", "grep docker.sock"),
]
lines = ["for c in $(docker ps --format '{{.Names}}'); do"]
lines += ["x=$(docker inspect --format '%s' \"$c\" 2>/dev/null)" % text for text in inspect]
for text in older:
    first, second = text.split("|")
    lines.append("docker inspect --format '%s' \"$c\" >/dev/null 2>&1 || x=$(docker inspect --format '%s' \"$c\")" % (first, second))
lines += ["x=$(docker inspect --format '%s' \"$c\" | %s)" % pair for pair in filtered]
lines += ["for v in / /boot /dev /etc /lib /proc /sys /usr; do echo \"$x\" | grep -e \"{.*\\s$v\\s.*true\\s.*}\" >/dev/null; done"]
lines += ["x=$(docker port \"$c\" | awk '{print $%d}' | cut -d : -f %d)" % pair for pair in ((0, 2), (3, 1))]
lines.append("done")
# in containers of this benchmark only; the script does it in all of them
lines += ["for c in $(docker ps -q --filter label=%s); do" % label,
          "x=$(docker exec \"$c\" ps -el 2>/dev/null | grep -c sshd | awk '{print $1}')",
          "x=$(docker exec \"$c\" ps -el 2>/dev/null)", "done"]
script = "\n".join(lines)

def cost(argv, stdin=""):
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)
    out, err = process.stdout.read(), process.stderr.read()
    _pid, status, usage = os.wait4(process.pid, 0)
    return usage.ru_utime + usage.ru_stime, out, err, status

def engine():
    total = 0.0
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and open(f"/proc/{name}/comm").read().strip() == "dockerd":
                fields = open(f"/proc/{name}/stat").read().rpartition(")")[2].split()
                total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except OSError:
            pass
    return total

def running():
    return subprocess.run(["docker", "ps", "-q"], capture_output=True, text=True, check=True).stdout.split()

made = []
out = {"start": [], "imports": [], "run": [], "total": [], "peer": [], "engine_audit": [], "engine_peer": []}
try:
    number = len(running())
    for _ in range(want - number):
        source = subprocess.run(["docker", "ps", "-q", "--filter", "label=com.docker.compose.service=valkey"],
                                capture_output=True, text=True, check=True).stdout.split()[0]
        image = subprocess.run(["docker", "inspect", "-f", "{{.Image}}", source], capture_output=True, text=True, check=True)
        argv = ["docker", "run", "-d", "--label", label, "--network", "none", "--read-only", "--cap-drop", "ALL",
                "--security-opt", "no-new-privileges", "--memory", "64m", "--memory-swap", "64m", "--cpus", "0.1",
                "--pids-limit", "32", "--no-healthcheck", "--entrypoint", "/usr/bin/valkey-server",
                image.stdout.strip(), "--bind", "127.0.0.1", "--save", ""]
        made.append(subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip())
    if len(running()) != want:
        raise SystemExit(f"{len(running())} containers run instead of {want}")
    for _ in range(rounds):
        out["start"].append(cost([sys.executable, "-c", "pass"])[0])
        before = engine()
        total, answer, problem, status = cost([sys.executable, "-c", AUDIT, json.dumps(options)])
        if status:
            raise SystemExit(problem.decode()[-2000:])
        told = json.loads(answer)
        out["engine_audit"].append(engine() - before)
        for name in ("imports", "run"):
            out[name].append(told[name])
        out["total"].append(total)
        before = engine()
        out["peer"].append(cost(["/bin/sh", "-c", script])[0])
        out["engine_peer"].append(engine() - before)
    out.update(told)
    # programs started: docker, tr, sed, grep, awk and cut, by the loops above
    out["programs"] = told["containers"] * (len(inspect) + 2 * len(older) + 12 + 8 + 6) + 4 * len(made)
finally:
    for name in made:
        subprocess.run(["docker", "rm", "-f", "-v", name], capture_output=True, check=False)
    shutil.rmtree(root, ignore_errors=True)
for name, values in list(out.items()):
    if isinstance(values, list):
        out[name] = statistics.median(values)
out["imports"], out["run"] = out["total"] - out["start"] - out["run"], out["run"]
print(json.dumps(out))
'''


def archive() -> bytes:
    """The cores as they lie on a target."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for path in sorted((ROOT / "plugins" / "module_utils").glob("*.py")):
            tar.add(path, f"ansible_collections/mcpstack/platform/plugins/module_utils/{path.name}")
    return target.getvalue()


def runtime() -> list[Figure]:
    """The runtime audit against the processes of docker-bench-security, and the audit with engine and host."""
    name = os.environ.get("BENCH_AUDIT_HOST", demo.NAME)
    measured = {}
    for what, subjects in (("containers", ["containers"]), ("everything", ["engine", "host", "containers"])):
        say(f"{what}: {ROUNDS} rounds on {name}, audit and peer in turns")
        arguments = json.dumps([CONTAINERS, ROUNDS, LABEL, {"subjects": subjects}])
        done = subprocess.run(
            [*testhost.ssh_argv(name), f"python3 -c {quoted(DRIVER)} {quoted(arguments)}"],
            input=archive(), check=False, capture_output=True,
        )  # fmt: skip
        if done.returncode:
            raise BenchError(f"The measurement on {name} failed:\n{done.stderr.decode()[-1500:]}")
        measured[what] = json.loads(done.stdout)
        row = measured[what]
        own = row["total"] - row["start"]
        say(
            f"{row['containers']} containers, {row['checks']} checks: {own:.3f} s in the module (imports {row['imports']:.3f},"
            f" run {row['run']:.3f}), {row['total']:.3f} s with Python's start, engine {row['engine_audit']:.2f} s"
        )
        say(
            f"peer: {row['programs']} programs, {row['peer']:.2f} s, engine {row['engine_peer']:.2f} s; ratio"
            f" {row['peer'] / own:.0f} without Python's start, {row['peer'] / row['total']:.0f} with it"
        )
    containers, everything = measured["containers"], measured["everything"]
    own = containers["total"] - containers["start"]
    return [
        Figure("runtime audit of 16 containers, in the module", own * 1000, 300, "ms"),
        Figure("the same with Python's start", containers["total"] * 1000, 350, "ms"),
        Figure(
            "engine, host and 16 containers, in the module",
            (everything["total"] - everything["start"]) * 1000,
            500,
            "ms",
        ),
        Figure("share of docker-bench-security's processor time", 100 * own / containers["peer"], 2, "%"),
        Figure("the same with Python's start", 100 * containers["total"] / containers["peer"], 2, "%"),
    ]


def quoted(text: str) -> str:
    """One word for a shell."""
    return "'" + text.replace("'", "'\"'\"'") + "'"


PARTS = {"runtime": runtime}


def main(argv: list[str]) -> int:
    """Command line."""
    wanted = argv[1:] or list(PARTS)
    unknown = [name for name in wanted if name not in PARTS]
    if unknown:
        print(f"error: unknown part {', '.join(unknown)}; parts are: {', '.join(PARTS)}", file=sys.stderr)
        return 2
    figures: list[Figure] = []
    status = 0
    for name in wanted:
        print(f"[{name}] {machine()}", file=sys.stderr, flush=True)
        try:
            figures += PARTS[name]()
        except (BenchError, testhost.HostError) as error:
            print(f"error: {name}: {error}", file=sys.stderr)
            status = 1
    print(f"\n{machine()}\n{table(figures)}")
    return status or (0 if figures and all(figure.kept for figure in figures) else 1)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv))
