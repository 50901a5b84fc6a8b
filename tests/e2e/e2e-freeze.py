#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest is never left frozen or paused: killed programs and guards, signals, budgets, foreign jobs."""

import json
import os
import signal
import time

from common import codes, process, tap
from freezing import PROMPT, hooks, lab, next_run, wait_free
import libvirt_qemu

# The program and its guard

def killed(t, *more, what="thawed"):
    bench, repository = lab(t)
    running, _ = repository.pause_at(t, "frozen", *more, action="stop")
    t.ok(not bench.guest.is_writing(0.7), "the guest writes, so it is not held")
    since = time.monotonic()
    running.kill9()
    running.wait().expect(-signal.SIGKILL)
    wait_free(t, bench, since, PROMPT, what)
    t.equal(repository.new_points(), [])
    return bench, repository


@tap.test
def test_killed_while_frozen(t):
    bench, repository = killed(t)
    t.contains(bench.guard_log_text(), "thawed 1 filesystems")
    next_run(t, bench, repository, "leftovers-removed")
    t.equal(bench.guards(), [], "guards")


@tap.test
def test_killed_while_paused(t):
    bench, repository = killed(t, "--quiesce", "pause", what="resumed")
    next_run(t, bench, repository, "leftovers-removed", more=("--quiesce", "pause"),
             consistency="paused")


def both_killed(t, *more):
    """The program and its guard are killed: nobody is left to release the guest."""
    bench, repository = lab(t)
    running, _ = repository.pause_at(t, "frozen", *more, action="stop")
    for pid in bench.guards() + [running.pid]:
        process.kill(pid)
    running.wait().expect(-signal.SIGKILL)
    bench.wait_no_guard(t)
    t.ok(not bench.guest.is_writing(1.5), "the guest writes, so it is not held")
    return bench, repository


@tap.test
def test_both_killed_while_frozen(t):
    bench, repository = both_killed(t)
    t.equal(bench.guest.freeze_status(), "frozen")
    result = next_run(t, bench, repository, "leftovers-removed")
    result.says("the guest was still frozen by a backup that died; it is thawed")


@tap.test
def test_both_killed_while_paused(t):
    bench, repository = both_killed(t, "--quiesce", "pause")
    t.ok(not bench.guest.is_running(), "the guest runs")
    # The domain was paused when this run began, but not by its user.
    result = next_run(t, bench, repository, "leftovers-removed")
    result.says("the guest was still paused by a backup that died; it is resumed")


@tap.test
def test_both_killed_while_paused_then_killed_while_frozen(t):
    bench, repository = both_killed(t, "--quiesce", "pause")
    running, _ = repository.pause_at(t, "frozen", action="stop")
    t.equal(bench.guest.freeze_status(), "frozen")
    since = time.monotonic()
    running.kill9()
    wait_free(t, bench, since, PROMPT)
    next_run(t, bench, repository, "leftovers-removed")


@tap.test
def test_pause_of_the_user_after_both_were_killed(t):
    """The run that died had paused the domain, but had resumed it too: this pause is not its."""
    bench, repository = lab(t)
    running, _ = repository.pause_at(t, "disk-data", "--quiesce", "pause", action="stop")
    for pid in bench.guards() + [running.pid]:
        process.kill(pid)
    running.wait().expect(-signal.SIGKILL)
    bench.wait_no_guard(t)
    bench.guest.suspend()
    content = bench.content()
    repository.run().expect(0)
    repository.expect_point(t, content, "incremental", "paused", ["leftovers-removed"])
    t.ok(not bench.guest.is_running(), "the guest was resumed")
    bench.guest.resume()
    next_run(t, bench, repository)


def guard_killed(t, *more):
    bench, repository = lab(t)
    content = bench.content()
    running, go = repository.pause_at(t, "frozen", *more)
    since = time.monotonic()
    for pid in bench.guards():
        process.kill(pid)
    wait_free(t, bench, since, PROMPT)
    t.contains(running.stderr_so_far(), "the freeze guard has died")
    go()
    result = running.wait().expect(0)
    t.ok("thawed-by-itself" in codes(result), "reasons %s" % codes(result))
    repository.expect_point(t, content, "incremental", "crash")
    repository.assert_tidy(t)
    next_run(t, bench, repository)


tap.add_test("guard_killed_while_frozen", guard_killed)
tap.add_test("guard_killed_while_paused", lambda t: guard_killed(t, "--quiesce", "pause"))


@tap.test
def test_guard_killed_before_the_freeze(t):
    bench, repository = lab(t)
    base = bench.guest.checkpoints()
    running, go = repository.pause_at(t, "guard-armed")
    for pid in bench.guards():
        process.kill(pid)
    bench.wait_no_guard(t)
    go()
    running.wait().expect(1).says("guard")
    repository.assert_no_point(t, base)
    t.ok(bench.guest.is_writing(PROMPT), "the guest does not write")
    next_run(t, bench, repository)


def signalled(t, number, *more):
    bench, repository = lab(t)
    base = bench.guest.checkpoints()
    running, go = repository.pause_at(t, "frozen", *more)
    running.signal(number)
    for guard in bench.guards():
        process.kill(guard, number)
    t.eventually(lambda: "stopping" in running.stderr_so_far(), 10, "the signal is noticed")
    since = time.monotonic()
    go()
    running.wait().expect(128 + number)
    wait_free(t, bench, since, PROMPT)
    repository.assert_no_point(t, base)
    t.equal(bench.guards(), [], "guards")
    next_run(t, bench, repository)


for name in ("SIGTERM", "SIGINT", "SIGHUP"):
    tap.add_test(name.lower() + "_while_frozen",
                 lambda t, number=getattr(signal, name): signalled(t, number))


tap.add_test("sigterm_while_paused",
             lambda t: signalled(t, signal.SIGTERM, "--quiesce", "pause"))


@tap.test
def test_signal_after_the_point_is_complete(t):
    """There is nothing to undo any more, and that is what is said."""
    bench, repository = lab(t)
    content = bench.content()
    running, go = repository.pause_at(t, "checkpoints-retired")
    running.signal(signal.SIGTERM)
    t.eventually(lambda: "Terminated" in running.stderr_so_far(), 10, "the signal is noticed")
    go()
    running.wait().expect(0).says("was complete when the signal came, so it is kept")
    repository.expect_point(t, content, "incremental")
    repository.assert_tidy(t)


# The begin

@tap.test
def test_begin_fails_while_paused(t):
    bench, repository = lab(t)
    base = bench.guest.checkpoints()
    running, go = repository.pause_at(t, "frozen", "--quiesce", "pause")
    t.ok(not bench.guest.is_running(), "the guest runs")
    for parent, _, names in os.walk(bench.scratch):
        for name in names:
            os.unlink(os.path.join(parent, name))
    since = time.monotonic()
    go()
    running.wait().expect(1)
    wait_free(t, bench, since, PROMPT, "resumed")
    repository.assert_no_point(t, base)
    next_run(t, bench, repository)


@tap.test
def test_daemon_restarts_while_paused(t):
    bench, repository = lab(t)
    content = bench.content()
    running, go = repository.pause_at(t, "frozen", "--quiesce", "pause")
    bench.host.kill9()
    bench.host.start()
    go()
    running.wait().expect(0)
    t.ok(bench.guest.is_writing(PROMPT), "the guest does not write")
    repository.expect_point(t, content, "incremental", "paused")
    repository.assert_tidy(t)


def remove_bitmap(bench, target, name):
    """Takes a bitmap away behind libvirt's back."""
    def ask(command, **arguments):
        text = json.dumps({"execute": command, "arguments": arguments})
        return json.loads(libvirt_qemu.qemuMonitorCommand(bench.guest.dom, text, 0))["return"]
    path = os.path.realpath(bench.guest.disk_path(target))
    for node in ask("query-named-block-nodes", flat=True):
        names = [bitmap.get("name") for bitmap in node.get("dirty-bitmaps", [])]
        if os.path.realpath(node.get("file", "")) == path and name in names:
            ask("block-dirty-bitmap-remove", node=node["node-name"], name=name)
            return
    raise tap.Failure("%s has no bitmap %s" % (target, name))


@tap.test
def test_bitmap_is_refused_at_the_begin(t):
    """It was good when it was looked at. The job begins without it, in the same freeze."""
    bench, repository = lab(t)
    hooks(t, bench.guest, freeze="echo VMB-FREEZING >/dev/console")
    content = bench.content()
    running, go = repository.pause_at(t, "frozen")
    remove_bitmap(bench, "vdb", repository.newest_checkpoint())
    go()
    result = running.wait().expect(0)
    t.equal(bench.guest.console().count("VMB-FREEZING"), 1, "freezes")
    t.ok("bitmap-unusable" in codes(result), "reasons %s" % codes(result))
    name = repository.expect_point(t, content, "incremental", "filesystem")
    t.equal({disk["method"] for disk in repository.manifest(name)["disks"]}, {"compare"})
    repository.assert_tidy(t)
    repository.assert_points(t)
    next_run(t, bench, repository)


class ForeignJob:
    """A backup job of another program on vda."""

    def __init__(self, t, bench):
        self.dom = bench.guest.dom
        place = bench.host.directory("foreign-" + t.name, owner="qemu")
        self.dom.backupBegin("""
            <domainbackup mode='pull'><server transport='unix' socket='%s/socket'/><disks>
            <disk name='vda' backup='yes' type='file'><scratch file='%s/scratch'/></disk>
            <disk name='vdb' backup='no'/><disk name='vdc' backup='no'/></disks></domainbackup>
            """ % (place, place), None, 0)

    def end(self, t):
        """It must still be there."""
        t.contains(self.dom.backupGetXMLDesc(0), "foreign-")
        self.dom.abortJob()


@tap.test
def test_foreign_job_before_the_freeze(t):
    """It began after the first look: this is seen, and the guest not frozen for it."""
    bench, repository = lab(t)
    base = bench.guest.checkpoints()
    running, go = repository.pause_at(t, "guard-armed")
    job = ForeignJob(t, bench)
    since = time.monotonic()
    go()
    running.wait().expect(11).says("has become busy", "a backup job of another program")
    t.ok(time.monotonic() - since < 10, "it was waited for")
    job.end(t)
    repository.assert_no_point(t, base)
    next_run(t, bench, repository)


@tap.test
def test_foreign_job_in_the_freeze(t):
    """libvirt lets the begin wait for it for 30 s, but not the guest."""
    bench, repository = lab(t)
    base = bench.guest.checkpoints()
    running, go = repository.pause_at(t, "frozen", "--freeze-timeout", "3s")
    since = time.monotonic()
    job = ForeignJob(t, bench)
    go()
    wait_free(t, bench, since, 3 + 3)
    t.ok(running.running(), "the run is over already")
    result = running.wait().expect(11)
    t.ok("freeze-budget" in codes(result), "reasons %s" % codes(result))
    job.end(t)
    repository.assert_no_point(t, base)
    next_run(t, bench, repository)


# The budget

@tap.test
def test_budget_overrun(t):
    bench, repository = lab(t)
    content = bench.content()
    running = repository.start("--freeze-timeout", "1s", fail_at="frozen=delay:4000")
    t.eventually(lambda: not bench.thawed(), 30, "the guest is frozen", 0.02)
    since = time.monotonic()
    wait_free(t, bench, since, 1 + 2)
    t.ok(running.running(), "the run is over")
    result = running.wait().expect(0)
    t.ok("freeze-budget" in codes(result), "reasons %s" % codes(result))
    repository.expect_point(t, content, "incremental", "crash")
    repository.assert_tidy(t)
    next_run(t, bench, repository)


@tap.test
def test_budget_overrun_under_require(t):
    bench, repository = lab(t)
    base = bench.guest.checkpoints()
    result = repository.run("--freeze-timeout", "1s", "--quiesce", "require",
                            fail_at="frozen=delay:2500").expect(22)
    t.equal(result.json_lines[0]["error"]["code"], "quiesce")
    repository.assert_no_point(t, base)
    next_run(t, bench, repository, more=("--quiesce", "require"))


@tap.test
def test_stopped_while_frozen(t):
    """SIGSTOP instead of SIGKILL: the guard keeps to the budget, and a late thaw is told."""
    bench, repository = lab(t)
    content = bench.content()
    running, go = repository.pause_at(t, "frozen", "--freeze-timeout", "2s", action="stop")
    wait_free(t, bench, time.monotonic(), 2 + 2)
    go()
    result = running.wait().expect(0)
    t.ok("freeze-budget" in codes(result), "reasons %s" % codes(result))
    repository.expect_point(t, content, "incremental", "crash")
    next_run(t, bench, repository)


# Pausing, and nothing

@tap.test
def test_pause(t):
    bench, repository = lab(t)
    repository.plain(t, more=("--quiesce", "pause"), consistency="paused")
    t.ok(bench.guest.is_writing(PROMPT), "the guest does not write")
    next_run(t, bench, repository)


@tap.test
def test_pause_budget_overrun(t):
    bench, repository = lab(t)
    content = bench.content()
    result = repository.run("--quiesce", "pause", "--freeze-timeout", "1s",
                            fail_at="frozen=delay:2500").expect(0)
    t.ok("freeze-budget" in codes(result), "reasons %s" % codes(result))
    repository.expect_point(t, content, "incremental", "crash")
    next_run(t, bench, repository)


@tap.test
def test_none(t):
    bench, repository = lab(t)
    result = repository.plain(t, more=("--quiesce", "none"), consistency="crash",
                              reasons=("quiesce-none",))
    t.equal(repository.manifest(repository.ids()[-1])["quiesce"]["freeze_ns"], 0)
    t.ok("agent-absent" not in codes(result), "reasons %s" % codes(result))


@tap.test
def test_paused_before(t):
    """A domain that its user has paused stays so, in every mode, and also after a kill."""
    bench, repository = lab(t)
    bench.guest.suspend()
    paused = bench.guest.state()
    for mode in ("auto", "pause", "none"):
        content = bench.content()
        result = repository.run("--quiesce", mode).expect(0)
        t.equal(bench.guest.state(), paused, "state after --quiesce " + mode)
        repository.expect_point(t, content, "incremental", "paused")
        t.equal("domain-paused" in codes(result), mode != "none", "reasons %s" % codes(result))
        bench.write(t.random)
    base = bench.guest.checkpoints()
    repository.run("--quiesce", "require").expect(22)
    repository.assert_no_point(t, base)
    for mode in ("auto", "pause"):
        for step in ("freeze-asked", "guard-armed", "job-started"):
            result = repository.run("--quiesce", mode, fail_at=step + "=kill")
            result.expect((0, -signal.SIGKILL))
            if result.status == 0:
                # A paused domain is not frozen, so this step is not passed.
                t.equal(step, "freeze-asked")
                repository.expect_point(t, bench.content(), "incremental", "paused")
            bench.wait_no_guard(t)
            t.equal(bench.guest.state(), paused, "state after %s=kill" % step)
    content = bench.content()
    repository.run().expect(0)
    repository.expect_point(t, content, "incremental", "paused")
    t.equal(bench.guest.state(), paused)
    bench.guest.resume()
    next_run(t, bench, repository)


if __name__ == "__main__":
    tap.main()
