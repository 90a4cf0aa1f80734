# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""API keys: mk_<environment>_<kid>_<secret>_<crc>.

The kid finds the row, the check sum rejects a mistyped key without a look-up, and only a keyed hash of the whole
key is stored. Keys carry at least 256 random bits, so a fast keyed hash is the right one: there is nothing to guess.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string
import zlib
from typing import NamedTuple

ENVIRONMENTS = {"development": "dev", "staging": "stg", "production": "prod"}
SCOPES = ("chat", "embeddings", "models", "tasks", "tools:read", "tools:call", "tools:admin")

_KEY = re.compile(r"mk_(dev|stg|prod)_([a-z2-7]{12})_[0-9A-Za-z]{43}_([0-9a-f]{8})", re.ASCII)


class ApiKey(NamedTuple):
    text: str
    environment: str
    kid: str


def parse(text: str) -> ApiKey | None:
    """Return the parts of a well-formed key whose check sum is right, else None."""
    match = _KEY.fullmatch(text)
    if match is None or f"{zlib.crc32(text[:-9].encode('ascii')):08x}" != match[3]:
        return None
    return ApiKey(text, match[1], match[2])


def generate(environment: str, kid: str | None = None) -> ApiKey:
    """A new key for an environment (dev, stg, prod); with a kid, a new secret of that key."""
    kid = kid or "".join(secrets.choice(string.ascii_lowercase + "234567") for _ in range(12))
    secret = "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(43))
    body = f"mk_{environment}_{kid}_{secret}"
    key = parse(f"{body}_{zlib.crc32(body.encode('ascii')):08x}")
    if key is None:
        raise ValueError("no key can be made for this environment and kid")
    return key


def digest(text: str, pepper: bytes) -> bytes:
    return hmac.digest(pepper, text.encode("ascii"), hashlib.sha256)
