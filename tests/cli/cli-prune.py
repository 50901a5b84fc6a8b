#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Protecting, pruning and forgetting points that need no libvirt."""

import json
import os
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from vmbtest import tap  # noqa: E402
from vmbtest.vmbackup import Tool  # noqa: E402

UUID = "0d1a6b4c-0000-4000-8000-00000000aa01"
OTHER_UUID = "0d1a6b4c-0000-4000-8000-00000000aa02"
FIRST = 1795226400  # 2026-11-21 02:00:00 UTC
HOUR, DAY = 3600, 86400


def directory(t):
    path = tempfile.mkdtemp(prefix="vmbackup-test-")
    t.defer(shutil.rmtree, path, ignore_errors=True)
    return path


def make(t, repo, n, step, name="web01", uuid=UUID, vdb=None):
    """n points, step seconds apart; the disk vdb is only in the first ones."""
    helper = os.environ.get("VMBACKUP_TEST_MAKE_POINTS")
    t.require(helper, "VMBACKUP_TEST_MAKE_POINTS does not name the helper")
    with tempfile.NamedTemporaryFile("w", suffix=".xml") as xml:
        xml.write("<domain type='qemu'><name>%s</name><uuid>%s</uuid></domain>" % (name, uuid))
        xml.flush()
        subprocess.run([helper, repo, name, uuid, xml.name, str(n), str(step)] +
                       ([str(vdb)] if vdb is not None else []), check=True)


def repository(t, n=3, step=1, now=None, **how):
    """The clock stands still, a day after the last point."""
    repo = os.path.join(directory(t), "repo")
    tool = Tool(t, repo=repo, env={"TZ": "UTC"})
    tool.ok("init")
    make(t, repo, n, step, **how)
    tool.env["VMBACKUP_TEST_CLOCK"] = str(now or FIRST + n * step + DAY)
    return tool


def ids(tool, name="web01"):
    return [point["id"] for point in tool.json("list", name)["points"]]


def marks(tool, point):
    state = tool.json("show", point)["state"]
    return state["protected"], state["tags"]


@tap.test
def test_protect(t):
    tool = repository(t)
    make(t, tool.repo, 1, 1, name="db01", uuid=OTHER_UUID)
    first, second, third = ids(tool)
    t.equal(marks(tool, "web01/" + first), (False, []))
    result = tool.ok("protect", "web01/" + first, "db01/latest", "web01/" + first)
    t.equal(result.out.splitlines(), ["web01/%s: protected" % first, "db01/%s: protected" % first])
    t.equal(marks(tool, "web01/" + first), (True, []))
    t.equal(marks(tool, "web01/" + second), (False, []))
    t.contains(tool.ok("show", "web01/" + first).out, "Protected:    yes")
    document = tool.json("protect", "web01/" + second, "--tag", "b", "--tag", "a-1.x_y")
    t.equal(document["points"], [{"id": second, "domain": "web01", "uuid": UUID, "protected": False,
                                  "tags": ["a-1.x_y", "b"], "error": None}])
    t.contains(tool.ok("show", "web01/" + second).out, "Tags:         a-1.x_y, b")
    tool.ok("protect", "web01/" + first, "--tag", "x")
    t.equal(marks(tool, "web01/" + first), (True, ["x"]), "tags leave the protection alone")
    tool.ok("protect", "web01/" + first, "--off", "--untag", "x", "--untag", "never", "--tag", "y")
    t.equal(marks(tool, "web01/" + first), (False, ["y"]))
    tool.ok("verify", "web01/" + first)
    t.equal(marks(tool, "web01/" + first), (False, ["y"]), "verification keeps the marks")
    tool.ok("protect", "web01/" + second)
    t.equal(marks(tool, "web01/" + second), (True, ["a-1.x_y", "b"]))


@tap.test
def test_protect_refuses(t):
    tool = repository(t)
    first, second, _ = ids(tool)
    tool.run("protect").expect(2)
    tool.run("protect", "web01/" + first, "--tag", "a b").expect(2).says("'a b' is no tag")
    tool.run("protect", "web01/" + first, "--tag", ".a").expect(2)
    tool.run("protect", "web01/" + first, "web01/19991231").expect(21)
    t.equal(marks(tool, "web01/" + first), (False, []), "one is missing: nothing is changed")
    tags = [word for number in range(65) for word in ("--tag", "t%d" % number)]
    tool.run("protect", "web01/" + first, *tags).expect(2).says("65")
    tool.ok("protect", "web01/" + first, *tags[:-2])
    tool.run("protect", "web01/" + first, "--tag", "t0", "--tag", "t64").expect(2).says("more than 64")
    t.equal(len(marks(tool, "web01/" + first)[1]), 64)
    tool.ok("protect", "web01/" + first, "--untag", "t0", "--tag", "t64")
    # One of two cannot be marked: its state is damaged.
    with open(os.path.join(tool.repo, "domains", UUID, "points", first, "state.json"), "w") as file:
        file.write("{}")
    result = tool.run("protect", "web01/" + first, "web01/" + second, "--json").expect(3)
    points = result.json["points"]
    t.equal([p["error"] and p["error"]["code"] for p in points], ["damage", None])
    t.equal(marks(tool, "web01/" + second), (True, []))


if __name__ == "__main__":
    tap.main()
