#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judge an nginx configuration."""

from __future__ import annotations

DOCUMENTATION = r"""
module: nginx_audit
author:
  - mcpstack.platform maintainers (@mcpstack)
version_added: 0.1.0
short_description: Judge an nginx configuration by what nginx makes of it
description:
  - Reads a configuration with everything that it includes, as nginx reads it, and decides every check of C(NGX) and C(TLS)
    that files can decide. Runs on the host where the configuration lies, with Python's standard library only.
  - Inheritance is judged as nginx does it. C(add_header), C(proxy_set_header), C(limit_req), C(limit_conn), C(access_log),
    C(allow) and C(deny) of an inner level replace the outer ones as a whole. Values are followed through C(map) and C(set),
    patterns are analysed without being run.
  - Certificates, keys and files of users are read where the configuration names them. Values of headers that may be secrets
    are not returned, and neither is any key.
  - What is not decided is C(unknown), never a pass. Code in Lua, Perl or JavaScript is not judged. What an upstream sends by
    itself is not seen. C(stream) and C(mail) are judged by C(NGX-06) only.
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
  path:
    description: Main file of the configuration.
    type: path
    default: /etc/nginx/nginx.conf
  prefix:
    description: Directory that relative paths of the configuration belong to. Without it the one of O(path).
    type: path
  mounts:
    description:
      - Where directories lie that the configuration names by another path, because a container mounts them. The key is the
        path in the configuration, the value the one on the host.
    type: dict
    default: {}
  ports:
    description:
      - Ports that are meant to be listened on beyond loopback (C(NGX-06)). Without it that check is not decided. An empty
        list means none.
    type: list
    elements: int
  protected_paths:
    description:
      - Paths that nobody may reach without authentication by nginx (C(NGX-13)), for example V(/admin/). With C(~) in front a
        regular expression for the names of locations. A service that asks for a key itself is not named here.
    type: list
    elements: str
    default: []
  private_paths:
    description: Paths that must not be handed on for everybody (C(NGX-11)), for example V(/metrics).
    type: list
    elements: str
    default: []
  streaming_paths:
    description:
      - Paths whose answers may take long. With this list a long C(proxy_read_timeout) anywhere else is a finding (C(NGX-07)).
        Without it that time is not judged.
    type: list
    elements: str
  server_names:
    description: Names that every certificate must cover besides those of C(server_name) (C(TLS-08)).
    type: list
    elements: str
    default: []
  max_body:
    description: Largest body of a request in bytes that C(client_max_body_size) may allow (C(NGX-08)).
    type: int
    default: 104857600
  tls_elsewhere:
    description: Another proxy in front ends TLS, so that nothing here has to.
    type: bool
    default: false
  behind_proxy:
    description: Another proxy in front tells the address of the client.
    type: bool
    default: false
  run_as_user:
    description:
      - Account that the master process is started as, when that is not root. Such a process cannot write to the compiled-in
        paths, and needs no C(user).
    type: str
  owners:
    description: Numeric ids of the users that configuration and keys may belong to.
    type: list
    elements: int
    default: [0]
  production:
    description: Whether a self-signed certificate is more than a note.
    type: bool
    default: false
  tls_profile:
    description: Profile of the Mozilla recommendations.
    type: str
    choices: [intermediate, modern]
    default: intermediate
  private_ca:
    description: Certificates come from a private authority and may be valid for 825 days.
    type: bool
    default: false
  nginx:
    description:
      - Path of an nginx program that tests a copy of the configuration (C(NGX-01)), and whose version is taken for
        O(nginx_version) and O(openssl_version).
      - In the copy names are C(127.0.0.1), addresses are free ports of loopback, and logs, temporary files and certificates
        are elsewhere, so that neither names have to resolve nor ports be free, and nothing of the real paths is written. A
        configuration that brings code along (modules from elsewhere, Perl, Lua, JavaScript) is not tested.
    type: path
  nginx_version:
    description: Version of nginx that will read the configuration, on which defaults depend.
    type: str
  openssl_version:
    description: Version of OpenSSL that this nginx runs with.
    type: str
seealso:
  - module: mcpstack.platform.tls_audit
"""

EXAMPLES = r"""
- name: Judge what this host serves
  mcpstack.platform.nginx_audit:
    nginx: /usr/sbin/nginx
    ports: [80, 443]
    protected_paths: [/admin/]

- name: Judge the configuration of a container, as it sees it
  mcpstack.platform.nginx_audit:
    path: /etc/mcpstack/edge/nginx.conf
    mounts:
      /etc/nginx: /etc/mcpstack/edge
      /run/tls: /var/lib/mcpstack/pki/leaves/edge
    ports: [8080, 8443, 8082]
    run_as_user: edge
    nginx_version: 1.26.3
    fail_at: high
"""

RETURN = r"""
findings:
  description: Every weakness, worst first.
  returned: always
  type: list
  elements: dict
  sample:
    - id: NGX-19
      title: Files outside the intended directory can be fetched
      severity: high
      subject: location /files of server app.example.org (443)
      where: /etc/nginx/conf.d/app.conf:31
      evidence: "alias /srv/files/ in location /files: /files../ leads one directory up"
      fix: End location and alias both with a slash, and name the directory of the site as root.
      references: [gixy alias_traversal, gixy filesystem_root_exposure, semgrep alias-path-traversal]
      waived:
checks_run:
  description: Every check, and whether it passed, failed, did not apply or could not be decided.
  returned: always
  type: list
  elements: dict
  sample:
    - id: NGX-19
      title: Files outside the intended directory can be fetched
      severity: high
      status: fail
      reason: ""
summary:
  description: Numbers of open findings by severity, of waived ones, and of checks by status.
  returned: always
  type: dict
  sample: {critical: 0, high: 1, medium: 0, low: 0, info: 0, open: 1, waived: 0, highest: high, checks_pass: 30,
           checks_fail: 1, checks_not_applicable: 3, checks_unknown: 1}
files:
  description: Every file of the configuration, in the order of reading.
  returned: when the main file can be read
  type: list
  elements: str
  sample: [/etc/nginx/nginx.conf, /etc/nginx/conf.d/app.conf]
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import LocalFiles, Unreadable
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_nginx import audit_tree
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_result import ARGUMENTS, finish
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_parse import parse
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_run import Policy
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_test import test, version


def _policy(options: dict) -> Policy:
    own = {
        "prefix": options["prefix"] or "",
        "mounts": {str(seen): str(lies) for seen, lies in options["mounts"].items()},
        "protected": tuple(options["protected_paths"]),
        "private": tuple(options["private_paths"]),
        "streaming": None if options["streaming_paths"] is None else tuple(options["streaming_paths"]),
        "ports": None if options["ports"] is None else tuple(options["ports"]),
        "server_names": tuple(options["server_names"]),
        "owners": tuple(options["owners"]),
    }
    same = ("max_body", "tls_elsewhere", "behind_proxy", "run_as_user", "production", "tls_profile", "private_ca")
    said = (None, None)
    if options["nginx"] and not (options["nginx_version"] and options["openssl_version"]):
        said = version(options["nginx"])
    return Policy(
        **own,
        **{name: options[name] for name in same},
        nginx_version=options["nginx_version"] or said[0],
        openssl_version=options["openssl_version"] or said[1],
    )


def main() -> None:
    """Run the module."""
    lists = ("protected_paths", "private_paths", "server_names")
    switches = ("tls_elsewhere", "behind_proxy", "production", "private_ca")
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "default": "/etc/nginx/nginx.conf"},
            "prefix": {"type": "path"},
            "mounts": {"type": "dict", "default": {}},
            "ports": {"type": "list", "elements": "int"},
            "streaming_paths": {"type": "list", "elements": "str"},
            **{name: {"type": "list", "elements": "str", "default": []} for name in lists},
            "max_body": {"type": "int", "default": 104857600},
            **{name: {"type": "bool", "default": False} for name in switches},
            "run_as_user": {"type": "str"},
            "owners": {"type": "list", "elements": "int", "default": [0]},
            "tls_profile": {"type": "str", "choices": ["intermediate", "modern"], "default": "intermediate"},
            "nginx": {"type": "path"},
            "nginx_version": {"type": "str"},
            "openssl_version": {"type": "str"},
            **ARGUMENTS,
        },
        supports_check_mode=True,
    )
    options = module.params
    for name in ("path", *(("prefix",) if options["prefix"] else ())):
        if not options[name].startswith("/"):
            module.fail_json(msg=f"{name}: {options[name]!r} is not an absolute path.")
    files, policy = LocalFiles(), _policy(options)
    try:
        tree = parse(files, options["path"], prefix=policy.prefix, mounts=policy.mounts)
    except Unreadable as error:
        module.fail_json(msg=str(error))
    tested = test(options["nginx"], tree) if options["nginx"] else None
    result = audit_tree(files, tree, policy, nginx_test=tested)
    finish(module, result, files=tree.files)


if __name__ == "__main__":
    main()
