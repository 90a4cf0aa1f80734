# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Controller side of image_build: reads specifications, locks, sources and keyring; writes renewed locks."""

from __future__ import annotations

import base64
import os
import sys

import yaml
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ..module_utils._image_build import complete_spec
from ..module_utils._image_errors import ImageError
from ..module_utils._image_inputs import read_services, read_specs, write_lock


class ActionModule(ActionBase):
    """Adds the bundle to the module's arguments."""

    def run(self, tmp=None, task_vars=None):
        """Run the module on the build host."""
        result = super().run(tmp, task_vars)
        args = dict(self._task.args)
        try:
            for name in ("specs", "keyring"):
                if not args.get(name):
                    raise ImageError(f"image_build: {name} is missing; give the path on the controller.")
            specs, locks = read_specs(os.path.expanduser(args["specs"]), yaml.safe_load)
            wanted = args.get("wanted") or sorted(specs)
            sources = {}
            if any(complete_spec(name, specs).get("python") for name in wanted):
                if not args.get("services"):
                    raise ImageError(
                        "image_build: a wanted image installs Python packages; set services to their sources."
                    )
                sources = read_services(os.path.expanduser(args["services"]))
            try:
                with open(os.path.expanduser(args["keyring"]), "rb") as handle:
                    keyring = handle.read()
            except OSError as exc:
                raise ImageError(
                    f"{args['keyring']}: the keyring cannot be read ({exc.strerror}); correct it."
                ) from exc
        except ImageError as exc:
            raise AnsibleActionFail(str(exc)) from exc
        args["bundle"] = {
            "specs": specs,
            "locks": locks,
            "sources": {path: base64.b64encode(data).decode() for path, data in sources.items()},
            "keyring": base64.b64encode(keyring).decode(),
        }
        if self._connection.transport == "local":  # the Python that runs Ansible: recent enough, and with a pip
            task_vars = dict(task_vars or {}, ansible_python_interpreter=sys.executable)
            delegated = dict(task_vars.get("ansible_delegated_vars") or {})
            if self._task.delegate_to in delegated:
                delegated[self._task.delegate_to] = dict(
                    delegated[self._task.delegate_to], ansible_python_interpreter=sys.executable
                )
                task_vars["ansible_delegated_vars"] = delegated
        done = self._execute_module(
            module_name="mcpstack.platform.image_build", module_args=args, task_vars=task_vars, tmp=tmp
        )
        done.pop("invocation", None)  # the bundle is long and of no interest to a reader
        for name, lock in done.get("locks", {}).items():
            write_lock(os.path.expanduser(args["specs"]), name, lock)
        result.update(done)
        return result
