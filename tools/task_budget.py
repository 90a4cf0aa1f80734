# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Count what a playbook run executes, by role, and refuse more than the budget.

usage: task_budget.py [--unchanged] [--out FILE] -- ansible-playbook ARGUMENTS...
       task_budget.py [--unchanged] --read FILE

The budget, for each host: 90 executed tasks, 10 in one role, fewer than 20 % skipped; with --unchanged (a second run)
also 0 changed and no task over 5 seconds. Includes are no tasks of their own; a loop counts once.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXECUTED, PER_ROLE, SKIPPED_PERCENT, SECONDS = 90, 10, 20, 5.0


@dataclass
class Tally:
    """Counts of one host."""

    executed: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    changed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)
    seconds: Counter[str] = field(default_factory=Counter)


def tally(lines: list[str]) -> dict[str, Tally]:
    """Host -> counts, out of the callback's lines."""
    hosts: dict[str, Tally] = {}
    for line in filter(None, (line.strip() for line in lines)):
        entry = json.loads(line)
        counts = hosts.setdefault(entry["host"], Tally())
        role = entry["role"] or "(playbook)"
        name = f"{role}: {entry['task']}"
        if entry["outcome"] == "skipped":
            counts.skipped[role] += 1
            continue
        counts.executed[role] += 1
        counts.seconds[role] += entry["seconds"]
        if entry["outcome"] == "changed":
            counts.changed.append(name)
        if entry["outcome"] == "failed":
            counts.failed.append(name)
        if entry["seconds"] > SECONDS:
            counts.slow.append(f"{name} ({entry['seconds']:.1f} s)")
    return hosts


def over(host: str, counts: Tally, unchanged: bool) -> list[str]:
    """Everything that is over the budget."""
    problems = []
    executed, skipped = counts.executed.total(), counts.skipped.total()
    if executed > EXECUTED:
        problems.append(f"{host}: {executed} tasks were executed, the budget is {EXECUTED}.")
    for role, number in sorted(counts.executed.items()):
        if number > PER_ROLE and role not in ("(playbook)", "_stack"):
            problems.append(f"{host}: role {role} executed {number} tasks, the budget is {PER_ROLE}.")
    if skipped and skipped * 100 >= SKIPPED_PERCENT * (executed + skipped):
        problems.append(
            f"{host}: {skipped} of {executed + skipped} tasks were skipped, the budget is under {SKIPPED_PERCENT} %."
        )
    if unchanged:
        problems += [f"{host}: changed on a second run: {name}" for name in counts.changed]
        problems += [f"{host}: took over {SECONDS:.0f} s on a second run: {name}" for name in counts.slow]
    return problems + [f"{host}: failed: {name}" for name in counts.failed]


def rows(counts: Tally) -> list[str]:
    """The table of one host."""
    lines = ["role             executed  skipped  seconds"]
    for role in sorted(counts.executed | counts.skipped):
        lines.append(f"{role:16} {counts.executed[role]:8}  {counts.skipped[role]:7}  {counts.seconds[role]:7.1f}")
    total = sum(counts.seconds.values())
    lines.append(
        f"{'all':16} {counts.executed.total():8}  {counts.skipped.total():7}  {total:7.1f}  changed {len(counts.changed)}"
    )
    return lines


def run(command: list[str], out: Path) -> int:
    """Run a playbook under the callback."""
    env = {
        **os.environ,
        "ANSIBLE_CALLBACK_PLUGINS": str(ROOT / "tools" / "callbacks"),
        "ANSIBLE_CALLBACKS_ENABLED": "task_budget",
        "TASK_BUDGET_FILE": str(out),
    }
    return subprocess.run(command, check=False, env=env).returncode


def main(argv: list[str]) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unchanged", action="store_true")
    parser.add_argument("--read", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("command", nargs="*")
    args = parser.parse_args(argv)
    if bool(args.read) == bool(args.command):
        parser.error("name either a file to read or, after --, a command to run")
    status = 0
    with tempfile.TemporaryDirectory() as folder:
        path = args.read or args.out or Path(folder) / "tasks.jsonl"
        if args.command:
            status = run(args.command, path)
        try:
            hosts = tally(path.read_text().splitlines())
        except (OSError, ValueError, KeyError) as exc:
            print(f"error: {path} does not hold the counts of a run: {exc}", file=sys.stderr)
            return 1
    if not hosts:
        print("error: no task was counted: did the playbook match any host?", file=sys.stderr)
        return 1
    problems = []
    for host, counts in sorted(hosts.items()):
        print(f"\n{host}\n" + "\n".join(rows(counts)))
        problems += over(host, counts, args.unchanged)
    for problem in problems:
        print(f"over budget: {problem}")
    return status or (1 if problems else 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
