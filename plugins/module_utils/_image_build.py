# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds container images from signed Debian packages: specification + lock file -> reproducible archive.

PRIVATE, may change at any time. Three doors use it: the image_build module, its action plugin and tools/images.py.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import json
import multiprocessing
import os
import posixpath
import re
import shutil
import sys
import time

from . import _image_sbom as sbom
from . import _image_wheels as wheels_core
from ._image_archive import (
    Fetcher,
    cached,
    deb_path,
    fetch_package,
    host_sources,
    load_index,
    lock_entry,
    mirrors,
    not_written,
    parse_date,
    resolve,
    version_key,
    write_atomically,
)
from ._image_deb import MERGED, Entry, Package, Tree, dpkg_database, matcher, unpack
from ._image_elf import missing_libraries
from ._image_errors import ImageError
from ._image_layer import canonical, with_parents, write_archive

#: Raised whenever the same input gives other bytes than before; part of every input digest.
BUILDER = 2
LOCK_FORMAT = 1
REPOSITORY = "mcpstack"
ARCHITECTURE = "amd64"
TRIPLET = "x86_64-linux-gnu"
#: How many archives of one image the cache keeps: the current one and some to go back to.
KEEP_ARCHIVES = 3

#: Packages that exist to install packages or to please a person at a terminal. A dependency on one is not followed.
DROP = frozenset(
    """
    adduser apt base-passwd bash bash-completion bsdutils bzip2 ca-certificates-java coreutils cron dash dbus debconf
    debconf-2.0 debianutils diffutils dpkg e2fsprogs findutils gawk gpg gpgv grep gzip hostname init init-system-helpers
    install-info iproute2 libc-bin login login.defs logrotate logsave lsb-base mawk media-types mount ncurses-base
    ncurses-bin openssl-provider-legacy original-awk passwd perl perl-base perl-modules procps readline-common sed
    sensible-utils systemd systemd-standalone-sysusers systemd-sysusers systemd-tmpfiles sysvinit-utils tar ucf
    update-inetd util-linux xz-utils awk cdebconf
    """.split()
)

#: Files of packages that a container has no use for.
EXCLUDE = [
    "etc/apparmor.d/*", "etc/bash_completion.d/*", "etc/cron*", "etc/default/*", "etc/init.d/*", "etc/logrotate.d/*",
    "etc/ufw/*", "usr/lib/*/audit/*", "usr/lib/*/gconv/*", "usr/lib/systemd/*", "usr/lib/sysusers.d/*",
    "usr/lib/tmpfiles.d/*", "usr/lib/udev/*", "usr/lib/*/pkgconfig/*", "usr/share/applications/*",
    "usr/share/apport/*", "usr/share/bash-completion/*", "usr/share/bug/*", "usr/share/doc-base/*",
    "usr/share/fish/*", "usr/share/gdb/*", "usr/share/icons/*", "usr/share/info/*", "usr/share/initramfs-tools/*",
    "usr/share/lintian/*", "usr/share/locale/*", "usr/share/man/*", "usr/share/menu/*", "usr/share/perl5/*",
    "usr/share/pixmaps/*", "usr/share/ufw/*", "usr/share/zsh/*", "usr/share/gcc/*", "var/cache/*", "var/log/*",
]  # fmt: skip
#: What is taken of packages of which hardly anything is needed.
ONLY = {
    "base-files": ["etc/debian_version", "etc/os-release", "usr/lib/os-release", "usr/share/common-licenses/*",
                   "usr/share/doc/base-files/copyright"],
    "libc-bin": ["usr/lib/locale/*", "usr/share/doc/libc-bin/copyright"],
    "tzdata": ["usr/share/zoneinfo/UTC", "usr/share/zoneinfo/Etc/*", "usr/share/zoneinfo/Zulu",
               "usr/share/doc/tzdata/copyright"],
    "netbase": ["etc/protocols", "etc/services", "usr/share/doc/netbase/copyright"],
}  # fmt: skip
SHELLS = [f"usr/bin/{name}" for name in ("sh", "dash", "bash", "busybox", "ksh", "zsh")]

_KEYS = {
    "description": str, "extends": str, "suites": list, "packages": list, "drop": list, "keep": list, "exclude": list,
    "only": dict, "users": list, "directories": list, "links": dict, "files": dict, "shell": bool,
    "missing_libraries": list, "python": dict, "config": dict,
}  # fmt: skip
_VALID_UNTIL = ("fail", "warn", "ignore")


# -- specifications and locks -------------------------------------------------------------------------------------


def complete_spec(name: str, specs: dict[str, dict]) -> dict:
    """Check a specification and merge what it extends: lists are joined, dicts updated, the rest replaced."""
    if name not in specs:
        raise ImageError(f"{name}: there is no image of this name; known are {', '.join(sorted(specs))}.")
    spec = specs[name]
    where = f"{name}.yml"
    if not isinstance(spec, dict):
        raise ImageError(f"{where}: the specification is not a mapping; correct it.")
    for key, value in spec.items():
        if key not in _KEYS:
            raise ImageError(f"{where}: {key} is no key of a specification; known are {', '.join(sorted(_KEYS))}.")
        if not isinstance(value, _KEYS[key]):
            raise ImageError(f"{where}: {key} must be a {_KEYS[key].__name__}; correct it.")
    if "extends" in spec:
        parent = complete_spec(spec["extends"], specs)
        if "extends" in parent:
            raise ImageError(f"{where}: {spec['extends']} extends another image itself; extend that one instead.")
        merged = dict(parent)
        for key, value in spec.items():
            old = merged.get(key)
            joins = isinstance(value, (list, dict)) and old is not None
            merged[key] = value if not joins else old + value if isinstance(value, list) else {**old, **value}
        return merged
    for key in ("suites", "packages", "config"):
        if not spec.get(key):
            raise ImageError(f"{where}: {key} is missing; add it.")
    for suite in spec["suites"]:
        policy = suite.get("valid_until")
        if suite.get("archive") not in ("main", "security") or policy not in _VALID_UNTIL or not suite.get("name"):
            raise ImageError(
                f"{where}: every suite needs name, archive (main or security) and valid_until (fail, warn or ignore)."
            )
        if policy != "fail" and not suite.get("reason"):
            raise ImageError(f"{where}: suite {suite['name']} has valid_until {policy} without a reason; say why.")
    return spec


def resolution_digest(spec: dict) -> str:
    """What of a specification decides which packages the lock holds."""
    wanted = [spec["suites"], sorted(spec["packages"]), sorted(spec.get("drop", [])), sorted(spec.get("keep", []))]
    return hashlib.sha256(canonical(wanted)).hexdigest()


def check_lock(name: str, spec: dict, lock: dict | None) -> dict:
    """A lock that exists, can be read and belongs to the specification."""
    command = f"tools/images.py lock {name}"
    if not lock:
        raise ImageError(f"{name}: there is no {name}.lock.json; write it with {command}.")
    if lock.get("format") != LOCK_FORMAT:
        raise ImageError(
            f"{name}.lock.json: format {lock.get('format')} is not {LOCK_FORMAT}; rewrite it with {command}."
        )
    if lock.get("resolution") != resolution_digest(spec):
        raise ImageError(f"{name}.lock.json: was made for another list of packages or suites; renew it with {command}.")
    return lock


def resolve_lock(spec: dict, indices: list, releases: dict[str, dict]) -> dict:
    """A new lock: the newest signed versions."""
    dropped = (DROP | set(spec.get("drop", []))) - set(spec.get("keep", [])) - set(spec["packages"])
    packages = resolve(list(dict.fromkeys(spec["packages"])), dropped, indices)
    return {
        "format": LOCK_FORMAT,
        "architecture": ARCHITECTURE,
        "resolution": resolution_digest(spec),
        "suites": releases,
        "packages": [lock_entry(package) for package in packages],
    }


def drift(lock: dict, indices: list) -> list[dict]:
    """Locked packages of which the signed indices hold a newer version."""
    found = []
    for entry in lock["packages"]:
        newer = [
            (version_key(fields["Version"]), fields["Version"], index)
            for index in indices
            for fields in index.packages(entry["name"])
            if version_key(fields["Version"]) > version_key(entry["version"])
        ]
        if newer:
            _key, version, index = max(newer, key=lambda item: item[0])
            found.append(
                {
                    "package": entry["name"],
                    "locked": entry["version"],
                    "newest": version,
                    "suite": index.suite,
                    "security": any(item[2].archive == "security" for item in newer),
                }
            )
    return found


# -- one image ----------------------------------------------------------------------------------------------------


def _accounts(users: list[dict]) -> Tree:
    passwd = ["root:x:0:0:root:/:/usr/sbin/nologin"]
    group = ["root:x:0:"]
    for user in users:
        passwd.append(f"{user['name']}:x:{user['id']}:{user['id']}::{user.get('home', '/')}:/usr/sbin/nologin")
        group.append(f"{user['name']}:x:{user['id']}:")
    passwd.append("nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin")
    group.append("nogroup:x:65534:")
    return {
        "etc/passwd": Entry(0o644, ("\n".join(passwd) + "\n").encode()),
        "etc/group": Entry(0o644, ("\n".join(group) + "\n").encode()),
        "etc/nsswitch.conf": Entry(0o644, b"passwd: files\ngroup: files\nhosts: files dns\n"),
    }


def read_package(entry: dict, spec: dict, cache_dir: str) -> Package:
    """Unpack one locked package from the cache, without what the specification leaves out."""
    path = deb_path(cache_dir, entry["sha256"])
    data = cached(path, entry["sha256"])
    if data is None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        raise ImageError(
            f"{path}: {entry['name']} {entry['version']} was damaged in the cache and has been removed; run again."
        )
    unwanted = matcher(EXCLUDE + spec.get("exclude", []))
    documentation = re.compile(r"usr/share/doc/[^/]+(/(?!copyright$).*|$)").match
    only = spec.get("only", {}).get(entry["name"], ONLY.get(entry["name"]))
    return unpack(
        data,
        posixpath.basename(entry["path"]),
        lambda p: unwanted(p) or documentation(p),
        matcher(only) if only else None,
    )


def assemble(job: Job, cache_dir: str, unpacked: dict) -> tuple[Tree, int, list]:
    """The whole tree of an image, its time stamp and its wheels. unpacked remembers packages for the next image."""
    name, spec, sources = job.name, job.spec, job.sources
    tree: Tree = {}
    packages = []
    epoch = 0
    slices = canonical([spec.get("exclude", []), spec.get("only", {})])
    for entry in job.lock["packages"]:
        key = (entry["sha256"], slices)
        if key not in unpacked:
            unpacked[key] = read_package(entry, spec, cache_dir)
        package = unpacked[key]
        packages.append(package)
        epoch = max(epoch, package.newest)
        for item, content in package.tree.items():
            old = tree.get(item)
            if old is None or not (old.is_dir and content.is_dir):
                tree[item] = content
    certificates = sorted(p for p in tree if p.startswith("usr/share/ca-certificates/") and p.endswith(".crt"))
    if certificates:
        bundle = b"".join(tree[p].data.rstrip(b"\n") + b"\n" for p in certificates)
        tree["etc/ssl/certs/ca-certificates.crt"] = Entry(0o644, bundle)
        for path in certificates:
            del tree[path]
    tree.update({path: Entry(0o777, link=target) for path, target in MERGED.items()})
    tree["var/run"] = Entry(0o777, link="/run")
    tree.update(_accounts(spec.get("users", [])))
    tree.update(dpkg_database(packages))
    for path, content in spec.get("files", {}).items():
        tree[path.lstrip("/")] = Entry(0o644, content.encode())
    for path, target in spec.get("links", {}).items():
        tree[path.lstrip("/")] = Entry(0o777, link=target)
    ids = {user["name"]: user["id"] for user in spec.get("users", [])} | {"root": 0}
    for directory in [{"path": "/tmp", "mode": "0755"}, *spec.get("directories", [])]:  # noqa: S108
        owner = ids[directory.get("owner", "root")]
        tree[directory["path"].strip("/")] = Entry(int(directory.get("mode", "0755"), 8), uid=owner, gid=owner)
    for path in ("proc", "sys", "dev", "run"):
        tree.setdefault(path, Entry(0o755))
    wheels: list[dict] = []
    python = spec.get("python")
    if python:
        wheels = wheels_core.collect(sources["requirements.lock"].decode(), python["version"], cache_dir)
        site = python["site"].strip("/")
        symbols = python.get("symbols", True)
        tree.update(wheels_core.unpack(wheels, cache_dir, site, python.get("exclude", []), symbols))
        for path, content in sources.items():
            if path.startswith("src/"):
                tree[f"{site}/{path[4:]}"] = Entry(0o644, content)
    tree = {path: entry for path, entry in tree.items() if not _below_excluded(path, entry, tree)}
    tree = with_parents(tree)
    check_tree(name, spec, tree)
    if python:
        folders = [python["site"].strip("/"), f"usr/lib/python{python['version']}"]
        tree = with_parents({**tree, **wheels_core.compile_tree(tree, folders, python["version"], TRIPLET, cache_dir)})
    return tree, epoch, wheels


def _below_excluded(path: str, entry: Entry, tree: Tree) -> bool:
    """Dangling links into documentation and the like."""
    if entry.link is None or not path.startswith("usr/share/doc/"):
        return False
    target = posixpath.normpath(posixpath.join(posixpath.dirname(path), entry.link))
    return target not in tree


def check_tree(name: str, spec: dict, tree: Tree) -> None:
    """What every image promises, checked before it is written."""
    ignored = matcher(spec.get("missing_libraries", []))
    missing = missing_libraries(tree, TRIPLET, ignored)
    if missing:
        raise ImageError(
            f"{name}: the image would lack shared libraries: {'; '.join(missing[:10])}"
            f"{' and more' if len(missing) > 10 else ''}; add the package that has them to packages (or keep) in "
            f"{name}.yml and renew the lock."
        )
    shells = [path for path in SHELLS if path in tree]
    if shells and not spec.get("shell"):
        raise ImageError(f"{name}: the image would hold a shell (/{shells[0]}); drop its package in {name}.yml.")
    for path, entry in tree.items():
        if entry.link is None and entry.mode & 0o6002:
            raise ImageError(
                f"{name}: /{path} would be set-id or writable for everyone; correct its mode in {name}.yml."
            )


_DURATION = re.compile(r"^(\d+)(ms|s|m)$")


def _nanoseconds(text: str) -> int:
    match = _DURATION.match(text)
    if not match:
        raise ImageError(f"{text}: not a duration such as 5s; correct the health check in the specification.")
    return int(match[1]) * {"ms": 10**6, "s": 10**9, "m": 60 * 10**9}[match[2]]


def image_config(name: str, spec: dict) -> dict:
    """The container defaults an image carries."""
    given = spec["config"]
    config: dict = {
        "Entrypoint": given["entrypoint"],
        "Env": [f"{key}={value}" for key, value in sorted(given.get("environment", {}).items())],
        "Labels": {
            "org.opencontainers.image.title": f"{REPOSITORY}/{name}",
            "org.opencontainers.image.description": spec.get("description", name),
        },
        "User": str(given["user"]),
        "WorkingDir": given.get("working_dir", "/"),
    }
    if given.get("command"):
        config["Cmd"] = given["command"]
    if given.get("stop_signal"):
        config["StopSignal"] = given["stop_signal"]
    if given.get("ports"):
        config["ExposedPorts"] = {f"{port}/tcp": {} for port in given["ports"]}
    health = given.get("health")
    if health:
        config["Healthcheck"] = {"Test": ["CMD", *health["command"]]}
        for key, option in (("interval", "Interval"), ("timeout", "Timeout"), ("start_period", "StartPeriod")):
            if key in health:
                config["Healthcheck"][option] = _nanoseconds(health[key])
        if "retries" in health:
            config["Healthcheck"]["Retries"] = health["retries"]
    if str(given["user"]).partition(":")[0] in ("", "0", "root"):
        raise ImageError(f"{name}.yml: config.user is root; give the image a user of its own.")
    return config


class Job:
    """One image to be built: everything its bytes depend on, and nothing else."""

    def __init__(self, name: str, specs: dict[str, dict], locks: dict[str, dict], sources: dict[str, bytes]) -> None:
        self.name = name
        self.spec = complete_spec(name, specs)
        self.lock = check_lock(name, self.spec, locks.get(name))
        self.sources = sources if self.spec.get("python") else {}
        if self.spec.get("python") and "requirements.lock" not in sources:
            raise ImageError(f"{name}: the services directory has no requirements.lock; check the services option.")
        self.parent = None
        if "extends" in self.spec:
            self.parent = Job(self.spec["extends"], specs, locks, sources)
            mine = {entry["name"]: entry["sha256"] for entry in self.lock["packages"]}
            for entry in self.parent.lock["packages"]:
                if mine.get(entry["name"]) != entry["sha256"]:
                    raise ImageError(
                        f"{name}.lock.json: holds another {entry['name']} than {self.parent.name}.lock.json; renew both "
                        f"with tools/images.py lock {self.parent.name} {name}."
                    )
        files = {path: hashlib.sha256(data).hexdigest() for path, data in self.sources.items()}
        packages = [[entry["name"], entry["sha256"]] for entry in self.lock["packages"]]
        parent = self.parent.digest if self.parent else None
        self.digest = hashlib.sha256(
            canonical([BUILDER, ARCHITECTURE, name, self.spec, packages, files, parent])
        ).hexdigest()

    def manifest_path(self, cache_dir: str) -> str:
        """Where the cache keeps what is known of the built image."""
        return os.path.join(cache_dir, "manifests", f"{self.name}-{self.digest[:32]}.json")

    def built(self, cache_dir: str) -> dict | None:
        """The image as built before from the same input, if its archive is still whole."""
        try:
            with open(self.manifest_path(cache_dir), encoding="utf-8") as handle:
                image = json.load(handle)
            image["archive"] = os.path.join(cache_dir, "images", os.path.basename(image["archive"]))
            image["sbom"] = os.path.join(cache_dir, "images", os.path.basename(image["sbom"]))
            state = os.stat(image["archive"])
            if not os.path.exists(image["sbom"]) or state.st_size != image["archive_size"]:
                return None
            if state.st_mtime_ns != image.pop("mtime_ns"):  # copied or touched: look inside
                with open(image["archive"], "rb") as handle:
                    digest = hashlib.sha256()
                    while chunk := handle.read(1 << 20):
                        digest.update(chunk)
                if digest.hexdigest() != image["archive_sha256"]:
                    return None
            return {**image, "built": False}
        except (OSError, ValueError, KeyError):
            return None

    def weight(self) -> int:
        """About how much there is to unpack."""
        return sum(entry["size"] for entry in self.lock["packages"])

    def expected(self) -> dict | None:
        """Reference and id that the lock promises, when it was written for exactly this input."""
        image = self.lock.get("image") or {}
        return image if image.get("input") == self.digest else None

    def build(self, cache_dir: str, unpacked: dict) -> dict:
        """Build and record the image."""
        tree, epoch, wheels = assemble(self, cache_dir, unpacked)
        layers = [(tree, epoch)]
        if self.parent:
            base, base_epoch, _wheels = assemble(self.parent, cache_dir, unpacked)
            gone = sorted(set(base) - set(tree))
            if gone:
                raise ImageError(f"{self.name}.yml: /{gone[0]} of {self.parent.name} would be gone; only add to it.")
            layers = [(base, base_epoch), ({p: e for p, e in tree.items() if base.get(p) != e}, epoch)]
        folder = os.path.join(cache_dir, "images")
        image = write_archive(
            folder, self.name, f"{REPOSITORY}/{self.name}", layers, image_config(self.name, self.spec), ARCHITECTURE
        )
        suite = self.spec["suites"][0]["name"]
        image["sbom"] = image["archive"][: -len(".tar")] + ".cdx.json"
        write_atomically(image["sbom"], sbom.document(image, self.lock["packages"], wheels, f"debian-{suite}"))
        image = {"name": self.name, **image, "packages": len(self.lock["packages"]) + len(wheels)}
        record = {**image, "mtime_ns": os.stat(image["archive"]).st_mtime_ns}
        write_atomically(self.manifest_path(cache_dir), json.dumps(record, indent=1).encode())
        self._forget_old(folder)
        return {**image, "built": True}

    def _forget_old(self, folder: str) -> None:
        mine = re.compile(rf"{re.escape(self.name)}-[0-9a-f]{{12}}\.tar").fullmatch
        archives = [os.path.join(folder, name) for name in os.listdir(folder) if mine(name)]
        archives.sort(key=os.path.getmtime, reverse=True)
        for path in archives[KEEP_ARCHIVES:]:
            for victim in (path, path[: -len(".tar")] + ".cdx.json"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(victim)


# -- all of them --------------------------------------------------------------------------------------------------


def require_python() -> None:
    """The oldest Python the builder runs on."""
    if sys.version_info < (3, 10):  # noqa: UP036 - said before it matters
        raise ImageError(
            f"Python {sys.version.split()[0]} on the build host is too old; use a build host with Python 3.10 or newer."
        )


class Builder:
    """All the settings of one call."""

    def __init__(self, cache_dir, keyring, mirror=None, security_mirror=None, snapshot=None, report=lambda line: None):
        require_python()
        self.cache_dir = os.path.abspath(os.path.expanduser(cache_dir))
        self.keyring = keyring
        self.bases = mirrors(host_sources(), mirror, security_mirror)
        self.snapshot = snapshot
        self.report = report
        self.warnings: list[str] = []
        self._indices: dict[str, tuple] = {}
        self._fetcher: Fetcher | None = None

    @property
    def fetcher(self) -> Fetcher:
        """Made when the network is needed for the first time."""
        self._fetcher = self._fetcher or Fetcher()
        return self._fetcher

    def indices(self, spec: dict) -> tuple[list, dict]:
        """The verified indices of a specification's suites, each fetched once."""
        found, releases = [], {}
        for suite in spec["suites"]:
            key = json.dumps(suite, sort_keys=True)
            if key not in self._indices:
                self.report(f"index {suite['name']}: fetching and verifying")
                index, release, warnings = load_index(
                    suite, self.bases[suite["archive"]], self.fetcher, self.keyring, self.cache_dir, ARCHITECTURE
                )
                self.warnings += warnings
                self._indices[key] = index, release
            index, release = self._indices[key]
            found.append(index)
            moment = parse_date(release["Date"]) + 86400  # by then the snapshot service has seen this state
            releases[suite["name"]] = {
                "archive": suite["archive"],
                "date": release["Date"],
                "snapshot": time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(moment)),
            }
        return found, releases

    def resolve(self, names: list[str], specs: dict[str, dict]) -> dict[str, dict]:
        """New locks from the newest signed indices."""
        locks = {}
        for name in names:
            spec = complete_spec(name, specs)
            locks[name] = resolve_lock(spec, *self.indices(spec))
            self.report(f"{name}: {len(locks[name]['packages'])} packages")
        return locks

    def check(self, names: list[str], specs: dict[str, dict], locks: dict[str, dict]) -> list[dict]:
        """Pending updates of every image."""
        found = []
        for name in names:
            spec = complete_spec(name, specs)
            lock = check_lock(name, spec, locks.get(name))
            indices, _releases = self.indices(spec)
            pending = drift(lock, indices)
            self.report(f"{name}: {len(pending)} newer of {len(lock['packages'])} packages")
            found += [{"image": name, **item} for item in pending]
        return found

    def plan(self, names, specs, locks, sources) -> list[tuple[Job, dict | None]]:
        """What is wanted, and what of it was built before."""
        jobs = [Job(name, specs, locks, sources) for name in dict.fromkeys(names)]
        return [(job, job.built(self.cache_dir)) for job in jobs]

    def fetch(self, jobs: list[Job]) -> None:
        """Bring every package of some jobs into the cache."""
        wanted = {}
        for job in jobs:
            for entry in job.lock["packages"]:
                moment = job.lock["suites"][entry["suite"]]["snapshot"]
                wanted[entry["sha256"]] = {**entry, "snapshot": moment}
        absent = [entry for entry in wanted.values() if not os.path.exists(deb_path(self.cache_dir, entry["sha256"]))]
        if not absent:
            return
        self.report(f"packages: fetching {len(absent)} of {len(wanted)}")
        fetcher = self.fetcher
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            futures = [
                pool.submit(fetch_package, entry, self.bases, fetcher, self.cache_dir, self.snapshot)
                for entry in absent
            ]
            try:
                for future in concurrent.futures.as_completed(futures):
                    future.result()
            except ImageError:
                for future in futures:
                    future.cancel()
                raise

    def build(self, names, specs, locks, sources) -> list[dict]:
        """All wanted images, in the order asked for; those built before from the same input are left alone."""
        plan = self.plan(names, specs, locks, sources)
        results = {job.name: image for job, image in plan if image}
        jobs = [job for job, image in plan if image is None]
        for name in results:
            self.report(f"{name}: {results[name]['ref']} is up to date")
        if jobs:
            self._sweep()
            self.fetch(jobs)
            for image in self._run(jobs):
                results[image["name"]] = image
        ordered = [results[job.name] for job, _image in plan]
        for (job, _image), image in zip(plan, ordered):
            promised = job.expected()
            image["expected_id"] = promised["id"] if promised else None
            if promised and promised["id"] != image["id"]:
                self.warnings.append(
                    f"{job.name}: this build host made {image['id'][:19]} where the lock promises "
                    f"{promised['id'][:19]}; the image is sound, but not the one that was tested: please report this."
                )
        return ordered

    def _sweep(self) -> None:
        """Remove what builds that were killed left behind; a running one is younger than that."""
        try:
            os.makedirs(self.cache_dir, exist_ok=True)
        except OSError as exc:
            raise not_written(self.cache_dir, exc) from exc
        for folder in ("", "debs", "indices", "images", "manifests", "wheels"):
            place = os.path.join(self.cache_dir, folder)
            for name in os.listdir(place) if os.path.isdir(place) else ():
                path = os.path.join(place, name)
                if name.startswith((".part-", ".compile-")) and os.lstat(path).st_mtime < time.time() - 3600:
                    if os.path.isdir(path):
                        shutil.rmtree(path, ignore_errors=True)
                    else:
                        with contextlib.suppress(FileNotFoundError):
                            os.unlink(path)

    def _run(self, jobs: list[Job]):
        families: dict[str, list[Job]] = {}  # images that share packages share the work of unpacking them
        for job in jobs:
            families.setdefault(job.parent.name if job.parent else job.name, []).append(job)
        # the heaviest first, so that no core is left with a long tail
        ordered = sorted(families.values(), key=lambda f: (not f[0].spec.get("python"), -sum(map(Job.weight, f))))
        if len(ordered) == 1:
            yield from self._timed(_build_family(ordered[0], self.cache_dir))
            return
        workers = min(len(ordered), len(os.sched_getaffinity(0)))
        context = multiprocessing.get_context("fork")
        with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
            futures = [pool.submit(_build_family, family, self.cache_dir) for family in ordered]
            try:
                for future in concurrent.futures.as_completed(futures):
                    yield from self._timed(future.result())
            except ImageError:
                for future in futures:
                    future.cancel()
                raise

    def _timed(self, built: list[tuple[dict, float]]) -> list[dict]:
        for image, seconds in built:
            self.report(f"{image['name']}: built {image['ref']}, {image['size'] / 1e6:.1f} MB, {seconds:.1f} s")
        return [image for image, _seconds in built]


def _build_family(jobs: list[Job], cache_dir: str) -> list[tuple[dict, float]]:
    unpacked: dict = {}
    built = []
    for job in sorted(jobs, key=lambda job: job.parent is not None):
        started = time.monotonic()
        try:
            built.append((job.build(cache_dir, unpacked), time.monotonic() - started))
        except OSError as exc:  # scratch space for byte code and wheels, and the like
            raise not_written(exc.filename or cache_dir, exc) from exc
    return built


def promised_lock(lock: dict, job: Job, image: dict) -> dict:
    """A lock that also says which image it gives; only for images that depend on nothing but the lock."""
    if job.sources:
        return lock
    return {**lock, "image": {"input": job.digest, "id": image["id"], "ref": image["ref"]}}
