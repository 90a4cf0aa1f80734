# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known of well-known images by their name alone: their user, and which tier of a stack they belong to.

PRIVATE: internal to the collection, may change in any release. Standard library only.
"""

from __future__ import annotations

import re

#: Images that begin as root and step down on their own when they are not given a user.
STEPS_DOWN = frozenset(
    {
        "library/mariadb",
        "library/memcached",
        "library/mongo",
        "library/mysql",
        "library/nginx",
        "library/postgres",
        "library/rabbitmq",
        "library/redis",
        "pgvector/pgvector",
        "postgis/postgis",
        "timescale/timescaledb",
        "valkey/valkey",
    }
)
#: Images whose own user is not root.
NOT_ROOT = frozenset(
    {
        "grafana/grafana",
        "grafana/grafana-enterprise",
        "grafana/grafana-oss",
        "grafana/loki",
        "grafana/tempo",
        "library/memcached",
        "nginxinc/nginx-unprivileged",
        "prom/alertmanager",
        "prom/blackbox-exporter",
        "prom/node-exporter",
        "prom/prometheus",
        "prom/pushgateway",
        "prometheuscommunity/postgres-exporter",
    }
)
#: The user that owns the data directory in the image: on Alpine, elsewhere.
DATA_OWNERS = {
    "grafana/grafana": (472, 472),
    "grafana/grafana-enterprise": (472, 472),
    "grafana/grafana-oss": (472, 472),
    "library/nginx": (101, 101),
    "library/postgres": (70, 999),
    "library/redis": (999, 999),
    "nginxinc/nginx-unprivileged": (101, 101),
    "pgvector/pgvector": (999, 999),
    "postgis/postgis": (70, 999),
    "prom/alertmanager": (65534, 65534),
    "prom/prometheus": (65534, 65534),
    "timescale/timescaledb": (70, 70),
    "valkey/valkey": (999, 999),
}
#: Databases, caches and queues, by the last part of the image's name.
DATA_IMAGES = frozenset(
    """arangodb cassandra clickhouse clickhouse-server cockroach consul couchdb couchbase dragonfly elasticsearch etcd
    influxdb kafka keydb mariadb memcached milvus minio mongo mongodb mssql mysql nats neo4j opensearch patroni percona
    pgbouncer pgvector postgis postgres postgresql qdrant rabbitmq redis rethinkdb rqlite scylla solr timescaledb
    timescaledb-ha typesense valkey valkey-server weaviate yugabyte zookeeper""".split()
)
#: Ports in the container that belong to such a service whatever its image is called.
DATA_PORTS = frozenset(
    {
        1433,
        1521,
        2181,
        2379,
        2380,
        3306,
        5432,
        5672,
        5984,
        6379,
        6432,
        7687,
        9042,
        9092,
        9200,
        9300,
        11211,
        26257,
        27017,
    }
)
#: Administration that asks nobody who they are unless it is told to: name, and the flag or setting that tells it.
OPEN_ADMIN = {
    "alertmanager": ("Alertmanager", "--web.config.file"),
    "cadvisor": ("cAdvisor", "--http_auth_file"),
    "chroma": ("Chroma", "CHROMA_SERVER_AUTHN_CREDENTIALS"),
    "dozzle": ("Dozzle", "DOZZLE_AUTH_PROVIDER"),
    "docker-socket-proxy": ("the engine's API", None),
    "flower": ("Flower", "basic"),
    "jaeger": ("Jaeger", None),
    "all-in-one": ("Jaeger", None),
    "kibana": ("Kibana", "ELASTICSEARCH_PASSWORD"),
    "loki": ("Loki", None),
    "mailhog": ("MailHog", "MH_AUTH_FILE"),
    "mailpit": ("Mailpit", "MP_UI_AUTH"),
    "netdata": ("Netdata", None),
    "node-exporter": ("node exporter", "--web.config.file"),
    "ollama": ("Ollama", None),
    "prometheus": ("Prometheus", "--web.config.file"),
    "pushgateway": ("Pushgateway", "--web.config.file"),
    "qdrant": ("Qdrant", "QDRANT__SERVICE__API_KEY"),
    "redis-commander": ("Redis Commander", "HTTP_PASSWORD"),
    "redisinsight": ("Redis Insight", None),
    "registry": ("the image registry", "REGISTRY_AUTH"),
    "swagger-ui": ("Swagger UI", None),
    "tensorboard": ("TensorBoard", None),
    "weaviate": ("Weaviate", "AUTHENTICATION_APIKEY_ENABLED"),
}
#: Administration with a login of its own: still nothing to publish.
CLOSED_ADMIN = frozenset(
    """adminer code-server grafana grafana-enterprise grafana-oss jupyterhub mongo-express pgadmin4 phpmyadmin phppgadmin
    portainer portainer-ce portainer-ee rancher rundeck vault""".split()
)
_DOCKER_HUB = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})


def split_image(reference: str) -> tuple[str, str]:
    """("library/postgres", "17-alpine") of any spelling of a reference; images of Docker Hub without their registry."""
    name, _rest, _digest = reference.strip().partition("@")
    head, slash, tail = name.rpartition("/")
    tail, _rest, tag = tail.partition(":")
    name = head + slash + tail
    registry, slash, rest = name.partition("/")
    if slash and (registry in _DOCKER_HUB):
        name = rest
    elif slash and ("." in registry or ":" in registry or registry == "localhost"):
        return name.lower(), tag
    return (name if "/" in name else f"library/{name}").lower(), tag


def short_name(reference: str | None) -> str:
    """The last part of an image's name, without registry and tag."""
    return split_image(reference)[0].rpartition("/")[2] if reference else ""


def data_owner(reference: str) -> int | None:
    """The user that owns the data of a well-known image in this variant."""
    name, tag = split_image(reference)
    owners = DATA_OWNERS.get(name)
    return owners[0 if re.search(r"(^|[-.])alpine", tag) else 1] if owners else None
