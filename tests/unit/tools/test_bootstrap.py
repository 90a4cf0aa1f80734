# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a machine lacks, and how pip's settings reach uv."""

from __future__ import annotations

import io
import re
import subprocess

import bootstrap
import pytest

ALL = set(bootstrap.PROGRAMS)


@pytest.mark.parametrize(
    ("present", "has_venv", "has_keyring", "codename", "expected"),
    [
        (ALL, True, True, "trixie", []),
        (ALL - {"dockerd", "docker"}, True, True, "trixie", ["docker.io", "docker-cli"]),
        (ALL - {"dockerd", "docker"}, True, True, "bookworm", ["docker.io"]),
        (ALL - {"docker"}, True, True, "bookworm", ["docker.io"]),
        (ALL - {"ssh", "ssh-keygen"}, True, True, "trixie", ["openssh-client"]),
        (ALL, False, False, "trixie", ["python3-venv", "debian-archive-keyring"]),
    ],
)
def test_missing_packages(present, has_venv, has_keyring, codename, expected):
    found = bootstrap.missing_packages(lambda name: name if name in present else None, has_venv, has_keyring, codename)
    assert found == expected


@pytest.mark.parametrize(
    ("present", "installed"),
    [(None, [["chromium", "fonts-dejavu-core"]]), ("chromium", []), ("google-chrome", [])],
)
def test_a_browser_is_installed_only_where_there_is_none(monkeypatch, present, installed):
    asked = []
    monkeypatch.setattr(bootstrap.shutil, "which", lambda name: name if name == present else None)
    monkeypatch.setattr(bootstrap, "install", asked.append)
    bootstrap.browser()
    assert asked == installed
    assert "browser" not in bootstrap.USUAL


def test_pips_settings_reach_uv():
    listing = (
        "global.index-url='https://index.example/simple'\n"
        "global.extra-index-url='file:///a/simple file:///b/simple'\n"
        "global.find-links='/wheels'\n"
        ":env:.cert='/etc/ca.pem'\n"
        ":env:.default-timeout='180'\n"
        "global.unknown='x'\n"
    )
    assert bootstrap.uv_environment(listing, {}) == {
        "UV_DEFAULT_INDEX": "https://index.example/simple",
        "UV_INDEX": "file:///a/simple file:///b/simple",
        "UV_FIND_LINKS": "/wheels",
        "SSL_CERT_FILE": "/etc/ca.pem",
        "UV_HTTP_TIMEOUT": "180",
    }


def test_the_environment_wins_over_pips_files_and_uvs_own_settings_win_over_both():
    listing = "global.index-url='https://file.example/simple'\n:env:.index-url='https://env.example/simple'\n"
    assert bootstrap.uv_environment(listing, {})["UV_DEFAULT_INDEX"] == "https://env.example/simple"
    assert bootstrap.uv_environment(listing, {"UV_DEFAULT_INDEX": "https://uv.example"}) == {}


def test_nothing_is_set_without_pip_settings():
    assert bootstrap.uv_environment("", {}) == {}


def test_a_step_is_remembered_by_its_inputs(tmp_path, monkeypatch):
    monkeypatch.setattr(bootstrap, "CACHE", tmp_path)
    first, second = bootstrap.digest(b"a", b"b"), bootstrap.digest(b"ab", b"")
    assert first != second
    assert not bootstrap.is_done("venv", first)
    bootstrap.mark_done("venv", first)
    assert bootstrap.is_done("venv", first)
    assert not bootstrap.is_done("venv", second)
    assert [path.name for path in (tmp_path / "stamps").iterdir()] == ["venv"]


def test_missing_packages_need_root_and_say_so(monkeypatch):
    monkeypatch.setattr(bootstrap, "missing_packages", lambda *_args: ["mmdebstrap"])
    monkeypatch.setattr(bootstrap.shutil, "which", lambda name: name)
    monkeypatch.setattr(bootstrap.os, "geteuid", lambda: 1000)
    with pytest.raises(bootstrap.BootstrapError) as caught:
        bootstrap.packages()
    assert str(caught.value) == "Debian packages are missing (mmdebstrap): run the same command as root."


def test_no_apt_is_a_sentence(monkeypatch):
    monkeypatch.setattr(bootstrap, "missing_packages", lambda *_args: ["mmdebstrap", "gpgv"])
    monkeypatch.setattr(bootstrap.shutil, "which", lambda _name: None)
    with pytest.raises(bootstrap.BootstrapError) as caught:
        bootstrap.packages()
    assert str(caught.value) == "This machine lacks mmdebstrap, gpgv and has no apt-get: install them, then run again."


@pytest.mark.parametrize(
    ("problem", "environment", "uid", "expected"),
    [
        ("refused", {"DOCKER_HOST": "tcp://x"}, 0, "The Docker engine at DOCKER_HOST=tcp://x does not answer: refused"),
        ("permission denied", {}, 1000, "The Docker engine refuses this user: run the same command as root."),
        (
            "no socket",
            {},
            1000,
            "The Docker engine is not running (no socket): run the same command as root to start it.",
        ),
    ],
)
def test_an_engine_that_cannot_be_started_is_a_sentence(monkeypatch, problem, environment, uid, expected):
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(bootstrap, "_engine_answer", lambda: problem)
    monkeypatch.setattr(bootstrap.os, "geteuid", lambda: uid)
    with pytest.raises(bootstrap.BootstrapError) as caught:
        bootstrap.engine()
    assert str(caught.value) == expected


def test_an_unknown_step_is_refused(capsys):
    assert bootstrap.main(["bootstrap.py", "everything"]) == 2
    assert "unknown step everything; steps are: packages, venv," in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted(bootstrap.REQUIREMENTS.glob("*.txt")), ids=lambda path: path.name)
def test_every_lock_is_hashed_and_names_no_host(path):
    text = path.read_text()
    pins = re.findall(r"^[a-z0-9][\w.-]*(?:\[[^]]*\])?==", text, re.M)
    blocks = re.split(r"(?m)^(?=[a-z0-9][\w.-]*(?:\[[^]]*\])?==)", text)[1:]
    assert pins
    assert all("--hash=sha256:" in block for block in blocks)
    assert "://" not in text
    assert "--index" not in text


def test_a_stale_pid_file_goes_and_a_living_dockerd_is_named(tmp_path):
    pid = tmp_path / "docker.pid"
    bootstrap.remove_stale_pid(pid, tmp_path)
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "comm").write_text("sshd\n")
    pid.write_text("7")
    bootstrap.remove_stale_pid(pid, tmp_path)
    assert not pid.exists()
    pid.write_text("7")
    (tmp_path / "7" / "comm").write_text("dockerd\n")
    with pytest.raises(bootstrap.BootstrapError, match=r"^A dockerd \(process 7\) runs but does not answer"):
        bootstrap.remove_stale_pid(pid, tmp_path)


@pytest.mark.parametrize(
    ("there", "postgres", "codename", "missing"),
    [
        ((), False, "bookworm", ["postgresql", "redis-server", "nginx"]),
        (("nginx",), False, "trixie", ["postgresql", "valkey-server"]),
        (("redis-server", "nginx"), True, "trixie", []),
        (("valkey-server",), False, "trixie", ["postgresql", "nginx"]),
        (("nginx",), True, "bookworm", ["redis-server"]),
    ],
)
def test_the_servers_that_tests_start_or_ask(there, postgres, codename, missing):
    def which(name):
        return f"/usr/bin/{name}" if name in there else None

    assert bootstrap.missing_servers(which, postgres, codename) == missing


def test_servers_are_installed_without_being_started(tmp_path):
    policy = tmp_path / "policy-rc.d"
    with bootstrap.not_started(policy):
        assert policy.read_text() == "#!/bin/sh\nexit 101\n" and policy.stat().st_mode & 0o777 == 0o755
    assert not policy.exists()
    policy.write_text("mine")
    with bootstrap.not_started(policy):
        assert policy.read_text() == "mine"
    assert policy.read_text() == "mine"


@pytest.mark.parametrize(
    ("majors", "there", "known", "expected"),
    [
        ((), False, True, []),
        ((15,), True, True, []),
        ((15, 17), False, True, [("install", ["postgresql-17-pgvector"])]),
        ((9, 15), False, False, [("install", []), ("build", 15, "postgresql-15-pgvector")]),
    ],
)
def test_the_extension_of_the_newest_postgres(monkeypatch, tmp_path, majors, there, known, expected):
    for major in majors:
        binaries = tmp_path / f"usr/lib/postgresql/{major}/bin"
        binaries.mkdir(parents=True)
        (binaries / "postgres").touch()
        if there:
            extensions = tmp_path / f"usr/share/postgresql/{major}/extension"
            extensions.mkdir(parents=True)
            (extensions / "vector.control").touch()
    done = []
    monkeypatch.setattr(bootstrap.os, "geteuid", lambda: 0)
    monkeypatch.setattr(bootstrap.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(bootstrap, "run", lambda argv: subprocess.CompletedProcess(argv, 0 if known else 100, "", ""))
    monkeypatch.setattr(bootstrap, "install", lambda names: done.append(("install", names)))
    monkeypatch.setattr(bootstrap, "_build_pgvector", lambda *given: done.append(("build", *given[:2])))
    bootstrap.pgvector(tmp_path)
    assert done == expected


def test_pgvector_is_not_built_from_another_source(monkeypatch, tmp_path):
    monkeypatch.setattr(bootstrap.urllib.request, "urlopen", lambda *_, **__: io.BytesIO(b"something else"))
    with pytest.raises(bootstrap.BootstrapError, match="is not the one that is pinned"):
        bootstrap._build_pgvector(15, "postgresql-15-pgvector", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_root_the_missing_extension_is_named(monkeypatch, tmp_path):
    (tmp_path / "usr/lib/postgresql/15/bin").mkdir(parents=True)
    (tmp_path / "usr/lib/postgresql/15/bin/postgres").touch()
    monkeypatch.setattr(bootstrap.os, "geteuid", lambda: 1000)
    with pytest.raises(bootstrap.BootstrapError, match="postgresql-15-pgvector.*run the same command as root"):
        bootstrap.pgvector(tmp_path)
