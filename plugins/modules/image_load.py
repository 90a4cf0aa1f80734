#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring container images to a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: image_load
short_description: Bring container images to a host, transferring only what is missing
version_added: 0.1.0
author:
  - mcpstack.platform maintainers (@mcpstack)
description:
  - Finds out which images the Docker engine of the host lacks, brings their archives over, loads them and verifies
    that the engine then has exactly the wanted image.
  - An archive is checked against its sha256 on the host before it is loaded, and removed again after a transfer.
  - Needs nothing on the host but Python and the engine.
extends_documentation_fragment:
  - mcpstack.platform.attributes
attributes:
  check_mode:
    support: full
    details: On a host without an engine all images are reported as to be loaded.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  images:
    description: The wanted images, as RV(mcpstack.platform.image_build#module:images) gives them.
    type: list
    elements: dict
    required: true
    suboptions:
      ref:
        description: Reference, V(NAME:TAG), or V(NAME@sha256:DIGEST) with O(images[].pull).
        type: str
        required: true
      id:
        description: Image id.
        type: str
        default: ''
      layers:
        description: Digests of the uncompressed layers; what engines with the containerd image store are compared by.
        type: list
        elements: str
        default: []
      archive:
        description: Path of the archive, on the host that O(archives_on) names.
        type: str
        default: ''
      archive_sha256:
        description: Checksum of the archive.
        type: str
      pull:
        description: Pull the reference from its registry; it must be a digest.
        type: bool
        default: false
  archives_on:
    description: Where the archives are; V(controller) transfers the missing ones, V(target) reads them in place.
    type: str
    choices: [controller, target]
    default: controller
  prune:
    description: Remove other tags of the same image names that no container uses.
    type: bool
    default: false
  socket:
    description: Socket of the Docker engine.
    type: path
    default: /var/run/docker.sock
"""

EXAMPLES = r"""
- name: Bring the images to the host
  mcpstack.platform.image_load:
    images: "{{ built.images }}"

- name: Pull a pinned image instead
  mcpstack.platform.image_load:
    images:
      - ref: registry.example.com/nginx@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
        pull: true
"""

RETURN = r"""
loaded:
  description: References that were (in check mode, would be) brought to the host.
  returned: success
  type: list
  elements: str
  sample: [mcpstack/nginx:d590279b6468]
removed:
  description: References that were (in check mode, would be) removed.
  returned: success
  type: list
  elements: str
ids:
  description: Id that the engine gives to each wanted image that it has, by reference.
  returned: success
  type: dict
  sample: {"mcpstack/nginx:d590279b6468": "sha256:0f2d"}
others:
  description: Other tags of the same image names that the host had at the end, used or not.
  returned: success
  type: list
  elements: str
  sample: [mcpstack/nginx:0badc0ffee00]
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._engine import Engine, EngineError
from ..module_utils._image_errors import ImageError
from ..module_utils._image_store import absent, bring, check_wanted, ids, others, outdated, prune


def main():
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "images": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "ref": {"type": "str", "required": True},
                    "id": {"type": "str", "default": ""},
                    "layers": {"type": "list", "elements": "str", "default": []},
                    "archive": {"type": "str", "default": ""},
                    "archive_sha256": {"type": "str"},
                    "pull": {"type": "bool", "default": False},
                },
            },
            "archives_on": {"type": "str", "choices": ["controller", "target"], "default": "controller"},
            "prune": {"type": "bool", "default": False},
            "socket": {"type": "path", "default": "/var/run/docker.sock"},
        },
        supports_check_mode=True,
    )
    images = module.params["images"]
    engine = Engine(module.params["socket"])
    try:
        if not module.check_mode:
            check_wanted(images)
            engine.version()  # without an engine nothing can be brought: say so first
        missing = absent(engine, images)
        loaded = [image["ref"] for image in missing]
        removed = []
        if not module.check_mode:
            for image in missing:
                bring(engine, image)
        if module.params["prune"]:
            removed = outdated(engine, images)
            if not module.check_mode:
                removed = prune(engine, removed)
        module.exit_json(
            changed=bool(loaded or removed),
            loaded=loaded,
            removed=removed,
            ids=ids(engine, images),
            others=others(engine, images),
            diff={
                "before": "".join(f"{ref}\n" for ref in removed),
                "after": "".join(f"{ref}\n" for ref in loaded),
            },
        )
    except (ImageError, EngineError) as exc:
        module.fail_json(msg=str(exc))


if __name__ == "__main__":
    main()
