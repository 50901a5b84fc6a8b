/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The images of a shut-off domain get new bitmaps, so that the next backup is incremental. */
#include "job/backup-offline.h"
#include "repo/journal.h"
#include "util/error.h"
#include "util/fault.h"
#include "util/rundir.h"
#include "util/units.h"
#include "virt/checkpoint-redefine.h"
#include "virt/image-edit.h"
#include "virt/image-lock.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <string.h>

#define NONCE_CHARS 16

/* ---- the journal ---- */

static gboolean
write_journal(VmbBackupRun *run, GError **error)
{
    VmbJournal journal = {.nonce = run->nonce,
                          .uri = (char *)vmb_connection_uri(run->connection),
                          .checkpoint = run->checkpoint,
                          .run_dir = run->offline->run_dir,
                          .time_ns = vmb_units_now(),
                          .pid = getpid(),
                          .point = run->manifest->id,
                          .stale = run->stale};
    if (!vmb_journal_write(vmb_repo_domain_fd(run->repo_domain), &journal, error))
        return FALSE;
    run->journal_written = TRUE;
    return vmb_fault_point("offline-journal-written", error);
}

gboolean
vmb_offline_begin(VmbBackupRun *run, GError **error)
{
    VmbOffline *offline = run->offline;
    g_autofree char *base = vmb_run_dir(error);
    /* As those of a running domain's backup, so that they are found in the same way. */
    g_autofree char *name = g_strdup_printf("vmbackup-%.*s", NONCE_CHARS, run->nonce);
    if (base == NULL)
        return FALSE;
    offline->run_dir = g_build_filename(base, name, NULL);
    offline->socket = g_build_filename(offline->run_dir, "nbd.sock", NULL);
    if (!write_journal(run, error))
        return FALSE;
    if (g_mkdir(offline->run_dir, 0700) < 0)
        return vmb_error_errno(error, errno, "cannot make the directory %s", offline->run_dir);
    return TRUE;
}

/* ---- which disks ---- */

/* An image that nobody has changed, or whose bitmap is clean, goes on with the bitmap that it has. */
static gboolean
wants_bitmap(const VmbPlanDisk *disk)
{
    const VmbDiskLayer *active = disk->info->layers->pdata[0];
    return disk->info->bitmaps && active->data_file == NULL && !disk->unchanged &&
           !(disk->method == VMB_METHOD_OFFLINE && disk->clean);
}

const char *
vmb_offline_checkpoint(const VmbBackupRun *run, const VmbPlanDisk *disk)
{
    if (g_hash_table_contains(run->offline->recording, disk))
        return run->checkpoint;
    /* Its bitmap goes on recording: what has changed since the parent has changed since this point, or
     * is compared with it in vain. */
    gboolean kept = disk->method == VMB_METHOD_OFFLINE && !disk->parent->foreign;
    return kept ? disk->parent_disk->checkpoint : NULL;
}

gboolean
vmb_offline_may_remove(const VmbBackupRun *run)
{
    for (guint i = 0; i < run->offline->files->len; i++) {
        const VmbOfflineFile *file = run->offline->files->pdata[i];
        if (file->active && file->disk->bitmaps &&
            !vmb_image_has_leases(vmb_image_evidence_path(file->evidence)))
            return FALSE;
    }
    return TRUE;
}

/* ---- adding ---- */

/* Between the two looks nobody else can have touched the file. */
static gboolean
look_around_change(int fd, gboolean changed, gpointer user, GError **error)
{
    VmbImageEvidence *evidence = user;
    return changed ? vmb_image_evidence_renew(evidence, fd, error)
                   : vmb_image_evidence_check(evidence, fd, error);
}

static VmbOfflineFile *
find_active(const VmbOffline *offline, const VmbDiskInfo *disk)
{
    for (guint i = 0; i < offline->files->len; i++) {
        VmbOfflineFile *file = offline->files->pdata[i];
        if (file->disk == disk && file->active)
            return file;
    }
    return NULL;
}

static void
cannot_add(VmbBackupRun *run, const VmbPlanDisk *disk, const char *why)
{
    vmb_reason_add(run->reasons, VMB_REASON_BITMAP_NOT_ADDED, disk->info->target,
                   "%s: disk %s gets no new bitmap while it is shut off: %s", run->result->domain,
                   disk->info->target, why);
}

static gboolean
add_bitmap(VmbBackupRun *run, VmbPlanDisk *disk, VmbImageEditor **editor, GError **error)
{
    g_autoptr(GError) local = NULL;
    VmbOfflineFile *file = find_active(run->offline, disk->info);
    const char *path = vmb_image_evidence_path(file->evidence);
    if (*editor == NULL)
        *editor = vmb_image_editor_new(&local);
    run->offline->begun |= *editor != NULL;
    if (*editor == NULL || !vmb_image_editor_add(*editor, path, run->checkpoint, look_around_change,
                                                 file->evidence, &local)) {
        cannot_add(run, disk, local->message);
        return TRUE;
    }
    g_hash_table_add(run->offline->recording, disk);
    g_ptr_array_unref(disk->layers);
    disk->layers = vmb_source_layers(disk->info);
    return vmb_fault_point("offline-bitmap-added", error);
}

static gboolean
define_checkpoint(VmbBackupRun *run, GError **error)
{
    g_autoptr(GPtrArray) targets = g_ptr_array_new();
    g_autoptr(GPtrArray) defined = NULL;
    for (guint i = 0; i < run->plan->disks->len; i++) {
        const VmbPlanDisk *disk = run->plan->disks->pdata[i];
        if (g_hash_table_contains(run->offline->recording, disk))
            g_ptr_array_add(targets, disk->info->target);
    }
    if (targets->len == 0)
        return TRUE;
    guint wanted = targets->len;
    g_ptr_array_add(targets, NULL);
    if (!vmb_checkpoint_redefine(run->domain, run->checkpoint, run->manifest->time_ns / 1000000000,
                                 (const char *const *)targets->pdata, &defined, error))
        return FALSE;
    if (defined == NULL || defined->len != wanted)
        return vmb_error_set(error, VMB_ERROR_FAILED,
                             "libvirt does not see the new bitmaps of the checkpoint %s",
                             run->checkpoint);
    return vmb_fault_point("offline-checkpoint-defined", error);
}

gboolean
vmb_offline_add_bitmaps(VmbBackupRun *run, GError **error)
{
    g_autoptr(VmbImageEditor) editor = NULL;
    for (guint i = 0; i < run->plan->disks->len; i++) {
        VmbPlanDisk *disk = run->plan->disks->pdata[i];
        if (wants_bitmap(disk) && !add_bitmap(run, disk, &editor, error))
            return FALSE;
    }
    return define_checkpoint(run, error);
}
