# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of the MCP endpoint and of authorization; the registry's Settings inherit them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from mcpstack.common import settings as s
from mcpstack.common.settings import Problem, setting

SET = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", re.ASCII)  # names of sets, like those of servers
LOOPBACK = frozenset(("localhost", "127.0.0.1", "::1"))


def names(raw: str) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(part.strip().lower().strip("[]") for part in raw.split(",") if part.strip()))
    try:
        for name in found:
            s.host(name)
    except ValueError:
        found = ()
    if not found:
        raise ValueError("host names such as mcp.example.org, without ports, separated by commas")
    return found


def origin(raw: str) -> str:
    """https://mcp.example.org, or nothing."""
    url = s.base_url(raw) if raw else ""
    if urlsplit(url).path or url.endswith("?"):
        raise ValueError("an origin such as https://mcp.example.org, without a path")
    return url.lower()


def issuers(raw: str) -> tuple[str, ...]:
    """Issuers are compared letter by letter, so nothing of them is changed here, not even a slash at the end."""
    found = tuple(dict.fromkeys(part.strip() for part in raw.split(",") if part.strip()))
    for issuer in found:
        s.base_url(issuer)
        if not re.fullmatch(r"[\x21-\x7e]{1,512}", issuer):
            raise ValueError("issuers such as https://login.example.org/realms/main, separated by commas")
    return found


def optional_url(raw: str) -> str:
    return s.base_url(raw) if raw else ""


def optional_path(raw: str) -> Path | None:
    return s.path(raw) if raw else None


def switch(raw: str) -> bool:
    return s.choice("true", "false")(raw) == "true"


def sets(raw: str) -> dict[str, dict[str, frozenset[str] | None]]:
    """dev=github+time,docs=git__git_log+fetch: for each set its servers, and of each its tools (None: all)."""
    found: dict[str, dict[str, frozenset[str] | None]] = {}
    for entry in (part.strip() for part in raw.split(",") if part.strip()):
        name, _, members = entry.partition("=")
        chosen: dict[str, frozenset[str] | None] = {}
        for member in members.split("+"):
            server, separator, tool = member.partition("__")
            usable = SET.fullmatch(name) and SET.fullmatch(server) and name not in found
            if not usable or (separator and not re.fullmatch(r"[A-Za-z0-9_.-]{1,128}", tool, re.ASCII)):
                raise ValueError("sets such as dev=github+time,docs=git__git_log+fetch, each name once")
            before = chosen.get(server, frozenset())
            chosen[server] = before | {tool} if separator and before is not None else None
        found[name] = chosen
    return found


@dataclass(frozen=True)
class McpSettings:
    server_names: tuple[str, ...] = setting(
        "localhost", names, "Host names clients use; requests for others are refused (DNS rebinding)"
    )
    public_url: str = setting(
        "", origin, "Origin clients use, when it is not https:// and the first server name; the audience is its /mcp"
    )
    mcp_origins: tuple[str, ...] = setting(
        "", s.origins, "Browser origins that may use MCP besides the server names' own, comma separated"
    )
    mcp_sets: dict[str, dict[str, frozenset[str] | None]] = setting(
        "", sets, "Virtual servers at /mcp/NAME: NAME=server+server__tool, comma separated"
    )
    mcp_max_body_bytes: int = setting("4194304", s.whole(1024, 1 << 26), "Largest MCP request body")
    mcp_body_timeout: float = setting("30", s.seconds(0.1, 600), "Longest time a client may take to send one")
    mcp_max_sessions: int = setting("200", s.whole(1, 100_000), "Open sessions of clients of the older protocol era")
    mcp_max_sessions_each: int = setting("20", s.whole(1, 100_000), "How many of them one caller may have")
    mcp_session_idle: float = setting("600", s.seconds(1, 86400), "Such a session ends when unused for this long")

    oidc_issuers: tuple[str, ...] = setting("", issuers, "Issuers whose access tokens are accepted, comma separated")
    oidc_ca_file: Path | None = setting("", optional_path, "CA of their certificates, when it is a private one")
    oidc_plain_jwt: bool = setting(
        "false", switch, "Accept access tokens that do not say at+jwt (issuers that ignore RFC 9068)"
    )
    oidc_introspection_url: str = setting(
        "", optional_url, "RFC 7662 endpoint of one of the issuers, for its opaque tokens"
    )
    oidc_introspection_login_file: Path = setting(
        "/run/secrets/registry-introspection/current", s.path, "File: client-id:secret for it"
    )

    @property
    def origin(self) -> str:
        name = self.server_names[0]
        return self.public_url or f"https://{f'[{name}]' if ':' in name else name}"

    @property
    def resource(self) -> str:
        """The audience of access tokens: the public URL of the MCP endpoint."""
        return f"{self.origin}/mcp"

    def problems(self, environment: str) -> list[Problem]:
        found = []
        production = environment == "production"
        for name, urls in (
            ("REGISTRY_PUBLIC_URL", (self.public_url,)),
            ("REGISTRY_OIDC_ISSUERS", self.oidc_issuers),
            ("REGISTRY_OIDC_INTROSPECTION_URL", (self.oidc_introspection_url,)),
        ):
            if production and any(url.startswith("http://") for url in urls):
                found.append(
                    Problem(name, "http:// can be read and changed on its way.", "Use https:// in production.")
                )
        if "*" in self.mcp_origins:
            found.append(
                Problem("REGISTRY_MCP_ORIGINS", "'*' lets every web site call the tools.", "Name the origins.")
            )
        host = urlsplit(self.public_url).hostname
        if host is not None and host not in self.server_names:
            what = f"{host} is not one of the server names."
            found.append(Problem("REGISTRY_PUBLIC_URL", what, "Add it to REGISTRY_SERVER_NAMES."))
        if self.oidc_introspection_url and not any(
            _origin(issuer) == _origin(self.oidc_introspection_url) for issuer in self.oidc_issuers
        ):
            what = "is not at one of the issuers, and would be shown their tokens."
            found.append(Problem("REGISTRY_OIDC_INTROSPECTION_URL", what, "Use the issuer's own endpoint."))
        if self.oidc_ca_file is not None:
            try:
                if b"-----BEGIN CERTIFICATE-----" not in self.oidc_ca_file.read_bytes():
                    what = f"{self.oidc_ca_file} holds no certificate."
                    found.append(Problem("REGISTRY_OIDC_CA_FILE", what, "Mount the CA."))
            except OSError as error:
                what = f"{self.oidc_ca_file} cannot be read ({error.strerror})."
                found.append(Problem("REGISTRY_OIDC_CA_FILE", what, "Mount the CA certificate there."))
        return found


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port
