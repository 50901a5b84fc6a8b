/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which points of a domain are copied, one after the other, and which are there, or left out. */
#include "job/backup.h"
#include "job/copy-private.h"
#include "repo/catalog.h"
#include "repo/layout.h"
#include "repo/pins.h"
#include "util/error.h"
#include "util/log.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

typedef struct {
    VmbCopy *copy;
    const VmbCopyWanted *wanted;
    VmbRepoDomain *from, *to;
    GPtrArray *points;    /* VmbSummary: where they come from */
    GPtrArray *to_points; /* VmbPoint: what was there at first */
    const char *name;     /* of the domain in its newest point */
    guint64 highest;      /* the largest number that the other repository has had */
    guint left;           /* points that would not have found space */
    gboolean changed;
} Run;

/* ---- what is there ---- */

static gboolean
is_same(const VmbPoint *point, const VmbSummary *summary)
{
    return point->manifest != NULL && strcmp(point->id, summary->id) == 0 &&
           point->manifest->sequence == summary->sequence &&
           point->manifest->time_ns == summary->time_ns;
}

/* The point there that has the name or the number of @summary. */
static VmbPoint *
find_there(const Run *run, const VmbSummary *summary)
{
    for (guint i = 0; i < run->to_points->len; i++) {
        VmbPoint *point = run->to_points->pdata[i];
        if (strcmp(point->id, summary->id) == 0 ||
            (point->manifest != NULL && point->manifest->sequence == summary->sequence))
            return point;
    }
    return NULL;
}

static gboolean
check_file(const VmbPoint *point, const char *name, guint64 size, GError **error)
{
    struct stat st;
    g_auto(VmbFd) fd = vmb_point_open_file(point, name, error);
    if (fd < 0)
        return FALSE;
    if (fstat(fd, &st) < 0)
        return vmb_error_errno(error, errno, "cannot stat %s", name);
    gboolean growing = g_strcmp0(point->growing, name) == 0 && (guint64)st.st_size > size;
    return (guint64)st.st_size == size || growing ||
           vmb_error_set(error, VMB_ERROR_DAMAGE, "%s has not the size that its manifest says",
                         name);
}

/* A look at what costs nothing; verifying is another verb. */
static gboolean
look_at(VmbPoint *point, GError **error)
{
    g_auto(VmbPointState) state = {0};
    const VmbManifest *manifest = point->manifest;
    if (vmb_point_state_read(point, &state, NULL) &&
        (state.metadata_damaged || g_strcmp0(state.verify_result, "damaged") == 0))
        return vmb_error_set(error, VMB_ERROR_DAMAGE, "a verification has found damage in it");
    for (guint i = 0; i < manifest->disks->len; i++) {
        const VmbManifestDisk *disk = manifest->disks->pdata[i];
        if (!check_file(point, disk->image, disk->image_size, error) ||
            !check_file(point, disk->digests, disk->digests_size, error))
            return FALSE;
    }
    for (guint i = 0; i < manifest->files->len; i++) {
        const VmbManifestFile *file = manifest->files->pdata[i];
        if (!check_file(point, file->name, file->size, error))
            return FALSE;
    }
    return TRUE;
}

static gboolean
check_present(const Run *run, VmbPoint *point, const VmbSummary *summary, GError **error)
{
    g_autoptr(GError) local = NULL;
    const char *path = vmb_repository_path(run->copy->to);
    if (point->manifest != NULL && !is_same(point, summary))
        return vmb_error_set(error, VMB_ERROR_FAILED,
                             "%s has another point with its %s (%s, number %" G_GUINT64_FORMAT
                             "): the points of two repositories cannot be mixed. Copy into another "
                             "repository", path, strcmp(point->id, summary->id) == 0 ? "name" : "number",
                             point->id, point->manifest->sequence);
    if (point->retired)
        return run->wanted->ids == NULL ||
               vmb_error_set(error, VMB_ERROR_FAILED,
                             "it has been dropped in %s, and is not yet removed there. Copy it once "
                             "more after `vmbackup -r %s prune`", path, path);
    if (point->manifest == NULL)
        local = g_error_copy(point->damage);
    if (local == NULL && look_at(point, &local))
        return TRUE;
    return vmb_error_set(error, local->code == VMB_ERROR_DAMAGE ? VMB_ERROR_DAMAGE : VMB_ERROR_FAILED,
                         "its copy in %s is not sound: %s. To have it copied anew, `vmbackup -r %s "
                         "forget %s/%s` first", path, local->message, path, run->name, point->id);
}

/* ---- whether two repositories go together ---- */

static const VmbPoint *
newest_there(const Run *run)
{
    const VmbPoint *newest = NULL;
    for (guint i = 0; i < run->to_points->len; i++) {
        const VmbPoint *point = run->to_points->pdata[i];
        if (point->manifest != NULL)
            newest = point;
    }
    return newest;
}

/* Did this repository, or the one that @newest is from, make points of the domain here? */
static gboolean
is_of_line(const Run *run, const VmbManifest *newest, gboolean *of_line, GError **error)
{
    *of_line =
        strcmp(newest->repository, vmb_repository_id(run->copy->from)) == 0 ||
        g_strcmp0(newest->repository, vmb_repository_adopted_from(run->copy->from)) == 0;
    if (*of_line)
        return TRUE;
    g_autoptr(GPtrArray) points = vmb_repo_domain_points(run->from, error);
    for (guint i = 0; points != NULL && i < points->len; i++) {
        const VmbManifest *manifest = ((VmbPoint *)points->pdata[i])->manifest;
        *of_line |= manifest != NULL && strcmp(manifest->repository, newest->repository) == 0;
    }
    return points != NULL;
}

/* Two lines of points would be mixed, and nobody could tell what builds on what. */
static gboolean
check_line(const Run *run, GError **error)
{
    const VmbPoint *newest = newest_there(run);
    const char *path = vmb_repository_path(run->copy->to);
    gboolean of_line = FALSE;
    if (newest == NULL)
        return TRUE;
    for (guint i = 0; i < run->points->len; i++)
        if (is_same(newest, run->points->pdata[i]))
            return TRUE;
    if (!newest->foreign)
        return vmb_error_set(error, VMB_ERROR_FAILED,
                             "%s: the repository %s has backups of its own of this domain (%s), and "
                             "copies cannot be mixed with them; nothing was copied. Copy into "
                             "another repository", run->name, path, newest->id);
    if (!is_of_line(run, newest->manifest, &of_line, error))
        return FALSE;
    return of_line || vmb_error_set(error, VMB_ERROR_FAILED,
                                    "%s: what the repository %s has of this domain (%s) was copied "
                                    "from other backups of it, and the two cannot be mixed; "
                                    "nothing was copied. Copy into another repository", run->name,
                                    path, newest->id);
}

/* ---- the points ---- */

static gboolean
choose_id(GPtrArray *points, GPtrArray *wanted, gpointer user, GError **error)
{
    for (guint i = 0; i < points->len; i++) {
        VmbPoint *point = points->pdata[i];
        if (strcmp(point->id, user) == 0 && !point->retired)
            g_ptr_array_add(wanted, point);
    }
    return TRUE;
}

static gboolean
copy_one(Run *run, VmbCopyResult *result, GError **error)
{
    const VmbCopyOptions *options = run->copy->options;
    g_autoptr(GPtrArray) points = NULL;
    VmbPoint *point = NULL;
    g_autoptr(VmbPins) pins =
        vmb_pins_take(run->from, choose_id, result->point, options->cancel, &points, error);
    for (guint i = 0; pins != NULL && i < points->len && point == NULL; i++)
        if (strcmp(((VmbPoint *)points->pdata[i])->id, result->point) == 0)
            point = points->pdata[i];
    if (pins == NULL)
        return FALSE;
    if (point == NULL || point->retired) {
        result->outcome = VMB_COPY_DROPPED;
        return TRUE;
    }
    if (point->manifest == NULL) {
        g_propagate_error(error, g_error_copy(point->damage));
        return FALSE;
    }
    VmbCopyPoint one = {.to = run->to,
                        .from_points = points,
                        .point = point,
                        .name = run->name,
                        .to_path = vmb_repository_path(run->copy->to),
                        .max_chain = options->max_chain > 0 ? options->max_chain : VMB_MAX_CHAIN,
                        .cancel = options->cancel};
    if (!vmb_copy_point(&one, &result->manifest, error))
        return FALSE;
    run->changed = TRUE;
    result->outcome = VMB_COPY_DONE;
    result->bytes = vmb_manifest_stored(result->manifest);
    return TRUE;
}

/* Whatever becomes of it is in @result. */
static void
consider(Run *run, const VmbSummary *summary, VmbCopyResult *result)
{
    VmbPoint *there = find_there(run, summary);
    if (summary->retired) {
        result->outcome = VMB_COPY_DROPPED;
    } else if (summary->damage != NULL) {
        result->error = g_error_copy(summary->damage);
    } else if (there != NULL) {
        if (check_present(run, there, summary, &result->error))
            result->outcome = VMB_COPY_PRESENT;
    } else if (!run->copy->options->older && run->wanted->ids == NULL &&
               summary->sequence <= run->highest) {
        result->outcome = VMB_COPY_OLDER;
    } else {
        (void)copy_one(run, result, &result->error);
    }
}

static gboolean
is_cancelled(const VmbCopyResult *result, GError **error)
{
    if (!g_error_matches(result->error, VMB_ERROR, VMB_ERROR_CANCELLED))
        return FALSE;
    g_propagate_error(error, g_error_copy(result->error));
    return TRUE;
}

/* In the order of their numbers; FALSE only if it was cancelled. */
static gboolean
copy_points(Run *run, GError **error)
{
    VmbCopy *copy = run->copy;
    for (guint i = 0; i < run->points->len; i++) {
        const VmbSummary *summary = run->points->pdata[i];
        gboolean named =
            run->wanted->ids != NULL && g_hash_table_contains(run->wanted->ids, summary->id);
        if (run->wanted->ids != NULL ? !named : summary->retired)
            continue;
        g_autoptr(VmbCopyResult) result =
            vmb_copy_result_new(run->name, run->wanted->uuid, summary->id);
        if (g_atomic_int_get(&copy->no_space) && find_there(run, summary) == NULL) {
            run->left++;
            continue;
        }
        consider(run, summary, result);
        if (is_cancelled(result, error))
            return FALSE;
        if (g_error_matches(result->error, VMB_ERROR, VMB_ERROR_NO_SPACE))
            g_atomic_int_set(&copy->no_space, TRUE);
        vmb_copy_tell(copy, result);
    }
    return TRUE;
}

static gboolean
read_both(Run *run, GError **error)
{
    run->to_points = vmb_repo_domain_points(run->to, error);
    if (run->to_points == NULL)
        return FALSE;
    run->highest = vmb_repo_domain_highest_sequence(run->to);
    const VmbPoint *newest = newest_there(run);
    if (newest == NULL || newest->manifest->sequence <= run->highest)
        return TRUE;
    /* A copy was killed just before it could note that. */
    run->highest = newest->manifest->sequence;
    return vmb_repo_domain_raise_sequence(run->to, run->highest, error);
}

static gboolean
run_domain(Run *run, GError **error)
{
    if (!read_both(run, error) || !check_line(run, error))
        return FALSE;
    gboolean ok = copy_points(run, error);
    if (run->changed) {
        vmb_repo_domain_link_name(run->to, run->name);
        vmb_catalog_refresh(run->to);
    }
    return ok && (run->left == 0 ||
                  vmb_error_set(error, VMB_ERROR_NO_SPACE,
                                "%s: the repository %s is full: %u points were not tried",
                                run->name, vmb_repository_path(run->copy->to), run->left));
}

static const char *
newest_name(GPtrArray *points, const char *uuid)
{
    const char *name = uuid;
    for (guint i = 0; i < points->len; i++)
        if (((VmbSummary *)points->pdata[i])->damage == NULL)
            name = ((VmbSummary *)points->pdata[i])->domain;
    return name;
}

gboolean
vmb_copy_domain(VmbCopy *copy, const VmbCopyWanted *wanted, GError **error)
{
    g_autoptr(VmbRepoDomain) from = vmb_repo_domain_open(copy->from, wanted->uuid, FALSE, error);
    g_autoptr(GPtrArray) points =
        from != NULL ? vmb_repo_domain_summaries(from, VMB_SUMMARIES_CHECKED, error) : NULL;
    if (points == NULL)
        return FALSE;
    if (points->len == 0)
        return TRUE;
    const char *name = newest_name(points, wanted->uuid);
    g_autofree char *what = g_strdup_printf("domain %s in the repository %s", name,
                                            vmb_repository_path(copy->to));
    g_autoptr(VmbRepoDomain) to = vmb_repo_domain_open(copy->to, wanted->uuid, TRUE, error);
    g_autoptr(VmbLock) lock =
        to != NULL ? vmb_lock_take(vmb_repo_domain_fd(to), VMB_LAYOUT_LOCK, TRUE, 0, what,
                                   copy->options->cancel, error)
                   : NULL;
    if (lock == NULL)
        return FALSE;
    Run run = {.copy = copy, .wanted = wanted, .from = from, .to = to, .points = points,
               .name = name};
    gboolean ok = run_domain(&run, error);
    g_clear_pointer(&run.to_points, g_ptr_array_unref);
    return ok;
}
