# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Callback: one JSON line for each result, into the file TASK_BUDGET_FILE; read by tools/task_budget.py."""

from __future__ import annotations

DOCUMENTATION = """
name: task_budget
type: notification
short_description: write each task result as a JSON line
description:
  - Writes host, role, task, outcome and seconds of each task to the file named by the environment variable E(TASK_BUDGET_FILE).
"""

import json
import os
import time

from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):
    """Writes results as they come."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "task_budget"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._path = os.environ.get("TASK_BUDGET_FILE", "")
        self._begin = {}
        if self._path:
            with open(self._path, "w"):
                pass

    def v2_runner_on_start(self, host, task):
        """Remember when a host began a task."""
        self._begin[host.get_name(), task._uuid] = time.monotonic()

    def _note(self, result, outcome):
        if not self._path:
            return
        task = getattr(result, "task", None) or result._task
        host = (getattr(result, "host", None) or result._host).get_name()
        role = task._role.get_name(include_role_fqcn=True) if task._role else ""
        line = {
            "host": host,
            "role": role.rpartition(".")[2],
            "task": task.get_name().rpartition(" : ")[2],
            "action": task.action,
            "outcome": outcome,
            "seconds": round(time.monotonic() - self._begin.get((host, task._uuid), time.monotonic()), 3),
        }
        with open(self._path, "a") as out:
            out.write(json.dumps(line) + "\n")

    def v2_runner_on_ok(self, result):
        """A task that ran."""
        answer = getattr(result, "result", None) or result._result
        self._note(result, "changed" if answer.get("changed") else "ok")

    def v2_runner_on_skipped(self, result):
        """A task whose condition was false."""
        self._note(result, "skipped")

    def v2_runner_on_failed(self, result, ignore_errors=False):
        """A task that failed."""
        self._note(result, "failed")

    def v2_runner_on_unreachable(self, result):
        """A host that did not answer."""
        self._note(result, "failed")
