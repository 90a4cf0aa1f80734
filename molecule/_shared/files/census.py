# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is on a host: files, accounts, units, listeners, networks. Without arguments it prints the list; with two lists it
fails when the second holds more than the first, apart from what Debian itself leaves behind.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

SKIP = {
    "/proc",
    "/sys",
    "/dev",
    "/tmp",  # noqa: S108
    "/run",
    "/var/lib/apt",
    "/var/cache",
    "/var/log/journal",
    "/var/lib/systemd/timers",
}
# Left by Debian's packages and by the deployment's way in, not by the platform; each with its reason.
ALLOWED = [
    r"file:/root/\.ansible(/.*)?$",  # ansible's own temporary directory
    r"file:/var/log/(apt|dpkg\.log|alternatives\.log|lastlog|wtmp|btmp|wtmp\.db)(/.*)?$",  # package and login logs
    r"file:/var/lib/(dpkg|systemd|ucf|apt|python|dbus|private|wtmpdb)(/.*)?$",  # the package manager's and systemd's books
    r"file:/(usr|etc)/.*/__pycache__(/.*)?$",
    r"file:/etc/(ld\.so\.cache|\.pwd\.lock|(passwd|group|shadow|gshadow|subuid|subgid)-)$",
    r"file:/etc/systemd/system/[^/]+\.(wants|requires)$",
]


def tree() -> set[str]:
    """Every path on the root file system that no package brought along."""
    found = set()
    for folder, folders, files in os.walk("/"):
        folders[:] = [name for name in folders if os.path.join(folder, name) not in SKIP]
        for name in [*files, *folders]:
            found.add(os.path.join(folder, name))
    packaged = set()
    info = "/var/lib/dpkg/info"
    for name in os.listdir(info):
        if name.endswith(".list"):
            with open(os.path.join(info, name)) as listing:
                packaged |= {line.strip() for line in listing}
    alias = tuple(f"/{part}/" for part in ("bin", "sbin", "lib", "lib64"))
    packaged |= {f"/usr{path}" for path in packaged if path.startswith(alias)}
    return found - packaged


def lines(*argv: str) -> list[str]:
    """Lines a command prints; none when it is not there."""
    try:
        return subprocess.run(argv, check=False, capture_output=True, text=True).stdout.splitlines()
    except FileNotFoundError:
        return []


def census() -> list[str]:
    """Everything that could be left behind, one word each."""
    found = {f"file:{path}" for path in tree()}
    for kind in ("passwd", "group"):
        with open(f"/etc/{kind}") as table:
            found |= {f"{kind}:{line.split(':')[0]}" for line in table}
    found |= {
        f"unit:{line.split()[0]}" for line in lines("systemctl", "list-unit-files", "--no-legend", "--plain") if line
    }
    found |= {
        f"loaded:{line.split()[0]}"
        for line in lines("systemctl", "list-units", "--all", "--no-legend", "--plain", "mcpstack*")
        if line
    }
    found |= {f"link:{line.split(':')[1].strip().split('@')[0]}" for line in lines("ip", "-o", "link")}
    found |= {f"listen:{line.split()[3]}" for line in lines("ss", "-Hltn")}
    found |= {
        f"mount:{line.split()[1]}"
        for line in open("/proc/mounts")
        if not line.split()[1].startswith(("/proc", "/sys", "/dev", "/run/user"))
    }
    for kind in ("container", "volume", "network", "image"):
        rows = lines(
            "docker",
            kind,
            "ls",
            *(["-a"] if kind == "container" else []),
            "--format",
            "{{.ID}}" if kind in ("container", "image") else "{{.Name}}",
        )
        found |= {f"docker-{kind}:{row}" for row in rows if row not in ("bridge", "host", "none")}
    if os.path.isdir("/run/mcpstack"):
        found.add("file:/run/mcpstack")
    return sorted(found)


def leftovers(before: list[str], after: list[str]) -> list[str]:
    """What is new and not Debian's own; a packaged unit or account without a file of ours is Debian's."""
    allowed = [re.compile(pattern) for pattern in ALLOWED]
    return [word for word in sorted(set(after) - set(before)) if not any(pattern.match(word) for pattern in allowed)]


def main(argv: list[str]) -> int:
    """Command line."""
    if len(argv) == 1:
        print(json.dumps(census()))
        return 0
    with open(argv[1]) as first, open(argv[2]) as second:
        left = leftovers(json.load(first), json.load(second))
    if left:
        print(f"{len(left)} things are left on the host after uninstall:", *left[:100], sep="\n  ")
        return 1
    print("nothing is left")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
