/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What one run of a backup holds, and how it lets go of it. Shared by the files of the backup story. */
#pragma once
#include "job/backup.h"
#include "job/plan.h"
#include "job/scratch.h"
#include "job/target-watch.h"
#include "repo/lock.h"
#include "repo/pins.h"
#include "repo/transaction.h"
#include "util/progress.h"
#include "virt/backup-job.h"
#include "virt/guard.h"

typedef struct VmbOffline VmbOffline;

typedef struct {
    const VmbBackupOptions *options;
    VmbBackupResult *result;      /* borrowed; its reasons are the run's */
    GPtrArray *reasons;           /* the same array */
    GCancellable *stop;           /* cancelled with options->cancel and by the scratch watch */
    gulong stop_handler;
    VmbProgress *progress;
    /* step 1 */
    VmbRepository *repository;
    VmbConnection *connection;
    VmbDomain *domain;
    VmbLock *host_lock, *lock;
    VmbRepoDomain *repo_domain;
    /* steps 2 and 3 */
    GPtrArray *points;
    VmbPins *pins;                /* keep what the new point may build on from being folded */
    char **stale;                 /* checkpoints of dead runs that are still to be deleted */
    VmbDomainInfo *info;
    gboolean was_paused, had_io_error;
    VmbPlan *plan;
    /* Of an export of the running domain (job/live.h), which makes no point: */
    gboolean live, no_checkpoint;
    gboolean bitmaps_refused;     /* by QEMU: there is none of them */
    const char **bases;           /* of each disk of the plan: the checkpoint that its bitmap begins at; NULL: none */
    /* steps 4 to 7 */
    VmbManifest *manifest;
    VmbTransaction *transaction;
    VmbScratch *scratch;
    gboolean scratch_left;        /* something of it could not be removed: the journal stays */
    char *nonce, *checkpoint;
    gboolean journal_written;
    VmbGuard *guard;
    VmbBackupJobDisk *job_disks;
    VmbBackupJob *job;
    VmbScratchWatch *watch;
    VmbTargetWatch *target_watch; /* from before the job begins until it has ended */
    VmbOffline *offline;          /* NULL: the domain runs */
    VmbPublished published;
} VmbBackupRun;

/* Rolls back whatever has not been published, in the reverse order of its making. */
void vmb_backup_run_clear(VmbBackupRun *run);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(VmbBackupRun, vmb_backup_run_clear)

/* Steps 1 and 2: repository, domain, locks, and the end of what dead runs have left. */
gboolean vmb_backup_enter(VmbBackupRun *run, const char *name, GError **error);
/* Puts in place of @error what stopped the run, what is intact, and what happens next. */
void vmb_backup_explain(VmbBackupRun *run, GError **error);
/* The facts of the new manifest, and the names of checkpoint and run. */
void vmb_backup_name(VmbBackupRun *run);
/* Step 3: what the domain is; then level and method of each disk. */
gboolean vmb_backup_inspect(VmbBackupRun *run, GError **error);
gboolean vmb_backup_plan(VmbBackupRun *run, GError **error);
/* Step 4: staging, the manifest, and all but the disks. */
gboolean vmb_backup_stage(VmbBackupRun *run, GError **error);
/* Step 7: journal, scratch, guard, freeze, job, thaw. */
gboolean vmb_backup_start_job(VmbBackupRun *run, GError **error);
/* Step 8: all disks of the plan. */
gboolean vmb_backup_read_disks(VmbBackupRun *run, GError **error);
/* Step 9: ends the job, publishes, deletes checkpoints that nobody needs any more. */
gboolean vmb_backup_publish(VmbBackupRun *run, GError **error);

/* All from step 3 on, of a shut-off domain (job/backup-offline.h). FALSE and *@started without @error: it
 * runs now, nothing is left of the attempt, and a backup of the running domain can begin. */
gboolean vmb_backup_offline(VmbBackupRun *run, gboolean *started, GError **error);

/* VMB_ERROR_FAILED if the guest has not confirmed its thaw, and the guard keeps asking. @what: is whole all the same. */
gboolean vmb_backup_check_thawed(const VmbBackupRun *run, const char *what, GError **error);
/* VMB_ERROR_CANCELLED if the user has asked to stop. */
gboolean vmb_backup_check_cancelled(VmbBackupRun *run, GError **error);
/* The journal names nothing any more but what could not be removed. */
void vmb_backup_clear_journal(VmbBackupRun *run);
