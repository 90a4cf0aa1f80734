# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Engine, host and running containers in one call.

PRIVATE: internal to the collection, may change in any release. Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields

from ansible_collections.mcpstack.platform.plugins.module_utils import (
    _audit_containers,
    _checks_host,
    _checks_runtime,
    _runtime_secrets,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Audit, merge_results
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import Files, Unreadable
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_runtime import audit_runtime, processes_of
from ansible_collections.mcpstack.platform.plugins.module_utils._container_model import Policy
from ansible_collections.mcpstack.platform.plugins.module_utils._container_policy import policy_of
from ansible_collections.mcpstack.platform.plugins.module_utils._engine import EngineError
from ansible_collections.mcpstack.platform.plugins.module_utils._engine_snapshot import (
    ACTIVE,
    KeptEngine,
    Snapshot,
    collect,
    name_of,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._expected_model import ModelError, read_model
from ansible_collections.mcpstack.platform.plugins.module_utils._host_policy import HostPolicy
from ansible_collections.mcpstack.platform.plugins.module_utils._host_probe import Answers, HostFacts, probe
from ansible_collections.mcpstack.platform.plugins.module_utils._proc_table import ProcessTable, ProcFiles
from ansible_collections.mcpstack.platform.plugins.module_utils._runtime_processes import session_processes

SUBJECTS = ("engine", "host", "containers")
SOCKET = "/var/run/docker.sock"


class OptionError(ValueError):
    """An option that cannot be used: a sentence."""


def socket_of(docker_host: str) -> str:
    """The path of a unix socket out of unix:///path or a path."""
    path = docker_host.removeprefix("unix://")
    if not path.startswith("/"):
        raise OptionError(
            f"docker_host: {docker_host!r} is no unix socket; the audit looks at the host it runs on, give its socket."
        )
    return path


def container_policy(options: Mapping) -> Policy:
    """What is declared of containers; an option that is None or missing is not declared."""
    try:
        return policy_of(options)
    except ValueError as error:
        raise OptionError(str(error)) from error


def container_ports(options: Mapping) -> dict[str, list[str]]:
    """Ports by service as texts, whether they were written as numbers or as 53/udp."""
    found = {}
    for name, ports in (options.get("container_ports") or {}).items():
        if not isinstance(ports, (list, tuple)):
            raise OptionError(f"container_ports.{name}: is no list; write [8080, 53/udp].")
        found[str(name)] = [str(port) for port in ports]
    return found


def host_policy(options: Mapping, root_containers: bool | None = None) -> HostPolicy:
    """What is declared of the host; an option that is None or missing keeps the policy's default."""
    stated: dict = {"root_containers": root_containers}
    names = {field.name for field in fields(HostPolicy)}
    for name in ("docker_group_members", "stack_roots", "secret_roots", "service_uids", "swarm", "sysctls", "updates"):
        if name in names and options.get(name) is not None:
            value = options[name]
            stated[name] = tuple(value) if isinstance(value, list) else value
    if options.get("declared_ports"):
        stated["declared_ports"] = [
            {name: value for name, value in entry.items() if value is not None} for entry in options["declared_ports"]
        ]
    return HostPolicy(**stated)


def read_models(files: Files, paths: Iterable[str]) -> tuple[dict[str, dict], list[str]]:
    """(models by project, what is wrong with those that cannot be used)."""
    models: dict[str, dict] = {}
    problems = []
    for path in paths:
        try:
            model = read_model(files.text(path))
        except Unreadable as error:
            problems.append(str(error))
        except ModelError as error:
            problems.append(f"{path}: {error}")
        else:
            models[model["project"]] = model
    return models, problems


def _without_engine(problem: str) -> list[dict]:
    """Every check of containers, undecided."""
    results = []
    for table in (_audit_containers.TABLE, _runtime_secrets.TABLE, _checks_runtime.TABLE):
        audit = Audit(table)
        for number in audit.table:
            audit.unknown(number, problem)
        results.append(audit.result())
    return results


def _decided(table: Mapping, decide: Callable[[Audit], object]) -> dict:
    """One audit. An answer of another shape than the engine's API documents leaves every check of it undecided."""
    audit = Audit(table)
    try:
        decide(audit)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        audit = Audit(table)
        for number in audit.table:
            audit.unknown(number, f"an answer of the engine has an unknown shape ({type(error).__name__}: {error})")
    return audit.result()


def judge_snapshot(
    snapshot: Snapshot,
    table: ProcessTable,
    files: Files,
    options: Mapping,
    models: tuple[dict, list[str]] = ({}, []),
    **moment,
) -> list[dict]:
    """The results about containers: CMP and NET, secrets, RUN."""
    projects = tuple(options.get("projects") or ())
    policy = container_policy(options)

    def containers(audit: Audit) -> None:
        sessions = session_processes(snapshot, table)
        _audit_containers.audit_containers(audit, snapshot, table, policy, sessions, projects)

    def runtime(audit: Audit) -> None:
        audit_runtime(
            audit, snapshot, table, files, session_processes(snapshot, table), projects=projects, expected=models[0],
            model_problems=models[1], declared=container_ports(options), **moment,
        )  # fmt: skip

    return [
        _decided(_audit_containers.TABLE, containers),
        _decided(_runtime_secrets.TABLE, lambda audit: _runtime_secrets.judge_secrets(audit, snapshot, table)),
        _decided(_checks_runtime.TABLE, runtime),
    ]


def _host_half(subjects: Iterable[str], files: Files, answers: Answers, facts: HostFacts, policy: HostPolicy) -> list:
    # Only here: a run that judges containers alone need not compile what it does not use.
    from ansible_collections.mcpstack.platform.plugins.module_utils._audit_daemon import audit_daemon
    from ansible_collections.mcpstack.platform.plugins.module_utils._audit_host import audit_host

    results = []
    for subject, prefix, decide in (("engine", "DMN-", audit_daemon), ("host", "HST-", audit_host)):
        if subject in subjects:
            audit = Audit(check for check in _checks_host.CHECKS if check.id.startswith(prefix))
            decide(audit, files, answers, facts, policy)
            results.append(audit.result())
    return results


def root_of_host(snapshot: Snapshot, table: ProcessTable) -> bool | None:
    """Whether a container has a process of the host's root; None when that cannot be told."""
    active = snapshot.active()
    if any(0 in item.uids for container in active for item in table.of(container["Id"])):
        return True
    return False if all(table.of(container["Id"]) for container in active) else None


def audit_docker(options: Mapping, engine=None, files: Files | None = None, facts: HostFacts | None = None) -> dict:
    """Decide DMN, HST, CMP, NET, SEC-11, SEC-12 and RUN, as far as ``options["subjects"]`` asks for them.

    options: those of the module docker_audit. engine, files, facts: the running ones without them. Returns findings,
    checks_run, summary, and ``containers``: the names of those that were judged. Raises OptionError.
    """
    socket = socket_of(options.get("docker_host") or SOCKET)
    subjects = tuple(options.get("subjects") or SUBJECTS)
    container_policy(options)  # an option that cannot be used stops before anything is asked
    files = files or ProcFiles()
    engine = engine or KeptEngine(socket)
    models = read_models(files, options.get("expected") or ())
    projects = tuple(options.get("projects") or ())
    results: list[dict] = []
    judged: list[str] = []
    known: dict[str, object] = {}
    root_containers = None
    try:
        if "containers" in subjects:
            try:
                snapshot = collect(engine, projects, details=bool(models[0]))
            except EngineError as error:
                results += _without_engine(str(error))
            else:
                table = processes_of(snapshot, files)
                results += judge_snapshot(snapshot, table, files, options, models)
                judged = [name_of(item) for item in snapshot.active()]
                running = [item for item in snapshot.listing if item.get("State") in ACTIVE]
                known = {"/info": snapshot.info or None, "/networks": snapshot.networks, "/containers/json": running}
                root_containers = root_of_host(snapshot, table) if not projects else None
        if "engine" in subjects or "host" in subjects:
            facts = facts or probe(socket, firewall="host" in subjects, listeners="host" in subjects)
            policy = host_policy(options, root_containers)
            results += _host_half(subjects, files, Answers(engine, known), facts, policy)
    finally:
        if hasattr(engine, "close"):
            engine.close()
    return {**merge_results(results), "containers": judged}
