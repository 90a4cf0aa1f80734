# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The registry's settings. The table in services/README.md is held against this file by a test."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mcpstack.common import settings as s
from mcpstack.common import ssrf
from mcpstack.common.secretfile import Login, Peppers, SecretError, SecretFile, login, model_key, password, peppers
from mcpstack.common.settings import Problem, SettingsError, setting
from mcpstack.registry.mcp_settings import McpSettings, optional_url, switch

PREFIX = "REGISTRY_"


def namespace(raw: str) -> str:
    if not re.fullmatch(r"[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63}){1,8}", raw, re.ASCII) or len(raw) > 150:
        raise ValueError("a domain of yours written backwards, such as org.example.ai")
    return raw


def optional_model(raw: str) -> str:
    if len(raw) > 256 or not raw.isprintable():
        raise ValueError("the id of a model, at most 256 characters")
    return raw


@dataclass(frozen=True)
class Settings(McpSettings):
    environment: str = setting(
        "production", s.choice("development", "staging", "production"), "What kind of installation this is"
    )
    log_level: str = setting("info", s.choice("debug", "info", "warning", "error"), "Least serious level logged")
    host: str = setting("0.0.0.0", s.host, "Address to listen on")  # noqa: S104 - inside its own container
    port: int = setting("8000", s.whole(1, 65535), "Port to listen on")

    db_host: str = setting("postgres", s.host, "Postgres; its certificate must carry this name")
    db_port: int = setting("5432", s.whole(1, 65535), "Postgres port")
    db_name: str = setting("mcpstack", s.name, "Database")
    db_login_file: Path = setting("/run/secrets/registry-db/current", s.path, "File: user:password")
    db_connections: int = setting("4", s.whole(2, 100), "Most connections to it for tools and calls")

    valkey_host: str = setting("valkey", s.host, "Valkey; its certificate must carry this name")
    valkey_port: int = setting("6379", s.whole(1, 65535), "Valkey port")
    valkey_user: str = setting("registry", s.name, "Valkey ACL user")
    valkey_password_file: Path = setting("/run/secrets/valkey-registry/current", s.path, "File: its password")
    valkey_prefix: str = setting("rg:", s.name, "Every Valkey key starts with this")
    valkey_timeout: float = setting(
        "0.1", s.seconds(0.01, 5), "Longest wait for Valkey before the local limiter decides"
    )

    tls_ca_file: Path = setting("/run/tls/current/ca.crt", s.path, "CA that signed the certificates of both")
    pepper_file: Path = setting("/run/secrets/gateway-pepper/current", s.path, "File: version:64 hex digits")

    model_url: str = setting("http://model-runner:8080", s.base_url, "Base URL of the model server")
    model_api_key_file: Path = setting("/run/secrets/model-api-key/current", s.path, "File: the key it asks for")
    embeddings_url: str = setting(
        "", optional_url, "Base URL of the server of the embedding model; empty: the model server"
    )
    embedding_model: str = setting("", optional_model, "Model for tool vectors; empty: search by words only")
    embedding_timeout: float = setting("1", s.seconds(0.05, 30), "Longest wait of a search for its vector")

    summary_model: str = setting("", optional_model, "Model that summarises long results; empty: the first one listed")
    outbound_allow: ssrf.Policy = setting(
        "", ssrf.parse, "MCP servers may also be at these hosts and networks, which are not public"
    )
    outbound_auth_dir: Path = setting("/run/secrets", s.path, "Where the credentials for MCP servers are")

    namespace: str = setting("local.mcpstack", namespace, "Reverse domain in the names of servers registered here")
    catalogue_public: bool = setting("false", switch, "Let anybody read /v0.1/servers, without a key")

    max_body_bytes: int = setting("1048576", s.whole(1024, 1 << 26), "Largest REST request body")
    body_timeout: float = setting("30", s.seconds(0.1, 600), "Longest time a client may take to send one")
    default_rpm: int = setting("600", s.whole(1, 1_000_000), "Requests a minute for a key without its own limit")
    default_concurrency: int = setting("32", s.whole(1, 100_000), "Requests at once for a key without its own limit")
    replicas: int = setting("1", s.whole(1, 1000), "Registries that share the limits, for the local limiter")

    otlp_endpoint: str = setting(
        "", s.optional_url, "Base URL of an OpenTelemetry collector (OTLP over HTTP); empty: no traces"
    )
    otlp_sample: float = setting("1", s.share, "Share of the traces begun here that are sent")

    key_cache_seconds: float = setting("30", s.seconds(0, 3600), "How long a key is trusted without asking Postgres")
    key_grace_seconds: float = setting("300", s.seconds(0, 86400), "How long a known key works while Postgres is away")
    shutdown_grace: float = setting("25", s.seconds(0, 3600), "How long running requests may go on after SIGTERM")


@dataclass(frozen=True)
class Secrets:
    db_login: SecretFile[Login]
    valkey_password: SecretFile[str]
    pepper: SecretFile[Peppers]
    model_api_key: SecretFile[str]
    introspection: SecretFile[Login]


def load(environ: Mapping[str, str] | None = None) -> tuple[Settings, Secrets]:
    """Settings and secrets, all checked; raises SettingsError with every problem at once."""
    values = s.load(Settings, os.environ if environ is None else environ, PREFIX)
    secrets = Secrets(
        SecretFile("REGISTRY_DB_LOGIN_FILE", values.db_login_file, login),
        SecretFile("REGISTRY_VALKEY_PASSWORD_FILE", values.valkey_password_file, password),
        SecretFile("REGISTRY_PEPPER_FILE", values.pepper_file, peppers),
        SecretFile("REGISTRY_MODEL_API_KEY_FILE", values.model_api_key_file, model_key),
        SecretFile("REGISTRY_OIDC_INTROSPECTION_LOGIN_FILE", values.oidc_introspection_login_file, login),
    )
    needed: list[SecretFile[Login] | SecretFile[str] | SecretFile[Peppers]] = [
        secrets.db_login,
        secrets.valkey_password,
        secrets.pepper,
        secrets.model_api_key,
    ]
    if values.oidc_introspection_url:
        needed.append(secrets.introspection)
    problems = values.problems(values.environment)
    for secret in needed:
        try:
            secret.read()
        except SecretError as error:
            problems.append(error.problem)
    try:
        if b"-----BEGIN CERTIFICATE-----" not in values.tls_ca_file.read_bytes():
            problems.append(
                Problem("REGISTRY_TLS_CA_FILE", f"{values.tls_ca_file} holds no certificate.", "Mount the CA.")
            )
    except OSError as error:
        what = f"{values.tls_ca_file} cannot be read ({error.strerror})."
        problems.append(Problem("REGISTRY_TLS_CA_FILE", what, "Mount the CA certificate there."))
    if problems:
        raise SettingsError(problems)
    return values, secrets
