# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Remove the test hosts of this checkout and the test-host images no other checkout uses (part of `make clean`)."""

from __future__ import annotations

import shutil
import subprocess
import sys

import testhost


def main() -> int:
    """Nothing to do where there is no engine."""
    if not shutil.which("docker") or subprocess.run(["docker", "info"], check=False, capture_output=True).returncode:
        return 0
    try:
        mine = [name for name, _status in testhost.listed() if (testhost.HOSTS / name).is_dir()]
        if mine:
            testhost.playbook("down.yml", {"testhost_names": mine}, verbose=False)
            print(f"removed {', '.join(mine)}")
        testhost.purge(None)
    except testhost.HostError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
