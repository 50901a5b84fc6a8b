# SPDX-License-Identifier: GPL-2.0-or-later
"""What the end-to-end tests share: a guest with disks of known content, and checks after a run."""

import json
import os
import shutil
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from vmbtest import image, process, tap  # noqa: E402
from vmbtest.guest import Disk, Guest, libvirt  # noqa: E402
from vmbtest.image import GIB, KIB, MIB  # noqa: E402
from vmbtest.libvirtd import PrivateLibvirt  # noqa: E402
from vmbtest.vmbackup import Tool  # noqa: E402

__all__ = ["Bench", "Disk", "Guest", "KIB", "MIB", "PrivateLibvirt", "Repository", "Tool", "codes",
           "image", "libvirt", "process", "tap"]

# So long a guard may need to end a dead run's job and to release the guest, on a busy machine.
RESCUE = 20
# And so long until it is gone: a dead program's freeze and job may still be under way.
GUARD_END = 60


def codes(result):
    """The reasons of the one domain of a run."""
    return [reason["code"] for reason in result.json_lines[0]["reasons"]]


class Bench:
    """A running guest, directories for the program, and repositories with what they must hold.

    vda and vdb are written by the test alone, through their own devices, so that their content is
    known at each instant while the guest runs. vdc is mounted in the guest, so that there is
    something to freeze; runs leave it out.
    """

    TARGETS = ("vda", "vdb")
    SIZES = (16 * MIB, 8 * MIB + 1536)

    def __init__(self, suite, writer=False, host=None, **options):
        self.host = host or PrivateLibvirt(suite)
        self.guest = Guest(self.host, disks=[*self.SIZES, 16 * MIB], mount=("vdc",), writer=writer,
                           start=True, **options)
        self.scratch = self.host.directory("scratch", 0o711)
        self.run_dir = self.host.directory("vmbrun", 0o711)
        self.guard_log = self.host.path("tmp", "guard.log")
        self.models = {target: image.Model(self.host.path("tmp", "model-" + target), size)
                       for target, size in zip(self.TARGETS, self.SIZES)}
        self._snapshots = 0

    def repository(self, name, cleanup, size=2 * GIB, path=None):
        """A new repository with its Tool: in memory and gone with the test, or in the directory path."""
        if path is not None:
            return Repository(self, path, cleanup)
        path = self.host.tmpfs("repo-" + name, size, 0o700)
        cleanup.defer(self.host.umount, path)
        return Repository(self, path, cleanup)

    # The disks

    def write(self, rng, count=3, in_job=False):
        """Some random operations on both disks, data among them; the models follow.

        in_job: a backup job is active, in which QEMU ignores discards (but not zeroes).
        """
        for target, model in self.models.items():
            operations = [o for o in image.random_operations(
                rng, model.size // (64 * KIB) * 64 * KIB, count, longest=512 * KIB)
                          if not in_job or o[0] != "discard"]
            operations.append(("write", rng.randrange(model.size // 512) * 512, 512,
                               rng.randrange(1, 256)))
            self.guest.apply(target, operations, model)

    def content(self):
        """What the disks hold now: {target: path of a raw file}."""
        self._snapshots += 1
        return {target: model.snapshot(self.host.path("tmp", "c%d-%s" % (self._snapshots, target)))
                for target, model in self.models.items()}

    # The guest and what a run may leave

    def job_active(self):
        """True if libvirt runs a job, or does not know at this moment."""
        try:
            return self.guest.job_active()
        except libvirt.libvirtError:
            return True

    def thawed(self):
        """True if the agent says so; it may be busy, or hang."""
        try:
            return self.guest.freeze_status() == "thawed"
        except libvirt.libvirtError:
            return False

    def guards(self):
        """Process numbers of guards that are at work."""
        return [pid for pid, words in self.host.processes() if "--internal-guard" in words]

    def guard_log_text(self):
        """All that guards have reported."""
        if not os.path.exists(self.guard_log):
            return ""
        with open(self.guard_log, encoding="utf-8", errors="backslashreplace") as file:
            return file.read()

    def leftovers(self):
        """What runs have left in their scratch and run directories."""
        found = [os.path.join(self.scratch, name) for name in os.listdir(self.scratch)]
        return found + [os.path.join(self.run_dir, name) for name in os.listdir(self.run_dir)
                        if name.startswith("vmbackup-")]

    def wait_released(self, t, timeout=RESCUE):
        """After a run has died: the guest runs, thawed and without a job, all by the guard."""
        t.eventually(self.guest.is_running, timeout, "the guest runs")
        t.eventually(self.thawed, timeout, "the guest is thawed", 0.1)
        t.eventually(lambda: not self.job_active(), timeout, "the job has ended")

    def wait_no_guard(self, t, timeout=GUARD_END):
        """Until the guards have gone."""
        t.eventually(lambda: not self.guards(), timeout, "the guards have ended", 0.1)

    def fresh(self, t, name, **options):
        """A new repository that holds one full, on a guest without traces of earlier tests."""
        self.wait_no_guard(t)
        if not self.guest.is_active():
            self.guest.start()
            self.guest.wait_agent()
        if self.job_active():
            self.guest.dom.abortJob()
            t.eventually(lambda: not self.job_active(), RESCUE, "the job has ended")
        self.guest.resume()
        t.eventually(self.thawed, RESCUE, "the guest is thawed", 0.1)
        for checkpoint in self.guest.dom.listAllCheckpoints(0):
            try:
                checkpoint.delete()
            except libvirt.libvirtError:
                checkpoint.delete(libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)
        for path in self.leftovers():
            shutil.rmtree(path)
        repository = self.repository(name, t, **options)
        self.write(t.random)
        repository.plain(t, "full")
        self.write(t.random)
        return repository


class Repository:
    """A repository, and what its points must read as."""

    def __init__(self, bench, path, cleanup):
        self.bench, self.path = bench, path
        self.tool = Tool(cleanup, repo=path, host=bench.host, env={
            "VMBACKUP_TEST_RUN_DIR": bench.run_dir, "VMBACKUP_TEST_GUARD_LOG": bench.guard_log})
        self.expected = {}
        self.tool.ok("init")

    def pause_at(self, t, step, *more, action="wait", also=None):
        """A backup that waits at a step: returns it and go(), which lets it continue.

        action "stop": it stops itself by SIGSTOP, and go() sends SIGCONT. also: another fault.
        """
        path = self.bench.host.path("tmp", "go-" + step)
        for name in (path, path + ".reached"):
            if os.path.exists(name):
                os.unlink(name)
        fault = "%s=%s" % (step, "wait:" + path if action == "wait" else action)
        running = self.start(*more, fail_at="%s,%s" % (also, fault) if also else fault)

        def there():
            if action == "stop":
                with open("/proc/%d/stat" % running.pid, encoding="ascii",
                          errors="replace") as file:
                    return file.read().rsplit(")", 1)[1].split()[0] == "T"
            return os.path.exists(path + ".reached")

        def go():
            if action == "stop":
                running.signal(signal.SIGCONT)
            else:
                with open(path, "wb"):
                    pass
        t.eventually(lambda: there() or not running.running(), 60, step, 0.01)
        if not running.running():
            t.fail("ended before %s: %s" % (step, running.wait().describe()))
        return running, go

    @staticmethod
    def _arguments(bench, more):
        return ["backup", bench.guest.name, "--exclude-disk", "vdc", "--scratch-dir", bench.scratch,
                "--json", *more]

    def start(self, *more, **options):
        """A backup in the background; options as those of Tool.start()."""
        return self.tool.start(*self._arguments(self.bench, more), **options)

    def run(self, *more, **options):
        """A backup, whatever becomes of it."""
        return self.start(*more, **options).wait()

    @property
    def domain(self):
        """The directory of the guest in the repository."""
        return os.path.join(self.path, "domains", self.bench.guest.uuid)

    def ids(self):
        """The points' names, oldest first, as the file system has them."""
        points = os.path.join(self.domain, "points")
        names = os.listdir(points) if os.path.isdir(points) else []
        return sorted(names, key=lambda name: self.manifest(name)["sequence"])

    def manifest(self, name):
        """The manifest of a point."""
        with open(os.path.join(self.domain, "points", name, "manifest.json"),
                  encoding="utf-8") as file:
            return json.load(file)

    def new_points(self):
        """Points that nothing is expected of yet."""
        return [name for name in self.ids() if name not in self.expected]

    def newest_checkpoint(self):
        """The one checkpoint that the newest point was made with."""
        ids = self.ids()
        names = {disk["checkpoint"] for disk in self.manifest(ids[-1])["disks"]} if ids else set()
        if len(names) > 1:
            raise tap.Failure("one point, several checkpoints: %s" % names)
        return names.pop() if names else None

    def expect_point(self, t, content, level=None, consistency="filesystem", reasons=None):
        """There is one new point, and this is what it must read as. Returns its name."""
        new = self.new_points()
        t.equal(len(new), 1, "new points %s" % new)
        manifest = self.manifest(new[0])
        self.expected[new[0]] = content
        t.equal([disk["size"] for disk in manifest["disks"]],
                [os.path.getsize(content[target]) for target in self.bench.TARGETS], "sizes")
        if level is not None:
            t.equal([disk["level"] for disk in manifest["disks"]], [level] * len(manifest["disks"]),
                    "level of the new point")
        t.equal(manifest["consistency"], consistency, "consistency, with %s" % manifest["reasons"])
        if reasons is not None:
            found = {reason["code"] for reason in manifest["reasons"]}
            t.ok(set(reasons) <= found, "reasons %s, expected %s" % (found, reasons))
        return new[0]

    def plain(self, t, level="incremental", more=(), **expected):
        """A run that must succeed, with all that holds after one. Returns its Result."""
        content = self.bench.content()
        result = self.run(*more).expect(0)
        self.expect_point(t, content, level, **expected)
        self.assert_tidy(t)
        self.assert_points(t)
        return result

    def assert_tidy(self, t):
        """After a success: one checkpoint, and nothing of this or an earlier run."""
        bench = self.bench
        t.equal(bench.guest.checkpoints(), [self.newest_checkpoint()], "checkpoints")
        for target in bench.TARGETS:
            t.equal(bench.guest.bitmaps(target), [self.newest_checkpoint()], "bitmaps of " + target)
        self.assert_released(t)
        t.equal(self.left(), [], "left in the repository")

    def assert_released(self, t):
        """The guest is as it was, and scratch and run directories are empty."""
        self.bench.guest.assert_healthy()
        t.equal(self.bench.leftovers(), [], "left behind")

    def assert_no_point(self, t, base, guard=False):
        """A run that ended by itself has left nothing but, where needed, its guard.

        base: the checkpoints before it.
        """
        t.equal(self.new_points(), [], "points")
        t.equal(self.bench.guest.checkpoints(), base, "checkpoints")
        t.equal(self.left(), [], "left in the repository")
        t.equal(self.bench.leftovers(), [], "left behind")
        t.equal(len(self.bench.guards()), int(guard), "guards")

    def left(self):
        """What a run that died or failed may leave in the repository: staging and journal."""
        return [name for name in ("staging", "journal")
                if os.path.lexists(os.path.join(self.domain, name))]

    def assert_points(self, t):
        """Just the expected points, sound by verify, and the same as the disks were by qemu-img."""
        t.equal(self.ids(), list(self.expected), "the points")
        t.equal([point["id"] for point in self.tool.json("list")["points"]], list(self.expected),
                "the list")
        if self.expected:
            self.tool.ok("verify", self.bench.guest.name)
        for name, content in self.expected.items():
            for target, path in content.items():
                image.compare(os.path.join(self.domain, "points", name, target + ".qcow2"), path)
