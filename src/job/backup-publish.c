/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Step 9 of a backup: the job ends, the point is published, old checkpoints go. */
#include "job/backup-offline.h"
#include "job/reconcile.h"
#include "repo/catalog.h"
#include "repo/journal.h"
#include "util/error.h"
#include "util/fault.h"
#include "util/fsio.h"
#include "util/log.h"
#include "util/units.h"

#include <fcntl.h>

static VmbLevel
level_of_point(const VmbManifest *manifest)
{
    for (guint i = 0; i < manifest->disks->len; i++)
        if (((VmbManifestDisk *)manifest->disks->pdata[i])->level != VMB_LEVEL_FULL)
            return VMB_LEVEL_INCREMENTAL;
    return VMB_LEVEL_FULL;
}

/* From here on the point stays; what fails is told, and tidied up by the next run. */
static void
retire(VmbBackupRun *run)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) ids = g_ptr_array_new();
    g_autoptr(GPtrArray) failed = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GPtrArray) points = vmb_repo_domain_points(run->repo_domain, &error);
    int fd = vmb_repo_domain_fd(run->repo_domain);
    if (points == NULL) {
        vmb_warning("%s", error->message);
        return;
    }
    for (guint i = 0; i < run->info->disks->len; i++)
        g_ptr_array_add(ids, ((VmbDiskInfo *)run->info->disks->pdata[i])->id);
    g_ptr_array_add(ids, NULL);
    if (run->offline == NULL || vmb_offline_may_remove(run))
        vmb_reconcile_retire(run->domain, points, (const char *const *)ids->pdata, run->reasons,
                             failed);
    for (guint i = 0; run->stale != NULL && run->stale[i] != NULL; i++)
        g_ptr_array_add(failed, g_strdup(run->stale[i]));
    if (!vmb_fault_point("checkpoints-retired", &error)) {
        vmb_warning("%s", error->message);
        return;
    }
    if (run->scratch_left)
        return;
    gboolean any = failed->len > 0;
    g_ptr_array_add(failed, NULL);
    VmbJournal rest = {.stale = (char **)failed->pdata};
    if (!(any ? vmb_journal_write(fd, &rest, &error) : vmb_journal_clear(fd, &error)) ||
        !vmb_fault_point("journal-cleared", &error))
        vmb_warning("%s; the next run tidies up", error->message);
}

gboolean
vmb_backup_check_thawed(const VmbBackupRun *run, const char *what, GError **error)
{
    const char *domain = run->result->domain;
    for (guint i = 0; i < run->reasons->len; i++)
        if (((VmbReason *)run->reasons->pdata[i])->code == VMB_REASON_THAW_DELAYED)
            return vmb_error_set(error, VMB_ERROR_FAILED,
                                 "%s: %s, but the guest has not confirmed its thaw; a guard process "
                                 "keeps asking. If the guest hangs, try `virsh domfsthaw %s`",
                                 domain, what, domain);
    return TRUE;
}

/* While the journal still names it: a run that dies later leaves nothing that nobody knows of. */
static void
remove_run_dir(VmbBackupRun *run)
{
    g_autoptr(GError) error = NULL;
    run->scratch_left = !vmb_fs_remove_tree(AT_FDCWD, run->offline->run_dir, &error);
    if (run->scratch_left)
        vmb_warning("%s; the next run removes it", error->message);
}

static gboolean
end_reading(VmbBackupRun *run, GError **error)
{
    if (run->offline != NULL) {
        vmb_progress_phase(run->progress, "looking for changes");
        if (!vmb_offline_confirm(run, error))
            return FALSE;
        remove_run_dir(run);
        return TRUE;
    }
    vmb_progress_phase(run->progress, "ending the job");
    if (!vmb_backup_job_end(run->job, error))
        return FALSE;
    g_clear_pointer(&run->watch, vmb_scratch_watch_free);
    g_clear_pointer(&run->target_watch, vmb_target_watch_free);
    run->scratch_left = !vmb_scratch_remove(run->scratch);
    g_clear_pointer(&run->scratch, vmb_scratch_free);
    return TRUE;
}

gboolean
vmb_backup_publish(VmbBackupRun *run, GError **error)
{
    VmbManifest *manifest = run->manifest;
    if (!end_reading(run, error))
        return FALSE;
    manifest->level = level_of_point(manifest);
    manifest->duration_ns = (guint64)MAX(vmb_units_now() - manifest->time_ns, 0);
    vmb_progress_phase(run->progress, "writing to disk");
    gboolean ok = vmb_transaction_publish(run->transaction, manifest, &run->published, error);
    if (run->published != VMB_UNPUBLISHED && run->job != NULL)
        vmb_backup_job_keep_checkpoint(run->job);
    if (!ok) {
        if (run->published == VMB_VISIBLE)
            g_prefix_error(error,
                           "%s: the point %s is written, but it is not known to have reached the "
                           "disk, so no checkpoint was deleted; check the repository's filesystem "
                           "and run the backup again: ", manifest->domain, manifest->id);
        return FALSE;
    }
    vmb_repo_domain_link_name(run->repo_domain, manifest->domain);
    retire(run);
    vmb_catalog_refresh(run->repo_domain);
    g_autofree char *what = g_strdup_printf("the point %s is whole", manifest->id);
    return vmb_backup_check_thawed(run, what, error);
}
