#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Wrong command lines, wrong repositories and libvirts: status, one line of advice, nothing changed."""

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from vmbtest import tap  # noqa: E402
from vmbtest.vmbackup import Tool, binary  # noqa: E402

NO_LIBVIRT = "qemu+unix:///system?socket=/nonexistent/libvirt-sock"


def directory(t):
    path = tempfile.mkdtemp(prefix="vmbackup-test-")
    t.defer(shutil.rmtree, path, ignore_errors=True)
    return path


def repository(t):
    path = os.path.join(directory(t), "repo")
    Tool(t, repo=path).ok("init")
    return path


def snapshot(path):
    """Everything about a tree that a tool could have changed."""
    entries = []
    for parent, names, files in os.walk(path):
        for name in sorted(names + files):
            full = os.path.join(parent, name)
            info = os.lstat(full)
            content = ""
            if stat.S_ISREG(info.st_mode):
                with open(full, "rb") as file:
                    content = hashlib.sha256(file.read()).hexdigest()
            # The time of a directory alone tells of a file that was made and removed: a trial.
            time = info.st_mtime_ns if stat.S_ISREG(info.st_mode) else 0
            entries.append((full, info.st_mode, time, info.st_ino, content))
    return sorted(entries)


def one_line(t, result):
    """An error is one line that begins like all others."""
    t.equal(result.out, "", "nothing on standard output")
    lines = result.err.splitlines()
    t.equal(len(lines), 1, "one line on standard error: " + result.err)
    t.ok(lines[0].startswith("vmbackup: error: "), lines[0])


USAGE = [
    ((), "no verb"),
    (("-q",), "no verb"),
    (("frobnicate",), "unknown verb 'frobnicate'; see 'vmbackup --help'"),
    (("--frobnicate",), "unknown option '--frobnicate'"),
    (("-x", "list"), "unknown option '-x'"),
    (("-r",), "--repo needs a value: DIR"),
    (("--repo=", "list"), "empty"),
    (("list", "--nonsense"), "unknown option '--nonsense'; see 'vmbackup list --help'"),
    (("list", "a", "b"), "unexpected argument 'b'"),
    (("list", ""), "empty"),
    (("list", "--json=yes"), "takes no value"),
    (("init", "/backup"), "unexpected argument '/backup'"),
    (("show",), "missing argument: vmbackup show DOMAIN/POINT"),
    (("show", "a/b", "c/d"), "unexpected argument 'c/d'"),
    (("backup",), "name a domain, or give --all or --running"),
    (("backup", "--running", "web01"), "exclude each other"),
    (("backup", "--all", "web01"), "exclude each other"),
    (("backup", "web01", "--level", "differential"), "none of auto, full, incremental"),
    (("backup", "web01", "--level"), "needs a value"),
    (("backup", "web01", "--quiesce=maybe"), "none of auto, require, pause, none"),
    (("backup", "web01", "--freeze-timeout", "61s"), "at most 1m 00s"),
    (("backup", "web01", "--freeze-timeout", "0"), "--quiesce none"),
    (("backup", "web01", "--freeze-timeout", "1 week"), "not a duration"),
    (("backup", "web01", "--lock-wait", "soon"), "not a duration"),
    (("backup", "web01", "--jobs", "0"), "from 1 to 64"),
    (("backup", "web01", "-j", "many"), "from 1 to 64"),
    (("backup", "web01", "--compress", "lz4"), "lz4"),
    (("backup", "web01", "--compress", "zstd:99"), "99"),
    (("backup", "web01", "--disk", "vda,,vdb"), "empty"),
    (("backup", "web01", "--disk=vda,vdb", "--exclude-disk=vdb"), "both name 'vdb'"),
    (("backup", "web01", "--scratch-dir="), "empty"),
    (("restore",), "missing argument"),
    (("restore", "web01/latest"), "--to DIR is missing"),
    (("restore", "web01/latest", "--to", "/x", "--format", "vmdk"), "none of qcow2, raw"),
    (("restore", "web01/latest", "--to", "/x", "--keep-mac"), "--name"),
    (("restore", "web01/latest", "--to", "/x", "--name", "a/b"), "cannot be the name"),
    (("restore", "web01/latest", "--to", "/x", "--disk=vda", "--exclude-disk=vda"), "both name"),
    (("restore", "web01/latest", "--to", "/x", "--allow="), "empty"),
    (("verify", "--jobs=65"), "from 1 to 64"),
    (("doctor", "--scratch-dir"), "needs a value"),
    (("release",), "missing argument: vmbackup release DOMAIN"),
    (("release", "web01", "db01"), "unexpected argument 'db01'"),
    (("release", "web01", "--repository-id", "4f1d0c2"), "8 or 32 hexadecimal digits"),
    (("release", "web01", "--repository-id", "4f1d0c2x"), "8 or 32 hexadecimal digits"),
    (("-r", "/backup", "release", "web01", "--repository-id", "4f1d0c22"), "excludes --repo"),
]


@tap.test
def test_wrong_usage(t):
    repo = repository(t)
    before = snapshot(repo)
    for args, part in USAGE:
        result = Tool(t).run(*args, VMBACKUP_REPOSITORY=repo).expect(2).says(part)
        one_line(t, result)
    t.equal(snapshot(repo), before, "wrong usage changed the repository")


@tap.test
def test_usage_errors_in_json(t):
    for args in (("backup", "--json"), ("restore", "a/b", "--json")):
        result = Tool(t, repo="/nonexistent").run(*args).expect(2)
        t.equal(result.summary["type"], "summary")
        t.equal(result.summary["error"]["code"], "usage")
        t.equal(result.summary["exit_status"], 2)


READING = [("list",), ("show", "web01/latest"), ("verify",), ("backup", "web01"),
           ("restore", "web01/latest", "--to", "/nonexistent/x/y")]


@tap.test
def test_no_repository_named(t):
    for args in READING + [("init",)]:
        one_line(t, Tool(t).run(*args).expect(10).says("-r DIR", "VMBACKUP_REPOSITORY"))


@tap.test
def test_no_repository_there(t):
    base = directory(t)
    os.mkdir(os.path.join(base, "empty"))
    os.mkdir(os.path.join(base, "other"))
    with open(os.path.join(base, "other", "data"), "w", encoding="ascii") as file:
        file.write("x")
    before = snapshot(base)
    for name in ("absent", "empty", "other", "other/data"):
        for args in READING:
            result = Tool(t, repo=os.path.join(base, name)).run(*args).expect(10)
            one_line(t, result.says(os.path.join(base, name)))
    t.equal(snapshot(base), before)


@tap.test
def test_damaged_and_newer_repository(t):
    repo = repository(t)
    path = os.path.join(repo, "repository.json")
    with open(path, encoding="utf-8") as file:
        text = file.read()
    for broken in ("", "{", text[:len(text) // 2], text.replace("\"", "'", 1), text + "x"):
        with open(path, "w", encoding="utf-8") as file:
            file.write(broken)
        before = snapshot(repo)
        for args in READING:
            one_line(t, Tool(t, repo=repo).run(*args).expect((4, 10)).says(repo))
        t.equal(snapshot(repo), before)
    # A newer format: sealed correctly, so that it is no damage.
    newer = dict(json.loads(text))
    newer.pop("digest")
    newer["format"] = 99
    body = json.dumps(newer, indent=2)[:-2]
    digest = hashlib.sha256(body.encode()).hexdigest()
    with open(path, "w", encoding="utf-8") as file:
        file.write("%s,\n  \"digest\":\"sha256:%s\"\n}\n" % (body, digest))
    before = snapshot(repo)
    for args in READING:
        one_line(t, Tool(t, repo=repo).run(*args).expect(10).says("99"))
    t.equal(snapshot(repo), before)


@tap.test
def test_init(t):
    base = directory(t)
    repo = os.path.join(base, "new")
    result = Tool(t, repo=repo).ok("init")
    t.contains(result.out, "backup DOMAIN")
    for parent, names, files in os.walk(repo):
        t.equal(stat.S_IMODE(os.stat(parent).st_mode), 0o700, parent)
        for name in files:
            t.equal(stat.S_IMODE(os.stat(os.path.join(parent, name)).st_mode), 0o600, name)
    before = snapshot(base)
    one_line(t, Tool(t, repo=repo).run("init").expect(10).says(repo))
    t.equal(snapshot(base), before, "the second init changed something")
    os.mkdir(os.path.join(base, "empty"))
    Tool(t, repo=os.path.join(base, "empty")).ok("init")
    one_line(t, Tool(t, repo=os.path.join(base, "no", "parent")).run("init").expect((1, 10)))
    t.ok(not os.path.exists(os.path.join(base, "no")), "parents are not made")
    with open(os.path.join(base, "file"), "w", encoding="ascii"):
        pass
    one_line(t, Tool(t, repo=os.path.join(base, "file")).run("init").expect(10))
    os.mkdir(os.path.join(base, "full"))
    with open(os.path.join(base, "full", "x"), "w", encoding="ascii"):
        pass
    one_line(t, Tool(t, repo=os.path.join(base, "full")).run("init").expect(10))
    t.equal(os.listdir(os.path.join(base, "full")), ["x"])


@tap.test
def test_init_fails_half_way(t):
    base = directory(t)
    repo = os.path.join(base, "repo")
    Tool(t, repo=repo).run("init", fail_at="init-repository-written=fail").expect(1)
    t.equal(os.listdir(base), [], "something is left behind")
    Tool(t, repo=repo).run("init", fail_at="init-repository-written=kill").expect(-9)
    Tool(t, repo=repo).run("list").expect((0, 10))


@tap.test
def test_quiet(t):
    base = directory(t)
    result = Tool(t, repo=os.path.join(base, "repo")).ok("-q", "init")
    t.equal((result.out, result.err), ("", ""))
    result = Tool(t, repo=os.path.join(base, "repo")).ok("verify", "-q")
    t.equal((result.out, result.err), ("", ""))


@tap.test
def test_precedence(t):
    one, two = repository(t), repository(t)
    Tool(t).ok("list", VMBACKUP_REPOSITORY=one)
    Tool(t, repo=two).ok("list", VMBACKUP_REPOSITORY="/nonexistent")
    Tool(t, repo="/nonexistent").run("list", VMBACKUP_REPOSITORY=one).expect(10).says("/nonexistent")
    Tool(t).run("list", VMBACKUP_REPOSITORY="").expect(10).says("VMBACKUP_REPOSITORY")
    Tool(t).ok("list", "-r", one)
    Tool(t).ok("-r", "/nonexistent", "list", "-r" + one)
    result = Tool(t, repo=one).run("doctor", LIBVIRT_DEFAULT_URI=NO_LIBVIRT)
    result.expect(20).says("/nonexistent/libvirt-sock")
    Tool(t, repo=one).run("-c", "qemu+unix:///system?socket=/other", "doctor",
                          LIBVIRT_DEFAULT_URI=NO_LIBVIRT).expect(20).says("/other")


@tap.test
def test_libvirt_unreachable(t):
    repo = repository(t)
    before = snapshot(repo)
    for args in (("backup", "web01"), ("backup", "--all"), ("doctor",), ("doctor", "--repair"),
                 ("release", "web01"), ("release", "-n", "web01")):
        one_line(t, Tool(t, repo=repo).run("-c", NO_LIBVIRT, *args).expect(20))
    result = Tool(t, repo=repo).run("-c", NO_LIBVIRT, "backup", "web01", "db01", "--json")
    lines = result.expect(20).json_lines
    t.equal([line["type"] for line in lines], ["domain", "domain", "summary"])
    t.equal(lines[0]["error"]["code"], "libvirt")
    t.equal((lines[2]["failed"], lines[2]["succeeded"], lines[2]["exit_status"]), (2, 0, 20))
    t.equal(snapshot(repo), before)


@tap.test
def test_wrong_libvirt(t):
    repo = repository(t)
    for uri in ("test:///default", "qemu+ssh://elsewhere.invalid/system", "nonsense:///"):
        one_line(t, Tool(t, repo=repo).run("-c", uri, "backup", "web01").expect((2, 20)))


@tap.test
def test_result_cannot_be_written(t):
    repo = repository(t)
    with open("/dev/full", "w", encoding="ascii") as full:
        run = subprocess.run([binary(), "-r", repo, "list", "--json"], stdout=full,
                             stderr=subprocess.PIPE, text=True)
    t.equal(run.returncode, 1)
    t.contains(run.stderr, "cannot write the result")


@tap.test
def test_control_characters(t):
    bad = "we\033[31mb\n\u202e\x9b01"
    for args in (("list", bad), ("show", bad + "/latest"), (bad,), ("list", "--" + bad)):
        result = Tool(t, repo=repository(t)).run(*args)
        t.ok(result.status in (2, 21), result.describe())
        one_line(t, result)
        t.ok(all(c.isprintable() for c in result.err.rstrip("\n")), repr(result.err))


@tap.test
def test_empty_repository(t):
    repo = repository(t)
    t.equal(Tool(t, repo=repo).json("list"), {"schema": 1, "points": []})
    Tool(t, repo=repo).ok("list").says("no restore point")
    Tool(t, repo=repo).run("list", "web01").expect(21).says("web01")
    Tool(t, repo=repo).run("show", "web01/latest").expect(21).says("web01")
    Tool(t, repo=repo).run("verify", "web01").expect(21).says("web01")
    summary = Tool(t, repo=repo).json_lines("verify")[-1]
    t.equal((summary["type"], summary["points"], summary["exit_status"]), ("summary", 0, 0))


if __name__ == "__main__":
    tap.main()
