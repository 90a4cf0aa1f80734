# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""mcpstack-admin doctor: look at the database as its owner, ask every service what it depends on, say what to do."""

from __future__ import annotations

import argparse
import json
import re
import urllib.error
import urllib.request
from typing import Any

import psycopg

from mcpstack.admin.context import Commands, Context
from mcpstack.common import database, migrate
from mcpstack.common.secretfile import SecretError

_ROLES = ("gateway", "registry", "worker")
_EXTENSIONS = ("vector",)
_WORD = re.compile(r"[a-z][a-z0-9_-]{0,40}")


class FailedCheckError(Exception):
    def __init__(self, detail: str, fix: str) -> None:
        super().__init__(detail)
        self.fix = fix


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A service answers itself or not at all."""

    def redirect_request(self, *_: Any) -> None:
        return None


def register(commands: Commands) -> None:
    parser = commands.add_parser("doctor", help="check the database, and every service with what it depends on")
    parser.set_defaults(run=run)


def run(_: argparse.Namespace, context: Context) -> dict[str, Any]:
    """{"ok": bool, "checks": [{"id", "status": pass|fail, "detail", "fix"}]}. Settings and files were read already."""
    checks: list[dict[str, Any]] = [_pass("settings", "all readable")]
    checks += _database(context)
    for name, url in context.settings.services.items():
        checks += _service(name, url)
    return {"ok": all(check["status"] == "pass" for check in checks), "checks": checks}


def _pass(name: str, detail: str) -> dict[str, Any]:
    return {"id": name, "status": "pass", "detail": detail, "fix": None}


def _fail(name: str, detail: str, fix: str) -> dict[str, Any]:
    return {"id": name, "status": "fail", "detail": detail, "fix": fix}


def _database(context: Context) -> list[dict[str, Any]]:
    try:
        with context.connect() as conn:
            return [_one(name, check, conn) for name, check in _CHECKS.items()]
    except (psycopg.Error, SecretError, OSError) as error:
        detail = f"Postgres cannot be used: {database.reason(error)}."
        return [_fail("postgres", detail, "See that postgres is healthy; run the deploy again.")]


def _one(name: str, check: Any, conn: psycopg.Connection[Any]) -> dict[str, Any]:
    try:
        return _pass(name, check(conn))
    except FailedCheckError as error:
        return _fail(name, str(error), error.fix)


def _login(conn: psycopg.Connection[Any]) -> str:
    row = conn.execute(
        "SELECT session_user, current_user, r.rolsuper OR r.rolcreaterole OR r.rolcreatedb OR r.rolbypassrls, "
        "pg_get_userbyid(d.datdba) FROM pg_roles r, pg_database d "
        "WHERE r.rolname = session_user AND d.datname = current_database()"
    ).fetchone()
    if row is None or row[2]:
        raise FailedCheckError("The login has rights over the whole server.", "Give it an ordinary role.")
    if row[1] != row[3]:
        raise FailedCheckError(
            f"The login {row[0]} acts as {row[1]}, the database belongs to {row[3]}.", "Run the deploy again."
        )
    return f"{row[0]} acts as {row[1]}, who owns the database"


def _roles(conn: psycopg.Connection[Any]) -> str:
    rows = conn.execute("SELECT rolname FROM pg_roles WHERE rolname = ANY(%s)", (list(_ROLES),)).fetchall()
    missing = sorted(set(_ROLES) - {row[0] for row in rows})
    if missing:
        raise FailedCheckError(f"The roles {', '.join(missing)} do not exist.", "Run the deploy again.")
    owning = conn.execute(
        "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE pg_get_userbyid(relowner) = ANY(%s) "
        "UNION SELECT DISTINCT pg_get_userbyid(nspowner) FROM pg_namespace WHERE pg_get_userbyid(nspowner) = ANY(%s)",
        (list(_ROLES), list(_ROLES)),
    ).fetchall()
    if owning:
        names = ", ".join(sorted(row[0] for row in owning))
        raise FailedCheckError(f"A service's role owns something: {names}.", "REASSIGN OWNED to the database's owner.")
    return f"{', '.join(_ROLES)} exist and own nothing"


def _extensions(conn: psycopg.Connection[Any]) -> str:
    rows = conn.execute("SELECT extname, extversion FROM pg_extension WHERE extname = ANY(%s)", (list(_EXTENSIONS),))
    found = dict(rows.fetchall())
    missing = sorted(set(_EXTENSIONS) - set(found))
    if missing:
        raise FailedCheckError(f"The extensions {', '.join(missing)} are missing.", "Run the deploy again.")
    return ", ".join(f"{name} {version}" for name, version in sorted(found.items()))


def _schema(conn: psycopg.Connection[Any]) -> str:
    try:
        todo = [f"{name}: {len(todo)}" for name in migrate.COMPONENTS if (todo := migrate.status(conn, name))]
    except migrate.MigrationError as error:
        raise FailedCheckError(str(error), "Run the release that belongs to this database.") from error
    if todo:
        raise FailedCheckError(f"Migrations are still to do ({', '.join(todo)}).", "Run mcpstack-admin migrate.")
    return "up to date"


def _partitions(conn: psycopg.Connection[Any]) -> str:
    """Nothing is lost without them, but rows that pile up in a default partition never go away in one piece."""
    if not conn.execute("SELECT to_regclass('gateway.audit_log') IS NOT NULL").fetchone() == (True,):
        raise FailedCheckError("There is no audit log yet.", "Run mcpstack-admin migrate.")
    row = conn.execute(
        "SELECT to_regclass(format('gateway.audit_log_%s', "
        "to_char(date_trunc('month', now() AT TIME ZONE 'UTC') + interval '1 month', 'YYYYMM'))) IS NOT NULL"
    ).fetchone()
    if row != (True,):
        raise FailedCheckError(
            "The audit log has no partition for the next month.", "See that the worker runs its data_cleanup."
        )
    return "the audit log has a partition for the next month"


_CHECKS = {
    "postgres": _login,
    "roles": _roles,
    "extensions": _extensions,
    "schema": _schema,
    "partitions": _partitions,
}


def _service(name: str, url: str) -> list[dict[str, Any]]:
    """What a service's /ready says of itself and of everything it depends on."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)
    fix = f"See that {name} is healthy and its log."
    try:
        with opener.open(f"{url}/ready", timeout=5) as answer:
            raw = answer.read(65536)
    except urllib.error.HTTPError as error:
        raw = error.read(65536)  # a service that is not ready says why with a 503
    except (OSError, ValueError):
        return [_fail(name, f"{name} cannot be reached.", fix)]
    try:
        said = json.loads(raw)
        status, parts = _word(said["status"]), dict(said["checks"])
        found = [_part(f"{name}.{_word(part)}", check, fix) for part, check in sorted(parts.items())]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return [_fail(name, f"{name} gives an answer that is not understood.", fix)]
    head = _pass(name, status) if status == "ready" else _fail(name, f"{name} is {status}.", fix)
    return [head, *found]


def _part(name: str, check: dict[str, Any], fix: str) -> dict[str, Any]:
    if check["status"] == "up":
        return _pass(name, "up")
    reason = "".join(piece for piece in str(check.get("reason") or "no reason given") if piece.isprintable())[:200]
    return _fail(name, f"{_word(check['status'])}: {reason}", fix)


def _word(value: Any) -> str:
    if not isinstance(value, str) or not _WORD.fullmatch(value):
        raise ValueError("not a word")
    return value
