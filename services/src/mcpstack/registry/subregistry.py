# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The official registry API, v0.1, for reading: clients can use this registry as their private subregistry.

A server that was registered from a server.json is listed with that document, any other one with a document made of its
row. Where clients are to connect is always this registry's own /mcp/ID: behind it are the keys, the approvals and the
records. What the document said about itself stays in `_meta`.
"""

# ruff: noqa: S608 - what is put into a statement here is names of columns, constants of this module

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mcpstack.registry import definitions
from mcpstack.registry.store import Entry, Pool, ServerSpec

SCHEMA = "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json"
OFFICIAL = "io.modelcontextprotocol.registry/official"
PUBLISHER = "io.modelcontextprotocol.registry/publisher-provided"
NAME = re.compile(r"[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+\Z", re.ASCII)
LIMIT = 100
_DOCUMENT_BYTES = 65536
_RANGE = re.compile(r"[\^~<>=*]|\.x\b|\s", re.ASCII)


class DocumentError(ValueError):
    """This is no server.json that can be registered; the message says where and why."""


@dataclass(frozen=True, slots=True)
class Document:
    """What is needed of a server.json, and the document itself, cleaned."""

    name: str
    version: str
    title: str
    description: str
    url: str | None
    transport: str
    document: dict[str, Any]


def read(raw: Mapping[str, Any]) -> Document:
    """A server.json (2025-12-11)."""
    try:
        document = definitions.clean_json("server", raw, _DOCUMENT_BYTES)
    except definitions.DefinitionError as error:
        raise DocumentError(str(error)) from None
    name = _text(document, "name", 200, 3)
    if not NAME.match(name):
        raise DocumentError("server.name must be a domain written backwards, a slash and a name")
    version = _text(document, "version", 255, 1)
    if version == "latest" or _RANGE.search(version):
        raise DocumentError("server.version must be one version, not a range and not 'latest'")
    description = _text(document, "description", 100, 1)
    title = _text(document, "title", 100, 1) if "title" in document else ""
    remotes, packages = document.get("remotes", []), document.get("packages", [])
    for key, found in (("remotes", remotes), ("packages", packages)):
        if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
            raise DocumentError(f"server.{key} must be a list of objects")
    url = transport = None
    for remote in remotes:
        kind, where = remote.get("type"), remote.get("url")
        if kind not in ("streamable-http", "sse") or not isinstance(where, str):
            raise DocumentError("server.remotes: each needs a type (streamable-http or sse) and a url")
        # One with {variables} cannot be used as it is; the operator gives the URL then.
        if kind == "streamable-http" and url is None and "{" not in where:
            url, transport = where, kind
    document["$schema"] = SCHEMA
    return Document(name, version, title, description, url, transport or "streamable-http", document)


def _text(document: Mapping[str, Any], key: str, most: int, least: int) -> str:
    value = document.get(key)
    if not isinstance(value, str) or not least <= len(value) <= most:
        raise DocumentError(f"server.{key} must be a text of {least} to {most} characters")
    return value


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
        own: dict[str, Any] = {"id": entry.server_id}
        for key in ("remotes", "packages"):
            if document.pop(key, None) is not None:
                own[f"declared{key.title()}"] = entry.document[key]
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


class CursorError(ValueError):
    pass


def _cursor(entry: Entry) -> str:
    text = json.dumps([entry.name, entry.version], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _read_cursor(cursor: str | None) -> tuple[str, str]:
    if not cursor:
        return "", ""
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        name, version = json.loads(raw.decode())
        if not isinstance(name, str) or not isinstance(version, str):
            raise CursorError
        return definitions.visible(name), definitions.visible(version)
    except (ValueError, TypeError, binascii.Error, RecursionError):
        raise CursorError("this cursor did not come from here") from None


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
