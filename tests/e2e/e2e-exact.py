#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What counts as changed: cases that a dirty bitmap alone gets wrong, and changes behind its back."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from vmbtest import image, process, tap  # noqa: E402
from vmbtest.libvirtd import PrivateLibvirt  # noqa: E402
from exact_lab import KIB, MIB, Disk, Lab, round_up  # noqa: E402


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
    template = host.path("images", "template-%s.qcow2" % t.name)
    image.create(template, size)
    process.run("qemu-io", "-f", "qcow2", "-c", "write -P 0xaa 0 %d" % size, template)
    lab = Lab(t, [Disk(size, backing=template, options=options)])
    lab.template = template
    lab.volumes["vda"].changed_behind(lab)
    return lab


if __name__ == "__main__":
    tap.main()
