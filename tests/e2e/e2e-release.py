#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""release: nothing of a repository stays in libvirt and in the images, all of others does."""

import json
import os
import signal

from common import Bench, libvirt, process, tap


def lab(t, **options):
    bench = t.once("bench", Bench)
    if not bench.guest.is_active():
        start(bench)
    return bench, bench.fresh(t, t.name, **options)


def start(bench):
    bench.guest.start()
    bench.guest.wait_agent()


def repository_id(repository):
    with open(os.path.join(repository.path, "repository.json"), encoding="utf-8") as file:
        return json.load(file)["id"]


def release(repository, *more, status=0, by_id=None, **options):
    """release --json; by_id: as of a repository that is gone."""
    tool = repository.tool
    path = tool.repo
    if by_id is not None:
        tool.repo, more = None, ("--repository-id", by_id, *more)
    try:
        return tool.run("release", "web01", "--json", *more, **options).expect(status).json
    finally:
        tool.repo = path


def names(document):
    return [checkpoint["name"] for checkpoint in document["checkpoints"]]


def stored(bench):
    """All that qemu-img tells of the images."""
    return "".join(process.run("qemu-img", "info", "-U", bench.guest.disk_path(target))
                   for target in bench.TARGETS)


def foreign(bench, *checkpoints):
    for name in checkpoints:
        bench.guest.dom.checkpointCreateXML(
            "<domaincheckpoint><name>%s</name><disks><disk name='vda'/><disk name='vdb'/></disks>"
            "</domaincheckpoint>" % name, 0)


def forget_record(bench, name):
    bench.guest.dom.checkpointLookupByName(name).delete(
        libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)


def goes_on(t, bench, repository):
    """The next backup compares, and stores what differs."""
    bench.write(t.random)
    content = bench.content()
    repository.run().expect(0)
    name = repository.expect_point(t, content)
    disks = repository.manifest(name)["disks"]
    t.equal([(disk["level"], disk["method"]) for disk in disks],
            [("incremental", "compare")] * len(disks))
    repository.assert_points(t)


@tap.test
def test_running(t):
    """Checkpoints of others stay, and the next backup is an increment by comparison."""
    bench, repository = lab(t)
    (ours,) = bench.guest.checkpoints()
    prefix = "vmbackup-%s-" % repository_id(repository)[:8]
    others = ["foreign", prefix + "manual", "vmbackup-ffffffff-" + "0123456789abcdef" * 2]
    stray = prefix + "0123456789abcdef" * 2
    foreign(bench, stray, *others)
    other, content = bench.repository(t.name + "-other", t), bench.content()
    other.run().expect(0)
    other.expect_point(t, content)
    others.append(other.newest_checkpoint())
    before = bench.guest.checkpoints()

    document = release(repository, "--dry-run")
    t.equal(names(document), sorted([ours, stray]))
    t.ok(document["dry_run"] and not any(c["removed"] for c in document["checkpoints"]), document)
    t.equal(bench.guest.checkpoints(), before)
    text = repository.tool.ok("release", "-n", "web01").out
    t.contains(text, "would remove " + ours)

    document = release(repository)
    t.equal(names(document), sorted([ours, stray]))
    t.ok(all(c["removed"] and c["recorded"] and c["error"] is None
             for c in document["checkpoints"]), document)
    t.equal(bench.guest.checkpoints(), sorted(others))
    t.equal(bench.guest.bitmaps("vda"), sorted(others))
    repository.assert_released(t)
    repository.assert_points(t)
    t.equal(names(release(repository)), [])
    t.contains(repository.tool.ok("release", "web01").out, "there is no checkpoint")
    goes_on(t, bench, repository)
    # The other repository has lost nothing.
    content = bench.content()
    other.run().expect(0)
    other.expect_point(t, content, "incremental")
    t.equal([disk["method"] for disk in other.manifest(other.ids()[-1])["disks"]], ["bitmap"] * 2)


@tap.test
def test_undefine_afterwards(t):
    """Shut off: libvirt keeps the domain as long as it has a checkpoint, and lets it go after."""
    bench, repository = lab(t)
    (ours,) = bench.guest.checkpoints()
    foreign(bench, "foreign")
    bench.guest.destroy()
    t.contains(stored(bench), ours)
    document = release(repository)
    t.equal([(c["name"], c["recorded"], c["stored"], c["removed"])
             for c in document["checkpoints"]], [(ours, True, True, True)])
    t.ok(ours not in stored(bench) and "foreign" in stored(bench), stored(bench))
    t.equal(bench.guest.checkpoints(), ["foreign"])
    start(bench)
    bench.guest.dom.checkpointLookupByName("foreign").delete()
    goes_on(t, bench, repository)
    release(repository)
    bench.guest.destroy()
    xml = bench.guest.dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE)
    bench.guest.dom.undefine()
    # Unknown to libvirt: there is nothing left to be released, and no reason to fail.
    document = release(repository)
    t.ok(document["gone"], document)
    bench.host.conn.defineXML(xml)
    start(bench)
    goes_on(t, bench, repository)


@tap.test
def test_repository_is_gone(t):
    """By id, long or short, running or shut off."""
    bench, repository = lab(t)
    number = repository_id(repository)
    for by_id in (number, number[:8], number[:8].upper()):
        foreign(bench, "vmbackup-%s-%s" % (number[:8], "0123456789abcdef" * 2))
        before = bench.guest.checkpoints()
        t.equal(names(release(repository, "-n", by_id=by_id)), before)
        t.equal(names(release(repository, by_id=by_id)), before)
        t.equal(bench.guest.checkpoints() + bench.guest.bitmaps("vda"), [])
    foreign(bench, "vmbackup-%s-%s" % (number[:8], "0123456789abcdef" * 2))
    bench.guest.destroy()
    t.equal(len(names(release(repository, by_id=number))), 1)
    t.equal(bench.guest.checkpoints(), [])
    t.ok("vmbackup-" not in stored(bench), stored(bench))


@tap.test
def test_bitmaps_without_record(t):
    """In QEMU's memory alone, then in the images: libvirt knows of neither."""
    bench, repository = lab(t)
    (ours,) = bench.guest.checkpoints()
    forget_record(bench, ours)
    t.ok(ours not in stored(bench), "the image has it already")
    document = release(repository)
    t.equal([(c["name"], c["recorded"], c["removed"]) for c in document["checkpoints"]],
            [(ours, False, True)])
    t.equal(bench.guest.bitmaps("vda") + bench.guest.bitmaps("vdb"), [])
    repository.run().expect(0)
    ours = repository.newest_checkpoint()
    forget_record(bench, ours)
    # Saved by QEMU's orderly end, and loaded again.
    bench.guest.destroy()
    t.contains(stored(bench), ours)
    start(bench)
    t.equal(bench.guest.checkpoints(), [])
    t.equal(names(release(repository, "--dry-run")), [ours])
    t.equal(names(release(repository, by_id=repository_id(repository))), [ours])
    t.equal(bench.guest.bitmaps("vda") + bench.guest.bitmaps("vdb"), [])
    t.ok(ours not in stored(bench), stored(bench))
    # Broken ones of a QEMU that was killed.
    repository.run().expect(0)
    ours = repository.newest_checkpoint()
    bench.guest.destroy()
    start(bench)
    bench.guest.kill_qemu()
    start(bench)
    t.equal(names(release(repository)), [ours])
    t.equal(bench.guest.checkpoints() + bench.guest.bitmaps("vda"), [])
    t.ok(ours not in stored(bench), stored(bench))


@tap.test
def test_running_backup(t):
    bench, repository = lab(t)
    base, content = bench.guest.checkpoints(), bench.content()
    running, go = repository.pause_at(t, "disk-data")
    for by_id in (None, repository_id(repository)):
        tool = repository.tool
        words = ["release", "web01"] + (["--repository-id", by_id] if by_id else [])
        if by_id:
            tool.repo = None
        tool.run(*words).expect(11).says("in use by another run", str(running.pid))
        tool.repo = repository.path
    t.ok(base[0] in bench.guest.checkpoints(), "a checkpoint of the run is gone")
    go()
    running.wait().expect(0)
    repository.expect_point(t, content, "incremental")
    repository.assert_tidy(t)


@tap.test
def test_saved_domain(t):
    """Its memory is saved, and goes on with images that have lost their bitmaps."""
    bench, repository = lab(t)
    (ours,) = bench.guest.checkpoints()
    bench.guest.dom.managedSave(0)
    bench.guest.wait_off()
    t.contains(stored(bench), ours)
    t.equal(names(release(repository)), [ours])
    t.ok(ours not in stored(bench), stored(bench))
    bench.guest.dom.create()
    t.eventually(bench.thawed, 60, "the agent answers", 0.1)
    t.equal(bench.guest.checkpoints() + bench.guest.bitmaps("vda"), [])
    goes_on(t, bench, repository)


def die(t, bench, repository):
    """A run that is killed together with its guard."""
    running, _ = repository.pause_at(t, "disk-data")
    for pid in bench.guards():
        process.kill(pid)
    running.kill9()
    running.wait()


@tap.test
def test_dead_run(t):
    """What a dead run has left goes as well, with the repository or without it."""
    bench, repository = lab(t)
    for by_id in (None, repository_id(repository)):
        repository.run().expect(0)
        repository.expected.update({name: bench.content() for name in repository.new_points()})
        die(t, bench, repository)
        t.ok(bench.guest.job_active(), "there is no job")
        t.equal(len(bench.leftovers()), 2)
        release(repository, by_id=by_id)
        t.equal(bench.guest.checkpoints() + bench.guest.bitmaps("vda"), [])
        repository.assert_released(t)
        if by_id is None:
            t.equal(repository.left(), [])
    # Without the repository its journal stayed: the next backup finds nothing to undo.
    goes_on(t, bench, repository)


@tap.test
def test_killed(t):
    """Killed after each deletion, and run again, running and shut off."""
    bench, repository = lab(t)
    prefix = "vmbackup-%s-" % repository_id(repository)[:8]
    for step in ("checkpoint-deleted", "bitmap-removed"):
        foreign(bench, *[prefix + digit * 32 for digit in "12"])
        if step == "bitmap-removed":
            bench.guest.destroy()
        before = bench.guest.checkpoints()
        repository.tool.run("release", "web01", fail_at=step + "=kill").expect(-signal.SIGKILL)
        document = release(repository)
        t.ok(0 < len(names(document)) <= len(before), document)
        t.equal(bench.guest.checkpoints(), [])
        t.ok(prefix not in stored(bench), stored(bench))
        if step == "checkpoint-deleted":
            repository.run().expect(0)


if __name__ == "__main__":
    tap.main()
