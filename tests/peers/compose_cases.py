# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Small compose files, each weak in one way: for every rule of compose-lint in the spellings that Compose accepts."""

from __future__ import annotations

#: Below every case; what a case writes takes the place of the line here.
HARD = """\
x-hard: &hard
  image: registry.example/team/app:1.2.3@sha256:{digest}
  user: "64101:64101"
  read_only: true
  cap_drop: [ALL]
  security_opt: ["no-new-privileges:true"]
  mem_limit: 64m
  memswap_limit: 64m
  cpus: 0.5
  pids_limit: 32
  restart: unless-stopped
  healthcheck: {{test: ["CMD", "/bin/ready"]}}
  logging: {{driver: local}}
""".format(digest="a1" * 32)

#: Rule -> spelling -> lines of the service: "-KEY" leaves a line of the base out, "top:" stands at the top of the file.
CASES: dict[str, dict[str, str]] = {
    "hardened": {"nothing": "labels: {a: b}"},
    "CL-0001": {
        "short": "volumes: ['/var/run/docker.sock:/var/run/docker.sock']",
        "read only": "volumes: ['/var/run/docker.sock:/var/run/docker.sock:ro']",
        "run": "volumes: ['/run/docker.sock:/x']",
        "long": "volumes: [{type: bind, source: /run/docker.sock, target: /x, read_only: true}]",
        "dots": "volumes: ['/srv/../var/./run/docker.sock:/x']",
        "containerd": "volumes: ['/run/containerd/containerd.sock:/x']",
        "podman": "volumes: ['/run/podman/podman.sock:/x']",
        "rootless podman": "volumes: ['/run/user/1000/podman/podman.sock:/x']",
        "rootless docker": "volumes: ['/run/user/1000/docker.sock:/x']",
        "crio": "volumes: ['/var/run/crio/crio.sock:/x']",
        "systemd private": "volumes: ['/run/systemd/private:/x']",
        "directory of systemd": "volumes: ['/run/systemd:/x:ro']",
        "directory of containerd": "volumes: ['/run/containerd:/x:ro']",
        "run directory": "volumes: ['/run:/host/run:ro']",
        "var run directory": "volumes: ['/var/run/:/x']",
        "var": "volumes: ['/var:/x:ro']",
        "root": "volumes: ['/:/rootfs:ro']",
        "variable": "volumes: ['${SOCK:-/var/run/docker.sock}:/x']",
        "secret": "secrets: [s]\ntop:secrets: {s: {file: /var/run/docker.sock}}",
        "config": "configs: [c]\ntop:configs: {c: {file: /var/run/docker.sock}}",
        "volume": "volumes: ['vol:/x']\ntop:volumes: {vol: {driver_opts: {type: none, o: bind, device: /var/run/docker.sock}}}",
        "volume of one letter": "volumes: ['v:/x']\ntop:volumes: {v: {driver_opts: {type: none, o: bind, device: /run/docker.sock}}}",
        "somebody else's socket elsewhere": "volumes: ['/srv/docker.sock:/x:ro']",
        "only the target": "volumes: ['/tmp/fake:/var/run/docker.sock:ro']",
        "similar name": "volumes: ['/run/myapp:/x:ro']",
    },
    "CL-0002": {
        "true": "privileged: true",
        "yes": "privileged: yes",
        "text": "privileged: 'true'",
        "variable": "privileged: ${P:-true}",
        "false": "privileged: false",
    },
    "CL-0003": {
        "missing": "security_opt: []",
        "removed": "-security_opt",
        "false": "security_opt: ['no-new-privileges:false']",
        "equals false": "security_opt: ['no-new-privileges=false']",
        "last one": "security_opt: ['no-new-privileges:true', 'no-new-privileges:false']",
        "not a boolean": "security_opt: ['no-new-privileges:yes']",
        "spelt wrongly": "security_opt: ['no_new_privileges:true']",
        "other option": "security_opt: ['apparmor:docker-default']",
        "bare": "security_opt: [no-new-privileges]",
        "equals": "security_opt: ['no-new-privileges=true']",
        "variable": "security_opt: ['no-new-privileges:${NNP-false}']",
    },
    "CL-0004": {
        "no tag": "image: nginx",
        "latest": "image: nginx:latest",
        "stable": "image: nginx:stable",
        "edge": "image: nginx:edge",
        "nightly": "image: nginx:nightly",
        "main": "image: app:main",
        "master": "image: app:master",
        "dev": "image: app:dev",
        "registry with a port, no tag": "image: registry.example:5000/app",
        "variable": "image: nginx:${TAG:-latest}",
        "built here": "build: .\nimage: app",
    },
    "CL-0005": {
        "two": "ports: ['8080:80']",
        "number": "ports: [8080]",
        "bare": "ports: ['8080']",
        "bare udp": "ports: ['8080/udp']",
        "zeros": "ports: ['0.0.0.0:8080:80']",
        "six": "ports: ['[::]:8080:80']",
        "six without brackets": "ports: [':::8080:80']",
        "six in full": "ports: ['[0:0:0:0:0:0:0:0]:8080:80']",
        "mapped zeros": "ports: ['[::ffff:0.0.0.0]:8080:80']",
        "any free": "ports: ['0.0.0.0::80']",
        "empty address": "ports: [':8080:80']",
        "range": "ports: ['3000-3005:3000-3005']",
        "long": "ports: [{target: 80, published: 8080}]",
        "long without published": "ports: [{target: 80}]",
        "long zeros": "ports: [{target: 80, published: '8080', host_ip: 0.0.0.0}]",
        "long mode host": "ports: [{target: 80, published: 8080, mode: host}]",
        "variable": "ports: ['${PORT:-8080}:80']",
        "variable without value": "ports: ['${PORT:?set it}:80']",
        "two of three": "ports: ['127.0.0.1:1:1', '2:2', '3:3']",
        "loopback": "ports: ['127.0.0.1:8080:80']",
        "loopback six": "ports: ['[::1]:8080:80']",
        "LAN address": "ports: ['192.168.1.10:8080:80']",
        "loopback long": "ports: [{target: 80, published: 8080, host_ip: 127.0.0.1}]",
    },
    "CL-0006": {
        "missing": "cap_drop: []",
        "some": "cap_drop: [NET_RAW, MKNOD]",
        "lower": "cap_drop: [all]",
        "CAP_ALL": "cap_drop: [CAP_ALL]",
        "variable": "cap_drop: ['${DROP:-NET_RAW}']",
    },
    "CL-0007": {
        "false": "read_only: false",
        "missing": "-read_only",
        "no": "read_only: no",
        "variable": "read_only: ${RO:-false}",
    },
    "CL-0008": {"host": "network_mode: host", "variable": "network_mode: ${NET:-host}", "none": "network_mode: none"},
    "CL-0009": {
        "seccomp": "security_opt: ['no-new-privileges:true', 'seccomp:unconfined']",
        "seccomp equals": "security_opt: ['no-new-privileges:true', 'seccomp=unconfined']",
        "apparmor": "security_opt: ['no-new-privileges:true', 'apparmor:unconfined']",
        "apparmor equals": "security_opt: ['no-new-privileges:true', apparmor=unconfined]",
        "label": "security_opt: ['no-new-privileges:true', 'label:disable']",
        "label equals": "security_opt: ['no-new-privileges:true', label=disable]",
        "own profile": "security_opt: ['no-new-privileges:true', 'seccomp:./profile.json']",
        "variable": "security_opt: ['no-new-privileges:true', 'seccomp:${SECCOMP:-unconfined}']",
    },
    "CL-0010": {
        "pid": "pid: host",
        "ipc": "ipc: host",
        "uts": "uts: host",
        "cgroup": "cgroup: host",
        "userns": "userns_mode: host",
        "private": "ipc: private",
    },
    "CL-0011": {
        "NET_ADMIN": "cap_add: [NET_ADMIN]",
        "BPF": "cap_add: [BPF]",
        "SYS_BOOT": "cap_add: [SYS_BOOT]",
        "prefix": "cap_add: [CAP_NET_ADMIN]",
        "lower": "cap_add: [net_admin]",
        "harmless": "cap_add: [NET_BIND_SERVICE]\nuser: '0:0'",
    },
    "CL-0013": {
        **{
            path: f"volumes: ['{path}:/x:ro']"
            for path in (
                "/etc", "/etc/passwd", "/root", "/home", "/home/user", "/boot", "/sys", "/dev", "/dev/shm", "/proc", "/var/lib/docker",
                "/var/lib/containerd", "/var/log", "/var/lib", "/run/dbus/system_bus_socket", "/run/udev", "/usr", "/lib/modules",
                "/etc/localtime", "/etc/timezone", "/dev/null", "/var/lib/docker/volumes", "/run/user/1000", "/etc/ssl/certs",
                "/proc/cpuinfo", "/sys/fs/cgroup", "/var/run/utmp",
            )
        },
        "home": "volumes: ['~/.ssh:/x:ro']",
        "long": "volumes: [{type: bind, source: /etc/shadow, target: /x, read_only: true}]",
        "secret": "secrets: [s]\ntop:secrets: {s: {file: /etc/shadow}}",
        "volume": "volumes: ['vol:/x:ro']\ntop:volumes: {vol: {driver_opts: {type: none, o: 'bind,ro', device: /etc}}}",
        "own directory": "volumes: ['/srv/app:/x:ro']",
    },
    "CL-0014": {
        "none": "logging: {driver: none}",
        "text": "logging: {driver: 'none'}",
        "variable": "logging: {driver: '${LOG:-none}'}",
    },
    "CL-0016": {
        **{
            path: f"devices: ['{path}']"
            for path in (
                "/dev", "/dev/sda", "/dev/nvme0n1", "/dev/vda1", "/dev/xvda", "/dev/mmcblk0", "/dev/md0", "/dev/md/home", "/dev/disk/by-id/x",
                "/dev/loop0", "/dev/loop-control", "/dev/dm-0", "/dev/mapper/vg-root", "/dev/zfs", "/dev/rbd0", "/dev/nbd0",
                "/dev/mtdblock0", "/dev/hda", "/dev/kmsg", "/dev/sdb:/dev/xvdc:rwm",
            )
        },
        "long": "devices: [{source: /dev/block/8:0, target: /dev/x, permissions: r}]",
        "char": "devices: [{source: '/dev/char/1:11', target: /dev/x}]",
        "variable": "devices: ['${DISK:-/dev/sda}']",
        "rule": "device_cgroup_rules: ['b 8:* rwm']",
        "rule all": "device_cgroup_rules: ['a *:* rwm']",
        "rule of kmsg": "device_cgroup_rules: ['c 1:11 rw']",
        "harmless": "devices: ['/dev/null']",
    },
    "CL-0017": {
        "shared": "volumes: ['/srv/x:/x:ro,shared']",
        "rshared": "volumes: ['/srv/x:/x:ro,rshared']",
        "long": "volumes: [{type: bind, source: /srv/x, target: /x, read_only: true, bind: {propagation: rshared}}]",
        "slave": "volumes: ['/srv/x:/x:ro,rslave']",
        "private": "volumes: ['/srv/x:/x:ro,rprivate']",
    },
    "CL-0018": {
        **{
            text: f"user: '{text}'"
            for text in ("root", "0", "0:0", "root:root", "0:1000", "root:1000", "000", "+0", "-0:5", "ROOT")
        },
        "number": "user: 0",
        "variable": "user: ${UID:-0}",
        "group": "user: '1000:0'",
    },
    "CL-0019": {
        "tag": "image: nginx:1.27.3",
        "registry": "image: registry.example:5000/app:1.2.3",
        "variable": "image: nginx:${V:-1.27.3}",
        "revision of a registry": "image: ghcr.io/org/app:3f2a9c1d4b5e",
        "short digest": "image: nginx:1.27.3@sha256:abc",
    },
    "CL-0020": {
        "password": "environment: {DB_PASSWORD: mZ81-kQp2vX77wYt}",
        "list": "environment: ['DB_PASSWORD=mZ81-kQp2vX77wYt']",
        "lower": "environment: {db_password: mZ81-kQp2vX77wYt}",
        "token": "environment: {GITHUB_TOKEN: mZ81kQp2vX77wYt}",
        "api key": "environment: {OPENAI_API_KEY: mZ81kQp2vX77wYt}",
        "apikey": "environment: {APIKEY: mZ81kQp2vX77wYt}",
        "passphrase": "environment: {KEY_PASSPHRASE: mZ81kQp2vX77wYt}",
        "private key": "environment: {PRIVATE_KEY: mZ81kQp2vX77wYt}",
        "access key": "environment: {AWS_ACCESS_KEY_ID: AKIAIOSFODNN7EXAMPLE}",
        "secret access key": "environment: {AWS_SECRET_ACCESS_KEY: mZ81kQp2vX77wYt}",
        "encryption key": "environment: {ENCRYPTION_KEY: mZ81kQp2vX77wYt}",
        "credentials": "environment: {SMTP_CREDENTIALS: mZ81kQp2vX77wYt}",
        "pass": "environment: {DB_PASS: mZ81kQp2vX77wYt}",
        "pwd": "environment: {SA_PWD: mZ81kQp2vX77wYt}",
        "passwd": "environment: {MYSQL_PASSWD: mZ81kQp2vX77wYt}",
        "salt": "environment: {AUTH_SALT: mZ81kQp2vX77wYt}",
        "dsn of a driver": "environment: {DB_DSN: 'u:mZ81-kQp2vX77wYt@tcp(db:3306)/x'}",
        "dsn": "environment: {SENTRY_DSN: mZ81kQp2vX77wYt}",
        "secret": "environment: {JWT_SECRET: mZ81kQp2vX77wYt}",
        "number": "environment: {DB_PASSWORD: 12345678}",
        "dollars": "environment: {DB_PASSWORD: 'pa$$w0rd'}",
        "default": "environment: {DB_PASSWORD: '${DB_PASSWORD:-hunter2}'}",
        "nothing but the literal": "environment: {DB_PASSWORD: 'mZ81-kQp2vX77wYt${X:-}'}",
        "literal and variable": "environment: {DB_PASSWORD: 'mZ81-kQp2vX77wYt${X:?set it}'}",
        "half a variable": "environment: {DB_PASSWORD: 'hunter2${X:-}'}",
        "env file": "env_file: weak.env",
        "argument": "command: ['app', '--password', 'mZ81-kQp2vX77wYt']",
        "argument equals": "command: ['app', '--admin-password=mZ81-kQp2vX77wYt']",
        "requirepass": "command: valkey-server --requirepass mZ81-kQp2vX77wYt",
        "masterauth": "command: valkey-server --masterauth mZ81-kQp2vX77wYt",
        "shell": "command: ['sh', '-c', 'PGPASSWORD=mZ81-kQp2vX77wYt psql -h db']",
        "single dash": "command: ['bitcoind', '-rpcpassword=mZ81-kQp2vX77wYt']",
        "mysql in the health check": "healthcheck: {test: ['CMD', 'mysqladmin', 'ping', '-h', '127.0.0.1', '-pmZ81kQp2vX77wYt']}",
        "entrypoint": "entrypoint: ['/bin/app', '--api-token=mZ81-kQp2vX77wYt']",
        "health check": "healthcheck: {test: 'valkey-cli -h 127.0.0.1 --password mZ81-kQp2vX77wYt ping'}",
        "file": "environment: {DB_PASSWORD_FILE: /run/secrets/db}",
        "toggle": "environment: {ALLOW_EMPTY_PASSWORD: 'no'}",
        "lifetime": "environment: {ACCESS_TOKEN_EXPIRE_MINUTES: 30}",
        "tokens of a model": "environment: {MAX_TOKENS: 4096}",
        "argument from a file": "command: ['app', '--password-file', '/run/secrets/db']",
        "argument from the environment": "command: ['sh', '-c', 'app --password $$DB_PASSWORD']",
    },
    "CL-0021": {
        "postgres": "environment: {DATABASE_URL: 'postgres://u:mZ81kQp2vX77@db/x'}",
        "list": "environment: ['DATABASE_URL=postgres://u:mZ81kQp2vX77@db/x']",
        "no user": "environment: {CACHE: 'redis://:mZ81kQp2vX77@cache:6379/0'}",
        "marks": "environment: {CACHE: 'redis://u:mZ81!k%21Qp@cache:6379/0'}",
        "user from a variable": "environment: {A: 'postgres://${U:-u}:mZ81kQp2vX77@db/x'}",
        "default": "environment: {A: 'postgres://u:${P:-mZ81kQp2vX77}@db/x'}",
        "plus": "environment: {A: 'postgresql+asyncpg://u:mZ81kQp2vX77@db/x'}",
        "two hosts": "environment: {A: 'mongodb://a/,mongodb://u:mZ81kQp2vX77@b/'}",
        "dollars": "environment: {A: 'amqp://u:pa$$w0rd1x@mq/'}",
        "env file": "env_file: url.env",
        "no password": "environment: {A: 'postgres://u@db/x'}",
        "no credentials": "environment: {A: 'http://h:80/a@b'}",
    },
    "CL-0022": {
        "exec": "tmpfs: ['/tmp:exec,size=1m']",
        "suid": "tmpfs: ['/tmp:size=1m,suid']",
        "text": "tmpfs: /tmp:exec,size=1m",
        "dev": "tmpfs: ['/tmp:dev,size=1m']",
        "noexec": "tmpfs: ['/tmp:noexec,nosuid,nodev,size=1m']",
    },
    "CL-0024": {name: f"cap_add: [{name}]" for name in ("ALL", "SYS_ADMIN", "SYS_MODULE", "SYS_RAWIO", "cap_sys_admin", "'${C:-SYS_ADMIN}'")},
    "CL-0025": {
        **{
            path: f"volumes: ['{path}:/x']"
            for path in (
                "/etc", "/etc/cron.d", "/root", "/boot", "/var/lib/docker", "/var/lib/containerd", "/var/lib", "/proc", "/usr", "/usr/bin",
                "/usr/sbin", "/usr/local/bin", "/usr/local/sbin", "/bin", "/sbin", "/lib/modules", "/usr/lib/modules", "/lib",
                "/usr/lib", "/usr/local", "/lib64", "/opt", "/var/spool/cron", "/home",
            )
        },
        "long": "volumes: [{type: bind, source: /etc, target: /x}]",
        "volume": "volumes: ['vol:/x']\ntop:volumes: {vol: {driver_opts: {type: none, o: bind, device: /etc}}}",
    },
    "CL-0026": {
        "no memory": "-mem_limit\n-memswap_limit",
        "no cpus": "-cpus",
        "neither": "-mem_limit\n-memswap_limit\n-cpus",
        "zero memory": "mem_limit: 0\n-memswap_limit",
        "zero text": "mem_limit: 0m\n-memswap_limit",
        "fraction of a byte": "mem_limit: '0.5'\n-memswap_limit",
        "zero cpus": "cpus: 0",
        "shares": "-cpus\ncpu_shares: 512",
        "quota": "-cpus\ncpu_quota: 50000\ncpu_period: 100000",
        "cpuset": "-cpus\ncpuset: '0'",
        "reservation": "-mem_limit\n-memswap_limit\nmem_reservation: 64m",
        "deploy": "-mem_limit\n-memswap_limit\n-cpus\n-pids_limit\ndeploy: {resources: {limits: {memory: 64M, cpus: '0.5', pids: 9}}}",
        "deploy reservation": "-mem_limit\n-memswap_limit\n-cpus\npids_limit: 9\ndeploy: {resources: {reservations: {memory: 64M, cpus: '0.5'}}}",
        "variable": "mem_limit: ${MEM:-0}\n-memswap_limit",
    },
    "CL-0027": {name: f"cap_add: [{name}]" for name in ("SYS_PTRACE", "DAC_READ_SEARCH", "cap_perfmon", "SYS_TIME", "SYS_NICE", "IPC_LOCK", "LEASE", "SYSLOG", "AUDIT_CONTROL", "NET_RAW", "MKNOD", "DAC_OVERRIDE", "NET_BROADCAST", "SYS_RESOURCE", "SYS_PACCT", "SYS_TTY_CONFIG", "MAC_ADMIN", "LINUX_IMMUTABLE", "BLOCK_SUSPEND", "WAKE_ALARM", "CHECKPOINT_RESTORE", "AUDIT_READ", "IPC_OWNER")},
}  # fmt: skip

#: Files beside every case.
FILES = {"weak.env": "DB_PASSWORD=mZ81-kQp2vX77wYt\n", "url.env": "DATABASE=postgres://u:mZ81kQp2vX77@db/x\n"}


def text(lines: str) -> str:
    """The compose file of a case."""
    service, _, top = lines.partition("\ntop:")
    wanted = service.split("\n")
    gone = tuple(f"  {line[1:]}:" for line in wanted if line.startswith("-"))
    base = "".join(line for line in HARD.splitlines(keepends=True) if not line.startswith(gone or ("\0",)))
    body = "".join(f"    {line}\n" for line in wanted if not line.startswith("-"))
    return f"{base}services:\n  app:\n    <<: *hard\n{body}{top}\n"


def files() -> dict[str, str]:
    """Case -> compose file."""
    return {f"{rule} {name}": text(lines) for rule, kinds in CASES.items() for name, lines in kinds.items()}
