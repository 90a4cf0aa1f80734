# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""nginx: which other sites are trusted (NGX-20: Origin, Referer, cross-origin reading).

PRIVATE: internal to the collection, may change in any release. Standard library only.
"""

from __future__ import annotations

import re

from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_model import condition, variables
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_parse import Directive
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_regex import LOWER, Regex, TooHard
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_run import Run, show

OPEN, END, LETTERS = "`", "\x00", LOWER


def judge(run: Run) -> None:
    """Patterns for Origin and Referer, valid_referers, and who is allowed to read across origins."""
    model = run.model
    for block in model.walk("if"):
        words = condition(block)
        if len(words) == 3 and words[1].lstrip("!") in ("~", "~*"):
            _origin(run, block, words[0], words[2], words[1].endswith("*"))
    for block in model.walk("map"):
        if len(block.args) == 2:
            for item in block.block or ():
                if item.name.startswith("~"):
                    _origin(run, item, block.args[0], item.name.lstrip("~*"), item.name.startswith("~*"))
    for item in model.walk("valid_referers"):
        if "none" in item.args:
            run.find("NGX-20", item, show(item), severity="medium")
    for item in model.walk("add_header", "more_set_headers"):
        name, value = item.args[0] if item.args else "", item.args[1] if len(item.args) > 1 else ""
        if item.name == "more_set_headers":
            name, _rest, value = name.partition(":")
        if name.lower() != "access-control-allow-origin":
            continue
        given = _with_credentials(item)
        for word in variables(value):
            # What a pattern let through was judged with the pattern; only a free value is an echo.
            if run.values.comes_from(word, "http_origin") and _echoes(run, word, item):
                run.find(
                    "NGX-20",
                    item,
                    f"{show(item)}: every origin is allowed{' with credentials' if given else ''}",
                    severity=None if given else "medium",
                )
                break
        if value.strip() == "*" and given:
            run.find("NGX-20", item, f"{show(item)} with credentials", severity="low")


def _echoes(run: Run, word: str, item: Directive, depth: int = 0) -> bool:
    """Whether the variable can be any origin at all: itself, or the default of a map."""
    if word.lower() == "http_origin":
        level = item.parent
        # Inside "if ($http_origin ~ ...)" the pattern has let it through.
        return not (level is not None and level.name == "if" and condition(level)[:1] == ["$http_origin"])
    for found in run.values.maps.get(word.lower(), ()):
        for key, result, _rest in found.entries:
            if key in ("default", "~.*", "~.", "~^.*$", "~.+", "~^") and "http_origin" in [
                name.lower() for name in variables(result)
            ]:
                return True
    return any(
        _echoes(run, name, one) for one in run.values.sets.get(word.lower(), ())[:8] for name in variables(one.args[1])
    )


def _with_credentials(item: Directive) -> bool:
    level = item.parent
    return level is not None and any(
        other.args[:1] and other.args[0].lower() == "access-control-allow-credentials" and other.args[1:2] == ("true",)
        for other in level.find("add_header")
    )


def _origin(run: Run, at: Directive, source: str, pattern: str, caseless: bool) -> None:
    """A pattern for Origin or Referer: texts that it lets through are tried for a foreign host."""
    names = [name.lower() for name in variables(source)]
    kind = next((name for name in names if name in ("http_origin", "http_referer", "http_referrer")), "")
    if not kind:
        return
    if kind == "http_referrer":
        run.find("NGX-20", at, "$http_referrer: the header is called Referer, so this is never set", severity="low")
        return
    regex = run.model.regex(pattern, caseless)
    if regex is None:
        return
    grave = None if kind == "http_origin" else "medium"
    problem, severity = "", grave
    try:
        run.model.budget.spend(20 * len(pattern))
    except TooHard as error:
        run.unknown("NGX-20", str(error))
        return
    for sample in _samples(regex):
        found = _foreign(sample, kind == "http_origin", regex.anchored())
        if found:
            # What lets somebody in is worse than what lets nobody in.
            problem, severity = found, "low" if "never" in found else grave
            if severity == grave:
                break
    if problem:
        run.find("NGX-20", at, f"the pattern for ${kind} {problem}", severity=severity)


def _foreign(sample: str, origin: bool, anchored: bool) -> str:
    """Why a text that a pattern lets through is not only the own site. OPEN is an open byte, END the end of the text."""
    if not anchored:
        return "is not anchored at the start"
    scheme, colon, rest = sample.partition("://")
    if OPEN in scheme and colon:
        return "leaves the beginning open"
    if not colon:
        rest = sample
    host = re.split(r"[/:?#]", rest, maxsplit=1)[0]
    if host == rest and END not in rest and len(host) > 0:
        return "does not end after the host"
    labels = host.rstrip(END).split(".")
    if any(OPEN in label for label in labels[-2:]):
        return "lets foreign hosts through: a dot or a part of the name is open"
    if re.search(r"[^A-Za-z0-9.\[\]_-]", host.rstrip(END).replace(OPEN, "")):
        return "never matches a host"
    if origin and not colon:
        return "never matches, because an origin begins with a scheme"
    if origin and "/" in rest:
        return "never matches, because an origin has no path"
    return ""


def _samples(regex: Regex, most: int = 64) -> list[str]:
    """Texts a pattern lets through."""

    def texts(node: tuple, depth: int) -> list[str]:
        kind = node[0]
        if depth > 30:
            return [""]
        if kind == "set":
            if bin(node[1]).count("1") <= 2:
                return [chr(node[1].bit_length() - 1).lower()]
            # An open set is a problem where it can stand for letters; digits of a port cannot.
            return [OPEN] if node[1] & LETTERS else [chr((node[1] & -node[1]).bit_length() - 1)]
        if kind == "at":
            return [END] if node[1] == "$" else [""]
        if kind == "cat":
            out = [""]
            for part in node[1]:
                # Behind the end of the text there is nothing more.
                out = [
                    left + right
                    for left in out
                    for right in texts(part, depth + 1)
                    if not (left.endswith(END) and right.strip(END))
                ][:most]
            return out
        if kind == "alt":
            return [text for part in node[1] for text in texts(part, depth + 1)][:most]
        if kind == "rep":
            inner = texts(node[1], depth + 1)
            return ([""] if node[2] == 0 else []) + inner
        if kind in ("group", "atomic"):
            return texts(node[1], depth + 1)
        return [""]

    return texts(regex.node, 0)[:most]
