/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which disks a backup takes, at which level, by which method, and why. */
#pragma once
#include "job/backup.h"
#include "job/source-layers.h"

typedef struct {
    const VmbDiskInfo *info;   /* borrowed from the plan's domain info */
    VmbLevel level;
    VmbMethod method;          /* compare is an incremental that reads the whole disk; offline is one by
                                * bitmap of a shut-off domain */
    VmbReasonCode reason;      /* why full or compared; VMB_N_REASONS for one by bitmap */
    GPtrArray *layers;         /* VmbSourceLayer now */
    VmbPoint *parent;          /* borrowed from the points; NULL for a full that is not synthetic */
    const VmbManifestDisk *parent_disk;
    gboolean at_limit;         /* its chain is as long as it may be */
    gboolean synthetic;        /* so it becomes a full: what has not changed is taken from the chain */
    gboolean unchanged;        /* offline: the image is just as it was for the parent, and is not read */
    gboolean clean;            /* offline: its bitmap says that nothing has changed */
} VmbPlanDisk;

typedef struct {
    GPtrArray *disks;          /* VmbPlanDisk to be backed up, in XML order */
    GPtrArray *skipped;        /* VmbSkippedDisk */
} VmbPlan;
void vmb_plan_free(VmbPlan *plan);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbPlan, vmb_plan_free)

/* Decides for each disk of @info, which vmb_bind_disks() has been through; each skipped disk and each
 * fallback is added to @reasons. @domain may be asked about its checkpoints, nothing is changed. @points: the domain's, in order. Errors:
 * VMB_ERROR_USAGE (a selected target that does not exist), VMB_ERROR_DOMAIN (no disk is left),
 * VMB_ERROR_NO_INCREMENTAL (demanded, and impossible for some disk). */
VmbPlan *vmb_plan_new(const VmbBackupOptions *options, VmbDomain *domain, const VmbDomainInfo *info,
                      GPtrArray *points, GPtrArray *reasons, GError **error);

/* The disk's bitmap turned out not to be usable after all, for @reason: it is compared instead, or stored
 * in full if its digests are damaged or comparing is not wanted. @domain: its name. Errors:
 * VMB_ERROR_NO_INCREMENTAL if an incremental was demanded and is impossible now. */
gboolean vmb_plan_give_up_bitmap(VmbPlanDisk *disk, const VmbBackupOptions *options,
                                 GPtrArray *points, const char *domain, VmbReasonCode reason,
                                 const char *detail, GPtrArray *reasons, GError **error);
/* The same with the reason bitmap-unusable for all disks that would have been read by bitmap: libvirt
 * refused to begin because of one of them. */
gboolean vmb_plan_give_up_bitmaps(VmbPlan *plan, const VmbBackupOptions *options,
                                  GPtrArray *points, const char *domain, GPtrArray *reasons,
                                  GError **error);

/* The disk's parent turned out to be damaged, as @detail tells: it is stored in full. Errors: as above. */
gboolean vmb_plan_give_up_parent(VmbPlanDisk *disk, const VmbBackupOptions *options,
                                 const char *domain, const char *detail, GPtrArray *reasons,
                                 GError **error);

/* The job reads disks by their targets: each must still have the image that the plan was made for, or
 * another disk's bitmap would be believed. @now: the domain since the job has begun, which keeps disks
 * from being taken away. Errors: VMB_ERROR_FAILED. */
gboolean vmb_plan_check_images(const VmbPlan *plan, const VmbDomainInfo *now, const char *domain,
                               GError **error);

/* The unit, in bytes, in which a disk that shrank and grew may hide changes from its bitmap: see vmb_disk_backup_survey();
 * 0: it cannot hide any. */
guint64 vmb_plan_survey_unit(const VmbDiskInfo *info);

/* The newest point of @points that holds the disk @id, and its entry; NULL if there is none. */
VmbPoint *vmb_plan_newest_point(GPtrArray *points, const char *id, const VmbManifestDisk **disk);
