# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Are the model files what the manifest says, is there room, and does the model server answer?

The manifest is JSON: {"files": [{"name": "NAME.gguf", "sha256": "64 hex digits", "size": BYTES}, ...]}, names relative
to the directory. The files are mounted read-only; nothing is changed here.

Repeatable: it reads files and overwrites one row a file. A file that was found good and has kept its size and time of
change is not read again unless asked, so a run that was cut short goes on where it was.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from mcpstack.common.secretfile import SecretError
from mcpstack.worker.kinds import PermanentError, TaskError, Work
from mcpstack.worker.payloads import ModelCache

_CHUNK = 1 << 20
_MANIFEST_LIMIT = 1 << 20
_KNOWN = "SELECT name, sha256, size, mtime_ns FROM jobs.model_file WHERE state = 'good'"
_WRITE = """
INSERT INTO jobs.model_file (name, sha256, size, mtime_ns, state, checked_at) VALUES (%s, %s, %s, %s, %s, now())
ON CONFLICT (name) DO UPDATE SET sha256 = excluded.sha256, size = excluded.size, mtime_ns = excluded.mtime_ns,
    state = excluded.state, checked_at = excluded.checked_at"""
_FORGET = "DELETE FROM jobs.model_file WHERE name <> ALL(%s)"
_STATES = ("good", "missing", "wrong_size", "wrong_hash", "unreadable")
_WARM_UP_SECONDS = 300


class Entry(NamedTuple):
    name: str
    sha256: str
    size: int | None


class Found(NamedTuple):
    state: str
    size: int | None
    mtime_ns: int | None


class StoppedError(Exception):
    """The thread was asked to stop."""


async def run(work: Work, payload: ModelCache) -> dict[str, Any]:
    settings = work.settings
    entries = await asyncio.to_thread(_manifest, settings.models_manifest) if settings.models_manifest else []
    wanted = entries
    if payload.files is not None:
        unknown = sorted(set(payload.files) - {entry.name for entry in entries})
        if unknown:
            raise PermanentError("unknown_file", f"The manifest has no {', '.join(unknown)[:300]}.")
        wanted = [entry for entry in entries if entry.name in payload.files]
    async with work.pool.connection() as conn:
        rows = await (await conn.execute(_KNOWN)).fetchall()
    good = {} if payload.full else {row[0]: row[1:] for row in rows}
    stop = False
    states: dict[str, str] = {}
    try:
        for entry in wanted:
            found = await asyncio.to_thread(
                _examine, settings.models_dir, entry, good.get(entry.name), lambda: stop or work.stopping()
            )
            states[entry.name] = found.state
            async with work.pool.connection() as conn:
                await conn.execute(_WRITE, (entry.name, entry.sha256, found.size, found.mtime_ns, found.state))
    except StoppedError:
        raise asyncio.CancelledError from None
    finally:
        stop = True  # a thread cannot be cancelled: it looks at this after each piece
    free = await asyncio.to_thread(_free, settings.models_dir) if settings.models_manifest else None
    async with work.pool.connection() as conn:
        if payload.files is None:
            await conn.execute(_FORGET, ([entry.name for entry in entries],))
        counts = await (await conn.execute("SELECT state, count(*) FROM jobs.model_file GROUP BY state")).fetchall()
    if free is not None:
        work.metrics.free.set(free)
    for state in _STATES:
        work.metrics.files.labels(state).set(dict(counts).get(state, 0))
    bad = {name: state for name, state in states.items() if state != "good"}
    if bad:
        listing = ", ".join(f"{name}: {state}" for name, state in sorted(bad.items()))
        raise PermanentError("model_files_wrong", f"Not what the manifest says: {listing}"[:1000])
    result: dict[str, Any] = {"files": len(states), "free_bytes": free}
    if payload.warm_up:
        result["warmed_up"] = await _warm_up(work)
    return result


def _manifest(path: Path) -> list[Entry]:
    try:
        with path.open("rb") as handle:
            raw = handle.read(_MANIFEST_LIMIT + 1)
    except FileNotFoundError:
        raise PermanentError("no_manifest", "There is no manifest of the model files.") from None
    except OSError as error:
        raise TaskError("no_manifest", f"The manifest cannot be read ({error.strerror}).") from None
    try:
        return _entries(raw)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise PermanentError("bad_manifest", f"The manifest cannot be used ({type(error).__name__}).") from None


def _entries(raw: bytes) -> list[Entry]:
    if len(raw) > _MANIFEST_LIMIT:
        raise ValueError("too large")
    entries = [_entry(item) for item in json.loads(raw)["files"]]
    if len({entry.name for entry in entries}) != len(entries):
        raise ValueError("a name twice")
    return entries


def _entry(item: dict[str, Any]) -> Entry:
    name, sha256, size = str(item["name"]), str(item["sha256"]), item.get("size")
    inside = re.fullmatch(r"[A-Za-z0-9._/-]{1,512}", name) and not name.startswith("/") and ".." not in name.split("/")
    sized = size is None or (type(size) is int and size >= 0)
    if not inside or not sized or not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise ValueError("an entry is not usable")
    return Entry(name, sha256, size)


def _examine(folder: Path, entry: Entry, good: tuple[Any, ...] | None, stopping: Callable[[], bool]) -> Found:
    try:
        with (folder / entry.name).open("rb") as handle:
            status = os.fstat(handle.fileno())
            if not stat.S_ISREG(status.st_mode):
                return Found("unreadable", None, None)
            size, changed = status.st_size, status.st_mtime_ns
            if entry.size is not None and size != entry.size:
                return Found("wrong_size", size, changed)
            if good == (entry.sha256, size, changed):
                return Found("good", size, changed)
            digest = hashlib.sha256()
            while chunk := handle.read(_CHUNK):
                if stopping():
                    raise StoppedError
                digest.update(chunk)
    except FileNotFoundError:
        return Found("missing", None, None)
    except OSError:
        return Found("unreadable", None, None)
    return Found("good" if digest.hexdigest() == entry.sha256 else "wrong_hash", size, changed)


def _free(folder: Path) -> int:
    try:
        status = os.statvfs(folder)
    except OSError as error:
        raise TaskError("no_models", f"The directory of the models cannot be read ({error.strerror}).") from None
    return status.f_bavail * status.f_frsize


async def _warm_up(work: Work) -> str:
    settings = work.settings
    headers = {"Authorization": f"Bearer {work.secrets.model_api_key.read()}"}
    limit = aiohttp.ClientTimeout(total=_WARM_UP_SECONDS, sock_connect=3)
    try:
        model = settings.warm_up_model
        if model is None:
            async with work.http.get(
                f"{settings.model_url}/v1/models", headers=headers, timeout=limit, allow_redirects=False
            ) as answer:
                listing = json.loads(await answer.content.read(_MANIFEST_LIMIT)) if answer.status == 200 else {}
            model = str(listing["data"][0]["id"])
        body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
        url = f"{settings.model_url}/v1/chat/completions"
        async with work.http.post(url, headers=headers, json=body, timeout=limit, allow_redirects=False) as answer:
            await answer.content.read(_MANIFEST_LIMIT)
            if answer.status != 200:
                raise TaskError("warm_up_failed", f"The model server answered {answer.status}.")
    except (aiohttp.ClientError, OSError, SecretError):
        raise TaskError("model_runner_unavailable", "The model server cannot be reached.") from None
    except (ValueError, KeyError, IndexError, TypeError):
        raise TaskError("warm_up_failed", "The model server does not list its models.") from None
    return model
