#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Verification: what it finds and whom that concerns, which points have their turn, what is kept."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from datetime import datetime, timezone

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from vmbtest import sealed, tap  # noqa: E402
from vmbtest.vmbackup import Tool  # noqa: E402

BLOCK = 65536
UUID = "0d1a6b4c-0000-4000-8000-00000000aa%02d"
IDS = ["20261121T02000%dZ" % n for n in range(1, 6)]
DAY = 86400
MADE = 1795226400  # the points are made some seconds after that
DOMAIN = """<domain type='qemu'><name>%s</name><uuid>%s</uuid><memory>65536</memory>
  <os><type>hvm</type></os><devices>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
      <source file='/images/a.qcow2'/><target dev='vda' bus='virtio'/></disk>
    <disk type='block' device='disk'><driver name='qemu' type='raw'/>
      <source dev='/dev/vg/data'/><target dev='vdb' bus='virtio'/></disk>
  </devices></domain>"""


def directory(t):
    path = tempfile.mkdtemp(prefix="vmbackup-test-")
    t.defer(shutil.rmtree, path, ignore_errors=True)
    return path


def make(t, repo, number=1, n=3):
    """The domain web0NUMBER with @n points."""
    helper = os.environ.get("VMBACKUP_TEST_MAKE_POINTS")
    t.require(helper, "VMBACKUP_TEST_MAKE_POINTS does not name the helper")
    with tempfile.NamedTemporaryFile("w", suffix=".xml") as xml:
        xml.write(DOMAIN % ("web%02d" % number, UUID % number))
        xml.flush()
        subprocess.run([helper, repo, "web%02d" % number, UUID % number, xml.name, str(n)],
                       check=True)


def repository(t, domains=1, n=3):
    tool = Tool(t, repo=os.path.join(directory(t), "repo"))
    tool.ok("init")
    for number in range(1, domains + 1):
        make(t, tool.repo, number, n)
    return tool


def path_of(tool, point, *name, number=1):
    return os.path.join(tool.repo, "domains", UUID % number, "points", IDS[point], *name)


def change_manifest(tool, point, number=1, **members):
    path = path_of(tool, point, "manifest.json", number=number)
    sealed.change(path, lambda document: document.update(members))


def made_at(tool, number, clock, n=3):
    """Lets the points of a domain be made at another time."""
    for point in range(n):
        text = datetime.fromtimestamp(clock + point, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        change_manifest(tool, point, number, time=text, time_ns=(clock + point) * 10**9)


def state(tool, point, number=1):
    with open(path_of(tool, point, "state.json", number=number), encoding="utf-8") as file:
        return json.load(file)


def flip(path, offset, bits=0x55):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ bits]))


def entries(path):
    """Disk offset -> raw L2 entry and its place in the file, read from the image itself."""
    found = {}
    with open(path, "rb") as file:
        data = file.read()
    number = lambda at: int.from_bytes(data[at:at + 8], "big")  # noqa: E731
    l2 = number(number(40)) & 0x00fffffffffffe00
    for i in range((number(24) + BLOCK - 1) // BLOCK if l2 else 0):
        found[i * BLOCK] = (number(l2 + 8 * i), l2 + 8 * i)
    return found


def stored(path):
    """Disk offsets of data -> a byte of the file that belongs to it."""
    places = {}
    for offset, (raw, _) in entries(path).items():
        if raw & 1 << 62:
            places[offset] = (raw & (1 << 54) - 1) + 4
        elif raw & 0x00fffffffffffe00:
            places[offset] = (raw & 0x00fffffffffffe00) + 1234
    return places


def shown_by(t, tool, offset, length, target, layer, n):
    """By qemu-img: which of the first @n points read the range from the layer of point @layer."""
    t.require(shutil.which("qemu-img"), "qemu-img is not installed")
    ids = []
    for top in range(layer, n):
        out = subprocess.run(["qemu-img", "map", "-f", "qcow2", "--output=json",
                              path_of(tool, top, target + ".qcow2")], capture_output=True, check=True)
        for extent in json.loads(out.stdout):
            if extent["start"] < offset + length and offset < extent["start"] + extent["length"] \
                    and extent["data"] and extent["depth"] == top - layer:
                ids.append(IDS[top])
                break
    return ids


def damage_of(result):
    """All findings, after the status."""
    result.expect(4)
    return [f for line in result.json_lines for f in line.get("findings", [])]


@tap.test
def test_points_that_show_damage(t):
    """Each stored block of each layer: found, and just the points named that read it from there."""
    tool = repository(t, n=5)
    checked = 0
    for target in ("vda", "vdb"):
        for layer in range(5):
            image = path_of(tool, layer, target + ".qcow2")
            for offset, place in sorted(stored(image).items())[::4]:
                expected = shown_by(t, tool, offset, 1, target, layer, 5)
                flip(image, place)
                found = [f for f in damage_of(tool.run("verify", "--json")) if f["kind"] == "data"]
                flip(image, place)
                t.equal([(f["disk"], f["offset"], f["affected"]) for f in found],
                        [(target, offset, expected)])
                t.contains(found[0]["point"], IDS[layer])
                t.ok(0 < found[0]["length"] <= BLOCK, str(found[0]))
                checked += 1
    t.ok(checked >= 20, "only %d blocks" % checked)
    tool.ok("verify")


@tap.test
def test_text(t):
    tool = repository(t)
    image = path_of(tool, 0, "vda.qcow2")
    flip(image, stored(image)[0])
    out = tool.run("verify").expect(4).out
    for part in ("web01/%s: DAMAGED" % IDS[0], "disk vda", "offset 0", "in the points: " + IDS[0],
                 "not affected", "--ignore-damage", "3 of 3 points"):
        t.contains(out, part)
    # In the newest point it is taken from the guest again.
    image = path_of(tool, 2, "vda.qcow2")
    flip(image, stored(image)[0])
    t.contains(tool.run("verify", "web01").expect(4).out, "takes what is damaged of the disk vda")
    flip(path_of(tool, 2, "vdb.qcow2"), 40)
    t.contains(tool.run("verify", "web01").expect(4).out, "a new chain of the disk vdb with a full")
    # Files of the point alone.
    tool = repository(t)
    flip(path_of(tool, 1, "nvram.fd"), 1)
    lines = tool.run("verify", "--json").expect(4).json_lines
    damaged = [line for line in lines if line.get("result") == "damaged"]
    t.equal([(line["id"], line["findings"][0]["kind"]) for line in damaged], [(IDS[1], "file")])
    t.contains(damaged[0]["advice"][0], "copy of the repository")


@tap.test
def test_quick(t):
    """All metadata, no data."""
    tool = repository(t)
    full, quick = tool.json_lines("verify")[-1], tool.json_lines("verify", "--quick")[-1]
    t.equal((quick["points"], quick["total_points"], quick["damaged"]), (3, 3, 0))
    t.ok(0 < quick["bytes"] < full["bytes"], "%s %s" % (quick, full))
    image = path_of(tool, 0, "vda.qcow2")
    places = {"header": 30, "L1": int.from_bytes(open(image, "rb").read()[40:48], "big") + 5,
              "L2": entries(image)[0][1] + 3}
    places["refcount table"] = int.from_bytes(open(image, "rb").read()[48:56], "big") + 5
    for what, place in places.items():
        flip(image, place)
        found = damage_of(tool.run("verify", "--quick", "--json"))
        t.ok(all(f["kind"] == "metadata" for f in found), "%s: %s" % (what, found))
        t.equal(found[0]["affected"], IDS[:3], what)
        flip(image, place)
    for name in ("vda.digests", "nvram.fd", "domain.xml", "manifest.json", "state.json"):
        path = path_of(tool, 1, name)
        for place in (os.path.getsize(path) - 2, 3):
            flip(path, place, 1)
            damage_of(tool.run("verify", "--quick", "--json"))
            flip(path, place, 1)
    for name in ("vdb.qcow2", "vdb.digests"):
        os.rename(path_of(tool, 1, name), tool.repo + "/kept")
        found = damage_of(tool.run("verify", "--quick", "--json"))
        t.equal([(f["file"], f["affected"]) for f in found], [(name, IDS[1:3])])
        os.rename(tool.repo + "/kept", path_of(tool, 1, name))
    # Data is beyond it.
    flip(image, stored(image)[0])
    tool.ok("verify", "--quick", "web01/" + IDS[0])
    t.equal(damage_of(tool.run("verify", "--json"))[0]["offset"], 0)


@tap.test
def test_what_is_kept(t):
    tool = repository(t)
    image = path_of(tool, 0, "vda.qcow2")
    kept = state(tool, 0)
    t.equal((kept["verified_ns"], kept["checked_ns"], kept["verify_result"]), (0, 0, None))
    tool.ok("verify", "--quick", VMBACKUP_TEST_CLOCK=MADE + 100)
    kept = state(tool, 0)
    t.equal((kept["verified_ns"], kept["checked_ns"], kept["verify_result"]),
            (0, (MADE + 100) * 10**9, "ok"))
    t.contains(tool.ok("show", "web01/" + IDS[0]).out, "never")
    t.contains(tool.ok("show", "web01/" + IDS[0]).out, "without its data")
    offsets = sorted(stored(image))
    for offset in (offsets[0], offsets[-1]):
        flip(image, stored(image)[offset])
    tool.run("verify", VMBACKUP_TEST_CLOCK=MADE + 200).expect(4)
    kept = state(tool, 0)
    t.equal((kept["verified_ns"], kept["verify_result"], kept["metadata_damaged"]),
            ((MADE + 200) * 10**9, "damaged", False))
    t.equal([(d["disk"], d["offset"]) for d in kept["damage"]],
            [("target:vda", offsets[0]), ("target:vda", offsets[-1])])
    shown = tool.json("show", "web01/" + IDS[0])["state"]
    t.equal((shown["damage"], shown["result"]), (kept["damage"], "damaged"))
    t.contains(tool.ok("show", "web01/" + IDS[0]).out, "disk vda, offset %d" % offsets[-1])
    # A quick look takes nothing back, and does not forget.
    tool.ok("verify", "--quick", VMBACKUP_TEST_CLOCK=MADE + 300)
    kept = dict(kept, checked_ns=(MADE + 300) * 10**9)
    t.equal({k: v for k, v in state(tool, 0).items() if k != "digest"},
            {k: v for k, v in kept.items() if k != "digest"})
    # But it adds what it finds, once.
    flip(path_of(tool, 0, "vdb.digests"), 70)
    for _ in range(2):
        tool.run("verify", "--quick", VMBACKUP_TEST_CLOCK=MADE + 400).expect(4)
    t.equal(state(tool, 0)["damage"], kept["damage"] +
            [{"disk": "target:vdb", "offset": 0, "length": 3 * BLOCK}])
    t.equal(state(tool, 0)["metadata_damaged"], True)
    t.contains(tool.ok("show", "web01/" + IDS[0]).out, "nothing can build on this point")
    # A full one that finds nothing does.
    flip(path_of(tool, 0, "vdb.digests"), 70)
    for offset in (offsets[0], offsets[-1]):
        flip(image, stored(image)[offset])
    tool.ok("verify", VMBACKUP_TEST_CLOCK=MADE + 500)
    kept = state(tool, 0)
    t.equal((kept["verified_ns"], kept["verify_result"], kept["metadata_damaged"], kept["damage"]),
            ((MADE + 500) * 10**9, "ok", False, []))


@tap.test
def test_many_ranges(t):
    """Memory and output are bounded; the state covers all of the damage."""
    tool = repository(t, n=1)
    image = path_of(tool, 0, "vda.qcow2")
    for place in stored(image).values():
        flip(image, place)
    found = damage_of(tool.run("verify", "--json"))
    covered = {f["offset"] + i for f in found if f["kind"] == "data"
               for i in range(0, f["length"], BLOCK)}
    t.equal(covered, set(stored(image)))
    t.equal({d["offset"] + i for d in state(tool, 0)["damage"] for i in range(0, d["length"], BLOCK)},
            covered)


@tap.test
def test_sample_covers_everything(t):
    """Nightly 5 % reads each point within 20 runs, although new points come every night."""
    tool = repository(t, domains=4, n=5)
    first = {(line["uuid"], line["id"]) for line in tool.json_lines("verify", "--quick")[:-1]}
    t.equal(len(first), 20)
    seen, runs, number = set(), 0, 5
    while not first <= seen:
        clock = MADE + (runs + 1) * DAY
        if runs % 2 == 0:
            make(t, tool.repo, number, 3)
            made_at(tool, number, clock - 100)
            number += 1
        lines = tool.json_lines("verify", "--sample", "5%", VMBACKUP_TEST_CLOCK=clock)
        chosen = [(line["uuid"], line["id"]) for line in lines[:-1]]
        t.ok(len(chosen) > 0, "nothing was verified")
        t.ok(lines[-1]["bytes"] * 20 >= lines[-1]["total_bytes"], str(lines[-1]))
        t.ok(lines[-1]["points"] < lines[-1]["total_points"], str(lines[-1]))
        t.ok(not seen & set(chosen), "twice before the others")
        seen |= set(chosen)
        runs += 1
        t.ok(runs <= 20, "not all were verified within 20 runs: %s" % (first - seen))
    t.diag("%d runs for 20 points, while %d came" % (runs, 3 * (number - 5)))
    # Operands: a share of theirs.
    lines = tool.json_lines("verify", "--sample", "100%", "web01", VMBACKUP_TEST_CLOCK=MADE + 90 * DAY)
    t.equal((lines[-1]["points"], lines[-1]["total_points"]), (5, 5))
    lines = tool.json_lines("verify", "--sample", "0.0001%", "web02/latest",
                            VMBACKUP_TEST_CLOCK=MADE + 91 * DAY)
    t.equal((lines[-1]["points"], lines[-1]["total_points"]), (1, 5))
    for wrong in ("0%", "101%", "-5%", "x", "5%%", "", ".5%", "1.%", "0.00001%", "99999999999999999999%"):
        tool.run("verify", "--sample", wrong).expect(2)


@tap.test
def test_sample_is_not_held_up(t):
    """A point whose state cannot be kept is looked at each time, and takes nobody's place."""
    tool = repository(t, domains=2, n=3)
    flip(path_of(tool, 0, "state.json"), 20)
    seen = set()
    for night in range(1, 7):
        result = tool.run("verify", "--sample", "20%", "--json",
                          VMBACKUP_TEST_CLOCK=MADE + night * DAY).expect(4)
        chosen = {(line["uuid"], line["id"]) for line in result.json_lines[:-1]}
        t.ok(len(chosen) >= 2 or len(seen) >= 5, "only the damaged one: %s" % chosen)
        seen |= chosen
    t.equal(len(seen), 6)


@tap.test
def test_older_than(t):
    tool = repository(t, n=3)
    chosen = lambda *args, clock: [line["id"] for line in tool.json_lines(  # noqa: E731
        "verify", *args, VMBACKUP_TEST_CLOCK=clock)[:-1]]
    t.equal(sorted(chosen("--older-than", "30d", clock=MADE + DAY)), IDS[:3])
    t.equal(chosen("--older-than", "30d", clock=MADE + 2 * DAY), [])
    t.equal(chosen("web01/" + IDS[0], clock=MADE + 20 * DAY), [IDS[0]])
    # A quick look does not count, the longest unverified comes first, names are combined.
    chosen("--quick", clock=MADE + 31 * DAY)
    t.equal(chosen("--older-than", "30d", "web01/" + IDS[1], clock=MADE + 32 * DAY), [IDS[1]])
    t.equal(chosen("--older-than", "30d", clock=MADE + 32 * DAY), [IDS[2]])
    t.equal(chosen(clock=MADE + 33 * DAY), [IDS[0], IDS[1], IDS[2]])
    # A clock that was wrong does not postpone for ever.
    chosen(clock=MADE + 9999 * DAY)
    t.equal(sorted(chosen("--older-than", "30d", clock=MADE + 34 * DAY)), IDS[:3])


def retire(tool, point, number=1):
    with open(path_of(tool, point, "retired", number=number), "wb"):
        pass


@tap.test
def test_retired(t):
    """What others need of a dropped point is verified, and no more."""
    tool = repository(t, n=3)
    retire(tool, 0)
    lines = tool.json_lines("verify", VMBACKUP_TEST_CLOCK=MADE + DAY)
    t.equal(sorted((line["id"], line["retired"]) for line in lines[:-1]),
            [(IDS[0], True), (IDS[1], False), (IDS[2], False)])
    t.contains(tool.ok("verify").out, "web01/%s (retired" % IDS[0])
    t.equal(state(tool, 0)["verify_result"], "ok")
    os.unlink(path_of(tool, 0, "nvram.fd"))
    flip(path_of(tool, 0, "domain.xml"), 5)
    with open(path_of(tool, 0, "whatever"), "wb"):
        pass
    tool.ok("verify")
    image = path_of(tool, 0, "vda.qcow2")
    for offset, place in sorted(stored(image).items()):
        flip(image, place)
        found = damage_of(tool.run("verify", "--json"))
        t.equal(found[0]["affected"],
                [i for i in shown_by(t, tool, offset, 1, "vda", 0, 3) if i != IDS[0]])
        flip(image, place)
        if not found[0]["affected"]:
            break
    tool.ok("verify", "web01/latest")
    # The newest one: nobody needs it any more.
    retire(tool, 2)
    t.equal(sorted(line["id"] for line in tool.json_lines("verify")[:-1]), IDS[:2])
    tool.run("verify", "web01/" + IDS[2]).expect(21)
    tool.run("restore", "web01/" + IDS[2], "--to", tool.repo + "/none").expect(21)
    retire(tool, 1)
    lines = tool.json_lines("verify")
    t.equal((len(lines), lines[0]["points"]), (1, 0))
    tool.run("show", "web01/latest").expect(21)


def can_lock(path, how):
    with open(path, "a+b") as file:
        try:
            fcntl.flock(file, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@tap.test
def test_nobody_waits(t):
    """While points are read only they are locked, and shared; what is dropped meanwhile is no error."""
    tool = repository(t, domains=2, n=3)
    gate = os.path.join(directory(t), "gate")
    running = tool.start("verify", "--json", "web01", "web02", VMBACKUP_TEST_CLOCK=MADE + DAY,
                         fail_at="verify-pinned=wait:" + gate)
    t.eventually(lambda: os.path.exists(gate + ".reached"), 30, "the step was not reached")
    for name in ("lock", "maintenance", "structure"):
        t.ok(can_lock(os.path.join(tool.repo, "domains", UUID % 1, name), fcntl.LOCK_EX), name)
    for point in range(3):
        lock = path_of(tool, point, "lock")
        t.ok(can_lock(lock, fcntl.LOCK_SH), "a reader would wait")
        t.ok(not can_lock(lock, fcntl.LOCK_EX), "it is not locked")
        t.ok(can_lock(path_of(tool, point, "lock", number=2), fcntl.LOCK_EX), "it is not its turn")
    shutil.rmtree(path_of(tool, 2, number=2))
    with open(gate, "wb"):
        pass
    result = running.wait(60).expect(0)
    t.equal(sorted((line["domain"], line["id"]) for line in result.json_lines[:-1]),
            [("web01", i) for i in IDS[:3]] + [("web02", i) for i in IDS[:2]])
    t.equal(result.summary["failed"], 0)


@tap.test
def test_readonly_repository(t):
    """List, show, verify and restore need no writing; the place for it is read-only indeed."""
    tool = repository(t, n=3)
    base = directory(t)
    ro = os.path.join(base, "ro")
    os.mkdir(ro)
    mount = subprocess.run(["mount", "--bind", tool.repo, ro], capture_output=True, text=True)
    t.require(mount.returncode == 0, "no bind mounts here: " + mount.stderr)
    t.defer(subprocess.run, ["umount", "-l", ro], check=False)
    subprocess.run(["mount", "-o", "remount,bind,ro", ro], check=True)
    t.raises(OSError, open, os.path.join(ro, "x"), "w")
    before = {name: os.stat(path_of(tool, 0, name)).st_mtime_ns for name in os.listdir(path_of(tool, 0))}
    for structure in (True, False):
        if not structure:  # as of a repository that has never seen a reader which could write
            os.unlink(os.path.join(tool.repo, "domains", UUID % 1, "structure"))
        elif not os.path.exists(os.path.join(tool.repo, "domains", UUID % 1, "structure")):
            with open(os.path.join(tool.repo, "domains", UUID % 1, "structure"), "wb"):
                pass
        reader = Tool(t, repo=ro)
        t.equal(len(reader.json("list")["points"]), 3)
        reader.ok("show", "web01/latest")
        result = reader.ok("verify", "-v", VMBACKUP_TEST_CLOCK=MADE + DAY)
        t.equal(result.err.count("not kept"), 1)
        reader.ok("verify", "--quick", "--sample", "5%")
        to = os.path.join(base, "out%d" % structure)
        reader.ok("restore", "web01/latest", "--to", to)
        t.equal(sorted(os.listdir(to)), ["domain.xml", "nvram.fd", "vda.qcow2", "vdb.qcow2"])
    t.equal(state(tool, 0)["verify_result"], None)
    t.equal({name: os.stat(path_of(tool, 0, name)).st_mtime_ns
             for name in os.listdir(path_of(tool, 0))}, before)
    flip(path_of(tool, 2, "vdb.qcow2"), stored(path_of(tool, 2, "vdb.qcow2"))[0])
    t.contains(reader.run("verify").expect(4).out, "verify where it can be written")


if __name__ == "__main__":
    tap.main()
