#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What counts as changed: cases that a dirty bitmap alone gets wrong, and changes behind its back."""

import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from vmbtest import image, process, tap  # noqa: E402
from vmbtest.libvirtd import PrivateLibvirt, libvirt  # noqa: E402
from exact_lab import GIB, KIB, MIB, Disk, Lab, methods, round_up  # noqa: E402


def levels(disks):
    return {target: disk["level"] for target, disk in disks.items()}


# Shrink and grow between two backups: the bitmap says clean, the size is the old one.


def shrink_and_grow(t, lab, smaller, offline=False):
    """Full, shrink, grow, incremental, of vda; then one more."""
    size = lab.volumes["vda"].size
    lab.backup()
    # Dirty bits that shrinking forgets: close behind the new end, and at the old one.
    lab.write("vda", round_up(smaller, 64 * KIB) + 512, 64 * KIB, 0xef)
    lab.write("vda", size - 100 * KIB, 100 * KIB, 0xee)
    if offline:
        lab.off()
    lab.resize("vda", smaller)
    lab.resize("vda", size)
    if offline:
        lab.on()
    t.equal(lab.backup()["vda"]["level"], "incremental")
    t.equal(lab.reasons("vda"), ["bitmap-contradicted"])
    lab.write("vda", size - 3 * KIB, 1 * KIB, 0xdd)
    t.equal(lab.backup()["vda"]["level"], "incremental")
    t.equal(lab.reasons("vda"), [])
    lab.check_end(3)


def full_disk(t, size=8 * MIB, **options):
    lab = Lab(t, [Disk(size, options=options)])
    lab.fill("vda")
    return lab


@tap.test
def test_shrink_and_grow_live(t):
    shrink_and_grow(t, full_disk(t), 3 * MIB)


@tap.test
def test_shrink_and_grow_offline(t):
    shrink_and_grow(t, full_disk(t), 3 * MIB, offline=True)


@tap.test
def test_shrink_and_grow_inside_a_cluster(t):
    shrink_and_grow(t, full_disk(t, 8 * MIB + 7 * 512), 3 * MIB + 9 * KIB + 512)


@tap.test
def test_shrink_and_grow_small_clusters(t):
    shrink_and_grow(t, full_disk(t, cluster_size=4096), 3 * MIB + 12 * KIB)


@tap.test
def test_shrink_and_grow_small_clusters_offline(t):
    shrink_and_grow(t, full_disk(t, 4 * MIB + 512, cluster_size=512), 2 * MIB + 12 * KIB,
                    offline=True)


@tap.test
def test_shrink_and_grow_large_clusters(t):
    shrink_and_grow(t, full_disk(t, cluster_size=2 * MIB), 4 * MIB + 192 * KIB + 512)


@tap.test
def test_shrink_and_grow_subclusters(t):
    shrink_and_grow(t, full_disk(t, extended_l2="on"), 3 * MIB + 12 * KIB)


@tap.test
def test_shrink_and_grow_linked_clone(t):
    lab = linked_clone(t)
    lab.write("vda", 0, MIB, 0x22)
    shrink_and_grow(t, lab, 3 * MIB + 12 * KIB)


def linked_clone(t, size=8 * MIB, **options):
    """A disk over a template whose every byte is 0xaa."""
    host = t.once("host", PrivateLibvirt)
    template = os.path.join(host.images, "template-%s.qcow2" % t.name)
    image.create(template, size)
    process.run("qemu-io", "-f", "qcow2", "-c", "write -P 0xaa 0 %d" % size, template)
    lab = Lab(t, [Disk(size, backing=template, options=options)])
    lab.template = template
    lab.volumes["vda"].changed_behind(lab)
    return lab


# Sizes.


@tap.test
def test_grown_disk(t):
    lab = full_disk(t, 4 * MIB + 512)
    lab.backup()
    lab.resize("vda", 6 * MIB + 3 * 512)
    lab.write("vda", 6 * MIB + 512, 512, 0x77)
    disk = lab.backup()["vda"]
    t.equal((disk["level"], disk["size"]), ("incremental", 6 * MIB + 3 * 512))
    t.equal(lab.reasons("vda"), ["resized"])
    lab.resize("vda", 9 * MIB)
    t.equal(lab.backup()["vda"]["level"], "incremental")
    lab.check_end(3)


@tap.test
def test_shrunk_disk(t):
    lab = full_disk(t, 6 * MIB + 512)
    lab.backup()
    lab.resize("vda", 2 * MIB + 5 * 512)
    disk = lab.backup()["vda"]
    t.equal((disk["level"], disk["size"]), ("incremental", 2 * MIB + 5 * 512))
    t.equal(lab.reasons("vda"), ["resized"])
    lab.check_end(2)


@tap.test
def test_shrunk_in_one_point_grown_in_the_next(t):
    """4 MiB <- 2 MiB <- 4 MiB: the oldest data must not come back behind the middle one's end."""
    lab = full_disk(t, 4 * MIB)
    lab.backup()
    lab.resize("vda", 2 * MIB + 512)
    lab.backup()
    lab.resize("vda", 4 * MIB)
    t.equal(lab.backup()["vda"]["level"], "incremental")
    lab.write("vda", 3 * MIB, 4 * KIB, 0x55)
    lab.backup()
    lab.check_end(4)


@tap.test
def test_huge_sparse_disk(t):
    """A few blocks at both ends of many L2 tables; time and space must follow these."""
    size = 1 << 41
    lab = Lab(t, [Disk(size), Disk(3 * GIB + 512)])
    for target, end in (("vda", size), ("vdb", 3 * GIB + 512)):
        lab.write(target, 0, 64 * KIB, 0x31)
        lab.write(target, end - 64 * KIB - 512, 64 * KIB + 512, 0x32)
        lab.write(target, GIB - 4 * KIB, 8 * KIB, 0x33)
    started = time.monotonic()
    lab.backup()
    for target, end in (("vda", size), ("vdb", 3 * GIB + 512)):
        lab.zero(target, 0, 64 * KIB)
        lab.write(target, end - 512, 512, 0x34)
    disks = lab.backup()
    t.equal(levels(disks), {"vda": "incremental", "vdb": "incremental"})
    for disk in disks.values():
        t.ok(disk["stored"] < 4 * MIB, "%d bytes are stored" % disk["stored"])
    t.ok(time.monotonic() - started < 60, "it takes too long")
    lab.tool.ok("verify", lab.name)


# What reads as zero.


@tap.test
def test_everything_discarded(t):
    """So much that whole tables of the image say zero and are shared."""
    lab = Lab(t, [Disk(2 * GIB)])
    for at in range(0, 2 * GIB, 128 * MIB):
        lab.write("vda", at, 100 * KIB, 1 + at // (128 * MIB))
    lab.backup()
    lab.discard("vda", 0, 2 * GIB)
    t.equal(lab.backup()["vda"]["level"], "incremental")
    lab.write("vda", 700 * MIB, 4 * KIB, 0x99)
    lab.backup()
    lab.discard("vda", 0, 2 * GIB)
    lab.backup()
    lab.tool.ok("verify", lab.name)


@tap.test
def test_written_then_zeroed(t):
    lab = full_disk(t, 4 * MIB + 512)
    lab.backup()
    lab.zero("vda", 0, MIB)
    lab.zero("vda", MIB + 512, MIB, unmap=True)
    lab.write("vda", 3 * MIB, MIB + 512, 0)
    t.equal(lab.backup()["vda"]["level"], "incremental")
    lab.write("vda", 100 * KIB, 512, 0x11)
    lab.backup()
    lab.check_end(3)


# Disks come, go and change their places.


@tap.test
def test_disk_added(t):
    lab = full_disk(t)
    lab.backup()
    target = lab.attach(Disk(4 * MIB, bus="scsi"))
    lab.fill(target, 0x40)
    lab.write("vda", MIB, 4 * KIB, 0x41)
    disks = lab.backup()
    t.equal(levels(disks), {"vda": "incremental", target: "full"})
    t.equal((disks[target]["reason"], lab.reasons("vda")), ("new-disk", []))
    lab.write(target, MIB, 4 * KIB, 0x42)
    t.equal(levels(lab.backup()), {"vda": "incremental", target: "incremental"})
    lab.check_end(3)


@tap.test
def test_disk_away_for_a_while(t):
    lab = Lab(t, [Disk(4 * MIB), Disk(4 * MIB, bus="scsi")])
    lab.fill("vda")
    lab.fill("sda", 0x60)
    lab.backup()
    lab.write("sda", 0, 4 * KIB, 0x61)
    volume = lab.detach("sda")
    process.run("qemu-io", "-f", "qcow2", "-c", "write -P 0x62 2M 4k", volume.path)
    volume.model.write(2 * MIB, 4 * KIB, 0x62)
    lab.attach(volume.disk, volume)
    lab.write("sda", 3 * MIB, 4 * KIB, 0x63)
    t.equal(levels(lab.backup()), {"vda": "incremental", "sda": "incremental"})
    lab.check_end(2)


@tap.test
def test_disk_excluded_once(t):
    lab = Lab(t, [Disk(4 * MIB), Disk(4 * MIB)])
    lab.fill("vda")
    lab.fill("vdb", 0x60)
    lab.backup()
    first = lab.last
    lab.write("vda", 0, 4 * KIB, 0x61)
    lab.write("vdb", 0, 4 * KIB, 0x62)
    t.equal(levels(lab.backup("--exclude-disk", "vdb")), {"vda": "incremental"})
    t.equal(lab.reasons("vdb"), ["deselected"])
    second = lab.last
    t.equal(lab.guest.checkpoints(), lab.checkpoints_needed())
    t.equal(len(lab.guest.checkpoints()), 2)
    lab.write("vda", MIB, 4 * KIB, 0x63)
    lab.write("vdb", MIB, 4 * KIB, 0x64)
    disks = lab.backup()
    t.equal(levels(disks), {"vda": "incremental", "vdb": "incremental"})
    t.equal(disks["vda"]["parent"], second["id"])
    t.equal(disks["vdb"]["parent"], first["id"])
    bases = {disk["target"]: disk["base_checkpoint"] for disk in lab.last["manifest"]["disks"]}
    t.equal(bases, {"vda": checkpoint_of(second, "vda"), "vdb": checkpoint_of(first, "vdb")})
    t.equal(lab.guest.checkpoints(), lab.checkpoints_needed())
    t.equal(len(lab.guest.checkpoints()), 1)
    lab.check_end(3)


def checkpoint_of(point, target):
    return next(d["checkpoint"] for d in point["manifest"]["disks"] if d["target"] == target)


def swap_volumes(lab, first, second):
    """The images have changed places between these disks."""
    lab.volumes["vda"], lab.volumes["vdb"] = lab.volumes["vdb"], lab.volumes["vda"]
    lab.volumes["vda"].disk, lab.volumes["vdb"].disk = first, second


def swap_and_write(lab):
    """The images change places while the domain is off; then both are written to."""
    lab.off()
    first, second = lab.guest.disks
    first.path, second.path = second.path, first.path
    swap_volumes(lab, first, second)
    lab.host.conn.defineXML(lab.guest.xml())
    lab.on()
    lab.write("vda", 0, 4 * KIB, 0x71)
    lab.write("vdb", MIB, 4 * KIB, 0x72)


@tap.test
def test_disks_swapped(t):
    """Targets stay, images change places: the chains follow the images."""
    lab = Lab(t, [Disk(4 * MIB), Disk(4 * MIB)])
    lab.fill("vda")
    lab.fill("vdb", 0x60)
    lab.backup()
    swap_and_write(lab)
    disks = lab.backup()
    t.equal(methods(disks), {"vda": "bitmap", "vdb": "bitmap"})
    t.equal(lab.reasons("vda") + lab.reasons("vdb"), ["disk-renamed"] * 2)
    t.equal({target: disk["id"] for target, disk in disks.items()},
            {"vda": "target:vdb", "vdb": "target:vda"})
    lab.write("vda", 2 * MIB, 4 * KIB, 0x73)
    t.equal(methods(lab.backup()), {"vda": "bitmap", "vdb": "bitmap"})
    t.equal(lab.reasons("vda") + lab.reasons("vdb"), [])
    lab.check_end(3)


@tap.test
def test_disks_swapped_of_which_one_cannot_have_bitmaps(t):
    """libvirt's record names the target that has no bitmap now, and not the one that has it."""
    lab = Lab(t, [Disk(4 * MIB), Disk(4 * MIB, options={"compat": "0.10"})])
    lab.fill("vda")
    lab.fill("vdb", 0x60)
    lab.backup()
    swap_and_write(lab)
    t.equal(methods(lab.backup()), {"vda": "compare", "vdb": "bitmap"})
    t.equal(lab.guest.checkpoints(), lab.checkpoints_needed())
    t.equal(methods(lab.backup()), {"vda": "compare", "vdb": "bitmap"})
    lab.check_end(3)


@tap.test
def test_disks_swapped_with_serials(t):
    """A serial goes with its image: the chains go on, whatever the targets are."""
    lab = Lab(t, [Disk(4 * MIB, serial="one"), Disk(4 * MIB, serial="two")])
    lab.fill("vda")
    lab.fill("vdb", 0x60)
    lab.backup()
    first, second = lab.guest.disks
    first.serial, second.serial = second.serial, first.serial
    swap_and_write(lab)
    disks = lab.backup()
    t.equal({target: disk["id"] for target, disk in disks.items()},
            {"vda": "serial:two", "vdb": "serial:one"})
    t.equal(methods(disks), {"vda": "bitmap", "vdb": "bitmap"})
    lab.write("vda", 2 * MIB, 4 * KIB, 0x73)
    t.equal(methods(lab.backup()), {"vda": "bitmap", "vdb": "bitmap"})
    lab.check_end(3)


# Bitmaps lost, images changed behind our back.


@tap.test
def test_qemu_killed(t):
    """Only the disks that QEMU had open lose their bitmaps."""
    lab = Lab(t, [Disk(4 * MIB), Disk(4 * MIB, bus="scsi")])
    lab.fill("vda")
    lab.fill("sda", 0x60)
    lab.backup()
    lab.write("vda", MIB, 4 * KIB, 0x61)
    lab.write("sda", MIB, 4 * KIB, 0x62)
    volume = lab.detach("sda")
    lab.kill_qemu()
    lab.on()
    lab.attach(volume.disk, volume)
    lab.write("vda", 2 * MIB, 4 * KIB, 0x63)
    disks = lab.backup()
    t.equal(methods(disks), {"vda": "compare", "sda": "bitmap"})
    t.equal((disks["vda"]["reason"], lab.reasons("sda")), ("bitmap-unusable", []))
    t.equal(lab.guest.checkpoints(), lab.checkpoints_needed())
    lab.write("vda", 3 * MIB, 4 * KIB, 0x64)
    t.equal(methods(lab.backup()), {"vda": "bitmap", "sda": "bitmap"})
    lab.check_end(3)


@tap.test
def test_incremental_demanded_after_kill(t):
    lab = full_disk(t)
    lab.backup()
    lab.kill_qemu()
    lab.on()
    before = lab.guest.checkpoints()
    demand = ("--level", "incremental")
    lab.run(*demand, "--no-compare").expect(23).says("vda", "bitmap-unusable")
    repair = lab.damage(lab.last["id"], "vda.digests")
    lab.run(*demand).expect(23).says("vda", "parent-damaged")
    repair()
    t.equal((len(lab.points), lab.guest.checkpoints()), (1, before))
    lab.check_rest()
    disk = lab.backup(*demand)["vda"]
    t.equal((disk["method"], disk["reason"]), ("compare", "bitmap-unusable"))
    lab.check_end(2)


@tap.test
def test_template_rewritten(t):
    """The bitmap sees the clone's own layer only."""
    lab = linked_clone(t)
    lab.write("vda", MIB, 64 * KIB, 0x21)
    lab.backup()
    lab.write("vda", 2 * MIB, 4 * KIB, 0x22)
    t.equal(levels(lab.backup()), {"vda": "incremental"})
    lab.off()
    process.run("qemu-io", "-f", "qcow2", "-c", "write -P 0xbb 4M 64k", lab.template)
    lab.volumes["vda"].changed_behind(lab)
    lab.on()
    t.equal(lab.backup()["vda"]["reason"], "layer-changed")
    lab.write("vda", 3 * MIB, 4 * KIB, 0x23)
    t.equal(levels(lab.backup()), {"vda": "incremental"})
    lab.check_end(4)


@tap.test
def test_clone_moved_to_another_template(t):
    """qemu-img rebase -u changes what is read, and no bit."""
    lab = linked_clone(t)
    other = lab.template + ".other"
    image.create(other, 8 * MIB)
    lab.backup()
    lab.off()
    process.run("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", other,
                lab.volumes["vda"].path)
    lab.volumes["vda"].changed_behind(lab)
    lab.on()
    t.equal(lab.backup()["vda"]["reason"], "layer-changed")
    lab.check_end(2)


def older_copy(t, put_back):
    """The image as it was before the newest point takes the place of the present one."""
    lab = full_disk(t)
    lab.backup()
    lab.off()
    volume = lab.volumes["vda"]
    copy = volume.path + ".copy"
    process.run("cp", volume.path, copy)
    lab.on()
    lab.write("vda", MIB, 64 * KIB, 0x21)
    lab.discard("vda", 2 * MIB, MIB)
    lab.backup()
    lab.write("vda", 3 * MIB, 64 * KIB, 0x22)
    lab.off()
    process.run(*put_back, copy, volume.path)
    volume.changed_behind(lab)
    lab.on()
    lab.write("vda", 4 * MIB, 4 * KIB, 0x23)
    reason = lab.backup()["vda"]["reason"]
    lab.write("vda", 5 * MIB, 4 * KIB, 0x24)
    t.equal(levels(lab.backup()), {"vda": "incremental"})
    lab.check_end(4)
    return reason


@tap.test
def test_image_replaced_by_older_copy(t):
    t.equal(older_copy(t, ["mv"]), "source-changed")


@tap.test
def test_image_overwritten_by_older_copy(t):
    t.equal(older_copy(t, ["cp"]), "bitmap-unusable")


@tap.test
def test_image_overwritten_by_copy_with_bitmap(t):
    """A copy that has the newest point's bitmap: what it says is true of the copy."""
    lab = full_disk(t)
    lab.backup()
    lab.write("vda", 0, 4 * KIB, 0x20)
    lab.off()
    volume = lab.volumes["vda"]
    process.run("cp", volume.path, volume.path + ".copy")
    lab.on()
    lab.write("vda", MIB, 64 * KIB, 0x21)
    lab.off()
    process.run("cp", volume.path + ".copy", volume.path)
    volume.changed_behind(lab)
    lab.on()
    lab.write("vda", 3 * MIB, 4 * KIB, 0x22)
    t.equal(levels(lab.backup()), {"vda": "incremental"})
    lab.check_end(2)


# What libvirt does to images and bitmaps.


@tap.test
def test_snapshot_and_commit(t):
    """An overlay comes and goes between two points; libvirt carries the bitmaps over."""
    lab = full_disk(t)
    lab.backup()
    lab.write("vda", MIB, 64 * KIB, 0x21)
    overlay(lab, "one")
    lab.write("vda", 2 * MIB, 64 * KIB, 0x22)
    lab.discard("vda", 3 * MIB, 256 * KIB)
    commit(t, lab)
    lab.write("vda", 4 * MIB, 64 * KIB, 0x23)
    t.equal(levels(lab.backup()), {"vda": "incremental"})
    lab.check_end(2)


@tap.test
def test_backup_of_an_overlay(t):
    lab = full_disk(t)
    lab.backup()
    lab.write("vda", MIB, 64 * KIB, 0x21)
    overlay(lab, "one")
    lab.zero("vda", 2 * MIB, 64 * KIB)
    t.equal(lab.backup()["vda"]["reason"], "source-changed")
    # The old checkpoint's end has changed the lower image, too.
    lab.write("vda", 3 * MIB, 64 * KIB, 0x22)
    t.equal(lab.backup()["vda"]["reason"], "layer-changed")
    lab.write("vda", 3 * MIB, 128 * KIB, 0x23)
    t.equal(levels(lab.backup()), {"vda": "incremental"})
    commit(t, lab)
    lab.write("vda", 4 * MIB, 64 * KIB, 0x24)
    t.equal(lab.backup()["vda"]["reason"], "source-changed")
    lab.write("vda", 5 * MIB, 64 * KIB, 0x25)
    t.equal(levels(lab.backup()), {"vda": "incremental"})
    lab.check_end(6)


def overlay(lab, name):
    flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
    flags |= libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
    lab.guest.dom.snapshotCreateXML(
        "<domainsnapshot><name>%s</name><disks><disk name='vda' snapshot='external'/></disks>"
        "</domainsnapshot>" % name, flags)
    lab.volumes["vda"].path = lab.guest.disk_path("vda")


def commit(t, lab):
    dom = lab.guest.dom
    dom.blockCommit("vda", None, None, 0, libvirt.VIR_DOMAIN_BLOCK_COMMIT_ACTIVE)
    pivot(t, lab)


def pivot(t, lab):
    """Ends a block job that is ready by changing over."""
    dom = lab.guest.dom

    def ready():
        info = dom.blockJobInfo("vda", 0)
        return info and info["cur"] == info["end"] and "ready='yes'" in dom.XMLDesc(0)
    t.eventually(ready, 30, "the block job is not ready")
    dom.blockJobAbort("vda", libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)
    t.eventually(lambda: not dom.blockJobInfo("vda", 0), 30, "the block job does not end")
    lab.volumes["vda"].path = lab.guest.disk_path("vda")


@tap.test
def test_storage_moved(t):
    """Block copy: the same content in another image, whose bitmap is another's."""
    lab = full_disk(t)
    lab.backup()
    lab.write("vda", MIB, 64 * KIB, 0x21)
    lab.guest.dom.blockCopy(
        "vda", "<disk type='file'><driver type='qcow2'/><source file='%s.moved'/></disk>" %
        lab.volumes["vda"].path, {}, libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB)
    pivot(t, lab)
    lab.write("vda", 2 * MIB, 64 * KIB, 0x22)
    t.equal(lab.backup()["vda"]["reason"], "source-changed")
    lab.write("vda", 3 * MIB, 64 * KIB, 0x23)
    t.equal(levels(lab.backup()), {"vda": "incremental"})
    lab.check_end(3)


@tap.test
def test_managed_save(t):
    """To disk and back: the bitmaps go on."""
    lab = full_disk(t)
    lab.backup()
    lab.write("vda", MIB, 64 * KIB, 0x21)
    lab.guest.dom.managedSave(libvirt.VIR_DOMAIN_SAVE_PAUSED)
    lab.guest.wait_off(20)
    lab.on()
    lab.write("vda", 2 * MIB, 64 * KIB, 0x22)
    t.equal(levels(lab.backup()), {"vda": "incremental"})
    lab.check_end(2)


# Formats without bitmaps.


def always_compared(t, disk):
    lab = Lab(t, [disk, Disk(MIB)])
    for number in range(3):
        lab.write("vda", number * MIB + 512, 64 * KIB, 0x21 + number)
        lab.write("vdb", number * 4 * KIB, 4 * KIB, 0x31 + number)
        disks = lab.backup()
        t.equal(methods(disks), {"vda": "compare", "vdb": "bitmap"} if number
                else {"vda": "full", "vdb": "full"})
        t.equal(disks["vda"]["reason"], "no-bitmap-support" if number else "first-backup")
    lab.check_end(3)
    return lab


@tap.test
def test_raw_disk_of_odd_size(t):
    path = os.path.join(t.once("host", PrivateLibvirt).images, "odd.raw")
    with open(path, "wb") as file:
        file.truncate(4 * MIB + 100)
    lab = always_compared(t, Disk(size=None, fmt="raw", path=path))
    # The guest sees whole sectors, and what it writes to the last one lengthens the file.
    lab.write("vda", 4 * MIB, 512, 0x51)
    disk = lab.backup()["vda"]
    t.equal((disk["size"], disk["method"]), (4 * MIB + 512, "compare"))
    lab.check_end(4)


@tap.test
def test_qcow2_version_2(t):
    always_compared(t, Disk(4 * MIB + 512, options={"compat": "0.10"}))


# Domains of all kinds.


@tap.test
def test_renamed_domain(t):
    lab = full_disk(t)
    lab.backup()
    lab.off()
    lab.guest.dom.rename(lab.name + "-new")
    lab.name = lab.guest.name = lab.name + "-new"
    lab.on()
    lab.write("vda", MIB, 4 * KIB, 0x21)
    disk = lab.backup()["vda"]
    t.equal((disk["level"], disk["parent"]), ("incremental", lab.points[0][0]))
    lab.write("vda", 2 * MIB, 4 * KIB, 0x22)
    t.equal(levels(lab.backup()), {"vda": "incremental"})
    lab.check_end(3)


@tap.test
def test_transient_domain(t):
    lab = Lab(t, [Disk(4 * MIB), Disk(4 * MIB, bus="scsi")], transient=True)
    lab.fill("vda")
    lab.backup()
    lab.write("vda", MIB, 4 * KIB, 0x21)
    lab.zero("vda", 2 * MIB, MIB)
    t.equal(levels(lab.backup()), {"vda": "incremental", "sda": "incremental"})
    t.equal(lab.last["manifest"]["domain"]["transient"], True)
    # libvirt's records end with it, but not the bitmaps; what comes then has its UUID.
    lab.off()
    lab.on()
    lab.write("vda", 3 * MIB, 4 * KIB, 0x22)
    t.equal(methods(lab.backup()), {"vda": "bitmap", "sda": "bitmap"})
    t.ok("checkpoint-redefined" in [reason["code"] for reason in lab.last["manifest"]["reasons"]],
         "reasons %s" % lab.last["manifest"]["reasons"])
    lab.write("vda", 3 * MIB, 4 * KIB, 0x23)
    t.equal(methods(lab.backup()), {"vda": "bitmap", "sda": "bitmap"})
    lab.check_end(4)


@tap.test
def test_two_repositories(t):
    """Each has a checkpoint of its own, and leaves the other's alone."""
    lab = full_disk(t)
    checkpoints = []
    for number in range(3):
        for repository in ("repo", "second"):
            lab.write("vda", number * MIB, 4 * KIB, 0x20 + number)
            lab.zero("vda", number * MIB + 64 * KIB, 64 * KIB)
            lab.switch(repository)
            disk = lab.backup()["vda"]
            t.equal(disk["level"], "incremental" if number else "full")
            mine = lab.checkpoints_needed()
            t.equal(lab.guest.checkpoints(), sorted(mine + checkpoints))
            checkpoints = mine
    lab.check_end(3)
    lab.switch("repo")
    lab.check_end(3)


@tap.test
def test_long_chain_of_all_compressions(t):
    lab = Lab(t, [Disk(8 * MIB + 512)])
    lab.fill("vda")
    for number, mode in enumerate(("none", "zstd", "zstd:19", "none", "zstd:3", "zstd:1")):
        lab.write("vda", number * MIB + 512, 300 * KIB, 0x21 + number)
        lab.zero("vda", number * MIB + 400 * KIB, 300 * KIB, unmap=number % 2 == 0)
        disk = lab.backup("--compress", mode)["vda"]
        t.equal(disk["level"], "incremental" if number else "full")
    lab.check_end(6)


if __name__ == "__main__":
    tap.main()
