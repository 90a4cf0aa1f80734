# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real edge: the role's rendered configuration in the real image, under the restrictions of the service spec."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[2]
NAMES = ["edge.test", "llm.edge.test"]
UID = 64101
_counter = itertools.count(1)


def sh(*argv, check=True, **kwargs):
    result = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False, **kwargs)
    if check and result.returncode != 0:
        raise AssertionError(f"{' '.join(argv)} failed ({result.returncode}): {result.stdout}{result.stderr}")
    return result.stdout


def wait_for(condition, what, seconds=20):
    """Poll until ``condition()`` is true; the only waiting these tests do."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if condition():
                return
        except OSError:
            pass
        time.sleep(0.02)
    raise AssertionError(f"{what} did not happen within {seconds} s")


def render_helper():
    spec = importlib.util.spec_from_file_location("render_conftest", REPOSITORY / "tests" / "render" / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Response:
    def __init__(self, raw: bytes):
        head, _, body = raw.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split()[1]) if lines[0] else 0
        self.pairs = [tuple(line.split(": ", 1)) for line in lines[1:] if ": " in line]
        self.headers = {name.lower(): value for name, value in self.pairs}
        self.body = body

    def all(self, name):
        return [value for key, value in self.pairs if key.lower() == name.lower()]

    @property
    def json(self):
        body = self.body
        if self.headers.get("transfer-encoding") == "chunked":
            out = b""
            while body:
                size, _, body = body.partition(b"\r\n")
                count = int(size, 16)
                out, body = out + body[:count], body[count + 2 :]
            body = out
        return json.loads(body)

    @property
    def error(self):
        return self.json["error"]


class Edge:
    """One container of the edge, and how to talk to it."""

    def __init__(self, lab, options):
        self.lab = lab
        self.container = f"{lab.prefix}-edge-{next(_counter)}"
        self.options = {
            "mcpstack_edge_image": lab.image,
            "mcpstack_edge_server_names": NAMES,
            "mcpstack_edge_trusted_proxies": [f"{lab.gateway_ip}/32"],
            "mcpstack_edge_per_client": {"rate": 5, "burst": 5, "connections": 4},
            "mcpstack_edge_stream_timeout": "3s",
            **options,
        }
        helper = render_helper()
        self.role = helper.Role("edge", self.options)
        self.spec = self.role.value("_mcpstack_edge_service")
        self.validator = self.role.value("_mcpstack_edge_validate")
        self.config = lab.dir / self.container
        for name, text in self.role.files().items():
            target = self.config / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        for path in [self.config, *self.config.rglob("*")]:
            os.chown(path, 0, UID)
            path.chmod(0o750 if path.is_dir() else 0o640)
        self.address = None

    def hardening(self, network):
        return [
            *("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--user", f"{UID}:{UID}"),
            *("--pids-limit", str(self.spec["limits"]["pids"]), "--memory", self.spec["limits"]["memory"]),
            *("--ulimit", f"nofile={self.spec['limits']['nofile']}", "--network", network),
            *(
                "--tmpfs",
                f"/tmp:rw,noexec,nosuid,nodev,mode=0700,uid={UID},gid={UID},size={self.spec['tmpfs'][0]['size']}",
            ),
            *("-v", f"{self.config}:{self.spec['config']}:ro"),
        ]

    def start(self, tls=True):
        mounts = ["-v", f"{self.lab.acme}:/var/lib/acme:ro"]
        if tls:
            mounts += ["-v", f"{self.lab.tls}:/run/tls:ro"]
        entry = self.spec["entrypoint"]
        self.lab.containers.append(self.container)
        sh("docker", "run", "-d", "--name", self.container, *self.hardening(self.lab.network), *mounts,
           "--stop-signal", "SIGQUIT", "--entrypoint", entry[0], self.lab.image, *entry[1:])  # fmt: skip
        self.address = self.lab.address(self.container)
        wait_for(lambda: socket.create_connection((self.address, 8443), 1).close() is None, "the edge listening")
        return self

    def validate(self):
        command = self.validator["command"]
        return subprocess.run(
            ["docker", "run", "--rm", *self.hardening("none"), "--entrypoint", command[0], self.lab.image, *command[1:]],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    def healthy(self):
        argv = self.spec["health"]["command"]
        return subprocess.run(
            ["docker", "exec", self.container, *argv], capture_output=True, text=True, timeout=30, check=False
        )

    def log(self):
        result = subprocess.run(
            ["docker", "logs", self.container], capture_output=True, text=True, timeout=30, check=False
        )
        return result.stdout, result.stderr

    def entries(self):
        return [json.loads(line) for line in self.log()[0].splitlines()]

    def connect(self, tls=True, sni=NAMES[0], timeout=10, context=None):
        raw = socket.create_connection((self.address, 8443 if tls else 8080), timeout)
        if not tls:
            return raw
        context = context or self.lab.context()
        return context.wrap_socket(raw, server_hostname=sni)

    @staticmethod
    def read_all(connection):
        data = b""
        try:
            while True:
                part = connection.recv(65536)
                if not part:
                    return data
                data += part
        except (ConnectionResetError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return data

    def raw(self, data: bytes, **kwargs) -> Response:
        with self.connect(**kwargs) as connection:
            # It may be refused before everything was sent; the answer is what counts.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLError):
                connection.sendall(data)
            answer = self.read_all(connection)
        return Response(answer)

    def request(
        self, path="/v1/models", method="GET", body=b"", headers=None, host=NAMES[0], client=None, **kwargs
    ) -> Response:
        """One request on a connection of its own. Each gets a client address of its own unless ``client`` is given."""
        number = next(_counter)
        client = client or f"198.18.{number // 250}.{number % 250 + 1}"
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close", f"X-Forwarded-For: {client}"]
        if body or method == "POST":
            lines.append(f"Content-Length: {len(body)}")
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        return self.raw("\r\n".join(lines).encode() + b"\r\n\r\n" + body, **kwargs)


class Gateway:
    """A container with the name gateway on the network, with the behaviours of upstream.py inside its namespace."""

    def __init__(self, lab, port=8000, alias="gateway", manner="any"):
        self.lab, self.port, self.alias, self.manner, self.process = lab, port, alias, manner, None
        self.container = f"{lab.prefix}-gateway-{next(_counter)}"

    def start(self, listening=True):
        idle = self.lab.dir / "idle.conf"
        kinds = ("proxy", "client_body", "fastcgi", "uwsgi", "scgi")
        paths = "".join(f"{kind}_temp_path /tmp/{kind}; " for kind in kinds)
        idle.write_text(
            f"pid /tmp/pid; events {{}} http {{ access_log off; server {{ listen unix:/tmp/idle; }} {paths} }}"
        )
        idle.chmod(0o644)
        self.lab.containers.append(self.container)
        sh("docker", "run", "-d", "--name", self.container, "--network", self.lab.network, "--network-alias", self.alias,
           "--user", "64199:64199", "--tmpfs", "/tmp:mode=0700,uid=64199,gid=64199", "-v", f"{idle}:/idle.conf:ro", "--entrypoint", "/usr/sbin/nginx",
           self.lab.image, "-e", "stderr", "-c", "/idle.conf", "-g", "daemon off;")  # fmt: skip
        self.address = self.lab.address(self.container)
        if listening:
            self.listen()
        return self

    def listen(self):
        pid = sh("docker", "inspect", "-f", "{{.State.Pid}}", self.container).strip()
        self.process = subprocess.Popen(
            ["nsenter", "-t", pid, "-n", sys.executable, str(HERE / "upstream.py"), str(self.port), self.manner],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout.readline().startswith("listening")

    def stop_listening(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            self.process = None

    def remove(self):
        self.stop_listening()
        sh("docker", "rm", "-f", self.container, check=False)


class Lab:
    """Network, certificates and everything that has to go again."""

    def __init__(self, directory: Path):
        self.dir = directory
        self.prefix = f"edge-test-{os.getpid()}"
        self.network = self.prefix
        self.containers: list[str] = []
        self.networks = [self.network]
        self.image = os.environ.get("MCPSTACK_TEST_NGINX_IMAGE") or self.newest_image()
        sh("docker", "network", "create", self.network)
        self.gateway_ip = sh(
            "docker", "network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", self.network
        ).strip()
        self.acme = directory / "acme"
        (self.acme / ".well-known" / "acme-challenge").mkdir(parents=True)
        (self.acme / ".well-known" / "acme-challenge" / "token_1-A").write_text("answer")
        self.tls = directory / "tls"
        self.leaf("v1")
        self.publish("v1")

    @staticmethod
    def newest_image():
        found = sh("docker", "images", "--format", "{{.Repository}}:{{.Tag}}", "mcpstack/nginx").split()
        if not found:
            pytest.fail(
                "There is no image mcpstack/nginx on this engine: build it first, or name one in MCPSTACK_TEST_NGINX_IMAGE."
            )
        return found[0]

    def leaf(self, version):
        ca_key, ca = self.dir / "ca.key", self.dir / "ca.crt"
        new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30")
        if not ca.exists():
            sh("openssl", "req", "-x509", *new_key, "-keyout", str(ca_key), "-out", str(ca), "-subj", "/CN=edge test CA",
               "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign")  # fmt: skip
        place = self.tls / version
        place.mkdir(parents=True)
        names = ",".join(f"DNS:{name}" for name in NAMES)
        extensions = self.dir / "extensions"
        extensions.write_text(
            f"subjectAltName={names}\nextendedKeyUsage=serverAuth\nkeyUsage=critical,digitalSignature\n"
        )
        request = self.dir / "leaf.csr"
        sh(
            "openssl",
            "req",
            "-new",
            *new_key[:-2],
            "-keyout",
            str(place / "tls.key"),
            "-out",
            str(request),
            "-subj",
            f"/CN={version}",
        )
        sh("openssl", "x509", "-req", "-in", str(request), "-CA", str(ca), "-CAkey", str(ca_key), "-CAcreateserial", "-days", "30",
           "-extfile", str(extensions), "-out", str(place / "tls.crt"))  # fmt: skip
        (place / "tls.key").chmod(0o400)
        for path in [self.tls, place, *place.iterdir()]:
            os.chown(path, UID, UID)

    def publish(self, version):
        (self.tls / "next").symlink_to(version)
        (self.tls / "next").rename(self.tls / "current")

    def context(self, **kwargs):
        context = ssl.create_default_context(cafile=str(self.dir / "ca.crt"))
        for name, value in kwargs.items():
            setattr(context, name, value)
        return context

    def address(self, container):
        return sh(
            "docker", "inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", container
        ).strip()

    def close(self):
        for name in self.containers:
            sh("docker", "rm", "-f", name, check=False)
        for name in self.networks:
            sh("docker", "network", "rm", name, check=False)


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    for tool in ("docker", "openssl", "nsenter", "curl"):
        if not shutil.which(tool):
            pytest.fail(f"The edge's live tests need {tool}: install it.")
    if os.geteuid() != 0:
        pytest.fail("The edge's live tests enter a container's network namespace: run them as root.")
    directory = tmp_path_factory.mktemp("edge")
    for parent in [directory, *directory.parents]:
        if parent == Path("/tmp") or parent == Path("/"):  # noqa: S108
            break
        parent.chmod(0o755)
    made = Lab(directory)
    yield made
    made.close()


@pytest.fixture(scope="session")
def make_edge(lab):
    def make(start=True, tls=True, **options):
        made = Edge(lab, options)
        return made.start(tls) if start else made

    return make


@pytest.fixture(scope="session")
def edge(lab, gateway, make_edge):
    return make_edge()


@pytest.fixture(scope="session")
def make_gateway(lab):
    return lambda **options: Gateway(lab, **options)


@pytest.fixture(scope="session")
def gateway(make_gateway):
    made = make_gateway().start()
    yield made
    made.remove()


@pytest.fixture(scope="session")
def registry(make_gateway):
    """The same behaviours under the registry's name."""
    made = make_gateway(alias="registry").start()
    yield made
    made.remove()


@pytest.fixture(name="sh", scope="session")
def _sh():
    return sh


@pytest.fixture(name="wait_for", scope="session")
def _wait_for():
    return wait_for
