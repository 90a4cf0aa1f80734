# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Record what Docker Compose itself makes of the cases in tests/fixtures/compose, for the unit tests of our loader.

usage: record_compose.py [--compose PROGRAM] [--check] [CASE...]     (default: all cases)

A case is a directory with compose files and an optional args.json (files, env, env_files, profiles, project_directory);
the answer goes to its expected.json: {"compose": version, "config": …} or {"compose": version, "error": …}.

--compose   the docker-compose program; default: the one of Debian trixie, taken from the package mirror of this machine's
            apt sources and unpacked below .cache, never installed. `config` needs no engine.
--check     change nothing; exit 1 if a recorded answer is no longer the one of the program
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import testhost_prepare

ROOT = Path(__file__).resolve().parent.parent
CASES = ROOT / "tests" / "fixtures" / "compose"
CACHE = ROOT / ".cache" / "compose"
SUITE = "trixie"
HOME = "/home/case"


class RecordError(Exception):
    """A sentence for a person: what is wrong and what to do."""


def fetch() -> Path:
    """Debian's docker-compose, unpacked."""
    program = CACHE / "root" / "usr" / "libexec" / "docker" / "cli-plugins" / "docker-compose"
    if program.is_file():
        return program
    targets = _run(
        "apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"
    ).stdout
    main, _ = testhost_prepare.parse_mirrors(targets)
    (CACHE / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    sources = CACHE / "sources.list"
    sources.write_text(f"deb [signed-by={testhost_prepare.KEYRING}] {main} {SUITE} main\n")
    apt = ["apt-get", "--quiet", "--quiet"]
    for setting in (
        f"Dir::State::lists={CACHE}/lists", f"Dir::Cache={CACHE}", f"Dir::Etc::sourcelist={sources}",
        "Dir::Etc::sourceparts=/dev/null", "APT::Sandbox::User=root",
    ):  # fmt: skip
        apt += ["-o", setting]
    _run(*apt, "update")
    _run(*apt, "download", "docker-compose", cwd=CACHE)
    packages = sorted(CACHE.glob("docker-compose_*.deb"))
    if not packages:
        raise RecordError(f"{SUITE} has no docker-compose at {main}: give the program with --compose.")
    _run("dpkg-deb", "--extract", str(packages[-1]), str(CACHE / "root"))
    return program


def _run(*argv: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(argv, check=True, capture_output=True, text=True, cwd=cwd)
    except FileNotFoundError as exc:
        raise RecordError(f"{argv[0]} is not installed.") from exc
    except subprocess.CalledProcessError as exc:
        raise RecordError(f"`{' '.join(argv)}` failed: {exc.stderr.strip()}") from exc


def answer(program: Path, case: Path) -> dict:
    """What Compose says to one case. Paths in it begin with /case."""
    args = json.loads(path.read_text()) if (path := case / "args.json").is_file() else {}
    with tempfile.TemporaryDirectory(prefix="compose-") as top:
        work = Path(top) / "case"
        shutil.copytree(case, work)
        for name in ("args.json", "expected.json"):
            (work / name).unlink(missing_ok=True)
        argv = [str(program)]
        for option, key in (("-f", "files"), ("--env-file", "env_files"), ("--profile", "profiles")):
            for value in args.get(key) or (["compose.yml"] if key == "files" else []):
                argv += [option, value]
        if args.get("project_directory"):
            argv += ["--project-directory", args["project_directory"]]
        environment = {"PATH": os.defpath, "HOME": HOME, **args.get("env", {})}
        done = subprocess.run(
            [*argv, "config", "--format", "json"],
            capture_output=True,
            text=True,
            cwd=work,
            env=environment,
            check=False,
        )
        if done.returncode:
            lines = [line for line in done.stderr.strip().splitlines() if not line.startswith("time=")]
            return {"error": "\n".join(lines).replace(top, "")}
        # Compose prints every dollar sign twice, so that its output can be read again.
        return {"config": json.loads(done.stdout.replace("$$", "$").replace(top, ""))}


def main(argv: list[str]) -> int:
    """Record or check."""
    parser = argparse.ArgumentParser(description="Record what Docker Compose makes of the cases.")
    parser.add_argument("--compose", type=Path)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("case", nargs="*")
    options = parser.parse_args(argv)
    try:
        program = options.compose or fetch()
        version = _run(str(program), "version", "--short").stdout.strip()
        names = options.case or sorted(path.name for path in CASES.iterdir() if path.is_dir())
        changed = []
        for name in names:
            if not (CASES / name).is_dir():
                raise RecordError(f"{CASES / name} is no case.")
            recorded = CASES / name / "expected.json"
            text = json.dumps({"compose": version, **answer(program, CASES / name)}, indent=1, sort_keys=True) + "\n"
            if not recorded.is_file() or recorded.read_text() != text:
                changed.append(name)
                if not options.check:
                    recorded.write_text(text)
    except (RecordError, testhost_prepare.ImageError) as error:
        print(f"record_compose: {error}", file=sys.stderr)
        return 2
    print(
        f"{len(names)} cases with Compose {version}, {len(changed)} changed{': ' if changed else ''}{', '.join(changed)}"
    )
    return 1 if options.check and changed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
