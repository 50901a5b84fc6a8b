#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What estimate says before a backup, and what the backup takes then."""

import os

from common import MIB, Disk, Guest, PrivateLibvirt, Tool, image, process, tap

SIZE = 64 * MIB


def host(t):
    return t.once("host", PrivateLibvirt)


def guest(t, name, disks, start):
    made = Guest(host(t), name=name, disks=disks, agent=False)
    t.defer(made.undefine)
    if start:
        made.start(paused=True)
        t.defer(made.destroy)
    return made


def disks_of(document, number=0):
    return document["domains"][number]["disks"]


def stored(repository, uuid, day=-1):
    points = sorted(os.listdir(os.path.join(repository, "domains", uuid, "points")))
    path = os.path.join(repository, "domains", uuid, "points", points[day])
    return sum(os.path.getsize(os.path.join(path, name)) for name in os.listdir(path)
               if name.startswith("vd"))


def check(t, vm, offline):
    """Random data cannot be compressed: what is at most is just what it becomes."""
    bare = Tool(t, host=host(t))
    document = bare.json("estimate", vm.name)
    t.equal((document["free"], document["fits"]), (None, None), "no repository was named")
    one = document["domains"][0]
    t.equal((one["domain"], one["uuid"], one["error"]), (vm.name, vm.uuid, None))
    t.equal((one["running"], one["points"]), (not offline, 0))
    disk = disks_of(document)[0]
    t.equal((disk["target"], disk["size"], disk["next_level"]), ("vda", SIZE, "full"))
    t.equal((disk["ratio"], disk["full_likely"], disk["growth_per_day"]), (None, None, None))
    t.ok(20 * MIB <= disk["allocated"] <= 22 * MIB, disk)
    t.equal(document["need"], disk["full_most"])
    if offline:
        t.equal((document["scratch_need"], one["scratch_worst"]), (0, 0))
    else:
        t.ok(0 < document["scratch_need"] <= SIZE, document)
        t.equal(one["scratch_worst"], SIZE)
    path = host(t).tmpfs("repo-" + vm.name, 100 * MIB, 0o700)
    t.defer(host(t).umount, path)
    tool = Tool(t, repo=path, host=host(t))
    tool.ok("estimate", vm.name).says("no repository yet")
    tool.ok("init")
    document = tool.json("estimate", vm.name)
    t.equal(document["fits"], True)
    tool.ok("backup", vm.name)
    took = stored(path, vm.uuid)
    t.ok(0.9 * disk["full_most"] <= took <= disk["full_most"],
         "%d bytes were estimated, %d it took" % (disk["full_most"], took))
    document = tool.json("estimate", vm.name)
    again = disks_of(document)[0]
    t.equal((document["domains"][0]["points"], again["next_level"]), (1, "incremental"))
    t.ok(0.9 < again["ratio"] <= 1, again)
    t.ok(0.9 * took < again["full_likely"] < 1.1 * took, again)
    t.equal(again["need"], again["full_most"], "nobody knows yet what increments take")
    # Two increments a day apart: from then on twice what the second one took is reckoned with.
    tool.ok("backup", vm.name, VMBACKUP_TEST_CLOCK="1900000000")
    tool.ok("backup", vm.name, VMBACKUP_TEST_CLOCK="1900086400")
    document = tool.json("estimate", vm.name, VMBACKUP_TEST_CLOCK="1900086500")
    last = disks_of(document)[0]
    t.equal(last["need"], 2 * last["growth_per_day"])
    t.equal(document["need"], last["need"])


def fill(t, path, offset, length):
    with open(t.directory + "/random", "wb") as file:
        file.write(os.urandom(length))
    process.run("qemu-io", "-f", "qcow2", "-c",
                      "write -s %s/random %d %d" % (t.directory, offset, length), path)


@tap.test
def test_running_and_shut_off(t):
    t.directory = host(t).directory("data", 0o700)
    for name, offline in (("running", False), ("off", True)):
        vm = guest(t, name, [Disk(SIZE)], start=False)
        fill(t, vm.disk_path("vda"), 3 * MIB, 20 * MIB)
        if not offline:
            vm.start(paused=True)
            t.defer(vm.destroy)
        check(t, vm, offline)


@tap.test
def test_layers(t):
    """What the lower layers hold is in a full as well; raw images count what they take."""
    t.directory = host(t).directory("layers", 0o700)
    base = os.path.join(host(t).images, "base.qcow2")
    image.create(base, SIZE)
    fill(t, base, 0, 10 * MIB)
    vm = guest(t, "layered", [Disk(SIZE, backing=base), Disk(SIZE, fmt="raw")], start=False)
    fill(t, vm.disk_path("vda"), 32 * MIB, 5 * MIB)
    with open(vm.disk_path("vdb"), "r+b") as file:
        file.write(os.urandom(4 * MIB))
    for start in (False, True):
        if start:
            vm.start(paused=True)
            t.defer(vm.destroy)
        document = Tool(t, host=host(t)).json("estimate", vm.name)
        first, second = disks_of(document)
        t.ok(15 * MIB <= first["allocated"] <= 17 * MIB, first)
        t.ok(4 * MIB <= second["allocated"] <= 5 * MIB, second)
        t.equal(document["need"], first["full_most"] + second["full_most"])


@tap.test
def test_too_little_space(t):
    t.directory = host(t).directory("little", 0o700)
    vm = guest(t, "large", [Disk(SIZE)], start=False)
    fill(t, vm.disk_path("vda"), 0, 20 * MIB)
    path = host(t).tmpfs("repo-small", 12 * MIB, 0o700)
    t.defer(host(t).umount, path)
    tool = Tool(t, repo=path, host=host(t))
    result = tool.run("estimate", vm.name).expect(1)
    t.contains(result.out, "TOO LITTLE")
    document = tool.run("estimate", vm.name, "--json").expect(1).json
    t.equal((document["fits"], document["scratch_fits"]), (False, True))
    t.ok(document["free"] <= 12 * MIB < document["need"], document)
    # The scratch directory is full, which only running domains need.
    vm.start(paused=True)
    t.defer(vm.destroy)
    bare = Tool(t, host=host(t))
    t.equal(bare.ok("estimate", vm.name).out.count("TOO LITTLE"), 0)
    document = bare.run("estimate", vm.name, "--scratch-dir", path, "--json").expect(1).json
    t.equal((document["fits"], document["scratch_fits"]), (None, False))


@tap.test
def test_which_domains(t):
    first = guest(t, "aa", [Disk(4 * MIB)], start=False)
    guest(t, "bb", [Disk(4 * MIB)], start=True)
    tool = Tool(t, host=host(t))
    t.equal([d["domain"] for d in tool.json("estimate", "--all")["domains"]], ["aa", "bb"])
    t.equal([d["domain"] for d in tool.json("estimate", "bb", first.uuid, "aa")["domains"]],
            ["bb", "aa"])
    document = tool.run("estimate", "aa", "nobody", "--json").expect(3).json
    t.equal([d["error"] and d["error"]["code"] for d in document["domains"]], [None, "domain"])
    tool.run("estimate", "nobody").expect(21).says("nobody")
    tool.run("estimate").expect(2).says("--all")
    tool.run("estimate", "--all", "aa").expect(2)


if __name__ == "__main__":
    tap.main()
