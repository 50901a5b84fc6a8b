# SPDX-License-Identifier: GPL-2.0-or-later
"""Domain XML of the test guests."""

import os
import stat
from xml.sax.saxutils import quoteattr, escape

from . import image

_CODE = "/usr/share/OVMF/OVMF_CODE_4M.fd"
_VARS = "/usr/share/OVMF/OVMF_VARS_4M.fd"


def kvm():
    """True if the tests were told to use KVM."""
    return os.environ.get("VMBACKUP_TEST_KVM", "0") not in ("", "0")


class Disk:
    """One disk of a guest.

    size          bytes; None: the image at path exists, or the drive is empty
    fmt           qcow2 or raw
    target        vda, sda ...; None: the next free one of the bus
    device        disk, cdrom or floppy; the bus follows (virtio, sata, fdc) unless given (scsi)
    path          None: in the host's images directory, made from size
    options       of qemu-img create, as in {"cluster_size": 4096, "compat": "0.10"}
    driver        more attributes of <driver>, as in {"discard": "ignore", "error_policy": "report"}
    xml           more elements inside <disk>
    """

    def __init__(self, size=256 * image.MIB, fmt="qcow2", target=None, device="disk", bus=None,
                 path=None, serial=None, readonly=False, shareable=False, options=None, driver=None,
                 backing=None, xml=""):
        self.size, self.fmt, self.target, self.device = size, fmt, target, device
        self.bus = bus or {"disk": "virtio", "cdrom": "sata", "floppy": "fdc"}[device]
        self.path, self.serial = path, serial
        self.readonly, self.shareable = readonly, shareable
        self.options, self.driver = options or {}, driver or {}
        self.backing, self.xml = backing, xml

    def prepare(self, directory, stem, used):
        """Chooses target and path, makes the image. used: the set of targets taken."""
        if self.target is None:
            prefix = {"virtio": "vd", "fdc": "fd"}.get(self.bus, "sd")
            self.target = next(prefix + c for c in "abcdefghijklmnopqrstuvwxyz"
                               if prefix + c not in used)
        used.add(self.target)
        if self.path is None and self.size is not None:
            self.path = os.path.join(directory, "%s-%s.%s" % (stem, self.target, self.fmt))
            image.create(self.path, self.size, self.fmt, self.backing, **self.options)

    def is_block(self):
        """True if the path is that of a block device."""
        return bool(self.path and os.path.exists(self.path) and
                    stat.S_ISBLK(os.stat(self.path).st_mode))

    def to_xml(self):
        """Its <disk> element."""
        driver = {"name": "qemu", "type": self.fmt}
        if self.device == "disk" and not self.readonly:
            driver["discard"] = "unmap"
        driver.update(self.driver)
        attributes = " ".join("%s=%s" % (k, quoteattr(str(v))) for k, v in driver.items())
        kind, attribute = ("block", "dev") if self.is_block() else ("file", "file")
        parts = ["<disk type='%s' device=%s>" % (kind, quoteattr(self.device)),
                 "<driver %s/>" % attributes]
        if self.path is not None:
            parts.append("<source %s=%s/>" % (attribute, quoteattr(self.path)))
        parts.append("<target dev=%s bus=%s/>" % (quoteattr(self.target), quoteattr(self.bus)))
        if self.serial:
            parts.append("<serial>%s</serial>" % escape(self.serial))
        if self.readonly:
            parts.append("<readonly/>")
        if self.shareable:
            parts.append("<shareable/>")
        return "".join(parts) + self.xml + "</disk>"


def firmware(nvram):
    """Elements of <os> for UEFI with an NVRAM file of its own, or for the BIOS."""
    if not nvram:
        return ""
    return ("<loader readonly='yes' type='pflash'>%s</loader><nvram template=%s>%s</nvram>" %
            (_CODE, quoteattr(_VARS), escape(nvram)))


def devices(guest):
    """Elements of <devices> apart from the disks."""
    parts = ["<emulator>/usr/bin/qemu-system-x86_64</emulator>"]
    # Ports for disks that are attached later.
    parts += ["<controller type='pci' model='pcie-root'/>"]
    parts += ["<controller type='pci' model='pcie-root-port'/>"] * 12
    parts.append("<controller type='scsi' model='virtio-scsi'/>")
    parts += ["<controller type='usb' model='none'/>", "<memballoon model='none'/>"]
    parts.append("<serial type='file'><source path=%s/><target port='0'/></serial>" %
                 quoteattr(guest.serial_log))
    if guest.channel:
        parts.append("<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/>"
                     "</channel>")
    if guest.tpm:
        parts.append("<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>")
    parts += ["<interface type='user'><model type='virtio'/></interface>"] * guest.interfaces
    return "".join(parts) + guest.extra_devices


def domain(guest):
    """The whole <domain>."""
    cpu = "host-passthrough" if kvm() else "maximum"
    return """<domain type='%(type)s'>
<name>%(name)s</name><uuid>%(uuid)s</uuid>
<memory unit='MiB'>%(memory)d</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type>%(firmware)s
<kernel>%(kernel)s</kernel><initrd>%(initrd)s</initrd><cmdline>%(cmdline)s</cmdline></os>
<features><acpi/></features><cpu mode='%(cpu)s'/>
<on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>destroy</on_crash>
%(extra)s<devices>%(devices)s%(disks)s</devices></domain>""" % {
        "type": "kvm" if kvm() else "qemu", "name": escape(guest.name), "uuid": guest.uuid,
        "memory": guest.memory, "firmware": firmware(guest.nvram), "cpu": cpu,
        "kernel": guest.host.kernel, "initrd": guest.host.initrd, "cmdline": escape(guest.cmdline),
        "extra": guest.extra_xml, "devices": devices(guest),
        "disks": "".join(disk.to_xml() for disk in guest.disks)}
