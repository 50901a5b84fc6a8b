#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Copies into a second repository: only what is missing, exact, whole or not at all."""

import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from points import (IDS, UUID, contents, directory, flip, make, point, repository)  # noqa: E402
from vmbtest import tap  # noqa: E402
from vmbtest.vmbackup import Tool  # noqa: E402


def second(t, tool):
    """A repository for copies of another one."""
    other = Tool(t, repo=os.path.join(directory(t), "other"))
    other.ok("init")
    other.source = tool
    return other


def copy(other, *args, **how):
    """Copies into it."""
    return other.source.run("copy", "--to", other.repo, *args, **how)


def listed(tool):
    """[(id, level)] of all points."""
    return [(p["id"], p["level"]) for p in tool.json("list")["points"]]


@tap.test
def test_everything(t):
    """The same bytes, on the same chain; a second time there is nothing to do."""
    tool = repository(t)
    expected = contents(t, tool)
    other = second(t, tool)
    t.contains(copy(other).expect(0).out, "3 points copied")
    t.equal(listed(other), listed(tool))
    t.equal(contents(t, other), expected)
    other.ok("verify")
    for number in range(3):
        image = os.path.join(point(other, number), "vda.qcow2")
        t.equal(os.path.getsize(image), os.path.getsize(os.path.join(point(tool, number), "vda.qcow2")))
    again = tool.json_lines("copy", "--to", other.repo)[-1]
    t.equal([again[key] for key in ("copied", "present", "failed", "exit_status")], [0, 3, 0, 0])


@tap.test
def test_one_point(t):
    """Without its parents it becomes a full; what comes later builds on it."""
    tool = repository(t)
    expected = contents(t, tool)
    other = second(t, tool)
    copy(other, "web01/" + IDS[1]).expect(0)
    t.equal(listed(other), [(IDS[1], "full")])
    copy(other).expect(0)
    t.equal(listed(other), [(IDS[1], "full"), (IDS[2], "incremental")])
    got = contents(t, other)
    t.equal(got, {key: expected[key] for key in got})
    copy(other, "--older").expect(0)
    t.equal([i for i, _ in listed(other)], IDS)
    t.equal(contents(t, other), expected)
    other.ok("verify")


@tap.test
def test_skipping(t):
    """Two increments become one, when the point between them is not there."""
    tool = repository(t)
    expected = contents(t, tool)
    other = second(t, tool)
    copy(other, "web01/" + IDS[0]).expect(0)
    copy(other, "web01/" + IDS[2]).expect(0)
    t.equal(listed(other), [(IDS[0], "full"), (IDS[2], "incremental")])
    got = contents(t, other)
    t.equal(got, {key: expected[key] for key in got})
    other.ok("verify")


@tap.test
def test_retention_on_both_sides(t):
    """What was dropped there does not come back by itself, and what builds on it is still right."""
    tool = repository(t)
    expected = contents(t, tool)
    other = second(t, tool)
    copy(other, "web01/" + IDS[0], "web01/" + IDS[1]).expect(0)
    other.ok("prune", "--keep-last", "1")
    t.equal([i for i, _ in listed(other)], [IDS[1]])
    tool.ok("prune", "--keep-last", "2")
    copy(other).expect(0)
    t.equal([i for i, _ in listed(other)], IDS[1:])
    tool.ok("prune", "--keep-last", "1")
    copy(other).expect(0)
    got = contents(t, other)
    t.equal(got, {key: expected[key] for key in got})
    other.ok("verify")


@tap.test
def test_damage(t):
    """A damaged point is not copied, nor is what needs its damaged blocks; others are."""
    tool = repository(t)
    make(t, tool.repo, name="db01", uuid="0d1a6b4c-0000-4000-8000-00000000aa02", n=1)
    image = os.path.join(point(tool, 1), "vdb.qcow2")
    with open(image, "rb") as file:
        content = file.read()
    used = next(at for at in range(3 * 65536, len(content), 65536) if any(content[at:at + 65536]))
    flip(image, used + 100)
    other = second(t, tool)
    copy(other).expect(3).says(IDS[1], "vdb")
    copied = listed(other)
    t.ok((IDS[0], "full") in copied and IDS[1] not in [i for i, _ in copied], "copied: %s" % copied)
    other.ok("verify")


@tap.test
def test_killed(t):
    """Killed at any step, the other repository has whole points only, and the next copy goes on."""
    tool = repository(t)
    expected = contents(t, tool)
    for step in ("staging-created", "copy-disk-written", "manifest-written", "staging-synced", "published",
                 "copy-published"):
        other = second(t, tool)
        copy(other, fail_at=step + "=kill").expect(-9)
        other.ok("verify")
        copy(other).expect(0)
        t.equal(contents(t, other), expected)
        full = second(t, tool)
        copy(full, fail_at=step + "=enospc").expect(1)
        copy(full).expect(0)
        t.equal(contents(t, full), expected)


@tap.test
def test_marks(t):
    """Protection and tags come along."""
    tool = repository(t)
    tool.ok("protect", "web01/" + IDS[1])
    tool.ok("protect", "web01/" + IDS[1], "--tag", "yearly")
    other = second(t, tool)
    copy(other).expect(0)
    state = other.json("show", "web01/" + IDS[1])["state"]
    t.equal((state["protected"], state["tags"]), (True, ["yearly"]))


@tap.test
def test_refused(t):
    """Into itself, into a copy of itself, into nothing, without --to."""
    tool = repository(t)
    tool.run("copy", "--to", tool.repo).expect(2)
    tool.run("copy").expect(2)
    tool.run("copy", "--to", directory(t)).expect(10)
    twin = os.path.join(directory(t), "twin")
    shutil.copytree(tool.repo, twin, symlinks=True)
    tool.run("copy", "--to", twin).expect(10)
    own = second(t, tool)
    make(t, own.repo, n=1)
    tool.run("copy", "nothing", "--to", own.repo).expect(21)


@tap.test
def test_other_tools(t):
    """cp -a of a repository is readable, restorable, and can be copied from; adopted it can be copied into."""
    tool = repository(t)
    expected = contents(t, tool)
    path = os.path.join(directory(t), "moved")
    subprocess.run(["cp", "-a", tool.repo, path], check=True)
    twin = Tool(t, repo=path)
    t.equal(contents(t, twin), expected)
    twin.ok("verify")
    twin.ok("init", "--adopt")
    make(t, tool.repo, n=1, name="db01", uuid="0d1a6b4c-0000-4000-8000-00000000aa02")
    summary = tool.json_lines("copy", "--to", path)[-1]
    t.equal((summary["copied"], summary["present"]), (1, 3))
    t.equal(contents(t, twin), contents(t, tool))
    other = second(t, twin)
    copy(other, "web01").expect(0)
    t.equal(contents(t, other), expected)


if __name__ == "__main__":
    tap.main()
