# SPDX-License-Identifier: GPL-2.0-or-later
"""Takes a private libvirt apart: processes, mounts, files. Also runs as a watchdog of the test."""

import os
import shutil
import signal
import subprocess
import sys
import time

from . import process


def _read(path):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return ""


def pid_files(base):
    """Pids that daemons of this base wrote down: libvirtd, QEMU, swtpm."""
    pids = []
    for directory, _, names in os.walk(os.path.join(base, "run")):
        for name in names:
            text = _read(os.path.join(directory, name)) if name.endswith(".pid") else ""
            if text.isdigit():
                pids.append(int(text))
    return pids


def private_namespace(base):
    """The base's mount namespace, or ""; never the one that the machine lives in."""
    namespace = _read(os.path.join(base, "namespace"))
    shared = (process.mount_namespace(os.getpid()), process.mount_namespace(1))
    return "" if namespace in shared else namespace


def _belongs(pid, base):
    """A pid file may be stale: the process must also name this base or live in its namespace."""
    namespace = private_namespace(base)
    if namespace and process.mount_namespace(pid) == namespace:
        return True
    try:
        with open("/proc/%d/cmdline" % pid, "rb") as file:
            return base.encode() in file.read()
    except OSError:
        return False


def processes(base):
    """Everything that runs in this base, except the caller."""
    namespace = private_namespace(base)
    own = process.in_namespace(namespace) if namespace else []
    own += [pid for pid in pid_files(base) if _belongs(pid, base)]
    return sorted(set(own) - {os.getpid()})


def kill_all(base):
    """Ends all processes; some take children with them, new ones may just be starting."""
    for _ in range(50):
        pids = processes(base)
        if not pids:
            return
        for pid in pids:
            process.kill(pid, signal.SIGKILL)
        process.wait_gone(pids, 5)
    raise process.CommandError("processes of %s do not end: %s" % (base, processes(base)))


def mounts_below(base):
    """Mount points at and below base, newest first."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            point = line.split()[4].encode().decode("unicode_escape")
            if point == base or point.startswith(base + "/"):
                found.append(point)
    return found[::-1]


def destroy(base):
    """Removes a base directory with all that runs in it and is mounted on it."""
    if not os.path.isdir(base):
        return
    kill_all(base)
    for point in mounts_below(base):
        subprocess.run(["umount", "-l", point], stderr=subprocess.DEVNULL, check=False)
    if mounts_below(base):
        raise process.CommandError("still mounted: %s" % mounts_below(base))
    for _ in range(20):
        shutil.rmtree(base, ignore_errors=True)
        if not os.path.exists(base):
            return
        time.sleep(0.1)
    raise process.CommandError("cannot remove %s" % base)


def watch(base):
    """Waits for the end of standard input, that is of the test, then destroys the base."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    while os.read(0, 4096):
        pass
    destroy(base)


if __name__ == "__main__":
    watch(sys.argv[1])
