/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Undoing what a run that died has left behind, by its journal and nothing else. */
#include "job/reconcile.h"
#include "job/plan.h"
#include "job/scratch.h"
#include "util/error.h"
#include "util/log.h"
#include "virt/backup-job.h"
#include "virt/checkpoint.h"
#include "virt/guard.h"

#include <string.h>

/* How long a guest that may be frozen is asked to thaw before the backup goes on with a warning. */
#define THAW_TIMEOUT_S 10
/* How long the dead run's guard may go on; it does so for some seconds if the run died in its freeze. */
#define GUARD_NS (15 * G_GUINT64_CONSTANT(1000000000))

static gboolean
is_published(GPtrArray *points, const char *checkpoint)
{
    for (guint i = 0; i < points->len; i++) {
        const VmbManifest *manifest = ((VmbPoint *)points->pdata[i])->manifest;
        for (guint d = 0; manifest != NULL && d < manifest->disks->len; d++)
            if (g_strcmp0(((VmbManifestDisk *)manifest->disks->pdata[d])->checkpoint,
                          checkpoint) == 0)
                return TRUE;
    }
    return FALSE;
}

/* A damaged manifest may name the checkpoint of the dead run: then it must not be deleted. */
static gboolean
has_damaged_point(GPtrArray *points, const char *id)
{
    for (guint i = 0; id != NULL && i < points->len; i++) {
        const VmbPoint *point = points->pdata[i];
        if (point->manifest == NULL && strcmp(point->id, id) == 0)
            return TRUE;
    }
    return FALSE;
}

static void
release_guest(VmbDomain *domain, const VmbJournal *journal, GPtrArray *reasons)
{
    g_autoptr(GError) error = NULL;
    VmbDomainState state;
    gboolean frozen = FALSE;
    const char *name = vmb_domain_name(domain);
    if (!vmb_domain_state(domain, &state, NULL) || !state.active)
        return;
    if (state.paused && (journal->may_pause || state.io_error)) {
        if (vmb_domain_resume(domain, &error)) {
            state.paused = FALSE;
            vmb_reason_add(reasons, VMB_REASON_LEFTOVERS_REMOVED, NULL,
                           "%s: the guest was still paused by a backup that died; it is resumed",
                           name);
        } else {
            vmb_reason_add(reasons, VMB_REASON_LEFTOVERS_KEPT, NULL,
                           "%s: could not be resumed after a backup that died: %s", name,
                           error->message);
        }
    }
    g_clear_error(&error);
    if (journal->may_freeze && !state.paused &&
        !vmb_quiesce_thaw_leftover(domain, THAW_TIMEOUT_S, &frozen, &error))
        vmb_warning("%s: could not ask the guest to thaw after a backup that died: %s", name,
                    error->message);
    if (frozen)
        vmb_reason_add(reasons, VMB_REASON_LEFTOVERS_REMOVED, NULL,
                       "%s: the guest was still frozen by a backup that died; it is thawed", name);
}

static void
wait_for_guard(VmbDomain *domain, const VmbJournal *journal)
{
    if (journal->run_dir != NULL && !vmb_guard_wait_for_end(journal->run_dir, GUARD_NS))
        vmb_warning("%s: the guard of a backup that died is still at work; it may thaw the guest "
                    "during this backup, which would be told", vmb_domain_name(domain));
}

static void
remove_directory(const char *directory, GPtrArray *reasons)
{
    g_autoptr(GError) error = NULL;
    if (directory != NULL && !vmb_scratch_remove_leftover(directory, &error))
        vmb_reason_add(reasons, VMB_REASON_LEFTOVERS_KEPT, NULL, "%s", error->message);
}

/* Deletes one checkpoint; a failure keeps its name for the next time. */
static void
delete_checkpoint(VmbDomain *domain, const char *name, GPtrArray *reasons, GPtrArray *failed)
{
    g_autoptr(GError) error = NULL;
    if (vmb_checkpoint_delete(domain, name, &error))
        return;
    g_ptr_array_add(failed, g_strdup(name));
    vmb_reason_add(reasons, VMB_REASON_CHECKPOINT_NOT_DELETED, NULL, "%s: %s",
                   vmb_domain_name(domain), error->message);
}

static gboolean
undo_run(VmbDomain *domain, const VmbJournal *journal, GPtrArray *points, GPtrArray *reasons,
         GPtrArray *failed, GError **error)
{
    gboolean ended = FALSE;
    if (journal->socket != NULL &&
        !vmb_backup_job_end_by_socket(domain, journal->socket, &ended, error)) {
        g_prefix_error(error, "%s: the job of a backup that died cannot be ended: ",
                       vmb_domain_name(domain));
        return FALSE;
    }
    release_guest(domain, journal, reasons);
    wait_for_guard(domain, journal);
    remove_directory(journal->scratch_dir, reasons);
    remove_directory(journal->run_dir, reasons);
    if (journal->checkpoint != NULL && !is_published(points, journal->checkpoint) &&
        !has_damaged_point(points, journal->point))
        delete_checkpoint(domain, journal->checkpoint, reasons, failed);
    vmb_reason_add(reasons, VMB_REASON_LEFTOVERS_REMOVED, NULL,
                   "%s: a backup that died (process %" G_GINT64_FORMAT ") was undone%s",
                   vmb_domain_name(domain), journal->pid, ended ? ", and its job ended" : "");
    return TRUE;
}

gboolean
vmb_reconcile(VmbRepoDomain *repo_domain, VmbDomain *domain, GPtrArray *points, GPtrArray *reasons,
              char ***stale, GError **error)
{
    g_autoptr(VmbJournal) journal = NULL;
    g_autoptr(GPtrArray) failed = g_ptr_array_new_with_free_func(g_free);
    *stale = NULL;
    if (!vmb_journal_read(vmb_repo_domain_fd(repo_domain), &journal, error))
        return FALSE;
    if (journal == NULL)
        return TRUE;
    if (journal->nonce != NULL &&
        !undo_run(domain, journal, points, reasons, failed, error))
        return FALSE;
    for (guint i = 0; journal->stale != NULL && journal->stale[i] != NULL; i++)
        if (!is_published(points, journal->stale[i]))
            delete_checkpoint(domain, journal->stale[i], reasons, failed);
    if (failed->len == 0)
        return vmb_journal_clear(vmb_repo_domain_fd(repo_domain), error);
    g_ptr_array_add(failed, NULL);
    VmbJournal rest = {.stale = (char **)failed->pdata};
    if (!vmb_journal_write(vmb_repo_domain_fd(repo_domain), &rest, error))
        return FALSE;
    *stale = g_strdupv(rest.stale);
    return TRUE;
}

static GHashTable *
needed_checkpoints(GPtrArray *points, const char *const *live_ids)
{
    GHashTable *needed = g_hash_table_new(g_str_hash, g_str_equal);
    for (guint i = 0; live_ids[i] != NULL; i++) {
        const VmbManifestDisk *disk = NULL;
        if (vmb_plan_newest_point(points, live_ids[i], &disk) != NULL && disk->checkpoint != NULL)
            g_hash_table_add(needed, disk->checkpoint);
    }
    return needed;
}

static GHashTable *
existing_checkpoints(VmbDomain *domain, GPtrArray *reasons)
{
    g_autoptr(GError) error = NULL;
    GHashTable *existing = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    g_autoptr(GPtrArray) list = vmb_checkpoint_list(domain, &error);
    if (list == NULL)
        vmb_reason_add(reasons, VMB_REASON_CHECKPOINT_NOT_DELETED, NULL, "%s: %s",
                       vmb_domain_name(domain), error->message);
    for (guint i = 0; list != NULL && i < list->len; i++)
        g_hash_table_add(existing, g_strdup(list->pdata[i]));
    return existing;
}

void
vmb_reconcile_retire(VmbDomain *domain, GPtrArray *points, const char *const *live_ids,
                     GPtrArray *reasons, GPtrArray *failed)
{
    g_autoptr(GHashTable) needed = needed_checkpoints(points, live_ids);
    g_autoptr(GHashTable) existing = existing_checkpoints(domain, reasons);
    for (guint i = 0; i < points->len; i++) {
        const VmbPoint *point = points->pdata[i];
        const VmbManifest *manifest = point->foreign ? NULL : point->manifest;
        for (guint d = 0; manifest != NULL && d < manifest->disks->len; d++) {
            const char *name = ((VmbManifestDisk *)manifest->disks->pdata[d])->checkpoint;
            /* Removing it from the table keeps a name of several disks from being tried twice. */
            if (name != NULL && !g_hash_table_contains(needed, name) &&
                g_hash_table_remove(existing, name))
                delete_checkpoint(domain, name, reasons, failed);
        }
    }
}
