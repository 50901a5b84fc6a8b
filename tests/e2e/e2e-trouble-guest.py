#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest or the whole host ends in the middle of a backup."""

import signal
import time

from common import Bench, codes, libvirt, process, tap


def lab(t):
    bench = t.once("bench", Bench)
    return bench, bench.fresh(t, t.name)


def acpi_shutdown(guest):
    """As its user does it. libvirt may need 30 s to notice that QEMU ended, if there is a job."""
    guest.dom.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
    deadline = time.monotonic() + 30
    while "Power down" not in guest.console():
        if time.monotonic() > deadline:
            raise tap.Failure("the guest does not shut down")
        time.sleep(0.05)


def destroy(guest):
    """Pulls the plug."""
    guest.destroy()


def kill_qemu(guest):
    """QEMU crashes."""
    guest.kill_qemu()


def guest_ends(t, how, step):
    bench, repository = lab(t)
    content = bench.content()
    running, go = repository.pause_at(t, step)
    how(bench.guest)
    go()
    result = running.wait()
    t.diag("status %d after %.1f s" % (result.status, result.seconds))
    if step == "before-job-end":
        # All has been read, so that the end of the guest is no loss.
        result.expect(0)
        repository.expect_point(t, content, "incremental")
    else:
        result.expect((1, 21)).says("web01", "shut down", "older points are intact")
        t.equal(repository.new_points(), [])
    t.ok("staging" not in repository.left(), "staging is left")
    t.equal(bench.leftovers(), [], "left behind")
    bench.wait_no_guard(t)
    bench.guest.wait_off(60)
    # It is off now, and its bitmaps died with a QEMU that was killed.
    result = repository.run().expect(0)
    repository.expect_point(t, bench.content(), "incremental", "offline")
    if how is kill_qemu:
        t.ok("bitmap-unusable" in codes(result), "reasons %s" % codes(result))
    bench.guest.start()
    bench.guest.wait_agent()
    bench.write(t.random)
    repository.plain(t)


# At disk-opened the program has a connection to the NBD server.
for ending, at in ((destroy, "guard-armed"), (destroy, "frozen"), (acpi_shutdown, "disk-opened"),
                   (destroy, "disk-opened"), (kill_qemu, "disk-opened"),
                   (destroy, "before-job-end"), (kill_qemu, "before-job-end")):
    tap.add_test("%s_at_%s" % (ending.__name__, at.replace("-", "_")),
                 lambda t, ending=ending, at=at: guest_ends(t, ending, at))


@tap.test
def test_guest_ends_and_starts_again(t):
    """When the program looks, the domain is active, but it is not the one that it knows."""
    bench, repository = lab(t)
    base = bench.guest.checkpoints()
    running, go = repository.pause_at(t, "disk-opened")
    bench.guest.destroy()
    bench.guest.start()
    bench.guest.wait_agent()
    go()
    running.wait().expect(1).says("web01")
    bench.wait_no_guard(t)
    repository.assert_no_point(t, base)
    bench.write(t.random)
    repository.plain(t)


@tap.test
def test_pause_of_the_user(t):
    """What its user does to a guest meanwhile stays done."""
    bench, repository = lab(t)
    content = bench.content()
    running, go = repository.pause_at(t, "disk-opened")
    bench.guest.suspend()
    go()
    running.wait().expect(0)
    t.ok(not bench.guest.is_running(), "a guest that its user paused was resumed")
    repository.expect_point(t, content, "incremental")
    bench.guest.resume()
    bench.write(t.random)
    repository.plain(t)


# The host

@tap.test
def test_power_failure(t):
    """Program, guard, daemon and QEMU are gone at once, with all that was in /run."""
    bench, repository = lab(t)
    running, _ = repository.pause_at(t, "disk-data")
    bench.host.forget_state()
    running.wait().expect(-signal.SIGKILL)
    for path in bench.leftovers():
        if path.startswith(bench.run_dir):
            process.run("rm", "-r", path)
    bench.host.start()
    bench.guest.start()
    bench.guest.wait_agent()
    result = repository.plain(t, reasons=("leftovers-removed",))
    t.ok({"bitmap-unusable", "checkpoint-missing"} & set(codes(result)),
         "reasons %s" % codes(result))
    bench.write(t.random)
    repository.plain(t)


if __name__ == "__main__":
    tap.main()
