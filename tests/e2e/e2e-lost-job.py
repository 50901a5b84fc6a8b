#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""libvirt's daemon dies in the middle of beginning a job: QEMU has one, or libvirt takes it to have one."""

import os
import signal

from common import Bench, libvirt, process, tap
from dead_runs import die, doctor, forget_record, new_checkpoint, no_trace, repaired, told

LOST = "the record of a backup job that does not exist"


def lab(t):
    bench = t.once("bench", Bench)
    return bench, bench.fresh(t, t.name)


# The record is left, of no job.

def begin_without_end(t, bench, repository):
    """The daemon dies while it waits for QEMU's first answer in the begin. Returns the run's Result."""
    pid = bench.guest.qemu_pid
    running, go = repository.pause_at(t, "frozen")
    os.kill(pid, signal.SIGSTOP)
    t.defer(process.kill, pid, signal.SIGCONT)
    go()
    dom = bench.guest.dom
    t.eventually(lambda: dom.controlInfo()[0] != libvirt.VIR_DOMAIN_CONTROL_OK, 20,
                 "the job begins", 0.01)
    bench.host.kill9()
    os.kill(pid, signal.SIGCONT)
    bench.host.start()
    return running.wait()


def lost(t, bench, repository):
    """A run whose begin was lost; what is said of it, then and later."""
    base = bench.guest.checkpoints()
    begin_without_end(t, bench, repository).expect(20).says(LOST, "older points are intact")
    repository.assert_no_point(t, base)
    t.eventually(bench.thawed, 20, "the guest is thawed")
    t.equal(bench.leftovers(), [])
    repository.run().expect(11).says("web01", LOST, "vmbackup-recovery(7)", "Nothing was changed")
    told_by_doctor = repository.tool.run("doctor", "web01").expect(1).out
    t.contains(told_by_doctor, LOST)


@tap.test
def test_record_without_job(t):
    bench, repository = lab(t)
    lost(t, bench, repository)
    bench.host.restart()
    repository.run().expect(11).says(LOST)
    bench.host.forget_backup_job("web01")
    bench.guest.assert_healthy()
    bench.write(t.random)
    repository.plain(t)


@tap.test
def test_record_without_job_and_domain_off(t):
    """The other way out; a start alone would be refused."""
    bench, repository = lab(t)
    lost(t, bench, repository)
    bench.guest.destroy()
    bench.host.restart()
    bench.guest.start()
    bench.guest.wait_agent()
    bench.write(t.random)
    repository.plain(t)


# QEMU has the job, and libvirt does not know.

def forgotten(t, bench, repository):
    """A run that died, whose job is QEMU's alone, with its server and its bitmaps."""
    base = bench.guest.checkpoints()
    die(t, bench, repository, "job-started")
    name = new_checkpoint(bench, base)
    forget_record(bench, name)
    bench.host.forget_backup_job("web01")
    t.eventually(lambda: not bench.job_active(), 10, "libvirt has forgotten the job")
    t.equal(sorted(job["status"] for job in bench.guest.qmp("query-jobs")), ["running"] * 2)
    t.equal(len(bench.guest.qmp("query-block-exports")), 2)
    return base, name


def nothing_in_qemu(t, bench, name):
    t.equal(bench.guest.qmp("query-jobs"), [])
    t.equal(bench.guest.qmp("query-block-exports"), [])
    nodes = [node["file"] for node in bench.guest.qmp("query-named-block-nodes", flat=True)]
    t.equal([file for file in nodes if bench.scratch in file], [], "scratch images in QEMU")
    no_trace(t, bench, name)


@tap.test
def test_job_without_record(t):
    bench, repository = lab(t)
    base, name = forgotten(t, bench, repository)
    bench.write(t.random, in_job=True)
    lines = repaired(t, bench, repository, base)
    t.ok(told(lines, "a backup that died", "its job ended", grade="ok"), lines)
    nothing_in_qemu(t, bench, name)
    bench.write(t.random)
    repository.plain(t)


@tap.test
def test_job_without_record_by_backup(t):
    bench, repository = lab(t)
    _, name = forgotten(t, bench, repository)
    repository.plain(t, reasons=("leftovers-removed",))
    nothing_in_qemu(t, bench, name)


@tap.test
def test_job_without_record_by_guard(t):
    """The program dies with the daemon: its guard does not leave the guest with a growing scratch image."""
    bench, repository = lab(t)
    base = bench.guest.checkpoints()
    running, _ = repository.pause_at(t, "job-started")
    bench.host.forget_backup_job("web01")
    t.equal(len(bench.guest.qmp("query-jobs")), 2)
    running.kill9()
    t.eventually(lambda: not bench.guest.qmp("query-jobs"), 60, "the job is ended")
    bench.wait_no_guard(t)
    bench.wait_released(t)
    t.contains(bench.guard_log_text(), "ended a backup job that libvirt had lost")
    repaired(t, bench, repository, base)
    nothing_in_qemu(t, bench, "none")
    repository.plain(t)


@tap.test
def test_killed_in_between(t):
    bench = t.once("bench", Bench)
    for step in ("stray-job-cancelled", "stray-job-ended"):
        for action, status in (("kill", -signal.SIGKILL), ("fail", 1)):
            t.diag("%s=%s" % (step, action))
            repository = bench.fresh(t, "%s-%s" % (step, action))
            base, name = forgotten(t, bench, repository)
            repository.tool.run("doctor", "--repair", "web01",
                                fail_at="%s=%s" % (step, action)).expect(status)
            repaired(t, bench, repository, base)
            nothing_in_qemu(t, bench, name)
            repository.plain(t)


@tap.test
def test_only_prepared(t):
    """An image that QEMU has open, and no job yet: libvirt would use the same names again."""
    bench, repository = lab(t)
    base = bench.guest.checkpoints()
    die(t, bench, repository, "guard-armed")
    (scratch,) = [path for path in bench.leftovers() if path.startswith(bench.scratch)]
    for target in bench.TARGETS:
        bench.guest.qmp("blockdev-add", driver="file", node_name="spare-" + target,
                        filename=os.path.join(scratch, target + ".qcow2"), read_only=True)
    lines = repaired(t, bench, repository, base)
    t.ok(told(lines, "a backup that died", "its job ended", grade="ok"), lines)
    nothing_in_qemu(t, bench, "none")
    repository.plain(t)


# libvirt cannot read its own record, and the domain is gone for it.

@tap.test
def test_domain_lost(t):
    """Never shut off by our word, nor left frozen, nor are its scratch images removed."""
    bench, repository = lab(t)
    base, pid = bench.guest.checkpoints(), bench.guest.qemu_pid
    die(t, bench, repository, "frozen")
    running_job(t, bench)
    bench.host.edit_state("web01", r"s/ state='running' type='file'/ type='file'/")
    t.ok(not bench.guest.is_active(), "libvirt has found the domain")
    t.ok(process.alive(pid), "QEMU has ended")
    left = bench.leftovers()
    repository.run().expect(1).says("web01", "libvirt says that it is shut off", "Do not start it",
                                    "vmbackup-recovery(7)")
    lines = doctor(t, repository, "--repair", status=1)
    t.ok(told(lines, "Do not start it", grade="problem"), lines)
    t.equal(bench.leftovers(), left)
    bench.host.forget_backup_job("web01")
    t.eventually(bench.guest.is_active, 20, "libvirt finds the domain")
    t.equal(bench.guest.qemu_pid, pid)
    lines = repaired(t, bench, repository, base)
    t.ok(told(lines, "still frozen by a backup that died; it is thawed", grade="ok"), lines)
    nothing_in_qemu(t, bench, "none")
    bench.guest.assert_healthy()
    repository.plain(t)


def running_job(t, bench):
    """One on the scratch images of the run that has died, without a checkpoint."""
    (scratch,) = [path for path in bench.leftovers() if path.startswith(bench.scratch)]
    (run_dir,) = [path for path in bench.leftovers() if path.startswith(bench.run_dir)]
    disks = "".join("<disk name='%s' type='file'><driver type='qcow2'/><scratch file='%s'/></disk>" % (
        target, os.path.join(scratch, target + ".qcow2")) for target in bench.TARGETS)
    bench.guest.dom.backupBegin(
        "<domainbackup mode='pull'><server transport='unix' socket='%s'/><disks>%s"
        "<disk name='vdc' backup='no'/></disks></domainbackup>" % (
            os.path.join(run_dir, "nbd.sock"), disks), None,
        libvirt.VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL)


if __name__ == "__main__":
    tap.main()
