# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rendered files of the role postgres are clean, and each control that is weakened is found by its check, and no other."""

from __future__ import annotations

import re

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _audit_postgres as core
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import MemoryFiles, Stat
from ansible_collections.mcpstack.platform.plugins.module_utils._service_spec import normalise

DATABASE = {"name": "gateway", "owner": "gateway_owner", "logins": ["gateway_a", "gateway_b"], "secret_file": "/run/x", "extensions": ["vector"]}  # fmt: skip
REQUIRED = {
    "mcpstack_postgres_image": "mcpstack/postgres:0123456789ab",
    "mcpstack_postgres_init_image": "mcpstack/postgres-init:0123456789ab",
}
DEFAULT = {**REQUIRED, "mcpstack_postgres_databases": [DATABASE]}
ALTERNATIVE = {
    **DEFAULT,
    "mcpstack_postgres_max_connections": 200,
    "mcpstack_postgres_client_networks": ["10.1.2.0/24", "fd00:1::/64"],
    "mcpstack_postgres_idle_in_transaction_timeout": "5min",
    "mcpstack_postgres_log_min_duration": -1,
    "mcpstack_postgres_settings": {"work_mem": "64MB", "cluster_name": "it's \\ mine"},
}
KEY = "/run/tls/current/tls.key"
ROOT = "/etc/postgresql/"


class Stack:
    """What the role writes, ready to be weakened."""

    def __init__(self, made):
        self.files = {f"{ROOT}{name}": text for name, text in made.files().items()}
        spec = normalise(made.value("_mcpstack_postgres_service"))
        environment = [f"{name}={value}" for name, value in spec["environment"].items()]
        mounts = [(item["target"], False) for item in spec["volumes"]]
        self.service = core.Service([*spec["entrypoint"], *spec["command"]], environment, mounts, spec["publish"])
        self.key_mode, self.data_mode, self.data_uid = 0o600, 0o700, spec["uid"]
        self.uid = spec["uid"]

    def judge(self):
        stats = {
            KEY: Stat("file", self.key_mode, uid=self.uid),
            "/data": Stat("directory", self.data_mode, uid=self.data_uid),
        }
        return core.audit_postgres(
            core.Request(
                MemoryFiles(self.files, stats, roots=(ROOT, "/data")), f"{ROOT}postgresql.conf", data_dir="/data", uid=self.uid,
                service=self.service,
            )
        )  # fmt: skip


@pytest.mark.parametrize("options", [REQUIRED, DEFAULT, ALTERNATIVE], ids=["bare", "default", "alternative"])
def test_rendered_is_clean(role, options):
    result = Stack(role("postgres", **options)).judge()
    assert result["findings"] == []
    # What only the running server knows is not decided here, and nothing else.
    assert {state["id"] for state in result["checks_run"] if state["status"] != "pass"} == set(core.FROM_SQL)
    assert {state["reason"] for state in result["checks_run"]} == {"", "no server was asked"}


def edit(name, file, pattern, replacement):
    def change(stack):
        stack.files[ROOT + file], number = re.subn(pattern, replacement, stack.files[ROOT + file], flags=re.MULTILINE)
        assert number

    return name, change


def line(name, *values):
    """Each value in place of the setting's."""
    for value in values:
        yield edit(f"{name} = {value}", "postgresql.conf", rf"^{name} = .*$", f"{name} = {value}")


def gone(*names):
    """The line is not there, so that the default counts."""
    for name in names:
        yield edit(f"without {name}", "postgresql.conf", rf"^{name} = .*\n", "")


def more(*texts):
    """A line at the end, which wins."""
    for text in texts:
        yield edit(text, "postgresql.conf", r"\Z", f"{text}\n")


def rule(*texts):
    """A line at the end of pg_hba.conf."""
    for text in texts:
        yield edit(text, "pg_hba.conf", r"\Z", f"{text}\n")


def attribute(name, *values):
    """Something of the service or of the files."""
    for value in values:

        def change(stack, value=value):
            setattr(stack if hasattr(stack, name) else stack.service, name, value)

        yield f"{name} {value}", change


def command(*words):
    def change(stack):
        stack.service.command = [*stack.service.command, *words]

    return " ".join(words), change


MUTATIONS = {
    "PGS-01": [
        *line("password_encryption", "md5", "'md5'", "on"), *more("PASSWORD_ENCRYPTION md5", "scram_iterations = 100"),
        command("-c", "password_encryption=md5"), command("--password_encryption=md5"),
    ],
    "PGS-02": [
        edit("peer to trust", "pg_hba.conf", r"peer map=container", "trust"),
        edit("scram to trust", "pg_hba.conf", "scram-sha-256", "trust"),
        edit("scram to md5", "pg_hba.conf", "scram-sha-256", "md5"),
        edit("scram to password", "pg_hba.conf", "scram-sha-256", "password"),
        edit("scram to ident", "pg_hba.conf", "scram-sha-256", "ident"),
        edit("hostssl to host", "pg_hba.conf", "hostssl", "host"),
        edit("hostssl to hostnossl", "pg_hba.conf", "hostssl", "hostnossl"),
        edit("hostssl to hostnogssenc", "pg_hba.conf", "hostssl", "hostnogssenc"),
        *rule("local all all trust", "local replication all trust", "host all all all trust", "host all all 0.0.0.0/0 scram-sha-256",
              "host all all ::/0 scram-sha-256", "host all all 10.0.0.0 255.0.0.0 scram-sha-256", "hostssl all all 0.0.0.0/0 md5",
              "host all all all \\\npassword", "local all +staff password"),
        edit("everybody is the superuser", "pg_ident.conf", r"\Z", "container /^.*$ postgres\n"),
    ],
    "PGS-03": [
        *line("ssl", "off", "no", "0", "'false'"), *gone("ssl"), *line("ssl_min_protocol_version", "'TLSv1'", "'TLSv1.1'", "''"),
        *line("ssl_ciphers", "'HIGH:!aNULL'", "'ECDHE-RSA-AES128-SHA'", "'DEFAULT'"), *gone("ssl_ciphers"), *more("ssl = off"),
        *attribute("key_mode", 0o640, 0o604, 0o666), command("-c", "ssl=off"),
    ],
    "PGS-04": [
        *attribute("published", ["*:5432->5432/tcp"], ["127.0.0.1:5432->5432/tcp"]), *line("unix_socket_permissions", "0777", "0707", "0702"),
        *gone("unix_socket_permissions"),
    ],
    "PGS-05": [
        *attribute("environment", ["POSTGRES_HOST_AUTH_METHOD=trust"], ["POSTGRES_HOST_AUTH_METHOD=password"], ["POSTGRES_PASSWORD=x"], ["PGPASSWORD=x"],
                   ["POSTGRES_INITDB_ARGS=--auth-local=trust"], ["POSTGRES_INITDB_ARGS=--auth-host=trust"], ["POSTGRES_INITDB_ARGS=-A md5"],
                   ["POSTGRES_INITDB_ARGS=--auth trust"]),
        *attribute("mounts", [("/docker-entrypoint-initdb.d", False)], [("/docker-entrypoint-initdb.d/a.sql", False)]),
    ],
    "PGS-08": [
        *line("log_connections", "off", "no", "''"), *line("log_disconnections", "off", "0"), *line("log_statement", "'none'", "none", "'all'"),
        *line("log_line_prefix", "''", "'%m '", "'%m [%p] %u@%d '", "'[%p] %u@%d %h'", "'%m %u@%d %h'", "'%m [%p] %d %h'", "'%m [%p] %u %h'"),
        *line("log_parameter_max_length", "-1", "100"), *line("log_parameter_max_length_on_error", "-1", "64"), *line("log_error_verbosity", "terse"),
        *line("log_min_error_statement", "'panic'", "fatal"), *line("log_destination", "''"), *more("log_min_messages = panic"),
        *gone("log_connections", "log_disconnections", "log_statement", "log_line_prefix", "log_parameter_max_length"),
        *more("debug_print_parse = on", "debug_print_plan = on", "debug_print_rewritten = yes"),
    ],
    "PGS-09": [
        *line("idle_in_transaction_session_timeout", "0", "'0'", "0ms"), *gone("idle_in_transaction_session_timeout"),
        *line("authentication_timeout", "5min", "120"), *line("superuser_reserved_connections", "0"), *line("max_connections", "5000"),
    ],
    "PGS-10": [
        *line("shared_preload_libraries", "'evil'", "'pg_stat_statements,/tmp/x.so'"), *line("session_preload_libraries", "'evil'"),
        *line("local_preload_libraries", "'$libdir/plugins/evil'"),
    ],
    "PGS-11": [
        *line("fsync", "off", "no"), *line("full_page_writes", "off"), *more("ignore_checksum_failure = on", "zero_damaged_pages = on"),
        *attribute("data_mode", 0o755, 0o777, 0o701, 0o770), *attribute("data_uid", 0, 999), command("-c", "fsync=off"),
    ],
}  # fmt: skip
CASES = [(check, name, change) for check, changes in MUTATIONS.items() for name, change in changes]


@pytest.mark.parametrize(("check", "name", "change"), CASES, ids=[name for _check, name, _change in CASES])
def test_mutation(role, check, name, change):
    stack = Stack(role("postgres", **DEFAULT))
    change(stack)
    result = stack.judge()
    assert {item["id"] for item in result["findings"]} == {check}, [item["evidence"] for item in result["findings"]]


def in_auto_conf(stack):
    stack.files["/data/postgresql.auto.conf"] = "ssl = off\n"


def test_alter_system_wins(role):
    stack = Stack(role("postgres", **DEFAULT))
    in_auto_conf(stack)
    assert [(item["id"], item["where"]) for item in stack.judge()["findings"]] == [
        ("PGS-03", "/data/postgresql.auto.conf:1")
    ]


#: The same in other words, or stricter: nothing may be found.
EQUAL = [
    *line("password_encryption", "scram-sha-256", "'SCRAM-SHA-256'"), *gone("password_encryption"), *line("ssl", "'on'", "true", "1", "yes"),
    *line("ssl_min_protocol_version", "'TLSv1.3'"), *gone("ssl_min_protocol_version"), *line("log_statement", "mod", "'DDL'"),
    *line("log_line_prefix", "'%t [%c] %u@%d %r'"), *line("log_connections", "1", "all"), *line("listen_addresses", "'0.0.0.0'", "'10.0.0.1'"),
    *line("idle_in_transaction_session_timeout", "1min", "'30 s'", "60000"), *line("unix_socket_permissions", "0770", "0600"),
    *line("authentication_timeout", "30", "1min"), *line("shared_preload_libraries", "'pg_stat_statements'"), *gone("fsync", "full_page_writes", "hba_file"),
    *more("# ssl = off", "log_min_messages = notice", "log_destination = 'stderr,csvlog'"),
    *rule("host all all all reject", "hostssl all all 10.0.0.0/8 cert", "local replication postgres peer", "host all all 127.0.0.1/32 scram-sha-256"),
    *attribute("data_mode", 0o750), *attribute("key_mode", 0o400), *attribute("environment", ["POSTGRES_PASSWORD_FILE=/run/secrets/x"]),
    *attribute("mounts", [("/docker-entrypoint-initdb.d", True)]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change"), EQUAL, ids=[name for name, _change in EQUAL])
def test_equal_or_stricter_is_silent(role, name, change):
    stack = Stack(role("postgres", **DEFAULT))
    change(stack)
    assert stack.judge()["findings"] == []
