#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Initialise the PostgreSQL cluster."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgres_init
short_description: Initialise the PostgreSQL cluster of the platform, once
version_added: 0.1.0
author:
  - mcpstack.platform maintainers (@mcpstack)
description:
  - Creates the named volume as Docker Compose would, and a cluster in it by running C(initdb) in a throwaway container
    without a network.
  - The cluster has data checksums, UTF-8 with the builtin C(C.UTF-8) locale, and a superuser C(postgres) without a password,
    who comes in by peer on the socket only.
  - C(initdb) works beside the final place and a finished cluster is renamed into it, so a run that is killed at any moment
    leaves nothing that a later run could mistake for a cluster.
  - A directory that holds something else, a damaged cluster or another major version is refused and never touched.
extends_documentation_fragment:
  - mcpstack.platform.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  image:
    description: Image that holds C(initdb) and a shell, which C(initdb) needs. The server's own image has no shell.
    type: str
    required: true
  major:
    description: Major version of PostgreSQL in the image.
    type: int
    default: 17
  volume:
    description: Name of the volume as the compose project knows it.
    type: str
    default: postgres-data
  project:
    description: Name of the compose project.
    type: str
    default: mcpstack
  uid:
    description: Numeric user and group of the server.
    type: int
    default: 64104
  timeout:
    description: Seconds that C(initdb) may take.
    type: int
    default: 300
"""

EXAMPLES = r"""
- name: Initialise the cluster
  mcpstack.platform.postgres_init:
    image: mcpstack/postgres-init:0123456789ab
"""

RETURN = r"""
state:
  description: V(present) when the cluster was there, V(initialised) when it was, or in check mode would be, created.
  returned: success
  type: str
  sample: present
volume:
  description: Name of the volume.
  returned: success
  type: str
  sample: mcpstack_postgres-data
path:
  description: The data directory on the host; empty when the volume does not exist yet.
  returned: success
  type: str
  sample: /var/lib/docker/volumes/mcpstack_postgres-data/_data/data
major:
  description: Major version of the cluster.
  returned: success
  type: int
  sample: 17
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.mcpstack.platform.plugins.module_utils._engine import Engine, EngineError
from ansible_collections.mcpstack.platform.plugins.module_utils._postgres_init import Cluster, InitError, ensure


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "image": {"type": "str", "required": True},
            "major": {"type": "int", "default": 17},
            "volume": {"type": "str", "default": "postgres-data"},
            "project": {"type": "str", "default": "mcpstack"},
            "uid": {"type": "int", "default": 64104},
            "timeout": {"type": "int", "default": 300},
        },
        supports_check_mode=True,
    )
    try:
        result = ensure(Engine(), Cluster(**module.params), check=module.check_mode)
    except (InitError, EngineError) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(
            msg=f"The PostgreSQL volume cannot be prepared: {error}. Is this host's engine local, and are you root?"
        )
    before = "present" if not result["changed"] else "absent"
    header = f"PostgreSQL {result['major']} cluster in volume {result['volume']}"
    diff = {"before_header": header, "after_header": header, "before": f"{before}\n", "after": "present\n"}
    module.exit_json(diff=diff, **result)


if __name__ == "__main__":
    main()
