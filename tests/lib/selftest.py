#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Test of the test infrastructure: libvirt, guest, agent, freeze, writer, backup job, cleanup."""

import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from vmbtest import image, process, tap  # noqa: E402
from vmbtest.guest import Disk, Guest, GuestError, check_images  # noqa: E402
from vmbtest.libvirtd import PrivateLibvirt, libvirt  # noqa: E402
from vmbtest.vmbackup import Tool  # noqa: E402


def shared_host(t):
    """The script's libvirt."""
    return t.once("host", PrivateLibvirt)


def shared_guest(t):
    """A running guest with two disks that writes."""
    return t.once("guest", lambda suite: Guest(shared_host(t), writer=True, start=True))


@tap.test
def test_boots_and_agent_answers(t):
    host = shared_host(t)
    started = time.monotonic()
    guest = shared_guest(t)
    t.diag("defined, booted, formatted, agent answers: %.2f s" % (time.monotonic() - started))
    t.equal(guest.exec("cat /proc/mounts | grep -c ^/dev/vd").strip(), "2")
    t.contains(guest.dom.XMLDesc(0), "<seclabel type='dynamic' model='dac'")
    t.raises(GuestError, guest.exec, "exit 3")
    guest.assert_healthy(checkpoints=[])
    t.ok(all(str(host.qemu_ids()[0]) in line.split()[1:2] for line in
             open("/proc/%d/status" % guest.qemu_pid, encoding="ascii") if line.startswith("Uid:")),
         "QEMU has another user")


@tap.test
def test_writer_freeze_thaw(t):
    guest = shared_guest(t)
    t.ok(guest.is_writing(10), "the writer does not write")
    t.equal(guest.freeze(), 2, "number of frozen file systems")
    t.defer(guest.thaw)
    t.equal(guest.freeze_status(), "frozen")
    time.sleep(0.5)
    t.ok(not guest.is_writing(2), "writes while frozen")
    t.equal(guest.thaw(), 2, "number of thawed file systems")
    t.ok(guest.is_writing(10), "does not write after the thaw")
    guest.assert_healthy()


def begin_backup(guest, scratch, checkpoint):
    """A pull job with a checkpoint, its scratch files made beforehand."""
    disks = checks = ""
    for target in ("vda", "vdb"):
        path = os.path.join(scratch, target)
        image.create(path, image.info(guest.disk_path(target))["virtual-size"])
        os.chown(path, *guest.host.qemu_ids())
        disks += ("<disk name='%s' backup='yes' type='file'><driver type='qcow2'/>"
                  "<scratch file='%s'/></disk>" % (target, path))
        checks += "<disk name='%s' checkpoint='bitmap'/>" % target
    guest.dom.backupBegin(
        "<domainbackup mode='pull'><server transport='unix' socket='%s'/><disks>%s</disks>"
        "</domainbackup>" % (os.path.join(scratch, "sock"), disks),
        "<domaincheckpoint><name>%s</name><disks>%s</disks></domaincheckpoint>" % (
            checkpoint, checks), libvirt.VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL)


@tap.test
def test_pull_backup_begins_and_ends(t):
    guest, host = shared_guest(t), shared_host(t)
    scratch = host.directory("scratch", 0o700, owner="qemu")
    begin_backup(guest, scratch, "selftest")
    t.ok(guest.job_active(), "no job")
    t.raises(tap.Failure, guest.assert_healthy)
    url = "nbd+unix:///vda?socket=" + os.path.join(scratch, "sock")
    t.equal(image.info(url, "raw")["virtual-size"], guest.disks[0].size)
    t.equal(guest.checkpoints(), ["selftest"])
    t.contains(guest.bitmaps("vda"), "selftest")
    guest.dom.abortJob()
    t.eventually(lambda: not guest.job_active(), 10, "end of the job")
    guest.dom.checkpointLookupByName("selftest").delete()
    t.equal(guest.bitmaps("vda"), [])
    for target in ("vda", "vdb"):
        os.unlink(os.path.join(scratch, target))
    guest.assert_healthy(checkpoints=0, clean=[scratch])


@tap.test
def test_writes_into_suspended_disk(t):
    guest, host = shared_guest(t), shared_host(t)
    guest.suspend()
    t.defer(guest.resume)
    t.equal(guest.disk_sha256("vda"), guest.disk_sha256("vda"), "reading twice")
    disk = Disk(size=24 * image.MIB, bus="scsi")
    target = guest.attach_disk(disk)
    model = image.Model(host.path("model.raw"), disk.size)
    t.defer(os.unlink, model.path)
    guest.apply(target, image.random_operations(t.random, disk.size, 40), model)
    image.compare(guest.disk_path(target), model.path)
    t.equal(guest.disk_sha256(target), image.sha256(model.path), "disk and model")
    guest.qemu_io(target, "write -P 0x5a 1M 64k")
    guest.qemu_io(target, "flush")
    t.ok(image.differs(guest.disk_path(target), model.path), "a write is not seen")
    guest.qemu_io(target, "read -P 0x5a 1M 64k")
    t.raises(GuestError, guest.qemu_io, target, "read -P 0x5b 1M 64k")
    t.raises(GuestError, guest.qemu_io, target, "write -P 0x5a 1G 64k")
    t.ok(guest.disk_sha256(target) != image.sha256(model.path), "a write changes no digest")
    guest.block_resize(target, 32 * image.MIB)
    t.equal(image.info(disk.path)["virtual-size"], 32 * image.MIB)
    t.equal(guest.detach_disk(target), disk)
    guest.resume()
    guest.assert_healthy()


@tap.test
def test_virtio_disk_plugged_and_unplugged(t):
    guest, host = shared_guest(t), shared_host(t)
    disk = Disk(size=16 * image.MIB, serial="PLUG")
    target = guest.attach_disk(disk)
    model = image.Model(host.path("plug.raw"), disk.size)
    t.defer(os.unlink, model.path)
    guest.apply(target, image.random_operations(t.random, disk.size, 5), model)
    image.compare(disk.path, model.path)
    t.eventually(lambda: guest.exec("ls /sys/block").split().count(target), 10, "seen in the guest")
    guest.detach_disk(target)
    guest.attach_disk(disk)
    guest.detach_disk(target)
    guest.assert_healthy()


@tap.test
def test_agent_hangs(t):
    guest = shared_guest(t)
    guest.hang_agent(seconds=4)
    t.raises(libvirt.libvirtError, guest.agent, {"execute": "guest-ping"}, 1)
    guest.wait_agent(20)
    guest.assert_healthy()


@tap.test
def test_frozen_image_passes_the_check(t):
    guest, host = shared_guest(t), shared_host(t)
    t.ok(guest.is_writing(10), "the writer does not write")
    guest.freeze()
    t.defer(guest.thaw)
    guest.suspend()
    t.defer(guest.resume)
    copies = {d: guest.disk_raw(d, host.path(d + ".raw")) for d in ("vda", "vdb")}
    for path in copies.values():
        t.defer(os.unlink, path)
    guest.resume()
    guest.thaw()
    facts = check_images(host, copies, "raw")
    t.ok(0 <= facts["vda"]["counter"] - facts["vdb"]["counter"] <= 1, "the disks differ in time")
    for target in copies:
        found = facts[target]
        t.diag("%s: %s" % (target, {k: v for k, v in found.items() if k != "file"}))
        t.equal((found["needs_recovery"], found["fsck"], found["sums_bad"]), (0, 0, 0))
        t.ok(found["sums_good"] > 0 and found["counter"] > 0, "nothing was written")


@tap.test
def test_daemon_killed_and_restarted(t):
    guest, host = shared_guest(t), shared_host(t)
    pid = guest.qemu_pid
    host.kill9()
    t.ok(process.alive(pid), "QEMU died with the daemon")
    host.start()
    guest.assert_healthy()
    host.restart()
    t.equal(guest.qemu_pid, pid)
    guest.assert_healthy()


@tap.test
def test_ways_to_stop(t):
    host = shared_host(t)
    guest = Guest(host, name="stop", disks=[64 * image.MIB], start=True)
    t.defer(guest.destroy)
    guest.shutdown(mode="acpi")
    guest.start().wait_agent()
    guest.shutdown(mode="agent")
    guest.start().wait_agent()
    guest.kill_qemu()
    guest.set_cmdline(check=1, writer=None)
    guest.start().wait_off(30)
    t.contains(guest.console(), "VMB-CHECK-END 0")
    guest.undefine()
    t.equal([d.name() for d in host.conn.listAllDomains() if d.name() == "stop"], [])


@tap.test
def test_kinds_of_devices(t):
    host = shared_host(t)
    guest = Guest(host, name="devices", agent=False, interfaces=1, transient=True, disks=[
        Disk(size=32 * image.MIB, fmt="raw", serial="R1"), Disk(size=image.MIB, device="cdrom",
        fmt="raw", readonly=True), Disk(size=None, device="cdrom"), Disk(size=1474560, fmt="raw",
        device="floppy"), Disk(size=32 * image.MIB, bus="scsi"),
        Disk(size=32 * image.MIB, readonly=True), Disk(size=32 * image.MIB, options={
            "cluster_size": 4096})], writer=True, start=True)
    t.defer(guest.destroy)
    t.contains(guest.console(), "mounted: vda vdc")
    t.ok(guest.is_writing(10), "the writer does not write")
    guest.assert_healthy(agent=False)
    t.raises(libvirt.libvirtError, guest.agent, {"execute": "guest-ping"}, 1)
    guest.destroy()
    t.ok(not guest.is_active(), "still there")


@tap.test
def test_firmware_and_tpm(t):
    for path in ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/bin/swtpm", "/usr/bin/swtpm_setup"):
        t.require(os.path.exists(path), "no " + path)
    host = shared_host(t)
    guest = Guest(host, name="uefi", disks=[32 * image.MIB], nvram=True, tpm=True, memory=256)
    t.defer(guest.undefine)
    t.defer(guest.destroy)
    guest.start().wait_agent(120)
    t.ok(os.path.getsize(guest.nvram) > 0, "no NVRAM")
    state = host.outside("/var/lib/libvirt/swtpm/" + guest.uuid)
    t.ok(os.path.isdir(state), "no TPM state")
    guest.destroy()


@tap.test
def test_second_host_and_migration(t):
    first = PrivateLibvirt(t, hostname="one", remember_owner=False)
    second = PrivateLibvirt(t, hostname="two", remember_owner=False)
    t.equal((first.conn.getHostname(), second.conn.getHostname()), ("one", "two"))
    guest = Guest(first, name="mover", disks=[64 * image.MIB], start=True)
    flags = (libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PEER2PEER | libvirt.VIR_MIGRATE_UNSAFE |
             libvirt.VIR_MIGRATE_PERSIST_DEST | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE)
    address = "unix://" + second.directory("move", 0o777) + "/sock"
    guest.dom.migrateToURI3(second.uri, {libvirt.VIR_MIGRATE_PARAM_URI: address}, flags)
    moved = Guest.existing(second, "mover")
    t.eventually(moved._agent_answers, 20, "agent after the migration")
    moved.assert_healthy(checkpoints=[])


@tap.test
def test_file_system_mounted_later(t):
    host = shared_host(t)
    path = host.tmpfs("small", 8 * image.MIB)
    t.defer(host.umount, path)
    answer = process.run(*host.enter(["stat", "-f", "-c", "%T", path])).strip()
    t.equal(answer, "tmpfs", "seen from inside")


@tap.test
def test_tool_runs_inside(t):
    host = shared_host(t)
    old = os.environ.get("VMBACKUP")
    os.environ["VMBACKUP"] = "/usr/bin/virsh"
    t.defer(lambda: os.environ.pop("VMBACKUP") if old is None else
            os.environ.update(VMBACKUP=old))
    tool = Tool(t, host=host)
    t.contains(tool.ok("uri").out, host.socket)
    tool.run("domstate", "nobody").expect(1).says("nobody")
    t.raises(tap.Failure, tool.ok, "domstate", "nobody")
    sleeper = tool.start("event", "--all", "--loop")
    t.ok(sleeper.running(), "not running")
    sleeper.kill9()
    t.equal(sleeper.wait(10).status, -9)
    t.equal(process.run(*host.enter(["virsh", "-c", "qemu:///system", "uri"])).strip(),
            "qemu:///system")


@tap.test
def test_killed_test_leaves_nothing(t):
    """A test script that is killed: its watchdog takes everything away."""
    script = ("import sys, time; sys.path.insert(0, %r)\n"
              "from vmbtest import libvirtd, guest, tap\n"
              "host = libvirtd.PrivateLibvirt(tap.CleanupStack())\n"
              "g = guest.Guest(host, disks=[1 << 26]).start()\n"
              "print(host.base, g.qemu_pid, flush=True)\n"
              "time.sleep(60)\n" % os.path.dirname(os.path.abspath(__file__)))
    import subprocess
    child = subprocess.Popen([sys.executable, "-B", "-c", script], stdout=subprocess.PIPE)
    t.defer(child.wait)
    t.defer(child.kill)
    t.defer(child.stdout.close)
    base, pid = child.stdout.readline().decode().split()
    t.ok(process.alive(int(pid)), "no QEMU")
    child.kill()
    t.eventually(lambda: not process.alive(int(pid)), 20, "end of QEMU")
    t.eventually(lambda: not os.path.exists(base), 20, "removal of " + base)


@tap.test
def test_destroy_leaves_nothing(t):
    stack = tap.CleanupStack()
    host = PrivateLibvirt(stack)
    guest = Guest(host, disks=[64 * image.MIB]).start()
    pids = [guest.qemu_pid, host.pid]
    t.equal(stack.run(), [])
    t.ok(not os.path.exists(host.base), "the directory is still there")
    t.equal([pid for pid in pids if process.alive(pid)], [])
    with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
        t.ok(host.base not in mounts.read(), "something is still mounted")


if __name__ == "__main__":
    tap.main()
