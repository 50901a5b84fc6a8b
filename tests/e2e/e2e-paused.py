#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A domain that others pause, resume or hold up while a backup begins."""

import os
import random
import signal
import time

from common import Bench, tap


def setup(t):
    bench = t.once("bench", Bench)
    if not bench.guest.is_running():
        bench.guest.resume()
    repo = bench.repository("%x" % random.randrange(1 << 32), t)
    t.defer(lambda: [c.delete() for c in bench.guest.dom.listAllCheckpoints(0)])
    t.defer(lambda: bench.guest.is_running() or bench.guest.resume())
    return bench, repo


def start_and_change(t, repo, change, *more, fail_at=None):
    """A backup that has seen the domain, and then change() happens before it goes on."""
    gate = repo.bench.host.path("tmp", "gate-%x" % random.randrange(1 << 32))
    points = ["backup-locked=wait:" + gate] + ([fail_at] if fail_at else [])
    run = repo.start(*more, fail_at=",".join(points))
    t.eventually(lambda: os.path.exists(gate + ".reached"), 30, "the run has seen the domain")
    change()
    with open(gate, "w", encoding="utf-8"):
        pass
    return run.wait()


@tap.test
def test_resumed_then_killed_while_frozen(t):
    bench, repo = setup(t)
    bench.guest.suspend()
    start_and_change(t, repo, bench.guest.resume, fail_at="frozen=kill").expect(-9)
    bench.wait_released(t)
    bench.wait_no_guard(t)
    repo.plain(t, "full")


@tap.test
def test_resumed_is_not_called_paused(t):
    bench, repo = setup(t)
    bench.guest.suspend()
    start_and_change(t, repo, bench.guest.resume, "--quiesce", "none").expect(0)
    t.equal(repo.manifest(repo.ids()[-1])["consistency"], "crash")


@tap.test
def test_paused_by_another_hand_stays_paused(t):
    bench, repo = setup(t)
    start_and_change(t, repo, bench.guest.suspend, "--quiesce", "pause",
                     fail_at="job-started=kill").expect(-9)
    bench.wait_no_guard(t)
    t.ok(not bench.guest.is_running(), "the guard has let it be")
    repo.run("--quiesce", "pause").expect(0)
    t.ok(not bench.guest.is_running(), "the next run has let it be")
    t.equal(repo.manifest(repo.ids()[-1])["consistency"], "paused")


@tap.test
def test_killed_in_the_begin_of_a_guest_that_is_not_frozen(t):
    bench, repo = setup(t)
    gate = bench.host.path("tmp", "gate-begin")
    run = repo.start("--quiesce", "none", fail_at="guard-armed=wait:" + gate)
    t.eventually(lambda: os.path.exists(gate + ".reached"), 30, "the guard is armed")
    qemu = bench.guest.qemu_pid
    os.kill(qemu, signal.SIGSTOP)
    try:
        with open(gate, "w", encoding="utf-8"):
            pass
        time.sleep(1)  # libvirt asks QEMU, which does not answer
        run.kill9()
        run.wait()
        time.sleep(1)  # the guard has had a look
    finally:
        os.kill(qemu, signal.SIGCONT)
    time.sleep(2)
    t.eventually(lambda: not bench.job_active(), 20, "the job that began late was ended")
    bench.wait_no_guard(t)
    t.ok(not bench.job_active(), "and it stays so")
    repo.plain(t, "full")


@tap.test
def test_daemon_away_at_the_end(t):
    """What the run cannot end any more is the guard's to end, long before another run comes."""
    bench, repo = setup(t)
    gate = bench.host.path("tmp", "gate-end")
    run = repo.start(fail_at="before-job-end=wait:" + gate)
    t.eventually(lambda: os.path.exists(gate + ".reached"), 30, "the disks are read")
    bench.host.kill9()
    with open(gate, "w", encoding="utf-8"):
        pass
    run.wait(200).expect(20)
    t.equal(repo.left(), ["journal"])
    bench.host.start()
    t.eventually(lambda: not bench.job_active(), 60, "the guard has ended the job")
    bench.wait_no_guard(t)
    repo.plain(t, "full")


@tap.test
def test_scratch_where_it_must_not_be(t):
    bench, repo = setup(t)
    closed = bench.host.directory("closed", 0o700)
    before = sorted(os.listdir(repo.path))
    for place, status, text in ((os.path.join(repo.path, "scratch"), 2, "in the repository"),
                                (os.path.join(closed, "scratch"), 1, "cannot pass through")):
        result = repo.run("--scratch-dir", place).expect(status)
        t.contains(result.err, text)
        t.ok(not os.path.exists(place), "nothing was made there")
        t.contains(repo.tool.run("doctor", bench.guest.name, "--scratch-dir", place).out, text)
    t.equal(sorted(os.listdir(repo.path)), before)
    repo.assert_released(t)


if __name__ == "__main__":
    tap.main()
