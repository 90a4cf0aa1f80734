# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Access tokens of declared OIDC issuers: JWTs checked against the issuer's keys, opaque ones by introspection.

The registry is a resource server and nothing else: it issues no token, keeps none and sends none on. A token says
which issuer it is from; only a declared one is believed or asked, and the keys come from that issuer's own metadata.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
import logging
import re
import secrets
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard
from urllib.parse import quote, urlsplit

import aiohttp
import jwt

from mcpstack.common import ssrf
from mcpstack.common.secretfile import Login, SecretError, SecretFile
from mcpstack.registry.principal import SCOPES, Principal

log = logging.getLogger(__name__)

# Which kind of key an algorithm belongs to: a token chooses neither, it has to name the one that fits.
ALGORITHMS: dict[str, tuple[str, str | None]] = {
    "RS256": ("RSA", None),
    "PS256": ("RSA", None),
    "ES256": ("EC", "P-256"),
    "EdDSA": ("OKP", "Ed25519"),
}
MAX_TOKEN = 8192
LEEWAY = 30  # seconds by which clocks may differ
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*", re.ASCII)  # RFC 6750, b64token
_MAX_ANSWER = 256 * 1024
_MAX_KEYS = 100
_FETCH = aiohttp.ClientTimeout(total=5, connect=2)
_PATIENCE = 6.0  # longest wait of a request for an issuer
_FRESH = 600.0  # how long keys are used without asking again
_GRACE = 3600.0  # how long they are used while the issuer does not answer
_PAUSE = 10.0  # between two questions to an issuer that were caused by tokens
_ACTIVE = 30.0  # how long an introspected token is believed, and one that was refused is not asked about again
_REMEMBERED = 10_000


class InvalidTokenError(Exception):
    """The token is refused. The words are for its owner and for the log: nothing of the token is in them."""


class IssuerUnavailableError(Exception):
    """The token cannot be judged, because its issuer does not answer."""


class Claims(NamedTuple):
    """What is left of a token that was accepted."""

    issuer: str
    subject: str
    client: str | None
    scopes: frozenset[str]


def principal(claims: Claims) -> Principal:
    name = hashlib.sha256(f"{claims.issuer}\n{claims.subject}".encode()).hexdigest()[:24]
    return Principal(
        f"oauth:{name}", "oauth", claims.scopes, issuer=claims.issuer, subject=claims.subject, client=claims.client
    )


# Questions to an issuer


class Fetcher:
    """Asks declared issuers, and for their keys also hosts they name, if those are public; follows no redirect."""

    def __init__(self, ca_file: Path | None = None, policy: ssrf.Policy | None = None) -> None:
        self._ca_file = ca_file
        self._policy = policy or ssrf.Policy()
        self._declared: aiohttp.ClientSession | None = None
        self._named: aiohttp.ClientSession | None = None

    def _session(self, guarded: bool) -> aiohttp.ClientSession:
        found = self._named if guarded else self._declared
        if found is None or found.closed:
            context = ssl.create_default_context(cafile=str(self._ca_file) if self._ca_file else None)
            connector = (
                ssrf.guarded_connector(self._policy, ssl=context, limit=4)
                if guarded
                else aiohttp.TCPConnector(ssl=context, limit=8)
            )
            found = aiohttp.ClientSession(
                connector=connector,
                timeout=_FETCH,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                auto_decompress=False,
                headers={"Accept": "application/json", "Accept-Encoding": "identity"},
            )
            if guarded:
                self._named = found
            else:
                self._declared = found
        return found

    async def get(self, url: str, origin: str) -> dict[str, Any] | None:
        """The JSON object at `url`; None when there is none (404). `origin`: whose word the URL is."""
        guarded = origin_of(url) != origin
        if guarded:
            self._policy.check_url(url)
        async with self._session(guarded).get(url, allow_redirects=False) as answer:
            return await self._object(answer)

    async def post(self, url: str, form: dict[str, str], login: Login) -> dict[str, Any] | None:
        pair = f"{quote(login.user, safe='')}:{quote(login.password, safe='')}"
        headers = {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
        async with self._session(False).post(url, data=form, headers=headers, allow_redirects=False) as answer:
            return await self._object(answer)

    @staticmethod
    async def _object(answer: aiohttp.ClientResponse) -> dict[str, Any] | None:
        if answer.status in (404, 405, 410):
            return None
        if answer.status != 200:
            raise ValueError(f"status {answer.status}")
        body = b""
        async for piece in answer.content.iter_chunked(65536):
            body += piece
            if len(body) > _MAX_ANSWER:
                raise ValueError("the answer is too large")
        found = json.loads(body)
        if not isinstance(found, dict):
            raise ValueError("the answer is not a JSON object")  # noqa: TRY004 - a broken answer, not a wrong call
        return found

    async def close(self) -> None:
        for session in (self._declared, self._named):
            if session is not None:
                await session.close()


def origin_of(url: str) -> str:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"{parts.scheme}://{(parts.hostname or '').lower()}:{port}"


def metadata_urls(issuer: str) -> list[str]:
    """RFC 8414 first, then OpenID Connect Discovery in both of its forms."""
    parts = urlsplit(issuer)
    base, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    found = [f"{base}/.well-known/oauth-authorization-server{path}", f"{base}/.well-known/openid-configuration{path}"]
    return [*found, f"{base}{path}/.well-known/openid-configuration"] if path else found


_TROUBLE = (aiohttp.ClientError, TimeoutError, OSError, ValueError, RecursionError)


def _why(error: BaseException) -> str:
    """In a few words without addresses or content."""
    if isinstance(error, ssrf.Blocked):
        return error.why
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLError):
        return "its certificate is not trusted"
    if isinstance(error, aiohttp.ClientError | OSError):
        return "no connection"
    return str(error)[:80] if type(error) is ValueError else "an answer that cannot be read"


class _Key(NamedTuple):
    kid: str | None
    algorithms: frozenset[str]
    key: jwt.PyJWK


class Issuer:
    """One declared issuer and its keys.

    Whoever sends tokens can make it ask for keys at most once in `_PAUSE`, however many unknown key ids he invents.
    """

    def __init__(self, name: str, fetcher: Fetcher, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self._fetcher = fetcher
        self._clock = clock
        self._keys: list[_Key] = []
        self._fetched_at = float("-inf")
        self._attempted_at = float("-inf")
        self._asking: asyncio.Task[bool] | None = None
        self.reason: str | None = "not asked yet"  # None: the last question was answered
        self.fetches = 0

    async def key(self, kid: str | None, algorithm: str) -> jwt.PyJWK:
        now = self._clock()
        found = self._find(kid, algorithm)
        if found is not None and now - self._fetched_at < _GRACE:
            if now - self._fetched_at > _FRESH and now - self._attempted_at > _PAUSE:
                self._ask()  # the answer is for the next token
            return found
        if self._asking is not None or now - self._attempted_at > _PAUSE:
            try:
                await asyncio.wait_for(asyncio.shield(self._ask()), _PATIENCE)
            except TimeoutError:
                raise IssuerUnavailableError from None
            found = self._find(kid, algorithm)
        if self.reason is not None:
            raise IssuerUnavailableError
        if found is None:
            raise InvalidTokenError("The key that signed the access token is not one of its issuer's.")
        return found

    def _find(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        fitting = [entry for entry in self._keys if algorithm in entry.algorithms]
        if kid is None:  # allowed where it leaves no choice
            return fitting[0].key if len(fitting) == 1 else None
        return next((entry.key for entry in fitting if entry.kid == kid), None)

    def _ask(self) -> asyncio.Task[bool]:
        if self._asking is None:
            self._attempted_at = self._clock()
            self._asking = asyncio.create_task(self._fetch())
            self._asking.add_done_callback(self._asked)
        return self._asking

    def _asked(self, task: asyncio.Task[bool]) -> None:
        self._asking = None
        if not task.cancelled() and task.exception() is not None:
            self.reason = "an unexpected error"
            log.error("asking an issuer failed in an unexpected way", exc_info=task.exception())

    async def _fetch(self) -> bool:
        self.fetches += 1
        try:
            keys = _keys(await self._jwks())
        except _TROUBLE as error:
            self._say(_why(error))
            return False
        self._keys, self._fetched_at = keys, self._clock()
        self._say(None)
        return True

    async def _jwks(self) -> dict[str, Any]:
        origin = origin_of(self.name)
        for url in metadata_urls(self.name):
            metadata = await self._fetcher.get(url, origin)
            if metadata is None:
                continue
            if metadata.get("issuer") != self.name:
                raise ValueError("its metadata names another issuer")
            where = metadata.get("jwks_uri")
            if not isinstance(where, str) or (urlsplit(where).scheme != "https" and origin_of(where) != origin):
                raise ValueError("its metadata has no usable jwks_uri")
            found = await self._fetcher.get(where, origin)
            if found is None:
                raise ValueError("there are no keys at its jwks_uri")
            return found
        raise ValueError("it has no metadata at the well-known addresses")

    def _say(self, reason: str | None) -> None:
        if reason != self.reason:
            if reason is None:
                log.info("issuer answers", extra={"issuer": self.name, "keys": len(self._keys)})
            else:
                log.warning("issuer cannot be used", extra={"issuer": self.name, "reason": reason})
        self.reason = reason


def _keys(document: dict[str, Any]) -> list[_Key]:
    """The keys a token may be signed with: public, for signatures, of a kind on the list and of decent size."""
    entries = document.get("keys")
    if not isinstance(entries, list):
        raise ValueError("its key set holds no keys")  # noqa: TRY004 - a broken answer, not a wrong call
    found = []
    for entry in entries[:_MAX_KEYS]:
        if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
            continue
        if isinstance(entry.get("key_ops"), list) and "verify" not in entry["key_ops"]:
            continue
        kid, named = entry.get("kid"), entry.get("alg")
        if not isinstance(kid, str | None):
            continue
        fitting = {
            name
            for name, (kind, curve) in ALGORITHMS.items()
            if entry.get("kty") == kind and (curve is None or entry.get("crv") == curve) and named in (None, name)
        }
        if not fitting:
            continue
        try:
            key = jwt.PyJWK.from_dict(entry, algorithm=min(fitting))
        except (jwt.PyJWTError, ValueError, TypeError, KeyError, binascii.Error):
            continue  # one broken key does not take the others with it
        if getattr(key.key, "key_size", 4096) < 2048 and entry["kty"] == "RSA":
            continue
        found.append(_Key(kid, frozenset(fitting), key))
    return found


# Tokens


def _part(text: str) -> dict[str, Any]:
    try:
        found = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InvalidTokenError("The access token cannot be read.")
    return found


def _scopes(claims: dict[str, Any]) -> frozenset[str]:
    words: set[str] = set()
    for name in ("scope", "scp"):
        value = claims.get(name)
        if isinstance(value, str):
            words.update(value.split(" "))
        elif isinstance(value, list):
            words.update(word for word in value if isinstance(word, str))
    return frozenset(words.intersection(SCOPES))


def _accept(claims: dict[str, Any], issuer: str) -> Claims:
    if "cnf" in claims:
        # Bound to a key of its owner: as a bearer token it is in somebody else's hands.
        raise InvalidTokenError("The access token is bound to a key and cannot be used as a bearer token.")
    client = claims.get("client_id", claims.get("azp"))
    subject = claims.get("sub", client)
    if not isinstance(subject, str) or not subject or len(subject) > 512:
        raise InvalidTokenError("The access token names no subject.")
    return Claims(issuer, subject, client if isinstance(client, str) else None, _scopes(claims))


class TokenVerifier:
    """Judges access tokens of all declared issuers."""

    def __init__(
        self,
        issuers: tuple[str, ...],
        fetcher: Fetcher,
        *,
        plain_jwt: bool = False,
        introspection: Introspection | None = None,
    ) -> None:
        self.issuers = {name: Issuer(name, fetcher) for name in issuers}
        self._plain_jwt = plain_jwt
        self._introspection = introspection
        self._fetcher = fetcher

    async def verify(self, token: str, audiences: frozenset[str]) -> Claims:
        if len(token) > MAX_TOKEN:
            raise InvalidTokenError(f"The access token is longer than {MAX_TOKEN} characters.")
        if not _TOKEN.fullmatch(token):
            raise InvalidTokenError("The access token cannot be read.")
        if not self.issuers:
            raise InvalidTokenError("Access tokens are not accepted here; use an API key.")
        if token.count(".") == 2:
            return await self._jwt(token, audiences)
        if self._introspection is None:
            raise InvalidTokenError("Only JWT access tokens are accepted here.")
        return await self._introspection.verify(token, audiences)

    async def _jwt(self, token: str, audiences: frozenset[str]) -> Claims:
        head, body, _ = token.split(".")
        header, unproved = _part(head), _part(body)
        algorithm, kid = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
            raise InvalidTokenError(f"The access token must be signed with one of {', '.join(ALGORITHMS)}.")
        if "crit" in header or not isinstance(kid, str | None):
            raise InvalidTokenError("The access token's header is not understood.")
        self._check_type(header.get("typ"), unproved)
        issuer = self.issuers.get(name) if isinstance(name := unproved.get("iss"), str) else None
        if issuer is None:
            raise InvalidTokenError("The access token is not from an issuer that is accepted here.")
        key = await issuer.key(kid, algorithm)
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key.key,
                algorithms=[algorithm],
                audience=audiences,
                issuer=issuer.name,
                leeway=LEEWAY,
                options={"require": ["exp", "iss", "aud"], "enforce_minimum_key_length": True},
            )
        except jwt.ExpiredSignatureError:
            raise InvalidTokenError("The access token has expired.") from None
        except (jwt.ImmatureSignatureError, jwt.InvalidIssuedAtError):
            raise InvalidTokenError("The access token is not valid yet.") from None
        except (jwt.InvalidAudienceError, jwt.MissingRequiredClaimError):
            raise InvalidTokenError("The access token was not issued for this resource.") from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
            raise InvalidTokenError("The access token's signature or claims are not valid.") from None
        return _accept(claims, issuer.name)

    def _check_type(self, kind: Any, unproved: dict[str, Any]) -> None:
        """RFC 9068: at+jwt. Issuers that write JWT or nothing are believed where the operator says so."""
        text = kind.lower().removeprefix("application/") if isinstance(kind, str) else kind
        if text == "at+jwt":
            return
        identity = {"nonce", "at_hash", "c_hash"} & unproved.keys()
        if not self._plain_jwt or text not in (None, "jwt") or identity:
            raise InvalidTokenError("The token is not an access token: its type must be at+jwt.")

    async def close(self) -> None:
        await self._fetcher.close()


class Introspection:
    """RFC 7662, for issuers whose tokens say nothing by themselves."""

    def __init__(
        self,
        url: str,
        issuer: str,
        login: SecretFile[Login],
        fetcher: Fetcher,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._issuer = issuer
        self._login = login
        self._fetcher = fetcher
        self._clock = clock
        self._known: OrderedDict[bytes, tuple[float, dict[str, Any] | None]] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[dict[str, Any] | None]] = {}
        self._at_once = asyncio.Semaphore(8)
        # Tokens are remembered as keyed hashes: what lies in memory opens nothing.
        self._salt = secrets.token_bytes(32)

    async def verify(self, token: str, audiences: frozenset[str]) -> Claims:
        claims = await self._ask_once(token)
        if claims is None:
            raise InvalidTokenError("The access token is not active.")
        now = time.time()
        expires, starts = claims.get("exp"), claims.get("nbf")
        for value in (expires, starts):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise InvalidTokenError("The access token's signature or claims are not valid.")
        if expires is not None and expires + LEEWAY <= now:
            raise InvalidTokenError("The access token has expired.")
        if starts is not None and starts - LEEWAY > now:
            raise InvalidTokenError("The access token is not valid yet.")
        if claims.get("iss", self._issuer) != self._issuer:
            raise InvalidTokenError("The access token is not from an issuer that is accepted here.")
        audience = claims.get("aud")
        named = {audience} if isinstance(audience, str) else set(audience) if _words(audience) else set()
        if not named & audiences:
            raise InvalidTokenError("The access token was not issued for this resource.")
        return _accept(claims, self._issuer)

    async def _ask_once(self, token: str) -> dict[str, Any] | None:
        name, now = hmac.digest(self._salt, token.encode(), "sha256"), self._clock()
        known = self._known.get(name)
        if known is not None and now - known[0] < _ACTIVE:
            return known[1]
        task = self._asking.get(name)
        if task is None:
            task = self._asking[name] = asyncio.create_task(self._ask(token))
            task.add_done_callback(lambda done: self._asked(name, done))
        try:
            return await asyncio.wait_for(asyncio.shield(task), _PATIENCE)
        except TimeoutError:
            raise IssuerUnavailableError from None

    def _asked(self, name: bytes, task: asyncio.Task[dict[str, Any] | None]) -> None:
        self._asking.pop(name, None)
        if task.cancelled() or task.exception() is not None:
            return
        self._known[name] = (self._clock(), task.result())
        self._known.move_to_end(name)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

    async def _ask(self, token: str) -> dict[str, Any] | None:
        try:
            async with self._at_once:
                form = {"token": token, "token_type_hint": "access_token"}
                claims = await self._fetcher.post(self._url, form, self._login.read())
            if claims is None:
                raise ValueError("there is no introspection endpoint")
        except (*_TROUBLE, SecretError) as error:
            reason = str(error) if isinstance(error, SecretError) else _why(error)
            log.warning("introspection failed", extra={"issuer": self._issuer, "reason": reason})
            raise IssuerUnavailableError from None
        return claims if claims.get("active") is True else None


def _words(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)
