# SPDX-License-Identifier: GPL-2.0-or-later
"""The machines and disks that are measured, and the ways to copy them."""

import os
import shutil
import subprocess
import time

from vmbtest import image, process
from vmbtest.guest import Disk, Guest
from vmbtest.libvirtd import PrivateLibvirt, libvirt
from vmbtest.vmbackup import Tool

import measure

GIB, MIB = image.GIB, image.MIB
HERE = os.path.dirname(os.path.abspath(__file__))
SYSTEM_FILES = 3 * GIB // 2
NOISE = GIB // 2


def _copy_system_files(target, wanted):
    """Files of /usr in the order of their paths, so that all machines with Debian 12 are alike."""
    for place, directories, names in os.walk("/usr"):
        directories.sort()
        for name in sorted(names):
            path = os.path.join(place, name)
            if os.path.islink(path) or not os.path.isfile(path):
                continue
            size = os.path.getsize(path)
            if size > wanted:
                continue
            copy = target + path
            os.makedirs(os.path.dirname(copy), exist_ok=True)
            shutil.copyfile(path, copy)
            wanted -= size
            if wanted < MIB:
                return


def make_files_disk(path, temporary):
    """A qcow2 image of 4 GiB: ext4 with system files, noise and the program that writes."""
    tree, raw = os.path.join(temporary, "tree"), os.path.join(temporary, "files.raw")
    os.makedirs(tree)
    process.run("gcc", "-O2", "-static", "-o", os.path.join(tree, "write-latency"),
                os.path.join(HERE, "write-latency.c"))
    _copy_system_files(tree, SYSTEM_FILES)
    with open(os.path.join(tree, "noise"), "wb") as file:
        for _ in range(NOISE // MIB):
            file.write(os.urandom(MIB))
    process.run("mke2fs", "-q", "-t", "ext4", "-d", tree, raw, "4G", timeout=300)
    process.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path, timeout=300)
    shutil.rmtree(tree)
    os.unlink(raw)


class PullJob:
    """A pull job begun by the bare API: its exports are what the other tools read."""

    def __init__(self, lab, guest):
        self.guest = guest
        self.socket = lab.host.path("sock", "nbd")
        self.targets = [disk.target for disk in guest.disks]
        guest.dom.backupBegin(job_xml(lab, guest, self.socket), None, 0)

    def uri(self, target="vda"):
        """For programs outside."""
        return "nbd+unix:///%s?socket=%s" % (target, self.socket)

    def end(self):
        """Ends the job and waits for that."""
        end_job(self.guest)


def job_xml(lab, guest, socket, reuse=()):
    """Of a pull job of all disks. reuse: scratch images by target."""
    disks = "".join("<disk name='%s' backup='yes' type='file'>%s</disk>" % (
        disk.target, "<scratch file='%s'/>" % (
            reuse[disk.target] if reuse else lab.host.path("scratch", "bare-" + disk.target)))
        for disk in guest.disks)
    return ("<domainbackup mode='pull'><server transport='unix' socket='%s'/><disks>%s</disks>"
            "</domainbackup>" % (socket, disks))


def end_job(guest):
    """Ends the running job."""
    guest.dom.abortJob()
    while guest.dom.jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE:
        time.sleep(0.005)


def drop_checkpoints(guest):
    """Whoever made them."""
    for checkpoint in guest.dom.listAllCheckpoints(0):
        checkpoint.delete(0)


class Lab:
    """A private libvirt, guests by name, and places for results."""

    def __init__(self, cleanup, disk, say):
        self.cleanup, self.say = cleanup, say
        self.host = PrivateLibvirt(cleanup)
        self.scratch = self.host.directory("scratch", 0o711)
        self.host.directory("sock", 0o770, owner="qemu")
        self.vnb = self.host.directory("vnb", 0o1777)
        self.out = self.host.directory("out", 0o755)
        self.env = {"VMBACKUP_TEST_RUN_DIR": self.host.directory("r", 0o711)}
        self.disk = disk or self.host.path("files.qcow2")
        self._guests, self._number = {}, 0

    def files_disk(self):
        """A copy of the disk of 4 GiB, as a Disk."""
        if not os.path.exists(self.disk):
            self.say("making the disk of 4 GiB")
            make_files_disk(self.disk, self.host.directory("make"))
        self._number += 1
        copy = os.path.join(self.host.images, "files-%d.qcow2" % self._number)
        process.run("cp", "--sparse=always", self.disk, copy)
        return Disk(size=None, path=copy)

    def guest(self, name, disks, **options):
        """A guest of that name; paused unless told otherwise; made at first use."""
        if name not in self._guests:
            running = options.pop("running", False)
            guest = Guest(self.host, name=name, disks=disks(), start=running, **options)
            if not running:
                guest.start(paused=True)
            self._guests[name] = guest
        return self._guests[name]

    def forget(self, name):
        """Removes a guest and its disks."""
        guest = self._guests.pop(name, None)
        if guest is None:
            return
        guest.destroy()
        guest.undefine()
        for disk in guest.disks:
            os.unlink(disk.path)

    def files_guest(self):
        """The paused one with the disk of 4 GiB."""
        return self.guest("files", lambda: [self.files_disk()], mount=())

    # Results

    def clean(self, *paths):
        """Removes results of earlier runs."""
        for path in paths:
            if os.path.isdir(path):
                shutil.rmtree(path)
            elif os.path.lexists(path):
                os.unlink(path)

    def result(self, name):
        """A path for a result; what stood there is removed."""
        path = os.path.join(self.out, name)
        self.clean(path)
        return path

    # Programs

    def tool(self, repository):
        """The program under test, with a repository that exists."""
        tool = Tool(self.cleanup, repo=repository, host=self.host, env=self.env)
        if not os.path.exists(repository):
            tool.ok("init")
        return tool

    def backup(self, tool, guest, *options, watch=False, env=None):
        """A backup by the program under test; returns a Sample with the size of the images."""
        sample = measure.timed(
            tool.argv("backup", guest.name, "--scratch-dir", self.scratch, "--json", *options),
            beside=guest.qemu_pid, watch=watch, env=dict(self.env, **(env or {})))
        point = tool.json("list")["points"][-1]
        sample.size = point["stored"]
        return sample

    def full(self, guest, *options, watch=False, env=None):
        """A full into a repository of its own."""
        tool = self.tool(self.result("repo"))
        sample = self.backup(tool, guest, "--level", "full", *options, watch=watch, env=env)
        drop_checkpoints(guest)
        self.clean(tool.repo)
        return sample

    def virtnbdbackup_argv(self, guest, target, *options):
        """Its command line for a full."""
        return self.host.enter(["virtnbdbackup", "-U", "qemu:///system", "-d", guest.name, "-l", "full",
                                "-n", "-o", target, "-S", self.vnb,
                                "-f", os.path.join(self.vnb, "s"), *options])

    def virtnbdbackup(self, guest, *options):
        """A full by virtnbdbackup."""
        target = self.result("vnb")
        sample = measure.timed(self.virtnbdbackup_argv(guest, target, *options), flushed=[target],
                               beside=guest.qemu_pid)
        sample.size = sum(os.path.getsize(os.path.join(target, name))
                          for name in os.listdir(target) if name.endswith(".data"))
        drop_checkpoints(guest)
        self.clean(target)
        return sample

    def copy_export(self, guest, *argv, name="copy"):
        """A copy of the export of vda by argv + [uri, file]; only the copying is timed."""
        job = PullJob(self, guest)
        target = self.result(name)
        try:
            sample = measure.timed([*argv, job.uri(), target], flushed=[target],
                                   beside=guest.qemu_pid)
        finally:
            job.end()
        sample.size = image.allocated(target)
        self.clean(target)
        return sample
