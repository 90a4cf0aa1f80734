# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Our audits against independent tools over the same input. Every difference stands in ledger/TOOL.yml with its reason."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BIN = ROOT / ".cache" / "venv-peers" / "bin"


def pytest_collection_modifyitems(items):
    """All that is in this directory is long."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.long)


def tool(name: str) -> str:
    """Path of an installed peer."""
    path = BIN / name
    if not path.exists():
        pytest.fail(f"{name} is not installed: run `python3 tools/bootstrap.py peers`", pytrace=False)
    return str(path)


def call(
    name: str, *args: str, stdin: str | None = None, cwd: Path | None = None, codes: tuple[int, ...] = (0,)
) -> str:
    """What a peer prints. codes: exit statuses that are answers and no breakdown."""
    done = subprocess.run(
        [tool(name), *map(str, args)], input=stdin, capture_output=True, text=True, timeout=110, cwd=cwd
    )
    assert done.returncode in codes, f"{name} ended with {done.returncode}: {done.stderr[-2000:]}"
    return done.stdout


def ledger(name: str) -> list[dict]:
    """Rows of ledger/NAME.yml: case, theirs, ours, reason."""
    rows = yaml.safe_load((HERE / "ledger" / f"{name}.yml").read_text(encoding="utf-8")) or []
    for row in rows:
        assert set(row) == {"case", "theirs", "ours", "reason"}, row
        assert len(row["reason"]) > 30 and (row["theirs"] or row["ours"]), row
    keys = [(row["case"], str(row["theirs"]), str(row["ours"])) for row in rows]
    assert len(keys) == len(set(keys)), "a row stands there twice"
    return rows


def settle(found: dict[str, tuple[set[str], set[str]]], rows: list[dict]) -> list[str]:
    """What is wrong between the differences that were found and the rows that explain them.

    found: case -> (only theirs, only ours), each "RULE" or "RULE PLACE". A row explains what it names in its case. Case
    "*" explains what only ours finds, at every place, and never what only they find: that is looked at one by one.
    """
    wrong, used = [], set()
    for case, (theirs, ours) in sorted(found.items()):
        left = {"theirs": set(theirs), "ours": set(ours)}
        for number, row in enumerate(rows):
            if row["case"] not in (case, "*"):
                continue
            assert row["case"] != "*" or not row["theirs"], row
            for side, items in left.items():
                if hit := {item for item in items if (item.split()[0] if row["case"] == "*" else item) in row[side]}:
                    items -= hit
                    used.update((number, side, item.split()[0] if row["case"] == "*" else item) for item in hit)
        wrong += [f"{case}: only {side}: {item}" for side, items in left.items() for item in sorted(items)]
    for number, row in enumerate(rows):
        wrong += [
            f"the row for {row['case']} is out of date: {item} of {side} differs no more"
            for side in ("theirs", "ours")
            for item in row[side]
            if (number, side, item) not in used
        ]
    return wrong
