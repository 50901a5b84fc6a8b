#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Nights of backups and prunes: what is kept holds what the disks held, and the full is never rewritten."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from vmbtest import image, tap  # noqa: E402
from exact_lab import KIB, MIB, Disk, Lab, methods  # noqa: E402

NIGHTS = 12
KEEP = 4
# One of them is drawn for a prune that is killed; the next one goes on.
STEPS = """point-retired fold-recorded fold-appended fold-ready fold-switched fold-image-moved fold-digests-moved
fold-manifest-written fold-cleaned fold-record-cleared point-trashed point-removed""".split()


def forget_dropped(lab):
    """The lab knows only of points that are still listed."""
    listed = [point["id"] for point in lab.tool.json("list")["points"]]
    lab.points = [(point, disks) for point, disks in lab.points if point in listed]
    lab.t.equal([point for point, _ in lab.points], listed)
    return listed


def prune(lab, *options, **how):
    """Prunes; what stays must hold what it held."""
    result = lab.tool.run("prune", lab.name, *options, **how)
    forget_dropped(lab)
    lab.check_points()
    return result


def night(lab, number):
    """The guest writes here and there; now and then much, and over what it had zeroed before."""
    rng = lab.t.random
    for target, volume in lab.volumes.items():
        operations = image.random_operations(rng, volume.size, rng.randrange(1, 12), 64 * KIB, MIB)
        lab.apply(target, operations)
    if number % 5 == 3:
        lab.discard("vda", 2 * MIB, 3 * MIB)
    if number == 4:
        lab.resize("vdb", 5 * MIB)
    if number == 6:
        lab.resize("vdb", 9 * MIB)


@tap.test
def test_nights(t):
    """--keep-last N night after night: exact points, bitmaps all along, and one file that was the full."""
    lab = Lab(t, [Disk(24 * MIB), Disk(8 * MIB)])
    lab.fill("vda")
    lab.fill("vdb", 0x40)
    lab.backup()
    full = os.stat(lab.image(lab.points[0][0], "vda")).st_ino
    for number in range(NIGHTS):
        night(lab, number)
        disks = lab.backup()
        t.equal(methods(disks), {"vda": "bitmap", "vdb": "bitmap"})
        prune(lab, "--keep-last", str(KEEP)).expect(0)
        t.equal(len(lab.points), min(KEEP, number + 2))
        # In place: the oldest point's image is the file that the first full was.
        t.equal(os.stat(lab.image(lab.points[0][0], "vda")).st_ino, full, "the full was rewritten")
    levels = [point["level"] for point in lab.tool.json("list")["points"]]
    t.equal(levels, ["full"] + ["incremental"] * (KEEP - 1))
    for point, _ in lab.points:
        for target in lab.volumes:
            image.check(lab.image(point, target))
    lab.check_end(restores=KEEP)
    lab.check_changes()


@tap.test
def test_killed_prunes(t):
    """A prune may die at any step: points are read as before, and the next one goes on where it was."""
    lab = Lab(t, [Disk(6 * MIB), Disk(3 * MIB)])
    lab.fill("vda")
    lab.fill("vdb")
    lab.backup()
    steps = list(STEPS)
    t.random.shuffle(steps)
    for step in steps:
        night(lab, 0)
        lab.backup()
        prune(lab, "--keep-last", "2", fail_at=step + "=kill")
        if t.random.random() < 0.5:
            # The next backup does not mind what the dead one has left.
            lab.write("vda", 0, 64 * KIB, t.random.randrange(256))
            t.equal(methods(lab.backup()), {"vda": "bitmap", "vdb": "bitmap"})
    prune(lab, "--keep-last", "2").expect(0)
    t.equal(len(lab.points), 2)
    lab.check_end(restores=2)


@tap.test
def test_beside_each_other(t):
    """A prune while a backup runs, and a backup while a prune folds: none waits for the other."""
    lab = Lab(t, [Disk(6 * MIB)])
    lab.fill("vda")
    for number in range(4):
        lab.write("vda", number * MIB, MIB, number)
        lab.backup()
    marker = lab.host.path("marker")
    lab.write("vda", 0, MIB, 0x77)
    end = lab.start(fail_at="disk-data=wait:" + marker)
    t.eventually(lambda: os.path.exists(marker + ".reached"), 60, "the backup does not read")
    result = lab.tool.run("prune", lab.name, "--keep-last", "2", timeout=30)
    t.ok(result.status in (0, 3), "prune beside a backup: %d" % result.status)
    with open(marker, "w"):
        pass
    end().expect(0)
    forget_dropped(lab)
    lab.check_points()
    os.unlink(marker)
    os.unlink(marker + ".reached")
    pruning = lab.tool.start("prune", lab.name, "--keep-last", "2",
                             fail_at="fold-appended=wait:" + marker)
    t.eventually(lambda: os.path.exists(marker + ".reached"), 60, "the prune does not fold")
    lab.write("vda", 3 * MIB, MIB, 0x78)
    t.equal(methods(lab.backup()), {"vda": "bitmap"})
    with open(marker, "w"):
        pass
    t.ok(pruning.wait().status in (0, 3), "the prune failed")
    forget_dropped(lab)
    lab.check_points()
    prune(lab, "--keep-last", "2").expect(0)
    t.equal(len(lab.points), 2)
    lab.check_end(restores=2)


@tap.test
def test_doctor_completes(t):
    """What a killed prune has left is told, and goes back or on without a prune."""
    lab = Lab(t, [Disk(6 * MIB)])
    lab.fill("vda")
    for number in range(8):
        lab.write("vda", number % 5 * MIB, MIB, number)
        lab.backup()
    directory = os.path.join(lab.tool.repo, "domains", lab.guest.uuid)
    for step in ("fold-appended", "fold-switched", "fold-image-moved", "point-trashed"):
        lab.tool.ok("doctor", lab.name)
        prune(lab, "--keep-last", str(len(lab.points) - 1), fail_at=step + "=kill")
        before = os.listdir(directory)
        t.ok("fold" in before or any(name.startswith("trash-") for name in before), before)
        t.ok("died while it folded" in lab.tool.ok("doctor", lab.name).out, "it is not told")
        t.ok("finished or undone" in lab.tool.ok("doctor", lab.name, "--repair").out, "not repaired")
        left = os.listdir(directory)
        t.ok("fold" not in left and not any(name.startswith("trash-") for name in left), left)
        forget_dropped(lab)
        lab.check_points()
        prune(lab, "--keep-last", str(len(lab.points))).expect(0)
    lab.check_end(restores=len(lab.points))


@tap.test
def test_many_backups(t):
    """Backups without end, in chains that begin anew by themselves; VMBACKUP_TEST_LONG makes 512 of them."""
    lab = Lab(t, [Disk(2 * MIB)])
    lab.fill("vda")
    count = 512 if os.environ.get("VMBACKUP_TEST_LONG", "0") not in ("", "0") else 9
    limit = () if count > 60 else ("--max-chain", "4")
    for number in range(count):
        lab.write("vda", number % 32 * 64 * KIB, 64 * KIB, 1 + number % 255)
        lab.run(*limit).expect(0)
    listed = lab.tool.json("list")["points"]
    t.equal([point["sequence"] for point in listed], list(range(1, count + 1)))
    t.equal([point["level"] for point in listed].count("full"), -(-count // (60 if not limit else 4)))
    lab.check_points()
    lab.check_rest()
    lab.check_end(restores=count)
    prune(lab, "--keep-last", str(count // 3)).expect(0)
    lab.check_end(restores=count // 3)


@tap.test
def test_checkpoints_of_dropped_points(t):
    """What libvirt has for points that go is remembered, and deleted by the next run; nothing else is."""
    lab = Lab(t, [Disk(3 * MIB), Disk(2 * MIB)])
    lab.fill("vda")
    lab.fill("vdb")
    lab.backup("--tag", "first")
    lab.write("vda", 0, MIB, 0x33)
    lab.backup("--disk", "vda")
    first, second = [name for _, name in sorted(
        (point["sequence"], lab.tool.json("show", "%s/%s" % (lab.name, point["id"]))["manifest"]
         ["disks"][0]["checkpoint"]) for point in lab.tool.json("list")["points"])]
    t.equal(lab.guest.checkpoints(), sorted([first, second]))
    prune(lab, "--keep-last", "1", "--keep-tag", "first").expect(0)
    t.equal((len(lab.points), lab.guest.checkpoints()), (2, sorted([first, second])))
    # The newest point that holds vdb goes.
    prune(lab, "--keep-last", "1").expect(0).says("doctor --repair")
    t.equal(len(lab.points), 1)
    lab.tool.ok("doctor", lab.name, "--repair")
    t.equal(lab.guest.checkpoints(), [second])
    t.equal(methods(lab.backup()), {"vda": "bitmap", "vdb": "full"})
    # The newest point at all: the next backup deletes its checkpoint, and compares.
    lab.tool.run("forget", lab.name + "/latest").expect(21)
    lab.tool.ok("forget", lab.name + "/latest", "--force")
    forget_dropped(lab)
    lab.write("vda", MIB, MIB, 0x44)
    t.equal(methods(lab.backup()), {"vda": "compare", "vdb": "full"})
    t.equal(len(lab.guest.checkpoints()), 1)
    lab.check_end(restores=2)
    # All of it, but not under a backup.
    marker = lab.host.path("forget-marker")
    end = lab.start(fail_at="disk-data=wait:" + marker)
    t.eventually(lambda: os.path.exists(marker + ".reached"), 60, "the backup does not read")
    lab.tool.run("forget", lab.name, "--all").expect(11)
    with open(marker, "w"):
        pass
    end().expect(0)
    lab.tool.ok("forget", lab.name, "--all")
    t.equal(lab.tool.json("list")["points"], [])
    lab.points = []
    t.equal(methods(lab.backup()), {"vda": "full", "vdb": "full"})
    t.equal(len(lab.guest.checkpoints()), 1)
    lab.check_end()


if __name__ == "__main__":
    tap.main()
