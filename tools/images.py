#!/usr/bin/env python3
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Maintainers' door to the image builder: renew locks, build, look for pending updates.

tools/images.py lock [NAME...]     newest signed versions into roles/images/specs/NAME.lock.json
tools/images.py build [NAME...]    exactly what the locks say; prints one JSON document
tools/images.py check [NAME...]    exit status 3 when a security update is pending
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import time
import types

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def core(name: str):
    """Import a core from this checkout, wherever it lies and whatever is installed."""
    package = "mcpstack_module_utils"
    if package not in sys.modules:
        module = types.ModuleType(package)
        module.__path__ = [os.path.join(ROOT, "plugins", "module_utils")]
        sys.modules[package] = module
    return importlib.import_module(f"{package}.{name}")


def parser_of_yaml():
    """PyYAML where there is one; else JSON, which is YAML too."""
    if importlib.util.find_spec("yaml") is None:
        return json.loads
    import yaml

    return yaml.safe_load


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["lock", "build", "check"])
    parser.add_argument("names", nargs="*", help="images; all when none is named")
    parser.add_argument("--cache-dir", default="~/.cache/mcpstack/images")
    parser.add_argument("--specs", default=os.path.join(ROOT, "roles", "images", "specs"))
    parser.add_argument("--services", default=os.path.join(ROOT, "services"))
    parser.add_argument(
        "--keyring", default=os.path.join(ROOT, "roles", "images", "files", "debian-archive-keyring.pgp")
    )
    parser.add_argument("--mirror")
    parser.add_argument("--security-mirror")
    parser.add_argument("--snapshot", help="base URL of a snapshot service, asked for what no mirror has any more")
    options = parser.parse_intermixed_args()
    started = time.monotonic()

    def report(line: str) -> None:
        print(f"[{time.monotonic() - started:5.1f} s] {line}", file=sys.stderr, flush=True)

    errors, build, inputs = core("_image_errors"), core("_image_build"), core("_image_inputs")
    try:
        specs, locks = inputs.read_specs(options.specs, parser_of_yaml())
        names = options.names or sorted(specs)
        uses_python = any(build.complete_spec(name, specs).get("python") for name in names)
        sources = inputs.read_services(options.services) if uses_python and options.action != "check" else {}
        builder = build.Builder(
            options.cache_dir, options.keyring, options.mirror, options.security_mirror, options.snapshot, report
        )
        status = 0
        if options.action == "lock":
            new = builder.resolve(names, specs)
            images = builder.build(names, specs, {**locks, **new}, sources)
            for name, image in zip(names, images):
                job = build.Job(name, specs, {**locks, **new}, sources)
                path = inputs.write_lock(options.specs, name, build.promised_lock(new[name], job, image))
                report(f"{name}: wrote {os.path.relpath(path)}")
        elif options.action == "build":
            print(json.dumps(builder.build(names, specs, locks, sources), indent=1))
        else:
            pending = builder.check(names, specs, locks)
            print(json.dumps(pending, indent=1))
            status = 3 if any(item["security"] for item in pending) else 0
        for warning in builder.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        return status
    except errors.ImageError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
