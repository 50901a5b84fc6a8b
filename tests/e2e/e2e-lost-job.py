#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""libvirt's daemon dies in the middle of beginning a job: QEMU has one, or libvirt takes it to have one."""

import glob
import json
import os
import shutil
import signal
import socket
import threading
import time

from common import Bench, libvirt, process, tap
from vmbtest import sealed
from vmbtest.libvirtd import PrivateLibvirt
from dead_runs import die, doctor, forget_record, new_checkpoint, no_trace, repaired, told

LOST = "the record of a backup job that does not exist"


def lab(t):
    bench = t.once("bench", Bench)
    return bench, bench.fresh(t, t.name)


@tap.test
def test_manual(t):
    """What mends libvirt in these tests is what the manual says."""
    page = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../man/vmbackup-recovery.7.pod")
    with open(page, encoding="utf-8") as file:
        text = file.read()
    for line in PrivateLibvirt.WITHOUT_BACKUP_JOB:
        t.contains(text, line)


# The record is left, of no job.

def kill_in_begin(t, bench, go):
    pid, dom = bench.guest.qemu_pid, bench.guest.dom
    os.kill(pid, signal.SIGSTOP)
    t.defer(process.kill, pid, signal.SIGCONT)
    go()
    t.eventually(lambda: dom.controlInfo()[0] != libvirt.VIR_DOMAIN_CONTROL_OK, 20,
                 "the job begins", 0.01)
    bench.host.kill9()
    os.kill(pid, signal.SIGCONT)


def begin_without_end(t, bench, repository):
    """The daemon dies while it waits for QEMU's first answer in the begin. Returns the run's Result."""
    running, go = repository.pause_at(t, "frozen")
    kill_in_begin(t, bench, go)
    bench.host.start()
    return running.wait()


def lost(t, bench, repository):
    """A run whose begin was lost; what is said of it, then and later."""
    base = bench.guest.checkpoints()
    result = begin_without_end(t, bench, repository).expect(20)
    result.says(LOST, "older points are intact", "vmbackup-recovery(7)")
    t.contains(result.json_lines[0]["error"]["message"], LOST)
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
    bench.host.forget_backup_job("web01")
    bench.guest.assert_healthy()
    bench.write(t.random)
    repository.plain(t)


@tap.test
def test_record_without_job_and_domain_off(t):
    """The other way out; a start alone would be refused."""
    bench, repository = lab(t)
    begin_without_end(t, bench, repository).expect(20).says(LOST)
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


def nothing_in_qemu(t, bench, name=None):
    """Nor a bitmap of this name."""
    t.equal(bench.guest.qmp("query-jobs"), [])
    t.equal(bench.guest.qmp("query-block-exports"), [])
    nodes = [node["file"] for node in bench.guest.qmp("query-named-block-nodes", flat=True)]
    t.equal([file for file in nodes if bench.scratch in file], [], "scratch images in QEMU")
    if name is not None:
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
    name = new_checkpoint(bench, base)
    forget_record(bench, name)
    bench.host.forget_backup_job("web01")
    t.equal(len(bench.guest.qmp("query-jobs")), 2)
    running.kill9()
    t.eventually(lambda: not bench.guest.qmp("query-jobs"), 60, "the job is ended")
    bench.wait_no_guard(t)
    bench.wait_released(t)
    t.contains(bench.guard_log_text(), "ended a backup job that libvirt had lost")
    repaired(t, bench, repository, base)
    nothing_in_qemu(t, bench, name)
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
    nothing_in_qemu(t, bench)
    repository.plain(t)


@tap.test
def test_busy_qemu(t):
    """Somebody asks QEMU something just then, which it does not answer yet: that is waited for."""
    bench, repository = lab(t)
    base, name = forgotten(t, bench, repository)
    pid = bench.guest.qemu_pid
    os.kill(pid, signal.SIGSTOP)
    t.defer(process.kill, pid, signal.SIGCONT)
    other = threading.Thread(target=bench.guest.bitmaps, args=("vda",))
    other.start()
    running = repository.tool.start("doctor", "--repair", "web01")
    time.sleep(2)
    t.ok(running.running(), "it did not wait")
    os.kill(pid, signal.SIGCONT)
    other.join()
    running.wait().expect(0)
    nothing_in_qemu(t, bench, name)
    repository.assert_no_point(t, base)
    repository.plain(t)


@tap.test
def test_only_prepared_behind_a_link(t):
    """The kernel tells other names of the images than we do."""
    bench, repository = lab(t)
    link = bench.host.path("tmp", "link")
    os.symlink(bench.scratch, link)
    t.defer(os.unlink, link)
    running, _ = repository.pause_at(t, "guard-armed", "--scratch-dir", link)
    (scratch,) = os.listdir(bench.scratch)
    bench.guest.qmp("blockdev-add", driver="file", node_name="spare", read_only=True,
                    filename=os.path.join(link, scratch, "vda.qcow2"))
    running.kill9()
    running.wait()
    bench.wait_no_guard(t)
    repository.tool.run("doctor", "--repair", "web01").expect(0)
    nothing_in_qemu(t, bench)
    repository.plain(t)


@tap.test
def test_journal_names_something_else(t):
    """A directory that is none of a run's, although QEMU has it open, is nobody's business."""
    bench, repository = lab(t)
    die(t, bench, repository, "guard-armed")
    images = os.path.dirname(bench.guest.disk_path("vda"))
    sealed.change(os.path.join(repository.domain, "journal"),
                  lambda journal: journal.update(scratch_dir=images))
    result = repository.run().expect(0)
    result.says("none that we make")
    bench.guest.assert_healthy()
    for directory in bench.leftovers():
        shutil.rmtree(directory)


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
    looked = repository.tool.run("doctor", "web01").expect(1).out
    t.contains(looked, "Do not start it")
    t.ok("it is shut off; a backup reads" not in looked, looked)
    bench.host.forget_backup_job("web01")
    t.eventually(bench.guest.is_active, 20, "libvirt finds the domain")
    t.equal(bench.guest.qemu_pid, pid)
    lines = repaired(t, bench, repository, base)
    t.ok(told(lines, "still frozen by a backup that died; it is thawed", grade="ok"), lines)
    nothing_in_qemu(t, bench)
    bench.guest.assert_healthy()
    repository.plain(t)


@tap.test
def test_transient_domain_lost(t):
    """For libvirt it has never been there; what is left of its run stays all the same."""
    bench = Bench(t, transient=True)
    repository = bench.fresh(t, t.name)
    base, pid = bench.guest.checkpoints(), bench.guest.qemu_pid
    die(t, bench, repository, "frozen")
    running_job(t, bench)
    bench.host.edit_state("web01", r"s/ state='running' type='file'/ type='file'/")
    t.equal(bench.host.conn.listAllDomains(0), [], "libvirt has found the domain")
    left = bench.leftovers()
    lines = doctor(t, repository, "--repair", status=1, name=bench.guest.uuid)
    t.ok(told(lines, "a QEMU has the scratch images", grade="problem"), lines)
    t.equal(bench.leftovers(), left)
    t.ok(process.alive(pid), "QEMU has ended")
    bench.host.forget_backup_job("web01")
    t.eventually(bench.guest.is_active, 20, "libvirt finds the domain")
    lines = repaired(t, bench, repository, base)
    t.ok(told(lines, "still frozen by a backup that died; it is thawed", grade="ok"), lines)
    nothing_in_qemu(t, bench)
    repository.plain(t)


def qmp_without_libvirt(bench, command, **arguments):
    """On QEMU's own socket, while no daemon is there."""
    (path,) = glob.glob(bench.host.outside("/var/lib/libvirt/qemu/domain-*/monitor.sock"))
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        with connection.makefile("rw") as lines:
            lines.readline()
            for request in ({"execute": "qmp_capabilities"},
                            {"execute": command, "arguments": arguments}):
                lines.write(json.dumps(request) + "\n")
                lines.flush()
                answer = json.loads(lines.readline())
                while "event" in answer:
                    answer = json.loads(lines.readline())
    return answer["return"]


# As it is saved in the middle of a begin, by a daemon that cannot read it then.
HALF = ("<backups>", "<domainbackup mode='pull'>", "<server transport='unix' socket='/nowhere'/>",
        "<disks>", "<disk name='vda' backup='yes' type='file'>", "<scratch file='/nowhere'/>",
        "</disk>", "</disks>", "</domainbackup>", "</backups>", "<devices>")


def lose_domain(t, bench, repository):
    """A run that lives while libvirt loses its domain. Returns its Result."""
    pid = bench.guest.qemu_pid
    running, go = repository.pause_at(t, "frozen")
    (scratch,) = [path for path in bench.leftovers() if path.startswith(bench.scratch)]
    kill_in_begin(t, bench, go)
    qmp_without_libvirt(bench, "blockdev-add", **{
        "driver": "qcow2", "node-name": "half", "backing": None, "file": {
            "driver": "file", "filename": os.path.join(scratch, "vda.qcow2")}})
    bench.host.edit_state("web01", "0,/<devices>/s##%s#" % r"\n".join(HALF))
    result = running.wait()
    t.ok(process.alive(pid), "QEMU has ended")
    return result


def lost_alive(t, bench):
    repository = bench.fresh(t, t.name)
    base, pid = bench.guest.checkpoints(), bench.guest.qemu_pid
    result = lose_domain(t, bench, repository).expect((20, 21))
    result.says("web01", "takes the domain for shut off, which it is not", "Do not start the domain",
                "vmbackup-recovery(7)")
    t.equal(len(bench.leftovers()), 2, "what QEMU has open was removed")
    t.ok("journal" in os.listdir(repository.domain), "the journal has gone")
    bench.host.forget_backup_job("web01")
    t.eventually(bench.guest.is_active, 20, "libvirt finds the domain")
    bench.wait_no_guard(t, 90)
    t.equal(bench.guest.qemu_pid, pid)
    repaired(t, bench, repository, base)
    nothing_in_qemu(t, bench)
    bench.guest.assert_healthy()
    repository.plain(t)


@tap.test
def test_domain_lost_by_a_run_that_lives(t):
    lost_alive(t, t.once("bench", Bench))


@tap.test
def test_transient_domain_lost_by_a_run_that_lives(t):
    lost_alive(t, Bench(t, transient=True))


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
