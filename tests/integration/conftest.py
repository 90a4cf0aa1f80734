# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The images of this checkout, built and in the engine before the first test looks for one, and gone again afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = str(ROOT / ".cache" / "images")
LOADED: list[str] = []


def docker(*argv: str) -> subprocess.CompletedProcess:
    return subprocess.run(["docker", *argv], check=False, capture_output=True, text=True)


def pytest_sessionstart() -> None:
    """Name the image to test in MCPSTACK_TEST_<KEY>_IMAGE, for whatever the environment does not name already."""
    os.environ.setdefault("MCPSTACK_IMAGES_CACHE", CACHE)
    build = [sys.executable, "tools/images.py", "build", "--cache-dir", os.environ["MCPSTACK_IMAGES_CACHE"]]
    built = subprocess.run(build, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    for image in json.loads(built):
        if docker("image", "inspect", image["ref"]).returncode:
            done = docker("load", "--input", image["archive"])
            assert done.returncode == 0, f"{image['ref']} cannot be loaded: {done.stderr}"
            LOADED.append(image["ref"])
        os.environ.setdefault(f"MCPSTACK_TEST_{image['name'].upper().replace('-', '_')}_IMAGE", image["ref"])


def pytest_sessionfinish() -> None:
    """Leave the engine as it was."""
    for ref in LOADED:
        docker("rmi", ref)
