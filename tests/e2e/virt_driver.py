# SPDX-License-Identifier: GPL-2.0-or-later
"""The test program virt-driver, and what the tests of the libvirt layer share."""

import json
import os
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from vmbtest import image, process, tap  # noqa: E402
from vmbtest.guest import Guest  # noqa: E402
from vmbtest.libvirtd import PrivateLibvirt  # noqa: E402

# Values of VmbErrorCode.
FAILED, USAGE, LOCKED, LIBVIRT, DOMAIN, QUIESCE, NO_INCREMENTAL = 0, 1, 4, 5, 6, 7, 8


class DriverDied(Exception):
    """The driver ended instead of answering."""


class Driver:
    """virt-driver on one domain. Its guard writes what it does to guard_log."""

    def __init__(self, cleanup, host, domain="web01", fail_at=None, **env):
        path = os.environ.get("VMBACKUP_VIRT_DRIVER")
        tap.require(path and os.access(path, os.X_OK), "VMBACKUP_VIRT_DRIVER names no program")
        self.guard_log = host.path("tmp", "guard.log")
        merged = dict(os.environ, VMBACKUP_TEST_GUARD_LOG=self.guard_log, **env)
        merged.pop("VMBACKUP_TEST_FAIL_AT", None)
        if fail_at:
            merged["VMBACKUP_TEST_FAIL_AT"] = fail_at
        self.log = host.path("tmp", "driver.log")
        with open(self.log, "ab") as err:
            self._child = subprocess.Popen(
                [os.path.abspath(path), host.uri, domain], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=err, env=merged, encoding="utf-8",
                start_new_session=True)
        cleanup.defer(self.close)

    @property
    def pid(self):
        """Its process number."""
        return self._child.pid

    def guard_pid(self):
        """Process number of the guard."""
        children = process.descendants(self.pid)
        if len(children) != 1:
            raise tap.Failure("children of the driver: %s" % children)
        return children[0]

    def send(self, *words):
        """Gives a command without waiting for its answer."""
        self._child.stdin.write(" ".join(str(w) for w in words) + "\n")
        self._child.stdin.flush()

    def answer(self):
        """The answer to the oldest command that has none yet."""
        line = self._child.stdout.readline()
        if not line:
            raise DriverDied("status %s" % self._child.wait(30))
        return json.loads(line)

    def ask(self, *words):
        """A command and its answer, good or bad."""
        self.send(*words)
        return self.answer()

    def do(self, *words):
        """A command that must succeed."""
        answer = self.ask(*words)
        if not answer["ok"]:
            raise tap.Failure("%s: %s" % (words[0], answer))
        return answer

    def fails(self, code, *words):
        """A command that must fail with this code; returns the answer."""
        answer = self.ask(*words)
        if answer["ok"] or answer["code"] != code:
            raise tap.Failure("%s: expected code %d: %s" % (words[0], code, answer))
        return answer

    def dies(self, *words):
        """A command during which the driver is killed."""
        try:
            answer = self.ask(*words)
        except DriverDied:
            return
        raise tap.Failure("%s: the driver lives: %s" % (words[0], answer))

    def kill9(self):
        """SIGKILL, and waiting for the end."""
        process.kill(self.pid, signal.SIGKILL)
        self._child.wait(30)

    def close(self):
        """Ends it in order; what it still holds is rolled back."""
        if self._child.stdin.closed:
            return
        living = self._child.poll() is None
        try:
            self._child.stdin.close()
            self._child.wait(60)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self._child.kill()
        status = self._child.wait()
        self._child.stdout.close()
        if living and status != 0:
            raise tap.Failure("virt-driver ended with status %s, see %s" % (status, self._log_tail()))
        if "Sanitizer" in self.guard_log_text():
            raise tap.Failure(self.guard_log_text())

    def _log_tail(self):
        with open(self.log, encoding="utf-8", errors="backslashreplace") as file:
            return file.read()[-3000:]

    def guard_log_text(self):
        """What guards have written so far."""
        if not os.path.exists(self.guard_log):
            return ""
        with open(self.guard_log, encoding="utf-8", errors="backslashreplace") as file:
            return file.read()


class Lab:
    """A private libvirt with one running guest, and paths for jobs."""

    def __init__(self, cleanup, **guest):
        self.host = PrivateLibvirt(cleanup)
        self.scratch = self.host.directory("scratch", 0o711)
        self.run = self.host.directory("vmbrun", 0o770, owner="qemu")
        self.guest = Guest(self.host, start=True, **guest)
        self._number = 0

    @property
    def next_socket(self):
        """Path of the socket in what spec() makes next, for a guard that is started before."""
        return os.path.join(self.run, "s%d" % self._number)

    def spec(self, *disks, scratch=None):
        """Words of a 'job' command. disks: TARGET or (TARGET, BASE); makes the scratch images.

        Returns (words, socket path, checkpoint name).
        """
        name = "vmbackup-test-%d" % self._number
        socket = self.next_socket
        self._number += 1
        words = ["job", socket, name]
        for disk in disks:
            target, base = disk if isinstance(disk, tuple) else (disk, "-")
            path = os.path.join(scratch or self.scratch, "%s-%s" % (target, name))
            image.create(path, image.info(self.guest.disk_path(target))["virtual-size"])
            words.append("%s:%s:%s:1" % (target, path, base))
        return words, socket, name

    def checkpoint(self, t, *targets):
        """Makes a checkpoint that stays, by a job that is begun and ended. Returns its name."""
        driver = Driver(t, self.host)
        words, _, name = self.spec(*targets)
        driver.do(*words)
        driver.do("begin")
        driver.do("end")
        driver.do("keep")
        driver.close()
        return name


    def forget(self):
        """Ends what a failed test may have left, so that the next one does not trip over it."""
        guest = self.guest
        if guest.is_active() and guest.job_active():
            guest.dom.abortJob()
        for checkpoint in guest.dom.listAllCheckpoints(0):
            checkpoint.delete(0)


def lab(t):
    """The script's lab with a writing guest of two disks."""
    setting = t.once("lab", lambda suite: Lab(suite, writer=True))
    t.defer(setting.forget)
    return setting


def guard_is_gone(t, driver, pid, timeout=60):
    """Fails unless the guard ends by itself."""
    if process.wait_gone([pid], timeout):
        t.fail("the guard still runs:\n" + driver.guard_log_text())
