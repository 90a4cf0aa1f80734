# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The official registry API, v0.1, for reading: clients can use this registry as their private subregistry.

A server that was registered from a server.json is listed with that document, any other one with a document made of its
row. Where clients are to connect is always this registry's own /mcp/ID: behind it are the keys, the approvals and the
records. Remotes and packages of the document are not shown.
"""

# ruff: noqa: S608 - what is put into a statement here is names of columns, constants of this module

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mcpstack.registry import definitions, schemas
from mcpstack.registry.store import Entry, Pool, ServerSpec

SCHEMA = "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json"
OFFICIAL = "io.modelcontextprotocol.registry/official"
PUBLISHER = "io.modelcontextprotocol.registry/publisher-provided"
LIMIT = 100
_DOCUMENT_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Document:
    """What is needed of a server.json, and the document itself, cleaned."""

    name: str
    version: str
    title: str
    description: str
    url: str | None
    document: dict[str, Any]


def read(given: schemas.ServerDocument) -> Document:
    """A server.json (2025-12-11). DefinitionError where it is too large or too deep to be kept."""
    raw = given.model_dump(exclude_none=True, exclude_unset=True)
    document = definitions.clean_json("server", raw, _DOCUMENT_BYTES) | {"$schema": SCHEMA}
    # One with {variables} cannot be used as it is: the operator gives the URL then.
    urls = (found.url for found in given.remotes or () if found.type == "streamable-http" and "{" not in found.url)
    description = definitions.clean(given.description, 100)
    return Document(
        given.name, given.version, definitions.clean(given.title or "", 100), description, next(urls, None), document
    )


def make(spec: ServerSpec) -> dict[str, Any]:
    """A document for a server that came without one."""
    document = {
        "$schema": SCHEMA,
        "name": spec.name,
        "version": spec.version,
        "description": definitions.clean(spec.description.replace("\n", " "), 100) or f"The MCP server {spec.id}.",
    }
    if spec.title:
        document["title"] = definitions.clean(spec.title, 100)
    return document


class Subregistry:
    def __init__(self, pool: Pool, origin: str, namespace: str) -> None:
        self._pool = pool
        self._origin = origin
        self._key = f"{namespace}/registry"

    def answer(self, entry: Entry) -> dict[str, Any]:
        document = dict(entry.document)
        own = {"id": entry.server_id}
        for key in ("remotes", "packages"):  # ways around this registry, and maybe addresses inside
            document.pop(key, None)
        # A server that was deleted, or is an older version, is not behind /mcp/ID any more.
        if entry.status == "active" and entry.is_latest:
            document["remotes"] = [{"type": "streamable-http", "url": f"{self._origin}/mcp/{entry.server_id}"}]
        meta = document.get("_meta")
        document["_meta"] = {PUBLISHER: {self._key: own}}
        if isinstance(meta, dict) and isinstance(meta.get(PUBLISHER), dict):
            document["_meta"][PUBLISHER] = meta[PUBLISHER] | {self._key: own}
        official = {
            "status": entry.status,
            "publishedAt": _time(entry.published_at),
            "updatedAt": _time(entry.updated_at),
            "isLatest": entry.is_latest,
        }
        return {"server": document, "_meta": {OFFICIAL: official}}

    async def page(
        self,
        *,
        cursor: str | None = None,
        limit: int = 30,
        search: str | None = None,
        updated_since: datetime | None = None,
        version: str | None = None,
        include_deleted: bool | None = None,
    ) -> dict[str, Any]:
        after = _read_cursor(cursor)
        # Who asks for what changed since then has to hear of deletions, or would never notice them.
        deleted = include_deleted if include_deleted is not None else updated_since is not None
        values = {
            "after_name": after[0],
            "after_version": after[1],
            "search": None if search is None else definitions.visible(search).lower(),
            "since": updated_since,
            "version": None if version is None else definitions.visible(version),
            "deleted": deleted,
            "limit": limit + 1,
        }
        async with self._pool.connection() as conn:
            rows = await (await conn.execute(_PAGE, values)).fetchall()
        entries = [Entry(*row) for row in rows]
        more, entries = len(entries) > limit, entries[:limit]
        metadata: dict[str, Any] = {"count": len(entries)}
        if more:
            metadata["nextCursor"] = _cursor(entries[-1])
        return {"servers": [self.answer(entry) for entry in entries], "metadata": metadata}

    async def versions(self, name: str) -> dict[str, Any] | None:
        """All versions of one server, the latest first."""
        async with self._pool.connection() as conn:
            rows = await (await conn.execute(_VERSIONS, (definitions.visible(name),))).fetchall()
        if not rows:
            return None
        entries = [self.answer(Entry(*row)) for row in rows]
        return {"servers": entries, "metadata": {"count": len(entries)}}

    async def version(self, name: str, version: str) -> dict[str, Any] | None:
        name, version = definitions.visible(name), definitions.visible(version)
        async with self._pool.connection() as conn:
            row = await (await conn.execute(_VERSION, (name, version, version))).fetchone()
        return self.answer(Entry(*row)) if row else None


def _cursor(entry: Entry) -> str:
    return f"{entry.name}:{entry.version}"


def _read_cursor(cursor: str | None) -> tuple[str, str]:
    """A place in the order of names and versions; there need not be anything at it (any more)."""
    name, _, version = definitions.visible(cursor or "").partition(":")
    return name, version


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


_ENTRY = ", ".join(Entry.__dataclass_fields__)
_PAGE = f"""
SELECT {_ENTRY} FROM registry.server_entry
WHERE (name, version) > (%(after_name)s, %(after_version)s)
    AND (%(search)s::text IS NULL OR strpos(lower(name), %(search)s) > 0)
    AND (%(since)s::timestamptz IS NULL OR updated_at >= %(since)s)
    AND (%(version)s::text IS NULL OR version = %(version)s OR (%(version)s = 'latest' AND is_latest))
    AND (status <> 'deleted' OR %(deleted)s)
ORDER BY name, version LIMIT %(limit)s""".encode()
_VERSIONS = (
    f"SELECT {_ENTRY} FROM registry.server_entry WHERE name = %s ORDER BY is_latest DESC, published_at DESC".encode()
)
_VERSION = f"""
SELECT {_ENTRY} FROM registry.server_entry
WHERE name = %s AND (version = %s OR (%s = 'latest' AND is_latest))""".encode()
