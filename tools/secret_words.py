# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make plugins/module_utils/_secret_words.py from the frequency lists of the Python package zxcvbn (MIT).

usage: secret_words.py PATH-TO-zxcvbn/frequency_lists.py

The lists never change; the tool is kept so that everybody can see how the compact form was made, and make it again.
"""

from __future__ import annotations

import ast
import base64
import math
import sys
import zlib
from pathlib import Path

OUTPUT = Path(__file__).resolve().parent.parent / "plugins" / "module_utils" / "_secret_words.py"
#: How many words of each list are kept, most frequent first.
KEEP = {
    "passwords": 14000,
    "english_wikipedia": 10000,
    "us_tv_and_film": 9000,
    "surnames": 5000,
    "female_names": 3000,
    "male_names": 983,
}
WIDTH = 114
HEADER = '''# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later AND MIT
"""Words that people choose for passwords, with the power of two of their rank. Made by tools/secret_words.py.

PRIVATE: internal to the collection, may change in any release.

The words are the most frequent ones of the lists in the package zxcvbn {version} (MIT licence, Copyright (c) 2012-2016
Dan Wheeler and Dropbox, Inc., Copyright (c) 2016 Daniel Wolf): passwords that leaked, English words, names. The text is
one line for each power of two, each line sorted; an upper-case letter begins a word and says how many characters it
shares with the word before it. That text is packed with zlib and base85.

The licence of the lists: Permission is hereby granted, free of charge, to any person obtaining a copy of this software
and associated documentation files (the "Software"), to deal in the Software without restriction, including without
limitation the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software,
and to permit persons to whom the Software is furnished to do so, subject to the following conditions: The above
copyright notice and this permission notice shall be included in all copies or substantial portions of the Software. THE
SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""

from __future__ import annotations

import base64
import functools
import zlib


@functools.lru_cache(maxsize=1)
def ranks() -> dict[str, int]:
    """Each word in lower case with its rank, to the nearest power of two."""
    words: dict[str, int] = {{}}
    for power, line in enumerate(zlib.decompress(base64.b85decode(PACKED)).decode().split("\\n")):
        rank, word, start = 1 << power, "", 0
        for index, letter in enumerate(line + "A"):
            if "A" <= letter <= "Z":
                if index:
                    word = word[: ord(line[start]) - 65] + line[start + 1 : index]
                    words[word] = rank
                start = index
    return words


PACKED = (
'''


def pack(lists: dict[str, list[str]]) -> tuple[bytes, int]:
    """The packed words and their number."""
    best: dict[str, int] = {}
    for name, count in KEEP.items():
        for rank, word in enumerate(lists[name][:count], 1):
            best[word] = min(rank, best.get(word, rank))
    lines: dict[int, list[str]] = {}
    for word, rank in best.items():
        # A word that is no easier to guess than its characters one by one tells nothing.
        if word.isascii() and word == word.lower() and 1 < len(word) and rank < 10 ** len(word):
            lines.setdefault(round(math.log2(rank)), []).append(word)
    text = []
    for power in range(max(lines) + 1):
        before, row = "", []
        for word in sorted(lines.get(power, [])):
            shared = 0
            while shared < min(len(word), len(before)) and word[shared] == before[shared]:
                shared += 1
            row.append(chr(65 + shared) + word[shared:])
            before = word
        text.append("".join(row))
    return base64.b85encode(zlib.compress("\n".join(text).encode(), 9)), sum(map(len, lines.values()))


def main(argv: list[str]) -> int:
    """Read the lists, write the module."""
    source = Path(argv[1])
    assignment = ast.parse(source.read_text(encoding="utf-8")).body[0]
    if not (isinstance(assignment, ast.Assign) and isinstance(assignment.value, ast.Dict)):
        print(f"{source}: is not the file of the lists; give zxcvbn/frequency_lists.py", file=sys.stderr)
        return 1
    lists: dict[str, list[str]] = {}
    for key, item in zip(assignment.value.keys, assignment.value.values):
        # Each list is written as "one,two,three".split(",").
        words = next(node.value for node in ast.walk(item) if isinstance(node, ast.Constant) and node.value != ",")
        if isinstance(key, ast.Constant):
            lists[str(key.value)] = str(words).split(",")
    packed, count = pack(lists)
    version = next(source.parent.parent.glob("zxcvbn-*.dist-info")).name.split("-")[1].removesuffix(".dist")
    rows = [packed[start : start + WIDTH].decode() for start in range(0, len(packed), WIDTH)]
    body = "".join(f'    "{row}"\n' for row in rows)
    OUTPUT.write_text(HEADER.format(version=version) + body + ")\n", encoding="utf-8")
    print(f"{OUTPUT.name}: {count} words, {OUTPUT.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
