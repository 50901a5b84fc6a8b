#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Protecting, pruning and forgetting points that need no libvirt."""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from vmbtest import tap  # noqa: E402
from vmbtest.vmbackup import Tool  # noqa: E402

UUID = "0d1a6b4c-0000-4000-8000-00000000aa01"
OTHER_UUID = "0d1a6b4c-0000-4000-8000-00000000aa02"
FIRST = 1795226400  # 2026-11-21 02:00:00 UTC
HOUR, DAY = 3600, 86400
DOMAIN = """<domain type='qemu'>
  <name>%s</name><uuid>%s</uuid><memory>65536</memory><os><type>hvm</type></os>
  <devices>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
      <source file='/images/vda.qcow2'/><target dev='vda' bus='virtio'/></disk>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
      <source file='/images/vdb.qcow2'/><target dev='vdb' bus='virtio'/></disk>
  </devices>
</domain>
"""


def directory(t):
    path = tempfile.mkdtemp(prefix="vmbackup-test-")
    t.defer(shutil.rmtree, path, ignore_errors=True)
    return path


def make(t, repo, n, step, name="web01", uuid=UUID, vdb=None):
    """n points, step seconds apart; the disk vdb is only in the first ones."""
    helper = os.environ.get("VMBACKUP_TEST_MAKE_POINTS")
    t.require(helper, "VMBACKUP_TEST_MAKE_POINTS does not name the helper")
    with tempfile.NamedTemporaryFile("w", suffix=".xml") as xml:
        xml.write(DOMAIN % (name, uuid))
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


def place(tool, *parts, uuid=UUID):
    return os.path.join(tool.repo, "domains", uuid, *parts)


def day(number):
    """The name of the point with this number, where they are a day apart."""
    return "202611%02dT020000Z" % (21 + number)


def content(t, tool, point, name="web01"):
    """What the disks of a point hold: target -> digest."""
    target = directory(t)
    tool.ok("restore", "%s/%s" % (name, point), "--to", target, "--format", "raw")
    digests = {}
    for file in os.listdir(target):
        if file.endswith(".raw"):
            with open(os.path.join(target, file), "rb") as disk:
                digests[file] = hashlib.sha256(disk.read()).hexdigest()
    t.ok(digests, "nothing was restored: %s" % os.listdir(target))
    return digests


def tree(tool):
    """Everything in the repository, with times: to see that nothing changes."""
    found = {}
    for parent, directories, files in os.walk(tool.repo):
        for name in directories + files:
            path = os.path.join(parent, name)
            st = os.lstat(path)
            found[path] = (st.st_ino, st.st_size, st.st_mtime_ns, st.st_ctime_ns)
    return found


def hold(t, path):
    """Takes a lock as another process would."""
    file = open(path, "a")
    t.defer(file.close)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return file


def decisions(result):
    """id -> (keep, rule, period) of a run with --json."""
    return {line["id"]: (line["keep"], line["rule"], line["period"])
            for line in result.json_lines if line["type"] == "point"}


def stale(tool, uuid=UUID):
    try:
        with open(place(tool, "journal", uuid=uuid)) as file:
            return json.load(file)["stale"]
    except FileNotFoundError:
        return []


def checkpoint(number):
    return "vmbackup-01234567-%032x" % number


def check_kept(t, tool, before, kept):
    """Just these points are left, sound, and hold what they held."""
    t.equal(ids(tool), kept)
    tool.ok("verify", *["web01/" + point for point in kept])
    for point in kept:
        t.equal(content(t, tool, point), before[point], point)
        for image in ("vda.qcow2", "vdb.qcow2"):
            path = place(tool, "points", point, image)
            if os.path.exists(path):
                subprocess.run(["qemu-img", "check", "-q", path], check=True)


@tap.test
def test_prune(t):
    tool = repository(t, n=9, step=DAY)
    before = {point: content(t, tool, point) for point in ids(tool)}
    t.equal(len({json.dumps(digests) for digests in before.values()}), 9, "all are different")
    untouched = tree(tool)
    options = ["--keep-last", "2", "--keep-weekly", "1", "--keep-monthly", "0"]
    result = tool.ok("prune", "--json", "-n", *options)
    # 2026-11-22 is a Sunday.
    t.equal(decisions(result), {
        day(1): (True, "weekly", "2026-W47"),
        day(2): (False, "weekly", "2026-W48"), day(3): (False, "weekly", "2026-W48"),
        day(4): (False, "weekly", "2026-W48"), day(5): (False, "weekly", "2026-W48"),
        day(6): (False, "weekly", "2026-W48"), day(7): (False, "weekly", "2026-W48"),
        day(8): (True, "last", None), day(9): (True, "last", None)})
    t.equal(result.summary["dry_run"], True)
    t.equal((result.summary["kept"], result.summary["held"], result.summary["dropped"]), (3, 6, 0))
    text = tool.ok("prune", "web01", "-n", *options).out
    for part in (day(1) + "  2026-11-22 02:00:00  keep     weekly 2026-W47",
                 "drop     weekly 2026-W48 has a newer one", "3 kept, 6 to be dropped"):
        t.contains(text, part)
    t.equal(tree(tool), untouched, "a dry run changed something")
    result = tool.ok("prune", "--json", *options)
    t.equal((result.summary["kept"], result.summary["held"], result.summary["dropped"]), (3, 0, 6))
    check_kept(t, tool, before, [day(1), day(8), day(9)])
    for number in range(2, 8):
        tool.run("show", "web01/" + day(number)).expect(21)
    t.equal(stale(tool), [])
    result = tool.ok("prune", "--json", *options)
    t.equal((result.summary["kept"], result.summary["dropped"]), (3, 0), "again")
    check_kept(t, tool, before, [day(1), day(8), day(9)])


@tap.test
def test_prune_refuses(t):
    tool = repository(t)
    untouched = tree(tool)
    for options in ([], ["--keep-last", "0"], ["--keep-daily", "0", "--keep-within", "0"]):
        tool.run("prune", *options).expect(2).says("nothing says what to keep")
        tool.run("prune", "web01", "-n", *options).expect(2)
    result = tool.run("prune", "--json").expect(2)
    t.equal((result.summary["error"]["code"], result.summary["exit_status"]), ("usage", 2))
    for options in (["--keep-last", "-1"], ["--keep-last", "x"], ["--keep-last", "1000001"],
                    ["--keep-within", "1y"], ["--keep-tag", ""], ["--keep-tag", "a b"]):
        tool.run("prune", *options).expect(2)
    tool.run("prune", "--keep-last", "1", "web01", "web02").expect(21).says("web02")
    t.equal(tree(tool), untouched)
    tool.run("prune", "--keep-last", "1", VMBACKUP_REPOSITORY="/nowhere").expect(0)
    t.equal(len(ids(tool)), 1)


@tap.test
def test_what_stays_whatever_the_policy(t):
    tool = repository(t, n=7, step=DAY, now=FIRST + 6 * DAY + HOUR)
    before = {point: content(t, tool, point) for point in ids(tool)}
    tool.ok("protect", "web01/" + day(1))
    tool.ok("protect", "web01/" + day(2), "--tag", "upgrade", "--tag", "x")
    state = place(tool, "points", day(3), "state.json")
    os.rename(state, state + ".saved")
    with open(state, "w") as file:
        file.write("{}")
    result = tool.ok("prune", "--json", "--keep-last", "1", "--keep-tag", "upgrade")
    t.equal(decisions(result), {
        day(1): (True, "protected", None), day(2): (True, "tag", None),
        day(3): (True, "protected", None), day(4): (False, None, None),
        day(5): (False, None, None), day(6): (True, "last", None),
        day(7): (True, "future", None)})
    os.rename(state + ".saved", state)
    check_kept(t, tool, before, [day(1), day(2), day(3), day(6), day(7)])
    # No point has the tag: the newest one stays all the same.
    tool.env["VMBACKUP_TEST_CLOCK"] = str(FIRST + 9 * DAY)
    tool.ok("protect", "web01/" + day(1), "--off")
    result = tool.ok("prune", "--json", "--keep-tag", "never")
    t.equal(decisions(result)[day(7)], (True, "newest-restorable", None))
    check_kept(t, tool, before, [day(7)])


@tap.test
def test_damaged_points(t):
    """An unreadable point is kept and told; one that is known to be damaged is none of those to keep."""
    tool = repository(t, n=5, step=DAY)
    with open(place(tool, "points", day(1), "manifest.json"), "r+") as file:
        file.write("{}")
    # Nothing can be restored now, as all build on the first point.
    result = tool.ok("prune", "--json", "--keep-last", "2").says(day(1), "cannot be read")
    t.equal([d[:2] for d in decisions(result).values()],
            [(False, None)] * 2 + [(True, "last")] * 2 + [(True, "unreadable")])
    tool = repository(t, n=5, step=DAY)
    with open(place(tool, "points", day(5), "vda.qcow2"), "r+b") as file:
        file.seek(-65536, os.SEEK_END)
        file.write(bytes(range(256)) * 256)
    tool.run("verify").expect(4)
    result = tool.ok("prune", "--json", "--keep-last", "1")
    t.equal([d[:2] for d in decisions(result).values()],
            [(False, None)] * 3 + [(True, "last")] * 2)
    tool.ok("verify", "web01/" + day(4))


@tap.test
def test_catalog_is_not_trusted(t):
    """Damage that the catalog does not know of: what is dropped is decided by the documents."""
    tool = repository(t, n=3, step=DAY)
    time.sleep(0.1)
    tool.ok("protect", "web01/" + day(1), "--tag", "x")
    with open(place(tool, "points", day(3), "manifest.json"), "r+b") as file:
        file.seek(100)
        file.write(b"?")
    result = tool.ok("prune", "--keep-last", "1", "--json")
    t.equal([d[:2] for d in decisions(result).values()],
            [(False, None), (True, "last"), (True, "unreadable")])


def folds(result):
    """(point, disk, mode, deferred) of what was done with the data of dropped points."""
    return [(line["point"], line["disk"], line["mode"], line["deferred"] is not None)
            for line in result.json_lines if line["type"] == "fold"]


@tap.test
def test_nothing_is_folded_in_the_dark(t):
    """A manifest that cannot be read may be repaired, and then what it builds on must still be there."""
    tool = repository(t, n=5, step=DAY)
    before = {point: content(t, tool, point) for point in ids(tool)}
    manifest = place(tool, "points", day(5), "manifest.json")
    os.rename(manifest, manifest + ".saved")
    with open(manifest, "w") as file:
        file.write("{}")
    result = tool.ok("prune", "--keep-last", "1", "--json").says(day(5), "left to a later prune")
    t.equal(folds(result), [(day(n), None, None, True) for n in (1, 2, 3)])
    t.equal(sorted(os.listdir(place(tool, "points"))), [day(n) for n in range(1, 6)])
    os.rename(manifest + ".saved", manifest)
    check_kept(t, tool, before, [day(4), day(5)])
    # The same of a point that is hidden already, of which another one needs the data.
    manifest = place(tool, "points", day(2), "manifest.json")
    os.rename(manifest, manifest + ".saved")
    with open(manifest, "w") as file:
        file.write("{}")
    result = tool.ok("prune", "--keep-last", "1", "--json")
    t.ok(all(deferred for _, _, _, deferred in folds(result)), folds(result))
    t.equal(sorted(os.listdir(place(tool, "points"))), [day(n) for n in range(1, 6)])
    os.rename(manifest + ".saved", manifest)
    result = tool.ok("prune", "--keep-last", "1", "--json")
    t.equal(result.summary["deferred"], 0)
    check_kept(t, tool, before, [day(5)])
    t.equal(os.listdir(place(tool, "points")), [day(5)])


@tap.test
def test_local_time(t):
    tool = repository(t, n=4, step=6 * HOUR)  # 08, 14, 20 and 02 o'clock UTC
    points = ids(tool)
    kept = {"UTC": [points[2], points[3]], "Asia/Tokyo": [points[1], points[3]]}
    for zone, expected in kept.items():
        found = decisions(tool.run("prune", "--json", "-n", "--keep-daily", "9", TZ=zone).expect(0))
        t.equal([point for point in points if found[point][0]], expected, zone)


@tap.test
def test_locked(t):
    tool = repository(t)
    make(t, tool.repo, 3, 1, name="db01", uuid=OTHER_UUID)
    lock = hold(t, place(tool, "maintenance"))
    tool.run("prune", "--keep-last", "1", "web01").expect(11).says("web01", "in use")
    tool.ok("prune", "--keep-last", "1", "web01", "-n")
    result = tool.run("prune", "--keep-last", "1", "--json").expect(3)
    t.equal((result.summary["succeeded"], result.summary["failed"]), (1, 1))
    t.equal((len(ids(tool)), len(ids(tool, "db01"))), (3, 1))
    tool.run("forget", "web01/" + ids(tool)[0]).expect(11)
    lock.close()
    tool.ok("prune", "--keep-last", "1", "--no-fold")
    t.equal(len(ids(tool)), 1)


@tap.test
def test_disk_that_went(t):
    """The newest point with vdb is dropped: its checkpoint is live, and must not become nobody's."""
    tool = repository(t, n=6, step=DAY, vdb=3)
    before = {point: content(t, tool, point) for point in ids(tool)}
    lock = hold(t, place(tool, "lock"))
    result = tool.ok("prune", "--keep-last", "2", "--json").says(day(3), "left to a later prune")
    t.equal((result.summary["dropped"], result.summary["deferred"]), (4, 1))
    check_kept(t, tool, before, [day(5), day(6)])
    t.ok(os.path.exists(place(tool, "points", day(3))), "it is gone, and its checkpoint nobody's")
    t.equal(stale(tool), [])
    lock.close()
    tool.run("prune", "--keep-last", "2", fail_at="drop-remembered=kill").expect(-9)
    t.equal(stale(tool), [checkpoint(3)])
    t.ok(os.path.exists(place(tool, "points", day(3))), "it is gone")
    result = tool.ok("prune", "--keep-last", "2", "--json").says("checkpoint")
    t.equal((result.summary["dropped"], result.summary["deferred"]), (0, 0))
    t.equal(stale(tool), [checkpoint(3)])
    t.equal(sorted(os.listdir(place(tool, "points"))), [day(5), day(6)])
    check_kept(t, tool, before, [day(5), day(6)])


@tap.test
def test_killed(t):
    tool = repository(t, n=5, step=DAY)
    before = {point: content(t, tool, point) for point in ids(tool)}
    tool.run("prune", "--keep-last", "2", fail_at="point-retired=kill").expect(-9)
    check_kept(t, tool, before, [day(2), day(3), day(4), day(5)])
    tool.ok("prune", "--keep-last", "2")
    check_kept(t, tool, before, [day(4), day(5)])


@tap.test
def test_forget(t):
    tool = repository(t, n=5, step=DAY)
    before = {point: content(t, tool, point) for point in ids(tool)}
    tool.ok("protect", "web01/" + day(1))
    untouched = tree(tool)
    for operands, status, words in (
            (["web01"], 2, "--all"), (["web01/" + day(2), "--all"], 2, "--all"),
            (["web01/19991231"], 21, "19991231"), (["web01/latest"], 21, "newest point"),
            (["web01/" + day(2), "web01/" + day(1)], 21, "protected"),
            (["web01/" + day(2), "web01/" + day(5)], 21, "newest point"),
            (["web01", "--all"], 21, "protected"), (["web02", "--all"], 21, "web02")):
        tool.run("forget", *operands).expect(status).says(words)
    t.contains(tool.ok("forget", "-n", "web01/" + day(2)).out, "drop")
    t.equal(tree(tool), untouched, "what is refused changes nothing")
    result = tool.ok("forget", "web01/" + day(2), "web01/" + day(4), "web01/" + day(2), "--json")
    t.equal([(line["id"], line["dropped"]) for line in result.json_lines if line["type"] == "point"],
            [(day(2), True), (day(4), True)])
    check_kept(t, tool, before, [day(1), day(3), day(5)])
    result = tool.ok("forget", "--force", "web01/latest", "web01/" + day(1)).says("checkpoint")
    check_kept(t, tool, before, [day(3)])
    t.equal(stale(tool), [checkpoint(5)])


@tap.test
def test_forget_all(t):
    tool = repository(t, n=4, step=DAY, vdb=2)
    make(t, tool.repo, 3, 1, name="db01", uuid=OTHER_UUID)
    lock = hold(t, place(tool, "lock"))
    tool.run("forget", "web01", "--all").expect(11)
    tool.run("forget", "web01", "db01", "--all").expect(3)
    t.equal((len(ids(tool)), tool.json("list")["points"][-1]["domain"]), (4, "web01"))
    lock.close()
    result = tool.ok("forget", "web01", "--all", "--json").says("release")
    t.equal(result.summary["checkpoints"], 2)
    t.equal(folds(result), [(day(n), None, None, False) for n in (4, 3, 2, 1)],
            "nothing is folded into what goes itself")
    t.equal(os.listdir(place(tool, "points")), [])
    t.equal(sorted(stale(tool)), [checkpoint(2), checkpoint(4)])
    t.equal(tool.json("list")["points"], [])
    tool.run("list", "web01").expect(21)
    tool.run("forget", "web01", "--all").expect(21)
    tool.ok("prune", "--keep-last", "1")
    # Numbers go on where they were.
    with open(place(tool, "sequence")) as file:
        t.contains(file.read(), "4")


@tap.test
def test_forget_damaged(t):
    tool = repository(t, n=3, step=DAY)
    with open(place(tool, "points", day(3), "manifest.json"), "r+") as file:
        file.write("{}")
    tool.run("forget", "web01/" + day(2)).expect(21).says("newest point")
    tool.ok("forget", "web01/" + day(3))
    t.equal(ids(tool), [day(1), day(2)])
    tool.ok("verify")


if __name__ == "__main__":
    tap.main()
