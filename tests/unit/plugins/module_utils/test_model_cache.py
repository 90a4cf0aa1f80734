# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The model cache against a web server of its own: breaks, lies, slowness, redirects, and being killed."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import pathlib
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _demo_model, _gguf, _model_cache
from ansible_collections.mcpstack.platform.plugins.module_utils._model_cache import (
    Cache,
    ModelError,
    Settings,
    human,
    parse_size,
    read_models,
)

DATA = _demo_model.build()
SHA = hashlib.sha256(DATA).hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()
HUB = "https://huggingface.co"


class Site(http.server.BaseHTTPRequestHandler):
    """Serves DATA under /*; the path says how it misbehaves."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_args):
        pass

    def do_GET(self):
        site = self.server
        site.seen.append((self.path, dict(self.headers)))
        kind = self.path.split("/")[1]
        count = sum(1 for path, _headers in site.seen if path == self.path)
        if kind == "status":
            return self.plain(int(self.path.split("/")[2]))
        if kind == "redirect":
            return self.plain(302, Location=site.target)
        if kind == "text":
            return self.whole(b"<html>Log in first</html>")
        if kind == "busy" and count <= 2:
            return self.plain(503, **{"Retry-After": "7"})
        if kind == "token" and self.headers.get("Authorization") != "Bearer secret-token-canary":
            return self.plain(401)
        if kind == "unsized":
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(DATA)
            self.close_connection = True
            return None
        data = DATA
        etag = f'"{"b" if kind == "changed" and count > 2 else "a"}"'
        first = 0
        wanted = self.headers.get("Range")
        if wanted and kind != "norange" and self.headers.get("If-Range", etag) == etag:
            first = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if first >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return None
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - first))
        self.send_header("ETag", etag)
        self.end_headers()
        rest = data[first:]
        if kind in ("cut", "changed", "norange") and 1 < count < 4:
            rest = rest[:1_000_000]
            self.close_connection = True
        if kind == "always-cut":
            rest = rest[:1000]
            self.close_connection = True
        if kind == "slow" and count > 1:
            half = len(rest) // 2
            self.wfile.write(rest[:half])
            self.wfile.flush()
            site.halfway.set()
            site.go_on.wait(20)
            rest = rest[half:]
        try:
            self.wfile.write(rest)
        except OSError:
            self.close_connection = True
        return None

    def plain(self, status, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": "0", **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def whole(self, data):
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def site(monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.daemon_threads = True
    server.seen, server.target = [], ""
    server.halfway, server.go_on = threading.Event(), threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.go_on.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def run(tmp_path):
    waits: list = []

    def call(*entries, **options):
        options = {"root": str(tmp_path / "models"), "headroom": 0, **options}
        cache = Cache(Settings(**options), sleep=waits.append)
        return cache.ensure(read_models(list(entries), HUB))

    call.waits = waits
    call.root = tmp_path / "models"
    return call


def entry(site, kind, **more):
    return {"name": "tiny", "url": f"{site.url}/{kind}/m.gguf", "sha256": SHA, **more}


def ranges(site):
    return [headers.get("Range") for _path, headers in site.seen]


def first_problem(call, *args, **options):
    with pytest.raises(ModelError) as error:
        call(*args, **options)
    return [f"{p['where']}: {p['what']} {p['fix']}" for p in error.value.problems]


# --- options


NAME_FIX = "Use lower-case letters, digits, dot, dash and underscore."
SOURCE_FIX = "Set one of url, hf or demo: true."
URL_FIX = "Write https://HOST/PATH, http://HOST/PATH or file:///PATH."
GOOD = {"name": "m", "url": "https://hub.test/m.gguf", "sha256": SHA}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"name": "Big Model"}, [f"models[0].name: 'Big Model' is not a usable name. {NAME_FIX}"]),
        ({"name": ".partial"}, [f"models[0].name: '.partial' is not a usable name. {NAME_FIX}"]),
        ({"name": "../etc"}, [f"models[0].name: '../etc' is not a usable name. {NAME_FIX}"]),
        ({"url": None}, [f"models[0]: exactly one source is needed, none given. {SOURCE_FIX}"]),
        ({"demo": True}, [f"models[0]: exactly one source is needed, url and demo given. {SOURCE_FIX}"]),
        (
            {"sha256": None},
            [
                "models[0].sha256: is missing. Give the 64 hexadecimal digits that the publisher of the file states "
                "(sha256sum FILE prints them)."
            ],
        ),
        (
            {"sha256": "abc"},
            [
                "models[0].sha256: 'abc' is not a SHA-256 digest. Give the 64 hexadecimal digits that the publisher of "
                "the file states (sha256sum FILE prints them)."
            ],
        ),
        (
            {"sha256": "0" * 64},
            ["models[0].sha256: is a placeholder. Give the digest that the publisher of the file states."],
        ),
        (
            {"url": "ftp://hub.test/m.gguf"},
            [f"models[0].url: 'ftp://hub.test/m.gguf' is not a URL this module fetches. {URL_FIX}"],
        ),
        ({"url": "https:///m.gguf"}, [f"models[0].url: 'https:///m.gguf' is not a URL this module fetches. {URL_FIX}"]),
        (
            {"url": "https://me:pw-canary@hub.test/m.gguf"},
            ["models[0].url: holds a user name or password. Put the token into a file and name it in token_file."],
        ),
        (
            {"url": "https://models.example.com/m.gguf"},
            ["models[0].url: https://models.example.com/m.gguf is a placeholder. Name the real source of the model."],
        ),
        (
            {"url": "https://hub.test/m-00001-of-00003.gguf"},
            [
                "models[0]: m-00001-of-00003.gguf is one part of a split model. Join the parts with llama-gguf-split "
                "--merge and serve the whole file."
            ],
        ),
        (
            {"url": "http://hub.test/m.gguf", "token_file": "/root/t"},
            ["models[0].token_file: a token is not sent to http: addresses. Use https:, or leave token_file out."],
        ),
        ({"memory": "lots"}, ["models[0].memory: 'lots' is not a size. Write it like 4831838208, 4500m or 4.5g."]),
        (
            {"cache_type_k": "f12"},
            [
                "models[0].cache_type_k: 'f12' is not a cache type. Use one of f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, "
                "q4_0, iq4_nl."
            ],
        ),
        (
            {"url": None, "hf": {"repository": "no-owner", "revision": "../x", "file": "/m.gguf"}},
            [
                "models[0].hf.repository: 'no-owner' is not OWNER/NAME. Copy it from the address of the model page.",
                "models[0].hf.revision: '../x' is not a revision. Give a commit (40 hexadecimal digits), a tag or a branch.",
                "models[0].hf.file: '/m.gguf' is not a file of the repository. Give its path inside the repository.",
            ],
        ),
    ],
)
def test_wrong_options_are_named(change, expected):
    assert first_problem(read_models, [{**GOOD, **change}], HUB) == expected


def test_every_entry_is_reported_and_names_must_differ():
    found = first_problem(
        read_models, [GOOD, {**GOOD, "sha256": "x"}, {"name": "d", "demo": True, "sha256": OTHER}], HUB
    )
    assert [line.split(" ")[0] for line in found] == ["models[1].sha256:", "models[1].name:", "models[2].sha256:"]
    assert found[1] == "models[1].name: 'm' names models[0] already. Give each model its own name."


@pytest.mark.parametrize(
    ("hub", "endpoint", "url"),
    [
        ({"repository": "o/n", "revision": "main", "file": "m.gguf"}, HUB, f"{HUB}/o/n/resolve/main/m.gguf"),
        (
            {"repository": "o/n", "revision": "refs/pr/1", "file": "a b/m.gguf"},
            "https://mirror.test/hub/",
            "https://mirror.test/hub/o/n/resolve/refs%2Fpr%2F1/a%20b/m.gguf",
        ),
    ],
)
def test_hub_addresses(hub, endpoint, url):
    (model,) = read_models([{"name": "m", "hf": hub, "sha256": SHA}], endpoint)
    assert (model.url, model.file) == (url, "m.gguf")


@pytest.mark.parametrize(
    ("text", "size"),
    [("512", 512), ("2k", 2048), ("1.5g", 1610612736), ("2GiB", 2**31), ("10MB", 10 * 2**20), ("7b", 7)],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "g", "-1g", "1e9", "2x"])
def test_sizes_that_are_none(text):
    with pytest.raises(ValueError, match="^" + text):
        parse_size(text)


@pytest.mark.parametrize(("size", "text"), [(5, "5 B"), (2048, "2.0 KiB"), (3567776, "3.4 MiB"), (2**41, "2048.0 GiB")])
def test_sizes_for_people(size, text):
    assert human(size) == text


# --- fetching


def test_a_download_is_published_and_the_second_run_changes_nothing(site, run):
    outcome = run(entry(site, "plain"))
    place = run.root / "tiny" / SHA[:12] / "m.gguf"
    assert (outcome.changed, outcome.bytes, outcome.models["tiny"]["state"]) == (True, len(DATA), "downloaded")
    assert place.read_bytes() == DATA
    assert stat.S_IMODE(place.stat().st_mode) == 0o644
    assert {stat.S_IMODE(path.stat().st_mode) for path in (place.parent, place.parent.parent, run.root)} == {0o755}
    requests = len(site.seen)
    again = run(entry(site, "plain"))
    assert (again.changed, again.models["tiny"]["state"], len(site.seen)) == (False, "present", requests)
    assert not os.path.exists(run.root / ".progress.json")
    assert os.listdir(run.root / ".partial") == []


def test_a_large_model_is_not_read_again_unless_it_was_touched(site, run, monkeypatch):
    run(entry(site, "plain"))
    read = []
    digest = Cache._digest
    monkeypatch.setattr(Cache, "_digest", lambda self, path, model: read.append(path) or digest(self, path, model))
    assert not run(entry(site, "plain")).changed
    assert read == []
    assert not run(entry(site, "plain"), verify="always").changed
    assert len(read) == 1
    os.utime(run.root / "tiny" / SHA[:12] / "m.gguf", (1, 1))
    assert not run(entry(site, "plain")).changed
    assert len(read) == 2


def test_a_damaged_file_is_replaced(site, run):
    place = run(entry(site, "plain")).models["tiny"]["path"]
    with open(place, "r+b") as handle:
        handle.seek(2000)
        handle.write(b"damage")
    outcome = run(entry(site, "plain"))
    assert (outcome.changed, outcome.models["tiny"]["state"]) == (True, "downloaded")
    assert pathlib.Path(place).read_bytes() == DATA


def test_a_lost_manifest_costs_one_reading(site, run):
    run(entry(site, "plain"))
    os.unlink(run.root / ".verified.json")
    requests = len(site.seen)
    assert not run(entry(site, "plain")).changed
    assert len(site.seen) == requests
    assert json.loads((run.root / ".verified.json").read_text())


def test_a_manifest_says_what_the_files_should_be(site, run):
    run(entry(site, "plain"))
    path = run.root / "manifest.json"
    file = {"name": f"tiny/{SHA[:12]}/m.gguf", "sha256": SHA, "size": len(DATA)}
    assert json.loads(path.read_text()) == {"files": [file]}
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    path.write_text("{}")
    assert run(entry(site, "plain"), check_mode=True).changed
    assert path.read_text() == "{}"
    assert run(entry(site, "plain")).changed
    assert json.loads(path.read_text()) == {"files": [file]}
    assert not run(entry(site, "plain")).changed


def test_modes_are_put_right(site, run):
    place = run(entry(site, "plain")).models["tiny"]["path"]
    os.chmod(place, 0o600)
    outcome = run(entry(site, "plain"))
    assert (outcome.changed, outcome.fixed) == (True, [place])
    assert stat.S_IMODE(os.stat(place).st_mode) == 0o644


def test_a_cut_connection_is_resumed(site, run):
    assert run(entry(site, "cut")).models["tiny"]["state"] == "downloaded"
    assert ranges(site) == [None, None, "bytes=1000000-", "bytes=2000000-"]
    assert [headers.get("If-Range") for _path, headers in site.seen] == [None, None, '"a"', '"a"']
    assert run.waits == [2.0, 4.0]


def test_a_server_without_ranges_starts_anew(site, run):
    outcome = run(entry(site, "norange"))
    assert outcome.models["tiny"]["state"] == "downloaded"
    assert outcome.bytes == len(DATA) + 2_000_000


def test_a_file_that_changed_on_the_server_starts_anew(site, run):
    assert run(entry(site, "changed")).bytes == len(DATA) + 2_000_000


def test_a_busy_server_says_when_to_come_back(site, run):
    assert run(entry(site, "busy")).models["tiny"]["state"] == "downloaded"
    assert run.waits == [7.0, 7.0]


def test_retries_end(site, run):
    (line,) = first_problem(run, entry(site, "always-cut"), retries=3)
    assert line == (
        f"models[0]: {site.url}/always-cut/m.gguf breaks off at 3.9 KiB of 3.4 MiB; 4 attempts failed. "
        "Check network, proxy and address, then run again: what was fetched is kept."
    )
    assert run.waits == [2.0, 4.0, 8.0]


def test_a_silent_server_times_out(site, run):
    (line,) = first_problem(run, entry(site, "slow"), retries=0, timeout=0.2)
    assert line == (
        f"models[0]: {site.url}/slow/m.gguf breaks off at 1.7 MiB of 3.4 MiB (timed out); 1 attempts failed. "
        "Check network, proxy and address, then run again: what was fetched is kept."
    )
    assert (run.root / ".partial" / SHA).stat().st_size == len(DATA) // 2


def test_no_connection(run):
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (line,) = first_problem(run, {"name": "t", "url": f"http://127.0.0.1:{port}/m.gguf", "sha256": SHA}, retries=1)
    assert line == (
        f"models[0]: http://127.0.0.1:{port}/m.gguf cannot be reached ([Errno 111] Connection refused); 2 attempts failed. "
        "Check network, proxy and address, then run again: what was fetched is kept."
    )


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (401, "answers 401: it wants a token. Put a read token into a file on the host and name it in token_file."),
        (
            403,
            "answers 403: the token may not read this file. Accept the terms of the model on its page, or use a token "
            "with read access to it.",
        ),
        (404, "answers 404: there is no such file. Check repository, revision and file name, letter by letter."),
        (418, "answers 418. Open the address from this host to see why."),
    ],
)
def test_refusals_come_with_the_fix_and_without_retry(site, run, status, text):
    url = f"{site.url}/status/{status}/m.gguf"
    assert first_problem(run, {"name": "t", "url": url + "?sig=canary", "sha256": SHA}) == [f"models[0]: {url} {text}"]
    assert run.waits == []


def test_a_wrong_digest_keeps_nothing(site, run):
    (line,) = first_problem(run, entry(site, "plain", sha256=OTHER))
    assert line == (
        f"models[0]: {site.url}/plain/m.gguf has the digest {SHA}, not {OTHER}; nothing of it was kept. Compare both "
        "with what the publisher states. If the file was changed there on purpose, state the new digest; else do not use it."
    )
    assert os.listdir(run.root / ".partial") == []
    assert not (run.root / "tiny").exists()


def test_what_is_not_a_model_is_refused(site, run):
    assert first_problem(run, entry(site, "text")) == [
        f"models[0]: {site.url}/text/m.gguf is not a GGUF model: it starts with b'<htm' and not with b'GGUF'. "
        "Name a .gguf file; other formats are not served."
    ]


def test_an_unknown_size_is_refused_until_it_is_stated(site, run):
    assert first_problem(run, entry(site, "unsized")) == [
        f"models[0]: {site.url}/unsized/m.gguf does not say how large it is. "
        "Set size to the number of bytes its publisher states."
    ]
    assert run(entry(site, "unsized", size=str(len(DATA)))).models["tiny"]["state"] == "downloaded"


def test_redirects_within_a_scheme_are_followed_and_others_refused(site, run):
    site.target = f"{site.url}/plain/m.gguf"
    assert run(entry(site, "redirect")).models["tiny"]["state"] == "downloaded"
    site.target = "ftp://hub.test/m.gguf"
    assert first_problem(run, entry(site, "redirect", name="two")) == [
        f"models[0]: {site.url}/redirect/m.gguf redirects to a ftp: address. "
        "Only redirects to https: are followed; name the final address yourself."
    ]


def test_https_is_never_left():
    handler = _model_cache._Redirects()
    request = _model_cache.urllib.request.Request("https://hub.test/a", headers={"Authorization": "Bearer x"})
    with pytest.raises(_model_cache.urllib.error.URLError, match="redirect:http"):
        handler.redirect_request(request, None, 302, "", {}, "http://hub.test/a")
    kept = handler.redirect_request(request, None, 302, "", {}, "https://hub.test/b")
    dropped = handler.redirect_request(request, None, 302, "", {}, "https://cdn.test/b")
    assert (kept.get_header("Authorization"), dropped.get_header("Authorization")) == ("Bearer x", None)


def test_a_token_is_sent_and_never_told(site, run, tmp_path, capfd):
    token = tmp_path / "token"
    token.write_text("secret-token-canary\n")
    token.chmod(0o400)
    outcome = run(entry(site, "token", token_file=str(token)))
    assert outcome.models["tiny"]["state"] == "downloaded"
    token.chmod(0o600)
    token.write_text("wrong-token-canary")
    (line,) = first_problem(run, entry(site, "token", name="two", token_file=str(token)))
    assert line.startswith(f"models[0]: {site.url}/token/m.gguf answers 401")
    everything = line + repr(outcome) + "".join(capfd.readouterr())
    for path in run.root.rglob("*.json"):
        everything += path.read_text()
    assert "canary" not in everything


def test_a_token_file_is_checked(site, run, tmp_path):
    token = tmp_path / "token"
    fix = "Write the token into it on the host, mode 0400."
    where = "models[0].token_file"
    model = entry(site, "token", token_file=str(token))
    assert first_problem(run, model) == [f"{where}: {token} cannot be read: No such file or directory. {fix}"]
    token.write_text("a b")
    token.chmod(0o644)
    assert first_problem(run, model) == [f"{where}: {token} is open to every user of the host. chmod 0400 {token}"]
    token.chmod(0o600)
    assert first_problem(run, model) == [
        f"{where}: {token} does not hold one token. Write the token, and nothing else, into it."
    ]


def test_the_proxy_of_the_environment_is_used(site, run, monkeypatch):
    monkeypatch.setenv("http_proxy", site.url)
    monkeypatch.setenv("no_proxy", "")
    run({"name": "tiny", "url": "http://models.test/plain/m.gguf", "sha256": SHA})
    assert site.seen[0][0] == "http://models.test/plain/m.gguf"


def test_a_file_of_the_host(run, tmp_path):
    source = tmp_path / "source.gguf"
    source.write_bytes(DATA)
    assert run({"name": "f", "url": f"file://{source}", "sha256": SHA}).models["f"]["state"] == "downloaded"
    source.unlink()
    assert not run({"name": "f", "url": f"file://{source}", "sha256": SHA}).changed
    assert first_problem(run, {"name": "g", "url": f"file://{source}", "sha256": SHA}) == [
        f"models[0]: {source} cannot be read: No such file or directory. Copy the file to the host, or correct the path."
    ]


# --- what does not fit


def test_too_little_disk_is_said_with_numbers(site, run, monkeypatch):
    usage = _model_cache.shutil.disk_usage("/")
    monkeypatch.setattr(_model_cache.shutil, "disk_usage", lambda _path: usage._replace(free=4 * 2**20))
    line = (
        "models: 3.4 MiB are to be fetched (tiny 3.4 MiB) and 2.0 MiB kept free, but {} has 4.0 MiB free. "
        "Free space, list fewer models, or prune models that are no longer listed."
    )
    assert first_problem(run, entry(site, "plain"), headroom=2 * 2**20) == [line.format(run.root)]
    assert run(entry(site, "plain"), headroom=0).models["tiny"]["state"] == "downloaded"


def test_too_little_memory_is_said_with_numbers(site, run):
    assert first_problem(run, entry(site, "plain", context=65536), memory_limit=128 * 2**20, prompt_cache=2**24) == [
        "models: 185.9 MiB are needed (tiny 169.9 MiB: weights 3.4 MiB, context 32.0 MiB, computing 134.5 MiB), but the "
        "memory limit of the model server is 128.0 MiB. Raise the limit, lower the context or the parallel slots, or "
        "choose a smaller model or quantization."
    ]
    assert not (run.root / ".partial").exists()


def test_memory_can_be_stated(site, run):
    (line,) = first_problem(run, entry(site, "plain", memory="2g"), memory_limit=2**30)
    assert line.startswith("models: 2.0 GiB are needed (tiny 2.0 GiB as stated), but")


def test_the_host_counts_where_the_limit_is_larger(site, run, monkeypatch):
    monkeypatch.setattr(_model_cache, "host_memory", lambda: 2**26)
    (line,) = first_problem(run, entry(site, "plain"), memory_limit=2**40)
    assert "but the memory of this host is 64.0 MiB." in line


def test_a_present_model_is_held_against_the_memory_too(site, run):
    run(entry(site, "plain"))
    assert "are needed" in first_problem(run, entry(site, "plain", context=2**20), memory_limit=2**28)[0]


# --- check mode, prune, several models


def test_check_mode_writes_and_fetches_nothing(site, run):
    outcome = run(entry(site, "plain"), {"name": "d", "demo": True}, check_mode=True)
    states = {name: model["state"] for name, model in outcome.models.items()}
    assert (outcome.changed, states) == (True, {"tiny": "would_download", "d": "would_generate"})
    assert site.seen == []
    assert not run.root.exists()


def test_the_demo_model_needs_no_network(run):
    outcome = run({"name": "mcpstack-demo", "demo": True})
    assert outcome.models["mcpstack-demo"]["state"] == "generated"
    assert not run({"name": "mcpstack-demo", "demo": True}).changed


def test_pruning(site, run):
    run(entry(site, "plain"), {"name": "d", "demo": True})
    (run.root / "notes.txt").write_text("mine")
    (run.root / "foreign").mkdir()
    (run.root / ".partial" / OTHER).write_bytes(b"x")
    assert run({"name": "d", "demo": True}).changed  # the manifest is of what is listed
    assert not run({"name": "d", "demo": True}).changed
    doomed = [str(run.root / "tiny" / SHA[:12]), str(run.root / ".partial" / OTHER)]
    assert run({"name": "d", "demo": True}, prune=True, check_mode=True).removed == doomed
    assert run({"name": "d", "demo": True}, prune=True).removed == doomed
    assert sorted(os.listdir(run.root)) == [
        ".lock",
        ".partial",
        ".verified.json",
        "d",
        "foreign",
        "manifest.json",
        "notes.txt",
    ]
    assert not run({"name": "d", "demo": True}, prune=True).changed


def test_problems_of_all_models_come_together(site, run):
    missing = {"name": "b", "url": f"{site.url}/status/404/m.gguf", "sha256": SHA}
    found = first_problem(run, entry(site, "text"), missing)
    assert [line.split(":")[0] for line in found] == ["models[0]", "models[1]"]


def test_deferring(site, run):
    assert run(entry(site, "plain"), defer=True).deferred
    assert site.seen == []
    assert not run({"name": "d", "demo": True}, defer=True).deferred
    run(entry(site, "plain"))
    assert not run(entry(site, "plain"), defer=True).deferred


def test_a_run_that_meets_another_one_is_deferred(run):
    run({"name": "d", "demo": True})
    cache = Cache(Settings(root=str(run.root)))
    with cache._locked():
        outcome = run({"name": "d", "demo": True}, defer=True)
        assert (outcome.deferred, outcome.busy) == (True, True)


# --- being killed


KILLED = """
    import sys
    from ansible_collections.mcpstack.platform.plugins.module_utils._model_cache import Cache, Settings, read_models
    entry = {"name": "tiny", "url": sys.argv[1], "sha256": sys.argv[2]}
    Cache(Settings(root=sys.argv[3], headroom=0)).ensure(read_models([entry], ""))
"""


def test_a_killed_download_is_resumed(site, run):
    model = entry(site, "slow")
    command = [sys.executable, "-c", textwrap.dedent(KILLED), model["url"], SHA, str(run.root)]
    child = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    try:
        assert site.halfway.wait(20)
        partial, deadline = run.root / ".partial" / SHA, time.monotonic() + 20
        while not (partial.exists() and partial.stat().st_size) and time.monotonic() < deadline:
            os.sched_yield()
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    kept = partial.stat().st_size
    assert 0 < kept < len(DATA)
    site.go_on.set()
    assert run(model).models["tiny"]["state"] == "downloaded"
    assert ranges(site)[-1] == f"bytes={kept}-"


def test_killed_between_publishing_and_remembering(run, monkeypatch):
    monkeypatch.setattr(Cache, "_remember", lambda self, model: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run({"name": "d", "demo": True})
    monkeypatch.undo()
    assert run({"name": "d", "demo": True}).models["d"]["state"] == "present"
    assert not run({"name": "d", "demo": True}).changed


# --- the head of a file


def test_the_head_is_read_from_the_first_bytes():
    fields = _gguf.read_head(DATA[:65536])
    assert (fields["general.architecture"], fields["llama.block_count"], fields["tokens"]) == ("llama", 2, 2285)
    with pytest.raises(_gguf.NeedMore):
        _gguf.read_head(DATA[:200])
    assert _gguf.read_head(DATA[:200], complete=True)["general.architecture"] == "llama"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"PK\x03\x04", "it starts with b'PK\\x03\\x04' and not with b'GGUF'"),
        (b"GGUF\x09\0\0\0" + bytes(16), "its format version is 9; versions 2 and 3 are known"),
        (b"GGUF\x03\0\0\0" + b"\xff" * 16, "its metadata is damaged"),
        (b"GGUF\x03\0\0\0" + bytes(8) + b"\1" + bytes(7) + b"\xff" * 8, "its metadata is damaged"),
    ],
)
def test_what_is_no_head(data, text):
    with pytest.raises(_gguf.NotGguf, match=f"^{_model_cache.re.escape(text)}$"):
        _gguf.read_head(data)


SHAPE = {
    "general.architecture": "llama",
    "llama.block_count": 32,
    "llama.embedding_length": 4096,
    "llama.attention.head_count": 32,
    "llama.attention.head_count_kv": 8,
    "llama.context_length": 131072,
    "tokens": 128256,
}


@pytest.mark.parametrize(
    ("change", "context", "cache", "expected"),
    [
        ({}, 8192, "f16", 2**30),  # 32 layers x 8 heads x (128 + 128) x 2 bytes = 128 KiB a token
        ({}, 0, "f16", 16 * 2**30),
        ({}, 8192, "q8_0", 2**29 * 34 // 32),
        ({"llama.attention.head_count_kv": [8] * 16 + [0] * 16}, 8192, "f16", 2**29),
        ({"llama.attention.key_length": 256, "llama.attention.value_length": 256}, 8192, "f16", 2**31),
    ],
)
def test_memory_of_the_context(change, context, cache, expected):
    assert _gguf.memory_need({**SHAPE, **change}, 1, context, cache, cache)["context"] == expected
