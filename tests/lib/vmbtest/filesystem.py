# SPDX-License-Identifier: GPL-2.0-or-later
"""File systems that fail for real: full, thin, read-only, frozen, hung, without some abilities."""

import errno
import os
import subprocess
import sys

from . import process, tap


class LoopFilesystem:
    """ext4 on a loop device below a host's base, seen inside too.

    size     of the file system, in bytes
    journal  False: errors of data do not make it read-only
    thin     None, or the bytes that are really there: the device is a sparse file on a tmpfs of that
             size, so that writes succeed in memory, and fail when they are brought to the device
    """

    def __init__(self, cleanup, host, name, size, thin=None, journal=True, mode=0o700):
        place = host.tmpfs(name + ".dev", thin or 2 * size)
        cleanup.defer(host.umount, place)
        self.device = os.path.join(place, "image")
        with open(self.device, "wb") as file:
            file.truncate(size)
        process.run("mkfs.ext4", "-q", "-E", "nodiscard", "-O",
                    "has_journal" if journal else "^has_journal", self.device)
        self.path = host.directory(name)
        self._mounted = False
        self.mount()
        cleanup.defer(self.umount)
        os.chmod(self.path, mode)
        self._thawer = None
        cleanup.defer(self.go)

    def mount(self):
        """As the constructor does."""
        process.run("mount", "-o", "loop", self.device, self.path)
        self._mounted = True

    def umount(self):
        """Unmounts it, if that was not done."""
        if self._mounted:
            process.run("umount", self.path)
        self._mounted = False

    def remount(self, options):
        """mount -o remount,OPTIONS; "abort" makes it read-only at once, as an error does."""
        process.run("mount", "-o", "remount," + options, self.path)

    def freeze(self):
        """From now on whoever writes hangs, and cannot be killed. It ends with the test at the latest."""
        self._thawer = subprocess.Popen(
            ["sh", "-c", 'fsfreeze -f "$1" && echo frozen; read x; fsfreeze -u "$1"', "sh",
             self.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        if self._thawer.stdout.readline().strip() != b"frozen":
            raise process.CommandError("%s cannot be frozen" % self.path)

    def go(self):
        """Lets them go on."""
        thawer, self._thawer = self._thawer, None
        if thawer is not None:
            thawer.stdin.close()
            thawer.wait(30)
            thawer.stdout.close()


class FaultyFilesystem:
    """A directory seen through FUSE, with faults on demand: see fusefs.py for words and operations."""

    def __init__(self, cleanup, host, name, *words):
        tap.require(os.access("/dev/fuse", os.R_OK | os.W_OK), "no FUSE here")
        self.backing = host.directory(name + ".backing", 0o700)
        self.path = host.directory(name, 0o700)
        self._server = subprocess.Popen(
            [sys.executable, "-B", os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                                "fusefs.py"), self.backing, self.path, *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, text=True)
        cleanup.defer(self.close)
        if self._server.stdout.readline().strip() != "ready":
            raise process.CommandError("FUSE does not work here")

    def tell(self, *words):
        """One command for the server."""
        self._server.stdin.write(" ".join(str(word) for word in words) + "\n")
        self._server.stdin.flush()
        if self._server.stdout.readline().strip() != "ok":
            raise process.CommandError("the file system's server has died")

    def fail(self, operation, number=errno.EIO):
        """Lets an operation fail with this errno from now on; 0: it works again."""
        self.tell("fail", operation, number)

    def stall(self, operation):
        """From now on an operation is not answered."""
        self.tell("stall", operation)

    def go(self):
        """All operations are answered again."""
        self.tell("go")

    def close(self):
        """Unmounts it."""
        if self._server.poll() is None:
            self._server.stdin.close()
            self._server.wait(30)
        self._server.stdout.close()
