# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read what an X.509 certificate says, with the standard library alone. PRIVATE: may change in any release.

A reader, not a verifier: no signature is checked here. Whoever needs to know whether a chain is to be trusted asks the
ssl module. The input comes from the network: every length is checked against what is there, nesting and size are
bounded, and what is not DER ends in one DerError.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import hashlib
import ipaddress
import re
from dataclasses import dataclass

#: Largest certificate that is read, in bytes, and most names or extensions in one.
LIMIT, MOST = 1 << 16, 2000

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]{1,100000})-----END CERTIFICATE-----")

SERVER_AUTH, ANY_USAGE = "1.3.6.1.5.5.7.3.1", "2.5.29.37.0"

#: Algorithm of a signature -> its name and its hash; an empty hash is built into the algorithm.
SIGNATURES = {
    "1.2.840.113549.1.1.2": ("md2WithRSA", "md2"),
    "1.2.840.113549.1.1.4": ("md5WithRSA", "md5"),
    "1.2.840.113549.1.1.5": ("sha1WithRSA", "sha1"),
    "1.3.14.3.2.29": ("sha1WithRSA", "sha1"),
    "1.2.840.113549.1.1.14": ("sha224WithRSA", "sha224"),
    "1.2.840.113549.1.1.11": ("sha256WithRSA", "sha256"),
    "1.2.840.113549.1.1.12": ("sha384WithRSA", "sha384"),
    "1.2.840.113549.1.1.13": ("sha512WithRSA", "sha512"),
    "1.2.840.10045.4.1": ("ecdsaWithSha1", "sha1"),
    "1.2.840.10045.4.3.1": ("ecdsaWithSha224", "sha224"),
    "1.2.840.10045.4.3.2": ("ecdsaWithSha256", "sha256"),
    "1.2.840.10045.4.3.3": ("ecdsaWithSha384", "sha384"),
    "1.2.840.10045.4.3.4": ("ecdsaWithSha512", "sha512"),
    "1.2.840.10040.4.3": ("dsaWithSha1", "sha1"),
    "2.16.840.1.101.3.4.3.2": ("dsaWithSha256", "sha256"),
    "1.3.101.112": ("Ed25519", ""),
    "1.3.101.113": ("Ed448", ""),
    "2.16.840.1.101.3.4.3.17": ("ML-DSA-44", ""),
    "2.16.840.1.101.3.4.3.18": ("ML-DSA-65", ""),
    "2.16.840.1.101.3.4.3.19": ("ML-DSA-87", ""),
}
_PSS = "1.2.840.113549.1.1.10"
HASHES = {
    "1.3.14.3.2.26": "sha1",
    "2.16.840.1.101.3.4.2.4": "sha224",
    "2.16.840.1.101.3.4.2.1": "sha256",
    "2.16.840.1.101.3.4.2.2": "sha384",
    "2.16.840.1.101.3.4.2.3": "sha512",
}
CURVES = {
    "1.2.840.10045.3.1.1": ("P-192", 192),
    "1.3.132.0.33": ("P-224", 224),
    "1.2.840.10045.3.1.7": ("P-256", 256),
    "1.3.132.0.34": ("P-384", 384),
    "1.3.132.0.35": ("P-521", 521),
    "1.3.132.0.10": ("secp256k1", 256),
    "1.3.36.3.3.2.8.1.1.7": ("brainpoolP256r1", 256),
    "1.3.36.3.3.2.8.1.1.11": ("brainpoolP384r1", 384),
    "1.3.36.3.3.2.8.1.1.13": ("brainpoolP512r1", 512),
}
_EDWARDS = {"1.3.101.112": ("Ed25519", 256), "1.3.101.113": ("Ed448", 456)}
_USAGES = (
    "digitalSignature", "nonRepudiation", "keyEncipherment", "dataEncipherment", "keyAgreement", "keyCertSign",
    "cRLSign", "encipherOnly", "decipherOnly",
)  # fmt: skip
_ATTRIBUTES = {
    "2.5.4.3": "CN", "2.5.4.6": "C", "2.5.4.7": "L", "2.5.4.8": "ST", "2.5.4.10": "O", "2.5.4.11": "OU",
    "0.9.2342.19200300.100.1.25": "DC", "2.5.4.5": "serialNumber",
}  # fmt: skip


class DerError(ValueError):
    """The bytes are no certificate; the text says what is wrong."""


@dataclass(frozen=True)
class Certificate:
    """What one certificate says. ``None`` stands for an extension that is not there."""

    der: bytes
    version: int
    serial: int
    subject: str
    issuer: str
    subject_raw: bytes
    issuer_raw: bytes
    not_before: datetime.datetime
    not_after: datetime.datetime
    key_type: str
    key_bits: int
    signature: str
    signature_hash: str
    dns_names: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    usages: frozenset[str] | None = None
    extended: tuple[str, ...] | None = None
    is_ca: bool | None = None
    path_length: int | None = None
    critical: frozenset[str] = frozenset()
    subject_key_id: bytes | None = None
    authority_key_id: bytes | None = None
    ocsp: tuple[str, ...] = ()
    ca_issuers: tuple[str, ...] = ()
    must_staple: bool = False

    @property
    def self_issued(self) -> bool:
        """Whether it names itself as its issuer."""
        return self.subject_raw == self.issuer_raw

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the whole certificate."""
        return hashlib.sha256(self.der).hexdigest()

    @property
    def lifetime(self) -> datetime.timedelta:
        """From the first to the last moment."""
        return self.not_after - self.not_before

    def names_issuer(self, other: Certificate) -> bool:
        """Whether this certificate says that ``other`` issued it: by name, and by key id where both carry one."""
        if self.issuer_raw != other.subject_raw:
            return False
        if self.authority_key_id and other.subject_key_id:
            return self.authority_key_id == other.subject_key_id
        return True

    def covers(self, name: str) -> bool:
        """Whether a client that asked for ``name`` accepts it (RFC 6125: no common name, a star is one whole label)."""
        try:
            return str(ipaddress.ip_address(name)) in self.addresses
        except ValueError:
            pass
        wanted = name.lower().rstrip(".")
        if wanted in self.dns_names:
            return True
        head, dot, rest = wanted.partition(".")
        return bool(head and dot and "." in rest) and f"*.{rest}" in self.dns_names


class _Node:
    """One DER element: its tag, its content, and the whole of it."""

    __slots__ = ("content", "tag", "whole")

    def __init__(self, tag: int, content: bytes, whole: bytes):
        self.tag, self.content, self.whole = tag, content, whole

    def children(self) -> list[_Node]:
        found, position = [], 0
        while position < len(self.content):
            node = _read(self.content, position)
            found.append(node)
            position += len(node.whole)
            if len(found) > MOST:
                raise DerError(f"it holds more than {MOST} elements in one place")
        return found

    def need(self, tag: int, what: str) -> _Node:
        if self.tag != tag:
            raise DerError(f"{what} is of kind 0x{self.tag:02x}, not 0x{tag:02x}")
        return self


def _read(data: bytes, start: int) -> _Node:
    if len(data) - start < 2:
        raise DerError("it ends in the middle of an element")
    tag, first = data[start], data[start + 1]
    if tag & 0x1F == 0x1F:
        raise DerError("it uses a tag that no certificate has")
    position = start + 2
    if first < 0x80:
        size = first
    else:
        count = first & 0x7F
        if not 1 <= count <= 3 or len(data) - position < count:
            raise DerError("a length in it is not DER")
        size = int.from_bytes(data[position : position + count], "big")
        position += count
        if size < 0x80 or size >> (8 * (count - 1)) == 0:
            raise DerError("a length in it is not in its shortest form")
    if size > len(data) - position:
        raise DerError("an element in it is longer than what is there")
    return _Node(tag, data[position : position + size], data[start : position + size])


def _only(data: bytes, tag: int, what: str) -> _Node:
    """The one element that the bytes are."""
    node = _read(data, 0)
    if len(node.whole) != len(data):
        raise DerError(f"{what} has bytes after its end")
    return node.need(tag, what)


def _oid(node: _Node) -> str:
    raw = node.need(0x06, "an identifier").content
    if not raw or raw[-1] & 0x80 or len(raw) > 64:
        raise DerError("an identifier in it is not DER")
    numbers, value = [], 0
    for byte in raw:
        value = value << 7 | byte & 0x7F
        if not byte & 0x80:
            numbers.append(value)
            value = 0
    first = min(numbers[0] // 40, 2)
    return ".".join(str(number) for number in (first, numbers[0] - 40 * first, *numbers[1:]))


def _integer(node: _Node) -> int:
    raw = node.need(0x02, "a number").content
    if not raw:
        raise DerError("a number in it is empty")
    return int.from_bytes(raw, "big", signed=True)


def _time(node: _Node) -> datetime.datetime:
    try:
        text = node.content.decode("ascii")
        if node.tag == 0x17 and re.fullmatch(r"[0-9]{12}Z", text):
            text = ("20" if int(text[:2]) < 50 else "19") + text
        elif node.tag != 0x18 or not re.fullmatch(r"[0-9]{14}Z", text):
            raise DerError("a date in it is not DER")
        return datetime.datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=datetime.timezone.utc)
    except DerError:
        raise
    except ValueError as error:
        raise DerError("a date in it is none") from error


def _bits(node: _Node) -> bytes:
    raw = node.need(0x03, "a bit string").content
    if not raw or raw[0] > 7 or (raw[0] and len(raw) == 1):
        raise DerError("a bit string in it is not DER")
    return raw[1:]


def _text(node: _Node) -> str:
    if node.tag == 0x1E:
        return node.content.decode("utf-16-be", "replace")
    return node.content.decode("utf-8", "replace")


def _name(node: _Node) -> str:
    parts = []
    for group in node.need(0x30, "a name").children():
        for pair in group.need(0x31, "a part of a name").children():
            fields = pair.need(0x30, "an attribute").children()
            if len(fields) != 2:
                raise DerError("an attribute of a name in it is incomplete")
            kind = _oid(fields[0])
            parts.append(f"{_ATTRIBUTES.get(kind, kind)}={_text(fields[1])}")
    return ",".join(reversed(parts))


def _key(node: _Node) -> tuple[str, int]:
    """Kind and size of the public key."""
    fields = node.need(0x30, "the public key").children()
    if len(fields) != 2:
        raise DerError("the public key is incomplete")
    algorithm = fields[0].need(0x30, "the algorithm of the key").children()
    if not algorithm:
        raise DerError("the public key is of no kind")
    kind = _oid(algorithm[0])
    if kind in ("1.2.840.113549.1.1.1", _PSS):
        numbers = _only(_bits(fields[1]), 0x30, "the RSA key").children()
        if len(numbers) != 2:
            raise DerError("the RSA key is incomplete")
        return "RSA", _integer(numbers[0]).bit_length()
    if kind == "1.2.840.10045.2.1":
        if len(algorithm) < 2 or algorithm[1].tag != 0x06:
            return "EC with parameters of its own", 0
        return CURVES.get(_oid(algorithm[1]), (f"EC {_oid(algorithm[1])}", 0))
    if kind == "1.2.840.10040.4.1":
        prime = algorithm[1].children() if len(algorithm) > 1 and algorithm[1].tag == 0x30 else []
        return "DSA", _integer(prime[0]).bit_length() if prime else 0
    return _EDWARDS.get(kind) or (SIGNATURES.get(kind, (kind, ""))[0], 0)


def _signature(node: _Node) -> tuple[str, str]:
    fields = node.need(0x30, "the algorithm of the signature").children()
    if not fields:
        raise DerError("the signature is of no kind")
    kind = _oid(fields[0])
    if kind != _PSS:
        return SIGNATURES.get(kind, (kind, "unknown"))
    chosen = "sha1"  # what RFC 4055 means when nothing is said
    for part in fields[1].children() if len(fields) > 1 and fields[1].tag == 0x30 else []:
        if part.tag == 0xA0:
            inner = _only(part.content, 0x30, "the hash").children()
            chosen = HASHES.get(_oid(inner[0]), "unknown") if inner else "unknown"
    return f"RSASSA-PSS with {chosen}", chosen


def _general_names(node: _Node, tags: tuple[int, ...]) -> list[_Node]:
    return [item for item in node.need(0x30, "a list of names").children() if item.tag in tags]


def _extension(kind: str, value: bytes, out: dict) -> None:
    """Add what one extension says to ``out``."""
    if kind == "2.5.29.17":
        items = _general_names(_only(value, 0x30, "the alternative names"), (0x82, 0x87))
        out["dns_names"] = tuple(
            item.content.decode("latin-1").lower().rstrip(".") for item in items if item.tag == 0x82
        )
        try:
            out["addresses"] = tuple(str(ipaddress.ip_address(item.content)) for item in items if item.tag == 0x87)
        except ValueError as error:
            raise DerError("an address among its names is none") from error
    elif kind == "2.5.29.15":
        raw = _bits(_only(value, 0x03, "the key usage"))
        bits = [byte >> (7 - place) & 1 for byte in raw[:2] for place in range(8)]
        out["usages"] = frozenset(name for name, bit in zip(_USAGES, bits) if bit)
    elif kind == "2.5.29.37":
        out["extended"] = tuple(_oid(item) for item in _only(value, 0x30, "the extended key usage").children())
    elif kind == "2.5.29.19":
        fields = _only(value, 0x30, "the basic constraints").children()
        out["is_ca"] = bool(fields and fields[0].tag == 0x01 and fields[0].content not in (b"", b"\0"))
        if fields and fields[-1].tag == 0x02:
            out["path_length"] = _integer(fields[-1])
    elif kind == "2.5.29.14":
        out["subject_key_id"] = _only(value, 0x04, "the key id").content
    elif kind == "2.5.29.35":
        for item in _only(value, 0x30, "the key id of the issuer").children():
            if item.tag == 0x80:
                out["authority_key_id"] = item.content
    elif kind == "1.3.6.1.5.5.7.1.1":
        for item in _only(value, 0x30, "the access information").children():
            fields = item.need(0x30, "an access description").children()
            if len(fields) == 2 and fields[1].tag == 0x86:
                how = {"1.3.6.1.5.5.7.48.1": "ocsp", "1.3.6.1.5.5.7.48.2": "ca_issuers"}.get(_oid(fields[0]))
                if how:
                    out[how] = (*out.get(how, ()), fields[1].content.decode("latin-1"))
    elif kind == "1.3.6.1.5.5.7.1.24":
        features = _only(value, 0x30, "the TLS features").children()
        out["must_staple"] = any(item.tag == 0x02 and _integer(item) == 5 for item in features)


def _extensions(node: _Node) -> dict:
    out: dict = {}
    critical, seen = set(), set()
    for item in _only(node.content, 0x30, "the extensions").children():
        fields = item.need(0x30, "an extension").children()
        if not 2 <= len(fields) <= 3:
            raise DerError("an extension in it is incomplete")
        kind = _oid(fields[0])
        if kind in seen:
            raise DerError(f"the extension {kind} is there twice")
        seen.add(kind)
        if len(fields) == 3 and fields[1].need(0x01, "a flag").content not in (b"", b"\0"):
            critical.add(kind)
        _extension(kind, fields[-1].need(0x04, "the value of an extension").content, out)
    out["critical"] = frozenset(critical)
    return out


def parse(der: bytes) -> Certificate:
    """Read one certificate in DER. Raises DerError."""
    if len(der) > LIMIT:
        raise DerError(f"it is larger than {LIMIT} bytes")
    outer = _only(der, 0x30, "the certificate").children()
    if len(outer) != 3:
        raise DerError("it does not have the three parts of a certificate")
    fields = outer[0].need(0x30, "the body of the certificate").children()
    version = 1
    if fields and fields[0].tag == 0xA0:
        version = _integer(_only(fields[0].content, 0x02, "the version")) + 1
        fields = fields[1:]
    if len(fields) < 6:
        raise DerError("the body of the certificate is incomplete")
    dates = fields[3].need(0x30, "the validity").children()
    if len(dates) != 2:
        raise DerError("the validity is incomplete")
    key_type, key_bits = _key(fields[5])
    signature, signature_hash = _signature(outer[1])
    extensions: dict = {}
    for part in fields[6:]:
        if part.tag == 0xA3:
            extensions = _extensions(part)
    return Certificate(
        der=der, version=version, serial=_integer(fields[0]), subject=_name(fields[4]), issuer=_name(fields[2]),
        subject_raw=fields[4].whole, issuer_raw=fields[2].whole, not_before=_time(dates[0]), not_after=_time(dates[1]),
        key_type=key_type, key_bits=key_bits, signature=signature, signature_hash=signature_hash, **extensions,
    )  # fmt: skip


def parse_pem(text: str) -> list[Certificate]:
    """Every certificate of a PEM text, in its order. Raises DerError."""
    found = []
    for match in _PEM.finditer(text):
        try:
            found.append(parse(base64.b64decode("".join(match[1].split()), validate=True)))
        except binascii.Error as error:
            raise DerError("a block in it is not base64") from error
    return found
