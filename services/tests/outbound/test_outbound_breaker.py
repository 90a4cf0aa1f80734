# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The breaker, by a clock of the test's own."""

from __future__ import annotations

import contextlib

import pytest

from mcpstack.registry.breaker import Breakers, OpenError, View


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def make(**more: float) -> tuple[Breakers, Clock, list[tuple[str, str]]]:
    clock = Clock()
    changes: list[tuple[str, str]] = []
    breakers = Breakers(
        threshold=3,
        shortest=1.0,
        longest=8.0,
        clock=clock,
        jitter=lambda: 1.0,
        on_change=lambda server, view: changes.append((server, view.state)),
    )
    return breakers, clock, changes


def fail(breakers: Breakers, server: str = "a", times: int = 1) -> None:
    for _ in range(times):
        with breakers.attempt(server) as attempt:
            attempt.failed()


def work(breakers: Breakers, server: str = "a") -> None:
    with breakers.attempt(server) as attempt:
        attempt.ok()


def test_it_opens_after_failures_in_a_row() -> None:
    breakers, _, changes = make()
    fail(breakers, times=2)
    work(breakers)
    fail(breakers, times=2)
    assert breakers.view("a") == View("closed", 2, 0.0)
    fail(breakers)
    assert breakers.view("a") == View("open", 3, 1.0)
    with pytest.raises(OpenError) as caught, breakers.attempt("a"):
        raise AssertionError("it was asked")
    assert caught.value.retry_after == 1
    work(breakers, "b")
    assert breakers.counts() == {"closed": 1, "open": 1, "half_open": 0}
    assert changes == [("a", "open")]


def test_one_may_try_when_the_time_is_over() -> None:
    breakers, clock, changes = make()
    fail(breakers, times=3)
    clock.now += 1.0
    assert breakers.view("a").state == "half_open"
    with breakers.attempt("a") as attempt:
        with pytest.raises(OpenError), breakers.attempt("a"):
            raise AssertionError("two tried")
        attempt.ok()
    assert breakers.view("a") == View("closed", 0, 0.0)
    assert changes == [("a", "open"), ("a", "closed")]


def test_each_pause_is_twice_the_one_before_up_to_a_limit() -> None:
    breakers, clock, _ = make()
    fail(breakers, times=3)
    pauses = []
    for _ in range(6):
        pauses.append(breakers.view("a").retry_in)
        clock.now += pauses[-1]
        fail(breakers)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]


def test_jitter_shortens_by_half_at_most() -> None:
    for jitter, pause in ((0.0, 0.5), (0.5, 0.75), (1.0, 1.0)):
        breakers = Breakers(threshold=1, shortest=1.0, clock=Clock(), jitter=lambda jitter=jitter: jitter)  # type: ignore[misc]
        fail(breakers)
        assert breakers.view("a").retry_in == pause


def test_a_trial_that_says_nothing_gives_its_place_back() -> None:
    breakers, clock, _ = make()
    fail(breakers, times=3)
    clock.now += 1.0
    with contextlib.suppress(KeyboardInterrupt), breakers.attempt("a"):
        raise KeyboardInterrupt
    assert breakers.view("a").state == "half_open"
    work(breakers)
    assert breakers.view("a").state == "closed"


def test_a_call_from_before_does_not_close_it() -> None:
    breakers, _, _ = make()
    with breakers.attempt("a") as slow:
        fail(breakers, times=3)
        slow.ok()
    assert breakers.view("a").state == "open"


def test_reset_forgets() -> None:
    breakers, _, _ = make()
    fail(breakers, times=3)
    breakers.reset("a")
    assert breakers.view("a") == View("closed", 0, 0.0)
    work(breakers)
