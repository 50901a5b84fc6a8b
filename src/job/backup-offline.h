/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a backup of a shut-off domain holds besides the rest of its run. Shared by the files of that story. */
#pragma once
#include "job/backup-run.h"
#include "nbd/server.h"
#include "virt/image-evidence.h"
#include "virt/lifecycle.h"

struct VmbOffline {
    VmbLifecycle *watch;
    GPtrArray *files;     /* VmbOfflineFile: all images behind the disks */
    GHashTable *recording;/* VmbPlanDisk that got a new bitmap */
    gboolean doubt;       /* what was read may not be of one moment */
    gboolean begun;       /* there may be bitmaps or a checkpoint to be undone */
    char *run_dir;        /* private directory of the socket, or NULL */
    char *socket;
};

typedef struct {
    const VmbDiskInfo *disk; /* borrowed from the run's domain info */
    gboolean active;         /* its active layer, which a bitmap can be added to */
    VmbImageEvidence *evidence;
} VmbOfflineFile;

void vmb_offline_free(VmbOffline *offline);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbOffline, vmb_offline_free)

/* The private directory of the run, and the journal that names it together with the checkpoint. */
gboolean vmb_offline_begin(VmbBackupRun *run, GError **error);

/* Gives each disk of the plan, as far as it needs one, a new bitmap of the run's checkpoint, and libvirt the
 * checkpoint. Where that is not possible without standing in the way of a start it is a reason, and the disk
 * goes on with its old checkpoint, or without. What has changed in the images by that is remembered as
 * their proper state. */
gboolean vmb_offline_add_bitmaps(VmbBackupRun *run, GError **error);
/* TRUE if old bitmaps can be removed without standing in the way of a start. */
gboolean vmb_offline_may_remove(const VmbBackupRun *run);

/* For the disks' story: the checkpoint that the new point's disk has; borrowed, or NULL. */
const char *vmb_offline_checkpoint(const VmbBackupRun *run, const VmbPlanDisk *disk);
/* Serves a disk on the socket, as VmbPlanDisk's method needs it. */
VmbNbdServer *vmb_offline_serve(VmbBackupRun *run, const VmbPlanDisk *disk, GError **error);

/* After the last read: proves that nobody can have changed an image since the beginning. */
gboolean vmb_offline_confirm(VmbBackupRun *run, GError **error);
