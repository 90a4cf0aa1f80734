# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""mcpstack-admin: keys, schema and the state of the stack. Prints one JSON object; the settings are ADMIN_*.

Exit status: 0 done (also when nothing had to change), 1 a check of doctor failed, 2 the settings or the arguments
cannot be used, 3 Postgres cannot be used right now, 4 the database does not belong to this release.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from importlib import import_module

import psycopg

from mcpstack.admin import settings
from mcpstack.admin.context import Context, InputError
from mcpstack.common import database, migrate
from mcpstack.common.secretfile import SecretError
from mcpstack.common.settings import SettingsError

DONE, FAILED, USAGE, UNAVAILABLE, FOREIGN = range(5)

# Each is a module of this package with register(commands); see context.py.
SUBCOMMANDS = (
    "keys",
    "schema",
    "dead_letters",
    "doctor",
)


def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        context = Context(*settings.load())
    except SettingsError as error:
        return _complain(USAGE, *(str(problem) for problem in error.problems))
    try:
        answer = arguments.run(arguments, context)
    except (InputError, SecretError) as error:
        _note(arguments, context, "refused")
        return _complain(USAGE, str(error))
    except migrate.MigrationError as error:
        return _complain(FOREIGN, str(error))
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName, psycopg.errors.UndefinedColumn):
        return _complain(FOREIGN, "The database has not the schema of this release. Run mcpstack-admin migrate.")
    except psycopg.errors.InsufficientPrivilege as error:
        _note(arguments, context, "failed")
        return _complain(
            UNAVAILABLE,
            f"Postgres cannot be used: {database.reason(error)}. See that it is healthy, and that the login is one of "
            "the database's owner.",
        )
    except psycopg.Error as error:
        if not isinstance(error, psycopg.OperationalError):
            _note(arguments, context, "failed")
        return _complain(UNAVAILABLE, f"Postgres cannot be used: {database.reason(error)}. See that it is healthy.")
    if not context.audited and not getattr(arguments, "check", False):
        _note(arguments, context, "ok")
    print(json.dumps(answer))
    return FAILED if answer.get("ok") is False else DONE


def _note(arguments: argparse.Namespace, context: Context, result: str) -> None:
    """One line of audit for what only read, or was refused; a database that cannot be written is no reason to fail."""
    words = [arguments.command, getattr(arguments, "action", None)]
    with contextlib.suppress(psycopg.Error, SecretError), context.connect() as conn:
        context.audit(conn, " ".join(filter(None, words)), getattr(arguments, "kid", None), result)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mcpstack-admin", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in SUBCOMMANDS:
        import_module(f"mcpstack.admin.{name}").register(commands)
    return parser


def _complain(status: int, *sentences: str) -> int:
    for sentence in sentences:
        sys.stderr.write(f"mcpstack-admin: {sentence}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
