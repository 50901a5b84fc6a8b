/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Undoing what a run that died has left behind, by its journal and nothing else. */
#include "job/reconcile.h"
#include "job/leftovers.h"
#include "job/scratch.h"
#include "repo/consumer.h"
#include "util/error.h"
#include "util/fault.h"
#include "util/fsio.h"
#include "util/log.h"
#include "util/units.h"
#include "virt/backup-job.h"
#include "virt/backup-xml.h"
#include "virt/checkpoint.h"
#include "virt/guard.h"
#include "virt/stray-job.h"

#include <string.h>

/* How long a guest that may be frozen is asked to thaw before the backup goes on with a warning. */
#define THAW_TIMEOUT_S 10
/* How long the dead run's guard may go on; it does so for some seconds if the run died in its
 * freeze. */
#define GUARD_NS (15 * G_GUINT64_CONSTANT(1000000000))
/* With less than that, QEMU could not write another cluster of a scratch image. */
#define SCRATCH_FULL VMB_MIB

typedef struct {
    VmbRepoDomain *repo_domain;
    VmbDomain *domain;
    const char *name;
    GPtrArray *points, *reasons;
    GPtrArray *failed;   /* names and paths that are still to be removed */
    gboolean unreleased; /* the guest may still be frozen or paused by the dead run */
} Undo;

static void removed(const Undo *undo, const char *format, ...) G_GNUC_PRINTF(2, 3);

static void
removed(const Undo *undo, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    vmb_reason_add(undo->reasons, VMB_REASON_LEFTOVERS_REMOVED, NULL, "%s: %s", undo->name, text);
}

static void kept(const Undo *undo, const char *format, ...) G_GNUC_PRINTF(2, 3);

static void
kept(const Undo *undo, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *text = g_strdup_vprintf(format, args);
    va_end(args);
    vmb_reason_add(undo->reasons, VMB_REASON_LEFTOVERS_KEPT, NULL, "%s: %s", undo->name, text);
}

/* ---- the guest ---- */

static gboolean
is_scratch_full(const VmbJournal *journal)
{
    guint64 available = 0;
    return journal->scratch_dir != NULL && g_file_test(journal->scratch_dir, G_FILE_TEST_IS_DIR) &&
           vmb_fs_free_space(journal->scratch_dir, &available, NULL) && available < SCRATCH_FULL;
}

/* An I/O error of the guest's own disks pauses it just as a full scratch image does, and that pause
 * is for somebody else to end. Ours it is if the guest ran when the run began, and the run's job is
 * still there or its scratch space is full. The job ends next, so this is written down before. */
static gboolean
note_io_pause(const Undo *undo, VmbJournal *journal, GError **error)
{
    VmbDomainState state;
    gboolean active = FALSE;
    g_autofree char *socket = NULL;
    if (!journal->was_running || journal->io_paused || journal->socket == NULL)
        return TRUE;
    if (!vmb_domain_state(undo->domain, &state, error))
        return FALSE;
    if (!state.io_error)
        return TRUE;
    if (!vmb_backup_xml_active(undo->domain, &active, &socket, error))
        return FALSE;
    if (!(active && g_strcmp0(socket, journal->socket) == 0) && !is_scratch_full(journal))
        return TRUE;
    journal->io_paused = TRUE;
    return vmb_journal_write(vmb_repo_domain_fd(undo->repo_domain), journal, error) &&
           vmb_fault_point("reconcile-noted", error);
}

/* Returns FALSE if it is still paused. */
static gboolean
resume(Undo *undo, const VmbJournal *journal, const VmbDomainState *state)
{
    g_autoptr(GError) error = NULL;
    if (!(state->io_error ? journal->io_paused : journal->may_pause)) {
        if (state->io_error)
            kept(undo,
                 "the guest is paused for an I/O error that is not known to come from a backup; "
                 "`virsh resume %s` lets it go on once the cause is gone",
                 undo->name);
        return FALSE;
    }
    if (vmb_domain_resume(undo->domain, &error)) {
        removed(undo, "the guest was still paused by a backup that died; it is resumed");
        return TRUE;
    }
    undo->unreleased = TRUE;
    kept(undo, "could not be resumed after a backup that died: %s", error->message);
    return FALSE;
}

static void
thaw(Undo *undo)
{
    g_autoptr(GError) error = NULL;
    gboolean frozen = FALSE;
    if (!vmb_quiesce_thaw_leftover(undo->domain, THAW_TIMEOUT_S, &frozen, &error)) {
        undo->unreleased = TRUE;
        kept(undo, "could not ask the guest to thaw after a backup that died: %s", error->message);
    }
    if (frozen)
        removed(undo, "the guest was still frozen by a backup that died; it is thawed");
}

static gboolean
release_guest(Undo *undo, const VmbJournal *journal, GError **error)
{
    VmbDomainState state;
    g_autoptr(GError) local = NULL;
    if (!vmb_domain_state(undo->domain, &state, &local)) {
        undo->unreleased = TRUE;
        kept(undo, "it is not known whether the guest is paused or frozen: %s", local->message);
        return TRUE;
    }
    if (!state.active)
        return TRUE;
    if (state.paused && resume(undo, journal, &state))
        state.paused = FALSE;
    if (journal->may_freeze && !state.paused) {
        thaw(undo);
    } else if (journal->may_freeze) {
        undo->unreleased = TRUE;
        kept(undo,
             "the guest is paused, and can only be asked to thaw after a backup that died when "
             "it runs again");
    }
    return vmb_fault_point("reconcile-guest-released", error);
}

/* ---- directories and checkpoints ---- */

static void
wait_for_guard(const char *name, const VmbJournal *journal)
{
    if (journal->run_dir != NULL && !vmb_guard_wait_for_end(journal->run_dir, GUARD_NS))
        vmb_warning("%s: the guard of a backup that died is still at work; it may thaw the guest "
                    "during this backup, which would be told",
                    name);
}

static void
remove_directory(Undo *undo, const char *directory)
{
    g_autoptr(GError) error = NULL;
    if (directory == NULL || vmb_scratch_remove_leftover(directory, &error))
        return;
    /* What is none of our directories will not become one. */
    if (!g_error_matches(error, VMB_ERROR, VMB_ERROR_DAMAGE))
        g_ptr_array_add(undo->failed, g_strdup(directory));
    kept(undo, "%s", error->message);
}

static void
not_deleted(const char *domain, const char *name, const GError *error, GPtrArray *reasons,
            GPtrArray *failed)
{
    g_ptr_array_add(failed, g_strdup(name));
    vmb_reason_add(reasons, VMB_REASON_CHECKPOINT_NOT_DELETED, NULL, "%s: %s", domain,
                   error->message);
}

/* A name of the journal; a failure keeps it for the next time. A consumer's stays: its run was killed after it
 * had been advanced. */
static void
purge_checkpoint(Undo *undo, const char *name)
{
    g_autoptr(GError) error = NULL;
    if (vmb_consumer_needs(vmb_repo_domain_fd(undo->repo_domain), name))
        return;
    if (!vmb_checkpoint_purge(undo->domain, name, NULL, &error))
        not_deleted(undo->name, name, error, undo->reasons, undo->failed);
}

static void
remove_stale(Undo *undo, const char *entry)
{
    if (entry[0] == '/')
        remove_directory(undo, entry);
    else if (vmb_leftovers_role(entry, undo->points, NULL, NULL, "") != VMB_CHECKPOINT_NEEDED)
        purge_checkpoint(undo, entry);
}

/* ---- a dead run ---- */

/* libvirt's daemon may have died with the run, and not know of the job; the guard then ends it as well. */
static gboolean
end_job(const Undo *undo, const VmbJournal *journal, gboolean *ended, GError **error)
{
    *ended = FALSE;
    if (journal->socket == NULL)
        return TRUE;
    const char *scratch_dir = vmb_scratch_of_journal(journal);
    gboolean done = vmb_backup_job_end_by_socket(undo->domain, journal->socket, ended, error);
    if (done && !*ended && scratch_dir != NULL && vmb_stray_images_in_use(scratch_dir)) {
        wait_for_guard(undo->name, journal);
        done = vmb_stray_job_end(undo->domain, scratch_dir, journal->socket, ended, error);
    }
    if (!done)
        g_prefix_error(error, "%s: the job of a backup that died cannot be ended: ", undo->name);
    return done;
}

static gboolean
undo_run(Undo *undo, VmbJournal *journal, GError **error)
{
    gboolean ended = FALSE;
    if (!end_job(undo, journal, &ended, error))
        return FALSE;
    if (!vmb_fault_point("reconcile-job-ended", error) || !release_guest(undo, journal, error))
        return FALSE;
    wait_for_guard(undo->name, journal);
    remove_directory(undo, journal->scratch_dir);
    remove_directory(undo, journal->run_dir);
    if (!vmb_fault_point("reconcile-directories-removed", error))
        return FALSE;
    if (journal->checkpoint != NULL &&
        vmb_leftovers_role(journal->checkpoint, undo->points, journal, NULL, "") ==
            VMB_CHECKPOINT_STALE)
        purge_checkpoint(undo, journal->checkpoint);
    removed(undo, "a backup that died (process %" G_GINT64_FORMAT ") was undone%s", journal->pid,
            ended ? ", and its job ended" : "");
    return TRUE;
}

/* Its directories, guard and process are on another host, but the domain may have come here, frozen
 * or paused, and with the checkpoint's bitmaps. */
static gboolean
undo_elsewhere(Undo *undo, VmbJournal *journal, GError **error)
{
    if (!vmb_journal_set_aside(vmb_repo_domain_fd(undo->repo_domain), journal, error) ||
        (journal->nonce != NULL && !release_guest(undo, journal, error)))
        return FALSE;
    kept(undo,
         "a backup died on the host %s and may have left scratch files there; `vmbackup doctor "
         "--repair` on that host removes them",
         journal->host != NULL ? journal->host : "?");
    if (journal->checkpoint != NULL &&
        vmb_leftovers_role(journal->checkpoint, undo->points, journal, NULL, "") ==
            VMB_CHECKPOINT_STALE)
        purge_checkpoint(undo, journal->checkpoint);
    return TRUE;
}

static void
remove_stale_paths(Undo *undo, const VmbJournal *journal)
{
    for (guint i = 0; journal->stale != NULL && journal->stale[i] != NULL; i++)
        if (journal->stale[i][0] == '/')
            remove_directory(undo, journal->stale[i]);
}

/* Journals that another host has set aside for this one. */
static gboolean
undo_aside(Undo *undo, GError **error)
{
    int fd = vmb_repo_domain_fd(undo->repo_domain);
    g_autoptr(GPtrArray) journals = vmb_journal_list_aside(fd, error);
    for (guint i = 0; journals != NULL && i < journals->len; i++) {
        VmbJournal *journal = g_ptr_array_index(journals, i);
        if (vmb_journal_is_elsewhere(journal))
            continue;
        if (journal->nonce != NULL && !undo_run(undo, journal, error))
            return FALSE;
        remove_stale_paths(undo, journal);
        if (!vmb_journal_clear_aside(fd, journal, error))
            return FALSE;
    }
    return journals != NULL;
}

/* What the journal says from now on. */
static gboolean
finish(Undo *undo, const VmbJournal *journal, char ***stale, GError **error)
{
    int fd = vmb_repo_domain_fd(undo->repo_domain);
    gboolean any = undo->failed->len > 0;
    g_ptr_array_add(undo->failed, NULL);
    VmbJournal rest = {.stale = (char **)undo->failed->pdata};
    if (undo->unreleased && journal != NULL && journal->nonce != NULL) {
        rest.nonce = journal->nonce;
        rest.host = journal->host;
        rest.host_id = journal->host_id;
        rest.uri = journal->uri;
        rest.may_freeze = journal->may_freeze;
        rest.may_pause = journal->may_pause;
        rest.was_running = journal->was_running;
        rest.io_paused = journal->io_paused;
        rest.time_ns = journal->time_ns;
        rest.pid = journal->pid;
    }
    gboolean written = any || rest.nonce != NULL ? vmb_journal_write(fd, &rest, error)
                                                 : vmb_journal_clear(fd, error);
    if (!written || !vmb_fault_point("reconcile-journal-written", error))
        return FALSE;
    *stale = any ? g_strdupv(rest.stale) : NULL;
    return TRUE;
}

gboolean
vmb_reconcile(VmbRepoDomain *repo_domain, VmbDomain *domain, GPtrArray *points, GPtrArray *reasons,
              char ***stale, GError **error)
{
    g_autoptr(VmbJournal) journal = NULL;
    g_autoptr(GPtrArray) failed = g_ptr_array_new_with_free_func(g_free);
    Undo undo = {repo_domain, domain, vmb_domain_name(domain), points, reasons, failed, FALSE};
    *stale = NULL;
    if (!undo_aside(&undo, error) ||
        !vmb_journal_read(vmb_repo_domain_fd(repo_domain), &journal, error))
        return FALSE;
    if (journal == NULL && failed->len == 0)
        return TRUE;
    gboolean elsewhere = journal != NULL && vmb_journal_is_elsewhere(journal);
    if (elsewhere && !undo_elsewhere(&undo, journal, error))
        return FALSE;
    if (!elsewhere && journal != NULL && journal->nonce != NULL &&
        (!note_io_pause(&undo, journal, error) || !undo_run(&undo, journal, error)))
        return FALSE;
    for (guint i = 0; journal != NULL && journal->stale != NULL && journal->stale[i] != NULL; i++)
        if (!elsewhere || journal->stale[i][0] != '/')
            remove_stale(&undo, journal->stale[i]);
    return finish(&undo, journal, stale, error);
}

/* ---- a domain that is gone ---- */

static gboolean
is_reachable(const Undo *undo, const VmbJournal *journal, const char *uri)
{
    if (vmb_journal_is_elsewhere(journal))
        kept(undo,
             "the journal of a backup that died on the host %s is kept: run `vmbackup doctor "
             "--repair` there",
             journal->host != NULL ? journal->host : "?");
    else if (journal->uri != NULL && strcmp(journal->uri, uri) != 0)
        kept(undo,
             "the journal of a backup that died is kept: its domain was at %s; run `vmbackup -c "
             "%s doctor --repair`",
             journal->uri, journal->uri);
    else
        return TRUE;
    return FALSE;
}

/* FALSE: only libvirt has lost it. */
static gboolean
undo_gone(Undo *undo, const VmbJournal *journal)
{
    const char *scratch_dir = vmb_scratch_of_journal(journal);
    wait_for_guard(undo->name, journal);
    if (scratch_dir != NULL && vmb_stray_domain_is_lost(NULL, scratch_dir)) {
        kept(undo,
             "libvirt does not know it, but a QEMU has the scratch images in %s open still, and "
             "the guest may be frozen; once libvirt has found it again (vmbackup-recovery(7), \"A "
             "job that libvirt has lost\"), `vmbackup doctor --repair` goes on",
             scratch_dir);
        return FALSE;
    }
    remove_directory(undo, journal->scratch_dir);
    remove_directory(undo, journal->run_dir);
    removed(undo,
            "what a backup that died (process %" G_GINT64_FORMAT ") had left was removed; the "
            "domain itself is gone",
            journal->pid);
    return TRUE;
}

static gboolean
gone_aside(Undo *undo, const char *uri, GError **error)
{
    int fd = vmb_repo_domain_fd(undo->repo_domain);
    g_autoptr(GPtrArray) journals = vmb_journal_list_aside(fd, error);
    for (guint i = 0; journals != NULL && i < journals->len; i++) {
        const VmbJournal *journal = g_ptr_array_index(journals, i);
        if (!is_reachable(undo, journal, uri) || !undo_gone(undo, journal))
            continue;
        remove_stale_paths(undo, journal);
        if (!vmb_journal_clear_aside(fd, journal, error))
            return FALSE;
    }
    return journals != NULL;
}

gboolean
vmb_reconcile_gone(VmbRepoDomain *repo_domain, const char *uri, const char *name,
                   GPtrArray *reasons, GError **error)
{
    g_autoptr(VmbJournal) journal = NULL;
    g_autoptr(GPtrArray) failed = g_ptr_array_new_with_free_func(g_free);
    g_auto(GStrv) stale = NULL;
    Undo undo = {repo_domain, NULL, name, NULL, reasons, failed, FALSE};
    if (!gone_aside(&undo, uri, error) ||
        !vmb_journal_read(vmb_repo_domain_fd(repo_domain), &journal, error))
        return FALSE;
    if (journal != NULL && !is_reachable(&undo, journal, uri))
        return TRUE;
    if (journal != NULL && journal->nonce != NULL && !undo_gone(&undo, journal))
        return TRUE;
    /* Checkpoints went with the domain. */
    if (journal != NULL)
        remove_stale_paths(&undo, journal);
    return (journal == NULL && failed->len == 0) || finish(&undo, NULL, &stale, error);
}

/* ---- old checkpoints ---- */

/* Names that libvirt knows (value 1), and those that only images know (value 2). */
static GHashTable *
existing_checkpoints(VmbDomain *domain, GPtrArray *reasons)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) unread = NULL;
    GHashTable *existing = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    g_autoptr(GPtrArray) records = vmb_checkpoint_list(domain, &error);
    g_autoptr(GPtrArray) stored =
        records != NULL ? vmb_checkpoint_stored_bitmaps(domain, &unread, &error) : NULL;
    if (stored == NULL)
        vmb_reason_add(reasons, VMB_REASON_CHECKPOINT_NOT_DELETED, NULL, "%s: %s",
                       vmb_domain_name(domain), error->message);
    for (guint i = 0; stored != NULL && i < stored->len; i++)
        g_hash_table_insert(existing, g_strdup(stored->pdata[i]), GINT_TO_POINTER(2));
    for (guint i = 0; records != NULL && i < records->len; i++)
        g_hash_table_insert(existing, g_strdup(records->pdata[i]), GINT_TO_POINTER(1));
    return existing;
}

static gboolean
delete_old(VmbDomain *domain, const char *name, gboolean recorded, GPtrArray *reasons,
           GPtrArray *failed)
{
    g_autoptr(GError) error = NULL;
    if (recorded ? vmb_checkpoint_delete(domain, name, &error)
                 : vmb_checkpoint_purge(domain, name, NULL, &error))
        return TRUE;
    not_deleted(vmb_domain_name(domain), name, error, reasons, failed);
    return FALSE;
}

guint
vmb_reconcile_retire(VmbDomain *domain, GPtrArray *points, const char *const *live_ids,
                     GPtrArray *reasons, GPtrArray *failed)
{
    guint deleted = 0;
    g_autoptr(GHashTable) existing = existing_checkpoints(domain, reasons);
    GHashTableIter iter;
    gpointer name, kind;
    g_hash_table_iter_init(&iter, existing);
    while (g_hash_table_iter_next(&iter, &name, &kind))
        if (vmb_leftovers_role(name, points, NULL, live_ids, "") == VMB_CHECKPOINT_OLD)
            deleted += delete_old(domain, name, GPOINTER_TO_INT(kind) == 1, reasons, failed);
    return deleted;
}
