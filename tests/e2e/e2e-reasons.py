#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Each code of the closed list of reasons is provoked, told by the run, and kept in the manifest."""

import os
import re
import signal
import uuid

from common import Disk, Guest, MIB, PrivateLibvirt, Tool, image, libvirt, process, tap

HERE = os.path.dirname(os.path.abspath(__file__))
PROVOCATIONS = {}


def all_codes():
    """The closed list, from the table of which manifest, report and manual are made.

    {code: is it a warning}
    """
    with open(os.path.join(HERE, "../../src/util/reason.c"), encoding="utf-8") as file:
        found = re.findall(r'\[VMB_REASON_[A-Z_]+\] = \{"([a-z-]+)", (TRUE|FALSE)', file.read())
    return {name: warning == "TRUE" for name, warning in found}


def provokes(*names):
    """Decorator: function(scene) returns the Result of a run that tells these codes."""
    def register(function):
        for name in names:
            PROVOCATIONS[name] = function
        return function
    return register


class Box:
    """What all provocations share: a libvirt, and a booted guest for those that need an agent."""

    def __init__(self, suite):
        self.host = PrivateLibvirt(suite)
        self.scratch = self.host.directory("scratch", 0o711)
        self.run_dir = self.host.directory("vmbrun", 0o711)
        self.count = 0
        self._booted = None

    def number(self):
        """So that no two guests, repositories or files have one name."""
        self.count += 1
        return self.count

    def booted(self):
        """The guest with an agent and a file system."""
        if self._booted is None:
            self._booted = Guest(self.host, name="booted", disks=[16 * MIB], start=True)
        if not self._booted.is_running():
            self._booted.resume()
        return self._booted


class Scene:
    """One provocation: a guest of its own, that is paused, and a repository."""

    def __init__(self, t, disks=(4 * MIB,), start="paused", guest=None, **options):
        self.t, self.box = t, t.once("box", Box)
        number = self.box.number()
        self.guest = guest
        if guest is None:
            self.guest = Guest(self.box.host, name="r%d" % number, disks=list(disks), mount=(),
                               **{"agent": False, **options})
            t.defer(self.remove)
            if start != "off":
                self.guest.start(paused=start == "paused")
        self.repo = self.box.host.path("repo%d" % number)
        self.tool = Tool(t, repo=self.repo, host=self.box.host, env={
            "VMBACKUP_TEST_RUN_DIR": self.box.run_dir})
        self.tool.ok("init")

    def remove(self):
        """The guest goes."""
        self.guest.destroy()
        self.guest.undefine()

    def argv(self, *more):
        """The command line of a backup."""
        scratch = () if "--scratch-dir" in more else ("--scratch-dir", self.box.scratch)
        return ("backup", self.guest.dom.name(), *scratch, "--json", *more)

    def backup(self, *more, status=0, **options):
        """A run; returns its Result."""
        return self.tool.run(*self.argv(*more), **options).expect(status)

    def stop_at(self, step, *more):
        """A run that waits at a step; returns it, and what lets it go on."""
        gate = self.box.host.path("tmp", "gate%d" % self.box.number())
        running = self.tool.start(*self.argv(*more), fail_at="%s=wait:%s" % (step, gate))
        self.t.eventually(lambda: os.path.exists(gate + ".reached") or not running.running(), 60,
                          step)
        if not running.running():
            self.t.fail("ended before %s: %s" % (step, running.wait().describe()))

        def go():
            with open(gate, "wb"):
                pass
        return running, go

    def die(self, step="disk-opened"):
        """A run that is killed with its guard."""
        running, _ = self.stop_at(step)
        for pid, words in self.box.host.processes():
            if "--internal-guard" in words:
                process.kill(pid)
        running.kill9()
        running.wait().expect(-signal.SIGKILL)

    def write(self, target="vda", offset=MIB, length=65536, pattern=0x11):
        """The guest writes."""
        self.guest.qemu_io(target, "write -P 0x%02x %d %d" % (pattern, offset, length))
        self.guest.qemu_io(target, "flush")

    def path(self, target="vda"):
        """The disk's image."""
        return self.guest.disk_path(target)

    def point(self, name):
        """A file of the newest point."""
        points = os.path.join(self.repo, "domains", self.guest.uuid, "points")
        return os.path.join(points, sorted(os.listdir(points))[-1], name)


# Why a disk is stored in full, or compared

@provokes("first-backup", "domain-paused")
def first(t):
    scene = Scene(t)
    return scene, scene.backup()


@provokes("full-requested")
def full_requested(t):
    scene = Scene(t)
    scene.backup()
    return scene, scene.backup("--level", "full")


@provokes("new-disk")
def new_disk(t):
    scene = Scene(t)
    scene.backup()
    scene.guest.attach_disk(Disk(MIB))
    return scene, scene.backup()


@provokes("no-bitmap-support")
def raw(t):
    scene = Scene(t, disks=[Disk(MIB, fmt="raw")])
    scene.backup()
    return scene, scene.backup()


@provokes("checkpoint-missing")
def checkpoint_deleted(t):
    scene = Scene(t)
    scene.backup()
    for checkpoint in scene.guest.dom.listAllCheckpoints(0):
        checkpoint.delete()
    return scene, scene.backup()


@provokes("bitmap-unusable")
def bitmap_deleted(t):
    scene = Scene(t)
    scene.backup()
    scene.guest.kill_qemu()
    scene.guest.start(paused=True)
    return scene, scene.backup()


@provokes("source-changed")
def image_replaced(t):
    scene = Scene(t)
    scene.backup()
    path = scene.path()
    scene.guest.destroy()
    process.run("cp", "-p", path, path + ".copy")
    os.rename(path + ".copy", path)
    scene.guest.start(paused=True)
    return scene, scene.backup()


@provokes("layer-changed")
def template_changed(t):
    box = t.once("box", Box)
    template = os.path.join(box.host.images, "template%d.qcow2" % box.number())
    image.create(template, 4 * MIB)
    scene = Scene(t, disks=[Disk(4 * MIB, backing=template)])
    scene.backup()
    scene.guest.destroy()
    process.run("qemu-io", "-f", "qcow2", "-c", "write -P 0xbb 2M 64k", template)
    scene.guest.start(paused=True)
    return scene, scene.backup()


@provokes("parent-damaged")
def parent_damaged(t):
    scene = Scene(t)
    scene.write()
    scene.backup()
    with open(scene.point("vda.digests"), "r+b") as file:
        file.truncate(20)
    return scene, scene.backup()


@provokes("damage-healed")
def damage_healed(t):
    """A block of the newest point is flipped, and a verification finds it."""
    scene = Scene(t)
    scene.write(length=MIB)
    scene.backup()
    with open(scene.point("vda.qcow2"), "r+b") as file:
        content = file.read()
        at = content.index(bytes([0x28, 0xb5, 0x2f, 0xfd])) + 12  # inside of a zstd frame
        file.seek(at)
        file.write(bytes([content[at] ^ 1]))
    scene.tool.run("verify").expect(4)
    return scene, scene.backup()


@provokes("chain-limit")
def chain_limit(t):
    scene = Scene(t)
    for _ in range(2):
        scene.backup()
    return scene, scene.backup("--max-chain", "2")


@provokes("spot-check-failed")
def bitmap_lies(t):
    """Somebody changes the image's clusters without a word to the bitmap."""
    scene = Scene(t)
    scene.write(length=MIB)
    scene.backup()
    path = scene.path()
    scene.guest.destroy()
    with open(path, "rb") as file:
        content = file.read()
    with open(path, "r+b") as file:
        file.write(content.replace(bytes([0x11]) * 65536, bytes([0x12]) * 65536))
    scene.guest.start(paused=True)
    return scene, scene.backup()


@provokes("adopted")
def adopted(t):
    scene = Scene(t)
    scene.backup()
    process.run("cp", "-a", scene.repo, scene.repo + "-copy")
    scene.tool.repo = scene.repo = scene.repo + "-copy"
    scene.tool.ok("init", "--adopt")
    return scene, scene.backup()


# Why a disk is not in the point

@provokes("cdrom", "floppy", "read-only", "no-medium", "deselected")
def left_out(t):
    media = {}
    for device in ("cdrom", "floppy"):
        media[device] = os.path.join(t.once("box", Box).host.images, device + ".raw")
        image.create(media[device], MIB, "raw")
    scene = Scene(t, disks=[
        Disk(MIB), Disk(MIB), Disk(MIB, readonly=True), Disk(None, fmt="raw", device="cdrom"),
        *(Disk(None, fmt="raw", device=device, path=path) for device, path in media.items())])
    result = scene.backup("--exclude-disk", "vdb")
    return scene, result


# What the data showed

@provokes("resized")
def resized(t):
    scene = Scene(t)
    scene.backup()
    scene.guest.block_resize("vda", 5 * MIB)
    return scene, scene.backup()


@provokes("bitmap-contradicted")
def shrunk_and_grown(t):
    scene = Scene(t)
    scene.write(offset=3 * MIB)
    scene.backup()
    scene.guest.block_resize("vda", 2 * MIB)
    scene.guest.block_resize("vda", 4 * MIB)
    return scene, scene.backup()


def two_disks(t):
    """A scene with a second disk that can be pulled out, after its full."""
    scene = Scene(t, disks=[Disk(MIB), Disk(MIB, bus="scsi", serial="second", target="sda")])
    scene.backup()
    return scene, scene.guest.detach_disk("sda")


@provokes("disk-renamed")
def disk_renamed(t):
    scene, disk = two_disks(t)
    scene.guest.attach_disk(Disk(None, path=disk.path, bus="scsi", serial="second", target="sdc"))
    return scene, scene.backup()


@provokes("disk-removed")
def disk_removed(t):
    scene, _ = two_disks(t)
    return scene, scene.backup()


# Why the consistency is lower

@provokes("agent-absent")
def no_agent(t):
    scene = Scene(t, start="running")
    return scene, scene.backup()


def wait_agent(scene):
    """Until an agent that was stopped has been let go on."""
    console = scene.guest.console
    scene.t.eventually(lambda: console().count("VMB-AGENT continued") ==
                       console().count("VMB-AGENT stopped"), 60, "the agent goes on")
    scene.guest.wait_agent()
    scene.t.eventually(lambda: scene.guest.freeze_status() == "thawed", 60, "the guest is thawed")


def with_agent(t):
    """A scene with the booted guest."""
    return Scene(t, guest=t.once("box", Box).booted())


@provokes("agent-timeout", "guest-facts-missing")
def agent_hangs(t):
    scene = with_agent(t)
    scene.guest.hang_agent(9)
    result = scene.backup("--freeze-timeout", "2s")
    wait_agent(scene)
    return scene, result


@provokes("thaw-delayed")
def agent_hangs_in_freeze(t):
    scene = with_agent(t)
    running, go = scene.stop_at("freeze-asked", "--freeze-timeout", "2s")
    scene.guest.hang_agent(10)
    go()
    result = running.wait().expect(1)
    wait_agent(scene)
    return scene, result


@provokes("freeze-failed")
def frozen_by_another(t):
    scene = with_agent(t)
    scene.guest.freeze()
    t.defer(scene.guest.thaw)
    return scene, scene.backup()


@provokes("freeze-empty")
def nothing_to_freeze(t):
    scene = with_agent(t)
    scene.guest.exec("umount /mnt/vda")
    t.defer(scene.guest.exec, "mount -t ext4 /dev/vda /mnt/vda")
    return scene, scene.backup()


@provokes("thawed-by-itself")
def thawed_too_early(t):
    scene = with_agent(t)
    running, go = scene.stop_at("frozen")
    scene.guest.thaw()
    go()
    return scene, running.wait().expect(0)


@provokes("freeze-budget")
def slow_begin(t):
    scene = with_agent(t)
    return scene, scene.backup("--freeze-timeout", "1s", fail_at="frozen=delay:2500")


@provokes("quiesce-none")
def no_quiesce(t):
    scene = Scene(t, start="running")
    return scene, scene.backup("--quiesce", "none")


# What else happened

@provokes("config-unreadable")
def nvram_gone(t):
    scene = Scene(t, nvram=True)
    os.rename(scene.guest.nvram, scene.guest.nvram + ".away")
    t.defer(os.rename, scene.guest.nvram + ".away", scene.guest.nvram)
    return scene, scene.backup()


@provokes("checkpoint-not-deleted", "bitmap-not-added")
def image_is_read(t):
    """A dead run's bitmap is in an image that another program has open."""
    scene = Scene(t)
    scene.write()
    scene.backup()
    scene.die()
    scene.write(offset=2 * MIB)
    path = scene.path()
    scene.guest.destroy()
    with open(path, "rb"):
        result = scene.backup()
    return scene, result


@provokes("leftovers-removed")
def run_died(t):
    scene = Scene(t)
    scene.backup()
    scene.die()
    return scene, scene.backup()


@provokes("leftovers-kept")
def scratch_in_use(t):
    """Something is mounted in the dead run's scratch directory."""
    scene = Scene(t)
    scene.backup()
    scene.die()
    (name,) = os.listdir(scene.box.scratch)
    mount = os.path.join(scene.box.scratch, name, "mounted")
    os.mkdir(mount)
    process.run("mount", "-t", "tmpfs", "none", mount)
    try:
        result = scene.backup()
    finally:
        process.run("umount", mount)
    scene.backup()
    t.equal(os.listdir(scene.box.scratch), [], "left behind")
    return scene, result


@provokes("disks-changed")
def disk_plugged_in(t):
    scene = Scene(t)
    running, go = scene.stop_at("guard-armed")
    scene.guest.attach_disk(Disk(MIB))
    go()
    return scene, running.wait().expect(0)


@provokes("scratch-worst-case")
def small_scratch(t):
    scene = Scene(t, disks=[1024 * MIB])
    small = scene.box.host.tmpfs("small%d" % scene.box.number(), 300 * MIB)
    t.defer(scene.box.host.umount, small)
    return scene, scene.backup("--scratch-dir", small)


# What became of the domain

@provokes("domain-renamed")
def renamed(t):
    scene = Scene(t)
    scene.backup()
    scene.guest.destroy()
    scene.guest.name += "new"
    scene.guest.dom.rename(scene.guest.name)
    scene.guest.start(paused=True)
    return scene, scene.backup()


@provokes("domain-recreated")
def recreated(t):
    scene = Scene(t)
    scene.backup()
    scene.remove()
    # The cleanup takes whichever there is.
    scene.guest = Guest(scene.box.host, name=scene.guest.name, disks=[2 * MIB], mount=(),
                        agent=False)
    scene.guest.start(paused=True)
    return scene, scene.backup()


@provokes("other-host")
def other_host(t):
    t.require(os.path.exists("/etc/machine-id"), "no /etc/machine-id")
    scene = Scene(t)
    scene.backup()
    other = scene.box.host.path("tmp", "machine-id")
    with open(other, "w", encoding="ascii") as file:
        file.write("%s\n" % uuid.uuid4().hex)
    process.run(*scene.box.host.enter(["mount", "--bind", other, "/etc/machine-id"]))
    t.defer(process.run, *scene.box.host.enter(["umount", "/etc/machine-id"]))
    scene.tool.ok("init", "--moved")
    return scene, scene.backup()


@provokes("checkpoint-redefined")
def record_lost(t):
    scene = Scene(t)
    scene.backup()
    for checkpoint in scene.guest.dom.listAllCheckpoints(0):
        checkpoint.delete(libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)
    return scene, scene.backup()


@provokes("started-meanwhile")
def started_meanwhile(t):
    scene = Scene(t)
    scene.backup()
    scene.guest.destroy()
    running, go = scene.stop_at("offline-read")
    scene.guest.start(paused=True)
    go()
    return scene, running.wait().expect(0)


# The list

def told(result):
    """Code and text of all reasons that the run gave."""
    return {reason["code"]: reason["message"] for reason in result.json_lines[0]["reasons"]}


def kept(scene, result):
    """The codes in the manifest of the point that the run made."""
    point = result.json_lines[0]["point"]
    scene.t.ok(point is not None, "no point\n" + result.describe())
    shown = scene.tool.json("show", "%s/%s" % (scene.guest.uuid, point["id"]))
    return {reason["code"] for reason in shown["manifest"]["reasons"]}


def test_codes(t, names, function):
    """Provokes some codes, and looks where they have to be."""
    scene, result = function(t)
    for name in names:
        t.ok(name in told(result), "%s is not among %s\n%s" % (
            name, sorted(told(result)), result.describe()))
        t.ok(len(told(result)[name]) > 20, "no message for " + name)
        t.ok(name in kept(scene, result), "%s is not in the manifest: %s" % (
            name, sorted(kept(scene, result))))
        t.contains(result.err, "[%s]" % name, "on standard error")


@tap.test
def test_every_code_is_provoked(t):
    names = all_codes()
    t.ok(len(names) > 40, "the table has %d codes" % len(names))
    t.equal(sorted(set(names) - set(PROVOCATIONS)), [], "codes that nothing provokes")
    t.equal(sorted(set(PROVOCATIONS) - set(names)), [], "provocations without a code")


@tap.test
def test_page_on_recovery(t):
    """It speaks of every warning, and only of codes that there are."""
    with open(os.path.join(HERE, "../../man/vmbackup-recovery.7.pod"), encoding="utf-8") as file:
        words = set(re.findall(r"C<([a-z]+(?:-[a-z]+)+)>", file.read()))
    names = all_codes()
    t.equal(sorted(name for name in names if names[name] and name not in words), [],
            "warnings that the page does not mention")
    # The others are codes of errors.
    t.equal(sorted(words - set(names) - {"no-space", "no-progress"}), [], "words that are no codes")


for provocation in dict.fromkeys(PROVOCATIONS.values()):
    mine = [name for name, function in PROVOCATIONS.items() if function is provocation]
    tap.add_test("_and_".join(mine).replace("-", "_"),
                 lambda t, mine=mine, function=provocation: test_codes(t, mine, function))

if __name__ == "__main__":
    tap.main()
