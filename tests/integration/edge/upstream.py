# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A service with behaviours on demand, chosen by ?do=: for what a healthy gateway does not do when a test asks.

Runs inside the network namespace of a container named gateway. Standard library only.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

GATE = threading.Event()
GONE = threading.Event()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_version = "secret-upstream/9.9"

    def log_message(self, *args):
        pass

    def answer(self, status, body, headers=()):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def chunk(self, text):
        data = text.encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def serve(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        do = parse_qs(url.query).get("do", ["echo"])[0]
        if do == "echo":
            self.answer(
                200,
                {
                    "raw_path": self.path,
                    "method": self.command,
                    "headers": {k.lower(): v for k, v in self.headers.items()},
                    "received": len(body),
                    "gone": GONE.is_set(),
                },
                [("X-Powered-By", "leak"), ("X-Frame-Options", "ALLOWALL"), ("Cache-Control", "public")],
            )
        elif do == "status":
            code = int(parse_qs(url.query)["code"][0])
            self.answer(code, {"error": {"code": "from_service"}}, [("Retry-After", "7")] if code in (429, 503) else ())
        elif do == "die":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.connection.close()
            self.close_connection = True
        elif do == "open-gate":
            GATE.set()
            self.answer(200, {})
        elif do in ("stream", "die-mid", "endless", "quick"):
            GATE.clear()
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.chunk('data: {"n":0}\n\n')
            if do == "stream":
                # Goes on only after the client has seen the first part: a proxy that buffers would wait for ever.
                GATE.wait(20)
            elif do == "die-mid":
                self.close_connection = True
                return
            elif do == "endless":
                GONE.clear()
                try:
                    while True:
                        self.chunk(": ping\n\n")
                        threading.Event().wait(0.02)
                except OSError:
                    GONE.set()
                self.close_connection = True
                return
            self.chunk("data: [DONE]\n\n")
            self.wfile.write(b"0\r\n\r\n")
        elif do == "silent":
            threading.Event().wait(30)
            self.close_connection = True
        else:
            self.answer(400, {"error": {"code": "unknown_behaviour"}})

    do_GET = do_POST = do_OPTIONS = do_DELETE = do_PUT = do_PATCH = serve


class OpenAI(Handler):
    """As much of the API as a probe asks for."""

    def fail(self, status, code):
        self.answer(status, {"error": {"message": code, "type": "x", "param": None, "code": code}})

    def serve(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Authorization") != "Bearer test-key":
            error = {"error": {"message": "no", "type": "x", "param": None, "code": "invalid_api_key"}}
            return self.answer(401, error, [("WWW-Authenticate", 'Bearer scope="tools:read"')])
        if self.path == "/mcp":
            return self.answer(200, {"jsonrpc": "2.0", "id": 1, "result": {"tools": [{"name": "find"}]}})
        if self.path == "/v1/models":
            return self.answer(200, {"data": [{"id": "demo"}]}, [("Server", "leak/1.0"), ("X-Powered-By", "leak/1.0")])
        try:
            asked = json.loads(body)
        except ValueError:
            return self.fail(400, "invalid_json")
        if asked["model"] != "demo":
            return self.fail(404, "model_not_found")
        if self.path == "/v1/embeddings":
            return self.answer(200, {"data": [{"embedding": [0.5, 0.25]}]})
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for word in range(8):
            threading.Event().wait(0.01)  # a token takes time
            self.chunk(f'data: {{"choices":[{{"delta":{{"content":"w{word} "}}}}]}}\n\n')
        self.chunk('data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n')
        self.wfile.write(b"0\r\n\r\n")
        return None

    do_GET = do_POST = serve


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


if __name__ == "__main__":
    server = Server(("0.0.0.0", int(sys.argv[1])), OpenAI if "openai" in sys.argv else Handler)  # noqa: S104 - only inside the container's network
    print("listening", os.getpid(), flush=True)
    server.serve_forever()
