# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The errors a client can get: stable codes, OpenAI's shape, and what to do next.

`CATALOGUE` is the one list: the README's table and the OpenAPI document are held against it by tests.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Kind(NamedTuple):
    status: int
    type: str
    suggestions: tuple[str, ...]
    retry_after: int | None = None


CATALOGUE: dict[str, Kind] = {
    "invalid_json": Kind(400, "invalid_request_error", ("Send one JSON object, encoded as UTF-8.",)),
    "invalid_request": Kind(400, "invalid_request_error", ("Correct the field named in param.",)),
    "unsupported_content_type": Kind(400, "invalid_request_error", ("Send Content-Type: application/json.",)),
    "context_length_exceeded": Kind(
        400, "invalid_request_error", ("Shorten the messages.", "Lower max_tokens.", "Use a model with more context.")
    ),
    "unsupported_by_model": Kind(
        400, "invalid_request_error", ("Use a model that supports this; GET /v1/models lists them.",)
    ),
    "model_rejected_request": Kind(400, "invalid_request_error", ("Correct the request as the message says.",)),
    "invalid_arguments": Kind(
        400,
        "invalid_request_error",
        ("Correct the argument named in param.", "The tool's inputSchema says what it takes."),
    ),
    "arguments_too_complex": Kind(400, "invalid_request_error", ("Send fewer or smaller arguments.",)),
    "missing_api_key": Kind(401, "authentication_error", ("Send Authorization: Bearer and your API key.",)),
    "invalid_api_key": Kind(
        401, "authentication_error", ("Check that the whole key was copied.", "Ask the operator for a new key.")
    ),
    "invalid_token": Kind(
        401, "authentication_error", ("Get a new access token.", "WWW-Authenticate names where and for which scopes.")
    ),
    "expired_api_key": Kind(401, "authentication_error", ("Ask the operator for a new key.",)),
    "insufficient_scope": Kind(403, "permission_error", ("Ask the operator for a key with the scope in param.",)),
    "origin_not_allowed": Kind(403, "permission_error", ("Ask the operator to allow this web site's origin.",)),
    "tool_quarantined": Kind(403, "permission_error", ("Ask the operator to review and approve the tool.",)),
    "tool_disabled": Kind(403, "permission_error", ("Use another tool; GET /v1/tools lists them.",)),
    "url_not_allowed": Kind(403, "permission_error", ("Ask the operator to allow the host in his settings.",)),
    "not_found": Kind(404, "invalid_request_error", ("Check the path and the base URL: it ends in /v1.",)),
    "model_not_found": Kind(404, "invalid_request_error", ("GET /v1/models lists the models.",)),
    "unsupported_endpoint": Kind(404, "invalid_request_error", ("Use POST /v1/chat/completions.",)),
    "server_not_found": Kind(404, "invalid_request_error", ("GET /v1/servers lists the servers.",)),
    "tool_not_found": Kind(404, "invalid_request_error", ("GET /v1/tools lists the tools.",)),
    "task_not_found": Kind(404, "invalid_request_error", ("GET /v1/tasks lists your tasks.",)),
    "method_not_allowed": Kind(405, "invalid_request_error", ("Use a method from the Allow header.",)),
    "request_timeout": Kind(408, "invalid_request_error", ("Send the body without pauses.",)),
    "idempotency_conflict": Kind(409, "invalid_request_error", ("Send a new Idempotency-Key with a new request.",)),
    "task_finished": Kind(409, "invalid_request_error", ("GET /v1/tasks/{id} shows how it ended.",)),
    "name_taken": Kind(409, "invalid_request_error", ("Choose another name.", "Change what has it with PUT.")),
    "definition_changed": Kind(409, "invalid_request_error", ("Read the difference again, then approve it.",)),
    "not_editable": Kind(409, "invalid_request_error", ("Change it on its server, then synchronise.",)),
    "request_too_large": Kind(413, "invalid_request_error", ("Send a smaller body.", "Split the input.")),
    "misdirected_request": Kind(421, "invalid_request_error", ("Use the host name the operator published.",)),
    "rate_limit_exceeded": Kind(
        429, "rate_limit_error", ("Wait as long as Retry-After says.", "Ask the operator for a higher limit.")
    ),
    "budget_exceeded": Kind(
        429, "rate_limit_error", ("Wait as long as Retry-After says.", "GET /v1/usage shows what was used.")
    ),
    "request_exceeds_limit": Kind(
        429,
        "rate_limit_error",
        ("Lower max_tokens.", "Send a shorter prompt.", "Ask the operator for a higher limit."),
    ),
    "concurrency_limit_exceeded": Kind(
        429, "rate_limit_error", ("Wait for one of your running requests to end.",), retry_after=1
    ),
    "queue_full": Kind(429, "rate_limit_error", ("Try again as Retry-After says.", "Use another model."), 2),
    "task_limit_exceeded": Kind(
        429, "rate_limit_error", ("Wait for one of your tasks to end.", "Cancel one with DELETE /v1/tasks/{id}."), 5
    ),
    "internal_error": Kind(500, "server_error", ("Try again.", "Give the request_id to the operator.")),
    "model_runner_error": Kind(502, "server_error", ("Try again.", "Give the request_id to the operator.")),
    "tool_server_error": Kind(502, "server_error", ("Try again.", "Give the request_id to the operator.")),
    "tool_server_refused": Kind(502, "server_error", ("Ask the operator: the server's entry needs a change.",)),
    "tool_schema_unusable": Kind(502, "server_error", ("Ask the operator: the tool's definition needs a change.",)),
    "tool_result_too_large": Kind(502, "server_error", ("Ask the tool for less: a part, a page, fewer results.",)),
    "model_runner_unavailable": Kind(
        503, "server_error", ("Try again as Retry-After says.", "Ask the operator: GET /ready names the cause."), 5
    ),
    "queue_timeout": Kind(503, "server_error", ("Try again as Retry-After says.", "Use another model."), 5),
    "tool_server_unavailable": Kind(
        503, "server_error", ("Try again as Retry-After says.", "GET /v1/servers shows the server's state."), 5
    ),
    "tool_server_busy": Kind(503, "server_error", ("Try again as Retry-After says.",), 1),
    "registry_unavailable": Kind(503, "server_error", ("Try again as Retry-After says.",), 5),
    "auth_unavailable": Kind(503, "server_error", ("Try again as Retry-After says.",), 5),
    "usage_unavailable": Kind(503, "server_error", ("Try again as Retry-After says.",), 5),
    "task_queue_unavailable": Kind(503, "server_error", ("Try again as Retry-After says.",), 5),
    "shutting_down": Kind(503, "server_error", ("Try again as Retry-After says.",), 2),
    "model_runner_timeout": Kind(
        504, "server_error", ('Use "stream": true for long answers.', "Lower max_tokens.", "Try again later.")
    ),
    "tool_timeout": Kind(
        504, "server_error", ("Ask the tool for less at once.", "Ask the operator for a longer timeout.")
    ),
}


class ApiError(Exception):
    """An answer with an error in it. Messages are for the client: no address, no internal name, no secret."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        param: str | None = None,
        suggestions: tuple[str, ...] = (),
        headers: dict[str, str] | None = None,
        retry_after: int | None = None,
        reason: str | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.kind = CATALOGUE[code]
        self.message = message
        self.param = param
        self.suggestions = suggestions or self.kind.suggestions
        self.reason = reason
        self.headers = dict(headers or {})
        wait = retry_after if retry_after is not None else self.kind.retry_after
        if wait is not None:
            self.headers["Retry-After"] = str(wait)
        if self.kind.status == 401:
            self.headers["WWW-Authenticate"] = "Bearer"

    @property
    def status(self) -> int:
        return self.kind.status

    def body(self, request_id: str) -> dict[str, Any]:
        error: dict[str, Any] = {
            "message": self.message,
            "type": self.kind.type,
            "param": self.param,
            "code": self.code,
            "request_id": request_id,
            "suggestions": list(self.suggestions),
        }
        if self.reason is not None:
            error["reason"] = self.reason
        return {"error": error}
