# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The endpoints that a model server answers: one table, from which requests are served and the document is written."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel

from mcpstack.gateway import dialects, schemas
from mcpstack.gateway.dialects import Dialect


@dataclass(frozen=True)
class Endpoint:
    path: str
    scope: str
    request: type[BaseModel]
    answer: type[BaseModel]
    dialect: Dialect
    about: str
    instead: str  # what to do when no model server has it
    streams: bool = True
    common: bool = False  # every model server has it: a 501 is about the model or the request


_CHAT = "Use POST /v1/chat/completions."

ENDPOINTS = (
    Endpoint(
        "/v1/chat/completions",
        "chat",
        schemas.ChatCompletionRequest,
        schemas.ChatCompletion,
        dialects.OPENAI,
        "Answer a conversation, whole or as a stream of server-sent events.",
        "Use a model that chats; GET /v1/models lists them.",
        common=True,
    ),
    Endpoint(
        "/v1/completions",
        "chat",
        schemas.CompletionRequest,
        schemas.Completion,
        dialects.OPENAI,
        "Continue a text, whole or as a stream of server-sent events.",
        _CHAT,
    ),
    Endpoint(
        "/v1/embeddings",
        "embeddings",
        schemas.EmbeddingsRequest,
        schemas.EmbeddingList,
        dialects.OPENAI,
        "Turn text into vectors.",
        "Use a model for embeddings; GET /v1/models lists them.",
        streams=False,
        common=True,
    ),
    Endpoint(
        "/v1/responses",
        "chat",
        schemas.ResponsesRequest,
        schemas.ResponsesAnswer,
        dialects.RESPONSES,
        "Answer in the form of OpenAI's Responses API, where a model server has it; nothing is kept between requests.",
        _CHAT,
    ),
    Endpoint(
        "/v1/messages",
        "chat",
        schemas.MessagesRequest,
        schemas.MessagesAnswer,
        dialects.ANTHROPIC,
        "Answer in the form of Anthropic's Messages API, where a model server has it.",
        _CHAT,
    ),
    Endpoint(
        "/v1/messages/count_tokens",
        "chat",
        schemas.CountTokensRequest,
        schemas.TokenCount,
        dialects.ANTHROPIC,
        "Count the tokens of a request to /v1/messages, where a model server has it.",
        "Read the usage in the answer of POST /v1/chat/completions.",
        streams=False,
    ),
)
BY_PATH = {endpoint.path: endpoint for endpoint in ENDPOINTS}
