# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Render templates on the controller, for every action that writes or judges files.

PRIVATE: internal to the collection, may change in any release.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from ansible.errors import AnsibleActionFail
from ansible.template import trust_as_template

MANAGED = "Managed by mcpstack.platform: changes made here are overwritten by the next run."


class Renderer:
    """Templates with the variables of one task."""

    def __init__(self, loader, templar, task_vars: dict):
        self._loader = loader
        self._templar = templar
        self._task_vars = task_vars

    def file(self, source: Path, **extra) -> str:
        """The text of one template; ``extra`` are variables on top of the task's."""
        text = trust_as_template(self._loader.get_text_file_contents(str(source)))
        variables = {**self._task_vars, "ansible_managed": MANAGED, **extra}
        search = [str(source.parent), *self._task_vars.get("ansible_search_path", [])]
        templar = self._templar.copy_with_new_env(searchpath=search, available_variables=variables)
        rendered = templar.template(
            text, escape_backslashes=False, overrides={"trim_blocks": True, "lstrip_blocks": True}
        )
        return "" if rendered is None else str(rendered)

    def tree(self, src: str, dest: str, owner: int = 0, group: int = 0) -> tuple[list[dict], list[dict]]:
        """(files, directories) of a mirrored tree below ``dest``. A template that renders to nothing is no file."""
        root = Path(src)
        if not root.is_dir():
            raise AnsibleActionFail(f"{root} is not a directory of templates.")
        directories = [{"dest": dest, "owner": owner, "group": group, "mode": "0750"}]
        files = []
        for source in sorted(root.rglob("*")):
            place = os.path.join(dest, str(source.relative_to(root)))
            if source.is_dir():
                directories.append({"dest": place, "owner": owner, "group": group, "mode": "0750"})
                continue
            is_template = source.suffix == ".j2"
            content = self.file(source) if is_template else self._loader.get_text_file_contents(str(source))
            if is_template and not content.strip():
                continue
            files.append(
                {
                    "dest": place.removesuffix(".j2"),
                    "content": str(content),
                    "owner": owner,
                    "group": group,
                    "mode": "0640",
                }
            )
        return files, directories


def digest(files: list[dict]) -> str:
    """SHA-256 over names and contents."""
    total = hashlib.sha256()
    for item in sorted(files, key=lambda entry: entry["dest"]):
        total.update(f"{item['dest']}\0{len(item['content'])}\0{item['content']}\0".encode())
    return total.hexdigest()
