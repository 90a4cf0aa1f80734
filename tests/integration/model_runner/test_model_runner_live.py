# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The real model server with the demo model, under the restrictions of the service spec: one model, and a router."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils._model_cache import Cache, Settings, read_models
from ansible_collections.mcpstack.platform.plugins.module_utils._model_server import plan

pytestmark = pytest.mark.engine
LOCK = Path(__file__).resolve().parents[3] / "roles/images/specs/llama-server.lock.json"
UID = "64103"
KEY = "live-test-key"
CANARY = "zebra-canary-77"
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": parameters}}
    for name, parameters in (
        ("search_docs", {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}),
        ("count", {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}),
    )
]


def docker(*argv):
    return subprocess.run(["docker", *argv], capture_output=True, text=True, timeout=60, check=False)


class Server:
    def __init__(self, name, url):
        self.name, self.url = name, url

    def call(self, path, body=None, key=KEY):
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, data, headers), timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def chat(self, content, **more):
        messages = [{"role": "user", "content": content}]
        status, text = self.call("/v1/chat/completions", {"messages": messages, "seed": 1, "max_tokens": 200, **more})
        assert status == 200, text
        return json.loads(text)["choices"][0]

    def embed(self, *texts, model="embed"):
        status, text = self.call("/v1/embeddings", {"model": model, "input": texts})
        assert status == 200, text
        return [item["embedding"] for item in json.loads(text)["data"]]


def start(root, models):
    image = json.loads(LOCK.read_text())["image"]["ref"]
    if docker("image", "inspect", image).returncode:
        pytest.skip(f"{image} is not on this machine; tools/images.py builds it")
    made = plan(models)
    Cache(Settings(root=str(root / "models"), headroom=0)).ensure(read_models(made["cache"], ""))
    secret = root / "secrets" / "model-api-key"
    secret.mkdir(parents=True)
    (secret / "v1").write_text(KEY)
    (secret / "current").symlink_to("v1")
    (root / "config").mkdir()
    (root / "config" / "presets.ini").write_text(made["presets"])
    root.chmod(0o755)
    for parent in root.parents[:3]:
        parent.chmod(parent.stat().st_mode | 0o055)
    name = f"model-runner-test-{os.getpid()}-{len(models)}"
    restrictions = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--pids-limit", "512"]
    restrictions += ["--memory", "1g", "--user", f"{UID}:{UID}"]
    restrictions += ["--tmpfs", f"/tmp:rw,noexec,nosuid,nodev,size=64m,mode=0700,uid={UID},gid={UID}"]
    mounts = [("models", "/models"), ("secrets", "/run/secrets"), ("config", "/etc/model-runner")]
    volumes = [part for source, target in mounts for part in ("-v", f"{root / source}:{target}:ro")]
    done = docker(
        "run", "-d", "--name", name, *restrictions, *volumes, "-p", "127.0.0.1::8080", image, *made["command"]
    )
    assert done.returncode == 0, done.stderr
    port = docker("port", name, "8080/tcp").stdout.strip().rpartition(":")[2]
    return Server(name, f"http://127.0.0.1:{port}")


def ready(server, check, seconds=30):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if check():
                return server
        except OSError:
            pass
        time.sleep(0.05)
    raise AssertionError(f"not ready within {seconds} s: {docker('logs', server.name).stderr[-2000:]}")


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    server = start(tmp_path_factory.mktemp("single"), [{"name": "embed", "demo": True}])
    yield ready(server, lambda: server.call("/health")[0] == 200)
    docker("rm", "-f", server.name)


@pytest.fixture(scope="module")
def router(tmp_path_factory):
    models = [{"name": "chat", "demo": True, "embeddings": False}, {"name": "embed", "demo": True}]
    server = start(tmp_path_factory.mktemp("router"), models)
    body = {"model": "embed", "input": "x"}
    yield ready(server, lambda: server.call("/v1/embeddings", body)[0] == 200)
    docker("rm", "-f", server.name)


def likeness(one, other):
    return sum(a * b for a, b in zip(one, other, strict=True))


def test_it_speaks_words(single):
    answer = single.chat("How do I restore a backup?")["message"]["content"]
    words = answer.replace(".", "").replace(",", "").split()
    assert len(words) > 5
    assert all(word.isalpha() for word in words)
    assert single.chat("hello")["message"]["content"] != answer


def test_it_streams(single):
    body = {"messages": [{"role": "user", "content": "hello"}], "stream": True, "max_tokens": 50}
    status, text = single.call("/v1/chat/completions", {**body, "stream_options": {"include_usage": True}})
    events = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    assert (status, events[-1]) == (200, "[DONE]")
    assert json.loads(events[-2])["usage"]["completion_tokens"] >= len(events) - 4 > 3


def test_texts_that_share_words_are_closer(single):
    texts = ["Restore the database from a backup", "Renew the certificate of the firewall", "backup and restore"]
    backup, certificate, question = single.embed(*texts)
    assert likeness(question, backup) > likeness(question, certificate) + 0.2


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_it_calls_a_tool_and_answers_after_the_result(single, choice):
    answer = single.chat("search the backup policy", tools=TOOLS, tool_choice=choice)
    assert answer["finish_reason"] == "tool_calls"
    call = answer["message"]["tool_calls"][0]["function"]
    assert call["name"] in ("search_docs", "count")
    assert set(json.loads(call["arguments"])) in ({"query"}, {"n"})
    messages = [{"role": "user", "content": "search"}, answer["message"]]
    messages.append({"role": "tool", "tool_call_id": answer["message"]["tool_calls"][0]["id"], "content": "found"})
    after = single.chat("", messages=messages, tools=TOOLS)
    assert after["message"]["content"].replace(",", "").split()[0].isalpha()
    assert not after["message"].get("tool_calls")


def test_json_follows_its_schema(single):
    schema = {
        "type": "object",
        "properties": {"title": {"type": "string"}, "n": {"type": "integer"}},
        "required": ["title", "n"],
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answer = json.loads(single.chat("a title", response_format=wanted)["message"]["content"])
    assert (type(answer["title"]), type(answer["n"])) == (str, int)


def test_without_the_key_there_is_only_health(single):
    open_paths = {
        path: single.call(path, key=None)[0] for path in ("/health", "/v1/models", "/metrics", "/props", "/slots")
    }
    assert open_paths == {"/health": 200, "/v1/models": 401, "/metrics": 401, "/props": 401, "/slots": 401}
    assert single.call("/v1/models", key="wrong")[0] == 401
    assert (single.call("/metrics")[0], single.call("/slots")[0], single.call("/")[0]) == (200, 501, 404)


def test_the_health_check_of_the_service(single):
    check = ["/usr/lib/nagios/plugins/check_tcp", "-H", "127.0.0.1", "-p", "8080", "-E", "-e", "200 OK"]
    assert docker("exec", single.name, *check, "-s", r"GET /health HTTP/1.0\r\n\r\n").returncode == 0
    assert docker("exec", single.name, *check, "-s", r"GET /nowhere HTTP/1.0\r\n\r\n").returncode != 0


def test_a_router_serves_each_model_by_name(router):
    assert router.chat("hello", model="chat")["message"]["content"]
    assert router.chat("hello", model="embed")["message"]["content"]
    assert len(router.embed("hello")[0]) == 128
    assert router.call("/v1/embeddings", {"model": "chat", "input": "x"})[0] == 501
    assert router.call("/v1/chat/completions", {"model": "none", "messages": []})[0] == 400
    assert router.call("/v1/models", key=None)[0] == 401
    assert sorted(model["id"] for model in json.loads(router.call("/v1/models")[1])["data"]) == ["chat", "embed"]


@pytest.mark.parametrize("kind", ["single", "router"])
def test_no_prompt_and_no_key_in_the_log(kind, request):
    server = request.getfixturevalue(kind)
    server.chat(CANARY, model="embed", max_tokens=5)
    server.embed(CANARY)
    assert (
        server.call("/v1/chat/completions", f'{{"model": "embed", "messages": [{{"content": "{CANARY}'.encode())[0]
        >= 400
    )
    logs = docker("logs", server.name)
    assert CANARY not in logs.stdout + logs.stderr
    assert KEY not in logs.stdout + logs.stderr
