#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A backup that fails, is killed or told to stop before its job has begun."""

import os
import re

from common import tap
from fault_rows import STEPS, add_rows

FAULT_C = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../src/util/fault.c")


@tap.test
def test_every_step_has_a_row(t):
    with open(FAULT_C, encoding="utf-8") as file:
        table = re.search(r"names\[\] = \{(.*?)NULL", file.read(), re.DOTALL).group(1)
    names = re.findall(r'"([a-z-]+)"', table)
    t.equal(set(STEPS), set(names[:names.index("init-repository-written")]))


add_rows("backup-locked", "frozen")

if __name__ == "__main__":
    tap.main()
