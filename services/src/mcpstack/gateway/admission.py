# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""May this request be served? Who asks, with which scope, and within which limits.

A plain request (models, usage, tasks) is admitted at once: `await admit(gateway, request, scope)`. One that a model
answers is admitted in two steps, because what it may use is known only from its body:

    async with await entering(gateway, request, scope) as admission:
        payload = ...                                             # read and check the body
        reservation = await admission.reserve(model, estimate(path, payload, size))

Both cost one question to Valkey. A body that is refused costs one as well, so that bad requests count like good ones.
Whoever has the reservation ends it, with `settle` or `refund`; an error inside the `with` refunds it.
"""

from __future__ import annotations

import math
import time
from collections import Counter, OrderedDict
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from starlette.requests import Request

from mcpstack.common.errors import ApiError
from mcpstack.common.keys import Key
from mcpstack.common.limits import CONCURRENCY, REQUESTS, Lease, Limits, Verdict, refusal
from mcpstack.gateway.metrics import LIMITS, TOO_LARGE

if TYPE_CHECKING:
    from mcpstack.gateway.service import Gateway

_BYTES_A_TOKEN = 4
_LOOK_CLOSER = 16 * 1024  # a smaller body holds no picture worth looking for
_PICTURE = 1024  # tokens that a picture or a recording counts for, whatever its size
_SHORT = 1024  # a string below this is taken for text
_MOST = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_REMEMBERED = 10_000


class Estimate(NamedTuple):
    prompt: int
    completion: int | None  # the most that the request allows; None: it does not say
    answers: int = 1


def estimate(path: str, payload: dict[str, Any], size: int) -> Estimate:
    """What a request may use, before anybody knows: a token for every four bytes of its body, and what it asks for.

    Pictures and recordings inside the body count 1024 tokens each instead of their bytes. This decides about admission
    only; what is billed is what the model server says, and the estimate of the prompt where it says nothing.
    """
    if path == "/v1/messages/count_tokens":
        return Estimate(0, 0)
    pictures, hidden = _attachments(payload) if size > _LOOK_CLOSER else (0, 0)
    prompt = max(1, math.ceil((size - hidden) / _BYTES_A_TOKEN)) + pictures * _PICTURE
    if path == "/v1/embeddings":
        return Estimate(prompt, 0)
    asked = payload.get("prompt")
    prompts = len(asked) if isinstance(asked, list) and asked and not isinstance(asked[0], int) else 1
    answers = prompts * max(_count(payload.get("n")) or 1, _count(payload.get("best_of")) or 1)
    most = next((_count(payload[name]) for name in _MOST if _count(payload.get(name)) is not None), None)
    return Estimate(prompt, None if most is None else most * answers, answers)


def _count(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) and value >= 0 else None


def _attachments(payload: dict[str, Any]) -> tuple[int, int]:
    """How many pictures, recordings and files the body carries inside, and how many bytes they take."""
    found = hidden = 0
    waiting: list[Any] = [payload]
    while waiting:
        value = waiting.pop()
        items = value.items() if isinstance(value, dict) else ((None, item) for item in value)
        for name, item in items:
            if isinstance(item, dict | list):
                waiting.append(item)
            elif isinstance(item, str) and len(item) > _SHORT and _is_base64(name, item):
                found, hidden = found + 1, hidden + len(item)
    return found, hidden


def _is_base64(name: object, text: str) -> bool:
    """Text of this length has blanks, so a long prompt in a field called data is no picture."""
    return (name in ("data", "file_data") or text.startswith("data:")) and " " not in text[-_SHORT:]


class Doors:
    """What this process remembers of its keys between requests."""

    def __init__(self) -> None:
        self.entering: Counter[str] = Counter()  # requests whose body is being read
        self._refused: OrderedDict[str, tuple[Verdict, float]] = OrderedDict()

    def enter(self, kid: str) -> None:
        self.entering[kid] += 1

    def leave(self, kid: str) -> None:
        self.entering[kid] -= 1
        if self.entering[kid] <= 0:
            del self.entering[kid]

    def remember(self, kid: str, verdict: Verdict) -> None:
        """No request of this key can be allowed before: until then nobody needs to be asked, and no body to be read."""
        self._refused[kid] = verdict, time.monotonic() + verdict.requests_wait / 1000
        self._refused.move_to_end(kid)
        if len(self._refused) > _REMEMBERED:
            self._refused.popitem(last=False)

    def refused(self, kid: str, limits: Limits, up: bool) -> Verdict | None:
        if kid not in self._refused:
            return None
        verdict, until = self._refused[kid]
        wait = math.ceil((until - time.monotonic()) * 1000)
        alone = verdict.degraded and up  # what was decided here meanwhile is over
        if wait <= 0 or alone or (verdict.limits.rpm != limits.rpm and not verdict.degraded):
            del self._refused[kid]
            return None
        return verdict._replace(requests_wait=wait)


class Reservation:
    """A request that was admitted: its place and its tokens. Ends once; what comes after the first end is nothing."""

    __slots__ = ("_estimate", "_gateway", "_lease", "model")

    def __init__(self, gateway: Gateway, lease: Lease, model: str, prompt: int) -> None:
        self._gateway = gateway
        self._lease = lease
        self._estimate = prompt
        self.model = model

    def settle(self, prompt: int | None, completion: int) -> bool:
        """Bill what was used. Without the model server's word on the prompt its estimate counts.

        Best called before the last bytes are sent: then the place is free when the client asks again.
        """
        lease = self._lease
        prompt = self._estimate if prompt is None else max(0, prompt)
        if not lease.end(prompt + completion):
            return False
        budgets = bool(lease.limits.tokens_day or lease.limits.tokens_month)
        self._gateway.usage.add(lease.kid, self.model, lease.period.day, prompt, completion, budgets=budgets)
        return True

    def refund(self) -> bool:
        """Nothing was answered: nothing is billed. The request itself stays counted."""
        return self._lease.end(0)


class Admission:
    def __init__(self, gateway: Gateway, request: Request, key: Key) -> None:
        settings = gateway.settings
        self._gateway = gateway
        self._request = request
        self._verdict: Verdict | None = None
        self._reservation: Reservation | None = None
        self.key = key
        self.limits = Limits(
            key.rpm,
            key.concurrency,
            key.tpm or settings.default_tpm,
            key.tokens_day or settings.default_tokens_day,
            key.tokens_month or settings.default_tokens_month,
        )

    @property
    def verdict(self) -> Verdict:
        assert self._verdict is not None  # noqa: S101 - asked for after an answer only
        return self._verdict

    async def count(self) -> None:
        """A request that uses no tokens and takes no time."""
        verdict, _ = await self._gateway.limiter.take(self.key.kid, self.limits._replace(concurrency=0))
        self._decide(verdict)

    async def reserve(self, model: str, guess: Estimate) -> Reservation:
        """A request that a model will answer. Holds a place and the tokens it may use."""
        limits = self.limits
        least = guess.prompt + (guess.completion or 0)
        for limit, words in (
            (limits.tpm, "minute"),
            (limits.tokens_day, "day"),
            (limits.tokens_month, "month"),
        ):
            if limit and least > limit:
                self._gateway.metrics.refused(self.key.kid, TOO_LARGE)
                raise ApiError(
                    "request_exceeds_limit",
                    f"This request may use about {least} tokens, and this key may use {limit} a {words}.",
                    headers={"x-should-retry": "false"},
                )
        most = least
        if guess.completion is None:
            most += self._gateway.settings.reserve_tokens * guess.answers
        if not (limits.tpm or limits.tokens_day or limits.tokens_month):
            least = most = 0
        verdict, lease = await self._gateway.limiter.take(self.key.kid, limits, least, most)
        if lease is not None:
            self._reservation = Reservation(self._gateway, lease, model, guess.prompt)
        self._decide(verdict)
        assert self._reservation is not None  # noqa: S101 - an allowed request with limited concurrency has a lease
        return self._reservation

    def _decide(self, verdict: Verdict) -> None:
        self._verdict = verdict
        state = self._request.state
        state.headers.extend(verdict.headers())
        if verdict.degraded:
            state.log["ratelimit"] = "local"
            self._gateway.metrics.degraded.set(1)
        if verdict.code == REQUESTS:
            self._gateway.doors.remember(self.key.kid, verdict)
        if not verdict.allowed:
            self._gateway.metrics.refused(self.key.kid, LIMITS[verdict.code])
            raise refusal(verdict)

    # While the body is read

    async def __aenter__(self) -> Admission:
        doors, limiter = self._gateway.doors, self._gateway.limiter
        kid, limits = self.key.kid, self.limits
        if doors.entering[kid] + limiter.running(kid) >= limits.concurrency:
            # What is read takes memory as well. This costs nothing, and is not counted as a request.
            self._gateway.metrics.refused(kid, LIMITS[CONCURRENCY])
            raise refusal(_full(limits))
        doors.enter(kid)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._gateway.doors.leave(self.key.kid)
        if error is None:
            return
        if self._reservation is not None:
            self._reservation.refund()
        elif self._verdict is None and isinstance(error, ApiError):
            await self.count()  # which may refuse instead


def _full(limits: Limits) -> Verdict:
    return Verdict(CONCURRENCY, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, limits.concurrency, limits)


def _authorization(request: Request) -> str | None:
    """Anthropic's clients send the key by itself, in a header of its own."""
    given = request.headers.get("x-api-key") if request.scope["path"].startswith("/v1/messages") else None
    return request.headers.get("authorization") if given is None else f"Bearer {given}"


async def _identify(gateway: Gateway, request: Request, scope: str | None) -> Admission:
    key = await gateway.keys.verify(_authorization(request))
    request.state.log["kid"] = key.kid
    if scope is not None and scope not in key.scopes:
        raise ApiError("insufficient_scope", f"This API key does not have the scope {scope!r}.", param=scope)
    admission = Admission(gateway, request, key)
    known = gateway.doors.refused(key.kid, admission.limits, gateway.limiter.up)
    if known is not None:
        admission._decide(known)
    return admission


async def admit(gateway: Gateway, request: Request, scope: str | None) -> Admission:
    """Admit a request that uses no tokens, or raise the answer for the client. Scope None: any key will do."""
    admission = await _identify(gateway, request, scope)
    await admission.count()
    return admission


async def entering(gateway: Gateway, request: Request, scope: str) -> Admission:
    """The first step for a request that a model will answer: `async with await entering(...) as admission`."""
    return await _identify(gateway, request, scope)
