# SPDX-License-Identifier: GPL-2.0-or-later
"""A backup that fails, is killed or told to stop at a step; then the next one, and its data."""

import signal

from common import Bench, tap

# As the program passes them. A checkpoint is there from job-started on, a point from published on.
STEPS = (
    "backup-locked", "backup-reconciled", "backup-inspected", "staging-created", "config-saved",
    "journal-written", "scratch-created", "guard-armed", "freeze-asked", "frozen", "job-started",
    "thawed", "disk-opened", "disk-data", "disk-finished", "before-job-end", "job-ended",
    "manifest-written", "staging-synced", "published", "points-synced", "checkpoints-retired",
    "journal-cleared")
SIGNALS = {"term": signal.SIGTERM, "int": signal.SIGINT}


def at_least(step, other):
    """True if step is other or comes later."""
    return STEPS.index(step) >= STEPS.index(other)


class Row:
    """All actions at one step, on a repository of their own."""

    def __init__(self, t, step):
        self.t, self.step, self.bench = t, step, t.once("bench", Bench)
        self.repository = self.bench.fresh(t, step)

    def cell(self, action):
        """One run with the fault, what it leaves, and the next run."""
        self.t.diag("%s=%s" % (self.step, action))
        self.bench.write(self.t.random)
        before, base = self.bench.content(), self.bench.guest.checkpoints()
        getattr(self, {"kill": "killed", "fail": "failed", "enospc": "failed",
                       "term": "stopped", "int": "stopped", "write": "written",
                       "write-kill": "killed_after_writes"}[action])(action, before, base)
        self.bench.write(self.t.random)
        self.repository.plain(self.t)

    def published(self, before):
        """The run's point is there although the run did not end well."""
        self.repository.expect_point(self.t, before, "incremental")

    def unpublished(self, base):
        """Nothing is left of a run that ended by itself."""
        self.repository.assert_no_point(self.t, base)
        self.repository.assert_released(self.t)

    def failed(self, action, before, base):
        """fail, enospc: the step reports an error."""
        t, late = self.t, at_least(self.step, "checkpoints-retired")
        result = self.repository.run(fail_at="%s=%s" % (self.step, action)).expect(0 if late else 1)
        result.says("injected %s at %s" % ({"fail": "failure"}.get(action, "lack of space"),
                                           self.step))
        t.equal(result.summary["exit_status"], result.status)
        if not at_least(self.step, "published"):
            t.equal(result.json_lines[0]["error"]["code"],
                    {"fail": "failed", "enospc": "no-space"}[action])
            self.unpublished(base)
            return
        self.published(before)
        self.repository.assert_released(t)
        # Both checkpoints stay as long as it is not known that the point is on disk.
        new = self.repository.newest_checkpoint()
        expected = [new] if late else sorted(base + [new])
        t.equal(self.bench.guest.checkpoints(), expected, "checkpoints")

    def stopped(self, action, before, base):
        """term, int: everything is undone, unless so late that the point is published."""
        number = SIGNALS[action]
        result = self.repository.run(fail_at="%s=%s" % (self.step, action))
        result.says("stopping, and undoing")
        if at_least(self.step, "before-job-end"):
            result.expect(0)
            self.published(before)
            self.repository.assert_tidy(self.t)
            return
        result.expect(128 + number)
        self.t.equal(result.summary["exit_status"], 128 + number)
        self.unpublished(base)

    def after_kill(self, before, base):
        """What a killed program may leave, and what must have been undone by the guard."""
        t = self.t
        self.bench.wait_released(t)
        new = self.repository.new_points()
        if at_least(self.step, "published"):
            self.published(before)
            new = [self.repository.newest_checkpoint()]
            if at_least(self.step, "checkpoints-retired"):
                base = []
            t.equal(self.bench.guest.checkpoints(), sorted(base + new), "checkpoints")
            return
        t.equal(new, [], "points")
        found = self.bench.guest.checkpoints()
        t.equal([name for name in base if name in found], base, "the checkpoint of the last point")
        t.equal(len(found), len(base) + at_least(self.step, "job-started"),
                "checkpoints %s" % found)

    def killed(self, action, before, base):
        """kill: SIGKILL by the program's own hand."""
        self.repository.run(fail_at="%s=%s" % (self.step, action)).expect(-signal.SIGKILL)
        self.after_kill(before, base)

    def killed_after_writes(self, _action, before, base):
        """The guest writes, then the program is killed: the next increment must have it all."""
        running, _ = self.repository.pause_at(self.t, self.step)
        self.bench.write(self.t.random, in_job=True)
        running.kill9()
        running.wait().expect(-signal.SIGKILL)
        self.after_kill(before, base)

    def written(self, _action, before, base):
        """The guest writes after the instant of the point: that is for the next one."""
        running, go = self.repository.pause_at(self.t, self.step)
        self.bench.write(self.t.random, in_job=True)
        go()
        running.wait().expect(0)
        self.published(before)
        self.repository.assert_tidy(self.t)
        self.t.ok(base != self.bench.guest.checkpoints(), "the checkpoint is the old one")


def row(t, step):
    """The test of one step."""
    actions = ["kill", "fail", "enospc", "term", "int"]
    if at_least(step, "job-started"):
        actions += ["write", "write-kill"]
    this = Row(t, step)
    for action in actions:
        this.cell(action)


def add_rows(first, last):
    """Registers the tests of the steps from first to last."""
    for step in STEPS[STEPS.index(first):STEPS.index(last) + 1]:
        tap.add_test(step, lambda t, step=step: row(t, step))
