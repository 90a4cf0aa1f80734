# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Numbered SQL files, applied once, in order, under an advisory lock.

A file is one transaction. What has been applied is recorded with the hash of the file, so a file that was edited
afterwards, or a database that a newer release has already changed, is refused before anything is touched.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from importlib.resources.abc import Traversable
from typing import Any, NamedTuple

import psycopg

_LOCK = 0x6D637073  # "mcps": one number for every service of this project
_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_TABLE = """
CREATE TABLE IF NOT EXISTS schema_version (
    component  text        NOT NULL,
    version    integer     NOT NULL CHECK (version > 0),
    name       text        NOT NULL,
    sha256     text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (component, version)
)"""


class MigrationError(Exception):
    """The database and this release do not belong together; waiting will not help."""


class Migration(NamedTuple):
    version: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def read(folder: Traversable) -> list[Migration]:
    found = []
    for entry in folder.iterdir():
        match = _NAME.fullmatch(entry.name)
        if match:
            found.append(Migration(int(match[1]), match[2], entry.read_text(encoding="utf-8")))
    found.sort()
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise MigrationError("The migration files are not numbered 1, 2, 3, ... without a gap.")
    return found


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
    return migrations[len(applied) :]  # type: ignore[return-value]


def status(conn: psycopg.Connection[Any], migrations: Sequence[Migration], component: str) -> list[Migration]:
    """What is still to do, without changing anything."""
    present = conn.execute("SELECT to_regclass('schema_version') IS NOT NULL").fetchone()
    applied = (
        conn.execute(
            "SELECT version, name, sha256 FROM schema_version WHERE component = %s ORDER BY version", (component,)
        ).fetchall()
        if present and present[0]
        else []
    )
    return pending(applied, migrations, component)


def apply(conn: psycopg.Connection[Any], migrations: Sequence[Migration], component: str) -> list[Migration]:
    """Bring the schema up to date and return what was applied. The connection must be in autocommit mode."""
    conn.execute("SET lock_timeout = '30s'")
    conn.execute("SET statement_timeout = 0")
    conn.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
    try:
        todo = status(conn, migrations, component)
        if todo:
            conn.execute(_TABLE)
        for migration in todo:
            with conn.transaction():
                conn.execute(migration.sql.encode())
                conn.execute(
                    "INSERT INTO schema_version (component, version, name, sha256) VALUES (%s, %s, %s, %s)",
                    (component, migration.version, migration.name, migration.sha256),
                )
        return todo
    finally:
        if not conn.closed and not conn.broken:
            conn.execute("SELECT pg_advisory_unlock(%s)", (_LOCK,))
