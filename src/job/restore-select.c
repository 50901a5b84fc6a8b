/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A restore before it writes: which disks, from which files, and the XML that will fit them. */
#include "job/chain-read.h"
#include "job/restore-run.h"
#include "util/error.h"
#include "virt/restore-xml.h"

#include <string.h>

#define XML_LIMIT (16 * 1024 * 1024)

static void
restore_disk_free(VmbRestoreDisk *disk)
{
    vmb_chain_files_free(disk->files);
    g_free(disk->unverified);
    g_clear_pointer(&disk->links, g_array_unref);
    g_free(disk->name);
    g_free(disk);
}

static gboolean
is_chosen(const VmbRestoreOptions *options, const char *target)
{
    gboolean selective = options->disks != NULL && options->disks[0] != NULL;
    if (selective && !g_strv_contains(options->disks, target))
        return FALSE;
    return options->exclude == NULL || !g_strv_contains(options->exclude, target);
}

/* Layers whose digests are damaged are read as they are. */
static gboolean
open_damaged(VmbRestoreRun *run, VmbRestoreDisk *item, GError **error)
{
    item->unverified = g_new0(gboolean, item->links->len);
    item->files = vmb_chain_files_open_tolerant(item->links, run->result->domain, FALSE,
                                                item->unverified, error);
    if (item->files == NULL) {
        g_prefix_error(error, "disk %s cannot be read at all; other disks can be restored with "
                       "--disk, and points that do not build on it are whole: ",
                       item->disk->target);
        return FALSE;
    }
    if (!vmb_chain_count(vmb_chain_files_chain(item->files), &item->data, NULL))
        item->data = item->disk->size;
    for (guint i = 0; i < item->links->len; i++)
        if (item->unverified[i])
            vmb_restore_lose(run, g_array_index(item->links, VmbChainLink, i).point->id,
                             item->disk->target, NULL, 0, 0);
    return TRUE;
}

static gboolean
add_disk(VmbRestoreRun *run, const VmbManifestDisk *disk, GError **error)
{
    VmbRestoreDisk *item = g_new0(VmbRestoreDisk, 1);
    g_ptr_array_add(run->disks, item);
    item->disk = disk;
    item->name = g_strdup_printf("%s.%s", disk->target,
                                 run->options->format == VMB_RESTORE_RAW ? "raw" : "qcow2");
    item->links = vmb_repo_chain(run->points, run->point, disk->id, error);
    if (item->links == NULL)
        return FALSE;
    if (run->options->ignore_damage)
        return open_damaged(run, item, error);
    item->files =
        vmb_chain_files_open(item->links, run->result->domain, FALSE, TRUE, error);
    if (item->files != NULL &&
        vmb_chain_count(vmb_chain_files_chain(item->files), &item->data, error))
        return TRUE;
    vmb_restore_find_losses(run, item);
    return FALSE;
}

static void
note_missing(VmbRestoreRun *run)
{
    const VmbManifest *manifest = run->point->manifest;
    for (guint i = 0; i < manifest->skipped->len; i++) {
        const VmbSkippedDisk *skipped = manifest->skipped->pdata[i];
        g_ptr_array_add(run->result->missing,
                        g_strdup_printf("%s: %s", skipped->target,
                                        vmb_reason_meaning(skipped->reason)));
    }
}

gboolean
vmb_restore_select(VmbRestoreRun *run, GError **error)
{
    const VmbManifest *manifest = run->point->manifest;
    run->disks = g_ptr_array_new_with_free_func((GDestroyNotify)restore_disk_free);
    if (!vmb_manifest_check_targets(manifest, run->options->disks, error) ||
        !vmb_manifest_check_targets(manifest, run->options->exclude, error))
        return FALSE;
    for (guint i = 0; i < manifest->disks->len; i++) {
        const VmbManifestDisk *disk = manifest->disks->pdata[i];
        if (is_chosen(run->options, disk->target) && !add_disk(run, disk, error))
            return FALSE;
    }
    if (run->disks->len == 0)
        return vmb_error_set(error, VMB_ERROR_USAGE, "no disk is left to restore");
    note_missing(run);
    return TRUE;
}

/* ---- the XML ---- */

static const VmbManifestFile *
find_role(const VmbManifest *manifest, const char *role)
{
    for (guint i = 0; i < manifest->files->len; i++) {
        const VmbManifestFile *file = manifest->files->pdata[i];
        if (g_strcmp0(file->role, role) == 0)
            return file;
    }
    return NULL;
}

static char *
read_xml(VmbRestoreRun *run, GError **error)
{
    g_autofree char *xml = NULL;
    guint8 digest[VMB_DIGEST_SIZE];
    gsize length = 0, size = sizeof digest;
    const VmbManifestFile *file = find_role(run->point->manifest, "inactive-xml");
    if (file == NULL) {
        vmb_error_set(error, VMB_ERROR_DAMAGE, "%s/%s holds no domain XML", run->result->domain,
                      run->point->id);
        return NULL;
    }
    g_auto(VmbFd) dir = vmb_point_open_dir(run->point, error);
    if (dir < 0 || !vmb_fs_read_file(dir, file->name, XML_LIMIT, &xml, &length, error))
        return NULL;
    g_autoptr(GChecksum) sum = g_checksum_new(G_CHECKSUM_SHA256);
    g_checksum_update(sum, (const guchar *)xml, (gssize)length);
    g_checksum_get_digest(sum, digest, &size);
    if (memcmp(digest, file->digest, sizeof digest) != 0 || strlen(xml) != length) {
        vmb_error_set(error, VMB_ERROR_DAMAGE,
                      "%s/%s: %s differs from its digest; the disks may be whole, and another "
                      "point may have the XML", run->result->domain, run->point->id, file->name);
        return NULL;
    }
    return g_steal_pointer(&xml);
}

/* Path that a file of this role will have; NULL if the point has none. */
static char *
path_of_role(VmbRestoreRun *run, const char *directory, const char *role)
{
    const VmbManifestFile *file = find_role(run->point->manifest, role);
    return file != NULL ? g_build_filename(directory, file->name, NULL) : NULL;
}

static VmbRestoreXmlDisk *
xml_disks(VmbRestoreRun *run, const char *directory, GPtrArray *paths)
{
    const VmbManifest *manifest = run->point->manifest;
    guint n = manifest->disks->len;
    VmbRestoreXmlDisk *disks = g_new0(VmbRestoreXmlDisk, n + 1);
    for (guint i = 0; i < n; i++) {
        const VmbManifestDisk *disk = manifest->disks->pdata[i];
        disks[i].target = disk->target; /* without a path it is left out of the XML */
        disks[i].format = run->options->format == VMB_RESTORE_RAW ? "raw" : "qcow2";
        for (guint d = 0; d < run->disks->len; d++) {
            const VmbRestoreDisk *item = run->disks->pdata[d];
            if (item->disk != disk)
                continue;
            g_ptr_array_add(paths, g_build_filename(directory, item->name, NULL));
            disks[i].path = paths->pdata[paths->len - 1];
        }
    }
    return disks;
}

gboolean
vmb_restore_make_xml(VmbRestoreRun *run, const char *directory, GError **error)
{
    const VmbRestoreOptions *options = run->options;
    g_autoptr(GPtrArray) paths = g_ptr_array_new_with_free_func(g_free);
    g_autofree char *stored = read_xml(run, error);
    if (stored == NULL)
        return FALSE;
    g_autofree VmbRestoreXmlDisk *disks = xml_disks(run, directory, paths);
    g_autofree char *nvram = path_of_role(run, directory, "nvram");
    g_autofree char *kernel = path_of_role(run, directory, "kernel");
    g_autofree char *initrd = path_of_role(run, directory, "initrd");
    g_autofree char *dtb = path_of_role(run, directory, "dtb");
    VmbRestoreXmlOptions xml = {.disks = disks,
                                .n_disks = run->point->manifest->disks->len,
                                .log_dir = directory,
                                .nvram = nvram,
                                .kernel = kernel,
                                .initrd = initrd,
                                .dtb = dtb,
                                .name = options->name,
                                .new_identity = options->name != NULL,
                                .keep_uuid = options->keep_uuid,
                                .keep_macs = options->keep_mac,
                                .allow = options->allow};
    run->xml = vmb_restore_xml(stored, &xml, error);
    return run->xml != NULL;
}
