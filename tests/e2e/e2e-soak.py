#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Round after round, program, guard, daemon and QEMU are killed at random; nothing is ever lost.

VMBACKUP_TEST_ROUNDS says how many rounds (8; with VMBACKUP_TEST_LONG 60), VMBACKUP_TEST_SEED
repeats the same faults, although not to the millisecond.
"""

import collections
import os
import shutil
import signal
import time

from common import GUARD_END, RESCUE, Bench, Guest, MIB, Repository, image, libvirt, process, tap
from vmbtest.guest import check_images
from vmbtest.libvirtd import PrivateLibvirt

ROUNDS = int(os.environ.get("VMBACKUP_TEST_ROUNDS") or
             (60 if os.environ.get("VMBACKUP_TEST_LONG") else 8))
SAMPLE = 10  # rounds between two looks into a restored point
KINDS = ("vmbackup", "guard", "libvirtd", "QEMU", "TERM")
# One of them is drawn out where a fault would otherwise seldom hit.
SLOW = (None, None, "guard-armed", "frozen", "job-started", "disk-data", "job-ended",
        "staging-synced", "points-synced")


class Soak(Bench):
    """A bench whose guest writes to two disks of its own, which are backed up as well."""

    WRITTEN = ("vdc", "vdd")

    def __init__(self, suite):
        self.host = PrivateLibvirt(suite)
        self.guest = Guest(self.host, disks=[*self.SIZES, 40 * MIB, 24 * MIB], mount=self.WRITTEN,
                           writer=True, start=True)
        self.scratch = self.host.directory("scratch", 0o711)
        self.run_dir = self.host.directory("vmbrun", 0o711)
        self.guard_log = self.host.path("tmp", "guard.log")
        self.models = {target: image.Model(self.host.path("tmp", "model-" + target), size)
                       for target, size in zip(self.TARGETS, self.SIZES)}
        self._snapshots = 0
        self.daemon_up, self.qemu_up = True, True
        self.kills = collections.Counter()

    # The faults. Each may come upon a machine where others have struck already.

    def strike(self, kind, running):
        """One fault; returns False if there was nothing to hit."""
        hit = getattr(self, "_strike_" + kind)(running)
        self.kills[kind] += bool(hit)
        return hit

    @staticmethod
    def _strike_vmbackup(running):
        alive = running.running()
        if alive:
            running.kill9()
        return alive

    @staticmethod
    def _strike_TERM(running):
        alive = running.running()
        if alive:
            running.signal(signal.SIGTERM)
        return alive

    def _strike_guard(self, _running):
        guards = self.guards()
        for pid in guards:
            process.kill(pid)
        return guards

    def _strike_libvirtd(self, _running):
        up, self.daemon_up = self.daemon_up, False
        if up:
            self.host.kill9()
        return up

    def _strike_QEMU(self, _running):
        up, self.qemu_up = self.qemu_up, False
        if up:
            process.kill(self.host.qemu_pid(self.guest.name))
        return up

    def is_lost(self):
        """libvirt has lost the job that its death left half begun, or with it the domain."""
        if not self.guest.is_active():
            try:
                return process.alive(self.host.qemu_pid(self.guest.name))
            except FileNotFoundError:
                return False
        deadline = time.monotonic() + 4
        while time.monotonic() < deadline:
            try:
                self.guest.job_active()
                return False
            except libvirt.libvirtError:
                time.sleep(0.1)
        return True

    def find_again(self, t):
        """What vmbackup-recovery(7) says of a lost job. True if there was one."""
        lost = self.is_lost()
        if lost:
            t.diag("  libvirt has lost the job")
            self.host.forget_backup_job(self.guest.name)
            t.eventually(self.guest.is_active, 20, "libvirt finds the domain")
        return lost

    def mend(self):
        """What an init system and an administrator do: the daemon runs, the domain is started."""
        if not self.daemon_up:
            self.host.start()
            self.daemon_up = True
        if not self.qemu_up:
            # libvirt may need 30 s to notice, if there is a job.
            self.guest.wait_off(60)
            self.guest.start()
            self.guest.wait_agent()
            self.qemu_up = True


class Chain(Repository):
    """The repository; the guest's own disks have no model, but a content that proves itself."""

    @staticmethod
    def _arguments(bench, more):
        return ["backup", bench.guest.name, "--scratch-dir", bench.scratch, "--json", *more]

    def __init__(self, bench, path, cleanup):
        super().__init__(bench, path, cleanup)
        self.facts = collections.Counter()

    def accept(self, t, content):
        """The one new point; what it must read as. Returns its manifest."""
        (name,) = self.new_points()
        self.expected[name] = content
        manifest = self.manifest(name)
        self.facts[manifest["consistency"]] += 1
        for disk in manifest["disks"]:
            self.facts[disk["method"]] += 1
        for target, path in content.items():
            image.compare(self.image(name, target), path)
        t.diag("  point %s: %s, %s, %s" % (
            name, manifest["consistency"], [d["method"] for d in manifest["disks"]],
            sorted({r["code"] for r in manifest["reasons"]})))
        return manifest

    def image(self, name, target):
        """Path of an image in a point."""
        return os.path.join(self.domain, "points", name, target + ".qcow2")

    def assert_clean(self, t):
        """What holds after each successful run."""
        bench = self.bench
        wanted = [self.newest_checkpoint()]
        t.equal(bench.guest.checkpoints(), wanted, "checkpoints")
        for target in (*bench.TARGETS, *bench.WRITTEN):
            t.equal(bench.guest.bitmaps(target), wanted, "bitmaps of " + target)
        t.equal(bench.leftovers(), [], "left behind")
        t.equal(self.left(), [], "left in the repository")
        t.equal(self.ids(), list(self.expected), "the points")

    def restore(self, t, name):
        """By the program; all bytes that are known, and the rest by the guest's own digests."""
        to = self.bench.host.path("tmp", "restored")
        self.tool.ok("restore", "%s/%s" % (self.bench.guest.name, name), "--to", to, "--format",
                     "raw")
        for target, path in self.expected[name].items():
            restored = os.path.join(to, target + ".raw")
            t.equal(os.path.getsize(restored), os.path.getsize(path), "size of " + restored)
            image.compare(restored, path, "raw")
        return to

    def restore_and_boot(self, t, name):
        """And a look at what the guest wrote: both disks are of one instant."""
        to = self.restore(t, name)
        facts = check_images(self.bench.host, {target: os.path.join(to, target + ".raw")
                                               for target in self.bench.WRITTEN}, fmt="raw")
        shutil.rmtree(to)
        first, second = (facts[target] for target in self.bench.WRITTEN)
        t.diag("  %s restored: counters %d and %d, %d and %d files" % (
            name, first["counter"], second["counter"], first["sums_good"], second["sums_good"]))
        t.equal((first["sums_bad"], second["sums_bad"]), (0, 0), "damaged files in " + name)
        t.ok(0 <= first["counter"] - second["counter"] <= 1,
             "%s: counters %d and %d" % (name, first["counter"], second["counter"]))
        if self.manifest(name)["consistency"] == "filesystem":
            t.equal([facts[target][key] for target in facts for key in ("needs_recovery", "fsck")],
                    [0] * 4, "filesystems of " + name)


class Round:
    """A backup under fire, and the one after it."""

    def __init__(self, t, number, bench, chain):
        self.t, self.number, self.bench, self.chain = t, number, bench, chain
        self.rng = t.random

    def choose(self):
        """[(seconds to wait before it, kind)], and the step at which time is drawn out."""
        count = self.rng.choice((1, 1, 1, 2, 2, 3))
        kinds = self.rng.sample(KINDS, count)
        return ([(self.rng.random() * (1.1 if i == 0 else 0.4), kind)
                 for i, kind in enumerate(kinds)], self.rng.choice(SLOW))

    def under_fire(self):
        """The run that is hit. Returns its Result, and whether nobody is left to mend after it."""
        bench, rng = self.bench, self.rng
        plan, slow = self.choose()
        self.t.diag("round %d: %s%s" % (
            self.number, ", ".join("%s after %.2f s" % (kind, delay) for delay, kind in plan),
            ", slow at " + slow if slow else ""))
        bench.write(rng)
        content = bench.content()
        running = self.chain.start(fail_at=slow and "%s=delay:%d" % (slow, rng.randrange(200, 900)))
        hit = set()
        for delay, kind in plan:
            time.sleep(delay)
            if bench.strike(kind, running):
                hit.add(kind)
        time.sleep(rng.random() * 0.5)
        bench.mend()
        result = running.wait(180)
        self.t.diag("  status %d after %.1f s" % (result.status, result.seconds))
        lost = "libvirtd" in hit and bench.find_again(self.t)
        if self.chain.new_points():
            self.chain.accept(self.t, content)
        else:
            self.t.ok(result.status != 0, "status 0 without a point\n" + result.describe())
        return result, lost or {"vmbackup", "guard"} <= hit

    def next_run(self):
        """The next backup, which nobody has prepared."""
        bench, t = self.bench, self.t
        bench.write(self.rng)
        content = bench.content()
        state = self.rng.choice(("filesystem",) * 6 + ("paused",) * 2 + ("offline",) * 2)
        if state == "paused" and not bench.thawed():
            # A guest that a dead run has left frozen cannot be thawed while it is paused.
            state = "filesystem"
        if state == "paused":
            bench.guest.suspend()
        elif state == "offline":
            bench.guest.destroy()
        if state != "filesystem":
            # Nobody writes now, so that these are known as well.
            for target in bench.WRITTEN:
                content[target] = bench.guest.disk_raw(
                    target, bench.host.path("tmp", "c%d-%s" % (self.number, target)))
        try:
            result = self.chain.run().expect(0)
        finally:
            if state == "paused":
                bench.guest.resume()
            elif state == "offline":
                bench.guest.start()
                bench.guest.wait_agent()
        self.check_next(result, content, state)

    def check_next(self, result, content, state):
        """It was good, and has tidied up."""
        t, bench = self.t, self.bench
        manifest = self.chain.accept(t, content)
        for target in bench.WRITTEN:
            # Compared; too large to be kept.
            if target in content:
                os.unlink(content.pop(target))
        codes = {reason["code"] for reason in manifest["reasons"]}
        t.ok(manifest["consistency"] == state,
             "the next run is %s\n%s" % (manifest["consistency"], result.describe()))
        if state == "paused" and "leftovers-kept" in codes:
            # Whether a dead run had frozen it, a paused guest cannot be asked: that is for the next one.
            content = bench.content()
            result = self.chain.run().expect(0)
            codes = {reason["code"] for reason in self.chain.accept(t, content)["reasons"]}
        t.ok(not codes & {"leftovers-kept", "checkpoint-not-deleted"}, result.describe())
        bench.wait_released(t)
        bench.guest.assert_healthy()
        self.chain.assert_clean(t)
        t.ok(bench.guest.is_writing(10), "the guest does not write")

    def all(self):
        """One round."""
        _result, helpless = self.under_fire()
        if self.rng.random() < 0.5:
            # Otherwise the next run begins while the guard may still be at work.
            if not helpless:
                self.bench.wait_released(self.t, RESCUE + 10)
            self.bench.wait_no_guard(self.t, GUARD_END)
        self.next_run()


def final_comparison(t, bench, chain):
    """The guest holds still: the last increment, and all that was ever stored, byte by byte."""
    bench.guest.suspend()
    content = bench.content()
    raw = {target: bench.guest.disk_raw(target, bench.host.path("tmp", "final-" + target))
           for target in (*bench.TARGETS, *bench.WRITTEN)}
    for target, path in content.items():
        image.compare(raw[target], path, "raw")
    chain.run().expect(0)
    chain.accept(t, raw)
    chain.assert_clean(t)
    bench.guest.resume()
    chain.tool.ok("verify", bench.guest.name, timeout=600)
    for name in chain.ids():
        shutil.rmtree(chain.restore(t, name))
    chain.restore_and_boot(t, chain.ids()[-1])


@tap.test
def test_soak(t):
    started = time.monotonic()
    bench = Soak(t)
    path = bench.host.tmpfs("repo", 3 * 1024 * MIB, 0o700)
    t.defer(bench.host.umount, path)
    chain = Chain(bench, path, t)
    bench.write(t.random)
    content = bench.content()
    chain.run().expect(0)
    chain.accept(t, content)
    for number in range(1, ROUNDS + 1):
        Round(t, number, bench, chain).all()
        if number % SAMPLE == 0:
            chain.restore_and_boot(t, t.random.choice(chain.ids()))
    final_comparison(t, bench, chain)
    t.diag("soak: %d rounds; killed: %s; %d points, all restored and compared (%s); seed %d; %d s" % (
        ROUNDS, ", ".join("%s %d" % (kind, bench.kills[kind]) for kind in KINDS),
        len(chain.expected), ", ".join("%s %d" % item for item in sorted(chain.facts.items())),
        tap.seed(), time.monotonic() - started))


if __name__ == "__main__":
    tap.main()
