# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The benchmark's table: limits, ratios, and an exit status that says whether all were kept."""

from __future__ import annotations

import bench
import pytest

BUILT = [{"name": "nginx", "id": "a", "size": 16_700_000}, {"name": "services", "id": "b", "size": 99_400_000}]


@pytest.mark.parametrize(
    ("measured", "limit", "end"),
    [(20, 25, " 0.80  ok"), (25, 25, " 1.00  ok"), (26, 25, " 1.04  OVER"), (0, 0, "    -  ok"), (1, 0, " over  OVER")],
)
def test_rows(measured, limit, end):
    assert bench.Figure("x", measured, limit, "s").row().endswith(end)


@pytest.mark.parametrize(("measured", "kept", "end"), [(10, True, "ok"), (20, True, "ok"), (9, False, "UNDER")])
def test_figures_that_must_be_reached(measured, kept, end):
    figure = bench.Figure("x", measured, 10, "/s", least=True)
    assert figure.kept is kept
    assert figure.row().endswith(f"  {end}")


def test_groups_name_parts():
    assert set(bench.GROUPS) == {"audit", "services"}
    for parts in bench.GROUPS.values():
        assert set(parts) <= set(bench.PARTS)


def test_image_figures():
    figures = {figure.name: figure for figure in bench.image_figures(BUILT, 33.8, 12.0, True, False)}
    assert figures["sum of the images"].measured == pytest.approx(116.1)
    assert figures["services image"].kept
    assert figures["images with another id when built again"].kept
    assert not figures["images with another id when built on another Debian"].kept


@pytest.mark.parametrize(("limit", "status"), [(2.0, 0), (0.5, 1)])
def test_the_exit_status_says_whether_all_were_kept(monkeypatch, capsys, limit, status):
    monkeypatch.setattr(bench, "PARTS", {"one": lambda: [bench.Figure("x", 1.0, limit, "s")]})
    assert bench.main(["bench.py"]) == status
    assert ("OVER" in capsys.readouterr().out) == bool(status)


def test_a_part_that_fails_does_not_hide_the_others(monkeypatch, capsys):
    def broken():
        raise bench.BenchError("no luck")

    monkeypatch.setattr(bench, "PARTS", {"bad": broken, "good": lambda: [bench.Figure("x", 1.0, 2.0, "s")]})
    assert bench.main(["bench.py"]) == 1
    seen = capsys.readouterr()
    assert "error: bad: no luck" in seen.err
    assert "x " in seen.out


def test_no_figure_is_no_success(monkeypatch):
    monkeypatch.setattr(bench, "PARTS", {"none": list})
    assert bench.main(["bench.py"]) == 1
