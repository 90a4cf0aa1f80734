# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Render what a role writes, with Ansible's own templar and the role's own defaults, without running a playbook."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

REPOSITORY = Path(__file__).resolve().parents[2]
MANAGED = "Managed by mcpstack.platform: changes made here are overwritten by the next run."


class Role:
    """One role of the collection under given options."""

    def __init__(self, name: str, options: dict):
        self.path = REPOSITORY / "roles" / name
        self.loader = DataLoader()
        self.variables = {"role_path": str(self.path), "ansible_managed": MANAGED}
        for part in ("defaults", "vars"):
            source = self.path / part / "main.yml"
            if source.exists():
                self.variables.update(self.loader.load_from_file(str(source), trusted_as_template=True) or {})
        self.variables.update(options)

    def value(self, name: str):
        """A variable of the role with everything inside resolved."""
        return Templar(loader=self.loader, variables=self.variables).template(self.variables[name])

    def files(self, directory: str = "templates/config") -> dict[str, str]:
        """Relative path -> text of every file the tree renders to, as the action config_tree renders it."""
        root = self.path / directory
        out = {}
        for source in sorted(path for path in root.rglob("*") if path.is_file()):
            text = source.read_text()
            if source.suffix == ".j2":
                templar = Templar(loader=self.loader, variables=self.variables)
                templar = templar.copy_with_new_env(searchpath=[str(source.parent)], available_variables=self.variables)
                text = templar.template(
                    trust_as_template(text),
                    escape_backslashes=False,
                    overrides={"trim_blocks": True, "lstrip_blocks": True},
                )
                if text is None or not str(text).strip():
                    continue
            out[str(source.relative_to(root)).removesuffix(".j2")] = str(text)
        return out


@pytest.fixture
def role():
    """Factory: role("edge", mcpstack_edge_image="...")."""

    def make(name: str, **options) -> Role:
        return Role(name, options)

    return make
