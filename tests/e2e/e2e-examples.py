#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The scripts in examples/, run as a user would, with the real programs, on points of a real guest."""

import json
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from vmbtest import tap  # noqa: E402
from exact_lab import KIB, MIB, Disk, Lab  # noqa: E402

EXAMPLES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "examples")


def example(lab, name, *args, **env):
    """Runs one, that must succeed; returns what it printed."""
    result = subprocess.run([os.path.join(EXAMPLES, name), *args], capture_output=True, text=True, timeout=120,
                            env=dict(os.environ, VMBACKUP_TEST_RUN_DIR=lab.tool.env["VMBACKUP_TEST_RUN_DIR"], **env))
    if result.returncode != 0:
        raise tap.Failure("%s: status %d\n%s%s" % (name, result.returncode, result.stdout, result.stderr))
    return result.stdout


def same(one, other):
    """Two files."""
    return subprocess.run(["cmp", "-s", one, other]).returncode == 0


def filled(t):
    """A lab with two points."""
    lab = Lab(t, [Disk(6 * MIB), Disk(3 * MIB)])
    lab.out = lab.host.directory(lab.directory + "/out", 0o755)
    lab.fill("vda")
    lab.backup()
    lab.write("vda", 2 * MIB, 300 * KIB, 0x55)
    lab.zero("vda", 4 * MIB, MIB)
    lab.write("vdb", 0, MIB, 0x56)
    lab.backup()
    return lab


@tap.test
def test_copy_disk(t):
    lab = filled(t)
    out = os.path.join(lab.out, "vda")
    for point, snapshots in lab.points:
        example(lab, "copy-disk", lab.repo, "%s/%s" % (lab.name, point), "vda", out)
        t.ok(same(out, snapshots["vda"][0]), "nbdcopy")
        example(lab, "copy-disk", lab.repo, "%s/%s" % (lab.name, point), "vda", out + ".qcow2", "qcow2")
        t.equal(subprocess.run(["qemu-img", "compare", "-q", out + ".qcow2", out]).returncode, 0)
    t.equal(subprocess.run([os.path.join(EXAMPLES, "copy-disk")], stderr=subprocess.DEVNULL).returncode, 2)


@tap.test
def test_pull_changes(t):
    lab = filled(t)
    out = os.path.join(lab.out, "vda")
    (old, before), (new, after) = lab.points
    example(lab, "copy-disk", lab.repo, "%s/%s" % (lab.name, old), "vda", out)
    t.ok(same(out, before["vda"][0]), "the old one")
    said = lab.tool.ok("export", "%s/%s" % (lab.name, new), "--disk", "vda", "--since", old, "--exec",
                       "%s/pull-changes %s" % (EXAMPLES, out)).out
    t.ok(same(out, after["vda"][0]), "the new one")
    copied = int(said.split()[0])
    t.ok(copied <= MIB + 384 * KIB, "copied %d bytes" % copied)
    # The same from the running domain, night after night.
    for _ in range(3):
        lab.write("vda", 64 * KIB, 64 * KIB, t.random.randrange(1, 255))
        lab.flush()
        lab.tool.ok("export", "--live", lab.name, "--disk", "vda", "--consumer", "copy", "--scratch-dir", lab.scratch,
                    "--exec", "%s/pull-changes %s" % (EXAMPLES, out))
        t.ok(same(out, lab.volumes["vda"].model.path), "the running one")


@tap.test
def test_to_restic(t):
    lab = filled(t)
    password = os.path.join(lab.out, "password")
    with open(password, "w", encoding="ascii") as file:
        file.write("secret\n")
    env = {"RESTIC_REPOSITORY": os.path.join(lab.out, "restic"), "RESTIC_PASSWORD_FILE": password,
           "RESTIC_CACHE_DIR": os.path.join(lab.out, "cache")}

    def restic(*words):
        return subprocess.run(["restic", *words], check=True, capture_output=True, env=dict(os.environ, **env)).stdout
    restic("init")
    for point, _ in lab.points:
        example(lab, "to-restic", lab.repo, "%s/%s" % (lab.name, point), **env)
    snapshots = json.loads(restic("snapshots", "--json"))
    t.equal(len(snapshots), 4)
    for point, held in lab.points:
        for disk in ("vda", "vdb"):
            name = "/%s-%s.raw" % (lab.name, disk)
            found = [s["id"] for s in snapshots if s["tags"] == [point] and s["paths"] == [name]]
            with open(held[disk][0], "rb") as file:
                t.ok(restic("dump", found[0], name) == file.read(), "%s of %s" % (disk, point))


@tap.test
def test_to_rclone(t):
    lab = filled(t)
    example(lab, "to-rclone", lab.repo, lab.name + "/latest", ":local:" + lab.out)
    point, held = lab.points[-1]
    for disk in ("vda", "vdb"):
        path = os.path.join(lab.out, lab.name, point, disk + ".raw.zst")
        with open(held[disk][0], "rb") as file:
            t.ok(subprocess.run(["zstd", "-dcq", path], check=True, capture_output=True).stdout == file.read(), disk)


@tap.test
def test_read_files(t):
    """Of a guest that ran: the file that it wrote is there in one point, and not in the one before."""
    lab = Lab(t, [Disk(64 * MIB)], start=False)
    lab.guest.start()
    lab.guest.wait_agent()
    scratch = ("--scratch-dir", lab.scratch)
    lab.tool.ok("backup", lab.name, *scratch)
    lab.guest.exec("echo hello >/mnt/vda/greeting; sync")
    lab.tool.ok("backup", lab.name, *scratch)
    first, last = [point["id"] for point in lab.tool.json("list")["points"]]
    place = lab.host.directory(lab.directory + "/place", 0o755)
    mounted = example(lab, "read-files", lab.repo, "%s/%s" % (lab.name, last), "vda", "sh", "-c",
                      "cat greeting; grep -c %s /proc/mounts" % place, TMPDIR=place)
    t.equal(mounted, "hello\n2\n", "the file, and the mounts by which it is seen")
    t.ok("greeting" not in example(lab, "read-files", lab.repo, "%s/%s" % (lab.name, first), "vda", "ls",
                                   TMPDIR=place), "it is older")
    with open("/proc/mounts", encoding="utf-8") as file:
        t.ok(place not in file.read(), "a mount is left")
    t.equal(os.listdir(place), [])


if __name__ == "__main__":
    tap.main()
