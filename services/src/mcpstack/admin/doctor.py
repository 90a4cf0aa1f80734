# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Look at everything the gateway needs, from where the gateway runs, and say what to do about what is missing."""

from __future__ import annotations

import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import psycopg

from mcpstack.common import database, migrate
from mcpstack.gateway.keys import COMPONENT, connection_parameters, migrations
from mcpstack.gateway.settings import Secrets, Settings


class FailedCheckError(Exception):
    def __init__(self, detail: str, fix: str) -> None:
        super().__init__(detail)
        self.fix = fix


def run(settings: Settings, secrets: Secrets) -> dict[str, Any]:
    """{"ok": bool, "checks": [{"id", "status": pass|fail, "detail", "fix"}]}. Settings and files were read already."""
    checks: list[dict[str, Any]] = [{"id": "settings", "status": "pass", "detail": "all readable", "fix": None}]
    for name, check in (
        ("postgres", _postgres),
        ("valkey", _valkey),
        ("model_runner", _model_runner),
    ):
        checks.append(_one(name, check, settings, secrets))
    return {"ok": all(check["status"] == "pass" for check in checks), "checks": checks}


def _one(name: str, check: Callable[[Settings, Secrets], str], settings: Settings, secrets: Secrets) -> dict[str, Any]:
    try:
        return {"id": name, "status": "pass", "detail": check(settings, secrets), "fix": None}
    except FailedCheckError as error:
        return {"id": name, "status": "fail", "detail": str(error), "fix": error.fix}


def _postgres(settings: Settings, secrets: Secrets) -> str:
    try:
        with psycopg.connect(**connection_parameters(settings, secrets, "mcpstack-doctor")) as conn:
            row = conn.execute(
                "SELECT current_user, session_user, rolsuper FROM pg_roles WHERE rolname = session_user"
            ).fetchone()
            todo = migrate.status(conn, migrations(), COMPONENT)
    except migrate.MigrationError as error:
        raise FailedCheckError(str(error), "Run the release that belongs to this database.") from error
    except (psycopg.Error, OSError) as error:
        raise FailedCheckError(
            f"Postgres cannot be used: {database.reason(error)}.", "See that postgres is healthy; run the deploy again."
        ) from error
    if row is None or row[2]:
        raise FailedCheckError("The gateway's login is a superuser.", "Give it an ordinary role; run the deploy again.")
    if todo:
        raise FailedCheckError(f"{len(todo)} migration(s) are still to do.", "Run mcpstack-admin migrate.")
    return f"{row[1]} acts as {row[0]}, the schema is up to date"


def _valkey(settings: Settings, secrets: Secrets) -> str:
    context = ssl.create_default_context(cafile=str(settings.tls_ca_file))
    password = secrets.valkey_password.read()
    fix = "See that valkey is healthy; run the deploy again."
    try:
        with (
            socket.create_connection((settings.valkey_host, settings.valkey_port), timeout=3) as plain,
            context.wrap_socket(plain, server_hostname=settings.valkey_host) as sock,
        ):
            key = settings.valkey_prefix + "doctor"
            for words, good in (
                (("AUTH", settings.valkey_user, password), b"+OK"),
                (("EVAL", "return redis.call('TIME')[1]", "0"), b"$"),
                (("HMGET", key, "n"), b"*"),
            ):
                parts = [f"*{len(words)}", *(part for word in words for part in (f"${len(word)}", word))]
                sock.sendall(("\r\n".join(parts) + "\r\n").encode())
                answer = sock.recv(4096)
                if not answer.startswith(good):
                    code = answer[1:].split(b" ")[0][:20].decode("ascii", "replace")
                    raise FailedCheckError(f"Valkey refuses {words[0]} for user {settings.valkey_user}: {code}.", fix)
    except ssl.SSLCertVerificationError as error:
        raise FailedCheckError(f"Valkey's certificate is not trusted: {error.verify_message}.", fix) from error
    except OSError as error:
        raise FailedCheckError(f"Valkey cannot be reached: {error.strerror or 'no answer'}.", fix) from error
    return f"user {settings.valkey_user} may run the limiter"


def _model_runner(settings: Settings, secrets: Secrets) -> str:
    fix = "See that model-runner is healthy and that both read the same key."
    request = urllib.request.Request(  # noqa: S310 - the setting allows http and https only
        settings.model_url + "/v1/models", headers={"Authorization": f"Bearer {secrets.model_api_key.read()}"}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=5) as answer:
            answer.read(65536)
    except urllib.error.HTTPError as error:
        raise FailedCheckError(f"The model server answers {error.code}.", fix) from error
    except (OSError, ValueError) as error:
        raise FailedCheckError("The model server cannot be reached.", fix) from error
    return "it lists its models"
