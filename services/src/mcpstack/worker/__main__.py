# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Start the worker: python -m mcpstack.worker

Exit status: 0 stopped as asked, 1 the port cannot be used or a task could not be stopped, 2 the settings cannot be
used, 3 the database does not belong to this release, 70 a task blocked the process.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="mcpstack-worker", description="Durable background jobs.")
    parser.add_argument("--health", action="store_true", help="ask the running worker for /health, exit 0 when well")
    parser.add_argument("--check-settings", action="store_true", help="check settings and secrets, then stop")
    arguments = parser.parse_args(argv)
    if arguments.health:
        return _health()

    from mcpstack.common.settings import SettingsError
    from mcpstack.worker import settings

    try:
        values, secrets = settings.load()
    except SettingsError as error:
        for problem in error.problems:
            sys.stderr.write(f"mcpstack-worker: {problem}\n")
        return 2
    if arguments.check_settings:
        return 0

    from mcpstack.common import logs
    from mcpstack.worker import service
    from mcpstack.worker.tasks import KINDS

    logs.configure(values.log_level)
    return asyncio.run(service.main(values, secrets, KINDS))


def _health() -> int:
    from mcpstack import health

    port = os.environ.get("WORKER_PORT", "9000")
    problem = health.probe(int(port)) if port.isascii() and port.isdigit() else f"WORKER_PORT {port!r} is not a number."
    if problem:
        sys.stderr.write(problem + "\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
