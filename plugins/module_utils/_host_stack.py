# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of the stack on its host: who may change and who may read them (HST-13).

PRIVATE: internal to the collection, may change in any release. Standard library only.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator

from ansible_collections.mcpstack.platform.plugins.module_utils import _unit_files
from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import Files, Stat
from ansible_collections.mcpstack.platform.plugins.module_utils._host_policy import HostPolicy

SUBJECT = "host"
LIMIT = 20000
_EXEC = ("ExecStart", "ExecStartPre", "ExecStartPost", "ExecReload", "ExecStop", "ExecStopPost", "ExecCondition")

#: Programs whose first path is the script that they run.
_INTERPRETER = re.compile(r"(python|perl|ruby|node)[0-9.]*|(ba|da|z)?sh|env")


def walk(files: Files, root: str, limit: int) -> Iterator[tuple[str, Stat | None]]:
    """Every path of a tree, links not followed. After ``limit`` entries (root, None) ends it."""
    info = files.stat(root, follow=False)
    if info is None:
        return
    waiting, count = [(root, info)], 0
    while waiting:
        path, info = waiting.pop()
        yield path, info
        if info.kind != "directory":
            continue
        for name in reversed(files.names(path)):
            count += 1
            if count > limit:
                yield root, None
                return
            inner = files.stat(f"{path}/{name}", follow=False)
            if inner is not None:
                waiting.append((f"{path}/{name}", inner))


def _below(path: str, roots: tuple[str, ...]) -> str:
    return next((root for root in roots if path == root or path.startswith(root.rstrip("/") + "/")), "")


def _mode(info: Stat) -> str:
    return f"mode {info.mode:04o}, owner {info.uid}:{info.gid}"


def _secret(audit: Audit, path: str, info: Stat, root: str, policy: HostPolicy) -> None:
    # the top may be passed through, so that each service reaches its own directory and none can list the others
    allowed = 0o711 if path == root else 0o700 if info.kind == "directory" else 0o600
    if info.mode & ~allowed & 0o7777:
        audit.find("HST-13", SUBJECT, path, f"secrets: {_mode(info)}; allowed {allowed:04o}")
    elif info.uid != 0 and (path == root or info.uid not in policy.service_uids):
        audit.find("HST-13", SUBJECT, path, f"secrets: {_mode(info)}; owner is neither root nor a service")


def _plain(audit: Audit, path: str, info: Stat, policy: HostPolicy) -> None:
    if info.mode & 0o022:
        audit.find("HST-13", SUBJECT, path, f"{_mode(info)}; writable for others than the owner")
    elif info.uid != 0 and (path.startswith("/etc/") or info.uid not in policy.service_uids):
        audit.find("HST-13", SUBJECT, path, f"{_mode(info)}; owner is not root")


def _program(audit: Audit, files: Files, path: str, where: str, execute: bool) -> bool:
    """Judge a program that a unit starts, or a script that it hands to one; whether anything was there to judge."""
    info = files.stat(path)
    if info is None:
        if execute and files.knows(path):
            audit.find("HST-13", SUBJECT, where, f"{path} does not exist", severity="medium")
        return execute and files.knows(path)
    if info.kind != "file":
        return False
    if info.uid != 0 or info.mode & 0o022:
        audit.find("HST-13", SUBJECT, path, f"{_mode(info)}; started as root by {where}")
    elif execute and not info.mode & 0o100:
        audit.find("HST-13", SUBJECT, path, f"{_mode(info)}; not executable, started by {where}", severity="medium")
    folder = posixpath.dirname(path)
    above = files.stat(folder)
    if above is not None and (above.uid != 0 or above.mode & 0o022):
        audit.find("HST-13", SUBJECT, folder, f"{_mode(above)}; holds what {where} starts as root")
    return True


def _units(audit: Audit, files: Files, policy: HostPolicy) -> bool:
    names = set()
    for folder in _unit_files.directories(files):
        for name in files.names(folder):
            if name.endswith(".service") and name.startswith(policy.unit_prefixes):
                names.add(name)
    seen = False
    for name in sorted(names):
        unit = _unit_files.load(files, name)
        if unit is None:
            continue
        for path in unit.files:
            info = files.stat(path)
            if info is None or info.kind == "other":
                continue
            seen = True
            if info.uid != 0 or info.mode & 0o022:
                audit.find("HST-13", SUBJECT, path, f"{_mode(info)}; a unit of the stack")
        for item in unit.of("Service", *_EXEC):
            line = _unit_files.words(item.value)
            program = line[0].lstrip("-@:+!|") if line else ""
            if program.startswith("/"):
                seen |= _program(audit, files, posixpath.normpath(program), item.where, True)
            if _INTERPRETER.fullmatch(posixpath.basename(program)):
                script = next((word for word in line[1:] if word.startswith("/")), "")
                if script:
                    seen |= _program(audit, files, posixpath.normpath(script), item.where, False)
    return seen


def audit_stack(audit: Audit, files: Files, policy: HostPolicy) -> None:
    """HST-13."""
    seen, known = False, True
    done: set[str] = set()
    for root in dict.fromkeys((*policy.stack_roots, *policy.secret_roots)):
        known &= files.knows(root)
        for path, info in walk(files, posixpath.normpath(root), LIMIT):
            if info is None:
                audit.unknown("HST-13", f"{path} holds more than {LIMIT} entries")
                continue
            if path in done or info.kind == "link":
                continue
            done.add(path)
            seen = True
            secret = _below(path, policy.secret_roots)
            if secret:
                _secret(audit, path, info, posixpath.normpath(secret), policy)
            else:
                _plain(audit, path, info, policy)
    seen |= _units(audit, files, policy)
    if not known:
        audit.unknown("HST-13", "not all trees of the stack are among the files at hand")
    if seen:
        audit.decide("HST-13")
    elif known:
        audit.not_applicable("HST-13", "none of the stack's trees and units exists")
