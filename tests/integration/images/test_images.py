# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every image, built from its lock, loaded into a real engine and made to do its job under full hardening.

The static checks of the builder cannot see a library that is only found by its directory, or a maintainer script that
was needed after all: only a run can.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import secrets
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
CACHE = os.environ.get("MCPSTACK_IMAGES_CACHE", "~/.cache/mcpstack/images")
PREFIX = "mcpstack-images-test"

pytestmark = pytest.mark.engine


def _tool():
    spec = importlib.util.spec_from_file_location("mcpstack_tools_images", ROOT / "tools" / "images.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = _tool()
engine_core = tool.core("_engine")
build_core = tool.core("_image_build")
inputs = tool.core("_image_inputs")
layer_core = tool.core("_image_layer")
store = tool.core("_image_store")
SPECS, LOCKS = inputs.read_specs(str(ROOT / "roles" / "images" / "specs"), tool.parser_of_yaml())
NAMES = sorted(SPECS)
UIDS = {
    "nginx": 64101,
    "services": 64102,
    "llama-server": 64103,
    "postgres": 64104,
    "postgres-init": 64104,
    "valkey": 64105,
}
PORTS = {"nginx": 8080, "services": 8000, "llama-server": 8080, "postgres": 5432, "valkey": 6379}


@pytest.fixture(scope="session")
def engine():
    """The engine of this machine."""
    return engine_core.Engine()


@pytest.fixture(scope="session")
def images(engine):
    """All images by name, built and loaded."""
    builder = build_core.Builder(
        CACHE,
        str(ROOT / "roles" / "images" / "files" / "debian-archive-keyring.pgp"),
        report=lambda line: print(line, file=sys.stderr),
    )
    built = builder.build(NAMES, SPECS, LOCKS, inputs.read_services(str(ROOT / "services")))
    assert builder.warnings == []
    for image in store.absent(engine, built):
        store.bring(engine, image)
    return {image["name"]: image for image in built}


@contextlib.contextmanager
def service(engine, ref, command=None, tmpfs=None, mounts=(), entrypoint=None):
    """A long-running container, hardened as the platform runs it; yields its id."""
    container = engine.post(
        "/containers/create",
        {"name": f"{PREFIX}-{secrets.token_hex(4)}"},
        body={
            "Image": ref,
            "Cmd": command,
            "Entrypoint": entrypoint,
            "HostConfig": {
                "CapDrop": ["ALL"],
                "SecurityOpt": ["no-new-privileges"],
                "ReadonlyRootfs": True,
                "NetworkMode": "none",
                "PidsLimit": 128,
                "Memory": 1 << 30,
                "Tmpfs": {target: f"rw,noexec,nosuid,nodev,{options}" for target, options in (tmpfs or {}).items()},
                "Mounts": list(mounts),
            },
        },
    )["Id"]
    try:
        engine.post(f"/containers/{container}/start")
        yield container
    finally:
        engine.delete(f"/containers/{container}", {"force": True, "v": True})


def eventually(engine, container, argv, expect, seconds=30, **options):
    """Run a probe until its output holds what is expected; the container's log when it never does."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            result = engine.exec(container, argv, **options)
            if result.rc == 0 and expect in result.stdout:
                return result
        except engine_core.EngineError as exc:
            result = exc
        if time.monotonic() > deadline:
            log = engine.get(f"/containers/{container}/logs", {"stdout": True, "stderr": True})
            pytest.fail(f"{argv}: {result}\n{log[-3000:]!r}")
        time.sleep(0.1)


@pytest.fixture
def volume(engine):
    """A volume of our own, removed afterwards."""
    name = f"{PREFIX}-{secrets.token_hex(4)}"
    engine.post("/volumes/create", body={"Name": name})
    yield {"Type": "volume", "Source": name, "Target": None}
    engine.delete(f"/volumes/{name}", {"force": True})


# -- what every image promises ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_engine_has_exactly_what_was_built(engine, images, name):
    found = engine.image(images[name]["ref"])
    assert found["RootFS"]["Layers"] == images[name]["layers"]
    assert found["Config"]["User"] == f"{UIDS[name]}:{UIDS[name]}"
    assert images[name]["ref"] == f"mcpstack/{name}:{images[name]['id'][7:19]}"
    assert store.absent(engine, list(images.values())) == []


@pytest.mark.parametrize("name", [name for name in NAMES if name != "services"])  # its id depends on our sources too
def test_the_lock_promises_this_very_image(images, name):
    assert images[name]["expected_id"] == images[name]["id"], f"run tools/images.py lock {name}"


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_set_id_or_writable_for_others(images, name):
    offending = [
        path
        for path, item in layer_core.read_archive_tree(images[name]["archive"]).items()
        if not item.issym() and (item.mode & 0o6002 or item.isdev())
    ]
    assert offending == []


@pytest.mark.parametrize("name", NAMES)
def test_only_declared_directories_belong_to_the_service(images, name):
    spec = build_core.complete_spec(name, SPECS)
    declared = {item["path"].strip("/") for item in spec.get("directories", []) if item.get("owner")}
    owned = {
        path for path, item in layer_core.read_archive_tree(images[name]["archive"]).items() if item.uid or item.gid
    }
    assert owned == declared


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash", "/usr/bin/dash", "/usr/bin/busybox", "/usr/bin/perl"])
def test_there_is_no_shell(engine, images, name, shell):
    if name == "postgres-init" and shell in ("/bin/sh", "/usr/bin/dash"):
        assert engine.run(images[name]["ref"], ["-c", "exit 7"], entrypoint=[shell]).rc == 7
        return
    with pytest.raises(engine_core.EngineError, match="no such file or directory"):
        engine.run(images[name]["ref"], ["-c", "exit 7"], entrypoint=[shell])


@pytest.mark.parametrize("name", NAMES)
def test_no_environment_variable_looks_like_a_secret(engine, images, name):
    names = [entry.split("=")[0] for entry in engine.image(images[name]["ref"])["Config"]["Env"]]
    assert [n for n in names if re.search(r"PASS|SECRET|KEY|TOKEN", n)] == []


@pytest.mark.parametrize("name", NAMES)
def test_the_bill_of_materials_lists_every_package(images, name):
    bom = json.loads(Path(images[name]["sbom"]).read_text())
    assert len(bom["components"]) == images[name]["packages"]
    assert {entry["name"] for entry in LOCKS[name]["packages"]} <= {item["name"] for item in bom["components"]}
    assert all(re.fullmatch(r"[0-9a-f]{64}", item["hashes"][0]["content"]) for item in bom["components"])


@pytest.mark.parametrize(
    ("name", "program", "argument", "expected"),
    [
        ("nginx", "/usr/sbin/nginx", "-v", b"nginx/1."),
        ("nginx", "/usr/lib/nagios/plugins/check_tcp", "--version", b"check_tcp v"),
        ("postgres", "/usr/lib/postgresql/17/bin/postgres", "--version", b"postgres (PostgreSQL) 17"),
        ("postgres", "/usr/lib/postgresql/17/bin/psql", "--version", b"psql (PostgreSQL) 17"),
        ("postgres", "/usr/lib/postgresql/17/bin/pg_dump", "--version", b"pg_dump (PostgreSQL) 17"),
        ("postgres", "/usr/lib/postgresql/17/bin/pg_isready", "--version", b"pg_isready (PostgreSQL) 17"),
        ("postgres-init", "/usr/lib/postgresql/17/bin/initdb", "--version", b"initdb (PostgreSQL) 17"),
        ("valkey", "/usr/bin/valkey-server", "--version", b"v=8."),
        ("valkey", "/usr/bin/valkey-cli", "--version", b"valkey-cli 8."),
        ("llama-server", "/usr/bin/llama-server", "--version", b"version: "),
        ("llama-server", "/usr/lib/nagios/plugins/check_tcp", "--version", b"check_tcp v"),
        ("services", "/usr/bin/python3.13", "--version", b"Python 3.13"),
    ],
)
def test_programs_start(engine, images, name, program, argument, expected):
    result = engine.run(images[name]["ref"], [argument], entrypoint=[program])
    assert expected in result.stdout + result.stderr, result


def test_the_images_stay_small(images):
    assert images["services"]["size"] < 140e6
    layers = {}
    for image in images.values():
        layers.update(dict.fromkeys(image["layers"]))
    assert sum(image["size"] for image in images.values()) < 450e6


# -- what each is for ---------------------------------------------------------------------------------------------

NGINX_CONF = """
pid /tmp/nginx.pid;
error_log /dev/stderr;
events {}
http {
  access_log /dev/stdout;
  client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s;
  limit_req_zone $binary_remote_addr zone=z:1m rate=10r/s;
  server {
    listen 8080; location = /healthz { return 200 "OK here\\n"; }
    location /re/ { if ($uri ~ "^/re/(?<x>[0-9]+)$") { return 200 "number $x"; } gzip on; return 404; }
  }
}
"""


def test_nginx_serves_and_its_health_check_sees_it(engine, images, tmp_path):
    (tmp_path / "nginx.conf").write_text(NGINX_CONF)
    tmp_path.chmod(0o755)
    mount = {"Type": "bind", "Source": str(tmp_path), "Target": "/etc/nginx", "ReadOnly": True}
    tmpfs = {"/tmp": "size=16m,uid=64101,gid=64101,mode=0700"}  # noqa: S108
    with service(engine, images["nginx"]["ref"], tmpfs=tmpfs, mounts=[mount]) as container:
        check = ["/usr/lib/nagios/plugins/check_tcp", "-H", "127.0.0.1", "-p", "8080", "-E"]
        eventually(engine, container, [*check, "-s", "GET /healthz HTTP/1.0\\r\\n\\r\\n", "-e", "200 OK"], b"TCP OK")
        eventually(engine, container, [*check, "-s", "GET /re/42 HTTP/1.0\\r\\n\\r\\n", "-e", "200 OK"], b"TCP OK")
        failing = engine.exec(container, [*check, "-s", "GET /nope HTTP/1.0\\r\\n\\r\\n", "-e", "200 OK"])
        assert failing.rc != 0


def test_postgres_starts_on_a_new_cluster_and_searches_vectors(engine, images, volume):
    tmpfs = {
        "/tmp": "size=64m,uid=64104,gid=64104,mode=0700",  # noqa: S108
        "/run/postgresql": "size=1m,uid=64104,gid=64104,mode=0750",
    }
    source, target = volume["Source"], "/var/lib/postgresql"
    done = engine.run(
        images["postgres-init"]["ref"],
        ["-D", "/var/lib/postgresql/data", "--username=postgres", "--auth-local=peer", "--auth-host=reject"]
        + ["--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C.UTF-8"]
        + ["--data-checksums"],
        mounts=[{"source": source, "target": target, "read_only": False}],
        tmpfs=tmpfs,
    )
    assert done.rc == 0, done
    mount = {"Type": "volume", "Source": source, "Target": target}
    with service(engine, images["postgres"]["ref"], tmpfs=tmpfs, mounts=[mount]) as container:
        eventually(engine, container, ["/usr/lib/postgresql/17/bin/pg_isready"], b"accepting")
        script = b"""
            create extension vector; create extension pg_trgm; create extension pgcrypto;
            create table t (id int primary key, e vector(3)); insert into t values (1, '[1,0,0]'), (2, '[0,1,0]');
            create index on t using hnsw (e vector_l2_ops);
            select 'nearest=' || id from t order by e <-> '[0.1,0.9,0]' limit 1;
            select 'zone=' || (timestamptz '2026-07-01 12:00 UTC' at time zone 'Europe/Berlin');
            select 'xml=' || xmlelement(name a); select 'icu=' || ('a' < 'B' collate "en-x-icu");
        """
        psql = ["/usr/lib/postgresql/17/bin/psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "postgres"]
        result = engine.exec(container, psql, stdin=script)
        assert result.rc == 0, result
        for expected in (b"nearest=2", b"zone=2026-07-01 14:00:00", b"xml=<a/>", b"icu=true"):
            assert expected in result.stdout
        forbidden = engine.exec(container, psql, stdin=b"copy t to program 'cat';")
        assert forbidden.rc != 0  # no shell, no program


def test_valkey_keeps_what_it_is_told(engine, images, volume, tmp_path):
    (tmp_path / "valkey.conf").write_text(
        "port 0\nunixsocket /run/valkey/valkey.sock\ndir /data\nappendonly yes\nsave ''\n".replace("''", '""')
    )
    tmp_path.chmod(0o755)
    mounts = [
        {"Type": "volume", "Source": volume["Source"], "Target": "/data"},
        {"Type": "bind", "Source": str(tmp_path), "Target": "/etc/valkey", "ReadOnly": True},
    ]
    tmpfs = {"/run/valkey": "size=1m,uid=64105,gid=64105,mode=0700"}
    cli = ["/usr/bin/valkey-cli", "-s", "/run/valkey/valkey.sock"]
    with service(engine, images["valkey"]["ref"], tmpfs=tmpfs, mounts=mounts) as container:
        eventually(engine, container, [*cli, "ping"], b"PONG")
        assert engine.exec(container, [*cli, "set", "a", "1"]).stdout == b"OK\n"
        engine.exec(container, [*cli, "eval", "return 41 + 1", "0"])
        engine.post(f"/containers/{container}/stop")
    with service(engine, images["valkey"]["ref"], tmpfs=tmpfs, mounts=mounts) as container:
        eventually(engine, container, [*cli, "get", "a"], b"1")


def test_llama_server_answers_without_a_model(engine, images):
    command = ["--host", "127.0.0.1", "--port", "8080", "--models-dir", "/models", "--no-ui", "--offline", "-t", "1"]
    tmpfs = {"/tmp": "size=16m,uid=64103,gid=64103,mode=0700"}  # noqa: S108
    with service(engine, images["llama-server"]["ref"], command, tmpfs=tmpfs) as container:
        check = ["/usr/lib/nagios/plugins/check_tcp", "-H", "127.0.0.1", "-p", "8080", "-E"]
        eventually(engine, container, [*check, "-s", "GET /health HTTP/1.0\\r\\n\\r\\n", "-e", "200 OK"], b"TCP OK")


def test_llama_server_has_a_backend_for_every_processor(images):
    libraries = layer_core.read_archive_tree(images["llama-server"]["archive"])
    assert len([path for path in libraries if re.search(r"libggml-cpu-\w+\.so$", path)]) >= 8
    assert [path for path in libraries if re.search(r"libggml-(cuda|hip|vulkan|rpc)", path)] == []


PYTHON_PROBE = """
import asyncio, ctypes, importlib.metadata, json, lzma, os, sqlite3, ssl, sys, uuid, zlib, zoneinfo
import aiohttp, fastapi, httptools, prometheus_client, psycopg, psycopg_pool, pydantic, uvicorn, valkey
import mcpstack
assert psycopg.pq.__impl__ == "binary", psycopg.pq.__impl__
assert len(ssl.create_default_context().get_ca_certs()) > 50
assert pydantic.TypeAdapter(int).validate_python("3") == 3
zoneinfo.ZoneInfo("Europe/Berlin")
assert all(os.path.exists(sys.modules[n].__spec__.cached) for n in ("json", "fastapi", "mcpstack", "asyncio"))
print("fine", importlib.metadata.version("fastapi"))
"""


def test_services_have_their_libraries_and_byte_code(engine, images):
    ref = images["services"]["ref"]
    result = engine.run(ref, ["-c", PYTHON_PROBE], user=64102)
    assert result.rc == 0, result.stderr.decode()
    assert result.stdout.startswith(b"fine ")
    started = time.monotonic()
    assert engine.run(ref, ["-X", "importtime", "-c", "import fastapi, uvicorn, psycopg"], user=64102).rc == 0
    print(f"import of the framework in a fresh container: {time.monotonic() - started:.2f} s")


EVERY_MODULE = """
import importlib, pkgutil, mcpstack
names = [item.name for item in pkgutil.walk_packages(mcpstack.__path__, "mcpstack.") if not item.name.endswith("__main__")]
for name in names:
    importlib.import_module(name)
print("imported", len(names))
"""


def test_every_module_of_the_services_finds_what_it_imports(engine, images):
    """Wheels lose their tests and their libraries their symbols on the way into the image: nothing that is used may be missing."""
    result = engine.run(images["services"]["ref"], ["-W", "error", "-c", EVERY_MODULE], user=64106)
    assert result.rc == 0, result.stderr.decode()
    assert int(result.stdout.split()[1]) > 20


@pytest.mark.parametrize("service", ["gateway", "registry", "worker", "admin"])
def test_every_service_has_its_command(engine, images, service):
    """Without settings each says what it lacks, with the exit status of bad settings, or of a missing command."""
    result = engine.run(images["services"]["ref"], ["-m", f"mcpstack.{service}"], user=64106)
    said = (result.stdout + result.stderr).decode()
    assert result.rc in (1, 2) and "No module named" not in said and "Traceback" not in said, said


def test_byte_code_is_up_to_date_and_never_checked(images):
    """Unchecked byte code that does not belong to its source would be a source nobody reads."""
    import io
    import tarfile

    with tarfile.open(images["services"]["archive"]) as outer:
        manifest = json.load(outer.extractfile("manifest.json"))
        with tarfile.open(fileobj=io.BytesIO(outer.extractfile(manifest[0]["Layers"][0]).read())) as layer:
            names = set(layer.getnames())
            compiled = [name for name in names if name.endswith(".pyc")]
            assert len(compiled) > 1000
            for name in compiled:
                flags = int.from_bytes(layer.extractfile(name).read(8)[4:8], "little")
                assert flags == 1, name  # hash-based, not checked at run time
                folder, _cache, file = name.rsplit("/", 2)
                assert f"{folder}/{file.split('.')[0]}.py" in names


def test_a_wrong_image_is_noticed_after_loading(engine, images):
    image = dict(images["valkey"], ref="mcpstack/images-test:never", id="sha256:" + "0" * 64, layers=["sha256:x"])
    with pytest.raises(tool.core("_image_errors").ImageError, match="the engine holds nothing after loading"):
        store.bring(engine, image)
