#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""How long the guest is frozen around the start of a job: our way and the bare API calls, interleaved."""

import os
import statistics
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
from virt_driver import Driver, Lab, tap  # noqa: E402

ROUNDS = int(os.environ.get("VMBACKUP_TEST_ROUNDS", "30"))


def ours(t, setting):
    """Nanoseconds of one guarded freeze, begin and thaw."""
    driver = Driver(t, setting.host)
    words, socket, _ = setting.spec("vda", "vdb")
    driver.do(*words)
    driver.do("guard", socket, 10000, 1, 0)
    driver.do("quiesce", "require", 10000)
    answer = driver.do("enter-begin-leave")
    for command in ("job-free", "quiesce-free", "guard-free"):
        driver.do(command)
    driver.close()
    return answer["ns"]


def bare(t, setting):
    """Nanoseconds of the three bare calls."""
    driver = Driver(t, setting.host)
    words, socket, checkpoint = setting.spec("vda", "vdb")
    driver.do(*words)
    answer = driver.do("bare-freeze-begin-thaw")
    driver.do("end-by-socket", socket)
    driver.do("delete", checkpoint)
    driver.close()
    return answer["ns"]


@tap.test
def test_freeze_time(t):
    setting = Lab(t)
    times = {ours: [], bare: []}
    for _ in range(ROUNDS):
        for way, measured in times.items():
            measured.append(way(t, setting) / 1e6)
    for way, measured in times.items():
        t.diag("%-5s min %.0f median %.0f max %.0f ms" % (
            way.__name__, min(measured), statistics.median(measured), max(measured)))
    t.diag("difference of the medians: %.1f ms" % (
        statistics.median(times[ours]) - statistics.median(times[bare])))


tap.main()
