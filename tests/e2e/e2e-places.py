#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Repositories on file systems that cannot do all, restores to full ones, and clocks that go back."""

import errno
import os
import shutil
import stat

from common import Bench, MIB, Tool, image, process, tap
from vmbtest.filesystem import FaultyFilesystem, LoopFilesystem


def lab(t, path):
    bench = t.once("bench", Bench)
    return bench, bench.fresh(t, t.name, path=path)


def fill(path, leave):
    """A file that leaves so many bytes of a file system free. Returns its path."""
    info = os.statvfs(path)
    with open(os.path.join(path, "filler"), "wb") as file:
        os.posix_fallocate(file.fileno(), 0, info.f_bavail * info.f_frsize - leave)
    return os.path.join(path, "filler")


def restore_all(t, repository, to):
    """Every point restores to what the disks were."""
    for number, (name, content) in enumerate(repository.expected.items()):
        place = "%s-%d" % (to, number)
        repository.tool.ok("restore", "web01/" + name, "--to", place)
        for target, path in content.items():
            image.compare(os.path.join(place, target + ".qcow2"), path)
        shutil.rmtree(place)


def all_paths(top):
    """All files and directories from top on."""
    for directory, _, names in os.walk(top):
        yield directory
        for name in names:
            yield os.path.join(directory, name)


# File systems

@tap.test
def test_without_links_and_rename_flags(t):
    """Works, and is silent about the links that are only for people."""
    bench = t.once("bench", Bench)
    target = FaultyFilesystem(t, bench.host, "poor", "no-symlink", "no-rename-flags")
    bench, repository = lab(t, target.path)
    result = repository.plain(t)
    t.ok("by-name" not in result.err, result.err)
    t.equal(os.listdir(os.path.join(target.path, "by-name")), [])
    bench.write(t.random)
    repository.run(fail_at="staging-synced=kill")
    bench.wait_no_guard(t)
    repository.plain(t, reasons=("leftovers-removed",))
    # To a directory that is there and to one that is not.
    os.mkdir(os.path.join(target.path, "there"))
    newest = repository.ids()[-1]
    repository.tool.ok("restore", "web01/" + newest, "--to", os.path.join(target.path, "there"))
    image.compare(os.path.join(target.path, "there", "vda.qcow2"),
                  repository.expected[newest]["vda"])
    restore_all(t, repository, os.path.join(target.path, "out"))


@tap.test
def test_refused_at_once(t):
    """Without locks or modes nothing is made, and the reason is told."""
    host = t.once("bench", Bench).host
    for word, said in (("no-flock", "does not lock files"), ("no-modes", "permissions")):
        target = FaultyFilesystem(t, host, word, word)
        for path in (target.path, os.path.join(target.path, "new")):
            Tool(t, repo=path).run("init").expect(1).says(path, said, "Choose another filesystem")
            t.equal(os.listdir(target.backing), [], "left by init")


@tap.test
def test_overlay(t):
    """Of a container: the repository is in an upper layer, or partly in a lower one."""
    bench = t.once("bench", Bench)
    place = bench.host.tmpfs("layers", 600 * MIB)
    t.defer(bench.host.umount, place)
    for name in ("lower", "upper", "work"):
        os.mkdir(os.path.join(place, name))
    path = bench.host.directory("overlay", 0o700)

    def mount(upper):
        os.makedirs(os.path.join(place, upper), exist_ok=True)
        process.run("mount", "-t", "overlay", "-o", "lowerdir=%s/lower,upperdir=%s/%s,workdir=%s/work"
                    % (place, place, upper, place), "vmbtest", path)
    mount("upper")
    t.defer(lambda: os.path.ismount(path) and process.run("umount", path))
    _, repository = lab(t, path)
    repository.plain(t)
    restore_all(t, repository, os.path.join(bench.host.base, "out"))
    bench.write(t.random)
    content = bench.content()
    repository.run(fail_at="published=kill")
    bench.wait_no_guard(t)
    repository.expect_point(t, content, "incremental")
    repository.plain(t)


@tap.test
def test_nothing_is_for_others(t):
    """Whatever the umask: files 0600, directories 0700, and no more while a run is under way."""
    bench = t.once("bench", Bench)
    bench, repository = lab(t, bench.host.directory("private", 0o755))
    old = os.umask(0)
    t.defer(os.umask, old)
    running, go = repository.pause_at(t, "before-job-end")
    for path in all_paths(repository.path):
        mode = os.lstat(path).st_mode
        wanted = 0o700 if stat.S_ISDIR(mode) else 0o600
        t.ok(stat.S_ISLNK(mode) or stat.S_IMODE(mode) == wanted, "%o %s" % (mode, path))
    private = [path for path in bench.leftovers() if path.startswith(bench.scratch)]
    t.ok(private, "no scratch directory")
    for path in private:
        t.equal(stat.S_IMODE(os.stat(path).st_mode) & 0o007, 0, path)
    content = bench.content()
    go()
    running.wait().expect(0)
    repository.expect_point(t, content, "incremental")
    for path in all_paths(repository.path):
        mode = os.lstat(path).st_mode
        t.ok(stat.S_ISLNK(mode) or not stat.S_IMODE(mode) & 0o077, "%o %s" % (mode, path))


# Restores

@tap.test
def test_restore_to_a_full_place(t):
    """Seen before; in the middle; and only by the last fsync. Nothing is left each time."""
    bench = t.once("bench", Bench)
    _, repository = lab(t, bench.host.directory("source-full", 0o700))
    content = repository.expected[repository.ids()[0]]
    for target, model in bench.models.items():
        bench.guest.apply(target, [("write", 0, 7 * MIB, 0x5a)], model)
    repository.plain(t)
    target = LoopFilesystem(t, bench.host, "narrow", 200 * MIB, thin=180 * MIB)
    words = ("restore", "web01/latest", "--to", os.path.join(target.path, "out"), "--format", "raw")

    def nothing_left():
        t.equal([n for n in os.listdir(target.path) if n != "filler"], ["lost+found"], "left")
    filler = fill(target.path, 30 * MIB)
    repository.tool.run(*words).expect(1).says("free", "nothing was written")
    nothing_left()
    os.unlink(filler)
    go = os.path.join(bench.host.base, "tmp", "go-restore")
    running = repository.tool.start(*words, fail_at="restore-disk-data=wait:" + go)
    t.eventually(lambda: os.path.exists(go + ".reached"), 30, "it writes")
    filler = fill(target.path, 2 * MIB)
    with open(go, "wb"):
        pass
    running.wait().expect(1).says("No space left")
    nothing_left()
    os.unlink(filler)
    # The device below ext4 is full: each write succeeds.
    running = repository.tool.start(*words, fail_at="restore-disk-done=wait:" + go + "2")
    t.eventually(lambda: os.path.exists(go + "2.reached"), 30, "a disk is written")
    filler = fill(os.path.dirname(target.device), 0)
    with open(go + "2", "wb"):
        pass
    running.wait().expect(1).says("fsync")
    t.ok(not os.path.exists(os.path.join(target.path, "out")), "published")
    os.unlink(filler)
    t.ok(content, "no content")


@tap.test
def test_restore_target_fails(t):
    """Errors of writing and syncing under a directory that is there."""
    bench = t.once("bench", Bench)
    _, repository = lab(t, bench.host.directory("source-errors", 0o700))
    target = FaultyFilesystem(t, bench.host, "bad-place")
    place = os.path.join(target.path, "out")
    os.mkdir(place)
    for operation, number in (("write", errno.EIO), ("fsync", errno.EIO), ("create", errno.EROFS),
                              ("rename", errno.EIO), ("write", errno.ENOSPC)):
        target.fail(operation, number)
        repository.tool.run("restore", "web01/latest", "--to", place).expect(1)
        target.fail(operation, 0)
        t.equal(os.listdir(place), [], "left after a failed " + operation)
    restore_all(t, repository, os.path.join(target.path, "new"))


@tap.test
def test_verify_writes_only_its_result(t):
    """That is state.json of the point, and the cache of the domain; where it cannot be written, the result is told all the same."""
    bench = t.once("bench", Bench)
    target = LoopFilesystem(t, bench.host, "quiet", 300 * MIB)
    _, repository = lab(t, target.path)
    point = os.path.join(repository.domain, "points", repository.ids()[0])

    def times():
        return {path: (os.lstat(path).st_mtime_ns, os.lstat(path).st_ctime_ns)
                for path in all_paths(target.path)
                if path not in (point, os.path.join(point, "state.json"), repository.domain,
                                os.path.join(repository.domain, "catalog"))}
    before = times()
    repository.tool.ok("verify", "web01")
    t.equal(times(), before)
    filler = fill(target.path, 0)
    repository.tool.ok("verify", "web01")
    os.unlink(filler)
    target.remount("ro")
    repository.tool.ok("verify", "web01")
    restore_all(t, repository, os.path.join(bench.host.base, "out"))
    target.remount("rw")


# The clock

@tap.test
def test_clock_goes_back(t):
    """The order of points is that of their making, and each has a name of its own."""
    bench = t.once("bench", Bench)
    _, repository = lab(t, bench.host.directory("clock", 0o700))
    clock = repository.tool.env
    made = repository.ids()
    for seconds in (2000000000, 2000000000, 2000000000, 1500000000, 1, 4102444800, 1999999999):
        bench.write(t.random)
        content = bench.content()
        clock["VMBACKUP_TEST_CLOCK"] = str(seconds)
        repository.run().expect(0)
        made.append(repository.expect_point(t, content, "incremental"))
        bench.guest.assert_healthy(checkpoints=1)
        t.equal(repository.manifest(made[-1])["disks"][0]["parent"], made[-2])
    t.equal(made[1:], ["20330518T033320Z", "20330518T033320Z-2", "20330518T033320Z-3",
                       "20170714T024000Z", "19700101T000001Z", "21000101T000000Z",
                       "20330518T033319Z"])
    t.equal([repository.manifest(name)["sequence"] for name in made], list(range(1, len(made) + 1)))
    points = repository.tool.json("list")["points"]
    t.equal([point["id"] for point in points], made)
    t.equal(repository.tool.json("show", "web01/latest")["id"], made[-1])
    repository.assert_points(t)
    restore_all(t, repository, os.path.join(bench.host.base, "out"))


if __name__ == "__main__":
    tap.main()
