#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Under load: each point equals a second complete read of the same job, by another program."""

import os
import sys
import xml.etree.ElementTree as ElementTree

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from vmbtest import image, process, tap  # noqa: E402
from vmbtest.guest import Disk, Guest, check_images  # noqa: E402
from vmbtest.image import MIB  # noqa: E402
from vmbtest.libvirtd import PrivateLibvirt  # noqa: E402
from vmbtest.vmbackup import Tool  # noqa: E402

RATE = 16 * 1024  # KiB/s that the guest may write; it syncs after each file

# Level and compression of each backup, and what the guest does before it besides writing.
ROUNDS = [("full", "none", None),
          ("incremental", "zstd", "dd if=/dev/urandom of=/mnt/vda/big bs=1M count=30; sync"),
          ("incremental", "none", "rm /mnt/vda/big; sync; fstrim /mnt/vda"),
          ("incremental", "zstd:3", "dd if=/dev/zero of=/mnt/vdb/big bs=1M count=20; sync"),
          ("incremental", "zstd", "rm /mnt/vdb/big; sync; fstrim /mnt/vdb"),
          ("full", "zstd", None),
          ("incremental", "none", None)]


class Load:
    """The guest, the program, and the copies that nbdcopy made of each point."""

    def __init__(self, suite):
        self.host = PrivateLibvirt(suite)
        self.guest = Guest(self.host, writer=True, writer_rate=RATE, disks=[
            Disk(192 * MIB), Disk(96 * MIB + 7 * 512, options={"cluster_size": 2 * MIB})])
        self.guest.start()
        self.guest.wait_agent()
        self.scratch = self.host.directory("scratch", 0o711)
        self.repo = self.host.path("repo")
        self.tool = Tool(suite, repo=self.repo, host=self.host, env={
            "VMBACKUP_TEST_RUN_DIR": self.host.directory("vmbrun", 0o711)})
        self.tool.ok("init")
        self.points = []  # (id, {target: raw copy})

    def backup(self, t, level, compress):
        """A backup that stops while its job is open, so that both disks are read a second time."""
        gate = self.host.path("tmp", "gate")
        number = len(self.points)
        running = self.tool.start("backup", self.guest.name, "--scratch-dir", self.scratch,
                                  "--level", level, "--compress", compress,
                                  fail_at="before-job-end=wait:" + gate)
        t.eventually(lambda: os.path.exists(gate + ".reached") or not running.running(), 60,
                     "the end of the job is not reached")
        if not running.running():
            t.fail(running.wait().describe())
        ticks = self.guest.counter()
        copies = self.copy_exports(number)
        t.ok(self.guest.is_writing(10) and self.guest.counter() > ticks,
             "the guest does not write while the job runs")
        with open(gate, "w", encoding="ascii"):
            pass
        result = running.wait().expect(0)
        t.diag(result.out.strip())
        os.unlink(gate)
        os.unlink(gate + ".reached")
        point = self.tool.json("list")["points"][-1]
        self.points.append((point["id"], copies))
        return point

    def copy_exports(self, number):
        """nbdcopy of each export of the open job; {target: raw file}."""
        job = ElementTree.fromstring(self.guest.dom.backupGetXMLDesc(0))
        socket = self.host.outside(job.find("server").get("socket"))
        copies = {}
        for disk in job.iterfind("./disks/disk"):
            if disk.get("backup") != "yes":
                continue
            target = disk.get("name")
            export = disk.get("exportname") or target
            copies[target] = self.host.path("tmp", "copy-%d-%s.raw" % (number, target))
            process.run("nbdcopy", "nbd+unix:///%s?socket=%s" % (export, socket), copies[target])
        return copies

    def image(self, point, target):
        """Path of a point's image."""
        return os.path.join(self.repo, "domains", self.guest.uuid, "points", point,
                            target + ".qcow2")


@tap.test
def test_points_equal_a_second_read(t):
    load = t.once("load", Load)
    for level, compress, before in ROUNDS:
        t.ok(load.guest.is_writing(10), "the guest does not write")
        if before is not None:
            load.guest.exec(before)
        point = load.backup(t, level, compress)
        t.equal({disk["target"]: disk["level"] for disk in point["disks"]},
                {"vda": level, "vdb": level})
        t.equal(point["consistency"], "filesystem")
        load.guest.assert_healthy(checkpoints=1, clean=[load.scratch])
        for target in ("vda", "vdb"):
            path = load.image(point["id"], target)
            image.check(path)
            image.compare(path, load.points[-1][1][target])
            t.equal(image.info(path)["virtual-size"],
                    os.path.getsize(load.points[-1][1][target]), "size")


@tap.test
def test_older_points_are_still_the_same(t):
    load = t.once("load", Load)
    t.equal(len(load.points), len(ROUNDS), "points")
    for point, copies in load.points:
        for target, copy in copies.items():
            image.compare(load.image(point, target), copy)
    load.tool.ok("verify", load.guest.name)


@tap.test
def test_both_disks_are_of_one_instant(t):
    """The writer's counters differ by one at most, and its files are whole."""
    load = t.once("load", Load)
    point, _ = load.points[-1]
    to = load.host.path("restore")
    load.tool.ok("restore", "%s/%s" % (load.guest.name, point), "--to", to, "--format", "raw")
    facts = check_images(load.host, {target: os.path.join(to, target + ".raw")
                                     for target in ("vda", "vdb")}, fmt="raw")
    for target in ("vda", "vdb"):
        t.equal((facts[target]["needs_recovery"], facts[target]["fsck"], facts[target]["sums_bad"]),
                (0, 0, 0), target)
    t.ok(0 <= facts["vda"]["counter"] - facts["vdb"]["counter"] <= 1,
         "counters %s" % {target: facts[target]["counter"] for target in facts})


if __name__ == "__main__":
    tap.main()
