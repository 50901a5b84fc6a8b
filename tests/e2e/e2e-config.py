#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole configuration: NVRAM, TPM state, kernel, secrets, guest facts; restored, defined, started."""

import hashlib
import os
import stat
import sys
import tarfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from vmbtest import image, tap  # noqa: E402
from vmbtest.guest import Disk, Guest  # noqa: E402
from vmbtest.libvirtd import PrivateLibvirt  # noqa: E402
from vmbtest.vmbackup import Tool  # noqa: E402

GRAPHICS = "<graphics type='vnc' port='-1' autoport='yes' passwd='s3cretpw'/>"


def make_tool(t, host, repo):
    tool = Tool(t, repo=host.path(repo), host=host, env={
        "VMBACKUP_TEST_RUN_DIR": host.directory("vmbrun", 0o711),
        "VMBACKUP_TEST_SCRATCH_DIR": host.directory("scratch", 0o711)})
    tool.ok("init")
    return tool


def point_dir(tool, point):
    return os.path.join(tool.repo, "domains", point["uuid"], "points", point["id"])


@tap.test
def test_everything_is_saved_and_comes_back(t):
    host = t.once("host", PrivateLibvirt)
    guest = Guest(host, name="full01", nvram=True, tpm=True, interfaces=2, disks=[
        Disk(32 * image.MIB, serial="DISK-A"), Disk(16 * image.MIB),
        Disk(None, device="cdrom", target="sda"), Disk(None, device="floppy", target="fda"),
        Disk(8 * image.MIB, readonly=True, target="vdc")], extra_devices=GRAPHICS, start=True)
    t.defer(guest.destroy)
    tool = make_tool(t, host, "repo-config")
    result = tool.ok("backup", "full01", "-vv")
    t.ok("s3cretpw" not in result.err, "a password is in the log")
    for left_out in ("sda", "fda", "vdc"):
        t.contains(result.err, left_out)
    point = tool.json("list")["points"][0]
    directory = point_dir(tool, point)
    names = set(os.listdir(directory))
    t.ok({"domain.xml", "domain-live.xml", "nvram.fd", "kernel", "initrd", "tpm.tar"} <= names,
         "files: %s" % names)
    for name in names:
        mode = stat.S_IMODE(os.lstat(os.path.join(directory, name)).st_mode)
        t.equal(mode, 0o600, "mode of " + name)
    with open(os.path.join(directory, "domain.xml"), encoding="utf-8") as file:
        t.contains(file.read(), "s3cretpw", "the secret must be in the stored XML")
    with tarfile.open(os.path.join(directory, "tpm.tar")) as tar:
        t.ok(any(m.isfile() and m.size > 0 for m in tar.getmembers()), "no TPM state in the archive")
    show = tool.json("show", "full01/latest")
    text = str(show)
    t.contains(text, "/mnt/vda", "facts on file systems")
    t.contains(text, "vmbackup test guest", "facts on the system")
    skipped = {d["target"]: d["reason"] for d in show["manifest"]["skipped"]}
    t.equal(skipped, {"sda": "no-medium", "fda": "no-medium", "vdc": "read-only"})
    tool.ok("verify")

    to = host.path("restored-config")
    refused = tool.run("restore", "full01/latest", "--to", to, "--define")
    t.ok(refused.status not in (0, None), "a domain of the same name was defined again")
    t.ok(not os.path.exists(to), "the refused restore left something")
    tool.ok("restore", "full01/latest", "--to", to, "--name", "full02", "--start")
    restored = Guest.existing(host, "full02")
    t.defer(restored.destroy)
    restored.wait_agent()
    xml = restored.dom.XMLDesc(0)
    for name in ("nvram.fd", "kernel", "initrd", "vda.qcow2", "vdb.qcow2"):
        t.contains(xml, os.path.join(to, name))
    with open(os.path.join(directory, "kernel"), "rb") as a, open(to + "/kernel", "rb") as b:
        t.equal(hashlib.sha256(a.read()).digest(), hashlib.sha256(b.read()).digest())
    state = host.outside("/var/lib/libvirt/swtpm/%s/tpm2" % restored.uuid)
    t.ok(os.path.isdir(state) and os.listdir(state), "no TPM state at " + state)
    t.ok(restored.uuid != guest.uuid, "the UUID is the old one")


@tap.test
def test_unreadable_configuration_is_a_warning(t):
    host = t.once("host", PrivateLibvirt)
    guest = Guest(host, name="conf02", nvram=True, disks=[16 * image.MIB], start=True)
    t.defer(guest.destroy)
    tool = make_tool(t, host, "repo-unreadable")
    os.rename(guest.nvram, guest.nvram + ".away")
    t.defer(os.rename, guest.nvram + ".away", guest.nvram)
    result = tool.ok("backup", "conf02")
    t.contains(result.err, "config-unreadable")
    t.equal(tool.run("backup", "conf02", "--strict").status, 3)


@tap.test
def test_dangerous_parts_are_refused(t):
    host = t.once("host", PrivateLibvirt)
    xml = ("<qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>"
           "<qemu:arg value='-global'/><qemu:arg value='virtio-blk-pci.ioeventfd=on'/>"
           "</qemu:commandline>")
    guest = Guest(host, name="danger", disks=[16 * image.MIB], extra_xml=xml, start=True)
    t.defer(guest.destroy)
    tool = make_tool(t, host, "repo-danger")
    tool.ok("backup", "danger")
    to = host.path("restored-danger")
    result = tool.run("restore", "danger/latest", "--to", to)
    t.equal(result.status, 1)
    result.says("qemu:commandline", "--allow")
    t.ok(not os.path.exists(to), "the refused restore left something")
    tool.ok("restore", "danger/latest", "--to", to, "--allow", "qemu:commandline")
    t.ok(os.path.exists(to + "/domain.xml"), "no XML")


if __name__ == "__main__":
    tap.main()
