#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judge env files and directories of secrets."""

from __future__ import annotations

DOCUMENTATION = r"""
module: env_audit
author:
  - mcpstack.platform maintainers (@mcpstack)
version_added: 0.1.0
short_description: Judge env files and directories of secrets
description:
  - Decides C(SEC-01), C(SEC-02), C(SEC-04) to C(SEC-09) and C(SEC-13) to C(SEC-15), as far as files tell. Works on any env
    file and any directory with one secret in a file, also on the layout C(SERVICE/NAME/current) of
    M(mcpstack.platform.secret).
  - Placeholders and defaults come first, then the strength, as the number of guesses that the algorithm of zxcvbn
    estimates. Kinds of characters are never counted.
  - A value is never returned, logged or part of a message. Values are compared by a digest whose key lives for one run.
  - Nothing is changed, and nothing is run. Git's index and ignore files are read without git.
  - What passes. A variable that ends in C(_FILE), a reference to another variable, a path, a switch; an empty variable of
    an env file; a template such as C(.env.example) that holds placeholders; an env file without any secret that everybody
    may read; the same secret given to several services under one name.
  - What is not decided. The ignore list that a person keeps for all of their repositories is not known. Compressed archives
    are not opened. A word of a language that the lists do not know counts by its characters. Of a file that is a link, the
    directories above its target are not judged. Images are judged by M(mcpstack.platform.docker_audit).
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
  env_files:
    description: Env files.
    type: list
    elements: path
    default: []
  secret_directories:
    description: Directories in which every file is a secret, at any depth. Certificates and public keys in them are not judged.
    type: list
    elements: path
    default: []
  consumers:
    description: Who reads the secrets, for C(SEC-09). Without it the uid of a secret's reader is not known.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: A secret file, or a directory for all that lies in it. The nearest one counts.
        type: path
        required: true
      uid:
        description: The uid that the service runs as.
        type: int
        required: true
  search:
    description:
      - Files and directories where variables are consumed, for C(SEC-14), such as the compose files, templates and scripts of
        the project. What they say about who reads an env file also counts for C(SEC-13).
      - Comments, prose and other env files consume nothing.
    type: list
    elements: path
    default: []
  readers:
    description:
      - Programs that read the env files. C(SEC-13) reports the lines on which they disagree. V(compose) is Compose, V(docker)
        is C(docker run --env-file), V(systemd) is C(EnvironmentFile), V(shell) is C(source).
      - On a line with a credential V(compose), V(systemd) and V(shell) have to agree, whatever is named here.
    type: list
    elements: str
    choices: [compose, docker, systemd, shell]
    default: [compose]
  vcs_root:
    description: A work tree of git. Its index is searched for env files with secrets and for private keys.
    type: path
  context:
    description: Names that somebody who guesses tries first, such as the name of the company or of the product.
    type: list
    elements: str
    default: []
  logs:
    description: Logs and dumps, or directories with them, that are searched for the values of the secrets.
    type: list
    elements: path
    default: []
  manifest:
    description: The list of secrets that M(mcpstack.platform.secret) keeps, for the age of each.
    type: path
  max_age_days:
    description: How many days old a secret in O(manifest) may be. Without it the age is not judged.
    type: int
"""

EXAMPLES = r"""
- name: Judge the env file of any project
  mcpstack.platform.env_audit:
    env_files: [/srv/app/.env]
    search: [/srv/app]
    context: [acme]
    fail_at: high

- name: Judge the published secrets of the platform
  mcpstack.platform.env_audit:
    secret_directories: [/run/mcpstack/secrets]
    consumers:
      - {path: /run/mcpstack/secrets/gateway, uid: 64102}
      - {path: /run/mcpstack/secrets/valkey, uid: 64105}
    manifest: /etc/mcpstack/secrets.json
    max_age_days: 365
"""

RETURN = r"""
findings:
  description: Every weakness, worst first. No finding holds a value.
  returned: always
  type: list
  elements: dict
  sample:
    - id: SEC-04
      title: Placeholder or default instead of a secret
      severity: critical
      subject: /srv/app/.env
      where: /srv/app/.env:7
      evidence: DB_PASSWORD is a placeholder
      fix: Generate a value, for example with openssl rand -hex 32, and start the service with it.
      references: [NIST SP 800-63B 3.1.1.2]
      waived:
checks_run:
  description: Every check with its status, and why when it could not be decided.
  returned: always
  type: list
  elements: dict
  sample:
    - id: SEC-04
      title: Placeholder or default instead of a secret
      severity: critical
      status: fail
      reason: ""
summary:
  description: Numbers of open findings by severity and of checks by status.
  returned: always
  type: dict
  sample: {critical: 1, high: 0, medium: 0, low: 0, info: 0, open: 1, waived: 0, highest: critical, checks_pass: 8,
           checks_fail: 1, checks_not_applicable: 1, checks_unknown: 1}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mcpstack.platform.plugins.module_utils import _audit_env as core
from ansible_collections.mcpstack.platform.plugins.module_utils import _audit_result as doors
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import LocalFiles
from ansible_collections.mcpstack.platform.plugins.module_utils._env_parse import READERS

ARGUMENTS = {
    "env_files": {"type": "list", "elements": "path", "default": []},
    # The names of these options look like secrets and are paths.
    "secret_directories": {"type": "list", "elements": "path", "default": [], "no_log": False},
    "consumers": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {"path": {"type": "path", "required": True}, "uid": {"type": "int", "required": True}},
    },
    "search": {"type": "list", "elements": "path", "default": []},
    "readers": {"type": "list", "elements": "str", "choices": list(READERS), "default": ["compose"]},
    "vcs_root": {"type": "path"},
    "context": {"type": "list", "elements": "str", "default": []},
    "logs": {"type": "list", "elements": "path", "default": []},
    "manifest": {"type": "path"},
    "max_age_days": {"type": "int"},
}
PATHS = ("env_files", "secret_directories", "search", "logs")


def relative(params: dict) -> list[str]:
    """Every path that is not absolute, with its option."""
    named = [(option, path) for option in PATHS for path in params[option]]
    named += [("consumers.path", entry["path"]) for entry in params["consumers"]]
    named += [(option, params[option]) for option in ("vcs_root", "manifest") if params[option]]
    return [f"{option}: {path!r} is not an absolute path" for option, path in named if not path.startswith("/")]


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec={**ARGUMENTS, **doors.ARGUMENTS}, supports_check_mode=True)
    params = module.params
    wrong = relative(params)
    if not params["env_files"] and not params["secret_directories"]:
        wrong.append("env_files and secret_directories are both empty, so there is nothing to judge")
    if params["max_age_days"] is not None and params["max_age_days"] < 1:
        wrong.append("max_age_days is below 1")
    if params["max_age_days"] is not None and not params["manifest"]:
        wrong.append("max_age_days needs manifest, which knows when a secret was made")
    if wrong:
        module.fail_json(msg="; ".join(wrong) + ".", findings=[], checks_run=[], summary={})
    result = core.audit(
        LocalFiles(),
        **{name: params[name] for name in ARGUMENTS if name != "consumers"},
        consumers={entry["path"]: entry["uid"] for entry in params["consumers"]},
    )
    doors.finish(module, result)


if __name__ == "__main__":
    main()
