# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""compose_audit against compose-lint: small weak files, our own compose fixtures, and the stack that the roles render."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from ansible_collections.mcpstack.platform.plugins.module_utils._audit_compose import audit
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import MemoryFiles
from ansible_collections.mcpstack.platform.tests.peers import compose_cases
from ansible_collections.mcpstack.platform.tests.peers.conftest import BIN, call, ledger, settle, tool
from ansible_collections.mcpstack.platform.tests.render.conftest import Role  # noqa: F401
from ansible_collections.mcpstack.platform.tests.render.test_audit_compose_mutation import stack  # noqa: F401

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "compose"

#: Our checks that decide what a rule of theirs decides.
OURS = {
    "CL-0001": {"CMP-21", "CMP-22"}, "CL-0002": {"CMP-01"}, "CL-0003": {"CMP-05"}, "CL-0004": {"IMG-02"}, "CL-0005": {"NET-01", "NET-03"},
    "CL-0006": {"CMP-02"}, "CL-0007": {"CMP-08"}, "CL-0008": {"CMP-17"}, "CL-0009 seccomp": {"CMP-25"}, "CL-0009": {"CMP-26"},
    "CL-0010": {"CMP-18", "CMP-19"}, "CL-0011": {"CMP-03"}, "CL-0013": {"CMP-21", "CMP-22"}, "CL-0014": {"CMP-28"}, "CL-0016": {"CMP-24"}, "CL-0017": {"CMP-23"},
    "CL-0018": {"CMP-06"}, "CL-0019": {"IMG-01", "IMG-02"}, "CL-0020": {"SEC-01", "SEC-02", "SEC-11", "CMP-30"}, "CL-0021": {"SEC-02"}, "CL-0022": {"CMP-09"},
    "CL-0026 memory": {"CMP-10"}, "CL-0026 CPU": {"CMP-11"},
}  # fmt: skip
#: Several rules of theirs that are one of ours.
SAME = {
    **dict.fromkeys(("CL-0024", "CL-0027", "CL-0028", "CL-0029", "CL-0030"), "CL-0011"),
    "CL-0025": "CL-0013",
}
#: Rules whose finding stands at an entry of a list; the others speak of the service.
AT_ENTRY = {"CL-0001", "CL-0005", "CL-0009", "CL-0011", "CL-0013", "CL-0016", "CL-0020", "CL-0021", "CL-0022"}


def rules(finding: dict) -> list[str]:
    """The rule of a finding of theirs, told apart where ours are two checks."""
    rule = finding["rule_id"]
    if rule == "CL-0009" and "seccomp" in finding["message"]:
        return ["CL-0009 seccomp"]
    if rule == "CL-0026":
        said = finding["message"].partition(". ")[0]
        return [f"CL-0026 {what}" for what in ("memory", "CPU") if f"no {what} limit" in said]
    return [SAME.get(rule, rule)]


def lint(root: Path) -> dict[str, list[dict]]:
    """Findings of compose-lint for every file case/compose.yml below root, by case."""
    files = sorted(path for path in root.glob("*/compose.yml"))
    answer = json.loads(
        call(
            "compose-lint", "check", "--format", "json", "--allow-partial-coverage",
            *(str(path.relative_to(root)) for path in files), cwd=root, codes=(0, 1),
        )
    )  # fmt: skip
    assert not answer["errors"], answer["errors"]
    found: dict[str, list[dict]] = {path.parent.name: [] for path in files}
    for finding in answer["findings"]:
        found[finding["file"].partition("/")[0]].append(finding)
    return found


def compare(theirs: list[dict], ours: list[dict], places: bool) -> tuple[set[str], set[str]]:
    """Only theirs, only ours. places: by service and line, and not by file."""

    def place(service: str, line: int, rule: str) -> str:
        return "" if not places else f" {service}:{line}" if rule.split()[0] in AT_ENTRY else f" {service}"

    one, other = {}, {}
    for finding in theirs:
        for rule in rules(finding):
            one[rule, place(finding["service"], finding["line"], rule)] = finding["rule_id"]
    for finding in ours:
        line = int(finding["where"].rpartition(":")[2])
        for rule in OURS:
            if finding["id"] in OURS[rule]:
                key = (rule, place(finding["subject"].removeprefix("service "), line, rule))
                other.setdefault(key, set()).add(finding["id"])
    said = {(check, at) for rule, at in one for check in OURS[rule]}
    return (
        {rule + key[1] for key, rule in one.items() if key not in other},
        {check + at for (_rule, at), checks in other.items() for check in checks if (check, at) not in said},
    )


def ours(root: Path) -> list[dict]:
    files = {f"/p/{path.relative_to(root)}": path.read_bytes() for path in root.rglob("*") if path.is_file()}
    return audit(MemoryFiles(files, roots=("/p",)), ["/p/compose.yml"])["findings"]


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def differences(tmp_path_factory, stack) -> dict[str, tuple[set[str], set[str]]]:  # noqa: F811
    found = {}
    # small weak files
    root = tmp_path_factory.mktemp("weak")
    cases = dict(zip(map(str, range(1000)), compose_cases.files().items()))
    for number, (_name, text) in cases.items():
        write(root / number, {"compose.yml": text, **compose_cases.FILES})
    for number, theirs in lint(root).items():
        found[cases[number][0]] = compare(theirs, ours(root / number), places=False)
    # what Compose itself makes of our fixtures: one file each, with everything merged
    root = tmp_path_factory.mktemp("fixtures")
    for path in sorted(FIXTURES.iterdir()):
        if config := json.loads((path / "expected.json").read_text()).get("config"):
            write(root / path.name, {"compose.yml": json.dumps(config, indent=1)})
    for name, theirs in lint(root).items():
        found[f"fixture {name}"] = compare(theirs, ours(root / name), places=True)
    # the stack as one file
    merged: dict = {}
    for body in stack.files.values():
        for key, value in body.items():
            merged[key] = {**merged[key], **value} if isinstance(merged.get(key), dict) else value
    root = tmp_path_factory.mktemp("stack")
    write(root / "stack", {"compose.yml": yaml.safe_dump(merged)})
    mine = stack.judge()
    assert mine == []
    found["stack"] = compare(lint(root)["stack"], mine, places=True)
    return found


def test_every_difference_has_a_reason(differences):
    wrong = settle(differences, ledger("compose_lint"))
    assert not wrong, "\n".join(wrong)


def test_every_rule_of_theirs_is_compared_and_has_a_case():
    known = {path.name[2:6] for path in BIN.parent.glob("lib/python*/site-packages/compose_lint/rules/CL*.py")}
    assert tool("compose-lint") and known == {rule.split()[0][3:] for rule in {*OURS, *SAME}}
    assert len(compose_cases.files()) >= 60
