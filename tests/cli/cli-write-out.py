#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""restore to standard output, block devices and NBD exports: the bytes of the point, over whatever was there."""

import os
import re
import signal
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from points import IDS, directory, flip, point, repository  # noqa: E402
from vmbtest import tap  # noqa: E402

MIB = 1 << 20


def raw(tool, number, target):
    """What qemu-img reads of a point."""
    path = os.path.join(tool.repo, "..", "raw")
    subprocess.run(["qemu-img", "convert", "-O", "raw", os.path.join(point(tool, number), target + ".qcow2"),
                    path], check=True)
    with open(path, "rb") as file:
        return file.read()


def device(t, size, where):
    """A loop device full of noise."""
    path = os.path.join(where, "device-%d" % size)
    with open(path, "wb") as file:
        file.write(os.urandom(size))
    found = subprocess.run(["losetup", "--find", "--show", path], capture_output=True, text=True)
    t.require(found.returncode == 0, "no loop devices here: " + found.stderr)
    name = found.stdout.strip()
    t.defer(subprocess.run, ["losetup", "-d", name], check=False)
    return name, path


def content(path):
    """All bytes of a file."""
    with open(path, "rb") as file:
        return file.read()


@tap.test
def test_stream(t):
    """Whole and in order, into a pipe and a file; nothing else goes there."""
    tool = repository(t, n=3)
    out = os.path.join(directory(t), "out")
    for number, target in ((2, "vda"), (0, "vda"), (2, "vdb")):
        for shell in ("%s >%s", "%s | cat >%s"):
            command = " ".join(tool.argv("restore", "web01/" + IDS[number], "--to", "-", "--disk", target))
            subprocess.run(["bash", "-o", "pipefail", "-c", shell % (command, out)], check=True)
            t.equal(content(out) == raw(tool, number, target), True, "%s %s" % (IDS[number], target))


@tap.test
def test_stream_that_ends(t):
    """A reader that goes away, a full disk, one that takes nothing: an error, and an end."""
    tool = repository(t, n=1)
    words = tool.argv("restore", "web01/latest", "--to", "-", "--disk", "vda")
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    child.stdout.read(1000)
    child.stdout.close()
    t.ok(b"takes no more" in child.stderr.read(), "it does not say why")
    t.equal(child.wait(20), 1)
    child.stderr.close()
    with open("/dev/full", "wb") as full:
        t.equal(subprocess.run(words, stdout=full, stderr=subprocess.DEVNULL).returncode, 1)
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    child.stdout.read(1000)
    child.send_signal(signal.SIGTERM)
    t.equal(child.wait(20), -signal.SIGTERM)
    child.stdout.close()


@tap.test
def test_devices(t):
    """Two disks to two devices in one go; one that is larger keeps what lies behind."""
    tool = repository(t, n=3)
    where = directory(t)
    first, first_file = device(t, 40 * 65536 + 512, where)
    second, second_file = device(t, MIB, where)
    behind = content(second_file)[3 * 65536:]
    result = tool.ok("restore", "web01/latest", "--disk", "vda=%s,vdb=%s" % (first, second), "--json")
    t.equal([(disk["target"], disk["path"]) for disk in result.json["disks"]], [("vda", first), ("vdb", second)])
    t.equal(content(first_file) == raw(tool, 2, "vda"), True, "vda")
    t.equal(content(second_file) == raw(tool, 2, "vdb") + behind, True, "vdb")
    # Too small, mounted, no device, one twice: nothing is written to any.
    small, small_file = device(t, MIB - 65536, where)
    before = content(small_file), content(second_file)
    for destination, says in ((small, "bytes"), (os.path.join(where, "file"), "No such file"),
                              (first_file, "no block device"), (second, "twice")):
        tool.run("restore", "web01/latest", "--disk", "vdb=%s,vda=%s" % (second, destination)).expect(2).says(says)
    subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", second], check=True)
    mount = os.path.join(where, "mnt")
    os.mkdir(mount)
    subprocess.run(["mount", second, mount], check=True)
    tool.run("restore", "web01/latest", "--disk", "vdb=" + second).expect(1).says("in use")
    subprocess.run(["umount", mount], check=True)
    t.equal(content(small_file) == before[0], True, "the small one")


def nbd_server(t, where, size, *filters, after=()):
    """A server with an export full of noise: its URI and file."""
    path, sock = os.path.join(where, "export"), os.path.join(where, "sock")
    with open(path, "wb") as file:
        file.write(os.urandom(size))
    if os.path.exists(sock):
        os.unlink(sock)
    server = subprocess.Popen(["nbdkit", "-f", "-U", sock, "-e", "web01", *filters, "file", path, *after])
    t.defer(server.wait)
    t.defer(server.terminate)
    t.eventually(lambda: os.path.exists(sock), 20, "no server")
    return "nbd+unix:///web01?socket=" + sock, path


@tap.test
def test_nbd(t):
    """With and without requests for zeroes."""
    tool = repository(t, n=3)
    for options, after in ((), ()), (["--filter=nozero"], ()), (["--filter=delay"], ["delay-write=5ms"]):
        uri, path = nbd_server(t, directory(t), 40 * 65536 + 512, *options, after=after)
        tool.ok("restore", "web01/latest", "--disk", "vda=" + uri)
        t.equal(content(path) == raw(tool, 2, "vda"), True, "vda %s" % (options,))
    uri, path = nbd_server(t, directory(t), 65536)
    tool.run("restore", "web01/latest", "--disk", "vda=" + uri).expect(2).says("bytes")
    uri, path = nbd_server(t, directory(t), 4 * MIB, "-r")
    tool.run("restore", "web01/latest", "--disk", "vda=" + uri).expect(2).says("read-only")
    uri, path = nbd_server(t, directory(t), 4 * MIB, "--filter=error",
                           after=["error-pwrite=ENOSPC", "error-pwrite-rate=1"])
    tool.run("restore", "web01/latest", "--disk", "vda=" + uri).expect(1).says("No space", "not the whole disk")
    tool.run("restore", "web01/latest", "--disk", "vda=nbd+unix:///x?socket=/nonexistent").expect(2)
    tool.run("restore", "web01/latest", "--disk", "vda=http://x").expect(2)


@tap.test
def test_nbd_server_dies(t):
    """In the middle, and one that answers no more."""
    tool = repository(t, n=1)
    where = directory(t)
    uri, _ = nbd_server(t, where, 40 * 65536 + 512, "--filter=delay", "-P",
                        os.path.join(where, "pid"), after=["delay-write=2"])
    gate = os.path.join(where, "gate")
    running = tool.start("restore", "web01/latest", "--disk", "vda=" + uri,
                         fail_at="restore-disk-data=wait:" + gate)
    t.eventually(lambda: os.path.exists(gate + ".reached"), 20, "no data")
    pid = int(content(os.path.join(where, "pid")))
    t.defer(os.kill, pid, signal.SIGCONT)
    os.kill(pid, signal.SIGSTOP)
    with open(gate, "wb"):
        pass
    running.signal(signal.SIGTERM)
    running.wait(20).expect(128 + signal.SIGTERM).says("not the whole disk")


@tap.test
def test_damage(t):
    """Told by the status, with the range; with --ignore-damage zeroes go out in its place."""
    tool = repository(t, n=2)
    path = os.path.join(point(tool, 0), "vda.qcow2")
    good = raw(tool, 0, "vda")
    magic = content(path).index(bytes([0x28, 0xb5, 0x2f, 0xfd]))
    flip(path, magic + 20)
    out = os.path.join(directory(t), "out")
    words = tool.argv("restore", "web01/" + IDS[0], "--to", "-", "--disk", "vda")
    with open(out, "wb") as file:
        result = subprocess.run(words, stdout=file, stderr=subprocess.PIPE, text=True)
    t.equal(result.returncode, 4)
    t.ok("not the whole disk" in result.stderr, result.stderr)
    t.ok(os.path.getsize(out) < len(good), "all of it")
    with open(out, "wb") as file:
        result = subprocess.run(words + ["--ignore-damage"], stdout=file, stderr=subprocess.PIPE, text=True)
    t.equal(result.returncode, 4)
    offset = int(re.search(r"65536 bytes at offset (\d+) are lost", result.stderr)[1])
    t.equal(content(out) == good[:offset] + bytes(65536) + good[offset + 65536:], True, "the rest")


@tap.test
def test_wrong_usage(t):
    """What does not go together."""
    tool = repository(t, n=1)
    for words in (["--to", "-"], ["--to", "-", "--disk", "vda,vdb"], ["--to", "-", "--disk", "vda", "--json"],
                  ["--to", "-", "--disk", "vda", "--define"], ["--to", "-", "--disk", "vdz"],
                  ["--disk", "vda=/dev/null,vdb"], ["--disk", "vda=/dev/null", "--to", "x"],
                  ["--disk", "vda=/dev/null"], ["--disk", "vda=-"], ["--disk", "vda=x,vda=y"],
                  ["--disk", "vda=x", "--start"], ["--disk", "vda=x", "--exclude-disk", "vdb"], []):
        result = tool.run("restore", "web01/latest", *words).expect(2)
        if "--json" not in words:
            t.equal(result.out, "")


if __name__ == "__main__":
    tap.main()
