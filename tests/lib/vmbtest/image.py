# SPDX-License-Identifier: GPL-2.0-or-later
"""Disk images: making, checking and comparing them, and a raw model for random tests."""

import hashlib
import json
import os

from .process import run

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


def create(path, size, fmt="qcow2", backing=None, backing_format="qcow2", **options):
    """Makes an image; options are those of the format, as in cluster_size=4096."""
    argv = ["qemu-img", "create", "-q", "-f", fmt]
    if backing:
        argv += ["-b", backing, "-F", backing_format]
    if options:
        argv += ["-o", ",".join("%s=%s" % item for item in sorted(options.items()))]
    run(*argv, path, *([] if size is None else [size]))
    return path


def info(path, fmt=None):
    """What qemu-img info says, as a dict; also of an image that is in use."""
    return json.loads(run("qemu-img", "info", "-U", "--output=json",
                          *(["-f", fmt] if fmt else []), path))


def check(path, fmt="qcow2"):
    """qemu-img check: raises on errors and leaks; returns its report."""
    return json.loads(run("qemu-img", "check", "--output=json", "-f", fmt, path))


def compare(first, second, first_format="qcow2", second_format="raw", strict=False):
    """Raises unless both have the same content; strict: also the same size."""
    run("qemu-img", "compare", "-q", "-U", *(["-s"] if strict else []), "-f", first_format,
        "-F", second_format, first, second, timeout=600)


def differs(first, second, first_format="qcow2", second_format="raw"):
    """True if the content differs; errors are raised."""
    text = run("qemu-img", "compare", "-U", "-f", first_format, "-F", second_format, first, second,
               timeout=600, check=False)
    if "identical" in text:
        return False
    compare_text = text.strip()
    if "mismatch" in compare_text:
        return True
    compare(first, second, first_format, second_format)
    return False


def convert(source, target, source_format="qcow2", target_format="raw", force_share=False):
    """qemu-img convert; force_share reads an image that a suspended guest has open."""
    run("qemu-img", "convert", "-q", *(["-U"] if force_share else []), "-f", source_format,
        "-O", target_format, source, target, timeout=600)
    return target


def sha256(path):
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(MIB), b""):
            digest.update(block)
    return digest.hexdigest()


def content_sha256(path, fmt, temporary):
    """SHA-256 of what a guest would read; temporary is a directory for a raw copy."""
    raw = os.path.join(temporary, "content-%d.raw" % os.getpid())
    try:
        return sha256(convert(path, raw, fmt, "raw"))
    finally:
        if os.path.exists(raw):
            os.unlink(raw)


def allocated(path):
    """Bytes that the file takes on its file system."""
    return os.stat(path).st_blocks * 512


class Model:
    """What a disk should hold: a sparse raw file, changed by the same operations as the disk."""

    def __init__(self, path, size):
        self.path, self.size = path, size
        with open(path, "wb") as file:
            file.truncate(size)

    def write(self, offset, length, pattern):
        """Fills a range with a byte."""
        with open(self.path, "r+b") as file:
            file.seek(offset)
            while length > 0:
                file.write(bytes([pattern]) * min(length, MIB))
                length -= min(length, MIB)

    def zero(self, offset, length):
        """Makes a range read as zero."""
        self.write(offset, length, 0)

    def resize(self, size):
        """Cuts the end off, or adds zeroes."""
        with open(self.path, "r+b") as file:
            file.truncate(size)
        self.size = size

    def apply(self, operation):
        """Does what one of random_operations() does to a disk."""
        kind, offset, length, pattern = operation
        if kind == "write":
            self.write(offset, length, pattern)
        else:
            self.zero(offset, length)

    def snapshot(self, path):
        """A sparse copy of the present state. Returns its path."""
        run("cp", "--sparse=always", "--reflink=auto", self.path, path)
        return path


def random_operations(rng, size, count, cluster=64 * KIB, longest=2 * MIB):
    """Yields (kind, offset, length, pattern), kind being write, zero, zero-unmap or discard.

    Sectors are the unit, except for discards: QEMU may ignore the ends of one that is not aligned
    to clusters, so these are aligned. Lengths favour small values and the borders of clusters.
    """
    for _ in range(count):
        kind = rng.choice(["write", "write", "write", "zero", "zero-unmap", "discard"])
        unit = cluster if kind == "discard" else rng.choice([512, 512, 4096, cluster])
        length = unit * max(1, int(longest / unit * rng.random() ** 4))
        length = min(length, size // unit * unit)
        if not length:
            continue
        offset = rng.randrange(0, (size - length) // unit + 1) * unit
        yield kind, offset, length, rng.randrange(1, 256) if kind == "write" else 0


def qemu_io_command(operation):
    """The qemu-io command of an operation, for Guest.qemu_io() or qemu-io -c."""
    kind, offset, length, pattern = operation
    if kind == "write":
        return "write -P 0x%02x %d %d" % (pattern, offset, length)
    if kind == "discard":
        return "discard %d %d" % (offset, length)
    return "write -z%s %d %d" % (" -u" if kind == "zero-unmap" else "", offset, length)


def fill_random(path, rng, size):
    """A raw file of incompressible bytes that the seed determines."""
    with open(path, "wb") as file:
        left = size
        while left > 0:
            file.write(rng.randbytes(min(left, MIB)))
            left -= min(left, MIB)
    return path


def fill_mixed(path, rng, size, block=64 * KIB):
    """A raw file of holes, zeroes, text-like and random blocks that the seed determines."""
    words = [bytes(rng.choices(range(97, 123), k=rng.randrange(2, 9))) for _ in range(300)]
    with open(path, "wb") as file:
        file.truncate(size)
        for offset in range(0, size, block):
            length = min(block, size - offset)
            kind = rng.randrange(4)
            if kind == 0:
                continue
            if kind == 1:
                data = bytes(length)
            elif kind == 2:
                data = b" ".join(rng.choices(words, k=length // 2))[:length]
            else:
                data = rng.randbytes(length)
            file.seek(offset)
            file.write(data)
    return path
