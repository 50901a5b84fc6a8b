#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Listing, showing, verifying and restoring points that need no libvirt."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from vmbtest import tap  # noqa: E402
from vmbtest.vmbackup import Tool, binary  # noqa: E402

UUID = "0d1a6b4c-0000-4000-8000-00000000aa01"
OTHER_UUID = "0d1a6b4c-0000-4000-8000-00000000aa02"
IDS = ["20261121T020001Z", "20261121T020002Z", "20261121T020003Z"]
DOMAIN = """<domain type='qemu'>
  <name>%s</name><uuid>%s</uuid><memory>65536</memory><os><type>hvm</type></os>
  <devices>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
      <source file='/images/web01.qcow2'/><target dev='vda' bus='virtio'/></disk>
    <disk type='block' device='disk'><driver name='qemu' type='raw'/>
      <source dev='/dev/vg/data'/><target dev='vdb' bus='virtio'/></disk>
    <disk type='file' device='cdrom'><source file='/nowhere.iso'/>
      <target dev='sda' bus='sata'/><readonly/></disk>
    <interface type='user'><mac address='52:54:00:aa:bb:cc'/></interface>%s
  </devices>
</domain>
"""


def directory(t):
    path = tempfile.mkdtemp(prefix="vmbackup-test-")
    t.defer(shutil.rmtree, path, ignore_errors=True)
    return path


def make(t, repo, name="web01", uuid=UUID, n=3, extra=""):
    helper = os.environ.get("VMBACKUP_TEST_MAKE_POINTS")
    t.require(helper, "VMBACKUP_TEST_MAKE_POINTS does not name the helper")
    with tempfile.NamedTemporaryFile("w", suffix=".xml") as xml:
        xml.write(DOMAIN % ("web01", uuid, extra))
        xml.flush()
        subprocess.run([helper, repo, name, uuid, xml.name, str(n)], check=True)


def repository(t, **how):
    repo = os.path.join(directory(t), "repo")
    tool = Tool(t, repo=repo)
    tool.ok("init")
    make(t, repo, **how)
    return tool


def point(tool, number, uuid=UUID):
    return os.path.join(tool.repo, "domains", uuid, "points", IDS[number])


def flip(path, offset):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


@tap.test
def test_list(t):
    tool = repository(t)
    make(t, tool.repo, name="db01", uuid=OTHER_UUID, n=1)
    lines = tool.ok("list").out.splitlines()
    t.equal([line.split()[0] for line in lines],
            ["POINT", "db01/" + IDS[0]] + ["web01/" + i for i in IDS])
    t.equal(lines[2].split()[1:3], ["full", "filesystem"])
    t.equal(lines[3].split()[1], "incremental")
    points = tool.json("list", "web01")["points"]
    t.equal([p["id"] for p in points], IDS)
    t.equal([p["sequence"] for p in points], [1, 2, 3])
    t.equal({(p["domain"], p["uuid"]) for p in points}, {("web01", UUID)})
    t.equal(points[0]["time"], "2026-11-21T02:00:01Z")
    for p in points:
        files = os.listdir(os.path.join(tool.repo, "domains", UUID, "points", p["id"]))
        sizes = {f: os.path.getsize(os.path.join(tool.repo, "domains", UUID, "points", p["id"], f))
                 for f in files}
        t.ok(sizes["vda.qcow2"] + sizes["vdb.qcow2"] < p["stored"] <= sum(sizes.values()),
             "stored is %d, files are %s" % (p["stored"], sizes))
        t.equal([d["target"] for d in p["disks"]], ["vda", "vdb"])
        t.equal([d["stored"] for d in p["disks"]], [sizes["vda.qcow2"], sizes["vdb.qcow2"]])
    t.equal(points[0]["disks"][0]["parent"], None)
    t.equal(points[2]["disks"][1]["parent"], IDS[1])
    t.equal(points[2]["disks"][1]["method"], "bitmap")
    t.equal(points[1]["disks"][0]["size"], 40 * 65536 + 512)
    t.equal(tool.json("list", UUID)["points"], points)
    t.equal(len(tool.json("list")["points"]), 4)
    tool.run("list", "web").expect(21).says("web")


@tap.test
def test_show(t):
    tool = repository(t)
    text = tool.ok("show", "web01/latest").out
    for part in ("web01/" + IDS[2], UUID, "vda", "left out", "cdrom", "resized vda", "nvram.fd",
                 "/nvram/x.fd", "filesystem", "never", "guest?]0;title?", "/srv?[0m"):
        t.contains(text, part)
    document = tool.json("show", "web01/" + IDS[1][:-1])
    t.equal((document["id"], document["domain"], document["uuid"], document["schema"]),
            (IDS[1], "web01", UUID, 1))
    t.equal(document["manifest"]["id"], IDS[1])
    t.equal(document["disks"], tool.json("list")["points"][1]["disks"])
    t.equal(document["reasons"][0]["code"], "resized")
    t.equal(document["state"], {"verified": None, "checked": None, "result": None,
                                "metadata_damaged": False, "damage": [], "protected": False,
                                "tags": []})
    tool.ok("verify", "web01/" + IDS[0])
    t.equal(tool.json("show", "web01/" + IDS[0])["state"]["result"], "ok")
    t.contains(tool.ok("show", "web01/" + IDS[0]).out, ", ok")
    tool.run("show", "web01/2026").expect(21).says(IDS[0], IDS[2])
    tool.run("show", "web01/19991231").expect(21)


@tap.test
def test_control_characters(t):
    tool = repository(t, name="we\033[31mb\u202e01", n=1)
    for args in (("list",), ("show", UUID + "/latest"), ("verify",)):
        result = tool.ok(*args)
        for line in (result.out + result.err).splitlines():
            t.ok(all(c.isprintable() for c in line), repr(line))
    t.ok("\033" not in tool.ok("list", "--json").out, "escape in JSON")


@tap.test
def test_damaged_manifest(t):
    tool = repository(t)
    flip(os.path.join(point(tool, 1), "manifest.json"), 100)
    result = tool.run("list").expect(4).says(IDS[1])
    t.contains(result.out, "DAMAGED")
    result = tool.run("list", "--json").expect(4)
    points = result.json["points"]
    t.equal([p["id"] for p in points], [IDS[0], IDS[2], IDS[1]])
    t.equal((points[2]["damaged"], points[2]["error"]["code"]), (True, "damage"))
    tool.run("show", "web01/" + IDS[1]).expect(4).says(IDS[1])
    tool.ok("show", "web01/" + IDS[0])
    to = os.path.join(directory(t), "out")
    for number in (1, 2):
        tool.run("restore", "web01/" + IDS[number], "--to", to).expect(4).says(IDS[1])
        t.ok(not os.path.exists(os.path.join(to, "vda.qcow2")), "a damaged point was restored")
    tool.ok("restore", "web01/" + IDS[0], "--to", to)
    os.truncate(os.path.join(point(tool, 1), "manifest.json"), 200)
    tool.run("list").expect(4)


@tap.test
def test_verify(t):
    tool = repository(t)
    result = tool.ok("verify")
    t.equal(len([line for line in result.out.splitlines() if ": ok (" in line]), 3)
    lines = tool.json_lines("verify", "web01", "--jobs", "2")
    t.equal([line["type"] for line in lines], ["point"] * 3 + ["summary"])
    t.equal(sorted(line["id"] for line in lines[:3]), IDS)
    t.equal({line["result"] for line in lines[:3]}, {"ok"})
    t.equal((lines[3]["points"], lines[3]["damaged"], lines[3]["exit_status"]), (3, 0, 0))
    t.ok(lines[3]["bytes"] > 65536, "nothing was read")
    # A point is verified with all that it builds on, each point once.
    t.equal(tool.json_lines("verify", "web01/latest")[-1]["points"], 3)
    t.equal(tool.json_lines("verify", "web01/" + IDS[0], "web01")[-1]["points"], 3)
    t.equal(tool.json_lines("verify", "web01/" + IDS[0])[-1]["points"], 1)


@tap.test
def test_verify_names_the_damage(t):
    tool = repository(t)
    image = os.path.join(point(tool, 0), "vda.qcow2")
    size = os.path.getsize(image)
    # A byte of stored data: found by trying, as metadata is damage as well.
    flip(image, size // 2)
    result = tool.run("verify", "--json").expect(4)
    lines = {line["id"]: line for line in result.json_lines[:-1]}
    t.equal(lines[IDS[0]]["result"], "damaged")
    t.ok(any(f["disk"] == "vda" and f["offset"] is not None and f["offset"] % 65536 == 0
             for f in lines[IDS[0]]["findings"]), str(lines[IDS[0]]["findings"]))
    t.ok(result.summary["damaged"] >= 1, "the summary counts the damage")
    t.contains(tool.run("verify").expect(4).out, "disk vda")
    quiet = tool.run("verify", "-q").expect(4).says("web01/" + IDS[0])
    t.equal(quiet.out, "")
    t.contains(tool.ok("show", "web01/" + IDS[0]).out, "damaged")


def compare(t, one, two, fmt):
    run = subprocess.run(["qemu-img", "compare", "-f", "qcow2", "-F", fmt, one, two],
                         capture_output=True, text=True)
    t.equal(run.returncode, 0, run.stdout + run.stderr)


@tap.test
def test_restore(t):
    t.require(shutil.which("qemu-img"), "qemu-img is not installed")
    tool = repository(t)
    for number, i in enumerate(IDS):
        for fmt in ("qcow2", "raw"):
            to = os.path.join(directory(t), "out")
            result = tool.ok("restore", "web01/" + i, "--to", to, "--format", fmt)
            t.equal(sorted(os.listdir(to)), ["domain.xml", "nvram.fd", "vda." + fmt, "vdb." + fmt])
            for target in ("vda", "vdb"):
                compare(t, os.path.join(point(tool, number), target + ".qcow2"),
                        os.path.join(to, "%s.%s" % (target, fmt)), fmt)
            t.contains(result.out, os.path.join(to, "domain.xml"))
            with open(os.path.join(to, "domain.xml"), encoding="utf-8") as file:
                xml = file.read()
            for target in ("vda", "vdb"):
                t.contains(xml, "file=\"%s/%s.%s\"" % (to, target, fmt))
            t.contains(xml, UUID)
            t.ok("/images/" not in xml and "/dev/vg" not in xml and "nowhere" not in xml, xml)


FILES = ["domain.xml", "nvram.fd", "vda.qcow2", "vdb.qcow2"]
MARKER = "RESTORE-INCOMPLETE.txt"


def hidden(path):
    """What dead restores have left there."""
    return [n for n in os.listdir(path) if n.startswith(".vmbackup-restore-")]


@tap.test
def test_a_new_directory_appears_with_all_its_files(t):
    tool = repository(t)
    base = directory(t)
    to = os.path.join(base, "out")
    for step in ("restore-disk-data", "restore-disk-done", "restore-before-publish"):
        tool.run("restore", "web01/latest", "--to", to, fail_at=step + "=kill").expect(-9)
        t.ok(not os.path.exists(to), "it is there after " + step)
        t.equal(len(hidden(base)), 1)
        t.ok(hidden(base)[0].startswith(".vmbackup-restore-out-"), hidden(base)[0])
    for step in ("restore-disk-data", "restore-before-publish", "restore-published"):
        tool.run("restore", "web01/latest", "--to", to, fail_at=step + "=fail").expect(1)
        t.ok(not os.path.exists(to), "it is there after " + step)
        t.equal(hidden(base), [], "left after " + step)
    # Somebody was faster.
    running = tool.start("restore", "web01/latest", "--to", to,
                         fail_at="restore-before-publish=wait:" + os.path.join(base, "go"))
    t.eventually(lambda: os.path.exists(os.path.join(base, "go.reached")), 20, "it waits")
    os.mkdir(to)
    with open(os.path.join(base, "go"), "wb"):
        pass
    running.wait().expect(1).says(to, "File exists")
    t.equal((os.listdir(to), hidden(base)), ([], []))
    os.rmdir(to)
    tool.ok("restore", "web01/latest", "--to", to)
    t.equal((sorted(os.listdir(to)), hidden(base)), (FILES, []))
    t.equal(os.stat(to).st_mode & 0o777, 0o711)


@tap.test
def test_a_killed_restore_is_tidied_up_by_the_next(t):
    tool = repository(t)
    to = os.path.join(directory(t), "out")
    os.mkdir(to)
    for step in ("restore-disk-data", "restore-disk-done", "restore-before-publish"):
        tool.run("restore", "web01/latest", "--to", to, fail_at=step + "=kill").expect(-9)
        t.equal(os.listdir(to), hidden(to))
        t.equal(len(hidden(to)), 1)
        tool.run("restore", "web01/latest", "--to", to, fail_at=step + "=fail").expect(1)
        t.equal(os.listdir(to), [], "left after " + step)
    for step in ("restore-before-file", "restore-files-moved", "restore-published"):
        tool.run("restore", "web01/latest", "--to", to, fail_at=step + "=fail").expect(1)
        t.equal(os.listdir(to), [], "left after " + step)
    tool.ok("restore", "web01/latest", "--to", to)
    t.equal(sorted(os.listdir(to)), FILES)


def killed_between_renames(t, tool, to, n):
    """A restore that dies when n files have got their names."""
    running = tool.start("restore", "web01/latest", "--to", to, fail_at="restore-before-file=stop")

    def stopped():
        with open("/proc/%d/stat" % running.pid, encoding="ascii", errors="replace") as file:
            return file.read().rsplit(")", 1)[1].split()[0] == "T"
    for moved in range(n + 1):
        t.eventually(lambda: stopped() and
                     len([f for f in FILES if os.path.exists(os.path.join(to, f))]) == moved, 20,
                     "%d files" % moved, 0.01)
        if moved < n:
            running.signal(signal.SIGCONT)
    return running


@tap.test
def test_killed_between_two_renames(t):
    """Half of a restore never looks like a whole one, and the next one takes it away."""
    tool = repository(t)
    to = os.path.join(directory(t), "out")
    os.mkdir(to)
    for n in range(len(FILES)):
        running = killed_between_renames(t, tool, to, n)
        # Another one meanwhile leaves it alone.
        tool.run("restore", "web01/latest", "--to", to).expect((1, 11)).says("another restore")
        running.kill9()
        running.wait().expect(-9)
        t.ok("domain.xml" not in os.listdir(to), "domain.xml is there")
        with open(os.path.join(to, MARKER), encoding="utf-8") as file:
            text = file.read()
        for name in FILES:
            t.contains(text, name)
        tool.run("restore", "web01/latest", "--to", to,
                 fail_at="restore-disk-data=fail").says("interrupted")
        t.equal(os.listdir(to), [], "with %d files moved" % n)
    tool.run("restore", "web01/latest", "--to", to, fail_at="restore-files-moved=kill").expect(-9)
    t.equal(sorted(os.listdir(to))[1:], sorted(FILES + [MARKER]))
    tool.ok("restore", "web01/latest", "--to", to)
    t.equal(sorted(os.listdir(to)), FILES)


@tap.test
def test_half_a_restore_that_is_in_use(t):
    """What was changed since is not thrown away."""
    tool = repository(t)
    to = os.path.join(directory(t), "out")
    os.mkdir(to)
    tool.run("restore", "web01/latest", "--to", to, fail_at="restore-files-moved=kill").expect(-9)
    with open(os.path.join(to, "vdb.qcow2"), "r+b") as file:
        file.seek(100000)
        file.write(b"used")
    before = sorted(os.listdir(to))
    tool.run("restore", "web01/latest", "--to", to).expect(1).says("vdb.qcow2", MARKER, "changed")
    t.equal(sorted(os.listdir(to)), before)
    # A list that somebody has damaged removes nothing either.
    with open(os.path.join(to, MARKER), "w", encoding="utf-8") as file:
        file.write("1 2 3.4 ../../etc/passwd\n5 6 7.8 vda.qcow2\n\0\n")
    tool.run("restore", "web01/latest", "--to", to).expect(1).says("vda.qcow2")
    t.equal(sorted(os.listdir(to)), before)


@tap.test
def test_restore_json_and_choice(t):
    tool = repository(t)
    to = os.path.join(directory(t), "out")
    line = tool.ok("restore", "web01/latest", "--to", to, "--disk", "vdb", "--json").summary
    t.equal((line["type"], line["id"], line["domain"], line["exit_status"]),
            ("summary", IDS[2], "web01", 0))
    t.equal([d["target"] for d in line["disks"]], ["vdb"])
    t.equal(line["disks"][0]["path"], os.path.join(to, "vdb.qcow2"))
    t.equal(line["disks"][0]["size"], 3 * 65536)
    t.equal((line["defined"], line["started"], line["error"]), (None, False, None))
    t.ok(not os.path.exists(os.path.join(to, "vda.qcow2")), "vda was restored")
    with open(line["xml"], encoding="utf-8") as file:
        t.ok("vda" not in file.read(), "vda is in the XML")
    # What is there is not overwritten.
    result = tool.run("restore", "web01/latest", "--to", to, "--json").expect(1)
    t.equal(result.summary["error"]["code"], "failed")
    tool.run("restore", "web01/latest", "--to", to + "2", "--disk", "vdz").expect((2, 21)).says("vdz")


@tap.test
def test_restore_under_another_name(t):
    tool = repository(t, n=1)
    base = directory(t)
    tool.ok("restore", "web01/latest", "--to", os.path.join(base, "a"), "--name", "web02")
    tool.ok("restore", "web01/latest", "--to", os.path.join(base, "b"), "--name", "web02",
            "--keep-uuid", "--keep-mac")
    texts = []
    for name in ("a", "b"):
        with open(os.path.join(base, name, "domain.xml"), encoding="utf-8") as file:
            texts.append(file.read())
        t.contains(texts[-1], "<name>web02</name>")
    t.ok(UUID not in texts[0] and "52:54:00:aa:bb:cc" not in texts[0], texts[0])
    t.ok(UUID in texts[1] and "52:54:00:aa:bb:cc" in texts[1], texts[1])


@tap.test
def test_restore_refuses_dangerous_parts(t):
    tool = repository(t, n=1, extra="<hostdev mode='subsystem' type='usb'/>"
                                    "<serial type='dev'><source path='/dev/ttyS0'/></serial>")
    to = os.path.join(directory(t), "out")
    result = tool.run("restore", "web01/latest", "--to", to).expect(1)
    result.says("--allow 'hostdev' --allow 'serial:type=dev'")
    t.ok(not os.path.exists(to) or os.listdir(to) == [], "something was written")
    tool.run("restore", "web01/latest", "--to", to, "--allow", "hostdev").expect(1).says("serial")
    tool.ok("restore", "web01/latest", "--to", to, "--allow", "hostdev", "--allow",
            "serial:type=dev")


@tap.test
def test_restore_of_damage(t):
    tool = repository(t)
    image = os.path.join(point(tool, 0), "vda.qcow2")
    flip(image, os.path.getsize(image) // 2)
    to = os.path.join(directory(t), "out")
    tool.run("restore", "web01/" + IDS[0], "--to", to).expect(4).says("vda")
    t.ok(not os.path.exists(to) or os.listdir(to) == [], "files under final names: %s" % to)


def check_signal(number):
    def run(t):
        tool = repository(t)
        base = directory(t)
        gate = os.path.join(base, "gate")
        to = os.path.join(base, "out")
        running = tool.start("restore", "web01/latest", "--to", to, "--json",
                             fail_at="restore-disk-data=wait:" + gate)
        t.eventually(lambda: os.path.exists(gate + ".reached"), 30, "the step was not reached")
        running.signal(number)
        t.eventually(lambda: "stopping" in running.stderr_so_far(), 10, "no word on the signal")
        running.signal(number)
        t.eventually(lambda: "clean-up" in running.stderr_so_far(), 10, "no word on the second one")
        with open(gate, "w", encoding="ascii"):
            pass
        result = running.wait(60).expect(128 + number)
        t.equal(result.summary["error"]["code"], "cancelled")
        t.equal(result.summary["exit_status"], 128 + number)
        t.ok(not os.path.exists(to) or os.listdir(to) == [], "files are left: %s" % to)
    return run


for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    tap.add_test("signal-" + signal_number.name, check_signal(signal_number))


@tap.test
def test_progress_lines(t):
    tool = repository(t, n=1)
    base = directory(t)
    gate = os.path.join(base, "gate")
    running = tool.start("restore", "web01/latest", "--to", os.path.join(base, "out"),
                         fail_at="restore-disk-data=wait:" + gate, VMBACKUP_TEST_PROGRESS_MS=50)
    t.eventually(lambda: running.stderr_so_far().count("/s") >= 2, 30, "no lines of progress")
    with open(gate, "w", encoding="ascii"):
        pass
    running.wait(60).expect(0)


@tap.test
def test_progress_on_a_terminal(t):
    import pty
    tool = repository(t, n=1)
    base = directory(t)
    gate = os.path.join(base, "gate")
    leader, follower = pty.openpty()
    env = dict(os.environ, VMBACKUP_TEST_FAIL_AT="restore-disk-data=wait:" + gate, TERM="xterm")
    child = subprocess.Popen([binary(), "-r", tool.repo, "restore", "web01/latest", "--to",
                              os.path.join(base, "out")], stdout=subprocess.DEVNULL,
                             stderr=follower, env=env)
    t.defer(child.wait)
    t.defer(child.kill)
    os.close(follower)
    text, deadline = b"", time.monotonic() + 30
    while b"web01" not in text:
        t.ok(time.monotonic() < deadline, "no bar: %r" % text)
        text += os.read(leader, 4096)
    with open(gate, "w", encoding="ascii"):
        pass
    try:
        while True:
            more = os.read(leader, 4096)
            if not more:
                break
            text += more
    except OSError:
        pass  # the other end is closed
    os.close(leader)
    t.equal(child.wait(60), 0)
    t.ok(text.rstrip(b"\r\n").endswith(b"\033[K"), "the bar was not erased: %r" % text)
    t.ok(b"\n" not in text, "a bar is one line: %r" % text)


if __name__ == "__main__":
    tap.main()
