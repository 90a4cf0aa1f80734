# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One command of mcpstack-admin: how it is called, what becomes of its answer, and what every failure says."""

from __future__ import annotations

import json
import subprocess

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _admin_run as core
from ansible_collections.mcpstack.platform.plugins.module_utils._engine import EngineError, EngineUnavailable


class Engine:
    """Containers of earlier calls, and what is removed."""

    def __init__(self, containers=(), down=None, delete=None):
        self.containers, self.down, self.refusal, self.removed = list(containers), down, delete, []

    def info(self):
        if self.down:
            raise self.down
        return {}

    def get(self, path, params):
        assert path == "/containers/json" and params["all"] is True
        assert params["filters"]["label"] == [
            "com.docker.compose.project=mcpstack",
            "com.docker.compose.service=admin",
            "com.docker.compose.oneoff=True",
        ]
        assert "running" not in params["filters"]["status"]
        return [{"Id": name} for name in self.containers]

    def delete(self, path, params):
        if self.refusal:
            raise self.refusal
        self.removed.append((path, params))


class Docker:
    """Remembers the call; answers as told."""

    def __init__(self, stdout=b'{"changed": false}', stderr=b"", status=0, error=None):
        self.answer, self.error, self.calls = (status, stdout, stderr), error, []

    def __call__(self, line, *, input, capture_output, timeout, env, check):
        assert capture_output and not check
        self.calls.append((line, input, timeout, env))
        if self.error:
            raise self.error
        return subprocess.CompletedProcess(line, *self.answer)


@pytest.fixture
def compose_dir(tmp_path):
    for name in ("project.yml", "admin.yml"):
        (tmp_path / name).write_text("{}")
    return str(tmp_path)


def run(compose_dir, call, engine=None, arguments=("keys", "put", "--name", "a"), **options):
    return core.run(list(arguments), compose_dir=compose_dir, engine=engine or Engine(), call=call, **options)


def test_call_and_answer(compose_dir):
    docker = Docker(b'{"changed": true, "kid": "x"}\n')
    assert run(compose_dir, docker, stdin=b"the secret") == {"changed": True, "kid": "x"}
    ((line, given, _timeout, env),) = docker.calls
    assert line[0].endswith("docker")
    name = line[line.index("--name") + 1]
    assert name.startswith("mcpstack-admin-run-")
    assert line[1:] == [
        "compose", "--progress", "quiet", "--file", f"{compose_dir}/project.yml", "--file", f"{compose_dir}/admin.yml",
        "run", "--rm", "--no-deps", "--no-TTY", "--name", name, "admin", "keys", "put", "--name", "a",
    ]  # fmt: skip
    assert given == b"the secret" and "the secret" not in repr(env)
    assert env["COMPOSE_IGNORE_ORPHANS"] == "true"  # every other service looks like one


def test_the_callers_environment_names_no_other_engine_or_project(compose_dir, monkeypatch):
    for name in ("COMPOSE_PROJECT_NAME", "COMPOSE_FILE", "COMPOSE_PROFILES", "DOCKER_HOST", "DOCKER_CONTEXT"):
        monkeypatch.setenv(name, "elsewhere")
    docker = Docker()
    run(compose_dir, docker)
    assert "elsewhere" not in docker.calls[0][3].values()
    assert docker.calls[0][3]["PATH"]


def test_no_two_calls_share_a_container(compose_dir):
    docker = Docker()
    for _unused in range(2):
        run(compose_dir, docker)
    first, second = (call[0][call[0].index("--name") + 1] for call in docker.calls)
    assert first != second


def test_what_a_killed_call_left_is_removed_first(compose_dir):
    engine = Engine(["c1", "c2"])
    run(compose_dir, Docker(), engine)
    assert engine.removed == [("/containers/c1", {"v": "1"}), ("/containers/c2", {"v": "1"})]


@pytest.mark.parametrize("status", [404, 409])
def test_what_is_gone_already_is_no_trouble(compose_dir, status):
    assert run(compose_dir, Docker(), Engine(["c1"], delete=EngineError("gone", status))) == {"changed": False}


@pytest.mark.parametrize("missing", ["project.yml", "admin.yml"])
def test_nothing_is_rendered_yet(tmp_path, compose_dir, missing):
    (tmp_path / missing).unlink()
    docker = Docker()
    with pytest.raises(core.NotYet) as error:
        run(compose_dir, docker)
    assert str(error.value) == f"{compose_dir}/{missing}: is not on this host; run site.yml first."
    assert docker.calls == []


@pytest.mark.parametrize(
    ("docker", "engine", "kind", "status", "message"),
    [
        (Docker(), Engine(down=EngineUnavailable("No engine listens.")), core.NotYet, None, "No engine listens."),
        (Docker(), Engine(down=EngineError("It broke off.")), core.AdminError, None, "It broke off."),
        (Docker(), Engine(["c"], delete=EngineError("Not now.", 500)), core.AdminError, None, "Not now."),
        (
            Docker(b"", b"mcpstack-admin: Postgres cannot be used: no connection.\n See that it is healthy.\n", 3),
            None,
            core.NotYet,
            3,
            "mcpstack-admin keys put: it ended with status 3 and said: mcpstack-admin: Postgres cannot be used: "
            "no connection. See that it is healthy.",
        ),
        (
            Docker(b"words", b"", 2), None, core.AdminError, 2,
            "mcpstack-admin keys put: it ended with status 2 and said: words",
        ),
        (Docker(b"", b"", 4), None, core.AdminError, 4, "mcpstack-admin keys put: it ended with status 4 and said: nothing"),
        (
            Docker(b"no JSON"), None, core.AdminError, None,
            "mcpstack-admin keys put: the answer is not understood ('no JSON').",
        ),
        (Docker(b"[1]"), None, core.AdminError, None, "mcpstack-admin keys put: the answer is not understood ('[1]')."),
        (
            Docker(error=subprocess.TimeoutExpired("docker", 600)), None, core.AdminError, None,
            "mcpstack-admin keys put: it did not end within 600 s and was stopped.",
        ),
    ],
)  # fmt: skip
def test_trouble(compose_dir, docker, engine, kind, status, message):
    with pytest.raises(core.AdminError) as error:
        run(compose_dir, docker, engine)
    assert type(error.value) is kind
    assert (str(error.value), error.value.status) == (message, status)


def test_a_check_that_failed_is_named_and_the_whole_answer_kept(compose_dir):
    checks = [
        {"id": "postgres", "status": "pass", "detail": "17.11", "fix": None},
        {"id": "schema", "status": "fail", "detail": "It is behind.", "fix": "Run the deploy again."},
        {"id": "worker", "status": "fail", "detail": "worker cannot be reached.", "fix": None},
    ]
    docker = Docker(json.dumps({"ok": False, "checks": checks}).encode(), b"", 1)
    with pytest.raises(core.AdminError) as error:
        run(compose_dir, docker, arguments=("doctor",))
    assert str(error.value) == (
        "mcpstack-admin doctor:\n  schema: It is behind. Run the deploy again.\n  worker: worker cannot be reached."
    )
    assert (error.value.status, error.value.answer) == (1, {"ok": False, "checks": checks})


@pytest.mark.parametrize("answer", [{"ok": False}, {"checks": "x"}, {"checks": ["x", {"id": "a", "status": "pass"}]}])
def test_a_failure_without_checks_is_a_sentence_too(compose_dir, answer):
    with pytest.raises(core.AdminError, match="mcpstack-admin doctor: something is wrong, see the answer."):
        run(compose_dir, Docker(json.dumps(answer).encode(), b"", 1), arguments=("doctor",))


def test_a_command_that_hangs_takes_its_container_along(compose_dir):
    docker, engine = Docker(error=subprocess.TimeoutExpired("docker", 1)), Engine()
    with pytest.raises(core.AdminError):
        run(compose_dir, docker, engine, timeout=1)
    name = docker.calls[0][0][docker.calls[0][0].index("--name") + 1]
    assert engine.removed == [(f"/containers/{name}", {"force": True, "v": "1"})]


def test_without_docker(compose_dir):
    with pytest.raises(
        core.AdminError, match=r"docker: cannot be run \(No such file or directory\); run the role docker"
    ):
        run(compose_dir, Docker(error=FileNotFoundError(2, "No such file or directory")))


def test_what_it_said_is_cleaned(compose_dir):
    clean = lambda text: core.one_line(text.replace(b"secret", b"(gone)"))  # noqa: E731
    for docker in (Docker(b"", b"the secret", 2), Docker(b"the secret")):
        with pytest.raises(core.AdminError) as error:
            run(compose_dir, docker, clean=clean)
        assert "(gone)" in str(error.value) and "secret" not in str(error.value)
