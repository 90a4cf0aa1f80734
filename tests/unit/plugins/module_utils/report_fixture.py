# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Results as they could come from a neglected host, for tests of the report and for looking at its page."""

from __future__ import annotations

import datetime

from ansible_collections.mcpstack.platform.plugins.module_utils import (
    _checks_container,
    _checks_host,
    _checks_image,
    _checks_nginx,
    _checks_runtime,
    _checks_tls,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_report import (
    build,
    read_results,
    remember,
    waive,
)

TOPICS = {
    "container": _checks_container.TABLE,
    "host": _checks_host.TABLE,
    "image": _checks_image.TABLE,
    "nginx": _checks_nginx.TABLE,
    "runtime": _checks_runtime.TABLE,
    "tls": _checks_tls.TABLE,
}
CATALOGUE = {check.id: check for table in TOPICS.values() for check in table.values()}
TODAY = datetime.date(2026, 11, 21)
GENERATED = "2026-11-21T05:15:04Z"

#: id, subject, where, evidence, severity where it is not the check's
COMPOSE = [
    ("CMP-01", "dind", "compose/ci.yml:14", "privileged: true", None),
    ("CMP-21", "traefik", "compose/edge.yml:31", "/var/run/docker.sock:/var/run/docker.sock:ro", None),
    ("CMP-21", "portainer", "compose/admin.yml:12", "/var/run:/host/run", None),
    ("CMP-22", "backup", "compose/backup.yml:22", "/:/host:ro", "high"),
    ("CMP-02", "grafana", "compose/observe.yml:8", "cap_drop is not set", None),
    ("CMP-02", "prometheus", "compose/observe.yml:41", "cap_drop: [NET_RAW]", None),
    ("CMP-02", "postgres", "compose/data.yml:5", "cap_drop is not set", None),
    ("CMP-03", "vpn", "compose/edge.yml:77", "cap_add: [NET_ADMIN]", "high"),
    ("CMP-05", "grafana", "compose/observe.yml:8", "security_opt has no no-new-privileges", None),
    ("CMP-05", "postgres", "compose/data.yml:5", "security_opt: [no-new-privileges:false]", None),
    ("CMP-05", "worker", "compose/app.yml:30", "security_opt has no no-new-privileges", None),
    ("CMP-06", "worker", "compose/app.yml:30", 'user: "00"', None),
    ("CMP-08", "worker", "compose/app.yml:30", "read_only is not set", None),
    ("CMP-08", "grafana", "compose/observe.yml:8", "read_only is not set", None),
    ("CMP-08", "redis", "compose/data.yml:60", "read_only: false", None),
    ("CMP-10", "worker", "compose/app.yml:30", "no memory limit", None),
    ("CMP-10", "redis", "compose/data.yml:60", "no memory limit", None),
    ("CMP-11", "worker", "compose/app.yml:30", "no CPU limit", None),
    ("CMP-12", "worker", "compose/app.yml:30", "pids_limit: -1", None),
    ("CMP-12", "redis", "compose/data.yml:60", "no limit of processes", None),
    ("CMP-15", "worker", "compose/app.yml:30", "no health check", None),
    ("CMP-16", "api", "compose/app.yml:19", "curl http://example.org/ || exit 1", None),
    ("CMP-18", "node-exporter", "compose/observe.yml:90", "pid: host", None),
    ("CMP-25", "browser", "compose/app.yml:64", "security_opt: [seccomp:unconfined]", None),
    ("IMG-02", "grafana", "compose/observe.yml:9", "image: grafana/grafana", None),
    ("IMG-02", "redis", "compose/data.yml:61", "image: redis:7", None),
    ("NET-01", "postgres", "compose/data.yml:18", 'ports: ["5432:5432"]', None),
    ("NET-01", "redis", "compose/data.yml:70", 'ports: ["[::]:6379:6379"]', None),
    ("NET-06", "prometheus", "compose/observe.yml:52", "--web.enable-admin-api", None),
]  # fmt: skip
NGINX = [
    ("NGX-01", "nginx", "/etc/nginx/conf.d/api.conf:3", 'unknown directive "proxy_passs"', None),
    ("NGX-02", "nginx", "/etc/nginx/nginx.conf:18", "server_tokens on", None),
    ("NGX-09", "api.example.org", "/etc/nginx/conf.d/api.conf:41", "limit_req_zone api is used nowhere", None),
    ("NGX-13", "api.example.org", "/etc/nginx/conf.d/api.conf:58", "location /v1/models has no authentication", None),
    ("NGX-16", "www.example.org", "/etc/nginx/conf.d/www.conf:12", "X-Content-Type-Options is not sent", None),
    ("NGX-18", "www.example.org", "/etc/nginx/conf.d/www.conf:30", "add_header drops 4 headers of the server", None),
    ("NGX-19", "www.example.org", "/etc/nginx/conf.d/www.conf:44", "location /files with alias /srv/files/", None),
    ("TLS-02", "www.example.org", "/etc/nginx/conf.d/www.conf:7", "ssl_protocols TLSv1.1 TLSv1.2", None),
    ("TLS-03", "www.example.org", "/etc/nginx/conf.d/www.conf:8", "ssl_ciphers HIGH:!aNULL", None),
    ("TLS-07", "www.example.org", "/etc/nginx/conf.d/www.conf:2", "max-age=300", None),
]  # fmt: skip
HOST = [
    ("DMN-01", "dockerd", "0.0.0.0:2375", "the API listens without tlsverify (pid 812)", None),
    ("DMN-11", "dockerd", "/etc/docker/daemon.json", "log-driver json-file without max-size", None),
    ("DMN-13", "dockerd", "/etc/docker/daemon.json", "live-restore is not set", None),
    ("DMN-14", "dockerd", "/etc/docker/daemon.json:4", "userland-proxy: true", None),
    ("HST-02", "group docker", "/etc/group", "deploy, alice, jenkins", None),
    ("HST-06", "daemon.json", "/etc/docker/daemon.json", "mode 0666", None),
    ("HST-07", "docker.sock", "/run/docker.sock", "mode 0606", None),
    ("HST-11", "sysctl", "kernel.kptr_restrict", "0", None),
    ("HST-13", "stack tree", "/srv/stack/run.sh", "mode 0777, owner deploy", None),
    ("RUN-03", "shop-worker-1", "/proc/4112/status", "CapEff 000001ffffffffff, NoNewPrivs 0, Uid 0", None),
    ("RUN-05", "shop-api-1", "/tmp/.x/kdevtmpfsi", "added to the container since it started", None),
    ("RUN-06", "shop-mail-1", "container shop-mail-1", "restarted 341 times", None),
]  # fmt: skip
IMAGES = [
    ("IMG-04", "shop/worker:3.2", "config.User", "is empty, which is root", None),
    ("IMG-05", "shop/worker:3.2", "config.Healthcheck", "is not set", None),
    ("IMG-06", "shop/worker:3.2", "/usr/bin/su", "mode 4755, owner 0:0", "low"),
    ("IMG-06", "shop/worker:3.2", "/usr/bin/passwd", "mode 4755, owner 0:0", "low"),
    ("IMG-07", "shop/worker:3.2", "history[4]", "RUN curl -fsSL https://example.org/i.sh | sh", None),
    ("IMG-09", "shop/worker:3.2", "openssl", "3.5.1-1 (trixie-security has 3.5.1-1+deb13u1)", "high"),
    ("IMG-09", "shop/worker:3.2", "libxml2", "2.12.7-1 (trixie-security has 2.12.7-1+deb13u2)", "high"),
]  # fmt: skip
#: Checks of the compose project that failed until so many days before the last run.
EARLIER = {"CMP-17": 0, "CMP-23": 0, "NET-02": 3, "CMP-20": 4, "CMP-26": 6, "NET-03": 9, "CMP-28": 10}
WAIVERS = [
    {"id": "CMP-18", "where": "*", "subject": "node-exporter", "reason": "counts processes of the host", "expires": "2027-03-31"},
    {"id": "CMP-22", "where": "compose/backup.yml:*", "subject": "*", "reason": "reads what it backs up", "expires": "2027-01-31"},
    {"id": "IMG-05", "where": "*", "subject": "*", "reason": "the compose file has the health check", "expires": "2026-10-31"},
]  # fmt: skip
UNDECIDED = {
    "RUN-02": "no lock file was given",
    "RUN-04": "the network namespace of 2 containers could not be entered: Operation not permitted",
    "HST-10": "apt lists are 41 days old",
    "DMN-16": "the engine did not answer /version within 10 s",
    "TLS-10": "the certificate could not be read: Permission denied",
    "TLS-08": "the certificate could not be read: Permission denied",
    "TLS-09": "the certificate could not be read: Permission denied",
    "IMG-10": "an engine keeps no signatures: give the archive in the OCI layout",
}
NOT_APPLICABLE = {
    "CMP-19": "the engine does not remap users",
    "CMP-24": "no service asks for a device",
    "NGX-21": "no upstream is used",
    "HST-09": "no certificate of a registry is installed",
}


def audited(topics: tuple[str, ...], rows: list[tuple]) -> dict:
    """A result over some topics: rows are found, what is in neither table passes."""
    audit = Audit({check_id: check for name in topics for check_id, check in TOPICS[name].items()})
    for check_id in audit.table:
        if check_id in UNDECIDED:
            audit.unknown(check_id, UNDECIDED[check_id])
        elif check_id in NOT_APPLICABLE:
            audit.not_applicable(check_id, NOT_APPLICABLE[check_id])
        else:
            audit.decide(check_id)
    for check_id, subject, where, evidence, severity in rows:
        audit.find(check_id, subject, where, evidence, severity=severity)
    return audit.result()


def results(skip: tuple[int, ...] = (), extra: list[tuple] | None = None) -> list[dict]:
    """The neglected host; ``skip`` leaves out rows of the compose project by number, ``extra`` adds some."""
    compose = [row for number, row in enumerate(COMPOSE) if number not in skip] + (extra or [])
    return [
        {"subject": "compose project shop", "result": audited(("container",), [r for r in compose if r[0][:3] != "IMG"])},
        {"subject": "nginx of the edge", "result": audited(("nginx", "tls"), NGINX)},
        {"subject": "host docker1", "result": audited(("host", "runtime"), HOST)},
        {"subject": "image shop/worker:3.2", "result": audited(("image",), IMAGES)},
    ]  # fmt: skip


def report(days: int = 12, title: str = "Security audit of shop"):
    """The report of the last of some runs, a day apart, in which things were fixed and one appeared."""
    history: list[dict] = []
    for day in range(days, -1, -1):
        moment = datetime.datetime(2026, 11, 21, 5, 15, 4) - datetime.timedelta(days=day)
        # what was open then and is fixed by now
        worse = [(check_id, "media", f"compose/app.yml:{95 + number}", "as it was", None)
                 for number, (check_id, gone) in enumerate(EARLIER.items()) if day > gone]  # fmt: skip
        found = waive(read_results(results((0,) if day > 0 else (), worse)), WAIVERS, TODAY)
        built = build(found, history, title=title, generated=moment.strftime("%Y-%m-%dT%H:%M:%SZ"), catalogue=CATALOGUE)
        history = remember(history, built, 90)
    return built
