# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Test hosts: what is refused before anything starts, and what is taken from the machine they run on."""

from __future__ import annotations

import socket

import pytest
import testhost
import testhost_prepare as prepare


@pytest.mark.parametrize(
    ("given", "expected"),
    [("8443:443", "127.0.0.1:8443:443"), ("127.0.0.2:80:8080", "127.0.0.2:80:8080"), ("0443:443", "127.0.0.1:443:443")],
)
def test_ports_are_published_on_loopback(given, expected):
    assert testhost.publish_spec(given) == expected


@pytest.mark.parametrize(
    "given", ["443", "0:443", "8443:65536", "0.0.0.0:8443:443", "10.0.0.1:1:2", "a:b", "8443:443/udp"]
)
def test_other_publications_are_refused(given):
    with pytest.raises(testhost.HostError, match="is not OUTSIDE:INSIDE with ports from 1 to 65535"):
        testhost.publish_spec(given)


@pytest.mark.parametrize("name", ["", "../x", "A", "a_b", "-a", "a" * 42, "a b"])
def test_names_that_are_no_host_names_are_refused(name):
    with pytest.raises(testhost.HostError, match="is no host name"):
        testhost.check_names([name])


def test_a_name_given_twice_is_refused():
    with pytest.raises(testhost.HostError, match=r"^A host is named twice\.$"):
        testhost.check_names(["a", "a"])


def test_a_host_that_is_not_there_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(testhost, "HOSTS", tmp_path)
    with pytest.raises(testhost.HostError) as caught:
        testhost.ssh_argv("gone")
    assert str(caught.value) == "There is no test host gone in this checkout: `tools/testhost up gone` starts one."


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("TASK [x]\n[ERROR]: Task failed: Action failed: The port is taken.\nOrigin: y\n", "The port is taken."),
        ("one\ntwo\n", "one\ntwo"),
    ],
)
def test_a_failed_playbook_is_cut_to_its_reason(output, expected):
    assert testhost.failure(output) == expected


TARGETS = """\
http://mirror.example/debian/ bookworm main
http://mirror.example/debian/ bookworm-updates main
http://mirror.example/debian-security/ bookworm-security main
https://other.example/node nodistro main
"""


def test_the_machines_own_mirrors_are_used():
    assert prepare.parse_mirrors(TARGETS) == ("http://mirror.example/debian", "http://mirror.example/debian-security")


def test_the_security_archive_is_guessed_beside_the_archive():
    line = "http://mirror.example/debian/ trixie main\n"
    assert prepare.parse_mirrors(line) == ("http://mirror.example/debian", "http://mirror.example/debian-security")


def test_no_debian_archive_is_a_sentence():
    with pytest.raises(prepare.ImageError, match="This machine's apt sources name no Debian archive"):
        prepare.parse_mirrors("https://other.example/node nodistro main\n")


def test_only_what_reaches_the_mirror_is_taken_from_apts_settings():
    dump = (
        'Acquire "";\nAcquire::http::Proxy "http://proxy.example:3128";\nAcquire::https::Proxy "";\n'
        'Acquire::Check-Valid-Until "false";\nAcquire::GzipIndexes "true";\nAcquire::http::Pipeline-Depth "0";\n'
    )
    assert prepare.parse_apt_options(dump) == [
        'Acquire::http::Proxy "http://proxy.example:3128";',
        'Acquire::Check-Valid-Until "false";',
    ]


def test_the_tag_depends_on_every_part_and_on_where_parts_end():
    assert prepare.tag([b"a", b"b"]) != prepare.tag([b"ab", b""])
    assert prepare.tag([b"a", b"b"]) == prepare.tag([b"a", b"b"])


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("CapBnd:\t000001fffeffffff\n", ["SYS_RESOURCE"]),
        ("CapBnd:\t000001ffffffffff\n", []),
        ("Name: x\n", []),
    ],
)
def test_capabilities_the_machine_cannot_give(status, expected):
    assert prepare.missing_capabilities(status) == expected


def test_start_options_follow_the_control_groups():
    assert prepare.start_options("2") == {"arguments": [], "cgroupns": "private", "volumes": []}
    old = prepare.start_options("1")
    assert old["cgroupns"] == "host"
    assert "systemd.unified_cgroup_hierarchy=0" in old["arguments"]


def test_a_taken_port_is_not_offered():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        number = taken.getsockname()[1]
        with pytest.raises(prepare.ImageError, match=f"No port from {number} to {number + 1} is free"):
            prepare.free_port(number, number + 1)


def test_an_unknown_suite_is_refused():
    with pytest.raises(
        prepare.ImageError, match="There is no test host of suite 'sid': choose one of bookworm, trixie"
    ):
        prepare.build("sid")
