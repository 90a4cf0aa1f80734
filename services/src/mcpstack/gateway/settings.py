# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gateway's settings. The table in services/README.md is held against this file by a test."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mcpstack.common import settings as s
from mcpstack.common.secretfile import Login, Peppers, SecretError, SecretFile, login, password, peppers
from mcpstack.common.settings import Problem, SettingsError, setting
from mcpstack.gateway import runnerspec

PREFIX = "GATEWAY_"


def _runners(raw: str) -> str:
    if raw and not raw.lstrip().startswith(("[", "/")):
        raise ValueError("a JSON list of model servers, or the path of a file with one")
    return raw.strip()


@dataclass(frozen=True)
class Settings:
    environment: str = setting(
        "production", s.choice("development", "staging", "production"), "What kind of installation this is"
    )
    log_level: str = setting("info", s.choice("debug", "info", "warning", "error"), "Least serious level logged")
    log_content: str = setting(
        "off", s.choice("off", "redacted", "full"), "What people say in the log: not, without what has a form, as it is"
    )
    host: str = setting("0.0.0.0", s.host, "Address to listen on")  # noqa: S104 - inside its own container
    port: int = setting("8000", s.whole(1, 65535), "Port to listen on")

    db_host: str = setting("postgres", s.host, "Postgres; its certificate must carry this name")
    db_port: int = setting("5432", s.whole(1, 65535), "Postgres port")
    db_name: str = setting("mcpstack", s.name, "Database")
    db_login_file: Path = setting("/run/secrets/gateway-db/current", s.path, "File: user:password")

    valkey_host: str = setting("valkey", s.host, "Valkey; its certificate must carry this name")
    valkey_port: int = setting("6379", s.whole(1, 65535), "Valkey port")
    valkey_user: str = setting("gateway", s.name, "Valkey ACL user")
    valkey_password_file: Path = setting("/run/secrets/valkey-gateway/current", s.path, "File: its password")
    valkey_prefix: str = setting("gw:", s.name, "Every Valkey key starts with this")
    valkey_timeout: float = setting(
        "0.1", s.seconds(0.01, 5), "Longest wait for Valkey before the local limiter decides"
    )

    tls_ca_file: Path = setting("/run/tls/current/ca.crt", s.path, "CA that signed the certificates of both")
    pepper_file: Path = setting("/run/secrets/gateway-pepper/current", s.path, "File: version:64 hex digits")

    runners: str = setting(
        "", _runners, "Model servers: a JSON list, or the path of a file with one; empty: the one that follows"
    )
    model_url: str = setting("http://model-runner:8080", s.base_url, "Base URL of the model server")
    model_api_key_file: Path = setting("/run/secrets/model-api-key/current", s.path, "File: the key it asks for")
    model_concurrency: int = setting("64", s.whole(1, 100_000), "Requests at once for it; more wait")
    model_queue: int = setting(
        "128", s.whole(0, 100_000), "Requests that may wait for a model server; more are refused"
    )
    queue_timeout: float = setting("30", s.seconds(0.05, 600), "Longest wait for a free place at a model server")
    model_connect_timeout: float = setting(
        "1.5", s.seconds(0.05, 30), "Longest wait for a connection to a model server"
    )
    model_first_byte_timeout: float = setting(
        "120", s.seconds(0.1, 3600), "Longest wait for the first byte of an answer"
    )
    model_idle_timeout: float = setting("60", s.seconds(0.1, 3600), "Longest pause inside an answer")
    model_list_seconds: float = setting("10", s.seconds(0.1, 3600), "How long a list of models is kept")

    ping_interval: float = setting("15", s.seconds(0.1, 300), "Pause between comments on a stream that waits")
    cors_origins: tuple[str, ...] = setting("", s.origins, "Browser origins allowed, comma separated")
    max_body_bytes: int = setting("10485760", s.whole(1024, 1 << 30), "Largest request body")
    body_timeout: float = setting("30", s.seconds(0.1, 600), "Longest time a client may take to send a body")

    default_rpm: int = setting("600", s.whole(1, 1_000_000), "Requests a minute for a key without its own limit")
    default_concurrency: int = setting("32", s.whole(1, 100_000), "Requests at once for a key without its own limit")
    default_tpm: int = setting("0", s.whole(0, 10**9), "Tokens a minute for a key without its own limit; 0: no limit")
    default_tokens_day: int = setting("0", s.whole(0, 10**12), "Tokens a day for such a key; 0: no limit")
    default_tokens_month: int = setting("0", s.whole(0, 10**12), "Tokens a month for such a key; 0: no limit")
    reserve_tokens: int = setting(
        "1024", s.whole(1, 10**6), "Tokens set aside for an answer when the request says no max_tokens"
    )
    cache_seconds: int = setting("300", s.whole(0, 604_800), "How long an answer may be given again; 0: never")
    cache_max_bytes: int = setting("262144", s.whole(1, 4 << 20), "Largest answer that is kept for that")
    lease_seconds: float = setting(
        "30", s.seconds(1, 600), "How long the running requests of a killed gateway go on counting"
    )
    replicas: int = setting("1", s.whole(1, 1000), "Gateways that share the limits, for the local limiter")

    metrics_keys: int = setting(
        "200", s.whole(0, 10_000), "Keys with metrics of their own; those after them share a label"
    )

    otlp_endpoint: str = setting(
        "", s.optional_url, "Base URL of an OpenTelemetry collector (OTLP over HTTP); empty: no traces"
    )
    otlp_sample: float = setting("1", s.share, "Share of the traces begun here that are sent")

    key_cache_seconds: float = setting("30", s.seconds(0, 3600), "How long a key is trusted without asking Postgres")
    key_grace_seconds: float = setting("300", s.seconds(0, 86400), "How long a known key works while Postgres is away")
    shutdown_grace: float = setting("25", s.seconds(0, 3600), "How long running answers may go on after SIGTERM")


@dataclass(frozen=True)
class Secrets:
    db_login: SecretFile[Login]
    valkey_password: SecretFile[str]
    pepper: SecretFile[Peppers]


def load(environ: Mapping[str, str] | None = None) -> tuple[Settings, Secrets]:
    """Settings and secrets, all checked; raises SettingsError with every problem at once."""
    environ = os.environ if environ is None else environ
    values = s.load(Settings, environ, PREFIX)
    secrets = Secrets(
        SecretFile("GATEWAY_DB_LOGIN_FILE", values.db_login_file, login),
        SecretFile("GATEWAY_VALKEY_PASSWORD_FILE", values.valkey_password_file, password),
        SecretFile("GATEWAY_PEPPER_FILE", values.pepper_file, peppers),
    )
    problems = []
    if "*" in values.cors_origins and values.environment == "production":
        problems.append(
            Problem("GATEWAY_CORS_ORIGINS", "'*' lets every web site call the API.", "Name the origins in production.")
        )
    if values.log_content == "full" and values.environment == "production":
        what = "'full' writes what people say into the log, with their keys and addresses."
        problems.append(Problem("GATEWAY_LOG_CONTENT", what, "Set it to redacted or off in production."))
    try:
        runnerspec.read(values)
    except SettingsError as error:
        problems += error.problems
    if values.runners:
        single = ("GATEWAY_MODEL_URL", "GATEWAY_MODEL_API_KEY_FILE", "GATEWAY_MODEL_CONCURRENCY")
        problems += [
            Problem(name, "is for a single model server.", "Remove it, or remove GATEWAY_RUNNERS.")
            for name in single
            if name in environ
        ]
    for secret in (secrets.db_login, secrets.valkey_password, secrets.pepper):
        try:
            secret.read()
        except SecretError as error:
            problems.append(error.problem)
    try:
        if b"-----BEGIN CERTIFICATE-----" not in values.tls_ca_file.read_bytes():
            problems.append(
                Problem("GATEWAY_TLS_CA_FILE", f"{values.tls_ca_file} holds no certificate.", "Mount the CA.")
            )
    except OSError as error:
        what = f"{values.tls_ca_file} cannot be read ({error.strerror})."
        problems.append(Problem("GATEWAY_TLS_CA_FILE", what, "Mount the CA certificate there."))
    if problems:
        raise SettingsError(problems)
    return values, secrets
