# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Take Ansible collections out of the `ansible` wheel and pack them as the tarballs ansible-galaxy installs.

usage: vendor_collections.py WHEEL DIRECTORY NAMESPACE.NAME...

For machines that reach a Python package index but no Galaxy server. The wheel leaves out test files that FILES.json
lists, so FILES.json is cut to what is there and MANIFEST.json re-signed with its checksum; contents stay untouched.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import sys
import tarfile
import zipfile
from pathlib import Path


class VendorError(Exception):
    """A sentence for a person: what is wrong and what to do."""


def _json(data: object) -> bytes:
    return json.dumps(data, indent=1, sort_keys=True).encode() + b"\n"


def repack(wheel: zipfile.ZipFile, name: str) -> tuple[str, bytes]:
    """(file name, content) of the collection's tarball; the same wheel always gives the same bytes."""
    prefix = f"ansible_collections/{name.replace('.', '/')}/"
    try:
        manifest = json.loads(wheel.read(prefix + "MANIFEST.json"))
        listing = json.loads(wheel.read(prefix + "FILES.json"))
    except KeyError as exc:
        raise VendorError(f"The wheel holds no collection {name}: check the name or choose another wheel.") from exc
    present = {entry.filename[len(prefix) :] for entry in wheel.infolist() if entry.filename.startswith(prefix)}
    present.discard("")
    folders = {"/".join(path.split("/")[:depth]) for path in present for depth in range(1, path.count("/") + 1)}
    files: dict[str, bytes] = {}
    kept = []
    for entry in listing["files"]:
        path = entry["name"]
        if entry["ftype"] == "dir":
            if path == "." or path in folders:
                kept.append(entry)
        elif path in present:
            files[path] = wheel.read(prefix + path)
            if hashlib.sha256(files[path]).hexdigest() != entry["chksum_sha256"]:
                raise VendorError(
                    f"{name}: {path} in the wheel differs from its own checksum list; the wheel is damaged."
                )
            kept.append(entry)
    listing["files"] = kept
    files["FILES.json"] = _json(listing)
    manifest["file_manifest_file"]["chksum_sha256"] = hashlib.sha256(files["FILES.json"]).hexdigest()
    files["MANIFEST.json"] = _json(manifest)
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for folder in sorted(entry["name"] for entry in kept if entry["ftype"] == "dir" and entry["name"] != "."):
            member = tarfile.TarInfo(folder)
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(member)
        for path in sorted(files):
            member = tarfile.TarInfo(path)
            member.size = len(files[path])
            member.mode = 0o644
            tar.addfile(member, io.BytesIO(files[path]))
    info = manifest["collection_info"]
    return (
        f"{info['namespace']}-{info['name']}-{info['version']}.tar.gz",
        gzip.compress(raw.getvalue(), compresslevel=6, mtime=0),
    )


def vendor(wheel_path: Path, target: Path, names: list[str]) -> list[Path]:
    """Write every tarball and a requirements.yml that names them by relative path."""
    target.mkdir(parents=True, exist_ok=True)
    written = []
    try:
        with zipfile.ZipFile(wheel_path) as wheel:
            for name in names:
                filename, content = repack(wheel, name)
                (target / filename).write_bytes(content)
                written.append(target / filename)
    except (OSError, zipfile.BadZipFile) as exc:
        raise VendorError(f"{wheel_path} cannot be read as a wheel: {exc}") from exc
    lines = ["---", "collections:"]
    for path in written:
        lines += [f"  - name: {path.name}", "    type: file"]
    (target / "requirements.yml").write_text("\n".join(lines) + "\n")
    return written


def main(argv: list[str]) -> int:
    """Command line."""
    if len(argv) < 4:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        for path in vendor(Path(argv[1]), Path(argv[2]), argv[3:]):
            print(path)
    except VendorError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv))
