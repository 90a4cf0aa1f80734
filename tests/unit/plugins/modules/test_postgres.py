# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The doors: what the two modules hand on, say in check and diff mode, and never show."""

from __future__ import annotations

import importlib
import json

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args

from ansible_collections.mcpstack.platform.plugins.module_utils import _postgres_state as core
from ansible_collections.mcpstack.platform.plugins.module_utils._engine import EngineUnavailable
from ansible_collections.mcpstack.platform.plugins.module_utils._postgres_init import InitError

PASSWORD = "A1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6"
MODULES = "ansible_collections.mcpstack.platform.plugins.modules."


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a module with its core's entry replaced; returns what it printed, and what the core was given."""

    def call(name, entry, outcome, check=False, **args):
        module = importlib.import_module(MODULES + name)
        given = {}

        def stand_in(engine, wanted, **options):
            given.update(wanted=wanted, **options)
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        monkeypatch.setattr(*entry(module), stand_in)
        with (
            patch_module_args({**args, "_ansible_check_mode": check, "_ansible_diff": True}),
            pytest.raises(SystemExit),
        ):
            module.main()
        return json.loads(capsys.readouterr().out), given

    return call


def init(module):
    return module, "ensure"


def state(module):
    return module.core, "reconcile"


MADE = {"changed": True, "state": "initialised", "volume": "mcpstack_postgres-data", "major": 17, "path": "/v/data"}
DONE = {
    "changed": True,
    "actions": ["role gateway_a: set the password"],
    "logins": [],
    "notes": [],
    "server_version": "17.11",
}
ITEM = {"name": "gateway", "owner": "gateway_owner", "logins": ["gateway_a"], "secret_file": "/s"}


@pytest.mark.parametrize("check", [True, False])
def test_init_hands_on_and_shows_a_diff(run, check):
    result, given = run("postgres_init", init, MADE, check=check, image="i:1")
    assert (given["wanted"].image, given["wanted"].major, given["wanted"].uid, given["check"]) == (
        "i:1",
        17,
        64104,
        check,
    )
    assert (result["diff"]["before"], result["diff"]["after"], result["changed"]) == ("absent\n", "present\n", True)
    result, _given = run("postgres_init", init, {**MADE, "changed": False, "state": "present"}, image="i:1")
    assert result["diff"]["before"] == result["diff"]["after"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (InitError("Refused."), "Refused."),
        (EngineUnavailable("No engine."), "No engine."),
        (
            PermissionError(13, "Permission denied"),
            "The PostgreSQL volume cannot be prepared: [Errno 13] Permission denied. Is this host's engine local, and are you root?",
        ),
    ],
)
def test_init_fails_with_one_sentence(run, error, message):
    result, _given = run("postgres_init", init, error, image="i:1")
    assert (result["failed"], result["msg"]) == (True, message)


@pytest.mark.parametrize("check", [True, False])
def test_state_hands_on_and_shows_a_diff(run, check):
    result, given = run("postgres_state", state, DONE, check=check, databases=[ITEM])
    assert (given["wanted"], given["check"]) == (core.parse_databases([ITEM]), check)
    assert (given["ca_file"], given["project"], given["service"], given["major"]) == (
        "/var/lib/mcpstack/pki/ca/ca.crt", "mcpstack", "postgres", 17,
    )  # fmt: skip
    assert result["diff"]["after"] == "role gateway_a: set the password\n"
    assert result["actions"] == DONE["actions"]


def test_state_names_every_problem(run):
    items = [{**ITEM, "name": "X", "extensions": ["plperlu"]}]
    result, given = run("postgres_state", state, DONE, databases=items)
    assert [problem["where"] for problem in result["problems"]] == ["databases[0].name", "databases[0].extensions[0]"]
    assert len(result["msg"].splitlines()) == 2 and given == {}


def test_state_without_an_engine(run):
    result, _given = run("postgres_state", state, EngineUnavailable("No engine."), databases=[ITEM])
    assert (result["msg"], result["problems"][0]["what"]) == ("No engine.", "No engine.")


def test_no_option_and_no_result_holds_the_secret(run, tmp_path, monkeypatch, capsys):
    """The real core against a psql that fails with everything it was fed: the module's whole output is searched."""
    (tmp_path / "s").write_text(f"gateway_a:{PASSWORD}")
    module = importlib.import_module(MODULES + "postgres_state")

    class Engine:
        def find_service_container(self, *_args):
            return {"Id": "c"}

        def exec(self, _container, _argv, stdin=None, **_options):
            return core_result(stdin)

    from ansible_collections.mcpstack.platform.plugins.module_utils._engine import ExecResult

    empty = {"kind": "server", "version": "17", "available": {"vector": "1"}, "hba_errors": [],
             "settings": {"data_checksums": "on", "ssl": "on", "password_encryption": "scram-sha-256"}}  # fmt: skip

    def core_result(stdin):
        return ExecResult(0, json.dumps(empty).encode(), b"") if b"pg_authid" in stdin else ExecResult(3, stdin, stdin)

    monkeypatch.setattr(module, "Engine", Engine)
    args = {"databases": [{**ITEM, "secret_file": str(tmp_path / "s")}], "_ansible_diff": True, "_ansible_verbosity": 4}
    with patch_module_args(args), pytest.raises(SystemExit):
        module.main()
    output = capsys.readouterr().out
    assert json.loads(output)["failed"] and "<verifier>" in output
    assert PASSWORD not in output and "SCRAM-SHA-256$" not in output


@pytest.mark.parametrize("name", ["postgres_init", "postgres_state"])
def test_documentation_and_specification_agree(name, monkeypatch):
    module = importlib.import_module(MODULES + name)
    seen = {}

    def capture(*_args, **kwargs):
        seen.update(kwargs)
        raise SystemExit

    monkeypatch.setattr(module, "AnsibleModule", capture)
    with pytest.raises(SystemExit):
        module.main()

    def plain(options, key):
        return {
            option: {
                **{
                    item: value
                    for item, value in spec.items()
                    if item in ("type", "default", "required", "choices", "elements")
                },
                "options": plain(spec.get(key) or {}, key),
            }
            for option, spec in options.items()
        }

    documented = yaml.safe_load(module.DOCUMENTATION)["options"]
    assert plain(documented, "suboptions") == plain(seen["argument_spec"], "options")
    assert seen["supports_check_mode"] is True
