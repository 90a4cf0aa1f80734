# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the demo reads from the endpoint, what sanity takes from its surroundings, what counts as left behind."""

from __future__ import annotations

import io
import re
import types
from pathlib import Path

import census
import demo
import pytest
import sanity
import yaml

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("text", ["0", "65536", "x", "-1", ""])
def test_a_port_that_is_none_is_refused(text):
    with pytest.raises(demo.DemoError, match=f"DEMO_HTTPS_PORT={text} is no port: use a number from 1 to 65535"):
        demo.port("DEMO_HTTPS_PORT", 8443, {"DEMO_HTTPS_PORT": text})


def test_events_end_with_done():
    stream = [b": comment\n", b'data: {"a": 1}\n', b"\n", b"data: [DONE]\n", b'data: {"a": 2}\n']
    assert list(demo.events(stream)) == [{"a": 1}]


def chunks(*texts, usage=None):
    lines = [b'data: {"choices": [{"delta": {"content": "%s"}}]}\n' % text.encode() for text in texts]
    if usage is not None:
        lines.append(b'data: {"choices": [], "usage": {"completion_tokens": %d}}\n' % usage)
    return types.SimpleNamespace(request=lambda *_args: [*lines, b"data: [DONE]\n"])


def test_a_stream_is_printed_and_measured():
    out = io.StringIO()
    first, tokens, seconds = demo.stream_chat(chunks("Hello", " world", usage=5), "m", out)
    assert out.getvalue() == "Hello world\n"
    assert tokens == 5
    assert 0 < first <= seconds


def test_a_stream_without_a_token_is_no_success():
    with pytest.raises(demo.DemoError, match="The model streamed no token"):
        demo.stream_chat(chunks(), "m", io.StringIO())


def test_the_container_table_names_images():
    listing = "ps\tedge\tUp 2 s (healthy)\tabc\nimage\tabc\tmcpstack/nginx:abc\nps\tdb\tUp 3 s\tother\n"
    assert demo.container_table(listing) == [
        "  service  state             image",
        "  db       Up 3 s            other",
        "  edge     Up 2 s (healthy)  mcpstack/nginx:abc",
    ]


def test_the_pip_ansible_test_wants():
    assert sanity.wanted_pip("packages = dict(\n        pip='24.2',\n") == "24.2"
    with pytest.raises(sanity.SanityError, match="does not say which pip it wants"):
        sanity.wanted_pip("nothing")


def test_pips_settings_become_a_file():
    listing = "global.index-url='https://x/simple'\n:env:.cert='/ca.pem'\n:env:.extra-index-url='a b'\n"
    assert sanity.pip_configuration(listing) == (
        "[global]\nindex-url = https://x/simple\ncert = /ca.pem\nextra-index-url = a b\n"
    )


@pytest.mark.parametrize(
    ("word", "left"),
    [
        ("file:/etc/mcpstack", True),
        ("file:/var/lib/mcpstack/models/x.gguf", True),
        ("unit:mcpstack-secrets.service", True),
        ("docker-volume:mcpstack_postgres-data", True),
        ("link:br-0123", True),
        ("passwd:postgres", True),
        ("file:/var/log/apt/history.log", False),
        ("file:/root/.ansible/tmp", False),
        ("file:/etc/passwd-", False),
    ],
)
def test_what_counts_as_left_behind(word, left):
    assert census.leftovers(["file:/a"], ["file:/a", word]) == ([word] if left else [])


def test_what_was_there_before_is_not_left_behind():
    assert census.leftovers(["unit:ssh.service"], ["unit:ssh.service"]) == []


@pytest.mark.parametrize("path", sorted(ROOT.glob("roles/*/meta/argument_specs.yml")), ids=lambda path: path.parts[-3])
def test_names_follow_the_three_tiers(path):
    """Public options mcpstack_<role>_x, internal variables _mcpstack_<role>_x, registered ones __x."""
    role = path.parts[-3].strip("_")
    private = "_stack_" if role == "stack" else "\0"  # what roles hand to the engine
    whole = {"mcpstack_environment", "mcpstack_server_names", "mcpstack_traces"}
    for spec in yaml.safe_load(path.read_text())["argument_specs"].values():
        for name in spec.get("options") or {}:
            assert name.startswith((f"mcpstack_{role}_", private)) or name in whole, name
    variables = path.parents[1] / "vars" / "main.yml"
    for name in (yaml.safe_load(variables.read_text()) or {}) if variables.exists() else {}:
        assert name.startswith((f"_mcpstack_{role}_", f"__mcpstack_{role}_", private)), name
    for tasks in path.parents[1].glob("tasks/*.yml"):
        for name in re.findall(r"^\s+register: *(\S+)", tasks.read_text(), re.M):
            assert name.startswith("__"), f"{tasks.name}: {name}"


def test_the_audit_in_a_few_lines():
    found = {
        "score": 98,
        "summary": {"critical": 0, "high": 0, "medium": 6, "low": 2, "info": 0},
        "checks": [
            {"id": "CMP-01", "ran": True, "status": "pass"},
            {"id": "NGX-01", "ran": True, "status": "unknown"},
            {"id": "IMG-04", "ran": False, "status": "unknown"},
        ],
    }
    assert demo.audit_lines(found) == [
        "  audit: score 98 of 100 from 1 checks; open: 6 medium, 2 low",
        "         not decided: NGX-01",
    ]
    clean = {"score": 100, "summary": dict.fromkeys(found["summary"], 0), "checks": found["checks"][:1]}
    assert demo.audit_lines(clean) == ["  audit: score 100 of 100 from 1 checks; open: nothing"]
