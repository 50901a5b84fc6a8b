#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The consistency that a point says it has, by a look at its filesystem, after every odd end of a freeze."""

import re
import time

from common import Bench, Disk, Guest, MIB, codes, libvirt, tap
from freezing import (Mounted, PROMPT, agent_is_back, hooks, later, restart_agent, stays_free,
                      wait_free)

# Thaws the filesystem behind the agent's back as soon as it is frozen, as Windows does after 10 s.
THAWS_BY_ITSELF = """(while ! fsfreeze --unfreeze /mnt/vdc; do usleep 100000; done) </dev/null >/dev/null 2>&1 &"""


def lab(t):
    """The bench with a writing guest, and an empty repository for its mounted disk."""
    bench = t.once("bench", lambda suite: Bench(suite, writer=True))
    bench.wait_no_guard(t)
    if not bench.guest.is_active():
        bench.guest.start()
        bench.guest.wait_agent()
    for checkpoint in bench.guest.dom.listAllCheckpoints(0):
        try:
            checkpoint.delete()
        except libvirt.libvirtError:
            # Its bitmaps died with a QEMU.
            checkpoint.delete(libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)
    return bench, Mounted(t, bench)


def refused(t, bench, repository, reason, *more, **options):
    """Under require: status 22 with this reason, and nothing is left of it."""
    base = bench.guest.checkpoints()
    result = repository.run("--quiesce", "require", *more, **options).expect(22)
    t.equal(result.json_lines[0]["error"]["code"], "quiesce")
    t.ok(reason in codes(result), "reasons %s" % codes(result))
    repository.assert_no_point(t, base)
    bench.guest.assert_healthy()
    t.ok(bench.guest.is_writing(PROMPT), "the guest does not write")


@tap.test
def test_frozen(t):
    """And what the other ways to quiesce do not give."""
    bench, repository = lab(t)
    repository.expect(t, repository.run().expect(0), "filesystem")
    repository.expect(t, repository.run("--quiesce", "require").expect(0), "filesystem")
    facts = repository.expect(t, repository.run("--quiesce", "pause").expect(0), "paused")
    t.equal(facts["needs_recovery"], 1, "a pause freezes no filesystem")
    facts = repository.expect(t, repository.run("--quiesce", "none").expect(0), "crash",
                              "quiesce-none")
    t.equal(facts["needs_recovery"], 1, "nothing was frozen")
    t.ok(bench.guest.is_writing(PROMPT), "the guest does not write")


@tap.test
def test_agent_restarts_while_frozen(t):
    """Its successor knows that it is frozen, and thaws."""
    bench, repository = lab(t)
    restart_agent(t, bench.guest, 3)
    running, go = repository.pause_at(t, "frozen", "--freeze-timeout", "20s")
    t.eventually(lambda: "previous instance" in bench.guest.console(), 20, "it is back")
    t.eventually(lambda: agent_status(bench.guest) == "frozen", 10, "and libvirt knows it")
    t.ok(not bench.guest.is_writing(0.7), "the guest writes, so it is not held")
    go()
    repository.expect(t, running.wait().expect(0), "filesystem")
    stays_free(t, bench, 2)


def agent_status(guest):
    """What the agent says, if it can."""
    try:
        return guest.freeze_status()
    except libvirt.libvirtError:
        return None


def agent_dies_at(t, bench, repository, step, *more):
    """A run whose agent is killed at this step, in the freeze. Returns it, still waiting, and go()."""
    restart_agent(t, bench.guest, 3)
    running, go = repository.pause_at(t, step, *more)
    t.eventually(lambda: bench.guest.console().count("VMB-AGENT killed") > bench.guest.killed, 20,
                 "the agent is killed", 0.01)
    return running, go


@tap.test
def test_agent_is_gone_before_the_begin(t):
    """No job is begun that would keep libvirt from connecting to its successor."""
    bench, repository = lab(t)
    running, go = agent_dies_at(t, bench, repository, "frozen")
    t.eventually(lambda: agent_state(bench.guest) == "disconnected", 5, "libvirt knows it")
    since = time.monotonic()
    go()
    result = running.wait().expect(0)
    wait_free(t, bench, since, 10)
    repository.expect(t, result, "crash", "freeze-failed")
    agent_is_back(t, bench.guest)
    bench.guest.assert_healthy()
    base = bench.guest.checkpoints()
    running, go = agent_dies_at(t, bench, repository, "frozen", "--quiesce", "require")
    go()
    running.wait().expect(22)
    agent_is_back(t, bench.guest)
    repository.assert_no_point(t, base)


def agent_state(guest):
    """What libvirt believes: 'disconnected' or 'connected'."""
    return re.search(r"org.qemu.guest_agent.0' state='(\w+)'", guest.dom.XMLDesc(0)).group(1)


@tap.test
def test_agent_is_gone_at_the_thaw(t):
    """libvirt has lost it for good, so that only a restart of the daemon helps: the guard waits for that."""
    bench, repository = lab(t)
    base = bench.guest.checkpoints()
    running, go = agent_dies_at(t, bench, repository, "job-started")
    go()
    result = running.wait(90).expect(1)
    result.says("restart of its daemon")
    t.ok("thaw-delayed" in codes(result), "reasons %s" % codes(result))
    repository.assert_no_point(t, base, guard=True)
    t.ok(not bench.guest.is_writing(1), "the guest writes")
    since = time.monotonic()
    bench.host.restart()
    wait_free(t, bench, since, 15)
    bench.wait_no_guard(t)
    agent_is_back(t, bench.guest)
    bench.guest.assert_healthy()
    repository.expect(t, repository.run().expect(0), "filesystem")


@tap.test
def test_daemon_restarts_while_frozen(t):
    bench, repository = lab(t)
    for restart in (bench.host.restart, kill_and_start(bench.host)):
        running, go = repository.pause_at(t, "frozen")
        restart()
        go()
        repository.expect(t, running.wait().expect(0), "filesystem")
        t.ok(bench.guest.is_writing(PROMPT), "the guest does not write")
        bench.wait_no_guard(t)
        bench.guest.assert_healthy(checkpoints=[repository.newest_checkpoint()])


def kill_and_start(host):
    def restart():
        host.kill9()
        host.start()
    return restart


@tap.test
def test_daemon_is_away_for_longer_than_the_budget(t):
    """Nobody can thaw without a daemon; as soon as there is one again, the guard does, and the point says so."""
    bench, repository = lab(t)
    running, go = repository.pause_at(t, "frozen", "--freeze-timeout", "2s")
    bench.host.kill9()
    go()
    time.sleep(3)
    bench.host.start()
    began = time.monotonic()
    t.ok(bench.guest.is_writing(6), "the guest does not write")
    t.diag("writes %.1f s after the daemon's return" % (time.monotonic() - began))
    repository.expect(t, running.wait().expect(0), "crash", "freeze-budget")
    bench.wait_no_guard(t)
    bench.guest.assert_healthy()


@tap.test
def test_thaws_by_itself(t):
    bench, repository = lab(t)
    hooks(t, bench.guest, freeze=THAWS_BY_ITSELF)
    running, go = repository.pause_at(t, "frozen")
    t.ok(bench.guest.is_writing(8), "the guest does not write")
    go()
    facts = repository.expect(t, running.wait().expect(0), "crash", "thawed-by-itself")
    t.equal(facts["needs_recovery"], 1, "the guest was still frozen")
    refused(t, bench, repository, "thawed-by-itself", fail_at="frozen=delay:2500")
    bench.guest.assert_healthy()


@tap.test
def test_thawed_by_somebody_else(t):
    bench, repository = lab(t)
    running, go = repository.pause_at(t, "frozen")
    t.equal(bench.guest.thaw(), 1)
    t.ok(bench.guest.is_writing(PROMPT), "the guest does not write")
    go()
    repository.expect(t, running.wait().expect(0), "crash", "thawed-by-itself")
    bench.guest.assert_healthy()


@tap.test
def test_thaw_fails(t):
    """The agent reports an error, once or for ever, but is thawed, as Windows reports a freeze that ended early.
    Nobody is left behind to ask for ever, and in doubt the lower consistency is told."""
    bench, repository = lab(t)
    for hook in ("[ -e /run/once ] || { touch /run/once; exit 1; }", "exit 1"):
        hooks(t, bench.guest, thaw=hook)
        result = repository.run().expect(0)
        result.says("yet it is thawed")
        repository.expect(t, result, "crash", "thawed-by-itself")
        t.equal(bench.guards(), [], "guards")
        t.ok(bench.guest.is_writing(PROMPT), "the guest does not write")
    refused(t, bench, repository, "thawed-by-itself")


@tap.test
def test_freeze_fails(t):
    bench, repository = lab(t)
    hooks(t, bench.guest, freeze="exit 1")
    result = repository.run().expect(0)
    repository.expect(t, result, "crash", "freeze-failed")
    refused(t, bench, repository, "freeze-failed")
    repository.run("--strict").expect(3)


@tap.test
def test_freeze_comes_after_its_timeout(t):
    """It is carried out when nobody waits for it any more, and undone within the budget."""
    bench, repository = lab(t)
    hooks(t, bench.guest, freeze="sleep 4")
    result = repository.run("--freeze-timeout", "6s").expect(0)
    repository.expect(t, result, "crash", "agent-timeout")
    stays_free(t, bench, 3)
    t.equal(bench.guards(), [], "guards")
    refused(t, bench, repository, "agent-timeout", "--freeze-timeout", "6s")
    stays_free(t, bench, 3)


@tap.test
def test_freeze_is_empty(t):
    """No filesystem of this guest can be frozen."""
    bench, _ = lab(t)
    guest = Guest(bench.host, name="bare", disks=[Disk(8 * MIB)], mount=(), start=True)
    t.defer(guest.undefine)
    t.defer(guest.destroy)
    tool = bench.repository(t.name + "-bare", t).tool
    words = ("backup", "bare", "--scratch-dir", bench.scratch, "--json")
    result = tool.run(*words, "--quiesce", "require").expect(22)
    t.ok("freeze-empty" in codes(result), "reasons %s" % codes(result))
    t.equal((tool.json("list")["points"], guest.checkpoints()), ([], []))
    result = tool.ok(*words)
    t.ok("freeze-empty" in codes(result), "reasons %s" % codes(result))
    t.equal(result.json_lines[0]["point"]["consistency"], "crash")
    guest.assert_healthy(checkpoints=1)


@tap.test
def test_panic_while_frozen(t):
    """The guest boots anew meanwhile, so it is not frozen any more."""
    bench, repository = lab(t)
    later(bench.guest, 3, "echo c >/proc/sysrq-trigger")
    running, go = repository.pause_at(t, "frozen", "--freeze-timeout", "60s")
    t.eventually(lambda: "panic" in bench.guest.console(), 20, "the guest panics")
    t.eventually(lambda: bench.guest.console().count("VMB-READY") > 1, 50, "it is up again")
    t.eventually(lambda: agent_status(bench.guest) == "thawed", 20, "and its agent")
    go()
    repository.expect(t, running.wait().expect(0), "crash", "thawed-by-itself")
    t.eventually(bench.guest._agent_answers, 20, "the agent answers")
    bench.guest.assert_healthy()
    repository.expect(t, repository.run("--quiesce", "require").expect(0), "filesystem")


def ends_while_frozen(t, end):
    """QEMU is gone at the instant: no point, nothing left, and the guest comes up whole."""
    bench, repository = lab(t)
    repository.expect(t, repository.run().expect(0), "filesystem")
    if end is poweroff:
        later(bench.guest, 3, "poweroff -f")
    running, go = repository.pause_at(t, "frozen")
    end(bench.guest)
    go()
    running.wait().expect((1, 21)).says("web01", "shut down")
    t.equal(repository.new_points(), [])
    t.equal(repository.left(), [], "left in the repository")
    t.equal(bench.leftovers(), [], "left behind")
    bench.wait_no_guard(t)
    bench.guest.wait_off(60)
    bench.guest.start()
    bench.guest.wait_agent()
    repository.expect_next(t)


def destroy(guest):
    guest.destroy()


def kill_qemu(guest):
    guest.kill_qemu()


def poweroff(guest):
    guest.wait_off(30)


for how in (destroy, kill_qemu, poweroff):
    tap.add_test(how.__name__ + "_while_frozen", lambda t, how=how: ends_while_frozen(t, how))


if __name__ == "__main__":
    tap.main()
