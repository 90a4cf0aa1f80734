# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Attack the services of a deployed platform through its edge, and look for traces of it in every container's log.

usage: attacks.py HOST --port PORT --name NAME --ca FILE --model MODEL --first-byte SECONDS

As trouble.py, whose options and environment it shares. Nothing is stopped, and nothing it registers is left.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import secrets
import socket
import ssl
import statistics
import subprocess
import sys
import time
from typing import Any

from trouble import Platform

CANARY = f"canary{secrets.token_hex(8)}"
SQL = (f"'; DROP TABLE registry.tool; -- {CANARY}", f'" OR 1=1 /*{CANARY}', "\\'||pg_sleep(9)||'", "%_\\", "$$;$$")
CONTROL = f"\x00\x1b[31m\x7f\x85\u2028\u202e{CANARY}\r\nSet-Cookie: a=b"
CHAT, FIND, SERVERS = "/v1/chat/completions", "/registry/v1/tools/find", "/registry/v1/servers"


class Target(Platform):
    """A platform, and whoever means it ill."""

    def ask(self, method: str, path: str, body: object = None, key: str | None = None) -> tuple[int, dict, dict, float]:
        """As a client that waits when it is told to: what is judged here is not the limits."""
        for _attempt in range(5):
            answer = super().ask(method, path, body, key)
            if answer[0] != 429:
                break
            time.sleep(int(answer[1].get("retry-after", "1")))  # as the answer asks
        return answer

    def raw(self, *request: Any) -> tuple[int, str]:
        """(status, whole answer) of a request that is sent byte by byte as it stands; 0: closed without an answer."""
        for _attempt in range(5):
            answer = self._raw(*request)
            if answer[0] != 429:
                break
            time.sleep(1)  # what is judged here is not the limits
        return answer

    def _raw(self, head: str, body: bytes = b"", path: str = CHAT, method: str = "POST") -> tuple[int, str]:
        connection = self.connect()
        sock = connection.sock
        sock.settimeout(15)
        start = f"{method} {path} HTTP/1.1\r\nHost: {self.options.name}\r\nAuthorization: Bearer {self.key}\r\n"
        start += f"Connection: close\r\n{head}\r\n"
        # A refusal closes the connection, also while the rest is still being sent.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
            sock.sendall(start.encode("latin-1") + body)
        seen = b""
        with contextlib.suppress(ConnectionResetError, ssl.SSLEOFError, socket.timeout):
            while data := sock.recv(65536):
                seen += data
        connection.close()
        text = seen.decode("latin-1")
        return (int(text.split(" ", 2)[1]) if text.startswith("HTTP/") else 0), text

    def logs(self, container: str, since: str) -> str:
        """What a container has said, on both streams."""
        line = ["docker", "exec", self.options.host, "docker", "logs", "--since", since, container]
        done = subprocess.run(line, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
        return done.stdout.decode(errors="replace")

    def among(self, text: str, status: int, wanted: tuple[int, ...], seen: object = "") -> None:
        self.promise(f"{text}: {'/'.join(map(str, wanted))}", status in wanted, (status, seen))


def message(model: str, text: str) -> dict[str, Any]:
    return {"model": model, "max_tokens": 4, "messages": [{"role": "user", "content": text}]}


def bodies(t: Target) -> None:
    """Too large, too deep, without a length, not what it says it is."""
    json_head = "Content-Type: application/json\r\n"
    deep = b'{"a":' * 50_000 + b"1" + b"}" * 50_000
    large = b'{"x": "' + b"a" * (6 << 20) + b'"}'
    for path in (CHAT, "/v1/tasks", FIND, "/mcp"):
        t.among(f"nested 50,000 deep, {path}", t.ask("POST", path, deep)[0], (406,) if path == "/mcp" else (400, 413))
        t.among(f"6 MiB, {path}", t.ask("POST", path, large)[0], (413,))
        chunk = b"10000\r\n" + b"a" * 65536 + b"\r\n"
        status, _seen = t.raw(f"{json_head}Transfer-Encoding: chunked\r\n", chunk * 96 + b"0\r\n\r\n", path)
        t.among(f"6 MiB in chunks without a length, {path}", status, (413,))
    small = json.dumps(message(t.options.model, "hello")).encode()
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(small), small)
    t.among("a small body in chunks", t.raw(f"{json_head}Transfer-Encoding: chunked\r\n", chunked)[0], (200,))
    for text, body in (("a list", b"[1]"), ("NaN", b'{"model": NaN}'), ("a lone surrogate", b'{"model": "\\ud800"}'),
                       ("not UTF-8", b'{"model": "\xff"}'), ("nothing", b"")):  # fmt: skip
        for path in (CHAT, FIND):
            t.among(f"{text}, {path}", t.ask("POST", path, body)[0], (400, 404))


def smuggling(t: Target) -> None:
    """Requests that two servers could read in two ways."""
    body = json.dumps(message(t.options.model, "hello")).encode()
    kind, length = "Content-Type: application/json\r\n", f"Content-Length: {len(body)}\r\n"
    hidden = b"0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
    for text, head, sent in (
        ("length and chunks", f"{kind}Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", hidden),
        ("two lengths", f"{kind}{length}Content-Length: 5\r\n", body),
        ("a length that is no number", f"{kind}Content-Length: +{len(body)}\r\n", body),
        ("an encoding nobody knows", f"{kind}Transfer-Encoding: xchunked\r\n", hidden),
        ("two encodings", f"{kind}Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", hidden),
        ("a second host", f"{kind}{length}Host: evil.example\r\n", body),
        ("a header that is folded", f"{kind}{length}X-A: b\r\n c\r\n", body),
        ("a NUL in a header", f"{kind}{length}X-A: b\x00c\r\n", body),
    ):
        status, seen = t.raw(head, sent)
        inside = seen.count("HTTP/1.1 ") > 1 or "gateway_" in seen
        if "folded" in text:  # either is safe: refused, or the line is not a header of ours
            t.among(text, status, (400, 200), seen[:300])
        else:
            t.among(text, status, (400, 501), seen[:300])
        t.promise("... and one answer at most", not inside, seen[:600])
    status, _seen = t.raw(f"{kind}{length}Authorization: Bearer {CANARY}\r\n", body)
    t.among("two credentials", status, (400, 401))
    for name in ("Mcp_Name", "X_Forwarded_For", "X_Request_Id"):
        status, seen = t.raw(f"{name}: {CANARY}\r\n", b"", "/v1/models", "GET")
        t.promise(f"{name} with an underscore is no header", status == 200 and CANARY not in seen, (status, seen))
    for value in (
        f"{CANARY} b",
        f"{CANARY}\tb",
        f'"{CANARY}"',
        f"{CANARY}%0d%0aX-Evil: 1",
        CANARY * 20,
        "\xe4" + CANARY,
    ):
        status, seen = t.raw(f"X-Request-ID: {value}\r\n", b"", "/v1/models", "GET")
        kept = status == 200 and CANARY not in seen and "x-evil" not in seen.lower()
        t.promise(f"a request id that is none is replaced ({len(value)} characters)", kept, (status, seen[:900]))


def strings(t: Target) -> None:
    """Metacharacters and control characters wherever a string is taken."""

    def servers() -> object:
        _status, _headers, body, _seconds = t.ask("GET", SERVERS)
        return [entry["id"] for entry in body.get("data", [])]

    before = servers()
    for text in (*SQL, CONTROL):
        quoted = "".join(f"%{byte:02x}" for byte in text.encode())
        name = repr(text.replace(CANARY, ""))[:24]
        for where, method, path, body in (
            ("prompt", "POST", CHAT, message(t.options.model, text)),
            ("model", "POST", CHAT, message(text, "hello")),
            ("query", "POST", FIND, {"query": text}),
            ("find server", "POST", FIND, {"query": "a", "server": text}),
            ("server id", "POST", SERVERS, {"id": text}),
            ("server name", "POST", SERVERS, {"id": "judge-a", "name": text, "enabled": False}),
            ("task type", "POST", "/v1/tasks", {"type": text}),
            ("task server", "POST", "/v1/tasks", {"type": "registry_sync", "payload": {"server": text}}),
            ("after", "GET", f"/registry/v1/tools?after={quoted}", None),
            ("server", "GET", f"/registry/v1/tools?server={quoted}", None),
            ("after", "GET", f"/v1/tasks?after={quoted}", None),
            ("search", "GET", f"/registry/v0.1/servers?search={quoted}", None),
            ("path", "GET", f"/registry/v1/tools/{quoted}/{quoted}", None),
            ("path", "GET", f"/v1/tasks/{quoted}", None),
            ("path", "GET", f"/mcp/{quoted}", None),
        ):
            status, _headers, answer, seconds = t.ask(method, path, body)
            fine = status < 500 and status != 0 and seconds < 5
            if not fine or status not in (200, 400, 404, 405):
                t.promise(f"{name} as {where}", fine, (status, answer, seconds))
            else:
                t.kept += 1
            if status == 201:
                t.ask("DELETE", f"{SERVERS}/judge-a")
    t.ask("DELETE", f"{SERVERS}/judge-a")
    t.promise("the catalogue is what it was", servers() == before, servers())


def addresses(t: Target) -> None:
    """Places inside that nobody may be sent to, by address and by name."""
    for url in ("http://127.0.0.1:8000/mcp", "https://10.0.0.1/mcp", "https://169.254.169.254/latest", "https://[::1]/mcp",
                "https://[64:ff9b::7f00:1]/mcp", "https://[::ffff:127.0.0.1]/mcp", "https://2130706433/mcp",
                "https://0x7f000001/mcp", "file:///etc/passwd", "gopher://postgres:5432/_"):  # fmt: skip
        status, _headers, body, _seconds = t.ask("POST", SERVERS, {"id": "judge-b", "url": url})
        refused = status in (400, 403)
        if status in (200, 201):  # a name to be looked up: nothing may be there when it is used
            refused = t.ask("POST", f"{SERVERS}/judge-b/sync")[2].get("result") not in (None, "ok", "changed")
            t.ask("DELETE", f"{SERVERS}/judge-b")
        t.promise(f"an MCP server at {url} is refused", refused, (status, body))
    for name in ("postgres", "gateway", "model-runner", "localhost"):
        status, _headers, body, _seconds = t.ask("POST", SERVERS, {"id": "judge-c", "url": f"https://{name}/mcp"})
        refused = status in (400, 403)
        if status in (200, 201):
            sync = t.ask("POST", f"{SERVERS}/judge-c/sync")[2]
            body = t.ask("GET", f"{SERVERS}/judge-c")[2]
            refused = body.get("status") != "ok" and not body.get("last_success")
            t.ask("DELETE", f"{SERVERS}/judge-c")
            body = {**sync, "last_error": body.get("last_error")}
        t.promise(f"a name whose address is inside ({name}) is never reached", refused, (status, body))


def credentials(t: Target) -> None:
    """Keys and tokens that are not for here."""
    token = ".".join(["eyJhbGciOiJub25lIn0", "eyJhdWQiOiJodHRwczovL290aGVyLmV4YW1wbGUifQ", CANARY])
    for text, key in (("a token of nobody", token), ("no key at all", "x"), ("a key cut short", t.key[:-1]),
                      ("a key with a canary", f"mk_dev_{CANARY}"), ("a NUL", "mk_dev_%00")):  # fmt: skip
        for path in ("/v1/models", "/registry/v1/tools"):
            status, headers, body, _seconds = t.ask("GET", path, key=key)
            told = status == 401 and "www-authenticate" in headers and CANARY not in json.dumps(body)
            t.promise(f"{text}, {path}: 401", told, (status, headers, body))
    kid = t.key.split("_")[2]
    times: dict[str, list[float]] = {"a": [], "b": []}
    for _round in range(25):  # in turns, so that both meet the same weather
        for side, key in (("a", t.unknown_key(kid)), ("b", t.unknown_key("a" * 12))):
            status, _headers, _body, seconds = Platform.ask(t, "GET", "/v1/models", key=key)
            if status == 401:
                times[side].append(seconds)
            time.sleep(0.04)  # below the edge's limit
    medians = [statistics.median(side) * 1000 for side in times.values()]
    told = f"{medians[0]:.2f} and {medians[1]:.2f} ms, {len(times['a'])} and {len(times['b'])} times"
    print(f"       a wrong secret of a key that is there and of one that is not: {told}")
    t.promise("guessing a key: how long a refusal takes tells nothing (5 ms)", abs(medians[0] - medians[1]) < 5, told)


def names(t: Target) -> None:
    """A header of MCP that says something else than the body."""
    prefix = "io.modelcontextprotocol"
    meta = {f"{prefix}/protocolVersion": "2026-07-28", f"{prefix}/clientInfo": {"name": "judge", "version": "1"}}
    meta[f"{prefix}/clientCapabilities"] = {}
    params = {"name": "call_tool", "arguments": {"name": "a__b", "arguments": {"x": CANARY}}, "_meta": meta}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()
    deep = b'{"jsonrpc":' * 40_000 + b"1" + b"}" * 40_000
    accept = "Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n"
    status, seen = t.raw(f"{accept}Content-Length: {len(deep)}\r\n", deep, "/mcp")
    t.among("nested 40,000 deep, /mcp", status, (400,), seen[-400:])
    for text, method, name in (("name", "tools/call", "find_tools"), ("method", "tools/list", "call_tool")):
        head = f"{accept}MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: {method}\r\nMcp-Name: {name}\r\n"
        status, seen = t.raw(f"{head}Content-Length: {len(body)}\r\n", body, "/mcp")
        t.promise(
            f"another {text} in the header than in the body: 400", status == 400 and "-32020" in seen, seen[-400:]
        )


def traces(t: Target, since: str) -> None:
    """What all of this left in the logs."""
    for container in t.docker("ps", "--format", "{{.Names}}").split():
        log = t.logs(container, since)
        for text, word in (("the canary", CANARY), ("a key's secret", t.key.split("_")[3]), ("a trace of a crash", "Traceback"),
                           ("an escape", "\x1b[31m")):  # fmt: skip
            if word in log:
                at = log.index(word)
                t.promise(f"{container}: no {text} in its log", False, log[max(0, at - 300) : at + 200])
            else:
                t.kept += 1


def main() -> int:
    """All attacks, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("host")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--ca", required=True)
    parser.add_argument("--model", default="mcpstack-demo")
    parser.add_argument("--first-byte", type=float, default=120)
    t = Target(parser.parse_args())
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 1))
    for attack in (bodies, smuggling, strings, addresses, credentials, names):
        attack(t)
    traces(t, since)
    print(f"{t.kept} passed, {len(t.broken)} failed")
    return 1 if t.broken else 0


if __name__ == "__main__":
    sys.exit(main())
