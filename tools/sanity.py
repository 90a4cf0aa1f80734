# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run ansible-test sanity on a copy of the collection (ansible-test refuses a checkout that is not below
ansible_collections/, and a link to one). The copy holds what Ansible loads; services, tools and tests are held to
stricter rules by ruff and mypy.

Its environments start from a pip that it would fetch from its own server; here pip comes from the package index like
everything else, pinned and hash-checked, so the tests also run where only a package index is reached. All it writes
stays below .cache/sanity.
"""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".cache" / "sanity"
COPY = WORK / "ansible_collections" / "mcpstack" / "platform"
BIN = Path(sys.executable).parent
PARTS = (
    "changelogs",
    "docs",
    "galaxy.yml",
    "LICENSE",
    "meta",
    "playbooks",
    "plugins",
    "README.md",
    "roles",
    "tests/config.yml",
    "tests/sanity",
)
STAND_IN = """\
# Stands in for get-pip.py: installs from the pip wheel beside it.
import os
import runpy
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, {wheel!r}))
wanted = [word for word in sys.argv[1:] if word not in ("--no-setuptools", "--no-wheel")]
sys.argv = ["pip", "install", "--find-links", HERE, *wanted]
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""


class SanityError(Exception):
    """A sentence for a person: what is wrong and what to do."""


def wanted_pip(source: str) -> str:
    """The pip version this ansible-test asks for, out of its own code."""
    match = re.search(r"""\bpip=['"]([\d.]+)['"]""", source)
    if not match:
        raise SanityError("This ansible-test does not say which pip it wants: tools/sanity.py must learn its new form.")
    return match[1]


def pip_configuration(listing: str) -> str:
    """`pip config list` as a configuration file: ansible-test hands no environment on to its pip."""
    parser = configparser.ConfigParser(interpolation=None)
    parser["global"] = {}
    for line in listing.splitlines():
        key, _, value = line.partition("=")
        name = key.strip().rpartition(".")[2]
        if name and value:
            parser["global"][name] = value.strip().strip("'\"").replace("\\n", " ")
    lines = [f"{name} = {value}" for name, value in parser["global"].items()]
    return "\n".join(["[global]", *lines, ""])


def copy_tree() -> None:
    """The tracked and the new files of the collection, nothing that git ignores."""
    shutil.rmtree(COPY, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z", "--", *PARTS],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        source = ROOT / name
        if source.is_file():
            target = COPY / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    # Without a repository of its own, the copy would be seen as an ignored folder of this one.
    for command in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *command], cwd=COPY, check=True)


def seed_pip(home: Path) -> None:
    """Put the pip bootstrap where ansible-test looks for it."""
    import ansible_test  # noqa: PLC0415

    source = Path(ansible_test.__file__).parent / "_internal" / "python_requirements.py"
    version = wanted_pip(source.read_text())
    cache = home / ".ansible" / "test" / "cache"
    script = cache / f"get_pip_{version.replace('.', '_')}.py"
    if not script.exists():
        cache.mkdir(parents=True, exist_ok=True)
        requirements = ROOT / "tools" / "requirements" / "sanity.txt"
        fetched = subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes", "-d", str(cache), "-r", str(requirements)],
            check=False, capture_output=True, text=True,
        )  # fmt: skip
        wheel = f"pip-{version}-py3-none-any.whl"
        if fetched.returncode or not (cache / wheel).exists():
            raise SanityError(
                f"pip {version}, which this ansible-test starts from, could not be fetched with the hashes in "
                f"tools/requirements/sanity.txt: {fetched.stderr.strip()}"
            )
        script.write_text(STAND_IN.format(wheel=wheel))
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], check=False, capture_output=True, text=True
    )
    config = home / ".config" / "pip" / "pip.conf"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(pip_configuration(listing.stdout))


def main(argv: list[str]) -> int:
    """Command line; arguments go to ansible-test sanity."""
    home = WORK / "home"
    try:
        copy_tree()
        seed_pip(home)
    except SanityError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    env = {**os.environ, "HOME": str(home), "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"}
    for name in ("ANSIBLE_CONFIG", "ANSIBLE_COLLECTIONS_PATH", "PYTHONPATH"):
        env.pop(name, None)
    command = [str(BIN / "ansible-test"), "sanity", "--local", "--python", python, "--color", "no", *argv]
    return subprocess.run(command, cwd=COPY, env=env, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
