# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The admin command's settings. The table in services/README.md is held against this file by a test."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mcpstack.common import settings as s
from mcpstack.common.secretfile import Login, Peppers, SecretError, SecretFile, login, peppers
from mcpstack.common.settings import Problem, SettingsError, setting

PREFIX = "ADMIN_"


def _services(raw: str) -> dict[str, str]:
    problem = "name=URL pairs such as gateway=http://gateway:8000, separated by commas"
    found: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in raw.split(","))):
        name, equals, url = part.partition("=")
        if not equals or not re.fullmatch(r"[a-z][a-z0-9-]{0,30}", name) or name in found:
            raise ValueError(problem)
        try:
            found[name] = s.base_url(url)
        except ValueError as error:
            raise ValueError(problem) from error
    return found


def _actor(raw: str) -> str:
    if not re.fullmatch(r"[\x21-\x7e]([\x20-\x7e]{0,98}[\x21-\x7e])?", raw):
        raise ValueError("1 to 100 printable characters")
    return raw


@dataclass(frozen=True)
class Settings:
    environment: str = setting(
        "production", s.choice("development", "staging", "production"), "What kind of installation this is"
    )
    actor: str = setting("operator", _actor, "Who acts, for the audit log")
    db_host: str = setting("postgres", s.host, "Postgres; its certificate must carry this name")
    db_port: int = setting("5432", s.whole(1, 65535), "Postgres port")
    db_name: str = setting("mcpstack", s.name, "Database")
    db_login_file: Path = setting("/run/secrets/admin-db/current", s.path, "File: user:password, a login of the owner")
    tls_ca_file: Path = setting("/run/tls/current/ca.crt", s.path, "CA that signed the certificate of Postgres")
    pepper_file: Path = setting("/run/secrets/gateway-pepper/current", s.path, "File: version:64 hex digits")
    services: dict[str, str] = setting(
        "gateway=http://gateway:8000,registry=http://registry:8000,worker=http://worker:9000",
        _services,
        "Services that doctor asks what they depend on",
    )


@dataclass(frozen=True)
class Secrets:
    db_login: SecretFile[Login]
    pepper: SecretFile[Peppers]


def load(environ: Mapping[str, str] | None = None) -> tuple[Settings, Secrets]:
    """Settings and secrets, all checked; raises SettingsError with every problem at once."""
    values = s.load(Settings, os.environ if environ is None else environ, PREFIX)
    secrets = Secrets(
        SecretFile("ADMIN_DB_LOGIN_FILE", values.db_login_file, login),
        SecretFile("ADMIN_PEPPER_FILE", values.pepper_file, peppers),
    )
    problems = []
    for secret in (secrets.db_login, secrets.pepper):
        try:
            secret.read()
        except SecretError as error:
            problems.append(error.problem)
    try:
        if b"-----BEGIN CERTIFICATE-----" not in values.tls_ca_file.read_bytes():
            problems.append(
                Problem("ADMIN_TLS_CA_FILE", f"{values.tls_ca_file} holds no certificate.", "Mount the CA.")
            )
    except OSError as error:
        what = f"{values.tls_ca_file} cannot be read ({error.strerror})."
        problems.append(Problem("ADMIN_TLS_CA_FILE", what, "Mount the CA certificate there."))
    if problems:
        raise SettingsError(problems)
    return values, secrets
