# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a subcommand of mcpstack-admin works with.

A subcommand is a module with `register(commands)`: it adds its parser and calls `parser.set_defaults(run=function)`,
for every action `function(arguments, context) -> dict`, what is printed as JSON. `{"ok": False}` is exit status 1.
What changes something calls `context.audit(conn, ...)` in the same transaction. What only reads, and what is refused,
is written down by the dispatcher.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import psycopg

from mcpstack.admin.settings import Secrets, Settings
from mcpstack.common import audit, database

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

Run = Callable[[argparse.Namespace, "Context"], dict[str, Any]]


class InputError(Exception):
    """What was asked for cannot be done; the message says what to do instead."""


@dataclass
class Context:
    settings: Settings
    secrets: Secrets
    audited: bool = False  # the command has written its own line, or there is nothing to write

    def parameters(self, what: str = "admin") -> dict[str, Any]:
        settings = self.settings
        return database.parameters(
            settings.db_host,
            settings.db_port,
            settings.db_name,
            settings.tls_ca_file,
            self.secrets.db_login,
            f"mcpstack-{what}",
        )

    @contextlib.contextmanager
    def connect(self) -> Iterator[psycopg.Connection[Any]]:
        """A connection as the owner of the database, in autocommit mode."""
        with psycopg.connect(**self.parameters()) as conn:
            yield conn

    def audit(
        self,
        conn: psycopg.Connection[Any],
        action: str,
        target: str | None = None,
        result: str = "ok",
        arguments: Any = None,
    ) -> None:
        audit.write(conn, audit.make("admin", self.settings.actor, action, target, result, None, arguments))
        self.audited = True


def check_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--check", action="store_true", help="say what would change, change nothing")
