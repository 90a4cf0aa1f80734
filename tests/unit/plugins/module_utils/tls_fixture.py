# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates and servers on loopback for the tests of the live audits."""

from __future__ import annotations

import base64
import contextlib
import datetime
import functools
import ipaddress
import shutil
import socket
import ssl
import subprocess
import threading

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

DAY = datetime.timedelta(days=1)
NOW = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
OPENSSL = shutil.which("openssl")
STRONG = "ECDHE+AESGCM:ECDHE+CHACHA20"
#: What s_server is given when a test does not say otherwise.
GOOD = {"-cipher": STRONG, "-curves": "X25519:P-256:P-384", "-no_ticket": None}
#: Prime of RFC 7296, group 2.
PRIME_1024 = bytes.fromhex(
    "ffffffffffffffffc90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74020bbea63b139b22514a08798e3404ddef9519b3cd3a431b"
    "302b0a6df25f14374fe1356d6d51c245e485b576625e7ec6f44c42e9a637ed6b0bff5cb6f406b7edee386bfb5a899fa5ae9f24117c4b1fe6"
    "49286651ece65381ffffffffffffffff"
)


@functools.cache
def key(kind: str, number: int = 0):
    """A private key, made once for each kind and number."""
    if kind.startswith("rsa"):
        return rsa.generate_private_key(65537, int(kind[3:]))
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key({"p256": ec.SECP256R1, "p384": ec.SECP384R1, "p521": ec.SECP521R1}[kind]())


class Made:
    """A certificate with its key."""

    def __init__(self, certificate, private):
        self.certificate, self.key = certificate, private

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


def make(
    common="leaf", names=("localhost",), issuer=None, *, kind="p256", number=0, ca=False, life=60, age=1,
    extended=(ExtendedKeyUsageOID.SERVER_AUTH,), usage=("digital_signature",), algorithm="SHA256", constraints=True,
    constraints_critical=True, usage_critical=True, key_ids=True, ca_issuers="", staple=False, extra=(),
) -> Made:  # fmt: skip
    """A certificate that is right unless told otherwise. ``life`` and ``age`` are days."""
    private = key(kind, number)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
    signer = issuer.key if issuer else private
    builder = x509.CertificateBuilder(
        subject_name=subject, issuer_name=issuer.certificate.subject if issuer else subject,
        public_key=private.public_key(), serial_number=x509.random_serial_number(),
        not_valid_before=NOW - age * DAY, not_valid_after=NOW - age * DAY + life * DAY,
    )  # fmt: skip

    def add(value, critical=False):
        nonlocal builder
        builder = builder.add_extension(value, critical)

    if names:
        add(x509.SubjectAlternativeName([_general(name) for name in names]))
    if constraints:
        add(x509.BasicConstraints(ca, None), constraints_critical)
    if usage is not None:
        every = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
                 "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")  # fmt: skip
        add(x509.KeyUsage(**{name: name in usage for name in every}), usage_critical)
    if extended is not None:
        add(x509.ExtendedKeyUsage(extended))
    if key_ids:
        add(x509.SubjectKeyIdentifier.from_public_key(private.public_key()))
        if issuer:
            add(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()))
    if ca_issuers:
        access = x509.AccessDescription(
            AuthorityInformationAccessOID.CA_ISSUERS, x509.UniformResourceIdentifier(ca_issuers)
        )
        add(x509.AuthorityInformationAccess([access]))
    if staple:
        add(x509.TLSFeature([x509.TLSFeatureType.status_request]))
    for value in extra:
        add(value)
    digest = None if kind == "ed25519" and not issuer else getattr(hashes, algorithm)()
    if issuer and isinstance(issuer.key, ed25519.Ed25519PrivateKey):
        digest = None
    return Made(builder.sign(signer, digest), private)


def _general(name):
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def authority(common="root", issuer=None, number=1, **changes) -> Made:
    """A certificate of an authority."""
    wanted = {"names": (), "ca": True, "extended": None, "usage": ("key_cert_sign", "crl_sign"), "life": 3650}
    return make(common, issuer=issuer, number=number, **{**wanted, **changes})


@contextlib.contextmanager
def s_server(directory, chain, options=(), private=None):
    """openssl s_server with a chain; yields its port. ``options``: changes to GOOD, None for no value."""
    (directory / "leaf.pem").write_bytes(chain[0].pem)
    (directory / "key.pem").write_bytes((private or chain[0]).key_pem)
    (directory / "chain.pem").write_bytes(b"".join(made.pem for made in chain[1:]))
    argv = [
        OPENSSL,
        "s_server",
        "-accept",
        "127.0.0.1:0",
        "-cert",
        directory / "leaf.pem",
        "-key",
        directory / "key.pem",
    ]
    if chain[1:]:
        argv += ["-cert_chain", directory / "chain.pem"]
    settings = {**GOOD, **dict(options)}
    if "-early_data" not in settings:
        argv.append("-www")
    for name, value in settings.items():
        if value is not False:
            argv += [name] if value is None else [name, value]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    try:
        for line in process.stdout:
            if line.startswith("ACCEPT"):
                yield int(line.rpartition(":")[2])
                break
        else:
            raise AssertionError(process.stderr.read())
    finally:
        process.kill()
        process.communicate()


def dh_parameters() -> bytes:
    """Diffie-Hellman parameters of 1024 bits, in PEM."""
    prime = b"\0" + PRIME_1024
    inner = b"\x02\x81" + bytes((len(prime),)) + prime + b"\x02\x01\x02"
    der = b"\x30\x81" + bytes((len(inner),)) + inner
    return b"-----BEGIN DH PARAMETERS-----\n" + base64.encodebytes(der) + b"-----END DH PARAMETERS-----\n"


class Server:
    """A threaded server on loopback: each connection is handed to ``handle(socket)``. Used as a context manager."""

    def __init__(self, handle, context=None, family=socket.AF_INET, path=None):
        self._handle, self._context = handle, context
        self._socket = socket.socket(family)
        self._socket.bind(path or ("127.0.0.1", 0))
        self._socket.listen(64)
        self.port = 0 if path else self._socket.getsockname()[1]
        self._open, self._threads = set(), []
        self._main = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self):
        self._main.start()
        return self

    def __exit__(self, *_exc):
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for sock in list(self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in [self._main, *self._threads]:
            thread.join(5)

    def _accept(self):
        while True:
            try:
                sock = self._socket.accept()[0]
            except OSError:
                return
            sock.settimeout(5)
            self._open.add(sock)
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock):
        used = sock
        try:
            if self._context:
                used = self._context.wrap_socket(sock, server_side=True)
            self._handle(used)
        except (OSError, ValueError):
            pass  # the client went away, which is what many tests do
        finally:
            self._open.discard(sock)
            used.close()


def server_context(directory, chain) -> ssl.SSLContext:
    """A strong server with a chain."""
    path = directory / "served.pem"
    path.write_bytes(chain[0].key_pem + b"".join(made.pem for made in chain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    context.set_ciphers(STRONG)
    context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    context.options |= ssl.OP_NO_TICKET
    return context


def read_request(sock) -> tuple[str, str, str]:
    """Method, path and host of one HTTP request."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(4096)
        if not more:
            break
        data += more
    lines = data.decode("latin-1").split("\r\n")
    method, path, *_rest = [*lines[0].split(" "), "", ""]
    host = next((line.partition(":")[2].strip() for line in lines if line.lower().startswith("host:")), "")
    return method, path, host


def reply(sock, status: int, headers=(), body: bytes = b"x") -> None:
    """One HTTP answer."""
    lines = [f"HTTP/1.1 {status} Any", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers]
    sock.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
