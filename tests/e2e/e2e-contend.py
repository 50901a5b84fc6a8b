#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Others want the guest at the same time: its users, other programs, other runs."""

import signal
import time

from common import Bench, MIB, tap
from vmbtest.filesystem import LoopFilesystem


def lab(t):
    bench = t.once("bench", Bench)
    return bench, bench.fresh(t, t.name)


def gone_job(t, how, step, *words):
    """The NBD server vanishes under the reader: said as it is, undone, and the next run goes on."""
    bench, repository = lab(t)
    base = bench.guest.checkpoints()
    running, go = repository.pause_at(t, step)
    how(bench)
    go()
    result = running.wait().expect(1).says("web01", "older points are intact", *words)
    t.ok(result.seconds < 60, "%.1f s" % result.seconds)
    bench.wait_no_guard(t)
    repository.assert_no_point(t, base)
    repository.assert_released(t)
    bench.write(t.random)
    repository.plain(t)


def abort_job(bench):
    """Another program, or somebody with virsh. It takes effect some milliseconds later.

    Unless QEMU is sending what the stopped reader does not take: then when that one goes on.
    """
    bench.guest.dom.abortJob()
    deadline = time.monotonic() + 2
    while bench.job_active() and time.monotonic() < deadline:
        time.sleep(0.02)


for at in ("disk-opened", "disk-data"):
    tap.add_test("job_aborted_at_" + at.replace("-", "_"), lambda t, at=at: gone_job(
        t, abort_job, at, "somebody else ended the backup job"))


@tap.test
def test_reset(t):
    """The guest starts anew under the same QEMU: no harm, and the point is of the instant before.

    libvirt 9 handles the event in the thread that waits half a minute for the job, and may then
    have lost the agent until the daemon is restarted.
    """
    bench, repository = lab(t)
    content = bench.content()
    running, go = repository.pause_at(t, "disk-data")
    bench.guest.dom.reset(0)
    go()
    result = running.wait().expect(0)
    t.diag("status %d after %.1f s" % (result.status, result.seconds))
    repository.expect_point(t, content, "incremental")
    bench.wait_no_guard(t)
    bench.host.restart()
    bench.guest.wait_agent()
    repository.assert_tidy(t)
    bench.write(t.random)
    repository.plain(t)


def suspended(t, step):
    """Suspended and resumed by its user in the middle."""
    bench, repository = lab(t)
    content = bench.content()
    running, go = repository.pause_at(t, step)
    bench.guest.suspend()
    go()
    result = running.wait().expect(0)
    t.ok(not bench.guest.is_running(), "the guest was resumed: " + result.err)
    name = repository.new_points()[0]
    repository.expect_point(t, content, "incremental", repository.manifest(name)["consistency"])
    bench.guest.resume()
    bench.wait_released(t)
    bench.write(t.random)
    repository.plain(t)


for at in ("backup-inspected", "before-job-end", "job-ended"):
    tap.add_test("suspended_at_" + at.replace("-", "_"), lambda t, at=at: suspended(t, at))


def foreign_job(bench, t):
    """A backup job of another program."""
    place = bench.host.directory("foreign-" + t.name, 0o755, owner="qemu")
    xml = ("<domainbackup mode='pull'><server transport='unix' socket='%s/nbd.sock'/><disks>"
           "<disk name='vda' backup='yes' type='file'><scratch file='%s/vda.scratch'/></disk>"
           "<disk name='vdb' backup='no'/><disk name='vdc' backup='no'/></disks></domainbackup>"
           % (place, place))
    bench.guest.dom.backupBegin(xml, None, 0)
    t.defer(lambda: bench.job_active() and bench.guest.dom.abortJob())


@tap.test
def test_job_begins_before_the_freeze(t):
    """Seen in time: the guest is not frozen at all."""
    bench, repository = lab(t)
    base = bench.guest.checkpoints()
    running, go = repository.pause_at(t, "guard-armed")
    foreign_job(bench, t)
    go()
    result = running.wait().expect(11).says("web01", "busy")
    t.ok(result.seconds < 20, "%.1f s" % result.seconds)
    t.ok(bench.job_active(), "the foreign job was ended")
    bench.wait_no_guard(t)
    t.equal(bench.guest.checkpoints(), base)
    bench.guest.dom.abortJob()
    t.eventually(lambda: not bench.job_active(), 20, "the foreign job ends")
    repository.plain(t)


@tap.test
def test_job_begins_in_the_freeze(t):
    """libvirt lets our begin wait for it for half a minute; the guest is thawed after its budget."""
    bench, repository = lab(t)
    base = bench.guest.checkpoints()
    running, go = repository.pause_at(t, "frozen", "--freeze-timeout", "3s")
    foreign_job(bench, t)
    start = time.monotonic()
    go()
    t.eventually(bench.thawed, 15, "the guest is thawed", 0.1)
    t.diag("thawed after %.1f s" % (time.monotonic() - start))
    running.wait().expect((1, 11)).says("web01")
    t.ok(bench.job_active(), "the foreign job was ended")
    bench.guest.dom.abortJob()
    bench.wait_released(t)
    bench.wait_no_guard(t)
    repository.assert_no_point(t, base)
    bench.write(t.random)
    repository.plain(t)


@tap.test
def test_two_repositories_wait_for_each_other(t):
    """With --lock-wait both get their turn; without it the second one is told at once, and to whom."""
    bench, repository = lab(t)
    other = bench.repository(t.name + "-other", t)
    content = bench.content()
    first, go = repository.pause_at(t, "frozen", "--freeze-timeout", "10s")
    begin = time.monotonic()
    other.run().expect(11).says("web01", str(first.pid))
    t.ok(time.monotonic() - begin < 5, "it has waited")
    waiting = other.start("--lock-wait", "60s")
    go()
    first.wait().expect(0)
    repository.expect_point(t, content, "incremental")
    waiting.wait().expect(0)
    other.expect_point(t, content, "full")
    t.equal(sorted(bench.guest.checkpoints()),
            sorted([repository.newest_checkpoint(), other.newest_checkpoint()]))
    for one in (repository, other):
        one.assert_released(t)
        one.assert_points(t)


@tap.test
def test_a_run_that_hangs_is_waited_for(t):
    """Its locks stand as long as it lives, also when it was killed in a call that does not return."""
    bench = t.once("bench", Bench)
    target = LoopFilesystem(t, bench.host, "contend", 300 * MIB)
    repository = bench.fresh(t, t.name, path=target.path)
    other = bench.repository(t.name + "-other", t)
    running, go = repository.pause_at(t, "job-ended")
    t.defer(target.go)
    target.freeze()
    go()
    other.run("--lock-wait", "1s").expect(11).says(str(running.pid))
    waiting = other.start("--lock-wait", "60s")
    running.kill9()
    time.sleep(1)
    t.ok(waiting.running(), "it did not wait")
    target.go()
    running.wait().expect(-signal.SIGKILL)
    content = bench.content()
    waiting.wait().expect(0)
    other.expect_point(t, content, "full")
    bench.write(t.random)
    content = bench.content()
    repository.run().expect(0)
    repository.expect_point(t, content, "incremental", reasons=("leftovers-removed",))


if __name__ == "__main__":
    tap.main()
