# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading tar archives of strangers, and layers on top of each other."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import tarfile

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _tar_stream as tar_stream
from ansible_collections.mcpstack.platform.plugins.module_utils._image_contents import Archive, clean_path
from ansible_collections.mcpstack.platform.plugins.module_utils._tar_stream import (
    Budget,
    Inflated,
    TarError,
    TarStream,
    is_header,
)


def tar(entries, form=tarfile.GNU_FORMAT, **pax):
    """A tar of (name, content | None for a directory | '->link' | '=hard link', mode, owner)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, content, *more in entries:
            item = tarfile.TarInfo(name)
            item.mode = more[0] if more else 0o644
            item.uid = item.gid = more[1] if len(more) > 1 else 0
            item.pax_headers = dict(pax)
            if content is None:
                item.type = tarfile.DIRTYPE
            elif isinstance(content, str):
                item.type = tarfile.SYMTYPE if content.startswith("->") else tarfile.LNKTYPE
                item.linkname = content.lstrip("->=")
            else:
                item.size = len(content)
            archive.addfile(item, io.BytesIO(content) if isinstance(content, bytes) else None)
    return out.getvalue()


def docker_save(layers, config=None, names=("app:1",), extra=()):
    """An archive as docker save writes it: the list of layers comes last."""
    document = {"os": "linux", "architecture": "amd64", "config": config or {"Cmd": ["x"]},
                "rootfs": {"diff_ids": ["sha256:" + hashlib.sha256(unzip(layer)).hexdigest() for layer in layers]}}  # fmt: skip
    members = [(f"{number}/layer.tar", layer) for number, layer in enumerate(layers)]
    members += [("config.json", json.dumps(document).encode())]
    manifest = [{"Config": "config.json", "RepoTags": list(names), "Layers": [name for name, _layer in members[:-1]]}]
    return tar([*members, *extra, ("manifest.json", json.dumps(manifest).encode())])


def unzip(data):
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def listing(data, budget=None):
    return [
        (m.name, m.kind, m.mode, m.uid, m.size, m.link if m.kind.endswith("link") else "")
        for m in TarStream(io.BytesIO(data).read, budget or Budget())
    ]


def read(data, budget=None):
    return Archive(io.BytesIO(data).read, budget).images()


def seen(layers, **options):
    (image,) = read(docker_save(layers, **options))
    assert image.unread() == ""
    return dict(image.files())


# -- tar ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_it_reads_what_the_standard_library_writes(form):
    chance = random.Random(7)
    entries, names = [], set()
    for number in range(300):
        name = "/".join(
            "".join(chance.choice("abcäß-._ ") for _n in range(chance.randint(1, 60))).strip() + "x"
            for _level in range(chance.randint(1, 5))
        )
        if name in names:
            continue
        names.add(name)
        content = chance.choice(
            [None, b"", b"a" * chance.randint(0, 2000), "->" + "t" * chance.randint(1, 300), "=hard"]
        )
        entries.append((name, content, chance.choice([0o644, 0o4755, 0o2755]), chance.choice([0, 7, 3_000_000])))
        if number % 50 == 0:
            entries.append((name + "big", b"z" * 1_000_000))
    data = tar(entries, form)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        expected = [
            (
                item.name,
                "directory" if item.isdir() else "symlink" if item.issym() else "hardlink" if item.islnk() else "file",
                item.mode,
                item.uid,
                item.size if item.isreg() else 0,
                item.linkname,
            )
            for item in archive
        ]
    assert [(name.rstrip("/"), *rest) for name, *rest in listing(data)] == expected


def test_content_is_read_or_skipped():
    data = tar([("a", b"A" * 700), ("b", b"B" * 10), ("c", b"C" * 513)])
    stream = TarStream(io.BytesIO(data).read, Budget())
    found = {}
    for member in stream:
        if member.name != "b":
            found[member.name] = stream.content(600)
    assert found == {"a": b"A" * 600, "c": b"C" * 513}


def test_capabilities_are_seen():
    data = tar([("ping", b"x")], tarfile.PAX_FORMAT, **{"SCHILY.xattr.security.capability": "\1\0\0\2"})
    assert [member.capable for member in TarStream(io.BytesIO(data).read, Budget())] == [True]


def header(**fields):
    item = tarfile.TarInfo(fields.pop("name", "a"))
    for key, value in fields.items():
        setattr(item, key, value)
    return bytearray(item.tobuf(tarfile.GNU_FORMAT))


def sealed(block):
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def with_field(at, value, **fields):
    block = header(**fields)
    block[at : at + len(value)] = value
    return sealed(block)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"x" * 512, "is no tar archive"),
        (tar([("a", b"b" * 600)])[:700], "ends in the middle"),
        (tar([("a", b"b" * 600)])[:300], "ends in the middle"),
        (with_field(124, b"zzzz"), "holds no size"),
        (with_field(124, b"\xff" * 12), "holds no size"),
        (with_field(124, b"\x80" + b"\x7f" * 11), "holds no size"),
        (with_field(108, b"9999999"), "holds no owner"),
        (with_field(100, b"-------"), "holds no mode"),
        (with_field(124, b"\x80\0\0\0\0\0\0\x01\0\0\0\0", name="x", type=b"x"), "larger than the limit"),
        (with_field(124, b"\x80\0\0\0\0\0\0\x01\0\0\0\0", name="x", type=b"L"), "larger than the limit"),
        (sealed(header(name="p", type=b"x", size=9)) + b"99 a=b\n12".ljust(512, b"\0"), "extended header is damaged"),
        (sealed(header(name="p", type=b"x", size=12)) + b"12 size=-5\n\n".ljust(512, b"\0") + sealed(header()), "damaged|no size"),
        (sealed(header(name="p", type=b"x", size=11)) + b"11 size=-5\n".ljust(512, b"\0") + sealed(header()), "holds no size"),
        (sealed(header(name="p", type=b"L", size=5000)) + b"n" * 5120 + sealed(header()), "name is longer than the limit"),
    ],
)  # fmt: skip
def test_what_is_damaged_or_meant_to_harm_is_one_sentence(data, message):
    with pytest.raises(TarError, match=message):
        listing(data)


def test_an_endless_run_of_headers_meets_the_budget():
    endless = sealed(header(name="x", type=b"g", size=0))
    with pytest.raises(TarError, match="more files than the limit"):
        listing(endless * 2000, Budget(entries=1000))


def test_directories_and_links_have_no_content_whatever_they_claim():
    data = sealed(header(name="d", type=tarfile.DIRTYPE, size=10**9)) + sealed(
        header(name="l", type=tarfile.SYMTYPE, size=10**9)
    )
    assert [row[:2] for row in listing(data + b"\0" * 1024)] == [("d/", "directory"), ("l", "symlink")]


def test_a_sparse_file_brings_more_headers():
    first = header(name="s", type=b"S", size=4)
    first[482] = 1
    more = bytearray(512)
    data = sealed(first) + bytes(more) + b"abcd".ljust(512, b"\0") + sealed(header(name="next")) + b"\0" * 1024
    assert [row[0] for row in listing(data)] == ["s", "next"]


def test_headers_are_told_by_their_checksum():
    assert is_header(bytes(header()))
    assert not is_header(b"{" * 512)
    assert not is_header(b"\0" * 512)
    assert not is_header(bytes(header())[:511])


@pytest.mark.parametrize("seed", range(40))
def test_any_bytes_give_an_answer_or_one_error(seed):
    chance = random.Random(seed)
    layer = tar([("etc/passwd", b"root:x:0:0::/:/bin/sh\n"), ("bin/su", b"x", 0o4755)], chance.choice([0, 1, 2]))
    data = bytearray(docker_save([gzip.compress(layer, 1) if seed % 2 else layer, tar([("bin/.wh.su", b"")])]))
    for _number in range(chance.randint(1, 60)):
        at = chance.randrange(len(data))
        kind = chance.randrange(4)
        if kind == 0:
            data[at] = chance.randrange(256)
        elif kind == 1:
            del data[at : at + chance.randint(1, 600)]
        elif kind == 2:
            data[at:at] = bytes(chance.randrange(256) for _n in range(chance.randint(1, 600)))
        else:
            block = bytearray(data[at - at % 512 : at - at % 512 + 512])
            if len(block) == 512:  # damage that its checksum covers
                block[chance.randrange(512)] = chance.randrange(256)
                data[at - at % 512 : at - at % 512 + 512] = sealed(block)
    try:
        for image in read(bytes(data), Budget(1 << 22, 5000)):
            list(image.files())
    except TarError:
        pass


# -- gzip -----------------------------------------------------------------------------------------------------------


def unpacked(data, budget=None):
    stream = Inflated(io.BytesIO(data).read, budget or Budget())
    return b"".join(iter(lambda: stream.read(70_000), b""))


def test_gzip_in_several_parts_and_with_padding():
    plain = random.Random(1).randbytes(200_000)
    assert unpacked(gzip.compress(plain[:99]) + gzip.compress(plain[99:]) + b"\0" * 99) == plain


def test_a_compressed_layer_that_ends_early_is_named():
    with pytest.raises(TarError, match="ends in the middle of a compressed layer"):
        unpacked(gzip.compress(b"a" * 100_000)[:-30])
    with pytest.raises(TarError, match="damaged"):
        unpacked(b"\x1f\x8b\x08\0" + b"\xff" * 50)


def test_a_bomb_is_refused_by_its_size_and_by_its_ratio(monkeypatch):
    bomb = gzip.compress(b"\0" * 4_000_000)
    with pytest.raises(TarError, match="more than the limit"):
        unpacked(bomb, Budget(size=1_000_000))
    monkeypatch.setattr(tar_stream, "RATIO_FROM", 1_000_000)
    with pytest.raises(TarError, match="many times its size"):
        unpacked(bomb)


# -- layers ---------------------------------------------------------------------------------------------------------

SU = ("usr/bin/su", b"x", 0o4755)


@pytest.mark.parametrize(
    ("upper", "visible"),
    [
        ([], True),
        ([("usr/bin/other", b"x")], True),
        ([("usr/bin", None)], True),
        ([("usr/bin/su", b"y", 0o755)], False),  # replaced without the bit
        ([("usr/bin/su", "->other")], False),
        ([("usr/bin/su", None)], False),
        ([("usr/bin/.wh.su", b"")], False),
        ([("usr/.wh.bin", b"")], False),
        ([(".wh.usr", b"")], False),
        ([("usr/bin/.wh..wh..opq", b"")], False),
        ([(".wh..wh..opq", b"")], False),
        ([("usr/bin", "->elsewhere")], False),  # what was a directory is a link now
        ([("usr/bin/.wh.s", b"")], True),
        ([("usr/sbin/.wh.su", b"")], True),
        ([("usr/bin/.wh..wh.plnk", b"")], True),
        ([("./usr/bin/.wh.su", b"")], False),
        ([("/usr/bin/su", b"y", 0o755)], False),
    ],
)
def test_layers_lie_on_top_of_each_other(upper, visible):
    assert ("usr/bin/su" in seen([tar([SU]), tar(upper)])) is visible


def test_a_file_may_come_back_above_its_removal():
    assert "usr/bin/su" in seen([tar([SU]), tar([("usr/bin/.wh.su", b"")]), tar([SU])])


def test_a_removal_does_not_reach_its_own_layer():
    assert "usr/bin/su" in seen([tar([("usr/bin/.wh.su", b""), SU])])
    assert "usr/bin/su" in seen([tar([SU, ("usr/bin/.wh..wh..opq", b"")])])


def test_of_the_same_name_twice_in_a_layer_the_last_counts():
    assert "usr/bin/su" not in seen([tar([SU, ("usr/bin/su", b"", 0o755)])])


def test_layers_may_be_compressed_shared_and_in_any_order():
    (image,) = read(docker_save([gzip.compress(tar([SU])), tar([("usr/bin/.wh.su", b"")])]))
    assert dict(image.files()) == {}
    data = tar(
        [
            ("manifest.json", json.dumps([{"Config": "c", "Layers": ["2/layer.tar", "1/layer.tar"]}]).encode()),
            ("2/layer.tar", "->../0/layer.tar"),
            ("0/layer.tar", tar([SU])),
            ("1/layer.tar", tar([("usr/bin/.wh.su", b"")])),
        ]
    )
    assert dict(read(data)[0].files()) == {}


def test_a_layer_that_cannot_be_read_is_said_and_the_others_are_read():
    broken = tar([("a", b"x" * 5000)])
    (image,) = read(docker_save([broken[:2000].ljust(len(broken), b"\xff"), tar([SU])]))
    assert "usr/bin/su" in dict(image.files())
    assert image.unread()
    (image,) = read(docker_save([b"\x28\xb5\x2f\xfd" + b"z" * 600]))
    assert image.unread() == "a layer is packed with zstd, which this module does not unpack"


def test_a_layer_that_is_not_the_promised_one_is_said():
    data = docker_save([tar([SU])]).replace(b'diff_ids": ["sha256:', b'diff_ids": ["sha257:')
    assert read(data)[0].unread() == "a layer is not the one that the image's configuration names"


def test_a_layer_that_is_missing_is_said():
    data = tar([("manifest.json", json.dumps([{"Config": "c", "Layers": ["0/layer.tar"]}]).encode())])
    assert read(data)[0].unread() == "a layer is not in the archive"


@pytest.mark.parametrize("name", ["../../etc/shadow", "a/../../b", "/../x"])
def test_a_path_that_leaves_the_image_is_refused(name):
    (image,) = read(docker_save([tar([(name, b"x")])]))
    assert image.unread() == "a layer holds a path that leaves the image"


def test_paths_are_put_straight():
    assert [clean_path(path) for path in ("./a", "/a//b/", "a/./b", ".", "/", "a/../b")] == [
        "a",
        "a/b",
        "a/b",
        "",
        "",
        "b",
    ]


@pytest.mark.parametrize(
    "data",
    [b"", tar([]), tar([("a", b"b")]), tar([("manifest.json", b"[]")]), tar([("manifest.json", b"{")]),
     tar([("manifest.json", b'{"a": 1}')]), tar([("manifest.json", b"[" * 100_000)]), tar([("index.json", b'{"manifests": 3}')]),
     tar([("manifest.json", b'[3, {"Layers": 7, "RepoTags": 4}]')]) + b"x"],
)  # fmt: skip
def test_what_holds_no_image_is_said(data):
    try:
        (image,) = read(data)
    except TarError as error:
        assert "holds no image" in str(error)
    else:
        assert (image.names, image.layers) == ([], [])


def test_links_in_a_circle_end():
    data = tar([("a", "->b"), ("b", "->a"), ("manifest.json", json.dumps([{"Config": "a", "Layers": ["a"]}]).encode())])
    assert read(data)[0].unread() == "a layer is not in the archive"


def test_memory_stays_bounded_by_what_is_asked_about(monkeypatch):
    monkeypatch.setattr("ansible_collections.mcpstack.platform.plugins.module_utils._image_contents.NODES", 100)
    (image,) = read(docker_save([tar([(f"bin/{n}", b"", 0o4755) for n in range(200)])]))
    assert "more files of interest than the limit" in image.unread()
    monkeypatch.setattr(
        "ansible_collections.mcpstack.platform.plugins.module_utils._image_contents.CONTENT_TOTAL", 1000
    )
    with pytest.raises(TarError, match="more text than the limit"):
        read(docker_save([tar([("etc/passwd", b"x" * 2000)])]))


# -- OCI ------------------------------------------------------------------------------------------------------------


def oci(manifests, blobs=()):
    """An OCI layout. manifests: (manifest, annotations); layers are blobs by name."""
    members = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}', **dict(blobs)}
    listed = []
    for manifest, notes in manifests:
        raw = json.dumps(manifest).encode()
        digest = hashlib.sha256(raw).hexdigest()
        members[f"blobs/sha256/{digest}"] = raw
        listed.append({"digest": f"sha256:{digest}", "annotations": notes})
    members["index.json"] = json.dumps({"manifests": listed}).encode()
    return tar(list(members.items()))


CONFIG = json.dumps({"os": "linux", "architecture": "amd64", "config": {"Cmd": ["x"]}}).encode()
IMAGE = {
    "config": {"digest": "sha256:c"},
    "layers": [{"digest": "sha256:l", "mediaType": "application/vnd.oci.image.layer.v1.tar"}],
}
BLOBS = {"blobs/sha256/c": CONFIG, "blobs/sha256/l": tar([SU])}


def test_an_oci_layout_is_read():
    (image,) = read(oci([(IMAGE, {"io.containerd.image.name": "docker.io/library/app:1"})], BLOBS))
    assert (image.names, image.layout, image.signed, image.attested) == (["docker.io/library/app:1"], "oci", False, [])
    assert image.id == "sha256:" + hashlib.sha256(CONFIG).hexdigest()
    assert "usr/bin/su" in dict(image.files())


def test_attestations_and_signatures_are_no_images():
    layer = {"digest": "sha256:a", "mediaType": "application/vnd.in-toto+json",
             "annotations": {"in-toto.io/predicate-type": "https://slsa.dev/provenance/v1"}}  # fmt: skip
    statement = {"config": {"digest": "sha256:x"}, "layers": [layer]}
    signature = {"config": {}, "layers": [{"mediaType": "application/vnd.dev.cosign.simplesigning.v1+json"}]}
    notes = {"vnd.docker.reference.type": "attestation-manifest"}
    (image,) = read(oci([(IMAGE, {}), (statement, notes), (signature, {})], BLOBS))
    assert (image.attested, image.signed) == (["https://slsa.dev/provenance/v1"], True)


def test_an_index_in_an_index_is_followed_but_not_for_ever():
    inner = json.dumps({"manifests": [{"digest": "sha256:i"}]}).encode()
    with pytest.raises(TarError, match="holds no image"):
        read(tar([("blobs/sha256/i", inner), ("index.json", b'{"manifests": [{"digest": "sha256:i"}]}')]))
    outer = json.dumps({"manifests": [{"digest": "sha256:o"}]}).encode()
    found = json.dumps({"manifests": [{"digest": "sha256:m"}]}).encode()
    members = [
        *BLOBS.items(),
        ("blobs/sha256/o", found),
        ("blobs/sha256/m", json.dumps(IMAGE).encode()),
        ("index.json", outer),
    ]
    assert len(read(tar(members))) == 1
