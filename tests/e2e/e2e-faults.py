#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A backup that fails, is killed or told to stop before its job has begun."""

from common import tap
from fault_rows import add_rows

add_rows("backup-locked", "frozen")

if __name__ == "__main__":
    tap.main()
