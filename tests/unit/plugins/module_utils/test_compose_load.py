# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Compose loader: against Compose's own recorded answers, and where each value, variable and problem is."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.mcpstack.platform.plugins.module_utils import _compose_load, _compose_yaml
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import LocalFiles, MemoryFiles
from ansible_collections.mcpstack.platform.plugins.module_utils._compose_load import KINDS, Project, load
from ansible_collections.mcpstack.platform.tests.unit.plugins.module_utils.compose_json import (
    as_compose,
    plain,
    refused,
)

CASES = Path(__file__).resolve().parents[3] / "fixtures" / "compose"

#: Where this loader means to differ from Compose, and why.
DELIBERATE = {
    "foreign-tag": "Compose ignores every tag it does not know; !!python/… makes other programs that read the file run code",
}


def case_files(name: str) -> tuple[dict[str, bytes], dict]:
    root = CASES / name
    files = {
        f"/case/{path.relative_to(root)}": path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != "expected.json"
    }
    args = json.loads(files.pop("/case/args.json", b"{}"))
    return files, args


def load_case(files: dict[str, bytes], args: dict, **more) -> Project:
    options = {"profiles": args.get("profiles"), **more}
    return load(
        MemoryFiles(files, roots=("/",)),
        [f"/case/{name}" for name in args.get("files", ["compose.yml"])],
        env={"HOME": "/home/case", **args.get("env", {})},
        env_files=[f"/case/{name}" for name in args["env_files"]] if args.get("env_files") else None,
        project_directory=f"/case/{args['project_directory']}" if args.get("project_directory") else None,
        **options,
    )


def project(text: str | bytes, env: dict | None = None, **files: str) -> Project:
    """One compose file /c/compose.yml; more files by keyword: env is .env, others NAME.yml."""
    stored = {"/c/compose.yml": text}
    for name, content in files.items():
        stored["/c/.env" if name == "dotenv" else f"/c/{name}.yml"] = content
    return load(MemoryFiles(stored, roots=("/c",)), ["/c/compose.yml"], env=env or {})


def told(loaded: Project) -> list[tuple[str, str]]:
    return [(problem.kind, problem.where.rpartition("/")[2]) for problem in loaded.problems]


# The parser of record


@pytest.mark.parametrize("name", sorted(path.name for path in CASES.iterdir()))
def test_compose_agrees(name):
    files, args = case_files(name)
    expected = json.loads((CASES / name / "expected.json").read_text())
    loaded = load_case(files, args)
    if args.get("profiles") is None:
        # Compose ran with the profiles of COMPOSE_PROFILES only.
        loaded = load_case(files, args, profiles=loaded._selected)
    if name in DELIBERATE:
        assert refused(loaded) and "config" in expected
    elif "error" in expected:
        assert refused(loaded), f"Compose refuses: {expected['error']}"
    else:
        assert refused(loaded) == []
        assert json.loads(json.dumps(as_compose(loaded))) == expected["config"]


def test_the_cases_cover_both_answers():
    answers = [json.loads((path / "expected.json").read_text()) for path in CASES.iterdir()]
    assert sum("config" in answer for answer in answers) >= 30
    assert sum("error" in answer for answer in answers) >= 30
    assert {answer["compose"] for answer in answers} == {"2.26.1-4"}


REFUSALS = {
    "bad-boolean": [("type", "compose.yml:4")],
    "bad-command": [("value", "compose.yml:4")],
    "bad-duration": [("value", "compose.yml:4")],
    "bad-enum": [("value", "compose.yml:4")],
    "bad-healthcheck-list": [("value", "compose.yml:4")],
    "bad-mount": [("value", "compose.yml:4")],
    "bad-port": [("value", "compose.yml:4")],
    "bad-port-range": [("value", "compose.yml:4")],
    "bad-service-name": [("key", "compose.yml:1")],
    "bad-size": [("value", "compose.yml:4")],
    "bad-type-command": [("type", "compose.yml:4"), ("type", "compose.yml:4")],
    "bad-type-environment": [("type", "compose.yml:4")],
    "bad-type-image": [("type", "compose.yml:1"), ("conflict", "compose.yml:1")],
    "bad-type-ports": [("type", "compose.yml:4")],
    "bad-variable": [("variable", "compose.yml:1")],
    "bad-variable-name": [("variable", "compose.yml:1")],
    "binary": [("file", "compose.yml:1")],
    "bind-without-source": [("value", "compose.yml:4")],
    "condition-missing": [("type", "compose.yml:4")],
    "container-name-replicas": [("conflict", "compose.yml:4")],
    "dependency-circle": [("cycle", "compose.yml:4")],
    "device-without-target": [("value", "compose.yml:4")],
    "dotenv": [("value", ".env:1")],
    "dotenv-name": [("value", ".env:1")],
    "duplicate-key": [("yaml", "compose.yml:4")],
    "empty": [("type", "compose.yml:1")],
    "env-file-variable": [("value", "e.env:1")],
    "extends-circle": [("cycle", "compose.yml:3")],
    "extends-circle-files": [("cycle", "b.yml:1")],
    "extends-missing-file": [("file", "compose.yml:4")],
    "extends-missing-service": [("reference", "compose.yml:4")],
    "external-with-driver": [("conflict", "compose.yml:5")],
    "include-bad-env-file": [("file", "compose.yml:1"), ("file", "compose.yml:1")],
    "include-circle": [("cycle", "o.yml:1")],
    "include-conflict": [("conflict", "compose.yml:3")],
    "include-missing": [("file", "compose.yml:1")],
    "limits-differ": [("conflict", "compose.yml:4")],
    "long-mount-without-type": [("type", "compose.yml:4")],
    "merge-scalar": [("yaml", "compose.yml:4")],
    "missing-env-file": [("file", "compose.yml:4")],
    "network-mode-and-networks": [("conflict", "compose.yml:4")],
    "newer-key": [("newer", "compose.yml:4")],
    "no-image": [("conflict", "compose.yml:1")],
    "no-services-mapping": [("type", "compose.yml:1")],
    "not-a-mapping": [("type", "compose.yml:1")],
    "not-yaml": [("yaml", "compose.yml:2")],
    "null-document": [("type", "compose.yml:1")],
    "null-service": [("type", "compose.yml:2")],
    "number-key": [("yaml", "compose.yml:4")],
    "only-comment": [("type", "compose.yml:1")],
    "override-type": [("type", "o.yml:1"), ("type", "o.yml:1")],
    "profile-closure": [("profile", "compose.yml:2")],
    "required-variable": [("variable", "compose.yml:1")],
    "required-variable-nested": [("variable", "compose.yml:1")],
    "second-file-missing": [("file", "nope.yml:1")],
    "secret-two-sources": [("conflict", "compose.yml:5")],
    "secret-without-source": [("value", "compose.yml:5")],
    "security-opt-twice": [("value", "compose.yml:4")],
    "self-anchor": [("cycle", "compose.yml:4")],
    "tab": [("yaml", "compose.yml:2")],
    "ulimit-half": [("type", "compose.yml:4")],
    "undefined-config": [("reference", "compose.yml:4")],
    "undefined-dependency": [("reference", "compose.yml:4")],
    "undefined-namespace": [("reference", "compose.yml:4")],
    "undefined-network": [("reference", "compose.yml:4")],
    "undefined-secret": [("reference", "compose.yml:4")],
    "undefined-volume": [("reference", "compose.yml:4")],
    "unknown-anchor": [("yaml", "compose.yml:1")],
    "unknown-key": [("key", "compose.yml:4")],
    "unknown-nested-key": [("key", "compose.yml:4")],
    "unknown-top-key": [("key", "compose.yml:4")],
}


def test_every_refusal_is_listed():
    assert {f"refused-{name}" for name in REFUSALS} == {
        path.name for path in CASES.iterdir() if path.name.startswith("refused-")
    }


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_has_one_reason_and_its_place(name):
    files, args = case_files(f"refused-{name}")
    loaded = load_case(files, args)
    assert told(loaded) == REFUSALS[name]
    for problem in loaded.problems:
        assert problem.kind in KINDS and problem.what and problem.fix


@pytest.mark.parametrize(
    ("text", "what", "fix"),
    [
        (
            "services: {a: {image: x, port: []}}",
            "services.a.port is no key that Compose knows",
            "did you mean ports?",
        ),
        (
            "services:\n\ta: {image: x}",
            "this is not YAML: found character that cannot start any token",
            "indent with spaces, not with tabs",
        ),
        (
            "services: {a: {image: 'x:${TAG:?say which}'}}",
            "services.a.image needs the variable TAG, which has no value: say which",
            "give TAG a value in .env or in the environment",
        ),
        (
            "services: {a: {image: x, ports: ['80:99999']}}",
            "services.a.ports[0]: '80:99999': '99999' is above 65535",
            "correct it, or use the long form",
        ),
        (
            "services: {a: {image: x, privileged: maybe}}",
            "services.a.privileged: 'maybe' is neither true nor false",
            "write true or false",
        ),
        (
            "services: {a: {image: x, models: [m]}}",
            "services.a.models needs Compose 2.38; 2.26 refuses it",
            "remove it, or run the newer Compose",
        ),
        (
            "services: {a: {image: x, profiles: [p], depends_on: [b]}, b: {image: x, profiles: [q]}}",
            "services.a.depends_on.b: 'b' is not started with p; it belongs to q",
            "give both the same profile, or add required: false",
        ),
    ],
)
def test_sentences(text, what, fix):
    (problem,) = project(text).problems
    assert (problem.what, problem.fix) == (what, fix)


def test_all_problems_at_once():
    loaded = project(
        "services:\n"
        "  a:\n"
        "    image: x\n"
        "    colour: red\n"
        "    networks: [nope]\n"
        "    env_file: gone.env\n"
        "  b:\n"
        "    ports: text\n"
        "    extends: nobody\n"
        "include: [missing.yml]\n"
    )
    assert told(loaded) == [
        ("key", "compose.yml:4"),
        ("reference", "compose.yml:5"),
        ("file", "compose.yml:6"),
        ("conflict", "compose.yml:7"),
        ("type", "compose.yml:8"),
        ("reference", "compose.yml:9"),
        ("file", "compose.yml:10"),
    ]
    assert set(loaded.services) == {"a", "b"}
    assert "ports" not in loaded.services["b"]  # what has a wrong type is not handed on


def test_what_a_wrong_type_leaves_behind():
    loaded = project("services: {a: {image: x, cap_add: ALL, environment: [A=1, [b], {c: d}], ports: [80, {}, true]}}")
    assert loaded.services["a"] == {
        "image": "x",
        "environment": {"A": "1"},
        "ports": [{"mode": "ingress", "target": 80, "protocol": "tcp"}, {"protocol": "tcp", "mode": "ingress"}],
    }
    assert [problem.kind for problem in loaded.problems] == ["type", "type", "type", "type", "value"]


# Places

PLACES = {
    "/c/compose.yml": """\
x-base: &base
  restart: always
  labels:
    team: one
services:
  web:
    <<: *base
    image: nginx
    environment:
      A: 1
      B: 2
    ports:
      - "80:80"
      - "81:81"
    healthcheck:
      test: x
      interval: 5s
  api:
    extends:
      file: sub/base.yml
      service: app
    image: own
include:
  - inc.yml
networks:
  front:
    internal: true
""",
    "/c/over.yml": """\
services:
  web:
    environment:
      - B=3
      - C=4
    ports:
      - "80:80/tcp"
      - "8000-8001:8000-8001"
    healthcheck:
      test: y
    image: other
""",
    "/c/sub/base.yml": "services:\n  app:\n    image: base\n    user: '1'\n    volumes:\n      - ./d:/d\n",
    "/c/inc.yml": "services:\n  inner:\n    image: i\n",
}


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (("web",), "compose.yml:6"),
        (("web", "image"), "over.yml:11"),
        (("web", "restart"), "compose.yml:2"),
        (("web", "labels", "team"), "compose.yml:4"),
        (("web", "environment"), "compose.yml:9"),
        (("web", "environment", "A"), "compose.yml:10"),
        (("web", "environment", "B"), "over.yml:4"),
        (("web", "environment", "C"), "over.yml:5"),
        (("web", "ports", 0), "over.yml:7"),
        (("web", "ports", 1), "compose.yml:14"),
        (("web", "ports", 2), "over.yml:8"),
        (("web", "ports", 3), "over.yml:8"),
        (("web", "ports", 4), "compose.yml:12"),
        (("web", "ports", 1, "published"), "compose.yml:14"),
        (("web", "healthcheck", "test"), "over.yml:10"),
        (("web", "healthcheck", "interval"), "compose.yml:17"),
        (("web", "no_such_key"), "compose.yml:6"),
        (("api",), "compose.yml:18"),
        (("api", "image"), "compose.yml:22"),
        (("api", "user"), "base.yml:4"),
        (("api", "volumes", 0), "base.yml:6"),
        (("inner", "image"), "inc.yml:3"),
        (("nobody",), "compose.yml:5"),
    ],
)
def test_where_a_value_was_decided(path, place):
    loaded = load(MemoryFiles(PLACES, roots=("/c",)), ["/c/compose.yml", "/c/over.yml"])
    assert loaded.problems == []
    assert loaded.where(*path).rpartition("/")[2] == place


def test_where_outside_of_services():
    loaded = load(MemoryFiles(PLACES, roots=("/c",)), ["/c/compose.yml", "/c/over.yml"])
    assert loaded.place("networks", "front", "internal") == "/c/compose.yml:27"
    assert loaded.place("networks", "default") == "/c/compose.yml:25"
    assert loaded.files == ["/c/compose.yml", "/c/over.yml", "/c/sub/base.yml", "/c/inc.yml"]


def test_host_paths_belong_to_the_file_that_names_them():
    loaded = load(MemoryFiles(PLACES, roots=("/c",)), ["/c/compose.yml"])
    assert loaded.services["api"]["volumes"][0]["source"] == "/c/sub/d"


def test_local_files(tmp_path):
    (tmp_path / "compose.yml").write_text("services: {a: {image: 'x:${T}', env_file: e}}")
    (tmp_path / ".env").write_text("T=1\n")
    (tmp_path / "e").write_text("K=v\n")
    loaded = load(LocalFiles(), [str(tmp_path / "compose.yml")])
    assert loaded.problems == []
    assert loaded.services["a"]["image"] == "x:1"
    assert loaded.environment("a") == {"K": "v"}


# Variables


def test_every_variable_with_kind_default_and_place():
    loaded = project(
        "x-a: $TOP\n"
        "services:\n"
        "  web:\n"
        "    image: nginx:${TAG:-1.27}\n"
        "    command: ['${A-x}', '${B:?need it}', '$$NOT', '${C:+${D}}']\n"
        "    environment:\n"
        "      KEY: ${PASSWORD:-changeme}\n"
        "      FROM_OUTSIDE:\n"
        "    labels:\n"
        "      - l=${TAG}\n",
        env={"B": "b", "FROM_OUTSIDE": "v"},
        dotenv="TAG=2\n",
    )
    assert loaded.problems == []
    assert [
        (use.name, use.where.rpartition(":")[2], use.kind, use.default, use.set, use.service, use.keypath)
        for use in loaded.variables
    ] == [
        ("TOP", "1", "plain", None, False, "", ("x-a",)),
        ("TAG", "4", "default", "1.27", True, "web", ("image",)),
        ("A", "5", "default", "x", False, "web", ("command", 0)),
        ("B", "5", "required", "need it", True, "web", ("command", 1)),
        ("C", "5", "alternative", "${D}", False, "web", ("command", 3)),
        ("D", "5", "plain", None, False, "web", ("command", 3)),
        ("PASSWORD", "7", "default", "changeme", False, "web", ("environment", "KEY")),
        ("TAG", "10", "plain", None, True, "web", ("labels", 0)),
        ("FROM_OUTSIDE", "8", "inherited", None, True, "web", ("environment", "FROM_OUTSIDE")),
    ]
    assert loaded.services["web"]["command"] == ["x", "b", "$NOT", ""]
    assert loaded.services["web"]["environment"] == {"KEY": "changeme", "FROM_OUTSIDE": "v"}


def test_the_shell_wins_over_dotenv_and_no_value_is_none():
    loaded = project("services: {a: {image: x, environment: [A, B, C]}}", env={"A": "shell"}, dotenv="A=file\nB=file\n")
    assert loaded.environment("a") == {"A": "shell", "B": "file", "C": None}
    assert [(entry.name, entry.value) for entry in loaded.dotenv] == [("A", "file"), ("B", "file")]


def test_env_file_entries():
    text = "\ufeff# c\r\nA=1 # note\r\nexport B='$A'\r\nC=\"$A\\n\"\r\nA=2\r\nD\r\n"
    loaded = project("services: {a: {image: x, env_file: [e.yml]}}", env={"D": "outside"}, e=text)
    assert loaded.problems == []
    assert [
        (entry.name, entry.value, entry.where, entry.quote, entry.raw, entry.shadowed)
        for entry in loaded.env_file_entries("a")
    ] == [
        ("A", "1", "/c/e.yml:2", "", "1", True),
        ("B", "$A", "/c/e.yml:3", "'", "$A", False),
        ("C", "1\n", "/c/e.yml:4", '"', "$A\\n", False),
        ("A", "2", "/c/e.yml:5", "", "2", False),
        ("D", "outside", "/c/e.yml:6", "", "", False),
    ]
    assert loaded.env_file_entries("nobody") == []


# Profiles


def test_every_profile_is_judged_unless_some_are_asked_for():
    text = (
        "services:\n"
        "  a: {image: x, profiles: [p], depends_on: [b]}\n"
        "  b: {image: x, profiles: [q]}\n"
        "  c: {image: x, depends_on: {b: {condition: service_started, required: false}}}\n"
    )
    files = MemoryFiles({"/c/compose.yml": text}, roots=("/c",))
    assert told(load(files, ["/c/compose.yml"])) == [("profile", "compose.yml:2")]
    assert told(load(files, ["/c/compose.yml"], profiles=["p"])) == [("profile", "compose.yml:2")]
    for fine in ([], ["q"], ["p", "q"], ["*"]):
        assert told(load(files, ["/c/compose.yml"], profiles=fine)) == []


def test_active():
    loaded = project("services: {a: {image: x}, b: {image: x, profiles: [p]}, c: {image: x, profiles: [q, r]}}")
    assert loaded.profiles == ("p", "q", "r")
    assert loaded.active() == {"a"}
    assert loaded.active(["r"]) == {"a", "c"}
    assert loaded.active(["*"]) == {"a", "b", "c"}


def test_what_no_selection_starts_is_not_held_against_the_project():
    text = "services: {a: {image: x}, b: {profiles: [p]}}"
    files = MemoryFiles({"/c/compose.yml": text}, roots=("/c",))
    assert told(load(files, ["/c/compose.yml"], profiles=[])) == []
    assert told(load(files, ["/c/compose.yml"])) == [("conflict", "compose.yml:1")]


# What is not at hand


def test_a_file_that_nobody_handed_over_is_unknown_and_not_missing():
    text = "include: [inc.yml]\nservices: {a: {image: 'x:$T', env_file: e.env, extends: {file: b.yml, service: b}}}\n"
    loaded = load(MemoryFiles({"/c/compose.yml": text}), ["/c/compose.yml"])
    assert [(problem.kind, problem.where) for problem in loaded.problems] == [
        ("unknown", "/c/compose.yml:1"),
        ("unknown", "/c/compose.yml:1"),
        ("unknown", "/c/compose.yml:2"),
        ("unknown", "/c/compose.yml:2"),
    ]
    assert loaded.services["a"]["image"] == "x:"


def test_dotenv_is_only_missed_where_a_variable_has_no_value():
    text = "services: {a: {image: x}}"
    assert load(MemoryFiles({"/c/compose.yml": text}), ["/c/compose.yml"]).problems == []


def test_no_file_at_all():
    assert [problem.kind for problem in load(MemoryFiles({}), []).problems] == ["file"]
    assert [problem.kind for problem in load(LocalFiles(), ["/nonexistent/compose.yml"]).problems] == ["file"]


# Hostile input: work is bounded by numbers, not by time


def bomb(levels: int = 12, width: int = 9) -> str:
    lines = ["x-0: &a0 [z, z, z, z, z, z, z, z, z]"]
    lines += [f"x-{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join(lines) + "\nservices: {a: {image: x}}\n"


@pytest.mark.parametrize(
    "text",
    [
        bomb(),
        bomb().replace("[", "{k: [").replace("]", "]}"),
        "x-0: &a0 {k: v}\n" + "".join(f"x-{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 40)),
        "[" * 100_000,
        "{a: " * 100_000,
        "- " * 100_000,
        "? " * 100_000,
        "\n".join("  " * n + "a:" for n in range(300)),
        "a: [" + "b, " * 500_000 + "]",
        "services: {a: {image: x, ports: [" + "'1-20000', " * 1000 + "]}}",
        "services: {" + ", ".join(f"s{n}: {{image: x}}" for n in range(6000)) + "}",
        "services: {a: {image: x, command: '" + "${A:-" * 30 + "}" * 30 + "'}}",
        "services: {a: {image: x, command: '" + "${A:-b}" * 60_000 + "'}}",
        "---\n{services: {a: {image: x}}}\n" * 1500,
        "services: {a: {image: x}, " + ", ".join(f"s{n}: {{extends: s{n - 1}}}" for n in reversed(range(1, 80)))
        + ", s0: {image: x}}",
        "services: {a: {" + ", ".join(f"k{n}: v" for n in range(3000)) + "}}",
    ],
    ids=["alias", "alias-map", "merge", "flow", "flow-map", "dash", "question", "block", "values", "ports", "services",
         "nested", "braces", "documents", "extends", "problems"],
)  # fmt: skip
def test_bombs_give_one_clear_problem(text):
    loaded = project(text)
    limits = [problem for problem in loaded.problems if problem.kind == "limit"]
    assert len(limits) == 1
    assert limits[0].fix


def test_walked_values_are_bounded(monkeypatch):
    """Whatever aliases promise, no more than the limit is ever built."""
    built = 0

    class Counted(_compose_yaml.Map):
        __slots__ = ()

        def __init__(self, place=0):
            nonlocal built
            built += 1
            super().__init__(place)

    monkeypatch.setattr(_compose_load, "Map", Counted)
    project(bomb().replace("[", "{k: [").replace("]", "]}"))
    assert built < 100


def test_extends_of_extends_is_bounded():
    big = ", ".join(f"k{n}: v" for n in range(3000))
    chain = ", ".join(f"s{n}: {{extends: s0}}" for n in range(1, 400))
    loaded = project(f"services: {{s0: {{image: x, environment: {{{big}}}}}, {chain}}}")
    assert [problem.kind for problem in loaded.problems if problem.kind == "limit"] == ["limit"]


def test_include_of_many_files_is_bounded():
    files = {f"/c/{n}.yml": f"include: [{n + 1}.yml]\n" for n in range(80)}
    files["/c/compose.yml"] = "include: [0.yml]\nservices: {a: {image: x}}\n"
    loaded = load(MemoryFiles(files, roots=("/c",)), ["/c/compose.yml"])
    assert [problem.kind for problem in loaded.problems] == ["limit"]


def test_deep_values_need_no_deep_stack():
    deep = "x-a: " + "[" * 50 + "]" * 50 + "\nservices: {a: {image: x}}\n"
    before = sys.getrecursionlimit()
    frame, depth = sys._getframe(), 0
    while frame is not None:
        frame, depth = frame.f_back, depth + 1
    sys.setrecursionlimit(depth + 200)
    try:
        assert project(deep).problems == []
    finally:
        sys.setrecursionlimit(before)


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff\xfe\x00s", b"\x00", b"services:\x00", b"\xef\xbb\xbf", b"\x80abc", "services: \ud83d\ude00".encode("utf-8", "replace"),
        b"services: {a: {image: \x1b[31m}}", b"%YAML 9.9\n---\na: b", b"services: {a: {image: \"\\ud800\"}}", b"\r\r\n\r",
    ],
)  # fmt: skip
def test_bytes_that_are_no_compose_file(raw):
    loaded = project(raw)
    assert refused(loaded)


@pytest.mark.parametrize("text", ["services: {a: {image: x}}", "\ufeffservices:\r\n  a:\r\n    image: x\r\n"])
def test_bom_and_crlf_are_fine(text):
    loaded = project(text)
    assert (loaded.problems, plain(loaded.services)) == ([], {"a": {"image": "x"}})


def test_nothing_is_constructed_from_tags(monkeypatch):
    loaded = project("services: {a: {image: !!python/object/apply:os.system ['true']}}")
    assert {problem.kind for problem in loaded.problems} == {"yaml", "type", "conflict"}


def test_without_the_c_parser_the_answer_is_the_same(monkeypatch):
    import yaml

    files, args = case_files("every-key")
    fast = load_case(files, args)
    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    slow = load_case(files, args)
    assert plain(slow.services) == plain(fast.services)
    assert told(project("a: b: c")) == [("yaml", "compose.yml:1")]
    assert told(project("services: {a: {image: \x1b}}")) == [("yaml", "compose.yml:1")]


def test_two_runs_are_equal():
    files, args = case_files("every-key")
    first, second = load_case(files, args), load_case(files, args)
    assert (first.problems, first.variables, first.services) == (second.problems, second.variables, second.services)


# Mutations of the cases: any text gives a project


def names_of_cases() -> list[str]:
    return sorted(path.name for path in CASES.iterdir())


def assert_sound(loaded: Project) -> None:
    for problem in loaded.problems:
        assert problem.kind in KINDS
        assert problem.what and problem.fix
        assert problem.where.rpartition(":")[2].isdigit()
    for name, service in loaded.services.items():
        assert isinstance(service, dict)
        for key in service:
            loaded.where(name, key)
        loaded.environment(name)
        loaded.env_file_entries(name)
    for section in (loaded.networks, loaded.volumes, loaded.secrets, loaded.configs):
        assert all(isinstance(item, dict) for item in section.values())


SNIPPETS = (
    "null", "[]", "{}", "true", "5", "1.5", "~", "'a:b'", "[a, a]", "{a: b}", "${A}", "$", "!reset null", "!override x", "*x",
    "&x", "<<: *x", "- ", "? ", ": ", "{", "}", "[", "]", "'", '"', "|", ">", "\t", "\n", "\r\n", "\0", "\ufeff", "---", "%", "@",
    "extends: a", "extends: {file: compose.yml, service: web}", "include: [compose.yml]", "1e999", "-", "0x", "\u2028",
)  # fmt: skip


def mutated(text: str, rng: random.Random) -> str:
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(text) + 1)
        what = rng.random()
        if what < 0.3:
            text = text[:at] + text[at + rng.randrange(1, 20) :]
        elif what < 0.7:
            text = text[:at] + rng.choice(SNIPPETS) + text[at + rng.randrange(0, 4) :]
        elif what < 0.85:
            other = rng.randrange(len(text) + 1)
            text = text[:at] + text[min(at, other) : max(at, other)] + text[at:]
        else:
            lines = text.split("\n")
            rng.shuffle(lines)
            text = "\n".join(lines)
    return text


@pytest.mark.parametrize("seed", range(12))
def test_mutated_cases_never_fail_otherwise(seed):
    rng = random.Random(seed)
    names = names_of_cases()
    for _ in range(40):
        files, args = case_files(rng.choice(names))
        name = rng.choice(sorted(files))
        files[name] = mutated(files[name].decode("utf-8", "replace"), rng).encode("utf-8", "replace")
        assert_sound(load_case(files, args))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=400))
def test_any_bytes(raw):
    assert_sound(project(raw))


LEAVES = st.sampled_from(
    [
        None,
        True,
        False,
        0,
        1,
        -1,
        80,
        1.5,
        1e30,
        "",
        "x",
        "80:80",
        "a=b",
        "${A:-b}",
        "$",
        "./d:/d",
        "10s",
        "1g",
        "service:a",
        "a",
    ]
)
KEYS = st.sampled_from(
    "image build ports volumes environment env_file depends_on extends networks secrets configs command entrypoint healthcheck "
    "test deploy resources limits memory cpus ulimits nofile soft logging driver options labels profiles tmpfs devices gpus "
    "develop watch path action target source type bind external name file service a b x-y <<".split()
)
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=25
)


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), TREES, max_size=3), TREES, TREES)
def test_any_tree(services, networks, include):
    tree = {"services": services, "networks": networks, "secrets": networks, "volumes": networks, "include": include}
    over = {"services": dict.fromkeys(services, networks)}
    files = {"/c/compose.yml": json.dumps(tree), "/c/over.yml": json.dumps(over), "/c/a": json.dumps(tree)}
    assert_sound(load(MemoryFiles(files, roots=("/c",)), ["/c/compose.yml", "/c/over.yml"]))
