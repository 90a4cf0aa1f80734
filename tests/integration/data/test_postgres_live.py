# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PostgreSQL as deployed: the cluster, its roles, who gets in and who does not, and what survives."""

from __future__ import annotations

import base64
import os
import signal
import socket
import struct
import subprocess
import sys
import urllib.parse
from pathlib import Path

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _postgres_init as init
from ansible_collections.mcpstack.platform.plugins.module_utils import _postgres_state as core
from ansible_collections.mcpstack.platform.plugins.module_utils._postgres_login import LoginError, login

from .conftest import DATABASE, PASSWORD, REPOSITORY, run, wait_for

pytestmark = pytest.mark.engine

NEW = "N3w" + PASSWORD


def reconcile(postgres, **changes):
    databases = core.parse_databases([{**postgres.database, **changes}])
    return core.reconcile(postgres.lab.engine, databases, project=postgres.lab.project, ca_file=postgres.ca)


@pytest.fixture
def ready(postgres):
    reconcile(postgres)
    return postgres


def enter(postgres, **changes):
    options = {"user": "gateway_a", "password": PASSWORD, "database": "gateway", "ca_file": postgres.ca, **changes}
    return login(postgres.address, **options)


def test_first_run_makes_everything_and_second_run_nothing(postgres):
    databases = core.parse_databases([postgres.database])
    options = {"project": postgres.lab.project, "ca_file": postgres.ca}
    predicted = core.reconcile(postgres.lab.engine, databases, check=True, **options)
    first = core.reconcile(postgres.lab.engine, databases, **options)
    assert predicted["actions"] == first["actions"]
    assert first["changed"] and "role gateway_a: allow login and set the password" in first["actions"]
    assert first["logins"] == [
        {"database": "gateway", "login": "gateway_a", "acts_as": "gateway_owner"},
        {"database": "gateway", "login": "reader_a", "acts_as": "reader"},
    ]
    second = core.reconcile(postgres.lab.engine, databases, **options)
    assert (second["changed"], second["actions"], second["notes"]) == (False, [], [])
    assert second["logins"] == first["logins"]


def test_cluster_is_as_promised(ready):
    settings = "data_checksums ssl password_encryption allow_alter_system shared_preload_libraries".split()
    assert [ready.sql(f"show {name}") for name in settings] == ["on", "on", "scram-sha-256", "off", ""]
    assert (
        ready.sql("select datcollate, datlocprovider, datlocale from pg_database where datname='gateway'")
        == "C.UTF-8|b|C.UTF-8"
    )
    assert (
        ready.sql("select count(*) from pg_authid where rolpassword is not null and rolpassword !~ '^SCRAM-SHA-256'")
        == "0"
    )
    assert ready.sql("select rolpassword is null from pg_authid where rolname='postgres'") == "t"
    data = Path(ready.initialised["path"])
    assert (data.stat().st_mode & 0o777, data.stat().st_uid) == (0o700, 64104)


def test_extension_works(ready):
    ready.sql(
        "create table if not exists v (e vector(3)); create index if not exists v_e on v using hnsw (e vector_l2_ops);",
        "gateway",
    )
    assert ready.sql("select '[1,2,3]'::vector <-> '[1,2,4]'::vector", "gateway") == "1"


def test_application_role_acts_as_owner_and_can_do_no_more(ready):
    assert enter(ready, sql="select session_user, current_user, current_setting('statement_timeout'), current_setting('search_path')") == [
        "gateway_a", "gateway_owner", "30s", "public, pg_temp",
    ]  # fmt: skip
    assert enter(
        ready, sql="create table if not exists mine (a int); select tableowner from pg_tables where tablename='mine'"
    ) == ["gateway_owner"]
    for sql in (
        "create role evil superuser",
        "create database evil",
        "copy (select 1) to program 'id'",
        "select pg_read_file('/etc/passwd')",
        "create extension plpython3u",
        "alter system set work_mem='1GB'",
        "select rolpassword from pg_authid",
        "set role postgres",
        "set session authorization postgres",
    ):
        with pytest.raises(LoginError):
            enter(ready, sql=sql)


def test_role_beside_the_owner_uses_what_it_was_granted_and_makes_nothing(ready):
    ready.sql(
        "set role gateway_owner; create schema if not exists shop; create table if not exists shop.item (a int);"
        "grant usage on schema shop to reader; grant select, insert on shop.item to reader;",
        "gateway",
    )
    who = {"user": "reader_a"}
    assert enter(ready, **who, sql="select session_user, current_user, current_setting('statement_timeout')") == [
        "reader_a", "reader", "5s",
    ]  # fmt: skip
    assert enter(ready, **who, sql="insert into shop.item values (1) returning a") == ["1"]
    for sql in (
        "create table public.evil (a int)",
        "create table shop.evil (a int)",
        "create schema evil",
        "create temporary table evil (a int)",
        "delete from shop.item",
        "drop table shop.item",
        "alter table shop.item add b int",
        "set role gateway_owner",
        "create extension citext",
        "copy (select 1) to program 'id'",
    ):
        with pytest.raises(LoginError) as refused:
            enter(ready, **who, sql=sql)
        assert refused.value.sqlstate == "42501", sql
    enter(ready, **who, sql="grant select on shop.item to public")  # a warning, and nothing is granted
    assert ready.sql("select has_table_privilege('public', 'shop.item', 'select')", "gateway") == "f"
    ready.sql("drop schema shop cascade", "gateway")


def test_what_a_role_beside_the_owner_was_given_by_hand_is_taken_away(ready):
    ready.sql(
        "grant gateway_owner to reader; grant gateway_owner to reader_b; grant create, temp on database gateway to reader_a;"
        "create schema shop; grant create on schema shop to reader, public; create table shop.item (a int);"
        "alter table shop.item owner to reader; revoke connect on database gateway from reader;",
        "gateway",
    )
    assert reconcile(ready)["actions"] == [
        "role reader: take the membership of gateway_owner away",
        "role reader_b: take the membership of gateway_owner away",
        "database gateway: let reader connect",
        "database gateway: take CREATE, TEMPORARY away from reader_a",
        "database gateway: give what reader owns to gateway_owner",
        "database gateway: take CREATE in schema shop away from reader",
        "database gateway: take CREATE in schema shop away from PUBLIC",
    ]
    assert ready.sql("select tableowner from pg_tables where tablename = 'item'", "gateway") == "gateway_owner"
    ready.sql("drop schema shop cascade", "gateway")


def test_connection_limits_are_those_of_the_login(ready):
    assert ready.sql("select rolname, rolconnlimit from pg_roles where rolname ~ '^reader' order by 1").split() == [
        "reader|-1", "reader_a|2", "reader_b|2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "sqlstate", "message"),
    [
        ({"password": "B" * 36}, "28P01", "password authentication failed"),
        ({"user": "gateway_b"}, "28", ""),
        ({"user": "gateway_owner"}, "28000", "no pg_hba.conf entry"),
        ({"user": "reader"}, "28000", "no pg_hba.conf entry"),
        ({"user": "reader_b"}, "28", ""),
        ({"user": "reader_a", "database": "postgres"}, "28000", "no pg_hba.conf entry"),
        ({"user": "postgres", "database": "postgres"}, "28000", "no pg_hba.conf entry"),
        ({"user": "postgres"}, "28000", "no pg_hba.conf entry"),
        ({"database": "postgres"}, "28000", "no pg_hba.conf entry"),
        ({"database": "template1"}, "28000", "no pg_hba.conf entry"),
        ({"server_name": "valkey"}, "", "Hostname mismatch"),
    ],
)
def test_refused(ready, changes, sqlstate, message):
    with pytest.raises(LoginError) as refused:
        enter(ready, **changes)
    assert refused.value.sqlstate.startswith(sqlstate)
    assert message in str(refused.value)


def test_server_of_another_ca_is_refused(ready):
    with pytest.raises(LoginError, match="certificate is refused"):
        enter(ready, ca_file=str(ready.lab.dir / "other.crt"))


def test_tcp_without_tls_is_refused(ready):
    with socket.create_connection((ready.address, 5432), 5) as plain:
        body = struct.pack("!I", 196608) + b"user\0gateway_a\0database\0gateway\0\0"
        plain.sendall(struct.pack("!I", len(body) + 4) + body)
        answer = plain.recv(4096)
    assert answer[:1] == b"E" and b"no encryption" in answer


def test_old_tls_is_refused(ready):
    script = f"openssl s_client -connect {ready.address}:5432 -starttls postgres -tls1_1 -cipher ALL:@SECLEVEL=0"
    assert run(*script.split(), check=False, stdin="").returncode != 0
    assert run(*script.replace("-tls1_1", "-tls1_2").split(), check=False, stdin="").returncode == 0


def test_drift_is_put_right_and_what_rotation_does_is_left_alone(ready):
    ready.sql(
        "alter role gateway_a createdb; alter role gateway_a set statement_timeout='1h'; grant connect on database gateway to public;"
        "grant create on schema public to public; alter role gateway_owner login; alter role gateway_b login;",
        "gateway",
    )
    done = reconcile(ready)
    assert done["actions"] == [
        "role gateway_owner: take login and password away",
        "role gateway_a: take CREATEDB away",
        "role gateway_a: set statement_timeout to 30s",
        "database gateway: take the rights of PUBLIC away",
        "database gateway: take CREATE in schema public away from PUBLIC",
    ]
    assert done["notes"] == [
        "role gateway_b may log in although gateway_a is the current login of gateway_owner: a rotation is under way."
    ]
    ready.sql("alter role gateway_b nologin")


def test_new_secret_is_set_and_the_old_one_is_dead(ready):
    ready.secret.write_text(f"gateway_a:{NEW}")
    try:
        assert reconcile(ready)["actions"] == ["role gateway_a: set the password"]
        assert enter(ready, password=NEW) == ["gateway_a", "gateway_owner"]
        with pytest.raises(LoginError, match="password authentication failed"):
            enter(ready)
    finally:
        ready.secret.write_text(f"gateway_a:{PASSWORD}")
        reconcile(ready)


def test_no_secret_anywhere(ready):
    """Neither the passwords nor their verifiers are in the log, the container's definition or its processes."""
    places = ready.lab.log(ready.container) + run("docker", "inspect", ready.container).stdout
    places += run("docker", "top", ready.container, "axww", "-o", "pid,args").stdout
    assert "CREATE ROLE" in places, "the log does hold the statements that make roles"
    for value in (PASSWORD, NEW):
        raw = value.encode()
        for form in (value, base64.b64encode(raw).decode(), raw.hex(), urllib.parse.quote(value)):
            assert form not in places
    assert "SCRAM-SHA-256$" not in places


def test_failed_statement_keeps_the_verifier_out_of_message_and_log(ready):
    ready.sql("create role boss superuser nologin")
    verifier = ready.sql("select rolpassword from pg_authid where rolname='gateway_a'")
    action = core.Action("role nobody", "x", f"ALTER ROLE nobody PASSWORD '{verifier}'", quiet=True)
    container = ready.lab.engine.find_service_container(ready.lab.project, "postgres")
    with pytest.raises(core.StateError) as failed:
        core.Server(ready.lab.engine, container).run(core.script([action]))
    assert 'role "nobody" does not exist' in str(failed.value)
    assert verifier not in str(failed.value) + ready.lab.log(ready.container)


def test_absent_drops_only_what_was_asked(ready):
    extra = {**DATABASE, "name": "other", "owner": "other_owner", "logins": ["other_a"], "extensions": []}
    secret = ready.lab.secret("operator", "other-db", f"other_a:{PASSWORD}", 0)
    items = [ready.database, {**extra, "secret_file": str(secret)}]
    options = {"project": ready.lab.project}
    core.reconcile(ready.lab.engine, core.parse_databases(items), **options)
    items[1]["state"] = "absent"
    done = core.reconcile(ready.lab.engine, core.parse_databases(items), **options)
    assert done["actions"] == [
        "database other: drop it with everything in it",
        "role other_a: drop it",
        "role other_owner: drop it",
    ]
    assert ready.sql("select count(*) from pg_database where datname='gateway'") == "1"


def test_a_run_that_ends_after_any_statement_converges(ready):
    engine, options = ready.lab.engine, {"project": ready.lab.project, "ca_file": ready.ca}
    secret = ready.lab.secret("operator", "cut-db", f"cut_a:{PASSWORD}", 0)
    item = {"name": "cut", "owner": "cut_owner", "logins": ["cut_a", "cut_b"], "extensions": ["citext"]}
    beside = ready.lab.secret("operator", "blade-db", f"blade_a:{PASSWORD}", 0)
    item["secret_file"] = str(secret)
    item["roles"] = [{"name": "blade", "logins": ["blade_a"], "secret_file": str(beside)}]
    wanted, absent = core.parse_databases([item]), core.parse_databases([{**item, "state": "absent"}])
    server = core.Server(engine, engine.find_service_container(ready.lab.project, "postgres"))
    length = len(core.plan(wanted, core.parse(server.run(core.inspection(wanted))), core.read_secrets(wanted)))
    assert length > 10
    for done in range(1, length):
        actions = core.plan(wanted, core.parse(server.run(core.inspection(wanted))), core.read_secrets(wanted))
        server.run(core.script(actions[:done]))
        rest = core.plan(wanted, core.parse(server.run(core.inspection(wanted))), core.read_secrets(wanted))
        assert [str(action) for action in rest] == [str(action) for action in actions[done:]]
        core.reconcile(engine, absent, project=ready.lab.project)
    server.run(core.script(actions[: length // 2]))
    acting = {"cut_a": "cut_owner", "blade_a": "blade"}
    options["connect"] = lambda *_args, user, **_options: [user, acting[user]]
    assert core.reconcile(engine, wanted, **options)["changed"]
    assert core.reconcile(engine, absent, project=ready.lab.project)["changed"]


def test_validator_refuses_what_the_server_would_refuse(ready):
    lab = ready.lab
    bad = lab.role("postgres", **{k: v for k, v in ready.role.variables.items() if k.startswith("mcpstack_")}
                   | {"mcpstack_postgres_settings": {"work_mem": "a lot"}})  # fmt: skip
    command = [f"{ready.role.value('_mcpstack_postgres_bin')}/postgres", "-C", "max_connections", "-D", "/tmp"]  # noqa: S108
    command += ["-c", "config_file=/etc/postgresql/postgresql.conf"]
    results = []
    for role in (bad, ready.role):
        place = lab.config(role, {**ready.spec, "name": "validate"})
        done = lab.engine.run(ready.image, command[1:], entrypoint=command[:1], user="64104",
                              mounts=[{"source": str(place), "target": "/etc/postgresql"}], tmpfs={"/tmp": "size=1m"})  # noqa: S108 # fmt: skip
        results.append((done.rc, b'invalid value for parameter "work_mem"' in done.stderr))
    assert results == [(1, True), (0, False)]


def test_restart_and_kill_keep_the_state(ready):
    ready.sql("create table if not exists kept (a int); insert into kept values (1)", "gateway")
    run("docker", "restart", "-t", "60", ready.container)
    wait_for(lambda: ready.lab.healthy(ready.container, ready.spec), "health after restart")
    run("docker", "kill", ready.container)
    run("docker", "start", ready.container)
    wait_for(lambda: ready.lab.healthy(ready.container, ready.spec), "health after kill")
    assert int(ready.sql("select count(*) from kept", "gateway")) >= 1
    assert reconcile(ready)["changed"] is False


def test_health_fails_when_the_server_does_not_let_anyone_in(ready):
    assert ready.lab.healthy(ready.container, ready.spec)
    pid = run("docker", "inspect", "-f", "{{.State.Pid}}", ready.container).stdout.strip()
    os.kill(int(pid), signal.SIGSTOP)
    try:
        assert not ready.lab.healthy(ready.container, ready.spec)
    finally:
        os.kill(int(pid), signal.SIGCONT)


# -- initialisation ---------------------------------------------------------------------------------------------------


@pytest.fixture
def cluster(lab, postgres, request):
    made = init.Cluster(
        image=postgres.cluster.image, major=17, project=lab.project, volume=f"init-{abs(hash(request.node.name))}"
    )
    yield made
    run("docker", "volume", "rm", "-f", made.volume_name, check=False)


def test_init_is_done_once(lab, cluster):
    lock = str(lab.dir / "lock2")
    assert init.ensure(lab.engine, cluster, check=True, lock=lock)["changed"]
    first = init.ensure(lab.engine, cluster, lock=lock)
    again = init.ensure(lab.engine, cluster, lock=lock)
    assert (first["state"], again["state"], again["changed"]) == ("initialised", "present", False)
    volume = lab.engine.get(f"/volumes/{cluster.volume_name}")
    assert volume["Labels"] == {"com.docker.compose.project": lab.project, "com.docker.compose.volume": cluster.volume}


@pytest.mark.parametrize("entry", ["base", "PG_VERSION", "global/pg_control"])
def test_killed_initdb_converges(lab, cluster, entry):
    """The process is killed once initdb has come this far; its container lives on for a while, and the rerun copes."""
    lock = str(lab.dir / "lock3")
    code = (
        "import sys; from ansible_collections.mcpstack.platform.plugins.module_utils import _engine, _postgres_init as i;"
        "i.ensure(_engine.Engine(), i.Cluster(*sys.argv[1:2], 17, sys.argv[2], sys.argv[3]), lock=sys.argv[4])"
    )
    argv = [sys.executable, "-c", code, cluster.image, cluster.volume, cluster.project, lock]
    paths = os.pathsep.join([*sys.path, str(REPOSITORY / ".cache" / "self")])
    process = subprocess.Popen(argv, env={**os.environ, "PYTHONPATH": paths})
    root = Path(lab.engine.info()["DockerRootDir"]) / "volumes" / cluster.volume_name / "_data"
    wait_for(lambda: (root / "data.new" / entry).exists() or process.poll() is not None, "initdb writing")
    assert process.poll() is None, "it was not killed in the middle"
    process.kill()
    process.wait()
    assert not (root / "data" / "PG_VERSION").exists()
    assert init.ensure(lab.engine, cluster, lock=lock)["state"] == "initialised"
    assert not (root / "data.new").exists()
    assert init.is_initialised(str(root), cluster)


def test_a_failing_initdb_says_why(lab, cluster, postgres):
    broken = init.Cluster(image=postgres.image, major=17, project=lab.project, volume=cluster.volume)
    with pytest.raises(init.InitError, match=r"^initdb of \S+ failed with status 1: "):
        init.ensure(lab.engine, broken, lock=str(lab.dir / "lock4"))
