#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Those who undo what dead runs have left fail, are killed or told to stop at a step themselves."""

from common import Bench, tap
from fault_stories import PausedByScratch, Redefining, Repairing, RepairingShutOff, TakingApart
from fault_stories import Undoing, add

for story in (Undoing, PausedByScratch, TakingApart, RepairingShutOff, Redefining):
    add(story)


@tap.test
def test_repairs(t):
    """The same steps, when doctor passes them."""
    this = Repairing(t, t.once("bench", Bench))
    for step in Repairing.own():
        this.cell(step, "kill")


if __name__ == "__main__":
    tap.main()
