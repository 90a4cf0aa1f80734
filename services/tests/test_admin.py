# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The admin command: what it prints, what it leaves in the database, how it fails."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import http.server
import io
import json
import os
import subprocess
import sys
import threading
import unittest.mock
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import support
from mcpstack.admin import __main__ as command
from mcpstack.admin.settings import PREFIX, Settings
from mcpstack.common import audit, migrate
from support import Gateway, Launch, Stack


@pytest.fixture
def env(stack: Stack, tmp_path: Path) -> dict[str, str]:
    return support.service_environment(
        "admin", tmp_path / "secrets", stack.tls, stack.postgres.new_database(), stack.postgres.port
    )


def call(env: dict[str, str], *arguments: str, stdin: str = "") -> tuple[int, str, str]:
    """The command in this process, which has read no settings of its own: status, standard output, standard error."""
    out, err = io.StringIO(), io.StringIO()
    with (
        unittest.mock.patch.dict(os.environ, env, clear=True),
        unittest.mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode("latin-1")))),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            status = command.main(list(arguments))
        except SystemExit as stop:  # argparse
            status = int(str(stop.code))
    return status, out.getvalue(), err.getvalue()


def run(env: dict[str, str], *arguments: str, stdin: str = "", status: int = 0) -> dict[str, Any]:
    """What it prints, or {"message": what it complains of}; a key that was given is never among it."""
    ended, printed, said = call(env, *arguments, stdin=stdin)
    assert ended == status, said
    if stdin.count("_") == 4:
        assert stdin.split("_")[3] not in printed + said
    if status in (0, 1):
        assert said == ""
        found = json.loads(printed)
        assert isinstance(found, dict)
        return found
    assert printed == ""
    return {"message": said}


def put(env: dict[str, str], key: str, *more: str, status: int = 0) -> dict[str, Any]:
    return run(env, "keys", "put", "--name", "first", "--scopes", "chat,models", *more, stdin=key + "\n", status=status)


def kid_of(key: str) -> str:
    return key.split("_")[2]


def audited(stack: Stack, env: dict[str, str]) -> list[tuple[Any, ...]]:
    with stack.postgres.login(env["ADMIN_DB_NAME"]) as conn:
        return conn.execute(
            "SELECT who, action, target, result, written_by FROM gateway.audit_log ORDER BY written_at, at"
        ).fetchall()


def test_the_process_does_what_main_does(env: dict[str, str]) -> None:
    key = support.make_key()
    done = support.run_admin(env, "keys", "put", "--name", "first", "--scopes", "chat", stdin=key + "\n")
    assert (done.returncode, done.stderr, json.loads(done.stdout)["kid"]) == (0, "", kid_of(key))
    done = support.run_admin(env, "keys", "rotate", "nobody")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "mcpstack-admin: There is no key 'nobody'. mcpstack-admin keys list shows them.\n"


# keys put: what the Ansible module api_key runs


def test_put_is_idempotent_and_check_changes_nothing(stack: Stack, env: dict[str, str]) -> None:
    key = support.make_key()
    kid = kid_of(key)
    checked = put(env, key, "--check")
    assert (checked["changed"], checked["kid"], checked["created"]) == (True, kid, True)
    assert audited(stack, env) == []
    first = put(env, key)
    assert first == {
        "changed": True, "kid": kid, "created": True, "also_active": [], "warnings": [],
        "fields": sorted(["name", "scopes", "rpm", "concurrency", "tpm", "tokens_day", "tokens_month", "cache",
                          "expires_at", "secret"]),
    }  # fmt: skip
    assert put(env, key)["changed"] is False
    assert put(env, key, "--check")["changed"] is False
    assert put(env, key, "--rpm", "5", "--check")["fields"] == ["rpm"]
    assert put(env, key, "--rpm", "5")["changed"] is True
    assert put(env, key, "--rpm", "5")["changed"] is False
    [listed] = run(env, "keys", "list")["keys"]
    assert (listed["kid"], listed["rpm"], listed["scopes"], listed["state"]) == (kid, 5, ["chat", "models"], "active")
    assert [sorted(secret) for secret in listed["secrets"]] == [
        ["created_at", "expires_at", "id", "last_used_at", "not_before", "pepper_version", "revoked_at", "state"]
    ]
    assert audited(stack, env) == [
        ("operator", "keys put", kid, result, "admin_a") for result in ("ok", "unchanged", "ok", "unchanged")
    ] + [("operator", "keys list", None, "ok", "admin_a")]


def test_put_follows_the_secret_and_the_pepper(env: dict[str, str]) -> None:
    key = support.make_key()
    put(env, key)
    renewed = support.make_key(kid=kid_of(key))
    assert put(env, renewed)["fields"] == ["secret"]
    states = [secret["state"] for secret in run(env, "keys", "show", kid_of(key))["key"]["secrets"]]
    assert states == ["revoked", "active"]
    assert "was revoked and stays so" in put(env, key, status=2)["message"]
    support.swap_secret(env["ADMIN_PEPPER_FILE"], f"2:{'6b' * 32}\n1:{support.PEPPER}")
    assert put(env, renewed)["fields"] == ["pepper_version"]
    assert put(env, renewed)["changed"] is False


def test_put_leaves_a_rotated_secret_its_end(env: dict[str, str]) -> None:
    key = support.make_key()
    put(env, key)
    run(env, "keys", "rotate", kid_of(key), "--overlap", "1h")
    again = put(env, key)
    assert again["changed"] is False
    assert again["warnings"][0].endswith("it was rotated. Use its successor.")
    run(env, "keys", "rotate", kid_of(key), "--overlap", "0")
    assert "it was rotated. Use its successor." in put(env, key, status=2)["message"]


def test_a_second_key_of_the_same_name_shows_what_is_left_to_revoke(env: dict[str, str]) -> None:
    old, new = support.make_key(), support.make_key("prod")
    put(env, old)
    answer = put(env, new)
    assert answer["also_active"] == [kid_of(old)]
    assert answer["warnings"] == ["The key was made for prod, this installation is dev."]
    kid = kid_of(old)
    assert run(env, "keys", "revoke", kid, "--check") == {"changed": True, "kid": kid}
    assert run(env, "keys", "revoke", kid) == {"changed": True, "kid": kid}
    assert run(env, "keys", "revoke", kid) == {"changed": False, "kid": kid}
    assert put(env, new)["also_active"] == []
    assert "was revoked and stays so" in put(env, old, status=2)["message"]


X = ("--name", "x", "--scopes", "chat")


@pytest.mark.parametrize(
    ("arguments", "stdin", "words"),
    [
        (X, "mk_dev_nonsense", "The key on standard input is malformed"),
        (X, "", "The key on standard input is malformed"),
        (X, "\xff\xfe", "The key on standard input is malformed"),
        (X, "\0" * 5000, "The key on standard input is malformed"),
        (("--name", "x", "--scopes", "root"), None, "--scopes must be a list of chat, embeddings, models, tasks"),
        (("--name", "x", "--scopes", ","), None, "--scopes must be a list of chat, embeddings, models"),
        (("--name", "\n", "--scopes", "chat"), None, "--name must be 1 to 100 letters"),
        (("--name", "x'; DROP TABLE gateway.api_key; --", "--scopes", "chat"), None, "--name must be 1 to 100 letters"),
        ((*X, "--rpm", "0"), None, "--rpm must be from 1 to 1000000."),
        ((*X, "--tpm", "-1"), None, "--tpm must be from 1 to 2000000000."),
        ((*X, "--tokens-day", "9" * 30), None, "--tokens-day must be from 1 to 1000000000000000."),
        ((*X, "--expires-at", "soon"), None, "--expires-at must be a time with its zone"),
        ((*X, "--expires-at", "2027-01-01"), None, "--expires-at must be a time with"),
    ],
)
def test_bad_arguments(env: dict[str, str], arguments: tuple[str, ...], stdin: str | None, words: str) -> None:
    text = support.make_key() if stdin is None else stdin
    assert words in run(env, "keys", "put", *arguments, stdin=text, status=2)["message"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("rotate", "abcdefghij23"), "There is no key 'abcdefghij23'. mcpstack-admin keys list shows them."),
        (("revoke", "x" * 99), f"There is no key '{'x' * 40}'."),
        (("show", "nobody"), "There is no key 'nobody'."),
        (
            ("rotate", "abcdefghij23", "--overlap", "91d"),
            "--overlap must be a time such as 24h, 30m or 7d, 90d at most",
        ),
        (("rotate", "abcdefghij23", "--overlap", "-1h"), "expected one argument"),
        (("rotate", "abcdefghij23", "--overlap", "1"), "--overlap must be a time"),
    ],
)
def test_what_cannot_be_done_is_said(env: dict[str, str], arguments: tuple[str, ...], words: str) -> None:
    assert words in run(env, "keys", *arguments, status=2)["message"]


# keys create, rotate, revoke


def test_a_key_is_shown_once(stack: Stack, env: dict[str, str], launch: Launch) -> None:
    made = run(env, "keys", "create", "--name", "team", "--scopes", "models", "--tpm", "5", "--cache")
    key, kid = made.pop("key"), made["kid"]
    assert (made["changed"], made["created"], kid) == (True, True, kid_of(key))
    assert key.startswith("mk_dev_")
    rotated = run(env, "keys", "rotate", kid, "--overlap", "30m")
    assert (rotated["changed"], rotated["kid"], len(rotated["ending"])) == (True, kid, 1)
    assert kid_of(rotated["key"]) == kid
    [listed] = run(env, "keys", "list")["keys"]
    shown = run(env, "keys", "show", kid)["key"]
    assert shown == listed
    assert (shown["tpm"], shown["cache"], [secret["state"] for secret in shown["secrets"]]) == (
        5, True, ["active", "active"],
    )  # fmt: skip
    with stack.postgres.login(env["ADMIN_DB_NAME"]) as conn:
        dump = json.dumps(conn.execute("SELECT * FROM gateway.audit_log").fetchall(), default=repr)
        dump += json.dumps(conn.execute("SELECT * FROM gateway.api_key_secret").fetchall(), default=repr)
    for text in (key, rotated["key"]):
        assert text.split("_")[3] not in json.dumps(listed) + dump
    gateway = launch(database=env["ADMIN_DB_NAME"])
    for text in (key, rotated["key"]):
        assert gateway.get("/v1/models", text).status == 200
    old, new = (secret["id"] for secret in shown["secrets"])
    assert run(env, "keys", "revoke", kid, "--secret", str(old))["changed"] is True
    support.wait_for("the end of one secret", lambda: gateway.get("/v1/models", key).status == 401, 5)
    assert gateway.get("/v1/models", rotated["key"]).status == 200
    assert run(env, "keys", "revoke", kid, "--secret", str(old))["changed"] is False
    assert f"Key {kid} has no secret {new + 9}." in run(env, "keys", "revoke", kid, "--secret", str(new + 9), status=2)[
        "message"
    ]  # fmt: skip
    assert run(env, "keys", "revoke", kid)["changed"] is True
    support.wait_for("the end of the key", lambda: gateway.get("/v1/models", rotated["key"]).status == 401, 5)
    assert "stays so" in run(env, "keys", "rotate", kid, status=2)["message"]


def test_check_makes_no_key(stack: Stack, env: dict[str, str]) -> None:
    assert run(env, "keys", "create", *X, "--check") == {"changed": True}
    key = support.make_key()
    put(env, key)
    assert run(env, "keys", "rotate", kid_of(key), "--check") == {"changed": True, "kid": kid_of(key)}
    [listed] = run(env, "keys", "list")["keys"]
    assert [secret["expires_at"] for secret in listed["secrets"]] == [None]
    assert [line[1] for line in audited(stack, env)] == ["keys put", "keys list"]


def test_last_use_is_written_when_the_gateway_stops(launch: Launch, new_key: Callable[..., str]) -> None:
    gateway = launch()
    key = new_key(gateway)
    assert gateway.chat(key).status == 200
    assert gateway.stop() == 0
    [row] = run(gateway.env, "keys", "list")["keys"]
    assert row["last_used_at"] is not None
    assert row["last_used_at"] == row["secrets"][0]["last_used_at"]


# The audit log


def test_every_action_is_written_down(stack: Stack, env: dict[str, str]) -> None:
    env = env | {"ADMIN_ACTOR": "alice@ops"}
    kid = run(env, "keys", "create", *X)["kid"]
    run(env, "keys", "rotate", kid)
    run(env, "keys", "show", kid)
    run(env, "keys", "revoke", kid)
    run(env, "keys", "rotate", kid, status=2)
    run(env, "migrate")
    expected = [
        ("keys create", kid, "ok"), ("keys rotate", kid, "ok"), ("keys show", kid, "ok"), ("keys revoke", kid, "ok"),
        ("keys rotate", kid, "refused"), ("migrate", None, "unchanged"),
    ]  # fmt: skip
    assert audited(stack, env) == [("alice@ops", *line, "admin_a") for line in expected]
    with stack.postgres.login(env["ADMIN_DB_NAME"]) as conn:
        row = conn.execute("SELECT arguments_sha256 FROM gateway.audit_log WHERE action = 'keys revoke'").fetchone()
    assert row is not None
    assert bytes(row[0]) == audit.arguments_hash({"secret": None}) == hashlib.sha256(b'{"secret":null}').digest()


def test_what_cannot_be_logged_is_not_done(stack: Stack, env: dict[str, str]) -> None:
    key = support.make_key()
    with stack.postgres.admin(env["ADMIN_DB_NAME"]) as conn:
        conn.execute("ALTER TABLE gateway.audit_log ADD CONSTRAINT closed CHECK (who = 'nobody')")
    assert put(env, key, status=3)["message"].count("\n") == 1
    with stack.postgres.login(env["ADMIN_DB_NAME"]) as conn:
        assert conn.execute("SELECT count(*) FROM gateway.api_key").fetchone() == (0,)


# migrate


def test_migrate(stack: Stack, env: dict[str, str]) -> None:
    env = env | {"ADMIN_DB_NAME": stack.postgres.new_database(migrated=False)}
    todo = [f"{name}/{m.version:04d}_{m.name}" for name in migrate.COMPONENTS for m in migrate.migrations(name)]
    assert todo[0] == "gateway/0001_api_keys"
    assert run(env, "migrate", "--check") == {"changed": True, "migrations": todo}
    for early in (("keys", "list"), ("keys", "create", *X, "--check"), ("keys", "create", *X)):
        assert "Run mcpstack-admin migrate." in run(env, *early, status=4)["message"]
    assert run(env, "migrate") == {"changed": True, "migrations": todo}
    assert run(env, "migrate") == {"changed": False, "migrations": []}
    assert run(env, "migrate", "--check") == {"changed": False, "migrations": []}
    assert audited(stack, env) == [("operator", "migrate", todo[-1], "ok", "admin_a"),
                                   ("operator", "migrate", None, "unchanged", "admin_a")]  # fmt: skip
    with stack.postgres.login(env["ADMIN_DB_NAME"]) as conn:
        conn.execute("INSERT INTO public.schema_version VALUES ('jobs', 99, 'future', 'x')")
    for arguments in (("migrate",), ("migrate", "--check")):
        assert "The jobs schema is at version 99" in run(env, *arguments, status=4)["message"]


def test_a_service_login_cannot_migrate(stack: Stack, env: dict[str, str]) -> None:
    """An operator who mixes up the files gets a sentence and an untouched database."""
    database = stack.postgres.new_database(migrated=False)
    support.swap_secret(env["ADMIN_DB_LOGIN_FILE"], f"gateway_a:{support.DB_PASSWORD}")
    message = run(env | {"ADMIN_DB_NAME": database}, "migrate", status=3)["message"]
    assert message == (
        "mcpstack-admin: Postgres cannot be used: a permission is missing. See that it is healthy, and that the login "
        "is one of the database's owner.\n"
    )


# Settings


def test_settings_table() -> None:
    text = (support.ROOT / "README.md").read_text().split("### Its settings\n", 1)[1].split("\n## ", 1)[0]
    rows = [
        [cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line
    ]
    assert rows[2:] == [
        [PREFIX + field.name.upper(), field.metadata["default"], field.metadata["about"]]
        for field in dataclasses.fields(Settings)
    ]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ADMIN_DB_PRT", "1", "ADMIN_DB_PRT: is not a setting. Did you mean ADMIN_DB_PORT?"),
        ("ADMIN_ENVIRONMENT", "prod", "Set it to one of development, staging, production."),
        ("ADMIN_ACTOR", "a\nb", "Set it to 1 to 100 printable characters."),
        ("ADMIN_SERVICES", "gateway", "Set it to name=URL pairs such as gateway=http://gateway:8000"),
        ("ADMIN_SERVICES", "a=http://x,a=http://y", "Set it to name=URL pairs"),
        ("ADMIN_SERVICES", "a=file:///etc/passwd", "Set it to name=URL pairs"),
        ("ADMIN_DB_LOGIN_FILE", "/nowhere", "ADMIN_DB_LOGIN_FILE: /nowhere cannot be read"),
        ("ADMIN_TLS_CA_FILE", "/nowhere", "ADMIN_TLS_CA_FILE: /nowhere cannot be read"),
    ],
)
def test_settings_that_cannot_be_used(env: dict[str, str], name: str, value: str, words: str) -> None:
    message = run(env | {name: value}, "keys", "list", status=2)["message"]
    assert words in message
    assert message.count("\n") == 1


def test_no_database_is_exit_three(env: dict[str, str]) -> None:
    message = run(env | {"ADMIN_DB_PORT": str(support.free_port())}, "keys", "list", status=3)["message"]
    assert message == "mcpstack-admin: Postgres cannot be used: no connection. See that it is healthy.\n"


def test_every_subcommand_names_what_to_run() -> None:
    """A module that is listed and sets no `run` would end in a traceback."""
    parser = command._parser()
    [commands] = [action for action in parser._actions if hasattr(action, "choices") and action.choices]
    leaves = []
    for name, sub in commands.choices.items():
        nested = [action for action in sub._actions if isinstance(getattr(action, "choices", None), dict)]
        leaves += [(name, leaf) for leaf in nested[0].choices.values()] if nested else [(name, sub)]
    assert {name for name, _ in leaves} >= {"keys", "migrate", "doctor"}
    assert [name for name, leaf in leaves if not callable(leaf.get_default("run"))] == []


# doctor


def test_doctor_on_a_whole_stack(stack: Stack, launch: Launch) -> None:
    gateway = launch()
    env = gateway.env | {"ADMIN_SERVICES": f"gateway=http://localhost:{gateway.port}"}
    well = run(env, "doctor")
    assert [(check["id"], check["status"]) for check in well["checks"]][:6] == [
        (name, "pass") for name in ("settings", "postgres", "roles", "extensions", "schema", "partitions")
    ]
    assert {check["id"] for check in well["checks"][6:]} >= {"gateway", "gateway.postgres", "gateway.valkey"}
    assert well["ok"] is True
    assert well["checks"][1]["detail"] == "admin_a acts as mcpstack_owner, who owns the database"


def test_doctor_names_what_is_wrong(stack: Stack, launch: Launch, env: dict[str, str]) -> None:
    down = str(support.free_port())
    gateway = launch(until=("degraded",), valkey_port=int(down))
    services = f"gateway=http://localhost:{gateway.port},worker=http://localhost:{down}"
    ill = run(env | {"ADMIN_DB_PORT": down, "ADMIN_SERVICES": services}, "doctor", status=1)
    found = {check["id"]: check["detail"] for check in ill["checks"] if check["status"] == "fail"}
    assert found == {
        "postgres": "Postgres cannot be used: no connection.",
        "gateway": "gateway is degraded.",
        "gateway.valkey": "down: no connection",
        "worker": "worker cannot be reached.",
    }
    assert all(check["fix"] for check in ill["checks"] if check["status"] == "fail")
    for secret in (support.DB_PASSWORD, support.PEPPER):
        assert secret not in json.dumps(ill)


def test_doctor_reads_the_database(stack: Stack, env: dict[str, str]) -> None:
    def broken(*statements: str, **changes: str) -> dict[str, str]:
        with stack.postgres.admin(env["ADMIN_DB_NAME"]) as conn:
            for statement in statements:
                conn.execute(statement.encode())
        checks = run(env | changes, "doctor", status=1)["checks"]
        return {check["id"]: check["detail"] for check in checks if check["status"] == "fail"}

    fresh = stack.postgres.new_database(migrated=False)
    detail = broken(ADMIN_DB_NAME=fresh)
    assert sorted(detail) == ["partitions", "schema"]
    assert detail["schema"].startswith("Migrations are still to do (gateway: ")
    next_month = "SELECT to_char(now() AT TIME ZONE 'UTC' + interval '1 month', 'YYYYMM')"
    with stack.postgres.admin() as conn:
        month = conn.execute(next_month).fetchone()
    assert month is not None
    assert broken(f"DROP TABLE gateway.audit_log_{month[0]}") == {
        "partitions": "The audit log has no partition for the next month."
    }
    found = broken("INSERT INTO public.schema_version VALUES ('jobs', 99, 'future', 'x')",
                   "ALTER TABLE gateway.usage_day OWNER TO worker")  # fmt: skip
    assert found["roles"] == "A service's role owns something: worker."
    assert found["schema"].startswith("The jobs schema is at version 99")


class _Odd(http.server.BaseHTTPRequestHandler):
    body = b""

    def do_GET(self) -> None:
        if self.path == "/elsewhere":
            self.body = b'{"status": "ready", "checks": {}}'
        self.send_response(302 if self.body == b"#elsewhere" else 200)
        self.send_header("Location", "/elsewhere")
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: Any) -> None:
        """Not on the test's output."""


@pytest.fixture
def odd() -> Iterator[Callable[[bytes], str]]:
    server = http.server.HTTPServer(("127.0.0.1", 0), _Odd)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()

    def say(body: bytes) -> str:
        _Odd.body = body
        return f"odd=http://127.0.0.1:{server.server_port}"

    yield say
    server.shutdown()
    thread.join(5)
    server.server_close()


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b'{"status": "ready"}', b'{"status": 5, "checks": {}}', b'{"status": "ready", "checks": {"a": 1}}',
     b'{"status": "ready", "checks": {"A\\nB": {"status": "up"}}}', b'{"status": "<b>", "checks": {}}', b"\xff",
     b"[" * 60_000, b"#elsewhere"],
)  # fmt: skip
def test_doctor_is_not_led_by_what_a_service_answers(
    env: dict[str, str], odd: Callable[[bytes], str], body: bytes
) -> None:
    ill = run(env | {"ADMIN_SERVICES": odd(body)}, "doctor", status=1)
    assert ill["checks"][-1]["detail"] == "odd gives an answer that is not understood."


def test_health_probe(gateway: Gateway) -> None:
    def probe(port: int | str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "mcpstack.health"], env=gateway.env | {"GATEWAY_PORT": str(port)},
            capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip

    assert probe(gateway.port).returncode == 0
    down = probe(support.free_port())
    assert (down.returncode, down.stderr.count("\n")) == (1, 1)
    assert probe("x").returncode == 1
