#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""export: what NBD clients get of points, from where, and for how long."""

import json
import os
import signal
import socket
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import points  # noqa: E402
from points import IDS, UUID, contents, directory, flip, make, point  # noqa: E402
from vmbtest import differ, tap  # noqa: E402
from vmbtest.vmbackup import Tool  # noqa: E402

URI = "nbd+unix:///%s?socket=%s"


def repository(t, n=3):
    """Of n points; run_dir of the program is where private sockets are."""
    tool = points.repository(t, n=n)
    tool.run_dir = os.path.join(directory(t), "run")
    tool.env["VMBACKUP_TEST_RUN_DIR"] = tool.run_dir
    return tool


def raw(tool, where, number, target):
    """What qemu-img reads of a point."""
    out = os.path.join(where, "raw-%d-%s" % (number, target))
    if not os.path.exists(out):
        subprocess.run(["qemu-img", "convert", "-O", "raw", os.path.join(
            point(tool, number), target + ".qcow2"), out], check=True)
    return out


def same(one, other):
    """Two files."""
    return subprocess.run(["cmp", "-s", one, other]).returncode == 0


def serve(t, tool, *words, **options):
    """Starts an export; returns it and its first line, once it is ready."""
    running = tool.start("export", *words, "--json", **options)
    t.eventually(lambda: running.output(), 30, "it does not say that it is ready")
    return running, json.loads(running.output().splitlines()[0])


def left(where):
    """What an export must not leave."""
    return [name for name in os.listdir(where) if name.startswith(("export-", "vmbackup-overlay"))]


def nbd_map(uri, context):
    """Ranges of a meta context that are not of type 0."""
    text = subprocess.run(["nbdinfo", "--json", "--map=" + context, uri], check=True,
                          capture_output=True, text=True).stdout
    found = []
    for entry in json.loads(text):
        if entry["type"] == 0:
            continue
        if found and sum(found[-1]) == entry["offset"]:
            found[-1] = (found[-1][0], found[-1][1] + entry["length"])
        else:
            found.append((entry["offset"], entry["length"]))
    return found


def merged(ranges):
    """Of data and zeroes alike."""
    found = []
    for offset, length, _ in ranges:
        if found and sum(found[-1]) == offset:
            found[-1] = (found[-1][0], found[-1][1] + length)
        else:
            found.append((offset, length))
    return found


@tap.test
def test_all_points(t):
    """Every disk of every point, by nbdcopy and qemu-img; before, in the middle of, and after a fold."""
    where = directory(t)
    tool = repository(t, n=4)
    script = ("for d in $VMBACKUP_DISKS; do eval u=\\$VMBACKUP_URI_$d; nbdcopy $u %s/$d.nbdcopy; "
              "qemu-img convert -f raw -O raw $u %s/$d.convert; done") % (where, where)

    def check():
        for entry in tool.json("list")["points"]:
            number = IDS.index(entry["id"])
            tool.ok("export", "web01/" + entry["id"], "--exec", script)
            for disk in ("vda", "vdb"):
                for kind in ("nbdcopy", "convert"):
                    t.ok(same(os.path.join(where, disk + "." + kind), raws[number, disk]),
                         "%s %s %s" % (entry["id"], disk, kind))
    raws = {(n, disk): raw(tool, where, n, disk) for n in range(4) for disk in ("vda", "vdb")}
    check()
    for step in ("fold-appended", "fold-ready", "fold-image-moved"):
        tool.run("forget", "web01/" + tool.json("list")["points"][0]["id"],
                 fail_at=step + "=kill").expect(-9)
        check()
        tool.ok("prune", "--keep-last", "9")
    check()
    t.equal(left(tool.run_dir), [])


@tap.test
def test_environment(t):
    """What a command is told, and what becomes of its status."""
    tool = repository(t, n=2)
    where = directory(t)
    out = os.path.join(where, "env")
    tool.ok("export", "web01/latest", "--since", IDS[0], "--exec", "env >" + out)
    with open(out, encoding="utf-8") as file:
        env = dict(line.rstrip("\n").split("=", 1) for line in file if "=" in line)
    t.equal((env["VMBACKUP_DOMAIN"], env["VMBACKUP_UUID"], env["VMBACKUP_POINT"], env["VMBACKUP_SINCE"],
             env["VMBACKUP_DISKS"]), ("web01", UUID, IDS[1], IDS[0], "vda vdb"))
    t.equal(env["VMBACKUP_SIZE_vda"], str(40 * 65536 + 512))
    t.equal(env["VMBACKUP_CONTEXT_vdb"], "qemu:dirty-bitmap:since")
    t.ok("VMBACKUP_URI" not in env, "one URI for two disks")
    t.ok("LISTEN_FDS" not in env, "it was handed on")
    tool.ok("export", "web01/latest", "--disk", "vdb", "--exec", "env >" + out)
    with open(out, encoding="utf-8") as file:
        env = dict(line.rstrip("\n").split("=", 1) for line in file if "=" in line)
    t.equal(env["VMBACKUP_URI"], env["VMBACKUP_URI_vdb"])
    t.ok("VMBACKUP_CONTEXT" not in env, "a context without --since")
    for command, status, says in (("exit 3", 3, "ended with status 3"),
                                  ("kill -9 $$", 137, "ended by signal 9"),
                                  ("/does/not/exist", 127, "ended with status 127")):
        result = tool.run("export", "web01/latest", "--json", "--exec", command).expect(1)
        t.equal(result.json_lines[-1]["command_status"], status)
        result.says(says)
    t.equal(tool.ok("export", "web01/latest", "--exec", "echo mine").out, "mine\n")
    t.equal(left(tool.run_dir), [])


@tap.test
def test_until_a_signal(t):
    """Readiness, several clients at once, the end."""
    tool = repository(t, n=3)
    where = directory(t)
    path = os.path.join(where, "s")
    notify = os.path.join(where, "notify")
    told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    told.bind(notify)
    told.settimeout(20)
    running, ready = serve(t, tool, "web01/latest", "--socket", path, NOTIFY_SOCKET=notify)
    t.equal(told.recv(100), b"READY=1")
    t.equal(os.stat(path).st_mode & 0o777, 0o600)
    t.equal([(disk["target"], disk["uri"]) for disk in ready["disks"]],
            [(disk, URI % (disk, path)) for disk in ("vda", "vdb")])
    # One that says nothing, and one that stops in the middle, are in nobody's way.
    silent = socket.socket(socket.AF_UNIX)
    silent.connect(path)
    lost = subprocess.Popen(["nbdcopy", URI % ("vda", path), "-"], stdout=subprocess.PIPE)
    lost.stdout.read(1000)
    lost.send_signal(signal.SIGSTOP)
    copies = [subprocess.Popen(["nbdcopy", URI % (disk, path), os.path.join(where, "copy-%s-%d" % (disk, k))])
              for disk in ("vda", "vdb") for k in range(3)]
    for copy in copies:
        t.equal(copy.wait(60), 0)
    for disk in ("vda", "vdb"):
        for k in range(3):
            t.ok(same(os.path.join(where, "copy-%s-%d" % (disk, k)), raw(tool, where, 2, disk)),
                 "a copy differs")
    lost.kill()
    running.signal(signal.SIGTERM)
    result = running.wait(20).expect(0)
    t.equal(result.json_lines[-1]["exit_status"], 0)
    t.equal(told.recv(100), b"STOPPING=1")
    t.ok(not os.path.exists(path), "the socket is left")
    silent.close()
    lost.wait()
    lost.stdout.close()
    told.close()


@tap.test
def test_killed(t):
    """The server goes with us, also when we are killed; a command is ended with us."""
    tool = repository(t, n=1)
    where = directory(t)
    path = os.path.join(where, "s")
    running, _ = serve(t, tool, "web01/latest", "--socket", path)
    subprocess.run(["nbdinfo", "--size", URI % ("vda", path)], check=True, stdout=subprocess.DEVNULL)
    running.signal(signal.SIGKILL)
    running.wait(10)

    def gone():
        return subprocess.run(["nbdinfo", "--size", URI % ("vda", path)], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL).returncode != 0
    t.eventually(gone, 10, "it is still served")
    marker = os.path.join(where, "marker")
    running = tool.start("export", "web01/latest", "--exec", "touch %s; exec sleep 86399" % marker)
    t.eventually(lambda: os.path.exists(marker), 20, "the command does not run")
    running.signal(signal.SIGTERM)
    running.wait(20).expect(128 + signal.SIGTERM)
    t.equal(left(tool.run_dir), [])
    t.equal(subprocess.run(["pgrep", "-f", "sleep 86399"], stdout=subprocess.DEVNULL).returncode, 1)


@tap.test
def test_server_ends(t):
    """A server that dies is told, and the command with it."""
    tool = repository(t, n=1)
    pidfile = os.path.join(directory(t), "pid")
    script = "pgrep -P $PPID -x qemu-storage-da >%s; kill -9 $(cat %s); exec sleep 1000" % (pidfile, pidfile)
    tool.run("export", "web01/latest", "--exec", script, timeout=30).expect(1).says("ended by itself")


@tap.test
def test_since(t):
    """Between any two points: the context says just what differs, across folds and fulls."""
    where = directory(t)
    tool = repository(t, n=0)
    make(t, tool.repo, n=6, every=4)
    ids = [entry["id"] for entry in tool.json("list")["points"]]
    raws = {}
    for entry in ids:
        for disk in ("vda", "vdb"):
            raws[entry, disk] = os.path.join(where, entry + disk)
            subprocess.run(["qemu-img", "convert", "-O", "raw", os.path.join(
                tool.repo, "domains", UUID, "points", entry, disk + ".qcow2"), raws[entry, disk]],
                check=True)
    path = os.path.join(where, "s")

    def check(older, newer):
        running, ready = serve(t, tool, "web01/" + newer, "--since", older, "--socket", path)
        t.equal(ready["since"], older)
        for disk in ready["disks"]:
            wanted = differ.ranges(raws[older, disk["target"]], raws[newer, disk["target"]])
            t.equal(nbd_map(disk["uri"], disk["context"]), merged(wanted), "%s..%s" % (older, newer))
            t.equal(disk["changed"], sum(r[1] for r in wanted if not r[2]))
            t.equal(disk["zeroed"], sum(r[1] for r in wanted if r[2]))
        running.signal(signal.SIGINT)
        running.wait(20).expect(0)
    for older, newer in ((0, 1), (0, 3), (1, 5), (3, 4), (5, 2), (2, 2)):
        check(ids[older], ids[newer])
    tool.ok("forget", "web01/" + ids[1], "web01/" + ids[0])
    for older, newer in ((2, 3), (2, 5), (4, 5), (5, 2)):
        check(ids[older], ids[newer])
    # As qemu-img shows it: what is dirty is no data there.
    running, ready = serve(t, tool, "web01/" + ids[5], "--since", ids[2], "--socket", path)
    options = "driver=nbd,server.type=unix,server.path=%s,export=vda,x-dirty-bitmap=%s" % (
        path, ready["disks"][0]["context"])
    mapped = json.loads(subprocess.run(
        ["qemu-img", "map", "--output=json", "--image-opts", options], check=True,
        capture_output=True, text=True).stdout)
    dirty = sum(entry["length"] for entry in mapped if not entry["data"])
    t.equal(dirty, ready["disks"][0]["changed"] + ready["disks"][0]["zeroed"])
    running.signal(signal.SIGINT)
    running.wait(20).expect(0)


@tap.test
def test_pull_difference(t):
    """A client brings a copy of the older point up to date with nothing but the difference."""
    where = directory(t)
    tool = repository(t, n=4)
    copy = raw(tool, where, 0, "vda")
    size = os.path.getsize(raw(tool, where, 3, "vda"))
    os.truncate(copy, size)
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "examples",
                          "pull-changes")
    tool.ok("export", "web01/" + IDS[3], "--disk", "vda", "--since", IDS[0], "--exec",
            "%s %s" % (script, copy))
    t.ok(same(copy, raw(tool, where, 3, "vda")), "it is not the newer point")


@tap.test
def test_writable(t):
    """Clients write, and the point stays as it is; the overlay is gone, or kept where it was asked for."""
    where = directory(t)
    tool = repository(t, n=3)
    before = contents(t, tool)
    overlays = os.path.join(where, "overlays")
    os.mkdir(overlays)
    write = "qemu-io -f raw -c 'write -P 7 0 200k' -c 'read -P 7 0 200k' -c 'discard 1M 64k' $VMBACKUP_URI >/dev/null"
    tool.ok("export", "web01/latest", "--rw", "--disk", "vda", "--overlay-dir", overlays, "--exec",
            write + " && ls %s | wc -l >%s/count" % (overlays, where))
    with open(os.path.join(where, "count"), encoding="ascii") as file:
        t.equal(file.read().strip(), "0", "the overlay has a name")
    t.equal(contents(t, tool), before)
    kept = os.path.join(where, "kept.qcow2")
    tool.ok("export", "web01/latest", "--rw", "--disk", "vda", "--keep-overlay", kept, "--exec", write)
    subprocess.run(["qemu-img", "check", "-q", kept], check=True)
    subprocess.run(["qemu-io", "-r", "-c", "read -P 7 0 200k", kept], check=True,
                   stdout=subprocess.DEVNULL)
    flat = os.path.join(where, "flat")
    subprocess.run(["qemu-img", "convert", "-O", "raw", kept, flat], check=True)
    with open(flat, "rb") as one, open(raw(tool, where, 2, "vda"), "rb") as other:
        one.seek(200 << 10)
        other.seek(200 << 10)
        t.equal(one.read((1 << 20) - (200 << 10)), other.read((1 << 20) - (200 << 10)))
        t.equal(one.read(65536), bytes(65536))
        other.seek(65536, os.SEEK_CUR)
        t.equal(one.read(), other.read())
    t.equal(contents(t, tool), before)
    # It is never written over, and not left behind by what does not begin.
    tool.run("export", "web01/latest", "--rw", "--disk", "vda", "--keep-overlay", kept, "--exec",
             "true").expect(1).says(kept)
    other = os.path.join(where, "other.qcow2")
    tool.run("export", "web01/latest", "--rw", "--disk", "vda", "--keep-overlay", other, "--exec",
             "true", fail_at="export-overlay-made=fail").expect(1)
    t.ok(not os.path.exists(other), "it is left")
    # A read-only export refuses to write.
    result = tool.run("export", "web01/latest", "--disk", "vda", "--exec", write)
    t.ok(result.status == 1, "it was written to")
    t.equal(contents(t, tool), before)


@tap.test
def test_being_served(t):
    """A point that is served stays: what would change it waits, and says so."""
    where = directory(t)
    tool = repository(t, n=3)
    path = os.path.join(where, "s")
    running, _ = serve(t, tool, "web01/" + IDS[1], "--socket", path)
    tool.run("forget", "web01/" + IDS[0], "web01/" + IDS[1])
    t.equal([entry["id"] for entry in tool.json("list")["points"]], [IDS[2]])
    out = os.path.join(where, "out")
    subprocess.run(["nbdcopy", URI % ("vda", path), out], check=True)
    t.ok(same(out, raw(tool, where, 1, "vda")), "it has changed")
    running.signal(signal.SIGTERM)
    running.wait(20).expect(0)
    tool.ok("prune", "--keep-last", "1")
    t.equal(os.listdir(os.path.dirname(point(tool, 0))), [IDS[2]])
    tool.ok("verify")


@tap.test
def test_killed_points(t):
    """At each step that has a name."""
    tool = repository(t, n=1)
    for step in ("export-overlay-made", "export-ready"):
        tool.run("export", "web01/latest", "--rw", "--exec", "true", fail_at=step + "=fail").expect(1)
        t.equal(left(tool.run_dir), [], "what was killed before is removed, too")
        tool.run("export", "web01/latest", "--rw", "--exec", "true", fail_at=step + "=kill").expect(-9)
    tool.ok("export", "web01/latest", "--rw", "--exec", "true")
    t.equal(left(tool.run_dir), [])
    # Of another export that is at work nothing is taken away.
    inner = " ".join(tool.argv("export", "web01/latest", "--exec", "true"))
    tool.ok("export", "web01/latest", "--exec", inner + " && nbdinfo --size $VMBACKUP_URI_vda")
    tool.ok("verify")


# ---- who may connect ----

def certificates(where, name="ca"):
    """A directory with an authority, a server's and a client's certificate."""
    path = os.path.join(where, name)
    os.mkdir(path)

    def certtool(*words, template=""):
        with open(os.path.join(path, "template"), "w", encoding="ascii") as file:
            file.write(template)
        subprocess.run(["certtool", *words, "--template", os.path.join(path, "template")], check=True,
                       cwd=path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for kind in ("ca", "server", "client"):
        subprocess.run(["certtool", "--generate-privkey", "--ecc", "--outfile", kind + "-key.pem"], check=True,
                       cwd=path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    certtool("--generate-self-signed", "--load-privkey", "ca-key.pem", "--outfile", "ca-cert.pem",
             template="cn = test\nca\ncert_signing_key\nexpiration_days = 2\n")
    for kind in ("server", "client"):
        certtool("--generate-certificate", "--load-ca-certificate", "ca-cert.pem", "--load-ca-privkey",
                 "ca-key.pem", "--load-privkey", kind + "-key.pem", "--outfile", kind + "-cert.pem",
                 template="cn = localhost\ndns_name = localhost\nip_address = 127.0.0.1\ntls_www_%s\n"
                          "encryption_key\nsigning_key\nexpiration_days = 2\n" % kind)
    return path


def info(uri, *options):
    """Whether a client is let in."""
    return subprocess.run(["nbdinfo", "--size", uri + ("?" if options else "") + "&".join(options)],
                          capture_output=True, text=True, timeout=30)


@tap.test
def test_tls(t):
    """Certificates and keys: the right ones are let in, all others are not."""
    where = directory(t)
    tool = repository(t, n=1)
    good, other = certificates(where), certificates(where, "other")
    running, ready = serve(t, tool, "web01/latest", "--listen", "127.0.0.1:0", "--tls-x509", good)
    uri = ready["disks"][0]["uri"]
    t.ok(uri.startswith("nbds://127.0.0.1:"), uri)
    t.equal(info(uri, "tls-certificates=" + good).stdout.strip(), str(40 * 65536 + 512))
    for uri_, options in ((uri, ["tls-certificates=" + other]), (uri.replace("nbds", "nbd"), [])):
        t.ok(info(uri_, *options).returncode != 0, "%s %s is let in" % (uri_, options))
    running.signal(signal.SIGTERM)
    running.wait(20).expect(0)
    psk = os.path.join(where, "psk")
    os.mkdir(psk)
    with open(os.path.join(psk, "keys.psk"), "w", encoding="ascii") as file:
        file.write("joe:0123456789abcdef0123456789abcdef\n")
    wrong = os.path.join(where, "wrong.psk")
    with open(wrong, "w", encoding="ascii") as file:
        file.write("joe:ffffffffffffffffffffffffffffffff\n")
    running, ready = serve(t, tool, "web01/latest", "--listen", "127.0.0.1:0", "--tls-psk", psk)
    uri = ready["disks"][0]["uri"].replace("nbds://", "nbds://joe@")
    t.equal(info(uri, "tls-psk-file=" + os.path.join(psk, "keys.psk")).returncode, 0)
    t.ok(info(uri, "tls-psk-file=" + wrong).returncode != 0, "the wrong key is let in")
    running.signal(signal.SIGTERM)
    running.wait(20).expect(0)
    # What it cannot use is told before anything is served.
    empty = os.path.join(where, "empty")
    os.mkdir(empty)
    tool.run("export", "web01/latest", "--listen", "127.0.0.1:0", "--tls-x509", empty).expect(2).says(empty)
    os.rename(os.path.join(good, "server-key.pem"), os.path.join(good, "aside"))
    os.link(os.path.join(other, "server-key.pem"), os.path.join(good, "server-key.pem"))
    tool.run("export", "web01/latest", "--listen", "127.0.0.1:0", "--tls-x509", good).expect(1).says(
        "nothing is served")


def has_ipv6():
    """Not every machine has the loopback address of IPv6."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@tap.test
def test_plain_tcp(t):
    """Without TLS for this host alone, unless told otherwise; IPv6; a port in use."""
    tool = repository(t, n=1)
    for address in ("127.0.0.1:0", "[::1]:0") if has_ipv6() else ("127.0.0.1:0",):
        running, ready = serve(t, tool, "web01/latest", "--listen", address)
        t.equal(info(ready["disks"][1]["uri"]).stdout.strip(), str(3 * 65536))
        port = ready["disks"][0]["uri"].rpartition(":")[2].partition("/")[0]
        tool.run("export", "web01/latest", "--listen", address[:-1] + port).expect(2).says("in use")
        running.signal(signal.SIGTERM)
        running.wait(20).expect(0)
    for address in ("0.0.0.0:0", ":0"):
        tool.run("export", "web01/latest", "--listen", address).expect(2).says("--tls-x509")
        running, _ = serve(t, tool, "web01/latest", "--listen", address, "--allow-plain")
        running.signal(signal.SIGTERM)
        running.wait(20).expect(0)
    tool.run("export", "web01/latest", "--listen", "no.such.host.invalid:1").expect(2)
    tool.run("export", "web01/latest", "--listen", "127.0.0.1:99999").expect(2)


@tap.test
def test_activation(t):
    """A socket of a service manager."""
    tool = repository(t, n=1)
    where = directory(t)
    path = os.path.join(where, "s")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen(4)

    def start(count="1"):
        code = ("import os,sys; os.dup2(%d, 3); os.environ['LISTEN_PID'] = str(os.getpid()); "
                "os.environ['LISTEN_FDS'] = '%s'; os.execv(sys.argv[1], sys.argv[1:])" % (
                    listening.fileno(), count))
        return subprocess.Popen([sys.executable, "-c", code, *tool.argv("export", "web01/latest")],
                                pass_fds=[listening.fileno()], env=dict(os.environ, **tool.env),
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    child = start()
    t.equal(child.stdout.readline().decode(), "vda: %s\n" % (URI % ("vda", path)))
    t.equal(info(URI % ("vda", path)).returncode, 0)
    child.terminate()
    child.communicate()
    t.equal(child.returncode, 0)
    t.ok(os.path.exists(path), "it is not ours to remove")
    child = start("2")
    t.ok(b"one listening socket" in child.communicate()[1], "it does not say why")
    t.equal(child.returncode, 2)
    listening.close()


@tap.test
def test_wrong_input(t):
    """What cannot be served."""
    tool = repository(t, n=2)
    where = directory(t)
    taken = os.path.join(where, "taken")
    for make_it in (lambda: open(taken, "w").close(), lambda: os.mkdir(taken),
                    lambda: socket.socket(socket.AF_UNIX).bind(taken),
                    lambda: os.symlink(os.path.join(where, "elsewhere"), taken)):
        make_it()
        before = os.lstat(taken)
        tool.run("export", "web01/latest", "--socket", taken).expect(2).says("left alone")
        t.equal(os.lstat(taken).st_ino, before.st_ino)
        (os.rmdir if os.path.isdir(taken) else os.unlink)(taken)
    tool.run("export", "web01/latest", "--socket", os.path.join(where, "x" * 108)).expect(2).says("107")
    tool.run("export", "web01/latest", "--socket", "/nonexistent/s").expect(1)
    for words in ([], ["--socket", taken, "--listen", "127.0.0.1:0"], ["--since", IDS[0], "--rw", "--exec", "true"],
                  ["--overlay-dir", where, "--exec", "true"], ["--keep-overlay", taken, "--exec", "true"],
                  ["--rw", "--keep-overlay", taken, "--exec", "true"], ["--tls-any-client", "--exec", "true"],
                  ["--tls-x509", where, "--tls-psk", where, "--exec", "true"],
                  ["--disk", "vdz", "--exec", "true"]):
        tool.run("export", "web01/latest", *words).expect(2)
    tool.run("export", "web01/2000", "--exec", "true").expect(21)
    tool.run("export", "web01/latest", "--since", "2000", "--exec", "true").expect(21)
    t.equal(os.listdir(where), [])


@tap.test
def test_damage(t):
    """What is known to be damaged is not served unless asked for; damaged tables never."""
    tool = repository(t, n=2)
    path = os.path.join(point(tool, 0), "vdb.qcow2")
    with open(path, "rb") as file:
        content = file.read()
    # The first block of the plain image.
    entry = int.from_bytes(content[content.index(b"\x80\x00\x00\x00\x00\x05\x00\x00"):][:8], "big")
    flip(path, (entry & 0x00fffffffffffe00) + 5)
    tool.run("verify").expect(4)
    tool.run("export", "web01/" + IDS[0], "--exec", "true").expect(4).says("--ignore-damage")
    tool.ok("export", "web01/" + IDS[0], "--disk", "vda", "--exec", "true")
    tool.ok("export", "web01/" + IDS[0], "--ignore-damage", "--exec", "true")
    table = os.path.join(point(tool, 0), "vda.qcow2")
    with open(table, "rb") as file:
        header = file.read(65536)
        file.seek(int.from_bytes(header[40:48], "big"))
        l2 = int.from_bytes(file.read(8), "big") & 0x00fffffffffffe00
    flip(table, l2 + 8 * 39 + 6)
    tool.run("export", "web01/latest", "--disk", "vda", "--ignore-damage", "--exec", "true").expect(4)


@tap.test
def test_read_only_repository(t):
    """From a mount that cannot be written."""
    tool = repository(t, n=2)
    where = directory(t)
    mount = os.path.join(where, "ro")
    os.mkdir(mount)
    subprocess.run(["mount", "--bind", tool.repo, mount], check=True)
    t.defer(subprocess.run, ["umount", "-l", mount])
    subprocess.run(["mount", "-o", "remount,bind,ro", mount], check=True)
    out = os.path.join(where, "out")
    Tool(t, repo=mount).ok("export", "web01/latest", "--disk", "vda", "--since", IDS[0], "--exec",
                           "nbdcopy $VMBACKUP_URI " + out)
    t.ok(same(out, raw(tool, where, 1, "vda")), "it differs")


if __name__ == "__main__":
    tap.main()
