# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The secret store of one host: made here, encrypted at rest, published in memory.

PRIVATE: internal to the collection, may change in any release.

Values live encrypted in ``/etc/credstore.encrypted/mcpstack.NAME.vN`` (systemd-creds) and, readable by the one uid
that needs them, in the tmpfs ``/run/mcpstack/secrets/SERVICE/NAME/vN`` with ``current -> vN``. The manifest
``/etc/mcpstack/secrets.json`` says which secrets there are; it holds names, versions and fingerprints, never a value.

The order of every change is: encrypted file on the disk, then the manifest, then the tmpfs. Whatever is published is
therefore in the manifest and can be read again after a restart, and a run that was killed is finished by the next one.

The file needs nothing but the standard library and no other file of the collection: the role ``secrets`` installs a
copy on the host, and ``python3 secret_store.py publish`` is what the unit mcpstack-secrets.service runs at boot.
"""

from __future__ import annotations

import datetime
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets as randomness
import shutil
import stat
import string
import subprocess
import sys
import zlib

PREFIX = "mcpstack."
KEY_NAME = "fingerprint-key"
FORMAT = 1
NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
ROLE = re.compile(r"[a-z_][a-z0-9_]{0,62}")
PLACEHOLDER = re.compile(r"\{sha256:([^{}]*)\}")
BASE62 = string.ascii_letters + string.digits
BASE32 = string.ascii_lowercase + "234567"
ENVIRONMENTS = ("dev", "stg", "prod")
SOURCE_LIMIT = 256 * 1024

#: What each kind looks like, the parameters it must have, and the ones it may have.
SHAPES = {
    "password": re.compile(rb"[A-Za-z0-9]{32,512}"),
    "token": re.compile(rb"[A-Za-z0-9]{32,512}"),
    "hex32": re.compile(rb"[1-9][0-9]*:[0-9a-f]{64}"),
    "postgres_login": re.compile(rb"[a-z_][a-z0-9_]{0,62}:[A-Za-z0-9]{32,512}"),
    "api_key": re.compile(rb"mk_(dev|stg|prod)_[a-z2-7]{12}_[A-Za-z0-9]{43}_[0-9a-f]{8}"),
    "valkey_acl": re.compile(rb"user .*[^\n]", re.DOTALL),
    "file": re.compile(rb".+", re.DOTALL),
}
REQUIRED = {"postgres_login": "role", "api_key": "env", "valkey_acl": "template", "file": "source"}
OPTIONAL = {"password": "length", "token": "length", "postgres_login": "length"}
LENGTH = {"password": 40, "token": 64, "postgres_login": 40}
PARAMETERS = ("role", "env", "template", "source", "length")


class SecretError(Exception):
    """Nothing was changed; ``problems`` is a list of ``{where, what, fix}``."""

    def __init__(self, problems: list[dict]) -> None:
        self.problems = problems
        super().__init__(tell(problems))


def tell(problems: list[dict]) -> str:
    """One line for each problem; what mends several of them is said once, after them."""
    lines = []
    for number, item in enumerate(problems):
        following = problems[number + 1]["fix"] if number + 1 < len(problems) else None
        line = f"{item['where']}: {item['what']}"
        if following == item["fix"]:
            lines.append(f"{line}.")
        elif number and problems[number - 1]["fix"] == item["fix"]:
            lines.append(f"{line}.\nFor these: {item['fix']}.")
        else:
            lines.append(f"{line}; {item['fix']}.")
    return "\n".join(lines)


def problem(where: str, what: str, fix: str) -> dict:
    """One thing that is wrong, where, and what to do about it."""
    return {"where": where, "what": what, "fix": fix}


# -- values -----------------------------------------------------------------------------------------------------------


def characters(alphabet: str, length: int) -> str:
    """Random characters from the operating system's source."""
    return "".join(randomness.choice(alphabet) for _unused in range(length))


def generate(definition: dict, version: int) -> bytes:
    """A new value of a kind that is made on the host."""
    kind = definition["kind"]
    length = definition.get("length") or LENGTH.get(kind, 0)
    if kind in ("password", "token"):
        value = characters(BASE62, length)
    elif kind == "postgres_login":
        value = f"{definition['role']}:{characters(BASE62, length)}"
    elif kind == "hex32":
        value = f"{version}:{randomness.token_hex(32)}"
    elif kind == "api_key":
        value = f"mk_{definition['env']}_{characters(BASE32, 12)}_{characters(BASE62, 43)}"
        value += f"_{zlib.crc32(value.encode()):08x}"
    else:
        raise ValueError(kind)
    return value.encode()


def derive(template: str, values: dict[str, bytes]) -> bytes:
    """Fill ``{sha256:NAME}`` with the hexadecimal SHA-256 of the secret of that name."""
    return PLACEHOLDER.sub(lambda m: hashlib.sha256(values[m[1]]).hexdigest(), template).strip("\n").encode()


def fits(definition: dict, value: bytes) -> bool:
    """Whether a value has the shape of its kind."""
    if SHAPES[definition["kind"]].fullmatch(value) is None:
        return False
    if definition["kind"] == "api_key":
        body, check = value.rsplit(b"_", 1)
        return f"{zlib.crc32(body):08x}".encode() == check
    if definition["kind"] == "postgres_login" and definition.get("role"):
        return value.split(b":", 1)[0].decode() == definition["role"]
    return True


def check_definitions(definitions: list[dict]) -> list[dict]:
    """Everything that is wrong with the list of secrets."""
    found: list[dict] = []
    kinds = {d.get("name"): d.get("kind") for d in definitions}
    uids: dict[str, int] = {}
    seen: set[str] = set()
    for number, definition in enumerate(definitions):
        name, kind = definition.get("name"), definition.get("kind")
        where = f"secrets[{number}]" + (f" ({name})" if name else "")
        if not isinstance(name, str) or NAME.fullmatch(name) is None:
            found.append(
                problem(where, f"{name!r} is not a name", "use lower-case letters, digits and dashes, at most 63")
            )
        elif name == KEY_NAME:
            found.append(problem(where, f"the name {KEY_NAME} is used by the store itself", "choose another name"))
        elif name in seen:
            found.append(problem(where, "the name is in the list twice", "give every secret its own name"))
        seen.add(str(name))
        if kind not in SHAPES:
            found.append(problem(where, f"the kind {kind!r} does not exist", f"use one of {', '.join(SHAPES)}"))
            continue
        for parameter in PARAMETERS:
            given = definition.get(parameter) is not None
            if REQUIRED.get(kind) == parameter and not given:
                found.append(problem(where, f"a {kind} needs {parameter}", f"add {parameter}"))
            elif given and parameter not in (REQUIRED.get(kind), OPTIONAL.get(kind)):
                found.append(problem(where, f"a {kind} has no {parameter}", f"remove {parameter}"))
        length = definition.get("length")
        if length is not None and kind in LENGTH and not 32 <= length <= 512:
            found.append(problem(where, f"length is {length}", "use 32 to 512"))
        if kind == "postgres_login" and definition.get("role") and ROLE.fullmatch(definition["role"]) is None:
            fix = "use lower-case letters, digits and underscores, at most 63"
            found.append(problem(where, f"{definition['role']!r} is not a name of a database role", fix))
        if kind == "api_key" and definition.get("env") and definition["env"] not in ENVIRONMENTS:
            found.append(problem(where, f"env is {definition['env']!r}", f"use one of {', '.join(ENVIRONMENTS)}"))
        if kind == "file" and definition.get("source") and not os.path.isabs(definition["source"]):
            found.append(
                problem(where, f"source {definition['source']!r} is not an absolute path", "give the path on the host")
            )
        if kind == "valkey_acl" and definition.get("template"):
            found += _check_template(where, definition["template"], kinds)
        found += _check_consumers(where, definition.get("consumers") or [], uids)
    return found


def _check_template(where: str, template: str, kinds: dict) -> list[dict]:
    names = PLACEHOLDER.findall(template)
    if not template.lstrip().startswith("user "):
        return [problem(where, "the template is not a list of ACL users", 'begin each line with "user NAME"')]
    if not names:
        return [problem(where, "the template names no secret", "write passwords as #{sha256:NAME}")]
    found = []
    for name in names:
        if name not in kinds:
            found.append(
                problem(
                    where,
                    f"the template names {name!r}, which is not in the list",
                    "add that secret, or correct the name",
                )
            )
        elif kinds[name] == "valkey_acl":
            found.append(
                problem(
                    where,
                    f"the template names {name!r}, which is derived itself",
                    "name the secrets it is derived from",
                )
            )
    return found


def _check_consumers(where: str, consumers: list[dict], uids: dict[str, int]) -> list[dict]:
    found = []
    services = [c.get("service") for c in consumers]
    for consumer in consumers:
        service, uid = consumer.get("service"), consumer.get("uid")
        place = f"{where}.consumers ({service})"
        if not isinstance(service, str) or NAME.fullmatch(service) is None:
            found.append(
                problem(place, f"{service!r} is not a name of a service", "use lower-case letters, digits and dashes")
            )
        elif services.count(service) > 1:
            found.append(problem(place, "the service is in the list twice", "name each service once"))
        elif not isinstance(uid, int) or not 0 <= uid < 2**31:
            found.append(problem(place, f"uid is {uid!r}", "give the numeric uid of the service"))
        elif (uid == 0) != (service == "operator"):
            found.append(problem(place, f"uid is {uid}", "uid 0 belongs to the consumer operator and to no other"))
        elif uids.setdefault(service, uid) != uid:
            found.append(
                problem(
                    place, f"uid is {uid} here and {uids[service]} elsewhere", "give a service the same uid everywhere"
                )
            )
    return found


# -- the tool that encrypts -------------------------------------------------------------------------------------------


class CredentialError(Exception):
    """systemd-creds refused; the text is its own and names no value."""


class SystemdCreds:
    """Encrypts with what the host has: a TPM 2.0 together with the host key, or the host key alone."""

    def __init__(self, program: str = "systemd-creds") -> None:
        self.program = program

    def missing(self) -> list[dict]:
        """What stands in the way of using it."""
        found = []
        if shutil.which(self.program) is None:
            fix = "use Debian 12, Ubuntu 24.04 or newer (systemd 250 or later)"
            found.append(problem(self.program, "the program is not on this host, so secrets cannot be encrypted", fix))
        try:
            with open("/etc/machine-id", encoding="ascii") as handle:
                identity = handle.read().strip()
        except OSError:
            identity = ""
        if not re.fullmatch("[0-9a-f]{32}", identity):
            what = "the host has no machine id, and secrets are encrypted for one machine"
            found.append(problem("/etc/machine-id", what, "run systemd-machine-id-setup"))
        return found

    def _run(self, arguments: list[str], data: bytes) -> bytes:
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
        try:
            done = subprocess.run(
                [self.program, *arguments], input=data, capture_output=True, env=environment, timeout=90, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise CredentialError(f"{self.program} could not be run ({type(exc).__name__})") from None
        if done.returncode != 0:
            said = " ".join(done.stderr.decode(errors="replace").split()) or f"it ended with {done.returncode}"
            raise CredentialError(said.rstrip("."))
        return done.stdout

    def encrypt(self, name: str, value: bytes) -> bytes:
        """The encrypted form; it can be decrypted under this name and on this machine only."""
        return self._run(["encrypt", "--with-key=auto", f"--name={name}", "-", "-"], value)

    def decrypt(self, name: str, sealed: bytes) -> bytes:
        """The value of an encrypted form."""
        return self._run(["decrypt", "--newline=no", f"--name={name}", "-", "-"], sealed)


# -- files ------------------------------------------------------------------------------------------------------------


def sync_directory(path: str) -> None:
    """Make renames in a directory last."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_file(path: str, data: bytes, mode: int, uid: int, gid: int) -> None:
    """Write beside the place, flush, give owner and mode, rename: a reader sees the old file or the new one."""
    staged = os.path.join(os.path.dirname(path), f".new-{os.path.basename(path)}")
    if os.path.lexists(staged):
        os.unlink(staged)
    handle = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]
        os.fchown(handle, uid, gid)
        os.fchmod(handle, mode)
        os.fsync(handle)
    finally:
        os.close(handle)
    os.replace(staged, path)
    sync_directory(os.path.dirname(path))


def wipe(path: str) -> None:
    """Overwrite a file in memory, then remove it; a directory with everything in it."""
    info = os.lstat(path)
    if stat.S_ISDIR(info.st_mode):
        for entry in os.listdir(path):
            wipe(os.path.join(path, entry))
        os.rmdir(path)
        return
    if stat.S_ISREG(info.st_mode):
        handle = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
        try:
            os.write(handle, b"\0" * info.st_size)
        finally:
            os.close(handle)
    os.unlink(path)


def now() -> str:
    """The time, as it stands in the manifest."""
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


# -- the store --------------------------------------------------------------------------------------------------------


class Store:
    """All secrets of one host."""

    def __init__(self, root: str = "/", tool=None, dir_mode: int = 0o500) -> None:
        self.credstore = os.path.join(root, "etc/credstore.encrypted")
        self.config = os.path.join(root, "etc/mcpstack")
        self.manifest_path = os.path.join(self.config, "secrets.json")
        self.published = os.path.join(root, "run/mcpstack/secrets")
        self.tool = tool or SystemdCreds()
        self.dir_mode = dir_mode
        self.owner = os.geteuid()
        self.actions: list[str] = []
        self.warnings: list[str] = []
        self._lock = None

    # reading

    def path(self, name: str, version: int) -> str:
        """The encrypted file of one version."""
        return os.path.join(self.credstore, f"{PREFIX}{name}.v{version}")

    def load(self) -> dict:
        """The manifest, or an empty one."""
        try:
            with open(self.manifest_path, "rb") as handle:
                manifest = json.loads(handle.read())
            if manifest["format"] != FORMAT:
                fix = "use the release of the collection that wrote it, or a newer one"
                raise SecretError(
                    [problem(self.manifest_path, f"its format is {manifest['format']!r}, not {FORMAT}", fix)]
                )
            for entry in manifest["secrets"].values():
                if str(entry["current"]) not in entry["versions"]:
                    raise KeyError("current")
                if not isinstance(entry["kind"], str) or not all(
                    {"service", "uid"} <= set(c) for c in entry["consumers"]
                ):
                    raise KeyError("kind")
            return manifest
        except FileNotFoundError:
            return {"format": FORMAT, "fingerprint_key": None, "secrets": {}}
        except (ValueError, KeyError, TypeError, AttributeError):
            what = "the list of secrets is damaged"
            fix = "restore it from a backup, or move it away: the next run takes over the encrypted files it finds"
            raise SecretError([problem(self.manifest_path, what, fix)]) from None

    def decrypt(self, name: str, version: int) -> bytes:
        """The value of one version, or a SecretError that says what to do."""
        path = self.path(name, version)
        back = "from the backup of this host, together with /var/lib/systemd/credential.secret and /etc/machine-id"
        fix = f"restore the file {back}; no new value is made, because what uses the old one would refuse it"
        try:
            with open(path, "rb") as handle:
                sealed = handle.read()
        except FileNotFoundError:
            what = f"the encrypted value of the secret {name} is missing"
            raise SecretError([problem(path, what, fix)]) from None
        try:
            return self.tool.decrypt(f"{PREFIX}{name}.v{version}", sealed)
        except CredentialError as exc:
            what = f"the secret {name} cannot be decrypted on this host ({exc})"
            raise SecretError([problem(path, what, fix)]) from None

    def stored_versions(self, name: str) -> list[int]:
        """The versions of a secret that lie in the credential store, whatever the manifest says."""
        pattern = re.compile(re.escape(PREFIX + name) + r"\.v([1-9][0-9]*)")
        try:
            entries = os.listdir(self.credstore)
        except FileNotFoundError:
            return []
        return sorted(int(found[1]) for found in map(pattern.fullmatch, entries) if found)

    @staticmethod
    def fingerprint(key: bytes, name: str, value: bytes) -> str:
        """Tells two values apart, and says nothing about either to whoever does not have the key."""
        return hmac.new(key, name.encode() + b"\0" + value, hashlib.sha256).hexdigest()[:16]

    def tmpfs(self) -> dict | None:
        """How the directory of published secrets is mounted; None when no tmpfs is there."""
        found = None
        target = os.path.realpath(self.published)
        try:
            with open("/proc/self/mounts", encoding="utf-8") as handle:
                for line in handle:
                    _device, place, kind, options = line.split()[:4]
                    if place == target:
                        found = {"noswap": "noswap" in options.split(",")} if kind == "tmpfs" else None
            with open("/proc/swaps", encoding="utf-8") as handle:
                swap = len(handle.readlines()) > 1
        except OSError:
            return found
        if found and not found["noswap"] and swap:
            self.warnings.append(
                f"{self.published} may be swapped out: this kernel has no tmpfs option noswap (Linux 6.4). "
                "Encrypt the swap or turn it off."
            )
        return found

    # changing

    def __enter__(self) -> Store:
        """Take the lock; it is freed when the process ends, however it ends."""
        if os.path.isdir(self.credstore):
            self._lock = os.open(self.credstore, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        return self

    def __exit__(self, *_unused) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def prepare(self) -> None:
        """Create the directories of the store and clear away what a killed run left half written."""
        for path, mode in ((self.credstore, 0o700), (self.config, 0o750)):
            if not os.path.isdir(path):
                os.makedirs(path, mode)
        if stat.S_IMODE(os.stat(self.credstore).st_mode) & 0o077:
            os.chmod(self.credstore, 0o700)
            self.actions.append(f"mode of {self.credstore}")
        for entry in os.listdir(self.credstore):
            if entry.startswith(f".new-{PREFIX}"):
                os.unlink(os.path.join(self.credstore, entry))

    def store(self, name: str, version: int, value: bytes) -> None:
        """Encrypt a value, read it back, and only then let it take its place."""
        label = f"{PREFIX}{name}.v{version}"
        path = self.path(name, version)
        try:
            sealed = self.tool.encrypt(label, value)
        except CredentialError as exc:
            fix = "correct what systemd-creds complains about and run again; nothing was published"
            raise SecretError([problem(path, f"the secret {name} cannot be encrypted ({exc})", fix)]) from None
        try:
            same = hmac.compare_digest(self.tool.decrypt(label, sealed), value)
        except CredentialError:
            same = False
        if not same:
            fix = "look at journalctl and at the key in /var/lib/systemd/credential.secret; nothing was published"
            raise SecretError([problem(path, f"what was encrypted for {name} cannot be decrypted again", fix)])
        write_file(path, sealed, 0o600, self.owner, -1)

    def save(self, manifest: dict) -> None:
        """Write the manifest."""
        data = json.dumps(manifest, indent=2, sort_keys=True).encode() + b"\n"
        write_file(self.manifest_path, data, 0o600, self.owner, -1)

    def repair_modes(self, manifest: dict, check: bool) -> None:
        """Give the encrypted files and the manifest back their mode and owner."""
        paths = [self.manifest_path]
        paths += [self.path(name, int(v)) for name, entry in manifest["secrets"].items() for v in entry["versions"]]
        for path in paths:
            try:
                info = os.stat(path)
            except FileNotFoundError:
                continue
            if stat.S_IMODE(info.st_mode) != 0o600 or info.st_uid != self.owner:
                self.actions.append(f"mode and owner of {path}")
                if not check:
                    os.chown(path, self.owner, -1)
                    os.chmod(path, 0o600)

    # publishing

    def wanted_tree(self, manifest: dict, values: dict) -> dict:
        """What must be published: service -> {uid, secrets: name -> {current, versions: number -> value}}."""
        tree: dict[str, dict] = {}
        for name, entry in sorted(manifest["secrets"].items()):
            if entry["state"] != "active":
                continue
            for consumer in entry["consumers"]:
                service = tree.setdefault(consumer["service"], {"uid": consumer["uid"], "secrets": {}})
                versions = {int(v): values.get((name, int(v))) for v in entry["versions"]}
                service["secrets"][name] = {"current": entry["current"], "versions": versions}
        return tree

    def publish(self, tree: dict, check: bool = False, keep: frozenset = frozenset()) -> None:
        """Bring the tmpfs to the wanted tree. Services in ``keep`` are left as they are."""
        try:
            existing = sorted(os.listdir(self.published))
        except FileNotFoundError:
            existing = []
        for entry in existing:
            if entry in keep or (entry in tree and os.path.isdir(os.path.join(self.published, entry))):
                continue
            if not entry.startswith("."):
                self.actions.append(f"wiped {entry}")
            if not check:
                wipe(os.path.join(self.published, entry))
        for service, wanted in sorted(tree.items()):
            place = os.path.join(self.published, service)
            if os.path.isdir(place):
                self._publish_service(place, service, wanted, check)
                continue
            self.actions += [
                f"published {name} v{secret['current']} for {service}" for name, secret in wanted["secrets"].items()
            ]
            if check:
                continue
            # a service's directory appears complete or not at all: a container never starts with half of its secrets
            staged = os.path.join(self.published, f".new-{service}")
            os.mkdir(staged, 0o700)
            for name, secret in wanted["secrets"].items():
                self._fill(os.path.join(staged, name), secret, wanted["uid"])
            self._own(staged, wanted["uid"])
            os.rename(staged, place)

    def _own(self, path: str, uid: int) -> None:
        os.chown(path, uid, uid)
        os.chmod(path, self.dir_mode)

    def _fill(self, folder: str, secret: dict, uid: int) -> None:
        os.mkdir(folder, 0o700)
        for version, value in secret["versions"].items():
            write_file(os.path.join(folder, f"v{version}"), value, 0o400, uid, uid)
        os.symlink(f"v{secret['current']}", os.path.join(folder, "current"))
        self._own(folder, uid)

    def _publish_service(self, place: str, service: str, wanted: dict, check: bool) -> None:
        """Repair a directory that is there, possibly mounted in a running container: its inode stays."""
        uid = wanted["uid"]
        self._repair_directory(place, uid, check)
        for name in sorted(os.listdir(place)):
            if name not in wanted["secrets"]:
                if not name.startswith("."):
                    self.actions.append(f"wiped {name} of {service}")
                if not check:
                    wipe(os.path.join(place, name))
        for name, secret in sorted(wanted["secrets"].items()):
            folder = os.path.join(place, name)
            if not os.path.isdir(folder):
                self.actions.append(f"published {name} v{secret['current']} for {service}")
                if not check:
                    staged = os.path.join(place, f".new-{name}")
                    self._fill(staged, secret, uid)
                    os.rename(staged, folder)
                continue
            self._repair_directory(folder, uid, check)
            for version, value in sorted(secret["versions"].items()):
                self._repair_value(folder, version, value, f"{name} v{version} for {service}", uid, check)
            link = os.path.join(folder, "current")
            target = f"v{secret['current']}"
            if not os.path.islink(link) or os.readlink(link) != target:
                self.actions.append(f"switched {name} of {service} to {target}")
                if not check:
                    staged = os.path.join(folder, ".new-current")
                    if os.path.lexists(staged):
                        os.unlink(staged)
                    if os.path.isdir(link) and not os.path.islink(link):
                        wipe(link)
                    os.symlink(target, staged)
                    os.replace(staged, link)
            for entry in sorted(os.listdir(folder)):
                if entry != "current" and entry not in {f"v{v}" for v in secret["versions"]}:
                    if not entry.startswith("."):
                        self.actions.append(f"wiped {name} {entry} of {service}")
                    if not check:
                        wipe(os.path.join(folder, entry))

    def _repair_directory(self, path: str, uid: int, check: bool) -> None:
        info = os.stat(path)
        if (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid) != (self.dir_mode, uid, uid):
            self.actions.append(f"mode and owner of {path}")
            if not check:
                self._own(path, uid)

    def _repair_value(self, folder: str, version: int, value: bytes | None, label: str, uid: int, check: bool) -> None:
        path = os.path.join(folder, f"v{version}")
        try:
            info = os.lstat(path)
            plain = stat.S_ISREG(info.st_mode)
            content = b""
            if plain:
                with open(path, "rb") as handle:
                    content = handle.read()
        except FileNotFoundError:
            plain, content, info = False, b"", None
        if plain and value is not None and hmac.compare_digest(content, value):
            if (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid) != (0o400, uid, uid):
                self.actions.append(f"mode and owner of {path}")
                if not check:
                    os.chown(path, uid, uid)
                    os.chmod(path, 0o400)
            return
        self.actions.append(f"published {label}")
        if not check:
            if info is not None and not plain:
                wipe(path)
            write_file(path, value, 0o400, uid, uid)

    # doors

    def apply(self, definitions: list[dict], check: bool = False) -> list[dict]:
        """Bring the host to the list: make what is missing, never change what is there; returns what may be shown."""
        found = check_definitions(definitions)
        if found:
            raise SecretError(found)
        with self:
            return self._apply(definitions, check)

    def _apply(self, definitions: list[dict], check: bool) -> list[dict]:
        missing = self.tool.missing()
        manifest = self.load()
        if missing and (manifest["secrets"] or not check):
            raise SecretError(missing)
        mounted = self.tmpfs()
        if mounted is None and not check:
            fix = "start run-mcpstack-secrets.mount (role secrets)"
            raise SecretError(
                [problem(self.published, "no tmpfs is mounted here, so secrets would land on a disk", fix)]
            )

        values, found = self._read_all(manifest, definitions)
        plan = [] if found else self._plan(manifest, definitions, values, found)
        if found:
            raise SecretError(found)

        if not check:
            self.prepare()
            if self._lock is None:  # the store did not exist: look again, now that nobody else can write to it
                self.__enter__()
                self.warnings.clear()
                return self._apply(definitions, check)
        key = values.get((KEY_NAME, 1))
        if key is None:
            self.actions.append("created the key of the fingerprints")
            key = randomness.token_bytes(32)
            if not check:
                self.store(KEY_NAME, 1, key)
        before = json.dumps(manifest, sort_keys=True)
        manifest["fingerprint_key"] = 1
        superseded = self._make(manifest, plan, values, key, check)
        self._note_consumers(manifest, definitions)
        if not check and (json.dumps(manifest, sort_keys=True) != before):
            self.save(manifest)
        self.repair_modes(manifest, check)
        self.publish(self.wanted_tree(manifest, values), check)
        for path in superseded:
            self.actions.append(f"removed {path}")
            if not check:
                os.unlink(path)
        return self.describe(manifest)

    def _read_all(self, manifest: dict, definitions: list[dict]) -> tuple[dict, list[dict]]:
        """Decrypt everything the manifest lists, and what a killed run stored without listing it."""
        values: dict[tuple[str, int], bytes] = {}
        found: list[dict] = []

        def read(name: str, version: int) -> bytes | None:
            try:
                values[name, version] = self.decrypt(name, version)
            except SecretError as exc:
                found.extend(exc.problems)
            return values.get((name, version))

        key = None
        if manifest["fingerprint_key"] or self.stored_versions(KEY_NAME):
            key = read(KEY_NAME, 1)
        listed = {definition["name"] for definition in definitions}
        for name, entry in sorted(manifest["secrets"].items()):
            for version, about in sorted(entry["versions"].items()):
                if name not in listed:
                    continue
                value = read(name, int(version))
                if value is None or key is None:
                    continue
                if not hmac.compare_digest(self.fingerprint(key, name, value), about["fingerprint"]):
                    what = f"the file does not hold the value of {name} that {self.manifest_path} recorded"
                    found.append(problem(self.path(name, int(version)), what, "restore both from the same backup"))
        for definition in definitions:
            stored = self.stored_versions(definition["name"])
            if definition["name"] not in manifest["secrets"] and stored:
                read(definition["name"], stored[-1])
        return values, found

    def _plan(self, manifest: dict, definitions: list[dict], values: dict, found: list[dict]) -> list[tuple]:
        """Decide for each secret: (definition, version, value or None to make one, where it comes from)."""
        plan = []
        ready: dict[str, bytes] = {}
        for definition in sorted(definitions, key=lambda d: d["kind"] == "valkey_acl"):
            name, kind = definition["name"], definition["kind"]
            entry = manifest["secrets"].get(name)
            stored = self.stored_versions(name)
            if entry and entry["kind"] != kind:
                what = f"the secret {name} is a {entry['kind']}, and the list calls it a {kind}"
                found.append(problem(self.manifest_path, what, "give the new secret a new name"))
                continue
            version = entry["current"] if entry else (stored[-1] if stored else None)
            value = values.get((name, version)) if version else None
            if value is not None and not fits(definition, value):
                what = f"the stored value of {name} is not a {kind}" + (
                    f" of role {definition['role']}" if definition.get("role") else ""
                )
                found.append(
                    problem(self.path(name, version), what, "give the new secret a new name, or correct the list")
                )
                continue
            if value is not None and kind == "api_key" and not value.startswith(f"mk_{definition['env']}_".encode()):
                self.warnings.append(
                    f"The key {name} was made for another environment than {definition['env']} "
                    "and stays until it is rotated."
                )
            if kind == "file":
                given = self._read_source(definition, value is not None, found)
                if given is None:
                    given = value
            elif kind == "valkey_acl":
                sources = PLACEHOLDER.findall(definition["template"])
                given = derive(definition["template"], ready) if all(s in ready for s in sources) else None
            else:
                given = value
            if value is not None and given == value:
                plan.append((definition, version, value, "kept" if entry else "taken over"))
            elif value is None:
                plan.append((definition, (version or 0) + 1, given, "created"))
            else:
                plan.append((definition, version + 1, given, "changed"))
            if plan[-1][2] is None and kind not in ("file", "valkey_acl"):
                value = generate(definition, plan[-1][1])
                plan[-1] = (*plan[-1][:2], value, "created")
            if plan[-1][2] is not None:
                ready[name] = plan[-1][2]
        return plan

    def _read_source(self, definition: dict, stored: bool, found: list[dict]) -> bytes | None:
        """The operator's file, without its last newline. Once the value is stored, the file may go."""
        source = definition["source"]
        where = f"{source} (secret {definition['name']})"
        try:
            handle = os.open(source, os.O_RDONLY | os.O_NONBLOCK)
        except FileNotFoundError:
            if not stored:
                found.append(
                    problem(where, "the file is not on this host", "put the value there; it may go once it is stored")
                )
            return None
        except OSError as exc:
            found.append(problem(where, f"the file cannot be read ({exc.strerror})", "make it readable for root"))
            return None
        try:
            info = os.fstat(handle)
            plain = stat.S_ISREG(info.st_mode)
            value = b""
            while plain and len(value) <= SOURCE_LIMIT and (more := os.read(handle, SOURCE_LIMIT + 1)):
                value += more
        finally:
            os.close(handle)
        if not plain:
            found.append(problem(where, "this is not a file", "put the value into a plain file"))
            return None
        value = value.removesuffix(b"\n").removesuffix(b"\r")
        if not value:
            found.append(problem(where, "the file is empty", "put the value there"))
        elif len(value) > SOURCE_LIMIT:
            found.append(
                problem(
                    where,
                    f"the file is larger than {SOURCE_LIMIT} bytes",
                    "this is not a secret; mount it as configuration",
                )
            )
        else:
            if info.st_mode & 0o077:
                self.warnings.append(
                    f"{source} can be read by others than its owner; chmod 600 {source}, "
                    "or remove it: the value is stored now."
                )
            return value
        return None

    def _make(self, manifest: dict, plan: list[tuple], values: dict, key: bytes, check: bool) -> list[str]:
        """Store the new versions and enter them; returns the encrypted files that nothing needs any more."""
        superseded = []
        for definition, version, value, how in plan:
            name = definition["name"]
            known = manifest["secrets"].get(name)
            if how in ("created", "changed"):
                self.actions.append(f"{how} {name} v{version}")
                if not check:
                    self.store(name, version, value)
            elif how == "taken over":
                self.actions.append(f"took over {name} v{version}")
            if how != "kept":
                values[name, version] = value
                planned = check and how != "taken over"
                about = {"fingerprint": self.fingerprint(key, name, value), "created": now()}
                entry = known or {"kind": definition["kind"], "consumers": None, "state": "active"}
                entry["versions"] = {str(version): {"fingerprint": None, "created": None} if planned else about}
                entry["current"] = version
                manifest["secrets"][name] = entry
            # what the operator gave or what is derived is replaced for good; nothing else ever loses a version here
            if definition["kind"] in ("file", "valkey_acl"):
                superseded += [self.path(name, v) for v in self.stored_versions(name) if v < version]
        return superseded

    def _note_consumers(self, manifest: dict, definitions: list[dict]) -> None:
        listed = {d["name"]: d for d in definitions}
        for name, entry in list(manifest["secrets"].items()):
            if name not in listed and not any(os.path.exists(self.path(name, int(v))) for v in entry["versions"]):
                self.actions.append(f"forgot {name}: it is not used, and its encrypted value is gone")
                del manifest["secrets"][name]
                continue
            state = "active" if name in listed else "unused"
            if entry["state"] != state:
                self.actions.append(
                    f"{name} is {'used again' if state == 'active' else 'no longer used, its encrypted value is kept'}"
                )
            consumers = listed[name].get("consumers") or [] if name in listed else []
            wanted = [{"service": c["service"], "uid": c["uid"]} for c in sorted(consumers, key=lambda c: c["service"])]
            if entry["consumers"] not in (wanted, None):
                self.actions.append(f"consumers of {name}")
            entry["state"], entry["consumers"] = state, wanted

    @staticmethod
    def describe(manifest: dict) -> list[dict]:
        """What may appear in results and logs."""
        return [
            {
                "name": name,
                "kind": entry["kind"],
                "version": entry["current"],
                "fingerprint": entry["versions"][str(entry["current"])]["fingerprint"],
                "created": entry["versions"][str(entry["current"])]["created"],
                "state": entry["state"],
            }
            for name, entry in sorted(manifest["secrets"].items())
        ]

    def publish_at_boot(self) -> list[dict]:
        """Publish what the manifest lists; a service gets all of its secrets or none. Returns the problems."""
        with self:
            manifest = self.load()
            if not manifest["secrets"]:
                return []
            if self.tmpfs() is None:
                return [problem(self.published, "no tmpfs is mounted here", "start run-mcpstack-secrets.mount")]
            missing = self.tool.missing()
            if missing:
                return missing
            values: dict[tuple[str, int], bytes] = {}
            found: list[dict] = []
            broken: set[str] = set()
            for name, entry in sorted(manifest["secrets"].items()):
                if entry["state"] != "active" or not entry["consumers"]:
                    continue
                try:
                    for version in entry["versions"]:
                        values[name, int(version)] = self.decrypt(name, int(version))
                except SecretError as exc:
                    found += exc.problems
                    broken |= {c["service"] for c in entry["consumers"]}
            tree = {s: w for s, w in self.wanted_tree(manifest, values).items() if s not in broken}
            self.publish(tree, keep=frozenset(broken))
            for service in sorted(broken):
                if not os.path.isdir(os.path.join(self.published, service)):
                    what = "no secret is published for this service, so that it does not start with half of them"
                    found.append(problem(service, what, "mend the file named above, then run the playbook again"))
            return found

    def inspect(self) -> list[dict]:
        """Read-only: every secret of the manifest, with whether its file is there and where it is published."""
        manifest = self.load()
        described = self.describe(manifest)
        for item in described:
            entry = manifest["secrets"][item["name"]]
            item["stored"] = all(os.path.isfile(self.path(item["name"], int(v))) for v in entry["versions"])
            item["consumers"] = [
                {**c, "published": os.path.exists(os.path.join(self.published, c["service"], item["name"], "current"))}
                for c in entry["consumers"]
            ]
        return described

    def remove(self, check: bool = False) -> None:
        """Wipe everything: what is published, the encrypted values, the manifest."""
        with self:
            if os.path.isdir(self.published):
                for entry in sorted(os.listdir(self.published)):
                    self.actions.append(f"wiped {entry}")
                    if not check:
                        wipe(os.path.join(self.published, entry))
            entries = sorted(os.listdir(self.credstore)) if os.path.isdir(self.credstore) else []
            for entry in entries:
                if entry.startswith((PREFIX, f".new-{PREFIX}")):
                    self.actions.append(f"removed {entry}")
                    if not check:
                        os.unlink(os.path.join(self.credstore, entry))
            if os.path.lexists(self.manifest_path):
                self.actions.append(f"removed {self.manifest_path}")
                if not check:
                    os.unlink(self.manifest_path)


def main(arguments: list[str]) -> int:
    """What the unit runs at boot."""
    if arguments != ["publish"]:
        sys.stderr.write("usage: secret_store.py publish\n")
        return 2
    store = Store()
    try:
        found = store.publish_at_boot()
    except SecretError as exc:
        found = exc.problems
    for line in [*store.actions, *(f"Warning: {text}" for text in store.warnings)]:
        sys.stdout.write(f"{line}\n")
    if found:
        priority = "<3>" if "JOURNAL_STREAM" in os.environ else ""  # an error, for the journal
        for line in tell(found).splitlines():
            sys.stderr.write(f"{priority}{line}\n")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
