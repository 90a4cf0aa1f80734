# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""nginx: patterns and conditions that do not do what they seem to (NGX-22).

PRIVATE: internal to the collection, may change in any release. Standard library only.
"""

from __future__ import annotations

import re

from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_model import (
    PASSES,
    Location,
    condition,
    split_target,
    variables,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_parse import Directive
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_regex import TooHard
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_run import Run, show

REWRITES = ("return", "rewrite", "set", "break")


def judge(run: Run) -> None:
    run.audit.decide("NGX-22")
    _conditions(run)
    _tables(run)
    _patterns(run)


def _conditions(run: Run) -> None:
    model = run.model
    for block in model.walk("if"):
        location = model.owner.get(id(block.parent)) if block.parent else None
        if not isinstance(location, Location):
            continue
        for item in block.block or ():
            if item.name not in REWRITES:
                run.find("NGX-22", item, f"{show(item)} inside if inside a location")
        inner = block.block or []
        if any(
            item.name == "return"
            or (item.name == "rewrite" and item.args[-1:] and item.args[-1] in ("last", "redirect", "permanent"))
            for item in inner
        ):
            continue
        outer = location.block
        trap = next((name for name in ("try_files", "alias") if outer.find(name)), "")
        passed = outer.one("proxy_pass")
        if not trap and passed and passed.args and "$" not in passed.args[0] and split_target(passed.args[0])[1]:
            trap = "the path of proxy_pass"
        if trap:
            run.find("NGX-22", block, f"if in {location.label} does not return, and then {trap} no longer works")
    for item in model.walk("try_files"):
        level = item.parent
        if level is None:
            continue
        if level.find("proxy_pass"):
            run.find(
                "NGX-22",
                item,
                "try_files beside proxy_pass: files that exist are asked of the upstream too",
                severity="low",
            )
        cache = model.effective(level, "open_file_cache")
        if cache is None or cache.args[:1] == ("off",):
            run.find(
                "NGX-22", item, "try_files without open_file_cache looks at the disk for every request", severity="info"
            )
    for names in _twice(run):
        run.find(
            "NGX-22",
            names[1],
            f"server_name {names[0]} stands in two servers of one address; this one never gets a request",
            severity="low",
        )


def _twice(run: Run) -> list[tuple[str, Directive]]:
    out, seen = [], {}
    for key, users in run.model.sockets.items():
        for server, _rest in users:
            for name in dict.fromkeys(server.names):
                first = seen.setdefault((key, name), server)
                if first is not server and name not in ("",):
                    at = next(
                        (
                            item
                            for item in server.block.find("server_name")
                            if name in [word.lower() for word in item.args]
                        ),
                        server.block,
                    )
                    out.append((name, at))
    return list(dict.fromkeys(out))


def _tables(run: Run) -> None:
    """map and geo without a default give an empty value for what nobody thought of."""
    model = run.model
    decides: set[str] | None = None
    for block in model.walk("map", "geo"):
        if block.block is None or not block.args:
            continue
        entries = [item for item in block.block if item.args]
        if any(item.name == "default" for item in entries):
            continue
        real = [
            item for item in entries if item.name not in ("include", "proxy", "delete", "ranges", "proxy_recursive")
        ]
        if block.name == "map" and len(real) <= 1:
            continue
        if any(item.name in ("0.0.0.0/0", "::/0") for item in real) and block.name == "geo":
            continue
        decides = decides if decides is not None else _deciding(run)
        name = block.args[-1].lstrip("$").lower()
        run.find("NGX-22", block, f"{block.name} ${name} has no default", severity=None if name in decides else "low")


def _deciding(run: Run) -> set[str]:
    """Variables that something is decided by: conditions, keys of limits, targets."""
    out: set[str] = set()
    for item in run.model.walk(
        "if", "limit_req_zone", "limit_conn_zone", *PASSES, "auth_basic", "proxy_cache_bypass", "proxy_no_cache"
    ):
        words = condition(item) if item.name == "if" else item.args
        out.update(name.lower() for word in words for name in variables(word))
    for _rest in range(3):
        out |= {
            name.lower()
            for found in list(out)
            for one in run.values.maps.get(found, ())
            for name in variables(one.source)
        }
    return out


def _all_patterns(run: Run) -> list[tuple[Directive, str, bool, bool]]:
    """Every pattern with its place: (directive, text, caseless, whether the client writes what it is matched against)."""
    model = run.model
    out: list[tuple[Directive, str, bool, bool]] = []
    for server in model.servers:
        for location in server.locations:
            if location.pattern:
                out.append((location.block, location.path, location.modifier == "~*", True))
        for item in server.block.find("server_name"):
            out += [(item, name[1:], True, True) for name in item.args if name.startswith("~")]
    for block in model.walk("if"):
        words = condition(block)
        if len(words) == 3 and words[1].lstrip("!") in ("~", "~*"):
            out.append((block, words[2], words[1].endswith("*"), _from_client(run, words[0], block)))
    for item in model.walk("rewrite"):
        if item.args:
            out.append((item, item.args[0], False, True))
    for block in model.walk("map"):
        if len(block.args) == 2:
            client = None
            for item in block.block or ():
                if item.name.startswith("~") and item.args:
                    client = _from_client(run, block.args[0], block) if client is None else client
                    out.append(
                        (
                            item,
                            item.name.lstrip("~*") if item.name.startswith("~*") else item.name[1:],
                            item.name.startswith("~*"),
                            client,
                        )
                    )
    for item in model.walk("valid_referers"):
        out += [(item, word[1:], True, True) for word in item.args if word.startswith("~")]
    return out


def _from_client(run: Run, source: str, at: Directive) -> bool:
    return run.values.text(source, at).client


def _patterns(run: Run) -> None:
    model = run.model
    risks: dict[tuple[str, bool], str] = {}
    for item, text, caseless, client in _all_patterns(run):
        regex = model.regex(text, caseless)
        key = (text, caseless)
        if regex is None:
            if key in model.bad_regexes:
                run.find("NGX-22", item, f"the pattern does not compile: {model.bad_regexes[key]}")
            else:
                run.unknown("NGX-22", model.hard_regexes.get(key, "a pattern could not be read"))
            continue
        if client:
            if key not in risks:
                try:
                    risks[key] = regex.risk()
                except TooHard as error:
                    risks[key] = ""
                    run.unknown("NGX-22", str(error))
            if risks[key]:
                severity = "low" if risks[key] == "quadratic" else None
                run.find(
                    "NGX-22",
                    item,
                    f"the pattern takes {risks[key]} time on what a client can send: {text[:80]}",
                    severity=severity,
                )
        if (
            item.name == "location"
            and not regex.anchored(end=True)
            and re.search(r"\\\.(\(?[A-Za-z0-9|?:]+\)?|\[[^\]]*\]\+)$", text)
        ):
            run.find(
                "NGX-22", item, f"the pattern for a file ending is not anchored at its end: {text[:80]}", severity="low"
            )
    _groups(run)


def _groups(run: Run) -> None:
    """$1 where no pattern has such a group."""
    model = run.model
    for item in model.walk("rewrite"):
        if len(item.args) < 2:
            continue
        regex = model.regex(item.args[0])
        numbers = sorted({int(name) for name in variables(item.args[1]) if name.isdigit()})
        if regex and numbers and numbers[-1] > regex.groups:
            run.find("NGX-22", item, f"{show(item)}: the pattern has {regex.groups} groups, ${numbers[-1]} is empty")
    for item in model.walk("set", "return"):
        level = item.parent
        if level is None or level.name != "if" or not item.args:
            continue
        words = condition(level)
        if len(words) != 3 or words[1].lstrip("!") not in ("~", "~*"):
            continue
        regex = model.regex(words[2], words[1].endswith("*"))
        numbers = sorted({int(name) for name in variables(item.args[-1]) if name.isdigit()})
        if regex and numbers and numbers[-1] > regex.groups:
            run.find(
                "NGX-22",
                item,
                f"{show(item)}: the pattern of the condition has {regex.groups} groups, ${numbers[-1]} is not its",
            )
