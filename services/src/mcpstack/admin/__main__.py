# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""mcpstack-admin: the gateway's keys and schema, from inside its container.

    mcpstack-admin keys put --name NAME --scopes chat,models   reads the key from standard input
    mcpstack-admin keys list | keys revoke KID | migrate | doctor

Prints one JSON object. The settings are the gateway's own (GATEWAY_*).

Exit status: 0 done (also when nothing had to change), 1 a check of doctor failed, 2 the settings or the arguments
cannot be used, 3 Postgres cannot be used right now, 4 the database does not belong to this release.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import psycopg

from mcpstack.admin import doctor, keystore
from mcpstack.common import apikey, database, migrate
from mcpstack.common.secretfile import SecretError
from mcpstack.common.settings import SettingsError
from mcpstack.gateway import settings
from mcpstack.gateway.keys import COMPONENT, connection_parameters, migrations
from mcpstack.gateway.settings import Secrets, Settings

DONE, FAILED, USAGE, UNAVAILABLE, FOREIGN = range(5)


def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        values, secrets = settings.load()
    except SettingsError as error:
        return _complain(USAGE, *(str(problem) for problem in error.problems))
    try:
        answer = _run(arguments, values, secrets)
    except keystore.InputError as error:
        return _complain(USAGE, str(error))
    except SecretError as error:
        return _complain(USAGE, str(error))
    except migrate.MigrationError as error:
        return _complain(FOREIGN, str(error))
    except psycopg.Error as error:
        return _complain(UNAVAILABLE, f"Postgres cannot be used: {database.reason(error)}. See that it is healthy.")
    print(json.dumps(answer))
    return FAILED if answer.get("ok") is False else DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mcpstack-admin", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    keys = commands.add_parser("keys", help="API keys").add_subparsers(dest="action", required=True)
    put = keys.add_parser("put", help="store a key (standard input), or make a stored one as asked")
    put.add_argument("--name", required=True, help="whose key it is")
    put.add_argument("--scopes", required=True, help=f"comma separated: {', '.join(apikey.SCOPES)}")
    put.add_argument("--rpm", type=int, help="requests a minute (default: GATEWAY_DEFAULT_RPM)")
    put.add_argument("--concurrency", type=int, help="requests at once (default: GATEWAY_DEFAULT_CONCURRENCY)")
    put.add_argument("--expires-at", help="ISO 8601 time with zone")
    keys.add_parser("list", help="all keys, without anything secret")
    revoke = keys.add_parser("revoke", help="a key stops working within GATEWAY_KEY_CACHE_SECONDS")
    revoke.add_argument("kid")
    schema = commands.add_parser("migrate", help="bring the schema up to date")
    for changing in (put, revoke, schema):
        changing.add_argument("--check", action="store_true", help="say what would change, change nothing")
    commands.add_parser("doctor", help="check settings, files, Postgres, Valkey and the model server")
    return parser


def _run(arguments: argparse.Namespace, values: Settings, secrets: Secrets) -> dict[str, Any]:
    if arguments.command == "doctor":
        return doctor.run(values, secrets)
    want = None
    if arguments.command == "keys" and arguments.action == "put":
        text = sys.stdin.read(4096)
        want = keystore.wanted(
            text, arguments.name, arguments.scopes, arguments.rpm, arguments.concurrency, arguments.expires_at
        )
    with psycopg.connect(**connection_parameters(values, secrets, "mcpstack-admin")) as conn:
        if arguments.command == "migrate":
            return _migrate(conn, check=arguments.check)
        if arguments.action == "list":
            return {"keys": keystore.listing(conn) if not _todo(conn) else []}
        if not getattr(arguments, "check", False):
            migrate.apply(conn, migrations(), COMPONENT)
        elif _todo(conn):
            if want is None:
                raise keystore.InputError("There are no keys yet: the schema is still to be made.")
            return {"changed": True, "kid": want.key.kid, "created": True, "fields": []}
        if want is None:
            return keystore.revoke(conn, arguments.kid, check=arguments.check)
        answer = keystore.put(conn, want, secrets.pepper.read(), check=arguments.check)
        answer["also_active"] = keystore.others(conn, want.name, want.key.kid)
        expected = apikey.ENVIRONMENTS[values.environment]
        answer["warnings"] = (
            [f"The key was made for {want.key.environment}, this installation is {expected}."]
            if want.key.environment != expected
            else []
        )
        return answer


def _todo(conn: psycopg.Connection[Any]) -> list[migrate.Migration]:
    return migrate.status(conn, migrations(), COMPONENT)


def _migrate(conn: psycopg.Connection[Any], *, check: bool) -> dict[str, Any]:
    todo = _todo(conn) if check else migrate.apply(conn, migrations(), COMPONENT)
    return {"changed": bool(todo), "migrations": [f"{entry.version:04d}_{entry.name}" for entry in todo]}


def _complain(status: int, *sentences: str) -> int:
    for sentence in sentences:
        sys.stderr.write(f"mcpstack-admin: {sentence}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
