# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compose is asked whenever anything differs from what was applied, and only then."""

from __future__ import annotations

import json

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _stack_applied as core

DIGESTS = {"postgres": "d1", "edge": "d2"}


class Engine:
    """Two healthy services on one network with one volume."""

    def __init__(self):
        self.containers = [self.container("postgres", "c1", "i1"), self.container("edge", "c2", "i2")]
        self.images = {"img-postgres": "i1", "img-edge": "i2"}
        self.names = {"networks": ["mcpstack_data"], "volumes": ["mcpstack_postgres-data"]}

    @staticmethod
    def container(service, identity, image):
        labels = {core.PROJECT_LABEL: "mcpstack", core.SERVICE_LABEL: service}
        return {
            "Id": identity, "Labels": labels, "State": "running", "Status": "Up 3 minutes (healthy)", "ImageID": image,
            "NetworkSettings": {"Networks": {"mcpstack_data": {"NetworkID": "n1"}}},
        }  # fmt: skip

    def delete(self, path):
        self.names["networks"].remove(path.removeprefix("/networks/"))

    def get(self, path, query=None):
        if query and "filters" in query:
            assert json.loads(query["filters"]) == {"label": ["com.docker.compose.project=mcpstack"]}
        if path == "/containers/json":
            assert query["all"] == "1"
            return self.containers
        if path == "/networks":
            return [{"Name": name} for name in self.names["networks"]]
        if path == "/volumes":
            return {"Volumes": [{"Name": name} for name in self.names["volumes"]] or None}
        found = next(item for item in self.containers if path == f"/containers/{item['Id']}/json")
        return {"Config": {"Image": f"img-{found['Labels'][core.SERVICE_LABEL]}"}}

    def image(self, reference):
        return {"Id": self.images[reference]} if reference in self.images else None


@pytest.fixture
def engine():
    return Engine()


@pytest.fixture
def record(engine):
    return core.present(engine, DIGESTS)


def test_nothing_is_pending_right_after_it_was_recorded(engine, record):
    assert core.pending(engine, DIGESTS, record) == {}


@pytest.mark.parametrize("check", [True, False])
def test_a_network_that_nobody_is_on_is_removed(engine, check):
    engine.names["networks"].append("mcpstack_egress")
    assert core.drop_unused(engine, check) == ["mcpstack_egress"]
    assert engine.names["networks"] == ["mcpstack_data"] + (["mcpstack_egress"] if check else [])


def test_a_network_of_a_stopped_or_foreign_container_stays(engine):
    engine.names["networks"] += ["mcpstack_model", "mcpstack_edge"]
    stopped = engine.container("model-runner", "c3", "i3")
    foreign = {**engine.container("x", "c4", "i4"), "Labels": {}}
    for item, name in ((stopped, "mcpstack_model"), (foreign, "mcpstack_edge")):
        item["State"], item["NetworkSettings"] = "exited", {"Networks": {name: {"NetworkID": "n"}}}
        engine.containers.append(item)
    assert core.drop_unused(engine, False) == []


@pytest.mark.parametrize("service", ["admin", "edge"])
def test_a_container_for_one_command_is_nobodys_business(engine, record, service):
    mine = engine.container(service, "c3", "i2")
    mine["Labels"]["com.docker.compose.oneoff"] = "True"
    engine.containers.append(mine)
    assert core.pending(engine, DIGESTS, record) == {}
    assert core.present(engine, DIGESTS) == record


@pytest.mark.parametrize(
    ("change", "service", "reason"),
    [
        ({"Id": "c9"}, "edge", "its container is not the one that was applied"),
        ({"State": "exited", "Status": "Exited (1) 3 seconds ago"}, "edge",
         "its container is not healthy: Exited (1) 3 seconds ago"),
        ({"State": "paused", "Status": "Up 3 minutes (Paused)"}, "edge",
         "its container is not healthy: Up 3 minutes (Paused)"),
        ({"Status": "Up 2 seconds (health: starting)"}, "edge",
         "its container is not healthy: Up 2 seconds (health: starting)"),
        ({"Status": "Up 2 minutes (unhealthy)"}, "edge", "its container is not healthy: Up 2 minutes (unhealthy)"),
        ({"Status": "Up 2 minutes"}, "edge", "its container is not healthy: Up 2 minutes"),
        ({"ImageID": "i9"}, "edge", "img-edge is another image now"),
        ({"NetworkSettings": {"Networks": {}}}, "edge", "its container is not on the networks on which it was applied"),
        ({"NetworkSettings": {"Networks": {"mcpstack_data": {"NetworkID": "n2"}}}}, "edge",
         "its container is not on the networks on which it was applied"),
        ({"NetworkSettings": {"Networks": {"mcpstack_data": {"NetworkID": "n1"}, "bridge": {"NetworkID": "n0"}}}}, "edge",
         "its container is not on the networks on which it was applied"),
    ],
)  # fmt: skip
def test_one_container_differs(engine, record, change, service, reason):
    engine.containers[1].update(change)
    assert core.pending(engine, DIGESTS, record) == {service: reason}


def test_the_reference_names_another_image_or_none(engine, record):
    engine.images["img-postgres"] = "i7"
    assert core.pending(engine, DIGESTS, record) == {"postgres": "img-postgres is another image now"}
    del engine.images["img-postgres"]
    assert core.pending(engine, DIGESTS, record) == {"postgres": "img-postgres is another image now"}


def test_a_compose_file_differs(engine, record):
    assert core.pending(engine, {**DIGESTS, "edge": "d3"}, record) == {
        "edge": "its compose file differs from what was applied"
    }


def test_a_service_is_new_or_its_container_gone(engine, record):
    assert core.pending(engine, {**DIGESTS, "gateway": "d3"}, record) == {"gateway": "it was never applied"}
    del engine.containers[1]
    assert core.pending(engine, DIGESTS, record) == {"edge": "there is no container of it"}


def test_a_second_container_of_the_same_service(engine, record):
    engine.containers.append({**engine.containers[1]})
    assert core.pending(engine, DIGESTS, record) == {"edge": "its container is not the one that was applied"}


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda engine: engine.containers.append(engine.container("old", "c3", "i3")),
         "the project has a container that no service asks for"),
        (lambda engine: engine.names["networks"].clear(), "the networks of the project are not those that were recorded"),
        (lambda engine: engine.names["networks"].append("mcpstack_x"),
         "the networks of the project are not those that were recorded"),
        (lambda engine: engine.names["volumes"].clear(), "the volumes of the project are not those that were recorded"),
    ],
)  # fmt: skip
def test_what_concerns_the_project_makes_everything_pending(engine, record, spoil, reason):
    spoil(engine)
    assert core.pending(engine, DIGESTS, record) == dict.fromkeys(DIGESTS, reason)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "{",
        "[]",
        "[" * 100000,
        '{"format": 1, "services": {}}',
        '{"format": 2, "services": 3}',
        '{"format": 2, "services": {"edge": "c2"}}',
    ],
)
def test_without_a_usable_record_everything_is_pending(engine, tmp_path, text):
    path = tmp_path / "state" / "applied.json"
    if text is not None:
        path.parent.mkdir()
        path.write_text(text)
    assert core.read(str(path)) == {}
    assert core.pending(engine, DIGESTS, {}) == dict.fromkeys(DIGESTS, "nothing was recorded as applied")


def test_the_record_is_written_once(engine, record, tmp_path):
    path = str(tmp_path / "state" / "applied.json")
    assert core.write(path, record, check=True) is True
    assert not (tmp_path / "state").exists()
    assert core.write(path, record, check=False) is True
    assert core.write(path, record, check=False) is False
    assert core.read(path) == record
