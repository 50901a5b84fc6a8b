# SPDX-License-Identifier: GPL-2.0-or-later
"""Timed runs of programs, runs in turn, and the table of what came out."""

import os
import statistics
import subprocess
import tempfile
import threading
import time

from vmbtest import process

MIB = 1024 * 1024


class BenchError(Exception):
    """A run failed, so there is nothing to compare."""


class Sample:
    """One run: seconds of the wall clock, cpu seconds, bytes written, text of standard error."""

    def __init__(self, seconds, cpu=0.0, size=0, peak=0, out="", err=""):
        self.seconds, self.cpu, self.size, self.peak = seconds, cpu, size, peak
        self.out, self.err = out, err


def cpu_of(pid):
    """CPU seconds of a process so far."""
    with open("/proc/%d/stat" % pid, encoding="ascii", errors="replace") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak_of(pid):
    try:
        with open("/proc/%d/status" % pid, encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


class _PeakWatch(threading.Thread):
    """The largest peak of resident memory that any process of a family reached, by itself."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.peak, self.ended = pid, 0, threading.Event()
        self.own = os.path.realpath(os.environ["VMBACKUP"])

    def run(self):
        while not self.ended.wait(0.01):
            for pid in [self.pid] + process.descendants(self.pid):
                if self._is_ours(pid):
                    self.peak = max(self.peak, _peak_of(pid))

    def _is_ours(self, pid):
        try:
            return os.path.realpath("/proc/%d/exe" % pid) == self.own
        except OSError:
            return False


def flush(paths):
    """fsync of files, and of all files below directories."""
    for top in paths:
        found = [top] if os.path.isfile(top) else [
            os.path.join(place, name) for place, _, names in os.walk(top) for name in names]
        for path in found:
            fd = os.open(path, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)


def timed(argv, flushed=(), beside=None, watch=False, env=None):
    """Runs argv to its end and flushes what it wrote; returns a Sample.

    beside  process number of a QEMU whose CPU seconds count as well
    watch   True: also the peak of resident memory
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        before = cpu_of(beside) if beside else 0.0
        start = time.monotonic()
        child = subprocess.Popen([str(word) for word in argv], stdin=subprocess.DEVNULL,
                                 stdout=out, stderr=err, env=dict(os.environ, **(env or {})))
        peak = _PeakWatch(child.pid) if watch else None
        if peak:
            peak.start()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        flush(flushed)
        seconds = time.monotonic() - start
        if peak:
            peak.ended.set()
            peak.join()
        out.seek(0)
        err.seek(0)
        said = [file.read().decode(errors="backslashreplace") for file in (out, err)]
    if child.returncode != 0:
        raise BenchError("%s: status %s\n%s%s" % (" ".join(map(str, argv)), child.returncode, *said))
    cpu = usage.ru_utime + usage.ru_stime + (cpu_of(beside) - before if beside else 0.0)
    return Sample(seconds, cpu, peak=peak.peak if peak else 0, out=said[0], err=said[1])


def in_turn(rounds, ways, say):
    """Calls each of ways (name: function that returns a Sample) once per round; lists by name."""
    samples = {name: [] for name in ways}
    for number in range(rounds):
        for name, way in ways.items():
            os.sync()
            sample = way()
            samples[name].append(sample)
            say("round %d: %-34s %8.3f s  cpu %6.2f s%s" % (
                number + 1, name, sample.seconds, sample.cpu,
                "  %5d MiB" % (sample.size // MIB) if sample.size else ""))
    return samples


def median(samples, what="seconds"):
    """The median of one attribute."""
    return statistics.median(getattr(sample, what) for sample in samples)


def percentile(values, part):
    """The value below which part (0 to 1) of them lie."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * part), len(ordered) - 1)]


class Table:
    """Rows of what was measured, ours, the other's, the ratio and its goal."""

    def __init__(self):
        self.rows = []

    def compare(self, what, ours, other, goal, attribute="seconds", unit="s", scale=1.0):
        """A row from two lists of samples (each with a name): the ratio must not exceed goal, if any."""
        mine, theirs = (median(side[1], attribute) / scale for side in (ours, other))
        ratio = mine / theirs
        note = other[0]
        if attribute == "seconds":
            note += ", cpu %.1f : %.1f s" % (median(ours[1], "cpu"), median(other[1], "cpu"))
        form = "%.2f " if unit == "s" else "%.0f "
        self.add(what, form % mine + unit, form % theirs + unit, "%.2f" % ratio,
                 "<= %.2f" % goal if goal else "", ratio <= goal if goal else None, note)

    def limit(self, what, value, limit, unit, note="", form="%.2f"):
        """A row with a value that must stay below a limit."""
        self.add(what, (form + " %s") % (value, unit), "", "", ("< " + form + " %s") % (limit, unit),
                 value < limit, note)

    def add(self, what, ours, other, ratio, goal, kept, note=""):
        """Any row; kept: None where there is no goal."""
        verdict = "" if kept is None else "ok" if kept else "MISSED"
        self.rows.append([what, ours, other, ratio, goal, verdict, note])

    def text(self):
        """The whole table."""
        rows = [["measured", "vmbackup", "other", "ratio", "goal", "", "other is; remarks"]] + self.rows
        widths = [max(len(row[i]) for row in rows) for i in range(6)]
        lines = ["  ".join(row[i].rjust(widths[i]) if 0 < i < 4 else row[i].ljust(widths[i])
                           for i in range(6)) + "  " + row[6] for row in rows]
        return "\n".join(line.rstrip() for line in lines) + "\n"
