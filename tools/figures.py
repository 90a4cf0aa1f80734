# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the benchmarks have in common: a figure with its limit, the closing table, and running parts by name."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import testhost


class BenchError(Exception):
    """A sentence for a person: what is wrong and what to do."""


@dataclass
class Figure:
    """One measured number and the most it may be, or the least."""

    name: str
    measured: float
    limit: float
    unit: str
    least: bool = False

    @property
    def kept(self) -> bool:
        """On the right side of the limit."""
        return self.measured >= self.limit if self.least else self.measured <= self.limit

    def row(self) -> str:
        """A line of the table."""
        ratio = f"{self.measured / self.limit:5.2f}" if self.limit else ("    -" if self.kept else " over")
        state = "ok" if self.kept else ("UNDER" if self.least else "OVER")
        return f"{self.name:58} {self.measured:9.1f} {self.limit:8.0f} {self.unit:6} {ratio}  {state}"


def machine() -> str:
    """How fast this machine is just now, to compare figures of different days and machines by."""
    begin = time.monotonic()
    total = 0
    for number in range(5_000_000):
        total += number
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} processors, load {load:.1f}, five million additions in Python: {time.monotonic() - begin:.2f} s"


def say(text: str) -> None:
    """Progress line."""
    print(f"    {text}", file=sys.stderr, flush=True)


def table(figures: list[Figure]) -> str:
    """The closing table."""
    head = f"{'figure':58} {'measured':>9} {'limit':>8} {'':6} ratio"
    return "\n".join([head, *(figure.row() for figure in figures)])


def run(parts: Mapping[str, Callable[[], list[Figure]]], wanted: list[str]) -> int:
    """Measure the wanted parts, all without any; print the table. The exit status: 0, 1 over a limit, 2 unknown part."""
    wanted = wanted or list(parts)
    unknown = [name for name in wanted if name not in parts]
    if unknown:
        print(f"error: unknown part {', '.join(unknown)}; parts are: {', '.join(parts)}", file=sys.stderr)
        return 2
    figures: list[Figure] = []
    status = 0
    for name in wanted:
        print(f"[{name}] {machine()}", file=sys.stderr, flush=True)
        try:
            figures += parts[name]()
        except (BenchError, testhost.HostError) as error:
            print(f"error: {name}: {error}", file=sys.stderr)
            status = 1
    print(f"\n{machine()}\n{table(figures)}")
    return status or (0 if figures and all(figure.kept for figure in figures) else 1)
