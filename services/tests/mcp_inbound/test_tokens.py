# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Access tokens: what is refused, with which status and words, and what an issuer is asked."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from inbound import KEYS, Issuer, Served, message, meta, public, serve

from mcpstack.common import logs
from mcpstack.common.secretfile import SecretFile, login
from mcpstack.registry.oauth import metadata_urls
from support import Loop, Reply, wait_for

NOW = int(time.time())


def post(port: int, path: str, body: bytes, *, token: str | None = None, **headers: str) -> Reply:
    method = json.loads(body)["method"]
    sent = {
        "Accept": "application/json, text/event-stream",
        "Content-Type": "application/json",
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": method,
    }
    if method == "tools/call":
        sent["Mcp-Name"] = json.loads(body)["params"]["name"]
    if token is not None:
        sent["Authorization"] = f"Bearer {token}"
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    return call(port, "POST", path, body, sent)


def call(port: int, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Reply:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=15)
    try:
        connection.request(method, path, body=body, headers=headers)
        answer = connection.getresponse()
        return Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
    finally:
        connection.close()


def listing(served: Served, token: str | None, path: str = "/mcp", **headers: str) -> Reply:
    return post(served.port, path, message("tools/list", _meta=meta()), token=token, **headers)


def unsigned(issuer: Issuer, audience: str, **header: Any) -> str:
    token = issuer.token(audience=audience)
    head = {"typ": "at+jwt", "alg": "none"} | header
    return f"{_b64(json.dumps(head).encode())}.{token.split('.')[1]}."


def confused(issuer: Issuer, audience: str) -> str:
    """HS256, keyed with what everybody can fetch: the issuer's public key."""
    pem = (
        KEYS["rs"]
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    payload = issuer.token(audience=audience).split(".")[1]
    signed = f"{_b64(json.dumps({'typ': 'at+jwt', 'alg': 'HS256', 'kid': 'rs'}).encode())}.{payload}"
    return f"{signed}.{_b64(hmac.new(pem, signed.encode(), hashlib.sha256).digest())}"


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@pytest.mark.parametrize("kid", ["rs", "es", "ed"])
def test_a_good_token_opens(served: Served, issuer: Issuer, kid: str) -> None:
    reply = listing(served, issuer.token(kid, audience=served.resource))
    assert reply.status == 200
    assert [tool["name"] for tool in reply.json["result"]["tools"]] == [
        "call_tool", "call_tool_summarized", "find_tools", "list_servers",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"audience": ["https://other.example", "RESOURCE"]}, id="one audience of several"),
        pytest.param({"scp": ["tools:read"], "drop": ("scope",)}, id="scopes as a list"),
        pytest.param({"exp": -20}, id="expired within the leeway"),
        pytest.param({"nbf": 20}, id="not before, within the leeway"),
        pytest.param({"header": {"typ": "application/at+jwt"}}, id="long type"),
        pytest.param({"algorithm": "PS256"}, id="PS256"),
    ],
)
def test_other_good_tokens(served: Served, issuer: Issuer, change: dict[str, Any]) -> None:
    change = {"audience": served.resource} | change
    if isinstance(change["audience"], list):
        change["audience"] = [served.resource if name == "RESOURCE" else name for name in change["audience"]]
    assert listing(served, issuer.token(**change)).status == 200


Make = Callable[[Issuer, str], str]
REFUSED: dict[str, tuple[Make, str]] = {
    "expired": (lambda i, a: i.token(audience=a, exp=-3600, iat=-7200), "The access token has expired."),
    "not yet": (lambda i, a: i.token(audience=a, nbf=3600), "The access token is not valid yet."),
    "from the future": (lambda i, a: i.token(audience=a, iat=3600), "The access token is not valid yet."),
    "no end": (lambda i, a: i.token(audience=a, drop=("exp",)), "not issued for this resource"),
    "endless": (lambda i, a: i.token(audience=a, exp="never"), "signature or claims are not valid"),
    "foreign audience": (lambda i, a: i.token(audience="https://other.example/mcp"), "not issued for this resource"),
    "audience of the host": (lambda i, a: i.token(audience=a.removesuffix("/mcp")), "not issued for this resource"),
    "audience of a set": (lambda i, a: i.token(audience=f"{a}/fixture"), "not issued for this resource"),
    "no audience": (lambda i, a: i.token(drop=("aud",)), "not issued for this resource"),
    "identity token": (lambda i, a: i.token(audience=a, nonce="n", header={"typ": "JWT"}), "must be at+jwt"),
    "plain JWT": (lambda i, a: i.token(audience=a, header={"typ": "JWT"}), "must be at+jwt"),
    "wrong issuer": (lambda i, a: i.token(audience=a, iss="https://evil.example"), "not from an issuer"),
    "issuer with a slash": (lambda i, a: i.token(audience=a, iss=i.name + "/"), "not from an issuer"),
    "issuer cut short": (lambda i, a: i.token(audience=a, iss=i.name[:-1]), "not from an issuer"),
    "no issuer": (lambda i, a: i.token(audience=a, drop=("iss",)), "not from an issuer"),
    "alg none": (unsigned, "must be signed with one of"),
    "alg None": (lambda i, a: unsigned(i, a, alg="None"), "must be signed with one of"),
    "alg missing": (lambda i, a: unsigned(i, a, alg=None), "must be signed with one of"),
    "alg a list": (lambda i, a: unsigned(i, a, alg=["RS256"]), "must be signed with one of"),
    "HS256 with the public key": (confused, "must be signed with one of"),
    "RS512": (lambda i, a: i.token(audience=a, algorithm="RS512"), "must be signed with one of"),
    "key of another kind": (lambda i, a: i.token("rs", audience=a, header={"kid": "es"}), "not one of its issuer's"),
    "unknown kid": (lambda i, a: i.token(audience=a, header={"kid": "unknown"}), "not one of its issuer's"),
    "kid with a path": (lambda i, a: i.token(audience=a, header={"kid": "../../dev/null"}), "not one of its issuer's"),
    "key in the header": (
        lambda i, a: i.token(audience=a, key=_EVIL, header={"kid": "evil", "jwk": public("evil", _EVIL)}),
        "not one of its issuer's",
    ),
    "critical extension": (lambda i, a: i.token(audience=a, header={"crit": ["exp"]}), "header is not understood"),
    "another key, known kid": (lambda i, a: i.token(audience=a, key=_EVIL), "signature or claims are not valid"),
    "changed payload": (
        lambda i, a: ".".join(
            part if number != 1 else i.token(audience=a, sub="admin").split(".")[1]
            for number, part in enumerate(i.token(audience=a).split("."))
        ),
        "signature or claims are not valid",
    ),
    "bound to a key": (lambda i, a: i.token(audience=a, cnf={"jkt": "x"}), "bound to a key"),
    "no subject": (lambda i, a: i.token(audience=a, drop=("sub", "client_id")), "names no subject"),
    "too long": (lambda i, a: i.token(audience=a, padding="x" * 9000), "longer than 8192"),
    "opaque": (lambda i, a: "opaque-token", "Only JWT access tokens"),
    "not base64": (lambda i, a: "a$.b.c", "cannot be read"),
    "not JSON": (lambda i, a: "YQ.YQ.YQ", "cannot be read"),
    "deep": (lambda i, a: f"{_b64(b'[' * 3000)}.e30.e30", "cannot be read"),
    "four parts": (lambda i, a: i.token(audience=a) + ".x", "Only JWT access tokens"),
}
_EVIL = rsa.generate_private_key(65537, 2048)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_bad_token_does_not(served: Served, issuer: Issuer, name: str, caplog: pytest.LogCaptureFixture) -> None:
    make, words = REFUSED[name]
    token = make(issuer, served.resource)
    with caplog.at_level(logging.DEBUG):
        reply = listing(served, token)
    assert (reply.status, reply.code) == (401, "invalid_token")
    assert words in reply.json["error"]["message"]
    challenge = reply.headers["www-authenticate"]
    assert challenge.startswith('Bearer error="invalid_token", error_description="')
    origin = served.resource.removesuffix("/mcp")
    assert f'resource_metadata="{origin}/.well-known/oauth-protected-resource/mcp"' in challenge
    assert 'scope="tools:read tools:call"' in challenge
    formatted = "\n".join(logs.JsonFormatter().format(record) for record in caplog.records)
    for piece in [part for part in token.split(".") if len(part) > 12]:
        assert piece not in formatted
        assert piece not in reply.body.decode()
    assert token not in str(served.lines[-1])


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "missing_api_key"),
        ({"Authorization": "Basic dXNlcjpwYXNz"}, "missing_api_key"),
        ({"Authorization": "Bearer"}, "missing_api_key"),
        ({"Authorization": "Bearer mk_dev_x"}, "invalid_api_key"),
        ({"Authorization": "Bearer " + "a" * 20000}, "invalid_token"),
    ],
)
def test_no_credential(served: Served, headers: dict[str, str], code: str) -> None:
    reply = listing(served, None, **headers)
    assert (reply.status, reply.code) == (401, code)
    challenge = reply.headers["www-authenticate"]
    assert "resource_metadata=" in challenge
    assert 'scope="tools:read tools:call"' in challenge
    assert ("error=" in challenge) is (code != "missing_api_key")


def test_a_token_in_the_address_is_none(served: Served, issuer: Issuer) -> None:
    token = issuer.token(audience=served.resource)
    reply = listing(served, None, path=f"/mcp?access_token={token}")
    assert (reply.status, reply.code) == (401, "missing_api_key")


def test_two_authorization_headers(served: Served, issuer: Issuer) -> None:
    import http.client

    body = message("tools/list", _meta=meta())
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=15)
    connection.putrequest("POST", "/mcp")
    for value in (served.keys.new("tools:read"), issuer.token(audience=served.resource)):
        connection.putheader("Authorization", f"Bearer {value}")
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    assert connection.getresponse().status == 401
    connection.close()


def test_a_token_for_one_set_opens_that_set_only(served: Served, issuer: Issuer) -> None:
    token = issuer.token(audience=f"{served.resource}/fixture")
    assert listing(served, token, "/mcp/fixture").status == 200
    for path in ("/mcp", "/mcp/other"):
        reply = listing(served, token, path)
        assert (reply.status, reply.code) == (401, "invalid_token")
        assert f'oauth-protected-resource{path}"' in reply.headers["www-authenticate"]


@pytest.mark.parametrize(
    ("scope", "tool", "wanted"),
    [
        ("tools:read", "call_tool", "tools:read tools:call"),
        ("tools:call", "find_tools", "tools:read tools:call"),
        ("tools:admin", "find_tools", "tools:read tools:admin"),
        ("", "find_tools", "tools:read"),
        ("tools:callx tools:readx", "find_tools", "tools:read"),
    ],
)
def test_a_missing_scope(served: Served, issuer: Issuer, scope: str, tool: str, wanted: str) -> None:
    body = message("tools/call", name=tool, arguments={"name": "a__b"}, _meta=meta())
    reply = post(served.port, "/mcp", body, token=issuer.token(audience=served.resource, scope=scope))
    assert (reply.status, reply.code) == (403, "insufficient_scope")
    challenge = reply.headers["www-authenticate"]
    assert 'error="insufficient_scope"' in challenge
    assert f'scope="{wanted}"' in challenge
    assert "resource_metadata=" in challenge


# Issuers


@pytest.fixture
def own(loop: Loop) -> Iterator[Issuer]:
    issuer = Issuer(loop, path="/realms/main").start()
    yield issuer
    issuer.stop()


def state(served: Served, issuer: Issuer) -> Any:
    return served.authenticator._tokens.issuers[issuer.name]


def test_where_metadata_is_looked_for() -> None:
    assert metadata_urls("https://a.example") == [
        "https://a.example/.well-known/oauth-authorization-server",
        "https://a.example/.well-known/openid-configuration",
    ]
    assert metadata_urls("https://a.example/realms/x/") == [
        "https://a.example/.well-known/oauth-authorization-server/realms/x",
        "https://a.example/.well-known/openid-configuration/realms/x",
        "https://a.example/realms/x/.well-known/openid-configuration",
    ]


def test_an_issuer_that_knows_openid_only(loop: Loop, own: Issuer) -> None:
    own.broken = "only-oidc"
    with serve(loop, oidc_issuers=own.name) as served:
        assert listing(served, own.token(audience=served.resource)).status == 200


@pytest.mark.parametrize(
    "broken",
    [
        "stopped",
        "error",
        "redirect",
        "huge",
        "garbage",
        "wrong issuer",
        "foreign keys",
        "keys inside",
        "keys at a file",
    ],
)
def test_an_issuer_that_fails(loop: Loop, own: Issuer, broken: str, caplog: pytest.LogCaptureFixture) -> None:
    """503 for its tokens, because nobody knows whether they are good; API keys go on."""
    own.broken = broken
    if broken == "stopped":
        own.stop()
    if broken == "wrong issuer":
        own.metadata["issuer"] = "https://evil.example"
    if broken == "foreign keys":
        own.metadata["jwks_uri"] = "http://127.0.0.2:1/jwks"
    if broken == "keys inside":
        own.metadata["jwks_uri"] = "https://10.0.0.7/jwks"  # the guard refuses it before anything is connected to
    if broken == "keys at a file":
        own.metadata["jwks_uri"] = "file:///etc/passwd"
    with serve(loop, oidc_issuers=own.name) as served:
        token = own.token(audience=served.resource)
        reply = listing(served, token)
        assert (reply.status, reply.code) == (503, "auth_unavailable")
        assert reply.headers["retry-after"] == "5"
        assert "127.0.0.1" not in reply.body.decode()
        assert listing(served, served.keys.new("tools:read")).status == 200
        assert listing(served, own.token(audience=served.resource, iss="https://evil.example")).status == 401
    assert token not in caplog.text
    assert "10.0.0.7" not in caplog.text


def test_keys_survive_an_outage_for_a_while(loop: Loop, own: Issuer) -> None:
    with serve(loop, oidc_issuers=own.name) as served:
        token = own.token(audience=served.resource)
        assert listing(served, token).status == 200
        own.stop()
        asked = state(served, own)
        clock = [asked._fetched_at]
        asked._clock = lambda: clock[0]
        for age, status in ((599, 200), (700, 200), (3590, 200), (3700, 503)):
            clock[0] = asked._fetched_at + age
            assert listing(served, token).status == status, age
        own.start()
        clock[0] += 11
        assert listing(served, token).status == 200


def test_invented_key_ids_cost_one_question(loop: Loop, own: Issuer) -> None:
    """And a new key of the issuer is found as soon as the pause is over."""
    with serve(loop, oidc_issuers=own.name) as served:
        assert listing(served, own.token(audience=served.resource)).status == 200
        asked = state(served, own)
        clock = [asked._fetched_at + 20]
        asked._clock = lambda: clock[0]
        for number in range(50):
            forged = own.token(audience=served.resource, header={"kid": f"invented-{number}"})
            assert listing(served, forged).status == 401
        assert own.questions("/jwks") == 2
        own.keys.append(public("next", KEYS["es"]))
        fresh = own.token("next", key=KEYS["es"], algorithm="ES256", audience=served.resource)
        assert listing(served, fresh).status == 401
        clock[0] += 11
        assert listing(served, fresh).status == 200
        assert own.questions("/jwks") == 3


def test_a_key_that_was_withdrawn_stops_working(loop: Loop, own: Issuer) -> None:
    with serve(loop, oidc_issuers=own.name) as served:
        token = own.token(audience=served.resource)
        assert listing(served, token).status == 200
        own.keys[:] = [public("es", KEYS["es"])]
        asked = state(served, own)
        clock = [asked._fetched_at + 700]
        asked._clock = lambda: clock[0]
        # The first one causes the question, and is not kept waiting for the answer.
        wait_for("the key to be gone", lambda: listing(served, token).status == 401)
        assert own.questions("/jwks") == 2


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param([public("rs", rsa.generate_private_key(65537, 1024))], id="short RSA"),
        pytest.param([public("rs", KEYS["rs"], use="enc")], id="for encryption"),
        pytest.param([public("rs", KEYS["rs"], alg="RS512")], id="for another algorithm"),
        pytest.param([public("rs", KEYS["rs"], key_ops=["sign"])], id="for signing only"),
        pytest.param([{"kty": "oct", "kid": "rs", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"}], id="shared secret"),
        pytest.param([public("rs", ec.generate_private_key(ec.SECP384R1()))], id="another curve"),
        pytest.param([{"kty": "RSA", "kid": "rs", "n": "!!", "e": "AQAB"}, 7, None, {"kid": 5}], id="broken"),
        pytest.param([], id="none"),
    ],
)
def test_keys_that_are_not_used(loop: Loop, own: Issuer, keys: list[Any]) -> None:
    own.keys = keys
    with serve(loop, oidc_issuers=own.name) as served:
        reply = listing(served, own.token(audience=served.resource))
        assert (reply.status, reply.code) == (401, "invalid_token")


def test_without_a_key_id_only_where_there_is_no_choice(loop: Loop, own: Issuer) -> None:
    with serve(loop, oidc_issuers=own.name) as served:
        assert listing(served, own.token(None, audience=served.resource)).status == 200
    own.keys.append(public("rs2", _EVIL))
    with serve(loop, oidc_issuers=own.name) as served:
        assert listing(served, own.token(None, audience=served.resource)).status == 401


def test_plain_jwt_where_the_operator_says_so(loop: Loop, own: Issuer) -> None:
    with serve(loop, oidc_issuers=own.name, oidc_plain_jwt="true") as served:
        for header in ({"typ": "JWT"}, {"typ": "at+jwt"}):
            assert listing(served, own.token(audience=served.resource, header=header)).status == 200
        for identity in ({"nonce": "n"}, {"at_hash": "h"}):
            token = own.token(audience=served.resource, header={"typ": "JWT"}, **identity)
            assert listing(served, token).status == 401
        assert listing(served, own.token(audience=served.resource, header={"typ": "logout+jwt"})).status == 401


# Opaque tokens


@pytest.fixture
def introspecting(loop: Loop, own: Issuer, tmp_path: Path) -> Iterator[Served]:
    (tmp_path / "login").write_text("registry:" + "i" * 32)
    secret = SecretFile("REGISTRY_OIDC_INTROSPECTION_LOGIN_FILE", tmp_path / "login", login)
    url = f"{own.name}/introspect"
    with serve(loop, oidc_issuers=own.name, oidc_introspection_url=url, introspection=secret) as served:
        yield served


def test_an_opaque_token_is_asked_about_once(introspecting: Served, own: Issuer) -> None:
    good = {"active": True, "sub": "u", "aud": introspecting.resource, "scope": "tools:read", "exp": NOW + 300}
    own.introspected["opaque-good"] = good
    for _ in range(3):
        assert listing(introspecting, "opaque-good").status == 200
    for _ in range(3):
        assert listing(introspecting, "opaque-bad").status == 401
    assert own.questions("/introspect") == 2
    body = message("tools/call", name="call_tool", arguments={"name": "a__b"}, _meta=meta())
    assert post(introspecting.port, "/mcp", body, token="opaque-good").status == 403


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"active": "true"}, "not active"),
        ({"active": False}, "not active"),
        ({"exp": NOW - 3600}, "expired"),
        ({"exp": "soon"}, "not valid"),
        ({"nbf": NOW + 3600}, "not valid yet"),
        ({"iss": "https://evil.example"}, "not from an issuer"),
        ({"aud": "https://other.example"}, "not issued for this resource"),
        ({"aud": None}, "not issued for this resource"),
        ({"aud": [1, 2]}, "not issued for this resource"),
        ({"cnf": {"x5t#S256": "x"}}, "bound to a key"),
        ({"sub": None, "client_id": None}, "names no subject"),
    ],
)
def test_opaque_tokens_that_are_refused(introspecting: Served, own: Issuer, change: dict[str, Any], words: str) -> None:
    own.introspected["opaque"] = {
        "active": True,
        "sub": "u",
        "aud": introspecting.resource,
        "scope": "tools:read",
    } | change
    reply = listing(introspecting, "opaque")
    assert (reply.status, reply.code) == (401, "invalid_token")
    assert words in reply.json["error"]["message"]


@pytest.mark.parametrize("broken", ["error", "garbage", "huge", "redirect"])
def test_introspection_that_fails(introspecting: Served, own: Issuer, broken: str) -> None:
    own.broken = broken
    reply = listing(introspecting, "opaque")
    assert (reply.status, reply.code) == (503, "auth_unavailable")


# Metadata


@pytest.mark.parametrize(
    ("path", "resource"),
    [
        ("/.well-known/oauth-protected-resource", "/mcp"),
        ("/.well-known/oauth-protected-resource/mcp", "/mcp"),
        ("/.well-known/oauth-protected-resource/mcp/fixture", "/mcp/fixture"),
    ],
)
def test_metadata(served: Served, issuer: Issuer, path: str, resource: str) -> None:
    reply = call(served.port, "GET", path, None, {})
    assert reply.status == 200
    assert reply.json == {
        "resource": served.resource.removesuffix("/mcp") + resource,
        "authorization_servers": [issuer.name],
        "scopes_supported": ["tools:read", "tools:call", "tools:admin"],
        "bearer_methods_supported": ["header"],
        "resource_name": "mcpstack tool registry",
    }
    assert reply.headers["access-control-allow-origin"] == "*"
    assert call(served.port, "OPTIONS", path, None, {"Origin": "https://a.example"}).status == 204
    assert call(served.port, "GET", path, None, {"Host": "evil.example"}).code == "misdirected_request"


def test_no_metadata_without_an_issuer(loop: Loop) -> None:
    """It would send clients to look for an authorization server that is not there."""
    with serve(loop) as served:
        for path in ("", "/mcp", "/mcp/fixture"):
            reply = call(served.port, "GET", f"/.well-known/oauth-protected-resource{path}", None, {})
            assert (reply.status, reply.code) == (404, "not_found")
        reply = listing(served, None)
        assert reply.headers["www-authenticate"] == 'Bearer scope="tools:read tools:call"'
        assert listing(served, "a.b.c").code == "invalid_token"
