# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The journey of a user from outside: connect, be refused without a key, list models, stream a completion, list tools.

Each step ends as pass, fail or unknown, and carries where, what and fix. A step that could not be decided because an
earlier one failed is unknown, never pass. All steps run, so one call names everything that is wrong. The key is read
from a file, sent, and removed from every text that comes back.

Also a command line door, to watch a completion arrive::

    python3 _endpoint_probe.py --url https://llm.example.org/v1 --ca-file ca.crt --api-key-file key --live
"""

from __future__ import annotations

import argparse
import datetime
import http.client
import io
import json
import re
import secrets
import socket
import ssl
import string
import sys
import time
import zlib
from urllib.parse import urlsplit

PASS, FAIL, UNKNOWN = "pass", "fail", "unknown"
MAX_ANSWER = 4 * 1024 * 1024

STEPS = (
    "tcp",
    "tls",
    "unknown_name",
    "unknown_host",
    "redirect",
    "no_key",
    "wrong_key",
    "models",
    "chat_stream",
    "embeddings",
    "unknown_model",
    "bad_json",
    "mcp_no_key",
    "mcp_tools",
    "private_paths",
    "security_headers",
    "version_hidden",
)
EXPECT = {
    "days_left": 1,
    "http_port": 80,
    "embeddings": True,
    "embedding_model": None,
    "mcp": "/mcp",
    "private_paths": ["/metrics", "/ready", "/health", "/docs", "/registry/metrics"],
    "prompt": "Tell me a short story.",
    "max_tokens": 48,
}
#: The protocol of MCP that is stateless: one request, one answer, no session.
MCP_VERSION = "2026-07-28"
MCP_META = "io.modelcontextprotocol/"
SECURITY_HEADERS = {
    "strict-transport-security": r"max-age=[1-9][0-9]*",
    "x-content-type-options": r"nosniff\Z",
    "x-frame-options": r"(DENY|SAMEORIGIN)\Z",
    "content-security-policy": r"(?!.*unsafe-).*frame-ancestors ",
    "referrer-policy": r"\S",
    "permissions-policy": r"\S",
}


class ProbeError(Exception):
    """What was asked cannot be probed at all: a wrong URL, a missing key or CA file."""


class StepFailed(Exception):
    """A step is decided: fail."""

    def __init__(self, what, fix, where=None):
        self.what, self.fix, self.where = what, fix, where
        super().__init__(what)


class _AllAtOnce(Exception):
    """Every part of a stream was there when it was looked at; arguments as of StepFailed."""


class StepUnknown(StepFailed):
    """A step could not be decided."""


class _Timed(io.RawIOBase):
    """The socket as a file that counts its reads and notes when the last one returned."""

    def __init__(self, sock):
        super().__init__()
        self.sock, self.reads, self.last = sock, 0, 0.0

    def readable(self):
        return True

    def readinto(self, buffer):
        try:
            count = self.sock.recv_into(buffer)
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            count = 0
        self.reads += 1
        self.last = time.monotonic()
        return count


class _Wire:
    """What http.client needs of a socket, with timed reads."""

    def __init__(self, sock):
        self.sock = sock
        self.timed = _Timed(sock)

    def makefile(self, *args, **kwargs):
        return io.BufferedReader(self.timed, 65536)

    def sendall(self, data):
        self.sock.sendall(data)

    def close(self):
        """Left to whoever opened the socket: http.client closes before the body is read when the server says close."""


class Answer:
    """A finished answer."""

    def __init__(self, status, headers, body):
        self.status, self.body = status, body
        self.headers = {name.lower(): value for name, value in headers}

    def json(self):
        try:
            return json.loads(self.body)
        except ValueError:
            return None


def read_key(path):
    """The key in a file; never part of a message."""
    try:
        with open(path, encoding="utf-8") as handle:
            key = handle.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise ProbeError(f"The API key file {path} cannot be read: {reason}. Give the file the deploy wrote.") from None
    if not key or re.search(r"[\s\x00-\x1f\x7f]", key) or not key.isascii():
        raise ProbeError(f"The API key file {path} does not hold one key. It must be one line of printable characters.")
    return key


def wrong_key(key):
    """A key of the right form, checksum included, that nobody was given."""
    match = re.fullmatch(r"mk_([a-z]+)_[a-z2-7]{12}_[0-9A-Za-z]{43}_[0-9a-f]{8}", key)
    environment = match.group(1) if match else "dev"
    kid = "".join(secrets.choice(string.ascii_lowercase + "234567") for _index in range(12))
    secret = "".join(secrets.choice(string.ascii_letters + string.digits) for _index in range(43))
    head = f"mk_{environment}_{kid}_{secret}"
    return f"{head}_{zlib.crc32(head.encode()):08x}"


def _address(text, default_port):
    """host:port, [v6]:port or host."""
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]\s/]+)(?::([0-9]{1,5}))?", text or "")
    port = int(match.group(2)) if match and match.group(2) else default_port
    if not match or not 1 <= port <= 65535:
        raise ProbeError(f"connect_to {text!r} is not an address. Write host:port, for example 127.0.0.1:443.")
    return match.group(1).strip("[]"), port


# Seconds before a streamed answer is asked for, and how many times the tokens. Many hosts that are deployed at once keep a
# small machine busy for seconds: the pauses reach past that, and only an answer that came all at once needs the next one.
STREAM_TRIES = ((0, 1), (0.25, 4), (0.5, 16), (1, 16), (2, 16), (4, 16))


class Probe:
    """One endpoint and what is known about it."""

    sleep = staticmethod(time.sleep)

    def __init__(
        self,
        url,
        api_key,
        connect_to=None,
        server_name=None,
        ca_file=None,
        model=None,
        expect=None,
        timeout=30.0,
        on_text=None,
        on_step=None,
    ):
        parts = urlsplit(url)
        try:
            port = parts.port or 443
        except ValueError:
            port = 0
        if parts.scheme != "https" or not parts.hostname or not port or parts.query or parts.username:
            raise ProbeError(f"url {url!r} is not an HTTPS base URL. Write it like https://llm.example.org/v1.")
        unknown = sorted(set(expect or {}) - set(EXPECT))
        if unknown:
            raise ProbeError(f"expect has unknown keys: {', '.join(unknown)}. Use some of {', '.join(EXPECT)}.")
        self.expect = {**EXPECT, **(expect or {})}
        self.base = parts.path.rstrip("/")
        self.name = server_name or parts.hostname
        self.port = port
        self.host_header = self.name if port == 443 else f"{self.name}:{port}"
        self.address = _address(connect_to, port) if connect_to else (parts.hostname, port)
        self.where = f"{self.address[0]}:{self.address[1]} ({self.name})"
        self.key, self.model, self.timeout = api_key, model, timeout
        self.on_text = on_text or (lambda text: None)
        self.on_step = on_step or (lambda step: None)
        self.context = ssl.create_default_context()
        if ca_file:
            try:
                self.context = ssl.create_default_context(cafile=ca_file)
            except (OSError, ssl.SSLError) as error:
                raise ProbeError(
                    f"The CA file {ca_file} cannot be used: {error.strerror or error}. Give the PEM file that clients use."
                ) from None
        self.ca_text = ca_file or "the system's CA store"
        self.steps, self.figures, self.samples = [], {}, {}

    # Talking

    def _clean(self, text):
        text = str(text)
        if self.key:
            text = text.replace(self.key, "***")
        text = "".join(ch if ch.isprintable() else " " for ch in text)
        return text if len(text) <= 300 else text[:300] + "…"

    def _tcp(self, port=None):
        return socket.create_connection((self.address[0], port or self.address[1]), min(self.timeout, 10))

    def _tls(self, name=None, context=None):
        raw = self._tcp()
        try:
            wrapped = (context or self.context).wrap_socket(raw, server_hostname=name or self.name)
            wrapped.settimeout(self.timeout)
            return wrapped
        except BaseException:
            raw.close()
            raise

    def _send(self, sock, method, path, body=None, key=None, host=None, more=None):
        wire = _Wire(sock)
        connection = http.client.HTTPConnection(self.address[0], self.address[1])
        connection.auto_open = 0
        connection.sock = wire
        headers = {
            "Host": host or self.host_header,
            "Connection": "close",
            "Accept": "*/*",
            "User-Agent": "mcpstack-probe",
            **(more or {}),
        }
        if key:
            headers["Authorization"] = f"Bearer {key}"
        if body is not None:
            headers["Content-Type"] = "application/json"
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, body=body, headers=headers)
        started = time.monotonic()
        return connection.getresponse(), wire.timed, started

    def _request(self, method, path, body=None, key=None, host=None, api=True, more=None):
        path = (self.base if api else "") + path
        with self._tls() as sock:
            response, _timed, _started = self._send(sock, method, path, body, key, host, more)
            with response:
                return Answer(response.status, response.getheaders(), response.read(MAX_ANSWER))

    # Steps

    def _step(self, name, work, needs=()):
        step = {"step": name, "result": PASS, "where": self.where, "what": "", "fix": ""}
        failed = [n for n in needs if any(s["step"] == n and s["result"] != PASS for s in self.steps)]
        try:
            if failed:
                raise StepUnknown(f"was not tried, because {failed[0]} did not pass", f"mend {failed[0]} first")
            step["what"] = self._clean(work() or "")
        except StepFailed as error:
            step["result"] = UNKNOWN if isinstance(error, StepUnknown) else FAIL
            step["what"], step["fix"] = self._clean(error.what), self._clean(error.fix)
            step["where"] = error.where or self.where
        except (OSError, http.client.HTTPException) as error:
            step["result"] = FAIL
            step["what"] = self._clean(f"the connection broke: {error or type(error).__name__}")
            step["fix"] = "look at the edge's log for this time; it says whether the edge or a service broke off"
        self.steps.append(step)
        self.on_step(step)
        return step["result"] == PASS

    def _check_tcp(self):
        started = time.monotonic()
        try:
            self._tcp().close()
        except socket.gaierror:
            raise StepFailed(
                f"the name {self.address[0]} has no address", "set the DNS record, or give connect_to"
            ) from None
        except ConnectionRefusedError:
            raise StepFailed(
                "the connection is refused", "check that the edge is running and publishes this port"
            ) from None
        except OSError as error:
            raise StepFailed(
                f"no connection: {error.strerror or error}", "check address, route and firewall of the host"
            ) from None
        self.figures["connect_ms"] = round((time.monotonic() - started) * 1000, 1)
        return f"connected in {self.figures['connect_ms']} ms"

    def _check_tls(self):
        started = time.monotonic()
        try:
            with self._tls() as sock:
                took = round((time.monotonic() - started) * 1000, 1)
                version, cipher, peer = sock.version(), sock.cipher()[0], sock.getpeercert()
        except ssl.SSLCertVerificationError as error:
            self._explain(error)
        except ssl.SSLError as error:
            raise StepFailed(
                f"the handshake fails: {error.reason or error}",
                f"check that {self.name} is one of the edge's server names and that its certificate is in place",
            ) from None
        if version not in ("TLSv1.2", "TLSv1.3"):
            raise StepFailed(f"{version} was agreed on", "set the edge's TLS profile to intermediate or modern")
        ends = datetime.datetime.fromtimestamp(ssl.cert_time_to_seconds(peer["notAfter"]), datetime.timezone.utc)
        left = (ends - datetime.datetime.now(datetime.timezone.utc)).total_seconds() / 86400
        self.figures.update(
            tls_version=version, tls_cipher=cipher, certificate_days_left=round(left, 1), handshake_ms=took
        )
        if left < self.expect["days_left"]:
            raise StepFailed(
                f"the certificate ends on {ends:%Y-%m-%d}, in {left:.1f} days",
                "run the deploy again, it renews certificates; if it does not, look at the pki role's source",
            )
        return f"{version}, verified by {self.ca_text} for {self.name}, {left:.0f} days left"

    def _explain(self, error):
        said = (error.verify_message or str(error)).lower()
        if "hostname mismatch" in said or "ip address mismatch" in said:
            raise StepFailed(
                f"the certificate is not for {self.name}", "add the name to the server names and deploy again"
            ) from None
        if "expired" in said:
            raise StepFailed("the certificate has expired", "run the deploy again, it renews certificates") from None
        if "not yet valid" in said:
            raise StepFailed(
                "the certificate is not valid yet", "correct the clock of this machine or of the host"
            ) from None
        raise StepFailed(
            f"the certificate is not trusted by {self.ca_text}: {said}",
            "give the CA file the deploy wrote, or use a certificate of a public CA",
        ) from None

    def _check_unknown_name(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        try:
            with self._tls("unknown-name.invalid", context) as sock:
                response, _timed, _started = self._send(sock, "GET", "/", host="unknown-name.invalid")
                status = response.status
        except (ssl.SSLError, ConnectionError, http.client.HTTPException):
            return "a TLS connection for an unknown name is refused"
        if status == 421:
            return "a request for an unknown name is refused with 421"
        raise StepFailed(
            f"a connection for a name that is not ours is answered with {status}",
            "give the TLS port a default server that rejects the handshake",
        )

    def _check_unknown_host(self):
        try:
            answer = self._request("GET", "/models", host="unknown-name.invalid")
        except (ssl.SSLError, ConnectionError, http.client.HTTPException):
            return "a foreign Host header is refused by closing"
        if answer.status != 421:
            raise StepFailed(
                f"a request with a foreign Host header is answered with {answer.status}, not 421",
                "give the TLS port a default server that answers 421",
            )
        return "a foreign Host header is refused with 421"

    def _check_redirect(self):
        port = self.expect["http_port"]
        where = f"{self.address[0]}:{port}"
        try:
            with self._tcp(port) as sock:
                response, _timed, _started = self._send(sock, "GET", f"{self.base}/models", host=self.name)
                status, location = response.status, response.getheader("Location") or ""
        except OSError as error:
            raise StepFailed(
                f"plain HTTP does not answer: {error.strerror or error}",
                "check that the edge publishes this port, or set expect.http_port to 0",
                where,
            ) from None
        target = urlsplit(location)
        if (
            status not in (301, 308)
            or target.scheme != "https"
            or target.hostname != self.name
            or (target.port or 443) != self.port
        ):
            raise StepFailed(
                f"plain HTTP is answered with {status} {location}, not with a redirect to https://{self.host_header}",
                "let the HTTP server of the edge only redirect",
                where,
            )
        return f"{status} to {location}"

    def _not_served(self, answer, what):
        """What a gateway that is down or ill looks like; a different cause than a gateway that answers wrongly."""
        if answer.status not in (502, 503, 504):
            return
        body = answer.json()
        error = body.get("error") if isinstance(body, dict) else None
        said = f" {error.get('code')}: {error.get('message')}" if isinstance(error, dict) else ""
        raise StepFailed(
            f"{what} is answered with {answer.status}{said}",
            "check that the gateway and what it needs are running and healthy; its log names the reason",
        )

    def _openai_error(self, answer, status, what, fix):
        self.samples.setdefault(answer.status, answer)
        self._not_served(answer, what)
        if answer.status != status:
            raise StepFailed(f"{what} is answered with {answer.status}, not {status}", fix)
        body = answer.json()
        error = body.get("error") if isinstance(body, dict) else None
        if not isinstance(error, dict) or not isinstance(error.get("message"), str) or not error.get("code"):
            raise StepFailed(
                f"{what} is answered with {status}, but not in the form OpenAI clients read",
                "answer with a JSON object error that has message, type and code",
            )
        return f"{status} {error['code']}"

    def _check_no_key(self):
        answer = self._request("GET", "/models")
        return self._openai_error(
            answer, 401, "a request without a key", "let the gateway demand a key on every path of /v1"
        )

    def _check_wrong_key(self):
        answer = self._request("GET", "/models", key=wrong_key(self.key))
        return self._openai_error(
            answer, 401, "a request with a key nobody was given", "let the gateway look up every key"
        )

    def _check_models(self):
        answer = self._request("GET", "/models", key=self.key)
        self.samples.setdefault(answer.status, answer)
        self._not_served(answer, "the list of models")
        if answer.status == 401:
            raise StepFailed("the key is refused", "give the key file of this deploy, or make a new key")
        body = answer.json()
        data = body.get("data") if isinstance(body, dict) else None
        names = [item["id"] for item in data or [] if isinstance(item, dict) and isinstance(item.get("id"), str)]
        if answer.status != 200 or not names:
            raise StepFailed(
                f"the list of models is answered with {answer.status} and {len(names)} models",
                "check that the model runner is healthy; the gateway's log names the reason",
            )
        if self.model and self.model not in names:
            raise StepFailed(
                f"there is no model {self.model}; there are {', '.join(names)}", "use one of these, or deploy the model"
            )
        self.model = self.model or names[0]
        self.figures["model"] = self.model
        return f"{len(names)} models, {self.model} is used"

    def _check_chat_stream(self):
        """A fast model on a busy host can finish before this process runs again; who buffers does so every time.

        Longer answers, and several with growing pauses between them, tell the two apart.
        """
        verdict = None
        for pause, factor in STREAM_TRIES:
            self.sleep(pause)
            try:
                return self._stream_once(self.expect["max_tokens"] * factor)
            except _AllAtOnce as found:
                verdict = found
        raise StepFailed(*verdict.args)

    def _stream_once(self, max_tokens):
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": self.expect["prompt"]}],
            "max_tokens": max_tokens,
            "stream": True,
        }
        with self._tls() as sock:
            response, timed, sent = self._send(sock, "POST", f"{self.base}/chat/completions", body, self.key)
            with response:
                if response.status != 200:
                    said = Answer(response.status, (), response.read(MAX_ANSWER)).json()
                    message = (
                        said["error"].get("message")
                        if isinstance(said, dict) and isinstance(said.get("error"), dict)
                        else ""
                    )
                    raise StepFailed(
                        f"the completion is answered with {response.status}: {message}",
                        "check that the model runner is healthy; the gateway's log names the reason",
                    )
                kind = response.getheader("Content-Type") or ""
                if not kind.startswith("text/event-stream"):
                    raise StepFailed(
                        f"the stream has the type {kind!r}", "answer with text/event-stream when stream is true"
                    )
                self.samples.setdefault(200, Answer(200, response.getheaders(), b""))
                return self._read_stream(response, timed, sent)

    def _read_stream(self, response, timed, sent):
        text, finish, done, arrivals, size = [], None, False, [], 0
        broken = (
            "the stream breaks off before [DONE]",
            "look at the gateway's and the model runner's log for this time",
        )
        while not done:
            try:
                line = response.readline(MAX_ANSWER)
            except (http.client.HTTPException, OSError):
                raise StepFailed(*broken) from None
            if not line:
                break
            size += len(line)
            if size > MAX_ANSWER:
                raise StepFailed("the stream does not end within 4 MiB", "let the gateway honour max_tokens")
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                done = True
                continue
            try:
                event = json.loads(data)
            except ValueError:
                raise StepFailed("an event of the stream is not JSON", "let the gateway pass events on whole") from None
            if not isinstance(event, dict) or event.get("error"):
                raise StepFailed(f"the stream holds an error: {event}", "look at the gateway's log for this time")
            for choice in event.get("choices") or ():
                piece = (choice.get("delta") or {}).get("content")
                finish = choice.get("finish_reason") or finish
                if piece:
                    arrivals.append((timed.reads, timed.last))
                    text.append(piece)
                    self.on_text(self._show(piece))
        if not done:
            raise StepFailed(*broken)
        if not arrivals:
            raise StepFailed("the stream holds no text", "try another prompt or a larger max_tokens")
        total, first, last = timed.last - sent, arrivals[0][1], arrivals[-1][1]
        self.figures.update(
            ttft_ms=round((first - sent) * 1000, 1),
            total_ms=round(total * 1000, 1),
            tokens=len(arrivals),
            tokens_per_s=round((len(arrivals) - 1) / (last - first), 1) if last > first else None,
            text=self._show("".join(text)),
            finish_reason=finish,
        )
        if not finish:
            raise StepFailed("the stream ends without a finish reason", "let the gateway pass the last event on")
        if len(arrivals) < 3:
            raise StepUnknown(
                f"the answer has {len(arrivals)} parts, too few to tell whether they come one by one",
                "ask for more tokens",
            )
        if len({reads for reads, _when in arrivals}) < 3 or last - first < max(0.002, 0.05 * total):
            raise _AllAtOnce(
                f"{len(arrivals)} parts arrive all at once after {total * 1000:.0f} ms",
                "switch buffering off on the streaming route of the edge and of whatever stands in front of it",
            )
        return (
            f"{len(arrivals)} parts one by one, the first after {self.figures['ttft_ms']} ms, "
            f"{self.figures['tokens_per_s']} per second, {finish}"
        )

    def _show(self, text):
        """Text of the model for a terminal: without the key, without control characters."""
        if self.key:
            text = text.replace(self.key, "***")
        return "".join(ch if ch.isprintable() or ch in "\n\t" else "\ufffd" for ch in text)

    def _check_embeddings(self):
        model = self.expect["embedding_model"] or self.model
        answer = self._request("POST", "/embeddings", {"model": model, "input": "one sentence"}, self.key)
        body = answer.json()
        try:
            vector = body["data"][0]["embedding"]
            good = (
                answer.status == 200
                and len(vector) > 1
                and all(isinstance(x, (int, float)) for x in vector)
                and any(vector)
            )
        except (TypeError, KeyError, IndexError):
            vector, good = [], False
        if not good:
            raise StepFailed(
                f"embeddings of {model} are answered with {answer.status} and no vector",
                "deploy a model that makes embeddings, or set expect.embeddings to false",
            )
        self.figures["embedding_size"] = len(vector)
        return f"{len(vector)} numbers"

    def _check_unknown_model(self):
        body = {"model": "no-such-model-for-probe", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
        answer = self._request("POST", "/chat/completions", body, self.key)
        return self._openai_error(answer, 404, "an unknown model", "let the gateway check the model's name")

    def _check_bad_json(self):
        answer = self._request("POST", "/chat/completions", b'{"model": ', self.key)
        return self._openai_error(answer, 400, "broken JSON", "let the gateway check the body before it is passed on")

    def _ask_mcp(self, method, key=None):
        meta = {
            MCP_META + "protocolVersion": MCP_VERSION,
            MCP_META + "clientInfo": {"name": "mcpstack-probe", "version": "1"},
            MCP_META + "clientCapabilities": {},
        }
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"_meta": meta}}
        headers = {
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": MCP_VERSION,
            "Mcp-Method": method,
        }
        return self._request("POST", self.expect["mcp"], body, key, api=False, more=headers)

    def _check_mcp_no_key(self):
        answer = self._ask_mcp("tools/list")
        self._not_served(answer, "an MCP request without a key")
        challenge = answer.headers.get("www-authenticate", "")
        if answer.status != 401 or not challenge.lower().startswith("bearer"):
            raise StepFailed(
                f"an MCP request without a key is answered with {answer.status} {challenge}".rstrip(),
                "let the registry demand a key or token, and say so with 401 and WWW-Authenticate: Bearer",
            )
        return "401 with a challenge"

    def _check_mcp_tools(self):
        answer = self._ask_mcp("tools/list", self.key)
        self._not_served(answer, "the list of MCP tools")
        kind = answer.headers.get("content-type", "").partition(";")[0].strip()
        said = answer.json() if kind != "text/event-stream" else _last_event(answer.body)
        result = said.get("result") if isinstance(said, dict) else None
        tools = result.get("tools") if isinstance(result, dict) else None
        names = [item["name"] for item in tools or [] if isinstance(item, dict) and isinstance(item.get("name"), str)]
        if answer.status != 200 or not names:
            raise StepFailed(
                f"the list of MCP tools is answered with {answer.status} and {len(names)} tools",
                "see that the key has the scope tools:read, and what the registry's log says",
            )
        self.figures["mcp_tools"] = len(names)
        return f"{len(names)} tools, among them {names[0]}"

    def _check_private_paths(self):
        open_paths = []
        for path in self.expect["private_paths"]:
            answer = self._request("GET", path, key=self.key, api=False)
            self.samples.setdefault(answer.status, answer)
            if answer.status != 404:
                open_paths.append(f"{path} ({answer.status})")
        if open_paths:
            raise StepFailed(
                f"reachable from outside: {', '.join(open_paths)}", "remove these paths from the edge's routes"
            )
        return f"hidden: {', '.join(self.expect['private_paths'])}"

    def _check_security_headers(self):
        wanted = [status for status in (200, 401, 404) if status in self.samples]
        problems = []
        for status in wanted:
            for name, pattern in SECURITY_HEADERS.items():
                value = self.samples[status].headers.get(name)
                if value is None:
                    problems.append(f"{name} is missing on {status}")
                elif not re.match(pattern, value):
                    problems.append(f"{name} on {status} is {value!r}")
        if problems:
            raise StepFailed(
                "; ".join(problems), "set the headers at one level of the edge's configuration, with always"
            )
        if len(wanted) < 3:
            missing = ", ".join(str(status) for status in (200, 401, 404) if status not in self.samples)
            raise StepUnknown(f"there was no answer with {missing} to look at", "mend the steps before this one")
        return "complete on 200, 401 and 404"

    def _check_version_hidden(self):
        leaks = set()
        for answer in self.samples.values():
            for name in ("server", "x-powered-by", "x-aspnet-version", "via"):
                value = answer.headers.get(name, "")
                if name == "x-powered-by" and value or re.search(r"[0-9]", value):
                    leaks.add(f"{name}: {value}")
        if leaks:
            raise StepFailed(
                f"versions are told: {', '.join(sorted(leaks))}", "set server_tokens off and hide the header"
            )
        if not self.samples:
            raise StepUnknown("there was no answer to look at", "mend the steps before this one")
        return "no version in any answer"

    def run(self, only=STEPS):
        """All steps in order; what is not expected is left out."""
        needs = {
            "tcp": (),
            "redirect": ("tcp",),
            "tls": ("tcp",),
            "unknown_name": ("tcp",),
            "chat_stream": ("tcp", "tls", "models"),
            "embeddings": ("tcp", "tls", "models"),
        }
        for name in STEPS:
            if name not in only:
                continue
            if name == "redirect" and not self.expect["http_port"]:
                continue
            if name == "embeddings" and not self.expect["embeddings"]:
                continue
            if name.startswith("mcp_") and not self.expect["mcp"]:
                continue
            if name == "private_paths" and not self.expect["private_paths"]:
                continue
            self._step(name, getattr(self, f"_check_{name}"), needs.get(name, ("tcp", "tls")))
        return {
            "passed": all(step["result"] == PASS for step in self.steps),
            "steps": self.steps,
            "figures": self.figures,
        }


def _last_event(body):
    """What the last event of a stream of server-sent events holds as JSON."""
    last = None
    for line in body.decode(errors="replace").splitlines():
        if line.startswith("data:"):
            try:
                last = json.loads(line[5:])
            except ValueError:
                last = None
    return last


def failures(steps):
    """Everything that did not pass, one line each: where, what, fix."""
    return [
        f"{step['step']} ({step['result']}): {step['where']}: {step['what']}. Fix: {step['fix']}."
        for step in steps
        if step["result"] != PASS
    ]


def say(text, stream=None):
    """One line for the terminal, at once."""
    stream = stream or sys.stdout
    stream.write(f"{text}\n")
    stream.flush()


def main(argv=None):
    """Command line door. Ends with 0 when everything passed, 1 when not, 2 when it could not start."""
    parser = argparse.ArgumentParser(description="Walk a user's way through an OpenAI-compatible endpoint.")
    parser.add_argument("--url", required=True, help="base URL, for example https://llm.example.org/v1")
    parser.add_argument("--connect-to", help="host:port to connect to instead of the URL's")
    parser.add_argument("--server-name", help="name to ask for instead of the URL's")
    parser.add_argument("--ca-file", help="CA certificates to verify with instead of the system's")
    parser.add_argument("--api-key-file", required=True)
    parser.add_argument("--model", help="default: the first one listed")
    parser.add_argument("--prompt", default=EXPECT["prompt"])
    parser.add_argument("--max-tokens", type=int, default=EXPECT["max_tokens"])
    parser.add_argument("--http-port", type=int, default=EXPECT["http_port"], help="0: plain HTTP is not published")
    parser.add_argument("--no-embeddings", action="store_true")
    parser.add_argument("--no-mcp", action="store_true")
    parser.add_argument("--timeout", type=float, default=60.0)
    parser.add_argument("--live", action="store_true", help="show only the completion, as it arrives")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    args = parser.parse_args(argv)

    def show(text):
        sys.stdout.write(text)
        sys.stdout.flush()

    def tell(step):
        if not args.live:
            say(f"{step['result']:8}{step['step']:18}{step['what']}")

    expect = {
        "prompt": args.prompt,
        "max_tokens": args.max_tokens,
        "http_port": args.http_port,
        "embeddings": not args.no_embeddings,
        "mcp": "" if args.no_mcp else EXPECT["mcp"],
    }
    try:
        probe = Probe(
            args.url,
            read_key(args.api_key_file),
            args.connect_to,
            args.server_name,
            args.ca_file,
            args.model,
            expect,
            args.timeout,
            on_text=show if args.live else None,
            on_step=None if args.json else tell,
        )
    except ProbeError as error:
        say(str(error), sys.stderr)
        return 2
    result = probe.run(("tcp", "tls", "models", "chat_stream") if args.live else STEPS)
    if args.json:
        say(json.dumps(result, indent=2))
    elif args.live and "ttft_ms" in result["figures"]:
        figures = result["figures"]
        say(
            f"\n\nfirst token after {figures['ttft_ms']} ms, {figures['tokens_per_s']} tokens per second, {figures['tls_version']}"
        )
    for line in failures(result["steps"]):
        say(line, sys.stderr)
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
