# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules about secrets in a compose file: in the environment, in URLs, on command lines, and as declared secrets.

PRIVATE: internal to the collection, may change in any release. Standard library only. No finding carries a value.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.mcpstack.platform.plugins.module_utils import _compose_values as values
from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit
from ansible_collections.mcpstack.platform.plugins.module_utils._compose_load import Project
from ansible_collections.mcpstack.platform.plugins.module_utils._compose_variables import EnvironmentKeys
from ansible_collections.mcpstack.platform.plugins.module_utils._container_images import split_image
from ansible_collections.mcpstack.platform.plugins.module_utils._secret_arguments import secret_arguments
from ansible_collections.mcpstack.platform.plugins.module_utils._secret_names import (
    credential_in_url,
    credential_name,
    known_token,
    literal_credential,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._secret_placeholder import placeholder
from ansible_collections.mcpstack.platform.plugins.module_utils._secret_strength import weak

#: Most secrets of a project whose strength is estimated.
MOST_ESTIMATES = 500

#: Images that read NAME_FILE, with the beginnings of the names for which they do; "" is every name.
READS_FILES = {
    "grafana/grafana": ("GF_",),
    "grafana/grafana-enterprise": ("GF_",),
    "grafana/grafana-oss": ("GF_",),
    "dpage/pgadmin4": ("PGADMIN_DEFAULT_PASSWORD",),
    "gitea/gitea": ("GITEA__",),
    "library/elasticsearch": ("ELASTIC_PASSWORD",),
    "library/influxdb": ("DOCKER_INFLUXDB_INIT_",),
    "library/mariadb": ("MARIADB_", "MYSQL_"),
    "library/mongo": ("MONGO_INITDB_",),
    "library/mysql": ("MYSQL_",),
    "library/nextcloud": ("NEXTCLOUD_", "MYSQL_", "POSTGRES_", "REDIS_HOST_PASSWORD", "SMTP_PASSWORD"),
    "library/postgres": ("POSTGRES_",),
    "library/redmine": ("REDMINE_",),
    "library/wordpress": ("WORDPRESS_",),
    "minio/minio": ("MINIO_ROOT_",),
    "n8nio/n8n": ("N8N_", "DB_"),
    "pgvector/pgvector": ("POSTGRES_",),
    "postgis/postgis": ("POSTGRES_",),
    "prometheuscommunity/postgres-exporter": ("DATA_SOURCE_",),
    "timescale/timescaledb": ("POSTGRES_",),
    "vaultwarden/server": ("",),
}
#: Images that read no NAME_FILE at all.
READS_NO_FILES = frozenset(
    {"library/memcached", "library/redis", "valkey/valkey", "library/rabbitmq", "library/haproxy"}
)
#: Words that mean the same thing in the name of a secret, so that both ends of a connection count as one secret.
_ROLES = {
    word: role
    for role, words in {
        "database": "db database postgres postgresql pg mysql mariadb mongo mongodb sql initdb",
        "cache": "redis valkey cache",
        "queue": "rabbitmq amqp broker queue",
        "storage": "minio s3 aws storage",
    }.items()
    for word in words.split()
}
_NO_ROLE = frozenset(
    "password passwd pass pwd secret token key apikey api root admin user default init app service access my main".split()
)


_SPLIT = re.compile(r"[^A-Za-z0-9]+|(?<=[a-z0-9])(?=[A-Z])")


def _parts(name: str) -> list[str]:
    return [part.lower() for part in _SPLIT.split(name[:120]) if part]


@dataclass(frozen=True)
class _Value:
    """One value of a service's environment. source: name of the variable or env file entry it came from, "" if written."""

    service: str
    key: str
    text: str
    where: str
    source: str


class _Secrets:
    """What the rules need to know of a project."""

    def __init__(
        self,
        audit: Audit,
        project: Project,
        env: Mapping[str, str],
        names: Sequence[str],
        reported: set[tuple[str, str]],
    ):
        self.audit, self.project, self.names, self.reported = audit, project, names, reported
        given = {entry.name: entry.value for entry in project.dotenv}
        self.given: dict[str, str | None] = {**given, **env}
        self.uses: dict[tuple[str, str], str] = {}
        self.lines: dict[tuple[str, str], set[str | None]] = {}
        index = EnvironmentKeys(project)
        for use in project.variables:
            # what puts nothing there is no source: the rest of the value is written in the file
            if use.kind not in ("plain", "default") or self.given.get(use.name) or use.default:
                for key in index.of(use):
                    self.uses.setdefault((use.service, key), use.name)
            self.lines.setdefault((use.service, use.where), set()).add(self.given.get(use.name))

    def environment(self, name: str) -> Iterator[_Value]:
        """What the container gets, with the place and the source of each value."""
        stated = values.environment(self.project.services[name])
        for entry in self.project.env_file_entries(name):
            if entry.name not in stated and entry.value and not entry.shadowed:
                yield _Value(name, entry.name, entry.value, entry.where, "")
        for key, value in stated.items():
            if value:
                yield _Value(
                    name, key, value, self.project.where(name, "environment", key), self.uses.get((name, key), "")
                )

    def is_variable(self, service: str, where: str, text: str) -> bool:
        """Whether a text is the value of a variable that is used at this place."""
        return text in self.lines.get((service, where), ())


def _judge_environment(secrets: _Secrets) -> list[_Value]:
    """SEC-01 to SEC-05. Returns the credentials."""
    audit = secrets.audit
    found: list[_Value] = []
    for name in secrets.names:
        image = secrets.project.services[name].get("image")
        for item in secrets.environment(name):
            subject = f"service {name}"
            url = credential_in_url(item.text)
            if url is not None:
                if not secrets.is_variable(name, item.where, url.password):
                    audit.find("SEC-02", subject, item.where, f"{item.key} holds a URL with a password")
                if (name, item.key) not in secrets.reported and (why := placeholder(url.password, item.key)):
                    audit.find("SEC-04", subject, item.where, f"{item.key}, the password in the URL: {why}")
            if not literal_credential(item.key, item.text) and (url is not None or not known_token(item.text)):
                continue
            found.append(item)
            if (name, item.key) in secrets.reported:
                continue
            _judge_value(audit, item, subject, len(found) <= MOST_ESTIMATES)
            if not item.source:
                audit.find("SEC-01", subject, item.where, f"{item.key} has a literal value")
            elif isinstance(image, str) and reads_file(image, item.key):
                audit.find(
                    "SEC-03",
                    subject,
                    item.where,
                    f"{item.key} is in the environment, and the image reads {item.key}_FILE",
                )
    return found


def _judge_value(audit: Audit, item: _Value, subject: str, estimate: bool) -> None:
    why = placeholder(item.text, item.key)
    if why:
        audit.find("SEC-04", subject, item.where, f"{item.key}: {why}")
    elif not estimate:
        audit.unknown("SEC-05", f"there are more than {MOST_ESTIMATES} secrets")
    elif weak(item.text, (item.service, item.key)):
        audit.find("SEC-05", subject, item.where, f"{item.key} can be guessed")


def reads_file(image: str, key: str) -> bool:
    """Whether a well-known image takes the value of this variable from a file."""
    name, _tag = split_image(image)
    if name.startswith(("bitnami/", "bitnamilegacy/")):
        return True
    return any(key.startswith(start) for start in READS_FILES.get(name, ()))


def _role(key: str) -> str:
    """What a secret is for, by its name: both ends of one connection give the same."""
    parts = _parts(key)
    for part in parts:
        if part in _ROLES:
            return _ROLES[part]
    return "_".join(part for part in parts if part not in _NO_ROLE)


def _judge_reuse(audit: Audit, found: Iterable[_Value]) -> None:
    """SEC-06: the same value under names that are not for the same thing. Only digests are compared."""
    salt = os.urandom(16)
    groups: dict[bytes, list[_Value]] = {}
    for item in found:
        if len(item.text) >= 6:
            groups.setdefault(hashlib.blake2b(item.text.encode("utf-8", "replace"), key=salt).digest(), []).append(item)
    for items in groups.values():
        roles = {(_role(item.source or item.key)) for item in items}
        if len(roles) < 2 or len({item.source or item.key for item in items}) < 2:
            continue
        items.sort(key=lambda item: (item.service, item.key))
        names = ", ".join(dict.fromkeys(f"{item.key} of {item.service}" for item in items))
        audit.find("SEC-06", f"service {items[0].service}", items[0].where, f"one value for {names}")


def _command_lines(service: Mapping) -> Iterator[tuple[tuple, list[str]]]:
    for key in ("entrypoint", "command"):
        words = values.command(service, key)
        if words:
            yield (key,), words
    check = values.healthcheck(service)
    if check is not None and not check.disabled:
        yield ("healthcheck", "test"), list(check.test[1:])


def _judge_commands(secrets: _Secrets) -> None:
    """SEC-11."""
    for name in secrets.names:
        for keypath, line in _command_lines(secrets.project.services[name]):
            place = secrets.project.where(name, *keypath)
            for option, variable in secret_arguments(line).items():
                text = f"{option} {'with a variable that the shell puts there' if variable else 'with a value'}"
                secrets.audit.find(
                    "SEC-11", f"service {name}", place, f"{keypath[0]}: {text}", severity="medium" if variable else None
                )


def _judge_declared(secrets: _Secrets) -> None:
    """SEC-10."""
    audit, project = secrets.audit, secrets.project
    used: set[str] = set()
    for name in secrets.names:
        service = project.services[name]
        grants = values.secrets(service)
        used |= {grant.source for grant in grants}
        mounted = {mount.target.rstrip("/") for mount in values.volumes(service)}
        mounted |= {grant.target for grant in (*grants, *values.configs(service))}
        mounted |= {"" for _rest in service.get("volumes_from") or ()}
        image = service.get("image")
        for key, value in values.environment(service).items():
            base = key.removesuffix("_FILE")
            if base == key or not value or not credential_name(base):
                continue
            place = project.where(name, "environment", key)
            if isinstance(image, str) and split_image(image)[0] in READS_NO_FILES:
                audit.find("SEC-10", f"service {name}", place, f"the image does not read {key}")
            elif value.startswith("/run/secrets/") and not any(
                value == path or value.startswith(path + "/") for path in mounted
            ):
                audit.find("SEC-10", f"service {name}", place, f"{key} names {value}, which nothing mounts")
    used |= {grant.source for service in project.services.values() for grant in values.secrets(service)}
    for name, body in project.secrets.items():
        if values.flag(body.get("external") if isinstance(body, Mapping) else None):
            if name in used:
                audit.find(
                    "SEC-10",
                    f"secret {name}",
                    project.place("secrets", name),
                    "external: Compose has no store of secrets",
                )
        elif name not in used and not _used_by_build(project, name):
            audit.find("SEC-10", f"secret {name}", project.place("secrets", name), "no service uses it", severity="low")


def _used_by_build(project: Project, name: str) -> bool:
    for service in project.services.values():
        build = service.get("build")
        listed = build.get("secrets") if isinstance(build, Mapping) else None
        for entry in listed if isinstance(listed, list) else []:
            if name == (entry.get("source") if isinstance(entry, Mapping) else entry):
                return True
    return False


def judge_secrets(
    audit: Audit, project: Project, env: Mapping[str, str], names: Sequence[str], reported: set[tuple[str, str]]
) -> None:
    """SEC-01 to SEC-06, SEC-10 and SEC-11 of the services.

    reported: (service, key) of values that CMP-30 speaks of already.
    """
    audit.decide("SEC-01", "SEC-02", "SEC-03", "SEC-04", "SEC-05", "SEC-06", "SEC-10", "SEC-11")
    secrets = _Secrets(audit, project, env, names, reported)
    _judge_reuse(audit, _judge_environment(secrets))
    _judge_commands(secrets)
    _judge_declared(secrets)
