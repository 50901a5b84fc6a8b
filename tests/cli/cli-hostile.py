#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Repositories that somebody has meddled with: every document and every byte of an image, at random."""

import copy
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from vmbtest import tap  # noqa: E402
from vmbtest.vmbackup import Tool  # noqa: E402

LONG = os.environ.get("VMBACKUP_TEST_LONG") == "1"
UUID = "0d1a6b4c-0000-4000-8000-00000000aa01"
# What the man page knows; a signal or an assertion is none of them.
STATUSES = (0, 1, 2, 3, 4, 10, 11, 20, 21)
DOMAIN = ("<domain type='qemu'><name>web01</name><uuid>%s</uuid><memory>65536</memory>"
          "<os><type>hvm</type></os><devices><disk type='file' device='disk'>"
          "<source file='/i/web01.qcow2'/><target dev='vda' bus='virtio'/></disk>"
          "<disk type='file' device='disk'><source file='/i/data.raw'/>"
          "<target dev='vdb' bus='virtio'/></disk></devices></domain>" % UUID)
HOSTILE = [0, 1, -1, 65535, 2**31, 2**46 + 1, 2**53 + 1, 2**63 - 1, 2**64 - 1, 2**70, 1.5, 1e308,
           None, True, False, [], {}, [[]], "", ".", "..", "../../etc/passwd", "/etc/shadow", "a/b",
           "\x1b[31m\x1b]0;x\x07", "a\nb\r\tc", "\u202e\u2066\x9b", "x" * 5000, "nul\0byte", "%s%n",
           "20261121T020001Z", "20269999T999999Z", "vda", "vda.qcow2", "lock", "manifest.json"]


def repository(t):
    helper = os.environ.get("VMBACKUP_TEST_MAKE_POINTS")
    t.require(helper, "VMBACKUP_TEST_MAKE_POINTS does not name the helper")
    base = tempfile.mkdtemp(prefix="vmbackup-test-")
    t.defer(shutil.rmtree, base, ignore_errors=True)
    tool = Tool(t, repo=os.path.join(base, "repo"))
    tool.ok("init")
    with tempfile.NamedTemporaryFile("w", suffix=".xml") as xml:
        xml.write(DOMAIN)
        xml.flush()
        subprocess.run([helper, tool.repo, "web01", UUID, xml.name, "3"], check=True)
    return tool


def points(tool):
    place = os.path.join(tool.repo, "domains", UUID, "points")
    return [os.path.join(place, name) for name in sorted(os.listdir(place))]


def read(path):
    with open(path, "rb") as file:
        return file.read()


def write(path, content):
    with open(path, "wb") as file:
        file.write(content)


def seal(document):
    """As the program seals it: the digest of all before it comes last."""
    text = json.dumps(document, indent=2)[:-2].encode()
    return text + b',\n  "digest":"sha256:%s"\n}\n' % hashlib.sha256(text).hexdigest().encode()


def places(value, found):
    """All (container, key) of a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, member in list(items):
        found.append((value, key))
        if isinstance(member, (dict, list)):
            places(member, found)
    return found


def meddle(random, original):
    document = copy.deepcopy(original)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        found = places(document, [])
        if not found:
            break
        container, key = random.choice(found)
        what = random.randrange(6)
        if what == 0:
            del container[key]
        elif what == 1:
            other, other_key = random.choice(found)
            container[key] = copy.deepcopy(other[other_key])
        elif what == 2 and isinstance(container[key], int):
            container[key] += random.choice((-1, 1, 512, 65536))
        else:
            container[key] = random.choice(HOSTILE)
    document.pop("digest", None)
    return document or {"x": 1}


def sound(t, result, what):
    """It ended in a way that it knows, and no line could do anything to a terminal."""
    t.ok(result.status in STATUSES, "%s: status %s\n%s" % (what, result.status, result.err))
    for line in (result.out + result.err).split("\n"):
        t.ok(line.isprintable(), "%s: %r" % (what, line))


def try_reading(t, tool, what, to):
    verbs = [("list",), ("list", "--json"), ("show", "web01/latest"), ("show", UUID, "--json"),
             ("verify", "web01"), ("restore", "web01/latest", "--to", to)]
    for verb in t.random.sample(verbs, 3):
        result = tool.run(*verb, timeout=60)
        if "--json" in verb:
            t.ok(result.status in STATUSES, "%s: status %s" % (what, result.status))
            if result.out.strip():
                json.loads(result.out)
        else:
            sound(t, result, "%s, %s" % (what, verb[0]))
        if verb[0] == "restore" and os.path.isdir(to):
            left = set(os.listdir(os.path.dirname(to))) - {"repo", os.path.basename(to)}
            t.equal(left, set(), what + ": something was written beside the target")
            shutil.rmtree(to)


def meddle_with(t, tool, path, rounds):
    before = read(path)
    original = json.loads(before)
    to = os.path.join(os.path.dirname(tool.repo), "out")
    for number in range(rounds):
        document = meddle(t.random, original)
        write(path, seal(document))
        try_reading(t, tool, "%s, round %d" % (os.path.basename(path), number), to)
    write(path, before)
    tool.ok("list")


@tap.test
def test_manifests(t):
    tool = repository(t)
    for point in points(tool):
        meddle_with(t, tool, os.path.join(point, "manifest.json"), 60 if LONG else 12)
    tool.ok("verify")


@tap.test
def test_small_documents(t):
    tool = repository(t)
    rounds = 100 if LONG else 8
    tool.ok("verify")  # now there is something in the state
    for name in ("domains/%s/points/%s/state.json" % (UUID, os.path.basename(points(tool)[0])),
                 "domains/%s/sequence" % UUID, "repository.json"):
        path = os.path.join(tool.repo, name)
        if os.path.exists(path):
            meddle_with(t, tool, path, rounds)
    tool.ok("verify")


@tap.test
def test_every_byte_counts(t):
    tool = repository(t)
    files = [os.path.join(point, name) for point in points(tool)
             for name in sorted(os.listdir(point)) if name.endswith((".qcow2", ".digests", ".xml"))]
    for number in range(150 if LONG else 24):
        path = t.random.choice(files)
        before = read(path)
        after = bytearray(before)
        what = t.random.randrange(4)
        if what == 0:
            after = after[:t.random.randrange(len(after))]
        elif what == 1:
            after += bytes(t.random.randrange(1, 70000))
        else:
            at = t.random.choice((t.random.randrange(len(after)), t.random.randrange(min(len(after), 200))))
            after[at] ^= 1 << t.random.randrange(8)
        write(path, after)
        result = tool.run("verify", timeout=60)
        sound(t, result, path)
        t.equal(result.status, 4, "round %d, %s: change %d was not found" % (number, path, what))
        write(path, before)
    tool.ok("verify")


@tap.test
def test_journals(t):
    """Nothing that only reads depends on a journal, and doctor tells of one that is damaged."""
    tool = repository(t)
    path = os.path.join(tool.repo, "domains", UUID, "journal")
    good = {"format": 1, "nonce": "00112233445566778899aabbccddeeff", "uri": "qemu:///system",
            "checkpoint": "vmbackup-01234567-0c", "socket": "/run/vmbackup/x/nbd.sock",
            "run_dir": "/run/vmbackup/x", "scratch_dir": "/var/tmp/x", "may_freeze": True,
            "may_pause": False, "time_ns": 1, "pid": 1, "point": None, "stale": ["a", "b"]}
    contents = [b"", b"\0" * 4096, b"{}", b"\xff\xfe", seal({"format": 2}), seal({"format": 1})]
    contents += [seal(meddle(t.random, good)) for _ in range(60 if LONG else 10)]
    for number, content in enumerate(contents):
        write(path, content)
        sound(t, tool.ok("list"), "journal %d" % number)
        result = tool.run("-c", "qemu+unix:///system?socket=/nowhere", "doctor", timeout=60)
        sound(t, result, "journal %d" % number)
        t.ok(os.path.exists(path), "the journal is gone")
    os.unlink(path)
    tool.ok("verify")


if __name__ == "__main__":
    tap.main()
