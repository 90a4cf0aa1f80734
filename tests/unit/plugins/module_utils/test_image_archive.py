# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sources, signatures, indices, dependency closure and packages, against an archive made here."""

from __future__ import annotations

import http.server
import importlib.util
import itertools
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _image_archive as core
from ansible_collections.mcpstack.platform.plugins.module_utils._image_errors import ImageError

_spec = importlib.util.spec_from_file_location(
    "image_archive_fixture", Path(__file__).with_name("image_archive_fixture.py")
)
fixture = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fixture)

FIX = core.MIRROR_FIX
SUITE = {"name": "trixie", "archive": "main", "valid_until": "fail"}
DIRECT = {}


@pytest.fixture(scope="module")
def signer():
    key = fixture.Signer()
    yield key
    key.close()


@pytest.fixture
def archive(tmp_path, signer):
    return fixture.Archive(tmp_path / "mirror", signer)


@pytest.fixture
def fetcher():
    return core.Fetcher(DIRECT)


def load(archive, tmp_path, suite=SUITE, now=None, keyring=None):
    return core.load_index(
        suite,
        [archive.url],
        core.Fetcher(DIRECT),
        str(keyring or archive.signer.keyring),
        str(tmp_path / "cache"),
        now=now,
    )


# -- versions -----------------------------------------------------------------------------------------------------

ORDERED = [
    "0~~", "0~", "0", "0+", "0.0", "1~rc1-1", "1-0", "1-1~bpo13+1", "1-1", "1-1+b1", "1-1+deb13u2", "1-1+deb13u10", "1-2",
    "1.0-1", "1.0a-1", "1.0+dfsg-1", "1.0.1-1", "1.2-3-4", "1.10-1", "1:0.1-1", "2:0-1",
]  # fmt: skip


@pytest.mark.parametrize(("lower", "higher"), list(itertools.combinations(ORDERED, 2)))
def test_versions_are_ordered(lower, higher):
    assert core.version_key(lower) < core.version_key(higher)


@pytest.mark.skipif(not shutil.which("dpkg"), reason="dpkg is the judge of this test")
def test_dpkg_orders_the_same_way():
    for lower, higher in itertools.pairwise(ORDERED):
        assert subprocess.run(["dpkg", "--compare-versions", lower, "lt", higher], check=False).returncode == 0


# -- sources ------------------------------------------------------------------------------------------------------

DEB822 = """\
Types: deb deb-src
# a remark
URIs: http://one.example/debian
Suites: trixie trixie-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://two.example/debian-security
Suites: trixie-security
Components: main

Types: deb
Enabled: no
URIs: http://off.example/debian
Suites: trixie
Components: main

Types: deb
URIs: http://vendor.example/apt
Suites: nodistro
Components: main
"""
ONE_LINE = """\
# deb http://commented.example/debian trixie main
deb [arch=amd64 signed-by=/x.gpg] http://one.example/debian/ bookworm main contrib # remark
deb http://two.example/debian-security bookworm-security main
deb http://old.example/debian-security bullseye/updates main
deb-src http://src.example/debian bookworm main
deb http://vendor.example/apt stable-vendor main
deb https://store.example/linux/debian bookworm stable
"""


def test_deb822_sources():
    assert [(e["uri"], e["suite"]) for e in core.parse_sources(DEB822, deb822=True)] == [
        ("http://one.example/debian", "trixie"),
        ("http://one.example/debian", "trixie-updates"),
        ("http://two.example/debian-security", "trixie-security"),
        ("http://vendor.example/apt", "nodistro"),
    ]


@pytest.mark.parametrize(
    ("text", "deb822", "options", "expected"),
    [
        (
            DEB822,
            True,
            {},
            {
                "main": ["http://one.example/debian"],
                "security": ["http://two.example/debian-security", "http://one.example/debian-security"],
            },
        ),
        (
            ONE_LINE,
            False,
            {},
            {
                "main": ["http://one.example/debian"],
                "security": [
                    "http://two.example/debian-security",
                    "http://old.example/debian-security",
                    "http://one.example/debian-security",
                ],
            },
        ),
        ("deb http://archive.example/ubuntu noble main\n", False, {}, {"main": [], "security": []}),
        (
            "deb cdrom:[x]/ bookworm main\ndeb tor+http://x/debian bookworm main\n",
            False,
            {},
            {"main": [], "security": []},
        ),
        (
            ONE_LINE,
            False,
            {"mirror": "http://mine.example/debian/"},
            {"main": ["http://mine.example/debian"], "security": ["http://mine.example/debian-security"]},
        ),
        (
            ONE_LINE,
            False,
            {"mirror": "http://mine.example/x", "security_mirror": "http://mine.example/s/"},
            {"main": ["http://mine.example/x"], "security": ["http://mine.example/s"]},
        ),
    ],
)
def test_mirrors_come_from_the_host_or_the_operator(text, deb822, options, expected):
    assert core.mirrors(core.parse_sources(text, deb822), **options) == expected


def test_mirror_lists_are_followed(tmp_path):
    listing = tmp_path / "debian.list"
    listing.write_text("# mirrors\nhttps://a.example/debian priority:1\nhttps://b.example/debian\n")
    entries = core.parse_sources(f"deb mirror+file:{listing} trixie main\n", deb822=False)
    assert core.mirrors(entries)["main"] == ["https://a.example/debian", "https://b.example/debian"]


def test_all_sources_of_a_host_are_read(tmp_path):
    (tmp_path / "sources.list").write_text(ONE_LINE)
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d" / "debian.sources").write_text(DEB822)
    (tmp_path / "sources.list.d" / "ignored.sources.disabled").write_text(DEB822)
    assert len(core.host_sources(str(tmp_path))) == 5 + 4
    assert core.host_sources(str(tmp_path / "none")) == []


# -- signatures ---------------------------------------------------------------------------------------------------


def test_a_signed_index_is_read(archive, tmp_path):
    archive.add("trixie", "nginx", {"usr/sbin/nginx": b"x"})
    archive.publish("trixie", valid_for=86400)
    index, release, warnings = load(archive, tmp_path)
    assert index.packages("nginx")[0]["Version"] == "1.0"
    assert (release["Codename"], warnings) == ("trixie", [])


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("tool", ["gpgv", "sqv"])
def test_only_the_signed_text_is_believed(archive, tool, before):
    if not shutil.which(tool):
        pytest.skip(f"{tool} is not installed here")
    signed = archive.signer.sign("Codename: trixie\n")
    data = b"Codename: evil\n" + signed if before else signed + b"Codename: evil\n"
    try:
        text = core.verify_inrelease(data, str(archive.signer.keyring), "here", tools=(tool,))
    except ImageError:
        return  # refusing the file altogether is as good
    assert "evil" not in text


def test_an_index_signed_by_somebody_else_is_refused(archive, tmp_path):
    other = fixture.Signer()
    try:
        archive.publish("trixie", signer=other)
    finally:
        other.close()
    with pytest.raises(ImageError) as caught:
        load(archive, tmp_path)
    assert str(caught.value) == (
        f"{archive.url}/dists/trixie/InRelease: the index is not signed by a key in keyring.pgp; use a genuine Debian "
        "mirror, or update the keyring if Debian changed its keys."
    )
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "change", [(b"Codename: trixie", b"Codename: trixia"), (b"-----BEGIN PGP SIGNATURE-----", b"")]
)
def test_a_changed_index_is_refused(archive, tmp_path, change):
    archive.publish("trixie")
    path = archive.root / "dists/trixie/InRelease"
    path.write_bytes(path.read_bytes().replace(*change))
    with pytest.raises(ImageError, match="the index is not signed by a key in keyring.pgp"):
        load(archive, tmp_path)


def test_an_unsigned_index_is_refused(archive, tmp_path):
    archive.publish("trixie")
    (archive.root / "dists/trixie/InRelease").write_text("Codename: trixie\n")
    with pytest.raises(ImageError, match="the index is not signed"):
        load(archive, tmp_path)


def test_without_a_tool_nothing_is_believed(archive, tmp_path, monkeypatch):
    archive.publish("trixie")
    monkeypatch.setattr(core.shutil, "which", lambda name: None)
    with pytest.raises(ImageError) as caught:
        load(archive, tmp_path)
    assert str(caught.value) == (
        f"{archive.url}/dists/trixie/InRelease: its signature cannot be checked because neither sqv nor gpgv is "
        "installed on the build host; install one of them (Debian and Ubuntu: apt-get install gpgv)."
    )


# -- indices ------------------------------------------------------------------------------------------------------


def test_an_expired_index_is_refused_warned_of_or_accepted_as_the_policy_says(archive, tmp_path):
    archive.publish("trixie", now=0, valid_for=86400)
    with pytest.raises(ImageError) as caught:
        load(archive, tmp_path)
    where = f"{archive.url}/dists/trixie/InRelease: the index of trixie expired on Fri, 02 Jan 1970 00:00:00 UTC"
    assert str(caught.value) == f"{where}: the mirror is stale or someone replays old data; {FIX}."
    assert load(archive, tmp_path, {**SUITE, "valid_until": "warn"})[2] == [where]
    assert load(archive, tmp_path, {**SUITE, "valid_until": "ignore"})[2] == []
    assert load(archive, tmp_path, now=3600)[2] == []


def test_the_index_of_another_release_is_refused(archive, tmp_path):
    archive.publish("trixie", Codename="bookworm", Suite="oldstable")
    with pytest.raises(ImageError) as caught:
        load(archive, tmp_path)
    assert str(caught.value) == (
        f"{archive.url}/dists/trixie/InRelease: the index is that of bookworm, not of trixie; {FIX}."
    )


def test_a_missing_index_names_the_mirror(archive, tmp_path):
    with pytest.raises(ImageError) as caught:
        load(archive, tmp_path)
    assert str(caught.value).startswith("The index of trixie cannot be fetched (file://")
    assert str(caught.value).endswith(f"); {FIX}.")


def test_no_mirror_at_all_says_what_to_set(tmp_path):
    with pytest.raises(ImageError) as caught:
        core.load_index(SUITE, [], core.Fetcher(DIRECT), "k", str(tmp_path))
    assert str(caught.value) == (
        f"No Debian mirror is known for the main archive: this host's package sources name none; {FIX}."
    )


@pytest.mark.parametrize("by_hash", [True, False])
def test_a_package_list_that_was_not_signed_is_refused(archive, tmp_path, by_hash):
    archive.add("trixie", "a", {"x": b"1"})
    folder = archive.publish("trixie", by_hash=by_hash)
    for path in [folder / "Packages.xz", *(folder / "by-hash/SHA256").iterdir()]:
        path.write_bytes(b"something else")
    with pytest.raises(ImageError, match="the package list is not the one that was signed"):
        load(archive, tmp_path)
    assert not (tmp_path / "cache" / "indices").exists()


def test_the_next_mirror_is_asked_when_one_is_down(archive, tmp_path):
    archive.publish("trixie")
    bases = [(tmp_path / "down").as_uri(), archive.url]
    core.load_index(SUITE, bases, core.Fetcher(DIRECT), str(archive.signer.keyring), str(tmp_path / "cache"))


# -- closure ------------------------------------------------------------------------------------------------------


def index_of(*packages, suite="trixie", archive="main"):
    stanzas = []
    for name, fields in packages:
        fields = {"Version": "1", **fields}
        stanzas.append("\n".join([f"Package: {name}", *(f"{key}: {value}" for key, value in fields.items())]) + "\n")
    return core.Index("\n".join(stanzas), suite, archive)


@pytest.mark.parametrize(
    ("wanted", "dropped", "expected"),
    [
        (["app"], set(), ["app", "libc6", "liba", "shell"]),
        (["app"], {"shell"}, ["app", "libc6", "liba"]),
        (["app"], {"shell", "liba"}, ["app", "libc6"]),
        (["alt"], set(), ["alt", "second"]),
        (["alt"], {"second"}, ["alt"]),
        (["virtual"], set(), ["virtual", "mailer-a"]),
        (["virtual", "mailer-b"], set(), ["virtual", "mailer-b"]),
        (["virtual"], {"mailer-b"}, ["virtual"]),
        (["loop-a"], set(), ["loop-a", "loop-b"]),
    ],
)
def test_the_closure_does_not_descend_into_what_is_dropped(wanted, dropped, expected):
    index = index_of(
        ("app", {"Depends": "libc6 (>= 2), liba:any | libz, shell", "Pre-Depends": "libc6"}),
        ("libc6", {}), ("liba", {}), ("shell", {"Depends": "libc6"}),
        ("alt", {"Depends": "missing | second"}), ("second", {}),
        ("virtual", {"Depends": "mail-agent"}),
        ("mailer-b", {"Provides": "mail-agent (= 1), other"}), ("mailer-a", {"Provides": "mail-agent"}),
        ("loop-a", {"Depends": "loop-b"}), ("loop-b", {"Depends": "loop-a"}),
    )  # fmt: skip
    assert [p["Package"] for p in core.resolve(wanted, dropped, [index])] == sorted(expected)


def test_the_newest_version_over_all_suites_wins():
    indices = [
        index_of(("a", {"Version": "1.0-1+deb13u2"})),
        index_of(("a", {"Version": "1.0-1+deb13u10"}), suite="trixie-security", archive="security"),
        index_of(("a", {"Version": "1.0-1+deb13u9"}), suite="trixie-updates"),
    ]
    chosen = core.resolve(["a"], set(), indices)[0]
    assert (chosen["Version"], chosen["_suite"], chosen["_archive"]) == (
        "1.0-1+deb13u10",
        "trixie-security",
        "security",
    )


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("nope", "nope (needed by the specification) is in none of the suites trixie; correct the specification."),
        ("broken", "broken depends on gone (>= 1) | lost, which no suite has; correct the specification."),
    ],
)
def test_what_cannot_be_resolved_is_named(wanted, message):
    with pytest.raises(ImageError) as caught:
        core.resolve([wanted], set(), [index_of(("broken", {"Depends": "gone (>= 1) | lost"}))])
    assert str(caught.value) == message


def test_a_lock_entry_has_no_host_in_it():
    fields = {
        "Version": "2-1", "Architecture": "amd64", "Filename": "pool/main/a/a.deb", "Size": "7", "SHA256": "ab",
        "Source": "src (2-0)",
    }  # fmt: skip
    package = core.resolve(["a"], set(), [index_of(("a", fields))])[0]
    assert core.lock_entry(package) == {
        "name": "a", "version": "2-1", "architecture": "amd64", "archive": "main", "suite": "trixie",
        "path": "pool/main/a/a.deb", "size": 7, "sha256": "ab", "source": "src", "source_version": "2-0",
    }  # fmt: skip


# -- packages -----------------------------------------------------------------------------------------------------


@pytest.fixture
def locked(archive):
    path = archive.add("trixie", "a", {"usr/bin/a": b"1"})
    data = path.read_bytes()
    entry = {
        "name": "a", "version": "1.0", "archive": "main", "path": str(path.relative_to(archive.root)), "size": len(data),
        "sha256": core.hashlib.sha256(data).hexdigest(), "snapshot": "20260102T000000Z",
    }  # fmt: skip
    return entry, path


def test_a_package_comes_from_the_pool_then_from_the_cache(archive, locked, fetcher, tmp_path):
    entry, path = locked
    cache = str(tmp_path / "cache")
    core.fetch_package(entry, {"main": [archive.url]}, fetcher, cache, None)
    path.unlink()
    core.fetch_package(entry, {"main": [archive.url]}, fetcher, cache, None)
    assert core.cached(core.deb_path(cache, entry["sha256"]), entry["sha256"])


def test_a_tampered_package_is_refused_and_not_kept(archive, locked, fetcher, tmp_path):
    entry, path = locked
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(ImageError) as caught:
        core.fetch_package(entry, {"main": [archive.url]}, fetcher, str(tmp_path / "cache"), None)
    assert str(caught.value) == (
        f"{archive.url}/{entry['path']}: not the package that was locked (sha256 differs): it was tampered with or "
        f"damaged on the way; {FIX}."
    )
    assert not (tmp_path / "cache").exists()


def test_a_package_that_is_gone_everywhere_says_what_helps(archive, locked, fetcher, tmp_path):
    entry, path = locked
    path.unlink()
    with pytest.raises(ImageError) as caught:
        core.fetch_package(entry, {"main": [archive.url]}, fetcher, str(tmp_path / "cache"), None)
    assert str(caught.value).startswith("a 1.0 is neither in the cache nor to be had (file://")
    assert str(caught.value).endswith(
        "; update the collection, or set mcpstack_images_snapshot to a snapshot service, or fill the cache from another "
        "build host."
    )


def test_a_mirror_that_is_down_is_told_apart_from_a_package_that_is_gone(locked, fetcher, tmp_path, monkeypatch):
    monkeypatch.setattr(core.time, "sleep", lambda seconds: None)
    entry, _path = locked
    with pytest.raises(ImageError) as caught:
        core.fetch_package(entry, {"main": ["http://127.0.0.1:9/debian"]}, fetcher, str(tmp_path / "cache"), None)
    assert str(caught.value) == (
        f"a 1.0 is not in the cache and cannot be fetched (http://127.0.0.1:9/debian/{entry['path']}: Connection refused); "
        f"{FIX}."
    )


def test_a_superseded_package_comes_from_the_snapshot_service(archive, locked, fetcher, tmp_path):
    entry, path = locked
    place = tmp_path / "snapshot" / "debian" / "20260102T000000Z" / entry["path"]
    place.parent.mkdir(parents=True)
    path.rename(place)
    core.fetch_package(
        entry, {"main": [archive.url]}, fetcher, str(tmp_path / "c"), (tmp_path / "snapshot").as_uri() + "/"
    )
    assert core.cached(core.deb_path(str(tmp_path / "c"), entry["sha256"]), entry["sha256"])


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(core.os, "fsync", full)
    with pytest.raises(ImageError) as caught:
        core.write_atomically(str(tmp_path / "d" / "f"), b"x")
    assert str(caught.value) == (
        f"{tmp_path}/d/f: cannot be written (No space left on device); free some space, or set "
        "mcpstack_images_cache_dir to a directory that can be written."
    )
    assert list((tmp_path / "d").iterdir()) == []


# -- http ---------------------------------------------------------------------------------------------------------


class Handler(http.server.BaseHTTPRequestHandler):
    seen: list = []
    truncated = 0

    def do_GET(self):  # noqa: N802
        Handler.seen.append((self.path, self.headers.get("Authorization")))
        if self.path == "/gone":
            self.send_error(404)
            return
        body = b"0123456789"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if Handler.truncated:
            Handler.truncated -= 1
            body = body[:3]
        self.wfile.write(body)

    def log_message(self, *_arguments):
        pass


@pytest.fixture
def web(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(core.time, "sleep", lambda seconds: None)
    Handler.seen, Handler.truncated = [], 0
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_broken_transfer_is_tried_again_and_never_half_believed(web):
    Handler.truncated = 1
    assert core.Fetcher(DIRECT).read(f"http://{web}/x") == b"0123456789"
    Handler.truncated = 9
    with pytest.raises(ImageError):
        core.Fetcher(DIRECT).read(f"http://{web}/x")


def test_a_missing_file_is_not_asked_for_again(web):
    with pytest.raises(ImageError, match=f"^http://{web}/gone: HTTP 404$"):
        core.Fetcher(DIRECT).read(f"http://{web}/gone")
    assert len(Handler.seen) == 1


def test_a_password_in_the_address_is_sent_and_never_shown(web):
    core.Fetcher(DIRECT).read(f"http://user:p%40ss@{web}/x")
    assert Handler.seen == [("/x", "Basic dXNlcjpwQHNz")]
    with pytest.raises(ImageError) as caught:
        core.Fetcher(DIRECT).read(f"http://user:secret@{web}/gone")
    assert "secret" not in str(caught.value)


def test_apts_proxy_is_used_except_where_apt_goes_direct(web):
    settings = {"Acquire::http::Proxy": f"http://{web}", "Acquire::http::Proxy::near.example": "DIRECT"}
    assert core.Fetcher(settings).read("http://far.example/x") == b"0123456789"
    assert Handler.seen[-1][0] == "http://far.example/x"
    assert core.Fetcher(settings).direct == {"near.example"}
