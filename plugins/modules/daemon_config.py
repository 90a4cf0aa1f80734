#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: daemon_config
short_description: Merge settings into the Docker engine's daemon.json and bring them into effect
version_added: 0.1.0
description:
  - Merges settings into C(daemon.json). Keys a person set are kept, unless they contradict a given setting.
  - The file as it was before the first run is remembered, and I(state=absent) gives it back.
  - The merged settings are judged by C(dockerd --validate) where the engine has it, and held against the flags of
    the engine's unit and drop-ins, before anything is written.
  - The engine is reloaded or restarted only when it does not use the settings yet. That includes an engine that is
    older than the file because an earlier run was interrupted between both.
  - With live-restore, running containers survive the restart. Where it was off, it is brought into effect by a reload
    first. Containers that would still be stopped are named in C(interrupted), in check mode too.
author:
  - mcpstack.platform maintainers (@mcpstack)
extends_documentation_fragment:
  - mcpstack.platform.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  state:
    description:
      - V(present) merges the settings and brings them into effect.
      - V(absent) gives the former file back. The engine is reloaded where that suffices, and restarted only when no
        container runs.
    type: str
    choices: [present, absent]
    default: present
  settings:
    description:
      - Settings to hold. For some keys a person's value is as good and is kept, for example another log level than
        debug, another log driver than none, or another finite size of log files.
    type: dict
    default: {}
  extra:
    description: Further settings, declared by the operator. They win over O(settings) and must be met exactly.
    type: dict
    default: {}
  conflicts:
    description:
      - What to do with a key of the file that contradicts a setting. V(fail) names all of them and changes nothing,
        V(override) replaces them.
      - A conflict with a flag of the engine's unit always fails, as the engine would not start with both.
    type: str
    choices: [fail, override]
    default: fail
  path:
    description: The engine's configuration file.
    type: path
    default: /etc/docker/daemon.json
  journal:
    description: Where the former file and what is ours in the present one are remembered.
    type: path
    default: /var/lib/mcpstack/state/docker-daemon.json
  socket:
    description: The engine's socket.
    type: path
    default: /var/run/docker.sock
  apply:
    description: Whether to reload, restart or start the engine when needed, and to enable it at boot.
    type: bool
    default: true
  timeout:
    description: How many seconds to wait for the engine to answer.
    type: int
    default: 60
"""

EXAMPLES = r"""
- name: Rotate logs and keep containers running while the engine restarts
  mcpstack.platform.daemon_config:
    settings:
      live-restore: true
      log-driver: json-file
      log-opts:
        max-size: 10m
        max-file: "3"

- name: Give the former configuration back
  mcpstack.platform.daemon_config:
    state: absent
"""

RETURN = r"""
action:
  description: What was done to the engine, or would be done in check mode.
  returned: success
  type: str
  sample: reload
reason:
  description: Why.
  returned: success
  type: str
  sample: "settings to take over: icc, userland-proxy"
config:
  description: The settings in the file after the run.
  returned: success
  type: dict
  sample: {"live-restore": true}
kept:
  description: Settings of a person that were left alone although another value was asked for.
  returned: success
  type: dict
  sample: {"log-opts.max-size": "50m"}
overridden:
  description: Settings of a person that were replaced, with their former value.
  returned: success
  type: dict
  sample: {"icc": true}
interrupted:
  description: Names of running containers that the restart stops, or would stop.
  returned: success
  type: list
  elements: str
  sample: []
containers:
  description: Names of all containers of this engine, running or not.
  returned: when O(state=absent)
  type: list
  elements: str
  sample: []
pending:
  description: Settings that are in the file but come into effect later, with the reason.
  returned: success
  type: list
  elements: str
  sample: []
validated_by:
  description: V(dockerd) when the engine itself judged the settings, V(none) when it is absent or too old to.
  returned: success
  type: str
  sample: dockerd
problems:
  description: Everything that stands in the way.
  returned: failure
  type: list
  elements: dict
  contains:
    where:
      description: File and key.
      type: str
    what:
      description: What is wrong with it.
      type: str
    fix:
      description: What to do.
      type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mcpstack.platform.plugins.module_utils import _daemon_config as core
from ansible_collections.mcpstack.platform.plugins.module_utils._engine import Engine


def diff(plan):
    def text(data):
        return "" if data is None else data.decode("utf-8", "replace")

    return {
        "before": text(plan.before),
        "after": text(plan.after),
        "before_header": plan.path,
        "after_header": f"{plan.path} (engine: {plan.action}{f', {plan.reason}' if plan.reason else ''})",
    }


def present(module, journal, service):
    params = module.params
    override = params["conflicts"] == "override"
    plan = core.plan(
        params["path"],
        params["settings"],
        params["extra"],
        journal,
        service,
        override=override,
        apply=params["apply"],
    )
    judge = core.validate(plan.config, plan.path) if plan.writes else "none"
    enable = params["apply"] and not service.enabled
    result = {
        "changed": plan.writes or plan.action != "none" or enable,
        "action": plan.action,
        "reason": plan.reason,
        "config": plan.config,
        "kept": plan.merge.kept,
        "overridden": plan.merge.overridden,
        "interrupted": plan.interrupted,
        "pending": [],
        "validated_by": judge,
        "diff": diff(plan),
    }
    for note in plan.notes:
        module.warn(note)
    if plan.interrupted:
        module.warn(
            f"{service.unit}: the restart stops these running containers, as live-restore stays off: "
            f"{', '.join(plan.interrupted)}."
        )
    if module.check_mode:
        return result
    if not plan.writes and params["apply"] and not service.installed:
        core.bring_up(plan, service)  # says that there is no engine
    core.land(plan, journal)
    if params["apply"]:
        core.bring_up(plan, service, params["timeout"])
        if enable:
            done, said = service.systemctl("enable")
            if not done:
                raise core.DaemonConfigError(
                    [core.problem(service.unit, f"could not be enabled ({said})", "unmask or repair the unit")]
                )
        core.record_applied(plan, journal, service)
        result["pending"] = core.pending(plan.config, service)
    for item in result["pending"]:
        module.warn(f"{plan.path}: {item}.")
    return result


def absent(module, journal, service):
    plan = core.plan_restore(module.params["path"], journal)
    if module.params["apply"] and service.active and plan.writes:
        before = core.parse(plan.before, plan.path)
        core.decide(plan, before, "", service.info(), service)
    running = service.containers() if service.active else []
    waiting = []
    if plan.action == "restart" and running:
        # without live-restore in the former file a restart now would stop every one of them
        plan.action, plan.reload_first, plan.interrupted = "none", False, []
        waiting = ["the former settings come into effect when the engine restarts; containers are running"]
    result = {
        "changed": plan.writes or journal.exists,
        "action": plan.action,
        "reason": plan.reason,
        "config": plan.config,
        "kept": {},
        "overridden": {},
        "interrupted": [],
        "pending": waiting,
        "containers": core.names(service.containers(running_only=False)) if service.active else [],
        "validated_by": "none",
        "diff": diff(plan),
    }
    for note in plan.notes:
        module.warn(note)
    if not module.check_mode:
        core.restore(plan, journal)
        core.bring_up(plan, service, module.params["timeout"])
        journal.forget()
    return result


def main():
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "settings": {"type": "dict", "default": {}},
            "extra": {"type": "dict", "default": {}},
            "conflicts": {"type": "str", "choices": ["fail", "override"], "default": "fail"},
            "path": {"type": "path", "default": core.PATH},
            "journal": {"type": "path", "default": core.JOURNAL},
            "socket": {"type": "path", "default": "/var/run/docker.sock"},
            "apply": {"type": "bool", "default": True},
            "timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    try:
        journal = core.Journal(module.params["journal"])
        service = core.Service(Engine(module.params["socket"], timeout=15))
        done = (present if module.params["state"] == "present" else absent)(module, journal, service)
    except core.DaemonConfigError as exc:
        module.fail_json(
            msg="The Docker engine's configuration was refused: " + " ".join(map(core.sentence, exc.problems)),
            problems=exc.problems,
        )
    except OSError as exc:
        module.fail_json(
            msg=f"{exc.filename}: {exc.strerror}. Fix: run as root (become: true) on a writable file system.",
            problems=[core.problem(str(exc.filename), str(exc.strerror), "run as root on a writable file system")],
        )
    module.exit_json(**done)


if __name__ == "__main__":
    main()
