#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Freezing and pausing a real guest, and the guard: killed programs, killed guards, hung agents."""

import os
import signal
import sys
import time

from freezing import hooks
from virt_driver import DOMAIN, LOCKED, QUIESCE, Driver, Lab, guard_is_gone, lab, process, tap
from vmbtest.guest import Guest, libvirt


def quiesced(t, setting, mode="auto", budget=10000, fail_at=None, domain="web01", job=False):
    """A driver with guard and quiesce object, and with a job if asked for. Returns (driver, guard's pid,
    checkpoint)."""
    driver = Driver(t, setting.host, domain, fail_at=fail_at)
    words, socket, checkpoint = setting.spec(*(["vda", "vdb"] if job else []))
    if job:
        driver.do(*words)
    driver.do("guard", socket, budget, int(mode in ("auto", "require")), int(mode == "pause"))
    driver.do("quiesce", mode, budget)
    return driver, driver.guard_pid(), checkpoint


def finish(t, driver, guard):
    """Frees everything in order; the guard must end."""
    driver.do("quiesce-free")
    driver.do("guard-free")
    guard_is_gone(t, driver, guard)
    t.equal(process.descendants(driver.pid), [], "children are left")
    driver.close()


def thawed(guest):
    """Asks the agent, which may be busy."""
    try:
        return guest.freeze_status() == "thawed"
    except libvirt.libvirtError:
        return False


def wait_thawed(t, guest, timeout, since=None):
    """Waits, without asking too often, and says how long it took."""
    since = since or time.monotonic()
    t.eventually(lambda: thawed(guest), timeout, "the guest is thawed", 0.1)
    t.diag("thawed after %.2f s" % (time.monotonic() - since))
    t.ok(guest.is_writing(10), "the guest does not write")


@tap.test
def test_freeze_and_thaw(t):
    setting = lab(t)
    driver, guard, _ = quiesced(t, setting)
    driver.do("enter")
    t.equal(setting.guest.freeze_status(), "frozen")
    t.ok(not setting.guest.is_writing(1), "the guest writes")
    answer = driver.do("leave")
    t.equal((answer["result"], answer["filesystems"], answer["reasons"]), ("filesystems", 2, []))
    wait_thawed(t, setting.guest, 15)
    t.equal(driver.do("guard-state")["fired"], False)
    finish(t, driver, guard)


@tap.test
def test_freeze_begin_thaw(t):
    setting = lab(t)
    driver, guard, checkpoint = quiesced(t, setting, "require", job=True)
    answer = driver.do("enter-begin-leave")
    t.equal((answer["result"], answer["filesystems"], answer["reasons"]), ("filesystems", 2, []))
    t.diag("from asking for the freeze until thawed: %.1f ms" % (answer["ns"] / 1e6))
    t.equal(setting.guest.checkpoints(), [checkpoint])
    driver.do("job-free")
    finish(t, driver, guard)
    setting.guest.assert_healthy(checkpoints=[])


@tap.test
def test_killed_while_frozen(t):
    setting = lab(t)
    driver, guard, _ = quiesced(t, setting)
    driver.do("enter")
    killed = time.monotonic()
    driver.kill9()
    wait_thawed(t, setting.guest, 10, killed)
    t.contains(driver.guard_log_text(), "thawed 2 filesystems")
    # A begin could still be under way in the daemon, so the guard stays for that.
    guard_is_gone(t, driver, guard)
    setting.guest.assert_healthy(checkpoints=[])


def killed_at(t, point):
    setting = lab(t)
    driver, guard, checkpoint = quiesced(t, setting, fail_at=point + "=kill", job=True)
    begun = time.monotonic()
    driver.dies("enter-begin-leave")
    wait_thawed(t, setting.guest, 10, begun)
    guard_is_gone(t, driver, guard)
    after_begin = point in ("job-started", "thawed")
    setting.guest.assert_healthy(checkpoints=[checkpoint] if after_begin else [])
    if after_begin:
        t.contains(driver.guard_log_text(), "ended the backup job")
        Driver(t, setting.host).do("delete", checkpoint)


for name in ("freeze-asked", "frozen", "job-started", "thawed"):
    tap.add_test("killed_at_" + name.replace("-", "_"), lambda t, point=name: killed_at(t, point))


@tap.test
def test_killed_while_job_runs(t):
    setting = lab(t)
    driver, guard, checkpoint = quiesced(t, setting, job=True)
    driver.do("enter-begin-leave")
    killed = time.monotonic()
    driver.kill9()
    guard_is_gone(t, driver, guard)
    t.diag("the guard was done after %.2f s" % (time.monotonic() - killed))
    setting.guest.assert_healthy(checkpoints=[checkpoint])
    Driver(t, setting.host).do("delete", checkpoint)


@tap.test
def test_signals_do_not_stop_the_guard(t):
    setting = lab(t)
    driver, guard, _ = quiesced(t, setting)
    driver.do("enter")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(guard, number)
    t.ok(os.getsid(guard) != os.getsid(driver.pid), "the guard has no session of its own")
    killed = time.monotonic()
    os.killpg(driver.pid, signal.SIGTERM)
    wait_thawed(t, setting.guest, 10, killed)
    guard_is_gone(t, driver, guard)


@tap.test
def test_program_stopped_while_frozen(t):
    setting = lab(t)
    driver, guard, _ = quiesced(t, setting, budget=3000)
    begun = time.monotonic()
    driver.do("enter")
    os.kill(driver.pid, signal.SIGSTOP)
    t.ok(not setting.guest.is_writing(1), "the guest writes")
    wait_thawed(t, setting.guest, 8, begun)
    os.kill(driver.pid, signal.SIGCONT)
    answer = driver.do("leave")
    t.equal((answer["result"], answer["reasons"]), ("not", ["freeze-budget"]))
    finish(t, driver, guard)


@tap.test
def test_budget_over_under_require(t):
    setting = lab(t)
    driver, guard, _ = quiesced(t, setting, "require", budget=2000, fail_at="frozen=delay:4000")
    driver.do("enter")
    t.equal(setting.guest.freeze_status(), "thawed")
    t.equal(driver.fails(QUIESCE, "leave")["reasons"], ["freeze-budget"])
    finish(t, driver, guard)


@tap.test
def test_begin_blocks(t):
    """A foreign job makes begin wait for 30 s: the guest is thawed within the budget all the same."""
    setting = lab(t)
    foreign = Driver(t, setting.host)
    foreign.do(*setting.spec("vda", "vdb")[0])
    foreign.do("begin")
    driver, guard, _ = quiesced(t, setting, budget=3000, job=True)
    begun = time.monotonic()
    driver.send("enter-begin-leave")
    time.sleep(1)
    t.equal(setting.guest.freeze_status(), "frozen")
    wait_thawed(t, setting.guest, 10, begun)
    answer = driver.answer()
    t.equal((answer["ok"], answer["code"], answer["result"]), (False, LOCKED, "not"))
    t.contains(answer["reasons"], "freeze-budget")
    driver.do("job-free")
    finish(t, driver, guard)
    t.equal(foreign.do("scratch-used")["active"], True)
    foreign.do("end")
    foreign.do("job-free")


@tap.test
def test_guard_killed_while_frozen(t):
    setting = lab(t)
    driver, guard, _ = quiesced(t, setting)
    driver.do("enter")
    killed = time.monotonic()
    process.kill(guard)
    wait_thawed(t, setting.guest, 10, killed)
    t.equal(driver.do("guard-state")["alive"], False)
    answer = driver.do("leave")
    t.equal((answer["result"], answer["reasons"]), ("not", ["thawed-by-itself"]))
    finish(t, driver, guard)


@tap.test
def test_guard_killed_before_freeze(t):
    setting = lab(t)
    driver, guard, _ = quiesced(t, setting)
    process.kill(guard)
    t.equal(process.wait_gone([guard], 5), [])
    t.contains(driver.ask("enter")["error"], "guard")
    t.ok(thawed(setting.guest), "the guest is frozen")
    finish(t, driver, guard)


@tap.test
def test_agent_hangs(t):
    """The freeze times out and happens late: the guard consumes it, whatever the program does."""
    setting = lab(t)
    driver, guard, checkpoint = quiesced(t, setting, budget=4000, job=True,
                                         fail_at="freeze-asked=delay:2500")
    # Well when it is asked how it is, and hanging when it is asked to freeze.
    setting.guest.exec("hang-agent 1.5 11")
    begun = time.monotonic()
    answer = driver.do("enter-begin-leave")
    t.equal(answer["result"], "not")
    t.equal(answer["reasons"], ["thaw-delayed", "agent-timeout"])
    t.ok(time.monotonic() - begun < 11, "the hung agent held the backup up")
    t.equal(setting.guest.checkpoints(), [checkpoint])
    driver.do("end")
    driver.do("job-free")
    driver.do("quiesce-free")
    driver.do("guard-free")
    driver.close()
    t.eventually(lambda: "VMB-AGENT continued" in setting.guest.console(), 20, "agent continued")
    guard_is_gone(t, driver, guard)
    wait_thawed(t, setting.guest, 15)
    t.contains(driver.guard_log_text(), "thawed")
    setting.guest.assert_healthy(checkpoints=[])


@tap.test
def test_agent_hangs_under_require(t):
    setting = lab(t)
    driver, guard, _ = quiesced(t, setting, "require", budget=4000)
    setting.guest.hang_agent(8)
    driver.fails(QUIESCE, "enter")
    driver.do("quiesce-free")
    driver.kill9()
    guard_is_gone(t, driver, guard)
    wait_thawed(t, setting.guest, 15)
    setting.guest.assert_healthy(checkpoints=[])


@tap.test
def test_agent_hangs_before(t):
    """It is not asked to freeze: it might do so at any later time."""
    setting = lab(t)
    driver, guard, _ = quiesced(t, setting, budget=4000)
    setting.guest.hang_agent(4)
    t.equal(driver.do("enter")["reasons"], ["agent-timeout"])
    t.equal(driver.do("leave")["result"], "not")
    finish(t, driver, guard)
    t.eventually(setting.guest._agent_answers, 15, "the agent answers again")
    setting.guest.assert_healthy(checkpoints=[])


@tap.test
def test_killed_in_hanging_freeze(t):
    setting = lab(t)
    driver, guard, _ = quiesced(t, setting, budget=20000, fail_at="freeze-asked=delay:1500")
    setting.guest.exec("hang-agent 0.5 6")
    driver.send("enter")
    time.sleep(3)
    driver.kill9()
    guard_is_gone(t, driver, guard)
    t.contains(setting.guest.console(), "VMB-AGENT continued")
    wait_thawed(t, setting.guest, 15)
    setting.guest.assert_healthy(checkpoints=[])


@tap.test
def test_agent_slow_but_in_time(t):
    setting = lab(t)
    driver, guard, _ = quiesced(t, setting, budget=10000)
    setting.guest.hang_agent(2)
    driver.do("enter")
    answer = driver.do("leave")
    t.equal((answer["result"], answer["reasons"]), ("filesystems", []))
    finish(t, driver, guard)


@tap.test
def test_agent_hangs_in_thaw(t):
    setting = lab(t)
    driver, guard, _ = quiesced(t, setting, budget=4000)
    setting.guest.exec("hang-agent 2 8")
    driver.do("enter")
    t.eventually(lambda: setting.guest.console().count("VMB-AGENT stopped") >
                 setting.guest.console().count("VMB-AGENT continued"), 20, "agent stopped")
    answer = driver.do("leave")
    t.equal((answer["result"], answer["reasons"]), ("not", ["thaw-delayed"]))
    driver.do("quiesce-free")
    driver.do("guard-free")
    guard_is_gone(t, driver, guard)
    wait_thawed(t, setting.guest, 15)


@tap.test
def test_one_filesystem_thaws_by_itself(t):
    """One of two is no longer frozen when the job has begun: the freeze has not held."""
    setting = lab(t)
    hooks(t, setting.guest, freeze="(while ! fsfreeze --unfreeze /mnt/vdb; do usleep 100000; done) "
          "</dev/null >/dev/null 2>&1 &")
    driver, guard, _ = quiesced(t, setting, fail_at="frozen=delay:2500")
    driver.do("enter")
    answer = driver.do("leave")
    t.equal((answer["result"], answer["reasons"]), ("not", ["thawed-by-itself"]))
    finish(t, driver, guard)
    setting.guest.assert_healthy(checkpoints=[])


@tap.test
def test_agent_absent(t):
    setting = lab(t)
    for name, channel, advice in (("noagent", True, "qemu-guest-agent"), ("nochannel", False, "channel")):
        guest = Guest(setting.host, name=name, disks=[16 << 20], mount=(), agent=False, channel=channel,
                      start=True)
        driver, guard, _ = quiesced(t, setting, domain=name)
        answer = driver.do("enter")
        t.equal(answer["reasons"], ["agent-absent"])
        t.equal(driver.do("leave")["result"], "not")
        finish(t, driver, guard)
        driver, guard, _ = quiesced(t, setting, "require", domain=name)
        t.contains(driver.fails(QUIESCE, "enter")["error"], advice)
        finish(t, driver, guard)
        guest.destroy()
        driver, guard, _ = quiesced(t, setting, domain=name)
        driver.fails(DOMAIN, "enter")
        finish(t, driver, guard)


@tap.test
def test_none(t):
    setting = lab(t)
    driver, guard, _ = quiesced(t, setting, "none")
    t.equal(driver.do("enter")["reasons"], ["quiesce-none"])
    t.ok(setting.guest.is_writing(10), "the guest does not write")
    t.equal(driver.do("leave")["result"], "not")
    finish(t, driver, guard)


@tap.test
def test_pause(t):
    setting = lab(t)
    driver, guard, _ = quiesced(t, setting, "pause", job=True)
    driver.do("enter")
    t.ok(not setting.guest.is_running(), "the domain runs")
    answer = driver.do("leave")
    t.equal((answer["result"], answer["reasons"]), ("paused", []))
    t.ok(setting.guest.is_running(), "the domain is paused")
    finish(t, driver, guard)
    driver, guard, _ = quiesced(t, setting, "pause", job=True)
    t.equal(driver.do("enter-begin-leave")["result"], "paused")
    driver.do("job-free")
    finish(t, driver, guard)
    setting.guest.assert_healthy(checkpoints=[])


@tap.test
def test_killed_while_paused(t):
    setting = lab(t)
    driver, guard, _ = quiesced(t, setting, "pause")
    driver.do("enter")
    killed = time.monotonic()
    driver.kill9()
    t.eventually(setting.guest.is_running, 5, "the domain runs again", 0.02)
    t.diag("resumed after %.2f s" % (time.monotonic() - killed))
    guard_is_gone(t, driver, guard)


@tap.test
def test_pause_budget_over(t):
    setting = lab(t)
    driver, guard, _ = quiesced(t, setting, "pause", budget=2000, fail_at="frozen=delay:4000")
    driver.do("enter")
    t.ok(setting.guest.is_running(), "the domain is paused")
    answer = driver.do("leave")
    t.equal((answer["result"], answer["reasons"]), ("not", ["freeze-budget"]))
    finish(t, driver, guard)


@tap.test
def test_paused_before(t):
    setting = lab(t)
    setting.guest.suspend()
    t.defer(lambda: setting.guest.is_running() or setting.guest.resume())
    for mode, result in (("auto", "not"), ("pause", "paused")):
        driver, guard, _ = quiesced(t, setting, mode)
        t.equal(driver.do("enter")["reasons"], ["domain-paused"])
        t.equal(driver.do("leave")["result"], result)
        finish(t, driver, guard)
        t.ok(not setting.guest.is_running(), "the domain was resumed")
    driver, guard, _ = quiesced(t, setting, "require")
    driver.fails(QUIESCE, "enter")
    finish(t, driver, guard)


@tap.test
def test_daemon_restart_while_frozen(t):
    setting = lab(t)
    driver, guard, _ = quiesced(t, setting, budget=6000)
    driver.do("enter")
    setting.host.kill9()
    driver.kill9()
    time.sleep(1)
    setting.host.start()
    wait_thawed(t, setting.guest, 20)
    guard_is_gone(t, driver, guard)
    setting.guest.assert_healthy()


@tap.test
def test_daemon_restart_before_thaw(t):
    setting = lab(t)
    driver, guard, _ = quiesced(t, setting)
    driver.do("enter")
    setting.host.restart()
    answer = driver.do("leave")
    t.equal((answer["result"], answer["reasons"]), ("filesystems", []))
    wait_thawed(t, setting.guest, 15)
    finish(t, driver, guard)


@tap.test
def test_guest_ends_while_frozen(t):
    setting = Lab(t)
    driver, guard, _ = quiesced(t, setting)
    driver.do("enter")
    setting.guest.destroy()
    t.equal(driver.do("leave")["result"], "not")
    finish(t, driver, guard)
    setting.guest.start()
    setting.guest.wait_agent()
    driver, guard, _ = quiesced(t, setting)
    driver.do("enter")
    driver.kill9()
    setting.guest.destroy()
    guard_is_gone(t, driver, guard)


@tap.test
def test_thaw_leftover(t):
    setting = lab(t)
    driver = Driver(t, setting.host)
    t.equal(setting.guest.freeze(), 2)
    t.equal(driver.do("thaw-leftover", 5)["was_frozen"], True)
    t.equal(driver.do("thaw-leftover", 5)["was_frozen"], False)
    wait_thawed(t, setting.guest, 15)


@tap.test
def test_frozen_by_another(t):
    """What another program froze is not ours to thaw."""
    setting = lab(t)
    t.equal(setting.guest.freeze(), 2)
    t.defer(setting.guest.thaw)
    driver, guard, _ = quiesced(t, setting)
    answer = driver.do("enter")
    t.equal(answer["reasons"], ["freeze-failed"])
    t.equal(driver.do("leave")["result"], "not")
    t.equal(setting.guest.freeze_status(), "frozen")
    finish(t, driver, guard)


tap.main()
