# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The door to the audit of compose files: paths, options, files of the controller and of a host."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import yaml
from ansible.errors import AnsibleActionFail
from ansible.parsing.dataloader import DataLoader

from ansible_collections.mcpstack.platform.plugins.action import compose_audit as action
from ansible_collections.mcpstack.platform.plugins.doc_fragments.container_policy import ModuleDocFragment
from ansible_collections.mcpstack.platform.plugins.module_utils import _container_policy
from ansible_collections.mcpstack.platform.plugins.module_utils._remote_files import collect
from ansible_collections.mcpstack.platform.plugins.modules import compose_audit as module

TEXT = """\
services:
  app:
    image: nginx
    privileged: true
    volumes: ["./data:/data", "./gone:/gone:ro"]
    ports: ["8443:8443"]
    environment: {API_TOKEN: "${TOKEN:-}"}
    env_file: [app.env]
"""


@pytest.fixture
def run(tmp_path):
    """run(**options) -> result; the host and the controller are the same directory."""
    (tmp_path / "compose.yml").write_text(TEXT)
    (tmp_path / "app.env").write_text("DB_PASSWORD=CHANGE_ME\n")
    (tmp_path / "data").mkdir()
    calls = []

    def execute(module_name, module_args, task_vars):
        calls.append(module_args)
        return {"changed": False, **collect(**module_args)}

    def start(check=False, **options):
        loader = DataLoader()
        loader.set_basedir(str(tmp_path))
        task = SimpleNamespace(
            args=options, check_mode=check, diff=False, async_val=0, action="compose_audit", environment=None, no_log=False,
            delegate_to=None,
        )  # fmt: skip
        plugin = action.ActionModule(
            task, SimpleNamespace(_shell=SimpleNamespace(tmpdir=None)), SimpleNamespace(check_mode=check, no_log=False),
            loader, None, None,
        )  # fmt: skip
        plugin._execute_module = execute
        plugin.calls = calls
        return plugin.run(task_vars={})

    start.calls = calls
    start.path = str(tmp_path)
    return start


def ids(result):
    return {item["id"] for item in result["findings"]}


def test_files_beside_the_playbook(run):
    result = run(files=["compose.yml"])
    assert {"CMP-01", "SEC-04", "NET-01"} <= ids(result)
    assert "CMP-27" not in ids(result)  # the controller's files say nothing about the host
    assert {item["where"].rpartition(":")[0] for item in result["findings"]} == {
        f"{run.path}/compose.yml",
        f"{run.path}/app.env",
    }
    assert run.calls == []
    assert result["changed"] is False and "failed" not in result


@pytest.mark.parametrize("check", [False, True])
def test_files_of_the_host_with_what_they_refer_to(run, check):
    result = run(check, files=[f"{run.path}/compose.yml"], remote_src=True)
    assert {"CMP-01", "SEC-04", "CMP-27"} <= ids(result)
    missing = [item["evidence"] for item in result["findings"] if item["id"] == "CMP-27"]
    assert missing == [f"{run.path}/gone does not exist: the engine makes it as a directory of root"]
    assert not [state for state in result["checks_run"] if state["status"] == "unknown"]
    assert len(run.calls) <= 4


def test_it_stops_at_a_severity_and_waivers_count(run):
    result = run(files=["compose.yml"], fail_at="critical")
    assert result["failed"] is True
    assert "CMP-01" in result["msg"]
    waivers = [
        {"id": name, "reason": "accepted for this test", "expires": "2099-01-01", "where": "*", "subject": "*"}
        for name in ("CMP-01", "SEC-04")
    ]
    assert "failed" not in run(files=["compose.yml"], fail_at="critical", waivers=waivers)


def test_what_is_declared_counts(run):
    result = run(files=["compose.yml"], edge_services=["app"], declared_ports=[{"port": 8443}])
    assert "NET-01" not in ids(result)
    result = run(files=["compose.yml"], allowed_registries=["registry.example"], environment={"TOKEN": "hunter2"})
    assert {"IMG-03", "SEC-04"} <= ids(result)
    assert "hunter2" not in repr(result)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"files": []}, "files: is empty"),
        ({"files": ["x.yml"], "remote_src": True}, "x.yml: is relative"),
        ({"files": ["compose.yml"], "network_members": {"a": "b"}}, "network_members.a: is no list"),
        ({}, "missing required arguments: files"),
        ({"files": ["compose.yml"], "colour": 1}, "Unsupported parameters"),
    ],
)
def test_wrong_options_are_refused_with_a_sentence(run, options, text):
    with pytest.raises(AnsibleActionFail, match=text):
        run(**options)


def test_a_host_that_does_not_answer_is_no_pass():
    plugin = action.ActionModule.__new__(action.ActionModule)
    plugin._execute_module = lambda **_options: {"failed": True, "msg": "no"}
    with pytest.raises(AnsibleActionFail, match="could not be read: no"):
        plugin._fetch({"paths": []}, {})


def options_of(documentation):
    return yaml.safe_load(documentation)["options"]


def test_the_documentation_and_the_arguments_are_the_same():
    documented = {**options_of(module.DOCUMENTATION), **options_of(ModuleDocFragment.DOCUMENTATION)}
    own = {name: spec for name, spec in action.ARGUMENTS.items() if name not in ("waivers", "fail_at")}
    assert set(documented) == set(own)
    for name, spec in own.items():
        assert documented[name].get("type", "str") == spec["type"], name
        assert documented[name].get("default") == spec.get("default"), name
        assert set(documented[name].get("suboptions", {})) == set(spec.get("options", {})), name


def test_an_undeclared_policy_falls_back_on_what_is_usual():
    policy = _container_policy.policy_of({})
    assert policy.edge_services is None and policy.internal_networks is None
    assert policy.restart == {"on-failure", "unless-stopped"}
