# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules about the name of an image in a compose file: pinned, not floating, from an allowed registry.

PRIVATE: internal to the collection, may change in any release. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit

_DIGEST = re.compile(r"^[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[0-9a-fA-F]{32,}$")
#: A tag made of the image's own content: it has letters and digits of a hash, and no other.
_CONTENT_TAG = re.compile(r"^(?:sha256-)?[0-9a-f]{12,64}$")
_VERSION = re.compile(r"^v?(\d+)((?:\.\d+)*)(?:[-_+.].*)?$")
_DATE = re.compile(r"(?:^|[^0-9])20\d\d[-.]?[01]\d[-.]?[0-3]\d(?:[^0-9]|$)")
#: Projects whose releases have two numbers.
TWO_NUMBERS = frozenset({"library/postgres", "library/debian", "library/ubuntu", "library/elixir", "ollama/ollama"})


def parse(reference: str) -> tuple[str, str, str, str]:
    """(registry, repository, tag, digest) in full: "nginx" is docker.io, library/nginx, "", ""."""
    name, _rest, digest = reference.strip().partition("@")
    head, slash, tail = name.rpartition("/")
    tail, _rest, tag = tail.partition(":")
    name = head + slash + tail
    registry, slash, rest = name.partition("/")
    if slash and ("." in registry or ":" in registry or registry == "localhost"):
        name = rest
    else:
        registry = "docker.io"
    if registry in ("index.docker.io", "registry-1.docker.io"):
        registry = "docker.io"
    if registry == "docker.io" and "/" not in name:
        name = f"library/{name}"
    return registry, name, tag, digest


def floats(repository: str, tag: str) -> str:
    """Why a tag does not name one release; empty when it does."""
    if not tag:
        return "no tag, which is latest"
    if _CONTENT_TAG.match(tag) or _DATE.search(tag):
        return ""
    version = _VERSION.match(tag)
    if version is None:
        numbers = re.findall(r"\d+(?:\.\d+)+", tag)
        return "" if any(number.count(".") >= 2 for number in numbers) else f"tag {tag} is moved with every release"
    parts = 1 + version[2].count(".")
    if parts == 1 and len(version[1]) >= 7:  # a build number or a revision
        return ""
    if parts >= 3 or (parts == 2 and repository in TWO_NUMBERS):
        return ""
    return f"tag {tag} names {'a major version' if parts == 1 else 'a minor version'}, not one release"


def judge_image(
    audit: Audit, subject: str, place: str, reference: str, built: bool, allowed: Sequence[str], pulled: bool = True
) -> None:
    """IMG-01, IMG-02 and IMG-03 of one reference. Of the first two the worse, because a digest mends both.

    built: the image is built from the project's own files, and its name only labels the result. pulled: whether it may
    come from a registry, where also a tag that looks like a digest can be moved.
    """
    registry, repository, tag, digest = parse(reference)
    if not built and not _DIGEST.match(digest):
        why = floats(repository, tag)
        if why:
            audit.find("IMG-02", subject, place, f"{reference}: {why}")
        elif pulled or not _CONTENT_TAG.match(tag):
            audit.find("IMG-01", subject, place, f"{reference}: a tag without a digest")
    if allowed and not built:
        full = f"{registry}/{repository}"
        if not any(full == entry or full.startswith(entry + "/") for entry in (item.rstrip("/") for item in allowed)):
            audit.find("IMG-03", subject, place, f"{full} is not on the list")
