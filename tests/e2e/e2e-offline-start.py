#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A domain that is started while it is backed up shut off: it starts, and no later byte is in the point."""

import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from vmbtest import image, process, tap  # noqa: E402
from offline_lab import KIB, MIB, STEPS, Disk, OffLab, libvirt  # noqa: E402

SIZE = 8 * MIB
BLOCK = 64 * KIB
RANDOM_MOMENTS = 8
# QEMU's own start takes longer than that; a lease that is not given back delays it by 45 s.
START_SECONDS = 15


class Starter:
    """Rounds on one domain: a change while it is off, a backup, a start in the middle, more changes."""

    def __init__(self, t):
        self.t, self.random = t, t.random
        self.lab = OffLab(t, [Disk(SIZE), Disk(MIB, fmt="raw")])
        self.lab.fill("vda")
        self.lab.fill("vdb", 0x77)
        self.lab.backup_off("full")
        self.go = self.lab.host.path(self.lab.directory, "go")
        self.outcomes = []

    def begin(self, step=None):
        """A change that the point must hold, and the backup, which waits at the step."""
        lab = self.lab
        for target in lab.volumes:
            self.change(target)
        for name in (self.go, self.go + ".reached"):
            if os.path.exists(name):
                os.unlink(name)
        options = {"fail_at": "%s=wait:%s" % (step, self.go)} if step else {}
        end = lab.start(**options)
        if step:
            self.t.eventually(lambda: os.path.exists(self.go + ".reached")
                              or not end.running.running(), 60, step, 0.005)
            self.t.ok(os.path.exists(self.go + ".reached"),
                      "never came to " + step if end.running.running() else end().describe())
        return end

    def release(self):
        """The backup goes on."""
        with open(self.go, "wb"):
            pass

    def change(self, target):
        """Some block gets another content."""
        volume = self.lab.volumes[target]
        self.lab.write(target, self.random.randrange(volume.size // BLOCK) * BLOCK, BLOCK,
                       self.random.randrange(1, 256))

    def start_and_write(self):
        """The domain is started, which must not fail, and at once writes all over its disks."""
        begun = time.monotonic()
        self.lab.on()
        seconds = time.monotonic() - begun
        self.t.ok(seconds < START_SECONDS, "the start took %.1f s" % seconds)
        for target, volume in self.lab.volumes.items():
            for _ in range(4):
                self.change(target)
            self.lab.write(target, volume.size // 2, BLOCK, self.random.randrange(1, 256))
        self.lab.flush()

    def judge(self, end, what):
        """The point is just what the disks held before the start, or, made running, what they held then."""
        lab, before = self.lab, len(self.lab.points)
        result = end()
        result.expect(0)
        self.t.equal(len(lab.points), before + 1, "points after " + what)
        point, snapshots = lab.points[-1]
        self.outcomes.append(lab.last["consistency"])
        self.t.diag("%s: %s" % (what, lab.last["consistency"]))
        if lab.last["consistency"] == "offline":
            lab.check_points()
        else:
            self.t.ok("started-meanwhile" in lab.reasons() or what == "random", lab.reasons())
            self.check_mixture(point, snapshots)

    def check_mixture(self, point, snapshots):
        """The backup of the running domain began among the writes: each block is the old or the new one."""
        lab = self.lab
        for target, (snapshot, size) in snapshots.items():
            raw = lab.host.path(lab.directory, "point.raw")
            image.convert(lab.image(point, target), raw)
            with open(raw, "rb") as new, open(snapshot, "rb") as old, \
                    open(lab.volumes[target].model.path, "rb") as now:
                for offset in range(0, size, BLOCK):
                    got, first, last = (file.read(BLOCK) for file in (new, old, now))
                    self.t.ok(got in (first, last) or first != last, "%s at %d" % (target, offset))
            # From here on it is what it is.
            os.replace(raw, snapshot)

    def finish(self):
        """Backups on and then off again are exact, and nothing is left."""
        self.lab.backup("--level", "incremental")
        self.lab.off()


def at_steps(t, steps):
    """A start at each of the steps."""
    starter = Starter(t)
    for step in steps:
        end = starter.begin(step)
        starter.start_and_write()
        starter.release()
        starter.judge(end, step)
        published = STEPS.index(step) >= STEPS.index("offline-confirmed")
        t.equal(starter.outcomes[-1], "offline" if published else "paused", step)
        starter.finish()
    starter.lab.check_end(3)


# Under the lease a start waits; that has a test of its own. What removes old bitmaps comes after the end.
MOMENTS = [step for step in STEPS if step not in (
    "image-open-alone", "backup-locked", "backup-reconciled", "bitmap-removed",
    "checkpoint-deleted", "journal-cleared")]
tap.add_test("started_early", lambda t: at_steps(t, MOMENTS[:len(MOMENTS) // 2]))
tap.add_test("started_late", lambda t: at_steps(t, MOMENTS[len(MOMENTS) // 2:]))


@tap.test
def test_started_at_random_moments(t):
    starter = Starter(t)
    starter.begin()().expect(0)
    begun = time.monotonic()
    starter.begin()().expect(0)
    usual = time.monotonic() - begun
    for _ in range(RANDOM_MOMENTS):
        end = starter.begin()
        time.sleep(t.random.random() * usual * 1.2)
        starter.start_and_write()
        starter.judge(end, "random")
        starter.finish()
    t.diag("%s" % starter.outcomes)
    starter.lab.check_end(RANDOM_MOMENTS)


@tap.test
def test_start_waits_while_a_bitmap_is_added(t):
    starter = Starter(t)
    lab = starter.lab
    for target in lab.volumes:
        starter.change(target)
    end = lab.start(fail_at="image-open-alone=delay:1500")
    time.sleep(0.5)
    starter.start_and_write()
    starter.judge(end, "image-open-alone")
    starter.finish()
    lab.check_end(2)


@tap.test
def test_start_while_old_bitmaps_go(t):
    starter = Starter(t)
    for step in ("bitmap-removed", "checkpoint-deleted"):
        end = starter.begin(step)
        starter.start_and_write()
        starter.release()
        starter.judge(end, step)
        t.equal(starter.outcomes[-1], "offline")
        starter.finish()
    end = starter.begin("published")
    starter.start_and_write()
    starter.release()
    starter.judge(end, "published")
    starter.finish()


@tap.test
def test_nobody_is_refused(t):
    """Others that open the image for writing, again and again, are never refused by a backup."""
    starter = Starter(t)
    path = starter.lab.volumes["vda"].path
    opened = 0
    for _ in range(6):
        starter.change("vda")
        end = starter.lab.start()
        while end.running.running():
            process.run("qemu-io", "-f", "qcow2", "-c", "read 0 4k", path)
            opened += 1
        t.ok(end().status in (0, 1, 21), "status")
    t.diag("opened %d times" % opened)
    starter.lab.backup()


@tap.test
def test_definition_changes(t):
    starter = Starter(t)
    lab = starter.lab
    end = starter.begin("offline-read")
    xml = lab.guest.dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    lab.host.conn.defineXML(xml.replace("</memory>", "</memory><title>other</title>", 1)
                            if "<title>" not in xml else xml)
    starter.release()
    end().expect(0)
    lab.check_points()
    t.equal(lab.last["consistency"], "offline")
    lab.check_rest()


if __name__ == "__main__":
    tap.main()
