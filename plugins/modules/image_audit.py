#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: image_audit
author:
  - mcpstack.platform maintainers (@mcpstack)
version_added: 0.1.0
short_description: Judge container images by what is in them
description:
  - Reads archives of C(docker save) and of the OCI image layout, or images out of an engine, and decides the checks
    C(IMG-01) and C(IMG-04) to C(IMG-10), and what C(SEC-08) and C(SEC-15) ask of an image. It needs no registry, no
    root and no program beside Python, and runs nothing of the image.
  - An archive is read once, as a stream, in bounded memory, and nothing of it is unpacked to disk. Archives that are made to
    do harm are named as such. Layers packed with zstd are not read; the checks that need them are then unknown.
  - Judges which user the image runs as, by its own C(/etc/passwd); its health check; programs with set-user-id,
    set-group-id or file capabilities; shells, package managers, sudo and package lists; what its history shows; secrets
    in environment, labels, history and files; its platform; whether it is what a lock file promises; whether a bill of
    materials, provenance or a signature is there.
  - Compares Debian packages with the signed indices of their release, and Python packages with the package index that
    pip of this host is configured for. Each source says V(checked) or V(unavailable). One that does not answer leaves
    C(IMG-09) unknown; no number is given for it. That no known vulnerability was found is never a proof that there is none.
  - What a program that is not installed as a package brings along is not judged, nor are packages of other
    distributions than Debian. The date of an image is not judged, because reproducible images carry that of their
    newest package.
extends_documentation_fragment:
  - mcpstack.platform.attributes
  - mcpstack.platform.audit
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  archives:
    description: Archives on this host. Every image in them is judged.
    type: list
    elements: path
  images:
    description: Images in the engine, by name or id.
    type: list
    elements: str
  dockerfiles:
    description:
      - Dockerfiles on this host. C(IMG-01) and C(IMG-02) of their bases, C(IMG-04), C(IMG-05), C(IMG-07) and C(SEC-15) are decided of them; user and health
        check are those of the last stage.
    type: list
    elements: path
  socket:
    description: The engine's socket, for O(images).
    type: path
    default: /var/run/docker.sock
  lock:
    description:
      - Lock file that the image was built from, or a directory with one C(NAME.lock.json) for each image. Without it
        C(IMG-01) does not apply.
    type: path
  sbom:
    description:
      - Bill of materials of the image, as CycloneDX or SPDX in JSON. Without it C(ARCHIVE.cdx.json) beside an archive is
        looked for, and what is in the image or attested.
    type: path
  allow:
    description:
      - What is meant to be so. V(no_health_check) says that the health check is the compose file's, where CMP-15 and
        CMP-16 judge it.
    type: list
    elements: str
    choices: [shell, package_manager, no_health_check]
    default: []
  platform:
    description: Platform that must be the image's, for example V(linux/amd64). For O(images) that of the engine.
    type: str
  no_new_privileges:
    description:
      - Every container of the images runs with no-new-privileges, so that set-user-id programs give nothing and count as
        low. An engine that has this as its default says so by itself.
    type: bool
    default: false
  sources:
    description: Whom to ask about known weaknesses. What is not asked leaves C(IMG-09) unknown.
    type: list
    elements: str
    choices: [debian, python]
    default: [debian, python]
  keyring:
    description: Keyring of the Debian archive on this host. Without it that of the package debian-archive-keyring.
    type: path
  mirror:
    description: Debian mirror. Without it those of this host's own package sources.
    type: str
  security_mirror:
    description: Mirror of the security archive.
    type: str
  package_index:
    description: Python package index, as pip is given it. Without it the one that pip of this host is configured for.
    type: str
  cache_dir:
    description: Where verified indices are kept for the next call. Without it they are fetched every time.
    type: path
  max_size:
    description: How many GiB an archive may unpack to before it is refused.
    type: int
    default: 32
"""

EXAMPLES = r"""
- name: Judge an archive before it is loaded
  mcpstack.platform.image_audit:
    archives: [/srv/images/app.tar]
    lock: /srv/images/app.lock.json
    fail_at: high

- name: Judge how an image will be built
  mcpstack.platform.image_audit:
    dockerfiles: [/srv/app/Dockerfile]

- name: Judge what the engine runs, without asking anybody on the network
  mcpstack.platform.image_audit:
    images: [shop/worker:3.2, postgres:17.6]
    sources: []
    allow: [shell, package_manager]
"""

RETURN = r"""
findings:
  description: Weaknesses, worst first.
  returned: always
  type: list
  elements: dict
  sample:
    - id: IMG-04
      title: Image runs as root
      severity: high
      subject: shop/worker:3.2
      where: config.User
      evidence: is empty, which is root
      fix: End the Dockerfile with USER and a number above 0, and give that user the directories it writes to.
      references: [CIS Docker 4.1, OWASP Docker 2]
      waived:
checks_run:
  description: What became of every check.
  returned: always
  type: list
  elements: dict
  sample:
    - id: IMG-09
      title: Image lacks security updates
      severity: medium
      status: unknown
      reason: "shop/worker:3.2: Python package index: pip of this host has no index; set package_index"
summary:
  description: Numbers of open findings by severity, and of checks by status.
  returned: always
  type: dict
  sample: {"critical": 0, "high": 1, "open": 1, "waived": 0, "highest": high, "checks_pass": 6, "checks_unknown": 1}
images:
  description: What was judged, and what each source said of it.
  returned: always
  type: list
  elements: dict
  sample:
    - subject: shop/worker:3.2
      id: sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
      layers: 4
      sources:
        - name: Debian security archive
          state: checked
          detail: 88 packages compared, 0 with a pending security update
        - name: Python package index
          state: unavailable
          detail: pip of this host has no index; set package_index
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mcpstack.platform.plugins.module_utils import _image_door as core
from ansible_collections.mcpstack.platform.plugins.module_utils import _image_updates as updates
from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_dockerfile import TABLE as DOCKERFILE_TABLE
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_dockerfile import audit_dockerfile
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import LocalFiles
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_image import TABLE, Wanted
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_result import ARGUMENTS, finish
from ansible_collections.mcpstack.platform.plugins.module_utils._engine import Engine


def sources(params: dict) -> tuple:
    """Whom the audit may ask, by kind of package."""
    debian = updates.Debian(params["keyring"], params["mirror"], params["security_mirror"], params["cache_dir"])
    python = updates.Python(params["package_index"])
    judges = {"debian": debian.judge, "python": lambda packages, _release: python.judge(packages)}
    return tuple((name, judges[name]) for name in params["sources"])


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "archives": {"type": "list", "elements": "path"},
            "images": {"type": "list", "elements": "str"},
            "dockerfiles": {"type": "list", "elements": "path"},
            "socket": {"type": "path", "default": "/var/run/docker.sock"},
            "lock": {"type": "path"},
            "sbom": {"type": "path"},
            "allow": {
                "type": "list",
                "elements": "str",
                "choices": ["shell", "package_manager", "no_health_check"],
                "default": [],
            },
            "platform": {"type": "str"},
            "no_new_privileges": {"type": "bool", "default": False},
            "sources": {
                "type": "list",
                "elements": "str",
                "choices": ["debian", "python"],
                "default": ["debian", "python"],
            },
            "keyring": {"type": "path", "no_log": False},
            "mirror": {"type": "str"},
            "security_mirror": {"type": "str"},
            "package_index": {"type": "str"},
            "cache_dir": {"type": "path"},
            "max_size": {"type": "int", "default": 32},
            **ARGUMENTS,
        },
        required_one_of=[("archives", "images", "dockerfiles")],
        supports_check_mode=True,
    )
    params = module.params
    settings = core.Settings(
        lock=params["lock"] or "",
        sbom=params["sbom"] or "",
        wanted=Wanted(
            allow=frozenset(params["allow"]),
            platform=params["platform"] or "",
            no_new_privileges=params["no_new_privileges"],
            sources=sources(params),
        ),
        budget=max(params["max_size"], 1) << 30,
    )
    # a Dockerfile alone says nothing of files and packages, and is not asked about them
    table = {
        **(TABLE if params["archives"] or params["images"] else {}),
        **(DOCKERFILE_TABLE if params["dockerfiles"] else {}),
    }
    audit, files, told = Audit(table), LocalFiles(), []
    try:
        for path in params["dockerfiles"] or ():
            audit_dockerfile(audit, path, files)
        for path in params["archives"] or ():
            told += core.from_file(audit, path, settings, files)
        engine = Engine(params["socket"])
        for name in params["images"] or ():
            told += core.from_engine(audit, engine, name, settings, files)
    except core.DoorError as error:
        empty = Audit(table).result()
        module.fail_json(msg=f"The image cannot be judged: {error}", images=told, **empty)
    finish(module, audit.result(), images=told)


if __name__ == "__main__":
    main()
