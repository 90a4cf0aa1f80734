# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Controller side of model_cache: long downloads run in the background of the host, and their progress is shown."""

from __future__ import annotations

import json
import shlex
import time

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

MODULE = "mcpstack.platform.model_cache"
LONGEST = 7 * 24 * 3600  # seconds; the module gives up long before, when nothing arrives
FIRST_WAIT, LONGEST_WAIT, SAY_EVERY, LOOK_EVERY = 0.5, 3.0, 5.0, 20.0
GONE = (
    "The download on the host ended without a result: it was killed, or the host was restarted. "
    "Run again: what was fetched is kept."
)


def size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def progress_line(host: str, progress: dict) -> str:
    """One line for people; an empty one when there is nothing to tell."""
    try:
        name, state = progress["name"], progress["state"]
        done, total, rate = (int(progress[key]) for key in ("done", "total", "rate"))
    except (KeyError, TypeError, ValueError):
        return ""
    line = f"model_cache: [{host}] {state} {name}: {100 * done // max(total, 1)} % of {size(total)}"
    if rate and done < total:
        line += f", {size(rate)}/s, {(total - done) // rate} s left"
    return line


class ActionModule(ActionBase):
    """Runs the module; what takes long runs a second time, watched."""

    _supports_check_mode = True
    _supports_diff = True
    _supports_async = False

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        first = self._execute_module(module_name=MODULE, module_args={**arguments, "defer": True}, task_vars=task_vars)
        if not first.get("deferred"):
            result.update(first)
            return result
        result.update(self._watched(arguments, task_vars))
        return result

    def _watched(self, arguments: dict, task_vars: dict) -> dict:
        self._task.async_val = LONGEST
        try:
            job = self._execute_module(
                module_name=MODULE, module_args={**arguments, "defer": False}, task_vars=task_vars, wrap_async=True
            )
        finally:
            self._task.async_val = 0
        if "ansible_job_id" not in job:
            return job
        host, wait, said, looked, gone = task_vars.get("inventory_hostname", ""), FIRST_WAIT, 0.0, time.monotonic(), 0
        progress = f"cat {shlex.quote(arguments.get('path') or '/var/lib/mcpstack/models')}/.progress.json"
        while True:
            time.sleep(wait)
            wait = min(wait * 1.5, LONGEST_WAIT)
            status = self._job(job, "status", task_vars)
            if status.get("finished"):
                self._job(job, "cleanup", task_vars)
                return {key: value for key, value in status.items() if not self._is_bookkeeping(key)}
            if time.monotonic() - looked >= LOOK_EVERY:
                looked = time.monotonic()
                gone = 0 if self._is_busy(arguments, task_vars) else gone + 1
                if gone == 2:  # twice, because the job may be about to write its result
                    self._job(job, "cleanup", task_vars)
                    return {"failed": True, "msg": GONE, "problems": []}
            if time.monotonic() - said >= SAY_EVERY:
                said = time.monotonic()
                try:
                    line = progress_line(host, json.loads(self._low_level_execute_command(progress)["stdout"] or "{}"))
                except ValueError:
                    line = ""
                if line:
                    Display().display(line)

    def _is_busy(self, arguments: dict, task_vars: dict) -> bool:
        """Whether a run on the host holds the cache."""
        look = self._execute_module(module_name=MODULE, module_args={**arguments, "defer": True}, task_vars=task_vars)
        return bool(look.get("busy"))

    @staticmethod
    def _is_bookkeeping(key: str) -> bool:
        return key in ("ansible_job_id", "started", "finished", "results_file", "erased", "stdout", "stderr") or (
            key in ("stdout_lines", "stderr_lines")
        )

    def _job(self, job: dict, mode: str, task_vars: dict) -> dict:
        directory = self._remote_expand_user(self.get_shell_option("async_dir", default="~/.ansible_async"))
        return self._execute_module(
            module_name="ansible.legacy.async_status",
            module_args={"jid": job["ansible_job_id"], "mode": mode, "_async_dir": directory},
            task_vars=task_vars,
        )
