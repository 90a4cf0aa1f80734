# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known against the packages of an image: signed Debian indices, and the package index of Python.

PRIVATE: internal to the collection, may change in any release. Standard library, plus gpgv or sqv for signatures.

A source is ``checked`` or ``unavailable``. One that did not answer says why and gives no number: none known is a
statement only about packages that a source has spoken of.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.parse
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ansible_collections.mcpstack.platform.plugins.module_utils import _image_archive as archive
from ansible_collections.mcpstack.platform.plugins.module_utils._audit import clean
from ansible_collections.mcpstack.platform.plugins.module_utils._debian_version import (
    compare,
    stanzas,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._debian_version import (
    field as deb_field,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._image_errors import ImageError

CHECKED, UNAVAILABLE = "checked", "unavailable"
KEYRINGS = (
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
)
#: Releases that get no security updates of their own; what is fixed there comes as any newer version.
_UNSUPPORTED = ("testing", "unstable", "experimental")
#: Seconds to wait for one answer, and packages asked about at a time.
TIMEOUT, AT_ONCE = 20, 8


@dataclass(frozen=True)
class Package:
    """One package of an image."""

    name: str
    version: str
    architecture: str = ""
    source: str = ""


@dataclass
class Source:
    """What one source said. ``weak``: (package, evidence) of what it holds against the image; ``silent``: packages that
    it says nothing about."""

    name: str
    state: str
    detail: str
    weak: list[tuple[str, str]] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)

    def as_dict(self) -> dict:
        """For the module's answer."""
        return {"name": self.name, "state": self.state, "detail": self.detail}


# -- what an image holds --------------------------------------------------------------------------------------------


def debian_packages(databases: Iterable[bytes]) -> list[Package]:
    """Installed packages of dpkg's database, whole or in parts as images without dpkg carry it."""
    found = {}
    for data in databases:
        for name, entries in stanzas(data).items():
            for entry in entries:
                status, version = deb_field(entry, "Status"), deb_field(entry, "Version")
                if version and (not status or " ok installed" in f" {status}"):
                    source = deb_field(entry, "Source").split(" ")[0] or name
                    package = Package(name, version, deb_field(entry, "Architecture"), source)
                    found[name, package.architecture] = package
    return [found[key] for key in sorted(found)]


def python_packages(documents: Iterable[bytes]) -> list[Package]:
    """Name and version of installed Python distributions."""
    found = {}
    for data in documents:
        head = data.decode("utf-8", "replace").replace("\r\n", "\n").split("\n\n", 1)[0]
        fields = dict(re.findall(r"(?m)^(Name|Version): *(\S+)", head))
        if "Name" in fields and "Version" in fields:
            name = re.sub(r"[-_.]+", "-", fields["Name"]).lower()
            found[name, fields["Version"]] = Package(name, fields["Version"])
    return [found[key] for key in sorted(found)]


def os_release(text: bytes) -> dict[str, str]:
    """The fields of an os-release file."""
    return {
        key: value.strip("\"'") for key, value in re.findall(r"(?m)^([A-Z_]+)=(.*)$", text.decode("utf-8", "replace"))
    }


# -- Debian -----------------------------------------------------------------------------------------------------------


class Debian:
    """The signed indices, each fetched and verified once for all images."""

    def __init__(self, keyring=None, mirror=None, security_mirror=None, cache_dir=None, fetcher=None):
        self._keyring = keyring or next((path for path in KEYRINGS if os.path.exists(path)), None)
        self._bases = archive.mirrors(archive.host_sources(), mirror, security_mirror)
        self._cache_dir, self._fetcher = cache_dir, fetcher
        self._indices: dict[tuple[str, str], tuple] = {}

    def _index(self, suite: str, kind: str, architecture: str, valid: str):
        key = suite, architecture
        if key not in self._indices:
            self._fetcher = self._fetcher or archive.Fetcher(timeout=TIMEOUT)
            wanted = {"name": suite, "archive": kind, "valid_until": valid}
            with tempfile.TemporaryDirectory(prefix="mcpstack-index-") as scratch:
                self._indices[key] = archive.load_index(
                    wanted, self._bases[kind], self._fetcher, self._keyring, self._cache_dir or scratch, architecture
                )
        return self._indices[key]

    def judge(self, packages: list[Package], release: dict[str, str]) -> Source:
        """Which packages have a newer version in the security archive."""
        name = "Debian security archive"
        system, codename = release.get("ID", ""), release.get("VERSION_CODENAME", "")
        if system != "debian" or not re.fullmatch(r"[a-z]{2,20}", codename):
            known = clean(release.get("PRETTY_NAME") or system or "no system that is named", 60)
            return Source(name, UNAVAILABLE, f"knows Debian releases only; the image is {known}")
        if not self._keyring:
            return Source(name, UNAVAILABLE, "no keyring of the Debian archive is on this host; set keyring")
        architectures = {package.architecture for package in packages} - {"all", ""}
        architecture = min(architectures, default="amd64")
        try:
            main, fields, _warnings = self._index(codename, "main", architecture, "ignore")
            suite = fields.get("Suite")
            if suite in _UNSUPPORTED:
                return Source(name, UNAVAILABLE, f"{codename} is {suite}, which gets no security updates of its own")
            security, _fields, _warnings = self._index(f"{codename}-security", "security", architecture, "fail")
        except (ImageError, OSError, EOFError, ValueError) as error:
            return Source(name, UNAVAILABLE, clean(f"did not answer: {error}", 250))
        source = Source(name, CHECKED, "")
        for package in packages:
            newer = [entry["Version"] for entry in security.packages(package.name) if "Version" in entry]
            best = max(newer, key=archive.version_key, default=None)
            if best is not None and compare(best, package.version) > 0:
                source.weak.append((package.name, f"{package.version} ({codename}-security has {best})"))
            elif not newer and not main.packages(package.name):
                source.silent.append(package.name)
        known = len(packages) - len(source.silent)
        source.detail = f"{known} packages compared, {len(source.weak)} with a pending security update"
        return source


# -- Python -------------------------------------------------------------------------------------------------------------


def configured_index(run: Callable = subprocess.run) -> tuple[str, str]:
    """(package index that pip of this host uses, its certificates); empty where there is no pip."""
    pip = [sys.executable or "python3", "-m", "pip", "--disable-pip-version-check", "config", "list"]
    default = [sys.executable or "python3", "-c", "from pip._internal.models.index import PyPI; print(PyPI.simple_url)"]
    try:
        listed = run(pip, capture_output=True, text=True, check=False, timeout=TIMEOUT)
        if listed.returncode:
            return "", ""
        values: dict[str, str] = {}
        for line in listed.stdout.splitlines():  # the environment comes last and wins, as in pip
            key, _equals, value = line.partition("=")
            values[key.strip().partition(".")[2]] = value.strip().strip("'\"")
        if values.get("no-index", "").lower() in ("1", "true", "yes", "on"):
            return "", ""
        index = values.get("index-url", "")
        if not index:
            index = run(default, capture_output=True, text=True, check=False, timeout=TIMEOUT).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return "", ""
    return index, values.get("cert", "")


class Python:
    """The package index; what it knows of the latest version says nothing of an older one."""

    def __init__(self, index=None, fetcher=None):
        self._index, self._fetcher = index, fetcher

    def _about(self, package: Package) -> tuple[str, str | None]:
        """(evidence, None) of what is known against it, empty when nothing is; ("", why) when nobody says."""
        place = f"{self._index}/{urllib.parse.quote(package.name, safe='')}"
        version = urllib.parse.quote(package.version, safe="")
        reason = ""
        for url in (f"{place}/{version}/json", f"{place}/json"):
            try:
                data = json.loads(self._fetcher.read(url, 64 << 20))
            except ImageError as error:
                reason = str(error)
                continue
            except (ValueError, RecursionError):
                reason = "the answer is not JSON"
                continue
            info = data.get("info") if isinstance(data, dict) else None
            if not isinstance(info, dict) or not isinstance(data.get("vulnerabilities"), list):
                reason = "the index does not speak of vulnerabilities"
                continue
            if info.get("version") != package.version:
                reason = "the index speaks of the latest version only"
                continue
            return _held_against(data, info), None
        return "", clean(reason, 200)

    def judge(self, packages: list[Package]) -> Source:
        """Which packages have a known vulnerability or were withdrawn."""
        name = "Python package index"
        if self._index is None:
            self._index, certificates = configured_index()
            self._fetcher = self._fetcher or archive.Fetcher(
                {"Acquire::https::CAInfo": certificates} if certificates else {}, TIMEOUT
            )
        if not self._index:
            return Source(name, UNAVAILABLE, "pip of this host has no index; set package_index")
        self._fetcher = self._fetcher or archive.Fetcher({}, TIMEOUT)
        self._index = re.sub(r"/simple/?$", "/pypi", self._index.rstrip("/"))
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            answers = list(pool.map(self._about, packages))
        silent = [(package, why) for package, (_text, why) in zip(packages, answers) if why is not None]
        if packages and len(silent) == len(packages):
            return Source(name, UNAVAILABLE, f"did not answer for any of {len(packages)} packages: {silent[0][1]}")
        source = Source(name, CHECKED, "", silent=[f"{package.name} {package.version}" for package, _why in silent])
        source.weak = [(package.name, text) for package, (text, why) in zip(packages, answers) if why is None and text]
        source.detail = f"{len(packages) - len(silent)} packages asked about, {len(source.weak)} with something known"
        return source


def _held_against(data: dict, info: dict) -> str:
    known = []
    for entry in data["vulnerabilities"]:
        if isinstance(entry, dict) and not entry.get("withdrawn"):
            fixed = entry.get("fixed_in") if isinstance(entry.get("fixed_in"), list) else []
            known.append(f"{entry.get('id')}{f' (fixed in {fixed[-1]})' if fixed else ''}")
    if info.get("yanked"):
        known.append(f"withdrawn: {info.get('yanked_reason') or 'no reason given'}")
    return f"{info.get('version')}: {', '.join(known)}" if known else ""
