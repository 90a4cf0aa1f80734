# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The door to the audit of env files and secrets."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys

import pytest

from ansible_collections.mcpstack.platform.plugins.modules import env_audit

VALUES = {
    "DB_PASSWORD": "kQ7vTzL2mXw9RbN4cHf6YdJp3sGa8uEt",
    "API_TOKEN": "Summer2026!Rr",
    "JWT_SECRET": "CHANGE_ME_zzq",
    "URL": "wM8nZq3LpX6vTb9K!%@x",
    "STORED": "hunter2hunter2hunter9",
}


@pytest.fixture
def place(tmp_path):
    env = tmp_path / "app.env"
    env.write_text(
        "".join(f'{name}="{VALUES[name]}" # {VALUES[name]}\n' for name in ("DB_PASSWORD", "API_TOKEN", "JWT_SECRET"))
        + f"URL=postgres://a:{VALUES['URL']}@db/x\nSESSION_SECRET={VALUES['DB_PASSWORD']}\n{VALUES['STORED']}\n"
    )
    env.chmod(0o644)
    store = tmp_path / "store" / "db"
    store.mkdir(parents=True)
    (store / "v1").write_text(VALUES["STORED"])
    (store / "current").symlink_to("v1")
    (tmp_path / "run.sh").write_text(f"source {env}\n")
    (tmp_path / "x.log").write_text("\n".join(VALUES.values()))
    return tmp_path


def arguments(place, **more):
    return {
        "env_files": [str(place / "app.env")],
        "secret_directories": [str(place / "store")],
        "consumers": [{"path": str(place / "store"), "uid": 12345}],
        "search": [str(place)],
        "readers": ["compose", "docker", "systemd", "shell"],
        "vcs_root": str(place),
        **more,
    }


FOUND = {"SEC-01", "SEC-02", "SEC-04", "SEC-05", "SEC-06", "SEC-07", "SEC-09", "SEC-13", "SEC-15"}


@pytest.mark.parametrize("check", [False, True])
def test_findings_are_returned_and_nothing_fails_without_being_asked(call, place, check):
    answer = call(env_audit, arguments(place), check=check)
    assert not answer.get("failed")
    assert answer["changed"] is False
    assert {item["id"] for item in answer["findings"]} == FOUND
    assert answer["summary"]["highest"] == "critical"


def test_fail_at_and_waivers(call, place):
    answer = call(env_audit, arguments(place, fail_at="high"))
    assert answer["failed"]
    assert "SEC-04 Placeholder or default instead of a secret" in answer["msg"]
    assert "- MEDIUM" not in answer["msg"]
    waivers = [
        {"id": number, "reason": "a host of tests", "expires": "2099-01-01"} for number in sorted(FOUND)
    ]  # fmt: skip
    answer = call(env_audit, arguments(place, fail_at="low", waivers=waivers))
    assert not answer.get("failed")
    assert answer["summary"]["open"] == 0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"env_files": ["app.env"]}, "env_files: 'app.env' is not an absolute path."),
        ({"vcs_root": "x"}, "vcs_root: 'x' is not an absolute path."),
        ({"consumers": [{"path": "x", "uid": 1}]}, "consumers.path: 'x' is not an absolute path."),
        ({"env_files": [], "secret_directories": []}, "env_files and secret_directories are both empty, so there is nothing to judge."),
        ({"max_age_days": 0, "manifest": "/x"}, "max_age_days is below 1."),
        ({"max_age_days": 9}, "max_age_days needs manifest, which knows when a secret was made."),
    ],
)  # fmt: skip
def test_options_that_make_no_sense(call, place, changes, sentence):
    answer = call(env_audit, arguments(place, **changes))
    assert answer["failed"]
    assert answer["msg"] == sentence


def forms(value):
    raw = value.encode()
    return [value, value[:8], base64.b64encode(raw).decode().rstrip("="), raw.hex(), raw.hex().upper()] + [
        hashlib.new(name, raw).hexdigest() for name in ("md5", "sha1", "sha256", "sha512")
    ]


def told(text):
    """Every form of a value that stands in a text."""
    return [form for value in VALUES.values() for form in forms(value) if form in text]


@pytest.mark.parametrize("options", [{}, {"fail_at": "info"}])
def test_no_value_leaves_the_module(call, place, options):
    answer = call(env_audit, arguments(place, **options))
    assert answer["findings"]
    assert told(json.dumps(answer, ensure_ascii=False)) == []


@pytest.mark.parametrize("options", [["fail_at=info"], []])
def test_no_value_is_on_the_screen_or_in_the_log_of_a_verbose_run(place, options):
    """Through Ansible itself with -vvv and --diff: the result, the failure and the invocation."""
    log = place.parent / "ansible.log"
    environment = {
        **os.environ, "ANSIBLE_LOG_PATH": str(log), "ANSIBLE_LOCALHOST_WARNING": "false", "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_LOCAL_TEMP": str(place.parent / "tmp"), "ANSIBLE_REMOTE_TEMP": str(place.parent / "remote"),
        "ANSIBLE_COLLECTIONS_PATH": os.pathsep.join(path for path in sys.path if path.endswith("self")),
    }  # fmt: skip
    payload = {**arguments(place), **dict(option.split("=") for option in options)}
    done = subprocess.run(
        [
            sys.executable, "-m", "ansible", "adhoc", "localhost", "-c", "local", "-e", f"ansible_python_interpreter={sys.executable}",
            "-m", "mcpstack.platform.env_audit", "-a", json.dumps(payload), "-vvv", "--diff",
        ],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert "SEC-04" in done.stdout, done.stdout + done.stderr
    assert (done.returncode != 0) == bool(options)
    assert told(done.stdout + done.stderr + log.read_text()) == []
