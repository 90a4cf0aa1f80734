# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole project out of its specs: which files, which directories, and when Compose has to be asked again."""

from __future__ import annotations

import pytest
import yaml
from ansible.errors import AnsibleActionFail
from ansible.template import Templar

from ansible_collections.mcpstack.platform.plugins.plugin_utils._stack_files import render
from ansible_collections.mcpstack.platform.plugins.plugin_utils._templates import Renderer
from ansible_collections.mcpstack.platform.tests.render.test_stack import SERVICES


@pytest.fixture
def stack(role):
    """stack(*names, **options) -> what the roles of these names render to."""

    def make(*names, change=lambda part: None, **options):
        variables = dict(role("_stack").variables)
        parts = []
        for name in names:
            one = role(name, **{**SERVICES[name], **options})
            part = one.value(f"_mcpstack_{name}_part")
            change(part)
            parts.append(part)
            variables.update(one.variables)
        templar = Templar(loader=role("_stack").loader, variables=variables)
        return render(Renderer(role("_stack").loader, templar, variables), parts)

    return make


def test_files_directories_and_validators(stack):
    found = stack("valkey", "model_runner", "gateway", "edge")
    paths = {item["dest"] for item in found.files}
    assert found.compose_files == [
        "/etc/mcpstack/compose/project.yml",
        "/etc/mcpstack/compose/valkey.yml",
        "/etc/mcpstack/compose/model-runner.yml",
        "/etc/mcpstack/compose/gateway.yml",
        "/etc/mcpstack/compose/edge.yml",
    ]
    assert set(found.compose_files) < paths
    assert {"/etc/mcpstack/valkey/valkey.conf", "/etc/mcpstack/edge/nginx.conf"} < paths
    assert not any(path.startswith("/etc/mcpstack/gateway/") for path in paths)  # it has no configuration tree
    made = {item["dest"]: item.get("mode", "0750") for item in found.directories}
    assert made["/etc/mcpstack"] == made["/etc/mcpstack/compose"] == made["/etc/mcpstack/edge"] == "0750"
    assert made["/var/lib/mcpstack/acme"] == "0755"
    assert "/var/lib/mcpstack/models" not in made  # the model cache makes it
    assert [(item["tree"], item["user"]) for item in found.validate] == [
        ("/etc/mcpstack/valkey", 64105),
        ("/etc/mcpstack/edge", 64101),
    ]
    assert set(found.prune) == {
        "/etc/mcpstack/compose", "/etc/mcpstack/valkey", "/etc/mcpstack/model-runner", "/etc/mcpstack/edge",
    }  # fmt: skip


def test_the_digest_differs_exactly_for_the_service_that_differs(stack):
    before = stack("valkey", "edge").digests
    assert stack("valkey", "edge").digests == before
    after = stack("valkey", "edge", mcpstack_valkey_max_clients=77).digests  # only in its configuration tree
    assert after["valkey"] != before["valkey"] and after["edge"] == before["edge"]


def test_the_label_tells_of_the_configuration(stack):
    fragment = next(item for item in stack("valkey").files if item["dest"].endswith("compose/valkey.yml"))
    label = yaml.safe_load(fragment["content"])["services"]["valkey"]["labels"]["mcpstack.config-digest"]
    assert len(label) == 64


def test_problems_of_all_specs_at_once(stack):
    def spoil(part):
        part["service"]["uid"] = 1

    with pytest.raises(AnsibleActionFail) as caught:
        stack("valkey", "gateway", change=spoil)
    assert str(caught.value).splitlines() == [
        "The service specs have problems; nothing was changed.",
        "  1. service valkey.uid: is 1. Fix: give a whole number from 64101 to 64999.",
        "  2. service gateway.uid: is 1. Fix: give a whole number from 64101 to 64999.",
    ]


def test_two_services_of_one_name(stack):
    with pytest.raises(AnsibleActionFail, match="Two services are called valkey: give each a name of its own"):
        stack("valkey", "valkey")
