# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure the project's promised figures and print them in one table, each with its limit.

usage: bench.py [images] [demo] [second] [ttfb] [audit] [services] [fleet]     (default: all)

images   all images cold and from a warm package cache, the same ids twice and on another Debian, sizes
demo     `make demo` in a fresh clone with nothing cached, and again for a new host
second   site.yml once more on the demo's host: seconds, tasks, changes
ttfb     time to first byte through edge and gateway against the model server alone
audit    what the audits cost: every part of bench_audit.py, each also by its own name
services what gateway and registry serve and what a request costs: every part of bench_services.py
fleet    a second site.yml on BENCH_HOSTS (8) hosts at once against one

A benchmark, not a test: a figure over its limit is marked, and the exit status says so.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import bench_audit
import bench_services
import demo
import task_budget
import testhost
from figures import BenchError, Figure, run, say

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".cache" / "bench"
CLONE = WORK / "clone"
PYTHON = sys.executable


def timed(argv: list[str], cwd: Path = ROOT, env: dict[str, str] | None = None) -> tuple[float, str]:
    """(seconds, output) of a command that must succeed."""
    say(" ".join(argv)[:150])
    begin = time.monotonic()
    done = subprocess.run(
        argv,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        check=False,
        text=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    if done.returncode:
        whole = WORK / "failed.log"
        WORK.mkdir(parents=True, exist_ok=True)
        whole.write_text(done.stdout + done.stderr)
        lines = (done.stdout + done.stderr).splitlines()
        why = [line[:2000] for line in lines if line.startswith(("fatal:", "[ERROR]"))]
        raise BenchError("\n".join([f"`{' '.join(argv)[:150]}` failed (whole output: {whole}):", *why, *lines[-25:]]))
    return time.monotonic() - begin, done.stdout


def image_figures(built: list[dict], cold: float, warm: float, same: bool, elsewhere: bool | None) -> list[Figure]:
    """Figures out of the builder's own report."""
    sizes = {entry["name"]: entry["size"] / 1e6 for entry in built}
    figures = [
        Figure("all images, nothing cached", cold, 90, "s"),
        Figure("all images, packages cached", warm, 25, "s"),
        Figure("images with another id when built again", 0 if same else 1, 0, ""),
        Figure("sum of the images", sum(sizes.values()), 450, "MB"),
        Figure("services image", sizes["services"], 140, "MB"),
    ]
    if elsewhere is not None:
        figures.insert(3, Figure("images with another id when built on another Debian", 0 if elsewhere else 1, 0, ""))
    return figures


def ids(built: list[dict]) -> dict[str, str]:
    """Image id by name."""
    return {entry["name"]: entry["id"] for entry in built}


def build_elsewhere(name: str) -> dict[str, str]:
    """The same build on a test host, which has another Debian and another Python than this machine may have."""
    timed([PYTHON, "tools/testhost.py", "up", name])
    ssh = testhost.ssh_argv(name)
    try:
        packed = subprocess.run(
            ["tar", "-C", str(ROOT), "-cz", "--exclude=__pycache__", "plugins", "roles/images", "services", "tools/images.py"],
            check=True, capture_output=True,
        ).stdout  # fmt: skip
        subprocess.run([*ssh, "mkdir -p /root/src && tar -C /root/src -xz"], input=packed, check=True)
        timed(
            [
                *ssh,
                "apt-get -qq update && apt-get -qq install -y --no-install-recommends python3-yaml python3-pip gpgv >/dev/null 2>&1",
            ]
        )
        _, out = timed([*ssh, "cd /root/src && python3 tools/images.py build --cache-dir /root/cache"])
        return ids(json.loads(out))
    finally:
        timed([PYTHON, "tools/testhost.py", "down", name])


def images() -> list[Figure]:
    """Build everything cold, warm and elsewhere."""
    cache = WORK / "images"
    shutil.rmtree(cache, ignore_errors=True)
    command = [PYTHON, "tools/images.py", "build", "--cache-dir", str(cache)]
    cold, first = timed(command)
    for built in ("images", "manifests"):
        shutil.rmtree(cache / built, ignore_errors=True)
    warm, second = timed(command)
    elsewhere = build_elsewhere("mcpstack-bench-build")
    shutil.rmtree(cache, ignore_errors=True)
    built = json.loads(first)
    return image_figures(built, cold, warm, ids(built) == ids(json.loads(second)), ids(built) == elsewhere)


def run_demo(env: dict[str, str] | None = None) -> float:
    """Seconds of one `make demo` in the clone."""
    seconds, out = timed(["make", "demo"], cwd=CLONE, env=env)
    print(
        "".join(f"      {line}\n" for line in out.splitlines() if "first token" in line or "deployed" in line), end=""
    )
    return seconds


def demos() -> list[Figure]:
    """`make demo` of a fresh clone, then again for a new host."""
    if any(name == demo.NAME for name, _status in testhost.listed()):
        raise BenchError("A demo runs on this machine: `make demo-down` first, the benchmark needs its ports.")
    shutil.rmtree(CLONE, ignore_errors=True)
    timed(["git", "clone", "-q", "--no-hardlinks", str(ROOT), str(CLONE)])
    testhost.purge(None)
    if testhost.docker("image", "ls", "-q", "mcpstack-testhost").strip():
        say("another test host keeps its image in use: the first figure lacks the time to build it")
    # Package clients of this machine may hold wheels from earlier: the first run gets empty caches.
    cold = run_demo({name: str(WORK / "empty" / name) for name in ("PIP_CACHE_DIR", "UV_CACHE_DIR", "XDG_CACHE_HOME")})
    shutil.rmtree(WORK / "empty", ignore_errors=True)
    timed([str(CLONE / ".venv" / "bin" / "python"), "tools/testhost.py", "down", demo.NAME], cwd=CLONE)
    return [
        Figure("make demo, fresh clone, nothing cached", cold, 480, "s"),
        Figure("make demo, images there, new host", run_demo(), 90, "s"),
    ]


def playbook(
    root: Path, inventories: list[str], unchanged: bool, cache: Path
) -> tuple[float, dict[str, task_budget.Tally]]:
    """site.yml with counted tasks."""
    WORK.mkdir(parents=True, exist_ok=True)
    out = WORK / "tasks.jsonl"
    argv = [str(ROOT / ".venv" / "bin" / "ansible-playbook"), "playbooks/site.yml", "--forks", "8"]
    for inventory in inventories:
        argv += ["-i", inventory]
    argv += ["-e", json.dumps({"mcpstack_images_cache_dir": str(cache)})]
    env = {
        "ANSIBLE_CONFIG": str(root / "ansible.cfg"),
        "ANSIBLE_CALLBACK_PLUGINS": str(ROOT / "tools" / "callbacks"),
        "ANSIBLE_CALLBACKS_ENABLED": "task_budget",
        "TASK_BUDGET_FILE": str(out),
    }
    seconds, _ = timed(argv, cwd=root, env=env)
    counted = task_budget.tally(out.read_text().splitlines())
    if unchanged:
        for host, counts in counted.items():
            for name in counts.changed:
                say(f"{host} changed: {name}")
    return seconds, counted


def home() -> Path:
    """The checkout whose demo runs: the benchmark's clone, or this one."""
    for root in (CLONE, ROOT):
        if (root / ".cache" / "hosts" / demo.NAME / "hosts.yml").exists():
            return root
    raise BenchError("No demo runs: `tools/bench.py demo second` measures both, or start one with `make demo`.")


def demo_inventories(root: Path) -> list[str]:
    """Both inventories of the demo."""
    return ["inventories/demo", str(root / ".cache" / "hosts" / demo.NAME / "hosts.yml")]


def demo_cache(root: Path) -> Path:
    """The package cache the demo of that checkout uses."""
    shared = root / ".cache" / "images"
    return shared if shared.is_dir() else root / ".cache" / "demo" / "images"


def second() -> list[Figure]:
    """site.yml once more, twice; the quicker counts."""
    root = home()
    runs = [playbook(root, demo_inventories(root), True, demo_cache(root)) for _ in range(2)]
    counts = runs[-1][1][demo.NAME]
    return [
        Figure("second site.yml, one host", min(seconds for seconds, _ in runs), 25, "s"),
        Figure("executed tasks", counts.executed.total(), 90, ""),
        Figure("changed tasks", len(counts.changed), 0, ""),
    ]


PROBE = r"""
import http.client, json, os, ssl, subprocess, time
def read(path):
    with open(path) as f: return f.read().strip()
class Inside(http.client.HTTPConnection):
    # A socket made in a container's own network: the host itself has no way to the model.
    def __init__(self, service, port):
        super().__init__("127.0.0.1", port, timeout=60)
        cid = subprocess.run(["docker", "ps", "-q", "--filter", "label=com.docker.compose.service=" + service], capture_output=True, text=True).stdout.split()[0]
        self.pid = subprocess.run(["docker", "inspect", "-f", "{{.State.Pid}}", cid], capture_output=True, text=True).stdout.strip()
    def connect(self):
        with open("/proc/self/ns/net") as here, open("/proc/%s/ns/net" % self.pid) as there:
            os.setns(there.fileno(), os.CLONE_NEWNET)
            try: super().connect()
            finally: os.setns(here.fileno(), os.CLONE_NEWNET)
ctx = ssl.create_default_context(cafile="/etc/mcpstack/ca.crt")
edge = http.client.HTTPSConnection("localhost", 443, context=ctx, timeout=60)
model = Inside("model-runner", 8080)
keys = {edge: read("/run/mcpstack/secrets/operator/operator-api-key/current"), model: read("/run/mcpstack/secrets/model-runner/model-api-key/current").split()[0]}
def ask(conn, n):
    body = json.dumps({"model": MODEL, "stream": True, "max_tokens": 4, "messages": [{"role": "user", "content": "hello %d" % n}]})
    for last in (False, True):
        if conn.sock is None: conn.connect()  # not part of the time
        begin = time.perf_counter()
        try:
            conn.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json", "Authorization": "Bearer " + keys[conn]})
            r = conn.getresponse()
            break
        except ConnectionError:  # a kept connection was closed meanwhile
            conn.close()
            if last: raise
    r.read(1); took = time.perf_counter() - begin
    rest = r.read()
    assert r.status == 200, (r.status, rest[:200])
    return took * 1000
out = {"edge": [], "model": []}
for n in range(70):
    for name, conn in (("edge", edge), ("model", model)):
        took = ask(conn, n)
        if n >= 10: out[name].append(took)
    time.sleep(0.06)
print(json.dumps(out))
"""


def ttfb() -> list[Figure]:
    """Median over 60 warm, streamed requests each, taken in turns on kept connections from the host itself."""
    testhost.HOSTS = home() / ".cache" / "hosts"
    script = f"MODEL = 'mcpstack-demo'\n{PROBE}"
    done = subprocess.run(
        [*testhost.ssh_argv(demo.NAME), "python3 -"], input=script, check=False, capture_output=True, text=True
    )
    testhost.HOSTS = ROOT / ".cache" / "hosts"
    if done.returncode:
        raise BenchError(f"The probe on the demo's host failed:\n{done.stderr[-1500:]}")
    measured = json.loads(done.stdout)
    through, alone = (statistics.median(measured[name]) for name in ("edge", "model"))
    say(f"first byte, p50: {through:.1f} ms through the edge, {alone:.1f} ms from the model server alone")
    return [Figure("first byte added by edge and gateway, p50", through - alone, 10, "ms")]


def fleet() -> list[Figure]:
    """Deploy to several hosts, then measure the run that changes nothing on one and on all."""
    number = int(os.environ.get("BENCH_HOSTS", "8"))
    names = [f"mcpstack-bench-{index}" for index in range(1, number + 1)]
    cache = demo_cache(ROOT)
    settings = WORK / "fleet.yml"
    WORK.mkdir(parents=True, exist_ok=True)
    settings.write_text("---\nmcpstack:\n  vars:\n    mcpstack_server_names: [localhost]\n")
    try:
        timed([PYTHON, "tools/testhost.py", "up", "--memory", "2g", *names])
        inventories = {name: str(ROOT / ".cache" / "hosts" / name / "hosts.yml") for name in names}
        everything = [str(settings), *inventories.values()]
        seconds, _ = playbook(ROOT, everything, False, cache)
        say(f"deployed to {number} hosts in {seconds:.0f} s")
        one = min(playbook(ROOT, [str(settings), inventories[names[0]]], True, cache)[0] for _ in range(2))
        many = min(playbook(ROOT, everything, True, cache)[0] for _ in range(2))
    finally:
        timed([PYTHON, "tools/testhost.py", "down", *names])
    say(f"second run: {one:.1f} s on one host, {many:.1f} s on {number}")
    return [Figure(f"second site.yml on {number} hosts, times one host", many / one, 3, "x")]


def runtime() -> list[Figure]:
    """The part of that name of bench_audit.py, on the demo of home() unless another host is named."""
    if "BENCH_AUDIT_HOST" in os.environ:
        return bench_audit.runtime()
    testhost.HOSTS = home() / ".cache" / "hosts"
    try:
        return bench_audit.runtime()
    finally:
        testhost.HOSTS = ROOT / ".cache" / "hosts"


AUDIT = {**bench_audit.PARTS, "runtime": runtime}
PARTS = {
    "images": images,
    "demo": demos,
    "second": second,
    "ttfb": ttfb,
    **AUDIT,
    **bench_services.PARTS,
    "fleet": fleet,
}
GROUPS = {"audit": AUDIT, "services": bench_services.PARTS}


def main(argv: list[str]) -> int:
    """Command line."""
    wanted = [name for word in argv[1:] for name in GROUPS.get(word, (word,))]
    status = run(PARTS, wanted)
    if status != 2 and "demo" in (wanted or PARTS) and CLONE.is_dir():
        subprocess.run(["make", "demo-down"], cwd=CLONE, check=False, capture_output=True)
        shutil.rmtree(CLONE, ignore_errors=True)
    return status


if __name__ == "__main__":
    raise SystemExit(main(sys.argv))
