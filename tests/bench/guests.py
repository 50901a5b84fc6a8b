# SPDX-License-Identifier: GPL-2.0-or-later
"""Freeze, latency and sweep: what a running guest feels."""

import os
import statistics
import subprocess
import time

from vmbtest import image

import measure
from lab import drop_checkpoints, end_job, job_xml

WRITER = "/mnt/vda/write-latency"
WRITES = 65536


# Freeze


def _ours(lab, guest):
    tool = lab.tool(lab.result("repo"))
    lab.backup(tool, guest, "--level", "full", "--quiesce", "require")
    shown = tool.json("show", guest.name + "/latest")
    drop_checkpoints(guest)
    lab.clean(tool.repo)
    return _freeze_ns(shown) / 1e9


def _freeze_ns(shown):
    """The one member of that name, wherever it stands in the document."""
    if isinstance(shown, dict):
        if "freeze_ns" in shown:
            return shown["freeze_ns"]
        shown = list(shown.values())
    if isinstance(shown, list):
        for part in shown:
            found = _freeze_ns(part)
            if found is not None:
                return found
    return None


def _bare(lab, guest, number):
    scratch = {}
    for disk in guest.disks:
        scratch[disk.target] = lab.host.path("scratch", "%s-%d" % (disk.target, number))
        image.create(scratch[disk.target], disk.size)
    xml = job_xml(lab, guest, lab.host.path("sock", "bare"), scratch)
    checkpoint = ("<domaincheckpoint><name>bare-%d</name><disks>%s</disks></domaincheckpoint>" % (
        number, "".join("<disk name='%s' checkpoint='bitmap'/>" % disk.target
                        for disk in guest.disks)))
    dom = guest.dom
    start = time.monotonic()
    dom.fsFreeze()
    dom.backupBegin(xml, checkpoint, 1)  # VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL
    dom.fsThaw()
    seconds = time.monotonic() - start
    end_job(guest)
    drop_checkpoints(guest)
    lab.clean(*scratch.values())
    return seconds


def _virtnbdbackup(lab, guest):
    """It logs whole seconds, so each line's arrival is noted here."""
    target = lab.result("vnb")
    times = {}
    child = subprocess.Popen(lab.virtnbdbackup_argv(guest, target, "-v"), stdout=subprocess.DEVNULL,
                             stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    for line in child.stderr:
        for text in (b"Attempting to freeze", b"Thawed ["):
            if text in line:
                times[text] = time.monotonic()
    if child.wait() != 0 or len(times) != 2:
        raise measure.BenchError("virtnbdbackup has not frozen and thawed the guest")
    child.stderr.close()
    drop_checkpoints(guest)
    lab.clean(target)
    return times[b"Thawed ["] - times[b"Attempting to freeze"]


def freeze(lab, table, options):
    """From freeze to thaw."""
    guest = lab.guest("idle", lambda: None, running=True)
    samples = {"vmbackup": [], "bare": [], "virtnbdbackup": []}
    for number in range(options.freeze_rounds):
        samples["vmbackup"].append(_ours(lab, guest))
        samples["bare"].append(_bare(lab, guest, number))
        samples["virtnbdbackup"].append(_virtnbdbackup(lab, guest))
    ms = {name: [1000 * value for value in values] for name, values in samples.items()}
    middle = {name: statistics.median(values) for name, values in ms.items()}
    for name, values in ms.items():
        lab.say("freeze to thaw, %-14s min %5.0f  median %5.0f  max %5.0f ms" % (
            name, min(values), middle[name], max(values)))
    for name, text, limit in (("bare", "freeze, begin, thaw by the API", middle["bare"] + 10),
                              ("virtnbdbackup", "virtnbdbackup", middle["virtnbdbackup"])):
        table.add("freeze to thaw", "%.0f ms" % middle["vmbackup"], "%.0f ms" % middle[name],
                  "%.2f" % (middle["vmbackup"] / middle[name]), "<= %.0f ms" % limit,
                  middle["vmbackup"] <= limit, text)
    lab.forget("idle")


# Latency


class Load:
    """Synchronous random writes of 64 KiB in the guest, while the object is entered."""

    def __init__(self, guest):
        self.guest, self.pid = guest, None
        self.seconds, self.writes = 0.0, []

    def __enter__(self):
        self.pid = self.guest.agent({"execute": "guest-exec", "arguments": {
            "path": WRITER, "arg": ["/mnt/vda/load", str(WRITES)], "capture-output": True}})["pid"]
        time.sleep(0.5)
        return self

    def __exit__(self, kind, *_):
        self.guest.exec("kill %d" % self.pid)
        numbers = self._output().split()
        self.seconds, self.writes = float(numbers[0]), [int(n) / 1000 for n in numbers[1:]]

    def _output(self):
        import base64
        while True:
            answer = self.guest.agent({"execute": "guest-exec-status", "arguments": {"pid": self.pid}})
            if answer["exited"]:
                return base64.b64decode(answer.get("out-data", "")).decode()
            time.sleep(0.02)


def _guest(lab):
    guest = lab.guest("writing", lambda: [lab.files_disk()], running=True)
    with Load(guest):  # makes its file
        guest.exec("while [ $(stat -c %s /mnt/vda/load) != 268435456 ]; do sleep 0.1; done; sync")
        time.sleep(1)
    return guest


def _under(guest, what):
    """A Sample of what() with the writes that the guest made meanwhile."""
    os.sync()
    with Load(guest) as load:
        sample = what()
    sample.writes, sample.load_seconds = load.writes, load.seconds
    return sample


def _nothing(seconds):
    time.sleep(seconds)
    return measure.Sample(seconds)


def _numbers(samples):
    """Median and p99 of all writes in ms, MiB/s of the guest, seconds of the copy."""
    writes = [ms for sample in samples for ms in sample.writes]
    rate = len(writes) * WRITES / measure.MIB / sum(sample.load_seconds for sample in samples)
    return (statistics.median(writes), measure.percentile(writes, 0.99), max(writes), rate,
            measure.median(samples))


def _row(table, what, samples, note=""):
    middle, high, worst, rate, seconds = _numbers(samples)
    table.add(what, "%.2f ms" % middle, "%.1f ms" % high, "", "", None,
              "%s%.1f MiB/s, longest %.0f ms, copy %.2f s" % (note, rate, worst, seconds))


def latency(lab, table, options):
    """Of a guest's writes during a full."""
    guest = _guest(lab)
    ways = {"nothing": lambda: _nothing(6), "vmbackup": lambda: lab.full(guest),
            "virtnbdbackup": lambda: lab.virtnbdbackup(guest),
            "virtnbdbackup -z": lambda: lab.virtnbdbackup(guest, "-z")}
    samples = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            samples[name].append(_under(guest, way))
            lab.say("latency, %-18s median %.2f p99 %.1f longest %.0f ms, %.1f MiB/s, %.2f s" % (
                name, *_numbers(samples[name][-1:])))
    for name in ways:
        _row(table, "write latency: median, p99", samples[name], name + ": ")
    lab.forget("writing")


def sweep(lab, table, options):
    """The same for settings of the reader."""
    guest = _guest(lab)
    settings = [tuple(word.split(":")) for word in options.settings.split(",")]
    samples = {setting: [] for setting in settings}
    for _ in range(options.rounds):
        for setting in settings:
            request, in_flight, spans = setting
            env = {"VMBACKUP_TEST_NBD_REQUEST_KIB": request, "VMBACKUP_TEST_NBD_IN_FLIGHT": in_flight,
                   "VMBACKUP_TEST_NBD_SPANS": spans}
            samples[setting].append(_under(guest, lambda env=env: lab.full(guest, env=env)))
            lab.say("%s: median %.2f p99 %.1f longest %.0f ms, %.1f MiB/s, %.2f s" % (
                ":".join(setting), *_numbers(samples[setting][-1:])))
    for setting in settings:
        _row(table, "%5s KiB x %2s, %2s spans: median, p99" % setting, samples[setting])
    lab.forget("writing")
