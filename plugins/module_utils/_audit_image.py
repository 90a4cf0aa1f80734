# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judges an image by what is in it: IMG-01, IMG-04 to IMG-10, SEC-08 and SEC-15.

PRIVATE: internal to the collection, may change in any release. Standard library only. No finding carries a secret.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit
from ansible_collections.mcpstack.platform.plugins.module_utils._checks_image import TABLE as IMAGE_TABLE
from ansible_collections.mcpstack.platform.plugins.module_utils._checks_secret import TABLE as SECRET_TABLE
from ansible_collections.mcpstack.platform.plugins.module_utils._image_contents import MANAGERS, SHELLS, Image, Node
from ansible_collections.mcpstack.platform.plugins.module_utils._image_updates import (
    CHECKED,
    Package,
    Source,
    debian_packages,
    os_release,
    python_packages,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._secret_names import (
    credential_in_url,
    known_token,
    literal_credential,
)

TABLE = {
    **{key: IMAGE_TABLE[key] for key in ("IMG-01", *(f"IMG-{number:02}" for number in range(4, 11)))},
    **{key: SECRET_TABLE[key] for key in ("SEC-08", "SEC-15")},
}
#: Checks that need the files of all layers.
BY_FILES = ("IMG-06", "IMG-07", "IMG-09", "SEC-08")
#: Findings of one kind in one image; a base image can hold hundreds.
MOST = 40
#: Steps of a history that are looked at; no engine builds more layers than 127.
STEPS = 2000
ARCHITECTURES = frozenset("386 amd64 arm arm64 loong64 mips64le ppc64le riscv64 s390x".split())

#: A download that goes straight into an interpreter is written with a pipe, or as an argument of a shell.
_PIPE = re.compile(r"(?<!\|)\|(?!\|)&?")
_DOWNLOAD = re.compile(r"\b(?:curl|wget|fetch)\b")
_INTERPRETER = re.compile(
    r"\s*(?:sudo\s+(?:-\S+\s+)*)?(?:env\s+\S+\s+)?(?:/\S*/)?"
    r"(?:(?:ba|da|z|k|a)?sh\b|(?:python[0-9.]*|perl|ruby|node)\b(?!\s+-[cem]))"
)
_SUBSTITUTED = re.compile(r"\b(?:ba|da|z|k|a)?sh\s+(?:-\S+\s+)*(?:-c\s+)?[\"']?(?:\$\(|<\(|`)\s*(?:curl|wget)\b")
_ADDED_URL = re.compile(r"(?:^|#\(nop\)\s*)ADD\s+(?:--\S+\s+)*(?:(?:https?|ftp|git|ssh)://|git@)\S", re.IGNORECASE)
#: An instruction's word with a value: ENV A=b, ARG A=b, |2 A=b B=c /bin/sh -c ... as the classic builder records arguments.
_ASSIGNED = re.compile(r"([A-Za-z_][A-Za-z0-9_]{1,80})=(\"[^\"]*\"|'[^']*'|\$\([^()]*\)|[^\s;&|]+)")


@dataclass
class Wanted:
    """What is known beside the image. ``allow``: shell, package_manager, no_health_check; ``platform``: os/architecture of the host.

    lock: the content of a lock file. sboms: (name, document) of bills of materials that lie beside the image.
    no_new_privileges: every container of the image has it. kept_by_engine: an engine gave the image.
    """

    lock: Mapping | None = None
    sboms: list[tuple[str, Mapping]] = field(default_factory=list)
    allow: frozenset[str] = frozenset()
    platform: str = ""
    no_new_privileges: bool = False
    kept_by_engine: bool = False
    sources: Iterable = ()


class _Judge:
    def __init__(self, audit: Audit, image: Image, subject: str, wanted: Wanted):
        self.audit, self.image, self.subject, self.wanted = audit, image, subject, wanted
        self.settings = image.config.get("config") if isinstance(image.config.get("config"), dict) else {}
        self.files: dict[str, Node] = dict(image.files())
        self.unread = image.unread()
        self.runs = True
        self.answers: list[Source] = []

    def find(self, check_id: str, where: str, evidence: str, **more) -> None:
        self.audit.find(check_id, self.subject, where, evidence, **more)

    def each(self, check_id: str, found: list[tuple[str, str]], **more) -> None:
        """A finding for each place; of very many the rest as a number."""
        for where, evidence in found[:MOST]:
            self.find(check_id, where, evidence, **more)
        if len(found) > MOST:
            self.find(check_id, "and more", f"{len(found) - MOST} more of these", **more)

    def content(self, *paths: str) -> bytes | None:
        for path in paths:
            node = self.files.get(path)
            if node and node.content is not None:
                return node.content
        return None

    def all(self) -> None:
        self.platform()
        if not self.runs:
            for check_id in TABLE:
                if check_id != "IMG-08":
                    self.audit.not_applicable(check_id, "what is no runnable image has no user, files or packages")
            return
        self.user()
        self.health()
        self.audit.decide(*BY_FILES, "SEC-15")
        if self.unread:
            for check_id in BY_FILES:
                self.audit.unknown(check_id, f"{self.subject}: {self.unread}")
        self.privileges()
        self.build()
        self.history()
        self.secret_files()
        packages = debian_packages(
            node.content
            for path, node in self.files.items()
            if node.content is not None and path.startswith("var/lib/dpkg/status") and not path.endswith(".md5sums")
        )
        wheels = python_packages(
            node.content for path, node in self.files.items() if node.content is not None and path.endswith("/METADATA")
        )
        self.updates(packages, wheels)
        self.bill(packages)
        self.lock(packages)
        self.origin()

    # -- IMG-08 -------------------------------------------------------------------------------------------------------

    def platform(self) -> None:
        config = self.image.config
        self.audit.decide("IMG-08")
        system, architecture = str(config.get("os") or ""), str(config.get("architecture") or "")
        models = [kind for kind in self.image.media_types if re.search(r"gguf|safetensors|model", kind, re.IGNORECASE)]
        if models or "gguf" in str(config.get("config", "")).lower()[:2000]:
            self.runs = False
            self.find("IMG-08", "layers", f"is a model artifact ({models[0] if models else 'gguf'})")
        elif system in ("", "unknown") or architecture in ("", "unknown"):
            self.runs = False
            self.find("IMG-08", "config", f"platform is {system or 'not set'}/{architecture or 'not set'}")
        elif system != "linux" or architecture not in ARCHITECTURES:
            self.find("IMG-08", "config", f"platform is {system}/{architecture}")
        elif self.wanted.platform and f"{system}/{architecture}" != self.wanted.platform:
            self.find("IMG-08", "config", f"platform is {system}/{architecture}, the host's is {self.wanted.platform}")
        if not self.runs:
            return
        if not self.image.layers and not self.unread:
            self.find("IMG-08", "layers", "there is none")
        if not self.settings.get("Entrypoint") and not self.settings.get("Cmd"):
            self.find(
                "IMG-08", "config", "neither Entrypoint nor Cmd is set: there is nothing to start", severity="low"
            )
        if any("not the one" in problem or "not in the archive" in problem for problem in self.image.problems):
            self.find("IMG-08", "layers", self.unread)

    # -- IMG-04, IMG-05 -----------------------------------------------------------------------------------------------

    def user(self) -> None:
        self.audit.decide("IMG-04")
        stated = str(self.settings.get("User") or "")
        name = stated.partition(":")[0].strip()
        if not name:
            self.find("IMG-04", "config.User", "is empty, which is root")
            return
        number = int(name) if re.fullmatch(r"[+-]?[0-9]{1,15}", name) else None
        text = self.content("etc/passwd")
        # a runtime takes the first line whose name or number fits, so that a name may hide root
        for line in (text or b"").decode("utf-8", "replace").splitlines():
            parts = line.split(":")
            if len(parts) > 2 and parts[2].isdecimal() and parts[2].isascii():
                if parts[0] == name or (number is not None and int(parts[2][:15]) == number):
                    if int(parts[2][:15]) == 0:
                        self.find("IMG-04", "config.User", f"is {stated}, which is uid 0")
                    return
        if number == 0:
            self.find("IMG-04", "config.User", f"is {stated}, which is uid 0")
        elif number is None and name == "root":
            self.find("IMG-04", "config.User", f"is {stated}, which is root")
        elif number is None:
            why = self.unread or ("its /etc/passwd has no such name" if text is not None else "it has no /etc/passwd")
            self.audit.unknown("IMG-04", f"{self.subject}: the user {name} cannot be resolved: {why}")

    def health(self) -> None:
        if "no_health_check" in self.wanted.allow:
            self.audit.not_applicable("IMG-05", "the health check is not the image's, as allow says")
            return
        self.audit.decide("IMG-05")
        check = self.settings.get("Healthcheck")
        test = check.get("Test") if isinstance(check, dict) else None
        if not test or not isinstance(test, list):
            self.find("IMG-05", "config.Healthcheck", "is not set")
        elif test[0] == "NONE":
            self.find("IMG-05", "config.Healthcheck", "is switched off (NONE)")

    # -- IMG-06 -------------------------------------------------------------------------------------------------------

    def privileges(self) -> None:
        found = []
        for path, node in self.files.items():
            if node.kind not in ("file", "hardlink"):
                continue
            bits = [word for bit, word in ((0o4000, "set-user-id"), (0o2000, "set-group-id")) if node.mode & bit]
            if node.capable:
                bits.append("file capabilities")
            if bits:
                found.append((f"/{path}", f"{' and '.join(bits)}: mode {node.mode:04o}, owner {node.uid}:{node.gid}"))
        self.each("IMG-06", found, severity="low" if self.wanted.no_new_privileges else None)

    # -- IMG-07, SEC-15 -----------------------------------------------------------------------------------------------

    def build(self) -> None:
        lists, programs = 0, {"shell": [], "package_manager": []}
        for path in self.files:
            if path.startswith("var/lib/apt/lists/"):
                lists += 1
            elif "/bin/" in f"/{path}" or "/sbin/" in f"/{path}":
                name = posixpath.basename(path)
                if name in SHELLS:
                    programs["shell"].append(f"/{path}")
                elif name in MANAGERS:
                    programs["package_manager"].append(f"/{path}")
                elif name == "sudo":
                    self.find("IMG-07", f"/{path}", "sudo is in the image")
        if lists:
            self.find("IMG-07", "/var/lib/apt/lists", f"{lists} package lists were left in the image")
        for kind, word in (("shell", "shells"), ("package_manager", "package managers")):
            if programs[kind] and kind not in self.wanted.allow:
                shown = ", ".join(programs[kind][:6]) + (" and more" if len(programs[kind]) > 6 else "")
                self.find("IMG-07", programs[kind][0], f"holds {word}: {shown}", severity="info")

    def history(self) -> None:
        known = set()
        for item in self.settings.get("Env") or []:
            key, _equals, value = str(item).partition("=")
            if _credential(key, value):
                known.add(key)
                self.find("SEC-15", f"config.Env {key}", f"{key} holds a credential")
        labels = self.settings.get("Labels")
        for key, value in sorted(labels.items()) if isinstance(labels, dict) else []:
            if _credential(str(key), str(value)):
                self.find("SEC-15", f"config.Labels {key}", f"the label {key} holds a credential")
        steps = self.image.config.get("history")
        for number, step in enumerate((steps if isinstance(steps, list) else [])[:STEPS]):
            text = str(step.get("created_by") or "")[:65536] if isinstance(step, dict) else ""
            where = f"history[{number}]"
            if _ADDED_URL.search(text):
                self.find("IMG-07", where, "ADD fetches from the network")
            if piped_download(text):
                self.find("IMG-07", where, "a download is piped into an interpreter")
            for name in written_secrets(text):
                if name not in known:
                    self.find("SEC-15", f"{where} {name}", f"a build step writes down {name}")

    # -- SEC-08 -------------------------------------------------------------------------------------------------------

    def secret_files(self) -> None:
        found = []
        for path, node in self.files.items():
            if node.content is None or path == "etc/passwd":
                continue
            name = posixpath.basename(path)
            text = node.content.decode("utf-8", "replace")
            if re.search(r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----", text):
                found.append((f"/{path}", "holds a private key"))
            elif name.startswith(".env") and name != ".env.example":
                lines = (line.partition("=") for line in text.splitlines() if not line.lstrip().startswith("#"))
                keys = [
                    key.replace("export ", "").strip()
                    for key, equals, value in lines
                    if equals and _credential(key, value)
                ]
                if keys:
                    found.append((f"/{path}", f"holds {', '.join(sorted(set(keys))[:5])}"))
            elif name in (".npmrc", ".pypirc", ".netrc", ".git-credentials", ".pgpass", "config.json", "credentials"):
                if re.search(
                    r"_authToken\s*=|_password\s*=|password|\"auth\"\s*:\s*\"[^\"]|aws_secret_access_key|://[^/\s]+:[^@\s]+@",
                    text,
                ):
                    found.append((f"/{path}", "holds credentials of a client"))
            elif name.endswith((".p12", ".pfx", ".jks")) and node.content:
                found.append((f"/{path}", "is a key store"))
        self.each("SEC-08", found)

    # -- IMG-09 -------------------------------------------------------------------------------------------------------

    def updates(self, packages: list[Package], wheels: list[Package]) -> None:
        release = os_release(self.content("etc/os-release", "usr/lib/os-release") or b"")
        if any(
            path.startswith(("lib/apk/", "usr/lib/apk/", "var/lib/rpm/", "usr/lib/sysimage/rpm/"))
            for path in self.files
        ):
            system = release.get("PRETTY_NAME") or release.get("ID") or "another system"
            self.audit.unknown("IMG-09", f"{self.subject}: nothing here knows the updates of {system}")
        elif not packages and not wheels:
            self.audit.unknown("IMG-09", f"{self.subject}: holds no list of packages, so nobody knows what is in it")
        for kind, found in (("debian", packages), ("python", wheels)):
            if not found:
                continue
            judge = dict(self.wanted.sources).get(kind)
            if judge is None:
                self.audit.unknown(
                    "IMG-09", f"{self.subject}: {len(found)} {kind} packages were not compared with anything"
                )
                continue
            self.answers.append(judge(found, release))
        for answer in self.answers:
            if answer.state != CHECKED:
                self.audit.unknown("IMG-09", f"{self.subject}: {answer.name}: {answer.detail}")
                continue
            self.each("IMG-09", answer.weak)
            if answer.silent:
                names = ", ".join(answer.silent[:8]) + (" and more" if len(answer.silent) > 8 else "")
                reason = f"says nothing of {len(answer.silent)} packages: {names}"
                self.audit.unknown("IMG-09", f"{self.subject}: {answer.name} {reason}")

    def bill(self, packages: list[Package]) -> None:
        inside = [path for path in self.files if path.lower().endswith((".json", ".spdx")) and not self._secret(path)]
        attested = [kind for kind in self.image.attested if re.search("spdx|cyclonedx", kind, re.IGNORECASE)]
        if not self.wanted.sboms and not inside and not attested and not (self.wanted.lock or {}).get("packages"):
            if self.unread:
                return
            self.find(
                "IMG-09", "bill of materials", "none is in the image, attested or beside it", severity="low",
                title="Image has no bill of materials",
                fix="Build with docker buildx build --sbom=true, or store the bill of materials beside the archive.",
            )  # fmt: skip
        for name, document in self.wanted.sboms:
            parts = document.get("components") or document.get("packages")
            listed = {
                (str(part.get("name")), str(part.get("version") or part.get("versionInfo")))
                for part in (parts if isinstance(parts, list) else [])
                if isinstance(part, dict)
            }
            missing = [f"{p.name} {p.version}" for p in packages if (p.name, p.version) not in listed]
            if missing:
                shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
                self.find(
                    "IMG-09",
                    name,
                    f"does not list {shown}",
                    title="Bill of materials is that of another image",
                    severity="low",
                )

    @staticmethod
    def _secret(path: str) -> bool:
        return posixpath.basename(path) in ("config.json",)

    # -- IMG-01, IMG-10 -----------------------------------------------------------------------------------------------

    def lock(self, packages: list[Package]) -> None:
        lock = self.wanted.lock
        if not lock:
            self.audit.not_applicable("IMG-01", "no lock file was given")
            return
        self.audit.decide("IMG-01")
        promised = lock.get("image")
        image_id = promised.get("id") if isinstance(promised, Mapping) else None
        if image_id and image_id != self.image.id:
            self.find("IMG-01", "id", f"{self.image.id[:19]} where the lock has {str(image_id)[:19]}")
        listed = lock.get("packages")
        wanted = {
            (str(entry.get("name")), str(entry.get("version")))
            for entry in (listed if isinstance(listed, list) else [])
            if isinstance(entry, Mapping)
        }
        if self.unread:
            self.audit.unknown("IMG-01", f"{self.subject}: {self.unread}")
            return
        found = {(package.name, package.version) for package in packages}
        versions = dict(sorted(wanted))
        drifted = []
        for name, version in sorted(found - wanted):
            drifted.append((name, f"{version} where the lock has {versions.get(name, 'none of it')}"))
        for name, version in sorted(wanted - found):
            if name not in {known for known, _version in found}:
                drifted.append((name, f"is not in the image, the lock has {version}"))
        self.each("IMG-01", drifted)

    def origin(self) -> None:
        self.audit.decide("IMG-10")
        promised = (self.wanted.lock or {}).get("image")
        bound = isinstance(promised, Mapping) and promised.get("id") == self.image.id
        if self.image.signed or bound or any("provenance" in kind for kind in self.image.attested):
            return
        if (self.wanted.lock or {}).get("packages"):
            return  # the hash of each package it was made from; IMG-01 says whether it is that image
        if self.wanted.kept_by_engine and self.image.layout != "oci":
            self.audit.unknown(
                "IMG-10", f"{self.subject}: this engine keeps no signatures; give the archive as an OCI layout"
            )
            return
        self.find("IMG-10", "attestations", "no provenance, no signature and no lock file")


def piped_download(text: str) -> bool:
    """Whether a command line runs what it downloads without looking at it."""
    parts = _PIPE.split(text)
    for left, right in zip(parts, parts[1:]):
        if _INTERPRETER.match(right) and _DOWNLOAD.search(re.split(r"&&|\|\||[;\n]", left)[-1]):
            return True
    return _SUBSTITUTED.search(text) is not None


def written_secrets(text: str) -> list[str]:
    """Names under which an instruction writes a credential down; never the credential."""
    found = [key for key, value in _ASSIGNED.findall(text) if _credential(key, value.strip("\"'"))]
    if not found and (
        credential_in_url(text) or any(known_token(word) for word in re.split(r"[\s=\"']+", text) if len(word) > 19)
    ):
        found.append("a credential")
    return list(dict.fromkeys(found))


def _credential(key: str, value: str) -> bool:
    return literal_credential(key.strip(), value) or known_token(value) or credential_in_url(value) is not None


def audit_image(audit: Audit, image: Image, subject: str, wanted: Wanted) -> list[Source]:
    """Judge one image; ``audit`` has ``TABLE``. Returns what the sources of known weaknesses said."""
    judge = _Judge(audit, image, subject, wanted)
    judge.all()
    return judge.answers
