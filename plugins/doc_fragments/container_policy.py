# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation fragment: what an operator declares about containers, for the audits that judge them."""

from __future__ import annotations


class ModuleDocFragment:
    """What is meant to be open, to have GPUs, and to be separated."""

    DOCUMENTATION = r"""
options:
  edge_services:
    description:
      - Services that may publish ports beyond loopback. No other may, then.
      - Without it, every published port is judged by its address, and databases, caches, queues and administration may
        publish none.
    type: list
    elements: str
  declared_ports:
    description:
      - Ports of the host that are meant to be open. Without any, the services of O(edge_services) may open 80 and 443.
    type: list
    elements: dict
    default: []
    suboptions:
      port:
        description: Port of the host.
        type: int
        required: true
      address:
        description: The only address that is meant. Without it every address of the host is.
        type: str
      protocol:
        description: Protocol.
        type: str
        choices: [tcp, udp, sctp]
        default: tcp
  gpu_services:
    description: Services that may have GPUs. Without it all may.
    type: list
    elements: str
  socket_proxies:
    description: Services that may mount the engine's socket, alone and without publishing a port.
    type: list
    elements: str
    default: []
  tool_services:
    description: Agents and tools, which must have no route out.
    type: list
    elements: str
    default: []
  internal_networks:
    description:
      - Networks that must have no route out.
      - Without it, a database, cache or queue has to be on one internal network at least.
    type: list
    elements: str
  network_members:
    description: For each network named here, the list of the only services that may be on it.
    type: dict
    default: {}
  networks_without_egress:
    description: Networks that have a route out for answers and must not masquerade, such as the one of the edge.
    type: list
    elements: str
    default: []
  networks_without_host:
    description: Networks on which the host must have no address.
    type: list
    elements: str
    default: []
  oneshot_services:
    description:
      - Services whose container is started for one command and ends with it. They need no health check and may leave no log
        behind, and must not be restarted.
    type: list
    elements: str
    default: []
  restart_policies:
    description: Restart policies that count as deliberate.
    type: list
    elements: str
    default: [on-failure, unless-stopped]
"""
