# SPDX-License-Identifier: GPL-2.0-or-later
"""Full, restore, verify, incremental and memory: how fast and how large copies are made."""

import os
import re

from vmbtest import image
from vmbtest.guest import Disk

import measure
from lab import GIB, MIB, PullJob, drop_checkpoints

TIB = 1024 * GIB
CONVERT = ("qemu-img", "convert")
CONVERT_FAST = (*CONVERT, "-W", "-m", "16")
ZSTD = ("-c", "-O", "qcow2", "-o", "compression_type=zstd")
CHANGED = 64 * MIB


def full(lab, table, options):
    """Against qemu-img, virtnbdbackup and nbdcopy."""
    guest = lab.files_guest()
    lab.copy_export(guest, "nbdcopy")  # everything is in memory from here on
    samples = measure.in_turn(options.rounds, {
        "full, zstd": lambda: lab.full(guest),
        "qemu-img convert -c": lambda: lab.copy_export(guest, *CONVERT_FAST, *ZSTD),
        "virtnbdbackup -z": lambda: lab.virtnbdbackup(guest, "-z"),
        "full, uncompressed": lambda: lab.full(guest, "--compress", "none"),
        "nbdcopy": lambda: lab.copy_export(guest, "nbdcopy"),
    }, lab.say)
    ours = ("", samples["full, zstd"])
    convert = ("qemu-img convert -c -W -m 16, zstd", samples["qemu-img convert -c"])
    table.compare("full 4 GiB, zstd", ours, convert, 0.6)
    table.compare("full 4 GiB, zstd", ours, ("virtnbdbackup -z", samples["virtnbdbackup -z"]), 0.4)
    table.compare("size of its image", ours, convert, 1.1, "size", "MiB", MIB)
    table.compare("full 4 GiB, uncompressed", ("", samples["full, uncompressed"]),
                  ("nbdcopy to a file", samples["nbdcopy"]), 1.3)


class Chain:
    """A repository with a full and an incremental of the disk of 4 GiB."""

    def __init__(self, lab):
        self.guest = lab.files_guest()
        self.tool = lab.tool(lab.result("chain"))
        lab.backup(self.tool, self.guest)
        write_noise(lab, self.guest, [(GIB, CHANGED)])
        lab.backup(self.tool, self.guest)
        point = self.tool.json("list")["points"][-1]
        self.image = os.path.join(self.tool.repo, "domains", point["uuid"], "points", point["id"],
                                  "vda.qcow2")

    def remove(self, lab):
        """Its repository and its checkpoint."""
        drop_checkpoints(self.guest)
        lab.clean(self.tool.repo)


def write_noise(lab, guest, ranges):
    """Random bytes to ranges (offset, length) of vda, by the device itself."""
    noise = lab.host.path("noise")
    with open(noise, "wb") as file:
        file.write(os.urandom(max(length for _, length in ranges)))
    os.chmod(noise, 0o644)
    for offset, length in ranges:
        guest.qemu_io("vda", "write -s %s %d %d" % (noise, offset, length))
    guest.qemu_io("vda", "flush")


def _convert(lab, chain, convert, fmt):
    target = lab.result("converted")
    sample = measure.timed([*convert, "-O", fmt, chain.image, target], flushed=[target])
    lab.clean(target)
    return sample


def restore(lab, table, options):
    """Both formats against qemu-img convert of the same chain."""
    chain = Chain(lab)

    def ours(fmt):
        target = lab.result("restored")
        # The program flushes by itself.
        sample = measure.timed(chain.tool.argv("restore", chain.guest.name + "/latest", "--to", target,
                                               "--format", fmt), env=lab.env)
        lab.clean(target)
        return sample

    ways = {}
    for fmt in ("qcow2", "raw"):
        ways["restore, " + fmt] = lambda fmt=fmt: ours(fmt)
        for convert in (CONVERT, CONVERT_FAST):
            ways[" ".join(convert) + ", " + fmt] = lambda fmt=fmt, convert=convert: _convert(
                lab, chain, convert, fmt)
    samples = measure.in_turn(options.rounds, ways, lab.say)
    for fmt in ("qcow2", "raw"):
        for convert, goal in ((CONVERT, 1.0), (CONVERT_FAST, None)):
            table.compare("restore to " + fmt, ("", samples["restore, " + fmt]),
                          (" ".join(convert), samples[" ".join(convert) + ", " + fmt]), goal)
    chain.remove(lab)


def verify(lab, table, options):
    """The whole repository against qemu-img convert of the newest point."""
    chain = Chain(lab)

    samples = measure.in_turn(options.rounds, {
        "verify": lambda: measure.timed(chain.tool.argv("verify"), env=lab.env),
        "qemu-img convert": lambda: _convert(lab, chain, CONVERT, "qcow2")}, lab.say)
    table.compare("verify of both points", ("", samples["verify"]),
                  ("qemu-img convert", samples["qemu-img convert"]), 0.5)
    chain.remove(lab)


def _sparse_guest(lab):
    guest = lab.guest("sparse", lambda: [Disk(size=TIB)], mount=())
    write_noise(lab, guest, [(0, CHANGED), (TIB // 3, CHANGED), (TIB - CHANGED, CHANGED)])
    return guest


def _reading(sample):
    """Seconds between the first and the last read of data, by the program's own log."""
    found = re.search(r"read from (\d+) ns to (\d+) ns", sample.err)
    if found is None:
        raise measure.BenchError("the log does not tell when data was read\n" + sample.err)
    return (int(found.group(2)) - int(found.group(1))) / 1e9


def incremental(lab, table, options):
    """What an incremental costs apart from reading what changed."""
    guest = _sparse_guest(lab)
    tool = lab.tool(lab.result("repo"))
    lab.backup(tool, guest)
    kinds = {"in one place": [(TIB // 2, CHANGED)],
             "in 256 places": [(number * (TIB // 256), CHANGED // 256) for number in range(256)]}
    samples = {kind: [] for kind in kinds}
    for _ in range(options.rounds):
        for kind, ranges in kinds.items():
            write_noise(lab, guest, ranges)
            os.sync()
            sample = lab.backup(tool, guest, "-vv", "--level", "incremental")
            lab.say("incremental, %s: %.3f s, of which reading %.3f s" % (
                kind, sample.seconds, _reading(sample)))
            sample.rest = sample.seconds - _reading(sample)
            samples[kind].append(sample)
    for kind in kinds:
        table.limit("incremental of 1 TiB, 64 MiB " + kind, measure.median(samples[kind], "rest"),
                    0.5, "s", "of %.2f s in all; the rest is reading" % measure.median(samples[kind]))
    drop_checkpoints(guest)
    lab.clean(tool.repo)
    lab.forget("sparse")


def compare(lab, table, options):
    """An incremental of an unchanged disk whose bitmap is lost, against a full of it."""
    guest = lab.files_guest()
    tool = lab.tool(lab.result("compared"))
    lab.backup(tool, guest)

    def compared():
        drop_checkpoints(guest)
        return lab.backup(tool, guest, "--level", "incremental")
    samples = measure.in_turn(options.rounds, {
        "compared": compared,
        "full, zstd": lambda: lab.full(guest),
        "full, uncompressed": lambda: lab.full(guest, "--compress", "none"),
    }, lab.say)
    ours = ("", samples["compared"])
    table.compare("unchanged 4 GiB by comparison", ours, ("full, zstd", samples["full, zstd"]), 0.7)
    table.compare("unchanged 4 GiB by comparison", ours,
                  ("full, uncompressed", samples["full, uncompressed"]), 0.9)
    drop_checkpoints(guest)
    lab.clean(tool.repo)


def memory(lab, table, options):
    """The peak of resident memory."""
    def row(what, sample):
        table.limit("memory, " + what, sample.peak / MIB, 128, "MiB",
                    "peak of its largest process; %.2f s" % sample.seconds, "%.0f")

    row("full of 4 GiB", lab.full(lab.files_guest(), watch=True))
    guest = _sparse_guest(lab)
    tool = lab.tool(lab.result("repo"))
    lab.backup(tool, guest)
    write_noise(lab, guest, [(TIB // 2, CHANGED)])
    row("incremental of 1 TiB", lab.backup(tool, guest, "--level", "incremental", watch=True))
    drop_checkpoints(guest)
    lab.clean(tool.repo)
    lab.forget("sparse")
