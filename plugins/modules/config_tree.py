#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write a set of configuration files in one call."""

from __future__ import annotations

DOCUMENTATION = r"""
module: config_tree
short_description: Write a whole set of configuration files in one call
version_added: 0.1.0
author:
  - mcpstack.platform maintainers (@mcpstack)
description:
  - Brings directories and files to the wanted content, owner and mode, and removes what is no longer listed.
  - The files are validated in a throwaway container of the image that will read them, before any of them lands.
    When the validator refuses them, nothing on the host changes.
  - Each file is replaced atomically, so a reader sees the old content or the new, and a killed run leaves nothing half done.
  - An action plugin of the same name renders templates on the controller, so that thirty files cost one call.
extends_documentation_fragment:
  - mcpstack.platform.attributes
attributes:
  check_mode:
    support: full
    details:
      - The validator runs in check mode too, if the engine is there and has the image.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  trees:
    description:
      - Directories of templates on the controller, each rendered to a mirrored tree below O(trees[].dest).
      - Handled by the action plugin. The ending C(.j2) is stripped.
    type: list
    elements: dict
    default: []
    suboptions:
      src:
        description: The directory on the controller.
        type: path
        required: true
      dest:
        description: The directory on the host; everything in it that is not rendered from O(trees[].src) is removed.
        type: path
        required: true
      owner:
        description: Numeric owner of files and directories.
        type: int
        default: 0
      group:
        description: Numeric group of files and directories.
        type: int
        default: 0
  files:
    description: Single files.
    type: list
    elements: dict
    default: []
    suboptions:
      dest:
        description: Path on the host.
        type: path
        required: true
      template:
        description: Template on the controller, handled by the action plugin.
        type: path
      content:
        description: The content, if it is no template.
        type: str
      content_base64:
        description: The content in Base64, for a file that is no text.
        type: str
      owner:
        description: Numeric owner.
        type: int
        default: 0
      group:
        description: Numeric group.
        type: int
        default: 0
      mode:
        description: Mode, as an octal string.
        type: str
        default: "0640"
  directories:
    description: Directories that must exist.
    type: list
    elements: dict
    default: []
    suboptions:
      dest:
        description: Path on the host.
        type: path
        required: true
      owner:
        description: Numeric owner.
        type: int
        default: 0
      group:
        description: Numeric group.
        type: int
        default: 0
      mode:
        description: Mode, as an octal string.
        type: str
        default: "0750"
  prune:
    description: Directories below which everything is removed that is neither listed nor in O(keep).
    type: list
    elements: path
    default: []
  keep:
    description: Paths below O(prune) that somebody else manages.
    type: list
    elements: path
    default: []
  validate:
    description: How to validate trees before any file lands. A tree without a validator is not validated.
    type: list
    elements: dict
    default: []
    suboptions:
      tree:
        description: The tree to validate, one of O(trees[].dest).
        type: path
        required: true
      target:
        description: Where the staged tree is mounted in the container.
        type: path
        required: true
      image:
        description: The image to run.
        type: str
        required: true
      command:
        description: The command, as a list; the image's entrypoint is not used.
        type: list
        elements: str
        required: true
      user:
        description: Numeric user and group of the validator.
        type: int
        required: true
      mounts:
        description: More read-only mounts, each a dictionary with C(source) and C(target).
        type: list
        elements: dict
        default: []
      tmpfs:
        description: Scratch mounts, from target to options such as C(size=16m,mode=0700).
        type: dict
        default: {}
  units:
    description:
      - Units of systemd that must be started, and enabled where their file has an C([Install]) section.
      - In the order given, after the files have landed. systemd reads its units anew when one of their files has changed.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Render the configuration of the edge
  mcpstack.platform.config_tree:
    trees:
      - src: "{{ role_path }}/templates/config"
        dest: /etc/mcpstack/edge
        group: 64101
    validate:
      - tree: /etc/mcpstack/edge
        target: /etc/nginx
        image: mcpstack/nginx:0123456789ab
        command: [/usr/sbin/nginx, -t, -c, /etc/nginx/nginx.conf]
        user: 64101
"""

RETURN = r"""
changed_paths:
  description: Every path that was, or in check mode would be, created, updated or removed.
  returned: success
  type: list
  elements: str
  sample: [/etc/mcpstack/edge/nginx.conf]
validation:
  description:
    - By tree, V(passed) when the validator accepted the files, V(not_needed) when nothing in the tree differs.
    - V(unknown) when it could not run in check mode because the engine or the image is not there yet.
  returned: success
  type: dict
  sample: {/etc/mcpstack/edge: passed}
started:
  description: Units that were, or in check mode would be, started or enabled.
  returned: success
  type: list
  elements: str
  sample: [run-mcpstack-secrets.mount]
"""

import base64
import os
import tempfile

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mcpstack.platform.plugins.module_utils import _config_tree as core
from ansible_collections.mcpstack.platform.plugins.module_utils import _systemd_units
from ansible_collections.mcpstack.platform.plugins.module_utils._engine import Engine, EngineError, EngineUnavailable

STAGE_PARENT = "/etc/mcpstack"


def content(item: dict) -> bytes:
    """What a file shall hold."""
    if item["content_base64"] is not None:
        return base64.b64decode(item["content_base64"], validate=True)
    return (item["content"] or "").encode()


def refuse(module: AnsibleModule, error: OSError, what: str) -> None:
    """Fail because the disk does."""
    module.fail_json(
        msg=f"{error.filename or 'The configuration'}: cannot be written ({error.strerror}); {what}. Make room there, then run again."
    )


def validate(module: AnsibleModule, rules: dict, files: list[dict], directories: list[dict]) -> tuple[str, str]:
    """Run one validator on a staged copy: (validation, what it refused)."""
    engine = Engine()
    try:
        if module.check_mode and engine.image(rules["image"]) is None:
            return "unknown", ""
        missing = [mount["source"] for mount in rules["mounts"] if not os.path.exists(mount["source"])]
        if missing and module.check_mode:
            return "unknown", ""
        if missing:
            return "refused", f"Cannot validate {rules['tree']}: {', '.join(missing)} must exist first, but does not."
        parent = tempfile.gettempdir() if module.check_mode else STAGE_PARENT
        with core.Stage(rules["tree"], files, directories, parent) as staged:
            os.chown(staged, 0, rules["user"])
            os.chmod(staged, 0o750)
            result = engine.run(
                rules["image"],
                rules["command"][1:],
                entrypoint=rules["command"][:1],
                user=f"{rules['user']}:{rules['user']}",
                mounts=[{"source": staged, "target": rules["target"]}, *rules["mounts"]],
                tmpfs=rules["tmpfs"],
            )
    except EngineUnavailable as error:
        return ("unknown", "") if module.check_mode else ("refused", f"Cannot validate {rules['tree']}: {error}")
    except EngineError as error:
        return "refused", f"Cannot validate {rules['tree']}: {error}"
    if result.rc != 0:
        said = (result.stdout + result.stderr).decode(errors="replace").strip()
        return "refused", f"{rules['command'][0]} refuses the new files of {rules['tree']}. It says:\n{said}"
    return "passed", ""


def validate_all(module: AnsibleModule, changes: list, files: list[dict], directories: list[dict]) -> dict[str, str]:
    """What became of each tree; fails the module with everything that was refused."""
    found, refused = {}, []
    for rules in module.params["validate"]:
        touched = [c for c in changes if c.path.startswith(rules["tree"] + "/") and c.action != "attributes"]
        found[rules["tree"]] = "not_needed"
        if touched:
            found[rules["tree"]], said = validate(module, rules, files, directories)
            refused += [said] if said else []
    if refused:
        module.fail_json(msg="\n".join(["Nothing was changed.", *refused]), validation=found)
    return found


def main() -> None:
    """Run the module."""
    entry = {
        "dest": {"type": "path", "required": True},
        "owner": {"type": "int", "default": 0},
        "group": {"type": "int", "default": 0},
    }
    module = AnsibleModule(
        argument_spec={
            "trees": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {"src": {"type": "path", "required": True}, **entry},
            },
            "files": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "template": {"type": "path"},
                    "content": {"type": "str"},
                    "content_base64": {"type": "str"},
                    "mode": {"type": "str", "default": "0640"},
                    **entry,
                },
            },
            "directories": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {"mode": {"type": "str", "default": "0750"}, **entry},
            },
            "prune": {"type": "list", "elements": "path", "default": []},
            "keep": {"type": "list", "elements": "path", "default": []},
            "validate": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "tree": {"type": "path", "required": True},
                    "target": {"type": "path", "required": True},
                    "image": {"type": "str", "required": True},
                    "command": {"type": "list", "elements": "str", "required": True},
                    "user": {"type": "int", "required": True},
                    "mounts": {"type": "list", "elements": "dict", "default": []},
                    "tmpfs": {"type": "dict", "default": {}},
                },
            },
            "units": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    params = module.params
    if params["trees"] or any(item["template"] for item in params["files"]):
        module.fail_json(
            msg="Templates are rendered on the controller: call config_tree as a task, not as a bare module."
        )
    try:
        files = [{"path": item.pop("dest"), **item, "content": content(item)} for item in params["files"]]
    except ValueError as error:
        module.fail_json(msg=f"content_base64 of a file is not valid Base64: {error}")
    directories = [{"path": item.pop("dest"), **item} for item in params["directories"]]
    try:
        changes = core.plan(files, directories, params["prune"], params["keep"])
    except core.TreeError as error:
        lines = [f"{n}. {p['where']}: {p['what']}. Fix: {p['fix']}." for n, p in enumerate(error.problems, 1)]
        module.fail_json(msg="The configuration cannot be written; nothing was changed.\n" + "\n".join(lines))
    try:
        validation = validate_all(module, changes, files, directories)
    except OSError as error:
        refuse(module, error, "nothing was changed")
    diff, started = core.diff_of(changes), []
    if not module.check_mode:
        try:
            core.land(files, directories, changes)
        except OSError as error:
            refuse(module, error, "what runs was not touched")
    if params["units"]:
        try:
            started = _systemd_units.bring_up(
                params["units"], [change.path for change in changes], module.run_command, check=module.check_mode
            )
        except _systemd_units.UnitError as error:
            module.fail_json(msg=str(error), changed_paths=[change.path for change in changes])
        diff += [{"before_header": u, "after_header": u, "before": "stopped\n", "after": "started\n"} for u in started]
    module.exit_json(
        changed=bool(changes or started),
        changed_paths=[change.path for change in changes],
        validation=validation,
        started=started,
        diff=diff,
    )


if __name__ == "__main__":
    main()
