# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make demo` and `make demo-down`: the real site.yml on a throwaway host of this machine.

usage: demo.py up|down|report

up      start (or reuse) the host, deploy, fetch CA and key, end with the report
report  stream a chat completion through the edge, print the container table and how to go on
down    remove the host and everything the demo made

Environment: DEMO_HTTPS_PORT (8443) and DEMO_HTTP_PORT (8080), the loopback ports of this machine.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import testhost

ROOT = Path(__file__).resolve().parent.parent
HERE = ROOT / ".cache" / "demo"
NAME = "mcpstack-demo"
KEY_ON_HOST = "/run/mcpstack/secrets/operator/operator-api-key/current"
CA_ON_HOST = "/etc/mcpstack/ca.crt"
AUDIT_ON_HOST = "/var/log/mcpstack/audit/report"
LISTING = (
    "docker ps --filter label=com.docker.compose.project=mcpstack "
    "--format 'ps\\t{{.Label \"com.docker.compose.service\"}}\\t{{.Status}}\\t{{.Image}}'; "
    "docker images --format 'image\\t{{.ID}}\\t{{.Repository}}:{{.Tag}}'"
)
QUESTION = "Say something about containers."


class DemoError(Exception):
    """A sentence for a person: what is wrong and what to do."""


def port(name: str, default: int, environ=os.environ) -> int:
    """A port out of the environment."""
    text = environ.get(name, str(default))
    if not text.isdigit() or not 0 < int(text) < 65536:
        raise DemoError(f"{name}={text} is no port: use a number from 1 to 65535.")
    return int(text)


def step(number: int, text: str) -> None:
    """Headline of a step."""
    print(f"[{number}/4] {text}", flush=True)


def images_cache() -> Path:
    """The package cache `make test` filled, where there is one; else the demo's own, which demo-down removes."""
    shared = ROOT / ".cache" / "images"
    return shared if shared.is_dir() else HERE / "images"


def deploy() -> None:
    """Run site.yml with visible progress; the whole output stays in a log."""
    log_path = HERE / "site.log"
    argv = [
        str(ROOT / ".venv" / "bin" / "ansible-playbook"),
        str(ROOT / "playbooks" / "site.yml"), str(ROOT / "playbooks" / "audit.yml"),
        "-i", str(ROOT / "inventories" / "demo"), "-i", str(testhost.HOSTS / NAME / "hosts.yml"),
        "-e", json.dumps({"mcpstack_images_cache_dir": str(images_cache())}),
    ]  # fmt: skip
    env = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", "PYTHONUNBUFFERED": "1"}
    begin = time.monotonic()
    recent: list[str] = []
    with log_path.open("w") as log:
        process = subprocess.Popen(
            argv,
            cwd=ROOT,
            env=env,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdout is not None  # noqa: S101
        for line in process.stdout:
            log.write(line)
            recent = [*recent[-40:], line]
            if match := re.match(r"TASK \[(.*)\] \*+$", line):
                print(
                    f"    {time.monotonic() - begin:5.0f} s  {match[1].removeprefix('mcpstack.platform.')}", flush=True
                )
    if process.wait():
        print("".join(recent), file=sys.stderr)
        raise DemoError(
            f"The deployment stopped (whole output: {log_path.relative_to(ROOT)}). "
            "`make demo` goes on from there; `make demo-down` removes everything."
        )
    recap = next((line for line in reversed(recent) if line.startswith(NAME)), "").partition(":")[2]
    print(f"    deployed in {time.monotonic() - begin:.0f} s ({' '.join(recap.split()[:3])})", flush=True)


def fetch() -> None:
    """CA, first API key and the audit's report from the host, for this user only."""
    wanted = (
        (CA_ON_HOST, "ca.crt"),
        (KEY_ON_HOST, "api-key"),
        *((f"{AUDIT_ON_HOST}.{kind}", f"audit.{kind}") for kind in ("html", "json")),
    )
    for source, target in wanted:
        got = subprocess.run([*testhost.ssh_argv(NAME), "cat", source], check=False, capture_output=True)
        if got.returncode or not got.stdout:
            raise DemoError(f"{source} is not on the demo host: the deployment is incomplete, run `make demo` again.")
        path = HERE / target
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            out.write(got.stdout)


def events(lines: Iterable[bytes]) -> Iterator[dict]:
    """The JSON objects of a server-sent event stream, until [DONE]."""
    for raw in lines:
        line = raw.decode().strip()
        if not line.startswith("data:"):
            continue
        payload = line[5:].strip()
        if payload == "[DONE]":
            return
        yield json.loads(payload)


class Client:
    """Just enough HTTP for the report; verifies the certificate against the demo's CA."""

    def __init__(self, https_port: int) -> None:
        self.context = ssl.create_default_context(cafile=str(HERE / "ca.crt"))
        self.port = https_port
        self.key = (HERE / "api-key").read_text().strip()

    def request(self, method: str, path: str, body: dict | None = None) -> http.client.HTTPResponse:
        """One request on a connection of its own."""
        connection = http.client.HTTPSConnection("localhost", self.port, timeout=60, context=self.context)
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        connection.request(method, path, json.dumps(body) if body else None, headers)
        response = connection.getresponse()
        if response.status != 200:
            raise DemoError(
                f"{method} {path} answered {response.status}: {response.read(500).decode(errors='replace')}"
            )
        return response


def stream_chat(client: Client, model: str, out=sys.stdout) -> tuple[float, int, float]:
    """Print a completion while it arrives; returns (time to first token, tokens, seconds of the whole stream)."""
    begin = time.monotonic()
    response = client.request(
        "POST",
        "/v1/chat/completions",
        {
            "model": model,
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": 64,
            "messages": [{"role": "user", "content": QUESTION}],
        },
    )
    first = 0.0
    pieces = tokens = 0
    for event in events(response):
        tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
        for choice in event.get("choices", []):
            text = (choice.get("delta") or {}).get("content") or ""
            if text:
                first = first or time.monotonic() - begin
                pieces += 1
                out.write(text)
                out.flush()
    out.write("\n")
    if not pieces:
        raise DemoError("The model streamed no token: `make demo` again, then see `tools/testhost ssh mcpstack-demo`.")
    return first, tokens or pieces, time.monotonic() - begin


def container_table(listing: str) -> list[str]:
    """Aligned lines out of "ps" lines (service, state, image) and "image" lines (id, reference), tab-separated."""
    fields = [line.split("\t") for line in listing.splitlines()]
    references = {row[1]: row[2] for row in fields if row[0] == "image"}
    rows = [("service", "state", "image")]
    rows += sorted((row[1], row[2], references.get(row[3], row[3])) for row in fields if row[0] == "ps")
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return [f"  {row[0]:{widths[0]}}  {row[1]:{widths[1]}}  {row[2]}" for row in rows]


def audit_lines(found: dict) -> list[str]:
    """What the audit of the host found, in a few lines."""
    summary = found["summary"]
    severities = ("critical", "high", "medium", "low", "info")
    counts = ", ".join(f"{summary[name]} {name}" for name in severities if summary[name]) or "nothing"
    ran = [check for check in found["checks"] if check["ran"]]
    unknown = sorted(check["id"] for check in ran if check["status"] == "unknown")
    lines = [f"  audit: score {found['score']} of 100 from {len(ran) - len(unknown)} checks; open: {counts}"]
    if unknown:
        lines.append(f"         not decided: {', '.join(unknown)}")
    return lines


def report(https_port: int) -> None:
    """What the demo ends with."""
    client = Client(https_port)
    model = json.load(client.request("GET", "/v1/models"))["data"][0]["id"]
    print(f"\n  > {QUESTION}\n  < ", end="")
    first, tokens, seconds = stream_chat(client, model)
    rate = (tokens - 1) / (seconds - first) if tokens > 1 and seconds > first else 0.0
    print(f"\n  first token after {first * 1000:.0f} ms, {tokens} tokens at {rate:.0f} tokens/s, through TLS")
    if model == "mcpstack-demo":
        print("  (the demo's model is made of seeded random numbers: it speaks words, not sense)")
    listed = subprocess.run([*testhost.ssh_argv(NAME), LISTING], check=False, capture_output=True, text=True)
    print("\n" + "\n".join(container_table(listed.stdout)))
    url = f"https://localhost:{https_port}/v1"
    ca, key, page = (os.path.relpath(HERE / name) for name in ("ca.crt", "api-key", "audit.html"))
    print("\n" + "\n".join(audit_lines(json.loads((HERE / "audit.json").read_text()))))
    print(f"""
  URL       {url}
  CA file   {ca}
  API key   {key}
  Audit     {page}

Go on with
  curl --cacert {ca} -H "Authorization: Bearer $(cat {key})" {url}/models
  SSL_CERT_FILE={ca} OPENAI_BASE_URL={url} OPENAI_API_KEY=$(cat {key}) \\
    python3 -c 'import openai; print(openai.OpenAI().chat.completions.create(model="{model}", messages=[{{"role": "user", "content": "hi"}}]).choices[0].message.content)'
  make demo-down
""")


def up() -> None:
    """The whole demo."""
    https_port, http_port = port("DEMO_HTTPS_PORT", 8443), port("DEMO_HTTP_PORT", 8080)
    begin = time.monotonic()
    HERE.mkdir(parents=True, exist_ok=True)
    step(1, "a throwaway host: Debian with systemd in a container, nothing installed on it yet")
    command = ["up", NAME, "--publish", f"{https_port}:443", "--publish", f"{http_port}:80"]
    args = testhost.parser().parse_args(command)
    testhost.up(args, quiet=True)
    step(2, "playbooks/site.yml and audit.yml on that host (images are built from signed Debian packages, no registry)")
    deploy()
    step(3, "fetching the CA, the first API key and the audit's report")
    fetch()
    step(4, "a chat completion, streamed through the TLS edge")
    report(https_port)
    print(f"demo ready in {time.monotonic() - begin:.0f} s")


def down() -> None:
    """Remove all the demo made."""
    if shutil.which("docker") and subprocess.run(["docker", "info"], check=False, capture_output=True).returncode == 0:
        testhost.playbook("down.yml", {"testhost_names": [NAME]}, verbose=False)
        testhost.purge(None)
    shutil.rmtree(HERE, ignore_errors=True)
    shutil.rmtree(testhost.HOSTS / NAME, ignore_errors=True)
    shutil.rmtree(ROOT / ".cache" / "testhost", ignore_errors=True)
    print("the demo is gone: no container, volume, image or file of it is left")
    print("(the toolchain in .venv and .cache stays for the next command; `make clean` removes it)")


def main(argv: list[str]) -> int:
    """Command line."""
    actions = {"up": up, "down": down, "report": lambda: report(port("DEMO_HTTPS_PORT", 8443))}
    if len(argv) != 2 or argv[1] not in actions:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        actions[argv[1]]()
    except (DemoError, testhost.HostError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    except OSError as exc:
        print(f"error: the demo's endpoint does not answer as it should: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv))
