#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The main job: a writing guest with two disks, a full, increments, list, show, verify, restore, boot."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from vmbtest import image, tap  # noqa: E402
from vmbtest.guest import Guest, check_images  # noqa: E402
from vmbtest.libvirtd import PrivateLibvirt  # noqa: E402
from vmbtest.vmbackup import Tool  # noqa: E402


def setup(t):
    host = t.once("host", PrivateLibvirt)
    guest = t.once("guest", lambda suite: Guest(host, writer=True, start=True))
    scratch = t.once("scratch", lambda suite: host.directory("scratch", 0o711))
    tool = Tool(t.suite, repo=host.path("repo"), host=host,
                env={"VMBACKUP_TEST_RUN_DIR": host.directory("vmbrun", 0o711)})
    return host, guest, scratch, tool


@tap.test
def test_init(t):
    _, _, _, tool = setup(t)
    tool.ok("init")
    t.equal(tool.json("list")["points"], [])


@tap.test
def test_full_and_incrementals(t):
    _, guest, scratch, tool = setup(t)
    for number, level in enumerate(("full", "incremental", "incremental")):
        t.ok(guest.is_writing(10), "the guest does not write")
        result = tool.ok("backup", "web01", "--scratch-dir", scratch)
        t.diag(result.err)
        guest.assert_healthy(checkpoints=1, clean=[scratch])
        points = tool.json("list")["points"]
        t.equal(len(points), number + 1)
        t.equal(points[-1]["level"], level)
        t.equal(points[-1]["consistency"], "filesystem")
        t.equal([d["target"] for d in points[-1]["disks"]], ["vda", "vdb"])
        t.equal([d["level"] for d in points[-1]["disks"]], [level, level])


@tap.test
def test_images_are_sound(t):
    host, _, _, tool = setup(t)
    domain = os.path.join(host.path("repo"), "domains")
    uuid = os.listdir(domain)[0]
    points = tool.json("list")["points"]
    for point in points:
        for target in ("vda", "vdb"):
            image.check(os.path.join(domain, uuid, "points", point["id"], target + ".qcow2"))


@tap.test
def test_list_and_show(t):
    _, _, _, tool = setup(t)
    t.contains(tool.ok("list").out, "web01")
    t.contains(tool.ok("show", "web01/latest").out, "filesystem")
    t.contains(tool.ok("show", "web01/latest", "--json").out, "sequence")


@tap.test
def test_verify(t):
    _, _, _, tool = setup(t)
    tool.ok("verify", "web01")
    summary = tool.json_lines("verify")[-1]
    t.equal(summary["type"], "summary")


@tap.test
def test_restore_of_every_point(t):
    host, guest, _, tool = setup(t)
    points = tool.json("list")["points"]
    domain = os.path.join(host.path("repo"), "domains", points[0]["uuid"], "points")
    for point in points:
        for fmt in ("qcow2", "raw"):
            to = host.path("restore-%s-%s" % (point["id"], fmt))
            tool.ok("restore", "web01/" + point["id"], "--to", to, "--format", fmt)
            for target in ("vda", "vdb"):
                restored = os.path.join(to, target + "." + fmt)
                if fmt == "qcow2":
                    image.check(restored)
                image.compare(os.path.join(domain, point["id"], target + ".qcow2"), restored,
                              second_format=fmt)
                t.equal(image.info(restored)["virtual-size"], guest.disks[int(target == "vdb")].size)
            t.equal(sorted(n for n in os.listdir(to) if n.startswith(".")), [])
        facts = check_images(host, {target: os.path.join(to, target + ".raw")
                                    for target in ("vda", "vdb")}, fmt="raw")
        for target in ("vda", "vdb"):
            t.equal(facts[target]["needs_recovery"], 0, "the point is not clean")
            t.equal(facts[target]["fsck"], 0)
            t.equal(facts[target]["sums_bad"], 0)


@tap.test
def test_restored_domain_boots(t):
    host, _, _, tool = setup(t)
    to = host.path("restore-boot")
    tool.ok("restore", "web01/latest", "--to", to, "--name", "web02", "--start")
    restored = Guest.existing(host, "web02")
    t.defer(restored.destroy)
    restored.wait_agent()
    t.ok(restored.is_writing(10), "the restored guest does not write")
    t.ok(restored.uuid != tool.json("list")["points"][0]["uuid"], "the UUID is the old one")


if __name__ == "__main__":
    tap.main()
