# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""nginx: who may reach what (NGX-04, NGX-11, NGX-12, NGX-13).

PRIVATE: internal to the collection, may change in any release. Standard library only.
"""

from __future__ import annotations

import posixpath
import re

from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import Unreadable
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_model import (
    FIXED,
    PASS,
    REDIRECT,
    REFUSE,
    STATIC,
    STATUS,
    Location,
    Server,
    condition,
    variables,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_parse import Directive
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_run import Run, show

HIDDEN = ("/.git/config", "/.env", "/.htpasswd")
#: Pages for the inside, when a location is written for them by name.
INSIDE = (
    "/metrics",
    "/nginx_status",
    "/server-status",
    "/status",
    "/stub_status",
    "/debug/pprof",
    "/debug/vars",
    "/actuator",
)
#: What is known to ask nobody for a name: by location, and by the name or port of the upstream.
OPEN_TOOLS = re.compile(
    r"/(prometheus|alertmanager|actuator|redis-commander|mongo-express|flower|mailhog|mailpit|phpredisadmin|dozzle)(/|$)"
)
OPEN_UPSTREAMS = re.compile(
    r"://[a-z0-9_.-]*(ollama|vllm|llama-?cpp|llama-server|triton|sglang|text-generation)[a-z0-9_.-]*(?=[:/]|$)|://[^/]+:11434\b"
)


def judge(run: Run) -> None:
    owners(run)
    _open(run)
    _rules(run)
    _authentication(run)


# -- NGX-04 -----------------------------------------------------------------------------------------------------------


def parents(path: str) -> list[str]:
    """The directories on the way to a path, nearest first."""
    out = []
    while path not in ("/", ""):
        path = posixpath.dirname(path)
        out.append(path)
    return out


def owners(run: Run) -> None:
    if not run.policy.modes:
        run.unknown("NGX-04", "owners and modes of the files are not known here")
        return
    run.audit.decide("NGX-04")
    paths = list(run.tree.files)
    # Further up the sticky bit keeps others from replacing what is root's.
    holding = {posixpath.dirname(path) for path in run.tree.files}
    for path in run.tree.files:
        paths += [directory for directory in parents(path) if directory not in paths]
    for path in paths:
        if not run.files.knows(path) and path not in run.tree.files:
            continue
        info = run.files.stat(path)
        if info is None:
            continue
        if info.uid not in run.policy.owners:
            run.audit.find("NGX-04", path, path, f"{info.kind} belongs to user {info.uid}")
        elif info.mode & 0o022 and not (info.mode & 0o1000 and path not in holding):
            run.audit.find("NGX-04", path, path, f"{info.kind} has mode {info.mode:04o}")


# -- NGX-11 -----------------------------------------------------------------------------------------------------------


def _methods_limited(run: Run, place: Server | Location) -> bool:
    for level in place.block.chain():
        if level.find("limit_except"):
            return any(run.model.closed(inner) or inner.find("return") for inner in level.find("limit_except"))
        for block in level.find("if"):
            words = condition(block)
            back = block.one("return")
            if words and back and back.args and back.args[0].isdigit() and int(back.args[0][:4]) >= 400:
                if any(run.values.comes_from(name, "request_method") for name in variables(words[0])):
                    return True
    return False


def _open(run: Run) -> None:
    run.audit.decide("NGX-11")
    model = run.model
    for item in model.walk("autoindex"):
        if item.args == ("on",):
            run.find("NGX-11", item, show(item))
    for item in model.walk("dav_methods"):
        if item.args and item.args != ("off",) and not (item.parent and model.closed(item.parent)):
            run.find("NGX-11", item, show(item), severity="high")
    for server in run.outside():
        places = model.places(server)
        for place in places:
            if (
                model.answer(place)[0] == STATUS
                and not model.closed(place.block)
                and not authenticated(run, place.block)
            ):
                run.find(
                    "NGX-11",
                    model.answer(place)[1] or place,
                    f"{(model.answer(place)[1] or place.block).name} is open to everybody",
                )
        _methods(run, server)
        _hidden(run, server)
        for path in INSIDE:
            for place in server.locations:
                named = place.path.replace("\\", "").lstrip("^")
                if (named == path or named.startswith((path + "/", path + "$"))) and not place.internal:
                    _private(run, place, path)
        for path in run.policy.private:
            found, sure = model.find_location(server, path)
            if not sure:
                run.unknown("NGX-11", f"{server.label}: which location takes {path} is not sure")
            elif found is not None:
                _private(run, found, path)
            elif model.answer(server)[0] == PASS:
                _private(run, server, path)


def _private(run: Run, place: Location | Server, path: str) -> None:
    if run.model.answer(place)[0] == PASS and not run.model.closed(place.block) and not authenticated(run, place.block):
        run.find("NGX-11", place, f"{path} is handed on for everybody")


def _methods(run: Run, server: Server) -> None:
    handing = [
        place for place in run.model.places(server)
        if run.model.answer(place)[0] == PASS and not (isinstance(place, Location) and place.internal)
    ]  # fmt: skip
    free = [place for place in handing if not _methods_limited(run, place) and not run.model.has_code(place.block)]
    if len(free) == len(handing) > 1:
        run.find(
            "NGX-11",
            server,
            f"none of {len(free)} locations that hand requests on names the methods it takes",
            severity="low",
        )
    else:
        for place in free:
            run.find("NGX-11", place, "hands requests of every method on", severity="low")


def _hidden(run: Run, server: Server) -> None:
    """Whether a path that begins with a dot would be looked up as a file."""
    model = run.model
    if not any(
        level.find("root") or level.find("alias") for place in (server, *server.locations) for level in (place.block,)
    ) and not any(http.find("root") for http in model.https):
        return
    for path in HIDDEN:
        found, sure = model.find_location(server, path)
        place: Server | Location = found or server
        if not sure:
            run.unknown("NGX-11", f"{server.label}: which location takes {path} is not sure")
            continue
        if model.answer(place)[0] == STATIC and not model.closed(place.block) and _has_files(run, place.block):
            run.find("NGX-11", place, f"hidden files such as {path} are handed out")
            return


def _has_files(run: Run, block: Directive) -> bool:
    return run.model.effective(block, "root") is not None or bool(block.find("alias"))


# -- NGX-12 -----------------------------------------------------------------------------------------------------------


def _all(rule: Directive) -> bool:
    return rule.args[:1] in (("all",), ("0.0.0.0/0",))


def _rules(run: Run) -> None:
    run.audit.decide("NGX-12")
    model = run.model
    levels: dict[int, Directive] = {}
    for item in model.walk("allow", "deny"):
        if item.parent is not None and model.in_http(item):
            levels[id(item.parent)] = item.parent
    for level in levels.values():
        rules = [item for item in level.block or () if item.name in ("allow", "deny") and item.args]
        end = next((number for number, item in enumerate(rules) if _all(item)), None)
        allows = [item for item in rules if item.name == "allow" and not _all(item)]
        if end is None:
            if allows and not any(item.name == "deny" for item in rules):
                run.find("NGX-12", allows[-1], f"{show(allows[-1])} without deny all lets everybody in")
            continue
        if rules[end].name == "deny":
            for item in rules[end + 1 :]:
                if item.name == "allow":
                    run.find("NGX-12", item, f"{show(item)} stands after deny all and never counts", severity="medium")
        else:
            dead = [item for item in rules[end + 1 :] if item.name == "deny"]
            for item in dead:
                run.find("NGX-12", item, f"{show(item)} stands after {show(rules[end])} and never counts")
            if not dead and allows and rules[end] is not rules[0]:
                run.find("NGX-12", rules[end], f"{show(rules[end])} lets everybody in")
    _bypassed(run)
    _satisfy(run)


def _bypassed(run: Run) -> None:
    """return and rewrite answer before allow and deny are looked at."""
    model = run.model
    denies: dict[int, bool] = {}
    for server in model.servers:
        for place in (server, *server.locations):
            rules = model.access(place.block)
            if not rules:
                continue
            if id(rules[0]) not in denies:
                denies[id(rules[0])] = any(item.name == "deny" for item in rules)
            if not denies[id(rules[0])]:
                continue
            blocks = [place.block, *place.block.find("if")]
            for block in blocks:
                for item in block.find("return"):
                    if not _gives(item):
                        continue
                    severity = "medium" if rules[0].parent is not place.block else None
                    run.find(
                        "NGX-12", item, f"{show(item)} answers before {show(rules[0])} is looked at", severity=severity
                    )


def _gives(item: Directive) -> bool:
    """Whether a return hands something out: a redirect and a refusal give nothing away."""
    if not item.args or not item.args[0].isdigit():
        return False
    return item.args[0].startswith("2") and len(item.args) > 1


def _satisfy(run: Run) -> None:
    for item in run.model.walk("satisfy"):
        level = item.parent
        if item.args != ("any",) or level is None:
            continue
        rules = run.model.access(level)
        asks = any(run.model.value(level, name, "off") != "off" for name in ("auth_basic", "auth_request", "auth_jwt"))
        if asks and not any(rule.name == "deny" for rule in rules):
            run.find("NGX-12", item, "satisfy any without deny: the address alone lets everybody in")
        elif asks and rules and rules[0].name == "allow" and _all(rules[0]):
            run.find("NGX-12", item, "satisfy any with allow all: nobody is asked")


# -- NGX-13 -----------------------------------------------------------------------------------------------------------


def authenticated(run: Run, block: Directive) -> bool:
    """Whether a request must prove who it is before this block answers it."""
    model = run.model
    asks = any(
        model.value(block, name, "off") != "off"
        for name in ("auth_basic", "auth_request", "auth_jwt", "auth_oidc", "auth_ldap")
    )
    if asks and model.value(block, "satisfy") == "any":
        rules = model.access(block)
        asks = any(rule.name == "deny" for rule in rules) and not (rules[0].name == "allow" and _all(rules[0]))
    if asks or model.value(block, "ssl_verify_client") == "on":
        return True
    for level in block.chain():
        for inner in level.find("if"):
            back = inner.one("return")
            words = condition(inner)
            if back and back.args[:1] in (("401",), ("403",), ("444",), ("404",)) and words:
                if any(_credential(run, name) for name in variables(words[0])):
                    return True
    return False


def _credential(run: Run, name: str) -> bool:
    """Whether a variable tells that somebody proved something: a key of a map, a client certificate."""
    wanted = (
        "http_authorization",
        "http_x_api_key",
        "ssl_client_verify",
        "ssl_client_s_dn",
        "ssl_client_fingerprint",
        "cookie_session",
        "jwt_claim_sub",
    )
    if name.lower() in ("ssl_client_verify",):
        return True
    return name.lower() in run.values.maps and any(run.values.comes_from(name, other) for other in wanted)


def _authentication(run: Run) -> None:
    model = run.model
    judged = False
    for server in run.outside():
        for path in run.policy.protected:
            for place in _protected(run, server, path):
                judged = True
                kind, _rest = model.answer(place)
                if kind in (REFUSE, REDIRECT):
                    continue
                if kind == FIXED and model.closed(place.block) and not authenticated(run, place.block):
                    # NGX-12 says that the rules do not hold for return.
                    continue
                if not authenticated(run, place.block) and not model.closed(place.block):
                    if model.has_code(place.block):
                        run.unknown("NGX-13", f"{place.label}: code may ask there")
                    else:
                        run.find("NGX-13", place, f"{path.lstrip('~')} is answered without authentication")
        for place in server.locations:
            passed = model.passes(place.block)
            known = (
                bool(passed)
                and not place.internal
                and not model.closed(place.block)
                and not authenticated(run, place.block)
            )
            if known and model.answer(place)[0] == PASS and not model.has_code(place.block):
                upstream = next(
                    (item for item in passed if item.args and OPEN_UPSTREAMS.search(item.args[0].lower())), None
                )
                if OPEN_TOOLS.match(place.path.lstrip("^")):
                    judged = True
                    run.find(
                        "NGX-13", place, f"{place.path}: such a service usually asks nobody itself", severity="medium"
                    )
                elif upstream is not None:
                    judged = True
                    run.find(
                        "NGX-13",
                        upstream,
                        f"{show(upstream)}: such a service usually asks nobody itself",
                        severity="medium",
                    )
    _user_files(run)
    if judged or any(True for _rest in model.walk("auth_basic_user_file")):
        run.audit.decide("NGX-13")
    elif run.policy.protected:
        run.audit.not_applicable("NGX-13", "no location takes one of the protected paths")
    else:
        run.audit.not_applicable("NGX-13", "no protected paths were declared, and no location is known to need it")


def _protected(run: Run, server: Server, path: str) -> list[Location | Server]:
    if path.startswith("~"):
        try:
            wanted = re.compile(path.lstrip("~"))
        except re.error:
            run.unknown("NGX-13", f"{path} is no pattern")
            return []
        return [place for place in server.locations if not place.internal and wanted.search(place.path)]
    found, sure = run.model.find_location(server, path)
    if not sure:
        run.unknown("NGX-13", f"{server.label}: which location takes {path} is not sure")
        return []
    return [found or server]


def _user_files(run: Run) -> None:
    """Files of auth_basic: they exist, are not served, and hold hashes that take time to try."""
    seen: set[str] = set()
    served = {
        run.lies(root.args[0]).rstrip("/"): root
        for root in run.model.walk("root", "alias")
        if root.args and "$" not in root.args[0] and root.args[0].strip("/")
    }
    for item in run.model.walk("auth_basic_user_file"):
        if not item.args or "$" in item.args[0]:
            continue
        path = run.lies(item.args[0])
        root = next((served[directory] for directory in parents(path) if directory in served), None)
        if root is not None:
            run.find("NGX-13", item, f"{show(item)} lies below {show(root)}", severity="high")
        if path in seen:
            continue
        seen.add(path)
        if not run.files.knows(path):
            run.unknown("NGX-13", f"{path} was not handed over")
            continue
        info = run.files.stat(path)
        if info is None:
            run.find("NGX-13", item, f"{show(item)}: does not exist, so nobody is let in", severity="medium")
            continue
        if run.policy.modes and info.mode & 0o007:
            run.find(
                "NGX-13", item, f"{path} has mode {info.mode:04o}: everybody can read the hashes", severity="medium"
            )
        try:
            lines = run.files.text(path, 1 << 20).splitlines()
        except Unreadable as error:
            run.unknown("NGX-13", f"{path} {error.what}")
            continue
        weak = [number for number, line in enumerate(lines, 1) if _weak_hash(line)]
        if weak:
            run.audit.find(
                "NGX-13",
                path,
                f"{path}:{weak[0]}",
                f"{len(weak)} passwords in plain text, crypt, MD5 or SHA-1",
                severity="high",
            )


def _weak_hash(line: str) -> bool:
    line = line.strip()
    if not line or line.startswith("#") or ":" not in line:
        return False
    secret = line.split(":")[1]
    return not re.match(r"\$(2[aby]|5|6|7|y|gy|argon2[id]{0,2})\$", secret)
