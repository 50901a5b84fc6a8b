#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A QEMU that does not answer: libvirt would wait for ever, vmbackup does not, and nothing comes late."""

import os
import signal
import time

from common import Bench, codes, tap
from freezing import next_run

# The limit of a call, and what goes before and after it on a busy machine.
CALL, SLACK = 45, 30


def lab(t):
    bench = t.once("bench", lambda suite: Bench(suite, writer=True))
    return bench, bench.fresh(t, t.name)


class Stopped:
    """QEMU, stopped as long as the block lasts."""

    def __init__(self, guest):
        self.pid = guest.qemu_pid

    def __enter__(self):
        os.kill(self.pid, signal.SIGSTOP)

    def __exit__(self, *_):
        os.kill(self.pid, signal.SIGCONT)


def goes_on(t, bench, repository):
    """After QEMU went on: the guard has undone what came late, and the next run is a plain one."""
    t.ok(bench.guest.is_writing(20), "the guest does not write")
    bench.wait_no_guard(t)
    bench.wait_released(t)
    t.equal(repository.new_points(), [])
    next_run(t, bench, repository, "leftovers-removed")


@tap.test
def test_at_the_begin(t):
    """The begin is in QEMU's hands when it is given up, and is carried out later: the guard ends that job."""
    bench, repository = lab(t)
    running, go = repository.pause_at(t, "guard-armed", "--freeze-timeout", "4s")
    with Stopped(bench.guest):
        go()
        since = time.monotonic()
        result = running.wait(CALL + SLACK).expect(1)
        t.diag("given up after %.1f s" % (time.monotonic() - since))
        result.says("may hang", "older points are intact")
        t.ok("agent-timeout" in codes(result), "reasons %s" % codes(result))
        t.ok(bench.guards(), "no guard is left to end the job")
        # libvirt knows by now that QEMU does not answer, so that this is told at once.
        result = repository.tool.run("doctor", "--json", bench.guest.name)
        t.diag("doctor: status %d after %.1f s" % (result.status, result.seconds))
        t.contains(result.out, "has not answered libvirt")
        t.ok(result.seconds < CALL, "doctor took %.1f s" % result.seconds)
    goes_on(t, bench, repository)
    t.contains(bench.guard_log_text(), "ended the backup job")


@tap.test
def test_at_the_end_of_the_job(t):
    bench, repository = lab(t)
    running, go = repository.pause_at(t, "before-job-end")
    with Stopped(bench.guest):
        go()
        since = time.monotonic()
        result = running.wait(CALL + SLACK).expect(1)
        t.diag("given up after %.1f s" % (time.monotonic() - since))
        result.says("may hang", "older points are intact")
        t.ok(bench.guards(), "no guard is left to end the job")
    goes_on(t, bench, repository)


@tap.test
def test_at_inspection(t):
    """Nothing has been begun, so nothing is left; under pause the guest is not touched either."""
    bench, repository = lab(t)
    base = bench.guest.checkpoints()
    with Stopped(bench.guest):
        result = repository.run("--quiesce", "pause").expect(1)
        t.diag("given up after %.1f s" % result.seconds)
        result.says("may hang")
        t.ok(result.seconds < CALL + SLACK, "it took %.1f s" % result.seconds)
    t.ok(bench.guest.is_writing(20), "the guest does not write")
    repository.assert_no_point(t, base)
    next_run(t, bench, repository)


if __name__ == "__main__":
    tap.main()
