# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Numbered SQL files, applied once, in order, under an advisory lock.

Only `mcpstack-admin migrate` applies them, as the owner of the database; the services look (`check`) and wait.
A file is one transaction. What has been applied is recorded with the hash of the file, so a file that was edited
afterwards, or a database that a newer release has already changed, is refused before anything is touched.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, Literal, NamedTuple

import psycopg

COMPONENTS = ("gateway", "jobs", "registry")  # in this order: a later one may build on an earlier one

_LOCK = 0x6D637073  # "mcps": one number for every service of this project
_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_TABLE = """
CREATE TABLE IF NOT EXISTS public.schema_version (
    component  text        NOT NULL,
    version    integer     NOT NULL CHECK (version > 0),
    name       text        NOT NULL,
    sha256     text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (component, version)
);
GRANT SELECT ON public.schema_version TO gateway, registry, worker"""
_PRESENT = "SELECT to_regclass('public.schema_version') IS NOT NULL"
_APPLIED = "SELECT version, name, sha256 FROM public.schema_version WHERE component = %s ORDER BY version"


class MigrationError(Exception):
    """The database and this release do not belong together; waiting will not help."""


class Migration(NamedTuple):
    version: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


class Applied(NamedTuple):
    component: str
    migration: Migration

    def __str__(self) -> str:
        return f"{self.component}/{self.migration.version:04d}_{self.migration.name}"


class Verdict(NamedTuple):
    """What a service makes of the database: go on, wait, or give up."""

    state: Literal["ok", "behind", "newer"]
    reason: str | None = None


def read(folder: Traversable) -> list[Migration]:
    found = []
    for entry in folder.iterdir() if folder.is_dir() else ():
        match = _NAME.fullmatch(entry.name)
        if match:
            found.append(Migration(int(match[1]), match[2], entry.read_text(encoding="utf-8")))
    found.sort()
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise MigrationError("The migration files are not numbered 1, 2, 3, ... without a gap.")
    return found


def migrations(component: str) -> list[Migration]:
    """What this release brings for a component."""
    if component not in COMPONENTS:
        raise ValueError(f"{component} is not one of {', '.join(COMPONENTS)}")
    return read(resources.files("mcpstack") / "migrations" / component)


def pending(
    applied: Sequence[tuple[int, str, str]], migrations: Sequence[Migration], component: str
) -> list[Migration]:
    """Compare what the database says (version, name, sha256) with the files; return what is still to do."""
    known = {migration.version: migration for migration in migrations}
    for version, name, sha256 in applied:
        if version not in known:
            raise MigrationError(
                f"The {component} schema is at version {max(row[0] for row in applied)}, this release knows "
                f"{len(known)}. Run the newer release, or restore the backup taken before the upgrade."
            )
        if known[version].sha256 != sha256:
            raise MigrationError(
                f"Migration {version} ({name}) of the {component} schema was applied with other content than this "
                "release holds. Install the release that was used, or restore the backup taken before the upgrade."
            )
    done = [row[0] for row in applied]
    if done != list(range(1, len(done) + 1)):
        raise MigrationError(f"The {component} schema has a gap in its versions. Restore a backup.")
    return list(migrations[len(done) :])


def status(
    conn: psycopg.Connection[Any], component: str, available: Sequence[Migration] | None = None
) -> list[Migration]:
    """What is still to do, without changing anything; every service's role may ask."""
    present = conn.execute(_PRESENT).fetchone()
    applied = conn.execute(_APPLIED, (component,)).fetchall() if present and present[0] else []
    return pending(applied, migrations(component) if available is None else available, component)


def check(conn: psycopg.Connection[Any], *components: str) -> Verdict:
    """May a service that needs these components use this database?"""
    present = conn.execute(_PRESENT).fetchone()
    rows = {name: conn.execute(_APPLIED, (name,)).fetchall() if present and present[0] else [] for name in components}
    return _verdict(rows)


async def check_async(conn: psycopg.AsyncConnection[Any], *components: str) -> Verdict:
    """The same as `check`, on an asynchronous connection."""
    present = await (await conn.execute(_PRESENT)).fetchone()
    rows = {
        name: await (await conn.execute(_APPLIED, (name,))).fetchall() if present and present[0] else []
        for name in components
    }
    return _verdict(rows)


def _verdict(rows: dict[str, list[tuple[int, str, str]]]) -> Verdict:
    behind = []
    for component, applied in rows.items():
        try:
            todo = pending(applied, migrations(component), component)
        except MigrationError as error:
            return Verdict("newer", str(error))
        if todo or not applied:
            behind.append(component)
    if behind:
        return Verdict("behind", f"its schema waits for mcpstack-admin migrate ({', '.join(behind)})")
    return Verdict("ok")


def apply(
    conn: psycopg.Connection[Any],
    components: Sequence[str] = COMPONENTS,
    available: dict[str, list[Migration]] | None = None,
) -> list[Applied]:
    """Bring the schema up to date and return what was applied. The connection must be in autocommit mode."""
    files = available or {component: migrations(component) for component in components}
    conn.execute("SET statement_timeout = 0")
    conn.execute("SET lock_timeout = '5min'")  # another migrator is at work
    conn.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
    try:
        # A statement that waits for a table makes every request behind it wait as well.
        conn.execute("SET lock_timeout = '10s'")
        # All components are looked at before the first is touched.
        plan = [(component, status(conn, component, files[component])) for component in components]
        done = []
        if any(todo for _, todo in plan):
            with conn.transaction():
                conn.execute(_TABLE)
        for component, todo in plan:
            for migration in todo:
                with conn.transaction():
                    conn.execute(migration.sql.encode())
                    conn.execute(
                        "INSERT INTO public.schema_version (component, version, name, sha256) VALUES (%s, %s, %s, %s)",
                        (component, migration.version, migration.name, migration.sha256),
                    )
                done.append(Applied(component, migration))
        return done
    finally:
        if not conn.closed and not conn.broken:
            conn.execute("SELECT pg_advisory_unlock(%s)", (_LOCK,))
