#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Chains that end in synthetic fulls, and damage in a chain that the next increment mends."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from vmbtest import image, tap  # noqa: E402
from exact_lab import KIB, MIB, Disk, Lab, methods  # noqa: E402

LIMIT = 3


def levels(lab):
    """[(id, level)] of one disk's points."""
    return [(point["id"], point["disks"][0]["level"]) for point in lab.tool.json("list")["points"]]


def spoil(lab):
    """What the points hold so far is no longer what they should."""
    lab.points = [(point, {}) for point, _ in lab.points]


def writes(lab, count=6):
    """Random ones on all disks, zeroes and discards among them."""
    for target, volume in lab.volumes.items():
        lab.apply(target, image.random_operations(lab.t.random, volume.size, count, 64 * KIB, MIB))


def limits(t, *options, disks=None, rounds=8):
    """Backups with a low limit; each point is compared with its models."""
    lab = Lab(t, disks or [Disk(8 * MIB), Disk(3 * MIB + 512, options={"cluster_size": 4096})])
    for number, target in enumerate(lab.volumes):
        lab.fill(target, 0x20 * number)
    lab.backup(*options)
    for _ in range(rounds):
        writes(lab)
        lab.backup("--max-chain", str(LIMIT), *options)
    return lab


@tap.test
def test_synthetic_fulls(t):
    """At the limit a full comes without the disk being read whole: what has not changed is the chain's."""
    lab = limits(t)
    t.equal([level for _, level in levels(lab)], (["full"] + ["incremental"] * (LIMIT - 1)) * 3)
    for point, level in levels(lab)[1:]:
        entry = lab.tool.json("show", "%s/%s" % (lab.name, point))["manifest"]["disks"][0]
        t.equal(entry["method"], "bitmap")
        if level == "full":
            t.equal(entry["reason"], "chain-limit")
            t.ok(entry["synthetic_from"] and entry["parent"] is None, "no synthetic full")
    lab.check_end(restores=3)
    lab.check_changes()


@tap.test
def test_not_compressed(t):
    """The same as plain clusters; and a chain of both kinds."""
    lab = limits(t, "--compress", "none", disks=[Disk(4 * MIB)], rounds=3)
    for options in ([], ["--compress", "none"], [], []):
        writes(lab)
        lab.backup("--max-chain", "2", *options)
    lab.check_end()


@tap.test
def test_resized(t):
    """Shrunk and grown around the limit."""
    lab = limits(t, disks=[Disk(6 * MIB)], rounds=1)
    for size in (4 * MIB - 512, 7 * MIB, 2 * MIB, 6 * MIB + 512):
        lab.resize("vda", size)
        writes(lab)
        lab.backup("--max-chain", "2")
    lab.resize("vda", 3 * MIB)
    lab.resize("vda", 6 * MIB)
    lab.backup("--max-chain", "2")
    lab.check_end(restores=2)
    lab.check_changes()


@tap.test
def test_off_and_without_bitmap(t):
    """A domain that is shut off, changed or not; a raw disk is read whole anyway."""
    lab = Lab(t, [Disk(4 * MIB), Disk(2 * MIB, fmt="raw")])
    lab.fill("vda")
    lab.backup()
    writes(lab)
    lab.backup("--max-chain", "2")
    lab.off()
    lab.run("--max-chain", "2").expect(0)
    lab.check_points()
    t.equal(lab.last["disks"][0]["level"], "full")
    lab.run("--max-chain", "2").expect(0)
    lab.run("--max-chain", "2").expect(0)
    lab.check_points()
    t.equal([disk["level"] for disk in lab.last["disks"]], ["full", "full"])
    t.equal(lab.last["disks"][0]["method"], "offline")
    writes(lab)
    lab.run("--max-chain", "2").expect(0)
    lab.check_points()
    lab.tool.ok("verify", lab.name)
    lab.on()
    lab.backup("--max-chain", "2")
    lab.check_end()


if __name__ == "__main__":
    tap.main()
