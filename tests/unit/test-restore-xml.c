/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Rewriting of stored domain XML: fits the restored files, and lets nothing dangerous through. */
#include "virt/restore-xml.h"
#include "util/error.h"

#include <glib/gstdio.h>
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>
#include <string.h>

static const char full_xml[] =
    "<domain type='kvm' id='7'>\n"
    "  <name>web01</name>\n"
    "  <uuid>0d1a6b4c-0000-4000-8000-00000000aa01</uuid>\n"
    "  <genid>11111111-2222-4333-8444-555555555555</genid>\n"
    "  <title>/not/a/path but a title</title>\n"
    "  <description>two &amp; more\n  lines</description>\n"
    "  <metadata><app:x xmlns:app='http://example.org/app'><app:y dir='/srv'/>a <b/>c"
    "</app:x></metadata>\n"
    "  <memory unit='KiB'>1048576</memory>\n"
    "  <vcpu placement='static'>2</vcpu>\n"
    "  <resource><partition>/machine</partition></resource>\n"
    "  <sysinfo type='smbios'><system><entry name='manufacturer'>/ACME</entry>"
    "<entry name='uuid'>0d1a6b4c-0000-4000-8000-00000000aa01</entry></system></sysinfo>\n"
    "  <os>\n"
    "    <type arch='x86_64' machine='pc-q35-7.2'>hvm</type>\n"
    "    <loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader>\n"
    "    <nvram template='/usr/share/OVMF/OVMF_VARS_4M.fd'>"
    "/var/lib/libvirt/qemu/nvram/web01_VARS.fd</nvram>\n"
    "    <kernel>/boot/vmlinuz</kernel><initrd>/boot/initrd.img</initrd>\n"
    "    <cmdline>/sbin/quiet root=/dev/vda</cmdline>\n"
    "    <smbios mode='sysinfo'/>\n"
    "  </os>\n"
    "  <features><acpi/><apic/></features>\n"
    "  <on_crash>restart</on_crash>\n"
    "  <devices>\n"
    "    <emulator>/usr/bin/qemu-system-x86_64</emulator>\n"
    "    <disk type='file' device='disk' snapshot='external'>\n"
    "      <driver name='qemu' type='qcow2' cache='none' io='native' discard='unmap'>"
    "<metadata_cache><max_size unit='bytes'>1048576</max_size></metadata_cache></driver>\n"
    "      <source file='/var/lib/libvirt/images/web01.qcow2' index='3'>"
    "<slices><slice type='storage' offset='0' size='65536'/></slices></source>\n"
    "      <backingStore type='file'><format type='raw'/><source "
    "file='/base.raw'/></backingStore>\n"
    "      <mirror type='file' job='copy'><format type='raw'/><source file='/m.raw'/></mirror>\n"
    "      <target dev='vda' bus='virtio'/>\n"
    "      <serial>ROOT 1</serial>\n"
    "      <boot order='1'/>\n"
    "      <alias name='virtio-disk0'/>\n"
    "      <address type='pci' domain='0x0000' bus='0x04' slot='0x00' function='0x0'/>\n"
    "    </disk>\n"
    "    <disk type='volume' device='disk'>\n"
    "      <driver name='qemu' type='raw'/>\n"
    "      <source pool='default' volume='data'/>\n"
    "      <encryption format='luks'><secret type='passphrase' "
    "uuid='0d1a6b4c-0000-4000-8000-00000000aa02'/></encryption>\n"
    "      <target dev='vdb' bus='virtio'/>\n"
    "      <alias name='ua-data'/>\n"
    "    </disk>\n"
    "    <disk type='block' device='lun' rawio='yes' sgio='unfiltered'>\n"
    "      <source dev='/dev/mapper/lun'><reservations managed='yes'/></source>\n"
    "      <target dev='sdb' bus='scsi'/>\n"
    "    </disk>\n"
    "    <disk type='file' device='cdrom'>\n"
    "      <driver name='qemu' type='raw'/>\n"
    "      <source file='/nowhere/setup.iso' index='1'/>\n"
    "      <target dev='sda' bus='sata' tray='open'/><readonly/>\n"
    "    </disk>\n"
    "    <controller type='pci' index='0' model='pcie-root'><alias name='pcie.0'/></controller>\n"
    "    <interface type='network'>\n"
    "      <mac address='52:54:00:aa:00:01'/>\n"
    "      <source network='default' portid='0d1a6b4c-0000-4000-8000-00000000aa03' "
    "bridge='virbr0'/>\n"
    "      <target dev='vnet5'/><model type='virtio'/><alias name='net0'/>\n"
    "    </interface>\n"
    "    <interface type='bridge'>\n"
    "      <mac address='00:16:3e:aa:00:02'/><source bridge='br0'/>"
    "<target dev='web-lan'/><model type='virtio'/>\n"
    "    </interface>\n"
    "    <serial type='pty'><source path='/dev/pts/3'/><target port='0'/></serial>\n"
    "    <console type='pty' tty='/dev/pts/3'><source path='/dev/pts/3'/>"
    "<target type='serial' port='0'/></console>\n"
    "    <channel type='unix'><source mode='bind' path='/var/lib/libvirt/qemu/channel/target/"
    "domain-7-web01/org.qemu.guest_agent.0'/><target type='virtio' "
    "name='org.qemu.guest_agent.0' state='connected'/></channel>\n"
    "    <input type='tablet' bus='usb'/>\n"
    "    <tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>\n"
    "    <graphics type='vnc' port='5900' autoport='yes' listen='127.0.0.1'>"
    "<listen type='address' address='127.0.0.1'/></graphics>\n"
    "    <audio id='1' type='none'/>\n"
    "    <video><model type='virtio' heads='1' primary='yes'/></video>\n"
    "    <memballoon model='virtio'/>\n"
    "    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>\n"
    "    <vsock model='virtio'><cid auto='no' address='5'/></vsock>\n"
    "  </devices>\n"
    "  <seclabel type='dynamic' model='dac' relabel='yes'><label>+64055:+64055</label>"
    "<imagelabel>+64055:+64055</imagelabel></seclabel>\n"
    "</domain>\n";

static const VmbRestoreXmlDisk three_disks[] = {
    {"vda", "/restore/a & b/vda.raw", "raw"},
    {"vdb", "/restore/vdb.qcow2", "qcow2"},
    {"sdb", "/restore/sdb.qcow2", "qcow2"},
};

static VmbRestoreXmlOptions
plain_options(void)
{
    VmbRestoreXmlOptions options = {.disks = three_disks,
                                    .n_disks = G_N_ELEMENTS(three_disks),
                                    .nvram = "/restore/nvram.fd",
                                    .kernel = "/restore/kernel",
                                    .initrd = "/restore/initrd"};
    return options;
}

static char *
rewrite(const char *xml, const VmbRestoreXmlOptions *options)
{
    g_autoptr(GError) error = NULL;
    char *result = vmb_restore_xml(xml, options, &error);
    g_assert_no_error(error);
    g_assert_nonnull(result);
    return result;
}

static void
assert_has(const char *text, const char *part)
{
    if (strstr(text, part) == NULL)
        g_error("'%s' is missing in:\n%s", part, text);
}

static void
assert_lacks(const char *text, const char *part)
{
    if (strstr(text, part) != NULL)
        g_error("'%s' is still in:\n%s", part, text);
}

static void
test_disks(void)
{
    VmbRestoreXmlOptions options = plain_options();
    g_autofree char *xml = rewrite(full_xml, &options);
    static const char *const kept[] = {"<source file=\"/restore/a &amp; b/vda.raw\"/>",
                                       "type=\"raw\"",
                                       "cache=\"none\"",
                                       "<source file=\"/restore/vdb.qcow2\"/>",
                                       "<source file=\"/restore/sdb.qcow2\"/>",
                                       "<serial>ROOT 1</serial>",
                                       "<boot order=\"1\"/>",
                                       "snapshot=\"external\"",
                                       "ua-data",
                                       "slot=\"0x00\"",
                                       "<target dev=\"sda\" bus=\"sata\""};
    static const char *const gone[] = {"/var/lib/libvirt/images",
                                       "slice",
                                       "backingStore",
                                       "mirror",
                                       "metadata_cache",
                                       "encryption",
                                       "type=\"volume\"",
                                       "device=\"lun\"",
                                       "rawio",
                                       "sgio",
                                       "reservations",
                                       "/nowhere",
                                       "index=\"3\"",
                                       "virtio-disk0"};
    for (gsize i = 0; i < G_N_ELEMENTS(kept); i++)
        assert_has(xml, kept[i]);
    for (gsize i = 0; i < G_N_ELEMENTS(gone); i++)
        assert_lacks(xml, gone[i]);
}

static void
test_live_parts(void)
{
    VmbRestoreXmlOptions options = plain_options();
    g_autofree char *xml = rewrite(full_xml, &options);
    static const char *const gone[] = {
        "id=\"7\"", "/dev/pts", "tty=", "portid",     "virbr0", "vnet5",
        "domain-7", "state=",   "5900", "imagelabel", "pcie.0", "net0"};
    static const char *const kept[] = {
        "web-lan",           "br0",
        "mode=\"bind\"",     "partition",
        "52:54:00:aa:00:01", "00:16:3e:aa:00:02",
        "address=\"5\"",     "<app:x xmlns:app=\"http://example.org/app\"",
        "a <b/>c</app:x>",   "two &amp; more\n  lines"};
    for (gsize i = 0; i < G_N_ELEMENTS(gone); i++)
        assert_lacks(xml, gone[i]);
    for (gsize i = 0; i < G_N_ELEMENTS(kept); i++)
        assert_has(xml, kept[i]);
}

static void
test_boot_files(void)
{
    VmbRestoreXmlOptions options = plain_options();
    g_autofree char *xml = rewrite(full_xml, &options);
    assert_has(xml,
               "<nvram template=\"/usr/share/OVMF/OVMF_VARS_4M.fd\">/restore/nvram.fd</nvram>");
    assert_has(xml, "<kernel>/restore/kernel</kernel>");
    assert_has(xml, "<initrd>/restore/initrd</initrd>");
    /* Not in the point: the stored path is one of libvirt's own, unless the domain is another. */
    options.nvram = NULL;
    g_autofree char *same = rewrite(full_xml, &options);
    assert_has(same, "web01_VARS.fd");
    options.name = "web02";
    g_autofree char *other = rewrite(full_xml, &options);
    assert_lacks(other, "web01_VARS.fd");
    assert_has(other, "OVMF_VARS_4M.fd");
    /* A kernel that is not in the point would be a file of this host. */
    options.kernel = NULL;
    g_autoptr(GError) error = NULL;
    g_assert_null(vmb_restore_xml(full_xml, &options, &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_FAILED);
    assert_has(error->message, "--allow 'kernel:/boot/vmlinuz'");
}

static char *
between(const char *text, const char *start, const char *end)
{
    const char *from = strstr(text, start);
    g_assert_nonnull(from);
    from += strlen(start);
    const char *to = strstr(from, end);
    g_assert_nonnull(to);
    return g_strndup(from, (gsize)(to - from));
}

static void
test_identity(void)
{
    VmbRestoreXmlOptions options = plain_options();
    options.name = "web & 02";
    options.new_identity = TRUE;
    g_autofree char *xml = rewrite(full_xml, &options);
    assert_has(xml, "<name>web &amp; 02</name>");
    assert_lacks(xml, "0d1a6b4c-0000-4000-8000-00000000aa01");
    assert_lacks(xml, "52:54:00:aa:00:01");
    assert_lacks(xml, "00:16:3e:aa:00:02");
    assert_lacks(xml, "address=\"5\"");
    assert_lacks(xml, "11111111-2222");
    g_autofree char *uuid = between(xml, "<uuid>", "</uuid>");
    g_autofree char *smbios = between(xml, "<entry name=\"uuid\">", "</entry>");
    g_assert_true(g_uuid_string_is_valid(uuid));
    g_assert_cmpstr(uuid, ==, smbios);
    g_autofree char *mac = between(xml, "<mac address=\"", "\"");
    g_assert_true(g_regex_match_simple("^52:54:00(:[0-9a-f]{2}){3}$", mac, 0, 0));
    options.keep_uuid = options.keep_macs = TRUE;
    g_autofree char *kept = rewrite(full_xml, &options);
    assert_has(kept, "<uuid>0d1a6b4c-0000-4000-8000-00000000aa01</uuid>");
    assert_has(kept, "52:54:00:aa:00:01");
}

static void
test_macs_are_unique(void)
{
    g_autoptr(GString) xml = g_string_new("<domain type='qemu'><name>n</name><devices>");
    for (int i = 0; i < 300; i++)
        g_string_append_printf(xml,
                               "<interface type='user'><mac address='52:54:00:00:%02x:%02x'/>"
                               "</interface>",
                               i / 256, i % 256);
    g_string_append(xml, "<interface type='user'><mac address='52:54:00:00:00:07'/></interface>"
                         "</devices></domain>");
    VmbRestoreXmlOptions options = {.new_identity = TRUE};
    g_autofree char *result = rewrite(xml->str, &options);
    g_autoptr(GHashTable) seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    guint n = 0;
    for (const char *p = result; (p = strstr(p, "<mac address=\"")) != NULL; p++, n++)
        g_hash_table_add(seen, between(p, "\"", "\""));
    g_assert_cmpuint(n, ==, 301);
    /* The last one shared its address with the eighth, as failover pairs do. */
    g_assert_cmpuint(g_hash_table_size(seen), ==, 300);
}

static void
test_idempotent(void)
{
    VmbRestoreXmlOptions options = plain_options();
    g_autofree char *once = rewrite(full_xml, &options);
    g_autofree char *twice = rewrite(once, &options);
    g_autofree char *genid_once = between(once, "<genid>", "</genid>");
    g_autofree char *genid_twice = between(twice, "<genid>", "</genid>");
    g_assert_cmpstr(genid_once, !=, genid_twice);
    memcpy(strstr(twice, genid_twice), genid_once, strlen(genid_once));
    g_assert_cmpstr(once, ==, twice);
}

static void
test_left_out(void)
{
    static const VmbRestoreXmlDisk disks[] = {
        {"vda", NULL, NULL}, {"vdb", "/restore/vdb.qcow2", "qcow2"}, {"sdb", NULL, NULL}};
    VmbRestoreXmlOptions options = plain_options();
    options.disks = disks;
    g_autofree char *xml = rewrite(full_xml, &options);
    assert_lacks(xml, "dev=\"vda\"");
    assert_lacks(xml, "dev=\"sdb\"");
    assert_has(xml, "dev=\"vdb\"");
    /* A writable disk that nobody restored would be the original. */
    options.n_disks = 2;
    g_autofree char *unnamed = rewrite(full_xml, &options);
    assert_lacks(unnamed, "dev=\"sdb\"");
    static const char *const allow[] = {"disk:sdb", NULL};
    options.allow = allow;
    g_autofree char *original = rewrite(full_xml, &options);
    assert_has(original, "<source dev=\"/dev/mapper/lun\"");
}

static char *
with_cdrom(const char *path, const char *kind)
{
    return g_strdup_printf("<domain type='qemu'><name>n</name><devices><disk type='file' %s>"
                           "<source file='%s'/><target dev='sda' bus='sata'/><readonly/></disk>"
                           "</devices></domain>",
                           kind, path);
}

static void
test_media(void)
{
    g_autofree char *dir = g_dir_make_tmp("vmbackup-test-XXXXXX", NULL);
    g_autofree char *iso = g_build_filename(dir, "tools.iso", NULL);
    g_autofree char *other = g_build_filename(dir, "secret.key", NULL);
    g_assert_true(g_file_set_contents(iso, "x", 1, NULL));
    g_assert_true(g_file_set_contents(other, "x", 1, NULL));
    VmbRestoreXmlOptions options = {0};
    g_autofree char *here = with_cdrom(iso, "device='cdrom'");
    g_autofree char *kept = rewrite(here, &options);
    assert_has(kept, iso);
    g_autofree char *secret = with_cdrom(other, "device='cdrom'");
    g_autoptr(GError) error = NULL;
    g_assert_null(vmb_restore_xml(secret, &options, &error));
    assert_has(error->message, other);
    g_autofree char *lost = with_cdrom("/nowhere/x.iso", "device='cdrom'");
    g_autofree char *empty = rewrite(lost, &options);
    assert_lacks(empty, "<source");
    assert_has(empty, "dev=\"sda\"");
    /* Whatever it was: an empty drive of another type would be more than that. */
    static const char *const odd[] = {"<source dev='/nowhere/x'/>", "<source file=''/>", ""};
    for (gsize i = 0; i < G_N_ELEMENTS(odd); i++) {
        g_autofree char *strange = g_strdup_printf(
            "<domain type='kvm'><devices><disk type='vhostuser' device='cdrom'>%s<target "
            "dev='sda'/><readonly/></disk></devices></domain>",
            odd[i]);
        g_autofree char *tamed = rewrite(strange, &options);
        assert_lacks(tamed, "vhostuser");
        assert_lacks(tamed, "<source");
    }
    g_autofree char *disk = with_cdrom("/nowhere/x.iso", "device='disk'");
    g_autofree char *gone = rewrite(disk, &options);
    assert_lacks(gone, "<disk");
    g_unlink(iso);
    g_unlink(other);
    g_rmdir(dir);
}

/* %s in the frames is where the part goes. */
#define IN_DOMAIN                                                                                  \
    "<domain type='kvm' xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'>%s</domain>"
#define IN_OS "<domain type='kvm'><os><type>hvm</type>%s</os></domain>"
#define IN_DEVICES "<domain type='kvm'><devices>%s</devices></domain>"

static const struct {
    const char *frame, *part, *danger;
} hostile[] = {
    {IN_DOMAIN, "<q:commandline><q:arg value='-x'/></q:commandline>", "qemu:commandline"},
    {IN_DOMAIN, "<q:override/>", "qemu:override"},
    {IN_DOMAIN, "<x:y xmlns:x='urn:z'/>", "namespace:urn:z"},
    {IN_DOMAIN, "<bootloader>/usr/bin/pygrub</bootloader>", "bootloader"},
    {IN_DOMAIN, "<seclabel type='none'/>", "seclabel:type=none"},
    {IN_DOMAIN, "<seclabel type='static' model='dac'><label>+0:+0</label></seclabel>",
     "seclabel:type=static"},
    {IN_DOMAIN, "<sysinfo type='fwcfg'><entry name='opt/x' file='/etc/shadow'/></sysinfo>",
     "sysinfo:/etc/shadow"},
    {IN_DOMAIN, "<future><thing where='/etc/shadow'/></future>", "future:/etc/shadow"},
    {"<domain type='lxc'>%s</domain>", "<name>n</name>", "domain:type=lxc"},
    {IN_OS, "<loader>/tmp/evil.bin</loader>", "loader:/tmp/evil.bin"},
    {IN_OS, "<loader>evil.bin</loader>", "loader:evil.bin"},
    {IN_OS, "<loader>/usr/share/../../tmp/evil.bin</loader>",
     "loader:/usr/share/../../tmp/evil.bin"},
    {IN_OS, "<acpi><table type='slic'>/etc/shadow</table></acpi>", "acpi:/etc/shadow"},
    {IN_OS, "<init>/bin/sh</init>", "init:/bin/sh"},
    {IN_DEVICES, "<emulator>/bin/sh</emulator>", "emulator:/bin/sh"},
    {IN_DEVICES, "<emulator>sh</emulator>", "emulator:sh"},
    {IN_DEVICES, "<emulator>\n /bin/sh\n</emulator>", "emulator:/bin/sh"},
    {IN_DEVICES, "<emulator><![CDATA[/bin/sh]]></emulator>", "emulator:/bin/sh"},
    {IN_DEVICES, "<emulator>bin/<a/>sh</emulator>", "emulator:bin/sh"},
    {IN_DEVICES, "<emulator>/usr/bin/qemu-system-../sh</emulator>",
     "emulator:/usr/bin/qemu-system-../sh"},
    {IN_DEVICES, "<emulator>/usr/bin/qemu-system-</emulator>", "emulator:/usr/bin/qemu-system-"},
    {IN_DEVICES, "<hostdev mode='subsystem' type='usb'/>", "hostdev"},
    {IN_DEVICES, "<filesystem type='mount'><source dir='/'/></filesystem>", "filesystem"},
    {IN_DEVICES, "<shmem name='x'/>", "shmem"},
    {IN_DEVICES, "<lease><lockspace>x</lockspace></lease>", "lease"},
    {IN_DEVICES, "<teleporter/>", "device:teleporter"},
    {IN_DEVICES, "<x:hostdev xmlns:x='urn:z'/>", "namespace:urn:z"},
    {IN_DEVICES, "<interface type='hostdev'/>", "interface:type=hostdev"},
    {IN_DEVICES, "<interface type='vhostuser'><source type='unix' path='/x'/></interface>",
     "interface:type=vhostuser"},
    {IN_DEVICES, "<interface type='vdpa'/>", "interface:type=vdpa"},
    {IN_DEVICES, "<interface type='ethernet'><script path='/etc/qemu-ifup'/></interface>",
     "interface:/etc/qemu-ifup"},
    {IN_DEVICES, "<interface type='ethernet'><script path='evil'/></interface>", "interface:evil"},
    {IN_DEVICES, "<interface type='user'><backend type='passt' logFile='/etc/x'/></interface>",
     "interface:/etc/x"},
    {IN_DEVICES, "<interface type='user'><rom file='/tmp/rom'/></interface>", "interface:/tmp/rom"},
    {IN_DEVICES, "<tpm><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm>",
     "tpm:type=passthrough"},
    {IN_DEVICES, "<tpm><backend type='external'><source type='unix' path='/x'/></backend></tpm>",
     "tpm:type=external"},
    {IN_DEVICES, "<serial type='dev'><source path='/dev/ttyS0'/></serial>", "serial:type=dev"},
    {IN_DEVICES, "<serial type='file'><source path='/etc/x'/></serial>", "serial:type=file"},
    {IN_DEVICES, "<serial type='pipe'><source path='/x'/></serial>", "serial:type=pipe"},
    {IN_DEVICES, "<serial type='unix'><source mode='bind' path='/x'/></serial>",
     "serial:type=unix"},
    {IN_DEVICES, "<serial type='pty'><log file='/etc/x'/></serial>", "serial:/etc/x"},
    {IN_DEVICES, "<console type='file'><source path='/x'/><target type='virtio'/></console>",
     "console:type=file"},
    {IN_DEVICES, "<console type='file'><source path='/x'/></console>", "serial:type=file"},
    {IN_DEVICES, "<parallel type='tcp'/>", "parallel:type=tcp"},
    {IN_DEVICES, "<channel type='unix'><source mode='connect'/></channel>", "channel:type=unix"},
    {IN_DEVICES, "<channel type='unix'><source mode='bind' path='/run/docker.sock'/></channel>",
     "channel:type=unix"},
    {IN_DEVICES,
     "<channel type='unix'><source mode='bind' "
     "path='/var/lib/libvirt/qemu/channel/../../../../run/x'/></channel>",
     "channel:type=unix"},
    {IN_DEVICES, "<smartcard mode='host'/>", "smartcard:mode=host"},
    {IN_DEVICES, "<redirdev bus='usb' type='tcp'/>", "redirdev:type=tcp"},
    {IN_DEVICES, "<rng><backend model='random'>/dev/hwrng</backend></rng>", "rng:/dev/hwrng"},
    {IN_DEVICES, "<rng><backend model='random'>dev/hwrng</backend></rng>", "rng:dev/hwrng"},
    {IN_DEVICES, "<rng><backend model='egd' type='tcp'/></rng>", "rng:model=egd"},
    {IN_DEVICES, "<input type='evdev'><source dev='/dev/input/event1'/></input>",
     "input:/dev/input/event1"},
    {IN_DEVICES, "<graphics type='vnc'><listen type='socket' socket='/tmp/s'/></graphics>",
     "graphics:/tmp/s"},
    {IN_DEVICES, "<graphics type='spice'><gl rendernode='/dev/dri/renderD128'/></graphics>",
     "graphics:/dev/dri/renderD128"},
    {IN_DEVICES, "<video><driver name='vhostuser'/></video>", "video:name=vhostuser"},
    {IN_DEVICES, "<audio type='file' path='/etc/x'/>", "audio:type=file"},
    {IN_DEVICES, "<memory model='nvdimm'><source><path>/etc/shadow</path></source></memory>",
     "memory:/etc/shadow"},
    {IN_DEVICES,
     "<disk type='block' device='cdrom'><source dev='/dev/null'/><target dev='sr'/>"
     "</disk>",
     "disk:sr:type=block"},
    {IN_DEVICES,
     "<disk type='network' device='cdrom'><source protocol='https' name='x'/>"
     "<target dev='sr'/></disk>",
     "disk:sr:type=network"},
    {IN_DEVICES, "<disk type='dir' device='floppy'><source dir='/etc'/><target dev='fd'/></disk>",
     "disk:fd:type=dir"},
    {IN_DEVICES,
     "<disk type='file' device='cdrom'><source file='/etc/passwd'/><target dev='s'/>"
     "</disk>",
     "disk:/etc/passwd"},
    {IN_DEVICES,
     "<disk type='file'><source file='/etc/passwd'/><target dev='s'/><readonly/>"
     "</disk>",
     "disk:/etc/passwd"},
    {IN_DEVICES, "<disk type='file' x:y='' xmlns:x='urn:z'><target dev='s'/></disk>",
     "namespace:urn:z"},
};

static void
test_hostile(void)
{
    for (gsize i = 0; i < G_N_ELEMENTS(hostile); i++) {
        g_autofree char *start =
            g_strndup(hostile[i].frame, (gsize)(strstr(hostile[i].frame, "%s") - hostile[i].frame));
        g_autofree char *xml =
            g_strconcat(start, hostile[i].part, hostile[i].frame + strlen(start) + 2, NULL);
        g_autoptr(GError) error = NULL;
        g_autoptr(GPtrArray) dangers = vmb_restore_xml_dangers(xml, &error);
        g_assert_no_error(error);
        if (dangers->len != 1)
            g_error("%s: %u dangers, expected one", hostile[i].part, dangers->len);
        g_assert_cmpstr(g_ptr_array_index(dangers, 0), ==, hostile[i].danger);
    }
}

static void
test_refused_and_allowed(void)
{
    g_autofree char *xml = g_strdup_printf(
        IN_DEVICES,
        "<hostdev mode='subsystem' type='usb'/><hostdev/><emulator>/bin/it's</emulator>");
    VmbRestoreXmlOptions options = {0};
    g_autoptr(GError) error = NULL;
    g_assert_null(vmb_restore_xml(xml, &options, &error));
    g_assert_error(error, VMB_ERROR, VMB_ERROR_FAILED);
    assert_has(error->message, "hostdev, emulator:/bin/it's;");
    assert_has(error->message, "--allow 'hostdev' --allow 'emulator:/bin/it'\\''s'");
    static const char *const allow[] = {"hostdev", "emulator:/bin/it's", NULL};
    options.allow = allow;
    g_autofree char *result = rewrite(xml, &options);
    assert_has(result, "<emulator>/bin/it's</emulator>");
    static const char *const prefix[] = {"host", "emulator", NULL};
    options.allow = prefix;
    g_assert_null(vmb_restore_xml(xml, &options, NULL));
}

static void
test_logs(void)
{
    static const char ports[] = "<domain type='qemu'><name>n</name><devices>"
                                "<serial type='file'><source path='/var/log/%s'/></serial>"
                                "<console type='pty'><log file='/etc/log'/></console>"
                                "<emulator>%s</emulator></devices></domain>";
    static const VmbRestoreXmlDisk disk = {"vda", "/restore/vda.qcow2", "qcow2"};
    VmbRestoreXmlOptions options = {.disks = &disk, .n_disks = 1, .log_dir = "/restore"};
    g_autofree char *good = g_strdup_printf(ports, "web01.log", "/usr/bin/qemu-system-x86_64");
    g_autofree char *xml = rewrite(good, &options);
    assert_has(xml, "<source path=\"/restore/web01.log\"/>");
    assert_has(xml, "<log file=\"/restore/log\"/>");
    g_autoptr(GError) disk_error = NULL;
    g_autofree char *into_disk = g_strdup_printf(ports, "vda.qcow2", "/usr/bin/qemu-system-x86_64");
    g_assert_null(vmb_restore_xml(into_disk, &options, &disk_error));
    assert_has(disk_error->message, "serial:/var/log/vda.qcow2");
    g_autoptr(GError) direct_error = NULL;
    g_autofree char *direct = g_strdup_printf(ports, "../../restore/vda.qcow2", "");
    g_assert_null(vmb_restore_xml(direct, &options, &direct_error));
    g_autoptr(GError) program_error = NULL;
    g_autofree char *program = g_strdup_printf(ports, "x", "/restore/program");
    g_assert_null(vmb_restore_xml(program, &options, &program_error));
    assert_has(program_error->message, "emulator:/restore/program");
}

/* A path of the host, wherever it is put, is refused or gone. */
static void
test_path_anywhere(void)
{
    static const char *const parts[] = {
        "<x y='/etc/shadow'/>", "<source path='/etc/shadow'/>", "<x>/etc/shadow</x>",
        "<seclabel><l>/etc/shadow</l></seclabel>",
        "<backingStore><source file='/etc/shadow'/></backingStore>"};
    VmbRestoreXmlOptions options = plain_options();
    const char *devices = strstr(full_xml, "<devices>");
    guint n_refused = 0, n_gone = 0;
    for (const char *p = devices; (p = strchr(p, '>')) != NULL && *++p != '\0';)
        for (gsize i = 0; i < G_N_ELEMENTS(parts); i++) {
            g_autofree char *xml =
                g_strdup_printf("%.*s%s%s", (int)(p - full_xml), full_xml, parts[i], p);
            g_autofree char *result = vmb_restore_xml(xml, &options, NULL);
            if (result != NULL)
                assert_lacks(result, "/etc/shadow");
            n_refused += result == NULL;
            n_gone += result != NULL;
        }
    g_assert_cmpuint(n_refused, >, 100);
    g_assert_cmpuint(n_gone, >, 10);
}

/* Broken XML breaks nothing, and what is accepted once is accepted again. */
static void
test_random_damage(void)
{
    VmbRestoreXmlOptions options = plain_options();
    gsize length = strlen(full_xml);
    guint n_accepted = 0;
    for (int round = 0; round < 3000; round++) {
        g_autofree char *xml = g_strdup(full_xml);
        for (int n = g_test_rand_int_range(1, 4); n > 0; n--) {
            gsize at = (gsize)g_test_rand_int_range(0, (gint32)length);
            gsize from = (gsize)g_test_rand_int_range(0, (gint32)length);
            gsize run = (gsize)g_test_rand_int_range(1, 30);
            memmove(xml + at, full_xml + from, MIN(run, MIN(length - at, length - from)));
        }
        g_autofree char *once = vmb_restore_xml(xml, &options, NULL);
        if (once == NULL)
            continue;
        n_accepted++;
        g_free(rewrite(once, &options));
    }
    g_assert_cmpuint(n_accepted, >, 10);
}

static void
test_harmless(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) dangers = vmb_restore_xml_dangers(full_xml, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(dangers->len, ==, 0);
}

static void
test_broken(void)
{
    static const char *const broken[] = {
        "",
        "<domain",
        "<network/>",
        "<domain><name>a</name><name>b</name></domain>",
        "<!DOCTYPE d [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><domain><name>&x;</name></domain>",
        "<!DOCTYPE d [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;'>]><domain>&b;</domain>",
        "<domain>&nothing;</domain>",
        "<domain><devices/><devices/></domain>",
        "<domain><os><kernel>/a</kernel><kernel>/b</kernel></os></domain>",
        "<domain><devices><emulator/><emulator>/bin/sh</emulator></devices></domain>",
        "<domain><devices><disk><source file='/a'/><source file='/b'/></disk></devices></domain>"};
    VmbRestoreXmlOptions options = {0};
    for (gsize i = 0; i < G_N_ELEMENTS(broken); i++) {
        g_autoptr(GError) error = NULL;
        g_assert_null(vmb_restore_xml(broken[i], &options, &error));
        g_assert_error(error, VMB_ERROR, VMB_ERROR_DAMAGE);
        g_assert_null(vmb_restore_xml_dangers(broken[i], NULL));
    }
    static const char *const disks[] = {
        "<domain><devices><disk><target bus='x'/></disk></devices></domain>",
        "<domain><devices><disk><target dev='a'/></disk><disk><target dev='a'/></disk></devices>"
        "</domain>"};
    for (gsize i = 0; i < G_N_ELEMENTS(disks); i++) {
        g_autoptr(GError) error = NULL;
        g_assert_null(vmb_restore_xml(disks[i], &options, &error));
        g_assert_error(error, VMB_ERROR, VMB_ERROR_DAMAGE);
    }
    g_autoptr(GString) deep = g_string_new("<domain>");
    for (int i = 0; i < 100000; i++)
        g_string_append(deep, "<a>");
    g_assert_null(vmb_restore_xml(deep->str, &options, NULL));
}

/* libvirt's own parser and schema take the result. */
static void
test_libvirt_accepts(void)
{
    VmbRestoreXmlOptions options = plain_options();
    options.name = "web02";
    options.new_identity = TRUE;
    g_autofree char *xml = rewrite(full_xml, &options);
    /* The test driver knows only its own kind of domain. */
    g_autofree char *kind = g_strdup(xml);
    char *type = strstr(kind, "type=\"kvm\"");
    g_assert_nonnull(type);
    g_autofree char *test_xml = g_strdup_printf("%.*stype=\"test\"%s", (int)(type - kind), kind,
                                                type + strlen("type=\"kvm\""));
    virSetErrorFunc(NULL, NULL);
    virConnectPtr connection = virConnectOpen("test:///default");
    g_assert_nonnull(connection);
    virDomainPtr domain = virDomainDefineXMLFlags(connection, test_xml, VIR_DOMAIN_DEFINE_VALIDATE);
    if (domain == NULL)
        g_error("libvirt refuses: %s\n%s", virGetLastErrorMessage(), test_xml);
    g_assert_cmpstr(virDomainGetName(domain), ==, "web02");
    virDomainFree(domain);
    virConnectClose(connection);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/restore-xml/disks", test_disks);
    g_test_add_func("/restore-xml/live-parts", test_live_parts);
    g_test_add_func("/restore-xml/boot-files", test_boot_files);
    g_test_add_func("/restore-xml/identity", test_identity);
    g_test_add_func("/restore-xml/macs-are-unique", test_macs_are_unique);
    g_test_add_func("/restore-xml/idempotent", test_idempotent);
    g_test_add_func("/restore-xml/left-out", test_left_out);
    g_test_add_func("/restore-xml/media", test_media);
    g_test_add_func("/restore-xml/hostile", test_hostile);
    g_test_add_func("/restore-xml/refused-and-allowed", test_refused_and_allowed);
    g_test_add_func("/restore-xml/logs", test_logs);
    g_test_add_func("/restore-xml/path-anywhere", test_path_anywhere);
    g_test_add_func("/restore-xml/random-damage", test_random_damage);
    g_test_add_func("/restore-xml/harmless", test_harmless);
    g_test_add_func("/restore-xml/broken", test_broken);
    g_test_add_func("/restore-xml/libvirt-accepts", test_libvirt_accepts);
    return g_test_run();
}
