# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the checks of nginx share: what the operator declared, one run, and how values are read and shown.

PRIVATE: internal to the collection, may change in any release. Standard library only.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import Files
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_model import Location, Model, Server
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_parse import Directive, Tree, translate
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_values import Values

#: Findings of one check that are listed; who has more fixes those first.
MOST = 500
REASONS = 20


@dataclass(frozen=True)
class Policy:
    """What only the operator knows.

    prefix: directory of relative paths (that of the main file without it). mounts: {path nginx sees: path where it lies}.
    ports: ports that are meant to be listened on; None when nobody said.
    protected: paths that need authentication, "/admin/"; with "~" in front a pattern for the names of locations.
    private: paths that only the inside may reach.
    streaming: paths whose answers may take long; None when nobody said, then nobody's waiting is judged.
    server_names: names the certificates must hold beyond those of server_name.
    max_body: largest request body in bytes.
    tls_elsewhere: another proxy in front ends TLS. behind_proxy: another proxy in front tells the client's address.
    run_as_user: name of the account the master process runs as, "root" when it is root; None when nobody said.
    owners: numeric ids that may own configuration and keys. modes: whether owners and modes of the files are real.
    """

    prefix: str = ""
    mounts: dict[str, str] = field(default_factory=dict)
    ports: tuple[int, ...] | None = None
    protected: tuple[str, ...] = ()
    private: tuple[str, ...] = ()
    streaming: tuple[str, ...] | None = None
    server_names: tuple[str, ...] = ()
    max_body: int = 100 << 20
    tls_elsewhere: bool = False
    behind_proxy: bool = False
    run_as_user: str | None = None
    owners: tuple[int, ...] = (0,)
    modes: bool = True
    production: bool = False
    tls_profile: str = "intermediate"
    private_ca: bool = False
    nginx_version: str | None = None
    openssl_version: str | None = None
    now: datetime.datetime | None = None


def policy_of(options: Mapping) -> Policy:
    """A policy out of plain data, where a list stands for a tuple."""
    return Policy(**{name: tuple(value) if isinstance(value, list) else value for name, value in options.items()})


@dataclass
class Run:
    """One audit."""

    audit: Audit
    files: Files
    policy: Policy
    tree: Tree
    model: Model
    values: Values
    found: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, set[str]] = field(default_factory=dict)
    at_servers: int = 0

    @property
    def version(self) -> tuple[int, ...] | None:
        return numbers(self.policy.nginx_version)

    @property
    def openssl(self) -> tuple[int, ...] | None:
        return numbers(self.policy.openssl_version)

    def find(self, check: str, at: Directive | Server | Location, evidence: str, **changes) -> None:
        """A finding at a directive, a server or a location."""
        self.found[check] = self.found.get(check, 0) + 1
        self.at_servers += not isinstance(at, Directive)
        if self.found[check] > MOST:
            return
        directive = at if isinstance(at, Directive) else at.block
        subject = self.model.label(directive) if isinstance(at, Directive) else at.label
        where = directive.where if directive.line else directive.file
        self.audit.find(check, subject, where, evidence, **changes)

    def full(self, check: str) -> bool:
        """Whether more findings of a check would not be listed any more."""
        return self.found.get(check, 0) > MOST

    def finish(self) -> None:
        """Say of each check that found too much how much was left out."""
        for check, number in self.found.items():
            if number > MOST:
                self.audit.find(check, self.tree.path, self.tree.path, f"{number - MOST} more of these are not listed")

    def lies(self, path: str) -> str:
        """Where a path of the configuration lies for us; relative ones belong to the directory of the main file."""
        if not path.startswith("/"):
            path = f"{self.tree.prefix}/{path}"
        mounts = sorted(self.policy.mounts.items(), key=lambda pair: -len(pair[0]))
        return translate(path, [(seen.rstrip("/") or "/", lies.rstrip("/") or "/") for seen, lies in mounts])

    def outside(self) -> list[Server]:
        """The servers that somebody on another machine can reach."""
        return self._outside

    @cached_property
    def _outside(self) -> list[Server]:
        return [server for server in self.model.servers if server.outside]

    def unknown(self, check: str, reason: str) -> None:
        """A check that could not be decided; of many reasons the first ones are told."""
        told = self.reasons.setdefault(check, set())
        if len(told) < REASONS and reason not in told:
            told.add(reason)
            self.audit.unknown(check, reason)


def numbers(version: str | None) -> tuple[int, ...] | None:
    """(1, 26, 3) of "1.26.3" or of "nginx/1.26.3 (Debian)"."""
    found = re.search(r"[0-9]+(?:\.[0-9]+)+", version or "")
    return tuple(int(part) for part in found[0].split(".")) if found else None


_TIME = {"y": 31536000, "M": 2592000, "w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1, "ms": 0.001, "": 1}
_SIZE = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def seconds(text: str) -> float | None:
    """ "1m30s" as nginx reads it; None for what is no time."""
    found = re.findall(r"([0-9]{1,12})(ms|[yMwdhms]?)", text)
    if not found or "".join(number + unit for number, unit in found) != text.replace(" ", ""):
        return None
    return sum(int(number) * _TIME[unit] for number, unit in found)


def size(text: str) -> int | None:
    """ "8k" in bytes; None for what is no size."""
    match = re.fullmatch(r"([0-9]{1,15})([kmgKMG]?)", text)
    return int(match[1]) * _SIZE[match[2].lower()] if match else None


_SECRET = re.compile(r"auth|token|secret|passw|passphrase|api.?key|cookie|credential|signature|bearer", re.IGNORECASE)
_VARIABLES_ONLY = re.compile(r"(?:\$\{?\w+\}?)+\Z")


def show(directive: Directive, limit: int = 120) -> str:
    """A directive as evidence, on one line. What may be a secret is not shown."""
    args = list(directive.args)
    if any(_SECRET.search(word) for word in (directive.name, *args[:1])):
        args = [*args[:1], *("…" if not _VARIABLES_ONLY.match(word) and len(word) > 3 else word for word in args[1:])]
    text = " ".join([directive.name, *(word if word else '""' for word in args)])
    return text if len(text) <= limit else text[: limit - 1] + "…"
