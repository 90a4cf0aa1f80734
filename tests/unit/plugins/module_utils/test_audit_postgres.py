# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The audit of PostgreSQL: files, service, answers, and a real server where there is one."""

from __future__ import annotations

import contextlib
import datetime
import glob
import json
import os
import pwd
import random
import subprocess

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _audit_postgres as core
from ansible_collections.mcpstack.platform.plugins.module_utils import _postgres_ask as ask
from ansible_collections.mcpstack.platform.plugins.module_utils import _postgres_conf as conf
from ansible_collections.mcpstack.platform.plugins.module_utils import _postgres_hba as hba
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import MemoryFiles, Stat

BIN = max(glob.glob("/usr/lib/postgresql/*/bin"), default="")
TODAY = datetime.date(2026, 6, 1)
SECRET = "k2Vq9xTr7LmZ4wNc8bYd"

CONF = """\
listen_addresses = '*'
ssl = on
ssl_min_protocol_version = 'TLSv1.2'
ssl_ciphers = 'ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-CHACHA20-POLY1305'
ssl_key_file = '/run/tls/tls.key'
password_encryption = 'scram-sha-256'
unix_socket_permissions = 0700
idle_in_transaction_session_timeout = 60s
log_connections = on
log_disconnections = on
log_statement = 'ddl'
log_line_prefix = '%m [%p] %q%u@%d %h %a '
log_min_duration_statement = 1s
log_parameter_max_length = 0
"""
HBA = """\
# TYPE DATABASE USER ADDRESS METHOD
local all postgres peer map=container
hostssl app app_a,"app_b" samenet scram-sha-256
"""
IDENT = "container postgres postgres\n"
SETTINGS = {
    "server_version": "17.11", "data_checksums": "on", "data_directory_mode": "0700", "statement_timeout": "0",
    "password_encryption": "scram-sha-256", "ssl": "on", "ssl_min_protocol_version": "TLSv1.2",
    "ssl_ciphers": "ECDHE-RSA-AES128-GCM-SHA256", "idle_in_transaction_session_timeout": "1min", "log_connections": "on",
    "log_disconnections": "on", "log_statement": "ddl", "log_line_prefix": "%m [%p] %u@%d %h", "log_min_duration_statement": "-1",
    "unix_socket_permissions": "0700", "fsync": "on", "full_page_writes": "on", "log_parameter_max_length": "-1",
}  # fmt: skip
ROLE = {"name": "app", "super": False, "createrole": False, "createdb": False, "replication": False, "bypassrls": False,
        "limit": 20, "settings": ["statement_timeout=30s"], "supers": [], "server": []}  # fmt: skip
ROOT = {**ROLE, "name": "postgres", "super": True, "limit": -1, "settings": None}
INSIDE = {"create": False, "extensions": ["plpgsql", "vector"], "languages": []}
ANSWERS = {
    ask.SETTINGS: SETTINGS, ask.MD5: [], ask.HBA: [], ask.HBA_16: [], ask.ROLES: [ROOT, ROLE],
    ask.DATABASES: [{"name": "app", "public": []}], ask.INSIDE: INSIDE,
}  # fmt: skip
GOOD = {
    "command": ["postgres", "-D", "/d"],
    "environment": ["POSTGRES_PASSWORD_FILE=/run/secrets/p"],
    "mounts": [("/docker-entrypoint-initdb.d", True), ("/var/lib/postgresql/data", False)],
    "published": [],
}


def answering(answers):
    def query(sql, database=""):
        value = answers.get(sql)
        if value is None:
            raise ask.Unanswered("permission denied")
        return value

    return query


def run(config=CONF, rules=HBA, ident=IDENT, stats=None, answers=None, around=None, **changes):
    files = {"/etc/pg/postgresql.conf": config, "/etc/pg/pg_hba.conf": rules, "/etc/pg/pg_ident.conf": ident}
    known = {
        "/run/tls/tls.key": Stat("file", 0o600, uid=70),
        "/data": Stat("directory", 0o700, uid=70),
        **(stats or {}),
    }
    wanted = {
        "config_file": "/etc/pg/postgresql.conf",
        "ident_file": "/etc/pg/pg_ident.conf",
        "data_dir": "/data",
        "uid": 70,
        **changes,
    }
    return core.audit_postgres(
        core.Request(
            MemoryFiles(files, known, roots=("/data", "/etc/pg")), service=core.Service(**{**GOOD, **(around or {})}),
            query=answering({**ANSWERS, **(answers or {})}), today=TODAY, **wanted,
        )
    )  # fmt: skip


def found(result):
    return {(item["id"], item["severity"], item["where"].rpartition("/")[2]) for item in result["findings"]}


def evidence(result):
    return [item["evidence"] for item in result["findings"]]


def states(result, status):
    return {state["id"] for state in result["checks_run"] if state["status"] == status}


def test_clean():
    result = run()
    assert (result["findings"], states(result, "pass")) == ([], {check.id for check in core.CHECKS})


def test_clean_by_asking_alone():
    rows = [{"type": "local", "database": ["all"], "user_name": ["postgres"], "auth_method": "peer", "line_number": 1}]
    request = core.Request(
        MemoryFiles({}), service=core.Service(**GOOD), today=TODAY, query=answering({**ANSWERS, ask.HBA_16: rows})
    )
    result = core.audit_postgres(request)
    assert (result["findings"], states(result, "pass")) == ([], {check.id for check in core.CHECKS})


def setting(line):
    return lambda: run(CONF + line + "\n")


def rules(*lines):
    return lambda: run(rules=HBA + "".join(f"{line}\n" for line in lines))


def role(**changes):
    return lambda: run(answers={ask.ROLES: [ROOT, {**ROLE, **changes}]})


def inside(**changes):
    return lambda: run(answers={ask.INSIDE: {**INSIDE, **changes}})


def service(**changes):
    return lambda: run(around=changes)


LAST, RULE, APP, DB = "postgresql.conf:15", "pg_hba.conf:4", "role app", "database app"
CASES = {
    # PGS-01
    "md5 for new passwords": (setting("password_encryption = md5"), {("PGS-01", "high", LAST)}),
    "md5 as on": (setting("password_encryption = on"), {("PGS-01", "high", LAST)}),
    "few iterations": (setting("scram_iterations = 1000"), {("PGS-01", "medium", LAST)}),
    "many iterations": (setting("scram_iterations = 100000"), set()),
    "md5 is stored": (lambda: run(answers={ask.MD5: ["old"]}), {("PGS-01", "high", "role old")}),
    "the command line wins": (
        lambda: run(around={"command": ["postgres", "-c", "password_encryption=md5"]}), {("PGS-01", "high", "command of postgres")}
    ),
    "the long way of the command line": (
        lambda: run(around={"command": ["postgres", "--password-encryption=md5"]}), {("PGS-01", "high", "command of postgres")}
    ),
    # PGS-02
    "trust": (rules("host all all 127.0.0.1/32 trust"), {("PGS-02", "critical", RULE)}),
    "trust on the socket": (rules("local all all trust"), {("PGS-02", "critical", RULE)}),
    "trust over TLS": (rules("hostssl all all 10.0.0.0/8 trust"), {("PGS-02", "critical", RULE)}),
    "password": (rules("host all all 10.0.0.0/8 password"), {("PGS-02", "critical", RULE)}),
    "password over TLS": (rules("hostssl all all 10.0.0.0/8 password"), {("PGS-02", "high", RULE)}),
    "md5": (rules("hostssl app all 10.0.0.0/8 md5"), {("PGS-02", "high", RULE)}),
    "md5 on the socket": (rules("local all app md5"), {("PGS-02", "high", RULE)}),
    "ident": (rules("hostssl all all 10.0.0.0/8 ident"), {("PGS-02", "high", RULE)}),
    "without TLS, everybody": (rules("host all all 0.0.0.0/0 scram-sha-256"), {("PGS-02", "critical", RULE)}),
    "without TLS, all": (rules("host all all all scram-sha-256"), {("PGS-02", "critical", RULE)}),
    "without TLS, IPv6": (rules("host all all ::/0 scram-sha-256"), {("PGS-02", "critical", RULE)}),
    "without TLS, a network": (rules("host app app 10.0.0.0/24 scram-sha-256"), {("PGS-02", "high", RULE)}),
    "without TLS, a mask": (rules("host app app 10.0.0.0 255.255.255.0 scram-sha-256"), {("PGS-02", "high", RULE)}),
    "only without TLS": (rules("hostnossl app app samenet scram-sha-256"), {("PGS-02", "high", RULE)}),
    "without GSS encryption": (rules("hostnogssenc app app samenet scram-sha-256"), {("PGS-02", "high", RULE)}),
    "with GSS encryption": (rules("hostgssenc app app samenet gss"), set()),
    "loopback needs no TLS": (rules("host all all 127.0.0.1/32 scram-sha-256", "host all all ::1/128 scram-sha-256", "host all all samehost scram-sha-256"), set()),
    "everybody over TLS": (rules("hostssl all all 0.0.0.0/0 scram-sha-256", "hostssl all all ::/0 cert"), set()),
    "scram on the socket": (rules("local all all scram-sha-256"), set()),
    "reject": (rules("host all all all reject"), set()),
    "reject without TLS, then TLS": (rules("hostnossl all all all reject", "host all all all scram-sha-256"), {("PGS-02", "critical", "pg_hba.conf:5")}),
    "a reject that comes too late": (
        lambda: run(rules="hostssl all all 10.0.0.0/8 scram-sha-256\nhostssl all bob 10.1.0.0/16 reject\n"), {("PGS-02", "high", "pg_hba.conf:2")}
    ),
    "a reject that comes in time": (lambda: run(rules="hostssl all bob 10.1.0.0/16 reject\nhostssl all all 10.0.0.0/8 scram-sha-256\n"), set()),
    "a trust that is never reached": (rules("host all all all reject", "host all all 10.0.0.0/8 trust"), {("PGS-02", "low", "pg_hba.conf:5")}),
    "a trust for replication is reached": (
        rules("local all all peer", "local replication all trust"), {("PGS-02", "critical", "pg_hba.conf:5")}
    ),
    "a database that is called all": (
        lambda: run(rules='hostssl "all" all 10.0.0.0/8 scram-sha-256\nhostssl app all 10.0.0.0/8 reject\n'), set()
    ),
    "the same twice": (rules("hostssl app app_a samenet scram-sha-256"), set()),
    "a group": (rules("hostssl all +staff 10.0.0.0/8 ldap"), set()),
    "a line over two": (rules("host all all \\", "all trust"), {("PGS-02", "critical", RULE)}),
    "a comment behind": (rules("local all app peer # trust"), set()),
    "a map for everybody": (lambda: run(ident=IDENT + "m /^.*$ postgres\n"), {("PGS-02", "high", "pg_ident.conf:2")}),
    "a map to all": (lambda: run(ident=IDENT + "m /^(.*)$ all\n"), {("PGS-02", "high", "pg_ident.conf:2")}),
    "a map of names to themselves": (lambda: run(ident=IDENT + "m /^(.*)@example.org$ \\1\n"), set()),
    # PGS-03
    "no TLS": (setting("ssl = off"), {("PGS-03", "high", LAST)}),
    "no TLS by default": (lambda: run(CONF.replace("ssl = on\n", "")), {("PGS-03", "high", "postgresql.conf")}),
    "TLS 1.1": (setting("ssl_min_protocol_version = 'TLSv1.1'"), {("PGS-03", "high", LAST)}),
    "any TLS": (setting("ssl_min_protocol_version = ''"), {("PGS-03", "high", LAST)}),
    "TLS 1.3": (setting("ssl_min_protocol_version = 'TLSv1.3'"), set()),
    "weak suites": (setting("ssl_ciphers = 'HIGH:!aNULL'"), {("PGS-03", "medium", LAST)}),
    "suites by default": (lambda: run(CONF.replace("ssl_ciphers", "#ssl_ciphers")), {("PGS-03", "low", "postgresql.conf")}),
    "a key for everybody": (lambda: run(stats={"/run/tls/tls.key": Stat("file", 0o644, uid=70)}), {("PGS-03", "high", "tls.key")}),
    "a key for a group": (lambda: run(stats={"/run/tls/tls.key": Stat("file", 0o640, uid=70)}), {("PGS-03", "high", "tls.key")}),
    "a key of root for a group": (lambda: run(stats={"/run/tls/tls.key": Stat("file", 0o640)}), set()),
    # PGS-04
    "published": (service(published=["*:5432->5432/tcp"]), {("PGS-04", "critical", "postgres")}),
    "every address of a host": (service(contained=False), {("PGS-04", "high", "postgresql.conf:1")}),
    "one address of a host": (lambda: run(CONF + "listen_addresses = 'localhost, 10.0.0.5'\n", around={"contained": False}), set()),
    "socket for everybody": (setting("unix_socket_permissions = 0777"), {("PGS-04", "low", LAST)}),
    "no socket": (setting("unix_socket_permissions = 0777\nunix_socket_directories = ''"), set()),
    # PGS-05
    "trust by the image": (service(environment=["POSTGRES_HOST_AUTH_METHOD=trust"]), {("PGS-05", "critical", "postgres")}),
    "md5 by the image": (service(environment=["POSTGRES_HOST_AUTH_METHOD=md5"]), {("PGS-05", "high", "postgres")}),
    "scram by the image": (service(environment=["POSTGRES_HOST_AUTH_METHOD=scram-sha-256"]), set()),
    "initdb, host": (service(environment=["POSTGRES_INITDB_ARGS=--auth-host=md5 --auth-local=scram-sha-256"]), {("PGS-05", "high", "postgres")}),
    "initdb, local": (service(environment=["POSTGRES_INITDB_ARGS=--auth-host=scram-sha-256 --auth-local=trust"]), {("PGS-05", "critical", "postgres")}),
    "initdb, scram": (service(environment=["POSTGRES_INITDB_ARGS=--auth=scram-sha-256 --data-checksums"]), set()),
    "password in the environment": (service(environment=[f"POSTGRES_PASSWORD={SECRET}"]), {("PGS-05", "high", "postgres")}),
    "empty password in the environment": (service(environment=["POSTGRES_PASSWORD="]), set()),
    "scripts that can be written": (service(mounts=[("/docker-entrypoint-initdb.d", False)]), {("PGS-05", "medium", "docker-entrypoint-initdb.d")}),
    # PGS-06
    "superuser": (role(super=True), {("PGS-06", "critical", APP)}),
    "may make roles": (role(createrole=True), {("PGS-06", "high", APP)}),
    "may replicate and bypass": (role(replication=True, bypassrls=True), {("PGS-06", "high", APP)}),
    "member of a superuser": (role(supers=["postgres"]), {("PGS-06", "critical", APP)}),
    "declared administrator": (lambda: run(answers={ask.ROLES: [{**ROLE, "super": True}]}, admin_roles=["app"]), set()),
    # PGS-07
    "PUBLIC may connect": (lambda: run(answers={ask.DATABASES: [{"name": "app", "public": ["TEMPORARY", "CONNECT"]}]}), {("PGS-07", "medium", DB)}),
    "PUBLIC may create": (inside(create=True), {("PGS-07", "medium", DB)}),
    # PGS-08
    "no connections": (setting("log_connections = off"), {("PGS-08", "medium", LAST)}),
    "connections as a list": (setting("log_connections = 'receipt,authorization'"), set()),
    "connections as a list without who": (setting("log_connections = 'receipt'"), {("PGS-08", "medium", LAST)}),
    "no disconnections": (lambda: run(CONF.replace("log_disconnections = on\n", "")), {("PGS-08", "medium", "postgresql.conf")}),
    "no ddl": (setting("log_statement = none"), {("PGS-08", "medium", LAST)}),
    "changes": (setting("log_statement = mod"), set()),
    "every statement": (setting("log_statement = all"), {("PGS-08", "low", LAST)}),
    "prefix without client": (setting("log_line_prefix = '%m [%p] %u@%d '"), {("PGS-08", "medium", LAST)}),
    "prefix in other letters": (setting("log_line_prefix = '%t %c %-10u %d %r'"), set()),
    "csv needs no prefix": (setting("log_line_prefix = ''\nlog_destination = 'csvlog'"), set()),
    "no destination": (setting("log_destination = ''"), {("PGS-08", "medium", LAST)}),
    "errors are hidden": (setting("log_min_messages = fatal"), {("PGS-08", "low", LAST)}),
    "more is told": (setting("log_min_messages = info\nlog_min_error_statement = notice"), set()),
    "parameters": (setting("log_parameter_max_length = -1"), {("PGS-08", "medium", LAST)}),
    "parameters that nothing logs": (setting("log_parameter_max_length = -1\nlog_min_duration_statement = -1"), set()),
    "parameters on error": (setting("log_parameter_max_length_on_error = 100"), {("PGS-08", "medium", LAST)}),
    "plans": (setting("debug_print_plan = on"), {("PGS-08", "low", LAST)}),
    # PGS-09
    "idle for ever": (setting("idle_in_transaction_session_timeout = 0"), {("PGS-09", "low", LAST)}),
    "idle for ever by default": (lambda: run(CONF.replace("idle_in", "#")), {("PGS-09", "low", "postgresql.conf")}),
    "a bare number is milliseconds": (setting("idle_in_transaction_session_timeout = 60000"), set()),
    "an hour to log in": (setting("authentication_timeout = 10min"), {("PGS-09", "low", LAST)}),
    "too many": (setting("max_connections = 5000"), {("PGS-09", "low", LAST)}),
    "no place for the superuser": (setting("superuser_reserved_connections = 0"), {("PGS-09", "low", LAST)}),
    "role without limit": (role(limit=-1), {("PGS-09", "low", APP)}),
    "role without timeout": (role(settings=["search_path=x"]), {("PGS-09", "low", APP)}),
    "timeout of the server": (lambda: run(answers={ask.ROLES: [ROOT, {**ROLE, "settings": None}], ask.SETTINGS: {**SETTINGS, "statement_timeout": "30s"}}), set()),
    # PGS-10
    "unknown library": (setting("shared_preload_libraries = 'pg_stat_statements, evil'"), {("PGS-10", "medium", LAST)}),
    "known libraries": (setting("shared_preload_libraries = 'pg_stat_statements,$libdir/pgaudit'"), set()),
    "untrusted language": (inside(languages=["plpython3u"], extensions=["plpgsql", "plpython3u"]), {("PGS-10", "high", DB)}),
    "extension": (inside(extensions=["plpgsql", "dblink"]), {("PGS-10", "medium", DB)}),
    "programs": (role(server=["pg_execute_server_program"]), {("PGS-10", "high", APP)}),
    # PGS-11
    "no checksums": (lambda: run(answers={ask.SETTINGS: {**SETTINGS, "data_checksums": "off"}}), {("PGS-11", "medium", "data_checksums")}),
    "no fsync": (setting("fsync = off"), {("PGS-11", "high", LAST)}),
    "no full pages": (setting("full_page_writes = false"), {("PGS-11", "high", LAST)}),
    "damage is ignored": (setting("zero_damaged_pages = yes"), {("PGS-11", "high", LAST)}),
    "data for everybody": (lambda: run(stats={"/data": Stat("directory", 0o755, uid=70)}), {("PGS-11", "high", "data")}),
    "data for a group": (lambda: run(stats={"/data": Stat("directory", 0o750, uid=70)}), set()),
    "data of another image": (lambda: run(stats={"/data": Stat("directory", 0o700, uid=999)}), {("PGS-11", "high", "data")}),
    # PGS-12
    "old": (lambda: run(answers={ask.SETTINGS: {**SETTINGS, "server_version": "17.2"}}), {("PGS-12", "medium", "server_version")}),
    "not supported": (lambda: run(answers={ask.SETTINGS: {**SETTINGS, "server_version": "12.22"}}), {("PGS-12", "medium", "server_version")}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_case(case):
    judge, wanted = CASES[case]
    result = judge()
    assert found(result) == wanted, evidence(result)
    assert SECRET not in json.dumps(result)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"answers": {ask.MD5: None}}, {"PGS-01"}),
        ({"answers": {ask.ROLES: None}}, {"PGS-06", "PGS-09", "PGS-10"}),
        ({"answers": {ask.DATABASES: None}}, {"PGS-07", "PGS-10"}),
        ({"answers": {ask.INSIDE: None}}, {"PGS-07", "PGS-10"}),
        ({"answers": {ask.SETTINGS: {**SETTINGS, "server_version": "19.0"}}}, {"PGS-12"}),
        ({"around": {"published": None}}, {"PGS-04"}),
        ({"around": {"environment": None}}, {"PGS-05"}),
        ({"config": CONF.replace("/run/tls/", "/elsewhere/")}, {"PGS-03"}),
        ({"config": CONF + "nonsense here too\n"}, set(core.FROM_CONF)),
        ({"config": CONF + "include '/etc/pg/more.conf'\n"}, set(core.FROM_CONF)),
        ({"rules": HBA + "host all all\n"}, {"PGS-02"}),
        ({"rules": HBA + 'host "all all 10.0.0.0/8 reject\n'}, {"PGS-02"}),
        ({"rules": HBA + "include more.conf\n"}, {"PGS-02"}),
        ({"rules": HBA + "host all all 10.0.0.1 reject\n"}, {"PGS-02"}),
        ({"ident_file": "/nowhere"}, {"PGS-02"}),
    ],
)  # fmt: skip
def test_what_is_not_known_is_not_a_pass(changes, wanted):
    result = run(**changes)
    assert (result["findings"], states(result, "unknown")) == ([], wanted)


def test_nobody_was_asked():
    result = core.audit_postgres(
        core.Request(
            MemoryFiles({"/c": CONF, "/h": HBA}, {"/run/tls/tls.key": Stat("file", 0o600)}), "/c", "/h", service=core.Service(**GOOD)
        )
    )  # fmt: skip
    assert (result["findings"], states(result, "unknown")) == ([], set(core.FROM_SQL))


def test_includes_and_what_alter_system_wrote():
    files = MemoryFiles(
        {
            "/c/postgresql.conf": "include_dir 'conf.d'\ninclude_if_exists = 'gone.conf'\nport = 5433\n",
            "/c/conf.d/b.conf": "fsync off\n", "/c/conf.d/a.conf": "fsync on\nport=1\n", "/c/conf.d/.h.conf": "port = 2\n",
            "/c/conf.d/x.txt": "port = 3\n", "/d/postgresql.auto.conf": "fsync = 'on'\n",
        },
        {"/d": Stat("directory", 0o700)},
        roots=("/c", "/d"),
    )  # fmt: skip
    read = conf.read_conf(files, "/c/postgresql.conf")
    assert (read.get("fsync").where, read.get("port").value, read.problems) == ("/c/conf.d/b.conf:1", "5433", [])
    result = core.audit_postgres(core.Request(files, "/c/postgresql.conf", data_dir="/d"))
    assert "PGS-11" not in {item["id"] for item in result["findings"]}


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("x = 'it''s'", "it's"), (r"x = 'a\'b\\c\n'", "a'b\\c\n"), ("x 5min", "5min"), ("x=on# comment", "on"), ("X = ''", ""),
        ("x = 'a' # 'b'", "a"), ("x = 'a", None), ("x = a b", None), ("= 1", None), (r"x = '\101'", "A"),
    ],
)  # fmt: skip
def test_values(line, value):
    read = conf.read_conf(MemoryFiles({"/c": line + "\n"}), "/c")
    assert (read.found["x"].value if "x" in read.found else None) == value
    assert bool(read.problems) is (value is None)


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        ("host all,app\tall  all trust", [["host"], ["all", "app"], ["all"], ["all"], ["trust"]]),
        ("host a , b c", [["host"], ["a", "b"], ["c"]]),
        ('local "a b""c" x', [["local"], ['a b"c'], ["x"]]),
        ('local "a"b x', [["local"], ["ab"], ["x"]]),
        ("# nothing", []),
        ('local "a', None),
    ],
)
def test_fields(line, fields):
    split = hba.split(line)
    assert (None if split is None else [[word.text for word in part] for part in split]) == fields


def test_circles_end():
    files = MemoryFiles({"/h": "include h\nlocal all all peer\n", "/c": "include 'c'\nfsync = off\n"})
    rows = hba.parse_rules(hba.read_table(files, "/h"))
    assert (len(rows[0]), rows[1]) == (1, ["/h includes itself, or too many files are included"])
    assert conf.read_conf(files, "/c").found["fsync"].value == "off"


@pytest.mark.parametrize("seed", range(20))
def test_any_bytes_give_a_result(seed):
    chooser = random.Random(seed)
    for _round in range(30):
        texts = []
        for text in (CONF, HBA, IDENT):
            data = bytearray(text.encode())
            for _change in range(chooser.randint(1, 20)):
                data[chooser.randrange(len(data))] = chooser.randrange(256)
            texts.append(bytes(data))
        result = run(*texts)
        assert {state["id"] for state in result["checks_run"]} == {check.id for check in core.CHECKS}


@pytest.mark.parametrize("answer", [None, [], {}, "x", 7, [[]], [None], [{"name": None}], {"server_version": None}])
def test_any_answer_gives_a_result(answer):
    result = run(answers=dict.fromkeys(ANSWERS, answer))
    assert {state["id"] for state in result["checks_run"]} == {check.id for check in core.CHECKS}


def test_many_lines_are_compared_with_few():
    text = "".join(f"hostssl d{number} u{number} 10.0.0.0/8 scram-sha-256\n" for number in range(5000))
    rows, problems = hba.parse_rules(hba.read_table(MemoryFiles({"/h": text}), "/h"))
    assert len(rows) == hba.MOST_LINES and problems == [f"/h has more than {hba.MOST_LINES} lines"]


@pytest.mark.parametrize(
    ("version", "verdict"),
    [
        ("17.11 (Debian 17.11-0+deb13u1)", True), ("17.6", False), ("13.23", False), ("9.6.24", False), ("18beta1", False),
        ("20.1", None), ("", None), ("15.15", True),
    ],
)  # fmt: skip
def test_versions(version, verdict):
    assert ask.judge_version(version, TODAY)[0] is verdict


def test_support_ends():
    assert ask.judge_version("14.20", datetime.date(2026, 11, 12))[0] is True
    assert ask.judge_version("14.20", datetime.date(2026, 11, 13))[0] is False


# -- a real server ----------------------------------------------------------------------------------------------------


class Real:
    """A cluster of its own, asked through psql on its socket."""

    def __init__(self, base, user):
        self.base, self.user = base, user

    def run(self, *argv, **options):
        return subprocess.run(argv, user=self.user, capture_output=True, text=True, cwd="/", **options)

    def sql(self, text, database="postgres", role="postgres"):
        done = self.run(
            f"{BIN}/psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", str(self.base), "-U", role, "-d", database,
            "-f", "-", input=text,
        )  # fmt: skip
        if done.returncode:
            raise ask.Unanswered(done.stderr.strip())
        return done.stdout.strip()

    def query(self, role="postgres"):
        return lambda sql, database="": json.loads(self.sql(sql + ";", database or "postgres", role).splitlines()[-1])


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    if not BIN:
        pytest.skip("there is no PostgreSQL server on this machine")
    base = tmp_path_factory.mktemp("pg")
    user = None
    if os.geteuid() == 0:
        user = "postgres" if "postgres" in {entry.pw_name for entry in pwd.getpwall()} else "nobody"
        for path in (base, base.parent, base.parent.parent):
            with contextlib.suppress(OSError):
                path.chmod(path.stat().st_mode | 0o011)
        os.chown(base, pwd.getpwnam(user).pw_uid, -1)
    server = Real(base, user)
    data = base / "data"
    done = server.run(f"{BIN}/initdb", "-D", str(data), "-U", "postgres", "-A", "trust", "--no-sync", "-k")
    assert done.returncode == 0, done.stderr
    options = f"-c listen_addresses='' -c unix_socket_directories={base} -c fsync=off"
    done = server.run(f"{BIN}/pg_ctl", "-D", str(data), "-w", "-s", "-l", str(base / "log"), "-o", options, "start")
    assert done.returncode == 0, done.stderr
    server.sql(
        "create role app login; create role boss login superuser; create role clerk login in role boss;"
        " create role auditor login connection limit 2; grant pg_monitor to auditor; alter role auditor set statement_timeout = '5s';"
        " create role runner login connection limit 1; alter role runner set statement_timeout = '5s';"
        " grant pg_execute_server_program to runner; set password_encryption = 'md5'; create role old password 'x';"
        " create database shop; grant create on database shop to public;"
    )
    server.sql("grant create on schema public to public; create extension if not exists plpgsql;", "shop")
    yield server
    server.run(f"{BIN}/pg_ctl", "-D", str(data), "-m", "immediate", "-s", "stop")


def test_real_server_as_superuser(real):
    request = core.Request(
        MemoryFiles({}), service=core.Service(**GOOD), query=real.query(), today=datetime.date(2020, 1, 1)
    )
    result = core.audit_postgres(request)
    got = {(item["id"], item["where"], item["evidence"]) for item in result["findings"]}
    assert got >= {
        ("PGS-01", "role old", "its stored password is an MD5 hash"),
        ("PGS-06", "role boss", "has SUPERUSER"),
        ("PGS-06", "role clerk", "is a member of boss, a superuser"),
        ("PGS-07", "database shop", "PUBLIC has CONNECT, CREATE, TEMPORARY"),
        ("PGS-07", "database shop", "PUBLIC may create objects in schema public"),
        ("PGS-09", "role app", "has no connection limit"),
        ("PGS-09", "role app", "has no statement_timeout"),
        ("PGS-10", "role runner", "is a member of pg_execute_server_program"),
        ("PGS-11", "pg_settings", "fsync = off"),
        ("PGS-03", "pg_settings", "ssl = off"),
    }
    assert any(check == "PGS-02" and "local all all trust: nobody" in text for check, _where, text in got)
    assert not [item for item in result["findings"] if item["where"] in ("role auditor", "data_checksums")]


def test_real_server_with_little_rights(real):
    """What a member of pg_monitor may not see is unknown, and nothing that it sees is missed."""
    request = core.Request(
        MemoryFiles({}), service=core.Service(**GOOD), query=real.query("auditor"), today=datetime.date(2020, 1, 1)
    )
    result = core.audit_postgres(request)
    by_id = {state["id"]: state for state in result["checks_run"]}
    assert "permission denied" in by_id["PGS-01"]["reason"] and by_id["PGS-02"]["status"] == "unknown"
    assert {"PGS-06", "PGS-07", "PGS-10"} <= states(result, "fail")


def test_the_reader_of_rules_agrees_with_the_server(real):
    """Lines in many spellings: the server's own view says the same."""
    lines = [
        'local "all" all peer', "host all,template1 +app 10.0.0.0/8 scram-sha-256", "host all all 10.0.0.0 255.0.0.0 reject",
        'hostnossl replication "a b",c samenet trust', "host sameuser all ::1/128 md5 # x", "host all all .example.org cert clientcert=verify-ca",
        "hostnogssenc all all all password", "host all all samehost reject",
    ]  # fmt: skip
    path = real.base / "other_hba.conf"
    path.write_text("\n".join(lines) + "\n")
    mine, problems = hba.parse_rules(hba.read_table(MemoryFiles({str(path): path.read_text()}), str(path)))
    original = (real.base / "data/pg_hba.conf").read_text()
    try:
        (real.base / "data/pg_hba.conf").write_text(path.read_text())
        theirs, errors = hba.from_view(json.loads(real.sql(ask.HBA + ";")))
    finally:
        (real.base / "data/pg_hba.conf").write_text(original)
    assert (problems, [error for error in errors if "clientcert" not in error and "ssl" not in error.lower()]) == (
        [],
        [],
    )
    shown = {rule.where.rpartition(":")[2]: rule for rule in mine}
    assert len(theirs) >= 6
    for rule in theirs:
        own = shown[rule.where.rpartition(":")[2]]
        assert (own.kind, [w.text for w in own.databases], [w.text for w in own.users], own.method, own.network) == (
            rule.kind, [w.text for w in rule.databases], [w.text for w in rule.users], rule.method, rule.network,
        )  # fmt: skip
