# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is installed, what we added, and what may go again."""

from __future__ import annotations

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _packages as core


def stanza(name, depends="", provides="", status="install ok installed", essential=False):
    lines = [f"Package: {name}", f"Status: {status}", "Version: 1.0-1"]
    if essential:
        lines.append("Essential: yes")
    if depends:
        lines.append(f"Depends: {depends}")
    if provides:
        lines.append(f"Provides: {provides}")
    return "\n".join([*lines, "Description: something", " Depends: a trap in the text"])


BASE = [stanza("libc6", essential=True), stanza("python3")]
OURS = [
    stanza("docker.io", "libc6 (>= 2.34), iptables | nftables, containerd (>= 1.4~), runc:any"),
    stanza("containerd", "runc"),
    stanza("runc"),
    stanza("iptables"),
]


def lay(root, stanzas, automatic=()):
    path = root / core.STATUS
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(stanzas) + "\n")
    path = root / core.AUTOMATIC
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "\n\n".join(f"Package: {name}\nArchitecture: amd64\nAuto-Installed: 1" for name in automatic) + "\n"
    )
    return str(root)


def test_installed_reads_needs_and_skips_what_is_only_configured(tmp_path):
    root = lay(tmp_path, [*BASE, *OURS, stanza("old", status="deinstall ok config-files"),
                          stanza("half", status="install ok half-installed")])  # fmt: skip
    packages = core.installed(root)
    assert sorted(packages) == ["containerd", "docker.io", "iptables", "libc6", "python3", "runc"]
    assert packages["docker.io"].needs == (("libc6",), ("iptables", "nftables"), ("containerd",), ("runc",))


def test_a_host_without_dpkg_is_named(tmp_path):
    with pytest.raises(core.PackagesError) as caught:
        core.installed(str(tmp_path))
    assert str(caught.value) == (
        "/var/lib/dpkg/status: No such file or directory. Fix: this host must be Debian or Ubuntu with dpkg."
    )


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        ([], []),
        (["docker.io | docker-ce"], []),
        (["docker-ce | docker.io"], []),
        (["docker-ce | docker-ee", "docker-ce", "python3"], ["docker-ce"]),
    ],
)
def test_alternatives(tmp_path, names, missing):
    assert core.wanted(core.installed(lay(tmp_path, [*BASE, *OURS])), names) == missing


def test_an_interrupted_dpkg_is_seen(tmp_path):
    assert core.interrupted(str(tmp_path)) is False
    updates = tmp_path / "var/lib/dpkg/updates"
    updates.mkdir(parents=True)
    (updates / "tmp.i").touch()
    assert core.interrupted(str(tmp_path)) is False
    (updates / "0001").touch()
    assert core.interrupted(str(tmp_path)) is True


ADDED = ["containerd", "docker.io", "iptables", "runc"]


@pytest.mark.parametrize(
    ("others", "automatic", "going"),
    [
        ([], {"containerd", "iptables", "runc"}, ADDED),
        # somebody installed a firewall that needs iptables since
        ([stanza("ufw", "iptables, python3")], {"containerd", "iptables", "runc"}, ["containerd", "docker.io", "runc"]),
        # an alternative that stays is enough
        ([stanza("ufw", "iptables | nftables"), stanza("nftables")], {"containerd", "iptables", "runc"}, ADDED),
        # somebody wants runc by name
        ([], {"containerd", "iptables"}, ["containerd", "docker.io", "iptables"]),
        # needed under another name
        ([stanza("tool", "container-runtime")], {"containerd", "iptables", "runc"}, ADDED),
    ],
)
def test_only_what_nothing_else_needs_may_go(tmp_path, others, automatic, going):
    root = lay(tmp_path, [*BASE, *OURS, *others], automatic)
    assert core.removable(core.installed(root), ["docker.io"], ADDED, core.automatic(root)) == going


def test_what_is_needed_under_a_provided_name_stays(tmp_path):
    root = lay(
        tmp_path, [*BASE, stanza("runc", provides="container-runtime (= 1)"), stanza("tool", "container-runtime")]
    )
    assert core.removable(core.installed(root), ["runc"], ["runc"], set()) == []


def test_an_essential_package_never_goes(tmp_path):
    assert core.removable(core.installed(lay(tmp_path, BASE)), ["libc6"], ["libc6"], set()) == []


def test_the_record_of_an_installation(tmp_path):
    path = str(tmp_path / "state/packages-docker.json")
    before = core.installed(lay(tmp_path, BASE))
    after = core.installed(lay(tmp_path, [*BASE, *OURS]))

    record = core.Record(path)
    assert record.update(before, ["docker.io"]) is True
    record.save()
    # killed here: the next run completes the record
    record = core.Record(path)
    assert record.data["before"] == ["libc6", "python3"]
    assert record.update(after, []) is True
    record.save()
    assert core.Record(path).data == {"version": 1, "asked": ["docker.io"], "added": ADDED, "before": None}
    assert core.Record(path).update(after, []) is False
    record.forget()
    assert not (tmp_path / "state").exists()


def test_a_host_that_has_everything_gets_no_record(tmp_path):
    record = core.Record(str(tmp_path / "state/packages-docker.json"))
    assert record.update(core.installed(lay(tmp_path, BASE)), []) is False
    assert record.data is None


def test_a_broken_record_is_refused(tmp_path):
    path = tmp_path / "packages-docker.json"
    path.write_text("{")
    with pytest.raises(core.PackagesError, match="the packages it names then stay installed at an uninstall"):
        core.Record(str(path))
