# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judge a Compose project on the controller, with files from there or from the host."""

from __future__ import annotations

import posixpath

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.mcpstack.platform.plugins.module_utils import _audit_compose as core
from ansible_collections.mcpstack.platform.plugins.module_utils import _audit_result, _container_policy
from ansible_collections.mcpstack.platform.plugins.module_utils._audit_files import Files, LocalFiles
from ansible_collections.mcpstack.platform.plugins.module_utils._remote_files import ask_until_known

ARGUMENTS = {
    "files": {"type": "list", "elements": "str", "required": True},
    "remote_src": {"type": "bool", "default": False},
    "project_directory": {"type": "str"},
    "env_files": {"type": "list", "elements": "str"},
    "environment": {"type": "dict", "default": {}},
    "profiles": {"type": "list", "elements": "str"},
    "allowed_registries": {"type": "list", "elements": "str", "default": []},
    **_container_policy.ARGUMENTS,
    "engine": _container_policy.ENGINE,
    **_audit_result.ARGUMENTS,
}


class ActionModule(ActionBase):
    """Reads, judges, changes nothing."""

    _supports_check_mode = True
    _supports_diff = False

    def run(self, tmp=None, task_vars=None):
        """Return what the audit finds."""
        result = super().run(tmp, task_vars)
        _validation, args = self.validate_argument_spec(argument_spec=ARGUMENTS)
        if not args["files"]:
            raise AnsibleActionFail("files: is empty; name at least one compose file")
        try:
            policy = _container_policy.policy_of(args)
        except ValueError as error:
            raise AnsibleActionFail(str(error)) from error
        paths = [self._path(path, args["remote_src"]) for path in args["files"]]
        env_files = args["env_files"]
        if env_files is not None:
            env_files = [self._path(path, args["remote_src"]) for path in env_files]
        directory = args["project_directory"]
        if directory is not None:
            directory = self._path(directory, args["remote_src"])

        def judge(files: Files, host_files: Files | None = None) -> dict:
            return core.audit(
                files,
                paths,
                env={str(name): str(value) for name, value in args["environment"].items() if value is not None},
                env_files=env_files,
                profiles=args["profiles"],
                project_directory=directory,
                policy=policy,
                allowed_registries=args["allowed_registries"],
                host_files=host_files,
            )

        if args["remote_src"]:
            dotenv = posixpath.join(directory or posixpath.dirname(paths[0]), ".env")
            first = [*paths, *(env_files if env_files is not None else [dotenv])]
            found = ask_until_known(
                lambda files: judge(files, files), lambda wanted: self._fetch(wanted, task_vars), first
            )
        else:
            found = judge(LocalFiles())
        result.update(_audit_result.conclude(found, args["waivers"], args["fail_at"]))
        return result

    def _path(self, path: str, remote: bool) -> str:
        if not remote:
            return self._loader.path_dwim(path)
        if not path.startswith("/"):
            raise AnsibleActionFail(f"{path}: is relative; with remote_src give absolute paths of the host")
        return posixpath.normpath(path)

    def _fetch(self, wanted: dict, task_vars: dict) -> dict:
        answer = self._execute_module(
            module_name="mcpstack.platform.audit_files", module_args=wanted, task_vars=task_vars
        )
        if answer.get("failed") or "files" not in answer:
            raise AnsibleActionFail(f"The files of the host could not be read: {answer.get('msg')}")
        return answer
