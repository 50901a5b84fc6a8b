# SPDX-License-Identifier: GPL-2.0-or-later
"""Repositories with real points that need no libvirt, and what their disks hold, by qemu-img."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from vmbtest.vmbackup import Tool  # noqa: E402

UUID = "0d1a6b4c-0000-4000-8000-00000000aa01"
IDS = ["20261121T02000%dZ" % n for n in range(1, 6)]
DOMAIN = """<domain type='qemu'>
  <name>%s</name><uuid>%s</uuid><memory>65536</memory><os><type>hvm</type></os>
  <devices>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
      <source file='/images/web01.qcow2'/><target dev='vda' bus='virtio'/></disk>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
      <source file='/images/web01-data.qcow2'/><target dev='vdb' bus='virtio'/></disk>
  </devices>
</domain>
"""


def directory(t):
    """A new one, removed in the end."""
    path = tempfile.mkdtemp(prefix="vmbackup-test-")
    t.defer(shutil.rmtree, path, ignore_errors=True)
    return path


def make(t, repo, name="web01", uuid=UUID, n=3, every=None):
    """Makes a full and n - 1 increments of two disks; with every, a full each so many points."""
    helper = os.environ.get("VMBACKUP_TEST_MAKE_POINTS")
    t.require(helper, "VMBACKUP_TEST_MAKE_POINTS does not name the helper")
    with tempfile.NamedTemporaryFile("w", suffix=".xml") as xml:
        xml.write(DOMAIN % (name, uuid))
        xml.flush()
        more = ["1", str(n), str(every)] if every else []
        subprocess.run([helper, repo, name, uuid, xml.name, str(n), *more], check=True)


def repository(t, n=3, where=None):
    """The program with a repository of n points; IDS are theirs."""
    tool = Tool(t, repo=os.path.join(where or directory(t), "repo"))
    tool.ok("init")
    make(t, tool.repo, n=n)
    IDS[3:] = ["20261121T02000%dZ" % k for k in range(4, n + 1)] if n > 3 else []
    return tool


def point(tool, number, uuid=UUID):
    """Directory of a point."""
    return os.path.join(tool.repo, "domains", uuid, "points", "20261121T02000%dZ" % (number + 1))


def raw_digest(image):
    """What qemu-img reads from an image and all below it."""
    with tempfile.NamedTemporaryFile() as raw:
        subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, raw.name],
                       check=True)
        with open(raw.name, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()


def contents(t, tool, ids=None):
    """{(point, disk): digest} of all that is listed, by qemu-img alone."""
    found = {}
    for entry in tool.json("list")["points"]:
        if ids is not None and entry["id"] not in ids:
            continue
        for disk in entry["disks"]:
            image = os.path.join(tool.repo, "domains", entry["uuid"], "points", entry["id"],
                                 disk["target"] + ".qcow2")
            found[entry["domain"], entry["id"], disk["target"]] = raw_digest(image)
    return found


def restored(t, tool, where):
    """The same by restoring each point."""
    found = {}
    for entry in tool.json("list")["points"]:
        to = os.path.join(where, "restored")
        tool.ok("restore", entry["uuid"] + "/" + entry["id"], "--to", to, "--format", "raw")
        for disk in entry["disks"]:
            with open(os.path.join(to, disk["target"] + ".raw"), "rb") as file:
                content = file.read()
            content += bytes(-len(content) % 512)
            found[entry["domain"], entry["id"], disk["target"]] = hashlib.sha256(
                content).hexdigest()
        shutil.rmtree(to)
    return found


def flip(path, offset):
    """Changes one bit."""
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))
