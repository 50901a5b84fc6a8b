#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Bitmaps that are valid, have the right name, and lie: none of them is believed."""

import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from vmbtest import image, process, tap  # noqa: E402
from vmbtest.libvirtd import PrivateLibvirt, libvirt  # noqa: E402
from exact_lab import KIB, MIB, Disk, Lab, differing_blocks, methods, stored_blocks  # noqa: E402

BLOCK = 64 * KIB


def make_lab(t, *disks):
    """Two disks of one size that hold different data."""
    lab = Lab(t, list(disks) or [Disk(8 * MIB), Disk(8 * MIB, bus="scsi")])
    for number, target in enumerate(sorted(lab.volumes)):
        lab.fill(target, 0x20 + 100 * number)
    lab.backup()
    return lab


def offline(lab, target, action):
    """Something happens to a disk's image while the domain is off."""
    lab.off()
    action(lab.volumes[target].path)
    lab.volumes[target].changed_behind(lab)
    lab.on()


def compared(t, lab, target, reason="spot-check-failed"):
    """The next run finds out, reads this disk again, and all is what it was; then as ever."""
    volume = lab.volumes[target]
    lab.write(target, 300 * KIB, 512, 0x77)
    expected = differing_blocks(volume.snapshot, volume.model.path)
    found = lab.backup()
    t.equal(methods(found),
            {name: "compare" if name == target else "bitmap" for name in found})
    t.equal(found[target]["reason"], reason)
    t.equal(lab.reasons(target), [reason])
    t.equal(stored_blocks(lab.last, target), expected)
    lab.write(target, 0, 512, 0x78)
    found = lab.backup()
    t.equal(methods(found), dict.fromkeys(found, "bitmap"))
    t.equal(lab.reasons(target), [])
    lab.check_end(len(lab.points))


# Another disk's bitmap.


@tap.test
def test_copied_sibling(t):
    """The same inode, a bitmap of the right name, but of the other disk."""
    lab = make_lab(t)
    source = lab.volumes["vda"].path
    offline(lab, "sda", lambda path: process.run("cp", source, path))
    compared(t, lab, "sda")


@tap.test
def test_copied_sibling_that_hardly_differs(t):
    """Clones of a template that differ where their newest points have written."""
    lab = Lab(t, [Disk(8 * MIB), Disk(8 * MIB, bus="scsi")])
    for target in ("vda", "sda"):
        lab.fill(target, 0x20)
    lab.backup()
    lab.write("vda", 3 * MIB, 512, 0x31)
    lab.write("sda", 5 * MIB, 512, 0x41)
    lab.backup()
    source = lab.volumes["vda"].path
    offline(lab, "sda", lambda path: process.run("cp", source, path))
    compared(t, lab, "sda")


@tap.test
def test_copied_sibling_with_data_where_none_was(t):
    """Every block with data that the chain knows is the same."""
    lab = Lab(t, [Disk(8 * MIB), Disk(8 * MIB, bus="scsi")])
    for target in ("vda", "sda"):
        lab.write(target, 0, MIB, 0x20)
    lab.write("vda", 5 * MIB, MIB, 0x31)
    lab.backup()
    source = lab.volumes["vda"].path
    offline(lab, "sda", lambda path: process.run("cp", source, path))
    compared(t, lab, "sda")


@tap.test
def test_copied_sibling_with_a_new_number(t):
    """Removed and copied anew, the file may get its old inode number."""
    lab = make_lab(t)
    source = lab.volumes["vda"].path

    def replace(path):
        copy = path + ".copy"
        process.run("cp", source, copy)
        os.unlink(path)
        process.run("cp", copy, path)
    offline(lab, "sda", replace)
    compared(t, lab, "sda", "source-changed")


@tap.test
def test_disks_exchanged_while_the_job_begins(t):
    """Between the plan and the job the disks change places, with the checkpoint in both."""
    lab = make_lab(t, Disk(8 * MIB), Disk(4 * MIB, bus="scsi"), Disk(4 * MIB, bus="scsi"))
    gate = lab.host.path(lab.directory, "gate")
    end = lab.start(fail_at="guard-armed=wait:" + gate)
    t.eventually(lambda: os.path.exists(gate + ".reached"), 60, "the step is not reached")
    first, second = lab.detach("sda"), lab.detach("sdb")
    first.disk.target, second.disk.target = "sdb", "sda"
    lab.attach(first.disk, first)
    lab.attach(second.disk, second)
    with open(gate, "w", encoding="ascii"):
        pass
    end().expect(1).says("sda", "another image")
    lab.check_rest()
    t.equal(len(lab.points), 1)
    lab.write("sda", MIB, 512, 0x31)
    found = lab.backup()
    t.equal(methods(found), {"vda": "bitmap", "sda": "bitmap", "sdb": "bitmap"})
    t.equal(found["sda"]["id"], "target:sdb")
    lab.check_end(2)


# Bits that are lost.


def checkpoint(lab):
    return lab.guest.checkpoints()[0]


def qemu_io(path, *commands):
    process.run("qemu-io", "-f", "qcow2", *[w for c in commands for w in ("-c", c)], path)


@tap.test
def test_bitmap_cleared(t):
    """Much was written, and then the bits were cleared."""
    lab = make_lab(t)
    name = checkpoint(lab)
    lab.fill("vda", 0x50)
    offline(lab, "vda", lambda path: process.run("qemu-img", "bitmap", "--clear", path, name))
    compared(t, lab, "vda")


@tap.test
def test_bitmap_removed_and_made_anew(t):
    lab = make_lab(t)
    name = checkpoint(lab)
    lab.fill("vda", 0x50)
    offline(lab, "vda", lambda path: [process.run("qemu-img", "bitmap", word, path, name)
                                      for word in ("--remove", "--add")])
    compared(t, lab, "vda")


@tap.test
def test_bitmap_disabled_for_a_while(t):
    lab = make_lab(t)
    name = checkpoint(lab)

    def action(path):
        process.run("qemu-img", "bitmap", "--disable", path, name)
        qemu_io(path, "write -P 0x55 0 8M")
        process.run("qemu-img", "bitmap", "--enable", path, name)
    offline(lab, "vda", action)
    compared(t, lab, "vda")


@tap.test
def test_bitmap_disabled(t):
    """It records nothing, and libvirt says so: one small write is enough to tell."""
    lab = make_lab(t)
    name = checkpoint(lab)
    offline(lab, "vda", lambda path: process.run("qemu-img", "bitmap", "--disable", path, name))
    compared(t, lab, "vda", "bitmap-unusable")


@tap.test
def test_written_by_a_program_without_bitmaps(t):
    """As the format demands, it has cleared the sign that bitmaps are up to date."""
    lab = make_lab(t)

    def action(path):
        patch(path, lab.volumes["vda"], 5 * MIB, BLOCK)
        with open(path, "r+b") as file:
            file.seek(88)
            features = int.from_bytes(file.read(8), "big")
            file.seek(88)
            file.write((features & ~1).to_bytes(8, "big"))
    offline(lab, "vda", action)
    compared(t, lab, "vda", "bitmap-unusable")


@tap.test
def test_written_by_a_program_that_knows_nothing(t):
    """Bytes of clusters in place."""
    lab = make_lab(t)
    offline(lab, "vda", lambda path: patch(path, lab.volumes["vda"], 0, 8 * MIB))
    compared(t, lab, "vda")


def patch(path, volume, offset, length):
    """Changes a disk's bytes where they lie in the file."""
    runs = json.loads(process.run("qemu-img", "map", "--output=json", "-f", volume.fmt, path))
    with open(path, "r+b") as file:
        for run in runs:
            start = max(offset, run["start"])
            stop = min(offset + length, run["start"] + run["length"])
            if run["data"] and start < stop:
                file.seek(run["offset"] + start - run["start"])
                file.write(b"\x99" * (stop - start))


# Sizes, layers, copies.


@tap.test
def test_grown_again_with_data(t):
    """Preallocation makes what the shrink took away look like data."""
    lab = make_lab(t)
    volume = lab.volumes["vda"]

    def action(path):
        process.run("qemu-img", "resize", "-q", "--shrink", path, str(7 * MIB + 832 * KIB))
        process.run("qemu-img", "resize", "-q", "--preallocation=full", path, str(8 * MIB))
    offline(lab, "vda", action)
    t.equal(volume.size, 8 * MIB)
    compared(t, lab, "vda")


@tap.test
def test_zeroes_before_trusted_data(t):
    """No shrink does that: a sibling that has nothing where this one has data."""
    lab = Lab(t, [Disk(8 * MIB), Disk(8 * MIB, bus="scsi")])
    lab.fill("sda", 0x20)
    lab.write("vda", 5 * MIB, MIB, 0x20 + 6)
    lab.backup()
    source = lab.volumes["vda"].path
    offline(lab, "sda", lambda path: process.run("cp", source, path))
    compared(t, lab, "sda")


@tap.test
def test_template_rewritten_at_its_old_time(t):
    """As touch -r does: path, inode, size, time and header are what they were."""
    host = t.once("host", PrivateLibvirt)
    template = os.path.join(host.images, "rewritten.qcow2")
    image.create(template, 8 * MIB)
    qemu_io(template, "write -P 0xaa 0 8M")
    lab = Lab(t, [Disk(8 * MIB, backing=template)])
    lab.volumes["vda"].changed_behind(lab)
    lab.backup()
    lab.off()
    status = os.stat(template)
    with open(template, "rb") as file:
        header = file.read(BLOCK)
    qemu_io(template, "write -P 0xbb 0 8M")
    with open(template, "rb") as file:
        t.equal(file.read(BLOCK), header)
    os.utime(template, ns=(status.st_atime_ns, status.st_mtime_ns))
    lab.volumes["vda"].changed_behind(lab)
    lab.on()
    lab.write("vda", 0, 512, 0x31)
    disk = lab.backup()["vda"]
    t.equal((disk["method"], disk["reason"]), ("compare", "spot-check-failed"))
    lab.check_end(2)


@tap.test
def test_copy_with_bitmaps(t):
    """What a faithful copy says is true, wherever it lies; only another inode is not taken for it."""
    lab = make_lab(t)
    lab.write("vda", MIB, BLOCK, 0x31)

    def copy(path):
        process.run("qemu-img", "convert", "-O", "qcow2", "--bitmaps", path, path + ".new")
        process.run("cp", path + ".new", path)
    offline(lab, "vda", copy)
    lab.write("vda", 2 * MIB, BLOCK, 0x32)
    disk = lab.backup()["vda"]
    t.equal((disk["method"], stored_blocks(lab.last, "vda")), ("bitmap", (2, 0)))

    def move(path):
        process.run("qemu-img", "convert", "-O", "qcow2", "--bitmaps", path, path + ".new")
        os.rename(path + ".new", path)
    offline(lab, "vda", move)
    compared(t, lab, "vda", "source-changed")


@tap.test
def test_committed_behind_libvirt(t):
    """An overlay that only qemu-img knew: the commit is recorded in the lower image's bitmap."""
    lab = make_lab(t)

    def action(path):
        over = path + ".over"
        image.create(over, 8 * MIB, backing=path)
        qemu_io(over, "write -P 0x66 1M 128k", "write -z 2M 64k")
        process.run("qemu-img", "commit", "-q", "-f", "qcow2", over)
    offline(lab, "vda", action)
    lab.write("vda", 3 * MIB, 512, 0x32)
    disk = lab.backup()["vda"]
    t.equal((disk["method"], stored_blocks(lab.last, "vda")), ("bitmap", (3, 1)))
    lab.check_end(2)


# A parent that cannot be relied upon.


@tap.test
def test_parent_with_damaged_data(t):
    """Found by chance and by the probe of the last block: a full, instead of building on it."""
    lab = make_lab(t)
    for number in range(8 * MIB // BLOCK):
        lab.write("vda", number * BLOCK, 512, 0x30 + number % 64)
    lab.backup("--compress", "zstd")
    point = lab.last["id"]
    path = lab.image(point, "vda")
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        kept = file.read()
    with open(path, "r+b") as file:
        file.seek(4 * BLOCK)
        file.write(bytes(b ^ 0x5a for b in kept[4 * BLOCK:size - BLOCK]))
    lab.write("vda", 0, 512, 0x31)
    result = lab.run().expect(0)
    with open(path, "r+b") as file:
        file.write(kept)
    disk = next(d for d in lab.last["disks"] if d["target"] == "vda")
    t.equal((disk["method"], disk["reason"]), ("full", "parent-damaged"), result.describe())
    lab.check_points()
    lab.check_rest()
    lab.check_end(3)


if __name__ == "__main__":
    tap.main()
