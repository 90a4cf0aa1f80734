# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is written, with which modes, what counts as a change, and what a damaged history or a full disk leads to."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import stat
import threading
from pathlib import Path

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _report_files as core
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import MemoryFiles

_spec = importlib.util.spec_from_file_location("report_fixture", Path(__file__).with_name("report_fixture.py"))
sample = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sample)

NOON = 1795262400.0  # 2026-11-21T12:00:00Z
ALL = ["history.json", "report.html", "report.json", "report.junit.xml", "report.sarif"]


@pytest.fixture
def settings(tmp_path):
    return core.Settings(str(tmp_path / "audit"), metrics_file=str(tmp_path / "metrics" / "audit.prom"))


def publish(settings, results=None, day=0, **options):
    results = sample.results() if results is None else results
    return core.publish(
        results, [], settings, catalogue=sample.CATALOGUE, now=NOON + 86400 * day, duration=1.5, **options
    )


def names(settings):
    return sorted(os.listdir(settings.directory))


def other(settings):
    return core.Settings(settings.directory, formats=("json",), metrics_file=settings.metrics_file)


def test_all_files_are_written_for_root_and_its_group_only(settings):
    answer = publish(settings)
    assert answer["changed"] is True
    assert names(settings) == ALL
    assert stat.S_IMODE(os.stat(settings.directory).st_mode) == 0o750
    assert {stat.S_IMODE(os.stat(os.path.join(settings.directory, name)).st_mode) for name in ALL} == {0o640}
    assert answer["files"]["html"] == os.path.join(settings.directory, "report.html")


def test_the_time_alone_is_no_change_but_the_files_carry_it(settings):
    publish(settings)
    answer = publish(settings, day=1)
    assert answer["changed"] is False
    assert json.loads(Path(settings.directory, "report.json").read_text())["generated"] == "2026-11-22T12:00:00Z"
    assert answer["compared_with"] == "2026-11-21T12:00:00Z"


def test_another_finding_is_a_change(settings):
    publish(settings)
    answer = publish(settings, sample.results((0,)), day=1)
    assert answer["changed"] is True
    assert [item["id"] for item in answer["fixed"]] == ["CMP-01"]
    gone = set(answer["diff"]["before"].splitlines()) - set(answer["diff"]["after"].splitlines())
    assert gone == {"critical CMP-01 compose project shop: dind (compose/ci.yml:14)"}


@pytest.mark.parametrize("spoil", ["missing", "mode", "link", "metrics"])
def test_a_file_that_is_not_as_it_should_be_is_a_change(settings, spoil):
    publish(settings)
    path = os.path.join(settings.directory, "report.html")
    if spoil == "missing":
        os.unlink(path)
    elif spoil == "mode":
        os.chmod(path, 0o644)
    elif spoil == "link":
        os.unlink(path)
        os.symlink("/etc/passwd", path)
    else:
        os.unlink(settings.metrics_file)
    assert publish(settings, day=1)["changed"] is True
    assert stat.S_ISREG(os.lstat(path).st_mode)
    assert publish(settings, day=2)["changed"] is False


def test_a_format_that_is_not_wanted_any_more_is_removed(settings):
    publish(settings)
    assert publish(other(settings), day=1)["changed"] is True
    assert names(settings) == ["history.json", "report.json"]


def test_in_check_mode_nothing_is_written(settings, tmp_path):
    assert publish(settings, write=False)["changed"] is True
    assert os.listdir(tmp_path) == []
    publish(settings)
    before = {name: Path(settings.directory, name).read_bytes() for name in ALL}
    assert publish(settings, day=1, write=False)["changed"] is False
    assert publish(settings, sample.results((0,)), day=1, write=False)["changed"] is True
    assert {name: Path(settings.directory, name).read_bytes() for name in ALL} == before


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"runs": 4}', b"\xff\xfe", b"[" * 100_000, b'{"runs": {"a": 1}}']
)
def test_a_damaged_history_is_kept_and_said(settings, content):
    publish(settings)
    path = Path(settings.directory, "history.json")
    path.write_bytes(content)
    answer = publish(settings, day=1)
    assert answer["compared_with"] is None
    assert "this run is taken for the first" in answer["warnings"][0]
    assert path.with_name("history.json.damaged").read_bytes() == content
    assert publish(settings, day=2)["compared_with"] == "2026-11-22T12:00:00Z"


def test_entries_that_are_no_runs_are_left_out(settings):
    publish(settings)
    path = Path(settings.directory, "history.json")
    history = json.loads(path.read_text())
    path.write_text(json.dumps({**history, "runs": [{"generated": "<b>"}, *history["runs"]]}))
    answer = publish(settings, day=1)
    assert answer["compared_with"] == "2026-11-21T12:00:00Z"
    assert "1 of 2 entries hold no run" in answer["warnings"][0]


def test_a_link_in_the_place_of_the_directory_is_not_followed(settings, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    os.symlink(tmp_path / "elsewhere", settings.directory)
    with pytest.raises(core.PublishError, match="cannot be written"):
        publish(settings)
    assert os.listdir(tmp_path / "elsewhere") == []


def test_a_directory_that_cannot_be_made_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(core.PublishError, match=r"cannot be written \(Not a directory\); free space, or name a"):
        publish(core.Settings(str(tmp_path / "file" / "audit")))


def test_a_full_disk_leaves_the_old_report(settings, monkeypatch):
    publish(settings)
    before = {name: Path(settings.directory, name).read_bytes() for name in ALL}

    def full(path, *_args, **_options):
        raise OSError(28, "No space left on device", path)

    monkeypatch.setattr(core, "write_atomic", full)
    with pytest.raises(core.PublishError, match="No space left on device"):
        publish(settings, sample.results((0,)), day=1)
    assert {name: Path(settings.directory, name).read_bytes() for name in ALL} == before


def test_the_history_is_read_by_one_run_at_a_time(settings):
    publish(settings)
    second = threading.Thread(target=publish, args=(settings, sample.results((0,))), kwargs={"day": 1})
    with core._alone(settings.directory):
        second.start()
        # what the other run writes can only come after this one let go
        assert len(json.loads(Path(settings.directory, "history.json").read_text())["runs"]) == 1
    second.join()
    assert len(json.loads(Path(settings.directory, "history.json").read_text())["runs"]) == 2


# -- metrics --------------------------------------------------------------------------------------------------------


def metrics(settings):
    text = Path(settings.metrics_file).read_text()
    return dict(re.findall(r"(?m)^(mcpstack_audit_[a-z_]+(?:\{.*\})?) (\S+)$", text))


def test_metrics_tell_what_was_found(settings):
    answer = publish(settings)
    found = metrics(settings)
    assert found["mcpstack_audit_success"] == "1"
    assert found["mcpstack_audit_timestamp_seconds"] == "1795262400"
    assert found["mcpstack_audit_duration_seconds"] == "1.5"
    assert found['mcpstack_audit_findings{severity="critical"}'] == str(answer["summary"]["critical"]) != "0"
    assert found['mcpstack_audit_findings{severity="info"}'] == "0"
    undecided = sum(len(group["checks"]) for group in answer["undecided"])
    assert found['mcpstack_audit_checks{status="unknown"}'] == str(undecided) != "0"
    assert found['mcpstack_audit_score{audited="host docker1"}'] == str(answer["scores"]["host docker1"])
    assert stat.S_IMODE(os.stat(settings.metrics_file).st_mode) == 0o644


def test_metrics_are_what_a_collector_reads(settings):
    hostile = [{**entry, "subject": 'a"b\\c' + entry["subject"]} for entry in sample.results()]
    publish(settings, hostile)
    text = Path(settings.metrics_file).read_text()
    line = re.compile(r'[a-z_]+(\{[a-z]+="([^"\\\n]|\\["\\n])*"\})? -?[0-9.e+-]+')
    seen = set()
    for row in text.splitlines():
        assert row.startswith("# ") or line.fullmatch(row), row
        assert row not in seen
        seen.add(row)
    assert text.endswith("\n")


def test_a_failed_audit_says_so_and_claims_no_numbers(tmp_path):
    path = str(tmp_path / "a.prom")
    core.write_metrics(path, None, NOON, 2.0)
    text = Path(path).read_text()
    assert "\nmcpstack_audit_success 0\n" in text
    assert "findings" not in text and "score" not in text


# -- results out of files -------------------------------------------------------------------------------------------


def test_results_come_in_three_shapes():
    empty = {"findings": [], "checks_run": []}
    files = MemoryFiles(
        {
            "/r/one.json": json.dumps({"changed": False, **empty}),
            "/r/two.json": json.dumps([{"subject": "a", **empty}, {"subject": "b", **empty}]),
            "/r/three.json": json.dumps({"results": [{"subject": "c", **empty}]}),
        }
    )
    found = core.load_results(["/r/one.json", "/r/two.json", "/r/three.json"], files)
    assert [entry["subject"] for entry in found] == ["one", "a", "b", "c"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "/r.json: is not JSON"),
        ("[" * 100_000, "/r.json: is not JSON"),
        ("3", "/r.json: holds no result of an audit"),
        ("[3]", "/r.json: holds no result of an audit"),
        (b"\xff\xfe", "/r.json: is not UTF-8 text"),
    ],
)
def test_a_file_without_results_is_a_sentence(content, message):
    with pytest.raises(core.PublishError, match=re.escape(message)):
        core.load_results(["/r.json"], MemoryFiles({"/r.json": content}))


def test_a_missing_file_is_a_sentence():
    with pytest.raises(core.PublishError, match=r"/r\.json: is not among the files at hand"):
        core.load_results(["/r.json"], MemoryFiles({}))
