# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Env files as four programs read them. The values were checked with Compose 2.26, dash and systemd 252."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys

import pytest

from ansible_collections.mcpstack.platform.plugins.module_utils import _env_parse as core

M = core.MARK
WRONG = "refused"

#: One statement -> what compose, docker, systemd and a shell make of A.
READ = {
    "A=x": ("x", "x", "x", "x"),
    "A=": ("", "", "", ""),
    "A=x y": ("x y", "x y", "x y", WRONG),
    "A= x ": ("x", " x ", "x", WRONG),
    'A="x y"': ("x y", '"x y"', "x y", "x y"),
    "A='x y'": ("x y", "'x y'", "x y", "x y"),
    "A=x #y": ("x", "x #y", "x #y", "x"),
    "A=x#y": ("x#y", "x#y", "x#y", "x#y"),
    'A="x" #y': ("x", '"x" #y', "x#y", "x"),
    'A="x"y': (WRONG, '"x"y', "xy", "xy"),
    "A=$B": (f"{M}B{M}", "$B", "$B", f"{M}B{M}"),
    "A=${B:-c}": (f"{M}B:-c{M}", "${B:-c}", "${B:-c}", f"{M}B:-c{M}"),
    "A=$$": ("$", "$$", "$$", WRONG),
    "A='$B'": ("$B", "'$B'", "$B", "$B"),
    'A="$B"': (f"{M}B{M}", '"$B"', "$B", f"{M}B{M}"),
    "A=x$": (WRONG, "x$", "x$", "x$"),
    "A=`id`": ("`id`", "`id`", "`id`", WRONG),
    "A=$(id)": (WRONG, "$(id)", "$(id)", WRONG),
    "A=x;y": ("x;y", "x;y", "x;y", WRONG),
    "A=x\\y": ("x\\y", "x\\y", "xy", "xy"),
    'A="x\\ny"': ("x\ny", '"x\\ny"', "x\\ny", "x\\ny"),
    'A="x\\"y"': ('x"y', '"x\\"y"', 'x"y', 'x"y'),
    "A=~/x": ("~/x", "~/x", "~/x", WRONG),
    "A = x": ("x", WRONG, "x", WRONG),
    "export A=x": ("x", WRONG, WRONG, "x"),
    "A: x": ("x", WRONG, WRONG, WRONG),
    'A="x\ny"': ("x\ny", '"x', "x\ny", "x\ny"),
    "A=x\\\ny": ("x\\", "x\\", "xy", "xy"),
    'A="x': (WRONG, '"x', WRONG, WRONG),
    "#A=x": (None, None, None, None),
    ";A=x": (WRONG, None, None, WRONG),
    "  A=x": ("x", "x", "x", "x"),
}


def value(reader, text):
    first = [item for item in core.READERS[reader](text) if item.line == 1]
    if not first or (not first[0].error and first[0].name != "A"):
        return None
    return WRONG if first[0].error else first[0].value


@pytest.mark.parametrize(("text", "wanted"), READ.items())
def test_four_programs_read_one_statement(text, wanted):
    assert tuple(value(reader, text + "\nZ=1\n") for reader in core.READERS) == wanted


@pytest.mark.parametrize("reader", core.READERS)
def test_lines_are_counted(reader):
    text = "# one\n\nA=1\n  # two\nB=2\n\n\nC=3"
    assert [(item.line, item.name, item.value) for item in core.READERS[reader](text)] == [
        (3, "A", "1"),
        (5, "B", "2"),
        (8, "C", "3"),
    ]


def test_a_value_over_several_lines():
    text = 'A="one\ntwo=2\nthree"\nB=1\n'
    for reader in ("compose", "systemd", "shell"):
        items = core.READERS[reader](text)
        assert [(item.line, item.last, item.name) for item in items] == [(1, 3, "A"), (4, 4, "B")]


TRAPS = {
    "B=1\n": [],
    "B='a b'\nC=d e\nE=$F\n": [],  # Compose alone reads them, and reads them one way
    "P=plain\n": [],
    "P=a'b\n": [(1, "P", "quotes (shell: a quote that is never closed)")],
    "P=a$b\n": [(1, "P", "a dollar sign (not the same for compose and shell as for systemd)")],
    "P=a #b\n": [(1, "P", "a comment behind the value (not the same for compose and shell as for systemd)")],
    "P=`a`\n": [(1, "P", "a backtick (shell: a command that would be run)")],
    "P=a\\b\n": [(1, "P", "a backslash (not the same for compose as for systemd and shell)")],
    "P=a b\n": [(1, "P", "a space in the value (shell: what follows the value would be run as a command)")],
    "P =a\n": [(1, "P", "a space beside the equals sign (shell: a command that would be run)")],
    "P=a&b\n": [(1, "P", "a character with a meaning in a shell (shell: a character that ends the command)")],
    "B=1\nB=2\n": [(2, "B", "the name is on line 1 already, with another value")],
    "B=1\nB=1\n": [],
    'B="1\n': [(1, "B", "quotes (compose: a quote that is never closed)")],
    "B=1\r\nC=2\r\n": [(1, "", "line ends of Windows (CR LF): a shell keeps the carriage return in the value")],
    "\ufeffB=1\n": [(1, "", "a byte order mark: a shell and systemd take it for a part of the first name")],
    "no name\n": [(1, "", "a line without an equals sign (compose: a character that is not allowed in a name)")],
    "9f2c41d8a7b6e5f0aa=x y$1\n": [(1, "", "a dollar sign (compose: a dollar sign that begins no variable)")],
}  # fmt: skip


@pytest.mark.parametrize(("text", "wanted"), TRAPS.items())
def test_traps(text, wanted):
    traps = core.parse(text, ("compose",), lambda name, value: name == "P").traps
    assert [(trap.line, trap.name, trap.what) for trap in traps] == wanted


def test_readers_that_are_named_have_to_agree_on_every_line():
    text = "A=1\nB='x'\nC=a b\nexport D=1\n"
    assert [trap.line for trap in core.parse(text, ("compose", "docker")).traps] == [2, 4]
    assert [trap.line for trap in core.parse(text, ("compose", "shell")).traps] == [3]
    assert [trap.line for trap in core.parse(text, ("compose", "systemd")).traps] == [4]
    assert [trap.line for trap in core.parse(text, tuple(core.READERS)).traps] == [2, 3, 4]


def test_traps_are_not_told_without_end():
    assert len(core.parse("P=a$b\n" * 5000, ("compose",), lambda name, value: True).traps) == core.TRAPS


@pytest.mark.parametrize("name", ["DB_PASSWORD", "a", "APP_2", "spring.datasource.password", "log-level"])
def test_names_are_shown(name):
    assert core.shown(name) == name


@pytest.mark.parametrize(
    "name",
    ["MIIEvQIBADANBg", "9f2c", "A B", "A" * 70, "0123456789ABCDEF", "KJ3H4KJ5H34KJ5H34KJ5HZZZZZ", "a1b2c3d4", "é", ""],
)
def test_what_may_be_a_piece_of_a_key_is_not(name):
    assert core.shown(name) == ""


# -- the same as the programs themselves ------------------------------------------------------------------------------


def statements(seed, count):
    numbers = random.Random(seed)
    pieces = list("ab=#'\" \\\t.:") + ["A", "\n", "\nB=", "\nC=", "\n#", " #", "\nexport D=", "'x'", '"y"', "\\\n"]
    for _unused in range(count):
        yield "A=" + "".join(numbers.choice(pieces) for _more in range(numbers.randrange(1, 14))) + "\n"


@pytest.mark.skipif(not shutil.which("dash"), reason="needs dash")
def test_a_shell_reads_the_same(tmp_path):
    path = tmp_path / "x.env"
    compared = 0
    for text in statements(11, 300):
        items = core.read_shell(text)
        if any(item.error for item in items):
            continue
        path.write_text(text)
        tell = "; ".join(f'[ -n "${{{name}+x}}" ] && printf "%s" "@{name}=${name}@"' for name in "ABCD")
        done = subprocess.run(
            ["dash", "-c", f"PATH=/nonexistent; . {path}; {tell}; true"], capture_output=True, text=True, env={}
        )
        found = {item.name: item.value for item in items if item.value is not None and item.name in "ABCD"}
        assert done.stdout == "".join(f"@{name}={found[name]}@" for name in "ABCD" if name in found), text
        assert done.stderr == ""
        compared += 1
    assert compared > 50


@pytest.mark.parametrize("seed", range(60))
def test_any_text_is_read(seed):
    numbers = random.Random(seed)
    pieces = [
        "A",
        "=",
        "'",
        '"',
        "$",
        "${",
        "}",
        "\\",
        "\n",
        "\r",
        " ",
        "#",
        "\ufeff",
        "\x00",
        "\ud800",
        "export ",
        ":",
        "`",
        "é",
        "\u2028",
    ]
    text = "".join(numbers.choice(pieces) for _unused in range(numbers.randrange(400)))
    env = core.parse(text, tuple(core.READERS), lambda name, value: True)
    lines = text.count("\n") + text.count("\r") + 1
    for item in env.items:
        assert 1 <= item.line <= item.last <= lines
    assert all(1 <= trap.line <= lines for trap in env.traps)


@pytest.mark.parametrize("reader", core.READERS)
@pytest.mark.parametrize(
    "piece", ['A="\n', "A='x\\", "$", "${a", "#\n", " ", '"', "export ", "A=\\\n", "A=$x\n", "'\n"]
)
def test_a_reader_goes_through_a_text_once(reader, piece):
    """Twice the text is twice the work: counted in calls of the interpreter, not in time."""

    def work(text):
        calls = 0

        def count(frame, event, _argument):
            nonlocal calls
            calls += event == "line"
            return count

        sys.settrace(count)
        try:
            core.READERS[reader](text)
        finally:
            sys.settrace(None)
        return calls

    assert work(piece * 1000) < 2.5 * work(piece * 500) + 1000
