# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of what runs, against what was meant to run. PRIVATE: may change in any release.

Examples show the engine's answers and the kernel's files as they look on a host.
"""

from __future__ import annotations

from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Check

CHECKS: tuple[Check, ...] = (
    Check(
        "RUN-01", "Running container differs from what was rendered", "high", "A",
        ("NIST SP 800-190 4.4.3",),
        "For each service of the expected model the running container has the same user, capabilities, security options,"
        " namespaces, devices, read-only root, mounts, tmpfs, published ports, names of environment variables, limits"
        " and networks, and the same compose config hash where the model holds one. A service of the model without a"
        " container is a finding. Values of environment variables are not compared. Unknown without a model.",
        "Find out who changed the container, then deploy again so that it is made anew from the rendered project.",
        "HostConfig.CapAdd: [SYS_ADMIN]    # rendered: cap_add: []",
        "HostConfig.CapAdd: null           # rendered: cap_add: []",
    ),
    Check(
        "RUN-02", "Running image is not the image of the lock", "high", "A",
        ("CIS Docker 5.28",),
        "The image id of each container equals the id of the expected model, or the digest or content tag that its image"
        " reference is pinned to. A tag that by now names another image than the one that runs is a finding in any case."
        " Unknown when neither a model nor a pinned reference says which image is meant.",
        "Pin the image by digest or content tag and make the container anew from it.",
        "Config.Image: example/api:1    Image: sha256:1f0c…    # the tag now names sha256:9a7e…",
        "Config.Image: example/api@sha256:9a7e…    Image: sha256:9a7e…",
    ),
    Check(
        "RUN-03", "Kernel does not enforce what the container's configuration says", "high", "H",
        (),
        "Every process of a container, found by its pid namespace or control group, is as confined in /proc/PID/status"
        " as the configuration says: no effective, permitted, inheritable, ambient or bounding capability beyond the"
        " configured ones, NoNewPrivs 1 where it is configured, Seccomp 2 unless a profile is switched off, and no uid 0"
        " where the container has a non-root user. Uids are those of the container's user namespace. A container that"
        " is configured without confinement is reported by the checks of its configuration, not again here.",
        "Stop the process, find out how it got in (an exec session, nsenter, a replaced runtime), make the container anew"
        " and keep the engine and runc current.",
        "/proc/2192/status: CapEff: 000001ffffffffff, NoNewPrivs: 0, Seccomp: 0",
        "/proc/2192/status: CapEff: 0000000000000000, NoNewPrivs: 1, Seccomp: 2",
    ),
    Check(
        "RUN-04", "Container listens on a port that was not declared", "medium", "H",
        ("NIST SP 800-190 4.4.2",),
        "In each container's network namespace only declared ports listen beyond loopback: exposed by the image,"
        " published, in the expected model or in declared_ports. A published port on which nothing listens is a low"
        " finding. Unconnected UDP sockets on ephemeral ports are client sockets and are not listeners. Containers on"
        " the host's network are not judged here. Unknown for a container that declares no port at all and listens.",
        "Declare the port if it is meant (expose, ports, declared_ports), or stop what listens there.",
        "/proc/2289/net/tcp: 00000000:115C 0A    # 4444/tcp, declared: 8000/tcp",
        "/proc/2289/net/tcp: 00000000:1F40 0A    # 8000/tcp, declared: 8000/tcp",
    ),
    Check(
        "RUN-05", "Container's file system or processes changed by hand", "medium", "A",
        ("CIS Docker 5.7",),
        "In containers with a writable root file system the engine reports no added, changed or deleted file among"
        " programs, libraries and configuration (low elsewhere; run, log, cache, temporary and data directories do not"
        " count). In every container no remote login server (sshd, dropbear, telnetd) runs, and no shell that takes its"
        " commands from a terminal or a pipe; a shell that runs a script or one command is no finding.",
        "Put the change into the image, make the root file system read-only, and remove the login server; use the"
        " engine's exec for the rare moment that needs a shell.",
        "GET /containers/ID/changes: [{Path: /usr/bin/curl, Kind: 1}]",
        "HostConfig.ReadonlyRootfs: true",
    ),
    Check(
        "RUN-06", "Container is unhealthy, restarting, paused or was killed for memory", "medium", "A",
        ("CIS Docker 5.27",),
        "Each container that should run does: not unhealthy, not still starting long after its start period, not in a"
        " restart loop, not paused, not dead, not ended with an error, and not killed for memory. A job that ended with"
        " exit code 0 passes. A container without a health check passes here: it has none to fail.",
        "Read the container's log and the last answers of its health check; raise the limit that it ran into or repair"
        " the service.",
        "State: {Status: running, Health: {Status: unhealthy, FailingStreak: 41}}",
        "State: {Status: running, Health: {Status: healthy, FailingStreak: 0}}",
    ),
    Check(
        "RUN-07", "Privileged or root exec session, or foreign container on a project's network", "medium", "A",
        ("CIS Docker 5.23", "CIS Docker 5.24", "NIST SP 800-190 4.4.5"),
        "No exec session that runs now is privileged, is root by its own option, or is root with a terminal. Every"
        " container on a compose project's network belongs to that project. Sessions that ended are not known to the"
        " engine's inspection.",
        "End the session; take the foreign container off the network or give both a network of their own.",
        "GET /exec/ID/json: {Running: true, ProcessConfig: {privileged: true, user: root}}",
        "ExecIDs: null",
    ),
    Check(
        "RUN-08", "Project left containers, images, volumes or networks behind", "low", "A",
        ("CIS Docker 6.1", "CIS Docker 6.2"),
        "Each container, volume and network with a compose project's label is in use by that project, no container of a"
        " service that is not expected any more is left, and no untagged image or other version of an image of the"
        " project lies unused. A container that ended with exit code 0 and belongs to a service is a job, not an orphan.",
        "Remove what is left: `docker compose up --remove-orphans`, `docker image rm`, `docker volume rm` after a look"
        " at what the volume holds.",
        "GET /containers/json?all=1: {Names: [/shop-worker-run-3f9a], State: exited, Labels: {com.docker.compose.oneoff: 'True'}}",
        "GET /containers/json?all=1: {Names: [/shop-worker-1], State: running}",
    ),
)  # fmt: skip

TABLE = {check.id: check for check in CHECKS}
