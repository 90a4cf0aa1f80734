# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Controller side of config_tree: render templates, then hand all files to the module in one call."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.template import trust_as_template

MANAGED = "Managed by mcpstack.platform: changes made here are overwritten by the next run."


class ActionModule(ActionBase):
    """Renders ``trees`` and ``files[].template`` with the variables of the task."""

    _supports_check_mode = True
    _supports_diff = True
    _VALID_ARGS = frozenset(("trees", "files", "directories", "prune", "keep", "validate"))

    def _render(self, source: Path, task_vars: dict, extra: dict) -> str:
        text = trust_as_template(self._loader.get_text_file_contents(str(source)))
        variables = {**task_vars, "ansible_managed": MANAGED, **extra}
        search = [str(source.parent), *task_vars.get("ansible_search_path", [])]
        templar = self._templar.copy_with_new_env(searchpath=search, available_variables=variables)
        rendered = templar.template(
            text, escape_backslashes=False, overrides={"trim_blocks": True, "lstrip_blocks": True}
        )
        return "" if rendered is None else str(rendered)

    def _render_tree(self, tree: dict, task_vars: dict) -> tuple[list[dict], list[dict]]:
        root = Path(tree["src"])
        if not root.is_dir():
            raise AnsibleActionFail(f"config_tree: {root} is not a directory of templates.")
        owner, group = tree.get("owner", 0), tree.get("group", 0)
        directories = [{"dest": tree["dest"], "owner": owner, "group": group, "mode": "0750"}]
        files = []
        for source in sorted(root.rglob("*")):
            place = os.path.join(tree["dest"], str(source.relative_to(root)))
            if source.is_dir():
                directories.append({"dest": place, "owner": owner, "group": group, "mode": "0750"})
                continue
            is_template = source.suffix == ".j2"
            content = (
                self._render(source, task_vars, {}) if is_template else self._loader.get_text_file_contents(str(source))
            )
            if is_template and not content.strip():  # a template that renders to nothing is a file that is not wanted
                continue
            dest = place.removesuffix(".j2")
            files.append({"dest": dest, "content": str(content), "owner": owner, "group": group, "mode": "0640"})
        return files, directories

    def run(self, tmp=None, task_vars=None):
        """Render, then run the module."""
        result = super().run(tmp, task_vars)
        args = dict(self._task.args)
        unknown = sorted(set(args) - self._VALID_ARGS)
        if unknown:
            raise AnsibleActionFail(f"config_tree: unknown option {', '.join(unknown)}.")
        files, directories, prune = [], list(args.get("directories") or []), list(args.get("prune") or [])
        for tree in args.get("trees") or []:
            more_files, more_directories = self._render_tree(tree, task_vars)
            files += more_files
            directories += more_directories
            prune.append(tree["dest"])
        digest = hashlib.sha256()
        for item in sorted(files, key=lambda entry: entry["dest"]):
            digest.update(f"{item['dest']}\0{len(item['content'])}\0{item['content']}\0".encode())
        for item in args.get("files") or []:
            item = dict(item)
            template = item.pop("template", None)
            if template is not None:
                item["content"] = self._render(Path(template), task_vars, {"config_tree_digest": digest.hexdigest()})
            files.append(item)
        module_args = {"files": files, "directories": directories, "prune": prune, "keep": list(args.get("keep") or [])}
        if args.get("validate"):
            module_args["validate"] = args["validate"]
        result.update(
            self._execute_module(
                module_name="mcpstack.platform.config_tree", module_args=module_args, task_vars=task_vars
            )
        )
        result["config_tree_digest"] = digest.hexdigest()
        return result
