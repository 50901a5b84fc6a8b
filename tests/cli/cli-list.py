#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What list and stats tell of points, from the cache and without it."""

import os
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from vmbtest import tap  # noqa: E402
from vmbtest.vmbackup import Tool  # noqa: E402

FIRST = "0d1a6b4c-0000-4000-8000-000000000000"
DAYS = ["2026010%dT000000Z" % day for day in range(1, 6)]
STORED = 2 * (5 * 65536 + 1000 + 64 + 48 * 4)  # what make-scale says of each point


def repository(t, domains=1, points=5):
    helper = os.environ.get("VMBACKUP_TEST_MAKE_SCALE")
    t.require(helper, "VMBACKUP_TEST_MAKE_SCALE does not name the helper")
    path = tempfile.mkdtemp(prefix="vmbackup-test-")
    t.defer(shutil.rmtree, path, ignore_errors=True)
    tool = Tool(t, repo=os.path.join(path, "repo"))
    tool.ok("init")
    subprocess.run([helper, tool.repo, str(domains), str(points)], check=True)
    return tool


def domain_path(tool, *names, uuid=FIRST):
    return os.path.join(tool.repo, "domains", uuid, *names)


def rows(tool, *operands):
    lines = tool.ok("list", *operands).out.splitlines()
    return lines[0].split(), [line.split() for line in lines[1:]]


def told(tool, *operands):
    """What list says, in both forms; the same without the cache."""
    results = []
    for _ in range(2):
        results.append((tool.ok("list", *operands).out, tool.json("list", *operands)))
        for uuid in os.listdir(os.path.join(tool.repo, "domains")):
            path = domain_path(tool, "catalog", uuid=uuid)
            if os.path.exists(path):
                os.rename(path, path + ".aside")
    for uuid in os.listdir(os.path.join(tool.repo, "domains")):
        path = domain_path(tool, "catalog", uuid=uuid)
        if os.path.exists(path + ".aside"):
            os.rename(path + ".aside", path)
    return results


def everything(path):
    """Names, inodes, times and content of all files below it."""
    found = {}
    for parent, _, names in os.walk(path):
        for name in names:
            file = os.path.join(parent, name)
            st = os.stat(file)
            with open(file, "rb") as handle:
                found[file] = (st.st_ino, st.st_mtime_ns, handle.read())
        found[parent] = os.stat(parent).st_mtime_ns
    return found


@tap.test
def test_columns(t):
    tool = repository(t)
    header, lines = rows(tool)
    t.equal(header, ["POINT", "LEVEL", "CONSISTENCY", "STORED", "FREES", "VERIFIED", "DISKS"])
    t.equal([line[0] for line in lines], ["vm0000/" + day for day in DAYS])
    t.equal({line[-1] for line in lines}, {"vda,vdb"})
    t.equal({line[-2] for line in lines}, {"-"})
    points = tool.json("list")["points"]
    t.equal([p["stored"] for p in points], [STORED] * 5)
    t.equal([p["frees"] for p in points], [800] * 4 + [STORED])
    for p in points:
        t.equal([p["protected"], p["tags"], p["verified"], p["checked"], p["verify_result"]],
                [False, [], None, None, None])
    tool.ok("protect", "vm0000/" + DAYS[1])
    tool.ok("protect", "vm0000/" + DAYS[1], "--tag", "yearly", "--tag", "audit")
    tool.ok("protect", "vm0000/" + DAYS[2], "--tag", "monthly")
    header, lines = rows(tool)
    t.equal(header[-1], "MARKS")
    t.equal([line[-1] for line in lines], ["-", "protected,audit,yearly", "monthly", "-", "-"])
    points = tool.json("list", "vm0000")["points"]
    t.equal([(p["protected"], p["tags"]) for p in points[1:3]],
            [(True, ["audit", "yearly"]), (False, ["monthly"])])


@tap.test
def test_verified(t):
    tool = repository(t)
    tool.run("verify", "vm0000/" + DAYS[0]).expect(4)  # there is nothing in its images
    day = time.strftime("%Y-%m-%d", time.gmtime())
    _, lines = rows(tool)
    t.equal([line[-2] for line in lines], ["damaged", "-", "-", "-", "-"])
    point = tool.json("list")["points"][0]
    t.equal((point["verified"][:10], point["verify_result"]), (day, "damaged"))
    with open(domain_path(tool, "points", DAYS[1], "state.json"), "w", encoding="utf-8") as file:
        file.write("{}")
    _, lines = rows(tool)
    t.equal([line[-2] for line in lines], ["damaged", "?", "-", "-", "-"])
    t.equal(tool.json("list")["points"][1]["protected"], True)


@tap.test
def test_cache(t):
    tool = repository(t, domains=3)
    before = everything(tool.repo)
    with_cache, without = told(tool)
    t.equal(with_cache, without)
    with_cache, without = told(tool, "vm0001")
    t.equal(with_cache, without)
    t.equal({p["domain"] for p in with_cache[1]["points"]}, {"vm0001"})
    tool.ok("list", "vm0002", "--json")
    tool.ok("show", "vm0002/latest")
    for name in before:
        if not os.path.isdir(name):
            t.equal(everything(tool.repo)[name], before[name], name)
    t.equal(sorted(everything(tool.repo)), sorted(before), "reading verbs write nothing")
    # What others have changed is seen.
    with open(domain_path(tool, "points", DAYS[4], "retired"), "w", encoding="utf-8"):
        pass
    shutil.rmtree(domain_path(tool, "points", DAYS[0]))
    os.truncate(domain_path(tool, "points", DAYS[3], "manifest.json"), 100)
    points = tool.run("list", "vm0000", "--json").expect(4).json["points"]
    t.equal([p["id"] for p in points], [DAYS[1], DAYS[2], DAYS[3]])
    t.equal([p.get("damaged", False) for p in points], [False, False, True])
    t.equal(tool.json("show", "vm0000")["id"], DAYS[2])
    for content in (b"", b"VMBCATLG" + bytes(100), os.urandom(5000)):
        with open(domain_path(tool, "catalog"), "wb") as file:
            file.write(content)
        t.equal(tool.run("list", "vm0000", "--json").expect(4).json["points"], points)


@tap.test
def test_copied_repository(t):
    """Inode numbers and times are others': the cache that came along is no harm."""
    tool = repository(t, domains=2)
    copy = tool.repo + ".copy"
    subprocess.run(["cp", "-a", tool.repo, copy], check=True)
    points = tool.json("list")["points"]
    other = Tool(t, repo=copy)
    t.equal(other.json("list")["points"], points)
    shutil.rmtree(os.path.join(copy, "domains", FIRST, "points", DAYS[4]))
    t.equal([p["id"] for p in other.json("list", "vm0000")["points"]], DAYS[:4])


@tap.test
def test_names(t):
    tool = repository(t, domains=3, points=2)
    tool.run("list", "vm0003").expect(21).says("holds no point")
    uuid = FIRST[:-1] + "2"
    t.equal({p["uuid"] for p in tool.json("list", uuid)["points"]}, {uuid})
    t.equal({p["uuid"] for p in tool.json("list", uuid.upper())["points"]}, {uuid})
    # All points of the only domain of a name are dropped: the name is gone with them.
    for day in DAYS[:2]:
        with open(domain_path(tool, "points", day, "retired"), "w", encoding="utf-8"):
            pass
    tool.run("list", "vm0000").expect(21).says("holds no point")
    t.equal(len(tool.json("list")["points"]), 4)


@tap.test
def test_stats(t):
    tool = repository(t, domains=2)
    clock = {"VMBACKUP_TEST_CLOCK": "1767700000"}  # the day after the last point
    document = tool.json("stats", **clock)
    whole, domains = document["repository"], document["domains"]
    t.equal([d["domain"] for d in domains], ["vm0000", "vm0001"])
    for d in domains:
        t.equal([d[key] for key in ("points", "damaged", "virtual", "data", "stored", "retired")],
                [5, 0, 2 * (10 * 1024 * 1024 + 512), 5 * 2 * 3 * 65536, 5 * STORED, 0])
        t.equal((d["oldest"], d["newest"]), ("2026-01-01T00:00:00Z", "2026-01-05T00:00:00Z"))
        t.equal((d["growth_per_day"], d["ratio"]), (STORED, 0.60))
    t.equal((whole["domains"], whole["points"], whole["stored"]), (2, 10, 10 * STORED))
    t.equal(whole["growth_per_day"], 2 * STORED)
    t.equal(whole["days_until_full"], whole["free"] // (2 * STORED))
    # Of the repository all domains count, whichever are shown; each is shown once.
    one = tool.json("stats", "vm0001", FIRST[:-1] + "1", **clock)
    t.equal(one["domains"], domains[1:])
    t.equal(one["repository"]["stored"], whole["stored"])
    text = tool.ok("stats", "vm0001", **clock).out
    t.equal([line.split()[0] for line in text.splitlines()[:2]], ["DOMAIN", "vm0001"])
    t.contains(text, "2 domains, 10 points")
    t.contains(tool.ok("stats").out, "Nobody knows how fast it grows")
    # What is retired is told apart, but has been added all the same.
    with open(domain_path(tool, "points", DAYS[2], "retired"), "w", encoding="utf-8"):
        pass
    first = tool.json("stats", **clock)["domains"][0]
    t.equal([first[key] for key in ("points", "stored", "retired", "growth_per_day")],
            [4, 4 * STORED, STORED, STORED])
    os.truncate(domain_path(tool, "points", DAYS[3], "manifest.json"), 10)
    document = tool.run("stats", "--json", **clock).expect(4).json
    t.equal([d["damaged"] for d in document["domains"]], [1, 0])
    tool.ok("stats", "vm0001", **clock)
    tool.run("stats", "nobody").expect(21)


if __name__ == "__main__":
    tap.main()
