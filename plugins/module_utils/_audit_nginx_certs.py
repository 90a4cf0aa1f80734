# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""nginx: the certificates and keys that a configuration names (TLS-08 to TLS-12).

PRIVATE: internal to the collection, may change in any release. Standard library only; whether a key belongs to its
certificate is asked of the ssl module, which reads files of this machine only.
"""

from __future__ import annotations

import datetime
import ssl
from dataclasses import dataclass

from ansible_collections.mcpstack.platform.plugins.module_utils import _audit_tls as live
from ansible_collections.mcpstack.platform.plugins.module_utils import _x509 as x509
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import LocalFiles, Unreadable
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_nginx_access import parents
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_model import Server
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_parse import Directive
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_run import Run, show

CERTIFICATE = ("TLS-08", "TLS-09", "TLS-10")
KEYS = (
    "ssl_certificate_key",
    "proxy_ssl_certificate_key",
    "grpc_ssl_certificate_key",
    "uwsgi_ssl_certificate_key",
    "ssl_session_ticket_key",
)


@dataclass(frozen=True)
class _Wanted:
    """What the judgement of a live endpoint wants to know."""

    now: datetime.datetime
    profile: str
    ca_file: str | None
    production: bool


def paths(run: Run, item: Directive) -> list[str] | None:
    """The files a directive names, also through a map that writes them out; None when a client or code decides."""
    texts = run.values.strings(item.args[0]) if item.args else []
    if any(text is None for text in texts):
        return None
    return [text for text in texts if text]


def judge(run: Run) -> None:
    _keys(run)
    servers = [
        server
        for server in run.model.servers
        if server.tls and run.model.value(server.block, "ssl_reject_handshake") != "on"
    ]
    if not servers:
        for check in CERTIFICATE:
            run.audit.not_applicable(
                check, "another proxy ends TLS" if run.policy.tls_elsewhere else "nothing listens with TLS"
            )
        return
    wanted: dict[tuple[str, str], tuple[Directive, list[Server]]] = {}
    for server in servers:
        pairs = zip(
            run.model.values(server.block, "ssl_certificate"), run.model.values(server.block, "ssl_certificate_key")
        )
        for certificate, key in pairs:
            files, secrets = paths(run, certificate), paths(run, key)
            if files is None or secrets is None:
                for check in CERTIFICATE:
                    run.unknown(check, f"{certificate.where}: which file it is depends on the request")
                continue
            for number, file in enumerate(files):
                secret = secrets[number] if number < len(secrets) else ""
                wanted.setdefault((file, secret), (certificate, []))[1].append(server)
    for (file, secret), (item, users) in wanted.items():
        _certificate(run, file, secret, item, users)


def _certificate(run: Run, file: str, secret: str, item: Directive, users: list[Server]) -> None:
    if file.startswith(("data:", "engine:", "store:")):
        text = file.removeprefix("data:") if file.startswith("data:") else ""
    else:
        path = run.lies(file)
        if not run.files.knows(path):
            for check in CERTIFICATE:
                run.unknown(check, f"{path} was not handed over")
            return
        try:
            text = run.files.text(path, 1 << 20)
        except Unreadable as error:
            for check in CERTIFICATE:
                run.unknown(check, f"{path} {error.what}")
            return
    try:
        chain = x509.parse_pem(text)
    except x509.DerError as error:
        for check in CERTIFICATE:
            run.unknown(check, f"{file}: a certificate cannot be read: {error}")
        return
    if not chain:
        for check in CERTIFICATE:
            run.unknown(check, f"{file} holds no certificate in PEM form")
        return
    run.audit.decide(*CERTIFICATE)
    policy = run.policy
    now = policy.now or datetime.datetime.now(datetime.timezone.utc)
    request = _Wanted(now, policy.tls_profile, "private" if policy.private_ca else None, policy.production)
    names = {
        name
        for user in users
        if user.outside
        for name in user.names
        if name not in ("", "_", "localhost") and not name.startswith(("~", ".", "*")) and not name.endswith(".*")
    }
    wildcards = {name for user in users if user.outside for name in user.names if name.startswith(("*.", "."))}
    names |= set(policy.server_names)
    leaf = chain[0]
    # The same sentences as for a live endpoint, once for each name.
    for name in sorted(names) or [leaf.dns_names[0] if leaf.dns_names else "localhost"]:
        live._leaf(run.audit, request, name, item.where, leaf)
    for name in sorted(wildcards):
        if f"*{name[name.index('.') :]}" not in leaf.dns_names:
            run.audit.find("TLS-08", name, item.where, f"is not for {name}")
    subject = sorted(names)[0] if names else file
    live._keys(run.audit, subject, item.where, chain)
    for problem in live.chain_problems(chain):
        run.audit.find("TLS-10", subject, item.where, problem)
    if leaf.self_issued:
        run.audit.find(
            "TLS-12",
            subject,
            item.where,
            "the certificate is self-signed",
            severity="medium" if policy.production else "low",
        )
    if secret:
        _belongs(run, file, secret, item)


def _belongs(run: Run, file: str, secret: str, item: Directive) -> None:
    """Whether the key is the one of the certificate; nginx would not start otherwise."""
    if not isinstance(run.files, LocalFiles) or secret.startswith(("data:", "engine:", "store:")):
        run.unknown("TLS-09", f"{file}: whether the key belongs to it can be asked only where the files lie")
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # An empty passphrase, because OpenSSL would otherwise ask at the terminal.
        context.load_cert_chain(run.files.root + run.lies(file), run.files.root + run.lies(secret), lambda: "")
    except ssl.SSLError as error:
        if "MISMATCH" in str(error).upper().replace(" ", "_"):
            run.find("TLS-09", item, f"{show(item)}: the key does not belong to it")
        else:
            run.unknown("TLS-09", f"{secret}: the key cannot be loaded")
    except (OSError, ValueError):
        run.unknown("TLS-09", f"{secret}: the key cannot be read")


def _keys(run: Run) -> None:
    """TLS-11: who can read the private keys."""
    items = [item for item in run.model.walk(*KEYS) if item.args]
    if not items:
        run.audit.not_applicable("TLS-11", "no private key is named")
        return
    for item in items:
        if any(text and text.startswith("data:") for text in run.values.strings(item.args[0])):
            run.find("TLS-11", item, f"{item.name}: the key stands in the configuration itself")
            continue
        if item.args[0].startswith(("engine:", "store:")):
            run.audit.decide("TLS-11")
            continue
        names = paths(run, item)
        if names is None:
            run.unknown("TLS-11", f"{item.where}: which file it is depends on the request")
            continue
        for name in names:
            path = run.lies(name)
            if not run.policy.modes or not run.files.knows(path):
                run.unknown("TLS-11", f"{path}: owner and mode are not known here")
                continue
            info = run.files.stat(path)
            if info is None:
                run.unknown("TLS-11", f"{path} does not exist")
                continue
            run.audit.decide("TLS-11")
            if info.mode & 0o037:
                run.audit.find("TLS-11", path, path, f"mode {info.mode:04o}")
            elif info.uid not in run.policy.owners:
                run.audit.find("TLS-11", path, path, f"belongs to user {info.uid}", severity="medium")
            for directory in parents(path):
                above = run.files.stat(directory)
                if above is not None and above.mode & 0o022 and not above.mode & 0o1000:
                    run.audit.find(
                        "TLS-11", path, directory, f"{directory} has mode {above.mode:04o}: the key can be replaced"
                    )
