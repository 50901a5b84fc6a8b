# SPDX-License-Identifier: GPL-2.0-or-later
"""The parts of tests/bench/run, one after the other, and their table."""

import argparse
import os
import shutil
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from vmbtest import tap  # noqa: E402
from vmbtest.libvirtd import libvirt, temporary_directory  # noqa: E402

import copies  # noqa: E402
import guests  # noqa: E402
import scale  # noqa: E402
from lab import Lab  # noqa: E402
from measure import Table  # noqa: E402

PARTS = {"full": copies.full, "restore": copies.restore, "verify": copies.verify,
         "incremental": copies.incremental, "compare": copies.compare, "memory": copies.memory,
         "fold": scale.fold, "huge": scale.huge, "list": scale.listing, "policy": scale.policy,
         "freeze": guests.freeze, "latency": guests.latency, "sweep": guests.sweep}
SETTINGS = ",".join("%d:%d:7" % (kib, in_flight) for kib in (64, 256, 1024)
                    for in_flight in (1, 4, 16)) + ",256:8:7,256:4:1"


def parse():
    """The command line; tests/bench/run explains it."""
    parser = argparse.ArgumentParser(prog="tests/bench/run", add_help=False)
    parser.add_argument("parts", nargs="*", metavar="PART")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--freeze-rounds", type=int, default=30)
    parser.add_argument("--settings", default=SETTINGS)
    parser.add_argument("--disk")
    parser.add_argument("--output")
    parser.add_argument("--no-install", action="store_true")
    options = parser.parse_args()
    for part in options.parts:
        if part not in PARTS:
            parser.error("no part %s: choose from %s" % (part, " ".join(PARTS)))
    options.parts = options.parts or [part for part in PARTS if part != "sweep"]
    return options


def say(text):
    """Progress, beside the table."""
    print(text, file=sys.stderr, flush=True)


def machine():
    """What it ran on, in one line."""
    model = "unknown processor"
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
    version = libvirt.getVersion()
    return "%d x %s, %s %s, libvirt %d.%d.%d" % (
        os.cpu_count(), model, os.uname().sysname, os.uname().release, version // 1000000,
        version // 1000 % 1000, version % 1000)


def main():
    """Runs the parts that were asked for."""
    options = parse()
    os.environ["VMBACKUP"] = os.path.realpath(os.environ["VMBACKUP"])
    cleanup = tap.CleanupStack()
    directory = tempfile.mkdtemp(prefix="vmbench-", dir=temporary_directory())
    cleanup.defer(shutil.rmtree, directory, ignore_errors=True)
    os.chmod(directory, 0o711)
    os.environ["VMBACKUP_TEST_TMP"] = directory
    table = Table()
    try:
        lab = Lab(cleanup, options.disk, say)
        for part in options.parts:
            say("== " + part)
            PARTS[part](lab, table, options)
    finally:
        if table.rows:
            text = "\n".join(["", machine(), "medians of %d runs (freeze: %d), in turn" % (
                options.rounds, options.freeze_rounds), "", table.text()])
            print(text, flush=True)
            if options.output:
                with open(options.output, "a", encoding="utf-8") as file:
                    file.write(text)
        for error in cleanup.run():
            say(error)


if __name__ == "__main__":
    main()
