#!/bin/sh
# PID 1 of a test host until systemd takes over. Everything here is repeated safely on every start of the container,
# so "docker restart" behaves like the reboot of a machine.
set -eu

# The engine masks parts of /proc in containers and makes some of it read-only; a nested engine needs it as it is on a
# machine. Deepest mounts first.
awk '$2 ~ "^/proc/" || $2 ~ "^/sys/(firmware|devices)" {print $2}' /proc/mounts | sort -r | while read -r masked; do
  umount "$masked"
done
mount -o remount,rw /sys
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
  mount -o remount,rw /sys/fs/cgroup
fi
# systemd in a container leaves propagation alone; LoadCredentialEncrypted= silently yields nothing without this.
mount --make-rshared /

[ -s /etc/machine-id ] || systemd-machine-id-setup >/dev/null 2>&1
ssh-keygen -A >/dev/null
install -d -m 0700 /root/.ssh
printf '%s\n' "${TESTHOST_AUTHORIZED_KEY:?}" > /root/.ssh/authorized_keys
unset TESTHOST_AUTHORIZED_KEY

exec /lib/systemd/systemd "$@"
