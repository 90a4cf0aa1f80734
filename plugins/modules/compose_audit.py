#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: compose_audit
author:
  - mcpstack.platform maintainers (@mcpstack)
version_added: 0.1.0
short_description: Find the weaknesses of a Compose project, with file and line
description:
  - Loads one or more Compose files as Docker Compose merges them (overrides, C(extends), C(include), anchors, profiles,
    C(env_file), variables with their defaults) and judges every service of every profile. Works on any project; none of
    the roles of this collection is needed.
  - Decides what a file can decide of the checks CMP (containers), NET (networks), SEC (secrets) and IMG (images). What a
    file cannot tell, such as the user of an image that is not named in it, is reported as such and never as a pass.
  - Nothing is started, changed or asked of an engine or a registry. The value of a secret is in no result.
  - Runs on the controller, because the files are read with PyYAML. With O(remote_src) the files of the host are fetched,
    together with those they refer to.
extends_documentation_fragment:
  - mcpstack.platform.attributes
  - mcpstack.platform.audit
  - mcpstack.platform.container_policy
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  engine:
    description: What the engine does for a container that does not state it. What is left out is not known.
    type: dict
    suboptions:
      no_new_privileges:
        description: Whether containers cannot gain privileges.
        type: bool
      log_driver:
        description: Log driver.
        type: str
      log_options:
        description: Options of the log driver.
        type: dict
        default: {}
      userns_remap:
        description: Whether users are remapped.
        type: bool
  files:
    description:
      - Compose files, in the order in which Compose is given them.
      - Relative paths are looked for beside the playbook. With O(remote_src=true) paths are absolute.
    type: list
    elements: str
    required: true
  remote_src:
    description:
      - Whether the files are the host's. What is bound from the host is then looked for there, too.
    type: bool
    default: false
  project_directory:
    description: Directory of the project, without it that of the first file.
    type: str
  env_files:
    description: Files with variables for the compose files, instead of C(.env) in the directory of the project.
    type: list
    elements: str
  environment:
    description:
      - Variables of the environment in which Compose is run. They win over those of files.
      - The environment of Ansible itself is never used.
    type: dict
    default: {}
  profiles:
    description:
      - Judge only the services that these profiles start. An empty list means those without a profile.
      - Without it every service is judged, and the project has to load with no profile, each one alone and all together.
    type: list
    elements: str
  allowed_registries:
    description: Registries or repositories from which images may come, for example V(registry.example.org/team).
    type: list
    elements: str
    default: []
seealso:
  - module: mcpstack.platform.audit_files
"""

EXAMPLES = r"""
- name: Judge a project before it is copied anywhere
  mcpstack.platform.compose_audit:
    files: [compose.yml, compose.prod.yml]
    edge_services: [proxy]
    fail_at: high

- name: Judge what lies on a host, with one weakness accepted until the end of the year
  mcpstack.platform.compose_audit:
    files: [/srv/app/compose.yml]
    remote_src: true
    declared_ports:
      - port: 8443
        address: 192.0.2.10
    waivers:
      - id: CMP-08
        subject: service cache
        reason: writes its cache beside the program
        expires: "2099-12-31"
"""

RETURN = r"""
findings:
  description: Every weakness, worst first.
  returned: always
  type: list
  elements: dict
  sample:
    - id: CMP-21
      title: Reaches a container engine's socket
      severity: critical
      subject: service proxy
      where: /srv/app/compose.yml:12
      evidence: /var/run/docker.sock:/var/run/docker.sock:ro
      fix: Remove the mount; where an API is needed put a declared socket proxy with an allow-list in front.
      references: [CIS Docker 5.32, OWASP Docker 1, NIST SP 800-190 4.5.5, compose-lint CL-0001]
      waived:
checks_run:
  description: Every check, and whether it passed, failed, did not apply or could not be decided.
  returned: always
  type: list
  elements: dict
  sample:
    - id: CMP-21
      title: Reaches a container engine's socket
      severity: critical
      status: fail
      reason: ""
summary:
  description: Numbers of open findings by severity, of waived ones, and of checks by status.
  returned: always
  type: dict
  sample: {critical: 1, high: 0, medium: 0, low: 0, info: 0, open: 1, waived: 0, highest: critical, checks_pass: 41,
           checks_fail: 1, checks_not_applicable: 7, checks_unknown: 0}
"""
