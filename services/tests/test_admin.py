# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import support
from conftest import Launch, Stack
from support import Gateway


@pytest.fixture
def env(stack: Stack, tmp_path: Path) -> dict[str, str]:
    return support.environment(
        tmp_path / "secrets", stack.tls, stack.postgres.port, stack.postgres.new_database(), stack.valkey.port,
        stack.runner.port,
    )  # fmt: skip


def put(env: dict[str, str], key: str, *more: str, status: int = 0) -> dict[str, object]:
    done = support.run_admin(env, "keys", "put", "--name", "first", "--scopes", "chat,models", *more, stdin=key + "\n")
    assert done.returncode == status, done.stderr
    assert key.split("_")[3] not in done.stdout + done.stderr
    return json.loads(done.stdout) if status == 0 else {"message": done.stderr}


def test_put_is_idempotent_and_check_changes_nothing(env: dict[str, str]) -> None:
    key = support.make_key()
    kid = key.split("_")[2]
    assert put(env, key, "--check") == {"changed": True, "kid": kid, "created": True, "fields": []}
    assert json.loads(support.run_admin(env, "keys", "list").stdout) == {"keys": []}
    first = put(env, key)
    assert (first["changed"], first["created"], first["kid"]) == (True, True, kid)
    assert put(env, key)["changed"] is False
    assert put(env, key, "--check")["changed"] is False
    assert put(env, key, "--rpm", "5", "--check")["fields"] == ["rpm"]
    assert put(env, key, "--rpm", "5")["changed"] is True
    assert put(env, key, "--rpm", "5")["changed"] is False
    listed = json.loads(support.run_admin(env, "keys", "list").stdout)["keys"]
    assert [(row["kid"], row["rpm"], row["scopes"], row["state"]) for row in listed] == [
        (kid, 5, ["chat", "models"], "active")
    ]
    assert "hmac" not in listed[0]


def test_put_follows_the_secret_and_the_pepper(env: dict[str, str]) -> None:
    key = support.make_key()
    put(env, key)
    renewed = support.make_key(kid=key.split("_")[2])
    assert put(env, renewed)["fields"] == ["hmac"]
    folder = Path(env["GATEWAY_PEPPER_FILE"]).parent
    (folder / "v1").write_text(f"2:{'6b' * 32}\n1:{support.PEPPER}")
    assert put(env, renewed)["fields"] == ["hmac", "pepper_version"]
    assert put(env, renewed)["changed"] is False


def test_a_second_key_of_the_same_name_shows_what_is_left_to_revoke(env: dict[str, str]) -> None:
    old, new = support.make_key(), support.make_key("prod")
    put(env, old)
    answer = put(env, new)
    assert answer["also_active"] == [old.split("_")[2]]
    assert answer["warnings"] == ["The key was made for prod, this installation is dev."]
    kid = old.split("_")[2]
    assert json.loads(support.run_admin(env, "keys", "revoke", kid).stdout) == {"changed": True, "kid": kid}
    assert json.loads(support.run_admin(env, "keys", "revoke", kid).stdout) == {"changed": False, "kid": kid}
    assert put(env, new)["also_active"] == []
    assert "was revoked and stays so" in str(put(env, old, status=2)["message"])


@pytest.mark.parametrize(
    ("arguments", "stdin", "words"),
    [
        (("--name", "x", "--scopes", "chat"), "mk_dev_nonsense", "The key on standard input is malformed"),
        (("--name", "x", "--scopes", "chat"), "", "The key on standard input is malformed"),
        (("--name", "x", "--scopes", "root"), None, "--scopes must be a list of chat, embeddings, models"),
        (("--name", "x", "--scopes", ","), None, "--scopes must be a list of chat, embeddings, models"),
        (("--name", "\n", "--scopes", "chat"), None, "--name must be 1 to 100 letters"),
        (("--name", "x", "--scopes", "chat", "--rpm", "0"), None, "--rpm must be from 1 to 1000000."),
        (
            ("--name", "x", "--scopes", "chat", "--expires-at", "soon"),
            None,
            "--expires-at must be a time with its zone",
        ),
        (("--name", "x", "--scopes", "chat", "--expires-at", "2027-01-01"), None, "--expires-at must be a time with"),
    ],
)
def test_bad_arguments(env: dict[str, str], arguments: tuple[str, ...], stdin: str | None, words: str) -> None:
    done = support.run_admin(env, "keys", "put", *arguments, stdin=support.make_key() if stdin is None else stdin)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_migrate(env: dict[str, str]) -> None:
    todo = ["0001_api_keys"]
    assert json.loads(support.run_admin(env, "migrate", "--check").stdout) == {"changed": True, "migrations": todo}
    assert json.loads(support.run_admin(env, "migrate").stdout) == {"changed": True, "migrations": todo}
    assert json.loads(support.run_admin(env, "migrate").stdout) == {"changed": False, "migrations": []}


def test_no_database_is_exit_three(env: dict[str, str]) -> None:
    done = support.run_admin(env | {"GATEWAY_DB_PORT": str(support.free_port())}, "keys", "list")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "mcpstack-admin: Postgres cannot be used: no connection. See that it is healthy.\n"


def test_doctor(env: dict[str, str]) -> None:
    before = support.run_admin(env, "doctor")
    assert before.returncode == 1
    assert [check["status"] for check in json.loads(before.stdout)["checks"]] == ["pass", "fail", "pass", "pass"]
    support.run_admin(env, "migrate")
    well = support.run_admin(env, "doctor")
    assert (well.returncode, json.loads(well.stdout)["ok"]) == (0, True)
    port = str(support.free_port())
    broken = env | {
        "GATEWAY_DB_PORT": port,
        "GATEWAY_VALKEY_HOST": "127.0.0.1",
        "GATEWAY_MODEL_URL": f"http://localhost:{port}",
    }
    ill = json.loads(support.run_admin(broken, "doctor").stdout)
    details = {check["id"]: check["detail"] for check in ill["checks"] if check["status"] == "fail"}
    assert details["postgres"] == "Postgres cannot be used: no connection."
    assert details["valkey"].startswith("Valkey's certificate is not trusted: IP address mismatch")
    assert details["model_runner"] == "The model server cannot be reached."
    assert all(check["fix"] for check in ill["checks"] if check["status"] == "fail")
    for secret in ("p" * 32, "v" * 32, support.MODEL_KEY, support.PEPPER):
        assert secret not in json.dumps(ill)


def test_doctor_names_a_valkey_user_that_may_not(stack: Stack, env: dict[str, str]) -> None:
    env["GATEWAY_VALKEY_PREFIX"] = "other:"
    valkey = json.loads(support.run_admin(env, "doctor").stdout)["checks"][2]
    assert (valkey["status"], valkey["detail"]) == ("fail", "Valkey refuses HMGET for user gateway: NOPERM.")


def test_a_revoked_key_stops_working(launch: Launch, new_key: Callable[..., str]) -> None:
    gateway: Gateway = launch(key_cache_seconds="0.2")
    key = new_key(gateway)
    assert gateway.chat(key).status == 200
    assert gateway.admin("keys", "revoke", key.split("_")[2]).returncode == 0
    support.wait_for("the end of the cache", lambda: gateway.chat(key).status == 401, 5)


def test_last_use_is_written_when_the_gateway_stops(stack: Stack, launch: Launch, new_key: Callable[..., str]) -> None:
    gateway = launch()
    key = new_key(gateway)
    assert gateway.chat(key).status == 200
    assert gateway.stop() == 0
    row = json.loads(support.run_admin(gateway.env, "keys", "list").stdout)["keys"][0]
    assert row["last_used_at"] is not None


def test_health_probe(gateway: Gateway) -> None:
    import subprocess
    import sys

    def probe(port: int | str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "mcpstack.health"], env=gateway.env | {"GATEWAY_PORT": str(port)},
            capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip

    assert probe(gateway.port).returncode == 0
    down = probe(support.free_port())
    assert (down.returncode, down.stderr.count("\n")) == (1, 1)
    assert probe("x").returncode == 1
