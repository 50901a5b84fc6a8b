/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Live domain XML into disks, layers, firmware, agent and labels; headers of images. */
#include "virt/domain.h"
#include "virt/image-probe.h"
#include "util/error.h"

#include <glib/gstdio.h>
#include <string.h>

static const char *const rich_xml =
    "<domain type='kvm' id='7'><name>web</name><os><type>hvm</type>"
    "<loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE.fd</loader>"
    "<nvram template='/t'>/var/lib/libvirt/qemu/nvram/web_VARS.fd</nvram>"
    "<kernel>/boot/vmlinuz</kernel><initrd>/boot/initrd</initrd></os><devices>"
    "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>"
    "<source file='/i/top.qcow2' index='3'/><backingStore type='file' index='4'>"
    "<format type='qcow2'/><source file='/i/mid&amp;.qcow2'/><backingStore type='block'>"
    "<format type='raw'/><source dev='/dev/vg/base'/><backingStore/></backingStore></backingStore>"
    "<target dev='vda' bus='virtio'/><serial>S-1</serial><wwn>5000c50015ea71aa</wwn>"
    "<alias name='virtio-disk0'/></disk>"
    "<disk type='block' device='lun'><source dev='/dev/sdx'/><target dev='sda' bus='scsi'/>"
    "<shareable/><transient/></disk>"
    "<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><target dev='sdb' "
    "bus='sata'/>"
    "<readonly/></disk>"
    "<disk type='file' device='floppy'><source/><target dev='fda' bus='fdc'/></disk>"
    "<disk type='network' device='disk'><driver type='raw'/>"
    "<source protocol='rbd' name='p/i'><host name='h'/></source><target dev='vdb'/></disk>"
    "<disk type='volume' device='disk'><driver type='qcow2'/><source pool='p' volume='v'/>"
    "<target dev='vdc'/></disk>"
    "<disk type='file' device='disk'><driver type='qcow2'/><source file='/i/ext'>"
    "<dataStore type='file'><format type='raw'/><source file='/i/ext.raw'/></dataStore></source>"
    "<target dev='vdd'/></disk>"
    "<disk type='file' device='disk'><driver type='qcow2'/><source file='/i/part'>"
    "<slices><slice type='storage' offset='4096' size='1048576'/></slices></source>"
    "<target dev='vde'/></disk>"
    "<channel type='unix'><target type='virtio' name='other.0' state='connected'/></channel>"
    "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0' state='connected'/>"
    "</channel></devices>"
    "<seclabel type='dynamic' model='apparmor' relabel='yes'><label>libvirt-x</label></seclabel>"
    "<seclabel type='dynamic' model='dac' relabel='yes'><label>+64055:+108</label></seclabel>"
    "</domain>";

static VmbDomainInfo *
parse(const char *xml)
{
    g_autoptr(GError) error = NULL;
    VmbDomainInfo *info = vmb_domain_info_from_xml(xml, &error);
    g_assert_no_error(error);
    g_assert_nonnull(info);
    return info;
}

static const VmbDiskLayer *
layer(const VmbDiskInfo *disk, guint index)
{
    g_assert_cmpuint(index, <, disk->layers->len);
    return g_ptr_array_index(disk->layers, index);
}

static void
test_chain(void)
{
    g_autoptr(VmbDomainInfo) info = parse(rich_xml);
    g_assert_cmpuint(info->disks->len, ==, 8);
    const VmbDiskInfo *disk = g_ptr_array_index(info->disks, 0);
    g_assert_cmpstr(disk->target, ==, "vda");
    g_assert_cmpstr(disk->id, ==, "serial:S-1");
    g_assert_cmpstr(disk->alias, ==, "virtio-disk0");
    g_assert_cmpstr(disk->bus, ==, "virtio");
    g_assert_cmpstr(disk->wwn, ==, "5000c50015ea71aa");
    g_assert_cmpstr(disk->format, ==, "qcow2");
    g_assert_true(disk->has_medium);
    g_assert_cmpuint(disk->layers->len, ==, 3);
    g_assert_cmpstr(layer(disk, 0)->path, ==, "/i/top.qcow2");
    g_assert_cmpstr(layer(disk, 1)->path, ==, "/i/mid&.qcow2");
    g_assert_cmpstr(layer(disk, 2)->path, ==, "/dev/vg/base");
    g_assert_cmpstr(layer(disk, 2)->format, ==, "raw");
    g_assert_true(disk->chain_given);
}

/* What a user wrote of a chain need not be all of it: only an empty element ends it. */
static void
test_chain_without_end(void)
{
    g_autoptr(VmbDomainInfo) info = parse(
        "<domain type='kvm'><devices><disk type='file' device='disk'><driver type='qcow2'/>"
        "<source file='/i/top'/><backingStore type='file'><format type='qcow2'/>"
        "<source file='/i/mid'/></backingStore><target dev='vda'/></disk>"
        "<disk type='file' device='disk'><driver type='qcow2'/><source file='/i/one'/>"
        "<backingStore/><target dev='vdb'/></disk></devices></domain>");
    const VmbDiskInfo *open_chain = g_ptr_array_index(info->disks, 0);
    const VmbDiskInfo *ended = g_ptr_array_index(info->disks, 1);
    g_assert_cmpuint(open_chain->layers->len, ==, 2);
    g_assert_false(open_chain->chain_given);
    g_assert_cmpuint(ended->layers->len, ==, 1);
    g_assert_true(ended->chain_given);
}

static void
test_kinds(void)
{
    g_autoptr(VmbDomainInfo) info = parse(rich_xml);
    const VmbDiskInfo *lun = g_ptr_array_index(info->disks, 1);
    g_assert_cmpint(lun->device, ==, VMB_DEVICE_LUN);
    g_assert_cmpstr(lun->format, ==, "raw");
    g_assert_cmpstr(lun->id, ==, "target:sda");
    g_assert_true(lun->shareable && lun->transient && !lun->readonly);
    const VmbDiskInfo *cdrom = g_ptr_array_index(info->disks, 2);
    g_assert_cmpint(cdrom->device, ==, VMB_DEVICE_CDROM);
    g_assert_true(cdrom->readonly && !cdrom->has_medium);
    const VmbDiskInfo *floppy = g_ptr_array_index(info->disks, 3);
    g_assert_cmpint(floppy->device, ==, VMB_DEVICE_FLOPPY);
    g_assert_false(floppy->has_medium);
    const VmbDiskInfo *network = g_ptr_array_index(info->disks, 4);
    g_assert_true(network->has_medium);
    g_assert_cmpstr(network->source_type, ==, "network");
    g_assert_null(layer(network, 0)->path);
    const VmbDiskInfo *volume = g_ptr_array_index(info->disks, 5);
    g_assert_true(volume->has_medium);
    g_assert_null(layer(volume, 0)->path);
    const VmbDiskInfo *external = g_ptr_array_index(info->disks, 6);
    g_assert_cmpstr(layer(external, 0)->data_file, ==, "/i/ext.raw");
    const VmbDiskInfo *slice = g_ptr_array_index(info->disks, 7);
    g_assert_nonnull(slice->no_bitmaps_why);
}

static void
test_rest(void)
{
    g_autoptr(VmbDomainInfo) info = parse(rich_xml);
    g_assert_cmpstr(info->nvram, ==, "/var/lib/libvirt/qemu/nvram/web_VARS.fd");
    g_assert_cmpstr(info->loader, ==, "/usr/share/OVMF/OVMF_CODE.fd");
    g_assert_cmpstr(info->kernel, ==, "/boot/vmlinuz");
    g_assert_cmpstr(info->initrd, ==, "/boot/initrd");
    g_assert_null(info->dtb);
    g_assert_true(info->agent_channel && info->agent_connected);
    g_assert_cmpuint(info->qemu_uid, ==, 64055);
    g_assert_cmpuint(info->qemu_gid, ==, 108);
    g_assert_cmpstr(info->security_model, ==, "apparmor");
}

static void
test_bare(void)
{
    g_autoptr(VmbDomainInfo) info =
        parse("<domain><os><nvram type='network'><source protocol='iscsi' "
              "name='n'/></nvram></os><devices>"
              "<disk><source file='/x'/></disk>"
              "<disk><source file='/i'/><target dev='vda'/></disk>"
              "<channel><target name='org.qemu.guest_agent.0' state='disconnected'/></channel>"
              "</devices></domain>");
    g_assert_cmpuint(info->disks->len, ==, 1);
    g_assert_null(info->nvram);
    g_assert_null(info->security_model);
    g_assert_true(info->agent_channel && !info->agent_connected);
    g_assert_cmpuint(info->qemu_uid, ==, G_MAXUINT64);
    g_autoptr(VmbDomainInfo) file =
        parse("<domain><os><nvram type='file'><source file='/n.fd'/></nvram></os></domain>");
    g_assert_cmpstr(file->nvram, ==, "/n.fd");
    g_assert_cmpuint(file->disks->len, ==, 0);
}

static void
test_broken(void)
{
    static const char *const bad[] = {
        "",
        "<domain>",
        "<domain/><domain/>",
        "<network/>",
        "not xml",
        "<!DOCTYPE domain [<!ENTITY x SYSTEM "
        "'file:///etc/passwd'>]><domain><name>&x;</name></domain>",
        "<!DOCTYPE domain SYSTEM 'http://127.0.0.1:1/d.dtd'><domain/>",
        "<domain xmlns='http://x'/>",
        "<domain>\xff</domain>"};
    for (gsize i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;
        g_assert_null(vmb_domain_info_from_xml(bad[i], &error));
        g_assert_error(error, VMB_ERROR, VMB_ERROR_FAILED);
    }
}

static void
check_changes(const char *before, const char *after, const char *expected)
{
    g_autofree char *a = g_strdup_printf("<domain><devices>%s</devices></domain>", before);
    g_autofree char *b = g_strdup_printf("<domain><devices>%s</devices></domain>", after);
    g_autoptr(VmbDomainInfo) x = parse(a);
    g_autoptr(VmbDomainInfo) y = parse(b);
    g_autofree char *text = vmb_domain_info_compare_disks(x, y);
    g_assert_cmpstr(text, ==, expected);
}

#define DISK(file, target)                                                                         \
    "<disk><driver type='qcow2'/><source file='" file "'/><target dev='" target "'/></disk>"

static void
test_compare(void)
{
    check_changes(DISK("/a", "vda"), DISK("/a", "vda"), NULL);
    check_changes(DISK("/a", "vda"), DISK("/b", "vda"), "vda");
    check_changes(DISK("/a", "vda") DISK("/b", "vdb"), DISK("/a", "vda"), "vdb");
    check_changes(DISK("/a", "vda"), DISK("/a", "vda") DISK("/c", "vdc"), "vdc");
    check_changes(DISK("/a", "vda") DISK("/b", "vdb"), DISK("/b", "vdb") DISK("/c", "vdc"),
                  "vda, vdc");
}

/* A qcow2 header of @version with the data file bit, and the extension that names it if @name. */
static void
write_header(const char *path, guint32 version, gboolean data_file, const char *name)
{
    guint8 bytes[512] = {'Q', 'F', 'I', 0xfb, 0, 0, 0, (guint8)version};
    bytes[23] = 16;
    bytes[103] = 112;
    bytes[79] = data_file ? 4 : 0;
    if (name != NULL) {
        memcpy(bytes + 112, "DATA", 4);
        bytes[119] = (guint8)strlen(name);
        memcpy(bytes + 120, name, strlen(name));
    }
    g_assert_true(g_file_set_contents(path, (const char *)bytes, sizeof bytes, NULL));
}

static void
check_probe(const char *path, gboolean bitmaps, const char *data_file)
{
    VmbImageProbe probe;
    vmb_image_probe(path, &probe);
    g_assert_cmpint(probe.bitmaps, ==, bitmaps);
    g_assert_true(bitmaps == (probe.why == NULL));
    g_assert_true(!bitmaps || probe.cluster_size == 65536);
    g_assert_cmpstr(probe.data_file, ==, data_file);
    g_free(probe.why);
    g_free(probe.data_file);
}

static void
test_probe(void)
{
    g_autofree char *dir = g_dir_make_tmp("vmbackup-unit-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "image", NULL);
    g_autofree char *beside = g_build_filename(dir, "image.raw", NULL);
    check_probe(path, FALSE, NULL);
    write_header(path, 3, FALSE, NULL);
    check_probe(path, TRUE, NULL);
    write_header(path, 2, FALSE, NULL);
    check_probe(path, FALSE, NULL);
    write_header(path, 3, TRUE, "image.raw");
    check_probe(path, TRUE, beside);
    write_header(path, 3, TRUE, "/abs.raw");
    check_probe(path, TRUE, "/abs.raw");
    write_header(path, 3, TRUE, NULL);
    check_probe(path, FALSE, NULL);
    g_assert_true(g_file_set_contents(path, "QFI\xfb", 4, NULL));
    check_probe(path, FALSE, NULL);
    g_unlink(path);
    check_probe(dir, FALSE, NULL);
    g_rmdir(dir);
}

/* Headers of random bytes behind a good magic: nothing but an answer may come of them. */
static void
test_probe_random(void)
{
    guint32 seed = g_test_rand_int();
    g_test_message("seed %u", seed);
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    g_autofree char *dir = g_dir_make_tmp("vmbackup-unit-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "image", NULL);
    for (int round = 0; round < 300; round++) {
        guint8 bytes[256];
        for (gsize i = 0; i < sizeof bytes; i++)
            bytes[i] = g_rand_boolean(rand) ? (guint8)g_rand_int(rand) : 0;
        memcpy(bytes, "QFI\xfb\0\0\0\3", 8);
        bytes[79] |= 4;
        bytes[100] = bytes[101] = bytes[102] = 0;
        gsize length = (gsize)g_rand_int_range(rand, 0, sizeof bytes);
        g_assert_true(g_file_set_contents(path, (const char *)bytes, (gssize)length, NULL));
        VmbImageProbe probe;
        vmb_image_probe(path, &probe);
        g_assert_true(probe.bitmaps == (probe.why == NULL));
        g_free(probe.why);
        g_free(probe.data_file);
    }
    g_unlink(path);
    g_rmdir(dir);
}

/* Two disks with one serial must never share a chain. */
static void
test_twins(void)
{
    g_autoptr(VmbDomainInfo) info =
        parse("<domain><devices>"
              "<disk type='file'><source file='/a'/><target dev='vda'/><serial>S</serial></disk>"
              "<disk type='file'><source file='/b'/><target dev='vdb'/><serial>T</serial></disk>"
              "<disk type='file'><source file='/c'/><target dev='vdc'/><serial>S</serial></disk>"
              "</devices></domain>");
    static const char *const ids[] = {"target:vda", "serial:T", "target:vdc"};
    for (guint i = 0; i < G_N_ELEMENTS(ids); i++)
        g_assert_cmpstr(((VmbDiskInfo *)g_ptr_array_index(info->disks, i))->id, ==, ids[i]);
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/domain-xml/chain", test_chain);
    g_test_add_func("/domain-xml/chain-without-end", test_chain_without_end);
    g_test_add_func("/domain-xml/kinds", test_kinds);
    g_test_add_func("/domain-xml/rest", test_rest);
    g_test_add_func("/domain-xml/bare", test_bare);
    g_test_add_func("/domain-xml/broken", test_broken);
    g_test_add_func("/domain-xml/compare", test_compare);
    g_test_add_func("/image-probe/headers", test_probe);
    g_test_add_func("/image-probe/random", test_probe_random);
    g_test_add_func("/domain-xml/twins", test_twins);
    return g_test_run();
}
