#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""No space, no right to write, other jobs and other runs: refused or given up without a trace."""

import os
import signal

from common import Bench, Disk, Guest, KIB, MIB, libvirt, process, tap

SCRATCH = 200 * MIB


def lab(t, **options):
    bench = t.once("bench", Bench)
    return bench, bench.fresh(t, t.name, **options)


def refused(t, result, status, code, *words):
    """The run failed as a whole, with this error."""
    result.expect(status).says(*words)
    t.equal(result.json_lines[0]["error"]["code"], code)
    t.equal(result.json_lines[0]["point"], None)
    t.equal(result.summary["exit_status"], status)


def fill(path, leave):
    """A file that leaves so many bytes of a file system free. Returns its path."""
    stat = os.statvfs(path)
    name = os.path.join(path, "filler")
    with open(name, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, stat.f_bavail * stat.f_frsize - leave)
    return name


# The repository

@tap.test
def test_full_target(t):
    """Space for the configuration, but not for the disks' data."""
    bench, repository = lab(t, size=120 * MIB)
    base = bench.guest.checkpoints()
    for target, model in bench.models.items():
        bench.guest.apply(target, [("write", 0, 7 * MIB, 0x5a)], model)
    filler = fill(repository.path, sum(os.path.getsize(path) for path in
                                       (bench.host.kernel, bench.host.initrd)) + 9 * MIB)
    result = repository.run("--compress", "none")
    refused(t, result, 1, "no-space", "web01", "No space left")
    repository.assert_no_point(t, base)
    repository.assert_released(t)
    repository.assert_points(t)
    os.unlink(filler)
    bench.write(t.random)
    repository.plain(t)


@tap.test
def test_full_target_from_the_start(t):
    bench, repository = lab(t, size=100 * MIB)
    base = bench.guest.checkpoints()
    filler = fill(repository.path, 0)
    refused(t, repository.run(), 1, "no-space", "No space left")
    repository.assert_no_point(t, base)
    repository.assert_points(t)
    os.unlink(filler)
    repository.plain(t)


@tap.test
def test_read_only_repository(t):
    bench, repository = lab(t)
    base = bench.guest.checkpoints()
    process.run("mount", "-o", "remount,ro", repository.path)
    t.defer(process.run, "mount", "-o", "remount,rw", repository.path)
    refused(t, repository.run(), 1, "failed", "read-only", repository.path)
    repository.assert_no_point(t, base)
    # Whoever may read it can use it.
    repository.assert_points(t)
    process.run("mount", "-o", "remount,rw", repository.path)
    repository.plain(t)


# Scratch space

@tap.test
def test_scratch_too_small(t):
    bench, repository = lab(t)
    base = bench.guest.checkpoints()
    small = bench.host.tmpfs("small", 32 * MIB)
    t.defer(bench.host.umount, small)
    refused(t, repository.run("--scratch-dir", small), 1, "no-space", small, "--scratch-dir",
            "nothing was changed")
    repository.assert_no_point(t, base)
    t.equal(os.listdir(small), [])
    repository.plain(t)


class Big:
    """A guest with a disk that is larger than its scratch space, on a bench's host."""

    def __init__(self, t, bench):
        self.bench = bench
        self.guest = Guest(bench.host, name="big", disks=[Disk(256 * MIB)], mount=(), start=True)
        t.defer(self.guest.undefine)
        t.defer(self.guest.destroy)
        for offset in range(0, 256, 16):
            self.guest.qemu_io("vda", "write -P 0x11 %dM 16M" % offset)
        self.scratch = bench.host.tmpfs("tight", SCRATCH)
        t.defer(bench.host.umount, self.scratch)
        self.repository = bench.repository(t.name, t)
        self.words = ("backup", "big", "--scratch-dir", self.scratch, "--json")

    def free(self):
        """Bytes that are free for scratch data."""
        stat = os.statvfs(self.scratch)
        return stat.f_bavail * stat.f_frsize

    def at_data(self, t):
        """A run that waits at its first data. Returns it and go()."""
        path = self.bench.host.path("tmp", "go-" + t.name)
        running = self.repository.tool.start(*self.words, fail_at="disk-data=wait:" + path)
        t.eventually(lambda: os.path.exists(path + ".reached") or not running.running(), 60,
                     "disk-data")
        t.ok(running.running(), "the run has ended")

        def go():
            with open(path, "wb"):
                pass
        return running, go

    def assert_given_up(self, t, running):
        """It fails by itself, and the guest goes on."""
        result = running.wait()
        refused(t, result, 1, "no-space", "big", "scratch")
        self.guest.assert_healthy(checkpoints=[], clean=[self.scratch])
        t.equal(self.repository.tool.json("list")["points"], [])
        t.ok(self.free() > SCRATCH - MIB, "scratch space is in use")
        self.repository.tool.ok(*self.words)
        self.guest.assert_healthy(checkpoints=1, clean=[self.scratch])
        return result


@tap.test
def test_scratch_fills_up(t):
    """The guest overwrites so much that the backup is given up, before that is too much."""
    bench = t.once("bench", Bench)
    big = Big(t, bench)
    running, go = big.at_data(t)
    t.contains(running.stderr_so_far(), "scratch-worst-case")
    offset = 0
    while big.free() > 60 * MIB:
        big.guest.qemu_io("vda", "write -P 0x22 %dM 4M" % offset)
        offset += 4
        t.ok(offset < 256, "the scratch space does not fill")
    t.ok(big.guest.is_running(), "the guest was paused")
    go()
    big.assert_given_up(t, running).says("only", "--scratch-dir")


@tap.test
def test_scratch_full(t):
    """So fast that QEMU pauses the guest: it is resumed, and its write is done."""
    bench = t.once("bench", Bench)
    big = Big(t, bench)
    running, go = big.at_data(t)
    big.guest.exec("dd if=/dev/zero of=/dev/vda bs=1M count=250 oflag=direct >/tmp/dd 2>&1 & true")
    t.eventually(lambda: not big.guest.is_running(), 60, "QEMU pauses the guest")
    t.equal(big.guest.state(), (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR))
    go()
    big.assert_given_up(t, running)
    t.eventually(lambda: "250+0 records out" in big.guest.exec("cat /tmp/dd"), 60,
                 "the write is done")


# Other jobs and other runs

def foreign_job(bench, t):
    """A backup job of another program. Returns the path of its socket."""
    place = bench.host.directory("foreign-" + t.name, 0o755, owner="qemu")
    socket = os.path.join(place, "nbd.sock")
    xml = ("<domainbackup mode='pull'><server transport='unix' socket='%s'/><disks>"
           "<disk name='vda' backup='yes' type='file'><scratch file='%s/vda.scratch'/></disk>"
           "<disk name='vdb' backup='no'/><disk name='vdc' backup='no'/></disks></domainbackup>"
           % (socket, place))
    bench.guest.dom.backupBegin(xml, None, 0)
    return socket


@tap.test
def test_foreign_backup_job(t):
    bench, repository = lab(t)
    base = bench.guest.checkpoints()
    socket = foreign_job(bench, t)
    t.defer(lambda: bench.job_active() and bench.guest.dom.abortJob())
    before = bench.guest.dom.backupGetXMLDesc(0)
    refused(t, repository.run(), 11, "locked", "backup job", socket, "domjobabort")
    t.equal(bench.guest.dom.backupGetXMLDesc(0), before, "the foreign job")
    process.run("nbdinfo", "--size", "nbd+unix:///vda?socket=" + socket)
    repository.assert_no_point(t, base)
    bench.guest.dom.abortJob()
    t.eventually(lambda: not bench.job_active(), 20, "the foreign job ends")
    repository.plain(t)


@tap.test
def test_foreign_job_after_a_dead_run(t):
    """What our journal names is undone; the job in its place is not."""
    bench, repository = lab(t)
    repository.run(fail_at="disk-data=kill")
    bench.wait_no_guard(t)
    socket = foreign_job(bench, t)
    t.defer(lambda: bench.job_active() and bench.guest.dom.abortJob())
    refused(t, repository.run(), 11, "locked", "backup job", socket)
    process.run("nbdinfo", "--size", "nbd+unix:///vda?socket=" + socket)
    t.equal(bench.leftovers(), [])
    bench.guest.dom.abortJob()
    t.eventually(lambda: not bench.job_active(), 20, "the foreign job ends")
    repository.plain(t)


@tap.test
def test_foreign_block_job(t):
    bench, repository = lab(t)
    base = bench.guest.checkpoints()
    copy = os.path.join(bench.host.directory("copy", 0o755, owner="qemu"), "vda.copy")
    # Slow enough to last: it is ready only after the whole disk.
    bench.guest.dom.blockCopy("vda", "<disk type='file'><source file='%s'/>"
                              "<driver type='qcow2'/></disk>" % copy, {"bandwidth": 64 * KIB},
                              libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB)
    t.defer(lambda: bench.guest.dom.blockJobInfo("vda") and
            bench.guest.dom.blockJobAbort("vda"))
    refused(t, repository.run(), 11, "locked", "vda", "block copy")
    repository.assert_no_point(t, base)
    t.ok(bench.guest.dom.blockJobInfo("vda"), "the copy was ended")
    bench.guest.dom.blockJobAbort("vda")
    t.eventually(lambda: not bench.guest.dom.blockJobInfo("vda"), 20, "the copy ends")
    repository.plain(t)


def waits(bench, running):
    """True once it has the file of the domain's lock open."""
    directory = "/proc/%d/fd" % running.pid
    for name in os.listdir(directory) if running.running() else ():
        try:
            if os.readlink(os.path.join(directory, name)).endswith("/" + bench.guest.uuid):
                return True
        except OSError:
            pass
    return False


@tap.test
def test_second_run(t):
    """Refused while the first one works; with --lock-wait it waits, and both succeed."""
    bench, repository = lab(t)
    content = bench.content()
    first, go = repository.pause_at(t, "disk-data")
    refused(t, repository.run(), 11, "locked", "web01", str(first.pid))
    refused(t, repository.run("--lock-wait", "1s"), 11, "locked", "web01")
    waiting = repository.start("--lock-wait", "60s")
    t.eventually(lambda: waits(bench, waiting), 20, "it waits for the lock")
    go()
    first.wait().expect(0)
    repository.expect_point(t, content, "incremental")
    waiting.wait().expect(0)
    repository.expect_point(t, content, "incremental")
    repository.assert_tidy(t)
    repository.assert_points(t)


@tap.test
def test_second_run_for_another_repository(t):
    """Two repositories have a checkpoint each, but take turns."""
    bench, repository = lab(t)
    other = bench.repository(t.name + "-other", t)
    content = bench.content()
    first, go = repository.pause_at(t, "disk-data")
    refused(t, other.run(), 11, "locked", "web01")
    go()
    first.wait().expect(0)
    repository.expect_point(t, content, "incremental")
    content = bench.content()
    other.run().expect(0)
    other.expect_point(t, content, "full")
    names = {repository.newest_checkpoint(), other.newest_checkpoint()}
    t.equal(set(bench.guest.checkpoints()), names)
    bench.write(t.random)
    for one in (other, repository):
        content = bench.content()
        one.run().expect(0)
        one.expect_point(t, content, "incremental")
        one.assert_points(t)
    t.equal(len(bench.guest.checkpoints()), 2)


@tap.test
def test_signal_while_waiting_for_the_lock(t):
    bench, repository = lab(t)
    content = bench.content()
    first, go = repository.pause_at(t, "disk-data")
    waiting = repository.start("--lock-wait", "60s")
    t.eventually(lambda: waits(bench, waiting), 20, "it waits for the lock")
    waiting.signal(signal.SIGTERM)
    waiting.wait(10).expect(128 + signal.SIGTERM)
    go()
    first.wait().expect(0)
    repository.expect_point(t, content, "incremental")
    repository.assert_tidy(t)


if __name__ == "__main__":
    tap.main()
