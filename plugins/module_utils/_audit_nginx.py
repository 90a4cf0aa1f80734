# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judge an nginx configuration (NGX, TLS) by what nginx makes of it.

PRIVATE: internal to the collection, may change in any release. Standard library only; crossplane, where it can be
imported, adds its table of directives.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ansible_collections.mcpstack.platform.plugins.module_utils import _audit_nginx_access as access
from ansible_collections.mcpstack.platform.plugins.module_utils import _audit_nginx_certs as certs
from ansible_collections.mcpstack.platform.plugins.module_utils import _audit_nginx_flow as flow
from ansible_collections.mcpstack.platform.plugins.module_utils import _audit_nginx_headers as headers
from ansible_collections.mcpstack.platform.plugins.module_utils import _audit_nginx_patterns as patterns
from ansible_collections.mcpstack.platform.plugins.module_utils import _audit_nginx_serve as serve
from ansible_collections.mcpstack.platform.plugins.module_utils import _audit_nginx_tls as tls
from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import Files
from ansible_collections.mcpstack.platform.plugins.module_utils._checks_nginx import CHECKS as NGINX
from ansible_collections.mcpstack.platform.plugins.module_utils._checks_tls import CHECKS as TLS
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_model import Model
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_parse import (
    DATA_BLOCKS,
    Directive,
    Tree,
    parse,
    safe_name,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_run import Policy, Run, show
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_values import Values

CHECKS = (*NGINX, *TLS)

#: Files that nginx opens when it starts; it does not start without them.
OPENED = (
    "ssl_certificate",
    "ssl_certificate_key",
    "ssl_client_certificate",
    "ssl_trusted_certificate",
    "ssl_dhparam",
    "ssl_crl",
    "ssl_stapling_file",
    "ssl_session_ticket_key",
    "ssl_password_file",
    "proxy_ssl_certificate",
    "proxy_ssl_certificate_key",
    "proxy_ssl_trusted_certificate",
    "proxy_ssl_crl",
    "geoip_country",
    "geoip_city",
)
#: Directives that may stand once on a level; nginx refuses a second one.
ONCE = (
    "server_tokens",
    "client_max_body_size",
    "client_header_timeout",
    "client_body_timeout",
    "send_timeout",
    "client_header_buffer_size",
    "large_client_header_buffers",
    "client_body_buffer_size",
    "keepalive_requests",
    "root",
    "alias",
    "default_type",
    "ssl_protocols",
    "ssl_ciphers",
    "ssl_prefer_server_ciphers",
    "ssl_session_tickets",
    "ssl_session_timeout",
    "ssl_early_data",
    "ssl_ecdh_curve",
    "ssl_dhparam",
    "ssl_reject_handshake",
    "ssl_verify_client",
    "ssl_stapling",
    "autoindex",
    "proxy_pass",
    "stub_status",
    "proxy_http_version",
    "proxy_read_timeout",
    "proxy_buffering",
    "auth_basic",
    "auth_basic_user_file",
    "satisfy",
    "merge_slashes",
    "internal",
    "limit_req_status",
    "pid",
    "user",
    "worker_processes",
    "worker_rlimit_nofile",
    "worker_connections",
    "events",
    "http",
    "http2",
    "resolver",
    "proxy_ssl_verify",
    "gzip",
    "sendfile",
    "try_files",
)
#: First version of nginx that knows a directive.
SINCE = {
    "http2": (1, 25, 1),
    "http3": (1, 25, 0),
    "quic_retry": (1, 25, 0),
    "ssl_reject_handshake": (1, 19, 4),
    "ssl_conf_command": (1, 19, 4),
    "proxy_ssl_conf_command": (1, 19, 4),
    "add_header_inherit": (1, 29, 3),
    "add_trailer_inherit": (1, 29, 3),
    "limit_req_dry_run": (1, 17, 1),
    "limit_conn_dry_run": (1, 17, 6),
    "auth_delay": (1, 17, 10),
    "proxy_cookie_flags": (1, 19, 3),
    "ssl_early_data": (1, 15, 3),
    "keepalive_time": (1, 19, 10),
    "early_hints": (1, 29, 0),
    "ssl_key_log": (1, 27, 2),
    "proxy_pass_trailers": (1, 27, 2),
    "keepalive_min_timeout": (1, 27, 4),
    "ssl_certificate_cache": (1, 27, 4),
    "ssl_object_cache_inheritable": (1, 27, 4),
}
#: Directives that crossplane's table lacks: they are left alone, because it cannot know them.
NEWER = frozenset(
    {
        *SINCE,
        "quic_bpf",
        "quic_gso",
        "quic_host_key",
        "quic_active_connection_id_limit",
        "quic_stream_buffer_size",
        "http3_hq",
        "http3_max_concurrent_streams",
        "http3_stream_buffer_size",
        "js_import",
        "js_set",
        "js_content",
        "js_header_filter",
        "js_body_filter",
        "js_preload_object",
        "js_path",
        "js_var",
        "js_access",
        "js_periodic",
        "js_fetch_trusted_certificate",
        "js_shared_dict_zone",
        "grpc_ssl_conf_command",
        "uwsgi_ssl_conf_command",
        "mp4_start_key_frame",
        "proxy_socket_keepalive",
        "fastcgi_socket_keepalive",
        "scgi_socket_keepalive",
        "uwsgi_socket_keepalive",
        "grpc_socket_keepalive",
        "memcached_socket_keepalive",
        "ssl_ocsp",
        "ssl_ocsp_cache",
        "ssl_ocsp_responder",
        "subrequest_output_buffer_size",
        "max_errors",
        "proxy_smtp_auth",
        "ssl_alpn",
        "pass",
        "max_headers",
        "ssl_certificate_compression",
        "ssl_ech_file",
        "mgmt",
        "resolver_file",
        "proxy_request_dynamic",
        "proxy_limit_rate",
    }
)
_OPTIONAL = re.compile(
    r"more_|lua_|.*_by_lua|brotli|zstd|pagespeed|vhost_traffic|geoip2|set_|echo|headers_|auth_ldap|security_headers|"
    r"modsecurity|image_filter|xslt|perl|passenger|naxsi|dav_ext|fancyindex|upload_|redis|srcache|array_|iconv|"
    r"encrypted_|rds_|drizzle|postgres|otel|opentracing|sticky|check|ngx_|testcookie|vod|push_stream|nchan|rtmp|"
    r"cache_purge|proxy_cache_purge|upsync|ajp_|websockify|accept_language|cookie_flag|jwt_|auth_jwt|auth_pam|"
    r"autocert|acme"
)


@dataclass(frozen=True)
class Tested:
    """What nginx -t said of a copy. ``ok`` None: it could not be asked, and ``message`` is the reason."""

    ok: bool | None
    message: str = ""
    where: str = ""


def audit(files: Files, path: str, policy: Policy | None = None, *, nginx_test: Tested | None = None) -> dict:
    """findings, checks_run and summary of the configuration at ``path``.

    nginx_test: the answer of an nginx program, where one was asked (see _nginx_test).
    Raises Unreadable when the main file cannot be read.
    """
    policy = policy or Policy()
    return audit_tree(
        files, parse(files, path, prefix=policy.prefix, mounts=policy.mounts), policy, nginx_test=nginx_test
    )


def audit_tree(files: Files, tree: Tree, policy: Policy, *, nginx_test: Tested | None = None) -> dict:
    """The same for a tree that was read already."""
    result = Audit(CHECKS)
    broken = [problem for problem in tree.problems if problem.fatal]
    result.decide("NGX-01")
    for problem in tree.problems:
        result.find("NGX-01", tree.path, problem.where, problem.what)
    if broken:
        for check in CHECKS:
            if check.id != "NGX-01":
                result.unknown(check.id, f"the configuration cannot be read: {broken[0].where}")
        return result.result()
    model = Model(tree, 8000 if policy.run_as_user not in (None, "root", "0") else 80)
    run = Run(result, files, policy, tree, model, Values(model))
    for gap in tree.gaps:
        if not gap.lua:
            for check in CHECKS:
                result.unknown(check.id, f"{gap.where}: {gap.what}")
    _valid(run, nginx_test)
    if not model.https:
        access.owners(run)
        serve.account(run)
        serve.errors(run)
        for check in CHECKS:
            if check.id not in ("NGX-01", "NGX-04"):
                result.not_applicable(check.id, "the configuration has no http block")
        return result.result()
    for part in (serve, access, headers, flow, patterns, tls, certs):
        part.judge(run)
    if run.values.tired:
        for check in ("NGX-19", "NGX-20", "NGX-21"):
            result.unknown(check, "the variables of this configuration take too long to follow")
    run.finish()
    return result.result()


# -- NGX-01 -----------------------------------------------------------------------------------------------------------


def _valid(run: Run, tested: Tested | None) -> None:
    _known(run, tested)
    _opened(run)
    _twice(run)
    _zones(run)
    if tested is None:
        run.unknown("NGX-01", "no nginx program was asked")
    elif tested.ok is None:
        run.unknown("NGX-01", f"nginx could not be asked: {tested.message}")
    elif not tested.ok:
        run.audit.find("NGX-01", run.tree.path, tested.where or run.tree.path, f"nginx -t: {tested.message}")


def _known(run: Run, tested: Tested | None) -> None:
    """Unknown directives, wrong contexts and numbers of arguments, by crossplane's table."""
    for item in run.tree.root.walk():
        since = SINCE.get(item.name)
        if (
            since
            and run.version
            and run.version < since
            and (item.parent is None or item.parent.name not in DATA_BLOCKS)
        ):
            run.find(
                "NGX-01",
                item,
                f"{item.name} needs nginx {'.'.join(map(str, since))}, and this is {run.policy.nginx_version}",
            )
    if tested is not None and tested.ok is not None:
        return
    try:
        from crossplane import analyzer, errors
    except ImportError:
        run.unknown("NGX-01", "neither nginx nor crossplane is here to know every directive")
        return
    foreign = any(True for _rest in run.model.walk("load_module")) or any(gap.lua for gap in run.tree.gaps)
    stack: list[tuple[Directive, tuple[str, ...]]] = [(run.tree.root, ())]
    while stack:
        block, context = stack.pop()
        for item in block.block or ():
            if block.name in DATA_BLOCKS or item.name.endswith("_by_lua_block"):
                continue
            known = item.name in analyzer.DIRECTIVES
            if not known and item.name not in NEWER and not foreign and not _OPTIONAL.match(item.name):
                run.find("NGX-01", item, f"unknown directive {safe_name(item.name)}")
            elif known and not (item.name == "if" and not item.args):
                statement = {"directive": item.name, "args": list(item.args), "line": item.line}
                try:
                    analyzer.analyze(item.file, statement, "{" if item.block is not None else ";", context)
                except errors.NgxParserDirectiveContextError:
                    run.find("NGX-01", item, f"{item.name} is not allowed in {context[-1] if context else 'main'}")
                except errors.NgxParserDirectiveError as error:
                    run.find("NGX-01", item, str(error.strerror))
            if item.block:
                inner = (*context, item.name)
                # A location inside a location is a location.
                stack.append(
                    (item, ("http", "location") if inner[:1] == ("http",) and item.name == "location" else inner)
                )


def _opened(run: Run) -> None:
    for item in run.model.walk(*OPENED):
        names = certs.paths(run, item)
        for name in names or ():
            if "$" in item.args[0] and item.name in ("ssl_certificate", "ssl_certificate_key"):
                # With a variable nginx reads it at each handshake, and starts without.
                continue
            if name.startswith(("data:", "engine:", "store:")):
                continue
            path = run.lies(name)
            if not run.files.knows(path):
                run.unknown("NGX-01", f"{path} was not handed over")
            elif run.files.stat(path) is None:
                run.find("NGX-01", item, f"{show(item)}: the file does not exist")
    for server in run.model.servers:
        if server.tls and run.model.value(server.block, "ssl_reject_handshake") != "on":
            if not run.model.values(server.block, "ssl_certificate"):
                default = any(run.model.default_of(listen.key)[0] is server for listen in server.listens if listen.ssl)
                if default:
                    run.find("NGX-01", server, "listens with TLS, and no ssl_certificate is set")


def _twice(run: Run) -> None:
    seen: dict[tuple[int, str], Directive] = {}
    for item in run.model.walk(*ONCE):
        if (
            item.parent is None
            or item.parent.name in DATA_BLOCKS
            or item.parent.name == "upstream"
            or (item.name in ("ssl_dhparam",))
        ):
            continue
        key = (id(item.parent), item.name)
        if key in seen:
            run.find("NGX-01", item, f"{item.name} stands twice on this level")
        seen[key] = item
    for server in run.model.servers:
        known: set[tuple] = set()
        for location in server.locations:
            key = (
                id(location.parent),
                location.modifier if location.pattern or location.modifier in ("=", "@") else "",
                location.path,
            )
            if key in known and not location.pattern:
                run.find("NGX-01", location, f"location {location.path} stands twice")
            known.add(key)
    for users in run.model.sockets.values():
        marked = [listen for _rest, listen in users if listen.default]
        for listen in marked[1:]:
            run.find("NGX-01", listen.directive, f"a second default_server for {listen}")


_ZONES = (("limit_req", "limit_req_zone"), ("limit_conn", "limit_conn_zone"))


def _zones(run: Run) -> None:
    for user, definition in _ZONES:
        defined = {
            word[5:].partition(":")[0]
            for item in run.model.walk(definition)
            for word in item.args
            if word.startswith("zone=")
        }
        for item in run.model.walk(user):
            if not run.model.in_http(item):
                continue
            zone = (
                next((word[5:] for word in item.args if word.startswith("zone=")), "")
                if user == "limit_req"
                else item.args[0]
                if item.args
                else ""
            )
            if zone and zone not in defined:
                run.find("NGX-01", item, f"{show(item)}: no {definition} defines {zone}")
