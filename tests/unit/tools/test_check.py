# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The stage runner: true counts, nothing hidden, the first failed group ends the run."""

from __future__ import annotations

import sys

import check
import pytest


@pytest.fixture(autouse=True)
def _logs(tmp_path, monkeypatch):
    monkeypatch.setattr(check, "LOGS", tmp_path)


def stage(code, **options):
    return check.Stage(options.pop("name", "stage"), [sys.executable, "-c", code], **options)


@pytest.mark.parametrize(
    ("output", "failed", "expected"),
    [
        ("....\n4 passed in 0.10s\n", False, (4, 0, 0)),
        ("=== 1 failed, 3 passed, 2 skipped in 1.00s ===\n", True, (3, 1, 2)),
        ("2 passed, 1 error in 1.00s\n", True, (2, 1, 0)),
        ("12 passed, 3 deselected, 1 warning in 72.03s (0:01:12)\n", False, (12, 0, 0)),
        ("5 passed in 1.00s\n", True, (5, 1, 0)),
        ("All checks passed!\n", False, (1, 0, 0)),
        ("broken\n", True, (0, 1, 0)),
    ],
)
def test_counts_are_true(output, failed, expected):
    assert check.count(output, failed) == expected


def test_a_stage_that_succeeds(tmp_path):
    result = check.run(stage("print('fine')"))
    assert (result.status, result.failed, result.output, result.counted()) == (0, False, "fine\n", (1, 0, 0))
    assert (tmp_path / "stage.log").read_text() == "fine\n"


def test_a_failure_is_shown_in_full(capsys):
    check.report(check.run(stage("import sys; print('why'); sys.exit(3)")))
    shown = capsys.readouterr().out
    assert shown.startswith("FAIL stage")
    assert "     | why\n" in shown


def test_a_command_that_is_not_there_is_a_failure():
    result = check.run(check.Stage("gone", ["/no/such/command"]))
    assert result.failed
    assert result.output.startswith("/no/such/command cannot be run: ")


def test_no_tests_are_a_failure_unless_it_is_allowed():
    assert check.run(stage("raise SystemExit(5)")).failed
    assert not check.run(stage("raise SystemExit(5)", empty_ok=True)).failed


def test_a_preparation_counts_only_when_it_fails():
    assert check.run(stage("pass", counts=False)).counted() == (0, 0, 0)
    assert check.run(stage("raise SystemExit(1)", counts=False)).counted() == (0, 1, 0)


ONCE = """
import pathlib, sys
mark, asked = pathlib.Path({mark!r}), sys.argv[1:]
if asked:
    print("1 passed in 0.1s" if {good} else "1 failed in 0.1s")
    mark.write_text(" ".join(asked))
    sys.exit(0 if {good} else 1)
print("FAILED tests/a.py::test_x[1] - assert 1 == 2\\n" * {number} + "{number} failed, 3 passed, 1 skipped in 2s")
sys.exit(1)
"""


@pytest.mark.parametrize(
    ("good", "timing", "failed", "counted"),
    [
        (True, True, False, (4, 0, 1)),
        (False, True, True, (3, 1, 1)),
        (True, False, True, (3, 1, 1)),
    ],
)
def test_what_missed_a_limit_beside_others_is_run_once_more_alone(tmp_path, capsys, good, timing, failed, counted):
    mark = tmp_path / "asked"
    first = check.run(stage(ONCE.format(mark=str(mark), good=good, number=1), timing=timing))
    result = check.alone(first)
    assert (result.failed, result.counted()) == (failed, counted)
    assert mark.exists() is timing
    shown = capsys.readouterr().out
    assert ("failed beside other stages, passed alone: tests/a.py::test_x[1]" in shown) is (not failed)
    if timing:
        assert mark.read_text() == "tests/a.py::test_x[1]"


def test_many_failures_are_no_accident():
    output = "".join(f"FAILED tests/a.py::test_{n} - no\n" for n in range(6))
    result = check.Result(stage("print('never run')", timing=True), 1, 1.0, f"{output}6 failed in 1s\n")
    assert check.alone(result) is result


def test_all_failures_of_a_group_are_shown_and_the_next_group_does_not_run(monkeypatch, capsys):
    groups = {
        "lint": [
            stage("raise SystemExit(1)", name="a"),
            stage("raise SystemExit(1)", name="b"),
            stage("pass", name="c"),
        ],
        "unit": [stage("pass", name="later")],
    }
    monkeypatch.setattr(check, "stages", lambda: groups)
    assert check.main(["check.py", "lint", "unit"]) == 1
    shown = capsys.readouterr().out
    assert "FAIL a" in shown
    assert "FAIL b" in shown
    assert "later" not in shown
    assert shown.endswith("1 passed, 2 failed\n")


def test_success_ends_with_the_count(monkeypatch, capsys):
    monkeypatch.setattr(check, "stages", lambda: {"unit": [stage("print('7 passed, 1 skipped in 0.01s')")]})
    assert check.main(["check.py", "unit"]) == 0
    assert capsys.readouterr().out.endswith("7 passed, 0 failed, 1 skipped\n")


def test_an_unknown_stage_is_refused(capsys):
    assert check.main(["check.py", "everything"]) == 2
    assert "unknown stage everything; stages are: all, lint, sanity, unit" in capsys.readouterr().err
