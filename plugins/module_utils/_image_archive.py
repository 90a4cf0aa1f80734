# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Debian archive as the image builder sees it: where it is, whom to believe, what it holds.

PRIVATE, may change at any time. Standard library, plus gpgv or sqv for signatures. No mirror is named here: the
build host's own package sources say where the archive is, or the operator does.
"""

from __future__ import annotations

import base64
import email.utils
import glob
import hashlib
import http.client
import lzma
import os
import re
import shutil
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

from ._files import write_atomic
from ._image_errors import ImageError

#: Names under which a Debian release can stand in a sources file, with what may follow them.
RELEASES = "bullseye bookworm trixie forky duke sid oldoldstable oldstable stable testing unstable experimental".split()
_SUITE = re.compile(rf"^(?:{'|'.join(RELEASES)})(?:-(?:updates|backports|proposed-updates|security))?$")
_SECURITY_SUITE = re.compile(rf"^(?:{'|'.join(RELEASES)})(?:-security|/updates)$")

MIRROR_FIX = "set mcpstack_images_mirror and mcpstack_images_security_mirror to a Debian mirror that answers"


# -- Debian versions ----------------------------------------------------------------------------------------------


def version_key(version: str) -> tuple:
    """Sort key that orders versions exactly as dpkg does."""
    epoch, _colon, rest = version.rpartition(":")
    upstream, _dash, revision = rest.rpartition("-")
    if not upstream:
        upstream, revision = rest, ""
    return int(epoch or 0), _part_key(upstream), _part_key(revision)


def _part_key(part: str) -> tuple:
    key = []
    for text, number in re.findall(r"([^0-9]*)([0-9]*)", part):
        # '~' before the end, the end before letters, letters before everything else
        key.append(tuple(-1 if c == "~" else ord(c) if c.isalpha() else ord(c) + 256 for c in text) + (0,))
        key.append(int(number or 0))
    return tuple(key)


# -- where the archive is -----------------------------------------------------------------------------------------


def parse_sources(text: str, deb822: bool) -> list[dict]:
    """Read one sources file; returns enabled binary entries as {uri, suite, components}."""
    entries = []
    if deb822:
        for stanza in re.split(r"\n[ \t]*\n", re.sub(r"(?m)^#.*\n?", "", text)):
            fields = {k.lower(): v for k, v in parse_stanza(stanza).items()}
            if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in ("no", "false"):
                continue
            entries += [
                {"uri": uri, "suite": suite, "components": fields.get("components", "").split()}
                for uri in fields.get("uris", "").split()
                for suite in fields.get("suites", "").split()
            ]
        return entries
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[[^\]]*\]\s*)?(\S+)\s+(\S+)\s*([^#]*)", line)
        if match:
            entries.append({"uri": match[1], "suite": match[2], "components": match[3].split()})
    return entries


def host_sources(root: str = "/etc/apt") -> list[dict]:
    """All package sources of this host, as apt would read them."""
    files = [os.path.join(root, "sources.list")]
    files += sorted(glob.glob(os.path.join(glob.escape(root), "sources.list.d", "*.list")))
    files += sorted(glob.glob(os.path.join(glob.escape(root), "sources.list.d", "*.sources")))
    entries = []
    for name in files:
        try:
            with open(name, encoding="utf-8", errors="replace") as handle:
                entries += parse_sources(handle.read(), name.endswith(".sources"))
        except OSError:
            continue
    return entries


def _expand(uri: str) -> list[str]:
    """A mirror+file source names a file with one mirror per line."""
    if not uri.startswith("mirror+file:"):
        return [uri] if uri.split(":", 1)[0] in ("http", "https", "file") else []
    try:
        with open(urllib.parse.urlsplit(uri[len("mirror+") :]).path, encoding="utf-8") as handle:
            lines = [line.split("#")[0].split() for line in handle]
    except OSError:
        return []
    return [words[0] for words in lines if words]


def mirrors(entries: list[dict], mirror: str | None = None, security_mirror: str | None = None) -> dict[str, list[str]]:
    """Candidate base URLs per kind of archive (main, security), best first.

    Everything fetched is checked against a signature or a hash, so a candidate that is something else is only slow.
    """
    found: dict[str, list[str]] = {"main": [], "security": []}
    if mirror:
        found["main"].append(mirror.rstrip("/"))
    if security_mirror:
        found["security"].append(security_mirror.rstrip("/"))
    if not mirror:
        for entry in entries:
            if "main" not in entry["components"]:
                continue
            security = bool(_SECURITY_SUITE.match(entry["suite"]))
            if security or _SUITE.match(entry["suite"]):
                kind = "security" if security else "main"
                found[kind] += [uri.rstrip("/") for uri in _expand(entry["uri"]) if uri.rstrip("/") not in found[kind]]
    for kind, ending in (("main", "/debian"), ("security", "/debian-security")):
        found[kind].sort(key=lambda uri, ending=ending: not uri.endswith(ending))
    if not security_mirror:  # mirrors usually carry both side by side
        for uri in found["main"]:
            if uri.endswith("/debian") and uri + "-security" not in found["security"]:
                found["security"].append(uri + "-security")
    return found


def apt_settings() -> dict[str, str]:
    """Proxy and certificate settings of apt; empty where there is no apt."""
    tool = shutil.which("apt-config")
    if not tool:
        return {}
    dump = subprocess.run([tool, "dump"], capture_output=True, text=True, check=False)  # noqa: S603
    return dict(re.findall(r'(?m)^(Acquire::https?::(?:Proxy|CAInfo)[^ ]*) "([^"]*)";', dump.stdout))


def public(url: str) -> str:
    """A URL without the password that may stand in it."""
    return re.sub(r"//[^/@]*@", "//", url)


class Fetcher:
    """Gets files over http, https or from a local mirror, the way apt on this host would."""

    def __init__(self, settings: dict[str, str] | None = None, timeout: float = 60) -> None:
        self.timeout = timeout
        settings = apt_settings() if settings is None else settings
        proxies = dict(urllib.request.getproxies())
        for scheme in ("http", "https"):
            proxy = settings.get(f"Acquire::{scheme}::Proxy", "")
            if proxy.upper() == "DIRECT":
                proxies.pop(scheme, None)
            elif proxy:
                proxies[scheme] = proxy
        self.direct = {
            key.rsplit("::", 1)[1] for key, value in settings.items() if "Proxy::" in key and value.upper() == "DIRECT"
        }
        context = ssl.create_default_context()
        for name in (settings.get("Acquire::https::CAInfo"), *map(os.environ.get, ("SSL_CERT_FILE", "CURL_CA_BUNDLE"))):
            if name and os.path.isfile(name):
                context.load_verify_locations(name)
        https = urllib.request.HTTPSHandler(context=context)
        self._proxied = urllib.request.build_opener(urllib.request.ProxyHandler(proxies), https)
        self._plain = urllib.request.build_opener(urllib.request.ProxyHandler({}), https)

    def open(self, url: str):
        """Open a URL; user and password in it are sent as basic authentication."""
        parts = urllib.parse.urlsplit(url)
        headers = {"User-Agent": "mcpstack-image-build"}
        if parts.username and parts.scheme != "file":
            login = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
            headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
            url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        opener = self._plain if parts.hostname in self.direct else self._proxied
        return opener.open(urllib.request.Request(url, headers=headers), timeout=self.timeout)  # noqa: S310

    def read(self, url: str, limit: int = 1 << 28) -> bytes:
        """The whole file; ImageError with the reason when it cannot be had."""
        reason = None
        for attempt in range(3):
            if attempt:
                time.sleep(0.5 * attempt)
            try:
                with self.open(url) as response:
                    data = response.read(limit)
                    length = response.headers.get("Content-Length")
                    if length is not None and len(data) < min(int(length), limit):
                        reason = "the transfer broke off"
                        continue
                    return data
            except urllib.error.HTTPError as exc:
                reason = f"HTTP {exc.code}"
                if exc.code < 500:
                    break
            except (urllib.error.URLError, http.client.HTTPException, OSError) as exc:
                cause = getattr(exc, "reason", exc)
                reason = getattr(cause, "strerror", None) or str(cause)
                if reason in GONE:
                    break
        raise ImageError(f"{public(url)}: {reason}")


# -- files by hash ------------------------------------------------------------------------------------------------


def write_atomically(path: str, data: bytes) -> None:
    """Write into the cache, which several builds may fill at once; what a killed one leaves goes after an hour."""
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        write_atomic(path, data, shared=True)
    except OSError as exc:
        raise not_written(path, exc) from exc


def not_written(path: str, exc: OSError) -> ImageError:
    """What to say when the cache cannot be written."""
    return ImageError(
        f"{path}: cannot be written ({exc.strerror}); free some space, or set mcpstack_images_cache_dir to a directory "
        "that can be written."
    )


def cached(path: str, sha256: str) -> bytes | None:
    """The file's content if it is what its hash says; a damaged one is as good as absent."""
    try:
        with open(path, "rb") as handle:
            data = handle.read()
    except OSError:
        return None
    return data if hashlib.sha256(data).hexdigest() == sha256 else None


# -- whom to believe ----------------------------------------------------------------------------------------------


def verify_inrelease(data: bytes, keyring: str, where: str, tools=("sqv", "gpgv")) -> str:
    """Check the signature of an InRelease file; returns the text that was signed and nothing else."""
    tool = next((path for path in map(shutil.which, tools) if path), None)
    if tool is None:
        raise ImageError(
            f"{where}: its signature cannot be checked because neither sqv nor gpgv is installed on the build host; "
            "install one of them (Debian and Ubuntu: apt-get install gpgv)."
        )
    with tempfile.TemporaryDirectory(prefix="mcpstack-verify-") as scratch:
        signed, plain = os.path.join(scratch, "InRelease"), os.path.join(scratch, "Release")
        with open(signed, "wb") as handle:
            handle.write(data)
        if os.path.basename(tool) == "sqv":
            command = [tool, "--keyring", keyring, "--output", plain, "--cleartext", signed]
        else:
            command = [tool, "--homedir", scratch, "--keyring", keyring, "--status-fd", "1", "--output", plain, signed]
        done = subprocess.run(command, capture_output=True, text=True, check=False, errors="replace")  # noqa: S603
        good = done.returncode == 0
        if os.path.basename(tool) == "gpgv":  # a second signature by a key we do not have is no fault
            good = "[GNUPG:] VALIDSIG " in done.stdout and "[GNUPG:] BADSIG " not in done.stdout
        if not good or not os.path.exists(plain):
            raise ImageError(
                f"{where}: the index is not signed by a key in {os.path.basename(keyring)}; "
                "use a genuine Debian mirror, or update the keyring if Debian changed its keys."
            )
        with open(plain, encoding="utf-8") as handle:
            return handle.read()


def parse_stanza(text: str) -> dict[str, str]:
    """One block of `Field: value` lines; continuation lines stay in the value."""
    fields: dict[str, str] = {}
    key = ""
    for line in text.splitlines():
        if line[:1] in " \t" and key:
            fields[key] += "\n" + line
        elif ":" in line:
            key, value = line.split(":", 1)
            fields[key] = value.strip()
    return fields


def parse_date(text: str) -> float:
    """Seconds since the epoch of a date in a Release file."""
    return email.utils.parsedate_to_datetime(text.replace("UTC", "+0000")).timestamp()


def check_release(text: str, suite: dict, where: str, now: float) -> tuple[dict, list[str]]:
    """Check that a verified Release is the one asked for and still valid; returns its fields and warnings."""
    fields = parse_stanza(text)
    if suite["name"] not in (fields.get("Suite"), fields.get("Codename")):
        raise ImageError(
            f"{where}: the index is that of {fields.get('Codename', 'nothing')}, not of {suite['name']}; {MIRROR_FIX}."
        )
    warnings = []
    until = fields.get("Valid-Until")
    policy = suite["valid_until"]
    if until and policy != "ignore" and parse_date(until) < now:
        message = f"{where}: the index of {suite['name']} expired on {until}"
        if policy == "fail":
            raise ImageError(f"{message}: the mirror is stale or someone replays old data; {MIRROR_FIX}.")
        warnings.append(message)
    return fields, warnings


class Index:
    """The packages of one suite, looked up by name without parsing what nobody asks for."""

    def __init__(self, text: str, suite: str, archive: str) -> None:
        self.suite, self.archive = suite, archive
        self._text = text
        self._places: dict[str, list[int]] = {}
        for match in re.finditer(r"(?m)^Package: (\S+)$", text):
            self._places.setdefault(match[1], []).append(match.start())
        self._providers: dict[str, list[str]] | None = None

    def packages(self, name: str) -> list[dict[str, str]]:
        """All versions of a package in this suite."""
        found = []
        for start in self._places.get(name, ()):
            end = self._text.find("\n\n", start)
            found.append(parse_stanza(self._text[start : end if end > 0 else None]))
        return found

    def providers(self, name: str) -> list[str]:
        """Packages that provide a virtual name."""
        if self._providers is None:
            self._providers = {}
            for match in re.finditer(r"(?m)^Provides: (.*)$", self._text):
                start = self._text.rfind("Package: ", 0, match.start())
                package = self._text[start + 9 : self._text.index("\n", start)]
                for provided in match[1].split(","):
                    self._providers.setdefault(provided.split()[0], []).append(package)
        return sorted(set(self._providers.get(name, ())))


def load_index(suite, bases, fetcher, keyring, cache_dir, architecture="amd64", now=None) -> tuple[Index, dict, list]:
    """Fetch, verify and read the package index of a suite from the first mirror that has it."""
    now = time.time() if now is None else now
    problems = []
    for base in bases:
        where = f"{public(base)}/dists/{suite['name']}/InRelease"
        try:
            data = fetcher.read(f"{base}/dists/{suite['name']}/InRelease")
        except ImageError as exc:
            problems.append(str(exc))
            continue
        text = verify_inrelease(data, keyring, where)
        release, warnings = check_release(text, suite, where, now)
        name = f"main/binary-{architecture}/Packages.xz"
        match = re.search(rf"(?m)^ ([0-9a-f]{{64}}) +(\d+) {re.escape(name)}$", release.get("SHA256", ""))
        if not match:
            raise ImageError(f"{where}: lists no {name}; {MIRROR_FIX}.")
        kept = os.path.join(cache_dir, "indices", match[1])
        packed = cached(kept, match[1])
        if packed is None:
            folder = f"{base}/dists/{suite['name']}/main/binary-{architecture}"
            by_hash = release.get("Acquire-By-Hash") == "yes"
            packed = fetcher.read(f"{folder}/by-hash/SHA256/{match[1]}" if by_hash else f"{folder}/Packages.xz")
            if hashlib.sha256(packed).hexdigest() != match[1]:
                raise ImageError(
                    f"{public(folder)}: the package list is not the one that was signed; try again, and if it stays, "
                    f"{MIRROR_FIX}."
                )
            write_atomically(kept, packed)
        return Index(lzma.decompress(packed).decode(), suite["name"], suite["archive"]), release, warnings
    if not problems:
        raise ImageError(
            f"No Debian mirror is known for the {suite['archive']} archive: this host's package sources name none; "
            f"{MIRROR_FIX}."
        )
    raise ImageError(f"The index of {suite['name']} cannot be fetched ({'; '.join(problems)}); {MIRROR_FIX}.")


# -- what it holds ------------------------------------------------------------------------------------------------


def resolve(wanted: list[str], dropped: set[str], indices: list[Index]) -> list[dict]:
    """Dependency closure of the wanted packages over several suites, newest version of each, without the dropped."""

    def newest(name: str) -> dict | None:
        found = [
            {**fields, "_suite": index.suite, "_archive": index.archive}
            for index in indices
            for fields in index.packages(name)
        ]
        return max(found, key=lambda fields: version_key(fields["Version"])) if found else None

    chosen: dict[str, dict] = {}
    settled = set(wanted) | dropped  # no alternative is looked for where one of these will do
    queue = [(name, "the specification") for name in wanted]
    while queue:
        name, wanted_by = queue.pop(0)
        if name in chosen:
            continue
        package = newest(name)
        if package is None:
            raise ImageError(
                f"{name} (needed by {wanted_by}) is in none of the suites "
                f"{', '.join(index.suite for index in indices)}; correct the specification."
            )
        chosen[name] = package
        relations = f"{package.get('Pre-Depends', '')},{package.get('Depends', '')}"
        for group in filter(None, (part.strip() for part in relations.split(","))):
            names = [re.split(r"[\s(:\[]", option.strip(), maxsplit=1)[0] for option in group.split("|")]
            if any(option in chosen or option in settled for option in names):
                continue
            for option in names:
                if newest(option):
                    queue.append((option, name))
                    break
                providers = [p for index in indices for p in index.providers(option)]
                if any(provider in chosen or provider in settled for provider in providers):
                    break
                if providers:
                    queue.append((min(providers), name))
                    break
            else:
                raise ImageError(f"{name} depends on {group}, which no suite has; correct the specification.")
    return [chosen[name] for name in sorted(chosen)]


def lock_entry(package: dict) -> dict:
    """What the lock file keeps of a package: enough to fetch exactly this file again from any mirror."""
    source = package.get("Source", package["Package"]).split()
    return {
        "name": package["Package"],
        "version": package["Version"],
        "architecture": package["Architecture"],
        "archive": package["_archive"],
        "suite": package["_suite"],
        "path": package["Filename"],
        "size": int(package["Size"]),
        "sha256": package["SHA256"],
        "source": source[0],
        "source_version": source[1].strip("()") if len(source) > 1 else package["Version"],
    }


def deb_path(cache_dir: str, sha256: str) -> str:
    """Where the cache keeps a package."""
    return os.path.join(cache_dir, "debs", sha256 + ".deb")


#: How a mirror says that it does not have a file.
GONE = ("HTTP 404", "HTTP 410", "No such file or directory")


def fetch_package(entry: dict, bases: dict[str, list[str]], fetcher, cache_dir: str, snapshot: str | None) -> None:
    """Bring a locked package into the cache: from there, else from the pool, else from the snapshot service."""
    target = deb_path(cache_dir, entry["sha256"])
    if os.path.exists(target) and os.path.getsize(target) == entry["size"]:
        return  # its hash is checked when it is read
    places = [f"{base}/{entry['path']}" for base in bases[entry["archive"]]]
    if snapshot:
        archive = "debian-security" if entry["archive"] == "security" else "debian"
        places.append(f"{snapshot.rstrip('/')}/{archive}/{entry['snapshot']}/{entry['path']}")
    problems = []
    for url in places:
        try:
            data = fetcher.read(url)
        except ImageError as exc:
            problems.append(str(exc))
            continue
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise ImageError(
                f"{public(url)}: not the package that was locked (sha256 differs): it was tampered with or damaged on "
                f"the way; {MIRROR_FIX}."
            )
        write_atomically(target, data)
        return
    if not places:
        raise ImageError(
            f"No Debian mirror is known for the {entry['archive']} archive: this host's package sources name none; "
            f"{MIRROR_FIX}."
        )
    if not all(problem.endswith(GONE) for problem in problems):  # it may well be there: no mirror could be asked
        raise ImageError(
            f"{entry['name']} {entry['version']} is not in the cache and cannot be fetched ({'; '.join(problems)}); {MIRROR_FIX}."
        )
    raise ImageError(
        f"{entry['name']} {entry['version']} is neither in the cache nor to be had ({'; '.join(problems)}); update the "
        "collection, or set mcpstack_images_snapshot to a snapshot service, or fill the cache from another build host."
    )
