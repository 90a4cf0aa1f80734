# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The probe against a small TLS server that is right, or wrong in one way at a time."""

from __future__ import annotations

import datetime
import json
import re
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ansible_collections.mcpstack.platform.plugins.module_utils import _endpoint_probe as core

NAME = "llm.probe.test"
KEY = "mk_dev_abcdefghijkl_" + "S" * 43 + "_00000000"
HEADERS = {
    "Strict-Transport-Security": "max-age=63072000",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=()",
    "Server": "edge",
}


def certificate(directory, label, name, days=30, ca=None, is_ca=False):
    """A certificate and its key as files; signed by ``ca`` or by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    issuer_name, issuer_key = (ca[0].subject, ca[1]) if ca else (subject, key)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=40))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    usage = dict.fromkeys(
        ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign",
         "crl_sign", "encipher_only", "decipher_only"), False)  # fmt: skip
    usage.update(key_cert_sign=True, crl_sign=True) if is_ca else usage.update(digital_signature=True)
    builder = builder.add_extension(x509.KeyUsage(**usage), critical=True)
    if not is_ca:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    made = builder.sign(issuer_key, hashes.SHA256())
    pem = directory / f"{label}.pem"
    pem.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (directory / f"{label}.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return made, key


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    directory = tmp_path_factory.mktemp("pki")
    ca = certificate(directory, "ca", "probe CA", is_ca=True)
    certificate(directory, "other-ca", "other CA", is_ca=True)
    certificate(directory, "good", NAME, ca=ca)
    certificate(directory, "expired", NAME, days=-1, ca=ca)
    certificate(directory, "ending", NAME, days=3, ca=ca)
    certificate(directory, "other-name", "other.probe.test", ca=ca)
    (directory / "key").write_text(KEY)
    return directory


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args):
        pass

    def version_string(self):
        return self.server.site.get("server", "edge")

    def answer(self, status, body, kind="application/json", extra=()):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.headers_of(status, extra)
        self.end_headers()
        self.wfile.write(data)
        self.close_connection = True

    def headers_of(self, status, extra=()):
        site = self.server.site
        self.send_header("Connection", "close")
        for name, value in HEADERS.items():
            if name != "Server" and (status, name) != site.get("without"):
                self.send_header(name, site.get(name, value))
        for name, value in extra:
            self.send_header(name, value)

    def error(self, status, code):
        body = {"error": {"message": f"{code} happened", "type": "t", "param": None, "code": code}}
        if self.server.site.get("shape") == status:
            body = {"detail": "no"}
        self.answer(status, body)

    def serve(self):
        site = self.server.site
        self.server.seen.append(dict(self.headers))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not self.server.tls:
            status, location = site.get("redirect", (308, f"https://{NAME}:{self.server.tls_port}{self.path}"))
            return self.answer(status, b"", "text/plain", [("Location", location)] if location else ())
        if not self.headers["Host"].startswith(NAME):
            return self.error(site.get("foreign_host", 421), "misdirected_request")
        if self.path in site.get("open", ()):
            return self.answer(200, {})
        if self.path == "/mcp":
            return self.mcp(site.get("mcp", "good"), body)
        if not self.path.startswith("/v1/"):
            return self.error(404, "not_found")
        key = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if key != KEY and not (site.get("keys") == "any" and key) and site.get("keys") != "none":
            return self.error(401, "invalid_api_key" if key else "missing_api_key")
        if self.path == "/v1/models":
            return self.answer(200, {"data": site.get("models", [{"id": "demo"}, {"id": "second"}])})
        try:
            asked = json.loads(body)
        except ValueError:
            return self.error(site.get("bad_json", 400), "invalid_json")
        if asked["model"] not in ("demo", "second"):
            return self.error(site.get("unknown_model", 404), "model_not_found")
        if self.path == "/v1/embeddings":
            return self.answer(200, {"data": [{"embedding": site.get("vector", [0.1, 0.2, 0.3])}]})
        return self.stream(site.get("stream", "good"), asked)

    def mcp(self, how, body):
        """A server of the stateless protocol that reads what a request must carry."""
        asked = json.loads(body)
        version = asked["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"]
        named = (self.headers["MCP-Protocol-Version"], self.headers["Mcp-Method"])
        if how == "open":
            return self.answer(200, {"result": {"tools": [{"name": "find"}]}})
        if how == "down":
            return self.error(503, "service_unavailable")
        if self.headers.get("Authorization") != f"Bearer {KEY}":
            challenge = [] if how == "no-challenge" else [("WWW-Authenticate", 'Bearer scope="tools:read"')]
            return self.answer(401, {"error": {"message": "m", "type": "t", "code": "c"}}, extra=challenge)
        assert named == (version, asked["method"]) == ("2026-07-28", "tools/list")
        tools = {"empty": [], "odd": ["x", {"name": 1}]}.get(how, [{"name": "find"}, {"name": "call"}])
        reply = {"jsonrpc": "2.0", "id": asked["id"], "result": {"tools": tools}}
        if how == "error":
            reply = {"jsonrpc": "2.0", "id": 1, "error": {"code": -32600, "message": "no"}}
        if how == "events":
            text = f": hello\n\nevent: message\ndata: {json.dumps(reply)}\n\n"
            return self.answer(200, text.encode(), "text/event-stream; charset=utf-8")
        return self.answer(200, reply)

    def stream(self, how, asked):
        if how == "error":
            return self.answer(503, {"error": {"message": f"runner down, key {KEY}", "code": "x"}})
        if how == "json":
            return self.answer(200, {"choices": []})
        count = {"short": 1, "empty": 0}.get(how, min(asked["max_tokens"], 6))
        events = [{"choices": [{"delta": {"content": f"w{n} "}, "finish_reason": None}]} for n in range(count)]
        if how == "mid-error":
            events.append({"error": {"message": "runner died"}})
        if how != "no-finish":
            events.append({"choices": [{"delta": {}, "finish_reason": "stop"}]})
        lines = [f"data: {json.dumps(event)}\n\n".encode() for event in events]
        if how == "echo-key":
            lines[0] = f"data: {json.dumps({'choices': [{'delta': {'content': KEY}}]})}\n\n".encode()
        if how == "not-json":
            lines[1] = b"data: {oops\n\n"
        if how != "truncated":
            lines.append(b"data: [DONE]\n\n")
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.headers_of(200)
        self.end_headers()
        self.server.streams += 1
        late = (how == "late-reader" and asked["max_tokens"] < 20) or (how == "late-four" and self.server.streams < 5)
        if how == "buffered" or late:
            time.sleep(0.05)
            lines = [b"".join(lines)]
        for line in lines:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            self.wfile.flush()
            if len(lines) > 1:
                time.sleep(0.004)  # what a model takes for a token
        if how != "cut":
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True

    do_GET = do_POST = serve


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, site, context=None, tls_port=0):
        super().__init__(("127.0.0.1", 0), Handler)
        self.site, self.context, self.tls, self.seen, self.streams = site, context, context is not None, [], 0
        self.tls_port = tls_port or self.server_address[1]
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def finish_request(self, request, client_address):
        if self.context is None:
            return super().finish_request(request, client_address)
        try:
            request.settimeout(10)
            wrapped = self.context.wrap_socket(request, server_side=True)
        except (OSError, ssl.SSLError):
            return None
        with wrapped:
            try:
                Handler(wrapped, client_address, self)
            except OSError:
                return None
        return None

    def handle_error(self, request, client_address):
        pass


@pytest.fixture
def serve(pki):
    """serve(**wrongs) -> a Probe of a server that is right but for these."""
    running = []

    def make(
        leaf="good",
        ca="ca",
        sni="refuse",
        http_port=None,
        name=NAME,
        model=None,
        timeout=5,
        on_text=None,
        expect=None,
        **site,
    ):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pki / f"{leaf}.pem")

        def choose(_sock, asked, _context):
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME if asked != name and sni == "refuse" else None

        context.sni_callback = choose
        server = Server(site, context)
        plain = Server(site, None, server.tls_port)
        running.extend([server, plain])
        expected = {
            "http_port": plain.server_address[1] if http_port is None else http_port,
            "max_tokens": 6,
            **(expect or {}),
        }
        probe = core.Probe(
            f"https://{name}:{server.tls_port}/v1", KEY, f"127.0.0.1:{server.tls_port}", None, str(pki / f"{ca}.crt"), model,
            expected, timeout, on_text,
        )  # fmt: skip
        probe.server = server
        probe.pauses = []
        probe.sleep = probe.pauses.append
        return probe

    yield make
    for server in running:
        server.shutdown()
        server.server_close()


def results(outcome):
    return {step["step"]: step["result"] for step in outcome["steps"]}


def step(outcome, name):
    return next(item for item in outcome["steps"] if item["step"] == name)


def test_everything_right(serve):
    pieces = []
    probe = serve(on_text=pieces.append)
    outcome = probe.run()
    assert core.failures(outcome["steps"]) == []
    assert outcome["passed"] is True
    assert [item["step"] for item in outcome["steps"]] == list(core.STEPS)
    figures = outcome["figures"]
    assert figures["text"] == "".join(pieces) == "w0 w1 w2 w3 w4 w5 "
    assert (figures["tokens"], figures["finish_reason"], figures["model"], figures["embedding_size"]) == (
        6,
        "stop",
        "demo",
        3,
    )
    assert 0 < figures["ttft_ms"] < figures["total_ms"]
    assert figures["tokens_per_s"] > 0
    assert figures["tls_version"] == "TLSv1.3"
    assert 29 < figures["certificate_days_left"] <= 30


def test_what_is_not_expected_is_left_out(serve):
    outcome = serve(http_port=0, expect={"embeddings": False, "private_paths": [], "mcp": ""}).run()
    assert outcome["passed"] is True
    assert {"redirect", "embeddings", "private_paths", "mcp_no_key", "mcp_tools"} & set(results(outcome)) == set()


WRONG = [
    ({"leaf": "expired"}, "tls", "fail", "the certificate has expired"),
    ({"leaf": "ending", "expect": {"days_left": 10}}, "tls", "fail", r"the certificate ends on \d{4}-\d\d-\d\d, in 3\.0 days"),
    ({"leaf": "other-name"}, "tls", "fail", f"the certificate is not for {NAME}"),
    ({"ca": "other-ca"}, "tls", "fail", r"the certificate is not trusted by .*other-ca\.crt: .*"),
    ({"sni": "accept"}, "unknown_name", "pass", "a request for an unknown name is refused with 421"),
    ({"sni": "accept", "foreign_host": 200}, "unknown_name", "fail", "a connection for a name that is not ours is answered with 200"),
    ({"foreign_host": 404}, "unknown_host", "fail", "a request with a foreign Host header is answered with 404, not 421"),
    ({"redirect": (200, "")}, "redirect", "fail", r"plain HTTP is answered with 200 , not with a redirect to https://.*"),
    ({"redirect": (308, "https://evil.test/")}, "redirect", "fail", r"plain HTTP is answered with 308 https://evil.test/, not .*"),
    ({"http_port": 1}, "redirect", "fail", "plain HTTP does not answer: Connection refused"),
    ({"keys": "none"}, "no_key", "fail", "a request without a key is answered with 200, not 401"),
    ({"keys": "any"}, "wrong_key", "fail", "a request with a key nobody was given is answered with 200, not 401"),
    ({"shape": 401}, "no_key", "fail", "a request without a key is answered with 401, but not in the form OpenAI clients read"),
    ({"models": []}, "models", "fail", "the list of models is answered with 200 and 0 models"),
    ({"model": "absent"}, "models", "fail", "there is no model absent; there are demo, second"),
    ({"stream": "buffered"}, "chat_stream", "fail", r"6 parts arrive all at once after \d+ ms"),
    ({"stream": "truncated"}, "chat_stream", "fail", r"the stream breaks off before \[DONE\]"),
    ({"stream": "cut"}, "chat_stream", "pass", r"6 parts one by one, .*"),
    ({"stream": "short"}, "chat_stream", "unknown", "the answer has 1 parts, too few to tell whether they come one by one"),
    ({"stream": "empty"}, "chat_stream", "fail", "the stream holds no text"),
    ({"stream": "no-finish"}, "chat_stream", "fail", "the stream ends without a finish reason"),
    ({"stream": "mid-error"}, "chat_stream", "fail", r"the stream holds an error: .*runner died.*"),
    ({"stream": "not-json"}, "chat_stream", "fail", "an event of the stream is not JSON"),
    ({"stream": "json"}, "chat_stream", "fail", "the stream has the type 'application/json'"),
    ({"stream": "error"}, "chat_stream", "fail", r"the completion is answered with 503: runner down, key \*\*\*"),
    ({"vector": [0, 0]}, "embeddings", "fail", "embeddings of demo are answered with 200 and no vector"),
    ({"unknown_model": 500}, "unknown_model", "fail", "an unknown model is answered with 500, not 404"),
    ({"bad_json": 503}, "bad_json", "fail", "broken JSON is answered with 503 invalid_json: invalid_json happened"),
    ({"bad_json": 500}, "bad_json", "fail", "broken JSON is answered with 500, not 400"),
    ({"mcp": "open"}, "mcp_no_key", "fail", "an MCP request without a key is answered with 200"),
    ({"mcp": "no-challenge"}, "mcp_no_key", "fail", "an MCP request without a key is answered with 401"),
    ({"mcp": "down"}, "mcp_no_key", "fail", r".*503 service_unavailable: service_unavailable happened"),
    ({"mcp": "down"}, "mcp_tools", "fail", r".*503 service_unavailable: service_unavailable happened"),
    ({"mcp": "events"}, "mcp_tools", "pass", "2 tools, among them find"),
    ({"mcp": "empty"}, "mcp_tools", "fail", "the list of MCP tools is answered with 200 and 0 tools"),
    ({"mcp": "odd"}, "mcp_tools", "fail", "the list of MCP tools is answered with 200 and 0 tools"),
    ({"mcp": "error"}, "mcp_tools", "fail", "the list of MCP tools is answered with 200 and 0 tools"),
    ({"expect": {"mcp": "/nothing"}}, "mcp_tools", "fail", "the list of MCP tools is answered with 404 and 0 tools"),
    ({"open": ["/metrics"]}, "private_paths", "fail", r"reachable from outside: /metrics \(200\)"),
    ({"without": (401, "X-Frame-Options")}, "security_headers", "fail", "x-frame-options is missing on 401"),
    ({"Content-Security-Policy": "script-src 'unsafe-inline'; frame-ancestors 'none'"}, "security_headers", "fail",
     r"content-security-policy on 200 is .*"),
    ({"server": "nginx/1.26.3"}, "version_hidden", "fail", r"versions are told: server: nginx/1\.26\.3"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "name", "result", "what"), WRONG, ids=[f"{n}-{w[1]}" for n, w in enumerate(WRONG)])
def test_one_thing_wrong(serve, wrong, name, result, what):
    outcome = serve(**wrong).run()
    found = step(outcome, name)
    assert found["result"] == result
    assert re.fullmatch(what, found["what"]), found["what"]
    assert outcome["passed"] is (result == "pass")
    assert bool(found["fix"]) is (result != "pass")
    assert KEY not in json.dumps(outcome)


@pytest.mark.parametrize(("how", "pauses"), [("late-reader", [0, 0.25]), ("late-four", [0, 0.25, 0.5, 1, 2])])
def test_an_answer_that_came_before_anyone_looked_is_no_proof_of_buffering(serve, how, pauses):
    probe = serve(stream=how)
    assert step(probe.run(), "chat_stream")["result"] == "pass"
    assert probe.pauses == pauses


def test_buffering_is_said_after_six_answers_over_eight_seconds(serve):
    probe = serve(stream="buffered")
    assert step(probe.run(), "chat_stream")["result"] == "fail"
    assert probe.server.streams == 6
    assert sum(probe.pauses) == 7.75


def test_all_problems_are_named_at_once(serve):
    outcome = serve(keys="none", bad_json=500, server="x/1", http_port=1).run()
    assert [name for name, result in results(outcome).items() if result != "pass"] == [
        "redirect", "no_key", "wrong_key", "bad_json", "security_headers", "version_hidden",
    ]  # fmt: skip
    assert step(outcome, "security_headers")["result"] == "unknown"


def test_nothing_there_is_one_fail_and_the_rest_unknown(pki):
    probe = core.Probe(f"https://{NAME}/v1", KEY, "127.0.0.1:1", None, str(pki / "ca.crt"))
    outcome = probe.run()
    assert outcome["passed"] is False
    assert step(outcome, "tcp") == {
        "step": "tcp", "result": "fail", "where": f"127.0.0.1:1 ({NAME})", "what": "the connection is refused",
        "fix": "check that the edge is running and publishes this port",
    }  # fmt: skip
    assert set(results(outcome).values()) == {"fail", "unknown"}
    assert step(outcome, "models")["what"] == "was not tried, because tcp did not pass"


def test_key_that_a_server_echoes_is_removed(serve):
    outcome = serve(stream="echo-key").run()
    assert KEY not in json.dumps(outcome)
    assert outcome["figures"]["text"].startswith("***")


def test_wrong_key_has_the_right_form_and_is_never_the_key(serve):
    probe = serve()
    probe.run(("tcp", "tls", "wrong_key"))
    sent = probe.server.seen[-1]["Authorization"].removeprefix("Bearer ")
    assert re.fullmatch(r"mk_dev_[a-z2-7]{12}_[0-9A-Za-z]{43}_[0-9a-f]{8}", sent)
    assert sent != KEY
    assert core.wrong_key("mk_prod_abcdefghijkl_" + "a" * 43 + "_0123abcd").startswith("mk_prod_")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"url": "http://x/v1"}, "url 'http://x/v1' is not an HTTPS base URL. Write it like https://llm.example.org/v1."),
        ({"url": "https://x:99999/v1"}, "url 'https://x:99999/v1' is not an HTTPS base URL. Write it like https://llm.example.org/v1."),
        ({"connect_to": "a b"}, "connect_to 'a b' is not an address. Write host:port, for example 127.0.0.1:443."),
        ({"connect_to": "a:0"}, "connect_to 'a:0' is not an address. Write host:port, for example 127.0.0.1:443."),
        ({"ca_file": "/absent"}, "The CA file /absent cannot be used: No such file or directory. Give the PEM file that clients use."),
        ({"expect": {"nonsense": 1}}, f"expect has unknown keys: nonsense. Use some of {', '.join(core.EXPECT)}."),
    ],
)  # fmt: skip
def test_what_cannot_be_probed(arguments, message):
    with pytest.raises(core.ProbeError) as caught:
        core.Probe(**{"url": "https://x/v1", "api_key": KEY, **arguments})
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "does not hold one key"),
        (b"two words", "does not hold one key"),
        (b"a\r\nHost: evil", "does not hold one key"),
        (b"\xff\xfe", "cannot be read: not text"),
    ],
)
def test_bad_key_files(tmp_path, content, message):
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(core.ProbeError, match=message) as caught:
        core.read_key(str(path))
    assert "evil" not in str(caught.value)


def test_key_file_may_end_with_a_newline(tmp_path):
    path = tmp_path / "key"
    path.write_text(f"{KEY}\n")
    assert core.read_key(str(path)) == KEY


def test_address_forms():
    assert core._address("[2001:db8::1]:8443", 443) == ("2001:db8::1", 8443)
    assert core._address("192.0.2.1", 443) == ("192.0.2.1", 443)


class TestCommandLine:
    def argv(self, probe, pki, *more):
        port = probe.server.tls_port
        return ["--url", f"https://{NAME}:{port}/v1", "--connect-to", f"127.0.0.1:{port}", "--ca-file", str(pki / "ca.crt"),
                "--api-key-file", str(pki / "key"), "--max-tokens", "6", "--http-port", str(probe.expect["http_port"]), *more]  # fmt: skip

    def test_live(self, serve, pki, capsys):
        assert core.main(self.argv(serve(), pki, "--live")) == 0
        out = capsys.readouterr().out
        assert out.startswith("w0 w1 w2 w3 w4 w5 \n\nfirst token after ")
        assert "tokens per second, TLSv1.3" in out

    def test_report(self, serve, pki, capsys):
        assert core.main(self.argv(serve(bad_json=500), pki)) == 1
        captured = capsys.readouterr()
        assert "pass    chat_stream       6 parts one by one" in captured.out
        assert "bad_json (fail): " in captured.err
        assert KEY not in captured.out + captured.err

    def test_json(self, serve, pki, capsys):
        assert core.main(self.argv(serve(), pki, "--json")) == 0
        assert json.loads(capsys.readouterr().out)["passed"] is True

    def test_cannot_start(self, serve, pki, capsys):
        assert core.main([*self.argv(serve(), pki), "--api-key-file", "/absent"]) == 2
        assert "cannot be read" in capsys.readouterr().err
