#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""libvirt's daemon is killed in the middle of a backup, and comes back or does not."""

from common import Bench, tap


def lab(t):
    bench = t.once("bench", Bench)
    return bench, bench.fresh(t, t.name)


def daemon_restarted(t, step):
    """Killed and started again at this step. The run may succeed or fail, but costs nothing."""
    bench, repository = lab(t)
    content, base = bench.content(), bench.guest.checkpoints()
    running, go = repository.pause_at(t, step)
    bench.host.kill9()
    bench.host.start()
    go()
    result = running.wait()
    t.diag("status %d after %.1f s" % (result.status, result.seconds))
    bench.wait_released(t)
    bench.wait_no_guard(t)
    if result.status == 0:
        repository.expect_point(t, content, "incremental")
        repository.assert_tidy(t)
    else:
        result.expect((1, 20)).says("web01")
        repository.assert_no_point(t, base)
    return result, bench, repository


def add_daemon_restart(step, must_succeed):
    def test(t):
        result, bench, repository = daemon_restarted(t, step)
        if must_succeed:
            result.expect(0)
        bench.write(t.random)
        repository.plain(t)
    tap.add_test("daemon_restarted_at_" + step.replace("-", "_"), test)


# QEMU goes on and so does its NBD server: reading and ending the job need no luck.
for name, needed in (("backup-inspected", False), ("guard-armed", False), ("frozen", False),
                     ("job-started", True), ("disk-data", True), ("before-job-end", True),
                     ("job-ended", True), ("published", True), ("points-synced", True)):
    add_daemon_restart(name, needed)


@tap.test
def test_daemon_stays_dead(t):
    bench, repository = lab(t)
    running, go = repository.pause_at(t, "disk-data")
    bench.host.kill9()
    go()
    result = running.wait(240)
    bench.host.start()
    t.diag("gave up after %.1f s" % result.seconds)
    result.expect(20).says("web01", "older points are intact")
    t.equal(repository.new_points(), [])
    bench.wait_released(t, 60)
    bench.wait_no_guard(t)
    bench.write(t.random)
    repository.plain(t, reasons=("leftovers-removed",))


if __name__ == "__main__":
    tap.main()
