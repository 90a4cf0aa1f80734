# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Roles, databases and extensions of a running PostgreSQL. PRIVATE, may change at any time.

One question (``inspection``), one answer (``parse``), a plan that is the difference (``plan``) and one script that
carries it out (``script``). Everything here is text in, text out; ``reconcile`` is the only function that talks to a
server, through ``psql`` in its own container as the superuser who comes in by peer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from ansible_collections.mcpstack.platform.plugins.module_utils import _postgres_scram as scram
from ansible_collections.mcpstack.platform.plugins.module_utils._engine import Engine, EngineUnavailable
from ansible_collections.mcpstack.platform.plugins.module_utils._postgres_login import LoginError, login

#: Extensions that may be installed. No procedural language that can leave the database, nothing that reads files.
EXTENSIONS = frozenset(
    "vector pg_trgm btree_gin btree_gist citext fuzzystrmatch hstore intarray ltree pgcrypto unaccent uuid-ossp".split()
)
_NAME = re.compile(r"^[a-z_][a-z0-9_]{0,62}\Z")
_RESERVED = re.compile(r"^(pg_.*|postgres|public|none|template[01])\Z")
_DURATION = re.compile(r"^(0|[1-9][0-9]*(ms|s|min|h))\Z")
_SECRET = re.compile(r"^([a-z_][a-z0-9_]{0,62}):([A-Za-z0-9]{32,})\Z")
_VERIFIER = re.compile(r"SCRAM-SHA-256\$[^'\s\"]*")

#: Attributes that no application role has.
ATTRIBUTES = {
    "rolsuper": "NOSUPERUSER",
    "rolcreatedb": "NOCREATEDB",
    "rolcreaterole": "NOCREATEROLE",
    "rolreplication": "NOREPLICATION",
    "rolbypassrls": "NOBYPASSRLS",
}
#: The databases that every cluster has and nobody but the superuser needs.
BUILTIN = ("postgres", "template1")


class StateError(Exception):
    """The server cannot be brought to the state; ``problems`` is a list of ``{where, what, fix}``."""

    def __init__(self, problems: list[dict]) -> None:
        self.problems = problems
        super().__init__("\n".join(f"{p['where']}: {p['what']}; {p['fix']}." for p in problems))


@dataclass(frozen=True)
class Group:
    """A role that cannot log in, and the pair of login roles that act as it."""

    name: str
    logins: tuple[str, ...]
    secret_file: str
    connection_limit: int = 20
    statement_timeout: str = "30s"
    lock_timeout: str = "10s"


@dataclass(frozen=True)
class Database:
    """One database, the group that owns it, and the groups that may connect and own nothing."""

    name: str
    owning: Group
    roles: tuple[Group, ...] = ()
    extensions: tuple[str, ...] = ()
    search_path: tuple[str, ...] = ("public",)
    absent: bool = False

    @property
    def owner(self) -> str:
        """The role that owns the database and everything the application makes in it."""
        return self.owning.name

    @property
    def groups(self) -> tuple[Group, ...]:
        """The owner, then the roles beside it."""
        return (self.owning, *self.roles)

    @property
    def applications(self) -> list[str]:
        """Every role that must not own or make anything."""
        return [name for group in self.roles for name in (group.name, *group.logins)]


@dataclass(frozen=True)
class Secret:
    """What a secret file says: which of the pair is current, and its password."""

    role: str
    password: str = field(repr=False)


@dataclass(frozen=True)
class Action:
    """One statement, and what it is for in words that hold no secret."""

    where: str
    what: str
    sql: str = field(repr=False)
    database: str = ""
    quiet: bool = False

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


# -- quoting ----------------------------------------------------------------------------------------------------------


def identifier(name: str) -> str:
    """Quote a name for SQL."""
    if "\0" in name or not name:
        raise ValueError("a name must not be empty and must not hold a NUL character")
    return '"' + name.replace('"', '""') + '"'


def literal(value: str) -> str:
    """Quote a string for SQL, whatever standard_conforming_strings says."""
    if "\0" in value:
        raise ValueError("a string must not hold a NUL character")
    quoted = "'" + value.replace("'", "''") + "'"
    return " E" + quoted.replace("\\", "\\\\") if "\\" in quoted else quoted


# -- what is wanted ---------------------------------------------------------------------------------------------------


def _problem(where: str, what: str, fix: str) -> dict:
    return {"where": where, "what": what, "fix": fix}


class _Reader:
    """Reads the wanted databases and collects what is wrong with them."""

    def __init__(self) -> None:
        self.problems: list[dict] = []
        self._used: dict[str, str] = {}

    def add(self, where: str, what: str, fix: str) -> None:
        self.problems.append(_problem(where, what, fix))

    def name(self, where: str, name: str, kind: str) -> None:
        """A name that can be used, and is used once in the cluster."""
        if not _NAME.match(name) or _RESERVED.match(name):
            fix = "use lower-case letters, digits and underscores, at most 63, and no name PostgreSQL uses itself"
            self.add(where, f"{name!r} is no usable name", fix)
        elif f"{kind} {name}" in self._used:
            taken = self._used[f"{kind} {name}"]
            self.add(where, f"{name} is already used by {taken}", "give every entry names of its own")
        else:
            self._used[f"{kind} {name}"] = where

    def group(self, where: str, key: str, item: dict, absent: bool) -> Group:
        """The role that ``item`` calls ``key``, with its logins and their limits."""
        logins = [str(name) for name in item.get("logins") or []]
        self.name(f"{where}.{key}", item[key], "role")
        for position, name in enumerate(logins):
            self.name(f"{where}.logins[{position}]", name, "role")
        if not absent and not logins:
            self.add(f"{where}.logins", "is empty", "name the login roles, two of them so that they can rotate")
        if not absent and not item.get("secret_file"):
            self.add(f"{where}.secret_file", "is empty", "name the file that holds login and password")
        for option, default in (("statement_timeout", "30s"), ("lock_timeout", "10s")):
            if not _DURATION.match(str(item.get(option) or default)):
                self.add(f"{where}.{option}", f"is {item[option]!r}", "write it like 30s, 500ms, 5min or 0")
        limit = item.get("connection_limit")
        limit = 20 if limit is None else limit
        if not 1 <= limit <= 10000:
            self.add(f"{where}.connection_limit", f"is {limit}", "give a number from 1 to 10000")
        return Group(
            name=item[key],
            logins=tuple(logins),
            secret_file=item.get("secret_file") or "",
            connection_limit=limit,
            statement_timeout=str(item.get("statement_timeout") or "30s"),
            lock_timeout=str(item.get("lock_timeout") or "10s"),
        )


def parse_databases(items: list[dict]) -> list[Database]:
    """Check the wanted databases; raise StateError with every problem at once."""
    reader = _Reader()
    databases: list[Database] = []
    for index, item in enumerate(items):
        where = f"databases[{index}]"
        absent = item.get("state") == "absent"
        extensions = [str(name) for name in item.get("extensions") or []]
        search_path = [str(name) for name in item.get("search_path") or ["public"]]
        reader.name(f"{where}.name", item["name"], "database")
        owning = reader.group(where, "owner", item, absent)
        roles = [
            reader.group(f"{where}.roles[{position}]", "name", role, absent)
            for position, role in enumerate(item.get("roles") or [])
        ]
        for position, name in enumerate(search_path):
            if not _NAME.match(name) or name.startswith("pg_"):
                fix = "name schemas with lower-case letters, digits and underscores; pg_temp is always put last"
                reader.add(f"{where}.search_path[{position}]", f"{name!r} is no usable schema", fix)
        for position, name in enumerate(extensions):
            if name not in EXTENSIONS:
                fix = f"use one of {', '.join(sorted(EXTENSIONS))}"
                reader.add(f"{where}.extensions[{position}]", f"{name!r} is not an allowed extension", fix)
        databases.append(
            Database(
                name=item["name"],
                owning=owning,
                roles=tuple(roles),
                extensions=tuple(extensions),
                search_path=tuple(search_path),
                absent=absent,
            )
        )
    if reader.problems:
        raise StateError(reader.problems)
    return databases


def parse_secret(text: str) -> Secret:
    """Read ``login:password``; the message of the error never holds what was read."""
    found = _SECRET.match(text.removesuffix("\n"))
    if not found:
        raise ValueError("does not hold one line of login:password with at least 32 letters and digits")
    return Secret(found[1], found[2])


def read_secrets(databases: list[Database], missing_is_fine: bool = False) -> dict[str, Secret]:
    """Read the secret of every group that is wanted, by its name; raise StateError with every problem at once."""
    problems, secrets = [], {}
    for group in [group for item in databases if not item.absent for group in item.groups]:
        where, what = f"role {group.name}", f"secret file {group.secret_file}"
        try:
            with open(group.secret_file, encoding="ascii") as handle:
                secret = parse_secret(handle.read(4096))
        except FileNotFoundError:
            if not missing_is_fine:
                problems.append(_problem(where, f"{what} does not exist", "run the secrets role first"))
        except (OSError, UnicodeDecodeError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "it is not ASCII"
            fix = "run as root, or make the secret anew"
            problems.append(_problem(where, f"{what} cannot be read ({reason})", fix))
        except ValueError as exc:
            problems.append(_problem(where, f"{what} {exc}", "make the secret anew"))
        else:
            if secret.role in group.logins:
                secrets[group.name] = secret
            else:
                fix = f"it must be one of {', '.join(group.logins)}"
                problems.append(_problem(where, f"{what} names a login role that is not declared", fix))
    if problems:
        raise StateError(problems)
    return secrets


# -- what is there ----------------------------------------------------------------------------------------------------


def _array(names) -> str:
    return "array[" + ",".join(literal(name) for name in names) + "]::text[]"


def _roles(databases: list[Database]) -> set[str]:
    return {name for database in databases for group in database.groups for name in (group.name, *group.logins)}


def inspection(databases: list[Database]) -> str:
    """The one script that asks for everything; each answer is one line of JSON."""
    roles = sorted(_roles(databases))
    names = sorted({database.name for database in databases} | set(BUILTIN))
    lines = [
        "select jsonb_build_object('kind', 'server', 'version', current_setting('server_version'),"
        " 'settings', (select jsonb_object_agg(name, setting) from pg_settings where name in"
        " ('data_checksums', 'ssl', 'password_encryption')),"
        " 'hba_errors', (select coalesce(jsonb_agg(format('%s line %s: %s', file_name, line_number, error)), '[]')"
        " from pg_hba_file_rules where error is not null),"
        " 'available', (select jsonb_object_agg(name, default_version) from pg_available_extensions));",
        "select jsonb_build_object('kind', 'role', 'name', r.rolname, 'attributes', to_jsonb(r) - 'oid',"
        " 'settings', (select to_jsonb(setconfig) from pg_db_role_setting where setrole = r.oid and setdatabase = 0),"
        " 'expires', r.rolvaliduntil is not null and r.rolvaliduntil <> 'infinity',"
        " 'groups', (select jsonb_object_agg(g.rolname, m.inherit_option and m.set_option) from pg_auth_members m"
        " join pg_roles g on g.oid = m.roleid where m.member = r.oid))"
        f" from pg_authid r where r.rolname = any({_array(roles)});",
        "select jsonb_build_object('kind', 'database', 'name', d.datname, 'owner', pg_get_userbyid(d.datdba),"
        " 'public', has_database_privilege('public', d.oid, 'connect') or has_database_privilege('public', d.oid, 'temp')"
        " or has_database_privilege('public', d.oid, 'create'),"
        " 'rights', (select jsonb_agg(jsonb_build_array(r.rolname, lower(a.privilege_type)) order by r.rolname, a.privilege_type) from aclexplode(d.datacl) a"
        f" join pg_roles r on r.oid = a.grantee where r.rolname = any({_array(roles)})),"
        " 'settings', (select to_jsonb(setconfig) from pg_db_role_setting where setrole = 0 and setdatabase = d.oid))"
        f" from pg_database d where d.datname = any({_array(names)});",
    ]
    for database in databases:
        if database.absent:
            continue
        lines += [
            f"select exists(select 1 from pg_database where datname = {literal(database.name)}) as found \\gset",
            "\\if :found",
            f"\\connect {identifier(database.name)}",
            "select jsonb_build_object('kind', 'inside', 'database', current_database(),"
            " 'creators', (select coalesce(jsonb_agg(jsonb_build_array(n.nspname, coalesce(r.rolname, '')) order by n.nspname, r.rolname), '[]')"
            " from pg_namespace n cross join aclexplode(n.nspacl) a left join pg_roles r on r.oid = a.grantee"
            " where a.privilege_type = 'CREATE' and n.nspname !~ '^pg_(toast|temp)'"
            f" and (a.grantee = 0 or r.rolname = any({_array(database.applications)}))),"
            " 'owners', (select coalesce(jsonb_agg(distinct r.rolname), '[]') from pg_shdepend d"
            " join pg_roles r on r.oid = d.refobjid where d.refclassid = 'pg_authid'::regclass and d.deptype = 'o'"
            " and d.dbid = (select oid from pg_database where datname = current_database())"
            f" and r.rolname = any({_array(database.applications)})),"
            " 'extensions', (select coalesce(jsonb_object_agg(extname, extversion), '{}') from pg_extension));",
            "\\endif",
        ]
    return "\n".join(lines) + "\n"


@dataclass
class State:
    """What the server answered. An empty one is that of a server that does not exist yet."""

    server: dict = field(default_factory=dict)
    roles: dict = field(default_factory=dict)
    databases: dict = field(default_factory=dict)
    inside: dict = field(default_factory=dict)


def parse(output: str) -> State:
    """Read the answers of the inspection."""
    state = State()
    for line in output.splitlines():
        if not line.strip():
            continue
        try:
            item = json.loads(line)
            kind = item["kind"]
            if kind == "server":
                state.server = item
            elif kind == "inside":
                state.inside[item["database"]] = item
            else:
                {"role": state.roles, "database": state.databases}[kind][item["name"]] = item
        except (ValueError, KeyError, TypeError) as exc:
            fix = "look at the log of the postgres service"
            raise StateError([_problem("postgres", "its answer to the inspection cannot be read", fix)]) from exc
    if not state.server:
        raise StateError(
            [_problem("postgres", "it did not answer the inspection", "look at the log of the postgres service")]
        )
    return state


def _settings(item: dict | None) -> dict[str, str]:
    return dict(entry.split("=", 1) for entry in (item or {}).get("settings") or [])


# -- the difference ---------------------------------------------------------------------------------------------------


def _role_actions(name: str, group: Group, database: Database, state: State, secret: Secret | None) -> list[Action]:
    where, quoted = f"role {name}", identifier(name)
    have = state.roles.get(name)
    is_group = name == group.name
    limit = -1 if is_group else group.connection_limit
    actions = []
    if have is None:
        kind = "as owner, without login" if name == database.owner else "without login"
        options = " ".join(ATTRIBUTES.values())
        actions.append(
            Action(
                where, f"create it {kind}", f"CREATE ROLE {quoted} NOLOGIN INHERIT {options} CONNECTION LIMIT {limit}"
            )
        )
        have = {"attributes": {"rolinherit": True, "rolconnlimit": limit, "rolcanlogin": False, "rolpassword": None}}
    attributes = have["attributes"]
    excess = [option for key, option in ATTRIBUTES.items() if attributes.get(key)]
    if excess:
        taken = ", ".join(option.removeprefix("NO") for option in excess)
        actions.append(Action(where, f"take {taken} away", f"ALTER ROLE {quoted} {' '.join(excess)}"))
    if not attributes.get("rolinherit", True):
        actions.append(Action(where, "let it inherit", f"ALTER ROLE {quoted} INHERIT"))
    if attributes.get("rolconnlimit") != limit:
        shown = "unlimited" if limit < 0 else str(limit)
        actions.append(
            Action(where, f"set the connection limit to {shown}", f"ALTER ROLE {quoted} CONNECTION LIMIT {limit}")
        )
    groups = have.get("groups") or {}
    if group is not database.owning and database.owner in groups:
        revoke = f"REVOKE {identifier(database.owner)} FROM {quoted}"
        actions.append(Action(where, f"take the membership of {database.owner} away", revoke))
    if is_group:
        if attributes.get("rolcanlogin") or attributes.get("rolpassword"):
            actions.append(Action(where, "take login and password away", f"ALTER ROLE {quoted} NOLOGIN PASSWORD NULL"))
        return actions
    if groups.get(group.name) is not True:
        grant = f"GRANT {identifier(group.name)} TO {quoted} WITH INHERIT TRUE, SET TRUE"
        actions.append(Action(where, f"make it a member of {group.name}", grant))
    current = _settings(have)
    for setting, value in (
        ("role", group.name),
        ("statement_timeout", group.statement_timeout),
        ("lock_timeout", group.lock_timeout),
    ):
        if current.get(setting) != value:
            actions.append(
                Action(where, f"set {setting} to {value}", f"ALTER ROLE {quoted} SET {setting} = {literal(value)}")
            )
    if secret is not None and secret.role == name:
        if have.get("expires"):
            actions.append(Action(where, "let it not expire", f"ALTER ROLE {quoted} VALID UNTIL 'infinity'"))
        changes = []
        if not attributes.get("rolcanlogin"):
            changes.append(("allow login", "LOGIN"))
        if not scram.matches(attributes.get("rolpassword"), secret.password):
            changes.append(("set the password", f"PASSWORD {literal(scram.verifier(secret.password))}"))
        if changes:
            what = " and ".join(words for words, _sql in changes)
            sql = f"ALTER ROLE {quoted} " + " ".join(part for _words, part in changes)
            actions.append(Action(where, what, sql, quiet=True))
    return actions


def _database_actions(wanted: Database, state: State) -> list[Action]:
    where, quoted = f"database {wanted.name}", identifier(wanted.name)
    have = state.databases.get(wanted.name)
    actions = []
    if have is None:
        create = f"CREATE DATABASE {quoted} OWNER {identifier(wanted.owner)} TEMPLATE template0"
        actions.append(Action(where, f"create it, owned by {wanted.owner}", create))
    elif have["owner"] != wanted.owner:
        change = f"ALTER DATABASE {quoted} OWNER TO {identifier(wanted.owner)}"
        actions.append(Action(where, f"give it from {have['owner']} to {wanted.owner}", change))
    if have is None or have["public"]:
        actions.append(Action(where, "take the rights of PUBLIC away", f"REVOKE ALL ON DATABASE {quoted} FROM PUBLIC"))
    path = [*wanted.search_path, "pg_temp"]
    if _settings(have).get("search_path", "").replace('"', "").split(", ") != path:
        value = ", ".join(identifier(name) for name in path)
        actions.append(
            Action(where, f"set search_path to {', '.join(path)}", f"ALTER DATABASE {quoted} SET search_path = {value}")
        )
    actions += _right_actions(wanted, have or {})
    inside = state.inside.get(wanted.name) or {"extensions": {}}
    for name in inside.get("owners") or []:
        give = f"REASSIGN OWNED BY {identifier(name)} TO {identifier(wanted.owner)}"
        actions.append(Action(where, f"give what {name} owns to {wanted.owner}", give, wanted.name))
    for schema, name in inside.get("creators") or []:
        revoke = f"REVOKE CREATE ON SCHEMA {identifier(schema)} FROM {identifier(name) if name else 'PUBLIC'}"
        what = f"take CREATE in schema {schema} away from {name or 'PUBLIC'}"
        actions.append(Action(where, what, revoke, wanted.name))
    for name in wanted.extensions:
        installed, offered = inside["extensions"].get(name), (state.server.get("available") or {}).get(name)
        if installed is None:
            create = f"CREATE EXTENSION {identifier(name)} SCHEMA public"
            actions.append(Action(where, f"install extension {name}", create, wanted.name))
        elif offered is not None and installed != offered:
            update = f"ALTER EXTENSION {identifier(name)} UPDATE TO {literal(offered)}"
            actions.append(Action(where, f"update extension {name} from {installed} to {offered}", update, wanted.name))
    return actions


def _right_actions(wanted: Database, have: dict) -> list[Action]:
    """CONNECT for each role beside the owner, and nothing else: neither schemas nor temporary tables."""
    where, quoted = f"database {wanted.name}", identifier(wanted.name)
    rights: dict[str, set[str]] = {}
    for name, right in have.get("rights") or []:
        rights.setdefault(name, set()).add(right)
    actions = []
    for group in wanted.roles:
        if "connect" not in rights.get(group.name, ()):
            grant = f"GRANT CONNECT ON DATABASE {quoted} TO {identifier(group.name)}"
            actions.append(Action(where, f"let {group.name} connect", grant))
    for name in wanted.applications:
        excess = sorted(rights.get(name, set()) - {"connect"})
        if excess:
            what = ", ".join(excess).upper()
            revoke = f"REVOKE {what} ON DATABASE {quoted} FROM {identifier(name)}"
            actions.append(Action(where, f"take {what} away from {name}", revoke))
    return actions


def _absent_actions(wanted: Database, state: State) -> list[Action]:
    actions = []
    if wanted.name in state.databases:
        drop = f"DROP DATABASE {identifier(wanted.name)} WITH (FORCE)"
        actions.append(Action(f"database {wanted.name}", "drop it with everything in it", drop))
    for name in [*(name for group in wanted.groups for name in group.logins), *(group.name for group in wanted.groups)]:
        if name in state.roles:
            actions.append(Action(f"role {name}", "drop it", f"DROP ROLE {identifier(name)}"))
    return actions


def plan(databases: list[Database], state: State, secrets: dict[str, Secret]) -> list[Action]:
    """The statements that bring the server from ``state`` to ``databases``, in an order that works."""
    actions = []
    for database in databases:
        if not database.absent:
            for group in database.groups:
                for name in (group.name, *group.logins):
                    actions += _role_actions(name, group, database, state, secrets.get(group.name))
            actions += _database_actions(database, state)
    for name in BUILTIN:
        if state.databases.get(name, {"public": True})["public"]:
            revoke = f"REVOKE ALL ON DATABASE {identifier(name)} FROM PUBLIC"
            actions.append(Action(f"database {name}", "take the rights of PUBLIC away", revoke))
    for database in databases:
        if database.absent:
            actions += _absent_actions(database, state)
    return actions


def notes(databases: list[Database], state: State, secrets: dict[str, Secret]) -> list[str]:
    """What is unusual and is left alone, because somebody may be in the middle of it."""
    found = []
    for database in databases:
        if database.absent:
            continue
        for group in database.groups:
            # the owner is taken from a role beside it by the plan
            expected = {group.name, database.owner}
            for name in (group.name, *group.logins):
                extra = sorted(set((state.roles.get(name) or {}).get("groups") or {}) - expected)
                if extra:
                    found.append(f"role {name} is also a member of {', '.join(extra)}.")
            secret = secrets.get(group.name)
            for name in group.logins:
                have = state.roles.get(name) or {}
                if secret and name != secret.role and have.get("attributes", {}).get("rolcanlogin"):
                    found.append(
                        f"role {name} may log in although {secret.role} is the current login of {group.name}: a rotation is under way."
                    )
        for name in sorted(
            set((state.inside.get(database.name) or {}).get("extensions", {})) - set(database.extensions) - {"plpgsql"}
        ):
            found.append(f"database {database.name} has extension {name}, which is not declared.")
    return found


def impossible(databases: list[Database], state: State) -> list[dict]:
    """What no statement can repair; asked before anything is changed."""
    problems = []
    settings = state.server.get("settings") or {}
    for name, value, fix in (
        ("data_checksums", "on", "stop the service and run pg_checksums --enable"),
        ("ssl", "on", "deploy the service's configuration again"),
        ("password_encryption", "scram-sha-256", "deploy the service's configuration again"),
    ):
        if settings.get(name) != value:
            problems.append(_problem("postgres", f"{name} is {settings.get(name)}, not {value}", fix))
    for error in state.server.get("hba_errors") or []:
        problems.append(_problem("postgres", f"pg_hba.conf is wrong: {error}", "correct the option that put it there"))
    for database in databases:
        for name in () if database.absent else database.extensions:
            if name not in (state.server.get("available") or {}):
                problems.append(
                    _problem(
                        f"database {database.name}", f"extension {name} is not in the image", "use an image that has it"
                    )
                )
    return problems


def script(actions: list[Action]) -> str:
    """One psql script. A statement that holds a verifier is kept out of the server's log."""
    lines = []
    connected = ""
    for action in actions:
        if action.database != connected:
            lines.append(f"\\connect {identifier(action.database or 'postgres')}")
            connected = action.database
        if action.quiet:
            lines += [
                "BEGIN;",
                "SET LOCAL log_statement = 'none';",
                "SET LOCAL log_min_error_statement = 'panic';",
                "SET LOCAL log_min_duration_statement = -1;",
                f"{action.sql};",
                "COMMIT;",
            ]
        else:
            lines.append(f"{action.sql};")
    return "\n".join(lines) + "\n"


def redact(text: str) -> str:
    """Take verifiers out of what a server or psql said."""
    return _VERIFIER.sub("<verifier>", text)


# -- the server -------------------------------------------------------------------------------------------------------


class Server:
    """psql in the container of the service, as the superuser, over the socket."""

    def __init__(self, engine: Engine, container: dict, major: int = 17, timeout: float = 120) -> None:
        self._engine = engine
        self._id = container["Id"]
        self._timeout = timeout
        networks = (container.get("NetworkSettings") or {}).get("Networks") or {}
        self.addresses = [item["IPAddress"] for item in networks.values() if item.get("IPAddress")]
        self._argv = [
            f"/usr/lib/postgresql/{major}/bin/psql",
            *("-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=terse", "-v", "SHOW_CONTEXT=never"),
            *("-h", "/run/postgresql", "-U", "postgres", "-d", "postgres", "-f", "-"),
        ]

    def run(self, text: str) -> str:
        """Feed a script to psql; everything in it travels by stdin."""
        env = {"PGAPPNAME": "mcpstack-postgres-state", "PGCONNECT_TIMEOUT": "10"}
        done = self._engine.exec(self._id, self._argv, stdin=text.encode(), env=env, timeout=self._timeout)
        if done.rc != 0:
            said = redact(done.stderr.decode("utf-8", "replace")).strip()
            fix = "look at the log of the postgres service, then run again: what was done stays, the rest follows"
            raise StateError(
                [_problem("postgres", f"psql ended with status {done.rc}: {said or 'it said nothing'}", fix)]
            )
        return done.stdout.decode("utf-8", "replace")


def prove_logins(databases, secrets, addresses, ca_file: str, connect: Callable = login) -> list[dict]:
    """Log in with every current secret as its consumer will; raise StateError with every failure at once."""
    problems, proved = [], []
    wanted = [(item, group) for item in databases if not item.absent for group in item.groups]
    for database, group in wanted:
        secret = secrets.get(group.name)
        if secret is None:
            continue
        where = f"database {database.name}"
        if not addresses:
            problems.append(
                _problem(where, "the service has no address on its network", "look at the postgres container")
            )
            continue
        try:
            row = connect(
                addresses[0], user=secret.role, password=secret.password, database=database.name, ca_file=ca_file
            )
        except LoginError as exc:
            fix = "look at the log of the postgres service"
            problems.append(_problem(where, f"the login of {secret.role} over TLS failed: {exc}", fix))
            continue
        if row != [secret.role, group.name]:
            fix = f"role {secret.role} must act as {group.name}"
            problems.append(
                _problem(where, f"the login of {secret.role} ended up as {row[-1] if row else 'nobody'}", fix)
            )
        proved.append({"database": database.name, "login": secret.role, "acts_as": row[-1] if row else ""})
    if problems:
        raise StateError(problems)
    return proved


def reconcile(
    engine: Engine,
    databases: list[Database],
    *,
    project: str = "mcpstack",
    service: str = "postgres",
    major: int = 17,
    ca_file: str = "",
    check: bool = False,
    connect: Callable = login,
) -> dict:
    """Bring the running server to the wanted state and prove the logins; return what was, or would be, done."""
    try:
        container = engine.find_service_container(project, service)
    except EngineUnavailable:
        if not check:
            raise
        container = None
    if container is None and not check:
        fix = "start it first; its log says why if it does not stay up"
        raise StateError([_problem(f"service {service}", f"is not running in project {project}", fix)])
    secrets = read_secrets(databases, missing_is_fine=check)
    state = State()
    if container is not None:
        server = Server(engine, container, major)
        state = parse(server.run(inspection(databases)))
        problems = impossible(databases, state)
        if problems:
            raise StateError(problems)
    actions = plan(databases, state, secrets)
    shown = [str(action) for action in actions]
    # only in check mode on a host where the secrets do not exist yet
    shown += [
        f"role {group.logins[0]}: allow login and set the password"
        for database in databases
        if not database.absent
        for group in database.groups
        if group.name not in secrets
    ]
    result = {
        "changed": bool(shown),
        "actions": shown,
        "logins": [],
        "notes": notes(databases, state, secrets),
        "server_version": state.server.get("version", "").split(" ")[0],
    }
    if check:
        return result
    if actions:
        server.run(script(actions))
        left = plan(databases, parse(server.run(inspection(databases))), secrets)
        if left:
            fix = "something else is changing them at the same time; find it, then run again"
            raise StateError(
                [_problem(action.where, f"still needs to {action.what} after it was done", fix) for action in left]
            )
    if ca_file:
        result["logins"] = prove_logins(databases, secrets, server.addresses, ca_file, connect)
    return result
