# SPDX-License-Identifier: GPL-2.0-or-later
"""Which blocks of two raw files differ: what the program must find out without reading them."""

import os

BLOCK = 65536


def _read(file, offset, size):
    if file is None:
        return bytes(size)
    file.seek(offset)
    return file.read(size).ljust(size, b"\0")


def ranges(older, newer):
    """[(offset, length, zero)] of a raw file that differ from another (None: there is none, all was zero).

    Blocks of 64 KiB, those of one kind that touch as one; up to the end of the newer one, and what the
    older one lacks is zero.
    """
    found = []
    size = os.path.getsize(newer)
    before = open(older, "rb") if older else None
    with open(newer, "rb") as after:
        for offset in range(0, size, BLOCK):
            length = min(BLOCK, size - offset)
            now = _read(after, offset, length)
            if now == _read(before, offset, length):
                continue
            zero = not any(now)
            if found and found[-1][2] == zero and found[-1][0] + found[-1][1] == offset:
                found[-1] = (found[-1][0], found[-1][1] + length, zero)
            else:
                found.append((offset, length, zero))
    if before:
        before.close()
    return found
