# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Search a host for its own secrets where they must not be. Runs on the host, as root; prints places, never values.

    python3 leaks.py [FILE...]      FILE: what to search besides, for example the output of ansible-playbook -vvv --diff

Looks for every published value, raw, in base64 at all three offsets, in hexadecimal and URL-encoded, in the journal, the
command lines and environments of all processes, what the engine says of its containers, and below /etc, /root, /var/log,
/usr/local and the writable layers of containers. First it plants a value and must find it; ends with 1 if anything is found.
"""

from __future__ import annotations

import base64
import glob
import os
import shutil
import subprocess
import sys
import urllib.parse

PUBLISHED = "/run/mcpstack/secrets/*/*/v*"
FOLDERS = ("/etc", "/root", "/var/log", "/var/tmp", "/usr/local", "/var/lib/mcpstack")
LAYERS = "/var/lib/docker/overlay2/*/diff"
LARGEST = 32 << 20
SHORTEST = 20


def forms(value: bytes) -> set[bytes]:
    """Everything that a value may look like."""
    found = {value, value.hex().encode(), value.hex().upper().encode(), urllib.parse.quote(value, safe="").encode()}
    for shift in range(3):
        text = base64.b64encode(b"\0" * shift + value)
        found.add(text[4 if shift else 0 : len(text) - 4])
    return {form for form in found if len(form) >= SHORTEST}


def parts(value: bytes) -> list[bytes]:
    """A secret and the pieces of it that are secret by themselves."""
    pieces = [value, *value.split(b":"), *value.split(b"_"), *value.split(b"\n")]
    return [piece for piece in pieces if len(piece) >= SHORTEST]


def read(path: str) -> bytes:
    """A file, or nothing if it went away or is no file."""
    try:
        if os.path.isfile(path) and not os.path.islink(path) and os.path.getsize(path) <= LARGEST:
            with open(path, "rb") as handle:
                return handle.read()
    except OSError:
        pass
    return b""


def output(*command: str) -> bytes:
    """What a program says; nothing where it is not installed."""
    if shutil.which(command[0]) is None:
        return b""
    return subprocess.run(command, capture_output=True, check=False).stdout


def haystacks(files: list[str]):
    """Every place with what is in it, one after the other."""
    for path in files:
        with open(path, "rb") as handle:
            yield path, handle.read()
    yield "the journal", output("journalctl", "--no-pager", "--all", "--output=export")
    for path in glob.glob("/proc/[0-9]*/cmdline") + glob.glob("/proc/[0-9]*/environ"):
        try:
            with open(path, "rb") as handle:
                yield path, handle.read()
        except OSError:
            continue
    containers = output("docker", "ps", "--all", "--quiet").decode().split()
    for container in containers:
        yield f"docker inspect {container}", output("docker", "inspect", container)
        yield f"docker logs {container}", output("docker", "logs", container)
    for root in [*FOLDERS, *glob.glob(LAYERS)]:
        for folder, _folders, names in os.walk(root):
            for name in names:
                path = os.path.join(folder, name)
                yield path, read(path)


def main(files: list[str]) -> int:
    """Search."""
    values = {path: read(path) for path in glob.glob(PUBLISHED)}
    if not values:
        print("there is no published secret; nothing was proved", file=sys.stderr)
        return 2
    needles = {form: path for path, value in values.items() for part in parts(value) for form in forms(part)}
    sample = next(iter(values.values()))
    for shift in range(3):
        planted = base64.b64encode(b"x" * shift + sample)
        if not any(needle in planted for needle in needles):
            print("the search does not find what was planted", file=sys.stderr)
            return 2
    hits = places = searched = 0
    for place, text in haystacks(files):
        places, searched = places + 1, searched + len(text)
        for path in {path for needle, path in needles.items() if needle in text}:
            hits += 1
            print(f"{path} is in {place}")
    print(f"{len(values)} values, {places} places, {searched} bytes, {hits} hits")
    return 1 if hits else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
