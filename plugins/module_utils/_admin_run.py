# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run one command of ``mcpstack-admin`` in a container of its own, and read its answer.

PRIVATE: internal to the collection, may change in any release.

The container is what the rendered project says of the service ``admin``, which the audits have judged: Compose makes it,
it does one thing and is gone. It holds the login of the database's owner, which no running service has. Standard input
is the only way in for a secret; there is no log.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Callable

from ansible_collections.mcpstack.platform.plugins.module_utils._engine import Engine, EngineError, EngineUnavailable
from ansible_collections.mcpstack.platform.plugins.module_utils._stack_project import (
    ONEOFF_LABEL,
    PROJECT,
    PROJECT_LABEL,
    SERVICE_LABEL,
)

SERVICE = "admin"
COMPOSE_DIR = "/etc/mcpstack/compose"
#: Exit status of the program: a check failed, and the answer says which; Postgres is not there now.
FAILED, UNAVAILABLE = 1, 3
_ENDED = ("created", "exited", "dead")


class AdminError(Exception):
    """The text says what could not be done, what was said, and what to do.

    ``status`` is the program's, if it ran; ``answer`` what it answered all the same.
    """

    def __init__(self, text: str, status: int | None = None, answer: dict | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.answer = answer or {}


class NotYet(AdminError):
    """Something that an earlier part of the deployment brings is not there; a dry run may pass over it."""


def _files(compose_dir: str) -> list[str]:
    """The parts of the project that the container needs: the networks, and the service itself."""
    paths = [os.path.join(compose_dir, name) for name in ("project.yml", f"{SERVICE}.yml")]
    for path in paths:
        if not os.path.exists(path):
            raise NotYet(f"{path}: is not on this host; run site.yml first.")
    return paths


def command(arguments: list[str], compose_dir: str, name: str) -> list[str]:
    """The whole command line; what is secret never stands on it."""
    docker = shutil.which("docker") or "/usr/bin/docker"
    line = [docker, "compose", "--progress", "quiet"]
    for path in _files(compose_dir):
        line += ["--file", path]
    # --no-TTY: standard input and both outputs stay apart and as they are.
    return [*line, "run", "--rm", "--no-deps", "--no-TTY", "--name", name, SERVICE, *arguments]


def sweep(engine: Engine) -> None:
    """Remove containers of commands whose caller was killed before it could; those still at work are left alone."""
    labels = [f"{PROJECT_LABEL}={PROJECT}", f"{SERVICE_LABEL}={SERVICE}", f"{ONEOFF_LABEL}=True"]
    found = engine.get("/containers/json", {"all": True, "filters": {"label": labels, "status": list(_ENDED)}})
    for item in found:
        try:
            engine.delete(f"/containers/{item['Id']}", {"v": "1"})
        except EngineError as exc:
            if exc.status not in (404, 409):  # gone, or on its way
                raise


def _answer(output: bytes, what: str, clean: Callable[[bytes], str]) -> dict:
    try:
        answer = json.loads(output)
        if not isinstance(answer, dict):
            raise TypeError
    except (ValueError, TypeError, RecursionError):
        said = clean(output)[:200]
        raise AdminError(f"mcpstack-admin {what}: the answer is not understood ({said!r}).") from None
    return answer


def _failed(answer: dict) -> str:
    """A line for each check of the answer that failed, with what to do."""
    checks = answer.get("checks")
    found = [item for item in checks if isinstance(item, dict)] if isinstance(checks, list) else []
    return "".join(
        f"\n  {item.get('id')}: {item.get('detail')} {item.get('fix') or ''}".rstrip()
        for item in found
        if item.get("status") != "pass"
    )


def one_line(text: bytes) -> str:
    """What a program said, on one line."""
    return " ".join(text.decode(errors="replace").split())


def run(
    arguments: list[str],
    stdin: bytes = b"",
    *,
    compose_dir: str = COMPOSE_DIR,
    timeout: float = 600,
    clean: Callable[[bytes], str] = one_line,
    engine: Engine | None = None,
    call: Callable = subprocess.run,
) -> dict:
    """Run ``mcpstack-admin ARGUMENTS`` and return what it answers; ``clean`` takes secrets out of what it said."""
    what = " ".join(arguments[:2])
    name = f"{PROJECT}-{SERVICE}-run-{secrets.token_hex(6)}"
    line = command(arguments, compose_dir, name)
    engine = engine or Engine()
    try:
        engine.info()
        sweep(engine)
    except EngineUnavailable as exc:
        raise NotYet(str(exc)) from None
    except EngineError as exc:
        raise AdminError(str(exc)) from None
    # Whatever the caller's environment says of other engines and projects is not meant for this one. Only two files of the
    # project are given, so that everything else of it looks like nobody's: that is no warning here.
    env = {name: value for name, value in os.environ.items() if not name.startswith(("COMPOSE_", "DOCKER_"))}
    env |= {"COMPOSE_IGNORE_ORPHANS": "true", "COMPOSE_ANSI": "never"}
    try:
        done = call(line, input=stdin, capture_output=True, timeout=timeout, env=env, check=False)
    except subprocess.TimeoutExpired:
        try:
            engine.delete(f"/containers/{name}", {"force": True, "v": "1"})
        except EngineError as exc:
            if exc.status != 404:
                raise AdminError(f"mcpstack-admin {what}: it did not end within {timeout:g} s, and {exc}") from None
        raise AdminError(f"mcpstack-admin {what}: it did not end within {timeout:g} s and was stopped.") from None
    except OSError as exc:
        raise AdminError(f"{line[0]}: cannot be run ({exc.strerror}); run the role docker first.") from None
    if done.returncode == FAILED and done.stdout.strip().startswith(b"{"):
        answer = _answer(done.stdout, what, clean)
        raise AdminError(
            f"mcpstack-admin {what}:{_failed(answer) or ' something is wrong, see the answer.'}", 1, answer
        )
    if done.returncode != 0:
        said = clean(done.stderr or done.stdout)[-1000:] or "nothing"
        kind = NotYet if done.returncode == UNAVAILABLE else AdminError
        raise kind(f"mcpstack-admin {what}: it ended with status {done.returncode} and said: {said}", done.returncode)
    return _answer(done.stdout, what, clean)
