# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write a whole set of configuration files at once: compare, validate, then land.

PRIVATE: internal to the collection, may change in any release.

``plan`` compares the wanted files and directories with the disk and returns the changes; ``land`` makes them.
Every file is written to a temporary name beside its place, flushed, given owner and mode, then renamed: a reader
sees the old file or the new one, and a run that is killed leaves nothing half written.
"""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
import stat
import tempfile
from dataclasses import dataclass

from ansible_collections.mcpstack.platform.plugins.module_utils._files import write_atomic

STAGE_PREFIX = ".stage-"


class TreeError(Exception):
    """The tree cannot be written; ``problems`` is a list of ``{where, what, fix}``."""

    def __init__(self, problems: list[dict]):
        self.problems = problems
        super().__init__("; ".join(f"{p['where']}: {p['what']} ({p['fix']})" for p in problems))


@dataclass
class Change:
    """One path that differs. ``action`` is one of create, update, attributes, remove."""

    path: str
    action: str
    before: str = ""
    after: str = ""


def _mode(value: str) -> int:
    return int(str(value), 8)


def _read(path: str) -> bytes:
    with open(path, "rb") as handle:
        return handle.read()


def _shown(content: bytes) -> str:
    """For a difference; of a file that is no text only what tells two apart."""
    if b"\0" in content:
        return f"{len(content)} bytes that are no text, SHA-256 {hashlib.sha256(content).hexdigest()}\n"
    return content.decode(errors="replace")


def _attributes_differ(info: os.stat_result, item: dict) -> bool:
    return (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid) != (_mode(item["mode"]), item["owner"], item["group"])


def _listed_below(root: str, wanted: set[str]) -> list[str]:
    """Paths below ``root`` that are not wanted, children before their directory."""
    stale = []
    for folder, folders, files in os.walk(root, topdown=False):
        for name in files + folders:
            path = os.path.join(folder, name)
            if path not in wanted:
                stale.append(path)
    return stale


def plan(files: list[dict], directories: list[dict], prune: list[str], keep: list[str]) -> list[Change]:
    """The changes that bring the disk to the wanted state.

    files: ``{path, content, owner, group, mode}`` with the content as bytes; directories: ``{path, owner, group, mode}``; owners are numeric ids,
    modes octal strings. ``prune`` names directories below which everything goes that is neither listed nor in ``keep``.
    Raises TreeError with every path that is in the way.
    """
    problems: list[dict] = []
    changes: list[Change] = []
    for item in directories:
        path = item["path"]
        if os.path.islink(path) or (os.path.lexists(path) and not os.path.isdir(path)):
            problems.append(
                {
                    "where": path,
                    "what": "a directory must be here, but something else is",
                    "fix": f"look at it and move it away: ls -ld {path}",
                }
            )
        elif not os.path.lexists(path):
            changes.append(Change(path, "create"))
        elif _attributes_differ(os.stat(path), item):
            changes.append(Change(path, "attributes"))
    for item in files:
        path = item["path"]
        if os.path.isdir(path) and not os.path.islink(path):
            problems.append(
                {
                    "where": path,
                    "what": "a file must be here, but a directory is",
                    "fix": f"look at it and move it away: ls -ld {path}",
                }
            )
        elif not os.path.lexists(path):
            changes.append(Change(path, "create", after=_shown(item["content"])))
        elif os.path.islink(path) or _read(path) != item["content"]:
            before = "" if os.path.islink(path) else _shown(_read(path))
            changes.append(Change(path, "update", before=before, after=_shown(item["content"])))
        elif _attributes_differ(os.stat(path), item):
            changes.append(Change(path, "attributes"))
    wanted = {item["path"] for item in files + directories} | set(keep)
    for root in prune:
        if os.path.isdir(root):
            changes += [Change(path, "remove") for path in _listed_below(root, wanted)]
    if problems:
        raise TreeError(problems)
    return changes


def _write(item: dict) -> None:
    try:
        write_atomic(item["path"], item["content"], _mode(item["mode"]), (item["owner"], item["group"]))
    except OSError as error:  # a full disk does not say which one
        raise OSError(error.errno, error.strerror or str(error), item["path"]) from error


def _make_directory(item: dict) -> None:
    os.makedirs(item["path"], exist_ok=True)
    os.chown(item["path"], item["owner"], item["group"])
    os.chmod(item["path"], _mode(item["mode"]))


def land(files: list[dict], directories: list[dict], changes: list[Change]) -> None:
    """Make the changes of ``plan``: directories first, then files, then removals."""
    wanted_directories = {item["path"]: item for item in directories}
    wanted_files = {item["path"]: item for item in files}
    for change in changes:
        if change.path in wanted_directories:
            _make_directory(wanted_directories[change.path])
    for change in changes:
        item = wanted_files.get(change.path)
        if item is None:
            continue
        if change.action == "attributes":
            os.chown(item["path"], item["owner"], item["group"])
            os.chmod(item["path"], _mode(item["mode"]))
        else:
            _write(item)
    for change in changes:
        if change.action == "remove" and os.path.lexists(change.path):
            if os.path.isdir(change.path) and not os.path.islink(change.path):
                os.rmdir(change.path)
            else:
                os.unlink(change.path)


class Stage:
    """A private copy of the files below ``tree``, for a validator to look at before anything lands."""

    def __init__(self, tree: str, files: list[dict], directories: list[dict], parent: str):
        self.tree = tree
        self.files = [item for item in files if item["path"].startswith(tree + "/")]
        self.directories = [item for item in directories if item["path"] == tree or item["path"].startswith(tree + "/")]
        self.parent = parent
        self.path = ""

    def __enter__(self) -> str:
        os.makedirs(self.parent, exist_ok=True)
        for left in glob.glob(os.path.join(self.parent, STAGE_PREFIX + "*")):  # of a run that was killed
            shutil.rmtree(left)
        self.path = tempfile.mkdtemp(prefix=STAGE_PREFIX, dir=self.parent)
        for item in sorted(self.directories, key=lambda entry: entry["path"]):
            _make_directory({**item, "path": self._moved(item["path"])})
        for item in self.files:
            os.makedirs(os.path.dirname(self._moved(item["path"])), exist_ok=True)
            _write({**item, "path": self._moved(item["path"])})
        return self.path

    def _moved(self, path: str) -> str:
        return self.path + path[len(self.tree) :]

    def __exit__(self, *exc: object) -> None:
        shutil.rmtree(self.path)


def diff_of(changes: list[Change]) -> list[dict]:
    """Ansible's diff entries for the changes."""
    entries = []
    for change in changes:
        if change.action in ("create", "update") and (change.before or change.after):
            entries.append(
                {
                    "before_header": change.path,
                    "after_header": change.path,
                    "before": change.before,
                    "after": change.after,
                }
            )
        else:
            words = {
                "create": ("absent\n", "directory\n"),
                "attributes": ("owner or mode differ\n", "owner and mode as wanted\n"),
            }
            before, after = words.get(change.action, ("present\n", "absent\n"))
            entries.append(
                {"before_header": change.path, "after_header": change.path, "before": before, "after": after}
            )
    return entries
