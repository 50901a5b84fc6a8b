/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One pull-mode backup job: begun with a new checkpoint, ended or rolled back. */
#pragma once
#include "virt/domain.h"

typedef struct {
    const char *target;
    const char *scratch;     /* path of the pre-created scratch image */
    const char *incremental; /* name of the base checkpoint; NULL: full */
    gboolean checkpoint;     /* the new checkpoint covers this disk */
} VmbBackupJobDisk;

typedef struct {
    const char *socket;
    const char *checkpoint;  /* NULL or no disk with a checkpoint: none is made */
    const VmbBackupJobDisk *disks;
    guint n_disks;
} VmbBackupJobSpec;

typedef struct VmbBackupJob VmbBackupJob;

/* XML of the two documents; public for tests. Free with g_free(). */
char *vmb_backup_job_xml(const VmbBackupJobSpec *spec);
char *vmb_backup_job_checkpoint_xml(const VmbBackupJobSpec *spec);

/* Makes the handle; nothing is begun yet. */
VmbBackupJob *vmb_backup_job_new(VmbDomain *domain, const VmbBackupJobSpec *spec);
/* virDomainBackupBegin with REUSE_EXTERNAL. Blocks up to 30 s in libvirt if another job is active, so
 * callers check before, and 45 s at most. Even on error the job or checkpoint may exist: rollback looks. An
 * unusable bitmap is VMB_ERROR_NO_INCREMENTAL. A daemon that was restarted before is no error. */
gboolean vmb_backup_job_begin(VmbBackupJob *job, GError **error);
/* Begins once more after VMB_ERROR_NO_INCREMENTAL, with other disks in @spec (its names must be the same). */
gboolean vmb_backup_job_begin_again(VmbBackupJob *job, const VmbBackupJobSpec *spec,
                                    GError **error);
/* TRUE after a begin whose outcome is not known, as libvirt or QEMU did not answer: the job may begin yet. */
gboolean vmb_backup_job_is_uncertain(VmbBackupJob *job);
/* After the rollback of such a begin: a sentence if libvirt refuses further jobs by it (vmb_domain_lost_job()), else
 * NULL. Borrowed. */
const char *vmb_backup_job_lost(VmbBackupJob *job);
/* virDomainAbortJob and waiting, for 70 s at most, until libvirt's record of it is gone too; resumes a
 * guest that QEMU paused for an I/O error meanwhile. A job that has ended by itself, or with its domain, is
 * success. Survives a restart of the daemon. A QEMU that does not answer is given up after 45 s. */
gboolean vmb_backup_job_end(VmbBackupJob *job, GError **error);
/* From now on the new checkpoint belongs to a published point: rollback leaves it. */
void vmb_backup_job_keep_checkpoint(VmbBackupJob *job);
/* Rolls back what is left: ends the job if it is ours, deletes the new checkpoint unless kept; resumes
 * a domain that QEMU paused for an I/O error during the job. Failures are logged. */
void vmb_backup_job_free(VmbBackupJob *job);
/* The same before, once; FALSE (after an error message) if the job could not be ended, or may begin yet, so
 * that the guard has to see to it. The new checkpoint then is the next run's to delete. */
gboolean vmb_backup_job_roll_back(VmbBackupJob *job);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmbBackupJob, vmb_backup_job_free)

/* Still active and ours? */
gboolean vmb_backup_job_is_active(VmbBackupJob *job);
/* Bytes that scratch files use now (job stats). */
gboolean vmb_backup_job_scratch_used(VmbBackupJob *job, guint64 *bytes, GError **error);

/* Ends a job of this domain whose XML names @socket, if there is one; *@ended tells. For reconciliation
 * and the guard. */
gboolean vmb_backup_job_end_by_socket(VmbDomain *domain, const char *socket, gboolean *ended,
                                      GError **error);
