# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gate: what a deploy would write is judged on the controller, before anything is written."""

from __future__ import annotations

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.mcpstack.platform.plugins.module_utils import _container_policy
from ansible_collections.mcpstack.platform.plugins.module_utils._audit import merge_results
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_catalogue import ALL
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_result import ARGUMENTS, conclude
from ansible_collections.mcpstack.platform.plugins.plugin_utils._stack_files import render
from ansible_collections.mcpstack.platform.plugins.plugin_utils._stack_judge import judge
from ansible_collections.mcpstack.platform.plugins.plugin_utils._templates import Renderer


class ActionModule(ActionBase):
    """Renders and judges; nothing runs on the host."""

    _supports_check_mode = True
    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        """Fail with every finding at or above ``fail_at``."""
        result = super().run(tmp, task_vars)
        _validation, args = self.validate_argument_spec(
            argument_spec={
                "services": {"type": "list", "elements": "dict", "required": True},
                **_container_policy.ARGUMENTS,
                "image_ids": {"type": "dict", "default": {}},
                **ARGUMENTS,
            }
        )
        stack = render(Renderer(self._loader, self._templar, task_vars), args["services"])
        try:
            results, model = judge(stack, args["services"], args, args["image_ids"])
        except KeyError as error:
            raise AnsibleActionFail(f"There is no audit called {error} for a configuration tree.") from error
        except ValueError as error:
            raise AnsibleActionFail(str(error)) from error
        merged = merge_results([{key: entry[key] for key in ("findings", "checks_run")} for entry in results])
        # the same waivers speak of the running host, which the daily audit sees besides these files
        concluded = conclude(merged, args["waivers"], args["fail_at"], ALL, whole=False)
        result.update(concluded, results=results, model=model)
        if result.get("failed"):
            result["msg"] = (
                "The deploy is refused, nothing was changed: it would be unsafe. Fix what follows, or waive it in"
                f" mcpstack_audit_waivers with a reason and a date.\n{result['msg']}"
            )
        return result
