#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Names, titles and agents that mean no good, and secrets that must not be told."""

import base64
import json
import os
import stat
import time
import unicodedata
import uuid

from common import Bench, Disk, Guest, MIB, Tool, libvirt, process, tap
from xml.sax.saxutils import escape

# Control characters that XML allows, directions that turn text around, line separators, tags.
NASTY = "\u009b31m\u0085\u202egnp\u2066\u2028\u200b\U000e0041\u007f"
NAMES = (
    "-rf", "--help", "a b", "web01 ", "%s%n%d", "$(touch pwned)`id`", "quote\"'<&>", "latest",
    "üñí-ไทย", NASTY + "x", "\u009b31mred", "\u202egnp.exe", "\u2028line", "zero\u200bwidth", "*",
    "a\\b", "~root", "x" * 180, "é" * 90,
    "11111111-2222-3333-4444-555555555555", ".hidden", "..", ".", "..\\..\\up",
    "/etc/passwd", "a/b", "../../up", "new\nline", "tab\tbed")


def is_clean(text):
    """What a terminal gets: no control or format characters but the end of a line."""
    return not any(unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp", "Cs") and c != "\n"
                   for c in text)


def checked(t, result):
    """The result, if all that it printed is clean."""
    for text in (result.out, result.err):
        t.ok(is_clean(text), "not clean: %r" % text)
    return result


class Paused:
    """A domain that never runs, with a small disk and whatever else the test wants in its XML."""

    def __init__(self, t, host, name, extra_xml="", serial=None):
        self.guest = Guest.__new__(Guest)
        file = "p" + uuid.uuid4().hex[:8]
        self.disk = Disk(MIB, path=os.path.join(host.images, file + ".qcow2"), target="vda",
                         serial=serial)
        process.run("qemu-img", "create", "-q", "-f", "qcow2", self.disk.path, str(MIB))
        xml = ("<domain type='qemu'><name>%s</name><memory unit='MiB'>32</memory>%s<os>"
               "<type arch='x86_64' machine='pc'>hvm</type></os><devices>"
               "<emulator>/usr/bin/qemu-system-x86_64</emulator>%s<memballoon model='none'/>"
               "</devices></domain>" % (escape(name), extra_xml, self.disk.to_xml()))
        self.dom = host.conn.defineXML(xml)
        t.defer(self.dom.undefineFlags, libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA)
        self.dom.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
        t.defer(self.dom.destroy)
        self.name, self.uuid = name, self.dom.UUIDString()


def files_below(path):
    """All names, for a look whether something has got out."""
    return {os.path.join(directory, name) for directory, names, files in os.walk(path)
            for name in names + files}


@tap.test
def test_names(t):
    bench = t.once("bench", Bench)
    repository = bench.host.directory("hostile", 0o700)
    base = os.path.dirname(repository)
    tool = Tool(t, repo=repository, host=bench.host)
    tool.ok("init")
    outside = files_below(base) - files_below(repository)
    refused = []
    for name in NAMES:
        try:
            domain = Paused(t, bench.host, name)
        except libvirt.libvirtError:
            refused.append(name)
            continue
        words = ("--scratch-dir", bench.scratch, "--quiesce", "none")
        checked(t, tool.ok("backup", *words, "--", domain.name))
        result = checked(t, tool.ok("backup", *words, "--json", "--", domain.name))
        t.equal(result.json_lines[0]["domain"], name)
        listed = checked(t, tool.ok("list", "--json", "--", domain.uuid))
        t.equal([p["domain"] for p in listed.json["points"]], [name] * 2)
        checked(t, tool.run("list", "--", domain.name))
        checked(t, tool.ok("show", domain.uuid + "/latest"))
        to = os.path.join(base, "tmp", "restored-" + domain.uuid)
        checked(t, tool.ok("restore", domain.uuid + "/latest", "--to", to))
        process.run("rm", "-r", to)
    t.diag("libvirt refuses %r" % refused)
    t.ok(len(refused) < len(NAMES) - 12, "hardly a name was accepted")
    for verb in ("list", "verify", "doctor"):
        checked(t, tool.run(verb).expect((0, 1, 3)))
        checked(t, tool.run(verb, "--json").expect((0, 1, 3)))
    new = {path for path in files_below(base) - files_below(repository) - outside
           if "/log/" not in path and "/run/" not in path and "/lib/" not in path and
           "/images/" not in path and "/etc/" not in path and "/cache/" not in path}
    t.equal(new, set(), "files outside of the repository")
    for name in os.listdir(os.path.join(repository, "by-name")):
        path = os.path.join(repository, "by-name", name)
        t.ok(is_clean(name) and name[0] != ".", "link %r" % name)
        t.ok(os.path.realpath(path).startswith(os.path.join(repository, "domains") + "/"), path)


@tap.test
def test_names_on_the_command_line(t):
    """What is no point, domain or directory is refused; nothing gets out of the repository."""
    bench = t.once("bench", Bench)
    repository = bench.host.directory("hostile-words", 0o700)
    tool = Tool(t, repo=repository, host=bench.host)
    tool.ok("init")
    words = ("--scratch-dir", bench.scratch, "--exclude-disk", "vdc")
    tool.ok("backup", "web01", *words)
    for name in ("../..", "web01/../..", "web01/..", "/", "//", "", "web01/", "web01/" + "9" * 5000,
                 "\x1b[31m", "web01/\x1b]0;x\x07", "web01/" + NASTY, b"\xff\xfe", b"web01/\xc3",
                 "x" * 100000, "%n%n%n"):
        for verb in ("show", "list", "verify", "backup", "doctor"):
            result = tool.run(verb, name) if isinstance(name, str) else run_bytes(tool, verb, name)
            t.ok(result.status in (1, 2, 20, 21), "%s %r: status %d" % (verb, name, result.status)
                 ) if name not in ("web01/", "") else None
            t.ok(result.status >= 0, result.describe())
            checked(t, result)
    for place in ("bad\x1b[31mname", "new\nline", "bell\x07"):
        to = os.path.join(bench.host.base, "tmp", place)
        checked(t, tool.ok("restore", "web01/latest", "--to", to))
        checked(t, tool.run("restore", "web01/latest", "--to", to).expect(1))
        process.run("rm", "-r", to)
        checked(t, tool.run("list", VMBACKUP_REPOSITORY=to))
        checked(t, Tool(t, repo=to, host=bench.host).run("list").expect(10))
        checked(t, Tool(t, repo=to, host=bench.host).run("init").expect(0))


def run_bytes(tool, verb, name):
    """A run with an argument that is no text."""
    return tool.run(verb, os.fsdecode(name))


@tap.test
def test_titles_and_serials(t):
    """Whatever libvirt lets into the XML of a domain."""
    bench = t.once("bench", Bench)
    repository = bench.host.directory("hostile-titles", 0o700)
    tool = Tool(t, repo=repository, host=bench.host)
    tool.ok("init")
    serials = ("../../etc", "a b", "%s%n", NASTY, "-x", "x" * 255, "é", "line\nline", "$(id)")
    accepted = 0
    for number, serial in enumerate(serials):
        extra = "<title>%s</title><description>%s\n%s</description>" % (
            escape("T" + NASTY.replace("\u2028", "")), escape(NASTY), "d" * 70000)
        try:
            domain = Paused(t, bench.host, "titled%d" % number, extra, serial)
        except libvirt.libvirtError as error:
            t.diag("serial %r: %s" % (serial, error))
            continue
        accepted += 1
        for _ in range(2):
            checked(t, tool.ok("backup", domain.name, "--scratch-dir", bench.scratch, "--quiesce",
                               "none"))
        for verb in ("list", "show", "verify", "doctor"):
            operand = domain.name + ("/latest" if verb == "show" else "")
            checked(t, tool.run(verb, operand, "-vvv").expect((0, 1, 3)))
            checked(t, tool.run(verb, operand, "--json").expect((0, 1, 3)))
        disks = tool.json("show", domain.name + "/latest")["disks"]
        t.equal([disk["level"] for disk in disks], ["incremental"])
        to = os.path.join(bench.host.base, "tmp", "restored-" + domain.uuid)
        checked(t, tool.ok("restore", domain.name + "/latest", "--to", to))
        t.equal(sorted(os.listdir(to))[-1], "vda.qcow2")
        process.run("rm", "-r", to)
    t.ok(accepted >= 3, "only %d serials were accepted" % accepted)


AGENT = r"""#!/bin/sh
# Answers as an agent does, with what the test wants it to say.
exec <>/dev/virtio-ports/org.qemu.guest_agent.0
while read -r line; do
    case $line in
    *guest-sync*) id=${line##*:}; id=${id#"${id%%%%[0-9]*}"}; answer=${id%%%%[!0-9]*} ;;
    *guest-ping*) answer='{}' ;;
    *guest-info*) answer='{"version": "%(text)s", "supported_commands": []}' ;;
    *get-osinfo*) answer='{"id": "%(text)s", "name": "%(text)s", "pretty-name": "%(text)s", '
        answer=$answer'"version": "%(text)s", "kernel-release": "%(text)s", "kernel-version": "%(text)s"}' ;;
    *get-host-name*) answer='{"host-name": "%(text)s"}' ;;
    *get-fsinfo*) answer='[{"name": "%(text)s", "mountpoint": "/%(text)s", "type": "%(text)s", '
        answer=$answer'"disk": []}]' ;;
    *get-users* | *get-disks* | *get-interfaces*) answer='[]' ;;
    *get-timezone*) answer='{"offset": 0, "zone": "%(text)s"}' ;;
    *fsfreeze-freeze*) answer=%(frozen)s ;;
    *fsfreeze-thaw*) answer=%(thawed)s ;;
    *fsfreeze-status*) answer='"thawed"' ;;
    *) echo '{"error": {"class": "GenericError", "desc": "%(text)s"}}' >&0; continue ;;
    esac
    printf '{"return": %%s}\n' "$answer" >&0
done
"""


def replace_agent(guest, **words):
    """The guest's agent becomes one that lies."""
    script = base64.b64encode((AGENT % words).encode()).decode()
    guest.exec("echo %s | base64 -d >/usr/bin/evil-agent && chmod 755 /usr/bin/evil-agent && "
               "mv /usr/bin/evil-agent $(command -v qemu-ga)" % script)
    try:
        guest.exec("(sleep 0.5; killall qemu-ga) >/dev/null 2>&1 &")
    except (libvirt.libvirtError, OSError):
        pass


@tap.test
def test_agent_that_lies(t):
    """Facts with escapes, counts beyond reason, very long texts."""
    bench = t.once("bench", Bench)
    guest = Guest(bench.host, name="evil", disks=[4 * MIB, 8 * MIB], mount=("vdb",), start=True)
    t.defer(guest.undefine)
    t.defer(guest.destroy)
    tool = Tool(t, repo=bench.host.directory("hostile-agent", 0o700), host=bench.host)
    tool.ok("init")
    text = "\\\\u001b[31mred\\\\u0007\\\\n\\\\u009b2J\\\\u202e../../%s%n" + "x" * 3000
    def lies():
        try:
            return "\x1b" in guest.dom.guestInfo(libvirt.VIR_DOMAIN_GUEST_INFO_HOSTNAME, 0
                                                 ).get("hostname", "")
        except libvirt.libvirtError as error:
            t.diag(str(error))
            return False
    # libvirt may lose an agent that is restarted, for good.
    for left in (2, 1, 0):
        replace_agent(guest, text=text.replace("%", "%%").replace("\\\\", "\\"), frozen="1", thawed="1")
        try:
            t.eventually(lies, 30, "the agent lies", 0.5)
            break
        except tap.Failure:
            if left == 0:
                raise
            guest.destroy()
            guest.start()
            guest.wait_ready()
            guest.wait_agent()
    words = ("backup", "evil", "--scratch-dir", bench.scratch)
    result = checked(t, tool.run(*words))
    t.diag("status %d: %s" % (result.status, result.err[:900]))
    result.expect(0)
    checked(t, tool.ok(*words, "--json", "-vvv"))
    for verb in ("list", "show", "verify", "doctor"):
        operand = "evil/latest" if verb == "show" else "evil"
        checked(t, tool.run(verb, operand).expect((0, 1, 3)))
        checked(t, tool.run(verb, operand, "--json").expect((0, 1, 3)))
    shown = tool.json("show", "evil/latest")
    t.contains(json.dumps(shown), "red")
    t.ok(not guest.job_active(), "a job")


@tap.test
def test_agent_that_counts_wrong(t):
    """A negative or absurd number of frozen file systems is no consistency."""
    bench = t.once("bench", Bench)
    guest = Guest(bench.host, name="liar", disks=[4 * MIB, 8 * MIB], mount=("vdb",), start=True)
    t.defer(guest.undefine)
    t.defer(guest.destroy)
    tool = Tool(t, repo=bench.host.directory("hostile-count", 0o700), host=bench.host)
    tool.ok("init")
    replace_agent(guest, text="x", frozen="0", thawed="-5")
    time.sleep(3)
    result = checked(t, tool.run("backup", "liar", "--scratch-dir", bench.scratch, "--json"))
    t.ok(result.status >= 0, result.describe())
    if result.json_lines[0]["point"]:
        t.equal(result.json_lines[0]["point"]["consistency"], "crash")
    t.ok(not guest.job_active(), "a job")


@tap.test
def test_secrets(t):
    """Neither passwords of the configuration nor data of the guest appear in what is printed or logged."""
    bench = t.once("bench", Bench)
    secret, data = "S3cr3tPw", "GUESTDATA"
    guest = Guest(bench.host, name="vault", disks=[4 * MIB], mount=(), start=True, extra_devices=(
        "<graphics type='vnc' port='-1' autoport='yes' passwd='%s'/>"
        "<video><model type='vga'/></video>" % secret))
    t.defer(guest.undefine)
    t.defer(guest.destroy)
    pattern = os.path.join(bench.host.base, "tmp", "pattern")
    with open(pattern, "wb") as file:
        file.write((data * 8000).encode())
    guest.exec("for i in $(seq 8000); do printf %s; done | dd of=/dev/vda bs=64k && sync" % data)
    repository = bench.host.directory("vault", 0o700)
    run_dir = bench.host.directory("vault-run", 0o711)
    log = bench.host.path("tmp", "vault-guard.log")
    tool = Tool(t, repo=repository, host=bench.host, env={
        "VMBACKUP_TEST_RUN_DIR": run_dir, "VMBACKUP_TEST_GUARD_LOG": log,
        "G_MESSAGES_DEBUG": "all", "LIBNBD_DEBUG": "0"})
    tool.ok("init")
    printed = []
    words = ("backup", "vault", "--scratch-dir", bench.scratch, "-vvv")
    go = bench.host.path("tmp", "go-vault")
    running = tool.start(*words, fail_at="disk-data=wait:" + go)
    t.eventually(lambda: os.path.exists(go + ".reached"), 60, "disk-data")
    journal = os.path.join(repository, "domains", guest.uuid, "journal")
    with open(journal, encoding="utf-8") as file:
        printed.append(file.read())
    t.equal(stat.S_IMODE(os.stat(journal).st_mode), 0o600)
    with open("/proc/%d/cmdline" % running.pid, encoding="utf-8") as file:
        printed.append(file.read())
    with open(go, "wb"):
        pass
    results = [running.wait().expect(0), tool.run(*words, fail_at="disk-data=fail").expect(1)]
    for verb in ("list", "show", "verify", "doctor"):
        operand = "vault/latest" if verb == "show" else "vault"
        results.append(tool.run(verb, operand, "-vvv").expect((0, 1, 3)))
        results.append(tool.run(verb, operand, "--json").expect((0, 1, 3)))
    to = os.path.join(bench.host.base, "tmp", "vault-restored")
    results.append(tool.ok("restore", "vault/latest", "--to", to, "--name", "vault2", "--define",
                           "-vvv"))
    bench.host.conn.lookupByName("vault2").undefineFlags(0)
    printed += [text for result in results for text in (result.out, result.err)]
    with open(log, encoding="utf-8") as file:
        printed.append(file.read())
    t.ok(any("debug" in text for text in printed), "nothing was said in debug mode")
    for text in printed:
        t.ok(secret not in text, "the password: %s" % text)
        t.ok(data not in text, "data of the guest: %s" % text)
    # It is where it belongs: in the configuration, for the owner alone.
    holders = set()
    for directory, _, names in os.walk(repository):
        for name in names:
            path = os.path.join(directory, name)
            with open(path, "rb") as file:
                if secret.encode() in file.read():
                    holders.add(name)
                    t.equal(stat.S_IMODE(os.stat(path).st_mode), 0o600, path)
    t.ok("domain.xml" in holders, "the password is not in the point")
    t.ok(holders <= {"domain.xml", "domain-live.xml"}, "the password is in %s" % holders)
    with open(os.path.join(to, "domain.xml"), encoding="utf-8") as file:
        t.contains(file.read(), secret)
    t.equal(stat.S_IMODE(os.stat(os.path.join(to, "domain.xml")).st_mode), 0o600)


if __name__ == "__main__":
    tap.main()
