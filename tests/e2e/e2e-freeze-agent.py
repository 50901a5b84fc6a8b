#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest agents that hang, answer late or are not there: the point's consistency, a thawed guest."""

import os
import signal
import time

from common import Disk, Guest, MIB, codes, tap
from freezing import lab, next_run, stays_free


def hang(t, bench, repository, seconds, *more, step="freeze-asked"):
    """A run whose agent stops answering for so many seconds, when it has just been found to be well and is
    about to be asked for the freeze; at step guard-armed: just before it is found."""
    running, go = repository.pause_at(t, step, *more)
    bench.guest.hang_agent(seconds)
    go()
    return running


def wait_agent_back(t, bench):
    """Until the agent goes on."""
    def count(word):
        return bench.guest.console().count("VMB-AGENT " + word)
    t.eventually(lambda: count("continued") == count("stopped"), 40, "the agent goes on")


@tap.test
def test_agent_hangs(t):
    bench, repository = lab(t)
    content = bench.content()
    result = hang(t, bench, repository, 15, "--freeze-timeout", "4s").wait()
    t.ok(not bench.thawed(), "the agent is back already")
    # The point is whole, but a freeze may still come: that is no success.
    result.expect(1).says("has not confirmed its thaw", "domfsthaw")
    t.ok({"agent-timeout", "thaw-delayed"} <= set(codes(result)), "reasons %s" % codes(result))
    repository.expect_point(t, content, "incremental", "crash")
    t.ok(bench.guards(), "no guard is left to thaw")
    wait_agent_back(t, bench)
    bench.wait_no_guard(t, 30)
    stays_free(t, bench, 4)
    next_run(t, bench, repository)


@tap.test
def test_agent_hangs_in_live_export(t):
    """As for a backup, a freeze may still come: that is no success, and a consumer does not advance by it."""
    bench, repository = lab(t)
    before = bench.guest.checkpoints()
    path = bench.host.path("tmp", "go-live")
    running = repository.tool.start(
        "export", "--live", bench.guest.name, "--scratch-dir", bench.scratch, "--freeze-timeout", "4s", "--consumer",
        "one", "--exec", "true", fail_at="freeze-asked=wait:" + path)
    t.eventually(lambda: os.path.exists(path + ".reached"), 60, "it does not freeze", 0.01)
    bench.guest.hang_agent(15)
    with open(path, "wb"):
        pass
    result = running.wait(60)
    t.ok(not bench.thawed(), "the agent is back already")
    result.expect(1).says("has not confirmed its thaw", "domfsthaw")
    t.equal(bench.guest.checkpoints(), before)
    consumers = os.path.join(repository.path, "domains", bench.guest.uuid, "consumers")
    t.ok(not os.path.exists(consumers), "it has advanced")
    t.ok(bench.guards(), "no guard is left to thaw")
    wait_agent_back(t, bench)
    bench.wait_no_guard(t, 30)
    stays_free(t, bench, 4)
    next_run(t, bench, repository)


@tap.test
def test_agent_answers_late(t):
    """After its timeout, but within the budget: the late freeze is known to be undone."""
    bench, repository = lab(t)
    content = bench.content()
    result = hang(t, bench, repository, 6, "--freeze-timeout", "10s").wait().expect(0)
    t.ok("agent-timeout" in codes(result), "reasons %s" % codes(result))
    t.ok("thaw-delayed" not in codes(result), "reasons %s" % codes(result))
    repository.expect_point(t, content, "incremental", "crash")
    repository.assert_tidy(t)
    stays_free(t, bench, 3)
    next_run(t, bench, repository)


@tap.test
def test_agent_hangs_for_long(t):
    """Undoing a freeze may take longer than any one call of libvirt may."""
    bench, repository = lab(t)
    content = bench.content()
    result = hang(t, bench, repository, 60, "--freeze-timeout", "50s").wait(110)
    t.ok(not bench.thawed(), "the agent is back already")
    result.expect(1).says("has not confirmed its thaw")
    t.ok({"agent-timeout", "thaw-delayed"} <= set(codes(result)), "reasons %s" % codes(result))
    t.ok("connection" not in result.err, "a connection was given up")
    repository.expect_point(t, content, "incremental", "crash")
    wait_agent_back(t, bench)
    bench.wait_no_guard(t, 30)
    stays_free(t, bench, 4)
    next_run(t, bench, repository)


@tap.test
def test_agent_is_slow(t):
    bench, repository = lab(t)
    content = bench.content()
    hang(t, bench, repository, 3, "--freeze-timeout", "30s").wait().expect(0)
    repository.expect_point(t, content, "incremental", "filesystem")
    repository.assert_tidy(t)


@tap.test
def test_agent_hangs_under_require(t):
    bench, repository = lab(t)
    base = bench.guest.checkpoints()
    result = hang(t, bench, repository, 15, "--freeze-timeout", "4s", "--quiesce", "require").wait()
    t.ok(not bench.thawed(), "the agent is back already")
    result.expect(22)
    t.equal(result.json_lines[0]["error"]["code"], "quiesce")
    repository.assert_no_point(t, base, guard=True)
    wait_agent_back(t, bench)
    bench.wait_no_guard(t, 30)
    stays_free(t, bench, 4)
    next_run(t, bench, repository, more=("--quiesce", "require"))


@tap.test
def test_agent_hangs_before(t):
    """An agent that does not answer is not asked to freeze, so that nothing can come late."""
    bench, repository = lab(t)
    content = bench.content()
    result = hang(t, bench, repository, 8, "--freeze-timeout", "4s", step="guard-armed").wait()
    t.ok(not bench.thawed(), "the agent is back already")
    result.expect(0).says("is not asked to freeze")
    t.equal(set(codes(result)) - {"deselected"}, {"agent-timeout"})
    t.equal(bench.guards(), [], "guards")
    repository.expect_point(t, content, "incremental", "crash")
    wait_agent_back(t, bench)
    stays_free(t, bench, 3)
    next_run(t, bench, repository)


@tap.test
def test_agent_hangs_before_under_require(t):
    bench, repository = lab(t)
    base = bench.guest.checkpoints()
    result = hang(t, bench, repository, 8, "--freeze-timeout", "4s", "--quiesce", "require",
                  step="guard-armed").wait().expect(22)
    t.ok("agent-timeout" in codes(result), "reasons %s" % codes(result))
    repository.assert_no_point(t, base)
    wait_agent_back(t, bench)
    stays_free(t, bench, 3)
    next_run(t, bench, repository, more=("--quiesce", "require"))


@tap.test
def test_agent_hangs_all_the_time(t):
    """Also when the guest's facts are asked for, which takes 5 s at most."""
    bench, repository = lab(t)
    content = bench.content()
    bench.guest.hang_agent(20)
    result = repository.run("--freeze-timeout", "4s").expect(0)
    t.equal(set(codes(result)) - {"deselected"}, {"agent-timeout", "guest-facts-missing"})
    t.ok(result.seconds < 5 + 2 + 5, "it took %.1f s" % result.seconds)
    repository.expect_point(t, content, "incremental", "crash")
    wait_agent_back(t, bench)
    bench.wait_no_guard(t, 30)
    stays_free(t, bench, 2)
    next_run(t, bench, repository)


@tap.test
def test_killed_in_a_hanging_freeze(t):
    bench, repository = lab(t)
    running = hang(t, bench, repository, 8, "--freeze-timeout", "10s")
    # So that the freeze has been asked for; when exactly the program dies does not matter.
    time.sleep(1)
    running.kill9()
    running.wait().expect(-signal.SIGKILL)
    wait_agent_back(t, bench)
    bench.wait_no_guard(t, 30)
    stays_free(t, bench, 4)
    next_run(t, bench, repository, "leftovers-removed")


def without_agent(t, **options):
    bench, _ = lab(t)
    guest = Guest(bench.host, name="mute", disks=[Disk(8 * MIB), Disk(8 * MIB)], mount=("vdb",),
                  start=True, **options)
    t.defer(guest.undefine)
    t.defer(guest.destroy)
    tool = bench.repository(t.name + "-mute", t).tool
    words = ("backup", "mute", "--scratch-dir", bench.scratch, "--json")
    refused = tool.run(*words, "--quiesce", "require").expect(22)
    t.equal(refused.json_lines[0]["error"]["code"], "quiesce")
    t.equal(tool.json("list")["points"], [])
    t.equal(guest.checkpoints(), [])
    result = tool.ok(*words)
    t.ok("agent-absent" in codes(result), "reasons %s" % codes(result))
    t.equal(result.json_lines[0]["point"]["consistency"], "crash")
    tool.run(*words, "--strict").expect(3)
    guest.assert_healthy(checkpoints=1, agent=False)
    return result


@tap.test
def test_no_agent(t):
    without_agent(t, agent=False).says("qemu-guest-agent")


@tap.test
def test_no_agent_channel(t):
    without_agent(t, channel=False).says("org.qemu.guest_agent.0")


if __name__ == "__main__":
    tap.main()
