# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write what follows from roles/*/meta/argument_specs.yml, the only hand-written list of options:

- roles/ROLE/defaults/main.yml: every option that has a default, with the first sentence of its description
- the table between <!-- options --> and <!-- /options --> in roles/ROLE/README.md, where there are such markers
- docs/configuration.md: every public option of every role

usage: gen_role_docs.py [--check]     --check writes nothing and fails when a file differs from what would be written
"""

from __future__ import annotations

import difflib
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- options -->", "<!-- /options -->"
WIDTH = 120


class DocsError(Exception):
    """A sentence for a person: what is wrong and what to do."""


class _Dumper(yaml.SafeDumper):
    """Block style, indented lists, strings quoted only where YAML or Ansible would misread them."""

    def increase_indent(self, flow=False, indentless=False):
        return super().increase_indent(flow, False)


def _string(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    misread = re.fullmatch(r"[\d._+:-]+|0[xob][\da-f]+|y|n|yes|no|on|off|true|false|null|~|", value, re.I)
    style = '"' if misread or "{{" in value or value.strip() != value or "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _string)


def dump(name: str, value: Any) -> str:
    """One variable as YAML; short collections stay on one line."""
    if isinstance(value, (list, dict)):
        flat = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=10**6, sort_keys=False).strip()
        nested = any(
            isinstance(inner, (list, dict)) for inner in (value.values() if isinstance(value, dict) else value)
        )
        if not value or (len(flat) + len(name) < 90 and not nested):
            return f"{name}: {flat}\n"
    return yaml.dump({name: value}, Dumper=_Dumper, default_flow_style=False, width=10**6, sort_keys=False)


def paragraphs(option: dict[str, Any]) -> list[str]:
    """The description as a list of sentences groups."""
    text = option.get("description", [])
    return [" ".join(part.split()) for part in ([text] if isinstance(text, str) else text)]


def comment(option: dict[str, Any]) -> str:
    """The first paragraph as a comment; its first sentence where the paragraph does not fit a line."""
    first = plain(paragraphs(option)[0]) if paragraphs(option) else ""
    if len(first) > WIDTH:
        first = re.split(r"(?<=[.;]) ", first)[0]
    return "\n".join(textwrap.wrap(first, WIDTH, initial_indent="# ", subsequent_indent="# "))


def plain(text: str) -> str:
    """Description markup as plain text."""
    return re.sub(r"\b[BCIUVOPEML]\(([^()]*(?:\([^()]*\)[^()]*)*)\)", r"\1", text)


def markdown(text: str) -> str:
    """Description markup as Markdown, safe inside a table cell."""
    text = re.sub(r"\b[COVPEM]\(([^()]*(?:\([^()]*\)[^()]*)*)\)", r"`\1`", text)
    text = re.sub(r"\bB\(([^()]*)\)", r"**\1**", text)
    text = re.sub(r"\bI\(([^()]*)\)", r"*\1*", text)
    return text.replace("|", "\\|")


def public(specs: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every public option of a role, from all entry points; one that two of them have counts once."""
    options: dict[str, dict[str, Any]] = {}
    for spec in specs.values():
        for name, option in (spec.get("options") or {}).items():
            if not name.startswith("_"):
                options.setdefault(name, option)
    return options


def defaults(role: str, specs: dict[str, Any]) -> str:
    """defaults/main.yml of a role, or nothing where there is none to write."""
    parts = [
        f"{comment(option)}\n{dump(name, option['default'])}"
        for name, option in public(specs).items()
        if name.startswith(f"mcpstack_{role}_") and "default" in option
    ]
    return "---\n# Generated from meta/argument_specs.yml by `make docs`.\n\n" + "\n".join(parts) if parts else ""


def kind(option: dict[str, Any]) -> str:
    """Type of an option, as people write it."""
    name = option.get("type", "str")
    return f"list of {option['elements']}" if name == "list" and "elements" in option else name


def shown(option: dict[str, Any]) -> str:
    """The default, as a table cell."""
    if option.get("required"):
        return "**required**"
    if "default" not in option:
        return ""
    text = yaml.dump(option["default"], Dumper=_Dumper, default_flow_style=True, width=10**6, sort_keys=False)
    text = text.strip().removesuffix("...").strip()
    return f"`{text}`".replace("|", "\\|") if len(text) <= 60 else "see `defaults/main.yml`"


def table(options: dict[str, dict[str, Any]]) -> str:
    """Markdown table of options; nested ones follow their parent, named with a dot."""
    rows = ["| option | type | default | what it does |", "| --- | --- | --- | --- |"]

    def add(prefix: str, entries: dict[str, dict[str, Any]]) -> None:
        for name, option in entries.items():
            words = " ".join(markdown(part) for part in paragraphs(option))
            if option.get("choices"):
                words += " One of " + ", ".join(f"`{choice}`" for choice in option["choices"]) + "."
            rows.append(f"| `{prefix}{name}` | {kind(option)} | {shown(option)} | {words} |")
            mark = "[]." if option.get("type") == "list" else "."
            add(f"{prefix}{name}{mark}", option.get("options") or {})

    add("", options)
    return "\n".join(rows)


def between(text: str, block: str, where: str) -> str:
    """`text` with the marked block replaced."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise DocsError(f"{where} needs exactly one {BEGIN} and, after it, one {END}.")
    return f"{text.split(BEGIN)[0]}{BEGIN}\n{block}\n{END}{text.split(END)[1]}"


def outputs(root: Path) -> dict[Path, str]:
    """Path -> content of everything that is generated."""
    written: dict[Path, str] = {}
    pages = [
        "# Configuration\n\nEvery option of every role, generated from `roles/*/meta/argument_specs.yml` by `make docs`. "
        "Set options in the inventory; all have working defaults unless they are marked **required**, and those marked so are "
        "wired by `playbooks/site.yml`."
    ]
    for path in sorted(root.glob("roles/*/meta/argument_specs.yml")):
        role = path.parent.parent
        specs = (yaml.safe_load(path.read_text()) or {}).get("argument_specs")
        if not isinstance(specs, dict):
            raise DocsError(f"{path.relative_to(root)} has no argument_specs: describe the role's options there.")
        if content := defaults(role.name, specs):
            written[role / "defaults" / "main.yml"] = content
        options = public(specs)
        readme = role / "README.md"
        if readme.exists() and BEGIN in readme.read_text():
            block = table(options) if options else "This role has no options."
            written[readme] = between(readme.read_text(), block, str(readme.relative_to(root)))
        if options:
            title = "Whole platform" if role.name == "_stack" else role.name
            summary = " ".join(paragraphs({"description": specs.get("main", {}).get("short_description", [])}))
            pages.append(f"## {title}\n\n{markdown(summary)}\n\n{table(options)}".replace("\n\n\n\n", "\n\n"))
    written[root / "docs" / "configuration.md"] = "\n\n".join(pages) + "\n"
    return written


def main(argv: list[str]) -> int:
    """Command line."""
    check = argv[1:] == ["--check"]
    if argv[1:] and not check:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        written = outputs(ROOT)
    except DocsError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    stale = []
    for path, content in written.items():
        before = path.read_text() if path.exists() else ""
        if before == content:
            continue
        stale.append(path)
        name = str(path.relative_to(ROOT))
        if check:
            sys.stdout.writelines(
                difflib.unified_diff(before.splitlines(True), content.splitlines(True), name, f"{name} (generated)")
            )
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
            print(f"wrote {name}")
    if check and stale:
        print(f"error: {len(stale)} generated files differ from roles/*/meta/argument_specs.yml: run `make docs`.")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv))
