#!/usr/bin/env bash
# Turns this process into the systemd of a throw-away system, as PID 1 of namespaces of its own.
#
# Its caller (box.py) has made the namespaces of processes, mounts, host names, IPC and network with unshare(1):
# this script is PID 1 in them. It moves itself to a control group of its own, makes a control group namespace
# there, and puts a root file system together: an overlay of this machine's own "/", whose changes lie in a tmpfs,
# with /proc, /sys, /dev, /run and /tmp of its own. Then it becomes systemd. All mounts are in the new mount
# namespace, so that they are gone with the last process in it.
#
#   boot.sh CGROUP CONSOLE PATH...
#
# CGROUP: an empty control group (cgroup v2); CONSOLE: a pseudo terminal that systemd gets as /dev/console;
# PATH...: folders of this machine that are shown at their own path, read-only.
set -euo pipefail
systemd=/usr/lib/systemd/systemd
cgroup=$1 console=$2

if [ "${IN_CONTROL_GROUP:-}" != yes ]; then
    echo 0 >"$cgroup/cgroup.procs" # 0 is whoever writes
    # the control group that a process is in when it makes the namespace is the root of the namespace
    IN_CONTROL_GROUP=yes exec unshare --cgroup "$BASH" "$0" "$@"
fi
unset IN_CONTROL_GROUP
shift 2

# The overlay. /mnt is only a place where a tmpfs can be put: nobody outside of this mount namespace sees it.
mount --make-rprivate /
mount -t tmpfs -o mode=755 box /mnt
mkdir /mnt/{changes,work,root}
root=/mnt/root
mount -t overlay -o lowerdir=/,upperdir=/mnt/changes,workdir=/mnt/work box "$root"
mkdir -p "$root"/{proc,sys,run,tmp,dev,etc}

# /proc and /sys. The settings of the kernel are this machine's, so they are read-only; those of the network are
# of the own network namespace.
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
settings=("$root/proc/sys")
if [ -e "$root/proc/sysrq-trigger" ]; then settings+=("$root/proc/sysrq-trigger"); fi
for path in "${settings[@]}"; do mount --bind "$path" "$path"; done
mount --bind "$root/proc/sys/net" "$root/proc/sys/net"
for path in "${settings[@]}"; do mount -o remount,bind,ro "$path"; done
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$root/sys"
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$root/sys/fs/cgroup"

mount -t tmpfs -o mode=755,nosuid,nodev run "$root/run"
mount -t tmpfs -o mode=1777,nosuid,nodev tmp "$root/tmp"

# /dev
mount -t tmpfs -o mode=755,nosuid dev "$root/dev"
for node in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0; do
    IFS=: read -r name major minor <<<"$node"
    mknod -m 666 "$root/dev/$name" c "$major" "$minor"
done
mkdir "$root"/dev/{pts,shm}
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777,nosuid,nodev shm "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
for number_and_name in 0stdin 1stdout 2stderr; do
    ln -s "/proc/self/fd/${number_and_name:0:1}" "$root/dev/${number_and_name:1}"
done
touch "$root/dev/console"
mount --bind "$console" "$root/dev/console"

# What the machine's own installation would start is not started, and what makes no sense here is masked: it is
# for hardware, for logins, for the kernel, or would empty /tmp, where the shown folders may be.
units=$root/etc/systemd/system
rm -rf "$units"
mkdir -p "$units" "$root"/etc/{systemd/system-generators,systemd/journald.conf.d,tmpfiles.d}
masked="
    console-getty.service dbus-org.freedesktop.login1.service dev-hugepages.mount getty.target
    proc-sys-fs-binfmt_misc.automount proc-sys-fs-binfmt_misc.mount sys-fs-fuse-connections.mount
    sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount systemd-firstboot.service
    systemd-hwdb-update.service systemd-journald-audit.socket systemd-logind.service systemd-modules-load.service
    systemd-networkd.service systemd-pstore.service systemd-remount-fs.service systemd-resolved.service
    systemd-sysctl.service systemd-timesyncd.service systemd-tmpfiles-clean.timer systemd-udev-trigger.service
    systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-udevd.service"
for unit in $masked; do ln -s /dev/null "$units/$unit"; done
ln -s /usr/lib/systemd/system/multi-user.target "$units/default.target"
ln -sf /dev/null "$root/etc/systemd/system-generators/systemd-sysv-generator"
ln -sf /dev/null "$root/etc/tmpfiles.d/tmp.conf"
: >"$root/etc/fstab"
tr -d - </proc/sys/kernel/random/uuid >"$root/etc/machine-id"
rm -rf "$root/var/log/journal"
printf '%s\n' '[Journal]' Storage=volatile RateLimitIntervalSec=0 ForwardToSyslog=no ReadKMsg=no Audit=no \
    >"$root/etc/systemd/journald.conf.d/box.conf"

for path in "$@"; do
    mkdir -p "$root$path"
    mount --bind "$path" "$root$path"
    mount -o remount,bind,ro "$root$path"
done

# The machine's own tree is out of reach from here on. Shared propagation is what a real machine has: systemd's
# LoadCredential= depends on it.
hostname box
cd "$root"
mkdir run/before
pivot_root . run/before
umount --lazy /run/before
rmdir /run/before
mount --make-rshared /

# Without what would reach past the namespaces: modules, raw I/O, the clock, the log of the kernel, sleep, ...
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 container=box \
    setpriv --bounding-set=-sys_module,-sys_rawio,-sys_pacct,-sys_time,-audit_write,-audit_control,-mac_override,-mac_admin,-syslog,-wake_alarm,-block_suspend \
    "$systemd" </dev/null
