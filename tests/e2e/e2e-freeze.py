#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest is never left frozen or paused: killed programs and guards, signals, budgets."""

import signal
import time

from common import codes, process, tap
from freezing import PROMPT, lab, next_run, wait_free

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


@tap.test
def test_guard_killed_while_frozen(t):
    bench, repository = lab(t)
    content = bench.content()
    running, go = repository.pause_at(t, "frozen")
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


def signalled(t, number):
    bench, repository = lab(t)
    base = bench.guest.checkpoints()
    running, go = repository.pause_at(t, "frozen")
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
