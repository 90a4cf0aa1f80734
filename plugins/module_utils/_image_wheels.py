# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Python wheels and byte code for an image. PRIVATE, may change at any time.

Wheels are fetched by pip of the build host (with whatever index it is configured for) against a hashed requirements
file, and unpacked here. Byte code is compiled by the image's own interpreter, run from its unpacked tree through its
own loader: no container engine, no root, and the same bytes whatever Python the build host has.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile

from ._image_archive import write_atomically
from ._image_deb import Entry, Tree, matcher
from ._image_elf import without_symbols
from ._image_errors import ImageError

#: What a wheel carries that no program needs at run time.
WHEEL_EXCLUDES = [
    "*/tests/*", "*/testing/data/*", "*/__pycache__/*", "*.pyc", "*.pyi", "*.pyx", "*.pxd", "*.c", "*.h", "*.cpp",
    "*-stubs/*", "*.dist-info/RECORD", "*.dist-info/INSTALLER", "*.dist-info/REQUESTED",
]  # fmt: skip

_COMPILE = """
import importlib.util, os, sys
from importlib._bootstrap_external import _code_to_hash_pyc
root = sys.argv[1]
for path in sys.stdin.read().split("\\n"):
    with open(root + "/" + path, "rb") as handle:
        source = handle.read()
    try:
        code = compile(source, "/" + path, "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError):
        continue
    folder, name = os.path.split(root + "/" + path)
    os.makedirs(folder + "/__pycache__", exist_ok=True)
    with open(folder + "/__pycache__/" + name[:-3] + "." + sys.implementation.cache_tag + ".pyc", "wb") as handle:
        handle.write(_code_to_hash_pyc(code, importlib.util.source_hash(source), False))
"""
#: Byte code depends on what the compiling process compiled before, so the split is fixed and not the host's choice.
_WORKERS = 2


def parse_requirements(text: str) -> list[dict]:
    """Pinned and hashed requirements; anything else is refused."""
    found = []
    for line in re.sub(r"\\\n", " ", text).splitlines():
        line = re.sub(r"(^|\s)#.*", "", line).strip()
        if not line:
            continue
        match = re.match(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;]+)", line)
        hashes = re.findall(r"--hash=sha256:([0-9a-f]{64})", line)
        if not match or not hashes:
            raise ImageError(
                f"requirements.lock: '{line[:60]}' is not a pinned requirement with sha256 hashes; "
                "write the file with uv pip compile --generate-hashes."
            )
        found.append({"name": re.sub(r"[-_.]+", "-", match[1]).lower(), "version": match[2], "hashes": hashes})
    return found


def _pip() -> list[list[str]]:
    found = [[sys.executable, "-m", "pip"]] if sys.executable else []
    for name in ("pip3", "uv"):
        path = shutil.which(name)
        if path:
            found.append([path] if name == "pip3" else [path, "tool", "run", "pip"])
    return found


def _download(requirements: str, python: str, folder: str) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".txt", dir=folder) as handle:
        handle.write(requirements)
        handle.flush()
        platforms = [f"manylinux_2_{minor}_x86_64" for minor in range(41, 4, -1)]
        platforms += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]
        arguments = ["download", "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
        arguments += ["--implementation", "cp", "--python-version", python, "--dest", folder]
        for abi in ("cp" + python.replace(".", ""), "abi3", "none"):
            arguments += ["--abi", abi]
        for platform in platforms:
            arguments += ["--platform", platform]
        for pip in _pip():
            probe = subprocess.run([*pip, "--version"], capture_output=True, check=False)  # noqa: S603
            if probe.returncode != 0:
                continue
            done = subprocess.run(  # noqa: S603
                [*pip, *arguments, "-r", handle.name], capture_output=True, text=True, check=False, errors="replace"
            )
            if done.returncode != 0:
                reason = [line for line in done.stderr.splitlines() if line.strip() and "notice" not in line]
                raise ImageError(
                    "The Python packages of the services image cannot be fetched with pip of the build host "
                    f"({re.sub(r'//[^/@ ]*@', '//', reason[-1]) if reason else 'no reason given'}); check its package "
                    "index (pip config list) and run again."
                )
            return
    raise ImageError(
        f"The Python packages of the services image cannot be fetched: {sys.executable} has no pip, and neither pip3 "
        "nor uv is installed on the build host; install one of them (Debian and Ubuntu: apt-get install python3-pip)."
    )


def collect(requirements: str, python: str, cache_dir: str) -> list[dict]:
    """All wheels of a requirements file, from the cache or through pip; each is checked against the file's hashes."""
    pins = parse_requirements(requirements)
    key = hashlib.sha256(json.dumps([pins, python]).encode()).hexdigest()
    folder = os.path.join(cache_dir, "wheels")
    listing = os.path.join(folder, key[:32] + ".json")
    try:
        with open(listing, encoding="utf-8") as handle:
            wheels = json.load(handle)
        if all(os.path.exists(os.path.join(folder, wheel["sha256"] + ".whl")) for wheel in wheels):
            return wheels
    except (OSError, ValueError):
        pass
    os.makedirs(folder, exist_ok=True)
    allowed = {(pin["name"], value): pin for pin in pins for value in pin["hashes"]}
    wheels = []
    with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as scratch:
        _download(requirements, python, scratch)
        for name in sorted(os.listdir(scratch)):
            if not name.endswith(".whl"):
                continue
            with open(os.path.join(scratch, name), "rb") as handle:
                data = handle.read()
            digest = hashlib.sha256(data).hexdigest()
            pin = allowed.get((re.sub(r"[-_.]+", "-", name.split("-")[0]).lower(), digest))
            if pin is None:
                raise ImageError(
                    f"{name}: its sha256 is not in requirements.lock; the package index is not to be trusted."
                )
            write_atomically(os.path.join(folder, digest + ".whl"), data)
            wheels.append({"name": pin["name"], "version": pin["version"], "file": name, "sha256": digest})
    absent = {pin["name"] for pin in pins} - {wheel["name"] for wheel in wheels}
    if absent:
        raise ImageError(f"pip fetched nothing for {', '.join(sorted(absent))}; check requirements.lock.")
    write_atomically(listing, json.dumps(wheels, indent=1).encode())
    return wheels


def unpack(wheels: list[dict], cache_dir: str, target: str, excludes: list[str], symbols: bool = True) -> Tree:
    """Unpack wheels below a directory of the image; without symbols, libraries lose what only a debugger reads."""
    tree: Tree = {}
    excluded = matcher(WHEEL_EXCLUDES + excludes)
    for wheel in wheels:
        path = os.path.join(cache_dir, "wheels", wheel["sha256"] + ".whl")
        with open(path, "rb") as handle:
            if hashlib.sha256(handle.read()).hexdigest() != wheel["sha256"]:
                os.unlink(path)
                raise ImageError(f"{path}: {wheel['file']} was damaged in the cache and has been removed; run again.")
        with zipfile.ZipFile(path) as archive:
            for item in archive.infolist():
                name = item.filename
                data_dir = re.match(r"[^/]+\.data/([^/]+)/(.*)", name)
                if data_dir:
                    if data_dir[1] not in ("purelib", "platlib"):
                        continue
                    name = data_dir[2]
                name = posixpath.normpath(name)
                if item.is_dir() or excluded(name):
                    continue
                if name.startswith(("../", "/")):
                    raise ImageError(
                        f"{wheel['file']}: holds {item.filename}, which leaves its directory; do not use it."
                    )
                data = archive.read(item)
                if not symbols and re.search(r"\.so(\.[0-9.]+)?\Z", name):
                    data = without_symbols(data)
                tree[f"{target}/{name}"] = Entry(0o644, data)
    return tree


def compile_tree(tree: Tree, folders: list[str], python: str, triplet: str, cache_dir: str) -> Tree:
    """Byte code (unchecked-hash) for all sources below some folders, made by the interpreter in the tree itself."""
    prefixes = tuple(folder + "/" for folder in folders)
    sources = sorted(p for p, e in tree.items() if e.data is not None and p.endswith(".py") and p.startswith(prefixes))
    os.makedirs(cache_dir, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_dir, prefix=".compile-") as root:
        for path, entry in tree.items():
            inside = path.startswith((f"usr/lib/{triplet}/", f"usr/lib/python{python}/", "usr/lib64/"))
            if entry.is_dir or not (inside or path in sources or path == f"usr/bin/python{python}"):
                continue
            place = os.path.join(root, path)
            os.makedirs(os.path.dirname(place), exist_ok=True)
            if entry.link is not None:
                link = entry.link
                if link.startswith("/"):
                    link = os.path.relpath(root + link, os.path.dirname(place))
                os.symlink(link, place)
            else:
                with open(place, "wb") as handle:
                    handle.write(entry.data)
                os.chmod(place, 0o755)
        loader = next(p for p in sorted(tree) if re.match(rf"usr/lib/{triplet}/ld-linux-.*\.so\.\d+$", p))
        command = [os.path.join(root, loader), "--library-path", os.path.join(root, "usr/lib", triplet)]
        command += [os.path.join(root, f"usr/bin/python{python}"), "-S", "-s", "-B", "-c", _COMPILE, root]
        environment = {"PYTHONHOME": os.path.join(root, "usr"), "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}
        try:
            workers = []
            for number in range(_WORKERS):
                with tempfile.TemporaryFile() as names:
                    names.write("\n".join(sources[number::_WORKERS]).encode())
                    names.seek(0)
                    workers.append(
                        subprocess.Popen(  # noqa: S603
                            command, stdin=names, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
                        )
                    )
            outputs = [worker.communicate()[0].decode(errors="replace") for worker in workers]
        except OSError as exc:
            raise ImageError(
                f"The image's own Python cannot run on the build host ({exc.strerror}); use an x86_64 Linux build host "
                f"and a cache directory that is not mounted noexec ({cache_dir})."
            ) from exc
        if any(worker.returncode for worker in workers):
            raise ImageError(
                "The byte code of the services image cannot be compiled on the build host "
                f"({' '.join(outputs).strip().splitlines()[-1:]}); use an x86_64 Linux build host."
            )
        compiled: Tree = {}
        for path in sources:
            folder, name = posixpath.split(path)
            pyc = f"{folder}/__pycache__/{name[:-3]}.cpython-{python.replace('.', '')}.pyc"
            try:
                with open(os.path.join(root, pyc), "rb") as handle:
                    compiled[pyc] = Entry(0o644, handle.read())
            except FileNotFoundError:
                continue  # a template or a sample that is no Python of this version
        return compiled
