# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is in an image: for every check what fails, what passes, and what must stay silent."""

from __future__ import annotations

import io
import json

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_image import TABLE, Wanted, audit_image
from ansible_collections.mcpstack.platform.plugins.module_utils._image_contents import Archive
from ansible_collections.mcpstack.platform.plugins.module_utils._image_updates import CHECKED, UNAVAILABLE, Source
from ansible_collections.mcpstack.platform.tests.unit.plugins.module_utils.test_image_contents import oci, tar

PASSWD = b"root:x:0:0:root:/:/bin/sh\napp:x:64100:64100::/:/bin/sh\nadmin:x:0:0::/:/bin/sh\n"
STATUS = b"Package: zlib1g\nStatus: install ok installed\nArchitecture: amd64\nSource: zlib\nVersion: 1:1.3-1\n"
RELEASE = b'ID=debian\nVERSION_CODENAME=trixie\nPRETTY_NAME="Debian 13"\n'
FILES = [
    ("etc/passwd", PASSWD),
    ("etc/os-release", RELEASE),
    ("var/lib/dpkg/status", STATUS),
    ("usr/bin/app", b"x", 0o755),
]
SETTINGS = {
    "User": "64100:64100",
    "Cmd": ["app"],
    "Healthcheck": {"Test": ["CMD", "app", "--ready"]},
    "Env": ["PATH=/usr/bin"],
}
LOCK = {"image": {"id": "sha256:lock"}, "packages": [{"name": "zlib1g", "version": "1:1.3-1"}]}


def silent(packages, release):
    return Source("Debian security archive", CHECKED, f"{len(packages)} packages compared")


GOOD = Wanted(lock=LOCK, sources=(("debian", silent),))


def image(files=(), settings=None, config=None, layers=None, history=(), without=()):
    document = {
        "os": "linux",
        "architecture": "amd64",
        "config": {**SETTINGS, **(settings or {})},
        "history": [{"created_by": step} for step in history],
        **(config or {}),
    }
    tree = [entry for entry in FILES if entry[0] not in without and entry[0] not in {name for name, *_r in files}]
    layers = [tar([*tree, *files])] if layers is None else layers
    members = [("config", json.dumps(document).encode())]
    members += [(f"{number}/layer.tar", layer) for number, layer in enumerate(layers)]
    listed = [{"Config": "config", "RepoTags": ["app:1"], "Layers": [name for name, _data in members[1:]]}]
    data = tar([*members, ("manifest.json", json.dumps(listed).encode())])
    (found,) = Archive(io.BytesIO(data).read).images()
    found.id = "sha256:lock"
    return found


def judge(found, wanted=GOOD):
    audit = Audit(TABLE)
    audit_image(audit, found, "app:1", wanted)
    return audit.result()


def found(result):
    return [(item["id"], item["severity"], item["where"]) for item in result["findings"]]


def states(result, *ids):
    return {state["id"]: state["status"] for state in result["checks_run"] if not ids or state["id"] in ids}


def reason(result, check_id):
    return next(state["reason"] for state in result["checks_run"] if state["id"] == check_id)


def test_an_image_without_weakness_passes_everything():
    result = judge(image())
    assert found(result) == []
    assert set(states(result).values()) == {"pass"}


# -- IMG-04: the user -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", ["", "0", "0:0", "root", "root:app", "00", "+0", "admin", "admin:64100"])
def test_root_in_every_spelling(user):
    assert found(judge(image(settings={"User": user}))) == [("IMG-04", "high", "config.User")]


@pytest.mark.parametrize("user", ["64100", "64100:0", "app", "app:root", "1", "99999"])
def test_users_that_are_not_root(user):
    assert found(judge(image(settings={"User": user}))) == []


def test_a_number_that_the_image_gives_to_root_by_name():
    files = [("etc/passwd", b"1000:x:0:0::/:/bin/sh\n" + PASSWD)]
    assert found(judge(image(files, {"User": "1000"}))) == [("IMG-04", "high", "config.User")]


def test_a_name_that_the_image_does_not_know_is_not_decided():
    result = judge(image(settings={"User": "nobody"}))
    assert (found(result), states(result, "IMG-04")) == ([], {"IMG-04": "unknown"})
    result = judge(image(settings={"User": "app"}, without=("etc/passwd",)))
    assert states(result, "IMG-04") == {"IMG-04": "unknown"}
    assert "it has no /etc/passwd" in reason(result, "IMG-04")


def test_a_number_needs_no_passwd():
    assert found(judge(image(without=("etc/passwd",)))) == []


# -- IMG-05: the health check -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", [None, {}, {"Test": None}, {"Test": []}, {"Test": ["NONE"]}])
def test_no_health_check(check):
    assert found(judge(image(settings={"Healthcheck": check}))) == [("IMG-05", "low", "config.Healthcheck")]


def test_a_health_check_of_the_compose_file_is_enough():
    wanted = Wanted(lock=LOCK, sources=GOOD.sources, allow=frozenset({"no_health_check"}))
    result = judge(image(settings={"Healthcheck": None}), wanted)
    assert (found(result), states(result, "IMG-05")) == ([], {"IMG-05": "not_applicable"})


# -- IMG-06: bits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "evidence"),
    [
        (("usr/lib/su-exec", b"x", 0o4755), "set-user-id: mode 4755, owner 0:0"),
        (("usr/lib/wall", b"x", 0o2755, 5), "set-group-id: mode 2755, owner 5:5"),
        (("usr/lib/both", b"x", 0o6711), "set-user-id and set-group-id: mode 6711, owner 0:0"),
        (("usr/lib/hard", "=usr/bin/app", 0o4755), "set-user-id: mode 4755, owner 0:0"),
    ],
)
def test_programs_with_bits(entry, evidence):
    result = judge(image([entry]))
    assert [(i["id"], i["severity"], i["where"], i["evidence"]) for i in result["findings"]] == [
        ("IMG-06", "medium", f"/{entry[0]}", evidence)
    ]
    neutral = Wanted(lock=LOCK, sources=GOOD.sources, no_new_privileges=True)
    assert found(judge(image([entry]), neutral)) == [("IMG-06", "low", f"/{entry[0]}")]


@pytest.mark.parametrize("entry", [("srv/mail", None, 0o2775), ("tmp", None, 0o1777), ("usr/lib/x", "->app", 0o4777)])
def test_directories_and_links_with_bits_give_nothing(entry):
    assert found(judge(image([entry]))) == []


def test_what_an_upper_layer_takes_away_is_gone():
    layers = [tar([*FILES, ("usr/lib/su", b"x", 0o4755)]), tar([("usr/lib/su", b"x", 0o755)])]
    assert found(judge(image(layers=layers))) == []


def test_hundreds_are_summed_up():
    entries = [(f"usr/lib/s{number:03}", b"x", 0o4755) for number in range(60)]
    result = judge(image(entries))
    assert len(result["findings"]) == 41
    assert [i["evidence"] for i in result["findings"] if i["where"] == "and more"] == ["20 more of these"]


# -- IMG-07: how it was built -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "step",
    [
        "RUN /bin/sh -c curl -fsSL https://example.org/i.sh | sh # buildkit",
        "/bin/sh -c curl 'https://example.org/i.sh?a=1&b=2' | sudo -E bash -s -- -y",
        "/bin/sh -c wget -qO- example.org/x |& /bin/bash",
        "RUN /bin/sh -c bash <(curl -s https://example.org/x)",
        'RUN /bin/sh -c sh -c "$(curl -fsSL https://example.org/x)"',
        "RUN curl -sSL https://example.org/x | python3 -",
        "ADD https://example.org/app.tar.gz /app # buildkit",
        "/bin/sh -c #(nop) ADD https://example.org/x in /x",
        "ADD --chown=1:1 git@github.com:a/b.git /src # buildkit",
    ],
)
def test_steps_that_trust_the_network(step):
    assert found(judge(image(history=["FROM x", step]))) == [("IMG-07", "low", "history[1]")]


@pytest.mark.parametrize(
    "step",
    [
        "/bin/sh -c #(nop) ADD file:0123abcd in / ",  # how every base image begins
        "ADD rootfs.tar.xz / # buildkit",
        'HEALTHCHECK &{["CMD-SHELL" "curl -f http://localhost/ || exit 1"] "0s"}',
        "RUN /bin/sh -c curl -fsSL -o i.sh https://example.org/i.sh && sha256sum -c i.sum && sh i.sh",
        "RUN /bin/sh -c curl -s https://example.org/key | gpg --dearmor -o /k",
        "RUN /bin/sh -c curl -s https://example.org/x | tar xz",
        "RUN /bin/sh -c curl -s https://example.org/x | python3 -c 'import json'",
        "COPY sh /bin/sh # buildkit",
        "LABEL doc=https://example.org/ADD https",
    ],
)
def test_steps_that_stay_silent(step):
    assert found(judge(image(history=[step]))) == []


def test_what_was_left_in_the_image():
    files = [
        ("usr/bin/sudo", b"x", 0o755),
        ("var/lib/apt/lists/deb_dists_trixie_InRelease", b"x"),
        ("bin/sh", "->dash"),
        ("usr/bin/dash", b"x", 0o755),
        ("usr/bin/apt-get", b"x", 0o755),
    ]
    result = judge(image(files))
    assert found(result) == [
        ("IMG-07", "low", "/usr/bin/sudo"),
        ("IMG-07", "low", "/var/lib/apt/lists"),
        ("IMG-07", "info", "/bin/sh"),
        ("IMG-07", "info", "/usr/bin/apt-get"),
    ]
    allowed = Wanted(lock=LOCK, sources=GOOD.sources, allow=frozenset({"shell", "package_manager"}))
    assert [where for _id, _severity, where in found(judge(image(files[2:]), allowed))] == []


def test_empty_lists_and_look_alikes_stay_silent():
    files = [
        ("var/lib/apt/lists/lock", b"x"),
        ("var/lib/apt/lists/partial", None),
        ("usr/share/doc/sh", b"x"),
        ("usr/lib/sudo", b"x"),
    ]
    assert found(judge(image(files))) == []


# -- IMG-08: the platform -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [{"os": "unknown", "architecture": "unknown"}, {"os": "", "architecture": ""}, {"os": "linux", "architecture": None},
     {"config": {"format": "gguf"}}],
)  # fmt: skip
def test_what_never_runs(config):
    result = judge(image(config=config))
    assert [row[:2] for row in found(result)] == [("IMG-08", "high")]
    assert states(result, "IMG-04", "IMG-09") == {"IMG-04": "not_applicable", "IMG-09": "not_applicable"}


def test_a_model_artifact_in_an_oci_layout():
    layer = {"digest": "sha256:m", "mediaType": "application/vnd.docker.ai.gguf.v3"}
    data = oci(
        [({"config": {"digest": "sha256:c"}, "layers": [layer]}, {})],
        {"blobs/sha256/c": b'{"os": "linux"}', "blobs/sha256/m": b"GGUF" * 300},
    )
    (model,) = Archive(io.BytesIO(data).read).images()
    assert found(judge(model, Wanted())) == [("IMG-08", "high", "layers")]


@pytest.mark.parametrize(
    ("config", "platform"),
    [({"os": "windows"}, ""), ({"architecture": "sparc"}, ""), ({"architecture": "arm64"}, "linux/amd64")],
)
def test_another_platform(config, platform):
    wanted = Wanted(lock=LOCK, sources=GOOD.sources, platform=platform)
    assert found(judge(image(config=config), wanted)) == [("IMG-08", "high", "config")]
    assert found(judge(image(), Wanted(lock=LOCK, sources=GOOD.sources, platform="linux/amd64"))) == []


def test_nothing_to_start():
    assert found(judge(image(settings={"Cmd": None}))) == [("IMG-08", "low", "config")]
    assert found(judge(image(settings={"Cmd": None, "Entrypoint": ["app"]}))) == []


# -- IMG-09: updates ------------------------------------------------------------------------------------------------


def with_source(source, **options):
    return Wanted(lock=LOCK, sources=(("debian", lambda packages, release: source),), **options)


def test_a_pending_update():
    source = Source("Debian security archive", CHECKED, "1", weak=[("zlib1g", "1:1.3-1 (trixie-security has 1:1.3-2)")])
    result = judge(image(), with_source(source))
    assert [(i["id"], i["where"], i["evidence"]) for i in result["findings"]] == [
        ("IMG-09", "zlib1g", "1:1.3-1 (trixie-security has 1:1.3-2)")
    ]


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (
            with_source(Source("Debian security archive", UNAVAILABLE, "did not answer: timed out")),
            "did not answer: timed out",
        ),
        (
            with_source(Source("Debian security archive", CHECKED, "1", silent=["mine"])),
            "says nothing of 1 packages: mine",
        ),
        (Wanted(lock=LOCK), "1 debian packages were not compared with anything"),
    ],
)
def test_a_source_that_does_not_answer_is_never_a_pass(wanted, said):
    result = judge(image(), wanted)
    assert (found(result), states(result, "IMG-09")) == ([], {"IMG-09": "unknown"})
    assert said in reason(result, "IMG-09")


@pytest.mark.parametrize(
    ("files", "without", "said"),
    [
        ([], ("var/lib/dpkg/status",), "holds no list of packages"),
        ([("lib/apk/db/installed", b"x"), ("etc/os-release", b'ID=alpine\nPRETTY_NAME="Alpine Linux v3.22"\n')],
         ("var/lib/dpkg/status",), "nothing here knows the updates of Alpine Linux v3.22"),
        ([("var/lib/rpm/rpmdb.sqlite", b"x")], ("var/lib/dpkg/status",), "nothing here knows the updates of"),
    ],
)  # fmt: skip
def test_packages_that_nobody_knows_are_never_a_pass(files, without, said):
    result = judge(image(files, without=without), Wanted(sources=GOOD.sources, lock={"packages": [1]}))
    assert states(result, "IMG-09") == {"IMG-09": "unknown"}
    assert said in reason(result, "IMG-09")


def test_wheels_are_asked_about_by_name_and_version():
    asked = []
    files = [
        (
            "app/site/Jinja2-2.11.2.dist-info/METADATA",
            b"Metadata-Version: 2.1\nName: Jinja2\nVersion: 2.11.2\n\nVersion: 9\n",
        ),
        ("usr/lib/python3/dist-packages/yaml-6.dist-info/METADATA", b"Name: yaml\nVersion: 6\n"),  # dpkg's
    ]

    def python(packages, _release):
        asked.extend(packages)
        return Source("Python package index", CHECKED, "1")

    judge(image(files), Wanted(lock=LOCK, sources=(*GOOD.sources, ("python", python))))
    assert [(package.name, package.version) for package in asked] == [("jinja2", "2.11.2")]


def test_images_without_dpkg_carry_their_packages_in_parts():
    asked = []
    files = [
        ("var/lib/dpkg/status.d/zlib1g", STATUS.replace(b"Status: install ok installed\n", b"")),
        ("var/lib/dpkg/status.d/zlib1g.md5sums", b"x"),
    ]

    def debian(packages, release):
        asked.extend(packages)
        return silent(packages, release)

    judge(image(files, without=("var/lib/dpkg/status",)), Wanted(lock=LOCK, sources=(("debian", debian),)))
    assert [(package.name, package.source) for package in asked] == [("zlib1g", "zlib")]


def test_the_date_of_an_image_is_not_judged():
    assert found(judge(image(config={"created": "1970-01-01T00:00:00Z"}))) == []


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ([("usr/share/sbom/app.spdx.json", b"{}")], Wanted(sources=GOOD.sources)),
        ([("app.cdx.json", b"{}")], Wanted(sources=GOOD.sources)),
        ([], Wanted(sources=GOOD.sources, sboms=[("x.cdx.json", {"components": [{"name": "zlib1g", "version": "1:1.3-1"}]})])),
        ([], Wanted(sources=GOOD.sources, sboms=[("x.spdx.json", {"packages": [{"name": "zlib1g", "versionInfo": "1:1.3-1"}]})])),
    ],
)  # fmt: skip
def test_a_bill_of_materials_may_be_inside_or_beside(files, wanted):
    assert [row for row in found(judge(image(files), wanted)) if row[0] == "IMG-09"] == []


def test_no_bill_of_materials_and_that_of_another_image():
    assert ("IMG-09", "low", "bill of materials") in found(judge(image(), Wanted(sources=GOOD.sources)))
    wanted = Wanted(
        lock=LOCK,
        sources=GOOD.sources,
        sboms=[("x.cdx.json", {"components": [{"name": "zlib1g", "version": "1:1.2"}]})],
    )
    result = judge(image(), wanted)
    assert [(i["id"], i["where"], i["evidence"]) for i in result["findings"]] == [
        ("IMG-09", "x.cdx.json", "does not list zlib1g 1:1.3-1")
    ]


# -- IMG-01, IMG-10 ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lock", "rows"),
    [
        ({**LOCK, "image": {"id": "sha256:other"}}, [("IMG-01", "id", "sha256:lock where the lock has sha256:other")]),
        ({**LOCK, "packages": [{"name": "zlib1g", "version": "1:1.2"}]}, [("IMG-01", "zlib1g", "1:1.3-1 where the lock has 1:1.2")]),
        ({**LOCK, "packages": []}, [("IMG-01", "zlib1g", "1:1.3-1 where the lock has none of it")]),
        ({**LOCK, "packages": [*LOCK["packages"], {"name": "more", "version": "1"}]}, [("IMG-01", "more", "is not in the image, the lock has 1")]),
        ({"packages": LOCK["packages"]}, []),
        ({"image": "x", "packages": LOCK["packages"]}, []),
    ],
)  # fmt: skip
def test_drift_from_the_lock(lock, rows):
    result = judge(
        image(),
        Wanted(
            lock=lock, sources=GOOD.sources, sboms=[("b", {"components": [{"name": "zlib1g", "version": "1:1.3-1"}]})]
        ),
    )
    assert [(i["id"], i["where"], i["evidence"]) for i in result["findings"] if i["id"] == "IMG-01"] == rows


def test_without_a_lock_the_pin_does_not_apply():
    assert states(judge(image(), Wanted()), "IMG-01") == {"IMG-01": "not_applicable"}


def test_who_made_it():
    assert ("IMG-10", "low", "attestations") in found(judge(image(), Wanted()))
    engine = judge(image(), Wanted(kept_by_engine=True))
    assert states(engine, "IMG-10") == {"IMG-10": "unknown"}
    attested = image()
    attested.attested = ["https://slsa.dev/provenance/v1"]
    assert states(judge(attested, Wanted()), "IMG-10") == {"IMG-10": "pass"}
    attested.attested = ["https://spdx.dev/Document"]
    result = judge(attested, Wanted())
    assert states(result, "IMG-10") == {"IMG-10": "fail"}
    assert "bill of materials" not in [where for _id, _severity, where in found(result)]
    signed = image()
    signed.signed = True
    assert states(judge(signed, Wanted()), "IMG-10") == {"IMG-10": "pass"}


# -- SEC-15, SEC-08 -----------------------------------------------------------------------------------------------------

TOKEN = "ghp_" + "a1B2c3D4" * 5


@pytest.mark.parametrize(
    ("settings", "history", "where"),
    [
        ({"Env": ["DB_PASSWORD=s3cr3t-value"]}, [], "config.Env DB_PASSWORD"),
        ({"Env": ["DATABASE_URL=postgres://app:s3cr3t@db/app"]}, [], "config.Env DATABASE_URL"),
        ({"Env": [f"X={TOKEN}"]}, [], "config.Env X"),
        ({"Labels": {"api.token": TOKEN}}, [], "config.Labels api.token"),
        ({}, ["ENV API_KEY=sdkfjh3487fh"], "history[0] API_KEY"),
        ({}, ["|1 NPM_TOKEN=abcdef123456 /bin/sh -c npm ci"], "history[0] NPM_TOKEN"),
        ({}, [f"RUN /bin/sh -c git clone https://x:{TOKEN}@github.com/a/b"], "history[0] a credential"),
        ({}, [f"RUN /bin/sh -c curl -H 'Authorization: {TOKEN}' x"], "history[0] a credential"),
    ],
)  # fmt: skip
def test_secrets_in_what_everybody_can_read(settings, history, where):
    result = judge(image(settings=settings, history=history))
    assert found(result) == [("SEC-15", "high", where)]
    text = json.dumps(result)
    assert "s3cr3t" not in text and TOKEN not in text and "sdkfjh3487fh" not in text and "abcdef123456" not in text


@pytest.mark.parametrize(
    ("settings", "history"),
    [
        ({"Env": ["POSTGRES_PASSWORD_FILE=/run/secrets/db", "PATH=/bin", "GPG_KEY=A035C8C19219BA821ECEA86B64E628F8D684696D"]}, []),
        ({"Env": ["API_KEY=", "TOKEN=${TOKEN}"]}, []),
        ({"Labels": {"org.opencontainers.image.source": "https://github.com/a/b"}}, []),
        ({}, ["RUN --mount=type=secret,id=npm /bin/sh -c NPM_TOKEN=$(cat /run/secrets/npm) npm ci"]),
        ({}, ["ARG DB_PASSWORD", "ENV PASSWORD_FILE=/run/x"]),
    ],
)  # fmt: skip
def test_what_is_no_secret_stays_silent(settings, history):
    assert found(judge(image(settings=settings, history=history))) == []


def test_the_same_secret_in_environment_and_history_is_one_finding():
    assert found(
        judge(image(settings={"Env": ["A_PASSWORD=hidden-value"]}, history=["ENV A_PASSWORD=hidden-value"]))
    ) == [("SEC-15", "high", "config.Env A_PASSWORD")]


KEY = b"-----BEGIN OPENSSH " + b"PRIVATE KEY-----\nx\n"


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("root/.ssh/id_ed25519", KEY),
        ("app/server.key", KEY.replace(b"OPENSSH ", b"")),
        ("app/all.pem", b"-----BEGIN CERTIFICATE-----\n" + KEY),
        ("app/.env", b"# x\nDB_PASSWORD=s3cr3t-value\n"),
        ("app/.env.production", b"export API_TOKEN=s3cr3t-value\n"),
        ("root/.npmrc", b"//registry.example.org/:_authToken=abc\n"),
        ("root/.docker/config.json", b'{"auths": {"x": {"auth": "YWI="}}}'),
        ("app/store.p12", b"\x30\x82"),
    ],
)
def test_files_with_secrets(path, content):
    result = judge(image([(path, content)]))
    assert found(result) == [("SEC-08", "critical", f"/{path}")]
    assert "s3cr3t" not in json.dumps(result)


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("etc/ssl/certs/ca.pem", b"-----BEGIN CERTIFICATE-----\n"),
        ("app/site/lib/tests/server.key", KEY),  # what a library tests itself with
        ("app/.env", b"PORT=8080\nDB_PASSWORD_FILE=/run/secrets/db\n"),
        ("app/.env.example", b"DB_PASSWORD=change-me\n"),
        ("app/key.txt", b"nothing"),
        ("root/.npmrc", b"registry=https://registry.example.org/\n"),
        ("root/.docker/config.json", b'{"credsStore": "pass"}'),
    ],
)
def test_files_that_only_look_like_it(path, content):
    assert found(judge(image([(path, content)]))) == []


# -- what cannot be read ----------------------------------------------------------------------------------------------


def test_layers_that_cannot_be_read_leave_their_checks_unknown():
    result = judge(image(layers=[tar(FILES), b"\x28\xb5\x2f\xfd" + b"z" * 600]))
    assert states(result) == {
        "IMG-01": "unknown", "IMG-04": "pass", "IMG-05": "pass", "IMG-06": "unknown", "IMG-07": "unknown",
        "IMG-08": "pass", "IMG-09": "unknown", "IMG-10": "pass", "SEC-08": "unknown", "SEC-15": "pass",
    }  # fmt: skip


def test_a_layer_that_is_not_the_promised_one():
    result = judge(image(config={"rootfs": {"diff_ids": ["sha256:" + "0" * 64]}}))
    assert [row[:2] for row in found(result)] == [("IMG-08", "high")]


@pytest.mark.parametrize(
    "config",
    [
        {"config": None}, {"config": []}, {"config": {"User": 5, "Env": [3, None], "Labels": [], "Healthcheck": "x"}},
        {"history": "x"}, {"history": [None, 3, {"created_by": 5}]}, {"rootfs": []}, {"rootfs": {"diff_ids": 3}},
        {"config": {"User": "\ud800:\x00", "Env": "abc", "Healthcheck": {"Test": "CMD"}}},
    ],
)  # fmt: skip
def test_any_configuration_gives_an_answer(config):
    judge(image(config=config))
