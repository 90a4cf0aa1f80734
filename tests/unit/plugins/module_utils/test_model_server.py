# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the model server is started: one model, several, and what may not be asked for."""

from __future__ import annotations

import configparser

import pytest
import yaml

from ansible_collections.mcpstack.platform.plugins.module_utils import _demo_model
from ansible_collections.mcpstack.platform.plugins.module_utils._model_cache import ModelError
from ansible_collections.mcpstack.platform.plugins.module_utils._model_server import ALLOWED, plan

DEMO = {"name": "mcpstack-demo", "demo": True}
CHAT = {"name": "chat", "url": "https://hub.test/chat.gguf", "sha256": "0123456789abcdef" * 4}
PLACE = f"/models/mcpstack-demo/{_demo_model.SHA256[:12]}/{_demo_model.FILE_NAME}"


def option(command, name):
    return command[command.index(name) + 1]


def test_one_model_answers_chat_and_embeddings_in_one_process():
    command = plan([DEMO])["command"]
    assert (option(command, "--model"), option(command, "--alias")) == (PLACE, "mcpstack-demo")
    assert (option(command, "--ctx-size"), option(command, "--parallel"), option(command, "--threads")) == (
        "16384",
        "4",
        "1",
    )
    assert "--embeddings" in command
    assert option(command, "--pooling") == "mean"


@pytest.mark.parametrize("models", [[DEMO], [DEMO, CHAT]])
def test_the_server_is_closed(models):
    command = plan(models)["command"]
    assert {"--metrics", "--no-slots", "--no-ui", "--offline", "--no-cors-credentials"} <= set(command)
    assert option(command, "--api-key-file") == "/run/secrets/model-api-key/current"
    assert option(command, "--cors-origins") == "localhost"
    assert option(command, "--log-verbosity") == "1"  # warnings quote what is wrong with a request
    assert not {"--tools", "--agent", "--ui-mcp-proxy", "--props", "--media-path", "--slot-save-path"} & set(command)


def test_several_models_get_a_router():
    made = plan(
        [DEMO, {**CHAT, "context": 8192}], parallel=2, cpus="4", extra_args={"context_shift": True, "temp": 0.5}
    )
    assert option(made["command"], "--models-preset") == "/etc/model-runner/presets.ini"
    assert option(made["command"], "--models-max") == "2"
    assert "--model" not in made["command"]
    presets = configparser.ConfigParser()
    presets.read_string("[top]\n" + made["presets"])
    assert presets["top"]["version"] == "1"
    assert dict(presets["mcpstack-demo"]) == {
        "load-on-startup": "true",
        "model": PLACE,
        "ctx-size": "8192",
        "parallel": "2",
        "threads": "1",
        "cache-ram": "64",
        "context-shift": "true",
        "temp": "0.5",
        "embeddings": "true",
        "pooling": "mean",
    }
    assert presets["chat"]["model"] == "/models/chat/0123456789ab/chat.gguf"
    assert (presets["chat"]["ctx-size"], presets["chat"]["threads"]) == ("16384", "2")
    assert "embeddings" not in presets["chat"]


@pytest.mark.parametrize(
    ("threads", "cpus", "expected"), [(0, "1.0", "1"), (0, "6.5", "6"), (0, "0.5", "1"), (3, "8", "3")]
)
def test_threads(threads, cpus, expected):
    assert option(plan([CHAT], threads=threads, cpus=cpus)["command"], "--threads") == expected


def test_flags_have_two_sides():
    assert "--no-swa-full" in plan([DEMO], extra_args={"swa_full": False})["command"]
    assert "--swa-full" in plan([DEMO], extra_args={"swa_full": True})["command"]


def test_the_cache_is_told_what_memory_depends_on():
    (entry,) = plan([{**CHAT, "context": 1000, "embeddings": True}], extra_args={"cache_type_k": "q8_0"})["cache"]
    assert entry == {**CHAT, "context": 4000, "cache_type_k": "q8_0", "cache_type_v": "f16"}


@pytest.mark.parametrize(
    ("models", "options", "expected"),
    [
        ([], {}, "models: is empty. List at least one model, such as {name: mcpstack-demo, demo: true}."),
        ([DEMO], {"context": 5}, "context: 5 is too small. Give at least 128."),
        ([DEMO], {"parallel": 0}, "parallel: 0 is too small. Give at least 1."),
        ([DEMO], {"prompt_cache": "much"}, "prompt_cache: 'much' is not a size. Write it like 64m."),
        ([DEMO], {"extra_args": {"poll": "1"}}, "extra_args.poll: '1' is not of type int. Give a value of type int."),
        ([DEMO], {"extra_args": {"poll": True}}, "extra_args.poll: True is not of type int. Give a value of type int."),
        (
            [DEMO],
            {"extra_args": {"numa": "x"}},
            "extra_args.numa: 'x' is not possible. Use one of distribute, isolate, numactl.",
        ),
        (
            [DEMO],
            {"extra_args": {"tools": "all"}},
            "extra_args.tools: is not an argument that may be added. Use one of " + ", ".join(sorted(ALLOWED)) + ".",
        ),
    ],
)
def test_wrong_options(models, options, expected):
    with pytest.raises(ModelError) as error:
        plan(models, **options)
    assert str(error.value) == expected


def test_options_and_models_are_reported_together():
    with pytest.raises(ModelError) as error:
        plan([{**CHAT, "sha256": None}], parallel=0)
    assert [item["where"] for item in error.value.problems] == ["parallel", "models[0].sha256"]


def test_the_role_lists_the_same_arguments(request):
    specs = yaml.safe_load((request.config.rootpath / "roles/model_runner/meta/argument_specs.yml").read_text())
    options = specs["argument_specs"]["main"]["options"]["mcpstack_model_runner_extra_args"]["options"]
    listed = {
        name: tuple(option["choices"]) if "choices" in option else option["type"] for name, option in options.items()
    }
    assert listed == ALLOWED
