# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the services reach Postgres: TLS with a verified name, and the login read for every new connection."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import psycopg

from mcpstack.common.secretfile import Login, SecretFile


def parameters(host: str, port: int, name: str, ca_file: Path, login: SecretFile[Login], role: str) -> dict[str, Any]:
    user, password = login.read()
    return {
        "host": host,
        "port": port,
        "dbname": name,
        "user": user,
        "password": password,
        "sslmode": "verify-full",
        "sslrootcert": str(ca_file),
        "connect_timeout": 3,
        "application_name": role,
        "options": "-c statement_timeout=3000 -c idle_in_transaction_session_timeout=10000",
        "keepalives_idle": 15,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 10000,
        "autocommit": True,
    }


async def give_up(task: asyncio.Task[Any], patience: float = 0.0) -> None:
    """End a task that talks to Postgres, after `patience`, even while the server is frozen.

    The first cancellation makes psycopg ask the server to stop the query, and wait for it; the second one makes it let
    go of the connection.
    """
    if patience:
        await asyncio.wait({task}, timeout=patience)
    for _ in range(3):
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=0.3)
    if task.done() and not task.cancelled():
        task.exception()  # nobody else asks for it


def reason(error: BaseException) -> str:
    """Why Postgres could not be used, in a few words without addresses."""
    text = str(error).lower()
    for needle, words in (
        ("password authentication failed", "the login is refused"),
        ("certificate", "its certificate is not trusted"),
        ("ssl", "TLS fails"),
        ("does not exist", "the database or role does not exist"),
        ("permission denied", "a permission is missing"),
        ("timeout", "it does not answer in time"),
        ("starting up", "it is starting"),
    ):
        if needle in text:
            return words
    return "it cannot be used" if isinstance(error, psycopg.ProgrammingError) else "no connection"
