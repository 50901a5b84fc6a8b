#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""changes: ranges between any two points, compared byte by byte with what qemu-img reads of both."""

import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from points import IDS, UUID, directory, flip, make, point, repository  # noqa: E402
from vmbtest import differ, tap  # noqa: E402


def states(tool, where):
    """{(point, target): raw file} of all that is listed."""
    found = {}
    for entry in tool.json("list")["points"]:
        for disk in entry["disks"]:
            raw = os.path.join(where, "%s-%s" % (entry["id"], disk["target"]))
            if not os.path.exists(raw):
                subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", os.path.join(
                    tool.repo, "domains", entry["uuid"], "points", entry["id"],
                    disk["target"] + ".qcow2"), raw], check=True)
            found[entry["id"], disk["target"]] = raw
    return found


def listed(tool, older, newer, *options):
    """{target: [(offset, length, zero)]} and the summary."""
    lines = tool.ok("changes", "web01/%s..%s" % (older, newer), "--json", *options).json_lines
    ranges = {disk["target"]: [] for disk in lines[-1]["disks"]}
    for line in lines[:-1]:
        ranges[line["target"]].append((line["offset"], line["length"], line["zero"]))
    return ranges, lines[-1]


def check_pair(t, tool, raws, older, newer):
    """One pair."""
    ranges, summary = listed(tool, older, newer)
    t.equal((summary["since"], summary["id"], summary["error"]), (older, newer, None))
    t.equal(sorted(ranges), sorted(target for point, target in raws if point == newer))
    for disk in summary["disks"]:
        target = disk["target"]
        got = ranges[target]
        wanted = differ.ranges(raws.get((older, target)), raws[newer, target])
        t.equal(got, wanted, "%s..%s %s" % (older, newer, target))
        t.equal(disk["data"], sum(length for _, length, zero in got if not zero))
        t.equal(disk["zero"], sum(length for _, length, zero in got if zero))
        t.equal(disk["size"], os.path.getsize(raws[newer, target]))


def check_all(t, tool, raws):
    """All pairs of what is listed, in both directions, and each with itself."""
    ids = [entry["id"] for entry in tool.json("list")["points"]]
    for older in ids:
        for newer in ids:
            check_pair(t, tool, raws, older, newer)


@tap.test
def test_pairs(t):
    """Before and after folds, in both ways of folding, and with a full in between."""
    for mode in ("append", "rewrite"):
        where = directory(t)
        tool = repository(t, n=0, where=where)
        make(t, tool.repo, n=6, every=4)
        raws = states(tool, where)
        check_all(t, tool, raws)
        tool.env["VMBACKUP_TEST_FOLD_MODE"] = mode
        ids = [entry["id"] for entry in tool.json("list")["points"]]
        tool.ok("forget", "web01/" + ids[1], "web01/" + ids[2])
        check_all(t, tool, raws)
        tool.run("forget", "web01/" + ids[0], fail_at="fold-ready=kill").expect(-9)
        check_all(t, tool, raws)
        tool.ok("prune", "--keep-last", "2")
        check_all(t, tool, raws)


@tap.test
def test_text_and_disks(t):
    """What people see; and one disk alone."""
    tool = repository(t, n=3)
    ranges, summary = listed(tool, IDS[0], IDS[2], "--disk", "vdb")
    t.equal(list(ranges), ["vdb"])
    t.equal(summary["gone"], [])
    out = tool.ok("changes", "web01/%s..latest" % IDS[0], "--disk", "vdb").out.splitlines()
    t.equal([tuple(line.split()) for line in out[:-1]],
            [("vdb", str(offset), str(length), "zero" if zero else "data")
             for offset, length, zero in ranges["vdb"]])
    t.ok(out[-1].startswith("vdb: "), out[-1])
    t.equal(tool.ok("changes", "%s/latest..latest" % UUID).out.splitlines(),
            ["vda: 0 B of 2.5 MiB differ as data, 0 B as zeroes",
             "vdb: 0 B of 192 KiB differ as data, 0 B as zeroes"])


@tap.test
def test_wrong_input(t):
    """What is no pair of points."""
    tool = repository(t, n=2)
    make(t, tool.repo, name="web02", uuid=UUID[:-1] + "2", n=1)
    for text in ("web01", "web01/latest", "web01/..latest", "web01/latest..", "a..b"):
        tool.run("changes", text).expect(2)
    tool.run("changes", "web01/2000..latest").expect(21)
    tool.run("changes", "web03/2026..latest").expect(21)
    tool.run("changes", "web01/latest..latest", "--disk", "vdz").expect(2).says("vdz")
    result = tool.run("changes", "web01/2000..latest", "--json").expect(21)
    t.equal(result.json_lines[-1]["exit_status"], 21)


@tap.test
def test_damage(t):
    """Without good digests nobody can tell; nothing is listed."""
    tool = repository(t, n=3)
    path = os.path.join(point(tool, 1), "vda.digests")
    flip(path, os.path.getsize(path) - 20)
    for pair in ((IDS[0], IDS[2]), (IDS[1], IDS[0])):
        result = tool.run("changes", "web01/%s..%s" % pair, "--json").expect(4)
        t.equal(len(result.json_lines), 1)
    tool.ok("changes", "web01/%s..%s" % (IDS[0], IDS[2]), "--disk", "vdb")


if __name__ == "__main__":
    tap.main()
