#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Random writes, resizes, swaps, replacements, kills and backups of a paused domain, against models of its disks.

VMBACKUP_TEST_SEED repeats a run, VMBACKUP_TEST_LONG=1 makes it long, VMBACKUP_TEST_SECONDS sets its
length.
"""

import os
import random
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from vmbtest import image, process, tap  # noqa: E402
from vmbtest.libvirtd import PrivateLibvirt, libvirt  # noqa: E402
from exact_lab import KIB, MIB, SECTOR, Disk, Lab, round_up  # noqa: E402

MOST_POINTS = 9  # of one domain: each is compared after each backup
MOST_STEPS = 45
LARGEST = 10 * MIB
HUGE = 1500 * MIB

STEPS_OF_A_BACKUP = """backup-locked backup-reconciled backup-inspected staging-created config-saved
scratch-created journal-written guard-armed job-started thawed disk-opened disk-data disk-finished
before-job-end job-ended manifest-written staging-synced published points-synced checkpoints-retired
journal-cleared""".split()
WHILE_THE_JOB_RUNS = ["job-started", "disk-opened", "disk-data", "disk-finished", "before-job-end"]

# Options of qemu-img create, and how often.
FORMATS = [({}, 6), ({"cluster_size": 4096}, 3), ({"cluster_size": 2 * MIB}, 3),
           ({"cluster_size": 128 * KIB}, 1), ({"cluster_size": 512}, 1), ({"extended_l2": "on"}, 2),
           ({"compat": "0.10"}, 1), (None, 3)]


def seconds():
    """How long this run is to go on."""
    text = os.environ.get("VMBACKUP_TEST_SECONDS")
    if text:
        return float(text)
    return 1500 if os.environ.get("VMBACKUP_TEST_LONG", "0") not in ("", "0") else 60


def choose(rng, weighted):
    return rng.choices([item for item, _ in weighted], [weight for _, weight in weighted])[0]


class World:
    """One domain and what befalls it."""

    def __init__(self, t, rng):
        self.t, self.rng, self.log = t, rng, []
        self.output = ""     # of the last run
        self.judged = set()  # ids of points
        self.compare = True  # the last run might compare
        self.lost = set()    # checkpoints that a test deleted, or a backup without their disks
        self.host = t.once("host", PrivateLibvirt)
        self.templates = {}
        self.away = []       # detached volumes
        self.job = False     # there may be one: of a run in progress, or left by a killed one
        # Volume -> reasons for which its next backup may be a comparison.
        self.doubts = {}
        self.known = set()   # volumes that some point holds
        disks = [self.random_disk(n) for n in range(rng.choice([2, 2, 3]))]
        self.lab = Lab(t, disks)
        for volume in self.lab.volumes.values():
            self.doubts[volume] = set()
            facts = image.info(volume.path)
            if volume.fmt == "raw" or facts["format-specific"]["data"]["compat"] == "0.10":
                self.doubts[volume].add("no-bitmap-support")
            if volume.disk.backing:
                volume.changed_behind(self.lab)
                self.templates[volume] = volume.disk.backing
            if rng.random() < 0.7:
                self.fill(volume)
        for target, volume in self.lab.volumes.items():
            self.say("%s: %d bytes, %s, cluster %d%s%s, options %s", target, volume.size, volume.fmt,
                     volume.cluster, ", linked clone" if volume.disk.backing else "",
                     ", serial" if volume.disk.serial else "", volume.disk.options)

    def say(self, text, *args):
        self.log.append(text % args)

    # Making it

    def random_size(self, cluster=64 * KIB, largest=LARGEST):
        size = self.rng.randrange(SECTOR, largest, SECTOR)
        return max(cluster, size // cluster * cluster) if self.rng.random() < 0.3 else size

    def random_disk(self, number):
        rng = self.rng
        options = choose(rng, FORMATS)
        bus = rng.choice(["virtio", "scsi"])
        serial = "serial%d" % number if rng.random() < 0.3 else None
        # Many tables of the image now and then.
        size = self.random_size(largest=choose(rng, [(LARGEST, 9), (HUGE, 1)]))
        if options is None:
            return Disk(size, fmt="raw", bus=bus, serial=serial)
        if options.get("compat") == "0.10" or size > LARGEST or rng.random() < 0.75:
            return Disk(size, bus=bus, serial=serial, options=options)
        count = self.t.once("templates", lambda suite: [0])
        count[0] += 1
        path = os.path.join(self.host.images, "template%d.qcow2" % count[0])
        template_size = rng.choice([size, self.random_size()])
        image.create(path, template_size)
        process.run("qemu-io", "-f", "qcow2", "-c", "write -P 0xa5 0 %d" % template_size, path)
        return Disk(size, bus=bus, serial=serial, options=options, backing=path)

    # Steps

    def volumes(self):
        return [self.lab.volumes[target] for target in sorted(self.lab.volumes)] + self.away

    def free(self):
        """True unless a job stands in the way of changes to the disks."""
        return not (self.job and self.lab.guest.is_active() and self.lab.guest.job_active())

    def operations(self, volume, count):
        """Random ones; discards only where QEMU does all of them: not while a backup runs."""
        cluster = max(volume.cluster, 4 * KIB)
        longest = self.rng.choice([64 * KIB, 512 * KIB, 4 * MIB])
        operations = list(image.random_operations(self.rng, volume.size, count, cluster, longest))
        return operations if self.free() else [o for o in operations if o[0] != "discard"]

    def write(self, volume, count):
        operations = self.operations(volume, count)
        self.say("write %s: %s", volume.disk.target, operations)
        self.lab.apply(volume, operations)

    def step_write(self):
        self.write(self.rng.choice(self.volumes()), self.rng.randrange(1, 9))

    def fill(self, volume):
        """Data everywhere, or in many places of a disk that is too large for that."""
        pattern = self.rng.randrange(256)
        self.say("fill %s with %d", volume.disk.target, pattern)
        if volume.size <= 2 * LARGEST:
            self.lab.fill(volume, pattern)
            return
        for _ in range(40):
            offset = self.rng.randrange(0, volume.size - MIB, SECTOR)
            self.lab.write(volume, offset, self.rng.randrange(SECTOR, MIB, SECTOR), pattern or 1)

    def step_fill(self):
        self.fill(self.rng.choice(self.volumes()))

    def step_discard_all(self):
        volume = self.rng.choice(self.volumes())
        length = volume.size // volume.cluster * volume.cluster
        if length and self.free():
            self.say("discard all of %s", volume.disk.target)
            self.lab.discard(volume, 0, length)

    def step_flush(self):
        self.say("flush")
        self.lab.flush()

    def step_resize(self):
        volume = self.rng.choice(self.volumes())
        if self.free():
            self.resize(volume, self.random_size(volume.cluster, max(LARGEST, volume.size)))

    def step_shrink_and_grow(self):
        volume = self.rng.choice(self.volumes())
        if not self.free():
            return
        before = volume.size
        for _ in range(self.rng.choice([1, 1, 1, 2])):
            smaller = self.rng.randrange(SECTOR, before + SECTOR, SECTOR)
            if self.rng.random() < 0.3:
                smaller = min(before, round_up(smaller, volume.cluster))
            self.resize(volume, smaller)
            if self.rng.random() < 0.4:
                self.write(volume, 2)
            self.resize(volume, self.rng.choice([before, before, self.random_size()]))
            if self.rng.random() < 0.4:
                self.write(volume, 2)

    def resize(self, volume, size):
        self.say("resize %s from %d to %d, %s", volume.disk.target, volume.size, size,
                 "live" if self.lab.is_live(volume) else "offline")
        try:
            self.lab.resize(volume, size)
        except (process.CommandError, libvirt.libvirtError) as error:
            # After QEMU was killed its bitmaps stand in the way until they are deleted.
            if "is inconsistent" not in str(error):
                raise
            self.say("  refused")

    def step_off_and_on(self):
        self.say("off")
        self.lab.off()
        self.job = False
        for _ in range(self.rng.randrange(3)):
            choose(self.rng, [(self.step_write, 3), (self.step_resize, 2),
                              (self.step_shrink_and_grow, 2), (self.step_detach, 1),
                              (self.step_attach, 1), (self.step_template, 1),
                              (self.step_swap, 2), (self.step_replace, 2),
                              (self.step_restart_libvirtd, 1)])()
        self.say("on")
        self.lab.on()

    def step_kill_qemu(self):
        self.say("kill QEMU")
        self.lab.kill_qemu()
        self.doubt_all("bitmap-unusable")
        self.job = False
        self.lab.on()

    def doubt_all(self, reason):
        for volume in self.lab.volumes.values():
            self.doubts[volume].add(reason)

    def step_restart_libvirtd(self):
        self.say("restart libvirtd")
        self.host.restart()

    def step_template(self):
        """Only while the domain is off."""
        for volume, template in self.templates.items():
            self.say("rewrite the template of %s", volume.disk.target)
            process.run("qemu-io", "-f", "qcow2", "-c", "write -P %d %d 512" % (
                self.rng.randrange(1, 256), self.rng.randrange(0, 4) * 1024), template)
            volume.changed_behind(self.lab)
            self.doubts[volume].add("layer-changed")

    def step_swap(self):
        """Two images change places, with the serials; only while the domain is off."""
        if len(self.lab.volumes) < 2:
            return
        one, two = (self.lab.volumes[target] for target in
                    self.rng.sample(sorted(self.lab.volumes), 2))
        self.say("swap %s and %s", one.disk.target, two.disk.target)
        for name in ("path", "serial", "fmt"):
            first, second = getattr(one.disk, name), getattr(two.disk, name)
            setattr(one.disk, name, second)
            setattr(two.disk, name, first)
        one.disk, two.disk = two.disk, one.disk
        for volume in (one, two):
            self.lab.volumes[volume.disk.target] = volume
        self.host.conn.defineXML(self.lab.guest.xml())

    def step_replace(self):
        """A copy takes the image's place; only while the domain is off."""
        volume = self.rng.choice(self.volumes())
        keep = self.rng.random() < 0.5
        self.say("replace %s by a copy, %s", volume.disk.target, "as it is" if keep else "converted")
        copy = volume.path + ".copy"
        if keep or volume.disk.backing:
            process.run("cp", "--sparse=always", volume.path, copy)
        else:
            compat = ["-o", "compat=0.10"] if "compat" in volume.disk.options and \
                volume.fmt == "qcow2" else []
            process.run("qemu-img", "convert", "-f", volume.fmt, "-O", volume.fmt, *compat,
                        volume.path, copy)
            volume.cluster = max(volume.cluster, 64 * KIB) if volume.fmt == "qcow2" else SECTOR
        os.rename(copy, volume.path)
        # Exchanged as well, it is not known as the disk that it was.
        self.doubts[volume] |= {"source-changed", "new-disk"}

    def step_detach(self):
        """Live ones go at once only if they are SCSI disks; one always stays."""
        active = self.lab.guest.is_active()
        able = [target for target, volume in sorted(self.lab.volumes.items())
                if not active or volume.disk.bus == "scsi"]
        if len(self.lab.volumes) < 2 or not able or not self.free():
            return
        target = self.rng.choice(able)
        self.say("detach %s", target)
        self.away.append(self.lab.detach(target))

    def step_attach(self):
        able = [v for v in self.away if not self.lab.guest.is_active() or v.disk.bus == "scsi"]
        if not able or not self.free():
            return
        volume = self.rng.choice(able)
        self.say("attach %s", volume.disk.target)
        self.away.remove(volume)
        self.lab.attach(volume.disk, volume)

    def step_lose_checkpoint(self):
        """Somebody deletes one of ours."""
        ours = [name for name in self.lab.guest.checkpoints() if name not in self.lab.foreign]
        if not ours or not self.free():
            return
        name = self.rng.choice(ours)
        self.say("delete checkpoint %s", name)
        flags = self.rng.choice([0, libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY])
        try:
            self.lab.guest.dom.checkpointLookupByName(name).delete(flags)
            self.lost.add(name)
        except libvirt.libvirtError as error:
            # Where bitmaps are lost, or a disk is away.
            self.say("libvirt refuses: %s", error)
        self.doubt_all("checkpoint-missing")
        self.doubt_all("bitmap-unusable")
        for volume in self.away:
            self.doubts[volume] |= {"checkpoint-missing", "bitmap-unusable"}

    def step_foreign_checkpoint(self):
        """Another tool tracks the domain as well."""
        able = [target for target, volume in sorted(self.lab.volumes.items())
                if "no-bitmap-support" not in self.doubts[volume]]
        if not able or self.lab.foreign or not self.free():
            return
        self.say("a checkpoint of somebody else on %s", able)
        disks = "".join("<disk name='%s' checkpoint='bitmap'/>" % target for target in able)
        self.lab.guest.dom.checkpointCreateXML(
            "<domaincheckpoint><name>foreign</name><disks>%s</disks></domaincheckpoint>" % disks, 0)
        self.lab.foreign.append("foreign")

    # Backups

    def random_arguments(self):
        rng = self.rng
        level = choose(rng, [("auto", 6), ("incremental", 2), ("full", 1)])
        compress = rng.choice(["none", "zstd", "zstd:3"])
        arguments = ["--level", level, "--compress", compress]
        self.compare = rng.random() < 0.85
        if not self.compare:
            arguments.append("--no-compare")
        selected = sorted(self.lab.volumes)
        if len(selected) > 1 and rng.random() < 0.25:
            some = rng.sample(selected, rng.randrange(1, len(selected)))
            rest = [target for target in selected if target not in some]
            for target in rest if rng.random() < 0.5 else []:
                arguments += ["--exclude-disk", target]
            if arguments[-2] != "--exclude-disk":
                for target in some:
                    arguments += ["--disk", target]
            selected = some
        return level, [self.lab.volumes[target] for target in selected], arguments

    def step_backup(self):
        level, selected, arguments = self.random_arguments()
        self.say("backup %s", " ".join(arguments))
        self.judge(self.lab.run(*arguments), level, selected)

    def step_failing_backup(self):
        level, selected, arguments = self.random_arguments()
        action = choose(self.rng, [("kill", 5), ("fail", 3), ("enospc", 1), ("term", 1), ("int", 1)])
        fault = "%s=%s" % (self.rng.choice(STEPS_OF_A_BACKUP), action)
        self.say("backup %s, %s", " ".join(arguments), fault)
        self.judge(self.lab.run(*arguments, fail_at=fault), level, selected, fault)

    def step_disturbed_backup(self):
        """Something happens while the job runs; what is written then is not in the point."""
        level, selected, arguments = self.random_arguments()
        event = choose(self.rng, [("write", 4), ("restart", 1), ("kill", 1), ("off", 1)])
        gate = self.host.path(self.lab.directory, "gate")
        where = self.rng.choice(WHILE_THE_JOB_RUNS)
        self.say("backup %s, %s at %s", " ".join(arguments), event, where)
        end = self.lab.start(*arguments, fail_at="%s=wait:%s" % (where, gate))
        self.t.eventually(lambda: os.path.exists(gate + ".reached") or not end.running.running(),
                          60, "the step is not reached")
        if os.path.exists(gate + ".reached"):
            self.job = True
            self.disturb(event)
            with open(gate, "w", encoding="ascii"):
                pass
        result = end()
        for name in (gate, gate + ".reached"):
            if os.path.exists(name):
                os.unlink(name)
        # A domain that goes when all is read leaves a good point.
        self.judge(result, level, selected, event if event != "write" else None)
        if not self.lab.guest.is_active():
            self.say("on")
            self.lab.on()
            # A reader that takes nothing keeps QEMU from ending in order, until libvirt kills it.
            if event == "kill" or where == "disk-data":
                self.doubt_all("bitmap-unusable")

    def disturb(self, event):
        if event == "write":
            for target in sorted(self.lab.volumes):
                self.write(self.lab.volumes[target], 3)
        elif event == "restart":
            self.host.restart()
        elif event == "kill":
            self.lab.kill_qemu()
        else:
            self.lab.off()

    def judge(self, result, level, selected, fault=None):
        """Every run: exact points, right levels, an unharmed guest."""
        lab, t = self.lab, self.t
        made = lab.last is not None and lab.last["id"] not in self.judged
        self.say("  status %d%s", result.status, ", point " + lab.last["id"] if made else "")
        self.output = result.describe()
        if result.status == 0:
            t.ok(made, "success without a point")
        if made:
            self.judged.add(lab.last["id"])
            self.judge_levels(level, selected)
        elif fault is None:
            self.judge_refusal(result, level, selected)
        lab.check_points()
        self.judge_guest(result, fault)

    def judge_refusal(self, result, level, selected):
        """The only failure that nothing injected."""
        self.t.equal((result.status, level), (23, "incremental"), result.describe())
        self.t.ok(any(v not in self.known or "new-disk" in self.doubts[v] or
                      (self.doubts[v] and not self.compare) for v in selected),
                  "every disk could be incremental\n" + result.describe())

    def judge_levels(self, level, selected):
        disks = {disk["target"]: disk for disk in self.lab.last["disks"]}
        self.t.equal(sorted(disks), sorted(v.disk.target for v in selected), "disks of the point")
        for volume in selected:
            disk = disks[volume.disk.target]
            fine = set(self.doubts[volume])
            if volume not in self.known:
                fine |= {"first-backup", "new-disk"}
            if level == "full":
                fine.add("full-requested")
            if disk["level"] == "full":
                fine = fine if not self.compare else fine & {"first-backup", "new-disk",
                                                             "full-requested"}
                self.t.ok(level != "incremental" and disk["reason"] in fine,
                          "%s is full for %s, not for one of %s" % (disk["target"], disk["reason"],
                                                                    sorted(fine)))
                continue
            self.t.ok(level != "full" and volume in self.known, "an increment of nothing")
            if disk["method"] == "compare":
                self.t.ok(self.compare and disk["reason"] in fine,
                          "%s is compared for %s, not for one of %s" % (
                              disk["target"], disk["reason"], sorted(fine)))
        for volume in selected:
            self.known.add(volume)
            self.doubts[volume] &= {"no-bitmap-support"}
        for volume in self.away:
            # Nobody can say whether it comes back, so its checkpoint is deleted.
            self.doubts[volume] |= {"checkpoint-missing", "bitmap-unusable"}
        self.lost |= set(self.lab.checkpoints_needed(self.away)) - set(self.lab.checkpoints_needed())

    def judge_guest(self, result, fault):
        lab, t = self.lab, self.t
        killed = result.status == -9
        if not lab.guest.is_active():
            self.job = False
            return
        t.equal(lab.guest.state()[0], libvirt.VIR_DOMAIN_PAUSED, "the domain's state")
        if killed:
            self.job = True
            return
        t.ok(not lab.guest.job_active(), "a job is left")
        self.job = False
        t.equal(os.listdir(lab.scratch), [], "scratch files are left")
        if result.status == 0 and fault is None:
            found, needed = set(lab.guest.checkpoints()), set(lab.checkpoints_needed())
            t.ok(needed - self.lost <= found <= needed, "checkpoints are %s, needed %s, lost %s" % (
                sorted(found), sorted(needed), sorted(self.lost)))

    # All of it

    def run(self, deadline):
        steps = [(self.step_write, 10), (self.step_fill, 2), (self.step_discard_all, 1),
                 (self.step_flush, 1), (self.step_resize, 2), (self.step_shrink_and_grow, 4),
                 (self.step_off_and_on, 4), (self.step_kill_qemu, 2),
                 (self.step_restart_libvirtd, 1), (self.step_detach, 1), (self.step_attach, 2),
                 (self.step_lose_checkpoint, 0.5), (self.step_foreign_checkpoint, 0.3),
                 (self.step_backup, 8), (self.step_failing_backup, 4),
                 (self.step_disturbed_backup, 2)]
        for _ in range(MOST_STEPS):
            if len(self.lab.points) >= MOST_POINTS or time.monotonic() > deadline:
                break
            choose(self.rng, steps)()
        self.finish()

    def finish(self):
        """Whatever happened, a plain backup succeeds; all verifies and restores."""
        self.say("last backup")
        self.compare = True
        self.judge(self.lab.run().expect(0), "auto", list(self.lab.volumes.values()))
        self.lab.tool.ok("verify", self.lab.name)
        for point, snapshots in self.rng.sample(self.lab.points, min(2, len(self.lab.points))):
            self.say("restore %s", point)
            self.lab.check_restore(point, snapshots)


def one_world(t, seed, deadline):
    t.diag("domain of seed %d" % seed)
    world = World(t, random.Random(seed))
    try:
        world.run(deadline)
    except BaseException:
        t.diag("VMBACKUP_TEST_SEED=%d; steps of the domain of seed %d:" % (tap.seed(), seed))
        for line in world.log:
            t.diag("  " + line)
        t.diag(world.output)
        t.diag("libvirtd: " + world.host.log(1500))
        with open(world.host.qemu_log(world.lab.name), encoding="utf-8", errors="replace") as file:
            t.diag("QEMU: " + file.read()[-2000:])
        raise
    return len(world.log), len(world.lab.points)


@tap.test
def test_property(t):
    deadline = time.monotonic() + seconds()
    domains = steps = points = 0
    while domains == 0 or time.monotonic() < deadline:
        more = one_world(t, t.random.getrandbits(32), deadline)
        domains, steps, points = domains + 1, steps + more[0], points + more[1]
    t.diag("%d domains, %d steps, %d points" % (domains, steps, points))


if __name__ == "__main__":
    tap.main()
