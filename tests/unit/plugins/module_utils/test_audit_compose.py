# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compose files as somebody else wrote them: what is found, on which line, and what only looks like it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.mcpstack.platform.plugins.module_utils import _audit_compose as core
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import MemoryFiles, Stat
from ansible_collections.mcpstack.platform.plugins.module_utils._compose_images import floats, parse
from ansible_collections.mcpstack.platform.plugins.module_utils._compose_variables import near
from ansible_collections.mcpstack.platform.plugins.module_utils._container_model import DeclaredPort, Policy
from ansible_collections.mcpstack.platform.plugins.module_utils._secret_arguments import pairs

DIGEST = "@sha256:" + "a" * 64
STRONG = "mZ81-kQp2vX77wYt.Rr0"
#: Below every case, so that only what the case adds can be found.
HARD = """\
x-hard: &hard
  image: registry.example/team/app:1.2.3@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
  user: "64101:64101"
  read_only: true
  cap_drop: [ALL]
  security_opt: ["no-new-privileges:true"]
  mem_limit: 64m
  memswap_limit: 64m
  cpus: 0.5
  pids_limit: 32
  restart: unless-stopped
  healthcheck: {test: ["CMD", "/bin/ready"]}
  logging: {driver: local}
"""
LINES = HARD.count("\n")


def run(text, *more, files=None, env=None, policy=core.NO_POLICY, **options):
    """Result of the files f1.yml, f2.yml … in /p."""
    bodies = {f"/p/f{number}.yml": body for number, body in enumerate([text, *more], 1)}
    everything = MemoryFiles({**bodies, **{f"/p/{name}": body for name, body in (files or {}).items()}}, roots=("/p",))
    return core.audit(everything, list(bodies), env=env or {}, policy=policy, **options)


def found(text, *more, **options):
    """(id, line in the case, severity) of every finding; a case begins on line 1 below the anchors."""
    items = run(HARD + text, *more, **options)["findings"]
    return sorted((item["id"], place(item["where"]), item["severity"]) for item in items)


def place(where):
    name, _, line = where.rpartition(":")
    return int(line) - LINES if name == "/p/f1.yml" else where


def service(*lines, name="app"):
    """A compose file with one hardened service and more lines in it; they begin on line 4."""
    return f"services:\n  {name}:\n    <<: *hard\n" + "".join(f"    {line}\n" for line in lines)


def test_a_hardened_service_is_silent():
    answer = run(HARD + service())
    assert answer["findings"] == []
    assert {state["id"] for state in answer["checks_run"]} == set(core.TABLE)
    assert [state["id"] for state in answer["checks_run"] if state["status"] == "unknown"] == []


def test_a_bare_service_lacks_everything_that_can_be_lacking():
    answer = run("services:\n  app:\n    image: nginx\n    ports: ['80:80']\n")
    assert sorted({item["id"] for item in answer["findings"]}) == [
        "CMP-02", "CMP-05", "CMP-06", "CMP-08", "CMP-10", "CMP-11", "CMP-12", "CMP-14", "CMP-15", "CMP-28", "IMG-02", "NET-01",
    ]  # fmt: skip
    assert {item["where"] for item in answer["findings"]} == {"/p/f1.yml:2", "/p/f1.yml:3", "/p/f1.yml:4"}


CASES = {
    # what Compose's spellings come to; the rules themselves have tests of their own
    "privileged": (service("privileged: true"), [("CMP-01", 4, "critical")]),
    "capability on its line": (service("cap_add:", "  - CHOWN", "  - SYS_ADMIN"), [("CMP-03", 6, "critical"), ("CMP-04", 5, "low")]),
    "limits of deploy": (
        service("mem_limit: !reset null", "cpus: !reset null", "pids_limit: !reset null", "deploy: {resources: {limits: {memory: 64M, cpus: '0.5', pids: 10}}}"),
        [],
    ),
    "no pids in either": (service("pids_limit: -1"), [("CMP-12", 4, "medium")]),
    "restart of deploy": (service("restart: !reset null", "deploy: {restart_policy: {condition: any}}"), [("CMP-14", 2, "low")]),
    "socket in short form": (
        service("volumes: ['/var/run/docker.sock:/var/run/docker.sock:ro']"),
        [("CMP-21", 4, "critical")],
    ),
    "socket in long form": (
        service("volumes:", "  - type: bind", "    source: /run/./docker.sock", "    target: /x", "    read_only: true"),
        [("CMP-21", 5, "critical")],
    ),
    "socket by a variable": (
        service("volumes: ['${SOCK:-/var/run/docker.sock}:/x']"),
        [("CMP-21", 4, "critical")],
    ),
    "socket of a later Compose": (service("use_api_socket: true"), [("CMP-21", 4, "critical"), ("CMP-29", 4, "low")]),
    "privileged build": (service("build: {context: ., privileged: true}"), [("CMP-01", 4, "critical")]),
    "host path by a volume": (
        service("volumes: ['vol:/x']") + "volumes:\n  vol: {driver_opts: {type: none, o: bind, device: /etc}}\n",
        [("CMP-22", 4, "critical")],
    ),
    "relative paths of a project in a home": (service("volumes: ['./data:/data']"), []),
    "relative path that leaves the project": (service("volumes: ['../etc:/x:ro']"), [("CMP-22", 4, "high")]),
    "secret of the host": (
        service("secrets: [s]") + "secrets:\n  s: {file: /etc/shadow}\n",
        [("CMP-22", 4, "high")],
    ),
    "key of another service": (
        service("volumes: ['/var/lib/mcpstack/pki/leaves/edge:/run/tls:ro']", name="gateway"),
        [("CMP-22", 4, "high")],
    ),
    "own key and secrets": (
        service(
            "volumes: ['/var/lib/mcpstack/pki/leaves/gateway:/run/tls:ro', '/run/mcpstack/secrets/gateway:/run/secrets:ro']",
            name="gateway",
        ),
        [],
    ),
    "key of a service whose name begins alike": (
        service("volumes: ['/var/lib/mcpstack/pki/leaves/gateway2:/run/tls:ro']", name="gateway"),
        [("CMP-22", 4, "high")],
    ),
    "key of the authority": (
        service("volumes: ['/var/lib/mcpstack/pki/leaves/gateway/../../ca:/ca:ro']", name="gateway"),
        [("CMP-22", 4, "high")],
    ),
    "keys of all services": (service("volumes: ['/var/lib/mcpstack/pki:/p:ro']"), [("CMP-22", 4, "high")]),
    "everything of the platform": (service("volumes: ['/var/lib/mcpstack:/p:ro']"), [("CMP-22", 4, "high")]),
    "secrets of all services": (service("volumes: ['/var/run/mcpstack/secrets:/s:ro']"), [("CMP-22", 4, "high")]),
    "secrets of another service": (
        service("volumes: ['/run/mcpstack/secrets/admin:/s:ro']", name="gateway"),
        [("CMP-22", 4, "high")],
    ),
    "what lies beside the keys": (service("volumes: ['/var/lib/mcpstack/models:/m:ro']"), []),
    "mounts of another": (
        service("volumes: ['/etc:/x:ro']", name="a") + "  b:\n    <<: *hard\n    volumes_from: [a]\n",
        [("CMP-22", 4, "high"), ("CMP-22", 7, "high")],
    ),
    "a volume two write": (
        service("volumes: ['vol:/x']", name="a") + "  b:\n    <<: *hard\n    volumes: ['vol:/y']\nvolumes: {vol: {}}\n",
        [("CMP-27", 4, "medium")],
    ),
    "a volume one writes": (
        service("volumes: ['vol:/x']", name="a") + "  b:\n    <<: *hard\n    volumes: ['vol:/y:ro']\nvolumes: {vol: {}}\n",
        [],
    ),
    "tmpfs long": (
        service("volumes: [{type: tmpfs, target: /t}, {type: tmpfs, target: /u, tmpfs: {size: 1048576}}]"),
        [("CMP-09", 4, "low")],
    ),
    "tmpfs": (service("tmpfs: /t:size=1m"), []),
    "host's network under another name": (
        service("networks: [n]") + "networks: {n: {external: true, name: host}}\n",
        [("CMP-17", 4, "high")],
    ),
    "network that is elsewhere": (service("networks: [n]") + "networks: {n: {external: true}}\n", []),
    "gpus": (
        service("deploy: {resources: {reservations: {devices: [{driver: nvidia, count: all, capabilities: [gpu]}]}}}"),
        [("CMP-24", 4, "low")],
    ),
    "one gpu": (
        service("deploy: {resources: {reservations: {devices: [{driver: nvidia, count: 1, capabilities: [gpu]}]}}}"),
        [],
    ),
    "range of ports is one finding": (service("ports: ['8000-8100:8000-8100']"), [("NET-01", 4, "high")]),
    "bare port": (service("ports: [8080]"), [("NET-01", 4, "high")]),
    "second port": (service("ports:", "  - 127.0.0.1:8080:80", "  - 8081:80/udp"), [("NET-01", 6, "high")]),
    "long port": (service("ports: [{target: 80, published: '8080'}]"), [("NET-01", 4, "high")]),
    "expose publishes nothing": (service("expose: ['5432']"), []),
    # CMP-29
    "dangling dependency": (service("depends_on: [db]"), [("CMP-29", 4, "high")]),
    "unknown key": (service("imgae: x"), [("CMP-29", 4, "high")]),
    "duplicate key": (service("user: '1:1'", "user: '2:2'"), [("CMP-29", 5, "high")]),
    # CMP-30
    "unset": (service("hostname: 'h-${NOBODY}'"), [("CMP-30", 4, "medium")]),
    "unset with a default": (service("hostname: 'h-${NOBODY:-x}'"), []),
    "required": (service("hostname: 'h-${NOBODY:?say}'"), [("CMP-30", 4, "info")]),
    "a dollar sign": (service("hostname: 'h-$$NOBODY'"), []),
    "default of a credential": (
        service("environment: {DB_PASSWORD: '${DB_PASSWORD:-postgres}'}"),
        [("CMP-30", 4, "high")],
    ),
    "default of a credential in a list": (
        service("environment:", "  - DB_PASSWORD=${DB_PASS-changeme}"),
        [("CMP-30", 5, "high")],
    ),
    "empty default of a credential": (service("environment: {DB_PASSWORD: '${DB_PASSWORD:-}'}"), []),
    "path as a default": (service("environment: {DB_PASSWORD_FILE: '${DB_PASSWORD_FILE:-/run/x}'}"), []),
    "unset credential": (service("environment: {DB_PASSWORD: '${DB_PASSWORD}'}"), [("CMP-30", 4, "high")]),
    # SEC-01 to SEC-06
    "literal": (service(f"environment: {{DB_PASSWORD: '{STRONG}'}}"), [("SEC-01", 4, "high")]),
    "literal in a list": (service("environment:", f"  - DB_PASSWORD={STRONG}"), [("SEC-01", 5, "high")]),
    "no credentials": (
        service(
            "environment: {TOKEN_TTL: 'abcdefgh', PUBLIC_KEY: 'abcdefgh', PASSWORD_MIN_LENGTH: '12', AUTH_TOKEN_ENABLED: 'true',"
            " DB_PASSWORD_FILE: /srv/x, MAX_TOKENS: '4096'}"
        ),
        [],
    ),
    "URL": (service("environment: {A: 'redis://:p%40ss!word@cache:6379/0'}"), [("SEC-02", 4, "high")]),
    "URL with a placeholder": (
        service("environment: {A: 'mysql://app:changeme@db/x'}"),
        [("SEC-02", 4, "high"), ("SEC-04", 4, "critical")],
    ),
    "privileged command": (service("post_start: [{command: x, privileged: true}]"), [("CMP-01", 4, "critical")]),
    "URL without a password": (service("environment: {A: 'redis://cache:6379/0', B: 'http://h:80/@x'}"), []),
    "placeholder": (
        service("environment: {API_TOKEN: 'your-token-here'}"),
        [("SEC-01", 4, "high"), ("SEC-04", 4, "critical")],
    ),
    "weak": (service("environment: {API_TOKEN: 'sunshine1'}"), [("SEC-01", 4, "high"), ("SEC-05", 4, "high")]),
    "one value for two": (
        service(f"environment: {{API_TOKEN: '{STRONG}', MAIL_PASSWORD: '{STRONG}'}}"),
        [("SEC-01", 4, "high"), ("SEC-01", 4, "high"), ("SEC-06", 4, "medium")],
    ),
    "both ends of a connection": (
        service(f"environment: {{POSTGRES_PASSWORD: '{STRONG}', DB_PASSWORD: '{STRONG}'}}"),
        [("SEC-01", 4, "high"), ("SEC-01", 4, "high")],
    ),
    # SEC-10
    "external secret": (
        service("secrets: [s]") + "secrets:\n  s: {external: true}\n",
        [("SEC-10", 6, "high")],
    ),
    "unused secret": (service() + "secrets:\n  s: {file: ./s}\n", [("SEC-10", 5, "low")]),
    "used secret": (
        service("secrets: [s]", "environment: {DB_PASSWORD_FILE: /run/secrets/s}") + "secrets:\n  s: {file: ./s}\n",
        [],
    ),
    "file that nothing mounts": (
        service("secrets: [s]", "environment: {DB_PASSWORD_FILE: /run/secrets/t}") + "secrets:\n  s: {file: ./s}\n",
        [("SEC-10", 5, "high")],
    ),
    "directory of secrets": (
        service("volumes: ['/srv/s:/run/secrets:ro']", "environment: {DB_PASSWORD_FILE: /run/secrets/t/current}"),
        [],
    ),
    "image that reads no files": (
        service(f"image: redis:8.0.1{DIGEST}", "environment: {REDIS_PASSWORD_FILE: /srv/x}", "networks: [n]")
        + "networks: {n: {internal: true}}\n",
        [("SEC-10", 5, "high")],
    ),
    "literal behind a variable that is empty": (
        service(f"environment: {{DB_PASSWORD: '${{NONE-}}{STRONG}'}}"),
        [("SEC-01", 4, "high")],
    ),
    "token of a known form": (
        service("environment: {X: '" + "ghp_" + "a1B2c3D4" * 5 + "'}"),
        [("SEC-01", 4, "high"), ("SEC-05", 4, "high")],
    ),
    # SEC-11
    "argument": (service(f"command: [server, --requirepass, '{STRONG}']"), [("SEC-11", 4, "high")]),
    "argument in one word": (service(f"command: server --password={STRONG}"), [("SEC-11", 4, "high")]),
    "argument by a shell": (
        service("healthcheck: {test: 'redis-cli -a $$PW ping'}"),
        [("SEC-11", 4, "medium")],
    ),
    "assignment": (service(f"entrypoint: [sh, -c, 'PGPASSWORD={STRONG} psql']"), [("SEC-11", 4, "high")]),
    "URL as an argument": (service("command: [x, 'postgres://u:Zk81vQ2mX@db/d']"), [("SEC-11", 4, "high")]),
    "files as arguments": (
        service("command: [x, --password-file, /run/secrets/p, --api-key-file=/run/x, --pass, '-', --token, '${T-}']"),
        [],
    ),
    # IMG
    "tag": (service("image: x/app:1.2.3"), [("IMG-01", 4, "medium")]),
    "latest": (service("image: x/app:latest"), [("IMG-02", 4, "medium")]),
    "latest with a digest": (service(f"image: x/app:latest{DIGEST}"), []),
    "tag like a digest, from a registry": (service("image: x/app:0123456789ab"), [("IMG-01", 4, "medium")]),
    "tag like a digest, never pulled": (service("image: x/app:0123456789ab", "pull_policy: never"), []),
    "built here": (service("image: x/app", "build: ."), []),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_one_thing_gives_exactly_this(name):
    text, expected = CASES[name]
    assert found(text) == expected


def test_values_never_appear_in_a_result():
    text = service(
        f"environment: {{DB_PASSWORD: '{STRONG}', OTHER_TOKEN: '{STRONG}', URL: 'postgres://u:{STRONG}@h/d'}}",
        f"command: [x, --password, '{STRONG}', 'postgres://u:{STRONG}@h/d']",
    )
    answer = run(HARD + text)
    assert {item["id"] for item in answer["findings"]} == {"SEC-01", "SEC-02", "SEC-06", "SEC-11"}
    assert STRONG not in repr(answer)


def test_the_file_that_decides_is_named_after_a_merge():
    first = HARD + service("read_only: true")
    second = "services:\n  app:\n    read_only: false\n    cap_add:\n      - SYS_ADMIN\n"
    assert [(item["id"], item["where"]) for item in run(first, second)["findings"]] == [
        ("CMP-03", "/p/f2.yml:5"),
        ("CMP-08", "/p/f2.yml:3"),
    ]


def test_what_is_extended_is_judged_with_its_own_place():
    base = HARD + "services:\n  base:\n    <<: *hard\n    privileged: true\n"
    text = "services:\n  app:\n    extends: {file: base.yml, service: base}\n"
    answer = run(text, files={"base.yml": base})
    assert [(item["id"], item["subject"], item["where"]) for item in answer["findings"]] == [
        ("CMP-01", "service app", f"/p/base.yml:{LINES + 4}")
    ]


def test_variables_come_from_the_environment_and_from_dotenv():
    text = service("hostname: 'h-${NAME}'", "environment: {DB_PASSWORD: '${DB_PASSWORD:?}'}")
    assert found(text, files={".env": f"NAME=x\nDB_PASSWORD={STRONG}\n"}) == []
    assert found(text, env={"NAME": "x", "DB_PASSWORD": STRONG}) == []
    assert found(text, env={"NAME": "x", "DB_PASSWORD": "changeme"}) == [("SEC-04", 5, "critical")]


def test_a_misspelt_variable_is_told():
    answer = run(HARD + service("hostname: 'h-${DOMAIN_NAEM:-x}'"), env={"DOMAIN_NAME": "y"})
    assert [(item["id"], item["evidence"]) for item in answer["findings"]] == [
        ("CMP-30", "DOMAIN_NAEM is not set, DOMAIN_NAME is")
    ]


def test_a_credential_that_is_set_but_not_required_is_low():
    text = service("environment: {DB_PASSWORD: '${DB_PASSWORD}'}")
    assert found(text, env={"DB_PASSWORD": STRONG}) == [("CMP-30", 4, "low")]


def test_an_image_that_reads_files_is_told_so():
    text = service(
        f"image: postgres:17.2{DIGEST}", "environment: {POSTGRES_PASSWORD: '${DB_PASSWORD:?}'}", "networks: [n]"
    )
    assert found(text + "networks: {n: {internal: true}}\n", env={"DB_PASSWORD": STRONG}) == [("SEC-03", 5, "medium")]


def test_a_url_with_a_variable_for_the_password_passes():
    text = service("environment: {URL: 'postgres://u:${DB_PASSWORD:?}@h/d'}")
    assert found(text, env={"DB_PASSWORD": STRONG}) == []


def test_literals_of_an_env_file_are_judged_where_they_stand():
    text = service("env_file: [app.env]")
    answer = found(text, files={"app.env": f"# x\nDB_PASSWORD={STRONG}\nB=1\n"})
    assert answer == [("SEC-01", "/p/app.env:2", "high")]


def test_a_line_with_a_missing_value_is_unknown_and_neither_passes_nor_fails():
    text = service(
        "ports:",
        "  - ${PORT:?}:80",
        "  - 81:81",
        "user: '${ID:?}'",
        "volumes: ['${SRC:?}:/x', '$PWD/x:/y']",
        "image: '${IMG:?}'",
    )
    answer = run(HARD + text)
    assert {(item["id"], place(item["where"])) for item in answer["findings"]} == {
        ("CMP-30", 5), ("NET-01", 6), ("CMP-30", 7), ("CMP-30", 8), ("CMP-30", 9),
    }  # fmt: skip
    states = {state["id"]: state for state in answer["checks_run"]}
    for check in ("CMP-06", "CMP-21", "CMP-22", "CMP-29", "IMG-01", "NET-03"):
        assert states[check]["status"] == "unknown", check
    assert states["CMP-06"]["reason"] == f"/p/f1.yml:{LINES + 7}: ID has no value here"


def test_the_home_of_whoever_runs_compose_is_not_unset():
    answer = run(HARD + service("volumes: ['$HOME/x:/y:ro']"))
    assert [(item["id"], item["severity"]) for item in answer["findings"]] == [("CMP-30", "info")]
    assert found(service("volumes: ['$HOME:/y:ro']"), env={"HOME": "/home/alice"}) == [("CMP-22", 4, "high")]
    assert found(service("volumes: ['~/.ssh:/y:ro']")) == [("CMP-22", 4, "high")]


def test_one_variable_for_two_services_is_one_secret():
    text = service("environment: {DB_PASSWORD: '${PW:?}'}", name="a") + (
        "  b:\n    <<: *hard\n    environment: {MAIL_TOKEN: '${PW:?}'}\n"
    )
    assert found(text, env={"PW": STRONG}) == []


def test_profiles_narrow_what_is_judged():
    text = service("privileged: true", "profiles: [debug]", name="a") + "  b:\n    <<: *hard\n"
    assert found(text) == [("CMP-01", 4, "critical")]
    assert found(text, profiles=[]) == []
    assert found(text, profiles=["debug"]) == [("CMP-01", 4, "critical")]


def test_allowed_registries():
    text = service("image: ghcr.io/team/app:1.2.3" + DIGEST, name="a") + (
        f"  b:\n    <<: *hard\n    image: team/app:1.2.3{DIGEST}\n"
    )
    assert found(text, allowed_registries=["ghcr.io/team"]) == [("IMG-03", 7, "medium")]
    assert found(text, allowed_registries=["ghcr.io", "docker.io/team/"]) == []
    assert found(text, allowed_registries=["ghcr.io/tea", "docker.io"]) == [("IMG-03", 4, "medium")]


def test_sources_are_looked_for_only_on_the_host_they_are_bound_from():
    text = HARD + service("volumes: ['/srv/there:/a:ro', '/srv/gone:/b:ro', '/elsewhere:/c:ro']")
    assert run(text)["findings"] == []
    host = MemoryFiles({}, {"/srv/there": Stat("directory")}, roots=("/srv",))
    answer = run(text, host_files=host)
    assert [(item["id"], item["evidence"]) for item in answer["findings"]] == [
        ("CMP-27", "/srv/gone does not exist: the engine makes it as a directory of root")
    ]


def test_declared_edge_and_ports():
    text = (
        HARD
        + service("ports: ['443:8443', '192.0.2.1:8443:8443']", "networks: [n]")
        + "networks: {n: {enable_ipv6: true}}\n"
    )
    policy = Policy(edge_services=frozenset({"app"}), declared_ports=(DeclaredPort(443),))
    assert run(text, policy=policy)["findings"] == []


def test_a_project_without_services_passes_nothing():
    answer = run("name: x\n")
    states = {state["id"]: state["status"] for state in answer["checks_run"]}
    assert "pass" not in {status for name, status in states.items() if name not in ("CMP-29", "CMP-30")}


def test_a_file_that_is_not_at_hand_leaves_the_project_unknown():
    files = MemoryFiles({"/p/a.yml": "include: [b.yml]\n" + HARD + service()})
    answer = core.audit(files, ["/p/a.yml"])
    states = {state["id"]: state for state in answer["checks_run"]}
    assert states["CMP-29"]["status"] == "unknown"
    assert "b.yml" in states["CMP-29"]["reason"]


def test_a_missing_file_is_a_finding():
    answer = core.audit(MemoryFiles({}, roots=("/p",)), ["/p/a.yml"])
    assert [item["id"] for item in answer["findings"]] == ["CMP-29"]


def test_two_runs_are_equal():
    text = "services:\n  b: {image: nginx, privileged: true}\n  a: {image: nginx, ports: [80]}\n"
    assert run(text) == run(text)


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("nginx", ("docker.io", "library/nginx", "", "")),
        ("nginx:1.2", ("docker.io", "library/nginx", "1.2", "")),
        ("localhost:5000/a/b:c@sha256:d", ("localhost:5000", "a/b", "c", "sha256:d")),
        ("index.docker.io/nginx", ("docker.io", "library/nginx", "", "")),
        ("team/app", ("docker.io", "team/app", "", "")),
    ],
)
def test_references_in_full(reference, expected):
    assert parse(reference) == expected


@pytest.mark.parametrize(
    "tag",
    ["", "latest", "17", "v2", "1.29", "alpine", "17-alpine", "stable", "pg17", "1.29-alpine3.20", "main", "bookworm"],
)
def test_tags_that_float(tag):
    assert floats("library/nginx", tag)


@pytest.mark.parametrize(
    "tag",
    [
        "1.29.3", "v1.2.3-rc1", "1.29.3-alpine", "RELEASE.2025-04-22T22-12-26Z", "20250422", "2025.4.1", "aa8439ba2b2c",
        "0.12.0-cuda", "version-1.2.3", "sha256-0123456789abcdef", "cuda12.4.1-1.2.3",
    ],
)  # fmt: skip
def test_tags_that_name_one_release(tag):
    assert floats("library/nginx", tag) == ""


def test_a_release_of_two_numbers():
    assert floats("library/postgres", "17.2") == ""
    assert floats("library/postgres", "17.2-bookworm") == ""
    assert floats("library/postgres", "17")


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("DOMIAN", ["DOMAIN"], "DOMAIN"),
        ("DOMAN", ["DOMAIN"], "DOMAIN"),
        ("DOMAINS", ["DOMAIN"], "DOMAIN"),
        ("DB1_HOST", ["DB2_HOST"], ""),
        ("DB_HOST1", ["DB_HOST"], ""),
        ("DB_HOST", ["DB_PORT"], ""),
        ("TAG", ["TAP"], ""),
        ("DOMAIN", ["DOMAIN"], ""),
    ],
)
def test_names_one_change_away(name, known, expected):
    assert near(name, known) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["x", "--requirepass", "v"], [("--requirepass", "v")]),
        (["x", "--auth-token=v"], [("--auth-token", "v")]),
        (["x", "--db.password", "v"], [("--db.password", "v")]),
        (["mysqladmin", "ping", "-pv"], [("-p", "v")]),
        (["mkdir", "-pv", "/x"], []),
        (["redis-cli", "-a", "v", "ping"], [("-a", "v")]),
        (["tar", "-a", "v"], []),
        (["x", "--password-file", "v"], []),
        (["x", "--tokenizer", "v"], []),
        (["x", "--max-tokens", "5"], []),
        (["bitcoind", "-rpcpassword=v"], [("-rpcpassword", "v")]),
        (["x", "--dbpassword", "v"], [("--dbpassword", "v")]),
        (["x", "--nopassword", "v"], []),
        (["x", "--password", "--verbose"], [("--password", "")]),
    ],
)
def test_options_that_carry_a_secret(words, expected):
    assert list(pairs(words)) == expected


PIECES = st.sampled_from(
    [
        "services:", "  a:", "    image: x", "    ports: ['80']", "    environment:", "      - A_TOKEN=${B:-c}", "    command: a -p b",
        "    volumes: [/:/x]", "  b: {extends: a}", "include: [f1.yml]", "x: &a [*a]", "    user: 0", "\t", "    <<: *hard", "{", "]",
        "networks: {a: {external: true}}", "secrets: {s: {external: 1}}", "    secrets: [s]", "    healthcheck: {test: 1}", "\x00",
        "    deploy: {resources: {limits: {pids: x}}}", "    privileged: '${X}'", "    tmpfs: 5", "    devices: [1]", "    gpus: all",
    ]
)  # fmt: skip


@settings(max_examples=120, deadline=None)
@given(st.lists(PIECES, max_size=14))
def test_any_lines_give_a_result(lines):
    answer = run(HARD + "\n".join(lines))
    assert set(answer) == {"findings", "checks_run", "summary"}


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_give_a_result(data):
    answer = core.audit(MemoryFiles({"/p/f.yml": data}, roots=("/p",)), ["/p/f.yml"])
    assert answer["summary"]["checks_fail"] + answer["summary"]["checks_pass"] >= 0


def test_more_than_anybody_writes_is_refused_and_passes_nothing(monkeypatch):
    monkeypatch.setattr(core, "MOST_ENTRIES", 3)
    answer = run(
        HARD + service("ports: ['127.0.0.1:8080:80', '127.0.0.1:8081:80', '127.0.0.1:8082:80', '127.0.0.1:8083:80']")
    )
    assert [item["id"] for item in answer["findings"]] == ["CMP-29"]
    assert answer["summary"]["checks_pass"] == 0


def test_a_line_with_very_many_variables_is_still_judged():
    entries = ", ".join(f"'A{n}_TOKEN=${{V{n}:-x}}'" for n in range(300))
    items = found(service(f"environment: [{entries}]"))
    assert len([item for item in items if item[0] == "SEC-01"]) == 300


def test_a_wide_range_of_ports_is_no_large_project():
    answer = run(HARD + service("ports: ['9000-20000:9000-20000/udp']"))
    assert [(item["id"], item["evidence"]) for item in answer["findings"]] == [("NET-01", "9000-20000:9000-20000/udp")]


def test_many_services_cost_little_work():
    text = HARD + "services:\n" + "".join(f"  s{n}:\n    <<: *hard\n    volumes: ['vol{n}:/x']\n" for n in range(24))
    text += "volumes:\n" + "".join(f"  vol{n}: {{}}\n" for n in range(24))
    assert run(text)["findings"] == []
