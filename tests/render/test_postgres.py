# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The postgres role's files under default, alternative and hostile options, held against the rules PGS-01 to PGS-11."""

from __future__ import annotations

import re

import pytest
import yaml

from ansible_collections.mcpstack.platform.plugins.module_utils._service_spec import normalise

DATABASE = {
    "name": "gateway",
    "owner": "gateway_owner",
    "logins": ["gateway_a", "gateway_b"],
    "secret_file": "/run/mcpstack/secrets/operator/gateway-db/current",
    "extensions": ["vector"],
}
BESIDE = {
    "name": "reader",
    "logins": ["reader_a", "reader_b"],
    "secret_file": "/run/mcpstack/secrets/operator/reader-db/current",
}
REQUIRED = {
    "mcpstack_postgres_image": "mcpstack/postgres:0123456789ab",
    "mcpstack_postgres_init_image": "mcpstack/postgres-init:0123456789ab",
}
DEFAULT = {**REQUIRED, "mcpstack_postgres_databases": [DATABASE]}
ALTERNATIVE = {
    **REQUIRED,
    "mcpstack_postgres_memory": "6g",
    "mcpstack_postgres_cpus": "3.5",
    "mcpstack_postgres_max_connections": 200,
    "mcpstack_postgres_databases": [
        DATABASE,
        {
            **DATABASE,
            "name": "registry",
            "owner": "registry_owner",
            "logins": ["registry_a"],
            "state": "present",
            "roles": [BESIDE],
        },
        {**DATABASE, "name": "old", "owner": "old_owner", "logins": ["old_a"], "state": "absent"},
    ],
    "mcpstack_postgres_client_networks": ["10.1.2.0/24", "fd00:1::/64"],
    "mcpstack_postgres_idle_in_transaction_timeout": "5min",
    "mcpstack_postgres_log_min_duration": -1,
    "mcpstack_postgres_settings": {
        "work_mem": "64MB",
        "wal_compression": "lz4",
        "jit": True,
        "cluster_name": "it's \\ mine",
    },
}
CASES = {"default": DEFAULT, "alternative": ALTERNATIVE, "bare": REQUIRED}


def settings(text: str) -> dict[str, str]:
    """postgresql.conf as the server reads it: the last one wins."""
    found = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            name, value = re.fullmatch(r"([a-z_.]+) = (.*)", line).groups()
            found[name] = value[1:-1].replace("''", "'").replace("\\\\", "\\") if value.startswith("'") else value
    return found


def rules(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]


@pytest.fixture(params=CASES)
def case(request, role):
    return role("postgres", **CASES[request.param]), CASES[request.param]


def test_no_problem_is_seen_where_there_is_none(case):
    assert case[0].value("_mcpstack_postgres_problems") == []


def test_spec_is_accepted_and_hardened(case):
    spec = normalise(case[0].value("_mcpstack_postgres_service"))
    assert (spec["uid"], spec["networks"], spec["publish"], spec["exceptions"]) == (64104, ["data"], [], [])  # PGS-04
    assert spec["read_only"] and spec["tls"] and spec["environment"] == {} and spec["secrets"] == []  # PGS-05
    assert {item["target"]: item["mode"] for item in spec["tmpfs"]} == {"/tmp": "0700", "/run/postgresql": "0700"}
    assert spec["stop"] == {"signal": "SIGINT", "grace": "60s"}
    assert spec["limits"]["pids"] > int(settings(case[0].files()["postgresql.conf"])["max_connections"]) + 30
    assert spec["health"]["command"][0].endswith("/pg_isready") and "/run/postgresql" in spec["health"]["command"]


def test_connections_are_tls_and_scram_only(case):
    conf = settings(case[0].files()["postgresql.conf"])
    assert conf["password_encryption"] == "scram-sha-256"  # PGS-01
    assert (conf["ssl"], conf["ssl_min_protocol_version"]) == ("on", "TLSv1.2")  # PGS-03
    assert (conf["ssl_cert_file"], conf["ssl_key_file"]) == ("/run/tls/current/tls.crt", "/run/tls/current/tls.key")
    assert all("GCM" in suite or "POLY1305" in suite for suite in conf["ssl_ciphers"].split(":"))
    assert conf["unix_socket_permissions"] == "0700"
    for method in rules(case[0].files()["pg_hba.conf"]):  # PGS-02
        if method[0] == "local":
            assert method == ["local", "all", "postgres", "peer", "map=container"]
        else:
            kind, database, users, network, how = method
            assert (kind, how) == ("hostssl", "scram-sha-256")
            assert "all" not in (database, users, network) and not network.startswith("0.0.0.0/0")
            assert "postgres" not in users.split(",")


def test_every_login_reaches_its_own_database_and_no_other(role):
    found = rules(role("postgres", **ALTERNATIVE).files()["pg_hba.conf"])[1:]
    assert [rule[1:4] for rule in found] == [
        ['"gateway"', '"gateway_a","gateway_b"', "10.1.2.0/24"],
        ['"gateway"', '"gateway_a","gateway_b"', "fd00:1::/64"],
        ['"registry"', '"registry_a","reader_a","reader_b"', "10.1.2.0/24"],
        ['"registry"', '"registry_a","reader_a","reader_b"', "fd00:1::/64"],
    ]
    assert [rule[3] for rule in rules(role("postgres", **DEFAULT).files()["pg_hba.conf"])[1:]] == ["samenet"]


def test_only_the_server_user_is_the_superuser(case):
    assert rules(case[0].files()["pg_ident.conf"]) == [["container", "postgres", "postgres"]]


def test_log_says_who_and_what_but_no_values(case):  # PGS-08
    conf = settings(case[0].files()["postgresql.conf"])
    wanted = {
        "log_connections": "on",
        "log_disconnections": "on",
        "log_statement": "ddl",
        "log_destination": "stderr",
        "log_parameter_max_length": "0",
        "log_parameter_max_length_on_error": "0",
    }
    assert {name: conf[name] for name in wanted} == wanted
    assert all(part in conf["log_line_prefix"] for part in ("%m", "%p", "%u", "%d", "%h"))


def test_timeouts_and_limits(case):  # PGS-09
    role, options = case
    conf = settings(role.files()["postgresql.conf"])
    assert conf["max_connections"] == str(options.get("mcpstack_postgres_max_connections", 130))
    assert conf["idle_in_transaction_session_timeout"] == options.get(
        "mcpstack_postgres_idle_in_transaction_timeout", "60s"
    )
    assert conf["authentication_timeout"] == "10s"


def test_no_code_is_preloaded_and_the_files_are_the_only_configuration(case):  # PGS-10
    conf = settings(case[0].files()["postgresql.conf"])
    assert [conf[f"{name}_preload_libraries"] for name in ("shared", "session", "local")] == ["", "", ""]
    assert conf["allow_alter_system"] == "off"
    assert [conf["fsync"], conf["full_page_writes"]] == ["on", "on"]


@pytest.mark.parametrize(
    ("memory", "connections", "wanted", "shm"),
    [
        ("512m", 50, {"shared_buffers": "128MB", "effective_cache_size": "256MB", "maintenance_work_mem": "32MB", "work_mem": "2621kB"}, "64m"),
        ("6g", 200, {"shared_buffers": "1536MB", "effective_cache_size": "3072MB", "maintenance_work_mem": "384MB", "work_mem": "7864kB"}, "768m"),
        ("64g", 100, {"shared_buffers": "16384MB", "maintenance_work_mem": "2048MB", "work_mem": "167772kB"}, "4096m"),
        ("128m", 500, {"shared_buffers": "32MB", "maintenance_work_mem": "16MB", "work_mem": "1024kB"}, "64m"),
    ],
)  # fmt: skip
def test_memory_follows_the_limit(role, memory, connections, wanted, shm):
    made = role("postgres", **REQUIRED, mcpstack_postgres_memory=memory, mcpstack_postgres_max_connections=connections)
    conf = settings(made.files()["postgresql.conf"])
    assert {name: conf[name] for name in wanted} == wanted
    assert made.value("_mcpstack_postgres_service")["limits"]["shm"] == shm


def test_more_settings_are_quoted_and_replace_what_may_be_replaced(role):
    text = role("postgres", **ALTERNATIVE).files()["postgresql.conf"]
    assert settings(text)["cluster_name"] == "it's \\ mine"
    assert settings(text)["work_mem"] == "64MB"
    for name in ("work_mem", "jit"):
        assert len(re.findall(rf"^{name} =", text, re.MULTILINE)) == 1


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"mcpstack_postgres_memory": "lots"}, "mcpstack_postgres_memory is lots: give at least 128m, written like 512m or 4g."),
        ({"mcpstack_postgres_memory": "64m"}, "mcpstack_postgres_memory is 64m: give at least 128m, written like 512m or 4g."),
        ({"mcpstack_postgres_max_connections": 5, "mcpstack_postgres_databases": []}, "mcpstack_postgres_max_connections is 5: give a number from 10 to 5000."),
        (
            {"mcpstack_postgres_databases": [{**DATABASE, "connection_limit": 65}]},
            "mcpstack_postgres_databases: the login roles may hold 130 connections together, the server accepts 130 and keeps 3 for itself: "
            "lower connection_limit or raise mcpstack_postgres_max_connections.",
        ),
        (
            {"mcpstack_postgres_databases": [{**DATABASE, "connection_limit": 4, "roles": [{**BESIDE, "connection_limit": 60}]}]},
            "mcpstack_postgres_databases: the login roles may hold 128 connections together, the server accepts 130 and keeps 3 for itself: "
            "lower connection_limit or raise mcpstack_postgres_max_connections.",
        ),
        (
            {"mcpstack_postgres_databases": [{**DATABASE, "connection_limit": 1, "roles": [{**BESIDE, "name": "x y", "connection_limit": 1}]}]},
            'mcpstack_postgres_databases: "x y" is no usable name of a role: use lower-case letters, digits and underscores.',
        ),
        (
            {"mcpstack_postgres_databases": [{**DATABASE, "connection_limit": 1, "roles": [{**BESIDE, "logins": ["a b"], "connection_limit": 1}]}]},
            'mcpstack_postgres_databases: "a b" is no usable name of a role: use lower-case letters, digits and underscores.',
        ),
        (
            {"mcpstack_postgres_databases": [{**DATABASE, "name": 'x" "all'}]},
            'mcpstack_postgres_databases: "x\\" \\"all" is no usable name of a database: use lower-case letters, digits and underscores.',
        ),
        (
            {"mcpstack_postgres_databases": [{**DATABASE, "logins": ["a\nhost all all all trust"]}]},
            'mcpstack_postgres_databases: "a\\nhost all all all trust" is no usable name of a role: use lower-case letters, digits and underscores.',
        ),
        (
            {"mcpstack_postgres_databases": [{**DATABASE, "owner": "a\n"}]},
            'mcpstack_postgres_databases: "a\\n" is no usable name of a role: use lower-case letters, digits and underscores.',
        ),
        *(
            (
                {"mcpstack_postgres_client_networks": [network]},
                f'mcpstack_postgres_client_networks: "{shown}" is no network: give samenet or a CIDR of /8 or, for IPv6, /16 at most.',
            )
            for network, shown in (
                ("0.0.0.0/0", "0.0.0.0/0"),
                ("::/0", "::/0"),
                ("128.0.0.0/1", "128.0.0.0/1"),
                ("8000::/1", "8000::/1"),
                ("all", "all"),
                ("samehost", "samehost"),
                ("10.0.0.0/8 trust\nhost all all all", "10.0.0.0/8 trust\\nhost all all all"),
                ("10.0.0.0/8\n", "10.0.0.0/8\\n"),
            )
        ),
        ({"mcpstack_postgres_client_networks": []}, "mcpstack_postgres_client_networks is empty: nobody could connect."),
        (
            {"mcpstack_postgres_idle_in_transaction_timeout": "1\nssl = off"},
            'mcpstack_postgres_idle_in_transaction_timeout is "1\\nssl = off": write it like 60s, 500ms or 5min.',
        ),
        (
            {"mcpstack_postgres_log_min_duration": "soon"},
            'mcpstack_postgres_log_min_duration is "soon": write it like 1s, 500ms or -1.',
        ),
        ({"mcpstack_postgres_settings": {"a b": 1}}, 'mcpstack_postgres_settings: "a b" is no name of a setting.'),
        ({"mcpstack_postgres_settings": {"x\ny": 1}}, 'mcpstack_postgres_settings: "x\\ny" is no name of a setting.'),
        ({"mcpstack_postgres_settings": {"work_mem": "1MB'\nssl = 'off"}}, "mcpstack_postgres_settings: the value of work_mem must be one line."),
        *(
            ({"mcpstack_postgres_settings": {name: "x"}}, f"mcpstack_postgres_settings: {name} is decided by the role: remove it.")
            for name in (
                "ssl", "ssl_min_protocol_version", "listen_addresses", "hba_file", "password_encryption", "shared_preload_libraries",
                "archive_command", "log_statement", "log_min_error_statement", "fsync", "lo_compat_privileges", "session_replication_role", "jit_provider", "include_if_exists", "allow_alter_system", "port",
                "ssl_passphrase_command", "restore_command", "unix_socket_directories", "log_parameter_max_length_on_error",
            )
        ),
    ],
)  # fmt: skip
def test_hostile_options_are_named(role, options, problem):
    assert role("postgres", **{**DEFAULT, **options}).value("_mcpstack_postgres_problems") == [problem]


def test_all_problems_are_named_at_once(role):
    options = {"mcpstack_postgres_memory": "1", "mcpstack_postgres_settings": {"ssl": "off", "A": 1}}
    assert len(role("postgres", **{**DEFAULT, **options}).value("_mcpstack_postgres_problems")) == 3


def test_options_are_declared_once_and_the_same(role):
    made = role("postgres")
    options = yaml.safe_load((made.path / "meta/argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
    defaults = yaml.safe_load((made.path / "defaults/main.yml").read_text())
    assert {name: option["default"] for name, option in options.items() if "default" in option} == defaults
    assert {name for name, option in options.items() if option.get("required")} == set(REQUIRED)
    assert len(options) <= 15


def test_role_and_module_offer_the_same_database_options(role):
    from ansible_collections.mcpstack.platform.plugins.modules.postgres_state import DATABASE as SPEC

    path = role("postgres").path / "meta/argument_specs.yml"
    options = yaml.safe_load(path.read_text())["argument_specs"]["main"]["options"]["mcpstack_postgres_databases"][
        "options"
    ]

    def strip(given, key):
        return {
            name: {
                part: strip(value, key) if part == "options" else value for part, value in option.items() if part != key
            }
            for name, option in given.items()
        }

    assert strip(options, "description") == strip(SPEC, "no_log")
