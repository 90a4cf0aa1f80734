# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From the options of valkey_audit to its core: what the module and the daily audit of a host have in common.

PRIVATE: internal to the collection, may change in any release. Standard library only.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping

from ansible_collections.mcpstack.platform.plugins.module_utils import _audit_valkey as core
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import LocalFiles
from ansible_collections.mcpstack.platform.plugins.module_utils._engine import Engine, EngineError
from ansible_collections.mcpstack.platform.plugins.module_utils._valkey_client import Client
from ansible_collections.mcpstack.platform.plugins.module_utils._valkey_config import memory
from ansible_collections.mcpstack.platform.plugins.module_utils._valkey_service import Service, service_of

ARGUMENTS = {
    "config": {"type": "path"},
    "acl_file": {"type": "path"},
    "data_dir": {"type": "path"},
    "container": {"type": "str"},
    "command": {"type": "list", "elements": "str"},
    "environment": {"type": "list", "elements": "str", "no_log": True},
    "healthcheck": {"type": "list", "elements": "str"},
    "memory_limit": {"type": "str"},
    "published": {"type": "list", "elements": "str"},
    "contained": {"type": "bool", "default": True},
    "internal_network": {"type": "bool", "default": False},
    "admin_users": {"type": "list", "elements": "str", "default": []},
    "use": {"type": "str", "choices": ["any", "cache", "store"], "default": "any"},
    "version": {"type": "str", "default": ""},
    "host": {"type": "str"},
    "port": {"type": "int", "default": 6379},
    "unix_socket": {"type": "path"},
    "tls": {"type": "bool", "default": True},
    "ca_file": {"type": "path"},
    "server_name": {"type": "str"},
    "user": {"type": "str"},
    "password_file": {"type": "path", "no_log": False},
    "timeout": {"type": "float", "default": 5},
    "subject": {"type": "str", "default": "valkey"},
}


class Wrong(Exception):
    """An option that cannot be used; the text says which and what to do."""


def service(params: Mapping) -> Service:
    """What the engine or the options say about the service."""
    if params["container"]:
        try:
            return service_of(Engine().get(f"/containers/{params['container']}/json"))
        except EngineError as error:
            raise Wrong(f"container: {params['container']} cannot be looked at: {error}") from error
    limit = None
    if params["memory_limit"]:
        text = params["memory_limit"].lower()
        # Docker's k, m and g are powers of 1024 with and without the b.
        limit = memory(text if text.endswith("b") or text.isdigit() else f"{text}b")
        if not limit:
            raise Wrong(f"memory_limit: {params['memory_limit']!r} is no size; write it like 128m or 2g.")
    return Service(
        params["command"], params["environment"], params["healthcheck"], limit, params["published"], params["contained"]
    )


def connection(params: Mapping):
    """How to reach the server, and the password; (None, "") where no server is to be asked."""
    if not params["host"] and not params["unix_socket"]:
        return None, ""
    context = None
    try:
        if params["tls"] and not params["unix_socket"]:
            context = ssl.create_default_context(cafile=params["ca_file"])
            if not params["ca_file"]:
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        password = ""
        if params["password_file"]:
            with open(params["password_file"], encoding="utf-8") as source:
                password = source.read(4096).strip("\r\n")
    except (OSError, ValueError) as error:
        name = "ca_file" if isinstance(error, ssl.SSLError) else getattr(error, "filename", None) or "password_file"
        reason = getattr(error, "strerror", None) or "it is not text"
        raise Wrong(f"{name} cannot be read: {reason}.") from None

    def connect() -> Client:
        return Client(
            params["host"] or "", params["port"], params["unix_socket"] or "", context, params["server_name"] or "",
            params["timeout"],
        )  # fmt: skip

    return connect, password


def run(params: Mapping) -> dict:
    """Judge the server. Raises Wrong."""
    around = service(params)
    connect, password = connection(params)
    return core.audit_valkey(
        core.Request(
            LocalFiles(),
            config=params["config"] or "",
            acl_file=params["acl_file"] or "",
            data_dir=params["data_dir"] or "",
            service=around,
            admin_users=params["admin_users"],
            internal_network=params["internal_network"],
            use=params["use"],
            version=params["version"],
            subject=params["subject"],
            open=connect,
            user=params["user"] or "",
            password=password,
        )
    )
