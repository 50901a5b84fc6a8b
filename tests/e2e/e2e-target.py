#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The repository's file system fails for real: full at the last moment, read-only, unreadable."""

import errno
import os

from common import Bench, MIB, process, tap
from vmbtest.filesystem import FaultyFilesystem, LoopFilesystem


def lab(t, filesystem, *words, **options):
    """A bench, and a repository with one full on a file system of that kind."""
    bench = t.once("bench", Bench)
    target = filesystem(t, bench.host, "target-" + t.name, *words, **options)
    return bench, target, bench.fresh(t, t.name, path=target.path)


def failed(t, repository, result, code, *words):
    """The run failed with that code, said these words, and left the guest and the points alone."""
    result.expect(1).says("web01", *words)
    t.equal(result.json_lines[0]["error"]["code"], code, result.json_lines[0]["error"]["message"])
    t.equal(repository.new_points(), [], "points")
    repository.assert_released(t)


def fill(path, leave):
    """A file that leaves so many bytes of a file system free. Returns its path."""
    info = os.statvfs(path)
    name = os.path.join(path, "filler")
    with open(name, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, info.f_bavail * info.f_frsize - leave)
    return name


# Full

@tap.test
def test_full_at_the_last_moment(t):
    """A thin device runs out: each write succeeds, and only fsync() tells. Then ext4 gives up as well."""
    bench, target, repository = lab(t, LoopFilesystem, size=400 * MIB, thin=250 * MIB)
    base = bench.guest.checkpoints()
    running, go = repository.pause_at(t, "before-job-end")
    filler = fill(os.path.dirname(target.device), 0)
    go()
    failed(t, repository, running.wait(), "no-space", "No space left", "fsync")
    t.equal(bench.guest.checkpoints(), base, "checkpoints")
    # Its administrator makes room and repairs it.
    os.unlink(filler)
    target.umount()
    process.run("sh", "-c", 'e2fsck -fy "$1"; [ $? -lt 4 ]', "sh", target.device)
    target.mount()
    bench.write(t.random)
    repository.plain(t)


@tap.test
def test_fsync_fails(t):
    """Of a file: the point is not published."""
    bench, target, repository = lab(t, FaultyFilesystem)
    base = bench.guest.checkpoints()
    for number, code, word in ((errno.EIO, "failed", "Input/output error"),
                               (errno.EDQUOT, "no-space", "quota")):
        running, go = repository.pause_at(t, "manifest-written")
        target.fail("fsync", number)
        go()
        failed(t, repository, running.wait(), code, word, "fsync")
        target.fail("fsync", 0)
        repository.assert_no_point(t, base)
    bench.write(t.random)
    repository.plain(t)


@tap.test
def test_last_fsync_fails(t):
    """Of the directory: the point is there, and nobody knows for how long. Both checkpoints stay."""
    bench, target, repository = lab(t, FaultyFilesystem)
    content, base = bench.content(), bench.guest.checkpoints()
    running, go = repository.pause_at(t, "published")
    target.fail("fsync", errno.EIO)
    go()
    running.wait().expect(1).says("web01", "not known to have reached the disk", "no checkpoint was deleted")
    target.fail("fsync", 0)
    repository.expect_point(t, content, "incremental")
    t.equal(bench.guest.checkpoints(), sorted(base + [repository.newest_checkpoint()]))
    repository.assert_released(t)
    bench.write(t.random)
    repository.plain(t)


@tap.test
def test_error_of_write_back(t):
    """Of a file that has long been written: the kernel tells those who have it open, nobody later."""
    bench, target, repository = lab(t, LoopFilesystem, size=400 * MIB, thin=250 * MIB, journal=False)
    base = bench.guest.checkpoints()
    process.run("sync", "-f", target.path)
    # The file is there, and so is room for all but its data.
    paths = [bench.host.path("tmp", "go-%s-%s" % (t.name, step)) for step in
             ("disk-data", "before-job-end")]
    running = repository.start("--exclude-disk", "vdb", "--compress", "none",
                               fail_at="disk-data=wait:%s,before-job-end=wait:%s" % tuple(paths))
    t.eventually(lambda: os.path.exists(paths[0] + ".reached"), 60, "disk-data")
    process.run("sync", "-f", target.path)
    filler = fill(os.path.dirname(target.device), 0)
    with open(paths[0], "wb"):
        pass
    t.eventually(lambda: os.path.exists(paths[1] + ".reached"), 60, "before-job-end")
    # Time and lack of memory: the error is found, then there is room again, and the inode is forgotten.
    process.run("sync", "-f", target.path, check=False)
    os.unlink(filler)
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
        file.write("3")
    with open(paths[1], "wb"):
        pass
    failed(t, repository, running.wait(), "no-space", "No space left", "fsync")
    t.equal(bench.guest.checkpoints(), base, "checkpoints")
    bench.write(t.random)
    repository.plain(t)


# Read-only

def read_only(t, step):
    bench, target, repository = lab(t, LoopFilesystem, size=300 * MIB)
    base = bench.guest.checkpoints()
    running, go = repository.pause_at(t, step)
    target.remount("abort")
    go()
    result = running.wait()
    failed(t, repository, result, "failed", "Read-only file system")
    t.equal(bench.guest.checkpoints(), base, "checkpoints")
    repository.assert_points(t)
    target.umount()
    process.run("sh", "-c", 'e2fsck -fy "$1"; [ $? -lt 4 ]', "sh", target.device)
    target.mount()
    bench.write(t.random)
    repository.plain(t)


for at in ("staging-created", "guard-armed", "disk-data", "job-ended", "staging-synced"):
    tap.add_test("read_only_at_" + at.replace("-", "_"), lambda t, at=at: read_only(t, at))


# Unreadable

@tap.test
def test_unreadable_parent(t):
    """The chain that an increment builds on cannot be read."""
    bench, target, repository = lab(t, FaultyFilesystem)
    base = bench.guest.checkpoints()
    running, go = repository.pause_at(t, "thawed")
    target.fail("read", errno.EIO)
    go()
    result = running.wait()
    target.fail("read", 0)
    failed(t, repository, result, "failed", "Input/output error")
    repository.assert_no_point(t, base)
    bench.write(t.random)
    repository.plain(t)


if __name__ == "__main__":
    tap.main()
