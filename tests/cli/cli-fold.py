#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Dropped points are folded: killed at any step, what is left reads the same at each instant."""

import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from points import (UUID, contents, directory, flip, make, point, repository, restored)  # noqa: E402
from vmbtest import tap  # noqa: E402
from vmbtest.vmbackup import Tool  # noqa: E402

COMMON = ["point-retired", "fold-recorded", "fold-appended", "fold-ready", "fold-image-moved",
          "fold-digests-moved", "fold-manifest-written", "fold-parent-cleared", "fold-record-cleared",
          "point-trashed", "point-removed"]
STEPS = {
    "append": ["fold-copied", "fold-tables", "fold-checked", "fold-switched", "fold-cleaned-table",
               "fold-cleaned"],
    "clone": ["fold-copied", "fold-checked", "fold-cleaned-table"],
    "rewrite": [],
}


def filesystem(t, kind):
    """A new one in a file, mounted; removed in the end. It has reflinks, or (ext4) none."""
    base = directory(t)
    image, mount = os.path.join(base, "image"), os.path.join(base, "mnt")
    os.mkdir(mount)
    with open(image, "wb") as file:
        file.truncate(400 << 20)
    subprocess.run(["mkfs." + kind, *(["-q"] if kind != "btrfs" else ["-q"]), image], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    subprocess.run(["mount", "-o", "loop", image, mount], check=True)
    t.defer(subprocess.run, ["umount", "-l", mount])
    return mount


def read_only(t, tool):
    """The same repository, through a mount that cannot be written."""
    mount = os.path.join(directory(t), "ro")
    os.mkdir(mount)
    subprocess.run(["mount", "--bind", tool.repo, mount], check=True)
    t.defer(subprocess.run, ["umount", "-q", "-l", mount], stderr=subprocess.DEVNULL)
    subprocess.run(["mount", "-o", "remount,bind,ro", mount], check=True)
    return Tool(t, repo=mount)


def left_over(tool):
    """Names that only a fold or removal in progress has."""
    found = []
    for parent, directories, files in os.walk(os.path.join(tool.repo, "domains")):
        found += [name for name in directories + files
                  if name.startswith((".fold-", "trash-")) or name == "fold"]
    return found


def subset(expected, got):
    """What is left must be what it was."""
    return {key: expected[key] for key in got}


def check(t, tool, expected, ids):
    """All that is listed reads as before: by qemu-img, by restoring, by verification, also read-only."""
    got = contents(t, tool)
    t.equal(sorted({key[1] for key in got}), ids, "points")
    t.equal(got, subset(expected, got), "by qemu-img")
    reader = read_only(t, tool)
    for each in (tool, reader):
        got = restored(t, each, directory(t))
        t.equal(got, subset(expected, got), "restored")
    reader.ok("verify")
    subprocess.run(["umount", "-l", reader.repo], check=True)


def matrix(t, mode, where=None):
    """A prune dies at each step; then the next one completes what it began."""
    for step in COMMON + STEPS[mode]:
        for action, status in (("kill", -9), ("fail", None)):
            tool = repository(t, n=4, where=where and os.path.join(where, step + action))
            tool.env["VMBACKUP_TEST_FOLD_MODE"] = mode
            expected = contents(t, tool)
            if action == "fail" and step in STEPS[mode]:
                continue
            result = tool.run("prune", "--keep-last", "2", fail_at="%s=%s" % (step, action))
            if status is not None:
                result.expect(status)
            ids = [entry["id"] for entry in tool.json("list")["points"]]
            t.ok(len(ids) <= (3 if step == "point-retired" else 2), "%s: %s" % (step, ids))
            check(t, tool, expected, ids)
            tool.ok("prune", "--keep-last", "2")
            ids = [entry["id"] for entry in tool.json("list")["points"]]
            t.equal(len(ids), 2)
            got = contents(t, tool)
            t.equal(got, subset(expected, got), "%s: after the next prune" % step)
            tool.ok("verify")
            t.equal(left_over(tool), [], step)
            t.equal(sorted(os.listdir(os.path.dirname(point(tool, 3)))), ids, step)
            for number in (2, 3):
                for disk in ("vda", "vdb"):
                    subprocess.run(["qemu-img", "check", "-q", os.path.join(
                        point(tool, number), disk + ".qcow2")], check=True)
            shutil.rmtree(tool.repo)


@tap.test
def test_append(t):
    """In place, as where there are no reflinks."""
    matrix(t, "append")


@tap.test
def test_rewrite(t):
    """Into a new file, as when too much of the old one is dead."""
    matrix(t, "rewrite")


@tap.test
def test_clone(t):
    """In a clone."""
    mount = filesystem(t, "xfs")
    for step in COMMON + STEPS["clone"]:
        for action in ("kill", "fail"):
            os.makedirs(os.path.join(mount, step + action))
    matrix(t, "clone", mount)


@tap.test
def test_killed_twice(t):
    """The run that undoes what a dead one has left dies as well."""
    for step in ("fold-appended", "fold-ready"):
        tool = repository(t, n=3)
        expected = contents(t, tool)
        tool.run("prune", "--keep-last", "1", fail_at=step + "=kill").expect(-9)
        tool.run("prune", "--keep-last", "1", fail_at="fold-undone=kill").expect(-9)
        got = contents(t, tool)
        t.equal(got, subset(expected, got))
        tool.ok("prune", "--keep-last", "1")
        check(t, tool, expected, ["20261121T020003Z"])
        t.equal(left_over(tool), [])


@tap.test
def test_modes(t):
    """What is chosen where: a clone if the filesystem has them, else in place; told by the report."""
    for kind, mode in (("ext4", "append"), ("xfs", "clone"), ("btrfs", "clone")):
        tool = repository(t, n=4, where=filesystem(t, kind))
        expected = contents(t, tool)
        lines = tool.json_lines("prune", "--keep-last", "2")
        modes = {line["mode"] for line in lines if line.get("mode")}
        t.equal(modes, {mode}, kind)
        got = contents(t, tool)
        t.equal(got, subset(expected, got))
        tool.ok("verify")


@tap.test
def test_long_run(t):
    """Many points in one go, from the front, and out of the middle."""
    tool = repository(t, n=9)
    expected = contents(t, tool)
    ids = [entry["id"] for entry in tool.json("list")["points"]]
    for k in (3, 4, 6):
        tool.ok("forget", "web01/" + ids[k])
    left = [i for k, i in enumerate(ids) if k not in (3, 4, 6)]
    check(t, tool, expected, left)
    tool.ok("prune", "--keep-last", "1")
    check(t, tool, expected, ids[-1:])
    t.equal(tool.json("list")["points"][0]["level"], "full")
    t.equal(left_over(tool), [])


@tap.test
def test_in_use(t):
    """What somebody reads is left for another time, and told; nothing is lost."""
    tool = repository(t, n=4)
    expected = contents(t, tool)
    marker = os.path.join(directory(t), "go")
    to = os.path.join(directory(t), "to")
    reading = tool.start("restore", "web01/latest", "--to", to, "--format", "raw",
                         fail_at="restore-disk-data=wait:" + marker)
    t.eventually(lambda: os.path.exists(marker + ".reached"), 30, "the restore does not begin")
    result = tool.run("prune", "--keep-last", "1", timeout=30)
    t.ok(result.status in (0, 3), result.describe())
    t.contains(result.out + result.err, "in use")
    t.equal(len(tool.json("list")["points"]), 1)
    with open(marker, "w", encoding="ascii"):
        pass
    reading.wait().expect(0)
    got = contents(t, tool)
    t.equal(got, subset(expected, got))
    tool.ok("prune", "--keep-last", "1")
    check(t, tool, expected, ["20261121T020004Z"])
    t.equal(tool.json("list")["points"][0]["level"], "full")


@tap.test
def test_open_in_qemu(t):
    """A program of QEMU has an image open: it is left alone until that is closed."""
    tool = repository(t, n=3)
    expected = contents(t, tool)
    socket = os.path.join(directory(t), "socket")
    server = subprocess.Popen(["qemu-nbd", "-r", "-t", "-e", "4", "-k", socket, "-f", "qcow2",
                               os.path.join(point(tool, 2), "vda.qcow2")])
    t.defer(server.wait)
    t.defer(server.kill)
    t.eventually(lambda: os.path.exists(socket), 20, "qemu-nbd does not begin")
    result = tool.run("prune", "--keep-last", "1")
    t.ok(result.status in (0, 3), result.describe())
    t.contains(result.out + result.err, "open in a program of QEMU")
    server.kill()
    server.wait()
    got = contents(t, tool)
    t.equal(got, subset(expected, got))
    tool.ok("prune", "--keep-last", "1")
    check(t, tool, expected, ["20261121T020003Z"])


@tap.test
def test_damaged_tables(t):
    """A point whose tables are damaged is not folded, nor is anything that reads well made worse."""
    tool = repository(t, n=3)
    flip(os.path.join(point(tool, 0), "vda.qcow2"), 65536 + 8)
    tool.run("prune", "--keep-last", "1").expect((3, 4, 1))
    t.ok(os.path.exists(os.path.join(point(tool, 0), "vda.qcow2")), "it is gone")
    tool.run("verify").expect(4)


@tap.test
def test_no_space(t):
    """Too little space: told with numbers, and nothing is changed."""
    mount = filesystem(t, "ext4")
    tool = repository(t, n=3, where=mount)
    expected = contents(t, tool)
    free = os.statvfs(mount)
    filler = os.path.join(mount, "filler")
    with open(filler, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_bsize - (600 << 10))
    result = tool.run("prune", "--keep-last", "1")
    t.ok(result.status in (0, 3), result.describe())
    t.contains(result.out + result.err, "free")
    got = contents(t, tool)
    t.equal(got, subset(expected, got))
    os.unlink(filler)
    tool.ok("prune", "--keep-last", "1")
    check(t, tool, expected, ["20261121T020003Z"])


if __name__ == "__main__":
    tap.main()
