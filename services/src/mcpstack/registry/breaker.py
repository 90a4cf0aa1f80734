# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A circuit breaker for each server: one that fails again and again is left alone for a while.

closed: calls pass. After `threshold` failures in a row it opens and refuses at once. When its time is over one call
may try (half_open): it closes the breaker again, or opens it for twice as long, up to `longest`. The time has jitter,
so that several registries do not try at the same moment.
"""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

State = Literal["closed", "open", "half_open"]
STATES: tuple[State, ...] = ("closed", "open", "half_open")


class OpenError(Exception):
    """Refused without asking the server."""

    def __init__(self, wait: float) -> None:
        super().__init__(f"wait {wait:.1f} s")
        self.wait = wait

    @property
    def retry_after(self) -> int:
        return max(1, math.ceil(self.wait))


class View(NamedTuple):
    """What is shown of a breaker."""

    state: State
    failures: int
    retry_in: float


@dataclass
class _Circuit:
    failures: int = 0
    opened: int = 0  # times in a row, for the length of the next pause
    until: float = 0.0
    probing: bool = False


class Attempt:
    """One call under way. Say `ok` or `failed`; saying nothing (cancelled, our own fault) counts as nothing."""

    def __init__(self) -> None:
        self.outcome: bool | None = None

    def ok(self) -> None:
        self.outcome = True

    def failed(self) -> None:
        self.outcome = False


class Breakers:
    def __init__(
        self,
        *,
        threshold: int = 5,
        shortest: float = 1.0,
        longest: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
        on_change: Callable[[str, View], None] | None = None,
    ) -> None:
        self._threshold, self._shortest, self._longest = threshold, shortest, longest
        self._clock, self._jitter = clock, jitter
        self._on_change = on_change
        self._circuits: dict[str, _Circuit] = {}

    @contextlib.contextmanager
    def attempt(self, server_id: str) -> Iterator[Attempt]:
        """Around a call; raises OpenError where the server is left alone."""
        circuit = self._circuits.setdefault(server_id, _Circuit())
        probe = False
        if circuit.opened:
            wait = circuit.until - self._clock()
            if wait > 0:
                raise OpenError(wait)
            if circuit.probing:
                raise OpenError(1.0)
            circuit.probing = probe = True
        attempt = Attempt()
        try:
            yield attempt
        finally:
            if probe:
                circuit.probing = False
            # A call that began before the breaker opened says nothing about whether it may close now.
            if attempt.outcome is not None and (probe or not circuit.opened):
                before = circuit.opened
                self._settle(circuit, attempt.outcome)
                if before != circuit.opened and self._on_change is not None:
                    self._on_change(server_id, self.view(server_id))

    def _settle(self, circuit: _Circuit, success: bool) -> None:
        if success:
            circuit.failures = circuit.opened = 0
            return
        circuit.failures += 1
        if circuit.opened or circuit.failures >= self._threshold:
            pause = min(self._longest, self._shortest * 2.0 ** min(circuit.opened, 30))
            circuit.opened += 1
            circuit.until = self._clock() + pause * (0.5 + self._jitter() / 2)

    def view(self, server_id: str) -> View:
        circuit = self._circuits.get(server_id)
        if circuit is None or not circuit.opened:
            return View("closed", circuit.failures if circuit else 0, 0.0)
        wait = circuit.until - self._clock()
        return View("open", circuit.failures, wait) if wait > 0 else View("half_open", circuit.failures, 0.0)

    def counts(self) -> dict[State, int]:
        """For the metric: how many servers are in which state, as far as they were called."""
        found: dict[State, int] = dict.fromkeys(STATES, 0)
        for server_id in self._circuits:
            found[self.view(server_id).state] += 1
        return found

    def reset(self, server_id: str) -> None:
        """The server was changed or removed."""
        self._circuits.pop(server_id, None)
