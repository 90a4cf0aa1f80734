# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From nothing to a tool call with an OpenID-certified provider: a client that knows only the address of /mcp.

The client is the SDK's: 401, protected-resource metadata, metadata of the provider, registration, the authorization
code with PKCE (S256) and a resource indicator, the token, the call. Login and consent are clicked by `browse`.
"""

from __future__ import annotations

import asyncio
import html
import re
import subprocess
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import aiohttp
import httpx2
import jwt
import pytest
from inbound import message, meta
from judging import HOME, NODE, Judged, script
from mcp import Client
from mcp.client.auth import OAuthClientProvider
from mcp.client.auth.oauth2 import AuthorizationCodeResult
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from test_tokens import call, post

from support import wait_for

pytestmark = pytest.mark.long

CALLBACK = "http://127.0.0.1:9/callback"  # nobody listens: the browser stops there
SECRET = "for-tests-only-for-tests-only"


@pytest.fixture(scope="module")
def provider(judged: Judged, issuer_port: int) -> Iterator[str]:
    resources = [judged.resource, f"{judged.resource}/fixture", "https://other.example/mcp"]
    command = [str(NODE), str(script("provider.mjs")), str(issuer_port), *resources]
    process = subprocess.Popen(command, cwd=HOME, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    issuer = f"http://127.0.0.1:{issuer_port}"
    try:
        wait_for(
            "the provider",
            lambda: call(issuer_port, "GET", "/.well-known/openid-configuration", None, {}).status == 200,
            30,
        )
        yield issuer
    finally:
        process.terminate()
        process.wait(10)


class Memory:
    """Where the client keeps what it got."""

    def __init__(self) -> None:
        self.tokens: OAuthToken | None = None
        self.client: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


async def browse(url: str) -> dict[str, str]:
    """Log in, agree, and come back with what the provider hands to the callback."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        form: dict[str, str] | None = None
        for _ in range(12):
            answer = await session.request("POST" if form else "GET", url, data=form, allow_redirects=False)
            form = None
            if answer.status in (302, 303):
                url = urljoin(url, answer.headers["Location"])
                if url.startswith(CALLBACK):
                    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
                continue
            page = await answer.text()
            assert answer.status == 200, page[:500]
            action = re.search(r'<form[^>]*action="([^"]+)"', page)
            assert action is not None, page[:500]
            url = urljoin(url, html.unescape(action[1]))
            form = dict(re.findall(r'<input[^>]*type="hidden"[^>]*name="([^"]+)"[^>]*value="([^"]*)"', page))
            if 'name="login"' in page:
                form |= {"login": "somebody", "password": "any"}
    raise AssertionError("the provider never came to an end")


async def flow(judged: Judged, path: str, mode: str, memory: Memory, asked: list[str]) -> list[str]:
    results: list[dict[str, str]] = []

    async def redirect(url: str) -> None:
        asked.append(url)
        results.append(await browse(url))

    async def callback() -> AuthorizationCodeResult:
        found = results[-1]
        return AuthorizationCodeResult(code=found["code"], state=found["state"], iss=found.get("iss"))

    metadata = OAuthClientMetadata.model_validate(
        {
            "client_name": "judge",
            "redirect_uris": [CALLBACK],
            "grant_types": ["authorization_code"],
            "response_types": ["code"],
            "token_endpoint_auth_method": "none",
        }
    )
    url = f"http://127.0.0.1:{judged.port}{path}"
    auth = OAuthClientProvider(url, metadata, memory, redirect, callback)
    async with (
        httpx2.AsyncClient(auth=auth, timeout=30) as http,
        Client(streamable_http_client(url, http_client=http), mode=mode) as client,
    ):
        names = [tool.name for tool in (await client.list_tools()).tools]
        if path == "/mcp":
            arguments = {"name": "fixture__test_echo", "arguments": {"text": "hi"}}
            result = await client.call_tool("call_tool", arguments)
        else:
            result = await client.call_tool("test_echo", {"text": "hi"})
        assert result.content[0].text == "hi"  # type: ignore[union-attr]
        return names


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.parametrize("path", ["/mcp", "/mcp/fixture"])
def test_the_whole_flow(judged: Judged, provider: str, path: str, mode: str) -> None:
    memory, asked = Memory(), []
    names = asyncio.run(flow(judged, path, mode, memory, asked))
    assert len(names) == (4 if path == "/mcp" else 27)
    assert len(asked) == 1  # one visit to the provider
    query = parse_qs(urlsplit(asked[0]).query)
    resource = f"{judged.resource.removesuffix('/mcp')}{path}"
    assert query["code_challenge_method"] == ["S256"]
    assert query["resource"] == [resource]
    assert query["scope"][0].split()[:2] == ["tools:read", "tools:call"]
    assert memory.tokens is not None
    token = memory.tokens.access_token
    assert jwt.get_unverified_header(token)["typ"] == "at+jwt"
    claims = jwt.decode(token, options={"verify_signature": False})
    assert (claims["iss"], claims["aud"], claims["sub"]) == (provider, resource, "somebody")


def machine(provider: str, resource: str, scope: str) -> str:
    async def ask() -> dict[str, Any]:
        form = {"grant_type": "client_credentials", "resource": resource, "scope": scope}
        async with aiohttp.ClientSession() as session:
            headers = {"Authorization": aiohttp.encode_basic_auth("machine", SECRET)}
            async with session.post(f"{provider}/token", data=form, headers=headers) as answer:
                found: dict[str, Any] = await answer.json()
                assert answer.status == 200, found
                return found

    return str(asyncio.run(ask())["access_token"])


def test_machines(judged: Judged, provider: str) -> None:
    """Client credentials; the scope that was not given is named in the refusal; a foreign audience opens nothing."""
    token = machine(provider, judged.resource, "tools:read")
    listing = message("tools/list", _meta=meta())
    assert post(judged.port, "/mcp", listing, token=token).status == 200
    body = message("tools/call", name="call_tool", arguments={"name": "fixture__test_echo"}, _meta=meta())
    reply = post(judged.port, "/mcp", body, token=token)
    assert (reply.status, reply.code) == (403, "insufficient_scope")
    assert 'scope="tools:read tools:call"' in reply.headers["www-authenticate"]
    foreign = machine(provider, "https://other.example/mcp", "tools:read tools:call")
    reply = post(judged.port, "/mcp", listing, token=foreign)
    assert (reply.status, reply.code) == (401, "invalid_token")
    changed = f"{token[:-8]}{'A' * 8}"
    assert post(judged.port, "/mcp", listing, token=changed).status == 401
