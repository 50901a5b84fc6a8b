/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What one restore holds. Shared by the files of the restore story. */
#pragma once
#include "job/chain-files.h"
#include "job/losses.h"
#include "job/restore-stage.h"
#include "job/restore.h"
#include "repo/pins.h"
#include "util/progress.h"
#include "virt/define.h"

typedef struct {
    const VmbManifestDisk *disk;  /* of the point's manifest */
    GArray *links;                /* VmbChainLink, newest first */
    VmbChainFiles *files;
    gboolean *unverified;         /* with ignore_damage, per link: its digests are damaged */
    guint64 data;                 /* bytes of data to write */
    char *name;                   /* file name in the directory */
} VmbRestoreDisk;

typedef struct {
    const VmbRestoreOptions *options;
    VmbRestoreResult *result;     /* borrowed */
    VmbRepository *repository;
    GPtrArray *points;
    VmbPoint *point;              /* borrowed from points */
    VmbPins *pins;                /* every point that is read stays as it is */
    GPtrArray *disks;             /* VmbRestoreDisk */
    char *xml;                    /* rewritten */
    VmbConnection *connection;    /* only for --define */
    VmbRestoreStage *stage;
    VmbDefined *defined;
    char *tpm_dir;                /* made for the defined domain; removed again unless it was kept */
    VmbProgress *progress;
} VmbRestoreRun;

void vmb_restore_run_clear(VmbRestoreRun *run);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(VmbRestoreRun, vmb_restore_run_clear)

/* Chooses disks, opens and counts their chains; nothing is written. */
gboolean vmb_restore_select(VmbRestoreRun *run, GError **error);
/* Notes what of the disk's chain cannot be read, after a read of all of it failed. */
void vmb_restore_find_losses(VmbRestoreRun *run, const VmbRestoreDisk *disk);
/* Notes one loss; @disk or @file is NULL. */
void vmb_restore_lose(VmbRestoreRun *run, const char *point, const char *disk, const char *file,
                      guint64 offset, guint64 length);
/* Takes over what reading a chain has lost. */
void vmb_restore_take_losses(VmbRestoreRun *run, const VmbRestoreDisk *disk,
                             const VmbLosses *losses);

/* Makes the rewritten XML for the files in @directory (absolute); refuses dangerous parts. */
gboolean vmb_restore_make_xml(VmbRestoreRun *run, const char *directory, GError **error);
/* Puts the TPM state of the point, if there is one, where libvirt looks for that of the defined domain. */
gboolean vmb_restore_tpm(VmbRestoreRun *run, GError **error);
/* Writes the chosen disks, and nothing else, to the destinations of the options. */
gboolean vmb_restore_out(VmbRestoreRun *run, GError **error);
/* That the digest files of the disk are whole, after all of its windows were read. */
gboolean vmb_restore_check_digests(const VmbRestoreDisk *disk, GError **error);
/* Writes the images, the other files and domain.xml into the stage. */
gboolean vmb_restore_write(VmbRestoreRun *run, GError **error);
