/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Reads a live domain XML: disks with their layers, firmware, agent channel, QEMU's user. */
#include "virt/domain-xml.h"

#include <grp.h>
#include <pwd.h>
#include <string.h>

/* libvirt itself refuses longer chains. */
#define MAX_LAYERS 1024
#define NAME_BUFFER 16384 /* for one entry of the user or group database */
#define AGENT_CHANNEL "org.qemu.guest_agent.0"

void
vmb_disk_layer_free(VmbDiskLayer *layer)
{
    g_free(layer->path);
    g_free(layer->format);
    g_free(layer->data_file);
    g_free(layer);
}

static void
free_layer(gpointer layer)
{
    vmb_disk_layer_free(layer);
}

void
vmb_disk_info_free(VmbDiskInfo *disk)
{
    if (disk == NULL)
        return;
    g_free(disk->target);
    g_free(disk->id);
    g_free(disk->alias);
    g_free(disk->serial);
    g_free(disk->bus);
    g_free(disk->wwn);
    g_free(disk->source_type);
    g_free(disk->format);
    g_free(disk->no_bitmaps_why);
    g_free(disk->offline_why);
    g_ptr_array_unref(disk->layers);
    g_free(disk);
}

static void
free_disk(gpointer disk)
{
    vmb_disk_info_free(disk);
}

void
vmb_domain_info_free(VmbDomainInfo *info)
{
    if (info == NULL)
        return;
    g_free(info->live_xml);
    g_free(info->inactive_xml);
    g_ptr_array_unref(info->disks);
    g_free(info->nvram);
    g_free(info->loader);
    g_free(info->kernel);
    g_free(info->initrd);
    g_free(info->dtb);
    g_free(info->tpm_dir);
    g_free(info->security_model);
    g_free(info);
}

/* A local path of a <source>, or NULL: what is behind the network or in a pool has none here. */
static char *
source_path(xmlNode *source)
{
    char *path = vmb_xml_attribute(source, "file");
    return path != NULL ? path : vmb_xml_attribute(source, "dev");
}

/* An empty drive has no <source>, or one without any of what names a medium. */
static gboolean
names_medium(xmlNode *source)
{
    static const char *const names[] = {"file", "dev", "dir", "protocol", "volume", "path", "type"};
    for (gsize i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *value = vmb_xml_attribute(source, names[i]);
        if (value != NULL)
            return TRUE;
    }
    return FALSE;
}

/* @holder is the <disk> or a <backingStore>; takes @format. */
static void
add_layer(GPtrArray *layers, xmlNode *holder, char *format)
{
    xmlNode *source = vmb_xml_child(holder, "source");
    xmlNode *store = vmb_xml_child(source, "dataStore");
    VmbDiskLayer *layer = g_new0(VmbDiskLayer, 1);
    layer->path = source_path(source);
    layer->format = format != NULL ? format : g_strdup("raw");
    layer->data_file = source_path(vmb_xml_child(store, "source"));
    g_ptr_array_add(layers, layer);
}

static void
add_layers(VmbDiskInfo *disk, xmlNode *node)
{
    if (disk->has_medium)
        add_layer(disk->layers, node, g_strdup(disk->format));
    xmlNode *store = vmb_xml_child(node, "backingStore");
    while (store != NULL && vmb_xml_child(store, "source") != NULL &&
           disk->layers->len < MAX_LAYERS) {
        add_layer(disk->layers, store, vmb_xml_attribute(vmb_xml_child(store, "format"), "type"));
        store = vmb_xml_child(store, "backingStore");
    }
    /* Without an empty one at the end libvirt goes on by the last image's header. */
    disk->chain_given = store != NULL && vmb_xml_child(store, "source") == NULL;
}

static VmbDeviceKind
device_kind(xmlNode *node)
{
    g_autofree char *device = vmb_xml_attribute(node, "device");
    if (g_strcmp0(device, "cdrom") == 0)
        return VMB_DEVICE_CDROM;
    if (g_strcmp0(device, "floppy") == 0)
        return VMB_DEVICE_FLOPPY;
    return g_strcmp0(device, "lun") == 0 ? VMB_DEVICE_LUN : VMB_DEVICE_DISK;
}

VmbDiskInfo *
vmb_domain_xml_disk(xmlNode *node)
{
    xmlNode *target = vmb_xml_child(node, "target");
    g_autofree char *name = vmb_xml_attribute(target, "dev");
    if (name == NULL)
        return NULL;
    VmbDiskInfo *disk = g_new0(VmbDiskInfo, 1);
    disk->target = g_steal_pointer(&name);
    disk->bus = vmb_xml_attribute(target, "bus");
    disk->alias = vmb_xml_attribute(vmb_xml_child(node, "alias"), "name");
    disk->serial = vmb_xml_text(vmb_xml_child(node, "serial"));
    disk->wwn = vmb_xml_text(vmb_xml_child(node, "wwn"));
    /* libvirt renumbers its own aliases; those that users gave begin so, and stay. */
    gboolean own_alias = disk->alias != NULL && g_str_has_prefix(disk->alias, "ua-");
    disk->id = disk->serial != NULL ? g_strconcat("serial:", disk->serial, NULL)
               : own_alias          ? g_strconcat("alias:", disk->alias, NULL)
                                    : g_strconcat("target:", disk->target, NULL);
    disk->device = device_kind(node);
    disk->readonly = vmb_xml_child(node, "readonly") != NULL;
    disk->shareable = vmb_xml_child(node, "shareable") != NULL;
    disk->transient = vmb_xml_child(node, "transient") != NULL;
    disk->source_type = vmb_xml_attribute(node, "type");
    if (disk->source_type == NULL)
        disk->source_type = g_strdup("file");
    disk->format = vmb_xml_attribute(vmb_xml_child(node, "driver"), "type");
    if (disk->format == NULL)
        disk->format = g_strdup("raw");
    disk->has_medium = names_medium(vmb_xml_child(node, "source"));
    disk->layers = g_ptr_array_new_with_free_func(free_layer);
    add_layers(disk, node);
    disk->encrypted = vmb_xml_child(node, "encryption") != NULL ||
                      vmb_xml_child(vmb_xml_child(node, "source"), "encryption") != NULL;
    disk->sliced = vmb_xml_child(vmb_xml_child(node, "source"), "slices") != NULL;
    if (disk->sliced)
        disk->no_bitmaps_why = g_strdup("the image is only a slice of its file");
    return disk;
}

static void
read_disks(VmbDomainInfo *info, xmlNode *devices)
{
    for (xmlNode *node = vmb_xml_child(devices, "disk"); node != NULL;
         node = vmb_xml_next(node, "disk")) {
        VmbDiskInfo *disk = vmb_domain_xml_disk(node);
        if (disk != NULL)
            g_ptr_array_add(info->disks, disk);
    }
}

/* Newer libvirt writes NVRAM with a <source> when it is not a plain file. */
static char *
nvram_path(xmlNode *nvram)
{
    char *path = source_path(vmb_xml_child(nvram, "source"));
    if (path != NULL || nvram == NULL || vmb_xml_child(nvram, NULL) != NULL)
        return path;
    return vmb_xml_text(nvram);
}

static void
read_boot_files(VmbDomainInfo *info, xmlNode *os)
{
    info->nvram = nvram_path(vmb_xml_child(os, "nvram"));
    info->loader = vmb_xml_text(vmb_xml_child(os, "loader"));
    info->kernel = vmb_xml_text(vmb_xml_child(os, "kernel"));
    info->initrd = vmb_xml_text(vmb_xml_child(os, "initrd"));
    info->dtb = vmb_xml_text(vmb_xml_child(os, "dtb"));
}

static void
read_agent(VmbDomainInfo *info, xmlNode *devices)
{
    for (xmlNode *channel = vmb_xml_child(devices, "channel"); channel != NULL;
         channel = vmb_xml_next(channel, "channel")) {
        xmlNode *target = vmb_xml_child(channel, "target");
        if (!vmb_xml_attribute_is(target, "name", AGENT_CHANNEL))
            continue;
        info->agent_channel = TRUE;
        info->agent_connected = vmb_xml_attribute_is(target, "state", "connected");
    }
}

static gboolean
parse_id(const char *text, guint64 *id)
{
    return g_ascii_string_to_unsigned(text + (text[0] == '+'), 10, 0, G_MAXUINT32 - 1, id, NULL);
}

/* "+64055:+64055" as libvirt writes it, or names as a user may have written them. */
static void
parse_dac_label(VmbDomainInfo *info, const char *label)
{
    g_auto(GStrv) parts = g_strsplit(label, ":", 2);
    if (parts[0] == NULL || parts[1] == NULL)
        return;
    char buffer[NAME_BUFFER];
    struct passwd user, *found_user = NULL;
    if (!parse_id(parts[0], &info->qemu_uid) &&
        getpwnam_r(parts[0], &user, buffer, sizeof buffer, &found_user) == 0 && found_user != NULL)
        info->qemu_uid = user.pw_uid;
    struct group group, *found_group = NULL;
    if (!parse_id(parts[1], &info->qemu_gid) &&
        getgrnam_r(parts[1], &group, buffer, sizeof buffer, &found_group) == 0 &&
        found_group != NULL)
        info->qemu_gid = group.gr_gid;
}

static void
read_labels(VmbDomainInfo *info, xmlNode *domain)
{
    for (xmlNode *node = vmb_xml_child(domain, "seclabel"); node != NULL;
         node = vmb_xml_next(node, "seclabel")) {
        g_autofree char *model = vmb_xml_attribute(node, "model");
        g_autofree char *label = vmb_xml_text(vmb_xml_child(node, "label"));
        if (label == NULL || model == NULL)
            continue;
        if (strcmp(model, "dac") == 0) {
            parse_dac_label(info, label);
        } else if (strcmp(model, "apparmor") == 0 || strcmp(model, "selinux") == 0) {
            g_free(info->security_model);
            info->security_model = g_steal_pointer(&model);
        }
    }
}

/* A serial that several disks carry is no identity. */
static void
tell_twins_apart(VmbDomainInfo *info)
{
    for (guint i = 0; i < info->disks->len; i++) {
        VmbDiskInfo *disk = g_ptr_array_index(info->disks, i);
        gboolean twins = FALSE;
        for (guint j = 0; j < info->disks->len && disk->serial != NULL; j++) {
            const VmbDiskInfo *other = g_ptr_array_index(info->disks, j);
            twins |= j != i && g_strcmp0(disk->serial, other->serial) == 0;
        }
        if (!twins)
            continue;
        g_free(disk->id);
        disk->id = g_strconcat("target:", disk->target, NULL);
    }
}

VmbDomainInfo *
vmb_domain_info_from_xml(const char *live_xml, GError **error)
{
    g_autoptr(VmbXml) document =
        vmb_xml_parse(live_xml, "domain", "the domain's XML", VMB_ERROR_FAILED, error);
    if (document == NULL)
        return NULL;
    xmlNode *domain = xmlDocGetRootElement(document);
    xmlNode *devices = vmb_xml_child(domain, "devices");
    VmbDomainInfo *info = g_new0(VmbDomainInfo, 1);
    info->live_xml = g_strdup(live_xml);
    info->disks = g_ptr_array_new_with_free_func(free_disk);
    info->qemu_uid = info->qemu_gid = G_MAXUINT64;
    read_disks(info, devices);
    tell_twins_apart(info);
    read_boot_files(info, vmb_xml_child(domain, "os"));
    read_agent(info, devices);
    read_labels(info, domain);
    return info;
}

static const VmbDiskInfo *
find_disk(const VmbDomainInfo *info, const char *target)
{
    for (guint i = 0; i < info->disks->len; i++) {
        const VmbDiskInfo *disk = g_ptr_array_index(info->disks, i);
        if (strcmp(disk->target, target) == 0)
            return disk;
    }
    return NULL;
}

static gboolean
same_disk(const VmbDiskInfo *a, const VmbDiskInfo *b)
{
    if (g_strcmp0(a->serial, b->serial) != 0 || strcmp(a->source_type, b->source_type) != 0 ||
        a->layers->len != b->layers->len || strcmp(a->format, b->format) != 0)
        return FALSE;
    for (guint i = 0; i < a->layers->len; i++) {
        const VmbDiskLayer *x = g_ptr_array_index(a->layers, i);
        const VmbDiskLayer *y = g_ptr_array_index(b->layers, i);
        if (g_strcmp0(x->path, y->path) != 0)
            return FALSE;
    }
    return TRUE;
}

char *
vmb_domain_info_compare_disks(const VmbDomainInfo *before, const VmbDomainInfo *after)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    for (guint i = 0; i < before->disks->len; i++) {
        const VmbDiskInfo *disk = g_ptr_array_index(before->disks, i);
        const VmbDiskInfo *other = find_disk(after, disk->target);
        if (other == NULL || !same_disk(disk, other))
            g_ptr_array_add(names, disk->target);
    }
    for (guint i = 0; i < after->disks->len; i++) {
        const VmbDiskInfo *disk = g_ptr_array_index(after->disks, i);
        if (find_disk(before, disk->target) == NULL)
            g_ptr_array_add(names, disk->target);
    }
    if (names->len == 0)
        return NULL;
    g_ptr_array_add(names, NULL);
    return g_strjoinv(", ", (char **)names->pdata);
}
