# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Our parser of nginx against crossplane: the same directives with the same words on the same lines, or the same refusal."""

from __future__ import annotations

import random
import re
from pathlib import Path

import crossplane
import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import LocalFiles
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_parse import Directive, parse, unescape
from ansible_collections.mcpstack.platform.tests.peers import nginx_cases
from ansible_collections.mcpstack.platform.tests.peers.conftest import ledger, settle
from ansible_collections.mcpstack.platform.tests.render import test_audit_nginx_mutation as edge
from ansible_collections.mcpstack.platform.tests.render.conftest import Role

#: What is hard to read; "files" of a case beside the main one stand in FILES.
HARD = {
    "quotes": "a \"b c\" 'd e' f\"g h'i;\n",
    "escapes": 'a "b\\"c" \'d\\\'e\' f\\ g h\\;i \\"j;\n',
    "escapes of letters": 'a "x\\ty\\nz" x\\ty;\n',
    "variable in braces": "set $a ${b}c; return 200 \"${d}{e}\";\n",
    "comment": "a b; # c d;\n#e f;\ng#h i;\n",
    "lines": "a\n b\n  c\n;\n\n\nd e;\n",
    "quotes over lines": "log_format x 'a\n b'\n 'c';\nd e;\n",
    "blocks": "http{server{location /{return 200;}}}\n",
    "empty block": "events{}\nhttp { }\n",
    "carriage returns": "a b;\r\nhttp {\r\n c d;\r\n}\r\n",
    "map": "http { map $a $b { default 0; ~^x\\d{2}$ 1; 'a b' 2; \"~*c;d\" 3; include x.types; volatile; } }\n",
    "geo": "http { geo $a { default 0; 10.0.0.0/8 1; 2001:db8::/32 2; } }\n",
    "types": "http { types { text/html html htm; application/x a; } }\n",
    "if": "http { server { if ($a = \"b c\") { return 403; } if (-f $x) { break; } if ($a ~* '(b|c)') { return 1; } } }\n",
    "brace in a pattern": "http { server { location ~ \"^/a{2,3}$\" { return 200; } } }\n",
    "include": "http { include parts/*.conf; include one.conf; }\n",
    "nested include": "include parts/b.conf;\n",
    "nothing": "",
    "only a comment": "# a",
    "letters of the world": "a \"grüße\" 日本;\n",
    "no end": "a b",
    "no closing brace": "http { a b;\n",
    "closing brace too much": "a b; }\n",
    "two semicolons": "a b;;\n",
    "brace without a name": "{ a b; }\n",
    "open quote": "a \"b;\n",
    "word behind a quote": "a \"b\"c;\n",
    "missing include": "include nowhere.conf;\n",
}  # fmt: skip
FILES = {"parts/a.conf": "x 1;\n", "parts/b.conf": "# y\n\ny 2;\ninclude parts/a.conf;\n", "one.conf": "server {\n listen 80;\n}\n", "x.types": "k v;\n"}  # fmt: skip

Row = tuple[str, int, str, tuple[str, ...]]


def ours(path: Path) -> list[Row] | str:
    """(file, line, directive, words), in the order of reading; or why it is refused."""
    tree = parse(LocalFiles(), str(path))
    if tree.problems:
        return re.sub(r'"\w+"|/\S+', "…", tree.problems[0].what)

    def rows(block: Directive) -> list[Row]:
        found = []
        for item in block.block or ():
            found.append((item.file, item.line, item.name, item.args))
            found += rows(item)
        return found

    return rows(tree.root)


def theirs(path: Path) -> list[Row] | None:
    """The same as crossplane has it."""
    answer = crossplane.parse(str(path), comments=False, check_ctx=False, check_args=False)
    if answer["status"] != "ok":
        return None
    found: list[Row] = []

    def rows(number: int, items: list[dict]) -> None:
        file = answer["config"][number]["file"]
        for item in items:
            if item["directive"] == "include" and "includes" in item:
                for other in item["includes"]:
                    rows(other, answer["config"][other]["parsed"])
                continue
            args = tuple(map(unescape, item["args"]))
            if item["directive"] == "if":  # crossplane takes the parentheses off
                args = tuple(" ".join(args).split())
            found.append((file, item["line"], unescape(item["directive"]), args))
            rows(number, item.get("block", ()))

    rows(0, answer["config"][0]["parsed"])
    return found


def plain(rows: list[Row] | str) -> list[Row] | str:
    """The condition of an if without its parentheses, on our side."""
    if isinstance(rows, str):
        return rows
    return [
        (file, line, name, tuple(" ".join(args).strip().removeprefix("(").removesuffix(")").split()))
        if name == "if"
        else (file, line, name, args)
        for file, line, name, args in rows
    ]


def cases(root: Path) -> dict[str, Path]:
    """Case -> main file: the hard ones, those of test_gixy, the rendered edge, and pieces of all of them."""
    out = {}
    texts = {f"hard: {name}": text for name, text in HARD.items()}
    texts |= {f"weak: {name}": text for name, text in nginx_cases.files().items()}
    numbers = random.Random(20260102)
    pool = "".join(HARD.values()) + nginx_cases.text({})
    for number in range(300):
        # fragments of real text: unbalanced, cut within words and quotes
        start, length = numbers.randrange(len(pool)), numbers.randrange(5, 120)
        texts[f"piece {number}"] = pool[start : start + length]
    for number, (name, text) in enumerate(texts.items()):
        home = root / str(number)
        for other, content in FILES.items():
            (home / other).parent.mkdir(parents=True, exist_ok=True)
            (home / other).write_text(content)
        out[name] = home / "nginx.conf"
        out[name].write_bytes(text.encode())
    for name, options in (("edge", edge.REQUIRED), ("edge-with-other-options", edge.ALTERNATIVE)):
        for path, body in Role("edge", options).files().items():
            target = root / name / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(body.replace("/etc/nginx/", f"{root}/{name}/"))
        out[name] = root / name / "nginx.conf"
    return out


@pytest.fixture(scope="module")
def differences(tmp_path_factory) -> dict[str, tuple[set[str], set[str]]]:
    found = {}
    for name, path in cases(tmp_path_factory.mktemp("crossplane")).items():
        one, other = theirs(path), plain(ours(path))
        refused = isinstance(other, str)
        theirs_only, ours_only = found.setdefault(name.split(":")[0].split()[0], (set(), set()))
        if one is None and not refused:
            theirs_only.add(f"refused: {name}")
        elif one is not None and refused:
            ours_only.add(f"refused: {other}")
        elif one is not None and one != other:
            theirs_only.add(f"other words: {name}")
    return found


def test_every_difference_has_a_reason(differences):
    wrong = settle(differences, ledger("crossplane"))
    assert not wrong, "\n".join(wrong)
