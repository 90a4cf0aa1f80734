# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every link from one page of the documentation to another, or to a heading, leads somewhere."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tools"))

from gen_api_docs import anchor  # noqa: E402

PAGES = sorted(
    [*ROOT.glob("docs/**/*.md"), *ROOT.glob("*.md"), *ROOT.glob("roles/*/README.md"), ROOT / "services/README.md"]
)


def headings(path: Path) -> set[str]:
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    named = set(re.findall(r'<a id="([^"]+)">', text))
    return named | {anchor(title.replace("`", "")) for title in re.findall(r"^#+ (.+)$", text, re.M)}


def broken(page: Path) -> list[str]:
    """Links of a page that lead nowhere; code is no link."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    text = re.sub(r"(?<!\[)`[^`\n]*`", "", text)
    found = []
    for name, place in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", text):
        target = (page.parent / name).resolve() if name else page
        if re.match(r"[a-z]+:", name):
            continue
        if not target.exists() or (place and target.suffix == ".md" and place not in headings(target)):
            found.append(f"{name}#{place}" if place else name)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page) == []


def test_a_broken_link_is_seen(tmp_path: Path) -> None:
    (tmp_path / "b.md").write_text("# Two words\n")
    (tmp_path / "a.md").write_text(
        "[x](b.md#two-words) [y](b.md#three) [z](c.md) `[k](d.md)` [w](https://example.org)\n"
    )
    assert broken(tmp_path / "a.md") == ["b.md#three", "c.md"]
