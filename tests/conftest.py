# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make this checkout importable as ansible_collections.mcpstack.platform, the way Ansible itself does it."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

from ansible.plugins.loader import init_plugin_loader

ROOT = Path(__file__).resolve().parent.parent
LINK = ROOT / ".cache" / "self" / "ansible_collections" / "mcpstack" / "platform"


def pytest_configure() -> None:
    """Before anything is collected: link the checkout and switch Ansible's collection loader on."""
    if not (LINK.is_symlink() and LINK.resolve() == ROOT):
        LINK.parent.mkdir(parents=True, exist_ok=True)
        LINK.unlink(missing_ok=True)
        LINK.symlink_to(ROOT)
    # tests that start a Python of their own hand on sys.path or the environment
    collections = str(ROOT / ".cache" / "self")
    sys.path.insert(0, collections)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [collections, os.environ.get("PYTHONPATH")]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        init_plugin_loader([str(ROOT / ".cache" / "self"), str(ROOT / ".cache" / "collections")])
