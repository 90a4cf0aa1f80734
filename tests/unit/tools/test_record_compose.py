# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Recording what Compose answers: with a program that only looks like it."""

from __future__ import annotations

import json

import pytest
import record_compose

PROGRAM = """#!/bin/sh
[ "$1" = version ] && { echo 9.9; exit; }
case "$*" in *refuse.yml*) echo 'time="now" level=warning' >&2; echo "$PWD/refuse.yml: no" >&2; exit 1;; esac
[ -e expected.json ] && exit 3
printf '{"argv": "%s", "path": "%s", "home": "%s", "dollar": "$$A"}' "$*" "$PWD/x" "$HOME"
"""


@pytest.fixture
def cases(tmp_path, monkeypatch):
    program = tmp_path / "docker-compose"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    root = tmp_path / "cases"
    for name, args in (("fine", {"profiles": ["p"], "env_files": ["e"]}), ("refused", {"files": ["refuse.yml"]})):
        (root / name).mkdir(parents=True)
        (root / name / "args.json").write_text(json.dumps(args))
    monkeypatch.setattr(record_compose, "CASES", root)
    return program, root


def test_answers_and_refusals_are_recorded_without_paths_of_this_machine(cases, capsys):
    program, root = cases
    assert record_compose.main(["--compose", str(program)]) == 0
    assert json.loads((root / "fine" / "expected.json").read_text()) == {
        "compose": "9.9",
        "config": {
            "argv": "-f compose.yml --env-file e --profile p config --format json",
            "path": "/case/x",
            "home": "/home/case",
            "dollar": "$A",
        },
    }
    assert json.loads((root / "refused" / "expected.json").read_text()) == {
        "compose": "9.9",
        "error": "/case/refuse.yml: no",
    }
    assert capsys.readouterr().out == "2 cases with Compose 9.9, 2 changed: fine, refused\n"


def test_check_changes_nothing(cases, capsys):
    program, root = cases
    assert record_compose.main(["--compose", str(program), "--check"]) == 1
    assert not (root / "fine" / "expected.json").exists()
    record_compose.main(["--compose", str(program)])
    assert record_compose.main(["--compose", str(program), "--check"]) == 0


def test_a_case_that_is_none(cases, capsys):
    program, root = cases
    assert record_compose.main(["--compose", str(program), "nope"]) == 2
    assert capsys.readouterr().err == f"record_compose: {root / 'nope'} is no case.\n"
