# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The daily run: what it runs, what it says, and what becomes of an audit that cannot be run."""

from __future__ import annotations

import json
import os
import stat

import pytest
import yaml

from ansible_collections.mcpstack.platform.plugins.doc_fragments import container_policy
from ansible_collections.mcpstack.platform.plugins.module_utils import _audit_run as core
from ansible_collections.mcpstack.platform.plugins.module_utils import _checks_host
from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit
from ansible_collections.mcpstack.platform.plugins.modules import audit_run, docker_audit

ROWS = tuple(check for check in _checks_host.CHECKS if check.id in ("HST-07", "HST-08"))
NOW = 1795266860


def found(*ids, decided=("HST-07", "HST-08")):
    """A result in which these checks fail."""
    audit = Audit(ROWS)
    audit.decide(*decided)
    for check_id in ids:
        audit.find(check_id, "host", f"/run/{check_id}.sock", "mode 0666")
    return audit.result()


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A configuration with one audit that the test sets, and the path it lies at."""

    class World:
        result = found()
        directory = tmp_path / "reports"
        metrics = tmp_path / "metrics" / "audit.prom"
        config = {
            "title": "host a", "audits": [{"audit": "fake", "subject": "host a", "options": {"answer": 42}}],
            "stored": [], "waivers": [], "fail_at": "high", "directory": str(tmp_path / "reports"), "keep": 5,
            "metrics_file": str(tmp_path / "metrics" / "audit.prom"),
        }  # fmt: skip

        def written(self):
            path = tmp_path / "audit.json"
            path.write_text(json.dumps(self.config))
            return str(path)

        def run(self, **options):
            return core.run(core.read_config(self.written()), **options)

    world = World()

    def fake(options):
        assert options == {"answer": 42}
        if isinstance(world.result, Exception):
            raise world.result
        return world.result

    monkeypatch.setattr(core, "AUDITS", {"fake": (fake, ROWS)})
    return world


def test_a_clean_host(world):
    outcome = world.run(now=NOW)
    assert outcome.text().splitlines() == [
        "score 100; open findings: none; waived: 0", f"report: {world.directory}/report.html",
    ]  # fmt: skip
    assert outcome.stopping(None) == []
    assert {path.name for path in world.directory.iterdir()} == {
        "report.json", "report.sarif", "report.junit.xml", "report.html", "history.json",
    }  # fmt: skip
    assert "mcpstack_audit_success 1" in world.metrics.read_text()


def test_what_is_new_and_what_is_fixed(world):
    world.result = found("HST-07")
    world.run(now=NOW)
    world.result = found("HST-08")
    lines = world.run(now=NOW + 60).text().splitlines()
    assert lines[1] == "since 2026-11-21T13:14:20Z: 1 new, 1 fixed"
    assert lines[2].startswith("  new high HST-08 ") and lines[2].endswith(": /run/HST-08.sock (host)")
    assert len(lines) == 4


def test_an_audit_that_cannot_be_run_is_unknown_and_never_a_pass(world):
    world.result = RuntimeError("the wires are cut")
    outcome = world.run(now=NOW)
    assert [(state["id"], state["status"]) for state in outcome.published["checks_run"]] == [
        ("HST-07", "unknown"), ("HST-08", "unknown"),
    ]  # fmt: skip
    assert outcome.text().splitlines()[:3] == [
        "no score; open findings: none; waived: 0", "not decided: HST-07, HST-08",
        "not audited: host a: the audit could not be run: RuntimeError: the wires are cut",
    ]  # fmt: skip
    assert (
        "the audit could not be run: RuntimeError: the wires are cut" in (world.directory / "report.json").read_text()
    )


def test_a_run_that_did_not_audit_something_does_not_pass(world, call, capsys):
    world.config["fail_at"] = "none"  # says which findings are too severe, not that nothing needs to be looked at
    path = world.written()
    for result in (RuntimeError("the wires are cut"), found(decided=())):
        world.result = result
        assert core.main([path]) == 2
        assert capsys.readouterr().err.startswith(
            "Not everything could be audited, so this run proves nothing of:\n- host a: "
        )
        assert "mcpstack_audit_success 0" in world.metrics.read_text()
        answer = call(audit_run, {"config": path})
        assert answer["failed"] is True and "\n- host a: " in answer["msg"]
    world.result = found(decided=("HST-07",))
    assert core.main([path]) == 0 and "mcpstack_audit_success 1" in world.metrics.read_text()


@pytest.mark.parametrize("states", [None, {}, [3], [{"id": "HST-07", "status": "fine"}]])
def test_stored_results_that_are_none_are_refused_and_the_monitoring_is_told(world, tmp_path, capsys, states):
    path = tmp_path / "rendered.json"
    path.write_text(json.dumps({"results": [{"subject": "files", "findings": [], "checks_run": states}]}))
    world.config["stored"] = [str(path)]
    assert core.main([world.written()]) == 2
    assert capsys.readouterr().err.startswith("The audit could not be run.\nresults[0]")
    assert "mcpstack_audit_success 0" in world.metrics.read_text()


def test_a_history_that_was_damaged_is_told(world):
    world.run(now=NOW)
    (world.directory / "history.json").write_text("{")
    assert "holds no history; this run is taken for the first" in world.run(now=NOW + 1).text()


def test_the_collector_may_read_the_metrics_whatever_the_umask_is(world):
    before = os.umask(0o027)  # as in the unit
    try:
        world.run(now=NOW)
    finally:
        os.umask(before)
    assert stat.S_IMODE(world.metrics.parent.stat().st_mode) == 0o755
    assert stat.S_IMODE(world.metrics.stat().st_mode) == 0o644


def test_stored_results_count_except_what_they_could_not_decide_and_the_run_did(world, tmp_path):
    stored = found(decided=())
    (tmp_path / "rendered.json").write_text(json.dumps({"results": [{"subject": "files", **stored}]}))
    world.config["stored"] = [str(tmp_path / "rendered.json")]
    assert {state["status"] for state in world.run(now=NOW).published["checks_run"]} == {"pass"}
    world.result = found(decided=("HST-07",))
    states = {state["id"]: state["status"] for state in world.run(now=NOW + 1).published["checks_run"]}
    assert states == {"HST-07": "pass", "HST-08": "unknown"}
    stored = found("HST-08")
    (tmp_path / "rendered.json").write_text(json.dumps({"results": [{"subject": "files", **stored}]}))
    assert [item["id"] for item in world.run(now=NOW + 2).stopping(None)] == ["HST-08"]


def test_a_waiver_counts(world):
    world.result = found("HST-08")
    world.config["waivers"] = [{"id": "HST-08", "reason": "containerd is alone here", "expires": "2999-01-01"}]
    outcome = world.run(now=NOW)
    assert outcome.stopping(None) == [] and "waived: 1" in outcome.text()


def test_whatever_the_subject_is_called_its_findings_stay(world):
    world.result = found("HST-07")
    world.config["audits"][0]["subject"] = "waivers"
    world.config["waivers"] = [{"id": "HST-08", "reason": "containerd is alone here", "expires": "2999-01-01"}]
    assert [item["id"] for item in world.run(now=NOW).stopping(None)] == ["HST-07"]


def test_check_mode_writes_nothing(world):
    outcome = world.run(write=False, now=NOW)
    assert not world.directory.exists() and not world.metrics.exists()
    assert "report:" not in outcome.text()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"keep": "many"}, "keep is str, not int"),
        ({"keep": True}, "keep is bool, not int"),
        ({"keep": 0}, "keep is 0: at least this run must be kept, give 1 or more"),
        ({"audits": []}, "audits is empty: nothing would be audited; name what is audited in mcpstack_audit_audits"),
        ({"audits": [{"audit": "fake", "subject": 5, "options": {}}]}, "audits[0] is not audit, subject and options"),
        (
            {"audits": [{"audit": ["fake"], "subject": "x", "options": {}}]},
            "audits[0].audit is ['fake'], not one of fake",
        ),
        ({"stored": [1]}, "stored[0] is int, not str"),
        ({"waivers": ["HST-07"]}, "waivers[0] is str, not dict"),
        ({"fail_at": "soon"}, "fail_at is 'soon', not one of critical, high, medium, low, info, none"),
        ({"audits": [{"audit": "tea", "subject": "x", "options": {}}]}, "audits[0].audit is 'tea', not one of fake"),
        ({"audits": [{"audit": "fake", "subject": "x"}]}, "audits[0] is not audit, subject and options"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_refused_with_its_place(world, change, said):
    world.config.update(change)
    path = world.written()
    with pytest.raises(core.RunError) as caught:
        core.read_config(path)
    assert str(caught.value) == f"{path}: {said}"


def test_everything_wrong_with_a_configuration_at_once(tmp_path):
    path = tmp_path / "audit.json"
    path.write_text("{}")
    with pytest.raises(core.RunError) as caught:
        core.read_config(str(path))
    assert len(str(caught.value).splitlines()) == len(core.KEYS) + 1
    path.write_text("{")
    with pytest.raises(core.RunError, match="is not JSON"):
        core.read_config(str(path))
    with pytest.raises(core.RunError, match="does not exist .* The role audit writes it: run the site playbook"):
        core.read_config(str(tmp_path / "none.json"))


def test_a_report_that_cannot_be_written_says_so_and_tells_the_monitoring(world, tmp_path):
    world.config["directory"] = "/proc/nowhere"
    with pytest.raises(core.RunError, match="/proc/nowhere: cannot be written"):
        world.run(now=NOW)
    assert "mcpstack_audit_success 0" in world.metrics.read_text()


def test_the_timers_exit_status(world, capsys):
    path = world.written()
    assert core.main([path]) == 0
    world.result = found("HST-07")
    assert core.main([path]) == 1
    assert "1 at or above high:" in capsys.readouterr().err
    assert core.main([]) == 2
    assert core.main([path + ".none"]) == 2


def test_the_module_fails_with_what_is_too_severe(world, call):
    world.result = found("HST-08")
    answer = call(audit_run, {"config": world.written()})
    assert answer["failed"] is True and answer["msg"].startswith("1 finding at or above high:\n- HIGH HST-08 ")
    answer = call(audit_run, {"config": world.written(), "fail_at": "critical"})
    assert "failed" not in answer and answer["summary"]["high"] == 1
    answer = call(audit_run, {"config": world.written(), "fail_at": "none"}, check=True)
    assert answer["report"] == "" and answer["text"].startswith("score ")
    answer = call(audit_run, {"config": "/nowhere.json"})
    assert answer["failed"] is True and "The role audit writes it" in answer["msg"]


@pytest.fixture
def call(capsys):
    """As in the tests of modules."""
    from ansible.module_utils.testing import patch_module_args

    def run(module, arguments, check=False):
        with patch_module_args({**arguments, "_ansible_check_mode": check}), pytest.raises(SystemExit):
            module.main()
        return json.loads(capsys.readouterr().out)

    return run


@pytest.mark.parametrize("name", sorted(core.AUDITS))
def test_every_audit_of_the_program_is_the_module_of_that_name(name):
    __import__(f"ansible_collections.mcpstack.platform.plugins.modules.{name}_audit")


def test_a_misspelt_option_of_a_module_is_no_silent_default():
    run, _checks = core.AUDITS["tls"]
    with pytest.raises(ValueError, match="there is no option prot"):
        run({"host": "127.0.0.1", "prot": 443})
    run, _checks = core.AUDITS["docker"]
    with pytest.raises(ValueError, match="there is no option internal_network"):
        run({"internal_network": ["data"]})


def test_an_audit_of_the_engine_that_cannot_be_run_leaves_every_check_of_it_unknown(tmp_path):
    gone = core._audit_docker.audit_docker({"docker_host": f"unix://{tmp_path}/none.sock"})
    entry = core._audited({"audit": "docker", "subject": "host a", "options": {"edge_service": ["edge"]}})
    assert {state["status"] for state in entry["checks_run"]} == {"unknown"}
    assert {state["id"] for state in entry["checks_run"]} == {state["id"] for state in gone["checks_run"]}


def test_the_options_of_docker_are_those_of_its_module():
    documented = yaml.safe_load(docker_audit.DOCUMENTATION)["options"]
    shared = yaml.safe_load(container_policy.ModuleDocFragment.DOCUMENTATION)["options"]
    assert core.DOCKER_OPTIONS == set(documented) | set(shared)
