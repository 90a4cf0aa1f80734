# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run every audit that a configuration lists, and write the report.

PRIVATE: internal to the collection, may change in any release. Standard library only: it runs on the host, from a timer
and from the module ``audit_run``.

The configuration is JSON: ``{title, audits, stored, waivers, fail_at, directory, keep, metrics_file}``. ``audits`` lists
``{audit, subject, options}`` with the options of the module of that name; ``stored`` names files with results that were
found elsewhere, such as at the deploy.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType

from ansible_collections.mcpstack.platform.plugins.module_utils import (
    _audit_containers,
    _audit_docker,
    _audit_env,
    _audit_image,
    _audit_nginx,
    _audit_tls,
    _checks_host,
    _checks_nginx,
    _checks_postgres,
    _checks_runtime,
    _checks_secret,
    _checks_tls,
    _checks_valkey,
    _container_policy,
    _door_image,
    _door_postgres,
    _door_tls,
    _door_valkey,
    _runtime_secrets,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._audit import (
    FAIL,
    PASS,
    RANK,
    SEVERITIES,
    UNKNOWN,
    Check,
    build_result,
    clean,
    describe,
    stops,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_catalogue import ALL
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import LocalFiles, Unreadable
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_report import ReportError, read_results
from ansible_collections.mcpstack.platform.plugins.module_utils._nginx_run import policy_of
from ansible_collections.mcpstack.platform.plugins.module_utils._report_files import (
    PublishError,
    Settings,
    load_results,
    publish,
    write_metrics,
)

#: Keys of the configuration, and what each must be.
KEYS: dict[str, type] = {
    "title": str, "audits": list, "stored": list, "waivers": list, "fail_at": str, "directory": str, "keep": int,
    "metrics_file": str,
}  # fmt: skip


#: Options of the module docker_audit, except those about how it ends.
DOCKER_OPTIONS = frozenset(_container_policy.ARGUMENTS) | {
    "docker_host", "subjects", "projects", "expected", "container_ports", "docker_group_members", "stack_roots",
    "secret_roots", "service_uids", "swarm", "sysctls", "updates",
}  # fmt: skip


class RunError(Exception):
    """The audit cannot be run as it is configured: where, what, and what to do."""


def _door(door: ModuleType) -> Callable[[Mapping], dict]:
    """The options of a module as its argument spec completes them, then its core."""

    def run_door(options: Mapping) -> dict:
        unknown = sorted(set(options) - set(door.ARGUMENTS))
        if unknown:
            raise ValueError(f"there is no option {', '.join(unknown)}")
        return door.run({**{name: spec.get("default") for name, spec in door.ARGUMENTS.items()}, **options})

    return run_door


def _nginx(options: Mapping) -> dict:
    policy = policy_of({name: value for name, value in options.items() if name != "path"})
    return _audit_nginx.audit(LocalFiles(), options["path"], policy)


def _docker(options: Mapping) -> dict:
    unknown = sorted(set(options) - DOCKER_OPTIONS)
    if unknown:
        raise ValueError(f"there is no option {', '.join(unknown)}")
    return _audit_docker.audit_docker(options)


def _env(options: Mapping) -> dict:
    return _audit_env.audit(LocalFiles(), **options)


#: By name: what runs, and the checks that are unknown when it cannot.
AUDITS: dict[str, tuple[Callable[[Mapping], dict], tuple[Check, ...]]] = {
    "docker": (_docker, (*_checks_host.CHECKS, *_checks_runtime.CHECKS, *_audit_containers.TABLE.values(),
                         *_runtime_secrets.TABLE.values())),
    "env": (_env, _checks_secret.CHECKS),
    "image": (_door(_door_image), tuple(_audit_image.TABLE.values())),
    "nginx": (_nginx, (*_checks_nginx.CHECKS, *_checks_tls.CHECKS)),
    "postgres": (_door(_door_postgres), _checks_postgres.CHECKS),
    "tls": (_door(_door_tls), _audit_tls.CHECKS),
    "valkey": (_door(_door_valkey), _checks_valkey.CHECKS),
}  # fmt: skip


def read_config(path: str) -> dict:
    """The configuration, checked. Raises RunError with everything that is wrong."""
    try:
        config = json.loads(LocalFiles().text(path))
    except Unreadable as error:
        raise RunError(f"{error}. The role audit writes it: run the site playbook.") from error
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path}: is not JSON ({error}). The role audit writes it: run the site playbook.") from error
    problems = []
    if not isinstance(config, dict):
        problems.append("is no object")
        config = {}
    for key, kind in KEYS.items():
        if key not in config:
            problems.append(f"{key} is missing")
        elif not isinstance(config[key], kind) or isinstance(config[key], bool):
            problems.append(f"{key} is {type(config[key]).__name__}, not {kind.__name__}")
    for index, item in enumerate(config.get("audits") if isinstance(config.get("audits"), list) else []):
        subject = item.get("subject") if isinstance(item, dict) else None
        if not subject or not isinstance(subject, str) or not isinstance(item.get("options"), dict):
            problems.append(f"audits[{index}] is not audit, subject and options")
        elif str(item.get("audit")) not in AUDITS:
            problems.append(f"audits[{index}].audit is {item.get('audit')!r}, not one of {', '.join(AUDITS)}")
    if config.get("audits") == []:
        problems.append("audits is empty: nothing would be audited; name what is audited in mcpstack_audit_audits")
    for key, kind in (("stored", str), ("waivers", dict)):
        for index, item in enumerate(config[key] if isinstance(config.get(key), list) else []):
            if not isinstance(item, kind):
                problems.append(f"{key}[{index}] is {type(item).__name__}, not {kind.__name__}")
    keep = config.get("keep")
    if isinstance(keep, int) and not isinstance(keep, bool) and keep < 1:
        problems.append(f"keep is {keep}: at least this run must be kept, give 1 or more")
    if config.get("fail_at") not in (*SEVERITIES, "none"):
        problems.append(f"fail_at is {config.get('fail_at')!r}, not one of {', '.join(SEVERITIES)}, none")
    if problems:
        raise RunError("\n".join(f"{path}: {problem}" for problem in problems))
    return config


def _undecided(checks: tuple[Check, ...], reason: str) -> dict:
    states = [
        {"id": check.id, "title": check.title, "severity": check.severity, "status": UNKNOWN, "reason": clean(reason)}
        for check in checks
        if not check.undecided
    ]
    return build_result([], states)


def _audited(item: Mapping) -> dict:
    """One audit; when it cannot be run, all of its checks are unknown and say why."""
    audit, checks = AUDITS[item["audit"]]
    try:
        result = audit(item["options"])
    except Exception as error:  # whatever is wrong with one audit must not silence the others
        result = _undecided(checks, f"the audit could not be run: {type(error).__name__}: {error}")
    return {"subject": item["subject"], "findings": result["findings"], "checks_run": result["checks_run"]}


def _silent(live: list[dict]) -> list[str]:
    """What was to be audited and was not: nothing is decided of it. Each with the first reason."""
    found = []
    for entry in live:
        states = entry["checks_run"]
        if not any(state["status"] in (PASS, FAIL) for state in states):
            why = next((state["reason"] for state in states if state["status"] == UNKNOWN), "no check applies")
            found.append(f"{entry['subject']}: {why}")
    return found


def _still_unknown(stored: list[dict], live: list[dict]) -> list[dict]:
    """What was stored, without the checks that it could not decide and that an audit of this run did decide.

    A rendered file does not tell what only the host knows, such as who may read a key.
    """
    decided = {state["id"] for result in live for state in result["checks_run"] if state["status"] in (PASS, FAIL)}
    return [
        {
            "subject": entry["subject"],
            "findings": entry["result"]["findings"],
            "checks_run": [
                state
                for state in entry["result"]["checks_run"]
                if state["status"] != UNKNOWN or state["id"] not in decided
            ],
        }
        for entry in stored
    ]


@dataclass
class Outcome:
    """What was found, in the words of the report. ``silent`` names what could not be audited at all."""

    published: dict
    fail_at: str
    page: str
    silent: list[str]

    def stopping(self, fail_at: str | None) -> list[dict]:
        """Open findings that are too severe."""
        return stops(self.published, fail_at or self.fail_at)

    def text(self) -> str:
        """For a person at a terminal: numbers, what is new, what is open, what is not known."""
        summary, published = self.published["summary"], self.published
        counts = ", ".join(f"{summary[name]} {name}" for name in SEVERITIES if summary[name]) or "none"
        score = "no score" if summary.get("score") is None else f"score {summary['score']}"
        lines = [f"{score}; open findings: {counts}; waived: {summary['waived']}"]
        if published.get("compared_with"):
            fixed, new = len(published["fixed"]), len(published["new"])
            lines.append(f"since {published['compared_with']}: {new} new, {fixed} fixed")
        still_open = [item for item in published["findings"] if not item["waived"]]
        for item in sorted(still_open, key=lambda entry: RANK[entry["severity"]]):
            mark = "new " if item in published["new"] and published.get("compared_with") else ""
            lines.append(
                f"  {mark}{item['severity']} {item['id']} {item['title']}: {item['where']} ({item['subject']})"
            )
        unknown = sorted({state["id"] for state in published["checks_run"] if state["status"] == UNKNOWN})
        if unknown:
            lines.append(f"not decided: {', '.join(unknown)}")
        lines += [f"not audited: {line}" for line in self.silent]
        lines += self.published["warnings"]
        if self.page:
            lines.append(f"report: {self.page}")
        return "\n".join(lines)

    def not_audited(self) -> str:
        """For a person at a terminal."""
        return "Not everything could be audited, so this run proves nothing of:\n" + "\n".join(
            f"- {line}" for line in self.silent
        )

    def answer(self, fail_at: str | None) -> dict:
        """What the module returns."""
        stopping = self.stopping(fail_at)
        found = {
            key: self.published[key]
            for key in ("changed", "findings", "checks_run", "summary", "compared_with", "new", "fixed", "scores")
        }
        found.update(text=self.text(), report=self.page)
        said = [self.not_audited()] if self.silent else []
        if stopping:
            plural = "" if len(stopping) == 1 else "s"
            said.append(f"{len(stopping)} finding{plural} at or above {fail_at or self.fail_at}:\n{describe(stopping)}")
        if said:
            found.update(failed=True, msg="\n".join(said))
        return found


def run(config: Mapping, write: bool = True, now: float | None = None) -> Outcome:
    """Run all audits of a configuration that ``read_config`` gave, and publish. Raises RunError."""
    begin = time.monotonic()
    settings = Settings(
        config["directory"], keep=config["keep"], title=config["title"], metrics_file=config["metrics_file"] or None
    )
    try:
        live = [_audited(item) for item in config["audits"]]
        silent = _silent(live)
        results = live + _still_unknown(read_results(load_results(config["stored"], LocalFiles())), live)
        published = publish(
            results, config["waivers"], settings, catalogue=ALL, duration=time.monotonic() - begin, now=now, write=write,
            complete=not silent,
        )  # fmt: skip
    except (ReportError, PublishError) as error:
        if settings.metrics_file and write:
            try:
                write_metrics(settings.metrics_file, None, time.time(), time.monotonic() - begin)
            except PublishError as second:
                raise RunError(f"{error}\n{second}") from error
        raise RunError(str(error)) from error
    return Outcome(published, config["fail_at"], published["files"]["html"] if write else "", silent)


def main(arguments: list[str]) -> int:
    """What the timer runs: 0 all right, 1 something too severe was found, 2 not everything could be audited."""
    if len(arguments) != 1:
        sys.stderr.write("usage: audit.pyz CONFIGURATION.json\n")
        return 2
    try:
        outcome = run(read_config(arguments[0]))
    except RunError as error:
        sys.stderr.write(f"The audit could not be run.\n{error}\n")
        return 2
    sys.stdout.write(outcome.text() + "\n")
    stopping = outcome.stopping(None)
    if stopping:
        sys.stderr.write(f"{len(stopping)} at or above {outcome.fail_at}:\n{describe(stopping)}\n")
    if outcome.silent:
        sys.stderr.write(outcome.not_audited() + "\n")
        return 2
    return 1 if stopping else 0
