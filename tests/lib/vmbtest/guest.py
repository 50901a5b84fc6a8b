# SPDX-License-Identifier: GPL-2.0-or-later
"""A small virtual machine in a private libvirt, with what tests ask of it."""

import base64
import json
import os
import re
import time
import uuid
import xml.etree.ElementTree as ElementTree

try:
    import libvirt
    import libvirt_qemu
except ImportError:
    libvirt = None

from . import domain_xml, image, process, tap
from .domain_xml import Disk

__all__ = ["Guest", "Disk", "check_images"]

BASE_CMDLINE = "console=ttyS0 quiet panic=1 mitigations=off nokaslr"


class GuestError(Exception):
    """The guest did not do what the test relies on."""


def _wait(predicate, timeout, message, interval=0.05):
    deadline = time.monotonic() + timeout
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            raise GuestError("%s: not within %s s" % (message, timeout))
        time.sleep(interval)


class Guest:
    """A domain, defined but not started (start=True: started and waited for).

    host         PrivateLibvirt
    disks        list of Disk or of sizes in bytes; default: two qcow2 of 256 and 128 MiB
    mount        targets that the guest formats (if blank) and mounts at /mnt/TARGET; default: all
                 writable virtio disks; () for none
    writer       True: the guest writes all the time; writer_rate in KiB/s (default 512)
    agent        False: the guest does not run the agent; channel=False: it has no port for it
    transient    not defined but created
    nvram, tpm   True: UEFI with NVRAM file / software TPM
    check        True: boots into check mode (see check_images)
    extra_xml, extra_devices  elements inside <domain> / <devices>
    cmdline      words added to the kernel command line

    Attributes: name, uuid, dom (virDomain, looked up anew after a reconnect), disks, serial_log.
    """

    def __init__(self, host, name="web01", disks=None, mount=None, writer=False, writer_rate=None,
                 agent=True, channel=True, transient=False, nvram=False, tpm=False, interfaces=0,
                 memory=160, check=False, cmdline="", extra_xml="", extra_devices="",
                 uuid_=None, start=False):
        self.host, self.name = host, name
        self.uuid = uuid_ or str(uuid.uuid4())
        self.memory, self.interfaces, self.tpm = memory, interfaces, tpm
        self.channel, self.transient = channel, transient
        self.extra_xml, self.extra_devices = extra_xml, extra_devices
        self.serial_log = host.path("serial", "%s-%s.log" % (name, self.uuid[:8]))
        self.nvram = os.path.join(host.nvram, name + "_VARS.fd") if nvram else None
        disks = [256 * image.MIB, 128 * image.MIB] if disks is None else disks
        self.disks = [d if isinstance(d, Disk) else Disk(size=d) for d in disks]
        used = {d.target for d in self.disks if d.target}
        for disk in self.disks:
            disk.prepare(host.images, name, used)
        self.scsi = any(d.bus == "scsi" for d in self.disks)
        words = {"mount": ",".join(self._mountable() if mount is None else mount),
                 "writer": int(bool(writer)), "writer_rate": writer_rate, "noagent": int(not agent),
                 "check": int(bool(check)), "scsi": int(self.scsi)}
        self.cmdline = " ".join([BASE_CMDLINE] + ["vmb.%s=%s" % item for item in words.items()
                                                  if item[1]] + ([cmdline] if cmdline else []))
        if not transient:
            host.conn.defineXML(self.xml())
        if start:
            self.start()
            if agent and channel:
                self.wait_agent()
            else:
                self.wait_ready()

    def _mountable(self):
        return [d.target for d in self.disks
                if d.device == "disk" and d.bus == "virtio" and not d.readonly]

    @classmethod
    def existing(cls, host, name):
        """A Guest for a domain that something else defined, say a restore."""
        guest = cls.__new__(cls)
        guest.host, guest.name = host, name
        dom = host.conn.lookupByName(name)
        guest.uuid, guest.transient = dom.UUIDString(), not dom.isPersistent()
        root = ElementTree.fromstring(dom.XMLDesc(0))
        source = root.find("./devices/serial/source")
        guest.serial_log = source.get("path") if source is not None else None
        guest.cmdline = root.findtext("./os/cmdline") or ""
        guest.disks = []
        for element in root.iterfind("./devices/disk"):
            file = element.find("source")
            guest.disks.append(Disk(
                size=None, fmt=element.find("driver").get("type"), path=file.get("file") if
                file is not None else None, target=element.find("target").get("dev"),
                device=element.get("device"), bus=element.find("target").get("bus")))
        return guest

    def xml(self):
        """The domain XML that the test defines."""
        return domain_xml.domain(self)

    @property
    def dom(self):
        """The virDomain, on the host's present connection."""
        return self.host.conn.lookupByUUIDString(self.uuid)

    # Life

    def start(self, paused=False):
        """Starts the domain; the serial log begins anew."""
        if self.serial_log and os.path.exists(self.serial_log):
            os.unlink(self.serial_log)
        flags = libvirt.VIR_DOMAIN_START_PAUSED if paused else 0
        if self.transient:
            self.host.conn.createXML(self.xml(), flags)
        else:
            self.dom.createWithFlags(flags)
        return self

    def wait_ready(self, timeout=60):
        """Waits until the guest says that its disks are mounted."""
        _wait(lambda: "VMB-READY" in self.console(), timeout, "guest boot (console: %s)"
              % self.serial_log)
        return self

    def wait_agent(self, timeout=60):
        """Waits until the guest has booted and its agent answers."""
        self.wait_ready(timeout)
        _wait(self._agent_answers, timeout, "guest agent")
        return self

    def _agent_answers(self):
        try:
            return self.agent({"execute": "guest-ping"}, 2) is not None
        except libvirt.libvirtError:
            return False

    def suspend(self):
        """Pauses the processors."""
        self.dom.suspend()

    def resume(self):
        """Lets them run; not being suspended is no error."""
        if not self.is_running():
            self.dom.resume()

    def state(self):
        """(state, reason) as libvirt numbers."""
        return tuple(self.dom.state())

    def is_running(self):
        """True if it runs and is not paused."""
        return self.state()[0] == libvirt.VIR_DOMAIN_RUNNING

    def is_active(self):
        """True if there is a QEMU."""
        try:
            return bool(self.dom.isActive())
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return False
            raise

    def destroy(self):
        """Pulls the plug; a domain that is off is no error."""
        if self.is_active():
            self.dom.destroy()
            self.wait_off(20)

    def shutdown(self, timeout=30, mode="acpi"):
        """Shuts down by power button (acpi) or agent, and waits."""
        self.dom.shutdownFlags({"acpi": libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN,
                                "agent": libvirt.VIR_DOMAIN_SHUTDOWN_GUEST_AGENT}[mode])
        self.wait_off(timeout)

    def wait_off(self, timeout=30):
        """Waits until libvirt, too, knows that it is off."""
        def off():
            try:
                return not self.dom.isActive() and self.state()[0] == libvirt.VIR_DOMAIN_SHUTOFF
            except libvirt.libvirtError as error:
                if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                    return True
                raise
        _wait(off, timeout, "domain %s off" % self.name)

    def kill_qemu(self):
        """SIGKILL to QEMU: what a crash or the OOM killer does."""
        pid = self.qemu_pid
        process.kill(pid)
        process.wait_gone([pid], 10)
        self.wait_off(20)

    @property
    def qemu_pid(self):
        """Process number of QEMU."""
        return self.host.qemu_pid(self.dom.name())

    def undefine(self):
        """Removes the definition, libvirt's checkpoint records and NVRAM too; the disks stay."""
        flags = libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
        flags |= libvirt.VIR_DOMAIN_UNDEFINE_NVRAM | libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
        self.dom.undefineFlags(flags)

    def set_cmdline(self, **words):
        """Redefines an inactive domain with vmb.WORD=VALUE replaced (None: removed)."""
        kept = [w for w in self.cmdline.split()
                if not any(w.startswith("vmb.%s=" % name) for name in words)]
        self.cmdline = " ".join(kept + ["vmb.%s=%s" % item for item in words.items()
                                        if item[1] is not None])
        root = ElementTree.fromstring(self.dom.XMLDesc(
            libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE))
        root.find("./os/cmdline").text = self.cmdline
        self.host.conn.defineXML(ElementTree.tostring(root, encoding="unicode"))

    # Inside the guest

    def console(self):
        """All that the guest wrote to its serial console since its start."""
        try:
            with open(self.serial_log, encoding="utf-8", errors="backslashreplace") as file:
                return file.read().replace("\r", "")
        except FileNotFoundError:
            return ""

    def agent(self, command, timeout=10):
        """Sends a dict to the agent; returns its answer's 'return'. Raises libvirtError."""
        text = libvirt_qemu.qemuAgentCommand(self.dom, json.dumps(command), timeout, 0)
        return json.loads(text)["return"]

    def exec(self, command, timeout=60, check=True):
        """Runs a shell command in the guest; returns its output (check: raises unless status 0)."""
        pid = self.agent({"execute": "guest-exec", "arguments": {
            "path": "/bin/sh", "arg": ["-c", command], "capture-output": True}})["pid"]

        def status():
            answer = self.agent({"execute": "guest-exec-status", "arguments": {"pid": pid}})
            return answer if answer["exited"] else None
        answer = _wait(status, timeout, "command in the guest: " + command, 0.02)
        output = [base64.b64decode(answer.get(key, "")).decode(errors="backslashreplace")
                  for key in ("out-data", "err-data")]
        if check and answer.get("exitcode") != 0:
            raise GuestError("in the guest: %s: status %s\n%s%s" % (
                command, answer.get("exitcode"), *output))
        return output[0]

    def freeze_status(self):
        """'thawed' or 'frozen', by the agent."""
        return self.agent({"execute": "guest-fsfreeze-status"})

    def freeze(self):
        """Freezes all file systems; returns their number."""
        return self.dom.fsFreeze()

    def thaw(self):
        """Thaws them; returns their number."""
        return self.dom.fsThaw()

    def hang_agent(self, seconds=0, delay=0.3):
        """Stops the agent after delay, for so many seconds or (0) for good; waits until then."""
        seen = self.console().count("VMB-AGENT stopped")
        self.exec("hang-agent %s %s" % (delay, seconds))
        _wait(lambda: self.console().count("VMB-AGENT stopped") > seen, delay + 20, "agent stopped")

    def counter(self):
        """The writer's last finished tick, read from the console: works without the agent."""
        ticks = re.findall(r"^VMB-WRITER (\d+)$", self.console(), re.MULTILINE)
        return int(ticks[-1]) if ticks else 0

    def is_writing(self, seconds=3):
        """True as soon as the writer's counter moves; False if it does not for so many seconds."""
        before, deadline = self.counter(), time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.counter() != before:
                return True
            time.sleep(0.05)
        return False

    # Disks

    def disk_path(self, target):
        """The image that the domain uses now (the top of its chain)."""
        root = ElementTree.fromstring(self.dom.XMLDesc(0))
        return self._disk_element(root, target).find("source").get("file")

    def disk_format(self, target):
        """qcow2 or raw."""
        root = ElementTree.fromstring(self.dom.XMLDesc(0))
        return self._disk_element(root, target).find("driver").get("type")

    @staticmethod
    def _disk_element(root, target):
        for element in root.iterfind("./devices/disk"):
            if element.find("target").get("dev") == target:
                return element
        raise GuestError("no disk %s" % target)

    def qemu_io(self, target, command):
        """Runs a qemu-io command on the disk's own device, best while the domain is suspended.

        As in 'write -P 0xaa 1M 64k', 'write -z -u 0 1M', 'discard 0 1M', 'read -P 0 0 4k'; and
        'flush', before which others that open the image may not see it. Raises GuestError.
        """
        root = ElementTree.fromstring(self.dom.XMLDesc(0))
        element = self._disk_element(root, target)
        device = "/machine/peripheral/" + element.find("alias").get("name")
        if element.find("target").get("bus") == "virtio":
            device += "/virtio-backend"
        with open(self.host.qemu_log(self.dom.name()), "rb") as log:
            log.seek(0, os.SEEK_END)
            answer = libvirt_qemu.qemuMonitorCommand(
                self.dom, 'qemu-io -d %s "%s"' % (device, command),
                libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP)
            # The monitor says only whether there is such a device; the rest is QEMU's own output.
            lines = (answer + log.read().decode(errors="backslashreplace")).splitlines()
        text = "\n".join(line for line in lines if not re.match(r"\d{4}-\d\d-\d\dT?[ \d]", line))
        done = re.search(r"(\d+)/(\d+) bytes at offset", text)
        quiet = command.split()[0] == "flush"
        if (done and done.group(1) != done.group(2)) or (not done and not quiet) or re.search(
                r"failed|error|verification|not found|invalid", text, re.IGNORECASE):
            raise GuestError("qemu-io %s: %s" % (command, text.strip() or "no answer"))
        return text

    def qmp(self, command, **arguments):
        """What a command of QEMU's monitor returns; underscores of arguments' names are hyphens."""
        request = {"execute": command,
                   "arguments": {key.replace("_", "-"): arguments[key] for key in arguments}}
        answer = json.loads(libvirt_qemu.qemuMonitorCommand(self.dom, json.dumps(request), 0))
        if "return" not in answer:
            raise GuestError("%s: %s" % (command, answer))
        return answer["return"]

    def apply(self, target, operations, model=None):
        """Does random_operations() to a disk, and to its image.Model."""
        for operation in operations:
            self.qemu_io(target, image.qemu_io_command(operation))
            if model is not None:
                model.apply(operation)
        self.qemu_io(target, "flush")

    def disk_raw(self, target, path):
        """Copies what the guest (suspended or inactive) sees to a raw file. Returns path."""
        active = self.is_active()
        if active:
            # QEMU keeps new cluster tables in memory until then.
            self.qemu_io(target, "flush")
        return image.convert(self.disk_path(target), path, self.disk_format(target), "raw",
                             force_share=active)

    def disk_sha256(self, target):
        """SHA-256 of what the guest sees: a suspended or inactive domain."""
        path = self.host.path("tmp", "content-%s-%s.raw" % (self.uuid, target))
        try:
            return image.sha256(self.disk_raw(target, path))
        finally:
            if os.path.exists(path):
                os.unlink(path)

    def attach_disk(self, disk, config=True):
        """Attaches a Disk (config: also for the next start); returns its target."""
        root = ElementTree.fromstring(self.dom.XMLDesc(0))
        used = {e.find("target").get("dev") for e in root.iterfind("./devices/disk")}
        disk.prepare(self.host.images, self.name, used)
        self.dom.attachDeviceFlags(disk.to_xml(), self._affect(config))
        self.disks.append(disk)
        return disk.target

    def detach_disk(self, target, timeout=30, config=True):
        """Detaches a disk; returns the Disk, which attach_disk() takes again.

        For virtio the guest has to agree: it must have booted, run, and not have it mounted. A disk
        with bus='scsi' goes at once, also from a suspended guest or one that never ran.
        """
        root = ElementTree.fromstring(self.dom.XMLDesc(0))
        element = self._disk_element(root, target)
        self.dom.detachDeviceFlags(ElementTree.tostring(element, encoding="unicode"),
                                   self._affect(config))

        def gone():
            live = ElementTree.fromstring(self.dom.XMLDesc(0))
            return all(e.find("target").get("dev") != target
                       for e in live.iterfind("./devices/disk"))
        _wait(gone, timeout, "detaching " + target)
        found = [d for d in self.disks if d.target == target]
        self.disks = [d for d in self.disks if d.target != target]
        return found[0] if found else None

    def _affect(self, config):
        flags = libvirt.VIR_DOMAIN_AFFECT_LIVE if self.is_active() else 0
        if not self.transient and (config or not flags):
            flags |= libvirt.VIR_DOMAIN_AFFECT_CONFIG
        return flags

    def block_resize(self, target, size):
        """Changes a live disk's size, in bytes."""
        self.dom.blockResize(target, size, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)

    # Health

    def checkpoints(self):
        """Names of libvirt's checkpoints, sorted."""
        return sorted(c.getName() for c in self.dom.listAllCheckpoints(0))

    def bitmaps(self, target):
        """Names of the bitmaps that QEMU has for a live disk, sorted."""
        path = os.path.realpath(self.disk_path(target))
        names = set()
        for node in self.qmp("query-named-block-nodes", flat=True):
            if os.path.realpath(node.get("file", "")) == path:
                names.update(b["name"] for b in node.get("dirty-bitmaps", []) if b.get("name"))
        return sorted(names)

    def job_active(self):
        """True if libvirt runs a job on the domain."""
        return self.dom.jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE

    def assert_healthy(self, checkpoints=None, clean=(), agent=True):
        """Raises tap.Failure unless it runs, is thawed, its agent answers, and no job is left.

        checkpoints: the exact names there must be; or an int: their number
        clean: directories in which there must be nothing
        """
        def demand(condition, message):
            if not condition:
                raise tap.Failure("%s: %s" % (self.name, message))
        demand(self.is_running(), "is in state %s, not running" % (self.state(),))
        demand(not self.job_active(), "has a job")
        if agent:
            demand(self._agent_answers(), "agent does not answer")
            demand(self.freeze_status() == "thawed", "is frozen")
        if isinstance(checkpoints, int):
            demand(len(self.checkpoints()) == checkpoints,
                   "has checkpoints %s" % self.checkpoints())
        elif checkpoints is not None:
            demand(self.checkpoints() == sorted(checkpoints),
                   "has checkpoints %s" % self.checkpoints())
        for directory in clean:
            left = [os.path.join(d, n) for d, ds, ns in os.walk(directory) for n in ds + ns]
            demand(not left, "left behind: %s" % left)


def parse_check(text):
    """What check mode wrote: {target: {counter, fsck, digest, ..., file: {path: sha256}}}."""
    if not re.search(r"^VMB-CHECK-END 0$", text, re.MULTILINE):
        raise GuestError("check mode did not end well:\n" + text[-3000:])
    disks = {}
    for target, key, value in re.findall(r"^VMB-CHECK (\S+) (\S+) (\S+)$", text, re.MULTILINE):
        facts = disks.setdefault(target, {"file": {}})
        facts[key] = int(value) if value.isdigit() and key != "digest" else value
    for target, digest, path in re.findall(r"^VMB-FILE (\S+) (\S+) (.*)$", text, re.MULTILINE):
        disks[target]["file"][path] = digest
    return disks


def check_images(host, images, fmt="qcow2", timeout=120):
    """Boots the guest from images ({'vda': path, ...}) in check mode, without libvirt.

    The images are not changed; they become vda, vdb ... in the order of their names.
    Returns, by the name given:
    filesystem, needs_recovery (0 if it was frozen), fsck (status), counter, sums_good, sums_bad,
    files, digest (over all files), file {path: sha256}.
    """
    names = sorted(images)
    letters = {name: "vd" + "abcdefghijklmnopqrstuvwxyz"[i] for i, name in enumerate(names)}
    argv = ["qemu-system-x86_64", "-M", "q35", "-m", "192", "-nodefaults", "-display", "none",
            "-no-reboot", "-serial", "stdio", "-kernel", host.kernel, "-initrd", host.initrd]
    kind = ("kvm", "host") if domain_xml.kvm() else ("tcg", "max")
    argv += ["-accel", kind[0], "-cpu", kind[1]]
    argv += ["-append", "%s vmb.check=1 vmb.mount=%s" % (
        BASE_CMDLINE, ",".join(letters[name] for name in names))]
    for name in names:
        argv += ["-drive", "if=virtio,snapshot=on,format=%s,file=%s" % (
            fmt, images[name].replace(",", ",,"))]
    facts = parse_check(process.run(*argv, timeout=timeout).replace("\r", ""))
    return {name: facts[letters[name]] for name in names}
