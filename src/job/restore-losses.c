/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a restore cannot give back, because it is damaged in the repository. */
#include "job/chain-read.h"
#include "job/restore-run.h"

void
vmb_restore_loss_free(VmbRestoreLoss *loss)
{
    if (loss == NULL)
        return;
    g_free(loss->point);
    g_free(loss->disk);
    g_free(loss->file);
    g_free(loss);
}

void
vmb_restore_lose(VmbRestoreRun *run, const char *point, const char *disk, const char *file,
                 guint64 offset, guint64 length)
{
    if (run->options->lost == NULL)
        return;
    VmbRestoreLoss *loss = g_new0(VmbRestoreLoss, 1);
    loss->point = g_strdup(point);
    loss->disk = g_strdup(disk);
    loss->file = g_strdup(file);
    loss->offset = offset;
    loss->length = length;
    g_ptr_array_add(run->options->lost, loss);
}

static const char *
point_of_layer(const VmbRestoreDisk *disk, guint layer)
{
    return g_array_index(disk->links, VmbChainLink, MIN(layer, disk->links->len - 1)).point->id;
}

void
vmb_restore_take_losses(VmbRestoreRun *run, const VmbRestoreDisk *disk, const VmbLosses *losses)
{
    for (guint i = 0; i < losses->ranges->len; i++) {
        const VmbLostRange *range = &g_array_index(losses->ranges, VmbLostRange, i);
        guint64 length = MIN(range->length, disk->disk->size - MIN(range->offset, disk->disk->size));
        vmb_restore_lose(run, point_of_layer(disk, range->layer), disk->disk->target, NULL,
                         range->offset, length);
    }
    /* Too many to be told one by one: between which bytes they are. */
    if (losses->rest < losses->rest_end)
        vmb_restore_lose(run, disk->links->len > 0 ? point_of_layer(disk, 0) : NULL,
                         disk->disk->target, NULL, losses->rest, losses->rest_end - losses->rest);
}

void
vmb_restore_find_losses(VmbRestoreRun *run, const VmbRestoreDisk *disk)
{
    g_autofree gboolean *unverified = g_new0(gboolean, disk->links->len);
    g_autoptr(VmbChainFiles) files = vmb_chain_files_open_tolerant(
        disk->links, run->result->domain, FALSE, unverified, NULL);
    g_autoptr(VmbLosses) losses = vmb_losses_new();
    if (files == NULL)
        return;
    VmbChainRead read = {.chain = vmb_chain_files_chain(files),
                         .losses = losses,
                         .cancel = run->options->cancel};
    if (vmb_chain_read(&read, NULL))
        vmb_restore_take_losses(run, disk, losses);
    for (guint i = 0; i < disk->links->len; i++)
        if (unverified[i])
            vmb_restore_lose(run, point_of_layer(disk, i), disk->disk->target, NULL, 0, 0);
}
