# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""See that an API key whose value lies on the host is known to the platform.

PRIVATE: internal to the collection, may change in any release.

The key goes from the file through the standard input of ``mcpstack-admin``, which stores a keyed hash of it. It is in no
argument, no environment, no log and no answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ansible_collections.mcpstack.platform.plugins.module_utils import _admin_run
from ansible_collections.mcpstack.platform.plugins.module_utils._admin_run import AdminError, NotYet, one_line

SHAPE = re.compile(rb"mk_(dev|stg|prod)_[a-z2-7]{12}_[A-Za-z0-9]{43}_[0-9a-f]{8}")
LIMIT = 4096


def read_key(path: str) -> bytes:
    """The key of a file."""
    try:
        with open(path, "rb") as handle:
            key = handle.read(LIMIT).strip()
    except FileNotFoundError:
        raise NotYet(f"{path}: the key is not on this host; run the role secrets first.") from None
    except OSError as exc:
        raise AdminError(f"{path}: the key cannot be read ({exc.strerror}); run as root (become: true).") from None
    if SHAPE.fullmatch(key) is None:
        raise AdminError(f"{path}: this is not an API key of the platform; name the file of a secret of kind api_key.")
    return key


def arguments(name: str, scopes: list[str], rpm: int | None, check: bool) -> list[str]:
    """The command; it names nothing secret."""
    line = ["keys", "put", "--name", name, "--scopes", ",".join(scopes)]
    if rpm is not None:
        line += ["--rpm", str(rpm)]
    return [*line, "--check"] if check else line


def without(text: bytes, key: bytes) -> str:
    """What a program said, on one line, without the key and its secret part."""
    return one_line(text.replace(key, b"(the key)").replace(key.split(b"_")[3], b"(the key)"))


def put(
    key_file: str,
    name: str,
    scopes: list[str],
    rpm: int | None = None,
    check: bool = False,
    run: Callable = _admin_run.run,
) -> dict:
    """Make the platform know the key; returns ``changed``, ``kid`` and ``warnings``."""
    key = read_key(key_file)
    answer = run(arguments(name, scopes, rpm, check), key, clean=lambda text: without(text, key))
    changed, kid, warnings = answer.get("changed"), answer.get("kid"), answer.get("warnings") or []
    if not isinstance(changed, bool) or not isinstance(kid, str) or not isinstance(warnings, list):
        said = without(repr(answer).encode(), key)[:200]
        raise AdminError(f"mcpstack-admin keys put: the answer is not understood ({said}).")
    if kid.encode() != key.split(b"_")[2]:
        raise AdminError(f"mcpstack-admin keys put: another key was stored ({kid}) than the one in {key_file}.")
    return {"changed": changed, "kid": kid, "warnings": warnings}
