#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Backups of shut-off domains: chains, fallbacks and refusals."""

import fcntl
import os
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from vmbtest import process, tap  # noqa: E402
from vmbtest.guest import Guest  # noqa: E402
from vmbtest.libvirtd import PrivateLibvirt  # noqa: E402
from offline_lab import KIB, MIB, Disk, OffLab, image, libvirt, stored_bitmaps  # noqa: E402

SIZE = 8 * MIB
QEMU_WRITE_LOCK = 101


def lab_of(t, *disks, **guest):
    """A shut-off domain with disks that hold something."""
    lab = OffLab(t, list(disks) or [Disk(SIZE)], **guest)
    for number, target in enumerate(lab.volumes):
        lab.fill(target, 0x21 + 16 * number)
    return lab


def without_server(t, lab):
    """Environment in which the program finds no qemu-nbd."""
    path = lab.host.directory("no-server", 0o755)
    with open(os.path.join(path, "qemu-nbd"), "w", encoding="ascii") as file:
        file.write("#!/bin/sh\nexit 9\n")
    os.chmod(os.path.join(path, "qemu-nbd"), 0o755)
    return {"PATH": path + ":" + os.environ["PATH"]}


def stop_at(t, lab, step):
    """A backup that waits at a step: returns what waits for its end, and what lets it continue."""
    path = lab.host.path(lab.directory, "go")
    end = lab.start("-v", fail_at="%s=wait:%s" % (step, path))
    t.eventually(lambda: os.path.exists(path + ".reached"), 30, step, 0.01)

    def go():
        with open(path, "wb"):
            pass
    return end, go


@tap.test
def test_off_on_off(t):
    lab = lab_of(t, Disk(SIZE), Disk(4 * MIB, fmt="raw"))
    lab.backup_off("full", "full")
    lab.on()
    lab.write("vda", MIB, 128 * KIB, 9)
    lab.write("vdb", MIB, 64 * KIB, 9)
    lab.backup()
    t.equal([d["method"] for d in lab.manifest_disks().values()], ["bitmap", "compare"])
    lab.write("vda", 3 * MIB, 64 * KIB, 8)
    lab.off()
    # libvirt has changed the images' owner, and so the time that nobody can put back.
    lab.backup_off({"vda": "offline", "vdb": "compare"}, "incremental", {"vda": 1, "vdb": 0})
    lab.write("vda", 5 * MIB, 64 * KIB, 7)
    lab.write("vdb", 2 * MIB, 64 * KIB, 7)
    lab.backup_off({"vda": "offline", "vdb": "compare"}, "incremental", {"vda": 1, "vdb": 1})
    lab.on()
    lab.write("vda", 6 * MIB, 64 * KIB, 6)
    lab.backup("--level", "incremental")
    t.equal(lab.manifest_disks()["vda"]["image"]["data_blocks"], 1)
    lab.check_end(5)


@tap.test
def test_unchanged_costs_nothing(t):
    lab = lab_of(t, Disk(SIZE), Disk(SIZE, fmt="raw"))
    lab.backup_off("full")
    checkpoint = lab.manifest_disks()["vda"]["checkpoint"]
    nothing = without_server(t, lab)
    images = {target: image.sha256(volume.path) for target, volume in lab.volumes.items()}
    for _ in range(2):
        lab.backup_off("offline", "incremental", {"vda": 0, "vdb": 0}, **nothing)
        t.equal(lab.manifest_disks()["vda"]["checkpoint"], checkpoint)
        t.equal(lab.reasons(), [])
    t.equal({target: image.sha256(volume.path) for target, volume in lab.volumes.items()}, images)
    # It has run and changed nothing: the bitmap tells, or a comparison.
    lab.on()
    lab.off()
    disks = lab.backup_off({"vda": "offline", "vdb": "compare"}, "incremental",
                           {"vda": 0, "vdb": 0})
    t.equal(disks["vda"]["checkpoint"], checkpoint, "the clean bitmap goes on")
    lab.backup_off("offline", "incremental", **nothing)
    lab.run("--level", "full", **nothing).expect(1)
    lab.backup_off("full", args=("--level", "full"))
    lab.check_end(6)


@tap.test
def test_chain_of_images(t):
    lab = lab_of(t, Disk(SIZE))
    base = lab.volumes["vda"].path
    template = lab.host.path(lab.directory, "template.qcow2")
    os.rename(base, template)
    middle = lab.host.path(lab.directory, "middle.raw")
    image.convert(template, middle)
    os.chmod(middle, 0o644)
    process.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "middle.raw", "-F", "raw", "-o",
                "cluster_size=4k", lab.host.path(lab.directory, "upper.qcow2"))
    # The active image names the next one by a path beside it, through another directory.
    process.run("qemu-img", "create", "-q", "-f", "qcow2", "-b",
                os.path.relpath(lab.host.path(lab.directory, "upper.qcow2"), os.path.dirname(base)),
                "-F", "qcow2", base)
    lab.write("vda", MIB, 64 * KIB, 1)
    lab.backup_off("full")
    lab.write("vda", 2 * MIB, 64 * KIB, 2)
    lab.backup_off("offline", "incremental")
    # What is below changes behind the bitmap's back.
    process.run("qemu-io", "-f", "raw", "-c", "write -P 3 5M 64k", middle)
    lab.volumes["vda"].changed_behind(lab)
    lab.backup_off("compare", "incremental", {"vda": 1})
    t.ok("layer-changed" in lab.reasons("vda"), lab.reasons())
    lab.on()
    lab.write("vda", 3 * MIB, 64 * KIB, 4)
    lab.backup("--level", "incremental")
    t.equal(lab.manifest_disks()["vda"]["method"], "bitmap")
    lab.check_end(4)


@tap.test
def test_template_in_use(t):
    """Another domain with the same template is started meanwhile; libvirt gives the template to QEMU."""
    host = t.once("host", PrivateLibvirt)
    template = os.path.join(host.images, "template.qcow2")
    image.create(template, SIZE)
    process.run("qemu-io", "-f", "qcow2", "-c", "write -P 5 0 4M", template)
    lab = OffLab(t, [Disk(SIZE, backing=template)])
    other = Guest(host, "clone", disks=[Disk(SIZE, backing=template)], mount=())
    t.defer(other.undefine)
    t.defer(other.destroy)
    lab.volumes["vda"].changed_behind(lab)
    lab.write("vda", MIB, 64 * KIB, 1)
    lab.backup_off("full")
    lab.write("vda", 2 * MIB, 64 * KIB, 2)
    end, go = stop_at(t, lab, "offline-read")
    before = os.stat(template)
    other.start(paused=True)
    t.ok(os.stat(template).st_ctime_ns != before.st_ctime_ns, "libvirt left it alone")
    go()
    result = end().expect(0)
    t.ok("trying once more" not in result.err, result.describe())
    lab.write("vda", 3 * MIB, 64 * KIB, 3)
    lab.backup_off("offline", "incremental")
    lab.check_end(3)


@tap.test
def test_disks_that_cannot_have_bitmaps(t):
    lab = lab_of(t, Disk(SIZE, options={"compat": "0.10"}), Disk(SIZE, fmt="raw"))
    lab.backup_off("full")
    lab.write("vda", MIB, 64 * KIB, 1)
    lab.write("vdb", MIB, 64 * KIB, 1)
    lab.backup_off("compare", "incremental", {"vda": 1, "vdb": 1})
    t.equal(lab.reasons("vda"), ["no-bitmap-support"])
    lab.backup_off("offline", "incremental", {"vda": 0, "vdb": 0})
    t.equal(lab.guest.checkpoints(), [])
    lab.check_end(3)


@tap.test
def test_sizes(t):
    lab = lab_of(t, Disk(SIZE), Disk(4 * MIB + 1536, fmt="raw"), Disk(MIB + 512))
    lab.backup_off("full")
    for target in lab.volumes:
        lab.write(target, MIB, 512, 1)
    lab.backup_off({"vda": "offline", "vdb": "compare", "vdc": "offline"}, "incremental")
    lab.resize("vda", 12 * MIB)
    lab.write("vda", 11 * MIB, 64 * KIB, 1)
    lab.backup_off("offline", "incremental")
    t.ok("resized" in lab.reasons("vda"), lab.reasons())
    lab.resize("vda", 3 * MIB)
    lab.resize("vda", 12 * MIB)
    lab.backup()
    lab.check_end(4)


@tap.test
def test_lost_bitmaps(t):
    lab = lab_of(t)
    lab.backup_off("full")
    lab.on()
    lab.write("vda", MIB, 64 * KIB, 1)
    lab.kill_qemu()
    lab.volumes["vda"].changed_behind(lab)
    lab.backup_off("compare", "incremental", {"vda": 1})
    t.equal(lab.reasons("vda"), ["bitmap-unusable"])
    lab.write("vda", 2 * MIB, 64 * KIB, 2)
    lab.backup_off("offline", "incremental", {"vda": 1})
    process.run("qemu-img", "bitmap", "--remove", lab.volumes["vda"].path,
                lab.manifest_disks()["vda"]["checkpoint"])
    lab.write("vda", 3 * MIB, 64 * KIB, 3)
    lab.backup_off("compare", "incremental", {"vda": 1})
    # A bitmap that somebody has stopped.
    process.run("qemu-img", "bitmap", "--disable", lab.volumes["vda"].path,
                lab.manifest_disks()["vda"]["checkpoint"])
    lab.write("vda", 4 * MIB, 64 * KIB, 4)
    lab.backup_off("compare", "incremental", {"vda": 1})
    # Another image in its place.
    path = lab.volumes["vda"].path
    os.rename(path, path + ".old")
    process.run("cp", path + ".old", path)
    lab.write("vda", 5 * MIB, 64 * KIB, 5)
    lab.backup_off("compare", "incremental", {"vda": 1})
    t.equal(lab.reasons("vda"), ["source-changed"])
    lab.check_end(6)


@tap.test
def test_image_that_others_read(t):
    lab = lab_of(t)
    with open(lab.volumes["vda"].path, "rb"):
        disks = lab.backup_off("full")
    t.equal(disks["vda"]["checkpoint"], None)
    t.ok("bitmap-not-added" in lab.reasons("vda"), lab.reasons())
    lab.write("vda", MIB, 64 * KIB, 1)
    kept = lab.backup_off("compare", "incremental", {"vda": 1})["vda"]["checkpoint"]
    lab.write("vda", 2 * MIB, 64 * KIB, 2)
    with open(lab.volumes["vda"].path, "rb"):
        disks = lab.backup_off("offline", "incremental", {"vda": 1})
    t.equal(disks["vda"]["checkpoint"], kept, "the old bitmap goes on")
    lab.on()
    lab.write("vda", 3 * MIB, 64 * KIB, 3)
    lab.backup("--level", "incremental")
    t.equal(lab.manifest_disks()["vda"]["method"], "bitmap")
    lab.check_end(4)


@tap.test
def test_excluded_disk(t):
    lab = lab_of(t, Disk(SIZE), Disk(SIZE))
    lab.backup_off("full")
    lab.write("vda", MIB, 64 * KIB, 1)
    lab.write("vdb", MIB, 64 * KIB, 1)
    lab.backup_off("offline", "incremental", {"vda": 1}, args=("--exclude-disk", "vdb"))
    lab.backup_off("offline", "incremental", {"vda": 0, "vdb": 1})
    lab.check_end(3)


@tap.test
def test_block_devices(t):
    """One holds a qcow2 image, one raw data. They have no times that tell anything, and know no leases."""
    lab = OffLab(t, [Disk(SIZE), Disk(SIZE, fmt="raw")])
    xml = lab.guest.dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    for volume in lab.volumes.values():
        if volume.fmt == "qcow2":
            process.run("truncate", "-s", str(3 * SIZE), volume.path)
        try:
            device = process.run("losetup", "--find", "--show", volume.path).strip()
        except process.CommandError as error:
            t.skip("no loop devices: %s" % error)
        t.defer(process.run, "losetup", "--detach", device)
        xml = xml.replace("<source file='%s'/>" % volume.path, "<source dev='%s'/>" % device)
        volume.path = device
    lab.host.conn.defineXML(xml.replace("<disk type='file' device='disk'", "<disk type='block' "
                                        "device='disk'"))
    lab.fill("vda")
    lab.fill("vdb")
    lab.backup_off("full")
    t.ok("bitmap-not-added" in lab.reasons("vda"), lab.reasons())
    lab.write("vda", MIB, 64 * KIB, 1)
    lab.write("vdb", MIB, 64 * KIB, 1)
    lab.backup_off("compare", "incremental", {"vda": 1, "vdb": 1})
    lab.on()
    lab.backup("--level", "incremental")
    lab.write("vda", 2 * MIB, 64 * KIB, 2)
    lab.off()
    lab.backup_off({"vda": "offline", "vdb": "compare"}, "incremental", {"vda": 1, "vdb": 0})
    lab.write("vda", 3 * MIB, 64 * KIB, 3)
    lab.backup_off({"vda": "offline", "vdb": "compare"}, "incremental")
    holder = os.open(lab.volumes["vdb"].path, os.O_RDONLY | os.O_EXCL)
    try:
        lab.refused("uses it for another device")
    finally:
        os.close(holder)
    lab.check_end(5)


@tap.test
def test_external_data_file(t):
    lab = OffLab(t, [Disk(SIZE)])
    path = lab.volumes["vda"].path
    os.unlink(path)
    process.run("qemu-img", "create", "-q", "-f", "qcow2", "-o",
                "data_file=%s.data,data_file_raw=off" % path, path, str(SIZE))
    lab.fill("vda")
    lab.backup_off("full")
    lab.write("vda", MIB, 64 * KIB, 1)
    lab.backup_off("compare", "incremental", {"vda": 1})
    lab.backup_off("offline", "incremental", {"vda": 0})
    lab.check_end(3)


@tap.test
def test_two_repositories(t):
    """Each has its own bitmap, and leaves the other's alone."""
    lab = lab_of(t)
    first = lab.repo
    lab.backup_off("full")
    lab.foreign = [lab.manifest_disks()["vda"]["checkpoint"]]
    lab.switch("second")
    lab.backup_off("full")
    second = lab.manifest_disks()["vda"]["checkpoint"]
    for number in range(2):
        lab.write("vda", (1 + number) * MIB, 64 * KIB, 1 + number)
        lab.foreign, mine = [second], lab.foreign
        lab.switch(first)
        lab.backup_off("offline", "incremental", {"vda": 1})
        t.ok(lab.manifest_disks()["vda"]["checkpoint"] not in mine, "the old one had changes")
        lab.foreign = [lab.manifest_disks()["vda"]["checkpoint"]]
        lab.switch("second")
        lab.backup_off("offline", "incremental", {"vda": 1})
        second = lab.manifest_disks()["vda"]["checkpoint"]
        # Nothing but the other's bitmap has changed: this one is clean, and goes on.
        lab.foreign, mine = [second], lab.foreign
        lab.switch(first)
        lab.backup_off("offline", "incremental", {"vda": 0})
        t.equal([lab.manifest_disks()["vda"]["checkpoint"]], mine)
        lab.foreign = mine
        lab.switch("second")
    lab.check_end(3)


# What goes wrong meanwhile

@tap.test
def test_server_dies(t):
    lab = lab_of(t)
    lab.backup_off("full")
    lab.write("vda", MIB, 64 * KIB, 1)
    end, go = stop_at(t, lab, "disk-opened")
    servers = [pid for pid, words in lab.host.processes() if words.startswith("qemu-nbd")]
    t.equal(len(servers), 1, "servers")
    process.kill(servers[0])
    go()
    end().expect(1).says("older points are intact")
    lab.check_rest()
    lab.backup_off("offline", "incremental", {"vda": 1})
    lab.check_end(2)


@tap.test
def test_daemon_restarts(t):
    """libvirt could not have told of a start meanwhile: it is done once more."""
    lab = lab_of(t)
    lab.backup_off("full")
    lab.write("vda", MIB, 64 * KIB, 1)
    end, go = stop_at(t, lab, "offline-read")
    lab.host.restart()
    go()
    end().expect(0).says("trying once more")
    lab.check_points()
    lab.check_rest()
    t.equal(lab.last["consistency"], "offline")
    lab.check_end(2)


@tap.test
def test_image_changes_meanwhile(t):
    """By something that is no start of the domain, and is gone again at the end."""
    lab = lab_of(t)
    lab.backup_off("full")
    lab.write("vda", MIB, 64 * KIB, 1)
    end, go = stop_at(t, lab, "offline-read")
    process.run("qemu-io", "-f", "qcow2", "-c", "write -P 99 2M 64k", lab.volumes["vda"].path)
    go()
    end().expect(0).says("trying once more", "has changed")
    lab.volumes["vda"].changed_behind(lab)
    point, snapshots = lab.points[-1]
    image.convert(lab.image(point, "vda"), snapshots["vda"][0])
    image.compare(lab.image(point, "vda"), lab.volumes["vda"].model.path)
    lab.backup_off("offline", "incremental")
    lab.check_end(3)


@tap.test
def test_told_to_stop(t):
    lab = lab_of(t)
    lab.backup_off("full")
    lab.write("vda", MIB, 64 * KIB, 1)
    for step in ("image-open-alone", "offline-bitmap-added", "disk-data"):
        result = lab.run(fail_at=step + "=term")
        t.equal(result.status, 143, result.describe())
        lab.check_rest()
    lab.backup_off("offline", "incremental", {"vda": 1})
    lab.check_end(2)


@tap.test
def test_saved_memory(t):
    lab = lab_of(t)
    lab.backup_off("full")
    lab.on()
    lab.write("vda", MIB, 64 * KIB, 1)
    lab.guest.dom.managedSave(0)
    lab.guest.wait_off()
    result = lab.run().expect(0).says("managed save")
    t.equal(lab.last["consistency"], "paused", result.describe())
    t.equal(lab.manifest_disks()["vda"]["method"], "offline")
    lab.check_points()
    t.equal(lab.guest.dom.hasManagedSaveImage(0), 1)
    lab.guest.start(paused=True)
    lab.write("vda", 2 * MIB, 64 * KIB, 2)
    lab.backup("--level", "incremental")
    t.equal(lab.manifest_disks()["vda"]["method"], "bitmap")
    lab.check_end(3)


# Refusals

@tap.test
def test_another_process_writes(t):
    lab = lab_of(t)
    path = lab.volumes["vda"].path
    lab.backup_off("full")
    with open(path, "r+b") as file:
        lab.refused("in use by another process", path)
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack(
            "hhlli4x", fcntl.F_RDLCK, os.SEEK_SET, QEMU_WRITE_LOCK, 1, 0))
        lab.refused("in use by a QEMU", path)
    lab.backup_off("offline")


@tap.test
def test_corrupt_image(t):
    lab = lab_of(t)
    lab.backup_off("full")
    path = lab.volumes["vda"].path
    with open(path, "r+b") as file:
        file.seek(72)
        bits = struct.unpack(">Q", file.read(8))[0]
        file.seek(72)
        file.write(struct.pack(">Q", bits | 2))
    lab.refused("marked as corrupt", "qemu-img check")
    with open(path, "r+b") as file:
        file.seek(72)
        file.write(struct.pack(">Q", bits))
    lab.backup()


@tap.test
def test_images_that_cannot_be_read(t):
    lab = lab_of(t)
    path = lab.volumes["vda"].path
    secret = lab.host.path(lab.directory, "secret")
    with open(secret, "wb") as file:
        file.write(b"x" * MIB)
    os.unlink(path)
    process.run("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b",
                'json:{"driver":"raw","file":{"driver":"file","filename":"%s"}}' % secret, "-F",
                "raw", path, str(SIZE))
    lab.refused("names its backing file in another way")
    os.unlink(path)
    process.run("qemu-img", "create", "-q", "-f", "qcow2", path, str(SIZE))
    process.run("qemu-img", "rebase", "-q", "-u", "-f", "qcow2", "-b", secret, "-F", "raw", path)
    with open(path, "r+b") as file:
        header = file.read(4096)
        place = header.index(struct.pack(">I", 0xe2792aca))
        file.seek(place)
        file.write(struct.pack(">I", 0x12345678))
    lab.refused("does not say that its backing file is raw or qcow2")
    os.unlink(path)
    process.run("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", path, "-F", "qcow2",
                path + ".new", str(SIZE))
    os.rename(path + ".new", path)
    lab.refused("circles")
    os.unlink(path)
    lab.refused("cannot be opened")


@tap.test
def test_disk_on_the_network(t):
    lab = lab_of(t, Disk(SIZE), Disk(SIZE))
    xml = lab.guest.dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    path = lab.volumes["vdb"].path
    changed = xml.replace("<source file='%s'/>" % path,
                          "<source protocol='nbd' name='x'><host name='localhost'/></source>")
    at = changed.index("protocol='nbd'")
    start = changed.rindex("<disk type='file'", 0, at)
    changed = changed[:start] + "<disk type='network'" + changed[start + len("<disk type='file'"):]
    lab.host.conn.defineXML(changed)
    lab.refused("vdb", "no file or block device of this host", "--exclude-disk vdb")
    del lab.volumes["vdb"]
    lab.backup_off("full", args=("--exclude-disk", "vdb"))


if __name__ == "__main__":
    tap.main()
