/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a domain and its disks are at this moment: the XML plus what libvirt and headers say. */
#include "virt/domain.h"
#include "virt/call.h"
#include "virt/domain-xml.h"
#include "virt/image-chain.h"
#include "virt/image-probe.h"
#include "virt/tpm.h"
#include "util/log.h"
#include "util/units.h"

#include <string.h>
#include <sys/stat.h>

/* A disk of a storage pool: the live XML names pool and volume, the pool knows the path. */
static char *
volume_path(virConnectPtr connection, xmlNode *source)
{
    g_autofree char *pool_name = vmb_xml_attribute(source, "pool");
    g_autofree char *volume_name = vmb_xml_attribute(source, "volume");
    if (pool_name == NULL || volume_name == NULL)
        return NULL;
    char *path = NULL;
    virStoragePoolPtr pool = virStoragePoolLookupByName(connection, pool_name);
    virStorageVolPtr volume = pool != NULL ? virStorageVolLookupByName(pool, volume_name) : NULL;
    char *raw = volume != NULL ? virStorageVolGetPath(volume) : NULL;
    if (raw != NULL && g_path_is_absolute(raw))
        path = g_strdup(raw);
    free(raw);
    if (volume != NULL)
        virStorageVolFree(volume);
    if (pool != NULL)
        virStoragePoolFree(pool);
    return path;
}

static xmlNode *
find_disk_node(xmlNode *devices, const char *target)
{
    xmlNode *node = vmb_xml_child(devices, "disk");
    while (node != NULL && !vmb_xml_attribute_is(vmb_xml_child(node, "target"), "dev", target))
        node = vmb_xml_next(node, "disk");
    return node;
}

void
vmb_domain_info_resolve_volumes(VmbDomain *domain, const char *xml, VmbDomainInfo *info)
{
    VMB_DOMAIN_CALL(domain);
    g_autoptr(VmbXml) document =
        vmb_xml_parse(xml, "domain", "the domain's XML", VMB_ERROR_FAILED, NULL);
    xmlNode *devices =
        document != NULL ? vmb_xml_child(xmlDocGetRootElement(document), "devices") : NULL;
    for (guint i = 0; i < info->disks->len; i++) {
        VmbDiskInfo *disk = g_ptr_array_index(info->disks, i);
        if (strcmp(disk->source_type, "volume") != 0 || disk->layers->len == 0)
            continue;
        VmbDiskLayer *active = g_ptr_array_index(disk->layers, 0);
        xmlNode *node = find_disk_node(devices, disk->target);
        if (active->path == NULL)
            active->path = volume_path(vmb_connection_handle(vmb_domain_connection(domain)),
                                       vmb_xml_child(node, "source"));
    }
}

static void
judge_bitmaps(VmbDiskInfo *disk)
{
    if (!disk->has_medium || disk->no_bitmaps_why != NULL)
        return;
    VmbDiskLayer *active = g_ptr_array_index(disk->layers, 0);
    if (strcmp(disk->format, "qcow2") != 0) {
        disk->no_bitmaps_why =
            g_strdup_printf("its format is %s, and only qcow2 holds dirty bitmaps", disk->format);
        return;
    }
    if (active->path == NULL) {
        disk->no_bitmaps_why = g_strdup_printf(
            "its image is behind a source of type '%s', where its header cannot be read",
            disk->source_type);
        return;
    }
    VmbImageProbe probe;
    vmb_image_probe(active->path, &probe);
    disk->bitmaps = probe.bitmaps;
    disk->cluster_size = probe.cluster_size;
    disk->no_bitmaps_why = probe.why;
    if (active->data_file == NULL)
        active->data_file = g_steal_pointer(&probe.data_file);
    g_free(probe.data_file);
}

/* Lower layers may have external data files as well; what cannot be read is left out. */
static void
find_data_files(VmbDiskInfo *disk)
{
    for (guint i = 1; i < disk->layers->len; i++) {
        VmbDiskLayer *layer = g_ptr_array_index(disk->layers, i);
        if (layer->path == NULL || layer->data_file != NULL || strcmp(layer->format, "qcow2") != 0)
            continue;
        VmbImageProbe probe;
        vmb_image_probe(layer->path, &probe);
        layer->data_file = probe.data_file;
        g_free(probe.why);
    }
}

static gboolean
read_size(VmbDomain *domain, VmbDiskInfo *disk, GError **error)
{
    VMB_DOMAIN_CALL(domain);
    virDomainBlockInfo info;
    if (!disk->has_medium)
        return TRUE;
    if (virDomainGetBlockInfo(vmb_domain_handle(domain), disk->target, &info, 0) < 0) {
        gboolean matters = disk->device == VMB_DEVICE_DISK || disk->device == VMB_DEVICE_LUN;
        return !matters ||
               vmb_virt_error(error, VMB_ERROR_DOMAIN, "domain '%s', disk %s: cannot read its size",
                              vmb_domain_name(domain), disk->target);
    }
    if (info.capacity > VMB_SIZE_MAX)
        return vmb_error_set(
            error, VMB_ERROR_DOMAIN,
            "domain '%s', disk %s: %llu bytes are more than the 64 TiB that can be "
            "backed up; leave it out with --exclude-disk %s",
            vmb_domain_name(domain), disk->target, info.capacity, disk->target);
    disk->size = info.capacity;
    disk->allocation = info.allocation;
    /* Of a running domain that is how far the file has been written, holes and all. */
    const VmbDiskLayer *active = g_ptr_array_index(disk->layers, 0);
    struct stat st;
    if (active->path != NULL && stat(active->path, &st) == 0 && S_ISREG(st.st_mode))
        disk->allocation = MIN(disk->allocation, (guint64)st.st_blocks * 512);
    return TRUE;
}

static char *
get_xml(VmbDomain *domain, unsigned int flags, GError **error)
{
    VMB_DOMAIN_CALL(domain);
    char *raw = virDomainGetXMLDesc(vmb_domain_handle(domain), flags);
    if (raw == NULL) {
        vmb_virt_error(
            error, VMB_ERROR_DOMAIN,
            "cannot read the XML of the domain '%s' (a read-only connection may not see its "
            "secrets)",
            vmb_domain_name(domain));
        return NULL;
    }
    char *xml = g_strdup(raw);
    free(raw);
    return xml;
}

static gboolean
complete(VmbDomain *domain, const char *xml, VmbDomainInfo *info, GError **error)
{
    vmb_domain_info_resolve_volumes(domain, xml, info);
    for (guint i = 0; i < info->disks->len; i++) {
        VmbDiskInfo *disk = g_ptr_array_index(info->disks, i);
        if (info->offline)
            vmb_image_chain_find(disk);
        if (disk->offline_why == NULL && !read_size(domain, disk, error))
            return FALSE;
        judge_bitmaps(disk);
        find_data_files(disk);
    }
    g_autoptr(VmbXml) document =
        vmb_xml_parse(xml, "domain", "the domain's XML", VMB_ERROR_FAILED, error);
    if (document == NULL)
        return FALSE;
    info->tpm_dir = vmb_tpm_state_dir(vmb_connection_uri(vmb_domain_connection(domain)),
                                      vmb_domain_uuid(domain),
                                      vmb_xml_child(xmlDocGetRootElement(document), "devices"));
    info->inactive_xml = get_xml(domain, VIR_DOMAIN_XML_INACTIVE | VIR_DOMAIN_XML_SECURE, error);
    return info->inactive_xml != NULL;
}

VmbDomainInfo *
vmb_domain_inspect(VmbDomain *domain, GError **error)
{
    VmbDomainState state;
    if (!vmb_domain_state(domain, &state, error) ||
        (state.active && !vmb_domain_check_answers(domain, error)))
        return NULL;
    g_autofree char *xml = get_xml(domain,
                                   VIR_DOMAIN_XML_SECURE |
                                       (state.active ? 0 : VIR_DOMAIN_XML_INACTIVE), error);
    g_autoptr(VmbDomainInfo) info = xml != NULL ? vmb_domain_info_from_xml(xml, error) : NULL;
    if (info == NULL) {
        g_prefix_error(error, "domain '%s': ", vmb_domain_name(domain));
        return NULL;
    }
    info->offline = !state.active;
    if (info->offline)
        g_clear_pointer(&info->live_xml, g_free);
    if (!complete(domain, xml, info, error))
        return NULL;
    return g_steal_pointer(&info);
}
