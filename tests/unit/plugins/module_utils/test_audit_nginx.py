# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every check of an nginx configuration: what fails, what passes, what only looks alike, and the traps of the catalogue.

All cases change one hardened configuration that has no finding, and name exactly what must be found: (check, subject).
"""

from __future__ import annotations

import datetime

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _audit_nginx as core
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import MemoryFiles, Stat, Unreadable
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_run import Policy

CIPHERS = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-CHACHA20-POLY1305"
CSP = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'"
GOOD = f"""\
error_log /var/log/nginx/error.log warn;
events {{ worker_connections 512; }}
http {{
    access_log /var/log/nginx/access.log;
    server_tokens off;
    proxy_hide_header X-Powered-By;
    limit_req_zone $binary_remote_addr zone=req:1m rate=5r/s;
    limit_conn_zone $binary_remote_addr zone=conn:1m;
    limit_req zone=req burst=10 nodelay;
    limit_conn conn 20;
    resolver 127.0.0.11;
    map $https $hsts {{ on "max-age=63072000; includeSubDomains"; default ""; }}
    add_header Strict-Transport-Security $hsts always;
    add_header X-Content-Type-Options nosniff always;
    add_header X-Frame-Options DENY always;
    add_header Referrer-Policy no-referrer always;
    add_header Permissions-Policy "camera=()" always;
    add_header Content-Security-Policy "{CSP}" always;
    proxy_set_header Host $host;
    proxy_set_header X-Forwarded-For $remote_addr;
    proxy_set_header X-Real-IP $remote_addr;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_ciphers {CIPHERS};
    ssl_session_tickets off;
    ssl_certificate /tls/app.crt;
    ssl_certificate_key /tls/app.key;
    #HTTP
    server {{ listen 80 default_server; server_name _; return 444; }}
    server {{ listen 443 ssl default_server; server_name _; ssl_reject_handshake on; return 421; }}
    server {{ listen 80; server_name app.test; location / {{ return 308 https://$host$request_uri; }} }}
    server {{
        listen 443 ssl;
        server_name app.test;
        #SERVER
        location / {{
            if ($request_method !~ ^(GET|POST)$) {{ return 405; }}
            #LOCATION
            set $app app:8000;
            proxy_pass http://$app;
        }}
        #MORE
    }}
}}
"""
S = "server app.test (443)"
ROOT = f"location / of {S}"
PLAIN = "location / of server app.test (80)"
ASK = "if ($request_method !~ ^(GET|POST)$) { return 405; } "
TO = "set $app app:8000; proxy_pass http://$app; "
STATS = {"/tls/app.crt": Stat("file"), "/tls/app.key": Stat("file", 0o400)}
DEFAULT = Policy(ports=(80, 443), nginx_version="1.26.3")


def run(text, files=None, stats=None, roots=("/etc/nginx",), **policy):
    everything = {"/etc/nginx/nginx.conf": text, **(files or {})}
    source = MemoryFiles(everything, {**STATS, **(stats or {})}, roots)
    return core.audit(source, "/etc/nginx/nginx.conf", Policy(**{**DEFAULT.__dict__, **policy}))


def build(replace=(), **places):
    text = GOOD
    for place, extra in places.items():
        mark = f"#{place.upper()}"
        assert mark in text
        text = text.replace(mark, f"{extra} {mark}", 1)
    for before, after in replace:
        assert before in text, before
        text = text.replace(before, after)
    return text


def found(result):
    return {(item["id"], item["subject"]) for item in result["findings"]}


def status(result, check):
    return next(state["status"] for state in result["checks_run"] if state["id"] == check)


def test_the_hardened_configuration_has_no_finding():
    result = run(GOOD)
    assert result["findings"] == []
    states = {state["id"]: (state["status"], state["reason"]) for state in result["checks_run"]}
    unknown = {check for check, (state, _) in states.items() if state == "unknown"}
    assert unknown == {"NGX-01", "TLS-08", "TLS-09", "TLS-10"}
    assert {check for check, (state, _) in states.items() if state == "not_applicable"} == {"NGX-13"}


def one(check, subject, **change):
    """A case that fails with one finding."""
    return {(check, subject)} if subject else set(), change


def quiet(**change):
    """A case that looks alike and is none."""
    return set(), change


def swap(before, after, **more):
    return {"replace": [(before, after)], **more}


HEADERS = 'add_header X-Content-Type-Options nosniff always; add_header X-Frame-Options DENY always; add_header Referrer-Policy no-referrer always; add_header Permissions-Policy "camera=()" always; '
CASES = [
    # -- NGX-02
    one("NGX-02", "http", **swap("server_tokens off;", "server_tokens on;")),
    one("NGX-02", "http", **swap("server_tokens off;", "server_tokens build;")),
    one("NGX-02", ROOT, location="server_tokens on;"),
    ({("NGX-02", S), ("NGX-02", "server app.test (80)"), ("NGX-02", "server of port 80"), ("NGX-02", "server of port 443")}, swap("    server_tokens off;\n", "")),
    one("NGX-02", S, **swap("    proxy_hide_header X-Powered-By;\n", "")),
    one("NGX-02", "http", **swap("proxy_hide_header X-Powered-By;", "proxy_hide_header X-Powered-By; proxy_pass_header Server;")),
    one("NGX-02", S, server='add_header_inherit merge; add_header Via "nginx/$nginx_version" always;', policy={"nginx_version": "1.29.4"}),
    quiet(**swap("proxy_hide_header X-Powered-By;", "proxy_hide_header x-powered-by;")),
    quiet(more="location = /ok { server_tokens off; return 200 ok; }"),
    quiet(**swap("    proxy_hide_header X-Powered-By;\n", "    more_clear_headers Server X-Powered-By;\n")),
    # -- NGX-03
    one("NGX-03", "main", **swap("error_log /var", "user root;\nerror_log /var")),
    one("NGX-03", "main", **swap("error_log /var", "user 0 nginx;\nerror_log /var")),
    quiet(**swap("error_log /var", "user nginx root;\nerror_log /var")),
    quiet(**swap("error_log /var", "user root;\nerror_log /var"), policy={"run_as_user": "edge"}, add={("NGX-03", "main")}),
    # -- NGX-05
    one("NGX-05", "server app.test (80)", **swap("    server { listen 80 default_server; server_name _; return 444; }\n", "")),
    one("NGX-05", "server of port 80", **swap("listen 80 default_server;", "listen 80;")),
    one("NGX-05", "server of port 80", **swap("return 444; }", "return 301 https://$host$request_uri; }")),
    one("NGX-05", "server of port 80", **swap("return 444; }", "return 301 https://$http_host/; }")),
    ({("NGX-05", "server of port 80"), ("TLS-01", "server of port 80"), ("NGX-16", "http"), ("NGX-17", "http")}, swap("return 444; }", "root /srv/www; location ~ /\\. { return 404; } }", drop={"NGX-16", "NGX-17"})),
    quiet(**swap("return 444; }", "return 301 https://app.test$request_uri; }")),
    quiet(**swap("return 444; }", "location / { return 403; } location = /x { return 404; } }")),
    quiet(**swap("return 444; }", "location / { deny all; } }")),
    quiet(http="server { listen 127.0.0.1:8080; location / { return 200 ok; } }"),
    quiet(http="server { listen unix:/run/x.sock; location / { return 200 ok; } }"),
    one("NGX-05", "server a (8080)", http="server { listen 127.0.0.1:8080; server_name a; return 404; } server { listen 127.0.0.1:8080; server_name b; return 404; }"),
    one("NGX-05", "server of port 443", http='server { listen [::]:443 ssl; return 404; }'),
    quiet(http="server { listen *:443 ssl; server_name other.test; return 404; }"),
    # -- NGX-06
    one("NGX-06", "server of port 8443", http="server { listen 8443 ssl default_server; server_name _; ssl_reject_handshake on; return 421; }"),
    ({("NGX-06", "server of stream")}, swap("events {", "stream { server { listen 5432; proxy_pass 127.0.0.1:1; } }\nevents {")),
    quiet(http="server { listen 127.0.0.1:9000; return 404; }"),
    quiet(http="server { listen [::1]:9000; return 404; }"),
    quiet(http="server { listen localhost:9000; return 404; }"),
    quiet(http="server { listen unix:/run/n.sock; return 404; }"),
    # -- NGX-07: streaming exceptions only on proxy_read
    one("NGX-07", "http", http="client_header_timeout 5m;"),
    one("NGX-07", "http", http="client_body_timeout 0;"),
    one("NGX-07", ROOT, location="send_timeout 1h;"),
    one("NGX-07", "http", http="keepalive_timeout 300s;"),
    one("NGX-07", "http", http="keepalive_requests 10;"),
    one("NGX-07", ROOT, location="proxy_read_timeout 1h;", policy={"streaming": ("/events",)}),
    one("NGX-07", S, server="proxy_read_timeout 1h;", policy={"streaming": ("/events",)}),
    quiet(location="proxy_read_timeout 1h;"),
    quiet(more=f"location /events {{ {ASK} proxy_read_timeout 1h; {TO} }}", policy={"streaming": ("/events",)}),
    quiet(http="keepalive_timeout 0;"),
    quiet(http="client_header_timeout 1m; client_body_timeout 60; send_timeout 1500ms;"),
    # -- NGX-08
    one("NGX-08", "http", http="client_max_body_size 0;"),
    one("NGX-08", ROOT, location="client_max_body_size 2g;"),
    one("NGX-08", ROOT, location="client_max_body_size 2m;", policy={"max_body": 1 << 20}),
    one("NGX-08", "http", http="client_header_buffer_size 1m;"),
    one("NGX-08", "http", http="large_client_header_buffers 64 8k;"),
    one("NGX-08", "http", http="large_client_header_buffers 4 1m;"),
    one("NGX-08", "http", http="client_body_buffer_size 1g;"),
    quiet(location="client_max_body_size 100m;"),
    quiet(http="large_client_header_buffers 8 32k; client_header_buffer_size 4k;"),
    # -- NGX-09: a zone without use is a finding
    one("NGX-09", "http", http="limit_req_zone $binary_remote_addr zone=idle:1m rate=1r/s;"),
    ({("NGX-09", ROOT)}, swap("    limit_req zone=req burst=10 nodelay;\n", "", drop={"NGX-09"}, keep={("NGX-09", ROOT), ("NGX-09", "http")})),
    one("NGX-09", "http", **swap("limit_req_zone $binary_remote_addr", "limit_req_zone $http_x_forwarded_for")),
    one("NGX-09", "http", **swap("limit_req_zone $binary_remote_addr", "limit_req_zone $http_authorization")),
    one("NGX-09", "http", **swap("limit_req_zone $binary_remote_addr", "map $http_x_client $who { default $http_x_client; }\nlimit_req_zone $who")),
    one("NGX-09", ROOT, location="limit_req_dry_run on;"),
    one("NGX-09", "http", **swap("burst=10 nodelay", "burst=100000 nodelay")),
    one("NGX-09", "http", **swap("rate=5r/s", "rate=99999r/s")),
    one("NGX-09", "http", **swap("limit_req_zone $binary_remote_addr", 'map $request_method $post { POST $binary_remote_addr; default ""; }\nlimit_req_zone $post')),
    quiet(**swap("limit_req_zone $binary_remote_addr", 'map $binary_remote_addr $who { "~^(?<net>.{8}).{8}$" $net; default $binary_remote_addr; }\nlimit_req_zone $who')),
    quiet(**swap("limit_req_zone $binary_remote_addr", "limit_req_zone $server_name$binary_remote_addr")),
    quiet(location="limit_req zone=req;"),
    quiet(**swap("rate=5r/s", "rate=90r/m")),
    quiet(**swap("    limit_req zone=req burst=10 nodelay;\n", "", location="limit_req zone=req;")),
    quiet(more="location @late { " + TO + "} location /x/ { root /srv/www; try_files $uri @late; } location ~ /\\. { return 404; }", **swap("zone=req burst=10 nodelay;", "zone=req burst=10 nodelay; open_file_cache max=100;")),
    ({("NGX-09", "location @late of " + S)}, {"more": "location @late { " + TO + "} location /x/ { return 404; error_page 404 = @late; }", "replace": [("    limit_req zone=req burst=10 nodelay;\n", "")], "location": "limit_req zone=req;"}),
    # -- NGX-10
    one("NGX-10", "http", http="limit_conn_zone $binary_remote_addr zone=idle:1m;"),
    one("NGX-10", "http", **swap("limit_conn_zone $binary_remote_addr", "limit_conn_zone $http_x_real_ip")),
    one("NGX-10", "http", http="limit_conn_dry_run on;"),
    one("NGX-10", "http", **swap("limit_conn conn 20;", "limit_conn conn 60000;")),
    one("NGX-10", "main", **swap("events {", "worker_rlimit_nofile 600;\nevents {")),
    quiet(**swap("events {", "worker_rlimit_nofile 1024;\nevents {")),
    quiet(**swap("    limit_conn conn 20;\n", "", server="limit_conn conn 20;")),
    # -- NGX-11
    one("NGX-11", "location /b of " + S, more=f"location /b {{ {TO} }}"),
    one("NGX-11", ROOT, **swap("if ($request_method !~ ^(GET|POST)$) { return 405; }", "")),
    one("NGX-11", "http", http="autoindex on;"),
    one("NGX-11", ROOT, location="dav_methods PUT DELETE;"),
    one("NGX-11", "location = /s of " + S, more="location = /s { stub_status; }"),
    one("NGX-11", "location /metrics of " + S, more=f"location /metrics {{ {ASK}{TO} }}"),
    one("NGX-11", ROOT, policy={"private": ("/internal/x",)}),
    one("NGX-11", "location /f/ of " + S, more="location /f/ { root /srv/www; }", replace=[("location / {\n", "location ^~ /.git/ {\n")], drop={"NGX-11"}, keep={("NGX-11", S)}, server="root /srv/www;"),
    quiet(more=f"location /b {{ limit_except GET {{ deny all; }} {TO} }}"),
    quiet(more=f"location /b {{ if ($bad) {{ return 405; }} {TO} }}", http="map $request_method $bad { default 1; GET 0; POST 0; }"),
    quiet(more=f"location /b {{ {TO} }}", **swap("if ($request_method !~ ^(GET|POST)$) { return 405; }", ""), server="if ($request_method = TRACE) { return 405; }"),
    quiet(more="location = /s { stub_status; allow 127.0.0.1; deny all; }"),
    quiet(more='location = /s { auth_basic x; auth_basic_user_file /etc/nginx/users; stub_status; }', files={"/etc/nginx/users": "a:$2y$10$abcdefghijklmnopqrstuv"}, stats={"/etc/nginx/users": Stat("file", 0o640)}),
    quiet(more=f"location /metrics {{ {ASK} allow 10.0.0.0/8; deny all; {TO} }}"),
    quiet(more="location /f/ { root /srv/www; } location ~ /\\. { return 404; }"),
    quiet(more="location /f/ { root /srv/www; } location ~ /\\.(?!well-known) { deny all; }", drop={"NGX-11"}),
    quiet(policy={"private": ("/internal/x",)}, more=f"location /internal/ {{ {ASK} allow 10.0.0.0/8; deny all; {TO} }}"),
    # -- NGX-12
    one("NGX-12", ROOT, location="allow 10.0.0.0/8;"),
    one("NGX-12", ROOT, location="deny all; allow 10.0.0.1;"),
    one("NGX-12", ROOT, location="allow all; deny 10.0.0.1;"),
    one("NGX-12", ROOT, location="allow 10.0.0.1; allow all;"),
    one("NGX-12", "location = /x of " + S, more="location = /x { allow 10.0.0.1; deny all; return 200 secret; }"),
    one("NGX-12", "location = /x of " + S, server="allow 10.0.0.1; deny all;", more="location = /x { return 200 secret; }"),
    one("NGX-12", ROOT, location="satisfy any; allow all; auth_request /auth;"),
    quiet(location="allow 10.0.0.1; deny all;"),
    quiet(location="deny 10.0.0.1; allow all;"),
    quiet(location="deny 10.0.0.1;"),
    quiet(location="allow all;"),
    quiet(more="location = /x { allow 10.0.0.1; deny all; return 403; }"),
    quiet(location="satisfy any; allow 10.0.0.1; deny all; auth_request /auth;"),
    # -- NGX-13
    one("NGX-13", ROOT, policy={"protected": ("/admin/",)}),
    one("NGX-13", "location /admin/ of " + S, more=f"location /admin/ {{ {ASK}{TO} }}", policy={"protected": ("~^/admin",)}),
    one("NGX-13", "location /admin/ of " + S, more=f"location /admin/ {{ {ASK} auth_basic off; {TO} }}", server="auth_basic x; auth_basic_user_file /dev/x;", policy={"protected": ("~^/admin",)}, stats={"/dev/x": Stat("file", 0o600)}, drop={"NGX-13"}, keep={("NGX-13", "location /admin/ of " + S)}),
    one("NGX-13", "location /prometheus/ of " + S, more=f"location /prometheus/ {{ {ASK}{TO} }}"),
    one("NGX-13", "location /ai/ of " + S, more=f"location /ai/ {{ {ASK} proxy_pass http://127.0.0.1:11434; }}"),
    one("NGX-13", "location /admin/ of " + S, more=f"location /admin/ {{ {ASK} auth_basic x; auth_basic_user_file users; {TO} }}"),
    one("NGX-13", "/etc/nginx/users", more=f"location /admin/ {{ {ASK} auth_basic x; auth_basic_user_file users; {TO} }}", files={"/etc/nginx/users": "a:{PLAIN}secret\n"}, stats={"/etc/nginx/users": Stat("file", 0o640)}),
    one("NGX-13", "location /admin/ of " + S, more=f"location /admin/ {{ {ASK} auth_basic x; auth_basic_user_file users; {TO} }}", files={"/etc/nginx/users": "a:$6$salt$hash\n"}),
    quiet(more=f"location /admin/ {{ {ASK} auth_request /auth; {TO} }}", policy={"protected": ("/admin/",)}),
    quiet(more=f"location /admin/ {{ {ASK} allow 10.0.0.1; deny all; {TO} }}", policy={"protected": ("/admin/",)}),
    quiet(more="location /admin/ { return 404; }", policy={"protected": ("/admin/",)}),
    quiet(more=f'location /admin/ {{ {ASK} if ($known = 0) {{ return 401; }} {TO} }}', http='map $http_x_api_key $known { default 0; abc 1; }', policy={"protected": ("/admin/",)}),
    # -- NGX-14: error_log off is a file
    one("NGX-14", "main", **swap("error_log /var/log/nginx/error.log warn;", "error_log off;")),
    one("NGX-14", "main", **swap("error_log /var/log/nginx/error.log warn;", "error_log /dev/null crit;")),
    one("NGX-14", "main", **swap("error.log warn;", "error.log emerg;")),
    one("NGX-14", "http", **swap("access_log /var/log/nginx/access.log;", "access_log off;")),
    one("NGX-14", ROOT, location="access_log off;"),
    one("NGX-14", "http", http="log_format f '$http_cookie'; access_log /x f;"),
    quiet(more="location = /favicon.ico { access_log off; return 204; }"),
    quiet(more="location /healthz { access_log off; return 200 ok; }"),
    quiet(more="location = /s { access_log off; stub_status; allow 127.0.0.1; deny all; }"),
    quiet(http="log_format f '$http_user_agent $remote_addr'; access_log /x f;"),
    # -- NGX-15
    one("NGX-15", "http", http="set_real_ip_from 0.0.0.0/0;"),
    one("NGX-15", "http", http="set_real_ip_from ::/0;"),
    one("NGX-15", "http", http="set_real_ip_from 0.0.0.0/1; real_ip_header X-Forwarded-For;"),
    one("NGX-15", "http", http="real_ip_header X-Forwarded-For;"),
    one("NGX-15", "http", **swap("X-Forwarded-For $remote_addr;", "X-Forwarded-For $proxy_add_x_forwarded_for;")),
    one("NGX-15", "http", **swap("X-Real-IP $remote_addr;", "X-Real-IP $http_x_real_ip;")),
    one("NGX-15", "http", **swap("    proxy_set_header X-Forwarded-For $remote_addr;\n", "")),
    quiet(http="set_real_ip_from 10.0.0.0/8; real_ip_header X-Forwarded-For;"),
    quiet(http="set_real_ip_from fd00::/8; set_real_ip_from unix:; real_ip_header X-Forwarded-For;"),
    quiet(**swap("X-Forwarded-For $remote_addr;", "X-Forwarded-For $proxy_add_x_forwarded_for;", http="set_real_ip_from 192.0.2.7; real_ip_header X-Forwarded-For;")),
    quiet(**swap("X-Forwarded-For $remote_addr;", "X-Forwarded-For $proxy_add_x_forwarded_for;"), policy={"behind_proxy": True}),
    # -- NGX-16: always
    one("NGX-16", "http", **swap("X-Content-Type-Options nosniff always", "X-Content-Type-Options nosniff")),
    one("NGX-16", "http", **swap("X-Frame-Options DENY", "X-Frame-Options ALLOWALL")),
    one("NGX-16", "http", **swap("    add_header Referrer-Policy no-referrer always;\n", "")),
    one("NGX-16", "http", **swap("no-referrer always", "unsafe-url always")),
    one("NGX-16", "http", http='add_header X-XSS-Protection "1; mode=block" always;'),
    quiet(http="add_header X-XSS-Protection 0 always;"),
    quiet(**swap("    add_header X-Frame-Options DENY always;\n", "")),
    quiet(**swap("add_header X-Content-Type-Options nosniff always;", "more_set_headers 'X-Content-Type-Options: nosniff';")),
    quiet(**swap("X-Content-Type-Options nosniff always", "X-Content-Type-Options $sniff always", http='map $uri $sniff { default nosniff; /x ""; }')),
    # -- NGX-17
    one("NGX-17", "http", **swap("default-src 'none'", "default-src *")),
    one("NGX-17", "http", **swap("default-src 'none'", "default-src 'self' 'unsafe-inline'")),
    one("NGX-17", "http", **swap("; base-uri 'none'", "", replace2=("default-src 'none'", "default-src 'self'"))),
    one("NGX-17", "http", **swap("Content-Security-Policy ", "Content-Security-Policy-Report-Only ")),
    quiet(**swap("default-src 'none'", "default-src 'self'; script-src 'self' 'unsafe-inline' 'nonce-abc'")),
    quiet(**swap(f'"{CSP}"', "$csp", http=f'map $uri $csp {{ default "{CSP}"; /docs $upstream_http_content_security_policy; }}')),
    # -- NGX-18: always; 1.29.3 add_header_inherit
    one("NGX-18", ROOT, location="add_header X-A 1 always;"),
    one("NGX-18", S, server="add_header X-A 1;"),
    one("NGX-18", ROOT, location="proxy_set_header X-A 1;"),
    one("NGX-18", ROOT, location="proxy_hide_header X-A;"),
    one("NGX-18", ROOT, location="add_header_inherit off;", policy={"nginx_version": "1.29.3"}),
    one("NGX-18", "http", http="add_header Content-Type text/plain;"),
    one("NGX-18", "http", http='add_header X-A "a\n b" always;'),
    quiet(location="add_header_inherit merge; add_header X-A 1 always;", policy={"nginx_version": "1.29.3"}),
    quiet(location="add_header_inherit on;", policy={"nginx_version": "1.29.3"}),
    quiet(http="add_header Content-Type text/plain; proxy_hide_header Content-Type;"),
    quiet(location=HEADERS + f'add_header Content-Security-Policy "{CSP}" always; add_header Strict-Transport-Security $hsts always; add_header X-A 1;'),
    # -- NGX-19
    one("NGX-19", "location /f of " + S, more="location /f { alias /srv/f/; }"),
    one("NGX-19", "location /f of " + S, more="location /f { alias /srv/f; }"),
    one("NGX-19", "location ~ ^/f(.*)$ of " + S, more="location ~ ^/f(.*)$ { alias /srv/$1; }"),
    one("NGX-19", "location /f/ of " + S, more="location /f/ { root /etc; }", server="location ~ /\\. { return 404; }"),
    one("NGX-19", "location /f/ of " + S, more="location /f/ { root /; }", server="location ~ /\\. { return 404; }"),
    one("NGX-19", "location /f/ of " + S, more="location /f/ { alias /srv/f/; }", http="merge_slashes off;"),
    quiet(more="location /f/ { alias /srv/f/; }"),
    quiet(more="location = /f { alias /srv/f; }"),
    quiet(more="location ~ ^/f/([a-z]+\\.png)$ { alias /srv/f/$1; }"),
    quiet(more="location ~ ^/f/(.*)$ { alias /srv/f/$1; }", server="location ~ /\\. { return 404; }"),
    # -- NGX-20
    one("NGX-20", PLAIN, **swap("https://$host$request_uri", "https://$host$uri")),
    one("NGX-20", PLAIN, **swap("return 308 https://$host$request_uri;", "rewrite ^ https://$host$uri permanent;")),
    one("NGX-20", "location ~ ^/r/([^x]*)$ of " + S, more="location ~ ^/r/([^x]*)$ { return 301 https://app.test/$1; }"),
    one("NGX-20", "location ~ ^/r/(?<tail>.*)$ of " + S, more="location ~ ^/r/(?<tail>.*)$ { return 301 https://app.test/$tail; }"),
    one("NGX-20", "http", http="add_header X-Path $uri always;"),
    one("NGX-20", "http", http="proxy_set_header X-User $remote_user;"),
    one("NGX-20", "location /p of " + S, more=f"location /p {{ {ASK} proxy_pass http://$arg_to; }}"),
    one("NGX-20", "location ~ ^/p/(.*)$ of " + S, more=f"location ~ ^/p/(.*)$ {{ {ASK} proxy_pass http://$1; }}"),
    one("NGX-20", "location ~ ^/p/([a-z]+)$ of " + S, more=f"location ~ ^/p/([a-z]+)$ {{ {ASK} proxy_pass http://$1; }}"),
    one("NGX-20", "http", **swap("Host $host", "Host $http_host")),
    one("NGX-20", "http", http="add_header Access-Control-Allow-Origin $http_origin always;"),
    one("NGX-20", "map $cors", http='map $http_origin $cors { default ""; "~^https://.*app.test$" $http_origin; }'),
    one("NGX-20", "map $cors", http='map $http_origin $cors { default ""; "~^https://app\\.test" $http_origin; }'),
    one("NGX-20", "map $cors", http='map $http_origin $cors { default ""; "~https://app\\.test$" $http_origin; }'),
    one("NGX-20", ROOT, location="valid_referers none server_names;"),
    quiet(**swap("return 308 https://$host$request_uri;", "rewrite ^/(.*)$ https://$host/$1 permanent;")),
    quiet(more="location ~ ^/r/([a-z]+)$ { return 301 https://app.test/$1; }"),
    quiet(more="location = /old { return 301 https://$host$uri/; }"),
    quiet(more='location = /u { return 200 "$uri"; }'),
    quiet(more=f"location ~ ^/p/(one|two)$ {{ {ASK} proxy_pass http://$1; }}"),
    quiet(more=f"location /p {{ internal; {ASK} proxy_pass http://$arg_to; }}"),
    quiet(more=f"location ~ ^/p/(/.*)$ {{ {ASK} proxy_pass http://127.0.0.1:81$1; }}", drop={"NGX-21"}),
    quiet(more=f"location /p {{ {ASK} proxy_pass http://$to; }}", http="map $arg_to $to { default a; b b; }"),
    quiet(http='map $http_origin $cors { default ""; "~^https://([a-z0-9-]+\\.)?app\\.test$" $http_origin; } add_header Access-Control-Allow-Origin $cors always;'),
    quiet(http='map $http_referer $ok { default ""; "~^https://app\\.test/" 1; }'),
    # -- NGX-21
    one("NGX-21", "location /b of " + S, more=f"location /b {{ {ASK} proxy_pass http://backend:80; }}"),
    one("NGX-21", "location /b of " + S, more=f"location /b {{ {ASK} proxy_pass http://127.0.0.1:80/x/; }}"),
    one("NGX-21", ROOT, **swap("    resolver 127.0.0.11;\n", "")),
    one("NGX-21", "http", **swap("resolver 127.0.0.11;", "resolver 1.1.1.1 127.0.0.11;")),
    one("NGX-21", "http", http="proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; proxy_http_version 1.1;"),
    one("NGX-21", "upstream group", http="upstream group { server backend:80; }"),
    one("NGX-21", "location ~ ^/b/(.*)$ of " + S, more=f"location ~ ^/b/(.*)$ {{ {ASK} proxy_pass http://$app/$1; }}", server="set $app app:80;"),
    quiet(more=f"location /b {{ {ASK} proxy_pass http://127.0.0.1:80; }}"),
    quiet(more=f"location = /b {{ {ASK} proxy_pass http://127.0.0.1:80/x; }}"),
    quiet(more=f"location /b {{ {ASK} proxy_pass http://group; }}", http="upstream group { server 127.0.0.1:80; server unix:/run/a.sock; server backend:80 resolve; }"),
    quiet(**swap("resolver 127.0.0.11;", "resolver 10.0.0.2:53 [fd00::1]:53 valid=5s;")),
    quiet(http='map $http_upgrade $ws { websocket websocket; default ""; } proxy_set_header Upgrade $ws; proxy_set_header Connection upgrade; proxy_http_version 1.1;'),
    # -- NGX-22
    one("NGX-22", ROOT, location="if ($arg_a) { limit_rate 1k; }"),
    one("NGX-22", "location ~ ^/(a+)+$ of " + S, more="location ~ ^/(a+)+$ { return 404; }"),
    one("NGX-22", "location ~ ^/(.*)/(.*)/(.*)$ of " + S, more="location ~ ^/(.*)/(.*)/(.*)$ { return 404; }"),
    one("NGX-22", "location ~ ^/.*.*x$ of " + S, more="location ~ ^/.*.*x$ { return 404; }"),
    one("NGX-22", "location ~ \\.php of " + S, more="location ~ \\.php { return 404; }"),
    one("NGX-22", "location ~ ^/(a of " + S, more="location ~ ^/(a { return 404; }"),
    one("NGX-22", ROOT, location="rewrite ^/x$ /y/$1 break;"),
    one("NGX-22", "http", http="map $uri $a { /a 1; /b 2; }"),
    one("NGX-22", "http", http="geo $a { 10.0.0.0/8 1; }"),
    one("NGX-22", "location /f/ of " + S, more="location /f/ { root /srv/www; try_files $uri =404; } location ~ /\\. { return 404; }"),
    one("NGX-22", "server app.test (443)", http="server { listen 443 ssl; server_name app.test; return 404; }"),
    quiet(location="if ($arg_a) { return 403; }"),
    quiet(location='if ($arg_a) { set $b 1; }'),
    quiet(server="if ($arg_a) { rewrite ^ /x last; }"),
    quiet(more="location ~ ^/(a+)+ { return 404; }"),
    quiet(more="location ~ ^/(?:[^/]+/)*[^/]+$ { return 404; }"),
    quiet(more="location ~ \\.php$ { return 404; }"),
    quiet(more="location ~ /\\. { return 404; }"),
    quiet(location="rewrite ^/(x)$ /y/$1 break;"),
    quiet(http="map $uri $a { /a 1; } map $uri $b { /a 1; /b 2; default 0; } geo $c { default 0; 10.0.0.0/8 1; }"),
    # -- TLS-01
    one("TLS-01", PLAIN, **swap("return 308 https://$host$request_uri;", "return 308 http://$host$request_uri;")),
    one("TLS-01", PLAIN, **swap("return 308 https://$host$request_uri;", "return 308 $scheme://$host$request_uri;")),
    one("TLS-01", PLAIN, **swap("return 308 https://$host$request_uri;", ASK + TO)),
    quiet(**swap("return 308 https://$host$request_uri;", "rewrite ^ https://$host$request_uri? permanent;")),
    quiet(**swap("return 308 https://$host$request_uri; }", "return 308 https://$host$request_uri; } location /.well-known/acme-challenge/ { root /srv/acme; } location ~ /\\. { return 404; }", drop={"NGX-11"})),
    quiet(**swap("return 308 https://$host$request_uri;", ASK + TO), policy={"tls_elsewhere": True}),
    # -- TLS-02: inherited and default values; the default server decides
    one("TLS-02", "http", **swap("ssl_protocols TLSv1.2", "ssl_protocols TLSv1.1 TLSv1.2")),
    one("TLS-02", "server of port 443", **swap("ssl_reject_handshake on;", "ssl_reject_handshake on; ssl_protocols TLSv1 TLSv1.2;")),
    ({("TLS-02", S), ("TLS-02", "server of port 443")}, swap("    ssl_protocols TLSv1.2 TLSv1.3;\n", "")),
    ({("TLS-02", S), ("TLS-02", "server of port 443")}, swap("    ssl_protocols TLSv1.2 TLSv1.3;\n", "", policy={"nginx_version": None})),
    quiet(**swap("    ssl_protocols TLSv1.2 TLSv1.3;\n", ""), policy={"nginx_version": "1.27.3"}),
    one("TLS-02", "http", http="ssl_conf_command Protocol ALL;"),
    quiet(http="ssl_conf_command MinProtocol TLSv1;"),
    one("TLS-02", "http", policy={"tls_profile": "modern"}),
    quiet(**swap("TLSv1.2 TLSv1.3", "TLSv1.3"), policy={"tls_profile": "modern"}),
    # -- TLS-03: HIGH:!aNULL fails
    one("TLS-03", "http", **swap(CIPHERS, "HIGH:!aNULL")),
    one("TLS-03", "http", **swap(CIPHERS, "ECDHE-RSA-AES128-SHA")),
    one("TLS-03", "http", **swap(CIPHERS, "AES256-GCM-SHA384")),
    one("TLS-03", "http", **swap(CIPHERS, f"{CIPHERS}:@SECLEVEL=0")),
    ({("TLS-03", S), ("TLS-03", "server of port 443")}, swap(f"    ssl_ciphers {CIPHERS};\n", "")),
    one("TLS-03", S, server="ssl_ciphers ALL;"),
    quiet(**swap(CIPHERS, "EECDH+AESGCM:EECDH+CHACHA20")),
    quiet(**swap(CIPHERS, "HIGH:!aNULL"), replace2=("TLSv1.2 TLSv1.3", "TLSv1.3")),
    quiet(**swap(CIPHERS, f"{CIPHERS}:DHE-RSA-AES128-SHA")),
    # -- TLS-04
    one("TLS-04", "http", http="ssl_ecdh_curve secp192r1;"),
    one("TLS-04", "http", http="ssl_ecdh_curve secp384r1;"),
    one("TLS-04", "http", http="ssl_ecdh_curve X25519MLKEM768:X25519;"),
    one("TLS-04", "http", http="ssl_ecdh_curve X25519MLKEM768:X25519;", policy={"openssl_version": "3.0.19"}),
    one("TLS-04", "http", http="ssl_ecdh_curve ?X25519MLKEM768:X25519;", policy={"openssl_version": "3.0.19"}),
    quiet(http="ssl_ecdh_curve ?X25519MLKEM768:X25519:prime256v1;"),
    quiet(http="ssl_ecdh_curve X25519MLKEM768:X25519;", policy={"openssl_version": "3.5.4"}),
    quiet(http="ssl_ecdh_curve auto;"),
    # -- TLS-05: prefer_server_ciphers off; small parameters
    one("TLS-05", "http", http="ssl_prefer_server_ciphers on;"),
    quiet(http="ssl_prefer_server_ciphers off;"),
    quiet(http="ssl_dhparam /etc/nginx/dh.pem;", files={"/etc/nginx/dh.pem": "x"}),
    # -- TLS-06
    one("TLS-06", "http", **swap("ssl_session_tickets off;", "ssl_session_tickets on;")),
    ({("TLS-06", S), ("TLS-06", "server of port 443")}, swap("    ssl_session_tickets off;\n", "")),
    one("TLS-06", "http", http="ssl_early_data on;"),
    one("TLS-06", "http", http="ssl_session_cache builtin:1000 shared:s:10m;"),
    one("TLS-06", "http", http="ssl_conf_command Options UnsafeLegacyRenegotiation;"),
    quiet(**swap("ssl_session_tickets off;", "ssl_session_tickets on; ssl_session_cache shared:s:10m;")),
    quiet(**swap("    ssl_session_tickets off;\n", ""), http="ssl_conf_command Options -SessionTicket;"),
    # -- TLS-07
    one("TLS-07", "http", **swap("max-age=63072000", "max-age=86400")),
    one("TLS-07", "http", **swap("$hsts always", "$hsts")),
    one("TLS-07", "http", **swap("$hsts always", '"max-age=63072000; preload" always')),
    one("TLS-07", "http", **swap("    add_header Strict-Transport-Security $hsts always;\n", "")),
    quiet(**swap("$hsts always", "max-age=63072000 always")),
    quiet(http="server { listen 127.0.0.1:9443 ssl; return 404; }"),
    # -- TLS-11
    one("TLS-11", "/tls/app.key", stats={"/tls/app.key": Stat("file", 0o644)}),
    one("TLS-11", "/tls/app.key", stats={"/tls/app.key": Stat("file", 0o440, uid=1000)}),
    one("TLS-11", "/tls/app.key", stats={"/tls": Stat("directory", 0o777)}),
    quiet(stats={"/tls/app.key": Stat("file", 0o440)}),
    quiet(stats={"/tls/app.key": Stat("file", 0o440, uid=64101)}, policy={"owners": (0, 64101)}),
    # -- TLS-12
    one("TLS-12", "http", http="ssl_stapling on;", **swap("    resolver 127.0.0.11;\n", "", replace2=("proxy_pass http://$app", "proxy_pass http://127.0.0.1"))),
    quiet(http="ssl_stapling on;"),
    quiet(http="ssl_stapling off;"),
    # -- TLS-13
    one("TLS-13", "location /b of " + S, more=f"location /b {{ {ASK} proxy_pass https://127.0.0.1; }}"),
    one("TLS-13", "location /b of " + S, more=f"location /b {{ {ASK} proxy_ssl_verify on; proxy_pass https://127.0.0.1; }}"),
    one("TLS-13", "location /b of " + S, more=f"location /b {{ {ASK} proxy_ssl_verify on; proxy_ssl_trusted_certificate /etc/nginx/ca; proxy_pass https://group; }}", http="upstream group { server 127.0.0.1:1; }", files={"/etc/nginx/ca": "x"}),
    one("TLS-13", "server of port 443", **swap("ssl_reject_handshake on; return 421;", "ssl_reject_handshake on; http2 on; location / { return 200 hi; }")),
    quiet(more=f"location /b {{ {ASK} proxy_ssl_verify on; proxy_ssl_trusted_certificate /etc/nginx/ca; proxy_ssl_name a.test; proxy_ssl_server_name on; proxy_pass https://group; }}", http="upstream group { server 127.0.0.1:1; }", files={"/etc/nginx/ca": "x"}),
    quiet(**swap("ssl_reject_handshake on; return 421;", "ssl_reject_handshake on; http2 on; location / { return 421; }")),
]  # fmt: skip


def name(case):
    change = case[1]
    return " ".join(
        [
            *sorted(check for check, _ in case[0]),
            *(str(value)[:50] for key, value in change.items() if key not in ("files", "stats")),
        ]
    )


@pytest.mark.parametrize("case", CASES, ids=name)
def test_case(case):
    expected, change = case[0], dict(case[1])
    options = change.pop("policy", {})
    files, stats = change.pop("files", None), change.pop("stats", None)
    drop, keep = change.pop("drop", set()), change.pop("keep", None)
    expected = expected | change.pop("add", set())
    if "replace2" in change:
        change["replace"] = [*change.get("replace", ()), change.pop("replace2")]
    got = found(run(build(**change), files, stats, **options))
    if keep is not None:
        expected, drop = keep, set()
    assert {item for item in got if item[0] not in drop} == {item for item in expected if item[0] not in drop}


# -- what is said, and where ------------------------------------------------------------------------------------------


def test_findings_name_file_line_and_what_was_seen():
    files = {"/etc/nginx/conf.d/b.conf": "# b\nserver {\n    listen 443 ssl;\n    server_name b.test;\n    location /f {\n        alias /srv/f/;\n    }\n    location ~ /\\. { return 404; }\n}\n"}  # fmt: skip
    (item,) = run(build(http="include conf.d/*.conf;"), files)["findings"]
    assert item["where"] == "/etc/nginx/conf.d/b.conf:6"
    assert item["subject"] == "location /f of server b.test (443)"
    assert item["evidence"] == "alias /srv/f/ in location /f: /f../ leads one directory up"
    assert item["severity"] == "high" and item["waived"] is None
    assert "gixy alias_traversal" in item["references"]


def test_secrets_are_not_shown():
    text = build(
        location='proxy_set_header Authorization "Bearer sk-verysecret"; proxy_set_header X-Api-Key $uri-sk-verysecret;'
    )
    result = run(text)
    assert ("NGX-20", ROOT) in found(result)
    assert "verysecret" not in str(result)


def test_one_socket_however_it_is_written():
    servers = "server { listen 0.0.0.0:81 default_server; server_name _; return 444; } server { listen *:81; server_name x.test; location / { return 403; } } server { listen 81; server_name y.test; return 404; }"
    assert run(build(http=servers), ports=(80, 81, 443))["findings"] == []


def test_the_first_server_in_file_order_is_the_default():
    text = build(
        http="server { listen 82; server_name b.test; return 404; } server { listen 82; server_name a.test; return 404; }"
    )
    (item,) = run(text, ports=(80, 82, 443))["findings"]
    assert item["evidence"] == "no server of *:82 is default_server, so the first one is: server b.test (82)"
    assert (item["id"], item["severity"]) == ("NGX-05", "low")


def test_ports_that_nobody_declared_are_not_decided():
    result = run(GOOD, ports=None)
    assert status(result, "NGX-06") == "unknown" and result["findings"] == []


def test_a_master_that_is_not_root_listens_on_8000():
    result = run("events {}\nhttp { server { server_name x; return 404; } }", ports=(80,), run_as_user="edge")
    assert any(item["evidence"] == "listen *:8000; declared: 80" for item in result["findings"])


def test_no_http_block():
    result = run("user root;\nerror_log off;\nevents {}\n")
    assert found(result) == {("NGX-03", "main"), ("NGX-14", "main")}
    assert status(result, "TLS-02") == "not_applicable" and status(result, "NGX-09") == "not_applicable"


def test_what_cannot_be_read_is_never_a_pass():
    result = run("http { server {")
    assert [(item["id"], item["where"]) for item in result["findings"]] == [("NGX-01", "/etc/nginx/nginx.conf:1")]
    assert {state["status"] for state in result["checks_run"] if state["id"] != "NGX-01"} == {"unknown"}


def test_an_include_that_was_not_handed_over_makes_unknown():
    result = run(build(http="include /elsewhere/*.conf;"))
    assert status(result, "NGX-09") == "unknown" and status(result, "TLS-02") == "unknown"
    assert result["findings"] == []


def test_the_main_file_must_be_there():
    with pytest.raises(Unreadable):
        core.audit(MemoryFiles({}), "/etc/nginx/nginx.conf")


def test_code_is_not_judged_and_says_so():
    result = run(
        build(location='access_by_lua_block { if ngx.var.arg_x == "}" then ngx.exit(403) end }'), protected=("/",)
    )
    assert result["findings"] == []
    assert status(result, "NGX-13") == status(result, "NGX-20") == "unknown"


# -- NGX-01 -----------------------------------------------------------------------------------------------------------

BROKEN = [
    ("http { gzip of; }", 'invalid value "of" in "gzip" directive, it must be "on" or "off"'),
    ("http { gzipp on; }", 'unknown directive "gzipp"'),
    ("gzip on;", "gzip is not allowed in main"),
    ("http { server { listen; } }", 'invalid number of arguments in "listen" directive'),
    ("http { root /a; root /b; }", "root stands twice on this level"),
    ("http { server { location /a { } location /a { } } }", "location /a stands twice"),
    (
        "http { server { listen 80 default_server; } server { listen 80 default_server; } }",
        "a second default_server for *:80",
    ),
    ("http { limit_req zone=x; }", "limit_req zone=x: no limit_req_zone defines x"),
    ("include missing.conf;", "include: /etc/nginx/missing.conf does not exist"),
    ("include nginx.conf;", "include leads back to a file that is being read"),
    ("http { server { listen 443 ssl; } }", "listens with TLS, and no ssl_certificate is set"),
    ("http { ssl_trusted_certificate ca.pem; }", "ssl_trusted_certificate ca.pem: the file does not exist"),
    ("http { http2 on; }", "http2 needs nginx 1.25.1, and this is 1.22.1"),
]


@pytest.mark.parametrize(("text", "evidence"), BROKEN, ids=[evidence for _, evidence in BROKEN])
def test_ngx_01(text, evidence):
    result = run(text, nginx_version="1.22.1")
    assert evidence in {item["evidence"] for item in result["findings"] if item["id"] == "NGX-01"}
    assert {item["severity"] for item in result["findings"] if item["id"] == "NGX-01"} == {"critical"}


VALID = [
    "http { map $a $b { on off; off on; } types { text/html html; } }",
    "include conf.d/*.conf;",
    "http { server { location / { location /a { if ($x) { return 404; } limit_except GET { deny all; } } } } }",
    "http { server { location ~ ^/a { } location ~ ^/a { } } }",
    "stream { map $x $y { a b; } server { listen 1; proxy_pass 127.0.0.1:2; } }",
    "load_module modules/x.so; http { whatever on; }",
    "http { more_set_headers 'A: b'; vhost_traffic_status_zone; }",
    "http { proxy_pass_trailers on; js_import x.js; early_hints 1; }",
]


@pytest.mark.parametrize("text", VALID)
def test_ngx_01_near_misses(text):
    assert [item for item in run(text, nginx_version=None)["findings"] if item["id"] == "NGX-01"] == []


def test_ngx_01_takes_the_word_of_nginx():
    source = MemoryFiles({"/n.conf": GOOD}, STATS, ("/",))
    good = core.audit(source, "/n.conf", DEFAULT, nginx_test=core.Tested(True))
    assert status(good, "NGX-01") == "pass"
    bad = core.audit(source, "/n.conf", DEFAULT, nginx_test=core.Tested(False, 'unknown "x" variable', "/n.conf:7"))
    assert [(item["where"], item["evidence"]) for item in bad["findings"]] == [
        ("/n.conf:7", 'nginx -t: unknown "x" variable')
    ]
    unsure = core.audit(source, "/n.conf", DEFAULT, nginx_test=core.Tested(None, "it is gone"))
    assert status(unsure, "NGX-01") == "unknown"


def test_ngx_01_without_crossplane_is_unknown(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "crossplane", None)
    state = next(state for state in run("http { gzipp on; }")["checks_run"] if state["id"] == "NGX-01")
    assert state["status"] == "unknown"
    assert "neither nginx nor crossplane is here to know every directive" in state["reason"]


# -- NGX-04 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stats", "expected"),
    [
        ({"/etc/nginx/nginx.conf": Stat("file", 0o666)}, {("NGX-04", "/etc/nginx/nginx.conf")}),
        ({"/etc/nginx/nginx.conf": Stat("file", 0o664)}, {("NGX-04", "/etc/nginx/nginx.conf")}),
        ({"/etc/nginx/nginx.conf": Stat("file", 0o644, uid=33)}, {("NGX-04", "/etc/nginx/nginx.conf")}),
        ({"/etc/nginx": Stat("directory", 0o1777)}, {("NGX-04", "/etc/nginx")}),
        ({"/etc": Stat("directory", 0o1777)}, set()),
        ({"/etc": Stat("directory", 0o777)}, {("NGX-04", "/etc")}),
        ({"/etc/nginx/nginx.conf": Stat("file", 0o400), "/etc/nginx": Stat("directory", 0o750)}, set()),
    ],
)
def test_ngx_04(stats, expected):
    assert found(run(GOOD, stats=stats)) == expected


def test_ngx_04_is_not_decided_where_modes_mean_nothing():
    result = run(GOOD, stats={"/etc/nginx/nginx.conf": Stat("file", 0o666)}, modes=False)
    assert status(result, "NGX-04") == "unknown" and result["findings"] == []


# -- parameters and certificates --------------------------------------------------------------------------------------

#: Parameters of 512 bits, made for this test.
WEAK_DH = "-----BEGIN DH PARAMETERS-----\nMEYCQQC0eWWX4ofLgHFHl5+uUjyNzi1q1ydzGTo7HEmOZ5RhePvdbOqDCUPTv/7R\nYr0V6VZFEJF5Yx5SAYmZnCGsyTTTAgEC\n-----END DH PARAMETERS-----\n"


def test_tls_05_small_parameters():
    text = build(replace=[(CIPHERS, f"{CIPHERS}:DHE-RSA-AES128-GCM-SHA256")], http="ssl_dhparam /etc/nginx/dh.pem;")
    (item,) = run(text, {"/etc/nginx/dh.pem": WEAK_DH})["findings"]
    assert (item["id"], item["evidence"]) == ("TLS-05", "ssl_dhparam /etc/nginx/dh.pem: 512 bits")
    assert status(run(text, {"/etc/nginx/dh.pem": "nothing"}), "TLS-05") == "unknown"


NOW = datetime.datetime(2026, 11, 21, tzinfo=datetime.timezone.utc)


def certificate(names=("app.test",), days=60, key=None, ca=False, before=10, server=True):
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0] if names else "x")])
    issuer = subject if ca else x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an authority")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(7)
    )
    builder = builder.not_valid_before(NOW - datetime.timedelta(days=before)).not_valid_after(
        NOW + datetime.timedelta(days=days)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), False)
    usage = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), False)
    signed = builder.sign(ec.generate_private_key(ec.SECP256R1()) if not ca else key, hashes.SHA256())
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return signed.public_bytes(serialization.Encoding.PEM).decode(), secret.decode()


@pytest.mark.parametrize(
    ("made", "expected", "evidence"),
    [
        ({}, set(), ""),
        ({"names": ("other.test",)}, {"TLS-08"}, "is not for app.test, only for other.test"),
        ({"names": ("*.test",)}, {"TLS-08"}, "is not for app.test, only for *.test"),
        ({"days": -1}, {"TLS-08"}, "expired on 2026-11-20 00:00 UTC"),
        ({"days": 900}, {"TLS-08"}, "is valid for 910 days, more than 366"),
        ({"server": False}, {"TLS-08"}, "is not meant for servers (extended key usage without serverAuth)"),
        ({"ca": True}, {"TLS-12"}, "the certificate is self-signed"),
    ],
)
def test_certificates(made, expected, evidence):
    text, _ = certificate(**made)
    result = run(GOOD, {"/tls/app.crt": text}, now=NOW)
    assert {item["id"] for item in result["findings"]} == expected
    assert evidence in "".join(item["evidence"] for item in result["findings"])
    assert status(result, "TLS-10") == "pass" and status(result, "TLS-09") == "unknown"


def test_names_beyond_server_name_are_asked_for():
    text, _ = certificate()
    result = run(GOOD, {"/tls/app.crt": text}, now=NOW, server_names=("api.test",))
    assert found(result) == {("TLS-08", "api.test")}


def test_tls_09_and_10():
    from cryptography.hazmat.primitives.asymmetric import rsa

    weak, _ = certificate(key=rsa.generate_private_key(public_exponent=65537, key_size=1024))
    assert {item["id"] for item in run(GOOD, {"/tls/app.crt": weak}, now=NOW)["findings"]} == {"TLS-09"}
    first, other = certificate()[0], certificate(("b.test",))[0]
    assert {item["id"] for item in run(GOOD, {"/tls/app.crt": first + other}, now=NOW)["findings"]} == {"TLS-10"}


def test_a_certificate_named_by_a_map_is_read():
    text, _ = certificate(("other.test",))
    change = [
        (
            "ssl_certificate /tls/app.crt;",
            "map $ssl_server_name $leaf { default current; } ssl_certificate /tls/$leaf.crt;",
        )
    ]
    result = run(build(replace=change), {"/tls/current.crt": text}, now=NOW)
    assert {item["id"] for item in result["findings"]} == {"TLS-08"}


def test_a_file_of_the_request_cannot_be_read():
    change = [("ssl_certificate /tls/app.crt;", "ssl_certificate /tls/$ssl_server_name.crt;")]
    assert status(run(build(replace=change)), "TLS-08") == "unknown"


# -- limits of the audit itself ---------------------------------------------------------------------------------------


def test_findings_without_end_are_cut_and_counted():
    many = "".join(f"location /{number} {{ autoindex on; }}" for number in range(700))
    items = [item for item in run(build(more=many))["findings"] if item["id"] == "NGX-11"]
    assert len(items) == 501
    assert "200 more of these are not listed" in {item["evidence"] for item in items}


@pytest.mark.parametrize(
    "text",
    [
        "set $a $b; set $b $a;",
        "set $a $a;",
        "".join(f'set $x{number} "$x{number + 1}$x{number + 2}";' for number in range(200)),
        'set $a "$a$a$a"; ' * 50,
    ],
)
def test_variables_that_lead_back_to_themselves(text):
    assert isinstance(run(build(server=text, location="add_header X-A $a; add_header X-B $x0;"))["findings"], list)


def test_maps_that_lead_back_to_themselves():
    maps = "".join(
        f"map $v{number} $v{(number + 1) % 40} {{ default $v{number}; a $v{(number + 7) % 40}; }}"
        for number in range(40)
    )
    assert isinstance(
        run(build(http=maps, more="location /x { proxy_pass http://$v3; return 301 $v5; }"))["findings"], list
    )


def test_patterns_that_are_too_much_are_unknown():
    patterns = "".join(
        f'location ~ "^/{number}({"|".join(f"a{one}" for one in range(500))})+$" {{ return 404; }}'
        for number in range(40)
    )
    result = run(build(more=patterns))
    assert status(result, "NGX-22") == "unknown"


def test_the_result_is_the_same_each_time():
    text = build(location="autoindex on; add_header X-A $uri; proxy_set_header A b;", server="set $q $arg_q;")
    assert run(text) == run(text)
