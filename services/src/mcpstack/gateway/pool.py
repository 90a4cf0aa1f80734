# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All model servers behind one URL: which one gets a request, who waits, and what happens when one goes away.

A request goes to the server with the least work for its weight among the healthy ones that have the model. When all
of them are full it waits in order of arrival, in a queue with a bound; a client that leaves gives its place up. A
server that refuses connections gets nothing for a while, unless nobody else has the model: then it is asked all the
same, because it may be back before the next health check.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import logging
import os
import time
from collections.abc import Callable
from typing import Any

from mcpstack.common.errors import ApiError
from mcpstack.common.settings import SettingsError
from mcpstack.gateway import runnerspec
from mcpstack.gateway.metrics import RunnerState
from mcpstack.gateway.runner import Runner, unavailable
from mcpstack.gateway.runnerspec import RunnerSpec
from mcpstack.gateway.settings import Settings

log = logging.getLogger(__name__)

_EVERY = 5.0  # between checks of a server that answers
_FIRST_RETRY = 0.25
_LAST_RETRY = 5.0
_LOOK_AGAIN = 1.0  # a model that nobody has may be new: ask for the lists, at most this often
_FILE_EVERY = 2.0
_QUEUED_BYTES = 64 * 1024 * 1024  # bodies that wait, all together


class Lease:
    """A place at a model server; giving it back twice does no harm."""

    __slots__ = ("_pool", "queued", "runner")

    def __init__(self, pool: Pool, runner: Runner, queued: float) -> None:
        self._pool: Pool | None = pool
        self.runner = runner
        self.queued = queued  # seconds spent waiting for the place

    def release(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.give_back(self.runner)


class _Waiter:
    __slots__ = ("granted", "model", "path", "size", "ticket", "tried")

    def __init__(self, ticket: int, model: str, path: str, tried: tuple[Runner, ...], size: int) -> None:
        self.ticket, self.model, self.path, self.tried, self.size = ticket, model, path, tried, size
        self.granted: asyncio.Future[Runner] = asyncio.get_running_loop().create_future()


class Pool:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.runners: list[Runner] = []
        self._leaving: set[Runner] = set()  # no longer in the list, with answers still running
        self._serving: dict[str, list[Runner]] = {}
        self._queues: dict[str, dict[int, _Waiter]] = {}  # by model, in order of arrival
        self._queued_bytes = 0
        self._tickets = 0
        self._watches: dict[Runner, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._file_seen: tuple[int, int, int] | None = None
        self.on_change: Callable[[], None] = lambda: None

    # Life

    async def open(self) -> None:
        self._file_seen = self._stat()
        await self._adopt(runnerspec.read(self._settings))
        if self._settings.runners.startswith("/"):
            self._spawn(self._watch_file())

    async def close(self) -> None:
        tasks = [*self._tasks, *self._watches.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(runner.close() for runner in (*self.runners, *self._leaving)), return_exceptions=True)

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def reload(self) -> None:
        """Read the list again; one that cannot be used changes nothing."""
        self._spawn(self._reload())

    async def _reload(self) -> None:
        self._file_seen = self._stat()
        try:
            specs = runnerspec.read(self._settings)
        except SettingsError as error:
            log.error("the list of model servers cannot be used; the old one stays", extra={"reason": str(error)})  # noqa: TRY400
            return
        await self._adopt(specs)
        log.info("model servers", extra={"runners": [_described(spec) for spec in specs]})

    async def _adopt(self, specs: tuple[RunnerSpec, ...]) -> None:
        known = {runner.spec.name: runner for runner in self.runners}
        kept: list[Runner] = []
        for spec in specs:
            runner = known.get(spec.name)
            if runner is not None and runner.spec.same_server(spec) and runner.spec.models == spec.models:
                runner.spec = spec
                del known[spec.name]
            else:
                runner = Runner(spec, self._settings)
                await runner.open()
                self._watches[runner] = asyncio.create_task(self._watch(runner))
            kept.append(runner)
        self.runners = kept
        for runner in known.values():
            self._leaving.add(runner)
            self._watches.pop(runner).cancel()
            self._let_go(runner)
        self._changed()

    def _let_go(self, runner: Runner) -> None:
        if runner in self._leaving and not runner.in_flight:
            self._leaving.discard(runner)
            self._spawn(runner.close())

    def _stat(self) -> tuple[int, int, int] | None:
        """What tells one version of the file from the next; a swapped link counts as well."""
        if not self._settings.runners.startswith("/"):
            return None
        try:
            found = os.stat(self._settings.runners)
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    async def _watch_file(self) -> None:
        while True:
            await asyncio.sleep(_FILE_EVERY)
            now = self._stat()
            if now is not None and now != self._file_seen:
                await self._reload()

    # Health

    async def _watch(self, runner: Runner) -> None:
        pause = _FIRST_RETRY
        while True:
            try:
                await runner.check()
            except ApiError:
                self._seen(runner, False)
                pause, wait = min(pause * 2, _LAST_RETRY), pause
            except Exception:
                log.exception("a check failed in an unexpected way", extra={"runner": runner.spec.name})
                self._seen(runner, False)
                pause, wait = min(pause * 2, _LAST_RETRY), pause
            else:
                self._seen(runner, True)
                pause, wait = _FIRST_RETRY, min(_EVERY, self._settings.model_list_seconds)
            # A request that met a failure wakes the check early, so that recovery is noticed soon as well.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(runner.look.wait(), wait)
                await asyncio.sleep(_FIRST_RETRY)
            runner.look.clear()

    def _seen(self, runner: Runner, up: bool) -> None:
        changed, runner.up = runner.up is not up, up
        if changed:
            log.log(
                logging.INFO if up else logging.WARNING,
                "model server is up" if up else "model server is down",
                extra={"runner": runner.spec.name, "reason": None if up else runner.reason},
            )
        self._changed()

    def _changed(self) -> None:
        """Something about a server is different: who serves what, and what becomes of those who wait."""
        serving: dict[str, list[Runner]] = {}
        for runner in self.runners:
            for name in runner.names:
                serving.setdefault(name, []).append(runner)
        self._serving = serving
        self._review()
        self.on_change()

    def _review(self) -> None:
        in_vain: set[tuple[str, str, tuple[Runner, ...]]] = set()  # no place for those, so for nobody like them
        for waiter in sorted((w for queue in self._queues.values() for w in queue.values()), key=lambda w: w.ticket):
            wish = waiter.model, waiter.path, waiter.tried
            if waiter.granted.done() or wish in in_vain:
                continue
            try:
                runner = self._pick(*wish)
            except ApiError as error:
                self._forget(waiter)
                waiter.granted.set_exception(error)
            else:
                if runner is None:
                    in_vain.add(wish)
                else:
                    self._grant(waiter, runner)

    @property
    def reason(self) -> str | None:
        """Why not everything is well; None: it is."""
        watched = [runner for runner in self.runners if not runner.spec.draining]
        down = [runner for runner in watched if not runner.up]
        if not watched:
            return "all are being drained"
        if not down:
            return None
        if len(self.runners) == 1:
            return down[0].reason
        named = ", ".join(f"{runner.spec.name}: {runner.reason}" for runner in down[:5])
        return f"{len(down)} of {len(watched)} cannot be used ({named})"

    @property
    def up(self) -> bool:
        return any(runner.up and not runner.spec.draining for runner in self.runners)

    def states(self) -> list[RunnerState]:
        """For the metrics."""
        return [
            RunnerState(
                runner.spec.name,
                runner.up is True,
                runner.in_flight,
                runner.spec.max_concurrency,
                runner.reconnects,
                runner.moved,
            )
            for runner in self.runners
        ]

    # Models

    async def models(self) -> list[dict[str, Any]]:
        """What the servers that can be used offer together, each model once."""
        await self._first_lists()
        found: dict[str, dict[str, Any]] = {}
        usable = [runner for runner in self.runners if runner.up and not runner.spec.draining]
        for runner in usable:
            for model in runner.models:
                found.setdefault(model["id"], model)
        if not usable:
            raise unavailable(self.runners[0].reason or "it is being drained")
        return list(found.values())

    def model(self, name: str) -> dict[str, Any]:
        """One that somebody has."""
        found = (model for runner in self._serving.get(name, ()) for model in runner.models if model["id"] == name)
        entry = next(found, None)
        if entry is None:
            raise self.unknown_model(name)
        return entry

    async def require_model(self, name: str) -> None:
        """Somebody has it, up or not; raises ApiError otherwise."""
        if name in self._serving:
            return
        await self._first_lists()
        if name not in self._serving:
            await self._look_again()
        if name in self._serving:
            return
        # Who never gave a list may have the model: nobody can say that it does not exist.
        for runner in self.runners:
            if runner.listed_at < 0 and not runner.spec.draining:
                raise unavailable(runner.reason or "it has not listed its models yet")
        raise self.unknown_model(name)

    async def _first_lists(self) -> None:
        """Right after the start the first health check is still under way: wait for it, not for ever."""
        fresh = [runner for runner in self.runners if runner.up is None]
        if fresh:
            await asyncio.gather(*(self._list(runner) for runner in fresh))
            self._changed()

    async def _look_again(self) -> None:
        now = time.monotonic()
        asked = [runner for runner in self.runners if not runner.hopeless and now - runner.listed_at > _LOOK_AGAIN]
        if asked:
            await asyncio.gather(*(self._list(runner) for runner in asked))
            self._changed()

    async def _list(self, runner: Runner) -> None:
        try:
            await asyncio.shield(runner.refresh())
        except ApiError as error:
            if runner.up is not True:
                runner.reason = error.reason or "it fails"
            return
        if runner.up is None:
            runner.up, runner.reason = True, None

    def unknown_model(self, name: str) -> ApiError:
        near = difflib.get_close_matches(name[:200], sorted(self._serving), n=3, cutoff=0.4)
        suggestions = [f"Did you mean {other!r}?" for other in near]
        shown = name if len(name) <= 100 else name[:97] + "..."
        return ApiError(
            "model_not_found",
            f"The model {shown!r} does not exist here.",
            param="model",
            suggestions=(*suggestions, "GET /v1/models lists the models."),
        )

    # Places

    def _pick(self, model: str, path: str, tried: tuple[Runner, ...]) -> Runner | None:
        """The best server with a free place; None: all are full. Raises ApiError when waiting would not help."""
        now = time.monotonic()
        serving = self._serving.get(model, ())
        staying = [runner for runner in serving if not runner.spec.draining]
        if not staying:
            if not serving:
                raise self.unknown_model(model)
            raise unavailable("it is being drained")
        able = [runner for runner in staying if runner not in tried and not runner.lacks(path, now)]
        if not able:
            if any(runner not in tried for runner in staying):
                raise ApiError("unsupported_endpoint", f"No model server that has this model offers {path}.")
            raise unavailable("none that has this model can be reached")
        fit = [runner for runner in able if runner.healthy(now)]
        if not fit:
            fit = [runner for runner in able if not runner.hopeless]
            if not fit:
                raise unavailable(able[0].reason or "it does not answer in time")
        free = [runner for runner in fit if not runner.full]
        if not free:
            return None
        if len(free) == 1:
            return free[0]
        return min(free, key=lambda runner: ((runner.in_flight + 1) / runner.spec.weight, runner.chosen_at))

    def _take(self, runner: Runner) -> None:
        self._tickets += 1
        runner.chosen_at = self._tickets
        runner.in_flight += 1

    def take(self, model: str, path: str, tried: tuple[Runner, ...] = ()) -> Lease | None:
        """A place, at once, or None: `wait` for one."""
        # Whoever waits could not use a place that is free now: places are handed on in the moment they become free.
        runner = self._pick(model, path, tried)
        if runner is None:
            return None
        self._take(runner)
        return Lease(self, runner, 0.0)

    async def wait(self, model: str, path: str, size: int, tried: tuple[Runner, ...] = ()) -> Lease:
        """A place as soon as it is this request's turn."""
        queue = self._queues.get(model, {})
        places = sum(runner.spec.queue for runner in self._serving.get(model, ()) if not runner.spec.draining)
        if len(queue) >= places or self._queued_bytes + size > _QUEUED_BYTES:
            raise ApiError("queue_full", "Too many requests are waiting for this model.")
        began = time.monotonic()
        self._tickets += 1
        waiter = _Waiter(self._tickets, model, path, tried, size)
        self._queues.setdefault(model, {})[waiter.ticket] = waiter
        self._queued_bytes += size
        try:
            async with asyncio.timeout(self._settings.queue_timeout):
                runner = await waiter.granted
        except TimeoutError:
            self._abandon(waiter)
            limit = self._settings.queue_timeout
            raise ApiError("queue_timeout", f"No model server had a free place within {limit:g} s.") from None
        except asyncio.CancelledError:
            self._abandon(waiter)
            raise
        return Lease(self, runner, time.monotonic() - began)

    def _grant(self, waiter: _Waiter, runner: Runner) -> None:
        self._forget(waiter)
        self._take(runner)
        waiter.granted.set_result(runner)

    def _forget(self, waiter: _Waiter) -> None:
        queue = self._queues.get(waiter.model)
        if queue is not None and queue.pop(waiter.ticket, None) is not None:
            self._queued_bytes -= waiter.size
            if not queue:
                del self._queues[waiter.model]

    def _abandon(self, waiter: _Waiter) -> None:
        """Nobody waits for it any more; a place that was granted in the same moment goes to the next one."""
        self._forget(waiter)
        granted = waiter.granted
        if granted.done() and not granted.cancelled() and granted.exception() is None:
            self.give_back(granted.result())

    def give_back(self, runner: Runner) -> None:
        runner.in_flight -= 1
        if self._queues and not runner.spec.draining:
            self._hand_on(runner)
        if runner in self._leaving:
            self._let_go(runner)

    def _hand_on(self, runner: Runner) -> None:
        """The free place goes to whoever has waited longest among those this server can serve."""
        now = time.monotonic()
        if not runner.healthy(now):
            self._review()
            return
        while not runner.full:
            first: _Waiter | None = None
            for model, queue in self._queues.items():
                if runner not in self._serving.get(model, ()):
                    continue
                for waiter in queue.values():
                    if waiter.granted.done() or runner in waiter.tried or runner.lacks(waiter.path, now):
                        continue
                    if first is None or waiter.ticket < first.ticket:
                        first = waiter
                    break
            if first is None:
                return
            self._grant(first, runner)

    @property
    def waiting(self) -> int:
        return sum(len(queue) for queue in self._queues.values())


def _described(spec: RunnerSpec) -> str:
    return spec.name + (" (draining)" if spec.draining else "")
