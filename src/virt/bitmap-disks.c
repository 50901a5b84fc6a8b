/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The disks of a domain that can hold bitmaps, with the files in which these are stored. */
#include "virt/bitmap-disks.h"
#include "virt/call.h"
#include "virt/image-bitmaps.h"
#include "util/log.h"

#include <string.h>

static void
disk_free(gpointer data)
{
    VmbBitmapDisk *disk = data;
    g_free(disk->target);
    g_ptr_array_unref(disk->files);
    g_free(disk);
}

GPtrArray *
vmb_bitmap_disks(VmbDomain *domain, GError **error)
{
    VMB_DOMAIN_CALL(domain);
    char *xml = virDomainGetXMLDesc(vmb_domain_handle(domain), 0);
    if (xml == NULL) {
        vmb_virt_error(error, VMB_ERROR_DOMAIN, "cannot read the XML of the domain '%s'",
                       vmb_domain_name(domain));
        return NULL;
    }
    g_autoptr(VmbDomainInfo) info = vmb_domain_info_from_xml(xml, error);
    if (info != NULL)
        vmb_domain_info_resolve_volumes(domain, xml, info);
    free(xml);
    if (info == NULL)
        return NULL;
    GPtrArray *disks = g_ptr_array_new_with_free_func(disk_free);
    for (guint i = 0; i < info->disks->len; i++) {
        const VmbDiskInfo *found = g_ptr_array_index(info->disks, i);
        if (!found->has_medium || found->readonly || strcmp(found->format, "qcow2") != 0)
            continue;
        const VmbDiskLayer *active = g_ptr_array_index(found->layers, 0);
        VmbBitmapDisk *disk = g_new0(VmbBitmapDisk, 1);
        disk->target = g_strdup(found->target);
        disk->files = active->path != NULL ? vmb_image_bitmaps_chain(active->path)
                                           : g_ptr_array_new_with_free_func(g_free);
        g_ptr_array_add(disks, disk);
    }
    return disks;
}

const VmbBitmapDisk *
vmb_bitmap_disk_find(const GPtrArray *disks, const char *target)
{
    for (guint i = 0; i < disks->len; i++) {
        const VmbBitmapDisk *disk = g_ptr_array_index(disks, i);
        if (strcmp(disk->target, target) == 0)
            return disk;
    }
    return NULL;
}

VmbBitmapPresence
vmb_bitmap_disk_has(const VmbBitmapDisk *disk, const char *name)
{
    g_autoptr(GError) error = NULL;
    if (disk->files->len == 0)
        return VMB_BITMAP_UNKNOWN;
    g_autoptr(GPtrArray) bitmaps = vmb_image_bitmaps_read(disk->files->pdata[0], &error);
    if (bitmaps != NULL)
        return vmb_image_bitmaps_have(bitmaps, name) ? VMB_BITMAP_PRESENT : VMB_BITMAP_ABSENT;
    vmb_debug("%s", error->message);
    return VMB_BITMAP_UNKNOWN;
}
