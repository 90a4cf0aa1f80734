# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The model-runner service under default, alternative and hostile options."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleError

from ansible_collections.mcpstack.platform.plugins.module_utils._service_spec import normalise

IMAGE = "mcpstack/llama-server:0123456789ab"
DEMO = {"name": "mcpstack-demo", "demo": True}


def service(made):
    return normalise(made.value("_mcpstack_model_runner_service"))


def test_default(role):
    made = role("model_runner", mcpstack_model_runner_image=IMAGE)
    spec = service(made)
    assert (spec["uid"], spec["networks"], spec["publish"], spec["secrets"]) == (
        64103,
        ["model"],
        [],
        ["model-api-key"],
    )
    assert [volume["read_only"] for volume in spec["volumes"]] == [True]
    assert made.files() == {}


def test_alternative(role):
    made = role(
        "model_runner",
        mcpstack_model_runner_image=IMAGE,
        mcpstack_model_runner_models=[DEMO, {**DEMO, "name": "embed", "context": 512}],
        mcpstack_model_runner_memory="4g",
        mcpstack_model_runner_cpus="2.5",
        mcpstack_model_runner_extra_args={"flash_attn": "on"},
    )
    assert service(made)["limits"]["memory"] == "4g"
    (presets,) = made.files().values()
    assert presets.startswith("; Managed by mcpstack.platform")
    assert presets.count("\n[") == 2
    assert "flash-attn = on\n" in presets


@pytest.mark.parametrize(
    "name", ["x]\n[evil", "x --api-key y", "{{ lookup('pipe', 'id') }}", "../../etc/passwd", ""], ids=range(5)
)
def test_hostile_names_are_refused(role, name):
    made = role(
        "model_runner", mcpstack_model_runner_image=IMAGE, mcpstack_model_runner_models=[DEMO, {**DEMO, "name": name}]
    )
    with pytest.raises(AnsibleError, match=r"models\[1\]\.name: .* is not a usable name"):
        service(made)
