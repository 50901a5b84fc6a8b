#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks that come, go, change their names, places, sizes and serials, between runs and during them."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from vmbtest import image, process, tap  # noqa: E402
from vmbtest.libvirtd import PrivateLibvirt, libvirt  # noqa: E402
from exact_lab import KIB, MIB, Disk, Lab, methods  # noqa: E402

UA_A = "<alias name='ua-one'/>"
UA_B = "<alias name='ua-two'/>"


def make_lab(t, *disks):
    lab = Lab(t, list(disks))
    for number, target in enumerate(sorted(lab.volumes)):
        lab.fill(target, 0x20 + 50 * number)
    return lab


def redefine(lab, change):
    """The domain is off while its definition changes."""
    lab.off()
    change(lab)
    lab.host.conn.defineXML(lab.guest.xml())
    lab.on()


def retarget(**targets):
    """{old: new}: the same images at other targets."""
    def change(lab):
        volumes = {new: lab.volumes.pop(old) for old, new in targets.items()}
        for target, volume in volumes.items():
            volume.disk.target = target
        lab.volumes.update(volumes)
        lab.guest.disks.sort(key=lambda disk: disk.target)
    return change


def exchange_images(first, second, serials=False):
    """Images change places between two disks; with serials these go along."""
    def change(lab):
        one, two = lab.volumes[first], lab.volumes[second]
        one.disk.path, two.disk.path = two.disk.path, one.disk.path
        if serials:
            one.disk.serial, two.disk.serial = two.disk.serial, one.disk.serial
        lab.volumes[first], lab.volumes[second] = two, one
        one.disk, two.disk = two.disk, one.disk
    return change


def goes_on(t, lab, ids, reasons, how="bitmap"):
    """Each disk writes a little and is incremental under these identities; and then once more."""
    for number in range(2):
        for target in lab.volumes:
            lab.write(target, (1 + number) * MIB, 4 * KIB, 0x71 + number)
        disks = lab.backup()
        t.equal(methods(disks), dict.fromkeys(disks, how if number == 0 else "bitmap"))
        t.equal({target: disk["id"] for target, disk in disks.items()}, ids)
        for target in disks:
            t.equal(lab.reasons(target), [] if number else reasons.get(target, []))
        t.equal(lab.guest.checkpoints(), lab.checkpoints_needed())
        t.equal(len(lab.guest.checkpoints()), 1)
    lab.check_end(len(lab.points))


# Between two runs.


@tap.test
def test_targets_renamed(t):
    lab = make_lab(t, Disk(4 * MIB), Disk(4 * MIB))
    lab.backup()
    redefine(lab, retarget(vda="vdc", vdb="vdd"))
    goes_on(t, lab, {"vdc": "target:vda", "vdd": "target:vdb"},
            {"vdc": ["disk-renamed"], "vdd": ["disk-renamed"]})


@tap.test
def test_other_bus(t):
    lab = make_lab(t, Disk(4 * MIB), Disk(4 * MIB))
    lab.backup()

    def change(lab):
        retarget(vdb="sda")(lab)
        lab.volumes["sda"].disk.bus = "scsi"
        lab.guest.scsi = True
    redefine(lab, change)
    goes_on(t, lab, {"vda": "target:vda", "sda": "target:vdb"}, {"sda": ["disk-renamed"]})


@tap.test
def test_swapped(t):
    lab = make_lab(t, Disk(4 * MIB), Disk(4 * MIB))
    lab.backup()
    redefine(lab, exchange_images("vda", "vdb"))
    goes_on(t, lab, {"vda": "target:vdb", "vdb": "target:vda"},
            {"vda": ["disk-renamed"], "vdb": ["disk-renamed"]})


@tap.test
def test_swapped_with_serials(t):
    lab = make_lab(t, Disk(4 * MIB, serial="one"), Disk(4 * MIB, serial="two"))
    lab.backup()
    redefine(lab, exchange_images("vda", "vdb", serials=True))
    goes_on(t, lab, {"vda": "serial:two", "vdb": "serial:one"},
            {"vda": ["disk-renamed"], "vdb": ["disk-renamed"]})


@tap.test
def test_serials_swapped_alone(t):
    """The images stay: by its serial each is the other disk, and nothing of its bitmap is believed."""
    lab = make_lab(t, Disk(4 * MIB, serial="one"), Disk(4 * MIB, serial="two"))
    lab.backup()

    def change(lab):
        one, two = lab.volumes["vda"].disk, lab.volumes["vdb"].disk
        one.serial, two.serial = two.serial, one.serial
    redefine(lab, change)
    goes_on(t, lab, {"vda": "serial:two", "vdb": "serial:one"},
            dict.fromkeys(("vda", "vdb"), ["disk-renamed", "source-changed"]), "compare")


@tap.test
def test_serial_added_and_removed(t):
    lab = make_lab(t, Disk(4 * MIB), Disk(4 * MIB, serial="gone"))
    lab.backup()

    def change(lab):
        lab.volumes["vda"].disk.serial = "new"
        lab.volumes["vdb"].disk.serial = None
    redefine(lab, change)
    goes_on(t, lab, {"vda": "target:vda", "vdb": "serial:gone"}, {})


@tap.test
def test_user_alias(t):
    """It stays when the target changes and the image is replaced as well."""
    lab = make_lab(t, Disk(4 * MIB, xml=UA_A, bus="scsi"), Disk(4 * MIB, xml=UA_B, bus="scsi"))
    lab.backup()
    t.equal([disk["id"] for disk in lab.last["disks"]], ["alias:ua-one", "alias:ua-two"])

    def change(lab):
        retarget(sda="sdc", sdb="sda")(lab)
        volume = lab.volumes["sda"]
        process.run("cp", volume.path, volume.path + ".new")
        volume.path = volume.disk.path = volume.path + ".new"
    redefine(lab, change)
    lab.write("sdc", MIB, 4 * KIB, 0x70)
    disks = lab.backup()
    t.equal({target: (disk["id"], disk["method"]) for target, disk in disks.items()},
            {"sdc": ("alias:ua-one", "bitmap"), "sda": ("alias:ua-two", "compare")})
    t.equal(lab.reasons("sda"), ["disk-renamed", "source-changed"])
    lab.check_end(2)


@tap.test
def test_removed_and_number_used_again(t):
    """A new image gets the inode number of one that is gone: another disk, not the same renamed."""
    lab = make_lab(t, Disk(4 * MIB), Disk(4 * MIB, bus="scsi"))
    lab.backup()
    volume = lab.detach("sda")
    number = os.stat(volume.path).st_ino
    os.unlink(volume.path)
    path = os.path.join(lab.host.images, "successor.qcow2")
    for attempt in range(50):
        candidate = "%s.%d" % (path, attempt)
        image.create(candidate, 4 * MIB)
        if os.stat(candidate).st_ino == number:
            break
    else:
        t.diag("the filesystem gave other numbers")
    os.rename(candidate, path)
    lab.attach(Disk(size=None, path=path, bus="scsi", target="sdb"))
    lab.fill("sdb", 0x90)
    disks = lab.backup()
    t.equal((disks["sdb"]["method"], disks["sdb"]["reason"], disks["sdb"]["id"]),
            ("full", "new-disk", "target:sdb"))
    t.equal((disks["vda"]["method"], lab.reasons("sda")), ("bitmap", ["disk-removed"]))
    lab.check_end(2)


@tap.test
def test_removed_and_replaced_at_its_target(t):
    """Nothing but the target is the same: compared, so that nothing is believed."""
    lab = make_lab(t, Disk(4 * MIB), Disk(4 * MIB, bus="scsi"))
    lab.backup()
    lab.detach("sda")
    path = os.path.join(lab.host.images, "other-at-sda.qcow2")
    image.create(path, 5 * MIB)
    lab.attach(Disk(size=None, path=path, bus="scsi", target="sda"))
    lab.write("sda", 2 * MIB, MIB, 0x91)
    disks = lab.backup()
    t.equal(methods(disks), {"vda": "bitmap", "sda": "compare"})
    t.equal(lab.reasons("sda"), ["source-changed", "resized"])
    lab.check_end(2)


@tap.test
def test_cdrom_at_the_target_of_a_disk(t):
    """A drive does not inherit the chain of the disk that had its target."""
    lab = make_lab(t, Disk(4 * MIB), Disk(4 * MIB, bus="sata"))
    lab.backup()

    def change(lab):
        volume = lab.volumes.pop("sda")
        iso = volume.path + ".iso"
        process.run("cp", volume.path, iso)
        lab.guest.disks = [disk for disk in lab.guest.disks if disk.target != "sda"]
        lab.guest.disks.append(Disk(size=None, fmt="raw", path=iso, target="sda", device="cdrom",
                                    readonly=True))
    redefine(lab, change)
    lab.write("vda", MIB, 4 * KIB, 0x71)
    disks = lab.backup()
    t.equal(methods(disks), {"vda": "bitmap"})
    t.equal(sorted(lab.reasons("sda")), ["cdrom", "disk-removed"])
    t.equal(lab.guest.checkpoints(), lab.checkpoints_needed())
    lab.check_end(2)


@tap.test
def test_selection_across_names(t):
    """Options name targets as they are now; what is left out goes on from where it was."""
    lab = make_lab(t, Disk(4 * MIB), Disk(4 * MIB))
    lab.backup()
    redefine(lab, exchange_images("vda", "vdb"))
    for target in lab.volumes:
        lab.write(target, MIB, 4 * KIB, 0x71)
    disks = lab.backup("--disk", "vda")
    t.equal({target: (disk["id"], disk["method"]) for target, disk in disks.items()},
            {"vda": ("target:vdb", "bitmap")})
    t.equal(lab.reasons("vdb"), ["deselected"])
    t.equal(len(lab.guest.checkpoints()), 2)
    redefine(lab, exchange_images("vda", "vdb"))
    for target in lab.volumes:
        lab.write(target, 2 * MIB, 4 * KIB, 0x72)
    disks = lab.backup("--exclude-disk", "vdb")
    t.equal({target: (disk["id"], disk["parent"]) for target, disk in disks.items()},
            {"vda": ("target:vda", lab.points[0][0])})
    for target in lab.volumes:
        lab.write(target, 3 * MIB, 4 * KIB, 0x73)
    disks = lab.backup()
    t.equal(methods(disks), {"vda": "bitmap", "vdb": "bitmap"})
    t.equal([disks[target]["parent"] for target in ("vda", "vdb")],
            [lab.points[2][0], lab.points[1][0]])
    t.equal(len(lab.guest.checkpoints()), 1)
    lab.check_end(4)


# Plugged while the domain runs, and while it is backed up.


@tap.test
def test_plugged_in_and_out(t):
    """Resized while it is away; a point without it keeps what the older one has."""
    lab = make_lab(t, Disk(4 * MIB), Disk(4 * MIB + 512, bus="scsi"))
    lab.backup()
    volume = lab.detach("sda")
    lab.resize(volume, 5 * MIB)
    lab.write("vda", MIB, 4 * KIB, 0x71)
    t.equal(methods(lab.backup()), {"vda": "bitmap"})
    volume.disk.target = "sdc"
    lab.attach(volume.disk, volume)
    lab.write("sdc", 5 * MIB - 512, 512, 0x72)
    disks = lab.backup()
    t.equal((disks["sdc"]["id"], disks["sdc"]["level"], disks["sdc"]["parent"]),
            ("target:sda", "incremental", lab.points[0][0]))
    t.equal(sorted(set(lab.reasons("sdc")) - {"checkpoint-redefined", "bitmap-unusable",
                                              "checkpoint-missing"}), ["disk-renamed", "resized"])
    lab.write("sdc", 0, 512, 0x73)
    t.equal(methods(lab.backup()), {"vda": "bitmap", "sdc": "bitmap"})
    lab.check_end(4)


def disturbed(t, lab, step, disturb, *args):
    """A run, and something that happens when it is at a step."""
    gate = lab.host.path(lab.directory, "gate")
    end = lab.start(*args, fail_at="%s=wait:%s" % (step, gate))
    t.eventually(lambda: os.path.exists(gate + ".reached") or not end.running.running(), 60,
                 "the step is not reached")
    disturb()
    with open(gate, "w", encoding="ascii"):
        pass
    result = end()
    os.unlink(gate)
    return result


@tap.test
def test_added_while_the_job_begins(t):
    lab = make_lab(t, Disk(4 * MIB))
    lab.backup()
    lab.write("vda", MIB, 4 * KIB, 0x71)
    disturbed(t, lab, "guard-armed", lambda: lab.attach(Disk(4 * MIB, bus="scsi"))).expect(0)
    t.equal([disk["target"] for disk in lab.last["disks"]], ["vda"])
    t.contains(lab.reasons(), "disks-changed")
    disks = lab.backup()
    t.equal(methods(disks), {"vda": "bitmap", "sda": "full"})
    t.equal(disks["sda"]["reason"], "new-disk")
    lab.check_end(3)


@tap.test
def test_removed_while_the_job_begins(t):
    """libvirt does not find what it shall back up: nothing is left, and the next run is whole."""
    lab = make_lab(t, Disk(4 * MIB), Disk(4 * MIB, bus="scsi"))
    lab.backup()
    before = lab.guest.checkpoints()
    result = disturbed(t, lab, "guard-armed", lambda: lab.detach("sda"))
    t.ok(result.status not in (0, -11, -6), result.describe())
    t.equal((len(lab.points), lab.guest.checkpoints()), (1, before))
    lab.check_rest()
    lab.write("vda", MIB, 4 * KIB, 0x71)
    t.equal(methods(lab.backup()), {"vda": "bitmap"})
    lab.check_end(2)


@tap.test
def test_replaced_while_the_job_begins(t):
    """Another image at the target, which no plan was made for."""
    lab = make_lab(t, Disk(4 * MIB), Disk(4 * MIB, bus="scsi"))
    lab.backup()

    def replace():
        lab.detach("sda")
        lab.attach(Disk(4 * MIB, bus="scsi", target="sda", path=lab.host.path("images", "r.qcow2")
                        if image.create(lab.host.path("images", "r.qcow2"), 4 * MIB) else None))
    result = disturbed(t, lab, "guard-armed", replace)
    result.expect(1).says("sda", "another image")
    lab.check_rest()
    lab.fill("sda", 0x95)
    t.equal(methods(lab.backup()), {"vda": "bitmap", "sda": "compare"})
    lab.check_end(2)


@tap.test
def test_changed_while_the_job_runs(t):
    """A disk that comes then is not of that instant; one that is read cannot go."""
    lab = make_lab(t, Disk(4 * MIB), Disk(4 * MIB, bus="scsi"))
    lab.backup()
    lab.write("vda", MIB, 4 * KIB, 0x71)

    def disturb():
        t.raises(libvirt.libvirtError, lab.guest.detach_disk, "sda")
        lab.attach(Disk(4 * MIB, bus="scsi"))
    disturbed(t, lab, "disk-opened", disturb).expect(0)
    t.equal([disk["target"] for disk in lab.last["disks"]], ["vda", "sda"])
    disks = lab.backup()
    t.equal(methods(disks), {"vda": "bitmap", "sda": "bitmap", "sdb": "full"})
    lab.check_end(3)


if __name__ == "__main__":
    tap.main()
