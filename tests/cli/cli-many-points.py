#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""512 points of one disk: listed, each restorable, dropped and folded down to a few.

By default each eighth is restored and compared with what qemu-img reads, with VMBACKUP_TEST_LONG=1 all.
"""

import hashlib
import os
import shutil
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from points import contents, directory, make  # noqa: E402
from vmbtest import tap  # noqa: E402
from vmbtest.vmbackup import Tool  # noqa: E402

POINTS, EVERY, KEPT = 512, 40, 100
STRIDE = 1 if os.environ.get("VMBACKUP_TEST_LONG", "0") not in ("", "0") else 8


def digest(path):
    """Of a raw disk as QEMU sees it: whole sectors."""
    with open(path, "rb") as file:
        content = file.read()
    return hashlib.sha256(content + bytes(-len(content) % 512)).hexdigest()


@tap.test
def test_512_points(t):
    tool = Tool(t, repo=os.path.join(directory(t), "repo"))
    tool.ok("init")
    make(t, tool.repo, n=POINTS, every=EVERY)
    listing = tool.json("list", "web01")["points"]
    t.equal([point["sequence"] for point in listing], list(range(1, POINTS + 1)))
    ids = [point["id"] for point in listing]
    to = os.path.join(directory(t), "to")
    restored = {}
    for point in ids[::STRIDE]:
        tool.ok("restore", "web01/" + point, "--disk", "vda", "--to", to, "--format", "raw")
        restored["web01", point, "vda"] = digest(os.path.join(to, "vda.raw"))
        shutil.rmtree(to)
    t.ok(len(set(restored.values())) == len(restored), "points that are the same")
    read = {key: value for key, value in contents(t, tool, set(ids[::STRIDE])).items()
            if key[2] == "vda"}
    t.equal(read, {key: restored[key] for key in read})
    tool.ok("prune", "--keep-last", str(KEPT), timeout=300)
    listing = tool.json("list", "web01")["points"]
    t.equal([point["id"] for point in listing], ids[-KEPT:])
    read = {key: value for key, value in contents(t, tool, set(ids[-KEPT:])).items()
            if key in restored}
    t.ok(len(read) >= KEPT // STRIDE, "only %d were read" % len(read))
    t.equal(read, {key: restored[key] for key in read})
    tool.ok("verify", timeout=300)


if __name__ == "__main__":
    tap.main()
