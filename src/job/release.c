/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The story of a release: a domain loses every trace of a repository. */
#include "job/release.h"
#include "job/hold.h"
#include "job/reconcile.h"
#include "job/scratch.h"
#include "repo/consumer.h"
#include "repo/journal.h"
#include "repo/transaction.h"
#include "util/error.h"
#include "util/text.h"
#include "virt/backup-job.h"
#include "virt/backup-xml.h"
#include "virt/checkpoint.h"

#include <string.h>

#define ID_DIGITS 8

static void
checkpoint_free(gpointer data)
{
    VmbReleasedCheckpoint *checkpoint = data;
    g_free(checkpoint->name);
    g_clear_error(&checkpoint->error);
    g_free(checkpoint);
}

void
vmb_release_free(VmbRelease *release)
{
    if (release == NULL)
        return;
    g_free(release->domain);
    g_free(release->uuid);
    g_free(release->repository_id);
    g_ptr_array_unref(release->checkpoints);
    g_ptr_array_unref(release->consumers);
    g_ptr_array_unref(release->reasons);
    g_clear_pointer(&release->unread, g_ptr_array_unref);
    g_free(release);
}

typedef struct {
    const VmbReleaseOptions *options;
    VmbRelease *release;
    VmbRepository *repository; /* NULL: it is gone */
    VmbConnection *connection;
    VmbDomain *domain;          /* NULL: libvirt does not know it */
    VmbRepoDomain *repo_domain; /* NULL: no repository, or it does not hold the domain */
    GPtrArray *points;
} Releasing;

static void
releasing_clear(Releasing *work)
{
    g_clear_pointer(&work->points, g_ptr_array_unref);
    g_clear_pointer(&work->domain, vmb_domain_unref);
    g_clear_pointer(&work->connection, vmb_connection_unref);
    g_clear_pointer(&work->repository, vmb_repository_free);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Releasing, releasing_clear)

/* ---- whose and of what ---- */

static gboolean
find_repository(Releasing *work, GError **error)
{
    const VmbReleaseOptions *options = work->options;
    const char *id = options->repository_id;
    guint8 bytes[16];
    if (options->repository != NULL) {
        work->repository = vmb_repository_open(options->repository, error);
        if (work->repository == NULL ||
            (!options->dry_run && !vmb_repository_check_writable(work->repository, error)))
            return FALSE;
        id = vmb_repository_id(work->repository);
    } else if (!vmb_text_unhex(id, bytes, 4) && !vmb_text_unhex(id, bytes, 16)) {
        return vmb_error_set(error, VMB_ERROR_USAGE,
                             "'%s' is no id of a repository: it has 8 or 32 hexadecimal digits",
                             id);
    }
    g_autofree char *digits = g_strndup(id, ID_DIGITS);
    work->release->repository_id = g_ascii_strdown(digits, -1);
    return TRUE;
}

static gboolean
find_domain(Releasing *work, GError **error)
{
    g_autoptr(GError) local = NULL;
    const char *name = work->options->domain;
    work->connection = vmb_connection_open(work->options->uri, error);
    if (work->connection == NULL)
        return FALSE;
    work->domain = vmb_domain_lookup(work->connection, name, &local);
    if (work->domain != NULL) {
        work->release->domain = g_strdup(vmb_domain_name(work->domain));
        work->release->uuid = g_strdup(vmb_domain_uuid(work->domain));
        return TRUE;
    }
    if (work->repository != NULL && g_error_matches(local, VMB_ERROR, VMB_ERROR_DOMAIN))
        work->release->uuid = vmb_repository_find_domain(work->repository, name, NULL);
    work->release->domain = g_strdup(name);
    work->release->gone = work->release->uuid != NULL;
    if (!work->release->gone)
        g_propagate_error(error, g_steal_pointer(&local));
    return work->release->gone;
}

/* ---- names ---- */

typedef struct {
    gboolean recorded, stored;
} Presence;

static gboolean
is_ours(const Releasing *work, const char *name)
{
    return vmb_checkpoint_is_ours(name, work->release->repository_id);
}

static Presence *
note(GHashTable *names, const char *name)
{
    Presence *presence = g_hash_table_lookup(names, name);
    if (presence == NULL) {
        presence = g_new0(Presence, 1);
        g_hash_table_insert(names, g_strdup(name), presence);
    }
    return presence;
}

/* What libvirt's records and the images show. */
static gboolean
find_visible(Releasing *work, GHashTable *names, GError **error)
{
    g_autoptr(GPtrArray) recorded = vmb_checkpoint_list(work->domain, error);
    g_clear_pointer(&work->release->unread, g_ptr_array_unref);
    g_autoptr(GPtrArray) stored =
        recorded != NULL
            ? vmb_checkpoint_stored_bitmaps(work->domain, &work->release->unread, error)
            : NULL;
    if (stored == NULL)
        return FALSE;
    for (guint i = 0; i < recorded->len; i++)
        if (is_ours(work, recorded->pdata[i]))
            note(names, recorded->pdata[i])->recorded = TRUE;
    for (guint i = 0; i < stored->len; i++)
        if (is_ours(work, stored->pdata[i]))
            note(names, stored->pdata[i])->stored = TRUE;
    return TRUE;
}

/* QEMU may hold bitmaps that neither shows, of a domain whose records were lost; the points know
 * their names. */
static void
add_points(const Releasing *work, GHashTable *names)
{
    for (guint i = 0; work->points != NULL && i < work->points->len; i++) {
        const VmbPoint *point = g_ptr_array_index(work->points, i);
        for (guint d = 0; point->manifest != NULL && d < point->manifest->disks->len; d++) {
            const char *name = ((VmbManifestDisk *)point->manifest->disks->pdata[d])->checkpoint;
            if (name != NULL && is_ours(work, name))
                note(names, name);
        }
    }
}

/* ---- what dead runs have left ---- */

static gboolean
is_of_ours(GHashTable *names, const char *directory)
{
    GHashTableIter iter;
    gpointer name;
    g_hash_table_iter_init(&iter, names);
    while (g_hash_table_iter_next(&iter, &name, NULL))
        if (vmb_scratch_is_of_run(directory, strrchr(name, '-') + 1))
            return TRUE;
    return FALSE;
}

/* Without the journal: a job is ours if its socket is in a directory that a run names by the random
 * digits of its checkpoint. */
static gboolean
end_own_job(Releasing *work, GHashTable *names, GError **error)
{
    gboolean active = FALSE, ended = FALSE;
    g_autofree char *socket = NULL;
    if (!vmb_backup_xml_active(work->domain, &active, &socket, error))
        return FALSE;
    g_autofree char *run_dir = socket != NULL ? g_path_get_dirname(socket) : NULL;
    if (!active || run_dir == NULL || !is_of_ours(names, run_dir))
        return TRUE;
    g_autofree char *scratch = vmb_backup_xml_scratch(work->domain);
    g_autofree char *scratch_dir = scratch != NULL ? g_path_get_dirname(scratch) : NULL;
    if (!vmb_backup_job_end_by_socket(work->domain, socket, &ended, error))
        return FALSE;
    vmb_reason_add(work->release->reasons, VMB_REASON_LEFTOVERS_REMOVED, NULL,
                   "%s: the job of a backup that died was ended", work->release->domain);
    return vmb_scratch_remove_leftover(run_dir, error) &&
           (scratch_dir == NULL || !is_of_ours(names, scratch_dir) ||
            vmb_scratch_remove_leftover(scratch_dir, error));
}

static gboolean
undo_dead_runs(Releasing *work, GError **error)
{
    g_auto(GStrv) stale = NULL;
    GPtrArray *reasons = work->release->reasons;
    if (work->repo_domain == NULL)
        return TRUE;
    work->points = vmb_repo_domain_points(work->repo_domain, error);
    if (work->points == NULL || work->options->dry_run)
        return work->points != NULL;
    gboolean undone =
        work->domain != NULL
            ? vmb_reconcile(work->repo_domain, work->domain, work->points, reasons, &stale, error)
            : vmb_reconcile_gone(work->repo_domain, vmb_connection_uri(work->connection),
                                 work->release->domain, reasons, error);
    return undone && vmb_transaction_remove_leftover(work->repo_domain, error);
}

/* ---- deleting ---- */

static void
delete_one(Releasing *work, const char *name, const Presence *presence)
{
    gboolean found = presence->recorded || presence->stored;
    g_autoptr(GError) error = NULL;
    if (!work->options->dry_run && vmb_checkpoint_purge(work->domain, name, &found, &error))
        found |= presence->recorded || presence->stored;
    if (!found && error == NULL)
        return;
    VmbReleasedCheckpoint *checkpoint = g_new0(VmbReleasedCheckpoint, 1);
    checkpoint->name = g_strdup(name);
    checkpoint->recorded = presence->recorded;
    checkpoint->stored = presence->stored;
    checkpoint->error = g_steal_pointer(&error);
    g_ptr_array_add(work->release->checkpoints, checkpoint);
}

static int
compare_names(gconstpointer a, gconstpointer b)
{
    return strcmp((*(VmbReleasedCheckpoint *const *)a)->name,
                  (*(VmbReleasedCheckpoint *const *)b)->name);
}

/* Bitmaps of images below the active one, which QEMU holds open, are not within libvirt's reach. */
static gboolean
look_again(Releasing *work, GError **error)
{
    g_autoptr(GHashTable) left = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    if (!find_visible(work, left, error))
        return FALSE;
    for (guint i = 0; i < work->release->checkpoints->len; i++) {
        VmbReleasedCheckpoint *checkpoint = g_ptr_array_index(work->release->checkpoints, i);
        if (checkpoint->error == NULL && g_hash_table_contains(left, checkpoint->name))
            vmb_error_set(&checkpoint->error, VMB_ERROR_FAILED,
                          "domain '%s': an image still holds a bitmap of %s; release the domain "
                          "again while it is shut off",
                          work->release->domain, checkpoint->name);
    }
    return TRUE;
}

static gboolean
delete_all(Releasing *work, GError **error)
{
    g_autoptr(GHashTable) names = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    GHashTableIter iter;
    gpointer name, presence;
    if (!find_visible(work, names, error))
        return FALSE;
    add_points(work, names);
    if (!work->options->dry_run && !end_own_job(work, names, error))
        return FALSE;
    g_hash_table_iter_init(&iter, names);
    while (g_hash_table_iter_next(&iter, &name, &presence)) {
        if (g_cancellable_is_cancelled(work->options->cancel))
            return vmb_error_set(error, VMB_ERROR_CANCELLED,
                                 "%s: the release was cancelled; run it again for the rest",
                                 work->release->domain);
        delete_one(work, name, presence);
    }
    g_ptr_array_sort(work->release->checkpoints, compare_names);
    return work->options->dry_run || look_again(work, error);
}

/* The journal names from now on what could not be deleted, and directories as before. */
static gboolean
rewrite_journal(const Releasing *work, GError **error)
{
    g_autoptr(VmbJournal) journal = NULL;
    g_autoptr(GPtrArray) left = g_ptr_array_new_with_free_func(g_free);
    if (work->repo_domain == NULL || work->domain == NULL || work->options->dry_run)
        return TRUE;
    int fd = vmb_repo_domain_fd(work->repo_domain);
    if (!vmb_journal_read(fd, &journal, error))
        return FALSE;
    for (guint i = 0; journal != NULL && journal->stale != NULL && journal->stale[i] != NULL; i++)
        if (journal->stale[i][0] == '/')
            g_ptr_array_add(left, g_strdup(journal->stale[i]));
    for (guint i = 0; i < work->release->checkpoints->len; i++) {
        const VmbReleasedCheckpoint *checkpoint = work->release->checkpoints->pdata[i];
        if (checkpoint->error != NULL)
            g_ptr_array_add(left, g_strdup(checkpoint->name));
    }
    gboolean any = left->len > 0;
    g_ptr_array_add(left, NULL);
    if (!any && (journal == NULL || journal->nonce == NULL))
        return vmb_journal_clear(fd, error);
    VmbJournal rest = {0};
    if (journal != NULL)
        rest = *journal;
    rest.stale = (char **)left->pdata;
    return vmb_journal_write(fd, &rest, error);
}

/* ---- consumers ---- */

static gboolean
check_consumer(const char *domain, const GPtrArray *known, const char *name, GError **error)
{
    if (g_ptr_array_find_with_equal_func((GPtrArray *)known, name, g_str_equal, NULL))
        return TRUE;
    g_autoptr(GString) list = g_string_new(NULL);
    for (guint i = 0; i < known->len; i++)
        g_string_append_printf(list, "%s%s",
                               i > 0 ? ", " : "; there are: ", (const char *)known->pdata[i]);
    return vmb_error_set(error, VMB_ERROR_DOMAIN, "%s: no consumer '%s' is known%s", domain, name,
                         list->str);
}

/* A record that cannot be read does not tell its checkpoint; doctor then does. One of an adopted copy names the
 * original's. NULL if there is nothing to be deleted; free with g_free(). */
static char *
its_checkpoint(Releasing *work, const char *name)
{
    g_autoptr(VmbConsumer) consumer = NULL;
    g_autoptr(GError) error = NULL;
    if (!vmb_consumer_read(vmb_repo_domain_fd(work->repo_domain), name, &consumer, &error))
        vmb_reason_add(work->release->reasons, VMB_REASON_LEFTOVERS_KEPT, NULL,
                       "%s: which checkpoint the consumer '%s' had is not known: %s",
                       work->release->domain, name, error->message);
    return consumer != NULL && work->domain != NULL && is_ours(work, consumer->checkpoint)
               ? g_strdup(consumer->checkpoint)
               : NULL;
}

static gboolean
delete_its_checkpoint(Releasing *work, const char *name, gboolean *gone, GError **error)
{
    Presence presence = {FALSE, FALSE};
    GPtrArray *checkpoints = work->release->checkpoints;
    guint before = checkpoints->len;
    g_autofree char *checkpoint = its_checkpoint(work, name);
    *gone = TRUE;
    if (checkpoint == NULL)
        return TRUE;
    if (!vmb_checkpoint_exists(work->domain, checkpoint, &presence.recorded, error))
        return FALSE;
    delete_one(work, checkpoint, &presence);
    if (checkpoints->len == before)
        return TRUE;
    if (!work->options->dry_run && !look_again(work, error))
        return FALSE;
    *gone = ((VmbReleasedCheckpoint *)checkpoints->pdata[before])->error == NULL;
    return TRUE;
}

/* One alone: its record goes last, as nothing else knows of its checkpoint. */
static gboolean
forget_consumer(Releasing *work, const char *name, gboolean alone, GError **error)
{
    gboolean gone = TRUE;
    if (alone && !delete_its_checkpoint(work, name, &gone, error))
        return FALSE;
    if (gone && !work->options->dry_run &&
        !vmb_consumer_remove(vmb_repo_domain_fd(work->repo_domain), name, error))
        return FALSE;
    if (gone)
        g_ptr_array_add(work->release->consumers, g_strdup(name));
    return TRUE;
}

/* Those that were asked for, or all. Each of them takes everything the next time. */
static gboolean
forget_consumers(Releasing *work, GError **error)
{
    const GPtrArray *wanted = work->options->consumers;
    gboolean some = wanted != NULL && wanted->len > 0;
    g_autoptr(GPtrArray) known =
        work->repo_domain != NULL ? vmb_consumer_names(vmb_repo_domain_fd(work->repo_domain), error)
                                  : g_ptr_array_new();
    for (guint i = 0; some && known != NULL && i < wanted->len; i++)
        if (!check_consumer(work->release->domain, known, wanted->pdata[i], error))
            return FALSE;
    for (guint i = 0; known != NULL && i < (some ? wanted : known)->len; i++)
        if (!forget_consumer(work, (some ? wanted : known)->pdata[i], some, error))
            return FALSE;
    return known != NULL;
}

static gboolean
run(Releasing *work, GError **error)
{
    if (!undo_dead_runs(work, error) || !forget_consumers(work, error))
        return FALSE;
    if (work->domain == NULL ||
        (work->options->consumers != NULL && work->options->consumers->len > 0))
        return TRUE;
    return delete_all(work, error) && rewrite_journal(work, error);
}

VmbRelease *
vmb_release_domain(const VmbReleaseOptions *options, GError **error)
{
    g_autoptr(VmbRelease) release = g_new0(VmbRelease, 1);
    release->checkpoints = g_ptr_array_new_with_free_func(checkpoint_free);
    release->consumers = g_ptr_array_new_with_free_func(g_free);
    release->reasons = g_ptr_array_new_with_free_func((GDestroyNotify)vmb_reason_free);
    g_auto(Releasing) work = {.options = options, .release = release};
    g_auto(VmbHold) hold = {0};
    g_autoptr(VmbRepoDomain) looked_at = NULL;
    if (!find_repository(&work, error) || !find_domain(&work, error))
        return NULL;
    if (options->dry_run && work.repository != NULL)
        looked_at = vmb_repo_domain_open(work.repository, release->uuid, FALSE, NULL);
    else if (!options->dry_run && !vmb_hold_take(&hold, work.repository, release->uuid,
                                                 release->domain, options->cancel, error))
        return NULL;
    work.repo_domain = options->dry_run ? looked_at : hold.repo_domain;
    return run(&work, error) ? g_steal_pointer(&release) : NULL;
}
