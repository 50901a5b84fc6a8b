# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs that die, what doctor says of them, and what is left."""

import signal

from common import libvirt, process


def die(t, bench, repository, step="disk-data", guard=True, more=()):
    """A run that is killed at a step; guard: its guard as well, at the same time."""
    running, _ = repository.pause_at(t, step, *more)
    guards = bench.guards()
    if guard:
        # It must not see that its guard is gone: it would release the guest.
        running.signal(signal.SIGSTOP)
        for pid in guards:
            process.kill(pid)
    running.kill9()
    running.wait().expect(-signal.SIGKILL)
    if not guard:
        bench.wait_released(t)
        bench.wait_no_guard(t)


def doctor(t, repository, *more, status=0, name=None, **options):
    """A check-up; returns its lines on leftovers and repairs as [(grade, topic, message)]."""
    result = repository.tool.run("doctor", name or repository.bench.guest.name, "--scratch-dir",
                                 repository.bench.scratch, "--json", *more, **options)
    result.expect(status)
    return [(c["grade"], c["topic"], c["message"]) for c in result.json["checks"]
            if c["topic"] in ("leftovers", "repair")]


def told(lines, *parts, grade=None):
    """True if one line says all these."""
    return any(all(part in line[2] for part in parts) and grade in (None, line[0])
               for line in lines)


def repaired(t, bench, repository, base, **options):
    """doctor --repair undoes everything, so that there is nothing left to tell."""
    lines = doctor(t, repository, "--repair", **options)
    t.equal([line for line in lines if line[0] != "ok"], [], "problems after the repair")
    repository.assert_no_point(t, base)
    repository.assert_released(t)
    t.equal(doctor(t, repository), [], "what is left by doctor's word")
    return lines


def forget_record(bench, name):
    """libvirt's record of a checkpoint goes, the bitmaps stay."""
    bench.guest.dom.checkpointLookupByName(name).delete(
        libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)


def new_checkpoint(bench, base):
    """The one that a dead run has made."""
    (name,) = [n for n in bench.guest.checkpoints() if n not in base]
    return name


def no_trace(t, bench, name):
    """Neither record nor bitmap."""
    t.ok(name not in bench.guest.checkpoints(), "the record is there")
    for target in bench.TARGETS:
        t.ok(name not in bench.guest.bitmaps(target), "the bitmap is on " + target)
