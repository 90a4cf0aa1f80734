# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Questions to a running PostgreSQL, each one SELECT that answers with one value of JSON. PRIVATE: may change at any time.

What the role that asks may not know is refused by the server, and stays unknown. A member of pg_monitor gets most
answers; stored hashes and pg_hba.conf are for superusers.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Sequence

from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit
from ansible_collections.mcpstack.platform.plugins.module_utils._postgres_conf import boolean, seconds

SETTINGS = "select json_object_agg(name, current_setting(name, true)) from pg_settings"
HBA = "select coalesce(json_agg(to_jsonb(r) order by line_number), '[]') from pg_hba_file_rules r"
#: In PostgreSQL 16 and later the order of lines over several files is that of rule_number; lines with errors have none.
HBA_16 = "select coalesce(json_agg(to_jsonb(r) order by rule_number nulls last), '[]') from pg_hba_file_rules r"
MD5 = "select coalesce(json_agg(rolname order by rolname), '[]') from pg_authid where rolpassword like 'md5%'"
ROLES = (
    "select coalesce(json_agg(json_build_object('name', r.rolname, 'super', r.rolsuper, 'createrole', r.rolcreaterole,"
    " 'createdb', r.rolcreatedb, 'replication', r.rolreplication, 'bypassrls', r.rolbypassrls, 'limit', r.rolconnlimit,"
    " 'settings', r.rolconfig,"
    " 'supers', (select coalesce(json_agg(s.rolname order by s.rolname), '[]') from pg_roles s"
    "   where s.rolsuper and not r.rolsuper and pg_has_role(r.oid, s.oid, 'MEMBER')),"
    " 'server', (select coalesce(json_agg(s.rolname order by s.rolname), '[]') from pg_roles s where s.rolname in"
    "   ('pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files')"
    "   and not r.rolsuper and pg_has_role(r.oid, s.oid, 'MEMBER'))"
    ") order by r.rolname), '[]') from pg_roles r where r.rolcanlogin"
)
DATABASES = (
    "select coalesce(json_agg(json_build_object('name', d.datname, 'public', (select coalesce(json_agg(distinct"
    " a.privilege_type), '[]') from aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a where a.grantee = 0))"
    " order by d.datname), '[]') from pg_database d where d.datallowconn"
)
INSIDE = (
    "select json_build_object('create', coalesce((select has_schema_privilege('public', n.oid, 'CREATE')"
    " from pg_namespace n where n.nspname = 'public'), false),"
    " 'extensions', (select coalesce(json_agg(extname order by extname), '[]') from pg_extension),"
    " 'languages', (select coalesce(json_agg(lanname order by lanname), '[]') from pg_language"
    "   where not lanpltrusted and lanname not in ('internal', 'c')))"
)

#: What may be installed when nothing else is said: nothing in it leaves the database or reads files.
EXTENSIONS = frozenset(
    "plpgsql vector pg_trgm btree_gin btree_gist citext fuzzystrmatch hstore intarray ltree pgcrypto unaccent uuid-ossp"
    " pg_stat_statements pgaudit set_user cube earthdistance isn seg tablefunc tcn lo dict_int dict_xsyn bloom"
    " tsm_system_rows tsm_system_time intagg pg_buffercache pgrowlocks pgstattuple sslinfo postgis".split()
)
#: Last day of support of each major version (versioning policy), and its minor version of November 2025.
SUPPORT = {
    10: "2022-11-10", 11: "2023-11-09", 12: "2024-11-21", 13: "2025-11-13", 14: "2026-11-12", 15: "2027-11-11",
    16: "2028-11-09", 17: "2029-11-08", 18: "2030-11-14",
}  # fmt: skip
FLOORS = {13: 23, 14: 20, 15: 15, 16: 11, 17: 7, 18: 1}

_ATTRIBUTES = {
    "super": "SUPERUSER", "createrole": "CREATEROLE", "createdb": "CREATEDB", "replication": "REPLICATION",
    "bypassrls": "BYPASSRLS",
}  # fmt: skip


class Unanswered(Exception):
    """The server refused a question, or there is no server; the text says why."""


#: query(sql, database) -> the value of JSON; raises Unanswered.
Query = Callable[[str, str], object]


def judge_version(version: str, today: datetime.date) -> tuple[bool | None, str]:
    """Whether a version is supported and has the fixes this table knows of; None when it cannot be told."""
    match = re.match(r"([0-9]{1,3})\.([0-9]{1,3})(?![0-9])", version)
    if not match:
        beta = re.match(r"[0-9]{1,3}(beta|rc|devel|alpha)", version)
        return (False, f"{version} is no release") if beta else (None, f"{version or 'nothing'} is no version")
    major, minor = int(match[1]), int(match[2])
    end = SUPPORT.get(major)
    if end is None:
        return (
            (None, f"{major} is newer than this table")
            if major > max(SUPPORT)
            else (False, f"{major} is not supported any more")
        )
    if today > datetime.date.fromisoformat(end):
        return False, f"{major}.{minor}: support ended on {end}"
    if minor < FLOORS[major]:
        return False, f"{major}.{minor} is older than {major}.{FLOORS[major]} of November 2025"
    return True, ""


def judge_roles(audit: Audit, subject: str, roles: Sequence[dict], admins: Sequence[str], timeout: str) -> None:
    """PGS-06, PGS-09 and PGS-10 of the roles that may log in."""
    audit.decide("PGS-06")
    for role in roles:
        name = str(role.get("name"))
        if name in admins:
            continue
        where = f"role {name}"
        has = [text for key, text in _ATTRIBUTES.items() if role.get(key)]
        if has:
            severity = "critical" if role.get("super") else None
            audit.find("PGS-06", subject, where, f"has {', '.join(has)}", severity=severity)
        if role.get("supers"):
            audit.find(
                "PGS-06",
                subject,
                where,
                f"is a member of {', '.join(role['supers'])}, a superuser",
                severity="critical",
            )
        if role.get("server"):
            audit.find("PGS-10", subject, where, f"is a member of {', '.join(role['server'])}")
        if role.get("limit") == -1:
            audit.find("PGS-09", subject, where, "has no connection limit")
        own = dict(entry.split("=", 1) for entry in role.get("settings") or () if "=" in entry)
        if not seconds(own.get("statement_timeout", timeout), "ms"):
            audit.find("PGS-09", subject, where, "has no statement_timeout")


def judge_databases(audit: Audit, subject: str, databases: Sequence[dict]) -> None:
    """PGS-07 of the rights on databases."""
    for database in databases:
        granted = sorted(str(right) for right in database.get("public") or ())
        if granted:
            audit.find("PGS-07", subject, f"database {database.get('name')}", f"PUBLIC has {', '.join(granted)}")


def judge_inside(audit: Audit, subject: str, name: str, inside: dict, allowed: Sequence[str]) -> None:
    """PGS-07 and PGS-10 of what is in a database."""
    where = f"database {name}"
    if inside.get("create"):
        audit.find("PGS-07", subject, where, "PUBLIC may create objects in schema public")
    languages = [str(language) for language in inside.get("languages") or ()]
    for language in languages:
        audit.find("PGS-10", subject, where, f"the untrusted language {language} is installed")
    for extension in inside.get("extensions") or ():
        if extension not in allowed and str(extension) not in languages:
            audit.find("PGS-10", subject, where, f"extension {extension} is not on the allow-list", severity="medium")


def judge_running(audit: Audit, subject: str, settings: dict) -> None:
    """PGS-11 of the settings that only a running server has."""
    if "data_checksums" not in settings:
        audit.unknown("PGS-11", "the server does not tell whether checksums are on")
    elif not boolean(str(settings["data_checksums"])):
        audit.find("PGS-11", subject, "data_checksums", "data checksums are off", severity="medium")
    mode = str(settings.get("data_directory_mode") or "")
    if re.fullmatch("[0-7]{3,5}", mode) and int(mode, 8) & 0o027:
        audit.find("PGS-11", subject, "data_directory_mode", f"the data directory has mode {mode}")
