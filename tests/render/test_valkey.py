# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The valkey role's file and users under default, alternative and hostile options, held against the rules VLK-01 to VLK-08."""

from __future__ import annotations

import pytest
import yaml

from ansible_collections.mcpstack.platform.plugins.module_utils._service_spec import normalise

REQUIRED = {"mcpstack_valkey_image": "mcpstack/valkey:0123456789ab"}
ALTERNATIVE = {
    **REQUIRED,
    "mcpstack_valkey_memory": "2g",
    "mcpstack_valkey_cpus": "2",
    "mcpstack_valkey_maxmemory_percent": 50,
    "mcpstack_valkey_maxmemory_policy": "noeviction",
    "mcpstack_valkey_persistence": False,
    "mcpstack_valkey_max_clients": 5000,
    "mcpstack_valkey_idle_timeout": 0,
    "mcpstack_valkey_client_certificates": True,
    "mcpstack_valkey_acl_fingerprint": "0123abcd",
}
CASES = {"default": REQUIRED, "alternative": ALTERNATIVE}


def directives(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            name, value = line.split(" ", 1)
            found.setdefault(name, []).append(value.strip('"'))
    return found


@pytest.fixture(params=CASES)
def case(request, role):
    made = role("valkey", **CASES[request.param])
    return made, directives(made.files()["valkey.conf"])


def test_no_problem_is_seen_where_there_is_none(case):
    assert case[0].value("_mcpstack_valkey_problems") == []


def test_spec_is_accepted_and_hardened(case):
    spec = normalise(case[0].value("_mcpstack_valkey_service"))
    assert (spec["uid"], spec["networks"], spec["publish"], spec["exceptions"]) == (64105, ["data"], [], [])  # VLK-03
    assert spec["read_only"] and spec["tls"] and spec["environment"] == {} and spec["secrets"] == ["valkey-acl"]
    assert spec["command"] == ["/etc/valkey/valkey.conf"]  # VLK-02: nothing else on the command line
    assert spec["limits"]["nofile"] >= int(case[1]["maxclients"][0]) + 32


def test_health_check_logs_in_reads_only_and_fails_on_errors(case):  # VLK-07
    command = case[0].value("_mcpstack_valkey_service")["health"]["command"]
    assert command[:2] == ["/usr/bin/valkey-cli", "-e"] and command[-1] == "PING"
    assert command[command.index("-s") + 1] == case[1]["unixsocket"][0]
    assert command[command.index("--user") + 1] == "health"


def test_tls_is_the_only_way_in_over_the_network(case):  # VLK-03, VLK-04
    conf = case[1]
    assert (conf["port"], conf["tls-port"], conf["protected-mode"]) == (["0"], ["6379"], ["yes"])
    assert conf["tls-protocols"] == ["TLSv1.2 TLSv1.3"]
    assert conf["tls-key-file"] == ["/run/tls/current/tls.key"]
    assert conf["unixsocketperm"] == ["700"]
    assert "requirepass" not in conf and "user" not in conf


def test_nothing_can_be_changed_from_inside(case):  # VLK-05
    names = ("enable-protected-configs", "enable-debug-command", "enable-module-command")
    assert [case[1][name] for name in names] == [["no"]] * 3
    assert case[1]["aclfile"] == ["/run/secrets/valkey-acl/current"]
    assert "loadmodule" not in case[1] and "rename-command" not in case[1]


def test_limits(case):  # VLK-08
    conf = case[1]
    assert {line.split()[0] for line in conf["client-output-buffer-limit"]} == {"normal", "replica", "pubsub"}
    assert all(line.split()[1:3] != ["0", "0"] for line in conf["client-output-buffer-limit"])
    assert conf["dir"] == ["/data"]


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, {"maxmemory": "89mb", "maxmemory-policy": "volatile-lru", "appendonly": "yes", "tls-auth-clients": "no", "timeout": "300"}),
        (ALTERNATIVE, {"maxmemory": "1024mb", "maxmemory-policy": "noeviction", "appendonly": "no", "tls-auth-clients": "yes", "timeout": "0"}),
        ({"mcpstack_valkey_memory": "32m", "mcpstack_valkey_maxmemory_percent": 75}, {"maxmemory": "24mb"}),
    ],
)  # fmt: skip
def test_options_arrive(role, options, wanted):  # VLK-06
    conf = directives(role("valkey", **{**REQUIRED, **options}).files()["valkey.conf"])
    assert {name: conf[name][0] for name in wanted} == wanted


def test_new_users_recreate_the_container(role):
    texts = {
        role("valkey", **REQUIRED, mcpstack_valkey_acl_fingerprint=value).files()["valkey.conf"]
        for value in ("", "a1", "b2")
    }
    assert len(texts) == 3


def test_a_fingerprint_cannot_end_its_comment(role):
    text = role("valkey", **REQUIRED, mcpstack_valkey_acl_fingerprint="a\nenable-debug-command yes").files()[
        "valkey.conf"
    ]
    assert "# Users: aenabledebugcommandyes" in text.splitlines()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (
            {"mcpstack_valkey_memory": "lots"},
            "mcpstack_valkey_memory is lots: give at least 32m, written like 128m or 2g.",
        ),
        (
            {"mcpstack_valkey_memory": "16m"},
            "mcpstack_valkey_memory is 16m: give at least 32m, written like 128m or 2g.",
        ),
        (
            {"mcpstack_valkey_maxmemory_percent": 90},
            "mcpstack_valkey_maxmemory_percent is 90: give a number from 10 to 75, the server needs the rest.",
        ),
        ({"mcpstack_valkey_max_clients": 1}, "mcpstack_valkey_max_clients is 1: give a number from 16 to 50000."),
        (
            {"mcpstack_valkey_idle_timeout": -1},
            "mcpstack_valkey_idle_timeout is -1: give a number of seconds from 0 to 86400.",
        ),
        (
            {"mcpstack_valkey_maxmemory_policy": "noeviction\nport 6379"},
            'mcpstack_valkey_maxmemory_policy is "noeviction\\nport 6379": give one that Valkey has, such as volatile-lru.',
        ),
    ],
)
def test_hostile_options_are_named(role, options, problem):
    assert role("valkey", **REQUIRED, **options).value("_mcpstack_valkey_problems") == [problem]


def test_options_are_declared_once_and_the_same(role):
    made = role("valkey")
    options = yaml.safe_load((made.path / "meta/argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
    defaults = yaml.safe_load((made.path / "defaults/main.yml").read_text())
    assert {name: option["default"] for name, option in options.items() if "default" in option} == defaults
    assert {name for name, option in options.items() if option.get("required")} == set(REQUIRED)
    assert len(options) <= 15


def users(role) -> dict[str, list[str]]:
    lines = (role("valkey").path / "files" / "users.acl").read_text().splitlines()
    assert all(line.startswith("user ") for line in lines), "the file format has no comments"
    return {line.split()[1]: line.split()[2:] for line in lines}


def test_users(role):  # VLK-01
    found = users(role)
    assert set(found) == {"default", "health", "gateway", "registry", "operator"}
    assert found["default"][0] == "off"
    assert [name for name, words in found.items() if "nopass" in words] == ["health"]
    assert [word for word in found["health"] if word.startswith("+")] == ["+ping"]
    for name, keys in (("gateway", "~gw:*"), ("registry", "~rg:*"), ("operator", "~*")):
        assert f"#{{sha256:valkey-{name}}}" in found[name]
        assert [word for word in found[name] if word.startswith("~")] == [keys]
    # one limiter serves both
    assert [word for word in found["gateway"] if word[0] == "+"] == [
        word for word in found["registry"] if word[0] == "+"
    ]
    for name, words in found.items():
        assert "-@all" in words and "resetkeys" in words and "resetchannels" in words
        assert "allcommands" not in words and "+@all" not in words
        if name != "operator":
            assert not [word for word in words if word.startswith("+@")], "application users get single commands"
            for word in (
                "keys",
                "flushall",
                "flushdb",
                "config",
                "debug",
                "module",
                "script",
                "acl",
                "shutdown",
                "scan",
            ):
                assert f"+{word}" not in words
