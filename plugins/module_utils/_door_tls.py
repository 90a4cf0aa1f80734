# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From the options of tls_audit to its core: what the module and the daily audit of a host have in common.

PRIVATE: internal to the collection, may change in any release. Standard library only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from ansible_collections.mcpstack.platform.plugins.module_utils import _audit_tls as core
from ansible_collections.mcpstack.platform.plugins.module_utils._tls_probe import Endpoint

ARGUMENTS = {
    "host": {"type": "str", "required": True},
    "port": {"type": "int", "default": 443},
    "server_names": {"type": "list", "elements": "str", "default": []},
    "ca_file": {"type": "path"},
    "http_port": {"type": "int", "default": 80},
    "http": {"type": "bool", "default": True},
    "starttls": {"type": "str", "choices": ["none", "postgres"], "default": "none"},
    "requests": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "method": {"type": "str", "choices": ["GET", "HEAD", "OPTIONS"], "default": "GET"},
            "path": {"type": "str", "required": True},
        },
    },
    "protected_paths": {"type": "list", "elements": "str", "default": []},
    "profile": {"type": "str", "choices": ["intermediate", "modern"], "default": "intermediate"},
    "production": {"type": "bool", "default": False},
    "timeout": {"type": "float", "default": 5},
    "total_timeout": {"type": "float", "default": 120},
}


class Wrong(Exception):
    """An option that cannot be used; the text says which and what to do."""


def problem(params: Mapping) -> str:
    """What is wrong with the options; empty when nothing is."""
    for option in ("port", "http_port"):
        if not (0 if option == "http_port" else 1) <= params[option] <= 65535:
            return f"{option}: {params[option]} is no port; give a number from 1 to 65535."
    for option in ("timeout", "total_timeout"):
        if not 0 < params[option] <= 3600:
            return f"{option}: {params[option]:g} is out of range; give seconds, more than 0 and at most 3600."
    for name in (params["host"], *params["server_names"]):
        if not re.fullmatch(r"[^\s/\x00-\x20\x7f]{1,253}", name):
            return f"{name!r} is no host name; give a name or an address without scheme, port or path."
    for path in (*(item["path"] for item in params["requests"]), *params["protected_paths"]):
        if not re.fullmatch(r"/[\x21-\x7e]*", path):
            return f"{path!r} is no path; it begins with a slash and is percent-encoded."
    if params["ca_file"] and not os.path.isfile(params["ca_file"]):
        return f"ca_file: {params['ca_file']} is no file on this machine; name the PEM file of the authority."
    return ""


def run(params: Mapping) -> dict:
    """Judge the endpoint. Raises Wrong."""
    wrong = problem(params)
    if wrong:
        raise Wrong(wrong)
    endpoint = Endpoint(
        params["host"], params["port"], params["starttls"], timeout=params["timeout"], total=params["total_timeout"]
    )
    return core.audit_tls(
        core.Request(
            endpoint,
            params["server_names"] or [params["host"]],
            ca_file=params["ca_file"],
            http_port=params["http_port"] or None,
            http=params["http"],
            requests=[(item["method"], item["path"]) for item in params["requests"]],
            protected=params["protected_paths"],
            profile=params["profile"],
            production=params["production"],
        )
    )
