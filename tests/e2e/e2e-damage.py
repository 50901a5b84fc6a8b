#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Damage: any flipped byte of any file of a point is found, named, and never restored silently."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from vmbtest import image, tap  # noqa: E402
from vmbtest.guest import Disk, Guest  # noqa: E402
from vmbtest.libvirtd import PrivateLibvirt  # noqa: E402
from vmbtest.vmbackup import Tool  # noqa: E402

SIZE = 3 * image.MIB + 512 * 5
FLIPS = 40 if os.environ.get("VMBACKUP_TEST_LONG") else 12


class Setup:
    """A repository with a full and an incremental of one disk of mixed content."""

    def __init__(self, suite, rng):
        self.host = PrivateLibvirt(suite)
        raw = image.fill_mixed(self.host.path("mixed.raw"), rng, SIZE)
        disk = self.host.path("images", "mixed.qcow2")
        image.convert(raw, disk, "raw", "qcow2")
        self.guest = Guest(self.host, disks=[Disk(None, path=disk, target="vda")], mount=())
        self.guest.start(paused=True)
        self.tool = Tool(suite, repo=self.host.path("repo"), host=self.host, env={
            "VMBACKUP_TEST_RUN_DIR": self.host.directory("vmbrun", 0o711),
            "VMBACKUP_TEST_SCRATCH_DIR": self.host.directory("scratch", 0o711)})
        self.tool.ok("init")
        self.tool.ok("backup", "web01")
        self.guest.qemu_io("vda", "write -P 0x5a 100k 300k")
        self.guest.qemu_io("vda", "write -z -u 1M 256k")
        self.guest.qemu_io("vda", "flush")
        self.tool.ok("backup", "web01")
        self.points = self.tool.json("list")["points"]
        self.tool.ok("verify")

    def path(self, number, name):
        """A file of point 0 (the full) or 1."""
        point = self.points[number]
        return os.path.join(self.tool.repo, "domains", point["uuid"], "points", point["id"], name)


def setup(t):
    return t.once("setup", lambda suite: Setup(suite, t.random))


def flip(path, offset, bits):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ bits]))


def expect_found(t, box, what):
    result = box.tool.run("verify", "web01")
    t.equal(result.status, 4, "%s is not found\n%s" % (what, result.describe()))
    return result


@tap.test
def test_every_flip_is_found(t):
    box, total = setup(t), 0
    for number in (0, 1):
        directory = box.path(number, "")
        for name in sorted(os.listdir(directory)):
            path = os.path.join(directory, name)
            size = os.path.getsize(path)
            places = sorted({0, size - 1} | {t.random.randrange(size) for _ in range(FLIPS)}) \
                if size else []
            for offset in places:
                bits = t.random.choice([1, 2, 4, 8, 16, 32, 64, 128, 255])
                flip(path, offset, bits)
                expect_found(t, box, "%s of point %d, byte %d, bits %#x" % (
                    name, number, offset, bits))
                flip(path, offset, bits)
                total += 1
    box.tool.ok("verify")
    t.diag("%d flips, all found" % total)


@tap.test
def test_missing_longer_shorter_and_foreign_files(t):
    box = setup(t)
    for name in sorted(os.listdir(box.path(1, ""))):
        path = box.path(1, name)
        os.rename(path, path + ".away")
        os.rename(path + ".away", box.tool.repo + "/kept")
        expect_found(t, box, "missing " + name)
        os.rename(box.tool.repo + "/kept", path)
        with open(path, "ab") as file:
            file.write(b"\0")
        expect_found(t, box, "longer " + name)
        os.truncate(path, os.path.getsize(path) - 1)
        if os.path.getsize(path):
            with open(path, "rb") as file:
                file.seek(-1, os.SEEK_END)
                last = file.read()
            os.truncate(path, os.path.getsize(path) - 1)
            expect_found(t, box, "shorter " + name)
            with open(path, "ab") as file:
                file.write(last)
    with open(box.path(1, "intruder"), "wb"):
        pass
    expect_found(t, box, "a file that does not belong there")
    os.unlink(box.path(1, "intruder"))
    box.tool.ok("verify")


@tap.test
def test_damage_is_named_with_point_disk_and_offset(t):
    box = setup(t)
    path = box.path(0, "vda.qcow2")
    found = None
    for offset in range(os.path.getsize(path) * 3 // 4, 0, -9973):
        flip(path, offset, 0xff)
        result = box.tool.run("verify", "web01", "--json")
        flip(path, offset, 0xff)
        t.equal(result.status, 4)
        for line in result.json_lines:
            for finding in line.get("findings", []):
                if finding.get("offset") is not None:
                    found = finding
        if found:
            break
    t.ok(found, "no finding has an offset")
    t.equal(found["disk"], "vda")
    t.contains(found["point"], box.points[0]["id"])
    t.ok(found["offset"] % 65536 == 0 and found["offset"] < SIZE, "offset %s" % found)


def restore_damaged(t, box, number, name, offset, bits):
    """Restores point 1 with a flipped byte; returns whether it was refused, having left nothing."""
    to = box.host.path("restore-damaged")
    flip(box.path(number, name), offset, bits)
    result = box.tool.run("restore", "web01/" + box.points[1]["id"], "--to", to)
    flip(box.path(number, name), offset, bits)
    if result.status != 0:
        t.ok(not os.path.exists(to), "%s: the failed restore left %s" % (name, to))
        return True
    # Damage that this point does not show may pass, if the bytes are right.
    image.compare(box.path(1, "vda.qcow2"), to + "/vda.qcow2", "qcow2", "qcow2")
    for file in os.listdir(to):
        os.unlink(os.path.join(to, file))
    os.rmdir(to)
    return False


@tap.test
def test_damaged_data_is_never_restored(t):
    box, refused = setup(t), 0
    for name in ("vda.digests", "domain.xml", "kernel", "manifest.json"):
        offset = os.path.getsize(box.path(1, name)) * 4 // 5
        t.ok(restore_damaged(t, box, 1, name, offset, 0xff), "damaged %s was restored" % name)
    for number in (0, 1):
        size = os.path.getsize(box.path(number, "vda.qcow2"))
        places = [t.random.randrange(size) for _ in range(3 * FLIPS)]
        # Tables are a small part of the file, and the worst to be wrong in.
        with open(box.path(number, "vda.qcow2"), "rb") as file:
            file.seek(40)
            l1 = int.from_bytes(file.read(8), "big")
            file.seek(l1)
            l2 = int.from_bytes(file.read(8), "big") & 0x00fffffffffffe00
        places += [l1 + t.random.randrange(8) for _ in range(8)]
        places += [l2 + t.random.randrange(49 * 8) for _ in range(3 * FLIPS)]
        for offset in places:
            refused += restore_damaged(t, box, number, "vda.qcow2", offset,
                                       t.random.choice([1, 2, 16, 64, 128, 255]))
    t.diag("%d of the damaged images were refused, the others restored exactly" % refused)
    t.ok(refused > 0, "nothing was refused")


@tap.test
def test_a_damaged_parent_makes_the_next_a_full(t):
    box = setup(t)
    flip(box.path(1, "vda.qcow2"), 8, 0xff)
    result = box.tool.ok("backup", "web01")
    flip(box.path(1, "vda.qcow2"), 8, 0xff)
    t.contains(result.err, "parent-damaged")
    t.equal(box.tool.json("list")["points"][-1]["level"], "full")


@tap.test
def test_a_damaged_manifest_does_not_stop_the_rest(t):
    box = setup(t)
    flip(box.path(1, "manifest.json"), 40, 0x01)
    listed = box.tool.run("list")
    t.equal(listed.status, 4)
    t.contains(listed.out, box.points[0]["id"])
    t.contains(listed.out + listed.err, box.points[1]["id"])
    box.tool.ok("restore", "web01/" + box.points[0]["id"], "--to", box.host.path("restore-other"))
    t.equal(box.tool.run("restore", "web01/" + box.points[1]["id"], "--to",
                         box.host.path("restore-none")).status, 4)
    box.tool.ok("backup", "web01")
    flip(box.path(1, "manifest.json"), 40, 0x01)


@tap.test
def test_damaged_repository_json(t):
    box = setup(t)
    path = os.path.join(box.tool.repo, "repository.json")
    flip(path, 30, 0x04)
    for verb in (["list"], ["backup", "web01"], ["verify"]):
        result = box.tool.run(*verb)
        t.ok(result.status in (4, 10), result.describe())
        result.says("repository.json")
    flip(path, 30, 0x04)
    box.tool.ok("list")


if __name__ == "__main__":
    tap.main()
