# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A client on another machine: every promise of the edge that can be seen from there. Prints each, fails with all that
are broken."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import sys

CA, KEY, MODEL, NAME = (os.environ[f"OUTSIDE_{name}"] for name in ("CA", "KEY", "MODEL", "NAME"))
HTTPS, HTTP = int(os.environ["OUTSIDE_HTTPS_PORT"]), int(os.environ["OUTSIDE_HTTP_PORT"])
CHAT = {"model": MODEL, "max_tokens": 16, "messages": [{"role": "user", "content": "hello"}]}
broken = []


def promise(text: str, kept: bool, seen: object) -> None:
    """Note one promise."""
    print(f"{'kept  ' if kept else 'BROKEN'} {text}" + ("" if kept else f" (seen: {seen})"))
    if not kept:
        broken.append(text)


class Connection(http.client.HTTPSConnection):
    """TLS to loopback under the public name, verified against the internal authority."""

    def connect(self) -> None:
        context = ssl.create_default_context(cafile=CA)
        raw = socket.create_connection(("127.0.0.1", HTTPS), timeout=30)
        self.sock = context.wrap_socket(raw, server_hostname=NAME)


def ask(
    method: str, path: str, body: object = None, key: str | None = KEY, host: str = NAME
) -> tuple[int, dict, bytes]:
    """(status, headers, body) of one request."""
    connection = Connection(NAME, HTTPS, timeout=60)
    headers = {"Host": host, "Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
    connection.request(method, path, data, headers)
    answer = connection.getresponse()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


def main() -> int:
    """All promises."""
    status, headers, body = ask("GET", "/v1/models")
    names = [entry["id"] for entry in json.loads(body)["data"]] if status == 200 else body[:200]
    promise("the models are listed for a key", status == 200 and MODEL in names, (status, names))
    promise(
        "the server's version is hidden", not any(c.isdigit() for c in headers.get("server", "")), headers.get("server")
    )
    promise("answers carry nosniff", headers.get("x-content-type-options") == "nosniff", headers)
    promise("answers carry HSTS", "strict-transport-security" in headers, headers)
    status, headers, _body = ask("GET", "/v1/models", key=None)
    promise("no key is 401", status == 401, status)
    promise("refusals carry the security headers, too", headers.get("x-content-type-options") == "nosniff", headers)
    status, _headers, _body = ask("GET", "/v1/models", key="mk_dev_aaaaaaaaaaaa_" + "b" * 43 + "_00000000")
    promise("a wrong key is 401", status == 401, status)
    status, _headers, body = ask("POST", "/v1/chat/completions", CHAT)
    promise("a chat completion is answered", status == 200 and bool(json.loads(body)["choices"]), (status, body[:300]))
    status, headers, body = ask("POST", "/v1/chat/completions", {**CHAT, "stream": True})
    streamed = status == 200 and headers.get("content-type", "").startswith("text/event-stream") and b"[DONE]" in body
    promise("a chat completion is streamed", streamed, (status, body[:300]))
    status, _headers, body = ask("POST", "/v1/embeddings", {"model": MODEL, "input": "hello"})
    promise(
        "an embedding is answered",
        status == 200 and bool(json.loads(body)["data"][0]["embedding"]),
        (status, body[:300]),
    )
    status, _headers, body = ask("POST", "/v1/chat/completions", {**CHAT, "model": "no-such-model"})
    promise("an unknown model is 404", status == 404, (status, body[:300]))
    for path in ("/v1/usage", "/v1/tasks", "/registry/v1/tools", "/registry/v1/servers"):
        status, _headers, body = ask("GET", path)
        promise(f"{path} is answered for a key", status == 200, (status, body[:300]))
        status, _headers, body = ask("GET", path, key=None)
        promise(f"{path} is 401 without one", status == 401, (status, body[:300]))
    for path in (
        "/metrics",
        "/health",
        "/ready",
        "/docs",
        "/openapi.json",
        "/registry/metrics",
        "/registry/docs",
        "/registry",
    ):
        status, _headers, body = ask("GET", path)
        promise(f"{path} is not there", status == 404, (status, body[:300]))
    status, _headers, body = ask("POST", "/v1/chat/completions", b"{broken")
    promise("bad JSON is 400", status == 400, (status, body[:300]))
    for path in ("/metrics", "/ready", "/admin", "/internal"):
        status, _headers, _body = ask("GET", path)
        promise(f"{path} is not public", status in (403, 404), status)
    try:
        status, _headers, _body = ask("GET", "/v1/models", host="other.example.net")
    except (http.client.HTTPException, OSError):
        status = 0  # the connection was closed without an answer
    promise("an unknown host name is refused", status in (0, 400, 404, 421), status)
    plain = http.client.HTTPConnection("127.0.0.1", HTTP, timeout=10)
    plain.request("GET", "/v1/models", headers={"Host": NAME})
    status = plain.getresponse().status
    promise("plain HTTP only redirects", status in (301, 308), status)
    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = version
        try:
            with context.wrap_socket(
                socket.create_connection(("127.0.0.1", HTTPS), timeout=10), server_hostname=NAME
            ) as sock:
                seen = sock.version()
        except (ssl.SSLError, OSError):
            seen = None
        promise(f"{version.name} is refused", seen is None, seen)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
