# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Renew tools/requirements/*.txt: hashes of every file for every supported Python, and no index host in them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from bootstrap import REQUIREMENTS, ROOT, uv_environment

OPTIONS = "--universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url --upgrade --quiet".split()
LOCKS = {
    "controller.txt": ["tools/requirements/controller.in"],
    "uv.txt": ["tools/requirements/uv.in"],
    "sanity.txt": ["--unsafe-package", "none", "tools/requirements/sanity.in"],
    "peers.txt": ["tools/requirements/peers.in"],
    "litellm.txt": ["tools/requirements/litellm.in"],
    "services.txt": ["-c", "services/requirements.lock", "services/requirements.in", "services/requirements-test.in"],
}


def main() -> int:
    """Compile every lock; stop at the first that cannot be."""
    python = Path(sys.executable)
    listing = subprocess.run([python, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True).stdout
    env = {**os.environ, **uv_environment(listing, os.environ)}
    for name, sources in LOCKS.items():
        target = REQUIREMENTS / name
        command = [
            str(python.parent / "uv"),
            "pip",
            "compile",
            *OPTIONS,
            "--index-strategy=unsafe-best-match",
            *sources,
            "-o",
            str(target),
        ]
        if subprocess.run(command, check=False, cwd=ROOT, env=env, stdout=subprocess.DEVNULL).returncode:
            print(f"error: {name} could not be compiled, see above.", file=sys.stderr)
            return 1
        print(f"wrote {target.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
