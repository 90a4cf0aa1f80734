# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judges a Dockerfile: its bases (IMG-01, IMG-02), IMG-04, IMG-05 and IMG-07, and the secrets that it writes down (SEC-15).

PRIVATE: internal to the collection, may change in any release. Standard library only.

User and health check are those of the last stage, inherited ones included. What an image of somebody else brings along is
not known from here: without a USER it is root unless its name says otherwise.
"""

from __future__ import annotations

import re

from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import Files, Unreadable
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_image import piped_download, written_secrets
from ansible_collections.mcpstack.platform.plugins.module_utils._checks_image import TABLE as _IMAGE
from ansible_collections.mcpstack.platform.plugins.module_utils._checks_secret import TABLE as _SECRET
from ansible_collections.mcpstack.platform.plugins.module_utils._compose_images import judge_image
from ansible_collections.mcpstack.platform.plugins.module_utils._container_images import NOT_ROOT
from ansible_collections.mcpstack.platform.plugins.module_utils._dockerfile import (
    DockerfileError,
    Instruction,
    Stage,
    expand,
    parse,
    values,
)

CHECKS = ("IMG-01", "IMG-02", "IMG-04", "IMG-05", "IMG-07", "SEC-15")
TABLE = {check_id: {**_IMAGE, **_SECRET}[check_id] for check_id in CHECKS}
LIMIT = 1 << 20

_ARCHIVE = re.compile(r"\.(?:tar|tar\.(?:gz|bz2|xz|zst|lz|lzma)|tgz|tbz2?|txz|gz|bz2|xz)[\"']?$", re.IGNORECASE)
_REMOTE = re.compile(r"(?:https?|ftp|git|ssh)://|git@", re.IGNORECASE)
#: Where one command of a shell ends and the next begins.
_COMMANDS = re.compile(r"&&|\|\||[;\n|]|\bthen\b|\bdo\b|\belse\b")
#: Options of package managers that take the next word along.
_TAKES = frozenset("-t --target-release -o --option -c --config-file --virtual -X --repository -p --root -r --requirement -i".split())  # fmt: skip
#: Program -> words with which it installs.
_VERBS = {
    **dict.fromkeys(("apt-get", "apt", "pip", "pip3", "yum", "dnf", "microdnf", "gem"), ("install",)),
    "apk": ("add",), "npm": ("install", "i", "add"), "zypper": ("install", "in"), "go": ("install",),
}  # fmt: skip
#: Program -> what the name of a package with its version looks like; the others are told apart where they are judged.
_RPM = re.compile(r"-\d[\w.:~+^]*(?:-\d[\w.~+^]*)?$|/|^@")
_PINNED = {
    "yum": _RPM, "dnf": _RPM, "microdnf": _RPM, "zypper": re.compile(r"[=<>]|\.rpm$"), "gem": re.compile(r":\d"),
    "npm": re.compile(r".@(?!latest$|next$)|[:#]"), "go": re.compile(r"@(?!latest$)"),
}  # fmt: skip


def _shells(instruction: Instruction) -> str:
    """What a RUN hands to a shell."""
    words = instruction.words()
    text = " ".join(words) if instruction.text.startswith("[") else instruction.text
    return "\n".join([text, *instruction.heredocs])


def _removes_lists(command: str) -> bool:
    words = command.split()
    return (
        bool(words)
        and words[0].rpartition("/")[2] == "rm"
        and any(word.strip("\"'").startswith(("/var/lib/apt/lists", "/var/lib/apt/*")) for word in words[1:])
    )


def _arguments(words: list[str]) -> list[str]:
    """What is installed: words that are neither options nor taken by one."""
    found, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word in _TAKES:
            skip = True
        elif not word.startswith("-") and not word.startswith((">", "<", "2>")):
            found.append(word.strip("\"'"))
    return found


def _unpinned(command: str) -> list[str]:
    """Packages that a command installs without saying which version."""
    words = [word for word in command.split() if not re.match(r"[A-Za-z_][A-Za-z0-9_]*=", word)]
    while words and words[0].rpartition("/")[2] in ("sudo", "env", "exec", "command", "time"):
        words = words[1:]
    if len(words) < 2:
        return []
    program, rest = words[0].rpartition("/")[2], words[1:]
    if program in ("python", "python3") and rest[:2] == ["-m", "pip"]:
        program, rest = "pip", rest[2:]
    verb = next((word for word in rest if word in _VERBS.get(program, ())), None)
    if verb is None:
        return []
    named = _arguments(rest[rest.index(verb) + 1 :])
    local = ("./", "/", "../", "$", ".")
    if program in _PINNED:
        if program == "gem" and {"-v", "--version"} & {word.partition("=")[0] for word in rest}:
            return []
        return [
            name
            for name in named
            if not _PINNED[program].search(name)
            and not name.startswith(local)
            and not name.endswith((".rpm", ".tgz", ".gem"))
        ]
    if program in ("pip", "pip3"):
        if "-r" in rest or "--requirement" in rest or any(word.startswith("--requirement=") for word in rest):
            named = []
        return [
            name
            for name in named
            if "==" not in name and "@" not in name and not name.startswith(local) and not name.endswith(".whl")
        ]
    return [
        name
        for name in named
        if not re.search(r"[=~<>/]", name) and not name.startswith(local) and not name.endswith((".deb", ".apk"))
    ]


class _Judge:
    def __init__(self, audit: Audit, path: str, stages: list[Stage]):
        self.audit, self.path, self.stages = audit, path, stages
        self.final = stages[-1]

    def find(self, check_id: str, line: int, evidence: str, **more) -> None:
        self.audit.find(check_id, self.path.rpartition("/")[2], f"{self.path}:{line}", evidence, **more)

    def all(self) -> None:
        self.audit.decide(*CHECKS)
        self.bases()
        self.user()
        self.health()
        chain = self.final.chain()
        for stage in self.stages:
            known = values(stage)
            for instruction in stage.instructions:
                if instruction.word == "ADD":
                    self.add(instruction)
                elif instruction.word == "RUN":
                    self.run(instruction, stage in chain)
                if instruction.word in ("ENV", "ARG", "LABEL", "RUN") and (stage in chain or instruction.word == "ARG"):
                    for name in written_secrets(
                        expand(instruction.text, known) if instruction.word != "RUN" else _shells(instruction)
                    ):
                        self.find("SEC-15", instruction.line, f"{instruction.word} writes down {name}")

    def bases(self) -> None:
        """Images of others that the build starts from or copies out of; stages of this file are none."""
        names = {stage.name.lower() for stage in self.stages if stage.name}
        for stage in self.stages:
            if stage.parent is None:
                self.base(stage.base, stage.line)
            for instruction in stage.instructions:
                for flag in instruction.flags if instruction.word == "COPY" else ():
                    source = flag.partition("=")[2] if flag.startswith("--from=") else ""
                    if source and not source.isdecimal() and source.lower() not in names:
                        self.base(expand(source, values(stage)), instruction.line)

    def base(self, reference: str, line: int) -> None:
        if "$" in reference:
            for check_id in ("IMG-01", "IMG-02"):
                self.audit.unknown(check_id, f"{self.path}:{line}: {reference} cannot be resolved")
        elif reference != "scratch":
            judge_image(self.audit, self.path.rpartition("/")[2], f"{self.path}:{line}", reference, False, ())

    def user(self) -> None:
        instruction, base = self.final.last("USER"), self.final.chain()[-1].base
        if instruction is None:
            name = re.sub(r"[@:].*", "", base.split("/", 1)[1] if re.match(r"docker\.io/", base) else base)
            if "/" not in name:
                name = f"library/{name}"
            if "$" in base:
                self.audit.unknown("IMG-04", f"{self.path}: there is no USER, and {base} cannot be resolved")
            elif (
                not re.search(r"(?:^|[:./_-])(?:nonroot|non-root|rootless|unprivileged)(?:$|[:@._-])", base)
                and name not in NOT_ROOT
            ):
                self.find("IMG-04", self.final.line, f"no USER in the last stage, from {base}")
            return
        user = expand(instruction.text.strip(), values(self.final))
        name = user.partition(":")[0].strip("\"'")
        if "$" in name:
            self.audit.unknown("IMG-04", f"{self.path}: USER {user} cannot be resolved")
        elif name in ("", "root") or re.fullmatch(r"[+-]?0+", name):
            self.find("IMG-04", instruction.line, f"USER {user}")

    def health(self) -> None:
        instruction = self.final.last("HEALTHCHECK")
        if instruction is None:
            self.find("IMG-05", self.final.line, "no HEALTHCHECK in the last stage")
        elif instruction.text.upper() == "NONE":
            self.find("IMG-05", instruction.line, "HEALTHCHECK NONE")

    def add(self, instruction: Instruction) -> None:
        for source in instruction.words()[:-1]:
            if source.startswith("<<"):
                continue
            if _REMOTE.match(source):
                if not any(flag.startswith("--checksum=") for flag in instruction.flags):
                    self.find("IMG-07", instruction.line, "ADD fetches from the network without --checksum")
            elif not _ARCHIVE.search(source) and "$" not in source:
                self.find("IMG-07", instruction.line, f"ADD {source}: COPY does the same and nothing more")

    def run(self, instruction: Instruction, kept: bool) -> None:
        text = _shells(instruction)
        if piped_download(text):
            self.find("IMG-07", instruction.line, "a download is piped into an interpreter")
        commands = [command.strip().lstrip("({! ") for command in _COMMANDS.split(text)]
        if any(re.match(r"(?:/usr/bin/)?sudo\s", command) for command in commands):
            self.find("IMG-07", instruction.line, "sudo in a build step")
        loose = [name for command in commands for name in _unpinned(command)]
        if loose:
            shown = ", ".join(loose[:6]) + (" and more" if len(loose) > 6 else "")
            self.find("IMG-07", instruction.line, f"installed without a version: {shown}")
        commands = [
            re.sub(r"^(?:[A-Za-z_][A-Za-z0-9_]*=\S*\s+|sudo\s+(?:-\S+\s+)*)+", "", command) for command in commands
        ]
        updates = [re.match(r"(?:\S*/)?apt(?:-get)?\s+(?:-\S+\s+)*update\b", command) for command in commands]
        installs = any(
            re.match(r"(?:\S*/)?apt(?:-get)?\s+(?:-\S+\s+)*(?:install|upgrade|dist-upgrade)\b", command)
            for command in commands
        )
        mounted = r"type=cache.*target=/var/lib/apt|target=/var/lib/apt.*type=cache|type=tmpfs.*target=/var/lib/apt"
        cached = any(re.search(mounted, flag) for flag in instruction.flags)
        if any(updates) and not installs:
            self.find(
                "IMG-07", instruction.line, "apt-get update in a step of its own: a later install may use an old list"
            )
        elif any(updates) and kept and not cached and not any(map(_removes_lists, commands)):
            self.find("IMG-07", instruction.line, "package lists stay in the layer")


def audit_dockerfile(audit: Audit, path: str, files: Files) -> None:
    """Judge one file; ``audit`` has ``TABLE``. A file that cannot be read leaves them unknown."""
    try:
        stages = parse(files.text(path, LIMIT))
    except (Unreadable, DockerfileError) as error:
        for check_id in CHECKS:
            audit.unknown(check_id, str(error) if isinstance(error, Unreadable) else f"{path}: {error}")
        return
    _Judge(audit, path, stages).all()
