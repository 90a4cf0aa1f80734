# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""API keys as rows: what `mcpstack-admin keys` does, without any printing. Each function is one transaction's work."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import dict_row

from mcpstack.admin.context import InputError
from mcpstack.common import apikey
from mcpstack.common.keys import MAX_SECRETS
from mcpstack.common.secretfile import Peppers

_LIMITS = {"rpm": 1_000_000, "concurrency": 1_000_000, "tpm": 2_000_000_000, "tokens_day": 10**15,
           "tokens_month": 10**15}  # fmt: skip
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST_OVERLAP = timedelta(days=90)


class Wanted(NamedTuple):
    """What a key shall be, apart from its secret."""

    name: str
    scopes: tuple[str, ...]
    rpm: int | None = None
    concurrency: int | None = None
    tpm: int | None = None
    tokens_day: int | None = None
    tokens_month: int | None = None
    cache: bool = False
    expires_at: datetime | None = None

    def row(self) -> dict[str, Any]:
        return {**self._asdict(), "scopes": list(self.scopes)}


def wanted(name: str, scopes: str, expires_at: str | None = None, cache: bool = False, **limits: int | None) -> Wanted:
    """Check the arguments of `keys put` and `keys create`."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._@-]{0,99}", name):
        raise InputError("--name must be 1 to 100 letters, digits, spaces or any of . _ @ -")
    names = tuple(sorted({scope.strip() for scope in scopes.split(",") if scope.strip()}))
    unknown = [scope for scope in names if scope not in apikey.SCOPES]
    if unknown or not names:
        raise InputError(f"--scopes must be a list of {', '.join(apikey.SCOPES)}, separated by commas.")
    for field, number in limits.items():
        if number is not None and not 1 <= number <= _LIMITS[field]:
            raise InputError(f"--{field.replace('_', '-')} must be from 1 to {_LIMITS[field]}.")
    moment = None
    if expires_at is not None:
        try:
            moment = datetime.fromisoformat(expires_at)
        except ValueError:
            moment = None
        if moment is None or moment.tzinfo is None:
            raise InputError("--expires-at must be a time with its zone, such as 2027-01-31T00:00:00+00:00.")
    return Wanted(name, names, **limits, cache=cache, expires_at=moment)


def given_key(raw: bytes) -> apikey.ApiKey:
    """The key from standard input; a complaint never repeats it."""
    key = apikey.parse(raw.decode("ascii", "replace").strip())
    if key is None:
        raise InputError("The key on standard input is malformed or its check sum is wrong. Pass the whole key, mk_...")
    return key


def overlap(text: str) -> timedelta:
    match = re.fullmatch(r"([0-9]{1,7})([smhd])|0", text, re.ASCII)
    found = timedelta(seconds=int(match[1] or 0) * _UNITS[match[2]] if match[2] else 0) if match else None
    if found is None or found > _LONGEST_OVERLAP:
        raise InputError("--overlap must be a time such as 24h, 30m or 7d, 90d at most, or 0.")
    return found


def put(
    conn: psycopg.Connection[Any], key: apikey.ApiKey, want: Wanted, peppers: Peppers, *, check: bool
) -> dict[str, Any]:
    """Make the key say what is wanted and have this secret. Returns what changed; with `check` nothing is written."""
    row = want.row()
    with conn.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute("SELECT * FROM gateway.api_key WHERE kid = %s FOR UPDATE", (key.kid,)).fetchone()
        if found is not None and found["revoked_at"] is not None:
            raise InputError(f"Key {key.kid} was revoked and stays so. Make a new key.")
        fields = [field for field, value in row.items() if found is None or found[field] != value]
        if fields and not check:
            columns = ", ".join(row)
            values = ", ".join(f"%({field})s" for field in row)
            changes = ", ".join(f"{field} = excluded.{field}" for field in row)
            cursor.execute(
                f"INSERT INTO gateway.api_key (kid, {columns}) VALUES (%(kid)s, {values}) "  # noqa: S608 - own names
                f"ON CONFLICT (kid) DO UPDATE SET {changes}".encode(),
                {"kid": key.kid, **row},
            )
        fields += (changed := _put_secret(cursor, key, peppers, check=check))[0]
    return {
        "changed": bool(fields),
        "kid": key.kid,
        "created": found is None,
        "fields": sorted(fields),
        "warnings": changed[1],
    }


def _put_secret(
    cursor: psycopg.Cursor[dict[str, Any]], key: apikey.ApiKey, peppers: Peppers, *, check: bool
) -> tuple[list[str], list[str]]:
    """(what changed, warnings). A secret that is new replaces those without an end; one that ends soon may end."""
    stored = cursor.execute("SELECT * FROM gateway.api_key_secret WHERE kid = %s ORDER BY id", (key.kid,)).fetchall()
    digests = {version: apikey.digest(key.text, pepper) for version, pepper in peppers.by_version.items()}
    same = next((row for row in stored if digests.get(row["pepper_version"]) == bytes(row["hmac"])), None)
    if same is None:
        if not check:
            cursor.execute(
                "UPDATE gateway.api_key_secret SET revoked_at = now() "
                "WHERE kid = %s AND revoked_at IS NULL AND expires_at IS NULL",
                (key.kid,),
            )
            _add_secret(cursor, key, peppers)
        return ["secret"], []
    if same["revoked_at"] is not None:
        raise InputError(f"This secret of key {key.kid} was revoked and stays so. Make a new one.")
    warnings = []
    if same["expires_at"] is not None:
        ends = same["expires_at"].astimezone(UTC).isoformat(timespec="seconds")
        if same["expires_at"] <= datetime.now(UTC):
            raise InputError(f"This secret of key {key.kid} ended at {ends}: it was rotated. Use its successor.")
        warnings.append(f"This secret ends at {ends}: it was rotated. Use its successor.")
    if same["pepper_version"] == peppers.current:
        return [], warnings
    if not check:
        cursor.execute(
            "UPDATE gateway.api_key_secret SET hmac = %s, pepper_version = %s WHERE id = %s",
            (digests[peppers.current], peppers.current, same["id"]),
        )
    return ["pepper_version"], warnings


def _add_secret(cursor: psycopg.Cursor[Any], key: apikey.ApiKey, peppers: Peppers) -> None:
    cursor.execute(
        "INSERT INTO gateway.api_key_secret (kid, hmac, pepper_version) VALUES (%s, %s, %s)",
        (key.kid, apikey.digest(key.text, peppers.by_version[peppers.current]), peppers.current),
    )


def rotate(
    conn: psycopg.Connection[Any],
    kid: str,
    environment: str,
    peppers: Peppers,
    overlap: timedelta,
    *,
    check: bool,
) -> tuple[dict[str, Any], apikey.ApiKey | None]:
    """A new secret for the key; those before it end after the overlap. The second value is the whole new key."""
    with conn.cursor(row_factory=dict_row) as cursor:
        row = _locked(cursor, kid)
        if row["revoked_at"] is not None:
            raise InputError(f"Key {kid} was revoked and stays so. Make a new key.")
        live = cursor.execute(
            "SELECT id FROM gateway.api_key_secret WHERE kid = %s AND revoked_at IS NULL "
            "AND (expires_at IS NULL OR expires_at > now())",
            (kid,),
        ).fetchall()
        if overlap and len(live) >= MAX_SECRETS:
            raise InputError(
                f"Key {kid} has {len(live)} secrets that work, more are not looked at. Revoke one with --secret first."
            )
        answer: dict[str, Any] = {"changed": True, "kid": kid}
        if check:
            return answer, None
        key = apikey.generate(environment, kid)
        ends = cursor.execute(
            "UPDATE gateway.api_key_secret SET expires_at = least(expires_at, now() + %s) "
            "WHERE kid = %s AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now()) "
            "RETURNING id, expires_at",
            (overlap, kid),
        ).fetchall()
        _add_secret(cursor, key, peppers)
    answer["ending"] = [{"secret": old["id"], "expires_at": _plain(old["expires_at"])} for old in ends]
    return answer, key


def revoke(conn: psycopg.Connection[Any], kid: str, secret: int | None, *, check: bool) -> dict[str, Any]:
    with conn.cursor(row_factory=dict_row) as cursor:
        row = _locked(cursor, kid)
        if secret is None:
            if row["revoked_at"] is None and not check:
                cursor.execute("UPDATE gateway.api_key SET revoked_at = now() WHERE kid = %s", (kid,))
            return {"changed": row["revoked_at"] is None, "kid": kid}
        one = cursor.execute(
            "SELECT revoked_at FROM gateway.api_key_secret WHERE kid = %s AND id = %s", (kid, secret)
        ).fetchone()
        if one is None:
            raise InputError(f"Key {kid} has no secret {secret}. mcpstack-admin keys show {kid} lists them.")
        if one["revoked_at"] is None and not check:
            cursor.execute("UPDATE gateway.api_key_secret SET revoked_at = now() WHERE id = %s", (secret,))
        return {"changed": one["revoked_at"] is None, "kid": kid, "secret": secret}


def _locked(cursor: psycopg.Cursor[dict[str, Any]], kid: str) -> dict[str, Any]:
    row = cursor.execute("SELECT * FROM gateway.api_key WHERE kid = %s FOR UPDATE", (kid,)).fetchone()
    if row is None:
        raise InputError(f"There is no key {kid[:40]!r}. mcpstack-admin keys list shows them.")
    return row


def others(conn: psycopg.Connection[Any], name: str, kid: str) -> list[str]:
    """Other keys of this name that still work: after a change of key they are what is left to revoke."""
    rows = conn.execute(
        "SELECT kid FROM gateway.api_key WHERE name = %s AND kid <> %s AND revoked_at IS NULL "
        "AND (expires_at IS NULL OR expires_at > now()) ORDER BY created_at",
        (name, kid),
    ).fetchall()
    return [row[0] for row in rows]


_STATE = (
    "CASE WHEN {0}.revoked_at IS NOT NULL THEN 'revoked' WHEN {0}.expires_at <= now() THEN 'expired' "
    "ELSE 'active' END AS state"
)


def listing(conn: psycopg.Connection[Any], kid: str | None = None) -> list[dict[str, Any]]:
    """All keys, or one, with what is known of their secrets: never the hash."""
    with conn.cursor(row_factory=dict_row) as cursor:
        keys = cursor.execute(
            f"SELECT k.*, {_STATE.format('k')} FROM gateway.api_key k "  # noqa: S608 - no input
            "WHERE %(kid)s::text IS NULL OR kid = %(kid)s ORDER BY created_at, kid".encode(),
            {"kid": kid},
        ).fetchall()
        secrets = cursor.execute(
            "SELECT kid, id, pepper_version, created_at, not_before, expires_at, revoked_at, last_used_at, "  # noqa: S608
            f"{_STATE.format('s')} FROM gateway.api_key_secret s "
            "WHERE %(kid)s::text IS NULL OR kid = %(kid)s ORDER BY id".encode(),
            {"kid": kid},
        ).fetchall()
    if kid is not None and not keys:
        raise InputError(f"There is no key {kid[:40]!r}. mcpstack-admin keys list shows them.")
    found = {row["kid"]: {name: _plain(value) for name, value in row.items()} for row in keys}
    for row in found.values():
        row["secrets"] = []
    for row in secrets:
        owner = found.get(row.pop("kid"))
        if owner is not None:
            owner["secrets"].append({name: _plain(value) for name, value in row.items()})
    for row in found.values():
        used = [secret["last_used_at"] for secret in row["secrets"] if secret["last_used_at"]]
        row["last_used_at"] = max(used, default=None)
    return list(found.values())


def _plain(value: Any) -> Any:
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else value
