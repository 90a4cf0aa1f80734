# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The suites that a cipher list of OpenSSL means, without asking the OpenSSL of this machine.

PSK and SRP are left out: a web server has no key for them.

PRIVATE: internal to the collection, may change in any release. Standard library only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache


@dataclass(frozen=True)
class Suite:
    """One suite of TLS 1.2 and before, with what OpenSSL's words select it by."""

    name: str
    exchange: str
    auth: str
    cipher: str
    bits: int
    mac: str
    version: str

    @property
    def ephemeral(self) -> bool:
        return self.exchange in ("ECDHE", "DHE")

    @property
    def aead(self) -> bool:
        return self.mac == "AEAD"

    @cached_property
    def weakness(self) -> str:
        """Why it is not of the Mozilla intermediate profile; empty when it is."""
        if self.auth == "NULL":
            return "no authentication"
        if self.cipher == "NULL":
            return "no encryption"
        if self.cipher in ("RC4", "DES", "3DES", "IDEA", "SEED", "RC2") or self.bits < 128:
            return f"{self.cipher} is broken"
        if not self.ephemeral:
            return "no forward secrecy"
        if not self.aead:
            return "CBC with a separate MAC"
        if self.cipher not in ("AESGCM", "CHACHA20") or self.auth not in ("RSA", "ECDSA"):
            return "outside the Mozilla profile"
        return ""


def _table() -> tuple[Suite, ...]:
    out: list[Suite] = []

    def add(name: str, exchange: str, auth: str, cipher: str, bits: int, mac: str, version: str) -> None:
        out.append(Suite(name, exchange, auth, cipher, bits, mac, version))

    pairs = (
        ("ECDHE-ECDSA-", "ECDHE", "ECDSA"),
        ("ECDHE-RSA-", "ECDHE", "RSA"),
        ("DHE-RSA-", "DHE", "RSA"),
        ("DHE-DSS-", "DHE", "DSS"),
    )
    anonymous = (("ADH-", "DHE", "NULL"), ("AECDH-", "ECDHE", "NULL"))
    for prefix, exchange, auth in (*pairs, ("", "RSA", "RSA"), ("ADH-", "DHE", "NULL")):
        add(f"{prefix}AES256-GCM-SHA384", exchange, auth, "AESGCM", 256, "AEAD", "TLSv1.2")
        add(f"{prefix}AES128-GCM-SHA256", exchange, auth, "AESGCM", 128, "AEAD", "TLSv1.2")
    for prefix, exchange, auth in pairs[:3]:
        add(f"{prefix}CHACHA20-POLY1305", exchange, auth, "CHACHA20", 256, "AEAD", "TLSv1.2")
    for prefix, exchange, auth in (pairs[0], pairs[2], ("", "RSA", "RSA")):
        for bits in (256, 128):
            add(f"{prefix}AES{bits}-CCM8", exchange, auth, "AESCCM8", bits, "AEAD", "TLSv1.2")
            add(f"{prefix}AES{bits}-CCM", exchange, auth, "AESCCM", bits, "AEAD", "TLSv1.2")
    for prefix, exchange, auth in (
        ("ECDHE-ECDSA-", "ECDHE", "ECDSA"),
        ("ECDHE-", "ECDHE", "RSA"),
        ("DHE-RSA-", "DHE", "RSA"),
        ("DHE-DSS-", "DHE", "DSS"),
        ("", "RSA", "RSA"),
    ):
        add(
            f"{prefix}ARIA256-GCM-SHA384" if prefix != "ECDHE-" else "ECDHE-ARIA256-GCM-SHA384",
            exchange,
            auth,
            "ARIAGCM",
            256,
            "AEAD",
            "TLSv1.2",
        )
        add(
            f"{prefix}ARIA128-GCM-SHA256" if prefix != "ECDHE-" else "ECDHE-ARIA128-GCM-SHA256",
            exchange,
            auth,
            "ARIAGCM",
            128,
            "AEAD",
            "TLSv1.2",
        )
    for prefix, exchange, auth in pairs[:2]:
        add(f"{prefix}AES256-SHA384", exchange, auth, "AES", 256, "SHA384", "TLSv1.2")
        add(f"{prefix}AES128-SHA256", exchange, auth, "AES", 128, "SHA256", "TLSv1.2")
        add(f"{prefix}CAMELLIA256-SHA384", exchange, auth, "CAMELLIA", 256, "SHA384", "TLSv1.2")
        add(f"{prefix}CAMELLIA128-SHA256", exchange, auth, "CAMELLIA", 128, "SHA256", "TLSv1.2")
    for prefix, exchange, auth in (*pairs[2:], ("", "RSA", "RSA"), ("ADH-", "DHE", "NULL")):
        for bits in (256, 128):
            add(f"{prefix}AES{bits}-SHA256", exchange, auth, "AES", bits, "SHA256", "TLSv1.2")
            add(f"{prefix}CAMELLIA{bits}-SHA256", exchange, auth, "CAMELLIA", bits, "SHA256", "TLSv1.2")
    for prefix, exchange, auth in (*pairs, ("", "RSA", "RSA"), *anonymous):
        version = "TLSv1" if exchange == "ECDHE" else "SSLv3"
        for bits in (256, 128):
            add(f"{prefix}AES{bits}-SHA", exchange, auth, "AES", bits, "SHA1", version)
            if exchange != "ECDHE":
                add(f"{prefix}CAMELLIA{bits}-SHA", exchange, auth, "CAMELLIA", bits, "SHA1", version)
        add("DES-CBC3-SHA" if not prefix else f"{prefix}DES-CBC3-SHA", exchange, auth, "3DES", 112, "SHA1", version)
        if exchange == "ECDHE" or not prefix:
            add(f"{prefix}RC4-SHA", exchange, auth, "RC4", 128, "SHA1", version)
            add(f"{prefix}NULL-SHA", exchange, auth, "NULL", 0, "SHA1", version)
        if exchange != "ECDHE":
            add(f"{prefix}DES-CBC-SHA", exchange, auth, "DES", 56, "SHA1", version)
            add(f"{prefix}SEED-SHA", exchange, auth, "SEED", 128, "SHA1", version)
    for name, cipher, bits, mac in (
        ("RC4-MD5", "RC4", 128, "MD5"),
        ("NULL-MD5", "NULL", 0, "MD5"),
        ("NULL-SHA256", "NULL", 0, "SHA256"),
        ("IDEA-CBC-SHA", "IDEA", 128, "SHA1"),
        ("EXP-RC4-MD5", "RC4", 40, "MD5"),
        ("EXP-DES-CBC-SHA", "DES", 40, "SHA1"),
        ("EXP-RC2-CBC-MD5", "RC2", 40, "MD5"),
    ):
        add(name, "RSA", "RSA", cipher, bits, mac, "TLSv1.2" if mac == "SHA256" else "SSLv3")
    add("ADH-RC4-MD5", "DHE", "NULL", "RC4", 128, "MD5", "SSLv3")
    return tuple(out)


SUITES = _table()
BY_NAME = {suite.name: suite for suite in SUITES}


@lru_cache(maxsize=256)
def _rules(s: Suite) -> dict[str, bool]:
    """Whether each word of a cipher list stands for the suite."""
    return {
        "ALL": s.cipher != "NULL",
        "COMPLEMENTOFALL": s.cipher == "NULL",
        "COMPLEMENTOFDEFAULT": s.auth == "NULL" and s.cipher != "NULL",
        "HIGH": s.bits >= 128 and s.cipher not in ("RC4", "SEED", "IDEA", "RC2") or s.cipher == "3DES",
        "MEDIUM": s.cipher in ("RC4", "SEED", "IDEA", "RC2") and s.bits >= 128,
        "LOW": s.cipher == "DES" and s.bits == 56,
        "EXP": s.bits == 40,
        "EXPORT": s.bits == 40,
        "EXPORT40": s.bits == 40,
        "eNULL": s.cipher == "NULL",
        "NULL": s.cipher == "NULL",
        "aNULL": s.auth == "NULL",
        "kRSA": s.exchange == "RSA",
        "RSA": s.exchange == "RSA" or s.auth == "RSA",
        "aRSA": s.auth == "RSA",
        "kDHE": s.exchange == "DHE",
        "kEDH": s.exchange == "DHE",
        "DH": s.exchange == "DHE",
        "DHE": s.exchange == "DHE" and s.auth != "NULL",
        "EDH": s.exchange == "DHE" and s.auth != "NULL",
        "ADH": s.exchange == "DHE" and s.auth == "NULL",
        "kECDHE": s.exchange == "ECDHE",
        "kEECDH": s.exchange == "ECDHE",
        "ECDH": s.exchange == "ECDHE",
        "ECDHE": s.exchange == "ECDHE" and s.auth != "NULL",
        "EECDH": s.exchange == "ECDHE" and s.auth != "NULL",
        "AECDH": s.exchange == "ECDHE" and s.auth == "NULL",
        "aDSS": s.auth == "DSS",
        "DSS": s.auth == "DSS",
        "aECDSA": s.auth == "ECDSA",
        "ECDSA": s.auth == "ECDSA",
        "AES": s.cipher.startswith("AES"),
        "AES128": s.cipher.startswith("AES") and s.bits == 128,
        "AES256": s.cipher.startswith("AES") and s.bits == 256,
        "AESGCM": s.cipher == "AESGCM",
        "AESCCM": s.cipher in ("AESCCM", "AESCCM8"),
        "AESCCM8": s.cipher == "AESCCM8",
        "CHACHA20": s.cipher == "CHACHA20",
        "CAMELLIA": s.cipher == "CAMELLIA",
        "CAMELLIA128": s.cipher == "CAMELLIA" and s.bits == 128,
        "CAMELLIA256": s.cipher == "CAMELLIA" and s.bits == 256,
        "ARIA": s.cipher == "ARIAGCM",
        "ARIAGCM": s.cipher == "ARIAGCM",
        "ARIA128": s.cipher == "ARIAGCM" and s.bits == 128,
        "ARIA256": s.cipher == "ARIAGCM" and s.bits == 256,
        "3DES": s.cipher == "3DES",
        "DES": s.cipher == "DES",
        "RC4": s.cipher == "RC4",
        "RC2": s.cipher == "RC2",
        "IDEA": s.cipher == "IDEA",
        "SEED": s.cipher == "SEED",
        "MD5": s.mac == "MD5",
        "SHA1": s.mac == "SHA1",
        "SHA": s.mac == "SHA1",
        "SHA256": s.mac == "SHA256",
        "SHA384": s.mac == "SHA384",
        "AEAD": s.aead,
        "TLSv1.2": s.version == "TLSv1.2",
        "TLSv1.0": s.version == "TLSv1",
        "TLSv1": s.version in ("TLSv1", "SSLv3"),
        "SSLv3": s.version == "SSLv3",
        "FIPS": s.cipher.startswith("AES"),
        "SUITEB128": s.name in ("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384"),
        "SUITEB192": s.name == "ECDHE-ECDSA-AES256-GCM-SHA384",
        "SUITEB128ONLY": s.name == "ECDHE-ECDSA-AES128-GCM-SHA256",
        "SUITEB128C2": s.name == "ECDHE-ECDSA-AES128-GCM-SHA256",
    }


_WORDS: dict[str, frozenset[str]] = {}


def _of_word(word: str) -> frozenset[str]:
    """The names of the suites one word stands for."""
    if not _WORDS:
        for suite in SUITES:
            _WORDS[suite.name] = frozenset((suite.name,))
        for name in _rules(SUITES[0]):
            _WORDS[name] = frozenset(suite.name for suite in SUITES if _rules(suite)[name])
    return _WORDS.get(word, frozenset())


def selected(word: str) -> frozenset[str]:
    """The names of the suites a word with + between its parts stands for."""
    first, *rest = word.split("+")
    names = _of_word(first)
    for part in rest:
        names &= _of_word(part)
    return names


@lru_cache(maxsize=256)
def expand(text: str) -> tuple[tuple[Suite, ...], int | None]:
    """The suites of a list in their order, and the security level it sets, if any.

    Suites that newer OpenSSL leaves out of its build are kept: what a list asks for is judged, not one machine's build.
    """
    chosen: list[str] = []
    dead: set[str] = set()
    level = None
    for word in re.split(r"[:, ]+", text)[:2000]:
        if not word:
            continue
        if word.startswith("@"):
            match = re.fullmatch(r"@SECLEVEL=([0-5])", word)
            level = int(match[1]) if match else level
            continue
        mark, rest = (word[0], word[1:]) if word[0] in "!-+" else ("", word)
        rest, _rest, extra = rest.partition("@")
        if match := re.fullmatch(r"SECLEVEL=([0-5])", extra):
            level = int(match[1])
        if rest == "DEFAULT" and not mark:
            names = frozenset(suite.name for suite in SUITES if suite.cipher != "NULL" and suite.auth != "NULL")
        else:
            names = selected(rest)
        if mark == "!":
            dead |= names
            chosen = [name for name in chosen if name not in names]
        elif mark == "-":
            chosen = [name for name in chosen if name not in names]
        elif mark == "+":
            chosen = [name for name in chosen if name not in names] + [name for name in chosen if name in names]
        else:
            have = set(chosen)
            chosen += [
                suite.name
                for suite in SUITES
                if suite.name in names and suite.name not in dead and suite.name not in have
            ]
    return tuple(BY_NAME[name] for name in chosen), level


@lru_cache(maxsize=256)
def offered(text: str, finite: bool) -> tuple[tuple[Suite, ...], int | None, tuple[Suite, ...]]:
    """The suites of a list that a server can offer, the security level, and those of the suites that are weak.

    finite: whether there are parameters for a finite-field exchange; nginx offers none without.
    """
    chosen, level = expand(text)
    if not finite:
        chosen = tuple(suite for suite in chosen if suite.exchange != "DHE")
    return chosen, level, tuple(suite for suite in chosen if suite.weakness)


@lru_cache(maxsize=256)
def told(weak: tuple[Suite, ...]) -> tuple[str, bool]:
    """What is weak, for a person, and whether it only is unusual."""
    kinds = list(dict.fromkeys(suite.weakness for suite in weak))
    names = ", ".join(suite.name for suite in weak[:3])
    return f"{', '.join(kinds[:4])} ({names})", all(kind == "outside the Mozilla profile" for kind in kinds)
