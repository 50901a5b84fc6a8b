#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Repositories on network filesystems: what locks do there, and mounts whose locks no other host sees."""

import json
import os
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from points import contents, directory, make  # noqa: E402
from vmbtest import tap  # noqa: E402
from vmbtest.vmbackup import Tool  # noqa: E402


def network(t, repo, **env):
    """The program as it is on such a filesystem."""
    shim = os.environ.get("VMBACKUP_TEST_NETWORK_MOUNT")
    t.require(shim, "VMBACKUP_TEST_NETWORK_MOUNT does not name the library")
    asan = os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"
    return Tool(t, repo=repo, env={"LD_PRELOAD": shim, "ASAN_OPTIONS": asan, **env})


def mountinfo(path, where, kind, options):
    """A file like /proc/self/mountinfo in which what path is on is mounted so."""
    fd = os.open(path, os.O_RDONLY)
    with open("/proc/self/fdinfo/%d" % fd, encoding="ascii") as file:
        number = re.search(r"mnt_id:\s*(\d+)", file.read())[1]
    os.close(fd)
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        lines = file.read().splitlines()
    out = os.path.join(where, "mountinfo")
    with open(out, "w", encoding="utf-8") as file:
        for line in lines:
            if line.startswith(number + " "):
                line = line.partition(" - ")[0] + " - %s server:/backup %s" % (kind, options)
            file.write(line + "\n")
    return out


@tap.test
def test_all_verbs(t):
    """Everything that locks something, where locks want the right access."""
    base = directory(t)
    tool = network(t, os.path.join(base, "repo"))
    tool.ok("init")
    make(t, tool.repo, n=4)
    expected = contents(t, tool)
    tool.ok("verify")
    tool.ok("protect", "web01/latest")
    tool.ok("prune", "--keep-last", "2")
    got = contents(t, tool)
    t.equal(len(got), 6, "the protected one does not count")
    t.equal(got, {key: expected[key] for key in got})
    other = network(t, os.path.join(base, "other"))
    other.ok("init")
    tool.ok("copy", "--to", other.repo)
    t.equal(contents(t, other), got)
    for _ in range(2):
        other.ok("restore", "web01", "--to", os.path.join(base, "to"))
        os.rename(os.path.join(base, "to"), os.path.join(base, "restored-%d" % _))
    other.ok("forget", "web01", "--all", "--force")


@tap.test
def test_restore_beside_another(t):
    """The second restore into a directory does not take the first for a dead one."""
    base = directory(t)
    tool = network(t, os.path.join(base, "repo"))
    tool.ok("init")
    make(t, tool.repo, n=1)
    to, gate = os.path.join(base, "to"), os.path.join(base, "gate")
    os.mkdir(to)
    first = tool.start("restore", "web01", "--to", to, fail_at="restore-before-file=wait:" + gate)
    t.eventually(lambda: os.path.exists(gate + ".reached"), 30, "the step was not reached")
    tool.run("restore", "web01", "--to", to).expect(11)
    with open(gate, "wb"):
        pass
    first.wait(60).expect(0)


@tap.test
def test_locks_granted_twice(t):
    """A filesystem that grants every lock is refused, and nothing is left."""
    base = directory(t)
    tool = network(t, os.path.join(base, "repo"), VMBACKUP_TEST_LOCKS="all")
    tool.run("init").expect(1).says("grants the same lock twice")
    t.equal(os.listdir(base), [])


@tap.test
def test_local_locks(t):
    """Mounted so that other hosts do not see its locks, it is a disk of one host."""
    for kind, options, name in (("nfs4", "rw,vers=4.2,local_lock=flock", "local_lock=flock"),
                                ("nfs", "rw,nolock,local_lock=all", "nolock"),
                                ("cifs", "rw,nobrl", "nobrl")):
        base = directory(t)
        info = mountinfo(base, base, kind, options)
        tool = network(t, os.path.join(base, "repo"), VMBACKUP_TEST_MOUNTINFO=info)
        tool.ok("init").says(name)
        with open(os.path.join(tool.repo, "repository.json"), encoding="utf-8") as file:
            t.equal(len(json.load(file)["hosts"]), 1)
        make(t, tool.repo, n=2)
        tool.ok("prune", "--keep-last", "1")


@tap.test
def test_shared_locks(t):
    """Several hosts may use it, until one of them mounts it in the wrong way: that one only reads."""
    base = directory(t)
    good = mountinfo(base, base, "nfs4", "rw,vers=4.2,local_lock=none")
    tool = network(t, os.path.join(base, "repo"), VMBACKUP_TEST_MOUNTINFO=good)
    t.ok("local_lock" not in tool.ok("init").err, "it warns of nothing")
    with open(os.path.join(tool.repo, "repository.json"), encoding="utf-8") as file:
        t.equal(json.load(file)["hosts"], [])
    make(t, tool.repo, n=2)
    mountinfo(base, base, "nfs4", "rw,vers=4.2,local_lock=all")
    tool.run("prune", "--keep-last", "1").expect(1).says("local_lock=all")
    t.equal(len(tool.json("list")["points"]), 2)
    tool.ok("verify")
    mountinfo(base, base, "nfs4", "rw,vers=4.2,local_lock=none")
    tool.ok("prune", "--keep-last", "1")


if __name__ == "__main__":
    tap.main()
