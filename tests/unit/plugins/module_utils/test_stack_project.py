# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the project core says of containers. The engine is a table here: a real one cannot be killed, sick and gone on demand."""

from __future__ import annotations

import json

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _stack_project as core
from ansible_collections.mcpstack.platform.plugins.module_utils._engine import EngineError


class TableEngine:
    """Answers from a table; remembers what it was asked to change."""

    def __init__(self, states, conflict=False):
        self.states = states
        self.conflict = conflict
        self.calls = []

    def get(self, path, params=None, timeout=None):
        if path == "/containers/json":
            assert json.loads(params["filters"]) == {"label": ["com.docker.compose.project=mcpstack"]}
            return [
                {
                    "Id": f"id-{name}",
                    "Created": n,
                    "Names": [f"/mcpstack-{name}-1"],
                    "Labels": {"com.docker.compose.service": name},
                }
                for n, name in enumerate(self.states)
            ]
        if path == "/networks":
            return [{"Name": "mcpstack_data"}]
        if path == "/volumes":
            return {"Volumes": [{"Name": "mcpstack_postgres-data"}]}
        if path == "/images/json":
            return [{"RepoTags": ["mcpstack/nginx:0123", "other/nginx:1"]}, {"RepoTags": None}]
        if path.endswith("/logs"):
            return b"\x01\0\0\0\0\0\0\x06words\n"
        name = path.split("/")[2].removeprefix("id-")
        return {
            "Name": f"/mcpstack-{name}-1",
            "State": self.states[name],
            "Config": {"Image": "mcpstack/x:1"},
            "NetworkSettings": {"Ports": {"8443/tcp": [{"HostIp": "0.0.0.0", "HostPort": "443"}], "8080/tcp": None}},
        }

    def post(self, path, params=None, timeout=None):
        self.calls.append(f"post {path}")

    def delete(self, path, params=None):
        self.calls.append(f"delete {path}")
        if self.conflict and path.startswith("/images"):
            raise EngineError("conflict", 409)


UP = {"Status": "running", "ExitCode": 0, "Health": {"Status": "healthy"}}


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        (UP, None),
        (None, "postgres: there is no container. Run the site playbook."),
        (
            {"Status": "exited", "ExitCode": 1},
            "postgres: exited, exit code 1, 0 restarts. See: docker logs mcpstack-postgres-1.",
        ),
        (
            {"Status": "restarting", "ExitCode": 137, "OOMKilled": True},
            "postgres: killed, it used more memory than its limit. Raise the service's memory limit.",
        ),
        (
            {"Status": "running", "Health": {"Status": "unhealthy", "Log": [{"Output": "no response\n"}]}},
            "postgres: running but unhealthy. The check says: no response See: docker logs mcpstack-postgres-1.",
        ),
        (
            {"Status": "running", "Health": {"Status": "starting"}},
            "postgres: running but starting. See: docker logs mcpstack-postgres-1.",
        ),
        ({"Status": "running"}, "postgres: running but none. See: docker logs mcpstack-postgres-1."),
    ],
)
def test_each_state_has_its_sentence(state, sentence):
    engine = TableEngine({"postgres": state} if state else {})
    found = core.status(engine, ["postgres"])
    assert core.problems(found, ["postgres"]) == ([sentence] if sentence else [])


def test_a_container_nobody_asks_for_is_named():
    found = core.status(TableEngine({"postgres": UP, "worker": UP}), ["postgres"])
    assert core.problems(found, ["postgres"]) == [
        "worker: a container of the project that no service asks for. Run the site playbook to remove it."
    ]


def test_a_container_for_one_command_is_nobodys_business(monkeypatch):
    engine = TableEngine({"postgres": UP, "admin": {"Status": "exited", "ExitCode": 1}})
    plain = engine.get

    def get(path, params=None, timeout=None):
        answer = plain(path, params, timeout)
        if path == "/containers/json":
            answer[1]["Labels"][core.ONEOFF_LABEL] = "True"
        return answer

    monkeypatch.setattr(engine, "get", get)
    assert [item.service for item in core.status(engine, ["postgres"])] == ["postgres"]
    assert core.leftovers(engine, False).containers == ["mcpstack-admin-1", "mcpstack-postgres-1"]


def test_the_report_shows_the_last_words_of_the_sick_only():
    text = core.report(
        core.status(TableEngine({"a": UP, "b": {"Status": "exited", "ExitCode": 2}}), ["a", "b"], log_lines=5)
    )
    assert "Last lines of b:\n  words" in text
    assert "Last lines of a" not in text
    assert "0.0.0.0:443->8443/tcp" in text


@pytest.mark.parametrize(("data", "volumes"), [(True, ["mcpstack_postgres-data"]), (False, [])])
def test_leftovers_are_ours_alone(data, volumes):
    found = core.leftovers(TableEngine({"a": UP}), data)
    assert found == core.Leftovers(["mcpstack-a-1"], ["mcpstack_data"], volumes, ["mcpstack/nginx:0123"])


def test_removal_goes_from_containers_to_images():
    engine = TableEngine({"a": UP})
    core.remove(engine, core.leftovers(engine, True))
    assert engine.calls == [
        "post /containers/mcpstack-a-1/stop",
        "delete /containers/mcpstack-a-1",
        "delete /networks/mcpstack_data",
        "delete /volumes/mcpstack_postgres-data",
        "delete /images/mcpstack/nginx:0123",
    ]


def test_a_foreign_user_of_an_image_is_explained():
    engine = TableEngine({}, conflict=True)
    with pytest.raises(
        EngineError,
        match="Image mcpstack/nginx:0123 is used by a container outside the platform: remove that container first.",
    ):
        core.remove(engine, core.leftovers(engine, False))


def test_nothing_left_is_false():
    assert not core.Leftovers([], [], [], [])
