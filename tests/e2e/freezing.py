# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of freezing share: a writing guest, and whether it is held or free."""

import time

from common import Bench

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
