# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""See that an API key whose value lies on the host is known to the gateway.

PRIVATE: internal to the collection, may change in any release.

The key goes from the file through the standard input of a command in the running container, which stores a keyed hash
of it. It is in no argument, no environment and no answer.
"""

from __future__ import annotations

import json
import re

from ansible_collections.mcpstack.platform.plugins.module_utils._engine import Engine, EngineError, EngineUnavailable

PROGRAM = ["/usr/bin/python3.13", "-m", "mcpstack.admin"]
SHAPE = re.compile(rb"mk_(dev|stg|prod)_[a-z2-7]{12}_[A-Za-z0-9]{43}_[0-9a-f]{8}")
LIMIT = 4096


class ApiKeyError(Exception):
    """The text says where, what is wrong and what to do."""


class NotYet(ApiKeyError):
    """Something that an earlier part of the deployment brings is not there; a dry run may pass over it."""


def read_key(path: str) -> bytes:
    """The key of a file."""
    try:
        with open(path, "rb") as handle:
            key = handle.read(LIMIT).strip()
    except FileNotFoundError:
        raise NotYet(f"{path}: the key is not on this host; run the role secrets first.") from None
    except OSError as exc:
        raise ApiKeyError(f"{path}: the key cannot be read ({exc.strerror}); run as root (become: true).") from None
    if SHAPE.fullmatch(key) is None:
        raise ApiKeyError(f"{path}: this is not an API key of the gateway; name the file of a secret of kind api_key.")
    return key


def arguments(name: str, scopes: list[str], rpm: int | None, check: bool) -> list[str]:
    """The command line; it names nothing secret."""
    line = [*PROGRAM, "keys", "put", "--name", name, "--scopes", ",".join(scopes)]
    if rpm is not None:
        line += ["--rpm", str(rpm)]
    return [*line, "--check"] if check else line


def without(text: bytes, key: bytes) -> str:
    """What a program said, on one line, without the key and its secret part."""
    said = text.replace(key, b"(the key)").replace(key.split(b"_")[3], b"(the key)")
    return " ".join(said.decode(errors="replace").split())


def put(
    key_file: str,
    name: str,
    scopes: list[str],
    rpm: int | None = None,
    check: bool = False,
    project: str = "mcpstack",
    service: str = "gateway",
    engine: Engine | None = None,
) -> dict:
    """Make the gateway know the key; returns ``changed``, ``kid`` and ``warnings``."""
    key = read_key(key_file)
    engine = engine or Engine()
    try:
        container = engine.find_service_container(project, service)
        if container is None:
            raise NotYet(
                f"{service}: no container of it is running in the project {project}; start it (site.yml) first."
            )
        done = engine.exec(container["Id"], arguments(name, scopes, rpm, check), stdin=key)
    except EngineUnavailable as exc:
        raise NotYet(str(exc)) from None
    except EngineError as exc:
        raise ApiKeyError(f"{service}: {without(str(exc).encode(), key)}") from None
    if done.rc != 0:
        said = without(done.stderr or done.stdout, key)[-1000:] or "nothing"
        raise ApiKeyError(f"{service}: the key {name} could not be stored, the gateway said ({done.rc}): {said}")
    try:
        answer = json.loads(done.stdout)
        result = {"changed": answer["changed"], "kid": answer["kid"], "warnings": list(answer.get("warnings") or [])}
        if not isinstance(result["changed"], bool) or not isinstance(result["kid"], str):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError):
        said = without(done.stdout, key)[:200]
        raise ApiKeyError(f"{service}: the gateway gave an answer that is not understood ({said!r}).") from None
    if result["kid"].encode() != key.split(b"_")[2]:
        raise ApiKeyError(f"{service}: the gateway stored another key ({result['kid']}) than the one in {key_file}.")
    return result
