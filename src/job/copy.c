/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The story of a copy: points of one repository become points of another one. */
#include "job/copy.h"
#include "job/copy-private.h"
#include "repo/catalog.h"
#include "repo/layout.h"
#include "repo/pins.h"
#include "util/error.h"

#include <string.h>

void
vmb_copy_result_free(VmbCopyResult *result)
{
    if (result == NULL)
        return;
    g_free(result->domain);
    g_free(result->uuid);
    g_free(result->point);
    vmb_manifest_free(result->manifest);
    g_clear_error(&result->error);
    g_free(result);
}

typedef struct {
    const VmbCopyOptions *options;
    VmbRepository *from, *to;
    void (*done)(const VmbCopyResult *, gpointer);
    gpointer data;
} Copy;

/* What is wanted of a domain: all points, or some. */
typedef struct {
    char *uuid;
    GHashTable *ids; /* NULL: all */
} Wanted;

static void
wanted_free(gpointer data)
{
    Wanted *wanted = data;
    g_free(wanted->uuid);
    g_clear_pointer(&wanted->ids, g_hash_table_unref);
    g_free(wanted);
}

/* ---- what is wanted ---- */

static Wanted *
wanted_of(GPtrArray *all, const char *uuid, gboolean *made)
{
    *made = FALSE;
    for (guint i = 0; i < all->len; i++)
        if (strcmp(((Wanted *)all->pdata[i])->uuid, uuid) == 0)
            return all->pdata[i];
    Wanted *wanted = g_new0(Wanted, 1);
    wanted->uuid = g_strdup(uuid);
    g_ptr_array_add(all, wanted);
    *made = TRUE;
    return wanted;
}

static gboolean
add_point(const Copy *copy, GPtrArray *all, const char *text, GError **error)
{
    g_autoptr(GPtrArray) points = NULL;
    gboolean made = FALSE;
    VmbPoint *point = vmb_repository_find_point(copy->from, text, &points, error);
    if (point == NULL)
        return FALSE;
    Wanted *wanted = wanted_of(all, point->uuid, &made);
    if (made)
        wanted->ids = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    if (wanted->ids != NULL)
        g_hash_table_add(wanted->ids, g_strdup(point->id));
    return TRUE;
}

static gboolean
add_domain(GPtrArray *all, const char *uuid)
{
    gboolean made = FALSE;
    Wanted *wanted = wanted_of(all, uuid, &made);
    g_clear_pointer(&wanted->ids, g_hash_table_unref);
    return TRUE;
}

static gboolean
collect(const Copy *copy, GPtrArray *all, GError **error)
{
    const char *const *what = copy->options->what;
    for (guint i = 0; what != NULL && what[i] != NULL; i++) {
        if (strchr(what[i], '/') != NULL) {
            if (!add_point(copy, all, what[i], error))
                return FALSE;
            continue;
        }
        g_autofree char *uuid = vmb_repository_find_domain(copy->from, what[i], error);
        if (uuid == NULL || !add_domain(all, uuid))
            return FALSE;
    }
    if (what != NULL && what[0] != NULL)
        return TRUE;
    g_autoptr(GPtrArray) uuids = vmb_repository_domains(copy->from, error);
    for (guint i = 0; uuids != NULL && i < uuids->len; i++)
        add_domain(all, uuids->pdata[i]);
    return uuids != NULL;
}

/* ---- one domain ---- */

static gboolean
is_there(GPtrArray *points, const VmbPoint *point)
{
    for (guint i = 0; i < points->len; i++)
        if (strcmp(((VmbPoint *)points->pdata[i])->id, point->id) == 0)
            return TRUE;
    return FALSE;
}

static guint64
highest_of(VmbRepoDomain *domain, GPtrArray *points)
{
    guint64 highest = vmb_repo_domain_highest_sequence(domain);
    for (guint i = 0; i < points->len; i++) {
        const VmbPoint *point = points->pdata[i];
        if (point->manifest != NULL)
            highest = MAX(highest, point->manifest->sequence);
    }
    return highest;
}

/* Two lines of points would be mixed, and nobody could tell what builds on what. */
static gboolean
check_line(const Copy *copy, GPtrArray *points, const char *name, GError **error)
{
    for (guint i = 0; i < points->len; i++) {
        const VmbPoint *point = points->pdata[i];
        if (point->manifest != NULL && !point->foreign)
            return vmb_error_set(error, VMB_ERROR_FAILED,
                                 "%s: the repository %s has backups of its own of this domain (%s), "
                                 "and copies cannot be mixed with them; nothing was copied. Copy "
                                 "into another repository", name, vmb_repository_path(copy->to),
                                 point->id);
    }
    return TRUE;
}

static gboolean
choose_id(GPtrArray *points, GPtrArray *wanted, gpointer user, GError **error)
{
    for (guint i = 0; i < points->len; i++) {
        VmbPoint *point = points->pdata[i];
        if (strcmp(point->id, user) == 0 && !point->retired && point->manifest != NULL)
            g_ptr_array_add(wanted, point);
    }
    return TRUE;
}

/* *@copied: the points of the other repository have changed. */
static gboolean
copy_one(const Copy *copy, VmbRepoDomain *from, VmbRepoDomain *to, GPtrArray *to_points,
         VmbCopyResult *result, GError **error)
{
    g_autoptr(GPtrArray) points = NULL;
    VmbPoint *point = NULL;
    g_autoptr(VmbPins) pins = vmb_pins_take(from, choose_id, result->point, copy->options->cancel,
                                            &points, error);
    if (pins == NULL)
        return FALSE;
    for (guint i = 0; i < points->len && point == NULL; i++)
        if (strcmp(((VmbPoint *)points->pdata[i])->id, result->point) == 0)
            point = points->pdata[i];
    if (point == NULL || point->retired || point->manifest == NULL)
        return vmb_error_set(error, VMB_ERROR_DOMAIN, "%s/%s has been dropped meanwhile",
                             result->domain, result->point);
    VmbCopyPoint one = {to, points, to_points, point, result->domain, copy->options->cancel};
    if (!vmb_copy_point(&one, &result->manifest, error))
        return FALSE;
    result->outcome = VMB_COPY_DONE;
    result->bytes = vmb_manifest_stored(result->manifest);
    return TRUE;
}

static VmbCopyResult *
result_new(const char *domain, const char *uuid, const char *point)
{
    VmbCopyResult *result = g_new0(VmbCopyResult, 1);
    result->domain = g_strdup(domain);
    result->uuid = g_strdup(uuid);
    result->point = g_strdup(point);
    result->outcome = VMB_COPY_FAILED;
    return result;
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
copy_points(const Copy *copy, const Wanted *wanted, VmbRepoDomain *from, VmbRepoDomain *to,
            GPtrArray *points, const char *name, GError **error)
{
    g_autoptr(GPtrArray) to_points = vmb_repo_domain_points(to, error);
    if (to_points == NULL || !check_line(copy, to_points, name, error))
        return FALSE;
    guint64 highest = highest_of(to, to_points);
    for (guint i = 0; i < points->len; i++) {
        const VmbPoint *point = points->pdata[i];
        if (point->retired || (wanted->ids != NULL && !g_hash_table_contains(wanted->ids, point->id)))
            continue;
        g_autoptr(VmbCopyResult) result = result_new(name, wanted->uuid, point->id);
        if (point->manifest == NULL) {
            result->error = g_error_copy(point->damage);
        } else if (is_there(to_points, point)) {
            result->outcome = VMB_COPY_PRESENT;
        } else if (!copy->options->older && wanted->ids == NULL &&
                   point->manifest->sequence <= highest) {
            result->outcome = VMB_COPY_OLDER;
        } else if (copy_one(copy, from, to, to_points, result, &result->error)) {
            g_ptr_array_unref(to_points);
            to_points = vmb_repo_domain_points(to, error);
            if (to_points == NULL)
                return FALSE;
        }
        if (is_cancelled(result, error))
            return FALSE;
        copy->done(result, copy->data);
    }
    return TRUE;
}

static const char *
newest_name(GPtrArray *points, const char *uuid)
{
    const char *name = uuid;
    for (guint i = 0; i < points->len; i++)
        if (((VmbPoint *)points->pdata[i])->manifest != NULL)
            name = ((VmbPoint *)points->pdata[i])->manifest->domain;
    return name;
}

static gboolean
copy_domain(const Copy *copy, const Wanted *wanted, GError **error)
{
    g_autoptr(VmbRepoDomain) from = vmb_repo_domain_open(copy->from, wanted->uuid, FALSE, error);
    g_autoptr(GPtrArray) points = from != NULL ? vmb_repo_domain_points(from, error) : NULL;
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
    gboolean ok = copy_points(copy, wanted, from, to, points, name, error);
    vmb_catalog_refresh(to);
    return ok;
}

/* ---- the whole ---- */

static gboolean
check_two(const Copy *copy, GError **error)
{
    if (strcmp(vmb_repository_path(copy->from), vmb_repository_path(copy->to)) == 0)
        return vmb_error_set(error, VMB_ERROR_USAGE, "%s cannot be copied into itself",
                             vmb_repository_path(copy->from));
    if (strcmp(vmb_repository_id(copy->from), vmb_repository_id(copy->to)) == 0)
        return vmb_error_set(error, VMB_ERROR_NO_REPOSITORY,
                             "%s and %s are one repository and a copy of it: nothing was copied. If "
                             "the copy is to go on by itself: `vmbackup -r %s init --adopt`",
                             vmb_repository_path(copy->from), vmb_repository_path(copy->to),
                             vmb_repository_path(copy->to));
    return vmb_repository_check_writable(copy->to, error);
}

gboolean
vmb_copy(const VmbCopyOptions *options, void (*done)(const VmbCopyResult *result, gpointer data),
         gpointer data, GError **error)
{
    g_autoptr(VmbRepository) from = vmb_repository_open(options->from, error);
    g_autoptr(VmbRepository) to = from != NULL ? vmb_repository_open(options->to, error) : NULL;
    g_autoptr(GPtrArray) all = g_ptr_array_new_with_free_func(wanted_free);
    Copy copy = {options, from, to, done, data};
    if (to == NULL || !check_two(&copy, error) || !collect(&copy, all, error))
        return FALSE;
    for (guint i = 0; i < all->len; i++) {
        const Wanted *wanted = all->pdata[i];
        g_autoptr(VmbCopyResult) failed = result_new(wanted->uuid, wanted->uuid, NULL);
        if (copy_domain(&copy, wanted, &failed->error))
            continue;
        if (is_cancelled(failed, error))
            return FALSE;
        done(failed, data);
    }
    return TRUE;
}
