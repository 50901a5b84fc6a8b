/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Fuzz target: the XML of a domain that runs, into disks, layers, firmware and labels. */
#include "fuzz.h"
#include "virt/domain.h"
#include "virt/tpm.h"
#include "xml-mutator.h"
#include "xml-seeds.h"

/* Input: u8 (nothing); the XML. */

gsize LLVMFuzzerCustomMutator(guint8 *data, gsize size, gsize max_size, guint seed);

gsize
LLVMFuzzerCustomMutator(guint8 *data, gsize size, gsize max_size, guint seed)
{
    return fuzz_xml_mutate(data, size, max_size, seed, 1);
}

void
fuzz_set_up(void)
{
}

static gboolean
is_path_or_null(const char *path)
{
    return path == NULL || path[0] != '\0';
}

static void
check_disk(const VmbDiskInfo *disk)
{
    FUZZ_CHECK(disk->target != NULL && disk->target[0] != '\0');
    FUZZ_CHECK(g_str_has_prefix(disk->id, "serial:") || g_str_has_prefix(disk->id, "target:"));
    FUZZ_CHECK(disk->format != NULL && disk->source_type != NULL);
    FUZZ_CHECK(disk->has_medium || disk->layers->len == 0 ||
               ((VmbDiskLayer *)disk->layers->pdata[0])->format != NULL);
    FUZZ_CHECK(disk->layers->len <= 1024);
    for (guint i = 0; i < disk->layers->len; i++) {
        const VmbDiskLayer *layer = disk->layers->pdata[i];
        FUZZ_CHECK(layer->format != NULL && is_path_or_null(layer->path));
        FUZZ_CHECK(is_path_or_null(layer->data_file));
    }
}

/* TRUE if no two disks have the same target. */
static gboolean
check_disks(const VmbDomainInfo *info)
{
    g_autoptr(GHashTable) targets = g_hash_table_new(g_str_hash, g_str_equal);
    g_autoptr(GHashTable) ids = g_hash_table_new(g_str_hash, g_str_equal);
    gboolean unique = TRUE;
    for (guint i = 0; i < info->disks->len; i++) {
        const VmbDiskInfo *disk = info->disks->pdata[i];
        check_disk(disk);
        unique &= g_hash_table_add(targets, disk->target);
        if (g_str_has_prefix(disk->id, "serial:"))
            FUZZ_CHECK(g_hash_table_add(ids, disk->id)); /* else it is no identity */
    }
    return unique;
}

void
fuzz_one(const guint8 *data, gsize length)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *xml = length > 0 ? fuzz_text(data + 1, length - 1) : g_strdup("");
    g_autoptr(VmbDomainInfo) info = vmb_domain_info_from_xml(xml, &error);
    if (info == NULL) {
        fuzz_check_error(error, VMB_ERROR_FAILED);
        return;
    }
    gboolean unique = check_disks(info);
    FUZZ_CHECK(is_path_or_null(info->nvram) && is_path_or_null(info->kernel));
    FUZZ_CHECK(info->qemu_uid == G_MAXUINT64 || info->qemu_uid < G_MAXUINT32);
    g_autofree char *difference = vmb_domain_info_compare_disks(info, info);
    FUZZ_CHECK(!unique || difference == NULL);
    g_autoptr(VmbXml) document = vmb_xml_parse(xml, "domain", "the XML", VMB_ERROR_FAILED, &error);
    FUZZ_CHECK(document != NULL);
    g_autofree char *tpm =
        vmb_tpm_state_dir("qemu:///system", "5f0c7a52-7d0f-4a57-9b6e-0f3d2c1b0a99",
                          vmb_xml_child(xmlDocGetRootElement(document), "devices"));
    FUZZ_CHECK(is_path_or_null(tpm));
}

void
fuzz_seeds(void)
{
    fuzz_xml_seeds(" ");
}
