#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Damage in a chain: the next backup takes what is lost from the guest again, and only that."""

import json
import os
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from vmbtest import process, tap  # noqa: E402
from exact_lab import KIB, MIB, Disk, Lab  # noqa: E402

BLOCK = 64 * KIB
PLAIN = ("--compress", "none")
FRAME = bytes([0x28, 0xb5, 0x2f, 0xfd])  # zstd's magic number


class HealLab(Lab):
    """A lab whose repository gets damaged."""

    def take(self, *options, **more):
        """A backup, plain unless told otherwise; returns {target: what the report says of the disk}."""
        result = self.run("--json", *(options or PLAIN), **more).expect(0)
        self.check_points()
        if self.guest.is_active():
            self.check_rest()
        return {disk["target"]: disk for disk in result.json_lines[0]["disks"]}

    def places(self, point, target, offsets):
        """Where a point's own, uncompressed image has the blocks at these offsets of the disk."""
        text = process.run("qemu-img", "map", "-U", "--output=json", self.image(point, target))
        for extent in json.loads(text):
            for offset in offsets:
                if extent["start"] <= offset < extent["start"] + extent["length"]:
                    self.t.equal(extent["depth"], 0, "layer of what is to be spoilt")
                    yield extent["offset"] + offset - extent["start"]

    def spoil(self, point, target, *offsets):
        """Flips a byte of these blocks; the points are no longer what they should be."""
        places = list(self.places(point, target, offsets))
        self.t.equal(len(places), len(offsets), "blocks to be spoilt")
        for place in places:
            self.damage(point, target + ".qcow2", place + 77)

    def spoil_frame(self, point, target, number):
        """Flips a byte of a compressed image's frame."""
        path = self.image(point, target)
        with open(path, "rb") as file:
            places = [found.start() for found in re.finditer(re.escape(FRAME), file.read())]
        self.damage(point, target + ".qcow2", places[number] + 12)

    def spoil_file(self, point, name, offset):
        """Flips a byte of another file."""
        self.damage(point, name, offset)

    def forget(self, *indexes):
        """These points are no longer compared with what they should be."""
        for index in indexes:
            self.points[index] = (self.points[index][0], {})

    def state(self, index):
        """What is kept of a point."""
        return self.tool.json("show", "%s/%s" % (self.name, self.points[index][0]))["state"]

    def ranges(self, index):
        """The damaged ranges that are kept of a point: [(offset, length)]."""
        return [(range_["offset"], range_["length"]) for range_ in self.state(index)["damage"]]

    def verify(self):
        """Finds damage."""
        self.tool.run("verify", self.name).expect(4)

    def id(self, index):
        """A point's."""
        return self.points[index][0]


def filled(t, *disks, **more):
    """A lab with a first point, and what it holds on its disks."""
    lab = HealLab(t, list(disks) or [Disk(4 * MIB)], **more)
    for number, target in enumerate(lab.volumes):
        lab.fill(target, 0x20 * number)
    lab.take()
    return lab


@tap.test
def test_once_and_only_that(t):
    """Two blocks of the full are lost, one of which the second point has anew."""
    lab = filled(t)
    lab.write("vda", MIB, BLOCK, 0x33)
    lab.take()
    lab.spoil(lab.id(0), "vda", MIB, 2 * MIB, 2 * MIB + BLOCK)
    lab.verify()
    lab.forget(0, 1)
    t.equal(lab.ranges(0), [(MIB, BLOCK), (2 * MIB, 2 * BLOCK)])
    t.equal(lab.state(0)["result"], "damaged")
    lab.write("vda", 3 * MIB, BLOCK, 0x44)
    disk = lab.take()["vda"]
    t.equal((disk["read"], disk["healed"], disk["copied"]), (3 * BLOCK, 2 * BLOCK, 0))
    t.equal(lab.last["disks"][0]["level"], "incremental")
    t.equal(lab.last["disks"][0]["method"], "bitmap")
    t.contains(lab.reasons("vda"), "damage-healed")
    lab.check_restore(*lab.points[2])
    # Older points stay damaged, and nobody forgets that.
    lab.tool.run("restore", "%s/%s" % (lab.name, lab.id(1)), "--to",
                 lab.host.path(lab.directory, "no")).expect(4).says("vda", str(2 * MIB))
    t.equal(lab.ranges(0), [(MIB, BLOCK), (2 * MIB, 2 * BLOCK)])
    # It is not taken twice.
    lab.write("vda", 0, BLOCK, 0x45)
    disk = lab.take()["vda"]
    t.equal((disk["read"], disk["healed"]), (BLOCK, 0))
    t.ok("damage-healed" not in lab.reasons("vda"), "healed twice")
    lab.check_restore(*lab.points[3])


@tap.test
def test_compressed_and_layers(t):
    """Damage in several layers of a compressed chain, found by verify wherever a frame is hit."""
    lab = HealLab(t, [Disk(4 * MIB)])
    lab.fill("vda")
    lab.take("--level", "auto")
    for index in (1, 2):
        lab.write("vda", index * MIB, 512 * KIB, 0x30 + index)
        lab.take("--level", "auto")
    for index in range(3):
        lab.spoil_frame(lab.id(index), "vda", 3)
    lab.verify()
    lab.forget(0, 1, 2)
    t.equal([lab.ranges(index) for index in range(3)],
            [[(at + 3 * BLOCK, BLOCK)] for at in (0, MIB, 2 * MIB)])
    disk = lab.take("--level", "auto")["vda"]
    t.equal((disk["read"], disk["healed"]), (3 * BLOCK, 3 * BLOCK))
    lab.check_restore(*lab.points[3])


@tap.test
def test_comparison(t):
    """A damaged block is stored anew although the guest's still has the digest that it had."""
    lab = filled(t, Disk(2 * MIB, fmt="raw"))
    lab.spoil(lab.id(0), "vda", MIB, MIB + 3 * BLOCK)
    lab.verify()
    lab.forget(0)
    disk = lab.take()["vda"]
    t.equal(lab.last["disks"][0]["method"], "compare")
    t.equal((disk["read"], disk["healed"]), (2 * MIB, 2 * BLOCK))
    t.equal(lab.last["manifest"]["disks"][0]["image"]["data_blocks"], 2)
    t.contains(lab.reasons("vda"), "damage-healed")
    lab.check_restore(*lab.points[1])


@tap.test
def test_not_verified(t):
    """Nobody knows of the damage, but the spot check meets it: it does not mistake it for a wrong bitmap."""
    lab = filled(t, Disk(3 * MIB))
    lab.spoil(lab.id(0), "vda", MIB, 2 * MIB)
    lab.forget(0)
    lab.write("vda", 0, BLOCK, 0x46)
    disk = lab.take()["vda"]
    t.equal(lab.last["disks"][0]["method"], "bitmap")
    t.equal((disk["read"], disk["healed"]), (3 * BLOCK, 2 * BLOCK))
    t.equal(lab.reasons("vda"), ["damage-healed"])
    t.equal(lab.ranges(0), [(MIB, BLOCK), (2 * MIB, BLOCK)])
    t.equal(lab.state(0)["result"], "damaged")
    t.ok(lab.state(0)["verified"] is None, "it was not verified")
    lab.check_restore(*lab.points[1])
    lab.verify()  # and it finds the same
    t.equal(lab.ranges(0), [(MIB, BLOCK), (2 * MIB, BLOCK)])


@tap.test
def test_not_verified_at_the_limit(t):
    """What was to be copied into a synthetic full and is damaged comes from the guest, at once."""
    lab = filled(t, Disk(8 * MIB + 512))
    lab.write("vda", 5 * MIB, BLOCK, 0x50)
    lab.take()
    lab.spoil(lab.id(0), "vda", 0, 3 * MIB, 8 * MIB)
    lab.spoil(lab.id(1), "vda", 5 * MIB)
    lab.forget(0, 1)
    lab.write("vda", MIB, BLOCK, 0x47)
    disk = lab.take("--max-chain", "2", *PLAIN)["vda"]
    t.equal(lab.last["disks"][0]["level"], "full")
    t.equal(disk["healed"], 4 * BLOCK)
    t.ok(disk["read"] < 6 * MIB < disk["read"] + disk["copied"] <= 8 * MIB + 512, str(disk))
    t.equal(sorted(lab.reasons("vda")), ["chain-limit", "damage-healed"])
    t.equal(lab.ranges(0), [(0, BLOCK), (3 * MIB, BLOCK), (8 * MIB, 512)])
    t.equal(lab.ranges(1), [(5 * MIB, BLOCK)])
    lab.check_restore(*lab.points[2])
    lab.tool.ok("verify", "%s/%s" % (lab.name, lab.id(2)))


@tap.test
def test_much_of_it(t):
    """More than a second attempt knows of: then the chain is not worth it, and the disk is stored in full."""
    lab = filled(t, Disk(48 * MIB))
    lab.spoil(lab.id(0), "vda", *range(0, 48 * MIB, BLOCK))
    lab.forget(0)
    lab.take()
    t.equal(lab.last["disks"][0]["level"], "full")
    t.contains(lab.reasons("vda"), "parent-damaged")
    lab.check_restore(*lab.points[1])


@tap.test
def test_tables(t):
    """Damaged tables or digests mean a full, whatever the bitmap says, of the disk that they are of."""
    for name, offset in (("vda.digests", 100), ("vda.qcow2", 4096)):
        lab = filled(t, Disk(2 * MIB), Disk(2 * MIB))
        lab.spoil_file(lab.id(0), name, offset)
        lab.verify()
        lab.forget(0)
        t.ok(lab.state(0)["metadata_damaged"], "%s: metadata is not called damaged" % name)
        lab.write("vda", 0, BLOCK, 0x48)
        lab.take()
        levels = {disk["target"]: disk["level"] for disk in lab.last["disks"]}
        t.equal(levels, {"vda": "full", "vdb": "incremental"}, name)
        t.contains(lab.reasons("vda"), "parent-damaged")
        lab.check_restore(*lab.points[1])
        lab.take()
        t.equal(lab.last["disks"][0]["level"], "incremental")
        lab.check_restore(*lab.points[2])


@tap.test
def test_shut_off(t):
    """A disk that is shut off and has not changed is read all the same if its newest point shows damage."""
    lab = filled(t, Disk(4 * MIB), Disk(2 * MIB, fmt="raw"))
    lab.off()
    lab.take()
    disks = lab.take()
    t.equal([disks[target]["read"] for target in ("vda", "vdb")], [0, 0], "changed for no reason")
    lab.spoil(lab.id(0), "vda", MIB)
    lab.spoil(lab.id(0), "vdb", MIB)
    lab.verify()
    lab.forget(0, 1, 2)
    disks = lab.take()
    t.equal([disks[target]["healed"] for target in ("vda", "vdb")], [BLOCK, BLOCK])
    t.equal([disks[target]["read"] for target in ("vda", "vdb")], [BLOCK, 2 * MIB])
    lab.check_restore(*lab.points[3])
    disks = lab.take()
    t.equal([disks[target]["read"] for target in ("vda", "vdb")], [0, 0], "healed twice")
    lab.check_restore(*lab.points[4])


if __name__ == "__main__":
    tap.main()
