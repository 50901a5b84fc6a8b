/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A restore of disks alone, to where no file is made: streams, block devices, NBD exports. */
#include "job/chain-read.h"
#include "job/destination.h"
#include "job/restore-run.h"
#include "util/error.h"
#include "util/fault.h"
#include "util/units.h"

#include <string.h>

typedef struct {
    VmbDestination *destination;
    guint64 size;
    guint64 position; /* all before it is written */
    guint64 written;  /* bytes of data */
} Out;

static gboolean
advance(Out *out, const void *data, guint64 length, GError **error)
{
    if (length > 0 && !vmb_destination_write(out->destination, data, out->position, length, error))
        return FALSE;
    out->position += length;
    return TRUE;
}

/* Runs of blocks of one kind: what is zero is given as that. */
static gboolean
write_blocks(Out *out, const VmbChunk *chunk, GError **error)
{
    for (guint i = 0, n; i < chunk->n_blocks; i += n) {
        gboolean data = vmb_block_has_data(&chunk->blocks[i]);
        for (n = 1; i + n < chunk->n_blocks && vmb_block_has_data(&chunk->blocks[i + n]) == data;)
            n++;
        guint64 length = MIN(n * (guint64)VMB_BLOCK_SIZE, out->size - out->position);
        if (!advance(out, data ? chunk->data + (gsize)i * VMB_BLOCK_SIZE : NULL, length, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean
write_chunk(const VmbChunk *chunk, gpointer user, GError **error)
{
    Out *out = user;
    if (chunk->data == NULL)
        return TRUE;
    if (out->written == 0 && !vmb_fault_point("restore-disk-data", error))
        return FALSE;
    out->written += chunk->length;
    return advance(out, NULL, chunk->offset - out->position, error) && write_blocks(out, chunk, error);
}

static gboolean
write_disk(VmbRestoreRun *run, const VmbRestoreDisk *disk, Out *out, GError **error)
{
    g_autoptr(VmbLosses) losses = run->options->ignore_damage ? vmb_losses_new() : NULL;
    VmbChainRead read = {.chain = vmb_chain_files_chain(disk->files),
                         .emit = write_chunk,
                         .user = out,
                         .losses = losses,
                         .cancel = run->options->cancel,
                         .progress = run->progress};
    if (!vmb_chain_read(&read, error) ||
        (losses == NULL && !vmb_restore_check_digests(disk, error)) ||
        !advance(out, NULL, out->size - out->position, error))
        return FALSE;
    if (losses != NULL)
        vmb_restore_take_losses(run, disk, losses);
    return vmb_destination_finish(out->destination, error);
}

static const char *
destination_of(const VmbRestoreRun *run, const char *target)
{
    const VmbRestoreOptions *options = run->options;
    for (guint i = 0; options->disks != NULL && options->disks[i] != NULL; i++)
        if (strcmp(options->disks[i], target) == 0)
            return options->destinations[i];
    return options->destinations[0]; /* the only disk, which nobody needed to name */
}

static gboolean
restore_disk(VmbRestoreRun *run, const VmbRestoreDisk *disk, VmbDestination *destination,
             GError **error)
{
    g_autoptr(GError) local = NULL;
    /* As the guest sees it: whole sectors. */
    Out out = {.destination = destination, .size = vmb_round_up(disk->disk->size, 512)};
    if (!write_disk(run, disk, &out, &local) || !vmb_fault_point("restore-disk-done", &local)) {
        if (g_error_matches(local, VMB_ERROR, VMB_ERROR_DAMAGE) && !run->options->ignore_damage)
            vmb_restore_find_losses(run, disk);
        g_propagate_prefixed_error(error, g_steal_pointer(&local),
                                   "what was written of it is not the whole disk and of no use (%"
                                   G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT " bytes): ", out.position,
                                   out.size);
        return FALSE;
    }
    VmbRestoredDisk *restored = g_new0(VmbRestoredDisk, 1);
    restored->target = g_strdup(disk->disk->target);
    restored->path = g_strdup(destination_of(run, disk->disk->target));
    restored->size = out.size;
    restored->written = out.written;
    g_ptr_array_add(run->result->disks, restored);
    return TRUE;
}

/* All are opened before the first byte is written to any. */
gboolean
vmb_restore_out(VmbRestoreRun *run, GError **error)
{
    g_autoptr(GPtrArray) all =
        g_ptr_array_new_with_free_func((GDestroyNotify)vmb_destination_free);
    if (run->options->disks == NULL && run->disks->len != 1)
        return vmb_error_set(error, VMB_ERROR_USAGE,
                             "the point holds %u disks: choose the one to write with --disk",
                             run->disks->len);
    for (guint i = 0; i < run->disks->len; i++) {
        const VmbManifestDisk *disk = ((VmbRestoreDisk *)run->disks->pdata[i])->disk;
        g_autofree char *label = g_strdup_printf("%s/%s disk %s", run->result->domain,
                                                 run->result->point, disk->target);
        VmbDestination *destination =
            vmb_destination_open(destination_of(run, disk->target), vmb_round_up(disk->size, 512),
                                 label, run->options->cancel, error);
        if (destination == NULL)
            return FALSE;
        g_ptr_array_add(all, destination);
        vmb_progress_add_total(run->progress, ((VmbRestoreDisk *)run->disks->pdata[i])->data);
    }
    vmb_progress_phase(run->progress, "restoring");
    for (guint i = 0; i < run->disks->len; i++)
        if (!restore_disk(run, run->disks->pdata[i], all->pdata[i], error))
            return FALSE;
    return TRUE;
}
