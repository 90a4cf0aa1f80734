# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's half of preflight, with Ansible's own loader, templar and validator."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from ansible_collections.mcpstack.platform.plugins.action import preflight as action

SPECS = {
    "edge": """
argument_specs:
  main:
    options:
      mcpstack_edge_server_names:
        description: Public names. More text.
        type: list
        elements: str
        required: true
      mcpstack_edge_port:
        description: Port for HTTPS.
        type: int
        default: 443
      mcpstack_edge_memory:
        description: Memory.
        type: str
        default: 128m
      mcpstack_edge_profile:
        description: TLS profile.
        type: str
        choices: [modern, intermediate]
        default: modern
      mcpstack_edge_image:
        description: Image.
        type: str
        required: true
      mcpstack_edge_cors_origins:
        description: Origins.
        type: list
        elements: str
        default: []
      mcpstack_edge_routes:
        description: Routes.
        type: list
        elements: dict
        default: []
        options:
          path:
            description: The path.
            type: str
            required: true
          port:
            description: The port.
            type: int
            default: 8000
          match:
            description: How.
            type: str
            choices: [exact, prefix]
            default: exact
  uninstall:
    options:
      mcpstack_edge_forget:
        description: Forget it.
        type: bool
        default: false
      _edge_internal:
        description: From another role.
        type: str
        required: true
""",
    "other": """
argument_specs:
  main:
    options:
      mcpstack_other_x:
        description: X.
        type: int
        required: true
""",
}
DEFAULTS = """
mcpstack_edge_memory: 128m
mcpstack_edge_port: 443
mcpstack_edge_profile: modern
mcpstack_edge_cors_origins: []
mcpstack_edge_routes: "{{ [{'path': '/' ~ mcpstack_edge_profile}] }}"
mcpstack_edge_forget: false
"""
VARS = """
_mcpstack_edge_service:
  name: edge
  image: "{{ mcpstack_edge_image }}"
  limits: {memory: "{{ mcpstack_edge_memory }}", cpus: "1.0", pids: 16}
  publish:
    - {host_ip: 0.0.0.0, host_port: "{{ mcpstack_edge_port }}", port: 8443}
"""
GOOD = {
    "mcpstack_edge_server_names": ["chat.my.org"],
    "mcpstack_edge_image": trust_as_template("{{ mcpstack_images_refs.nginx }}"),
}


@pytest.fixture
def roles(tmp_path, monkeypatch):
    for name, spec in SPECS.items():
        (tmp_path / name / "meta").mkdir(parents=True)
        (tmp_path / name / "meta/argument_specs.yml").write_text(spec)
    for folder, text in (("defaults", DEFAULTS), ("vars", VARS)):
        (tmp_path / "edge" / folder).mkdir()
        (tmp_path / "edge" / folder / "main.yml").write_text(text)
    monkeypatch.setattr(action, "ROLES", str(tmp_path))
    return tmp_path


def run(variables, answer=None, **args):
    """Run the action with a module that answers from the host."""
    loader = DataLoader()
    task = SimpleNamespace(
        args={"roles": ["edge"], "late_variables": ["mcpstack_images_refs"], **args},
        async_val=0, check_mode=False, diff=False, action="mcpstack.platform.preflight", collections=[],
        environment=[], delegate_to=None, get_name=lambda: "x",
    )  # fmt: skip
    task_vars = {"inventory_hostname": "h1", **variables}
    plugin = action.ActionModule(
        task=task,
        connection=SimpleNamespace(_shell=SimpleNamespace(tmpdir=None)),
        play_context=None,
        loader=loader,
        templar=Templar(loader, variables=task_vars),
        shared_loader_obj=None,
    )
    sent = {}

    def execute(module_name, module_args, task_vars):
        sent.update(module_args, module_name=module_name)
        now = time.time()
        return answer or {
            "findings": [],
            "checks_run": {"PRE-20": "pass"},
            "ansible_facts": {},
            "clock": {"started": now, "finished": now},
        }

    plugin._execute_module = execute
    return plugin.run(task_vars=task_vars), sent


def test_good_options_pass_and_the_host_is_told_what_the_services_need(roles):
    result, sent = run(GOOD)
    assert "failed" not in result, result.get("msg")
    assert result["checks_run"]["PRE-01"] == result["checks_run"]["PRE-20"] == result["checks_run"]["PRE-26"] == "pass"
    assert sent["module_name"] == "mcpstack.platform.preflight"
    assert sent["services"] == [
        {
            "name": "edge",
            "memory": "128m",
            "cpus": "1.0",
            "publish": [{"host_ip": "0.0.0.0", "host_port": 443, "port": 8443}],
        }
    ]


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"mcpstack_edge_server_names": None},
         "[PRE-01] mcpstack_edge_server_names: is required but empty. "
         "Fix: set it to a list, each item text (public names)."),
        ({"mcpstack_edge_port": "eighty"}, '[PRE-01] mcpstack_edge_port: is "eighty". Fix: give a whole number.'),
        ({"mcpstack_edge_profile": "old"},
         '[PRE-01] mcpstack_edge_profile: is "old". Fix: give one of modern, intermediate.'),
        ({"mcpstack_edge_server_names": {"a": 1}},
         '[PRE-01] mcpstack_edge_server_names: is {"a": 1}. Fix: give a list, each item text.'),
        ({"mcpstack_edge_routes": [{"path": "/a"}, {"pth": "/b", "path": "/b", "port": "x"}]},
         '[PRE-01] mcpstack_edge_routes[1].port: is "x". Fix: give a whole number.'),
        ({"mcpstack_edge_routes": [{"path": "/a"}, {"pth": "/b", "path": "/b"}]},
         "[PRE-01] mcpstack_edge_routes[1].pth: is not a key of this option. Fix: write path."),
        ({"mcpstack_edge_routes": [{"port": 1}]},
         "[PRE-01] mcpstack_edge_routes[0].path: is required but missing. Fix: set it to text (the path)."),
        ({"mcpstack_edge_routes": [{"path": "/", "match": "regex"}]},
         '[PRE-01] mcpstack_edge_routes[0].match: is "regex". Fix: give one of exact, prefix.'),
        ({"mcpstack_edge_prt": 1},
         "[PRE-02] mcpstack_edge_prt: is not an option of any role. Fix: write mcpstack_edge_port."),
        ({"mcpstack_edge_profile": trust_as_template("{{ nope }}")},
         "[PRE-03] mcpstack_edge_profile: refers to nope, which is not defined. "
         "Fix: define it, or correct the expression."),
        ({"mcpstack_edge_memory": "512m\nprivileged: true"},
         "[PRE-01] mcpstack_edge_memory: is '512m\\nprivileged: true'. Fix: write it like 512m."),
        ({"mcpstack_edge_server_names": ["CHANGE_ME.org"]},
         '[PRE-04] mcpstack_edge_server_names[0]: is still the placeholder "CHANGE_ME.org". Fix: give the real value.'),
        ({"mcpstack_edge_server_names": ["a_b"]},
         "[PRE-09] mcpstack_edge_server_names[0]: is 'a_b', which is not a DNS name. "
         "Fix: use letters, digits and hyphens between dots."),
    ],
)  # fmt: skip
def test_every_wrong_variable_is_named_with_its_path(roles, variables, sentence):
    result, _sent = run({**GOOD, **variables})
    assert result["failed"] is True
    assert f". {sentence}" in result["msg"]


def test_a_missing_required_option_and_all_others_come_at_once(roles):
    result, _sent = run({"mcpstack_edge_port": "x", "mcpstack_typo": 1}, roles=["edge", "othr"])
    assert result["msg"] == (
        "5 problems on h1; nothing was changed.\n"
        "  1. [PRE-01] mcpstack_edge_image: is required but not set. Fix: set it to text (image).\n"
        '  2. [PRE-01] mcpstack_edge_port: is "x". Fix: give a whole number.\n'
        "  3. [PRE-01] mcpstack_edge_server_names: is required but not set. "
        "Fix: set it to a list, each item text (public names).\n"
        "  4. [PRE-01] preflight roles: there is no role 'othr'. Fix: write other.\n"
        "  5. [PRE-02] mcpstack_typo: is not an option of any role. Fix: remove it."
    )


def test_a_role_that_is_not_in_use_is_not_checked_but_its_options_are_known(roles):
    result, _sent = run({**GOOD, "mcpstack_other_x": "not a number"})
    assert "failed" not in result


def test_what_comes_later_is_left_to_the_role(roles):
    variables = {**GOOD, "mcpstack_edge_profile": trust_as_template("{{ mcpstack_images_refs.x }}")}
    assert "failed" not in run(variables)[0]
    late = {"mcpstack_edge_server_names": ["chat.my.org"]}
    assert "failed" not in run(late, late_variables=["mcpstack_edge_image"])[0]
    assert "mcpstack_images_refs" in run(GOOD, late_variables=[])[0]["msg"]


def test_known_variables_are_no_typos(roles):
    assert "failed" in run({**GOOD, "mcpstack_site": 1})[0]
    assert "failed" not in run({**GOOD, "mcpstack_site": 1}, known_variables=["mcpstack_site"])[0]


def test_the_place_of_a_value_is_named(roles, tmp_path):
    path = tmp_path / "all.yml"
    path.write_text("---\n\nmcpstack_edge_port: eighty\n")
    values = DataLoader().load_from_file(str(path))
    result, _sent = run({**GOOD, **values})
    assert f'mcpstack_edge_port ({path}:3): is "eighty"' in result["msg"]


def test_production_rules_apply_in_production_only(roles):
    variables = {**GOOD, "mcpstack_edge_cors_origins": ["*"], "mcpstack_edge_port": 9443}
    assert "failed" not in run(variables)[0]
    result, _sent = run(variables, environment="production")
    assert "[PRE-05] mcpstack_edge_cors_origins[0]: allows the origin '*' in production." in result["msg"]
    assert "[PRE-07] edge.publish[0]: publishes port 9443 on 0.0.0.0, which is not declared as public." in result["msg"]
    variables["mcpstack_edge_cors_origins"] = []
    assert "failed" not in run(variables, environment="production", public_ports=[9443])[0]
    assert "failed" not in run({**variables, "mcpstack_public_ports": [9443]}, environment="production")[0]


def test_a_wrong_environment_is_named(roles):
    result, _sent = run(GOOD, environment="prod")
    assert result["msg"] == (
        "1 problem on h1; nothing was changed.\n"
        "  1. [PRE-01] mcpstack_environment: is 'prod'. Fix: set it to one of development, staging, production."
    )


def test_problems_of_the_host_and_of_the_options_come_together(roles):
    finding = {"id": "PRE-20", "title": "x", "severity": "high", "subject": "s", "where": "/etc/os-release",
               "evidence": "says Alpine", "fix": "use Debian", "references": [], "waived": None}  # fmt: skip
    now = time.time()
    answer = {
        "findings": [finding],
        "checks_run": {"PRE-20": "fail"},
        "ansible_facts": {},
        "clock": {"started": now, "finished": now},
    }
    result, _sent = run({**GOOD, "mcpstack_edge_port": "x"}, answer)
    assert result["msg"].startswith("2 problems on h1; nothing was changed.\n")
    assert result["summary"]["high"] == 2
    assert result["checks_run"]["PRE-20"] == "fail"


def test_a_host_that_cannot_be_asked_does_not_hide_the_options(roles):
    result, _sent = run({**GOOD, "mcpstack_edge_port": "x"}, {"failed": True, "msg": "no python"})
    assert result["failed"] is True
    assert "1 problem on" in result["msg"] and "The host could not be checked: no python" in result["msg"]


def test_the_clock_is_compared_with_the_controller(roles):
    result, _sent = run(GOOD, controller_time=time.time() - 100)
    assert "[PRE-26] clock: the host's clock is 100" in result["msg"]
    result, _sent = run(GOOD, controller_time=time.time() + 20)
    assert "failed" not in result
    assert result["warnings"][0].startswith("clock: the host's clock is ")


def test_a_service_that_cannot_be_evaluated_leaves_ports_and_memory_undecided(roles):
    service = "_mcpstack_edge_service: {limits: {memory: '{{ gone }}'}, publish: '{{ gone }}'}"
    (roles / "edge/vars/main.yml").write_text(service)
    result, _sent = run(GOOD)
    assert result["checks_run"]["PRE-25"] == result["checks_run"]["PRE-27"] == "unknown"
    assert "[PRE-03] _mcpstack_edge_service.memory: cannot be evaluated" in result["msg"]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("mcpstack_x_a is 8m: give at least 32m.", ("mcpstack_x_a", "is 8m", "give at least 32m.")),
        (
            "mcpstack_x_a: b is decided by the role: remove it.",
            ("mcpstack_x_a", "b is decided by the role", "remove it."),
        ),
        ("mcpstack_x_a is empty; give the path.", ("mcpstack_x_a", "is empty", "give the path.")),
        ("mcpstack_x_a is odd", ("mcpstack_x_a", "is odd", "see the role's options")),
    ],
)
def test_a_roles_sentence_has_three_parts(text, parts):
    assert action.split_problem(text) == parts


def test_the_reasons_of_a_core_are_found_behind_the_templars_errors():
    inner = ValueError("x")
    inner.problems = [{"where": "a", "what": "b", "fix": "c"}]
    outer, outermost = RuntimeError("y"), RuntimeError("z")
    outer.__cause__, outermost.__cause__ = inner, outer
    assert action.reasons(outermost) == inner.problems
    assert action.reasons(RuntimeError("plain")) == []
