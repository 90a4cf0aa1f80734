# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every check of the collection, in one place. PRIVATE: internal to the collection, may change in any release."""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.mcpstack.platform.plugins.module_utils import (
    _audit_waivers,
    _checks_container,
    _checks_host,
    _checks_image,
    _checks_nginx,
    _checks_postgres,
    _checks_runtime,
    _checks_secret,
    _checks_tls,
    _checks_valkey,
)
from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Check


@dataclass(frozen=True)
class Topic:
    """Checks that belong together. ``name`` is the name of their page, ``modules`` decide them."""

    name: str
    title: str
    modules: tuple[str, ...]
    checks: tuple[Check, ...]


TOPICS = (
    Topic("containers", "Containers and their networks", ("compose_audit", "docker_audit"), _checks_container.CHECKS),
    Topic("host", "Engine and host", ("docker_audit",), _checks_host.CHECKS),
    Topic("runtime", "Drift of what runs", ("docker_audit",), _checks_runtime.CHECKS),
    Topic("secrets", "Secrets and environment", ("env_audit", "compose_audit", "docker_audit"), _checks_secret.CHECKS),
    Topic("images", "Images", ("image_audit", "compose_audit"), _checks_image.CHECKS),
    Topic("nginx", "nginx", ("nginx_audit", "tls_audit"), _checks_nginx.CHECKS),
    Topic("tls", "TLS", ("tls_audit", "nginx_audit"), _checks_tls.CHECKS),
    Topic("postgres", "PostgreSQL", ("postgres_audit",), _checks_postgres.CHECKS),
    Topic("valkey", "Valkey and Redis", ("valkey_audit",), _checks_valkey.CHECKS),
    Topic("waivers", "Waivers", ("audit_report", "every audit module"), _audit_waivers.CHECKS),
)
ALL = {check.id: check for topic in TOPICS for check in topic.checks}
