# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Look at certificates and keys: say what is wrong with them before anybody serves them.

PRIVATE: internal to the collection, may change in any release.

Nothing is made or signed here. The parsing is done by the Python library cryptography, which community.crypto needs on
the host anyway; where it is missing, ``available()`` is false and nothing else may be called.
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import re
from dataclasses import dataclass

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
    from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

    HAVE_CRYPTOGRAPHY = True
except ImportError:
    HAVE_CRYPTOGRAPHY = False

PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
DAY = 86400


class CertError(Exception):
    """The text says what is wrong with the bytes that were given."""


def available() -> bool:
    """Whether the library is there."""
    return HAVE_CRYPTOGRAPHY


@dataclass
class Pair:
    """A certificate with its chain, and its key."""

    chain: list
    key: object

    @property
    def leaf(self):
        """The certificate of the service itself."""
        return self.chain[0]


def load_chain(data: bytes) -> list:
    """The certificates of a PEM file, in their order."""
    blocks = PEM.findall(data)
    if not blocks:
        raise CertError("there is no certificate in PEM form in it")
    try:
        return [x509.load_pem_x509_certificate(block) for block in blocks]
    except ValueError:
        raise CertError("a certificate in it is damaged") from None


def load_key(data: bytes):
    """An unencrypted private key in PEM form."""
    try:
        return serialization.load_pem_private_key(data, password=None)
    except TypeError:
        raise CertError("the key is protected with a passphrase; a service that starts alone cannot type it") from None
    except Exception:  # the library raises many kinds, and their texts may quote what was read
        raise CertError("there is no private key in PEM form in it") from None


def _spki(key) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def belongs(certificate, key) -> bool:
    """Whether a private key belongs to a certificate."""
    return _spki(certificate.public_key()) == _spki(key.public_key())


def is_p256(key) -> bool:
    """Whether a key is of the kind that leaves are made with."""
    return isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1)


def issued_by(certificate, issuer) -> bool:
    """Whether the issuer's name and signature are on a certificate."""
    if certificate.issuer != issuer.subject:
        return False
    key = issuer.public_key()
    signed = (certificate.signature, certificate.tbs_certificate_bytes)
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(*signed, padding.PKCS1v15(), certificate.signature_hash_algorithm)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(*signed, ec.ECDSA(certificate.signature_hash_algorithm))
        elif isinstance(key, (ed25519.Ed25519PublicKey, ed448.Ed448PublicKey)):
            key.verify(*signed)
        else:
            return False
    except InvalidSignature:
        return False
    return True


def not_before(certificate) -> datetime.datetime:
    """From when it is valid, in UTC."""
    if hasattr(certificate, "not_valid_before_utc"):
        return certificate.not_valid_before_utc
    return certificate.not_valid_before.replace(tzinfo=datetime.timezone.utc)


def not_after(certificate) -> datetime.datetime:
    """Until when it is valid, in UTC."""
    if hasattr(certificate, "not_valid_after_utc"):
        return certificate.not_valid_after_utc
    return certificate.not_valid_after.replace(tzinfo=datetime.timezone.utc)


def fingerprint(certificate) -> str:
    """The SHA-256 of a certificate, as openssl x509 -fingerprint shows it, without colons."""
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()


def _extension(certificate, oid):
    try:
        return certificate.extensions.get_extension_for_oid(oid)
    except x509.ExtensionNotFound:
        return None


def names_of(certificate) -> set[str]:
    """Every DNS name and address that a certificate is for."""
    found = _extension(certificate, ExtensionOID.SUBJECT_ALTERNATIVE_NAME)
    if found is None:
        return set()
    names = {name.lower() for name in found.value.get_values_for_type(x509.DNSName)}
    return names | {str(address) for address in found.value.get_values_for_type(x509.IPAddress)}


def is_address(name: str) -> bool:
    """Whether a name is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def normal(name: str) -> str:
    """A name as it is compared."""
    return str(ipaddress.ip_address(name)) if is_address(name) else name.lower()


def covers(names: set[str], wanted: str) -> bool:
    """Whether one of the names of a certificate stands for the wanted one; a star stands for one label."""
    wanted = normal(wanted)
    if wanted in names:
        return True
    return not is_address(wanted) and "." in wanted and f"*.{wanted.split('.', 1)[1]}" in names


def check_dates(certificate, now: datetime.datetime, what: str) -> list[str]:
    """Not valid yet, or not any more."""
    if not_before(certificate) > now:
        return [f"{what} is not valid before {not_before(certificate):%Y-%m-%d %H:%M} UTC (is the clock right?)"]
    if not_after(certificate) <= now:
        return [f"{what} expired on {not_after(certificate):%Y-%m-%d %H:%M} UTC"]
    return []


def check_given(pair: Pair, names: list[str], now: datetime.datetime) -> list[str]:
    """What is wrong with a certificate that came from outside."""
    found = []
    if not belongs(pair.leaf, pair.key):
        if any(belongs(other, pair.key) for other in pair.chain[1:]):
            found.append("the chain is in the wrong order: the certificate of the service must come first")
        else:
            found.append("the key does not belong to the first certificate of the chain")
    for number, (lower, upper) in enumerate(zip(pair.chain, pair.chain[1:]), 1):
        if not issued_by(lower, upper):
            found.append(
                f"the chain is broken: certificate {number + 1} ({upper.subject.rfc4514_string()}) "
                f"did not issue certificate {number} ({lower.subject.rfc4514_string()})"
            )
    constraints = _extension(pair.leaf, ExtensionOID.BASIC_CONSTRAINTS)
    if constraints is not None and constraints.value.ca:
        found.append("the first certificate is one of an authority, not of a service")
    usage = _extension(pair.leaf, ExtensionOID.EXTENDED_KEY_USAGE)
    if usage is not None and ExtendedKeyUsageOID.SERVER_AUTH not in usage.value:
        found.append("the certificate is not meant for a server (extended key usage)")
    have = names_of(pair.leaf)
    missing = [name for name in names if not covers(have, name)]
    if missing:
        found.append(
            f"the certificate is not for {', '.join(missing)}, only for {', '.join(sorted(have)) or 'no name'}"
        )
    for number, certificate in enumerate(pair.chain, 1):
        found += check_dates(certificate, now, f"certificate {number} of the chain")
    return found


def check_internal(
    pair: Pair, authority, names: list[str], client: bool, now: datetime.datetime, days: int
) -> list[str]:
    """Why a leaf of the internal authority must be issued again; nothing means that it is as it should be."""
    leaf, found = pair.leaf, []
    if not belongs(leaf, pair.key):
        found.append("its key does not belong to it")
    if not issued_by(leaf, authority):
        found.append("it was not issued by the internal authority")
    if names_of(leaf) != {normal(name) for name in names}:
        found.append("its names changed")
    subject = [attribute.value for attribute in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if subject != [common_name(names)]:
        found.append("its subject changed")
    usage = _extension(leaf, ExtensionOID.EXTENDED_KEY_USAGE)
    wanted = {ExtendedKeyUsageOID.SERVER_AUTH} | ({ExtendedKeyUsageOID.CLIENT_AUTH} if client else set())
    if usage is None or set(usage.value) != wanted:
        found.append("its extended key usage changed")
    late = check_dates(leaf, now, "it")
    left = (not_after(leaf) - now).total_seconds()
    if late:
        found += late
    elif left <= days * DAY:
        found.append(f"it has {left / DAY:.1f} days left")
    return found


def common_name(names: list[str]) -> str:
    """The subject of a leaf: its first name, as far as the field holds it."""
    return names[0][:64]


def check_authority(certificate, key, now: datetime.datetime) -> list[str]:
    """What is wrong with the internal authority."""
    found = []
    if not belongs(certificate, key):
        found.append("the key does not belong to the certificate")
    constraints = _extension(certificate, ExtensionOID.BASIC_CONSTRAINTS)
    if constraints is None or not constraints.value.ca:
        found.append("the certificate is not one of an authority")
    return found + check_dates(certificate, now, "the certificate")


def due_at_third(certificate, now: datetime.datetime) -> bool:
    """Whether less than a third of the lifetime is left, the point at which ACME certificates are renewed."""
    lifetime = not_after(certificate) - not_before(certificate)
    return not_after(certificate) - now < lifetime / 3
