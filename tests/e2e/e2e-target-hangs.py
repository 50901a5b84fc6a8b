#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The repository's file system hangs: the job ends first, and the guest waits for nobody."""

import os
import signal
import time

from common import Bench, MIB, tap
from vmbtest.filesystem import FaultyFilesystem, LoopFilesystem

# What counts as dead, instead of a minute.
PATIENCE = 2
# From there to the end of the job, on a busy machine.
SLACK = 20


def lab(t, filesystem, **options):
    """A bench, and a repository with one full on a file system of that kind."""
    bench = t.once("bench", Bench)
    target = filesystem(t, bench.host, "hang-" + t.name, **options)
    return bench, target, bench.fresh(t, t.name, path=target.path)


def pause_at(t, target, repository, step, patience=PATIENCE):
    """A run with little patience that waits at a step."""
    repository.tool.env["VMBACKUP_TEST_IO_PATIENCE_MS"] = str(patience * 1000)
    running, go = repository.pause_at(t, step)
    # Before the cleanup waits for the run's end.
    t.defer(target.go)
    return running, go


def assert_guest_is_free(t, bench, running, seconds=0.0):
    """While the program hangs: no job, thawed, running, and all that for some time."""
    t.eventually(lambda: not bench.job_active(), SLACK, "the job has ended", 0.1)
    bench.wait_released(t)
    time.sleep(seconds)
    t.ok(running.running(), "the program does not hang")
    t.ok(not bench.job_active(), "a job")
    bench.guest.assert_healthy()


def hang_in_job(t, step):
    """Frozen: even SIGKILL does not end a write."""
    bench, target, repository = lab(t, LoopFilesystem, size=300 * MIB)
    base = bench.guest.checkpoints()
    running, go = pause_at(t, target, repository, step)
    t.ok(bench.job_active(), "no job at " + step)
    target.freeze()
    go()
    assert_guest_is_free(t, bench, running)
    t.contains(running.stderr_so_far(), "the backup job was ended")
    bench.write(t.random)
    target.go()
    result = running.wait().expect(1)
    result.says("web01", "did not answer", "older points are intact")
    t.equal(result.json_lines[0]["error"]["code"], "no-progress")
    bench.wait_no_guard(t)
    repository.assert_no_point(t, base)
    repository.assert_released(t)
    repository.plain(t)


for at in ("thawed", "disk-opened", "disk-data"):
    tap.add_test("hang_at_" + at.replace("-", "_"), lambda t, at=at: hang_in_job(t, at))


def hang_without_job(t, step):
    """Before the job, or after it: the run waits, and succeeds when it can go on."""
    bench, target, repository = lab(t, LoopFilesystem, size=300 * MIB)
    running, go = pause_at(t, target, repository, step)
    target.freeze()
    go()
    assert_guest_is_free(t, bench, running, 2 * PATIENCE)
    content = bench.content()
    target.go()
    running.wait().expect(0)
    repository.expect_point(t, content, "incremental")
    repository.assert_tidy(t)
    bench.write(t.random)
    repository.plain(t)


for at in ("staging-created", "config-saved", "job-ended", "staging-synced", "checkpoints-retired"):
    tap.add_test("hang_at_" + at.replace("-", "_"), lambda t, at=at: hang_without_job(t, at))


@tap.test
def test_slow_is_not_dead(t):
    """A short standstill costs nothing."""
    bench, target, repository = lab(t, LoopFilesystem, size=300 * MIB)
    content = bench.content()
    running, go = pause_at(t, target, repository, "disk-data", 60)
    target.freeze()
    go()
    time.sleep(PATIENCE)
    t.ok(bench.job_active(), "the job was given up at once")
    target.go()
    running.wait().expect(0)
    repository.expect_point(t, content, "incremental")
    repository.assert_tidy(t)


@tap.test
def test_stop_a_hanging_run(t):
    """Its user does not have to wait for the minute."""
    bench, target, repository = lab(t, LoopFilesystem, size=300 * MIB)
    base = bench.guest.checkpoints()
    running, go = pause_at(t, target, repository, "disk-data", 60)
    target.freeze()
    go()
    time.sleep(1)
    running.signal(signal.SIGTERM)
    assert_guest_is_free(t, bench, running)
    target.go()
    running.wait().expect(128 + signal.SIGTERM)
    bench.wait_no_guard(t)
    repository.assert_no_point(t, base)
    repository.plain(t)


@tap.test
def test_kill_a_hanging_run(t):
    """What is killed in a write does not die, but its guard sees it. Nobody else gets the domain."""
    bench, target, repository = lab(t, LoopFilesystem, size=300 * MIB)
    for step in ("thawed", "disk-data"):
        running, go = pause_at(t, target, repository, step, 60)
        target.freeze()
        go()
        time.sleep(1)
        running.kill9()
        assert_guest_is_free(t, bench, running)
        t.eventually(lambda: not bench.guards(), SLACK, "the guard has ended", 0.1)
        other = bench.repository(t.name + step, t)
        other.run().expect(11).says("web01", str(running.pid))
        bench.write(t.random)
        target.go()
        running.wait().expect(-signal.SIGKILL)
        repository.plain(t, reasons=("leftovers-removed",))
        bench.write(t.random)


@tap.test
def test_server_does_not_answer(t):
    """As NFS does: such a call can at least be killed."""
    bench, target, repository = lab(t, FaultyFilesystem)
    base = bench.guest.checkpoints()
    for operation, step in (("write", "disk-data"), ("create", "thawed"), ("read", "disk-opened")):
        running, go = pause_at(t, target, repository, step)
        target.stall(operation)
        go()
        assert_guest_is_free(t, bench, running)
        target.go()
        running.wait().expect(1).says("did not answer")
        bench.wait_no_guard(t)
        repository.assert_no_point(t, base)
        bench.write(t.random)
    del repository.tool.env["VMBACKUP_TEST_IO_PATIENCE_MS"]
    repository.plain(t)


@tap.test
def test_tpm_does_not_answer(t):
    """Reading the state of a TPM is part of the job as well."""
    host = t.once("bench", Bench).host
    bench = Bench(t, host=host, name="tpm01", tpm=True)
    t.defer(bench.guest.undefine)
    t.defer(bench.guest.destroy)
    repository = bench.repository(t.name, t)
    tar = os.path.join(host.directory("bin-" + t.name, 0o755), "tar")
    with open(tar, "w", encoding="ascii") as file:
        file.write("#!/bin/sh\nexec sleep 300\n")
    os.chmod(tar, 0o755)
    repository.tool.env["VMBACKUP_TEST_IO_PATIENCE_MS"] = str(PATIENCE * 1000)
    running = repository.start(PATH=os.path.dirname(tar) + ":" + os.environ["PATH"])
    t.eventually(bench.job_active, 60, "the job begins")
    result = running.wait(60).expect(1).says("tpm01", "did not answer")
    t.ok(result.seconds < SLACK, "%.1f s" % result.seconds)
    bench.wait_no_guard(t)
    repository.assert_no_point(t, [])
    repository.run().expect(0)


if __name__ == "__main__":
    tap.main()
