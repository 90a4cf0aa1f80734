# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The config tree core on a real file system."""

from __future__ import annotations

import errno
import os

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _config_tree as core

ME = {"owner": os.getuid(), "group": os.getgid()}


def wanted(root, **contents):
    files = [
        {"path": f"{root}/{name}", "content": text.encode(), "mode": "0640", **ME} for name, text in contents.items()
    ]
    return files, [{"path": str(root), "mode": "0750", **ME}]


def actions(changes):
    return {os.path.basename(c.path): c.action for c in changes}


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "tree"
    files, directories = wanted(root, a="one\n", b="two\n")
    core.land(files, directories, core.plan(files, directories, [], []))
    return root


def test_a_bare_host_gets_everything(tmp_path):
    root = tmp_path / "tree"
    files, directories = wanted(root, a="one\n")
    assert actions(core.plan(files, directories, [str(root)], [])) == {"tree": "create", "a": "create"}
    assert not root.exists()


def test_a_second_run_changes_nothing(tree):
    assert core.plan(*wanted(tree, a="one\n", b="two\n"), [str(tree)], []) == []
    assert (tree / "a").read_text() == "one\n"
    assert (tree / "a").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("disturb", "expected"),
    [
        (lambda t: (t / "a").write_text("other"), {"a": "update"}),
        (lambda t: (t / "a").unlink(), {"a": "create"}),
        (lambda t: (t / "a").chmod(0o644), {"a": "attributes"}),
        (lambda t: t.chmod(0o777), {"tree": "attributes"}),
        (lambda t: (t / "stray").write_text("x"), {"stray": "remove"}),
        (lambda t: ((t / "d").mkdir(), (t / "d" / "x").write_text("x")), {"d": "remove", "x": "remove"}),
        (lambda t: ((t / "a").unlink(), (t / "a").symlink_to("/etc/passwd")), {"a": "update"}),
        (lambda t: (t / ".new-abc").write_text("left by a killed run"), {".new-abc": "remove"}),
    ],
)
def test_what_differs_is_repaired(tree, disturb, expected):
    disturb(tree)
    args = (*wanted(tree, a="one\n", b="two\n"), [str(tree)], [])
    assert actions(core.plan(*args)) == expected
    core.land(args[0], args[1], core.plan(*args))
    assert core.plan(*args) == []
    assert sorted(p.name for p in tree.iterdir()) == ["a", "b"]
    assert not (tree / "a").is_symlink()


def test_kept_paths_are_left_alone(tree):
    files, directories = wanted(tree, a="one\n")
    assert core.plan(files, directories, [str(tree)], [f"{tree}/b"]) == []


def test_everything_in_the_way_is_named_at_once(tmp_path):
    root = tmp_path / "tree"
    root.mkdir()
    (root / "a").mkdir()
    (tmp_path / "file").write_text("x")
    files, _none = wanted(root, a="one")
    directories = [{"path": str(tmp_path / "file"), "mode": "0750", **ME}]
    with pytest.raises(core.TreeError) as caught:
        core.plan(files, directories, [], [])
    assert [(p["where"], p["what"]) for p in caught.value.problems] == [
        (str(tmp_path / "file"), "a directory must be here, but something else is"),
        (str(root / "a"), "a file must be here, but a directory is"),
    ]


def test_a_failed_write_leaves_the_old_file_and_no_scratch(tree, monkeypatch):
    files, directories = wanted(tree, a="new\n", b="two\n")
    monkeypatch.setattr(core.os, "replace", lambda *a: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        core.land(files, directories, core.plan(files, directories, [], []))
    assert (tree / "a").read_text() == "one\n"
    assert sorted(p.name for p in tree.iterdir()) == ["a", "b"]


def test_a_full_disk_is_named_with_the_file(tree, monkeypatch):
    def full(*_arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(core, "write_atomic", full)
    files, directories = wanted(tree, a="new\n")
    with pytest.raises(OSError, match="No space left") as caught:
        core.land(files, directories, core.plan(files, directories, [], []))
    assert caught.value.filename == f"{tree}/a"


def test_the_stage_holds_the_new_files_and_goes_away(tree, tmp_path):
    files, directories = wanted(tree, a="new\n")
    parent = tmp_path / "parent"
    (parent / ".stage-left").mkdir(parents=True)
    with core.Stage(str(tree), files, directories, str(parent)) as staged:
        assert open(f"{staged}/a").read() == "new\n"
        assert (tree / "a").read_text() == "one\n"
        assert os.listdir(parent) == [os.path.basename(staged)]
    assert os.listdir(parent) == []


def test_the_diff_shows_content_and_removal(tree):
    (tree / "stray").write_text("x")
    entries = {
        os.path.basename(e["before_header"]): e
        for e in core.diff_of(core.plan(*wanted(tree, a="new\n", b="two\n"), [str(tree)], []))
    }
    assert (entries["a"]["before"], entries["a"]["after"]) == ("one\n", "new\n")
    assert (entries["stray"]["before"], entries["stray"]["after"]) == ("present\n", "absent\n")


def test_of_a_file_that_is_no_text_the_diff_shows_what_tells_two_apart(tree):
    files = [{"path": f"{tree}/a", "content": b"\0\xff", "mode": "0640", **ME}]
    (entry,) = core.diff_of(core.plan(files, [], [], []))
    digest = "06eb7d6a69ee19e5fbdf749018d3d2abfa04bcbd1365db312eb86dc7169389b8"
    assert (entry["before"], entry["after"]) == ("one\n", f"2 bytes that are no text, SHA-256 {digest}\n")
