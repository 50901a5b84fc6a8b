/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Domain XML as libvirt writes it, the seeds of the targets that read it. */
#include "xml-seeds.h"
#include "fuzz.h"

#define HEAD                                                                                       \
    "<domain type='kvm' id='7'><name>web01</name>"                                                 \
    "<uuid>0d1a6b4c-0000-4000-8000-00000000aa01</uuid>"

static const struct {
    const char *name, *xml;
} seeds[] = {
    {"small", HEAD "<os><type>hvm</type></os><devices/></domain>"},
    {"boot", HEAD
     "<genid>11111111-2222-4333-8444-555555555555</genid><metadata><a:x xmlns:a='urn:a'>/srv"
     "</a:x></metadata><sysinfo type='smbios'><system><entry name='uuid'>0d1a6b4c-0000-4000-8000-"
     "00000000aa01</entry></system></sysinfo><os firmware='efi'><type>hvm</type>"
     "<loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE.fd</loader>"
     "<nvram template='/usr/share/OVMF/VARS.fd'>/var/lib/libvirt/qemu/nvram/w.fd</nvram>"
     "<kernel>/boot/vmlinuz</kernel><initrd>/boot/initrd</initrd><cmdline>/x root=/dev/vda"
     "</cmdline><dtb>/boot/dtb</dtb></os><devices><emulator>/usr/bin/qemu-system-x86_64</emulator>"
     "</devices><seclabel type='dynamic' model='dac' relabel='yes'><label>+64055:+108</label>"
     "<imagelabel>+64055:+108</imagelabel></seclabel></domain>"},
    {"disks", HEAD
     "<devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/>"
     "<source file='/i/top.qcow2' index='3'/><backingStore type='file' index='4'>"
     "<format type='qcow2'/><source file='/i/mid&amp;.qcow2'/><backingStore type='block'>"
     "<format type='raw'/><source dev='/dev/vg/base'/><backingStore/></backingStore>"
     "</backingStore><target dev='vda' bus='virtio'/><serial>S-1</serial><alias name='d0'/></disk>"
     "<disk type='volume' device='disk'><source pool='p' volume='v'/><target dev='vdb'/></disk>"
     "<disk type='block' device='lun' rawio='yes'><source dev='/dev/sdx'/><target dev='sda'/>"
     "<shareable/><transient/><wwn>5000c50015ea71aa</wwn></disk>"
     "<disk type='file' device='disk'><driver type='qcow2'/><source file='/i/e'><dataStore "
     "type='file'><format type='raw'/><source file='/i/e.raw'/></dataStore><slices><slice "
     "type='storage' offset='4096' size='65536'/></slices></source><target dev='vdd'/></disk>"
     "</devices></domain>"},
    {"media", HEAD
     "<devices><disk type='file' device='cdrom'><driver name='qemu' type='raw'/>"
     "<source file='/nowhere/setup.iso' startupPolicy='optional'/><target dev='sdb' bus='sata'/>"
     "<readonly/></disk><disk type='file' device='floppy'><source/><target dev='fda'/></disk>"
     "<disk type='network' device='disk'><source protocol='rbd' name='p/i'><host name='h'/>"
     "</source><target dev='vdb'/><readonly/></disk></devices></domain>"},
    {"ports",
     HEAD "<devices><serial type='pty'><source path='/dev/pts/3'/><target port='0'/></serial>"
          "<console type='pty' tty='/dev/pts/3'><source path='/dev/pts/3'/><target type='serial'/>"
          "</console><serial type='file'><source path='/var/log/vm.log' append='on'/>"
          "<log file='/var/log/x.log'/></serial><parallel type='dev'><source path='/dev/parport0'/>"
          "</parallel><channel type='unix'><source mode='bind' path='/var/lib/libvirt/qemu/channel/"
          "target/domain-7-web01/org.qemu.guest_agent.0'/><target type='virtio' "
          "name='org.qemu.guest_agent.0' state='connected'/></channel><redirdev bus='usb' "
          "type='spicevmc'/><smartcard mode='passthrough' type='spicevmc'/></devices></domain>"},
    {"devices",
     HEAD "<devices><controller type='pci' index='0' model='pcie-root'/><interface type='network'>"
          "<mac address='52:54:00:aa:00:01'/><source network='default' portid='x' bridge='virbr0'/>"
          "<target dev='vnet5'/></interface><interface type='hostdev'><source><address type='pci'/>"
          "</source></interface><graphics type='vnc' port='5900' autoport='yes' listen='127.0.0.1'>"
          "<listen type='address' address='127.0.0.1'/></graphics><audio id='1' type='none'/>"
          "<video><driver name='qemu'/><model type='virtio'/></video><tpm model='tpm-crb'>"
          "<backend type='emulator' version='2.0'><source type='dir' path='/t'/></backend></tpm>"
          "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>"
          "<vsock model='virtio'><cid auto='no' address='5'/></vsock><hostdev mode='subsystem' "
          "type='pci'/><filesystem type='mount'><source dir='/'/></filesystem></devices></domain>"},
    {"qemu", "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>"
             "<name>x</name><devices/><qemu:commandline><qemu:arg value='-s'/>"
             "</qemu:commandline></domain>"},
    {"odd", "<?xml version='1.0'?><domain><!-- c --><name><![CDATA[a]]></name><?pi x?><devices>"
            "<disk><target dev='vda'/><source file='&#47;etc'/></disk></devices></domain>"},
    {"entity", "<!DOCTYPE domain [<!ENTITY e SYSTEM 'file:///etc/passwd'>]><domain>&e;</domain>"},
};

void
fuzz_xml_seeds(const char *first)
{
    for (gsize i = 0; i < G_N_ELEMENTS(seeds); i++) {
        g_autofree char *input = g_strconcat(first, seeds[i].xml, NULL);
        fuzz_seed(seeds[i].name, input, strlen(input));
    }
}
