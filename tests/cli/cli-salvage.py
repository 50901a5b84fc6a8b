#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Restoring from damaged points: what is lost is told, and only with --ignore-damage is the rest saved."""

import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from points import IDS, directory, flip, point, repository  # noqa: E402
from vmbtest import tap  # noqa: E402

BLOCK = 65536


def raw(image):
    """What qemu-img reads."""
    with tempfile.NamedTemporaryFile() as file:
        subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, file.name],
                       check=True)
        return file.read()


def plain_blocks(image):
    """{block of the disk: offset in the file} of vdb, which is not compressed."""
    with open(image, "rb") as file:
        content = file.read()
    l1 = int.from_bytes(content[40:48], "big")
    table = int.from_bytes(content[l1:l1 + 8], "big") & ((1 << 56) - 512)
    entries = [int.from_bytes(content[table + 8 * i:table + 8 * i + 8], "big") for i in range(3)]
    return {i: entry & ((1 << 56) - 512) for i, entry in enumerate(entries) if entry >> 63}


@tap.test
def test_lost_ranges(t):
    """One block: named by a failing restore that leaves nothing, and zero in what is saved."""
    tool = repository(t, n=1)
    image = os.path.join(point(tool, 0), "vdb.qcow2")
    before = raw(image)
    block, place = sorted(plain_blocks(image).items())[0]
    flip(image, place + 17)
    to = os.path.join(directory(t), "to")
    failed = tool.run("restore", "web01", "--to", to, "--format", "raw", "--json").expect(4)
    wanted = [{"point": IDS[0], "disk": "vdb", "file": None, "offset": block * BLOCK, "length": BLOCK}]
    t.equal(failed.summary["lost"], wanted)
    t.ok(not os.path.exists(to) or os.listdir(to) == [], "something is left")
    saved = tool.run("restore", "web01", "--to", to, "--format", "raw", "--ignore-damage", "--json")
    t.equal(saved.expect(4).summary["lost"], wanted)
    t.contains(saved.err, "offset %d" % (block * BLOCK))
    with open(os.path.join(to, "vdb.raw"), "rb") as file:
        got = file.read()
    t.equal(got, before[:block * BLOCK] + bytes(BLOCK) + before[(block + 1) * BLOCK:])
    t.ok(os.path.exists(os.path.join(to, "domain.xml")), "no XML")


@tap.test
def test_whole(t):
    """Nothing is damaged: the same as without, and status 0."""
    tool = repository(t)
    to = os.path.join(directory(t), "to")
    result = tool.json_lines("restore", "web01", "--to", to, "--ignore-damage")[-1]
    t.equal((result["lost"], result["exit_status"]), ([], 0))


@tap.test
def test_digests(t):
    """Without digests the data is there, but nobody can say that it is right."""
    tool = repository(t, n=2)
    image = os.path.join(point(tool, 1), "vda.qcow2")
    before = raw(image)
    flip(os.path.join(point(tool, 0), "vda.digests"), 70)
    to = os.path.join(directory(t), "to")
    tool.run("restore", "web01", "--to", to, "--format", "raw").expect(4)
    saved = tool.run("restore", "web01", "--to", to, "--format", "raw", "--ignore-damage").expect(4)
    t.contains(saved.err, "cannot be verified")
    with open(os.path.join(to, "vda.raw"), "rb") as file:
        t.equal(file.read() + bytes(-os.path.getsize(os.path.join(to, "vda.raw")) % 512), before)


@tap.test
def test_other_files(t):
    """A damaged NVRAM does not keep the disks from being saved."""
    tool = repository(t, n=1)
    flip(os.path.join(point(tool, 0), "nvram.fd"), 1)
    to = os.path.join(directory(t), "to")
    failed = tool.run("restore", "web01", "--to", to, "--json").expect(4)
    t.equal([loss["file"] for loss in failed.summary["lost"]], ["nvram.fd"])
    saved = tool.run("restore", "web01", "--to", to, "--ignore-damage", "--json").expect(4)
    t.equal([loss["file"] for loss in saved.summary["lost"]], ["nvram.fd"])
    t.ok(os.path.exists(os.path.join(to, "vda.qcow2")), "no disk")


@tap.test
def test_usage(t):
    """--force-define alone says nothing."""
    tool = repository(t, n=1)
    tool.run("restore", "web01", "--to", directory(t), "--force-define").expect(2)


if __name__ == "__main__":
    tap.main()
