#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A backup of a shut-off domain that is killed or fails at each step; then the next one, and a start."""

import os
import re
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from vmbtest import tap  # noqa: E402
from offline_lab import KIB, MIB, STEPS, Disk, OffLab  # noqa: E402

FAULT_C = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../src/util/fault.c")
PUBLISHED = STEPS.index("published")
# Where a failure is told, and the point is there all the same.
ONLY_TOLD = ("bitmap-removed", "checkpoint-deleted", "checkpoints-retired", "journal-cleared")


def change(lab):
    """Some blocks get a new content, by a QEMU tool, so that the bitmap knows of it."""
    lab.write("vda", lab.t.random.randrange(8 * MIB // (64 * KIB)) * 64 * KIB, 64 * KIB,
              lab.t.random.randrange(1, 256))


def lab_of(t):
    """A domain whose next backup passes all steps: it has a bitmap, and the bitmap has something to say."""
    lab = OffLab(t, [Disk(8 * MIB), Disk(MIB)])
    lab.fill("vda")
    lab.backup_off("full")
    return lab


def helpers(lab):
    """Programs that the program has started."""
    return [words for _, words in lab.host.processes()
            if "qemu-nbd" in words or "-machine none" in words]


def next_ones(lab, running):
    """After a fault: the next backup succeeds, and everything is as it was. running: also one on."""
    change(lab)
    lab.backup()
    if not running:
        return
    lab.on()
    change(lab)
    lab.backup("--level", "incremental")
    lab.off()
    change(lab)
    lab.backup()


@tap.test
def test_every_step_is_here(t):
    with open(FAULT_C, encoding="utf-8") as file:
        names = re.findall(r'"((?:offline|image)-[a-z-]+)"', file.read())
    t.ok(names and set(names) <= set(STEPS), names)


def kill_at(t, steps):
    """Kills at each of the steps in turn."""
    lab = lab_of(t)
    for number, step in enumerate(steps):
        t.diag(step)
        change(lab)
        # What it has removed of the old bitmap or not is for the next one to find out.
        lab.run(fail_at=step + "=kill").expect(-signal.SIGKILL)
        lab.check_points()
        t.eventually(lambda: not helpers(lab), 10, "helpers outlived the program")
        next_ones(lab, number % 3 == 0)
    lab.check_end(2)


def fail_at(t, steps):
    """Fails at each of the steps in turn."""
    lab = lab_of(t)
    for number, step in enumerate(steps):
        t.diag(step)
        change(lab)
        before = len(lab.points)
        if step in ONLY_TOLD:
            lab.run(fail_at=step + "=fail").expect(0)
        elif STEPS.index(step) >= PUBLISHED:
            lab.run(fail_at=step + "=fail").expect(1).says("injected failure")
        elif step == "image-open-alone":
            lab.run(fail_at=step + "=fail").expect(0).says("bitmap-not-added")
        else:
            lab.run(fail_at=step + "=fail").expect(1).says("injected failure")
            t.equal(len(lab.points), before)
            lab.check_rest()
        lab.check_points()
        next_ones(lab, number % 3 == 1)
    lab.check_end(2)


for number, part in enumerate((STEPS[:9], STEPS[9:17], STEPS[17:])):
    tap.add_test("killed_%d" % number, lambda t, part=part: kill_at(t, part))
    tap.add_test("failed_%d" % number, lambda t, part=part: fail_at(t, part))

if __name__ == "__main__":
    tap.main()
