# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keep the certificates of all services in their places, and say which must be issued.

PRIVATE: internal to the collection, may change in any release.

    ca/ca.key, ca/ca.crt                     the internal authority
    staging/SERVICE/tls.key, tls.crt         freshly issued, not yet in use
    acme/account.key, tls.key, chain.pem     what the last order at an ACME authority brought
    edge-files/tls.key, chain.pem            what the operator brought from the controller
    leaves/SERVICE/vN/tls.key|tls.crt|ca.crt what the service sees below /run/tls
    leaves/SERVICE/current -> vN

A renewal with the same key replaces tls.crt by a rename. Anything else (a first certificate, a new key, another
authority) is built as a complete new directory, and one rename of ``current`` makes it the one in use.
"""

from __future__ import annotations

import datetime
import os
import re
import shutil
import stat

from ansible_collections.mcpstack.platform.plugins.module_utils import _cert_check as check
from ansible_collections.mcpstack.platform.plugins.module_utils._files import sync_directory, write_atomic

NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
DNS = re.compile(
    r"(?:\*\.)?(?=.{1,253}$)[a-z0-9_](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*"
)
VERSION = re.compile(r"v([1-9][0-9]*)")
CA_WARN_DAYS = 90


class TlsError(Exception):
    """Nothing in use was changed; ``problems`` is a list of ``{where, what, fix}``."""

    def __init__(self, problems: list[dict]) -> None:
        self.problems = problems
        super().__init__("\n".join(f"{p['where']}: {p['what']}; {p['fix']}." for p in problems))


def problem(where: str, what: str, fix: str) -> dict:
    """One thing that is wrong, where, and what to do about it."""
    return {"where": where, "what": what, "fix": fix}


def check_request(leaves: list[dict], trust_only: list[dict]) -> list[dict]:
    """Everything that is wrong with what was asked for."""
    found = []
    services = [entry["service"] for entry in [*leaves, *trust_only]]
    for label, entries in (("leaves", leaves), ("trust_only", trust_only)):
        for number, entry in enumerate(entries):
            where = f"{label}[{number}] ({entry['service']})"
            if NAME.fullmatch(entry["service"]) is None:
                fix = "use lower-case letters, digits and dashes"
                found.append(problem(where, f"{entry['service']!r} is not a name of a service", fix))
            elif services.count(entry["service"]) > 1:
                found.append(problem(where, "the service is listed twice", "list each service once"))
            if not 0 <= entry["uid"] < 2**31:
                found.append(problem(where, f"uid is {entry['uid']}", "give the numeric uid of the service"))
            for name in entry.get("names") or []:
                if not check.is_address(name) and DNS.fullmatch(name.lower()) is None:
                    found.append(problem(where, f"{name!r} is not a DNS name or an address", "correct the name"))
            if entry.get("source") == "files" and not (entry.get("chain") and entry.get("key")):
                found.append(problem(where, "the source files needs chain and key", "give both paths on the host"))
    return found


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as handle:
            return handle.read()
    except (FileNotFoundError, NotADirectoryError):
        return None


class Leaves:
    """The certificates of one host."""

    def __init__(self, root: str = "/", now: datetime.datetime | None = None) -> None:
        self.root = root
        self.pki = os.path.join(root, "var/lib/mcpstack/pki")
        self.ca_key = os.path.join(self.pki, "ca/ca.key")
        self.ca_crt = os.path.join(self.pki, "ca/ca.crt")
        self.leaves = os.path.join(self.pki, "leaves")
        self.staging = os.path.join(self.pki, "staging")
        self.acme = os.path.join(self.pki, "acme")
        self.given = os.path.join(self.pki, "edge-files")
        self.public = os.path.join(root, "etc/mcpstack/ca.crt")
        self.now = now or datetime.datetime.now(datetime.timezone.utc)
        self.owner = (os.geteuid(), os.getegid())
        self.check = False
        self.actions: list[str] = []
        self.warnings: list[str] = []
        self.issue: list[dict] = []
        self.fingerprints: dict[str, str] = {}
        self.expires: dict[str, str] = {}
        self.acme_due: str = ""
        self.authority = None
        self.authority_pem = b""

    # -- the door -----------------------------------------------------------------------------------------------------

    def apply(
        self, leaves: list[dict], trust_only: list[dict], renew_days: int = 10, dry: bool = False, leaf_days: int = 30
    ) -> None:
        """Put what is staged and good into place, repair what is there, note what must be issued in ``issue``."""
        self.check = dry
        leaves = [{**leaf, "names": leaf.get("names") or [leaf["service"], "localhost"]} for leaf in leaves]
        found = check_request(leaves, trust_only)
        if not 0 < renew_days < leaf_days:
            what = f"certificates live {leaf_days} days and are issued again with {renew_days} days left"
            found.append(problem("renew_days", what, "choose a number between 0 and the lifetime"))
        if found:
            raise TlsError(found)
        self._load_authority()
        plans = [(leaf, self._plan(leaf, renew_days, found)) for leaf in leaves]
        if found:
            raise TlsError(found)
        self._directories(any(leaf.get("source") == "acme" for leaf in leaves))
        for leaf, plan in plans:
            self._leaf(leaf, plan)
        for entry in trust_only:
            self._trust(entry)
        self._prune({entry["service"] for entry in [*leaves, *trust_only]}, {entry["service"] for entry in self.issue})
        if not any((leaf.get("key") or "").startswith(self.given + "/") for leaf in leaves) and os.path.isdir(
            self.given
        ):
            self.actions.append(f"removed {self.given}")
            if not dry:
                shutil.rmtree(self.given)
        if self.authority is not None and os.path.isdir(os.path.dirname(self.public)):
            self._file(self.public, self.authority_pem, 0o644, *self.owner)

    def without_library(self, leaves: list[dict], trust_only: list[dict]) -> None:
        """Where certificates cannot be read: say only what is certainly missing."""
        for entry in [*leaves, *trust_only]:
            if not os.path.exists(os.path.join(self.leaves, entry["service"], "current")):
                self.actions.append(f"{entry['service']}: a first certificate")
                self.fingerprints[entry["service"]] = "pending"

    # -- looking ------------------------------------------------------------------------------------------------------

    def _load_authority(self) -> None:
        certificate, key = _read(self.ca_crt), _read(self.ca_key)
        if certificate is None:
            return
        restore = (
            "restore it from the backup, or remove the directory: every service and every client then needs the new one"
        )
        if key is None:
            raise TlsError([problem(self.ca_key, "the key of the internal authority is missing", restore)])
        try:
            authority = check.load_chain(certificate)[0]
            wrong = check.check_authority(authority, check.load_key(key), self.now)
        except check.CertError as exc:
            wrong = [str(exc)]
        if wrong:
            folder = os.path.dirname(self.ca_crt)
            raise TlsError(
                [problem(folder, f"the internal authority is not usable: {text}", restore) for text in wrong]
            )
        self.authority, self.authority_pem = authority, certificate
        left = (check.not_after(authority) - self.now).days
        if left < CA_WARN_DAYS:
            self.warnings.append(f"The internal authority ({self.ca_crt}) expires in {left} days.")

    def _pair(self, chain: str, key: str) -> check.Pair | None:
        """What lies at two paths; None when it is not both there and readable."""
        certificate, private = _read(chain), _read(key)
        if certificate is None or private is None:
            return None
        try:
            return check.Pair(check.load_chain(certificate), check.load_key(private))
        except check.CertError:
            return None

    def _plan(self, leaf: dict, renew_days: int, found: list[dict]) -> dict:
        """Decide: keep, place (paths of chain and key) or issue (with the reason)."""
        current = os.path.join(self.leaves, leaf["service"], "current")
        chain, key = os.path.join(current, "tls.crt"), os.path.join(current, "tls.key")
        pair = self._pair(chain, key)
        source = leaf.get("source") or "internal"
        if source == "files":
            return self._plan_files(leaf, chain, key, found)
        if source == "acme":
            plan = self._plan_acme(leaf, pair)
            if plan:
                return plan
        if self.authority is None:
            return self._plan_issue(
                leaf, key, "there is no internal authority yet" if pair is None else "the authority is new"
            )
        wrong = ["it is the first"]
        if pair is not None:
            wrong = check.check_internal(
                pair, self.authority, leaf["names"], bool(leaf.get("client")), self.now, renew_days
            )
        if not wrong:
            return {"do": "keep", "pair": pair}
        staged_chain = os.path.join(self.staging, leaf["service"], "tls.crt")
        for staged_key in (os.path.join(self.staging, leaf["service"], "tls.key"), key):
            staged = self._pair(staged_chain, staged_key)
            if staged is None:
                continue
            if not check.check_internal(
                staged, self.authority, leaf["names"], bool(leaf.get("client")), self.now, renew_days
            ):
                return {"do": "place", "pair": staged, "chain": staged_chain, "key": staged_key, "reason": wrong[0]}
        return self._plan_issue(leaf, key, ", ".join(wrong))

    def _plan_issue(self, leaf: dict, current_key: str, reason: str) -> dict:
        """A leaf keeps the key it has, as long as it is of the right kind."""
        folder = os.path.join(self.staging, leaf["service"])
        path, new = os.path.join(folder, "tls.key"), True
        for candidate in (current_key, path):
            try:
                if check.is_p256(check.load_key(_read(candidate) or b"")):
                    path, new = candidate, False
                    break
            except check.CertError:
                continue
        item = {
            "service": leaf["service"],
            "reason": reason,
            "common_name": check.common_name(leaf["names"]),
            "names": [f"{'IP' if check.is_address(name) else 'DNS'}:{name}" for name in leaf["names"]],
            "usage": ["serverAuth", "clientAuth"] if leaf.get("client") else ["serverAuth"],
            "key": path,
            "new_key": new,
            "certificate": os.path.join(folder, "tls.crt"),
        }
        return {"do": "issue", "item": item}

    def _plan_files(self, leaf: dict, chain: str, key: str, found: list[dict]) -> dict:
        if self.check and leaf["key"].startswith(self.given + "/") and not os.path.exists(leaf["key"]):
            return {"do": "wait"}  # a dry run brings no files to the host
        wrong = []
        loaded = {}
        for label, path, load in (("chain", leaf["chain"], check.load_chain), ("key", leaf["key"], check.load_key)):
            data = _read(path)
            if data is None:
                wrong.append(problem(path, f"the {label} for {leaf['service']} is not there", "put the file there"))
                continue
            try:
                loaded[label] = load(data)
            except check.CertError as exc:
                wrong.append(problem(path, str(exc), f"give the {label} in PEM form"))
        if not wrong:
            pair = check.Pair(loaded["chain"], loaded["key"])
            fix = f"give {leaf['service']} a certificate that is right; the one in use stays"
            wrong = [problem(leaf["chain"], text, fix) for text in check.check_given(pair, leaf["names"], self.now)]
        found += wrong
        if wrong:
            return {}
        left = (check.not_after(pair.leaf) - self.now).days
        if left < 14:
            self.warnings.append(f"The certificate for {leaf['service']} ({leaf['chain']}) expires in {left} days.")
        if (_read(chain), _read(key)) == (_read(leaf["chain"]), _read(leaf["key"])):
            return {"do": "keep", "pair": pair}
        return {"do": "place", "pair": pair, "chain": leaf["chain"], "key": leaf["key"], "reason": "it was replaced"}

    def _plan_acme(self, leaf: dict, pair: check.Pair | None) -> dict | None:
        """Place what the last order brought, keep what came from outside; otherwise an internal leaf stands in."""
        chain, key = os.path.join(self.acme, "chain.pem"), os.path.join(self.acme, "tls.key")
        fresh = self._pair(chain, key)
        if fresh is not None and check.check_given(fresh, leaf["names"], self.now):
            fresh = None
        foreign = pair is not None and (self.authority is None or not check.issued_by(pair.leaf, self.authority))
        foreign = foreign and check.belongs(pair.leaf, pair.key)
        if fresh is not None and (not foreign or check.not_after(fresh.leaf) > check.not_after(pair.leaf)):
            self.acme_due = self._acme_reason(leaf, fresh)
            return {"do": "place", "pair": fresh, "chain": chain, "key": key, "reason": "it was ordered"}
        self.acme_due = self._acme_reason(leaf, pair)
        if not foreign:
            return None
        if check.not_after(pair.leaf) <= self.now:
            when = f"{check.not_after(pair.leaf):%Y-%m-%d}"
            self.warnings.append(f"The certificate of {leaf['service']} expired on {when}.")
        return {"do": "keep", "pair": pair}

    def _acme_reason(self, leaf: dict, pair: check.Pair | None) -> str:
        """Why a certificate should be asked for, or nothing."""
        if pair is None:
            return "it is the first"
        if self.authority is not None and check.issued_by(pair.leaf, self.authority):
            return "the internal certificate stands in for it"
        have = check.names_of(pair.leaf)
        missing = [name for name in leaf["names"] if not check.covers(have, name)]
        if missing:
            return f"it is not for {', '.join(missing)}"
        if check.due_at_third(pair.leaf, self.now):
            return f"it expires on {check.not_after(pair.leaf):%Y-%m-%d}"
        return ""

    # -- changing -----------------------------------------------------------------------------------------------------

    def _directories(self, acme: bool) -> None:
        wanted = [(os.path.dirname(self.pki), 0o755), (self.pki, 0o755), (os.path.dirname(self.ca_key), 0o700)]
        wanted += [(self.leaves, 0o755), (self.staging, 0o700), (os.path.dirname(self.public), 0o750)]
        wanted += [(self.acme, 0o700)] if acme else []
        for path, mode in wanted:
            if not os.path.isdir(path):
                self.actions.append(f"created {path}")
                if not self.check:
                    os.makedirs(path, mode)
            elif path.startswith(self.pki):
                self._attributes(path, mode, *self.owner)
        for path, mode in ((self.ca_key, 0o600), (self.ca_crt, 0o644)):
            if os.path.exists(path):
                self._attributes(path, mode, *self.owner)

    def _attributes(self, path: str, mode: int, uid: int, gid: int) -> None:
        info = os.stat(path)
        if (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid) != (mode, uid, gid):
            self.actions.append(f"mode and owner of {path}")
            if not self.check:
                os.chown(path, uid, gid)
                os.chmod(path, mode)

    def _file(self, path: str, data: bytes, mode: int, uid: int, gid: int) -> None:
        if _read(path) == data:
            self._attributes(path, mode, uid, gid)
            return
        self.actions.append(f"wrote {path}")
        if not self.check:
            write_atomic(path, data, mode, (uid, gid))

    def _leaf(self, leaf: dict, plan: dict) -> None:
        service, uid = leaf["service"], leaf["uid"]
        if plan["do"] in ("issue", "wait"):
            current = self._pair(*(os.path.join(self.leaves, service, "current", f) for f in ("tls.crt", "tls.key")))
            self.fingerprints[service] = check.fingerprint(current.leaf) if current else "pending"
            if plan["do"] == "wait":
                self.actions.append(f"{service}: the certificate that is brought from the controller")
                return
            self.actions.append(f"{service}: issue, because {plan['item']['reason']}")
            self.issue.append(plan["item"])
            if not self.check:
                folder = os.path.join(self.staging, service)
                os.makedirs(folder, 0o700, exist_ok=True)
                if os.path.lexists(plan["item"]["certificate"]):
                    os.unlink(plan["item"]["certificate"])
                if plan["item"]["new_key"] and os.path.lexists(plan["item"]["key"]):
                    os.unlink(plan["item"]["key"])
            return
        self.fingerprints[service] = check.fingerprint(plan["pair"].leaf)
        self.expires[service] = check.not_after(plan["pair"].leaf).strftime("%Y-%m-%dT%H:%M:%SZ")
        folder = os.path.join(self.leaves, service)
        current = os.path.join(folder, "current")
        if plan["do"] == "place":
            self.actions.append(f"{service}: a new certificate, because {plan['reason']}")
            chain, key = _read(plan["chain"]), _read(plan["key"])
        else:
            chain, key = _read(os.path.join(current, "tls.crt")), _read(os.path.join(current, "tls.key"))
        files = {"tls.crt": (chain, 0o444, self.owner), "tls.key": (key, 0o400, (uid, uid))}
        if self.authority is not None:
            files["ca.crt"] = (self.authority_pem, 0o444, self.owner)
        self._version(folder, files)
        if not self.check and os.path.isdir(os.path.join(self.staging, service)):
            shutil.rmtree(os.path.join(self.staging, service))

    def _trust(self, entry: dict) -> None:
        service = entry["service"]
        if self.authority is None:
            self.actions.append(f"{service}: the internal authority")
            self.fingerprints[service] = "pending"
            return
        self.fingerprints[service] = check.fingerprint(self.authority)
        self._version(os.path.join(self.leaves, service), {"ca.crt": (self.authority_pem, 0o444, self.owner)})

    def _version(self, folder: str, files: dict) -> None:
        """Bring ``current`` of a service to the wanted files."""
        current = os.path.join(folder, "current")
        target = os.readlink(current) if os.path.islink(current) else ""
        usable = VERSION.fullmatch(target) is not None and os.path.isdir(os.path.join(folder, target))
        have = {name: _read(os.path.join(folder, target, name)) for name in files} if usable else {}
        different = {name for name, (data, _mode, _owner) in files.items() if have.get(name) != data}
        if usable and different <= {"tls.crt"}:
            self._attributes(folder, 0o755, *self.owner)
            place = os.path.join(folder, target)
            self._attributes(place, 0o755, *self.owner)
            for name, (data, mode, owner) in files.items():
                self._file(os.path.join(place, name), data, mode, *owner)
            stray = [name for name in os.listdir(place) if name not in files]
        else:
            numbers = [int(found[1]) for found in map(VERSION.fullmatch, self._entries(folder)) if found]
            fresh = f"v{max(numbers, default=0) + 1}" if usable else "v1"
            self.actions.append(f"switched {os.path.basename(folder)} to {fresh}")
            if self.check:
                return
            place = self._build(folder, fresh, files)
            staged = os.path.join(folder, ".new-current")
            if os.path.lexists(staged):
                os.unlink(staged)
            os.symlink(fresh, staged)
            if os.path.isdir(current) and not os.path.islink(current):
                shutil.rmtree(current)
            os.replace(staged, current)
            sync_directory(folder)
            target, stray = fresh, []
        old = [name for name in self._entries(folder) if name not in (target, "current")]
        for path in [os.path.join(place, name) for name in stray] + [os.path.join(folder, name) for name in old]:
            if not os.path.basename(path).startswith("."):
                self.actions.append(f"removed {path}")
            if not self.check:
                shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)

    @staticmethod
    def _entries(folder: str) -> list[str]:
        return sorted(os.listdir(folder)) if os.path.isdir(folder) else []

    def _build(self, folder: str, version: str, files: dict) -> str:
        """A complete directory beside the one in use."""
        os.makedirs(folder, 0o755, exist_ok=True)
        os.chmod(folder, 0o755)
        staged = os.path.join(folder, f".new-{version}")
        place = os.path.join(folder, version)
        for path in (staged, place):  # a directory that nothing points to is left over from a killed run
            if os.path.isdir(path):
                shutil.rmtree(path)
        os.mkdir(staged, 0o755)
        os.chmod(staged, 0o755)
        for name, (data, mode, owner) in files.items():
            write_atomic(os.path.join(staged, name), data, mode, owner)
        os.rename(staged, place)
        return place

    def _prune(self, listed: set[str], issuing: set[str]) -> None:
        for name in self._entries(self.leaves):
            if name not in listed:
                self.actions.append(f"removed {os.path.join(self.leaves, name)}")
                if not self.check:
                    shutil.rmtree(os.path.join(self.leaves, name))
        for name in self._entries(self.staging):
            if name not in issuing and not self.check:
                shutil.rmtree(os.path.join(self.staging, name))

    def remove(self, dry: bool = False) -> None:
        """Remove every key and certificate of this host."""
        for path in (self.pki, self.public):
            if os.path.lexists(path):
                self.actions.append(f"removed {path}")
                if not dry:
                    shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
