# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The sources of known weaknesses: a signed archive of our own and a package index on loopback; silence is no answer."""

from __future__ import annotations

import http.server
import importlib.util
import json
import subprocess
import threading
import time
from pathlib import Path

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _image_updates as core
from ansible_collections.mcpstack.platform.plugins.module_utils._image_archive import Fetcher
from ansible_collections.mcpstack.platform.plugins.module_utils._image_updates import Debian, Package, Python

_spec = importlib.util.spec_from_file_location(
    "image_archive_fixture", Path(__file__).with_name("image_archive_fixture.py")
)
fixture = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fixture)

TRIXIE = {"ID": "debian", "VERSION_CODENAME": "trixie"}
DAY = 86400


@pytest.fixture(scope="module")
def signer():
    made = fixture.Signer()
    yield made
    made.close()


@pytest.fixture
def mirror(tmp_path, signer, monkeypatch):
    monkeypatch.setattr(core.archive, "host_sources", list)
    monkeypatch.setattr(core.archive.time, "sleep", lambda _seconds: None)
    main, security = fixture.Archive(tmp_path / "debian", signer), fixture.Archive(tmp_path / "debian-security", signer)
    for name, version in (("openssl", "3.5.1-1"), ("zlib1g", "1:1.3-1"), ("nginx", "1.26-3")):
        main.add("trixie", name, {}, version)
    security.add("trixie-security", "openssl", {}, "3.5.1-1+deb13u1")
    security.add("trixie-security", "nginx", {}, "1.26-2")
    main.publish("trixie")
    security.publish("trixie-security", valid_for=7 * DAY, Suite="stable-security")
    return main, security


def ask(mirror, packages, release=TRIXIE, keyring=None, **options):
    main, security = mirror
    debian = Debian(str(keyring or main.signer.keyring), main.url, security.url, fetcher=Fetcher({}, 5), **options)
    return debian.judge([Package(name, version, "amd64") for name, version in packages], release)


def test_a_pending_security_update(mirror):
    source = ask(mirror, [("openssl", "3.5.1-1"), ("zlib1g", "1:1.3-1"), ("nginx", "1.26-3")])
    assert (source.state, source.weak, source.silent) == (
        "checked", [("openssl", "3.5.1-1 (trixie-security has 3.5.1-1+deb13u1)")], []
    )  # fmt: skip
    assert source.detail == "3 packages compared, 1 with a pending security update"


@pytest.mark.parametrize("version", ["3.5.1-1+deb13u1", "3.5.1-1+deb13u2", "3.5.1-1+deb13u1+b1", "1:1"])
def test_what_is_as_new_or_newer_is_not_pending(mirror, version):
    assert ask(mirror, [("openssl", version)]).weak == []


def test_a_package_of_nobody_is_not_called_clean(mirror):
    source = ask(mirror, [("mine", "1.0"), ("zlib1g", "1:1.3-1")])
    assert (source.silent, source.detail) == (["mine"], "1 packages compared, 0 with a pending security update")


@pytest.mark.parametrize("spoil", ["signature", "expired", "missing", "tampered"])
def test_an_index_that_cannot_be_believed_is_unavailable(mirror, tmp_path, signer, spoil):
    main, security = mirror
    place = security.root / "dists" / "trixie-security"
    if spoil == "signature":
        (place / "InRelease").write_bytes(
            (place / "InRelease").read_bytes().replace(b"Origin: Debian", b"Origin: Nobody")
        )
    elif spoil == "expired":
        security.publish("trixie-security", now=time.time() - 30 * DAY, valid_for=7 * DAY)
    elif spoil == "missing":
        (place / "InRelease").unlink()
    else:
        for path in place.rglob("*"):
            if path.is_file() and path.name != "InRelease":
                path.write_bytes(b"x" + path.read_bytes())
    source = ask(mirror, [("openssl", "3.5.1-1")])
    assert (source.state, source.weak) == ("unavailable", [])
    assert source.detail.startswith("did not answer: ")


def test_testing_gets_no_security_updates_of_its_own(mirror):
    mirror[0].publish("trixie", Suite="testing")
    source = ask(mirror, [("openssl", "3.5.1-1")])
    assert (source.state, source.detail) == (
        "unavailable",
        "trixie is testing, which gets no security updates of its own",
    )


@pytest.mark.parametrize(
    "release",
    [
        {},
        {"ID": "ubuntu", "VERSION_CODENAME": "noble"},
        {"ID": "debian"},
        {"ID": "debian", "VERSION_CODENAME": "../../x"},
    ],
)
def test_other_systems_are_unavailable(mirror, release):
    assert ask(mirror, [("openssl", "1")], release).state == "unavailable"


def test_without_a_keyring_nothing_is_believed(mirror, monkeypatch):
    monkeypatch.setattr(core, "KEYRINGS", ())
    main, security = mirror
    assert Debian(None, main.url, security.url).judge([Package("openssl", "1")], TRIXIE).detail == (
        "no keyring of the Debian archive is on this host; set keyring"
    )


def test_an_index_is_fetched_once_for_all_images(mirror, monkeypatch):
    calls = []
    real = core.archive.load_index
    monkeypatch.setattr(core.archive, "load_index", lambda *args: calls.append(args[0]["name"]) or real(*args))
    main, security = mirror
    debian = Debian(str(main.signer.keyring), main.url, security.url, fetcher=Fetcher({}, 5))
    for _image in range(3):
        debian.judge([Package("openssl", "3.5.1-1", "amd64")], TRIXIE)
    assert calls == ["trixie", "trixie-security"]


# -- Python -------------------------------------------------------------------------------------------------------------

KNOWN = {"id": "PYSEC-2021-66", "fixed_in": ["2.11.3"]}
ANSWERS = {
    "/pypi/jinja2/2.11.2/json": {"info": {"version": "2.11.2"}, "vulnerabilities": [KNOWN]},
    "/pypi/good/1.0/json": {"info": {"version": "1.0"}, "vulnerabilities": []},
    "/pypi/latest/json": {"info": {"version": "3.0"}, "vulnerabilities": []},
    "/pypi/older/json": {"info": {"version": "3.0"}, "vulnerabilities": []},
    "/pypi/gone/1.0/json": {
        "info": {"version": "1.0", "yanked": True, "yanked_reason": "broken"},
        "vulnerabilities": [],
    },
    "/pypi/withdrawn/1.0/json": {"info": {"version": "1.0"}, "vulnerabilities": [{**KNOWN, "withdrawn": "2022-01-01"}]},
    "/pypi/mute/1.0/json": {"info": {"version": "1.0"}},
    "/pypi/odd/1.0/json": [],
    "/pypi/odd/json": {"info": 3, "vulnerabilities": {}},
}


@pytest.fixture(scope="module")
def index():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            answer = ANSWERS.get(self.path)
            body = b"{broken" if self.path.startswith("/pypi/broken") else json.dumps(answer).encode()
            self.send_response(404 if answer is None and b"{broken" != body else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/simple/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def direct(monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def wheels(index, *packages):
    return Python(index).judge([Package(name, version) for name, version in packages])


def test_what_the_index_holds_against_a_wheel(index, direct):
    source = wheels(
        index, ("jinja2", "2.11.2"), ("good", "1.0"), ("gone", "1.0"), ("withdrawn", "1.0"), ("latest", "3.0")
    )
    assert (source.state, source.silent) == ("checked", [])
    assert source.weak == [
        ("jinja2", "2.11.2: PYSEC-2021-66 (fixed in 2.11.3)"),
        ("gone", "1.0: withdrawn: broken"),
    ]
    assert source.detail == "5 packages asked about, 2 with something known"


def test_what_is_said_of_the_latest_version_says_nothing_of_an_older_one(index, direct):
    source = wheels(
        index, ("good", "1.0"), ("older", "2.0"), ("mute", "1.0"), ("odd", "1.0"), ("broken", "1.0"), ("absent", "1.0")
    )
    assert source.silent == ["older 2.0", "mute 1.0", "odd 1.0", "broken 1.0", "absent 1.0"]
    assert source.detail == "1 packages asked about, 0 with something known"


def test_an_index_that_answers_for_nothing_is_unavailable_and_gives_no_number_of_weaknesses(index, direct):
    source = wheels(index, ("absent", "1.0"), ("older", "2.0"))
    assert (source.state, source.weak) == ("unavailable", [])
    assert source.detail.startswith("did not answer for any of 2 packages: ")
    assert "known" not in source.detail


def test_nobody_listens(direct, monkeypatch):
    monkeypatch.setattr(core.archive.time, "sleep", lambda _seconds: None)
    assert wheels("http://127.0.0.1:9/simple", ("good", "1.0")).state == "unavailable"


def pip(listing="", default="https://index.example/simple\n", status=0):
    def run(command, **_options):
        return subprocess.CompletedProcess(command, status, listing if "config" in command else default, "")

    return run


def test_the_index_is_the_one_that_pip_is_configured_for():
    listing = "global.index-url='https://file.example/simple'\nglobal.cert='/ca.pem'\n:env:.index-url='https://env.example/simple'\n"
    assert core.configured_index(pip(listing)) == ("https://env.example/simple", "/ca.pem")
    assert core.configured_index(pip()) == ("https://index.example/simple", "")
    assert core.configured_index(pip("global.no-index='true'\n")) == ("", "")
    assert core.configured_index(pip(status=1)) == ("", "")


def test_without_pip_there_is_no_index(monkeypatch):
    def absent(*_args, **_options):
        raise FileNotFoundError

    assert core.configured_index(absent) == ("", "")
    monkeypatch.setattr(core, "configured_index", lambda: ("", ""))
    assert Python().judge([Package("a", "1")]).detail == "pip of this host has no index; set package_index"


# -- databases ----------------------------------------------------------------------------------------------------------


def test_only_what_is_installed_counts():
    status = (
        b"Package: a\nStatus: install ok installed\nVersion: 1\nArchitecture: amd64\n\n"
        b"Package: b\nStatus: deinstall ok config-files\nVersion: 2\n\n"
        b"Package: c\nVersion: 3\nSource: sea (3.0)\n\nPackage: d\n\nVersion: 4\n"
    )
    assert core.debian_packages([status]) == [Package("a", "1", "amd64", "a"), Package("c", "3", "", "sea")]


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"Name: \nVersion:", b"Name: x\n", b"\n\nName: x\nVersion: 1"])
def test_any_metadata_gives_an_answer(data):
    assert core.python_packages([data]) == []
    assert core.debian_packages([data]) == []
