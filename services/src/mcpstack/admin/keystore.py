# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""API keys as rows: what `mcpstack-admin keys` does, without any printing."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import dict_row

from mcpstack.common import apikey
from mcpstack.common.secretfile import Peppers


class Wanted(NamedTuple):
    key: apikey.ApiKey
    name: str
    scopes: tuple[str, ...]
    rpm: int | None
    concurrency: int | None
    expires_at: datetime | None


class InputError(Exception):
    """What was asked for cannot be done; the message says what to do instead."""


def wanted(
    text: str, name: str, scopes: str, rpm: int | None, concurrency: int | None, expires_at: str | None
) -> Wanted:
    """Check the arguments of `keys put`; never repeats the key."""
    key = apikey.parse(text.strip())
    if key is None:
        raise InputError("The key on standard input is malformed or its check sum is wrong. Pass the whole key, mk_...")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._@-]{0,99}", name):
        raise InputError("--name must be 1 to 100 letters, digits, spaces or any of . _ @ -")
    names = tuple(sorted({scope.strip() for scope in scopes.split(",") if scope.strip()}))
    unknown = [scope for scope in names if scope not in apikey.SCOPES]
    if unknown or not names:
        raise InputError(f"--scopes must be a list of {', '.join(apikey.SCOPES)}, separated by commas.")
    for option, number in (("--rpm", rpm), ("--concurrency", concurrency)):
        if number is not None and not 1 <= number <= 1_000_000:
            raise InputError(f"{option} must be from 1 to 1000000.")
    moment = None
    if expires_at is not None:
        try:
            moment = datetime.fromisoformat(expires_at)
        except ValueError:
            moment = None
        if moment is None or moment.tzinfo is None:
            raise InputError("--expires-at must be a time with its zone, such as 2027-01-31T00:00:00+00:00.")
    return Wanted(key, name, names, rpm, concurrency, moment)


def put(conn: psycopg.Connection[Any], want: Wanted, peppers: Peppers, *, check: bool) -> dict[str, Any]:
    """Make the row say what is wanted. Returns what changed; with `check` nothing is written."""
    version = peppers.current
    row = {
        "name": want.name,
        "hmac": apikey.digest(want.key.text, peppers.by_version[version]),
        "pepper_version": version,
        "scopes": list(want.scopes),
        "rpm": want.rpm,
        "concurrency": want.concurrency,
        "expires_at": want.expires_at,
    }
    with conn.transaction(), conn.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute(
            "SELECT name, hmac, pepper_version, scopes, rpm, concurrency, expires_at, revoked_at FROM api_key "
            "WHERE kid = %s FOR UPDATE",
            (want.key.kid,),
        ).fetchone()
        if found is not None and found["revoked_at"] is not None:
            raise InputError(f"Key {want.key.kid} was revoked and stays so. Make a new key.")
        changes = [field for field, value in row.items() if found is None or _plain(found[field]) != value]
        if changes and not check:
            cursor.execute(
                "INSERT INTO api_key (kid, name, hmac, pepper_version, scopes, rpm, concurrency, expires_at) VALUES "
                "(%(kid)s, %(name)s, %(hmac)s, %(pepper_version)s, %(scopes)s, %(rpm)s, %(concurrency)s, "
                "%(expires_at)s) ON CONFLICT (kid) DO UPDATE SET name = excluded.name, hmac = excluded.hmac, "
                "pepper_version = excluded.pepper_version, scopes = excluded.scopes, rpm = excluded.rpm, "
                "concurrency = excluded.concurrency, expires_at = excluded.expires_at",
                {"kid": want.key.kid, **row},
            )
    return {"changed": bool(changes), "kid": want.key.kid, "created": found is None, "fields": sorted(changes)}


def others(conn: psycopg.Connection[Any], name: str, kid: str) -> list[str]:
    """Other keys of this name that still work: after a rotation they are what is left to revoke."""
    rows = conn.execute(
        "SELECT kid FROM api_key WHERE name = %s AND kid <> %s AND revoked_at IS NULL "
        "AND (expires_at IS NULL OR expires_at > now()) ORDER BY created_at",
        (name, kid),
    ).fetchall()
    return [row[0] for row in rows]


def listing(conn: psycopg.Connection[Any]) -> list[dict[str, Any]]:
    with conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            "SELECT kid, name, scopes, rpm, concurrency, pepper_version, created_at, expires_at, revoked_at, "
            "last_used_at, CASE WHEN revoked_at IS NOT NULL THEN 'revoked' WHEN expires_at <= now() THEN 'expired' "
            "ELSE 'active' END AS state FROM api_key ORDER BY created_at, kid"
        ).fetchall()
    return [
        {key: value.isoformat() if isinstance(value, datetime) else value for key, value in row.items()} for row in rows
    ]


def revoke(conn: psycopg.Connection[Any], kid: str, *, check: bool) -> dict[str, Any]:
    row = conn.execute("SELECT revoked_at FROM api_key WHERE kid = %s", (kid,)).fetchone()
    if row is None:
        raise InputError(f"There is no key {kid[:40]!r}. mcpstack-admin keys list shows them.")
    if row[0] is None and not check:
        conn.execute("UPDATE api_key SET revoked_at = now() WHERE kid = %s AND revoked_at IS NULL", (kid,))
    return {"changed": row[0] is None, "kid": kid}


def _plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, memoryview | bytearray) else value
