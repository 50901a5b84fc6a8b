#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""libvirt's daemon hangs: everything ends in bounded time, says so, and is undone when it goes on."""

import os
import signal
import threading
import time

from common import Bench, codes, tap
from freezing import PROMPT, next_run

# Until a daemon that does not answer is given up: when connecting, and by keepalive.
CONNECT, KEEPALIVE = 20, 25
# So long all steps together wait for its return, and what ending costs beside that on a busy machine.
PATIENCE, SLACK = 20, 25


def lab(t):
    bench = t.once("bench", lambda suite: Bench(suite, writer=True))
    return bench, bench.fresh(t, t.name)


class Stopped:
    """The daemon, stopped as long as the block lasts."""

    def __init__(self, host):
        self.pid = host.pid

    def __enter__(self):
        os.kill(self.pid, signal.SIGSTOP)

    def __exit__(self, *_):
        os.kill(self.pid, signal.SIGCONT)


@tap.test
def test_connecting(t):
    """Every verb that needs libvirt: status 20, and nothing has happened."""
    bench, repository = lab(t)
    tool, target = repository.tool, bench.host.path("tmp", "restored")
    with Stopped(bench.host):
        runs = [repository.start(), tool.start("backup", "--all"), tool.start("doctor"),
                tool.start("restore", bench.guest.name, "--to", target, "--define", "--name", "copy")]
        for running in runs:
            result = running.wait(CONNECT + SLACK).expect(20)
            result.says("does not answer")
            t.diag("%s: %.1f s" % (result.argv[-1] if hasattr(result, "argv") else "run",
                                   result.seconds))
            t.ok(result.seconds < CONNECT + SLACK, "it took %.1f s" % result.seconds)
    t.equal(repository.new_points(), [])
    t.ok(not os.path.exists(os.path.join(target, "vda.qcow2")), "something was restored")
    next_run(t, bench, repository)


def given_up(t, step, status=20):
    """It stops at this step and does not go on while the run lasts."""
    bench, repository = lab(t)
    running, go = repository.pause_at(t, step)
    with Stopped(bench.host):
        go()
        since = time.monotonic()
        result = running.wait(KEEPALIVE + PATIENCE + SLACK).expect(status)
        took = time.monotonic() - since
        t.diag("given up after %.1f s" % took)
        t.ok(took < KEEPALIVE + PATIENCE + SLACK, "it took %.1f s" % took)
    result.says("web01", "older points are intact")
    since = time.monotonic()
    t.ok(bench.guest.is_writing(10), "the guest does not write")
    t.diag("the guest writes %.1f s after the daemon went on" % (time.monotonic() - since))
    bench.wait_released(t)
    bench.wait_no_guard(t)
    t.equal(repository.new_points(), [])
    next_run(t, bench, repository, "leftovers-removed")


@tap.test
def test_given_up_while_frozen(t):
    """Nobody can thaw as long as the daemon hangs; then the guard does."""
    given_up(t, "frozen")


@tap.test
def test_given_up_before_the_end_of_the_job(t):
    given_up(t, "before-job-end")


@tap.test
def test_goes_on_in_time(t):
    """It hangs for longer than keepalive allows, but is back before it is given up."""
    bench, repository = lab(t)
    content = bench.content()
    running, go = repository.pause_at(t, "before-job-end")
    os.kill(bench.host.pid, signal.SIGSTOP)
    waker = threading.Timer(KEEPALIVE + 5, os.kill, (bench.host.pid, signal.SIGCONT))
    waker.start()
    go()
    running.wait(KEEPALIVE + PATIENCE + SLACK).expect(0)
    waker.join()
    repository.expect_point(t, content, "incremental")
    repository.assert_tidy(t)
    t.ok(bench.guest.is_writing(PROMPT), "the guest does not write")


if __name__ == "__main__":
    tap.main()
