# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The checks of what a container may do (CMP) and of whom it can reach (NET), stated in a file or running.

PRIVATE: internal to the collection, may change in any release. Standard library only.

The documentation is generated from these rows.
"""

from __future__ import annotations

from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Check

CHECKS = (
    Check(
        "CMP-01", "Container is privileged", "critical", "SA",
        ("CIS Docker 5.5", "OWASP Docker 3", "NIST SP 800-190 4.4.3", "compose-lint CL-0002"),
        "A privileged container has every capability, every device of the host and no seccomp or AppArmor profile. Only"
        " this finding is reported then, not also what privileged implies.",
        "Remove privileged and grant the one device or capability that is needed.",
        "privileged: true",
        "privileged: false\ndevices: [/dev/ttyUSB0:/dev/ttyUSB0:rw]",
    ),
    Check(
        "CMP-02", "Capabilities are not dropped", "high", "SA",
        ("CIS Docker 5.4", "OWASP Docker 3", "NIST SP 800-190 4.4.3", "compose-lint CL-0006"),
        "Every capability that the engine grants by default is dropped: by ALL in any case, or one by one. CAP_ALL is no"
        " name that the engine knows.",
        "Set cap_drop: [ALL] and add back the single capability that is needed.",
        "cap_drop: [NET_RAW]",
        "cap_drop: [ALL]",
    ),
    Check(
        "CMP-03", "Dangerous capability is added", "critical", "SA",
        ("CIS Docker 5.4", "OWASP Docker 3", "NIST SP 800-190 4.4.3", "compose-lint CL-0011"),
        "Capabilities that lead out of the container are critical (ALL, SYS_ADMIN, SYS_MODULE, SYS_RAWIO), those that"
        " reach into the host or its network are high (SYS_PTRACE, DAC_READ_SEARCH, NET_ADMIN, BPF and their like), those"
        " that widen an attack are medium (NET_RAW, MKNOD, DAC_OVERRIDE, SYS_TIME and their like), those that can starve"
        " the host are low (IPC_LOCK, LEASE, SYS_NICE). Case and the prefix CAP_ make no difference.",
        "Remove the capability, or do the one privileged step outside the container.",
        "cap_add: [SYS_ADMIN]",
        "cap_add: [NET_BIND_SERVICE]",
    ),
    Check(
        "CMP-04", "Added capability has no effect", "low", "S", ("OWASP Docker 3",),
        "A process of a user other than root gets no added capability: its effective set is empty. The line grants"
        " nothing now and something the day the user is changed. Dangerous capabilities are CMP-03 instead.",
        "Remove cap_add; where a low port is the reason, listen above 1023.",
        'user: "1000:1000"\ncap_add: [NET_BIND_SERVICE]',
        'user: "1000:1000"\ncap_drop: [ALL]',
    ),
    Check(
        "CMP-05", "New privileges can be gained", "high", "SA",
        ("CIS Docker 5.26", "OWASP Docker 4", "NIST SP 800-190 4.4.3", "compose-lint CL-0003"),
        "security_opt holds no-new-privileges, alone or with a value that the engine reads as true; of several the last"
        " counts. The engine's own default counts where it is known.",
        "Add no-new-privileges:true to security_opt.",
        'security_opt: ["no-new-privileges:false"]',
        'security_opt: ["no-new-privileges:true"]',
    ),
    Check(
        "CMP-06", "Runs as root", "high", "SA",
        ("CIS Docker 4.1", "OWASP Docker 2", "NIST SP 800-190 4.1.2", "compose-lint CL-0018"),
        "The user is a number other than 0 in any spelling. Without a user the image decides: a known image counts, of an"
        " unknown one the finding is medium. A user given by name, or one in group 0, is low. Where the kernel was asked,"
        " the user of the running process decides.",
        "Set user to a numeric id other than 0, with a group of its own.",
        'user: "0:0"',
        'user: "64101:64101"',
    ),
    Check(
        "CMP-07", "User does not own the image's data", "low", "S", (),
        "The numeric user is the one that the image's data directory belongs to. Known images are judged by their variant:"
        " postgres is 70 on Alpine and 999 on Debian, grafana 472, nginx 101, prometheus 65534, valkey 999. Only where a"
        " writable volume is mounted, because the engine copies the image's owner into it.",
        "Use the user of this image variant, or give the volume to the user that is set.",
        'image: postgres:17-alpine\nuser: "999:999"\nvolumes: [data:/var/lib/postgresql/data]',
        'image: postgres:17-alpine\nuser: "70:70"\nvolumes: [data:/var/lib/postgresql/data]',
    ),
    Check(
        "CMP-08", "Root file system is writable", "medium", "SA",
        ("CIS Docker 5.13", "OWASP Docker 8", "NIST SP 800-190 4.4.4", "compose-lint CL-0007"),
        "The root file system is read-only, so that what breaks in cannot change the program.",
        "Set read_only: true and give what must be written a volume or a tmpfs.",
        "read_only: false",
        'read_only: true\ntmpfs: ["/tmp:size=64m"]',
    ),
    Check(
        "CMP-09", "Temporary file system is open or without a size", "low", "SA",
        ("OWASP Docker 8", "compose-lint CL-0022"),
        "The engine mounts a tmpfs noexec, nosuid and nodev unless its options say otherwise; none of them is undone, and"
        " a size is set, because the default is half of the host's memory.",
        "Write the tmpfs with noexec,nosuid,nodev and a size.",
        'tmpfs: ["/tmp:exec"]',
        'tmpfs: ["/tmp:noexec,nosuid,nodev,size=64m"]',
    ),
    Check(
        "CMP-10", "Memory is not limited", "medium", "SA",
        ("CIS Docker 5.11", "OWASP Docker 7", "NIST SP 800-190 4.4.3", "compose-lint CL-0026"),
        "A memory limit above zero is set, by mem_limit or deploy.resources. That swap is not limited to the same figure"
        " is low: without memswap_limit the engine allows as much swap again.",
        "Set mem_limit and memswap_limit to the same size.",
        "mem_limit: 0",
        "mem_limit: 512m\nmemswap_limit: 512m",
    ),
    Check(
        "CMP-11", "Processor time is not limited", "medium", "SA",
        ("CIS Docker 5.12", "OWASP Docker 7", "NIST SP 800-190 4.4.3", "compose-lint CL-0026"),
        "A limit is set: cpus, a quota, deploy.resources or a set of processors. Shares alone are low: they are a weight,"
        " not a limit.",
        "Set cpus.",
        "cpu_shares: 512",
        "cpus: 1.5",
    ),
    Check(
        "CMP-12", "Number of processes is not limited", "medium", "SA",
        ("CIS Docker 5.29", "OWASP Docker 7"),
        "A limit above zero is set; 0 and -1 mean unlimited.",
        "Set pids_limit.",
        "pids_limit: -1",
        "pids_limit: 128",
    ),
    Check(
        "CMP-13", "Resource or out-of-memory setting is unsafe", "low", "SA", ("CIS Docker 5.19",),
        "No ulimit is unlimited (core dumps: none at all are written), the out-of-memory killer may end the container and"
        " the container is not preferred over the host's own programs. What is not stated is the engine's default.",
        "Set finite ulimits, core to 0, and remove oom_kill_disable and a negative oom_score_adj.",
        "ulimits: {nofile: -1}\noom_kill_disable: true",
        "ulimits: {nofile: {soft: 4096, hard: 4096}, core: 0}",
    ),
    Check(
        "CMP-14", "Restart policy is not deliberate", "low", "SA", ("CIS Docker 5.15",),
        "on-failure and unless-stopped pass: which of them is a choice of policy. always starts again what an operator"
        " stopped. A service that is meant to run (it has a health check or publishes a port) has a policy.",
        "Set restart to unless-stopped or on-failure:5.",
        "restart: always",
        "restart: unless-stopped",
    ),
    Check(
        "CMP-15", "No health check", "medium", "SA", ("CIS Docker 5.27", "CIS Docker 4.6"),
        "A health check is stated and not switched off (disable, NONE, an empty test). One of the image counts where the"
        " image is known.",
        "Add a healthcheck that asks the service itself.",
        "healthcheck: {disable: true}",
        'healthcheck: {test: ["CMD", "/bin/ready"], interval: 5s}',
    ),
    Check(
        "CMP-16", "Health check does not test the service", "low", "S", (),
        "The check asks the service itself on a loopback literal, can fail (no '|| true', curl with --fail) and changes"
        " nothing. A check of another service or of the internet makes one failure into two.",
        "Ask 127.0.0.1 with a command that fails when the answer is an error.",
        'healthcheck: {test: "curl http://db:8080/ || true"}',
        'healthcheck: {test: ["CMD", "curl", "-fsS", "http://127.0.0.1:8080/health"]}',
    ),
    Check(
        "CMP-17", "Shares the host's network", "high", "SA",
        ("CIS Docker 5.10", "NIST SP 800-190 4.4.3", "compose-lint CL-0008"),
        "The container has a network namespace of its own.",
        "Remove network_mode: host, join a network and publish the one port that is needed.",
        "network_mode: host",
        "networks: [app]",
    ),
    Check(
        "CMP-18", "Shares another namespace of the host", "high", "SA",
        ("CIS Docker 5.16", "CIS Docker 5.17", "CIS Docker 5.21", "CIS Docker 5.25", "compose-lint CL-0010"),
        "Processes, shared memory, host name and control groups are the container's own.",
        "Remove pid, ipc, uts and cgroup, or set ipc and cgroup to private.",
        "pid: host",
        "ipc: private",
    ),
    Check(
        "CMP-19", "Opts out of user namespace remapping", "medium", "SA", ("CIS Docker 5.31",),
        "userns_mode is not host. Where the engine is known not to remap users the setting means nothing and is not"
        " reported.",
        "Remove userns_mode: host.",
        "userns_mode: host",
        "security_opt: ['no-new-privileges:true']",
    ),
    Check(
        "CMP-20", "Shares a namespace with another container", "medium", "SA", ("NIST SP 800-190 4.4.3",),
        "Network, process and shared-memory namespaces are not those of another container or service: whoever breaks into"
        " one is in both. ipc: shareable, which offers the namespace to others, is low.",
        "Give each container its own namespaces and let them talk over a network.",
        'network_mode: "service:vpn"',
        "networks: [app]",
    ),
    Check(
        "CMP-21", "Reaches a container engine's socket", "critical", "SA",
        ("CIS Docker 5.32", "OWASP Docker 1", "NIST SP 800-190 4.5.5", "compose-lint CL-0001"),
        "No mount holds the socket or state of an engine (Docker, containerd, Podman, CRI-O), nor a directory above it."
        " Read-only makes no difference: a socket can be written to. A declared socket proxy is exempt when it mounts the"
        " socket alone and publishes nothing.",
        "Remove the mount; where an API is needed put a declared socket proxy with an allow-list in front.",
        "volumes: [/var/run/docker.sock:/var/run/docker.sock:ro]",
        "environment: {DOCKER_HOST: tcp://socket-proxy:2375}",
    ),
    Check(
        "CMP-22", "Mounts a sensitive path of the host", "critical", "SA",
        ("CIS Docker 5.6", "NIST SP 800-190 4.5.5", "compose-lint CL-0013", "compose-lint CL-0025"),
        "No mount is one of the host's own directories or lies in one that holds its programs, kernel interfaces or"
        " credentials: critical when writable, high when read-only. Each mount is judged after its path is normalised and"
        " well-known links are followed, also bind mounts hidden in a volume's driver_opts. Project directories below"
        " /home, /etc, /var/lib and the like are not meant, but for this platform's own: of /var/lib/mcpstack/pki and"
        " /run/mcpstack/secrets a service mounts no directory but its own; another's, or all, is high.",
        "Mount the one file or directory of the project that is needed, read-only.",
        "volumes: [/etc:/host/etc:ro]",
        "volumes: [./app.conf:/etc/app.conf:ro]",
    ),
    Check(
        "CMP-23", "Mount propagates", "medium", "SA", ("CIS Docker 5.20", "compose-lint CL-0017"),
        "Mounts made in the container do not appear on the host, nor the other way round: propagation is private.",
        "Remove the propagation, or set rprivate.",
        "volumes: [./data:/data:rshared]",
        "volumes: [./data:/data:rprivate]",
    ),
    Check(
        "CMP-24", "Device of the host", "high", "SA",
        ("CIS Docker 5.18", "NIST SP 800-190 4.4.3", "compose-lint CL-0016"),
        "No device and no device rule is granted. GPU devices count as meant for the declared GPU services, or for every"
        " service when none is declared; asking for all GPUs instead of a number or ids is low.",
        "Remove the device, or reserve the GPUs that are needed by number or id.",
        "devices: [/dev/sda:/dev/sda]",
        "deploy: {resources: {reservations: {devices: [{driver: nvidia, count: 1, capabilities: [gpu]}]}}}",
    ),
    Check(
        "CMP-25", "System calls are not filtered", "high", "SA",
        ("CIS Docker 5.22", "OWASP Docker 6", "compose-lint CL-0009"),
        "The seccomp profile is the engine's default or one of the project's. Implied by privileged, and then reported as"
        " CMP-01 only.",
        "Remove seccomp:unconfined.",
        'security_opt: ["seccomp:unconfined"]',
        'security_opt: ["seccomp:./profile.json"]',
    ),
    Check(
        "CMP-26", "Mandatory access control is off", "high", "SA",
        ("CIS Docker 5.2", "CIS Docker 5.3", "OWASP Docker 6", "compose-lint CL-0009"),
        "Neither AppArmor nor SELinux labels nor the masking of kernel paths (systempaths) is switched off.",
        "Remove the option from security_opt.",
        'security_opt: ["apparmor=unconfined"]',
        'security_opt: ["apparmor=docker-default"]',
    ),
    Check(
        "CMP-27", "Mount is writable, shared or missing without need", "medium", "SH", ("CIS Docker 5.6",),
        "Configuration and secrets are mounted read-only, a volume is written by one service only, and what is bound from"
        " the host exists: the engine makes a missing source as an empty directory that belongs to root. Whether it exists"
        " is decided only where the files of the host are known.",
        "Mount read-only, give each service its own volume, and create the source before the first start.",
        "volumes: [./nginx.conf:/etc/nginx/nginx.conf]",
        "volumes: [./nginx.conf:/etc/nginx/nginx.conf:ro]",
    ),
    Check(
        "CMP-28", "Logs are lost or grow without bound", "medium", "SA", ("CIS Docker 2.13", "compose-lint CL-0014"),
        "The log driver is not none, and json-file has a max-size. A container without a driver of its own follows the"
        " engine's default: judged where that is known, and low where it is not. A driver that the engine does not bring"
        " needs a plugin, which is low.",
        "Set a log driver with rotation.",
        "logging: {driver: none}",
        'logging: {driver: json-file, options: {max-size: 10m, max-file: "3"}}',
    ),
    Check(
        "CMP-29", "Project does not load", "high", "S", (),
        "The files load for every profile as Compose merges them: what a service depends on, extends, mounts or joins is"
        " there, names do not collide and keys are known.",
        "Correct the file at the place named; docker compose config shows the merged project.",
        "depends_on: [database]",
        "depends_on: [db]",
    ),
    Check(
        "CMP-30", "Variable is unset, or has a weak default", "high", "S", ("compose-lint CL-0020",),
        "A variable that a file needs is set. A secret has no default in the file: it is required (:?) or read from a"
        " file. A name that is one letter away from a defined one is most likely misspelt.",
        "Write ${NAME:?message} for what must be set, and take secrets from files.",
        "environment: {DB_PASSWORD: '${DB_PASSWORD:-postgres}'}",
        "environment: {DB_PASSWORD_FILE: /run/secrets/db_password}",
    ),
    Check(
        "NET-01", "Port is published on every address", "high", "SA",
        ("CIS Docker 5.14", "NIST SP 800-190 4.4.2", "compose-lint CL-0005"),
        "A port without a host address, or with 0.0.0.0 or [::] in any spelling, is open on every address of the host, past"
        " the host's own firewall. Only declared ports of the edge may be. A port that NET-03 or NET-06 reports is not"
        " reported here again.",
        "Bind the port to 127.0.0.1, remove it, or declare it as a port of the edge.",
        'ports: ["8080:8080"]',
        'ports: ["127.0.0.1:8080:8080"]',
    ),
    Check(
        "NET-02", "Well-known port is published by a service that is not the edge", "low", "SA", ("CIS Docker 5.8",),
        "Ports of the host below 1024 are published by the edge only. 1024 itself is free to all.",
        "Publish the service behind the edge, or on a port from 1024 on.",
        'ports: ["127.0.0.1:443:8443"]',
        'ports: ["127.0.0.1:8443:8443"]',
    ),
    Check(
        "NET-03", "Service that is not the edge is published", "high", "SA",
        ("CIS Docker 5.9", "NIST SP 800-190 4.4.2"),
        "Beyond loopback only the declared edge publishes ports. Without a declared edge, databases, caches, queues and"
        " administration never do, by their image or by the port inside the container.",
        "Remove the port and let the edge reach the service over a network, or bind it to 127.0.0.1.",
        'image: postgres:17\nports: ["5432:5432"]',
        "image: postgres:17\nnetworks: [data]",
    ),
    Check(
        "NET-04", "Uses the default bridge", "medium", "SA", ("CIS Docker 5.30", "OWASP Docker 5"),
        "The container is on networks of its project, not on the engine's default bridge, where every container of the host"
        " reaches every other one.",
        "Remove network_mode: bridge and name a network.",
        "network_mode: bridge",
        "networks: [app]",
    ),
    Check(
        "NET-05", "Network is not separated as meant", "high", "SA",
        ("OWASP Docker 5", "NIST SP 800-190 4.3.3", "NIST SP 800-190 4.4.2"),
        "Each network that is declared internal is internal, and each declared network has only its declared members."
        " Without a declaration: a database, cache or queue that is on no internal network is medium.",
        "Set internal: true on the network of the data services and keep the edge off it.",
        "networks: {data: {}}",
        "networks: {data: {internal: true}}",
    ),
    Check(
        "NET-06", "Administration is open", "critical", "S", ("NIST SP 800-190 4.4.2",),
        "Prometheus, Alertmanager, Grafana, Qdrant, Ollama, dashboards and their like are not published beyond loopback"
        " without authentication, and do not run with flags that open them: --web.enable-admin-api,"
        " --web.enable-lifecycle, --api.insecure, anonymous administrators.",
        "Remove the port or bind it to 127.0.0.1, switch authentication on, and remove the flag.",
        'image: prom/prometheus:v3.5.0\nports: ["9090:9090"]',
        'image: prom/prometheus:v3.5.0\nports: ["127.0.0.1:9090:9090"]',
    ),
    Check(
        "NET-07", "IPv6 is published otherwise than IPv4", "medium", "SA", ("CIS Docker 5.14",),
        "A port that is published on IPv6 reaches a container that has IPv6. Otherwise the engine's proxy answers, every"
        " client has the gateway's address, and limits per client count them all as one.",
        "Set enable_ipv6: true on the network, or publish on IPv4 addresses only.",
        'ports: ["[2001:db8::10]:443:8443"]\nnetworks: {edge: {}}',
        'ports: ["[2001:db8::10]:443:8443"]\nnetworks: {edge: {enable_ipv6: true}}',
    ),
    Check(
        "NET-08", "Network reaches further than it should", "medium", "SA", ("NIST SP 800-190 4.4.2",),
        "Declared tool and agent services are on networks without a route out only, declared networks neither masquerade"
        " nor give the host an address, and no network has a fixed subnet that overlaps another or the link-local range of"
        " cloud metadata.",
        "Make the network internal, switch masquerading off by its driver option, or let the engine choose the subnet.",
        "networks: {edge: {driver_opts: {com.docker.network.bridge.enable_ip_masquerade: 'true'}}}",
        "networks: {edge: {driver_opts: {com.docker.network.bridge.enable_ip_masquerade: 'false'}}}",
    ),
)  # fmt: skip
TABLE = {check.id: check for check in CHECKS}
