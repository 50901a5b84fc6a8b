#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Inspection, checkpoints and the backup job on a real guest: rollback, unusable bitmaps, foreign jobs."""

import json
import os
import subprocess
import sys
import threading
import time

from virt_driver import DOMAIN, FAILED, LOCKED, NO_INCREMENTAL, USAGE, Driver, Lab, guard_is_gone, image, lab, tap
from vmbtest import process
from vmbtest.guest import Disk, Guest, libvirt, libvirt_qemu


@tap.test
def test_inspect(t):
    setting = lab(t)
    driver = Driver(t, setting.host)
    answer = driver.do("inspect")
    disks = {disk["target"]: disk for disk in answer["disks"]}
    t.equal(sorted(disks), ["vda", "vdb"])
    for target, disk in disks.items():
        t.equal(disk["size"], image.info(setting.guest.disk_path(target))["virtual-size"])
        t.equal((disk["format"], disk["bitmaps"], disk["why"]), ("qcow2", True, None))
        t.equal(disk["layers"], [setting.guest.disk_path(target)])
    t.equal((answer["agent_channel"], answer["agent_connected"]), (True, True))
    t.equal(answer["qemu_uid"], setting.host.qemu_ids()[0])
    t.contains(answer["inactive_xml"], "<name>web01</name>")
    t.equal(driver.do("state")["active"], True)
    t.equal(driver.do("domains")["names"], ["web01"])
    t.equal(driver.do("active-job")["what"], None)


@tap.test
def test_inspect_odd_disks(t):
    setting = lab(t)
    host = setting.host
    raw = host.path("images", "odd.raw")
    base = host.path("images", "base.qcow2")
    image.create(base, 16 << 20)
    disks = [Disk(size=16 << 20, options={"compat": "0.10"}), Disk(size=16 << 20, fmt="raw", path=raw),
             Disk(size=16 << 20, readonly=True), Disk(size=None, device="cdrom", fmt="raw"),
             Disk(size=16 << 20, backing=base)]
    image.create(raw, 16 << 20, "raw")
    guest = Guest(host, name="odd", disks=disks, mount=(), agent=False)
    guest.start(paused=True)
    t.defer(guest.destroy)
    answer = Driver(t, host, "odd").do("inspect")
    disks = {disk["target"]: disk for disk in answer["disks"]}
    t.contains(disks["vda"]["why"], "version 2")
    t.contains(disks["vdb"]["why"], "raw")
    t.equal(disks["vdc"]["readonly"], True)
    t.equal(disks["sda"]["has_medium"], False)
    t.equal((disks["vdd"]["bitmaps"], len(disks["vdd"]["layers"])), (True, 2))
    t.equal(disks["vdd"]["layers"][1], base)
    t.equal(answer["agent_connected"], False)


@tap.test
def test_unknown_and_off(t):
    setting = lab(t)
    path = os.environ["VMBACKUP_VIRT_DRIVER"]
    done = subprocess.run([path, setting.host.uri, "nosuch"], stderr=subprocess.PIPE, check=False)
    t.equal(done.returncode, 1)
    t.contains(done.stderr.decode(), "code %d:" % DOMAIN)
    done = subprocess.run([path, "qemu+ssh://elsewhere/system", "x"], stderr=subprocess.PIPE, check=False)
    t.contains(done.stderr.decode(), "code %d:" % USAGE)
    done = subprocess.run([path, "test:///default", "test"], stderr=subprocess.PIPE, check=False)
    t.contains(done.stderr.decode(), "code %d:" % USAGE)
    off = Guest(setting.host, name="off", disks=[16 << 20])
    t.defer(off.undefine)
    driver = Driver(t, setting.host, off.uuid)
    t.equal(driver.do("state")["active"], False)
    driver.do("inspect")


@tap.test
def test_begin_end_keep(t):
    setting = lab(t)
    driver = Driver(t, setting.host)
    words, socket, name = setting.spec("vda", "vdb")
    driver.do(*words)
    driver.do("begin")
    t.equal(driver.do("scratch-used")["active"], True)
    own = driver.do("active-job", socket)
    t.equal(own["ours"], True)
    t.contains(own["what"], socket)
    t.equal(driver.do("end")["ok"], True)
    t.equal(driver.do("checkpoints")["names"], [name])
    t.equal(driver.do("targets", name)["names"], ["vda", "vdb"])
    driver.do("keep")
    driver.do("job-free")
    setting.guest.assert_healthy(checkpoints=[name])
    driver.do("delete", name)
    driver.do("delete", name)
    setting.guest.assert_healthy(checkpoints=[])


@tap.test
def test_rollback_deletes_only_the_new_checkpoint(t):
    setting = lab(t)
    base = setting.checkpoint(t, "vda", "vdb")
    driver = Driver(t, setting.host)
    words, _, name = setting.spec(("vda", base), ("vdb", base))
    driver.do(*words)
    driver.do("begin")
    t.equal(setting.guest.checkpoints(), sorted([base, name]))
    driver.do("job-free")
    setting.guest.assert_healthy(checkpoints=[base])
    t.equal(setting.guest.bitmaps("vda"), [base])
    driver.do("delete", base)


@tap.test
def test_fault_after_begin_is_rolled_back(t):
    setting = lab(t)
    driver = Driver(t, setting.host, fail_at="job-started=fail")
    words, _, _ = setting.spec("vda", "vdb")
    driver.do(*words)
    driver.fails(FAILED, "begin")
    driver.do("job-free")
    setting.guest.assert_healthy(checkpoints=[])


@tap.test
def test_validate_per_disk(t):
    setting = lab(t)
    guest = setting.guest
    base = setting.checkpoint(t, "vda", "vdb")
    driver = Driver(t, setting.host)
    before = guest.dom.checkpointLookupByName(base).getXMLDesc(0)
    answer = driver.do("validate", base, "vda", "vdb", "vdz")
    t.equal((answer["vda"], answer["vdb"], answer["vdz"]), (True, True, False))
    remove_bitmap(guest, "vdb", base)
    answer = driver.do("validate", base, "vda", "vdb")
    t.equal((answer["vda"], answer["vdb"]), (True, False))
    t.equal(guest.dom.checkpointLookupByName(base).getXMLDesc(0), before, "metadata changed")
    t.equal(guest.bitmaps("vda"), [base])
    driver.fails(NO_INCREMENTAL, "validate", "no-such-checkpoint", "vda")
    # An incremental of both fails; vdb as a full works beside vda as an incremental.
    words, _, _ = setting.spec(("vda", base), ("vdb", base))
    driver.do(*words)
    driver.fails(NO_INCREMENTAL, "begin")
    driver.do("job-free")
    words, _, name = setting.spec(("vda", base), "vdb")
    driver.do(*words)
    driver.do("begin")
    driver.do("end")
    driver.do("job-free")
    guest.assert_healthy(checkpoints=[base])
    # A checkpoint with a missing bitmap is deleted with the bitmaps that it still has.
    driver.do("delete", base)
    guest.assert_healthy(checkpoints=[])
    t.equal((guest.bitmaps("vda"), guest.bitmaps("vdb")), ([], []))


def remove_bitmap(guest, target, name):
    """Takes one disk's bitmap away behind libvirt's back."""
    text = libvirt_qemu.qemuMonitorCommand(guest.dom, json.dumps(
        {"execute": "query-named-block-nodes", "arguments": {"flat": True}}), 0)
    nodes = [node["node-name"] for node in json.loads(text)["return"]
             if node["drv"] == "qcow2" and any(b.get("name") == name for b in node.get("dirty-bitmaps", []))
             and os.path.realpath(node["file"]) == os.path.realpath(guest.disk_path(target))]
    answer = json.loads(libvirt_qemu.qemuMonitorCommand(guest.dom, json.dumps(
        {"execute": "block-dirty-bitmap-remove", "arguments": {"node": nodes[0], "name": name}}), 0))
    if "error" in answer:
        raise tap.Failure(str(answer))


@tap.test
def test_hot_plugged_disk_has_no_bitmap(t):
    setting = lab(t)
    base = setting.checkpoint(t, "vda", "vdb")
    target = setting.guest.attach_disk(Disk(size=16 << 20), config=False)
    try:
        driver = Driver(t, setting.host)
        answer = driver.do("validate", base, "vda", target)
        t.equal((answer["vda"], answer[target]), (True, False))
        t.contains([d["target"] for d in driver.do("inspect")["disks"]], target)
        driver.do("delete", base)
    finally:
        setting.guest.detach_disk(target, config=False)


@tap.test
def test_foreign_job_is_named_and_untouched(t):
    setting = lab(t)
    foreign = Driver(t, setting.host)
    words, socket, name = setting.spec("vda", "vdb")
    foreign.do(*words)
    foreign.do("begin")
    driver = Driver(t, setting.host)
    answer = driver.do("active-job", "/another/socket")
    t.equal(answer["ours"], False)
    t.contains(answer["what"], socket)
    t.contains(answer["what"], "virsh domjobabort web01")
    t.equal(driver.do("end-by-socket", "/another/socket")["ended"], False)
    words, _, _ = setting.spec("vda", "vdb")
    driver.do(*words)
    begun = time.monotonic()
    t.contains(driver.fails(LOCKED, "begin")["error"], "web01")
    t.diag("begin beside another job failed after %.1f s" % (time.monotonic() - begun))
    driver.do("job-free")
    t.equal(foreign.do("scratch-used")["active"], True)
    t.equal(setting.guest.checkpoints(), [name])
    foreign.do("end")
    foreign.do("job-free")
    setting.guest.assert_healthy(checkpoints=[])


@tap.test
def test_block_job_is_named(t):
    setting = lab(t)
    guest = setting.guest
    target = os.path.join(setting.host.images, "copy.qcow2")
    guest.dom.blockCopy("vdb", "<disk type='file'><driver type='qcow2'/><source file='%s'/></disk>"
                        % target, {"bandwidth": 65536}, libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB)
    t.defer(guest.dom.blockJobAbort, "vdb")
    what = Driver(t, setting.host).do("active-job")["what"]
    t.contains(what, "block copy")
    t.contains(what, "vdb")


@tap.test
def test_daemon_restart_during_job(t):
    setting = lab(t)
    driver = Driver(t, setting.host)
    words, _, name = setting.spec("vda", "vdb")
    driver.do(*words)
    driver.do("begin")
    setting.host.kill9()
    restarter = threading.Timer(2, setting.host.start)
    restarter.start()
    begun = time.monotonic()
    driver.do("job-free")
    restarter.join()
    t.diag("rolled back %.1f s after the daemon was killed" % (time.monotonic() - begun))
    setting.guest.assert_healthy(checkpoints=[])
    driver.do("reopen")
    t.equal(driver.do("checkpoints")["names"], [])


@tap.test
def test_daemon_restart_before_end(t):
    setting = lab(t)
    driver = Driver(t, setting.host)
    words, _, name = setting.spec("vda", "vdb")
    driver.do(*words)
    driver.do("begin")
    setting.host.restart()
    driver.do("end")
    driver.do("keep")
    driver.do("job-free")
    setting.guest.assert_healthy(checkpoints=[name])
    driver.do("delete", name)


@tap.test
def test_facts(t):
    setting = lab(t)
    driver = Driver(t, setting.host)
    facts = driver.do("facts", 5)["facts"]
    t.equal(facts["os"]["id"], "vmbtest")
    t.equal(facts["hostname"], "vmbtest")
    t.equal(sorted(f["mountpoint"] for f in facts["filesystems"]), ["/mnt/vda", "/mnt/vdb"])
    t.equal({f["type"] for f in facts["filesystems"]}, {"ext4"})
    t.equal(sorted(sum((f["disks"] for f in facts["filesystems"]), [])), ["vda", "vdb"])
    setting.guest.hang_agent(4)
    answer = driver.ask("facts", 1)
    t.equal(answer["ok"], False)
    t.ok(answer["took"] < 4e9, "the facts took %s ns" % answer["took"])
    t.eventually(setting.guest._agent_answers, 20, "the agent answers again")


@tap.test
def test_qemu_killed(t):
    """Bitmaps are lost or inconsistent: validate says so, begin refuses, delete cleans up."""
    setting = Lab(t)
    guest = setting.guest
    base, off = [setting.checkpoint(t, "vda", "vdb") for _ in range(2)]
    guest.kill_qemu()
    driver = Driver(t, setting.host)
    driver.do("delete", off)
    t.equal(guest.checkpoints(), [base], "what was never stored is but a record")
    guest.start()
    guest.wait_agent()
    late = setting.checkpoint(t, "vda", "vdb")
    guest.shutdown()
    guest.start()
    guest.wait_agent()
    guest.kill_qemu()
    t.contains(process.run("qemu-img", "info", guest.disk_path("vda")), late)
    guest.start()
    guest.wait_agent()
    for name in (base, late):
        answer = driver.do("validate", name, "vda", "vdb")
        t.equal((answer["vda"], answer["vdb"]), (False, False))
        words, _, _ = setting.spec(("vda", name), ("vdb", name))
        driver.do(*words)
        driver.fails(NO_INCREMENTAL, "begin")
        driver.do("job-free")
    driver.do("delete", base)
    driver.do("delete", late)
    guest.assert_healthy(checkpoints=[])
    t.equal((guest.bitmaps("vda"), guest.bitmaps("vdb")), ([], []))


def fill_scratch(t, setting, driver):
    """Begins a job whose scratch file cannot grow, and writes until QEMU pauses the guest."""
    guest = setting.guest
    small = setting.host.tmpfs("small", 8 << 20)
    t.defer(setting.host.umount, small)
    guest.exec("dd if=/dev/urandom of=/mnt/vda/big bs=1M count=40 2>/dev/null; sync")
    t.defer(lambda: guest.is_running() and guest.exec("rm /mnt/vda/big"))
    driver.do("guard", setting.next_socket, 10000, 1, 0)
    words, _, checkpoint = setting.spec("vda", scratch=small)
    driver.do(*words)
    driver.do("begin")
    # Later, because a paused guest answers nothing.
    guest.exec("(sleep 1; dd if=/dev/zero of=/mnt/vda/big bs=1M count=40 conv=notrunc) "
               ">/dev/null 2>&1 &")
    t.eventually(lambda: driver.do("state")["io_error"], 60, "the guest is paused for an I/O error")
    return checkpoint


@tap.test
def test_full_scratch(t):
    """QEMU pauses the guest; the end of the job, and the guard of a killed program, resume it."""
    setting = lab(t)
    driver = Driver(t, setting.host)
    fill_scratch(t, setting, driver)
    driver.do("end")
    t.equal(driver.do("state")["paused"], False)
    driver.do("job-free")
    driver.do("guard-free")
    setting.guest.assert_healthy(checkpoints=[])


@tap.test
def test_full_scratch_and_killed(t):
    setting = lab(t)
    driver = Driver(t, setting.host)
    checkpoint = fill_scratch(t, setting, driver)
    guard = driver.guard_pid()
    driver.kill9()
    guard_is_gone(t, driver, guard)
    setting.guest.assert_healthy(checkpoints=[checkpoint])


@tap.test
def test_guest_ends_during_job(t):
    setting = Lab(t)
    driver = Driver(t, setting.host)
    words, _, _ = setting.spec("vda", "vdb")
    driver.do(*words)
    driver.do("begin")
    setting.guest.destroy()
    t.equal(driver.do("end-by-socket", words[1])["ended"], False)
    driver.do("end")
    driver.do("job-free")
    t.equal(setting.guest.checkpoints(), [], "it is rolled back in the images")
    for target in ("vda", "vdb"):
        t.ok(words[2] not in process.run("qemu-img", "info", setting.guest.disk_path(target)),
             "the bitmap is in the image of " + target)
    setting.guest.start()
    setting.guest.wait_agent()
    setting.guest.assert_healthy(checkpoints=[])


tap.main()
