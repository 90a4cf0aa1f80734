# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The checks about secrets and environment files (SEC). PRIVATE: internal to the collection, may change in any release.

Several audits share these rows: compose files decide some, env files and secret directories others, and the engine the
rest. No finding of any of them carries a value.
"""

from __future__ import annotations

from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Check

CHECKS = (
    Check(
        "SEC-01", "Credential written as a literal", "high", "S", ("NIST SP 800-190 4.1.4", "compose-lint CL-0020"),
        "A variable whose name says that it holds a credential has no literal value in a compose file or an env file. A"
        " name that ends in _FILE, a reference to another variable, a path, a switch and a number for a limit are no"
        " credentials, and neither are keys that are not secret, such as PUBLIC_KEY, KEY_ID and PRIMARY_KEY.",
        "Put the value into a secret file that only the service can read and give its path with NAME_FILE.",
        "DB_PASSWORD=correct-horse",
        "DB_PASSWORD_FILE=/run/secrets/db-password/current",
    ),
    Check(
        "SEC-02", "Credential inside a URL", "high", "S", ("compose-lint CL-0021", "detect-secrets BasicAuthDetector"),
        "No URL carries a password, whatever characters the password has. A user name without a password, a password"
        " that is a reference to a variable, and an e-mail address pass.",
        "Give the URL without the password and the password in a secret file; most clients read both.",
        "DATABASE_URL=postgres://app:s3cr%40t!@db:5432/app",
        "DATABASE_URL=postgres://app@db:5432/app",
    ),
    Check(
        "SEC-03", "Secret in the environment of an image that can read it from a file", "medium", "SA",
        ("OWASP Docker 12",),
        "An image that supports NAME_FILE gets its secrets that way. What is in the environment is shown by the engine's"
        " inspect, by /proc and in many crash reports, and every child process inherits it.",
        "Replace NAME by NAME_FILE and mount the secret as a file.",
        "environment:\n  POSTGRES_PASSWORD: ${DB_PASSWORD}",
        "environment:\n  POSTGRES_PASSWORD_FILE: /run/secrets/db-password",
    ),
    Check(
        "SEC-04", "Placeholder or default instead of a secret", "critical", "S", ("NIST SP 800-63B 3.1.1.2",),
        "No secret is a placeholder (CHANGE_ME, your-password, an example of the documentation, an unfilled template) or"
        " the default of an image (postgres, minioadmin, admin). This is looked at before the strength, because a meter"
        " of strength takes many placeholders for good passwords.",
        "Generate a value, for example with openssl rand -hex 32, and start the service with it.",
        "DB_PASSWORD=CHANGE_ME_IN_PRODUCTION_32_CHARS",
        "DB_PASSWORD=9f2c (the rest of 64 random hexadecimal digits)",
    ),
    Check(
        "SEC-05", "Secret can be guessed", "high", "S", ("NIST SP 800-63B 3.1.1.2",),
        "A secret takes at least 10^14 guesses, as the algorithm of zxcvbn counts them: words, names, common passwords,"
        " also reversed or with letters replaced by digits, keyboard runs, repeats, sequences and dates, what reads"
        " like a word of another language, and ten guesses for each further character. Rules about kinds of characters are never applied.",
        "Generate a value, for example with openssl rand -hex 32, or use a passphrase of five random words or more.",
        "DB_PASSWORD=P@ssw0rd2024!",
        "DB_PASSWORD=unpaved-cosmic-lisp-tundra-oboe-quarry",
    ),
    Check(
        "SEC-06", "One value for several secrets", "medium", "S", ("NIST SP 800-190 4.1.4",),
        "No two secrets with different names have the same value. The same secret given to several services, and a URL"
        " that carries the password of the service it names, are one secret.",
        "Generate a value for each secret, so that one that leaks opens one thing and can be replaced alone.",
        "REDIS_PASSWORD=(a value)\nJWT_SECRET=(the same value)",
        "REDIS_PASSWORD=(a value)\nJWT_SECRET=(another value)",
    ),
    Check(
        "SEC-07", "Secret can be read or replaced by others", "high", "H", ("CIS Docker 3.17",),
        "A file with secrets has no permission for group and others (mode & 077 is 0) and belongs to root or to the user"
        " that reads it. No directory above it lets anyone but root and its owner replace it. A symbolic link is judged"
        " by what it leads to.",
        "Take the permissions away with chmod go= FILE, give the file to its reader with chown, and take write permission"
        " for group and others from the directories above.",
        "-rw-r--r-- 1 root root 412 /srv/app/.env",
        "-rw------- 1 root root 412 /srv/app/.env",
    ),
    Check(
        "SEC-08", "Secret in version control, a build context or an image", "critical", "SH",
        ("NIST SP 800-190 4.1.4", "OWASP Docker 12"),
        "No file with secrets is tracked by git, none inside a work tree can be added by accident (it is matched by an"
        " ignore file), and none lies in a build context without a line in .dockerignore. Templates such as .env.example"
        " may be tracked as long as they hold placeholders only.",
        "Remove the file from the index with git rm --cached, add it to .gitignore and .dockerignore, and replace every"
        " secret in it: what was committed or built once has to count as known.",
        "$ git ls-files\n.env",
        "$ cat .gitignore .dockerignore\n.env\n.env",
    ),
    Check(
        "SEC-09", "Secret file is not readable by exactly the user that needs it", "high", "SH",
        ("OWASP Docker 12",),
        "A secret file is owned by the uid of its one consumer, who can read it. Compose without Swarm ignores uid, gid"
        " and mode of a secret and mounts the file as it is on the host, so that only the file itself decides.",
        "Give the file to the uid that the service runs as, with mode 0400, one copy for each consumer.",
        "-r-------- 1 root root 40 /run/secrets/app/db-password (the service runs as 64102)",
        "-r-------- 1 64102 64102 40 /run/secrets/app/db-password",
    ),
    Check(
        "SEC-10", "Secret is declared in a way that does not reach the service", "high", "S", ("OWASP Docker 12",),
        "Every secret that a service names is declared, every declared one is used, none is external under plain"
        " Compose, which has no secret store, and NAME_FILE is given only to an image that reads it.",
        "Declare the secret with file: and mount it; give NAME_FILE only where the image documents it.",
        "secrets:\n  db-password:\n    external: true",
        "secrets:\n  db-password:\n    file: /run/app/db-password",
    ),
    Check(
        "SEC-11", "Secret on a command line", "high", "SA", ("OWASP Docker 12",),
        "No command, entrypoint or health check carries a password as an argument: every user of the host can read the"
        " arguments of a process.",
        "Let the program read the secret from a file, or from standard input.",
        'command: ["valkey-server", "--requirepass", "correct-horse"]',
        'command: ["valkey-server", "--aclfile", "/run/secrets/valkey-acl/current"]',
    ),
    Check(
        "SEC-12", "Secret in the environment of a running container", "medium", "A", ("OWASP Docker 12",),
        "The environment that the engine shows of a running container holds no credential. NAME_FILE and references are"
        " none.",
        "Replace NAME by NAME_FILE, mount the secret as a file, and create the container anew.",
        'Env: ["API_TOKEN=(a value)"]',
        'Env: ["API_TOKEN_FILE=/run/secrets/api-token/current"]',
    ),
    Check(
        "SEC-13", "Env file is read differently by different programs", "medium", "S", ("compose-lint CL-0020",),
        "Compose, docker run --env-file, systemd's EnvironmentFile and a shell read the same file by different rules for"
        " quotes, dollar signs, backslashes, comments behind a value, spaces around the equals sign, line ends, a byte"
        " order mark and a name that comes twice. The programs that read a file agree on each line; on a line with a"
        " credential Compose, systemd and a shell agree whoever reads it, and no script runs an env file as a program with"
        " source or eval.",
        "Write NAME=value in letters, digits and -_.:/+=, without quotes, one line each, every name once, or put the"
        " value into a secret file.",
        "DB_PASSWORD=pa$$word #1",
        "DB_PASSWORD_FILE=/run/secrets/db-password/current",
    ),
    Check(
        "SEC-14", "Switch for security that nothing reads", "medium", "S", ("NIST SP 800-190 4.4.3",),
        "A variable that promises protection (REQUIRE_AUTH, TLS_ENABLED, RATE_LIMIT and their like) is consumed by at"
        " least one of the files that were searched. Needs the files that could consume it.",
        "Wire the variable to what it promises, or delete it: whoever reads the file believes in it.",
        "ENABLE_RATE_LIMITING=true (and no file that mentions it)",
        "environment:\n  ENABLE_RATE_LIMITING: ${ENABLE_RATE_LIMITING}",
    ),
    Check(
        "SEC-15", "Secret left in an image, a backup or a log, or too old", "high", "AH",
        ("CIS Docker 4.10", "NIST SP 800-190 4.1.4"),
        "No environment, build argument or history of an image holds a credential. No backup, editor copy, dump or log"
        " beside a file with secrets can be read by others. A secret whose date of creation is known is younger than the"
        " limit that was set.",
        "Delete the copy or take its permissions away, build the image with secret mounts, and replace the secret.",
        "-rw-r--r-- 1 root root 412 /srv/app/.env.bak",
        "-rw------- 1 root root 412 /srv/app/.env.bak",
    ),
)  # fmt: skip
TABLE = {check.id: check for check in CHECKS}
