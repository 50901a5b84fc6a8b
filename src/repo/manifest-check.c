/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Whether the numbers and lists of a manifest fit together. */
#include "image/digest-format.h"
#include "image/qcow2-format.h"
#include "repo/manifest-json.h"
#include "util/error.h"
#include "util/units.h"

#define FIXED_BLOCKS 1024u /* header, L1 and refcount tables of the largest disk, with room */

static guint64
blocks_of(const VmbManifestDisk *disk)
{
    return vmb_round_up(disk->size, VMB_BLOCK_SIZE) / VMB_BLOCK_SIZE;
}

static gboolean
check_level(const VmbManifestDisk *disk, GError **error)
{
    if (disk->level == VMB_LEVEL_FULL) {
        if (disk->parent != NULL || disk->base_checkpoint != NULL)
            return vmb_error_set(error, VMB_ERROR_DAMAGE, "a full with a parent");
        /* By bitmap: a synthetic full. */
        if (disk->method == VMB_METHOD_COMPARE)
            return vmb_error_set(error, VMB_ERROR_DAMAGE, "a full by the method '%s'",
                                 vmb_method_name(disk->method));
        return TRUE;
    }
    if (disk->parent == NULL)
        return vmb_error_set(error, VMB_ERROR_DAMAGE, "an incremental without a parent");
    if (disk->method == VMB_METHOD_FULL)
        return vmb_error_set(error, VMB_ERROR_DAMAGE, "an incremental by the method 'full'");
    if (disk->method == VMB_METHOD_BITMAP && disk->base_checkpoint == NULL)
        return vmb_error_set(error, VMB_ERROR_DAMAGE, "a bitmap without its checkpoint");
    return TRUE;
}

static gboolean
check_image(const VmbManifestDisk *disk, GError **error)
{
    guint64 blocks = blocks_of(disk);
    if (disk->data_blocks > blocks || disk->zero_blocks > blocks - disk->data_blocks)
        return vmb_error_set(error, VMB_ERROR_DAMAGE, "more blocks than the disk has");
    guint64 data_bytes = disk->data_blocks * VMB_BLOCK_SIZE;
    if (disk->stored_bytes > data_bytes || (!disk->compressed && disk->stored_bytes != data_bytes))
        return vmb_error_set(error, VMB_ERROR_DAMAGE, "'stored_bytes' does not fit 'data_blocks'");
    /* Frames and plain clusters share no cluster, so that up to half of a file may be unused. */
    guint64 tables = blocks / VMB_QCOW2_L2_ENTRIES + 1;
    guint64 limit = 2 * (blocks + tables + FIXED_BLOCKS) * VMB_BLOCK_SIZE;
    if (disk->image_size < VMB_BLOCK_SIZE + disk->stored_bytes || disk->image_size > limit)
        return vmb_error_set(error, VMB_ERROR_DAMAGE, "an image of implausible size");
    return TRUE;
}

static gboolean
check_digests(const VmbManifestDisk *disk, GError **error)
{
    guint64 size = disk->digests_size;
    if (size < VMB_DIGEST_FILE_HEADER ||
        (size - VMB_DIGEST_FILE_HEADER) % VMB_DIGEST_FILE_RECORD != 0)
        return vmb_error_set(error, VMB_ERROR_DAMAGE, "a digest file of implausible size");
    guint64 records = (size - VMB_DIGEST_FILE_HEADER) / VMB_DIGEST_FILE_RECORD;
    if (records < disk->data_blocks || records > blocks_of(disk))
        return vmb_error_set(error, VMB_ERROR_DAMAGE, "a digest file of implausible size");
    return TRUE;
}

gboolean
vmb_manifest_check_disk(const VmbManifestDisk *disk, GError **error)
{
    if (disk->size == 0 || disk->size > VMB_SIZE_MAX)
        return vmb_error_set(error, VMB_ERROR_DAMAGE, "a size beyond 1 byte to 64 TiB");
    return check_level(disk, error) && check_image(disk, error) && check_digests(disk, error);
}

static gboolean
add_unique(GHashTable *seen, const char *text, const char *what, GError **error)
{
    if (!g_hash_table_add(seen, (gpointer)text))
        return vmb_error_set(error, VMB_ERROR_DAMAGE, "%s '%s' appears twice", what, text);
    return TRUE;
}

static gboolean
check_targets(const VmbManifest *manifest, GError **error)
{
    g_autoptr(GHashTable) targets = g_hash_table_new(g_str_hash, g_str_equal);
    g_autoptr(GHashTable) ids = g_hash_table_new(g_str_hash, g_str_equal);
    for (guint i = 0; i < manifest->disks->len; i++) {
        const VmbManifestDisk *disk = manifest->disks->pdata[i];
        if (!add_unique(targets, disk->target, "disk", error) ||
            !add_unique(ids, disk->id, "disk identity", error))
            return FALSE;
    }
    for (guint i = 0; i < manifest->skipped->len; i++) {
        const VmbSkippedDisk *disk = manifest->skipped->pdata[i];
        if (!add_unique(targets, disk->target, "disk", error))
            return FALSE;
    }
    return TRUE;
}

static gboolean
check_files(const VmbManifest *manifest, GError **error)
{
    g_autoptr(GHashTable) names = g_hash_table_new(g_str_hash, g_str_equal);
    for (guint i = 0; i < manifest->disks->len; i++) {
        const VmbManifestDisk *disk = manifest->disks->pdata[i];
        if (!add_unique(names, disk->image, "file", error) ||
            !add_unique(names, disk->digests, "file", error))
            return FALSE;
    }
    for (guint i = 0; i < manifest->files->len; i++) {
        const VmbManifestFile *file = manifest->files->pdata[i];
        if (!add_unique(names, file->name, "file", error))
            return FALSE;
    }
    return TRUE;
}

static gboolean
check_parents(const VmbManifest *manifest, GError **error)
{
    VmbLevel level = VMB_LEVEL_FULL;
    for (guint i = 0; i < manifest->disks->len; i++) {
        const VmbManifestDisk *disk = manifest->disks->pdata[i];
        if (disk->level == VMB_LEVEL_INCREMENTAL)
            level = VMB_LEVEL_INCREMENTAL;
        if (g_strcmp0(disk->parent, manifest->id) == 0)
            return vmb_error_set(error, VMB_ERROR_DAMAGE, "disk %s: the point is its own parent",
                                 disk->target);
    }
    if (level != manifest->level)
        return vmb_error_set(error, VMB_ERROR_DAMAGE,
                             "'level' does not fit the levels of its disks");
    return TRUE;
}

gboolean
vmb_manifest_check(const VmbManifest *manifest, GError **error)
{
    return check_targets(manifest, error) && check_files(manifest, error) &&
           check_parents(manifest, error);
}
