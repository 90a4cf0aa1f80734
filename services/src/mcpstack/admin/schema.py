# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""mcpstack-admin migrate: the only thing that changes the schema."""

from __future__ import annotations

import argparse
from typing import Any

from mcpstack.admin.context import Commands, Context, check_option
from mcpstack.common import migrate


def register(commands: Commands) -> None:
    parser = commands.add_parser("migrate", help="bring the schema of all services up to date")
    check_option(parser)
    parser.set_defaults(run=_migrate)


def _migrate(arguments: argparse.Namespace, context: Context) -> dict[str, Any]:
    with context.connect() as conn:
        if arguments.check:
            todo = [
                migrate.Applied(component, entry)
                for component in migrate.COMPONENTS
                for entry in migrate.status(conn, component)
            ]
        else:
            todo = migrate.apply(conn)
            names = [str(entry) for entry in todo]
            context.audit(conn, "migrate", names[-1] if names else None, "ok" if names else "unchanged", names)
    return {"changed": bool(todo), "migrations": [str(entry) for entry in todo]}
