# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Debian archive of our own, small enough to be made in a test: packages, indices, and a key that signs them."""

from __future__ import annotations

import hashlib
import io
import lzma
import struct
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path


def tarball(entries):
    """A tar from {path: bytes | None for a directory | (mode, bytes) | '->target' for a link | '=target' hard link}."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path, content in entries.items():
            item = tarfile.TarInfo("./" + path)
            item.mtime, item.mode = 1700000000, 0o644
            if isinstance(content, tuple):
                item.mode, content = content
            if content is None:
                item.type, item.mode = tarfile.DIRTYPE, 0o755
            elif isinstance(content, str):
                item.type = tarfile.LNKTYPE if content[0] == "=" else tarfile.SYMTYPE
                item.linkname = ("./" + content[1:]) if content[0] == "=" else content[2:]
                content = None
            elif item.mode == 0o20644:
                item.type = tarfile.CHRTYPE
            else:
                item.size = len(content)
            tar.addfile(item, io.BytesIO(content) if content is not None else None)
    return out.getvalue()


def ar(members):
    """An ar archive."""
    out = b"!<arch>\n"
    for name, data in members.items():
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
    return out


def deb(name, files, version="1.0", **fields):
    """A package; returns its bytes and its stanza."""
    stanza = {"Package": name, "Version": version, "Architecture": "amd64", **fields}
    control = "".join(f"{key}: {value}\n" for key, value in stanza.items())
    sums = "".join(
        f"{hashlib.md5(data).hexdigest()}  {path}\n"  # noqa: S324 - the format of the database
        for path, data in files.items()
        if isinstance(data, bytes)
    )
    data = ar(
        {
            "debian-binary": b"2.0\n",
            "control.tar.xz": lzma.compress(tarball({"control": control.encode(), "md5sums": sums.encode()})),
            "data.tar.xz": lzma.compress(tarball(files)),
        }
    )
    return data, control


def elf(needed=(), runpath=None, interpreter=None):
    """The smallest ELF file that asks for libraries."""
    strings = b"\0"
    dynamic = []
    for library in needed:
        dynamic.append((1, len(strings)))
        strings += library.encode() + b"\0"
    if runpath:
        dynamic.append((29, len(strings)))
        strings += runpath.encode() + b"\0"
    headers = 3 if interpreter else 2
    strings_at = 64 + 56 * headers
    interpreter_at = strings_at + len(strings)
    text = (interpreter or "").encode() + b"\0"
    dynamic_at = interpreter_at + len(text)
    table = b"".join(struct.pack("<QQ", *item) for item in [*dynamic, (5, strings_at), (0, 0)])
    size = dynamic_at + len(table)
    out = b"\x7fELF\x02\x01\x01" + b"\0" * 9
    out += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, headers, 0, 0, 0)
    out += struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, size, size, 4096)
    out += struct.pack("<IIQQQQQQ", 2, 6, dynamic_at, dynamic_at, dynamic_at, len(table), len(table), 8)
    if interpreter:
        out += struct.pack("<IIQQQQQQ", 3, 4, interpreter_at, interpreter_at, interpreter_at, len(text), len(text), 1)
    return out + strings + text + table


class Signer:
    """A throwaway key."""

    def __init__(self):
        self._home = tempfile.TemporaryDirectory(prefix="gpg-")  # short: the agent's socket lies in it
        self._gpg("--quick-generate-key", "Test <test@example.org>", "ed25519", "sign", "never")
        self.keyring = Path(self._home.name) / "keyring.pgp"
        self.keyring.write_bytes(self._gpg("--export"))

    def _gpg(self, *arguments, data=None):
        command = ["gpg", "--homedir", self._home.name, "--batch", "--quiet", "--passphrase", "", *arguments]
        return subprocess.run(command, input=data, capture_output=True, check=True).stdout

    def sign(self, text):
        """The text as InRelease."""
        return self._gpg("--clearsign", data=text.encode())

    def close(self):
        """Stop the agent and remove the key."""
        subprocess.run(["gpgconf", "--homedir", self._home.name, "--kill", "all"], check=False)
        self._home.cleanup()


class Archive:
    """A mirror below a directory, reached by a file URL."""

    def __init__(self, root, signer):
        self.root, self.signer = Path(root), signer
        self.packages = {}
        self.release = {}

    @property
    def url(self):
        """Base URL."""
        return self.root.as_uri()

    def add(self, suite, name, files, version="1.0", **fields):
        """Put a package into pool and index."""
        data, control = deb(name, files, version, **fields)
        path = f"pool/main/{name[0]}/{name}/{name}_{version.replace(':', '%3a')}_amd64.deb"
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        stanza = control + f"Filename: {path}\nSize: {len(data)}\nSHA256: {digest}\n"
        self.packages.setdefault(suite, []).append(stanza)
        return self.root / path

    def publish(self, suite, now=None, valid_for=None, signer=None, by_hash=True, **fields):
        """Write and sign the index of a suite."""
        now = time.time() if now is None else now
        packed = lzma.compress("\n".join(self.packages.get(suite, [])).encode())
        digest = hashlib.sha256(packed).hexdigest()
        folder = self.root / "dists" / suite / "main" / "binary-amd64"
        (folder / "by-hash" / "SHA256").mkdir(parents=True, exist_ok=True)
        (folder / "Packages.xz").write_bytes(packed)
        if by_hash:
            (folder / "by-hash" / "SHA256" / digest).write_bytes(packed)

        def date(moment):
            return time.strftime("%a, %d %b %Y %H:%M:%S UTC", time.gmtime(moment))

        release = {"Origin": "Debian", "Suite": "stable", "Codename": suite, "Date": date(now)}
        if valid_for is not None:
            release["Valid-Until"] = date(now + valid_for)
        if by_hash:
            release["Acquire-By-Hash"] = "yes"
        release.update(fields)
        text = "".join(f"{key}: {value}\n" for key, value in release.items())
        text += f"SHA256:\n {digest} {len(packed):8d} main/binary-amd64/Packages.xz\n"
        (self.root / "dists" / suite / "InRelease").write_bytes((signer or self.signer).sign(text))
        return folder
