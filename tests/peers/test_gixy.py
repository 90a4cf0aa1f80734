# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""nginx_audit against gixy-ng: small weak configurations, and the edge that the role renders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import MemoryFiles
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_nginx import audit
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_run import Policy
from ansible_collections.mcpstack.platform.tests.peers import nginx_cases
from ansible_collections.mcpstack.platform.tests.peers.conftest import BIN, call, ledger, settle
from ansible_collections.mcpstack.platform.tests.render import test_audit_nginx_mutation as edge
from ansible_collections.mcpstack.platform.tests.render.conftest import Role

#: Our checks that decide what a plugin of theirs decides.
OURS = {
    "add_header_content_type": {"NGX-18"}, "add_header_multiline": {"NGX-18"}, "add_header_redefinition": {"NGX-18", "TLS-07"},
    "alias_traversal": {"NGX-19"}, "allow_without_deny": {"NGX-12"}, "default_server_flag": {"NGX-05"}, "error_log_off": {"NGX-14"},
    "filesystem_root_exposure": {"NGX-19"}, "hash_without_default": {"NGX-22"}, "host_spoofing": {"NGX-20"},
    "hsts_header": {"TLS-07"}, "http2_misdirected_request": {"TLS-13"}, "http_splitting": {"NGX-20"}, "if_is_evil": {"NGX-22"},
    "invalid_regex": {"NGX-22"}, "low_keepalive_requests": {"NGX-07"}, "missing_resolver": {"NGX-21"}, "nginx_cves": set(),
    "origins": {"NGX-20"}, "proxy_pass_normalized": {"NGX-21"}, "quic_bpf_reuseport": set(), "regex_exact_match": set(),
    "regex_redos": {"NGX-22"}, "resolver_external": {"NGX-21"}, "return_bypasses_allow_deny": {"NGX-12"}, "ssl_ecdh_curve": {"TLS-04"},
    "ssl_stapling_letsencrypt": {"TLS-12"}, "ssl_stapling_without_resolver": {"TLS-12"}, "ssrf": {"NGX-20"},
    "status_page_exposed": {"NGX-11"}, "try_files_is_evil_too": {"NGX-22"}, "unanchored_regex": {"NGX-22"}, "valid_referers": {"NGX-20"},
    "version_disclosure": {"NGX-02"}, "weak_ssl_tls": {"TLS-02", "TLS-03", "TLS-05"}, "worker_rlimit_nofile_vs_connections": {"NGX-10"},
}  # fmt: skip
COMPARED = set().union(*OURS.values())
POLICY = Policy(run_as_user="nginx", nginx_version="1.26.3", modes=False)


def scan(root: Path, names: list[str]) -> dict[str, set[str]]:
    """Plugins of gixy that find something in NAME/nginx.conf below root, by name."""
    paths = [str(root / name / "nginx.conf") for name in names]
    found: dict[str, set[str]] = {name: set() for name in names}
    for item in json.loads(call("gixy", "-f", "json", *paths, codes=(0, 1))):
        found[Path(item["path"]).parent.name].add(item["plugin"])
    return found


def compare(theirs: set[str], ours: set[str]) -> tuple[set[str], set[str]]:
    said = set().union(*(OURS[plugin] for plugin in theirs))
    return {plugin for plugin in theirs if not OURS[plugin] & ours}, (ours & COMPARED) - said


@pytest.fixture(scope="module")
def differences(tmp_path_factory) -> dict[str, tuple[set[str], set[str]]]:
    root = tmp_path_factory.mktemp("gixy")
    texts = nginx_cases.files()
    cases = dict(zip(map(str, range(len(texts))), texts))
    for number, name in cases.items():
        (root / number).mkdir()
        (root / number / "nginx.conf").write_text(texts[name])
    found = {}
    for number, theirs in scan(root, list(cases)).items():
        files = MemoryFiles({"/c/nginx.conf": texts[cases[number]]})
        mine = {item["id"] for item in audit(files, "/c/nginx.conf", POLICY)["findings"]}
        found[cases[number]] = compare(theirs, mine)
    for name, options in (("edge", edge.REQUIRED), ("edge-with-other-options", edge.ALTERNATIVE)):
        files = Role("edge", options).files()
        for path, body in files.items():
            target = root / name / path
            target.parent.mkdir(parents=True, exist_ok=True)
            # gixy reads includes from the machine it runs on
            target.write_text(body.replace("/etc/nginx/", f"{root}/{name}/"))
        mine = {
            item["id"] for item in edge.read({f"/etc/nginx/{path}": body for path, body in files.items()})["findings"]
        }
        assert mine == set()
        found[name] = compare(scan(root, [name])[name], mine)
    return found


def test_every_difference_has_a_reason(differences):
    wrong = settle(differences, ledger("gixy"))
    assert not wrong, "\n".join(wrong)


def test_every_plugin_of_theirs_is_compared_and_has_a_case():
    plugins = BIN.parent.glob("lib/python*/site-packages/gixy/plugins/[a-z]*.py")
    assert {path.stem for path in plugins} - {"plugin"} == set(OURS)
    assert set(OURS) - set(nginx_cases.CASES) == {
        "nginx_cves"
    }  # needs to be told the version, and ours has an image audit
