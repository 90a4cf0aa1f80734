# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of a host in the hands of an audit on the controller."""

from __future__ import annotations

import os

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import Unreadable
from ansible_collections.mcpstack.platform.plugins.module_utils._remote_files import (
    AskingFiles,
    ask_until_known,
    collect,
)


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "a.yml").write_text("include: b.yml")
    (tmp_path / "b.yml").write_bytes(b"\xff\x00")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x").write_text("x")
    (tmp_path / "link").symlink_to("a.yml")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "a.yml").chmod(0o600)
    return tmp_path


def test_content_owner_and_what_is_missing(tree):
    answer = collect([f"{tree}/a.yml", f"{tree}/*.yaml", f"{tree}/link"], [f"{tree}/data", f"{tree}/no"])
    files = AskingFiles([answer])
    assert files.text(f"{tree}/a.yml") == files.text(f"{tree}/link") == "include: b.yml"
    assert files.stat(f"{tree}/a.yml").mode == 0o600
    assert files.stat(f"{tree}/data").kind == "directory"
    assert files.knows(f"{tree}/no") and files.stat(f"{tree}/no") is None
    assert answer["missing"] == [f"{tree}/*.yaml", f"{tree}/no"]
    assert not files.wanted_content and not files.wanted_stats


def test_pipes_and_links_without_an_end_do_not_hang_or_break(tree):
    answer = collect([f"{tree}/pipe", f"{tree}/dangling", f"{tree}/loop"])
    kinds = {os.path.basename(path): entry["kind"] for path, entry in answer["files"].items()}
    assert kinds == {"pipe": "other", "dangling": "link", "loop": "link"}
    with pytest.raises(Unreadable, match="is not a regular file"):
        AskingFiles([answer]).read(f"{tree}/pipe")


def test_a_root_is_whole_only_when_everything_was_taken(tree):
    answer = collect([], [], [f"{tree}/data"])
    assert answer["roots"] == [f"{tree}/data"]
    files = AskingFiles([answer])
    assert files.read(f"{tree}/data/x") == b"x"
    assert files.knows(f"{tree}/data/other")
    assert collect([], [], [str(tree)], most_files=2)["roots"] == []
    assert collect([], [], [str(tree)], most_bytes=3)["roots"] == []


def test_what_is_too_much_says_so(tree):
    answer = collect([f"{tree}/a.yml"], most_bytes=3)
    with pytest.raises(Unreadable, match="more than 3 bytes"):
        AskingFiles([answer]).read(f"{tree}/a.yml")


def test_what_was_not_asked_for_is_not_known(tree):
    files = AskingFiles([])
    assert not files.knows(f"{tree}/a.yml")
    with pytest.raises(Unreadable, match="is not among the files at hand"):
        files.read(f"{tree}/b.yml")
    assert files.stat(f"{tree}/c") is None
    assert files.wanted_content == {f"{tree}/b.yml"}
    assert files.wanted_stats == {f"{tree}/a.yml", f"{tree}/c"}


def test_an_audit_gets_what_it_asks_for_and_ends(tree):
    rounds = []

    def audit(files):
        rounds.append(1)
        if not files.knows(f"{tree}/data"):
            return {"state": "unknown"}
        try:
            return {"state": files.text(f"{tree}/a.yml"), "missing": files.stat(f"{tree}/none")}
        except Unreadable as error:
            return {"state": str(error)}

    assert ask_until_known(audit, lambda wanted: collect(**wanted), [f"{tree}/link"]) == {
        "state": "include: b.yml",
        "missing": None,
    }
    assert len(rounds) == 4  # the last one asks for nothing new


def test_an_audit_that_never_stops_asking_is_stopped(tree):
    asked = []

    def audit(files):
        asked.append(1)
        return {"known": files.knows(f"{tree}/{len(asked)}")}

    ask_until_known(audit, lambda wanted: collect(**wanted), [])
    assert len(asked) <= 10


def test_a_broken_answer_is_refused():
    entry = {"kind": "file", "mode": 0o644, "uid": 0, "gid": 0, "size": 3, "content": "no base64!"}
    with pytest.raises(Unreadable, match="was not handed over whole"):
        AskingFiles([{"files": {"/x": entry}, "missing": [], "roots": []}]).read("/x")
