# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How every audit module ends: waivers applied, then exit or fail. PRIVATE: may change in any release."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any, NoReturn

from ansible_collections.mcpstack.platform.plugins.module_utils._audit import SEVERITIES, describe, stops
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_waivers import apply_waivers

#: Options that every audit module has; documented by the fragment ``mcpstack.platform.audit``.
ARGUMENTS = {
    "waivers": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "id": {"type": "str", "required": True},
            "where": {"type": "str", "default": "*"},
            "subject": {"type": "str", "default": "*"},
            "reason": {"type": "str", "required": True},
            "expires": {"type": "str", "required": True},
        },
    },
    "fail_at": {"type": "str", "choices": [*SEVERITIES, "none"], "default": "none"},
}


def conclude(
    result: Mapping, waivers: list[dict], fail_at: str, known: Container[str] | None = None, whole: bool = True
) -> dict:
    """What the module returns: the result after waivers, ``changed`` and, when findings stop it, ``failed`` and ``msg``."""
    waived = apply_waivers(result, waivers, known=known, whole=whole)
    stopping = stops(waived, fail_at)
    answer = {"changed": False, **waived}
    if stopping:
        answer["failed"] = True
        answer["msg"] = (
            f"{len(stopping)} finding{'s' if len(stopping) != 1 else ''} at or above {fail_at}:\n{describe(stopping)}"
        )
    return answer


def finish(module: Any, result: Mapping, **more: Any) -> NoReturn:
    """Leave a module, as failed or not by the waivers and the limit among its options; ``more`` is returned beside."""
    answer = {**conclude(result, module.params["waivers"], module.params["fail_at"]), **more}
    if answer.get("failed"):
        module.fail_json(**answer)
    module.exit_json(**answer)
    raise AssertionError("unreachable")  # both end the program
