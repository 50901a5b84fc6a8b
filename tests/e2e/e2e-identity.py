#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Copies of a repository, hosts, and domains that are renamed, made anew or undefined."""

import json
import os
import re
import shutil
import sys
import uuid

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import common  # noqa: E402
from common import (Disk, Guest, MIB, PrivateLibvirt, Tool, image, libvirt,  # noqa: E402
                    process, tap)

SIZE = 16 * MIB


class Lab:
    """A host, and paused guests whose disks hold what the test has written."""

    def __init__(self, suite):
        self.host = PrivateLibvirt(suite)
        self.env = {"VMBACKUP_TEST_RUN_DIR": self.host.directory("vmbrun", 0o711),
                    "VMBACKUP_TEST_SCRATCH_DIR": self.host.directory("scratch", 0o711)}

    def guest(self, t, name="web01", disks=2, **options):
        """A paused guest, gone with the test."""
        paths = [os.path.join(self.host.images, "%s-%s.qcow2" % (name, uuid.uuid4().hex[:8]))
                 for _ in range(disks)]
        for path in paths:
            image.create(path, SIZE)
        guest = Guest(self.host, name=name, mount=(), disks=[
            Disk(size=None, bus="scsi", path=path) for path in paths], **options)

        def gone():
            try:
                guest.destroy()
                guest.undefine()
            except libvirt.libvirtError:
                pass
        t.defer(gone)
        return guest.start(paused=True)

    def tool(self, t, name, init=True):
        """The program with a new repository of that name."""
        path = self.host.path(name)
        t.defer(shutil.rmtree, path, True)
        tool = Tool(t, repo=path, host=self.host, env=self.env)
        if init:
            tool.ok("init")
        return tool


def lab(t):
    return t.once("lab", Lab)


def write(guest, byte, offset=0):
    for target in (disk.target for disk in guest.disks):
        guest.qemu_io(target, "write -P %d %dM 1M" % (byte, offset))
        guest.qemu_io(target, "flush")


def backup(tool, guest, *more, status=0):
    result = tool.run("backup", guest.name, "--json", *more)
    return result.expect(status)


def codes(result):
    """The reasons, but for the one that all paused guests get."""
    return [code for code in common.codes(result) if code != "domain-paused"]


def disks(result):
    return result.json_lines[0]["point"]["disks"]


def methods(result):
    return {disk["method"] for disk in disks(result)}


def same_as_disks(t, tool, guest, name=None):
    """The newest point restores to what the paused guest's disks hold."""
    directory = os.path.join(os.path.dirname(tool.repo), "restored-" + uuid.uuid4().hex[:8])
    tool.ok("restore", (name or guest.name) + "/latest", "--to", directory)
    for target in (disk.target for disk in guest.disks):
        raw = guest.disk_raw(target, os.path.join(directory, target + ".now"))
        image.compare(os.path.join(directory, target + ".qcow2"), raw, "qcow2", "raw")
    shutil.rmtree(directory)


def repository_file(tool):
    with open(os.path.join(tool.repo, "repository.json"), encoding="utf-8") as file:
        return json.load(file)


@tap.test
def test_a_copy_is_only_read(t):
    box, guest = lab(t), lab(t).guest(t)
    original = box.tool(t, "repo")
    write(guest, 1)
    backup(original, guest)
    before = guest.checkpoints()
    copy = box.tool(t, "copy", init=False)
    process.run("cp", "-a", original.repo, copy.repo)
    for verb in (("list",), ("show", "web01/latest"), ("verify",)):
        copy.ok(*verb)
    same_as_disks(t, copy, guest)
    backup(copy, guest, status=10).says("is a copy", "init --adopt`", original.repo)
    copy.run("release", guest.name).expect(10)
    copy.run("doctor", "--repair").expect(10)
    t.contains(copy.run("doctor").expect(1).out, "is a copy")
    t.equal(guest.checkpoints(), before, "nothing was changed")
    # The original goes on, and its repository is not affected.
    write(guest, 2)
    t.equal(methods(backup(original, guest)), {"bitmap"})
    # A copy in the place of the original, which is gone.
    moved = original.repo + "-old"
    t.defer(shutil.rmtree, moved, True)
    os.rename(original.repo, moved)
    os.rename(copy.repo, original.repo)
    backup(original, guest, status=10).says("is a copy")
    # Moved, the original is what it was.
    tool = Tool(t, repo=moved, host=box.host, env=box.env)
    write(guest, 3)
    t.equal(methods(backup(tool, guest)), {"bitmap"})
    t.equal(repository_file(tool)["path"], moved)
    same_as_disks(t, tool, guest)


@tap.test
def test_an_adopted_copy(t):
    box, guest = lab(t), lab(t).guest(t)
    original, copy = box.tool(t, "repo"), box.tool(t, "copy", init=False)
    write(guest, 1)
    backup(original, guest)
    # What a killed run of the original has left is the original's to undo.
    write(guest, 2, 4)
    original.run("backup", guest.name, fail_at="job-started=kill").expect(-9)
    t.eventually(lambda: not guest.job_active(), 60, "the guard has ended the job")
    left = guest.checkpoints()
    t.equal(len(left), 2, "the dead run's checkpoint, too")
    process.run("cp", "-a", original.repo, copy.repo)
    copy.ok("init", "--adopt")
    t.ok(not os.path.exists(os.path.join(copy.repo, "domains", guest.uuid, "journal")),
         "the journal is dropped")
    t.ok(not os.path.exists(os.path.join(copy.repo, "domains", guest.uuid, "staging")),
         "the staging is dropped")
    t.equal(guest.checkpoints(), left, "adopting touches no checkpoint")
    copy.run("init", "--adopt").expect(10)
    first, second = repository_file(original), repository_file(copy)
    t.ok(first["id"] != second["id"], "a new id")
    t.equal(second["adopted_from"], first["id"])
    backup(original, guest)
    theirs = guest.checkpoints()
    t.equal(len(theirs), 1)
    # The first run of the copy compares, and only what differs is stored.
    write(guest, 3, 8)
    result = backup(copy, guest)
    t.equal(methods(result), {"compare"})
    t.equal(set(codes(result)), {"adopted"})
    t.ok(max(disk["stored"] for disk in disks(result)) < 4 * MIB, "only what differs is stored")
    t.ok(set(theirs) < set(guest.checkpoints()), "the original's checkpoint stays")
    same_as_disks(t, copy, guest)
    # From now on both are incremental, side by side.
    for tool, byte in ((copy, 4), (original, 5), (copy, 6), (original, 7)):
        write(guest, byte, byte)
        result = backup(tool, guest)
        t.equal(methods(result), {"bitmap"})
        t.equal(codes(result), [])
        same_as_disks(t, tool, guest)
    t.equal(len(guest.checkpoints()), 2)
    original.ok("verify")
    copy.ok("verify")


@tap.test
def test_a_copy_that_replaces_the_original(t):
    box, guest = lab(t), lab(t).guest(t)
    original, copy = box.tool(t, "repo"), box.tool(t, "copy", init=False)
    backup(original, guest)
    process.run("cp", "-a", original.repo, copy.repo)
    copy.ok("init", "--moved")
    t.equal(repository_file(copy)["id"], repository_file(original)["id"])
    write(guest, 1)
    result = backup(copy, guest)
    t.equal(methods(result), {"bitmap"})
    same_as_disks(t, copy, guest)
    copy.run("init", "--moved", "--adopt").expect(2)
    copy.run("init", "--moved").expect(10)


@tap.test
def test_another_host(t):
    """A host with another machine-id: a disk of one's own is that host's only."""
    box, guest = lab(t), lab(t).guest(t)
    t.require(os.path.exists("/etc/machine-id"), "no /etc/machine-id")
    tool = box.tool(t, "repo")
    backup(tool, guest)
    other = box.host.path("tmp", "machine-id")
    with open(other, "w", encoding="ascii") as file:
        file.write("%s\n" % uuid.uuid4().hex)
    process.run(*box.host.enter(["mount", "--bind", other, "/etc/machine-id"]))
    t.defer(process.run, *box.host.enter(["umount", "/etc/machine-id"]))
    backup(tool, guest, status=10).says("another host", "init --moved`")
    tool.ok("verify")
    tool.ok("init", "--moved")
    t.equal(len(repository_file(tool)["hosts"]), 2)
    write(guest, 1)
    result = backup(tool, guest)
    t.equal(codes(result), ["other-host"])
    t.equal(methods(result), {"bitmap"})
    t.equal(codes(backup(tool, guest)), [], "said once")


@tap.test
def test_renamed(t):
    box, guest = lab(t), lab(t).guest(t)
    tool = box.tool(t, "repo")
    write(guest, 1)
    backup(tool, guest)
    t.equal(os.readlink(os.path.join(tool.repo, "by-name", "web01")),
            "../domains/" + guest.uuid)
    guest.destroy()
    guest.dom.rename("web02")
    guest.name = "web02"
    guest.start(paused=True)
    write(guest, 2)
    result = backup(tool, guest)
    t.equal(codes(result), ["domain-renamed"])
    t.equal(methods(result), {"bitmap"})
    t.equal(os.listdir(os.path.join(tool.repo, "by-name")), ["web02"])
    same_as_disks(t, tool, guest)
    tool.run("restore", "web01/latest", "--to", box.host.path("nowhere")).expect(21).says(
        "any more", guest.uuid)
    # The daemon forgets the checkpoints of a renamed domain when it restarts.
    guest.destroy()
    guest.dom.rename("web03")
    guest.name = "web03"
    box.host.restart()
    t.equal(guest.checkpoints(), [])
    guest.start(paused=True)
    write(guest, 3)
    result = backup(tool, guest)
    t.equal(sorted(codes(result)), ["checkpoint-redefined", "domain-renamed"])
    t.equal(methods(result), {"bitmap"})
    same_as_disks(t, tool, guest)
    listed = tool.ok("list").out
    t.equal(listed.count("web03/"), 3, listed)


@tap.test
def test_made_anew(t):
    """Deleted and made again under the same name: another domain."""
    box, first = lab(t), lab(t).guest(t)
    tool = box.tool(t, "repo")
    write(first, 1)
    backup(tool, first)
    first.destroy()
    first.undefine()
    second = box.guest(t)
    write(second, 9)
    result = backup(tool, second)
    t.equal(sorted(set(codes(result))), ["domain-recreated", "first-backup"])
    t.contains(result.json_lines[0]["reasons"][0]["message"], first.uuid)
    tool.run("restore", "web01/latest", "--to", box.host.path("nowhere")).expect(21).says(
        "2 domains have had the name", first.uuid, second.uuid)
    shown = tool.ok("list", "web01")
    shown.says(first.uuid, second.uuid)
    for guest in (first, second):
        t.contains(shown.out, guest.uuid + "/")
    tool.ok("verify", first.uuid)
    same_as_disks(t, tool, second, second.uuid)
    write(second, 10)
    t.equal(codes(backup(tool, second)), [], "said once")
    t.equal(os.readlink(os.path.join(tool.repo, "by-name", "web01")),
            "../domains/" + second.uuid)


def redefine(guest, xml):
    """Undefines a domain that is off, and defines it again."""
    guest.destroy()
    guest.undefine()
    guest.host.conn.defineXML(xml)
    guest.start(paused=True)


@tap.test
def test_undefined_and_defined_again(t):
    box, guest = lab(t), lab(t).guest(t)
    tool = box.tool(t, "repo")
    write(guest, 1)
    backup(tool, guest)
    names = guest.checkpoints()
    xml = guest.dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    redefine(guest, xml)
    t.equal(guest.checkpoints(), [])
    write(guest, 2)
    plan = tool.run("doctor", guest.name)
    t.contains(plan.out, "defined again", "doctor says what will happen")
    t.equal(guest.checkpoints(), [], "and changes nothing")
    result = backup(tool, guest)
    t.equal(codes(result), ["checkpoint-redefined"])
    t.equal(methods(result), {"bitmap"})
    same_as_disks(t, tool, guest)
    t.equal(len(guest.checkpoints()), 1)
    t.ok(guest.checkpoints() != names, "a new checkpoint")
    for disk in guest.disks:
        t.equal(guest.bitmaps(disk.target), guest.checkpoints(), "no stray bitmap")
    # Killed after the redefinition: the next run finds it done.
    redefine(guest, xml)
    write(guest, 3)
    tool.run("backup", guest.name, fail_at="checkpoint-redefined=kill").expect(-9)
    t.equal(len(guest.checkpoints()), 1)
    result = backup(tool, guest)
    t.equal(codes(result), [])
    t.equal(methods(result), {"bitmap"})
    same_as_disks(t, tool, guest)


@tap.test
def test_defined_again_and_shut_off(t):
    """Nobody runs it, so the images themselves have to tell which bitmaps are good."""
    box, guest = lab(t), lab(t).guest(t)
    tool = box.tool(t, "repo")
    write(guest, 1)
    backup(tool, guest)
    write(guest, 2)
    xml = guest.dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    guest.destroy()
    guest.undefine()
    guest.host.conn.defineXML(xml)
    result = backup(tool, guest)
    t.equal(codes(result), ["checkpoint-redefined"], result.describe())
    t.equal(methods(result), {"offline"})
    same_as_disks(t, tool, guest)
    t.equal(len(guest.checkpoints()), 1)
    for disk in guest.disks:
        t.equal(stored_bitmaps(guest, disk.target), guest.checkpoints(), "no stray bitmap")
    # One bitmap is gone, the other one was never saved by the QEMU that died.
    guest.undefine()
    guest.host.conn.defineXML(xml)
    guest.start(paused=True)
    write(guest, 3)
    guest.kill_qemu()
    remove_bitmaps(guest, guest.disks[0].target)
    result = backup(tool, guest)
    t.equal(set(codes(result)), {"bitmap-unusable"}, result.describe())
    t.equal(methods(result), {"compare"})
    same_as_disks(t, tool, guest)
    guest.start(paused=True)
    write(guest, 4)
    result = backup(tool, guest)
    t.equal(codes(result), [], result.describe())
    t.equal(methods(result), {"bitmap"})
    same_as_disks(t, tool, guest)


def stored_bitmaps(guest, target):
    found = image.info(guest.disk_path(target))["format-specific"]["data"].get("bitmaps", [])
    return sorted(bitmap["name"] for bitmap in found)


def remove_bitmaps(guest, target):
    for name in stored_bitmaps(guest, target):
        process.run("qemu-img", "bitmap", "--remove", guest.disk_path(target), name)


@tap.test
def test_only_what_is_there_is_defined(t):
    """One disk has lost its bitmap, then all of them have."""
    box, guest = lab(t), lab(t).guest(t)
    tool = box.tool(t, "repo")
    first, second = (disk.target for disk in guest.disks)
    write(guest, 1)
    backup(tool, guest)
    xml = guest.dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    guest.destroy()
    guest.undefine()
    guest.host.conn.defineXML(xml)
    remove_bitmaps(guest, second)
    guest.start(paused=True)
    write(guest, 2)
    result = backup(tool, guest)
    t.ok("checkpoint-redefined" in codes(result), codes(result))
    t.equal({d["target"]: d["method"] for d in disks(result)}, {first: "bitmap", second: "compare"})
    same_as_disks(t, tool, guest)
    guest.destroy()
    guest.undefine()
    guest.host.conn.defineXML(xml)
    for target in (first, second):
        remove_bitmaps(guest, target)
    guest.start(paused=True)
    write(guest, 3)
    result = backup(tool, guest)
    t.equal(set(codes(result)), {"checkpoint-missing"})
    t.equal(methods(result), {"compare"})
    same_as_disks(t, tool, guest)
    # And a bitmap that QEMU's death made useless.
    guest.kill_qemu()
    guest.undefine()
    guest.host.conn.defineXML(xml)
    guest.start(paused=True)
    write(guest, 4)
    result = backup(tool, guest)
    t.equal(set(codes(result)), {"checkpoint-missing"})
    t.equal(methods(result), {"compare"})
    same_as_disks(t, tool, guest)


@tap.test
def test_a_record_that_lacks_a_disk(t):
    """The same name is there, but somebody has left a disk out of it."""
    box, guest = lab(t), lab(t).guest(t, disks=3)
    tool = box.tool(t, "repo")
    targets = [disk.target for disk in guest.disks]
    write(guest, 1)
    backup(tool, guest)
    name = guest.checkpoints()[0]
    record = ("<domaincheckpoint><name>%s</name><creationTime>1</creationTime><disks>%s</disks>"
              "</domaincheckpoint>" % (name, "".join(
                  "<disk name='%s' checkpoint='bitmap' bitmap='%s'/>" % (target, name)
                  for target in targets[:1])))
    guest.dom.checkpointCreateXML(record, libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE)
    # One of those that it lacks has no bitmap any more: it stays out.
    xml = guest.dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    guest.destroy()
    guest.host.conn.defineXML(xml)
    remove_bitmaps(guest, targets[2])
    guest.start(paused=True)
    write(guest, 2)
    result = backup(tool, guest)
    t.ok("checkpoint-redefined" in codes(result), result.describe())
    t.equal({d["target"]: d["method"] for d in disks(result)},
            dict(zip(targets, ("bitmap", "bitmap", "compare"))))
    same_as_disks(t, tool, guest)
    for target in targets:
        t.equal(guest.bitmaps(target), guest.checkpoints(), "no stray bitmap")


@tap.test
def test_disks_change_places(t):
    """libvirt's record names the old targets."""
    box, guest = lab(t), lab(t).guest(t)
    tool = box.tool(t, "repo")
    write(guest, 1)
    backup(tool, guest)
    first, second = (disk.target for disk in guest.disks)
    old = guest.disk_path(second)
    xml = guest.dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    xml = xml.replace("dev='%s'" % second, "dev='sdx'")
    xml = re.sub(r"<(address type='drive'|alias) [^>]*/>", "", xml)
    guest.destroy()
    guest.host.conn.defineXML(xml)
    guest.disks[1].target = "sdx"
    guest.start(paused=True)
    t.equal(guest.disk_path("sdx"), old)
    write(guest, 2)
    result = backup(tool, guest)
    t.ok({"checkpoint-redefined", "disk-renamed"} <= set(codes(result)), codes(result))
    t.equal(methods(result), {"bitmap"})
    same_as_disks(t, tool, guest)
    for target in (first, "sdx"):
        t.equal(guest.bitmaps(target), guest.checkpoints(), "no stray bitmap")


@tap.test
def test_a_journal_of_another_host(t):
    """In a repository that two hosts use: what the other one left is its own to remove."""
    box, guest = lab(t), lab(t).guest(t)
    tool = box.tool(t, "repo")
    scratch = box.host.directory("scratch-of-two-hosts", 0o711)
    tool.env["VMBACKUP_TEST_SCRATCH_DIR"] = scratch
    backup(tool, guest)
    write(guest, 1)
    t.require(os.path.exists("/etc/machine-id"), "no /etc/machine-id")
    other = box.host.path("tmp", "machine-id-2")
    with open(other, "w", encoding="ascii") as file:
        file.write("%s\n" % uuid.uuid4().hex)

    def on_other(flag):
        process.run(*box.host.enter(["mount", "--bind", other, "/etc/machine-id"] if flag else
                                    ["umount", "/etc/machine-id"]))
    on_other(True)
    tool.ok("init", "--moved")
    on_other(False)
    tool.run("backup", guest.name, fail_at="job-started=kill").expect(-9)
    t.eventually(lambda: not guest.job_active(), 60, "the guard has ended the job")
    left = os.listdir(scratch)
    t.equal(len(left), 1)
    on_other(True)
    result = backup(tool, guest)
    t.ok({"leftovers-kept", "other-host"} <= set(codes(result)), codes(result))
    t.equal(methods(result), {"bitmap"})
    t.equal(os.listdir(scratch), left, "not touched")
    t.equal(len(guest.checkpoints()), 1, "the dead run's checkpoint is gone" + result.describe())
    domain = os.path.join(tool.repo, "domains", guest.uuid)
    aside = [name for name in os.listdir(domain) if name.startswith("journal")]
    t.equal(len(aside), 1)
    t.equal(codes(backup(tool, guest)), [], "said once")
    on_other(False)
    write(guest, 2)
    result = backup(tool, guest)
    t.ok({"leftovers-removed", "other-host"} <= set(codes(result)), codes(result))
    t.equal(os.listdir(scratch), [])
    t.equal([name for name in os.listdir(domain) if name.startswith("journal")], [])
    same_as_disks(t, tool, guest)


if __name__ == "__main__":
    tap.main()
