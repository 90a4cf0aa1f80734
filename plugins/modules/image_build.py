#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build container images from signed Debian packages."""

from __future__ import annotations

DOCUMENTATION = r"""
module: image_build
short_description: Build container images from signed Debian packages
version_added: 0.1.0
author:
  - mcpstack.platform maintainers (@mcpstack)
description:
  - Builds bit-for-bit reproducible image archives for C(docker load) from specifications and lock files, without a
    container engine, without root and without running maintainer scripts.
  - Every image comes with a CycloneDX bill of materials next to its archive.
  - An image whose input did not change since it was built into the same cache is left alone, without any network.
  - Specifications, locks, first-party sources and the keyring are read on the controller; everything else happens on
    the host the task runs on, the build host.
  - It finds a Debian mirror in the package sources of the build host, with the proxy and certificates that apt uses.
requirements:
  - Python 3.10 or newer on the build host
  - C(gpgv) or C(sqv) on the build host for O(mode=resolve) and O(mode=check)
  - pip (or C(uv)) on the build host for images with Python packages
extends_documentation_fragment:
  - mcpstack.platform.attributes
attributes:
  check_mode:
    support: full
    details: Nothing is fetched or written; RV(images) tells what would be built.
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  specs:
    description: Directory on the controller with C(NAME.yml) and C(NAME.lock.json).
    type: path
    required: true
  services:
    description:
      - Directory on the controller with the first-party sources, C(requirements.lock) and C(src/).
      - Needed when a wanted image installs Python packages.
    type: path
  keyring:
    description: OpenPGP keyring on the controller with the keys that sign the Debian archive.
    type: path
    required: true
  wanted:
    description: Names of the images; all specifications when empty.
    type: list
    elements: str
    default: []
  mode:
    description:
      - V(locked) builds exactly the packages of the lock files, each checked against its sha256.
      - V(resolve) writes new lock files with the newest signed versions on the controller, then builds.
      - V(check) compares the lock files with the newest signed indices and builds nothing.
    type: str
    choices: [locked, resolve, check]
    default: locked
  cache_dir:
    description: Directory on the build host for packages, archives and bills of materials.
    type: path
    default: ~/.cache/mcpstack/images
  mirror:
    description: Base URL of a Debian mirror; found in the build host's package sources when not set.
    type: str
  security_mirror:
    description: Base URL of a mirror of the Debian security archive; found like O(mirror) when not set.
    type: str
  snapshot:
    description: Base URL of a snapshot service that is asked for packages no mirror holds any more.
    type: str
  bundle:
    description: What was read on the controller. Filled in by this module's action; not for playbooks.
    type: dict
"""

EXAMPLES = r"""
- name: Build the images on the controller
  mcpstack.platform.image_build:
    specs: "{{ role_path }}/specs"
    services: "{{ role_path }}/../../services"
    keyring: "{{ role_path }}/files/debian-archive-keyring.pgp"
    wanted: [nginx, postgres]
  delegate_to: localhost
  become: false
  run_once: true

- name: Look for pending security updates
  mcpstack.platform.image_build:
    specs: "{{ role_path }}/specs"
    keyring: "{{ role_path }}/files/debian-archive-keyring.pgp"
    mode: check
  delegate_to: localhost
  become: false
  run_once: true
"""

RETURN = r"""
images:
  description: The wanted images, in the order asked for.
  returned: success, unless O(mode=check)
  type: list
  elements: dict
  contains:
    name:
      description: Name of the specification.
      type: str
      returned: always
      sample: nginx
    ref:
      description:
        - Reference of the image once loaded.
        - V(mcpstack/NAME:unbuilt) in check mode, where the image is not built and its lock does not tell the id.
      type: str
      returned: always
      sample: mcpstack/nginx:d590279b6468
    id:
      description: Image id (digest of its configuration); empty when not known in check mode.
      type: str
      returned: always
    layers:
      description: Digests of the uncompressed layers, by which any engine's store can compare.
      type: list
      elements: str
      returned: always
    archive:
      description: Path of the archive on the build host; empty when not built in check mode.
      type: str
      returned: always
    archive_sha256:
      description: Checksum of the archive.
      type: str
      returned: when built
    archive_size:
      description: Size of the archive in bytes.
      type: int
      returned: when built
    size:
      description: Uncompressed size of the layers in bytes.
      type: int
      returned: when built
    created:
      description: Time stamp inside the image, that of its newest package.
      type: str
      returned: when built
    sbom:
      description: Path of the CycloneDX document on the build host.
      type: str
      returned: when built
    packages:
      description: Number of Debian packages and Python wheels in the image.
      type: int
      returned: when built
    built:
      description: Whether this call built it (in check mode, whether it would).
      type: bool
      returned: always
    expected_id:
      description: The id that the lock file promises for exactly this input, if it does.
      type: str
      returned: when built
refs:
  description: Reference of every wanted image by name.
  returned: success, unless O(mode=check)
  type: dict
  sample: {nginx: "mcpstack/nginx:d590279b6468"}
locks:
  description: The new lock files by name; the action has written them on the controller.
  returned: O(mode=resolve)
  type: dict
pending:
  description: Locked packages of which the signed indices hold a newer version.
  returned: O(mode=check)
  type: list
  elements: dict
  sample: [{image: nginx, package: nginx, locked: "1", newest: "2", suite: trixie-security, security: true}]
progress:
  description: What was done, one line each.
  returned: always
  type: list
  elements: str
"""

import base64
import os
import tempfile

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._image_build import REPOSITORY, Builder, Job, promised_lock
from ..module_utils._image_errors import ImageError


def _planned(job, image):
    """What check mode can say of an image."""
    if image:
        return image
    promised = job.expected() or {"ref": f"{REPOSITORY}/{job.name}:unbuilt", "id": ""}
    return {"name": job.name, "ref": promised["ref"], "id": promised["id"], "layers": [], "archive": "", "built": True}


def main():
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "specs": {"type": "path", "required": True},
            "services": {"type": "path"},
            "keyring": {"type": "path", "required": True, "no_log": False},
            "wanted": {"type": "list", "elements": "str", "default": []},
            "mode": {"type": "str", "choices": ["locked", "resolve", "check"], "default": "locked"},
            "cache_dir": {"type": "path", "default": "~/.cache/mcpstack/images"},
            "mirror": {"type": "str"},
            "security_mirror": {"type": "str"},
            "snapshot": {"type": "str"},
            "bundle": {"type": "dict"},
        },
        supports_check_mode=True,
    )
    bundle = module.params["bundle"]
    if bundle is None:
        module.fail_json(
            msg="image_build runs through its action plugin only: call it as mcpstack.platform.image_build."
        )
    progress = []
    try:
        specs, locks = bundle["specs"], bundle["locks"]
        sources = {path: base64.b64decode(data) for path, data in bundle["sources"].items()}
        names = module.params["wanted"] or sorted(specs)
        with tempfile.TemporaryDirectory(dir=module.tmpdir) as scratch:
            keyring = os.path.join(scratch, os.path.basename(module.params["keyring"]))
            with open(keyring, "wb") as handle:
                handle.write(base64.b64decode(bundle["keyring"]))
            settings = {key: module.params[key] for key in ("mirror", "security_mirror", "snapshot")}
            builder = Builder(module.params["cache_dir"], keyring, report=progress.append, **settings)
            result = {"changed": False, "progress": progress}
            if module.params["mode"] == "check":
                result["pending"] = builder.check(names, specs, locks)
            else:
                if module.params["mode"] == "resolve" and not module.check_mode:
                    old, locks = locks, {**locks, **builder.resolve(names, specs)}
                if module.check_mode:
                    images = [_planned(*step) for step in builder.plan(names, specs, locks, sources)]
                else:
                    images = builder.build(names, specs, locks, sources)
                if module.params["mode"] == "resolve" and not module.check_mode:
                    result["locks"] = {
                        image["name"]: promised_lock(
                            locks[image["name"]], Job(image["name"], specs, locks, sources), image
                        )
                        for image in images
                    }
                    result["changed"] = any(old.get(name) != lock for name, lock in result["locks"].items())
                result["images"] = images
                result["refs"] = {image["name"]: image["ref"] for image in images}
                result["changed"] = result["changed"] or any(image["built"] for image in images)
            for warning in builder.warnings:
                module.warn(warning)
            module.exit_json(**result)
    except ImageError as exc:
        module.fail_json(msg=str(exc), progress=progress)


if __name__ == "__main__":
    main()
