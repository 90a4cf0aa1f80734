# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts of tools/gen_api_docs.py that need no service; the pages themselves are held against the services by lint."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tools"))

import gen_api_docs as core  # noqa: E402


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"$ref": "#/components/schemas/TaskList"}, "[TaskList](#tasklist)"),
        ({"const": "task"}, '`"task"`'),
        ({"enum": ["a", 1]}, '`"a"` or `1`'),
        ({"anyOf": [{"type": "integer", "minimum": 1, "maximum": 50}, {"type": "null"}]}, "integer, 1 to 50 or null"),
        ({"type": "array", "items": {"type": "string"}, "minItems": 1}, "list of string, 1 or more entries"),
        ({"type": "string", "maxLength": 9, "pattern": "^a|b$"}, "string, at most 9 characters, `^a|b$`"),
        ({"type": "string", "format": "date-time"}, "date-time"),
        ({"type": "object", "additionalProperties": {"type": "string"}}, "object of string"),
        ({"type": "object", "properties": {"a": {"type": "null"}}}, "object (`a`: null)"),
        ({}, "any JSON"),
    ],
)
def test_a_type_in_words(schema: dict, words: str) -> None:
    assert core.type_of(schema) == words


def test_a_table_escapes_what_would_end_a_cell() -> None:
    text = core.table({"properties": {"a": {"type": "string", "pattern": "x|y", "default": "|"}}, "required": []})
    assert text.splitlines()[2] == '| `a` | string, `x\\|y` | `"\\|"` |  |'


@pytest.mark.parametrize(
    ("source", "words"),
    [("'It ended.'", "It ended."), ("f'There is no {x!r}.'", "There is no ...."), ("words", "")],
)
def test_messages_are_read_from_the_source(source: str, words: str) -> None:
    assert core.message(ast.parse(source, mode="eval").body) == words


@pytest.mark.parametrize("page", ["gateway.md", "registry.md", "errors.md", "mcp.md"])
def test_links_of_the_pages_lead_somewhere(page: str) -> None:
    folder = ROOT / "docs" / "api"

    def anchors(path: Path) -> set[str]:
        return {core.anchor(title) for title in re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.M)}

    text = re.sub(r"(?<!\[)`[^`\n]*`", "", (folder / page).read_text(encoding="utf-8"))
    links = re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", text)
    assert links or page == "errors.md"
    for name, place in links:
        target = (folder / name).resolve() if name else folder / page
        assert target.exists(), name
        assert not place or place in anchors(target), (name, place)
