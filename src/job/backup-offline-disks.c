/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The disks of a shut-off domain are served to us as those of a running one are by its QEMU. */
#include "job/backup-offline.h"

VmbNbdServer *
vmb_offline_serve(VmbBackupRun *run, const VmbPlanDisk *disk, GError **error)
{
    const GPtrArray *layers = disk->info->layers;
    g_autofree VmbServeLayer *serve = g_new0(VmbServeLayer, layers->len);
    for (guint i = 0; i < layers->len; i++) {
        const VmbDiskLayer *layer = layers->pdata[i];
        serve[i] = (VmbServeLayer){layer->path, layer->format, layer->data_file};
    }
    g_autofree char *chain = vmb_nbd_server_chain(serve, layers->len);
    const char *bitmap =
        disk->method == VMB_METHOD_OFFLINE ? disk->parent_disk->checkpoint : NULL;
    return vmb_nbd_server_start(chain, disk->info->target, bitmap, run->offline->socket, error);
}
