# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The benchmark of the audits: the file that is judged, how turns are compared, and what `make bench` runs."""

from __future__ import annotations

import sys

import bench
import bench_audit
import figures
import pytest
import yaml

from ansible_collections.mcpstack.platform.plugins.module_utils._audit_compose import audit
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import MemoryFiles


def test_the_compose_file_is_valid_and_of_mixed_strength():
    text = bench_audit.compose_file(bench_audit.SERVICES)
    services = yaml.safe_load(text)["services"]
    assert len(services) == bench_audit.SERVICES
    assert services["web-10"]["image"] == f"registry.example.org/shop/web:2.4.10@sha256:{0:064x}"
    found = audit(MemoryFiles({"/p/compose.yml": text.encode()}, roots=("/p",)), ["/p/compose.yml"])["findings"]
    seen = {item["id"] for item in found}
    assert {"CMP-02", "IMG-02", "NET-01"} <= seen
    assert not seen & {"CMP-29", "CMP-30"}
    assert not [item for item in found if item["subject"].startswith("service web") and item["id"] != "NET-01"]


def test_shares_are_taken_turn_by_turn():
    assert bench_audit.share([1.0, 10.0, 2.0], [2.0, 20.0, 8.0]) == 50.0
    assert bench_audit.medians([{"a": 1, "b": 9}, {"a": 3, "b": 7}, {"a": 2, "b": 8}]) == {"a": 2, "b": 8}


def test_a_program_that_fails_is_named():
    with pytest.raises(figures.BenchError, match=r"(?s)failed:.*no luck"):
        bench_audit.spent([sys.executable, "-c", "raise SystemExit('no luck')"])
    assert bench_audit.spent([sys.executable, "-c", "print(input())"], "word")[1] == "word\n"


def test_the_peer_must_be_there(monkeypatch, tmp_path):
    monkeypatch.setattr(bench_audit, "PEER", tmp_path / "compose-lint")
    with pytest.raises(figures.BenchError, match="bootstrap.py peers"):
        bench_audit.compose()


def test_make_bench_runs_every_part(monkeypatch, capsys):
    ran = []

    def part(name):
        return lambda: ran.append(name) or [figures.Figure(name, 1.0, 2.0, "s")]

    names = list(bench_audit.PARTS)
    assert set(names) == set(bench.AUDIT) and set(names) <= set(bench.PARTS)
    monkeypatch.setattr(bench, "PARTS", {name: part(name) for name in bench.PARTS if name != "demo"})
    assert bench.main(["bench.py", "audit"]) == 0
    assert sorted(ran) == sorted(names)
    assert bench.main(["bench.py", "audits"]) == 2
    assert "unknown part audits" in capsys.readouterr().err
