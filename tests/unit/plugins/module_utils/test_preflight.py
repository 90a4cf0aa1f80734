# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The catalogue of checks: exact sentences, and unknown that never passes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _packages
from ansible_collections.mcpstack.platform.plugins.module_utils import _preflight as core
from ansible_collections.mcpstack.platform.plugins.module_utils._engine import EngineError, EngineUnavailable
from ansible_collections.mcpstack.platform.tests.unit.plugins.module_utils.trees import lay


def said(report) -> list[str]:
    return [core.sentence(item) for item in report.findings]


# -- the catalogue ----------------------------------------------------------------------------------------------------


def test_the_documentation_shows_the_catalogue_as_it_is():
    text = (Path(__file__).parents[4] / "docs/preflight.md").read_text(encoding="utf-8")
    start, end = "<!-- checks -->\n", "\n<!-- /checks -->"
    assert text[text.index(start) + len(start) : text.index(end)] == core.table()


def test_ids_are_unique_and_rules_belong_to_a_check():
    assert len({check.id for check in core.CHECKS}) == len(core.CHECKS)
    assert {rule.check for rule in (*core.RULES, *core.CROSS_RULES)} <= set(core.BY_ID)
    assert {check.severity for check in core.CHECKS} <= set(core.SEVERITIES)


def test_a_report_follows_the_contract_and_sorts_the_worst_first():
    report = core.Report()
    report.fail("PRE-34", "docker.service", "stops something", "wait")
    report.fail("PRE-20", "/etc/os-release", "says Alpine", "use Debian")
    report.unknown("PRE-31", "/sys", "it is not there?", "mount it")
    result = report.as_dict()
    assert [item["id"] for item in result["findings"]] == ["PRE-20", "PRE-34", "PRE-31"]
    assert result["findings"][0] == {
        "id": "PRE-20", "title": "The operating system is supported", "severity": "high", "subject": "/etc/os-release",
        "where": "/etc/os-release", "evidence": "says Alpine", "fix": "use Debian", "references": [], "waived": None,
    }  # fmt: skip
    assert result["checks_run"] == {"PRE-20": "fail", "PRE-31": "unknown", "PRE-34": "fail"}
    assert result["summary"] == {"critical": 0, "high": 1, "medium": 1, "low": 1, "info": 0}
    assert core.message(report.stopping, "h1") == (
        "1 problem on h1; nothing was changed.\n  1. [PRE-20] /etc/os-release: says Alpine. Fix: use Debian."
    )
    assert report.warnings == [
        "docker.service: stops something. Fix: wait.",
        "/sys: could not be decided: it is not there. Fix: mount it.",
    ]


@pytest.mark.parametrize(
    ("states", "result"),
    [
        (["pass", "not_applicable"], "pass"),
        (["unknown", "pass"], "unknown"),
        (["fail", "unknown", "pass"], "fail"),
        (["not_applicable"], "not_applicable"),
    ],
)
def test_unknown_is_never_a_pass(states, result):
    report = core.Report()
    for state in states:
        report.decided("PRE-20", state)
    assert report.checks_run == {"PRE-20": result}


# -- options ----------------------------------------------------------------------------------------------------------


def test_unknown_names_are_given_the_nearest_one():
    report = core.Report()
    core.check_unknown(
        report,
        ["mcpstack_edge_https_port", "mcpstack_edge_htps_port", "mcpstack_zzzzzzzzz_q", "mcpstack_environment"],
        ["mcpstack_edge_https_port"],
        {"mcpstack_edge_htps_port": "group_vars/all.yml:3"},
    )
    assert said(report) == [
        "mcpstack_edge_htps_port (group_vars/all.yml:3): is not an option of any role. "
        "Fix: write mcpstack_edge_https_port.",
        "mcpstack_zzzzzzzzz_q: is not an option of any role. Fix: remove it.",
    ]


@pytest.mark.parametrize(
    "text",
    ["CHANGE_ME", "please change-me", "changeme", "your-domain", "Your_key", "api_key_here", "example", "<name>", "TODO",
     "xxxx", "replace me"],
)  # fmt: skip
def test_placeholders(text):
    assert core.is_placeholder(text, "development")


@pytest.mark.parametrize(
    "text",
    ["", "chat.my.org", "here.my.org", "0.0.0.0", "examples", "a <b> c", "xx", "info", "there", "demo.mcpstack.test"],
)
def test_no_placeholders(text):
    assert not core.is_placeholder(text, "production")


@pytest.mark.parametrize("text", ["example.com", "https://chat.example.org", "ops@example.net", "my.example"])
def test_example_names_are_placeholders_outside_development(text):
    assert core.is_placeholder(text, "staging")
    assert not core.is_placeholder(text, "development")


def test_placeholders_are_found_at_any_depth_and_secrets_are_not_shown():
    report = core.Report()
    values = {"mcpstack_x_list": [{"name": "ok"}, {"name": "CHANGE_ME"}], "mcpstack_x_password": "changeme-hunter2"}
    core.check_placeholders(report, values, "development")
    assert said(report) == [
        'mcpstack_x_list[1].name: is still the placeholder "CHANGE_ME". Fix: give the real value.',
        "mcpstack_x_password: is still the placeholder a value that is not shown. Fix: give the real value.",
    ]
    assert "hunter2" not in str(report.as_dict())


@pytest.mark.parametrize(
    ("environment", "sentences", "status"),
    [
        (
            "production",
            ["mcpstack_gateway_cors_origins[1]: allows the origin '*' in production. "
             "Fix: name the origins, for example https://app.my.org."],
            "fail",
        ),
        ("development", [], "not_applicable"),
    ],
)  # fmt: skip
def test_wildcard_origins(environment, sentences, status):
    report = core.Report()
    core.check_rules(report, {"mcpstack_gateway_cors_origins": ["https://a.b", "*"]}, environment)
    assert said(report) == sentences
    assert report.checks_run["PRE-05"] == status


@pytest.mark.parametrize("name", ["a", "chat.my.org", "*.my.org", "xn--bcher-kva.ch", "localhost", "a.b."])
def test_dns_names(name):
    assert list(core.dns_name([name], "x")) == []


@pytest.mark.parametrize("name", ["", "a_b.org", "-a.org", "a..b", "a b", "https://a.org", "a" * 64 + ".org", "é.org"])
def test_no_dns_names(name):
    assert list(core.dns_name([name], "x")) == [
        ("x[0]", f"is {name!r}, which is not a DNS name", "use letters, digits and hyphens between dots")
    ]


EDGE = {"name": "edge", "memory": "128m", "publish": [{"host_ip": "0.0.0.0", "host_port": 443, "port": 8443}]}


def context(services, environment="production", **values):
    return core.Context(values, services, environment)


@pytest.mark.parametrize(
    ("other", "count"),
    [
        ({"host_ip": "127.0.0.1", "host_port": 443}, 1),
        ({"host_ip": "::", "host_port": "443"}, 1),
        ({"host_ip": "127.0.0.1", "host_port": 444}, 0),
    ],
)
def test_ports_are_unique(other, count):
    found = list(core.unique_ports(context([EDGE, {"name": "x", "publish": [other]}])))
    assert len(found) == count
    if count:
        assert found[0][:2] == ("x.publish[0]", "publishes port 443, which edge.publish[0] publishes already")


def test_two_addresses_may_share_a_port():
    publish = [{"host_ip": "127.0.0.1", "host_port": 1}, {"host_ip": "192.0.2.1", "host_port": 1}]
    assert list(core.unique_ports(context([{"name": "x", "publish": publish}]))) == []


def test_public_ports_are_declared_in_production():
    services = [EDGE, {"name": "x", "publish": [{"host_ip": "0.0.0.0", "host_port": 9090},
                                                {"host_ip": "127.0.0.1", "host_port": 9091}]}]  # fmt: skip
    report = core.Report()
    core.check_cross_rules(report, context(services))
    assert said(report) == [
        "x.publish[0]: publishes port 9090 on 0.0.0.0, which is not declared as public. "
        "Fix: bind it to 127.0.0.1, or add 9090 to mcpstack_public_ports."
    ]
    report = core.Report()
    core.check_cross_rules(report, context(services, "staging"))
    assert said(report) == [] and report.checks_run["PRE-07"] == "not_applicable"


def test_a_private_certificate_is_declared_in_production():
    found = list(core.declared_certificate(context([], mcpstack_pki_edge_source="internal")))
    assert [item[0] for item in found] == ["mcpstack_pki_edge_source"]
    declared = {"mcpstack_pki_edge_source": "internal", "mcpstack_internal_ca_intended": True}
    assert list(core.declared_certificate(context([], **declared))) == []
    assert list(core.declared_certificate(context([], mcpstack_pki_edge_source="acme"))) == []


def test_a_model_fits_its_service():
    runner = [{"name": "model-runner", "memory": "1g"}]
    models = [{"name": "a", "size": "900m"}, {"name": "b", "size": 4 << 30}, {"name": "c"}]
    assert list(core.model_fits(context(runner, mcpstack_model_runner_models=models))) == [
        (
            "mcpstack_model_runner_models[1].size",
            "is 4096 MB, but the model runner may use 1024 MB",
            "raise its memory limit above 4096 MB, or choose a smaller model",
        )
    ]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512m", 512 << 20),
        ("4g", 4 << 30),
        ("1.5g", 3 << 29),
        (1024, 1024),
        ("1GiB", 1 << 30),
        ("many", None),
        ("", None),
    ],
)
def test_sizes(text, size):
    assert core.size_bytes(text) == size


# -- the host ---------------------------------------------------------------------------------------------------------

TRIXIE = 'ID=debian\nVERSION_ID="13"\nPRETTY_NAME="Debian GNU/Linux 13 (trixie)"\n'


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        (TRIXIE, []),
        ("ID=ubuntu\nVERSION_ID='24.04'\n", []),
        (
            'ID=alpine\nVERSION_ID=3.20.1\nPRETTY_NAME="Alpine Linux v3.20"\n',
            ["/etc/os-release: says Alpine Linux v3.20, which is not supported. "
             "Fix: use Debian 12 or 13, or Ubuntu 24.04."],
        ),
        (
            'ID=debian\nVERSION_ID="11"\nPRETTY_NAME="Debian 11"\n',
            ["/etc/os-release: says Debian 11, which is not supported. "
             "Fix: use Debian 12 or 13, or Ubuntu 24.04."],
        ),
    ],
)  # fmt: skip
def test_operating_systems(tmp_path, release, expected):
    root = lay(tmp_path, {"etc/os-release": release, "run/systemd/system/.x": ""})
    report = core.Report()
    core.check_platform(report, root, "x86_64", (3, 13))
    assert said(report) == expected


def test_everything_wrong_with_a_platform_is_named_at_once(tmp_path):
    report = core.Report()
    core.check_platform(report, str(tmp_path), "aarch64", (3, 9))
    assert report.checks_run == {"PRE-20": "unknown", "PRE-21": "fail", "PRE-22": "fail", "PRE-23": "fail"}
    assert said(report)[1] == "uname -m: says aarch64. Fix: use a host with an amd64 (x86-64) processor."


def test_disk_demands_add_up_and_what_is_stored_counts(tmp_path, monkeypatch):
    class Status:
        f_bavail, f_frsize, f_files, f_favail = 100, 1 << 20, 100000, 50000

    monkeypatch.setattr(core.os, "statvfs", lambda path: Status)
    demands = {"/var/lib/docker": 80, "/var/lib/mcpstack": 50}
    report = core.Report()
    core.check_disk(report, demands, {}, str(tmp_path))
    assert said(report) == [
        "/var/lib/docker and /var/lib/mcpstack: 100 MB are free, but 130 MB are still needed there. "
        "Fix: free or add 30 MB, or mount a larger file system at /var/lib/docker."
    ]
    report = core.Report()
    core.check_disk(report, demands, {"/var/lib/docker": 70}, str(tmp_path))
    assert said(report) == [] and report.checks_run == {"PRE-24": "pass"}
    Status.f_favail = 10
    core.check_disk(report, {"/var/lib/docker": 1}, {}, str(tmp_path))
    assert said(report) == ["/var/lib/docker: only 10 inodes are free. Fix: remove small files there."]


def test_memory_against_the_sum_of_limits(tmp_path):
    root = lay(tmp_path, {"proc/meminfo": "MemTotal:        2048000 kB\n"})
    report = core.Report()
    core.check_memory(report, [{"name": "a", "memory": "1g"}, {"name": "b", "memory": "1500m"}], None, root)
    assert said(report) == [
        "/proc/meminfo: the host has 2000 MB of memory, but the services may use 2524 MB (b 1500, a 1024). "
        "Fix: lower the memory limits of the services, or give the host more memory."
    ]
    report = core.Report()
    core.check_memory(report, [{"name": "a", "memory": "1g"}], None, root)
    assert report.checks_run == {"PRE-25": "pass"}
    lay(tmp_path, {"sys/fs/cgroup/memory.max": "536870912\n"})
    core.check_memory(report, [{"name": "a", "memory": "1g"}], None, root)
    assert "has 512 MB of memory" in said(report)[0]
    report = core.Report()
    core.check_memory(report, [], 10, str(tmp_path / "nowhere"))
    assert report.checks_run == {"PRE-25": "unknown"}


@pytest.mark.parametrize(
    ("stamps", "offset", "uncertainty"),
    [
        ((100.0, 101.0, 100.4, 100.6), 0.0, 0.4),
        ((100.0, 101.0, 160.4, 160.6), 60.0, 0.4),
        ((100.0, 100.2, 40.0, 40.2), -60.0, 0.0),
    ],
)
def test_clock_offset(stamps, offset, uncertainty):
    found = core.clock_offset(*stamps)
    assert found == pytest.approx((offset, uncertainty))


@pytest.mark.parametrize(
    ("offset", "uncertainty", "severity"),
    [(4.9, 0, None), (6.0, 2.0, None), (6.0, 0.5, "medium"), (-61.0, 0.5, "high"), (60.5, 1.0, "medium")],
)
def test_clock_limits(offset, uncertainty, severity):
    report = core.Report()
    core.check_clock(report, offset, uncertainty)
    assert [item["severity"] for item in report.findings] == ([severity] if severity else [])


def test_clock_sentence():
    report = core.Report()
    core.check_clock(report, -90.04, 0.1)
    assert said(report) == [
        "clock: the host's clock is 90.0 s behind the controller's. "
        "Fix: let both follow a time server (timedatectl set-ntp true)."
    ]


# 0.0.0.0:443 inode 111, [::]:80 inode 222, 127.0.0.1:22 inode 333
TCP = (
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    "   0: 00000000:01BB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1 0 100 0 0 10 0\n"
    "   1: 0100007F:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 333 1 0 100 0 0 10 0\n"
    "   2: 0100007F:1F90 0100007F:0001 01 00000000:00000000 00:00000000 00000000     0        0 444 1 0 100 0 0 10 0\n"
)
TCP6 = (
    "  sl  local_address                         remote_address                        st tx rx tr tm uid timeout inode\n"
    "   0: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 222 1 0 1 0 0\n"
)
CONTAINER = "c" * 64


@pytest.fixture
def net(tmp_path):
    root = lay(tmp_path, {"proc/net/tcp": TCP, "proc/net/tcp6": TCP6, "proc/77/comm": "nginx\n", "proc/77/cgroup": "0::/x\n",
                          "proc/88/comm": "caddy\n", "proc/88/cgroup": f"0::/docker/{CONTAINER}\n"})  # fmt: skip
    for pid, inode in ((77, 111), (88, 222)):
        os.mkdir(f"{root}/proc/{pid}/fd")
        os.symlink(f"socket:[{inode}]", f"{root}/proc/{pid}/fd/5")
    return root


def want(port, host_ip="0.0.0.0"):
    return {"port": port, "host_ip": host_ip, "where": "edge.publish[0]"}


def container(name, project=None, port=None, ip="0.0.0.0", identifier="d" * 64):
    labels = {"com.docker.compose.project": project} if project else {}
    ports = [{"PublicPort": port, "PrivatePort": 1, "Type": "tcp", "IP": ip}] if port else []
    return {"Id": identifier, "Names": [f"/{name}"], "Labels": labels, "Ports": ports}


@pytest.mark.parametrize(
    ("wanted", "containers", "expected"),
    [
        ([want(8443)], [], []),
        ([want(8080)], [], []),  # an established connection is no listener
        ([want(22, "192.0.2.1")], [], []),  # another address
        ([want(443)], [], ["port 443/tcp: is held by nginx (pid 77) on 0.0.0.0."]),
        ([want(80)], [], ["port 80/tcp: is held by caddy (pid 88) on ::."]),
        ([want(80)], [container("web", identifier=CONTAINER)],
         ["port 80/tcp: is held by caddy (pid 88) on :: in the container web."]),
        ([want(80)], [container("edge", "mcpstack", identifier=CONTAINER)], []),
        ([want(443)], [container("edge", "mcpstack", 443)], []),
        ([want(443)], [container("web", "shop", 443)], ["port 443/tcp: is published by the container web."]),
        ([want(9000)], [container("web", None, 9000, "")], ["port 9000/tcp: is published by the container web."]),
        ([want(22)], [], ["port 22/tcp: is held by a process that cannot be seen (socket 333)."]),
        ([want(443), want(80)], [],
         ["port 443/tcp: is held by nginx (pid 77) on 0.0.0.0.", "port 80/tcp: is held by caddy (pid 88) on ::."]),
    ],
)  # fmt: skip
def test_ports(net, wanted, containers, expected):
    report = core.Report()
    core.check_ports(report, wanted, containers, "mcpstack", net)
    fix = " Fix: stop it, or publish another port (edge.publish[0])."
    assert said(report) == [sentence + fix for sentence in expected]
    assert report.checks_run == {"PRE-27": "fail" if expected else "pass"}


# -- packages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({}, []),
        ({"etc/apt/sources.list": "# deb http://m/debian trixie main\ndeb-src http://m/debian trixie main\n"}, []),
        ({"etc/apt/sources.list": "deb [signed-by=/k] http://m/debian trixie main\n"}, ["/etc/apt/sources.list"]),
        ({"etc/apt/sources.list.d/a.sources": "Types: deb-src\nURIs: x\n"}, []),
        ({"etc/apt/sources.list.d/a.sources": "Enabled: no\nTypes: deb\nURIs: x\n"}, []),
        ({"etc/apt/sources.list.d/a.sources": "Types: deb-src\n\nTypes: deb deb-src\nURIs: x\n"},
         ["/etc/apt/sources.list.d/a.sources"]),
        ({"etc/apt/sources.list.d/a.sources.disabled": "Types: deb\n"}, []),
    ],
)  # fmt: skip
def test_sources(tmp_path, files, found):
    assert core.apt_sources(lay(tmp_path, files)) == found


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("E: Release file for http://m/dists/x/InRelease is expired (invalid since 14d 15h). Updates will not be applied.",
         "the package index is expired"),
        ("E: Release file for http://m/x is not valid yet (invalid for another 2h).", "the package index is from the future"),
        ("W: GPG error: http://m x InRelease: The following signatures couldn't be verified: NO_PUBKEY 6ED0E7B82643E131",
         "the package index is not signed by a key that this host trusts"),
        ("E: The repository 'http://m x InRelease' is not signed.",
         "the package index is not signed by a key that this host trusts"),
        ("E: OpenPGP signature verification failed: http://m x InRelease: Sub-process /usr/bin/sqv returned an error code",
         "the package index is not signed by a key that this host trusts"),
        ("E: Failed to fetch http://m/x  Could not resolve 'm'", "the package mirror's name cannot be resolved"),
        ("E: Failed to fetch http://m/x  Could not connect to m:80 - connect (111: Connection refused)",
         "the package mirror cannot be reached"),
        ("E: The repository 'http://m nosuch Release' does not have a Release file.", "the package mirror has no such release"),
        ("E: Something else", "apt cannot update its index"),
    ],
)  # fmt: skip
def test_what_apt_says_is_explained(tmp_path, line, what):
    root = lay(tmp_path, {"etc/apt/sources.list": "deb http://m/debian trixie main\n"})
    report = core.Report()
    core.check_index(report, ["docker.io"], root, lambda argv: (100, "Hit:1 http://m\n", f"{line}\n"))
    assert report.findings[0]["evidence"].startswith(f"{what} (")
    assert line[3:60] in report.findings[0]["evidence"]


def test_the_index_is_only_asked_when_something_is_missing(tmp_path):
    def never(argv):
        raise AssertionError

    for missing, status in (([], "not_applicable"), (None, "unknown")):
        report = core.Report()
        core.check_index(report, missing, str(tmp_path), never)
        assert report.checks_run == {"PRE-28": status}
    report = core.Report()
    core.check_index(report, ["docker.io"], str(tmp_path), never)
    assert said(report) == [
        "/etc/apt/sources.list.d: no package source is configured, but docker.io must be installed. "
        "Fix: add the distribution's package sources."
    ]


@pytest.mark.parametrize(("until", "severity"), [("Fri, 06 Nov 2026 08:08:01 UTC", "medium"), (None, None)])
def test_an_expired_index_that_apt_is_told_to_accept_is_said(tmp_path, monkeypatch, until, severity):
    root = lay(tmp_path, {"etc/apt/sources.list": "deb http://m/debian trixie main\n"})
    monkeypatch.setattr(core.time, "time", lambda: 1795218571.0)

    def run(argv):
        lists = next(word.partition("=")[2] for word in argv if word.startswith("Dir::State::lists="))
        with open(f"{lists}/m_debian_dists_forky_InRelease", "w", encoding="utf-8") as handle:
            handle.write("Suite: forky\n" + (f"Valid-Until: {until}\n" if until else ""))
        return 0, "", ""

    report = core.Report()
    core.check_index(report, ["docker.io"], root, run)
    assert [item["severity"] for item in report.findings] == ([severity] if severity else [])
    if severity:
        assert report.findings[0]["evidence"] == (
            "apt on this host is told to accept an expired package index: "
            "m/debian/dists/forky (valid until Fri, 06 Nov 2026 08:08:01 UTC)"
        )


# -- the engine -------------------------------------------------------------------------------------------------------


class FakeEngine:
    socket_path = "/var/run/docker.sock"

    def __init__(self, answer):
        self.answer = answer

    def version(self):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


DOCKER = {"docker.io": _packages.Package("docker.io", "1", False, (), ())}


@pytest.mark.parametrize(
    ("answer", "packages", "status", "sentence"),
    [
        ({"Version": "26.1.5+dfsg1"}, DOCKER, "pass", None),
        ({"Version": "20.10.24+dfsg1"}, DOCKER, "pass", None),
        ({"Version": "19.03.15"}, DOCKER, "fail", "docker.service: is Docker 19.03.15. Fix: install Docker 20.10 or newer."),
        ({"Version": "35.0.0"}, {}, "unknown",
         "docker.service: could not be decided: Docker 35.0.0 is newer than this collection. Fix: update it."),
        ({"Version": "4.9.3", "Components": [{"Name": "Podman Engine"}]}, {}, "fail",
         "/var/run/docker.sock: is Podman, not the Docker engine. Fix: remove podman-docker."),
        (EngineUnavailable("nobody listens"), {}, "not_applicable", None),
        (EngineUnavailable("nobody listens"), DOCKER, "unknown",
         "docker.service: could not be decided: nobody listens. Fix: start it: systemctl start docker."),
        (EngineError("speaks API 1.40."), DOCKER, "fail",
         "docker.service: speaks API 1.40. Fix: install Docker 20.10 or newer."),
    ],
)  # fmt: skip
def test_engines(answer, packages, status, sentence):
    report = core.Report()
    core.check_engine(report, FakeEngine(answer), packages)
    assert report.checks_run == {"PRE-29": status}
    assert said(report) == ([sentence] if sentence else [])


@pytest.mark.parametrize(
    ("release", "source", "files", "status"),
    [
        (TRIXIE, "debian", {}, "pass"),
        ('ID=debian\nVERSION_ID="12"\n', "debian", {}, "fail"),
        ('ID=debian\nVERSION_ID="12"\n', "docker", {}, "pass"),
        ('ID=debian\nVERSION_ID="12"\n', "debian", {core.COMPOSE_PLACES[0]: ""}, "pass"),
        ("ID=alpine\n", "debian", {}, "unknown"),
    ],
)
def test_compose(tmp_path, release, source, files, status):
    report = core.Report()
    core.check_compose(report, source, lay(tmp_path, {"etc/os-release": release, **files}))
    assert report.checks_run == {"PRE-30": status}
    if status == "fail":
        assert said(report) == [
            "docker compose: Compose v2 is not installed, and bookworm has no package of it. Fix: set "
            "mcpstack_docker_source: docker, install the docker-compose plugin yourself, or upgrade to Debian 13."
        ]


@pytest.mark.parametrize(
    ("files", "info", "status"),
    [
        ({"sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids\n"}, None, "pass"),
        ({"sys/fs/cgroup/cgroup.controllers": "cpuset cpu io pids\n"}, None, "fail"),
        ({"sys/fs/cgroup/cpu,cpuacct/x": "", "sys/fs/cgroup/memory/x": "", "sys/fs/cgroup/pids/x": ""}, None, "pass"),
        ({}, None, "unknown"),
        ({}, {"MemoryLimit": True, "CpuCfsQuota": True, "PidsLimit": False}, "fail"),
        ({}, {"MemoryLimit": True, "CpuCfsQuota": True, "PidsLimit": True}, "pass"),
    ],
)
def test_control_groups(tmp_path, files, info, status):
    report = core.Report()
    core.check_cgroup(report, info, lay(tmp_path, files))
    assert report.checks_run == {"PRE-31": status}


@pytest.mark.parametrize(
    ("files", "info", "status"),
    [
        ({}, None, "unknown"),
        ({}, {"Driver": "overlay2"}, "pass"),
        ({"proc/filesystems": "nodev\toverlay\n", "sys/module/bridge/x": "", "proc/net/ip_tables_names": ""}, None, "pass"),
        (
            {"lib/modules/6.1/modules.dep": "kernel/fs/overlayfs/overlay.ko.xz:\nkernel/net/bridge/bridge.ko: a\n",
             "lib/modules/6.1/modules.builtin": "kernel/net/netfilter/nf_tables.ko\n"},
            None,
            "pass",
        ),
        ({"lib/modules/6.1/modules.dep": "kernel/net/bridge/bridge.ko:\n"}, None, "fail"),
    ],
)  # fmt: skip
def test_kernels(tmp_path, monkeypatch, files, info, status):
    class Uname:
        release, machine = "6.1", "x86_64"

    monkeypatch.setattr(core.os, "uname", lambda: Uname)
    report = core.Report()
    core.check_kernel(report, info, lay(tmp_path, files))
    assert report.checks_run == {"PRE-32": status}


def test_a_bare_host_is_inspected_as_a_whole(tmp_path):
    root = lay(
        tmp_path,
        {
            "etc/os-release": TRIXIE, "run/systemd/system/x": "", "proc/meminfo": "MemTotal: 8192000 kB\n",
            "proc/net/tcp": TCP, "sys/fs/cgroup/cgroup.controllers": "cpu memory pids\n",
            "var/lib/dpkg/status": "Package: libc6\nStatus: install ok installed\nVersion: 2\n",
            "etc/docker/daemon.json": '{"icc": true}', "etc/apt/sources.list": "deb http://m trixie main\n",
        },
    )  # fmt: skip

    class Absent:
        socket_path = "/nowhere"

        def __getattr__(self, name):
            def call(*args, **kwargs):
                raise EngineUnavailable("/nowhere: no Docker engine listens here; install and start docker.")

            return call

    asked = []

    def run(argv, timeout=0):
        asked.append(argv[0])
        return (
            (0, "LoadState=not-found\nActiveState=inactive\nMainPID=0\n", "") if argv[0] == "systemctl" else (0, "", "")
        )

    demands = core.HostDemands(
        services=[EDGE],
        packages={"common": ["python3-requests"], "trixie": ["docker.io | docker-ce"]},
        daemon={"settings": {"icc": False}},
        journal=str(tmp_path / "journal.json"),
    )
    report = core.inspect_host(demands, Absent(), root, run)
    assert report.checks_run["PRE-33"] == "fail" and report.checks_run["PRE-27"] == "fail"
    assert [report.checks_run[f"PRE-{number}"] for number in (20, 23, 25, 28, 29, 30, 31)] == [
        "pass", "pass", "pass", "pass", "not_applicable", "pass", "pass",
    ]  # fmt: skip
    assert set(asked) == {"systemctl", "apt-get"}
    assert not (tmp_path / "journal.json").exists()


# -- processors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cpus", "count", "state", "said"),
    [
        ("2.5", 2, "fail", "may use 2.5 processors, but the host has 2 processors"),
        ("1.5", 1, "fail", "may use 1.5 processors, but the host has 1 processor"),
        ("2", 2, "pass", None),
        ("0.5", 1, "pass", None),
        ("much", 1, "not_applicable", None),
        (None, 1, "not_applicable", None),
        ("1", None, "unknown", None),
    ],
)
def test_no_service_may_use_more_processors_than_there_are(cpus, count, state, said):
    report = core.Report()
    core.check_processors(report, [{"name": "model-runner", "cpus": cpus}], count)
    assert report.as_dict()["checks_run"]["PRE-35"] == state
    assert [item["evidence"] for item in report.findings if item["severity"] == "high"] == ([said] if said else [])
    if said:
        assert report.findings[0]["fix"] == f"set mcpstack_model_runner_cpus to at most {count}"
