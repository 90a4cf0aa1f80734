# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From the options of postgres_audit to its core: what the module and the daily audit of a host have in common.

PRIVATE: internal to the collection, may change in any release. Standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from ansible_collections.mcpstack.platform.plugins.module_utils import _audit_postgres as core
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import LocalFiles
from ansible_collections.mcpstack.platform.plugins.module_utils._engine import Engine, EngineError
from ansible_collections.mcpstack.platform.plugins.module_utils._postgres_ask import EXTENSIONS, Unanswered
from ansible_collections.mcpstack.platform.plugins.module_utils._postgres_login import LoginError, login
from ansible_collections.mcpstack.platform.plugins.module_utils._postgres_state import Server, StateError, identifier

ARGUMENTS = {
    "config_file": {"type": "path"},
    "hba_file": {"type": "path"},
    "ident_file": {"type": "path"},
    "data_dir": {"type": "path"},
    "key_file": {"type": "path", "no_log": False},
    "uid": {"type": "int"},
    "container": {"type": "str"},
    "command": {"type": "list", "elements": "str"},
    "environment": {"type": "list", "elements": "str", "no_log": True},
    "published": {"type": "list", "elements": "str"},
    "contained": {"type": "bool", "default": True},
    "project": {"type": "str", "default": "mcpstack"},
    "service": {"type": "str"},
    "major": {"type": "int", "default": 17},
    "host": {"type": "str"},
    "port": {"type": "int", "default": 5432},
    "server_name": {"type": "str"},
    "ca_file": {"type": "path"},
    "user": {"type": "str"},
    "password_file": {"type": "path", "no_log": False},
    "database": {"type": "str", "default": "postgres"},
    "timeout": {"type": "float", "default": 10},
    "admin_roles": {"type": "list", "elements": "str", "default": ["postgres"]},
    "extensions": {"type": "list", "elements": "str"},
    "subject": {"type": "str", "default": "postgres"},
}


class Wrong(Exception):
    """An option that cannot be used; the text says which and what to do."""


def around(params: Mapping) -> core.Service:
    """What the engine or the options say about the service."""
    if not params["container"]:
        mounts = None if params["environment"] is None else []
        return core.Service(params["command"], params["environment"], mounts, params["published"], params["contained"])
    try:
        inspect = Engine().get(f"/containers/{params['container']}/json")
    except EngineError as error:
        raise Wrong(f"container: {params['container']} cannot be looked at: {error}") from error
    settings, host = inspect.get("Config") or {}, inspect.get("HostConfig") or {}
    published = [
        f"{item.get('HostIp') or '*'}:{item.get('HostPort')}->{port}"
        for port, bindings in sorted((host.get("PortBindings") or {}).items())
        for item in bindings or []
    ]
    mounts = [(item.get("Destination") or "", not item.get("RW")) for item in inspect.get("Mounts") or []]
    command = [*(settings.get("Entrypoint") or []), *(settings.get("Cmd") or [])]
    return core.Service(command, settings.get("Env") or [], mounts, published)


def answer(text: str) -> object:
    """The value of JSON that a question was answered with."""
    try:
        return json.loads(text)
    except ValueError:
        raise Unanswered("the answer cannot be read") from None


def by_container(params: Mapping):
    """Questions through psql in the server's container."""
    try:
        engine = Engine()
        container = engine.find_service_container(params["project"], params["service"])
    except EngineError as error:
        raise Wrong(f"service: {error}") from error
    if container is None:
        raise Wrong(f"service: {params['service']} does not run in project {params['project']}; start it first.")
    server = Server(engine, container, params["major"], params["timeout"])

    def query(sql: str, database: str = "") -> object:
        connect = f"\\connect {identifier(database)}\n" if database else ""
        try:
            lines = server.run(f"{connect}{sql};\n").strip().splitlines()
        except (StateError, EngineError) as error:
            raise Unanswered(str(error)) from error
        return answer(lines[-1] if lines else "")

    return query


def by_network(params: Mapping):
    """Questions over TLS, each with a login of its own."""
    try:
        with open(params["password_file"], encoding="utf-8") as source:
            password = source.read(4096).strip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise Wrong(f"password_file: {params['password_file']} cannot be read: {reason}.") from None

    def query(sql: str, database: str = "") -> object:
        try:
            row = login(
                params["host"], user=params["user"], password=password, database=database or params["database"],
                ca_file=params["ca_file"], server_name=params["server_name"] or params["host"], port=params["port"],
                timeout=params["timeout"], sql=sql,
            )  # fmt: skip
        except LoginError as error:
            raise Unanswered(str(error)) from error
        return answer((row[0] if row else None) or "")

    return query


def run(params: Mapping) -> dict:
    """Judge the server. Raises Wrong."""
    service = around(params)
    query = by_container(params) if params["service"] else by_network(params) if params["host"] else None
    extensions = params["extensions"] if params["extensions"] is not None else sorted(EXTENSIONS)
    return core.audit_postgres(
        core.Request(
            LocalFiles(),
            config_file=params["config_file"] or "",
            hba_file=params["hba_file"] or "",
            ident_file=params["ident_file"] or "",
            data_dir=params["data_dir"] or "",
            key_file=params["key_file"] or "",
            uid=params["uid"],
            service=service,
            admin_roles=params["admin_roles"],
            extensions=extensions,
            subject=params["subject"],
            query=query,
        )
    )
