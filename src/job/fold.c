/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What becomes of dropped points: their data is folded into the points that build on it, then they are removed. */
#include "job/fold.h"
#include "job/fold-private.h"
#include "job/fold-orphan.h"
#include "repo/directory.h"
#include "repo/layout.h"
#include "util/error.h"
#include "util/fault.h"
#include "util/fsio.h"
#include "util/log.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

void
vmb_folded_free(VmbFolded *folded)
{
    if (folded == NULL)
        return;
    g_free(folded->domain);
    g_free(folded->point);
    g_free(folded->disk);
    g_free(folded->child);
    g_free(folded->mode);
    g_free(folded->deferred);
    g_clear_error(&folded->error);
    g_free(folded);
}

/* ---- one disk ---- */

static void
run_clear(VmbFoldRun *run)
{
    vmb_fd_clear(&run->points_fd);
    vmb_fd_clear(&run->parent_dir);
    vmb_fd_clear(&run->child_dir);
    vmb_fd_clear(&run->parent_image);
    vmb_fd_clear(&run->parent_digests);
    vmb_fd_clear(&run->child_image);
    vmb_fd_clear(&run->child_digests);
    g_clear_pointer(&run->locks, g_ptr_array_unref);
    g_clear_pointer(&run->record, vmb_fold_record_free);
    g_clear_pointer(&run->damage, g_array_unref);
    g_clear_pointer(&run->progress, vmb_progress_free);
    g_free(run->label);
}
typedef VmbFoldRun FoldRun;
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(FoldRun, run_clear)

/* Would the instant of the fold be possible now? Else all the copying would be for nothing. */
static gboolean
is_free(const VmbPoint *point, GError **error)
{
    g_autofree char *name = g_strdup_printf("%s/%s", point->manifest->domain, point->id);
    g_auto(VmbFd) dir = vmb_point_open_dir(point, error);
    g_autoptr(VmbLock) lock =
        dir >= 0 ? vmb_lock_take(dir, VMB_LAYOUT_LOCK, TRUE, 0, name, NULL, error) : NULL;
    return lock != NULL;
}

static gboolean
lock_shared(VmbFoldRun *run, const VmbPoint *point, int dir, GError **error)
{
    g_autofree char *name = g_strdup_printf("%s/%s", point->manifest->domain, point->id);
    VmbLock *lock = vmb_lock_take(dir, VMB_LAYOUT_LOCK, FALSE, 0, name, run->cancel, error);
    if (lock != NULL)
        g_ptr_array_add(run->locks, lock);
    return lock != NULL;
}

static int
open_sized(const VmbPoint *point, const char *name, guint64 size, GError **error)
{
    struct stat st;
    g_auto(VmbFd) fd = vmb_point_open_file(point, name, error);
    if (fd < 0)
        return -1;
    if (fstat(fd, &st) < 0 || (guint64)st.st_size != size) {
        vmb_error_set(error, VMB_ERROR_DAMAGE, "%s/%s: %s has not the size that its manifest says",
                      point->manifest->domain, point->id, name);
        return -1;
    }
    return vmb_fd_steal(&fd);
}

static gboolean
open_files(VmbFoldRun *run, GError **error)
{
    const VmbManifestDisk *parent = run->parent_disk, *child = run->child_disk;
    run->parent_dir = vmb_point_open_dir(run->parent, error);
    run->child_dir = run->parent_dir >= 0 ? vmb_point_open_dir(run->child, error) : -1;
    if (run->child_dir < 0 || !lock_shared(run, run->parent, run->parent_dir, error) ||
        !lock_shared(run, run->child, run->child_dir, error))
        return FALSE;
    int look = open_sized(run->parent, parent->image, parent->image_size, error);
    if (look < 0)
        return FALSE;
    close(look);
    run->parent_image = vmb_fs_open_beneath(run->parent_dir, parent->image, O_RDWR | O_NONBLOCK, 0,
                                            run->label, error);
    if (run->parent_image < 0)
        return FALSE;
    run->parent_digests = open_sized(run->parent, parent->digests, parent->digests_size, error);
    if (run->parent_digests < 0)
        return FALSE;
    run->child_image = open_sized(run->child, child->image, child->image_size, error);
    if (run->child_image < 0)
        return FALSE;
    run->child_digests = open_sized(run->child, child->digests, child->digests_size, error);
    return run->child_digests >= 0;
}

static guint64
bytes_of(const VmbManifestDisk *disk)
{
    return disk->image_size + disk->digests_size;
}

/* FALSE without @error: deferred. */
static gboolean
fold_disk(VmbFoldRun *run, GError **error)
{
    g_autoptr(GError) busy = NULL;
    gboolean in_use = FALSE;
    if (!is_free(run->parent, &busy) || !is_free(run->child, &busy)) {
        if (!g_error_matches(busy, VMB_ERROR, VMB_ERROR_LOCKED))
            g_propagate_error(error, g_steal_pointer(&busy));
        else
            run->report->deferred = g_strdup(busy->message);
        return FALSE;
    }
    run->progress = vmb_progress_new(run->label);
    vmb_progress_phase(run->progress, "folding");
    guint64 before = bytes_of(run->parent_disk) + bytes_of(run->child_disk);
    if (!open_files(run, error))
        return FALSE;
    if (vmb_fold_write(run, error) && vmb_fold_commit(run, &in_use, error)) {
        guint64 after = bytes_of(run->record->entry);
        run->report->freed = before > after ? before - after : 0;
        return TRUE;
    }
    return FALSE;
}

/* ---- a domain ---- */

typedef struct {
    VmbRepoDomain *domain;
    const VmbFoldDomainOptions *options;
    GPtrArray *points;
    GHashTable *live;     /* names of checkpoints that libvirt may have */
    GHashTable *given_up; /* "POINT DISK-ID", "POINT": not to be tried again in this run */
} Work;

static void
tell(const Work *work, VmbFolded *report)
{
    if (work->options->done != NULL)
        work->options->done(report, work->options->data);
}

static VmbFolded *
report_new(const VmbPoint *point, const VmbManifestDisk *disk, const VmbPoint *child)
{
    VmbFolded *report = g_new0(VmbFolded, 1);
    report->domain = g_strdup(point->manifest != NULL ? point->manifest->domain : point->uuid);
    report->point = g_strdup(point->id);
    report->disk = disk != NULL ? g_strdup(disk->target) : NULL;
    report->child = child != NULL ? g_strdup(child->id) : NULL;
    return report;
}

/* The point whose disk builds on @point's; *@n: how many do. More than one is not what backups make. */
static VmbPoint *
find_child(GPtrArray *points, const VmbPoint *point, const char *id, const VmbManifestDisk **disk,
           guint *n)
{
    VmbPoint *child = NULL;
    *n = 0;
    for (guint i = 0; i < points->len; i++) {
        VmbPoint *other = points->pdata[i];
        const VmbManifestDisk *entry =
            other->manifest != NULL ? vmb_manifest_find_disk(other->manifest, id) : NULL;
        if (entry == NULL || g_strcmp0(entry->parent, point->id) != 0)
            continue;
        child = other;
        *disk = entry;
        ++*n;
    }
    return child;
}

static gboolean
is_given_up(const Work *work, const VmbPoint *point, const char *disk_id)
{
    g_autofree char *key = g_strjoin(" ", point->id, disk_id, NULL);
    return g_hash_table_contains(work->given_up, key);
}

static void
give_up(const Work *work, const VmbPoint *point, const char *disk_id)
{
    g_hash_table_add(work->given_up, g_strjoin(" ", point->id, disk_id, NULL));
}

/* FALSE if it was cancelled: that is told by the caller, not as this disk's failure. */
static gboolean
fold_one(Work *work, VmbPoint *point, const VmbManifestDisk *disk, VmbPoint *child,
         const VmbManifestDisk *child_disk)
{
    g_autoptr(VmbFolded) report = report_new(point, disk, child);
    g_auto(FoldRun) run = {.domain = work->domain,
                           .cancel = work->options->cancel,
                           .points = work->points,
                           .parent = point,
                           .child = child,
                           .parent_disk = disk,
                           .child_disk = child_disk,
                           .points_fd = -1,
                           .parent_dir = -1,
                           .child_dir = -1,
                           .parent_image = -1,
                           .parent_digests = -1,
                           .child_image = -1,
                           .child_digests = -1,
                           .report = report};
    run.label = g_strdup_printf("%s/%s disk %s", child->manifest->domain, child->id,
                                child_disk->target);
    run.locks = g_ptr_array_new_with_free_func((GDestroyNotify)vmb_lock_free);
    run.damage = g_array_new(FALSE, FALSE, sizeof(guint64));
    gboolean folded = fold_disk(&run, &report->error);
    if (!folded)
        give_up(work, point, disk->id);
    if (g_error_matches(report->error, VMB_ERROR, VMB_ERROR_CANCELLED))
        return FALSE;
    tell(work, report);
    return TRUE;
}

/* Of what is still there: other files may have gone into a child. */
static guint64
bytes_there(const VmbPoint *point)
{
    guint64 bytes = 0;
    struct stat st;
    g_auto(VmbFd) dir = vmb_point_open_dir(point, NULL);
    g_autoptr(GPtrArray) names = dir >= 0 ? vmb_directory_list(dir, NULL) : NULL;
    for (guint i = 0; names != NULL && i < names->len; i++)
        if (fstatat(dir, names->pdata[i], &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode))
            bytes += (guint64)st.st_size;
    return bytes;
}

/* Nothing builds on it any more. */
static void
remove_one(Work *work, VmbPoint *point)
{
    g_autoptr(VmbFolded) report = report_new(point, NULL, NULL);
    guint64 bytes = bytes_there(point);
    if (!vmb_fold_note_orphans(work->domain, work->live, work->points, point,
                               &report->checkpoints, &report->error) ||
        !vmb_point_remove(work->domain, point, work->points, &report->error)) {
        give_up(work, point, NULL);
        if (g_error_matches(report->error, VMB_ERROR, VMB_ERROR_LOCKED)) {
            report->deferred = g_strdup(report->error->message);
            g_clear_error(&report->error);
        }
    } else {
        report->freed = bytes;
        g_ptr_array_remove(work->points, point);
    }
    tell(work, report);
}

/* Also of a point whose manifest cannot be read: others tell. */
static gboolean
is_needed(const GPtrArray *points, const VmbPoint *point)
{
    for (guint i = 0; i < points->len; i++) {
        const VmbManifest *other = ((const VmbPoint *)points->pdata[i])->manifest;
        for (guint d = 0; other != NULL && d < other->disks->len; d++)
            if (g_strcmp0(((VmbManifestDisk *)other->disks->pdata[d])->parent, point->id) == 0)
                return TRUE;
    }
    return FALSE;
}

static void
defer(Work *work, const VmbPoint *point, const VmbManifestDisk *disk, const char *why)
{
    g_autoptr(VmbFolded) report = report_new(point, disk, NULL);
    report->deferred = g_strdup(why);
    give_up(work, point, disk != NULL ? disk->id : NULL);
    tell(work, report);
}

/* Folds one disk of @point, if one is left to be tried. FALSE if it was cancelled. */
static gboolean
fold_some(Work *work, VmbPoint *point, gboolean *any)
{
    for (guint d = 0; point->manifest != NULL && d < point->manifest->disks->len; d++) {
        const VmbManifestDisk *disk = point->manifest->disks->pdata[d], *child_disk = NULL;
        guint n = 0;
        VmbPoint *child = find_child(work->points, point, disk->id, &child_disk, &n);
        if (child == NULL || is_given_up(work, point, disk->id))
            continue;
        *any = TRUE;
        if (n == 1)
            return fold_one(work, point, disk, child, child_disk);
        defer(work, point, disk, "several points build on it");
        return TRUE;
    }
    return TRUE;
}

/* What nothing builds on goes first, so that nothing is folded into what is going itself: from the newest on, for
 * what a point builds on is older. */
static void
remove_unneeded(Work *work)
{
    for (guint i = work->points->len; i-- > 0;) {
        VmbPoint *point = work->points->pdata[i];
        if (g_cancellable_is_cancelled(work->options->cancel))
            return;
        if (point->retired && !is_given_up(work, point, NULL) && !is_needed(work->points, point))
            remove_one(work, point);
    }
}

/* Then the oldest point is folded. *@any: something was tried. */
static gboolean
step(Work *work, gboolean *any)
{
    *any = FALSE;
    remove_unneeded(work);
    for (guint i = 0; i < work->points->len && !*any; i++) {
        VmbPoint *point = work->points->pdata[i];
        if (g_cancellable_is_cancelled(work->options->cancel))
            *any = TRUE; /* told by the caller */
        else if (point->retired && !fold_some(work, point, any))
            return FALSE;
    }
    return TRUE;
}

/* A point whose manifest cannot be read, and that may be repaired some day, with what it builds on. */
static const VmbPoint *
find_unreadable(const GPtrArray *points)
{
    for (guint i = 0; i < points->len; i++) {
        const VmbPoint *point = points->pdata[i];
        if (point->manifest == NULL && (!point->retired || is_needed(points, point)))
            return point;
    }
    return NULL;
}

static void
defer_all(Work *work, const VmbPoint *unreadable)
{
    g_autofree char *why = g_strdup_printf(
        "the manifest of %s/%s cannot be read, so that nobody knows what it builds on: no data is "
        "folded until it is repaired, or dropped with `vmbackup forget` together with what builds on it",
        unreadable->uuid, unreadable->id);
    for (guint i = 0; i < work->points->len; i++)
        if (((VmbPoint *)work->points->pdata[i])->retired)
            defer(work, work->points->pdata[i], NULL, why);
}

/* ---- what a dead run has left ---- */

static gboolean
recover(VmbRepoDomain *domain, const VmbFoldRecord *record, GError **error)
{
    VmbFoldPlace place = VMB_FOLD_NOT_SWITCHED;
    if (!vmb_fold_record_place(domain, record, &place, error))
        return FALSE;
    return place == VMB_FOLD_NOT_SWITCHED ? vmb_fold_roll_back(domain, record, error)
                                          : vmb_fold_roll_forward(domain, record, error);
}

static gboolean
read_record(VmbRepoDomain *domain, VmbFoldRecord **record, GError **error)
{
    g_autoptr(GError) local = NULL;
    if (vmb_fold_record_read(domain, record, &local))
        return TRUE;
    if (g_error_matches(local, VMB_ERROR, VMB_ERROR_DAMAGE))
        vmb_error_set(error, VMB_ERROR_DAMAGE,
                      "%s. Nothing of this domain is folded any more; where `vmbackup verify %s` "
                      "finds no damage, the file %s/" VMB_LAYOUT_FOLD " says nothing that is needed "
                      "and can be deleted",
                      local->message, vmb_repo_domain_uuid(domain), vmb_repo_domain_uuid(domain));
    else
        g_propagate_error(error, g_steal_pointer(&local));
    return FALSE;
}

/* Or this one, when a fold has failed: whether to go back or on is seen from the files in both cases. As long as
 * there is a record no other fold may begin. FALSE without @error: deferred. */
static gboolean
tidy_up(VmbRepoDomain *domain, const VmbFoldDomainOptions *options, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autoptr(VmbFoldRecord) record = NULL;
    if (!vmb_trash_remove(domain, error) || !read_record(domain, &record, error))
        return FALSE;
    if (record == NULL || recover(domain, record, &local))
        return TRUE;
    if (!g_error_matches(local, VMB_ERROR, VMB_ERROR_LOCKED)) {
        g_propagate_prefixed_error(error, g_steal_pointer(&local),
                                   "the fold of %s into %s was interrupted and cannot be finished: ",
                                   record->parent, record->child);
        return FALSE;
    }
    VmbFolded report = {.domain = (char *)vmb_repo_domain_uuid(domain),
                        .point = record->parent,
                        .child = record->child,
                        .deferred = local->message};
    if (options->done != NULL)
        options->done(&report, options->data);
    return FALSE;
}

gboolean
vmb_fold_has_leftover(VmbRepoDomain *domain)
{
    int fd = vmb_repo_domain_fd(domain);
    if (faccessat(fd, VMB_LAYOUT_FOLD, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        return TRUE;
    g_autoptr(GPtrArray) names = vmb_directory_list(fd, NULL);
    for (guint i = 0; names != NULL && i < names->len; i++)
        if (vmb_layout_is_trash(names->pdata[i]))
            return TRUE;
    return FALSE;
}

gboolean
vmb_fold_tidy(VmbRepoDomain *domain, const VmbFoldDomainOptions *options, GError **error)
{
    g_autoptr(GError) local = NULL;
    if (tidy_up(domain, options, &local))
        return TRUE;
    gboolean deferred = local == NULL;
    if (!deferred)
        g_propagate_error(error, g_steal_pointer(&local));
    return deferred;
}

gboolean
vmb_fold_domain(VmbRepoDomain *domain, const VmbFoldDomainOptions *options, GError **error)
{
    g_autoptr(GHashTable) given_up = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    g_autoptr(GHashTable) live = NULL;
    gboolean any = TRUE, stopped = FALSE;
    while (any) {
        g_autoptr(GError) local = NULL;
        if (!tidy_up(domain, options, &local)) {
            gboolean deferred = local == NULL;
            if (!deferred)
                g_propagate_error(error, g_steal_pointer(&local));
            return deferred;
        }
        if (stopped || g_cancellable_is_cancelled(options->cancel))
            return vmb_error_set(error, VMB_ERROR_CANCELLED,
                                 "folding was stopped; every point reads as before");
        g_autoptr(GPtrArray) points = vmb_repo_domain_points(domain, error);
        if (points == NULL)
            return FALSE;
        if (live == NULL)
            live = vmb_fold_live_checkpoints(domain, points);
        Work work = {domain, options, points, live, given_up};
        const VmbPoint *unreadable = find_unreadable(points);
        if (unreadable != NULL) {
            defer_all(&work, unreadable);
            return TRUE;
        }
        stopped = !step(&work, &any);
    }
    return TRUE;
}
