# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The checks of the Docker engine (DMN) and of the host it runs on (HST).

PRIVATE: internal to the collection, may change in any release. Standard library only.

The documentation is generated from these rows.
"""

from __future__ import annotations

from ansible_collections.mcpstack.platform.plugins.module_utils._audit import Check

CHECKS = (
    Check(
        "DMN-01", "Engine API is reachable over TCP without client certificates", "critical", "H",
        ("CIS Docker 2.7", "OWASP Docker 1", "NIST SP 800-190 4.5.4"),
        "Whoever reaches the API is root on the host. Every tcp:// address of the engine, from daemon.json, the unit with"
        " its drop-ins or the running command line, and every socket on which dockerd really listens, demands a client"
        " certificate (tlsverify with a CA). Without one the finding is critical beyond loopback and high on loopback,"
        " which every process of the host and many a forged request reach. A port is judged by its listener, not by its"
        " number.",
        "Remove tcp:// from hosts and -H and use the unix socket over SSH; or set tlsverify with tlscacert, tlscert and"
        " tlskey.",
        '{"hosts": ["fd://", "tcp://0.0.0.0:2375"]}',
        '{"hosts": ["fd://"]}',
    ),
    Check(
        "DMN-02", "Containers on the default bridge reach each other", "medium", "AH",
        ("CIS Docker 2.2", "OWASP Docker 5"),
        "The default bridge network of the running engine has enable_icc false. The network's own option decides, not"
        " the text of daemon.json: the bridge keeps its old setting until the engine starts without running containers."
        " An engine without a default bridge (bridge none) passes.",
        "Set icc to false and start the engine once with no container running.",
        '{"icc": true}',
        '{"icc": false}',
    ),
    Check(
        "DMN-03", "Engine logs at the wrong level", "low", "H", ("CIS Docker 2.3", "OWASP Docker 10"),
        "The effective log level is info (the default) or warn. debug and trace, also by debug: true or -D, write"
        " request bodies and environment into the journal; error and fatal lose what an investigation needs. A flag"
        " beats the file.",
        "Set log-level to info, and remove debug.",
        '{"log-level": "debug"}',
        '{"log-level": "info"}',
    ),
    Check(
        "DMN-04", "Engine does not manage the packet filter", "high", "AH", ("CIS Docker 2.4",),
        "iptables and ip6tables are not switched off for the daemon that owns the socket. Without its rules networks"
        " are not separated from each other, and icc and internal networks have no effect.",
        "Remove iptables and ip6tables from daemon.json and from the command line, or set them to true.",
        '{"iptables": false}',
        '{"iptables": true}',
    ),
    Check(
        "DMN-05", "Insecure registry is allowed", "high", "AH", ("CIS Docker 2.5", "NIST SP 800-190 4.2.1"),
        "No registry beyond loopback (127.0.0.0/8 and ::1, which the engine adds itself) may be spoken to without a"
        " verified certificate. A registry mirror with http:// counts as well.",
        "Give the registry a certificate, put its CA under /etc/docker/certs.d/HOST/ca.crt and remove it from"
        " insecure-registries.",
        '{"insecure-registries": ["10.0.0.0/8"]}',
        '{"insecure-registries": []}',
    ),
    Check(
        "DMN-06", "Storage driver is unsupported or limits nothing", "low", "AH", ("CIS Docker 2.6", "CIS Docker 2.11"),
        "The storage driver is one that is still maintained: not aufs, devicemapper, overlay or vfs. Without the option"
        " dm.basesize, which only fits devicemapper.",
        "Move to overlay2, or to the snapshotter overlayfs, and remove dm.basesize from storage-opts.",
        '{"storage-driver": "devicemapper", "storage-opts": ["dm.basesize=50G"]}',
        '{"storage-driver": "overlay2"}',
    ),
    Check(
        "DMN-07", "Containers have no default ulimits", "low", "H", ("CIS Docker 2.8",),
        "default-ulimits states at least a finite limit of open files (nofile), so that a container that states none is"
        " bounded. -1 is no limit.",
        "Set default-ulimits with nofile.",
        '{"default-ulimits": {}}',
        '{"default-ulimits": {"nofile": {"Name": "nofile", "Soft": 65536, "Hard": 65536}}}',
    ),
    Check(
        "DMN-08", "Root in a container is root on the host", "medium", "AH",
        ("CIS Docker 2.1", "CIS Docker 2.9", "OWASP Docker 11"),
        "The engine maps the users of containers (userns-remap) or runs rootless. Where every running container is known"
        " to run as a user other than root, what is missing is only worth knowing (info).",
        "Set userns-remap to default before the first container is created, or run the engine rootless.",
        '{"userns-remap": ""}',
        '{"userns-remap": "default"}',
    ),
    Check(
        "DMN-09", "Containers start outside the default cgroup", "low", "H", ("CIS Docker 2.10",),
        "cgroup-parent is not set, or names what the engine uses anyway (/docker, system.slice). Another parent may lack"
        " the limits of the host's own.",
        "Remove cgroup-parent, or waive this where the slice carries limits of its own.",
        '{"cgroup-parent": "/unlimited"}',
        "{}",
    ),
    Check(
        "DMN-10", "No authorization plugin", "low", "AH", ("CIS Docker 2.12",),
        "Advice (info): without a plugin everybody who reaches the socket may do everything. On a host with one"
        " administrator that is as intended; with several members of the docker group a plugin tells them apart.",
        "Where several people share the engine, install an authorization plugin and name it in authorization-plugins.",
        "{}",
        '{"authorization-plugins": ["opa-docker-authz-v2:0.8"]}',
    ),
    Check(
        "DMN-11", "Container logs are lost or grow without bound", "medium", "AH", ("CIS Docker 2.13",),
        "The default log driver is not none, and its logs are bounded or leave the host: json-file with max-size, local"
        " (bounded by itself), journald, or a remote driver. json-file without max-size fills the disk.",
        "Set log-driver to json-file with log-opts max-size and max-file, or to local, journald or a remote one.",
        '{"log-driver": "json-file"}',
        '{"log-driver": "json-file", "log-opts": {"max-size": "10m", "max-file": "3"}}',
    ),
    Check(
        "DMN-12", "Containers may gain privileges by default", "medium", "AH", ("CIS Docker 2.14", "OWASP Docker 4"),
        "no-new-privileges is true for the daemon, so that a container that says nothing cannot gain privileges through"
        " a setuid file. The running engine's answer counts before the file.",
        "Set no-new-privileges to true.",
        '{"no-new-privileges": false}',
        '{"no-new-privileges": true}',
    ),
    Check(
        "DMN-13", "Containers stop with the engine", "medium", "A", ("CIS Docker 2.15",),
        "live-restore is on in the running engine, so that a security update of the engine does not have to wait for a"
        " maintenance window. A member of a Swarm cannot have it: not applicable there.",
        "Set live-restore to true and reload the engine.",
        '{"live-restore": false}',
        '{"live-restore": true}',
    ),
    Check(
        "DMN-14", "Userland proxy is on", "low", "H", ("CIS Docker 2.16",),
        "userland-proxy is false: published ports are forwarded by the kernel, which keeps the client's address, and no"
        " process per port runs as root. It is on by default.",
        "Set userland-proxy to false.",
        '{"userland-proxy": true}',
        '{"userland-proxy": false}',
    ),
    Check(
        "DMN-15", "Default confinement of containers is off", "high", "AH",
        ("CIS Docker 2.17", "CIS Docker 5.2", "CIS Docker 5.3", "OWASP Docker 6"),
        "The engine applies a seccomp profile by default, its own or another, never unconfined; and AppArmor or SELinux"
        " where the running kernel has it switched on. A kernel without either is not applicable to that part, not a"
        " failure.",
        "Remove seccomp-profile: unconfined; install apparmor, or set selinux-enabled on a host with SELinux, and restart"
        " the engine.",
        '{"seccomp-profile": "unconfined"}',
        '{"seccomp-profile": "builtin"}',
    ),
    Check(
        "DMN-16", "Engine, containerd or runc lacks security fixes", "high", "AH",
        ("CIS Docker 1.2.2", "OWASP Docker 0", "NIST SP 800-190 4.4.1"),
        "No component is below the first release that closes a known way out of a container. The table of floors carries"
        " its date. A distribution closes holes without a new upstream version: there the version of the installed"
        " package decides, by the rules of Debian version numbers, and where neither tells the answer is unknown.",
        "Update docker.io, containerd and runc (or docker-ce and containerd.io), then restart the engine.",
        "runc 1.1.11",
        "runc 1.3.3",
    ),
    Check(
        "DMN-17", "Engine configuration is invalid, contradictory or has features nobody asked for", "medium", "AH",
        ("CIS Docker 2.18", "CIS Docker 5.1", "CIS Docker 7.1"),
        "daemon.json is an object of settings that the engine can read, with the types it reads (a boolean is not a"
        " string); no setting is given by a flag as well, which keeps the engine from starting; experimental is off;"
        " and the host is in no Swarm unless that is declared.",
        "Correct daemon.json (dockerd --validate), keep each setting in one place, set experimental to false, leave a"
        " Swarm that nobody declared.",
        '{"live-restore": "yes", "experimental": true}',
        '{"live-restore": true, "experimental": false}',
    ),
    Check(
        "HST-01", "Engine's data shares a file system with the host", "low", "H", ("CIS Docker 1.1.1",),
        "The engine's data directory lies on a file system of its own, so that images and logs cannot fill the one the"
        " host needs. Links are followed, and the directory that the engine really uses is judged.",
        "Mount a file system at /var/lib/docker.",
        "/dev/sda1 on / type ext4",
        "/dev/sda1 on / type ext4\n/dev/sdb1 on /var/lib/docker type ext4",
    ),
    Check(
        "HST-02", "Member of the docker group who is not allowed", "high", "H", ("CIS Docker 1.1.2", "NIST SP 800-190 4.5.4"),
        "Membership of the docker group is root. Its members, also those who have it as their primary group, are exactly"
        " those on the allow-list, which is empty by default. root needs no entry.",
        "Remove the user (gpasswd -d USER docker), or add it to the allow-list.",
        "docker:x:103:alice",
        "docker:x:103:",
    ),
    Check(
        "HST-03", "Engine's programs are not watched by the audit system", "medium", "H",
        ("CIS Docker 1.1.3", "CIS Docker 1.1.14", "CIS Docker 1.1.15", "CIS Docker 1.1.16", "CIS Docker 1.1.17",
         "CIS Docker 1.1.18"),
        "The audit rules watch dockerd, containerd, its shims and runc where they are installed, each by its exact path"
        " or by a directory above it. The rules in files are judged, and those loaded where they were handed over; a"
        " host without the audit system has none.",
        "Install auditd, add the rules to /etc/audit/rules.d/docker.rules and load them with augenrules --load.",
        "-w /usr/bin/docker -p rwxa -k docker",
        "-w /usr/bin/dockerd -p rwxa -k docker",
    ),
    Check(
        "HST-04", "Engine's state and configuration are not watched by the audit system", "medium", "H",
        ("CIS Docker 1.1.4", "CIS Docker 1.1.5", "CIS Docker 1.1.6", "CIS Docker 1.1.7", "CIS Docker 1.1.8",
         "CIS Docker 1.1.9", "CIS Docker 1.1.10", "CIS Docker 1.1.11", "CIS Docker 1.1.12", "CIS Docker 1.1.13"),
        "The audit rules watch, for writing and attribute changes at least, the engine's data directory, /etc/docker,"
        " daemon.json, the units, the sockets, /etc/default/docker and containerd's configuration where they exist, each"
        " by its exact path or by a directory above it.",
        "Add a rule for each path to /etc/audit/rules.d/docker.rules and load them with augenrules --load.",
        "-w /etc/docker/certs.d -p wa -k docker",
        "-w /etc/docker -p wa -k docker",
    ),
    Check(
        "HST-05", "Engine's unit can be changed by others than root", "high", "H",
        ("CIS Docker 3.1", "CIS Docker 3.2", "CIS Docker 3.3", "CIS Docker 3.4"),
        "docker.service, docker.socket and containerd.service with all of their drop-ins belong to root:root and have no"
        " bit beyond 644, in whichever directory systemd reads them; the directories of drop-ins have none beyond 755.",
        "chown root:root and chmod 644 the file, chmod 755 the directory.",
        "-rw-rw-r-- root root /etc/systemd/system/docker.service.d/override.conf",
        "-rw-r--r-- root root /etc/systemd/system/docker.service.d/override.conf",
    ),
    Check(
        "HST-06", "Engine's configuration can be changed by others than root", "medium", "H",
        ("CIS Docker 3.5", "CIS Docker 3.6", "CIS Docker 3.17", "CIS Docker 3.18", "CIS Docker 3.19", "CIS Docker 3.20",
         "CIS Docker 3.21", "CIS Docker 3.22"),
        "/etc/docker and the directories in it belong to root:root and have no bit beyond 755; daemon.json,"
        " /etc/default/docker, /etc/containerd/config.toml and the other files there have none beyond 644.",
        "chown root:root and chmod 644 the file, chmod 755 the directory.",
        "-rw-rw---- root docker /etc/docker/daemon.json",
        "-rw-r--r-- root root /etc/docker/daemon.json",
    ),
    Check(
        "HST-07", "Engine's socket is open to others than root and its group", "critical", "H",
        ("CIS Docker 3.15", "CIS Docker 3.16"),
        "The socket belongs to root and the docker group (or root) and has no bit of 0117: nothing for others, nothing"
        " executable. The bits are compared, so that 606 fails although the number is smaller than 660.",
        "Set SocketMode=0660, SocketUser=root and SocketGroup=docker in docker.socket and restart it.",
        "srw-rw-rw- root docker /run/docker.sock",
        "srw-rw---- root docker /run/docker.sock",
    ),
    Check(
        "HST-08", "containerd's socket is open to others than root", "high", "H", ("CIS Docker 3.23", "CIS Docker 3.24"),
        "containerd's sockets, the host's at /run/containerd and the engine's own at /run/docker/containerd, belong to"
        " root:root and have no bit beyond 660.",
        "Remove uid, gid and mode changes from [grpc] in /etc/containerd/config.toml and restart containerd.",
        "srw-rw---- root docker /run/containerd/containerd.sock",
        "srw-rw---- root root /run/containerd/containerd.sock",
    ),
    Check(
        "HST-09", "Certificate or key of the engine is open", "high", "H",
        ("CIS Docker 3.7", "CIS Docker 3.8", "CIS Docker 3.9", "CIS Docker 3.10", "CIS Docker 3.11", "CIS Docker 3.12",
         "CIS Docker 3.13", "CIS Docker 3.14"),
        "Certificates under /etc/docker/certs.d and those that tlscacert and tlscert name belong to root and have no bit"
        " beyond 444; private keys have none beyond 400, or 440 for a group other than root. A root-owned 644"
        " certificate is only writable by root, who may write anyway: low.",
        "chown root:root, chmod 444 the certificate and 400 the key.",
        "-rw-r--r-- root root /etc/docker/certs.d/registry.example/client.key",
        "-r-------- root root /etc/docker/certs.d/registry.example/client.key",
    ),
    Check(
        "HST-10", "Security updates or a reboot are pending", "medium", "H",
        ("CIS Docker 1.2.1", "OWASP Docker 0", "NIST SP 800-190 4.5.3"),
        "No installed package has a newer version in the security suites of the host's own package index, and no reboot"
        " is asked for. The index is read as it lies there and its age is shown; an index older than seven days, or none,"
        " makes the answer unknown.",
        "Run apt-get update and apt-get upgrade, reboot where /run/reboot-required asks for it, install"
        " unattended-upgrades.",
        "openssl 3.5.1-1 < 3.5.1-1+deb13u1",
        "0 upgraded, 0 newly installed",
    ),
    Check(
        "HST-11", "Kernel setting is weaker than recommended", "medium", "H", ("NIST SP 800-190 4.5.1", "lynis KRNL-6000"),
        "The running values under /proc/sys are at least as strict as the table: kptr_restrict, dmesg_restrict,"
        " yama.ptrace_scope, unprivileged_bpf_disabled, randomize_va_space, suid_dumpable, the protected_ settings,"
        " rp_filter, redirects, source routes and syncookies. A key the kernel does not have is passed over.",
        "Write the setting to /etc/sysctl.d/60-hardening.conf and run sysctl --system.",
        "kernel.dmesg_restrict = 0",
        "kernel.dmesg_restrict = 1",
    ),
    Check(
        "HST-12", "Published port that is not declared, or passes the firewall unfiltered", "high", "AH",
        ("NIST SP 800-190 4.4.2", "OWASP Docker 5a"),
        "What containers publish beyond loopback, and what containers on the host's network listen on, is declared. Without"
        " a declared set DOCKER-USER needs a rule that refuses more than single senders. A rule of UFW or in INPUT does not count: the"
        " engine forwards before it is asked.",
        "Bind the port to 127.0.0.1, declare it, or drop in DOCKER-USER what is not meant to come in.",
        "ports: ['0.0.0.0:5432:5432']",
        "ports: ['127.0.0.1:5432:5432']",
    ),
    Check(
        "HST-13", "Files of the stack can be changed or read by others", "high", "H", ("CIS NGINX 2.3",),
        "Nothing in the trees of the stack is writable for its group or for others, configuration belongs to root,"
        " directories of secrets have no bit beyond 0711 at the top and 0700 below, files in them none beyond 0600; and"
        " every program that a unit of the stack starts belongs to root and is executable.",
        "chown root and chmod go-w what is named; chmod 0700 directories and 0400 files of secrets.",
        "drwxrwxr-x root docker /etc/mcpstack/compose",
        "drwxr-x--- root root /etc/mcpstack/compose",
    ),
)  # fmt: skip
TABLE = {check.id: check for check in CHECKS}
