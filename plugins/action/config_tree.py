# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Controller side of config_tree: render templates, then hand all files to the module in one call."""

from __future__ import annotations

from pathlib import Path

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.mcpstack.platform.plugins.plugin_utils._templates import Renderer

PASSED_ON = ("directories", "prune", "keep", "validate", "units")


class ActionModule(ActionBase):
    """Renders ``trees`` and ``files[].template`` with the variables of the task."""

    _supports_check_mode = True
    _supports_diff = True
    _VALID_ARGS = frozenset(("trees", "files", *PASSED_ON))

    def run(self, tmp=None, task_vars=None):
        """Render, then run the module."""
        result = super().run(tmp, task_vars)
        args = dict(self._task.args)
        unknown = sorted(set(args) - self._VALID_ARGS)
        if unknown:
            raise AnsibleActionFail(f"config_tree: unknown option {', '.join(unknown)}.")
        renderer = Renderer(self._loader, self._templar, task_vars)
        module_args = {key: args[key] for key in PASSED_ON if args.get(key)}
        files, directories = [], list(module_args.pop("directories", []))
        prune = list(module_args.pop("prune", []))
        for tree in args.get("trees") or []:
            more_files, more_directories = renderer.tree(
                tree["src"], tree["dest"], tree.get("owner", 0), tree.get("group", 0)
            )
            files += more_files
            directories += more_directories
            prune.append(tree["dest"])
        for item in args.get("files") or []:
            item = dict(item)
            template = item.pop("template", None)
            if template is not None:
                item["content"] = renderer.file(Path(template))
            files.append(item)
        result.update(
            self._execute_module(
                module_name="mcpstack.platform.config_tree",
                module_args={**module_args, "files": files, "directories": directories, "prune": prune},
                task_vars=task_vars,
            )
        )
        return result
