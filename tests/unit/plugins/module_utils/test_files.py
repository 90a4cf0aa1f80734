# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole files only: what a reader finds at any moment, and what a run that was killed leaves to the next one."""

from __future__ import annotations

import os
import stat

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _files as core
from ansible_collections.mcpstack.platform.tests.unit.plugins.module_utils.crash import CALLS, Killed, KilledAt

ME = (os.geteuid(), os.getegid())


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def names(folder):
    return sorted(os.listdir(folder))


class Noted:
    """Stands in for ``os`` and notes what is called, with the kind of file for a flush."""

    def __init__(self) -> None:
        self.calls = []

    def __getattr__(self, name):
        real = getattr(os, name)
        if name not in CALLS:
            return real

        def call(*args, **kwargs):
            noted = name
            if name == "fsync":
                noted += " directory" if stat.S_ISDIR(os.fstat(args[0]).st_mode) else " file"
            if name != "open":
                self.calls.append(noted)
            return real(*args, **kwargs)

        return call


# -- one file ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("wanted", [0o400, 0o640, 0o644])
@pytest.mark.parametrize("old", [None, b"something longer than the new content"])
def test_content_and_mode_whatever_was_there_and_whatever_the_umask(tmp_path, shared, wanted, old):
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)
        path.chmod(0o777)
    umask = os.umask(0o077)
    try:
        core.write_atomic(str(path), b"new", wanted, ME, shared=shared)
    finally:
        os.umask(umask)
    assert (path.read_bytes(), mode(path)) == (b"new", wanted)
    assert (path.stat().st_uid, path.stat().st_gid) == ME
    assert names(tmp_path) == ["file"]


@pytest.mark.skipif(ME[0] != 0, reason="only root gives files away")
def test_the_owner(tmp_path):
    path = tmp_path / "file"
    core.write_atomic(str(path), b"x", 0o400, (64104, 64105))
    assert (path.stat().st_uid, path.stat().st_gid, mode(path)) == (64104, 64105, 0o400)


def test_a_plain_name_means_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    core.write_atomic("file", b"x")
    assert names(tmp_path) == ["file"]


def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path):
    (tmp_path / "elsewhere").write_bytes(b"theirs")
    (tmp_path / "file").symlink_to("elsewhere")
    core.write_atomic(str(tmp_path / "file"), b"ours")
    assert not (tmp_path / "file").is_symlink()
    assert (tmp_path / "elsewhere").read_bytes() == b"theirs"


def test_a_trap_at_the_name_beside_it_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").write_bytes(b"theirs")
    (tmp_path / ".new-file.part").symlink_to("elsewhere")
    core.write_atomic(str(tmp_path / "file"), b"ours")
    assert (tmp_path / "elsewhere").read_bytes() == b"theirs"
    assert names(tmp_path) == ["elsewhere", "file"]


def test_a_system_that_takes_a_few_bytes_at_a_time_gets_them_all(tmp_path, monkeypatch):
    class Slow:
        def __getattr__(self, name):
            return getattr(os, name)

        def write(self, handle, data):
            return os.write(handle, data[:3])

    monkeypatch.setattr(core, "os", Slow())
    core.write_atomic(str(tmp_path / "file"), b"0123456789")
    assert (tmp_path / "file").read_bytes() == b"0123456789"


@pytest.mark.parametrize(
    "sync, expected",
    [
        (True, ["write", "fchown", "fchmod", "fsync file", "replace", "fsync directory"]),
        (False, ["write", "fchown", "fchmod", "replace"]),
    ],
)
def test_the_order_of_the_steps(tmp_path, monkeypatch, sync, expected):
    noted = Noted()
    monkeypatch.setattr(core, "os", noted)
    core.write_atomic(str(tmp_path / "file"), b"x", 0o640, ME, sync=sync)
    assert noted.calls == expected


def test_until_it_has_its_place_nobody_else_can_read_it(tmp_path, monkeypatch):
    seen = []

    class Watched:
        def __getattr__(self, name):
            return getattr(os, name)

        def write(self, handle, data):
            seen.append(stat.S_IMODE(os.fstat(handle).st_mode))
            return os.write(handle, data)

    monkeypatch.setattr(core, "os", Watched())
    umask = os.umask(0)
    try:
        core.write_atomic(str(tmp_path / "file"), b"x", 0o644)
    finally:
        os.umask(umask)
    assert seen == [0o600]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("step", ["write", "fchown", "fchmod", "fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch, step, shared):
    (tmp_path / "file").write_bytes(b"old")

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(core.os, step, full)
    with pytest.raises(OSError, match="No space left on device"):
        core.write_atomic(str(tmp_path / "file"), b"new", 0o640, ME, shared=shared)
    monkeypatch.undo()
    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_the_directory_must_exist(tmp_path):
    with pytest.raises(FileNotFoundError):
        core.write_atomic(str(tmp_path / "absent" / "file"), b"x")


def test_two_writers_of_a_shared_file_do_not_meet(tmp_path, monkeypatch):
    path = str(tmp_path / "file")
    inner = []

    class Overtaken:
        def __getattr__(self, name):
            return getattr(os, name)

        def replace(self, source, target):
            if not inner:
                inner.append(source)
                core.write_atomic(path, b"the other", shared=True)
            os.replace(source, target)

    monkeypatch.setattr(core, "os", Overtaken())
    core.write_atomic(path, b"ours", shared=True)
    assert (tmp_path / "file").read_bytes() == b"ours"
    assert names(tmp_path) == ["file"]


# -- killed at any step -----------------------------------------------------------------------------------------------


def killed(monkeypatch, step, work) -> bool:
    with monkeypatch.context() as patch:
        patch.setattr(core, "os", KilledAt(step))
        try:
            work()
        except Killed:
            return True
    return False


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("old", [None, b"old"])
def test_killed_at_any_step_a_reader_sees_the_old_file_or_the_new_one(tmp_path, monkeypatch, old, shared):
    steps, outcomes = 0, []
    while True:
        folder = tmp_path / str(steps)
        folder.mkdir()
        path = folder / "file"
        if old is not None:
            path.write_bytes(old)
            path.chmod(0o604)
        dead = killed(monkeypatch, steps, lambda p=path: core.write_atomic(str(p), b"new", 0o640, ME, shared=shared))
        found = (path.read_bytes(), mode(path)) if path.exists() else (None, 0)
        assert found in [(old, 0o604 if old else 0), (b"new", 0o640)]
        outcomes.append(found[0] == b"new")
        left = [name for name in names(folder) if name != "file"]
        assert all(name.startswith(".part-") if shared else name == ".new-file.part" for name in left)
        core.write_atomic(str(path), b"newer", 0o640, ME, shared=shared)
        assert path.read_bytes() == b"newer"
        assert shared or names(folder) == ["file"], "what the killed run left is gone"
        if not dead:
            break
        steps += 1
    # open, write, fchown, fchmod, fsync, replace, fsync of the directory
    assert outcomes == [False] * 6 + [True] * 2


# -- records ----------------------------------------------------------------------------------------------------------


def test_a_record_comes_with_its_directories_and_goes_with_them(tmp_path):
    path = tmp_path / "mcpstack/state/record.json"
    core.save_state(str(path), {"b": 1, "a": [2]})
    assert path.read_text() == '{\n "a": [\n  2\n ],\n "b": 1\n}\n'
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    core.save_state(str(path), {})
    assert path.read_text() == "{}\n"
    core.forget_state(str(path))
    assert names(tmp_path) == []
    core.forget_state(str(path))


@pytest.mark.parametrize("other", ["mcpstack/state/other.json", "mcpstack/other"])
def test_directories_that_somebody_else_uses_stay(tmp_path, other):
    path = tmp_path / "mcpstack/state/record.json"
    core.save_state(str(path), {})
    (tmp_path / other).write_text("x")
    core.forget_state(str(path))
    assert not path.exists()
    assert (tmp_path / other).exists()


def test_killed_at_any_step_the_next_run_saves_and_forgets(tmp_path, monkeypatch):
    steps = 0

    def work(path):
        core.save_state(path, {"version": 1})
        core.forget_state(path)

    while True:
        folder = tmp_path / str(steps)
        folder.mkdir()
        path = folder / "mcpstack/state/record.json"
        dead = killed(monkeypatch, steps, lambda p=path: work(str(p)))
        if path.exists():
            assert path.read_text() == '{\n "version": 1\n}\n'
        work(str(path))
        assert names(folder) == []
        if not dead:
            break
        steps += 1
    assert steps > 10
