# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run the project's checks in stages, show what failed in full, and end with a table of durations and a true count.

usage: check.py all|long|lint|unit|render|sanity|engine|molecule...

Stages of one group run side by side, two at a time. All failures of a group are shown; the first group with a failure
ends the run. Every stage's whole output stays in .cache/test/NAME.log.

Tests that start processes with time limits may miss one while other stages take the processors. What fails in such a
stage, a few tests at most, is run once more when nothing else does, and the closing lines name it; what fails again fails.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / ".venv" / "bin"
LOGS = ROOT / ".cache" / "test"
SUMMARY = re.compile(r"^=*\s*((?:\d+ [a-z]+(?:, )?)+) in [\d.]+s", re.M)
FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+::.+?)(?: - .*)?$", re.M)
AGAIN = 5  # more than these are no accident of a busy machine
SPEAKING = threading.Lock()


@dataclass
class Stage:
    """One command whose exit status decides."""

    name: str
    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)
    cwd: Path = ROOT
    live: bool = False  # show the output while it runs
    empty_ok: bool = False  # pytest that collects nothing is no failure
    counts: bool = True  # a preparation is no check
    timing: bool = False  # has tests with time limits: what fails beside other stages is run once more alone


@dataclass
class Result:
    """What became of a stage."""

    stage: Stage
    status: int
    seconds: float
    output: str

    @property
    def failed(self) -> bool:
        """pytest's status 5 means: nothing collected."""
        return self.status != 0 and not (self.status == 5 and self.stage.empty_ok)

    def counted(self) -> tuple[int, int, int]:
        """(passed, failed, skipped): pytest's own numbers, or one check for any other command."""
        return count(self.output, self.failed) if self.stage.counts else (0, int(self.failed), 0)


def count(output: str, failed: bool) -> tuple[int, int, int]:
    """Numbers out of pytest's last summary line; a command without one counts as a single check."""
    found = SUMMARY.findall(output)
    if not found:
        return (0, 1, 0) if failed else (1, 0, 0)
    numbers = {word: int(number) for number, word in re.findall(r"(\d+) ([a-z]+)", found[-1])}
    bad = numbers.get("failed", 0) + numbers.get("error", 0) + numbers.get("errors", 0)
    return numbers.get("passed", 0), max(bad, int(failed)), numbers.get("skipped", 0)


def tool(name: str, *arguments: str) -> list[str]:
    """A command of the toolchain."""
    return [str(BIN / name), *arguments]


def script(name: str, *arguments: str) -> list[str]:
    """One of the project's own tools."""
    return [str(BIN / "python"), f"tools/{name}", *arguments]


def pytest(name: str, *arguments: str, **options) -> Stage:
    """A pytest stage."""
    return Stage(name, tool("pytest", "-q", "--color=no", *arguments), **options)


def services(name: str, *argv: str) -> Stage:
    """A stage inside services/, with the services' own locked requirements."""
    python = str(ROOT / ".cache" / "venv-services" / "bin" / "python")
    return Stage(name, [python, "-m", *argv], cwd=ROOT / "services", timing=argv[0] == "pytest")


def stages() -> dict[str, list[Stage]]:
    """Every stage by group, in the order the groups run."""
    lint = [
        Stage("ruff", tool("ruff", "check", "--quiet", ".")),
        Stage("ruff-format", tool("ruff", "format", "--check", "--quiet", ".")),
        Stage("yamllint", tool("yamllint", "--strict", ".")),
        Stage("mypy", tool("mypy", "--cache-dir", ".cache/mypy")),
        Stage("generated", script("gen_role_docs.py", "--check")),
        Stage("generated-checks", script("gen_check_docs.py", "--check")),
        Stage("generated-api", [str(ROOT / ".cache/venv-services/bin/python"), "tools/gen_api_docs.py", "--check"]),
        Stage("ansible-lint", tool("ansible-lint", "--nocolor", "--offline")),
        Stage("galaxy-build", tool("ansible-galaxy", "collection", "build", "--force", "--output-path", ".cache/dist")),
    ]
    unit = [pytest("unit", "tests/unit")]
    if (ROOT / "services" / "tests").is_dir():
        unit += [
            services("services-unit", "pytest", "-q", "--color=no"),
            services("services-mypy", "mypy", "--cache-dir", "../.cache/mypy-services"),
        ]
    molecule = [
        Stage(
            f"molecule-{path.parent.name}",
            tool("molecule", "--base-config", "molecule/config.yml", "test", "--scenario-name", path.parent.name),
            live=True,
        )
        for path in sorted((ROOT / "molecule").glob("*/molecule.yml"))
    ]
    return {
        "lint": lint,
        "sanity": [Stage("sanity", script("sanity.py"))],
        "unit": unit,
        "render": [pytest("render", "tests/render", empty_ok=True)],
        "engine": [pytest("engine", "tests/integration", "-m", "not long and not host", empty_ok=True)],
        "molecule": molecule,
        "long": [
            pytest("long", "tests", "-m", "long", empty_ok=True, live=True),
            services("services-long", "pytest", "--color=no", "-m", "long"),
        ],
    }


def preparation() -> list[Stage]:
    """What the later groups need and the network can fetch while the earlier ones keep a processor busy."""
    return [
        Stage("test-host image", script("testhost_prepare.py", "trixie"), counts=False),
        Stage("service images", script("images.py", "build", "--cache-dir", ".cache/images"), counts=False),
    ]


def run(stage: Stage) -> Result:
    """Run one stage; its output goes to its log, and to the screen when it is live."""
    begin = time.monotonic()
    env = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}",
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": f"{ROOT / '.cache' / 'self'}:{ROOT / '.cache' / 'collections'}",
        "ANSIBLE_NOCOLOR": "1",
        "NO_COLOR": "1",
        "COLUMNS": "160",
        "PYTHONUNBUFFERED": "1",
        **stage.env,
    }
    chunks: list[str] = []
    LOGS.mkdir(parents=True, exist_ok=True)
    with (LOGS / f"{stage.name.replace(' ', '-')}.log").open("w") as log:
        try:
            process = subprocess.Popen(
                stage.argv, cwd=stage.cwd, env=env, text=True, errors="replace",
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
        except OSError as exc:
            return Result(stage, 127, 0.0, f"{stage.argv[0]} cannot be run: {exc}\n")
        assert process.stdout is not None  # noqa: S101
        for line in process.stdout:
            chunks.append(line)
            log.write(line)
            log.flush()
            if stage.live:
                print(f"      {line}", end="", flush=True)
    return Result(stage, process.wait(), time.monotonic() - begin, "".join(chunks))


def report(result: Result) -> None:
    """One line for a stage that passed, everything it said for one that failed."""
    with SPEAKING:
        found = SUMMARY.findall(result.output)
        note = f"  {found[-1]}" if found and result.stage.counts else ""
        print(f"{'FAIL' if result.failed else 'ok  '} {result.stage.name:22} {result.seconds:7.1f} s{note}", flush=True)
        if result.failed and not result.stage.live:
            print("".join(f"     | {line}\n" for line in result.output.rstrip().splitlines()), flush=True)


def together(group: list[Stage], workers: int) -> list[Result]:
    """Run stages side by side (live ones alone, in order)."""

    def one(stage: Stage) -> Result:
        result = run(stage)
        report(result)
        return result

    quiet = [stage for stage in group if not stage.live]
    with ThreadPoolExecutor(max_workers=workers) as pool:
        results = list(pool.map(one, quiet))
    results = [alone(result) for result in results]
    return results + [one(stage) for stage in group if stage.live]


def alone(result: Result) -> Result:
    """The result after the tests that failed were run once more, with nothing beside them."""
    names = sorted(set(FAILED.findall(result.output)))
    if not result.failed or not result.stage.timing or not 0 < len(names) <= AGAIN:
        return result
    stage = replace(result.stage, name=f"{result.stage.name}-again", argv=[*result.stage.argv, *names])
    second = run(stage)
    report(second)
    if second.failed:
        return result
    print("".join(f"     failed beside other stages, passed alone: {name}\n" for name in names), end="", flush=True)
    passed, failed, skipped = result.counted()
    words = f"{passed + failed} passed, {skipped} skipped in 0s\n" if skipped else f"{passed + failed} passed in 0s\n"
    return Result(result.stage, 0, result.seconds + second.seconds, f"{result.output}\n{words}")


def finish(results: list[Result], begin: float) -> int:
    """The table of durations and the closing count."""
    print("\nstage                     seconds  result")
    for result in results:
        print(f"{result.stage.name:24} {result.seconds:8.1f}  {'FAILED' if result.failed else 'passed'}")
    print(f"{'all (wall clock)':24} {time.monotonic() - begin:8.1f}\n")
    passed, failed, skipped = (sum(numbers) for numbers in zip(*(result.counted() for result in results), strict=True))
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""), flush=True)
    return 1 if failed or any(result.failed for result in results) else 0


def main(argv: list[str]) -> int:
    """Command line."""
    known = stages()
    wanted = argv[1:] or ["all"]
    unknown = [name for name in wanted if name not in known and name != "all"]
    if unknown:
        print(f"error: unknown stage {', '.join(unknown)}; stages are: all, {', '.join(known)}", file=sys.stderr)
        return 2
    begin = time.monotonic()
    results: list[Result] = []
    if wanted == ["all"]:
        first = [stage for name in ("sanity", "lint", "unit", "render") for stage in known[name]]
        groups = [preparation() + first, known["engine"], known["molecule"]]
    else:
        groups = [known[name] for name in wanted]
    for group in groups:
        results += together(group, workers=max(2, min(4, os.cpu_count() or 2)))
        if any(result.failed for result in results):
            break
    return finish(results, begin) if results else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv))
