# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The worker's settings. The table in services/README.md is held against this file by a test."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcpstack.common import database, ssrf
from mcpstack.common import settings as s
from mcpstack.common.secretfile import Login, SecretError, SecretFile, login, model_key
from mcpstack.common.settings import Problem, SettingsError, setting

PREFIX = "WORKER_"


def _optional_url(raw: str) -> str | None:
    return s.base_url(raw) if raw else None


def _optional_host(raw: str) -> str | None:
    return s.host(raw) if raw else None


def _optional_path(raw: str) -> Path | None:
    return s.path(raw) if raw else None


def _optional_name(raw: str) -> str | None:
    if raw and (len(raw) > 256 or not raw.isprintable()):
        raise ValueError("the id of a model, at most 256 characters")
    return raw or None


@dataclass(frozen=True)
class Settings:
    environment: str = setting(
        "production", s.choice("development", "staging", "production"), "What kind of installation this is"
    )
    log_level: str = setting("info", s.choice("debug", "info", "warning", "error"), "Least serious level logged")
    host: str = setting("0.0.0.0", s.host, "Address to listen on")  # noqa: S104 - inside its own container
    port: int = setting("9000", s.whole(1, 65535), "Port for health and metrics")

    db_host: str = setting("postgres", s.host, "Postgres; its certificate must carry this name")
    db_port: int = setting("5432", s.whole(1, 65535), "Postgres port")
    db_name: str = setting("mcpstack", s.name, "Database")
    db_login_file: Path = setting("/run/secrets/worker-db/current", s.path, "File: user:password")
    tls_ca_file: Path = setting("/run/tls/current/ca.crt", s.path, "CA that signed Postgres' certificate")

    model_url: str = setting("http://model-runner:8080", s.base_url, "Base URL of the model server")
    model_api_key_file: Path = setting("/run/secrets/model-api-key/current", s.path, "File: the key it asks for")
    embeddings_url: str | None = setting(
        "", _optional_url, "Base URL of the server of the embedding model; empty: the model server"
    )
    embedding_model: str | None = setting("", _optional_name, "Model for tool vectors; empty: no vectors")
    warm_up_model: str | None = setting("", _optional_name, "Model to warm up; empty: the first one listed")
    models_dir: Path = setting("/models", s.path, "Where the model files are mounted")
    models_manifest: Path | None = setting(
        "", _optional_path, "File: their names, sizes and SHA-256; empty: files are not checked"
    )

    gateway_url: str | None = setting("http://gateway:8000", _optional_url, "Probed by health_check; empty: not")
    registry_url: str | None = setting("http://registry:8000", _optional_url, "Probed by health_check; empty: not")
    valkey_host: str | None = setting("valkey", _optional_host, "Probed by health_check; empty: not")
    valkey_port: int = setting("6379", s.whole(1, 65535), "Valkey port")

    outbound_allow: ssrf.Policy = setting(
        "", ssrf.parse, "MCP servers may also be at these hosts and networks; as the registry's setting"
    )
    outbound_auth_dir: Path = setting("/run/secrets", s.path, "Where the credentials for MCP servers are")

    concurrency: int = setting("4", s.whole(1, 64), "Jobs at once")
    max_attempts: int = setting("5", s.whole(1, 100), "Runs of a job before it is a dead letter")
    retry_base: float = setting("5", s.seconds(0.05, 3600), "Pause after the first failure; doubles each time")
    retry_limit: float = setting("900", s.seconds(0.05, 86400), "Longest pause between two runs")
    poll_interval: float = setting("5", s.seconds(0.05, 300), "Longest time until a due job is noticed")
    heartbeat: float = setting("5", s.seconds(0.1, 60), "Pause between signs of life")
    stalled_after: float = setting("30", s.seconds(1, 3600), "Silence after which a worker's jobs are taken back")
    block_limit: float = setting("20", s.seconds(1, 3600), "A handler that blocks the process this long ends it")
    shutdown_grace: float = setting("20", s.seconds(0, 3600), "How long running jobs may go on after SIGTERM")

    keep_jobs_days: int = setting("7", s.whole(1, 3650), "Days until a finished job is deleted")
    keep_dead_letters_days: int = setting("90", s.whole(1, 3650), "Days until a dead letter is deleted")
    keep_usage_days: int = setting("400", s.whole(62, 3650), "Days until the usage of a day is deleted")
    keep_audit_months: int = setting("13", s.whole(1, 120), "Whole months of audit log kept")
    keep_call_months: int = setting("3", s.whole(1, 120), "Whole months of tool calls kept")


@dataclass(frozen=True)
class Secrets:
    db_login: SecretFile[Login]
    model_api_key: SecretFile[str]


def database_parameters(settings: Settings, secrets: Secrets, what: str = "mcpstack-worker") -> dict[str, Any]:
    return database.parameters(
        settings.db_host, settings.db_port, settings.db_name, settings.tls_ca_file, secrets.db_login, what
    )


def load(environ: Mapping[str, str] | None = None) -> tuple[Settings, Secrets]:
    """Settings and secrets, all checked; raises SettingsError with every problem at once."""
    values = s.load(Settings, os.environ if environ is None else environ, PREFIX)
    secrets = Secrets(
        SecretFile("WORKER_DB_LOGIN_FILE", values.db_login_file, login),
        SecretFile("WORKER_MODEL_API_KEY_FILE", values.model_api_key_file, model_key),
    )
    problems = []
    # A worker that has lost the database gives its jobs up before others take them: the times must be in this order.
    if values.heartbeat * 4 > values.stalled_after:
        problems.append(
            Problem("WORKER_STALLED_AFTER", "is too short.", "Set it to at least four times WORKER_HEARTBEAT.")
        )
    if values.block_limit >= values.stalled_after:
        problems.append(Problem("WORKER_BLOCK_LIMIT", "is too long.", "Set it to less than WORKER_STALLED_AFTER."))
    for secret in (secrets.db_login, secrets.model_api_key):
        try:
            secret.read()
        except SecretError as error:
            problems.append(error.problem)
    try:
        if b"-----BEGIN CERTIFICATE-----" not in values.tls_ca_file.read_bytes():
            problems.append(
                Problem("WORKER_TLS_CA_FILE", f"{values.tls_ca_file} holds no certificate.", "Mount the CA.")
            )
    except OSError as error:
        what = f"{values.tls_ca_file} cannot be read ({error.strerror})."
        problems.append(Problem("WORKER_TLS_CA_FILE", what, "Mount the CA certificate there."))
    if problems:
        raise SettingsError(problems)
    return values, secrets
