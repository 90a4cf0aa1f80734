# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is asking, whichever way that was proved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

READ, CALL, ADMIN = "tools:read", "tools:call", "tools:admin"
SCOPES = (READ, CALL, ADMIN)


@dataclass(frozen=True, slots=True)
class Principal:
    """`id` names it in logs, limits and records: a kid, or "oauth:" and a hash of issuer and subject."""

    id: str
    kind: Literal["key", "oauth"]
    scopes: frozenset[str]
    kid: str | None = None
    issuer: str | None = None
    subject: str | None = None
    client: str | None = None
    rpm: int | None = None  # limits that come with an API key; None: the service's own
    concurrency: int | None = None
