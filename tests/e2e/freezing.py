# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of freezing share: a writing guest, whether it is held or free, hooks of its agent."""

import os
import time

from common import Bench, Repository, codes
from vmbtest.guest import check_images

# From the moment on in which somebody could thaw: what that may take on a busy machine.
PROMPT = 4


def lab(t):
    """The bench with a writing guest, and a repository that holds a full."""
    bench = t.once("bench", lambda suite: Bench(suite, writer=True))
    return bench, bench.fresh(t, t.name)


def wait_free(t, bench, since, limit, what="thawed"):
    """The guest writes again, at most limit seconds after since. Asks without the agent."""
    t.eventually(bench.guest.is_running, limit, "the guest runs")
    t.ok(bench.guest.is_writing(limit), "the guest does not write")
    seconds = time.monotonic() - since
    t.diag("%s after %.2f s" % (what, seconds))
    t.ok(seconds < limit, "%s only after %.1f s" % (what, seconds))


def stays_free(t, bench, seconds):
    """For so long the guest goes on writing, and the agent says thawed at the end."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        t.ok(bench.guest.is_writing(PROMPT), "the guest does not write any more")
    bench.guest.assert_healthy()


def next_run(t, bench, repository, *reasons, **options):
    """The next run is incremental and exact."""
    bench.write(t.random)
    result = repository.plain(t, reasons=reasons, **options)
    t.ok(bench.guest.is_writing(PROMPT), "the guest does not write")
    return result


# What happens inside the guest

def later(guest, delay, command):
    """Runs a command in the guest after so many seconds; a frozen agent would not begin it."""
    guest.exec("(sleep %s; %s) </dev/null >/dev/null 2>&1 &" % (delay, command))


def hooks(t, guest, freeze="", thaw=""):
    """Shell commands that the agent runs before a freeze and after a thaw; gone with the test.

    Their failure is the agent's.
    """
    if "-F/run/hook" not in guest.exec("tr '\\0' ' ' </proc/$(pidof qemu-ga)/cmdline"):
        guest.exec("mkdir /usr/sbin/real && mv /usr/sbin/qemu-ga /usr/sbin/real/ && "
                   "printf '#!/bin/sh\\nexec /usr/sbin/real/qemu-ga -F/run/hook \"$@\"\\n' "
                   ">/usr/sbin/qemu-ga && "
                   "printf '#!/bin/sh\\n[ ! -e /run/hook-$1 ] || . /run/hook-$1\\n' >/run/hook && "
                   "chmod +x /usr/sbin/qemu-ga /run/hook")
        restart_agent(t, guest, 1)
        agent_is_back(t, guest)
    for name, command in (("freeze", freeze), ("thaw", thaw)):
        if command:
            guest.exec("cat >/run/hook-%s <<'END'\n%s\nEND" % (name, command))
    t.defer(unhook, guest)


def unhook(guest):
    """The agent goes on without hooks."""
    if guest.is_active():
        guest.exec("rm -f /run/hook-freeze /run/hook-thaw")


def restart_agent(t, guest, delay):
    """Kills the agent after so many seconds; another one begins a second later."""
    guest.killed = guest.console().count("VMB-AGENT killed")
    later(guest, delay, "kill -9 $(pidof qemu-ga); echo VMB-AGENT killed >/dev/console")


def agent_is_back(t, guest):
    """Waits for what restart_agent() began."""
    t.eventually(lambda: guest.console().count("VMB-AGENT killed") > guest.killed, 20,
                 "the agent is killed")
    t.eventually(guest._agent_answers, 20, "the agent is back", 0.1)


class Mounted(Repository):
    """A repository of the disk that the guest has mounted, whose points are looked at as a filesystem."""

    def __init__(self, t, bench):
        super().__init__(bench, bench.host.tmpfs("fs-" + t.name, 256 << 20, 0o700), t)
        t.defer(bench.host.umount, self.path)

    @staticmethod
    def _arguments(bench, more):
        return ["backup", bench.guest.name, "--disk", "vdc", "--scratch-dir", bench.scratch,
                "--json", *more]

    def expect(self, t, result, consistency, *reasons):
        """There is one new point; its consistency is what it says, and all reasons are known.

        Only a frozen filesystem has no journal to replay.
        """
        new = self.new_points()
        t.equal(len(new), 1, "new points %s" % new)
        self.expected[new[0]] = {}
        t.equal(self.manifest(new[0])["consistency"], consistency, "with %s" % codes(result))
        found = set(codes(result)) - {"first-backup", "leftovers-removed", "deselected"}
        t.equal(sorted(found), sorted(reasons), "reasons")
        path = os.path.join(self.domain, "points", new[0], "vdc.qcow2")
        facts = check_images(self.bench.host, {"vdc": path})["vdc"]
        t.diag("needs_recovery %d, counter %d, sums %d good" % (
            facts["needs_recovery"], facts["counter"], facts["sums_good"]))
        if consistency == "filesystem":
            t.equal(facts["needs_recovery"], 0, "a journal is to be replayed")
            t.equal(facts["fsck"], 0, "fsck")
        t.equal((facts["filesystem"], facts["sums_bad"]), ("ext4", 0))
        return facts

    def expect_next(self, t):
        """The next run is filesystem-consistent, whatever it had to do without; all points are sound."""
        result = self.run("--quiesce", "require").expect(0)
        new = self.new_points()
        t.equal(len(new), 1, "new points %s" % new)
        self.expected[new[0]] = {}
        t.equal(self.manifest(new[0])["consistency"], "filesystem", "with %s" % codes(result))
        self.tool.ok("verify", self.bench.guest.name)
