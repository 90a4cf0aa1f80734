# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes a report where people, pipelines and the monitoring look for it, and remembers the run for the next one.

PRIVATE: internal to the collection, may change in any release. Standard library only.

The module ``audit_report`` and the daily audit of the host are two doors to ``publish``. Every file is replaced whole.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ansible_collections.mcpstack.platform.plugins.module_utils import (
    _report_html,
    _report_json,
    _report_junit,
    _report_sarif,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._audit import SEVERITIES, Check
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import Files, Unreadable
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_report import (
    STATUSES,
    Report,
    build,
    count,
    read_results,
    remember,
    usable,
    waive,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._files import write_atomic

#: Of the collection, as SARIF names it.
VERSION = "0.1.0"
NAMES = {"json": "report.json", "sarif": "report.sarif", "junit": "report.junit.xml", "html": "report.html"}
HISTORY = "history.json"
MODE, DIRECTORY_MODE = 0o640, 0o750
#: Largest file with results or history that is read.
LIMIT = 64 << 20


class PublishError(Exception):
    """One sentence: where, what is wrong, what to do about it."""


@dataclass(frozen=True)
class Settings:
    """Where and how. ``formats`` of ``NAMES``; ``keep`` is how many runs the history holds."""

    directory: str
    formats: tuple[str, ...] = tuple(NAMES)
    keep: int = 90
    title: str = "Security audit"
    metrics_file: str | None = None


def load_results(paths: list[str], files: Files) -> list[dict]:
    """Results out of JSON files: one result, a list, or ``{"results": [...]}``. Without a subject the file's name is it."""
    found: list[dict] = []
    for path in paths:
        try:
            data = json.loads(files.text(path, LIMIT))
        except Unreadable as error:
            raise PublishError(str(error)) from error
        except (ValueError, RecursionError) as error:
            raise PublishError(f"{path}: is not JSON ({error}); hand over what audit modules returned") from error
        if isinstance(data, dict) and isinstance(data.get("results"), list) and "findings" not in data:
            data = data["results"]
        for entry in data if isinstance(data, list) else [data]:
            if not isinstance(entry, dict):
                raise PublishError(f"{path}: holds no result of an audit; hand over what audit modules returned")
            found.append({"subject": os.path.basename(path).rsplit(".", 1)[0], **entry})
    return found


def read_history(path: str) -> tuple[list[dict], str | None]:
    """The runs before, oldest first, and a warning when there is something that cannot be read."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return [], None
    except OSError as error:
        return [], f"{path}: the earlier runs cannot be read ({error.strerror}); this run is taken for the first"
    with os.fdopen(handle, "rb") as source:
        raw = source.read(LIMIT + 1) if stat.S_ISREG(os.fstat(handle).st_mode) else b""
    try:
        data = json.loads(raw) if len(raw) <= LIMIT else None
    except (ValueError, RecursionError):
        data = None
    runs = data.get("runs") if isinstance(data, dict) else None
    if not isinstance(runs, list):
        return [], f"{path}: holds no history; this run is taken for the first, and the file kept as {path}.damaged"
    good = [entry for entry in runs if usable(entry)]
    if len(good) < len(runs):
        return good, f"{path}: {len(runs) - len(good)} of {len(runs)} entries hold no run and are left out"
    return good, None


def _label(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def metrics(report: Report | None, now: float, duration: float, complete: bool = True) -> bytes:
    """For node-exporter's textfile collector; without a report, or with one that lacks a part, the audit failed."""
    lines: list[str] = []

    def metric(name: str, what: str, values: list[tuple[str, float]]) -> None:
        if values:
            lines.append(f"# HELP mcpstack_audit_{name} {what}")
            lines.append(f"# TYPE mcpstack_audit_{name} gauge")
            lines.extend(f"mcpstack_audit_{name}{labels} {value:g}" for labels, value in values)

    metric(
        "success",
        "Whether the last audit came to its end, whatever it found.",
        [("", int(complete and report is not None))],
    )
    lines.append("# HELP mcpstack_audit_timestamp_seconds When the last audit ended.")
    lines.append("# TYPE mcpstack_audit_timestamp_seconds gauge")
    lines.append(f"mcpstack_audit_timestamp_seconds {int(now)}")
    metric("duration_seconds", "How long the last audit took.", [("", round(duration, 3))])
    if report is not None:
        numbers = report.summary
        metric("findings", "Open findings.", [(f'{{severity="{name}"}}', numbers[name]) for name in SEVERITIES])
        metric("findings_waived", "Findings that are waived.", [("", numbers["waived"])])
        metric("findings_new", "Open findings that the run before did not have.", [("", numbers["new"])])
        metric("findings_fixed", "Findings of the run before that are gone.", [("", numbers["fixed"])])
        counts = count(state for entry in report.audited for state in entry["checks"])
        metric("checks", "Checks of everything audited.", [(f'{{status="{name}"}}', counts[name]) for name in STATUSES])
        scores = [(f'{{audited="{_label(e["name"])}"}}', e["score"]) for e in report.audited if e["score"] is not None]
        metric("score", "Weighted share of the decided checks that pass, of 100.", scores)
    return ("\n".join(lines) + "\n").encode()


@contextlib.contextmanager
def _alone(directory: str) -> Iterator[None]:
    """One run at a time reads and writes the history."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _incomplete(settings: Settings) -> bool:
    """Whether a file is missing, has another mode, or is left of a format that is no longer wanted."""
    wanted = [NAMES[name] for name in settings.formats] + [HISTORY]
    for name in {*NAMES.values(), HISTORY}:
        try:
            info = os.lstat(os.path.join(settings.directory, name))
        except OSError:
            if name in wanted:
                return True
            continue
        if name not in wanted or not stat.S_ISREG(info.st_mode) or stat.S_IMODE(info.st_mode) != MODE:
            return True
    return bool(settings.metrics_file) and not os.path.isfile(settings.metrics_file)


_WRITERS = {
    "json": _report_json.write,
    "sarif": lambda report: _report_sarif.write(report, VERSION),
    "junit": _report_junit.write,
    "html": _report_html.write,
}


def _write(settings: Settings, report: Report, history: list[dict], damaged: bool) -> None:
    for name, file in NAMES.items():
        path = os.path.join(settings.directory, file)
        if name in settings.formats:
            write_atomic(path, _WRITERS[name](report), MODE)
        elif os.path.lexists(path):
            os.unlink(path)  # it would speak of an earlier run
    path = os.path.join(settings.directory, HISTORY)
    if damaged:
        os.replace(path, path + ".damaged")
    runs = {"format": 1, "runs": remember(history, report, settings.keep)}
    write_atomic(path, json.dumps(runs, indent=1, sort_keys=True).encode() + b"\n", MODE)


def write_metrics(path: str, report: Report | None, now: float, duration: float, complete: bool = True) -> None:
    """Replace the file of the textfile collector, which anybody may read. Raises PublishError."""
    try:
        directory = os.path.dirname(path)
        if not os.path.isdir(directory):
            os.makedirs(directory, exist_ok=True)
            os.chmod(directory, 0o755)  # whatever the umask is: the collector is not root
        write_atomic(path, metrics(report, now, duration, complete))
    except OSError as error:
        raise PublishError(f"{path}: cannot be written ({error.strerror}); free space or name another file") from error


def _lines(findings: list[Mapping]) -> str:
    return "".join(
        f"{item['severity']} {item['id']} {item['audited']}: {item['subject']} ({item['where']})"
        f"{' waived' if item['waived'] else ''}\n"
        for item in findings
    )


def publish(
    results: list[dict],
    waivers: list[dict],
    settings: Settings,
    *,
    catalogue: Mapping[str, Check],
    duration: float | None = None,
    now: float | None = None,
    write: bool = True,
    complete: bool = True,
) -> dict:
    """Make the report of results as audit modules return them, each with its ``subject``, and write it.

    ``changed`` is whether this run found something else than the one before, or a file was missing; the time alone is
    no change, although the files are written anew to carry it. Without ``complete`` the metrics say that the run failed.
    Raises ReportError and PublishError.
    """
    begin = time.monotonic()
    now = time.time() if now is None else now
    moment = datetime.datetime.fromtimestamp(int(now), datetime.timezone.utc)
    known = waive(read_results(results), waivers, moment.date(), catalogue)
    generated = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    path = os.path.join(settings.directory, HISTORY)
    with contextlib.ExitStack() as stack:
        try:
            if write:
                os.makedirs(settings.directory, mode=DIRECTORY_MODE, exist_ok=True)
                stack.enter_context(_alone(settings.directory))
            history, warning = read_history(path)
            report = build(
                known, history, title=settings.title, generated=generated, catalogue=catalogue, keep=settings.keep
            )
            changed = _incomplete(settings) or not history or history[-1].get("digest") != report.digest()
            if write:
                _write(settings, report, history, bool(warning) and not history and os.path.lexists(path))
        except OSError as error:
            raise PublishError(
                f"{error.filename or settings.directory}: cannot be written ({error.strerror}); free space, or name a"
                " directory that is none of a link's"
            ) from error
    if write and settings.metrics_file:
        taken = time.monotonic() - begin if duration is None else duration
        write_metrics(settings.metrics_file, report, now, taken, complete)
    merged = [
        {key: state[key] for key in ("id", "title", "severity", "status")} for state in report.checks if state["ran"]
    ]
    before = history[-1].get("findings", []) if history else []
    return {
        "changed": changed,
        "findings": report.findings,
        "checks_run": [_contract(state) for state in merged],
        "summary": report.summary,
        "scores": {entry["name"]: entry["score"] for entry in report.audited},
        "compared_with": report.compared_with,
        "new": report.new(),
        "fixed": report.fixed,
        "unverified": report.unverified,
        "undecided": report.undecided,
        "files": {name: os.path.join(settings.directory, NAMES[name]) for name in settings.formats},
        "warnings": [warning] if warning else [],
        "diff": {"before": _lines(before), "after": _lines(report.findings)},
    }


def _contract(state: dict) -> dict:
    """A check's status in the words of the finding contract, which knows nothing of waived."""
    return {**state, "status": "fail" if state["status"] == "waived" else state["status"]}
