# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Valkey as deployed: who may do what, over which door, and what survives."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import ssl
import time

import pytest

from .conftest import OPERATOR, PASSWORD, REPOSITORY, run, wait_for

pytestmark = pytest.mark.engine

BUCKET = "local t = redis.call('TIME') redis.call('HSET', KEYS[1], 'n', ARGV[1]) redis.call('PEXPIRE', KEYS[1], 61000) return redis.call('HMGET', KEYS[1], 'n')[1]"  # noqa: E501


REFUSALS = ("NOPERM", "DEBUG command not allowed", "ACL failure in script")


@pytest.mark.parametrize(("user", "prefix"), [("gateway", "gw"), ("registry", "rg")])
def test_service_does_its_work_over_tls(valkey, user, prefix):
    answers = valkey.as_user(
        user,
        "PING",
        f"SET {prefix}:a 1 EX 60",
        f"GET {prefix}:a",
        f'EVAL "{BUCKET}" 1 {prefix}:rpm:kid 7',
        f"EVALSHA {hashlib.sha1(BUCKET.encode()).hexdigest()} 1 {prefix}:rpm:kid 8",
        tls=True,
    )
    assert answers == ["PONG", "OK", "1", "7", "8"]


@pytest.mark.parametrize(
    "command",
    [
        "FLUSHALL", "FLUSHDB", "KEYS gw:*", "SCAN 0", "CONFIG GET requirepass", "CONFIG SET maxmemory 0", "SCRIPT FLUSH", "DEBUG SLEEP 0",
        "MODULE LIST", "ACL LIST", "ACL WHOAMI", "CLIENT LIST", "SAVE", "SHUTDOWN NOSAVE", "REPLICAOF 127.0.0.1 1", "MONITOR", "INFO",
        "FUNCTION LIST", "PUBLISH gw:x y", "GET other:a", "SET other:a 1", "EVAL \"return redis.call('GET', KEYS[1])\" 1 other:a",
        "EVAL \"return redis.call('GET', 'other:a')\" 0", "EVAL \"return redis.call('FLUSHALL')\" 0", "RENAME gw:a gw:b",
    ],
)  # fmt: skip
def test_gateway_is_denied(valkey, command):
    (answer,) = valkey.as_user("gateway", command, tls=True)[:1]
    assert any(refusal in answer for refusal in REFUSALS), answer


@pytest.mark.parametrize(("user", "key"), [("gateway", "rg:a"), ("registry", "gw:a")])
def test_no_service_touches_the_keys_of_another(valkey, user, key):
    for command in (f"GET {key}", f"SET {key} 1", f"EVAL \"return redis.call('GET', KEYS[1])\" 1 {key}"):
        (answer,) = valkey.as_user(user, command, tls=True)[:1]
        assert any(refusal in answer for refusal in REFUSALS), answer


@pytest.mark.parametrize(
    "command",
    ["CONFIG SET maxmemory 0", "MODULE LIST", "DEBUG SLEEP 0", "FLUSHALL", "SHUTDOWN", "KEYS *", "EVAL 'return 1' 0"],
)
def test_operator_is_denied_what_nobody_needs(valkey, command):
    assert any(refusal in valkey.as_user("operator", command)[0] for refusal in REFUSALS)


def test_operator_can_look_after_it(valkey):
    answers = "\n".join(
        valkey.as_user(
            "operator", "PING", "CONFIG GET maxmemory", "ACL LOAD", "INFO server", "CLIENT LIST", "SLOWLOG LEN"
        )
    )
    assert "93323264" in answers and "valkey_version:" in answers and "NOPERM" not in answers


def test_no_application_command_is_dangerous_or_for_administrators(valkey):
    bad = set()
    for category in ("dangerous", "admin"):
        bad |= set(valkey.as_user("operator", f"ACL CAT {category}"))
    assert "flushall" in bad
    lines = (REPOSITORY / "roles/valkey/files/users.acl").read_text().splitlines()
    for line in lines:
        user = line.split()[1]
        granted = {word[1:] for word in line.split() if word.startswith("+")}
        assert user == "operator" or not granted & bad, user
        assert "allcommands" not in line and "+@all" not in line


def test_health_user_can_do_nothing_but_ping(valkey):
    assert valkey.as_user("health", "PING", tls=True) == ["PONG"]
    for command in ("GET gw:a", "INFO", "CLIENT LIST", "SET a b"):
        assert "NOPERM" in valkey.as_user("health", command)[0]


def test_without_a_login_nothing_is_answered(valkey):
    for tls in (True, False):
        assert valkey.ask("GET gw:a", tls=tls)[0].startswith("NOAUTH")
        assert valkey.ask(f"AUTH gateway {OPERATOR}", tls=tls)[0].startswith("WRONGPASS")
        assert valkey.ask(f"AUTH default {PASSWORD}", tls=tls)[0].startswith("WRONGPASS")


def test_tcp_without_tls_is_refused(valkey):
    with socket.create_connection((valkey.lab.address(valkey.container), 6379), 5) as plain:
        plain.sendall(b"AUTH health -\r\nPING\r\n")
        try:
            answer = plain.recv(100)
        except ConnectionResetError:
            answer = b""
    assert b"PONG" not in answer and b"OK" not in answer


def test_certificate_carries_the_name_of_the_service(valkey):
    context = ssl.create_default_context(cafile=str(valkey.lab.dir / "ca.crt"))
    address = (valkey.lab.address(valkey.container), 6379)
    with socket.create_connection(address, 5) as plain, context.wrap_socket(plain, server_hostname="valkey") as tls:
        assert tls.version() == "TLSv1.3"
    for name, ca in (("postgres", "ca"), ("valkey", "other")):
        strict = ssl.create_default_context(cafile=str(valkey.lab.dir / f"{ca}.crt"))
        with socket.create_connection(address, 5) as plain, pytest.raises(ssl.SSLCertVerificationError):
            strict.wrap_socket(plain, server_hostname=name)


def test_client_certificates_can_be_demanded(valkey):
    lab, uid = valkey.lab, valkey.spec["uid"]
    role = lab.role("valkey", mcpstack_valkey_image=valkey.spec["image"], mcpstack_valkey_client_certificates=True)
    spec = {
        **role.value("_mcpstack_valkey_service"),
        "name": "strict",
        "volumes": [{"name": "strict-data", "target": "/data"}],
    }
    lab.secret("strict", "valkey-acl", (lab.dir / "secrets/valkey/valkey-acl/current").read_text(), uid)
    leaf = lab.leaf("strict", uid) / "current"
    address = (lab.address(lab.start(role, spec)), 6379)
    answers = []
    for certificate in (True, False):
        context = ssl.create_default_context(cafile=str(lab.dir / "ca.crt"))
        if certificate:
            context.load_cert_chain(leaf / "tls.crt", leaf / "tls.key")
        with socket.create_connection(address, 5) as plain, context.wrap_socket(plain, server_hostname="strict") as tls:
            try:
                tls.sendall(b"AUTH health -\r\n")
                answers.append(tls.recv(100))
            except (ssl.SSLError, ConnectionResetError) as error:
                answers.append(type(error).__name__)
    assert answers[0] == b"+OK\r\n"
    assert answers[1] in ("SSLError", "SSLEOFError", "ConnectionResetError", b"")


def test_health_check_counts_errors_as_failure(valkey):
    argv = valkey.spec["health"]["command"]
    assert run("docker", "exec", valkey.container, *argv, check=False).returncode == 0
    for wrong in ([*argv[:-1], "GET", "x"], [word.replace("health", "nobody") for word in argv], [*argv[:4], "PING"]):
        assert run("docker", "exec", valkey.container, *wrong, check=False).returncode != 0, wrong


def test_health_fails_when_the_server_is_stuck(valkey):
    pid = int(run("docker", "inspect", "-f", "{{.State.Pid}}", valkey.container).stdout)
    os.kill(pid, signal.SIGSTOP)
    try:
        argv = ["timeout", "3", "docker", "exec", valkey.container, *valkey.spec["health"]["command"]]
        assert run(*argv, check=False).returncode == 124  # the engine counts its own timeout as failure
    finally:
        os.kill(pid, signal.SIGCONT)


def test_what_is_full_gives_way(valkey):
    """Four times the memory limit, a megabyte at a time: old keys go, the append-only file is rewritten, nothing dies."""
    script = "for i=1,10 do redis.call('SET', KEYS[1]..i, string.rep('x', 100000), 'EX', 600) end return 'done'"
    lines = [f'EVAL "{script}" 1 gw:fill:{part}:' for part in range(512)]
    assert valkey.as_user("gateway", *lines, tls=True) == ["done"] * len(lines)
    info = dict(line.split(":", 1) for line in valkey.as_user("operator", "INFO stats", "INFO memory") if ":" in line)
    assert int(info["evicted_keys"]) > 0
    assert int(info["used_memory"]) < 1.1 * int(info["maxmemory"])
    assert (
        run("docker", "inspect", "-f", "{{.State.OOMKilled}} {{.RestartCount}}", valkey.container).stdout.strip()
        == "false 0"
    )


def test_no_secret_anywhere(valkey):
    places = valkey.lab.log(valkey.container) + run("docker", "inspect", valkey.container).stdout
    places += run("docker", "top", valkey.container, "axww", "-o", "pid,args").stdout
    places += "\n".join(valkey.as_user("operator", "SLOWLOG GET 128", "ACL LOG", "ACL LIST", "CLIENT LIST"))
    for value in (PASSWORD, OPERATOR):
        assert value not in places


def test_validator_refuses_what_the_server_would_refuse(valkey):
    place = valkey.lab.config(valkey.role, {**valkey.spec, "name": "validate-valkey"})
    command = ["/usr/bin/valkey-server", "/etc/valkey/valkey.conf", "--daemonize", "yes"]
    results = []
    for addition in ("", "maxmemory lots\n"):
        with (place / "valkey.conf").open("a") as handle:
            handle.write(addition)
        done = valkey.lab.engine.run(valkey.spec["image"], command[1:], entrypoint=command[:1], user="64105",
                                     mounts=[{"source": str(place), "target": "/etc/valkey"}])  # fmt: skip
        results.append(done.rc)
    assert results == [0, 1]


def test_restart_keeps_the_data(valkey):
    valkey.as_user("gateway", "SET gw:kept yes", tls=True)
    run("docker", "restart", valkey.container)
    wait_for(lambda: valkey.lab.healthy(valkey.container, valkey.spec), "health after restart")
    assert valkey.as_user("gateway", "GET gw:kept", tls=True) == ["yes"]
    valkey.as_user("gateway", "SET gw:second yes", tls=True)
    written = valkey.as_user("operator", "INFO persistence")
    assert "aof_enabled:1" in written
    until = time.monotonic() + 5
    while "aof_pending_bio_fsync:0" not in valkey.as_user("operator", "INFO persistence") and time.monotonic() < until:
        pass
    run("docker", "kill", valkey.container)
    run("docker", "start", valkey.container)
    wait_for(lambda: valkey.lab.healthy(valkey.container, valkey.spec), "health after kill")
    assert valkey.as_user("gateway", "GET gw:second", tls=True) == ["yes"]
