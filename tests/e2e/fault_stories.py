# SPDX-License-Identifier: GPL-2.0-or-later
"""The fault matrix beyond a plain backup: each story is hit at each of the steps that are its own.

The steps come from the program's sources, so that a new one has its cells without a word here, and
fails the test of the table if no story lays claim to it.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import time

from common import Bench, image, libvirt, process, tap
from fault_rows import STEPS
from vmbtest.guest import libvirt_qemu

SOURCES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../src")
LONG = bool(os.environ.get("VMBACKUP_TEST_LONG"))


def fault_points():
    """The names that the sources pass, in the order of the table of util/fault.c."""
    passed = set()
    for directory, _, files in os.walk(SOURCES):
        for name in files:
            if name.endswith(".c") and name != "fault.c":
                with open(os.path.join(directory, name), encoding="utf-8") as file:
                    passed.update(re.findall(r'vmb_fault_point\(\s*"([a-z-]+)"', file.read()))
    with open(os.path.join(SOURCES, "util/fault.c"), encoding="utf-8") as file:
        table = re.search(r"names\[\] = \{(.*?)NULL", file.read(), re.DOTALL).group(1)
    names = re.findall(r'"([a-z-]+)"', table)
    if set(names) != passed:
        raise tap.Failure("table and sources differ: %s" % (set(names) ^ passed))
    return names


class Story:
    """A way through the program, and the steps that only it passes."""

    steps = ()      # regular expressions
    actions = ("kill", "fail", "term")
    more_actions = ("enospc", "int")
    # Statuses of a run that fails by itself.
    failed = (1,)
    # And of one that is told to stop, but tells more than that.
    stopped_too = ()

    def __init__(self, t, bench):
        self.t, self.bench = t, bench
        self.repository = bench.fresh(t, t.name.replace("_", "-"))

    @classmethod
    def own(cls):
        """The names of its steps."""
        return [name for name in fault_points() if name not in STEPS and
                any(re.fullmatch(pattern, name) for pattern in cls.steps)]

    # What a story says of itself

    def prepare(self, step):
        """Brings about what the run is to meet."""

    def argv(self):
        """The command that is hit."""
        return self.repository._arguments(self.bench, ())

    def after(self, result, content):
        """What is special after the run that was hit."""

    def next_run(self):
        """The one that nobody has prepared: incremental, exact, and all is tidy after it."""
        self.bench.write(self.t.random)
        self.repository.plain(self.t)

    # The cells

    def start(self, fault):
        """The run, with a fault."""
        return self.repository.tool.start(*self.argv(), fail_at=fault)

    def hit(self, step, action):
        """The run under its fault. Fails if the step was not passed. Returns the Result."""
        t = self.t
        if action in ("term", "int"):
            gate = self.bench.host.path("tmp", "gate-" + t.name)
            for name in (gate, gate + ".reached"):
                if os.path.exists(name):
                    os.unlink(name)
            running = self.start("%s=wait:%s" % (step, gate))
            t.eventually(lambda: os.path.exists(gate + ".reached") or not running.running(), 60,
                         step)
            t.ok(running.running(), "%s is not passed" % step)
            running.signal(signal.SIGTERM if action == "term" else signal.SIGINT)
            # Those who have nothing to undo say nothing.
            end = time.monotonic() + 2
            while running.running() and "stopping" not in running.stderr_so_far() and \
                    time.monotonic() < end:
                time.sleep(0.02)
            with open(gate, "wb"):
                pass
            number = signal.SIGTERM if action == "term" else signal.SIGINT
            return running.wait().expect((0, 128 + number, -number, *self.stopped_too))
        result = self.start("%s=%s" % (step, action)).wait()
        if action == "kill":
            return result.expect(-signal.SIGKILL)
        result.expect((0, *self.failed))
        t.contains(result.err + result.out, "injected %s at %s" % (
            "lack of space" if action == "enospc" else "failure", step))
        return result

    def cell(self, step, action):
        """One fault, what it leaves, and the next run."""
        t, bench = self.t, self.bench
        t.diag("%s=%s" % (step, action))
        bench.write(t.random)
        self.prepare(step)
        base, content = bench.guest.checkpoints(), bench.content()
        result = self.hit(step, action)
        bench.wait_no_guard(t)
        self.unharmed(base, content)
        self.after(result, content)
        self.next_run()
        self.no_servers()

    def unharmed(self, base, content):
        """The same for each cell: no half point, no checkpoint of anybody else's, none lost."""
        t, new = self.t, self.repository.new_points()
        t.ok(len(new) <= 1, "new points %s" % new)
        if new:
            self.repository.expected[new[0]] = content
        found = self.bench.guest.checkpoints()
        t.ok(new or not self.needed(base) - set(found), "checkpoints %s, before %s" % (found, base))
        t.ok(len(set(found) - set(base)) <= 1, "checkpoints %s, before %s" % (found, base))

    def needed(self, base):
        """The checkpoints from which the next increment starts."""
        newest = self.repository.manifest(self.repository.ids()[-1])
        return {disk["checkpoint"] for disk in newest["disks"]} & set(base)

    def no_servers(self):
        """No program of ours is left but QEMU's own."""
        left = [words for _, words in self.bench.host.processes()
                if "qemu-nbd" in words or "vmbackup" in words.split(" ")[0]]
        self.t.equal(left, [], "processes")


def add(story):
    """Registers one test for each step of a story."""
    for step in story.own():
        def run(t, step=step):
            this = story(t, t.once("bench", Bench))
            for action in story.actions + (story.more_actions if LONG else ()):
                this.cell(step, action)
        tap.add_test(step, run)


# What a dead run leaves, and those who undo it

def remove_bitmap(bench, target, name):
    """A bitmap goes, libvirt's record of it stays."""
    query = {"execute": "query-named-block-nodes", "arguments": {"flat": True}}
    path = os.path.realpath(bench.guest.disk_path(target))
    nodes = json.loads(libvirt_qemu.qemuMonitorCommand(bench.guest.dom, json.dumps(query), 0))
    node = [n["node-name"] for n in nodes["return"] if os.path.realpath(n.get("file", "")) == path and
            n.get("dirty-bitmaps")][0]
    libvirt_qemu.qemuMonitorCommand(bench.guest.dom, json.dumps({
        "execute": "block-dirty-bitmap-remove", "arguments": {"node": node, "name": name}}), 0)


class Undoing(Story):
    """A backup that first has to undo a dead run: its job, checkpoint, scratch and socket."""

    steps = ("reconcile-(?!noted).*", "checkpoint-deleted")

    def die(self, *more):
        """Program and guard are killed while their job runs. Returns the new checkpoint's name."""
        running, _ = self.repository.pause_at(self.t, "disk-data", *more)
        for pid in self.bench.guards():
            process.kill(pid)
        running.kill9()
        running.wait().expect(-signal.SIGKILL)
        old = {disk["checkpoint"] for name in self.repository.ids()
               for disk in self.repository.manifest(name)["disks"]}
        (name,) = set(self.bench.guest.checkpoints()) - old
        return name

    def prepare(self, step):
        self.die()


class Repairing(Undoing):
    """The same by doctor, which goes on to its end, and tells what is left."""

    stopped_too = (1,)

    def argv(self):
        return ["doctor", "--repair", self.bench.guest.name, "--scratch-dir", self.bench.scratch]


class PausedByScratch(Undoing):
    """The dead run's scratch space is full, so that QEMU has paused the guest."""

    steps = ("reconcile-noted",)

    def prepare(self, step):
        bench, t = self.bench, self.t
        self.small = bench.host.tmpfs("small-" + t.name, 200 * 1024 * 1024)
        t.defer(lambda: subprocess.run(["umount", "-q", self.small], check=False))
        self.die("--scratch-dir", self.small)
        stat = os.statvfs(self.small)
        self.filler = os.path.join(self.small, "filler")
        with open(self.filler, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, stat.f_bavail * stat.f_frsize - 512 * 1024)
        # A second later, because the agent of a guest that is paused cannot say that it was begun.
        bench.guest.exec("(sleep 1; dd if=/dev/urandom of=/dev/vda bs=1M count=8 oflag=direct) "
                         ">/tmp/dd 2>&1 & true")
        t.eventually(lambda: not bench.guest.is_running(), 60, "QEMU pauses the guest")

    def unharmed(self, base, content):
        """The write that QEMU held up may be done by now."""
        self.t.equal(self.repository.new_points(), [], "points")

    def next_run(self):
        bench, t = self.bench, self.t
        os.unlink(self.filler)
        self.repository.tool.ok("doctor", "--repair", bench.guest.name)
        t.ok(bench.guest.is_running(), "the guest is still paused")
        t.eventually(lambda: "8+0 records out" in bench.guest.exec("cat /tmp/dd"), 60,
                     "the guest's write is done")
        bench.guest.suspend()
        bench.guest.disk_raw("vda", bench.models["vda"].path)
        bench.guest.resume()
        t.equal(os.listdir(self.small), [], "left behind")
        process.run("umount", self.small)
        super().next_run()


class TakingApart(Undoing):
    """The dead run's checkpoint has lost one of its bitmaps."""

    steps = ("checkpoint-taken-apart",)

    def prepare(self, step):
        name = self.die()
        self.bench.guest.dom.abortJob()
        self.t.eventually(lambda: not self.bench.job_active(), 20, "the job ends")
        remove_bitmap(self.bench, "vda", name)


class RepairingShutOff(Repairing):
    """The domain was shut off meanwhile, so that bitmaps are removed from its images."""

    steps = ("bitmap-removed",)

    def prepare(self, step):
        self.die()
        self.bench.guest.destroy()

    def next_run(self):
        self.bench.guest.start()
        self.bench.guest.wait_agent()
        super().next_run()


class Redefining(Story):
    """libvirt has lost its record of the newest point's checkpoint."""

    steps = ("checkpoint-redefined",)

    def prepare(self, step):
        for checkpoint in self.bench.guest.dom.listAllCheckpoints(0):
            checkpoint.delete(libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)


# The guard

class Guarding(Story):
    """The guard is hit, before, or while it does what the program cannot."""

    steps = ("guard-.*",)
    actions = ("kill", "stop")
    more_actions = ("delay:3000",)

    def start(self, fault):
        return self.repository.tool.start(*self.argv(), VMBACKUP_TEST_GUARD_FAIL_AT=fault)

    def hit(self, step, action):
        """The program is killed or slow where the guard has something to do."""
        fault = "%s=%s" % (step, action)
        program = {"guard-connected": None, "guard-fired": "frozen=delay:2500"}.get(
            step, "frozen=kill" if step == "guard-released" else "disk-data=kill")
        running = self.repository.tool.start(
            *self.argv(), *(("--freeze-timeout", "1s") if step == "guard-fired" else ()),
            fail_at=program, VMBACKUP_TEST_GUARD_FAIL_AT=fault)
        if action == "stop":
            self.stopped(running)
        return running.wait().expect((0, 1, -signal.SIGKILL))

    def stopped(self, running):
        """A guard that stops itself whenever it passes the step goes on a while later."""
        def found():
            return [pid for pid in self.bench.guards() if state_of(pid) == "T"]
        self.t.eventually(found, 30, "a guard that stopped itself")
        time.sleep(1)
        end = time.monotonic() + 30
        while (running.running() or self.bench.guards()) and time.monotonic() < end:
            for pid in found():
                process.kill(pid, signal.SIGCONT)
            time.sleep(0.1)


def state_of(pid):
    """The state letter of a process; None if it is gone."""
    try:
        with open("/proc/%d/stat" % pid, encoding="ascii", errors="replace") as file:
            return file.read().rsplit(")", 1)[1].split()[0]
    except OSError:
        return None


# Shut-off domains

class ShutOff(Story):
    """A backup of a shut-off domain; its start is never in the way, nor made impossible.

    All rows share one repository and a domain that is only ever started paused, for speed.
    """

    steps = ("offline-.*", "image-.*")

    def __init__(self, t, bench):
        self.t, self.bench = t, bench
        self.repository = t.once("offline", self.make)

    def make(self, suite):
        """A repository with a full of the paused domain."""
        guest = self.bench.guest
        if guest.is_active():
            guest.destroy()
        guest.start(paused=True)
        for checkpoint in guest.dom.listAllCheckpoints(0):
            checkpoint.delete()
        self.bench.write(self.t.random)
        self.repository = self.bench.repository("offline", suite)
        self.paused_run("full")
        return self.repository

    def paused_run(self, level="incremental"):
        """A run that must succeed, and what holds after it."""
        bench, repository, t = self.bench, self.repository, self.t
        content = bench.content()
        repository.run().expect(0)
        repository.expect_point(t, content, level, "paused")
        t.equal(bench.guest.checkpoints(), [repository.newest_checkpoint()], "checkpoints")
        for target in bench.TARGETS:
            t.equal(bench.guest.bitmaps(target), bench.guest.checkpoints(), "bitmaps")
        t.ok(not bench.job_active(), "a job is left")
        t.equal(bench.leftovers() + repository.left(), [], "left behind")
        # Older ones have been compared already; all are once more in the end.
        t.equal(repository.ids(), list(repository.expected), "the points")
        for name in repository.ids()[-2:]:
            for target, path in repository.expected[name].items():
                image.compare(os.path.join(repository.domain, "points", name, target + ".qcow2"), path)

    def prepare(self, step):
        if not self.bench.guest.is_active():
            self.bench.guest.start(paused=True)
            self.bench.write(self.t.random)
        self.bench.guest.destroy()

    def unharmed(self, base, content):
        super().unharmed(base, content)
        for target in self.bench.TARGETS:
            image.check(self.bench.guest.disk_path(target))

    def next_run(self):
        self.bench.guest.start(paused=True)
        self.bench.write(self.t.random)
        self.paused_run()


# Restores and repositories

class Restoring(Story):
    """A restore with definition: what is there is whole, and the same command succeeds later."""

    steps = ("restore-.*",)
    # A directory that is not there appears at once, without these.
    INTO_EXISTING = ("restore-before-file", "restore-files-moved")

    def prepare(self, step):
        self.to = self.bench.host.path("tmp", "restored-" + self.t.name)
        self.wanted = self.repository.expected[self.repository.ids()[-1]]
        if step in self.INTO_EXISTING:
            os.mkdir(self.to)

    def undefine(self):
        """The restored domain goes, if it is there."""
        if self.defined():
            self.bench.host.conn.lookupByName("web02").undefine()

    def argv(self):
        return ["restore", self.bench.guest.name + "/latest", "--to", self.to, "--name", "web02",
                "--define"]

    def defined(self):
        """Is there a domain of the name?"""
        return "web02" in [domain.name() for domain in self.bench.host.conn.listAllDomains()]

    def after(self, result, content):
        self.t.defer(self.undefine)
        if self.defined():
            # All was there before libvirt heard of it.
            self.compare()
            self.undefine()
            shutil.rmtree(self.to)
        again = self.repository.tool.run(*self.argv())
        if again.status == 0:
            self.compare()
            self.undefine()
        else:
            # Only that all is there already is a reason to refuse it.
            again.says("exists already")
            self.compare()
        shutil.rmtree(self.to)
        self.repository.tool.ok(*self.argv())
        self.t.ok(self.defined(), "no domain")
        self.compare()
        left = [name for name in os.listdir(self.to) if name.startswith(".")]
        self.t.equal(left, [], "left in the directory of the restore")
        self.undefine()
        shutil.rmtree(self.to)

    def compare(self):
        """Whole images."""
        for target, path in self.wanted.items():
            image.compare(os.path.join(self.to, target + ".qcow2"), path)


class Making(Story):
    """init."""

    steps = ("init-.*",)

    def argv(self):
        return ["-r", self.place, "init"]

    def prepare(self, step):
        self.place = self.bench.host.path("tmp", "new-" + self.t.name)
        self.tool = type(self.repository.tool)(self.t, repo=self.place, host=self.bench.host)

    def after(self, result, content):
        again = self.repository.tool.run(*self.argv())
        again.expect((0, 10))
        self.t.equal(self.tool.json("list")["points"], [])
        shutil.rmtree(self.place)


class Adopting(Story):
    """A copy becomes a repository of its own; the original notices nothing."""

    steps = ("adopt.*",)

    def prepare(self, step):
        self.place = self.bench.host.path("tmp", "copy-" + self.t.name)
        process.run("cp", "-a", self.repository.path, self.place)

    def argv(self):
        return ["-r", self.place, "init", "--adopt"]

    def after(self, result, content):
        self.repository.tool.run(*self.argv()).expect((0, 10))
        backup = self.repository._arguments(self.bench, ())
        done = self.repository.tool.run("-r", self.place, *backup).expect(0)
        reasons = [reason["code"] for reason in done.json_lines[0]["reasons"]]
        self.t.ok("adopted" in reasons, "reasons %s" % reasons)
        shutil.rmtree(self.place)
        # Nobody will ever need its checkpoint again.
        needed = self.needed(self.bench.guest.checkpoints())
        for checkpoint in self.bench.guest.dom.listAllCheckpoints(0):
            if checkpoint.getName() not in needed:
                checkpoint.delete()


STORIES = (Undoing, Repairing, PausedByScratch, TakingApart, RepairingShutOff, Redefining, Guarding,
           ShutOff, Restoring, Making, Adopting)
