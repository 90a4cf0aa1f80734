# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is decided about Valkey and Redis (VLK). PRIVATE: internal to the collection, may change in any release."""

from __future__ import annotations

from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Check

CHECKS: tuple[Check, ...] = (
    Check(
        "VLK-01", "Users may log in without a strong password, or may do more than they need", "critical", "SW",
        ("Valkey ACL", "Redis security"),
        "The user default is off or has a strong password, and so has every other user that is on. A user without a"
        " password passes only when it has no keys and no commands but PING and the"
        " like. An ACL file that does not name default opens it to everybody, whatever requirepass says. Users that"
        " are not declared as administrators have key patterns (not all keys),"
        " and no commands that administer the server or hand its data to another one. The ACL file can be read by its"
        " owner only, and holds hashes, not passwords.",
        "Write user default off into the ACL file, give each application a user with #HASH, ~PREFIX:* and the commands it needs, and chmod 0600 the file.",
        "user default on nopass ~* +@all",
        "user default off\nuser app on #5e88…9d8 resetchannels ~app:* -@all +get +set +ping",
    ),
    Check(
        "VLK-02", "Password is on a command line, in an environment or in a health check", "high", "SA", ("CWE-214", "Redis security"),
        "Neither the arguments of the server (--requirepass, --masterauth, --user) nor its environment"
        " (REDIS_PASSWORD, VALKEY_PASSWORD, REDISCLI_AUTH, ALLOW_EMPTY_PASSWORD) nor the health check (-a, --pass, a URL with a"
        " password) hold a password. A variable that is resolved in the container (-a \"$(cat FILE)\") still puts it"
        " on a command line there. --pass with - is no password.",
        "Put the users into an ACL file that is mounted as a secret, and let the health check use a user without password that may only PING.",
        "command: [valkey-server, --requirepass, SECRET]",
        "command: [valkey-server, /etc/valkey/valkey.conf]",
    ),
    Check(
        "VLK-03", "Can be reached by more than those who need it", "critical", "SA", ("Redis security", "NIST SP 800-190 4.4.2"),
        "protected-mode is on (its default). No port of the service is published. Outside of a container bind names"
        " loopback or single addresses, not every interface; inside of one every interface is right."
        " The unix socket is not open to others.",
        "Remove the published port, set protected-mode yes, and bind to the address of the network that clients are on.",
        "bind 0.0.0.0\nprotected-mode no",
        "bind 127.0.0.1 -::1\nprotected-mode yes",
    ),
    Check(
        "VLK-04", "Traffic is not encrypted", "medium", "SW", ("Valkey TLS", "NIST SP 800-52r2 3.1"),
        "port is 0 and tls-port is set, with a certificate and a key, or the service listens on a unix socket only, or"
        " it was declared that its network is internal. tls-protocols holds nothing older than TLS 1.2, and"
        " tls-ciphers, when set, only suites with forward secrecy and authenticated encryption."
        " A client certificate (tls-auth-clients) may replace the password or not: no choice is a finding.",
        "Set port 0, tls-port 6379, tls-cert-file, tls-key-file, tls-ca-cert-file and tls-protocols \"TLSv1.2 TLSv1.3\".",
        "port 6379",
        "port 0\ntls-port 6379\ntls-cert-file /run/tls/tls.crt\ntls-key-file /run/tls/tls.key",
    ),
    Check(
        "VLK-05", "Dangerous commands are open", "high", "SW", ("Redis security", "Valkey ACL"),
        "Users that are not declared as administrators cannot run CONFIG SET, DEBUG, MODULE LOAD, FLUSHALL, FLUSHDB,"
        " KEYS, SCRIPT FLUSH, FUNCTION FLUSH, SHUTDOWN or REPLICAOF. enable-protected-configs, enable-debug-command and enable-module-command"
        " are no (their default). rename-command is the way of servers before ACLs: a command that it removes counts as removed.",
        "Give users single commands (-@all +get …) or take away -@admin -@dangerous, and leave the three enable- settings at no.",
        "enable-debug-command yes",
        "enable-debug-command no",
    ),
    Check(
        "VLK-06", "Memory is not bounded", "medium", "S", ("Redis memory optimization",),
        "maxmemory is set, and is at most 75 % of the memory limit of the container, because buffers, fragmentation"
        " and the copy that a rewrite of the file makes come on top. For a cache maxmemory-policy evicts"
        " (allkeys-* or volatile-*), for a store that must lose nothing it is noeviction; without a declared use both pass.",
        "Set maxmemory to 70 % of the container's memory limit.",
        "maxmemory 0",
        "maxmemory 89mb  # of 128 MiB",
    ),
    Check(
        "VLK-07", "Health check proves nothing", "medium", "S", ("Redis CLI",),
        "There is a health check that asks this very server with a command that only reads, and that fails when the"
        " server answers with an error. valkey-cli and redis-cli end with 0 after NOAUTH, NOPERM or LOADING: either -e is"
        " given, or the answer is compared (grep PONG).",
        "test: [CMD, valkey-cli, -e, -s, /run/valkey/valkey.sock, --user, health, --pass, '-', PING]",
        "test: [CMD, redis-cli, ping]",
        "test: [CMD, valkey-cli, -e, ping]",
    ),
    Check(
        "VLK-08", "Version is old, data is open, or clients are not bounded", "medium", "SAH", ("Redis security", "CVE-2025-49844"),
        "The version is of a series that is still maintained and not older than its last critical fix (CVE-2025-49844,"
        " October 2025); a package of a distribution below the upstream floor stays unknown here, because fixes are ported back without"
        " a new version number. The directory of the data may not be read by others. Idle clients are closed"
        " (timeout), and what a slow client may make the server hold is limited (client-output-buffer-limit normal and pubsub).",
        "Update; chmod 0700 the data directory; set timeout 300 and client-output-buffer-limit normal 8mb 4mb 30.",
        "client-output-buffer-limit normal 0 0 0",
        "client-output-buffer-limit normal 8mb 4mb 30",
    ),
)  # fmt: skip
TABLE = {check.id: check for check in CHECKS}
