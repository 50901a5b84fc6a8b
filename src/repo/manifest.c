/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The manifest in memory: making, freeing, names of its words, looking things up. */
#include "repo/manifest-json.h"
#include "util/error.h"

#include <string.h>

const char *
vmb_level_name(VmbLevel level)
{
    return level == VMB_LEVEL_FULL ? "full" : "incremental";
}

const char *
vmb_method_name(VmbMethod method)
{
    static const char *const names[] = {"full", "bitmap", "compare", "offline"};
    g_return_val_if_fail((guint)method < G_N_ELEMENTS(names), "?");
    return names[method];
}

const char *
vmb_consistency_name(VmbConsistency consistency)
{
    static const char *const names[] = {"crash", "paused", "filesystem", "application", "offline"};
    g_return_val_if_fail((guint)consistency < G_N_ELEMENTS(names), "?");
    return names[consistency];
}

static GPtrArray *
array_of(void (*free_function)(gpointer))
{
    return g_ptr_array_new_with_free_func(free_function);
}

VmbManifest *
vmb_manifest_new(void)
{
    VmbManifest *manifest = g_new0(VmbManifest, 1);
    manifest->reasons = array_of((GDestroyNotify)vmb_reason_free);
    manifest->disks = array_of((GDestroyNotify)vmb_manifest_disk_free);
    manifest->skipped = array_of((GDestroyNotify)vmb_skipped_disk_free);
    manifest->files = array_of((GDestroyNotify)vmb_manifest_file_free);
    return manifest;
}

void
vmb_manifest_free(VmbManifest *manifest)
{
    if (manifest == NULL)
        return;
    g_free(manifest->id);
    g_free(manifest->repository);
    g_free(manifest->tool);
    g_free(manifest->host);
    g_free(manifest->host_id);
    g_free(manifest->domain);
    g_free(manifest->uuid);
    g_free(manifest->quiesce);
    g_ptr_array_unref(manifest->reasons);
    g_ptr_array_unref(manifest->disks);
    g_ptr_array_unref(manifest->skipped);
    g_ptr_array_unref(manifest->files);
    g_clear_pointer(&manifest->guest, json_object_put);
    g_free(manifest);
}

VmbManifestDisk *
vmb_manifest_disk_new(void)
{
    VmbManifestDisk *disk = g_new0(VmbManifestDisk, 1);
    disk->reason = VMB_N_REASONS;
    disk->replaced_bytes = VMB_BYTES_UNKNOWN;
    disk->layers = array_of((GDestroyNotify)vmb_source_layer_free);
    return disk;
}

void
vmb_manifest_disk_free(VmbManifestDisk *disk)
{
    if (disk == NULL)
        return;
    g_free(disk->target);
    g_free(disk->id);
    g_free(disk->bus);
    g_free(disk->serial);
    g_free(disk->parent);
    g_free(disk->base_checkpoint);
    g_free(disk->checkpoint);
    g_clear_pointer(&disk->layers, g_ptr_array_unref);
    g_free(disk->image);
    g_free(disk->digests);
    g_free(disk->replaced_by);
    g_free(disk->synthetic_from);
    g_free(disk);
}

void
vmb_skipped_disk_free(VmbSkippedDisk *disk)
{
    if (disk == NULL)
        return;
    g_free(disk->target);
    g_free(disk->id);
    g_free(disk);
}

void
vmb_manifest_file_free(VmbManifestFile *file)
{
    if (file == NULL)
        return;
    g_free(file->name);
    g_free(file->role);
    g_free(file->origin);
    g_free(file);
}

void
vmb_source_layer_free(VmbSourceLayer *layer)
{
    if (layer == NULL)
        return;
    g_free(layer->path);
    g_free(layer->format);
    g_free(layer->header_digest);
    g_free(layer);
}

const VmbManifestDisk *
vmb_manifest_find_disk(const VmbManifest *manifest, const char *id)
{
    for (guint i = 0; i < manifest->disks->len; i++) {
        const VmbManifestDisk *disk = manifest->disks->pdata[i];
        if (strcmp(disk->id, id) == 0)
            return disk;
    }
    return NULL;
}

const VmbManifestDisk *
vmb_manifest_find_target(const VmbManifest *manifest, const char *target)
{
    for (guint i = 0; i < manifest->disks->len; i++) {
        const VmbManifestDisk *disk = manifest->disks->pdata[i];
        if (strcmp(disk->target, target) == 0)
            return disk;
    }
    return NULL;
}

gboolean
vmb_manifest_check_targets(const VmbManifest *manifest, const char *const *targets, GError **error)
{
    for (guint i = 0; targets != NULL && targets[i] != NULL; i++)
        if (vmb_manifest_find_target(manifest, targets[i]) == NULL)
            return vmb_error_set(error, VMB_ERROR_USAGE,
                                 "point %s/%s holds no disk '%s'; `vmbackup show %s/%s` lists its "
                                 "disks", manifest->domain, manifest->id, targets[i],
                                 manifest->domain, manifest->id);
    return TRUE;
}

guint64
vmb_manifest_stored(const VmbManifest *manifest)
{
    /* Parsing has bounded number and sizes, so that the sum cannot overflow. */
    guint64 bytes = 0;
    for (guint i = 0; i < manifest->disks->len; i++) {
        const VmbManifestDisk *disk = manifest->disks->pdata[i];
        bytes += disk->image_size + disk->digests_size;
    }
    for (guint i = 0; i < manifest->files->len; i++)
        bytes += ((const VmbManifestFile *)manifest->files->pdata[i])->size;
    return bytes;
}

VmbManifestDisk *
vmb_manifest_disk_copy(const VmbManifestDisk *disk, GError **error)
{
    g_autoptr(VmbJson) object = vmb_manifest_disk_write(disk);
    return vmb_manifest_disk_read(object, error);
}

void
vmb_manifest_replace_disk(VmbManifest *manifest, const VmbManifestDisk *entry)
{
    VmbManifestDisk *copy = vmb_manifest_disk_copy(entry, NULL);
    manifest->level = VMB_LEVEL_FULL;
    for (guint i = 0; i < manifest->disks->len; i++) {
        VmbManifestDisk *disk = manifest->disks->pdata[i];
        if (copy != NULL && strcmp(disk->id, entry->id) == 0) {
            vmb_manifest_disk_free(disk);
            disk = manifest->disks->pdata[i] = g_steal_pointer(&copy);
        }
        if (disk->level == VMB_LEVEL_INCREMENTAL)
            manifest->level = VMB_LEVEL_INCREMENTAL;
    }
    vmb_manifest_disk_free(copy);
}
