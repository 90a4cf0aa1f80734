# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gateway as a process."""

from __future__ import annotations

import logging

from mcpstack.common import server
from mcpstack.gateway.api import create_app
from mcpstack.gateway.service import Gateway
from mcpstack.gateway.settings import Secrets, Settings

log = logging.getLogger(__name__)


def run(settings: Settings, secrets: Secrets) -> int:
    server.start("gateway", settings)
    gateway = Gateway(settings, secrets)
    if settings.environment != "production" and "*" in settings.cors_origins:
        log.warning("every web site may call this gateway: GATEWAY_CORS_ORIGINS is '*'")
    return server.run(settings, gateway, create_app(gateway), hangup=gateway.pool.reload)
