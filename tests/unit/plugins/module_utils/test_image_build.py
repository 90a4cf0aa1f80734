# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Unpacking, library closure, layers, specifications, locks and whole builds, from packages made here."""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import io
import json
import os
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

from ansible_collections.mcpstack.platform.plugins.module_utils import _image_archive as archive_core
from ansible_collections.mcpstack.platform.plugins.module_utils import _image_build as core
from ansible_collections.mcpstack.platform.plugins.module_utils import _image_deb as deb_core
from ansible_collections.mcpstack.platform.plugins.module_utils import _image_elf as elf_core
from ansible_collections.mcpstack.platform.plugins.module_utils import _image_inputs as inputs
from ansible_collections.mcpstack.platform.plugins.module_utils import _image_layer as layer_core
from ansible_collections.mcpstack.platform.plugins.module_utils import _image_wheels as wheels_core
from ansible_collections.mcpstack.platform.plugins.module_utils._image_deb import Entry
from ansible_collections.mcpstack.platform.plugins.module_utils._image_errors import ImageError

_spec = importlib.util.spec_from_file_location(
    "image_archive_fixture", Path(__file__).with_name("image_archive_fixture.py")
)
fixture = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fixture)

SPECS_DIR = Path(__file__).resolve().parents[4] / "roles" / "images" / "specs"
LOADER = "/lib64/ld-linux-x86-64.so.2"


def nothing(_path):
    return False


# -- packages -----------------------------------------------------------------------------------------------------


def test_a_package_is_unpacked_into_the_merged_tree():
    data, _control = fixture.deb(
        "a",
        {
            "bin": None,
            "bin/tool": (0o104755, b"tool"),
            "lib/x86_64-linux-gnu/liba.so.1": "->liba.so.1.2",
            "usr/share/twin": (0o666, b"same"),
            "usr/share/other": "=usr/share/twin",
            "usr/share/man/a.1": b"long",
        },
    )
    package = deb_core.unpack(data, "a.deb", deb_core.matcher(["usr/share/man/*"]))
    assert {path: (entry.mode, entry.data, entry.link) for path, entry in package.tree.items()} == {
        "usr/bin": (0o755, None, None),
        "usr/bin/tool": (0o755, b"tool", None),  # no set-id bit
        "usr/lib/x86_64-linux-gnu/liba.so.1": (0o777, None, "liba.so.1.2"),
        "usr/share/twin": (0o664, b"same", None),  # not writable for others
        "usr/share/other": (0o644, b"same", None),
    }
    assert package.newest == 1700000000


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"hello", "x.deb: not a Debian package; remove it from the cache and run again."),
        (
            fixture.ar({"debian-binary": b"2.0\n", "control.tar": b"12345"})[:-3],
            "x.deb: the package is cut off or damaged; remove it from the cache and run again.",
        ),
        (
            fixture.ar({"debian-binary": b"2.0\n"}),
            "x.deb: the package has no control.tar; remove it from the cache and run again.",
        ),
        (
            fixture.deb("a", {"dev/null": (0o20644, b"")})[0],
            "x.deb: holds ./dev/null, which no image may have; drop the package.",
        ),
        (
            fixture.deb("a", {"../etc/passwd": b"x"})[0],
            "x.deb: holds ./../etc/passwd, which no image may have; drop the package.",
        ),
    ],
)
def test_what_is_no_decent_package_is_refused(data, message):
    with pytest.raises(ImageError) as caught:
        deb_core.unpack(data, "x.deb", nothing)
    assert str(caught.value) == message


def test_the_dpkg_database_lists_what_is_there_and_only_that():
    files = {"usr/bin/a": b"1", "usr/share/man/a.1": b"2"}
    data, _control = fixture.deb("a", files, **{"Multi-Arch": "same"})
    package = deb_core.unpack(data, "a.deb", deb_core.matcher(["usr/share/man/*"]))
    tree = deb_core.dpkg_database([package])
    assert tree["var/lib/dpkg/status"].data.startswith(b"Package: a\nStatus: install ok installed\nVersion: 1.0\n")
    assert tree["var/lib/dpkg/info/a:amd64.list"].data == b"/.\n/usr/bin/a\n"
    assert tree["var/lib/dpkg/info/a:amd64.md5sums"].data.decode().split() == [
        hashlib.md5(b"1").hexdigest(),  # noqa: S324
        "usr/bin/a",
    ]


# -- libraries ----------------------------------------------------------------------------------------------------


def files(**paths):
    return {
        path: Entry(0o755, data) if isinstance(data, bytes) else Entry(0o777, link=data) for path, data in paths.items()
    }


LIB = "usr/lib/x86_64-linux-gnu/"


@pytest.mark.parametrize(
    ("tree", "missing"),
    [
        ({"usr/bin/a": fixture.elf(["libx.so.1"])}, ["/usr/bin/a needs libx.so.1"]),
        ({"usr/bin/a": fixture.elf(["libx.so.1"]), LIB + "libx.so.1": fixture.elf()}, []),
        (
            {
                "usr/bin/a": fixture.elf(["libx.so.1"]),
                LIB + "libx.so.1": "libx.so.1.5",
                LIB + "libx.so.1.5": fixture.elf(),
            },
            [],
        ),
        ({"usr/bin/a": fixture.elf(["libx.so.1"]), LIB + "libx.so.1": "libx.so.1.5"}, ["/usr/bin/a needs libx.so.1"]),
        (
            {"usr/bin/a": fixture.elf(["libx.so.1"]), LIB + "libx.so.1": fixture.elf(["liby.so"])},
            ["/usr/lib/x86_64-linux-gnu/libx.so.1 needs liby.so"],
        ),
        ({"opt/a": fixture.elf(["libx.so"], runpath="$ORIGIN/lib:/other"), "opt/lib/libx.so": fixture.elf()}, []),
        ({"opt/a": fixture.elf(["libx.so"], runpath="${ORIGIN}/../x"), "x/libx.so": fixture.elf()}, []),
        ({"opt/a": fixture.elf(["libx.so"], runpath="/link"), "link": "/real", "real/libx.so": fixture.elf()}, []),
        ({"usr/bin/a": fixture.elf(interpreter=LOADER)}, [f"/usr/bin/a needs {LOADER}"]),
        ({"usr/bin/a": fixture.elf(interpreter=LOADER), "usr/lib64/ld-linux-x86-64.so.2": fixture.elf()}, []),
        ({"usr/bin/a": b"#!/bin/sh\n", "x": b"\x7fELF\x02\x01 nonsense"}, []),
        ({"loop/a": "b", "loop/b": "a", "usr/bin/a": fixture.elf(["a"], runpath="/loop")}, ["/usr/bin/a needs a"]),
    ],
)
def test_missing_libraries_are_found(tree, missing):
    assert elf_core.missing_libraries(files(**tree)) == missing


# -- layers -------------------------------------------------------------------------------------------------------

TREE = {
    "b/c": Entry(0o644, b"data", uid=7, gid=8),
    "a": Entry(0o777, link="b/c"),
    "b": Entry(0o750),
    "b-1": Entry(0o644, b""),
    "x" * 120 + "/" + "y" * 120: Entry(0o644, "ü".encode()),
}


#: The same for every Python; a new value means that every image id changes: raise BUILDER with it.
LAYER = "30899ca8bf592d9c205809b4fe41398d0e6d39c7eff05059491a8dcc41446df5"


def test_a_layer_is_the_same_bytes_whatever_the_order():
    first, second = io.BytesIO(), io.BytesIO()
    tree = layer_core.with_parents(TREE)
    backwards = layer_core.with_parents(dict(reversed(TREE.items())))
    assert layer_core.write_layer(first, tree, 1700000000) == layer_core.write_layer(second, backwards, 1700000000)
    assert first.getvalue() == second.getvalue()
    assert hashlib.sha256(first.getvalue()).hexdigest() == LAYER
    with tarfile.open(fileobj=io.BytesIO(first.getvalue())) as tar:
        items = tar.getmembers()
    assert [item.name for item in items] == ["a", "b", "b/c", "b-1", "x" * 120, "x" * 120 + "/" + "y" * 120]
    assert {item.mtime for item in items} == {1700000000}
    assert (items[2].uid, items[2].gid, items[2].uname, items[2].mode) == (7, 8, "", 0o644)


def test_a_file_below_a_file_is_refused():
    with pytest.raises(ImageError, match="^/a/b: lies below something that is not a directory"):
        layer_core.with_parents({"a": Entry(0o644, b""), "a/b": Entry(0o644, b"")})


def test_an_archive_is_whole_or_absent(tmp_path, monkeypatch):
    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(layer_core.os, "fsync", full)
    with pytest.raises(ImageError, match=r"cannot be written \(No space left on device\); free some space"):
        layer_core.write_archive(str(tmp_path), "n", "mcpstack/n", [(layer_core.with_parents(TREE), 1)], {}, "amd64")
    assert list(tmp_path.iterdir()) == []


# -- specifications -----------------------------------------------------------------------------------------------

SUITES = [{"name": "trixie", "archive": "main", "valid_until": "fail"}]
SPEC = {
    "suites": SUITES,
    "packages": ["app"],
    "users": [{"name": "app", "id": 64200}],
    "directories": [{"path": "/data", "owner": "app", "mode": "0700"}],
    "config": {"user": "64200:64200", "entrypoint": ["/usr/bin/app"], "health": {"command": ["/x"], "interval": "5s"}},
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"surprise": 1}, "n.yml: surprise is no key of a specification; known are config, description,"),
        ({"packages": "nginx"}, "n.yml: packages must be a list; correct it."),
        ({"packages": []}, "n.yml: packages is missing; add it."),
        (
            {"suites": [{"name": "trixie", "archive": "main"}]},
            "n.yml: every suite needs name, archive (main or security) and valid_until (fail, warn or ignore).",
        ),
        (
            {"suites": [{**SUITES[0], "valid_until": "ignore"}]},
            "n.yml: suite trixie has valid_until ignore without a reason; say why.",
        ),
    ],
)
def test_specifications_are_checked(change, message):
    with pytest.raises(ImageError) as caught:
        core.complete_spec("n", {"n": {**SPEC, **change}})
    assert str(caught.value).startswith(message)


def test_an_extension_joins_lists_and_updates_dicts():
    specs = {"a": SPEC, "b": {"extends": "a", "packages": ["dash"], "shell": True, "config": {"user": "1"}}}
    merged = core.complete_spec("b", specs)
    assert merged["packages"] == ["app", "dash"]
    assert merged["config"] == {**SPEC["config"], "user": "1"}
    with pytest.raises(ImageError, match="^c.yml: b extends another image itself; extend that one instead.$"):
        core.complete_spec("c", {**specs, "c": {"extends": "b"}})


def test_an_unknown_image_is_named_with_the_known_ones():
    with pytest.raises(ImageError, match="^x: there is no image of this name; known are a, b.$"):
        core.complete_spec("x", {"b": SPEC, "a": SPEC})


def test_a_health_check_becomes_nanoseconds():
    assert core.image_config("n", SPEC)["Healthcheck"] == {"Test": ["CMD", "/x"], "Interval": 5 * 10**9}
    with pytest.raises(ImageError, match="^5: not a duration such as 5s"):
        core.image_config("n", {"config": {**SPEC["config"], "health": {"command": ["/x"], "interval": "5"}}})


@pytest.mark.parametrize("user", ["root", "0:0", ""])
def test_no_image_runs_as_root(user):
    with pytest.raises(ImageError, match="^n.yml: config.user is root; give the image a user of its own.$"):
        core.image_config("n", {"config": {**SPEC["config"], "user": user}})


# -- the committed specifications and locks -----------------------------------------------------------------------

SPECS, LOCKS = inputs.read_specs(str(SPECS_DIR), yaml.safe_load)


@pytest.mark.parametrize("name", sorted(SPECS))
def test_the_committed_locks_belong_to_their_specifications(name):
    sources = {"requirements.lock": b"", "src/mcpstack/__init__.py": b""}
    job = core.Job(name, SPECS, LOCKS, sources)
    assert job.spec.get("python") or job.expected(), f"run tools/images.py lock {name}"
    assert [suite for suite in job.spec["suites"] if suite["valid_until"] != "fail" and name != "llama-server"] == []
    assert core.image_config(name, job.spec)["User"].startswith("641")


@pytest.mark.parametrize("name", sorted(LOCKS))
def test_the_committed_locks_name_no_host(name):
    text = (SPECS_DIR / f"{name}.lock.json").read_text()
    assert "://" not in text
    assert "http" not in text
    assert all(entry["path"].startswith("pool/") for entry in LOCKS[name]["packages"])


def test_the_keyring_is_the_one_the_readme_names():
    role = SPECS_DIR.parent
    digest = hashlib.sha256((role / "files" / "debian-archive-keyring.pgp").read_bytes()).hexdigest()
    assert digest in (role / "README.md").read_text()


# -- whole builds -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def signer():
    key = fixture.Signer()
    yield key
    key.close()


class World:
    """An archive, a cache and a builder that knows nothing else."""

    def __init__(self, path, signer):
        self.path = path
        self.archive = fixture.Archive(path / "mirror", signer)
        self.specs = {"app": copy.deepcopy(SPEC)}
        self.locks = {}
        self.lines = []
        self.archive.add("trixie", "app", {"usr/bin/app": fixture.elf(["liba.so.1"])}, Depends="liba, dash")
        self.liba = self.archive.add("trixie", "liba", {LIB + "liba.so.1": fixture.elf(), "usr/share/man/x": b"1"})
        self.archive.add("trixie", "dash", {"usr/bin/sh": "->dash", "usr/bin/dash": b"shell"})
        self.archive.publish("trixie")

    def builder(self, cache="cache", **options):
        builder = core.Builder(
            str(self.path / cache), str(self.archive.signer.keyring), self.archive.url, self.archive.url,
            report=self.lines.append, **options,
        )  # fmt: skip
        builder._fetcher = archive_core.Fetcher({})
        return builder

    def lock(self, *names):
        self.locks.update(self.builder().resolve(list(names or self.specs), self.specs))

    def build(self, *names, cache="cache", sources=None):
        return self.builder(cache).build(list(names or self.specs), self.specs, self.locks, sources or {})


@pytest.fixture
def world(tmp_path, signer):
    return World(tmp_path, signer)


def test_the_lock_holds_exactly_the_closure(world):
    world.lock()
    lock = world.locks["app"]
    assert [(entry["name"], entry["version"], entry["suite"]) for entry in lock["packages"]] == [
        ("app", "1.0", "trixie"),
        ("liba", "1.0", "trixie"),
    ]
    assert set(lock["suites"]["trixie"]) == {"archive", "date", "snapshot"}


def test_an_image_is_what_specification_and_lock_say(world):
    world.lock()
    image = world.build()[0]
    tree = layer_core.read_archive_tree(image["archive"])
    assert {"usr/bin/app", LIB + "liba.so.1", "bin", "etc/passwd", "data", "var/lib/dpkg/status"} <= set(tree)
    assert not {"usr/share/man/x", "usr/bin/sh", "usr/bin/dash"} & set(tree)
    assert (tree["data"].uid, tree["data"].mode, tree["bin"].linkname) == (64200, 0o700, "usr/bin")
    assert (image["built"], image["packages"]) == (True, 2)
    assert hashlib.sha256(Path(image["archive"]).read_bytes()).hexdigest() == image["archive_sha256"]
    assert image["ref"] == f"mcpstack/app:{image['id'][7:19]}"
    bom = json.loads(Path(image["sbom"]).read_text())
    assert [item["purl"] for item in bom["components"]] == [
        "pkg:deb/debian/app@1.0?arch=amd64&distro=debian-trixie",
        "pkg:deb/debian/liba@1.0?arch=amd64&distro=debian-trixie",
    ]


def test_two_build_hosts_give_the_same_archive(world):
    world.lock()
    first, second = world.build(cache="one")[0], world.build(cache="two")[0]
    assert (first["id"], first["archive_sha256"]) == (second["id"], second["archive_sha256"])
    assert Path(first["sbom"]).read_bytes() == Path(second["sbom"]).read_bytes()


def test_an_unchanged_image_is_left_alone_without_the_network(world):
    world.lock()
    first = world.build()[0]
    for path in sorted((world.path / "mirror").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    builder = world.builder()
    builder._fetcher = None
    builder.__class__ = type("Offline", (core.Builder,), {"fetcher": property(lambda self: pytest.fail("network"))})
    second = builder.build(["app"], world.specs, world.locks, {})[0]
    assert second == {**first, "built": False}


@pytest.mark.parametrize("change", ["spec", "packages", "archive"])
def test_what_changed_is_built_again(world, change):
    world.lock()
    first = world.build()[0]
    if change == "spec":
        world.specs["app"]["files"] = {"/etc/x": "1"}
    elif change == "packages":
        world.archive.add("trixie", "liba", {LIB + "liba.so.1": fixture.elf()}, version="1.1")
        world.archive.publish("trixie")
        world.lock()
    else:  # damaged in the cache: same size, another time
        path = Path(first["archive"])
        path.write_bytes(b"\0" * path.stat().st_size)
        os.utime(path, (1, 1))
    second = world.build()[0]
    assert second["built"]
    assert (second["id"] == first["id"]) is (change == "archive")
    assert hashlib.sha256(Path(second["archive"]).read_bytes()).hexdigest() == second["archive_sha256"]


def test_a_moved_cache_is_still_good(world):
    world.lock()
    world.build()
    (world.path / "cache").rename(world.path / "moved")
    image = world.build(cache="moved")[0]
    assert not image["built"]
    assert image["archive"].startswith(str(world.path / "moved"))


def test_a_missing_library_is_named_and_nothing_is_written(world):
    world.specs["app"]["drop"] = ["liba"]
    world.lock()
    with pytest.raises(ImageError) as caught:
        world.build()
    assert str(caught.value) == (
        "app: the image would lack shared libraries: /usr/bin/app needs liba.so.1; add the package that has them to "
        "packages (or keep) in app.yml and renew the lock."
    )
    assert not (world.path / "cache" / "images").exists()


def test_a_shell_needs_to_be_declared(world):
    world.specs["app"]["packages"].append("dash")
    world.lock()
    with pytest.raises(
        ImageError, match=r"^app: the image would hold a shell \(/usr/bin/sh\); drop its package in app.yml.$"
    ):
        world.build()
    world.specs["app"]["shell"] = True
    assert world.build()[0]["built"]


def test_a_writable_directory_is_refused(world):
    world.specs["app"]["directories"] = [{"path": "/data", "mode": "0777"}]
    world.lock()
    with pytest.raises(
        ImageError, match="^app: /data would be set-id or writable for everyone; correct its mode in app.yml.$"
    ):
        world.build()


def test_a_package_damaged_in_the_cache_is_removed_and_fetched_again(world):
    world.lock()
    world.build()
    digest = next(entry["sha256"] for entry in world.locks["app"]["packages"] if entry["name"] == "liba")
    kept = world.path / "cache" / "debs" / f"{digest}.deb"
    kept.write_bytes(b"x" * kept.stat().st_size)
    world.specs["app"]["description"] = "changed"
    with pytest.raises(ImageError, match=r"liba 1\.0 was damaged in the cache and has been removed; run again\.$"):
        world.build()
    assert world.build()[0]["built"]


def test_an_extending_image_shares_the_layer_of_the_other(world):
    world.specs["app-init"] = {"extends": "app", "packages": ["dash"], "shell": True, "config": {"entrypoint": ["/x"]}}
    world.lock()
    base, child = world.build()
    assert child["layers"][0] == base["layers"][0]
    assert len(child["layers"]) == 2
    with tarfile.open(child["archive"]) as outer:
        names = json.load(outer.extractfile("manifest.json"))[0]["Layers"]
        with tarfile.open(fileobj=outer.extractfile(names[1])) as layer:
            added = set(layer.getnames())
    assert {"usr/bin/dash", "var/lib/dpkg/status"} <= added
    assert "usr/bin/app" not in added


def test_locks_of_one_family_must_agree(world):
    world.specs["app-init"] = {"extends": "app", "packages": ["dash"], "shell": True}
    world.lock()
    world.archive.add("trixie", "liba", {LIB + "liba.so.1": fixture.elf()}, version="1.1")
    world.archive.publish("trixie")
    world.lock("app")
    with pytest.raises(ImageError) as caught:
        world.build()
    assert str(caught.value) == (
        "app-init.lock.json: holds another liba than app.lock.json; renew both with tools/images.py lock app app-init."
    )


@pytest.mark.parametrize(
    ("lock", "message"),
    [
        (None, "app: there is no app.lock.json; write it with tools/images.py lock app."),
        ({"format": 9}, "app.lock.json: format 9 is not 1; rewrite it with tools/images.py lock app."),
        (
            {"format": 1, "resolution": "x"},
            "app.lock.json: was made for another list of packages or suites; renew it with tools/images.py lock app.",
        ),
    ],
)
def test_a_lock_that_does_not_fit_is_refused(world, lock, message):
    world.locks = {"app": lock}
    with pytest.raises(ImageError) as caught:
        world.build()
    assert str(caught.value) == message


def test_a_locked_package_that_vanished_is_named(world):
    world.lock()
    world.liba.unlink()
    with pytest.raises(ImageError, match=r"^liba 1\.0 is neither in the cache nor to be had"):
        world.build()
    assert not (world.path / "cache" / "images").exists()


def test_pending_updates_are_told_apart(world):
    world.specs["app"]["suites"] = [*SUITES, {"name": "trixie-security", "archive": "security", "valid_until": "fail"}]
    world.archive.publish("trixie-security")
    world.lock()
    world.archive.add("trixie-security", "liba", {}, version="1.0+deb13u1")
    world.archive.publish("trixie-security")
    world.archive.add("trixie", "app", {}, version="2.0")
    world.archive.publish("trixie")
    assert world.builder().check(["app"], world.specs, world.locks) == [
        {"image": "app", "package": "app", "locked": "1.0", "newest": "2.0", "suite": "trixie", "security": False},
        {
            "image": "app", "package": "liba", "locked": "1.0", "newest": "1.0+deb13u1", "suite": "trixie-security",
            "security": True,
        },
    ]  # fmt: skip


def test_another_result_than_the_lock_promises_is_reported(world):
    world.lock()
    job = core.Job("app", world.specs, world.locks, {})
    world.locks["app"]["image"] = {"input": job.digest, "id": "sha256:" + "0" * 64, "ref": "mcpstack/app:000000000000"}
    builder = world.builder()
    builder.build(["app"], world.specs, world.locks, {})
    assert len(builder.warnings) == 1
    assert "where the lock promises sha256:000000000000" in builder.warnings[0]


def test_only_a_few_archives_are_kept(world):
    world.lock()
    for number in range(5):
        world.specs["app"]["description"] = f"number {number}"
        last = world.build()[0]
        os.utime(last["archive"], (number, number))
    assert len(list((world.path / "cache" / "images").glob("app-*.tar"))) == core.KEEP_ARCHIVES
    assert Path(last["archive"]).exists()


def test_leftovers_of_killed_builds_are_removed_and_running_ones_left_alone(world):
    world.lock()
    images = world.path / "cache" / "images"
    images.mkdir(parents=True)
    for name, age in ((".part-old", 7200), (".part-new", 0), ("other", 7200)):
        (images / name).write_text("x")
        moment = images.stat().st_mtime - age
        os.utime(images / name, (moment, moment))
    (world.path / "cache" / ".compile-old" / "usr").mkdir(parents=True)
    os.utime(world.path / "cache" / ".compile-old", (1, 1))
    world.build()
    assert {path.name for path in images.iterdir()} >= {".part-new", "other"}
    assert not (images / ".part-old").exists()
    assert not (world.path / "cache" / ".compile-old").exists()


def test_an_old_python_is_refused(monkeypatch):
    monkeypatch.setattr(core.sys, "version_info", (3, 9, 2))
    monkeypatch.setattr(core.sys, "version", "3.9.2 (x)")
    with pytest.raises(ImageError) as caught:
        core.require_python()
    assert str(caught.value) == (
        "Python 3.9.2 on the build host is too old; use a build host with Python 3.10 or newer."
    )


# -- wheels -------------------------------------------------------------------------------------------------------

REQUIREMENTS = """\
# pinned
some-lib[extra]==1.2 ; python_version > "3" \\
    --hash=sha256:{} \\
    --hash=sha256:{}
    # via something
""".format("a" * 64, "b" * 64)


def test_requirements_are_pinned_and_hashed():
    assert wheels_core.parse_requirements(REQUIREMENTS) == [
        {"name": "some-lib", "version": "1.2", "hashes": ["a" * 64, "b" * 64]}
    ]


@pytest.mark.parametrize(
    "line", ["some-lib>=1.2 --hash=sha256:" + "a" * 64, "some-lib==1.2", "-r other.txt", "./local"]
)
def test_anything_else_is_refused(line):
    with pytest.raises(ImageError, match="is not a pinned requirement with sha256 hashes"):
        wheels_core.parse_requirements(line + "\n")


def wheel(folder, files, name="some_lib-1.2-py3-none-any.whl"):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    data = out.getvalue()
    digest = hashlib.sha256(data).hexdigest()
    (folder / "wheels").mkdir(parents=True, exist_ok=True)
    (folder / "wheels" / f"{digest}.whl").write_bytes(data)
    return {"name": "some-lib", "version": "1.2", "file": name, "sha256": digest}


def test_a_wheel_is_unpacked_without_its_ballast(tmp_path):
    item = wheel(
        tmp_path,
        {
            "some_lib/__init__.py": "x = 1",
            "some_lib/tests/test_x.py": "",
            "some_lib/fast.c": "",
            "some_lib-1.2.dist-info/METADATA": "Name: some-lib",
            "some_lib-1.2.dist-info/RECORD": "",
            "some_lib-1.2.data/purelib/other.py": "y = 2",
            "some_lib-1.2.data/scripts/tool": "#!python",
        },
    )
    tree = wheels_core.unpack([item], str(tmp_path), "app/site", ["other*"])
    assert set(tree) == {"app/site/some_lib/__init__.py", "app/site/some_lib-1.2.dist-info/METADATA"}


def library(tail: bytes, segments=((0, 232),)) -> bytes:
    """The least that is an ELF library: header, program headers, 232 bytes, and what no segment holds."""
    header = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQ", 3, 62, 1, 0, 64, 232 if tail else 0)
    header += struct.pack("<IHHHHHH", 0, 64, 56, len(segments), 64, 3, 2)
    table = b"".join(struct.pack("<IIQQQQQQ", 1, 5, where, 0, 0, size, size, 4096) for where, size in segments)
    return (header + table).ljust(232, b"c") + tail


@pytest.mark.parametrize("cut", [False, True])
def test_symbols_of_a_wheels_libraries_go_when_the_specification_says_so(tmp_path, cut):
    item = wheel(tmp_path, {"some/fast.cpython-313-x86_64-linux-gnu.so": library(b"symbols"), "some/lib.so.1": library(b"x"),
                            "some/fast.py": "print()", "some/notes.so.txt": library(b"kept")})  # fmt: skip
    tree = wheels_core.unpack([item], str(tmp_path), "app", [], symbols=not cut)
    fast = tree["app/some/fast.cpython-313-x86_64-linux-gnu.so"].data
    assert len(fast) == (232 if cut else 239)
    assert struct.unpack_from("<Q", fast, 40)[0] == (0 if cut else 232)
    assert struct.unpack_from("<HH", fast, 60) == ((0, 0) if cut else (3, 2))
    assert len(tree["app/some/lib.so.1"].data) == (232 if cut else 233)
    assert tree["app/some/notes.so.txt"].data == library(b"kept")
    assert tree["app/some/fast.py"].data == b"print()"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x7fELF\x02\x01",
        b"print()" * 20,
        library(b""),
        library(b"rest", segments=((0, 232), (232, 4))),
        library(b"rest", segments=((0, 9999),)),
        library(b"rest")[:100],
    ],
)
def test_what_has_no_symbols_to_lose_is_left_alone(data):
    assert elf_core.without_symbols(data) == data


def test_a_damaged_wheel_is_removed(tmp_path):
    item = wheel(tmp_path, {"a.py": ""})
    path = tmp_path / "wheels" / f"{item['sha256']}.whl"
    path.write_bytes(b"damaged")
    with pytest.raises(ImageError, match="was damaged in the cache and has been removed; run again.$"):
        wheels_core.unpack([item], str(tmp_path), "app/site", [])
    assert not path.exists()


def test_a_wheel_that_leaves_its_directory_is_refused(tmp_path):
    item = wheel(tmp_path, {"../evil.py": ""})
    with pytest.raises(ImageError, match="leaves its directory; do not use it.$"):
        wheels_core.unpack([item], str(tmp_path), "app/site", [])


def test_without_pip_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(wheels_core.sys, "executable", "/nonexistent/python")
    monkeypatch.setattr(wheels_core.shutil, "which", lambda name: None)
    monkeypatch.setattr(wheels_core, "_pip", list)
    with pytest.raises(ImageError) as caught:
        wheels_core.collect(REQUIREMENTS, "3.13", str(tmp_path))
    assert str(caught.value) == (
        "The Python packages of the services image cannot be fetched: /nonexistent/python has no pip, and neither pip3 "
        "nor uv is installed on the build host; install one of them (Debian and Ubuntu: apt-get install python3-pip)."
    )


def test_what_pip_brings_is_checked_against_the_lock(tmp_path, monkeypatch):
    def download(_requirements, _python, folder):
        item = wheel(tmp_path / "elsewhere", {"a.py": ""})
        source = tmp_path / "elsewhere" / "wheels" / f"{item['sha256']}.whl"
        source.rename(Path(folder) / item["file"])

    monkeypatch.setattr(wheels_core, "_download", download)
    with pytest.raises(ImageError) as caught:
        wheels_core.collect(REQUIREMENTS, "3.13", str(tmp_path))
    assert str(caught.value) == (
        "some_lib-1.2-py3-none-any.whl: its sha256 is not in requirements.lock; the package index is not to be trusted."
    )
    assert list((tmp_path / "wheels").iterdir()) == []


def test_sources_are_read_without_leftovers(tmp_path):
    (tmp_path / "src/mcpstack/__pycache__").mkdir(parents=True)
    (tmp_path / "src/mcpstack.egg-info").mkdir()
    for path in ("requirements.lock", "src/mcpstack/a.py", "src/mcpstack/__pycache__/a.pyc", "src/mcpstack.egg-info/x"):
        (tmp_path / path).write_text(path)
    assert set(inputs.read_services(str(tmp_path))) == {"requirements.lock", "src/mcpstack/a.py"}
    with pytest.raises(ImageError, match=r"requirements\.lock: cannot be read \(No such file or directory\)"):
        inputs.read_services(str(tmp_path / "none"))
