# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make this machine ready to run the project: Debian packages, toolchain, collections, Docker engine.

usage: bootstrap.py [packages] [venv] [collections] [services] [peers] [bench] [litellm] [engine] [browser]
       (default: all but services, peers, bench, litellm and browser)

Every step looks first and does only what is missing; a machine that is ready is left alone in well under a second.
Steps are remembered by a hash of their inputs, so a changed lock file is installed and an unchanged one is not.
Uses the standard library only: nothing else is there yet.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"
VENV = ROOT / ".venv"
REQUIREMENTS = ROOT / "tools" / "requirements"
COLLECTIONS = (
    "community.docker",
    "community.crypto",
    "ansible.posix",
    "community.library_inventory_filtering_v1",
)
# what is looked for -> the Debian packages that bring it
PROGRAMS = {
    "dockerd": ("docker.io",),
    "docker": ("docker-cli",),
    "mmdebstrap": ("mmdebstrap",),
    "gpg": ("gpg", "gpg-agent"),
    "gpgv": ("gpgv",),
    "ssh": ("openssh-client",),
    "ssh-keygen": ("openssh-client",),
    "git": ("git",),
    "iptables": ("iptables",),
}
# what the proofs in a real browser need, beside the above; only `make test-long` asks for it
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER_PACKAGES = ("chromium", "fonts-dejavu-core")
# the servers that tests start for themselves, on ports of their own, or ask about a configuration
POSTGRES = "usr/lib/postgresql/*/bin/postgres"
# Debian 12 has no pgvector: it is built there from the source of Debian 13, pinned by the hash its signed .dsc names
PGVECTOR = "0.8.0"
PGVECTOR_PATH = f"pool/main/p/pgvector/pgvector_{PGVECTOR}.orig.tar.gz"
PGVECTOR_SHA256 = "867a2c328d4928a5a9d6f052cd3bc78c7d60228a9b914ad32aa3db88e9de27b0"
PGVECTOR_CFLAGS = "-O2 -ftree-vectorize -fassociative-math -fno-signed-zeros -fno-trapping-math -fPIC -shared".split()
POLICY = Path("/usr/sbin/policy-rc.d")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
ENGINE_LOG = Path("/var/log/mcpstack-dockerd.log")
ENGINE_WAIT_S = 60


class BootstrapError(Exception):
    """A sentence for a person: what is wrong and what to do."""


def say(text: str) -> None:
    """Progress line."""
    print(f"    {text}", file=sys.stderr, flush=True)


def missing_packages(which: Callable[[str], str | None], has_venv: bool, has_keyring: bool, codename: str) -> list[str]:
    """Debian packages this machine lacks, each once, in a stable order."""
    packages: list[str] = []
    for program, names in PROGRAMS.items():
        if which(program) is None:
            packages += names
    if codename == "bookworm":  # there, docker.io brings the client along
        packages = ["docker.io" if name == "docker-cli" else name for name in packages]
    if not has_venv:
        packages.append("python3-venv")
    if not has_keyring:
        packages.append("debian-archive-keyring")
    return list(dict.fromkeys(packages))


def uv_environment(pip_config: str, environ: Mapping[str, str]) -> dict[str, str]:
    """uv's settings for what pip is configured to use: index, extra indices, wheel folders, certificates.

    `pip_config` is the output of `pip config list`; later entries (the environment) win, as in pip.
    """
    values: dict[str, str] = {}
    for line in pip_config.splitlines():
        key, _, value = line.partition("=")
        scope, _, name = key.strip().partition(".")
        if scope in ("global", "install", ":env:", "site", "user"):
            values[name] = value.strip().strip("'\"").replace("\\n", " ")
    found = {
        "UV_DEFAULT_INDEX": values.get("index-url", ""),
        "UV_INDEX": values.get("extra-index-url", ""),
        "UV_FIND_LINKS": values.get("find-links", "").replace(" ", ","),
        "SSL_CERT_FILE": values.get("cert", ""),
        "UV_HTTP_TIMEOUT": values.get("default-timeout", values.get("timeout", "")),
        "UV_OFFLINE": "1" if values.get("no-index", "").lower() in ("1", "true", "yes") else "",
    }
    return {key: value for key, value in found.items() if value and key not in environ}


def digest(*parts: bytes) -> str:
    """Hash of a step's inputs."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(hashlib.sha256(part).digest())
    return whole.hexdigest()


def is_done(step: str, wanted: str) -> bool:
    """Was this step finished with exactly these inputs?"""
    stamp = CACHE / "stamps" / step
    return stamp.exists() and stamp.read_text() == wanted


def mark_done(step: str, wanted: str) -> None:
    """Remember that it was."""
    stamp = CACHE / "stamps" / step
    stamp.parent.mkdir(parents=True, exist_ok=True)
    partial = stamp.with_suffix(".part")
    partial.write_text(wanted)
    partial.replace(stamp)


def run(
    argv: list[str], env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command, never raise; its output is kept for the error message."""
    return subprocess.run(
        argv,
        check=False,
        capture_output=True,
        text=True,
        env=dict(env) if env else None,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
    )


def tail(done: subprocess.CompletedProcess[str], lines: int = 8) -> str:
    """The end of what a failed command said."""
    return "\n".join((done.stdout + done.stderr).strip().splitlines()[-lines:])


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One bootstrap at a time in this checkout."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "bootstrap.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another bootstrap of this checkout")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def codename() -> str:
    """Debian's name of this release, or an empty string."""
    return platform.freedesktop_os_release().get("VERSION_CODENAME", "")


def packages() -> None:
    """Debian packages."""
    has_venv = run([sys.executable, "-c", "import ensurepip, venv"]).returncode == 0
    install(missing_packages(shutil.which, has_venv, KEYRING.exists(), codename()))


def server_program(name: str) -> str | None:
    """Where a program lies; Debian keeps servers where not every user looks."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin")


def missing_servers(which: Callable[[str], str | None], has_postgres: bool, codename: str) -> list[str]:
    """Debian packages of the servers that tests start or ask, where they are missing."""
    packages = [] if has_postgres else ["postgresql"]
    if not any(map(which, ("valkey-server", "redis-server"))):
        packages.append("redis-server" if codename == "bookworm" else "valkey-server")
    if which("nginx") is None:  # what the audit says of a configuration is held against what nginx says of it
        packages.append("nginx")
    return packages


@contextlib.contextmanager
def not_started(policy: Path) -> Iterator[None]:
    """Debian starts a server when it installs it, unless this file forbids it; one that is there is left alone."""
    if policy.exists():
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink()


def bench() -> None:
    """What bench_services.py needs beside the services' own things: a load generator, a compiler for its model server."""
    missing = [
        name
        for name, program in (("wrk", "wrk"), ("gcc", "gcc"), ("libc6-dev", "gcc"))
        if shutil.which(program) is None
    ]
    if missing:
        install(missing)


def litellm() -> None:
    """The proxy that bench_services.py holds the gateway against; 700 MB, so only who asks for it gets it."""
    _install(CACHE / "venv-litellm", REQUIREMENTS / "litellm.txt", "litellm", "LiteLLM's proxy, for the benchmark")


def browser() -> None:
    """A Chromium, for the proofs that look at the report's page."""
    if not any(map(shutil.which, BROWSERS)):
        install(list(BROWSER_PACKAGES))


def install(missing: list[str]) -> None:
    """Install Debian packages; nothing is asked of the package manager when none is missing."""
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise BootstrapError(
            f"This machine lacks {', '.join(missing)} and has no apt-get: install them, then run again."
        )
    if os.geteuid() != 0:
        raise BootstrapError(f"Debian packages are missing ({' '.join(missing)}): run the same command as root.")
    say(f"installing Debian packages: {' '.join(missing)}")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_SUSPEND": "1"}
    update = run(["apt-get", "update", "-qq"], env)
    installed = run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing], env)
    if installed.returncode:
        hint = "" if update.returncode == 0 else f"\n`apt-get update` had failed before:\n{tail(update)}"
        raise BootstrapError(f"apt-get could not install {' '.join(missing)}:\n{tail(installed)}{hint}")


def _install(folder: Path, lock: Path, step: str, what: str) -> None:
    """A virtual environment with exactly what a lock says, by uv (pinned and hashed itself), by pip where uv cannot."""
    if sys.version_info < (3, 11):
        raise BootstrapError(f"python3 is {platform.python_version()}: the toolchain needs Python 3.11 or newer.")
    uv_lock = REQUIREMENTS / "uv.txt"
    python = folder / "bin" / "python"
    wanted = digest(lock.read_bytes(), uv_lock.read_bytes(), platform.python_version().encode(), str(folder).encode())
    if is_done(step, wanted) and python.exists():
        return
    say(
        f"installing {what} into {folder.relative_to(ROOT)} (Python {platform.python_version()}, pinned and hash-checked)"
    )
    begin = time.monotonic()
    made = run([sys.executable, "-m", "venv", "--clear", str(folder)])
    if made.returncode:
        raise BootstrapError(f"python3 -m venv failed:\n{tail(made)}\nIs the Debian package python3-venv installed?")
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    how = "uv"
    done = run([*pip, "install", "-q", "--require-hashes", "--only-binary", ":all:", "-r", str(uv_lock)])
    if done.returncode == 0:
        config = run([*pip, "config", "list"]).stdout
        env = {
            "UV_SYSTEM_CERTS": "true",
            **os.environ,
            **uv_environment(config, os.environ),
            "VIRTUAL_ENV": str(folder),
        }
        done = run(
            [str(folder / "bin" / "uv"), "pip", "install", "-q", "--compile-bytecode", "--require-hashes", "--index-strategy=unsafe-best-match",
             "--python", str(python), "-r", str(lock)], env
        )  # fmt: skip
    if done.returncode:
        how = "pip"
        say(f"uv could not install it, pip does (slower): {tail(done, 2)}")
        done = run([*pip, "install", "-q", "--require-hashes", "-r", str(lock)])
        if done.returncode:
            raise BootstrapError(
                f"{what} could not be installed from the configured package index:\n{tail(done)}\n"
                "Check `pip config list` and that the index is reachable, then run again."
            )
    mark_done(step, wanted)
    say(f"{what} ready ({how}, {time.monotonic() - begin:.0f} s)")


def venv() -> None:
    """The pinned, hash-checked toolchain in .venv."""
    _install(VENV, REQUIREMENTS / "controller.txt", "venv", "the toolchain")


def services() -> None:
    """What tests need, apart from the toolchain: servers, and the services' own pinned libraries."""
    missing = missing_servers(server_program, any(Path("/").glob(POSTGRES)), codename())
    if missing:
        with not_started(POLICY) if os.geteuid() == 0 else contextlib.nullcontext():
            install(missing)
    pgvector()
    folder = CACHE / "venv-services"
    _install(folder, REQUIREMENTS / "services.txt", "services", "the services' libraries")
    for packages_folder in folder.glob("lib/python3*/site-packages"):  # their own code, as it is in this checkout
        (packages_folder / "mcpstack.pth").write_text(f"{ROOT / 'services' / 'src'}\n")


def pgvector(root: Path = Path("/")) -> None:
    """The extension `vector` of the newest Postgres here: Debian's package, or one that is built like it."""
    majors = [int(path.parent.parent.name) for path in root.glob(POSTGRES) if path.parent.parent.name.isdigit()]
    if not majors or (root / f"usr/share/postgresql/{max(majors)}/extension/vector.control").exists():
        return
    package = f"postgresql-{max(majors)}-pgvector"
    if os.geteuid() != 0:
        raise BootstrapError(f"The extension vector of Postgres is missing ({package}): run the same command as root.")
    run(["apt-get", "update", "-qq"])
    if run(["apt-cache", "show", package]).returncode == 0:
        install([package])
    else:
        install([name for name, program in (("gcc", "gcc"), ("libc6-dev", "gcc")) if shutil.which(program) is None])
        with tempfile.TemporaryDirectory(prefix="mcpstack-pgvector-") as name:
            _build_pgvector(max(majors), package, Path(name))


def _build_pgvector(major: int, package: str, folder: Path) -> None:
    """Headers without the compiler suite that Debian's -dev package asks for, one call of gcc, one small package."""
    say(f"building {package} {PGVECTOR} from Debian's source")
    begin = time.monotonic()
    (folder / "source.tar.gz").write_bytes(_fetch_pgvector())
    root, headers = folder / "root", folder / "headers"
    library, share = root / f"usr/lib/postgresql/{major}/lib", root / f"usr/share/postgresql/{major}/extension"
    for path in (library, share, root / "DEBIAN", headers):
        path.mkdir(parents=True)
    source = folder / f"pgvector-{PGVECTOR}"
    _must(["tar", "xzf", "source.tar.gz"], folder)
    _must(["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", f"postgresql-server-dev-{major}", "libpq-dev"],
          folder)  # fmt: skip
    for archive_path in folder.glob("*.deb"):
        _must(["dpkg-deb", "-x", archive_path.name, "headers"], folder)
    include = headers / "usr/include/postgresql"
    _must(["gcc", *PGVECTOR_CFLAGS, "-I", str(include / f"{major}/server"), "-I", str(include),
           "-o", str(library / "vector.so"), *sorted(map(str, (source / "src").glob("*.c"))), "-lm"], folder)  # fmt: skip
    for script in (source / "sql").glob("vector--*.sql"):
        shutil.copyfile(script, share / script.name)
    shutil.copyfile(source / "sql/vector.sql", share / f"vector--{PGVECTOR}.sql")
    shutil.copyfile(source / "vector.control", share / "vector.control")
    (root / "DEBIAN/control").write_text(
        f"Package: {package}\nVersion: {PGVECTOR}-1~built\nArchitecture: {_must(['dpkg', '--print-architecture']).strip()}\n"
        f"Depends: postgresql-{major}\nMaintainer: mcpstack.platform <root@localhost>\n"
        "Description: vector similarity search, built for the tests of mcpstack.platform\n"
    )
    _must(["dpkg-deb", "--root-owner-group", "-b", "root", "vector.deb"], folder)
    _must(["dpkg", "-i", "vector.deb"], folder)
    say(f"{package} ready ({time.monotonic() - begin:.0f} s)")


def _fetch_pgvector() -> bytes:
    """Debian's source, from the first of this machine's own mirrors that has it; its hash is what counts."""
    mirrors = _must(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]).split()
    reason = "apt knows no mirror"
    for mirror in dict.fromkeys(mirrors):
        try:
            with urllib.request.urlopen(mirror + PGVECTOR_PATH, timeout=60) as answer:
                archive = answer.read(10_000_000)
        except (OSError, ValueError) as exc:
            reason = str(exc)
            continue
        if hashlib.sha256(archive).hexdigest() != PGVECTOR_SHA256:
            raise BootstrapError("The source of pgvector is not the one that is pinned in tools/bootstrap.py.")
        return archive
    raise BootstrapError(f"The source of pgvector cannot be fetched: {reason}")


def _must(argv: list[str], cwd: Path | None = None) -> str:
    done = run(argv, cwd=cwd)
    if done.returncode:
        raise BootstrapError(f"{' '.join(argv[:3])} failed:\n{tail(done)}")
    return done.stdout


def peers() -> None:
    """The independent tools that the audits are held against."""
    _install(CACHE / "venv-peers", REQUIREMENTS / "peers.txt", "peers", "the independent audit tools")


def collections() -> None:
    """The collections the playbooks depend on, out of one pinned wheel, installed without Galaxy."""
    lock = REQUIREMENTS / "collections.txt"
    script = ROOT / "tools" / "vendor_collections.py"
    wanted = digest(lock.read_bytes(), script.read_bytes(), json.dumps(COLLECTIONS).encode())
    target = CACHE / "collections"
    if is_done("collections", wanted) and (target / "ansible_collections" / "community" / "docker").is_dir():
        link()
        return
    say("fetching the dependency collections (one pinned wheel, 54 MB)")
    begin = time.monotonic()
    wheels, vendored = CACHE / "wheels", CACHE / "vendor"
    for folder in (wheels, vendored, target):
        shutil.rmtree(folder, ignore_errors=True)
    fetched = run(
        [str(VENV / "bin" / "python"), "-m", "pip", "download", "--disable-pip-version-check", "-q", "--no-deps",
         "--require-hashes", "-d", str(wheels), "-r", str(lock)]
    )  # fmt: skip
    if fetched.returncode:
        raise BootstrapError(
            f"The wheel with the dependency collections could not be fetched from the package index:\n{tail(fetched)}"
        )
    (wheel,) = wheels.glob("*.whl")
    packed = run([sys.executable, str(script), str(wheel), str(vendored), *COLLECTIONS])
    if packed.returncode:
        raise BootstrapError(f"The dependency collections could not be unpacked:\n{tail(packed)}")
    installed = run(
        [
            str(VENV / "bin" / "ansible-galaxy"),
            "collection",
            "install",
            "--offline",
            "-r",
            "requirements.yml",
            "-p",
            str(target),
        ],
        {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(target)},
        vendored,
    )
    if installed.returncode:
        raise BootstrapError(f"ansible-galaxy could not install the dependency collections:\n{tail(installed)}")
    shutil.rmtree(wheels)
    link()
    mark_done("collections", wanted)
    say(f"collections ready ({time.monotonic() - begin:.0f} s)")


def link() -> None:
    """Make this checkout importable as ansible_collections.mcpstack.platform."""
    here = CACHE / "self" / "ansible_collections" / "mcpstack" / "platform"
    if here.is_symlink() and here.resolve() == ROOT:
        return
    here.parent.mkdir(parents=True, exist_ok=True)
    here.unlink(missing_ok=True)
    here.symlink_to(ROOT)


def _engine_answer() -> str:
    """Empty when the engine answers, else why not."""
    asked = run(["docker", "version", "--format", "{{.Server.Version}}"])
    return "" if asked.returncode == 0 and asked.stdout.strip() else (asked.stderr.strip() or "no answer")


def remove_stale_pid(path: Path, proc: Path = Path("/proc")) -> None:
    """dockerd refuses to start when its pid file names any living process, even another one after a reboot."""
    with contextlib.suppress(OSError, ValueError):
        number = int(path.read_text())
        comm = proc / str(number) / "comm"
        status = proc / str(number) / "status"
        dead = status.exists() and "\nState:\tZ" in status.read_text()  # killed, and not yet noticed by its parent
        if comm.exists() and comm.read_text().strip() == "dockerd" and not dead:
            raise BootstrapError(
                f"A dockerd (process {number}) runs but does not answer: look at its log, or stop it, then run again."
            )
        path.unlink()


def engine() -> None:
    """A Docker engine that answers, started by whatever runs services here."""
    problem = _engine_answer()
    if not problem:
        return
    if os.environ.get("DOCKER_HOST"):
        raise BootstrapError(f"The Docker engine at DOCKER_HOST={os.environ['DOCKER_HOST']} does not answer: {problem}")
    if "permission denied" in problem.lower():
        raise BootstrapError("The Docker engine refuses this user: run the same command as root.")
    if os.geteuid() != 0:
        raise BootstrapError(f"The Docker engine is not running ({problem}): run the same command as root to start it.")
    systemd = Path("/run/systemd/system").is_dir()
    if systemd:
        say("starting the Docker engine (systemctl start docker)")
        started = run(["systemctl", "start", "docker"])
        if started.returncode:
            raise BootstrapError(
                f"systemd could not start the Docker engine: {tail(started)}. See `journalctl -u docker`."
            )
    else:
        say(f"starting the Docker engine (this machine has no systemd; its log: {ENGINE_LOG})")
        remove_stale_pid(Path("/var/run/docker.pid"))
        with ENGINE_LOG.open("ab") as log:
            daemon = subprocess.Popen(
                [shutil.which("dockerd") or "/usr/sbin/dockerd"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/",
            )  # fmt: skip
    limit = time.monotonic() + ENGINE_WAIT_S
    while problem := _engine_answer():
        if not systemd and daemon.poll() is not None:
            last = "\n".join(ENGINE_LOG.read_text(errors="replace").splitlines()[-5:])
            raise BootstrapError(f"dockerd stopped at once; the end of {ENGINE_LOG}:\n{last}")
        if time.monotonic() > limit:
            raise BootstrapError(f"The Docker engine did not answer within {ENGINE_WAIT_S} s: {problem}")
        time.sleep(0.3)
    say("the Docker engine answers")


STEPS = {
    "packages": packages,
    "venv": venv,
    "collections": collections,
    "services": services,
    "peers": peers,
    "bench": bench,
    "litellm": litellm,
    "engine": engine,
    "browser": browser,
}
USUAL = ("packages", "venv", "collections", "engine")


def main(argv: list[str]) -> int:
    """Command line."""
    wanted = argv[1:] or list(USUAL)
    unknown = [name for name in wanted if name not in STEPS]
    if unknown:
        print(f"error: unknown step {', '.join(unknown)}; steps are: {', '.join(STEPS)}", file=sys.stderr)
        return 2
    try:
        with alone():
            for name in STEPS:
                if name in wanted:
                    STEPS[name]()
    except BootstrapError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv))
