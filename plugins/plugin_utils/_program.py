# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pack module utilities into one file that a host's own Python runs, without Ansible there.

PRIVATE: internal to the collection, may change in any release.
"""

from __future__ import annotations

import ast
import io
import zipfile
from pathlib import Path

PACKAGE = "ansible_collections.mcpstack.platform.plugins.module_utils"
UTILITIES = Path(__file__).resolve().parents[1] / "module_utils"
#: The earliest date that a zip archive can hold; the same inputs give the same bytes.
EPOCH = (1980, 1, 1, 0, 0, 0)


class ProgramError(Exception):
    """A utility that cannot be packed."""


def imported(source: str) -> set[str]:
    """Names of the module utilities that a source imports, wherever in it it does."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == PACKAGE:
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE + "."):
            found.add((node.module or "")[len(PACKAGE) + 1 :])
        elif isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name[len(PACKAGE) + 1 :] for alias in node.names if alias.name.startswith(PACKAGE + ".")}
    return found


def closure(entry: str) -> dict[str, str]:
    """The source of a utility and of all that it needs, by name."""
    sources: dict[str, str] = {}
    wanted = [entry]
    while wanted:
        name = wanted.pop()
        if name in sources:
            continue
        path = UTILITIES / f"{name}.py"
        try:
            sources[name] = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ProgramError(f"{path}: cannot be read ({error.strerror})") from error
        wanted += imported(sources[name])
    return sources


def pack(entry: str) -> bytes:
    """A zip archive that Python runs: it calls ``main(arguments)`` of the entry and exits with what that returns."""
    files = {
        "__main__.py": f"import sys\n\nfrom {PACKAGE}.{entry} import main\n\nraise SystemExit(main(sys.argv[1:]))\n"
    }
    folder = ""
    for part in PACKAGE.split("."):
        folder += f"{part}/"
        files[f"{folder}__init__.py"] = ""
    files.update({f"{folder}{name}.py": source for name, source in closure(entry).items()})
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, EPOCH)
            info.external_attr = 0o644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, files[name])
    return out.getvalue()
