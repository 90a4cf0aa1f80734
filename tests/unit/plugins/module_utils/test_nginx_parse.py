# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The parser of nginx configurations: nginx's own lexical rules, includes, bounds, and agreement with crossplane."""

from __future__ import annotations

import random
import string

import crossplane
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import MemoryFiles, Unreadable
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_nginx import audit
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_parse import (
    MAX_DIRECTIVES,
    MAX_NESTING,
    parse,
    unescape,
)

MAIN = "/etc/nginx/nginx.conf"


def read(text, files=None, roots=("/etc",), **options):
    return parse(MemoryFiles({MAIN: text, **(files or {})}, roots=roots), MAIN, **options)


def plain(block):
    return [[item.name, *item.args, *([plain(item)] if item.block is not None else [])] for item in block.block]


GOOD = [
    ("a;", [["a"]]),
    ("a b c;", [["a", "b", "c"]]),
    ("a{b;}", [["a", [["b"]]]]),
    ("a { } b;", [["a", []], ["b"]]),
    ("a # c ; }\n;", [["a"]]),
    ("a b#c;", [["a", "b#c"]]),
    ('a "b c" d;', [["a", "b c", "d"]]),
    ("a 'b\"c';", [["a", 'b"c']]),
    ('a "b\\"c";', [["a", 'b"c']]),
    ("a 'b\nc';", [["a", "b\nc"]]),
    ("a b\"c;", [["a", 'b"c']]),
    ("a ${b}c;", [["a", "${b}c"]]),
    ("a $b{c;}", [["a", "$b", [["c"]]]]),
    ("a \\${b;}", [["a", "\\$", [["b"]]]]),
    ("a b\\;c;", [["a", "b\\;c"]]),
    ("a b\\ c;", [["a", "b\\ c"]]),
    ("a \\n\\t\\r\\.;", [["a", "\n\t\r\\."]]),
    ('a "";', [["a", ""]]),
    ("a b}c;", [["a", "b}c"]]),
    ("if ($a ~ \"b\") { c; }", [["if", "($a", "~", "b", ")", [["c"]]]]),
    ("map $a $b { default c; ~^x{2} d; }", None),
    ('map $a $b { "~^x{2}" d; include x; }', None),
    ("\r\na\r\n;\r\n", [["a"]]),
    ("a \xe4\xf6 \u4e2d;", [["a", "\xe4\xf6", "\u4e2d"]]),
    ("access_by_lua_block { if a then { b = '}' -- } \n --[[ } ]] [=[ } ]=] } end } c;", [["access_by_lua_block", []], ["c"]]),
    ("", []),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), GOOD, ids=[text[:30] for text, _ in GOOD])
def test_read(text, expected):
    tree = read(text)
    if expected is not None:
        assert tree.problems == []
        assert plain(tree.root) == expected


BAD = [
    (";", 'unexpected ";"', 1),
    ("{", 'unexpected "{"', 1),
    ("a;\n}", 'unexpected "}"', 2),
    ("a b }", 'unexpected "}"', 1),
    ("a { b }", 'unexpected "}"', 1),
    ("a {\nb;", '"a" is not closed', 1),
    ("a;\nb", 'unexpected end of file, expecting ";" or "{"', 2),
    ('a "b', "a quote is not closed, or holds more than 4096 bytes", 1),
    ('a "b"c;', "a word follows a closing quote without a space", 1),
    ('a "b"#c\n;', "a word follows a closing quote without a space", 1),
    ("a \\", "ends with a backslash", 1),
    ("map $a $b { c { d; } }", 'unexpected "{"', 1),
    ("a " + "b" * 5000 + ";", "a word is longer than 4096 bytes", 1),
    ('a "' + '\\"' * 5000 + '";', "a quote is not closed, or holds more than 4096 bytes", 1),
    ("a { " * (MAX_NESTING + 1), f"blocks are nested more than {MAX_NESTING} deep", 1),
    ("a;" * (MAX_DIRECTIVES + 1), f"more than {MAX_DIRECTIVES} directives", 1),
    ("access_by_lua_block {\n { }", '"access_by_lua_block" is not closed', 1),
    ("a\n\0;", "holds a NUL byte", 2),
]


@pytest.mark.parametrize(("text", "what", "line"), BAD, ids=[what[:30] for _, what, _ in BAD])
def test_refused(text, what, line):
    (problem,) = read(text).problems
    assert (problem.what, problem.where, problem.fatal) == (what, f"{MAIN}:{line}", True)


def test_a_byte_order_mark_is_a_problem_and_no_end():
    tree = read("\ufeffa;")
    assert [problem.fatal for problem in tree.problems] == [False]
    assert plain(tree.root) == [["a"]]


def test_lines_survive_everything():
    tree = read('a;\n# x\n"b\nc" d\n\\\n;\nacc_by_lua_block { \n } e;\n f\n {\n g; }')
    assert [(item.name, item.line) for item in tree.root.walk()] == [
        ("a", 1), ("b\nc", 3), ("acc_by_lua_block", 7), ("e", 8), ("f", 9), ("g", 11),
    ]  # fmt: skip


def test_messages_do_not_quote_other_files():
    files = {"/etc/shadow": "root:$6$secret:1:0:9:7:::\nx:y {"}
    for text in ("include /etc/shadow;", "http { include /etc/shadow; }"):
        tree = read(text, files)
        assert "secret" not in str(tree.problems)
        source = MemoryFiles({MAIN: text, **files}, roots=("/etc",))
        assert "secret" not in str(audit(source, MAIN))


# -- includes ---------------------------------------------------------------------------------------------------------


def test_includes_are_read_in_place_and_in_order():
    files = {
        "/etc/nginx/d/b.conf": "two;",
        "/etc/nginx/d/a.conf": "one;",
        "/etc/nginx/d/.c.conf": "no;",
        "/etc/nginx/d/e.txt": "no;",
    }
    tree = read("x { include d/*.conf; } y;", files)
    assert plain(tree.root) == [["x", [["one"], ["two"]]], ["y"]]
    assert tree.files == [MAIN, "/etc/nginx/d/a.conf", "/etc/nginx/d/b.conf"]
    assert [item.file for item in tree.root.walk()][1] == "/etc/nginx/d/a.conf"
    assert tree.whole


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("d/[ab].conf", ["a", "b"]),
        ("d/[!a]*.conf", ["b", "cc"]),
        ("d/[^a]*.conf", ["b", "cc"]),
        ("d/?.conf", ["a", "b"]),
        ("*/a.conf", ["a"]),
        ("../nginx/d/a.conf", ["a"]),
        ("/etc/nginx/d/b.conf", ["b"]),
        ("d/none*.conf", []),
    ],
)
def test_globs(pattern, names):
    files = {f"/etc/nginx/d/{name}.conf": f"{name};" for name in ("a", "b", "cc")}
    tree = read(f"include {pattern};", files)
    assert [item.name for item in tree.root.walk()] == names
    assert tree.problems == []


@pytest.mark.parametrize(
    ("text", "files", "what"),
    [
        ("include a;", {"/etc/nginx/a": "include b;", "/etc/nginx/b": "include a;"}, "include leads back to a file that is being read"),
        ("include nginx.conf;", {}, "include leads back to a file that is being read"),
        ("include a;", {}, "include: /etc/nginx/a does not exist"),
        ("include a b;", {}, "include takes one argument"),
        ("include a0;", {f"/etc/nginx/a{n}": f"include a{n + 1};" for n in range(40)}, "includes are nested more than 32 deep"),
        ("include a;" * 3000, {"/etc/nginx/a": ""}, None),
        ("include a;", {"/etc/nginx/a": "b {"}, '"b" is not closed'),
        ("b { include a; }", {"/etc/nginx/a": "}"}, 'unexpected "}"'),
    ],
)  # fmt: skip
def test_includes_that_go_wrong(text, files, what):
    assert [problem.what for problem in read(text, files).problems] == ([what] if what else [])


def test_the_whole_is_bounded():
    files = {"/etc/nginx/a": "#" * (3 << 20)}
    (problem,) = read("include a;" * 5, files).problems
    assert "larger than" in problem.what
    wide = {f"/etc/nginx/d/{number}": "" for number in range(2100)}
    (problem,) = read("include d/*;", wide).problems
    assert problem.what == "includes more than 2000 files"


def test_what_was_not_handed_over_is_a_gap():
    tree = read("include /srv/a; include /srv/*.conf;", roots=())
    assert tree.problems == [] and [gap.lua for gap in tree.gaps] == [False, False] and not tree.whole


def test_a_container_sees_other_paths():
    files = MemoryFiles({"/srv/edge/nginx.conf": "include /etc/nginx/x.conf; include y.conf;", "/srv/edge/x.conf": "x;", "/srv/edge/y.conf": "y;"})  # fmt: skip
    tree = parse(files, "/srv/edge/nginx.conf", mounts={"/etc/nginx": "/srv/edge", "/etc": "/nowhere"})
    assert [item.name for item in tree.root.walk()] == ["x", "y"]


def test_the_main_file_is_needed():
    with pytest.raises(Unreadable):
        parse(MemoryFiles({}), MAIN)


def test_unescape():
    assert unescape("a\\\\b\\\"c\\'d\\te\\.f\\") == "a\\b\"c'd\te\\.f\\"


# -- agreement with crossplane, and with nothing at all ---------------------------------------------------------------

WORDS = st.one_of(
    st.sampled_from(["server", "location", "if", "map", "set", "$a", "${b}", "(", ")", "~", "a;b", "}", "{", "#x", "'", '"', "", "a b", "\\", "a\\.b", "include", "x{2}"]),
    st.text(st.sampled_from(string.ascii_letters + string.digits + " $\\\"'{}();#~^.*\n"), max_size=8),
)  # fmt: skip


def quoted(word):
    """A word as a person would write it."""
    if word and not set(word) & set(" \t\r\n;{}\\\"'#$"):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


TREES = st.recursive(
    st.lists(WORDS, min_size=1, max_size=4).map(lambda words: (words, None)),
    lambda inner: st.tuples(st.lists(WORDS, min_size=1, max_size=3), st.lists(inner, max_size=3)),
    max_leaves=12,
)


def write(items, depth=0):
    out = []
    for words, inner in items:
        head = " ".join(quoted(word) for word in words)
        out.append(f"{head};" if inner is None else f"{head} {{\n{write(inner, depth + 1)}\n}}")
    return "\n".join(out)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(TREES, max_size=4))
def test_what_is_written_is_read(items):
    def names(items):
        return [[*words, *([names(inner)] if inner is not None else [])] for words, inner in items]

    # Keys of data blocks and of includes have rules of their own.
    if any(
        word in ("map", "geo", "types", "include", "split_clients", "charset_map") or word.endswith("_by_lua_block")
        for word in str(items).replace("'", " ").split()
    ):
        return
    tree = read(write(items))
    assert tree.problems == []
    assert plain(tree.root) == names(items)


def other(directory, text):
    """crossplane's reading in our shape, or None when it refuses."""
    path = directory / "nginx.conf"
    path.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")
    try:
        parsed = crossplane.parse(str(path), single=True, check_ctx=False, check_args=False, strict=False)
    except (UnicodeDecodeError, RecursionError):
        return None
    if parsed["status"] != "ok":
        return None

    def shape(items):
        return [
            [item["directive"], *item["args"], *([shape(item["block"])] if "block" in item else [])]
            for item in items
            # Comments between words come out as directives of their own.
            if item["directive"] != "#"
        ]

    return shape(parsed["config"][0]["parsed"])


FIXTURES = [
    "events { } http { server { listen 80; location ~ \\.php$ { return 404; } } }",
    "http { map $a $b { default 1; ~^x 2; } log_format f '$a \"$b\"' 'c'; }",
    "http { upstream u { server a:1 weight=2; } types { text/html html htm; } }",
    "user a b; worker_processes 2; # c\nevents{}\n",
    'http { add_header A "b; c" always; proxy_set_header X ""; }',
    "stream { server { listen 1; proxy_pass a:1; } }",
]


def same(ours, theirs):
    """crossplane takes the parentheses of if away, and leaves escapes in words as they are written."""

    def words(items):
        flat = []
        for item in items:
            flat += words(item) if isinstance(item, list) else [item]
        return [
            "".join(char for char in word if char not in "\\()\n\t\r ntr") for word in flat if word not in ("(", ")")
        ]

    return [word for word in words(ours) if word] == [word for word in words(theirs) if word]


@pytest.mark.parametrize("text", FIXTURES)
def test_crossplane_reads_the_same(tmp_path, text):
    assert plain(read(text).root) == other(tmp_path, text)


def test_crossplane_agrees_wherever_both_accept(tmp_path):
    chosen = random.Random(20261121)
    # Without a quote inside a word, which crossplane takes for the beginning of another one, and without ${d}, behind
    # which it reads on over a space; nginx does neither.
    # Without a quote inside a word, which crossplane takes for the beginning of another one, and without ${d}, behind
    # which it reads on over a space; nginx does neither.
    pieces = [
        " ",
        "\n",
        ";",
        "{",
        "}",
        "a",
        "b1",
        "$c",
        '"e f"',
        "'g'",
        "\\",
        "#h\n",
        "if ($i)",
        "x\\;y",
        "(",
        ")",
        "server",
        "é",
    ]
    agreed = 0
    for _ in range(1200):
        text = "".join(chosen.choice(pieces) for _ in range(chosen.randrange(1, 14)))
        if chosen.random() < 0.7:
            text = f"a {{ {text} ; }}"
        ours, theirs = read(text), other(tmp_path, text)
        if theirs is None or ours.problems:
            continue
        agreed += 1
        assert same(plain(ours.root), theirs), text
    assert agreed > 150


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
)
def test_any_bytes_are_a_tree_or_a_problem(data):
    tree = read(data)
    assert all(problem.what for problem in tree.problems)
    result = audit(MemoryFiles({MAIN: data}, roots=("/etc",)), MAIN)
    assert set(result) == {"findings", "checks_run", "summary"}


BASE = """
events { worker_connections 512; }
http {
  map $http_upgrade $up { default ""; ~*websocket $http_upgrade; }
  limit_req_zone $binary_remote_addr zone=a:1m rate=5r/s;
  add_header X-A $uri always; proxy_set_header Host $host; ssl_ciphers HIGH:!aNULL; ssl_protocols TLSv1.2;
  upstream u { server b:80; }
  server { listen 443 ssl default_server; server_name ~^(?<n>.+)\\.x$ y.test; root /srv; set $q $arg_q;
    if ($request_method !~ ^(GET|POST)$) { return 405; }
    location ~ ^/(a+)/(.*)$ { rewrite ^/(.*)$ /$1 break; proxy_pass http://$q/$1; limit_req zone=a burst=5; }
    location /f { alias /srv/f/; try_files $uri @n; } location @n { proxy_pass https://u; }
    location = /s { stub_status; allow 10.0.0.0/8; deny all; } error_page 404 /e; access_log off; } }
"""


def test_mutants_of_a_configuration_never_break_the_audit():
    chosen = random.Random(7)
    words = BASE.split()
    odd = [
        "",
        "$",
        "$1",
        "${",
        "}",
        "{",
        ";",
        '""',
        "-1",
        "999999999999999999999",
        "~",
        "~^(",
        "=",
        "unix:",
        "[::",
        "\\",
        "on",
        "off",
        "all",
        "0",
        "@x",
        "http://",
        "://",
        "$http_host",
        "::/0",
    ]
    for _ in range(400):
        mutant = list(words)
        for _ in range(chosen.randrange(1, 5)):
            at = chosen.randrange(len(mutant))
            what = chosen.random()
            if what < 0.35:
                mutant[at] = chosen.choice(odd)
            elif what < 0.55:
                del mutant[at]
            elif what < 0.8:
                mutant[at] = chosen.choice(words)
            else:
                mutant.insert(at, chosen.choice([*odd, *words]))
        text = " ".join(mutant)
        result = audit(MemoryFiles({MAIN: text}, roots=("/",)), MAIN)
        assert result["summary"]["open"] == len(result["findings"]), text


# -- bounds on work, counted and not timed ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["a {" * 100000, "}" * 100000, '"' * 100000, "a '" + "\\'" * 100000, "$" * 100000, "\\" * 100001, "#" * 1000000, "a " * 200000, "include x/*;" * 20000],
    ids=["open", "close", "quotes", "escapes", "dollars", "backslashes", "comment", "words", "includes"],
)  # fmt: skip
def test_adversarial_texts_end(text):
    tree = read(text)
    assert len(tree.problems) <= 1
    assert sum(1 for _ in tree.root.walk()) <= MAX_DIRECTIVES
