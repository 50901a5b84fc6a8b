#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A backup that fails, is killed or told to stop while it publishes the point."""

from common import tap
from fault_rows import add_rows

add_rows("manifest-written", "journal-cleared")

if __name__ == "__main__":
    tap.main()
