# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is packed runs on a Python that knows nothing of Ansible or of this collection."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile

import pytest

from ansible_collections.mcpstack.platform.plugins.plugin_utils import _program as core


def test_the_closure_holds_what_is_imported_and_nothing_else():
    assert set(core.closure("_stack_applied")) == {"_stack_applied", "_engine", "_files", "_stack_project"}


@pytest.mark.parametrize(
    ("source", "names"),
    [
        (f"from {core.PACKAGE} import _a, _b as c", {"_a", "_b"}),
        (f"from {core.PACKAGE}._a import b", {"_a"}),
        (f"import {core.PACKAGE}._a", {"_a"}),
        (f"def later():\n    from {core.PACKAGE}._a import b", {"_a"}),
        ("from ._a import b", {"_a"}),
        ("import json\nfrom os import path\nfrom ansible.module_utils.basic import AnsibleModule", set()),
    ],
)
def test_every_form_of_import(source, names):
    assert core.imported(source) == names


def test_the_same_sources_give_the_same_bytes():
    assert core.pack("_secret_store") == core.pack("_secret_store")


def test_it_runs_alone(tmp_path):
    program = tmp_path / "program.pyz"
    program.write_bytes(core.pack("_secret_store"))
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(program)], capture_output=True, text=True, cwd="/", env={}, check=False
    )
    assert (done.returncode, done.stderr) == (2, "usage: secret_store.py publish\n")


def test_a_utility_that_is_not_there_is_named():
    with pytest.raises(core.ProgramError, match=r"/_nowhere\.py: cannot be read \(No such file or directory\)"):
        core.pack("_nowhere")


def test_names_in_the_archive():
    with zipfile.ZipFile(io.BytesIO(core.pack("_files"))) as archive:
        names = archive.namelist()
    assert names == sorted(names) and "__main__.py" in names
    assert [os.path.basename(name) for name in names if "module_utils/_" in name] == ["__init__.py", "_files.py"]
