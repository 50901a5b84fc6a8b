# SPDX-License-Identifier: GPL-2.0-or-later
"""A paused domain whose disks have models: every point must hold what the models held then."""

import concurrent.futures
import filecmp
import os
import struct

from vmbtest import differ, image, process, tap
from vmbtest.guest import Disk, Guest
from vmbtest.libvirtd import PrivateLibvirt, libvirt
from vmbtest.vmbackup import Tool

KIB, MIB, GIB = image.KIB, image.MIB, image.GIB
SECTOR = 512


def methods(disks):
    """{target: method} of what Lab.backup() returns."""
    return {target: disk["method"] for target, disk in disks.items()}


def round_up(value, unit):
    """The next multiple."""
    return -(-value // unit) * unit


def differing_blocks(before, after):
    """How many 64 KiB blocks of one raw file are (data, zeroes) and another's are not the same."""
    block, data, zero = 64 * KIB, 0, 0
    nothing = bytes(block)
    with open(before, "rb") as old, open(after, "rb") as new:
        while True:
            now = new.read(block)
            if not now:
                return data, zero
            now = now.ljust(block, b"\0")
            if now != old.read(block).ljust(block, b"\0"):
                data, zero = data + (now != nothing), zero + (now == nothing)


def stored_blocks(point, target):
    """(data, zeroes) that a point of `show --json` stores of a disk."""
    disk = next(d for d in point["manifest"]["disks"] if d["target"] == target)
    return disk["image"]["data_blocks"], disk["image"]["zero_blocks"]


class Volume:
    """An image and the model of what it holds. It may move from disk to disk."""

    def __init__(self, lab, disk):
        lab.number += 1
        self.disk, self.path, self.fmt = disk, disk.path, disk.fmt
        # Of its newest point: the identity, and the copy of what it held.
        self.bound = self.snapshot = None
        facts = image.info(disk.path, disk.fmt)
        # As the guest sees it: QEMU rounds raw images up to whole sectors.
        size = round_up(facts["virtual-size"], SECTOR)
        self.cluster = facts.get("cluster-size", SECTOR)
        self.model = image.Model(lab.host.path(lab.directory, "model-%d" % lab.number), size)

    @property
    def size(self):
        """Bytes that the guest sees."""
        return self.model.size

    @property
    def id(self):
        """How a manifest names the disk."""
        disk = self.disk
        return self.bound or ("serial:" + disk.serial if disk.serial else "target:" + disk.target)

    def changed_behind(self, lab):
        """The model becomes what QEMU reads from the image: after something else wrote it."""
        raw = lab.host.path(lab.directory, "behind.raw")
        image.convert(self.path, raw, self.fmt, force_share=True)
        self.model.resize(os.path.getsize(raw))
        os.replace(raw, self.model.path)


class Lab:
    """One test's domain, repository and models.

    disks    list of Disk
    start    True: started, paused
    Attributes: volumes {target: Volume} of the disks that the domain has now; points: [(id, {target:
    (snapshot, size)})] of all points so far; last: `show --json` of the newest one; foreign: names of
    checkpoints that others made.
    """

    def __init__(self, t, disks, start=True, **guest):
        self.t = t
        self.host = t.once("host", PrivateLibvirt)
        count = t.once("labs", lambda suite: [0])
        count[0] += 1
        self.name, self.number = "exact%d" % count[0], 0
        self.directory = "lab%d" % count[0]
        self.host.directory(self.directory, 0o711)
        self.scratch = self.host.directory(self.directory + "/scratch", 0o711)
        self.repo = self.host.path(self.directory, "repo")
        self.tool = Tool(t, repo=self.repo, host=self.host,
                         env={"VMBACKUP_TEST_RUN_DIR": self.host.directory("vmbrun", 0o711)})
        self.points, self.last, self.foreign = [], None, []
        self._newest = {}
        self._repositories = {}
        self._pending = {}
        self.guest = Guest(self.host, self.name, disks=disks, **guest)
        t.defer(self._end)
        self.volumes = {}
        for disk in self.guest.disks:
            self.volumes[disk.target] = Volume(self, disk)
        self.tool.ok("init")
        if start:
            self.on()

    def _end(self):
        self.guest.destroy()
        if not self.guest.transient:
            self.guest.undefine()

    # Life

    def on(self):
        """Starts it paused."""
        self.guest.start(paused=True)

    def off(self):
        """Ends QEMU in good order, so that it saves the bitmaps."""
        try:
            self.guest.destroy()
        except libvirt.libvirtError as error:
            # A daemon that has just started and still looks at QEMU finds it gone.
            if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:
                raise
            self.guest.wait_off(20)

    def kill_qemu(self):
        """What was flushed stays; the bitmaps do not."""
        self.flush()
        self.guest.kill_qemu()

    def flush(self):
        """Afterwards others that open the images see what they hold."""
        for target in self.volumes if self.guest.is_active() else ():
            self.guest.qemu_io(target, "flush")

    # Writes. Disks are named by target; a Volume that the domain does not have now may be given, too.

    def volume(self, which):
        """The Volume of a target."""
        return which if isinstance(which, Volume) else self.volumes[which]

    def is_live(self, volume):
        """True if QEMU has it open."""
        return volume in self.volumes.values() and self.guest.is_active()

    def apply(self, which, operations):
        """Changes disk and model: (kind, offset, length, pattern) as of image.random_operations."""
        volume = self.volume(which)
        operations = list(operations)
        commands = [image.qemu_io_command(operation) for operation in operations]
        if self.is_live(volume):
            for command in commands:
                self.guest.qemu_io(volume.disk.target, command)
        elif commands:
            process.run("qemu-io", "-f", volume.fmt, "-d", "unmap",
                        *[word for command in commands for word in ("-c", command)], volume.path)
        for operation in operations:
            self._apply_to_model(volume.model, operation)

    @staticmethod
    def _apply_to_model(model, operation):
        kind, offset, length, _ = operation
        if kind == "write" or length < 4 * MIB:
            model.apply(operation)
        else:
            process.run("fallocate", "--punch-hole", "--offset", str(offset), "--length",
                        str(length), model.path)

    def write(self, which, offset, length, pattern):
        """Fills a range with a byte."""
        self.apply(which, [("write", offset, length, pattern)])

    def zero(self, which, offset, length, unmap=False):
        """Write zeroes."""
        self.apply(which, [("zero-unmap" if unmap else "zero", offset, length, 0)])

    def discard(self, which, offset, length):
        """Discard; aligned to clusters, or QEMU may do less."""
        self.apply(which, [("discard", at, min(GIB, offset + length - at), 0)
                           for at in range(offset, offset + length, GIB)])

    def fill(self, which, pattern=0x11):
        """Every byte of the disk gets a value that depends on its MiB."""
        size = self.volume(which).size
        self.apply(which, [("write", at, min(MIB, size - at), 1 + (pattern + at // MIB) % 255)
                           for at in range(0, size, MIB)])

    def resize(self, which, size):
        """Live or offline, larger or smaller."""
        volume = self.volume(which)
        before = volume.size
        if self.is_live(volume):
            self.guest.block_resize(volume.disk.target, size)
        else:
            process.run("qemu-img", "resize", "-q", "-f", volume.fmt,
                        *(["--shrink"] if size < before else []), volume.path, str(size))
        volume.model.resize(size)
        if size > before and before % volume.cluster:
            self._adopt_tail(volume, before, min(size, round_up(before, volume.cluster)))

    def _adopt_tail(self, volume, start, stop):
        """What a shrink left in the end of a cluster is there again after growing: ask QEMU."""
        raw = self.host.path(self.directory, "tail.raw")
        if self.is_live(volume):
            self.guest.qemu_io(volume.disk.target, "flush")
        image.convert(volume.path, raw, volume.fmt, force_share=True)
        with open(raw, "rb") as source, open(volume.model.path, "r+b") as model:
            source.seek(start)
            model.seek(start)
            model.write(source.read(stop - start))
        os.unlink(raw)

    # Disks

    def attach(self, disk, volume=None):
        """Attaches a disk, live or for the next start; volume: one that was detached."""
        target = self.guest.attach_disk(disk)
        self.volumes[target] = volume or Volume(self, disk)
        return target

    def detach(self, target):
        """Takes a disk away; returns its Volume."""
        self.guest.detach_disk(target)
        return self.volumes.pop(target)

    # Backups

    def backup(self, *args, **options):
        """A backup that must succeed. Returns {target: disk} of the new point, and checks them all."""
        before = len(self.points)
        self.run(*args, **options).expect(0)
        self.t.equal(len(self.points), before + 1, "points after a run")
        self.check_points()
        self.check_rest()
        return {disk["target"]: disk for disk in self.last["disks"]}

    def switch(self, name):
        """Backups go to another repository (made if it is new), until switched again."""
        state = ("repo", "points", "last", "_newest")
        self._repositories[self.repo] = {key: getattr(self, key) for key in state}
        path = self.host.path(self.directory, name)
        fresh = {"repo": path, "points": [], "last": None, "_newest": {}}
        for key, value in self._repositories.get(path, fresh).items():
            setattr(self, key, value)
        self.tool.repo = path
        if not os.path.exists(path):
            self.tool.ok("init")

    def run(self, *args, **options):
        """A backup that may fail. If it made a point, that is remembered with the models' bytes."""
        return self.start(*args, **options)()

    def start(self, *args, **options):
        """Begins a backup in the background, of what the models hold now.

        Returns a function that waits for its end and gives its Result; it has the attribute running.
        """
        self.check_models()
        self._take_snapshots()
        running = self.tool.start("backup", self.name, "--scratch-dir", self.scratch, *args,
                                  **options)

        def end():
            result = running.wait()
            self._remember()
            return result
        end.running = running
        return end

    def _take_snapshots(self):
        for snapshot, _ in self._pending.values():
            os.unlink(snapshot)
        self._pending = {}
        for target, volume in self.volumes.items():
            self.number += 1
            path = self.host.path(self.directory, "snapshot-%d.raw" % self.number)
            self._pending[target] = (volume.model.snapshot(path), volume.size)

    def _remember(self):
        known = {point for point, _ in self.points}
        new = [p for p in self.tool.json("list")["points"] if p["id"] not in known]
        if not new:
            return
        self.t.equal(len(new), 1, "one run made several points")
        self.last = self.tool.json("show", "%s/%s" % (self.name, new[0]["id"]))
        self.points.append((self.last["id"], {
            disk["target"]: self._pending.pop(disk["target"]) for disk in self.last["disks"]}))
        for target, (snapshot, _) in self.points[-1][1].items():
            if target in self.volumes:
                self.volumes[target].snapshot = snapshot
        for disk in self.last["manifest"]["disks"]:
            self._newest[disk["id"]] = disk.get("checkpoint")
            if disk["target"] in self.volumes:
                self.volumes[disk["target"]].bound = disk["id"]
            image.check(self.image(self.last["id"], disk["target"]))

    def image(self, point, target):
        """Path of a point's image."""
        return os.path.join(self.repo, "domains", self.guest.uuid, "points", point,
                            target + ".qcow2")

    def reasons(self, target=None):
        """Codes of the newest point's reasons (of a disk)."""
        return [r["code"] for r in self.last["reasons"] if target in (None, r["disk"])]

    def checkpoints_needed(self, volumes=None):
        """The checkpoints of the newest points of the disks that the domain has, and those of others."""
        volumes = self.volumes.values() if volumes is None else volumes
        newest = (self._newest.get(volume.id) for volume in volumes)
        return sorted({name for name in newest if name} | set(self.foreign))

    def damage(self, point, name, offset=None):
        """Changes a byte of a point's file (by default one in its middle); returns what undoes that."""
        path = os.path.join(self.repo, "domains", self.guest.uuid, "points", point, name)
        offset = os.path.getsize(path) // 2 if offset is None else offset
        with open(path, "r+b") as file:
            file.seek(offset)
            byte = file.read(1)[0]

        def put(value):
            with open(path, "r+b") as file:
                file.seek(offset)
                file.write(bytes([value]))
        put(byte ^ 0xff)
        return lambda: put(byte)

    # What must hold

    def check_models(self):
        """The models equal what QEMU reads: otherwise the test is wrong, and not the program."""
        self.flush()
        for target, volume in self.volumes.items():
            size = image.info(volume.path, volume.fmt)["virtual-size"]
            if (round_up(size, SECTOR) != volume.size or
                    image.differs(volume.path, volume.model.path, volume.fmt)):
                raise tap.BailOut("the model of %s is wrong" % target)

    def check_points(self):
        """Every point equals the models of its time, by qemu-img on its chain."""
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            wrong = list(pool.map(self._compare, [
                (point, target, snapshot, size) for point, snapshots in self.points
                for target, (snapshot, size) in snapshots.items()]))
        self.t.equal([text for text in wrong if text], [], "points are not what the disks held")

    def _compare(self, what):
        point, target, snapshot, size = what
        path = self.image(point, target)
        with open(path, "rb") as file:
            found = struct.unpack(">Q", file.read(32)[24:])[0]
        if found != size:
            return "%s of %s has size %d, not %d" % (target, point, found, size)
        return "%s of %s" % (target, point) if image.differs(path, snapshot) else None

    def check_rest(self):
        """The guest is as it was, and nothing is left over."""
        self.t.equal(self.guest.state()[0], libvirt.VIR_DOMAIN_PAUSED, "state")
        self.t.ok(not self.guest.job_active(), "a job is left")
        self.t.equal(os.listdir(self.scratch), [], "scratch files")

    def check_end(self, restores=1):
        """verify finds nothing; the newest points restore to the models' bytes."""
        self.tool.ok("verify", self.name)
        for point, snapshots in self.points[-restores:]:
            self.check_restore(point, snapshots)

    def check_restore(self, point, snapshots):
        """A raw restore is the snapshot, byte for byte."""
        to = self.host.path(self.directory, "restore")
        self.tool.ok("restore", "%s/%s" % (self.name, point), "--to", to, "--format", "raw")
        for target, (snapshot, _) in snapshots.items():
            restored = os.path.join(to, target + ".raw")
            self.t.ok(filecmp.cmp(restored, snapshot, shallow=False),
                      "restored %s of %s differs" % (target, point))
        process.run("rm", "-r", "--", to)

    def check_changes(self):
        """Between any two points just the blocks that differ are listed; targets never moved."""
        for older, before in self.points:
            for newer, after in self.points:
                lines = self.tool.ok("changes", "%s/%s..%s" % (self.name, older, newer),
                                     "--json").json_lines
                for target, (snapshot, _) in after.items():
                    got = [(line["offset"], line["length"], line["zero"]) for line in lines[:-1]
                           if line["target"] == target]
                    wanted = differ.ranges(before.get(target, (None, 0))[0], snapshot)
                    self.t.equal(got, wanted, "%s..%s %s" % (older, newer, target))
