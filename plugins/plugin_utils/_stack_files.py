# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All files of the compose project, rendered from the service specs: for the action that writes them and the one that judges them.

PRIVATE: internal to the collection, may change in any release.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from ansible.errors import AnsibleActionFail

from ansible_collections.mcpstack.platform.plugins.module_utils._service_spec import CONFIG_ROOT, SpecError, normalise
from ansible_collections.mcpstack.platform.plugins.plugin_utils._templates import Renderer, digest

COMPOSE_DIR = f"{CONFIG_ROOT}/compose"
PROJECT_FILE = "project.yml"
ROLES = Path(__file__).resolve().parents[2] / "roles"
TEMPLATES = ROLES / "_stack" / "templates"


@dataclass
class Stack:
    """What ``render`` returns: arguments of config_tree, the normalised specs, and SHA-256 of each compose file by service.

    ``digests`` is of what Compose brings up: a oneshot is not among it.
    """

    files: list[dict] = field(default_factory=list)
    directories: list[dict] = field(default_factory=list)
    prune: list[str] = field(default_factory=list)
    validate: list[dict] = field(default_factory=list)
    specs: dict[str, dict] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)

    @property
    def compose_files(self) -> list[str]:
        """Paths on the host, in the order in which Compose reads them."""
        return [f"{COMPOSE_DIR}/{PROJECT_FILE}", *(f"{COMPOSE_DIR}/{name}.yml" for name in self.specs)]


def _normalised(parts: list[dict]) -> list[tuple[dict, dict]]:
    """(spec with every default, part) of each part; every problem of every spec at once."""
    found, problems = [], []
    for part in parts:
        try:
            found.append((normalise(part["service"]), part))
        except SpecError as error:
            problems += error.problems
    if problems:
        lines = [f"  {n}. {p['where']}: {p['what']}. Fix: {p['fix']}." for n, p in enumerate(problems, 1)]
        raise AnsibleActionFail("The service specs have problems; nothing was changed.\n" + "\n".join(lines))
    return found


def render(renderer: Renderer, parts: list[dict]) -> Stack:
    """Render every part: ``{service: spec, role: name of the role with templates/config, validate: options of config_tree}``."""
    stack = Stack(directories=[{"dest": CONFIG_ROOT}, {"dest": COMPOSE_DIR}], prune=[COMPOSE_DIR])
    project = renderer.file(TEMPLATES / "project.compose.yml.j2")
    stack.files.append({"dest": f"{COMPOSE_DIR}/{PROJECT_FILE}", "content": project})
    shared = hashlib.sha256(project.encode())
    for spec, part in _normalised(parts):
        files: list[dict] = []
        if spec["config"]:
            source = ROLES / part["role"] / "templates" / "config"
            files, directories = renderer.tree(str(source), spec["config_source"], group=spec["uid"])
            stack.directories += directories
            stack.prune.append(spec["config_source"])
        fragment = renderer.file(
            TEMPLATES / "service.compose.yml.j2", __stack_spec=spec, config_tree_digest=digest(files)
        )
        stack.files += [*files, {"dest": f"{COMPOSE_DIR}/{spec['name']}.yml", "content": fragment}]
        stack.directories += [
            {"dest": volume["path"], "mode": volume["mode"]} for volume in spec["volumes"] if volume["mode"]
        ]
        if part.get("validate"):
            stack.validate.append(
                {
                    "tree": spec["config_source"],
                    "target": spec["config"],
                    "image": spec["image"],
                    "user": spec["uid"],
                    **part["validate"],
                }
            )
        whole = shared.copy()
        whole.update(fragment.encode())
        stack.specs[spec["name"]] = spec
        if spec["kind"] == "service":
            stack.digests[spec["name"]] = whole.hexdigest()
    if len(stack.specs) != len(parts):
        names = [os.fspath(part["service"]["name"]) for part in parts]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise AnsibleActionFail(f"Two services are called {', '.join(twice)}: give each a name of its own.")
    return stack
