# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The login probe against servers that do not do as they should. A real server is asked in tests/integration/data."""

from __future__ import annotations

import datetime
import socket
import ssl
import struct
import threading

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _postgres_login as probe

x509 = pytest.importorskip("cryptography.x509", reason="makes the certificate of the scripted server")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("postgres")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    directory = tmp_path_factory.mktemp("tls")
    pem = serialization.Encoding.PEM
    (directory / "crt").write_bytes(made.public_bytes(pem))
    (directory / "key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return directory


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


def auth(method: int, rest: bytes = b"") -> bytes:
    return message(b"R", struct.pack("!I", method) + rest)


ERROR = message(b"E", b'SFATAL\0C28P01\0Mpassword authentication failed for user "a"\0\0')
READY = message(b"Z", b"I")


@pytest.fixture
def server(certificate):
    """Serve one login: a byte answering the TLS request, then scripted messages, one after each thing the client sends."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads = []

    def start(first: bytes, *replies: bytes):
        def serve():
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate / "crt", certificate / "key")
            try:
                plain, _peer = listener.accept()
                with plain:
                    plain.recv(8)
                    plain.sendall(first)
                    if first != b"S":
                        return
                    with context.wrap_socket(plain, server_side=True) as tls:
                        for reply in replies:
                            tls.recv(65536)
                            tls.sendall(reply)
            except OSError:
                pass  # the client turned away, which is what most of these tests are about

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        return listener.getsockname()[1]

    yield start
    listener.close()
    for thread in threads:
        thread.join(10)


def enter(port, certificate, **changes):
    options = {
        "user": "a",
        "password": "p",
        "database": "d",
        "ca_file": str(certificate / "crt"),
        "timeout": 5,
        **changes,
    }
    return probe.login("127.0.0.1", port=port, **options)


@pytest.mark.parametrize(
    ("replies", "said"),
    [
        ((b"N",), "the server does not speak TLS"),
        ((b"",), "the server closed the connection"),
        ((b"S", ERROR), 'password authentication failed for user "a"'),
        ((b"S", auth(0) + READY), "the server lets this login in without asking for the password"),
        ((b"S", auth(3)), "the server asks for authentication method 3 instead of SCRAM-SHA-256"),
        ((b"S", auth(5, b"salt")), "the server asks for authentication method 5 instead of SCRAM-SHA-256"),
        ((b"S", auth(10, b"OTHER\0\0")), "the server does not offer SCRAM-SHA-256"),
        ((b"S", auth(10, b"SCRAM-SHA-256\0\0"), auth(11, b"r=zzz,s=AA==,i=4096")), "the server's challenge does not belong to this login"),
        ((b"S", auth(10, b"SCRAM-SHA-256\0\0"), auth(12, b"v=AAAA")), "the server could not prove that it knows the password's verifier"),
        ((b"S", auth(10, b"SCRAM-SHA-256\0\0"), auth(0) + READY), "the server lets this login in without asking for the password"),
        ((b"S", b"HTTP/1.1 400 Bad Request\r\n\r\n"), "what answers is not a PostgreSQL server"),
        ((b"S", message(b"D", b"")), "what answers is not a PostgreSQL server"),
        ((b"S", message(b"N", b"notice\0") + ERROR), 'password authentication failed for user "a"'),
    ],
)  # fmt: skip
def test_refusals(server, certificate, replies, said):
    with pytest.raises(probe.LoginError) as refused:
        enter(server(*replies), certificate)
    assert str(refused.value) == said
    assert refused.value.sqlstate == ("28P01" if ERROR in b"".join(replies) else "")


def test_wrong_name_and_wrong_authority_are_refused(server, certificate):
    with pytest.raises(probe.LoginError, match=r"^the server's certificate is refused: Hostname mismatch"):
        enter(server(b"S"), certificate, server_name="valkey")
    with pytest.raises(probe.LoginError, match=r"^the CA certificate /nonexistent cannot be read \("):
        enter(1, certificate, ca_file="/nonexistent")


def test_nobody_listens(certificate):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(probe.LoginError, match=rf"^no connection to 127\.0\.0\.1:{port} \("):
        enter(port, certificate)
