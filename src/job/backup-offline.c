/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The story of a backup of a shut-off domain: it is not started, and nothing hinders its start. */
#include "job/backup-offline.h"
#include "util/error.h"
#include "util/fault.h"
#include "util/fsio.h"
#include "util/log.h"
#include "virt/checkpoint.h"
#include "virt/image-lock.h"
#include "virt/reconnect.h"

#include <fcntl.h>
#include <string.h>

/* Something that stirs once, such as a definition that is edited, is no reason to give up. */
#define ATTEMPTS 2

static void
file_free(gpointer data)
{
    VmbOfflineFile *file = data;
    vmb_image_evidence_free(file->evidence);
    g_free(file);
}

void
vmb_offline_free(VmbOffline *offline)
{
    if (offline == NULL)
        return;
    g_clear_pointer(&offline->watch, vmb_lifecycle_free);
    g_ptr_array_unref(offline->files);
    g_hash_table_unref(offline->recording);
    g_free(offline->run_dir);
    g_free(offline->socket);
    g_free(offline);
}

/* ---- what it looks like before ---- */

static gboolean
is_candidate(const VmbDiskInfo *disk)
{
    return (disk->device == VMB_DEVICE_DISK || disk->device == VMB_DEVICE_LUN) &&
           disk->has_medium && !disk->readonly && disk->offline_why == NULL;
}

static gboolean
remember(VmbOffline *offline, const VmbDiskInfo *disk, const char *path, gboolean active,
         GError **error)
{
    VmbImageEvidence *evidence = vmb_image_evidence_new(path, !active, error);
    if (evidence == NULL)
        return FALSE;
    VmbOfflineFile *file = g_new0(VmbOfflineFile, 1);
    file->disk = disk;
    file->active = active;
    file->evidence = evidence;
    g_ptr_array_add(offline->files, file);
    return TRUE;
}

/* Of all disks, for which of them are taken is known later; before anything else is read of them. */
static gboolean
remember_images(VmbBackupRun *run, GError **error)
{
    for (guint i = 0; i < run->info->disks->len; i++) {
        const VmbDiskInfo *disk = run->info->disks->pdata[i];
        for (guint l = 0; is_candidate(disk) && l < disk->layers->len; l++) {
            const VmbDiskLayer *layer = disk->layers->pdata[l];
            if (!remember(run->offline, disk, layer->path, l == 0, error) ||
                (layer->data_file != NULL &&
                 !remember(run->offline, disk, layer->data_file, FALSE, error)))
                return FALSE;
        }
    }
    return vmb_fault_point("offline-remembered", error);
}

static gboolean
is_planned(const VmbPlan *plan, const VmbDiskInfo *disk)
{
    for (guint i = 0; i < plan->disks->len; i++)
        if (((const VmbPlanDisk *)plan->disks->pdata[i])->info == disk)
            return TRUE;
    return FALSE;
}

static void
forget_others(VmbBackupRun *run)
{
    GPtrArray *files = run->offline->files;
    for (guint i = files->len; i-- > 0;)
        if (!is_planned(run->plan, ((VmbOfflineFile *)files->pdata[i])->disk))
            g_ptr_array_remove_index(files, i);
}

/* ---- refusals ---- */

static gboolean
check_readable(VmbBackupRun *run, GError **error)
{
    for (guint i = 0; i < run->plan->disks->len; i++) {
        const VmbDiskInfo *disk = ((const VmbPlanDisk *)run->plan->disks->pdata[i])->info;
        if (disk->offline_why != NULL)
            return vmb_error_set(error, VMB_ERROR_DOMAIN,
                                 "%s is shut off, and its disk %s cannot be read without a running "
                                 "domain: %s. Nothing was changed; start the domain and run the backup "
                                 "again, or leave the disk out with --exclude-disk %s",
                                 run->result->domain, disk->target, disk->offline_why,
                                 disk->target);
    }
    return TRUE;
}

static gboolean
check_nobody_writes(VmbBackupRun *run, GError **error)
{
    for (guint i = 0; i < run->offline->files->len; i++) {
        const VmbOfflineFile *file = run->offline->files->pdata[i];
        const char *path = vmb_image_evidence_path(file->evidence);
        g_autofree char *who = NULL;
        if (!vmb_image_writer(path, &who, error))
            return FALSE;
        if (who != NULL)
            return vmb_error_set(error, VMB_ERROR_DOMAIN,
                                 "%s is shut off, but %s of its disk %s is in use by %s. Nothing was "
                                 "changed; run the backup again when that has ended",
                                 run->result->domain, path, file->disk->target, who);
    }
    return TRUE;
}

/* What was saved with its memory is not in order on its disks, but as if it were paused. */
static gboolean
check_how_it_ended(VmbBackupRun *run, GError **error)
{
    VmbShutOff how;
    if (!vmb_shut_off_read(run->domain, &how, error))
        return FALSE;
    if (how.migrated)
        return vmb_error_set(error, VMB_ERROR_DOMAIN,
                             "%s has migrated to another host, and its images may be in use or "
                             "out of date here. Nothing was changed; back it up where it is, or start "
                             "it here first", run->result->domain);
    run->manifest->consistency = how.saved ? VMB_CONSISTENCY_PAUSED : VMB_CONSISTENCY_OFFLINE;
    if (how.saved)
        vmb_reason_add(run->reasons, VMB_REASON_DOMAIN_PAUSED, NULL,
                       "%s: its memory is saved (managed save), and is not in the point; the disks are "
                       "as if the domain had lost its power at that moment", run->result->domain);
    return TRUE;
}

/* ---- the proof ---- */

static gboolean
doubt(VmbBackupRun *run, GError **error, const char *why)
{
    run->offline->doubt = TRUE;
    return vmb_error_set(error, VMB_ERROR_FAILED,
                         "%s: while it was read shut off, something happened that makes what was read "
                         "doubtful, and it is dropped: %s", run->result->domain, why);
}

static gboolean
same_definition(VmbBackupRun *run, gboolean *same, GError **error)
{
    g_autofree char *xml = vmb_shut_off_xml(run->domain, error);
    *same = g_strcmp0(xml, run->info->inactive_xml) == 0;
    return xml != NULL;
}

gboolean
vmb_offline_confirm(VmbBackupRun *run, GError **error)
{
    VmbDomainState state;
    gboolean same = FALSE;
    g_autoptr(GError) local = NULL;
    if (!vmb_fault_point("offline-read", error))
        return FALSE;
    if (!check_nobody_writes(run, &local))
        return doubt(run, error, local->message);
    for (guint i = 0; i < run->offline->files->len; i++) {
        const VmbOfflineFile *file = run->offline->files->pdata[i];
        if (!vmb_image_evidence_check(file->evidence, -1, &local))
            return doubt(run, error, local->message);
    }
    if (!same_definition(run, &same, &local) || !vmb_domain_state(run->domain, &state, &local))
        return doubt(run, error, local->message);
    if (state.active)
        return doubt(run, error, "the domain was started");
    if (!same)
        return doubt(run, error, "the domain's definition has changed");
    if (vmb_lifecycle_stirred(run->offline->watch))
        return doubt(run, error, "libvirt told of a change, or could not have told of one");
    return vmb_fault_point("offline-confirmed", error);
}

/* ---- the story ---- */

static gboolean
begin_watch(VmbBackupRun *run, GError **error)
{
    VmbDomainState state;
    VmbOffline *offline = run->offline = g_new0(VmbOffline, 1);
    offline->files = g_ptr_array_new_with_free_func(file_free);
    offline->recording = g_hash_table_new(NULL, NULL);
    offline->watch = vmb_lifecycle_watch(run->domain, error);
    if (offline->watch == NULL || !vmb_domain_state(run->domain, &state, error))
        return FALSE;
    return state.active ? doubt(run, error, "the domain was started")
                        : vmb_fault_point("offline-watched", error);
}

static gboolean
look(VmbBackupRun *run, GError **error)
{
    if (!vmb_backup_inspect(run, error))
        return FALSE;
    if (!run->info->offline)
        return doubt(run, error, "the domain was started");
    if (!remember_images(run, error) || !vmb_backup_plan(run, error))
        return FALSE;
    forget_others(run);
    return check_readable(run, error) && check_nobody_writes(run, error);
}

static gboolean
steps(VmbBackupRun *run, GError **error)
{
    return begin_watch(run, error) && look(run, error) && vmb_backup_stage(run, error) &&
           check_how_it_ended(run, error) && vmb_offline_begin(run, error) &&
           vmb_offline_add_bitmaps(run, error) && vmb_backup_read_disks(run, error) &&
           vmb_backup_check_cancelled(run, error) && vmb_backup_publish(run, error);
}

static void
remember_stale(VmbBackupRun *run)
{
    g_autoptr(GStrvBuilder) names = g_strv_builder_new();
    for (guint i = 0; run->stale != NULL && run->stale[i] != NULL; i++)
        g_strv_builder_add(names, run->stale[i]);
    g_strv_builder_add(names, run->checkpoint);
    g_strfreev(run->stale);
    run->stale = g_strv_builder_end(names);
}

/* Whatever the domain is now: shut off, running, or just being started. */
static void
undo(VmbBackupRun *run)
{
    g_autoptr(GError) error = NULL;
    VmbOffline *offline = run->offline;
    if (offline->begun && !vmb_checkpoint_purge(run->domain, run->checkpoint, NULL, &error)) {
        vmb_reason_add(run->reasons, VMB_REASON_CHECKPOINT_NOT_DELETED, NULL, "%s: %s",
                       run->result->domain, error->message);
        remember_stale(run);
    }
    g_clear_error(&error);
    if (offline->run_dir != NULL && !vmb_fs_remove_tree(AT_FDCWD, offline->run_dir, &error)) {
        vmb_warning("%s; the next run removes it", error->message);
        run->scratch_left = TRUE;
    }
}

/* Nothing of the attempt is left, so that another one, or a backup of the running domain, can begin. */
static void
drop_attempt(VmbBackupRun *run)
{
    g_clear_pointer(&run->transaction, vmb_transaction_free);
    vmb_backup_clear_journal(run);
    g_clear_pointer(&run->offline, vmb_offline_free);
    g_clear_pointer(&run->nonce, g_free);
    g_clear_pointer(&run->checkpoint, g_free);
    g_clear_pointer(&run->manifest, vmb_manifest_free);
    g_clear_pointer(&run->plan, vmb_plan_free);
    g_clear_pointer(&run->info, vmb_domain_info_free);
    g_ptr_array_set_size(run->result->disks, 0);
}

static gboolean
state_step(VmbDomain *domain, gpointer state, GError **error)
{
    return vmb_domain_state(domain, state, error);
}

/* TRUE if the failed attempt may be followed by another one, of which *@started tells the kind. */
static gboolean
try_again(VmbBackupRun *run, guint n_reasons, const GError *failure, gboolean may_repeat,
          gboolean *started)
{
    VmbDomainState state;
    gboolean doubted = run->offline->doubt;
    if (g_cancellable_is_cancelled(run->stop) ||
        !vmb_virt_reconnecting(run->domain, state_step, &state, NULL) ||
        !(state.active || (doubted && may_repeat)))
        return FALSE;
    g_autofree char *why = g_strdup(failure->message);
    drop_attempt(run);
    g_ptr_array_set_size(run->reasons, (gint)n_reasons);
    *started = state.active;
    if (state.active)
        vmb_reason_add(run->reasons, VMB_REASON_STARTED_MEANWHILE, NULL,
                       "%s: started while it was backed up shut off; it is backed up running "
                       "instead (%s)", run->result->domain, why);
    else
        vmb_info("%s; trying once more", why);
    return TRUE;
}

gboolean
vmb_backup_offline(VmbBackupRun *run, gboolean *started, GError **error)
{
    *started = FALSE;
    for (int attempt = 1;; attempt++) {
        guint n_reasons = run->reasons->len;
        g_autoptr(GError) failure = NULL;
        if (steps(run, &failure))
            return TRUE;
        if (run->published == VMB_UNPUBLISHED) {
            undo(run);
            if (try_again(run, n_reasons, failure, attempt < ATTEMPTS, started)) {
                if (*started)
                    return FALSE;
                continue;
            }
        }
        g_propagate_error(error, g_steal_pointer(&failure));
        return FALSE;
    }
}
