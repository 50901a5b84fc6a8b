#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Formats: old repositories are read for ever, newer ones refused, and another reader agrees with us."""

import hashlib
import json
import os
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from points import UUID, contents, directory, repository  # noqa: E402
from vmbtest import sealed, tap  # noqa: E402
from vmbtest.vmbackup import Tool  # noqa: E402

FROZEN = os.path.join(HERE, "..", "repositories")
READER = os.path.join(HERE, "..", "reader", "reader.py")


def frozen(t, name="format-1"):
    """A copy of it, and what it must hold."""
    where = directory(t)
    subprocess.run(["tar", "-xJf", os.path.join(FROZEN, name + ".tar.xz"), "-C", where], check=True)
    with open(os.path.join(FROZEN, name + ".json"), encoding="utf-8") as file:
        return Tool(t, repo=os.path.join(where, name)), json.load(file)


def digest(path):
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(
            hashlib, "file_digest") else hashlib.sha256(file.read()).hexdigest()


def restored(t, tool, uuid, point, lost=None):
    """{target: digest} of a restore to raw files of whole sectors. lost: what it must say is gone."""
    to = os.path.join(directory(t), "to")
    words = ["restore", uuid + "/" + point, "--to", to, "--format", "raw"]
    if lost:
        tool.run(*words).expect(4)
        report = tool.run(*words, "--ignore-damage", "--json").expect(4).json_lines[-1]
        t.equal([(r["disk"], [r["offset"], r["length"]]) for r in report["lost"]],
                [(target, range_) for target, ranges in lost.items() for range_ in ranges])
    else:
        tool.ok(*words)
    found = {}
    for name in os.listdir(to):
        if name.endswith(".raw"):
            path = os.path.join(to, name)
            os.truncate(path, -(-os.path.getsize(path) // 512) * 512)
            found[name[:-4]] = digest(path)
    shutil.rmtree(to)
    return found


def lost_in(point):
    """{target: ranges} that a point of the JSON file has lost."""
    return {target: disk["lost"] for target, disk in point["disks"].items() if "lost" in disk}


def check_frozen(t, tool, wanted, ids=None):
    """Everything that is listed is restored to what it was."""
    listed = [(p["uuid"], p["id"]) for p in tool.json("list")["points"]]
    if ids is None:
        t.equal(sorted(listed), sorted((uuid, point) for uuid, domain in wanted.items()
                                       for point in domain["points"]))
    for uuid, point in listed:
        facts = wanted[uuid]["points"][point]
        t.equal(restored(t, tool, uuid, point, lost_in(facts)),
                {target: disk["sha256"] for target, disk in facts["disks"].items()},
                "%s/%s" % (uuid, point))


def read_only(t, repo):
    """The same through a mount that cannot be written."""
    mount = os.path.join(directory(t), "ro")
    os.mkdir(mount)
    subprocess.run(["mount", "--bind", repo, mount], check=True)
    t.defer(subprocess.run, ["umount", "-l", mount])
    subprocess.run(["mount", "-o", "remount,bind,ro", mount], check=True)
    return Tool(t, repo=mount)


def tree(path):
    """Everything below: names, types, contents and times."""
    found = {}
    for parent, directories, files in os.walk(path):
        for name in directories + files:
            full = os.path.join(parent, name)
            st = os.lstat(full)
            found[os.path.relpath(full, path)] = (
                st.st_mode, st.st_mtime_ns, digest(full) if os.path.isfile(full) else None)
    return found


@tap.test
def test_format_1(t):
    """Listed, verified, restored; also read-only; then written to, and all is as before."""
    tool, wanted = frozen(t)
    tool.ok("verify")
    check_frozen(t, tool, wanted)
    ro = read_only(t, tool.repo)
    ro.ok("verify")
    ro.ok("list")
    some = next(iter(wanted))
    ro.ok("show", some + "/latest")
    with open(os.path.join(tool.repo, "repository.json"), encoding="utf-8") as file:
        t.equal(json.load(file)["format"], 1, "reading has changed it")
    tool.ok("init", "--moved")
    tool.run("prune", "--keep-last", "2", fail_at="repository-upgraded=kill").expect(-9)
    check_frozen(t, tool, wanted)
    tool.ok("prune", "--keep-last", "2")
    with open(os.path.join(tool.repo, "repository.json"), encoding="utf-8") as file:
        t.equal(json.load(file)["format"], 2)
    check_frozen(t, tool, wanted, ids="left")
    tool.ok("verify")


def marks(tool):
    """{point: what keeps it and what is known of it}."""
    return {(p["domain"], p["id"]): (p["protected"], p["tags"], p["verify_result"])
            for p in tool.json("list")["points"]}


@tap.test
def test_format_2(t):
    """With folds in every state, a synthetic full, marks, damage, a retired point: read, then gone on with."""
    tool, wanted = frozen(t, "format-2")
    before = tree(tool.repo)
    ro = read_only(t, tool.repo)
    ro.run("verify").expect(4)
    check_frozen(t, ro, wanted)
    t.equal(tree(tool.repo), before, "reading has changed it")
    known = marks(tool)
    t.equal(sorted((mark for mark in known.values() if mark != (False, [], None)), key=str),
            [(False, [], "damaged")] + 3 * [(False, [], "ok")] + [(True, ["audit", "monthly"], "ok")])
    tool.ok("init", "--moved")
    tool.run("prune", "--keep-last", "20").expect(0)
    for uuid in wanted:
        names = os.listdir(os.path.join(tool.repo, "domains", uuid))
        t.equal([name for name in names if name == "fold" or name.startswith("trash-")], [])
        points = os.listdir(os.path.join(tool.repo, "domains", uuid, "points"))
        t.equal(sorted(points), sorted(wanted[uuid]["points"]))
    check_frozen(t, tool, wanted)
    t.equal(marks(tool), known)
    tool.run("prune", "--keep-last", "1", "--keep-tag", "audit")
    check_frozen(t, tool, wanted, ids="left")


def read_by_other(t, tool, wanted):
    """The other reader restores the same, of all points without damage."""
    out = os.path.join(directory(t), "out")
    for uuid, domain in wanted.items():
        for point, facts in domain["points"].items():
            for target, disk in facts["disks"].items():
                if "lost" in disk:
                    continue
                subprocess.run([sys.executable, READER, tool.repo, "restore", uuid, point, target,
                                out], check=True)
                os.truncate(out, -(-os.path.getsize(out) // 512) * 512)
                t.equal(digest(out), disk["sha256"], "%s %s" % (point, target))


@tap.test
def test_other_reader(t):
    """A program that knows only the page restores the same, of the old format and in the middle of folds."""
    tool, wanted = frozen(t)
    subprocess.run([sys.executable, READER, tool.repo, "check"], check=True)
    largest = max(wanted, key=lambda key: len(wanted[key]["points"]))
    read_by_other(t, tool, {largest: wanted[largest]})
    tool, wanted = frozen(t, "format-2")
    t.ok(subprocess.run([sys.executable, READER, tool.repo, "check"], stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL).returncode != 0, "damage went unseen")
    read_by_other(t, tool, wanted)


def compare_reader(t, tool):
    """Its view of each listed point against qemu-img's."""
    out = os.path.join(directory(t), "out")
    for (_, point, target), wanted in contents(t, tool).items():
        subprocess.run([sys.executable, READER, tool.repo, "restore", UUID, point, target, out],
                       check=True)
        os.truncate(out, -(-os.path.getsize(out) // 512) * 512)
        t.equal(digest(out), wanted, "%s %s" % (point, target))


@tap.test
def test_other_reader_and_folds(t):
    """The same before, in the middle of, and after folds."""
    for mode in ("append", "rewrite"):
        for step in ("point-retired", "fold-appended", "fold-ready", "fold-switched",
                     "fold-image-moved", "fold-digests-moved", "fold-manifest-written"):
            if mode == "rewrite" and step == "fold-switched":
                continue
            tool = repository(t, n=3)
            tool.env["VMBACKUP_TEST_FOLD_MODE"] = mode
            tool.run("prune", "--keep-last", "2", fail_at=step + "=kill").expect(-9)
            compare_reader(t, tool)
        tool.ok("prune", "--keep-last", "1")
        compare_reader(t, tool)


@tap.test
def test_newer_repository(t):
    """A format that is not known: refused by each verb, and nothing at all is changed."""
    tool = repository(t)
    sealed.change(os.path.join(tool.repo, "repository.json"), lambda d: d.update(format=3))
    before = tree(tool.repo)
    other = os.path.join(directory(t), "other")
    for words in (["list"], ["show", "web01"], ["verify"], ["prune", "--keep-last", "1"],
                  ["forget", "web01/latest"], ["protect", "web01/latest"], ["stats"],
                  ["restore", "web01", "--to", other], ["copy", "--to", other]):
        tool.run(*words).expect(10).says("newer version")
    t.equal(tree(tool.repo), before)


@tap.test
def test_newer_point(t):
    """A manifest that is not known: its point is not read, and not dropped."""
    tool = repository(t)
    path = os.path.join(tool.repo, "domains", UUID, "points", "20261121T020002Z")
    sealed.change(os.path.join(path, "manifest.json"), lambda d: d.update(format=99))
    before = tree(path)
    tool.run("restore", "web01/20261121T020002Z", "--to", os.path.join(directory(t), "to")).expect(10)
    tool.run("prune", "--keep-last", "1")
    t.equal(tree(path), before)


if __name__ == "__main__":
    tap.main()
