# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""mcpstack-registry"""

from __future__ import annotations

import argparse
import os
import sys


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="mcpstack-registry", description="The tool registry: REST and MCP.")
    parser.add_argument("--health", action="store_true", help="ask the running registry for /health, exit 0 when well")
    parser.add_argument("--check-settings", action="store_true", help="check settings and secrets, then stop")
    arguments = parser.parse_args(argv)
    if arguments.health:
        from mcpstack import health

        return health.main([os.environ.get("REGISTRY_PORT", "8000")])

    from mcpstack.common.settings import SettingsError
    from mcpstack.registry import settings

    try:
        values, secrets = settings.load()
    except SettingsError as error:
        for problem in error.problems:
            sys.stderr.write(f"mcpstack-registry: {problem}\n")
        return 2
    if arguments.check_settings:
        return 0

    from mcpstack.registry import server

    return server.run(values, secrets)


if __name__ == "__main__":
    sys.exit(main())
