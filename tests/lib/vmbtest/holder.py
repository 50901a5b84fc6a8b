# SPDX-License-Identifier: GPL-2.0-or-later
"""The process that holds a private libvirt's mounts, starts its daemon and reaps its orphans.

libvirt waits until a QEMU that it killed is gone, and QEMU is an orphan by design; a machine's
process 1 may take seconds to reap it. So the orphans of this tree come here.
"""

import ctypes
import json
import os
import select
import signal
import subprocess
import sys

_PR_SET_CHILD_SUBREAPER = 36

# Puts private directories where libvirt and QEMU look. Without control groups and D-Bus nothing of
# the guests shows in the machine's systemd. Arguments: base, host name or "", "kvm" or "".
_MOUNTS = r"""
set -e
base=$1
if [ -n "$2" ]; then hostname "$2"; fi
mount --bind "$base/log" /var/log
mount --bind "$base/lib" /var/lib/libvirt
mount --bind "$base/cache" /var/cache/libvirt
mount --bind "$base/etc" /etc/libvirt
if [ -d /var/lib/swtpm-localca ]; then mount --bind "$base/localca" /var/lib/swtpm-localca; fi
# libvirt would ask QEMU about KVM at length where the device is there but hardly works.
if [ -z "$3" ] && [ -e /dev/kvm ]; then
    touch "$base/no-kvm"
    chmod 0 "$base/no-kvm"
    mount --bind "$base/no-kvm" /dev/kvm
fi
if mountpoint -q /sys/fs/cgroup; then umount -R -l /sys/fs/cgroup; fi
mount --bind "$base/run" /run
"""


def _spawn(argv, environment, errors):
    """Starts a daemon with standard output and error appended to a file; returns its pid."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        log = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.execvpe(argv[0], argv, environment)
    finally:
        os._exit(127)


def _reap():
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def main(arguments):
    """Mounts, says ready, then obeys one JSON line per daemon until standard input ends."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        return 1
    subprocess.run(["sh", "-c", _MOUNTS, "mounts"] + arguments, check=True)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    print("ready", flush=True)
    buffer = b""
    while True:
        ready = select.select([0, woken], [], [])[0]
        if woken in ready:
            os.read(woken, 4096)
            _reap()
        if 0 not in ready:
            continue
        data = os.read(0, 65536)
        if not data:
            return 0
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            print(_spawn(**json.loads(line)), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
