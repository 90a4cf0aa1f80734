# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""env_audit and compose_audit against detect-secrets: the same values in env files and in compose files, line by line."""

from __future__ import annotations

import json
import random
import string
from pathlib import Path

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _audit_compose, _audit_env
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import MemoryFiles
from ansible_collections.mcpstack.platform.tests.peers.conftest import call, ledger, settle
from ansible_collections.mcpstack.platform.tests.peers.test_compose_lint import FIXTURES

#: A literal credential, one in a URL, a placeholder: what a scanner of lines can see.
COMPARED = {"SEC-01", "SEC-02", "SEC-04", "SEC-11", "CMP-30"}
_DRAW = random.Random(20260103)


def drawn(alphabet: str, length: int) -> str:
    return "".join(_DRAW.choice(alphabet) for _unused in range(length))


BASE62, HEX = string.ascii_letters + string.digits, "0123456789abcdef"
#: Name -> (variable, value). Values are drawn, so that no scanner of this repository finds one of them.
CASES = {
    # formats that say what they are
    "key id of AWS": ("AWS_ACCESS_KEY_ID", "AKIA" + drawn(string.ascii_uppercase + string.digits, 16)),
    "secret of AWS": ("AWS_SECRET_ACCESS_KEY", drawn(BASE62, 40)),
    "secret of AWS, other name": ("AWS_SECRET", drawn(BASE62, 40)),
    "GitHub": ("GITHUB", "gh" + "p_" + drawn(BASE62, 36)),
    "GitHub, server": ("X", "gh" + "s_" + drawn(BASE62, 36)),
    "GitLab": ("X", "glp" + "at-" + drawn(BASE62, 20)),
    "Slack": ("X", "xox" + "b-" + drawn(string.digits, 12) + "-" + drawn(BASE62, 24)),
    "Slack hook": ("HOOK", "https://hooks.slack.com/services/T" + drawn(BASE62.upper(), 8) + "/B" + drawn(BASE62.upper(), 8) + "/" + drawn(BASE62, 24)),
    "Stripe": ("X", "sk" + "_live_" + drawn(BASE62, 24)),
    "OpenAI": ("X", "sk-" + drawn(BASE62, 20) + "T3BlbkFJ" + drawn(BASE62, 20)),
    "npm": ("X", "//packages.example.org/:_authToken=npm_" + drawn(BASE62, 36)),
    "PyPI": ("X", "pypi-AgEIcHlwaS5vcmc" + drawn(BASE62, 80)),
    "SendGrid": ("X", "SG." + drawn(BASE62, 22) + "." + drawn(BASE62, 43)),
    "Twilio": ("X", "SK" + drawn(HEX, 32)),
    "Square": ("X", "sq0" + "csp-" + drawn(BASE62, 43)),
    "Mailchimp": ("X", drawn(HEX, 32) + "-us12"),
    "Telegram": ("X", "110201543:AA" + drawn(BASE62, 33)),
    "Discord": ("X", "M" + drawn(BASE62, 23) + "." + drawn(BASE62, 6) + "." + drawn(BASE62, 27)),
    "JWT": ("X", "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"),
    "private key": ("X", "-----BEGIN RSA " + "PRIVATE KEY-----"),
    "Azure storage": ("X", "AccountKey=" + drawn(BASE62, 86) + "=="),
    # names
    "password": ("DB_PASSWORD", drawn(BASE62, 16)),
    "secret key": ("SECRET_KEY", drawn(BASE62, 40)),
    "token": ("API_TOKEN", drawn(HEX, 40)),
    "key": ("ENCRYPTION_KEY", drawn(HEX, 64)),
    "private": ("PRIVATE_KEY", drawn(BASE62, 40)),
    "short": ("DB_PASSWORD", "hunter2"),
    "numbers": ("DB_PASSWORD", "12345678"),
    "placeholder": ("DB_PASSWORD", "CHANGE_ME"),
    "placeholder of a token": ("API_KEY", "your-api-key-here"),
    "file": ("DB_PASSWORD_FILE", "/run/secrets/db"),
    "reference": ("DB_PASSWORD", "${OTHER}"),
    "public": ("JWT_PUBLIC_KEY", drawn(BASE62, 40)),
    # URLs
    "URL": ("DATABASE_URL", "postgres://u:" + drawn(BASE62, 12) + "@db/x"),
    "URL without a user": ("CACHE", "redis://:" + drawn(BASE62, 12) + "@cache:6379/0"),
    "URL with marks": ("DATABASE_URL", "postgres://u:mZ81!k%21Qp@db/x"),
    "URL without a password": ("DATABASE_URL", "postgres://u@db/x"),
    # entropy without a name
    "hex": ("X", drawn(HEX, 64)),
    "base64": ("X", drawn(BASE62 + "+/", 44)),
    "digest": ("IMAGE_DIGEST", "sha256:" + drawn(HEX, 64)),
    "revision": ("GIT_COMMIT", drawn(HEX, 40)),
    "UUID": ("REQUEST_ID", "3f2b8c1e-7d4a-4f5b-9c6d-0e1f2a3b4c5d"),
    # nothing
    "word": ("LOG_LEVEL", "info"),
    "switch": ("REQUIRE_PASSWORD", "true"),
    "limit": ("MAX_TOKENS", "4096"),
}  # fmt: skip


def places() -> dict[str, tuple[str, str, int]]:
    """Case -> (file name, content, line that counts; 0: every line)."""
    out = {}
    for name, (key, value) in CASES.items():
        out[f"env: {name}"] = (".env", f"A=b\n{key}={value}\nC=d\n", 2)
        out[f"env, quoted: {name}"] = (".env", f'A=b\n{key}="{value}"\nC=d\n', 2)
        out[f"compose: {name}"] = (
            "compose.yml", f"services:\n  app:\n    image: x\n    environment:\n      {key}: '{value}'\n", 5,
        )  # fmt: skip
    for path in sorted(FIXTURES.iterdir()):
        if config := json.loads((path / "expected.json").read_text()).get("config"):
            out[f"fixture: {path.name}"] = ("compose.yml", json.dumps(config, indent=1), 0)
    return out


def ours(file: str, content: str) -> set[tuple[str, int]]:
    if file == ".env":
        files = MemoryFiles({"/p/.env": content}, roots=("/p",))
        found = _audit_env.audit(files, env_files=["/p/.env"])["findings"]
    else:
        found = _audit_compose.audit(MemoryFiles({f"/p/{file}": content}, roots=("/p",)), [f"/p/{file}"])["findings"]
    return {(item["id"], int(item["where"].rpartition(":")[2])) for item in found if item["id"] in COMPARED}


@pytest.fixture(scope="module")
def differences(tmp_path_factory) -> dict[str, tuple[set[str], set[str]]]:
    root: Path = tmp_path_factory.mktemp("secrets")
    cases = dict(enumerate(places().items()))
    for number, (_name, (file, content, _line)) in cases.items():
        (root / str(number)).mkdir()
        (root / str(number) / file).write_text(content)
    answer = json.loads(call("detect-secrets", "scan", "--all-files", "--no-verify", ".", cwd=root))["results"]
    found = {}
    for number, (name, (file, content, line)) in cases.items():
        items = answer.get(f"{number}/{file}", ())
        theirs = {(item["type"], item["line_number"]) for item in items if not line or item["line_number"] == line}
        mine = {item for item in ours(file, content) if not line or item[1] == line}
        found[name] = (
            {kind if line else f"{kind} {at}" for kind, at in theirs if at not in {at for _id, at in mine}},
            {check if line else f"{check} {at}" for check, at in mine if at not in {at for _kind, at in theirs}},
        )
    return found


def test_every_difference_has_a_reason(differences):
    wrong = settle(differences, ledger("detect_secrets"))
    assert not wrong, "\n".join(wrong)
