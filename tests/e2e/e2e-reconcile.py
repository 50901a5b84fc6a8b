#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What dead runs leave: doctor tells it, its --repair and the next backup undo it, and no more."""

import json
import os
import shutil
import signal
import subprocess

from common import Bench, MIB, libvirt, process, tap
from dead_runs import die, doctor, forget_record, new_checkpoint, no_trace, repaired, told

REPAIRS = ("reconcile-job-ended", "reconcile-guest-released", "reconcile-directories-removed",
           "checkpoint-deleted", "reconcile-journal-written")


def lab(t, **options):
    bench = t.once("bench", Bench)
    return bench, bench.fresh(t, t.name, **options)


@tap.test
def test_dead_run(t):
    """Everything that a run can leave is told, and undone without a backup."""
    bench, repository = lab(t)
    base = bench.guest.checkpoints()
    die(t, bench, repository)
    t.ok(bench.guest.job_active(), "there is no job to be undone")
    t.equal(len(bench.guest.checkpoints()), 2)
    lines = doctor(t, repository, status=1)
    t.ok(told(lines, "a dead run's journal of", bench.scratch, bench.run_dir, grade="problem"),
         lines)
    t.ok(told(lines, "staging"), lines)
    t.ok(bench.guest.job_active(), "doctor alone has changed something")
    t.equal(len(bench.leftovers()), 2)
    lines = repaired(t, bench, repository, base)
    t.ok(told(lines, "a backup that died", "its job ended", grade="ok"), lines)
    t.equal(doctor(t, repository, "--repair"), [], "there is something to repair once more")
    repository.plain(t)


@tap.test
def test_each_step(t):
    """Dead at any step, with and without guard: repaired the same."""
    bench, repository = lab(t)
    base = bench.guest.checkpoints()
    for step in ("staging-created", "journal-written", "scratch-created", "frozen", "job-started",
                 "before-job-end", "job-ended", "staging-synced"):
        for guard in (True, False):
            t.diag("%s, guard %s" % (step, "killed" if guard else "alive"))
            die(t, bench, repository, step, guard)
            doctor(t, repository, status=1 if step != "staging-created" else 0)
            repaired(t, bench, repository, base)
            t.ok(bench.thawed(), "the guest is frozen")
    repository.plain(t)


@tap.test
def test_killed_repair(t):
    """The repair dies at each of its steps, and so does the backup; the next repair succeeds."""
    bench, repository = lab(t)
    base = bench.guest.checkpoints()
    for step in REPAIRS:
        for verb, action in (("doctor", "kill"), ("doctor", "fail"), ("backup", "kill")):
            t.diag("%s=%s in %s" % (step, action, verb))
            die(t, bench, repository, "job-started")
            fault = "%s=%s" % (step, action)
            if verb == "doctor":
                result = repository.tool.run("doctor", "--repair", "web01", fail_at=fault)
            else:
                result = repository.run(fail_at=fault)
            result.expect(-signal.SIGKILL if action == "kill" else 1)
            bench.wait_no_guard(t)
            repaired(t, bench, repository, base)
    repository.plain(t)


@tap.test
def test_running_backup(t):
    """A run at work is told as such, and not repaired; nor does the doctor make QEMU wait for its reader."""
    bench, repository = lab(t)
    # More than sockets hold: QEMU waits until it is read, with whatever else waits for its requests.
    bench.guest.apply("vda", [("write", 0, 8 * MIB, 0x5a)], bench.models["vda"])
    content = bench.content()
    running, go = repository.pause_at(t, "disk-data")
    lines = doctor(t, repository)
    t.ok(told(lines, "at work", "process", grade="ok") and len(lines) == 1, lines)
    lines = doctor(t, repository, "--repair", status=11)
    t.ok(told(lines, "in use by another run", grade="problem"), lines)
    t.ok(bench.job_active(), "the job was ended")
    go()
    running.wait().expect(0)
    repository.expect_point(t, content, "incremental")
    repository.assert_tidy(t)


@tap.test
def test_old_checkpoints(t):
    """The point is there, but the run died before it deleted the checkpoint of the one before."""
    bench, repository = lab(t)
    base, content = bench.guest.checkpoints(), bench.content()
    die(t, bench, repository, "points-synced")
    repository.expect_point(t, content, "incremental")
    t.ok(base[0] in bench.guest.checkpoints(), "the old checkpoint is gone")
    lines = doctor(t, repository, status=1)
    t.ok(told(lines, "1 checkpoint of older points", base[0]), lines)
    lines = doctor(t, repository, "--repair")
    t.ok(told(lines, "1 checkpoint of older points deleted"), lines)
    repository.assert_tidy(t)
    bench.write(t.random)
    repository.plain(t)


# Record and bitmap apart

def remove_bitmap(bench, target, name):
    """A bitmap goes, the record stays."""
    path = os.path.realpath(bench.guest.disk_path(target))
    node = [n["node-name"] for n in bench.guest.qmp("query-named-block-nodes", flat=True)
            if os.path.realpath(n.get("file", "")) == path and n.get("dirty-bitmaps")][0]
    bench.guest.qmp("block-dirty-bitmap-remove", node=node, name=name)


@tap.test
def test_bitmap_without_record(t):
    bench, repository = lab(t)
    base = bench.guest.checkpoints()
    die(t, bench, repository)
    name = new_checkpoint(bench, base)
    forget_record(bench, name)
    t.equal(bench.guest.bitmaps("vda"), sorted(base + [name]))
    repaired(t, bench, repository, base)
    no_trace(t, bench, name)
    repository.plain(t)


@tap.test
def test_record_without_bitmap(t):
    """Missing on one disk, or on all."""
    bench, repository = lab(t)
    base = bench.guest.checkpoints()
    for targets in (("vda",), ("vdb",), ("vda", "vdb")):
        die(t, bench, repository)
        name = new_checkpoint(bench, base)
        bench.guest.dom.abortJob()
        t.eventually(lambda: not bench.job_active(), 20, "the job ends")
        for target in targets:
            remove_bitmap(bench, target, name)
        repaired(t, bench, repository, base)
        no_trace(t, bench, name)
    repository.plain(t)


@tap.test
def test_record_without_bitmap_nor_image(t):
    """Nobody can look into the image: that disk is tried alone, and the others go all the same."""
    bench, repository = lab(t)
    base = bench.guest.checkpoints()
    die(t, bench, repository)
    name = new_checkpoint(bench, base)
    bench.guest.dom.abortJob()
    t.eventually(lambda: not bench.job_active(), 20, "the job ends")
    remove_bitmap(bench, "vda", name)
    path = bench.guest.disk_path("vda")
    os.rename(path, path + ".away")
    t.defer(lambda: os.path.exists(path) or os.rename(path + ".away", path))
    doctor(t, repository, "--repair", status=(0, 1))
    os.rename(path + ".away", path)
    no_trace(t, bench, name)
    t.equal(doctor(t, repository), [])
    repository.plain(t)


@tap.test
def test_deletion_killed_half_way(t):
    """Killed when the record was made smaller: what is left of the checkpoint is still found."""
    bench, repository = lab(t)
    base = bench.guest.checkpoints()
    for verb in ("doctor", "backup"):
        die(t, bench, repository)
        name = new_checkpoint(bench, base)
        bench.guest.dom.abortJob()
        t.eventually(lambda: not bench.job_active(), 20, "the job ends")
        remove_bitmap(bench, "vda", name)
        words = ("doctor", "--repair", "web01") if verb == "doctor" else (
            "backup", "web01", "--exclude-disk", "vdc", "--scratch-dir", bench.scratch)
        repository.tool.run(*words, fail_at="checkpoint-taken-apart=kill").expect(-signal.SIGKILL)
        t.ok(name in bench.guest.bitmaps("vdb"), "the bitmap is gone")
        t.ok(name in bench.guest.checkpoints(), "no record names it")
        repaired(t, bench, repository, base)
        no_trace(t, bench, name)
    repository.plain(t)


@tap.test
def test_old_checkpoint_killed_half_way(t):
    """The same when a successful run deletes its predecessor's checkpoint."""
    bench, repository = lab(t)
    (old,) = bench.guest.checkpoints()
    content = bench.content()
    running, go = repository.pause_at(t, "points-synced", action="stop")
    remove_bitmap(bench, "vda", old)
    running.kill9()
    running.wait()
    bench.wait_no_guard(t)
    repository.expect_point(t, content, "incremental")
    repository.tool.run("doctor", "--repair", "web01",
                        fail_at="checkpoint-taken-apart=kill").expect(-signal.SIGKILL)
    t.ok(old in bench.guest.bitmaps("vdb"), "the bitmap is gone")
    bench.write(t.random)
    repository.plain(t)
    no_trace(t, bench, old)


def attach_volume(t, bench):
    """A disk that the domain's XML names by storage pool and volume. Returns what takes it away."""
    place = bench.host.directory("pool-" + t.name, 0o755, owner="qemu")
    pool = bench.host.conn.storagePoolCreateXML(
        "<pool type='dir'><name>vmbpool</name><target><path>%s</path></target></pool>" % place, 0)
    t.defer(pool.destroy)
    path = pool.createXML("<volume><name>vmbvolume</name><capacity unit='M'>8</capacity><target>"
                          "<format type='qcow2'/><compat>1.1</compat></target></volume>", 0).path()
    shutil.chown(path, *bench.host.qemu_ids())
    xml = ("<disk type='volume' device='disk'><driver name='qemu' type='qcow2'/>"
           "<source pool='vmbpool' volume='vmbvolume'/><target dev='vdx' bus='virtio'/></disk>")
    bench.guest.dom.attachDeviceFlags(xml, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    t.eventually(lambda: "vdd" in bench.guest.exec("ls /dev"), 20, "the guest sees the disk")

    def detach():
        bench.guest.dom.detachDeviceFlags(xml, libvirt.VIR_DOMAIN_AFFECT_LIVE)
        t.eventually(lambda: "'vdx'" not in bench.guest.dom.XMLDesc(0), 30, "the disk is detached")
    return path, detach


@tap.test
def test_disk_of_a_pool(t):
    """Its image is found through the pool, and its bitmap where libvirt's record is gone."""
    bench, repository = lab(t)
    base = bench.guest.checkpoints()
    path, detach = attach_volume(t, bench)
    for lost in ("vda", "record"):
        die(t, bench, repository)
        name = new_checkpoint(bench, base)
        bench.guest.dom.abortJob()
        t.eventually(lambda: not bench.job_active(), 20, "the job ends")
        if lost == "record":
            forget_record(bench, name)
        else:
            remove_bitmap(bench, lost, name)
        repaired(t, bench, repository, base)
        no_trace(t, bench, name)
    detach()
    t.ok("vmbackup-" not in process.run("qemu-img", "info", path), "a bitmap is in the volume")
    repository.plain(t)


# Shut-off domains, and domains that are gone

def hold_image(t, path):
    """A process that has an image open for writing. Returns what ends it."""
    holder = subprocess.Popen(["qemu-io", "-f", "qcow2", path], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE)
    t.defer(holder.kill)
    holder.stdin.write(b"read 0 512\n")
    holder.stdin.flush()
    t.contains(holder.stdout.readline().decode(), "read 512/512")

    def end():
        holder.stdin.close()
        holder.wait(20)
        holder.stdout.close()
    return end


def start(bench):
    bench.guest.start()
    bench.guest.wait_agent()


@tap.test
def test_shut_off(t):
    """Bitmaps of a shut-off domain are removed from its images."""
    bench, repository = lab(t)
    base = bench.guest.checkpoints()
    die(t, bench, repository)
    name = new_checkpoint(bench, base)
    bench.guest.destroy()
    t.defer(lambda: bench.guest.is_active() or start(bench))
    image = bench.guest.disk_path("vda")
    t.contains(process.run("qemu-img", "info", image), name)
    lines = doctor(t, repository, status=1)
    t.ok(told(lines, "a dead run's journal of"), lines)
    # Somebody has the image open: that is no time to write to it, but one to remember.
    holder = hold_image(t, image)
    lines = doctor(t, repository, "--repair", status=1)
    t.ok(told(lines, name, "tried again", grade="problem"), lines)
    t.ok(told(lines, "1 checkpoint that could not be deleted", name), lines)
    t.equal(bench.leftovers(), [])
    t.ok(name in bench.guest.checkpoints(), "the record is gone before the bitmap")
    holder()
    # Killed between two images.
    repository.tool.run("doctor", "--repair", "web01",
                        fail_at="bitmap-removed=kill").expect(-signal.SIGKILL)
    t.equal([l for l in doctor(t, repository, "--repair") if l[0] != "ok"], [])
    t.equal(doctor(t, repository), [])
    t.equal(bench.guest.checkpoints(), base)
    for target in bench.TARGETS:
        info = process.run("qemu-img", "info", bench.guest.disk_path(target))
        t.ok(name not in info and base[0] in info, info)
    start(bench)
    repository.plain(t)


@tap.test
def test_gone_domain(t):
    """Undefined with all that libvirt knew of it: the rest goes, the points stay."""
    bench, repository = lab(t)
    guest = bench.guest
    xml = guest.dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE)
    die(t, bench, repository)
    guest.destroy()
    guest.undefine()

    def define_again():
        bench.host.conn.defineXML(xml)
        repository.tool.ok("release", "web01")
        start(bench)
    t.defer(define_again)
    t.equal(len(bench.leftovers()), 2)
    words = ("--scratch-dir", bench.scratch, "--json")
    lines = doctor(t, repository, status=1)
    t.ok(told(lines, "a dead run's journal of", bench.scratch), lines)
    checks = repository.tool.run("doctor", *words).expect(1).json["checks"]
    t.ok(any(check["domain"] == guest.uuid for check in checks), "it is not looked for")
    lines = doctor(t, repository, "--repair", name=guest.uuid)
    t.ok(told(lines, "the domain itself is gone", grade="ok"), lines)
    t.equal(bench.leftovers(), [])
    t.equal(repository.left(), [])
    t.equal(doctor(t, repository), [])
    repository.assert_points(t)


# Pauses

@tap.test
def test_paused_by_the_run(t):
    """Its own pause is ended, and the pause of somebody else, before it or after, is not."""
    bench, repository = lab(t)
    base = bench.guest.checkpoints()
    die(t, bench, repository, "frozen", more=("--quiesce", "pause"))
    t.ok(not bench.guest.is_running(), "it is not paused")
    lines = repaired(t, bench, repository, base)
    t.ok(told(lines, "still paused by a backup that died; it is resumed", grade="ok"), lines)
    bench.guest.suspend()
    die(t, bench, repository, more=("--quiesce", "pause"))
    doctor(t, repository, "--repair")
    t.ok(not bench.guest.is_running(), "somebody's pause was ended")
    bench.guest.resume()
    # It may be frozen, but a paused guest cannot be asked: that is kept in mind.
    die(t, bench, repository, "frozen")
    bench.guest.suspend()
    lines = doctor(t, repository, "--repair", status=1)
    t.ok(told(lines, "when it runs again", grade="problem"), lines)
    t.ok(told(lines, "a dead run's journal of"), lines)
    t.ok(not bench.guest.is_running(), "somebody's pause was ended")
    bench.guest.resume()
    lines = repaired(t, bench, repository, base)
    t.ok(told(lines, "still frozen by a backup that died; it is thawed", grade="ok"), lines)
    repository.plain(t)


def fill(path, leave):
    """A file that leaves so many bytes free."""
    stat = os.statvfs(path)
    name = os.path.join(path, "filler")
    with open(name, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, stat.f_bavail * stat.f_frsize - leave)
    return name


def write_later(bench, disk, count):
    """The guest writes so many MiB, beginning when the agent has answered."""
    bench.guest.exec("(sleep 1; dd if=/dev/urandom of=/dev/%s bs=1M count=%d oflag=direct >/tmp/dd "
                     "2>&1) >/dev/null 2>&1 & true" % (disk, count))


@tap.test
def test_pause_of_full_scratch(t):
    """Program and guard die, the scratch space fills, QEMU pauses the guest: that pause is ours."""
    bench, repository = lab(t)
    base = bench.guest.checkpoints()
    small = bench.host.tmpfs("small-" + t.name, 200 * MIB)
    t.defer(bench.host.umount, small)
    for step in ("none", "reconcile-noted", "reconcile-job-ended"):
        running, _ = repository.pause_at(t, "disk-data", "--level", "full", "--scratch-dir", small)
        for pid in bench.guards():
            process.kill(pid)
        running.kill9()
        running.wait()
        filler = fill(small, 512 * 1024)
        write_later(bench, "vda", 15)
        t.eventually(lambda: not bench.guest.is_running(), 60, "QEMU pauses the guest")
        if step != "none":
            repository.tool.run("doctor", "--repair", "web01",
                                fail_at=step + "=kill").expect(-signal.SIGKILL)
            t.ok(not bench.guest.is_running(), "it runs already")
        lines = repaired(t, bench, repository, base)
        t.ok(told(lines, "still paused by a backup that died; it is resumed"), lines)
        t.ok(bench.guest.is_running(), "it is paused")
        t.eventually(lambda: "15+0 records out" in bench.guest.exec("cat /tmp/dd"), 60,
                     "the guest's write is done")
        os.unlink(filler)
    with open(bench.models["vda"].path, "r+b") as model:
        bench.guest.suspend()
        raw = bench.guest.disk_raw("vda", bench.host.path("tmp", "full-scratch.raw"))
        bench.guest.resume()
        with open(raw, "rb") as source:
            shutil.copyfileobj(source, model)
    repository.plain(t)


@tap.test
def test_pause_of_another_cause(t):
    """The dead run's job is long gone when the guest's own disk fails: that pause stays."""
    bench, repository = lab(t)
    die(t, bench, repository, guard=False)
    small = bench.host.tmpfs("disk-" + t.name, 24 * MIB, 0o755)
    t.defer(bench.host.umount, small)
    extra = os.path.join(small, "extra.qcow2")
    process.run("qemu-img", "create", "-q", "-f", "qcow2", extra, "64M")
    shutil.chown(extra, *bench.host.qemu_ids())
    bench.guest.dom.attachDeviceFlags(
        "<disk type='file' device='disk'><driver name='qemu' type='qcow2' error_policy='enospace'/>"
        "<source file='%s'/><target dev='vdx' bus='virtio'/></disk>" % extra,
        libvirt.VIR_DOMAIN_AFFECT_LIVE)
    t.eventually(lambda: "vdd" in bench.guest.exec("ls /dev"), 20, "the guest sees the disk")
    write_later(bench, "vdd", 40)
    t.eventually(lambda: not bench.guest.is_running(), 60, "QEMU pauses the guest")
    t.equal(bench.guest.state(), (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR))
    lines = doctor(t, repository, "--repair", status=1)
    t.ok(told(lines, "I/O error", "not known to come from a backup", "virsh resume web01",
              grade="problem"), lines)
    t.equal(bench.guest.state(), (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR))
    process.run("mount", "-o", "remount,size=200M", small)
    bench.guest.resume()
    t.eventually(lambda: "40+0 records out" in bench.guest.exec("cat /tmp/dd"), 60, "dd ends")
    bench.guest.dom.detachDeviceFlags(
        "<disk type='file' device='disk'><source file='%s'/><target dev='vdx' bus='virtio'/></disk>"
        % extra, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    t.eventually(lambda: "'vdx'" not in bench.guest.dom.XMLDesc(0), 30, "the disk is detached")
    lines = doctor(t, repository, "--repair")
    repository.assert_released(t)
    repository.plain(t)


# Checkpoints that nobody names, and what belongs to others

@tap.test
def test_damaged_manifest(t):
    """Its checkpoint is named by nobody who can be read: it is told, and kept."""
    bench, repository = lab(t)
    (old,) = bench.guest.checkpoints()
    content = bench.content()
    die(t, bench, repository, "points-synced")
    repository.expect_point(t, content, "incremental")
    (new,) = [n for n in bench.guest.checkpoints() if n != old]
    path = os.path.join(repository.domain, "points", repository.ids()[-1], "manifest.json")
    with open(path, "rb") as file:
        good = file.read()
    with open(path, "wb") as file:
        file.write(good.replace(b'"sequence"', b'"sequencf"', 1))
    # The journal still names it, and says of which point it is.
    lines = doctor(t, repository, "--repair", status=(0, 1))
    t.ok(not told(lines, "could not"), lines)
    t.equal(bench.guest.checkpoints(), sorted([old, new]))
    lines = doctor(t, repository, "--repair", status=(0, 1))
    t.ok(told(lines, "1 checkpoint of this repository", "damaged", new, grade="note"), lines)
    t.equal(bench.guest.checkpoints(), sorted([old, new]))
    # The point is read again: then its checkpoint is needed, and the old one is not.
    with open(path, "wb") as file:
        file.write(good)
    doctor(t, repository, "--repair")
    t.equal(bench.guest.checkpoints(), [new])
    repository.plain(t)


@tap.test
def test_unnamed_checkpoint(t):
    """One with the form of ours that nobody names: told with a command, and kept."""
    bench, repository = lab(t)
    with open(os.path.join(repository.path, "repository.json"), encoding="utf-8") as file:
        prefix = "vmbackup-%s-" % json.load(file)["id"][:8]
    name = prefix + "0123456789abcdef" * 2
    for checkpoint in (name, prefix + "notours", "vmbackup-ffffffff-" + "0123456789abcdef" * 2,
                       "virtnbdbackup.0"):
        bench.guest.dom.checkpointCreateXML(
            "<domaincheckpoint><name>%s</name><disks><disk name='vda'/></disks></domaincheckpoint>"
            % checkpoint, 0)
    before = bench.guest.checkpoints()
    lines = doctor(t, repository, "--repair")
    t.ok(told(lines, "1 checkpoint of this repository", name, grade="note"), lines)
    t.equal(len(lines), 1, lines)
    t.equal(bench.guest.checkpoints(), before)
    text = repository.tool.run("doctor", "web01", "--scratch-dir", bench.scratch).out
    t.contains(text, "virsh checkpoint-delete web01 " + name)
    for checkpoint in before:
        if checkpoint != repository.newest_checkpoint():
            bench.guest.dom.checkpointLookupByName(checkpoint).delete()


@tap.test
def test_foreign_things(t):
    """Jobs, checkpoints, scratch files and sockets of others, and of another repository."""
    bench, repository = lab(t)
    base = bench.guest.checkpoints()
    other, content = bench.repository(t.name + "-other", t), bench.content()
    other.run().expect(0)
    other.expect_point(t, content)
    (theirs,) = [n for n in bench.guest.checkpoints() if n not in base]
    bench.guest.dom.checkpointCreateXML(
        "<domaincheckpoint><name>foreign</name><disks><disk name='vda'/></disks>"
        "</domaincheckpoint>", 0)
    die(t, bench, repository)
    files = [os.path.join(bench.scratch, "vmbackup-0123456789abcdef"),
             os.path.join(bench.scratch, "vda.qcow2"),
             os.path.join(bench.run_dir, "vmbackup-0123456789abcdef")]
    for path in files:
        with open(path, "wb"):
            pass
        t.defer(os.unlink, path)
    # Somebody ends our job and begins another one.
    bench.guest.dom.abortJob()
    t.eventually(lambda: not bench.job_active(), 20, "the job ends")
    place = bench.host.directory("foreign-" + t.name, 0o755, owner="qemu")
    bench.guest.dom.backupBegin(
        "<domainbackup mode='push'><disks><disk name='vda' backup='yes' type='file'>"
        "<target file='%s'/></disk><disk name='vdb' backup='no'/><disk name='vdc' backup='no'/>"
        "</disks></domainbackup>"
        % os.path.join(place, "push.qcow2"), None, 0)
    t.eventually(lambda: not bench.job_active(), 30, "the push ends")
    socket = os.path.join(place, "nbd.sock")
    bench.guest.dom.backupBegin(
        "<domainbackup mode='pull'><server transport='unix' socket='%s'/><disks><disk name='vda' "
        "backup='yes' type='file'><scratch file='%s/scratch'/></disk><disk name='vdb' backup='no'/>"
        "<disk name='vdc' backup='no'/></disks></domainbackup>" % (socket, place), None, 0)
    before = bench.guest.dom.backupGetXMLDesc(0)
    doctor(t, repository, "--repair", status=1)
    t.equal(bench.guest.dom.backupGetXMLDesc(0), before, "the foreign job")
    process.run("nbdinfo", "--size", "nbd+unix:///vda?socket=" + socket)
    t.equal(bench.guest.checkpoints(), sorted(base + [theirs, "foreign"]))
    t.ok(all(os.path.exists(path) for path in files), "a foreign file is gone")
    t.equal(sorted(bench.leftovers()), sorted(files))
    t.ok(os.path.exists(os.path.join(place, "push.qcow2")), "the pushed image is gone")
    bench.guest.dom.abortJob()
    t.eventually(lambda: not bench.job_active(), 20, "the foreign job ends")
    bench.guest.dom.checkpointLookupByName("foreign").delete()
    for one in (repository, other):
        content = bench.content()
        one.run().expect(0)
        one.expect_point(t, content)
        one.assert_points(t)


if __name__ == "__main__":
    tap.main()
