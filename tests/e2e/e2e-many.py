#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Several domains in one run, wrong input on a real libvirt, and the check-up."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from vmbtest import image, tap  # noqa: E402
from vmbtest.guest import Disk, Guest  # noqa: E402
from vmbtest.libvirtd import PrivateLibvirt  # noqa: E402
from vmbtest.vmbackup import Tool  # noqa: E402

SMALL = 24 * image.MIB


class Setup:
    """Three domains: one runs, one is paused, one is shut off."""

    def __init__(self, suite):
        self.host = PrivateLibvirt(suite)
        self.run = Guest(self.host, name="alpha", disks=[SMALL, SMALL], start=True)
        self.paused = Guest(self.host, name="beta", disks=[SMALL], mount=())
        self.paused.start(paused=True)
        self.off = Guest(self.host, name="gamma", disks=[SMALL], mount=())
        self.scratch = self.host.directory("scratch", 0o711)
        self.env = {"VMBACKUP_TEST_RUN_DIR": self.host.directory("vmbrun", 0o711),
                    "VMBACKUP_TEST_SCRATCH_DIR": self.scratch}
        self.suite = suite

    def tool(self, name, init=True):
        """The program with a repository of that name."""
        tool = Tool(self.suite, repo=self.host.path(name), host=self.host, env=self.env)
        if init:
            tool.ok("init")
        return tool


def setup(t):
    return t.once("setup", Setup)


def nothing_changed(t, box, tool):
    """No point, no checkpoint of this repository, no leftovers."""
    box.run.assert_healthy(clean=[box.scratch])
    if os.path.isdir(os.path.join(tool.repo, "domains")):
        t.equal(tool.json("list")["points"], [])


@tap.test
def test_all_and_the_running_ones(t):
    box = setup(t)
    tool = box.tool("repo-all")
    lines = tool.json_lines("backup", "--running", "--jobs", "2")
    t.equal(sorted(l["domain"] for l in lines if l["type"] == "domain"), ["alpha", "beta"])
    t.equal(lines[-1]["type"], "summary")
    t.equal(lines[-1]["succeeded"], 2)
    lines = tool.json_lines("backup", "--all", "--jobs", "3")
    t.equal(sorted(l["domain"] for l in lines if l["type"] == "domain"), ["alpha", "beta", "gamma"])
    points = {p["domain"]: p for p in tool.json("list")["points"]}
    t.equal(points["gamma"]["consistency"], "offline")
    t.equal(points["alpha"]["consistency"], "filesystem")
    t.equal(points["beta"]["consistency"], "paused")
    t.ok(not box.paused.is_running(), "the paused domain was resumed")
    tool.ok("verify", "--jobs", "2")


@tap.test
def test_named_twice(t):
    """By name and by UUID: that is one domain, and one point."""
    box = setup(t)
    tool = box.tool("repo-twice")
    for words in (("alpha", box.run.uuid), (box.run.uuid.upper(), "alpha", "alpha")):
        lines = tool.json_lines("backup", *words, "--jobs", "2")
        t.equal([l["domain"] for l in lines if l["type"] == "domain"], ["alpha"])
        t.equal(lines[-1]["domains"], 1)
    t.equal(len(tool.json("list")["points"]), 2)
    # What is unknown is still told, and does not stop the other.
    lines = tool.run("backup", "nobody", "alpha", "--json").expect(3).json_lines
    t.equal([(l["domain"], l["status"]) for l in lines if l["type"] == "domain"],
            [("nobody", "failed"), ("alpha", "ok")])


@tap.test
def test_one_failing_domain_does_not_stop_the_others(t):
    box = setup(t)
    tool = box.tool("repo-some")
    result = tool.run("backup", "nobody", "gamma", "alpha", "beta")
    t.equal(result.status, 3)
    result.says("nobody")
    t.equal(sorted(p["domain"] for p in tool.json("list")["points"]), ["alpha", "beta", "gamma"])
    tool.ok("backup", "alpha", "alpha")
    t.equal(len(tool.json("list", "alpha")["points"]), 2)
    t.ok(not box.off.is_active(), "the domain that is off was started")


@tap.test
def test_wrong_input_changes_nothing(t):
    box = setup(t)
    tool = box.tool("repo-wrong")
    for status, words, says in (
            (21, ["backup", "nobody"], ["nobody"]),
            (2, ["backup", "--running", "alpha"], ["--running"]),
            (2, ["backup", "alpha", "--disk", "vdz"], ["vdz", "domblklist"]),
            (2, ["backup", "alpha", "--exclude-disk", "vdz"], ["vdz"]),
            (21, ["backup", "alpha", "--exclude-disk", "vda,vdb"], ["no disk"]),
            (23, ["backup", "alpha", "--level", "incremental"], ["incremental", "vda"]),
            (2, ["backup", "alpha", "--freeze-timeout", "2m"], ["at most"]),
            (2, ["backup"], ["--all"]),
            (21, ["restore", "alpha/latest", "--to", box.host.path("x")], ["alpha"]),
            (21, ["verify", "nobody"], ["nobody"]),
            (21, ["show", "nobody/latest"], ["nobody"])):
        result = tool.run(*words)
        t.equal(result.status, status, result.describe())
        result.says(*says)
        t.equal(result.out, "", "standard output of a failed command")
    nothing_changed(t, box, tool)
    t.ok(not os.path.exists(box.host.path("x")), "a restore of nothing made a directory")


@tap.test
def test_repositories_that_are_none(t):
    box = setup(t)
    tool = box.tool("not-there", init=False)
    tool.run("backup", "alpha").expect(10).says("init")
    os.mkdir(box.host.path("plain-directory"))
    tool = box.tool("plain-directory", init=False)
    tool.run("backup", "alpha").expect(10).says("plain-directory")
    t.equal(os.listdir(box.host.path("plain-directory")), [])
    with open(box.host.path("plain-file"), "w", encoding="ascii"):
        pass
    box.tool("plain-file", init=False).run("backup", "alpha").expect(10)
    box.run.assert_healthy(clean=[box.scratch])


@tap.test
def test_libvirt_out_of_reach(t):
    box = setup(t)
    tool = Tool(t, repo=box.host.path("repo-all"), host=None, env=box.env)
    uri = "qemu+unix:///system?socket=%s" % box.host.path("no-such-socket")
    tool.run("-c", uri, "backup", "alpha").expect(20).says("libvirt")


@tap.test
def test_scratch_directory_that_qemu_cannot_reach(t):
    box = setup(t)
    tool = box.tool("repo-scratch")
    closed = box.host.directory("closed", 0o700)
    result = tool.run("backup", "alpha", "--scratch-dir", closed)
    t.ok(result.status == 1, result.describe())
    result.says(closed)
    box.run.assert_healthy(clean=[closed])
    t.equal(tool.json("list")["points"], [])
    tool.ok("backup", "alpha")


@tap.test
def test_excluded_disk_keeps_its_chain(t):
    box = setup(t)
    tool = box.tool("repo-exclude")
    tool.ok("backup", "alpha")
    result = tool.ok("backup", "alpha", "--exclude-disk", "vdb")
    t.contains(result.err, "vdb")
    tool.ok("backup", "alpha", "--disk", "vda")
    tool.ok("backup", "alpha")
    points = tool.json("list")["points"]
    t.equal([[d["target"] for d in p["disks"]] for p in points],
            [["vda", "vdb"], ["vda"], ["vda"], ["vda", "vdb"]])
    last = {d["target"]: d for d in points[-1]["disks"]}
    t.equal(last["vda"]["level"], "incremental")
    t.equal(last["vdb"]["level"], "incremental")
    t.equal(last["vda"]["parent"], points[2]["id"])
    t.equal(last["vdb"]["parent"], points[0]["id"])
    restored = tool.ok("restore", "alpha/" + points[1]["id"], "--to", box.host.path("part"))
    t.contains(restored.out + restored.err, "vdb")
    t.ok(not os.path.exists(box.host.path("part", "vdb.qcow2")), "vdb was in no such point")
    tool.ok("verify")


@tap.test
def test_doctor(t):
    box = setup(t)
    tool = box.tool("repo-doctor")
    raw = Guest(box.host, name="delta", disks=[Disk(SMALL, fmt="raw"), Disk(
        SMALL, options={"compat": "0.10"}), Disk(SMALL)], mount=(), agent=False, start=True)
    t.defer(raw.destroy)
    lines = tool.run("doctor", "--json").expect(1).json["checks"]
    def about(domain, topic, disk=None):
        return [l for l in lines if l["domain"] == domain and l["topic"] == topic and
                l.get("disk") == disk]
    t.equal(about("alpha", "agent")[0]["grade"], "ok")
    t.equal(about("alpha", "disk", "vda")[0]["grade"] != "problem", True)
    t.equal(about("delta", "agent")[0]["grade"], "problem")
    t.ok(about("delta", "agent")[0]["advice"], "no advice on the agent")
    t.contains(about("delta", "disk", "vda")[0]["advice"], "qemu-img convert")
    t.contains(about("delta", "disk", "vdb")[0]["advice"], "compat=1.1")
    t.equal(about("delta", "disk", "vdc")[0]["grade"] != "problem", True)
    t.equal(about("gamma", "domain")[0]["grade"], "ok", "a domain that is off")
    t.ok(about("gamma", "disk", "vda"), "no word on the disk of a domain that is off")
    t.ok(any(l["topic"] == "scratch" for l in lines), "nothing on the scratch directory")
    text = tool.run("doctor", "delta")
    t.contains(text.out, "vdb")
    tool.run("doctor", "nobody").expect(21)
    box.run.assert_healthy(clean=[box.scratch])
    # With a full the next one is incremental.
    tool.ok("backup", "alpha")
    lines = tool.json("doctor", "alpha")["checks"]
    t.contains(about("alpha", "disk", "vda")[0]["message"], "incremental")


@tap.test
def test_progress_and_quiet(t):
    box = setup(t)
    tool = box.tool("repo-quiet")
    result = tool.ok("backup", "alpha", "-q")
    t.equal(result.out + result.err, "")
    t.equal(tool.ok("verify", "-q").out, "")


if __name__ == "__main__":
    tap.main()
