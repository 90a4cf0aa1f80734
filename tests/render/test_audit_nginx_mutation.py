# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rendered edge has no finding, and each control of it that is weakened is named: by its own check, and by no other."""

from __future__ import annotations

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import MemoryFiles
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_nginx import audit
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_run import Policy

REQUIRED = {
    "mcpstack_edge_image": "mcpstack/nginx:0123456789ab",
    "mcpstack_edge_server_names": ["llm.example.org", "localhost"],
}
ALTERNATIVE = {
    **REQUIRED,
    "mcpstack_edge_server_names": ["A.Example.org"],
    "mcpstack_edge_bind": ["192.0.2.1", "2001:db8::1"],
    "mcpstack_edge_trusted_proxies": ["198.51.100.0/24", "2001:db8:1::/64"],
    "mcpstack_edge_tls_profile": "modern",
    "mcpstack_edge_expose_docs": True,
    "mcpstack_edge_hsts": {"max_age": 63072000, "include_subdomains": True, "preload": True},
    "mcpstack_edge_routes": [
        {"path": "/v1/chat/completions", "methods": ["POST"], "streaming": True, "max_body": "1m", "read_timeout": "9s"},
        {"path": "/mcp", "match": "prefix", "service": "registry", "port": 9000, "methods": ["GET", "POST"], "streaming": True, "limit": {"rate": 3, "burst": 0}},
    ],
}  # fmt: skip
POLICY = Policy(
    ports=(8080, 8443, 8082),
    run_as_user="edge",
    nginx_version="1.26.3",
    modes=False,
    private=("/metrics",),
    streaming=(
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/embeddings",
        "/mcp",
    ),
)
MAIN, TLS, HEADERS, PROXY, ERRORS, LOG, PAGES = (
    "nginx.conf",
    *(f"snippets/{name}.conf" for name in ("tls", "headers", "proxy", "errors", "log", "error-pages")),
)
CHAT = "        location = /v1/chat/completions {\n"
MODELS = "            proxy_pass http://$edge_upstream/v1/models$edge_rest$is_args$args;"
CSP = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
KEPT = "".join(
    f"            {line};\n"
    for line in (
        "add_header Strict-Transport-Security $edge_hsts always",
        "add_header X-Frame-Options DENY always",
    )
)
DEFAULT_TLS = "        listen 8443 ssl default_server;\n        http2 on;\n        server_name _;\n        ssl_reject_handshake on;\n"

#: Check that must appear (two where one change opens two holes), file, what is replaced (the first of it), and by what.
MUTANTS = [
    # NGX-01: what nginx would not read
    ("NGX-01", MAIN, "    gzip off;", "    gzip of;"),
    ("NGX-01", MAIN, "    gzip off;", "    gzipp off;"),
    ("NGX-01", MAIN, "    gzip off;", "    gzip off"),
    ("NGX-01", MAIN, "    gzip off;", "    gzip off;\n    gzip off;"),
    ("NGX-01", MAIN, "    gzip off;", "    gzip off;\n    proxy_pass http://127.0.0.1;"),
    ("NGX-01", MAIN, "    gzip off;", "    gzip off;\n    add_header_inherit merge;"),
    ("NGX-01", MAIN, "include /etc/nginx/snippets/log.conf;", "include /etc/nginx/snippets/logs.conf;"),
    ("NGX-01", MAIN, "    limit_req zone=edge_req", "    limit_req zone=edge_rec"),
    ("NGX-01", MAIN, "        location = /ready {", "        location = /metrics {"),
    # NGX-02
    ("NGX-02", MAIN, "server_tokens off;", ""),
    ("NGX-02", MAIN, "server_tokens off;", "server_tokens on;"),
    ("NGX-02", MAIN, "server_tokens off;", "server_tokens build;"),
    ("NGX-02", MAIN, CHAT, CHAT + "            server_tokens on;\n"),
    ("NGX-02", MAIN, DEFAULT_TLS, DEFAULT_TLS + "        server_tokens on;\n"),
    ("NGX-02", PROXY, "proxy_hide_header X-Powered-By;", ""),
    ("NGX-02", PROXY, "proxy_hide_header X-Powered-By;", "proxy_pass_header X-Powered-By;\nproxy_hide_header X-Powered-By;"),
    ("NGX-02", PROXY, "proxy_hide_header X-Powered-By;", "proxy_hide_header X-Powered-By;\nproxy_pass_header Server;"),
    ("NGX-02", HEADERS, "add_header Cache-Control no-store always;", "add_header Cache-Control no-store always;\nadd_header Via nginx/$nginx_version always;"),
    # NGX-03
    ("NGX-03", MAIN, "pid /tmp/nginx.pid;", ""),
    ("NGX-03", MAIN, "pid /tmp/nginx.pid;", "pid /run/nginx.pid;"),
    ("NGX-03", MAIN, "    proxy_temp_path /tmp/proxy;\n", ""),
    ("NGX-03", MAIN, "    client_body_temp_path /tmp/body;\n", ""),
    # NGX-05
    ("NGX-05", MAIN, "listen 8080 default_server;", "listen 8080;"),
    ("NGX-05", MAIN, "listen 8443 ssl default_server;", "listen 8443 ssl;"),
    ("NGX-05", MAIN, "listen 8082 default_server;", "listen 8082;"),
    ("NGX-05", MAIN, "listen 127.0.0.1:8081 ssl default_server;", "listen 127.0.0.1:8081 ssl;"),
    ("NGX-05", MAIN, "            return 444;", "            return 308 https://$host$request_uri;"),
    ("NGX-05", MAIN, "            return 444;", "            return 301 https://$http_host$request_uri;"),
    # NGX-06
    ("NGX-06", MAIN, "listen 8080 default_server;", "listen 8080 default_server;\n        listen 8083 default_server;"),
    ("NGX-06", MAIN, "listen 8443 ssl default_server;", "listen 8443 ssl default_server;\n        listen [::]:9443 ssl default_server;"),
    # NGX-07
    ("NGX-07", MAIN, "client_header_timeout 10s;", "client_header_timeout 10m;"),
    ("NGX-07", MAIN, "client_header_timeout 10s;", "client_header_timeout 0;"),
    ("NGX-07", MAIN, "client_body_timeout 10s;", "client_body_timeout 1h;"),
    ("NGX-07", MAIN, "send_timeout 30s;", "send_timeout 3600;"),
    ("NGX-07", MAIN, "keepalive_timeout 65s;", "keepalive_timeout 1d;"),
    ("NGX-07", MAIN, "keepalive_requests 1000;", "keepalive_requests 1;"),
    ("NGX-07", PROXY, "proxy_read_timeout 60s;", "proxy_read_timeout 1h;"),
    ("NGX-07", MAIN, CHAT, CHAT + "            client_body_timeout 30m;\n"),
    # NGX-08
    ("NGX-08", MAIN, "            client_max_body_size 4m;", "            client_max_body_size 0;"),
    ("NGX-08", MAIN, "            client_max_body_size 4m;", "            client_max_body_size 20g;"),
    ("NGX-08", MAIN, "client_header_buffer_size 2k;", "client_header_buffer_size 4m;"),
    ("NGX-08", MAIN, "large_client_header_buffers 4 8k;", "large_client_header_buffers 400 8k;"),
    ("NGX-08", MAIN, "large_client_header_buffers 4 8k;", "large_client_header_buffers 4 8m;"),
    ("NGX-08", MAIN, "client_body_buffer_size 256k;", "client_body_buffer_size 1g;"),
    # NGX-09
    ("NGX-09", MAIN, "    limit_req zone=edge_req", "    #limit_req zone=edge_req"),
    ("NGX-09", MAIN, "    limit_req_status 429;", "    limit_req_status 429;\n    limit_req_dry_run on;"),
    ("NGX-09", MAIN, "limit_req_zone $edge_client zone", "limit_req_zone $http_x_forwarded_for zone"),
    ("NGX-09", MAIN, "limit_req_zone $edge_client zone", "limit_req_zone $http_authorization zone"),
    ("NGX-09 NGX-10", MAIN, "        default $binary_remote_addr;\n", "        default $http_x_real_ip;\n"),
    ("NGX-09", MAIN, CHAT, CHAT + "            limit_req_dry_run on;\n"),
    ("NGX-09", MAIN, "r/s;\n    limit_conn_zone", "00000r/s;\n    limit_conn_zone"),
    ("NGX-09", MAIN, "nodelay;", "nodelay; # burst\n    limit_req_zone $edge_client zone=idle:1m rate=1r/s;"),
    # NGX-10
    ("NGX-10", MAIN, "    limit_conn edge_conn", "    #limit_conn edge_conn"),
    ("NGX-10", MAIN, "    limit_conn edge_large", "    #limit_conn edge_large"),
    ("NGX-10", MAIN, "    limit_conn_status 429;", "    limit_conn_status 429;\n    limit_conn_dry_run on;"),
    ("NGX-10", MAIN, "limit_conn_zone $edge_client zone", "limit_conn_zone $http_x_forwarded_for zone"),
    ("NGX-10", MAIN, "    limit_conn edge_conn ", "    limit_conn edge_conn 10000"),
    ("NGX-10", MAIN, "worker_rlimit_nofile ", "worker_rlimit_nofile 10; #"),
    ("NGX-10", MAIN, CHAT, CHAT + "            limit_conn edge_large 4;\n"),
    # NGX-11
    ("NGX-11", MAIN, CHAT, CHAT.replace("= /v1/chat", "= /v1/open") + "            proxy_pass http://$edge_upstream/x;\n        }\n" + CHAT),
    ("NGX-11", MAIN, 'if ($request_method !~ "^(POST|OPTIONS)$") {\n                return 405;\n            }\n', ""),
    ("NGX-11", MAIN, "autoindex off;", "autoindex on;"),
    ("NGX-11", MAIN, CHAT, CHAT + "            autoindex on;\n"),
    ("NGX-11", MAIN, "            allow 127.0.0.0/8;\n            allow 10.0.0.0/8;\n            allow 172.16.0.0/12;\n            allow 192.168.0.0/16;\n            deny all;\n", ""),
    ("NGX-11", MAIN, CHAT, "        location = /counters {\n            stub_status;\n        }\n" + CHAT),
    ("NGX-11", MAIN, "        location = /metrics {\n            return 404;\n        }\n", '        location = /metrics {\n            if ($request_method != GET) {\n                return 405;\n            }\n            set $edge_upstream "gateway:8000";\n            proxy_pass http://$edge_upstream/metrics;\n        }\n'),
    ("NGX-11", MAIN, '        location ~ "/\\." {\n            return 404;\n        }\n\n        location = /.well-known', '        location /files/ {\n            root /srv/site;\n        }\n        location ~ "/\\." {\n            root /srv/site;\n        }\n\n        location = /.well-known'),
    ("NGX-11", MAIN, CHAT, CHAT + "            dav_methods PUT DELETE;\n"),
    # NGX-12
    ("NGX-11 NGX-12", MAIN, "            deny all;\n", "            allow all;\n            deny all;\n"),
    ("NGX-12", MAIN, "            allow 127.0.0.0/8;\n", "            deny all;\n            allow 127.0.0.0/8;\n"),
    ("NGX-12", MAIN, "            stub_status;", '            return 200 "counters";'),
    # NGX-14
    ("NGX-14", MAIN, "access_log /dev/stdout edge;", "access_log off;"),
    ("NGX-14", MAIN, "access_log /dev/stdout edge;", "access_log /dev/null;"),
    ("NGX-14", MAIN, CHAT, CHAT + "            access_log off;\n"),
    ("NGX-14", MAIN, DEFAULT_TLS.replace("ssl default_server", "ssl").split("server_name")[0] + "server_name llm", DEFAULT_TLS.replace("ssl default_server", "ssl").split("server_name")[0] + "access_log off;\n        server_name llm"),
    ("NGX-14", MAIN, "error_log /dev/stderr crit;", "error_log off;"),
    ("NGX-14", MAIN, "error_log /dev/stderr crit;", "error_log /dev/null crit;"),
    ("NGX-14", MAIN, "error_log /dev/stderr crit;", "error_log /dev/stderr emerg;"),
    ("NGX-14", LOG, '"host":"$host"', '"host":"$host","key":"$http_authorization"'),
    ("NGX-14", LOG, '"host":"$host"', '"host":"$host","body":"$request_body"'),
    # NGX-15
    ("NGX-15", MAIN, "    gzip off;", "    gzip off;\n    set_real_ip_from 0.0.0.0/0;"),
    ("NGX-15", MAIN, "    gzip off;", "    gzip off;\n    set_real_ip_from ::/0;\n    real_ip_header X-Forwarded-For;"),
    ("NGX-15", MAIN, "    gzip off;", "    gzip off;\n    real_ip_header X-Forwarded-For;"),
    ("NGX-15", PROXY, "proxy_set_header X-Forwarded-For $remote_addr;", ""),
    ("NGX-15", PROXY, "proxy_set_header X-Forwarded-For $remote_addr;", "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;"),
    ("NGX-15", PROXY, "proxy_set_header X-Forwarded-For $remote_addr;", "proxy_set_header X-Forwarded-For $http_x_forwarded_for;"),
    ("NGX-15", PROXY, "proxy_set_header X-Real-IP $remote_addr;", ""),
    ("NGX-15", PROXY, "proxy_set_header X-Real-IP $remote_addr;", "proxy_set_header X-Real-IP $http_x_real_ip;"),
    # NGX-16
    ("NGX-16", HEADERS, "add_header X-Content-Type-Options nosniff always;", ""),
    ("NGX-16", HEADERS, "add_header X-Content-Type-Options nosniff always;", "add_header X-Content-Type-Options nosniff;"),
    ("NGX-16", HEADERS, "add_header X-Content-Type-Options nosniff always;", "add_header X-Content-Type-Options none always;"),
    ("NGX-16", HEADERS, "add_header X-Content-Type-Options nosniff always;", "add_header X-Content-Type-Option nosniff always;"),
    ("NGX-16", HEADERS, "add_header X-Content-Type-Options nosniff always;", 'add_header X-Content-Type-Options "" always;'),
    ("NGX-16", HEADERS, "add_header X-Frame-Options DENY always;", "add_header X-Frame-Options ALLOWALL always;"),
    ("NGX-16", HEADERS, "add_header X-Frame-Options DENY always;", 'add_header X-Frame-Options "ALLOW-FROM https://a.example" always;'),
    ("NGX-16", HEADERS, "add_header X-Frame-Options DENY always;", "add_header X-Frame-Options DENY;"),
    ("NGX-16", HEADERS, "add_header Referrer-Policy no-referrer always;", ""),
    ("NGX-16", HEADERS, "add_header Referrer-Policy no-referrer always;", "add_header Referrer-Policy unsafe-url always;"),
    ("NGX-16", HEADERS, "add_header Permissions-Policy", "#add_header Permissions-Policy"),
    ("NGX-16", HEADERS, 'usb=()" always;', 'usb=()";'),
    ("NGX-16", HEADERS, "add_header Cache-Control no-store always;", 'add_header X-XSS-Protection "1; mode=block" always;'),
    # NGX-17
    ("NGX-17", HEADERS, "add_header Content-Security-Policy $edge_csp always;", ""),
    ("NGX-17", HEADERS, "add_header Content-Security-Policy $edge_csp always;", "add_header Content-Security-Policy $edge_csp;"),
    ("NGX-17", HEADERS, "add_header Content-Security-Policy $edge_csp always;", "add_header Content-Security-Policy-Report-Only $edge_csp always;"),
    ("NGX-17", HEADERS, CSP, "default-src *; base-uri 'none'; frame-ancestors 'none'"),
    ("NGX-17", HEADERS, CSP, "default-src 'self' 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"),
    ("NGX-17", HEADERS, CSP, "default-src 'self' 'unsafe-eval'; base-uri 'none'; frame-ancestors 'none'"),
    ("NGX-17", HEADERS, CSP, "default-src 'none'; script-src https:; frame-ancestors 'none'"),
    ("NGX-17", HEADERS, CSP, "default-src 'self'; frame-ancestors 'none'"),
    ("NGX-17", HEADERS, CSP, "frame-ancestors 'none'; base-uri 'none'"),
    # NGX-18
    ("NGX-18", MAIN, CHAT, CHAT + "            add_header X-Route chat always;\n"),
    ("NGX-18", MAIN, CHAT, CHAT + KEPT),
    ("NGX-18", MAIN, 'location / {\n            return 404;\n        }\n    }\n\n    # Loopback', 'location / {\n            add_header X-Why nothing always;\n            return 404;\n        }\n    }\n\n    # Loopback'),
    ("NGX-18", MAIN, CHAT, CHAT + "            proxy_set_header X-Route chat;\n"),
    ("NGX-18", MAIN, CHAT, CHAT + "            proxy_hide_header X-Route;\n"),
    ("NGX-18", HEADERS, "add_header Cache-Control no-store always;", "add_header Cache-Control no-store always;\nadd_header Content-Type text/plain always;"),
    ("NGX-18", HEADERS, "add_header Cache-Control no-store always;", 'add_header Cache-Control "no-store,\n  private" always;'),
    # NGX-19
    ("NGX-19", MAIN, "root /var/lib/acme;", "root /;"),
    ("NGX-19", MAIN, "root /var/lib/acme;", "root /etc/nginx;"),
    ("NGX-19", MAIN, "merge_slashes on;", "merge_slashes off;"),
    ("NGX-19", MAIN, CHAT, '        location /files {\n            alias /srv/files/;\n        }\n        location = "/.env" {\n            return 404;\n        }\n' + CHAT),
    # NGX-20
    ("NGX-20", MAIN, "return 308 https://$host$request_uri;", "return 308 https://$host$uri;"),
    ("NGX-20", MAIN, "return 308 https://$host$request_uri;", "rewrite ^ https://$host$document_uri permanent;"),
    ("NGX-20", MAIN, MODELS, "            proxy_pass http://$arg_to/v1/models;"),
    ("NGX-20", MAIN, MODELS, "            proxy_pass http://$http_x_target$is_args$args;"),
    ("NGX-20", MAIN, 'set $edge_upstream "gateway:8000";', "set $edge_upstream $arg_upstream;"),
    ("NGX-20", PROXY, "proxy_set_header Host $host;", "proxy_set_header Host $http_host;"),
    ("NGX-20", PROXY, "proxy_set_header Host $host;", "proxy_set_header Host $arg_host;"),
    ("NGX-20", PROXY, "proxy_set_header X-Forwarded-Host $host;", "proxy_set_header X-Forwarded-Host $http_host;"),
    ("NGX-20", PROXY, 'proxy_set_header X-Original-URL "";', "proxy_set_header X-Original-URL $uri;"),
    ("NGX-20", HEADERS, "add_header Cache-Control no-store always;", "add_header Access-Control-Allow-Origin $http_origin always;\nadd_header Cache-Control no-store always;"),
    ("NGX-20", HEADERS, "add_header X-Request-ID $edge_request_id always;", "add_header X-Request-ID $edge_request_id always;\nadd_header X-Path $uri always;"),
    # NGX-21
    ("NGX-21", PROXY, "resolver 127.0.0.11 valid=2s ipv6=off;", ""),
    ("NGX-21", PROXY, "resolver 127.0.0.11 valid=2s ipv6=off;", "resolver 8.8.8.8;"),
    ("NGX-21", PROXY, "resolver 127.0.0.11 valid=2s ipv6=off;", "resolver 127.0.0.11 [2606:4700:4700::1111] valid=2s;"),
    ("NGX-21", MAIN, MODELS, "            proxy_pass http://gateway:8000;"),
    ("NGX-21", PROXY, 'proxy_set_header Upgrade "";', "proxy_set_header Upgrade $http_upgrade;"),
    ("NGX-21", PROXY, 'proxy_set_header Connection "";\nproxy_set_header Upgrade "";', "proxy_set_header Connection $http_connection;\nproxy_set_header Upgrade $http_upgrade;"),
    # NGX-22
    ("NGX-22", MAIN, "(?<edge_rest>/[A-Za-z0-9._~:@+/-]{0,512})?", "(?<edge_rest>(/?[a-z]*)+)!"),
    ("NGX-22", MAIN, "(?<edge_rest>/[A-Za-z0-9._~:@+/-]{0,512})?", "(?<edge_rest>/([a-z]+)*)!"),
    ("NGX-22", MAIN, "(?<edge_rest>/[A-Za-z0-9._~:@+/-]{0,512})?", "(?<edge_rest>/[z-a])?"),
    ("NGX-22", HEADERS, '    "503:" 5;\n    default "";', '    "503:" 5;'),
    ("NGX-22", MAIN, CHAT, CHAT + "            if ($arg_debug) {\n                limit_rate 1k;\n            }\n"),
    ("NGX-22", MAIN, CHAT, CHAT + "            if ($arg_debug) {\n                expires 1h;\n            }\n"),
    # TLS-01
    ("TLS-01", MAIN, "            return 308 https://$host$request_uri;", "            return 308 http://$host:8081$request_uri;"),
    ("TLS-01", MAIN, "            return 308 https://$host$request_uri;", '            return 200 "hello $remote_addr";'),
    ("NGX-11 TLS-01", MAIN, "            return 308 https://$host$request_uri;", "            root /srv/site;"),
    ("NGX-22 TLS-01", MAIN, "        listen 8443 ssl;", "        listen 8443 ssl;\n        listen 8080;"),
    # TLS-02
    ("TLS-02", TLS, "ssl_protocols TLSv1.2 TLSv1.3;", ""),
    ("TLS-02", TLS, "ssl_protocols TLSv1.2 TLSv1.3;", "ssl_protocols TLSv1 TLSv1.1 TLSv1.2 TLSv1.3;"),
    ("TLS-02", TLS, "ssl_protocols TLSv1.2 TLSv1.3;", "ssl_protocols TLSv1.1 TLSv1.2;"),
    ("TLS-02", TLS, "ssl_protocols TLSv1.2 TLSv1.3;", "ssl_protocols SSLv3 TLSv1.2;"),
    ("TLS-02", MAIN, DEFAULT_TLS, DEFAULT_TLS + "        ssl_protocols TLSv1 TLSv1.2;\n"),
    ("TLS-02", TLS, "ssl_early_data off;", "ssl_early_data off;\nssl_conf_command Protocol ALL;"),
    # TLS-03
    ("TLS-03", TLS, "ssl_ciphers ", "#ssl_ciphers "),
    ("TLS-03", TLS, "ssl_ciphers ", "ssl_ciphers HIGH:!aNULL:!MD5; #"),
    ("TLS-03", TLS, "ssl_ciphers ", "ssl_ciphers DEFAULT; #"),
    ("TLS-03", TLS, "ssl_ciphers ", "ssl_ciphers ALL; #"),
    ("TLS-03", TLS, "ssl_ciphers ", "ssl_ciphers AES128-SHA:"),
    ("TLS-03", TLS, "ssl_ciphers ", "ssl_ciphers ECDHE-RSA-AES256-SHA384:"),
    ("TLS-03", TLS, "ssl_ciphers ", "ssl_ciphers RC4-SHA:"),
    ("TLS-03", TLS, "ssl_ciphers ", "ssl_ciphers aNULL:"),
    ("TLS-03", TLS, "ssl_ciphers ", "ssl_ciphers @SECLEVEL=0:"),
    ("TLS-03", MAIN, "        listen 8443 ssl;", "        listen 8443 ssl;\n        ssl_ciphers HIGH;"),
    ("TLS-03", TLS, "TLS_AES_128_GCM_SHA256:", "TLS_AES_128_CCM_8_SHA256:TLS_AES_128_GCM_SHA256:"),
    ("TLS-03", TLS, "ssl_conf_command Ciphersuites", "ssl_conf_command CipherString DEFAULT@SECLEVEL=0;\nssl_conf_command Ciphersuites"),
    # TLS-04
    ("TLS-04", TLS, "ssl_ecdh_curve ?X25519MLKEM768:X25519:prime256v1:secp384r1;", "ssl_ecdh_curve secp192r1:X25519;"),
    ("TLS-04", TLS, "ssl_ecdh_curve ?X25519MLKEM768:X25519:prime256v1:secp384r1;", "ssl_ecdh_curve secp256k1;"),
    ("TLS-04", TLS, "ssl_ecdh_curve ?X25519MLKEM768:X25519:prime256v1:secp384r1;", "ssl_ecdh_curve secp521r1;"),
    ("TLS-04", TLS, "?X25519MLKEM768", "X25519MLKEM768"),
    ("TLS-04", TLS, "ssl_early_data off;", "ssl_early_data off;\nssl_conf_command Groups sect163k1;"),
    # TLS-05
    ("TLS-05", TLS, "ssl_prefer_server_ciphers off;", "ssl_prefer_server_ciphers on;"),
    ("TLS-05", MAIN, "        listen 8443 ssl;", "        listen 8443 ssl;\n        ssl_prefer_server_ciphers on;"),
    # TLS-06
    ("TLS-06", TLS, "ssl_session_cache shared:edge_tls:10m;\nssl_session_timeout 1d;\nssl_session_tickets off;", "ssl_session_cache off;"),
    ("TLS-06", MAIN, "        listen 8443 ssl;", "        listen 8443 ssl;\n        ssl_session_tickets on;\n        ssl_session_cache none;"),
    ("TLS-06", TLS, "ssl_early_data off;", "ssl_early_data on;"),
    ("TLS-06", TLS, "shared:edge_tls:10m", "builtin:1000"),
    ("TLS-06", TLS, "ssl_early_data off;", "ssl_early_data off;\nssl_conf_command Options Compression;"),
    ("TLS-06", TLS, "ssl_early_data off;", "ssl_early_data off;\nssl_conf_command Options UnsafeLegacyRenegotiation;"),
    # TLS-07
    ("TLS-07", HEADERS, "add_header Strict-Transport-Security $edge_hsts always;", ""),
    ("TLS-07", HEADERS, "add_header Strict-Transport-Security $edge_hsts always;", "add_header Strict-Transport-Security $edge_hsts;"),
    ("TLS-07", HEADERS, "add_header Strict-Transport-Security $edge_hsts always;", "add_header Strict-Transport-Security max-age=300 always;"),
    ("TLS-07", HEADERS, "max-age=63072000", "max-age=31536000"),
    ("TLS-07", HEADERS, "max-age=63072000", "max-age=0"),
    ("TLS-07", HEADERS, "max-age=63072000", "max-age=63072000; preload"),
    ("TLS-07", HEADERS, "map $https $edge_hsts {\n    on ", "map $https $edge_hsts {\n    off "),
    ("TLS-07", HEADERS, "add_header X-Frame-Options DENY always;", "add_header X-Frame-Options DENY always;\nadd_header Strict-Transport-Security max-age=63072000 always;"),
    # TLS-11
    ("TLS-11", TLS, "ssl_certificate_key /run/tls/$edge_leaf/tls.key;", 'ssl_certificate_key "data:-----BEGIN PRIVATE KEY-----";'),
    # TLS-12
    ("TLS-12", TLS, "ssl_early_data off;", "ssl_early_data off;\nssl_stapling on;\nssl_stapling_verify on;", "resolver"),
    # TLS-13
    ("TLS-13", MAIN, "        location / {\n            return 421;\n        }\n", "        location / {\n            return 200;\n        }\n"),
    ("TLS-13", MAIN, "        location / {\n            return 421;\n        }\n", ""),
    ("TLS-13", MAIN, MODELS, MODELS.replace("http:", "https:")),
    ("TLS-13", MAIN, MODELS, MODELS.replace("http:", "https:") + "\n            proxy_ssl_verify on;"),
    ("TLS-13", MAIN, MODELS, MODELS.replace("http:", "https:") + "\n            proxy_ssl_verify off;\n            proxy_ssl_trusted_certificate /etc/nginx/snippets/tls.conf;"),
]  # fmt: skip

#: Changes that weaken nothing that nginx does, each with the reason, so that the score stays honest.
EQUAL = [
    ("client_header_timeout 10s;", "", "nginx waits 60 s by default, which the check allows"),
    ("client_body_timeout 10s;", "", "nginx waits 60 s by default, which the check allows"),
    ("    send_timeout 30s;", "", "nginx waits 60 s by default, which the check allows"),
    ("keepalive_timeout 65s;", "", "75 s by default, which the check allows"),
    ("client_max_body_size 4m;", "", "1 MB by default"),
    ("client_header_buffer_size 2k;", "", "1k by default"),
    ("large_client_header_buffers 4 8k;", "", "4 of 8k by default"),
    ("client_body_buffer_size 256k;", "", "16k by default"),
    ("access_log /dev/stdout edge;", "", "nginx logs by default"),
    ("error_log /dev/stderr crit;", "", "nginx logs errors by default"),
    ("autoindex off;", "", "off by default"),
    ("merge_slashes on;", "", "on by default"),
    ("ignore_invalid_headers on;", "", "on by default"),
    ("underscores_in_headers off;", "", "off by default"),
    ("ssl_reject_handshake on;", "", "every location of that server still refuses, with the certificate of the other names"),
    ("limit_req_status 429;", "", "503 by default: refused all the same"),
    ("ssl_prefer_server_ciphers off;", "", "off by default"),
    ("ssl_session_cache shared:edge_tls:10m;", "", "none by default: nothing is resumed"),
    ("ssl_session_tickets off;", "", "since 1.23.2 nginx itself rotates the key that a shared cache holds"),
    ("ssl_session_tickets off;", "ssl_session_tickets on;", "since 1.23.2 nginx itself rotates the key that a shared cache holds"),
    ("ssl_early_data off;", "", "off by default"),
    ("ssl_ecdh_curve ?X25519MLKEM768:X25519:prime256v1:secp384r1;", "", "OpenSSL's own list by default"),
    ('proxy_set_header Upgrade "";', "", "nginx drops Upgrade by default"),
    ('proxy_set_header Connection "";', "", "nginx sends close by default"),
    ("add_header X-Frame-Options DENY always;", "", "the policy says frame-ancestors 'none', which replaces it"),
    ("; frame-ancestors 'none'", "", "X-Frame-Options says DENY"),
    ("add_header Cross-Origin-Resource-Policy same-site always;", "", "no check asks for it"),
]  # fmt: skip


def read(files):
    return audit(MemoryFiles(files, roots=("/etc/nginx",)), "/etc/nginx/nginx.conf", POLICY)


def found(files):
    return {item["id"] for item in read(files)["findings"]}


_RENDERED: dict[str, str] = {}


@pytest.fixture
def rendered(role):
    """The files of the edge; rendered once, because nothing here changes them."""
    if not _RENDERED:
        _RENDERED.update({f"/etc/nginx/{name}": text for name, text in role("edge", **REQUIRED).files().items()})
    return dict(_RENDERED)


@pytest.mark.parametrize("options", [REQUIRED, ALTERNATIVE], ids=["default", "alternative"])
def test_the_rendered_edge_has_no_finding(role, options):
    files = {f"/etc/nginx/{name}": text for name, text in role("edge", **options).files().items()}
    result = read(files)
    assert result["findings"] == []
    passed = {state["id"] for state in result["checks_run"] if state["status"] == "pass"}
    assert len(passed) >= 28, sorted(passed)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant[0]}-{mutant[3].strip()[:40]}")
def test_a_weakened_control_is_named_and_nothing_else(rendered, mutant):
    check, name, before, after, *without = mutant
    files = dict(rendered)
    path = f"/etc/nginx/{name}"
    assert before in files[path], "the role no longer writes this"
    files[path] = files[path].replace(before, after, 1)
    if without:
        # The resolver that the whole configuration has would make stapling work; that it is missing is NGX-21.
        proxy = f"/etc/nginx/{PROXY}"
        files[proxy] = "\n".join(line for line in files[proxy].splitlines() if not line.startswith(without[0]))
        assert found(files) == {check, "NGX-21"}
        return
    assert found(files) == set(check.split())


@pytest.mark.parametrize(("before", "after", "reason"), EQUAL, ids=lambda value: str(value)[:40])
def test_what_changes_nothing_is_no_finding(rendered, before, after, reason):
    assert reason
    assert any(before in text for text in rendered.values()), "the role no longer writes this"
    assert found({path: text.replace(before, after, 1) for path, text in rendered.items()}) == set()
