# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is decided about PostgreSQL (PGS). PRIVATE: internal to the collection, may change in any release.

The numbers of CIS PostgreSQL are those of the benchmark for PostgreSQL 18, v1.0.0 of March 2026.
"""

from __future__ import annotations

from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Check

CHECKS: tuple[Check, ...] = (
    Check(
        "PGS-01",
        "Passwords are stored as MD5",
        "high",
        "SA",
        ("CIS PostgreSQL 5.4", "CIS PostgreSQL 4.10", "NIST SP 800-63B 5.1.1.2"),
        "password_encryption is scram-sha-256 (the default since PostgreSQL 14) with at least 4096 iterations, and no role has a stored password that"
        " is an MD5 hash. Stored hashes can be seen by superusers only; for others they stay unknown.",
        "Set password_encryption = 'scram-sha-256' and give every role that has an MD5 hash its password anew.",
        "password_encryption = md5",
        "password_encryption = 'scram-sha-256'",
    ),
    Check(
        "PGS-02",
        "pg_hba.conf lets clients in too easily",
        "critical",
        "SA",
        ("CIS PostgreSQL 5.3", "CIS PostgreSQL 5.4"),
        "No line that can be reached lets clients in by trust, password, md5 or ident, and none lets them in from another host without TLS (host,"
        " hostnossl, hostnogssenc). Lines are judged in their order, as the server does: the first that fits"
        " decides, so a reject behind a wider line refuses nobody, and a trust behind a reject is not reached. local lines count. Quoted names are"
        " names, not keywords. No map of pg_ident.conf makes every system user a superuser.",
        "Write hostssl DATABASE USER NETWORK scram-sha-256 for each application, local all postgres peer for the administrator, and nothing else.",
        "host all all 0.0.0.0/0 md5",
        "hostssl app app_login 10.0.0.0/24 scram-sha-256",
    ),
    Check(
        "PGS-03",
        "Connections are not encrypted well",
        "high",
        "S",
        ("CIS PostgreSQL 6.8", "CIS PostgreSQL 6.9", "CIS PostgreSQL 6.10"),
        "ssl is on, ssl_min_protocol_version is TLSv1.2 or TLSv1.3 (the default since PostgreSQL 12), ssl_ciphers holds only suites with forward"
        " secrecy and authenticated encryption, and the key file belongs to its owner alone (0600, or 0640 for a key of root).",
        "Set ssl = on, ssl_min_protocol_version = 'TLSv1.2' and ssl_ciphers to ECDHE suites with GCM or ChaCha20; chmod 0600 the key.",
        "ssl = off",
        "ssl = on\nssl_min_protocol_version = 'TLSv1.2'",
    ),
    Check(
        "PGS-04",
        "Can be reached by more than its clients",
        "critical",
        "SA",
        ("CIS PostgreSQL 5.2", "NIST SP 800-190 4.4.2"),
        "No port of the service is published. Outside of a container listen_addresses names loopback or single addresses; inside of one every address"
        " is right. The unix socket is not open to every user of the machine.",
        "Remove the published port, name the addresses in listen_addresses, and set unix_socket_permissions = 0770.",
        "listen_addresses = '*'",
        "listen_addresses = 'localhost'",
    ),
    Check(
        "PGS-05",
        "Container starts the server with open doors or an open password",
        "critical",
        "SA",
        ("Docker Official Image postgres", "CIS PostgreSQL 5.1", "OWASP Docker 12"),
        "POSTGRES_HOST_AUTH_METHOD is not trust, password or md5, POSTGRES_INITDB_ARGS does not set such a method with --auth, --auth-host or"
        " --auth-local, no password is in the environment (POSTGRES_PASSWORD, PGPASSWORD: the image reads POSTGRES_PASSWORD_FILE), none is on the"
        " command line, and"
        " /docker-entrypoint-initdb.d is mounted read-only.",
        "Set POSTGRES_PASSWORD_FILE, drop POSTGRES_HOST_AUTH_METHOD, and mount the scripts with :ro.",
        "POSTGRES_HOST_AUTH_METHOD: trust",
        "POSTGRES_PASSWORD_FILE: /run/secrets/postgres",
    ),
    Check(
        "PGS-06",
        "Application role may administer the server",
        "high",
        "A",
        ("CIS PostgreSQL 4.3", "CIS PostgreSQL 4.9"),
        "No role that may log in, other than the declared administrators, is a superuser or a member of one, or has CREATEROLE, CREATEDB, REPLICATION"
        " or BYPASSRLS. The role that an image makes from POSTGRES_USER is a superuser: an application that logs in as that fails.",
        "ALTER ROLE app NOSUPERUSER NOCREATEROLE NOCREATEDB NOREPLICATION NOBYPASSRLS; REVOKE the role it is a member of.",
        "CREATE ROLE app LOGIN SUPERUSER",
        "CREATE ROLE app LOGIN",
    ),
    Check(
        "PGS-07",
        "Everybody may connect or create objects",
        "medium",
        "A",
        ("CIS PostgreSQL 4.3", "CIS PostgreSQL 4.6", "CVE-2018-1058"),
        "PUBLIC has no CONNECT, TEMPORARY or CREATE on any database that accepts connections, and no CREATE in schema public, so that nobody can put"
        " an object into the search path of another role.",
        "REVOKE ALL ON DATABASE app FROM PUBLIC; REVOKE CREATE ON SCHEMA public FROM PUBLIC;",
        "GRANT CREATE ON SCHEMA public TO PUBLIC",
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
    ),
    Check(
        "PGS-08",
        "Log does not tell who did what, or tells secrets",
        "medium",
        "S",
        (
            "CIS PostgreSQL 3.1.2",
            "CIS PostgreSQL 3.1.14",
            "CIS PostgreSQL 3.1.15",
            "CIS PostgreSQL 3.1.20",
            "CIS PostgreSQL 3.1.21",
            "CIS PostgreSQL 3.1.24",
            "CIS PostgreSQL 3.1.25",
        ),
        "log_connections and log_disconnections are on, log_statement is ddl or mod, log_line_prefix holds time, process, user, database and client,"
        " log_destination leads somewhere, and messages are not cut (log_min_messages, log_min_error_statement, log_error_verbosity). Parameters"
        " of statements, which may be passwords and"
        " personal data, stay out: log_parameter_max_length is 0 (or nothing logs statements by duration), log_parameter_max_length_on_error is 0,"
        " log_statement is not all, debug_print_* are off.",
        "log_connections = on, log_disconnections = on, log_statement = 'ddl', log_line_prefix = '%m [%p] %q%u@%d %h %a ', log_parameter_max_length = 0.",
        "log_connections = off",
        "log_connections = on\nlog_disconnections = on\nlog_statement = 'ddl'\nlog_line_prefix = '%m [%p] %q%u@%d %h %a '\nlog_parameter_max_length = 0",
    ),
    Check(
        "PGS-09",
        "Sessions are not bounded",
        "low",
        "SA",
        ("CIS PostgreSQL 5.5", "STIG SRG-APP-000295-DB-000305"),
        "idle_in_transaction_session_timeout is set, authentication_timeout is at most a minute, max_connections at most 1000, and places are kept for"
        " superusers. Of the running server: every role that may log in has a connection limit, and a statement_timeout of its own or of the server.",
        "idle_in_transaction_session_timeout = 60s; ALTER ROLE app CONNECTION LIMIT 20; ALTER ROLE app SET statement_timeout = '30s'.",
        "idle_in_transaction_session_timeout = 0",
        "idle_in_transaction_session_timeout = 60s",
    ),
    Check(
        "PGS-10",
        "Code may be run on the server",
        "high",
        "SA",
        ("CIS PostgreSQL 4.5", "CIS PostgreSQL 4.9"),
        "Installed extensions are on the allow-list, no untrusted procedural language is installed, no role that may log in, other than"
        " administrators, may run programs or read and write files of the server (pg_execute_server_program, pg_read_server_files,"
        " pg_write_server_files), and the libraries that are loaded at start are known ones.",
        "DROP EXTENSION plpython3u; REVOKE pg_execute_server_program FROM app.",
        "CREATE EXTENSION plperlu",
        "CREATE EXTENSION vector",
    ),
    Check(
        "PGS-11",
        "Data is open to others, or damage stays unseen",
        "high",
        "SAH",
        ("CIS PostgreSQL 1.4", "CIS PostgreSQL 2.1"),
        "The data directory has mode 0700 or 0750 and belongs to the declared uid; data checksums are on; fsync and full_page_writes are on, and"
        " damage is not ignored (ignore_checksum_failure, zero_damaged_pages).",
        "chmod 0700 the directory, pg_checksums --enable on the stopped cluster, fsync = on.",
        "fsync = off",
        "fsync = on\nfull_page_writes = on",
    ),
    Check(
        "PGS-12",
        "Version is not supported any more, or lacks fixes",
        "medium",
        "A",
        ("CIS PostgreSQL 1.5", "PostgreSQL versioning policy"),
        "The major version is supported on the day of the run, and the minor version is not older than that of November 2025 (CVE-2025-12818). Newer"
        " minor versions are not known to this table; image_audit holds the package against the index of the distribution. Whether backups can be"
        " restored is proved by the restore drill, not here.",
        "Update to the current minor version; plan the next major version before the end of support.",
        "server_version 12.22",
        "server_version 17.11",
    ),
)
TABLE = {check.id: check for check in CHECKS}
