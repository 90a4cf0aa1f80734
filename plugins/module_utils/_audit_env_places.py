# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where files with secrets lie and who can reach them: modes, owners, version control, build contexts, copies.

PRIVATE: internal to the collection, may change in any release. Standard library only.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Mapping

from ansible_collections.mcpstack.platform.plugins.module_utils import _git_index as git
from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import Files, Stat, Unreadable

#: Tracked files that are looked into, and neighbours of a secret that are searched for copies.
CANDIDATES, NEIGHBOURS, COPY_SIZE = 200, 200, 4 << 20

TEMPLATE = re.compile(r"(?:\.|-|_)(?:example|sample|template|dist|tmpl|tpl|defaults?|j2)(?:\.[a-z]+)?\Z", re.IGNORECASE)
_ENV_NAME = re.compile(r"(?:\.env(?:\.[\w.-]+)?|[\w.-]+\.env|\.envrc)\Z")
_KEY_NAME = re.compile(r"(?:.*\.(?:pem|key|p12|pfx|jks|ppk)|id_(?:rsa|dsa|ecdsa|ed25519)(?:_\w+)?)\Z", re.IGNORECASE)
_PRIVATE_KEY = re.compile(rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----\s+[A-Za-z0-9+/=:-]")
_BACKUP = re.compile(
    r"(?:\.(?:bak|backup|old|orig|save|saved|copy|prev|previous|tmp|swp|swo|rpmsave|dpkg-old|dpkg-dist|ucf-old|\d{6,14}|\d)|~"
    r"|[._-](?:bak|backup|old|orig|copy|\d{4}-?\d{2}-?\d{2}[\w:-]*))\Z",
    re.IGNORECASE,
)
_LOOKED_INTO = re.compile(
    r"\.(?:log|out|err|sql|dump|txt|bak|history|trace)(?:\.\d+)?\Z|(?:^|/)(?:nohup\.out|\..*_history)\Z", re.IGNORECASE
)


def ancestors(path: str) -> list[str]:
    """The directories above a path, nearest first."""
    found = []
    while path not in ("/", ""):
        path = posixpath.dirname(path)
        found.append(path or "/")
    return found


def rights(info: Stat) -> str:
    """Mode and owner, as a person reads them."""
    return f"mode {info.mode:04o}, owner {info.uid}:{info.gid}"


# -- SEC-07 and SEC-09 ------------------------------------------------------------------------------------------------


def modes(audit: Audit, files: Files, path: str, readers: Iterable[int], secret: bool) -> None:
    """SEC-07 for one file. ``readers``: uids that are known to read it. A file without a secret may be read, not written."""
    info = files.stat(path)
    if info is None:
        return
    link = files.stat(path, follow=False)
    subject = path
    wrong = info.mode & (0o077 if secret else 0o022)
    if wrong:
        names = [
            f"{who} may {what}"
            for shift, who in ((3, "the group"), (0, "everybody"))
            for bit, what in ((4, "read"), (2, "write"), (1, "execute"))
            if wrong >> shift & bit
        ]
        audit.find("SEC-07", subject, path, f"{rights(info)}: {', '.join(names)}")
    parent = files.stat(posixpath.dirname(path))
    owners = {0, *readers}
    if parent:
        owners.add(parent.uid)
    if info.uid not in owners:
        audit.find("SEC-07", subject, path, f"{rights(info)}: neither root nor the user that reads it")
    trusted = {0, info.uid, *readers} | ({link.uid} if link else set())
    for directory in ancestors(path):
        above = files.stat(directory)
        if above is None or above.kind != "directory":
            continue
        sticky = above.mode & 0o1000
        if above.mode & 0o002 and not sticky:
            audit.find("SEC-07", directory, directory, f"{rights(above)}: everybody can replace what lies in it")
        elif above.mode & 0o020 and not sticky and above.gid != 0 and above.gid != above.uid:
            audit.find("SEC-07", directory, directory, f"{rights(above)}: the group can replace what lies in it")
        if above.uid not in trusted:
            audit.find(
                "SEC-07", directory, directory, f"{rights(above)}: its owner can replace what lies in it", severity="medium"
            )  # fmt: skip


def consumer_of(path: str, consumers: Mapping[str, int]) -> int | None:
    """The uid that is meant to read a file: of the file itself, or of the nearest directory that is named."""
    for place in (path, *ancestors(path)):
        if place in consumers:
            return consumers[place]
    return None


def consumer(audit: Audit, files: Files, path: str, uid: int, root: str) -> None:
    """SEC-09 for one file: ``uid`` can read it and nobody else. ``root``: the directory that no container mounts as a whole."""
    info = files.stat(path)
    if info is None:
        return
    if info.uid != uid:
        audit.find("SEC-09", path, path, f"{rights(info)}; its consumer runs as {uid}")
    elif not info.mode & 0o400:
        audit.find("SEC-09", path, path, f"{rights(info)}: its owner, the consumer, may not read it")
    for directory in ancestors(path):
        if directory == root or not directory.startswith(root.rstrip("/") + "/"):
            break
        above = files.stat(directory)
        bit = 0o100 if above and above.uid == uid else 0o001
        if above and uid != 0 and not above.mode & bit:
            audit.find("SEC-09", directory, directory, f"{rights(above)}: {uid} cannot reach the secrets in it")


# -- SEC-08 -----------------------------------------------------------------------------------------------------------


def version_control(
    audit: Audit, files: Files, secrets: Iterable[str], root: str | None, leaks: Callable[[str], bool]
) -> None:
    """SEC-08: the files with secrets, and files in the index that look like one. ``leaks(path)``: holds a secret."""
    trees: dict[str, str] = {}
    holders: dict[str, list[str]] = {}
    secrets = sorted(set(secrets))
    try:
        places = [posixpath.join(root, "x")] if root else []
        for path in [*places, *secrets]:
            top, directory = git.work_tree(files, path)
            if top and directory:
                trees[top] = directory
                holders.setdefault(top, []).extend([path] if path in secrets else [])
        for top, directory in sorted(trees.items()):
            _one_tree(audit, files, top, directory, holders.get(top, []), leaks)
    except Unreadable as error:
        audit.unknown("SEC-08", str(error))


def _one_tree(
    audit: Audit, files: Files, top: str, directory: str, secrets: list[str], leaks: Callable[[str], bool]
) -> None:
    index = git.tracked(files, directory)
    names = {posixpath.join(top, name) for name in index}
    for path in secrets:
        if path in names:
            audit.find("SEC-08", top, path, "holds a secret and is in the index of git")
        elif not git.ignored_by_git(files, top, directory, path):
            audit.find("SEC-08", top, path, "holds a secret and no ignore file leaves it out", severity="high")
    looked = 0
    for path in sorted(names - set(secrets)):
        base = posixpath.basename(path)
        env, key = _ENV_NAME.match(base) and not TEMPLATE.search(base), _KEY_NAME.match(base)
        if not env and not key:
            continue
        looked += 1
        if looked > CANDIDATES:
            audit.unknown("SEC-08", f"only the first {CANDIDATES} files in the index of {top} were looked into")
            break
        try:
            if key and _PRIVATE_KEY.search(files.read(path)):
                audit.find("SEC-08", top, path, "a private key, and it is in the index of git")
            elif env and leaks(path):
                audit.find("SEC-08", top, path, "holds a secret and is in the index of git")
        except Unreadable:
            continue  # in the index and not in the work tree, or nothing that could be a secret


def build_contexts(audit: Audit, files: Files, secrets: Iterable[str], tops: Iterable[str]) -> None:
    """SEC-08: a directory with a Dockerfile at or above a secret, below one of ``tops``."""
    tops = [posixpath.normpath(top) for top in tops]
    for path in sorted(set(secrets)):
        above = ancestors(path)
        known = [directory for directory in above if directory in tops]
        limit = above.index(known[-1]) if known else 0
        for directory in above[: limit + 1]:
            recipe = next(
                (name for name in files.names(directory) if re.fullmatch(r"(?:.*\.)?(?:Docker|Container)file(?:\..*)?", name)
                 and not name.endswith(".dockerignore")), None,
            )  # fmt: skip
            if not recipe:
                continue
            try:
                text = files.text(posixpath.join(directory, recipe))
                ignore = next(
                    (
                        posixpath.join(directory, name)
                        for name in (f"{recipe}.dockerignore", ".dockerignore", ".containerignore")
                        if files.stat(posixpath.join(directory, name))
                    ),
                    None,
                )
                relative = posixpath.relpath(path, directory)
                if ignore and git.ignored_by_docker(files.text(ignore), relative):
                    continue
            except Unreadable as error:
                audit.unknown("SEC-08", str(error))
                continue
            copies = re.search(
                r"^\s*(?:COPY|ADD)\s+(?!.*--from)(?:--\S+\s+)*(?:\[\s*\")?(?:\./?|/|\*)(?:\"\s*,|\s)",
                text,
                re.MULTILINE | re.IGNORECASE,
            )
            named = re.search(rf"^\s*(?:COPY|ADD)\s.*{re.escape(posixpath.basename(path))}", text, re.MULTILINE)
            what = "and the recipe copies it into the image" if copies or named else "that no .dockerignore narrows"
            audit.find(
                "SEC-08", posixpath.join(directory, recipe), path, f"lies in the build context {directory}, {what}",
                severity="critical" if copies or named else "high",
            )  # fmt: skip


# -- SEC-15 -----------------------------------------------------------------------------------------------------------


def copies(audit: Audit, files: Files, secrets: Iterable[str], values: Iterable[bytes], logs: Iterable[str]) -> None:
    """SEC-15: backups beside files with secrets, and logs or dumps that hold one of the values, that others can read."""
    needles = sorted({value for value in values if len(value) >= 8})
    wanted = sorted(set(secrets))
    directories = sorted({posixpath.dirname(path) for path in wanted})
    names = {
        directory: [posixpath.basename(path) for path in wanted if posixpath.dirname(path) == directory]
        for directory in directories
    }
    for directory in directories:
        for name in files.names(directory)[: NEIGHBOURS * 10]:
            path = posixpath.join(directory, name)
            if path not in wanted and _copy_of(name, names[directory]):
                info = files.stat(path)
                if info and info.kind == "file" and info.size and info.mode & 0o077:
                    audit.find("SEC-15", path, path, f"a copy of a file with secrets, {rights(info)}")
    budget = NEIGHBOURS
    for place in (*directories, *sorted(set(logs))):
        info = files.stat(place)
        listed = (
            [posixpath.join(place, name) for name in files.names(place)]
            if info and info.kind == "directory"
            else [place]
        )
        for path in listed:
            if path in wanted or (path != place and not _LOOKED_INTO.search(path)):
                continue
            info = files.stat(path)
            if not info or info.kind != "file" or not info.mode & 0o077:
                continue
            budget -= 1
            if budget < 0:
                audit.unknown("SEC-15", f"only {NEIGHBOURS} logs and dumps were searched for secrets")
                return
            try:
                data = files.read(path, COPY_SIZE)
            except Unreadable as error:
                audit.unknown("SEC-15", str(error))
                continue
            if any(needle in data for needle in needles):
                audit.find("SEC-15", path, path, f"holds the value of a secret, {rights(info)}")


def _copy_of(name: str, originals: list[str]) -> bool:
    stem = name.lstrip(".#").rstrip("#")
    for original in originals:
        plain = original.lstrip(".")
        if name != original and stem.startswith(plain) and _BACKUP.search(name):
            return True
        if name in (f"#{original}#", f".#{original}", f".{original}.swp", f"{original}~"):
            return True
        if plain == "env" and re.fullmatch(r"\.?env[._-](?:bak|backup|old|orig|save|copy)\w*", name):
            return True
    return False
