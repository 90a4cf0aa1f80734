# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The audit of Valkey and Redis: files, service, and servers real and fake."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import shutil
import socket
import subprocess

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _audit_valkey as core
from ansible_collections.mcpstack.platform.plugins.module_utils import _valkey_config as config
from ansible_collections.mcpstack.platform.plugins.module_utils import _valkey_service as service
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import MemoryFiles, Stat
from ansible_collections.mcpstack.platform.plugins.module_utils._valkey_client import Client, ClientError
from ansible_collections.mcpstack.platform.tests.unit.plugins.module_utils.tls_fixture import Server

#: A real server to hold the reader of users against, where there is one.
SERVER = os.environ.get("MCPSTACK_TEST_REDIS") or shutil.which("valkey-server") or shutil.which("redis-server")

STRONG = "k2Vq9xTr7LmZ4wNc8bYd"
HASH = "#" + "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8"
CONF = """\
bind * -::*
port 0
tls-port 6379
tls-cert-file /run/tls/tls.crt
tls-key-file /run/tls/tls.key
tls-protocols "TLSv1.2 TLSv1.3"
tls-ciphers ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-CHACHA20-POLY1305
unixsocket /run/valkey/valkey.sock
unixsocketperm 700
timeout 300
aclfile /etc/valkey/users.acl
enable-debug-command no
maxmemory 89mb
maxmemory-policy volatile-lru
client-output-buffer-limit normal 8mb 4mb 30
dir /data
"""
ACL = f"""\
user default off resetpass resetkeys resetchannels -@all
user health on nopass resetkeys resetchannels -@all +ping
user app on {HASH} resetkeys ~app:* resetchannels -@all +get +set +eval +script|load
user root on {HASH} ~* &* +@all
"""
HEALTH = ("valkey-cli", "-e", "--user", "health", "--pass", "-", "PING")
GOOD = {
    "command": ["valkey-server", "/etc/valkey/valkey.conf"],
    "environment": ["PATH=/usr/bin", "REDIS_PASSWORD_FILE=/run/secrets/x"],
    "healthcheck": list(HEALTH),
    "memory_limit": 128 << 20,
    "published": [],
}


def run(conf=CONF, acl=ACL, stats=None, **changes):
    files = {"/etc/valkey/valkey.conf": conf}
    if acl is not None:
        files["/etc/valkey/users.acl"] = acl
    known = {"/etc/valkey/users.acl": Stat("file", 0o600), "/data": Stat("directory", 0o700), **(stats or {})}
    around = {**GOOD, **changes.pop("around", {})}
    wanted = {"admin_users": ["root"], "version": "valkey 8.1.4", **changes}
    return core.audit_valkey(
        core.Request(MemoryFiles(files, known), "/etc/valkey/valkey.conf", service=core.Service(**around), **wanted)
    )


def found(result):
    return {(item["id"], item["where"].rpartition("/")[2]) for item in result["findings"]}


def ids(result):
    return {(item["id"], item["severity"]) for item in result["findings"]}


def states(result, status):
    return {state["id"] for state in result["checks_run"] if state["status"] == status}


def test_clean():
    result = run()
    assert result["findings"] == []
    assert states(result, "pass") == {check.id for check in core.CHECKS}


def conf(old, new):
    return lambda: run(CONF.replace(old, new))


def acl(line):
    return lambda: run(acl=ACL + line + "\n")


def around(**changes):
    return lambda: run(around=changes)


ACL_LINE = "users.acl:5"
CASES = {
    # VLK-01
    "default is open": (lambda: run(acl=ACL.replace("default off resetpass resetkeys resetchannels -@all", "default on nopass ~* +@all")),
                        {("VLK-01", "users.acl:1"), ("VLK-05", "users.acl:1")}),
    "default is not named: the file opens it": (lambda: run(acl=ACL.split("\n", 1)[1]), {("VLK-01", "users.acl"), ("VLK-05", "users.acl")}),
    "requirepass does not help there": (
        lambda: run(CONF + f"requirepass {STRONG}\n", acl=ACL.split("\n", 1)[1]), {("VLK-01", "users.acl"), ("VLK-05", "users.acl")}
    ),
    "user without password": (acl("user x on nopass ~x:* -@all +get"), {("VLK-01", ACL_LINE)}),
    "user without password may PING and say hello": (acl("user x on nopass -@all +ping +hello"), set()),
    "user without password may PING after having lost the rest": (acl("user x on nopass +@all -@all +ping"), set()),
    "user without password that is off": (acl("user x off nopass ~* +@all"), set()),
    "user without any password": (acl("user x on ~* +@all"), set()),
    "all keys": (acl(f"user x on {HASH} ~* -@all +get"), {("VLK-01", ACL_LINE)}),
    "allkeys": (acl(f"user x on {HASH} allkeys -@all +get"), {("VLK-01", ACL_LINE)}),
    "read-only pattern of all keys": (acl(f"user x on {HASH} %R~* -@all +get"), {("VLK-01", ACL_LINE)}),
    "all keys, then taken away": (acl(f"user x on {HASH} ~* resetkeys ~x:* -@all +get"), set()),
    "all channels": (acl(f"user x on {HASH} ~x:* allchannels -@all +publish"), {("VLK-01", ACL_LINE)}),
    "monitor": (acl(f"user x on {HASH} ~x:* -@all +monitor"), {("VLK-01", ACL_LINE)}),
    "acl by category": (acl(f"user x on {HASH} ~x:* -@all +@connection"), {("VLK-01", ACL_LINE)}),
    "admin in a selector": (acl(f"user x on {HASH} ~x:* -@all +get (~y:* +migrate)"), {("VLK-01", ACL_LINE)}),
    "password in clear": (acl(f"user x on >{STRONG} ~x:* -@all +get"), {("VLK-01", ACL_LINE)}),
    "not a user": (acl("# comment"), {("VLK-01", "users.acl")}),
    "file that others may read": (lambda: run(stats={"/etc/valkey/users.acl": Stat("file", 0o640)}), {("VLK-01", "users.acl")}),
    "file without write": (lambda: run(stats={"/etc/valkey/users.acl": Stat("file", 0o400)}), set()),
    "channels open for new users": (conf("dir /data", "acl-pubsub-default allchannels"), {("VLK-01", "valkey.conf:16"), ("VLK-01", "users.acl:1")}),
    # VLK-02
    "--requirepass": (around(command=["valkey-server", "--requirepass", STRONG]), {("VLK-02", "valkey")}),
    "--requirepass in a shell": (around(command=["sh", "-c", f"exec redis-server --requirepass {STRONG}"]), {("VLK-02", "valkey")}),
    "--requirepass without value": (around(command=["valkey-server", "--requirepass", ""]), set()),
    "environment": (around(environment=[f"REDIS_PASSWORD={STRONG}"]), {("VLK-02", "valkey")}),
    "environment of the client": (around(environment=[f"REDISCLI_AUTH={STRONG}"]), {("VLK-02", "valkey")}),
    "empty passwords allowed": (around(environment=["ALLOW_EMPTY_PASSWORD=yes"]), {("VLK-02", "valkey")}),
    "password file in the environment": (around(environment=["VALKEY_PASSWORD_FILE=/run/secrets/p"]), set()),
    "health check with a password": (around(healthcheck=["CMD", "valkey-cli", "-e", "-a", STRONG, "ping"]), {("VLK-02", "valkey")}),
    "health check that reads the password": (
        around(healthcheck=["CMD-SHELL", 'redis-cli -e -a "$(cat /run/secrets/p)" ping']), {("VLK-02", "valkey")}
    ),
    "health check with a URL": (around(healthcheck=["CMD", "redis-cli", "-e", "-u", "redis://u:p@localhost", "ping"]), {("VLK-02", "valkey")}),
    # VLK-03
    "published": (around(published=["0.0.0.0:6379->6379/tcp"]), {("VLK-03", "valkey")}),
    "protected mode off": (conf("dir /data", "protected-mode no"), {("VLK-03", "valkey.conf:16")}),
    "every interface of a host": (around(contained=False), {("VLK-03", "valkey.conf:1")}),
    "one address of a host": (lambda: run(CONF.replace("bind * -::*", "bind 127.0.0.1 -::1 10.0.0.3"), around={"contained": False}), set()),
    "socket for everybody": (conf("unixsocketperm 700", "unixsocketperm 777"), {("VLK-03", "valkey.conf:9")}),
    "socket for a group": (conf("unixsocketperm 700", "unixsocketperm 770"), set()),
    # VLK-04
    "plain port": (conf("port 0\n", "port 6379\n"), {("VLK-04", "valkey.conf:2")}),
    "plain port that the default opens": (conf("port 0\n", "# port 0\n"), {("VLK-04", "valkey.conf")}),
    "plain port on an internal network": (lambda: run(CONF.replace("port 0\n", "port 6379\n"), internal_network=True), set()),
    "only a socket": (conf("tls-port 6379\n", "\n"), set()),
    "old protocol": (conf("TLSv1.2 TLSv1.3", "TLSv1.1 TLSv1.2"), {("VLK-04", "valkey.conf:6")}),
    "weak suite": (conf("ECDHE-RSA-CHACHA20-POLY1305", "AES128-SHA"), {("VLK-04", "valkey.conf:7")}),
    "no key": (conf("tls-key-file /run/tls/tls.key", "\n"), {("VLK-04", "valkey.conf:3")}),
    "clients without certificate": (conf("dir /data", "tls-auth-clients no"), set()),
    # VLK-05
    "debug": (conf("enable-debug-command no", "enable-debug-command yes"), {("VLK-05", "valkey.conf:12")}),
    "debug from the socket": (conf("enable-debug-command no", "enable-debug-command local"), {("VLK-05", "valkey.conf:12")}),
    "modules": (conf("dir /data", "ENABLE-MODULE-COMMAND YES"), {("VLK-05", "valkey.conf:16")}),
    "protected configs": (conf("dir /data", 'enable-protected-configs "yes"'), {("VLK-05", "valkey.conf:16")}),
    "keys": (acl(f"user x on {HASH} ~x:* -@all +@read"), {("VLK-05", ACL_LINE)}),
    "read without dangerous": (acl(f"user x on {HASH} ~x:* -@all +@read -@dangerous"), set()),
    "dangerous before read": (acl(f"user x on {HASH} ~x:* -@all -@dangerous +@read"), {("VLK-05", ACL_LINE)}),
    "script flush": (acl(f"user x on {HASH} ~x:* -@all +script"), {("VLK-05", ACL_LINE)}),
    "script load alone": (acl(f"user x on {HASH} ~x:* -@all +script|load +evalsha"), set()),
    "script without flush": (acl(f"user x on {HASH} ~x:* -@all +script -script|flush"), set()),
    "config get": (acl(f"user x on {HASH} ~x:* -@all +config|get"), set()),
    "config": (acl(f"user x on {HASH} ~x:* -@all +CONFIG -config|rewrite"), {("VLK-05", ACL_LINE)}),
    "requirepass alone": (
        lambda: run(CONF.replace("aclfile /etc/valkey/users.acl", f"requirepass {STRONG}")), {("VLK-05", "valkey.conf:11")}
    ),
    "requirepass with commands removed": (
        lambda: run(
            CONF.replace("aclfile /etc/valkey/users.acl", f"requirepass {STRONG}")
            + "".join(f'rename-command {name} ""\n' for name in ("CONFIG", "DEBUG", "MODULE", "FLUSHALL", "FLUSHDB", "KEYS", "SCRIPT", "FUNCTION", "SHUTDOWN", "REPLICAOF"))
        ), set(),
    ),
    "short requirepass": (
        lambda: run(CONF.replace("aclfile /etc/valkey/users.acl", "requirepass hunter2")), {("VLK-01", "valkey.conf:11"), ("VLK-05", "valkey.conf:11")}
    ),
    "placeholder": (
        lambda: run(CONF.replace("aclfile /etc/valkey/users.acl", "requirepass CHANGE_ME_to_something_long")),
        {("VLK-01", "valkey.conf:11"), ("VLK-05", "valkey.conf:11")},
    ),
    "no password at all": (
        lambda: run(CONF.replace("aclfile /etc/valkey/users.acl", "")), {("VLK-01", "valkey.conf"), ("VLK-05", "valkey.conf")}
    ),
    # VLK-06
    "no bound": (conf("maxmemory 89mb", "maxmemory 0"), {("VLK-06", "valkey.conf:13")}),
    "no bound by default": (conf("maxmemory 89mb", ""), {("VLK-06", "valkey.conf")}),
    "too much": (conf("maxmemory 89mb", "maxmemory 100mb"), {("VLK-06", "valkey.conf:13")}),
    "just enough": (conf("maxmemory 89mb", "maxmemory 96MB"), set()),
    "decimal units are smaller": (conf("maxmemory 89mb", "maxmemory 100m"), set()),
    "the last one counts": (conf("dir /data", "maxmemory 0"), {("VLK-06", "valkey.conf:16")}),
    "unknown policy": (conf("volatile-lru", "random"), {("VLK-06", "valkey.conf:14")}),
    "store that evicts": (lambda: run(use="store"), {("VLK-06", "valkey.conf:14")}),
    "cache that does not": (lambda: run(CONF.replace("volatile-lru", "noeviction"), use="cache"), {("VLK-06", "valkey.conf:14")}),
    "cache": (lambda: run(use="cache"), set()),
    # VLK-07
    "no health check": (around(healthcheck=[]), {("VLK-07", "valkey")}),
    "disabled": (around(healthcheck=["NONE"]), {("VLK-07", "valkey")}),
    "ends with 0 on errors": (around(healthcheck=["CMD", "redis-cli", "ping"]), {("VLK-07", "valkey")}),
    "compares the answer": (around(healthcheck=["CMD-SHELL", "redis-cli ping | grep -q PONG"]), set()),
    "compares the answer with test": (around(healthcheck=["CMD-SHELL", '[ "$(valkey-cli ping)" = PONG ]']), set()),
    "or exit changes nothing": (around(healthcheck=["CMD-SHELL", "redis-cli ping || exit 1"]), {("VLK-07", "valkey")}),
    "writes": (around(healthcheck=["CMD", "redis-cli", "-e", "set", "x", "1"]), {("VLK-07", "valkey")}),
    "another host": (around(healthcheck=["CMD", "redis-cli", "-e", "-h", "other", "ping"]), {("VLK-07", "valkey")}),
    "loopback": (around(healthcheck=["CMD", "redis-cli", "-e", "-h", "127.0.0.1", "-p", "6379", "ping"]), set()),
    # VLK-08
    "idle clients stay": (conf("timeout 300", "timeout 0"), {("VLK-08", "valkey.conf:10")}),
    "buffers without end": (conf("normal 8mb 4mb 30", "normal 0 0 0"), {("VLK-08", "valkey.conf:15")}),
    "several limits on one line": (conf("normal 8mb 4mb 30", "normal 8mb 4mb 30 pubsub 0 0 0"), {("VLK-08", "valkey.conf:15")}),
    "replicas without end": (conf("dir /data", "client-output-buffer-limit replica 0 0 0"), set()),
    "data for everybody": (lambda: run(stats={"/data": Stat("directory", 0o755)}), {("VLK-08", "data")}),
    "old": (lambda: run(version="valkey 8.1.3"), {("VLK-08", "valkey")}),
    "very old": (lambda: run(version="redis 6.0.16"), {("VLK-08", "valkey")}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_case(case):
    judge, wanted = CASES[case]
    result = judge()
    if case == "channels open for new users":
        assert ("VLK-01", "valkey.conf:16") in found(result) and {item["id"] for item in result["findings"]} == {
            "VLK-01"
        }
        return
    assert found(result) == wanted, [item["evidence"] for item in result["findings"]]
    assert STRONG not in json.dumps(result) and "hunter2" not in json.dumps(result)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"acl": None}, {"VLK-01", "VLK-05"}),
        ({"around": {"memory_limit": None}}, {"VLK-06"}),
        ({"around": {"published": None}}, {"VLK-03"}),
        ({"around": {"command": None}}, {"VLK-02"}),
        ({"around": {"healthcheck": None}}, {"VLK-02", "VLK-07"}),
        ({"around": {"healthcheck": ["CMD", "/bin/ready"]}}, {"VLK-07"}),
        ({"version": ""}, {"VLK-08"}),
        ({"version": "valkey 8.1.1+dfsg1-3"}, {"VLK-08"}),
        ({"version": "8.1.4"}, {"VLK-08"}),
        ({"stats": {"/data": Stat("other")}, "conf": CONF.replace("dir /data", "dir ./")}, {"VLK-08"}),
        ({"conf": CONF + "include /etc/valkey/more.conf\n"}, {"VLK-01", "VLK-03", "VLK-04", "VLK-05", "VLK-06", "VLK-08"}),
        ({"conf": CONF + 'maxmemory "1\n'}, {"VLK-01", "VLK-03", "VLK-04", "VLK-05", "VLK-06", "VLK-08"}),
    ],
)  # fmt: skip
def test_what_is_not_known_is_not_a_pass(changes, wanted):
    result = run(**changes)
    assert (result["findings"], states(result, "unknown")) == ([], wanted)


def test_severities():
    assert ids(run(acl="user default on nopass ~* +@all\n")) == {
        ("VLK-01", "critical"),
        ("VLK-01", "high"),
        ("VLK-05", "high"),
    }
    assert ids(run("protected-mode no\n" + CONF, acl=ACL.replace("default off resetpass", "default on nopass"))) == {
        ("VLK-01", "critical"),
        ("VLK-03", "critical"),
    } - {("VLK-01", "critical")}  # on, without password, and without a command: harmless
    assert ids(run(around={"published": ["*:6379->6379/tcp"]})) == {("VLK-03", "critical")}


def test_includes():
    files = MemoryFiles({
        "/c/valkey.conf": "include conf.d/*.conf\nmaxmemory 89mb\n",
        "/c/conf.d/b.conf": "maxmemory 0\nport 0\n",
        "/c/conf.d/a.conf": "port 6379\n",
    })  # fmt: skip
    settings, problems = config.read_config(files, "/c/valkey.conf")
    assert (settings.get("maxmemory").value, settings.get("port").where, problems) == ("89mb", "/c/conf.d/b.conf:2", [])


def test_circles_and_depth_end():
    files = MemoryFiles({"/a": "include b\n", "/b": "include a\nport 1\n"})
    settings, problems = config.read_config(files, "/a")
    assert (settings.get("port").value, problems) == ("1", ["/a includes itself"])
    many = {f"/{n}": f"include {n + 1}\ninclude {n + 1}\n" for n in range(40)}
    _settings, problems = config.read_config(MemoryFiles(many), "/0")
    assert any("levels" in problem for problem in problems) and len(problems) < 1 << 16


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("a b  c", ["a", "b", "c"]),
        ('save ""', ["save", ""]),
        (r'a "x\n\x41\"" ', ["a", 'x\nA"']),
        (r"a 'it\'s'", ["a", "it's"]),
        ('a "b', None),
        ('a "b"c', None),
        ("a b'c'", ["a", "bc"]),
        ("a b'c'd", None),
        ("", []),
        ('"\\', None),
    ],
)
def test_words(line, words):
    assert config.split(line) == words


@pytest.mark.parametrize("seed", range(20))
def test_any_bytes_give_a_result(seed):
    chooser = random.Random(seed)
    for _round in range(30):
        text = bytearray((CONF + ACL).encode())
        for _change in range(chooser.randint(1, 40)):
            text[chooser.randrange(len(text))] = chooser.randrange(256)
        data = bytes(text)
        files = MemoryFiles({"/c": data, "/a": data})
        result = core.audit_valkey(core.Request(files, "/c", "/a", service=core.Service(**GOOD)))
        assert {state["id"] for state in result["checks_run"]} == {check.id for check in core.CHECKS}


def test_a_large_file_is_read_in_one_pass():
    lines = "user x on nopass " + "+get " * 100_000
    users, _problems = config.parse_acl(lines, "/a")
    assert users[0].allows("keys") is False and len(users[0].commands) == 100_000


@pytest.mark.parametrize(
    ("version", "verdict"),
    [
        ("valkey 8.1.4", True), ("valkey 8.1.3", False), ("valkey 9.1.0", True), ("valkey 7.0.1", False), ("redis 7.2.11", True),
        ("redis 7.2.10", False), ("redis 5:7.0.15-1~deb12u6", None), ("redis 8.0.4", True), ("valkey 8.0.5", False),
        ("redis 8.1.0", False), ("9.0.1", True), ("7.2.11", None), ("", None), ("valkey latest", None),
    ],
)  # fmt: skip
def test_versions(version, verdict):
    assert service.judge_version(version)[0] is verdict


# -- a server ---------------------------------------------------------------------------------------------------------


def fake(answers):
    """A server that answers by command; the login is what it says."""

    def handle(sock):
        source = sock.makefile("rb")
        while line := source.readline():
            words = []
            for _word in range(int(line[1:])):
                words.append(source.read(int(source.readline()[1:]) + 2)[:-2].decode())
            key = next((key for key in (" ".join(words[:2]), words[0]) if key in answers), None)
            sock.sendall(answers.get(key, b"-NOPERM no\r\n"))

    return Server(handle)


def bulk(items):
    return b"*%d\r\n" % len(items) + b"".join(b"$%d\r\n%s\r\n" % (len(item.encode()), item.encode()) for item in items)


def ask(server, **changes):
    wanted = {"open": lambda: Client("127.0.0.1", server.port, timeout=5), "service": core.Service(**GOOD), **changes}
    return core.audit_valkey(core.Request(MemoryFiles({}), **wanted))


EVERYTHING = {
    "AUTH": b"+OK\r\n",
    "PING": b"-NOAUTH Authentication required.\r\n",
    "INFO": b"$22\r\nvalkey_version:8.1.4\r\n\r\n",
    "ACL LIST": bulk(ACL.strip().split("\n")),
    "CONFIG GET": bulk(
        [word for line in CONF.strip().split("\n") for word in line.split(" ", 1)]
        + ["protected-mode", "yes", "requirepass", "", "a", "b", "c", "d", "e", "f"]
    ),
}


def test_server_that_tells_everything():
    with fake(EVERYTHING) as server:
        result = ask(server, user="root", password=STRONG, admin_users=["root"])
    assert result["findings"] == []
    assert states(result, "unknown") == {"VLK-08"}  # the directory of the data
    assert STRONG not in json.dumps(result)


def test_what_runs_is_older_than_what_is_installed():
    with fake({**EVERYTHING, "INFO": b"$22\r\nvalkey_version:8.0.1\r\n\r\n"}) as server:
        result = ask(server, admin_users=["root"], version="valkey 8.1.4")
    assert [item["evidence"] for item in result["findings"]] == ["valkey 8.0.1 is older than 8.0.6"]


def test_server_with_an_open_default():
    answers = {
        **EVERYTHING,
        "PING": b"+PONG\r\n",
        "EXISTS": b":0\r\n",
        "ACL LIST": bulk(["user default on nopass ~* &* +@all"]),
    }
    with fake(answers) as server:
        result = ask(server)
    assert {item["evidence"] for item in result["findings"] if item["id"] == "VLK-01"} == {
        "reads data without a login", "user default needs no password",
        "user default may run ACL SETUSER, MONITOR, MIGRATE, RESTORE and 6 more",
    }  # fmt: skip


def test_a_stranger_may_ping():
    with fake({**EVERYTHING, "PING": b"+PONG\r\n"}) as server:
        assert ask(server, admin_users=["root"])["findings"] == []


def test_server_that_tells_nothing():
    with fake({"AUTH": b"+OK\r\n", "PING": b"-NOAUTH x\r\n"}) as server:
        result = ask(server, password=STRONG)
    assert result["findings"] == []
    assert states(result, "unknown") == {"VLK-01", "VLK-03", "VLK-04", "VLK-05", "VLK-06", "VLK-08"}


def test_wrong_password():
    with fake({"AUTH": b"-WRONGPASS invalid\r\n", "PING": b"-NOAUTH x\r\n"}) as server:
        result = ask(server, password=STRONG)
    assert "the login is refused (WRONGPASS)" in json.dumps(result)
    assert states(result, "pass") == {"VLK-02", "VLK-07"}


HOSTILE = {
    "text": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "a huge string": b"$99999999999\r\n",
    "a huge list": b"*99999999\r\n",
    "deep": b"*1\r\n" * 5000,
    "half": b"$10\r\nabc",
    "no number": b":x\r\n",
    "binary": bytes(range(256)) * 10,
    "nothing": b"",
    "a long line": b"+" + b"x" * 70000,
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_server(case):
    def handle(sock):
        sock.recv(4096)
        sock.sendall(HOSTILE[case])

    with Server(handle) as server:
        result = ask(server)
    assert result["findings"] == [] and not states(result, "pass") - {"VLK-02", "VLK-07"}


def test_endless_and_slow_answers_end():
    ticks = itertools.count()

    def endless(sock):
        while True:
            sock.sendall(b"x" * 65536)

    with Server(endless) as server, Client("127.0.0.1", server.port) as client, pytest.raises(ClientError):
        client.ask("PING")

    def drip(sock):
        while True:
            sock.sendall(b"+")
            sock.recv(0)

    with (
        Server(drip) as server,
        Client("127.0.0.1", server.port, timeout=10, clock=lambda: float(next(ticks))) as client,
    ):
        with pytest.raises(ClientError):
            client.ask("PING")
    assert next(ticks) < 40


# -- a real server ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def real(tmp_path, lines, users=None):
    path = tmp_path / "s"
    text = f"port 0\nunixsocket {path}\nsave ''\ndir {tmp_path}\n" + lines
    if users is not None:
        (tmp_path / "users.acl").write_text(users)
        text += f"aclfile {tmp_path}/users.acl\n"
    (tmp_path / "real.conf").write_text(text)
    process = subprocess.Popen(
        [SERVER, tmp_path / "real.conf"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        for line in process.stdout:
            if "ready to accept" in line.lower():
                yield lambda: Client(unix_socket=str(path))
                break
        else:
            raise AssertionError("the server did not start")
    finally:
        process.kill()
        process.communicate()


needs_server = pytest.mark.skipif(not SERVER, reason="there is no valkey-server or redis-server")


@needs_server
def test_the_file_of_users_opens_default(tmp_path):
    """The trap: requirepass is set, the file does not name default, and the server lets everybody in."""
    with real(tmp_path, f"requirepass {STRONG}\n", f"user app on {HASH} ~a:* -@all +get\n") as connect:
        result = core.audit_valkey(core.Request(MemoryFiles({}), open=connect))
    assert "user default needs no password" in {item["evidence"] for item in result["findings"]}


@needs_server
def test_rights_are_read_as_the_server_reads_them(tmp_path):
    """Random rules: what the reader says a user may run is what the server answers to ACL DRYRUN."""
    chooser = random.Random(11)
    rules = ["+@all", "-@all", "+@read", "-@read", "+@dangerous", "-@dangerous", "+@admin", "-@admin", "+@write", "-@write",
             "+keys", "-keys", "+config", "-config", "+config|set", "-config|set", "+script", "-script|flush", "+script|load",
             "+@scripting", "-@scripting", "+@slow", "-@slow", "+@keyspace", "+client", "-client|kill", "+@connection", "+flushall",
             "+acl", "-acl|setuser", "+debug", "+@fast", "allcommands", "nocommands"]  # fmt: skip
    words = {
        "config|set": ["config", "set", "maxmemory", "0"], "debug": ["debug", "sleep", "0"], "module|load": ["module", "load", "x"],
        "flushall": ["flushall"], "flushdb": ["flushdb"], "keys": ["keys", "x"], "script|flush": ["script", "flush"],
        "function|flush": ["function", "flush"], "shutdown": ["shutdown"], "replicaof": ["replicaof", "no", "one"],
        "acl|setuser": ["acl", "setuser", "x"], "config|rewrite": ["config", "rewrite"], "monitor": ["monitor"],
        "migrate": ["migrate", "h", "1", "k", "0", "1"], "restore": ["restore", "k", "0", "x"], "save": ["save"], "failover": ["failover"],
        "psync": ["psync", "a", "1"], "client|kill": ["client", "kill", "x"], "cluster|reset": ["cluster", "reset"], "swapdb": ["swapdb", "0", "1"],
    }  # fmt: skip
    assert set(words) == {*config.DANGEROUS, *config.ADMINISTRATIVE}
    with real(tmp_path, "") as connect, connect() as client:
        for number in range(60):
            chosen = chooser.choices(rules, k=chooser.randint(1, 6))
            client.ask("ACL", "SETUSER", "x", "reset", "~*", *chosen)
            user = config.parse_user(["x", "~*", *chosen], "")
            for command, call in words.items():
                allowed = client.ask("ACL", "DRYRUN", "x", *call) == "OK"
                assert user.allows(command) is allowed, (number, chosen, command)


@needs_server
def test_quoting_is_read_as_the_server_reads_it(tmp_path):
    values = ['"a b"', "'it\\'s'", '"\\x41\\n"', "plain", "b'c'"]
    for value in values:
        with real(tmp_path, f"logfile ''\nrequirepass {value}\n") as connect:
            with connect() as client:
                assert client.ask("AUTH", config.split(f"x {value}")[1]) == "OK"


@needs_server
def test_a_real_hardened_server(tmp_path):
    lines = "maxmemory 89mb\ntimeout 300\nclient-output-buffer-limit normal 8mb 4mb 30\n"
    users = ACL.replace(HASH, f">{STRONG}")
    with real(tmp_path, lines, users) as connect:
        request = core.Request(
            MemoryFiles({}), open=connect, user="root", password=STRONG, admin_users=["root"], service=core.Service(**GOOD),
            version="redis 5:7.0.15-1~deb12u10",
        )  # fmt: skip
        result = core.audit_valkey(request)
    assert result["findings"] == []
    assert states(result, "unknown") == {"VLK-08"}


def test_no_server_there():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    result = core.audit_valkey(core.Request(MemoryFiles({}), open=lambda: Client("127.0.0.1", port)))
    assert result["findings"] == [] and not states(result, "pass")
