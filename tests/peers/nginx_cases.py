# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Small nginx configurations, each weak in one way: for every plugin of gixy-ng in several spellings, with near misses."""

from __future__ import annotations

#: Hardened, with a place for what a case adds to http, to the server, to location /api/ and behind everything.
HARD = """\
worker_processes 1;
worker_rlimit_nofile 4096;
error_log /dev/stderr warn;
pid /tmp/nginx.pid;
events { worker_connections 1024; }
http {
    client_body_temp_path /tmp/body;
    proxy_temp_path /tmp/proxy;
    fastcgi_temp_path /tmp/fastcgi;
    uwsgi_temp_path /tmp/uwsgi;
    scgi_temp_path /tmp/scgi;
    server_tokens off;
    default_type text/plain;
    access_log /dev/stdout;
    limit_req_zone $binary_remote_addr zone=req:1m rate=10r/s;
    limit_conn_zone $binary_remote_addr zone=conn:1m;
    limit_req zone=req burst=5 nodelay;
    limit_conn conn 10;
    keepalive_requests 1000;
    proxy_hide_header X-Powered-By;
    proxy_http_version 1.1;
    proxy_set_header Host $host;
    proxy_set_header X-Forwarded-For $remote_addr;
    proxy_set_header X-Real-IP $remote_addr;
    proxy_ssl_verify on;
    proxy_ssl_server_name on;
    proxy_ssl_trusted_certificate /etc/ssl/certs/ca-certificates.crt;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_ciphers ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384;
    ssl_prefer_server_ciphers off;
    ssl_session_tickets off;
    ssl_certificate /etc/nginx/tls/chain.pem;
    ssl_certificate_key /etc/nginx/tls/key.pem;
    upstream backend { server 127.0.0.1:9000; }
@http@
    server {
        listen 8080 default_server;
        server_name _;
        return 444;
    }
    server {
        listen 8443 ssl default_server;
        server_name _;
        ssl_reject_handshake on;
        return 444;
    }
    server {
        listen 8443 ssl;
        server_name www.example.org;
        add_header Strict-Transport-Security "max-age=63072000" always;
        add_header X-Content-Type-Options nosniff always;
        add_header X-Frame-Options DENY always;
        add_header Referrer-Policy no-referrer always;
        add_header Permissions-Policy "camera=()" always;
        add_header Content-Security-Policy "default-src 'none'; frame-ancestors 'none'" always;
@server@
        location /api/ {
            limit_except GET POST { deny all; }
@location@
        }
        location / { return 404; }
    }
@behind@
}
"""

#: Plugin -> spelling -> what is added: {place: text}, {"-": line that is left out}, {"old": text, "new": text};
#: a text alone goes into the server.
CASES: dict[str, dict[str, dict[str, str] | str]] = {
    "hardened": {"nothing": {}},
    "add_header_content_type": {
        "plain": "add_header Content-Type text/plain;",
        "case": "add_header content-type 'text/html; charset=utf-8' always;",
        "other": "default_type text/html;",
    },
    "add_header_multiline": {
        "quoted": "location /x { add_header X-Test 'a\n b'; return 404; }",
        "policy": {"old": "default-src 'none'; frame", "new": "default-src 'none';\n frame"},
    },
    "add_header_redefinition": {
        "location": {"location": "add_header X-Test a always; return 200 x;"},
        "nested": "location /x/ { location /x/y { add_header Cache-Control no-store; return 200 x; } return 404; }",
        "if": {"location": "if ($request_method = PUT) { add_header Allow GET; return 405; }"},
        "http is lost": {"http": "add_header X-Test a always;"},
    },
    "alias_traversal": {
        "no slash": "location /files { alias /srv/files/; }",
        "both slashes": "location /files/ { alias /srv/files/; }",
        "regex": "location ~ /site/(l\\.)(.*) { alias /srv/$1/$2; }",
        "caret": "location ^~ /i { alias /srv/img/; }",
        "neither": "location /files { alias /srv/files; }",
        "nested": "location /a { location /a/b { alias /srv/b/; } return 404; }",
    },
    "allow_without_deny": {
        "server": "allow 127.0.0.1;",
        "location": {"location": "allow 10.0.0.0/8; proxy_pass http://backend;"},
        "with deny": {"location": "allow 10.0.0.0/8; deny all; proxy_pass http://backend;"},
        "deny first": {"location": "deny all; allow 10.0.0.0/8; proxy_pass http://backend;"},
        "allow all": {"location": "allow all; proxy_pass http://backend;"},
        "deny of the server": {"server": "deny all;", "location": "allow 10.0.0.0/8; proxy_pass http://backend;"},
    },
    "default_server_flag": {
        "two servers": {"behind": "server { listen 9090; server_name a; return 444; } server { listen 9090; server_name b; return 444; }"},
        "default": {"behind": "server { listen 9090 default_server; server_name a; return 444; } server { listen 9090; server_name b; return 444; }"},
    },
    "error_log_off": {
        "http": {"http": "error_log off;"},
        "server": "error_log off;",
        "null": "error_log /dev/null crit;",
    },
    "filesystem_root_exposure": {
        "root": "location /x/ { root /; }",
        "alias": "location /x/ { alias /; }",
        "server": "root /;",
        "etc": "location /x/ { root /etc; }",
        "own": "location /x/ { root /srv/www; }",
    },
    "hash_without_default": {
        "map": {"http": "map $http_x $allowed { a 1; b 2; }", "location": "if ($allowed) { return 403; } proxy_pass http://backend;"},
        "map with default": {"http": "map $http_x $allowed { default 0; a 1; }", "location": "if ($allowed) { return 403; } proxy_pass http://backend;"},
        "geo": {"http": "geo $inside { 10.0.0.0/8 1; }", "location": "if ($inside = 0) { return 403; } proxy_pass http://backend;"},
        "unused": {"http": "map $http_x $unused { a 1; }"},
    },
    "host_spoofing": {
        "http_host": {"location": "proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Real-IP $remote_addr; proxy_set_header Host $http_host; proxy_pass http://backend;"},
        "case": {"location": "proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Real-IP $remote_addr; proxy_set_header HOST $http_host; proxy_pass http://backend;"},
        "argument": {"location": "proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Real-IP $remote_addr; proxy_set_header Host $arg_host; proxy_pass http://backend;"},
        "in quotes": {"location": "proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Real-IP $remote_addr; proxy_set_header Host \"$http_host\"; proxy_pass http://backend;"},
        "host": {"location": "proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Real-IP $remote_addr; proxy_set_header Host $host; proxy_pass http://backend;"},
    },
    "hsts_header": {
        "missing": {"-": "        add_header Strict-Transport-Security \"max-age=63072000\" always;\n"},
        "short": {"old": "max-age=63072000", "new": "max-age=600"},
        "zero": {"old": "max-age=63072000", "new": "max-age=0"},
        "half a year": {"old": "max-age=63072000", "new": "max-age=15768000"},
        "no age": {"old": "max-age=63072000", "new": "includeSubDomains"},
    },
    "http2_misdirected_request": {
        "rejects": {"old": "ssl_reject_handshake on;\n        return 444;", "new": "ssl_reject_handshake on;\n        http2 on;"},
        "421": {"old": "ssl_reject_handshake on;\n        return 444;", "new": "ssl_reject_handshake on;\n        http2 on;\n        location / { return 421; }"},
        "444": {"old": "ssl_reject_handshake on;\n        return 444;", "new": "ssl_reject_handshake on;\n        http2 on;\n        return 444;"},
    },
    "http_splitting": {
        "return": "location /x { return 301 https://www.example.org$uri; }",
        "document_uri": "location /x { return 301 https://www.example.org$document_uri; }",
        "rewrite": "location /x { rewrite ^ https://www.example.org$uri permanent; }",
        "header": {"location": "proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Real-IP $remote_addr; proxy_set_header Host $host; proxy_set_header X-Original $uri; proxy_pass http://backend;"},
        "add_header": "location /x { add_header X-Path $uri always; return 404; }",
        "proxy_pass": {"location": "proxy_pass http://backend$uri;"},
        "capture": "location ~ ^/go/([^/]+)$ { return 301 https://www.example.org/$1; }",
        "capture of anything but a slash": "location ~ ^/v1/((?<action>[^.]*)\\.json)?$ { add_header X-Action $action; return 200 x; }",
        "capture of words": "location ~ ^/go/([a-z]+)$ { return 301 https://www.example.org/$1; }",
        "request_uri": "location /x { return 301 https://www.example.org$request_uri; }",
        "set": "location /x { set $to $uri; return 301 https://www.example.org$to; }",
        "named group of a rewrite": "rewrite ^/proxy/(a|b)/(?<path>\\W*)$ http://www.example.org/$path redirect;",
        "numbered group of a rewrite": "rewrite ^/proxy/([^/]*)$ http://www.example.org/$1 redirect;",
        "user": {"location": "proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Real-IP $remote_addr; proxy_set_header Host $host; proxy_set_header X-User $remote_user; proxy_pass http://backend;"},
    },
    "if_is_evil": {
        "rewrite to another site": {"location": "if ($http_x) { rewrite ^ http://www.example.org/ break; } proxy_pass http://backend;"},
        "header": {"location": "if ($http_x) { add_header X-Test a; } proxy_pass http://backend;"},
        "proxy": {"location": "if ($http_x) { proxy_pass http://backend; }"},
        "try_files": {"location": "if ($http_x) { set $y 1; } try_files $uri =404;"},
        "return": {"location": "if ($http_x) { return 403; } proxy_pass http://backend;"},
        "rewrite last": {"location": "if ($http_x) { rewrite ^ /other last; } proxy_pass http://backend;"},
        "server": "if ($http_x) { return 403; }",
    },
    "invalid_regex": {
        "no group": "rewrite ^/path /new/$1 redirect;",
        "flag": "rewrite \"(?i)/path\" /new/$1 break;",
        "two of one": "rewrite ^/(a) /new/$2 redirect;",
        "if": "if ($uri ~ \"^/test\") { set $x $1; }",
        "group": "rewrite ^/(a|b)$ /new/$1 redirect;",
    },
    "low_keepalive_requests": {
        "hundred": {"old": "keepalive_requests 1000;", "new": "keepalive_requests 100;"},
        "one": {"old": "keepalive_requests 1000;", "new": "keepalive_requests 1;"},
    },
    "missing_resolver": {
        "name": {"location": "proxy_pass https://api.example.com;"},
        "cloud": {"location": "proxy_pass https://x.eu-west-1.elb.amazonaws.com;"},
        "upstream": {"http": "upstream names { server api.example.com:443; }", "location": "proxy_pass https://names;"},
        "variable without resolver": {"location": "set $to api.example.com; proxy_pass https://$to;"},
        "variable with resolver": {"http": "resolver 127.0.0.11;", "location": "set $to api.example.com; proxy_pass https://$to;"},
        "service": {"location": "proxy_pass http://gateway:8080;"},
        "address": {"location": "proxy_pass http://10.0.0.1:8080;"},
    },
    "origins": {
        "no end": {"location": "if ($http_origin ~ ^https://www\\.example\\.org) { add_header Access-Control-Allow-Origin $http_origin; } proxy_pass http://backend;"},
        "dot": {"location": "if ($http_origin !~ ^https://www.example.org$) { return 403; } proxy_pass http://backend;"},
        "referer": {"location": "if ($http_referer !~ \"^https://([^/])+metrika.*yandex\\.ru/\") { return 403; } proxy_pass http://backend;"},
        "map": {"http": "map $http_origin $cors { default ''; ~example\\.org$ $http_origin; }", "location": "add_header Access-Control-Allow-Origin $cors; proxy_pass http://backend;"},
        "any": {"location": "add_header Access-Control-Allow-Origin $http_origin always; proxy_pass http://backend;"},
        "exact": {"location": "if ($http_origin !~ ^https://www\\.example\\.org$) { return 403; } proxy_pass http://backend;"},
    },
    "proxy_pass_normalized": {
        "slash": {"location": "proxy_pass http://backend/;"},
        "path": {"location": "proxy_pass http://backend/v1/;"},
        "none": {"location": "proxy_pass http://backend;"},
        "exact": "location = /one { limit_except GET { deny all; } proxy_pass http://backend/other; }",
        "request_uri": {"location": "proxy_pass http://backend$request_uri;"},
    },
    "quic_bpf_reuseport": {
        "both": {"old": "worker_processes 1;", "new": "worker_processes 4; quic_bpf on;", "server": "listen 8443 quic reuseport;"},
    },
    "regex_exact_match": {
        "literal": "location ~ ^/health$ { return 200 ok; }",
        "escaped": "location ~ ^/a\\.txt$ { return 200 ok; }",
        "case": "location ~* ^/health$ { return 200 ok; }",
    },
    "regex_redos": {
        "nested": "location ~ ^/(a+)+$ { return 404; }",
        "alternatives": "location ~ ^/(a|ab)+$ { return 404; }",
        "two stars": "location ~ ^/(.*)x(.*)y(.*)$ { return 404; }",
        "rewrite": "rewrite ^/((\\d+)*)+z$ /x last;",
        "if": "if ($http_user_agent ~ (x+x+)+y) { return 403; }",
        "plain": "location ~ ^/([a-z]+)/([0-9]+)$ { return 404; }",
    },
    "resolver_external": {
        "google": {"http": "resolver 8.8.8.8;"},
        "cloudflare": {"http": "resolver 1.1.1.1 valid=30s;"},
        "six": {"http": "resolver [2001:4860:4860::8888];"},
        "one of two": {"http": "resolver 127.0.0.1 9.9.9.9;"},
        "docker": {"http": "resolver 127.0.0.11 valid=10s;"},
        "own": {"http": "resolver 10.0.0.2;"},
    },
    "return_bypasses_allow_deny": {
        "location": "location /x { allow 127.0.0.1; deny all; return 200 hi; }",
        "server": {"behind": "server { listen 9090 default_server; server_name a; allow 127.0.0.1; deny all; return 200 hi; }"},
        "refuses": "location /x { allow 127.0.0.1; deny all; return 404; }",
        "proxied": {"location": "allow 127.0.0.1; deny all; proxy_pass http://backend;"},
    },
    "ssl_ecdh_curve": {
        "required": "ssl_ecdh_curve X25519MLKEM768:X25519;",
        "tolerated": "ssl_ecdh_curve ?X25519MLKEM768:X25519:prime256v1;",
        "weak": "ssl_ecdh_curve secp224r1;",
    },
    "ssl_stapling_letsencrypt": {
        "on": {"http": "resolver 127.0.0.11; ssl_stapling on; ssl_stapling_verify on; ssl_trusted_certificate /etc/letsencrypt/live/x/chain.pem;", "server": "ssl_certificate /etc/letsencrypt/live/x/fullchain.pem; ssl_certificate_key /etc/letsencrypt/live/x/privkey.pem;"},
    },
    "ssl_stapling_without_resolver": {
        "none": "ssl_stapling on;",
        "with": {"http": "resolver 127.0.0.11;", "server": "ssl_stapling on; ssl_stapling_verify on; ssl_trusted_certificate /etc/nginx/tls/ca.pem;"},
        "file": "ssl_stapling on; ssl_stapling_file /etc/nginx/tls/ocsp.der;",
    },
    "ssrf": {
        "argument": {"http": "resolver 127.0.0.11;", "location": "proxy_pass http://$arg_host;"},
        "header": {"http": "resolver 127.0.0.11;", "location": "proxy_pass http://$http_x_host/x;"},
        "capture": {"http": "resolver 127.0.0.11;", "server": "location ~ ^/proxy/(?<scheme>https?)/(?<host>[^/]+)/(?<path>.*)$ { limit_except GET { deny all; } proxy_pass $scheme://$host/$path; }"},
        "host": {"http": "resolver 127.0.0.11;", "location": "proxy_pass http://$host;"},
        "cookie": {"http": "resolver 127.0.0.11;", "location": "set $to $cookie_backend; proxy_pass http://$to;"},
        "map": {"http": "resolver 127.0.0.11; map $arg_x $to { default 127.0.0.1:9000; b 127.0.0.1:9001; }", "location": "proxy_pass http://$to;"},
        "internal": {"http": "resolver 127.0.0.11;", "server": "location /i/ { internal; proxy_pass http://$arg_host; }"},
    },
    "status_page_exposed": {
        "open": "location = /status { stub_status; }",
        "allow only": "location = /status { stub_status; allow 127.0.0.1; }",
        "restricted": "location = /status { stub_status; allow 127.0.0.1; deny all; }",
        "denied": "location = /status { stub_status; deny all; }",
    },
    "try_files_is_evil_too": {
        "plain": "location /x/ { root /srv/www; try_files $uri =404; }",
        "cached": "location /x/ { root /srv/www; open_file_cache max=10; try_files $uri =404; }",
    },
    "unanchored_regex": {
        "php": "location ~ \\.php { return 404; }",
        "dollar": "location ~ \\.php$ { return 404; }",
        "caret": "location ~ ^/v[0-9]/ { return 404; }",
        "middle": "location ~ /v[0-9]/ { return 404; }",
    },
    "valid_referers": {
        "none": {"location": "valid_referers none blocked www.example.org; if ($invalid_referer) { return 403; } proxy_pass http://backend;"},
        "strict": {"location": "valid_referers www.example.org; if ($invalid_referer) { return 403; } proxy_pass http://backend;"},
    },
    "version_disclosure": {
        "on": {"old": "server_tokens off;", "new": "server_tokens on;"},
        "build": {"old": "server_tokens off;", "new": "server_tokens build;"},
        "missing": {"old": "server_tokens off;", "new": ""},
        "server": "server_tokens on;",
    },
    "weak_ssl_tls": {
        "TLS 1.0": {"old": "ssl_protocols TLSv1.2", "new": "ssl_protocols TLSv1 TLSv1.2"},
        "TLS 1.1": {"server": "ssl_protocols TLSv1.1 TLSv1.2 TLSv1.3;"},
        "SSL 3": {"server": "ssl_protocols SSLv3 TLSv1.2;"},
        "RC4": {"server": "ssl_ciphers RC4-SHA:ECDHE-ECDSA-AES128-GCM-SHA256;"},
        "DES": {"server": "ssl_ciphers DES-CBC3-SHA;"},
        "HIGH": {"server": "ssl_ciphers HIGH:!aNULL:!MD5;"},
        "NULL": {"server": "ssl_ciphers ALL:eNULL;"},
        "no order": {"server": "ssl_prefer_server_ciphers on;"},
        "missing": {"old": "ssl_protocols TLSv1.2 TLSv1.3;", "new": ""},
    },
    "worker_rlimit_nofile_vs_connections": {
        "missing": {"old": "worker_rlimit_nofile 4096;\n", "new": ""},
        "small": {"old": "worker_rlimit_nofile 4096;", "new": "worker_rlimit_nofile 1024;"},
    },
}  # fmt: skip


def text(change: dict[str, str] | str) -> str:
    """The configuration of a case."""
    change = {"server": change} if isinstance(change, str) else change
    out = HARD
    if "-" in change:
        assert change["-"] in out
        out = out.replace(change["-"], "", 1)
    if "old" in change:
        assert change["old"] in out
        out = out.replace(change["old"], change["new"], 1)
    for place, default in (("http", ""), ("server", ""), ("location", "proxy_pass http://backend;"), ("behind", "")):
        out = out.replace(f"@{place}@", change.get(place, default))
    return out


def files() -> dict[str, str]:
    """Case -> configuration."""
    return {f"{plugin} {name}": text(change) for plugin, kinds in CASES.items() for name, change in kinds.items()}
