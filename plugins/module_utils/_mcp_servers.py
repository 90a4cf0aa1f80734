# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring the registry's MCP servers to what is declared, over its REST API. PRIVATE, may change at any time.

Asked is the edge, as by any client, with the operator's key. Servers that are not declared are left alone.
"""

from __future__ import annotations

import http.client
from collections.abc import Callable, Mapping

from ansible_collections.mcpstack.platform.plugins.module_utils._endpoint_probe import Probe, ProbeError, read_key

_PAGE = 100
#: Option -> member of the API, and what an option that is left out means.
MEMBERS = {
    "url": ("url", None),
    "description": ("description", ""),
    "trust": ("trust", "untrusted"),
    "enabled": ("enabled", True),
    "timeout": ("call_timeout", 30),
    "sync_interval": ("sync_interval", 900),
}


class ServersError(Exception):
    """The text says which server, what is wrong and what to do."""


class NotYet(ServersError):
    """The registry cannot be asked yet; a dry run may pass over it."""


def wanted(server: Mapping) -> dict:
    """What the API is to say of a declared server."""
    body = {member: default if server.get(key) is None else server[key] for key, (member, default) in MEMBERS.items()}
    # The secret of a server lies in a file that is called after it.
    return {**body, "auth_ref": server["id"] if server.get("key_file") else None}


def plan(servers: list[Mapping], present: Mapping[str, Mapping]) -> list[tuple[str, str, dict]]:
    """(action, id, what the API is sent) of each server that is not as declared."""
    found = []
    for server in servers:
        name, have = server["id"], present.get(server["id"])
        if server.get("state") == "absent":
            if have is not None:
                found.append(("remove", name, {}))
            continue
        body = wanted(server)
        if have is None:
            found.append(("register", name, {"id": name, **body}))
        elif any(have.get(member) != value for member, value in body.items()):
            found.append(("change", name, {"id": name, **body}))
    return found


class Registry:
    """The REST API behind the edge."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe

    def ask(self, method: str, path: str, body: dict | None = None, ok: tuple[int, ...] = (200,)) -> dict:
        """One request; raises ServersError with what the registry answered."""
        try:
            answer = self._probe._request(method, path, body, self._probe.key)
        except (OSError, http.client.HTTPException) as error:
            raise NotYet(f"{self._probe.where}: the registry cannot be asked ({error}); run site.yml first.") from None
        said = answer.json()
        if answer.status in ok:
            return said if isinstance(said, dict) else {}
        error = said.get("error") if isinstance(said, dict) else None
        error = error if isinstance(error, dict) else {}
        told = [str(error.get("message") or f"it answered {answer.status}")]
        told += [str(item) for item in error.get("suggestions") or []]
        kind = NotYet if answer.status in (502, 503, 504) else ServersError
        raise kind(" ".join(told))

    def servers(self) -> dict[str, dict]:
        """All registered servers by id."""
        found: dict[str, dict] = {}
        after = ""
        while True:
            page = self.ask("GET", f"/v1/servers?limit={_PAGE}{f'&after={after}' if after else ''}")
            found.update({item["id"]: item for item in page.get("data") or [] if isinstance(item, dict)})
            following = page.get("next")
            if not following or following == after:
                return found
            after = str(following)


def reconcile(
    servers: list[Mapping],
    url: str,
    api_key_file: str,
    connect_to: str | None = None,
    ca_file: str | None = None,
    check: bool = False,
    probe: Callable[..., Probe] = Probe,
) -> dict:
    """Register, change and remove; returns ``changed`` and ``actions``."""
    try:
        registry = Registry(probe(url, read_key(api_key_file), connect_to, ca_file=ca_file))
    except ProbeError as error:
        raise NotYet(str(error)) from None
    actions = plan(servers, registry.servers())
    for action, name, body in () if check else actions:
        try:
            if action == "remove":
                registry.ask("DELETE", f"/v1/servers/{name}", ok=(204, 404))
            else:
                registry.ask("POST", "/v1/servers", body, ok=(200, 201))
        except ServersError as error:
            raise type(error)(f"server {name}: {error}") from None
    return {"changed": bool(actions), "actions": [f"{action} {name}" for action, name, _body in actions]}
