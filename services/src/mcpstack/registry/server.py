# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The registry as a process."""

from __future__ import annotations

from mcpstack.common import server
from mcpstack.registry.api import create_app
from mcpstack.registry.service import Registry
from mcpstack.registry.settings import Secrets, Settings


def run(settings: Settings, secrets: Secrets) -> int:
    server.start("registry", settings)
    registry = Registry(settings, secrets)
    return server.run(settings, registry, create_app(registry))
