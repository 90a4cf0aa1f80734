# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is decided about an nginx configuration (NGX). PRIVATE: internal to the collection, may change in any release."""

from __future__ import annotations

from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Check

CHECKS: tuple[Check, ...] = (
    Check(
        "NGX-01",
        "Configuration is not valid",
        "critical",
        "S",
        ("nginx -t", "crossplane lint"),
        "The configuration can be read to the end: braces and quotes are closed, every include leads to a file that exists, every directive"
        " is known, stands in a context it is allowed in and has a possible number of arguments, every limit zone that is used is defined,"
        " and no context holds a directive twice that may stand there once. The files that nginx opens when"
        " it starts exist. Where a table of directives (crossplane) or an nginx program is at hand it has the last word; without either,"
        " what only they can know stays unknown. Names of upstream servers are never looked up.",
        "Correct the line that is named, then let the nginx of the target test it: nginx -t -c FILE.",
        "http {\n    sever_tokens off;\n}",
        "http {\n    server_tokens off;\n}",
    ),
    Check(
        "NGX-02",
        "Server says what it runs",
        "medium",
        "SW",
        ("CIS NGINX 2.5.1", "CIS NGINX 2.5.4", "gixy version_disclosure"),
        "server_tokens is off (or empty) in every server, so that neither the Server header nor nginx's own error pages carry a version, and"
        " every location that proxies hides X-Powered-By. nginx itself drops the upstream's Server header; a proxy_pass_header that passes it"
        " on fails. Any own hide list replaces the inherited one as a whole and is judged as nginx applies it.",
        "Set server_tokens off in http and never set it again below; add proxy_hide_header X-Powered-By on the level whose hide list applies.",
        "http {\n    server_tokens build;\n}",
        "http {\n    server_tokens off;\n    proxy_hide_header X-Powered-By;\n}",
    ),
    Check(
        "NGX-03",
        "Workers run as root, or write where they may not",
        "medium",
        "SA",
        ("CIS NGINX 2.2.1", "NIST SP 800-190 4.4.3"),
        "Workers do not run as root: either the master is started as an ordinary user (declared by run_as_user), or the user directive"
        " names an account"
        " other than root. With a master that is not root, the pid file and the five temporary directories are set to places outside /var/run,"
        " /run and nginx's compiled-in prefix, because such a master cannot write there. Not declared and no user directive: the compiled-in default"
        " applies (nobody), which passes.",
        "Name an account of its own in the user directive, or start the master as that account and set pid and *_temp_path to directories"
        " it may write.",
        "user root;",
        "user nginx;",
    ),
    Check(
        "NGX-04",
        "Configuration may be written by others than root",
        "medium",
        "H",
        ("CIS NGINX 2.3.1", "CIS NGINX 2.3.2", "CIS NGINX 2.3.3"),
        "Every file of the configuration and each directory on the way to it belongs to root (or the declared owner) and may not be"
        " written by group or"
        " others. A directory that holds such a file fails with the sticky bit too: who may create a file there can be included by a glob.",
        "chown root:root FILE; chmod go-w FILE, for the file and for the directory that holds it.",
        "-rw-rw-rw- root root /etc/nginx/conf.d/app.conf",
        "-rw-r--r-- root root /etc/nginx/conf.d/app.conf",
    ),
    Check(
        "NGX-05",
        "Requests for unknown host names are served",
        "medium",
        "SW",
        ("CIS NGINX 2.4.2", "gixy default_server_flag"),
        "Every address and port that is listened on has one server marked default_server, and this server answers nothing but a refusal: return 444,"
        " 421 or 4xx for each of its locations, or ssl_reject_handshake on. Without the mark nginx takes the first server in file order,"
        " which changes"
        " with the name of an included file. Loopback addresses and unix sockets that only one server listens on are left alone. A listen"
        " without TLS on"
        " the standard port may redirect to a fixed host name, never to $host.",
        "Add to each listen a server with default_server and server_name _ that ends in return 444 (ssl_reject_handshake on for TLS).",
        "server {\n    listen 80;\n    server_name app.example.org;\n    location / { proxy_pass http://app; }\n}",
        "server {\n    listen 80 default_server;\n    server_name _;\n    return 444;\n}\nserver {\n    listen 80;\n    server_name"
        " app.example.org;\n"
        "    location / { proxy_pass http://app; }\n}",
    ),
    Check(
        "NGX-06",
        "Listens on a port that was not declared",
        "medium",
        "SA",
        ("CIS NGINX 2.4.1",),
        "Each listen directive of http, stream and mail names a port that was declared. Loopback addresses and unix sockets are not"
        " reachable from outside"
        " and need no declaration. A server without listen counts as port 80 (8000 when the master is not root), as in nginx. Not"
        " decided when no port was declared.",
        "Remove the listen directive, bind it to 127.0.0.1, or declare the port.",
        "listen 9000;  # declared: 80, 443",
        "listen 127.0.0.1:9000;",
    ),
    Check(
        "NGX-07",
        "Slow clients are waited for too long",
        "low",
        "S",
        ("CIS NGINX 2.4.3", "CIS NGINX 2.4.4", "CIS NGINX 5.2.1", "gixy low_keepalive_requests"),
        "client_header_timeout, client_body_timeout and send_timeout are at most 60 s and keepalive_timeout at most 75 s, and none of them 0 except"
        " keepalive_timeout (which then switches keep-alive off). nginx's own defaults pass. keepalive_requests is not below 100, because"
        " closing often costs a"
        " handshake each time. Long answers are a matter of proxy_read_timeout: where streaming paths are declared, more than two minutes"
        " anywhere else fails; otherwise it is not judged.",
        "Set client_header_timeout 10s; client_body_timeout 10s; send_timeout 30s; keepalive_timeout 65s; leave long waits to proxy_read_timeout.",
        "client_header_timeout 10m;",
        "client_header_timeout 10s;",
    ),
    Check(
        "NGX-08",
        "Size of requests is not bounded",
        "medium",
        "S",
        ("CIS NGINX 5.2.2", "CIS NGINX 5.2.3"),
        "client_max_body_size is not 0 (no limit) and not above the declared limit (100 MB without one), in every server and location."
        " client_header_buffer_size is at most 64k,"
        " large_client_header_buffers at most 16 of 64k, client_body_buffer_size at most 16m. nginx's defaults (1m, 1k, 4 of 8k, 16k) pass.",
        "Set client_max_body_size to what the largest request needs, for the one location that needs it.",
        "client_max_body_size 0;",
        "client_max_body_size 10m;",
    ),
    Check(
        "NGX-09",
        "Request rate is not limited",
        "high",
        "SW",
        ("CIS NGINX 5.2.5", "OWASP API 4"),
        "Each location that hands requests on (proxy_pass and its like) and can be reached from outside is under a limit_req that applies to it:"
        " limit_req of a lower level replaces all of the upper ones, and a zone that is defined without being used limits nothing. The key"
        " of the zone"
        " is not empty and not chosen by the client ($http_*, $arg_*, $cookie_*, a map of those); limit_req_dry_run on fails; a burst"
        " above one minute of the rate and a rate above 1,000 a second count as none."
        " A location that answers by itself with return or 4xx needs none.",
        "Define limit_req_zone with $binary_remote_addr as key and put limit_req zone=NAME burst=N nodelay in http, and again wherever a level has a"
        " limit_req of its own.",
        "limit_req_zone $binary_remote_addr zone=api:10m rate=10r/s;\nserver { location /api { proxy_pass http://app; } }",
        "limit_req_zone $binary_remote_addr zone=api:10m rate=10r/s;\nserver { location /api { limit_req zone=api burst=20 nodelay;"
        " proxy_pass http://app; } }",
    ),
    Check(
        "NGX-10",
        "Number of connections is not limited",
        "medium",
        "S",
        ("CIS NGINX 5.2.4", "gixy worker_rlimit_nofile_vs_connections"),
        "Each location that hands requests on and can be reached from outside is under a limit_conn that applies to it, with a key that is not"
        " chosen by the client and never empty, with at most 1,000 connections, and without limit_conn_dry_run. worker_rlimit_nofile, when"
        " set, is at least twice worker_connections, because a"
        " proxied request holds two"
        " sockets.",
        "Define limit_conn_zone $binary_remote_addr and put limit_conn ZONE N in http.",
        "limit_conn_zone $binary_remote_addr zone=addr:10m;  # never used",
        "limit_conn_zone $binary_remote_addr zone=addr:10m;\nlimit_conn addr 50;",
    ),
    Check(
        "NGX-11",
        "Methods, hidden files, listings or status pages are open",
        "medium",
        "SW",
        ("CIS NGINX 5.1.2", "CIS NGINX 2.5.3", "gixy status_page_exposed"),
        "Locations that hand requests on allow named methods only (limit_except, or if ($request_method ...) with return); a server that"
        " hands files out"
        " denies paths that begin with a dot; autoindex is off; dav_methods is off; stub_status, status and api pages are on loopback or under allow"
        " ... deny all;"
        " the paths declared as admin pages (by default /metrics, /status, /nginx_status, /server-status, /debug) are not proxied for everybody.",
        "Add if ($request_method !~ ^(GET|POST)$) { return 405; } or limit_except, location ~ /\\. { return 404; }, autoindex off, and allow/deny"
        " around status pages.",
        "location /nginx_status { stub_status; }",
        "location = /nginx_status { stub_status; allow 127.0.0.1; deny all; }",
    ),
    Check(
        "NGX-12",
        "Access rules do not hold",
        "high",
        "S",
        ("CIS NGINX 5.1.1", "gixy allow_without_deny", "gixy return_bypasses_allow_deny"),
        "A list of allow ends with deny all (the first rule that matches decides, so deny all before an allow makes the allow dead and allow all"
        " before a deny makes the deny dead)."
        " return runs before allow and deny are looked at, so what it hands out (a body with 2xx) is open to everybody; a refusal or a"
        " redirect gives nothing away. satisfy any with allow"
        " all opens what"
        " auth_basic closes. A location with rules of its own replaces all inherited rules.",
        "End the list with deny all; put return into a location of its own behind the rules (for example through try_files and a named location).",
        "location /admin { allow 10.0.0.0/8; proxy_pass http://app; }",
        "location /admin { allow 10.0.0.0/8; deny all; proxy_pass http://app; }",
    ),
    Check(
        "NGX-13",
        "Admin or model paths have no authentication",
        "critical",
        "SW",
        ("OWASP API 2",),
        "Each location that matches one of the declared protected paths is under auth_basic with a user file that exists, auth_request, auth_jwt,"
        " ssl_verify_client on, an API"
        " key check by a map and return 401/403, or allow ... deny all. auth_basic off and satisfy any with allow all count as nothing. The user file"
        " does not lie below a"
        " root that is served, holds no plain text or unsalted password, and cannot be read by everybody. Without declared paths,"
        " locations and upstreams of services known to ask nobody (Prometheus, Alertmanager, Ollama, vLLM and their like) are named"
        " (medium); services that check the key themselves are not declared.",
        "Add auth_basic with auth_basic_user_file, auth_request, or ssl_verify_client on to the location; hash the passwords with bcrypt or SHA-512.",
        "location /admin/ { proxy_pass http://app; }",
        "location /admin/ { auth_basic admin; auth_basic_user_file /etc/nginx/htpasswd; proxy_pass http://app; }",
    ),
    Check(
        "NGX-14",
        "Requests or errors are not logged",
        "medium",
        "S",
        ("CIS NGINX 3.1", "CIS NGINX 3.2", "CIS NGINX 3.3", "gixy error_log_off"),
        "access_log is on for every location that serves others than loopback (a lower level replaces the upper ones; favicon.ico, robots.txt, health"
        " and status pages may be"
        " without), and error_log leads to a file, stderr or syslog: error_log off writes a file named off, /dev/null and a level of emerg lose the"
        " errors. The log"
        " does not carry $http_authorization, $http_cookie, $request_body or cookie values.",
        "Set access_log and error_log once in http and nowhere below; switch errors down by level, never by off.",
        "error_log off;\naccess_log off;",
        "error_log /var/log/nginx/error.log warn;\naccess_log /var/log/nginx/access.log main;",
    ),
    Check(
        "NGX-15",
        "Address of the client can be forged or is lost",
        "medium",
        "S",
        ("CIS NGINX 3.7",),
        "set_real_ip_from names the proxies in front of this server and never everybody (0.0.0.0/0, ::/0, or a range wider than /8 and /32 for IPv6);"
        " real_ip_header without"
        " set_real_ip_from does nothing. Locations that proxy hand the client's address on, and at the edge X-Forwarded-For and X-Real-IP are"
        " overwritten with $remote_addr:"
        " $proxy_add_x_forwarded_for keeps what the client wrote and is accepted only behind declared proxies. Any own proxy_set_header replaces the"
        " inherited list as a whole.",
        "proxy_set_header X-Forwarded-For $remote_addr; at the edge, set_real_ip_from ADDRESS OF THE PROXY behind one.",
        "set_real_ip_from 0.0.0.0/0;\nreal_ip_header X-Forwarded-For;",
        "set_real_ip_from 192.0.2.10;\nreal_ip_header X-Forwarded-For;\nproxy_set_header X-Forwarded-For $remote_addr;",
    ),
    Check(
        "NGX-16",
        "Security headers are missing",
        "medium",
        "SW",
        ("CIS NGINX 5.3.1", "CIS NGINX 5.3.2", "CIS NGINX 5.3.4", "OWASP Secure Headers"),
        "Every server that answers the outside world sends X-Content-Type-Options nosniff, protection against framing (X-Frame-Options"
        " DENY or SAMEORIGIN, or"
        " frame-ancestors in the policy), Referrer-Policy (not unsafe-url) and Permissions-Policy, each with always so that error pages"
        " carry them too (low without). X-XSS-Protection with 1 fails:"
        " the filter it switches on is a hole of its own. Levels without a header of their own inherit; levels with one are judged by what they send"
        " (NGX-18 names the place). Answers"
        " that carry no document (redirects, 4xx refusals of a default server) are not judged.",
        "Put the add_header lines, with always, into one file that is included on the level where they apply.",
        'add_header X-XSS-Protection "1; mode=block";',
        "add_header X-Content-Type-Options nosniff always;\nadd_header X-Frame-Options DENY always;\nadd_header Referrer-Policy no-referrer always;\n"
        'add_header Permissions-Policy "camera=(), geolocation=(), microphone=()" always;',
    ),
    Check(
        "NGX-17",
        "Content security policy is missing or weak",
        "medium",
        "SW",
        ("CIS NGINX 5.3.3", "OWASP Secure Headers"),
        "Every server that answers the outside world sends a Content-Security-Policy whose default-src or script-src and object-src hold no *, http:,"
        " https:, data:, unsafe-inline (unless a nonce,"
        " hash or strict-dynamic switches it off) and unsafe-eval, with base-uri bounded. A policy that only reports, or none, fails."
        " Values that come"
        " from a map are judged value by value;"
        " a value passed on from the upstream is left to it.",
        "Begin with default-src 'none' (or 'self') and name what is needed; use nonces instead of unsafe-inline.",
        "add_header Content-Security-Policy \"default-src * 'unsafe-inline'\";",
        "add_header Content-Security-Policy \"default-src 'none'; frame-ancestors 'none'; base-uri 'none'\" always;",
    ),
    Check(
        "NGX-18",
        "A lower level silences headers",
        "medium",
        "S",
        (
            "gixy add_header_redefinition",
            "gixy add_header_content_type",
            "gixy add_header_multiline",
            "semgrep header-redefinition",
        ),
        "A level that has an add_header (or add_trailer, proxy_set_header, proxy_hide_header, grpc_set_header) of its own repeats every one it would"
        " have inherited, because nginx replaces the list as a whole; with"
        " add_header_inherit merge (nginx 1.29.3) nothing is lost, off loses all. Security headers that are lost are medium, others low. No"
        " Content-Type by add_header (it is sent twice), no value with a"
        " line break.",
        "Include the file with all headers on the level that adds one, or move the header up with a map that gives an empty value elsewhere.",
        "server {\n    add_header X-Frame-Options DENY always;\n    location /api { add_header X-Api 1; }\n}",
        "server {\n    add_header X-Frame-Options DENY always;\n    location /api { add_header X-Frame-Options DENY always; add_header X-Api 1; }\n}",
    ),
    Check(
        "NGX-19",
        "Files outside the intended directory can be fetched",
        "high",
        "S",
        ("gixy alias_traversal", "gixy filesystem_root_exposure", "semgrep alias-path-traversal"),
        "A prefix location with alias ends with a slash when the alias does, otherwise /files../ leads one directory up; a captured part of an alias"
        " or root cannot begin with a dot or hold"
        " slashes where the pattern leaves the directory. root and alias are not /, /etc, /root, /home, /var, /proc or nginx's own configuration;"
        " merge_slashes off with a root or alias fails;"
        " disable_symlinks is not asked for.",
        "End location and alias both with a slash, and name the directory of the site as root.",
        "location /files { alias /srv/files/; }",
        "location /files/ { alias /srv/files/; }",
    ),
    Check(
        "NGX-20",
        "Request data reaches a header, a target or a trust decision",
        "high",
        "S",
        (
            "gixy http_splitting",
            "gixy ssrf",
            "gixy host_spoofing",
            "gixy origins",
            "gixy valid_referers",
            "semgrep header-injection",
        ),
        "No value that can hold a line break ($uri, $document_uri, captures of patterns that match one, and variables set from them) stands in a"
        " header, in return, rewrite or proxy_pass; no part of a"
        " proxy_pass host comes from the request unless a map or the pattern bounds it, and a location for that is internal; Host passed on is $host"
        " or fixed, not $http_host or $arg_*; patterns that test Origin or Referer"
        " are anchored at both ends with escaped dots, and valid_referers does not accept none; Access-Control-Allow-Origin is not"
        " $http_origin (nor *"
        " with credentials).",
        "Use $request_uri instead of $uri in redirects, $host instead of $http_host, ^https://app\\.example\\.org$ for origins, and a map from known"
        " names to targets.",
        "location / { return 301 https://$host$uri; }",
        "location / { return 301 https://$host$request_uri; }",
    ),
    Check(
        "NGX-21",
        "Upstreams are named or passed on in a way that surprises",
        "medium",
        "S",
        ("gixy missing_resolver", "gixy resolver_external", "gixy proxy_pass_normalized", "semgrep h2c-smuggling"),
        "Upstream names: a fixed name in proxy_pass or upstream is looked up once when nginx starts, so that nginx does not start without"
        " it and never"
        " notices a new address; with a variable (or resolve in the"
        " upstream) there is a resolver, one on the inside (127.0.0.11, a private address), because answers of a public one can be forged on the way."
        " proxy_pass with a path after the host decodes the path of the"
        " client and encodes it again (%2F becomes a slash). Upgrade is passed on only to the value websocket: Upgrade $http_upgrade for"
        " every request"
        " lets h2c through, past every rule here.",
        "resolver 127.0.0.11 valid=10s; set $app app:8000; proxy_pass http://$app$request_uri; and a map $http_upgrade $upgrade {"
        " websocket websocket;"
        " default ''; }.",
        "location / { proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $http_connection; proxy_pass http://app:8000; }",
        'resolver 127.0.0.11 valid=10s;\nlocation / { set $app app:8000; proxy_set_header Upgrade ""; proxy_set_header Connection ""; proxy_pass'
        " http://$app; }",
    ),
    Check(
        "NGX-22",
        "Patterns and conditions do not do what they seem to",
        "medium",
        "S",
        (
            "gixy if_is_evil",
            "gixy regex_redos",
            "gixy unanchored_regex",
            "gixy invalid_regex",
            "gixy hash_without_default",
            "gixy try_files_is_evil_too",
            "gixy regex_exact_match",
        ),
        "if in a location holds only return, rewrite ... last/redirect/permanent, set or break; no pattern can take exponential or cubic"
        " time on input"
        " of the client; every pattern compiles, and every $1 refers to a group"
        " that exists; a location with a pattern for a file ending is anchored; map, geo, split_clients and hash that decide have a"
        " default; try_files"
        " stands in the location it is for, without a proxy_pass"
        " beside it.",
        "Return from if and leave the rest to locations and maps; anchor patterns with ^ and $; write ([^/]+)+ as [^/]+; give every map a default.",
        "location ~ ^/(a+)+$ { proxy_pass http://app; }",
        "location ~ ^/a+$ { proxy_pass http://app; }",
    ),
)
TABLE = {check.id: check for check in CHECKS}
