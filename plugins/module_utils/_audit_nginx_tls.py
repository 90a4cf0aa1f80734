# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""nginx: TLS towards clients and towards upstreams, as the configuration has it (TLS-01 to TLS-06, TLS-12, TLS-13).

PRIVATE: internal to the collection, may change in any release. Standard library only.
"""

from __future__ import annotations

import base64
import binascii
import re

from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import Unreadable
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_ciphers import offered, told
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_model import (
    FIXED,
    REDIRECT,
    REFUSE,
    STATUS,
    Location,
    Server,
    condition,
    target,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_parse import Directive
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_run import Run, show

OLD = ("SSLv2", "SSLv3", "TLSv1", "TLSv1.1")
#: What nginx uses without ssl_ciphers.
DEFAULT_CIPHERS = "HIGH:!aNULL:!MD5"
GOOD_GROUPS = frozenset(
    {
        "x25519",
        "x448",
        "prime256v1",
        "p-256",
        "secp256r1",
        "secp384r1",
        "p-384",
        "secp521r1",
        "p-521",
        "auto",
        "ffdhe2048",
        "ffdhe3072",
        "ffdhe4096",
        "ffdhe6144",
        "ffdhe8192",
        "x25519mlkem768",
        "secp256r1mlkem768",
        "secp384r1mlkem1024",
        "mlkem512",
        "mlkem768",
        "mlkem1024",
        "curvesm2mlkem768",
    }
)
COMMON_GROUPS = frozenset({"x25519", "prime256v1", "p-256", "secp256r1", "auto"})
PROTOCOL = ("TLS-02", "TLS-03", "TLS-04", "TLS-05", "TLS-06")
UPSTREAM_TLS = {"proxy_pass": "proxy", "grpc_pass": "grpc", "uwsgi_pass": "uwsgi"}


def judge(run: Run) -> None:
    _plain(run)
    servers = [server for server in run.model.servers if server.tls]
    _stapling(run, [server for server in servers if run.model.value(server.block, "ssl_reject_handshake") != "on"])
    _upstreams(run, servers)
    if not servers:
        reason = "another proxy ends TLS" if run.policy.tls_elsewhere else "nothing listens with TLS"
        for check in (*PROTOCOL, "TLS-12"):
            run.audit.not_applicable(check, reason)
        return
    run.audit.decide(*PROTOCOL)
    same: set[int] = set()
    for server in servers:
        # Servers that set nothing themselves are all alike, and what is found at a line of http is found once.
        inherits = not any(item.name.startswith("ssl_") for item in server.block.block or ())
        if inherits and id(server.block.parent) in same:
            continue
        before = run.at_servers
        _protocols(run, server)
        _ciphers(run, server)
        _groups(run, server)
        _sessions(run, server)
        if inherits and run.at_servers == before:
            same.add(id(server.block.parent))


# -- TLS-01 -----------------------------------------------------------------------------------------------------------


def _to_https(run: Run, item: Directive | None) -> bool:
    if item is None:
        return False
    texts = run.values.strings(target(item).split("://")[0]) if "://" in target(item) else [target(item)]
    return all(text == "https" for text in texts)


def _sends_away(run: Run, server: Server) -> bool:
    """if ($scheme = http) { return 301 https://...; } in a server that listens with and without TLS."""
    for block in server.block.find("if"):
        words = condition(block)
        back = block.one("return") or block.one("rewrite")
        if (
            words[:1] in (["$scheme"], ["$https"], ["$server_port"])
            and len(words) == 3
            and back is not None
            and _to_https(run, back)
        ):
            if (words[0], words[1].strip("!~*"), words[2].strip('"')) in (
                ("$scheme", "=", "http"),
                ("$https", "=", ""),
                ("$server_port", "=", "80"),
                ("$scheme", "=", "https"),
                ("$https", "=", "on"),
            ):
                if ("!" in words[1]) == (words[2] in ("https", "on")):
                    return True
    return False


def _plain(run: Run) -> None:
    model = run.model
    if run.policy.tls_elsewhere:
        run.audit.not_applicable("TLS-01", "another proxy ends TLS")
        return
    outside = run.outside()
    if not outside:
        run.audit.not_applicable("TLS-01", "nothing listens beyond loopback")
        return
    run.audit.decide("TLS-01")
    for server in outside:
        listen = next((item for item in server.listens if item.outside and not item.ssl), None)
        if listen is None or _sends_away(run, server):
            continue
        for place in model.places(server):
            kind, item = model.answer(place)
            if _harmless(run, place, kind, item):
                continue
            shown = f"{show(item)}" if item is not None else "files are handed out"
            run.find("TLS-01", place, f"{shown} on {listen} without TLS")
            break


def _harmless(run: Run, place: Server | Location, kind: str, item: Directive | None) -> bool:
    if kind == REFUSE or run.model.closed(place.block):
        return True
    if kind == REDIRECT:
        return _to_https(run, item)
    if not isinstance(place, Location):
        return False
    if place.internal and not place.named:
        return True
    # Challenges and constant answers tell nothing that TLS would keep.
    return "well-known/acme-challenge" in place.path.replace("\\", "") or (
        kind in (FIXED, STATUS) and place.modifier == "=" and (item is None or "$" not in " ".join(item.args))
    )


# -- what is agreed ---------------------------------------------------------------------------------------------------


def commands(run: Run, block: Directive) -> dict[str, tuple[str, Directive]]:
    """ssl_conf_command lines that apply here, by name in lower case; the last one counts."""
    items = run.model.values(block, "ssl_conf_command")
    if not items or items[0].parent is None:
        return {}
    named = run.model.named(items[0].parent, "ssl_conf_command")
    wanted = ("protocol", "minprotocol", "ciphersuites", "cipherstring", "curves", "groups", "options", "dhparameters")
    return {
        name: (named[name][-1].args[1], named[name][-1])
        for name in wanted
        if name in named and len(named[name][-1].args) == 2
    }


def protocols(run: Run, block: Directive) -> tuple[list[str] | None, Directive | None]:
    """The versions that apply and the directive that says so; None when only the version of nginx could tell."""
    found = run.model.effective(block, "ssl_protocols")
    if found is not None:
        return list(found.args), found
    version = run.version
    if version is None:
        return None, None
    if version >= (1, 27, 3):
        return ["TLSv1.2", "TLSv1.3"], None
    return ["TLSv1", "TLSv1.1", "TLSv1.2", *(["TLSv1.3"] if version >= (1, 23, 4) else [])], None


def _protocols(run: Run, server: Server) -> None:
    versions, at = protocols(run, server.block)
    given = commands(run, server.block)
    if "protocol" in given:
        value, item = given["protocol"]
        on = [word for word in value.split(",") if word and not word.startswith("-")]
        if any(word.lstrip("+") in (*OLD, "ALL") for word in on):
            run.find("TLS-02", item, show(item))
    low = given.get("minprotocol")
    if low and low[0] in (*OLD, "None"):
        if versions is None or set(versions) & set(OLD):
            run.find("TLS-02", low[1], show(low[1]))
    if versions is None:
        run.find(
            "TLS-02",
            server,
            "ssl_protocols is not set: nginx before 1.27.3 accepts TLS 1.0 and 1.1 then",
            severity="medium",
        )
    elif set(versions) & set(OLD):
        old = ", ".join(word for word in versions if word in OLD)
        floor = low is not None and low[0] in ("TLSv1.2", "TLSv1.3")
        if at is not None:
            shared = [listen for listen in server.listens if run.model.default_of(listen.key)[0] is server]
            others = any(len(run.model.sockets[listen.key]) > 1 for listen in shared)
            if not floor:
                run.find(
                    "TLS-02",
                    at,
                    show(at) + (", for every server of this address" if others and at.parent is server.block else ""),
                )
        elif not floor:
            run.find("TLS-02", server, f"ssl_protocols is not set: nginx {run.policy.nginx_version} accepts {old} then")
    elif not set(versions) & {"TLSv1.2", "TLSv1.3"}:
        run.find("TLS-02", at or server, show(at) if at else "no version is accepted")
    elif run.policy.tls_profile == "modern" and "TLSv1.2" in versions:
        run.find("TLS-02", at or server, "TLS 1.2 is accepted, and the profile is modern", severity="low")


def suites(run: Run, block: Directive) -> tuple[tuple, int | None, tuple, Directive | None]:
    """The suites for TLS 1.2 that nginx can offer here, the security level, the weak ones, and the directive."""
    given = commands(run, block)
    at = run.model.effective(block, "ssl_ciphers")
    text = at.args[0] if at and at.args else DEFAULT_CIPHERS
    if "cipherstring" in given:
        text, at = given["cipherstring"]
    finite = run.model.effective(block, "ssl_dhparam") is not None or "dhparameters" in given
    return *offered(text, finite), at


def _ciphers(run: Run, server: Server) -> None:
    given = commands(run, server.block)
    if "ciphersuites" in given:
        value, item = given["ciphersuites"]
        weak = [
            name for name in value.split(":") if "CCM_8" in name or name in ("TLS_SHA256_SHA256", "TLS_SHA384_SHA384")
        ]
        if weak:
            run.find(
                "TLS-03",
                item,
                f"TLS 1.3 suites {', '.join(weak)}",
                severity="medium" if all("CCM_8" in name for name in weak) else None,
            )
    versions, _rest = protocols(run, server.block)
    if versions is not None and set(versions) <= {"TLSv1.3"} and "protocol" not in given:
        return
    chosen, level, weak, at = suites(run, server.block)
    if level == 0:
        run.find("TLS-03", at or server, "@SECLEVEL=0 allows keys and signatures of any size")
    if not chosen:
        run.find(
            "TLS-03",
            at or server,
            f"{show(at) if at else 'ssl_ciphers'}: no suite is left, so nginx does not start",
            severity="medium",
        )
    elif weak:
        kinds, mild = told(weak)
        what = f"{len(weak)} of {len(chosen)} suites: {kinds}"
        if at is None:
            what = f"ssl_ciphers is not set, so it is {DEFAULT_CIPHERS}: {what}"
        run.find("TLS-03", at or server, what, severity="low" if mild else None)


def _groups(run: Run, server: Server) -> None:
    given = commands(run, server.block)
    at = run.model.effective(server.block, "ssl_ecdh_curve")
    text = at.args[0] if at and at.args else "auto"
    for name in ("curves", "groups"):
        if name in given:
            text, at = given[name]
    if at is None:
        return
    words = [word for word in re.split(r"[:/]", text) if word]
    names = [word.lstrip("?*-").lower() for word in words if not word.startswith("-")]
    weak = [name for name in names if name not in GOOD_GROUPS and not name.startswith("default")]
    if weak:
        run.find("TLS-04", at, f"{show(at)}: {', '.join(weak)}")
    elif not set(names) & COMMON_GROUPS and not any(name.startswith("default") for name in names):
        run.find("TLS-04", at, f"{show(at)}: neither X25519 nor P-256", severity="low")
    hybrid = [word for word in words if "mlkem" in word.lower() and not word.startswith("?")]
    if hybrid and (run.openssl is None or run.openssl < (3, 5)):
        known = f"OpenSSL {run.policy.openssl_version}" if run.openssl else "OpenSSL before 3.5"
        run.find(
            "TLS-04",
            at,
            f"{show(at)}: {known} does not know {', '.join(hybrid)}, and nginx does not start",
            severity=None if run.openssl else "low",
        )
    if any(word.startswith("?") for word in words) and run.openssl is not None and run.openssl < (3, 3):
        run.find("TLS-04", at, f"{show(at)}: OpenSSL {run.policy.openssl_version} does not know the ?")


def _sessions(run: Run, server: Server) -> None:
    model, block = run.model, server.block
    given = commands(run, block)
    _parameters(run, server)
    prefers = model.effective(block, "ssl_prefer_server_ciphers")
    _rest, _rest, weak, _rest = suites(run, block)
    if prefers is not None and prefers.args == ("on",) and not weak:
        run.find("TLS-05", prefers, f"{show(prefers)}, though every suite is strong")
    tickets = model.effective(block, "ssl_session_tickets")
    cache = model.effective(block, "ssl_session_cache")
    keys = model.values(block, "ssl_session_ticket_key")
    options = given.get("options", ("", None))
    words = {word.strip() for word in options[0].split(",")}
    if (tickets is None or tickets.args != ("off",)) and "-SessionTicket" not in words:
        shared = cache is not None and any(word.startswith("shared:") for word in cache.args)
        at: Directive | Server = tickets or (keys[0] if keys else server)
        if len(keys) == 1:
            run.find("TLS-06", keys[0], f"{show(keys[0])}: one key for tickets cannot be rotated")
        elif not keys and not shared:
            run.find("TLS-06", at, "tickets are on, and their key lives as long as nginx runs")
        elif not keys and (run.version is None or run.version < (1, 23, 2)):
            run.find(
                "TLS-06",
                at,
                "tickets are on, and nginx before 1.23.2 does not rotate their key",
                severity="low" if run.version is None else None,
            )
    if cache is not None and any(word.startswith("builtin") for word in cache.args):
        run.find("TLS-06", cache, f"{show(cache)}: not shared by the workers", severity="low")
    early = model.effective(block, "ssl_early_data")
    if early is not None and early.args == ("on",):
        run.find("TLS-06", early, f"{show(early)}: what is sent early can be replayed")
    bad = sorted(
        words
        & {
            "UnsafeLegacyRenegotiation",
            "+UnsafeLegacyRenegotiation",
            "UnsafeRenegotiation",
            "ClientRenegotiation",
            "+ClientRenegotiation",
            "Compression",
            "+Compression",
            "-ExtendedMasterSecret",
            "-EncryptThenMac",
            "-AntiReplay",
            "-NoRenegotiation",
        }
    )
    if bad and options[1] is not None:
        run.find("TLS-06", options[1], f"{show(options[1])}: {', '.join(bad)}")


def _parameters(run: Run, server: Server) -> None:
    at = run.model.effective(server.block, "ssl_dhparam")
    if at is None or not at.args or not any(suite.exchange == "DHE" for suite in suites(run, server.block)[0]):
        return
    path = run.lies(at.args[0])
    if not run.files.knows(path):
        run.unknown("TLS-05", f"{path} was not handed over")
        return
    try:
        bits = dh_bits(run.files.text(path, 1 << 16))
    except Unreadable as error:
        run.unknown("TLS-05", f"{path} {error.what}")
        return
    if bits is None:
        run.unknown("TLS-05", f"{path} holds no parameters that can be read")
    elif bits < 2048:
        run.find("TLS-05", at, f"{show(at)}: {bits} bits", severity="medium")


def dh_bits(text: str) -> int | None:
    """Size of the prime in a PEM file of Diffie-Hellman parameters."""
    match = re.search(r"-----BEGIN DH PARAMETERS-----([A-Za-z0-9+/=\s]{1,20000})-----END", text)
    try:
        der = base64.b64decode("".join(match[1].split()), validate=True) if match else b""
    except (binascii.Error, ValueError):
        return None

    def header(at: int) -> tuple[int, int]:
        length = der[at + 1]
        if length < 128:
            return length, at + 2
        width = length & 127
        return int.from_bytes(der[at + 2 : at + 2 + width], "big"), at + 2 + width

    try:
        _rest, at = header(0)
        length, at = header(at)
    except IndexError:
        return None
    if len(der) < at + length or not length:
        return None
    return int.from_bytes(der[at : at + length], "big").bit_length()


# -- TLS-12, TLS-13 ---------------------------------------------------------------------------------------------------


def _stapling(run: Run, servers: list[Server]) -> None:
    if servers:
        run.audit.decide("TLS-12")
    for server in servers:
        at = run.model.effective(server.block, "ssl_stapling")
        if at is None or at.args != ("on",):
            continue
        if (
            run.model.effective(server.block, "resolver") is None
            and run.model.effective(server.block, "ssl_stapling_file") is None
        ):
            run.find("TLS-12", at, f"{show(at)} without resolver: nothing is stapled")
        for item in run.model.values(server.block, "ssl_certificate"):
            if item.args and item.args[0].startswith("/etc/letsencrypt/"):
                run.find("TLS-12", at, f"{show(at)}: Let's Encrypt has no responder any more ({show(item)})")


def _upstreams(run: Run, servers: list[Server]) -> None:
    run.audit.decide("TLS-13")
    model = run.model
    seen = set()
    groups = {block.args[0].lower(): block for block in model.walk("upstream") if block.args}
    for item in model.walk(*UPSTREAM_TLS):
        if not item.args or item.parent is None or not model.in_http(item):
            continue
        scheme = item.args[0].split("://")[0] if "://" in item.args[0] else ""
        if not any(text in ("https", "grpcs", "suwsgi", None) for text in run.values.strings(scheme)) or not scheme:
            continue
        if "$" in scheme and set(run.values.strings(scheme)) == {None} and "$scheme" not in scheme:
            continue
        kind = UPSTREAM_TLS[item.name]
        key = (id(item), kind)
        if key in seen:
            continue
        seen.add(key)
        host = re.sub(r":[0-9]+$", "", item.args[0].split("://")[1].partition("/")[0])
        lacking = []
        if model.value(item.parent, f"{kind}_ssl_verify", "off") != "on":
            lacking.append(f"{kind}_ssl_verify on")
        elif model.effective(item.parent, f"{kind}_ssl_trusted_certificate") is None:
            lacking.append(f"{kind}_ssl_trusted_certificate")
        elif host.lower() in groups and model.effective(item.parent, f"{kind}_ssl_name") is None:
            lacking.append(f"{kind}_ssl_name (the name of the upstream block is checked)")
        if lacking:
            run.find("TLS-13", item, f"{show(item)} without {', '.join(lacking)}")
        elif (
            model.value(item.parent, f"{kind}_ssl_server_name", "off") != "on"
            and re.search("[a-z]", host)
            and not host.startswith("unix:")
        ):
            run.find("TLS-13", item, f"{show(item)} without {kind}_ssl_server_name on", severity="low")
        old = model.effective(item.parent, f"{kind}_ssl_protocols")
        if old is not None and set(old.args) & set(OLD):
            run.find("TLS-13", old, show(old))
        depth = model.value(item.parent, f"{kind}_ssl_verify_depth", "1")
        if depth == "0":
            run.find("TLS-13", item, f"{show(item)} with {kind}_ssl_verify_depth 0", severity="low")
    for server in servers:
        if model.value(server.block, "ssl_reject_handshake") != "on" or not any(
            listen.default for listen in server.listens
        ):
            continue
        multiplexed = model.value(server.block, "http2") == "on" or any(
            "http2" in listen.directive.args or listen.quic for listen in server.listens
        )
        if multiplexed and not all(
            model.answer(place)[0] == REFUSE or (isinstance(place, Location) and place.internal)
            for place in model.places(server)
        ):
            run.find(
                "TLS-13",
                server,
                "requests for other names inside an HTTP/2 connection are answered; return 421",
                severity="low",
            )
