# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Numbers and names of TLS: versions, cipher suites, groups, alerts. PRIVATE: may change in any release."""

from __future__ import annotations

#: Number on the wire -> name. SSL 2.0 has a handshake of its own.
SSL2, SSL3, TLS10, TLS11, TLS12, TLS13 = 0x0002, 0x0300, 0x0301, 0x0302, 0x0303, 0x0304
VERSIONS = {
    SSL2: "SSL 2.0", SSL3: "SSL 3.0", TLS10: "TLS 1.0", TLS11: "TLS 1.1", TLS12: "TLS 1.2", TLS13: "TLS 1.3",
}  # fmt: skip

_SIX = ("RSA", "DH_DSS", "DH_RSA", "DHE_DSS", "DHE_RSA", "DH_anon")
_ECC = ("ECDHE_ECDSA", "ECDH_ECDSA", "ECDHE_RSA", "ECDH_RSA")
_GCM = ("RSA", "DHE_RSA", "DH_RSA", "DHE_DSS", "DH_DSS", "DH_anon")
#: The registry numbers suites in runs: first number, key exchanges, and the ciphers that follow each of them.
_RUNS = (
    (0x0001, ("RSA",), ("NULL_MD5", "NULL_SHA", "EXPORT RC4_40_MD5", "RC4_128_MD5", "RC4_128_SHA", "EXPORT RC2_CBC_40_MD5", "IDEA_CBC_SHA")),
    (0x0008, _SIX[:5], ("EXPORT DES40_CBC_SHA", "DES_CBC_SHA", "3DES_EDE_CBC_SHA")),
    (0x0017, ("DH_anon",), ("EXPORT RC4_40_MD5", "RC4_128_MD5", "EXPORT DES40_CBC_SHA", "DES_CBC_SHA", "3DES_EDE_CBC_SHA")),
    (0x002F, _SIX, ("AES_128_CBC_SHA",)),
    (0x0035, _SIX, ("AES_256_CBC_SHA",)),
    (0x003B, ("RSA",), ("NULL_SHA256", "AES_128_CBC_SHA256", "AES_256_CBC_SHA256")),
    (0x003E, ("DH_DSS", "DH_RSA", "DHE_DSS"), ("AES_128_CBC_SHA256",)),
    (0x0041, _SIX, ("CAMELLIA_128_CBC_SHA",)),
    (0x0067, ("DHE_RSA",), ("AES_128_CBC_SHA256",)),
    (0x0068, ("DH_DSS", "DH_RSA", "DHE_DSS", "DHE_RSA"), ("AES_256_CBC_SHA256",)),
    (0x006C, ("DH_anon",), ("AES_128_CBC_SHA256", "AES_256_CBC_SHA256")),
    (0x0084, _SIX, ("CAMELLIA_256_CBC_SHA",)),
    (0x0096, _SIX, ("SEED_CBC_SHA",)),
    (0x009C, _GCM, ("AES_128_GCM_SHA256", "AES_256_GCM_SHA384")),
    (0x00BA, _SIX, ("CAMELLIA_128_CBC_SHA256",)),
    (0x00C0, _SIX, ("CAMELLIA_256_CBC_SHA256",)),
    (0x1301, ("",), ("AES_128_GCM_SHA256", "AES_256_GCM_SHA384", "CHACHA20_POLY1305_SHA256", "AES_128_CCM_SHA256", "AES_128_CCM_8_SHA256")),
    (0xC001, ("ECDH_ECDSA", "ECDHE_ECDSA", "ECDH_RSA", "ECDHE_RSA", "ECDH_anon"),
     ("NULL_SHA", "RC4_128_SHA", "3DES_EDE_CBC_SHA", "AES_128_CBC_SHA", "AES_256_CBC_SHA")),
    (0xC023, _ECC, ("AES_128_CBC_SHA256", "AES_256_CBC_SHA384")),
    (0xC02B, _ECC, ("AES_128_GCM_SHA256", "AES_256_GCM_SHA384")),
    (0xC03C, (*_SIX, *_ECC), ("ARIA_128_CBC_SHA256", "ARIA_256_CBC_SHA384")),
    (0xC050, (*_GCM, *_ECC), ("ARIA_128_GCM_SHA256", "ARIA_256_GCM_SHA384")),
    (0xC072, _ECC, ("CAMELLIA_128_CBC_SHA256", "CAMELLIA_256_CBC_SHA384")),
    (0xC07A, (*_GCM, *_ECC), ("CAMELLIA_128_GCM_SHA256", "CAMELLIA_256_GCM_SHA384")),
    (0xC09C, ("RSA", "DHE_RSA"), ("AES_128_CCM", "AES_256_CCM")),
    (0xC0A0, ("RSA", "DHE_RSA"), ("AES_128_CCM_8", "AES_256_CCM_8")),
    (0xC0AC, ("ECDHE_ECDSA",), ("AES_128_CCM", "AES_256_CCM", "AES_128_CCM_8", "AES_256_CCM_8")),
    (0xCCA8, ("ECDHE_RSA", "ECDHE_ECDSA", "DHE_RSA"), ("CHACHA20_POLY1305_SHA256",)),
)  # fmt: skip


def _suites() -> dict[int, str]:
    found = {}
    for number, exchanges, ciphers in _RUNS:
        for exchange in exchanges:
            for cipher in ciphers:
                export, _space, rest = cipher.rpartition(" ")
                middle = f"{exchange}_{export}_WITH_" if export else f"{exchange}_WITH_" if exchange else ""
                found[number] = f"TLS_{middle}{rest}"
                number += 1
    return found


#: Number -> name, all but those that need a shared key or password of their own (PSK, SRP, Kerberos) and GOST.
SUITES = _suites()
SUITES_13 = tuple(number for number in SUITES if 0x1301 <= number <= 0x1305)
SUITES_12 = tuple(number for number in SUITES if number not in SUITES_13)
#: Suites whose certificate is of one kind, by the kind.
BY_CERTIFICATE = {
    "ECDSA": tuple(n for n in SUITES_12 if "_ECDSA_" in SUITES[n]),
    "RSA": tuple(n for n in SUITES_12 if "_RSA_" in SUITES[n]),
}
DHE = tuple(n for n in SUITES_12 if SUITES[n].startswith("TLS_DHE_"))
ECDHE = tuple(n for n in SUITES_12 if SUITES[n].startswith("TLS_ECDHE_"))

#: Server Side TLS 5.7, profile intermediate, which holds all of modern.
MOZILLA = frozenset(
    number
    for number, name in SUITES.items()
    if number in (0x1301, 0x1302, 0x1303)
    or name.startswith(("TLS_ECDHE_ECDSA_WITH_", "TLS_ECDHE_RSA_WITH_", "TLS_DHE_RSA_WITH_"))
    and name.endswith(("_AES_128_GCM_SHA256", "_AES_256_GCM_SHA384", "_CHACHA20_POLY1305_SHA256"))
)
#: Encrypts with a tag of eight bytes only.
SHORT_TAG = 0x1305

GROUPS = {
    1: "sect163k1", 2: "sect163r1", 3: "sect163r2", 4: "sect193r1", 5: "sect193r2", 6: "sect233k1", 7: "sect233r1",
    8: "sect239k1", 9: "sect283k1", 10: "sect283r1", 11: "sect409k1", 12: "sect409r1", 13: "sect571k1",
    14: "sect571r1", 15: "secp160k1", 16: "secp160r1", 17: "secp160r2", 18: "secp192k1", 19: "secp192r1",
    20: "secp224k1", 21: "secp224r1", 22: "secp256k1", 23: "secp256r1", 24: "secp384r1", 25: "secp521r1",
    26: "brainpoolP256r1", 27: "brainpoolP384r1", 28: "brainpoolP512r1", 29: "x25519", 30: "x448",
    31: "brainpoolP256r1tls13", 32: "brainpoolP384r1tls13", 33: "brainpoolP512r1tls13",
    256: "ffdhe2048", 257: "ffdhe3072", 258: "ffdhe4096", 259: "ffdhe6144", 260: "ffdhe8192",
    512: "MLKEM512", 513: "MLKEM768", 514: "MLKEM1024",
    0x11EB: "SecP256r1MLKEM768", 0x11EC: "X25519MLKEM768", 0x11ED: "SecP384r1MLKEM1024",
    0x6399: "X25519Kyber768Draft00",
}  # fmt: skip
FINITE = frozenset(range(256, 261))
#: What every client of today has one of.
COMMON_GROUPS = frozenset((29, 23))
#: Strong. The hybrids hold a post-quantum part.
GOOD_GROUPS = frozenset((23, 24, 25, 29, 30, *FINITE, 512, 513, 514, 0x11EB, 0x11EC, 0x11ED))
HYBRID = frozenset((0x11EB, 0x11EC, 0x11ED))
#: Below 112 bits of strength, or a curve that was made for something else.
WEAK_GROUPS = frozenset((*range(1, 6), *range(15, 20), 22))

ALERTS = {
    0: "close_notify", 10: "unexpected_message", 20: "bad_record_mac", 21: "decryption_failed", 22: "record_overflow",
    40: "handshake_failure", 42: "bad_certificate", 47: "illegal_parameter", 48: "unknown_ca", 49: "access_denied",
    50: "decode_error", 51: "decrypt_error", 70: "protocol_version", 71: "insufficient_security", 80: "internal_error",
    86: "inappropriate_fallback", 90: "user_canceled", 109: "missing_extension", 110: "unsupported_extension",
    112: "unrecognized_name", 116: "certificate_required", 120: "no_application_protocol",
}  # fmt: skip
UNRECOGNIZED_NAME = 112


def suite(number: int) -> str:
    """Name of a suite, or its number."""
    return SUITES.get(number, f"0x{number:04X}")


def group(number: int) -> str:
    """Name of a group, or its number."""
    return GROUPS.get(number, f"0x{number:04X}")


def alert(number: int) -> str:
    """Name of an alert, or its number."""
    return ALERTS.get(number, f"alert {number}")
