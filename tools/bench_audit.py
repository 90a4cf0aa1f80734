# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure what the audits cost, in processor time (user and system), against peers where there are any.

usage: bench_audit.py [compose] [nginx] [report] [runtime]     (default: all)

compose   compose_audit's core over a generated file of 24 services against compose-lint, in turns: a fresh process each
          (Python's start, imports, audit, JSON), and both once more in a process that has judged the file already. Both are
          compiled, as installed programs are; what ours takes with its modules compiled each time is printed, not counted
nginx     nginx_audit's core over the edge's configuration as the role renders it
report    results with 1,000 findings into every format, compared with a run before
runtime   docker_audit of 16 containers on a test host against the processes that docker-bench-security 1.6 starts for the
          same containers, in turns in one session. The host is the demo's, or BENCH_AUDIT_HOST; it must be idle. Small
          containers that fill up to 16 are made from an image that is there and removed at the end.

The peer of runtime is re-created from its published shell scripts: for each check and container one `docker inspect` or
`docker port`, with the filters behind it. Its two `docker exec` run in the containers made here only, which favours the peer. What the
engine itself spends is printed and not counted, on neither side.

A benchmark, not a test: a figure over its limit is marked, and the exit status says so.
"""

from __future__ import annotations

import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

import demo
import testhost
from figures import BenchError, Figure, run, say

ROOT = Path(__file__).resolve().parent.parent
CONTAINERS = 16
ROUNDS = 3
TURNS = 9
SERVICES = 24
FINDINGS = 1000
PEER = ROOT / ".cache" / "venv-peers" / "bin" / "compose-lint"
CORES = "ansible_collections.mcpstack.platform.plugins.module_utils"
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


#: Head of what is measured in a process of its own.
USED = """
import json, resource, sys
def used():
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime
begin = used()
"""
COMPOSE = f"""
from {CORES}._audit_compose import audit
from {CORES}._audit_files import LocalFiles
print(json.dumps(audit(LocalFiles(), [sys.argv[1]])))
"""
#: Either auditor once more after it has judged the file.
COMPOSE_AGAIN = f"""
from {CORES}._audit_compose import audit
from {CORES}._audit_files import LocalFiles
json.dumps(audit(LocalFiles(), [sys.argv[1]]))
begin = used()
json.dumps(audit(LocalFiles(), [sys.argv[1]]))
print(used() - begin)
"""
PEER_AGAIN = """
import contextlib, io
from compose_lint.cli import main
def judge():
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main(["check", "--format", "json", sys.argv[1]])
judge()
begin = used()
judge()
print(used() - begin)
"""
#: The edge's files and the policy that its role gives the audit, as the tests of the rendered edge have them.
RENDER = """
import dataclasses, json, runpy
runpy.run_path("tests/conftest.py")["pytest_configure"]()
from ansible_collections.mcpstack.platform.tests.render.conftest import Role
from ansible_collections.mcpstack.platform.tests.render.test_audit_nginx_mutation import POLICY, REQUIRED
files = {f"/etc/nginx/{name}": text for name, text in Role("edge", REQUIRED).files().items()}
print(json.dumps({"files": files, "policy": dataclasses.asdict(POLICY)}))
"""
NGINX = f"""
from {CORES}._audit_files import MemoryFiles
from {CORES}._audit_nginx import audit
from {CORES}._nginx_run import Policy
imports = used() - begin
given = json.load(sys.stdin)
policy = Policy(**{{name: tuple(value) if isinstance(value, list) else value for name, value in given["policy"].items()}})
begin = used()
result = audit(MemoryFiles(given["files"], roots=("/etc/nginx",)), "/etc/nginx/nginx.conf", policy)
took = used() - begin
print(json.dumps({{"imports": imports, "run": took, "findings": len(result["findings"]), "checks": len(result["checks_run"])}}))
"""
REPORT = f"""
from {CORES}._audit import Audit
from {CORES}._audit_catalogue import ALL
from {CORES}._report_files import Settings, publish
imports = used() - begin
def results(rows):
    made = []
    for name in sorted({{row[0] for row in rows}}):
        audit = Audit(ALL)
        audit.decide(*ALL)
        for _, check, subject, where, evidence in (row for row in rows if row[0] == name):
            audit.find(check, subject, where, evidence)
        made.append({{"subject": name, "result": audit.result()}})
    return made
number, directory = int(sys.argv[1]), sys.argv[2]
checks = sorted(ALL)
rows = [(f"host docker{{n % 4}}", checks[n % len(checks)], f"service app-{{n % 24}}", f"/srv/app/compose.yml:{{n}}",
         f"what was seen there, entry {{n}} of a list") for n in range(number + number // 10)]
settings = Settings(directory)
publish(results(rows[: number]), [], settings, catalogue=ALL, now=1_700_000_000)
now = results(rows[-number:])
begin = used()
answer = publish(now, [], settings, catalogue=ALL, now=1_700_086_400)
took = used() - begin
print(json.dumps({{"imports": imports, "run": took, "findings": len(answer["findings"]), "files": len(answer["files"]),
                  "new": len(answer["new"])}}))
"""

HEAD = """\
name: shop
x-logging: &logging
  driver: json-file
  options: {max-size: 10m, max-file: "3"}
x-service: &service
  restart: unless-stopped
  init: true
  read_only: true
  cap_drop: [ALL]
  security_opt: ["no-new-privileges:true"]
  pids_limit: 128
  mem_limit: 256m
  memswap_limit: 256m
  cpus: 0.5
  logging: *logging
  networks: [inside]
"""
TAIL = """\
networks:
  inside: {internal: true}
  outside: {driver: bridge}
volumes:
  data: {}
secrets:
  database: {file: ./secrets/database}
"""
#: One of each is weak in a few ways, as files that people write are.
TEMPLATES = (
    """\
  web-@:
    <<: *service
    image: registry.example.org/shop/web:2.4.@@sha256:{digest}
    user: "10001:10001"
    environment: &web-@
      LISTEN: 0.0.0.0:8080
      DATABASE_HOST: database-@
      DATABASE_PASSWORD_FILE: /run/secrets/database
      LOG_LEVEL: ${LOG_LEVEL:-info}
      PUBLIC_URL: https://${DOMAIN:-shop.example.org}/@
      WORKERS: "4"
    secrets: [database]
    ports: ["127.0.0.1:80@:8080", "90@:9090"]
    networks: [inside, outside]
    volumes:
      - type: bind
        source: ./web/@.conf
        target: /etc/web.conf
        read_only: true
    tmpfs: ["/tmp:size=16m,mode=1777,noexec,nosuid,nodev"]
    depends_on:
      database-@: {condition: service_healthy}
    healthcheck:
      test: ["CMD", "/bin/web", "--check"]
      interval: 10s
      timeout: 3s
      retries: 5
""",
    """\
  worker-@:
    <<: *service
    image: registry.example.org/shop/worker:2.4
    command: ["--queue", "orders-@", "--threads", "4"]
    environment:
      QUEUE_HOST: cache-@
      API_TOKEN: ${WORKER_TOKEN:-}
      LOG_LEVEL: ${LOG_LEVEL:-info}
    volumes: ["./plugins:/plugins:ro", "data:/data"]
    depends_on: [cache-@, database-@]
    healthcheck: {test: "test -f /tmp/alive", interval: 30s}
""",
    """\
  cache-@:
    <<: *service
    image: valkey/valkey:8
    user: "999:999"
    command: valkey-server --save "" --maxmemory 128mb
    tmpfs: [/data]
    healthcheck:
      test: ["CMD", "valkey-cli", "ping"]
      interval: 5s
""",
    """\
  database-@:
    image: postgres:17
    restart: always
    environment:
      - POSTGRES_DB=shop_@
      - POSTGRES_USER=shop
      - POSTGRES_PASSWORD_FILE=/run/secrets/database
    secrets: [database]
    ports: ["127.0.0.1:54@:5432"]
    volumes: ["data:/var/lib/postgresql/data"]
    networks: {inside: {aliases: [db-@]}}
    deploy: {resources: {limits: {cpus: "1.0", memory: 1g}}}
    healthcheck:
      test: ["CMD-SHELL", "pg_isready -U shop -d shop_@"]
      interval: 10s
      timeout: 5s
      retries: 5
      start_period: 30s
    logging: *logging
""",
)


def compose_file(services: int) -> str:
    """A project of so many services, a group of web, worker, cache and database after the other."""
    parts = [HEAD, "services:\n"]
    for number in range(services):
        text = TEMPLATES[number % len(TEMPLATES)].replace("@@sha256", "\0").replace("{digest}", f"{number:064x}")
        group = f"{10 + number // len(TEMPLATES)}"
        parts.append(text.replace("\0", "@").replace("@", group).replace(f"2.4.{group}:", f"2.4.{group}@sha256:"))
    return "".join([*parts, TAIL])


def spent(argv: list[str], stdin: str = "", codes: tuple[int, ...] = (0,), compiled: bool = True) -> tuple[float, str]:
    """(processor seconds, output) of a program and what it starts.

    compiled: Python finds modules compiled once a run of it has been; else each run compiles them, our own at least.
    """
    env = {**os.environ, "PYTHONPATH": str(ROOT / ".cache" / "self"), "PYTHONDONTWRITEBYTECODE": ""}
    env["PYTHONPYCACHEPREFIX"] = str(ROOT / ".cache" / "bench" / "pycache")
    if not compiled:
        env.update(PYTHONPYCACHEPREFIX="", PYTHONDONTWRITEBYTECODE="1")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(argv, input=stdin, check=False, capture_output=True, text=True, env=env, cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in codes:
        raise BenchError(f"`{' '.join(argv)[:200]}` failed:\n{(done.stdout + done.stderr)[-1500:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def share(ours: list[float], theirs: list[float]) -> float:
    """Median of ours in percent of theirs, turn by turn: what slows the machine for a while slows both."""
    return statistics.median(100 * own / other for own, other in zip(ours, theirs))


def medians(rows: list[Mapping[str, float]]) -> dict[str, float]:
    """Median of each number over the turns."""
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def compose() -> list[Figure]:
    """The audit of a compose file against compose-lint."""
    if not PEER.exists():
        raise BenchError(f"{PEER} is missing: `python3 tools/bootstrap.py peers` installs it.")
    took: dict[str, list[float]] = {
        name: [] for name in ("ours", "theirs", "ours from source", "ours again", "theirs again")
    }
    with tempfile.TemporaryDirectory(prefix="bench-audit-") as folder:
        path = Path(folder, "compose.yml")
        path.write_text(compose_file(SERVICES), encoding="utf-8")
        fresh = [sys.executable, "-c", USED + COMPOSE, str(path)]
        peer = [str(PEER), "check", "--format", "json", str(path)]
        again = [sys.executable, "-c", USED + COMPOSE_AGAIN, str(path)]
        peer_again = [str(PEER.with_name("python")), "-c", USED + PEER_AGAIN, str(path)]
        # what both compile and cache when they run for the first time is not counted
        ours, theirs = json.loads(spent(fresh)[1]), json.loads(spent(peer, codes=(0, 1))[1])
        found = {item["id"] for item in ours["findings"]}
        if found & {"CMP-29", "CMP-30"} or theirs["errors"] or not found or not theirs["findings"]:
            raise BenchError(f"The file is not judged as meant: {sorted(found)}, {theirs['errors']}")
        say(f"{SERVICES} services, {path.read_text().count(chr(10))} lines: {len(ours['findings'])} findings, compose-lint"
            f" {len(theirs['findings'])}; {TURNS} turns")  # fmt: skip
        for _ in range(TURNS):
            took["ours"].append(spent(fresh)[0])
            took["theirs"].append(spent(peer, codes=(0, 1))[0])
            took["ours from source"].append(spent(fresh, compiled=False)[0])
            took["ours again"].append(float(spent(again)[1]))
            took["theirs again"].append(float(spent(peer_again)[1]))
    say(", ".join(f"{name} {1000 * statistics.median(values):.0f} ms" for name, values in took.items()))
    return [
        Figure(f"compose audit of {SERVICES} services, share of compose-lint's", share(took["ours"], took["theirs"]), 100, "%"),
        Figure("the same in a warm process, audit alone", share(took["ours again"], took["theirs again"]), 100, "%"),
    ]  # fmt: skip


def nginx() -> list[Figure]:
    """The audit of the rendered edge."""
    rendered = spent([sys.executable, "-c", RENDER])[1]
    rows = [json.loads(spent([sys.executable, "-c", USED + NGINX], rendered)[1]) for _ in range(TURNS + 1)][1:]
    row = medians(rows)
    size = sum(len(text) for text in json.loads(rendered)["files"].values())
    say(f"{size} bytes, {row['checks']:.0f} checks, {row['findings']:.0f} findings: imports {1000 * row['imports']:.0f} ms,"
        f" run {1000 * row['run']:.0f} ms")  # fmt: skip
    return [
        Figure("nginx audit of the rendered edge", 1000 * row["run"], 200, "ms"),
        Figure("the same with its imports", 1000 * statistics.median(r["imports"] + r["run"] for r in rows), 200, "ms"),
    ]


def report() -> list[Figure]:
    """The report in all its formats."""
    rows = []
    for _ in range(TURNS + 1):
        with tempfile.TemporaryDirectory(prefix="bench-audit-") as folder:
            rows.append(json.loads(spent([sys.executable, "-c", USED + REPORT, str(FINDINGS), folder])[1]))
    row = medians(rows[1:])
    if row["findings"] != FINDINGS:
        raise BenchError(f"{row['findings']:.0f} findings are in the report instead of {FINDINGS}.")
    say(f"{row['files']:.0f} formats, {row['new']:.0f} new findings: imports {1000 * row['imports']:.0f} ms, run"
        f" {1000 * row['run']:.0f} ms")  # fmt: skip
    return [
        Figure(
            f"report of {FINDINGS:,} findings in all formats, with its imports",
            1000 * (row["imports"] + row["run"]),
            1000,
            "ms",
        )
    ]


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


PARTS = {"compose": compose, "nginx": nginx, "report": report, "runtime": runtime}


if __name__ == "__main__":
    raise SystemExit(run(PARTS, sys.argv[1:]))
