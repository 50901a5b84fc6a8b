#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks without a usable bitmap: only they are read whole, and only what differs is stored."""

import os
import shutil
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from vmbtest import image, process, tap  # noqa: E402
from vmbtest.libvirtd import PrivateLibvirt, libvirt  # noqa: E402
from exact_lab import (GIB, KIB, MIB, Disk, Lab, differing_blocks, methods,  # noqa: E402
                       stored_blocks)

BLOCK = 64 * KIB
MOST_MEMORY = 160 * MIB  # of the tool, whatever the disk's size


def make_lab(t, *disks):
    """Two disks with data, zeroes written, and nothing written; the second can be detached."""
    lab = Lab(t, list(disks) or [Disk(6 * MIB + 512), Disk(2 * MIB, bus="scsi")])
    for target in lab.volumes:
        lab.write(target, 0, MIB + 4 * KIB, 0x11)
        lab.zero(target, MIB + 512 * KIB, 128 * KIB)
    lab.write("vda", lab.volumes["vda"].size - 512, 512, 0x12)
    return lab


def change(lab, target, pattern):
    """Data anew, data to zero, zero to zero, zero to data, and data that stays what it was."""
    lab.write(target, 100 * KIB, 4 * KIB, pattern)
    lab.zero(target, 512 * KIB, 128 * KIB)
    lab.zero(target, MIB + 300 * KIB, 64 * KIB)
    lab.write(target, MIB + 768 * KIB, 512, pattern)
    lab.write(target, 256 * KIB, 64 * KIB, 0x11)


def compared(t, lab, target, reason, *args, others="bitmap"):
    """A backup that compares this disk and no other, and stores exactly what differs."""
    volume = lab.volumes[target]
    expected = differing_blocks(volume.snapshot, volume.model.path)
    found = lab.backup(*args)
    t.equal(methods(found), {name: "compare" if name == target else others for name in found})
    t.equal((found[target]["level"], found[target]["reason"]), ("incremental", reason))
    t.contains(lab.reasons(target), reason)
    t.equal(stored_blocks(lab.last, target), expected, "blocks stored as data and as zero")
    return found


def lost_and_found(t, lab, reason, lose, target="vda", again=0):
    """Full, some event, compared, by bitmap again; all points are what they were.

    again: clean blocks that are read by bitmap in case the disk has shrunk and grown.
    """
    lab.backup()
    for name in lab.volumes:
        change(lab, name, 0x21)
    lose(lab)
    lab.write(target, 384 * KIB, 512, 0x31)
    compared(t, lab, target, reason)
    for name in lab.volumes:
        lab.write(name, 896 * KIB, 512, 0x41)
    found = lab.backup()
    t.equal(methods(found), dict.fromkeys(found, "bitmap"))
    t.equal(stored_blocks(lab.last, target), (1 + again, 0))
    lab.check_end(3)


# Bitmaps that are lost.


def kill_qemu(lab):
    """The second disk is away meanwhile, and keeps its bitmap."""
    volume = lab.detach("sda")
    lab.kill_qemu()
    lab.on()
    lab.attach(volume.disk, volume)


@tap.test
def test_qemu_killed(t):
    lost_and_found(t, make_lab(t), "bitmap-unusable", kill_qemu)


@tap.test
def test_bitmap_removed_offline(t):
    def lose(lab):
        lab.off()
        process.run("qemu-img", "bitmap", "--remove", lab.volumes["vda"].path,
                    lab.guest.checkpoints()[0])
        lab.on()
    lost_and_found(t, make_lab(t), "bitmap-unusable", lose)


@tap.test
def test_checkpoint_deleted_by_others(t):
    def lose(lab):
        xml = lab.guest.dom.checkpointLookupByName(lab.guest.checkpoints()[0])
        xml.delete(0)
    lab = make_lab(t, Disk(6 * MIB + 512))
    lost_and_found(t, lab, "checkpoint-missing", lose)


@tap.test
def test_disk_away_for_a_point(t):
    """The checkpoint is deleted, but the bitmap goes with the disk: it is defined again."""
    lab = make_lab(t)
    lab.backup()
    volume = lab.detach("sda")
    change(lab, volume, 0x21)
    lab.write("vda", 0, 512, 0x22)
    t.equal(methods(lab.backup()), {"vda": "bitmap"})
    t.equal(lab.reasons("sda"), ["disk-removed"])
    lab.attach(volume.disk, volume)
    lab.write("sda", 896 * KIB, 512, 0x23)
    found = lab.backup()
    t.equal(methods(found), {"vda": "bitmap", "sda": "bitmap"})
    t.equal(found["sda"]["parent"], lab.points[0][0])
    t.contains(lab.reasons(), "checkpoint-redefined")
    lab.write("sda", 0, 512, 0x24)
    t.equal(methods(lab.backup()), {"vda": "bitmap", "sda": "bitmap"})
    lab.check_end(4)


# Images that are others.


@tap.test
def test_image_replaced(t):
    def lose(lab):
        lab.off()
        volume = lab.volumes["vda"]
        process.run("qemu-img", "convert", "-O", "qcow2", volume.path, volume.path + ".new")
        os.rename(volume.path + ".new", volume.path)
        lab.on()
    lost_and_found(t, make_lab(t), "source-changed", lose)


def put_back(command):
    """An older copy takes the image's place."""
    def lose(lab):
        lab.off()
        volume = lab.volumes["vda"]
        process.run(*command, volume.path + ".copy", volume.path)
        volume.changed_behind(lab)
        lab.on()
    return lose


def older_copy(t):
    lab = make_lab(t)
    lab.off()
    path = lab.volumes["vda"].path
    process.run("cp", path, path + ".copy")
    lab.on()
    lab.write("vda", 128 * KIB, 256 * KIB, 0x51)
    lab.write("vda", 3 * MIB, 256 * KIB, 0x52)
    return lab


@tap.test
def test_older_image_copied_over(t):
    lost_and_found(t, older_copy(t), "bitmap-unusable", put_back(["cp"]))


@tap.test
def test_older_image_moved_over(t):
    lost_and_found(t, older_copy(t), "source-changed", put_back(["mv"]))


def linked_clone(t, name):
    host = t.once("host", PrivateLibvirt)
    template = os.path.join(host.images, "template-%s.qcow2" % name)
    image.create(template, 6 * MIB)
    process.run("qemu-io", "-f", "qcow2", "-c", "write -P 0xaa 2M 1M", template)
    lab = Lab(t, [Disk(6 * MIB, backing=template), Disk(2 * MIB, bus="scsi")])
    lab.template = template
    lab.volumes["vda"].changed_behind(lab)
    return lab


@tap.test
def test_template_changed(t):
    def lose(lab):
        lab.off()
        process.run("qemu-io", "-f", "qcow2", "-c", "write -P 0xbb 2500k 64k", lab.template)
        lab.volumes["vda"].changed_behind(lab)
        lab.on()
    lost_and_found(t, linked_clone(t, "changed"), "layer-changed", lose, again=1)


@tap.test
def test_clone_of_another_template(t):
    def lose(lab):
        lab.off()
        other = lab.template + ".other"
        image.create(other, 6 * MIB)
        process.run("qemu-io", "-f", "qcow2", "-c", "write -P 0xaa 2M 512k", other)
        process.run("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", other,
                    lab.volumes["vda"].path)
        lab.volumes["vda"].changed_behind(lab)
        lab.on()
    lost_and_found(t, linked_clone(t, "other"), "layer-changed", lose, again=1)


# What libvirt does with images.


def overlay(lab):
    flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
    flags |= libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
    lab.guest.dom.snapshotCreateXML(
        "<domainsnapshot><name>over</name><disks><disk name='vda' snapshot='external'/>"
        "<disk name='sda' snapshot='no'/></disks></domainsnapshot>", flags)
    lab.volumes["vda"].path = lab.guest.disk_path("vda")


def pivot(t, lab):
    dom = lab.guest.dom

    def ready():
        info = dom.blockJobInfo("vda", 0)
        return info and info["cur"] == info["end"] and "ready='yes'" in dom.XMLDesc(0)
    t.eventually(ready, 30, "the block job is not ready")
    dom.blockJobAbort("vda", libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)
    t.eventually(lambda: not dom.blockJobInfo("vda", 0), 30, "the block job does not end")
    lab.volumes["vda"].path = lab.guest.disk_path("vda")


@tap.test
def test_external_snapshot_and_commit(t):
    lab = make_lab(t)
    lab.backup()
    change(lab, "vda", 0x21)
    overlay(lab)
    lab.write("vda", 640 * KIB, 512, 0x22)
    compared(t, lab, "vda", "source-changed")
    # The end of the old checkpoint has changed the lower image's header as well.
    lab.write("vda", 704 * KIB, 512, 0x23)
    compared(t, lab, "vda", "layer-changed")
    lab.guest.dom.blockCommit("vda", None, None, 0, libvirt.VIR_DOMAIN_BLOCK_COMMIT_ACTIVE)
    pivot(t, lab)
    lab.write("vda", 768 * KIB, 512, 0x24)
    compared(t, lab, "vda", "source-changed")
    lab.write("vda", 832 * KIB, 512, 0x25)
    t.equal(methods(lab.backup()), {"vda": "bitmap", "sda": "bitmap"})
    lab.check_end(5)


@tap.test
def test_storage_moved(t):
    def lose(lab):
        lab.guest.dom.blockCopy(
            "vda", "<disk type='file'><driver type='qcow2'/><source file='%s.moved'/></disk>" %
            lab.volumes["vda"].path, {}, libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB)
        pivot(t, lab)
    lost_and_found(t, make_lab(t), "source-changed", lose)


# When comparing is not wanted, or impossible.


@tap.test
def test_no_compare(t):
    lab = make_lab(t)
    lab.backup()
    change(lab, "vda", 0x21)
    kill_qemu(lab)
    disks = lab.backup("--no-compare")
    t.equal(methods(disks), {"vda": "full", "sda": "bitmap"})
    t.equal((disks["vda"]["reason"], disks["vda"]["parent"]), ("bitmap-unusable", None))
    lab.write("vda", 0, 512, 0x22)
    t.equal(methods(lab.backup("--no-compare")), {"vda": "bitmap", "sda": "bitmap"})
    lab.check_end(3)


def damaged_chain(t, damage):
    """The middle one of three points; the newest state goes into a full, the next run on from it."""
    lab = make_lab(t)
    for number in range(3):
        lab.write("vda", number * MIB, 100 * KIB, 0x21 + number)
        lab.backup()
    repair = damage(lab, lab.points[1][0])
    kill_qemu(lab)
    disks = lab.backup()
    t.equal(methods(disks), {"vda": "full", "sda": "bitmap"})
    t.equal(disks["vda"]["reason"], "parent-damaged")
    lab.write("vda", MIB, 512, 0x31)
    t.equal(methods(lab.backup()), {"vda": "bitmap", "sda": "bitmap"})
    repair()
    lab.check_end(5)


def point_file(lab, point, name):
    return os.path.join(lab.repo, "domains", lab.guest.uuid, "points", point, name)


@tap.test
def test_digests_flipped(t):
    damaged_chain(t, lambda lab, point: lab.damage(point, "vda.digests"))


@tap.test
def test_digests_truncated(t):
    def damage(lab, point):
        path = point_file(lab, point, "vda.digests")
        shutil.copy2(path, path + ".kept")
        os.truncate(path, os.path.getsize(path) - 1)
        return lambda: os.rename(path + ".kept", path)
    damaged_chain(t, damage)


@tap.test
def test_digests_missing(t):
    def damage(lab, point):
        path = point_file(lab, point, "vda.digests")
        aside = lab.host.path(lab.directory, "aside")
        shutil.move(path, aside)
        return lambda: shutil.move(aside, path)
    damaged_chain(t, damage)


# Sizes.


@tap.test
def test_resized(t):
    """Each time QEMU is killed, so that all goes by comparison; also across one another."""
    lab = make_lab(t)
    lab.fill("vda")
    lab.backup()
    for size in (8 * MIB + 3 * 512, 2 * MIB + 64 * KIB + 512, 6 * MIB + 512, 6 * MIB + 1024):
        kill_qemu(lab)
        lab.off()
        for name in lab.guest.checkpoints():
            for volume in lab.volumes.values():
                process.run("qemu-img", "bitmap", "--remove", volume.path, name, check=False)
        lab.resize("vda", size)
        lab.on()
        before = lab.volumes["vda"].snapshot
        lab.write("vda", size - 1024, 1024, 0x61)
        disk = lab.backup()["vda"]
        t.equal((disk["method"], disk["size"]), ("compare", size))
        t.contains(lab.reasons("vda"), "resized")
        data, zero = stored_blocks(lab.last, "vda")
        # At most the block that an older end cuts is stored without need.
        wanted = differing_blocks(before, lab.volumes["vda"].model.path)
        t.ok(wanted[0] <= data <= wanted[0] + 1 and zero == wanted[1],
             "stored %s, not %s" % ((data, zero), wanted))
    lab.check_end(5)


# Disks that never have bitmaps.


def always_compared(t, disk, reason="no-bitmap-support"):
    """Twice, in chains of both kinds; nothing changed costs nothing."""
    lab = make_lab(t, disk, Disk(2 * MIB, bus="scsi"))
    lab.backup("--compress", "none")
    change(lab, "vda", 0x21)
    compared(t, lab, "vda", reason, "--compress", "zstd")
    compared(t, lab, "vda", reason)
    t.equal(stored_blocks(lab.last, "vda"), (0, 0))
    lab.write("vda", lab.volumes["vda"].size - 512, 512, 0x41)
    compared(t, lab, "vda", reason, "--compress", "none")
    compared(t, lab, "vda", reason, "--level", "incremental", "--compress", "zstd:3")
    lab.check_end(5)
    return lab


@tap.test
def test_raw_file(t):
    always_compared(t, Disk(6 * MIB + 512, fmt="raw"))


@tap.test
def test_qcow2_version_2(t):
    always_compared(t, Disk(6 * MIB + 512, options={"compat": "0.10"}))


@tap.test
def test_external_data_file(t):
    """Also when the data is written without QEMU."""
    host = t.once("host", PrivateLibvirt)
    path = os.path.join(host.images, "external.qcow2")
    data = path + ".data"
    image.create(path, 6 * MIB, data_file=data, data_file_raw="on")
    os.chown(data, *host.qemu_ids())
    lab = make_lab(t, Disk(size=None, path=path), Disk(2 * MIB, bus="scsi"))
    lab.backup("--compress", "none")
    change(lab, "vda", 0x21)
    compared(t, lab, "vda", "layer-changed")
    lab.off()
    with open(data, "r+b") as file:
        file.seek(4 * MIB)
        file.write(b"\x77" * BLOCK)
    lab.volumes["vda"].changed_behind(lab)
    lab.on()
    compared(t, lab, "vda", "layer-changed")
    t.equal(stored_blocks(lab.last, "vda"), (1, 0))
    lab.check_end(3)


@tap.test
def test_loop_device(t):
    host = t.once("host", PrivateLibvirt)
    path = host.path("loop.raw")
    with open(path, "wb") as file:
        file.truncate(6 * MIB)
    device = process.run("losetup", "--find", "--show", path, check=False).strip()
    t.require(device.startswith("/dev/loop"), "no loop devices here")
    t.defer(process.run, "losetup", "--detach", device)
    lab = always_compared(t, Disk(size=None, fmt="raw", path=device))
    layer = lab.last["manifest"]["disks"][0]["layers"][0]
    t.equal((layer["path"], layer["header_digest"]), (device, None))


# Size of the disk, and of the memory.


@tap.test
def test_huge_sparse_disks(t):
    """Time and memory follow what is there, and not the size."""
    size = 1 << 40
    lab = Lab(t, [Disk(size, fmt="raw"), Disk(size, options={"compat": "0.10"})])
    for target in ("vda", "vdb"):
        lab.write(target, 0, BLOCK, 0x31)
        lab.write(target, 300 * GIB, 3 * BLOCK, 0x32)
        lab.write(target, size - 512, 512, 0x33)
    lab.backup()
    for target in ("vda", "vdb"):
        lab.zero(target, 300 * GIB + BLOCK, BLOCK)
        lab.write(target, 700 * GIB, 512, 0x34)
    started = time.monotonic()
    end = lab.start()
    most = 0
    while end.running.running():
        most = max([most] + [memory(pid) for pid in [end.running.pid] + end.running.children()])
        time.sleep(0.01)
    end().expect(0)
    t.diag("%.1f s, %d MiB" % (time.monotonic() - started, most // MIB))
    t.ok(time.monotonic() - started < 60, "it takes too long")
    t.ok(0 < most < MOST_MEMORY, "%d bytes of memory" % most)
    for disk in lab.last["disks"]:
        t.equal(disk["method"], "compare")
        t.equal(stored_blocks(lab.last, disk["target"]), (1, 1))
    lab.check_points()
    lab.tool.ok("verify", lab.name)


def memory(pid):
    """The most that vmbackup has had in memory, bytes."""
    try:
        with open("/proc/%d/status" % pid, encoding="utf-8") as file:
            lines = dict(line.split(":", 1) for line in file if ":" in line)
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(lines["VmHWM"].split()[0]) * KIB if "vmbackup" in lines["Name"] and \
        "VmHWM" in lines else 0


if __name__ == "__main__":
    tap.main()
