# SPDX-License-Identifier: GPL-2.0-or-later
"""Running commands, finding and ending processes by identity, never by name."""

import os
import signal
import subprocess
import time


class CommandError(Exception):
    """A command of the test itself failed."""


def run(*argv, input=None, timeout=120, check=True):
    """Runs argv; returns its standard output as text. Raises CommandError with all it said."""
    argv = [str(word) for word in argv]
    try:
        done = subprocess.run(argv, input=input, timeout=timeout, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, env=c_locale(), check=False,
                              stdin=subprocess.DEVNULL if input is None else None,
                              encoding="utf-8", errors="backslashreplace")
    except subprocess.TimeoutExpired as error:
        raise CommandError("%s: no end within %s s" % (" ".join(argv), timeout)) from error
    if check and done.returncode != 0:
        raise CommandError("%s: status %d\n%s%s" % (" ".join(argv), done.returncode, done.stdout,
                                                    done.stderr))
    return done.stdout


def c_locale():
    """The environment with messages in English, for tools whose output is parsed."""
    return dict(os.environ, LC_ALL="C")


def start_time(pid):
    """When the process began, in clock ticks; None if it is gone or a zombie."""
    try:
        with open("/proc/%d/stat" % pid, encoding="ascii", errors="replace") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else int(fields[19])
    except (OSError, ValueError, IndexError):
        return None


def alive(pid):
    """True while the process exists and is no zombie."""
    return start_time(pid) is not None


def mount_namespace(pid):
    """Identity of a process's mount namespace, or None."""
    try:
        return os.readlink("/proc/%d/ns/mnt" % pid)
    except OSError:
        return None


def in_namespace(namespace):
    """Processes whose mount namespace it is."""
    return [int(name) for name in os.listdir("/proc")
            if name.isdigit() and mount_namespace(int(name)) == namespace]


def descendants(pid):
    """All children of a process, and theirs."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open("/proc/%s/stat" % name, encoding="ascii", errors="replace") as stat:
                parent = int(stat.read().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        if parent == pid:
            found.append(int(name))
            found.extend(descendants(int(name)))
    return found


def kill(pid, number=signal.SIGKILL):
    """Sends a signal; a process that is gone is no error."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def wait_gone(pids, timeout):
    """Waits until none of the processes is alive; returns those that still are."""
    deadline = time.monotonic() + timeout
    while True:
        pids = [pid for pid in pids if alive(pid)]
        if not pids or time.monotonic() > deadline:
            return pids
        time.sleep(0.02)
