# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Controller side of image_load: transfers the archives of missing images, one at a time."""

from __future__ import annotations

import os

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

KEYS = ("ref", "id", "layers", "archive", "archive_sha256", "pull")


class ActionModule(ActionBase):
    """Asks the host what it lacks, then brings it."""

    def run(self, tmp=None, task_vars=None):
        """Probe, transfer and load, prune."""
        result = super().run(tmp, task_vars)
        args = dict(self._task.args)
        if isinstance(args.get("images"), list):  # image_build tells more of an image than is needed here
            args["images"] = [{key: image[key] for key in KEYS if key in image} for image in args["images"]]
        in_place = args.get("archives_on", "controller") == "target" or self._connection.transport == "local"
        if in_place or self._task.check_mode:
            result.update(self._module({**args, "archives_on": "target"}, task_vars))
            return result
        probe = self._module({**args, "archives_on": "target", "prune": False}, task_vars, check_mode=True)
        if probe.get("failed"):
            result.update(probe)
            return result
        missing = set(probe["loaded"])
        loaded, before, after, ids = [], "", "", dict(probe["ids"])
        for image in args["images"]:
            if image["ref"] not in missing:
                continue
            done = self._bring(args, image, task_vars)
            if done.get("failed"):
                result.update(done)
                return result
            loaded += done["loaded"]
            ids.update(done["ids"])
            after += done["diff"]["after"]
        done = {"changed": False, "removed": [], "others": probe["others"]}
        if args.get("prune"):
            done = self._module({**args, "archives_on": "target"}, task_vars)
            if done.get("failed"):
                result.update(done)
                return result
            before = done["diff"]["before"]
        result.update(
            changed=bool(loaded) or done["changed"],
            loaded=loaded,
            removed=done["removed"],
            ids=ids,
            others=done["others"],
            diff={"before": before, "after": after},
        )
        return result

    def _module(self, args, task_vars, check_mode=None):
        """Run the module on the host; check_mode overrides the task's."""
        saved = self._task.check_mode
        if check_mode is not None:
            self._task.check_mode = check_mode
        try:
            return self._execute_module(
                module_name="mcpstack.platform.image_load", module_args=args, task_vars=task_vars
            )
        finally:
            self._task.check_mode = saved

    def _bring(self, args, image, task_vars):
        """Transfer the archive of one image and load it."""
        image = dict(image)
        if image.get("pull"):
            return self._module({**args, "images": [image], "prune": False, "archives_on": "target"}, task_vars)
        source = image.get("archive") or ""
        if not os.path.isfile(source):
            raise AnsibleActionFail(
                f"{image['ref']}: its archive {source or '(none given)'} is not on the controller; build the images on "
                "the controller, or on the target itself and set archives_on to target."
            )
        shell = self._connection._shell
        folder = shell.tmpdir or self._make_tmp_path()  # removed with everything in it when the action ends
        image["archive"] = shell.join_path(folder, "image.tar")  # one name: never more than one archive at a time
        self._transfer_file(source, image["archive"])
        self._fixup_perms2((folder, image["archive"]))
        return self._module({**args, "images": [image], "prune": False, "archives_on": "target"}, task_vars)
