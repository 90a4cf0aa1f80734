# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an engine lacks, how it is brought, and that nothing else is taken for it."""

from __future__ import annotations

import hashlib

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _image_store as core
from ansible_collections.mcpstack.platform.plugins.module_utils._engine import Engine, EngineError
from ansible_collections.mcpstack.platform.plugins.module_utils._image_errors import ImageError

ID = "sha256:" + "1" * 64
OTHER = "sha256:" + "2" * 64
DIGEST = "registry.example/nginx@sha256:" + "3" * 64
WANTED = {"ref": "mcpstack/nginx:111111111111", "id": ID, "layers": ["sha256:aa", "sha256:bb"]}


def inspected(image_id, *layers):
    return {"Id": image_id, "RootFS": {"Layers": list(layers)}}


class FakeEngine:
    """Remembers what it was asked to do."""

    def __init__(self, images=None, loads=None, containers=(), busy=()):
        self.images = images or {}
        self.loads = loads or {}
        self.containers, self.busy = containers, busy
        self.calls = []

    def image(self, ref):
        return self.images.get(ref)

    def load_image(self, path):
        self.calls.append(("load", path))
        self.images.update(self.loads)

    def pull_image(self, ref):
        self.calls.append(("pull", ref))
        self.images.update(self.loads)

    def post(self, path, params):
        self.calls.append(("post", path, params))
        self.images[f"{params['repo']}:{params['tag']}"] = self.images[ID]

    def get(self, path, _params=None):
        if path == "/containers/json":
            return [{"ImageID": image_id} for image_id in self.containers]
        return [{"Id": image["Id"], "RepoTags": [ref]} for ref, image in self.images.items()]

    def delete(self, path):
        if path.removeprefix("/images/") in self.busy:
            raise EngineError("in use", 409)
        self.calls.append(("delete", path))


@pytest.mark.parametrize(
    ("found", "same"),
    [
        (None, False),
        (inspected(ID), True),  # graph driver: the id decides
        (inspected(OTHER, "sha256:aa", "sha256:bb"), True),  # containerd store: the layers decide
        (inspected(OTHER, "sha256:aa"), False),
        (inspected(OTHER), False),
        ({"Id": OTHER, "RootFS": None}, False),
    ],
)
def test_an_image_is_recognised_under_both_stores(found, same):
    assert core.is_same(found, WANTED) is same


def test_without_layers_an_empty_image_is_not_taken_for_the_wanted_one():
    assert core.is_same(inspected(OTHER), {"ref": "x", "id": ID, "layers": []}) is False


def test_a_host_without_an_engine_lacks_everything(tmp_path):
    assert core.absent(Engine(str(tmp_path / "none")), [WANTED]) == [WANTED]


def test_a_failing_engine_is_not_an_empty_one():
    class Failing(FakeEngine):
        def image(self, ref):
            raise EngineError("broken", 500)

    with pytest.raises(EngineError):
        core.absent(Failing(), [WANTED])


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "image.tar"
    path.write_bytes(b"archive")
    return {"archive": str(path), "archive_sha256": hashlib.sha256(b"archive").hexdigest()}


def test_an_absent_image_is_loaded(archive):
    engine = FakeEngine(loads={WANTED["ref"]: inspected(ID)})
    core.bring(engine, {**WANTED, **archive})
    assert engine.calls == [("load", archive["archive"])]


def test_an_image_that_only_lost_its_name_is_named_again(archive):
    engine = FakeEngine({ID: inspected(ID)})
    core.bring(engine, {**WANTED, **archive})
    assert engine.calls == [("post", f"/images/{ID}/tag", {"repo": "mcpstack/nginx", "tag": "111111111111"})]


@pytest.mark.parametrize(
    ("change", "loads", "message"),
    [
        (
            {"archive": ""},
            {},
            "mcpstack/nginx:111111111111: is absent and no archive of it is given; build the image first.",
        ),
        (
            {"archive_sha256": "0" * 64},
            {},
            "{archive}: the image archive is damaged (sha256 differs); run again, nothing was loaded.",
        ),
        (
            {"archive": "/nonexistent/a.tar"},
            {},
            "/nonexistent/a.tar: the image archive cannot be read (No such file or directory); build the image again.",
        ),
        (
            {},
            {WANTED["ref"]: inspected(OTHER, "sha256:cc")},
            f"mcpstack/nginx:111111111111: the engine holds {OTHER} after loading, not {ID}; remove that image and build "
            "it again.",
        ),
    ],
)
def test_what_cannot_be_verified_is_an_error(archive, change, loads, message):
    engine = FakeEngine(loads=loads)
    with pytest.raises(ImageError) as caught:
        core.bring(engine, {**WANTED, **archive, **change})
    assert str(caught.value) == message.format(archive=archive["archive"])
    assert engine.calls == ([("load", archive["archive"])] if loads else [])


def test_a_pinned_image_is_pulled():
    engine = FakeEngine(loads={DIGEST: inspected(OTHER)})
    core.bring(engine, {"ref": DIGEST, "pull": True})
    assert engine.calls == [("pull", DIGEST)]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            {"ref": "nginx:latest", "pull": True},
            "nginx:latest: an image is only pulled by digest; write it as NAME@sha256:DIGEST.",
        ),
        (
            {"ref": "mcpstack/nginx:unbuilt", "id": "", "layers": []},
            "mcpstack/nginx:unbuilt: neither id nor layers are given, so the image could not be verified; give them.",
        ),
    ],
)
def test_what_could_not_be_verified_is_refused_first(image, message):
    with pytest.raises(ImageError) as caught:
        core.check_wanted([image])
    assert str(caught.value) == message


def test_only_unused_tags_of_the_same_names_are_removed():
    engine = FakeEngine(
        {
            WANTED["ref"]: inspected(ID),
            "mcpstack/nginx:old": inspected("sha256:old"),
            "mcpstack/nginx:used": inspected("sha256:used"),
            "mcpstack/nginx:busy": inspected("sha256:busy"),
            "mcpstack/valkey:old": inspected("sha256:valkey"),
            "other/nginx:old": inspected("sha256:other"),
        },
        containers=["sha256:used"],
        busy=["mcpstack/nginx:busy"],
    )
    assert core.others(engine, [WANTED]) == ["mcpstack/nginx:busy", "mcpstack/nginx:old", "mcpstack/nginx:used"]
    tags = core.outdated(engine, [WANTED])
    assert tags == ["mcpstack/nginx:busy", "mcpstack/nginx:old"]
    assert core.prune(engine, tags) == ["mcpstack/nginx:old"]
    assert engine.calls == [("delete", "/images/mcpstack/nginx:old")]
