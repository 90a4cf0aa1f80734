# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bodies and answers of the REST interface."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from mcpstack.registry.definitions import DESCRIPTION, SERVER_ID, TITLE, TOOL_NAME, clean

SERVER_ID_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$"
TOOL_NAME_PATTERN = r"^[A-Za-z0-9_.-]{1,128}$"
ENTRY_NAME_PATTERN = r"^[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+$"

# What would be a secret in a place where none belongs. Headers of the protocol do not begin with X-.
_SECRETS = re.compile(r".*(auth|cookie|token|secret|passw|credential|api-?key).*", re.IGNORECASE)


def _id(value: str) -> str:
    # A trailing line end passes $ in some dialects of patterns, and \Z is not one that JSON Schema knows.
    if not SERVER_ID.match(value):
        raise PydanticCustomError("server_id", "String should be lower case letters, digits and inner hyphens")
    return value


def _name(value: str) -> str:
    if not TOOL_NAME.match(value):
        raise PydanticCustomError("tool_name", "String should be letters, digits, _, . and -")
    return value


def _entry_name(value: str) -> str:
    if "\n" in value:
        raise PydanticCustomError("entry_name", "String should be a reverse domain, a slash and a name")
    return value


def _version(value: str) -> str:
    if value == "latest" or "\n" in value:
        raise PydanticCustomError("version", "This is not the name of one version")
    return value


def _header(value: str) -> str:
    if _SECRETS.fullmatch(value):
        raise PydanticCustomError("header", "A secret belongs in auth_ref")
    return value


def _one_line(value: str) -> str:
    return clean(value, TITLE).replace("\n", " ").replace("\t", " ")


ServerId = Annotated[str, Field(pattern=SERVER_ID_PATTERN, max_length=32), AfterValidator(_id)]
ToolName = Annotated[str, Field(pattern=TOOL_NAME_PATTERN, max_length=128), AfterValidator(_name)]
EntryName = Annotated[str, Field(pattern=ENTRY_NAME_PATTERN, min_length=3, max_length=200), AfterValidator(_entry_name)]
Whole = BeforeValidator(lambda value: int(value) if isinstance(value, float) and value.is_integer() else value)
Version = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+_-]{0,254}$", max_length=255), AfterValidator(_version)
]
Title = Annotated[str, Field(max_length=TITLE), AfterValidator(_one_line)]
ServerText = Annotated[str, Field(max_length=2000), AfterValidator(lambda text: clean(text, 2000))]
ToolText = Annotated[str, Field(max_length=4 * DESCRIPTION)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", min_length=64, max_length=64)]
_HEADER_NAME = r"^[Xx]-[A-Za-z0-9-]{1,62}$"
_HEADER_VALUE = r"^[!-~]([ -~]{0,1022}[!-~])?$"
HeaderName = Annotated[str, Field(pattern=_HEADER_NAME, max_length=64), AfterValidator(_header)]
HeaderValue = Annotated[str, Field(pattern=_HEADER_VALUE, max_length=1024)]
Headers = Annotated[
    dict[HeaderName, HeaderValue],
    Field(max_length=16),
    WithJsonSchema(
        {
            "type": "object",
            "maxProperties": 16,
            "propertyNames": {"pattern": _HEADER_NAME},
            "additionalProperties": {"type": "string", "pattern": _HEADER_VALUE, "maxLength": 1024},
        }
    ),
]
Url = Annotated[str, Field(pattern=r"^https?://[!-~]{1,2040}$", max_length=2048)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Remote(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    type: Literal["streamable-http", "sse"]
    url: Annotated[str, Field(min_length=1, max_length=2048)]


class ServerDocument(BaseModel):
    """A server.json, as far as the registry reads it; the rest of it is kept."""

    model_config = ConfigDict(extra="allow", strict=True)

    name: EntryName
    version: Version
    description: Annotated[str, Field(min_length=1, max_length=100)]
    title: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    remotes: Annotated[list[Remote], Field(max_length=100)] | None = None
    packages: Annotated[list[dict[str, JsonValue]], Field(max_length=100)] | None = None


class ServerRequest(_Request):
    """A server by its own members, or by a server.json in `server`; members given here go before the document's."""

    id: ServerId = Field(description="Names the server here: its tools are called id__tool")
    server: ServerDocument | None = None
    name: EntryName | None = Field(None, description="Name in the registry API; made of the namespace and the id")
    title: Title | None = None
    description: ServerText | None = None
    version: Version | None = None
    url: Url | None = Field(None, description="Where it speaks MCP over streamable HTTP")
    auth_ref: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$", max_length=63)] | None = Field(
        None, description="Name of the secret it is reached with"
    )
    headers: Headers = Field(default_factory=dict, description="Headers to send that are no secrets")
    trust: Literal["trusted", "untrusted"] = Field(
        "untrusted", description="Whether new tools may be used without approval; changed ones never may"
    )
    enabled: bool = True
    call_timeout: Annotated[float, Field(ge=0.1, le=3600, strict=False)] = 30.0
    sync_interval: Annotated[int, Field(ge=30, le=604800), Whole] = 900


class ToolRequest(_Request):
    """A definition as MCP writes it."""

    title: Annotated[str, Field(max_length=4 * TITLE)] | None = None
    description: ToolText | None = None
    inputSchema: dict[str, JsonValue]  # noqa: N815 - the name in the protocol
    outputSchema: dict[str, JsonValue] | None = None  # noqa: N815
    annotations: dict[str, JsonValue] | None = None


class NewToolRequest(ToolRequest):
    server: ServerId
    name: ToolName


class FindRequest(_Request):
    query: Annotated[str, Field(min_length=1, max_length=1000)]
    limit: Annotated[int, Field(ge=1, le=50), Whole] = 10
    server: ServerId | None = None


class CallRequest(_Request):
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    summarise: bool = Field(False, description="Shorten a long result with the stack's own model")
    max_tokens: Annotated[int, Field(ge=16, le=32768), Whole] | None = None
    timeout: Annotated[float, Field(ge=0.1, le=3600, strict=False)] | None = Field(
        None, description="Seconds; can only shorten the server's own"
    )


class Approved(_Request):
    name: ToolName
    def_hash: Hash | None = Field(None, description="The definition that was read; another one is not approved")


class ApproveRequest(_Request):
    tools: Annotated[list[Approved], Field(min_length=1, max_length=2000)]


# Answers


class _Reply(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Counts(_Reply):
    active: int
    quarantined: int
    disabled: int


class Server(_Reply):
    object: Literal["server"] = "server"
    id: str
    name: str
    title: str
    description: str
    version: str
    url: str | None
    auth_ref: str | None
    headers: dict[str, str]
    trust: Literal["trusted", "untrusted"]
    enabled: bool
    call_timeout: float
    sync_interval: int
    status: Literal["new", "ok", "failing"]
    failures: int
    last_error: str | None
    last_sync: datetime | None
    last_success: datetime | None
    next_sync: datetime
    protocol_version: str | None
    breaker_until: datetime | None
    created_at: datetime
    updated_at: datetime
    tools: Counts


class ServerList(_Reply):
    object: Literal["list"] = "list"
    data: list[Server]
    next: str | None = Field(description="Give it as `after` to read on")


class Tool(_Reply):
    object: Literal["tool"] = "tool"
    server: str
    name: str
    public_name: str = Field(description="server__name, by which MCP clients call it")
    title: str
    description: str
    inputSchema: dict[str, Any]  # noqa: N815
    outputSchema: dict[str, Any] | None  # noqa: N815
    annotations: dict[str, Any] | None
    status: Literal["active", "quarantined", "disabled"]
    disabled_by: Literal["sync", "admin"] | None
    source: Literal["sync", "manual"]
    def_hash: str
    approved_hash: str | None
    created_at: datetime
    updated_at: datetime


class ToolList(_Reply):
    object: Literal["list"] = "list"
    data: list[Tool]
    next: str | None = Field(description="Give it as `after` to read on")


class FoundTool(_Reply):
    server: str
    name: str
    public_name: str
    title: str
    description: str
    inputSchema: dict[str, Any]  # noqa: N815
    outputSchema: dict[str, Any] | None  # noqa: N815
    annotations: dict[str, Any] | None
    score: float


class Found(_Reply):
    object: Literal["list"] = "list"
    mode: Literal["hybrid", "keyword"]
    reason: str | None = Field(description="Why the search was by words only")
    data: list[FoundTool]


class Refused(_Reply):
    name: str
    reason: str


class SyncReport(_Reply):
    object: Literal["sync"] = "sync"
    server: str
    result: Literal["ok", "unchanged", "failed", "busy", "gone"]
    reason: str | None
    added: int
    quarantined: list[str]
    restored: int
    removed: int
    unchanged: int
    refused: list[Refused]


class ApprovedTool(_Reply):
    name: str
    def_hash: str
    changed: bool


class ApprovedList(_Reply):
    object: Literal["list"] = "list"
    data: list[ApprovedTool]


class Difference(_Reply):
    name: str
    def_hash: str = Field(description="Of the definition that waits; give it when you approve")
    approved_hash: str | None
    diff: list[str]


class DifferenceList(_Reply):
    object: Literal["list"] = "list"
    data: list[Difference]


class CallReply(_Reply):
    object: Literal["tool_result"] = "tool_result"
    server: str
    name: str
    is_error: bool
    result: dict[str, Any] = Field(description="The CallToolResult as the server gave it")
    duration_ms: float
    bytes: int
    summary: dict[str, Any] | None = Field(description="What was done to a long result")


class Entry(_Reply):
    server: dict[str, Any]
    meta: dict[str, Any] = Field(alias="_meta")


class Metadata(_Reply):
    count: int
    nextCursor: str | None = None  # noqa: N815


class EntryList(_Reply):
    servers: list[Entry]
    metadata: Metadata


class Health(_Reply):
    status: Literal["ok"]


class Check(_Reply):
    status: Literal["up", "down"]
    reason: str | None


class Readiness(_Reply):
    status: Literal["ready", "degraded", "unavailable", "shutting_down"]
    checks: dict[str, Check]


class ErrorDetail(BaseModel):
    model_config = ConfigDict(extra="allow")

    message: str
    type: str
    param: str | None
    code: str
    request_id: str
    suggestions: list[str]


class ErrorBody(_Reply):
    error: ErrorDetail
