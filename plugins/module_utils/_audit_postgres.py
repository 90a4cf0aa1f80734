# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judge PostgreSQL by its configuration, by its service, and by asking it (PGS).

PRIVATE: internal to the collection, may change in any release. Standard library only. No password is ever evidence.
"""

from __future__ import annotations

import datetime
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from ansible_collections.mcpstack.platform.plugins.module_utils import _postgres_ask as ask
from ansible_collections.mcpstack.platform.plugins.module_utils import _postgres_conf as conf
from ansible_collections.mcpstack.platform.plugins.module_utils import _postgres_hba as hba
from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import Files
from ansible_collections.mcpstack.platform.plugins.module_utils._checks_postgres import CHECKS

#: Libraries that may be loaded at start.
LIBRARIES = frozenset(
    "pg_stat_statements pgaudit auto_explain auth_delay set_user pg_stat_kcache vector passwordcheck credcheck".split()
)
#: What of the configuration decides these; SQL adds to some of them.
FROM_CONF = ("PGS-01", "PGS-03", "PGS-04", "PGS-08", "PGS-09", "PGS-10", "PGS-11")
FROM_SQL = ("PGS-01", "PGS-06", "PGS-07", "PGS-09", "PGS-10", "PGS-11", "PGS-12")

_GOOD_SUITE = re.compile(r"^(TLS_.*|(ECDHE|DHE)-.*(GCM|CHACHA20).*)\Z")
_WEAK_METHOD = ("trust", "password", "md5")
_SECRET_ENV = re.compile(r"(?i)^(POSTGRES(QL)?(_[A-Z0-9]+)*_PASSWORD|PGPASSWORD|POSTGRES_PASS)\Z")
_INITDB_AUTH = re.compile(r"(--auth(?:-host|-local)?|-A)[ =]?(trust|password|md5)\b")
_LEVELS = (
    "debug5",
    "debug4",
    "debug3",
    "debug2",
    "debug1",
    "info",
    "notice",
    "warning",
    "error",
    "log",
    "fatal",
    "panic",
)


@dataclass
class Service:
    """What is known of the service around the server. None is not known, not "no". mounts: (target, read-only)."""

    command: Sequence[str] | None = None
    environment: Sequence[str] | None = None
    mounts: Sequence[tuple[str, bool]] | None = None
    published: Sequence[str] | None = None
    contained: bool = True


@dataclass
class Request:
    """What to judge. Paths are those of ``files``; without hba_file and ident_file those of the configuration count.

    key_file: where the key is, when the configuration names a path inside a container. uid: who owns the data.
    """

    files: Files
    config_file: str = ""
    hba_file: str = ""
    ident_file: str = ""
    data_dir: str = ""
    key_file: str = ""
    uid: int | None = None
    service: Service = field(default_factory=Service)
    admin_roles: Sequence[str] = ("postgres",)
    extensions: Sequence[str] = tuple(sorted(ask.EXTENSIONS))
    subject: str = "postgres"
    query: ask.Query | None = None
    today: datetime.date = field(default_factory=lambda: datetime.datetime.now(datetime.timezone.utc).date())


def audit_postgres(request: Request) -> dict:
    """Findings, checks_run and summary. Never raises for what is read or answered."""
    audit = Audit(CHECKS)
    read = None
    if request.config_file:
        read = conf.read_conf(request.files, request.config_file)
        if request.data_dir and request.files.stat(f"{request.data_dir}/postgresql.auto.conf"):
            # ALTER SYSTEM writes it, and it wins over the file.
            own = conf.read_conf(request.files, f"{request.data_dir}/postgresql.auto.conf")
            read.found.update(own.found)
            read.problems += own.problems
        conf.add_arguments(read, request.service.command or (), f"command of {request.subject}")
        for problem in read.problems:
            for check in FROM_CONF:
                audit.unknown(check, problem)
        if read.found or not read.problems:
            judge_conf(audit, request, read)
    elif request.query is None:
        for check in FROM_CONF:
            audit.unknown(check, "no configuration was given, and no server was asked")
    _hba_files(audit, request, read)
    _service(audit, request)
    _data_dir(audit, request)
    if request.query is None:
        for check in FROM_SQL:
            audit.unknown(check, "no server was asked")
    else:
        _ask(audit, request)
    return audit.result()


# -- configuration ----------------------------------------------------------------------------------------------------


def judge_conf(audit: Audit, request: Request, read: conf.Conf) -> None:
    """Everything that the settings decide."""
    audit.decide("PGS-01", "PGS-03", "PGS-04", "PGS-08", "PGS-09", "PGS-10", "PGS-11")

    def find(check: str, setting: conf.Setting, why: str = "", severity: str | None = None) -> None:
        evidence = f"{setting.name} = {setting.value or chr(39) * 2}" if setting.given else f"{setting.name} is not set"
        audit.find(check, request.subject, setting.where, f"{evidence}{': ' + why if why else ''}", severity=severity)

    if read.text("password_encryption", "scram-sha-256") != "scram-sha-256":
        find("PGS-01", read.get("password_encryption"))
    iterations = read.get("scram_iterations", "4096")
    if re.fullmatch("[0-9]{1,9}", iterations.value) and int(iterations.value) < 4096:
        find("PGS-01", iterations, "fewer than 4096", "medium")
    _encryption(audit, request, read, find)
    _reach(request, read, find)
    _logging(read, find)
    _bounds(read, find)
    for name in ("shared_preload_libraries", "session_preload_libraries", "local_preload_libraries"):
        unknown = [
            library
            for library in conf.words_of(read.get(name).value)
            if posixpath.basename(library).removesuffix(".so") not in LIBRARIES
        ]
        if unknown:
            find("PGS-10", read.get(name), f"{', '.join(unknown)} is not a known library", "medium")
    for name, good in (
        ("fsync", True),
        ("full_page_writes", True),
        ("ignore_checksum_failure", False),
        ("zero_damaged_pages", False),
    ):
        if read.on(name, "on" if good else "off") is not good:
            find("PGS-11", read.get(name))


def _encryption(audit: Audit, request: Request, read: conf.Conf, find) -> None:
    if not read.on("ssl"):
        find("PGS-03", read.get("ssl", "off"))
        return
    lowest = read.get("ssl_min_protocol_version", "TLSv1.2")
    if lowest.value.lower() not in ("tlsv1.2", "tlsv1.3"):
        find("PGS-03", lowest)
    suites = read.get("ssl_ciphers")
    if not suites.given:
        find("PGS-03", suites, "the default holds suites without forward secrecy", "low")
    else:
        weak = [suite for suite in re.split(r"[:, ]", suites.value) if suite and not _GOOD_SUITE.match(suite)]
        if weak:
            audit.find(
                "PGS-03", request.subject, suites.where, f"ssl_ciphers holds {', '.join(weak[:4])}", severity="medium"
            )
    if read.source == "pg_settings" and not request.key_file:
        return
    path = request.key_file or posixpath.join(request.data_dir, read.get("ssl_key_file", "server.key").value)
    if not path.startswith("/") or not request.files.knows(path):
        audit.unknown("PGS-03", f"the key {path} is not at hand")
        return
    info = request.files.stat(path)
    if info is None:
        audit.unknown("PGS-03", f"the key {path} is not there")
    elif info.mode & (0o037 if info.uid == 0 else 0o077):
        audit.find("PGS-03", request.subject, path, f"the key has mode {info.mode:04o}")


def _reach(request: Request, read: conf.Conf, find) -> None:
    listen = read.get("listen_addresses", "localhost")
    if not request.service.contained and any(word in ("*", "0.0.0.0", "::") for word in conf.words_of(listen.value)):  # noqa: S104
        find("PGS-04", listen, severity="high")
    mode = read.get("unix_socket_permissions", "0777")
    if (
        re.fullmatch("[0-7]{3,4}", mode.value)
        and int(mode.value, 8) & 0o007
        and read.get("unix_socket_directories", "the default").value
    ):
        find("PGS-04", mode, "every user of the machine may open the socket", "low")


def _logging(read: conf.Conf, find) -> None:
    for name in ("log_connections", "log_disconnections"):
        value = read.text(name, "off")
        # From 18 on log_connections is a list of what to tell.
        listed = name == "log_connections" and re.fullmatch(r"[a-z_, ]+", value) and value not in ("off", "no", "false")
        if not (
            conf.boolean(value) or listed and {"all", "authorization", "authentication"} & set(conf.words_of(value))
        ):
            find("PGS-08", read.get(name))
    statement = read.text("log_statement", "none")
    if statement not in ("ddl", "mod"):
        why = "statements may hold passwords and personal data" if statement == "all" else ""
        find("PGS-08", read.get("log_statement"), why, "low" if statement == "all" else None)
    prefix = read.get("log_line_prefix", "%m [%p] ")
    missing = [
        what for what, letters in (("time", "tmns"), ("process", "pc"), ("user", "u"), ("database", "d"), ("client", "hr"))
        if not re.search(rf"%-?[0-9]*[{letters}]", prefix.value)
    ]  # fmt: skip
    if missing and read.text("log_destination", "stderr") not in ("csvlog", "jsonlog"):
        find("PGS-08", prefix, f"does not tell {', '.join(missing)}")
    if not read.get("log_destination", "stderr").value.strip():
        find("PGS-08", read.get("log_destination"))
    for name, default, most in (
        ("log_min_messages", "warning", "warning"),
        ("log_min_error_statement", "error", "error"),
    ):
        value = read.text(name, default)
        if value in _LEVELS and _LEVELS.index(value) > _LEVELS.index(most):
            find("PGS-08", read.get(name), "hides errors", "low")
    if read.text("log_error_verbosity", "default") == "terse":
        find("PGS-08", read.get("log_error_verbosity"), "hides details", "low")
    timed = any(
        (read.seconds(name, "-1", "ms") or 0) >= 0 for name in ("log_min_duration_statement", "log_min_duration_sample")
    )
    if read.text("log_parameter_max_length", "-1") != "0" and (timed or statement in ("all", "mod")):
        find("PGS-08", read.get("log_parameter_max_length"), "parameters of statements are logged")
    if read.text("log_parameter_max_length_on_error", "0") != "0":
        find("PGS-08", read.get("log_parameter_max_length_on_error"), "parameters of statements are logged")
    for name in ("debug_print_parse", "debug_print_rewritten", "debug_print_plan"):
        if read.on(name):
            find("PGS-08", read.get(name), "statements are logged in full", "low")


def _bounds(read: conf.Conf, find) -> None:
    if not read.seconds("idle_in_transaction_session_timeout", "0", "ms"):
        find("PGS-09", read.get("idle_in_transaction_session_timeout"))
    if (read.seconds("authentication_timeout", "60", "s") or 0) > 60:
        find("PGS-09", read.get("authentication_timeout"), "more than a minute")
    for name, default, low, high in (
        ("max_connections", "100", 1, 1000),
        ("superuser_reserved_connections", "3", 1, 1000),
    ):
        value = read.get(name, default)
        if re.fullmatch("[0-9]{1,9}", value.value) and not low <= int(value.value) <= high:
            find("PGS-09", value)


# -- who gets in ------------------------------------------------------------------------------------------------------


def _hba_files(audit: Audit, request: Request, read: conf.Conf | None) -> None:
    path = request.hba_file or (read.get("hba_file").value if read else "")
    if not path and request.config_file:
        path = posixpath.join(posixpath.dirname(request.config_file), "pg_hba.conf")
    if not path:
        if request.query is None:
            audit.unknown("PGS-02", "no pg_hba.conf was given")
        return
    rules, problems = hba.parse_rules(hba.read_table(request.files, path))
    _judge_rules(audit, request, rules, problems)
    path = request.ident_file or (read.get("ident_file").value if read else "")
    if path:
        table = hba.read_table(request.files, path)
        for problem in table.problems:
            audit.unknown("PGS-02", problem)
        hba.judge_maps(
            table,
            request.admin_roles,
            lambda where, what, severity: audit.find("PGS-02", request.subject, where, what, severity=severity),
        )


def _judge_rules(audit: Audit, request: Request, rules: Sequence[hba.Rule], problems: Sequence[str]) -> None:
    audit.decide("PGS-02")
    for problem in problems:
        audit.unknown("PGS-02", problem)
    hba.judge(
        rules, lambda where, what, severity: audit.find("PGS-02", request.subject, where, what, severity=severity)
    )


# -- the service around it --------------------------------------------------------------------------------------------


def _service(audit: Audit, request: Request) -> None:
    service, subject = request.service, request.subject
    if service.published is None:
        audit.unknown("PGS-04", "whether a port is published is not known")
    elif service.published:
        audit.find("PGS-04", subject, subject, f"publishes {', '.join(service.published)}")
    if not service.contained:
        audit.not_applicable("PGS-05", "the server does not run in a container")
        return
    if service.environment is None or service.mounts is None or service.command is None:
        audit.unknown("PGS-05", "the command, the environment or the mounts of the service are not known")
    else:
        audit.decide("PGS-05")
    for entry in service.environment or ():
        name, _equals, value = entry.partition("=")
        if name == "POSTGRES_HOST_AUTH_METHOD" and value.strip().lower() in _WEAK_METHOD:
            severity = None if value.strip().lower() == "trust" else "high"
            audit.find("PGS-05", subject, subject, f"POSTGRES_HOST_AUTH_METHOD={value.strip()}", severity=severity)
        elif name == "POSTGRES_INITDB_ARGS":
            for match in _INITDB_AUTH.finditer(value):
                severity = None if match[2] == "trust" else "high"
                audit.find("PGS-05", subject, subject, f"POSTGRES_INITDB_ARGS holds {match[0]}", severity=severity)
        elif _SECRET_ENV.match(name) and value:
            audit.find("PGS-05", subject, subject, f"the environment holds {name}", severity="high")
    for word in service.command or ():
        if re.search(r"(?i)\bPGPASSWORD=.|://[^/@\s:]+:[^/@\s]+@", word):
            audit.find("PGS-05", subject, subject, "the command holds a password", severity="high")
    for target, read_only in service.mounts or ():
        if target.startswith("/docker-entrypoint-initdb.d") and not read_only:
            audit.find("PGS-05", subject, target, "the scripts of the first start can be written", severity="medium")


def _data_dir(audit: Audit, request: Request) -> None:
    path = request.data_dir
    if not path or not request.files.knows(path):
        if request.query is None:
            audit.unknown("PGS-11", "the data directory is not at hand, and no server was asked")
        return
    info = request.files.stat(path)
    if info is None:
        audit.unknown("PGS-11", f"{path} is not there")
        return
    if info.mode & 0o027:
        audit.find("PGS-11", request.subject, path, f"the data directory has mode {info.mode:04o}")
    if request.uid is not None and info.uid != request.uid:
        audit.find("PGS-11", request.subject, path, f"the data directory belongs to uid {info.uid}, not {request.uid}")


# -- the running server -----------------------------------------------------------------------------------------------


def _ask(audit: Audit, request: Request) -> None:
    def question(sql: str, checks: Sequence[str], what: str, database: str = ""):
        try:
            return request.query(sql, database)
        except ask.Unanswered as error:
            for check in checks:
                audit.unknown(check, f"{what}: {error}")
        return None

    def rows(value) -> list[dict]:
        return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []

    settings = question(ask.SETTINGS, (*FROM_SQL, *FROM_CONF), "the settings")
    settings = {str(name): value for name, value in settings.items()} if isinstance(settings, dict) else {}
    if settings:
        live = conf.from_settings(settings)
        if not request.config_file:
            judge_conf(audit, request, live)
        elif live.text("password_encryption", "scram-sha-256") != "scram-sha-256":
            audit.find(
                "PGS-01", request.subject, "pg_settings", f"password_encryption = {live.text('password_encryption')}"
            )
        ask.judge_running(audit, request.subject, settings)
        good, why = ask.judge_version(str(settings.get("server_version") or ""), request.today)
        if good is None:
            audit.unknown("PGS-12", why)
        elif good:
            audit.decide("PGS-12")
        else:
            audit.find("PGS-12", request.subject, "server_version", why)
    stored = question(ask.MD5, ("PGS-01",), "the stored passwords")
    for name in stored if isinstance(stored, list) else ():
        audit.find("PGS-01", request.subject, f"role {name}", "its stored password is an MD5 hash")
    major = re.match("[0-9]{1,3}", str(settings.get("server_version") or ""))
    lines = question(ask.HBA_16 if major and int(major[0]) >= 16 else ask.HBA, ("PGS-02",), "pg_hba_file_rules")
    if lines is not None and not request.hba_file and not request.config_file:
        _judge_rules(audit, request, *hba.from_view(rows(lines)))
    roles = question(ask.ROLES, ("PGS-06", "PGS-09", "PGS-10"), "the roles")
    if roles is not None:
        timeout = str(settings.get("statement_timeout") or "0")
        ask.judge_roles(audit, request.subject, rows(roles), request.admin_roles, timeout)
    databases = question(ask.DATABASES, ("PGS-07", "PGS-10"), "the databases")
    if databases is not None:
        audit.decide("PGS-07")
        ask.judge_databases(audit, request.subject, rows(databases))
        for database in rows(databases)[:100]:
            name = str(database.get("name"))
            inside = question(ask.INSIDE, ("PGS-07", "PGS-10"), f"database {name}", name)
            if isinstance(inside, dict):
                ask.judge_inside(audit, request.subject, name, inside, request.extensions)
