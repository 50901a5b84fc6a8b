#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Faults at the steps of the guard, of restores, of repositories, and of shut-off domains' backups."""

import os
import re

from common import Bench, tap
from fault_rows import STEPS
from fault_stories import Adopting, Guarding, Making, Restoring, STORIES, ShutOff, add, fault_points

COMMAND_LINE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../cli")


@tap.test
def test_every_step_has_a_row(t):
    """A step that the program has and no story claims would never be tried."""
    claimed = set(STEPS)
    # What needs no guest is killed step by step by the tests of the command line.
    here = os.path.dirname(os.path.abspath(__file__))
    for name in [*(os.path.join(COMMAND_LINE, name) for name in os.listdir(COMMAND_LINE)),
                 os.path.join(here, "e2e-live.py"), os.path.join(here, "e2e-lost-job.py")]:
        if name.endswith(".py"):
            with open(name, encoding="utf-8") as file:
                claimed.update(set(fault_points()) & set(re.findall("[a-z]+(?:-[a-z]+)+", file.read())))
    for story in STORIES:
        t.ok(story.own(), "%s has no step of its own" % story.__name__)
        claimed.update(story.own())
    t.equal(sorted(set(fault_points()) - claimed), [], "steps in no row")
    t.equal(sorted(set(STEPS) - set(fault_points())), [], "rows without a step")
    t.ok(all(re.fullmatch("[a-z-]+", name) for name in claimed), "names")


for one in (Guarding, Restoring, Making, Adopting, ShutOff):
    add(one)


@tap.test
def test_all_points_of_the_shut_off_domain(t):
    bench = t.once("bench", Bench)
    story = ShutOff(t, bench)
    story.repository.assert_points(t)
    if bench.guest.is_active():
        bench.guest.destroy()
    bench.guest.start()
    bench.guest.wait_agent()
    bench.write(t.random)
    story.repository.plain(t)


if __name__ == "__main__":
    tap.main()
