# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wanted, what is there, and the difference. A real server is asked in tests/integration/data."""

from __future__ import annotations

import json

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _postgres_scram as scram
from ansible_collections.mcpstack.platform.plugins.module_utils import _postgres_state as core
from ansible_collections.mcpstack.platform.plugins.module_utils._engine import EngineUnavailable, ExecResult
from ansible_collections.mcpstack.platform.plugins.module_utils._postgres_login import LoginError

PASSWORD = "A1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6"
VERIFIER = scram.verifier(PASSWORD)
ITEM = {
    "name": "gateway",
    "owner": "gateway_owner",
    "logins": ["gateway_a", "gateway_b"],
    "secret_file": "/secret",
    "extensions": ["vector"],
}
SECRETS = {"gateway_owner": core.Secret("gateway_a", PASSWORD)}
NOTHING = dict.fromkeys((*core.ATTRIBUTES, "rolcanlogin"), False)


def wanted(**changes):
    return core.parse_databases([{**ITEM, **changes}])


def settings(**changes):
    values = {"role": "gateway_owner", "statement_timeout": "30s", "lock_timeout": "10s", **changes}
    return [f"{name}={value}" for name, value in values.items()]


def complete() -> core.State:
    """A server that is as wanted."""
    plain = {**NOTHING, "rolinherit": True, "rolconnlimit": 20, "rolpassword": None}
    login = {"settings": settings(), "expires": False}
    return core.State(
        server={
            "version": "17.11 (Debian)",
            "settings": {"data_checksums": "on", "ssl": "on", "password_encryption": "scram-sha-256"},
            "hba_errors": [],
            "available": {"vector": "0.8.0", "citext": "1.6"},
        },
        roles={
            "gateway_owner": {
                "attributes": {**plain, "rolconnlimit": -1},
                "settings": None,
                "groups": None,
                "expires": False,
            },
            "gateway_a": {
                **login,
                "groups": {"gateway_owner": True},
                "attributes": {**plain, "rolcanlogin": True, "rolpassword": VERIFIER},
            },
            "gateway_b": {**login, "groups": {"gateway_owner": True}, "attributes": dict(plain)},
        },
        databases={
            "gateway": {"owner": "gateway_owner", "public": False, "settings": ["search_path=public, pg_temp"]},
            "postgres": {"owner": "postgres", "public": False, "settings": None},
            "template1": {"owner": "postgres", "public": False, "settings": None},
        },
        inside={"gateway": {"creators": [], "owners": [], "extensions": {"plpgsql": "1.0", "vector": "0.8.0"}}},
    )


def set_in(*path):
    """A change of the complete state: every step but the last is a key, the last is the value."""

    def change(state):
        item = getattr(state, path[0])
        for key in path[1:-2]:
            item = item[key]
        item[path[-2]] = path[-1]

    return change


# -- quoting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "quoted"),
    [
        ("plain", '"plain"'),
        ('a"b', '"a""b"'),
        ('"; drop table x; --', '"""; drop table x; --"'),
        ("user", '"user"'),
        ("a'b\\c", '"a\'b\\c"'),
    ],
)
def test_identifier(name, quoted):
    assert core.identifier(name) == quoted


@pytest.mark.parametrize(
    ("value", "quoted"),
    [
        ("plain", "'plain'"),
        ("it's", "'it''s'"),
        ("'; drop table x; --", "'''; drop table x; --'"),
        ("a\\b", " E'a\\\\b'"),
        ("\\'; drop", " E'\\\\''; drop'"),
        ("", "''"),
        (":variable", "':variable'"),
    ],
)
def test_literal(value, quoted):
    assert core.literal(value) == quoted


@pytest.mark.parametrize("quote", [core.identifier, core.literal])
def test_nul_is_refused(quote):
    with pytest.raises(ValueError, match="NUL"):
        quote("a\0b")


# -- what is wanted ---------------------------------------------------------------------------------------------------

NAMES = "use lower-case letters, digits and underscores, at most 63, and no name PostgreSQL uses itself"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"name": "Gateway"}, f"databases[0].name: 'Gateway' is no usable name; {NAMES}."),
        ({"name": 'x"; drop database postgres; --'}, f"databases[0].name: 'x\"; drop database postgres; --' is no usable name; {NAMES}."),
        ({"name": "postgres"}, f"databases[0].name: 'postgres' is no usable name; {NAMES}."),
        ({"name": "template1"}, f"databases[0].name: 'template1' is no usable name; {NAMES}."),
        ({"owner": "pg_monitor"}, f"databases[0].owner: 'pg_monitor' is no usable name; {NAMES}."),
        ({"owner": "public"}, f"databases[0].owner: 'public' is no usable name; {NAMES}."),
        ({"owner": "a" * 64}, f"databases[0].owner: '{'a' * 64}' is no usable name; {NAMES}."),
        ({"owner": ""}, f"databases[0].owner: '' is no usable name; {NAMES}."),
        ({"owner": "a\n"}, f"databases[0].owner: 'a\\n' is no usable name; {NAMES}."),
        (
            {"logins": ["gateway_owner"]},
            "databases[0].logins[0]: gateway_owner is already used by databases[0].owner; give every entry names of its own.",
        ),
        ({"logins": []}, "databases[0].logins: is empty; name the login roles, two of them so that they can rotate."),
        ({"secret_file": None}, "databases[0].secret_file: is empty; name the file that holds login and password."),
        (
            {"extensions": ["plpython3u"]},
            "databases[0].extensions[0]: 'plpython3u' is not an allowed extension; use one of btree_gin, btree_gist, citext, "
            "fuzzystrmatch, hstore, intarray, ltree, pg_trgm, pgcrypto, unaccent, uuid-ossp, vector.",
        ),
        ({"statement_timeout": "soon"}, "databases[0].statement_timeout: is 'soon'; write it like 30s, 500ms, 5min or 0."),
        ({"lock_timeout": "1s'; --"}, "databases[0].lock_timeout: is \"1s'; --\"; write it like 30s, 500ms, 5min or 0."),
        ({"connection_limit": 0}, "databases[0].connection_limit: is 0; give a number from 1 to 10000."),
        (
            {"search_path": ["pg_catalog"]},
            "databases[0].search_path[0]: 'pg_catalog' is no usable schema; "
            "name schemas with lower-case letters, digits and underscores; pg_temp is always put last.",
        ),
    ],
)  # fmt: skip
def test_bad_options_are_named(changes, problem):
    with pytest.raises(core.StateError) as refused:
        wanted(**changes)
    assert str(refused.value) == problem


def test_all_problems_are_named_at_once_and_names_are_used_once():
    with pytest.raises(core.StateError) as refused:
        core.parse_databases([ITEM, {**ITEM, "extensions": ["x"]}])
    assert [item["where"] for item in refused.value.problems] == [
        "databases[1].name",
        "databases[1].owner",
        "databases[1].logins[0]",
        "databases[1].logins[1]",
        "databases[1].extensions[0]",
    ]


@pytest.mark.parametrize("text", [f"gateway_a:{PASSWORD}", f"gateway_a:{PASSWORD}\n"])
def test_secret_is_read(tmp_path, text):
    (tmp_path / "s").write_text(text)
    assert core.read_secrets(wanted(secret_file=str(tmp_path / "s"))) == SECRETS


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "{} does not hold one line of login:password with at least 32 letters and digits; make the secret anew."),
        ("gateway_a:short", "{} does not hold one line of login:password with at least 32 letters and digits; make the secret anew."),
        (PASSWORD, "{} does not hold one line of login:password with at least 32 letters and digits; make the secret anew."),
        (f"gateway_a:{PASSWORD}'", "{} does not hold one line of login:password with at least 32 letters and digits; make the secret anew."),
        (f"gateway_a:{PASSWORD}\n\n", "{} does not hold one line of login:password with at least 32 letters and digits; make the secret anew."),
        (f"gateway_a:{PASSWORD}é", "{} cannot be read (it is not ASCII); run as root, or make the secret anew."),
        (f"gateway_c:{PASSWORD}", "{} names a login role that is not declared; it must be one of gateway_a, gateway_b."),
        (None, "{} does not exist; run the secrets role first."),
    ],
)  # fmt: skip
def test_bad_secret_is_named_and_never_shown(tmp_path, text, problem):
    path = tmp_path / "s"
    if text is not None:
        path.write_text(text)
    with pytest.raises(core.StateError) as refused:
        core.read_secrets(wanted(secret_file=str(path)))
    assert str(refused.value) == f"role gateway_owner: secret file {problem.format(path)}"
    assert PASSWORD not in repr(refused.value.problems)


def test_nothing_shows_a_secret_by_accident():
    actions = core.plan(wanted(), core.State(), SECRETS)
    assert "SCRAM" in core.script(actions)
    for shown in (repr(SECRETS), repr(actions), " ".join(map(str, actions))):
        assert PASSWORD not in shown and "SCRAM" not in shown
    assert PASSWORD not in core.script(actions)


# -- the difference ---------------------------------------------------------------------------------------------------


def test_complete_server_needs_nothing():
    assert core.plan(wanted(), complete(), SECRETS) == []
    assert core.notes(wanted(), complete(), SECRETS) == []
    assert core.impossible(wanted(), complete()) == []


def test_empty_server_gets_everything_in_order():
    assert [str(action) for action in core.plan(wanted(), core.State(), SECRETS)] == [
        "role gateway_owner: create it as owner, without login",
        "role gateway_a: create it without login",
        "role gateway_a: make it a member of gateway_owner",
        "role gateway_a: set role to gateway_owner",
        "role gateway_a: set statement_timeout to 30s",
        "role gateway_a: set lock_timeout to 10s",
        "role gateway_a: allow login and set the password",
        "role gateway_b: create it without login",
        "role gateway_b: make it a member of gateway_owner",
        "role gateway_b: set role to gateway_owner",
        "role gateway_b: set statement_timeout to 30s",
        "role gateway_b: set lock_timeout to 10s",
        "database gateway: create it, owned by gateway_owner",
        "database gateway: take the rights of PUBLIC away",
        "database gateway: set search_path to public, pg_temp",
        "database gateway: install extension vector",
        "database postgres: take the rights of PUBLIC away",
        "database template1: take the rights of PUBLIC away",
    ]


@pytest.mark.parametrize(
    ("change", "statement"),
    [
        (set_in("roles", "gateway_a", "attributes", "rolsuper", True), 'ALTER ROLE "gateway_a" NOSUPERUSER'),
        (set_in("roles", "gateway_b", "attributes", "rolcreaterole", True), 'ALTER ROLE "gateway_b" NOCREATEROLE'),
        (set_in("roles", "gateway_owner", "attributes", "rolbypassrls", True), 'ALTER ROLE "gateway_owner" NOBYPASSRLS'),
        (set_in("roles", "gateway_owner", "attributes", "rolcanlogin", True), 'ALTER ROLE "gateway_owner" NOLOGIN PASSWORD NULL'),
        (set_in("roles", "gateway_owner", "attributes", "rolpassword", VERIFIER), 'ALTER ROLE "gateway_owner" NOLOGIN PASSWORD NULL'),
        (set_in("roles", "gateway_a", "attributes", "rolcanlogin", False), 'ALTER ROLE "gateway_a" LOGIN'),
        (set_in("roles", "gateway_a", "attributes", "rolinherit", False), 'ALTER ROLE "gateway_a" INHERIT'),
        (set_in("roles", "gateway_a", "attributes", "rolconnlimit", -1), 'ALTER ROLE "gateway_a" CONNECTION LIMIT 20'),
        (set_in("roles", "gateway_a", "expires", True), "ALTER ROLE \"gateway_a\" VALID UNTIL 'infinity'"),
        (set_in("roles", "gateway_a", "groups", None), 'GRANT "gateway_owner" TO "gateway_a" WITH INHERIT TRUE, SET TRUE'),
        (
            set_in("roles", "gateway_a", "groups", "gateway_owner", False),
            'GRANT "gateway_owner" TO "gateway_a" WITH INHERIT TRUE, SET TRUE',
        ),
        (set_in("roles", "gateway_a", "settings", settings(role="x")), "ALTER ROLE \"gateway_a\" SET role = 'gateway_owner'"),
        (set_in("roles", "gateway_a", "settings", settings(statement_timeout="1h")), "ALTER ROLE \"gateway_a\" SET statement_timeout = '30s'"),
        (set_in("databases", "gateway", "owner", "postgres"), 'ALTER DATABASE "gateway" OWNER TO "gateway_owner"'),
        (set_in("databases", "gateway", "public", True), 'REVOKE ALL ON DATABASE "gateway" FROM PUBLIC'),
        (set_in("databases", "template1", "public", True), 'REVOKE ALL ON DATABASE "template1" FROM PUBLIC'),
        (set_in("databases", "gateway", "settings", None), 'ALTER DATABASE "gateway" SET search_path = "public", "pg_temp"'),
        (set_in("inside", "gateway", "creators", [["public", ""]]), 'REVOKE CREATE ON SCHEMA "public" FROM PUBLIC'),
        (set_in("inside", "gateway", "creators", [["jobs", ""]]), 'REVOKE CREATE ON SCHEMA "jobs" FROM PUBLIC'),
        (set_in("inside", "gateway", "extensions", {}), 'CREATE EXTENSION "vector" SCHEMA public'),
        (set_in("inside", "gateway", "extensions", {"vector": "0.7.0"}), "ALTER EXTENSION \"vector\" UPDATE TO '0.8.0'"),
    ],
)  # fmt: skip
def test_one_difference_is_one_statement(change, statement):
    state = complete()
    change(state)
    assert [action.sql for action in core.plan(wanted(), state, SECRETS)] == [statement]


@pytest.mark.parametrize("stored", [None, "md5d41d8cd98f00b204e9800998ecf8427e", scram.verifier("B" * 32)])
def test_another_password_is_replaced_by_a_verifier(stored):
    state = complete()
    set_in("roles", "gateway_a", "attributes", "rolpassword", stored)(state)
    (action,) = core.plan(wanted(), state, SECRETS)
    assert (str(action), action.quiet) == ("role gateway_a: set the password", True)
    value = action.sql.removeprefix('ALTER ROLE "gateway_a" PASSWORD \'').removesuffix("'")
    assert scram.matches(value, PASSWORD)


def test_the_other_of_the_pair_is_left_alone():
    state = complete()
    set_in("roles", "gateway_b", "attributes", "rolcanlogin", True)(state)
    set_in("roles", "gateway_b", "attributes", "rolpassword", VERIFIER)(state)
    assert core.plan(wanted(), state, SECRETS) == []
    assert core.notes(wanted(), state, SECRETS) == [
        "role gateway_b may log in although gateway_a is the current login of gateway_owner: a rotation is under way."
    ]


# -- roles beside the owner -------------------------------------------------------------------------------------------

ROLE = {"name": "reader", "logins": ["reader_a", "reader_b"], "secret_file": "/reader", "connection_limit": 7}
BOTH = {**SECRETS, "reader": core.Secret("reader_a", PASSWORD)}


def beside(**changes):
    return wanted(roles=[{**ROLE, **changes}])


def complete_beside() -> core.State:
    state = complete()
    plain = {**NOTHING, "rolinherit": True, "rolconnlimit": 7, "rolpassword": None}
    login = {"settings": settings(role="reader"), "expires": False, "groups": {"reader": True}}
    state.roles["reader"] = {
        "attributes": {**plain, "rolconnlimit": -1},
        "settings": None,
        "groups": None,
        "expires": False,
    }
    state.roles["reader_a"] = {**login, "attributes": {**plain, "rolcanlogin": True, "rolpassword": VERIFIER}}
    state.roles["reader_b"] = {**login, "attributes": dict(plain)}
    state.databases["gateway"]["rights"] = [["gateway_owner", "create"], ["reader", "connect"]]
    return state


def test_complete_server_with_a_role_beside_the_owner_needs_nothing():
    assert core.plan(beside(), complete_beside(), BOTH) == []
    assert core.notes(beside(), complete_beside(), BOTH) == []


def test_role_beside_the_owner_is_made_and_may_connect_and_no_more():
    actions = [str(action) for action in core.plan(beside(), core.State(), BOTH)]
    assert [action for action in actions if "reader" in action] == [
        "role reader: create it without login",
        "role reader_a: create it without login",
        "role reader_a: make it a member of reader",
        "role reader_a: set role to reader",
        "role reader_a: set statement_timeout to 30s",
        "role reader_a: set lock_timeout to 10s",
        "role reader_a: allow login and set the password",
        "role reader_b: create it without login",
        "role reader_b: make it a member of reader",
        "role reader_b: set role to reader",
        "role reader_b: set statement_timeout to 30s",
        "role reader_b: set lock_timeout to 10s",
        "database gateway: let reader connect",
    ]
    made = [action.sql for action in core.plan(beside(), core.State(), BOTH) if "CREATE ROLE" in action.sql]
    assert made[3:] == [
        'CREATE ROLE "reader" NOLOGIN INHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS CONNECTION LIMIT -1',
        'CREATE ROLE "reader_a" NOLOGIN INHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS CONNECTION LIMIT 7',
        'CREATE ROLE "reader_b" NOLOGIN INHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS CONNECTION LIMIT 7',
    ]
    assert actions.index("database gateway: let reader connect") > actions.index(
        "database gateway: create it, owned by gateway_owner"
    )


@pytest.mark.parametrize(
    ("change", "statement", "database"),
    [
        (set_in("roles", "reader", "attributes", "rolcanlogin", True), 'ALTER ROLE "reader" NOLOGIN PASSWORD NULL', ""),
        (set_in("roles", "reader", "groups", {"gateway_owner": True}), 'REVOKE "gateway_owner" FROM "reader"', ""),
        (
            set_in("roles", "reader_b", "groups", {"reader": True, "gateway_owner": False}),
            'REVOKE "gateway_owner" FROM "reader_b"',
            "",
        ),
        (set_in("roles", "reader_a", "attributes", "rolconnlimit", 20), 'ALTER ROLE "reader_a" CONNECTION LIMIT 7', ""),
        (
            set_in("roles", "reader_a", "settings", settings()),
            "ALTER ROLE \"reader_a\" SET role = 'reader'",
            "",
        ),
        (
            set_in("databases", "gateway", "rights", []),
            'GRANT CONNECT ON DATABASE "gateway" TO "reader"',
            "",
        ),
        (
            set_in(
                "databases",
                "gateway",
                "rights",
                [["reader", "connect"], ["reader_b", "temporary"], ["reader_b", "create"]],
            ),
            'REVOKE CREATE, TEMPORARY ON DATABASE "gateway" FROM "reader_b"',
            "",
        ),
        (
            set_in("inside", "gateway", "creators", [["jobs", "reader"]]),
            'REVOKE CREATE ON SCHEMA "jobs" FROM "reader"',
            "gateway",
        ),
        (
            set_in("inside", "gateway", "owners", ["reader_a"]),
            'REASSIGN OWNED BY "reader_a" TO "gateway_owner"',
            "gateway",
        ),
    ],
)
def test_one_right_too_many_or_too_few_is_one_statement(change, statement, database):
    state = complete_beside()
    change(state)
    assert [(action.sql, action.database) for action in core.plan(beside(), state, BOTH)] == [(statement, database)]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"name": "gateway_owner"},
            "databases[0].roles[0].name: gateway_owner is already used by databases[0].owner; give every entry names of its own.",
        ),
        (
            {"logins": ["gateway_a"]},
            "databases[0].roles[0].logins[0]: gateway_a is already used by databases[0].logins[0]; give every entry names of its own.",
        ),
        ({"name": "pg_monitor"}, f"databases[0].roles[0].name: 'pg_monitor' is no usable name; {NAMES}."),
        ({"logins": []}, "databases[0].roles[0].logins: is empty; name the login roles, two of them so that they can rotate."),
        ({"secret_file": ""}, "databases[0].roles[0].secret_file: is empty; name the file that holds login and password."),
        ({"connection_limit": 0}, "databases[0].roles[0].connection_limit: is 0; give a number from 1 to 10000."),
        ({"lock_timeout": "x"}, "databases[0].roles[0].lock_timeout: is 'x'; write it like 30s, 500ms, 5min or 0."),
    ],
)  # fmt: skip
def test_bad_roles_are_named(changes, problem):
    with pytest.raises(core.StateError) as refused:
        beside(**changes)
    assert str(refused.value) == problem


def test_roles_go_with_their_database():
    assert [action.sql for action in core.plan(wanted(roles=[ROLE], state="absent"), complete_beside(), {})] == [
        'DROP DATABASE "gateway" WITH (FORCE)',
        'DROP ROLE "gateway_a"',
        'DROP ROLE "gateway_b"',
        'DROP ROLE "reader_a"',
        'DROP ROLE "reader_b"',
        'DROP ROLE "gateway_owner"',
        'DROP ROLE "reader"',
    ]


def test_every_secret_is_read_and_every_login_proved(tmp_path):
    (tmp_path / "o").write_text(f"gateway_a:{PASSWORD}")
    (tmp_path / "r").write_text(f"reader_b:{PASSWORD}")
    databases = wanted(secret_file=str(tmp_path / "o"), roles=[{**ROLE, "secret_file": str(tmp_path / "r")}])
    secrets = core.read_secrets(databases)
    assert {name: secret.role for name, secret in secrets.items()} == {
        "gateway_owner": "gateway_a",
        "reader": "reader_b",
    }
    acting = {"gateway_a": "gateway_owner", "reader_b": "reader"}
    proved = core.prove_logins(
        databases, secrets, ["10.0.0.1"], "/ca", lambda _address, *, user, **_options: [user, acting[user]]
    )
    assert [(item["login"], item["acts_as"]) for item in proved] == list(acting.items())
    acting["reader_b"] = "gateway_owner"
    with pytest.raises(core.StateError, match="reader_b ended up as gateway_owner; role reader_b must act as reader"):
        core.prove_logins(
            databases, secrets, ["10.0.0.1"], "/ca", lambda _address, *, user, **_options: [user, acting[user]]
        )


def test_notes_name_what_was_not_declared():
    state = complete()
    set_in("roles", "gateway_a", "groups", {"gateway_owner": True, "pg_execute_server_program": True})(state)
    set_in("inside", "gateway", "extensions", {"vector": "0.8.0", "citext": "1.6"})(state)
    assert core.notes(wanted(), state, SECRETS) == [
        "role gateway_a is also a member of pg_execute_server_program.",
        "database gateway has extension citext, which is not declared.",
    ]
    assert core.plan(wanted(), state, SECRETS) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (set_in("server", "settings", "data_checksums", "off"), "postgres: data_checksums is off, not on; stop the service and run pg_checksums --enable."),
        (set_in("server", "settings", "ssl", "off"), "postgres: ssl is off, not on; deploy the service's configuration again."),
        (
            set_in("server", "settings", "password_encryption", "md5"),
            "postgres: password_encryption is md5, not scram-sha-256; deploy the service's configuration again.",
        ),
        (set_in("server", "hba_errors", ["f line 3: bad"]), "postgres: pg_hba.conf is wrong: f line 3: bad; correct the option that put it there."),
        (set_in("server", "available", {}), "database gateway: extension vector is not in the image; use an image that has it."),
    ],
)  # fmt: skip
def test_what_no_statement_can_repair(change, problem):
    state = complete()
    change(state)
    with pytest.raises(core.StateError) as refused:
        raise core.StateError(core.impossible(wanted(), state))
    assert str(refused.value) == problem


def test_nothing_is_dropped_unless_asked():
    state = complete()
    state.databases["mine"] = {"owner": "postgres", "public": False, "settings": None}
    assert "DROP" not in core.script(core.plan(wanted(), state, SECRETS))
    assert [action.sql for action in core.plan(wanted(state="absent"), state, {})] == [
        'DROP DATABASE "gateway" WITH (FORCE)',
        'DROP ROLE "gateway_a"',
        'DROP ROLE "gateway_b"',
        'DROP ROLE "gateway_owner"',
    ]
    bare = core.State(databases={name: {"public": False} for name in core.BUILTIN})
    assert core.plan(wanted(state="absent"), bare, {}) == []


def test_script_keeps_verifiers_out_of_the_log_and_connects_where_it_must():
    actions = [
        core.Action("a", "b", "ONE"),
        core.Action("a", "b", "TWO", quiet=True),
        core.Action("a", "b", "THREE", database="gateway"),
        core.Action("a", "b", "FOUR"),
    ]
    assert core.script(actions).splitlines() == [
        "ONE;",
        "BEGIN;",
        "SET LOCAL log_statement = 'none';",
        "SET LOCAL log_min_error_statement = 'panic';",
        "SET LOCAL log_min_duration_statement = -1;",
        "TWO;",
        "COMMIT;",
        '\\connect "gateway"',
        "THREE;",
        '\\connect "postgres"',
        "FOUR;",
    ]


@pytest.mark.parametrize("output", ["", "nonsense\n", '{"kind": "role"}\n', '{"kind": "other", "name": "x"}\n', "[]\n"])
def test_unreadable_answer_is_a_failure(output):
    with pytest.raises(
        core.StateError, match=r"^postgres: (its answer to the inspection cannot be read|it did not answer)"
    ):
        core.parse(output)


# -- the server -------------------------------------------------------------------------------------------------------


class FakeEngine:
    """psql that gives scripted answers and remembers what it was fed."""

    def __init__(self, *answers, running=True):
        self.answers, self.running, self.fed = list(answers), running, []

    def find_service_container(self, project, service):
        if self.running is None:
            raise EngineUnavailable("no engine here")
        return (
            {"Id": "c" * 64, "NetworkSettings": {"Networks": {"data": {"IPAddress": "10.9.8.7"}}}}
            if self.running
            else None
        )

    def exec(self, container, argv, stdin=None, env=None, timeout=None):
        self.fed.append((argv, stdin.decode(), env))
        answer = self.answers.pop(0)
        return answer if isinstance(answer, ExecResult) else ExecResult(0, answer.encode(), b"")


def answer(state: core.State) -> str:
    lines = [{"kind": "server", **state.server}]
    lines += [{**item, "kind": "role", "name": name} for name, item in state.roles.items()]
    lines += [{**item, "kind": "database", "name": name} for name, item in state.databases.items()]
    lines += [{**item, "kind": "inside", "database": name} for name, item in state.inside.items()]
    return "".join(json.dumps(line) + "\n" for line in lines)


@pytest.fixture
def secret(tmp_path):
    (tmp_path / "s").write_text(f"gateway_a:{PASSWORD}")
    return str(tmp_path / "s")


def accept(address, *, user, **_options):
    assert address == "10.9.8.7"
    return [user, "gateway_owner"]


def test_no_change_is_one_question_and_one_login(secret):
    engine = FakeEngine(answer(complete()))
    result = core.reconcile(engine, wanted(secret_file=secret), ca_file="/ca", connect=accept)
    assert result == {
        "changed": False,
        "actions": [],
        "logins": [{"database": "gateway", "login": "gateway_a", "acts_as": "gateway_owner"}],
        "notes": [],
        "server_version": "17.11",
    }
    assert len(engine.fed) == 1


def test_change_is_made_checked_and_proved(secret):
    state = complete()
    set_in("roles", "gateway_a", "attributes", "rolpassword", None)(state)
    engine = FakeEngine(answer(state), "", answer(complete()))
    result = core.reconcile(engine, wanted(secret_file=secret), ca_file="/ca", connect=accept)
    assert (result["changed"], result["actions"]) == (True, ["role gateway_a: set the password"])
    for argv, text, env in engine.fed:
        assert PASSWORD not in " ".join(argv) + text + repr(env) and "SCRAM" not in " ".join(argv) + repr(env)
    assert PASSWORD not in repr(result) and "SCRAM" not in repr(result)


def test_check_mode_asks_and_does_nothing(secret):
    state = complete()
    set_in("databases", "gateway", "public", True)(state)
    engine = FakeEngine(answer(state))
    result = core.reconcile(engine, wanted(secret_file=secret), ca_file="/ca", check=True, connect=None)
    assert (result["changed"], result["logins"], len(engine.fed)) == (True, [], 1)


@pytest.mark.parametrize("running", [False, None])
def test_check_mode_on_a_bare_host_reports_everything(running):
    result = core.reconcile(FakeEngine(running=running), wanted(secret_file="/nonexistent/x"), check=True)
    assert result["changed"] and len(result["actions"]) == 18
    assert "role gateway_a: allow login and set the password" in result["actions"]


def test_server_that_does_not_run():
    with pytest.raises(core.StateError) as refused:
        core.reconcile(FakeEngine(running=False), wanted())
    assert str(refused.value) == (
        "service postgres: is not running in project mcpstack; start it first; its log says why if it does not stay up."
    )
    with pytest.raises(EngineUnavailable):
        core.reconcile(FakeEngine(running=None), wanted())


def test_secret_is_read_before_anything_is_asked():
    engine = FakeEngine()
    with pytest.raises(core.StateError, match="does not exist"):
        core.reconcile(engine, wanted(secret_file="/nonexistent/x"))
    assert engine.fed == []


def test_what_stays_different_is_a_failure(secret):
    state = complete()
    set_in("databases", "gateway", "public", True)(state)
    with pytest.raises(core.StateError) as failed:
        core.reconcile(FakeEngine(answer(state), "", answer(state)), wanted(secret_file=secret))
    assert str(failed.value) == (
        "database gateway: still needs to take the rights of PUBLIC away after it was done; "
        "something else is changing them at the same time; find it, then run again."
    )


def test_failing_psql_is_quoted_without_verifiers(secret):
    said = f"psql:<stdin>:1: ERROR:  bad '{VERIFIER}' here".encode()
    with pytest.raises(core.StateError) as failed:
        core.reconcile(FakeEngine(ExecResult(3, b"", said)), wanted(secret_file=secret))
    assert str(failed.value) == (
        "postgres: psql ended with status 3: psql:<stdin>:1: ERROR:  bad '<verifier>' here; "
        "look at the log of the postgres service, then run again: what was done stays, the rest follows."
    )


@pytest.mark.parametrize(
    ("row", "addresses", "problem"),
    [
        (
            LoginError("password authentication failed"),
            ["10.0.0.1"],
            "database gateway: the login of gateway_a over TLS failed: password authentication failed; look at the log of the postgres service.",
        ),
        (
            ["gateway_a", "gateway_a"],
            ["10.0.0.1"],
            "database gateway: the login of gateway_a ended up as gateway_a; role gateway_a must act as gateway_owner.",
        ),
        ([], ["10.0.0.1"], "database gateway: the login of gateway_a ended up as nobody; role gateway_a must act as gateway_owner."),
        (None, [], "database gateway: the service has no address on its network; look at the postgres container."),
    ],
)  # fmt: skip
def test_login_that_proves_nothing_is_a_failure(row, addresses, problem):
    def connect(*_args, **_options):
        if isinstance(row, Exception):
            raise row
        return row

    with pytest.raises(core.StateError) as failed:
        core.prove_logins(wanted(), SECRETS, addresses, "/ca", connect)
    assert str(failed.value) == problem
