# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Collections out of a wheel: complete, re-signed, reproducible; a damaged wheel is refused."""

from __future__ import annotations

import hashlib
import json
import tarfile
import zipfile

import pytest
import vendor_collections as core


def entry(name, content=None):
    if content is None:
        return {"name": name, "ftype": "dir", "chksum_type": None, "chksum_sha256": None, "format": 1}
    digest = hashlib.sha256(content).hexdigest()
    return {"name": name, "ftype": "file", "chksum_type": "sha256", "chksum_sha256": digest, "format": 1}


@pytest.fixture
def wheel(tmp_path):
    def make(shipped=b"answer: 42\n"):
        prefix = "ansible_collections/some/thing/"
        listed = {"plugins/modules/x.py": b"answer: 42\n", "README.md": b"read\n", "tests/left_out.py": b"gone\n"}
        folders = [".", "plugins", "plugins/modules", "tests"]
        files = {"files": [entry(name) for name in folders] + [entry(*item) for item in listed.items()], "format": 1}
        info = {"namespace": "some", "name": "thing", "version": "1.2.3"}
        manifest = {"collection_info": info, "file_manifest_file": {"chksum_sha256": "stale"}, "format": 1}
        path = tmp_path / "bundle.whl"
        with zipfile.ZipFile(path, "w") as out:
            out.writestr(prefix + "MANIFEST.json", json.dumps(manifest))
            out.writestr(prefix + "FILES.json", json.dumps(files))
            out.writestr(prefix + "plugins/modules/x.py", shipped)
            out.writestr(prefix + "README.md", b"read\n")
        return path

    return make


def test_the_tarball_holds_what_the_wheel_holds_and_lists_no_more(wheel, tmp_path):
    (path,) = core.vendor(wheel(), tmp_path / "out", ["some.thing"])
    assert path.name == "some-thing-1.2.3.tar.gz"
    with tarfile.open(path) as tar:
        names = tar.getnames()
        listing = tar.extractfile("FILES.json").read()
        manifest = json.load(tar.extractfile("MANIFEST.json"))
    assert names == ["plugins", "plugins/modules", "FILES.json", "MANIFEST.json", "README.md", "plugins/modules/x.py"]
    assert [item["name"] for item in json.loads(listing)["files"]] == [
        ".", "plugins", "plugins/modules", "plugins/modules/x.py", "README.md"
    ]  # fmt: skip
    assert manifest["file_manifest_file"]["chksum_sha256"] == hashlib.sha256(listing).hexdigest()
    assert "name: some-thing-1.2.3.tar.gz" in (tmp_path / "out" / "requirements.yml").read_text()


def test_the_same_wheel_gives_the_same_bytes(wheel, tmp_path):
    path = wheel()
    (first,) = core.vendor(path, tmp_path / "a", ["some.thing"])
    (second,) = core.vendor(path, tmp_path / "b", ["some.thing"])
    assert first.read_bytes() == second.read_bytes()


def test_a_changed_file_is_refused(wheel, tmp_path):
    with pytest.raises(core.VendorError) as caught:
        core.vendor(wheel(b"tampered\n"), tmp_path / "out", ["some.thing"])
    assert str(caught.value) == (
        "some.thing: plugins/modules/x.py in the wheel differs from its own checksum list; the wheel is damaged."
    )


def test_an_unknown_collection_is_refused(wheel, tmp_path):
    with pytest.raises(core.VendorError, match="The wheel holds no collection no.such: check the name"):
        core.vendor(wheel(), tmp_path / "out", ["no.such"])


def test_a_file_that_is_no_wheel_is_refused(tmp_path):
    (tmp_path / "x.whl").write_text("no zip")
    with pytest.raises(core.VendorError, match="cannot be read as a wheel"):
        core.vendor(tmp_path / "x.whl", tmp_path / "out", ["some.thing"])
