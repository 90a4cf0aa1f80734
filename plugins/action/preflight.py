# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's half of preflight: the options of all roles in use, then one call of the module of the same name."""

from __future__ import annotations

import os
import re
import time

from ansible.errors import AnsibleError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.common.yaml import yaml_load
from ansible.plugins.action import ActionBase

from ansible_collections.mcpstack.platform.plugins.module_utils import _preflight as core
from ansible_collections.mcpstack.platform.plugins.module_utils._service_spec import limit_problems

try:  # where a value was written; there is no public way to ask yet
    from ansible._internal._datatag._tags import Origin
except ImportError:
    Origin = None

ROLES = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "roles")
UNDEFINED = re.compile(r"'([A-Za-z_][A-Za-z0-9_]*)' is undefined")
TYPE_NAMES = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false", "dict": "a mapping",
              "list": "a list", "path": "a path", "raw": "any value"}  # fmt: skip


def origin(value, base: str = "") -> str:
    """File, line and column of a value that came from a file."""
    tag = Origin.get_tag(value) if Origin is not None else None
    if tag is None or not getattr(tag, "path", None):
        return ""
    path = os.path.relpath(tag.path, base) if base and tag.path.startswith(base + os.sep) else tag.path
    return f"{path}:{tag.line_num}" if getattr(tag, "line_num", None) else path


def expected(spec: dict) -> str:
    """What an option wants, in words."""
    if spec.get("choices"):
        return f"one of {', '.join(str(choice) for choice in spec['choices'])}"
    name = TYPE_NAMES.get(spec.get("type", "str"), spec.get("type", "str"))
    if spec.get("type") == "list" and spec.get("elements"):
        return f"a list, each item {TYPE_NAMES.get(spec['elements'], spec['elements'])}"
    return name


def first_sentence(spec: dict) -> str:
    description = spec.get("description") or ""
    if isinstance(description, list):
        description = description[0] if description else ""
    text = re.sub(r"[A-Z]\(([^)]*)\)", r"\1", str(description)).strip()
    return re.split(r"(?<=[.;:])\s", text)[0].rstrip(".;:")


def describe(spec: dict) -> str:
    text = first_sentence(spec)
    return f"set it to {expected(spec)}" + (f" ({text[0].lower()}{text[1:]})" if text else "")


def validate_option(report: core.Report, path: str, spec: dict, value, where: str = "") -> None:
    """One option against its spec with Ansible's own validator, then whatever is nested in it, each with its path."""
    plain = {key: item for key, item in spec.items() if key in ("type", "elements", "choices")}
    place = f"{path} ({where})" if where else path
    if value is None:
        if spec.get("required"):
            report.fail("PRE-01", place, "is required but empty", describe(spec), subject=path)
        return
    result = ArgumentSpecValidator({"value": plain}).validate({"value": value})
    if result.error_messages:
        report.fail("PRE-01", place, f"is {core.shown(value, path)}", f"give {expected(spec)}", subject=path)
        return
    options = spec.get("options")
    value = result.validated_parameters["value"]
    if not options:
        return
    many = isinstance(value, list)
    for index, item in enumerate(value if many else [value]):
        base = f"{path}[{index}]" if many else path
        if not isinstance(item, dict):
            report.fail("PRE-01", base, f"is {core.shown(item, base)}", "give a mapping", subject=path)
            continue
        for key in sorted(set(item) - set(options)):
            guess = core.nearest(key, options)
            fix = f"write {guess}" if guess else f"use one of {', '.join(options)}"
            report.fail("PRE-01", f"{base}.{key}", "is not a key of this option", fix, subject=path)
        for key, inner in options.items():
            if key in item:
                validate_option(report, f"{base}.{key}", inner, item[key])
            elif inner.get("required"):
                report.fail("PRE-01", f"{base}.{key}", "is required but missing", describe(inner), subject=path)


def reasons(error: BaseException | None) -> list[dict]:
    """The problems that a core named, wherever in the chain of causes it is."""
    while error is not None:
        if isinstance(getattr(error, "problems", None), list):
            return error.problems
        error = error.__cause__
    return []


def split_problem(text: str) -> tuple[str, str, str]:
    """(where, what, fix) of a role's sentence: the option, then what is wrong, a colon or semicolon, then what to do."""
    where, _space, rest = text.partition(" ")
    what, *fix = re.split(r"[:;] ", rest, maxsplit=1)
    return where.rstrip(":"), what, fix[0] if fix else "see the role's options"


class ActionModule(ActionBase):
    """Checks variables here, the host there, and fails once."""

    TRANSFERS_FILES = False
    supports_raw_params = False

    def _load(self, *parts: str, trusted: bool = True):
        path = os.path.join(ROLES, *parts)
        if not os.path.exists(path):
            return {}
        # shared with the loader's cache: never changed here, and copying would cost more than everything else
        return self._loader.load_from_file(path, unsafe=True, trusted_as_template=trusted) or {}

    def _spec(self, role: str) -> dict:
        """The options of all entry points of a role, but for what one role hands another (a leading underscore)."""
        path = os.path.join(ROLES, role, "meta", "argument_specs.yml")
        options = {}
        if os.path.exists(path):
            with open(path, encoding="utf-8") as handle:
                entries = (yaml_load(handle) or {}).get("argument_specs") or {}
            for entry in entries.values():
                found = entry.get("options") or {}
                options.update({name: spec for name, spec in found.items() if not name.startswith("_")})
        return options

    def _evaluate(self, templar, value, late: set):
        """(state, value or reason): done, late or broken."""
        try:
            return "done", templar.template(value)
        except AnsibleError as exc:
            text = " ".join(str(exc).split())
            missing = set(UNDEFINED.findall(text))
            if missing & late:
                return "late", None
            if missing:
                return "broken", f"refers to {', '.join(sorted(missing))}, which is not defined"
            return "broken", f"cannot be evaluated ({text[:300]})"

    def _expression(self, templar, text: str, late: set):
        try:
            return "done", templar.evaluate_expression(text)
        except AnsibleError as exc:
            said = " ".join(str(exc).split())
            return ("late", None) if set(UNDEFINED.findall(said)) & late else ("broken", said[:400])

    def _check_options(self, report, params, task_vars):
        """PRE-01 to PRE-10; returns what the host's half needs to know."""
        from ansible.template import trust_as_template

        available = sorted(name for name in os.listdir(ROLES) if os.path.isdir(os.path.join(ROLES, name, "meta")))
        for name in params["roles"]:
            if name not in available:
                guess = core.nearest(name, available)
                fix = f"write {guess}" if guess else f"use some of {', '.join(available)}"
                report.fail("PRE-01", "preflight roles", f"there is no role {name!r}", fix)
        roles = [name for name in params["roles"] if name in available]
        specs = {name: self._spec(name) for name in available}
        late = set(params["late_variables"])

        defaults, internal = {}, {}
        for role in roles:
            defaults.update(self._load(role, "defaults", "main.yml"))
            internal.update(self._load(role, "vars", "main.yml"))
        scope = {**defaults, **task_vars, **internal}
        base = self._loader.get_basedir()

        known = {option for spec in specs.values() for option in spec} | set(params["known_variables"]) | late
        given = [name for name in task_vars if name.startswith("mcpstack_")]
        origins = {name: place for name in given if (place := origin(task_vars[name], base))}
        core.check_unknown(report, given, known, origins)

        report.decided("PRE-01")
        report.decided("PRE-03")
        values, services, templars = {}, [], {}
        for role in roles:
            role_path = os.path.join(ROLES, role)
            templar = self._templar.copy_with_new_env(available_variables={**scope, "role_path": role_path})
            for option, spec in specs[role].items():
                if option in values or option in late:
                    continue
                if option not in scope:
                    if spec.get("required"):
                        report.fail("PRE-01", option, "is required but not set", describe(spec))
                    continue
                place = origins.get(option, "")
                state, value = self._evaluate(templar, scope[option], late)
                if state == "broken":
                    where = f"{option} ({place})" if place else option
                    report.fail("PRE-03", where, value, "define it, or correct the expression", subject=option)
                elif state == "done":
                    values[option] = value
                    validate_option(report, option, spec, value, place)
            templars[role] = templar
            services += self._service(report, templar, role, internal, late, values)
        templar = self._templar.copy_with_new_env(available_variables=scope)
        for name in sorted(core.COLLECTION_VARIABLES & set(task_vars)):
            state, value = self._evaluate(templar, task_vars[name], late)
            if state == "done":
                values[name] = value
        core.check_placeholders(report, values, params["environment"])
        core.check_rules(report, values, params["environment"])
        public = params["public_ports"] or values.get("mcpstack_public_ports") or [80, 443]
        context = core.Context(values, services, params["environment"], tuple(int(port) for port in public))
        core.check_cross_rules(report, context)
        for role, templar in templars.items():
            self._own_problems(report, templar, role, internal)
        host = {"services": services}
        if "docker" in roles:
            wanted = {
                "common": "_mcpstack_docker_common",
                "engine": "_mcpstack_docker_engine[mcpstack_docker_source]",
                "settings": "_mcpstack_docker_daemon",
            }
            found = {key: self._expression(templar, trust_as_template(text), late) for key, text in wanted.items()}
            if all(state == "done" for state, _value in found.values()):
                host["packages"] = {**found["engine"][1], "common": found["common"][1]}
                host["package_source"] = values.get("mcpstack_docker_source", "debian")
                host["daemon"] = {
                    "settings": found["settings"][1],
                    "extra": values.get("mcpstack_docker_daemon_extra", {}),
                    "conflicts": values.get("mcpstack_docker_conflicts", "fail"),
                }
            elif "PRE-01" not in [item["id"] for item in report.findings]:
                reason = next(value for state, value in found.values() if state != "done")
                report.unknown("PRE-33", "mcpstack_docker_*", str(reason), "correct the options of the role docker")
        return host

    def _own_problems(self, report, templar, role: str, internal: dict) -> None:
        """What the role itself finds wrong with its options: its list of problems, and a plan that refuses with reasons."""
        found = []
        for name in (f"_mcpstack_{role}_problems", f"_mcpstack_{role}_plan"):
            if name not in internal:
                continue
            try:
                value = templar.template(internal[name])
            except AnsibleError as exc:
                found += reasons(exc)
                options = f"mcpstack_{role}_"  # of the wrong type, and named already
                if not reasons(exc) and not any(item["subject"].startswith(options) for item in report.findings):
                    report.unknown("PRE-01", name, " ".join(str(exc).split())[:300], "see the role's options")
                continue
            if name.endswith("_problems"):
                found += [dict(zip(("where", "what", "fix"), split_problem(text), strict=True)) for text in value]
        for problem in found:
            named = [item["subject"] for item in report.findings]
            where = (
                problem["where"] if problem["where"].startswith("mcpstack_") else f"mcpstack_{role}_{problem['where']}"
            )
            if not any(where.startswith(subject) for subject in named):
                report.fail("PRE-01", where, problem["what"].rstrip("."), problem["fix"].rstrip("."))

    def _service(self, report, templar, role: str, internal: dict, late: set, values: dict) -> list[dict]:
        """The parts of a role's service spec that concern the host."""
        from ansible.template import trust_as_template

        name = f"_mcpstack_{role}_service"
        if name not in internal:
            return []
        spec = {"name": role.replace("_", "-")}
        for key, text in (
            ("memory", f"{name}.limits.memory"),
            ("cpus", f"{name}.limits.cpus"),
            ("publish", f"{name}.publish if 'publish' in {name} else []"),
        ):
            state, value = self._expression(templar, trust_as_template(text), late)
            if state == "done":
                spec[key] = value
                continue
            report.decided({"memory": "PRE-25", "cpus": "PRE-35", "publish": "PRE-27"}[key], core.UNKNOWN)
            if state == "broken" and not any(item["severity"] in core.STOPPING for item in report.findings):
                report.fail("PRE-03", f"{name}.{key}", f"cannot be evaluated ({value})", "correct the role's options")
        state, limits = self._expression(templar, trust_as_template(f"{name}.limits"), late)
        for problem in limit_problems(limits, name) if state == "done" else []:
            key = problem["where"].rpartition(".")[2]
            options = (f"mcpstack_{role}_{key}", f"mcpstack_{role}_limits")
            named = next((option for option in options if option in values), problem["where"])
            where = f"{named}.{key}" if named.endswith("_limits") else named
            if not any(where.startswith(item["subject"]) for item in report.findings):
                report.fail("PRE-01", where, problem["what"], problem["fix"])
        return [spec]

    def run(self, tmp=None, task_vars=None):
        """Check, and fail once with everything."""
        task_vars = task_vars or {}
        result = super().run(tmp, task_vars)
        module_args = dict(self._task.args)
        defaults = {"environment": "development", "public_ports": []}
        params = {key: module_args.get(key, default) for key, default in defaults.items()}
        for key in ("roles", "known_variables", "late_variables"):
            given = module_args.get(key) or []
            params[key] = given.split(",") if isinstance(given, str) else list(given)
        report = core.Report()
        named = params["environment"]
        if named not in core.ENVIRONMENTS:  # the rest is held to the strictest rules, so that nothing stays unsaid
            params["environment"] = module_args["environment"] = "production"
        host = self._check_options(report, params, task_vars)
        if named not in core.ENVIRONMENTS and "mcpstack_environment" not in {f["subject"] for f in report.findings}:
            fix = f"set it to one of {', '.join(core.ENVIRONMENTS)}"
            report.fail("PRE-01", "mcpstack_environment", f"is {named!r}", fix)

        sent = time.time()
        answer = self._execute_module(
            module_name="mcpstack.platform.preflight", module_args={**module_args, **host}, task_vars=task_vars
        )
        received = time.time()
        if answer.get("failed") or "findings" not in answer:
            result.update(answer)
            if report.stopping:
                result["msg"] = f"{core.message(report.stopping)}\nThe host could not be checked: {answer.get('msg')}"
                result.update(report.as_dict())
            return result
        report.merge(answer["findings"], answer["checks_run"])
        clock = answer["clock"]
        given_time = module_args.get("controller_time")
        if given_time is not None:
            sent, received = float(given_time), float(given_time) + received - sent
        offset, uncertainty = core.clock_offset(sent, received, clock["started"], clock["finished"])
        core.check_clock(
            report,
            offset,
            uncertainty,
            float(module_args.get("clock_warning_s", 5)),
            float(module_args.get("clock_limit_s", 60)),
        )
        result.update(report.as_dict(), clock=clock, ansible_facts=answer["ansible_facts"], changed=False)
        result["warnings"] = report.warnings
        if report.stopping:
            result["failed"] = True
            result["msg"] = core.message(report.as_dict()["findings"][: len(report.stopping)],
                                         task_vars.get("inventory_hostname", "this host"))  # fmt: skip
        return result
