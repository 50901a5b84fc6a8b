#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Two hosts that use one repository: live migration between backups, and what the other host left."""

import os
import re
import shutil
import sys
import threading
import uuid

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import common  # noqa: E402
from common import Guest, MIB, PrivateLibvirt, Tool, image, libvirt, process, tap  # noqa: E402

SIZE = 16 * MIB
TARGETS = ("vda", "vdb")


class Cluster:
    """Two daemons with host names and machine-ids of their own, which see the same files."""

    def __init__(self, suite):
        tap.require(os.path.exists("/etc/machine-id"), "no /etc/machine-id")
        self.suite = suite
        self.hosts = []
        self.env = {}
        for name in ("alpha", "beta"):
            host = PrivateLibvirt(suite, hostname=name, remember_owner=False)
            own = host.path("tmp", "machine-id")
            with open(own, "w", encoding="ascii") as file:
                file.write("%s\n" % uuid.uuid4().hex)
            process.run(*host.enter(["mount", "--bind", own, "/etc/machine-id"]))
            self.env[host] = {"VMBACKUP_TEST_RUN_DIR": host.directory("vmbrun", 0o711),
                              "VMBACKUP_TEST_SCRATCH_DIR": host.directory("scratch", 0o711)}
            host.directory("mig", 0o1777)
            self.hosts.append(host)
        self.serial = 0

    def tools(self, t):
        """The program on both hosts, with one new repository."""
        self.serial += 1
        path = self.hosts[0].path("repo-%d" % self.serial)
        t.defer(shutil.rmtree, path, True)
        tools = [Tool(t, repo=path, host=host, env=self.env[host]) for host in self.hosts]
        tools[0].ok("init")
        # This filesystem is no network's: the second host is told that it may use it, too.
        tools[1].ok("init", "--moved")
        return tools

    def guest(self, t, name):
        """A running guest on the first host; its disks are written by the test alone."""
        guest = Guest(self.hosts[0], name=name, disks=[SIZE, SIZE], mount=(), start=True)

        def gone():
            for host in self.hosts:
                try:
                    found = Guest.existing(host, name)
                    found.destroy()
                    found.undefine()
                except libvirt.libvirtError:
                    pass
        t.defer(gone)
        return guest


def cluster(t):
    return t.once("cluster", Cluster)


def migrate(box, guest, to, undefine=True, xml=None, bandwidth=None, connection=None):
    """Live, peer to peer. xml: the disks are copied to where it names them. Returns the new Guest."""
    domain = (connection or guest.host.conn).lookupByUUIDString(guest.uuid)
    flags = (libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PEER2PEER |
             libvirt.VIR_MIGRATE_PERSIST_DEST | libvirt.VIR_MIGRATE_UNSAFE)
    box.serial += 1
    socket = to.path("mig", "m%d" % box.serial)
    parameters = {libvirt.VIR_MIGRATE_PARAM_URI: "unix://" + socket}
    if undefine:
        flags |= libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
    if bandwidth:
        parameters[libvirt.VIR_MIGRATE_PARAM_BANDWIDTH] = bandwidth
    if xml:
        flags |= libvirt.VIR_MIGRATE_NON_SHARED_DISK
        parameters[libvirt.VIR_MIGRATE_PARAM_DEST_XML] = xml
        parameters[libvirt.VIR_MIGRATE_PARAM_PERSIST_XML] = xml
        parameters[libvirt.VIR_MIGRATE_PARAM_DISKS_URI] = "unix://" + socket + "d"
    domain.migrateToURI3(to.uri, parameters, flags)
    return Guest.existing(to, guest.name)


def write(guest, byte):
    guest.suspend()
    for target in TARGETS:
        guest.qemu_io(target, "write -P %d %dM 1M" % (byte, byte % 16))
        guest.qemu_io(target, "flush")
    guest.resume()


def backup(tool, guest, *more, status=0):
    return tool.run("backup", guest.name, "--quiesce", "none", "--json", *more).expect(status)


def codes(result):
    return {code for code in common.codes(result) if code != "quiesce-none"}


def methods(result):
    return {disk["method"] for disk in result.json_lines[0]["point"]["disks"]}


def check(t, tool, guest, result):
    """The newest point restores to what the disks hold; one checkpoint, and no stray bitmap."""
    directory = tool.repo + "-restored"
    tool.ok("restore", guest.uuid + "/latest", "--to", directory)
    guest.suspend()
    for target in TARGETS:
        raw = guest.disk_raw(target, os.path.join(directory, target + ".now"))
        image.compare(os.path.join(directory, target + ".qcow2"), raw, "qcow2", "raw")
    guest.resume()
    shutil.rmtree(directory)
    t.equal(len(guest.checkpoints()), 1, result.describe())
    for target in TARGETS:
        t.equal(guest.bitmaps(target), guest.checkpoints(), "bitmaps of %s\n%s" % (
            target, result.describe()))


@tap.test
def test_shared_storage(t):
    box = cluster(t)
    (first, second), guest = box.tools(t), box.guest(t, "web01")
    alpha, beta = box.hosts
    write(guest, 1)
    backup(first, guest)
    write(guest, 2)
    guest = migrate(box, guest, beta)
    t.equal(guest.checkpoints(), [], "migration takes no checkpoints along")
    write(guest, 3)
    result = backup(second, guest)
    t.equal(codes(result), {"checkpoint-redefined", "other-host"})
    t.equal(methods(result), {"bitmap"})
    check(t, second, guest, result)
    write(guest, 4)
    result = backup(second, guest)
    t.equal(codes(result), set())
    t.equal(methods(result), {"bitmap"})
    # Back, and forth and back again without a backup in between; the records stay behind.
    guest = migrate(box, guest, alpha, undefine=False)
    write(guest, 5)
    result = backup(first, guest)
    t.equal(codes(result), {"checkpoint-redefined", "other-host"})
    t.equal(methods(result), {"bitmap"})
    check(t, first, guest, result)
    guest = migrate(box, guest, beta, undefine=False)
    backup(first, guest, status=21).says("Nothing was changed")
    write(guest, 6)
    guest = migrate(box, guest, alpha, undefine=False)
    write(guest, 7)
    result = backup(first, guest)
    t.equal(codes(result), set(), result.describe())
    t.equal(methods(result), {"bitmap"})
    check(t, first, guest, result)
    # To a host that still has records of long ago.
    guest = migrate(box, guest, beta)
    write(guest, 8)
    result = backup(second, guest)
    t.equal(codes(result), {"checkpoint-redefined", "other-host"}, result.describe())
    t.equal(methods(result), {"bitmap"})
    check(t, second, guest, result)
    first.ok("verify")


def plain_xml(guest):
    """Its XML for another host."""
    xml = guest.dom.XMLDesc(libvirt.VIR_DOMAIN_XML_MIGRATABLE)
    return re.sub(r"<seclabel.*?</seclabel>", "", xml, flags=re.DOTALL)


def moved_xml(guest, directory):
    """The same with new, empty images in the directory."""
    xml = plain_xml(guest)
    for target in TARGETS:
        old = guest.disk_path(target)
        new = os.path.join(directory, "%s-%s.qcow2" % (uuid.uuid4().hex[:6], target))
        image.create(new, SIZE)
        xml = xml.replace(old, new)
    return xml


@tap.test
def test_copied_storage(t):
    box = cluster(t)
    (first, second), guest = box.tools(t), box.guest(t, "web02")
    alpha, beta = box.hosts
    write(guest, 1)
    backup(first, guest)
    for host, tool, byte in ((beta, second, 2), (alpha, first, 6)):
        write(guest, byte)
        guest = migrate(box, guest, host, xml=moved_xml(guest, host.images))
        t.contains(guest.disk_path("vda"), host.images)
        write(guest, byte + 1)
        result = backup(tool, guest)
        t.ok({"source-changed", "other-host"} <= codes(result), result.describe())
        t.equal(methods(result), {"compare"})
        check(t, tool, guest, result)
        write(guest, byte + 2)
        result = backup(tool, guest)
        t.equal(codes(result), set())
        t.equal(methods(result), {"bitmap"})
        check(t, tool, guest, result)
    first.ok("verify")


@tap.test
def test_copied_there_and_back(t):
    """Over the images that it had left, which still have their old bitmaps."""
    box = cluster(t)
    (first, _), guest = box.tools(t), box.guest(t, "web06")
    alpha, beta = box.hosts
    for byte in (1, 2, 3):
        write(guest, byte)
    old = {target: guest.disk_path(target) for target in TARGETS}
    backup(first, guest)
    write(guest, 4)
    guest = migrate(box, guest, beta, xml=moved_xml(guest, beta.images))
    write(guest, 5)
    guest.suspend()
    for target in TARGETS:
        guest.qemu_io(target, "write -z -u 1M 1M")
        guest.qemu_io(target, "flush")
    guest.resume()
    xml = plain_xml(guest)
    for target in TARGETS:
        xml = xml.replace(guest.disk_path(target), old[target])
    guest = migrate(box, guest, alpha, xml=xml)
    t.equal(guest.disk_path("vda"), old["vda"], "the old image")
    write(guest, 6)
    result = backup(first, guest)
    t.equal({disk["level"] for disk in result.json_lines[0]["point"]["disks"]}, {"incremental"})
    tap.diag("%s by %s" % (sorted(codes(result)), methods(result)))
    check(t, first, guest, result)
    first.ok("verify")


@tap.test
def test_while_it_migrates(t):
    box = cluster(t)
    (first, _), guest = box.tools(t), box.guest(t, "web03")
    backup(first, guest)
    names = guest.checkpoints()
    failed = []

    def slowly():
        try:
            migrate(box, guest, box.hosts[1], bandwidth=1, connection=libvirt.open(
                guest.host.uri))
        except libvirt.libvirtError as error:
            failed.append(error)
    thread = threading.Thread(target=slowly)
    thread.start()
    try:
        t.eventually(lambda: guest.job_active() or failed, 20, "the migration runs")
        t.equal(failed, [], "the migration runs")
        backup(first, guest, status=11).says("a migration is running")
    finally:
        guest.dom.abortJob()
        thread.join(60)
    t.equal(len(failed), 1, "the migration was ended")
    t.equal(guest.checkpoints(), names, "nothing was changed")
    write(guest, 1)
    result = backup(first, guest)
    t.equal(methods(result), {"bitmap"})
    check(t, first, guest, result)


@tap.test
def test_a_run_that_died_before_a_migration(t):
    box = cluster(t)
    (first, second), guest = box.tools(t), box.guest(t, "web04")
    alpha, beta = box.hosts
    write(guest, 1)
    backup(first, guest)
    write(guest, 2)
    first.run("backup", guest.name, "--quiesce", "none", fail_at="job-started=kill").expect(-9)
    t.eventually(lambda: not guest.job_active(), 60, "the guard has ended the job")
    scratch = box.env[alpha]["VMBACKUP_TEST_SCRATCH_DIR"]
    left = os.listdir(scratch)
    t.equal(len(left), 1, "scratch files of the dead run")
    guest = migrate(box, guest, beta)
    write(guest, 3)
    result = backup(second, guest)
    t.equal(codes(result), {"leftovers-kept", "checkpoint-redefined", "other-host"},
            result.describe())
    t.equal(methods(result), {"bitmap"})
    check(t, second, guest, result)
    t.equal(os.listdir(scratch), left, "the other host's files are not touched")
    t.equal(codes(backup(second, guest)), set())
    guest = migrate(box, guest, alpha)
    write(guest, 4)
    result = backup(first, guest)
    t.equal(codes(result), {"leftovers-removed", "checkpoint-redefined", "other-host"},
            result.describe())
    t.equal(os.listdir(scratch), [])
    check(t, first, guest, result)


@tap.test
def test_one_domain_on_two_hosts(t):
    box = cluster(t)
    (first, second), guest = box.tools(t), box.guest(t, "web05")
    alpha, beta = box.hosts
    write(guest, 1)
    backup(first, guest)
    other = Guest(beta, name="web05", disks=[SIZE, SIZE], mount=(), uuid_=guest.uuid)
    other.start(paused=True)
    result = backup(second, other, "--peer", beta.uri, "--peer", alpha.uri, status=21)
    result.says("alpha", "runs the same domain")
    t.equal(other.checkpoints(), [], "nothing was changed")
    # Without a peer, or with one that does not answer, it is only told.
    nowhere = "qemu+unix:///system?socket=" + beta.path("nowhere")
    result = backup(second, other, "--peer", beta.uri, "--peer", nowhere)
    result.says("nobody knows whether another host runs")
    t.ok({"other-host", "source-changed"} <= codes(result), result.describe())
    t.equal(methods(result), {"compare"})
    # The newest point is this host's own now, but the first host is refused as long as both run.
    t.ok("other-host" not in codes(backup(second, other, "--peer", alpha.uri)), "its own point")
    backup(first, guest, "--peer", beta.uri, status=21).says("beta", "runs the same domain")
    other.destroy()
    result = backup(first, guest, "--peer", beta.uri)
    t.ok("other-host" in codes(result), result.describe())
    write(guest, 2)
    check(t, first, guest, backup(first, guest))


if __name__ == "__main__":
    tap.main()
