# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter mcpstack.platform.model_plan."""

from __future__ import annotations

DOCUMENTATION = r"""
name: model_plan
short_description: Work out how the model server is started for a list of models
version_added: 0.1.0
description:
  - Checks the models and the options of the role C(model_runner), and says everything that is wrong at once.
  - One model is served by one process, several by a router with a process for each.
options:
  _input:
    description: The models, as in the option of the role.
    type: list
    elements: dict
    required: true
  endpoint:
    description: Base address for models of a hub.
    type: str
    default: https://huggingface.co
  context:
    description: Tokens of context for each slot.
    type: int
    default: 4096
  parallel:
    description: Requests served at the same time, for each model.
    type: int
    default: 4
  threads:
    description: Threads for each model; V(0) chooses.
    type: int
    default: 0
  cpus:
    description: Processors the service may use.
    type: str
    default: "1.0"
  prompt_cache:
    description: Memory for kept prompts, for each model.
    type: str
    default: 64m
  extra_args:
    description: Further arguments of the server, from the allowed ones.
    type: dict
    default: {}
author:
  - mcpstack.platform maintainers (@mcpstack)
"""

EXAMPLES = r"""
- name: Show the command of the model server
  ansible.builtin.debug:
    msg: "{{ ([{'name': 'mcpstack-demo', 'demo': true}] | mcpstack.platform.model_plan).command }}"
"""

RETURN = r"""
_value:
  description: C(command) (list), C(presets) (text for the router, or empty), C(cache) (models for the module), C(names).
  type: dict
"""

from ansible.errors import AnsibleFilterError

from ansible_collections.mcpstack.platform.plugins.module_utils._model_cache import ModelError
from ansible_collections.mcpstack.platform.plugins.module_utils._model_server import plan


def model_plan(models, **options):
    try:
        return plan(models, **options)
    except ModelError as error:
        raise AnsibleFilterError(f"The model server cannot be planned. {error}") from error


class FilterModule:
    """The filter of this file."""

    def filters(self):
        return {"model_plan": model_plan}
