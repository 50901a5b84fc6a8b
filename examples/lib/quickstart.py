# SPDX-License-Identifier: GPL-2.0-or-later
"""The part of the quickstart that runs guests; started by examples/quickstart."""

import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tests", "lib"))
from vmbtest import image, tap  # noqa: E402
from vmbtest.guest import Guest, check_images  # noqa: E402
from vmbtest.libvirtd import PrivateLibvirt  # noqa: E402

TARGETS = ("vda", "vdb")


class Demo:
    """The throw-away libvirt and the commands that are shown."""

    def __init__(self, cleanup):
        self.host = PrivateLibvirt(cleanup)
        self.repo = self.host.path("backup")
        self.env = dict(os.environ, VMBACKUP_REPOSITORY=self.repo,
                        LIBVIRT_DEFAULT_URI=self.host.uri,
                        VMBACKUP_TEST_RUN_DIR=self.host.directory("vmbrun", 0o711),
                        VMBACKUP_TEST_SCRATCH_DIR=self.host.directory("scratch", 0o711))

    def run(self, *words):
        """Shows a command as one types it, and runs it."""
        print("$ vmbackup " + " ".join(words), flush=True)
        argv = self.host.enter([os.environ["VMBACKUP"], *words])
        subprocess.run(argv, env=self.env, check=True, stdin=subprocess.DEVNULL)

    def backup(self):
        """One backup of the guest."""
        self.run("backup", "web01")


def step(text):
    """A headline."""
    print("\n== " + text, flush=True)


def compare(demo, guest, restored):
    """What was restored must be what the suspended guest's disks hold."""
    for target in TARGETS:
        image.compare(restored[target], guest.disk_path(target), "qcow2", guest.disk_format(target))
        print("%s: restored disk and the suspended guest's disk are identical" % target)


def main():
    cleanup = tap.CleanupStack()
    try:
        step("Starting a throw-away libvirt and a small guest that writes all the time")
        demo = Demo(cleanup)
        guest = Guest(demo.host, name="web01", writer=True, start=True)
        print("guest web01 runs, with disks " + " and ".join(TARGETS))
        step("A full, then two incrementals; the guest is frozen only for an instant")
        demo.run("init")
        for _ in range(3):
            demo.backup()
            ticks = guest.counter()
            while guest.counter() == ticks:
                time.sleep(0.1)
            print("the guest goes on writing (tick %d)" % guest.counter())
        step("The restore points")
        demo.run("list")
        demo.run("show", "web01/latest")
        demo.run("verify", "web01")
        step("One more point of the suspended guest, restored and compared byte by byte")
        guest.suspend()
        demo.backup()
        to = demo.host.path("restore")
        demo.run("restore", "web01/latest", "--to", to, "--name", "web01-restored", "--define")
        restored = {target: os.path.join(to, target + ".qcow2") for target in TARGETS}
        compare(demo, guest, restored)
        guest.destroy()
        step("Booting the restored guest from the restored disks")
        facts = check_images(demo.host, restored)
        for target in TARGETS:
            print("%s: %d files, checksums good: %d, bad: %d" % (
                target, facts[target]["files"], facts[target]["sums_good"],
                facts[target]["sums_bad"]))
            if facts[target]["sums_bad"]:
                raise SystemExit("the restored guest is damaged")
        second = Guest.existing(demo.host, "web01-restored")
        second.start()
        second.wait_agent()
        print("the restored domain web01-restored has booted, and its agent answers")
    finally:
        for error in cleanup.run():
            print(error, file=sys.stderr)
    print("""
All that was made is removed again. For your own virtual machines, as root:
  ninja -C build install
  vmbackup doctor                              # can each disk be backed up incrementally?
  vmbackup -r /backup init
  vmbackup -r /backup backup --all             # full the first time, incremental afterwards
  vmbackup -r /backup list
  vmbackup -r /backup verify
  vmbackup -r /backup restore DOMAIN/latest --to /restore""")


if __name__ == "__main__":
    main()
