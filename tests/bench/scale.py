# SPDX-License-Identifier: GPL-2.0-or-later
"""Many points, folds and a huge disk: what must not grow with the repository."""

import os
import re

from vmbtest import process
from vmbtest.guest import Disk

import measure
from copies import TIB, write_noise
from lab import GIB, MIB, drop_checkpoints

ALL, ONE_SECONDS = 1.0, 0.05
DECISION = 2.0


def _made(lab, name, domains, points):
    """A repository of so many domains and points, all metadata and no data."""
    lab.say("making %d domains of %d points" % (domains, points))
    tool = lab.tool(lab.result(name))
    process.run(os.environ["VMBACKUP_TEST_MAKE_SCALE"], tool.repo, str(domains), str(points),
                timeout=3600)
    return tool


def _limits(lab, table, options, tool, rows):
    """A row for each of rows: name, limit in seconds, words of the command line, remark."""
    ways = {name: lambda words=words: measure.timed(tool.argv(*words), env=lab.env)
            for name, _, words, _ in rows}
    for way in ways.values():
        way()  # names and documents are in memory from here on
    samples = measure.in_turn(options.rounds, ways, lab.say)
    for name, limit, _, remark in rows:
        table.limit(name, measure.median(samples[name]), limit, "s", "%s; cpu %.2f s" % (
            remark, measure.median(samples[name], "cpu")), "%.3f")


def listing(lab, table, options):
    """list, show and stats of 800 domains with 30 points each, and of one with 512."""
    tool = _made(lab, "many-domains", 800, 30)
    _limits(lab, table, options, tool, [
        ("list, 800 x 30 points", ALL, ("list",), "24000 lines"),
        ("list of one of 800 domains", ONE_SECONDS, ("list", "vm0400"), "30 points"),
        ("show of a point of one of them", ONE_SECONDS, ("show", "vm0400/latest"), "the newest"),
        ("stats, 800 x 30 points", ALL, ("stats",), "800 lines")])
    lab.clean(tool.repo)
    tool = _made(lab, "many-points", 1, 512)
    _limits(lab, table, options, tool, [
        ("list of 512 points", ONE_SECONDS, ("list", "vm0000"), "one domain"),
        ("prune -n of 512 points", ONE_SECONDS, ("prune", "-n", "--keep-daily", "30"),
         "one domain")])
    lab.clean(tool.repo)


def policy(lab, table, options):
    """What a policy makes of 800 domains with 512 points each, all read and printed."""
    tool = _made(lab, "many", 800, 512)
    words = ("prune", "-n", "--keep-daily", "30", "--keep-weekly", "12", "--keep-monthly", "24")
    _limits(lab, table, options, tool, [
        ("prune -n, 800 x 512 points", DECISION, words, "with looking at each point")])
    lab.clean(tool.repo)


class Folding:
    """A full and what is folded into it, again and again."""

    def __init__(self, lab, name, disk, changed):
        self.lab, self.changed = lab, changed
        self.guest = lab.guest(name, lambda: [disk()], mount=())
        self.tool = lab.tool(lab.result("fold-" + name))
        self.copy = []
        lab.backup(self.tool, self.guest, "--compress", "none")

    def fold(self):
        """The next increment, copied by dd and then folded; both times are kept."""
        lab = self.lab
        write_noise(lab, self.guest, [(0, self.changed)])
        lab.backup(self.tool, self.guest, "--level", "incremental")
        point = self.tool.json("list")["points"][-1]
        image = os.path.join(self.tool.repo, "domains", point["uuid"], "points", point["id"],
                             "vda.qcow2")
        os.sync()
        copy = lab.result("copied")
        self.copy.append(measure.timed(["dd", "if=" + image, "of=" + copy, "bs=1M", "conv=fsync"]))
        lab.clean(copy)
        os.sync()
        sample = measure.timed(self.tool.argv("prune", "--keep-last", "1", "--json"), env=lab.env)
        if not re.search('"mode": *"append"', sample.out):
            raise measure.BenchError("not folded in place:\n" + sample.out)
        return sample

    def remove(self):
        """The repository and the checkpoint."""
        drop_checkpoints(self.guest)
        self.lab.clean(self.tool.repo)


def _fullest(lab, size):
    def disk():
        lab.say("making a disk of %d MiB of noise" % (size // MIB))
        path = os.path.join(lab.host.images, "noise-%d.raw" % size)
        process.run("dd", "if=/dev/urandom", "of=" + path, "bs=1M", "count=%d" % (size // MIB),
                    timeout=600)
        image = path[:-3] + "qcow2"
        process.run("qemu-img", "convert", "-O", "qcow2", path, image, timeout=600)
        os.unlink(path)
        return Disk(size=None, path=image)
    return disk


def fold(lab, table, options):
    """An increment of 1 GiB against dd of its image; one of 64 MiB into a small and a large full."""
    large = Folding(lab, "large", _fullest(lab, 4 * GIB), GIB)
    samples = measure.in_turn(options.rounds, {"fold of 1 GiB": large.fold}, lab.say)
    table.compare("fold of 1 GiB into 4 GiB", ("", samples["fold of 1 GiB"]),
                  ("dd of the increment with fsync", large.copy), 2.5)
    large.changed, large.copy = 64 * MIB, []
    small = Folding(lab, "small", _fullest(lab, 64 * MIB), 64 * MIB)
    samples = measure.in_turn(options.rounds, {"into 4 GiB": large.fold,
                                               "into 64 MiB": small.fold}, lab.say)
    table.compare("fold of 64 MiB into 4 GiB", ("", samples["into 4 GiB"]),
                  ("the same into 64 MiB", samples["into 64 MiB"]), 1.3)
    table.compare("fold of 64 MiB into 4 GiB", ("", samples["into 4 GiB"]),
                  ("dd of the increment with fsync", large.copy), None)
    for each in (large, small):
        each.remove()
    lab.forget("large")
    lab.forget("small")


def huge(lab, table, options):
    """The peak of resident memory with a disk of 64 TiB, and that its restore is right."""
    size, changed = 64 * TIB, 64 * MIB
    guest = lab.guest("huge", lambda: [Disk(size=size)], mount=())
    write_noise(lab, guest, [(0, changed), (size // 3 // 65536 * 65536, changed),
                             (size - changed, changed)])
    tool = lab.tool(lab.result("huge"))

    def row(what, sample):
        table.limit("64 TiB, " + what, sample.peak / MIB, 128, "MiB",
                    "peak of its largest process; %.2f s" % sample.seconds, "%.0f")

    def run(what, *words):
        row(what, measure.timed(tool.argv(*words), watch=True, env=lab.env))

    row("full", lab.backup(tool, guest, watch=True))
    write_noise(lab, guest, [(size // 2, changed), (changed // 2, changed)])
    row("incremental", lab.backup(tool, guest, "--level", "incremental", watch=True))
    run("verify", "verify")
    run("fold", "prune", "--keep-last", "1")
    run("verify of what was folded", "verify")
    restored = lab.result("huge-restored")
    run("restore", "restore", guest.name + "/latest", "--to", restored)
    point = tool.json("list")["points"]
    if len(point) != 1 or point[0]["level"] != "full":
        raise measure.BenchError("not folded: %s" % point)
    process.run("qemu-img", "compare", os.path.join(restored, "vda.qcow2"),
                os.path.join(tool.repo, "domains", point[0]["uuid"], "points", point[0]["id"],
                             "vda.qcow2"), timeout=1200)
    process.run("qemu-img", "compare", "-U", os.path.join(restored, "vda.qcow2"),
                guest.disks[0].path, timeout=1200)
    drop_checkpoints(guest)
    lab.clean(tool.repo, restored)
    lab.forget("huge")
