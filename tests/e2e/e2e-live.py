#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""export --live: one moment of a running domain, what has changed since a point or for a consumer, and every end of it."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from vmbtest import differ, image, process, tap  # noqa: E402
from exact_lab import KIB, MIB, Disk, Lab  # noqa: E402

DISKS = [Disk(6 * MIB), Disk(3 * MIB + 512, options={"cluster_size": 4096})]
# Into a directory: a raw copy of each disk, and the map of what has changed.
COPY = ("for d in $VMBACKUP_DISKS; do eval u=\\$VMBACKUP_URI_$d c=\\$VMBACKUP_CONTEXT_$d; "
        "nbdcopy $u %s/$d && if [ -n \"$c\" ]; then nbdinfo --json --map=$c $u >%s/$d.map; "
        "else rm -f %s/$d.map; fi || exit 1; done")


class LiveLab(Lab):
    """A lab whose domain is exported."""

    def __init__(self, t, disks=None, **more):
        super().__init__(t, disks or [Disk(6 * MIB), Disk(3 * MIB + 512, options={"cluster_size": 4096})],
                         **more)
        self.out = self.host.directory(self.directory + "/out", 0o755)

    def live(self, *options, command=None, **how):
        """Exports it for a command, COPY unless told otherwise."""
        command = command or COPY % (self.out, self.out, self.out)
        return self.tool.run("export", "--live", self.name, "--scratch-dir", self.scratch, "--exec",
                             command, *options, **how)

    def snapshots(self):
        """{target: file} of what the models hold now."""
        self.flush()
        found = {}
        for target, volume in self.volumes.items():
            self.number += 1
            found[target] = volume.model.snapshot(self.host.path(self.directory, "now-%d.raw" % self.number))
        return found

    def check_copies(self, snapshots):
        """What the last command has copied."""
        for target, snapshot in snapshots.items():
            self.t.ok(process.run("cmp", snapshot, os.path.join(self.out, target)) == "", target)

    def dirty(self, target):
        """Ranges of the last map of changes; None: there was none."""
        path = os.path.join(self.out, target + ".map")
        if not os.path.exists(path):
            return None
        with open(path, encoding="utf-8") as file:
            return [(e["offset"], e["length"]) for e in json.load(file) if e["type"] != 0]

    def check_dirty(self, before, after):
        """All that differs is dirty, and not much else."""
        for target, snapshot in after.items():
            dirty = self.dirty(target)
            self.t.ok(dirty is not None, "%s: no map" % target)
            with open(before[target], "rb") as old, open(snapshot, "rb") as new:
                for offset, length, _ in differ.ranges(before[target], snapshot):
                    for at in range(offset, offset + length, 512):
                        old.seek(at)
                        new.seek(at)
                        self.t.ok(old.read(512) == new.read(512) or
                                  any(start <= at < start + size for start, size in dirty),
                                  "%s: the change at %d is not told" % (target, at))

    def consumers(self):
        """Names of records in the repository."""
        path = os.path.join(self.tool.repo, "domains", self.guest.uuid, "consumers")
        return sorted(os.listdir(path)) if os.path.isdir(path) else []

    def clean(self):
        """Nothing is left but what is needed."""
        self.check_rest()
        self.t.ok(not os.path.exists(os.path.join(self.tool.repo, "domains", self.guest.uuid, "journal")),
                  "a journal")


@tap.test
def test_one_moment(t):
    """What the command reads is the moment at which it began, whatever the guest writes meanwhile."""
    lab = LiveLab(t)
    lab.fill("vda")
    lab.fill("vdb", 0x40)
    before = lab.snapshots()
    gate = lab.host.path(lab.directory, "gate")
    running = lab.tool.start("export", "--live", lab.name, "--scratch-dir", lab.scratch, "--exec",
                             "touch %s.begun; while [ ! -e %s ]; do sleep 0.1; done; %s" % (
                                 gate, gate, COPY % (lab.out, lab.out, lab.out)))
    t.eventually(lambda: os.path.exists(gate + ".begun"), 60, "the command does not run")
    t.ok(lab.guest.job_active(), "no job")
    lab.write("vda", 0, 2 * MIB, 0x99)
    lab.write("vdb", MIB, MIB, 0x98)
    with open(gate, "w", encoding="ascii"):
        pass
    running.wait(60).expect(0)
    lab.check_copies(before)
    t.equal(lab.dirty("vda"), None)
    lab.clean()
    t.equal(lab.guest.checkpoints(), [])
    # Backups do not notice.
    lab.backup()
    lab.write("vda", 0, MIB, 0x77)
    lab.live().expect(0)
    lab.backup()
    lab.check_end()


@tap.test
def test_since(t):
    """Since the newest point: all that has changed, and the export leaves the backups' bitmaps alone."""
    lab = LiveLab(t)
    lab.fill("vda")
    lab.backup()
    for _ in range(3):
        before = lab.snapshots()
        lab.write("vda", MIB, 200 * KIB, t.random.randrange(1, 255))
        lab.zero("vda", 4 * MIB, 128 * KIB)
        lab.write("vdb", 5 * KIB, 3 * KIB, t.random.randrange(1, 255))
        after = lab.snapshots()
        lab.live("--since", "latest", "--disk", "vda").expect(0)
        lab.check_copies({"vda": after["vda"]})
        lab.check_dirty(before, {"vda": after["vda"]})
        t.ok(sum(length for _, length in lab.dirty("vda")) < MIB, "nearly all of it is dirty")
        lab.clean()
        disks = lab.backup()
        t.equal({disk["method"] for disk in disks.values()}, {"bitmap"})
    # An older point has no bitmap any more; a disk that is new or resized has none.
    lab.live("--since", lab.points[0][0], "--disk", "vda").expect(23).says("only since", "changes")
    # With small clusters QEMU may lose dirty bits unseen.
    lab.live("--since", "latest", "--disk", "vdb").expect(23)
    lab.resize("vda", 8 * MIB)
    lab.live("--since", "latest", "--disk", "vda").expect(23)
    lab.live("--since", "2000").expect(21)
    lab.backup()
    lab.zero("vda", 7 * MIB, MIB)
    lab.write("vda", 7 * MIB, MIB, 0x31)
    lab.backup()
    # Shrunk and grown: the bitmap does not know, so nothing is told by it.
    lab.resize("vda", 5 * MIB)
    lab.resize("vda", 8 * MIB)
    lab.live("--since", "latest", "--disk", "vda").expect(23).says("shrunk and grown")
    lab.clean()
    lab.backup()
    lab.check_end(restores=2)


@tap.test
def test_consumers(t):
    """Two of them beside backups: each gets what has changed since its own last success."""
    lab = LiveLab(t)
    lab.fill("vda")
    base = {}

    def run(name, command=None, status=0):
        after = lab.snapshots()
        lab.live("--consumer", name, command=command).expect(status)
        lab.clean()
        return after
    base["one"] = run("one")
    t.equal(lab.dirty("vda"), None, "the first time all of it counts")
    lab.check_copies(base["one"])
    lab.write("vda", 0, 64 * KIB, 1)
    base["two"] = run("two")
    for number in range(4):
        lab.write("vda", (number + 1) * MIB, 64 * KIB, 2 + number)
        lab.write("vdb", number * 100 * KIB, KIB, 3)
        if number == 1:
            lab.backup()
        name = "one" if number % 2 else "two"
        after = run(name)
        lab.check_copies(after)
        lab.check_dirty(base[name], after)
        t.ok(sum(length for _, length in lab.dirty("vda")) <= 512 * KIB, lab.dirty("vda"))
        base[name] = after
    t.equal(lab.consumers(), ["one.json", "two.json"])
    # A command that fails advances nothing: the next one gets it all.
    lab.write("vda", 5 * MIB, 64 * KIB, 9)
    run("one", command="exit 7", status=1)
    lab.write("vda", 0, 64 * KIB, 10)
    after = run("one")
    lab.check_dirty(base["one"], after)
    disks = lab.backup()
    t.equal({disk["method"] for disk in disks.values()}, {"bitmap"}, "the backups have their own")
    t.equal(len(lab.guest.checkpoints()), 3)
    lab.tool.ok("doctor", lab.name)
    t.equal(len(lab.guest.checkpoints()), 3, "the doctor leaves them")
    lab.resize("vda", 7 * MIB)
    run("one")
    t.equal((lab.dirty("vda"), lab.dirty("vdb") is None), (None, False))
    lab.tool.ok("release", lab.name)
    t.equal((lab.guest.checkpoints(), lab.consumers()), ([], []))
    run("one")
    t.equal(lab.dirty("vda"), None)


@tap.test
def test_consumer_released(t):
    """One that nobody needs any more goes alone, also if its release is killed or its record damaged."""
    lab = LiveLab(t, [Disk(3 * MIB)])
    lab.fill("vda")
    lab.backup()
    for name in ("one", "two", "three"):
        lab.live("--consumer", name).expect(0)
    lab.tool.run("release", lab.name, "--consumer", "four").expect(21).says("'four'", "one, three, two")
    lab.tool.run("release", lab.name, "--consumer", "one", "--repository-id", "4f1d0c22").expect(2)
    t.contains(lab.tool.ok("doctor", lab.name).out, "two has taken all up to")
    for days, hint in ((29, False), (31, True)):
        out = lab.tool.ok("doctor", lab.name, VMBACKUP_TEST_CLOCK=str(int(time.time()) + days * 86400)).out
        t.equal("release %s --consumer two" % lab.name in out, hint, "after %d days" % days)
    told = lab.tool.json("release", lab.name, "--consumer", "two", "--dry-run")
    t.equal((told["consumers"], len(told["checkpoints"])), (["two"], 1))
    t.equal((len(lab.consumers()), len(lab.guest.checkpoints())), (3, 4))
    lab.tool.run("release", lab.name, "--consumer", "two",
                 fail_at="checkpoint-deleted=kill").expect(-9)
    t.equal((len(lab.consumers()), len(lab.guest.checkpoints())), (3, 3))
    t.contains(lab.tool.ok("doctor", lab.name).out, "it has no checkpoint here")
    t.contains(lab.tool.ok("release", lab.name, "--consumer", "two").out, "forgot the consumer 'two'")
    t.equal((lab.consumers(), len(lab.guest.checkpoints())), (["one.json", "three.json"], 3))
    base = lab.snapshots()
    lab.write("vda", MIB, 64 * KIB, 0x21)
    after = lab.snapshots()
    lab.live("--consumer", "one").expect(0)
    t.equal(lab.dirty("vda") is None, False, "the others go on")
    lab.check_dirty(base, after)
    t.equal({disk["method"] for disk in lab.backup().values()}, {"bitmap"}, "and so do backups")
    path = os.path.join(lab.tool.repo, "domains", lab.guest.uuid, "consumers", "three.json")
    with open(path, "r+b") as file:
        file.write(b"!")
    result = lab.tool.run("doctor", lab.name).expect(1)
    t.contains(result.out, "release %s --consumer three" % lab.name)
    lab.tool.ok("release", lab.name, "--consumer", "three").says("is not known")
    t.equal(lab.consumers(), ["one.json"])
    t.contains(lab.tool.ok("doctor", lab.name).out, "neither its points nor its journal name")
    lab.tool.ok("release", lab.name)
    t.equal((lab.guest.checkpoints(), lab.consumers()), ([], []))


@tap.test
def test_killed_consumer(t):
    """At each step of advancing: either the old checkpoint or the new one counts, and the other one goes."""
    lab = LiveLab(t, [Disk(3 * MIB)])
    lab.fill("vda")
    lab.live("--consumer", "one").expect(0)
    base = lab.snapshots()
    for step in ("export-ready", "consumer-noted", "consumer-advanced", "checkpoint-deleted"):
        for action in ("kill", "fail"):
            lab.write("vda", t.random.randrange(40) * 64 * KIB, 64 * KIB, t.random.randrange(1, 255))
            after = lab.snapshots()
            result = lab.live("--consumer", "one", fail_at="%s=%s" % (step, action))
            t.ok(result.status != 0 or (step, action) == ("checkpoint-deleted", "fail"), step)
            advanced = step in ("consumer-advanced", "checkpoint-deleted")
            if advanced:
                base = after
            lab.write("vda", t.random.randrange(40) * 64 * KIB, 64 * KIB, t.random.randrange(1, 255))
            after = lab.snapshots()
            lab.live("--consumer", "one").expect(0)
            lab.check_copies(after)
            lab.check_dirty(base, after)
            lab.clean()
            t.equal(len(lab.guest.checkpoints()), 1, "%s %s" % (step, action))
            base = after
    # A backup in between tidies up just as well.
    lab.live("--consumer", "one", fail_at="consumer-advanced=kill").expect(-9)
    lab.backup()
    t.equal(len(lab.guest.checkpoints()), 2)
    after = lab.snapshots()
    lab.live("--consumer", "one").expect(0)
    lab.check_dirty(base, after)


@tap.test
def test_changes(t):
    """changes A..live: just the blocks that differ, from the newest point (by bitmap) and any other, across resizes."""
    lab = LiveLab(t, [Disk(6 * MIB), Disk(3 * MIB + 512, options={"cluster_size": 4096}), Disk(2 * MIB, fmt="raw")])
    lab.fill("vda")

    def check():
        now = lab.snapshots()
        for point, held in lab.points:
            lines = lab.tool.ok("changes", "%s/%s..live" % (lab.name, point), "--scratch-dir", lab.scratch,
                                "--json").json_lines
            for target, snapshot in now.items():
                got = [(line["offset"], line["length"], line["zero"]) for line in lines[:-1]
                       if line["target"] == target]
                t.equal(got, differ.ranges(held.get(target, (None,))[0], snapshot), "%s..live %s" % (point, target))
            t.equal((lines[-1]["since"], lines[-1]["domain"], lines[-1]["error"]), (point, lab.name, None))
        lab.clean()

    def writes():
        for target, volume in lab.volumes.items():
            lab.apply(target, image.random_operations(t.random, volume.size, 5, 64 * KIB, MIB))
    lab.backup()
    check()
    for step in (None, ("vda", 8 * MIB), ("vda", 5 * MIB - 512), ("vdb", 2 * MIB)):
        writes()
        check()
        if step:
            lab.resize(*step)
            check()
        lab.backup()
    lab.resize("vda", 3 * MIB)
    lab.resize("vda", 5 * MIB)
    check()
    lab.attach(Disk(MIB, target="vdd"))
    lab.write("vdd", 0, 100 * KIB, 5)
    check()
    lab.tool.ok("prune", lab.name, "--keep-last", "2")
    listed = [point["id"] for point in lab.tool.json("list")["points"]]
    lab.points = [(point, held) for point, held in lab.points if point in listed]
    check()
    out = lab.tool.ok("changes", lab.name + "/latest..live", "--disk", "vda", "--scratch-dir", lab.scratch).out
    t.ok(out.splitlines()[-1].startswith("vda: "), out)
    disks = lab.backup()
    t.equal(disks["vdb"]["method"], "bitmap")


@tap.test
def test_slow_reader(t):
    """Who reads the list slowly does not hold the job."""
    lab = LiveLab(t, [Disk(8 * MIB)])
    lab.backup()
    for number in range(60):
        lab.write("vda", number * 2 * 64 * KIB, 64 * KIB, 1 + number)
    child = subprocess.Popen(lab.tool.argv("changes", lab.name + "/latest..live", "--scratch-dir", lab.scratch, "--json"),
                             env=dict(os.environ, **lab.tool.env), stdout=subprocess.PIPE)
    fcntl.fcntl(child.stdout, fcntl.F_SETPIPE_SZ, 4096)
    lab.backup("--lock-wait", "60s")
    t.equal(child.poll(), None, "it should still be writing")
    lines = child.stdout.read().splitlines()
    t.equal((child.wait(20), len(lines)), (0, 61))
    child.stdout.close()


@tap.test
def test_other_image(t):
    """A bitmap goes with its image: where another one with the same bitmap is in its place, all of it counts."""
    lab = LiveLab(t, [Disk(3 * MIB)])
    lab.fill("vda")
    lab.live("--consumer", "one").expect(0)
    lab.live("--consumer", "one").expect(0)
    t.equal(lab.dirty("vda"), [])
    lab.off()
    path = lab.volumes["vda"].path
    process.run("cp", "-a", path, path + ".new")
    os.rename(path + ".new", path)
    lab.on()
    lab.live("--consumer", "one").expect(0).says("not what it was")
    t.equal(lab.dirty("vda"), None)
    lab.live("--consumer", "one").expect(0)
    t.equal(lab.dirty("vda"), [])


@tap.test
def test_stubborn_command(t):
    """A command that ignores that it is to end does not hold the job."""
    lab = LiveLab(t, [Disk(3 * MIB)])
    begun = lab.host.path(lab.directory, "begun")
    running = lab.tool.start("export", "--live", lab.name, "--scratch-dir", lab.scratch, "--exec",
                             "trap '' TERM; touch %s; while :; do sleep 1; done" % begun)
    t.eventually(lambda: os.path.exists(begun), 60, "the command does not run")
    running.signal(signal.SIGTERM)
    t.eventually(lambda: not lab.guest.job_active(), 5, "the job waits for the command")
    running.wait(30).expect(128 + signal.SIGTERM)
    lab.clean()


@tap.test
def test_ends(t):
    """A signal, a kill, a job that somebody ends, a domain that goes: nothing stays behind."""
    lab = LiveLab(t, [Disk(3 * MIB)])
    lab.fill("vda")
    link = lab.host.path(lab.directory, "sock")

    def start(*options):
        running = lab.tool.start("export", "--live", lab.name, "--scratch-dir", lab.scratch, "--json", *options)
        t.eventually(running.output, 60, "it is not ready")
        return running, json.loads(running.output().splitlines()[0])
    running, ready = start("--socket", link)
    t.equal(ready["disks"][0]["uri"], "nbd+unix:///vda?socket=" + link)
    t.equal(subprocess.run(["nbdinfo", "--size", ready["disks"][0]["uri"]], check=True, capture_output=True,
                           text=True).stdout.strip(), str(3 * MIB))
    running.signal(signal.SIGTERM)
    running.wait(60).expect(0)
    t.ok(not os.path.lexists(link), "the link is left")
    lab.clean()
    running, _ = start("--exec", "exec sleep 1000")
    running.signal(signal.SIGINT)
    running.wait(60).expect(128 + signal.SIGINT)
    lab.clean()
    running, _ = start("--exec", "exec sleep 1000")
    running.kill9()
    running.wait(20)
    t.eventually(lambda: not lab.guest.job_active(), 60, "the guard does not end the job")
    lab.backup()
    lab.clean()
    running, _ = start("--exec", "exec sleep 1000", "--consumer", "one")
    lab.guest.dom.abortJob()
    result = running.wait(60)
    t.ok(result.status == 1, result.describe())
    lab.check_rest()
    running, _ = start("--exec", "exec sleep 1000")
    lab.guest.destroy()
    result = running.wait(60)
    t.ok(result.status not in (0, 128 + signal.SIGTERM), result.describe())
    lab.live().expect(21).says("shut off")
    lab.on()
    lab.backup()
    lab.clean()


@tap.test
def test_stalled_clients(t):
    """One that connects and says nothing, one that stops in the middle: neither holds the end, or the guest."""
    lab = LiveLab(t, [Disk(3 * MIB)])
    lab.fill("vda")
    for how in ("signal", "abort"):
        path = lab.host.path(lab.directory, "s-" + how)
        running = lab.tool.start("export", "--live", lab.name, "--scratch-dir", lab.scratch, "--socket", path,
                                 "--json")
        t.eventually(running.output, 60, "it is not ready")
        silent = socket.socket(socket.AF_UNIX)
        silent.connect(path)
        t.ok(silent.recv(100).startswith(b"NBDMAGIC"), "no server")
        lost = subprocess.Popen(["nbdcopy", "nbd+unix:///vda?socket=" + path, "-"], stdout=subprocess.PIPE)
        lost.stdout.read(1000)
        if how == "signal":
            # One that leaves off in the handshake is sent away.
            half = socket.socket(socket.AF_UNIX)
            half.connect(path)
            half.settimeout(30)
            half.recv(18, socket.MSG_WAITALL)
            half.sendall(bytes([0, 0, 0, 3]))
            t.equal(half.recv(1), b"", "it is kept")
            half.close()
            running.signal(signal.SIGTERM)
            running.wait(20).expect(0)
            lab.clean()
        else:
            # QEMU waits for clients that are not done with the handshake; libvirt and the guest with it.
            lab.guest.dom.abortJob()
            running.wait(60).expect(1)
            t.eventually(lambda: not lab.guest.job_active(), 60, "the job hangs")
        silent.close()
        lost.kill()
        lost.wait()
        lost.stdout.close()
    lab.backup()
    lab.clean()


@tap.test
def test_wrong_input(t):
    """What does not go together, and paths that are taken."""
    lab = LiveLab(t, [Disk(MIB)])
    taken = lab.host.path(lab.directory, "taken")
    with open(taken, "w", encoding="ascii"):
        pass
    lab.tool.run("export", "--live", lab.name, "--scratch-dir", lab.scratch, "--socket", taken).expect(2).says(
        "left alone")
    lab.clean()
    for words in (["--rw", "--exec", "true"], ["--tls-psk", "/x", "--exec", "true"], [], ["--consumer", "x", "--socket", "/x"],
                  ["--consumer", "x", "--since", "latest", "--exec", "true"],
                  ["--consumer", "../x", "--exec", "true"], ["--disk", "vdz", "--exec", "true"]):
        lab.tool.run("export", "--live", lab.name, "--scratch-dir", lab.scratch, *words).expect(2)
    lab.live("--since", "latest").expect(21)
    lab.clean()


@tap.test
def test_running_guest(t):
    """A guest that runs is frozen for the moment: its filesystem is in order in the copy."""
    lab = LiveLab(t, [Disk(64 * MIB)], start=False)
    lab.guest.start()
    lab.guest.wait_agent()
    lab.live("--quiesce", "require").expect(0)
    t.equal(lab.guest.freeze_status(), "thawed")
    process.run("e2fsck", "-fn", os.path.join(lab.out, "vda"))
    t.equal(lab.guest.checkpoints(), [])


if __name__ == "__main__":
    tap.main()
