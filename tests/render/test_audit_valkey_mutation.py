# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rendered configuration of the role valkey is clean, and each control that is weakened is found by its check, and no other."""

from __future__ import annotations

import re

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _audit_valkey as core
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import MemoryFiles, Stat
from ansible_collections.mcpstack.platform.plugins.module_utils._service_spec import normalise
from ansible_collections.mcpstack.platform.plugins.module_utils._valkey_config import memory

REQUIRED = {"mcpstack_valkey_image": "mcpstack/valkey:0123456789ab"}
ALTERNATIVE = {
    **REQUIRED,
    "mcpstack_valkey_memory": "2g",
    "mcpstack_valkey_maxmemory_percent": 75,
    "mcpstack_valkey_maxmemory_policy": "noeviction",
    "mcpstack_valkey_persistence": False,
    "mcpstack_valkey_client_certificates": True,
}
ACL = "/run/secrets/valkey-acl/current"


class Stack:
    """What the role writes, ready to be weakened."""

    def __init__(self, made):
        self.conf = made.files()["valkey.conf"]
        users = (made.path / "files/users.acl").read_text()
        self.acl = re.sub(r"#\{sha256:[a-z-]+\}", "#" + "ab" * 32, users)
        self.spec = normalise(made.value("_mcpstack_valkey_service"))
        self.service = core.Service(
            [*self.spec["entrypoint"], *self.spec["command"]],
            [f"{name}={value}" for name, value in self.spec["environment"].items()],
            self.spec["health"]["command"],
            memory(self.spec["limits"]["memory"] + "b"),
            self.spec["publish"],
        )
        self.acl_mode, self.data_mode = 0o400, 0o700

    def judge(self):
        files = MemoryFiles(
            {"/etc/valkey/valkey.conf": self.conf, ACL: self.acl},
            {ACL: Stat("file", self.acl_mode), "/data": Stat("directory", self.data_mode)},
        )
        request = core.Request(
            files, "/etc/valkey/valkey.conf", service=self.service, admin_users=["operator"], version="valkey 8.1.4"
        )
        return core.audit_valkey(request)


@pytest.mark.parametrize("options", [REQUIRED, ALTERNATIVE], ids=["default", "alternative"])
def test_rendered_is_clean(role, options):
    result = Stack(role("valkey", **options)).judge()
    assert result["findings"] == []
    assert {state["status"] for state in result["checks_run"]} == {"pass"}


def line(name, *values):
    """Each value in place of the directive's."""
    for value in values:

        def change(stack, value=value):
            stack.conf, number = re.subn(rf"(?m)^{name} .*$", f"{name} {value}", stack.conf)
            assert number

        yield f"{name} {value}", change


def gone(name):
    """The line is not there, so that the default counts."""

    def change(stack):
        stack.conf, number = re.subn(rf"(?m)^{name} .*\n", "", stack.conf)
        assert number

    yield f"without {name}", change


def more(*lines):
    """A line at the end."""
    for text in lines:

        def change(stack, text=text):
            stack.conf += text + "\n"

        yield text, change


def user(name, *additions):
    """Rules at the end of a user's line."""
    for addition in additions:

        def change(stack, addition=addition):
            stack.acl, number = re.subn(rf"(?m)^(user {name} .*)$", rf"\1 {addition}", stack.acl)
            assert number == 1

        yield f"user {name} {addition}", change


def attribute(name, *values):
    """Something of the service or of the files."""
    for value in values:

        def change(stack, value=value):
            target = stack if hasattr(stack, name) else stack.service
            setattr(target, name, value)

        yield f"{name} {value}", change


def without_user(stack):
    stack.acl = re.sub(r"(?m)^user default .*\n", "", stack.acl)


MUTATIONS = {
    ("VLK-01",): [
        *user("default", "on nopass +get ~*", "on nopass +set ~x", "ON NOPASS %R~* +get"),
        *user("health", "~*", "+get", "+mget ~x", "(~x +get)"),
        *user("gateway", "nopass", "resetpass nopass", "allkeys", "~*", "%RW~*", "allchannels", "&*", "+monitor", "+acl",
              "+acl|setuser", "+client", "+client|kill", "+migrate", "+failover", "+@connection", "(~* +get)"),
        *more("acl-pubsub-default allchannels"),
        *attribute("acl_mode", 0o440, 0o404, 0o644, 0o666),
    ],
    ("VLK-02",): [
        *attribute("command", ["valkey-server", "--requirepass", "abc"], ["valkey-server", "--requirepass=abc"],
                   ["valkey-server", "--masterauth", "abc"], ["sh", "-c", "valkey-server --requirepass abc"]),
        *attribute("environment", ["VALKEY_PASSWORD=abc"], ["REDIS_PASSWORD=abc"], ["REDISCLI_AUTH=abc"], ["VALKEY_EXTRA_PASS=abc"]),
        *attribute("healthcheck", ["valkey-cli", "-e", "-a", "abc", "PING"], ["valkey-cli", "-e", "--user", "x", "--pass", "abc", "PING"],
                   ["valkey-cli", "-e", "-u", "redis://x:abc@localhost", "PING"]),
    ],
    ("VLK-03",): [
        *line("protected-mode", "no", "NO", '"no"'),
        *line("unixsocketperm", "777", "707", "701"),
        *attribute("published", ["0.0.0.0:6379->6379/tcp"], ["127.0.0.1:6379->6379/tcp"]),
        *attribute("contained", False),
    ],
    ("VLK-04",): [
        *line("port", "6379", "7000"), *gone("port"), *gone("tls-cert-file"), *gone("tls-key-file"),
        *line("tls-protocols", '"TLSv1.1 TLSv1.2"', "TLSv1", '"TLSv1 TLSv1.2 TLSv1.3"'),
        *line("tls-ciphers", "AES128-SHA", "HIGH:!aNULL", "ECDHE-RSA-AES128-SHA:ECDHE-RSA-AES128-GCM-SHA256", "DEFAULT"),
    ],
    ("VLK-05",): [
        *line("enable-protected-configs", "yes", "local", "YES"), *line("enable-debug-command", "yes", "local", "'yes'"),
        *line("enable-module-command", "yes", "local"),
        *user("gateway", "+keys", "+KEYS", "+config", "+config|set", "+debug", "+module", "+flushall", "+flushdb", "+script", "+script|flush",
              "+shutdown", "+replicaof", "+function", "+@read", "(~gw:* +keys)"),
    ],
    ("VLK-01", "VLK-05"): [
        *user("gateway", "+@all", "allcommands", "+@admin", "+@dangerous", "+@slow"),
        ("the users do not name default", without_user), *gone("aclfile"),
    ],
    ("VLK-06",): [
        *line("maxmemory", "0", "97mb", "128mb", "1gb"), *gone("maxmemory"), *line("maxmemory-policy", "whatever"), *more("maxmemory 0"),
    ],
    ("VLK-07",): [
        *attribute("healthcheck", [], ["NONE"], ["valkey-cli", "PING"], ["valkey-cli", "--user", "health", "--pass", "-", "PING"],
                   ["valkey-cli", "-e", "SET", "x", "1"], ["valkey-cli", "-e", "-h", "other", "PING"], ["CMD-SHELL", "valkey-cli ping || exit 1"]),
    ],
    ("VLK-08",): [
        *line("timeout", "0"), *gone("timeout"), *line("client-output-buffer-limit", "normal 0 0 0"),
        *more("client-output-buffer-limit normal 0 0 0", "client-output-buffer-limit pubsub 0 0 60"),
        *attribute("data_mode", 0o755, 0o701),
    ],
}  # fmt: skip
CASES = [(ids, name, change) for ids, changes in MUTATIONS.items() for name, change in changes]


@pytest.mark.parametrize(("ids", "name", "change"), CASES, ids=[name for _ids, name, _change in CASES])
def test_mutation(role, ids, name, change):
    stack = Stack(role("valkey", **REQUIRED))
    change(stack)
    result = stack.judge()
    assert {item["id"] for item in result["findings"]} == set(ids), [item["evidence"] for item in result["findings"]]


#: The same in other words, or stricter: nothing may be found.
EQUAL = [
    *line("bind", "0.0.0.0", "*", "172.20.0.5"), *line("PORT".lower(), "0"), *line("protected-mode", '"yes"', "YES"),
    *line("unixsocketperm", "770", "0700", "600"), *line("tls-protocols", "TLSv1.3", '"tlsv1.2 TLSv1.3"'), *line("tls-auth-clients", "yes", "optional"),
    *line("maxmemory", "64mb", "96mb", "1000000"), *line("maxmemory-policy", "allkeys-lfu", "noeviction"), *line("timeout", "60"),
    *gone("enable-debug-command"), *gone("enable-module-command"), *gone("enable-protected-configs"), *gone("acl-pubsub-default"), *gone("protected-mode"),
    *user("gateway", "-@all +get", "resetkeys ~other:*", "+script|exists", "+config|get", "+slowlog|get"), *user("operator", "+config|set", "+@all"),
    *user("health", "off", "+hello"), *more("# enable-debug-command yes", "loglevel debug"),
    *attribute("healthcheck", ["CMD-SHELL", "valkey-cli ping | grep PONG"]), *attribute("acl_mode", 0o600), *attribute("data_mode", 0o750),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change"), EQUAL, ids=[name for name, _change in EQUAL])
def test_equal_or_stricter_is_silent(role, name, change):
    stack = Stack(role("valkey", **REQUIRED))
    change(stack)
    assert stack.judge()["findings"] == []
