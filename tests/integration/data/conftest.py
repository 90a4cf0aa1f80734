# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real PostgreSQL and Valkey: the roles' rendered configuration in the real images, under the restrictions of the spec."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
CORES = "ansible_collections.mcpstack.platform.plugins.module_utils."
PASSWORD = "A1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q7r8"
OPERATOR = "Z9y8X7w6V5u4T3s2R1q0P9o8N7m6L5k4J3i2"


def core(name: str):
    """A core of the collection. This file is read before Ansible's collection loader is on, so it cannot import one."""
    return importlib.import_module(CORES + name)


def run(*argv, check=True, stdin=None):
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=120, check=False)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(argv)} failed ({done.returncode}): {done.stdout}{done.stderr}")
    return done


def wait_for(condition, what, seconds=60):
    """Poll until ``condition()`` is true; the only waiting these tests do."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not happen within {seconds} s")
        time.sleep(0.05)


def image_of(key: str) -> str:
    found = os.environ.get(f"MCPSTACK_TEST_{key.upper().replace('-', '_')}_IMAGE")
    if not found:
        listed = run("docker", "images", "--format", "{{.Repository}}:{{.Tag}}", f"mcpstack/{key}").stdout.split()
        if len(listed) != 1:
            pytest.fail(
                f"This engine has {len(listed)} images mcpstack/{key}, not one: build it, or name the one to test in MCPSTACK_TEST_*_IMAGE."
            )
        found = listed[0]
    return found


class Lab:
    """A project of its own: network, volumes, certificates, secrets, and everything that has to go again."""

    def __init__(self, directory: Path):
        self.dir = directory
        self.project = f"datatest{os.getpid()}"
        self.network = f"{self.project}_data"
        self.engine = core("_engine").Engine()
        spec = importlib.util.spec_from_file_location(
            "render_conftest", REPOSITORY / "tests" / "render" / "conftest.py"
        )
        self.render = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.render)
        run("docker", "network", "create", "--internal", self.network)
        self.ca("ca")
        self.ca("other")

    def ca(self, name):
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30",
            "-keyout", str(self.dir / f"{name}.key"), "-out", str(self.dir / f"{name}.crt"), "-subj", f"/CN={name}",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign")  # fmt: skip

    def leaf(self, service: str, uid: int) -> Path:
        place = self.dir / "leaves" / service / "v1"
        place.mkdir(parents=True)
        (self.dir / "ext").write_text(
            f"subjectAltName=DNS:{service},DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth\n"
        )
        run("openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-keyout", str(place / "tls.key"), "-out", str(self.dir / "csr"), "-subj", f"/CN={service}")  # fmt: skip
        run("openssl", "x509", "-req", "-in", str(self.dir / "csr"), "-CA", str(self.dir / "ca.crt"),
            "-CAkey", str(self.dir / "ca.key"), "-CAcreateserial", "-days", "30", "-extfile", str(self.dir / "ext"),
            "-out", str(place / "tls.crt"))  # fmt: skip
        shutil.copy(self.dir / "ca.crt", place / "ca.crt")
        (place.parent / "current").symlink_to("v1")
        for path in [place, *place.iterdir()]:
            os.chown(path, uid, uid)
        (place / "tls.key").chmod(0o400)
        return place.parent

    def secret(self, service: str, name: str, value: str, uid: int) -> Path:
        place = self.dir / "secrets" / service / name
        place.mkdir(parents=True, exist_ok=True)
        (place / "v1").write_text(value)
        (place / "v1").chmod(0o400)
        if not (place / "current").exists():
            (place / "current").symlink_to("v1")
        for path in [place.parent, place, place / "v1"]:
            os.chown(path, uid, uid)
        return place / "current"

    def role(self, name: str, **options):
        return self.render.Role(name, options)

    def config(self, role, spec) -> Path:
        root = self.dir / "config" / spec["name"]
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        root.chmod(0o750)
        for name, text in role.files().items():
            (root / name).write_text(text)
            (root / name).chmod(0o640)
            os.chown(root / name, 0, spec["uid"])
        os.chown(root, 0, spec["uid"])
        return root

    def hardening(self, spec) -> list[str]:
        """What the stack's own macro says, as arguments of docker run."""
        uid, limits = spec["uid"], spec["limits"]
        flags = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--user", f"{uid}:{uid}"]
        flags += ["--memory", limits["memory"], "--pids-limit", str(limits["pids"]), "--shm-size", limits["shm"]]
        flags += ["--ulimit", f"nofile={limits['nofile']}"]
        for mount in spec["tmpfs"]:
            options = f"rw,noexec,nosuid,nodev,size={mount['size']},mode={mount['mode']},uid={uid},gid={uid}"
            flags += ["--tmpfs", f"{mount['target']}:{options}"]
        return flags

    def start(self, role, spec) -> str:
        name = f"{self.project}-{spec['name']}-1"
        flags = self.hardening(spec)
        flags += ["-v", f"{self.config(role, spec)}:{spec['config']}:ro"]
        flags += ["-v", f"{self.dir / 'leaves' / spec['name']}:/run/tls:ro"]
        if spec["secrets"]:
            flags += ["-v", f"{self.dir / 'secrets' / spec['name']}:/run/secrets:ro"]
        for volume in spec["volumes"]:
            flags += ["-v", f"{self.project}_{volume['name']}:{volume['target']}"]
        run("docker", "run", "-d", "--name", name, "--network", self.network, "--network-alias", spec["name"], *flags,
            "--label", f"com.docker.compose.project={self.project}", "--label", f"com.docker.compose.service={spec['name']}",
            "--stop-signal", spec["stop"]["signal"], "--entrypoint", spec["entrypoint"][0], spec["image"],
            *spec["entrypoint"][1:], *spec["command"])  # fmt: skip
        wait_for(lambda: self.healthy(name, spec), f"health of {name}")
        return name

    def healthy(self, container, spec) -> bool:
        return run("docker", "exec", container, *spec["health"]["command"], check=False).returncode == 0

    def address(self, container: str) -> str:
        found = json.loads(run("docker", "inspect", container).stdout)[0]["NetworkSettings"]["Networks"]
        return found[self.network]["IPAddress"]

    def log(self, container: str) -> str:
        done = run("docker", "logs", container)
        return done.stdout + done.stderr

    def close(self):
        mine = run("docker", "ps", "-aq", "--filter", f"label=com.docker.compose.project={self.project}").stdout.split()
        if mine:
            run("docker", "rm", "-f", *mine)
        for volume in run("docker", "volume", "ls", "-q", "--filter", f"name={self.project}").stdout.split():
            run("docker", "volume", "rm", "-f", volume)
        run("docker", "network", "rm", self.network)


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    for tool in ("docker", "openssl"):
        if not shutil.which(tool):
            pytest.fail(f"The data layer's live tests need {tool}: install it.")
    if os.geteuid() != 0:
        pytest.fail("The data layer's live tests look into volumes of the engine: run them as root.")
    directory = tmp_path_factory.mktemp("data")
    for parent in [directory, *directory.parents]:
        if parent in (Path("/tmp"), Path("/")):  # noqa: S108
            break
        parent.chmod(0o755)
    made = Lab(directory)
    yield made
    made.close()


DATABASE = {
    "name": "gateway",
    "owner": "gateway_owner",
    "logins": ["gateway_a", "gateway_b"],
    "extensions": ["vector"],
}
ROLE = {"name": "reader", "logins": ["reader_a", "reader_b"], "connection_limit": 2, "statement_timeout": "5s"}


class Postgres:
    def __init__(self, lab: Lab):
        self.lab = lab
        self.image = image_of("postgres")
        init = core("_postgres_init")
        self.cluster = init.Cluster(image=image_of("postgres-init"), major=17, project=lab.project)
        self.secret = lab.secret("operator", "gateway-db", f"gateway_a:{PASSWORD}", 0)
        beside = lab.secret("operator", "reader-db", f"reader_a:{PASSWORD}", 0)
        roles = [{**ROLE, "secret_file": str(beside)}]
        self.database = {**DATABASE, "secret_file": str(self.secret), "roles": roles}
        self.role = lab.role(
            "postgres", mcpstack_postgres_image=self.image, mcpstack_postgres_init_image=self.cluster.image,
            mcpstack_postgres_databases=[self.database],
        )  # fmt: skip
        self.spec = self.role.value("_mcpstack_postgres_service")
        self.ca = str(lab.dir / "ca.crt")
        lab.leaf("postgres", self.spec["uid"])
        self.initialised = init.ensure(lab.engine, self.cluster, lock=str(lab.dir / "lock"))
        self.container = lab.start(self.role, self.spec)

    @property
    def address(self):
        return self.lab.address(self.container)

    def sql(self, text: str, database="postgres") -> str:
        argv = [
            "/usr/lib/postgresql/17/bin/psql",
            "-X",
            "-q",
            "-A",
            "-t",
            "-h",
            "/run/postgresql",
            "-U",
            "postgres",
            "-d",
            database,
        ]
        return run("docker", "exec", "-i", self.container, *argv, "-f", "-", stdin=text).stdout.strip()


@pytest.fixture(scope="session")
def postgres(lab):
    return Postgres(lab)


class Valkey:
    def __init__(self, lab: Lab):
        self.lab = lab
        self.role = lab.role("valkey", mcpstack_valkey_image=image_of("valkey"))
        self.spec = self.role.value("_mcpstack_valkey_service")
        template = (REPOSITORY / "roles" / "valkey" / "files" / "users.acl").read_text()
        values = {
            "valkey-gateway": PASSWORD.encode(),
            "valkey-registry": PASSWORD.encode(),
            "valkey-operator": OPERATOR.encode(),
        }
        lab.secret("valkey", "valkey-acl", core("_secret_store").derive(template, values).decode(), self.spec["uid"])
        lab.leaf("valkey", self.spec["uid"])
        self.container = lab.start(self.role, self.spec)

    def ask(self, *commands: str, tls=False) -> list[str]:
        """Send commands by stdin, over the socket or over TCP and TLS; one answer a line."""
        where = ["-h", "localhost", "-p", "6379", "--tls", "--cacert", "/run/tls/current/ca.crt"]
        where = where if tls else ["-s", "/run/valkey/valkey.sock"]
        done = run(
            "docker",
            "exec",
            "-i",
            self.container,
            "/usr/bin/valkey-cli",
            *where,
            stdin="\n".join(commands) + "\n",
            check=False,
        )
        return [line for line in (done.stdout + done.stderr).splitlines() if line]

    def as_user(self, user, *commands, **kwargs):
        password = {"gateway": PASSWORD, "registry": PASSWORD, "operator": OPERATOR, "health": "-"}[user]
        answers = self.ask(f"AUTH {user} {password}", *commands, **kwargs)
        assert answers[0] == "OK", answers
        return answers[1:]


@pytest.fixture(scope="session")
def valkey(lab):
    return Valkey(lab)
