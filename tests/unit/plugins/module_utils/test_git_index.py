# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""git's index and ignore files, held against git itself where it is installed."""

from __future__ import annotations

import random
import shutil
import subprocess

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _git_index as core
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import LocalFiles, MemoryFiles, Unreadable

needs_git = pytest.mark.skipif(not shutil.which("git"), reason="needs git")
IGNORED = {
    ".gitignore": "*.env\n!keep.env\n/only-root\nbuild/\nsub/**/x\nfoo[0-9].txt\nsub/*.key\n\\!odd\nspace\\ \n# no\ndeep/**\n",
    "sub/.gitignore": "*.log\n!a.log\n",
    ".git/info/exclude": "b.key\n",
}


def git(root, *arguments):
    return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, check=False)


@pytest.fixture
def tree(tmp_path):
    git(tmp_path, "init", "-q")
    for name, text in IGNORED.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


@needs_git
def test_ignored_is_what_git_ignores(tree):
    numbers = random.Random(5)
    parts = [
        "sub",
        "build",
        "deep",
        "x",
        "a.env",
        "keep.env",
        "only-root",
        "foo1.txt",
        "foox.txt",
        "b.key",
        "a.log",
        "b.log",
        "!odd",
    ]
    paths = {"/".join(numbers.choice(parts) for _unused in range(numbers.randrange(1, 4))) for _more in range(250)}
    asked = subprocess.run(
        ["git", "-C", str(tree), "check-ignore", "--no-index", "--stdin", "-z"], input="\0".join(sorted(paths)).encode(), capture_output=True
    )  # fmt: skip
    theirs = set(asked.stdout.decode().split("\0")) - {""}
    ours = {path for path in paths if core.ignored_by_git(LocalFiles(), str(tree), f"{tree}/.git", f"{tree}/{path}")}
    assert ours == theirs


@needs_git
@pytest.mark.parametrize("version", [2, 3, 4])
@pytest.mark.parametrize("digest", ["sha1", "sha256"])
def test_the_index_lists_what_git_lists(tmp_path, version, digest):
    if git(tmp_path, "init", "-q", f"--object-format={digest}").returncode:
        pytest.skip("this git knows one digest only")
    for name in ("a/b/f1", "a/b/f22", "a/b/f333", "a/g", "ünï", "z" * 200, "a/b/f4444444"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    git(tmp_path, "add", "-A")
    git(tmp_path, "rm", "-q", "--cached", "a/g")
    git(tmp_path, "add", "-N", "a/g")  # an entry that needs version 3
    git(tmp_path, "update-index", "--index-version", str(version))
    listed = git(tmp_path, "ls-files", "-z").stdout.decode().split("\0")[:-1]
    assert len(listed) == 7
    assert sorted(core.tracked(LocalFiles(), f"{tmp_path}/.git")) == sorted(listed)


@needs_git
def test_a_split_index_is_refused(tree):
    (tree / "f").write_text("x")
    git(tree, "add", "f")
    git(tree, "update-index", "--split-index")
    with pytest.raises(Unreadable, match="is a split index"):
        core.tracked(LocalFiles(), f"{tree}/.git")


@needs_git
def test_a_linked_work_tree(tree):
    git(tree, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "x")
    git(tree, "worktree", "add", "-q", str(tree / "linked"))
    top, directory = core.work_tree(LocalFiles(), f"{tree}/linked/x/.env")
    assert top == f"{tree}/linked"
    assert core.tracked(LocalFiles(), directory) == []


def test_no_work_tree_is_known_only_where_everything_above_is():
    assert core.work_tree(MemoryFiles({}, roots=("/",)), "/srv/app/.env") == (None, None)
    with pytest.raises(Unreadable, match="is not known"):
        core.work_tree(MemoryFiles({"/srv/app/.env": ""}), "/srv/app/.env")


DOCKER = [
    (".env", ".env", True), (".env*", ".env.prod", True), (".env", "sub/.env", False), ("**/.env", "sub/a/.env", True),
    ("**/.env", ".env", True), ("*", "sub/.env", True), ("*\n!.env", ".env", False), ("*\n!.env\n.env", ".env", True),
    ("secrets", "secrets/db", True), ("secrets/", "secrets/db", True), ("/secrets/", "secrets/db", True), ("./x/../.env", ".env", True),
    ("sub/*", "sub/.env", True), ("sub/*", "sub/a/.env", True), ("#.env", ".env", False), ("", ".env", False), ("[.]env", ".env", True),
    ("?env", ".env", True), ("\\.env", ".env", True), ("*.md", ".env", False),
]  # fmt: skip


@pytest.mark.parametrize(("text", "path", "ignored"), DOCKER)
def test_dockerignore(text, path, ignored):
    assert core.ignored_by_docker(text, path) is ignored


@pytest.mark.parametrize("seed", range(40))
def test_any_index_is_read_or_refused(seed):
    numbers = random.Random(seed)
    data = bytearray(b"DIRC" + bytes([0, 0, 0, numbers.choice((2, 3, 4))]) + bytes([0, 0, 0, numbers.randrange(5)]))
    data += bytes(numbers.randrange(256) if numbers.random() < 0.3 else 0 for _unused in range(numbers.randrange(600)))
    try:
        assert all(isinstance(name, str) for name in core.parse_index(bytes(data)))
    except Unreadable as error:
        assert "is not an index" in str(error) or "split index" in str(error)


@pytest.mark.parametrize(
    "pattern",
    ["*" * 300, "*a" * 150 + "b", "**/" * 100 + "x", "[" * 300, "a\\", "[!]", "[]]", "[z-a]x", "!", "/", "**"],
)
def test_any_pattern_is_matched_in_few_steps(pattern):
    """The set of places in a pattern is never larger than the pattern."""
    glob = core._glob(pattern)
    assert core._match(glob, "a" * 300) in (True, False)
    core.ignored_by_docker(f"{pattern}\n" * 20, "a" * 200)
