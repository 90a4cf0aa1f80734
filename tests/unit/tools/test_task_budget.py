# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Task counts and what is over the budget, from made-up and from real runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import task_budget as core


def lines(*entries):
    return [
        json.dumps({"host": "h", "role": role, "task": f"t{number}", "outcome": outcome, "seconds": seconds})
        for number, (role, outcome, seconds) in enumerate(entries)
    ]


def problems(*entries, unchanged=False):
    counts = core.tally(lines(*entries))["h"]
    return core.over("h", counts, unchanged)


def test_counts():
    counts = core.tally(lines(("a", "ok", 1), ("a", "changed", 2), ("", "skipped", 0)))["h"]
    assert counts.executed == {"a": 2}
    assert counts.skipped == {"(playbook)": 1}
    assert counts.changed == ["a: t1"]
    assert "all                     2        1      3.0  changed 1" in core.rows(counts)


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([("", "ok", 0)] * 90, []),
        ([("", "ok", 0)] * 91, ["h: 91 tasks were executed, the budget is 90."]),
        ([("a", "ok", 0)] * 11, ["h: role a executed 11 tasks, the budget is 10."]),
        ([("_stack", "ok", 0)] * 11, []),
        (
            [("a", "ok", 0)] * 8 + [("a", "skipped", 0)] * 2,
            ["h: 2 of 10 tasks were skipped, the budget is under 20 %."],
        ),
        ([("a", "ok", 0)] * 9 + [("a", "skipped", 0)] * 2, []),
        ([("a", "failed", 0)], ["h: failed: a: t0"]),
    ],
)
def test_the_budget(entries, expected):
    assert problems(*entries) == expected


def test_a_second_run_changes_nothing_and_is_quick():
    assert problems(("a", "changed", 6.0)) == []
    assert problems(("a", "changed", 6.0), unchanged=True) == [
        "h: changed on a second run: a: t0",
        "h: took over 5 s on a second run: a: t0 (6.0 s)",
    ]


def test_a_real_run(tmp_path, capfd):
    (tmp_path / "play.yml").write_text(
        "- hosts: localhost\n  gather_facts: false\n  tasks:\n"
        "    - {name: Says, ansible.builtin.debug: {msg: x}, loop: [1, 2]}\n"
        "    - {name: Not, ansible.builtin.debug: {msg: x}, when: false}\n"
    )
    playbook = str(Path(sys.executable).parent / "ansible-playbook")
    out = tmp_path / "tasks.jsonl"
    assert (
        core.main(["--out", str(out), "--", playbook, "-i", "localhost,", "-c", "local", str(tmp_path / "play.yml")])
        == 1
    )
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(entry["task"], entry["outcome"]) for entry in found] == [("Says", "ok"), ("Not", "skipped")]
    assert "over budget: localhost: 1 of 2 tasks were skipped" in capfd.readouterr().out


def test_a_run_that_counted_nothing_is_a_failure(tmp_path, capsys):
    (tmp_path / "none").write_text("")
    assert core.main(["--read", str(tmp_path / "none")]) == 1
    assert "no task was counted" in capsys.readouterr().err
