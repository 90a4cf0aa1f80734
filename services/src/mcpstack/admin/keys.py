# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""mcpstack-admin keys: a secret is shown once, by create and rotate, and never again."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from mcpstack.admin import keystore
from mcpstack.admin.context import Commands, Context, check_option
from mcpstack.common import apikey


def register(commands: Commands) -> None:
    keys = commands.add_parser("keys", help="API keys").add_subparsers(dest="action", required=True)
    put = keys.add_parser("put", help="store a key (standard input), or make a stored one as asked")
    create = keys.add_parser("create", help="make a key and show it once")
    for parser in (put, create):
        parser.add_argument("--name", required=True, help="who it is for")
        parser.add_argument("--scopes", required=True, help=f"comma separated: {', '.join(apikey.SCOPES)}")
        parser.add_argument("--rpm", type=int, help="requests a minute (default: the service's)")
        parser.add_argument("--concurrency", type=int, help="requests at once (default: the service's)")
        parser.add_argument("--tpm", type=int, help="tokens a minute (default: the service's)")
        parser.add_argument("--tokens-day", type=int, help="tokens a day (default: the service's)")
        parser.add_argument("--tokens-month", type=int, help="tokens a month (default: the service's)")
        parser.add_argument("--cache", action="store_true", help="answers may come from the response cache")
        parser.add_argument("--expires-at", help="ISO 8601 time with zone")
    rotate = keys.add_parser("rotate", help="give a key a new secret and show it once")
    rotate.add_argument("kid")
    rotate.add_argument("--overlap", default="24h", help="how long the old secret goes on working (default: 24h)")
    revoke = keys.add_parser("revoke", help="a key, or one of its secrets, stops working at once")
    revoke.add_argument("kid")
    revoke.add_argument("--secret", type=int, help="only this one (see show)")
    listing = keys.add_parser("list", help="all keys, without anything secret")
    show = keys.add_parser("show", help="one key and its secrets, without anything secret")
    show.add_argument("kid")
    for parser, run in (
        (put, _put),
        (create, _create),
        (rotate, _rotate),
        (revoke, _revoke),
        (listing, _list),
        (show, _show),
    ):
        parser.set_defaults(run=run)
    for parser in (put, create, rotate, revoke):
        check_option(parser)


def _wanted(arguments: argparse.Namespace) -> keystore.Wanted:
    return keystore.wanted(
        arguments.name,
        arguments.scopes,
        arguments.expires_at,
        arguments.cache,
        rpm=arguments.rpm,
        concurrency=arguments.concurrency,
        tpm=arguments.tpm,
        tokens_day=arguments.tokens_day,
        tokens_month=arguments.tokens_month,
    )


def _put(arguments: argparse.Namespace, context: Context) -> dict[str, Any]:
    key, want = keystore.given_key(sys.stdin.buffer.read(4096)), _wanted(arguments)
    answer = _store(arguments, context, key, want)
    expected = apikey.ENVIRONMENTS[context.settings.environment]
    if key.environment != expected:
        answer["warnings"].append(f"The key was made for {key.environment}, this installation is {expected}.")
    return answer


def _create(arguments: argparse.Namespace, context: Context) -> dict[str, Any]:
    want = _wanted(arguments)
    key = apikey.generate(apikey.ENVIRONMENTS[context.settings.environment])
    answer = _store(arguments, context, key, want)
    return {"changed": True} if arguments.check else answer | {"key": key.text}


def _store(
    arguments: argparse.Namespace, context: Context, key: apikey.ApiKey, want: keystore.Wanted
) -> dict[str, Any]:
    with context.connect() as conn, conn.transaction():
        answer = keystore.put(conn, key, want, context.secrets.pepper.read(), check=arguments.check)
        answer["also_active"] = keystore.others(conn, want.name, key.kid)
        if not arguments.check:
            result = "ok" if answer["changed"] else "unchanged"
            context.audit(conn, f"keys {arguments.action}", key.kid, result, want.row())
    return answer


def _rotate(arguments: argparse.Namespace, context: Context) -> dict[str, Any]:
    overlap = keystore.overlap(arguments.overlap)
    environment = apikey.ENVIRONMENTS[context.settings.environment]
    peppers = context.secrets.pepper.read()
    with context.connect() as conn, conn.transaction():
        answer, key = keystore.rotate(conn, arguments.kid, environment, peppers, overlap, check=arguments.check)
        if not arguments.check:
            context.audit(conn, "keys rotate", arguments.kid, "ok", {"overlap": arguments.overlap})
    return answer if key is None else answer | {"key": key.text}


def _revoke(arguments: argparse.Namespace, context: Context) -> dict[str, Any]:
    with context.connect() as conn, conn.transaction():
        answer = keystore.revoke(conn, arguments.kid, arguments.secret, check=arguments.check)
        if not arguments.check:
            result = "ok" if answer["changed"] else "unchanged"
            context.audit(conn, "keys revoke", arguments.kid, result, {"secret": arguments.secret})
    return answer


def _list(_: argparse.Namespace, context: Context) -> dict[str, Any]:
    with context.connect() as conn:
        return {"keys": keystore.listing(conn)}


def _show(arguments: argparse.Namespace, context: Context) -> dict[str, Any]:
    with context.connect() as conn:
        return {"key": keystore.listing(conn, arguments.kid)[0]}
