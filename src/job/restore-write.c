/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A restore while it writes: images from chains, the other files as they are, domain.xml last. */
#include "block/digest.h"
#include "image/qcow2-writer.h"
#include "image/raw-writer.h"
#include "job/chain-read.h"
#include "job/restore-run.h"
#include "util/error.h"
#include "util/fault.h"
#include "util/units.h"

#include <fcntl.h>
#include <string.h>

#define COPY_STEP (1024 * 1024)
/* Write-back of a raw file is started whenever so much has gathered, so that the disk works while we
 * decode and the last fsync is short. */
#define WRITEBACK_STEP (16 * VMB_MIB)

/* ---- images ---- */

typedef struct {
    VmbQcow2Writer *writer; /* NULL: raw */
    int fd;
    guint64 size;
    const char *label;
    guint64 written;
    guint64 pending, pending_from; /* raw: bytes without write-back yet, and where they begin */
} Target;

static gboolean
write_raw(Target *target, const VmbChunk *chunk, GError **error)
{
    guint64 end = chunk->offset + chunk->length;
    if (!vmb_raw_writer_chunk(target->fd, chunk, target->size, target->label, error))
        return FALSE;
    if (target->pending == 0)
        target->pending_from = chunk->offset;
    target->pending += chunk->length;
    if (target->pending < WRITEBACK_STEP)
        return TRUE;
    /* Only a hint: a filesystem that cannot do it does it at the fsync. */
    (void)sync_file_range(target->fd, (off_t)target->pending_from,
                          (off_t)(end - target->pending_from), SYNC_FILE_RANGE_WRITE);
    target->pending = 0;
    return TRUE;
}

static gboolean
write_chunk(const VmbChunk *chunk, gpointer user, GError **error)
{
    Target *target = user;
    if (target->written == 0 && !vmb_fault_point("restore-disk-data", error))
        return FALSE;
    target->written += chunk->length;
    if (target->writer == NULL)
        return write_raw(target, chunk, error);
    for (guint i = 0; i < chunk->n_blocks; i++)
        if (!vmb_qcow2_writer_block(target->writer, chunk->offset + (guint64)i * VMB_BLOCK_SIZE,
                                    VMB_BLOCK_PLAIN, chunk->data + (gsize)i * VMB_BLOCK_SIZE,
                                    VMB_BLOCK_SIZE, error))
            return FALSE;
    return TRUE;
}

/* What the windows did not show must be whole as well: a digest file is small, and one that was cut or
 * exchanged is no proof of anything. */
gboolean
vmb_restore_check_digests(const VmbRestoreDisk *disk, GError **error)
{
    for (guint i = 0; i < disk->links->len; i++) {
        const VmbChainLink *link = &g_array_index(disk->links, VmbChainLink, i);
        guint8 digest[VMB_DIGEST_SIZE];
        if (!vmb_chain_digests_end(vmb_chain_files_chain(disk->files), i, digest, error))
            return FALSE;
        if (memcmp(digest, link->disk->digests_digest, VMB_DIGEST_SIZE) != 0)
            return vmb_error_set(error, VMB_ERROR_DAMAGE,
                                 "point %s disk %s: %s differs from the digest in the manifest; "
                                 "`vmbackup verify` says more", link->point->id,
                                 link->disk->target, link->disk->digests);
    }
    return TRUE;
}

static gboolean
write_image(VmbRestoreRun *run, const VmbRestoreDisk *disk, Target *target, GError **error)
{
    VmbQcow2WriterOptions options = {.size = disk->disk->size, .label = target->label};
    g_autoptr(VmbQcow2Writer) writer = NULL;
    VmbChainRead read = {.chain = vmb_chain_files_chain(disk->files),
                         .emit = write_chunk,
                         .user = target,
                         .cancel = run->options->cancel,
                         .progress = run->progress};
    if (run->options->format == VMB_RESTORE_QCOW2) {
        writer = target->writer = vmb_qcow2_writer_new(target->fd, &options, error);
        if (writer == NULL)
            return FALSE;
    } else if (!vmb_raw_writer_prepare(target->fd, disk->disk->size, target->label, error)) {
        return FALSE;
    }
    g_autoptr(VmbLosses) losses = run->options->ignore_damage ? vmb_losses_new() : NULL;
    read.losses = losses;
    if (!vmb_chain_read(&read, error) || (losses == NULL && !vmb_restore_check_digests(disk, error)))
        return FALSE;
    if (losses != NULL)
        vmb_restore_take_losses(run, disk, losses);
    return writer == NULL || vmb_qcow2_writer_finish(writer, NULL, error);
}

static gboolean
write_or_tell(VmbRestoreRun *run, const VmbRestoreDisk *disk, Target *target, GError **error)
{
    g_autoptr(GError) local = NULL;
    if (write_image(run, disk, target, &local))
        return TRUE;
    if (g_error_matches(local, VMB_ERROR, VMB_ERROR_DAMAGE) && !run->options->ignore_damage)
        vmb_restore_find_losses(run, disk);
    g_propagate_error(error, g_steal_pointer(&local));
    return FALSE;
}

static gboolean
restore_disk(VmbRestoreRun *run, const VmbRestoreDisk *disk, GError **error)
{
    g_autofree char *path =
        g_build_filename(vmb_restore_stage_directory(run->stage), disk->name, NULL);
    g_auto(VmbFd) fd = vmb_restore_stage_create(run->stage, disk->name, error);
    if (fd < 0)
        return FALSE;
    Target target = {.fd = fd, .size = disk->disk->size, .label = path};
    if (!write_or_tell(run, disk, &target, error) || !vmb_fault_point("restore-disk-done", error)) {
        g_prefix_error(error, "%s/%s was not restored, nothing is left of the attempt: ",
                       run->result->domain, run->result->point);
        return FALSE;
    }
    VmbRestoredDisk *restored = g_new0(VmbRestoredDisk, 1);
    restored->target = g_strdup(disk->disk->target);
    restored->path = g_steal_pointer(&path);
    restored->size = disk->disk->size;
    restored->written = target.written;
    g_ptr_array_add(run->result->disks, restored);
    return TRUE;
}

/* ---- other files ---- */

static gboolean
copy_checked(int from, int to, const VmbManifestFile *file, GError **error)
{
    g_autofree guchar *buffer = g_malloc(COPY_STEP);
    g_autoptr(VmbDigest) hasher = vmb_digest_new();
    guint8 digest[VMB_DIGEST_SIZE];
    for (guint64 offset = 0; offset < file->size;) {
        gsize step = (gsize)MIN(file->size - offset, COPY_STEP);
        if (!vmb_fs_pread(from, buffer, step, offset, file->name, error) ||
            !vmb_fs_pwrite(to, buffer, step, offset, file->name, error))
            return FALSE;
        vmb_digest_update(hasher, buffer, step);
        offset += step;
    }
    vmb_digest_finish(hasher, digest);
    return memcmp(digest, file->digest, sizeof digest) == 0 ||
           vmb_error_set(error, VMB_ERROR_DAMAGE, "%s differs from its digest", file->name);
}

static gboolean
restore_file(VmbRestoreRun *run, const VmbManifestFile *file, GError **error)
{
    g_auto(VmbFd) from = vmb_point_open_file(run->point, file->name, error);
    g_auto(VmbFd) to = from >= 0 ? vmb_restore_stage_create(run->stage, file->name, error) : -1;
    g_autoptr(GError) local = NULL;
    if (to < 0)
        return FALSE;
    if (copy_checked(from, to, file, &local))
        return TRUE;
    if (g_error_matches(local, VMB_ERROR, VMB_ERROR_DAMAGE)) {
        vmb_restore_lose(run, run->point->id, NULL, file->name, 0, 0);
        if (run->options->ignore_damage)
            return TRUE; /* it is there as far as it could be read */
    }
    g_propagate_error(error, g_steal_pointer(&local));
    return FALSE;
}

static gboolean
is_main_xml(const VmbManifestFile *file)
{
    return g_strcmp0(file->role, "inactive-xml") == 0;
}

static gboolean
restore_xml(VmbRestoreRun *run, GError **error)
{
    g_auto(VmbFd) fd = vmb_restore_stage_create(run->stage, "domain.xml", error);
    run->result->xml_path =
        g_build_filename(vmb_restore_stage_directory(run->stage), "domain.xml", NULL);
    return fd >= 0 &&
           vmb_fs_pwrite(fd, run->xml, strlen(run->xml), 0, run->result->xml_path, error);
}

/* domain.xml is moved to its name last: where it stands, the rest is whole. */
static gboolean
reserve_names(VmbRestoreRun *run, GError **error)
{
    const GPtrArray *files = run->point->manifest->files;
    for (guint i = 0; i < run->disks->len; i++)
        if (!vmb_restore_stage_reserve(run->stage, ((VmbRestoreDisk *)run->disks->pdata[i])->name,
                                       error))
            return FALSE;
    for (guint i = 0; i < files->len; i++)
        if (!is_main_xml(files->pdata[i]) &&
            !vmb_restore_stage_reserve(run->stage, ((VmbManifestFile *)files->pdata[i])->name,
                                       error))
            return FALSE;
    return vmb_restore_stage_reserve(run->stage, "domain.xml", error);
}

gboolean
vmb_restore_write(VmbRestoreRun *run, GError **error)
{
    const GPtrArray *files = run->point->manifest->files;
    if (!reserve_names(run, error))
        return FALSE;
    vmb_progress_phase(run->progress, "restoring");
    for (guint i = 0; i < files->len; i++)
        if (!is_main_xml(files->pdata[i]) && !restore_file(run, files->pdata[i], error))
            return FALSE;
    for (guint i = 0; i < run->disks->len; i++)
        if (!restore_disk(run, run->disks->pdata[i], error))
            return FALSE;
    return restore_xml(run, error);
}
