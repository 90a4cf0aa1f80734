# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Controller side of stack_render: every file of the project in one call of config_tree."""

from __future__ import annotations

from ansible.plugins.action import ActionBase

from ansible_collections.mcpstack.platform.plugins.plugin_utils._stack_files import render
from ansible_collections.mcpstack.platform.plugins.plugin_utils._templates import Renderer


class ActionModule(ActionBase):
    """Renders on the controller, lets config_tree validate and write on the host."""

    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp=None, task_vars=None):
        """Render all services, then write what differs."""
        result = super().run(tmp, task_vars)
        _validation, args = self.validate_argument_spec(
            argument_spec={"services": {"type": "list", "elements": "dict", "required": True}}
        )
        stack = render(Renderer(self._loader, self._templar, task_vars), args["services"])
        result.update(
            self._execute_module(
                module_name="mcpstack.platform.config_tree",
                module_args={
                    "files": stack.files,
                    "directories": stack.directories,
                    "prune": stack.prune,
                    "validate": stack.validate,
                },
                task_vars=task_vars,
            )
        )
        result["digests"] = stack.digests
        result["compose_files"] = stack.compose_files
        return result
