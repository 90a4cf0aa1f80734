# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may use the registry: API keys and access tokens, and what a refusal tells the client to do next.

Both the MCP endpoint and the REST routes ask `Authenticator.authenticate`, then `require`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from starlette.requests import HTTPConnection

from mcpstack.common.errors import ApiError
from mcpstack.common.secretfile import Login, SecretFile
from mcpstack.registry.mcp_settings import McpSettings
from mcpstack.registry.oauth import (
    Fetcher,
    Introspection,
    InvalidTokenError,
    IssuerUnavailableError,
    TokenVerifier,
    origin_of,
    principal,
)
from mcpstack.registry.principal import CALL, READ, SCOPES, Principal

WELL_KNOWN = "/.well-known/oauth-protected-resource"
_QUOTABLE = str.maketrans({'"': "'", "\\": "/"})


class Key(Protocol):
    @property
    def kid(self) -> str: ...
    @property
    def scopes(self) -> frozenset[str]: ...
    @property
    def rpm(self) -> int | None: ...
    @property
    def concurrency(self) -> int | None: ...


class Keys(Protocol):
    async def verify(self, header: str | None) -> Key: ...


class Authenticator:
    def __init__(self, keys: Keys, tokens: TokenVerifier, origin: str, resource: str) -> None:
        self._keys = keys
        self._tokens = tokens
        self._origin = origin
        self.resource = resource

    @property
    def issuers(self) -> tuple[str, ...]:
        return tuple(self._tokens.issuers)

    async def authenticate(self, connection: HTTPConnection, path: str = "/mcp") -> Principal:
        """The principal behind the Authorization header, or the ApiError for the client.

        `path` is the part of the MCP endpoint that is asked for: a token may be meant for that part alone.
        """
        given = connection.headers.getlist("authorization")
        scheme, _, text = (given[0] if given else "").partition(" ")
        text = text.strip()
        if scheme.lower() != "bearer" or not text:
            message = "This endpoint needs an API key or an access token in the Authorization header."
            raise self._challenge(ApiError("missing_api_key", message), path)
        if len(given) > 1:
            raise self._invalid("There is more than one Authorization header.", path)
        try:
            if text.startswith("mk_"):
                return await self._key(f"Bearer {text}")
            audiences = {self.resource, f"{self._origin}{path}"}
            audiences |= {f"{audience}/" for audience in audiences}
            return principal(await self._tokens.verify(text, frozenset(audiences)))
        except InvalidTokenError as error:
            raise self._invalid(str(error), path) from None
        except IssuerUnavailableError:
            message = "Access tokens cannot be checked at the moment: their issuer does not answer."
            raise ApiError("auth_unavailable", message, reason="issuer") from None
        except ApiError as error:
            raise self._challenge(error, path) from None

    def require(self, who: Principal, scopes: Iterable[str], path: str = "/mcp") -> None:
        """Raise unless he has all of the scopes."""
        missing = [scope for scope in scopes if scope not in who.scopes]
        if missing:
            message = f"This needs the scope {' '.join(missing)}."
            wanted = [scope for scope in SCOPES if scope in who.scopes or scope in missing]
            raise self._challenge(ApiError("insufficient_scope", message, param=missing[0]), path, wanted)

    async def _key(self, header: str) -> Principal:
        key = await self._keys.verify(header)
        scopes = key.scopes.intersection(SCOPES)
        return Principal(key.kid, "key", scopes, kid=key.kid, rpm=key.rpm, concurrency=key.concurrency)

    def _invalid(self, message: str, path: str) -> ApiError:
        return self._challenge(ApiError("invalid_token", message), path)

    def _challenge(self, error: ApiError, path: str, scopes: Iterable[str] = (READ, CALL)) -> ApiError:
        """RFC 6750 and 9728: what is wrong, where to get a token, and for what to ask there."""
        if error.status not in (401, 403):
            return error
        parts = []
        if error.code != "missing_api_key":
            parts.append(f'error="{"invalid_token" if error.status == 401 else "insufficient_scope"}"')
            parts.append(f'error_description="{error.message.translate(_QUOTABLE)}"')
        if self._tokens.issuers:
            parts.append(f'resource_metadata="{self._origin}{WELL_KNOWN}{path}"')
        parts.append(f'scope="{" ".join(scopes)}"')
        error.headers["WWW-Authenticate"] = f"Bearer {', '.join(parts)}"
        return error

    async def close(self) -> None:
        await self._tokens.close()


def authenticator(settings: McpSettings, keys: Keys, introspection_login: SecretFile[Login] | None) -> Authenticator:
    """Everything from settings; `introspection_login` is needed where an introspection URL is set."""
    fetcher = Fetcher(settings.oidc_ca_file)
    introspection = None
    if settings.oidc_introspection_url and introspection_login is not None:
        url = settings.oidc_introspection_url
        issuer = next(name for name in settings.oidc_issuers if origin_of(name) == origin_of(url))
        introspection = Introspection(url, issuer, introspection_login, fetcher)
    tokens = TokenVerifier(
        settings.oidc_issuers, fetcher, plain_jwt=settings.oidc_plain_jwt, introspection=introspection
    )
    return Authenticator(keys, tokens, settings.origin, settings.resource)
